package gemm

import "math/rand/v2"

// Cached is a product that is one tile of the kernel, and so small that it
// stays in a first-level cache.
type Cached struct {
	*kernel
	c, a, b []float32 // [rows, cols] [cachedK, rows] [cachedK, cols]
}

const cachedK = kBlock / 2 // 29 KB in AVX-512

// NewCached returns a product of random numbers, or nil without kernels.
func NewCached() *Cached { return newCached(best) }

func newCached(q *kernel) *Cached {
	if q == nil {
		return nil
	}
	t := &Cached{q, make([]float32, q.rows*q.cols), make([]float32, cachedK*q.rows), make([]float32, cachedK*q.cols)}
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][]float32{t.a, t.b} {
		for i := range s {
			s[i] = r.Float32() - 0.5 // the clock is higher where most bits are 0
		}
	}
	return t
}

// Run computes the product n times, and returns how many operations that is.
func (t *Cached) Run(n int) (flops float64) {
	for range n {
		t.gemm(&t.c[0], &t.a[0], &t.b[0], t.cols, 1, t.rows, 0, cachedK, cachedK, t.rows, 1, t.cols, false, nil, 0, nil, &nothing.base)
	}
	return float64(n) * 2 * float64(t.rows*t.cols*cachedK)
}
