package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// thinTile is so many rows of W by vecs vectors of xᵀ, each in sums sums, and how
// many steps of k are taken at a time. In pairs, the lanes are two of k for each
// row of x: two sums, and a load of W serves more multiply-adds.
type thinTile struct {
	rows, vecs, sums, unroll int
	pairs                    bool
	streams                  bool // are the rows of a group as far apart as there are groups?
}

// thin writes the kernel for x of few rows: W, where it lies and in order,
// times xᵀ, lanes along the rows of x. A float of W is loaded once.
func thin(v isa, t thinTile) {
	unroll := t.unroll
	const ( // bytes
		line  = 64
		page  = 4096
		extra = 16 << 10
		near  = 512
	)
	cols := t.vecs * v.lanes
	per, sums, xt := 1, t.sums, "xt[l*%d+i]"
	if t.pairs {
		per, sums, cols, xt = 2, 2, cols/2, "xt[l/2*2*%d+2*i+l%%2]"
	}
	xt = fmt.Sprintf(xt, cols)
	kind, order := "thin", "It reads W once and in order, and fetches what lies behind the next group."
	if t.streams {
		kind = "streams"
		order = fmt.Sprintf("It reads W once, in %d streams: a group is every groups-th row.", t.rows)
	}
	name := fmt.Sprintf("%s%s_%dx%d", kind, v.name, t.rows, cols)
	TEXT(name, NOSPLIT, "func(yt, xt, w *float32, k, chunk, groups int)")
	Pragma("noescape")
	decl, sum, last := "var s float32", "s", "s"
	if sums > 1 {
		decl, sum, last = fmt.Sprintf("var s [%d]float32", sums), fmt.Sprintf("s[(l-k0)%%%d]", sums), "s[0] + s[1]"
	}
	Doc(name+fmt.Sprintf(" multiplies groups of %d rows of W [, k] with xᵀ [k, %d]:", t.rows, cols), "",
		fmt.Sprintf("\tfor j := range %d * groups {", t.rows),
		fmt.Sprintf("\t\tfor i := range %d {", cols),
		"\t\t\tvar y float32",
		"\t\t\tfor k0 := 0; k0 < k; k0 += chunk {",
		"\t\t\t\t"+decl,
		"\t\t\t\tfor l := k0; l < min(k, k0+chunk); l++ {",
		fmt.Sprintf("\t\t\t\t\t%s = fma(w[j*k+l], %s, %s)", sum, xt, sum),
		"\t\t\t\t}",
		"\t\t\t\ty += "+last,
		"\t\t\t}",
		fmt.Sprintf("\t\t\tyt[j*%d+i] = y", cols),
		"\t\t}",
		"\t}", "",
		order)
	var (
		bases               = ceil(t.rows, perBase)
		g                   = grid{[]GPPhysical{RDI, R8, R9, RAX, R15}[:bases], R11, R12}
		gt                  = grid{[]GPPhysical{R10, R14}[:min(bases, 2)], RAX, R15} // of yᵀ, for streams
		x, left, count, pre = RSI, RDX, RCX, R10
		w, yt               = R13, RBX
		groups, fresh       = AllocLocal(8), AllocLocal(8)
		acc                 = func(i, j, s int) VecPhysical { return v.reg[(i*t.vecs+j)*t.sums+s] }
		used                = t.rows * t.vecs * t.sums
		free                = v.reg[used:]
	)
	Load(Param("yt"), yt)
	Load(Param("w"), w)
	Load(Param("groups"), RAX)
	MOVQ(RAX, groups)
	loadBytes("k", g.ld)
	LEAQ(Mem{Base: g.ld, Index: g.ld, Scale: 2}, g.ld3)
	pages := t.rows * unroll * 4 / line
	if t.streams {
		// Each stream goes on in the next group, so that the processor's own
		// prefetchers need not begin anew.
		IMULQ(groups, g.ld)
		LEAQ(Mem{Base: g.ld, Index: g.ld, Scale: 2}, g.ld3)
		MOVQ(w, g.base[0])
		g.spread()
		IMUL3Q(U32(uint32(4*cols)), RAX, gt.ld)
		LEAQ(Mem{Base: gt.ld, Index: gt.ld, Scale: 2}, gt.ld3)
	} else {
		// The next group is prefetched, a line of each of some pages in turn: the
		// processor's own prefetchers begin anew in every page.
		MOVQ(w, pre)
		for range t.rows {
			ADDQ(g.ld, pre)
		}
		ADDQ(U32(extra), pre)
		ANDQ(I32(-page), pre)
	}

	turn := 0
	// step is one of k, s behind x, into the sum lane. The lines to fetch are
	// spread, since all at once they would wait for each other.
	step := func(s, lane int, fetch bool) {
		one := t.pairs && s < 0 // the last of an odd k: the other lanes of pairs are 0
		s = max(s, 0)
		xs := free[:t.vecs]
		if len(v.reg) == 32 && t.vecs == 1 {
			xs = free[turn%len(free):][:1]
			turn++
		}
		for j := range t.vecs {
			VMOVUPS(at(x, (s/per*t.vecs+j)*v.bytes()), xs[j])
			if one {
				VPSLLQ(Imm(32), xs[j], xs[j])
				VPSRLQ(Imm(32), xs[j], xs[j])
			}
		}
		for i := range t.rows {
			switch n := s*t.rows + per*i; {
			case !fetch:
			case t.streams && s == i*unroll/t.rows/per*per:
				PREFETCHT0(g.row(i, near))
			case !t.streams && n%(line/4) == 0:
				PREFETCHT1(at(pre, page*(n/(line/4))))
			}
			m := g.row(i, 4*s)
			if len(v.reg) == 32 && t.vecs == 1 {
				VFMADD231PS_BCST(m, xs[0], acc(i, 0, lane))
				continue
			}
			b := free[t.vecs+turn%(len(free)-t.vecs)]
			turn++
			if t.pairs && !one {
				VBROADCASTSD(m, b)
			} else {
				VBROADCASTSS(m, b)
			}
			if one {
				VPSRLQ(Imm(32), b, b)
			}
			for j := range t.vecs {
				VFMADD231PS(xs[j], b, acc(i, j, lane))
			}
		}
	}
	advance := func(n int) {
		ADDQ(I32(n/per*t.vecs*v.bytes()), x)
		for _, p := range g.base {
			ADDQ(Imm(uint64(4*n)), p)
		}
	}

	Label("group")
	if !t.streams {
		MOVQ(w, g.base[0])
		g.spread()
	}
	Load(Param("xt"), x)
	Load(Param("k"), left)
	MOVQ(U32(1), fresh)
	Label("chunk")
	for i := range used {
		v.zero(v.reg[i])
	}
	Load(Param("chunk"), count)
	CMPQ(count, left)
	CMOVQGT(left, count)
	SUBQ(count, left)
	SUBQ(Imm(uint64(unroll)), count)
	JLT(LabelRef("rest"))
	Label("k")
	for s := 0; s < unroll; s += per {
		step(s, s%t.sums, true)
	}
	if !t.streams {
		ADDQ(U32(line), pre)
		TESTQ(U32(page-1), pre)
		JNZ(LabelRef("inPage"))
		ADDQ(U32((pages-1)*page), pre)
		Label("inPage")
	}
	advance(unroll)
	SUBQ(Imm(uint64(unroll)), count)
	JGE(LabelRef("k"))
	Label("rest")
	ADDQ(Imm(uint64(unroll)), count)
	if sums > 1 {
		SUBQ(Imm(uint64(sums)), count)
		JLT(LabelRef("single"))
		Label("pair")
		for s := range t.sums {
			step(s, s, false)
		}
		advance(sums)
		SUBQ(Imm(uint64(sums)), count)
		JGE(LabelRef("pair"))
		Label("single")
		ADDQ(Imm(uint64(sums)), count)
	}
	JZ(LabelRef("sum"))
	Label("one")
	step(-1, 0, false)
	advance(1)
	DECQ(count)
	JNZ(LabelRef("one"))
	Label("sum")
	if t.streams {
		MOVQ(yt, gt.base[0])
		gt.spread()
	}
	each := func(f func(m Mem, r Register)) {
		for i := range t.rows {
			for j := 0; j < t.vecs; j += per {
				m := at(yt, 4*(i*cols+j/per*v.lanes))
				if t.streams {
					m = gt.row(i, 4*(j/per*v.lanes))
				}
				switch r := acc(i, j, 0); {
				case j+per <= t.vecs:
					f(m, r)
				case v.lanes == 16: // half a vector
					f(m, r.AsY())
				default:
					f(m, r.AsX())
				}
			}
		}
	}
	if t.pairs {
		even, odd := free[0], free[1]
		if v.lanes == 16 {
			VMOVUPS(NewDataAddr(Symbol{Name: "lanesOfPairs", Static: true}, 0), even)
			VMOVUPS(NewDataAddr(Symbol{Name: "lanesOfPairs", Static: true}, 64), odd)
		}
		for i := range t.rows {
			for j := 0; j < t.vecs; j += 2 {
				a, b := acc(i, j, 0), acc(i, min(j+1, t.vecs-1), 0)
				if v.lanes == 8 {
					VHADDPS(b, a, a)
					VPERMPD(Imm(0xd8), a, a) // of both halves, the lanes of a, then of b
					continue
				}
				VMOVAPS(a, free[2])
				VPERMT2PS(b, even, free[2])
				VPERMT2PS(b, odd, a)
				VADDPS(a, free[2], a)
			}
		}
	}
	for i := range t.rows {
		for j := range t.vecs {
			for s := 1; s < t.sums; s++ {
				VADDPS(acc(i, j, s), acc(i, j, 0), acc(i, j, 0))
			}
		}
	}
	CMPQ(fresh, Imm(0))
	JNZ(LabelRef("first"))
	each(func(m Mem, r Register) { VADDPS(m, r, r) })
	Label("first")
	each(func(m Mem, r Register) { VMOVUPS(r, m) })
	MOVQ(U32(0), fresh)
	TESTQ(left, left)
	JNZ(LabelRef("chunk"))
	if t.streams {
		ADDQ(I32(cols*4), yt)
	} else {
		ADDQ(I32(t.rows*cols*4), yt)
		for n := t.rows; n > 0; {
			s := 1
			for 2*s <= min(n, 8) {
				s *= 2
			}
			LEAQ(Mem{Base: w, Index: g.ld, Scale: uint8(s)}, w)
			n -= s
		}
	}
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// pairTable is the even lanes of two vectors, and the odd ones.
func pairTable() {
	GLOBL("lanesOfPairs", RODATA|NOPTR)
	for i := range 32 {
		DATA(4*i, U32(2*i%32+i/16))
	}
}
