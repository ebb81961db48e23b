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
	ahead, together := 4096, 1 // vectors of which e^x is computed together
	if !s.wide() {
		ahead, together = 16384, 4
	}
	// each calls body for vectors z of h1, of which d is 1 + e^(-z).
	each := func(k *kernel, n, h1 Register, others []Register, body func(at func(Register) Mem, z, d, one VecVirtual, masked bool)) {
		e, zero := k.exp().normals(), k.zero
		if k.wide() {
			v := k.zero()
			zero = func() VecVirtual { return v }
		}
		one := k.vec()
		VBROADCASTSS(constantMem(1), one)
		k.walk(n, max(2, together), func(at func(Register, int) Mem, count int, masked bool) {
			for i := 0; i < count; i += together {
				d, z := make([]VecVirtual, min(together, count)), make([]VecVirtual, min(together, count))
				zero := zero()
				for j := range d {
					for _, x := range append([]Register{h1}, others...) {
						prefetch(PREFETCHT0, at, x, i+j, ahead)
					}
					z[j], d[j] = k.load(at(h1, i+j), masked), k.vec()
					VSUBPS(z[j], zero, d[j])
				}
				e.of(d...)
				for j, d := range d {
					if together > 1 { // there was no register for it
						z[j] = k.load(at(h1, i+j), masked)
					}
					VADDPS(one, d, d)
					body(func(p Register) Mem { return at(p, i+j) }, z[j], d, one, masked)
				}
			}
		})
	}
	{
		k := function(s, "swiglu", "func(out, h1, h3 *float32, n int)",
			"for i := range n { out[i] = h1[i] / (1 + exp(-h1[i])) * h3[i] }")
		out, h1, h3, n := pointer("out"), pointer("h1"), pointer("h3"), pointer("n")
		each(k, n, h1, []Register{h3}, func(at func(Register) Mem, z, d, _ VecVirtual, masked bool) {
			VDIVPS(d, z, z)
			up := k.load(at(h3), masked)
			VMULPS(up, z, z)
			k.store(z, at(out), masked)
		})
		end()
	}
	{
		k := function(s, "swigluBackward", "func(dh1, dh3, dout, h1, h3 *float32, n int)",
			"for i := range n { z, up, s := h1[i], h3[i], 1/(1+exp(-h1[i])); dh3[i] = dout[i]*z*s; dh1[i] = dout[i]*up*s*(1+z*(1-s)) }")
		dh1, dh3, dout, h1, h3, n := pointer("dh1"), pointer("dh3"), pointer("dout"), pointer("h1"), pointer("h3"), pointer("n")
		each(k, n, h1, []Register{h3, dout}, func(at func(Register) Mem, z, d, one VecVirtual, masked bool) {
			sigma := k.vec()
			VDIVPS(d, one, sigma)
			VSUBPS(sigma, one, d)
			VFMADD213PS(one, z, d) // 1 + z·(1 − σ)
			dy := k.load(at(dout), masked)
			up := k.load(at(h3), masked)
			VMULPS(dy, z, z)
			VMULPS(sigma, z, z)
			k.store(z, at(dh3), masked)
			VMULPS(up, dy, dy)
			VMULPS(sigma, dy, dy)
			VMULPS(d, dy, dy)
			k.store(dy, at(dh1), masked)
		})
		end()
	}
}
