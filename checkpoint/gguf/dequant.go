package gguf

import (
	"encoding/binary"
	"math"

	"github.com/chainrule-go/chainrule/checkpoint/internal/half"
)

// decoder returns the function that fills dst from the bytes of as many
// elements, whole blocks; nil if there is none for the type.
//
// The functions do the float32 operations of ggml's dequantize_row functions
// in their order, so they give the same bits; a product is rounded before it
// is added to, also where the processor could do both at once.
func (t Type) decoder() func(dst []float32, b []byte) {
	switch t {
	case F32:
		return decodeF32
	case F16:
		return decodeF16
	case BF16:
		return decodeBF16
	case Q4_0:
		return decodeQ4_0
	case Q4_1:
		return decodeQ4_1
	case Q5_0:
		return decodeQ5_0
	case Q5_1:
		return decodeQ5_1
	case Q8_0:
		return decodeQ8_0
	case Q4_K:
		return decodeQ4K
	case Q5_K:
		return decodeQ5K
	case Q6_K:
		return decodeQ6K
	}
	return nil
}

func decodeF32(dst []float32, b []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

func decodeF16(dst []float32, b []byte) {
	for i := range dst {
		dst[i] = f16(b[2*i:])
	}
}

func decodeBF16(dst []float32, b []byte) {
	for i := range dst {
		dst[i] = half.FromBF16(binary.LittleEndian.Uint16(b[2*i:]))
	}
}

func f16(b []byte) float32 { return half.FromF16(binary.LittleEndian.Uint16(b)) }

// A block is the scale d (F16), 16 bytes of 4 bits: y = d·(q-8). The low bits
// of the bytes are elements 0 to 15, the high ones 16 to 31.
func decodeQ4_0(dst []float32, b []byte) {
	for ; len(dst) >= 32; dst, b = dst[32:], b[18:] {
		d := f16(b)
		for j, q := range b[2:18] {
			dst[j] = float32(int(q&15)-8) * d
			dst[j+16] = float32(int(q>>4)-8) * d
		}
	}
}

// A block is d, m (F16), 16 bytes as in Q4_0: y = d·q + m.
func decodeQ4_1(dst []float32, b []byte) {
	for ; len(dst) >= 32; dst, b = dst[32:], b[20:] {
		d, m := f16(b), f16(b[2:])
		for j, q := range b[4:20] {
			dst[j] = float32(float32(q&15)*d) + m
			dst[j+16] = float32(float32(q>>4)*d) + m
		}
	}
}

// A block is d, the fifth bits of the elements (32 bits), 16 bytes as in Q4_0:
// y = d·(q-16).
func decodeQ5_0(dst []float32, b []byte) {
	for ; len(dst) >= 32; dst, b = dst[32:], b[22:] {
		d, high := f16(b), binary.LittleEndian.Uint32(b[2:])
		for j, q := range b[6:22] {
			dst[j] = float32(int(q&15)|int(high>>j&1)<<4-16) * d
			dst[j+16] = float32(int(q>>4)|int(high>>(j+16)&1)<<4-16) * d
		}
	}
}

// A block is d, m, the fifth bits, 16 bytes: y = d·q + m.
func decodeQ5_1(dst []float32, b []byte) {
	for ; len(dst) >= 32; dst, b = dst[32:], b[24:] {
		d, m, high := f16(b), f16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		for j, q := range b[8:24] {
			dst[j] = float32(float32(q&15|byte(high>>j&1)<<4)*d) + m
			dst[j+16] = float32(float32(q>>4|byte(high>>(j+16)&1)<<4)*d) + m
		}
	}
}

// A block is d and 32 signed bytes: y = d·q.
func decodeQ8_0(dst []float32, b []byte) {
	for ; len(dst) >= 32; dst, b = dst[32:], b[34:] {
		d := f16(b)
		for j, q := range b[2:34] {
			dst[j] = float32(int8(q)) * d
		}
	}
}

// scaleMin returns the scale and the minimum, of 6 bits each, of sub-block j of 8
// from the 12 bytes that hold them in Q4_K and Q5_K.
func scaleMin(b []byte, j int) (scale, minimum float32) {
	if j < 4 {
		return float32(b[j] & 63), float32(b[j+4] & 63)
	}
	return float32(b[j+4]&15 | b[j-4]>>6<<4), float32(b[j+4]>>4 | b[j]>>6<<4)
}

// A block is d, dmin (F16), scales and minima, 128 bytes of 4 bits, for 8
// sub-blocks of 32, two to 32 bytes: y = (d·scale)·q - dmin·minimum.
func decodeQ4K(dst []float32, b []byte) {
	for ; len(dst) >= 256; dst, b = dst[256:], b[144:] {
		d, dmin, scales := f16(b), f16(b[2:]), b[4:16]
		for j := range 4 {
			s1, m1 := scaleMin(scales, 2*j)
			s2, m2 := scaleMin(scales, 2*j+1)
			d1, m1, d2, m2 := d*s1, float32(dmin*m1), d*s2, float32(dmin*m2)
			y := dst[64*j:][:64]
			for i, q := range b[16+32*j:][:32] {
				y[i] = float32(d1*float32(q&15)) - m1
				y[i+32] = float32(d2*float32(q>>4)) - m2
			}
		}
	}
}

// As Q4_K, with 32 bytes of fifth bits before the others: bit j of byte i is
// of element i of sub-block j.
func decodeQ5K(dst []float32, b []byte) {
	for ; len(dst) >= 256; dst, b = dst[256:], b[176:] {
		d, dmin, scales, high := f16(b), f16(b[2:]), b[4:16], b[16:48]
		for j := range 4 {
			s1, m1 := scaleMin(scales, 2*j)
			s2, m2 := scaleMin(scales, 2*j+1)
			d1, m1, d2, m2 := d*s1, float32(dmin*m1), d*s2, float32(dmin*m2)
			y := dst[64*j:][:64]
			for i, q := range b[48+32*j:][:32] {
				h := high[i] >> (2 * j)
				y[i] = float32(d1*float32(q&15|h&1<<4)) - m1
				y[i+32] = float32(d2*float32(q>>4|h>>1&1<<4)) - m2
			}
		}
	}
}

// A block is 128 bytes of 4 low bits, 64 of 2 high bits, 16 signed scales, d:
// y = (d·scale)·(q-32), a scale for 16 elements.
func decodeQ6K(dst []float32, b []byte) {
	for ; len(dst) >= 256; dst, b = dst[256:], b[210:] {
		d := f16(b[208:])
		for half := range 2 {
			low, high, scales, y := b[64*half:][:64], b[128+32*half:][:32], b[192+8*half:][:8], dst[128*half:][:128]
			var s [8]float32
			for i, c := range scales {
				s[i] = d * float32(int8(c))
			}
			for i, h := range high {
				k := i / 16
				y[i] = s[k] * float32(int(low[i]&15|h&3<<4)-32)
				y[i+32] = s[k+2] * float32(int(low[i+32]&15|h>>2&3<<4)-32)
				y[i+64] = s[k+4] * float32(int(low[i]>>4|h>>4&3<<4)-32)
				y[i+96] = s[k+6] * float32(int(low[i+32]>>4|h>>6<<4)-32)
			}
		}
	}
}
