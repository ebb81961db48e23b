//go:build !purego

package gemm

// gemmNEON_4x24 multiplies panels of A, rows each, with a panel of B:
//
//	for i := range panels * rows { // rows ≤ 4
//		a := a[i/rows*stepA+i%rows*lda:]
//		for j := range 24 {
//			add := add
//			for k0 := 0; k0 < k; k0 += chunk {
//				var s float32
//				for l := k0; l < min(k, k0+chunk); l++ {
//					s = fma(a[l*ka], b[l*24+j], s)
//				}
//				if add {
//					s += c[i*ldc+j]
//				}
//				c[i*ldc+j] = s
//				add = true
//			}
//		}
//	}
//
//go:noescape
func gemmNEON_4x24(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels int, add bool)

// transposeNEON_24 packs 4 rows as columns:
//
//	for l := range k { // a multiple of 4
//		for j := range 4 {
//			dst[l*24+j] = src[j*lds+l]
//		}
//	}
//
//go:noescape
func transposeNEON_24(dst, src *float32, lds, k int)

// dotNEON_1x4 multiplies x [k] with groups of four rows of W [, k]:
//
//	for j := range 4 * groups {
//		var s [8]float32 // the last k%8 products go to s[0]
//		for l := range k {
//			s[l%8] = fma(x[l], w[j*k+l], s[l%8])
//		}
//		y[j] = sum(s) // by halves or pairs
//	}
//
//go:noescape
func dotNEON_1x4(y, x, w *float32, k, groups int)
