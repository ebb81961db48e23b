package gemm

// The products of small matrices that lie in cache, serial: what attention is
// made of. Matrices are row-major, ld is the distance of their rows in
// elements. Sums are float32, up to kBlock products in each, and add makes them
// C += instead of C =.

// TileScratch is the memory that tiles are packed into. The zero TileScratch is
// ready; it grows with what it is used for. One goroutine at a time uses it.
type TileScratch struct{ m memory }

// TileNT computes C = A Bᵀ: c [m, n], a [m, k], b [n, k].
func TileNT(s *TileScratch, c []float32, ldc int, a []float32, lda int, b []float32, ldb int, m, n, k int, add bool) {
	best.small(s, c, ldc, operand{a, lda, 1}, operand{b, ldb, 1}, m, n, k, add)
}

// TileNN computes C = A B: c [m, n], a [m, k], b [k, n].
func TileNN(s *TileScratch, c []float32, ldc int, a []float32, lda int, b []float32, ldb int, m, n, k int, add bool) {
	best.small(s, c, ldc, operand{a, lda, 1}, operand{b, 1, ldb}, m, n, k, add)
}

// TileTN computes C = Aᵀ B: c [m, n], a [k, m], b [k, n].
func TileTN(s *TileScratch, c []float32, ldc int, a []float32, lda int, b []float32, ldb int, m, n, k int, add bool) {
	best.small(s, c, ldc, operand{a, 1, lda}, operand{b, 1, ldb}, m, n, k, add)
}

// small computes a product with kernel q, nil if there is none.
func (q *kernel) small(s *TileScratch, c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	if m <= 0 || n <= 0 {
		return
	}
	// The kernels have addresses only: here is where a length is checked.
	operand{c, ldc, 1}.need(m, n)
	if k <= 0 {
		for i := range m {
			if !add {
				clear(c[i*ldc:][:n])
			}
		}
		return
	}
	a.need(m, k)
	b.need(n, k)
	p := Product{c: c, ldc: ldc, a: a, b: b, m: m, n: n, k: k, add: add, kern: q}
	if q == nil {
		p.tm, p.tn = portableMax, portableMax
		for r := 0; r < m; r += p.tm {
			for c := 0; c < n; c += p.tn {
				p.portableTile(s.m.portable(), r, min(m, r+p.tm), c, min(n, c+p.tn))
			}
		}
		return
	}
	p.tm = rowBlock
	p.plan()
	for r := 0; r < m; r += p.tm {
		p.tile(s.m.block(), r, min(m, r+p.tm), 0, n)
	}
}

// need panics unless lanes by steps values lie in o.
func (o operand) need(lanes, steps int) {
	if (lanes-1)*o.lane+(steps-1)*o.step >= len(o.data) {
		panic("chainrule: gemm: a matrix is shorter than its sizes say")
	}
}
