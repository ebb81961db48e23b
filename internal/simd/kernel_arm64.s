//go:build !purego

#include "textflag.h"

// NEON kernels, written by hand. A loop takes four vectors of four float32 at a
// time, then single elements, in the first lane of the same instructions: an
// element gets the same bits wherever it lies. The scalar load that fills the
// first lane clears the others.

// Instructions that the assembler does not know: operands are numbers of V
// registers, in the order of Go's assembler: (m, n, d) is d = n op m.
#define FADD4S(m, n, d)  WORD $(0x4E20D400 | (m)<<16 | (n)<<5 | (d))
#define FSUB4S(m, n, d)  WORD $(0x4EA0D400 | (m)<<16 | (n)<<5 | (d))
#define FMUL4S(m, n, d)  WORD $(0x6E20DC00 | (m)<<16 | (n)<<5 | (d))
#define FDIV4S(m, n, d)  WORD $(0x6E20FC00 | (m)<<16 | (n)<<5 | (d))
#define FMLA4S(m, n, d)  WORD $(0x4E20CC00 | (m)<<16 | (n)<<5 | (d)) // d += n·m
#define FMLS4S(m, n, d)  WORD $(0x4EA0CC00 | (m)<<16 | (n)<<5 | (d)) // d -= n·m
#define FMAX4S(m, n, d)  WORD $(0x4E20F400 | (m)<<16 | (n)<<5 | (d)) // NaN if one is
#define FMIN4S(m, n, d)  WORD $(0x4EA0F400 | (m)<<16 | (n)<<5 | (d))
#define FCMGT4S(m, n, d) WORD $(0x6EA0E400 | (m)<<16 | (n)<<5 | (d)) // ones where n > m
#define BIT(m, n, d)     WORD $(0x6EA01C00 | (m)<<16 | (n)<<5 | (d)) // d = n where m has ones
#define ADD4S(m, n, d)   WORD $(0x4EA08400 | (m)<<16 | (n)<<5 | (d))
#define SUB4S(m, n, d)   WORD $(0x6EA08400 | (m)<<16 | (n)<<5 | (d))
#define MOV(n, d)        WORD $(0x4EA01C00 | (n)<<16 | (n)<<5 | (d))
#define FNEG4S(n, d)     WORD $(0x6EA0F800 | (n)<<5 | (d))
#define FSQRT4S(n, d)    WORD $(0x6EA1F800 | (n)<<5 | (d))
#define FRINTN4S(n, d)   WORD $(0x4E218800 | (n)<<5 | (d)) // to the nearest integer
#define FCVTNS4S(n, d)   WORD $(0x4E21A800 | (n)<<5 | (d)) // to int32
#define SSHR1(n, d)      WORD $(0x4F3F0400 | (n)<<5 | (d)) // >> 1
#define SHL23(n, d)      WORD $(0x4F375400 | (n)<<5 | (d)) // << 23
#define FCVTL(n, d)      WORD $(0x0E617800 | (n)<<5 | (d)) // float64 of the lower two
#define FCVTL2(n, d)     WORD $(0x4E617800 | (n)<<5 | (d)) // and of the upper two
#define FADD2D(m, n, d)  WORD $(0x4E60D400 | (m)<<16 | (n)<<5 | (d))
#define FMLA2D(m, n, d)  WORD $(0x4E60CC00 | (m)<<16 | (n)<<5 | (d))
#define FADDP2D(n, d)    WORD $(0x7E70D800 | (n)<<5 | (d)) // the sum of the two

// Constants of e^x, and where EXPINIT puts them.
DATA expconst<>+0(SB)/4, $-104.0
DATA expconst<>+4(SB)/4, $89.0
DATA expconst<>+8(SB)/4, $1.44269504088896341
DATA expconst<>+12(SB)/4, $0.693359375
DATA expconst<>+16(SB)/4, $-2.12194440e-4
DATA expconst<>+20(SB)/4, $0.0013820735
DATA expconst<>+24(SB)/4, $0.00836867746
DATA expconst<>+28(SB)/4, $0.0416682661
DATA expconst<>+32(SB)/4, $0.166665211
DATA expconst<>+36(SB)/4, $0.49999994
DATA expconst<>+40(SB)/4, $1.0
DATA expconst<>+44(SB)/4, $127
GLOBL expconst<>(SB), RODATA|NOPTR, $48

#define EXPINIT(r) \
	MOVD $expconst<>(SB), r \
	VLD1R.P 4(r), [V20.S4] \
	VLD1R.P 4(r), [V21.S4] \
	VLD1R.P 4(r), [V22.S4] \
	VLD1R.P 4(r), [V23.S4] \
	VLD1R.P 4(r), [V24.S4] \
	VLD1R.P 4(r), [V25.S4] \
	VLD1R.P 4(r), [V26.S4] \
	VLD1R.P 4(r), [V27.S4] \
	VLD1R.P 4(r), [V28.S4] \
	VLD1R.P 4(r), [V29.S4] \
	VLD1R.P 4(r), [V30.S4] \
	VLD1R.P 4(r), [V31.S4]

// EXP replaces x by e^x; n, p and t are temporary. See Exp for how.
#define EXP(x, n, p, t) \
	FMAX4S(20, x, x) \
	FMIN4S(21, x, x) \
	FMUL4S(22, x, n) \
	FRINTN4S(n, n) \
	FMLS4S(23, n, x) \
	FMLS4S(24, n, x) \
	MOV(26, p) \
	FMLA4S(25, x, p) \
	MOV(27, t) \
	FMLA4S(p, x, t) \
	MOV(28, p) \
	FMLA4S(t, x, p) \
	MOV(29, t) \
	FMLA4S(p, x, t) \
	MOV(30, p) \
	FMLA4S(t, x, p) \
	MOV(30, t) \
	FMLA4S(p, x, t) \
	FCVTNS4S(n, n) \
	SSHR1(n, p) \
	SUB4S(p, n, n) \
	ADD4S(31, p, p) \
	SHL23(p, p) \
	ADD4S(31, n, n) \
	SHL23(n, n) \
	FMUL4S(p, t, t) \
	FMUL4S(n, t, x)

// SUM adds the four vectors V0 to V3 in float32, and then to V16 and V17 in
// float64; V0 to V3 are used up.
#define SUM \
	FADD4S(2, 0, 0) \
	FADD4S(3, 1, 1) \
	FADD4S(1, 0, 0) \
	FCVTL(0, 1) \
	FCVTL2(0, 2) \
	FADD2D(1, 16, 16) \
	FADD2D(2, 17, 17)

// SUM1 adds the first lane of V0.
#define SUM1 \
	FCVTSD F0, F0 \
	FADDD F0, F18, F18

#define ZEROSUMS \
	VEOR V16.B16, V16.B16, V16.B16 \
	VEOR V17.B16, V17.B16, V17.B16 \
	VEOR V18.B16, V18.B16, V18.B16

#define TOTAL \
	FADD2D(17, 16, 16) \
	FADDP2D(16, 16) \
	FADDD F18, F16, F16

// func expNEON(y, x *float32, n int, scale, m float32) (sum float64)
TEXT ·expNEON(SB), NOSPLIT, $0-40
	MOVD  y+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVD  $scale+24(FP), R3
	VLD1R.P 4(R3), [V19.S4]
	VLD1R (R3), [V15.S4]
	FNEG4S(15, 15)
	EXPINIT(R4)
	ZEROSUMS

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	MOV(15, 0)
	MOV(15, 1)
	MOV(15, 2)
	MOV(15, 3)
	FMLA4S(19, 4, 0) // x·scale - m
	FMLA4S(19, 5, 1)
	FMLA4S(19, 6, 2)
	FMLA4S(19, 7, 3)
	EXP(0, 4, 5, 6)
	EXP(1, 7, 8, 9)
	EXP(2, 10, 11, 12)
	EXP(3, 4, 5, 6)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	SUM
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F4
	MOV(15, 0)
	FMLA4S(19, 4, 0)
	EXP(0, 4, 5, 6)
	FMOVS.P F0, 4(R0)
	SUM1
	SUBS $1, R2, R2
	BNE  one

done:
	TOTAL
	FMOVD F16, sum+32(FP)
	RET

// func sumExpNEON(x *float32, n int, m float32) (sum float64)
TEXT ·sumExpNEON(SB), NOSPLIT, $0-32
	MOVD  x+0(FP), R1
	MOVD  n+8(FP), R2
	MOVD  $m+16(FP), R3
	VLD1R (R3), [V15.S4]
	EXPINIT(R4)
	ZEROSUMS

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	FSUB4S(15, 0, 0)
	FSUB4S(15, 1, 1)
	FSUB4S(15, 2, 2)
	FSUB4S(15, 3, 3)
	EXP(0, 4, 5, 6)
	EXP(1, 7, 8, 9)
	EXP(2, 10, 11, 12)
	EXP(3, 4, 5, 6)
	SUM
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F0
	FSUB4S(15, 0, 0)
	EXP(0, 4, 5, 6)
	SUM1
	SUBS $1, R2, R2
	BNE  one

done:
	TOTAL
	FMOVD F16, sum+24(FP)
	RET

// WIDESUM adds the vector v to V16 and V17; t and u are temporary.
#define WIDESUM(v, t, u) \
	FCVTL(v, t) \
	FCVTL2(v, u) \
	FADD2D(t, 16, 16) \
	FADD2D(u, 17, 17)

// func scaledExpNEON(y, x *float32, n int, m, a float32) (sum float64)
TEXT ·scaledExpNEON(SB), NOSPLIT, $0-40
	MOVD  y+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVD  $m+24(FP), R3
	VLD1R.P 4(R3), [V15.S4]
	VLD1R (R3), [V19.S4]
	EXPINIT(R4)
	ZEROSUMS

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	FSUB4S(15, 0, 0)
	FSUB4S(15, 1, 1)
	FSUB4S(15, 2, 2)
	FSUB4S(15, 3, 3)
	EXP(0, 4, 5, 6)
	EXP(1, 7, 8, 9)
	EXP(2, 10, 11, 12)
	EXP(3, 4, 5, 6)
	FMUL4S(19, 0, 0)
	FMUL4S(19, 1, 1)
	FMUL4S(19, 2, 2)
	FMUL4S(19, 3, 3)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	WIDESUM(0, 4, 5)
	WIDESUM(1, 6, 7)
	WIDESUM(2, 8, 9)
	WIDESUM(3, 10, 11)
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F0
	FSUB4S(15, 0, 0)
	EXP(0, 4, 5, 6)
	FMUL4S(19, 0, 0)
	FMOVS.P F0, 4(R0)
	SUM1
	SUBS $1, R2, R2
	BNE  one

done:
	TOTAL
	FMOVD F16, sum+32(FP)
	RET

DATA minusinf<>+0(SB)/4, $0xff800000
GLOBL minusinf<>(SB), RODATA|NOPTR, $4

// func maxNEON(x *float32, n int) (m float32)
TEXT ·maxNEON(SB), NOSPLIT, $0-20
	MOVD x+0(FP), R1
	MOVD n+8(FP), R2
	MOVD $minusinf<>(SB), R3
	VLD1R (R3), [V16.S4]
	MOV(16, 17)
	MOV(16, 18)
	MOV(16, 19)

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	FCMGT4S(16, 0, 4) // no NaN is greater
	FCMGT4S(17, 1, 5)
	FCMGT4S(18, 2, 6)
	FCMGT4S(19, 3, 7)
	BIT(4, 0, 16)
	BIT(5, 1, 17)
	BIT(6, 2, 18)
	BIT(7, 3, 19)
	B    four

rest:
	FMAX4S(17, 16, 16)
	FMAX4S(19, 18, 18)
	FMAX4S(18, 16, 16)
	VEXT $8, V16.B16, V16.B16, V0.B16
	FMAX4S(0, 16, 16)
	VEXT $4, V16.B16, V16.B16, V0.B16
	FMAX4S(0, 16, 16)
	ADDS $16, R2, R2
	BEQ  done

one: // the other lanes, of zero, are not looked at
	FMOVS.P 4(R1), F0
	FCMGT4S(16, 0, 4)
	BIT(4, 0, 16)
	SUBS $1, R2, R2
	BNE  one

done:
	FMOVS F16, m+16(FP)
	RET

// SQUARES adds the squares of the vector v to a and b, in float64; t and u are
// temporary.
#define SQUARES(v, t, u, a, b) \
	FCVTL(v, t) \
	FCVTL2(v, u) \
	FMLA2D(t, t, a) \
	FMLA2D(u, u, b)

// func sumSquaresNEON(x *float32, n int) (sum float64)
TEXT ·sumSquaresNEON(SB), NOSPLIT, $0-24
	MOVD x+0(FP), R1
	MOVD n+8(FP), R2
	ZEROSUMS
	VEOR V19.B16, V19.B16, V19.B16
	VEOR V20.B16, V20.B16, V20.B16

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	SQUARES(0, 4, 5, 16, 17)
	SQUARES(1, 6, 7, 19, 20)
	SQUARES(2, 4, 5, 16, 17)
	SQUARES(3, 6, 7, 19, 20)
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F0
	FCVTSD F0, F0
	FMADDD F0, F18, F0, F18
	SUBS $1, R2, R2
	BNE  one

done:
	FADD2D(19, 16, 16)
	FADD2D(20, 17, 17)
	TOTAL
	FMOVD F16, sum+16(FP)
	RET

// func dotNEON(x, y *float32, n int) (sum float64)
TEXT ·dotNEON(SB), NOSPLIT, $0-32
	MOVD x+0(FP), R0
	MOVD y+8(FP), R1
	MOVD n+16(FP), R2
	ZEROSUMS

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R0), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	FMUL4S(4, 0, 0)
	FMUL4S(5, 1, 1)
	FMUL4S(6, 2, 2)
	FMUL4S(7, 3, 3)
	SUM
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R0), F0
	FMOVS.P 4(R1), F1
	FMULS F1, F0, F0
	SUM1
	SUBS $1, R2, R2
	BNE  one

done:
	TOTAL
	FMOVD F16, sum+24(FP)
	RET

// func axpyNEON(y *float32, a float32, x *float32, n int)
TEXT ·axpyNEON(SB), NOSPLIT, $0-32
	MOVD y+0(FP), R0
	MOVD $a+8(FP), R3
	MOVD x+16(FP), R1
	MOVD n+24(FP), R2
	VLD1R (R3), [V16.S4]

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1 (R0), [V4.S4, V5.S4, V6.S4, V7.S4]
	FMLA4S(16, 0, 4)
	FMLA4S(16, 1, 5)
	FMLA4S(16, 2, 6)
	FMLA4S(16, 3, 7)
	VST1.P [V4.S4, V5.S4, V6.S4, V7.S4], 64(R0)
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F0
	FMOVS (R0), F4
	FMLA4S(16, 0, 4)
	FMOVS.P F4, 4(R0)
	SUBS $1, R2, R2
	BNE  one

done:
	RET

// func scaleNEON(x *float32, n int, a float32)
TEXT ·scaleNEON(SB), NOSPLIT, $0-20
	MOVD x+0(FP), R0
	MOVD n+8(FP), R2
	MOVD $a+16(FP), R3
	VLD1R (R3), [V16.S4]

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1 (R0), [V0.S4, V1.S4, V2.S4, V3.S4]
	FMUL4S(16, 0, 0)
	FMUL4S(16, 1, 1)
	FMUL4S(16, 2, 2)
	FMUL4S(16, 3, 3)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS (R0), F0
	FMULS F16, F0, F0
	FMOVS.P F0, 4(R0)
	SUBS $1, R2, R2
	BNE  one

done:
	RET

// func addNEON(out, a, b *float32, n int)
TEXT ·addNEON(SB), NOSPLIT, $0-32
	MOVD out+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R3
	MOVD n+24(FP), R2

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R3), [V4.S4, V5.S4, V6.S4, V7.S4]
	FADD4S(4, 0, 0)
	FADD4S(5, 1, 1)
	FADD4S(6, 2, 2)
	FADD4S(7, 3, 3)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F0
	FMOVS.P 4(R3), F4
	FADDS F4, F0, F0
	FMOVS.P F0, 4(R0)
	SUBS $1, R2, R2
	BNE  one

done:
	RET

// SWIGLU replaces z by silu(z)·up; n, p, t and d are temporary.
#define SWIGLU(z, up, d, n, p, t) \
	FNEG4S(z, d) \
	EXP(d, n, p, t) \
	FADD4S(30, d, d) \
	FDIV4S(d, z, z) \
	FMUL4S(up, z, z)

// func swigluNEON(out, h1, h3 *float32, n int)
TEXT ·swigluNEON(SB), NOSPLIT, $0-32
	MOVD out+0(FP), R0
	MOVD h1+8(FP), R1
	MOVD h3+16(FP), R3
	MOVD n+24(FP), R2
	EXPINIT(R4)

four:
	SUBS $16, R2, R2
	BLT  rest
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R3), [V4.S4, V5.S4, V6.S4, V7.S4]
	SWIGLU(0, 4, 8, 9, 10, 11)
	SWIGLU(1, 5, 12, 13, 14, 15)
	SWIGLU(2, 6, 8, 9, 10, 11)
	SWIGLU(3, 7, 12, 13, 14, 15)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	B    four

rest:
	ADDS $16, R2, R2
	BEQ  done

one:
	FMOVS.P 4(R1), F0
	FMOVS.P 4(R3), F4
	SWIGLU(0, 4, 8, 9, 10, 11)
	FMOVS.P F0, 4(R0)
	SUBS $1, R2, R2
	BNE  one

done:
	RET

// ADAMW is a step of AdamW: w, d, mi and vi are an element of p, g, m and v; t is
// temporary.
#define ADAMW(w, d, mi, vi, t) \
	FMUL4S(16, d, d) \
	FMUL4S(18, d, t) \
	FMLA4S(17, mi, t) \
	MOV(t, mi) \
	FMUL4S(d, d, d) \
	FMUL4S(20, d, t) \
	FMLA4S(19, vi, t) \
	MOV(t, vi) \
	FSQRT4S(vi, t) \
	MOV(24, d) \
	FMLA4S(23, t, d) \
	FMUL4S(22, mi, t) \
	FDIV4S(d, t, t) \
	FMLA4S(21, w, t) \
	FSUB4S(t, w, w)

// func adamWNEON(p, grad, m, v *float32, n int, f *float32, zero bool)
TEXT ·adamWNEON(SB), NOSPLIT, $0-49
	MOVD p+0(FP), R0
	MOVD grad+8(FP), R1
	MOVD m+16(FP), R3
	MOVD v+24(FP), R4
	MOVD n+32(FP), R2
	MOVD f+40(FP), R5
	MOVBU zero+48(FP), R8
	VEOR V26.B16, V26.B16, V26.B16
	VEOR V27.B16, V27.B16, V27.B16
	MOVD FPCR, R6
	ORR  $(1<<24), R6, R7 // subnormal is zero, until the end
	MOVD R7, FPCR
	VLD1R.P 4(R5), [V16.S4]
	VLD1R.P 4(R5), [V17.S4]
	VLD1R.P 4(R5), [V18.S4]
	VLD1R.P 4(R5), [V19.S4]
	VLD1R.P 4(R5), [V20.S4]
	VLD1R.P 4(R5), [V21.S4]
	VLD1R.P 4(R5), [V22.S4]
	VLD1R.P 4(R5), [V23.S4]
	VLD1R (R5), [V24.S4]

two:
	SUBS $8, R2, R2
	BLT  rest
	VLD1 (R0), [V0.S4, V1.S4]
	VLD1 (R1), [V2.S4, V3.S4]
	VLD1 (R3), [V4.S4, V5.S4]
	VLD1 (R4), [V6.S4, V7.S4]
	CBZ  R8, keep
	VST1 [V26.S4, V27.S4], (R1)

keep:
	ADD $32, R1
	ADAMW(0, 2, 4, 6, 8)
	ADAMW(1, 3, 5, 7, 9)
	VST1.P [V0.S4, V1.S4], 32(R0)
	VST1.P [V4.S4, V5.S4], 32(R3)
	VST1.P [V6.S4, V7.S4], 32(R4)
	B    two

rest:
	ADDS $8, R2, R2
	BEQ  done

one:
	FMOVS (R0), F0
	FMOVS (R1), F2
	FMOVS (R3), F4
	FMOVS (R4), F6
	CBZ   R8, keepOne
	FMOVS F26, (R1)

keepOne:
	ADD $4, R1
	ADAMW(0, 2, 4, 6, 8)
	FMOVS.P F0, 4(R0)
	FMOVS.P F4, 4(R3)
	FMOVS.P F6, 4(R4)
	SUBS $1, R2, R2
	BNE  one

done:
	MOVD R6, FPCR
	RET
