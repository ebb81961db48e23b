//go:build !purego

package peak

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{
	isa.Generic: {goLanes, fmaGo, readGo, updateGo},
	isa.AVX2:    {12 * 8, fmaAVX2, readVector, updateVector},
	isa.AVX512:  {24 * 16, fmaAVX512, readVector, updateVector},
}

// The AVX2 loops are as fast as the memory, so AVX-512 has none of its own.

func readVector(a []float32) float32 {
	if len(a) < blockFloats {
		return 0
	}
	return readAVX2(&a[0], len(a)/blockFloats)
}

func updateVector(p, g, m, v []float32) {
	n := len(p) / blockFloats
	if n == 0 {
		return
	}
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	updateAVX2(&p[0], &g[0], &m[0], &v[0], n)
}

// fmaAVX2 is
//
//	for range n {
//		for i := range 12 * 8 {
//			acc[i] += x * y // rounded once
//		}
//	}
//
//go:noescape
func fmaAVX2(acc *[most]float32, x, y float32, n int)

// fmaAVX512 is
//
//	for range n {
//		for i := range 24 * 16 {
//			acc[i] += x * y // rounded once
//		}
//	}
//
//go:noescape
func fmaAVX512(acc *[most]float32, x, y float32, n int)

// readAVX2 is, with the sums in another order,
//
//	for _, v := range a[:64*blocks] {
//		sum += v
//	}
//
//go:noescape
func readAVX2(a *float32, blocks int) (sum float32)

// updateAVX2 is
//
//	for i, x := range grad[:64*blocks] {
//		p[i], m[i], v[i] = p[i]+x, m[i]+x, v[i]+x
//	}
//
//go:noescape
func updateAVX2(p, grad, m, v *float32, blocks int)
