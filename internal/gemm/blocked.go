package gemm

import "math"

const (
	// minK is how few products an element is summed of by kernels.
	minK = 12

	// kBlock is how many products are summed in one register at most. A panel
	// of B, kBlock by the columns of a kernel, is about a first-level cache.
	kBlock = 256

	// rowBlock is how many rows a tile has at most: kBlock of each row of A
	// stay in the second-level cache while the panels of B come and go, and so do
	// rows of C that are 4 KB apart, which fall on few of its sets.
	rowBlock = 384

	colBlock = 1024 // columns of a tile, at most

	maxCols  = 48 // columns of the widest kernel
	maxLanes = 16
	maxTile  = 9 * 48     // elements of the largest tile
	maxPairs = 9 * 2      // of cache lines in the rows of a tile
	maxFetch = kBlock * 2 // of a panel of A or B
	line     = 16         // floats of a cache line
)

// block is the memory of one tile.
type block struct {
	b     [kBlock * maxCols]float32 // a panel of B
	edge  edge
	a     []float32 // a block of A, if it is packed
	ahead ahead
}

func (m *block) reserve(p *Product) {
	if n := p.tm * (p.kb + line); p.packed && len(m.a) < n {
		m.a = make([]float32, n)
	}
}

// plan cuts K into blocks and chooses how A is read.
func (p *Product) plan() {
	p.kb = even(p.k, kBlock, 4)
	p.chunk = p.kb
	// Rows of A a multiple of 4 KB apart fall on few sets of the caches.
	p.packed = p.a.step != 1 || min(p.m, rowBlock)*(p.a.lane&-p.a.lane) > p.kern.packedA
}

// grid cuts C into the tiles that keep the busiest core the shortest time.
// Smaller tiles are dealt more evenly, but read A and B again, from farther away.
func (p *Product) grid(cores int) {
	if p.kb >= p.k {
		p.chunk = ceil(p.k, 2)
	}
	q := p.kern
	fetchA, fetchB := p.fetches()
	work := func(high, wide float64) float64 { return high*wide + fetchA*high + fetchB*wide } // of a tile
	least := math.Inf(1)
	for parts := ceil(p.m, rowBlock); ; parts += 1 + parts/8 {
		tm := even(p.m, ceil(p.m, parts), q.rows)
		down := ceil(p.m, tm)
		for across := ceil(p.n, colBlock); ; across += 1 + across/8 {
			tn := even(p.n, ceil(p.n, across), q.cols)
			right := ceil(p.n, tn)
			n := down * right
			busy := float64(n) / float64(cores) * work(float64(p.m)/float64(down), float64(p.n)/float64(right))
			if cores > 1 {
				tile := work(float64(min(tm, p.m)), float64(min(tn, p.n)))
				if n <= 4*cores {
					busy = max(busy, float64(ceil(n, cores))*tile)
				} else {
					busy += tile / 2
				}
				busy += tile / 20 // a core may come late
			}
			if busy < least {
				least, p.tm, p.tn = busy, tm, tn
			}
			if tn == q.cols {
				break
			}
		}
		if tm <= 8*q.rows {
			break
		}
	}
}

// fetches returns what it costs to bring a row of A and a column of B near, in
// multiply-adds of each of their elements: measured.
func (p *Product) fetches() (a, b float64) {
	switch {
	case p.a.step != 1:
		return 16, 5
	case p.packed:
		return 16, 10
	default:
		return 3, 10
	}
}

// tile computes rows r0 to r1 and columns c0 to c1 of C.
func (p *Product) tile(m *block, r0, r1, c0, c1 int) {
	q := p.kern
	m.reserve(p)
	m.ahead.plan(p)
	groups := panels(r1-r0, q.rows)
	count := groups[0].n + groups[1].n
	for k0 := 0; k0 < p.k; k0 += p.kb {
		k := min(p.kb, p.k-k0)
		steps := ceil(k, 2) // of a kernel, for each panel of A; k if it packs
		for c := c0; c < c1; c += q.cols {
			var src *float32
			if p.b.step != 1 && c+q.cols <= c1 {
				src = &p.b.data[c+k0*p.b.step]
			} else {
				p.packB(m, c, min(c+q.cols, c1), k0, k)
			}

			// While the panels of A are multiplied, the next panel of B comes
			// from afar; with the first panel of B, if A is copied row by row,
			// the next panel of A.
			pack := c == c0 && p.packed
			first := pack && p.a.step == 1
			nextC, nextK := c+q.cols, k0
			if nextC >= c1 {
				nextC, nextK = c0, k0+k
			}
			// The others, in the first chunk, are for the rows of C.
			free := func(h int) int { return max(steps-min(2*(h*q.pairs()+1), p.chunk/2), 1) }
			all := 0
			for _, g := range groups {
				all += g.n * free(g.rows)
			}
			if src != nil {
				all += k - free(groups[0].rows)
			}
			next := m.ahead.nextB(p, nextC, nextK, all)
			for i, r := 0, r0; i < count; {
				h, n := groups[0].rows, groups[0].n-i
				if n <= 0 {
					h, n = groups[1].rows, count-i
				}
				if first {
					n = 1
					all := steps
					switch {
					case src != nil:
						all = k
					case q.spread:
						all = free(h)
					}
					next = m.ahead.nextPanel(p, r+h, k0, all)
				}
				a := p.panelA(m, r, r0, k0, k, h)
				var to *float32
				switch {
				case first:
					for j := range h {
						copy(a.data[j*a.ld:][:k], p.a.data[(r+j)*p.a.lane+k0:])
					}
				case pack && i == 0: // the kernel packs B meanwhile
					n = 1
					q.copy(&a.data[0], &p.a.data[r+k0*p.a.step], p.a.step, k, h, h, 1, 0)
				case pack:
					to, a = &a.data[0], panel{p.a.data[r+k0*p.a.step:], 1, p.a.step, h}
				}
				q.gemm(&p.c[r*p.ldc+c], &a.data[0], &m.b[0], p.ldc, a.ld, a.k, a.step, k, p.chunk, h, n, min(q.cols, c1-c),
					p.add || k0 > 0, src, p.b.step, to, &next.base)
				src = nil
				i += n
				r += n * h
			}
		}
	}
}

// group is n panels of A of equally many rows.
type group struct{ n, rows int }

// panels cuts rows into panels of at most most rows, and of two sizes that
// differ by one.
func panels(rows, most int) [2]group {
	n := ceil(rows, most)
	h := ceil(rows, n)
	low := n*h - rows
	return [2]group{{n - low, h}, {low, h - 1}}
}

// panel is some panels of A: the distance of rows, of steps of k, of panels.
type panel struct {
	data        []float32
	ld, k, step int
}

// panelA returns the panels of A from row r on, of h rows each.
func (p *Product) panelA(m *block, r, r0, k0, k, h int) panel {
	switch {
	case !p.packed:
		return panel{p.a.data[r*p.a.lane+k0:], p.a.lane, 1, h * p.a.lane}
	case p.a.step == 1: // in rows
		ld := p.kb + line
		return panel{m.a[(r-r0)*ld:], ld, 1, h * ld}
	default: // [k, h]
		return panel{m.a[(r-r0)*k:], 1, h, h * k}
	}
}

// packB makes the panel of columns c0 to c1, k0 to k0+k, of B.
func (p *Product) packB(m *block, c0, c1, k0, k int) {
	q := p.kern
	if p.b.step != 1 {
		q.copy(&m.b[0], &p.b.data[k0*p.b.step+c0], p.b.step, k, c1-c0, q.cols, 1, 0)
		return
	}
	for c := c0; c < c1; c += q.lanes {
		q.columns(&m.edge, m.b[c-c0:], q.cols, p.b.data[c*p.b.lane+k0:], p.b.lane, min(q.lanes, c1-c), k)
	}
}
