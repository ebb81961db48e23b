package ops

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func swiglu64(h13 []float64, n, H int) []float64 {
	out := make([]float64, 0, n*H)
	for i := range n {
		for j := range H {
			z, up := h13[2*i*H+j], h13[2*i*H+H+j]
			out = append(out, z/(1+math.Exp(-z))*up)
		}
	}
	return out
}

func TestSwiGLUAndItsBackwardMatchFloat64(t *testing.T) {
	r := newRand(1)
	for _, std := range []float64{1e-3, 1, 20} {
		for _, c := range []struct{ n, H int }{{0, 3}, {1, 1}, {1, 2}, {3, 5}, {2, 63}, {5, 65}} {
			t.Run(fmt.Sprint(c, std), func(t *testing.T) {
				n, H := c.n, c.H
				h13, dout := random(r, 2*n*H, std), random(r, n*H, 1)
				out, dh13 := output(t, n*H), output(t, 2*n*H)
				SwiGLU(out, h13, n, H)
				SwiGLUBackward(dh13, dout, h13, n, H)
				h64, d64 := widen(h13), widen(dout)
				requireClose(t, swiglu64(h64, n, H), out, 3e-7, "out")
				want := gradient(h64, func() float64 { return dot(swiglu64(h64, n, H), d64) })
				requireClose(t, want, dh13, 5e-7, "dh13")

				inPlace := sum(t, h13)
				SwiGLUBackward(inPlace, dout, inPlace, n, H)
				require.Equal(t, bitsOf(dh13), bitsOf(inPlace))
			})
		}
	}
}

func TestSwiGLUOfLargeGatesIsFinite(t *testing.T) {
	h13 := []float32{-1e30, -1000, -100, 100, 1000, 1e30, 1, 1, 1, 1, 1, 1}
	out, dh13 := output(t, 6), output(t, 12)
	SwiGLU(out, h13, 1, 6)
	SwiGLUBackward(dh13, filled(6, 1), h13, 1, 6)
	requireClose(t, []float64{0, 0, 0, 100, 1000, 1e30}, out, 1e-7, "out")
	requireClose(t, []float64{0, 0, 0, 1, 1, 1, 0, 0, 0, 100, 1000, 1e30}, dh13, 1e-7, "dh13")
}

func TestSwiGLUNaNStaysWithItsElement(t *testing.T) {
	const n, H = 3, 5
	for _, at := range []int{7, 17, 22} { // h1 of row 0 is 0–4, h3 5–9
		clean, dout := random(newRand(2), 2*n*H, 1), random(newRand(3), n*H, 1)
		h13 := append([]float32(nil), clean...)
		h13[at] = nan
		want, wantD, out, dh13 := output(t, n*H), output(t, 2*n*H), output(t, n*H), output(t, 2*n*H)
		SwiGLU(want, clean, n, H)
		SwiGLUBackward(wantD, dout, clean, n, H)
		SwiGLU(out, h13, n, H)
		SwiGLUBackward(dh13, dout, h13, n, H)
		row, col := at/(2*H), at%H
		gate := at%(2*H) < H
		for i := range out {
			require.Equal(t, i == row*H+col, out[i] != out[i])
		}
		for i := range dh13 {
			touched := i == row*2*H+col || gate && i == row*2*H+H+col
			require.Equal(t, touched, dh13[i] != dh13[i], "dh13[%d]", i)
			if !touched {
				require.Equal(t, wantD[i], dh13[i])
			}
		}
	}
}
