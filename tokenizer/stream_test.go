package tokenizer_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// TestStreamOfModelsJoinedIsDecode draws sequences of a few tokens, control
// and space tokens among them, at their start too.
func TestStreamOfModelsJoinedIsDecode(t *testing.T) {
	for name, tok := range goldenTokenizers(t) {
		few := []int32{-1, int32(tok.VocabSize())}
		for _, s := range []string{"<unk>", "<s>", "</s>", "<|endoftext|>", "▁", "▁▁", "▁t", "a", "<0x0A>", "<0xE2>", "<0x96>", "<0x81>", "Ġ", "â", "Ċ"} {
			if id, ok := tok.(interface {
				ID(string) (int32, bool)
			}).ID(s); ok {
				few = append(few, id)
			}
		}
		require.Greater(t, len(few), 4, name)
		rapid.Check(t, func(t *rapid.T) {
			ids := rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(few), rapid.Int32Range(0, int32(tok.VocabSize()-1)))).Draw(t, "ids")
			s := tokenizer.NewStream(tok)
			var b strings.Builder
			for _, id := range ids {
				b.WriteString(s.Put(id))
			}
			b.WriteString(s.Flush())
			require.Equal(t, tok.Decode(ids), b.String(), name)
		})
	}
}
