//go:build !purego

#include "textflag.h"

// A step of k of four rows is 24 multiply-adds of four lanes, fed by 6 vectors
// of B (two instructions) and 4 broadcasts of A: 30 instructions and 2 for the
// loop, 75% of them multiply-adds. With four 128-bit pipes and three loads a
// cycle that is 6 cycles of multiply-adds beside 3⅓ of loads; with two pipes and
// two loads 12 beside 5. 24 of 32 registers accumulate, which covers a latency
// of 4 with four pipes one and a half times.

#define ZERO(a, b, c, d, e, f) \
	VEOR a.B16, a.B16, a.B16 \
	VEOR b.B16, b.B16, b.B16 \
	VEOR c.B16, c.B16, c.B16 \
	VEOR d.B16, d.B16, d.B16 \
	VEOR e.B16, e.B16, e.B16 \
	VEOR f.B16, f.B16, f.B16

// The next row of a panel of B to V0 to V5.
#define LOADB \
	VLD1.P 64(R16), [V0.S4, V1.S4, V2.S4, V3.S4] \
	VLD1.P 32(R16), [V4.S4, V5.S4]

// Adds x times V0 to V5 to a row of C.
#define FMA(x, a, b, c, d, e, f) \
	VFMLA V0.S4, x.S4, a.S4 \
	VFMLA V1.S4, x.S4, b.S4 \
	VFMLA V2.S4, x.S4, c.S4 \
	VFMLA V3.S4, x.S4, d.S4 \
	VFMLA V4.S4, x.S4, e.S4 \
	VFMLA V5.S4, x.S4, f.S4

// The next element of a row of A times V0 to V5.
#define ROW(pa, x, a, b, c, d, e, f) \
	VLD1R.P (pa)(R5), [x.S4] \
	FMA(x, a, b, c, d, e, f)

// Adds the row of C at R20 to its sums if R21 is not 0, by a product with 1.
// (The assembler has no vector addition of floats.)
#define ADDC(a, b, c, d, e, f, store) \
	CBZ R21, store \
	MOVD R20, R22 \
	VLD1.P 64(R22), [V0.S4, V1.S4, V2.S4, V3.S4] \
	VLD1 (R22), [V4.S4, V5.S4] \
	FMA(V7, a, b, c, d, e, f)

#define STORE(a, b, c, d, e, f) \
	MOVD R20, R22 \
	VST1.P [a.S4, b.S4, c.S4, d.S4], 64(R22) \
	VST1 [e.S4, f.S4], (R22) \
	ADD R3, R20

// func gemmNEON_4x24(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels int, add bool)
TEXT ·gemmNEON_4x24(SB), NOSPLIT, $0-89
	MOVD c+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	MOVD ldc+24(FP), R3
	MOVD lda+32(FP), R4
	MOVD ka+40(FP), R5
	MOVD stepA+48(FP), R6
	MOVD k+56(FP), R7
	MOVD chunk+64(FP), R8
	MOVD rows+72(FP), R9
	MOVD panels+80(FP), R10
	LSL $2, R3
	LSL $2, R4
	LSL $2, R5
	LSL $2, R6

panel:
	MOVBU add+88(FP), R21
	MOVD R2, R16
	MOVD R7, R17
	MOVD R1, R12
	ADD R4, R12, R13
	ADD R4, R13, R14
	ADD R4, R14, R15

chunk:
	ZERO(V8, V9, V10, V11, V12, V13)
	ZERO(V14, V15, V16, V17, V18, V19)
	ZERO(V20, V21, V22, V23, V24, V25)
	ZERO(V26, V27, V28, V29, V30, V31)
	CMP R17, R8
	CSEL LT, R8, R17, R19
	SUB R19, R17
	CMP $4, R9
	BNE few

four:
	LOADB
	ROW(R12, V6, V8, V9, V10, V11, V12, V13)
	ROW(R13, V7, V14, V15, V16, V17, V18, V19)
	ROW(R14, V6, V20, V21, V22, V23, V24, V25)
	ROW(R15, V7, V26, V27, V28, V29, V30, V31)
	SUBS $1, R19
	BNE four
	B summed

few: // one to three rows
	LOADB
	ROW(R12, V6, V8, V9, V10, V11, V12, V13)
	CMP $2, R9
	BLT fewNext
	ROW(R13, V7, V14, V15, V16, V17, V18, V19)
	BEQ fewNext
	ROW(R14, V6, V20, V21, V22, V23, V24, V25)

fewNext:
	SUBS $1, R19
	BNE few

summed:
	MOVD $0x3f800000, R22
	VDUP R22, V7.S4
	MOVD R0, R20
	ADDC(V8, V9, V10, V11, V12, V13, store1)

store1:
	STORE(V8, V9, V10, V11, V12, V13)
	CMP $1, R9
	BEQ stored
	ADDC(V14, V15, V16, V17, V18, V19, store2)

store2:
	STORE(V14, V15, V16, V17, V18, V19)
	CMP $2, R9
	BEQ stored
	ADDC(V20, V21, V22, V23, V24, V25, store3)

store3:
	STORE(V20, V21, V22, V23, V24, V25)
	CMP $3, R9
	BEQ stored
	ADDC(V26, V27, V28, V29, V30, V31, store4)

store4:
	STORE(V26, V27, V28, V29, V30, V31)

stored:
	MOVD $1, R21
	CBNZ R17, chunk
	MOVD R20, R0 // past the rows of the panel
	ADD R6, R1
	SUBS $1, R10
	BNE panel
	RET

// func transposeNEON_24(dst, src *float32, lds, k int)
TEXT ·transposeNEON_24(SB), NOSPLIT, $0-32
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD lds+16(FP), R2
	MOVD k+24(FP), R3
	LSL $2, R2
	ADD R2, R1, R4
	ADD R2, R4, R5
	ADD R2, R5, R6
	MOVD $96, R7

block:
	VLD1.P 16(R1), [V0.S4]
	VLD1.P 16(R4), [V1.S4]
	VLD1.P 16(R5), [V2.S4]
	VLD1.P 16(R6), [V3.S4]
	VTRN1 V1.S4, V0.S4, V4.S4
	VTRN2 V1.S4, V0.S4, V5.S4
	VTRN1 V3.S4, V2.S4, V6.S4
	VTRN2 V3.S4, V2.S4, V7.S4
	VTRN1 V6.D2, V4.D2, V0.D2
	VTRN1 V7.D2, V5.D2, V1.D2
	VTRN2 V6.D2, V4.D2, V2.D2
	VTRN2 V7.D2, V5.D2, V3.D2
	VST1.P [V0.S4], (R0)(R7)
	VST1.P [V1.S4], (R0)(R7)
	VST1.P [V2.S4], (R0)(R7)
	VST1.P [V3.S4], (R0)(R7)
	SUBS $4, R3
	BNE block
	RET

// Adds to four sums the products of the next four of x and of four rows of W.
#define DOT(x, a, b, c, d) \
	VLD1.P 16(R3), [x.S4] \
	VLD1.P 16(R4), [V0.S4] \
	VLD1.P 16(R5), [V1.S4] \
	VLD1.P 16(R6), [V2.S4] \
	VLD1.P 16(R7), [V3.S4] \
	VFMLA V0.S4, x.S4, a.S4 \
	VFMLA V1.S4, x.S4, b.S4 \
	VFMLA V2.S4, x.S4, c.S4 \
	VFMLA V3.S4, x.S4, d.S4

// Adds b to a, then the lanes of a, and stores the sum.
#define SUM(a, b, f, to) \
	VFMLA V7.S4, b.S4, a.S4 \
	VDUP a.S[1], V0 \
	VDUP a.S[2], V1 \
	VDUP a.S[3], V2 \
	FADDS F0, f, F3 \
	FADDS F2, F1, F4 \
	FADDS F4, F3, F3 \
	FMOVS F3, to(R0)

// func dotNEON_1x4(y, x, w *float32, k, groups int)
TEXT ·dotNEON_1x4(SB), NOSPLIT, $0-40
	MOVD y+0(FP), R0
	MOVD x+8(FP), R1
	MOVD w+16(FP), R4
	MOVD k+24(FP), R8
	MOVD groups+32(FP), R9
	LSL $2, R8, R10
	MOVD $0x3f800000, R11
	VDUP R11, V7.S4

group:
	ADD R10, R4, R5
	ADD R10, R5, R6
	ADD R10, R6, R7
	ADD R10, R7, R12
	MOVD R1, R3
	VEOR V16.B16, V16.B16, V16.B16
	VEOR V17.B16, V17.B16, V17.B16
	VEOR V18.B16, V18.B16, V18.B16
	VEOR V19.B16, V19.B16, V19.B16
	VEOR V20.B16, V20.B16, V20.B16
	VEOR V21.B16, V21.B16, V21.B16
	VEOR V22.B16, V22.B16, V22.B16
	VEOR V23.B16, V23.B16, V23.B16
	LSR $3, R8, R11
	CBZ R11, tail

eight:
	PRFM 1024(R4), PLDL1STRM
	PRFM 1024(R5), PLDL1STRM
	PRFM 1024(R6), PLDL1STRM
	PRFM 1024(R7), PLDL1STRM
	DOT(V4, V16, V17, V18, V19)
	DOT(V5, V20, V21, V22, V23)
	SUBS $1, R11
	BNE eight

tail:
	ANDS $7, R8, R11
	BEQ sum

one:
	VEOR V4.B16, V4.B16, V4.B16
	VLD1 (R3), V4.S[0]
	VLD1R (R4), [V0.S4]
	VLD1R (R5), [V1.S4]
	VLD1R (R6), [V2.S4]
	VLD1R (R7), [V3.S4]
	ADD $4, R3
	ADD $4, R4
	ADD $4, R5
	ADD $4, R6
	ADD $4, R7
	FMADDS F0, F16, F4, F24
	FMADDS F1, F17, F4, F25
	FMADDS F2, F18, F4, F26
	FMADDS F3, F19, F4, F27
	VMOV V24.S[0], V16.S[0]
	VMOV V25.S[0], V17.S[0]
	VMOV V26.S[0], V18.S[0]
	VMOV V27.S[0], V19.S[0]
	SUBS $1, R11
	BNE one

sum:
	SUM(V16, V20, F16, 0)
	SUM(V17, V21, F17, 4)
	SUM(V18, V22, F18, 8)
	SUM(V19, V23, F19, 12)
	ADD $16, R0
	MOVD R12, R4
	SUBS $1, R9
	BNE group
	RET
