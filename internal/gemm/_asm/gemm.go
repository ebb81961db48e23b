package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The fields of a stream in Go, 8 bytes each.
const (
	streamBase = 8 * iota
	streamTable
	streamAt
	streamPart
	streamStep
	streamRows
	streamSums
)

// gemm writes the kernel. Its body exists once for each number of rows: the
// accumulators of a panel are registers.
func gemm(v isa) {
	rows, vecs := v.tile.rows, v.tile.vecs
	cols := vecs * v.lanes
	pairs := ceil(cols, 32) // of cache lines in a row of C
	name := fmt.Sprintf("gemm%s_%dx%d", v.name, rows, cols)
	TEXT(name, NOSPLIT, "func(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels, cols int, add bool, src *float32, lds int, to *float32, next *uintptr)")
	Pragma("noescape")
	Doc(name+" multiplies panels of A, rows each, with a panel of B:", "",
		fmt.Sprintf("\tfor i := range panels * rows { // rows ≤ %d", rows),
		"\t\ta := a[i/rows*stepA+i%rows*lda:]",
		fmt.Sprintf("\t\tfor j := range cols { // ≤ %d", cols),
		"\t\t\tvar sum float32",
		"\t\t\tfor k0 := 0; k0 < k; k0 += chunk {",
		"\t\t\t\tvar s float32",
		"\t\t\t\tfor l := k0; l < min(k, k0+chunk); l++ {",
		fmt.Sprintf("\t\t\t\t\ts = fma(a[l*ka], b[l*%d+j], s)", cols),
		"\t\t\t\t}",
		"\t\t\t\tsum += s",
		"\t\t\t}",
		"\t\t\tif add {",
		"\t\t\t\tsum += c[i*ldc+j]",
		"\t\t\t}",
		"\t\t\tc[i*ldc+j] = sum",
		"\t\t}",
		"\t}", "",
		"Rows of b are whole. If src is not nil, it first packs B:", "",
		fmt.Sprintf("\tb[l*%d+j] = src[l*lds+j]", cols), "",
		"If to is not nil, it packs A instead, whose lda is 1:", "",
		"\tto[(i/rows*k+l)*rows+i%rows] = a[l*ka]", "",
		"Meanwhile it fetches the stream next, but for next.rows: the rows of C.")

	var (
		c, ldc, ldc3 = RBX, R13, R15
		lda, lda3    = R11, R12
		ka, b, left  = R10, RSI, RDX
		acc          = func(i, j int) VecPhysical { return v.reg[vecs*i+j] }
		bj           = v.reg[len(v.reg)-vecs:]
		ai           = v.reg[vecs*rows : len(v.reg)-vecs]
		panelA       = AllocLocal(8)
		panelsLeft   = AllocLocal(8)
		stepA        = AllocLocal(8)
		stepC        = AllocLocal(8)
		bytesC       = AllocLocal(8)
		spilled      = AllocLocal(8) // are there sums of chunks before?
		src          = AllocLocal(8) // not 0 in the first panel
		saved        = AllocLocal(8)
		savedC       = AllocLocal(8)
		bytesB       = AllocLocal(8)
		later        = AllocLocal(8)
		fresh        = AllocLocal(8)
		step         = AllocLocal(8)
		to           = AllocLocal(8) // not 0 if A is packed
		far          = AllocLocal(8) // bytes of two steps of k: A is fetched eight times that ahead
	)
	if v.lanes == 8 { // Y12 to Y15: the masks need the first two
		bj, ai = v.reg[12:14], v.reg[14:16]
	}
	Load(Param("c"), c)
	Load(Param("rows"), RAX)
	Load(Param("a"), R14)
	MOVQ(R14, panelA)
	Load(Param("panels"), RCX)
	MOVQ(RCX, panelsLeft)
	Load(Param("src"), RCX)
	MOVQ(RCX, src)
	Load(Param("to"), RCX)
	MOVQ(RCX, to)
	loadBytes("ka", ka)
	IMUL3Q(U8(2), ka, RCX)
	MOVQ(RCX, far)
	loadBytes("lda", lda)
	LEAQ(Mem{Base: lda, Index: lda, Scale: 2}, lda3)
	loadBytes("stepA", RCX)
	MOVQ(RCX, stepA)
	loadBytes("ldc", RCX)
	MOVQ(RCX, bytesC)
	IMULQ(RAX, RCX)
	MOVQ(RCX, stepC)
	Load(Param("cols"), RCX)
	t := v.newTail(RCX, R14)
	for r := rows; r > 1; r-- {
		CMPQ(RAX, U8(r))
		JEQ(LabelRef(fmt.Sprintf("panel%d", r)))
	}

	for r := 1; r <= rows; r++ {
		l := func(s string) string { return fmt.Sprintf("%s%d", s, r) }
		ref := func(s string) LabelRef { return LabelRef(l(s)) }
		n := ceil(r, perBase)
		A := grid{[]GPPhysical{RDI, R8, R9}[:n], lda, lda3}
		C := grid{A.base, ldc, ldc3}
		each := func(f func(m Mem, r VecPhysical, j int)) {
			for i := range r {
				for j := range vecs {
					f(C.row(i, j*v.bytes()), acc(i, j), j)
				}
			}
		}
		toC := func() {
			MOVQ(bytesC, ldc)
			LEAQ(Mem{Base: ldc, Index: ldc, Scale: 2}, ldc3)
			MOVQ(c, RDI)
			C.spread()
		}

		Label(l("panel"))
		MOVQ(U32(1), fresh)
		MOVQ(U32(0), spilled)
		Load(Param("b"), b)
		Load(Param("k"), left)
		MOVQ(panelA, RDI)

		Label(l("chunk"))
		A.spread()
		each(func(_ Mem, r VecPhysical, _ int) { v.zero(r) })
		Load(Param("chunk"), RCX)
		CMPQ(RCX, left)
		CMOVQGT(left, RCX)
		SUBQ(RCX, left)
		multiply := func(a grid, at int) {
			for i := range r {
				x := ai[(at+i)%len(ai)]
				VBROADCASTSS(a.row(i, 0), x)
				for j := range vecs {
					VFMADD231PS(bj[j], x, acc(i, j))
				}
			}
		}
		// packA copies a step of k of the panel, and fetches one that is far.
		packA := func(to GPPhysical) {
			// Without masks, which are slow where lanes that are not meant begin a page.
			x, i := ai[0], 0
			if r >= 8 {
				VMOVUPS(at(RDI, 0), x.AsY())
				VMOVUPS(x.AsY(), at(to, 0))
				i = 8
			}
			if r-i >= 4 {
				VMOVUPS(at(RDI, 0), x.AsX())
				VMOVUPS(x.AsX(), at(to, 0))
				i = 4
			}
			if r-i >= 2 {
				MOVQ(at(RDI, 4*i), RAX)
				MOVQ(RAX, at(to, 4*i))
				i += 2
			}
			if r > i {
				MOVL(at(RDI, 4*i), EAX)
				MOVL(EAX, at(to, 4*i))
			}
			ADDQ(Imm(uint64(4*r)), to)
			MOVQ(far, RAX)
			PREFETCHT0(Mem{Base: RDI, Index: RAX, Scale: 8, Disp: 4 * (r - 1)})
		}
		loadB := func(disp int) {
			for j := range vecs {
				VMOVUPS(at(b, disp+j*v.bytes()), bj[j])
			}
		}
		advance := func() {
			for _, p := range A.base {
				ADDQ(ka, p)
			}
		}
		Load(Param("next"), RAX)
		CMPQ(src, Imm(0))
		JNE(ref("pack"))
		SHRQ(Imm(1), RCX)
		JCC(ref("even"))
		loadB(0)
		ADDQ(I32(vecs*v.bytes()), b)
		MOVQ(to, R15)
		TESTQ(R15, R15)
		JZ(ref("odd"))
		packA(R15)
		MOVQ(R15, to)
		Label(l("odd"))
		multiply(A, 0)
		advance()
		Label(l("even"))
		TESTQ(RCX, RCX)
		JZ(ref("summed"))
		MOVQ(left, saved)
		MOVQ(RCX, later)
		CMPQ(fresh, Imm(0))
		JEQ(ref("stream"))
		// The rows of C arrive first, a pair of lines for every four steps.
		Load(Param("next"), RAX)
		MOVQ(at(RAX, streamRows), R15)
		TESTQ(R15, R15)
		JZ(ref("stream"))
		MOVQ(U32(2*(r*pairs+1)), RCX)
		CMPQ(RCX, later)
		CMOVQGT(later, RCX)
		SUBQ(RCX, later)
		MOVQ(c, RDX)
		XORL(R14.As32(), R14.As32())
		XORL(R13.As32(), R13.As32())
		MOVQ(U64(1<<63), RAX)
		MOVQ(RAX, step)
		JMP(ref("steps"))
		Label(l("stream"))
		MOVQ(U32(0), fresh)
		MOVQ(later, RCX)
		MOVQ(U32(0), later)
		Load(Param("next"), RAX)
		MOVQ(at(RAX, streamBase), RDX)
		MOVQ(at(RAX, streamTable), R15)
		MOVQ(at(RAX, streamAt), R14)
		MOVQ(at(RAX, streamPart), R13)
		MOVQ(at(RAX, streamStep), RAX)
		MOVQ(RAX, step)
		loop := func(name string, pack bool) {
			Label(l(name))
			loadB(0)
			if pack {
				packA(RBX)
			}
			ADDQ(step, R13)
			ADCQ(Imm(0), R14)
			MOVQ(Mem{Base: R15, Index: R14, Scale: 8}, RAX)
			multiply(A, 0)
			advance()
			loadB(vecs * v.bytes())
			PREFETCHT1(Mem{Base: RDX, Index: RAX, Scale: 1})
			PREFETCHT1(Mem{Base: RDX, Index: RAX, Scale: 1, Disp: 64})
			if pack {
				packA(RBX)
			}
			multiply(A, r)
			ADDQ(I32(2*vecs*v.bytes()), b)
			advance()
			DECQ(RCX)
			JNZ(ref(name))
		}
		Label(l("steps"))
		CMPQ(to, Imm(0))
		JEQ(ref("k"))
		MOVQ(c, savedC)
		MOVQ(to, RBX)
		loop("packA", true)
		MOVQ(RBX, to)
		MOVQ(savedC, c)
		JMP(ref("stepped"))
		loop("k", false)
		Label(l("stepped"))
		CMPQ(fresh, Imm(0))
		MOVQ(U32(0), fresh)
		JNE(ref("arrived"))
		CMPQ(step, Imm(0)) // several goroutines may share a stream that stands still
		JEQ(ref("arrived"))
		Load(Param("next"), RAX)
		MOVQ(R14, at(RAX, streamAt))
		MOVQ(R13, at(RAX, streamPart))
		Label(l("arrived"))
		CMPQ(later, Imm(0))
		JNE(ref("stream"))
		MOVQ(saved, left)

		Label(l("summed"))
		spill := func(i, j int) Mem { return at(RAX, (vecs*i+j)*v.bytes()) }
		Load(Param("next"), RAX)
		MOVQ(at(RAX, streamSums), RAX)
		CMPQ(spilled, Imm(0))
		JEQ(ref("first"))
		for i := range r {
			for j := range vecs {
				VADDPS(spill(i, j), acc(i, j), acc(i, j))
			}
		}
		Label(l("first"))
		TESTQ(left, left)
		JZ(ref("last"))
		for i := range r {
			for j := range vecs {
				VMOVUPS(acc(i, j), spill(i, j))
			}
		}
		MOVQ(U32(1), spilled)
		JMP(ref("chunk"))
		Label(l("last"))
		toC()
		Load(Param("cols"), RCX)
		CMPQ(RCX, U8(cols))
		JNE(ref("tail"))
		CMPB(param("add"), Imm(0))
		JEQ(ref("store"))
		each(func(m Mem, r VecPhysical, _ int) { VADDPS(m, r, r) })
		Label(l("store"))
		each(func(m Mem, r VecPhysical, _ int) { VMOVUPS(r, m) })
		Label(l("stored"))
		MOVQ(U32(0), src)
		ADDQ(stepC, c)
		MOVQ(stepA, RAX)
		ADDQ(RAX, panelA)
		DECQ(panelsLeft)
		JNZ(ref("panel"))
		JMP(LabelRef("done"))

		// While B is packed, there is one step of k at a time.
		Label(l("pack"))
		MOVQ(left, saved)
		MOVQ(c, savedC)
		MOVQ(at(RAX, streamBase), RDX)
		MOVQ(at(RAX, streamTable), R15)
		MOVQ(at(RAX, streamAt), R14)
		MOVQ(at(RAX, streamPart), R13)
		MOVQ(at(RAX, streamStep), RAX)
		MOVQ(RAX, step)
		loadBytes("lds", RBX)
		MOVQ(RBX, bytesB)
		MOVQ(src, RBX)
		Label(l("packing"))
		ADDQ(step, R13)
		ADCQ(Imm(0), R14)
		MOVQ(Mem{Base: R15, Index: R14, Scale: 8}, RAX)
		for j := range vecs {
			VMOVUPS(at(RBX, j*v.bytes()), bj[j])
			VMOVUPS(bj[j], at(b, j*v.bytes()))
		}
		PREFETCHT1(Mem{Base: RDX, Index: RAX, Scale: 1})
		PREFETCHT1(Mem{Base: RDX, Index: RAX, Scale: 1, Disp: 64})
		ADDQ(bytesB, RBX)
		ADDQ(I32(vecs*v.bytes()), b)
		multiply(A, 0)
		advance()
		DECQ(RCX)
		JNZ(ref("packing"))
		MOVQ(RBX, src)
		CMPQ(step, Imm(0))
		JEQ(ref("packed"))
		Load(Param("next"), RAX)
		MOVQ(R14, at(RAX, streamAt))
		MOVQ(R13, at(RAX, streamPart))
		Label(l("packed"))
		MOVQ(savedC, c)
		MOVQ(saved, left)
		JMP(ref("summed"))

		Label(l("tail"))
		t.store(RCX, l("storeTail"), ai[0], each)
		JMP(ref("stored"))
	}
	Label("done")
	VZEROUPPER()
	RET()
}

// param is the memory of a parameter.
func param(name string) Mem {
	p, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return p.Addr
}
