package tokenizer

import "strings"

// alignment says where the bytes of a text that was changed come from. A nil
// one keeps no account.
type alignment struct {
	from int   // where the text begins in the original
	ends []int // of each byte, the end of what it comes from in the original
}

// align is the alignment of n bytes from the given one on that are not changed yet.
func align(from, n int) *alignment {
	a := &alignment{from: from, ends: make([]int, n)}
	for i := range a.ends {
		a.ends[i] = from + i + 1
	}
	return a
}

// at returns where the original of the first n bytes ends.
func (a *alignment) at(n int) int {
	if n == 0 {
		return a.from
	}
	return a.ends[n-1]
}

// slice is the alignment of n bytes from i on.
func (a *alignment) slice(i, n int) *alignment {
	if a == nil {
		return nil
	}
	return &alignment{a.at(i), a.ends[i : i+n : i+n]}
}

// prepend returns s after prefix.
func (a *alignment) prepend(prefix, s string) string {
	if a != nil {
		ends := make([]int, len(prefix), len(prefix)+len(s))
		for i := range ends {
			ends[i] = a.from
		}
		a.ends = append(ends, a.ends...)
	}
	return prefix + s
}

// replace returns s with all old replaced by to.
func (a *alignment) replace(s, old, to string) string {
	if a != nil {
		var ends []int
		done := 0
		for {
			i := strings.Index(s[done:], old)
			if i < 0 {
				break
			}
			ends = append(ends, a.ends[done:done+i]...)
			done += i + len(old)
			for range len(to) {
				ends = append(ends, a.ends[done-1])
			}
		}
		a.ends = append(ends, a.ends[done:]...)
	}
	return strings.ReplaceAll(s, old, to)
}
