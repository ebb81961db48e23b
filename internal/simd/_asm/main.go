// Command _asm writes the AVX2 and AVX-512 kernels of package simd and their
// stubs: go generate, in that package.
package main

import (
	. "github.com/mmcloughlin/avo/build"
)

func main() {
	ConstraintExpr("amd64,!purego")
	for _, s := range []isa{avx2, avx512} {
		exp(s)
		reductions(s)
		linear(s)
		norm(s)
		swiglu(s)
		rope(s)
		rows(s)
		copies(s)
		softmax(s)
		adam(s)
	}
	Generate()
}
