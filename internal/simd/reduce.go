package simd

import "math"

// Max returns the largest element, ignoring NaN; -Inf if there is none. Where
// it is a zero its sign is that of any of them.
func Max(x []float32) float32 { return kernelMax(x) }

func goMax(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// SumSquares returns Σ x[i]² with every square and sum in float64.
func SumSquares(x []float32) float64 { return kernelSumSquares(x) }

func goSumSquares(x []float32) float64 {
	var a, b, c, d float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		x0, x1, x2, x3 := float64(x[i]), float64(x[i+1]), float64(x[i+2]), float64(x[i+3])
		a += x0 * x0
		b += x1 * x1
		c += x2 * x2
		d += x3 * x3
	}
	for ; i < len(x); i++ {
		a += float64(x[i]) * float64(x[i])
	}
	return (a + b) + (c + d)
}

// Dot returns Σ x[i]·y[i], of which four float32 products at a time are added
// in float32. The slices have one length.
func Dot(x, y []float32) float64 { return kernelDot(x, y[:len(x)]) }

func goDot(x, y []float32) (sum float64) {
	i := 0
	for ; i+4 <= len(x); i += 4 {
		sum += float64((x[i]*y[i] + x[i+1]*y[i+1]) + (x[i+2]*y[i+2] + x[i+3]*y[i+3]))
	}
	for ; i < len(x); i++ {
		sum += float64(x[i] * y[i])
	}
	return sum
}

// Dot3 returns Σ x[i]·y[i]·z[i]: the first product in float32, the second and
// the sum in float64. The slices have one length.
func Dot3(x, y, z []float32) float64 { return kernelDot3(x, y[:len(x)], z[:len(x)]) }

func goDot3(x, y, z []float32) (sum float64) {
	for i, v := range x {
		sum += float64(v*y[i]) * float64(z[i])
	}
	return sum
}
