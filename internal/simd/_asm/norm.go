package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// norm writes the kernels of RMSNorm, and of sums of rows.
func norm(s isa) {
	{
		k := function(s, "normalize", "func(y, x, w *float32, n int, r float32)",
			"for i := range n { y[i] = x[i] * r * w[i] }")
		y, x, w, n := pointer("y"), pointer("x"), pointer("w"), pointer("n")
		r := k.argument("r")
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				v, u := k.load(at(x, i), masked), k.load(at(w, i), masked)
				VMULPS(r, v, v)
				VMULPS(u, v, v)
				k.store(v, at(y, i), masked)
			}
		})
		end()
	}
	{
		k := function(s, "normalizeBackward", "func(dx, dy, x, w *float32, n int, r, c float32)",
			"for i := range n { dx[i] += r * (w[i]*dy[i] - c*(r*x[i])) }")
		dx, dy, x, w, n := pointer("dx"), pointer("dy"), pointer("x"), pointer("w"), pointer("n")
		r, c := k.argument("r"), k.argument("c")
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				prefetch(PREFETCHT0, at, dx, i, 1024)
				v, u, d, sum := k.load(at(x, i), masked), k.load(at(w, i), masked), k.load(at(dy, i), masked), k.load(at(dx, i), masked)
				VMULPS(r, v, v)
				VMULPS(u, d, d)
				VFNMADD231PS(v, c, d)
				VFMADD231PS(d, r, sum)
				k.store(sum, at(dx, i), masked)
			}
		})
		end()
	}
	// sums of float64: those of the i-th vector of float32
	sums := func(k *kernel, at func(Register, int) Mem, sum Register, i int) (low, high Mem) {
		m := at(sum, i)
		m.Scale, m.Disp = 2, 2*m.Disp
		return m, m.Offset(4 * k.lanes)
	}
	{
		k := function(s, "addWide", "func(sum *float64, x *float32, n int)",
			"for i := range n { sum[i] += float64(x[i]) }")
		sum, x, n := pointer("sum"), pointer("x"), pointer("n")
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				low, high := k.widened(x, at, i, masked)
				slow, shigh := sums(k, at, sum, i)
				VADDPD(slow, low, low)
				VADDPD(shigh, high, high)
				VMOVUPD(low, slow)
				VMOVUPD(high, shigh)
			}
		})
		end()
	}
	{
		k := function(s, "addProducts", "func(sum *float64, y, x *float32, n int, r float32)",
			"for i := range n { sum[i] += float64(y[i]) * float64(x[i]*r) }")
		sum, y, x, n := pointer("sum"), pointer("y"), pointer("x"), pointer("n")
		r := k.argument("r")
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				v := k.load(at(x, i), masked)
				VMULPS(r, v, v)
				low, high := k.widen(v)
				ylow, yhigh := k.widened(y, at, i, masked)
				slow, shigh := sums(k, at, sum, i)
				VFMADD213PD(slow, ylow, low)
				VFMADD213PD(shigh, yhigh, high)
				VMOVUPD(low, slow)
				VMOVUPD(high, shigh)
			}
		})
		end()
	}
}
