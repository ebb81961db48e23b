package gemm

// The portable product. Its panels and tiles are float64: a product of two
// float32 is exact in float64, and a scalar multiplication or addition takes no
// longer in it. An element is rounded to float32 once, so its error is half an
// ulp, and as nothing is lost when x*y+z is fused, the bits are the same on all
// architectures too.

// A tile of the output has at most portableMax rows and columns, and at least
// portableMin unless the shape has fewer; portableK is how much of K is packed
// at a time. Two packed blocks and a tile take 750 KB: they stay in an L2 cache.
const (
	portableMax = 144
	portableMin = 48
	portableK   = 256
)

// portableBlock is the memory of one tile.
type portableBlock struct {
	a, b packed
	acc  [portableMax / lanes * portableMax / lanes]corner
}

// portableGrid halves the tiles until there are enough of them for many cores,
// then evens them out.
func (p *Product) portableGrid(cores int) {
	p.tm, p.tn = portableMax, portableMax
	for ceil(p.m, p.tm)*ceil(p.n, p.tn) < tiles*cores && max(min(p.m, p.tm), min(p.n, p.tn)) > portableMin {
		if min(p.m, p.tm) > min(p.n, p.tn) {
			p.tm = max(min(p.m, p.tm)/2, portableMin)
		} else {
			p.tn = max(min(p.n, p.tn)/2, portableMin)
		}
	}
	p.tm, p.tn = even(p.m, p.tm, lanes), even(p.n, p.tn, lanes)
}

// portableTile computes rows r0 to r1 and columns c0 to c1 of C.
func (p *Product) portableTile(blk *portableBlock, r0, r1, c0, c1 int) {
	if p.k < minK && p.b.step != 1 {
		p.fewTile(r0, r1, c0, c1)
		return
	}
	across := ceil(c1-c0, lanes)
	acc := blk.acc[:ceil(r1-r0, lanes)*across]
	clear(acc)
	for k0 := 0; k0 < p.k; k0 += portableK {
		k1 := min(p.k, k0+portableK)
		p.a.pack(&blk.a, r0, r1, k0, k1)
		p.b.pack(&blk.b, c0, c1, k0, k1)
		size := panelSize(k1 - k0)
		for i := range acc {
			a, b := i/across*size, i%across*size
			corner3(&acc[i], blk.a[a:a+size], blk.b[b:b+size])
		}
	}
	for i := range acc {
		r, c := r0+i/across*lanes, c0+i%across*lanes
		h, w := min(lanes, r1-r), min(lanes, c1-c)
		for j := range h {
			out := p.c[(r+j)*p.ldc+c:][:w]
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

// fewTile is portableTile for few products an element, where packing B costs
// more than they do.
func (p *Product) fewTile(r0, r1, c0, c1 int) {
	var sums [portableMax]float64
	for r := r0; r < r1; r++ {
		out := p.c[r*p.ldc+c0 : r*p.ldc+c1]
		sum := sums[:len(out)]
		clear(sum)
		if p.add {
			for j, v := range out {
				sum[j] = float64(v)
			}
		}
		for k := range p.k {
			a := float64(p.a.data[r*p.a.lane+k*p.a.step])
			for j, v := range p.b.data[k*p.b.step+c0:][:len(sum)] {
				sum[j] += a * float64(v)
			}
		}
		for j, v := range sum {
			out[j] = float32(v)
		}
	}
}

// panelSize returns the length of a panel of k steps: padded to a multiple of
// unroll steps.
func panelSize(k int) int { return ceil(k, unroll) * unroll * lanes }

// packed is a block of an operand, panel after panel; a panel is [k, lanes].
type packed [portableMax * portableK]float64

// pack copies lanes l0 to l1 of k0 to k1 into dst. Lanes and steps that the
// operand lacks become 0: a product of padding steps is 0·0 and changes no sum
// (no sum is ever -0, as all begin with +0), and what padding lanes sum, NaN if
// the other factor is Inf, is never stored.
func (o operand) pack(dst *packed, l0, l1, k0, k1 int) {
	size := panelSize(k1 - k0)
	for l := l0; l < l1; l += lanes {
		panel := dst[(l-l0)/lanes*size:][:size]
		clear(panel[(k1-k0)*lanes:])
		switch have := l1 - l; {
		case have < lanes:
			for k := range k1 - k0 {
				to := panel[k*lanes:][:lanes]
				clear(to)
				for i := range have {
					to[i] = float64(o.data[(l+i)*o.lane+(k0+k)*o.step])
				}
			}
		case o.step == 1:
			r0 := o.data[l*o.lane+k0:][:k1-k0]
			r1 := o.data[(l+1)*o.lane+k0:][:len(r0)]
			r2 := o.data[(l+2)*o.lane+k0:][:len(r0)]
			to := panel
			for k, v := range r0 {
				if len(to) < lanes {
					break
				}
				to[0], to[1], to[2] = float64(v), float64(r1[k]), float64(r2[k])
				to = to[lanes:]
			}
		default:
			at := l + k0*o.step
			for to := panel[:(k1-k0)*lanes]; len(to) >= lanes; to = to[lanes:] {
				from := (*[lanes]float32)(o.data[at:])
				to[0], to[1], to[2] = float64(from[0]), float64(from[1]), float64(from[2])
				at += o.step
			}
		}
	}
}
