//go:build !purego

package peak

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{
	isa.Generic: {goLanes, fmaGo, readGo, updateGo},
	isa.NEON:    {24 * 4, fmaNEON, readVector, updateVector},
}

func readVector(a []float32) float32 {
	if len(a) < blockFloats {
		return 0
	}
	return readNEON(&a[0], len(a)/blockFloats)
}

func updateVector(p, g, m, v []float32) {
	n := len(p) / blockFloats
	if n == 0 {
		return
	}
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	updateNEON(&p[0], &g[0], &m[0], &v[0], n)
}

// fmaNEON is
//
//	for range n {
//		for i := range 24 * 4 {
//			acc[i] += x * y // rounded once
//		}
//	}
//
//go:noescape
func fmaNEON(acc *[most]float32, x, y float32, n int)

// readNEON is, with the sums in another order,
//
//	for _, v := range a[:64*blocks] {
//		sum += v
//	}
//
//go:noescape
func readNEON(a *float32, blocks int) (sum float32)

// updateNEON is
//
//	for i, x := range grad[:64*blocks] {
//		p[i], m[i], v[i] = p[i]+x, m[i]+x, v[i]+x
//	}
//
//go:noescape
func updateNEON(p, grad, m, v *float32, blocks int)
