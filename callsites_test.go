package chainrule_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/ops"
)

// The programs that the types of this package must carry, each in miniature.

func callsiteConfig() chainrule.Config {
	return chainrule.Config{
		Dim: 24, HiddenDim: 48, NLayers: 2, NHeads: 4, NKVHeads: 2, HeadDim: 6, VocabSize: 29, SeqLen: 32,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
}

// A step over more sequences than a Workspace holds, of unequal lengths.
func TestCallSiteAccumulation(t *testing.T) {
	const T, microBatches = 8, 3
	tr := newTrainer(t, callsiteConfig(), 2, T)
	r := rand.New(rand.NewPCG(1, 1))
	var tokens, targets [microBatches][]int32
	for i := range microBatches {
		tokens[i], targets[i] = randomTokens(r, tr.Config, 2*T), randomTokens(r, tr.Config, 2*T)
		for j := range 5 * i { // padding
			targets[i][len(targets[i])-1-j] = -1
		}
	}

	var losses []float64
	for range 30 {
		counted := 0
		for _, micro := range targets {
			for _, target := range micro {
				if target >= 0 {
					counted++
				}
			}
		}
		tr.ws.LossDenom = float64(counted)
		chainrule.ZeroGrad(tr.g)
		loss := 0.0
		for i := range microBatches {
			part, err := chainrule.Forward(tr.Model, tr.ws, tokens[i], targets[i])
			require.NoError(t, err)
			require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g))
			loss += part
		}
		norm := chainrule.ClipGradients(tr.g, 1)
		require.False(t, math.IsNaN(norm) || math.IsInf(norm, 0))
		chainrule.AdamStep(tr.Model, tr.g, tr.state, chainrule.Adam{LR: 5e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8})
		losses = append(losses, loss)
	}
	require.Less(t, losses[len(losses)-1], losses[0]/2)
}

// Fine-tuning on the answers only: the prompt is read, not learned.
func TestCallSiteAnswerOnlyLoss(t *testing.T) {
	prompt, answer := []int32{3, 1, 4, 1, 5}, []int32{9, 2, 6}
	sequence := append(slices.Clone(prompt), answer...)
	T := len(sequence) - 1
	tr := newTrainer(t, callsiteConfig(), 1, T)
	targets := slices.Clone(sequence[1:])
	for i := range len(prompt) - 1 {
		targets[i] = -1
	}

	h := chainrule.Adam{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
	for step := range 60 {
		loss, err := chainrule.Forward(tr.Model, tr.ws, sequence[:T], targets)
		require.NoError(t, err)
		if step == 0 {
			sum := 0.0
			for i, l := range tr.ws.Losses() {
				require.Equal(t, i >= len(prompt)-1, l > 0, "position %d", i)
				sum += float64(l)
			}
			require.InEpsilon(t, sum/float64(len(answer)), loss, 1e-6)
		}
		chainrule.ZeroGrad(tr.g)
		require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g))
		chainrule.AdamStep(tr.Model, tr.g, tr.state, h)
	}
	session, err := chainrule.NewSession(tr.Model, newBackend(t), chainrule.SessionOptions{})
	require.NoError(t, err)
	greedy, err := chainrule.NewSampler(chainrule.SamplerOptions{})
	require.NoError(t, err)
	var said []int32
	for token, err := range session.Generate(t.Context(), prompt, greedy) {
		require.NoError(t, err)
		if said = append(said, token); len(said) == len(answer) {
			break
		}
	}
	require.Equal(t, answer, said)
}

// stridedLoss returns the mean loss of text[1:], each token predicted from a
// window of T in which at least T−stride tokens come before those that count.
func stridedLoss(m *chainrule.Model, ws *chainrule.Workspace, text []int32, T, stride int) (mean float64, counted int, err error) {
	sum, end := 0.0, 0 // text[:end] predicts what has been counted
	for end < len(text)-1 {
		start := max(0, min(end+stride-T, len(text)-1-T))
		if end == 0 {
			start = 0
		}
		n := min(T, len(text)-1-start)
		if err := ws.Resize(1, n); err != nil {
			return 0, 0, err
		}
		if _, err := chainrule.Forward(m, ws, text[start:start+n], text[start+1:start+n+1]); err != nil {
			return 0, 0, err
		}
		for _, l := range ws.Losses()[end-start:] {
			sum += float64(l)
			counted++
		}
		end = start + n
	}
	return sum / float64(counted), counted, nil
}

func TestCallSiteStridedEvaluation(t *testing.T) {
	const T = 8
	tr := newTrainer(t, callsiteConfig(), 1, T)
	text := randomTokens(rand.New(rand.NewPCG(2, 2)), tr.Config, 31)
	for _, stride := range []int{1, 3, T} {
		mean, counted, err := stridedLoss(tr.Model, tr.ws, text, T, stride)
		require.NoError(t, err)
		require.Equal(t, len(text)-1, counted)
		if stride > 1 {
			continue
		}
		// every position alone, with the T tokens before it
		session, err := chainrule.NewSession(tr.Model, newBackend(t), chainrule.SessionOptions{MaxLen: T})
		require.NoError(t, err)
		sum := 0.0
		for i := 1; i < len(text); i++ {
			session.Truncate(0, 0)
			logits, err := session.Append(0, text[max(0, i-T):i])
			require.NoError(t, err)
			partition := 0.0
			for _, l := range logits {
				partition += math.Exp(float64(l))
			}
			sum += math.Log(partition) - float64(logits[text[i]])
		}
		require.InEpsilon(t, sum/float64(len(text)-1), mean, 1e-5)
	}
}

// An exponential moving average of the weights, evaluated in place of them.
func TestCallSiteAveragedWeights(t *testing.T) {
	tr := newTrainer(t, callsiteConfig(), 2, 8)
	average, err := chainrule.ParamsOf(tr.Config, slices.Clone(tr.Data))
	require.NoError(t, err)
	averaged, err := chainrule.NewModelOf(tr.Config, average)
	require.NoError(t, err)
	want := float64s(average.Data)
	const decay = 0.75
	for range 10 {
		tr.step(t)
		for i, w := range tr.Data {
			average.Data[i] += (1 - decay) * (w - average.Data[i])
			want[i] = decay*want[i] + (1-decay)*float64(w)
		}
		averaged.Touch()
	}
	require.InDeltaSlice(t, want, average.Data, 1e-6)
	current, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
	require.NoError(t, err)
	lagging, err := chainrule.Forward(averaged, tr.ws, tr.tokens, tr.targets)
	require.NoError(t, err)
	require.Greater(t, lagging, current, "the average is behind on the batch that it overfits")
	require.NotSame(t, &averaged.Wcls[0], &tr.Wcls[0])
}

// adapter is a low-rank update of one weight: W = W₀ + B·A (Hu et al., 2021).
// A is kept transposed, so that B·A is a linear layer of the rows of B, and
// its gradients are that layer's.
type adapter struct {
	frozen, merged []float32      // W₀ and W [Out,In]
	dW             []float32      // of the model's gradient
	b              []float32      // [Out,r]
	at             backend.Matrix // Aᵀ [In,r]
	db, dat        []float32
	bm, bv, am, av []float32 // moments
}

func newAdapter(frozen, merged, dW []float32, out, in, rank int, r *rand.Rand) *adapter {
	a := &adapter{
		frozen: frozen, merged: merged, dW: dW, b: make([]float32, out*rank),
		at: backend.Matrix{Data: make([]float32, in*rank), Out: in, In: rank},
		db: make([]float32, out*rank), dat: make([]float32, in*rank),
		bm: make([]float32, out*rank), bv: make([]float32, out*rank),
		am: make([]float32, in*rank), av: make([]float32, in*rank),
	}
	for i := range a.at.Data {
		a.at.Data[i] = float32(0.2 * r.NormFloat64()) // and B is 0: training starts at W₀
	}
	return a
}

func (a *adapter) rows() int { return len(a.b) / a.at.In }

// merge writes W = W₀ + B·A.
func (a *adapter) merge(be backend.Backend) error {
	if err := be.Linear(a.merged, a.b, &a.at, a.rows()); err != nil {
		return err
	}
	ops.Add(a.merged, a.merged, a.frozen, len(a.merged))
	return nil
}

// step turns dW into the gradients of B and A and updates both.
func (a *adapter) step(be backend.Backend, t int, h ops.Adam) error {
	clear(a.dat)
	if err := be.LinearBackward(a.db, a.dat, a.dW, a.b, &a.at, a.rows()); err != nil {
		return err
	}
	ops.AdamW(a.b, a.db, a.bm, a.bv, t, h)
	ops.AdamW(a.at.Data, a.dat, a.am, a.av, t, h)
	a.at.Gen++
	return nil
}

func TestCallSiteAdapterBesideFrozenWeights(t *testing.T) {
	const rank = 3
	tr := newTrainer(t, callsiteConfig(), 2, 8)
	frozen := slices.Clone(tr.Data)
	weights, err := chainrule.ParamsOf(tr.Config, slices.Clone(frozen))
	require.NoError(t, err)
	merged, err := chainrule.NewModelOf(tr.Config, weights)
	require.NoError(t, err)

	// the gradient of what is adapted, and of nothing else
	g, err := chainrule.NewParams(tr.Config)
	require.NoError(t, err)
	g.TokenEmbedding, g.Wcls, g.RMSFinal = nil, nil, nil
	r := rand.New(rand.NewPCG(6, 6))
	var adapters []*adapter
	for i := range g.Layers {
		g.Layers[i] = chainrule.LayerParams{Wqkv: g.Layers[i].Wqkv, W2: g.Layers[i].W2}
		d, base, w := &g.Layers[i], &tr.Layers[i], &weights.Layers[i]
		adapters = append(adapters,
			newAdapter(base.Wqkv, w.Wqkv, d.Wqkv, len(w.Wqkv)/tr.Dim, tr.Dim, rank, r),
			newAdapter(base.W2, w.W2, d.W2, tr.Dim, tr.HiddenDim, rank, r))
	}

	be := newBackend(t)
	var losses []float64
	for step := 1; step <= 80; step++ {
		for _, a := range adapters {
			require.NoError(t, a.merge(be))
		}
		merged.Touch()
		if step == 1 {
			require.Equal(t, frozen, weights.Data, "training starts at the frozen weights")
		}
		loss, err := chainrule.Forward(merged, tr.ws, tr.tokens, tr.targets)
		require.NoError(t, err)
		losses = append(losses, loss)
		chainrule.ZeroGrad(g)
		require.NoError(t, chainrule.Backward(merged, tr.ws, g))
		chainrule.ClipGradients(g, 1)
		for _, a := range adapters {
			require.NoError(t, a.step(be, step, chainrule.Adam{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}))
		}
	}
	require.Less(t, losses[len(losses)-1], losses[0]/2)
	require.Equal(t, frozen, tr.Data, "the frozen weights")
	adapted := referenceWeights(weights)
	for name, w := range referenceWeights(tr.Params) {
		switch name[len(name)-2:] {
		case "wq", "wk", "wv", "w2":
			require.NotEqual(t, w, adapted[name], name)
		default:
			require.Equal(t, w, adapted[name], name)
		}
	}
}
