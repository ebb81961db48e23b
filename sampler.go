package chainrule

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// SamplerOptions says how tokens are drawn. The zero value always takes the
// most likely one.
//
// The options act in the order of the fields, as Hugging Face transformers'
// logits processors do: each on what the one before has left.
type SamplerOptions struct {
	// RepetitionPenalty divides the logits of tokens that the sequence has,
	// those above 0, and multiplies those below (Keskar et al., CTRL, 2019,
	// with transformers' treatment of signs); 0 or 1: none.
	RepetitionPenalty float64
	// RepetitionWindow is how many of the last tokens are penalized; 0: all.
	RepetitionWindow int

	Temperature float64 // divides the logits; 0: greedy
	TopK        int     // draw from the k most likely tokens; 0: from all
	TopP        float64 // draw from the fewest that together have this probability; 0 or 1: from all
	MinP        float64 // draw from those that have this share of the most likely one's probability; 0: from all

	Seed uint64 // the same seed draws the same tokens
}

// Sampler draws tokens from logits.
type Sampler struct {
	o      SamplerOptions
	rng    *rand.Rand
	order  []candidate
	top    []candidate
	scores []float32 // penalized logits
	seen   map[int32]struct{}
}

type candidate struct {
	token int32
	p     float64 // first the logit, then the probability, up to a factor
}

// NewSampler returns a Sampler. An error says which option is out of range.
func NewSampler(o SamplerOptions) (*Sampler, error) {
	switch {
	case !(o.RepetitionPenalty >= 0) || math.IsInf(o.RepetitionPenalty, 0):
		return nil, fmt.Errorf("chainrule: SamplerOptions.RepetitionPenalty is %v, want more than 0", o.RepetitionPenalty)
	case o.RepetitionWindow < 0:
		return nil, fmt.Errorf("chainrule: SamplerOptions.RepetitionWindow is %d, want 0 or more", o.RepetitionWindow)
	case !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0):
		return nil, fmt.Errorf("chainrule: SamplerOptions.Temperature is %v, want 0 or more", o.Temperature)
	case o.TopK < 0:
		return nil, fmt.Errorf("chainrule: SamplerOptions.TopK is %d, want 0 or more", o.TopK)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return nil, fmt.Errorf("chainrule: SamplerOptions.TopP is %v, want 0 to 1", o.TopP)
	case !(o.MinP >= 0 && o.MinP <= 1):
		return nil, fmt.Errorf("chainrule: SamplerOptions.MinP is %v, want 0 to 1", o.MinP)
	}
	return &Sampler{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x636861696e)), seen: map[int32]struct{}{}}, nil
}

// Sample draws a token from logits [V], those behind the tokens before, which
// matter to a repetition penalty only: Session.Tokens are they. Of equal logits
// the lowest token comes first. The error says that a logit is NaN or +Inf, or
// all are -Inf.
func (s *Sampler) Sample(logits []float32, before ...int32) (int32, error) {
	order, sum, err := s.distribution(logits, before)
	if err != nil {
		return 0, err
	}
	if s.greedy() {
		return order[0].token, nil
	}
	u := s.rng.Float64() * sum
	best := order[0]
	for _, c := range order {
		if u -= c.p; u < 0 {
			return c.token, nil
		}
		if c.p > best.p {
			best = c
		}
	}
	return best.token, nil // rounding used up the sum
}

func (s *Sampler) greedy() bool { return s.o.Temperature == 0 || s.o.TopK == 1 }

// distribution returns the tokens to draw from, and the sum of their p. Greedy, it is one token.
func (s *Sampler) distribution(logits []float32, before []int32) (order []candidate, sum float64, err error) {
	logits = s.penalized(logits, before)
	best := -1
	for i, l := range logits {
		if l != l || l > math.MaxFloat32 {
			return nil, 0, fmt.Errorf("chainrule: the logit of token %d is %v", i, l)
		}
		if l >= -math.MaxFloat32 && (best < 0 || l > logits[best]) {
			best = i
		}
	}
	if best < 0 {
		return nil, 0, errors.New("chainrule: no token has a finite logit")
	}
	s.order = s.order[:0]
	if s.greedy() {
		return append(s.order, candidate{int32(best), 1}), 1, nil
	}
	for i, l := range logits {
		s.order = append(s.order, candidate{int32(i), float64(l)})
	}
	order = s.order
	if s.o.TopK > 0 && s.o.TopK < len(order) {
		top := s.likeliest(func(n int, _ float64) bool { return n == s.o.TopK })
		order = append(order[:0], top...)
	}
	for i := range order {
		p := math.Exp((order[i].p - float64(logits[best])) / s.o.Temperature)
		order[i].p = p
		sum += p
	}
	if s.o.TopP > 0 && s.o.TopP < 1 {
		// All below this share have less than may go: the heap need not hold them.
		least := (1 - s.o.TopP) * sum / float64(2*len(order))
		s.order = slices.DeleteFunc(order, func(c candidate) bool { return c.p < least })
		kept := 0.0
		order = s.likeliest(func(_ int, p float64) bool {
			kept += p
			return kept >= s.o.TopP*sum
		})
		sum = kept
	}
	if s.o.MinP > 0 { // the most likely token has p = 1
		order = slices.DeleteFunc(order, func(c candidate) bool { return c.p < s.o.MinP })
		sum = 0
		for _, c := range order {
			sum += c.p
		}
	}
	return order, sum, nil
}

// likeliest takes candidates of s.order, the most likely first and of equal ones the
// lowest token, until enough, told their number and the p of the last, says so.
func (s *Sampler) likeliest(enough func(n int, p float64) bool) []candidate {
	heap := s.order
	for i := len(heap)/2 - 1; i >= 0; i-- {
		sift(heap, i)
	}
	s.top = s.top[:0]
	for len(heap) > 0 {
		top, last := heap[0], len(heap)-1
		s.top = append(s.top, top)
		if enough(len(s.top), top.p) {
			break
		}
		heap[0] = heap[last]
		heap = heap[:last]
		sift(heap, 0)
	}
	return s.top
}

// sift moves the candidate i of a heap down to where it belongs.
func sift(heap []candidate, i int) {
	before := func(a, b candidate) bool { return a.p > b.p || a.p == b.p && a.token < b.token }
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && before(heap[child+1], heap[child]) {
			child++
		}
		if !before(heap[child], heap[i]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}

// penalized returns logits with the repetition penalty on the tokens before.
func (s *Sampler) penalized(logits []float32, before []int32) []float32 {
	penalty := float32(s.o.RepetitionPenalty)
	if penalty == 0 || penalty == 1 || len(before) == 0 {
		return logits
	}
	if w := s.o.RepetitionWindow; w > 0 && w < len(before) {
		before = before[len(before)-w:]
	}
	s.scores = append(s.scores[:0], logits...)
	clear(s.seen)
	for _, token := range before {
		if token < 0 || int(token) >= len(logits) {
			continue
		}
		if _, again := s.seen[token]; again {
			continue
		}
		s.seen[token] = struct{}{}
		if l := &s.scores[token]; *l < 0 {
			*l *= penalty
		} else {
			*l /= penalty
		}
	}
	return s.scores
}

// TokenLogProb is a token and the natural logarithm of its probability.
type TokenLogProb struct {
	Token   int32
	LogProb float64
}

// LogProb returns the natural logarithm of the probability of a token by logits
// [V], as the model has it: before temperature, penalty and the rest. It is
// NaN where the logits are none that Sample takes.
func LogProb(logits []float32, token int32) float64 {
	return float64(logits[token]) - logSumExp(logits)
}

// TopLogProbs returns the n most likely tokens by logits [V], with what
// LogProb says of them, the most likely first and of equal ones the lowest.
func TopLogProbs(logits []float32, n int) []TokenLogProb {
	sum := logSumExp(logits)
	all := make([]TokenLogProb, len(logits))
	for i, l := range logits {
		all[i] = TokenLogProb{int32(i), float64(l) - sum}
	}
	slices.SortFunc(all, func(a, b TokenLogProb) int {
		return cmp.Or(cmp.Compare(b.LogProb, a.LogProb), cmp.Compare(a.Token, b.Token))
	})
	return slices.Clone(all[:max(0, min(n, len(all)))])
}

func logSumExp(logits []float32) float64 {
	best := float64(slices.Max(logits))
	var sum float64
	for _, l := range logits {
		sum += math.Exp(float64(l) - best)
	}
	return best + math.Log(sum)
}
