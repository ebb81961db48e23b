package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rank writes the kernel for few products an element, in float64: for four rows
// of C, or one, by a vector of columns at a time.
func rank(v isa) {
	name := "rank" + v.name
	TEXT(name, NOSPLIT, "func(c, b *float32, a *float64, ldc, ldb, k, rows, vecs int, add bool)")
	Pragma("noescape")
	Doc(name+" multiplies A, [k, rows], with B:", "",
		"\tfor i := range rows { // 4 or 1",
		fmt.Sprintf("\t\tfor j := range %d * vecs {", v.lanes),
		"\t\t\tvar s float64",
		"\t\t\tif add {",
		"\t\t\t\ts = float64(c[i*ldc+j])",
		"\t\t\t}",
		"\t\t\tfor l := range k {",
		"\t\t\t\ts += a[l*rows+i] * float64(b[l*ldb+j])",
		"\t\t\t}",
		"\t\t\tc[i*ldc+j] = float32(s)",
		"\t\t}",
		"\t}")
	var (
		c    = grid{[]GPPhysical{RDI}, R8, R9}
		b, l = RSI, RBX
		next = grid{[]GPPhysical{R13}, R8, R9} // rows of C: each begins anew for the processor's own prefetcher
		acc  = func(i, j int) VecPhysical { return v.reg[2*i+j] }
		bj   = v.reg[8:10]
		ai   = v.reg[10:14]
	)
	Load(Param("c"), c.base[0])
	loadBytes("ldc", c.ld)
	LEAQ(Mem{Base: c.ld, Index: c.ld, Scale: 2}, c.ld3)
	loadBytes("ldb", R11)
	Load(Param("b"), R10)
	Load(Param("vecs"), R12)
	Load(Param("rows"), RAX)
	CMPQ(RAX, Imm(1))
	JEQ(LabelRef("vec1"))
	for _, r := range []int{4, 1} {
		to := func(s string) string { return fmt.Sprintf("%s%d", s, r) }
		each := func(f func(m Mem, r VecPhysical)) {
			for i := range r {
				for j := range 2 {
					f(c.row(i, j*v.bytes()/2), acc(i, j))
				}
			}
		}
		Label(to("vec"))
		CMPB(param("add"), Imm(0))
		JEQ(LabelRef(to("zero")))
		each(func(m Mem, r VecPhysical) { VCVTPS2PD(m, r) })
		JMP(LabelRef(to("begin")))
		Label(to("zero"))
		each(func(_ Mem, r VecPhysical) { v.zero(r) })
		Label(to("begin"))
		MOVQ(R10, b)
		Load(Param("a"), RDX)
		Load(Param("k"), l)
		Label(to("k"))
		for j := range 2 {
			VCVTPS2PD(at(b, j*v.bytes()/2), bj[j])
		}
		for i := range r {
			VBROADCASTSD(at(RDX, 8*i), ai[i])
			for j := range 2 {
				VFMADD231PD(bj[j], ai[i], acc(i, j))
			}
		}
		ADDQ(R11, b)
		ADDQ(Imm(uint64(8*r)), RDX)
		DECQ(l)
		JNZ(LabelRef(to("k")))
		if r == 4 {
			LEAQ(c.row(4, 0), next.base[0])
			for i := range r {
				PREFETCHT1(next.row(i, 0))
			}
		}
		each(func(m Mem, r VecPhysical) {
			VCVTPD2PSY(r, r.AsX())
			VMOVUPS(r.AsX(), m)
		})
		ADDQ(Imm(uint64(v.bytes())), c.base[0])
		ADDQ(Imm(uint64(v.bytes())), R10)
		DECQ(R12)
		JNZ(LabelRef(to("vec")))
		JMP(LabelRef("done"))
	}
	Label("done")
	VZEROUPPER()
	RET()
}
