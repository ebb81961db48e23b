package gemm

import (
	"sync/atomic"
	"unsafe"

	"github.com/chainrule-go/chainrule/internal/simd"
)

// dx of few rows reads a large W and dW of few products an element reads and
// writes a large C, for few multiply-adds each: the memory is the bound, and it
// is the fastest in order. So a kernel goes along a few rows of C, and takes B
// where it lies.

const (
	stripB    = 32 << 10  // floats of the rows of W at a time, at most, but for very long ones
	stripC    = 512 << 10 // floats of dW, of which fewer are in cache
	stripL1   = 12 << 10  // floats of x that stay in the first-level cache with rows of dW
	stripL2   = 32 << 10  // the same, of the second-level cache, that the kernel twice takes
	stripPart = 16 << 10  // floats of W that a core takes at least, if it takes rows of W
	stripCols = 192       // columns at a time, of which W stays in the first-level cache for all rows of dx
)

// strips reports whether the product should be made of strips.
func (p *Product) strips() bool {
	q := p.kern
	if q == nil || q.strip == nil || p.k < minK || p.b.step == 1 {
		return false
	}
	if p.a.step == 1 {
		if p.n%page == 0 {
			return p.m <= q.stripPaged
		}
		return p.m <= q.stripRows
	}
	if p.m*p.n < stripC {
		return p.k <= q.stripCached
	}
	return p.k <= q.stripK
}

// stripGrid gives each core some rows of W, if that is enough, and some columns
// of them, or some rows of dW.
func (p *Product) stripGrid(cores int) {
	q, two := p.kern, ceil(p.k, 2)
	if p.a.step == 1 {
		p.parts, p.alone = 1, cores == 1
		if p.k*p.n >= stripPart*q.stripParts {
			p.parts = max(q.stripParts, 1)
		}
		p.kb = even(p.depth(), min(q.stripDepth, max(stripB/p.n, 8), two), 1)
		p.tm, p.tn = p.m, even(p.n, ceil(p.n, ceil(cores, p.parts)), q.cols)
		return
	}
	p.kb, p.chunk, p.packed = p.k, two, true
	p.tm = even(p.m, min(ceil(p.m, tiles*cores), rowBlock), q.rows)
	p.tn = p.n
}

// walk is memory that a kernel fetches row by row, and notes how far it came. To
// fetch is no access.
type walk struct {
	at    uintptr
	left  int // steps to the end of the row
	step  int // in bytes
	steps int // of a row
	gap   int // from the last step of a row to the next row, in bytes
}

// begin goes to rows of n columns, ld apart, the first of them far behind b.
func (w *walk) begin(b *float32, far, n, ld, steps int) {
	w.at, w.left, w.steps, w.step = uintptr(unsafe.Pointer(b))+4*uintptr(far), steps, steps, ceil(4*n, steps)
	w.gap = 4*ld - steps*w.step
}

// depth is how many rows of W a part of dx has.
func (p *Product) depth() int { return ceil(p.k, p.parts) }

// stripX computes columns c0 to c1 of a part of dx, block by block of rows of W. The
// next block is fetched meanwhile. The last tile adds the parts. (Two cores that have
// half of each row of W fetch lines of each other's: that is slower.)
func (p *Product) stripX(s *Scratch, next *walk, part, c0, c1 int) {
	q, out, add := p.kern, p.c, p.add
	if part > 0 {
		out, add = s.partsOf(p)[(part-1)*p.m*p.n:], false
	}
	groups := panels(p.m, q.rows)
	steps := ceil(c1-c0, q.cols) * (groups[0].n + groups[1].n)
	*next = walk{left: 1, steps: 1}
	begin, end := min(part*p.depth(), p.k), min((part+1)*p.depth(), p.k)
	for k0 := begin; k0 < end; k0 += p.kb {
		k := min(p.kb, end-k0)
		if k0+k < end || part+1 < p.parts && p.alone {
			next.begin(&p.b.data[k0*p.n+c0], k*p.n, c1-c0, p.n, steps)
		} else {
			next.step, next.gap = 0, 0
		}
		for c := c0; c < c1; c += stripCols {
			r := 0
			for _, g := range groups {
				for range g.n {
					q.strip(&out[r*p.n+c], &p.a.data[r*p.k+k0], &p.b.data[k0*p.n+c], p.n, p.k, 1, p.n,
						k, g.rows, min(stripCols, c1-c), add || k0 > begin, &next.at)
					r += g.rows
				}
			}
		}
	}
	if p.parts > 1 && int(atomic.AddInt32(&p.done, 1)) == p.Tiles() {
		n := p.m * p.n
		for rest := p.sums; len(rest) > 0; rest = rest[n:] {
			simd.Add(p.c[:n], p.c[:n], rest[:n])
		}
		s.partsDone(p)
	}
}

// stripW computes rows r0 to r1 of dW, row by row or, so that a part of x stays
// in cache, block by block. What comes next is fetched meanwhile.
func (p *Product) stripW(mem *memory, r0, r1 int) {
	q, m, next := p.kern, mem.block(), &mem.next
	m.reserve(p)
	b, ldb := p.apart(mem, 0, p.n)
	groups := panels(r1-r0, q.rows)
	p.copyA(m, r0, groups)
	count := groups[0].n + groups[1].n
	high, wide := 1, p.n // of a block, in panels and columns
	twice := q.twice != nil && p.add
	switch {
	case twice:
		high, wide = count, even(p.n, stripL2/p.k, q.cols)
	case p.k*p.n > stripL1:
		high, wide = 8, 96
	}
	for i0 := 0; i0 < count; i0 += high {
		i1 := min(i0+high, count)
		for c0 := 0; c0 < p.n; c0 += wide {
			n := min(wide, p.n-c0)
			for i := i0; i < i1; i++ {
				r, h := panelOf(groups, i)
				a := m.a[i*q.stepA(p.k):]
				c0, n := c0, n
				if groups := n / q.cols; twice && h == q.rows && groups > 0 {
					q.twice(&p.c[(r0+r)*p.n+c0], &a[0], &b[c0], p.n, ldb, p.k, groups)
					if n %= q.cols; n == 0 {
						continue
					}
					c0 += groups * q.cols
				}
				then, at := i+1, c0
				switch {
				case then < i1:
				case c0+wide < p.n:
					then, at = i0, c0+wide
				default:
					at = 0
				}
				to, _ := panelOf(groups, then)
				next.begin(&p.c[0], (r0+to)*p.n+at, n, p.n, ceil(n, q.cols))
				for k0 := 0; k0 < p.k; k0 += p.chunk {
					q.strip(&p.c[(r0+r)*p.n+c0], &a[k0*h], &b[k0*ldb+c0], p.n, 1, h, ldb,
						min(p.chunk, p.k-k0), h, n, p.add || k0 > 0, &next.at)
				}
			}
		}
	}
}

// copyA packs the panels of Aᵀ, [k, rows], from row r0 on, a step of k of all at a
// time, as the processor's own prefetcher likes it.
func (p *Product) copyA(m *block, r0 int, groups [2]group) {
	q, i := p.kern, 0
	step := q.stepA(p.k)
	for _, g := range groups {
		if g.n > 0 {
			q.copy(&m.a[i*step], &p.a.data[r0], p.a.step, p.k, g.rows, g.rows, g.n, step)
		}
		i += g.n
		r0 += g.n * g.rows
	}
}

// panelOf returns the first row of a panel, and how many it has.
func panelOf(groups [2]group, i int) (row, rows int) {
	if g := groups[0]; i >= g.n {
		return g.n*g.rows + (i-g.n)*groups[1].rows, groups[1].rows
	}
	return i * groups[0].rows, groups[0].rows
}
