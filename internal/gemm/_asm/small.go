package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// small writes the kernel of Panels: tiles of six rows by up to four vectors, or
// by two in AVX2, all rows of A in one call.
func small(v isa) {
	const rows = 6
	most, least := 4, 1 // vectors of B
	if v.lanes == 8 {
		most, least = 2, 2
	}
	name := fmt.Sprintf("small%s_%dx%d", v.name, rows, most*v.lanes)
	TEXT(name, NOSPLIT, "func(c, a, b *float32, ldc, lda, ka, ldb, k, rows, cols int, add bool, next *uintptr)")
	Pragma("noescape")
	directDoc(name+" multiplies rows of A with columns of B:", "≥ 1", fmt.Sprintf(" // 1 to %d", most*v.lanes),
		"It reads whole vectors of b. For every six rows or fewer it fetches some lines",
		"of next, a Fetch, one in two steps of k: more at once would keep those waiting",
		"that it works on.")
	const half = rows / 2 // rows of a base register
	const (               // the fields of a Fetch
		fetchAt = 8 * iota
		fetchStride
		fetchLeft
		fetchEach
		fetchNext
		fetchEnd
		fetchList
	)
	var (
		ldc, lda, ka, ldb = R8, R9, R10, R11
		c, a, left        = RDI, RSI, R13
		c3, a0, a3        = R14, RAX, RBX
		b, count          = RDX, RCX
		pairs             = R12 // of steps that fetch a line
		bj                = v.reg[most*rows : most*rows+most]
		ai                = v.reg[most*rows+most:]
	)
	Load(Param("c"), c)
	Load(Param("a"), a)
	loadBytes("ldc", ldc)
	loadBytes("lda", lda)
	loadBytes("ka", ka)
	loadBytes("ldb", ldb)
	Load(Param("rows"), left)
	Load(Param("cols"), RCX)
	var t tail
	if v.lanes == 8 {
		t = v.newTail(RCX, RAX)
	} else { // K1 is the lanes of the last vector
		LEAQ(Mem{Base: RCX, Disp: -1}, RDX)
		ANDQ(Imm(15), RDX)
		INCQ(RDX)
		MOVQ(I32(-1), RAX)
		BZHIQ(RDX, RAX, RAX)
		KMOVW(EAX, K1)
	}
	for vecs := least; vecs < most; vecs++ {
		CMPQ(RCX, U8(vecs*v.lanes))
		JLE(LabelRef(fmt.Sprintf("by%d", vecs)))
	}
	for vecs := most; vecs >= least; vecs-- {
		next := func(last int) { // the rows that are left, last at a time before
			for r := last; r > 0; r-- {
				CMPQ(left, U8(r))
				if r == rows {
					JGE(LabelRef(fmt.Sprintf("rows%dx%d", r, vecs)))
				} else {
					JEQ(LabelRef(fmt.Sprintf("rows%dx%d", r, vecs)))
				}
			}
			JMP(LabelRef("done"))
		}
		Label(fmt.Sprintf("by%d", vecs))
		next(rows)
		for r := rows; r > 0; r-- {
			l := func(s string) string { return fmt.Sprintf("%s%dx%d", s, r, vecs) }
			ref := func(s string) LabelRef { return LabelRef(l(s)) }
			acc := func(i, j int) VecPhysical { return v.reg[most*i+j] }
			row := func(lo, hi Register, ld Register, i, j int) Mem {
				m := Mem{Base: lo, Disp: j * v.bytes()}
				if i >= half {
					m.Base = hi
				}
				if i %= half; i > 0 {
					m.Index, m.Scale = ld, uint8(i)
				}
				return m
			}
			Label(l("rows"))
			for i := range r {
				for j := range vecs {
					v.zero(acc(i, j))
				}
			}
			MOVQ(a, a0)
			LEAQ(Mem{Base: a, Index: lda, Scale: 2}, a3)
			ADDQ(lda, a3)
			Load(Param("b"), b)
			step := func() {
				for j := range vecs {
					VMOVUPS(at(b, j*v.bytes()), bj[j])
				}
				for i := range r {
					x := ai[i%len(ai)]
					VBROADCASTSS(row(a0, a3, lda, i, 0), x)
					for j := range vecs {
						VFMADD231PS(bj[j], x, acc(i, j))
					}
				}
				ADDQ(ka, a0)
				if r > half {
					ADDQ(ka, a3)
				}
				ADDQ(ldb, b)
			}
			Load(Param("next"), R15)
			Load(Param("k"), count)
			CMPQ(at(R15, fetchLeft), Imm(0))
			JNE(ref("fetching"))
			MOVQ(at(R15, fetchNext), R14)
			CMPQ(R14, at(R15, fetchEnd))
			JGE(ref("fetching"))
			INCQ(at(R15, fetchNext))
			LEAQ(Mem{Base: R14, Index: R14, Scale: 2}, R14) // a span is as long as three fields
			for _, field := range []int{fetchAt, fetchStride, fetchLeft} {
				MOVQ(Mem{Base: R15, Index: R14, Scale: 8, Disp: fetchList + field}, pairs)
				MOVQ(pairs, at(R15, field))
			}
			Label(l("fetching"))
			MOVQ(count, pairs)
			SHRQ(Imm(1), pairs)
			for _, most := range []int{fetchLeft, fetchEach} {
				MOVQ(at(R15, most), R14)
				CMPQ(pairs, R14)
				CMOVQGT(R14, pairs)
			}
			TESTQ(pairs, pairs)
			JZ(ref("fetched"))
			SUBQ(pairs, at(R15, fetchLeft))
			SUBQ(pairs, count)
			SUBQ(pairs, count)
			MOVQ(at(R15, fetchAt), R14)
			MOVQ(at(R15, fetchStride), R15)
			Label(l("fetch"))
			step()
			PREFETCHT1(at(R14, 0))
			ADDQ(R15, R14)
			step()
			DECQ(pairs)
			JNZ(ref("fetch"))
			Load(Param("next"), R15)
			MOVQ(R14, at(R15, fetchAt))
			Label(l("fetched"))
			SHRQ(Imm(1), count)
			JCC(ref("even"))
			step()
			Label(l("even"))
			TESTQ(count, count)
			JZ(ref("summed"))
			Label(l("k"))
			step()
			step()
			DECQ(count)
			JNZ(ref("k"))
			Label(l("summed"))
			LEAQ(Mem{Base: c, Index: ldc, Scale: 2}, c3)
			ADDQ(ldc, c3)
			each := func(f func(m Mem, r VecPhysical, j int)) {
				for i := range r {
					for j := range vecs {
						f(row(c, c3, ldc, i, j), acc(i, j), j)
					}
				}
			}
			if v.lanes == 8 {
				Load(Param("cols"), count)
				CMPQ(count, U8(most*v.lanes))
				JNE(ref("tail"))
			}
			last := func(j int) bool { return v.lanes == 16 && j == vecs-1 }
			CMPB(param("add"), Imm(0))
			JEQ(ref("store"))
			each(func(m Mem, r VecPhysical, j int) {
				if last(j) {
					VADDPS(m, r, K1, r)
				} else {
					VADDPS(m, r, r)
				}
			})
			Label(l("store"))
			each(func(m Mem, r VecPhysical, j int) {
				if last(j) {
					VMOVUPS(r, K1, m)
				} else {
					VMOVUPS(r, m)
				}
			})
			if v.lanes == 8 {
				JMP(ref("stored"))
				Label(l("tail"))
				t.store(count, l("storeTail"), ai[0], each)
				Label(l("stored"))
			}
			if r < rows {
				JMP(LabelRef("done"))
				continue
			}
			LEAQ(Mem{Base: c3, Index: ldc, Scale: 2}, c)
			ADDQ(ldc, c)
			LEAQ(Mem{Base: a, Index: lda, Scale: 2}, a)
			LEAQ(Mem{Base: a, Index: lda, Scale: 4}, a)
			SUBQ(Imm(rows), left)
			next(rows)
		}
	}
	Label("done")
	VZEROUPPER()
	RET()
}
