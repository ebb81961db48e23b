package tokenizer

import (
	"sync"
	"unicode/utf8"
)

// The class of a rune, as the patterns of pre-tokenizers see it, and a flag.
// Classes come from tables of this package and not from Go's, so that ids do
// not change with the release of Go.
const (
	classOther  = 0
	classLetter = 1
	classNumber = 2
	classSpace  = 3
	classMask   = 3

	// unstable marks a rune that NFC may change, or join to one before it.
	unstable = 4
)

// runeTable maps a rune to its class and flag, by blocks of 256 runes.
type runeTable struct {
	ascii  [utf8.RuneSelf]uint8 // the first half of the first block
	block  [(utf8.MaxRune + 1) >> 8]uint16
	blocks [][256]uint8
}

func (t *runeTable) of(r rune) uint8 { return t.blocks[t.block[r>>8]][r&0xff] }

// first returns the class of the first rune of s, and its size in bytes. A
// byte that is not UTF-8 is a rune of class other.
func (t *runeTable) first(s string) (class uint8, size int) {
	if c := s[0]; c < utf8.RuneSelf {
		return t.ascii[c], 1
	}
	r, size := utf8.DecodeRuneInString(s)
	return t.of(r) & classMask, size
}

// run returns the number of bytes that the runes of class at the start of s[i:]
// reach to, from the start of s.
func (t *runeTable) run(s string, i int, class uint8) int {
	for i < len(s) {
		if c := s[i]; c < utf8.RuneSelf {
			if t.ascii[c] != class {
				break
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if t.of(r)&classMask != class {
			break
		}
		i += size
	}
	return i
}

func (t *runeTable) set(r rune, bits uint8) {
	b := t.block[r>>8]
	if b == 0 && r>>8 != 0 {
		b = uint16(len(t.blocks))
		t.block[r>>8] = b
		t.blocks = append(t.blocks, [256]uint8{})
	}
	t.blocks[b][r&0xff] |= bits
}

var runes = sync.OnceValue(func() *runeTable {
	// Block 1 is the class other: that of the blocks no table mentions.
	t := &runeTable{blocks: make([][256]uint8, 2)}
	mark := func(ranges []rune, bits uint8) {
		for i := 0; i < len(ranges); i += 2 {
			for r := ranges[i]; r <= ranges[i+1]; r++ {
				t.set(r, bits)
			}
		}
	}
	mark(letterRanges[:], classLetter)
	mark(numberRanges[:], classNumber)
	mark(spaceRanges[:], classSpace)
	for _, r := range unstableRunes() {
		t.set(r, unstable)
	}
	for i := range t.block { // no table mentions it
		if t.block[i] == 0 && i != 0 {
			t.block[i] = 1
		}
	}
	copy(t.ascii[:], t.blocks[0][:])
	return t
})
