package ops

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// RMSNorm normalises the rows of x [n,C] (Zhang and Sennrich, 2019):
//
//	r = 1/√(mean(x²) + eps),  y = r·w·x
//
// y is [n,C], w [C]; rstd [n] receives r, which the backward needs. y may be x.
func RMSNorm(y, rstd, x, w []float32, n, C int, eps float64) {
	RMSNormHeads(y, rstd, x, w, n, 1, C, C, C, eps)
}

// RMSNormBackward adds to dx [n,C] and dw [C] the gradients of
// y = r·w·x, r = (mean(x²) + eps)^(-1/2):
//
//	dx += r·w·dy − x·r³/C·Σ(w·dy·x),  dw += Σ_rows r·x·dy
//
// computed as r·(w·dy − k·(r·x)) with k = r/C·Σ(w·dy·x), whose factors are of
// the size of dy whatever the size of x.
//
// dx is added to because the residual connection around the norm sends it the
// rest.
func RMSNormBackward(dx, dw, dy, x, rstd, w []float32, n, C int) {
	RMSNormHeadsBackward(dx, dw, dy, x, rstd, w, n, 1, C, C, C, C)
}

// RMSNormHeads is RMSNorm over each of NH heads of HD elements in a row, with
// one weight w [HD] for all heads. Row i of y starts at y[i·ys], of x at
// x[i·xs]; rstd is [n,NH]. y may be x if ys is xs.
func RMSNormHeads(y, rstd, x, w []float32, n, NH, HD, ys, xs int, eps float64) {
	need(n <= 0 || len(y) >= (n-1)*ys+NH*HD && len(x) >= (n-1)*xs+NH*HD &&
		len(rstd) >= n*NH && len(w) >= HD, "chainrule: ops.RMSNorm: a slice is too short")
	rmsNormLoop.For(n, grain(NH*HD), rmsNormArgs{y, rstd, x, w[:HD], NH, ys, xs, eps})
}

type rmsNormArgs struct {
	y, rstd, x, w []float32
	NH, ys, xs    int
	eps           float64
}

var rmsNormLoop = par.New(func(a *rmsNormArgs, lo, hi int) {
	HD, w := len(a.w), a.w
	for i := lo; i < hi; i++ {
		for h := range a.NH {
			x, y := a.x[i*a.xs+h*HD:][:HD], a.y[i*a.ys+h*HD:][:HD]
			r := float32(1 / math.Sqrt(simd.SumSquares(x)/float64(HD)+a.eps))
			a.rstd[i*a.NH+h] = r
			simd.Normalize(y, x, w, r)
		}
	}
})

// RMSNormHeadsBackward is the backward of RMSNormHeads; it adds to dx and dw
// as RMSNormBackward does. The rows of dx, dy and x start at multiples of dxs,
// dys and xs.
func RMSNormHeadsBackward(dx, dw, dy, x, rstd, w []float32, n, NH, HD, dxs, dys, xs int) {
	need(n <= 0 || len(dx) >= (n-1)*dxs+NH*HD && len(dy) >= (n-1)*dys+NH*HD && len(x) >= (n-1)*xs+NH*HD &&
		len(rstd) >= n*NH && len(w) >= HD && (dw == nil || len(dw) >= HD),
		"chainrule: ops.RMSNormBackward: a slice is too short")
	a := rmsNormBackwardArgs{dx: dx, dw: dw, dy: dy, x: x, rstd: rstd, w: w[:HD], n: n, NH: NH, dxs: dxs, dys: dys, xs: xs}
	a.rows = max(grain(NH*HD), ceil(n, mostSums))
	blocks := ceil(n, a.rows)
	if dw != nil {
		a.sums = wideSumsPool.Get()
		fit(a.sums, blocks*simd.Sums(HD))
	}
	rmsNormBackwardLoop.For(blocks, 1, a)
	if dw != nil {
		rmsNormSumLoop.For(chunks(HD), 1, a)
		wideSumsPool.Put(a.sums)
	}
}

// mostSums is in how many blocks of rows, each with a sum of its own, dw is
// added up at most. A row is read once, for dx and dw.
const mostSums = 64

type rmsNormBackwardArgs struct {
	dx, dw, dy, x, rstd, w []float32
	n, NH, dxs, dys, xs    int
	rows                   int        // of a block
	sums                   *[]float64 // [blocks, Sums(HD)], or nil without dw
}

var wideSumsPool par.Pool[[]float64]

var rmsNormBackwardLoop = par.New(func(a *rmsNormBackwardArgs, lo, hi int) {
	HD, w := len(a.w), a.w
	for block := lo; block < hi; block++ {
		var sum []float64
		if a.sums != nil {
			sum = (*a.sums)[block*simd.Sums(HD):][:simd.Sums(HD)]
			clear(sum)
		}
		for i := block * a.rows; i < min(a.n, (block+1)*a.rows); i++ {
			for h := range a.NH {
				dx, dy, x := a.dx[i*a.dxs+h*HD:][:HD], a.dy[i*a.dys+h*HD:][:HD], a.x[i*a.xs+h*HD:][:HD]
				r := a.rstd[i*a.NH+h]
				k := float32(simd.Dot3(w, dy, x) * float64(r) / float64(HD))
				simd.NormalizeBackward(dx, dy, x, w, r, k)
				if sum != nil {
					simd.AddProducts(sum, dy, x, r)
				}
			}
		}
	}
})

// rmsNormSumLoop adds the sums of all blocks, in their order, to dw.
var rmsNormSumLoop = par.New(func(a *rmsNormBackwardArgs, lo, hi int) {
	HD := len(a.w)
	for j := lo * columns; j < min(HD, hi*columns); j++ {
		sum := 0.0
		for at := j; at < len(*a.sums); at += simd.Sums(HD) {
			sum += (*a.sums)[at]
		}
		a.dw[j] += float32(sum)
	}
})
