//go:build !purego

package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{
	isa.AVX2: {
		tile:  tile{6, 16, gemmAVX2_6x16},
		small: small{6, 16, tile{6, 16, gemmAVX2_6x16}.mul},
		fma:   fmaAVX2, fmas: 12 * 8,
		copy: copyAVX2, transpose: transposeAVX2, lanes: 8,
		dot: dotAVX2_2x4, dotRows: 2, dotMost: 16,
	},
	isa.AVX512: {
		tile:  tile{9, 48, gemmAVX512_9x48}, // 12 loads for 27 multiply-adds, 14x32 has 16 for 28: a higher clock
		small: small{6, 64, smallAVX512_6x64},
		fma:   fmaAVX512, fmas: 24 * 16,
		copy: copyAVX512, transpose: transposeAVX512, lanes: 16,
		dot: dotAVX512_6x4, dotRows: 6, dotMost: 64,
	},
}

const panelCols = 64 // AVX-512 has panels of 64, AVX2 of 16
