package chainrule

import (
	"fmt"
	"iter"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/mem"
	"github.com/chainrule-go/chainrule/internal/par"
)

// Config is the shape of a Llama-family transformer.
type Config struct {
	Dim       int // C: width of the residual stream
	HiddenDim int // H: width of the feed-forward layer
	NLayers   int // L
	NHeads    int // NH: query heads
	NKVHeads  int // NKV: key and value heads; divides NHeads (GQA), 1 is MQA
	HeadDim   int // HD: width of a head, even; need not be Dim/NHeads
	VocabSize int // V
	SeqLen    int // the longest sequence the model is meant for

	RopeTheta   float64     // base of the RoPE frequencies, 10000 in Llama 2
	NormEps     float64     // added to the mean square in RMSNorm
	RopeScaling RopeScaling // the zero value scales nothing

	Tied    bool // Wcls is TokenEmbedding
	QKNorm  bool // RMSNorm per head on q and k before RoPE (Qwen3)
	QKVBias bool // biases on q, k and v (Qwen2); not together with QKNorm
}

// RopeScaling stretches the RoPE frequencies of a model to longer contexts
// than it was first trained on. The zero value leaves them alone.
type RopeScaling struct {
	// Type is "" (none), "linear" (frequencies divided by Factor) or "llama3"
	// (long wavelengths divided by Factor, short ones kept, a ramp between:
	// Llama 3.1, where wavelength·LowFreqFactor ≥ OriginalSeqLen is long and
	// wavelength·HighFreqFactor ≤ OriginalSeqLen is short).
	Type           string
	Factor         float64
	LowFreqFactor  float64 // llama3 only
	HighFreqFactor float64 // llama3 only
	OriginalSeqLen int     // llama3 only
}

// Validate returns an error that names the first field whose value cannot be,
// or nil. A valid Config has at most 2⁴⁰ parameters (2²⁷ where an int has 32
// bits), so that sizes computed from it do not overflow.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		v    int
	}{
		{"Dim", c.Dim}, {"HiddenDim", c.HiddenDim}, {"NLayers", c.NLayers}, {"NHeads", c.NHeads},
		{"NKVHeads", c.NKVHeads}, {"HeadDim", c.HeadDim}, {"VocabSize", c.VocabSize}, {"SeqLen", c.SeqLen},
	} {
		if f.v < 1 || f.v > math.MaxInt32 {
			return fmt.Errorf("chainrule: Config.%s is %d, want 1 to %d", f.name, f.v, math.MaxInt32)
		}
	}
	s := c.RopeScaling
	switch {
	case c.NHeads%c.NKVHeads != 0:
		return fmt.Errorf("chainrule: Config.NHeads is %d, not a multiple of NKVHeads %d", c.NHeads, c.NKVHeads)
	case c.HeadDim%2 != 0:
		return fmt.Errorf("chainrule: Config.HeadDim is %d, want an even number (RoPE rotates pairs)", c.HeadDim)
	case !(c.RopeTheta > 0) || math.IsInf(c.RopeTheta, 0):
		return fmt.Errorf("chainrule: Config.RopeTheta is %v, want a positive number", c.RopeTheta)
	case !(c.NormEps >= 0) || math.IsInf(c.NormEps, 0):
		return fmt.Errorf("chainrule: Config.NormEps is %v, want 0 or a positive number", c.NormEps)
	case c.QKNorm && c.QKVBias:
		return fmt.Errorf("chainrule: Config has both QKNorm and QKVBias; at most one is supported")
	case s.Type != "" && s.Type != "linear" && s.Type != "llama3":
		return fmt.Errorf("chainrule: Config.RopeScaling.Type is %q, want none, linear or llama3", s.Type)
	case s.Type == "" && s != RopeScaling{}:
		return fmt.Errorf("chainrule: Config.RopeScaling has factors but no Type")
	case s.Type != "" && (!(s.Factor >= 1) || math.IsInf(s.Factor, 0)):
		return fmt.Errorf("chainrule: Config.RopeScaling.Factor is %v, want 1 or more", s.Factor)
	case s.Type == "llama3" && !(s.LowFreqFactor > 0 && s.HighFreqFactor > s.LowFreqFactor && !math.IsInf(s.HighFreqFactor, 0)):
		return fmt.Errorf("chainrule: Config.RopeScaling has LowFreqFactor %v and HighFreqFactor %v, want 0 < low < high", s.LowFreqFactor, s.HighFreqFactor)
	case s.Type == "llama3" && s.OriginalSeqLen < 1:
		return fmt.Errorf("chainrule: Config.RopeScaling.OriginalSeqLen is %d, want 1 or more", s.OriginalSeqLen)
	}
	if n, ok := c.countParams(); !ok {
		return fmt.Errorf("chainrule: Config has too many parameters (VocabSize %d, Dim %d, HiddenDim %d, NLayers %d, NHeads %d, NKVHeads %d, HeadDim %d)",
			c.VocabSize, c.Dim, c.HiddenDim, c.NLayers, c.NHeads, c.NKVHeads, c.HeadDim)
	} else if c.SeqLen > maxParams/c.HeadDim {
		return fmt.Errorf("chainrule: Config.SeqLen %d is too large for HeadDim %d and %d parameters", c.SeqLen, c.HeadDim, n)
	}
	return nil
}

const maxParams = 1 << (27 + 13*(^uint(0)>>63))

// NumParams returns the number of weights of a valid Config; tied ones count
// once.
func (c Config) NumParams() int {
	n, _ := c.countParams()
	return n
}

// countParams adds up the sizes of all tensors; false if they exceed
// maxParams. It builds no more than one layer.
func (c Config) countParams() (total int, ok bool) {
	ok = true
	p := Params{Layers: make([]LayerParams, 1), config: c}
	p.each(func(layer int, _ string, _ *[]float32, out, in int) {
		copies := 1
		if layer >= 0 {
			copies = c.NLayers
		}
		n := uint64(out)
		for _, factor := range [...]int{max(1, in), copies} {
			hi, lo := bits.Mul64(n, uint64(factor))
			if hi != 0 || lo > maxParams {
				ok = false
				return
			}
			n = lo
		}
		total += int(n)
	})
	return total, ok && total <= maxParams
}

// q, kv and qkv are the widths of the attention's projections.
func (c Config) q() int   { return c.NHeads * c.HeadDim }
func (c Config) kv() int  { return c.NKVHeads * c.HeadDim }
func (c Config) qkv() int { return c.q() + 2*c.kv() }

// Params names the tensors of a model; each is a view of Data. The same type
// holds weights and gradients. Memory is layer-major, in the order of Tensors.
//
// In a gradient, a tensor set to nil is one that Backward leaves out: set the
// fused views (Wqkv, W13, Bqkv) to nil with their parts.
type Params struct {
	Data           []float32
	TokenEmbedding []float32 // [V,C]
	Layers         []LayerParams
	RMSFinal       []float32 // [C]
	Wcls           []float32 // [V,C]; TokenEmbedding itself if tied

	config Config
}

// LayerParams are the tensors of one layer. Wq, Wk and Wv are adjacent in
// memory, so that Wqkv is one product; so are their biases, and W1 and W3.
type LayerParams struct {
	RMSAtt     []float32 // [C]
	Wqkv       []float32 // [Q+2KV,C]: Wq, then Wk, then Wv
	Wq, Wk, Wv []float32 // [Q,C] [KV,C] [KV,C]
	Bqkv       []float32 // [Q+2KV], nil unless QKVBias
	Bq, Bk, Bv []float32 // [Q] [KV] [KV], nil unless QKVBias
	QNorm      []float32 // [HD], nil unless QKNorm
	KNorm      []float32 // [HD], nil unless QKNorm
	Wo         []float32 // [C,Q]
	RMSFFN     []float32 // [C]
	W13        []float32 // [2H,C]: W1, then W3
	W1, W3     []float32 // [H,C], the gate and the up projection
	W2         []float32 // [C,H], the down projection
}

// NewParams returns zeroed Params: a gradient. The error is Validate's.
func NewParams(c Config) (*Params, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return ParamsOf(c, mem.Stream(c.NumParams()))
}

// ParamsOf returns Params that are views of data, which the caller owns. It
// panics if data has not the length c.NumParams(). The error is Validate's.
func ParamsOf(c Config, data []float32) (*Params, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if len(data) != c.NumParams() {
		panic("chainrule: ParamsOf: data has not Config.NumParams() elements")
	}
	p := &Params{Data: data, Layers: make([]LayerParams, c.NLayers), config: c}
	p.each(func(_ int, _ string, t *[]float32, out, in int) {
		n := out * max(1, in)
		*t, data = data[:n], data[n:]
	})
	for i := range p.Layers {
		l := &p.Layers[i]
		l.Wqkv = slices.Clip(l.Wq[:c.qkv()*c.Dim]) // their capacity reaches over what follows
		l.W13 = slices.Clip(l.W1[:2*c.HiddenDim*c.Dim])
		if c.QKVBias {
			l.Bqkv = slices.Clip(l.Bq[:c.qkv()])
		}
	}
	p.each(func(_ int, _ string, t *[]float32, _, _ int) { *t = slices.Clip(*t) })
	if c.Tied {
		p.Wcls = p.TokenEmbedding
	}
	return p, nil
}

// each lists the tensors in the order of memory: the layer or -1, the name,
// where the view is, and the shape: in is 0 for norms and biases.
func (p *Params) each(f func(layer int, name string, t *[]float32, out, in int)) {
	c := p.config
	C, H, Q, KV, HD := c.Dim, c.HiddenDim, c.q(), c.kv(), c.HeadDim
	f(-1, "token_embedding", &p.TokenEmbedding, c.VocabSize, C)
	for i := range p.Layers {
		l := &p.Layers[i]
		f(i, "rms_att", &l.RMSAtt, C, 0)
		f(i, "wq", &l.Wq, Q, C)
		f(i, "wk", &l.Wk, KV, C)
		f(i, "wv", &l.Wv, KV, C)
		if c.QKVBias {
			f(i, "bq", &l.Bq, Q, 0)
			f(i, "bk", &l.Bk, KV, 0)
			f(i, "bv", &l.Bv, KV, 0)
		}
		if c.QKNorm {
			f(i, "q_norm", &l.QNorm, HD, 0)
			f(i, "k_norm", &l.KNorm, HD, 0)
		}
		f(i, "wo", &l.Wo, C, Q)
		f(i, "rms_ffn", &l.RMSFFN, C, 0)
		f(i, "w1", &l.W1, H, C)
		f(i, "w3", &l.W3, H, C)
		f(i, "w2", &l.W2, C, H)
	}
	f(-1, "rms_final", &p.RMSFinal, C, 0)
	if !c.Tied {
		f(-1, "wcls", &p.Wcls, c.VocabSize, C)
	}
}

// Tensor is one named tensor of Params.
type Tensor struct {
	Name  string // "token_embedding", "layers.3.wq", "rms_final", "wcls", …
	Shape []int  // [out, in] of a matrix, [n] of a norm or a bias
	Data  []float32
}

// Tensors yields every tensor once, in the order of memory: a tied Wcls is not
// repeated, and a tensor that is nil is left out.
func (p *Params) Tensors() iter.Seq[Tensor] {
	return func(yield func(Tensor) bool) {
		more := true
		p.each(func(layer int, name string, t *[]float32, out, in int) {
			if layer >= 0 {
				name = "layers." + strconv.Itoa(layer) + "." + name
			}
			shape := []int{out, in}
			if in == 0 {
				shape = shape[:1]
			}
			if more && *t != nil {
				more = yield(Tensor{name, shape, *t})
			}
		})
	}
}

// Model is a transformer's weights. Forward and Backward only read it, so
// goroutines may share it, each with a Workspace and a gradient of its own.
type Model struct {
	Config
	*Params

	gen    uint64 // changes with the weights
	layers []layerMatrices
	wcls   backend.Matrix
}

// layerMatrices are a layer's weights as the backend takes them.
type layerMatrices struct{ wqkv, wo, w13, w2 backend.Matrix }

// NewModel returns a model whose weights are all zero: call Init, or load
// some. The error is Validate's.
func NewModel(c Config) (*Model, error) {
	p, err := NewParams(c)
	if err != nil {
		return nil, err
	}
	return NewModelOf(c, p)
}

// NewModelOf returns a model on the given weights, which it shares. It panics
// if p was made for another shape. The error is Validate's.
func NewModelOf(c Config, p *Params) (*Model, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if p == nil || p.config != c {
		panic("chainrule: NewModelOf: p was made for another Config")
	}
	m := &Model{Config: c, Params: p, layers: make([]layerMatrices, c.NLayers)}
	C, H, Q := c.Dim, c.HiddenDim, c.q()
	for i := range m.layers {
		l := &p.Layers[i]
		m.layers[i] = layerMatrices{
			wqkv: backend.Matrix{Data: l.Wqkv, Out: c.qkv(), In: C},
			wo:   backend.Matrix{Data: l.Wo, Out: C, In: Q},
			w13:  backend.Matrix{Data: l.W13, Out: 2 * H, In: C},
			w2:   backend.Matrix{Data: l.W2, Out: C, In: H},
		}
	}
	m.wcls = backend.Matrix{Data: p.Wcls, Out: c.VocabSize, In: C}
	m.Touch()
	return m, nil
}

// Touch tells the model that its weights were written; a backend may hold
// forms derived from the old ones. Call it after writing weights by hand.
// AdamStep and Init do.
func (m *Model) Touch() {
	m.gen++
	for i := range m.layers {
		l := &m.layers[i]
		l.wqkv.Gen, l.wo.Gen, l.w13.Gen, l.w2.Gen = m.gen, m.gen, m.gen, m.gen
	}
	m.wcls.Gen = m.gen
}

// Init draws the matrices from N(0, 0.02), with Wo and W2, which feed the
// residual stream, divided by √(2·NLayers) (GPT-2); norms become 1 and biases
// 0. The same seed gives the same weights at any GOMAXPROCS.
func (m *Model) Init(seed uint64) {
	stream := uint64(0)
	for t := range m.Tensors() {
		stream++
		switch {
		case len(t.Shape) == 2:
			initLoop.For(len(t.Data), initGrain, initArgs{t.Data, 0.02, seed, stream})
		case isBias(t.Name):
			clear(t.Data)
		default:
			for i := range t.Data {
				t.Data[i] = 1
			}
		}
	}
	residual := float32(1 / math.Sqrt(2*float64(m.NLayers)))
	for i := range m.Layers {
		for _, w := range [][]float32{m.Layers[i].Wo, m.Layers[i].W2} {
			for j := range w {
				w[j] *= residual
			}
		}
	}
	m.Touch()
}

func isBias(name string) bool {
	n := len(name)
	return n >= 3 && name[n-3] == '.' && name[n-2] == 'b'
}

type initArgs struct {
	w            []float32
	std          float64
	seed, stream uint64
}

// initGrain is the number of weights drawn from one generator.
const initGrain = 1 << 16

var initLoop = par.New(func(a *initArgs, lo, hi int) {
	r := rand.New(rand.NewPCG(a.seed, a.stream<<32|uint64(lo/initGrain)))
	for i := lo; i < hi; i++ {
		a.w[i] = float32(a.std * r.NormFloat64())
	}
})

// ropeFrequencies returns the angle per position of each of the HeadDim/2
// pairs: theta^(-2i/HD), scaled as RopeScaling says.
func (c Config) ropeFrequencies() []float64 {
	f := make([]float64, c.HeadDim/2)
	s := c.RopeScaling
	for i := range f {
		f[i] = math.Pow(c.RopeTheta, -2*float64(i)/float64(c.HeadDim))
		switch s.Type {
		case "linear":
			f[i] /= s.Factor
		case "llama3":
			// turns: how often the pair rotates over the original context
			turns := float64(s.OriginalSeqLen) * f[i] / (2 * math.Pi)
			keep := (turns - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
			keep = min(max(keep, 0), 1)
			f[i] = keep*f[i] + (1-keep)*f[i]/s.Factor
		}
	}
	return f
}
