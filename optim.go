package chainrule

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/mem"
	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
	"github.com/chainrule-go/chainrule/ops"
)

// ZeroGrad sets every gradient to 0.
func ZeroGrad(g *Params) {
	if g == nil {
		panic("chainrule: ZeroGrad: nil gradient")
	}
	zeroLoop.For(len(g.Data), zeroGrain, g.Data)
}

const zeroGrain = 1 << 16

var zeroLoop = par.New(func(data *[]float32, lo, hi int) { simd.Clear((*data)[lo:hi]) })

// GradNorm returns the Euclidean norm of all gradients together, each counted
// once, summed in float64. It is NaN or +Inf if the gradients are not finite.
func GradNorm(g *Params) float64 {
	if g == nil {
		panic("chainrule: GradNorm: nil gradient")
	}
	s := normSums.Get()
	block := (len(g.Data) + len(s) - 1) / len(s)
	normLoop.For(len(s), 1, normArgs{s, g.Data, block})
	var sum float64
	for _, v := range s {
		sum += v
	}
	normSums.Put(s)
	return math.Sqrt(sum)
}

type normArgs struct {
	sums  *[256]float64
	data  []float32
	block int
}

var (
	normSums par.Pool[[256]float64]
	normLoop = par.New(func(a *normArgs, lo, hi int) {
		for i := lo; i < hi; i++ {
			from, to := min(i*a.block, len(a.data)), min((i+1)*a.block, len(a.data))
			a.sums[i] = simd.SumSquares(a.data[from:to])
		}
	})
)

// ClipGradients scales the gradients so that their norm is at most maxNorm,
// and returns the norm they had. If that is NaN or infinite it leaves them
// alone: the caller should not step. It panics unless maxNorm is positive.
func ClipGradients(g *Params, maxNorm float64) (norm float64) {
	if !(maxNorm > 0) {
		panic("chainrule: ClipGradients: maxNorm is not positive")
	}
	norm = GradNorm(g)
	if norm > maxNorm && !math.IsInf(norm, 0) {
		scaleLoop.For(len(g.Data), zeroGrain, scaleArgs{g.Data, float32(maxNorm / norm)})
	}
	return norm
}

type scaleArgs struct {
	data  []float32
	scale float32
}

var scaleLoop = par.New(func(a *scaleArgs, lo, hi int) {
	simd.Scale(a.data[lo:hi], a.scale)
})

// Adam is the hyperparameters of AdamStep. WeightDecay acts on tensors of rank
// 2, TokenEmbedding included, and not on norms and biases.
type Adam = ops.Adam

// AdamState is the optimizer's state: the moments of every parameter, laid out
// like Params.Data, and the number of steps taken.
type AdamState struct {
	M, V []float32
	Step int
}

// NewAdamState returns the state before the first step. The error is
// Validate's.
func NewAdamState(c Config) (*AdamState, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := c.NumParams()
	return &AdamState{M: mem.Stream(n), V: mem.Stream(n)}, nil
}

// AdamStep takes one step of AdamW (ops.AdamW has the formula) on every
// parameter of m with the gradient g; a tied tensor is stepped once. It counts
// s.Step up and calls m.Touch. With h.ZeroGrad it does the work of the next
// ZeroGrad, in less than half of its time. It panics, and changes nothing, if an argument is
// nil, g or s has another size than m, or a hyperparameter is outside its range.
func AdamStep(m *Model, g *Params, s *AdamState, h Adam) {
	if m == nil || g == nil || s == nil {
		panic("chainrule: AdamStep: nil Model, gradient or state")
	}
	if g.config != m.Config || len(s.M) != len(m.Data) || len(s.V) != len(m.Data) {
		panic("chainrule: AdamStep: gradient or state was made for another Config")
	}
	step, undecayed := s.Step+1, h
	undecayed.WeightDecay = 0
	// neighbours that decay alike are one call: the fewer calls, the fewer ends
	// at which a core waits for another
	from, at, decays := 0, 0, true
	update := func() {
		h := h
		if !decays {
			h = undecayed
		}
		ops.AdamW(m.Data[from:at], g.Data[from:at], s.M[from:at], s.V[from:at], step, h)
		from = at
	}
	m.each(func(_ int, _ string, t *[]float32, _, in int) {
		if (in != 0) != decays {
			update()
			decays = !decays
		}
		at += len(*t)
	})
	update()
	s.Step = step
	m.Touch()
}
