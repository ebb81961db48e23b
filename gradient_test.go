package chainrule_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/internal/testutil"
	"github.com/chainrule-go/chainrule/ops"
)

// The contract of the gradients (see Backward): how far each named tensor may
// be from the float64 model.
var (
	ordinary    = testutil.Bound{OfTensor: 3e-6, OfAll: 1e-7}
	largeScores = testutil.Bound{OfTensor: 2e-5, OfAll: 1e-7}
)

// gradientCase is a model, a batch, and the weights' scale.
type gradientCase struct {
	name    string
	change  func(c *chainrule.Config)
	B, T    int
	std     float64                   // of the matrices; 0 means 0.25
	scale   func(name string) float64 // of tensors that differ from std
	targets func(targets []int32)     // changes random targets
	tokens  func(tokens []int32)      // changes random tokens
	denom   float64                   // LossDenom
	score   float64                   // what the largest attention score is brought to; 0: nothing
	sampled bool                      // too large for every element
	seed    uint64
}

func smallConfig() chainrule.Config {
	return chainrule.Config{
		Dim: 8, HiddenDim: 14, NLayers: 2, NHeads: 2, NKVHeads: 2, HeadDim: 4, VocabSize: 13, SeqLen: 64,
		RopeTheta: 10000, NormEps: 1e-5,
	}
}

var gradientCases = []gradientCase{
	{name: "MHA", B: 1, T: 6},
	{name: "MHA tied", B: 1, T: 6, change: func(c *chainrule.Config) { c.Tied = true }},
	{name: "GQA", B: 2, T: 5, change: func(c *chainrule.Config) { c.NHeads, c.NKVHeads = 4, 2 }},
	{name: "GQA of groups of 3, tied", B: 3, T: 3, change: func(c *chainrule.Config) {
		c.NHeads, c.NKVHeads, c.HeadDim, c.Tied = 6, 2, 2, true
	}},
	{name: "MQA", B: 2, T: 4, change: func(c *chainrule.Config) { c.NHeads, c.NKVHeads = 4, 1 }},
	{name: "HeadDim above Dim/NHeads", B: 1, T: 5, change: func(c *chainrule.Config) { c.HeadDim = 10 }},
	{name: "HeadDim below Dim/NHeads", B: 1, T: 5, change: func(c *chainrule.Config) { c.HeadDim = 2 }},
	{name: "QK-norm", B: 2, T: 5, change: func(c *chainrule.Config) { c.QKNorm = true }},
	{name: "QK-norm, GQA, tied, HeadDim 6", B: 1, T: 7, change: func(c *chainrule.Config) {
		c.QKNorm, c.Tied, c.NHeads, c.NKVHeads, c.HeadDim, c.NormEps = true, true, 4, 2, 6, 1e-6
	}},
	{name: "biases", B: 2, T: 5, change: func(c *chainrule.Config) { c.QKVBias = true }},
	{name: "biases, GQA, tied", B: 1, T: 7, change: func(c *chainrule.Config) {
		c.QKVBias, c.Tied, c.NHeads, c.NKVHeads = true, true, 4, 2
	}},
	{name: "T=1", B: 1, T: 1},
	{name: "B=3, T=1, biases", B: 3, T: 1, change: func(c *chainrule.Config) { c.QKVBias = true }},
	{name: "B=3, odd T", B: 3, T: 5, change: func(c *chainrule.Config) { c.NHeads, c.NKVHeads = 4, 2 }},
	{name: "one layer, small theta", B: 1, T: 9, change: func(c *chainrule.Config) { c.NLayers, c.RopeTheta = 1, 10 }},
	{name: "three layers, odd Dim", B: 1, T: 4, change: func(c *chainrule.Config) { c.NLayers, c.Dim = 3, 11 }},
	{name: "large epsilon", B: 1, T: 5, change: func(c *chainrule.Config) { c.NormEps = 0.1 }},
	{name: "ignored targets", B: 3, T: 5, targets: func(targets []int32) {
		for i := range targets {
			if i < 5 || i%3 == 0 { // the first sequence whole
				targets[i] = -1 - int32(i)
			}
		}
	}},
	{name: "one target", B: 2, T: 5, change: func(c *chainrule.Config) { c.Tied = true }, targets: func(targets []int32) {
		for i := range targets {
			if i != 3 {
				targets[i] = -100
			}
		}
	}},
	{name: "repeated tokens", B: 2, T: 6, tokens: func(tokens []int32) {
		for i := range tokens {
			tokens[i] = int32(i % 2)
		}
	}},
	{name: "one token, tied", B: 2, T: 6, change: func(c *chainrule.Config) { c.Tied = true }, tokens: func(tokens []int32) {
		for i := range tokens {
			tokens[i] = 5
		}
	}},
	{name: "LossDenom", B: 2, T: 3, denom: 17},
	{name: "linear RoPE scaling", B: 1, T: 8, change: func(c *chainrule.Config) {
		c.RopeScaling = chainrule.RopeScaling{Type: "linear", Factor: 4}
	}},
	{name: "llama3 RoPE scaling", B: 1, T: 9, change: func(c *chainrule.Config) {
		c.HeadDim, c.RopeTheta = 8, 100 // wavelengths 6, 20, 63, 199: kept, ramp, stretched, stretched
		c.RopeScaling = chainrule.RopeScaling{Type: "llama3", Factor: 4, LowFreqFactor: 1, HighFreqFactor: 3, OriginalSeqLen: 32}
	}},
	{
		name: "large residual stream", B: 1, T: 5,
		scale: func(name string) float64 { return scaleOf(name, 50, "token_embedding") },
	},
	{
		name: "tiny activations", B: 2, T: 5,
		scale: func(name string) float64 { return scaleOf(name, 1e-3, "token_embedding", ".wo", ".w2") },
	},
	{
		name: "tiny activations, tied, QK-norm", B: 2, T: 5, std: 0.02,
		change: func(c *chainrule.Config) { c.Tied, c.QKNorm = true, true },
		scale:  func(name string) float64 { return scaleOf(name, 1e-3, "token_embedding", ".wo", ".w2") },
	},
	{
		name: "more than one tile of everything", B: 2, T: 70, sampled: true, std: 0.15,
		change: func(c *chainrule.Config) {
			c.Dim, c.HiddenDim, c.NHeads, c.NKVHeads, c.HeadDim, c.VocabSize, c.SeqLen = 72, 100, 4, 2, 16, 131, 80
			c.NLayers, c.Tied, c.QKNorm = 1, true, true
		},
		targets: func(targets []int32) {
			for i := range targets {
				if i%5 == 0 {
					targets[i] = -1
				}
			}
		},
	},
}

// scaleOf is the standard deviation of tensors whose name ends in one of the
// suffixes; 0 leaves it to the case.
func scaleOf(name string, std float64, suffixes ...string) float64 {
	for _, s := range suffixes {
		if strings.HasSuffix(name, s) {
			return std
		}
	}
	return 0
}

// problem is a case made: the library's model and the same in float64.
type problem struct {
	chainrule.Config
	model           *chainrule.Model
	tokens, targets []int32
	reference       testutil.Config
	weights         testutil.Weights
	batch           testutil.Batch
}

func (gc gradientCase) make(t *testing.T) problem {
	c := smallConfig()
	if gc.change != nil {
		gc.change(&c)
	}
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(gc.seed, uint64(len(gc.name))))
	for tensor := range m.Tensors() {
		std, mean := gc.std, 0.0
		if std == 0 {
			std = 0.25
		}
		if strings.Contains(tensor.Name, "rms") || strings.HasSuffix(tensor.Name, "_norm") {
			std, mean = 0.25, 1
		}
		if gc.scale != nil && gc.scale(tensor.Name) != 0 {
			std = gc.scale(tensor.Name)
		}
		for i := range tensor.Data {
			tensor.Data[i] = float32(mean + std*r.NormFloat64())
		}
	}
	m.Touch()
	p := problem{Config: c, model: m, tokens: randomTokens(r, c, gc.B*gc.T), targets: randomTokens(r, c, gc.B*gc.T)}
	if gc.tokens != nil {
		gc.tokens(p.tokens)
	}
	if gc.targets != nil {
		gc.targets(p.targets)
	}
	p.reference, p.weights = referenceConfig(c), referenceWeights(m.Params)
	p.batch = testutil.Batch{B: gc.B, T: gc.T, Tokens: p.tokens, Targets: p.targets, Denom: gc.denom}
	for try := 0; try < 20 && gc.score != 0; try++ {
		factor := gc.score / p.reference.Forward(p.weights, p.batch).MaxScore
		for tensor := range m.Tensors() {
			if scaleOf(tensor.Name, 1, ".q_norm") != 0 || !c.QKNorm && scaleOf(tensor.Name, 1, ".wq") != 0 {
				for i := range tensor.Data {
					tensor.Data[i] *= float32(factor)
				}
			}
		}
		m.Touch()
		p.weights = referenceWeights(m.Params)
	}
	return p
}

// gradient runs the library: the loss and a gradient from zero.
func (p problem) gradient(t *testing.T, be backend.Backend) (float64, *chainrule.Params) {
	ws, err := chainrule.NewWorkspace(p.Config, p.batch.B, p.batch.T, be)
	require.NoError(t, err)
	ws.LossDenom = p.batch.Denom
	g, err := chainrule.NewParams(p.Config)
	require.NoError(t, err)
	loss, err := chainrule.Forward(p.model, ws, p.tokens, p.targets)
	require.NoError(t, err)
	require.NoError(t, chainrule.Backward(p.model, ws, g))
	return loss, g
}

func referenceConfig(c chainrule.Config) testutil.Config {
	return testutil.Config{
		Dim: c.Dim, HiddenDim: c.HiddenDim, NLayers: c.NLayers, NHeads: c.NHeads, NKVHeads: c.NKVHeads,
		HeadDim: c.HeadDim, VocabSize: c.VocabSize, RopeTheta: c.RopeTheta, NormEps: c.NormEps,
		RopeType: c.RopeScaling.Type, RopeFactor: c.RopeScaling.Factor, RopeLow: c.RopeScaling.LowFreqFactor,
		RopeHi: c.RopeScaling.HighFreqFactor, RopeOriginalSeqLen: c.RopeScaling.OriginalSeqLen,
		Tied: c.Tied, QKNorm: c.QKNorm, QKVBias: c.QKVBias,
	}
}

func referenceWeights(p *chainrule.Params) testutil.Weights {
	w := testutil.Weights{}
	for t := range p.Tensors() {
		w[t.Name] = float64s(t.Data)
	}
	return w
}

func float64s(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func randomTokens(r *rand.Rand, c chainrule.Config, n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = r.Int32N(int32(c.VocabSize))
	}
	return tokens
}

// largeScoreCases are those in which the softmax is close to a choice of one.
func largeScoreCases() (cases []gradientCase) {
	for seed := range uint64(4) {
		cases = append(cases,
			gradientCase{name: fmt.Sprint("scores reach 100, seed ", seed), seed: seed, B: 2, T: 6, score: 100},
			gradientCase{
				name: fmt.Sprint("scores reach 100 with QK-norm, seed ", seed), seed: seed, B: 2, T: 6, score: 100,
				change: func(c *chainrule.Config) { c.QKNorm, c.HeadDim = true, 8 },
			})
	}
	return cases
}

func TestGradientsAreThoseOfTheFloat64Model(t *testing.T) {
	for _, gc := range append(largeScoreCases(), gradientCases...) {
		t.Run(gc.name, func(t *testing.T) {
			p := gc.make(t)
			want := p.reference.Forward(p.weights, p.batch)
			bound := ordinary
			if gc.score != 0 {
				require.InEpsilon(t, gc.score, want.MaxScore, 0.02)
				bound = largeScores
			}
			loss, g := p.gradient(t, newBackend(t))
			require.InDelta(t, want.Loss, loss, 1e-6*max(1, math.Abs(want.Loss)), "loss")

			got := referenceWeights(g)
			requireEveryElement(t, g)
			if !gc.sampled {
				requireClose(t, bound, p.reference.Gradient(p.weights, p.batch, p.reference.AllElements()), got)
				return
			}
			sizes, at := p.reference.Sizes(), p.reference.SampleElements(12, 1)
			sample := p.reference.Gradient(p.weights, p.batch, at).ScaleTo(sizes)
			requireClose(t, bound, sample, got.Pick(at).ScaleTo(sizes))
			directions := p.reference.SampleDirections(4, 2)
			requireClose(t, bound, p.reference.Project(p.weights, p.batch, directions), got.Along(directions))
		})
	}
}

// requireEveryElement says that the named tensors are the whole of g, each
// element once: a comparison by name leaves nothing out.
func requireEveryElement(t *testing.T, g *chainrule.Params) {
	t.Helper()
	at := 0
	for tensor := range g.Tensors() {
		n := 1
		for _, d := range tensor.Shape {
			n *= d
		}
		require.Len(t, tensor.Data, n, tensor.Name)
		require.Same(t, &g.Data[at], &tensor.Data[0], tensor.Name)
		at += n
	}
	require.Equal(t, len(g.Data), at)
}

func requireClose(t *testing.T, bound testutil.Bound, want, got testutil.Weights) {
	t.Helper()
	require.NoError(t, bound.Check(want, got))
	name, ratio := bound.Worst(want, got)
	t.Logf("worst: %s at %.2f of the bound", name, ratio)
}

func newBackend(t testing.TB) backend.Backend {
	t.Helper()
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	return be
}

// The mistakes that the code this library descends from is known to make, one
// test each; the file formats' are tested with the formats.

func TestRMSNormBackwardUsesTheCubeOfRMS(t *testing.T) {
	// dx of y = w·x/rms, whose rms is far from 1, against the quotient rule.
	const n, C, eps = 3, 10, 1e-5
	r := rand.New(rand.NewPCG(1, 2))
	x, dy, w := make([]float32, n*C), make([]float32, n*C), make([]float32, C)
	for _, s := range [][]float32{x, dy, w} {
		for i := range s {
			s[i] = float32(5 * r.NormFloat64())
		}
	}
	y, rstd, dx, dw := make([]float32, n*C), make([]float32, n), make([]float32, n*C), make([]float32, C)
	ops.RMSNorm(y, rstd, x, w, n, C, eps)
	ops.RMSNormBackward(dx, dw, dy, x, rstd, w, n, C)
	for i := range n {
		square, product := 0.0, 0.0
		for j := range C {
			square += float64(x[i*C+j]) * float64(x[i*C+j])
			product += float64(w[j]) * float64(dy[i*C+j]) * float64(x[i*C+j])
		}
		rms := math.Sqrt(square/C + eps)
		require.Greater(t, rms, 2.0)
		for j := range C {
			want := float64(w[j])*float64(dy[i*C+j])/rms - float64(x[i*C+j])*product/(C*rms*rms*rms)
			require.InDelta(t, want, dx[i*C+j], 1e-5, "row %d, column %d", i, j)
		}
	}
}

func TestFFNNormBackwardUsesTheResidualBehindAttention(t *testing.T) {
	// Attention moves the residual stream so far that its gradient at the
	// layer's input would be another one.
	p := gradientCase{B: 2, T: 5, scale: func(name string) float64 { return scaleOf(name, 2, ".wv", ".wo") },
		change: func(c *chainrule.Config) { c.NLayers = 1 }}.make(t)
	_, g := p.gradient(t, newBackend(t))
	at := map[string][]int{}
	for _, name := range []string{"layers.0.rms_ffn", "layers.0.wo", "layers.0.rms_att", "token_embedding"} {
		at[name] = p.reference.AllElements()[name]
	}
	requireClose(t, ordinary, p.reference.Gradient(p.weights, p.batch, at), referenceWeights(g).Pick(at))
}

func TestRMSNormWeightsGetAGradientAndAreTrained(t *testing.T) {
	p := gradientCase{B: 2, T: 5, change: func(c *chainrule.Config) { c.QKNorm = true }}.make(t)
	_, g := p.gradient(t, newBackend(t))
	before := slices.Clone(p.model.Data)
	state, err := chainrule.NewAdamState(p.Config)
	require.NoError(t, err)
	chainrule.AdamStep(p.model, g, state, chainrule.Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8})
	old, err := chainrule.ParamsOf(p.Config, before)
	require.NoError(t, err)
	was, now, norms := referenceWeights(old), referenceWeights(p.model.Params), 0
	for tensor := range g.Tensors() {
		if len(tensor.Shape) > 1 {
			continue
		}
		norms++
		for i, v := range tensor.Data {
			require.NotZero(t, v, "gradient of %s[%d]", tensor.Name, i)
			require.NotEqual(t, was[tensor.Name][i], now[tensor.Name][i], "%s[%d] after a step", tensor.Name, i)
		}
	}
	require.Equal(t, 4*p.NLayers+1, norms)
}

func TestTiedWeightsAreOneParameter(t *testing.T) {
	p := gradientCase{B: 2, T: 5, change: func(c *chainrule.Config) { c.Tied = true }}.make(t)
	untied := p.Config
	untied.Tied = false
	require.Equal(t, untied.NumParams()-p.VocabSize*p.Dim, p.NumParams())
	require.Same(t, &p.model.TokenEmbedding[0], &p.model.Wcls[0])
	_, g := p.gradient(t, newBackend(t))

	t.Run("the clip norm counts them once", func(t *testing.T) {
		sum := 0.0
		for _, tensor := range referenceWeights(g) {
			for _, v := range tensor {
				sum += v * v
			}
		}
		require.InEpsilon(t, math.Sqrt(sum), chainrule.GradNorm(g), 1e-12)
	})
	t.Run("Adam steps them once, with one set of moments", func(t *testing.T) {
		state, err := chainrule.NewAdamState(p.Config)
		require.NoError(t, err)
		require.Len(t, state.M, p.NumParams())
		before := slices.Clone(p.model.TokenEmbedding)
		chainrule.AdamStep(p.model, g, state, chainrule.Adam{LR: 0.125, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12})
		for i, old := range before {
			// the first step of Adam is LR·sign(g)
			require.InDelta(t, 0.125, math.Abs(float64(p.model.TokenEmbedding[i]-old)), 1e-5)
		}
	})
}

func TestAFailedProductIsAnErrorAndNothingOfItIsUsed(t *testing.T) {
	for _, change := range []func(*chainrule.Config){
		func(*chainrule.Config) {},
		func(c *chainrule.Config) { c.Tied, c.QKNorm = true, true },
		func(c *chainrule.Config) { c.QKVBias = true },
	} {
		p := gradientCase{B: 2, T: 4, change: change}.make(t)
		be := &testutil.Failing{Backend: newBackend(t)}
		ws, err := chainrule.NewWorkspace(p.Config, 2, 4, be)
		require.NoError(t, err)
		g, err := chainrule.NewParams(p.Config)
		require.NoError(t, err)
		pass := func() (loss float64, forward, backward error) {
			chainrule.ZeroGrad(g)
			loss, forward = chainrule.Forward(p.model, ws, p.tokens, p.targets)
			if forward != nil {
				return loss, forward, nil
			}
			return loss, nil, chainrule.Backward(p.model, ws, g)
		}
		be.Left.Store(-1)
		wantLoss, forward, backward := pass()
		require.NoError(t, forward)
		require.NoError(t, backward)
		want := slices.Clone(g.Data)

		products := 4*p.NLayers + 1
		for k := range 2 * products {
			be.Left.Store(int64(k))
			loss, forward, backward := pass()
			if k < products {
				require.ErrorIs(t, forward, testutil.ErrDevice, "product %d of Forward", k)
				require.Zero(t, loss)
				require.Panics(t, func() { _ = chainrule.Backward(p.model, ws, g) }, "Backward after a failed Forward")
			} else {
				require.NoError(t, forward)
				require.ErrorIs(t, backward, testutil.ErrDevice, "product %d of Backward", k-products)
				require.Panics(t, func() { _ = chainrule.Backward(p.model, ws, g) }, "Backward after a failed Backward")
			}
			be.Left.Store(-1)
			loss, forward, backward = pass()
			require.NoError(t, forward)
			require.NoError(t, backward)
			require.Equal(t, wantLoss, loss)
			requireSameBits(t, bits(want), bits(g.Data), "the pass after a failure of product %d", k)
		}
		be.Left.Store(int64(2 * products))
		_, forward, backward = pass()
		require.NoError(t, forward)
		require.NoError(t, backward, "there are no more products than these")
	}
}

func TestLossIsTheMeanOverAllPositionsOfAllSequences(t *testing.T) {
	p := gradientCase{B: 3, T: 5}.make(t)
	ws, err := chainrule.NewWorkspace(p.Config, 3, 5, newBackend(t))
	require.NoError(t, err)
	loss, err := chainrule.Forward(p.model, ws, p.tokens, p.targets)
	require.NoError(t, err)
	require.Len(t, ws.Losses(), 15)
	want := p.reference.Forward(p.weights, p.batch)
	sum := 0.0
	for i, l := range ws.Losses() {
		require.InDelta(t, want.Losses[i], l, 1e-5, "position %d", i)
		require.Positive(t, l)
		sum += want.Losses[i]
	}
	require.InEpsilon(t, sum/15, loss, 1e-6)
	rounded := 0.0
	for _, l := range ws.Losses() {
		rounded += float64(l)
	}
	require.InEpsilon(t, rounded/15, loss, 1e-14, "summed in float64")
	// every target takes part, the last of a sequence and the last sequence too
	for i := range p.targets {
		targets := slices.Clone(p.targets)
		targets[i] = (targets[i] + 1) % int32(p.VocabSize)
		changed, err := chainrule.Forward(p.model, ws, p.tokens, targets)
		require.NoError(t, err)
		require.NotEqual(t, loss, changed, "target %d", i)
	}
}

// The checker must reject what a wrong gradient looks like.
func TestTheComparisonFindsWhatIsWrong(t *testing.T) {
	p := gradientCases[1].gradientOfReference(t)
	clone := func() testutil.Weights { return p.Clone() }
	require.NoError(t, ordinary.Check(p, clone()))
	for name := range p {
		for what, change := range map[string]func(w testutil.Weights){
			"missing":  func(w testutil.Weights) { delete(w, name) },
			"short":    func(w testutil.Weights) { w[name] = w[name][1:] },
			"zero":     func(w testutil.Weights) { clear(w[name]) },
			"negative": func(w testutil.Weights) { w[name][largest(w[name])] *= -1 },
			"1e-3 off": func(w testutil.Weights) { w[name][largest(w[name])] *= 1.001 },
			"NaN":      func(w testutil.Weights) { w[name][0] = math.NaN() },
			"unknown":  func(w testutil.Weights) { w[name+"x"] = w[name] },
		} {
			w := clone()
			change(w)
			require.ErrorContains(t, ordinary.Check(p, w), name, "%s: %s", name, what)
		}
	}
}

func (gc gradientCase) gradientOfReference(t *testing.T) testutil.Weights {
	p := gc.make(t)
	return p.reference.Gradient(p.weights, p.batch, p.reference.AllElements())
}

func largest(x []float64) int {
	at := 0
	for i, v := range x {
		if math.Abs(v) > math.Abs(x[at]) {
			at = i
		}
	}
	return at
}
