package gemm

// Few products an element, as in dW of few rows of x, are summed in float64:
// their rounding errors cannot cancel. They are a pass through C.

const (
	rankCols  = 8 << 10 // columns of a tile, at most: that much of B stays in the second-level cache
	rankLanes = 8       // columns at a time
)

// rankGrid cuts C into tiles of whole rows.
func (p *Product) rankGrid(cores int) {
	p.tn = even(p.n, rankCols, maxLanes)
	p.tm = even(p.m, max(ceil(p.m, tiles*cores), ceil(dotTile, p.n)), 4)
}

// rankTile computes rows r0 to r1 and columns c0 to c1 of C. It keeps rows of A
// in m, where they do not escape.
func (p *Product) rankTile(m *memory, r0, r1, c0, c1 int) {
	q, a := p.kern, &m.rank
	b, ldb := p.apart(m, c0, c1)
	vecs := (c1 - c0) / rankLanes
	for r, n := r0, 0; r < r1 && vecs > 0; r += n {
		if n = 4; r1-r < 4 {
			n = 1
		}
		for l := range p.k {
			for i := range n {
				a[l*n+i] = float64(p.a.data[(r+i)*p.a.lane+l*p.a.step])
			}
		}
		q.rank(&p.c[r*p.ldc+c0], &b[0], &a[0], p.ldc, ldb, p.k, n, vecs, p.add)
	}
	for c := c0 + vecs*rankLanes; c < c1; c += portableMax {
		p.fewTile(r0, r1, c, min(c1, c+portableMax))
	}
}
