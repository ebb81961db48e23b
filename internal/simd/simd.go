// Package simd holds the vector loops that the operations share: exponentials,
// reductions, sums of scaled rows, and the loops of single operations that
// are too hot for Go.
//
// Each function has a Go loop beside it (goMax beside Max), which is its
// definition; kernel_GOARCH.go picks the assembly that stands for it on a
// processor. A kernel may fuse x*y+z, and may sum in another order, but the
// order depends on the length and the instruction set alone: not on where a
// slice lies in memory, and not on the other elements. Element i of a result
// depends on element i of the arguments alone. NaN and Inf come out where the
// Go loop has them.
//
// Sums are float64. What is added before it is widened is said with the
// function; it is never more than four float32 terms.
package simd

import "github.com/chainrule-go/chainrule/internal/isa"

//go:generate go -C _asm run . -out ../kernel_amd64.s -stubs ../stub_amd64.go -pkg simd

// set is the instruction set in use; tests go through isa.Available.
var set = isa.Best
