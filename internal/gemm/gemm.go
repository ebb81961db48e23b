// Package gemm computes the three matrix products of a linear layer, blocked,
// packed and register-tiled.
//
// The output is cut into tiles by a grid that suits the number of cores. A
// tile takes K in blocks, packs the block of a few columns of B into a panel
// that stays in the first-level cache, and a micro-kernel multiplies panels of
// A with it, from the second-level cache, packed or where they lie.
//
// Few rows of x, where W comes from memory for little work, have kernels that
// read it as the memory is fastest: of dot products and of W xᵀ for x Wᵀ, of
// strips for dx and dW.
//
// How an element is summed depends on the shape alone, not on the grid or on
// who computes the tile, so the bits are the same at any GOMAXPROCS. Kernels
// accumulate up to kBlock products in one float32, fused, and add such sums in
// the order of k; below 2·kBlock products there are two sums, because the
// error of one that only grows is several times √K·2⁻²⁴·Σ|a||b|/4. Fewer than
// minK products are summed in float64: there are too few for their rounding
// errors to cancel.
//
// Without a kernel for the processor, portable.go sums all products in
// float64.
package gemm

//go:generate go run -C _asm . -out ../kernel_amd64.s -stubs ../kernel_amd64.go -pkg gemm

// Product is one product C = A B, or C = C + A B: C [M, N], sums over K. Make
// it with NT, NN or TN.
type Product struct {
	c       []float32
	ldc     int // distance of the rows of C
	a, b    operand
	m, n, k int
	add     bool

	how    method
	kern   *kernel
	tm, tn int // size of a tile

	kb    int // how much of K is packed at a time
	chunk int // how many products a kernel sums before it adds them to C

	packed bool // is A packed?

	alone bool // does one core take all tiles of dx or of few rows in a row?

	// Of dx: parts of K, if there are several, the sums of all but the first, and how
	// many tiles are done.
	parts int
	sums  []float32
	done  int32

	slim *thinTile // of the method thin
	turn uint64    // a number no other product has
}

// method is how the tiles of a product are computed.
type method int

const (
	blocked  method = iota // with a kernel
	portable               // in Go, summed in float64
	dots                   // very few rows of x Wᵀ
	thin                   // few rows of x Wᵀ
	rank                   // few products an element, in float64
	strip                  // few rows of dx, few products an element of dW
)

// operand is A or B: A's lanes are the rows of C, B's are its columns. The
// value of lane l at k is data[l*lane + k*step]; lane or step is 1.
type operand struct {
	data       []float32
	lane, step int
}

// NT is y = x Wᵀ: y [rows, out], x [rows, in], w [out, in].
func NT(y, x, w []float32, rows, out, in, cores int) Product {
	return best.product(y, operand{x, in, 1}, operand{w, in, 1}, rows, out, in, false, cores)
}

// NN is dx = dy W: dx [rows, in], dy [rows, out], w [out, in].
func NN(dx, dy, w []float32, rows, out, in, cores int) Product {
	return best.product(dx, operand{dy, out, 1}, operand{w, 1, in}, rows, in, out, false, cores)
}

// TN is dw = dw + dyᵀ x: dw [out, in], dy [rows, out], x [rows, in].
func TN(dw, dy, x []float32, rows, out, in, cores int) Product {
	return best.product(dw, operand{dy, 1, out}, operand{x, 1, in}, out, in, rows, true, cores)
}

// product plans a product with kernel q, which is nil if there is none.
func (q *kernel) product(c []float32, a, b operand, m, n, k int, add bool, cores int) Product {
	p := Product{c: c, ldc: n, a: a, b: b, m: m, n: n, k: k, add: add, kern: q}
	few, linear := portableDots, a.step == 1 && b.step == 1 && !add
	if q != nil && k >= minK {
		few = min(q.dotMost, dotX/k)
		if linear {
			p.slim = q.thinFor(m, n, k)
		}
	}
	switch {
	case m == 0 || n == 0: // there are no tiles
		p.how, p.tm, p.tn = dots, 1, 1
	case p.slim != nil:
		p.how = thin
		p.thinGrid(cores)
	case m <= few && linear:
		p.how = dots
		p.dotGrid(cores)
	case q != nil && q.rank != nil && k > 0 && k < minK && b.step != 1:
		p.how = rank
		p.rankGrid(cores)
	case p.strips():
		p.how = strip
		p.stripGrid(cores)
	case q == nil || k < minK:
		p.how = portable
		p.portableGrid(cores)
	default:
		p.how = blocked
		p.plan()
		p.grid(cores)
	}
	return p
}

const tiles = 4 // how many tiles a grid that is not measured out should have for each core

func ceil(a, b int) int { return (a + b - 1) / b }

// even returns the size, a multiple of unit, of the parts that cut n into as
// few as parts of at most most do.
func even(n, most, unit int) int {
	return max(ceil(ceil(n, max(ceil(n, most), 1)), unit), 1) * unit
}

// Tiles returns the number of tiles.
func (p *Product) Tiles() int { return max(p.parts, ceil(p.m, p.tm)) * ceil(p.n, p.tn) }

// Run computes the tiles lo ≤ i < hi, with scratch memory from s. Tiles may be
// computed in any order and at the same time. C is there when all are.
func (p *Product) Run(s *Scratch, lo, hi int) {
	across := ceil(p.n, p.tn)
	var mem *memory
	if p.how != dots {
		mem = s.get()
		defer s.put(mem)
	}
	for i := lo; i < hi; i++ {
		i := i
		if p.how == dots || p.how == thin && !p.alone {
			i = inOrder(i, across)
		}
		r, c := i/across*p.tm, i%across*p.tn
		r1, c1 := min(p.m, r+p.tm), min(p.n, c+p.tn)
		switch p.how {
		case blocked:
			p.tile(mem.block(), r, r1, c, c1)
		case portable:
			p.portableTile(mem.portable(), r, r1, c, c1)
		case dots:
			p.dot(c, c1)
		case strip:
			if p.packed {
				p.stripW(mem, r, r1)
			} else {
				p.stripX(s, &mem.next, i/across, c, c1)
			}
		case rank:
			p.rankTile(mem, r, r1, c, c1)
		case thin:
			p.thinTile(mem.thin(), c, c1)
		}
	}
}

// inOrder returns which of n tiles is the i-th: they are dealt from both
// ends, and W is to be read upwards from either.
func inOrder(i, n int) int {
	if half := n / 2; i >= half {
		return half + n - 1 - i
	}
	return i
}
