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

// twice writes the kernel for few products an element of dW, in two sums: three
// rows of the tile at a time, whole groups of columns.
func twice(v isa) {
	const some, sums = 3, 2
	rows, vecs := v.tile.rows, v.tile.vecs
	cols := vecs * v.lanes
	name := fmt.Sprintf("twice%s_%dx%d", v.name, rows, cols)
	TEXT(name, NOSPLIT, "func(c, a, b *float32, ldc, ldb, k, groups int)")
	Pragma("noescape")
	Doc(name+fmt.Sprintf(" multiplies %d rows of A, [k, %d], with B:", rows, rows), "",
		fmt.Sprintf("\tfor i := range %d {", rows),
		fmt.Sprintf("\t\tfor j := range %d * groups {", cols),
		"\t\t\tvar s [2]float32",
		"\t\t\tfor l := range k {",
		"\t\t\t\th := l / ((k + 1) / 2)",
		fmt.Sprintf("\t\t\t\ts[h] = fma(a[l*%d+i], b[l*ldb+j], s[h])", rows),
		"\t\t\t}",
		"\t\t\tc[i*ldc+j] = c[i*ldc+j] + s[0] + s[1]",
		"\t\t}",
		"\t}", "",
		"That is what strip does with half of the products, then with the others. It",
		"fetches the next rows of C.")
	var (
		c      = grid{[]GPPhysical{RDI, R14}, R8, R9}
		next   = grid{[]GPPhysical{R13}, R8, R9}
		a, b   = RDX, RBX
		a1, b1 = RAX, R15 // from there to the other half
		ldb, l = R11, RCX
		acc    = func(i, j, s int) VecPhysical { return v.reg[(i*vecs+j)*sums+s] }
		bj     = v.reg[some*vecs*sums:][:vecs]
		ai     = v.reg[some*vecs*sums+vecs:]
	)
	Load(Param("c"), c.base[0])
	Load(Param("a"), RSI)
	Load(Param("b"), R10)
	loadBytes("ldc", c.ld)
	loadBytes("ldb", ldb)
	Load(Param("groups"), R12)
	LEAQ(Mem{Base: c.ld, Index: c.ld, Scale: 2}, c.ld3)
	Load(Param("k"), b1)
	INCQ(b1)
	SHRQ(Imm(1), b1)
	IMUL3Q(U32(uint32(4*rows)), b1, a1)
	IMULQ(ldb, b1)
	Label("group")
	c.spread()
	for h := range rows / some {
		to := func(s string) string { return fmt.Sprintf("%s%d", s, h) }
		step := func(s int) {
			for j := range vecs {
				m := at(b, j*v.bytes())
				if s > 0 {
					m.Index, m.Scale = b1, 1
				}
				VMOVUPS(m, bj[j])
			}
			for i := range some {
				x, m := ai[i%len(ai)], at(a, 4*(h*some+i))
				if s > 0 {
					m.Index, m.Scale = a1, 1
				}
				VBROADCASTSS(m, x)
				for j := range vecs {
					VFMADD231PS(bj[j], x, acc(i, j, s))
				}
			}
		}
		for i := range some * vecs * sums {
			v.zero(v.reg[i])
		}
		MOVQ(RSI, a)
		MOVQ(R10, b)
		Load(Param("k"), l)
		SHRQ(Imm(1), l)
		Label(to("k"))
		step(0)
		step(1)
		ADDQ(ldb, b)
		ADDQ(Imm(uint64(4*rows)), a)
		DECQ(l)
		JNZ(LabelRef(to("k")))
		Load(Param("k"), l)
		TESTQ(U32(1), l)
		JZ(LabelRef(to("sum")))
		step(0)
		Label(to("sum"))
		LEAQ(c.row(h*some, 0), next.base[0])
		for range rows / some {
			ADDQ(c.ld3, next.base[0])
		}
		for i := range some {
			for line := range cols / 16 {
				PREFETCHT1(next.row(i, 64*line))
			}
			for j := range vecs {
				m, r := c.row(h*some+i, j*v.bytes()), acc(i, j, 0)
				VADDPS(m, r, r)
				VADDPS(r, acc(i, j, 1), r)
			}
		}
		for i := range some { // not earlier: loads wait for stores that may be to the same place in a page
			for j := range vecs {
				VMOVUPS(acc(i, j, 0), c.row(h*some+i, j*v.bytes()))
			}
		}
	}
	ADDQ(I32(4*cols), c.base[0])
	ADDQ(I32(4*cols), R10)
	DECQ(R12)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}
