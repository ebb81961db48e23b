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

func TestStreamEndsAtAStopString(t *testing.T) {
	for _, c := range []struct {
		text  string
		stops []string
		want  []string // of every byte, and Flush
	}{
		{"abc", nil, []string{"a", "b", "c", ""}},
		{"abc", []string{""}, []string{"a", "b", "c", ""}},
		{"abc", []string{"c"}, []string{"a", "b", "", ""}},
		{"aab.", []string{"ab"}, []string{"", "a", "", "", ""}},
		{"aac", []string{"ab"}, []string{"", "a", "ac", ""}},
		{"aa", []string{"ab"}, []string{"", "a", "a"}},
		{"abcd", []string{"bcd", "c"}, []string{"a", "", "b", "", ""}},
		{"xab", []string{"ab", "xa"}, []string{"", "", "", ""}},
		{"é!", []string{"é!"}, []string{"", "", "", ""}},
		{"é?", []string{"é!"}, []string{"", "", "é?", ""}},
		{"\n\nQ:", []string{"\nQ:", "\n\n\n"}, []string{"", "", "\n", "", ""}},
	} {
		s := tokenizer.NewStream(tokenizer.Byte{}, c.stops...)
		for range 2 { // Flush begins another
			var got []string
			for _, b := range []byte(c.text) {
				got = append(got, s.Put(int32(b)))
			}
			stopped := s.Stopped()
			got = append(got, s.Flush())
			require.Equal(t, c.want, got, "%q %q", c.text, c.stops)
			require.False(t, s.Stopped())
			require.Equal(t, len(strings.Join(got, "")) < len(c.text), stopped)
		}
	}
}

// Whatever the tokens, the text is what comes before the first stop string that
// is complete, and no piece has a part of one.
func TestStreamWithStopsIsTheTextBeforeThem(t *testing.T) {
	for name, tok := range mixedModels(t) {
		rapid.Check(t, func(t *rapid.T) {
			piece := rapid.SampledFrom([]string{"a", "b", "ab", "é", "\xc3", "\n", " ", "日"})
			text := strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "text"), "")
			var stops []string
			for range rapid.IntRange(0, 3).Draw(t, "stops") {
				stops = append(stops, strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "é", "\n", " "}), 1, 3).Draw(t, "stop"), ""))
			}
			ids := tok.EncodePlain(text)
			want, stopped := tok.Decode(ids), false
			for n := range ids {
				first := -1
				for _, stop := range stops {
					if at := strings.Index(tok.Decode(ids[:n+1]), stop); at >= 0 && (first < 0 || at < first) {
						first = at
					}
				}
				if first >= 0 {
					want, stopped = want[:first], true
					break
				}
			}
			s := tokenizer.NewStream(tok, stops...)
			var got strings.Builder
			for _, id := range ids {
				got.WriteString(s.Put(id))
				require.True(t, strings.HasPrefix(want, got.String()), "%s: %q is not the beginning of %q", name, got.String(), want)
			}
			require.Equal(t, stopped, s.Stopped())
			got.WriteString(s.Flush())
			require.Equal(t, want, got.String(), name)
		})
	}
}
