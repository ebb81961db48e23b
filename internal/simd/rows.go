package simd

// DotRows sets y[i] = Σ_j x[j]·w[i·ld+j] for all of y: products with the rows
// of a matrix [len(y), len(x)], which start ld apart. A sum has several float32
// accumulators, each of which adds every eighth or sixteenth product.
func DotRows(y, x, w []float32, ld int) {
	if len(y) > 0 && len(x) > 0 {
		_ = w[(len(y)-1)*ld+len(x)-1]
		kernelDotRows(y, x, w, ld)
		return
	}
	clear(y)
}

func goDotRows(y, x, w []float32, ld int) {
	for i := range y {
		y[i] = float32(kernelDot(x, w[i*ld:][:len(x)]))
	}
}

// SumRows sets y[j] = Σ_i p[i]·w[i·ld+j] for all of y: the sum of the rows of a
// matrix [len(p), len(y)], which start ld apart, in the order of i, even and
// odd ones apart, in float32.
func SumRows(y, p, w []float32, ld int) {
	if len(y) > 0 && len(p) > 0 {
		_ = w[(len(p)-1)*ld+len(y)-1]
		kernelSumRows(y, p, w, ld)
		return
	}
	clear(y)
}

func goSumRows(y, p, w []float32, ld int) {
	clear(y)
	for i, v := range p {
		kernelAxpy(y, v, w[i*ld:][:len(y)])
	}
}

// CopyRows sets y[i·ldy+j] = x[i·ldx+j] for n rows of so many columns.
func CopyRows(y []float32, ldy int, x []float32, ldx, n, cols int) {
	if n > 0 && cols > 0 {
		_, _ = y[(n-1)*ldy+cols-1], x[(n-1)*ldx+cols-1]
		kernelCopyRows(y, ldy, x, ldx, n, cols)
	}
}

func goCopyRows(y []float32, ldy int, x []float32, ldx, n, cols int) {
	for i := range n {
		copy(y[i*ldy:][:cols], x[i*ldx:])
	}
}

// ScaleRows sets y[i·ldy+j] = r[i]·x[i·ldx+j] for len(r) rows of so many
// columns.
func ScaleRows(y []float32, ldy int, x []float32, ldx, cols int, r []float32) {
	if n := len(r); n > 0 && cols > 0 {
		_, _ = y[(n-1)*ldy+cols-1], x[(n-1)*ldx+cols-1]
		kernelScaleRows(y, ldy, x, ldx, cols, r)
	}
}

func goScaleRows(y []float32, ldy int, x []float32, ldx, cols int, r []float32) {
	for i, r := range r {
		y, x := y[i*ldy:][:cols], x[i*ldx:][:cols]
		for j, v := range x {
			y[j] = r * v
		}
	}
}
