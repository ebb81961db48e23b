package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// initBPE turns scores of tokens into ranks of the pairs of symbols that make
// them. A symbol is a token, or a character that is no token.
func (s *SentencePiece) initBPE() error {
	n := len(s.o.Tokens)
	s.letters = map[string]int32{}
	s.cutWords = true
	// In order of score; equal scores have one rank, so that the leftmost
	// pair of them is first.
	order := make([]int32, 0, len(s.ids))
	for id, t := range s.o.Tokens {
		if k := s.o.Types[id]; k != Normal && k != UserDefined && k != Unused && k != 0 {
			continue
		}
		order = append(order, int32(id))
		if strings.Contains(strings.TrimLeft(t, s.space), s.space) {
			s.cutWords = false
		}
		for i, r := range t {
			c := t[i : i+utf8.RuneLen(r)]
			if _, ok := s.ids[c]; !ok {
				if _, ok := s.letters[c]; !ok {
					s.letters[c] = int32(n + len(s.letters))
					s.letterOf = append(s.letterOf, c)
				}
			}
		}
	}
	s.frozen = int32(n + len(s.letters))
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(s.o.Scores[b], s.o.Scores[a]), cmp.Compare(a, b))
	})
	symbol := func(t string) (int32, bool) {
		if id, ok := s.ids[t]; ok {
			return id, true
		}
		id, ok := s.letters[t]
		return id, ok
	}
	type rule struct {
		left, right, id int32
		rank            uint32
	}
	var rules []rule
	rank := uint32(0)
	for i, id := range order {
		if i > 0 && s.o.Scores[id] != s.o.Scores[order[i-1]] {
			rank = uint32(i)
		}
		t := s.o.Tokens[id]
		for cut := range t {
			if cut == 0 {
				continue
			}
			left, ok := symbol(t[:cut])
			if !ok {
				continue
			}
			if right, ok := symbol(t[cut:]); ok {
				rules = append(rules, rule{left, right, id, rank})
				s.unused = s.unused || s.o.Types[id] == Unused
			}
		}
	}
	s.pairs = newPairTable(len(rules))
	for _, r := range rules {
		s.pairs.set(r.left, r.right, r.rank, r.id)
	}
	_, ok := s.ids[s.space]
	s.cutWords = s.cutWords && !s.unused && ok
	return nil
}

// word appends the ids of a word, from the cache if it is there.
func (s *SentencePiece) word(ids []int32, w string, st *spScratch) []int32 {
	if len(w) > cachedBytes || st.ends != nil {
		return s.encodeBPE(ids, w, st)
	}
	if c, ok := st.cache[w]; ok {
		return append(ids, st.arena[c.at:c.at+c.n]...)
	}
	n := len(ids)
	ids = s.encodeBPE(ids, w, st)
	if len(st.cache) >= cachedWords {
		clear(st.cache)
		st.arena = st.arena[:0]
	}
	st.cache[strings.Clone(w)] = cached{uint32(len(st.arena)), uint32(len(ids) - n)}
	st.arena = append(st.arena, ids[n:]...)
	return ids
}

// encodeBPE appends the ids of normalized text. Symbols below 0 are
// characters of no token.
func (s *SentencePiece) encodeBPE(ids []int32, text string, st *spScratch) []int32 {
	syms := st.syms[:0]
	for i := 0; i < len(text); {
		if s.users != nil {
			if v, n := s.users.trie.longest(text[i:]); n > 0 {
				syms = append(syms, s.frozen+s.users.tokens[v].ID)
				i += n
				continue
			}
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		c := text[i : i+n]
		i += n
		if id, ok := s.ids[c]; ok {
			syms = append(syms, id)
		} else if id, ok := s.letters[c]; ok {
			syms = append(syms, id)
		} else {
			syms = append(syms, -1-r)
		}
	}
	st.syms = syms
	var halves map[int32][2]int32
	if s.unused {
		halves = map[int32][2]int32{}
		st.made = func(left, right, id int32) {
			if s.o.Types[id] == Unused {
				halves[id] = [2]int32{left, right}
			}
		}
	}
	out := st.merge(s.pairs, syms)
	afterUnk := false
	for _, sym := range out {
		ids = s.appendSymbol(ids, sym, halves, &afterUnk, st)
	}
	return ids
}

// appendSymbol appends the ids of a symbol: of an Unused token those of the
// pair that last made it.
func (s *SentencePiece) appendSymbol(ids []int32, sym int32, halves map[int32][2]int32, afterUnk *bool, st *spScratch) []int32 {
	n := int32(len(s.o.Tokens))
	switch {
	case sym >= s.frozen:
		sym -= s.frozen
	case sym < 0, sym >= n:
		return s.appendUnknown(ids, s.character(sym), afterUnk, st)
	case s.o.Types[sym] == Unused:
		if h, ok := halves[sym]; ok {
			ids = s.appendSymbol(ids, h[0], halves, afterUnk, st)
			return s.appendSymbol(ids, h[1], halves, afterUnk, st)
		}
	}
	*afterUnk = false
	return st.emit(ids, sym, len(s.o.Tokens[sym]))
}

// character is what a symbol that is no token is.
func (s *SentencePiece) character(sym int32) string {
	if sym < 0 {
		return string(-1 - sym)
	}
	return s.letterOf[sym-int32(len(s.o.Tokens))]
}

// appendUnknown appends the bytes of what has no token or, where bytes have
// none, the unknown token, once for all that follow each other.
func (s *SentencePiece) appendUnknown(ids []int32, text string, after *bool, st *spScratch) []int32 {
	if s.byteID[0] >= 0 {
		for i := range len(text) {
			ids = st.emit(ids, s.byteID[text[i]], 1)
		}
		return ids
	}
	if *after { // goes to the one before
		if st.ends != nil {
			st.done += len(text)
			(*st.ends)[len(*st.ends)-1] = st.a.at(st.done)
		}
		return ids
	}
	*after = true
	return st.emit(ids, s.unk, len(text))
}
