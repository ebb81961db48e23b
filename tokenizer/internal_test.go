package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// mergeSlowly is the definition: of all pairs the lowest rank, the leftmost first.
func mergeSlowly(t *pairTable, syms []int32) []int32 {
	for {
		at, low, to := -1, noRank, int32(0)
		for i := 0; i+1 < len(syms); i++ {
			if r, id := t.get(syms[i], syms[i+1]); r < low {
				at, low, to = i, r, id
			}
		}
		if at < 0 {
			return syms
		}
		syms = slices.Concat(syms[:at], []int32{to}, syms[at+2:])
	}
}

func TestMergeIsTheLowestRankAndTheLeftmostFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const letters = 6
		symbols := int32(letters)
		pairs := rapid.IntRange(0, 300).Draw(t, "pairs")
		table := newPairTable(pairs)
		ranks := rapid.SampledFrom([]int{3, 1000}).Draw(t, "ranks")
		for range pairs {
			left := rapid.Int32Range(0, symbols-1).Draw(t, "left")
			right := rapid.Int32Range(0, symbols-1).Draw(t, "right")
			if rapid.Bool().Draw(t, "of letters") {
				left, right = left%letters, right%(2*letters)
			}
			table.set(left, right, uint32(rapid.IntRange(0, ranks).Draw(t, "rank")), symbols)
			symbols++
		}
		// Not drawn one by one, which takes rapid long.
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		syms := make([]int32, rapid.IntRange(0, 600).Draw(t, "symbols"))
		for i := range syms {
			syms[i] = rng.Int32N(letters+1) - rng.Int32N(30)/29
		}
		want := mergeSlowly(table, slices.Clone(syms))
		var m merger
		for range 2 { // the second time in used memory
			if len(syms) > 1 {
				require.Equal(t, want, m.mergeScan(table, slices.Clone(syms)))
				require.Equal(t, want, m.mergeHeap(table, slices.Clone(syms)))
			}
			require.Equal(t, want, m.merge(table, slices.Clone(syms)))
		}
	})
}

// Many ranks out of order, which fill the runs.
func TestMergeOfPairsInNoOrder(t *testing.T) {
	const symbols = 100
	rng := rand.New(rand.NewPCG(1, 2))
	table := newPairTable(symbols * symbols)
	for i, rank := range rng.Perm(symbols * symbols) {
		table.set(int32(i/symbols), int32(i%symbols), uint32(rank), rng.Int32N(symbols))
	}
	var m merger
	syms := make([]int32, 2000)
	for range 3 {
		for i := range syms {
			syms[i] = rng.Int32N(symbols)
		}
		require.Equal(t, mergeSlowly(table, slices.Clone(syms)), m.mergeHeap(table, slices.Clone(syms)))
		require.NotZero(t, cap(m.heap), "the heap was not used")
	}
}

// The package norm knows newer code points and cuts runs of marks; on the others it is NFC.
func TestNFCIsThatOfThePackageNorm(t *testing.T) {
	old := rapid.Custom(func(t *rapid.T) rune {
		i := 2 * rapid.IntRange(0, len(normalRanges)/2-1).Draw(t, "range")
		return rapid.Int32Range(normalRanges[i], normalRanges[i+1]).Draw(t, "rune")
	})
	r := rapid.OneOf(old, rapid.Int32Range(0x300, 0x345), rapid.Int32Range(0x1100, 0x11FF), rapid.Int32Range(0xAC00, 0xD7A3),
		rapid.Int32Range('a', 'z'), rapid.SampledFrom([]rune("aeoAEO語ا가")))
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOfN(r, 0, 25).Draw(t, "runes"))
		require.Equal(t, norm.NFC.String(s), nfc(s, nil), "%+q", s)
	})
}

func TestNFCOfWhatThePackageNormDoesOtherwise(t *testing.T) {
	marks := strings.Repeat("\u0301\u0323", 100)
	require.Equal(t, "\u1EB9"+strings.Repeat("\u0323", 99)+strings.Repeat("\u0301", 100), nfc("e"+marks, nil))
	require.Equal(t, "\U00011935\U00011930", nfc("\U00011935\U00011930", nil), "U+11938 is of Unicode 13")
	require.Equal(t, "a\u0898\u0334", nfc("a\u0898\u0334", nil), "U+0898 is of Unicode 14")
	require.Equal(t, "\xff\u0301\xffé\xc3", nfc("\xff\u0301\xffe\u0301\xc3", nil))
	require.Equal(t, "\u0301é", nfc("\u0301e\u0301", nil))
}

// Every piece of every splitter is not empty and ends between runes, and a
// piece of one class has no other.
func TestSplittersCoverText(t *testing.T) {
	splitters := []splitter{splitterOf(patternGPT2), splitterOf(patternLlama3), splitterOf(patternQwen2),
		digitSplitter{runes(), true}, digitSplitter{runes(), false}, metaSplitter{metaspace, false}, metaSplitter{metaspace, true}}
	r := rapid.OneOf(rapid.SampledFrom([]rune("aZ1 \n\r\t'sStTreRE.,▁é語٣½\u00A0ſ\u0301😀")), rapid.Rune())
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(r).Draw(t, "text"))
		if rapid.Bool().Draw(t, "bytes") {
			s = string(rapid.SliceOf(rapid.Byte()).Draw(t, "random"))
		}
		for _, by := range splitters {
			joined := ""
			splitAll(s, []splitter{by}, func(p string) {
				require.NotEmpty(t, p)
				require.True(t, !utf8.ValidString(s) || utf8.ValidString(p))
				joined += p
			})
			require.Equal(t, s, joined)
		}
	})
}

func TestSplitters(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          []string
	}{
		{patternGPT2, "Hello  world's 123abc!?\n\n x", []string{"Hello", " ", " world", "'s", " 123", "abc", "!?", "\n\n", " x"}},
		{patternGPT2, "I'LL 'tis' x ", []string{"I", "'", "LL", " '", "tis", "'", " x", " "}},
		{patternGPT2, "a\u00A0b \u3000c", []string{"a", "\u00A0", "b", " ", "\u3000", "c"}},
		{patternLlama3, "Hello  world's 12345abc!?\n\n x", []string{"Hello", " ", " world", "'s", " ", "123", "45", "abc", "!?\n\n", " x"}},
		{patternLlama3, "I'LL 'ſ\t\tx \r\n  y\n \n z.b", []string{"I", "'LL", " '", "ſ", "\t", "\tx", " \r\n", " ", " y", "\n \n", " z", ".b"}},
		{patternLlama3, "'ſx'Sx'lLx'lx", []string{"'ſ", "x", "'S", "x", "'lL", "x", "'lx"}},
		{patternLlama3, "'ſ\n\nx   ", []string{"'ſ", "\n\n", "x", "   "}},
		{patternQwen2, "12 3", []string{"1", "2", " ", "3"}},
		// Letters and digits of Unicode 16, whichever this Go has.
		{patternGPT2, "a\u1C89b1\U00010D40.", []string{"a\u1C89b", "1\U00010D40", "."}},
	} {
		var got []string
		splitAll(c.text, []splitter{splitterOf(c.pattern)}, func(p string) { got = append(got, p) })
		require.Equal(t, c.want, got, "%q", c.text)
	}
	require.Nil(t, splitterOf(`\w+`))
}

func TestTrieFindsTheLongest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfNDistinct(rapid.StringMatching(`[abc]{1,6}`), 0, 30, rapid.ID).Draw(t, "words")
		tr, err := trieOf(words, nil)
		require.NoError(t, err)
		s := rapid.StringMatching(`[abcd]{0,10}`).Draw(t, "text")
		want, length := int32(-1), 0
		for i, w := range words {
			if strings.HasPrefix(s, w) && len(w) > length {
				want, length = int32(i), len(w)
			}
		}
		v, n := tr.longest(s)
		require.Equal(t, want, v)
		require.Equal(t, length, n)
	})
}
