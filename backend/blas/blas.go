// Package blas is a backend on any BLAS with gonum's interface: gonum's own in
// Go, or a C library through gonum.org/v1/netlib/blas/netlib, for example
// OpenBLAS.
//
// Rounding, memory, and whether the bits are the same at any number of threads,
// are the library's. gonum's are the same at any GOMAXPROCS as long as
// the slices lie at the same addresses modulo 16 (its assembly starts a dot
// product at an aligned one), and its calls allocate.
package blas

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"

	"github.com/chainrule-go/chainrule/backend"
)

// Options configures a Backend.
type Options struct {
	// BLAS computes the products, with Sgemm; nil is gonum's own. It must allow
	// concurrent calls.
	BLAS blas.Float32
}

// Backend is a backend.Backend. Its methods may be called concurrently.
type Backend struct {
	blas blas.Float32
}

var _ backend.Backend = (*Backend)(nil)

// New returns a Backend. It never fails now.
func New(o Options) (*Backend, error) {
	if o.BLAS == nil {
		o.BLAS = gonum.Implementation{}
	}
	return &Backend{o.BLAS}, nil
}

// Linear computes y = x Wᵀ, y [rows, w.Out], x [rows, w.In]. The error is nil.
func (b *Backend) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	check(w, rows)
	need(w.Data, w.Out, w.In, "chainrule: Linear: w.Data is shorter than Out·In")
	need(x, rows, w.In, "chainrule: Linear: x is shorter than rows·In")
	need(y, rows, w.Out, "chainrule: Linear: y is shorter than rows·Out")
	b.gemm(blas.NoTrans, blas.Trans, rows, w.Out, w.In, x, w.In, w.Data, w.In, 0, y)
	return nil
}

// LinearBackward computes dx = dy W, dx [rows, w.In], and dw = dw + dyᵀ x,
// dw [w.Out, w.In]; dy [rows, w.Out], x [rows, w.In]. A nil dx or dw is
// skipped. The error is nil.
func (b *Backend) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	check(w, rows)
	need(dy, rows, w.Out, "chainrule: LinearBackward: dy is shorter than rows·Out")
	if dx != nil {
		need(w.Data, w.Out, w.In, "chainrule: LinearBackward: w.Data is shorter than Out·In")
		need(dx, rows, w.In, "chainrule: LinearBackward: dx is shorter than rows·In")
	}
	if dw != nil {
		need(x, rows, w.In, "chainrule: LinearBackward: x is shorter than rows·In")
		need(dw, w.Out, w.In, "chainrule: LinearBackward: dw is shorter than Out·In")
	}
	if dx != nil && rows > 0 {
		b.gemm(blas.NoTrans, blas.NoTrans, rows, w.In, w.Out, dy, w.Out, w.Data, w.In, 0, dx)
		for o := range w.Out { // column o of dy meets row o of W
			spread(dx, dy[o:], w.Out, w.Data[o*w.In:][:w.In], rows)
		}
	}
	if dw != nil {
		b.gemm(blas.Trans, blas.NoTrans, w.Out, w.In, rows, dy, w.Out, x, w.In, 1, dw)
		for r := range rows { // row r of dy meets row r of x
			spread(dw, dy[r*w.Out:], 1, x[r*w.In:][:w.In], w.Out)
		}
	}
	return nil
}

// Close does nothing. The error is nil.
func (b *Backend) Close() error { return nil }

// gemm computes C = A B + beta C, C [m, n].
func (b *Backend) gemm(ta, tb blas.Transpose, m, n, k int, a []float32, lda int, bb []float32, ldb int,
	beta float32, c []float32) {
	if m == 0 || n == 0 {
		return
	}
	if k == 0 { // leading dimensions of 0 are not allowed
		if beta == 0 {
			clear(c[:m*n])
		}
		return
	}
	b.blas.Sgemm(ta, tb, m, n, k, 1, a, lda, bb, ldb, beta, c, n)
}

// spread adds to out [n, len(row)] the products 0·NaN and 0·Inf, all NaN, that
// a BLAS may have left out. gonum's and the reference BLAS skip the zeros of
// dy, and look at x and W only where they compute dot products, that is, skip
// nothing, in x Wᵀ. The n factors of dy that meet row are step apart.
func spread(out, dy []float32, step int, row []float32, n int) {
	for i, v := range row {
		if v-v == 0 { // finite
			continue
		}
		for j := range n {
			if dy[j*step] == 0 {
				out[j*len(row)+i] = float32(math.NaN())
			}
		}
	}
}

func check(w *backend.Matrix, rows int) {
	switch {
	case w == nil:
		panic("chainrule: nil Matrix")
	case rows < 0:
		panic("chainrule: rows is negative")
	case w.Out < 0 || w.In < 0:
		panic("chainrule: Matrix has a negative size")
	}
}

// need panics if s is shorter than n·m, which may overflow.
func need(s []float32, n, m int, message string) {
	if n > 0 && m > len(s)/n {
		panic(message)
	}
}
