package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/chainrule-go/chainrule"
)

const (
	configFile  = "config.json"
	weightsFile = "model.safetensors"
)

// LoadDir reads the model of a Hugging Face model directory: config.json, of
//
//   - LlamaForCausalLM: Llama 1 to 3.2, SmolLM, SmolLM2;
//   - MistralForCausalLM, up to the length of its sliding window;
//   - SmolLM3ForCausalLM, if all of its layers have RoPE;
//   - Qwen2ForCausalLM: Qwen2, Qwen2.5; it sets QKVBias;
//   - Qwen3ForCausalLM; it sets QKNorm;
//
// and model.safetensors, or the shards that model.safetensors.index.json
// lists, of F32, BF16 or F16 tensors. It needs the memory of the model and less
// than a megabyte beside it. Open reads the tokenizer too, and tells of what
// LoadDir does in silence: a Mistral's context is cut to its window.
//
// A configuration that asks for anything the library does not compute is an
// error, ErrConfig, that names it; tensors that are missing, not expected or
// of another shape are one error, ErrTensors, that lists them all, and so are
// those that are not where the index says, ErrIndex. Weights that are NaN or
// Inf load.
func LoadDir(dir string) (*chainrule.Model, error) {
	if err := wantDir(dir); err != nil {
		return nil, err
	}
	b := &Bundle{Path: dir}
	if err := b.readDir(OpenOptions{NoTokenizer: true}); err != nil {
		return nil, err
	}
	return b.Model, nil
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

// readDir reads the model directory b.Path.
func (b *Bundle) readDir(o OpenOptions) error {
	config, err := readSmall(filepath.Join(b.Path, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		if c, _ := states(b.Path); len(c) > 0 {
			return fmt.Errorf("%w (the model is in %s)", err, filepath.Join(b.Path, c[0].name))
		}
	}
	if err != nil {
		return err
	}
	return b.read(o, config, func() (*weights, error) { return openWeights(b.Path) }, b.Path)
}

// read reads a model that has the config.json config, and whose tokenizer is
// in the first of dirs that has one. Small things come first, so that their
// mistakes show before gigabytes are read.
func (b *Bundle) read(o OpenOptions, config []byte, open func() (*weights, error), dirs ...string) error {
	d, err := describe(config)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dirs[0], configFile), explain(config, err))
	}
	b.Notes = append(b.Notes, d.notes...)
	b.source.keep(configFile, config)
	if err := b.readGeneration(dirs[0], d); err != nil {
		return err
	}
	if !o.NoTokenizer {
		if err := b.readTokenizer(dirs, d); err != nil {
			return err
		}
	}
	w, err := open()
	if err != nil {
		return err
	}
	b.Model, err = w.readModel(d.Config, o.Progress)
	if err := w.close(err); err != nil {
		b.Model = nil
		return err
	}
	b.source.remember(b)
	return nil
}

// readGeneration reads the generation_config.json in dir.
func (b *Bundle) readGeneration(dir string, d described) error {
	b.Generation = d.generation
	path := filepath.Join(dir, generationFile)
	content, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if b.Generation, err = parseGeneration(content); err != nil {
			return fmt.Errorf("%s: %w", path, explain(content, err))
		}
		b.source.keep(generationFile, content)
	}
	b.Notes = append(b.Notes, b.Generation.within(d.VocabSize)...)
	return nil
}
