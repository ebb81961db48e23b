package chat

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// specials are the spellings of the tokens that mark up a text, by their first
// byte, the longest first.
type specials struct{ by [256][]string }

func specialsOf(o Options) (s specials) {
	add := func(token string) {
		if token != "" && !slices.Contains(s.by[token[0]], token) {
			s.by[token[0]] = append(s.by[token[0]], token)
		}
	}
	add(o.BOS)
	add(o.EOS)
	if o.Tokenizer != nil {
		for id := range int32(o.Tokenizer.VocabSize()) {
			if o.Tokenizer.Special(id) {
				add(o.Tokenizer.Token(id))
			}
		}
	}
	for _, tokens := range s.by {
		slices.SortFunc(tokens, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	}
	return s
}

// find returns the first special token in text from i on, or an empty span at
// the end.
func (s *specials) find(text string, i int) tokenizer.Span {
	for ; i < len(text); i++ {
		for _, token := range s.by[text[i]] {
			if strings.HasPrefix(text[i:], token) {
				return tokenizer.Span{Start: i, End: i + len(token)}
			}
		}
	}
	return tokenizer.Span{Start: len(text), End: len(text)}
}

// cut puts a mark behind the first rune of every special token in text, so
// that it is none any more.
func (s *specials) cut(text string, mark rune) string {
	var b strings.Builder
	done := 0
	for {
		at := s.find(text, done)
		if at.Start == at.End {
			b.WriteString(text[done:])
			return b.String()
		}
		_, size := utf8.DecodeRuneInString(text[at.Start:])
		b.WriteString(text[done : at.Start+size])
		b.WriteRune(mark)
		done = at.Start + size
	}
}
