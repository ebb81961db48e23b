package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// Open reads the model at path, and the tokenizer and chat template that are
// with it. What path is it finds out by the content, not by the name:
//
//   - a Hugging Face model directory: see LoadDir;
//   - a training run of SaveState, of which the newest whole state is read, or
//     one of its states;
//   - a lone model.safetensors, with a config.json beside it;
//   - a GGUF file;
//   - a llama2.c file, version 0 or 1, with its tokenizer.bin beside it.
//
// A model of 256 tokens without a tokenizer of its own is one of bytes: its
// Tokenizer is tokenizer.Byte. Another one without has none, which is no error.
//
// A path that is something else is ErrNotModel, with a hint. All that is read
// is checked before the memory of the model is allocated, and reading needs
// less than 64 MiB beside it and the tokenizer.
func Open(path string, o OpenOptions) (*Bundle, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openDir(path, o)
	}
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, min(s.info.Size(), 32))
	_, err = s.ReadAt(head, 0)
	if err := s.close(err); err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(head), "GGUF"):
		return openGGUF(path, o)
	default:
		return openLlama2c(path, o)
	}
}

// openDir reads a model directory or a training run.
func openDir(dir string, o OpenOptions) (*Bundle, error) {
	b := &Bundle{Format: FormatDir, Path: dir}
	_, err := os.Lstat(filepath.Join(dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		state, at, err := LoadState(dir)
		if err != nil {
			return nil, fmt.Errorf("%s is neither a model directory, with a %s, nor a run with a checkpoint: %w", dir, configFile, err)
		}
		b.Model, b.Path, b.Format = state.Model, at, FormatRun
	} else if b.Model, err = LoadDir(dir); err != nil {
		return nil, err
	}
	return b, b.readTokenizer(o, b.Path)
}

// openLlama2c reads a llama2.c file and the tokenizer.bin beside it.
func openLlama2c(path string, o OpenOptions) (*Bundle, error) {
	m, err := LoadLlama2c(path)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Model: m, Format: FormatLlama2c, Path: path}
	if o.NoTokenizer {
		return b, nil
	}
	s, err := open(filepath.Join(filepath.Dir(path), "tokenizer.bin"))
	if errors.Is(err, fs.ErrNotExist) {
		b.bytesIfNothingElse()
		return b, nil
	} else if err != nil {
		return nil, err
	}
	t, err := tokenizer.ReadLlama2C(s, s.info.Size(), m.VocabSize)
	if err := s.close(err); err != nil {
		return nil, err
	}
	b.Tokenizer = t
	b.Special = SpecialTokens{BOS: SpecialToken{"<s>", 1}, EOS: SpecialToken{"</s>", 2}}
	b.Generation = Generation{BOS: []int32{1}, EOS: []int32{1, 2}}
	return b, nil
}

// bytesIfNothingElse gives the tokenizer of bytes to a model of as many tokens.
func (b *Bundle) bytesIfNothingElse() {
	if b.Tokenizer == nil && b.Model.VocabSize == (tokenizer.Byte{}).VocabSize() {
		b.Tokenizer = tokenizer.Byte{}
	}
}

const tokenizerFile = "tokenizer.json"

// readTokenizer reads what dir has beside the weights.
func (b *Bundle) readTokenizer(o OpenOptions, dir string) error {
	if o.NoTokenizer {
		return nil
	}
	s, err := open(filepath.Join(dir, tokenizerFile))
	if errors.Is(err, fs.ErrNotExist) {
		b.bytesIfNothingElse()
		return nil
	} else if err != nil {
		return err
	}
	t, err := tokenizer.ReadJSON(s, s.info.Size())
	if err := s.close(err); err != nil {
		return err
	}
	b.Tokenizer = t
	return nil
}
