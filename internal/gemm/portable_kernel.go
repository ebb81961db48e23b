package gemm

// lanes is the number of rows of A, and of columns of B, in a panel. The nine
// sums of a 3×3 corner and its six factors fill the 15 vector registers that
// Go uses on amd64; 4×4 spills.
const lanes = 3

// unroll is the number of steps of k that the kernel takes at a time.
const unroll = 4

// corner is a 3×3 part of a tile, row-major.
type corner [lanes * lanes]float64

// corner3 adds the product of two panels of equal length, [k, lanes] each, to
// c: c[i,j] += Σk a[k,i]·b[k,j], in the order of k. The length is a multiple of
// unroll·lanes.
func corner3(c *corner, pa, pb []float64) {
	c00, c01, c02 := c[0], c[1], c[2]
	c10, c11, c12 := c[3], c[4], c[5]
	c20, c21, c22 := c[6], c[7], c[8]
	for len(pa) >= unroll*lanes && len(pb) >= unroll*lanes {
		a, b := (*[unroll * lanes]float64)(pa), (*[unroll * lanes]float64)(pb)

		a0, a1, a2 := a[0], a[1], a[2]
		x := b[0]
		c00, c10, c20 = c00+a0*x, c10+a1*x, c20+a2*x
		x = b[1]
		c01, c11, c21 = c01+a0*x, c11+a1*x, c21+a2*x
		x = b[2]
		c02, c12, c22 = c02+a0*x, c12+a1*x, c22+a2*x

		a0, a1, a2 = a[3], a[4], a[5]
		x = b[3]
		c00, c10, c20 = c00+a0*x, c10+a1*x, c20+a2*x
		x = b[4]
		c01, c11, c21 = c01+a0*x, c11+a1*x, c21+a2*x
		x = b[5]
		c02, c12, c22 = c02+a0*x, c12+a1*x, c22+a2*x

		a0, a1, a2 = a[6], a[7], a[8]
		x = b[6]
		c00, c10, c20 = c00+a0*x, c10+a1*x, c20+a2*x
		x = b[7]
		c01, c11, c21 = c01+a0*x, c11+a1*x, c21+a2*x
		x = b[8]
		c02, c12, c22 = c02+a0*x, c12+a1*x, c22+a2*x

		a0, a1, a2 = a[9], a[10], a[11]
		x = b[9]
		c00, c10, c20 = c00+a0*x, c10+a1*x, c20+a2*x
		x = b[10]
		c01, c11, c21 = c01+a0*x, c11+a1*x, c21+a2*x
		x = b[11]
		c02, c12, c22 = c02+a0*x, c12+a1*x, c22+a2*x

		pa, pb = pa[unroll*lanes:], pb[unroll*lanes:]
	}
	*c = corner{c00, c01, c02, c10, c11, c12, c20, c21, c22}
}
