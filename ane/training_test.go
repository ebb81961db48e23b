package ane

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/ane/internal/sim"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/internal/testutil"
)

func smallConfig() chainrule.Config {
	return chainrule.Config{
		Dim: 64, HiddenDim: 96, NLayers: 2, NHeads: 4, NKVHeads: 2, HeadDim: 16, VocabSize: 160, SeqLen: 64,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
}

// trainer is a model that learns the sequence of examples/overfit.
type trainer struct {
	m               *chainrule.Model
	ws              *chainrule.Workspace
	g               *chainrule.Params
	state           *chainrule.AdamState
	tokens, targets []int32
}

func newTrainer(t testing.TB, c chainrule.Config, B, T int, be backend.Backend) *trainer {
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	m.Init(1)
	tr := &trainer{m: m}
	tr.ws, err = chainrule.NewWorkspace(c, B, T, be)
	require.NoError(t, err)
	tr.g, err = chainrule.NewParams(c)
	require.NoError(t, err)
	tr.state, err = chainrule.NewAdamState(c)
	require.NoError(t, err)
	for i := range B * T {
		tr.tokens = append(tr.tokens, int32((i*7+13)%128+1))
		tr.targets = append(tr.targets, int32(((i+1)*7+13)%128+1))
	}
	return tr
}

// gradient returns the loss, and adds to the gradient.
func (tr *trainer) gradient(t testing.TB) float64 {
	loss, err := chainrule.Forward(tr.m, tr.ws, tr.tokens, tr.targets)
	require.NoError(t, err)
	require.NoError(t, chainrule.Backward(tr.m, tr.ws, tr.g))
	return loss
}

func (tr *trainer) update() {
	chainrule.ClipGradients(tr.g, 1)
	chainrule.AdamStep(tr.m, tr.g, tr.state, chainrule.Adam{LR: 5e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8})
	chainrule.ZeroGrad(tr.g)
}

func onCPU(t testing.TB) backend.Backend {
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { be.Close() })
	return be
}

// allOnDevice checks that no product ran elsewhere, or twice.
func allOnDevice(t testing.TB, be *Backend) {
	for _, s := range be.Stats().Shapes {
		require.Equal(t, s.Calls, s.OnDevice, be.Stats())
		require.Empty(t, s.Reasons)
	}
}

func weights(p *chainrule.Params) testutil.Weights {
	w := testutil.Weights{}
	for t := range p.Tensors() {
		for _, v := range t.Data {
			w[t.Name] = append(w[t.Name], float64(v))
		}
	}
	return w
}

// A product through binary16 is off by about 2⁻¹¹ of its size, and a gradient
// goes through at most 4 of them a layer and the classifier's, forward and
// backward: 2·(4·2+1) = 18. If the errors were all of one sign they added up
// to 18·2⁻¹¹.
var gradientBound = testutil.Bound{OfTensor: 18 * 0x1p-11, OfAll: 0x1p-20}

// Through binary16 the gradients stay those of float32, per tensor, for any
// size of the loss.
func TestGradients(t *testing.T) {
	for _, denom := range []float64{0, 1e7 * 64, 1e-4 * 64} {
		t.Run(fmt.Sprint("LossDenom ", denom), func(t *testing.T) {
			be := open(t, sim.Early(), Options{})
			a, b := newTrainer(t, smallConfig(), 1, 64, be), newTrainer(t, smallConfig(), 1, 64, onCPU(t))
			a.ws.LossDenom, b.ws.LossDenom = denom, denom
			for range 10 { // not at the start, where Wo and W2 do little
				b.gradient(t)
				b.update()
			}
			copy(a.m.Data, b.m.Data)
			a.m.Touch()
			require.InEpsilon(t, b.gradient(t), a.gradient(t), 0x1p-11)
			require.NoError(t, gradientBound.Check(weights(b.g), weights(a.g)))
			allOnDevice(t, be)
			name, ratio := gradientBound.Worst(weights(b.g), weights(a.g))
			t.Logf("the worst tensor is %s, at %.2f of the bound", name, ratio)
			require.Greater(t, ratio, 0.001, "not binary16")
		})
	}
}

// How far the losses of 50 steps may be from those of float32, of a loss that
// starts at 5 and ends near 0. Each step's gradient is within gradientBound,
// but the errors of the weights add up.
const lossDistance = 0.01

func TestTraining(t *testing.T) {
	if raced {
		t.Skip("50 steps of numbers")
	}
	be := open(t, sim.Early(), Options{})
	a, b := newTrainer(t, smallConfig(), 1, 64, be), newTrainer(t, smallConfig(), 1, 64, onCPU(t))
	most, last := 0.0, 0.0
	for range 50 {
		lossA, lossB := a.gradient(t), b.gradient(t)
		a.update()
		b.update()
		most, last = max(most, math.Abs(lossA-lossB)), lossA
	}
	t.Logf("the losses differ by at most %.2g", most)
	require.Less(t, most, lossDistance)
	require.NotZero(t, most)
	require.Less(t, last, 0.1, "the sequence is learned")
	allOnDevice(t, be)
}

// counts is what the device has to do in a step of micro-batches.
type counts struct {
	evaluations int
	put, got    int64
}

// stepCounts adds up the plans: each product stages its x or dy, and its
// result is read; each weight is staged once in a step for each direction.
func stepCounts(c chainrule.Config, rows, micro int, chip *sim.Chip) (n counts) {
	C, H, Q, KV := c.Dim, c.HiddenDim, c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
	for _, w := range []struct{ times, out, in int }{
		{c.NLayers, Q + 2*KV, C}, {c.NLayers, C, Q}, {c.NLayers, 2 * H, C}, {c.NLayers, C, H}, {1, c.VocabSize, C},
	} {
		forward, _ := newPlan(Forward, rows, w.out, w.in, chip.Limits())
		backward, _ := newPlan(Backward, rows, w.out, w.in, chip.Limits())
		times := int64(w.times)
		n.evaluations += w.times * micro * (forward.tiles + backward.tiles)
		n.put += times * 2 * 2 * int64(w.out*w.in)
		n.put += times * int64(micro) * 2 * int64(rows*(forward.tiles*w.in+w.out))
		n.got += times * int64(micro) * 2 * int64(rows*(w.out+backward.tiles*w.in))
	}
	return n
}

func TestWhatIsStagedInAStep(t *testing.T) {
	for _, tied := range []bool{true, false} {
		for _, micro := range []int{1, 3} {
			c := smallConfig()
			c.Tied = tied
			chip := sim.Early()
			chip.MaxAxis, chip.MinSurface = 300, 4096 // the classifier in two tiles
			c.VocabSize = 300
			be := open(t, chip, Options{})
			tr := newTrainer(t, c, 2, 32, be)
			tr.gradient(t)
			tr.update()
			before := chip.Counts()
			const steps = 3
			for range steps {
				for range micro {
					tr.gradient(t)
				}
				tr.update()
			}
			after, want := chip.Counts(), stepCounts(c, 64, micro, chip)
			require.Equal(t, steps*want.evaluations, after.Evals-before.Evals)
			require.Equal(t, steps*want.put, after.BytesPut-before.BytesPut)
			require.Equal(t, steps*want.got, after.BytesGot-before.BytesGot)
			allOnDevice(t, be)
			total := be.Stats().Total()
			require.EqualValues(t, (steps*micro+1)*want.evaluations/micro, total.Evaluations)
		}
	}
}
