package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// expCode is e^x of a vector.
type expCode struct {
	*kernel
	least, most, log2e, ln2hi, ln2lo Op
	poly                             []Op // highest degree first
	bias                             Op   // AVX2
}

func (k *kernel) exp() expCode {
	e := expCode{
		kernel: k,
		least:  k.constant(-104),
		most:   k.constant(89),
		log2e:  k.constant(1.44269504088896341),
		ln2hi:  k.constant(0.693359375),
		ln2lo:  k.constant(-2.12194440e-4),
	}
	for _, c := range []float32{0.0013820735, 0.00836867746, 0.0416682661, 0.166665211, 0.49999994, 1} {
		e.poly = append(e.poly, k.constant(c))
	}
	if !k.wide() {
		e.bias = constantMem(math.Float32frombits(127)) // the integer
	}
	return e
}

// of replaces x by e^x. See Exp for how.
func (e expCode) of(x VecVirtual) {
	// NaN stays: MAX and MIN return their last operand, the first here
	limit := func(op func(...Op), by Op) {
		if v, ok := by.(VecVirtual); ok {
			op(x, v, x)
			return
		}
		v := e.vec()
		VMOVUPS(by, v)
		op(x, v, x)
	}
	limit(VMAXPS, e.least)
	limit(VMINPS, e.most)
	n := e.vec()
	VMULPS(e.log2e, x, n)
	if e.wide() {
		VRNDSCALEPS(Imm(0), n, n)
	} else {
		VROUNDPS(Imm(0), n, n)
	}
	VFNMADD231PS(e.ln2hi, n, x)
	VFNMADD231PS(e.ln2lo, n, x)
	p := e.vec()
	VMOVAPS(e.poly[0], p)
	for _, c := range e.poly[1:] {
		VFMADD213PS(c, x, p)
	}
	VFMADD213PS(e.poly[len(e.poly)-1], x, p) // 1 again
	if e.wide() {
		VSCALEFPS(n, p, x)
		return
	}
	// 2^n in two factors: n reaches 128 and -150, beyond one float32's exponent
	VCVTPS2DQ(n, n)
	h := e.vec()
	VPSRAD(Imm(1), n, h)
	VPSUBD(h, n, n)
	for _, part := range []VecVirtual{h, n} {
		VPADDD(e.bias, part, part)
		VPSLLD(Imm(23), part, part)
		VMULPS(part, p, p)
	}
	VMOVAPS(p, x)
}

// sumInFours adds vectors to a wideSum, four at a time.
func sumInFours(sum wideSum, v []VecVirtual) {
	for len(v) > 1 {
		for i := range v[:len(v)/2] {
			VADDPS(v[i+len(v)/2], v[i], v[i])
		}
		v = v[:len(v)/2]
	}
	sum.add(v[0])
}

// scaled replaces n elements x by y = e^(x·scale − m), and adds them to sum.
func (e expCode) scaled(y, x, n Register, scale, m VecVirtual, sum wideSum) {
	e.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
		var v []VecVirtual
		for i := range count {
			v = append(v, e.load(at(x, i), masked))
			VFMSUB213PS(m, scale, v[i])
			e.of(v[i])
		}
		for i := range count {
			e.store(v[i], at(y, i), masked)
			e.clip(v[i], masked)
		}
		sumInFours(sum, v)
	})
}

// exp writes the kernels of e^x.
func exp(s isa) {
	{
		k := function(s, "exp", "func(y, x *float32, n int, scale, m float32) (sum float64)",
			"for i := range n { y[i] = exp(x[i]*scale - m); sum += float64(y[i]) }")
		y, x, n := pointer("y"), pointer("x"), pointer("n")
		scale, m := k.argument("scale"), k.argument("m")
		sum := k.wideSum()
		k.exp().scaled(y, x, n, scale, m, sum)
		sum.ret()
	}
	{
		k := function(s, "sumExp", "func(x *float32, n int, m float32) (sum float64)",
			"for i := range n { sum += float64(exp(x[i] - m)) }")
		x, n := pointer("x"), pointer("n")
		m := k.argument("m")
		e, sum := k.exp(), k.wideSum()
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			var v []VecVirtual
			for i := range count {
				prefetch(PREFETCHT0, at, x, i, 16384)
				v = append(v, k.load(at(x, i), masked))
				VSUBPS(m, v[i], v[i])
				e.of(v[i])
				k.clip(v[i], masked)
			}
			sumInFours(sum, v)
		})
		sum.ret()
	}
	{
		k := function(s, "scaledExp", "func(y, x *float32, n int, m, a float32) (sum float64)",
			"for i := range n { y[i] = a * exp(x[i] - m); sum += float64(y[i]) }")
		y, x, n := pointer("y"), pointer("x"), pointer("n")
		m, a := k.argument("m"), k.argument("a")
		e, sum := k.exp(), k.wideSum()
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			var v []VecVirtual
			for i := range count {
				prefetch(PREFETCHT0, at, x, i, 2048)
				v = append(v, k.load(at(x, i), masked))
				VSUBPS(m, v[i], v[i])
				e.of(v[i])
				VMULPS(a, v[i], v[i])
			}
			for i := range count {
				k.store(v[i], at(y, i), masked)
				k.clip(v[i], masked)
				sum.add(v[i])
			}
		})
		sum.ret()
	}
}
