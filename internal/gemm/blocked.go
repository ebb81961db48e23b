package gemm

const (
	// minK is how few products an element is summed of by kernels.
	minK = 12

	// kBlock is how many products are summed in one register at most. A panel
	// of B, kBlock by the columns of a kernel, stays in the first-level cache.
	kBlock = 256

	// rowBlock is how many rows a tile has at most: kBlock of each row of A
	// stay in the second-level cache while the panels of B come and go.
	rowBlock = 512

	// smallA is how many floats of A may stay in the second-level cache from
	// one tile to the next.
	smallA = 256 << 10

	maxCols  = 48 // columns of the widest kernel
	maxLanes = 16
	maxTile  = 9 * 48 // elements of the largest tile
	maxPairs = 9 * 2  // of cache lines in the rows of a tile
	line     = 16     // floats of a cache line

	tiles = 4 // how many tiles a grid should have for each core
)

// block is the memory of one tile.
type block struct {
	b     [kBlock * maxCols]float32  // a panel of B
	edge  [kBlock * maxLanes]float32 // rows to transpose, if too few are left
	a     []float32                  // a block of A, if it is packed
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
	p.packed = p.a.step != 1 || p.a.lane%1024 == 0 && p.m > p.kern.rows
}

// grid cuts C into tiles, so many for each core. Smaller tiles read A and B
// again, from farther away.
func (p *Product) grid(cores int) {
	if p.kb >= p.k {
		p.chunk = ceil(p.k, 2)
	}
	p.tm, p.tn = min(p.m, rowBlock), min(p.n, 1024)
	rows, cols := 256, 192
	if p.a.step != 1 {
		rows, cols = 96, 384
	}
	if !p.packed && p.m*p.k <= smallA {
		cols = p.kern.cols
	}
	for cores > 1 && ceil(p.m, p.tm)*ceil(p.n, p.tn) < tiles*cores {
		if p.tm > rows && (p.tm >= p.tn || p.tn <= cols) {
			p.tm = max(p.tm/2, rows)
		} else if p.tn > cols {
			p.tn = max(p.tn/2, cols)
		} else {
			break
		}
	}
	// Few tiles are as many for each core.
	if across := ceil(p.n, p.tn); ceil(p.m, p.tm)*across < tiles*cores && ceil(p.m, p.tm)*across%cores != 0 {
		p.tn = ceil(p.n, max(cores, across-across%cores))
	}
	p.tm, p.tn = even(p.m, p.tm, p.kern.rows), even(p.n, p.tn, p.kern.cols)
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
		if p.a.step != 1 {
			p.copyA(m, r0, k0, k, groups)
		}
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
			first := c == c0 && p.packed && p.a.step == 1
			nextC, nextK := c+q.cols, k0
			if nextC >= c1 {
				nextC, nextK = c0, k0+k
			}
			free := max(steps-2*(q.rows*q.pairs()+1), 1) // the others are for the rows of C
			all := count * free
			if src != nil {
				all += k - free
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
					if src != nil {
						all = k
					}
					next = m.ahead.nextPanel(p, r+h, k0, all)
				}
				a := p.panelA(m, r, r0, k0, k, h)
				if first {
					for j := range h {
						copy(a.data[j*a.ld:][:k], p.a.data[(r+j)*p.a.lane+k0:])
					}
				}
				q.gemm(&p.c[r*p.ldc+c], &a.data[0], &m.b[0], p.ldc, a.ld, a.k, a.step, k, p.chunk, h, n, min(q.cols, c1-c),
					p.add || k0 > 0, src, p.b.step, &next.base)
				src = nil
				i += n
				r += n * h
			}
		}
	}
}

// copyA packs the block of Aᵀ that begins at row r0 and k0 into panels [k, rows],
// a row of all at a time, as the processor's own prefetcher likes it.
func (p *Product) copyA(m *block, r0, k0, k int, groups [2]group) {
	to := 0
	for _, g := range groups {
		if g.n > 0 {
			p.kern.copy(&m.a[to*k], &p.a.data[r0+to+k0*p.a.step], p.a.step, k, g.rows, g.rows, g.n, g.rows*k)
			to += g.n * g.rows
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
	k4 := k &^ 3
	for c := c0; c < c1; c += q.lanes {
		src, ld, n := p.b.data[c*p.b.lane+k0:], p.b.lane, min(q.lanes, c1-c)
		for l := k4; l < k; l++ {
			for j := range n {
				m.b[l*q.cols+c-c0+j] = src[j*ld+l]
			}
		}
		if k4 == 0 {
			continue
		}
		if n < q.lanes { // the rows that are missing are not there to be read
			for j := range n {
				copy(m.edge[j*kBlock:][:k4], src[j*ld:])
			}
			src, ld = m.edge[:], kBlock
		}
		q.transpose(&m.b[c-c0], &src[0], ld, k4, q.cols)
	}
}
