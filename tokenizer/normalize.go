package tokenizer

import (
	"slices"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// nfc returns s in Unicode's normalization form C, as the reference's tables
// have it: code points newer than Unicode 9.0 are left as they are, and so are
// bytes that are not UTF-8. (The package norm knows newer ones and breaks runs of more than
// 30 combining marks with U+034F; it serves as the table of the older ones,
// which Unicode's stability policy keeps forever.)
func nfc(s string, a *alignment) string {
	t := runes()
	var out []byte
	var ends []int // of out
	done := 0      // s[:done] is in out
	stable := 0    // the start of the last rune that does not change with those after it
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			stable = i
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if t.of(r)&unstable == 0 {
			stable = i
			i += size
			continue
		}
		for i < len(s) { // up to the next stable rune
			r, size = utf8.DecodeRuneInString(s[i:])
			if t.of(r)&unstable == 0 {
				break
			}
			i += size
		}
		out = append(out, s[done:stable]...)
		n := len(out)
		out = appendNFC(out, s[stable:i])
		if a != nil {
			ends = append(ends, a.ends[done:stable]...)
			for range len(out) - n {
				ends = append(ends, a.ends[i-1])
			}
		}
		done, stable = i, i
	}
	if done == 0 {
		return s
	}
	if a != nil {
		a.ends = append(ends, a.ends[done:]...)
	}
	return string(append(out, s[done:]...))
}

// appendNFC appends NFC of s, of which at most the first byte is not UTF-8.
func appendNFC(dst []byte, s string) []byte {
	n := normal()
	if r, size := utf8.DecodeRuneInString(s); r == utf8.RuneError && size == 1 {
		dst = append(dst, s[0])
		s = s[1:]
	}
	type mark struct {
		r   rune
		ccc uint8
	}
	var d []mark // the decomposition, in canonical order
	for _, r := range s {
		for _, r := range n.decompose(r) {
			d = append(d, mark{r, n.ccc(r)})
		}
	}
	for i := 0; i < len(d); {
		if d[i].ccc == 0 {
			i++
			continue
		}
		j := i
		for j < len(d) && d[j].ccc != 0 {
			j++
		}
		slices.SortStableFunc(d[i:j], func(a, b mark) int { return int(a.ccc) - int(b.ccc) })
		i = j
	}
	// Canonical composition: each rune joins the last starter unless one
	// between them has the same or a higher class.
	out := d[:0]
	starter, last := -1, uint8(0)
	for _, m := range d {
		if starter >= 0 && (len(out)-1 == starter || last < m.ccc) {
			if c := n.compose(out[starter].r, m.r); c != 0 {
				out[starter].r = c
				continue
			}
		}
		if m.ccc == 0 {
			starter = len(out)
		}
		last = m.ccc
		out = append(out, m)
	}
	for _, m := range out {
		dst = utf8.AppendRune(dst, m.r)
	}
	return dst
}

// Hangul syllables compose by arithmetic: Unicode, section 3.12.
const (
	hangulS, hangulL, hangulV, hangulT = 0xAC00, 0x1100, 0x1161, 0x11A7
	hangulLs, hangulVs, hangulTs       = 19, 21, 28
	hangulSs                           = hangulLs * hangulVs * hangulTs
)

// normalData is the canonical decompositions and combining classes of
// normalRanges.
type normalData struct {
	class map[rune]uint8 // of those that are not 0
	full  map[rune][]rune
	pair  map[[2]rune]rune // first and second, to the primary composite
}

var normal = sync.OnceValue(func() *normalData {
	n := &normalData{class: map[rune]uint8{}, full: map[rune][]rune{}, pair: map[[2]rune]rune{}}
	for i := 0; i < len(normalRanges); i += 2 {
		for r := normalRanges[i]; r <= normalRanges[i+1]; r++ {
			s := string(r)
			p := norm.NFD.PropertiesString(s)
			if c := p.CCC(); c != 0 {
				n.class[r] = c
			}
			if d := p.Decomposition(); d != nil {
				n.full[r] = []rune(string(d))
			}
			if d := n.full[r]; len(d) > 1 && norm.NFC.String(s) == s {
				// d but for its last rune is what that one joins.
				if first := []rune(norm.NFC.String(string(d[:len(d)-1]))); len(first) == 1 {
					n.pair[[2]rune{first[0], d[len(d)-1]}] = r
				}
			}
		}
	}
	return n
})

func (n *normalData) ccc(r rune) uint8 { return n.class[r] }

func (n *normalData) decompose(r rune) []rune {
	if i := r - hangulS; 0 <= i && i < hangulSs {
		d := []rune{hangulL + i/(hangulVs*hangulTs), hangulV + i/hangulTs%hangulVs, hangulT + i%hangulTs}
		if d[2] == hangulT {
			d = d[:2]
		}
		return d
	}
	if d := n.full[r]; d != nil {
		return d
	}
	return []rune{r}
}

// compose returns the rune that a and b are together, or 0.
func (n *normalData) compose(a, b rune) rune {
	if l, v := a-hangulL, b-hangulV; 0 <= l && l < hangulLs && 0 <= v && v < hangulVs {
		return hangulS + (l*hangulVs+v)*hangulTs
	}
	if s, t := a-hangulS, b-hangulT; 0 <= s && s < hangulSs && s%hangulTs == 0 && 0 < t && t < hangulTs {
		return a + t
	}
	return n.pair[[2]rune{a, b}]
}

// unstableRunes returns the runes that are not the same in NFC, or may join
// one before them.
func unstableRunes() []rune {
	n := normal()
	var list []rune
	for r := range n.class {
		list = append(list, r)
	}
	for r := range n.full {
		if norm.NFC.String(string(r)) != string(r) {
			list = append(list, r)
		}
	}
	for p := range n.pair {
		list = append(list, p[1])
	}
	for r := rune(hangulV); r < hangulV+hangulVs; r++ {
		list = append(list, r)
	}
	for r := rune(hangulT + 1); r < hangulT+hangulTs; r++ {
		list = append(list, r)
	}
	return list
}
