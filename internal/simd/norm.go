package simd

// Normalize sets y = x·r·w. The slices have one length; y may be x.
func Normalize(y, x, w []float32, r float32) { kernelNormalize(y, x[:len(y)], w[:len(y)], r) }

func goNormalize(y, x, w []float32, r float32) {
	for i := range y {
		y[i] = x[i] * r * w[i]
	}
}

// NormalizeBackward adds r·(w·dy − c·(r·x)) to dx. The slices have one length.
func NormalizeBackward(dx, dy, x, w []float32, r, c float32) {
	kernelNormalizeBackward(dx, dy[:len(dx)], x[:len(dx)], w[:len(dx)], r, c)
}

func goNormalizeBackward(dx, dy, x, w []float32, r, c float32) {
	for i := range dx {
		dx[i] += r * (w[i]*dy[i] - c*(r*x[i]))
	}
}

// Sums is the length that sums of n elements need: kernels write whole vectors
// of them.
func Sums(n int) int { return (n + 15) &^ 15 }

// AddWide adds x to sum, which has Sums(len(x)) elements.
func AddWide(sum []float64, x []float32) { kernelAddWide(sum[:Sums(len(x))], x) }

func goAddWide(sum []float64, x []float32) {
	for i, v := range x {
		sum[i] += float64(v)
	}
}

// AddProducts adds y·(x·r) to sum: x·r in float32, the rest in float64. x and
// y have one length, sum has Sums of it.
func AddProducts(sum []float64, y, x []float32, r float32) {
	kernelAddProducts(sum[:Sums(len(x))], y[:len(x)], x, r)
}

func goAddProducts(sum []float64, y, x []float32, r float32) {
	for i, v := range x {
		sum[i] += float64(y[i]) * float64(v*r)
	}
}
