package ops

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAdamWFollowsTheFormulaOverSteps(t *testing.T) {
	r := newRand(1)
	for _, h := range []Adam{
		{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8},
		{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1},
		{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-1, WeightDecay: 1},
		{LR: 1e-2, Beta1: 0, Beta2: 0, Eps: 1e-5},
		{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-3, GradScale: 0.25},
		{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-3, GradScale: 0.25, ZeroGrad: true},
	} {
		for _, n := range []int{0, 1, 5, 200, 16<<10 + 3} {
			t.Run(fmt.Sprintf("%+v,n=%d", h, n), func(t *testing.T) {
				p0 := random(r, n, 1)
				p, m, v := sum(t, p0), sum(t, make([]float32, n)), sum(t, make([]float32, n))
				p64, m64, v64 := widen(p), make([]float64, n), make([]float64, n)
				scale := h.GradScale
				if scale == 0 {
					scale = 1
				}
				for step := 1; step <= 12; step++ {
					g := random(r, n, 0.3)
					given := widen(g)
					AdamW(p, g, m, v, step, h)
					for i := range p64 {
						left := given[i]
						if h.ZeroGrad {
							left = 0
						}
						if float64(g[i]) != left {
							require.Fail(t, "the gradient", "g[%d] was %v and is %v", i, given[i], g[i])
						}
						d := scale * given[i]
						m64[i] = h.Beta1*m64[i] + (1-h.Beta1)*d
						v64[i] = h.Beta2*v64[i] + (1-h.Beta2)*d*d
						mHat := m64[i] / (1 - math.Pow(h.Beta1, float64(step)))
						vHat := v64[i] / (1 - math.Pow(h.Beta2, float64(step)))
						p64[i] -= h.LR*h.WeightDecay*p64[i] + h.LR*mHat/(math.Sqrt(vHat)+h.Eps)
					}
				}
				requireClose(t, m64, m, 1e-6, "m")
				requireClose(t, v64, v, 1e-6, "v")
				requireClose(t, p64, p, 3e-7, "p")
				// what twelve steps moved, against the rounding of the weights
				moved := make([]float32, n)
				for i := range moved {
					moved[i] = p[i] - p0[i]
					p64[i] -= float64(p0[i])
				}
				requireClose(t, p64, moved, 5e-5, "p − p₀")
			})
		}
	}
}

// A decay of LR·λ = 1e-6 is 8 units in the last place of a weight: only its
// mean over many weights shows whether each step takes the right part.
func TestAdamWDecaysByTheRateItIsGiven(t *testing.T) {
	const n = 1 << 16
	for _, rate := range []float64{1e-6, 3.3e-6, 1e-4, 1e-2} {
		p := random(newRand(2), n, 1)
		before := widen(p)
		AdamW(p, make([]float32, n), make([]float32, n), make([]float32, n), 1,
			Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: rate / 1e-3})
		got, all := 0.0, 0.0
		for i := range p {
			got += (before[i] - float64(p[i])) * before[i]
			all += before[i] * before[i]
		}
		require.InEpsilon(t, rate, got/all, 1e-3, "the part of a weight that a step takes")
	}
}

func TestAdamWNaNStaysWithItsElement(t *testing.T) {
	p, g, m, v := filled(5, 1), []float32{1, nan, 1, inf, 1}, make([]float32, 5), make([]float32, 5)
	AdamW(p, g, m, v, 1, Adam{LR: 0.1, Beta1: 0.9, Beta2: 0.9, Eps: 1e-8})
	for _, s := range [][]float32{p, m, v} {
		require.True(t, s[1] != s[1])
		require.Equal(t, s[0], s[2])
		require.Equal(t, s[0], s[4])
	}
	require.InDelta(t, 0.9, p[0], 1e-6)
	require.True(t, math.IsNaN(float64(p[3])), "an infinite gradient leaves %v", p[3])
}

func TestAdamWPanicsOnWhatCannotBe(t *testing.T) {
	good := Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
	step := func(n, t int, change func(h *Adam)) func() {
		return func() {
			h := good
			change(&h)
			AdamW(make([]float32, 3), make([]float32, n), make([]float32, 3), make([]float32, 3), t, h)
		}
	}
	none := func(*Adam) {}
	require.NotPanics(t, step(3, 1, none))
	panicsWith(t, "chainrule: ops.AdamW: slices of different length", step(2, 1, none), "")
	panicsWith(t, "chainrule: ops.AdamW: slices of different length", step(4, 1, none), "")
	panicsWith(t, "chainrule: ops.AdamW: the first step is 1", step(3, 0, none), "")
	const betas = "chainrule: ops.AdamW: Beta1 or Beta2 is not in [0,1)"
	for _, beta := range []float64{-0.1, 1, 1.5, math.NaN()} {
		panicsWith(t, betas, step(3, 1, func(h *Adam) { h.Beta1 = beta }), "%v", beta)
		panicsWith(t, betas, step(3, 1, func(h *Adam) { h.Beta2 = beta }), "%v", beta)
	}
	for _, eps := range []float64{0, -1e-8, math.NaN()} {
		panicsWith(t, "chainrule: ops.AdamW: Eps is not positive", step(3, 1, func(h *Adam) { h.Eps = eps }), "%v", eps)
	}
}
