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
	crossEntropyLoop.For(n, grain(2*V), crossEntropyArgs{losses, lse, logits, targets, V, 0})
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
	crossEntropyBackwardLoop.For(n, grain(2*V), crossEntropyArgs{dlogits, lse, logits, targets, V, scale})
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
		a.lse[i] = logSumExp(row)
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
		// scale·e^(x − lse) = (scale·e^(hi − lse))·e^(x − hi)
		hi := float32(a.lse[i])
		factor := float32(a.scale * math.Exp(float64(hi)-a.lse[i]))
		others := simd.ScaledExpSub(out[:target], row[:target], hi, factor) +
			simd.ScaledExpSub(out[target+1:], row[target+1:], hi, factor)
		out[target] = float32(-others)
	}
})

// logSumExp returns ln Σ e^x. It reads x once: each block is summed relative to
// the largest element so far, while it lies in the first cache.
func logSumExp(x []float32) float64 {
	const block = 4096
	most, sum := float32(math.Inf(-1)), 0.0
	for ; len(x) > 0; x = x[min(block, len(x)):] {
		b := x[:min(block, len(x))]
		if m := simd.Max(b); m > most {
			sum *= math.Exp(float64(most) - float64(m)) // of nothing at first
			most = m
		}
		sum += simd.SumExpSub(b, max(most, -math.MaxFloat32)) // -Inf less -Inf is NaN
	}
	return float64(most) + math.Log(sum)
}
