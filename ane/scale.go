package ane

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/par"
)

// Binary16 is accurate between 2⁻¹⁴ and 65504, and a product of the device is
// infinite above 32752, so everything is scaled by powers of two, which round
// nothing: each row of x or dy until its largest element is 8 to 16, the whole
// of W until it is ½ to 1. The smallest normal number is then 2⁻¹⁸ of a row's
// largest element, and a sum of k products at most 16k. The one retry, at
// 1/16 of the scale, fits for any k up to 32752, which are all that engines up
// to M3 take.
const (
	rowTarget    = 4 // largest element of a row in [2³, 2⁴)
	weightTarget = 0 // of W in [2⁻¹, 2⁰)
	retryShift   = 4
	mostExponent = 126 // of a scale, so that it and its inverse are normal float32
)

// largest returns the bits of the largest |x|; those of an infinity or NaN are
// larger than all others.
func largest(x []float32) uint32 {
	const abs = 1<<31 - 1
	var a, b, c, d uint32
	for ; len(x) >= 4; x = x[4:] {
		a = max(a, math.Float32bits(x[0])&abs)
		b = max(b, math.Float32bits(x[1])&abs)
		c = max(c, math.Float32bits(x[2])&abs)
		d = max(d, math.Float32bits(x[3])&abs)
	}
	for _, v := range x {
		a = max(a, math.Float32bits(v)&abs)
	}
	return max(a, b, c, d)
}

// rows is largest of each row of x [len(of), cols].
type rows struct {
	of   []uint32
	x    []float32
	cols int
}

var largestOfRows = par.New(func(r *rows, lo, hi int) {
	for i := lo; i < hi; i++ {
		r.of[i] = largest(r.x[i*r.cols:][:r.cols])
	}
})

// scaleTo returns the exponent e for which bits·2ᵉ is in [2^(target-1),
// 2^target); 0 for a zero.
func scaleTo(target int, bits uint32) (e int, r reason) {
	switch {
	case bits == 0:
		return 0, ok
	case bits >= 0x7f800000:
		return 0, inputNotFinite
	case bits < 0x00800000:
		return 0, outOfRange
	}
	e = target - 1 - (int(bits>>23) - 127)
	if e > mostExponent || e < -mostExponent {
		return 0, outOfRange
	}
	return e, ok
}

// power returns 2ᵉ for |e| ≤ mostExponent.
func power(e int) float32 { return math.Float32frombits(uint32(e+127) << 23) }
