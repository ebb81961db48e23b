//go:build !purego

package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{
	isa.AVX2: {
		rows: 6, cols: 16, gemm: gemmAVX2_6x16, fma: fmaAVX2,
		copy: copyAVX2, transpose: transposeAVX2, lanes: 8,
		dot: dotAVX2_2x4, dotRows: 2, dotMost: 16,
	},
	isa.AVX512: {
		rows: 14, cols: 32, gemm: gemmAVX512_14x32, fma: fmaAVX512,
		copy: copyAVX512, transpose: transposeAVX512, lanes: 16,
		dot: dotAVX512_6x4, dotRows: 6, dotMost: 64,
	},
}

const panelCols = 32 // AVX-512 has panels of 32, AVX2 of 16
