package checkpoint

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/llama2c"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// ofBytes is a shape of 256 tokens that llama2.c can hold.
func ofBytes() chainrule.Config {
	return with(tiny(), func(c *chainrule.Config) { c.VocabSize = 256 })
}

func mustOpen(t testing.TB, path string) *Bundle {
	t.Helper()
	b, err := Open(path, OpenOptions{})
	require.NoError(t, err)
	return b
}

// Whatever its name is, a model is what its content says.
func TestOpenFindsOutWhatAPathIs(t *testing.T) {
	m := newModel(t, ofBytes(), 1)
	root := t.TempDir()
	hf, run, v0, v1 := filepath.Join(root, "hf"), filepath.Join(root, "run"), filepath.Join(root, "v0.gguf"), filepath.Join(root, "v1")
	require.NoError(t, SaveDir(hf, &Bundle{Model: m}, SaveOptions{}))
	s := newState(t, ofBytes(), 4)
	s.Model = m
	state := save(t, run, s)
	require.NoError(t, SaveLlama2c(v0, m, 0))
	require.NoError(t, SaveLlama2c(v1, m, 1))
	renamed := filepath.Join(root, "named", "weights.bin")
	write(t, renamed, read(t, filepath.Join(hf, weightsFile)))
	write(t, filepath.Join(root, "named", configFile), read(t, filepath.Join(hf, configFile)))
	link := filepath.Join(root, "link")
	require.NoError(t, os.Symlink(hf, link))

	for _, tc := range []struct {
		path   string
		format Format
		at     string // "": path
	}{
		{hf, FormatDir, ""}, {hf + "/", FormatDir, ""}, {link, FormatDir, ""}, {run, FormatRun, state}, {state, FormatRun, ""},
		{v0, FormatLlama2c, ""}, {v1, FormatLlama2c, ""}, {filepath.Join(hf, weightsFile), FormatSafetensors, ""},
		{renamed, FormatSafetensors, ""},
	} {
		b, err := Open(tc.path, OpenOptions{})
		require.NoError(t, err, tc.path)
		require.Equal(t, tc.format, b.Format)
		require.Equal(t, tc.path, map[bool]string{true: tc.path, false: b.Path}[tc.at != ""])
		if tc.at != "" {
			require.Equal(t, tc.at, b.Path)
		}
		requireSameModel(t, m, b.Model)
		require.Equal(t, tokenizer.Byte{}, b.Tokenizer)
		require.Empty(t, b.Notes)
		require.Empty(t, b.StopTokens())

		b, err = Open(tc.path, OpenOptions{NoTokenizer: true})
		require.NoError(t, err)
		require.Nil(t, b.Tokenizer)
	}
}

// Sizes at which the first bytes of a llama2.c file are those of a pickle.
func TestALlama2cFileThatBeginsAsAPickleOpens(t *testing.T) {
	for _, dim := range []int{640, 896} {
		c := with(tiny(), func(c *chainrule.Config) { c.Dim, c.NHeads, c.HeadDim, c.NLayers = dim, 2, dim/2, 1 })
		path := filepath.Join(t.TempDir(), "model.bin")
		m := newModel(t, c, 1)
		require.NoError(t, SaveLlama2c(path, m, 0))
		b := mustOpen(t, path)
		requireSameModel(t, m, b.Model)
		require.Nil(t, b.Tokenizer)
		require.Contains(t, read(t, path)[:2], "\x80")
	}
}

func TestOpenRefusesWhatIsNoModel(t *testing.T) {
	m := newModel(t, tiny(), 1)
	good := t.TempDir()
	require.NoError(t, SaveDir(good, &Bundle{Model: m}, SaveOptions{}))
	config, weights := read(t, filepath.Join(good, configFile)), read(t, filepath.Join(good, weightsFile))
	v0 := filepath.Join(t.TempDir(), "model.bin")
	require.NoError(t, SaveLlama2c(v0, m, 0))
	old := read(t, v0)
	for _, tc := range []struct {
		name  string // of the path
		files map[string]string
		is    error
		want  []string
	}{
		{"a.pt", map[string]string{"a.pt": "PK\x03\x04abc"}, ErrNotModel, []string{"zip", "convert it to safetensors"}},
		{"pytorch_model.bin", map[string]string{"pytorch_model.bin": "\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u."}, ErrNotModel, []string{"pickle"}},
		{"a.gguf", map[string]string{"a.gguf": "<!DOCTYPE html><title>404"}, ErrNotModel, []string{"HTML"}},
		{"a.safetensors", map[string]string{"a.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", configFile: config}, ErrNotModel, []string{"Git LFS", "git lfs pull"}},
		{"a.bin", map[string]string{"a.bin": "\x1f\x8b\x08abc"}, ErrNotModel, []string{"gzip"}},
		{"a.bin", map[string]string{"a.bin": "lmgg" + old}, ErrNotModel, []string{"old GGML", "GGUF"}},
		{"a.bin", map[string]string{"a.bin": "fmgg\x01\x00\x00\x00" + old}, ErrNotModel, []string{"old GGML"}},
		{"a.bin", map[string]string{"a.bin": "tjgg\x03\x00\x00\x00" + old}, ErrNotModel, []string{"old GGML"}},
		{"a.bin", map[string]string{"a.bin": "algg\x01\x00\x00\x00" + old}, ErrNotModel, []string{"adapter"}},
		{"a.bin", map[string]string{"a.bin": strings.Repeat("\x00", 4096)}, ErrNotModel, []string{"all zeros"}},
		{"config.json", map[string]string{"config.json": config}, ErrNotModel, []string{"JSON", "name the directory"}},
		{"tokenizer.model", map[string]string{"tokenizer.model": "\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"}, ErrNotModel, []string{"sentencepiece", "name the directory"}},
		{"notes", map[string]string{"notes": "not a model"}, ErrNotModel, []string{"no GGUF, safetensors or llama2.c"}},
		{"empty", map[string]string{"empty": ""}, ErrNotModel, []string{"empty"}},
		{"a.bin", map[string]string{"a.bin": old[:len(old)-1]}, llama2c.ErrSize, []string{fmt.Sprint(len(old) - 1), fmt.Sprint(len(old))}},
		{"a.bin", map[string]string{"a.bin": "24ka\x02\x00\x00\x00" + old}, llama2c.ErrVersion, []string{"int8"}},
		{"a.safetensors", map[string]string{"a.safetensors": weights[:6]}, safetensors.ErrTruncated, nil},
		{"a.safetensors", map[string]string{"a.safetensors": "\xff\xff\xff\xff\xff\xff\xff\xff{}"}, safetensors.ErrHeaderTooLarge, nil},
		{"a.safetensors", map[string]string{"a.safetensors": weights}, fs.ErrNotExist, []string{configFile, "weights alone do not say"}},
		{"a.safetensors", map[string]string{"a.safetensors": weights[:len(weights)-1], configFile: config}, safetensors.ErrTruncated, []string{"a.safetensors"}},
		{"optimizer.safetensors", map[string]string{"optimizer.safetensors": string(rawSafetensors(t)), configFile: config}, ErrTensors, []string{"2 layers"}},
		{"model-00001-of-00002.safetensors", map[string]string{"model-00001-of-00002.safetensors": weights, configFile: config, indexFile: "{}"},
			ErrNotModel, []string{"one of several shards: name the directory"}},

		{".", nil, ErrNotModel, []string{"neither a model directory, with a config.json, nor a run with a checkpoint"}},
		{".", map[string]string{"a.gguf": "GGUF"}, ErrNotModel, []string{"a.gguf: name the file"}},
		{".", map[string]string{"snapshots/abc/config.json": config}, ErrNotModel, []string{"it is a cache", filepath.Join("snapshots", "abc")}},
		{".", map[string]string{"adapter_config.json": "{}", "adapter_model.safetensors": ""}, ErrNotModel, []string{"adapter", "merge"}},
		{".", map[string]string{"params.json": "{}", "consolidated.00.pth": "PK"}, ErrNotModel, []string{"convert it to Hugging Face's"}},
		{".", map[string]string{"pytorch_model.bin": "PK"}, ErrNotModel, []string{"pickle is not read; convert it to safetensors"}},
		{".", map[string]string{configFile: config}, fs.ErrNotExist, []string{weightsFile}},
		{".", map[string]string{configFile: config, "adapter_model.safetensors": ""}, fs.ErrNotExist, []string{"adapter"}},
		{".", map[string]string{configFile: config, "consolidated.safetensors": ""}, fs.ErrNotExist, []string{"Mistral's own"}},
		{".", map[string]string{"checkpoint-1/" + trainerFile: "{}"}, ErrChecksum, []string{"checkpoint-1"}},
		{".", map[string]string{configFile: config, weightsFile: weights, generationFile: "{"}, ErrConfig, []string{generationFile}},
		{".", map[string]string{configFile: config, weightsFile: weights, generationFile: "<html>"}, ErrNotModel, []string{generationFile, "HTML"}},
		{"absent", nil, fs.ErrNotExist, []string{"absent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tc.files {
				write(t, filepath.Join(dir, name), content)
			}
			b, err := Open(filepath.Join(dir, tc.name), OpenOptions{})
			require.Nil(t, b)
			require.ErrorIs(t, err, tc.is)
			for _, w := range append(tc.want, dir) {
				require.ErrorContains(t, err, w)
			}
		})
	}
	for _, path := range []string{"Qwen/Qwen3-0.6B", "https://huggingface.co/Qwen/Qwen3-0.6B", "hf://x"} {
		_, err := Open(path, OpenOptions{})
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "nothing is downloaded")
	}
}

func TestWeightsThatAreNotFiniteAreNotedWhereWanted(t *testing.T) {
	m, err := chainrule.NewModel(tiny())
	require.NoError(t, err)
	l := m.Layers[1]
	l.W2[3], l.W2[5], l.Wq[0] = float32(math.Inf(-1)), float32(math.NaN()), float32(math.NaN())
	m.Layers[0].Wq[0] = math.MaxFloat32
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
	require.Empty(t, mustOpen(t, dir).Notes)
	b, err := Open(dir, OpenOptions{CheckFinite: true})
	require.NoError(t, err)
	require.Equal(t, []string{
		"layers.1.wq: element 0 is NaN; of 144 elements, 1 are not finite",
		"layers.1.w2: element 3 is -Inf; of 120 elements, 2 are not finite",
	}, b.Notes)
}

// rawSafetensors is a file of one tensor of no model.
func rawSafetensors(t *testing.T) []byte {
	var b bytes.Buffer
	require.NoError(t, safetensors.Write(&b, nil, []safetensors.Entry{safetensors.Float32("a", []int{1}, []float32{1})}))
	return b.Bytes()
}

func TestOpenReadsTheNewestWholeStateOfARun(t *testing.T) {
	dir := t.TempDir()
	older := newState(t, ofBytes(), 1)
	first := save(t, dir, older)
	kept := filepath.Join(t.TempDir(), "kept")
	copyTree(t, first, kept)
	newer := newState(t, ofBytes(), 2)
	second := save(t, dir, newer)
	copyTree(t, kept, first)
	// The optimizer is not read, so it may be as it is.
	write(t, filepath.Join(second, optimizerFile), "gone")
	b := mustOpen(t, dir)
	require.Equal(t, second, b.Path)
	requireSameModel(t, newer.Model, b.Model)

	content := []byte(read(t, filepath.Join(second, weightsFile)))
	content[len(content)-5] ^= 1
	write(t, filepath.Join(second, weightsFile), string(content))
	b = mustOpen(t, dir)
	require.Equal(t, first, b.Path)
	require.Equal(t, FormatRun, b.Format)
	requireSameModel(t, older.Model, b.Model)
	require.Len(t, b.Notes, 1)
	require.Contains(t, b.Notes[0], "passed over a damaged state")
	_, err := Open(second, OpenOptions{})
	require.ErrorIs(t, err, ErrChecksum)

	require.NoError(t, os.RemoveAll(first))
	_, err = Open(dir, OpenOptions{})
	require.ErrorIs(t, err, ErrChecksum)
}

// trainedTokenizer is a tokenizer of up to 270 tokens: a special one, bytes, words.
func trainedTokenizer(t testing.TB) *tokenizer.BPE {
	bpe, err := tokenizer.Train(func(yield func(string) bool) { yield("the cat sat on the mat, the cat sat") },
		tokenizer.TrainOptions{VocabSize: 270, Special: []string{"<|end|>"}})
	require.NoError(t, err)
	return bpe
}

func jsonOf(t testing.TB, bpe *tokenizer.BPE) string {
	var b bytes.Buffer
	require.NoError(t, bpe.WriteJSON(&b))
	return b.String()
}

func TestATokenizerOfARunIsInItsStateOrInTheRun(t *testing.T) {
	dir := t.TempDir()
	c := with(tiny(), func(c *chainrule.Config) { c.VocabSize = 300 })
	state := save(t, dir, newState(t, c, 1))
	require.Nil(t, mustOpen(t, dir).Tokenizer)
	content := jsonOf(t, trainedTokenizer(t))
	write(t, filepath.Join(dir, tokenizerFile), content)
	write(t, filepath.Join(dir, tokenizerConfigFile), `{"eos_token": "<|end|>", "chat_template": "{{ x }}"}`)
	for _, path := range []string{dir, state} {
		b := mustOpen(t, path)
		require.Equal(t, trainedTokenizer(t).VocabSize(), b.Tokenizer.VocabSize())
		require.Equal(t, "{{ x }}", b.ChatTemplate)
		require.Equal(t, []int32{0}, b.StopTokens())
	}
	write(t, filepath.Join(state, tokenizerFile), content)
	b := mustOpen(t, dir)
	require.Equal(t, trainedTokenizer(t).VocabSize(), b.Tokenizer.VocabSize())
	require.Empty(t, b.ChatTemplate, "the files of a tokenizer are of one directory")

	// Of a model directory, the one above is nobody's.
	hf := filepath.Join(dir, "hf")
	require.NoError(t, SaveDir(hf, &Bundle{Model: newModel(t, c, 1)}, SaveOptions{}))
	require.Nil(t, mustOpen(t, hf).Tokenizer)
}

func TestLlama2cTokenizer(t *testing.T) {
	c := with(tiny(), func(c *chainrule.Config) { c.VocabSize = 261 })
	path := filepath.Join(t.TempDir(), "model.bin")
	require.NoError(t, SaveLlama2c(path, newModel(t, c, 1), 0))
	require.Nil(t, mustOpen(t, path).Tokenizer)
	var b bytes.Buffer
	entry := func(text string) {
		b.Write([]byte{0, 0, 0, 0, byte(len(text)), 0, 0, 0})
		b.WriteString(text)
	}
	b.Write([]byte{8, 0, 0, 0})
	for _, text := range []string{"<unk>", "\n<s>\n", "\n</s>\n"} {
		entry(text)
	}
	for i := range 256 {
		entry(fmt.Sprintf("<0x%02X>", i))
	}
	entry(" ")
	entry("a")
	beside := filepath.Join(filepath.Dir(path), llama2cTokenizer)
	write(t, beside, b.String())
	got := mustOpen(t, path)
	require.Equal(t, []int32{259, 260}, got.Tokenizer.Encode("a"))
	prefix, _ := got.Tokenizer.Template()
	require.Equal(t, []int32{1}, prefix)
	require.Equal(t, int32(1), got.Special.BOS.ID)
	require.Equal(t, []int32{1, 2}, got.StopTokens())

	write(t, beside, b.String()[:50])
	_, err := Open(path, OpenOptions{})
	require.ErrorIs(t, err, tokenizer.ErrTruncated)
	require.ErrorContains(t, err, beside)
	_, err = Open(path, OpenOptions{NoTokenizer: true})
	require.NoError(t, err)
}
