package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

// kernel is the assembly of an instruction set. The Go loops that its
// functions stand for are in the comments of kernel_amd64.go.
type kernel struct {
	rows, cols int // of C in registers
	// gemm multiplies panels of A with a panel of B, [k, cols], which it packs
	// first if src is not nil.
	gemm func(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels, cols int, add bool,
		src *float32, lds int, next *uintptr)
	// fma runs n times rows·cols fused multiply-adds, for Peak.
	fma func(n int)

	// copy copies columns of k rows into panels.
	copy func(dst, src *float32, lds, k, cols, ldd, panels, step int)
	// transpose packs lanes rows as columns of a panel of B; k is a multiple
	// of 4.
	transpose func(dst, src *float32, lds, k int)
	lanes     int

	// dot multiplies up to dotRows rows of x with groups of four rows of W.
	dot     func(y, x, w *float32, ldy, k, rows, groups int)
	dotRows int
	dotMost int // rows up to which that is faster than to pack W
}

// best is the kernel that products are made for, or nil.
var best = kernels[isa.Best]
