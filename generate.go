package chainrule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/mem"
	"github.com/chainrule-go/chainrule/ops"
)

// SessionOptions sizes a Session. The zero value suits a single conversation.
type SessionOptions struct {
	MaxLen int // tokens a sequence may have; 0: the model's SeqLen, but at most 2048
	Batch  int // sequences; 0: 1
}

// Session generates text: it holds the KV cache of one or more sequences, so
// that a new token costs one row of products. Its logits are those of Forward
// up to rounding. The weights may not change while it has tokens in its cache.
// One goroutine uses a Session at a time.
type Session struct {
	m       *Model
	backend backend.Backend
	maxLen  int
	keys    [][]float32 // per layer [Batch,MaxLen,KV], behind RoPE
	values  [][]float32 // per layer [Batch,MaxLen,KV]
	lens    []int       // tokens in the cache of each sequence

	cos, sin                   []float32 // [MaxLen,HD/2]
	rows                       int       // what the buffers below hold
	x, norm, qkv, att, branch  []float32
	rstd, h13, act, ends, outs []float32
	spans                      []span
	tokens                     []int32
}

// span is a run of consecutive tokens of one sequence in a pass.
type span struct{ seq, pos, n int }

// prefillRows is the largest number of rows in one pass: a longer prompt takes
// several, so that its activations stay small.
const prefillRows = 512

// NewSession returns a Session with empty sequences. The memory of the cache
// is 2·NLayers·Batch·MaxLen·KV float32; it does not depend on SeqLen. An error
// says which option is out of range.
func NewSession(m *Model, be backend.Backend, o SessionOptions) (*Session, error) {
	if m == nil || be == nil {
		panic("chainrule: NewSession: nil Model or Backend")
	}
	if o.MaxLen == 0 {
		o.MaxLen = min(m.SeqLen, 2048)
	}
	if o.Batch == 0 {
		o.Batch = 1
	}
	if o.MaxLen < 1 || o.MaxLen > m.SeqLen {
		return nil, fmt.Errorf("chainrule: SessionOptions.MaxLen is %d, want 1 to Config.SeqLen %d", o.MaxLen, m.SeqLen)
	}
	if most := min(maxParams/m.kv()/o.MaxLen, maxParams/m.VocabSize); o.Batch < 1 || o.Batch > most {
		return nil, fmt.Errorf("chainrule: SessionOptions.Batch is %d, want 1 to %d", o.Batch, most)
	}
	s := &Session{
		m: m, backend: be, maxLen: o.MaxLen, lens: make([]int, o.Batch),
		keys: make([][]float32, m.NLayers), values: make([][]float32, m.NLayers),
		cos: make([]float32, o.MaxLen*m.HeadDim/2), sin: make([]float32, o.MaxLen*m.HeadDim/2),
		ends: make([]float32, o.Batch*m.Dim), outs: make([]float32, o.Batch*m.VocabSize),
	}
	for i := range s.keys {
		s.keys[i] = mem.Floats(o.Batch * o.MaxLen * m.kv())
		s.values[i] = mem.Floats(o.Batch * o.MaxLen * m.kv())
	}
	ops.RopeTable(s.cos, s.sin, m.ropeFrequencies(), o.MaxLen)
	return s, nil
}

// Len returns the number of tokens in the cache of a sequence.
func (s *Session) Len(seq int) int {
	s.need(seq)
	return s.lens[seq]
}

// need panics unless the Session has the sequence.
func (s *Session) need(seq int) {
	if seq < 0 || seq >= len(s.lens) {
		panic("chainrule: Session: there is no such sequence")
	}
}

// MaxLen returns the number of tokens that a sequence may have.
func (s *Session) MaxLen() int { return s.maxLen }

// Truncate forgets all but the first n tokens of a sequence.
func (s *Session) Truncate(seq, n int) {
	s.need(seq)
	if n < 0 || n > s.lens[seq] {
		panic("chainrule: Session.Truncate: n is not between 0 and Len")
	}
	s.lens[seq] = n
}

// ErrContextFull says that a sequence has no room for the tokens.
var ErrContextFull = errors.New("chainrule: the context is full")

// Append adds tokens, one or more, to a sequence, and returns the logits [V]
// behind the last of them, in the Session's own memory: valid until the next
// call. All tokens go through the model together. An error is ErrContextFull,
// that of a token outside the vocabulary, or of the Backend; the sequence then
// has the tokens it had before.
func (s *Session) Append(seq int, tokens []int32) (logits []float32, err error) {
	if len(tokens) == 0 {
		panic("chainrule: Session.Append: no tokens")
	}
	s.need(seq)
	if err := checkTokens("token", tokens, len(tokens), 0, s.m.VocabSize); err != nil {
		return nil, err
	}
	before := s.lens[seq]
	if len(tokens) > s.maxLen-before {
		return nil, fmt.Errorf("%w: %d tokens after %d, MaxLen is %d", ErrContextFull, len(tokens), before, s.maxLen)
	}
	for len(tokens) > 0 {
		n := min(len(tokens), prefillRows)
		s.spans = append(s.spans[:0], span{seq, s.lens[seq], n})
		if err := s.pass(tokens[:n]); err != nil {
			s.lens[seq] = before
			return nil, err
		}
		tokens = tokens[n:]
	}
	return s.outs[:s.m.VocabSize], nil
}

// Step adds one token to every sequence, tokens [Batch], and returns the
// logits [Batch,V] behind them, in the Session's own memory: valid until the
// next call. A negative token leaves its sequence alone, and its row of the
// logits is not defined. Errors are Append's.
func (s *Session) Step(tokens []int32) (logits []float32, err error) {
	if len(tokens) != len(s.lens) {
		panic("chainrule: Session.Step: not one token a sequence")
	}
	if err := checkTokens("token", tokens, 1, -1<<31, s.m.VocabSize); err != nil {
		return nil, err
	}
	s.spans, s.tokens = s.spans[:0], s.tokens[:0]
	for seq, token := range tokens {
		if token < 0 {
			continue
		}
		if s.lens[seq] == s.maxLen {
			return nil, fmt.Errorf("%w: sequence %d has MaxLen %d tokens", ErrContextFull, seq, s.maxLen)
		}
		s.spans = append(s.spans, span{seq, s.lens[seq], 1})
		s.tokens = append(s.tokens, token)
	}
	if err := s.pass(s.tokens); err != nil {
		for _, sp := range s.spans {
			s.lens[sp.seq] = sp.pos
		}
		return nil, err
	}
	V := s.m.VocabSize
	for i := len(s.spans) - 1; i >= 0; i-- { // to the rows of their sequences, which lie behind
		if seq := s.spans[i].seq; seq != i {
			copy(s.outs[seq*V:][:V], s.outs[i*V:][:V])
		}
	}
	return s.outs, nil
}

// pass runs the tokens of s.spans through the model and leaves the logits
// behind the last token of each span in s.outs. It is Forward with the keys
// and values in a cache.
func (s *Session) pass(tokens []int32) error {
	m, c, n := s.m, s.m.Config, len(tokens)
	if n == 0 {
		return nil
	}
	C, H, Q, KV, NH, NKV, HD := c.Dim, c.HiddenDim, c.q(), c.kv(), c.NHeads, c.NKVHeads, c.HeadDim
	stride := Q + 2*KV
	s.grow(n)
	ops.Embedding(s.x, m.TokenEmbedding, tokens, n, C)
	for i := range m.Layers {
		l, w := &m.Layers[i], &m.layers[i]
		ops.RMSNorm(s.norm, s.rstd, s.x, l.RMSAtt, n, C, c.NormEps)
		if err := s.backend.Linear(s.qkv, s.norm, &w.wqkv, n); err != nil {
			return productError("Wqkv", i, err)
		}
		if c.QKVBias {
			ops.AddBias(s.qkv, l.Bqkv, n, stride)
		}
		if c.QKNorm {
			ops.RMSNormHeads(s.qkv, s.rstd, s.qkv, l.QNorm, n, NH, HD, stride, stride, c.NormEps)
			ops.RMSNormHeads(s.qkv[Q:], s.rstd, s.qkv[Q:], l.KNorm, n, NKV, HD, stride, stride, c.NormEps)
		}
		row := 0
		for _, sp := range s.spans {
			qkv, angles := s.qkv[row*stride:], sp.pos*HD/2
			ops.Rope(qkv, s.cos[angles:], s.sin[angles:], sp.n, sp.n, NH+NKV, HD, stride)
			k := s.keys[i][sp.seq*s.maxLen*KV:][:s.maxLen*KV]
			v := s.values[i][sp.seq*s.maxLen*KV:][:s.maxLen*KV]
			ops.CopyColumns(k[sp.pos*KV:], qkv[Q:], sp.n, KV, KV, stride)
			ops.CopyColumns(v[sp.pos*KV:], qkv[Q+KV:], sp.n, KV, KV, stride)
			ops.AttentionCached(s.att[row*Q:], qkv, k, v, sp.n, sp.pos, NH, NKV, HD, stride)
			row += sp.n
		}
		if err := s.backend.Linear(s.branch, s.att, &w.wo, n); err != nil {
			return productError("Wo", i, err)
		}
		ops.Add(s.x, s.x, s.branch, n*C)

		ops.RMSNorm(s.norm, s.rstd, s.x, l.RMSFFN, n, C, c.NormEps)
		if err := s.backend.Linear(s.h13, s.norm, &w.w13, n); err != nil {
			return productError("W13", i, err)
		}
		ops.SwiGLU(s.act, s.h13, n, H)
		if err := s.backend.Linear(s.branch, s.act, &w.w2, n); err != nil {
			return productError("W2", i, err)
		}
		ops.Add(s.x, s.x, s.branch, n*C)
	}
	row := 0
	for i, sp := range s.spans {
		row += sp.n
		copy(s.ends[i*C:][:C], s.x[(row-1)*C:][:C])
	}
	ops.RMSNorm(s.ends, s.rstd, s.ends, m.RMSFinal, len(s.spans), C, c.NormEps)
	if err := s.backend.Linear(s.outs, s.ends, &m.wcls, len(s.spans)); err != nil {
		return productError("Wcls", -1, err)
	}
	for _, sp := range s.spans {
		s.lens[sp.seq] += sp.n
	}
	return nil
}

// grow makes the buffers of a pass hold n rows.
func (s *Session) grow(n int) {
	if n <= s.rows {
		return
	}
	c := s.m.Config
	s.rows = n
	for _, b := range []struct {
		buffer *[]float32
		width  int
	}{
		{&s.x, c.Dim}, {&s.norm, c.Dim}, {&s.branch, c.Dim}, {&s.qkv, c.qkv()}, {&s.att, c.q()},
		{&s.h13, 2 * c.HiddenDim}, {&s.act, c.HiddenDim}, {&s.rstd, c.NHeads},
	} {
		*b.buffer = make([]float32, n*b.width)
	}
}

// Generate appends prompt to the first sequence and yields the tokens that
// sampler draws, one after the other, each of them appended when the next is
// asked for. It ends when the caller stops, when the context is full
// (Len(0) is MaxLen), or with an error: that of ctx, of the sampler, or of
// Append.
func (s *Session) Generate(ctx context.Context, prompt []int32, sampler *Sampler) iter.Seq2[int32, error] {
	if sampler == nil {
		panic("chainrule: Session.Generate: nil Sampler")
	}
	return func(yield func(int32, error) bool) {
		next := prompt
		if len(next) == 0 {
			yield(0, errors.New("chainrule: Generate: the prompt has no tokens"))
			return
		}
		for {
			if err := context.Cause(ctx); err != nil {
				yield(0, err)
				return
			}
			logits, err := s.Append(0, next)
			if err != nil {
				yield(0, err)
				return
			}
			token, err := sampler.Sample(logits)
			if err != nil {
				yield(0, err)
				return
			}
			if !yield(token, nil) || s.lens[0] == s.maxLen {
				return
			}
			next = []int32{token}
		}
	}
}

// SamplerOptions says how tokens are drawn. The zero value always takes the
// most likely one.
type SamplerOptions struct {
	Temperature float64 // divides the logits; 0: greedy
	TopK        int     // draw from the k most likely tokens; 0: from all
	TopP        float64 // draw from the fewest that together have this probability; 0 or 1: from all
	Seed        uint64  // the same seed draws the same tokens
}

// Sampler draws tokens from logits.
type Sampler struct {
	o     SamplerOptions
	rng   *rand.Rand
	order []candidate
}

type candidate struct {
	token int32
	p     float64 // first the logit, then the probability
}

// NewSampler returns a Sampler. An error says which option is out of range.
func NewSampler(o SamplerOptions) (*Sampler, error) {
	switch {
	case !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0):
		return nil, fmt.Errorf("chainrule: SamplerOptions.Temperature is %v, want 0 or more", o.Temperature)
	case o.TopK < 0:
		return nil, fmt.Errorf("chainrule: SamplerOptions.TopK is %d, want 0 or more", o.TopK)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return nil, fmt.Errorf("chainrule: SamplerOptions.TopP is %v, want 0 to 1", o.TopP)
	}
	return &Sampler{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x636861696e))}, nil
}

// Sample draws a token from logits [V]. Of equal logits the lowest token comes
// first. The error says that a logit is NaN or +Inf, or all are -Inf.
func (s *Sampler) Sample(logits []float32) (int32, error) {
	best := -1
	for i, l := range logits {
		if l != l || l > math.MaxFloat32 {
			return 0, fmt.Errorf("chainrule: the logit of token %d is %v", i, l)
		}
		if l >= -math.MaxFloat32 && (best < 0 || l > logits[best]) {
			best = i
		}
	}
	if best < 0 {
		return 0, errors.New("chainrule: no token has a finite logit")
	}
	if s.o.Temperature == 0 || s.o.TopK == 1 {
		return int32(best), nil
	}
	s.order = s.order[:0]
	for i, l := range logits {
		s.order = append(s.order, candidate{int32(i), float64(l)})
	}
	if s.o.TopK > 0 || s.o.TopP > 0 && s.o.TopP < 1 {
		slices.SortFunc(s.order, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.token, b.token))
		})
	}
	if s.o.TopK > 0 {
		s.order = s.order[:min(len(s.order), s.o.TopK)]
	}
	var sum float64
	for i := range s.order {
		p := math.Exp((s.order[i].p - float64(logits[best])) / s.o.Temperature)
		s.order[i].p = p
		sum += p
	}
	if s.o.TopP > 0 && s.o.TopP < 1 {
		var kept float64
		for i := range s.order {
			kept += s.order[i].p
			if kept >= s.o.TopP*sum {
				s.order, sum = s.order[:i+1], kept
				break
			}
		}
	}
	u := s.rng.Float64() * sum
	for _, c := range s.order {
		if u -= c.p; u < 0 {
			return c.token, nil
		}
	}
	return int32(best), nil // rounding used up the sum
}
