package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

// kernel is the assembly of an instruction set. The Go loops that its
// functions stand for are in the comments of kernel_amd64.go.
type kernel struct {
	rows, cols int // of C in registers

	// gemm multiplies panels of A with a panel of B, [k, cols].
	gemm func(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels, cols int, add bool,
		next *float32, ldn, nextRows, nextLines int)
	// copy copies up to cols columns of a few rows.
	copy func(dst, src *float32, ldd, lds, rows, cols int)
	// transpose packs lanes rows as columns of a panel of B; k is a multiple
	// of 4.
	transpose func(dst, src *float32, lds, k int)
	lanes     int
	// fma runs n times rows·cols fused multiply-adds, for Peak.
	fma func(n int)
}

// best is the kernel that products are made for, or nil.
var best = kernels[isa.Best]
