package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dot writes the kernel for few rows of x: four rows of W at a time, eight for
// one row of x, lanes along K. Its body exists once for each number of rows of
// x.
func dot(v isa) {
	most := 6
	if v.lanes == 8 {
		most = 2
	}
	name := fmt.Sprintf("dot%s_%dx4", v.name, most)
	TEXT(name, NOSPLIT, "func(y, x, w *float32, ldy, k, rows, groups int)")
	Pragma("noescape")
	Doc(name+" multiplies rows of x with groups of four rows of W, both [, k]:", "",
		fmt.Sprintf("\tfor i := range rows { // ≤ %d", most),
		"\t\tfor j := range 4 * groups {",
		fmt.Sprintf("\t\t\tvar s [%d]float32", v.lanes),
		"\t\t\tfor l := range k {",
		fmt.Sprintf("\t\t\t\ts[l%%%d] = fma(x[i*k+l], w[j*k+l], s[l%%%d])", v.lanes, v.lanes),
		"\t\t\t}",
		"\t\t\ty[i*ldy+j] = sum(s) // by halves or pairs",
		"\t\t}",
		"\t}", "",
		"It reads W once and in order.")
	var (
		y, ldk, ldk3 = RBX, R11, R12
		w            = RSI
		wj           = v.reg[4*most : 4*most+4]
		xi           = v.reg[4*most+4 : 4*most+6]
		mask         = v.reg[4*most+6] // AVX2
	)
	const ahead = 16 << 10 // how far W is prefetched, in bytes
	Load(Param("y"), y)
	Load(Param("x"), RDI)
	Load(Param("w"), w)
	Load(Param("groups"), R13)
	loadBytes("k", ldk)
	LEAQ(Mem{Base: ldk, Index: ldk, Scale: 2}, ldk3)
	Load(Param("k"), RCX)
	ANDQ(U8(v.lanes-1), RCX)
	MOVQ(RCX, R15) // products beyond whole vectors
	if v.lanes == 16 {
		MOVQ(I32(-1), RAX)
		BZHIQ(RCX, RAX, RAX)
		KMOVW(EAX, K1)
	} else {
		LEAQ(NewDataAddr(Symbol{Name: "lanes", Static: true}, 64), RAX)
		SHLQ(Imm(2), RCX)
		SUBQ(RCX, RAX)
		VMOVUPS(at(RAX, 0), mask)
	}
	read := func(m Mem, r VecPhysical, tail bool) {
		switch {
		case !tail:
			VMOVUPS(m, r)
		case v.lanes == 16:
			VMOVUPS_Z(m, K1, r)
		default:
			VMASKMOVPS(m, mask, r)
		}
	}
	Load(Param("rows"), RAX)
	for r := most; r > 1; r-- {
		CMPQ(RAX, U8(r))
		JEQ(LabelRef(fmt.Sprintf("group%dx4", r)))
	}
	for r := 1; r <= most; r++ {
		// group computes r rows of x with n of W, which are n/4 groups, or goes
		// to next if there are not as many.
		group := func(n int, next string) {
			l := func(s string) string { return fmt.Sprintf("%s%dx%d", s, r, n) }
			X := grid{[]GPPhysical{R8, R9}[:ceil(r, perBase)], ldk, ldk3}
			W := grid{[]GPPhysical{R10, R9}[:ceil(n, perBase)], ldk, ldk3}
			acc := func(i, j int) VecPhysical { return v.reg[n*i+j] }
			step := func(tail bool) {
				if r == 1 && !tail {
					read(X.row(0, 0), xi[0], false)
					for j := range n {
						VFMADD231PS(W.row(j, 0), xi[0], acc(0, j))
					}
					return
				}
				for n0 := 0; n0 < n; n0 += 4 {
					for j := range 4 {
						read(W.row(n0+j, 0), wj[j], tail)
					}
					for i := range r {
						x := xi[i%2]
						read(X.row(i, 0), x, tail)
						for j := range 4 {
							VFMADD231PS(x, wj[j], acc(i, n0+j))
							if lines := v.lanes / 4; !tail && r > 1 && (4*i+j+1)*lines%(4*r) < lines { // one by one
								PREFETCHT1(at(R14, 64*((4*i+j+1)*lines/(4*r)-1)))
							}
						}
					}
				}
			}

			Label(l("group"))
			if n > 4 {
				CMPQ(R13, Imm(uint64(n/4)))
				JLT(LabelRef(next))
			}
			for i := range n * r {
				v.zero(v.reg[i])
			}
			MOVQ(RDI, R8)
			X.spread()
			MOVQ(w, R10)
			W.spread()
			if r > 1 {
				LEAQ(at(w, ahead), R14)
			}
			Load(Param("k"), RCX)
			SHRQ(Imm(uint64(2+v.lanes/16)+1), RCX) // whole vectors
			JZ(LabelRef(l("tail")))
			Label(l("k"))
			step(false)
			if r > 1 {
				ADDQ(U32(4*v.bytes()), R14)
			}
			for _, p := range W.base {
				ADDQ(U8(v.bytes()), p)
			}
			for _, p := range X.base {
				ADDQ(U8(v.bytes()), p)
			}
			DECQ(RCX)
			JNZ(LabelRef(l("k")))
			Label(l("tail"))
			TESTQ(R15, R15)
			JZ(LabelRef(l("sum")))
			step(true)
			Label(l("sum"))
			Load(Param("ldy"), RCX)
			MOVQ(y, RAX)
			for i := range r {
				if i > 0 {
					LEAQ(Mem{Base: RAX, Index: RCX, Scale: 4}, RAX)
				}
				for j := 0; j < n; j += 4 {
					VMOVUPS(v.sum4(acc(i, j), acc(i, j+1), acc(i, j+2), acc(i, j+3), wj), at(RAX, 4*j))
				}
			}
			LEAQ(Mem{Base: w, Index: ldk, Scale: uint8(n)}, w)
			ADDQ(Imm(uint64(4*n)), y)
			SUBQ(Imm(uint64(n/4)), R13)
			JNZ(LabelRef(l("group")))
			JMP(LabelRef("done"))
		}
		if r == 1 {
			// The processor itself fetches eight rows at a time the fastest:
			// with four, or with prefetches, it reads a tenth to a fifth less.
			group(8, "group1x4")
		}
		group(4, "")
	}
	Label("done")
	VZEROUPPER()
	RET()
}

// sum4 returns a register of the sums of the lanes of a, b, c and d.
func (v isa) sum4(a, b, c, d VecPhysical, t []VecPhysical) Register {
	if v.lanes == 8 {
		VHADDPS(b, a, t[0])
		VHADDPS(d, c, t[1])
		VHADDPS(t[1], t[0], t[0])
		VEXTRACTF128(Imm(1), t[0], t[1].AsX())
		VADDPS(t[1].AsX(), t[0].AsX(), t[0].AsX())
		return t[0].AsX()
	}
	VUNPCKLPS(b, a, t[0])
	VUNPCKHPS(b, a, t[1])
	VADDPS(t[1], t[0], t[0])
	VUNPCKLPS(d, c, t[1])
	VUNPCKHPS(d, c, t[2])
	VADDPS(t[2], t[1], t[1])
	VUNPCKLPD(t[1], t[0], t[2])
	VUNPCKHPD(t[1], t[0], t[3])
	VADDPS(t[3], t[2], t[2])
	VEXTRACTF64X4(Imm(1), t[2], t[0].AsY())
	VADDPS(t[0].AsY(), t[2].AsY(), t[0].AsY())
	VEXTRACTF32X4(Imm(1), t[0].AsY(), t[1].AsX())
	VADDPS(t[1].AsX(), t[0].AsX(), t[0].AsX())
	return t[0].AsX()
}
