package tokenizer_test

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// corpus returns texts of about size bytes together, the same for the same
// machine: a third is English and source code, of Go's tree, the rest is made
// to be hard. Of valid ones no byte is not UTF-8. specials are put into some.
func corpus(t testing.TB, size int, valid bool, specials ...string) []string {
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	var texts []string
	total := 0
	add := func(s string) {
		if valid {
			s = strings.ToValidUTF8(s, "\uFFFD")
		}
		texts = append(texts, s)
		total += len(s)
	}
	src := goTree(t)
	english := filepath.Join(src, "testdata/Isaac.Newton-Opticks.txt")
	b, err := os.ReadFile(english)
	require.NoError(t, err)
	add(string(b[:min(len(b), size/10)]))
	err = filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || total > size/3 {
			return fs.SkipAll
		}
		if ext := filepath.Ext(path); d.Type().IsRegular() && (ext == ".go" || ext == ".s" || ext == ".html") && rng.IntN(8) == 0 {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			add(string(b[:min(len(b), size/20)]))
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, total, size/8, "no source tree of Go at %s", src)

	words := strings.Fields(texts[0][:min(len(texts[0]), 1<<16)])
	for total < size {
		var b strings.Builder
		kind := rng.IntN(len(hard) + 1)
		for n := rng.IntN(size/200 + 200); b.Len() < n; {
			k := kind
			if k == len(hard) { // of everything
				k = rng.IntN(len(hard))
			}
			hard[k](&b, rng)
			switch {
			case rng.IntN(4) == 0:
				b.WriteString(words[rng.IntN(len(words))])
			case rng.IntN(8) == 0:
				b.WriteByte(' ')
			case len(specials) > 0 && rng.IntN(16) == 0:
				b.WriteString(specials[rng.IntN(len(specials))])
			}
		}
		add(b.String())
	}
	return append(texts, "", " ", "\n", "  ", "a", " a", "'", "'s", "\u0301", "▁", "▁a", " ▁ ")
}

// goTree is where the sources of Go are.
func goTree(t testing.TB) string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

func pick(rng *rand.Rand, from string) string {
	r := []rune(from)
	return string(r[rng.IntN(len(r))])
}

// hard is what tokenizers get wrong, a little of it at a time.
var hard = []func(b *strings.Builder, rng *rand.Rand){
	func(b *strings.Builder, rng *rand.Rand) { // Chinese, Japanese, Korean
		for range 1 + rng.IntN(12) {
			switch rng.IntN(8) {
			case 0:
				b.WriteString(pick(rng, "，。、「」！？・ー～　ｱﾞﾊﾟ"))
			case 1:
				b.WriteRune(0x3040 + rng.Int32N(0xC0))
			case 2:
				b.WriteRune(0xAC00 + rng.Int32N(11172))
			case 3:
				b.WriteRune(0x1100 + rng.Int32N(256)) // jamo
			case 4:
				b.WriteRune(0xF900 + rng.Int32N(512)) // compatibility
			default:
				b.WriteRune(0x4E00 + rng.Int32N(4000))
			}
		}
	},
	func(b *strings.Builder, rng *rand.Rand) { // emoji
		b.WriteRune(0x1F300 + rng.Int32N(0x400))
		b.WriteString([]string{"", "", "\u200D", "\uFE0F", "🏽", "🏽\u200D", "\u20E3", "🇩🇪"}[rng.IntN(8)])
	},
	func(b *strings.Builder, rng *rand.Rand) { // combining marks, in any order
		b.WriteString(pick(rng, "aeionuAEÅΩΐйकখกα ́'1.\ǹᾳ"))
		for range rng.IntN(5) {
			switch rng.IntN(6) {
			case 0:
				b.WriteRune(0x0591 + rng.Int32N(0x60))
			case 1:
				b.WriteRune(0x093C + rng.Int32N(0x20))
			default:
				b.WriteRune(0x300 + rng.Int32N(0x70))
			}
		}
		if rng.IntN(50) == 0 {
			for range 100 {
				b.WriteRune(0x300 + rng.Int32N(0x70))
			}
		}
	},
	func(b *strings.Builder, rng *rand.Rand) { // random bytes
		for range 1 + rng.IntN(16) {
			b.WriteByte(byte(rng.IntN(256)))
		}
	},
	func(b *strings.Builder, rng *rand.Rand) { // any code point
		for range 1 + rng.IntN(6) {
			r := rng.Int32N(1 << uint(7+rng.IntN(14)))
			if r <= utf8.MaxRune {
				b.WriteRune(r)
			}
		}
	},
	func(b *strings.Builder, rng *rand.Rand) { // white space
		s := pick(rng, "       \n\n\n\r\t\v\f\u0085\u00A0\u2003\u2028\u3000\u200B")
		for range 1 + rng.IntN(1<<uint(rng.IntN(7))) {
			b.WriteString(s)
			if rng.IntN(16) == 0 {
				s = pick(rng, "   \n\r\t\u00A0")
			}
		}
		if rng.IntN(2) == 0 {
			b.WriteString([]string{"\r\n", "x", "\n x", "1", ".", "'s"}[rng.IntN(6)])
		}
	},
	func(b *strings.Builder, rng *rand.Rand) { // words, contractions, numbers
		b.WriteString([]string{"don't", "I'M", "'ſ", "we'Ll", "it's", "'D", "'re", "'RE", "'ve", "x''s", "'", "'é", "''"}[rng.IntN(13)])
		for range rng.IntN(8) {
			b.WriteString(pick(rng, "0123456789٣४Ⅷ½²𝟘"))
		}
		b.WriteString(pick(rng, " .,;:-_/\\()[]{}<>|@#$%^&*~`\"!?=+ab Z"))
	},
	func(b *strings.Builder, rng *rand.Rand) { // long words
		s := pick(rng, "aaaxA0=-_/#é漢")
		for range 1 + rng.IntN(1<<uint(rng.IntN(11))) {
			b.WriteString(s)
			if rng.IntN(3) == 0 {
				s = pick(rng, "abcdefghijklmnopqrstuvwxyz")
			}
		}
	},
	func(b *strings.Builder, rng *rand.Rand) { // what looks like a token
		b.WriteString([]string{"<s>", "</s>", "<unk>", "<0x0A>", "<0x41>", "<|endoftext|>", "<|im_start|>", "<|im_end",
			"<|im_end|>", "<|eot_id|>", "<|", "|>", "▁", "▁▁", " ▁", "Ġ", "Ċ", "<mask>", "[INST]", "[PAD]"}[rng.IntN(20)])
	},
}
