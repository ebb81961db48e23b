package simd

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// ulps is the distance of got from the real number want, in units of the last
// place of want's float32 neighbourhood.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	if math.IsInf(float64(w), 0) || math.IsInf(float64(got), 0) {
		if w == got {
			return 0
		}
		return math.Inf(1)
	}
	ulp := float64(math.Nextafter32(float32(math.Abs(want)), math.MaxFloat32)) - math.Abs(float64(w))
	return math.Abs(float64(got)-want) / ulp
}

func TestExpIsWithinItsStatedError(t *testing.T) {
	worst := 0.0
	var at float32
	step := uint32(997)
	if testing.Short() {
		step = 99991
	}
	for b := uint32(0); b < math.MaxUint32-step; b += step { // all exponents, both signs
		x := math.Float32frombits(b)
		want := math.Exp(float64(x))
		got := Exp(x)
		if x != x {
			require.True(t, got != got, "Exp(NaN) is %v", got)
			continue
		}
		if want < 0x1p-126 { // subnormal: absolute error in units of the smallest
			require.LessOrEqual(t, math.Abs(float64(got)-want), 0x1.4p-149, "Exp(%v) = %v, want %v", x, got, want)
			continue
		}
		if u := ulps(got, want); u > worst {
			worst, at = u, x
		}
	}
	t.Logf("worst error %.3f ulp at %v", worst, at)
	require.LessOrEqual(t, worst, 1.1, "at %v", at)
	require.Equal(t, float32(1), Exp(0))
	require.Equal(t, float32(0), Exp(float32(math.Inf(-1))))
	require.Equal(t, float32(math.Inf(1)), Exp(float32(math.Inf(1))))
}

func TestReductionsAgainstFloat64(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		x, y := make([]float32, n), make([]float32, n)
		var dot, abs, squares, exps float64
		most := math.Inf(-1)
		for i := range x {
			x[i], y[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
			p := float64(x[i]) * float64(y[i])
			dot += p
			abs += math.Abs(p)
			squares += float64(x[i]) * float64(x[i])
			exps += math.Exp(float64(x[i]) - 0.5)
			most = max(most, float64(x[i]))
		}
		require.InDelta(t, dot, Dot(x, y), 1e-6*abs+1e-30, "n=%d", n)
		require.InEpsilon(t, 1+squares, 1+SumSquares(x), 1e-14, "n=%d", n)
		require.Equal(t, float32(most), Max(x), "n=%d", n)
		require.InEpsilon(t, 1+exps, 1+SumExpSub(x, 0.5), 1e-6, "n=%d", n)
		e := make([]float32, n)
		require.Equal(t, SumExpSub(x, 0.5), ExpSub(e, x, 0.5), "n=%d", n)
		for i := range e {
			require.Equal(t, Exp(x[i]-0.5), e[i])
		}
	}
}

func TestNaNGoesThrough(t *testing.T) {
	for n := 1; n < 130; n += 7 {
		for at := 0; at < n; at += 3 {
			x, ones := make([]float32, n), make([]float32, n)
			for i := range ones {
				ones[i] = 1
			}
			x[at] = float32(math.NaN())
			require.True(t, math.IsNaN(Dot(x, ones)))
			require.True(t, math.IsNaN(SumSquares(x)))
			require.True(t, math.IsNaN(SumExpSub(x, 0)))
		}
	}
}

func BenchmarkExp(b *testing.B) {
	x, y := make([]float32, 4096), make([]float32, 4096)
	for i := range x {
		x[i] = float32(i%200)/10 - 10
	}
	b.SetBytes(int64(4 * len(x)))
	for b.Loop() {
		ExpSub(y, x, 0)
	}
}
