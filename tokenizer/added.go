package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// AddedToken is a token that is found in text before anything else is.
type AddedToken struct {
	ID      int32
	Content string
	// Special tokens mark text up: EncodePlain does not find them.
	Special bool
	// LStrip and RStrip take the white space before and after into the token.
	LStrip, RStrip bool
	// Normalized tokens are looked for, normalized, in normalized text.
	Normalized bool
}

// AddTokens returns a tokenizer that has these tokens too, or b if it has them
// already. One that b has added takes what the new one says; one of the
// vocabulary must have its id. Others count on from VocabSize.
func (b *BPE) AddTokens(tokens ...AddedToken) (*BPE, error) {
	added, changed := slices.Clone(b.spec.added), false
	for _, t := range tokens {
		i := slices.IndexFunc(added, func(a AddedToken) bool { return a.Content == t.Content })
		switch {
		case i < 0:
			added, changed = append(added, t), true
		case added[i] != t:
			added[i], changed = t, true
		}
	}
	if !changed {
		return b, nil
	}
	s := *b.spec
	s.added = added
	with, err := newBPE(&s)
	return with, in("options", err)
}

// AddTokens returns a tokenizer that has these tokens too, or s if it has them
// already. Special ones are found by EncodeMarkup only. One of the vocabulary
// must have its id, others count on from VocabSize; white space beside a token
// is text, whatever LStrip and RStrip say.
func (s *SentencePiece) AddTokens(tokens ...AddedToken) (*SentencePiece, error) {
	o, changed := s.o, false
	o.Tokens, o.Scores, o.Types = slices.Clone(o.Tokens), slices.Clone(o.Scores), slices.Clone(o.Types)
	for _, t := range tokens {
		typ := UserDefined
		if t.Special {
			typ = Control
		}
		id, ok := s.ID(t.Content)
		switch {
		case ok && id != t.ID:
			return nil, in("options", fail(ErrVocab, "added token %q has the id %d, want %d", short(t.Content), t.ID, id))
		case ok && (o.Types[id] == Control || o.Types[id] == Unknown || o.Types[id] == UserDefined && !t.Special):
		case ok:
			o.Types[id], changed = typ, true
		case int(t.ID) != len(o.Tokens):
			return nil, in("options", fail(ErrVocab, "added token %q has the id %d, but %d comes next", short(t.Content), t.ID, len(o.Tokens)))
		default:
			o.Tokens, o.Scores, o.Types = append(o.Tokens, t.Content), append(o.Scores, 0), append(o.Types, typ)
			changed = true
		}
	}
	if !changed {
		return s, nil
	}
	return NewSentencePiece(o)
}

// matcher finds added tokens, the leftmost first and of those the longest.
type matcher struct {
	trie   *trie
	tokens []AddedToken // what the trie's values index
	first  [256]bool    // bytes that a token begins with
	only   int          // the one such byte, or -1
}

// newMatcher returns a matcher of tokens as the spellings have them, nil if
// there are none.
func newMatcher(tokens []AddedToken, spellings []string) (*matcher, error) {
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
func (m *matcher) find(s string, i int) (start, end int, token *AddedToken) {
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
func (m *matcher) split(s string, plain func(start, end int) bool, text func(s string, at int), token func(t *AddedToken, end int)) {
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
