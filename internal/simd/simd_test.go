package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/isa"
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
			if got == got {
				t.Fatalf("Exp(NaN) is %v", got)
			}
			continue
		}
		if want < 0x1p-126 { // subnormal: absolute error in units of the smallest
			if math.Abs(float64(got)-want) > 0x1.4p-149 {
				t.Fatalf("Exp(%v) = %v, want %v", x, got, want)
			}
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

// One float32 in 61, or with CHAINRULE_EXHAUSTIVE set all 2^32 of them, by the
// kernels of every instruction set.
func TestExpOfVectorsIsWithinOneUlp(t *testing.T) {
	defer func(s isa.Set) { set = s }(set)
	step := uint64(61)
	switch {
	case os.Getenv("CHAINRULE_EXHAUSTIVE") != "":
		step = 1
	case testing.Short():
		step = 9973
	}
	const block = 1 << 12
	for _, s := range isa.Available[1:] {
		set = s
		worst := make([]expError, runtime.GOMAXPROCS(0))
		var next atomic.Uint64
		var wg sync.WaitGroup
		for w := range worst {
			wg.Go(func() {
				x, y, z := make([]float32, block), make([]float32, block), make([]float32, block)
				for worst[w].fault == "" {
					at := (next.Add(1) - 1) * block * step
					if at >= 1<<32 {
						return
					}
					for i := range x {
						x[i] = math.Float32frombits(uint32(at + uint64(i)*step))
					}
					ExpSub(y, x, 0)
					ScaledExpSub(z, x, 0, 1)
					worst[w].look(x, y, z)
				}
			})
		}
		wg.Wait()
		all := expError{}
		for _, w := range worst {
			require.Empty(t, w.fault)
			if w.ulps >= all.ulps {
				all = w
			}
		}
		t.Logf("%v: worst error %.4f ulp at %v", s, all.ulps, all.at)
		require.LessOrEqual(t, all.ulps, 1.0, "at %v", all.at)
	}
}

// expError is the worst that look has seen.
type expError struct {
	ulps  float64
	at    float32
	fault string
}

// look compares e^x, as two functions computed it, with math.Exp.
func (w *expError) look(x, y, z []float32) {
	for i, v := range x {
		got, want := y[i], math.Exp(float64(v))
		ok := got == z[i] || got != got && z[i] != z[i]
		switch {
		case v != v:
			ok = ok && got != got
		case want < 0x1p-126: // an absolute error, in units of the smallest subnormal
			ok = ok && math.Abs(float64(got)-want) <= 0x1.1p-149
		default:
			if u := ulps(got, want); u > w.ulps {
				w.ulps, w.at = u, v
			}
		}
		if !ok {
			w.fault = fmt.Sprintf("e^%v is %v and %v", v, got, z[i])
		}
	}
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
			require.InEpsilon(t, Exp(x[i]-0.5), e[i], 2.4e-7)
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

func TestAxpyAddsEveryProduct(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 140 {
		a, x := float32(r.NormFloat64()), make([]float32, n)
		for j := range x {
			x[j] = float32(r.NormFloat64())
		}
		memory := make([]float32, n+2) // a guard on either side
		memory[0], memory[n+1] = 7, 7
		y := memory[1 : n+1]
		for j := range y {
			y[j] = float32(j)
		}
		Axpy(y, a, x)
		for j := range y {
			p := float64(a) * float64(x[j])
			require.InDelta(t, float64(j)+p, y[j], 1.2e-7*(float64(j)+math.Abs(p)), "n=%d", n)
		}
		require.Equal(t, []float32{7, 7}, []float32{memory[0], memory[n+1]}, "n=%d", n)
	}
}

func TestNoProductWithZeroIsSkipped(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for n := 1; n < 80; n += 3 {
		for _, bad := range []float32{nan, inf, -inf} {
			zeros, x := make([]float32, n), make([]float32, n)
			x[n-1] = bad
			require.True(t, math.IsNaN(Dot(zeros, x)))
			y := make([]float32, n)
			Axpy(y, 0, x)
			require.True(t, y[n-1] != y[n-1])
		}
	}
}

func TestMaxIgnoresNaN(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		x    []float32
		want float32
	}{
		{nil, -inf}, {[]float32{nan}, -inf}, {[]float32{nan, nan, -inf}, -inf}, {[]float32{nan, -3, nan, -2}, -2},
		{[]float32{1, nan}, 1}, {[]float32{1, inf, nan}, inf}, {[]float32{-1e38, -3e38}, -1e38},
	} {
		require.Equal(t, c.want, Max(c.x), "%v", c.x)
	}
	for n := 1; n < 100; n++ { // wherever it is
		x := make([]float32, n)
		x[n*7%n] = -1
		x[(n*31+5)%n] = 2
		require.Equal(t, float32(2), Max(x))
	}
}

func TestSumSquaresHoldsWhatFloat32DoesNot(t *testing.T) {
	require.InEpsilon(t, 5e60, SumSquares([]float32{1e30, 1e30, 1e30, 1e30, 1e30}), 1e-6)
	require.InEpsilon(t, 5e-60, SumSquares([]float32{1e-30, 1e-30, 1e-30, 1e-30, 1e-30}), 1e-6)
}

func TestExpSubInPlaceGivesTheSameBits(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for n := range 140 {
		x, y := make([]float32, n), make([]float32, n)
		for i := range x {
			x[i] = float32(5 * r.NormFloat64())
		}
		sum := ExpSub(y, x, 1)
		require.Equal(t, sum, ExpSub(x, x, 1))
		require.Equal(t, y, x)
	}
}
