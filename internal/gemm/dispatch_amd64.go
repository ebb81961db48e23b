//go:build !purego

package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{
	isa.AVX2:   {rows: 6, cols: 16, gemm: gemmAVX2_6x16, copy: copyAVX2, transpose: transposeAVX2, lanes: 8, fma: fmaAVX2},
	isa.AVX512: {rows: 12, cols: 32, gemm: gemmAVX512_12x32, copy: copyAVX512, transpose: transposeAVX512, lanes: 16, fma: fmaAVX512},
}
