package tokenizer_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/tokenizer"
)

func TestByteRoundTripsAnyBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOf(rapid.Byte()).Draw(t, "text"))
		ids := tokenizer.Byte{}.Encode(text)
		require.Len(t, ids, len(text))
		for i, id := range ids {
			require.Equal(t, int32(text[i]), id)
		}
		require.Equal(t, text, tokenizer.Byte{}.Decode(ids))
	})
}

func TestByteDecodesAnIDOutOfRangeAsReplacementCharacter(t *testing.T) {
	require.Equal(t, "a\uFFFDb\uFFFD\uFFFD\x00\xff",
		tokenizer.Byte{}.Decode([]int32{'a', -1, 'b', 256, 1 << 30, 0, 255}))
	require.Empty(t, tokenizer.Byte{}.Decode(nil))
}

// spaces decodes as sentencepiece does: every token is a word with a space
// before it, but for the first of a sequence.
type spaces []string

func (s spaces) VocabSize() int        { return len(s) }
func (s spaces) Encode(string) []int32 { panic("not used") }
func (s spaces) Decode(ids []int32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = s[id]
	}
	return strings.Join(words, " ")
}

func TestStreamHoldsARuneBackUntilItIsComplete(t *testing.T) {
	for _, c := range []struct {
		text   string
		pieces []string // of Put, then of Flush
	}{
		{"ab", []string{"a", "b", ""}},
		{"é", []string{"", "é", ""}},
		{"€x", []string{"", "", "€", "x", ""}},
		{"😀", []string{"", "", "", "😀", ""}},
		{"\xe2\x82", []string{"", "", "\xe2\x82"}},               // ends within a rune
		{"\xe2x", []string{"", "\xe2x", ""}},                     // cut off by another
		{"\xff\x80a", []string{"\xff", "\x80", "a", ""}},         // never the start of one
		{"\xe2\x82€", []string{"", "", "\xe2\x82", "", "€", ""}}, // a lead byte ends the wait
		{"\xf5a", []string{"\xf5", "a", ""}},                     // beyond U+10FFFF
		{"\xed\xa0\x80", []string{"", "\xed\xa0", "\x80", ""}},   // a surrogate
	} {
		t.Run(fmt.Sprintf("%q", c.text), func(t *testing.T) {
			s := tokenizer.NewStream(tokenizer.Byte{})
			var got []string
			for _, id := range (tokenizer.Byte{}).Encode(c.text) {
				got = append(got, s.Put(id))
			}
			require.Equal(t, c.pieces, append(got, s.Flush()))
		})
	}
}

func TestStreamJoinedIsDecodeAndSplitsNoRune(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOf(rapid.OneOf(
			rapid.Int32Range(-1, 256), rapid.Int32Range(0x80, 0xff), rapid.Int32Range('a', 'f'),
		)).Draw(t, "ids")
		if rapid.Bool().Draw(t, "valid") {
			ids = tokenizer.Byte{}.Encode(rapid.String().Draw(t, "text"))
		}
		want := tokenizer.Byte{}.Decode(ids)
		s := tokenizer.NewStream(tokenizer.Byte{})
		for range 2 { // Flush begins another sequence
			var got strings.Builder
			for _, id := range ids {
				piece := s.Put(id)
				got.WriteString(piece)
				if utf8.ValidString(want) {
					require.True(t, utf8.ValidString(piece), "%q", piece)
				}
			}
			got.WriteString(s.Flush())
			require.Equal(t, want, got.String())
		}
	})
}

func TestStreamOfATokenizerThatSpacesWords(t *testing.T) {
	tok := spaces{"Hello", "wor\xc3", "\xa9", "world"}
	s := tokenizer.NewStream(tok)
	for range 2 {
		require.Equal(t, "Hello", s.Put(0))
		require.Equal(t, " world", s.Put(3))
		require.Equal(t, " wor", s.Put(1))
		require.Equal(t, "\xc3", s.Flush())
	}
}

func ExampleStream() {
	s := tokenizer.NewStream(tokenizer.Byte{})
	for _, id := range (tokenizer.Byte{}).Encode("2 €") {
		fmt.Printf("%q ", s.Put(id))
	}
	fmt.Printf("%q\n", s.Flush())
	// Output: "2" " " "" "" "€" ""
}

func ExampleByte() {
	ids := tokenizer.Byte{}.Encode("Hé")
	fmt.Println(ids, tokenizer.Byte{}.Decode(ids))
	// Output: [72 195 169] Hé
}
