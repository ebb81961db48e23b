// Package cpu is a backend on the processor's cores, in Go and assembly.
//
// It computes with the blocked products of internal/gemm, cut into tiles of
// the output that run on up to GOMAXPROCS cores, with kernels for AVX-512, AVX2
// and NEON. Kernels sum in float32, fused, up to 256 products in one
// accumulator and in two at least; sums of fewer than 12 products, and all of
// them where there is no kernel (but Linear of at most four rows), are float64
// and rounded once. Every element is within √K·2⁻²⁴·Σ|x||w| of the exact
// product, where K is the number of products of an element, plus 2⁻²³·|dw|
// where it is added to dw.
//
// The order of every sum depends on the shapes and on the instruction set
// alone: the same input gives the same bits at any GOMAXPROCS, and with
// CHAINRULE_ISA=generic on all architectures.
//
// A Backend holds up to 3 MB of scratch memory (more where a matrix has more than
// 16384 columns) for every goroutine that ever computed tiles at the same time,
// at least GOMAXPROCS of them after the first call: a call allocates nothing
// after the first of its shape. It keeps nothing of a Matrix.
package cpu

import (
	"runtime"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/gemm"
	"github.com/chainrule-go/chainrule/internal/par"
)

// Options configures a Backend. The zero Options are right for most; there is
// nothing to choose yet.
type Options struct{}

// Backend is a backend.Backend. Its methods may be called concurrently; one
// call at a time has all cores, others meanwhile run on their caller's.
type Backend struct {
	scratch gemm.Scratch
}

var _ backend.Backend = (*Backend)(nil)

// New returns a Backend. It never fails now; the error is for options to come.
func New(Options) (*Backend, error) { return &Backend{}, nil }

// Linear computes y = x Wᵀ, y [rows, w.Out], x [rows, w.In]. The error is nil.
func (b *Backend) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	check(w, rows)
	need(w.Data, w.Out, w.In, "chainrule: Linear: w.Data is shorter than Out·In")
	need(x, rows, w.In, "chainrule: Linear: x is shorter than rows·In")
	need(y, rows, w.Out, "chainrule: Linear: y is shorter than rows·Out")
	b.run(gemm.NT(y, x, w.Data, rows, w.Out, w.In, runtime.GOMAXPROCS(0)))
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
	if dx != nil {
		b.run(gemm.NN(dx, dy, w.Data, rows, w.Out, w.In, runtime.GOMAXPROCS(0)))
	}
	if dw != nil {
		b.run(gemm.TN(dw, dy, x, rows, w.Out, w.In, runtime.GOMAXPROCS(0)))
	}
	return nil
}

// Close releases the scratch memory. The error is nil.
func (b *Backend) Close() error {
	b.scratch.Free()
	return nil
}

type job struct {
	gemm.Product
	scratch *gemm.Scratch
}

var tiles = par.New(func(j *job, lo, hi int) { j.Run(j.scratch, lo, hi) })

func (b *Backend) run(p gemm.Product) {
	b.scratch.Reserve(runtime.GOMAXPROCS(0), &p)
	tiles.For(p.Tiles(), 1, job{p, &b.scratch})
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
