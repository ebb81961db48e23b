package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// linear writes the kernels of products and sums of elements.
func linear(s isa) {
	{
		k := function(s, "axpy", "func(y *float32, a float32, x *float32, n int)",
			"for i := range n { y[i] += a * x[i] }")
		y, x, n := pointer("y"), pointer("x"), pointer("n")
		a := k.argument("a")
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				v, w := k.load(at(x, i), masked), k.load(at(y, i), masked)
				VFMADD231PS(v, a, w)
				k.store(w, at(y, i), masked)
			}
		})
		end()
	}
	{
		k := function(s, "scale", "func(x *float32, n int, a float32)",
			"for i := range n { x[i] *= a }")
		x, n := pointer("x"), pointer("n")
		a := k.argument("a")
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				v := k.load(at(x, i), masked)
				VMULPS(a, v, v)
				k.store(v, at(x, i), masked)
			}
		})
		end()
	}
	{
		k := function(s, "add", "func(out, a, b *float32, n int)",
			"for i := range n { out[i] = a[i] + b[i] }")
		out, a, b, n := pointer("out"), pointer("a"), pointer("b"), pointer("n")
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				v, w := k.load(at(a, i), masked), k.load(at(b, i), masked)
				VADDPS(w, v, v)
				k.store(v, at(out, i), masked)
			}
		})
		end()
	}
	{
		k := function(s, "clear", "func(x *float32, n int)",
			"for i := range n { x[i] = 0 }, n > 0 in whole blocks of 64, x at a multiple of 64 bytes; past the caches")
		x, n, v := pointer("x"), pointer("n"), k.zero()
		const block = 64
		Label("block")
		for i := range block / k.lanes {
			VMOVNTPS(v, Mem{Base: x, Disp: 4 * k.lanes * i})
		}
		ADDQ(I32(4*block), x)
		SUBQ(Imm(block), n)
		JNZ(LabelRef("block"))
		SFENCE()
		end()
	}
}
