package tokenizer

import (
	"math"
	"unicode/utf8"
)

// unknownPenalty is how much less than the lowest score an unknown character has.
const unknownPenalty = 10

func (s *SentencePiece) initUnigram() (err error) {
	// The library's limits: the greatest score is at least the least positive
	// float32, which has a part in the score of user-defined tokens.
	s.minScore, s.maxScore = math.MaxFloat32, 0x1p-126
	var tokens []string
	var ids []int32
	for id, t := range s.o.Tokens {
		switch s.o.Types[id] {
		case 0, Normal:
			s.minScore, s.maxScore = min(s.minScore, s.o.Scores[id]), max(s.maxScore, s.o.Scores[id])
		case UserDefined, Unused:
		default:
			continue
		}
		tokens, ids = append(tokens, t), append(ids, int32(id))
	}
	if len(tokens) == 0 {
		return fail(ErrVocab, "no token is of text")
	}
	s.trie, err = trieOf(tokens, ids)
	return err
}

// bestPath is the last token of the best tokens that end at a byte.
type bestPath struct {
	score float32 // of all of them
	start int32   // where the last begins, -1: no tokens end here
	id    int32
}

// encodeUnigram appends the most likely ids of normalized text: Viterbi's
// algorithm, with the library's roundings, which decide between near equals.
func (s *SentencePiece) encodeUnigram(ids []int32, text string, st *spScratch) []int32 {
	if text == "" {
		return ids
	}
	best := st.best[:0]
	for range len(text) + 1 {
		best = append(best, bestPath{start: -1})
	}
	st.best = best
	unkScore := s.minScore - unknownPenalty
	for at := 0; at < len(text); {
		_, size := utf8.DecodeRuneInString(text[at:])
		here := best[at].score
		whole := false // a token is this one character
		node := uint32(0)
		for end := at; end < len(text); {
			if node = s.trie.step(node, text[end]); node == 0 {
				break
			}
			end++
			id := s.trie.value[node]
			if id < 0 || s.o.Types[id] == Unused {
				continue
			}
			score := float64(s.o.Scores[id])
			if s.o.Types[id] == UserDefined {
				score = float64(float32(end-at)*s.maxScore) - 0.1
			}
			score += float64(here)
			if b := &best[end]; b.start < 0 || score > float64(b.score) {
				*b = bestPath{float32(score), int32(at), id}
			}
			whole = whole || end-at == size
		}
		if !whole {
			score := unkScore + here
			if b := &best[at+size]; b.start < 0 || score > b.score {
				*b = bestPath{score, int32(at), s.unk}
			}
		}
		at += size
	}
	syms := st.syms[:0]
	for end := int32(len(text)); end > 0; end = best[end].start {
		syms = append(syms, end)
	}
	st.syms = syms
	afterUnk := false
	for i := len(syms) - 1; i >= 0; i-- {
		b := best[syms[i]]
		if b.id == s.unk {
			ids = s.appendUnknown(ids, text[b.start:syms[i]], &afterUnk, st)
			continue
		}
		afterUnk = false
		ids = st.emit(ids, b.id, int(syms[i]-b.start))
	}
	return ids
}
