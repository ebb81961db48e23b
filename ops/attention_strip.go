package ops

import (
	"runtime"

	"github.com/chainrule-go/chainrule/internal/gemm"
	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// strip is the memory of a worker, for one strip at a time: n queries that see
// past keys before theirs. Its scores are a column for each query, so that their
// softmax is one of whole vectors, and that a product reads and writes them in
// order.
type strip struct {
	n, HD, past int

	keys, values []float32   // [keys, HD]: k and v of a head
	k, v         gemm.Panels // the same
	dk, dv       []float32   // [keys, HD]
	fetch        gemm.Fetch  // what comes next

	cols, rows gemm.Panels // [HD, n] and [n, HD], of q or dout
	dout       []float32   // [n, HD]
	y          []float32   // [n, HD], what weigh computes
	p, dp      []float32   // [past+n, simd.ScoreCols]: scores and what becomes of them
	most       []float32   // [n], the largest score; in the backward, the lse
	sum        []float64   // [n], Σ_s e^(score_s − most)
	norm       []float32   // [n], 1/sum
}

var stripPool par.Pool[strip]

func (w *strip) shape(n, HD, past int) {
	w.n, w.HD, w.past = n, HD, past
	cols := ceil(n, 16) * 16
	fit(&w.p, (past+cols)*simd.ScoreCols)
	fit(&w.y, n*HD)
	fit(&w.most, cols)
	fit(&w.sum, cols)
	fit(&w.norm, cols)
}

// reserve makes room for the strips of n queries that see pos keys before the
// first of them.
func (w *strip) reserve(n, HD, pos int) {
	strips := ceil(n, stripSize)
	n = min(n, stripSize)
	w.cols.Reserve(HD, n)
	w.shape(n, HD, pos+(strips-1)*stripSize)
}

// fit makes *s n elements long, whatever is in them, and returns it.
func fit[E any](s *[]E, n int) []E {
	if cap(*s) < n {
		*s = make([]E, n)
	}
	*s = (*s)[:n]
	return *s
}

// scores sets s = y xᵀ, y [past+n, HD], x [n, HD], whose rows are ldx apart, and
// leaves out most of what the mask hides.
func (w *strip) scores(s, y, x []float32, ldx int) {
	HD := w.HD
	w.cols.PackT(x, ldx, HD, w.n)
	for c := 0; c < w.n; c += gemm.PanelStep {
		from, end := w.past+c, w.past+min(c+gemm.PanelStep, w.n)
		if c == 0 {
			from = 0
		}
		w.cols.Mul(s[from*simd.ScoreCols+c:], simd.ScoreCols, y[from*HD:], HD, 1, end-from, 0, HD, c, w.n, false, &w.fetch)
	}
}

// weigh sets w.y = sᵀ y, [n, HD]: the rows of y [past+n, HD] that a query sees,
// each weighted by its s.
func (w *strip) weigh(s []float32, y *gemm.Panels) {
	HD := w.HD
	y.Mul(w.y, HD, s, 1, simd.ScoreCols, w.n, 0, w.past, 0, HD, false, &w.fetch)
	rows := tileRows(y.Finite(w.past, w.past+w.n))
	for i := 0; i < w.n; i += rows {
		y.Mul(w.y[i*HD:], HD, s[w.past*simd.ScoreCols+i:], 1, simd.ScoreCols, min(rows, w.n-i),
			w.past, w.past+min(i+rows, w.n), 0, HD, true, &w.fetch)
	}
}

// weighBack sets, or adds to, dy = s x, dy [past+n, HD]: the rows of x [n, HD]
// that see a key, each weighted by its s.
func (w *strip) weighBack(dy, s, x []float32, ldx int, add bool) {
	HD := w.HD
	w.rows.Pack(x, ldx, w.n, HD)
	w.rows.Mul(dy, HD, s, simd.ScoreCols, 1, w.past, 0, w.n, 0, HD, add, &w.fetch)
	rows := tileRows(w.rows.Finite(0, w.n))
	for i := 0; i < w.n; i += rows {
		w.rows.Mul(dy[(w.past+i)*HD:], HD, s[(w.past+i)*simd.ScoreCols+i:], simd.ScoreCols, 1, min(rows, w.n-i),
			i, w.n, 0, HD, add, &w.fetch)
	}
}

// tileRows is how many rows of a product begin or end on the diagonal together.
// What some of them do not see they multiply by 0, which must not make NaN.
func tileRows(finite bool) int {
	if finite {
		return gemm.PanelRows()
	}
	return 1
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
// fetch what there is: what they multiply before the diagonal.
func (w *strip) pace(n, HD, past, scores, weigh, weighBack int) {
	w.fetch.Pace(scores*gemm.PanelTiles(past+n, HD, n) + weigh*gemm.PanelTiles(n, past, HD) + weighBack*gemm.PanelTiles(past, n, HD))
}
