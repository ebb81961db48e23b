package checkpoint

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

// SaveDir writes a Hugging Face model directory that LoadDir reads and that
// transformers loads with from_pretrained: config.json and model.safetensors,
// in float32. The directory is created if it is not there; other files in it,
// a tokenizer for one, stay.
//
// If the directory has weights already, they are replaced at once when the new
// ones are whole. A config.json that is there stays as it is. It must describe
// the same model: two files cannot be replaced at once, and so SaveDir would
// have to leave neither model for an instant. Another model is an error.
//
// It panics if b or its Model is nil.
func SaveDir(dir string, b *Bundle, o SaveOptions) error {
	if b == nil || b.Model == nil {
		panic("checkpoint: SaveDir: no Model")
	}
	m := b.Model
	if err := makeDir(dir); err != nil {
		return err
	}
	config, weights := filepath.Join(dir, configFile), filepath.Join(dir, weightsFile)
	_, noConfig := os.Lstat(config)
	_, noWeights := os.Lstat(weights)
	if noConfig == nil || noWeights == nil {
		if err := wantSameModel(config, m.Config); err != nil {
			return err
		}
	} else if err := replaceFile(config, writeBytes(marshalConfig(m.Config, b.Generation, "float32"))); err != nil {
		return err
	}
	return replaceFile(weights, writeWeights(m))
}

func wantSameModel(config string, want chainrule.Config) error {
	b, err := readSmall(config)
	if err != nil {
		return fmt.Errorf("the directory has a model, but which: %w", err)
	}
	c, err := parseConfig(b)
	if err == nil && c != want {
		err = fmt.Errorf("%+v is not %+v", c, want)
	}
	if err != nil {
		return fmt.Errorf("%s: the directory has another model, choose a new one: %w", config, err)
	}
	return nil
}

func writeBytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// metadata is what transformers wants in a file of its own.
var metadata = map[string]string{"format": "pt"}

func writeWeights(m *chainrule.Model) func(io.Writer) error {
	return func(w io.Writer) error {
		return safetensors.Write(w, metadata, entries(nil, "", m.Config, m.Params))
	}
}
