package tokenizer_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// golden is what testdata/reference.py golden made of a small model.
type golden struct {
	File  string
	Cases []struct {
		Text    string
		IDs     []int32
		Plain   []int32
		Decoded string
	}
}

func goldens(t testing.TB) (list []golden) {
	b, err := os.ReadFile("testdata/golden/golden.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &list))
	require.Len(t, list, 7)
	return list
}

type model interface {
	tokenizer.Model
	SetTemplate(prefix, suffix []int32) error
}

func readModel(t testing.TB, path string) model {
	if filepath.Ext(path) == ".model" {
		return readSentencePiece(t, path)
	}
	return readJSON(t, path)
}

func goldenTokenizers(t testing.TB) map[string]model {
	toks := map[string]model{}
	for _, g := range goldens(t) {
		toks[g.File] = readModel(t, filepath.Join("testdata/golden", g.File))
	}
	return toks
}

func TestGoldenIDs(t *testing.T) {
	for _, g := range goldens(t) {
		tok := readModel(t, filepath.Join("testdata/golden", g.File))
		require.Greater(t, len(g.Cases), 20)
		for _, c := range g.Cases {
			require.Equal(t, c.IDs, tok.Encode(c.Text), "%s: %q", g.File, c.Text)
			if c.Plain != nil {
				require.Equal(t, c.Plain, tok.EncodePlain(c.Text), "%s: %q", g.File, c.Text)
			}
			if d := tok.Decode(c.IDs); utf8.ValidString(d) {
				require.Equal(t, c.Decoded, d, "%s: %q", g.File, c.Text)
			} else {
				require.Equal(t, squeeze(c.Decoded), squeeze(d), "%s: %q", g.File, c.Text)
			}
		}
	}
}

// TestGoldenIDsFromOptions makes the byte-level goldens, as a GGUF file would
// have them, of lists.
func TestGoldenIDsFromOptions(t *testing.T) {
	for _, g := range goldens(t) {
		name, _ := strings.CutSuffix(g.File, ".json")
		if !slices.Contains(tokenizer.PreNames(), name) {
			continue
		}
		o := optionsOf(t, filepath.Join("testdata/golden", g.File))
		o.Pre = name
		tok, err := tokenizer.NewBPE(o)
		require.NoError(t, err)
		again := writeAndRead(t, tok)
		for _, c := range g.Cases {
			require.Equal(t, c.IDs, tok.Encode(c.Text), "%s: %q", g.File, c.Text)
			require.Equal(t, c.Plain, tok.EncodePlain(c.Text), "%s: %q", g.File, c.Text)
			require.Equal(t, c.IDs, again.Encode(c.Text), "%s: %q", g.File, c.Text)
		}
	}
}

// optionsOf reads a tokenizer.json as what GGUF metadata says of it.
func optionsOf(t testing.TB, path string) (o tokenizer.BPEOptions) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var file struct {
		Added []struct {
			ID      int
			Content string
			Special bool
		} `json:"added_tokens"`
		Model struct {
			Vocab  map[string]int
			Merges []json.RawMessage
		}
	}
	require.NoError(t, json.Unmarshal(b, &file))
	for _, a := range file.Added {
		file.Model.Vocab[a.Content] = a.ID
	}
	o.Tokens = make([]string, len(file.Model.Vocab))
	o.Types = make([]tokenizer.TokenType, len(o.Tokens))
	for s, id := range file.Model.Vocab {
		o.Tokens[id] = s
	}
	for _, a := range file.Added {
		o.Types[a.ID] = tokenizer.UserDefined
		if a.Special {
			o.Types[a.ID] = tokenizer.Control
		}
	}
	for _, m := range file.Model.Merges {
		var s string
		var pair []string
		if json.Unmarshal(m, &s) != nil {
			require.NoError(t, json.Unmarshal(m, &pair))
			s = pair[0] + " " + pair[1]
		}
		o.Merges = append(o.Merges, s)
	}
	return o
}

func writeAndRead(t testing.TB, tok *tokenizer.BPE) *tokenizer.BPE {
	var b bytes.Buffer
	require.NoError(t, tok.WriteJSON(&b))
	again, err := tokenizer.ReadJSON(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	require.Equal(t, tok.VocabSize(), again.VocabSize())
	return again
}

// llama2c.bin is spbpe.model as llama2.c has it.
func TestGoldenIDsFromLlama2C(t *testing.T) {
	b, err := os.ReadFile("testdata/golden/llama2c.bin")
	require.NoError(t, err)
	sp := readSentencePiece(t, "testdata/golden/spbpe.model")
	tok, err := tokenizer.ReadLlama2C(bytes.NewReader(b), int64(len(b)), sp.VocabSize())
	require.NoError(t, err)
	for _, g := range goldens(t) {
		if g.File != "spbpe.model" {
			continue
		}
		for _, c := range g.Cases {
			if strings.Contains(c.Text, "▁") {
				// A space to the library, a character to llama2.c.
				require.Equal(t, c.Text, tok.Decode(tok.Encode(c.Text)))
				continue
			}
			require.Equal(t, c.IDs, tok.Encode(c.Text), "%q", c.Text)
			require.Equal(t, sp.Decode(c.IDs), tok.Decode(c.IDs))
		}
	}
	prefix, suffix := tok.Template()
	require.Equal(t, []int32{1}, prefix)
	require.Empty(t, suffix)
}

func TestEncodeMarkupFindsControlTokens(t *testing.T) {
	sp := readSentencePiece(t, "testdata/golden/spbpe.model")
	ids := sp.EncodeMarkup("<s>the</s> of<s>")
	want := slices.Concat([]int32{1}, sp.Encode("the"), []int32{2}, sp.Encode(" of"), []int32{1})
	require.Equal(t, want, ids)
	require.NotContains(t, sp.EncodePlain("<s>the"), int32(1))
	require.NotContains(t, sp.Encode("<s>the"), int32(1))

	bpe := readJSON(t, "testdata/golden/gpt-2.json")
	require.Equal(t, []int32{0}, bpe.EncodeMarkup("<|endoftext|>"))
	require.Equal(t, []int32{0}, bpe.Encode("<|endoftext|>"))
	require.NotContains(t, bpe.EncodePlain("<|endoftext|>"), int32(0))
	require.Equal(t, "<|endoftext|>", bpe.Decode(bpe.EncodePlain("<|endoftext|>")))
}

func TestEncodePlainFindsTokensThatAreNotSpecial(t *testing.T) {
	tok, err := tokenizer.NewBPE(tokenizer.BPEOptions{
		Tokens: []string{"<", "x", ">", "<x>", "<<"}, Pre: "gpt-2",
		Types: []tokenizer.TokenType{0, 0, 0, tokenizer.UserDefined, tokenizer.Control},
	})
	require.NoError(t, err)
	require.Equal(t, []int32{0, 0, 3, 1}, tok.EncodePlain("<<<x>x"))
	require.Equal(t, []int32{4, 3, 1}, tok.Encode("<<<x>x"))
	require.False(t, tok.Special(3))
	require.True(t, tok.Special(4))
}

// Llama 3 takes a word that is a token whole, whatever the merges make of it.
func TestWordsThatAreTokens(t *testing.T) {
	for pre, want := range map[string][]int32{"llama-bpe": {4, 5}, "gpt-2": {3, 2, 5}} {
		tok, err := tokenizer.NewBPE(tokenizer.BPEOptions{
			Tokens: []string{"a", "b", "c", "ab", "abc", "."}, Merges: []string{"a b"}, Pre: pre,
		})
		require.NoError(t, err)
		require.Equal(t, want, tok.Encode("abc."), pre)
	}
}

// As the library has it: of equal scores the longer token, since it is found
// first; a user-defined token has -0.1 and is not chosen if others have more.
func TestUnigramScores(t *testing.T) {
	for _, c := range []struct {
		scores []float32 // of <unk>, a, b and ab
		typ    tokenizer.TokenType
		want   []int32
	}{
		{[]float32{0, -1, -2, -3}, tokenizer.Normal, []int32{3}},
		{[]float32{0, -1, -2, -3.5}, tokenizer.Normal, []int32{1, 2}},
		{[]float32{0, -1, -2, -1}, tokenizer.Unused, []int32{1, 2}},
		{[]float32{0, -1, -2, -9}, tokenizer.UserDefined, []int32{3}},
		{[]float32{0, -0.04, -0.05, -9}, tokenizer.UserDefined, []int32{1, 2}},
	} {
		tok, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{
			Tokens: []string{"<unk>", "a", "b", "ab"}, Scores: c.scores,
			Types:   []tokenizer.TokenType{tokenizer.Unknown, tokenizer.Normal, tokenizer.Normal, c.typ},
			Unigram: true, NoSpacePrefix: true,
		})
		require.NoError(t, err)
		require.Equal(t, c.want, tok.Encode("ab"), "%v", c)
	}
}

func TestTemplate(t *testing.T) {
	bpe := readJSON(t, "testdata/golden/llama-bpe.json")
	prefix, suffix := bpe.Template()
	require.Equal(t, []int32{0}, prefix)
	require.Empty(t, suffix)
	require.True(t, bpe.Special(0))
	require.False(t, bpe.Special(1))
	for _, tok := range goldenTokenizers(t) {
		require.NoError(t, tok.SetTemplate([]int32{1, 2}, []int32{0}))
		if b, ok := tok.(*tokenizer.BPE); ok {
			tok = writeAndRead(t, b)
		}
		prefix, suffix = tok.Template()
		require.Equal(t, []int32{1, 2}, prefix)
		require.Equal(t, []int32{0}, suffix)
		require.ErrorIs(t, tok.SetTemplate([]int32{-1}, nil), tokenizer.ErrVocab)
		require.ErrorIs(t, tok.SetTemplate(nil, []int32{int32(tok.VocabSize())}), tokenizer.ErrVocab)
	}
}

func TestIDsAndTokens(t *testing.T) {
	for name, tok := range goldenTokenizers(t) {
		for id := range int32(tok.VocabSize()) {
			s := tok.Token(id)
			require.NotEmpty(t, s, name)
			got, ok := tok.ID(s)
			require.True(t, ok)
			require.Equal(t, id, got, "%s: %q", name, s)
		}
		for _, id := range []int32{-1, int32(tok.VocabSize())} {
			require.Empty(t, tok.Token(id))
			require.False(t, tok.Special(id))
			require.Empty(t, tok.Decode([]int32{id}))
		}
		_, ok := tok.ID("no such token")
		require.False(t, ok)
	}
}

// TestConcurrentUse is for the race detector, and for the caches.
func TestConcurrentUse(t *testing.T) {
	for _, g := range goldens(t) {
		tok := readModel(t, filepath.Join("testdata/golden", g.File))
		done := make(chan bool)
		for range 4 {
			go func() {
				ok := true
				for range 3 {
					for _, c := range g.Cases {
						ok = ok && slices.Equal(c.IDs, tok.Encode(c.Text)) && tok.Decode(c.IDs) != "\x00no"
					}
				}
				done <- ok
			}()
		}
		for range 4 {
			require.True(t, <-done, g.File)
		}
	}
}
