package tokenizer

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Options of a tokenizer make the same one: in every way to cut words, with
// added tokens and a template, from NewBPE and from a tokenizer.json.
func TestBPEOptions(t *testing.T) {
	for _, pre := range PreNames() {
		t.Run(pre, func(t *testing.T) {
			texts := []string{"the cat sat on the mat, 1234 times!\n\n  It's THE'LL", "é e\u0301 漢字 🙂 <|end|> \t x"}
			b, err := Train(func(yield func(string) bool) { _ = yield(texts[0]) && yield(texts[1]) },
				TrainOptions{VocabSize: 300, Pre: pre, Special: []string{"<|end|>"}})
			require.NoError(t, err)
			b, err = b.AddTokens(AddedToken{ID: 300, Content: "<tool>"})
			require.NoError(t, err)
			require.NoError(t, b.SetTemplate([]int32{0}, []int32{0}))
			var file bytes.Buffer
			require.NoError(t, b.WriteJSON(&file))
			read, err := ReadJSON(bytes.NewReader(file.Bytes()), int64(file.Len()))
			require.NoError(t, err)

			o, err := read.Options()
			require.NoError(t, err)
			require.Equal(t, pre, o.Pre)
			require.Equal(t, []TokenType{Control, Normal, UserDefined}, []TokenType{o.Types[0], o.Types[1], o.Types[300]})
			again, err := NewBPE(o)
			require.NoError(t, err)
			o2, err := again.Options()
			require.NoError(t, err)
			require.Equal(t, o, o2)
			rapid.Check(t, func(t *rapid.T) {
				text := rapid.StringOf(rapid.SampledFrom([]rune("the cats 12\n'LL é\u0301漢<|end|>tool🙂"))).Draw(t, "text")
				require.Equal(t, b.Encode(text), again.Encode(text))
				require.Equal(t, b.EncodePlain(text), again.EncodePlain(text))
			})
		})
	}
}

func TestBPEWithoutOptions(t *testing.T) {
	o := BPEOptions{Tokens: []string{"a", "b", "<x>"}, Types: []TokenType{Normal, Normal, Control}, Pre: "qwen2"}
	b, err := NewBPE(o)
	require.NoError(t, err)
	for name, edit := range map[string]func(*bpeSpec){
		"lstrip":        func(s *bpeSpec) { s.added[0].LStrip = true },
		"rstrip":        func(s *bpeSpec) { s.added[0].RStrip = true },
		"normalized":    func(s *bpeSpec) { s.added[0].Normalized = true },
		"unk":           func(s *bpeSpec) { s.unk = "a" },
		"ignore_merges": func(s *bpeSpec) { s.wholeWords = true },
		"no NFC":        func(s *bpeSpec) { s.normalizer = nil },
		"a replacement": func(s *bpeSpec) {
			s.normalizer = []byte(`{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"String":"a"},"content":"b"}]}`)
		},
		"add_prefix_space": func(s *bpeSpec) { s.preTokenizer = []byte(`{"type":"ByteLevel"}`) },
		"digits in threes": func(s *bpeSpec) { s.preTokenizer = []byte(jsonSplit(patternLlama3)) },
		"not byte-level": func(s *bpeSpec) {
			s.preTokenizer, s.decoder = nil, []byte(`{"type":"ByteFallback"}`)
		},
		"another decoder": func(s *bpeSpec) {
			s.decoder = []byte(`{"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"Replace","pattern":{"String":"a"},"content":"b"}]}`)
		},
	} {
		s := *b.spec
		s.added = append([]AddedToken(nil), s.added...)
		edit(&s)
		other, err := newBPE(&s)
		require.NoError(t, err, name)
		_, err = other.Options()
		require.ErrorIs(t, err, ErrUnsupported, name)
	}
	_, err = b.Options()
	require.NoError(t, err)
}

func TestSentencePieceOptions(t *testing.T) {
	o := SentencePieceOptions{
		Tokens: []string{"<unk>", "<s>", "▁", "a", "b", "ab", "▁ab"}, Scores: []float32{0, 0, -9, -8, -7, -1, -2},
		Prefix: []int32{1},
	}
	s, err := NewSentencePiece(o)
	require.NoError(t, err)
	got := s.Options()
	require.Equal(t, o.Tokens, got.Tokens)
	require.Equal(t, []int32{1}, got.Prefix)
	again, err := NewSentencePiece(got)
	require.NoError(t, err)
	require.Equal(t, s.Encode("ab ba"), again.Encode("ab ba"))
	got.Tokens[3] = "changed"
	require.Equal(t, "a", s.Token(3))

	// One of llama2.c has spaces where the library has ▁.
	o.Tokens = []string{"<unk>", "<s>", " ", "a", "b", "ab", " ab"}
	o.noEscape, o.stripSpace = true, true
	s, err = NewSentencePiece(o)
	require.NoError(t, err)
	again, err = NewSentencePiece(s.Options())
	require.NoError(t, err)
	for _, text := range []string{"ab ab", " a", "ab  b"} {
		require.Equal(t, s.Encode(text), again.Encode(text))
		require.Equal(t, text, again.Decode(again.Encode(text)))
	}
	require.Equal(t, "▁ab", again.Token(6))
}
