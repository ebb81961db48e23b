// Package fp16 converts between float32 and IEEE 754 binary16, the number
// format of the Neural Engine: 11 significant bits, normal from 2⁻¹⁴ to 65504,
// subnormal down to 2⁻²⁴.
package fp16

import "math"

const (
	// Unit is the unit roundoff: a normal value v is within Unit·|v| of its
	// binary16.
	Unit = 0x1p-11
	// SmallestNormal is 2⁻¹⁴. What is smaller is within 2⁻²⁵ of its binary16.
	SmallestNormal = 0x1p-14
	// Max is the largest finite value.
	Max = 65504
)

// From rounds f to the nearest binary16, ties to even. From 65520 on it is an
// infinity; a NaN stays one, quiet, with the top bits of its payload.
func From(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b < 0x38800000: // below 2⁻¹⁴: one unit of the sum's last place is 2⁻²⁴
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	case b < 0x47800000: // below 65536: a carry may go into the exponent
		return sign | uint16((b+0xfff+b>>13&1-0x38000000)>>13)
	case b <= 0x7f800000:
		return sign | 0x7c00
	}
	return sign | 0x7e00 | uint16(b>>13)&0x3ff
}

// To returns the value of h, exactly.
func To(h uint16) float32 {
	sign, b := uint32(h&0x8000)<<16, uint32(h&0x7fff)
	switch {
	case b < 0x400:
		return math.Float32frombits(sign | math.Float32bits(float32(b)*0x1p-24))
	case b < 0x7c00:
		return math.Float32frombits(sign | b<<13 + 0x38000000)
	case b == 0x7c00:
		return math.Float32frombits(sign | 0x7f800000)
	}
	return math.Float32frombits(sign | 0x7fc00000 | b<<13)
}

// Finite reports whether h is neither an infinity nor NaN.
func Finite(h uint16) bool { return h&0x7c00 != 0x7c00 }
