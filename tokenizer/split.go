package tokenizer

import "strings"

// A splitter cuts text into the pieces that are encoded each by itself. next
// returns the length in bytes of the first piece of s, which is not empty.
type splitter interface{ next(s string) int }

// The patterns that pre-tokenizers of models use, spelled as in their files.
// Each has a scanner of its own here: package regexp has no lookahead, and an
// engine with another idea of a class or of backtracking would be wrong on
// some text in silence. All other patterns are refused.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// splitterOf returns the scanner of a pattern, nil if there is none.
func splitterOf(pattern string) splitter {
	switch pattern {
	case patternGPT2:
		return gpt2Splitter{runes()}
	case patternLlama3:
		return llama3Splitter{runes(), 3}
	case patternQwen2:
		return llama3Splitter{runes(), 1}
	}
	return nil
}

// splitAll calls yield with the pieces of s, cut by the first splitter, each
// piece then by the next.
func splitAll(s string, by []splitter, yield func(string)) {
	if len(by) == 0 {
		yield(s)
		return
	}
	for len(s) > 0 {
		n := by[0].next(s)
		if len(by) == 1 {
			yield(s[:n])
		} else {
			splitAll(s[:n], by[1:], yield)
		}
		s = s[n:]
	}
}

// gpt2Splitter is patternGPT2.
type gpt2Splitter struct{ *runeTable }

func (t gpt2Splitter) next(s string) int {
	if s[0] == '\'' && len(s) > 1 {
		switch s[1] {
		case 's', 't', 'm', 'd':
			return 2
		case 'r', 'v':
			if len(s) > 2 && s[2] == 'e' {
				return 3
			}
		case 'l':
			if len(s) > 2 && s[2] == 'l' {
				return 3
			}
		}
	}
	i := 0
	if s[0] == ' ' && len(s) > 1 {
		i = 1
	}
	class, size := t.first(s[i:])
	if class == classSpace {
		return t.spaces(s)
	}
	return t.run(s, i+size, class)
}

// spaces is \s+(?!\S)|\s+ at the start of s, where there is a space: all of
// them but the last, unless s ends with them or there is but one.
func (t *runeTable) spaces(s string) int {
	end, last := 0, 0
	for end < len(s) {
		class, size := t.first(s[end:])
		if class != classSpace {
			if last > 0 {
				return last
			}
			break
		}
		last = end
		end += size
	}
	return end
}

// llama3Splitter is patternLlama3, and with digits 1 patternQwen2.
type llama3Splitter struct {
	*runeTable
	digits int
}

func (t llama3Splitter) next(s string) int {
	if s[0] == '\'' {
		if n := contraction(s); n > 0 {
			return n
		}
	}
	class, size := t.first(s)
	switch class {
	case classLetter:
		return t.run(s, size, classLetter)
	case classNumber:
		end := size
		for n := 1; n < t.digits && end < len(s); n++ {
			class, size = t.first(s[end:])
			if class != classNumber {
				break
			}
			end += size
		}
		return end
	}
	newline := s[0] == '\n' || s[0] == '\r'
	if size < len(s) && !newline {
		second, n := t.first(s[size:])
		if second == classLetter {
			return t.run(s, size+n, classLetter)
		}
		if s[0] == ' ' && second == classOther {
			class, size = second, size+n
		}
	}
	if class == classOther {
		end := t.run(s, size, classOther)
		for end < len(s) && (s[end] == '\n' || s[end] == '\r') {
			end++
		}
		return end
	}
	end := t.run(s, size, classSpace)
	if i := strings.LastIndexAny(s[:end], "\r\n"); i >= 0 { // \s*[\r\n]+
		return i + 1
	}
	return t.spaces(s)
}

// contraction is (?i:'s|'t|'re|'ve|'m|'ll|'d) at the start of s, 0 if it is not
// there. The long s, U+017F, folds to s.
func contraction(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch lower(s[1]) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && lower(s[2]) == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && lower(s[2]) == 'l' {
			return 3
		}
	}
	if strings.HasPrefix(s[1:], "ſ") {
		return 1 + len("ſ")
	}
	return 0
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// digitSplitter cuts numbers off, each rune or, if not single, each run of
// them by itself.
type digitSplitter struct {
	*runeTable
	single bool
}

func (t digitSplitter) next(s string) int {
	class, size := t.first(s)
	if class == classNumber {
		if t.single {
			return size
		}
		return t.run(s, size, classNumber)
	}
	for i := size; ; i += size {
		if i == len(s) {
			return i
		}
		if class, size = t.first(s[i:]); class == classNumber {
			return i
		}
	}
}

const metaspace = "▁" // U+2581, what stands for a space

// metaSplitter cuts before each of what stands for a space, or before each run of them.
type metaSplitter struct {
	space string
	runs  bool
}

func (m metaSplitter) next(s string) int {
	i := 0
	if strings.HasPrefix(s, m.space) {
		i = len(m.space)
		for m.runs && strings.HasPrefix(s[i:], m.space) {
			i += len(m.space)
		}
	}
	if j := strings.Index(s[i:], m.space); j >= 0 {
		return i + j
	}
	return len(s)
}
