// Command _asm writes the amd64 kernels of package gemm; go generate in the
// directory above runs it.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set: its vector registers, and what they hold of C.
type isa struct {
	name  string
	reg   []VecPhysical
	lanes int
	tile  tile // of products
	thin  []thinTile
}

// tile is so many rows of so many vectors.
type tile struct{ rows, vecs int }

var (
	avx512 = isa{"AVX512", []VecPhysical{Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31}, 16, tile{9, 3},
		[]thinTile{{8, 1, 2, 16, false, false}, {8, 3, 1, 8, true, false}, {14, 2, 1, 8, false, false}, {8, 3, 1, 8, false, false}}}
	avx2 = isa{"AVX2", []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}, 8, tile{6, 2},
		[]thinTile{{5, 1, 1, 16, true, false}, {6, 2, 1, 16, true, false}, {4, 3, 1, 16, true, false}, {8, 1, 1, 16, true, true}, {6, 2, 1, 16, true, true}, {4, 3, 1, 16, true, true}, {6, 2, 1, 16, false, true}}}
)

func main() {
	ConstraintExpr("!purego")
	maskTable()
	pairTable()
	for _, v := range []isa{avx512, avx2} {
		gemm(v)
		copyPanels(v)
		dot(v)
		strip(v)
		twice(v)
		for _, t := range v.thin {
			thin(v, t)
		}
	}
	rank(avx2)
	small(avx512)
	small(avx2)
	transposeAVX512()
	transposeAVX2()
	Generate()
}

// directDoc is the comment of a kernel that takes A and B where they lie.
func directDoc(title, rows, cols string, after ...string) {
	Doc(append([]string{title, "",
		"\tfor i := range rows { // " + rows,
		"\t\tfor j := range cols {" + cols,
		"\t\t\tvar sum float32",
		"\t\t\tfor l := range k {",
		"\t\t\t\tsum = fma(a[i*lda+l*ka], b[l*ldb+j], sum)",
		"\t\t\t}",
		"\t\t\tif add {",
		"\t\t\t\tsum += c[i*ldc+j]",
		"\t\t\t}",
		"\t\t\tc[i*ldc+j] = sum",
		"\t\t}",
		"\t}", ""}, after...)...)
}

func (v isa) bytes() int { return 4 * v.lanes }

func (v isa) zero(r VecPhysical) {
	if len(v.reg) == 32 {
		VPXORD(r, r, r)
	} else {
		VXORPS(r, r, r)
	}
}

// at is the memory disp bytes behind base.
func at(base Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

// grid addresses the rows of a matrix: base[q] points to row 5q, ld is the
// distance of two rows in bytes, ld3 three times that.
type grid struct {
	base    []GPPhysical
	ld, ld3 GPPhysical
}

const perBase = 5

func ceil(a, b int) int { return (a + b - 1) / b }

// spread makes the other base registers from the first.
func (g grid) spread() {
	for q := 1; q < len(g.base); q++ {
		LEAQ(Mem{Base: g.base[q-1], Index: g.ld, Scale: 4}, g.base[q])
		ADDQ(g.ld, g.base[q])
	}
}

func (g grid) row(i, disp int) Mem {
	m := at(g.base[i/perBase], disp)
	switch i % perBase {
	case 1:
		m.Index, m.Scale = g.ld, 1
	case 2:
		m.Index, m.Scale = g.ld, 2
	case 3:
		m.Index, m.Scale = g.ld3, 1
	case 4:
		m.Index, m.Scale = g.ld, 4
	}
	return m
}

// loadBytes loads a parameter that counts float32, and makes it count bytes.
func loadBytes(param string, r GPPhysical) {
	Load(Param(param), r)
	SHLQ(Imm(2), r)
}

// tail is two or three vectors of which only the first lanes are meant: opmasks
// in AVX-512, vectors in AVX2.
type tail struct {
	v    isa
	k    [3]OpmaskPhysical
	m    [2]VecPhysical
	from Mem // where the vectors are, for load
}

// newTail makes the masks of the first cols lanes; cols is overwritten.
func (v isa) newTail(cols, tmp GPPhysical) tail {
	t := tail{v: v, k: [3]OpmaskPhysical{K1, K2, K3}, m: [2]VecPhysical{Y12, Y13}}
	if v.lanes == 8 {
		t.from = AllocLocal(8)
	}
	t.set(cols, tmp)
	return t
}

// set makes the masks; cols is overwritten.
func (t tail) set(cols, tmp GPPhysical) {
	if t.v.lanes == 16 {
		MOVQ(I32(-1), tmp)
		BZHIQ(cols, tmp, tmp)
		KMOVW(tmp.As32(), K1)
		for _, k := range t.k[1:] {
			SHRQ(Imm(16), tmp)
			KMOVW(tmp.As32(), k)
		}
	} else {
		LEAQ(NewDataAddr(Symbol{Name: "lanes", Static: true}, 64), tmp)
		SHLQ(Imm(2), cols)
		SUBQ(cols, tmp)
		MOVQ(tmp, t.from)
	}
}

// load brings the masks into registers: Y12 and Y13 in AVX2.
func (t tail) load(tmp GPPhysical) {
	if t.v.lanes == 8 {
		MOVQ(t.from, tmp)
		VMOVUPS(at(tmp, 0), Y12)
		VMOVUPS(at(tmp, 32), Y13)
	}
}

// read loads vector j; lanes beyond are 0.
func (t tail) read(m Mem, j int, r VecPhysical) {
	if t.v.lanes == 16 {
		VMOVUPS_Z(m, t.k[j], r)
	} else {
		VMASKMOVPS(m, t.m[j], r)
	}
}

func (t tail) write(r VecPhysical, j int, m Mem) {
	if t.v.lanes == 16 {
		VMOVUPS(r, t.k[j], m)
	} else {
		VMASKMOVPS(r, t.m[j], m)
	}
}

// store stores the vectors that each goes through, plus what is there where the
// argument add says so. label is free, and so are tmp and x.
func (t tail) store(tmp GPPhysical, label string, x VecPhysical, each func(func(m Mem, r VecPhysical, j int))) {
	t.load(tmp)
	CMPB(param("add"), Imm(0))
	JEQ(LabelRef(label))
	each(func(m Mem, r VecPhysical, j int) {
		t.read(m, j, x)
		VADDPS(x, r, r)
	})
	Label(label)
	each(func(m Mem, r VecPhysical, j int) { t.write(r, j, m) })
}

// maskTable is 16 lanes that are meant, then 16 that are not.
func maskTable() {
	GLOBL("lanes", RODATA|NOPTR)
	for i := range 32 {
		v := U32(0)
		if i < 16 {
			v = ^v
		}
		DATA(4*i, v)
	}
}
