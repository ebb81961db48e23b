package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// softmax writes the kernels of attention's scores: rows under the mask, each
// one longer than the last. A call for all of them lets the end of a row
// overlap with the beginning of the next.
func softmax(s isa) {
	// eachRow writes body for one row after the other; n is the length of the
	// first.
	eachRow := func(k *kernel, rows, length Register, body func(left func() Register)) {
		Label("row")
		TESTQ(rows, rows)
		JZ(LabelRef("end"))
		body(func() Register {
			n := GP64()
			MOVQ(length, n)
			return n
		})
		INCQ(length)
		DECQ(rows)
		JMP(LabelRef("row"))
		Label("end")
		end()
	}
	{
		k := function(s, "expRows", "func(x *float32, ld, rows, n int, scale float32, most *float32, sum *float64)",
			"for i := range rows { x := x[i*ld:][:n+i]; most[i] = scale*max(x); "+
				"for j := range x { x[j] = exp(x[j]*scale - most[i]); sum[i] += float64(x[j]) } }")
		x, ld, rows, n := pointer("x"), pointer("ld"), pointer("rows"), pointer("n")
		most, total := pointer("most"), pointer("sum")
		scale := k.argument("scale")
		SHLQ(Imm(2), ld)
		e := k.expOfMany()
		e.small = true
		eachRow(k, rows, n, func(left func() Register) {
			k.loop = "max"
			m := k.maxOf(x, left())
			product := XMM()
			VMULSS(m, scale.AsX(), product)
			VMOVSS(product, Mem{Base: most})
			by := k.vec()
			VBROADCASTSS(product, by)
			k.loop = "exp"
			sum := k.wideSum()
			e.scaled(x, x, left(), scale, by, sum)
			VMOVSD(sum.total(), Mem{Base: total})
			ADDQ(ld, x)
			ADDQ(Imm(4), most)
			ADDQ(Imm(8), total)
		})
	}
	{
		k := function(s, "dSoftmaxRows", "func(p, dp *float32, ld, rows, n int, scale float32, lse *float32)",
			"for i := range rows { p, dp := p[i*ld:][:n+i], dp[i*ld:][:n+i]; sum := ExpScaleSub(p, p, scale, lse[i]); "+
				"DSoftmax(dp, p, dp, 1/sum, Dot(p, dp)/sum, scale) }")
		p, dp, ld, rows, n, lse := pointer("p"), pointer("dp"), pointer("ld"), pointer("rows"), pointer("n"), pointer("lse")
		scale := k.argument("scale")
		SHLQ(Imm(2), ld)
		e := k.expOfMany()
		eachRow(k, rows, n, func(left func() Register) {
			m := k.vec()
			VBROADCASTSS(Mem{Base: lse}, m)
			k.loop = "exp"
			sum := k.wideSum()
			e.scaled(p, p, left(), scale, m, sum)
			t := sum.total()
			k.loop = "dot"
			mean := k.dotOf(p, dp, left()).total()
			norm := XMM()
			VDIVSD(t, mean, mean)
			VXORPS(norm, norm, norm)
			VCVTSS2SD(constantMem(1), norm, norm)
			VDIVSD(t, norm, norm)
			VCVTSD2SS(norm, norm, norm)
			VCVTSD2SS(mean, mean, mean)
			norms, means := k.vec(), k.vec()
			VBROADCASTSS(norm, norms)
			VBROADCASTSS(mean, means)
			k.loop = "softmax"
			k.dSoftmax(dp, p, dp, left(), norms, means, scale)
			ADDQ(ld, p)
			ADDQ(ld, dp)
			ADDQ(Imm(4), lse)
		})
	}
}
