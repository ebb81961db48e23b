package simd

import "math"

// AdamW is what a step of AdamW multiplies and adds. The kernels know the order
// of the fields.
type AdamW struct {
	GradScale    float32
	Beta1, Rest1 float32 // Rest1 is 1−β₁
	Beta2, Rest2 float32
	Decay        float32 // α·λ
	Step         float32 // α/(1−β₁ᵗ)
	Root         float32 // 1/√(1−β₂ᵗ)
	Eps          float32
	ZeroGrad     bool
}

// Update takes the step on p, m and v with the gradient g, with d = g·GradScale:
//
//	m ← Beta1·m + Rest1·d,  v ← Beta2·v + Rest2·d²
//	p ← p − (Decay·p + Step·m/(√v·Root + Eps))
//	g ← 0 if ZeroGrad
//
// The decay is part of the one step: 1 − Decay would lose most of a small Decay.
// A moment that would become subnormal becomes 0, and a kernel may take any
// subnormal number for 0: a row of an embedding that is not seen for a thousand
// steps ends there, and computing on with it takes ten times as long. The
// slices have one length.
func (f *AdamW) Update(p, g, m, v []float32) {
	n := len(p)
	kernelAdamW(p, g[:n], m[:n], v[:n], f)
}

const normal = 0x1p-126 // the smallest

func goAdamW(p, g, m, v []float32, f *AdamW) {
	for i := range p {
		d := g[i] * f.GradScale
		mi := f.Beta1*m[i] + f.Rest1*d
		vi := f.Beta2*v[i] + f.Rest2*(d*d)
		if mi > -normal && mi < normal {
			mi = 0
		}
		if vi > -normal && vi < normal {
			vi = 0
		}
		m[i], v[i] = mi, vi
		p[i] -= f.Decay*p[i] + f.Step*mi/(float32(math.Sqrt(float64(vi)))*f.Root+f.Eps)
		if f.ZeroGrad {
			g[i] = 0
		}
	}
}

// AdamTraffic reads and writes what Update does and computes next to nothing: a
// probe of the memory's bandwidth.
func AdamTraffic(p, g, m, v []float32) {
	n := len(p)
	kernelAdamTraffic(p, g[:n], m[:n], v[:n])
}

func goAdamTraffic(p, g, m, v []float32) {
	for i, d := range g {
		p[i] += d
		m[i] += d
		v[i] += d
	}
}
