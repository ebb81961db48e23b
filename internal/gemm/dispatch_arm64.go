//go:build !purego

package gemm

import (
	"unsafe"

	"github.com/chainrule-go/chainrule/internal/isa"
)

var kernels = map[isa.Set]*kernel{
	isa.NEON: {
		tile:    tile{4, neonCols, gemmNEON},
		small:   small{4, neonCols, tile{4, neonCols, gemmNEON}.mul},
		packedA: 256 << 10,
		copy:    copyNEON, lanes: 4,
		transpose: func(dst, src *float32, lds, k, _ int) { transposeNEON_24(dst, src, lds, k) },
		dot:       dotNEON, dotRows: 1, dotMost: 4,
	},
}

const neonCols = 24

const panelStep = neonCols

// mul is the kernel of Panels made of that of products: ldb is t.cols,
// and nothing is fetched.
func (t tile) mul(c, a, b *float32, ldc, lda, ka, _, k, rows, cols int, add bool, _ *uintptr) {
	r := 0
	for _, g := range panels(rows, t.rows) {
		if g.n > 0 {
			t.gemm(offset(c, r*ldc), offset(a, r*lda), b, ldc, lda, ka, g.rows*lda, k, k, g.rows, g.n, cols, add, nil, 0, nil, &nothing.base)
		}
		r += g.n * g.rows
	}
}

// gemmNEON has what gemmNEON_4x24 has not: fewer columns, by a copy of them,
// and packing. It leaves fetching to the processor.
func gemmNEON(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels, cols int, add bool,
	src *float32, lds int, to *float32, next *uintptr) {
	if src != nil {
		copyNEON(b, src, lds, k, neonCols, neonCols, 1, 0)
	}
	if to != nil {
		for p := range panels {
			copyNEON(offset(to, p*rows*k), offset(a, p*stepA), ka, k, rows, rows, 1, 0)
		}
		a, lda, ka, stepA = to, 1, rows, rows*k
	}
	if cols == neonCols {
		gemmNEON_4x24(c, a, b, ldc, lda, ka, stepA, k, chunk, rows, panels, add)
		return
	}
	var t [4 * neonCols]float32
	for p := range panels {
		c := unsafe.Slice(offset(c, p*rows*ldc), (rows-1)*ldc+cols)
		for i := range rows {
			copy(t[i*neonCols:], c[i*ldc:][:cols])
		}
		gemmNEON_4x24(&t[0], offset(a, p*stepA), b, neonCols, lda, ka, stepA, k, chunk, rows, 1, add)
		for i := range rows {
			copy(c[i*ldc:][:cols], t[i*neonCols:])
		}
	}
}

func copyNEON(dst, src *float32, lds, k, cols, ldd, panels, step int) {
	for l := range k {
		for p := range panels {
			copy(unsafe.Slice(offset(dst, p*step+l*ldd), cols), unsafe.Slice(offset(src, l*lds+p*cols), cols))
		}
	}
}

func dotNEON(y, x, w *float32, _, k, _, groups int) { dotNEON_1x4(y, x, w, k, groups) }

// offset returns a pointer n elements behind p.
func offset(p *float32, n int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(p), 4*n))
}
