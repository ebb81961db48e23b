package gemm

import (
	"sync/atomic"
	"unsafe"
)

// Few rows of x Wᵀ, where dots are not best, are computed as W xᵀ: W is read
// once, where it lies, in order or in a few streams, and only x is packed. A tile
// is some rows of W with all rows of x; its transpose yᵀ is what the kernel makes.

// thinTile is a kernel for x of few rows: so many rows of W by so many of x.
type thinTile struct {
	rows, cols int
	sums       int  // in which the products of an element are summed
	pairs      bool // are they of even and odd k, side by side in xᵀ?
	streams    bool // are the rows of a group as far apart as there are groups?
	thin       func(yt, xt, w *float32, k, chunk, groups int)
}

const (
	thinX = 192 << 10 // floats of x, which stays in the second-level cache
	thinY = 16 << 10  // floats of yᵀ in a tile, at most
	thinW = 128 << 10 // floats of W in a tile, at most, if it is read again for more rows of x
	page  = 1 << 10   // floats that far apart are on the same set of the first-level cache
)

// thinBlock is the memory of the tiles of one goroutine.
type thinBlock struct {
	of   uint64    // the product that x is of
	x    []float32 // xᵀ, in panels [k, cols], k even in pairs; what is beyond its rows is never stored
	y    []float32 // yᵀ [, cols]
	edge edge
}

// thinTurn numbers the products.
var thinTurn atomic.Uint64

func (m *thinBlock) reserve(p *Product) {
	t := p.slim
	if n := ceil(p.m, t.cols)*t.cols*t.depth(p.k) + 4*t.cols; len(m.x) < n {
		m.x = make([]float32, n)
	}
	if n := (p.tn + t.rows) * t.cols; len(m.y) < n {
		m.y = make([]float32, n)
	}
}

// thinFor returns the kernel for x [m, k], W [n, k], or nil.
func (q *kernel) thinFor(m, n, k int) *thinTile {
	if len(q.thin) == 0 || m < q.thinLeast || m > q.thinMost || m*k > thinX || m <= 1 && k%page == 0 && q.thin[0].streams {
		return nil
	}
	each := ceil(m, ceil(m, q.thin[len(q.thin)-1].cols))
	for i := range q.thin {
		if t := &q.thin[i]; each <= t.cols && n >= t.rows {
			return t
		}
	}
	return nil
}

// thinGrid cuts W into tiles of whole rows.
func (p *Product) thinGrid(cores int) {
	t := p.slim
	p.turn, p.alone = thinTurn.Add(1), cores == 1
	p.chunk = even(p.k, t.sums*kBlock, t.sums)
	if t.sums == 1 && p.chunk == p.k {
		p.chunk = ceil(p.k, 2)
	}
	most := thinY / t.cols
	if p.m > t.cols {
		most = min(most, thinW/p.k)
	}
	p.tm = p.m
	p.tn = even(p.n, min(max(ceil(p.n, tiles*cores), ceil(dotTile, p.k)), most), t.rows)
}

// thinTile computes columns c0 to c1 of C.
func (p *Product) thinTile(m *thinBlock, c0, c1 int) {
	t, q, k := p.slim, p.kern, p.k
	m.reserve(p)
	if m.of != p.turn {
		m.pack(p)
		m.of = p.turn
	}
	from := min(c0, c1-t.rows) // a group may begin in the tile before
	w := p.b.data[from*k:]
	groups, rest := (c1-from)/t.rows, (c1-from)%t.rows
	for r := 0; r < p.m; r += t.cols {
		x := &m.x[r*t.depth(k)]
		if rest > 0 { // the first rows, in a group with some of the next
			t.thin(&m.y[0], x, &w[0], k, p.chunk, 1)
		}
		for g := 0; g < groups; {
			n := groups - g
			if t.streams && k%page != 0 {
				n -= (n + 1) % 2 // an odd number: fewer of the streams are on the same set
			}
			at := rest + g*t.rows
			t.thin(&m.y[at*t.cols], x, &w[at*k], k, p.chunk, n)
			g += n
		}
		m.unpack(p.c[r*p.ldc+c0:], m.y[(c0-from)*t.cols:], p.ldc, t.cols, min(t.cols, p.m-r), c1-c0, q)
	}
}

// depth is how many columns of x are in xᵀ.
func (t *thinTile) depth(k int) int {
	if t.pairs {
		return k + k%2
	}
	return k
}

// pairs copies two of src at a time, to parts of dst ld apart.
func pairs(dst, src []float32, ld int) {
	n := len(src) / 2
	_ = dst[(n-1)*ld+1]
	to, from := unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0])
	for i := range n {
		*(*[2]float32)(unsafe.Add(to, 4*ld*i)) = *(*[2]float32)(unsafe.Add(from, 8*i))
	}
	if len(src) > 2*n {
		dst[n*ld] = src[2*n]
	}
}

// pack makes xᵀ.
func (m *thinBlock) pack(p *Product) {
	q, k, cols := p.kern, p.k, p.slim.cols
	if p.slim.pairs {
		for r := range p.m {
			pairs(m.x[r/cols*cols*p.slim.depth(k)+2*(r%cols):], p.a.data[r*k:][:k], 2*cols)
		}
		return
	}
	for r := 0; r < p.m; r += q.lanes {
		q.columns(&m.edge, m.x[r/cols*cols*k+r%cols:], cols, p.a.data[r*k:], k, min(q.lanes, p.m-r), k)
	}
}

// unpack transposes yᵀ [cols, rows] to y.
func (m *thinBlock) unpack(y, yt []float32, ldy, ldt, rows, cols int, q *kernel) {
	whole := 0
	if cols >= q.lanes {
		whole = rows &^ 3
	}
	for j := 0; j < cols && whole > 0; j += q.lanes {
		j := min(j, cols-q.lanes)
		q.transpose(&y[j], &yt[j*ldt], ldt, whole, ldy)
	}
	for i := whole; i < rows; i++ {
		y := y[i*ldy:][:cols]
		for j := range y {
			y[j] = yt[j*ldt+i]
		}
	}
}
