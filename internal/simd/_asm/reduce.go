package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// reductions writes Max, SumSquares, Dot and Dot3.
func reductions(s isa) {
	{
		k := function(s, "max", "func(x *float32, n int) (m float32)",
			"m = -Inf; for i := range n { if x[i] > m { m = x[i] } }")
		x, n := pointer("x"), pointer("n")
		Store(k.maxOf(x, n), ReturnIndex(0))
		end()
	}
	{
		k := function(s, "sumSquares", "func(x *float32, n int) (sum float64)",
			"for i := range n { sum += float64(x[i]) * float64(x[i]) }")
		x, n := pointer("x"), pointer("n")
		// each vector in two halves, of float64
		var sums [8]VecVirtual
		for i := range sums {
			sums[i] = k.zero()
		}
		k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				prefetch(PREFETCHT1, at, x, i, 8192) // the norm of a gradient comes from memory
				low, high := k.widened(x, at, i, masked)
				VFMADD231PD(low, low, sums[2*i])
				VFMADD231PD(high, high, sums[2*i+1])
			}
		})
		k.fold(sums[:]).ret()
	}
	if !s.wide() {
		// A core has more reads under way where they are in several pages.
		k := function(s, "sumSquaresApart", "func(x *float32, n int) (sum float64)",
			"for i := range 8*n { sum += float64(x[i]) * float64(x[i]) }, n > 0 a multiple of 16: eight parts side by side")
		p, n := [8]Register{pointer("x")}, pointer("n")
		for i := range p[1:] {
			p[i+1] = GP64()
			LEAQ(Mem{Base: p[i], Index: n, Scale: 4}, p[i+1])
		}
		var sums [4]VecVirtual
		for i := range sums {
			sums[i] = k.zero()
		}
		Label("line")
		for _, p := range p {
			for i := range 2 {
				low, high := k.vec(), k.vec()
				VCVTPS2PD(Mem{Base: p, Disp: 32 * i}, low)
				VCVTPS2PD(Mem{Base: p, Disp: 32*i + 16}, high)
				VFMADD231PD(low, low, sums[2*i])
				VFMADD231PD(high, high, sums[2*i+1])
			}
			ADDQ(Imm(64), p)
		}
		SUBQ(Imm(16), n)
		JNZ(LabelRef("line"))
		k.fold(sums[:]).ret()
	}
	{
		k := function(s, "dot", "func(x, y *float32, n int) (sum float64)",
			"for i := range n { sum += float64(x[i] * y[i]) }")
		x, y, n := pointer("x"), pointer("y"), pointer("n")
		k.dotOf(x, y, n).ret()
	}
	{
		k := function(s, "dot3", "func(x, y, z *float32, n int) (sum float64)",
			"for i := range n { sum += float64(x[i]*y[i]) * float64(z[i]) }")
		x, y, z, n := pointer("x"), pointer("y"), pointer("z"), pointer("n")
		var sums [4]VecVirtual
		for i := range sums {
			sums[i] = k.zero()
		}
		k.walk(n, 2, func(at func(Register, int) Mem, count int, masked bool) {
			for i := range count {
				prefetch(PREFETCHT0, at, y, i, 1024)
				prefetch(PREFETCHT0, at, z, i, 1024)
				v, w := k.load(at(x, i), masked), k.load(at(y, i), masked)
				VMULPS(w, v, v)
				low, high := k.widen(v)
				zlow, zhigh := k.widened(z, at, i, masked)
				VFMADD231PD(zlow, low, sums[2*i])
				VFMADD231PD(zhigh, high, sums[2*i+1])
			}
		})
		k.fold(sums[:]).ret()
	}
}

// maxOf is the largest of n elements.
func (k *kernel) maxOf(x, n Register) Register {
	const many = 4
	var most [many]VecVirtual
	for i := range most {
		most[i] = k.vec()
		VBROADCASTSS(minusInf(), most[i])
	}
	k.walk(n, many, func(at func(Register, int) Mem, count int, masked bool) {
		for i := range count {
			k.maxWith(at(x, i), masked, most[i])
		}
	})
	VMAXPS(most[1], most[0], most[0])
	VMAXPS(most[3], most[2], most[2])
	VMAXPS(most[2], most[0], most[0])
	m := most[0]
	if k.wide() {
		y := YMM()
		VEXTRACTF64X4(Imm(1), m, y)
		VMAXPS(y, m.AsY(), m.AsY())
	}
	t := k.upper(m.AsY())
	VMAXPS(t, m.AsX(), m.AsX())
	VPERMILPS(Imm(0b1110), m.AsX(), t)
	VMAXPS(t, m.AsX(), m.AsX())
	VPERMILPS(Imm(1), m.AsX(), t)
	VMAXSS(t, m.AsX(), m.AsX())
	return m.AsX()
}

// maxWith makes m the larger of itself and what is in memory, lane by lane. MAX
// returns its last operand, the first here, if one is NaN.
func (k *kernel) maxWith(x Mem, masked bool, m VecVirtual) {
	v := k.load(x, masked)
	switch {
	case !masked:
		VMAXPS(m, v, m)
	case k.wide():
		VMAXPS(m, v, k.mask, m)
	default: // lanes that are not there become -Inf
		inf := k.vec()
		VBROADCASTSS(minusInf(), inf)
		VBLENDVPS(k.mask, v, inf, v)
		VMAXPS(m, v, m)
	}
}

// dotOf is the sum of n products, four of which are added in float32.
func (k *kernel) dotOf(x, y, n Register) wideSum {
	sum := k.wideSum()
	k.walk(n, 4, func(at func(Register, int) Mem, count int, masked bool) {
		v := make([]VecVirtual, count)
		for i := range v {
			v[i] = k.load(at(x, i), masked)
		}
		sum.add(k.dot4(v, func(i int) Mem { return at(y, i) }, masked))
	})
	return sum
}

// dot4 is the sum of one product or four, lane by lane.
func (k *kernel) dot4(v []VecVirtual, y func(i int) Mem, masked bool) VecVirtual {
	var t [2]VecVirtual
	for i, v := range v {
		w := Op(y(i))
		if masked {
			w = k.load(y(i), true)
		}
		if i < 2 {
			t[i] = k.vec()
			VMULPS(w, v, t[i])
		} else {
			VFMADD231PS(w, v, t[i-2])
		}
	}
	if len(v) > 1 {
		VADDPS(t[1], t[0], t[0])
	}
	return t[0]
}

func minusInf() Mem { return constantMem(float32(math.Inf(-1))) }

// widen is v in float64, in two vectors.
func (k *kernel) widen(v VecVirtual) (low, high VecVirtual) {
	low, high = k.vec(), k.vec()
	upper := k.newHalf()
	VCVTPS2PD(k.half(v), low)
	if k.wide() {
		VEXTRACTF64X4(Imm(1), v, upper)
	} else {
		VEXTRACTF128(Imm(1), v, upper)
	}
	VCVTPS2PD(upper, high)
	return low, high
}

// widened is the i-th vector behind p in float64.
func (k *kernel) widened(p Register, at func(Register, int) Mem, i int, masked bool) (low, high VecVirtual) {
	if masked {
		return k.widen(k.load(at(p, i), true))
	}
	low, high = k.vec(), k.vec()
	m := at(p, i)
	VCVTPS2PD(m, low)
	VCVTPS2PD(m.Offset(2*k.lanes), high)
	return low, high
}

// fold adds sums up to two.
func (k *kernel) fold(sums []VecVirtual) wideSum {
	for len(sums) > 2 {
		half := len(sums) / 2
		for i := range half {
			VADDPD(sums[i+half], sums[i], sums[i])
		}
		sums = sums[:half]
	}
	return wideSum{kernel: k, low: sums[0], high: sums[1]}
}
