package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// addedToken is a token that is found in text before anything else is.
type addedToken struct {
	ID      int32
	Content string
	// Special tokens are found in marked-up text only: see EncodePlain.
	Special bool
	// LStrip and RStrip take the white space before and after into the token.
	LStrip, RStrip bool
	// Normalized tokens are looked for, normalized, in normalized text.
	Normalized bool
}

// matcher finds added tokens, the leftmost first and of those the longest.
type matcher struct {
	trie   *trie
	tokens []addedToken // what the trie's values index
	first  [256]bool    // bytes that a token begins with
	only   int          // the one such byte, or -1
}

// newMatcher returns a matcher of tokens as the spellings have them, nil if
// there are none.
func newMatcher(tokens []addedToken, spellings []string) (*matcher, error) {
	if len(tokens) == 0 {
		return nil, nil
	}
	t, err := trieOf(spellings, nil)
	if err != nil {
		return nil, err
	}
	m := &matcher{trie: t, tokens: tokens, only: int(spellings[0][0])}
	for _, s := range spellings {
		m.first[s[0]] = true
		if int(s[0]) != m.only {
			m.only = -1
		}
	}
	return m, nil
}

// find returns the first token in s from i on: its start and end, and which it
// is, nil if there is none.
func (m *matcher) find(s string, i int) (start, end int, token *addedToken) {
	for i < len(s) {
		if m.only >= 0 {
			n := strings.IndexByte(s[i:], byte(m.only))
			if n < 0 {
				break
			}
			i += n
		} else if !m.first[s[i]] {
			i++
			continue
		}
		if v, n := m.trie.longest(s[i:]); v >= 0 {
			return i, i + n, &m.tokens[v]
		}
		i++
	}
	return len(s), len(s), nil
}

// split calls text with what is between the tokens in s, and where it starts,
// and token with each token, and where it ends. Where plain, which may be nil,
// says so of its start and end, a special token is text.
func (m *matcher) split(s string, plain func(start, end int) bool, text func(s string, at int), token func(t *addedToken, end int)) {
	done := 0
	for i := 0; m != nil && i < len(s); {
		start, end, t := m.find(s, i)
		if t == nil {
			break
		}
		i = end
		if t.Special && plain != nil && plain(start, end) {
			continue
		}
		if t.LStrip {
			start = max(spaceBefore(s[:start]), done)
		}
		if t.RStrip {
			end = runes().run(s, end, classSpace)
		}
		if done < start {
			text(s[done:start], done)
		}
		if start < end { // else the token before took all of it as white space
			token(t, end)
		}
		done = end
	}
	if done < len(s) {
		text(s[done:], done)
	}
}

// spaceBefore returns where the white space at the end of s begins.
func spaceBefore(s string) int {
	t, i := runes(), len(s)
	for i > 0 {
		r, size := utf8.DecodeLastRuneInString(s[:i])
		if t.of(r)&classMask != classSpace {
			break
		}
		i -= size
	}
	return i
}
