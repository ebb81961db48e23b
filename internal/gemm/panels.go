package gemm

import "github.com/chainrule-go/chainrule/internal/simd"

// PanelStep is where a part of the columns of a packed B may begin: at a multiple
// of it, on this architecture.
const PanelStep = panelStep

// PanelRows is how many rows of A a kernel multiplies at a time.
func PanelRows() int {
	if best == nil {
		return portableRows
	}
	return best.small.rows
}

// Panels is a matrix B [K,N] packed for the kernels: for products of small
// matrices that lie in cache, on one core, of which several share B. It is
// panel after panel of a few columns, each [K, cols]. The zero value is an
// empty matrix; Pack and PackT reuse its memory.
type Panels struct {
	data []float32
	k, n int
	edge edge
}

// chain is how many products are summed in one register at most. The widest
// panel of as many rows is half of a first-level cache.
const chain = 96

// panel is how many columns a panel has; q may be nil.
func (q *kernel) panel() int {
	if q == nil {
		return portablePanel
	}
	return q.small.cols
}

// Reserve makes room for a matrix [k,n]; what p was is lost.
func (p *Panels) Reserve(k, n int) { p.shape(best, k, n) }

func (p *Panels) shape(q *kernel, k, n int) {
	p.k, p.n = k, n
	if size := even(n, n, q.panel()) * k; len(p.data) < size {
		p.data = make([]float32, size)
	}
}

// Pack makes p the matrix B [k,n]; row i of it starts at b[i·ldb].
func (p *Panels) Pack(b []float32, ldb, k, n int) { p.pack(best, b, ldb, k, n) }

func (p *Panels) pack(q *kernel, b []float32, ldb, k, n int) {
	p.shape(q, k, n)
	if k == 0 || n == 0 {
		return
	}
	_ = b[(k-1)*ldb+n-1]
	cols := q.panel()
	if n%cols != 0 { // Finite reads all columns
		clear(p.data[n/cols*cols*k:][:cols*k])
	}
	for c := 0; c < n; c += cols {
		to := p.data[c*k:]
		if q != nil {
			two, end := 2*q.lanes, min(c+cols, n)
			for at := c; at < end; at += two {
				q.copy(&to[at-c], &b[at], ldb, k, min(two, end-at), cols, 1, 0)
			}
			continue
		}
		for l := range k {
			copy(to[l*cols:][:cols], b[l*ldb+c:l*ldb+min(n, c+cols)])
		}
	}
}

// Finite reports whether rows k0 to k1 are, of a matrix of Pack.
func (p *Panels) Finite(k0, k1 int) bool { return p.finite(best.panel(), k0, k1) }

func (p *Panels) finite(cols, k0, k1 int) bool {
	sum := 0.0
	for c := 0; c < p.n; c += cols {
		sum += simd.SumSquares(p.data[c*p.k+k0*cols : c*p.k+k1*cols])
	}
	return sum-sum == 0
}

// Rows returns B if it is packed row by row, as it lay in memory: its columns are
// those of one panel. It is nil if they are not.
func (p *Panels) Rows() []float32 { return p.rows(best.panel()) }

func (p *Panels) rows(cols int) []float32 {
	if p.n != cols {
		return nil
	}
	return p.data[:p.k*cols]
}

// PackT makes p the matrix B [k,n] of which b is the transpose: row i of Bᵀ
// [n,k] starts at b[i·ldb].
func (p *Panels) PackT(b []float32, ldb, k, n int) { p.packT(best, b, ldb, k, n) }

func (p *Panels) packT(q *kernel, b []float32, ldb, k, n int) {
	p.shape(q, k, n)
	if k == 0 || n == 0 {
		return
	}
	_ = b[(n-1)*ldb+k-1]
	cols := q.panel()
	if q == nil {
		for i := range n {
			to := p.data[i/cols*cols*k+i%cols:]
			for l, v := range b[i*ldb:][:k] {
				to[l*cols] = v
			}
		}
		return
	}
	for c := 0; c < n; c += q.lanes {
		q.columns(&p.edge, p.data[c/cols*cols*k+c%cols:], cols, b[c*ldb:], ldb, min(q.lanes, n-c), k)
	}
}

// Mul sets C [m, n1-n0] to the product of A [m, k1-k0] with rows k0 to k1 of
// columns n0 to n1 of B, or adds it where add is set. Row i of C starts at
// c[i·ldc]; A[i,l] is a[i·lda+l·ka], so that it may be the transpose of what
// lies in memory. n0 is a multiple of PanelStep. The order in which an element
// is summed depends on k1-k0 alone. Meanwhile a part of f may come into cache.
func (p *Panels) Mul(c []float32, ldc int, a []float32, lda, ka int, m, k0, k1, n0, n1 int, add bool, f *Fetch) {
	p.mul(best, c, ldc, a, lda, ka, m, k0, k1, n0, n1, add, f)
}

func (p *Panels) mul(q *kernel, c []float32, ldc int, a []float32, lda, ka int, m, k0, k1, n0, n1 int, add bool, f *Fetch) {
	if m <= 0 || n1 <= n0 {
		return
	}
	if n0%PanelStep != 0 || k0 < 0 || k1 > p.k || n1 > p.n {
		panic("chainrule: gemm.Panels.Mul: not a part of the matrix")
	}
	_ = c[(m-1)*ldc+n1-n0-1]
	if k1 <= k0 {
		for i := range m {
			if !add {
				clear(c[i*ldc:][:n1-n0])
			}
		}
		return
	}
	_ = a[(m-1)*lda+(k1-k0-1)*ka]
	if q == nil {
		p.portable(c, ldc, a, lda, ka, m, k0, k1, n0, n1, add)
		return
	}
	t := &q.small
	step := even(k1-k0, chain, 1)
	for l := k0; l < k1; l += step {
		for j := n0; j < n1; j += t.cols - j%t.cols {
			at := j % t.cols
			t.mul(&c[j-n0], &a[(l-k0)*ka], &p.data[(j-at)*p.k+l*t.cols+at], ldc, lda, ka, t.cols,
				min(step, k1-l), m, min(t.cols-at, n1-j), add || l > k0, &f.at)
		}
	}
}

const portablePanel, portableRows = 4, 2

// portable is mul in Go: two rows by a panel at a time.
func (p *Panels) portable(c []float32, ldc int, a []float32, lda, ka int, m, k0, k1, n0, n1 int, add bool) {
	for j := n0; j < n1; j += portablePanel {
		b := p.data[j*p.k+k0*portablePanel:][:(k1-k0)*portablePanel]
		w := min(portablePanel, n1-j)
		for i := 0; i < m; i += 2 {
			x, y := a[i*lda:], a[min(i+1, m-1)*lda:] // past the last row, repeat it
			var s, t [portablePanel]float32
			s0, s1, s2, s3, t0, t1, t2, t3 := s[0], s[1], s[2], s[3], t[0], t[1], t[2], t[3]
			at := 0
			for b := b; len(b) >= portablePanel; b = b[portablePanel:] {
				u, v := x[at], y[at]
				at += ka
				s0 += u * b[0]
				s1 += u * b[1]
				s2 += u * b[2]
				s3 += u * b[3]
				t0 += v * b[0]
				t1 += v * b[1]
				t2 += v * b[2]
				t3 += v * b[3]
			}
			s, t = [portablePanel]float32{s0, s1, s2, s3}, [portablePanel]float32{t0, t1, t2, t3}
			for r, sum := range [2][]float32{s[:w], t[:w]} {
				if i+r < m {
					out := c[(i+r)*ldc+j-n0:][:w]
					for l, v := range sum {
						if add {
							v += out[l]
						}
						out[l] = v
					}
				}
			}
		}
	}
}
