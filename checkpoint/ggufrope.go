package checkpoint

import (
	"math"

	"github.com/chainrule-go/chainrule"
)

// llama.cpp has RoPE scaling of type llama3 as a tensor of what each frequency
// is divided by, not as the numbers that it follows from.

// ropeTurns returns how often the pairs of a head turn in so many positions.
func ropeTurns(c chainrule.Config, positions float64) []float64 {
	turns := make([]float64, c.HeadDim/2)
	for i := range turns {
		turns[i] = positions * math.Pow(c.RopeTheta, -2*float64(i)/float64(c.HeadDim)) / (2 * math.Pi)
	}
	return turns
}

// ropeFactors returns what the frequencies are divided by under c.RopeScaling,
// which is of type llama3.
func ropeFactors(c chainrule.Config) []float32 {
	s := c.RopeScaling
	factors := make([]float32, c.HeadDim/2)
	for i, t := range ropeTurns(c, float64(s.OriginalSeqLen)) {
		keep := min(max((t-s.LowFreqFactor)/(s.HighFreqFactor-s.LowFreqFactor), 0), 1)
		factors[i] = float32(1 / (keep + (1-keep)/s.Factor))
	}
	return factors
}

// llama3Of returns the scaling that has these factors: the one that models
// have, or another one that is the same for all frequencies. False: there is
// none.
func llama3Of(factors []float32, c chainrule.Config) (s chainrule.RopeScaling, ok bool) {
	try := func(factor, low, high float64, length int) bool {
		s = chainrule.RopeScaling{Type: "llama3", Factor: factor, LowFreqFactor: low, HighFreqFactor: high, OriginalSeqLen: length}
		c.RopeScaling = s
		if c.Validate() != nil {
			return false
		}
		for i, f := range ropeFactors(c) {
			if !(math.Abs(float64(f-factors[i])) <= 1e-5*float64(f)) {
				return false
			}
		}
		return true
	}
	most := float32(1)
	for _, f := range factors {
		if !(f >= 1 && f <= math.MaxFloat32) {
			return s, false
		}
		most = max(most, f)
	}
	if most == 1 {
		return chainrule.RopeScaling{}, true
	}
	for _, factor := range []float64{float64(most), 8, 32, 2, 4, 16, 64} {
		for _, length := range []int{8192, 4096, 2048, 16384, 32768, 65536, 131072} {
			if try(factor, 1, 4, length) {
				return s, true
			}
		}
	}

	// With keep = (turns-low)/(high-low), 1/factor is a line in turns between
	// the frequencies that are kept and those divided by the most.
	const length = 8192
	turns := ropeTurns(c, length)
	keep := func(i int) float64 { return (1/float64(factors[i]) - 1/float64(most)) / (1 - 1/float64(most)) }
	var ramp []int
	for i := range factors {
		if k := keep(i); 1e-4 < k && k < 1-1e-4 {
			ramp = append(ramp, i)
		}
	}
	fast, slow := math.Inf(1), 0. // the slowest that is kept, the fastest that is divided
	for i, t := range turns {
		switch k := keep(i); {
		case k >= 1-1e-4:
			fast = min(fast, t)
		case k <= 1e-4:
			slow = max(slow, t)
		}
	}
	var low, high float64
	switch n := len(ramp); {
	case n > 1:
		first, last := ramp[0], ramp[n-1]
		width := (turns[first] - turns[last]) / (keep(first) - keep(last))
		low = turns[last] - width*keep(last)
		high = low + width
	case n == 1: // any line through the point that reaches both ends between the neighbours
		t, k := turns[ramp[0]], keep(ramp[0])
		width := min((fast-t)/(1-k), (t-slow)/k) / 2
		low, high = t-width*k, t+width*(1-k)
	default:
		fast = min(fast, 4*max(slow, 1))
		low, high = slow+(fast-slow)/3, slow+(fast-slow)*2/3
	}
	return s, try(float64(most), low, high, length)
}
