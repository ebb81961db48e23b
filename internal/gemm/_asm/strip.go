package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The fields of a walk in Go, 8 bytes each.
const (
	walkAt = 8 * iota
	walkLeft
	walkStep
	walkSteps
	walkGap
)

// strip writes the kernel that goes along a few rows of C, and reads B where it
// lies. Its body exists once for each number of rows, and in AVX2, where masks
// are slow, again for the last columns.
func strip(v isa) {
	rows, vecs := v.tile.rows, v.tile.vecs
	cols := vecs * v.lanes
	name := fmt.Sprintf("strip%s_%dx%d", v.name, rows, cols)
	TEXT(name, NOSPLIT, "func(c, a, b *float32, ldc, lda, ka, ldb, k, rows, cols int, add bool, next *uintptr)")
	Pragma("noescape")
	directDoc(name+" multiplies a few rows of A with B:", fmt.Sprintf("≤ %d", rows), "",
		"With each l it goes a step further in next, and fetches what is there.")
	var (
		base          = []GPPhysical{RDI, R8}[:ceil(rows, perBase)] // of A, then of C
		ldc, lda, ld3 = R9, R11, R12
		ka, ldb, step = R10, R13, R15
		b, next, k    = RSI, RDX, RCX
		begin, left   = RBX, R14 // of the columns: in bytes, in number
		A, C          = grid{base, lda, ld3}, grid{base, ldc, ld3}
		acc           = func(i, j int) VecPhysical { return v.reg[vecs*i+j] }
		bj            = v.reg[vecs*rows:][:vecs]
		ai            = v.reg[vecs*(rows+1):]
	)
	gap, steps, inRow := AllocLocal(8), AllocLocal(8), AllocLocal(8)
	loadBytes("ldc", ldc)
	loadBytes("lda", lda)
	loadBytes("ka", ka)
	loadBytes("ldb", ldb)
	Load(Param("next"), RAX)
	MOVQ(at(RAX, walkStep), step)
	MOVQ(at(RAX, walkGap), RCX)
	MOVQ(RCX, gap)
	MOVQ(at(RAX, walkSteps), RCX)
	MOVQ(RCX, steps)
	MOVQ(at(RAX, walkLeft), RCX)
	MOVQ(RCX, inRow)
	MOVQ(at(RAX, walkAt), next)
	XORL(begin.As32(), begin.As32())
	Load(Param("cols"), left)
	MOVQ(U32(uint32(cols)), RCX)
	t := v.newTail(RCX, RAX)
	Load(Param("rows"), RAX)
	for r := rows; r > 1; r-- {
		CMPQ(RAX, U8(r))
		JEQ(LabelRef(fmt.Sprintf("group%d", r)))
	}
	for r := 1; r <= rows; r++ {
		// body computes one group of columns.
		body := func(l func(string) string, tail bool) {
			masked := tail || v.lanes == 16
			each := func(f func(m Mem, r VecPhysical, j int)) {
				for i := range r {
					for j := range vecs {
						f(C.row(i, j*v.bytes()), acc(i, j), j)
					}
				}
			}
			Load(Param("a"), base[0])
			LEAQ(Mem{Base: lda, Index: lda, Scale: 2}, ld3)
			A.spread()
			Load(Param("b"), b)
			ADDQ(begin, b)
			Load(Param("k"), k)
			each(func(_ Mem, r VecPhysical, _ int) { v.zero(r) })
			Label(l("k"))
			if masked {
				t.load(RAX)
			}
			for j := range vecs {
				if m := at(b, j*v.bytes()); masked {
					t.read(m, j, bj[j])
				} else {
					VMOVUPS(m, bj[j])
				}
			}
			line := 0
			for i := range r {
				x := ai[i%len(ai)]
				VBROADCASTSS(A.row(i, 0), x)
				for j := range vecs {
					VFMADD231PS(bj[j], x, acc(i, j))
				}
				for ; line < cols/16*(i+1)/r; line++ {
					PREFETCHT1(at(next, 64*line))
				}
			}
			for _, p := range base {
				ADDQ(ka, p)
			}
			ADDQ(ldb, b)
			ADDQ(step, next)
			DECQ(inRow)
			JNZ(LabelRef(l("same")))
			ADDQ(gap, next)
			MOVQ(steps, RAX)
			MOVQ(RAX, inRow)
			Label(l("same"))
			DECQ(k)
			JNZ(LabelRef(l("k")))

			Load(Param("c"), base[0])
			ADDQ(begin, base[0])
			LEAQ(Mem{Base: ldc, Index: ldc, Scale: 2}, ld3)
			C.spread()
			if masked {
				t.load(RAX)
			}
			CMPB(param("add"), Imm(0))
			JEQ(LabelRef(l("store")))
			each(func(m Mem, r VecPhysical, j int) {
				switch {
				case v.lanes == 16:
					VADDPS(m, r, t.k[j], r)
				case tail:
					t.read(m, j, ai[0])
					VADDPS(ai[0], r, r)
				default:
					VADDPS(m, r, r)
				}
			})
			Label(l("store"))
			each(func(m Mem, r VecPhysical, j int) {
				if masked {
					t.write(r, j, m)
				} else {
					VMOVUPS(r, m)
				}
			})
			ADDQ(I32(4*cols), begin)
			SUBQ(I32(cols), left)
		}
		l := func(s string) string { return fmt.Sprintf("%s%d", s, r) }
		Label(l("group"))
		CMPQ(left, I32(cols))
		JGE(LabelRef(l("whole")))
		MOVQ(left, RCX)
		t.set(RCX, RAX)
		if v.lanes == 8 {
			body(func(s string) string { return l(s + "Tail") }, true)
			JMP(LabelRef("done"))
		}
		Label(l("whole"))
		body(l, false)
		JG(LabelRef(l("group")))
		JMP(LabelRef("done"))
	}
	Label("done")
	Load(Param("next"), RAX)
	MOVQ(next, at(RAX, walkAt))
	MOVQ(inRow, RCX)
	MOVQ(RCX, at(RAX, walkLeft))
	VZEROUPPER()
	RET()
}
