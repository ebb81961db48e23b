package gemm

// Few rows of x Wᵀ are dot products: packing W costs more than it saves there.
const (
	portableDots = 4        // rows, without a kernel
	dotX         = 96 << 10 // floats of x that may be read again for each part of W
	dotTile      = 16 << 10 // floats of W in a tile, at least
)

// dotGrid cuts W into tiles of whole rows.
func (p *Product) dotGrid(cores int) {
	p.tm = max(p.m, 1)
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
			if k < 2*dotLanes {
				y = [4]float32{exactDot(x, w0), exactDot(x, w1), exactDot(x, w2), exactDot(x, w3)}
			} else {
				y[0], y[1] = dot2(x, w0, w1)
				y[2], y[3] = dot2(x, w2, w3)
			}
			copy(p.c[r*p.ldc+c:r*p.ldc+c1], y[:])
		}
	}
}

// exactDot sums few products in float64: there are too few for their rounding
// errors to cancel.
func exactDot(x, w []float32) float32 {
	w = w[:len(x)]
	var s float64
	for i, v := range x {
		s += float64(v) * float64(w[i])
	}
	return float32(s)
}

// dotLanes is the number of sums in which dot2 adds the products of one dot.
const dotLanes = 4

// dot2 returns x·u and x·w, equally long. The conversions keep the compiler
// from fusing, for the same bits on all architectures.
func dot2(x, u, w []float32) (xu, xw float32) {
	var s0, s1, s2, s3, t0, t1, t2, t3 float32
	for len(x) >= dotLanes && len(u) >= dotLanes && len(w) >= dotLanes {
		a, b, c := (*[dotLanes]float32)(x), (*[dotLanes]float32)(u), (*[dotLanes]float32)(w)
		v := a[0]
		s0 += float32(v * b[0])
		t0 += float32(v * c[0])
		v = a[1]
		s1 += float32(v * b[1])
		t1 += float32(v * c[1])
		v = a[2]
		s2 += float32(v * b[2])
		t2 += float32(v * c[2])
		v = a[3]
		s3 += float32(v * b[3])
		t3 += float32(v * c[3])
		x, u, w = x[dotLanes:], u[dotLanes:], w[dotLanes:]
	}
	var s, t float64 // the last products, fewer than dotLanes, and the total
	u, w = u[:len(x)], w[:len(x)]
	for i, v := range x {
		s += float64(v) * float64(u[i])
		t += float64(v) * float64(w[i])
	}
	s += (float64(s0) + float64(s1)) + (float64(s2) + float64(s3))
	t += (float64(t0) + float64(t1)) + (float64(t2) + float64(t3))
	return float32(s), float32(t)
}
