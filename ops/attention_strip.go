package ops

import (
	"runtime"

	"github.com/chainrule-go/chainrule/internal/gemm"
	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// strip is the memory of a worker, for one strip at a time: n queries that see
// past keys before theirs.
type strip struct {
	n, HD, past int

	k, v, kt, vt gemm.Panels // [keys, HD], and the transposes
	fetch        gemm.Fetch  // what comes next

	q, dout []float32 // [n, HD]
	y       []float32 // [n, HD], what weigh computes
	dk, dv  []float32 // [keys, HD]
	p, dp   []float32 // [n, ld]: scores and what becomes of them
	ld      int
	most    []float32   // [n], the largest score
	sum     []float64   // [n], Σ_s e^(score_s − most)
	norm    []float32   // 1/sum
	rows    gemm.Panels // what a product packs besides
	spare   []float32   // for what is not finite on the diagonal
}

var stripPool par.Pool[strip]

func (w *strip) shape(n, HD, past int) {
	w.n, w.HD, w.past = n, HD, past
	// An odd number of cache lines: those of a column do not compete for one
	// set of a cache.
	w.ld = (ceil(past+n, 16) | 1) * 16
	fit(&w.p, n*w.ld)
	fit(&w.q, n*HD)
	fit(&w.y, n*HD)
	fit(&w.dout, n*HD)
	fit(&w.most, n)
	fit(&w.sum, n)
	fit(&w.norm, n)
}

// fit makes *s n elements long, whatever is in them, and returns it.
func fit[E any](s *[]E, n int) []E {
	if cap(*s) < n {
		*s = make([]E, n)
	}
	*s = (*s)[:n]
	return *s
}

// scores sets s = x y, x [n, HD], y [HD, keys], and leaves out what no query
// sees.
func (w *strip) scores(s, x []float32, y *gemm.Panels) {
	whole := w.past / gemm.PanelCols * gemm.PanelCols // for all queries
	y.Mul(s, w.ld, x, w.HD, 1, w.n, 0, w.HD, 0, whole, false, &w.fetch)
	for from := whole; from < w.past+w.n; from += gemm.PanelCols {
		to := min(from+gemm.PanelCols, w.past+w.n)
		for i, rows := max(0, from-w.past)/diagonal*diagonal, diagonal; i < w.n; i += rows {
			end := w.past + i + diagonal
			if end >= to {
				end, rows = to, w.n
			}
			y.Mul(s[i*w.ld+from:], w.ld, x[i*w.HD:], w.HD, 1, min(rows, w.n-i), 0, w.HD, from, end, false, &w.fetch)
		}
	}
}

// mask clears what the mask hides of the blocks on the diagonal.
func (w *strip) mask(s []float32) {
	for i := range w.n {
		clear(s[i*w.ld+w.past:][i+1 : min((i/diagonal+1)*diagonal, w.n)])
	}
}

// weigh sets w.y = s y, [n, HD]: the rows of y [past+n, HD] that a query sees,
// each weighted by its s. y is packed in yp; its rows start ldy apart.
func (w *strip) weigh(s []float32, yp *gemm.Panels, y []float32, ldy int) {
	HD := w.HD
	yp.Mul(w.y, HD, s, w.ld, 1, w.n, 0, w.past, 0, HD, false, &w.fetch)
	clean := yp.Finite(w.past, w.past+w.n)
	for d := 0; d < w.n; d += diagonal {
		end := min(d+diagonal, w.n)
		n, c, s, y := end-d, w.y[d*HD:], s[d*w.ld+w.past:], y[w.past*ldy:]
		if clean || finite(y[d*ldy:], n, HD, ldy) {
			yp.Mul(c, HD, s, w.ld, 1, n, w.past, w.past+end, 0, HD, true, &w.fetch)
			continue
		}
		// 0·NaN is NaN: every query needs a product in which the rows of y that
		// it does not see are 0.
		product, seen := fit(&w.spare, (n+end)*HD)[:n*HD], w.spare[n*HD:]
		gather(seen, y, end, HD, ldy)
		for i := n - 1; i >= 0; i-- {
			copy(product, c)
			w.rows.Pack(seen, HD, end, HD)
			w.rows.Mul(product, HD, s, w.ld, 1, n, 0, end, 0, HD, true, &w.fetch)
			copy(c[i*HD:][:HD], product[i*HD:])
			clear(seen[(d+i)*HD:][:HD])
		}
	}
}

// weighBack sets, or adds to, dy = sᵀ x, dy [past+n, HD]: the rows of x [n, HD]
// that see a key, each weighted by its s.
func (w *strip) weighBack(dy, s, x []float32, add bool) {
	HD := w.HD
	w.rows.Pack(x, HD, w.n, HD)
	w.rows.Mul(dy, HD, s, 1, w.ld, w.past, 0, w.n, 0, HD, add, &w.fetch)
	clean := w.rows.Finite(0, w.n)
	for d := 0; d < w.n; d += diagonal {
		keys := min(diagonal, w.n-d)
		c, s := dy[(w.past+d)*HD:], s[d*w.ld+w.past+d:]
		if clean || finite(x[d*HD:], keys, HD, HD) {
			w.rows.Mul(c, HD, s, 1, w.ld, keys, d, w.n, 0, HD, add, &w.fetch)
			continue
		}
		product, seeing := fit(&w.spare, (keys+w.n)*HD)[:keys*HD], w.spare[keys*HD:]
		copy(seeing, x)
		for i := range keys {
			copy(product, c)
			w.rows.Pack(seeing, HD, w.n, HD)
			w.rows.Mul(product, HD, s, 1, w.ld, keys, d, w.n, 0, HD, add, &w.fetch)
			copy(c[i*HD:][:HD], product[i*HD:])
			clear(seeing[(d+i)*HD:][:HD])
		} // the next blocks want the rows that are left
	}
}

// finite reports whether all of x [rows, cols] is.
func finite(x []float32, rows, cols, stride int) bool {
	if stride == cols {
		rows, cols = 1, rows*cols
	}
	sum := 0.0
	for i := range rows {
		sum += simd.SumSquares(x[i*stride:][:cols])
	}
	return sum-sum == 0
}

// gather sets the rows of dst [n, cols] to those of src, stride apart.
func gather(dst, src []float32, n, cols, stride int) {
	simd.CopyRows(dst, cols, src, stride, n, cols)
}

// scatter is the converse: rows of dst are stride apart.
func scatter(dst, src []float32, n, cols, stride int) {
	simd.CopyRows(dst, stride, src, cols, n, cols)
}

// fetchStrips is how many strips, the last ones of a part, fetch the keys and
// values of the next part: before them there may be no place in cache.
const fetchStrips = 4

// share returns which of so many rows strip s of a part fetches, of its last
// strips: by their number of scores.
func share(s, first, end, rows int) (from, to int) {
	end = min(end, first+fetchStrips)
	if s >= end {
		return 0, 0
	}
	sum := func(s int) int { return (end - s) * (end + s + 1) }
	return rows * sum(s+1) / sum(first), rows * sum(s) / sum(first)
}

// following returns which of n parts a worker is likely to have after part i, or
// -1. See par.For: of two workers, one counts up from the first part, and the
// other down from the last.
func following(i, n int) int {
	if runtime.GOMAXPROCS(0) == 1 || 2*i < n {
		i += 2
	}
	if i--; i < n {
		return i
	}
	return -1
}

// pace lets so many of the products scores, weigh and weighBack of a strip
// fetch what there is.
func (w *strip) pace(n, HD, past, scores, weigh, weighBack int) {
	keys := past + n
	w.fetch.Pace(scores*gemm.PanelTiles(n, HD, keys) + weigh*(gemm.PanelTiles(n, past, HD)+gemm.PanelTiles(n, n, HD)) +
		weighBack*gemm.PanelTiles(keys, n, HD))
}
