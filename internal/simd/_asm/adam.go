package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// adam writes the kernel of AdamW, and one that does nothing but read and write
// what it does.
func adam(s isa) {
	{
		k := function(s, "adamW", "func(p, grad, m, v *float32, n int, f *float32, zero bool)",
			"for i := range n { d := grad[i]*f[0]; m[i] = f[1]*m[i] + f[2]*d; v[i] = f[3]*v[i] + f[4]*(d*d); "+
				"p[i] -= f[5]*p[i] + f[6]*m[i]/(sqrt(v[i])*f[7]+f[8]); if zero { grad[i] = 0 } }")
		p, g, m, v, n, f := pointer("p"), pointer("grad"), pointer("m"), pointer("v"), pointer("n"), pointer("f")
		zero := Load(Param("zero"), GP8())
		// subnormal is zero, until the end
		saved := AllocLocal(8)
		mxcsr := GP32()
		STMXCSR(saved)
		MOVL(saved, mxcsr)
		ORL(U32(1<<15|1<<6), mxcsr)
		MOVL(mxcsr, saved.Offset(4))
		LDMXCSR(saved.Offset(4))
		// in the order of the fields of AdamW
		var factors [9]VecVirtual
		for i := range factors {
			factors[i] = k.vec()
			VBROADCASTSS(Mem{Base: f, Disp: 4 * i}, factors[i])
		}
		gradScale, beta1, rest1, beta2, rest2 := factors[0], factors[1], factors[2], factors[3], factors[4]
		decay, step, root, eps := factors[5], factors[6], factors[7], factors[8]
		update := func(loop string, nothing VecVirtual) {
			k.loop = loop
			k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
				for i := range count {
					for _, x := range []Register{p, g, m, v} {
						// the square roots keep the processor from looking ahead itself
						prefetch(PREFETCHT1, at, x, i, 1024)
					}
					d, mi, vi := k.load(at(g, i), masked), k.load(at(m, i), masked), k.load(at(v, i), masked)
					if nothing != nil {
						k.store(nothing, at(g, i), masked)
					}
					VMULPS(gradScale, d, d)
					t := k.vec()
					VMULPS(rest1, d, t)
					VFMADD213PS(t, beta1, mi)
					k.store(mi, at(m, i), masked)
					VMULPS(d, d, d)
					VMULPS(rest2, d, d)
					VFMADD213PS(d, beta2, vi)
					k.store(vi, at(v, i), masked)
					VSQRTPS(vi, vi)
					VFMADD213PS(eps, root, vi)
					VMULPS(step, mi, mi)
					VDIVPS(vi, mi, mi)
					w := k.load(at(p, i), masked)
					VFMADD231PS(w, decay, mi)
					VSUBPS(mi, w, w)
					k.store(w, at(p, i), masked)
				}
			})
		}
		TESTB(zero, zero)
		JNZ(LabelRef("zero"))
		update("keep", nil)
		JMP(LabelRef("end"))
		Label("zero")
		update("clear", k.zero())
		Label("end")
		LDMXCSR(saved)
		end()
	}
	{
		k := function(s, "adamTraffic", "func(p, grad, m, v *float32, n int)",
			"for i := range n { p[i] += grad[i]; m[i] += grad[i]; v[i] += grad[i] }")
		p, g, m, v, n := pointer("p"), pointer("grad"), pointer("m"), pointer("v"), pointer("n")
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				d := k.load(at(g, i), masked)
				for _, x := range []Register{p, m, v} {
					w := k.load(at(x, i), masked)
					VADDPS(d, w, w)
					k.store(w, at(x, i), masked)
				}
			}
		})
		end()
	}
}
