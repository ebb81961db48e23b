package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// ahead is how many rows before their use they are fetched: the processor
// itself does not see what is thousands of bytes apart.
const ahead = 8

// rows writes the kernels of products of a vector with a matrix whose rows lie
// apart, and may come from memory.
func rows(s isa) {
	const many = 4 // rows at a time
	// begin loads what both have in common. row is the memory of a vector of row
	// j behind from, which next moves on by so many bytes.
	begin := func(k *kernel) (w, n, width, rest, ld, ld3 GPVirtual) {
		w, n, width, ld = Load(Param("w"), GP64()).(GPVirtual), Load(Param("n"), GP64()).(GPVirtual), Load(Param("width"), GP64()).(GPVirtual), Load(Param("ld"), GP64()).(GPVirtual)
		SHLQ(Imm(2), ld)
		ld3, rest = GP64(), GP64()
		LEAQ(Mem{Base: ld, Index: ld, Scale: 2}, ld3)
		MOVQ(width, rest)
		ANDQ(Imm(uint64(k.lanes-1)), rest)
		k.maskOf(rest)
		SUBQ(rest, width)
		SHLQ(Imm(2), width) // bytes in whole vectors
		return w, n, width, rest, ld, ld3
	}
	row := func(from, ld, ld3 Register, j int) Mem {
		return [many]Mem{{Base: from}, {Base: from, Index: ld, Scale: 1}, {Base: from, Index: ld, Scale: 2}, {Base: from, Index: ld3, Scale: 1}}[j]
	}
	{
		k := function(s, "dotRows", "func(y, x, w *float32, n, width, ld int)",
			"for i := range n { y[i] = 0; for j := range width { y[i] += x[j] * w[i*ld+j] } }")
		y, x := pointer("y"), pointer("x")
		w, n, width, rest, ld, ld3 := begin(k)
		from, next, offset := GP64(), GP64(), GP64()
		group := func(count int, label string) {
			Label(label)
			CMPQ(n, Imm(uint64(count)))
			JLT(LabelRef(label + "end"))
			sums := make([]VecVirtual, many)
			for j := range sums {
				sums[j] = k.zero()
			}
			MOVQ(w, from)
			LEAQ(Mem{Base: w, Index: ld, Scale: ahead}, next)
			XORQ(offset, offset)
			step := func(masked bool) {
				at := Mem{Base: x, Index: offset, Scale: 1}
				v := k.load(at, masked)
				for j := range count {
					if masked {
						VFMADD231PS(k.load(row(from, ld, ld3, j), true), v, sums[j])
					} else {
						VFMADD231PS(row(from, ld, ld3, j), v, sums[j])
						PREFETCHT0(row(next, ld, ld3, j))
					}
				}
			}
			Label(label + "vector")
			CMPQ(offset, width)
			JGE(LabelRef(label + "rest"))
			step(false)
			for _, r := range []Register{from, next, offset} {
				ADDQ(Imm(uint64(4*k.lanes)), r)
			}
			JMP(LabelRef(label + "vector"))
			Label(label + "rest")
			TESTQ(rest, rest)
			JZ(LabelRef(label + "sum"))
			step(true)
			Label(label + "sum")
			t := k.sum4(sums)
			if count == many {
				VMOVUPS(t, Mem{Base: y})
				LEAQ(Mem{Base: w, Index: ld, Scale: many}, w)
			} else {
				VMOVSS(t, Mem{Base: y})
				ADDQ(ld, w)
			}
			ADDQ(Imm(uint64(4*count)), y)
			SUBQ(Imm(uint64(count)), n)
			JMP(LabelRef(label))
			Label(label + "end")
		}
		group(many, "four")
		group(1, "one")
		end()
	}
	{
		k := function(s, "sumRows", "func(y, p, w *float32, n, width, ld int)",
			"for j := range width { y[j] = 0; for i := range n { y[j] += p[i] * w[i*ld+j] } }")
		y, p := pointer("y"), pointer("p")
		w, n, width, rest, ld, ld3 := begin(k)
		from, next, weight, left := GP64(), GP64(), GP64(), GP64()
		// columns sums all rows of count vectors
		columns := func(count int, masked bool, label string) {
			sums := make([][2]VecVirtual, count)
			for j := range sums {
				sums[j] = [2]VecVirtual{k.zero(), k.zero()}
			}
			MOVQ(w, from)
			MOVQ(p, weight)
			LEAQ(Mem{Base: w, Index: ld, Scale: ahead}, next)
			step := func(i int) {
				v := k.vec()
				VBROADCASTSS(Mem{Base: weight, Disp: 4 * i}, v)
				for j := range count {
					m := row(from, ld, ld3, i).Offset(4 * k.lanes * j)
					if masked {
						VFMADD231PS(k.load(m, true), v, sums[j][i%2])
					} else {
						VFMADD231PS(m, v, sums[j][i%2])
						PREFETCHT0(row(next, ld, ld3, i).Offset(4 * k.lanes * j))
					}
				}
			}
			MOVQ(n, left)
			Label(label + "four")
			CMPQ(left, Imm(many))
			JLT(LabelRef(label + "one"))
			for i := range many {
				step(i)
			}
			LEAQ(Mem{Base: from, Index: ld, Scale: many}, from)
			LEAQ(Mem{Base: next, Index: ld, Scale: many}, next)
			ADDQ(Imm(4*many), weight)
			SUBQ(Imm(many), left)
			JMP(LabelRef(label + "four"))
			Label(label + "one")
			TESTQ(left, left)
			JZ(LabelRef(label + "store"))
			step(0)
			ADDQ(ld, from)
			ADDQ(Imm(4), weight)
			DECQ(left)
			JMP(LabelRef(label + "one"))
			Label(label + "store")
			for j, s := range sums {
				VADDPS(s[1], s[0], s[0])
				k.store(s[0], Mem{Base: y, Disp: 4 * k.lanes * j}, masked)
			}
		}
		for _, count := range []int{4, 1} {
			label := map[int]string{4: "wide", 1: "narrow"}[count]
			bytes := 4 * k.lanes * count
			Label(label)
			CMPQ(width, I32(int32(bytes)))
			JLT(LabelRef(label + "end"))
			columns(count, false, label)
			ADDQ(I32(int32(bytes)), w)
			ADDQ(I32(int32(bytes)), y)
			SUBQ(I32(int32(bytes)), width)
			JMP(LabelRef(label))
			Label(label + "end")
		}
		TESTQ(rest, rest)
		JZ(LabelRef("done"))
		columns(1, true, "rest")
		Label("done")
		end()
	}
}

// copies writes the kernels that move rows from one matrix to another.
func copies(s isa) {
	for _, scaled := range []bool{false, true} {
		name, signature, doc := "copyRows", "func(y, x *float32, ldy, ldx, n, width int)",
			"for i := range n { for j := range width { y[i*ldy+j] = x[i*ldx+j] } }"
		if scaled {
			name, signature, doc = "scaleRows", "func(y, x, r *float32, ldy, ldx, n, width int)",
				"for i := range n { for j := range width { y[i*ldy+j] = r[i] * x[i*ldx+j] } }"
		}
		k := function(s, name, signature, doc)
		y, x, ldy, ldx, n, width := pointer("y"), pointer("x"), pointer("ldy"), pointer("ldx"), pointer("n"), pointer("width")
		var r Register
		if scaled {
			r = pointer("r")
		}
		SHLQ(Imm(2), ldy)
		SHLQ(Imm(2), ldx)
		rest, offset := GP64(), GP64()
		MOVQ(width, rest)
		ANDQ(Imm(uint64(k.lanes-1)), rest)
		k.maskOf(rest)
		SUBQ(rest, width)
		SHLQ(Imm(2), width) // bytes in whole vectors
		by := k.vec()
		move := func(masked bool) {
			v := k.load(Mem{Base: x, Index: offset, Scale: 1}, masked)
			if scaled {
				VMULPS(by, v, v)
			}
			k.store(v, Mem{Base: y, Index: offset, Scale: 1}, masked)
		}
		Label("row")
		if scaled {
			VBROADCASTSS(Mem{Base: r}, by)
			ADDQ(Imm(4), r)
		}
		XORQ(offset, offset)
		Label("vector")
		CMPQ(offset, width)
		JGE(LabelRef("rest"))
		move(false)
		ADDQ(Imm(uint64(4*k.lanes)), offset)
		JMP(LabelRef("vector"))
		Label("rest")
		TESTQ(rest, rest)
		JZ(LabelRef("next"))
		move(true)
		Label("next")
		ADDQ(ldy, y)
		ADDQ(ldx, x)
		DECQ(n)
		JNZ(LabelRef("row"))
		end()
	}
}

// sum4 returns the sums of the lanes of four vectors, which it overwrites.
func (k *kernel) sum4(v []VecVirtual) Register {
	if k.wide() {
		for _, x := range v {
			y := YMM()
			VEXTRACTF64X4(Imm(1), x, y)
			VADDPS(y, x.AsY(), x.AsY())
		}
	}
	a, b, c, d := v[0].AsY(), v[1].AsY(), v[2].AsY(), v[3].AsY()
	VHADDPS(b, a, a)
	VHADDPS(d, c, c)
	VHADDPS(c, a, a)
	x := k.upper(a)
	VADDPS(x, v[0].AsX(), x)
	return x
}
