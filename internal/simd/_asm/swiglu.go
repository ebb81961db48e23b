package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// swiglu writes the kernels of SwiGLU.
func swiglu(s isa) {
	// It is much to compute for what is read: the processor does not look far
	// enough ahead to have it come from the third cache in time.
	const ahead = 4096
	// onePlusExp is 1 + e^(-z).
	onePlusExp := func(e expCode, z, zero VecVirtual, one Op) VecVirtual {
		d := e.vec()
		VSUBPS(z, zero, d)
		e.of(d)
		VADDPS(one, d, d)
		return d
	}
	{
		k := function(s, "swiglu", "func(out, h1, h3 *float32, n int)",
			"for i := range n { out[i] = h1[i] / (1 + exp(-h1[i])) * h3[i] }")
		out, h1, h3, n := pointer("out"), pointer("h1"), pointer("h3"), pointer("n")
		e, zero, one := k.exp(), k.zero(), k.constant(1)
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				prefetch(PREFETCHT0, at, h1, i, ahead)
				prefetch(PREFETCHT0, at, h3, i, ahead)
				z := k.load(at(h1, i), masked)
				d := onePlusExp(e, z, zero, one)
				VDIVPS(d, z, z)
				up := k.load(at(h3, i), masked)
				VMULPS(up, z, z)
				k.store(z, at(out, i), masked)
			}
		})
		end()
	}
	{
		k := function(s, "swigluBackward", "func(dh1, dh3, dout, h1, h3 *float32, n int)",
			"for i := range n { z, up, s := h1[i], h3[i], 1/(1+exp(-h1[i])); dh3[i] = dout[i]*z*s; dh1[i] = dout[i]*up*s*(1+z*(1-s)) }")
		dh1, dh3, dout, h1, h3, n := pointer("dh1"), pointer("dh3"), pointer("dout"), pointer("h1"), pointer("h3"), pointer("n")
		e, zero, one := k.exp(), k.zero(), k.vec()
		VBROADCASTSS(constantMem(1), one)
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				for _, x := range []Register{h1, h3, dout} {
					prefetch(PREFETCHT0, at, x, i, ahead)
				}
				z := k.load(at(h1, i), masked)
				d := onePlusExp(e, z, zero, one)
				sigma := k.vec()
				VDIVPS(d, one, sigma)
				VSUBPS(sigma, one, d)
				VFMADD213PS(one, z, d) // 1 + z·(1 − σ)
				dy := k.load(at(dout, i), masked)
				up := k.load(at(h3, i), masked)
				VMULPS(dy, z, z)
				VMULPS(sigma, z, z)
				k.store(z, at(dh3, i), masked)
				VMULPS(up, dy, dy)
				VMULPS(sigma, dy, dy)
				VMULPS(d, dy, dy)
				k.store(dy, at(dh1, i), masked)
			}
		})
		end()
	}
}
