package ops

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// Adam is the hyperparameters of AdamW.
type Adam struct {
	LR           float64 // α, the learning rate of this step
	Beta1, Beta2 float64 // decay of the first and the second moment, in [0,1)
	Eps          float64 // positive
	WeightDecay  float64 // λ, decoupled: a step takes LR·λ of the weight
	GradScale    float64 // multiplies the gradient; 0 means 1
	ZeroGrad     bool    // leaves the gradient 0, in the same pass over memory
}

// AdamW updates the weights p and the moments m and v with the gradient g, all
// of one length, at step t = 1, 2, … (Loshchilov and Hutter, 2019), and sets g to
// 0 if h.ZeroGrad says so:
//
//	m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²
//	p ← p − α·λ·p − α·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)
//
// It panics if a hyperparameter is outside its range.
func AdamW(p, g, m, v []float32, t int, h Adam) {
	need(len(g) == len(p) && len(m) == len(p) && len(v) == len(p), "chainrule: ops.AdamW: slices of different length")
	need(t >= 1, "chainrule: ops.AdamW: the first step is 1")
	need(h.Beta1 >= 0 && h.Beta1 < 1 && h.Beta2 >= 0 && h.Beta2 < 1, "chainrule: ops.AdamW: Beta1 or Beta2 is not in [0,1)")
	need(h.Eps > 0, "chainrule: ops.AdamW: Eps is not positive")
	if h.GradScale == 0 {
		h.GradScale = 1
	}
	bias1 := 1 - math.Pow(h.Beta1, float64(t))
	bias2 := 1 - math.Pow(h.Beta2, float64(t))
	adamWLoop.For(len(p), grain(1), adamWArgs{p, g, m, v, simd.AdamW{
		GradScale: float32(h.GradScale),
		Beta1:     float32(h.Beta1), Rest1: float32(1 - h.Beta1),
		Beta2: float32(h.Beta2), Rest2: float32(1 - h.Beta2),
		Decay: float32(h.LR * h.WeightDecay), Step: float32(h.LR / bias1),
		Root: float32(1 / math.Sqrt(bias2)), Eps: float32(h.Eps),
		ZeroGrad: h.ZeroGrad,
	}})
}

type adamWArgs struct {
	p, g, m, v []float32
	factors    simd.AdamW // computed once a step, in float64
}

var adamWLoop = par.New(func(a *adamWArgs, lo, hi int) {
	a.factors.Update(a.p[lo:hi], a.g[lo:hi], a.m[lo:hi], a.v[lo:hi])
})
