// Package simd holds the vector loops that the operations share: dot products,
// sums of scaled rows, exponentials, reductions.
//
// Each result has one fixed order of sums, so it does not depend on how a
// caller splits its rows.
package simd

import "math"

// lanes is the number of float32 terms that Dot, ExpSub and SumExpSub add
// up before they go on in float64.
const lanes = 64

// Dot returns Σ x[i]·y[i]: float32 products, summed in blocks of 64 by four
// float32 sums, the blocks in float64. The slices have one length.
func Dot(x, y []float32) float64 {
	var sum float64
	for len(x) >= lanes {
		sum += float64(dot(x[:lanes], y[:lanes]))
		x, y = x[lanes:], y[lanes:]
	}
	return sum + float64(dot(x, y))
}

func dot(x, y []float32) float32 {
	y = y[:len(x)]
	var a, b, c, d float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		a += x[i] * y[i]
		b += x[i+1] * y[i+1]
		c += x[i+2] * y[i+2]
		d += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		a += x[i] * y[i]
	}
	return (a + b) + (c + d)
}

// SumSquares returns Σ x[i]² with every square and sum in float64.
func SumSquares(x []float32) float64 {
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

// Max returns the largest element, ignoring NaN; -Inf if there is none.
func Max(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// ExpSub sets y[i] = exp(x[i] - m) and returns their sum, which is added up in
// blocks of 64 as Dot's is. y and x have one length and may be the same.
func ExpSub(y, x []float32, m float32) float64 {
	y = y[:len(x)]
	var sum float64
	for i := 0; i < len(x); i += lanes {
		end := min(i+lanes, len(x))
		var s float32
		for j := i; j < end; j++ {
			e := Exp(x[j] - m)
			y[j] = e
			s += e
		}
		sum += float64(s)
	}
	return sum
}

// SumExpSub returns Σ exp(x[i] - m), as ExpSub does, and writes nothing.
func SumExpSub(x []float32, m float32) float64 {
	var sum float64
	for i := 0; i < len(x); i += lanes {
		var s float32
		for _, v := range x[i:min(i+lanes, len(x))] {
			s += Exp(v - m)
		}
		sum += float64(s)
	}
	return sum
}

// Axpy4 adds a0·x0 + a1·x1 + a2·x2 + a3·x3 to y. The slices have one length.
func Axpy4(y []float32, a0, a1, a2, a3 float32, x0, x1, x2, x3 []float32) {
	x0, x1, x2, x3 = x0[:len(y)], x1[:len(y)], x2[:len(y)], x3[:len(y)]
	for i := range y {
		y[i] += (a0*x0[i] + a1*x1[i]) + (a2*x2[i] + a3*x3[i])
	}
}

// Axpy adds a·x to y. The slices have one length.
func Axpy(y []float32, a float32, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += a * x[i]
	}
}
