package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// expCode is e^x of vectors.
type expCode struct {
	*kernel
	least, most, log2e, ln2hi, ln2lo, round Op
	poly                                    []Op // highest degree first
	bias                                    Mem  // AVX2
	small                                   bool // no x is above 89
	normal                                  bool // AVX2: e^x is 0 below, and infinite above what has the exponent of a normal number
}

// normals is e where nothing depends on the very small and the very large, so
// that in AVX2 one factor 2^n is enough.
func (e expCode) normals() expCode {
	if !e.wide() {
		e.normal = true
		e.least, e.round = constantMem(-88), constantMem(3<<22+127)
	}
	return e
}

func (k *kernel) exp() expCode { return k.expWith(k.constant) }

// expOfMany has its constants in memory: with AVX-512, of eight vectors at a time
// leaves them no registers.
func (k *kernel) expOfMany() expCode { return k.expWith(func(v float32) Op { return constantMem(v) }) }

func (k *kernel) expWith(constant func(float32) Op) expCode {
	e := expCode{
		kernel: k,
		least:  constant(-104),
		most:   constant(89),
		log2e:  constant(1.44269504088896341),
		ln2hi:  constant(0.693359375),
		ln2lo:  constant(-2.12194440e-4),
		round:  constant(3 << 22), // adding and subtracting it rounds to an integer
	}
	for _, c := range []float32{0.0013820735, 0.00836867746, 0.0416682661, 0.166665211, 0.49999994, 1} {
		e.poly = append(e.poly, constant(c))
	}
	if !k.wide() {
		e.bias = constantMem(math.Float32frombits(127)) // the integer
	}
	return e
}

// of replaces every x by e^x. See Exp for how. One step after the other for all
// of them: a step takes as long as a few multiply-adds, and a processor does not
// look far enough ahead to find as many for itself.
func (e expCode) of(x ...VecVirtual) {
	if !e.wide() {
		e.avx2(x)
		return
	}
	n, p := make([]VecVirtual, len(x)), make([]VecVirtual, len(x))
	each := func(f func(i int)) {
		for i := range x {
			f(i)
		}
	}
	register := func(c Op) VecVirtual {
		if m, ok := c.(Mem); ok {
			v := e.vec()
			VBROADCASTSS(m, v)
			return v
		}
		return c.(VecVirtual)
	}
	fma := func(op, broadcast func(...Op), c Op, y, z VecVirtual) {
		if _, ok := c.(Mem); ok {
			op = broadcast
		}
		op(c, y, z)
	}
	// NaN stays: MAX and MIN return their last operand, the first here
	least := register(e.least)
	each(func(i int) { VMAXPS(x[i], least, x[i]) })
	if !e.small {
		most := register(e.most)
		each(func(i int) { VMINPS(x[i], most, x[i]) })
	}
	log2e, round := register(e.log2e), register(e.round)
	each(func(i int) { n[i] = e.vec(); VMOVAPS(log2e, n[i]); VFMADD213PS(round, x[i], n[i]) })
	each(func(i int) { VSUBPS(round, n[i], n[i]) })
	each(func(i int) { fma(VFNMADD231PS, VFNMADD231PS_BCST, e.ln2hi, n[i], x[i]) })
	each(func(i int) { fma(VFNMADD231PS, VFNMADD231PS_BCST, e.ln2lo, n[i], x[i]) })
	first := register(e.poly[0])
	each(func(i int) { p[i] = e.vec(); VMOVAPS(first, p[i]) })
	for _, c := range append(e.poly[1:len(e.poly):len(e.poly)], e.poly[len(e.poly)-1]) { // 1 twice
		each(func(i int) { fma(VFMADD213PS, VFMADD213PS_BCST, c, x[i], p[i]) })
	}
	each(func(i int) { VSCALEFPS(n[i], p[i], x[i]) })
}

// avx2 is of in AVX2, for up to four vectors: of sixteen registers it leaves
// three.
func (e expCode) avx2(x []VecVirtual) {
	each := func(f func(i int)) {
		for i := range x {
			f(i)
		}
	}
	load := func(c Op) VecVirtual {
		v := e.vec()
		VMOVUPS(c, v)
		return v
	}
	least := load(e.least)
	each(func(i int) { VMAXPS(x[i], least, x[i]) })
	if !e.small {
		most := load(e.most)
		each(func(i int) { VMINPS(x[i], most, x[i]) })
	}
	n, p, scale := make([]VecVirtual, len(x)), make([]VecVirtual, len(x)), make([]VecVirtual, len(x))
	log2e, round := load(e.log2e), load(e.round)
	each(func(i int) { n[i] = e.vec(); VMOVAPS(log2e, n[i]); VFMADD213PS(round, x[i], n[i]) })
	if e.normal { // the exponent is the last bits of the sum
		each(func(i int) { scale[i] = e.vec(); VPSLLD(Imm(23), n[i], scale[i]) })
	}
	each(func(i int) { VSUBPS(round, n[i], n[i]) })
	for _, c := range []Op{e.ln2hi, e.ln2lo} {
		c := load(c)
		each(func(i int) { VFNMADD231PS(c, n[i], x[i]) })
	}
	first := load(e.poly[0])
	each(func(i int) { p[i] = e.vec(); VMOVAPS(first, p[i]) })
	for _, c := range append(e.poly[1:len(e.poly):len(e.poly)], e.poly[len(e.poly)-1]) { // 1 twice
		c := load(c)
		each(func(i int) { VFMADD213PS(c, x[i], p[i]) })
	}
	if e.normal {
		each(func(i int) { VMULPS(scale[i], p[i], x[i]) })
		return
	}
	// 2^n in two factors: n reaches 128 and -150, beyond one float32's exponent
	each(func(i int) { VCVTPS2DQ(n[i], n[i]) })
	each(func(i int) {
		VPSRAD(Imm(1), n[i], x[i])
		VPSUBD(x[i], n[i], n[i])
	})
	for _, part := range [][]VecVirtual{x, n} {
		each(func(i int) {
			VPADDD(e.bias, part[i], part[i])
			VPSLLD(Imm(23), part[i], part[i])
		})
	}
	each(func(i int) { VMULPS(p[i], x[i], x[i]) })
	each(func(i int) { VMULPS(n[i], x[i], x[i]) })
}

// sumInFours adds vectors to a wideSum, four at a time.
func sumInFours(sum wideSum, v []VecVirtual) {
	if len(v) > 4 {
		sumInFours(sum, v[:4])
		sumInFours(sum, v[4:])
		return
	}
	for len(v) > 1 {
		for i := range v[:len(v)/2] {
			VADDPS(v[i+len(v)/2], v[i], v[i])
		}
		v = v[:len(v)/2]
	}
	sum.add(v[0])
}

// scaled sets n elements y to e^(x·scale − m), and adds them to sum.
func (e expCode) scaled(y, x, n Register, scale, m source, sum wideSum) {
	many := 4
	if e.wide() {
		many = 8
	}
	e.walk(n, many, func(at func(Register, int) Mem, count int, masked bool) {
		v := e.terms(func(i int) Mem { return at(x, i) }, count, masked, scale, m)
		for i, v := range v {
			e.store(v, at(y, i), masked)
		}
		sumInFours(sum, v)
	})
}

// terms returns count vectors e^(x·scale − m), 0 in the lanes that are masked.
func (e expCode) terms(x func(i int) Mem, count int, masked bool, scale, m source) []VecVirtual {
	v := make([]VecVirtual, count)
	for i := range v {
		v[i] = e.load(x(i), masked)
	}
	by, less := scale(), m()
	for _, v := range v {
		VFMSUB213PS(less, by, v)
	}
	e.of(v...)
	for _, v := range v {
		e.clip(v, masked)
	}
	return v
}

// exp writes the kernels of e^x.
func exp(s isa) {
	{
		k := function(s, "exp", "func(y, x *float32, n int, scale, m float32) (sum float64)",
			"for i := range n { y[i] = exp(x[i]*scale - m); sum += float64(y[i]) }")
		y, x, n := pointer("y"), pointer("x"), pointer("n")
		scale, m := k.source("scale"), k.source("m")
		sum := k.wideSum()
		k.expOfMany().scaled(y, x, n, scale, m, sum)
		sum.ret()
	}
	{
		k := function(s, "sumExp", "func(x *float32, n int, m float32) (sum float64)",
			"for i := range n { sum += float64(exp(x[i] - m)) }")
		x, n := pointer("x"), pointer("n")
		m := k.source("m")
		e, sum := k.exp().normals(), k.wideSum()
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			var v []VecVirtual
			m := m()
			for i := range count {
				prefetch(PREFETCHT1, at, x, i, 16384) // of the next block
				v = append(v, k.load(at(x, i), masked))
				VSUBPS(m, v[i], v[i])
			}
			e.of(v...)
			for i := range count {
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
		m, a := k.source("m"), k.source("a")
		e, sum := k.exp(), k.wideSum()
		many := 4
		if k.wide() {
			many = 2
		}
		k.walk(n, many, func(at func(Register, int) Mem, count int, masked bool) {
			var v []VecVirtual
			m := m()
			for i := range count {
				prefetch(PREFETCHT0, at, x, i, 2048)
				v = append(v, k.load(at(x, i), masked))
				VSUBPS(m, v[i], v[i])
			}
			e.of(v...)
			a := a()
			for i := range count {
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
