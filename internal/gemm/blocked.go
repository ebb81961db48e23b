package gemm

const (
	// minK is how few products an element is summed of by kernels.
	minK = 12

	// kBlock is how many products are summed in one register at most. A panel
	// of B, kBlock by the columns of a kernel, stays in the first-level cache.
	kBlock = 320

	// rowBlock is how many rows of A a tile has at most: kBlock of each stay
	// in the second-level cache while the panels of B come and go.
	rowBlock = 512

	maxCols  = 32 // columns of the widest kernel
	maxLanes = 16

	tiles = 32 // how many tiles a grid should have for the cores
)

// block is the memory of one tile.
type block struct {
	b    [kBlock * maxCols]float32  // a panel of B
	edge [kBlock * maxLanes]float32 // rows to transpose, if too few are left
	a    []float32                  // a block of A, if it is packed
}

func (m *block) reserve(p *Product) {
	if n := p.tm * p.kb; p.a.step != 1 && len(m.a) < n {
		m.a = make([]float32, n)
	}
}

// grid cuts C into tiles. Where A is packed tiles have all columns, elsewhere
// more tiles than one column of them costs nothing.
func (p *Product) grid() {
	p.tm, p.tn = min(p.m, rowBlock), p.n
	if p.a.step == 1 {
		p.tn = even(p.n, max(p.n*ceil(p.m, p.tm)/tiles, 1), p.kern.cols)
	} else {
		p.tm = min(p.tm, max(p.m/16, 96))
		p.tn = min(p.tn, 1024)
	}
	p.tm, p.tn = even(p.m, p.tm, p.kern.rows), even(p.n, p.tn, p.kern.cols)
	p.kb = even(p.k, kBlock, 4)
	p.chunk = p.kb
	if p.kb >= p.k {
		p.chunk = ceil(p.k, 2)
	}
}

// tile computes rows r0 to r1 and columns c0 to c1 of C.
func (p *Product) tile(m *block, r0, r1, c0, c1 int) {
	q := p.kern
	m.reserve(p)
	groups := panels(r1-r0, q.rows)
	for k0 := 0; k0 < p.k; k0 += p.kb {
		k := min(p.kb, p.k-k0)
		if p.a.step != 1 {
			p.packA(m, groups, r0, k0, k)
		}
		for c := c0; c < c1; c += q.cols {
			p.packB(m, c, min(c+q.cols, c1), k0, k)
			next := p.panelB(c+q.cols, k0, k)
			if c+q.cols >= c1 {
				next = p.panelB(c0, k0+k, k)
			}
			r := r0
			for _, g := range groups {
				if g.n == 0 {
					break
				}
				a, lda, ka, step := m.a, 1, g.rows, g.rows*k
				if p.a.step == 1 {
					a, lda, ka, step = p.a.data[r*p.a.lane+k0:], p.a.lane, 1, g.rows*p.a.lane
				} else {
					a = a[(r-r0)*k:]
				}
				next.share = ceil(next.rows, groups[0].n+groups[1].n)
				q.gemm(&p.c[r*p.ldc+c], &a[0], &m.b[0], p.ldc, lda, ka, step, k, p.chunk, g.rows, g.n, min(q.cols, c1-c),
					p.add || k0 > 0, &next.data[0], next.ld, next.share, next.lines)
				next = next.after(g.n)
				r += g.n * g.rows
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

// packA copies rows r0 on, k0 to k0+k, of an A whose columns lie together:
// panel after panel, each [k, rows].
func (p *Product) packA(m *block, groups [2]group, r0, k0, k int) {
	to := m.a[:]
	for _, g := range groups {
		for range g.n {
			p.kern.copy(&to[0], &p.a.data[k0*p.a.step+r0], g.rows, p.a.step, k, g.rows)
			to = to[k*g.rows:]
			r0 += g.rows
		}
	}
}

// packB makes the panel of columns c0 to c1, k0 to k0+k, of B.
func (p *Product) packB(m *block, c0, c1, k0, k int) {
	q := p.kern
	if p.b.step != 1 {
		q.copy(&m.b[0], &p.b.data[k0*p.b.step+c0], q.cols, p.b.step, k, c1-c0)
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
		q.transpose(&m.b[c-c0], &src[0], ld, k4)
	}
}

// region is memory to be read soon: rows of cache lines, ld floats apart, of
// which each panel fetches a share.
type region struct {
	data                   []float32
	ld, rows, lines, share int
}

// panelB is what packB reads.
func (p *Product) panelB(c, k0, k int) region {
	const line = 16
	g := region{ld: p.b.lane, rows: p.kern.cols, lines: ceil(k, line)}
	if p.b.step != 1 {
		g = region{ld: p.b.step, rows: k, lines: p.kern.cols / line}
	}
	if at := c*p.b.lane + k0*p.b.step; at < len(p.b.data) {
		g.data = p.b.data[at:]
	}
	return g.after(0)
}

// after is the rest of a region when n panels have fetched their share.
func (g region) after(n int) region {
	if at := n * g.share * g.ld; at < len(g.data) {
		g.data = g.data[at:]
	} else {
		g = region{data: nothing[:]}
	}
	return g
}

var nothing [1]float32
