package chainrule

import (
	"context"
	"errors"
	"fmt"
	"iter"

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
	cached  [][]int32   // those tokens

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
		m: m, backend: be, maxLen: o.MaxLen, lens: make([]int, o.Batch), cached: make([][]int32, o.Batch),
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

// Tokens returns the tokens in the cache of a sequence, in the Session's own
// memory: valid until the next call, and not to be written.
func (s *Session) Tokens(seq int) []int32 {
	s.need(seq)
	return s.cached[seq]
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
	s.lens[seq], s.cached[seq] = n, s.cached[seq][:n]
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
	all := tokens
	for len(tokens) > 0 {
		n := min(len(tokens), prefillRows)
		s.spans = append(s.spans[:0], span{seq, s.lens[seq], n})
		if err := s.pass(tokens[:n]); err != nil {
			s.lens[seq] = before
			return nil, err
		}
		tokens = tokens[n:]
	}
	s.cached[seq] = append(s.cached[seq], all...)
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
	for i, sp := range s.spans {
		s.cached[sp.seq] = append(s.cached[sp.seq], s.tokens[i])
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
			token, err := sampler.Sample(logits, s.cached[0]...)
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

// Drawn is a token that a sequence is continued with.
type Drawn struct {
	Seq    int
	Token  int32
	Logits []float32 // [V] it was drawn from, in the Session's own memory: valid until the next token
}

// GenerateBatch appends prompts[i] to sequence i, for as many sequences as there
// are prompts, and calls each with every token that is drawn, the sequences in
// turn. They advance together, which costs little more than one alone, until
// each returns false for a sequence, which so drops out, or its context is full.
// Sequence i draws as a Sampler of the seed o.Seed+i does, whatever the others
// do. The error is that of ctx, of the options, of a Sampler, or of Append.
//
// Stop tokens are what the function looks for; stop strings, what a
// tokenizer.Stream that knows them finds.
func (s *Session) GenerateBatch(ctx context.Context, prompts [][]int32, o SamplerOptions, each func(Drawn) (more bool)) error {
	if len(prompts) > len(s.lens) || each == nil {
		panic("chainrule: Session.GenerateBatch: more prompts than sequences, or a nil function")
	}
	next, samplers := make([]int32, len(s.lens)), make([]*Sampler, len(prompts))
	for i := range next {
		next[i] = -1
	}
	left := 0
	draw := func(seq int, logits []float32) error {
		token, err := samplers[seq].Sample(logits, s.cached[seq]...)
		if err != nil {
			return err
		}
		next[seq] = -1
		if each(Drawn{seq, token, logits}) && s.lens[seq] < s.maxLen {
			next[seq] = token
			left++
		}
		return nil
	}
	for i, prompt := range prompts {
		var err error
		if samplers[i], err = NewSampler(o); err != nil {
			return err
		}
		o.Seed++
		if len(prompt) == 0 {
			return fmt.Errorf("chainrule: GenerateBatch: prompt %d has no tokens", i)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		logits, err := s.Append(i, prompt)
		if err != nil {
			return err
		}
		if err := draw(i, logits); err != nil {
			return err
		}
	}
	V := s.m.VocabSize
	for left > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		logits, err := s.Step(next)
		if err != nil {
			return err
		}
		left = 0
		for seq, token := range next {
			if token < 0 {
				continue
			}
			if err := draw(seq, logits[seq*V:][:V]); err != nil {
				return err
			}
		}
	}
	return nil
}
