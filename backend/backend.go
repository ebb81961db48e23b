// Package backend defines what a model needs of the hardware: the dense
// products of a linear layer and of its gradient. Everything else a
// transformer does is in package ops.
//
// Two implementations belong to this module: backend/cpu, its own kernels, and
// backend/blas, which adapts any gonum blas.Float32. Package
// backend/backendtest is the conformance suite that every implementation
// passes; write a new one against it.
package backend

// Matrix is a weight [Out, In], row-major, as Linear and LinearBackward take
// it. The same Matrix is passed at every call, so a backend may keep forms of
// Data that it derived (packed panels, half-precision copies) under the key of
// its address, until Gen changes or the Matrix is collected. Whoever writes
// Data changes Gen.
type Matrix struct {
	Data    []float32
	Out, In int
	Gen     uint64
}

// Backend computes the products of a linear layer y = x Wᵀ and of its
// gradient.
//
// An implementation never writes w.Data, keeps no slice but w.Data after it
// returns, owns its scratch memory, and may be called concurrently. For the
// same input it gives the same bits, at any GOMAXPROCS. NaN and Inf propagate
// as in the sums below; no product is skipped because a factor is zero. Slices
// longer than the product needs are used up to that length; a shorter one is a
// programmer's mistake and panics. An error means that the device failed:
// the outputs are then undefined.
type Backend interface {
	// Linear computes y = x Wᵀ, y [rows, w.Out], x [rows, w.In].
	Linear(y, x []float32, w *Matrix, rows int) error

	// LinearBackward computes dx = dy W, which overwrites dx [rows, w.In], and
	// dw = dw + dyᵀ x, dw [w.Out, w.In]; dy is [rows, w.Out], x [rows, w.In].
	// A nil dx or dw is skipped; x is read only for dw and w.Data only for dx.
	LinearBackward(dx, dw, dy, x []float32, w *Matrix, rows int) error

	// Close releases what the backend holds. It may be called twice; nothing
	// else may be called after it.
	Close() error
}
