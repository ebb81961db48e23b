package simd

// SwiGLU sets out = silu(h1)·h3. The slices have one length.
func SwiGLU(out, h1, h3 []float32) { kernelSwiglu(out, h1[:len(out)], h3[:len(out)]) }

func goSwiglu(out, h1, h3 []float32) {
	for i, z := range h1 {
		out[i] = z / (1 + Exp(-z)) * h3[i]
	}
}

// SwiGLUBackward sets the gradients of out = silu(h1)·h3, with σ = 1/(1 + e^(−h1)):
//
//	dh1 = dout·h3·σ·(1 + h1·(1 − σ)),  dh3 = dout·h1·σ
//
// The slices have one length; dh1 may be h1 and dh3 h3.
func SwiGLUBackward(dh1, dh3, dout, h1, h3 []float32) {
	n := len(dh1)
	kernelSwigluBackward(dh1, dh3[:n], dout[:n], h1[:n], h3[:n])
}

func goSwigluBackward(dh1, dh3, dout, h1, h3 []float32) {
	for i, z := range h1 {
		s := 1 / (1 + Exp(-z))
		up := h3[i] // dh3 may be h3
		dh3[i] = dout[i] * z * s
		dh1[i] = dout[i] * up * s * (1 + z*(1-s))
	}
}
