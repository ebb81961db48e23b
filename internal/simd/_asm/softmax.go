package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rowBytes is how far apart the rows of scores are.
const rowBytes = 4 * 64

// columns is a matrix of scores, of which as many columns as a vector has lanes
// are worked on at a time. They see so many full rows; each row of a triangle
// behind them is hidden from one column more, and the rest from all.
type columns struct {
	*kernel
	left, full, hidden Register // columns; rows
}

func (k *kernel) columns() columns {
	c := columns{k, pointer("cols"), pointer("past"), GP64()}
	MOVQ(c.left, c.hidden)
	INCQ(c.full)
	return c
}

// each writes body, for a vector of columns, and the end of the kernel. body
// calls next for every pointer: to so many bytes a column.
func (c columns) each(body func(next func(p Register, bytes int))) {
	Label("columns")
	SUBQ(Imm(uint64(c.lanes)), c.hidden)
	body(func(p Register, bytes int) { ADDQ(I32(int32(bytes*c.lanes)), p) })
	ADDQ(Imm(uint64(c.lanes)), c.full)
	SUBQ(Imm(uint64(c.lanes)), c.left)
	JNZ(LabelRef("columns"))
	end()
}

// down calls body to write the code for count rows: many full ones, one, and
// one of the triangle, of which only the lanes of the mask are seen. at gives the
// i-th of these rows of the matrix at p. down returns how far from p they end.
func (c columns) down(loop string, many int, body func(at func(p Register, i int) Mem, count int, masked bool)) Register {
	n, offset := GP64(), GP64()
	MOVQ(c.full, n)
	XORQ(offset, offset)
	at := func(p Register, i int) Mem { return Mem{Base: p, Index: offset, Scale: 1, Disp: i * rowBytes} }
	rows := func(count int, label string) {
		Label(label)
		CMPQ(n, Imm(uint64(count)))
		JLT(LabelRef(label + "end"))
		body(at, count, false)
		ADDQ(I32(int32(count*rowBytes)), offset)
		SUBQ(Imm(uint64(count)), n)
		JMP(LabelRef(label))
		Label(label + "end")
	}
	rows(many, loop+"many")
	rows(1, loop+"one")
	next := c.triangle()
	MOVQ(U32(uint32(c.lanes-1)), n)
	Label(loop + "triangle")
	next()
	body(at, 1, true)
	ADDQ(I32(rowBytes), offset)
	DECQ(n)
	JNZ(LabelRef(loop + "triangle"))
	return offset
}

var triangle Mem

// triangle makes the mask of all lanes; next takes the first one away.
func (k *kernel) triangle() (next func()) {
	if k.wide() {
		bits := GP32()
		MOVL(I32(-1), bits)
		k.mask = K()
		KMOVW(bits, k.mask)
		return func() { KSHIFTLW(Imm(1), k.mask, k.mask) }
	}
	if triangle.Base == nil {
		triangle = GLOBL("triangle", RODATA|NOPTR)
		for i := range 2 * avx2.lanes {
			bits := U32(0)
			if i >= avx2.lanes {
				bits = 0xffffffff
			}
			DATA(4*i, bits)
		}
	}
	at := GP64()
	LEAQ(triangle.Offset(4*avx2.lanes), at)
	k.mask = YMM()
	return func() {
		SUBQ(Imm(4), at)
		VMOVDQU(Mem{Base: at}, k.mask)
	}
}

// hide clears the rows that no column sees, offset bytes behind each pointer.
func (c columns) hide(offset Register, p ...Register) {
	n, zero := GP64(), c.zero()
	MOVQ(c.hidden, n)
	Label("hide")
	TESTQ(n, n)
	JZ(LabelRef("hidden"))
	for _, p := range p {
		VMOVUPS(zero, Mem{Base: p, Index: offset, Scale: 1})
	}
	ADDQ(I32(rowBytes), offset)
	DECQ(n)
	JMP(LabelRef("hide"))
	Label("hidden")
}

// weights replaces count rows of scores by e^(score·scale − m), 0 where they are
// hidden, and returns them.
func (e expCode) weights(at func(i int) Mem, count int, masked bool, scale, m source) []VecVirtual {
	v := e.terms(at, count, masked, scale, m)
	for i, v := range v {
		e.store(v, at(i), false)
	}
	return v
}

// softmax writes the kernels of attention's scores. In columns there is nothing
// to add up across lanes, and all end together.
func softmax(s isa) {
	const many = 4 // rows at a time
	{
		k := function(s, "expCols", "func(x *float32, cols, past int, scale float32, most *float32, sum *float64)",
			"for i := range cols { x := column i, rows 0 to past+i; most[i] = scale*max(x); "+
				"for j := range x { x[j] = exp(x[j]*scale - most[i]); sum[i] += float64(x[j]) }; "+
				"clear(column i, rows past+i+1 to past+cols-1) } // rows are 64 apart")
		x, most, total := pointer("x"), pointer("most"), pointer("sum")
		c, scale, e := k.columns(), k.source("scale"), k.exp().normals()
		e.small = true
		c.each(func(next func(Register, int)) {
			var m [4]VecVirtual
			for i := range m {
				m[i] = k.vec()
				VBROADCASTSS(minusInf(), m[i])
			}
			c.down("max", many, func(at func(Register, int) Mem, count int, masked bool) {
				for i := range count {
					k.maxWith(at(x, i), masked, m[i%len(m)])
				}
			})
			VMAXPS(m[1], m[0], m[0])
			VMAXPS(m[3], m[2], m[2])
			VMAXPS(m[2], m[0], m[0])
			VMULPS(scale(), m[0], m[0])
			VMOVUPS(m[0], Mem{Base: most})
			less := k.kept(m[0], most)
			sum := k.wideSum()
			offset := c.down("exp", many, func(at func(Register, int) Mem, count int, masked bool) {
				sumInFours(sum, e.weights(func(i int) Mem { return at(x, i) }, count, masked, scale, less))
			})
			VMOVUPS(sum.low, Mem{Base: total})
			VMOVUPS(sum.high, Mem{Base: total, Disp: 4 * s.lanes})
			c.hide(offset, x)
			next(x, 4)
			next(most, 4)
			next(total, 8)
		})
	}
	{
		k := function(s, "dSoftmaxCols", "func(p, dp *float32, cols, past int, scale float32, lse, norm *float32)",
			"for i := range cols { p, dp := columns i, rows 0 to past+i; var sum, dot float64; "+
				"for j := range p { p[j] = exp(p[j]*scale - lse[i]); sum += float64(p[j]); dot += float64(p[j]*dp[j]) }; "+
				"norm[i] = float32(1/sum); by := float32(scale/sum); mean := float32(dot/sum*float64(by)); "+
				"for j := range p { dp[j] = p[j] * (dp[j]*by - mean) }; "+
				"clear(columns i, rows past+i+1 to past+cols-1) } // rows are 64 apart")
		p, dp, lse, norm := pointer("p"), pointer("dp"), pointer("lse"), pointer("norm")
		c, scale, e := k.columns(), k.source("scale"), k.exp().normals()
		c.each(func(next func(Register, int)) {
			m := k.vec()
			VMOVUPS(Mem{Base: lse}, m)
			less := k.kept(m, lse)
			sum, dot := k.wideSumApart(), k.wideSumApart()
			c.down("exp", many, func(at func(Register, int) Mem, count int, masked bool) {
				w := e.weights(func(i int) Mem { return at(p, i) }, count, masked, scale, less)
				for i := 0; i < count; i += 4 {
					dot.add(k.dot4(w[i:min(i+4, count)], func(j int) Mem { return at(dp, i+j) }, masked))
				}
				sumInFours(sum, w)
			})
			sum, dot = sum.here(), dot.here()
			one, wideScale := k.vec(), k.vec()
			VCVTPS2PD(constantMem(1), one)
			VCVTPS2PD(k.half(scale()), wideScale)
			VDIVPD(sum.low, one, sum.low)
			VDIVPD(sum.high, one, sum.high)
			VMULPD(sum.low, dot.low, dot.low)
			VMULPD(sum.high, dot.high, dot.high)
			VMOVUPS(sum.narrow(), Mem{Base: norm})
			VMULPD(wideScale, sum.low, sum.low)
			VMULPD(wideScale, sum.high, sum.high)
			by := sum.narrow()
			low, high := k.widen(by)
			VMULPD(low, dot.low, dot.low)
			VMULPD(high, dot.high, dot.high)
			mean := dot.narrow()
			offset := c.down("softmax", many, func(at func(Register, int) Mem, count int, masked bool) {
				for i := range count {
					d := k.load(at(dp, i), masked)
					VFMSUB213PS(mean, by, d)
					VMULPS(at(p, i), d, d)
					k.clip(d, masked)
					k.store(d, at(dp, i), false)
				}
			})
			c.hide(offset, p, dp)
			next(p, 4)
			next(dp, 4)
			next(lse, 4)
			next(norm, 4)
		})
	}
}

// kept is v, which is at p, too.
func (k *kernel) kept(v VecVirtual, p Register) source {
	if k.wide() {
		return func() VecVirtual { return v }
	}
	return func() VecVirtual { return k.load(Mem{Base: p}, false) }
}

// narrow is the sums in float32.
func (s wideSum) narrow() VecVirtual {
	low, high, v := s.newHalf(), s.newHalf(), s.vec()
	if s.wide() {
		VCVTPD2PS(s.low, low)
		VCVTPD2PS(s.high, high)
		VINSERTF64X4(Imm(1), high, low.AsZ(), v)
	} else {
		VCVTPD2PSY(s.low, low)
		VCVTPD2PSY(s.high, high)
		VINSERTF128(Imm(1), high, low.AsY(), v)
	}
	return v
}
