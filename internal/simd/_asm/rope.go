package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rope writes the kernel of RoPE.
func rope(s isa) {
	k := function(s, "rope", "func(x, cos, sin *float32, pairs, heads int, sign float32)",
		"for range heads { for i := range pairs { c, s, a, b := cos[i], sign*sin[i], x[2*i], x[2*i+1]; "+
			"x[2*i], x[2*i+1] = a*c-b*s, a*s+b*c }; x = x[2*pairs:] }")
	x, cos, sin, pairs, heads := pointer("x"), pointer("cos"), pointer("sin"), pointer("pairs"), pointer("heads")
	sign := k.argument("sign")

	// the pairs beyond whole vectors
	rest, i, left := GP64(), GP64(), GP64()
	MOVQ(pairs, rest)
	ANDQ(Imm(uint64(k.lanes/2-1)), rest)
	k.maskOf(rest)
	tableMask := k.mask
	if !k.wide() {
		tableMask = k.mask.(VecVirtual).AsX()
	}
	ADDQ(rest, rest)
	k.maskOf(rest)

	// doubled is c[0] c[0] c[1] c[1] … of a table.
	doubled := func(table Register, masked bool) VecVirtual {
		v := k.vec()
		from := Op(Mem{Base: table, Index: i, Scale: 1})
		if masked {
			h := k.newHalf()
			if k.wide() {
				VMOVUPS_Z(from, tableMask, h)
			} else {
				VMASKMOVPS(from, tableMask, h)
			}
			from = h
		}
		VPMOVZXDQ(from, v)
		VMOVSLDUP(v, v)
		return v
	}
	rotate := func(masked bool) {
		m := Mem{Base: x, Index: i, Scale: 2}
		v := k.load(m, masked)
		c, sn, swapped := doubled(cos, masked), doubled(sin, masked), k.vec()
		VMULPS(sign, sn, sn)
		VPERMILPS(Imm(0b10110001), v, swapped)
		VMULPS(sn, swapped, swapped)
		VFMADDSUB213PS(swapped, c, v) // minus in even lanes, plus in odd ones
		k.store(v, m, masked)
	}

	Label("head")
	TESTQ(heads, heads)
	JZ(LabelRef("done"))
	XORQ(i, i)
	MOVQ(pairs, left)
	Label("vector")
	CMPQ(left, Imm(uint64(k.lanes/2)))
	JLT(LabelRef("rest"))
	rotate(false)
	ADDQ(Imm(uint64(2*k.lanes)), i)
	SUBQ(Imm(uint64(k.lanes/2)), left)
	JMP(LabelRef("vector"))
	Label("rest")
	TESTQ(left, left)
	JZ(LabelRef("next"))
	rotate(true)
	Label("next")
	LEAQ(Mem{Base: x, Index: pairs, Scale: 8}, x)
	DECQ(heads)
	JMP(LabelRef("head"))
	Label("done")
	end()
}
