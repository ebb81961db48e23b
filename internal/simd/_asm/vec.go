package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set by the number of float32 in its vectors.
type isa struct {
	name  string
	lanes int
}

var (
	avx2   = isa{"AVX2", 8}
	avx512 = isa{"AVX512", 16}
)

func (s isa) wide() bool { return s == avx512 }

// vec is a new vector register.
func (s isa) vec() VecVirtual {
	if s.wide() {
		return ZMM()
	}
	return YMM()
}

// half is the lower half of a vector.
func (s isa) half(v VecVirtual) Register {
	if s.wide() {
		return v.AsY()
	}
	return v.AsX()
}

// newHalf is a new register of half a vector.
func (s isa) newHalf() VecVirtual {
	if s.wide() {
		return YMM()
	}
	return XMM()
}

// kernel is a function that is being written.
type kernel struct {
	isa
	mask Register // of the lanes that the rest of a slice has: an opmask or a vector
	loop string   // begins the labels of a walk that is not the only one
}

// function begins a kernel named for its operation and instruction set. doc is
// its Go loop.
func function(s isa, name, signature, doc string) *kernel {
	TEXT(name+s.name, NOSPLIT, signature)
	Doc(name+s.name+" is", "", "\t"+doc)
	Pragma("noescape")
	return &kernel{isa: s}
}

func pointer(name string) Register { return Load(Param(name), GP64()) }

// argument is a vector of copies of a float32 argument.
func (k *kernel) argument(name string) VecVirtual {
	v := k.vec()
	VBROADCASTSS(NewParamAddr(name, offsetOf(name)), v)
	return v
}

// source is a vector where it is read: in a register from the start where there
// are 32.
type source func() VecVirtual

// source is the argument of that name.
func (k *kernel) source(name string) source {
	if !k.wide() {
		return func() VecVirtual { return k.argument(name) }
	}
	v := k.argument(name)
	return func() VecVirtual { return v }
}

func offsetOf(name string) int {
	b, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr.Disp
}

var constants = map[uint32]Mem{}

// constant is a vector of copies of v: a register where there are 32, memory
// where there are 16. It may only be the first source of an instruction.
func (k *kernel) constant(v float32) Op {
	m := constantMem(v)
	if !k.wide() {
		return m
	}
	r := k.vec()
	VBROADCASTSS(m, r)
	return r
}

// constantMem is copies of v in memory, enough for AVX2.
func constantMem(v float32) Mem {
	bits := math.Float32bits(v)
	m, ok := constants[bits]
	if !ok {
		m = GLOBL(fmt.Sprintf("c%08x", bits), RODATA|NOPTR)
		for i := range avx2.lanes {
			DATA(4*i, U32(bits))
		}
		constants[bits] = m
	}
	return m
}

// zero is a new vector of zeros.
func (k *kernel) zero() VecVirtual {
	v := k.vec()
	VXORPS(v.AsY(), v.AsY(), v.AsY())
	return v
}

// load is a new vector with the elements at m, or those of the mask and zeros.
func (k *kernel) load(m Mem, masked bool) VecVirtual {
	v := k.vec()
	switch {
	case !masked:
		VMOVUPS(m, v)
	case k.wide():
		VMOVUPS_Z(m, k.mask, v)
	default:
		VMASKMOVPS(m, k.mask, v)
	}
	return v
}

// store writes v to m, or its lanes of the mask.
func (k *kernel) store(v VecVirtual, m Mem, masked bool) {
	switch {
	case !masked:
		VMOVUPS(v, m)
	case k.wide():
		VMOVUPS(v, k.mask, m)
	default:
		VMASKMOVPS(v, k.mask, m)
	}
}

// clip sets the lanes of v outside the mask to 0.
func (k *kernel) clip(v VecVirtual, masked bool) {
	switch {
	case !masked:
	case k.wide():
		VMOVAPS_Z(v, k.mask, v)
	default:
		VANDPS(k.mask, v, v)
	}
}

var tails Mem

// maskOf makes the mask of the first n < lanes lanes.
func (k *kernel) maskOf(n Register) {
	if k.wide() {
		bits := GP32()
		MOVL(I32(-1), bits)
		MOVQ(n, RCX)
		SHLL(CL, bits)
		NOTL(bits)
		k.mask = K()
		KMOVW(bits, k.mask)
		return
	}
	if tails.Base == nil {
		tails = GLOBL("tails", RODATA|NOPTR)
		for i := range 2 * avx2.lanes {
			bits := U32(0)
			if i < avx2.lanes {
				bits = 0xffffffff
			}
			DATA(4*i, bits)
		}
	}
	at := GP64()
	LEAQ(tails.Offset(4*avx2.lanes), at)
	back := GP64()
	MOVQ(n, back)
	SHLQ(Imm(2), back)
	SUBQ(back, at)
	k.mask = YMM()
	VMOVDQU(Mem{Base: at}, k.mask)
}

// walk calls body to write the code for count vectors at a time: many (of 8
// then 4), then one, then one of which only the lanes of the mask are there. at gives the
// memory of the i-th of these vectors behind a pointer. n is used up.
func (k *kernel) walk(n Register, many int, body func(at func(p Register, i int) Mem, count int, masked bool)) {
	offset := GP64() // bytes
	XORQ(offset, offset)
	at := func(p Register, i int) Mem {
		return Mem{Base: p, Index: offset, Scale: 1, Disp: 4 * k.lanes * i}
	}
	counts := []int{many, 1}
	if many == 8 {
		counts = []int{8, 4, 1}
	}
	for _, count := range counts {
		label := fmt.Sprintf("%sby%d", k.loop, count)
		Label(label)
		CMPQ(n, I32(int32(count*k.lanes)))
		JLT(LabelRef(label + "end"))
		body(at, count, false)
		ADDQ(I32(int32(4*count*k.lanes)), offset)
		SUBQ(I32(int32(count*k.lanes)), n)
		JMP(LabelRef(label))
		Label(label + "end")
		if many == 1 {
			break
		}
	}
	TESTQ(n, n)
	JZ(LabelRef(k.loop + "done"))
	k.maskOf(n)
	body(at, 1, true)
	Label(k.loop + "done")
}

// prefetch asks for what walk will read distance bytes later, far enough ahead
// that the next page has come when the loop gets there.
func prefetch(op func(Op), at func(p Register, i int) Mem, p Register, i, distance int) {
	op(at(p, i).Offset(distance))
}

// wideSum is a sum of float32 vectors in float64.
type wideSum struct {
	*kernel
	low, high VecVirtual
	memory    Mem // where they are, if not in registers
}

func (k *kernel) wideSum() wideSum { return wideSum{kernel: k, low: k.zero(), high: k.zero()} }

// wideSumApart is a wideSum that takes no registers, which AVX2 has few of.
func (k *kernel) wideSumApart() wideSum {
	s := k.wideSum()
	if !k.wide() {
		s.memory = AllocLocal(64)
		VMOVUPD(s.low, s.memory)
		VMOVUPD(s.high, s.memory.Offset(32))
	}
	return s
}

// here is the sum in registers.
func (s wideSum) here() wideSum {
	if s.memory.Base != nil {
		s.low, s.high = s.vec(), s.vec()
		VMOVUPD(s.memory, s.low)
		VMOVUPD(s.memory.Offset(32), s.high)
		s.memory = Mem{}
	}
	return s
}

// add adds every lane of v.
func (s wideSum) add(v VecVirtual) {
	low, high, upper := s.vec(), s.vec(), s.newHalf()
	VCVTPS2PD(s.half(v), low)
	if s.wide() {
		VEXTRACTF64X4(Imm(1), v, upper)
	} else {
		VEXTRACTF128(Imm(1), v, upper)
	}
	VCVTPS2PD(upper, high)
	if s.memory.Base != nil {
		VADDPD(s.memory, low, low)
		VADDPD(s.memory.Offset(32), high, high)
		VMOVUPD(low, s.memory)
		VMOVUPD(high, s.memory.Offset(32))
		return
	}
	VADDPD(low, s.low, s.low)
	VADDPD(high, s.high, s.high)
}

// ret returns the sum of all lanes.
func (s wideSum) ret() {
	Store(s.total(), ReturnIndex(0))
	end()
}

// total is the sum of all lanes.
func (s wideSum) total() Register {
	VADDPD(s.high, s.low, s.low)
	if s.wide() {
		y := YMM()
		VEXTRACTF64X4(Imm(1), s.low, y)
		VADDPD(y, s.low.AsY(), s.low.AsY())
	}
	x := s.upper(s.low.AsY())
	VADDPD(x, s.low.AsX(), s.low.AsX())
	VPERMILPD(Imm(1), s.low.AsX(), x)
	VADDSD(x, s.low.AsX(), s.low.AsX())
	return s.low.AsX()
}

// upper is the upper half of 256 bits. (VEXTRACTF128 cannot name the registers
// from 16 on.)
func (k *kernel) upper(y Register) VecVirtual {
	x := XMM()
	if k.wide() {
		VEXTRACTF32X4(Imm(1), y, x)
	} else {
		VEXTRACTF128(Imm(1), y, x)
	}
	return x
}

// end is the end of a kernel.
func end() {
	VZEROUPPER()
	RET()
}
