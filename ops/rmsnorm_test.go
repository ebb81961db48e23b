package ops

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// rmsNorm64 normalises heads of HD elements, contiguous.
func rmsNorm64(x, w []float64, eps float64) []float64 {
	HD := len(w)
	y := make([]float64, len(x))
	for at := 0; at < len(x); at += HD {
		mean := 0.0
		for _, v := range x[at:][:HD] {
			mean += v * v / float64(HD)
		}
		for j, v := range x[at:][:HD] {
			y[at+j] = v / math.Sqrt(mean+eps) * w[j]
		}
	}
	return y
}

func TestRMSNormAndItsBackwardMatchFloat64(t *testing.T) {
	r := newRand(1)
	for _, c := range []struct {
		n, C     int
		std, eps float64
	}{
		{0, 5, 1, 1e-5}, {1, 1, 1, 1e-5}, {1, 2, 1, 1e-5}, {3, 7, 1, 1e-5}, {2, 63, 1, 1e-5}, {5, 64, 1, 1e-5},
		{4, 65, 1, 1e-5}, {3, 130, 1, 1e-5}, {33, 66, 1, 1e-5},
		{3, 65, 1e-3, 1e-5}, {3, 65, 1e-8, 1e-5}, {3, 65, 1e-2, 0}, {3, 65, 1e4, 1e-5},
		{3, 65, 1e-18, 0}, {3, 65, 1e-25, 0}, {3, 65, 1e25, 1e-5}, // squares beyond float32
	} {
		t.Run(fmt.Sprintf("n=%d,C=%d,std=%g,eps=%g", c.n, c.C, c.std, c.eps), func(t *testing.T) {
			n, C := c.n, c.C
			x, w, dy := random(r, n*C, c.std), random(r, C, 1), random(r, n*C, 1)
			y, rstd := output(t, n*C), output(t, n)
			RMSNorm(y, rstd, x, w, n, C, c.eps)
			x64, w64, dy64 := widen(x), widen(w), widen(dy)
			requireClose(t, rmsNorm64(x64, w64, c.eps), y, 3e-7, "y")

			// in units of std, so that differences are taken at a sane scale
			for i := range x64 {
				x64[i] /= c.std
			}
			loss := func() float64 { return dot(rmsNorm64(x64, w64, c.eps/c.std/c.std), dy64) }
			gx, gw := gradient(x64, loss), gradient(w64, loss)
			for i := range gx {
				gx[i] /= c.std
			}
			dx0, dw0 := random(r, n*C, norm(gx)/max(1, float64(n*C))), random(r, C, 1)
			dx, dw := sum(t, dx0), sum(t, dw0)
			RMSNormBackward(dx, dw, dy, x, rstd, w, n, C)
			// relative to the gradient, and not to what it was added to
			if C > 1 { // else the terms cancel
				requireClose(t, plus(dx0, gx), dx, 1e-6, "dx")
			}
			requireClose(t, plus(dw0, gw), dw, 1e-6, "dw")
		})
	}
}

func TestRMSNormBackwardSkipsANilWeightGradient(t *testing.T) {
	r := newRand(2)
	const n, C = 3, 70
	x, w, dy, rstd := random(r, n*C, 1), random(r, C, 1), random(r, n*C, 1), random(r, n, 1)
	dx, without := output(t, n*C), output(t, n*C)
	clear(dx)
	clear(without)
	RMSNormBackward(dx, make([]float32, C), dy, x, rstd, w, n, C)
	RMSNormBackward(without, nil, dy, x, rstd, w, n, C)
	require.Equal(t, bitsOf(dx), bitsOf(without))
}

func TestRMSNormInPlaceGivesTheSameBits(t *testing.T) {
	r := newRand(3)
	const n, C = 7, 66
	x, w := random(r, n*C, 1), random(r, C, 1)
	y, rstd := output(t, n*C), output(t, n)
	RMSNorm(y, rstd, x, w, n, C, 1e-5)
	RMSNorm(x, rstd, x, w, n, C, 1e-5)
	require.Equal(t, bitsOf(y), bitsOf(x))
}

func TestRMSNormHeadsReadsAndWritesItsColumnsOnly(t *testing.T) {
	r := newRand(4)
	for _, c := range []struct{ n, NH, HD, xs, ys, dxs, dys int }{
		{1, 1, 2, 2, 2, 2, 2}, {3, 2, 4, 8, 8, 8, 8}, {4, 3, 6, 20, 25, 31, 18}, {2, 5, 66, 331, 340, 330, 333},
	} {
		n, NH, HD, N := c.n, c.NH, c.HD, c.NH*c.HD
		eps := 1e-5
		pack := func(x []float32, stride int) []float32 {
			p := make([]float32, n*N)
			CopyColumns(p, x, n, N, N, stride)
			return p
		}
		x, w, dy := random(r, n*c.xs, 1), random(r, HD, 1), random(r, n*c.dys, 1)
		y, rstd := output(t, (n-1)*c.ys+N), output(t, n*NH)
		RMSNormHeads(y, rstd, x, w, n, NH, HD, c.ys, c.xs, eps)
		requireNaNBetween(t, y, n, N, c.ys)

		want, wantR := make([]float32, n*N), make([]float32, n*NH)
		RMSNorm(want, wantR, pack(x, c.xs), w, n*NH, HD, eps)
		require.Equal(t, bitsOf(want), bitsOf(pack(y, c.ys)))
		require.Equal(t, bitsOf(wantR), bitsOf(rstd))

		dx, dw := output(t, (n-1)*c.dxs+N), make([]float32, HD)
		for i := range n {
			clear(dx[i*c.dxs:][:N])
		}
		RMSNormHeadsBackward(dx, dw, dy, x, rstd, w, n, NH, HD, c.dxs, c.dys, c.xs)
		requireNaNBetween(t, dx, n, N, c.dxs)
		wantX, wantW := make([]float32, n*N), make([]float32, HD)
		RMSNormBackward(wantX, wantW, pack(dy, c.dys), pack(x, c.xs), wantR, w, n*NH, HD)
		require.Equal(t, bitsOf(wantX), bitsOf(pack(dx, c.dxs)))
		require.Equal(t, bitsOf(wantW), bitsOf(dw))
	}
}

// requireNaNBetween requires that nothing was written between the n rows of N
// elements of an output, and all of them were.
func requireNaNBetween(t *testing.T, y []float32, n, N, stride int) {
	t.Helper()
	for i, v := range y {
		require.Equal(t, i%stride >= N, v != v, "element %d of row %d of %d", i%stride, i/stride, n)
	}
}

func TestRMSNormNaNAndInfStayInTheirRow(t *testing.T) {
	r := newRand(5)
	const n, C = 5, 67
	for _, bad := range []float32{nan, inf, -inf} {
		x, w, dy := random(r, n*C, 1), random(r, C, 1), random(r, n*C, 1)
		clean, rstd := make([]float32, n*C), make([]float32, n)
		RMSNorm(clean, rstd, x, w, n, C, 1e-5)
		cleanX := make([]float32, n*C)
		RMSNormBackward(cleanX, nil, dy, x, rstd, w, n, C)

		x[2*C+5] = bad
		y, dx, dw := make([]float32, n*C), make([]float32, n*C), make([]float32, C)
		RMSNorm(y, rstd, x, w, n, C, 1e-5)
		RMSNormBackward(dx, dw, dy, x, rstd, w, n, C)
		require.True(t, math.IsNaN(float64(y[2*C+5])))
		require.True(t, math.IsNaN(float64(dx[2*C+5])))
		require.True(t, math.IsNaN(float64(dw[5])))
		for i := range y {
			if i/C != 2 {
				require.Equal(t, math.Float32bits(clean[i]), math.Float32bits(y[i]))
				require.Equal(t, math.Float32bits(cleanX[i]), math.Float32bits(dx[i]))
			} else if bad != bad {
				require.True(t, y[i] != y[i] && dx[i] != dx[i])
			}
		}
	}
}
