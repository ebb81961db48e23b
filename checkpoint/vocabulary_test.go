package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/tokenizer"
)

func ofWords() chainrule.Config {
	return with(tiny(), func(c *chainrule.Config) { c.VocabSize = 280 })
}

// wordsDir is a model directory with a tokenizer, and files.
func wordsDir(t testing.TB, files map[string]string) string {
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: newModel(t, ofWords(), 1)}, SaveOptions{}))
	write(t, filepath.Join(dir, tokenizerFile), jsonOf(t, trainedTokenizer(t)))
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	return dir
}

// piecesModel is a tokenizer.model.
func piecesModel(t testing.TB) string {
	tokens := []string{"<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"}
	s, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{Tokens: tokens, Scores: []float32{0, 0, 0, -5, -6, -7, -1, -2}})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, s.WriteModel(&b))
	return b.String()
}

func TestNamedTokens(t *testing.T) {
	n := int32(trainedTokenizer(t).VocabSize())
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  SpecialTokens
		notes []string
	}{
		{"none", nil, SpecialTokens{}, nil},
		{"spelled", map[string]string{tokenizerConfigFile: `{"bos_token": null, "eos_token": "<|end|>", "pad_token": "<|end|>"}`},
			SpecialTokens{EOS: SpecialToken{"<|end|>", 0}, Pad: SpecialToken{"<|end|>", 0}}, nil},
		{"objects", map[string]string{tokenizerConfigFile: `{"bos_token": {"__type": "AddedToken", "content": "<|end|>", "lstrip": false}}`},
			SpecialTokens{BOS: SpecialToken{"<|end|>", 0}}, nil},
		{"of the map", map[string]string{tokenizerConfigFile: `{"eos_token": "t"}`, specialTokensFile: `{"eos_token": "<|end|>"}`},
			SpecialTokens{EOS: SpecialToken{"<|end|>", 0}}, nil},
		{"not of the map", map[string]string{tokenizerConfigFile: `{"eos_token": "<|end|>", "added_tokens_decoder": {}}`,
			specialTokensFile: `{"eos_token": "t"}`}, SpecialTokens{EOS: SpecialToken{"<|end|>", 0}}, nil},
		{"new ones", map[string]string{tokenizerConfigFile: `{"eos_token": "<e>", "pad_token": "<p>", "additional_special_tokens": ["<x>", "<e>"]}`},
			SpecialTokens{EOS: SpecialToken{"<e>", n}, Pad: SpecialToken{"<p>", n + 1}}, nil},
		{"added and named", map[string]string{tokenizerConfigFile: fmt.Sprintf(
			`{"eos_token": "<e>", "added_tokens_decoder": {"%d": {"content": "<e>", "normalized": false}}}`, n)},
			SpecialTokens{EOS: SpecialToken{"<e>", n}}, nil},
		{"as LlamaTokenizer has them", map[string]string{
			tokenizerConfigFile: `{"tokenizer_class": "LlamaTokenizerFast", "eos_token": "<|end|>"}`,
		}, SpecialTokens{BOS: SpecialToken{"<s>", n}, EOS: SpecialToken{"<|end|>", 0}, Unknown: SpecialToken{"<unk>", n + 1}}, nil},
		{"more than the model has", map[string]string{tokenizerConfigFile: `{"additional_special_tokens": ["<1>", "<2>", "<3>",
			"<4>", "<5>", "<6>", "<7>", "<8>", "<9>", "<10>", "<11>"], "pad_token": "<|end|>"}`},
			SpecialTokens{Pad: SpecialToken{"<|end|>", 0}}, nil},
		{"one more", map[string]string{tokenizerConfigFile: `{"additional_special_tokens": ["<1>", "<2>", "<3>",
			"<4>", "<5>", "<6>", "<7>", "<8>", "<9>", "<10>", "<11>", "<12>"]}`},
			SpecialTokens{}, []string{`the token "<12>" is left out: the model has only 280`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := mustOpen(t, wordsDir(t, tc.files))
			require.Equal(t, tc.want, b.Special)
			require.Equal(t, tc.notes, b.Notes)
			for _, s := range []SpecialToken{b.Special.BOS, b.Special.EOS, b.Special.Pad, b.Special.Unknown} {
				if s.Text != "" {
					require.True(t, b.Tokenizer.Special(s.ID))
					require.Equal(t, []int32{s.ID}, b.Tokenizer.EncodeMarkup(s.Text))
				}
			}
		})
	}
}

func TestTemplatesOfClasses(t *testing.T) {
	tokens := `, "bos_token": "<|end|>", "eos_token": "<|end|>"}`
	for config, want := range map[string][2][]int32{
		`{"a": 1` + tokens: {nil, nil},
		`{"tokenizer_class": "Qwen2Tokenizer"` + tokens:                                                {nil, nil},
		`{"tokenizer_class": "LlamaTokenizer"` + tokens:                                                {{0}, nil},
		`{"tokenizer_class": "LlamaTokenizerFast"` + tokens:                                            {{0}, nil},
		`{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false` + tokens:                        {nil, nil},
		`{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": true` + tokens: {nil, {0}},
	} {
		prefix, suffix := mustOpen(t, wordsDir(t, map[string]string{tokenizerConfigFile: config})).Tokenizer.Template()
		require.Equal(t, want, [2][]int32{prefix, suffix}, config)
	}

	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{}))
	write(t, filepath.Join(dir, sentencePieceFile), piecesModel(t))
	b := mustOpen(t, dir)
	prefix, suffix := b.Tokenizer.Template()
	require.Equal(t, [2][]int32{{1}, nil}, [2][]int32{prefix, suffix})
	require.Equal(t, SpecialTokens{BOS: SpecialToken{"<s>", 1}, EOS: SpecialToken{"</s>", 2}, Unknown: SpecialToken{"<unk>", 0}}, b.Special)
	require.Equal(t, []int32{6, 5}, b.Tokenizer.Encode("ab"))

	write(t, filepath.Join(dir, tokenizerConfigFile), `{"legacy": false, "add_eos_token": true}`)
	write(t, filepath.Join(dir, addedTokensFile), `{"<x>": 9, "b": 5, "<y>": 8}`)
	write(t, filepath.Join(dir, specialTokensFile), `{"additional_special_tokens": ["<y>"]}`)
	b = mustOpen(t, dir)
	prefix, suffix = b.Tokenizer.Template()
	require.Equal(t, [2][]int32{{1}, {2}}, [2][]int32{prefix, suffix})
	require.Equal(t, []int32{6, 8, 6, 9}, b.Tokenizer.EncodeMarkup("a<y>a<x>"))
	require.True(t, b.Tokenizer.Special(8))
	require.False(t, b.Tokenizer.Special(9))
	require.Len(t, b.Notes, 1)
	require.Contains(t, b.Notes[0], "legacy is false")
}

func TestChatTemplates(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", nil, ""},
		{"null", map[string]string{tokenizerConfigFile: `{"chat_template": null}`}, ""},
		{"one", map[string]string{tokenizerConfigFile: `{"chat_template": "{{ a }}\n"}`}, "{{ a }}\n"},
		{"several", map[string]string{tokenizerConfigFile: `{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}`}, "d"},
		{"a file", map[string]string{chatTemplateFile: "f\n", tokenizerConfigFile: `{"chat_template": "x"}`}, "f\n"},
	} {
		require.Equal(t, tc.want, mustOpen(t, wordsDir(t, tc.files)).ChatTemplate, tc.name)
	}
}

func TestBadTokenizerFiles(t *testing.T) {
	small := filepath.Join(t.TempDir(), "small")
	require.NoError(t, SaveDir(small, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{}))
	for _, tc := range []struct {
		name, file, content string
		is                  error
		want                []string
	}{
		{"tokenizer is cut", tokenizerFile, jsonOf(t, trainedTokenizer(t))[:500], tokenizer.ErrTruncated, nil},
		{"tokenizer of another kind", tokenizerFile, `{"model": {"type": "WordPiece", "vocab": {}}}`, tokenizer.ErrUnsupported, []string{"WordPiece"}},
		{"tokenizer is a page", tokenizerFile, "<html>", tokenizer.ErrFormat, nil},
		{"config is cut", tokenizerConfigFile, "{", ErrConfig, nil},
		{"config is a page", tokenizerConfigFile, "<html>", ErrNotModel, []string{"HTML"}},
		{"config is large", tokenizerConfigFile, strings.Repeat(" ", 1<<24+1), ErrNotModel, []string{"at most"}},
		{"twice", tokenizerConfigFile, `{"a": 1, "a": 2}`, ErrConfig, []string{"occurs twice"}},
		{"class", tokenizerConfigFile, `{"tokenizer_class": 1}`, ErrConfig, []string{"tokenizer_class"}},
		{"token", tokenizerConfigFile, `{"eos_token": 7}`, ErrConfig, []string{"eos_token is", "want a token"}},
		{"token without a text", tokenizerConfigFile, `{"eos_token": {"id": 7}}`, ErrConfig, []string{"want a token"}},
		{"token of the map", specialTokensFile, `{"eos_token": []}`, ErrConfig, []string{"want a token"}},
		{"additional tokens", tokenizerConfigFile, `{"additional_special_tokens": [1]}`, ErrConfig, []string{"additional_special_tokens"}},
		{"template", tokenizerConfigFile, `{"chat_template": 1}`, ErrConfig, []string{"chat_template"}},
		{"added tokens", tokenizerConfigFile, `{"added_tokens_decoder": {"x": {"content": "a"}}}`, ErrConfig, []string{"added_tokens_decoder.x"}},
		{"no added token", tokenizerConfigFile, `{"added_tokens_decoder": {"0": 1}}`, ErrConfig, []string{"added_tokens_decoder.0"}},
		{"added token of another id", tokenizerConfigFile, `{"added_tokens_decoder": {"1": {"content": "<|end|>"}}}`, tokenizer.ErrVocab, []string{"<|end|>"}},
		{"added token with the id of another", tokenizerConfigFile, `{"added_tokens_decoder": {"0": {"content": "<|x|>"}}}`, tokenizer.ErrVocab, []string{"<|x|>"}},
		{"added token beyond the model", tokenizerConfigFile, `{"added_tokens_decoder": {"269": {"content": "1"}, "270": {"content": "2"},
			"271": {"content": "3"}, "272": {"content": "4"}, "273": {"content": "5"}, "274": {"content": "6"}, "275": {"content": "7"},
			"276": {"content": "8"}, "277": {"content": "9"}, "278": {"content": "10"}, "279": {"content": "11"}, "280": {"content": "12"}}}`,
			nil, nil},
		{"single word", tokenizerConfigFile, `{"added_tokens_decoder": {"0": {"content": "<|end|>", "single_word": true}}}`, ErrConfig, []string{"single_word"}},
		{"added tokens, old", addedTokensFile, `{"x": -1}`, ErrConfig, []string{addedTokensFile, "x is"}},
		{"add_bos_token", tokenizerConfigFile, `{"tokenizer_class": "LlamaTokenizer", "add_bos_token": 1}`, ErrConfig, []string{"add_bos_token"}},
		{"no token to add", tokenizerConfigFile, `{"tokenizer_class": "LlamaTokenizer", "bos_token": null}`, ErrConfig, []string{"add_bos_token is true, but there is no such token"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := wordsDir(t, map[string]string{tc.file: tc.content})
			_, err := Open(dir, OpenOptions{})
			if tc.is == nil {
				require.ErrorContains(t, err, "token")
				return
			}
			require.ErrorIs(t, err, tc.is)
			for _, w := range append(tc.want, dir) {
				require.ErrorContains(t, err, w)
			}
			_, err = Open(dir, OpenOptions{NoTokenizer: true})
			require.NoError(t, err)
		})
	}
	write(t, filepath.Join(small, tokenizerFile), jsonOf(t, trainedTokenizer(t)))
	_, err := Open(small, OpenOptions{})
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "tokens, the model only 11")

	lone := wordsDir(t, map[string]string{"vocab.json": "{}", "merges.txt": ""})
	require.NoError(t, os.Remove(filepath.Join(lone, tokenizerFile)))
	b := mustOpen(t, lone)
	require.Nil(t, b.Tokenizer)
	require.Contains(t, b.Notes[0], "vocab.json")
}

// All that a directory has is written as it was, whatever it looks like.
func TestADirectoryIsWrittenAsItWas(t *testing.T) {
	files := map[string]string{
		tokenizerConfigFile: "{\"eos_token\":\"<|end|>\",   \"chat_template\": \"{{ '<' }}\\u00e9\"}", specialTokensFile: "{ }",
		generationFile: `{"temperature": 0.60, "later": [1]}`, "vocab.json": "{}", "merges.txt": "#version: 0.2\n",
		addedTokensFile: "{}", "README.md": "not this",
	}
	dir := wordsDir(t, files)
	config := strings.Replace(read(t, filepath.Join(dir, configFile)), `"float32"`, `"bfloat16"`, 1)
	config = strings.Replace(config, "{", `{"my_note":  [1,2 ,3],`, 1)
	write(t, filepath.Join(dir, configFile), config)
	b := mustOpen(t, dir)
	require.Equal(t, []string{`not known and ignored: "my_note"`}, b.Notes)
	again := filepath.Join(t.TempDir(), "again")
	require.NoError(t, SaveDir(again, b, SaveOptions{DType: "F16"}))
	want, got := tree(t, dir), tree(t, again)
	delete(want, "README.md")
	delete(want, weightsFile)
	delete(got, weightsFile)
	want[configFile] = strings.Replace(config, "bfloat16", "float16", 1)
	require.Equal(t, want, got)

	// Again into it: nothing is another.
	require.NoError(t, SaveDir(again, b, SaveOptions{DType: "F16"}))
	b.ChatTemplate = "other"
	before := tree(t, again)
	err := SaveDir(again, b, SaveOptions{})
	require.ErrorContains(t, err, tokenizerConfigFile+": the directory has another one")
	require.Equal(t, before, tree(t, again))

	// A model that is another has a config.json of its own.
	b.Model = newModel(t, with(ofWords(), func(c *chainrule.Config) { c.SeqLen++ }), 1)
	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, SaveDir(other, b, SaveOptions{}))
	require.NotContains(t, read(t, filepath.Join(other, configFile)), "my_note")
	require.Equal(t, "other", mustOpen(t, other).ChatTemplate)
}

func TestAnEditedChatTemplateIsTheOneThatCounts(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a file":      {chatTemplateFile: "old", tokenizerConfigFile: `{"chat_template": "older"}`},
		"the config":  {tokenizerConfigFile: `{"chat_template": "old"}`},
		"none before": nil,
	} {
		b := mustOpen(t, wordsDir(t, files))
		b.ChatTemplate = "new"
		dir := t.TempDir()
		require.NoError(t, SaveDir(dir, b, SaveOptions{}))
		require.Equal(t, "new", mustOpen(t, dir).ChatTemplate, name)
	}
}

func TestBundlesComeBack(t *testing.T) {
	bpe := trainedTokenizer(t)
	for name, b := range map[string]*Bundle{
		"bytes": {Model: newModel(t, ofBytes(), 1), Tokenizer: tokenizer.Byte{}},
		"words": {Model: newModel(t, ofWords(), 1), Tokenizer: bpe, ChatTemplate: "{{ messages }}",
			Special:    SpecialTokens{EOS: SpecialToken{"<|end|>", 0}},
			Generation: Generation{EOS: []int32{0, 5}, DoSample: true, Temperature: 0.5, TopK: -1, TopP: 0.9, MinP: 0.1, RepetitionPenalty: 1.1}},
		"no tokenizer": {Model: newModel(t, ofWords(), 1), Generation: Generation{BOS: []int32{3}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, SaveDir(dir, b, SaveOptions{}))
			got := mustOpen(t, dir)
			requireSameModel(t, b.Model, got.Model)
			require.Equal(t, b.ChatTemplate, got.ChatTemplate)
			require.Equal(t, b.Special, got.Special)
			require.True(t, b.Generation.equal(got.Generation), "%+v", got.Generation)
			if b.Tokenizer == nil {
				require.Nil(t, got.Tokenizer)
				return
			}
			for _, text := range []string{"", "the cat", "\xffé\x00", "<|end|>"} {
				require.Equal(t, b.Tokenizer.EncodeMarkup(text), got.Tokenizer.EncodeMarkup(text))
			}
			var config map[string]any
			require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, configFile))), &config))
			require.Contains(t, config, "eos_token_id")
		})
	}
	unwritable := &Bundle{Model: newModel(t, tiny(), 1), Tokenizer: struct{ tokenizer.Model }{}}
	require.ErrorIs(t, SaveDir(filepath.Join(t.TempDir(), "x"), unwritable, SaveOptions{}), ErrUnsupported)

	s, err := tokenizer.ReadSentencePiece(strings.NewReader(piecesModel(t)), int64(len(piecesModel(t))))
	require.NoError(t, err)
	require.NoError(t, s.SetTemplate([]int32{1, 2}, nil))
	pieces := &Bundle{Model: newModel(t, tiny(), 1), Tokenizer: s, Special: SpecialTokens{BOS: SpecialToken{"<s>", 1}}}
	require.ErrorIs(t, SaveDir(filepath.Join(t.TempDir(), "x"), pieces, SaveOptions{}), ErrUnsupported)
}

func TestSavingABundleStoppedAnywhere(t *testing.T) {
	b := mustOpen(t, wordsDir(t, map[string]string{tokenizerConfigFile: `{"eos_token": "<|end|>"}`, generationFile: "{}"}))
	for at := 0; ; at++ {
		dir := t.TempDir()
		n := 0
		setHook(t, func(string, string) error {
			if n++; n > at {
				return io.ErrShortWrite
			}
			return nil
		})
		err := SaveDir(dir, b, SaveOptions{})
		hook = nil
		if err == nil {
			require.Greater(t, at, 15)
			return
		}
		require.ErrorIs(t, err, io.ErrShortWrite)
		if got, err := LoadDir(dir); err == nil { // only the sync of the last name failed
			requireSameModel(t, b.Model, got)
		} else {
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		for _, name := range names(t, dir) {
			require.False(t, strings.HasPrefix(name, temporary), name)
		}
		require.NoError(t, SaveDir(dir, b, SaveOptions{}))
		requireSameModel(t, b.Model, mustOpen(t, dir).Model)
	}
}

func TestSetMember(t *testing.T) {
	for _, tc := range []struct{ in, key, want string }{
		{`{}`, "a", "{\n  \"a\": \"<v>\"}"},
		{"{\n}\n", "a", "{\n  \"a\": \"<v>\"\n}\n"},
		{`{"a":1}`, "a", `{"a":"<v>"}`},
		{`{"b": {"a": 1}, "a" : [1, {"a": 2}] , "c": 3}`, "a", `{"b": {"a": 1}, "a" : "<v>" , "c": 3}`},
		{"{\n  \"b\": 1\n}\n", "a", "{\n  \"b\": 1,\n  \"a\": \"<v>\"\n}\n"},
		{`{"\u0061": null}`, "a", `{"\u0061": "<v>"}`},
	} {
		got, err := setMember([]byte(tc.in), tc.key, "<v>")
		require.NoError(t, err)
		require.Equal(t, tc.want, string(got))
	}
}

// FuzzOpen opens directories of small files: whatever they hold, it is a model
// or an error that says which file.
func FuzzOpen(f *testing.F) {
	good := wordsDir(f, map[string]string{
		tokenizerConfigFile: `{"eos_token": "<|end|>", "added_tokens_decoder": {"0": {"content": "<|end|>", "special": true}}}`,
		specialTokensFile:   `{"eos_token": "<|end|>"}`, generationFile: `{"eos_token_id": [0, 1], "top_k": 5}`, addedTokensFile: `{"x": 269}`,
	})
	bundle := mustOpen(f, good)
	sharded := filepath.Join(f.TempDir(), "sharded")
	require.NoError(f, SaveDir(sharded, bundle, SaveOptions{ShardSize: 8000}))
	all := tree(f, sharded)
	names := slices.Sorted(maps.Keys(all))
	for i, name := range names {
		f.Add(uint8(i), []byte(all[name]))
		f.Add(uint8(i), []byte(all[name][:len(all[name])/2]))
		f.Add(uint8(i), []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		dir := t.TempDir()
		name := names[int(which)%len(names)]
		for n, c := range all {
			if n == name {
				c = string(content)
			}
			write(t, filepath.Join(dir, n), c)
		}
		b, err := Open(dir, OpenOptions{})
		if err != nil {
			require.Nil(t, b)
			require.ErrorContains(t, err, dir)
			return
		}
		require.NoError(t, b.Model.Validate())
		if b.Tokenizer != nil {
			require.LessOrEqual(t, b.Tokenizer.VocabSize(), b.Model.VocabSize)
		}
		again := filepath.Join(dir, "again")
		require.NoError(t, SaveDir(again, b, SaveOptions{}))
		c := mustOpen(t, again)
		requireSameModel(t, b.Model, c.Model)
		require.Equal(t, b.Special, c.Special)
		require.Equal(t, b.ChatTemplate, c.ChatTemplate)
		require.True(t, b.Generation.equal(c.Generation))
	})
}
