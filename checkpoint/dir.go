package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

const (
	configFile  = "config.json"
	weightsFile = "model.safetensors"
)

// LoadDir reads a Hugging Face model directory: config.json, of
// LlamaForCausalLM, Qwen2ForCausalLM (which sets QKVBias) or Qwen3ForCausalLM
// (QKNorm), and model.safetensors, of F32, BF16 or F16 tensors. It needs the
// memory of the model and less than a megabyte beside it.
//
// A configuration that asks for anything the library does not compute is an
// error, ErrConfig, that names it; tensors that are missing, not expected or
// of another shape are one error, ErrTensors, that lists them all. Weights
// that are NaN or Inf load.
func LoadDir(dir string) (*chainrule.Model, error) {
	if err := wantDir(dir); err != nil {
		return nil, err
	}
	b, err := readSmall(filepath.Join(dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		if c, _ := states(dir); len(c) > 0 {
			return nil, fmt.Errorf("%w (the model is in %s)", err, filepath.Join(dir, c[0].name))
		}
	}
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, configFile), explain(b, err))
	}
	w, err := open(filepath.Join(dir, weightsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w%s", err, otherWeights(dir))
	}
	if err != nil {
		return nil, err
	}
	m, err := readModel(w, c)
	if err := w.close(err); err != nil {
		return nil, err
	}
	return m, nil
}

func wantDir(dir string) error {
	info, err := stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: %w: it is a file or device, want a directory", dir, ErrNotModel)
	}
	return nil
}

// otherWeights says which weights are in dir that cannot be read.
func otherWeights(dir string) string {
	for _, o := range []struct{ name, hint string }{
		{weightsFile + ".index.json", "sharded weights are not supported yet; merge the shards into one file"},
		{"pytorch_model.bin", "a Python pickle is not read; convert it to safetensors"},
		{"pytorch_model.bin.index.json", "Python pickles are not read; convert them to safetensors"},
	} {
		if _, err := os.Lstat(filepath.Join(dir, o.name)); err == nil {
			return fmt.Sprintf(" (%s is there: %s)", o.name, o.hint)
		}
	}
	return ""
}

// readModel reads the weights of a model of shape c into its memory.
func readModel(w *source, c chainrule.Config) (*chainrule.Model, error) {
	f, err := safetensors.Read(w, w.info.Size())
	if err != nil {
		return nil, err
	}
	if err := checkTensors(f, w, c, ""); err != nil {
		return nil, err
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		return nil, err
	}
	if err := readTensors(f, "", c, m.Params); err != nil {
		return nil, err
	}
	m.Touch()
	return m, nil
}

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
	} else if err := replaceFile(config, writeBytes(marshalConfig(m.Config))); err != nil {
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
