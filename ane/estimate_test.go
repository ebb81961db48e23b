package ane

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/ane/internal/sim"
	"github.com/chainrule-go/chainrule/backend"
)

// The counts of a training step of Stories110M, 256 tokens, that the
// documentation's estimate is made of, as the simulator counts them: of each
// of the five products once, times the layers.
func TestCountsOfStories110M(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("60 GFLOP")
	}
	const rows = 256
	c := chainrule.Config{
		Dim: 768, HiddenDim: 2048, NLayers: 12, NHeads: 12, NKVHeads: 12, HeadDim: 64,
		VocabSize: 32000, SeqLen: 1024, RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
	chip := sim.Early()
	be := open(t, chip, Options{})
	memory := make([]float32, c.VocabSize*c.Dim) // of every weight
	for i := range memory {
		memory[i] = float32(i%101-50) / 1000
	}
	var got counts
	flop := 0.0
	for _, w := range []struct{ times, out, in int }{
		{12, 3 * 768, 768}, {12, 768, 768}, {12, 2 * 2048, 768}, {12, 768, 2048}, {1, 32000, 768},
	} {
		m := &backend.Matrix{Data: memory, Out: w.out, In: w.in}
		x, y := memory[:rows*w.in], make([]float32, rows*w.out)
		dx := make([]float32, rows*w.in)
		step := func() {
			m.Gen++
			require.NoError(t, be.Linear(y, x, m, rows))
			require.NoError(t, be.LinearBackward(dx, nil, y, nil, m, rows))
		}
		step() // the programs
		before := chip.Counts()
		step()
		after := chip.Counts()
		got.evaluations += w.times * (after.Evals - before.Evals)
		got.put += int64(w.times) * (after.BytesPut - before.BytesPut)
		got.got += int64(w.times) * (after.BytesGot - before.BytesGot)
		flop += float64(w.times) * 2 * 2 * rows * float64(w.out) * float64(w.in)
	}
	allOnDevice(t, be)
	require.Equal(t, stepCounts(c, rows, 1, chip), got)
	require.Equal(t, 10, be.Stats().Programs, "8 for the layers, 2 for the classifier")

	converted := float64(got.put+got.got) / 2 // elements
	t.Logf("%d evaluations, %.1f GFLOP; %.1f MB put, %.1f MB got, %.0fM elements converted",
		got.evaluations, flop/1e9, float64(got.put)/1e6, float64(got.got)/1e6, converted/1e6)
	for _, e := range []struct {
		name                          string
		dispatch, throughput, traffic float64 // µs, TFLOP/s, GB/s
	}{
		{"best", 70, 7, 100},
		{"worst", 410, 6, 30},
	} {
		d, f, s := float64(got.evaluations)*e.dispatch/1e3, flop/e.throughput/1e9, converted*6/e.traffic/1e6
		t.Logf("%s: dispatch %.0f ms + arithmetic %.0f ms + conversion %.0f ms = %.0f ms", e.name, d, f, s, d+f+s)
	}
	require.Equal(t, 100, got.evaluations)
	require.InDelta(t, 112.1, flop/1e9, 0.05)
	require.InDelta(t, 530.7, float64(got.put)/1e6, 0.05)
	require.InDelta(t, 92.7, float64(got.got)/1e6, 0.05)
}
