package main

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

// shapes are those of published models; tiny is there to try things out.
var shapes = []struct {
	name string
	chainrule.Config
}{
	{"stories15M", cli.Stories["stories15M"]},
	{"stories110M", cli.Stories["stories110M"]},
	{"SmolLM2-135M", chainrule.Config{
		Dim: 576, HiddenDim: 1536, NLayers: 30, NHeads: 9, NKVHeads: 3, HeadDim: 64,
		VocabSize: 49152, SeqLen: 8192, RopeTheta: 100000, NormEps: 1e-5, Tied: true,
	}},
	{"Qwen3-0.6B", chainrule.Config{
		Dim: 1024, HiddenDim: 3072, NLayers: 28, NHeads: 16, NKVHeads: 8, HeadDim: 128,
		VocabSize: 151936, SeqLen: 40960, RopeTheta: 1e6, NormEps: 1e-6, Tied: true, QKNorm: true,
	}},
	{"tiny", chainrule.Config{
		Dim: 64, HiddenDim: 192, NLayers: 2, NHeads: 4, NKVHeads: 2, HeadDim: 16,
		VocabSize: 512, SeqLen: 256, RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}},
}

// shape returns the Config of a name, for sequences of T tokens: the weights
// are random, so it can have a longer context than the model was made for.
func shape(name string, untied bool, T int) (chainrule.Config, error) {
	for _, s := range shapes {
		if s.name == name {
			c := s.Config
			c.Tied = !untied
			c.SeqLen = max(c.SeqLen, T)
			return c, nil
		}
	}
	return chainrule.Config{}, cli.Usagef("-model is %q, want %s", name, modelNames())
}

func modelNames() string {
	text := ""
	for i, s := range shapes {
		switch {
		case i == len(shapes)-1:
			text += " or "
		case i > 0:
			text += ", "
		}
		text += s.name
	}
	return text
}

// products are the weights of the products of one layer, then Wcls.
func products(c chainrule.Config) []product {
	Q, KV := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
	return []product{
		{"Wqkv", c.Dim, Q + 2*KV, c.NLayers},
		{"Wo", Q, c.Dim, c.NLayers},
		{"W13", c.Dim, 2 * c.HiddenDim, c.NLayers},
		{"W2", c.HiddenDim, c.Dim, c.NLayers},
		{"Wcls", c.Dim, c.VocabSize, 1},
	}
}

type product struct {
	name    string
	in, out int
	times   int // in a pass
}

// work is the arithmetic and the memory traffic that a training step cannot do
// without.
type work struct {
	Products  float64 `json:"products_flop"`
	Attention float64 `json:"attention_flop"`
	Update    float64 `json:"update_bytes"`
}

func (w work) flop() float64 { return w.Products + w.Attention }

// roofline returns the least seconds at peak FLOP/s and bytes/s.
func (w work) roofline(fma, update float64) float64 { return w.flop()/fma + w.Update/update }

// stepWork: each weight of a product costs 2 FLOP a token in Forward and 4 in
// Backward; attention has T(T+1)/2 pairs of query and key a head, each with two
// products of HD in the forward and five in the backward; AdamW reads a
// parameter, its gradient and two moments, and writes all but the gradient.
func stepWork(c chainrule.Config, B, T int) work {
	var w work
	for _, p := range products(c) {
		w.Products += 6 * float64(B*T) * float64(p.in) * float64(p.out) * float64(p.times)
	}
	w.Attention = attentionFLOP(c, B, T, 2+5) * float64(c.NLayers)
	w.Update = 28 * float64(c.NumParams())
	return w
}

// attentionFLOP is the cost of one layer's attention with so many products.
func attentionFLOP(c chainrule.Config, B, T, products int) float64 {
	pairs := float64(T) * float64(T+1) / 2
	return 2 * float64(products) * float64(B) * pairs * float64(c.NHeads*c.HeadDim)
}

// training is all that training takes.
type training struct {
	ctx             context.Context // its end ends newTraining and step between their parts
	m               *chainrule.Model
	g               *chainrule.Params
	state           *chainrule.AdamState
	ws              *chainrule.Workspace
	be              backend.Backend
	tokens, targets []int32
	adam            chainrule.Adam // with ZeroGrad, for the gradient is 0 when it is made
	clip            bool
	loss, norm      float64 // of the last step; norm if it clips
}

// trainingBytes returns the memory of newTraining: weights, gradient, two
// moments and activations.
func trainingBytes(c chainrule.Config, B, T int) (int64, error) {
	activations, err := chainrule.WorkspaceBytes(c, B, T)
	return 16*int64(c.NumParams()) + activations, err
}

func newTraining(ctx context.Context, c chainrule.Config, B, T int) (*training, error) {
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		return nil, err
	}
	// The rate is small: the model shall stay one of ordinary numbers.
	t := &training{ctx: ctx, be: be, clip: true, adam: chainrule.Adam{LR: 1e-6, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, ZeroGrad: true}}
	if t.m, err = chainrule.NewModel(c); err != nil {
		return nil, err
	}
	t.m.Init(1)
	if err := t.stopped(); err != nil {
		return nil, err
	}
	if t.g, err = chainrule.NewParams(c); err != nil {
		return nil, err
	}
	if t.state, err = chainrule.NewAdamState(c); err != nil {
		return nil, err
	}
	if t.ws, err = chainrule.NewWorkspace(c, B, T, be); err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range B * T {
		t.tokens = append(t.tokens, int32(r.IntN(c.VocabSize)))
	}
	t.targets = slices.Concat(t.tokens[1:], t.tokens[:1])
	return t, nil
}

// stopped is why there shall be no next part, or nil.
func (t *training) stopped() error {
	if t.ctx.Err() != nil {
		return context.Cause(t.ctx)
	}
	return nil
}

// step is one step of training.
func (t *training) step() error {
	if !t.adam.ZeroGrad {
		chainrule.ZeroGrad(t.g)
	}
	var err error
	if t.loss, err = chainrule.Forward(t.m, t.ws, t.tokens, t.targets); err != nil {
		return err
	}
	if err := t.stopped(); err != nil {
		return err
	}
	if err := chainrule.Backward(t.m, t.ws, t.g); err != nil {
		return err
	}
	if err := t.stopped(); err != nil {
		return err
	}
	t.adam.GradScale = 1
	if t.clip {
		t.clipBy(chainrule.GradNorm(t.g))
	}
	chainrule.AdamStep(t.m, t.g, t.state, t.adam)
	return nil
}

// clipBy makes the next AdamStep scale the gradient to a norm of at most 1.
func (t *training) clipBy(norm float64) { t.norm, t.adam.GradScale = norm, min(1, 1/norm) }
