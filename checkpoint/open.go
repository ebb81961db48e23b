package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
	"github.com/chainrule-go/chainrule/checkpoint/llama2c"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// Open reads the model at path, and the tokenizer and chat template that are
// with it. What path is it finds out by the content, not by the name:
//
//   - a Hugging Face model directory, of the models that LoadDir reads, with
//     its tokenizer.json or tokenizer.model;
//   - a training run of SaveState, of which the newest whole state is read, or
//     one of its states, with a tokenizer in the directory of the state or of
//     the run (its average.safetensors, if there is one, is a file to open);
//   - a lone safetensors file, with a config.json beside it;
//   - a GGUF file;
//   - a llama2.c file, version 0 or 1, with its tokenizer.bin beside it.
//
// A model of 256 tokens without a tokenizer of its own is one of bytes: its
// Tokenizer is tokenizer.Byte. Another one without has none, which is no error.
//
// A path that is something else is ErrNotModel, with a hint. All that is read
// is checked before the memory of the model is allocated, and reading needs
// less than 64 MiB beside that and the tokenizer.
func Open(path string, o OpenOptions) (*Bundle, error) {
	b, err := openPath(path, o)
	if err == nil && o.CheckFinite {
		b.noteNonFinite()
	}
	return b, err
}

// noteNonFinite notes the tensors that have a NaN or an Inf.
func (b *Bundle) noteNonFinite() {
	for t := range b.Model.Tensors() {
		bad, first := 0, -1
		for i, v := range t.Data {
			if v-v != 0 {
				if bad++; first < 0 {
					first = i
				}
			}
		}
		if bad > 0 {
			b.Notes = append(b.Notes, fmt.Sprintf("%s: element %d is %v; of %d elements, %d are not finite",
				t.Name, first, t.Data[first], len(t.Data), bad))
		}
	}
}

func openPath(path string, o OpenOptions) (*Bundle, error) {
	info, err := stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && remote.MatchString(path):
		return nil, fmt.Errorf("%w (nothing is downloaded: fetch the model first, and say where it is)", err)
	case err != nil:
		return nil, err
	case info.IsDir():
		return openDir(path, o)
	}
	return openFile(path, o)
}

// remote are addresses, and the names of repositories of models.
var remote = regexp.MustCompile(`^[a-z]+://|^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$`)

// openDir reads a model directory or a training run.
func openDir(dir string, o OpenOptions) (*Bundle, error) {
	there := func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	}
	switch {
	case there(trainerFile):
		return openState(dir, o)
	case there(configFile):
		b := &Bundle{Format: FormatDir, Path: dir}
		if err := b.readDir(o); err != nil {
			return nil, err
		}
		return b, nil
	}
	if runs, err := states(dir); err != nil {
		return nil, err
	} else if len(runs) > 0 {
		b, _, bad, err := newest(dir, func(path string) (*Bundle, error) { return openState(path, o) })
		if err != nil {
			return nil, err
		}
		for _, err := range bad {
			b.Notes = append(b.Notes, fmt.Sprintf("passed over a damaged state: %v", err))
		}
		return b, nil
	}
	hint := ""
	gguf, _ := filepath.Glob(filepath.Join(dir, "*.gguf"))
	snapshots, _ := filepath.Glob(filepath.Join(dir, "snapshots", "*", configFile))
	switch {
	case len(gguf) > 0:
		hint = "; there is " + gguf[0] + ": name the file"
	case len(snapshots) > 0:
		hint = "; it is a cache, the model is " + filepath.Dir(snapshots[0])
	case there("adapter_config.json"):
		hint = "; it has an adapter: merge it into the model that it is for"
	case there("params.json"):
		hint = "; it has a model in the format of its maker's program: convert it to Hugging Face's"
	default:
		if w := otherWeights(dir); w != "" {
			hint = ";" + strings.TrimSuffix(strings.TrimPrefix(w, " ("), ")")
		}
	}
	return nil, fmt.Errorf("%s: %w: it is neither a model directory, with a %s, nor a run with a checkpoint%s",
		dir, ErrNotModel, configFile, hint)
}

// openState reads the model of a training state, of which only that is
// checked and read.
func openState(dir string, o OpenOptions) (*Bundle, error) {
	vouches, err := open(filepath.Join(dir, trainerFile))
	if err != nil {
		return nil, err
	}
	b := &Bundle{Format: FormatRun, Path: dir}
	err = b.readState(o)
	if errors.Is(vouches.close(nil), ErrChanged) {
		return nil, fmt.Errorf("%s: %w: another state took its place", dir, ErrChanged)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Bundle) readState(o OpenOptions) error {
	t, err := readTrainer(b.Path)
	if err != nil {
		return err
	}
	s, err := openVerified(b.Path, configFile, t)
	if err != nil {
		return err
	}
	config, err := s.readAll()
	if err := s.close(err); err != nil {
		return err
	}
	verified := func() (*weights, error) {
		s, err := openVerified(b.Path, weightsFile, t)
		if err != nil {
			return nil, err
		}
		return weightsOf(s)
	}
	return b.read(o, config, verified, b.Path, filepath.Dir(filepath.Clean(b.Path)))
}

// openFile reads a model that is one file.
func openFile(path string, o OpenOptions) (*Bundle, error) {
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	format, err := formatOf(s)
	if err := s.close(err); err != nil {
		return nil, err
	}
	switch format {
	case FormatGGUF:
		return openGGUF(path, o)
	case FormatSafetensors:
		return openSafetensors(path, o)
	}
	return openLlama2c(path, o)
}

// formatOf finds out what a file is. What is none of the formats, or a bad one
// of that which its name says, is an error.
func formatOf(s *source) (Format, error) {
	head := make([]byte, min(s.info.Size(), 64))
	if err := rawfile.ReadFull(s, head, 0); err != nil {
		return "", err
	}
	is := rawfile.Foreign(head)
	switch {
	case is == "a GGUF file":
		return FormatGGUF, nil
	case is == "a safetensors file":
		return FormatSafetensors, nil
	}
	// A llama2.c file may begin with anything, such as dim 640, which is how a
	// pickle begins; that its size fits the rest does not happen by chance.
	_, err := llama2c.Read(s, s.info.Size())
	if err == nil || errors.Is(err, llama2c.ErrVersion) {
		return FormatLlama2c, err
	}
	text := bytes.TrimLeft(head, " \t\r\n")
	switch {
	case is != "":
	case bytes.HasPrefix(text, []byte("{")):
		is = "JSON (name the directory that the model is in)"
	case bytes.HasPrefix(head, []byte("\n\x0e\n\x05<unk>")):
		is = "a sentencepiece tokenizer (name the directory that the model is in)"
	}
	switch ext := strings.ToLower(filepath.Ext(s.path)); {
	case is != "":
		return "", fmt.Errorf("%w: this is %s", ErrNotModel, is)
	case ext == ".gguf":
		return FormatGGUF, nil
	case ext == ".safetensors":
		_, bad := safetensors.Read(s, s.info.Size())
		return FormatSafetensors, bad
	case ext == ".bin":
		return FormatLlama2c, err
	case len(head) == 0:
		return "", fmt.Errorf("%w: it is empty", ErrNotModel)
	}
	return "", fmt.Errorf("%w: it begins as no GGUF, safetensors or llama2.c file does", ErrNotModel)
}

// openSafetensors reads a model from its weights and the config.json beside.
func openSafetensors(path string, o OpenOptions) (*Bundle, error) {
	dir := filepath.Dir(path)
	config, err := readSmall(filepath.Join(dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (weights alone do not say what model they are of)", err)
	} else if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, indexFile)); err == nil && filepath.Base(path) != weightsFile {
		return nil, fmt.Errorf("%s: %w: it is one of several shards: name the directory", path, ErrNotModel)
	}
	b := &Bundle{Format: FormatSafetensors, Path: path}
	if err := b.read(o, config, func() (*weights, error) { return openWeightsFile(path) }, dir); err != nil {
		return nil, err
	}
	return b, nil
}

const llama2cTokenizer = "tokenizer.bin"

// openLlama2c reads a llama2.c file and the tokenizer.bin beside it.
func openLlama2c(path string, o OpenOptions) (*Bundle, error) {
	m, err := loadLlama2c(path, o.Progress)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Model: m, Format: FormatLlama2c, Path: path}
	if o.NoTokenizer {
		return b, nil
	}
	s, err := open(filepath.Join(filepath.Dir(path), llama2cTokenizer))
	if errors.Is(err, fs.ErrNotExist) {
		b.Tokenizer = bytesOf(m.VocabSize)
		return b, nil
	} else if err != nil {
		return nil, err
	}
	t, err := tokenizer.ReadLlama2C(s, s.info.Size(), m.VocabSize)
	if err := s.close(err); err != nil {
		return nil, err
	}
	b.Tokenizer = t
	// The file does not name them, llama2.c itself has them as numbers: what it
	// was trained on ends in what begins a text.
	bos, eos := SpecialToken{t.Token(1), 1}, SpecialToken{t.Token(2), 2}
	b.Special = SpecialTokens{BOS: bos, EOS: eos}
	b.Generation = Generation{BOS: []int32{bos.ID}, EOS: []int32{bos.ID, eos.ID}}
	return b, nil
}

// bytesOf returns the tokenizer of a model of so many tokens that has no other.
func bytesOf(vocabSize int) tokenizer.Model {
	if t := (tokenizer.Byte{}); vocabSize == t.VocabSize() {
		return t
	}
	return nil
}
