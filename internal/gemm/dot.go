package gemm

// Few rows of x Wᵀ are dot products: packing W costs more than it saves there.
const (
	portableDots = 4        // rows, without a kernel
	dotX         = 96 << 10 // floats of x that may be read again for each part of W
	dotTile      = 16 << 10 // floats of W in a tile, at least
)

// dotGrid cuts W into tiles of whole rows.
func (p *Product) dotGrid(cores int) {
	p.tm = p.m
	p.tn = even(p.n, max(ceil(p.n, tiles*cores), ceil(dotTile, max(p.k, 1))), 4)
}

// dot computes columns c0 to c1 of C, all rows, so that W is read once.
func (p *Product) dot(c0, c1 int) {
	q := p.kern
	if q == nil || p.k < minK {
		p.portableDot(c0, c1)
		return
	}
	groups := panels(p.m, q.dotRows)
	most := (c1 - c0) / 4
	if groups[0].n+groups[1].n > 1 {
		most = 1 // the rows of W are read again from the first-level cache
	}
	for c1-c0 >= 4 {
		n := min(most, (c1-c0)/4)
		r := 0
		for _, g := range groups {
			for range g.n {
				q.dot(&p.c[r*p.ldc+c0], &p.a.data[r*p.k], &p.b.data[c0*p.k], p.ldc, p.k, g.rows, n)
				r += g.rows
			}
		}
		c0 += 4 * n
	}
	p.portableDot(c0, c1)
}

// portableDot is dot in Go, four columns at a time.
func (p *Product) portableDot(c0, c1 int) {
	k := p.k
	for c := c0; c < c1; c += 4 {
		// Past the last column, repeat it.
		w0 := p.b.data[c*k:][:k]
		w1 := p.b.data[min(c+1, c1-1)*k:][:k]
		w2 := p.b.data[min(c+2, c1-1)*k:][:k]
		w3 := p.b.data[min(c+3, c1-1)*k:][:k]
		for r := range p.m {
			x := p.a.data[r*k:][:k]
			var y [4]float32
			y[0], y[1] = dot2(x, w0, w1)
			y[2], y[3] = dot2(x, w2, w3)
			copy(p.c[r*p.ldc+c:r*p.ldc+c1], y[:])
		}
	}
}

// dotStep is how many products of a dot dot2 takes at a time, in four sums.
const dotStep = 16

// dot2 returns x·u and x·w, equally long. The conversions keep the compiler
// from fusing, for the same bits on all architectures.
func dot2(x, u, w []float32) (xu, xw float32) {
	var s0, s1, s2, s3, t0, t1, t2, t3 float32
	u, w = u[:len(x)], w[:len(x)]
	i := 0
	for ; i <= len(x)-dotStep; i += dotStep {
		a, b, c := (*[dotStep]float32)(x[i:]), (*[dotStep]float32)(u[i:]), (*[dotStep]float32)(w[i:])
		s0, t0 = s0+float32(a[0]*b[0]), t0+float32(a[0]*c[0])
		s1, t1 = s1+float32(a[1]*b[1]), t1+float32(a[1]*c[1])
		s2, t2 = s2+float32(a[2]*b[2]), t2+float32(a[2]*c[2])
		s3, t3 = s3+float32(a[3]*b[3]), t3+float32(a[3]*c[3])
		s0, t0 = s0+float32(a[4]*b[4]), t0+float32(a[4]*c[4])
		s1, t1 = s1+float32(a[5]*b[5]), t1+float32(a[5]*c[5])
		s2, t2 = s2+float32(a[6]*b[6]), t2+float32(a[6]*c[6])
		s3, t3 = s3+float32(a[7]*b[7]), t3+float32(a[7]*c[7])
		s0, t0 = s0+float32(a[8]*b[8]), t0+float32(a[8]*c[8])
		s1, t1 = s1+float32(a[9]*b[9]), t1+float32(a[9]*c[9])
		s2, t2 = s2+float32(a[10]*b[10]), t2+float32(a[10]*c[10])
		s3, t3 = s3+float32(a[11]*b[11]), t3+float32(a[11]*c[11])
		s0, t0 = s0+float32(a[12]*b[12]), t0+float32(a[12]*c[12])
		s1, t1 = s1+float32(a[13]*b[13]), t1+float32(a[13]*c[13])
		s2, t2 = s2+float32(a[14]*b[14]), t2+float32(a[14]*c[14])
		s3, t3 = s3+float32(a[15]*b[15]), t3+float32(a[15]*c[15])
	}
	var s, t float64 // the last products, too few for their errors to cancel, and the total
	for ; i < len(x); i++ {
		s += float64(x[i]) * float64(u[i])
		t += float64(x[i]) * float64(w[i])
	}
	s += (float64(s0) + float64(s1)) + (float64(s2) + float64(s3))
	t += (float64(t0) + float64(t1)) + (float64(t2) + float64(t3))
	return float32(s), float32(t)
}
