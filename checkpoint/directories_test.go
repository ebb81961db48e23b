package checkpoint_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// directory is what testdata/check_directories.py says and reads of a model
// directory.
type directory struct {
	Texts      []string       `json:"texts"`
	IDs        [][]int32      `json:"ids"`
	Template   *string        `json:"template"`
	Named      map[string]any `json:"named"` // [spelling, id]
	Generation map[string]any `json:"generation"`
}

// describe is what Open makes of a directory.
func describe(b *checkpoint.Bundle, texts []string) directory {
	d := directory{Texts: texts, Named: map[string]any{}, Generation: map[string]any{}}
	prefix, suffix := b.Tokenizer.Template()
	for _, text := range texts {
		ids := slices.Concat(prefix, b.Tokenizer.EncodeMarkup(text), suffix)
		d.IDs = append(d.IDs, append([]int32{}, ids...))
	}
	if b.ChatTemplate != "" {
		d.Template = &b.ChatTemplate
	}
	for name, t := range map[string]checkpoint.SpecialToken{
		"bos_token": b.Special.BOS, "eos_token": b.Special.EOS, "pad_token": b.Special.Pad, "unk_token": b.Special.Unknown,
	} {
		if t.Text != "" {
			d.Named[name] = []any{t.Text, float64(t.ID)}
		}
	}
	id := func(key string, ids []int32) {
		var v any
		switch len(ids) {
		case 0:
			return
		case 1:
			v = float64(ids[0])
		default:
			for _, id := range ids {
				list, _ := v.([]any)
				v = append(list, float64(id))
			}
		}
		d.Generation[key] = v
	}
	g := b.Generation
	id("bos_token_id", g.BOS)
	id("eos_token_id", g.EOS)
	id("pad_token_id", g.Pad)
	for key, v := range map[string]float64{
		"temperature": g.Temperature, "top_k": float64(g.TopK), "top_p": g.TopP, "min_p": g.MinP,
		"repetition_penalty": g.RepetitionPenalty,
	} {
		if v != 0 {
			d.Generation[key] = v
		}
	}
	if g.DoSample {
		d.Generation["do_sample"] = true
	}
	return d
}

func pythonWithTransformers(t *testing.T) {
	if os.Getenv("CHAINRULE_PYTHON") == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		}
		t.Skip("CHAINRULE_PYTHON names no Python with transformers; .ci/run transformers makes one")
	}
}

func checkDirectories(t *testing.T, args ...string) {
	t.Helper()
	script := filepath.Join("..", "testdata", "check_directories.py")
	out, err := exec.Command(os.Getenv("CHAINRULE_PYTHON"), append([]string{script}, args...)...).CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
}

// TestTransformersAgreesOnDirectories compares tokenizers, chat templates and
// what steers generation. As TestTransformersAgrees, it needs a Python.
func TestTransformersAgreesOnDirectories(t *testing.T) {
	pythonWithTransformers(t)
	root := t.TempDir()
	checkDirectories(t, "make", root)
	files, err := filepath.Glob(filepath.Join(root, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	same := []string{"same"}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, name)
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			var want directory
			require.NoError(t, json.Unmarshal(content, &want))
			b, err := checkpoint.Open(dir, checkpoint.OpenOptions{})
			require.NoError(t, err)
			require.Empty(t, b.Notes)
			got := describe(b, want.Texts)
			for i, text := range want.Texts {
				if _, pieces := b.Tokenizer.(*tokenizer.SentencePiece); pieces && strings.Contains(text, "<unk>") {
					continue // to sentencepiece no text is the token
				}
				require.Equal(t, want.IDs[i], got.IDs[i], "%q", text)
			}
			require.Equal(t, want.Template, got.Template)
			require.Equal(t, want.Named, got.Named)
			require.Equal(t, want.Generation, got.Generation)

			again := dir + "_again"
			require.NoError(t, checkpoint.SaveDir(again, b, checkpoint.SaveOptions{ShardSize: 8000}))
			same = append(same, dir, again)
		})
	}
	checkDirectories(t, same...)
}

// What was not read from a directory, or no longer is what was, is written so
// that transformers makes the same of it.
func TestTransformersAgreesOnNewDirectories(t *testing.T) {
	pythonWithTransformers(t)
	root := t.TempDir()
	checkDirectories(t, "make", root)
	bundle := func(vocabulary int) *checkpoint.Bundle {
		m, err := chainrule.NewModel(chainrule.Config{Dim: 8, HiddenDim: 16, NLayers: 1, NHeads: 2, NKVHeads: 1, HeadDim: 4,
			VocabSize: vocabulary, SeqLen: 64, RopeTheta: 10000, NormEps: 1e-5, Tied: true})
		require.NoError(t, err)
		m.Init(1)
		return &checkpoint.Bundle{Model: m}
	}
	open := func(name string) *checkpoint.Bundle {
		b, err := checkpoint.Open(filepath.Join(root, name), checkpoint.OpenOptions{})
		require.NoError(t, err)
		return b
	}
	texts := []string{"", "Once upon a time", " two  spaces ", "<b>x</b> über 你好 😀\n", "<|end|>", "a<s>b"}

	bytes := bundle(256)
	bytes.Tokenizer = tokenizer.Byte{}

	trained := bundle(300)
	bpe, err := tokenizer.Train(slices.Values([]string{"Once upon a time there was a time"}),
		tokenizer.TrainOptions{VocabSize: 300, Special: []string{"<|end|>"}, Pre: "llama-bpe"})
	require.NoError(t, err)
	require.NoError(t, bpe.SetTemplate(nil, []int32{0}))
	trained.Tokenizer, trained.ChatTemplate = bpe, "{{ messages[0].content }}<b>é\n"
	trained.Special.EOS = checkpoint.SpecialToken{Text: "<|end|>", ID: 0}
	trained.Generation = checkpoint.Generation{EOS: []int32{0, 7}, DoSample: true, Temperature: 0.5, TopK: 40, TopP: 0.9, MinP: 0.05,
		RepetitionPenalty: 1.5}

	pieces := bundle(500)
	read := open("llama2_pieces")
	pieces.Tokenizer, pieces.Special, pieces.ChatTemplate = read.Tokenizer, read.Special, read.ChatTemplate

	edited := open("qwen2_sharded")
	edited.ChatTemplate = "{{ eos_token }}{{ messages[0].content }}"
	edited.Special.Pad = checkpoint.SpecialToken{Text: "<|im_start|>", ID: 1}
	edited.Special.BOS = edited.Special.Pad
	edited.Generation.TopK = 0

	file := open("template_file")
	file.ChatTemplate = "new"

	check := []string{"check"}
	for name, b := range map[string]*checkpoint.Bundle{"bytes": bytes, "trained": trained, "pieces": pieces, "edited": edited, "file": file} {
		dir := filepath.Join(root, "new", name)
		require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{DType: "BF16"}), name)
		d := describe(b, texts)
		content, err := json.Marshal(map[string]any{
			"texts": d.Texts, "ids": d.IDs, "template": d.Template, "named": d.Named, "generation": d.Generation,
		})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+".json", content, 0o666))
		check = append(check, dir)

		again, err := checkpoint.Open(dir, checkpoint.OpenOptions{})
		require.NoError(t, err, name)
		require.Equal(t, d, describe(again, texts), name)
	}
	checkDirectories(t, check...)
}
