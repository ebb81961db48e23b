//go:build !purego

package simd

import (
	"unsafe"

	"github.com/chainrule-go/chainrule/internal/isa"
)

// ptr points to the first element, if there is one.
func ptr[T any](x []T) *T { return unsafe.SliceData(x) }

func kernelExp(y, x []float32, scale, m float32) float64 {
	if set == isa.NEON {
		return expNEON(ptr(y), ptr(x), len(x), scale, m)
	}
	return goExp(y, x, scale, m)
}

func kernelSumExp(x []float32, m float32) float64 {
	if set == isa.NEON {
		return sumExpNEON(ptr(x), len(x), m)
	}
	return goSumExp(x, m)
}

func kernelScaledExp(y, x []float32, m, a float32) float64 {
	if set == isa.NEON {
		return scaledExpNEON(ptr(y), ptr(x), len(x), m, a)
	}
	return goScaledExp(y, x, m, a)
}

func kernelMax(x []float32) float32 {
	if set == isa.NEON {
		return maxNEON(ptr(x), len(x))
	}
	return goMax(x)
}

func kernelSumSquares(x []float32) float64 {
	if set == isa.NEON {
		return sumSquaresNEON(ptr(x), len(x))
	}
	return goSumSquares(x)
}

func kernelDot(x, y []float32) float64 {
	if set == isa.NEON {
		return dotNEON(ptr(x), ptr(y), len(y))
	}
	return goDot(x, y)
}

func kernelAxpy(y []float32, a float32, x []float32) {
	if set == isa.NEON {
		axpyNEON(ptr(y), a, ptr(x), len(x))
		return
	}
	goAxpy(y, a, x)
}

func kernelScale(x []float32, a float32) {
	if set == isa.NEON {
		scaleNEON(ptr(x), len(x), a)
		return
	}
	goScale(x, a)
}

func kernelAdd(out, a, b []float32) {
	if set == isa.NEON {
		addNEON(ptr(out), ptr(a), ptr(b), len(b))
		return
	}
	goAdd(out, a, b)
}

func kernelSwiglu(out, h1, h3 []float32) {
	if set == isa.NEON {
		swigluNEON(ptr(out), ptr(h1), ptr(h3), len(h3))
		return
	}
	goSwiglu(out, h1, h3)
}

func kernelAdamW(p, g, m, v []float32, f *AdamW) {
	if set == isa.NEON {
		adamWNEON(ptr(p), ptr(g), ptr(m), ptr(v), len(v), &f.GradScale, f.ZeroGrad)
		return
	}
	goAdamW(p, g, m, v, f)
}

// In Go alone: what takes little of a step.

func kernelDot3(x, y, z []float32) float64         { return goDot3(x, y, z) }
func kernelNormalize(y, x, w []float32, r float32) { goNormalize(y, x, w, r) }
func kernelNormalizeBackward(dx, dy, x, w []float32, r, c float32) {
	goNormalizeBackward(dx, dy, x, w, r, c)
}
func kernelAddWide(sum []float64, x []float32)                   { goAddWide(sum, x) }
func kernelAddProducts(sum []float64, y, x []float32, r float32) { goAddProducts(sum, y, x, r) }
func kernelSwigluBackward(dh1, dh3, dout, h1, h3 []float32)      { goSwigluBackward(dh1, dh3, dout, h1, h3) }
func kernelRope(x, cos, sin []float32, heads int, sign float32)  { goRope(x, cos, sin, heads, sign) }
func kernelClear(x []float32)                                    { clear(x) } // past the caches, too
func kernelExpCols(x []float32, past int, scale float32, most []float32, sum []float64) {
	goExpCols(x, past, scale, most, sum)
}
func kernelDSoftmaxCols(p, dp []float32, past int, scale float32, lse, norm []float32) {
	goDSoftmaxCols(p, dp, past, scale, lse, norm)
}
func kernelCopyRows(y []float32, ldy int, x []float32, ldx, n, cols int) {
	goCopyRows(y, ldy, x, ldx, n, cols)
}
func kernelScaleRows(y []float32, ldy int, x []float32, ldx, cols int, r []float32) {
	goScaleRows(y, ldy, x, ldx, cols, r)
}
func kernelDotRows(y, x, w []float32, ld int) { goDotRows(y, x, w, ld) }
func kernelSumRows(y, p, w []float32, ld int) { goSumRows(y, p, w, ld) }
func kernelAdamTraffic(p, g, m, v []float32)  { goAdamTraffic(p, g, m, v) }
