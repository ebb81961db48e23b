//go:build !purego

package simd

import (
	"unsafe"

	"github.com/chainrule-go/chainrule/internal/isa"
)

// ptr points to the first element, if there is one.
func ptr[T any](x []T) *T { return unsafe.SliceData(x) }

func kernelExp(y, x []float32, scale, m float32) float64 {
	switch set {
	case isa.AVX512:
		return expAVX512(ptr(y), ptr(x), len(x), scale, m)
	case isa.AVX2:
		return expAVX2(ptr(y), ptr(x), len(x), scale, m)
	default:
		return goExp(y, x, scale, m)
	}
}

func kernelSumExp(x []float32, m float32) float64 {
	switch set {
	case isa.AVX512:
		return sumExpAVX512(ptr(x), len(x), m)
	case isa.AVX2:
		return sumExpAVX2(ptr(x), len(x), m)
	default:
		return goSumExp(x, m)
	}
}

func kernelScaledExp(y, x []float32, m, a float32) float64 {
	switch set {
	case isa.AVX512:
		return scaledExpAVX512(ptr(y), ptr(x), len(x), m, a)
	case isa.AVX2:
		return scaledExpAVX2(ptr(y), ptr(x), len(x), m, a)
	default:
		return goScaledExp(y, x, m, a)
	}
}

func kernelMax(x []float32) float32 {
	switch set {
	case isa.AVX512:
		return maxAVX512(ptr(x), len(x))
	case isa.AVX2:
		return maxAVX2(ptr(x), len(x))
	default:
		return goMax(x)
	}
}

func kernelSumSquares(x []float32) float64 {
	switch set {
	case isa.AVX512:
		return sumSquaresAVX512(ptr(x), len(x))
	case isa.AVX2:
		sum, part := 0.0, 0
		if len(x) >= 4096 {
			part = len(x) / 8 &^ 15
			sum = sumSquaresApartAVX2(ptr(x), part)
		}
		return sum + sumSquaresAVX2(ptr(x[8*part:]), len(x)-8*part)
	default:
		return goSumSquares(x)
	}
}

func kernelDot(x, y []float32) float64 {
	switch set {
	case isa.AVX512:
		return dotAVX512(ptr(x), ptr(y), len(y))
	case isa.AVX2:
		return dotAVX2(ptr(x), ptr(y), len(y))
	default:
		return goDot(x, y)
	}
}

func kernelDot3(x, y, z []float32) float64 {
	switch set {
	case isa.AVX512:
		return dot3AVX512(ptr(x), ptr(y), ptr(z), len(z))
	case isa.AVX2:
		return dot3AVX2(ptr(x), ptr(y), ptr(z), len(z))
	default:
		return goDot3(x, y, z)
	}
}

func kernelAxpy(y []float32, a float32, x []float32) {
	switch set {
	case isa.AVX512:
		axpyAVX512(ptr(y), a, ptr(x), len(x))
	case isa.AVX2:
		axpyAVX2(ptr(y), a, ptr(x), len(x))
	default:
		goAxpy(y, a, x)
	}
}

func kernelScale(x []float32, a float32) {
	switch set {
	case isa.AVX512:
		scaleAVX512(ptr(x), len(x), a)
	case isa.AVX2:
		scaleAVX2(ptr(x), len(x), a)
	default:
		goScale(x, a)
	}
}

func kernelClear(x []float32) {
	switch set {
	case isa.AVX512:
		clearAVX512(ptr(x), len(x))
	case isa.AVX2:
		clearAVX2(ptr(x), len(x))
	default:
		clear(x)
	}
}

func kernelAdd(out, a, b []float32) {
	switch set {
	case isa.AVX512:
		addAVX512(ptr(out), ptr(a), ptr(b), len(b))
	case isa.AVX2:
		addAVX2(ptr(out), ptr(a), ptr(b), len(b))
	default:
		goAdd(out, a, b)
	}
}

func kernelNormalize(y, x, w []float32, r float32) {
	switch set {
	case isa.AVX512:
		normalizeAVX512(ptr(y), ptr(x), ptr(w), len(w), r)
	case isa.AVX2:
		normalizeAVX2(ptr(y), ptr(x), ptr(w), len(w), r)
	default:
		goNormalize(y, x, w, r)
	}
}

func kernelNormalizeBackward(dx, dy, x, w []float32, r, c float32) {
	switch set {
	case isa.AVX512:
		normalizeBackwardAVX512(ptr(dx), ptr(dy), ptr(x), ptr(w), len(w), r, c)
	case isa.AVX2:
		normalizeBackwardAVX2(ptr(dx), ptr(dy), ptr(x), ptr(w), len(w), r, c)
	default:
		goNormalizeBackward(dx, dy, x, w, r, c)
	}
}

func kernelAddWide(sum []float64, x []float32) {
	switch set {
	case isa.AVX512:
		addWideAVX512(ptr(sum), ptr(x), len(x))
	case isa.AVX2:
		addWideAVX2(ptr(sum), ptr(x), len(x))
	default:
		goAddWide(sum, x)
	}
}

func kernelAddProducts(sum []float64, y, x []float32, r float32) {
	switch set {
	case isa.AVX512:
		addProductsAVX512(ptr(sum), ptr(y), ptr(x), len(x), r)
	case isa.AVX2:
		addProductsAVX2(ptr(sum), ptr(y), ptr(x), len(x), r)
	default:
		goAddProducts(sum, y, x, r)
	}
}

func kernelSwiglu(out, h1, h3 []float32) {
	switch set {
	case isa.AVX512:
		swigluAVX512(ptr(out), ptr(h1), ptr(h3), len(h3))
	case isa.AVX2:
		swigluAVX2(ptr(out), ptr(h1), ptr(h3), len(h3))
	default:
		goSwiglu(out, h1, h3)
	}
}

func kernelSwigluBackward(dh1, dh3, dout, h1, h3 []float32) {
	switch set {
	case isa.AVX512:
		swigluBackwardAVX512(ptr(dh1), ptr(dh3), ptr(dout), ptr(h1), ptr(h3), len(h3))
	case isa.AVX2:
		swigluBackwardAVX2(ptr(dh1), ptr(dh3), ptr(dout), ptr(h1), ptr(h3), len(h3))
	default:
		goSwigluBackward(dh1, dh3, dout, h1, h3)
	}
}

func kernelRope(x, cos, sin []float32, heads int, sign float32) {
	switch set {
	case isa.AVX512:
		ropeAVX512(ptr(x), ptr(cos), ptr(sin), len(cos), heads, sign)
	case isa.AVX2:
		ropeAVX2(ptr(x), ptr(cos), ptr(sin), len(cos), heads, sign)
	default:
		goRope(x, cos, sin, heads, sign)
	}
}

func kernelDotRows(y, x, w []float32, ld int) {
	switch set {
	case isa.AVX512:
		dotRowsAVX512(ptr(y), ptr(x), ptr(w), len(y), len(x), ld)
	case isa.AVX2:
		dotRowsAVX2(ptr(y), ptr(x), ptr(w), len(y), len(x), ld)
	default:
		goDotRows(y, x, w, ld)
	}
}

func kernelSumRows(y, p, w []float32, ld int) {
	switch set {
	case isa.AVX512:
		sumRowsAVX512(ptr(y), ptr(p), ptr(w), len(p), len(y), ld)
	case isa.AVX2:
		sumRowsAVX2(ptr(y), ptr(p), ptr(w), len(p), len(y), ld)
	default:
		goSumRows(y, p, w, ld)
	}
}

func kernelCopyRows(y []float32, ldy int, x []float32, ldx, n, cols int) {
	switch set {
	case isa.AVX512:
		copyRowsAVX512(ptr(y), ptr(x), ldy, ldx, n, cols)
	case isa.AVX2:
		copyRowsAVX2(ptr(y), ptr(x), ldy, ldx, n, cols)
	default:
		goCopyRows(y, ldy, x, ldx, n, cols)
	}
}

func kernelScaleRows(y []float32, ldy int, x []float32, ldx, cols int, r []float32) {
	switch set {
	case isa.AVX512:
		scaleRowsAVX512(ptr(y), ptr(x), ptr(r), ldy, ldx, len(r), cols)
	case isa.AVX2:
		scaleRowsAVX2(ptr(y), ptr(x), ptr(r), ldy, ldx, len(r), cols)
	default:
		goScaleRows(y, ldy, x, ldx, cols, r)
	}
}

func kernelExpCols(x []float32, past int, scale float32, most []float32, sum []float64) {
	switch set {
	case isa.AVX512:
		expColsAVX512(ptr(x), len(most), past, scale, ptr(most), ptr(sum))
	case isa.AVX2:
		expColsAVX2(ptr(x), len(most), past, scale, ptr(most), ptr(sum))
	default:
		goExpCols(x, past, scale, most, sum)
	}
}

func kernelDSoftmaxCols(p, dp []float32, past int, scale float32, lse, norm []float32) {
	switch set {
	case isa.AVX512:
		dSoftmaxColsAVX512(ptr(p), ptr(dp), len(lse), past, scale, ptr(lse), ptr(norm))
	case isa.AVX2:
		dSoftmaxColsAVX2(ptr(p), ptr(dp), len(lse), past, scale, ptr(lse), ptr(norm))
	default:
		goDSoftmaxCols(p, dp, past, scale, lse, norm)
	}
}

func kernelAdamW(p, g, m, v []float32, f *AdamW) {
	switch set {
	case isa.AVX512:
		adamWAVX512(ptr(p), ptr(g), ptr(m), ptr(v), len(v), &f.GradScale, f.ZeroGrad)
	case isa.AVX2:
		adamWAVX2(ptr(p), ptr(g), ptr(m), ptr(v), len(v), &f.GradScale, f.ZeroGrad)
	default:
		goAdamW(p, g, m, v, f)
	}
}

func kernelAdamTraffic(p, g, m, v []float32) {
	switch set {
	case isa.AVX512:
		adamTrafficAVX512(ptr(p), ptr(g), ptr(m), ptr(v), len(v))
	case isa.AVX2:
		adamTrafficAVX2(ptr(p), ptr(g), ptr(m), ptr(v), len(v))
	default:
		goAdamTraffic(p, g, m, v)
	}
}
