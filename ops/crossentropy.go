package ops

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// CrossEntropy computes, for each row of logits [n,V] with a target ≥ 0,
//
//	lse = ln Σⱼ e^logitⱼ,  loss = lse − logit[target]
//
// A row with a negative target is ignored: its loss is 0. losses is [n]; lse
// [n], in float64, is what the backward needs. Targets are below V: the caller
// has checked.
func CrossEntropy(losses []float32, lse []float64, logits []float32, targets []int32, n, V int) {
	need(len(losses) >= n && len(lse) >= n && len(logits) >= n*V && len(targets) >= n,
		"chainrule: ops.CrossEntropy: a slice is too short")
	crossEntropyLoop.For(n, grain(8*V), crossEntropyArgs{losses, lse, logits, targets, V, 0})
}

// CrossEntropyBackward computes, for loss = scale·Σ_rows(lse − logit[target]),
//
//	dlogitⱼ = scale·(e^(logitⱼ − lse) − [j = target])
//
// and 0 in ignored rows. The target's is minus the sum of the others, which
// 1 − e^(…) would cancel away where the model is sure. dlogits may be logits.
func CrossEntropyBackward(dlogits []float32, lse []float64, logits []float32, targets []int32, n, V int, scale float64) {
	need(len(dlogits) >= n*V && len(lse) >= n && len(logits) >= n*V && len(targets) >= n,
		"chainrule: ops.CrossEntropyBackward: a slice is too short")
	crossEntropyBackwardLoop.For(n, grain(8*V), crossEntropyArgs{dlogits, lse, logits, targets, V, scale})
}

type crossEntropyArgs struct {
	out     []float32
	lse     []float64
	logits  []float32
	targets []int32
	V       int
	scale   float64
}

var crossEntropyLoop = par.New(func(a *crossEntropyArgs, lo, hi int) {
	for i := lo; i < hi; i++ {
		target := a.targets[i]
		if target < 0 {
			a.out[i] = 0
			continue
		}
		row := a.logits[i*a.V:][:a.V]
		m := simd.Max(row)
		a.lse[i] = float64(m) + math.Log(simd.SumExpSub(row, m))
		a.out[i] = float32(a.lse[i] - float64(row[target]))
	}
})

var crossEntropyBackwardLoop = par.New(func(a *crossEntropyArgs, lo, hi int) {
	for i := lo; i < hi; i++ {
		target := a.targets[i]
		out, row := a.out[i*a.V:][:a.V], a.logits[i*a.V:][:a.V]
		if target < 0 {
			clear(out)
			continue
		}
		var others float64
		for j, logit := range row {
			if j != int(target) {
				out[j] = float32(a.scale) * simd.Exp(float32(float64(logit)-a.lse[i]))
				others += float64(out[j])
			}
		}
		out[target] = float32(-others)
	}
})
