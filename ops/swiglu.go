package ops

import (
	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// SwiGLU computes the gated activation (Shazeer, 2020)
//
//	out = silu(h1)·h3,  silu(z) = z·σ(z),  σ(z) = 1/(1 + e^(−z))
//
// A row of h13 [n,2H] is h1, the gate, then h3; out is [n,H].
func SwiGLU(out, h13 []float32, n, H int) {
	need(len(out) >= n*H && len(h13) >= 2*n*H, "chainrule: ops.SwiGLU: a slice is too short")
	swigluLoop.For(n, grain(2*H), swigluArgs{out, nil, h13, H})
}

// SwiGLUBackward computes dh13 [n,2H] from dout [n,H], the gradient of
// out = silu(h1)·h3:
//
//	dh1 = dout·h3·σ(h1)·(1 + h1·(1 − σ(h1))),  dh3 = dout·silu(h1)
//
// dh13 may be h13.
func SwiGLUBackward(dh13, dout, h13 []float32, n, H int) {
	need(len(dh13) >= 2*n*H && len(dout) >= n*H && len(h13) >= 2*n*H,
		"chainrule: ops.SwiGLUBackward: a slice is too short")
	swigluBackwardLoop.For(n, grain(2*H), swigluArgs{dh13, dout, h13, H})
}

type swigluArgs struct {
	out, dout, h13 []float32
	H              int
}

var swigluLoop = par.New(func(a *swigluArgs, lo, hi int) {
	H := a.H
	for i := lo; i < hi; i++ {
		out, h1, h3 := a.out[i*H:][:H], a.h13[2*i*H:][:H], a.h13[(2*i+1)*H:][:H]
		simd.SwiGLU(out, h1, h3)
	}
})

var swigluBackwardLoop = par.New(func(a *swigluArgs, lo, hi int) {
	H := a.H
	for i := lo; i < hi; i++ {
		dh1, dh3 := a.out[2*i*H:][:H], a.out[(2*i+1)*H:][:H]
		dout, h1, h3 := a.dout[i*H:][:H], a.h13[2*i*H:][:H], a.h13[(2*i+1)*H:][:H]
		simd.SwiGLUBackward(dh1, dh3, dout, h1, h3)
	}
})
