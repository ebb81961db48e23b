package simd

import "math"

// Exp returns e^x within 1.1 ulp where the result is normal; 0 below the
// smallest subnormal, +Inf above the largest float32, NaN for NaN.
//
// x = n·ln 2 + r with |r| ≤ ln(2)/2; e^r by the polynomial of Cephes' expf
// (S. Moshier), degree 7 in all, then scaled by 2^n.
func Exp(x float32) float32 {
	const (
		log2e = 1.44269504088896341
		ln2hi = 0.693359375 // 9 bits: n·ln2hi is exact
		ln2lo = -2.12194440e-4
		round = 3 << 22 // adding and subtracting it rounds to an integer
	)
	if !(x >= -104 && x <= 88.8) { // also NaN
		switch {
		case x < 0:
			return 0
		case x > 0:
			return float32(math.Inf(1))
		}
		return x
	}
	n := float32(x*log2e+round) - round
	r := float32(x - float32(n*ln2hi))
	r = float32(r - float32(n*ln2lo))
	p := float32(1.9875691500e-4)
	p = p*r + 1.3981999507e-3
	p = p*r + 8.3334519073e-3
	p = p*r + 4.1665795894e-2
	p = p*r + 1.6666665459e-1
	p = p*r + 5.0000001201e-1
	p = p*r*r + r + 1
	// 2^n in two factors: n reaches 128 and -150, beyond one float32's exponent
	k := int32(n)
	h := k >> 1
	return p * math.Float32frombits(uint32(h+127)<<23) * math.Float32frombits(uint32(k-h+127)<<23)
}
