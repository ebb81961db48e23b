package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// copyPanels writes the pack of columns that lie as the kernel wants them.
func copyPanels(v isa) {
	TEXT("copy"+v.name, NOSPLIT, "func(dst, src *float32, lds, k, cols, ldd, panels, step int)")
	Pragma("noescape")
	Doc("copy"+v.name+" copies columns into panels:", "",
		"\tfor l := range k {",
		"\t\tfor p := range panels {",
		"\t\t\tfor j := range cols { // at most the columns of a tile",
		"\t\t\t\tdst[p*step+l*ldd+j] = src[l*lds+p*cols+j]",
		"\t\t\t}",
		"\t\t}",
		"\t}")
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	loadBytes("lds", R8)
	loadBytes("ldd", R9)
	loadBytes("cols", R10)
	loadBytes("step", R11)
	Load(Param("k"), RCX)
	Load(Param("cols"), R12)
	MOVQ(R12, RAX)
	t := v.newTail(RAX, RDX)
	t.load(RDX)
	// loop writes a copy by f, from RAX to RBX.
	loop := func(name string, f func()) {
		Label(name)
		MOVQ(RSI, RAX)
		MOVQ(RDI, RBX)
		Load(Param("panels"), RDX)
		Label(name + "Panel")
		f()
		ADDQ(R10, RAX)
		ADDQ(R11, RBX)
		DECQ(RDX)
		JNZ(LabelRef(name + "Panel"))
		ADDQ(R8, RSI)
		ADDQ(R9, RDI)
		DECQ(RCX)
		JNZ(LabelRef(name))
		VZEROUPPER()
		RET()
	}
	masked := func(vectors int) func() {
		return func() {
			for j := range vectors {
				t.read(at(RAX, j*v.bytes()), j, v.reg[j])
				t.write(v.reg[j], j, at(RBX, j*v.bytes()))
			}
		}
	}
	if v.lanes == 8 { // masks are slow: the last vector overlaps the one before it
		two := func(name string, lanes int, r ...VecPhysical) {
			CMPQ(R12, U8(lanes))
			JLT(LabelRef(name + "Less"))
			LEAQ(Mem{Base: R10, Disp: -4 * lanes}, R12)
			loop(name, func() {
				if lanes == 4 { // panels of Aᵀ: its rows come from afar
					PREFETCHT0(Mem{Base: RAX, Index: R8, Scale: 4})
				}
				VMOVUPS(at(RAX, 0), r[0])
				VMOVUPS(Mem{Base: RAX, Index: R12, Scale: 1}, r[1])
				VMOVUPS(r[0], at(RBX, 0))
				VMOVUPS(r[1], Mem{Base: RBX, Index: R12, Scale: 1})
			})
			Label(name + "Less")
		}
		two("eight", 8, Y0, Y1)
		two("four", 4, X0, X1)
		loop("one", masked(1))
		return
	}
	for vectors := 1; vectors < 3; vectors++ {
		CMPQ(R12, U8(vectors*v.lanes))
		JLE(LabelRef(fmt.Sprintf("copy%d", vectors)))
	}
	for vectors := 3; vectors > 0; vectors-- {
		loop(fmt.Sprintf("copy%d", vectors), masked(vectors))
	}
}

// transposeAVX512 transposes blocks of 16 by 16. Its loads insert 128 bits at
// a time where a block of four columns belongs, which leaves two rounds of
// shuffles within 128 bits.
func transposeAVX512() {
	TEXT("transposeAVX512", NOSPLIT, "func(dst, src *float32, lds, k, ldd int)")
	Pragma("noescape")
	Doc("transposeAVX512 packs 16 rows as columns:", "",
		"\tfor l := range k { // a multiple of 4",
		"\t\tfor j := range 16 {",
		"\t\t\tdst[l*ldd+j] = src[j*lds+l]",
		"\t\t}",
		"\t}")
	z := avx512.reg
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	loadBytes("lds", R8)
	Load(Param("k"), RCX)
	loadBytes("ldd", R13)
	LEAQ(Mem{Base: R8, Index: R8, Scale: 2}, R9)
	LEAQ(Mem{Base: R13, Index: R13, Scale: 2}, R14)
	to := grid{[]GPPhysical{RDI}, R13, R14}
	g := grid{[]GPPhysical{RSI, R10, R11, R12}, R8, R9}
	g.spread()
	Label("block")
	for i := range 4 { // rows i, 4+i, 8+i, 12+i, columns l to l+3
		VMOVUPS(g.row(i, 0), z[i].AsX())
		for q := 1; q < 4; q++ {
			VINSERTF32X4(Imm(uint64(q)), g.row(4*q+i, 0), z[i], z[i])
		}
	}
	VUNPCKLPS(z[1], z[0], z[4])
	VUNPCKHPS(z[1], z[0], z[5])
	VUNPCKLPS(z[3], z[2], z[6])
	VUNPCKHPS(z[3], z[2], z[7])
	VUNPCKLPD(z[6], z[4], z[0])
	VUNPCKHPD(z[6], z[4], z[1])
	VUNPCKLPD(z[7], z[5], z[2])
	VUNPCKHPD(z[7], z[5], z[3])
	for i := range 4 {
		VMOVUPS(z[i], to.row(i, 0))
	}
	for _, p := range g.base {
		ADDQ(Imm(16), p)
	}
	LEAQ(to.row(4, 0), RDI)
	SUBQ(Imm(4), RCX)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// transposeAVX2 is the same for 8 rows.
func transposeAVX2() {
	TEXT("transposeAVX2", NOSPLIT, "func(dst, src *float32, lds, k, ldd int)")
	Pragma("noescape")
	Doc("transposeAVX2 packs 8 rows as columns:", "",
		"\tfor l := range k { // a multiple of 4",
		"\t\tfor j := range 8 {",
		"\t\t\tdst[l*ldd+j] = src[j*lds+l]",
		"\t\t}",
		"\t}")
	y := avx2.reg
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	loadBytes("lds", R8)
	Load(Param("k"), RCX)
	loadBytes("ldd", R13)
	LEAQ(Mem{Base: R8, Index: R8, Scale: 2}, R9)
	LEAQ(Mem{Base: R13, Index: R13, Scale: 2}, R14)
	to := grid{[]GPPhysical{RDI}, R13, R14}
	g := grid{[]GPPhysical{RSI, R10}, R8, R9}
	g.spread()
	Label("block")
	for i := range 4 {
		VMOVUPS(g.row(i, 0), y[i].AsX())
		VINSERTF128(Imm(1), g.row(4+i, 0), y[i], y[i])
	}
	VUNPCKLPS(y[1], y[0], y[4])
	VUNPCKHPS(y[1], y[0], y[5])
	VUNPCKLPS(y[3], y[2], y[6])
	VUNPCKHPS(y[3], y[2], y[7])
	VUNPCKLPD(y[6], y[4], y[0])
	VUNPCKHPD(y[6], y[4], y[1])
	VUNPCKLPD(y[7], y[5], y[2])
	VUNPCKHPD(y[7], y[5], y[3])
	for i := range 4 {
		VMOVUPS(y[i], to.row(i, 0))
	}
	for _, p := range g.base {
		ADDQ(Imm(16), p)
	}
	LEAQ(to.row(4, 0), RDI)
	SUBQ(Imm(4), RCX)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}
