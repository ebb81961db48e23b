package ops

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func crossEntropy64(logits []float64, targets []int32, n, V int) (losses []float64, total float64) {
	losses = make([]float64, n)
	for i, target := range targets {
		if target < 0 {
			continue
		}
		row := logits[i*V:][:V]
		most := math.Inf(-1)
		for _, v := range row {
			most = max(most, v)
		}
		rest, target := 0.0, int(target)
		for j, v := range row {
			if j != target {
				rest += math.Exp(v - most)
			}
		}
		if row[target] == most {
			losses[i] = math.Log1p(rest)
		} else {
			losses[i] = math.Log(rest+math.Exp(row[target]-most)) + most - row[target]
		}
		total += losses[i]
	}
	return losses, total
}

func TestCrossEntropyAndItsBackwardMatchFloat64(t *testing.T) {
	r := newRand(1)
	for _, c := range []struct {
		n, V   int
		std    float64
		sure   float32 // added to the target's logit
		ignore bool
	}{
		{0, 3, 1, 0, false}, {1, 2, 1, 0, false}, {3, 5, 1, 0, true}, {4, 63, 1, 0, false}, {5, 64, 2, 0, true},
		{3, 65, 1, 0, false}, {33, 31, 1, 0, true}, {2, 130, 10, 0, true}, {3, 65, 1e-4, 0, false},
		{3, 65, 1, 8, false}, {3, 65, 1, 16, false}, {3, 65, 1, 30, true}, // all but certain
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			n, V, scale := c.n, c.V, 0.37
			logits, targets := random(r, n*V, c.std), make([]int32, n)
			for i := range targets {
				targets[i] = int32(r.IntN(V))
				logits[i*V+int(targets[i])] += c.sure
				if c.ignore && i%3 == 1 {
					targets[i] = -1 - int32(i)
				}
			}
			losses, lse, dlogits := output(t, n), make([]float64, n), output(t, n*V)
			CrossEntropy(losses, lse, logits, targets, n, V)
			CrossEntropyBackward(dlogits, lse, logits, targets, n, V, scale)
			l64 := widen(logits)
			want, _ := crossEntropy64(l64, targets, n, V)
			for i := range want {
				require.InDelta(t, want[i], losses[i], 1e-6*max(1, want[i]))
			}
			g := gradient(l64, func() float64 { _, s := crossEntropy64(l64, targets, n, V); return scale * s })
			if c.sure < 20 { // below, differences of float64 are too coarse
				requireClose(t, g, dlogits, 1e-6, "dlogits")
			}
			for i, target := range targets {
				row, s := dlogits[i*V:][:V], 0.0
				for _, v := range row {
					s += float64(v)
				}
				if target < 0 {
					require.Equal(t, make([]float32, V), row, "an ignored row")
					require.Zero(t, losses[i])
				} else {
					require.LessOrEqual(t, math.Abs(s), 1e-7*math.Abs(float64(row[target])), "a row of the gradient sums to 0")
					require.Negative(t, row[target])
				}
			}
			inPlace := sum(t, logits)
			CrossEntropyBackward(inPlace, lse, inPlace, targets, n, V, scale)
			require.Equal(t, bitsOf(dlogits), bitsOf(inPlace))
		})
	}
}

func TestCrossEntropyOfExtremeLogits(t *testing.T) {
	for _, c := range []struct {
		name   string
		logits []float32
		target int32
		loss   float32
		grad   []float32
	}{
		{"one class", []float32{3}, 0, 0, []float32{0}},
		{"one class, huge", []float32{-1e30}, 0, 0, []float32{0}},
		{"+1e4 right", []float32{1e4, 0, -1e4}, 0, 0, []float32{0, 0, 0}},
		{"+1e4 wrong", []float32{1e4, 0, -1e4}, 2, 2e4, []float32{1, 0, -1}},
		{"1e30 right", []float32{1e30, -1e30}, 0, 0, []float32{0, 0}},
		{"1e30 wrong", []float32{1e30, -1e30}, 1, 2e30, []float32{1, -1}},
		{"all 1e8", []float32{1e8, 1e8}, 1, float32(math.Ln2), []float32{0.5, -0.5}},
		{"all -1e4", []float32{-1e4, -1e4}, 1, float32(math.Ln2), []float32{0.5, -0.5}},
		{"-Inf elsewhere", []float32{0, -inf, 0}, 0, float32(math.Ln2), []float32{-0.5, 0, 0.5}},
		{"-Inf at the target", []float32{0, -inf}, 1, inf, []float32{1, -1}},
		{"all -Inf", []float32{-inf, -inf}, 0, nan, []float32{nan, nan}},
		{"+Inf", []float32{inf, 0}, 0, nan, []float32{nan, nan}},
		{"NaN", []float32{0, nan}, 0, nan, []float32{nan, nan}},
		{"NaN at the target", []float32{0, nan}, 1, nan, []float32{nan, nan}},
	} {
		t.Run(c.name, func(t *testing.T) {
			V := len(c.logits)
			loss, lse, grad := output(t, 1), make([]float64, 1), output(t, V)
			CrossEntropy(loss, lse, c.logits, []int32{c.target}, 1, V)
			CrossEntropyBackward(grad, lse, c.logits, []int32{c.target}, 1, V, 1)
			same := func(want, got float32) {
				if want != want {
					require.True(t, got != got, "%v, want NaN", got)
				} else if math.IsInf(float64(want), 0) {
					require.Equal(t, want, got)
				} else {
					require.InDelta(t, want, got, 2e-7*max(1, math.Abs(float64(want))))
				}
			}
			same(c.loss, loss[0])
			for i := range c.grad {
				same(c.grad[i], grad[i])
			}
		})
	}
}

func TestCrossEntropyOfAnIgnoredRowDoesNotReadIt(t *testing.T) {
	logits := []float32{nan, inf, 1, 2}
	losses, lse, d := output(t, 2), make([]float64, 2), output(t, 4)
	CrossEntropy(losses, lse, logits, []int32{-100, 1}, 2, 2)
	CrossEntropyBackward(d, lse, logits, []int32{-100, 1}, 2, 2, 1)
	require.Zero(t, losses[0])
	require.Equal(t, []float32{0, 0}, d[:2])
	require.InDelta(t, math.Log1p(math.Exp(-1)), losses[1], 1e-7)
}
