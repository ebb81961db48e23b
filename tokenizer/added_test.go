package tokenizer_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/tokenizer"
)

func TestByteIsAModel(t *testing.T) {
	var b tokenizer.Model = tokenizer.Byte{}
	ids, ends := b.EncodeOffsets("é\n")
	require.Equal(t, []int32{0xc3, 0xa9, '\n'}, ids)
	require.Equal(t, []int{1, 2, 3}, ends)
	require.Equal(t, ids, b.EncodePlain("é\n"))
	require.Equal(t, ids, b.EncodeMarkup("é\n"))
	for id := range int32(256) {
		got, ok := b.ID(b.Token(id))
		require.True(t, ok)
		require.Equal(t, id, got)
		require.False(t, b.Special(id))
	}
	for _, id := range []int32{-1, 256} {
		require.Empty(t, b.Token(id))
	}
	for _, token := range []string{"", "ab", "é"} {
		_, ok := b.ID(token)
		require.False(t, ok)
	}
	prefix, suffix := b.Template()
	require.Empty(t, slices.Concat(prefix, suffix))
}

func TestByteIsWrittenAsABPEOfTheSameIDs(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, tokenizer.Byte{}.WriteJSON(&out))
	bpe, err := tokenizer.ReadJSON(bytes.NewReader(out.Bytes()), int64(out.Len()))
	require.NoError(t, err)
	require.Equal(t, 256, bpe.VocabSize())
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOf(rapid.Byte()).Draw(t, "text"))
		require.Equal(t, tokenizer.Byte{}.Encode(text), bpe.Encode(text))
		require.Equal(t, text, bpe.Decode(bpe.Encode(text)))
	})
}

func TestAddTokensToABPE(t *testing.T) {
	bpe, err := tokenizer.Train(slices.Values([]string{"the cat the cat"}), tokenizer.TrainOptions{VocabSize: 262, Special: []string{"<a>"}})
	require.NoError(t, err)
	n := int32(bpe.VocabSize())
	the := bpe.Encode("the")

	same, err := bpe.AddTokens(tokenizer.AddedToken{ID: 0, Content: "<a>", Special: true})
	require.NoError(t, err)
	require.Same(t, bpe, same)

	with, err := bpe.AddTokens(
		tokenizer.AddedToken{ID: 0, Content: "<a>", Special: true, LStrip: true}, // as <a> is now
		tokenizer.AddedToken{ID: n, Content: "<b>"},
		tokenizer.AddedToken{ID: n + 1, Content: "<c>", Special: true})
	require.NoError(t, err)
	require.Equal(t, slices.Concat(the, []int32{0, n, n + 1}), with.Encode("the <a><b><c>"))
	require.Equal(t, []bool{true, false, true}, []bool{with.Special(0), with.Special(n), with.Special(n + 1)})
	require.NotContains(t, with.EncodePlain("<c>"), n+1)
	require.Contains(t, with.EncodePlain("<b>"), n)
	require.Equal(t, "the<b>", with.Decode(append(slices.Clone(the), n)))
	require.Equal(t, n, int32(bpe.VocabSize()), "the old one stays")
	require.NotContains(t, bpe.Encode("<b>"), n)

	var out bytes.Buffer
	require.NoError(t, with.WriteJSON(&out))
	again, err := tokenizer.ReadJSON(bytes.NewReader(out.Bytes()), int64(out.Len()))
	require.NoError(t, err)
	require.Equal(t, with.Encode("the <a><b><c> cat"), again.Encode("the <a><b><c> cat"))

	for _, bad := range []tokenizer.AddedToken{
		{ID: 1, Content: "<a>"}, {ID: 1, Content: "<new>"}, {ID: n + 5, Content: "<far>"}, {ID: n}, {ID: -1, Content: "<x>"},
	} {
		_, err := bpe.AddTokens(bad)
		require.ErrorIs(t, err, tokenizer.ErrVocab, "%+v", bad)
	}
}

func pieces(t *testing.T, edit func(*tokenizer.SentencePieceOptions)) *tokenizer.SentencePiece {
	o := tokenizer.SentencePieceOptions{
		Tokens: []string{"<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"}, Scores: []float32{0, 0, 0, -5, -6, -7, -1, -2},
	}
	if edit != nil {
		edit(&o)
	}
	s, err := tokenizer.NewSentencePiece(o)
	require.NoError(t, err)
	return s
}

func TestAddTokensToASentencePiece(t *testing.T) {
	s := pieces(t, nil)
	same, err := s.AddTokens(tokenizer.AddedToken{ID: 1, Content: "<s>", Special: true}, tokenizer.AddedToken{ID: 0, Content: "<unk>", Special: true})
	require.NoError(t, err)
	require.Same(t, s, same)
	with, err := s.AddTokens(tokenizer.AddedToken{ID: 8, Content: "<x>", Special: true}, tokenizer.AddedToken{ID: 9, Content: "<y>"},
		tokenizer.AddedToken{ID: 7, Content: "ab", Special: true})
	require.NoError(t, err)
	require.Equal(t, []int32{6, 8, 3, 9, 7}, with.EncodeMarkup("a<x><y>ab"))
	require.NotContains(t, with.Encode("<x>"), int32(8))
	require.Contains(t, with.Encode("<y>"), int32(9))
	require.Equal(t, 8, s.VocabSize(), "the old one stays")
	for _, bad := range []tokenizer.AddedToken{{ID: 2, Content: "<s>"}, {ID: 10, Content: "<x>"}, {ID: 3, Content: "<x>"}, {ID: 8}} {
		_, err := s.AddTokens(bad)
		require.ErrorIs(t, err, tokenizer.ErrVocab, "%+v", bad)
	}
}

func TestWrittenModelsReadBack(t *testing.T) {
	texts := []string{"", "a", "ab a  ab", " b", "<s>ab</s>", "zé", "▁a"}
	for name, edit := range map[string]func(*tokenizer.SentencePieceOptions){
		"bpe":     nil,
		"unigram": func(o *tokenizer.SentencePieceOptions) { o.Unigram = true },
		"spaces":  func(o *tokenizer.SentencePieceOptions) { o.NoSpacePrefix, o.TrimSpaces = true, true },
		"unknown": func(o *tokenizer.SentencePieceOptions) { o.UnknownText = "?" },
		"types": func(o *tokenizer.SentencePieceOptions) {
			o.Types = []tokenizer.TokenType{2, 3, 3, 1, 1, 1, 4, 5}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := pieces(t, edit)
			var out bytes.Buffer
			require.NoError(t, s.WriteModel(&out))
			got, err := tokenizer.ReadSentencePiece(bytes.NewReader(out.Bytes()), int64(out.Len()))
			require.NoError(t, err)
			require.Equal(t, s.VocabSize(), got.VocabSize())
			for _, text := range texts {
				require.Equal(t, s.Encode(text), got.Encode(text), "%q", text)
				require.Equal(t, s.EncodeMarkup(text), got.EncodeMarkup(text), "%q", text)
				require.Equal(t, s.Decode(s.Encode(text)), got.Decode(s.Encode(text)), "%q", text)
			}
			var again bytes.Buffer
			require.NoError(t, got.WriteModel(&again))
			require.Equal(t, out.Bytes(), again.Bytes())
		})
	}
}
