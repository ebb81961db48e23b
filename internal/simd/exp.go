package simd

import "math"

// Exp returns e^x within 1.1 ulp where the result is normal; 0 below the
// smallest subnormal, +Inf above the largest float32, NaN for NaN.
//
// x = n·ln 2 + r with |r| ≤ ln(2)/2; e^r by a polynomial of degree 6, minimax
// in the relative error (3.2e-9), then scaled by 2^n. The functions below
// compute it so, too; where they fuse x*y+z they are within 1 ulp (over all
// float32 0.9013, with AVX2 and with AVX-512).
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
	p := float32(0.0013820735)
	p = p*r + 0.00836867746
	p = p*r + 0.0416682661
	p = p*r + 0.166665211
	p = p*r + 0.49999994
	p = p*r*r + r + 1
	// 2^n in two factors: n reaches 128 and -150, beyond one float32's exponent
	k := int32(n)
	h := k >> 1
	return p * math.Float32frombits(uint32(h+127)<<23) * math.Float32frombits(uint32(k-h+127)<<23)
}

// ExpSub sets y[i] = exp(x[i] - m) and returns their sum, of which four terms
// at a time are added in float32. y and x have one length and may be the same.
func ExpSub(y, x []float32, m float32) float64 { return ExpScaleSub(y, x, 1, m) }

// ExpScaleSub sets y[i] = exp(x[i]·scale - m) and returns their sum as ExpSub
// does. y and x have one length and may be the same.
func ExpScaleSub(y, x []float32, scale, m float32) float64 { return kernelExp(y[:len(x)], x, scale, m) }

func goExp(y, x []float32, scale, m float32) (sum float64) {
	for i, v := range x {
		y[i] = Exp(v*scale - m)
		sum += float64(y[i])
	}
	return sum
}

// SumExpSub returns Σ exp(x[i] - m) and writes nothing: the bits that ExpSub
// returns, but that a kernel may take a term for 0 that is not a normal number,
// and for infinite from 2^127.5 on. So may those of the softmax and of SwiGLU.
func SumExpSub(x []float32, m float32) float64 { return kernelSumExp(x, m) }

func goSumExp(x []float32, m float32) (sum float64) {
	for _, v := range x {
		sum += float64(Exp(v - m))
	}
	return sum
}

// ScaledExpSub sets y[i] = a·exp(x[i] - m) and returns their sum, in float64
// from the first term on. y and x have one length and may be the same.
func ScaledExpSub(y, x []float32, m, a float32) float64 { return kernelScaledExp(y[:len(x)], x, m, a) }

func goScaledExp(y, x []float32, m, a float32) (sum float64) {
	for i, v := range x {
		y[i] = a * Exp(v-m)
		sum += float64(y[i])
	}
	return sum
}
