// Package gemm computes the three matrix products of a linear layer, blocked,
// packed and register-tiled.
//
// The output is cut into tiles by a grid that depends on the shape alone. A
// tile packs blocks of its rows of A and its columns of B into panels, and a
// micro-kernel adds the product of two panels to a 3×3 corner of the tile.
// Every element sums its K products in the order of k, whatever the grid and
// whoever computes the tile, so the bits are the same at any GOMAXPROCS.
//
// Panels and tiles are float64: a product of two float32 is exact in float64,
// and a scalar multiplication or addition takes no longer in it. An element is
// rounded to float32 once, so its error is half an ulp, and as nothing is lost
// when x*y+z is fused, the bits are the same on all architectures too. One
// exception: up to smallRows rows of x Wᵀ, where memory sets the pace, are
// float32 dot products over W where it lies.
package gemm

// A tile of the output has at most tileMax rows and columns, and at least
// tileMin unless the shape has fewer; kBlock is how much of K is packed at a
// time. Two packed blocks and a tile take 750 KB: they stay in an L2 cache.
const (
	tileMax = 144
	tileMin = 48
	kBlock  = 256
	tiles   = 32 // cut smaller than tileMax to get this many
)

// Product is one product C = A B, or C = C + A B: C [M, N], sums over K. Make
// it with NT, NN or TN.
type Product struct {
	c       []float32
	a, b    operand
	m, n, k int
	add     bool

	tm, tn int  // size of a tile
	dots   bool // few rows of x Wᵀ
}

// operand is A or B: A's lanes are the rows of C, B's are its columns. The
// value of lane l at k is data[l*lane + k*step]; lane or step is 1.
type operand struct {
	data       []float32
	lane, step int
}

// NT is y = x Wᵀ: y [rows, out], x [rows, in], w [out, in].
func NT(y, x, w []float32, rows, out, in int) Product {
	p := grid(rows, out, in)
	p.c, p.a, p.b = y, operand{x, in, 1}, operand{w, in, 1}
	if rows <= smallRows {
		p.dots, p.tm, p.tn = true, max(rows, 1), tileMin
	}
	return p
}

// NN is dx = dy W: dx [rows, in], dy [rows, out], w [out, in].
func NN(dx, dy, w []float32, rows, out, in int) Product {
	p := grid(rows, in, out)
	p.c, p.a, p.b = dx, operand{dy, out, 1}, operand{w, 1, in}
	return p
}

// TN is dw = dw + dyᵀ x: dw [out, in], dy [rows, out], x [rows, in].
func TN(dw, dy, x []float32, rows, out, in int) Product {
	p := grid(out, in, rows)
	p.c, p.a, p.b, p.add = dw, operand{dy, 1, out}, operand{x, 1, in}, true
	return p
}

// grid halves the tiles until there are enough of them for many cores, then
// evens them out.
func grid(m, n, k int) Product {
	tm, tn := tileMax, tileMax
	for ceil(m, tm)*ceil(n, tn) < tiles && max(min(m, tm), min(n, tn)) > tileMin {
		if min(m, tm) > min(n, tn) {
			tm = max(min(m, tm)/2, tileMin)
		} else {
			tn = max(min(n, tn)/2, tileMin)
		}
	}
	return Product{m: m, n: n, k: k, tm: even(m, tm), tn: even(n, tn)}
}

// even returns the size, a multiple of lanes, of the tiles that cut n into as
// few as tiles of at most t do.
func even(n, t int) int {
	return max(ceil(ceil(n, max(ceil(n, t), 1)), lanes), 1) * lanes
}

func ceil(a, b int) int { return (a + b - 1) / b }

// Tiles returns the number of tiles, a function of the shape alone.
func (p *Product) Tiles() int { return ceil(p.m, p.tm) * ceil(p.n, p.tn) }

// Run computes the tiles lo ≤ i < hi, with scratch memory from s. Tiles may be
// computed in any order and at the same time.
func (p *Product) Run(s *Scratch, lo, hi int) {
	if p.dots {
		for i := lo; i < hi; i++ {
			p.dotTile(i*p.tn, min(p.n, (i+1)*p.tn))
		}
		return
	}
	blk := s.get()
	across := ceil(p.n, p.tn)
	for i := lo; i < hi; i++ {
		r, c := i/across*p.tm, i%across*p.tn
		p.tile(blk, r, min(p.m, r+p.tm), c, min(p.n, c+p.tn))
	}
	s.put(blk)
}

// tile computes rows r0 to r1 and columns c0 to c1 of C.
func (p *Product) tile(blk *block, r0, r1, c0, c1 int) {
	across := ceil(c1-c0, lanes)
	acc := blk.acc[:ceil(r1-r0, lanes)*across]
	clear(acc)
	for k0 := 0; k0 < p.k; k0 += kBlock {
		k1 := min(p.k, k0+kBlock)
		p.a.pack(&blk.a, r0, r1, k0, k1)
		p.b.pack(&blk.b, c0, c1, k0, k1)
		size := panelSize(k1 - k0)
		for i := range acc {
			a, b := i/across*size, i%across*size
			kernel(&acc[i], blk.a[a:a+size], blk.b[b:b+size])
		}
	}
	for i := range acc {
		r, c := r0+i/across*lanes, c0+i%across*lanes
		h, w := min(lanes, r1-r), min(lanes, c1-c)
		for j := range h {
			out := p.c[(r+j)*p.n+c:][:w]
			sum := acc[i][j*lanes:][:w]
			if p.add {
				for l, v := range sum {
					out[l] = float32(float64(out[l]) + v)
				}
			} else {
				for l, v := range sum {
					out[l] = float32(v)
				}
			}
		}
	}
}
