package tokenizer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/tokenizer"
)

func mixedModels(t testing.TB) map[string]tokenizer.Model {
	b, err := tokenizer.Train(slices.Values([]string{"a mixed text of words"}), tokenizer.TrainOptions{VocabSize: 300, Special: []string{"<s>", "</s>", "<s><s>"}})
	require.NoError(t, err)
	tokens := []string{"<unk>", "<s>", "</s>"}
	for i := range 256 {
		tokens = append(tokens, fmt.Sprintf("<0x%02X>", i))
	}
	s, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{Tokens: tokens, Scores: make([]float32, len(tokens))})
	require.NoError(t, err)
	return map[string]tokenizer.Model{"BPE": b, "SentencePiece": s, "bytes": tokenizer.Byte{}}
}

// The ids of a mixed text are those of its parts: of what is between the special
// tokens that no span touches, as plain text.
func TestEncodeMixedIsPlainInSpans(t *testing.T) {
	for name, tok := range mixedModels(t) {
		rapid.Check(t, func(t *rapid.T) {
			text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"<s>", "</s>", "<s", ">", "a", " ", "é", "\n", "text"}), 0, 12).Draw(t, "text"), "")
			var spans []tokenizer.Span
			for at := 0; at < len(text); {
				s := tokenizer.Span{Start: rapid.IntRange(at, len(text)).Draw(t, "start")}
				s.End = rapid.IntRange(s.Start, len(text)).Draw(t, "end")
				spans = append(spans, s)
				at = s.End + 1
			}
			touched := func(start, end int) bool {
				for _, s := range spans {
					for i := s.Start; i < s.End; i++ {
						if i >= start && i < end {
							return true
						}
					}
				}
				return false
			}
			var want []int32
			done := 0
			for i := 0; i < len(text) && name != "bytes"; {
				n := 0
				for _, token := range []string{"<s>", "</s>", "<s><s>"} {
					if id, ok := tok.ID(token); ok && tok.Special(id) && strings.HasPrefix(text[i:], token) {
						n = max(n, len(token))
					}
				}
				switch {
				case n == 0:
					i++
				case touched(i, i+n):
					i += n
				default:
					id, _ := tok.ID(text[i : i+n])
					if done < i {
						want = append(want, tok.EncodePlain(text[done:i])...)
					}
					want = append(want, id)
					i += n
					done = i
				}
			}
			if done < len(text) {
				want = append(want, tok.EncodePlain(text[done:])...)
			}
			ids, ends := tok.EncodeMixed(text, spans)
			require.Equal(t, want, append([]int32(nil), ids...), "%q %v", text, spans)
			require.Len(t, ends, len(ids))
			require.True(t, slices.IsSorted(ends))
			if len(ends) > 0 {
				require.Equal(t, len(text), ends[len(ends)-1])
			}

			markup, markupEnds := tok.EncodeOffsets(text)
			none, noneEnds := tok.EncodeMixed(text, nil)
			require.Equal(t, markup, none)
			require.Equal(t, markupEnds, noneEnds)
			all, _ := tok.EncodeMixed(text, []tokenizer.Span{{Start: 0, End: len(text)}})
			require.Equal(t, tok.EncodePlain(text), all)
		})
	}
}
