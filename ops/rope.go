package ops

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// RopeTable fills cos and sin [T,len(freqs)] with the cosine and the sine of
// t·freqs[i], computed in float64.
func RopeTable(cos, sin []float32, freqs []float64, T int) {
	need(len(cos) >= T*len(freqs) && len(sin) >= T*len(freqs), "chainrule: ops.RopeTable: a slice is too short")
	for t := range T {
		for i, f := range freqs {
			s, c := math.Sincos(float64(t) * f)
			cos[t*len(freqs)+i], sin[t*len(freqs)+i] = float32(c), float32(s)
		}
	}
}

// Rope rotates each pair (x₂ᵢ, x₂ᵢ₊₁) of each head by its position's angle, in
// place (Su et al., 2021, interleaved pairs):
//
//	x₂ᵢ ← x₂ᵢ·cos − x₂ᵢ₊₁·sin,  x₂ᵢ₊₁ ← x₂ᵢ·sin + x₂ᵢ₊₁·cos
//
// Row i of the n rows starts at x[i·stride], holds NH heads of HD elements,
// and is at position i mod T of cos and sin [T,HD/2].
func Rope(x, cos, sin []float32, n, T, NH, HD, stride int) {
	rope(x, cos, sin, n, T, NH, HD, stride, 1)
}

// RopeBackward rotates the gradient dx, laid out as Rope's x, back by the same
// angles: the transpose of a rotation is its inverse.
func RopeBackward(dx, cos, sin []float32, n, T, NH, HD, stride int) {
	rope(dx, cos, sin, n, T, NH, HD, stride, -1)
}

func rope(x, cos, sin []float32, n, T, NH, HD, stride int, sign float32) {
	need(HD%2 == 0, "chainrule: ops.Rope: HD is odd")
	rows := min(n, T)
	need(n <= 0 || T > 0 && len(x) >= (n-1)*stride+NH*HD && len(cos) >= rows*HD/2 && len(sin) >= rows*HD/2,
		"chainrule: ops.Rope: a slice is too short")
	ropeLoop.For(n, grain(NH*HD), ropeArgs{x, cos, sin, T, NH, HD, stride, sign})
}

type ropeArgs struct {
	x, cos, sin       []float32
	T, NH, HD, stride int
	sign              float32
}

var ropeLoop = par.New(func(a *ropeArgs, lo, hi int) {
	half := a.HD / 2
	for i := lo; i < hi; i++ {
		cos, sin := a.cos[i%a.T*half:][:half], a.sin[i%a.T*half:][:half]
		simd.Rope(a.x[i*a.stride:][:a.NH*a.HD], cos, sin, a.sign)
	}
})
