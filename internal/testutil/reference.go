// Package testutil is the oracle of the tests: a Llama-family transformer in
// float64, forward only, written as loops straight from the formulas; its
// gradient by finite differences; and the comparison of gradients tensor by
// tensor. The model shares no code with the library. The race detector does
// not look at its loops, which would take most of the time of such a run.
package testutil

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Config is the shape of the reference model; the fields mean what those of
// chainrule.Config mean.
type Config struct {
	Dim, HiddenDim, NLayers, NHeads, NKVHeads, HeadDim, VocabSize int

	RopeTheta, NormEps          float64
	RopeType                    string // "", "linear" or "llama3"
	RopeFactor, RopeLow, RopeHi float64
	RopeOriginalSeqLen          int
	Tied, QKNorm, QKVBias       bool
}

// Weights are the tensors of a model by name, row-major.
type Weights map[string][]float64

// Clone returns a deep copy.
func (w Weights) Clone() Weights {
	c := maps.Clone(w)
	for name := range c {
		c[name] = slices.Clone(c[name])
	}
	return c
}

// Sizes returns the number of elements of every tensor of the shape, by name.
func (c Config) Sizes() map[string]int {
	q, kv := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
	s := map[string]int{"token_embedding": c.VocabSize * c.Dim, "rms_final": c.Dim}
	if !c.Tied {
		s["wcls"] = c.VocabSize * c.Dim
	}
	for l := range c.NLayers {
		at := fmt.Sprintf("layers.%d.", l)
		s[at+"rms_att"], s[at+"rms_ffn"] = c.Dim, c.Dim
		s[at+"wq"], s[at+"wk"], s[at+"wv"], s[at+"wo"] = q*c.Dim, kv*c.Dim, kv*c.Dim, c.Dim*q
		s[at+"w1"], s[at+"w3"], s[at+"w2"] = c.HiddenDim*c.Dim, c.HiddenDim*c.Dim, c.Dim*c.HiddenDim
		if c.QKVBias {
			s[at+"bq"], s[at+"bk"], s[at+"bv"] = q, kv, kv
		}
		if c.QKNorm {
			s[at+"q_norm"], s[at+"k_norm"] = c.HeadDim, c.HeadDim
		}
	}
	return s
}

// Batch is the input of one pass: Tokens and Targets are [B,T]. The sum of the
// losses at targets ≥ 0 is divided by Denom, or by their number if Denom is 0.
type Batch struct {
	B, T            int
	Tokens, Targets []int32
	Denom           float64
}

// Result is what a forward pass gives.
type Result struct {
	Loss     float64
	Losses   []float64 // [B,T], 0 where the target is ignored
	Logits   []float64 // [B,T,V]
	MaxScore float64   // the largest |q·k|/√HD that a query sees
}

// Forward runs the model.
func (c Config) Forward(w Weights, b Batch) Result {
	var r Result
	x := c.embed(w, b)
	for stage := range 2 * c.NLayers {
		x = c.stage(w, b, x, stage, &r.MaxScore)
	}
	r.Logits = c.logits(w, x)
	r.Losses, r.Loss = c.loss(b, r.Logits)
	return r
}

// The model is a chain of stages on the residual stream x [B·T,C]: stage 2l is
// the attention of layer l, stage 2l+1 its feed-forward; the head follows.

func (c Config) embed(w Weights, b Batch) []float64 {
	x := make([]float64, 0, len(b.Tokens)*c.Dim)
	for _, token := range b.Tokens {
		x = append(x, w["token_embedding"][int(token)*c.Dim:][:c.Dim]...)
	}
	return x
}

func (c Config) stage(w Weights, b Batch, x []float64, stage int, maxScore *float64) []float64 {
	at := fmt.Sprintf("layers.%d.", stage/2)
	if stage%2 == 0 {
		return c.attention(w, at, b, x, maxScore)
	}
	return c.feedForward(w, at, x)
}

// attention returns x + Wo·attention(rmsnorm(x)).
//
//go:norace
func (c Config) attention(w Weights, at string, b Batch, x []float64, maxScore *float64) []float64 {
	C, HD := c.Dim, c.HeadDim
	Q, KV := c.NHeads*HD, c.NKVHeads*HD
	h := rmsNorm(x, w[at+"rms_att"], c.NormEps)
	q := linear(h, w[at+"wq"], w[at+"bq"], C, Q)
	k := linear(h, w[at+"wk"], w[at+"bk"], C, KV)
	v := linear(h, w[at+"wv"], w[at+"bv"], C, KV)
	if c.QKNorm {
		q = rmsNorm(q, w[at+"q_norm"], c.NormEps)
		k = rmsNorm(k, w[at+"k_norm"], c.NormEps)
	}
	c.rope(q, Q, b.T)
	c.rope(k, KV, b.T)
	out := make([]float64, b.B*b.T*Q)
	p := make([]float64, b.T)
	for s := range b.B {
		for head := range c.NHeads {
			kvHead := head / (c.NHeads / c.NKVHeads)
			for t := range b.T {
				qt := q[(s*b.T+t)*Q+head*HD:][:HD]
				top := math.Inf(-1)
				for j := 0; j <= t; j++ {
					p[j] = dot(qt, k[(s*b.T+j)*KV+kvHead*HD:][:HD]) / math.Sqrt(float64(HD))
					top = math.Max(top, p[j])
					*maxScore = math.Max(*maxScore, math.Abs(p[j]))
				}
				sum := 0.0
				for j := 0; j <= t; j++ {
					p[j] = math.Exp(p[j] - top)
					sum += p[j]
				}
				ot := out[(s*b.T+t)*Q+head*HD:][:HD]
				for j := 0; j <= t; j++ {
					for i, vi := range v[(s*b.T+j)*KV+kvHead*HD:][:HD] {
						ot[i] += p[j] / sum * vi
					}
				}
			}
		}
	}
	return add(x, linear(out, w[at+"wo"], nil, Q, C))
}

// feedForward returns x + W2·(silu(W1 h) · W3 h), h = rmsnorm(x).
//
//go:norace
func (c Config) feedForward(w Weights, at string, x []float64) []float64 {
	C, H := c.Dim, c.HiddenDim
	h := rmsNorm(x, w[at+"rms_ffn"], c.NormEps)
	gate := linear(h, w[at+"w1"], nil, C, H)
	up := linear(h, w[at+"w3"], nil, C, H)
	for i, g := range gate {
		gate[i] = g / (1 + math.Exp(-g)) * up[i]
	}
	return add(x, linear(gate, w[at+"w2"], nil, H, C))
}

func (c Config) logits(w Weights, x []float64) []float64 {
	classifier := w["wcls"]
	if c.Tied {
		classifier = w["token_embedding"]
	}
	return linear(rmsNorm(x, w["rms_final"], c.NormEps), classifier, nil, c.Dim, c.VocabSize)
}

//go:norace
func (c Config) loss(b Batch, logits []float64) (losses []float64, loss float64) {
	losses = make([]float64, len(b.Tokens))
	count := 0.0
	for i, target := range b.Targets {
		if target < 0 {
			continue
		}
		row := logits[i*c.VocabSize:][:c.VocabSize]
		top, sum := slices.Max(row), 0.0
		for _, z := range row {
			sum += math.Exp(z - top)
		}
		losses[i] = math.Log(sum) + top - row[target]
		loss += losses[i]
		count++
	}
	if b.Denom != 0 {
		count = b.Denom
	}
	if loss == 0 {
		return losses, 0
	}
	return losses, loss / count
}

// rmsNorm normalises every len(weight) elements of x.
//
//go:norace
func rmsNorm(x, weight []float64, eps float64) []float64 {
	n := len(weight)
	y := make([]float64, len(x))
	for at := 0; at < len(x); at += n {
		square := 0.0
		for _, v := range x[at:][:n] {
			square += v * v
		}
		rms := math.Sqrt(square/float64(n) + eps)
		for i := range n {
			y[at+i] = x[at+i] / rms * weight[i]
		}
	}
	return y
}

// linear returns x wᵀ + bias, x [rows,in], w [out,in].
//
//go:norace
func linear(x, w, bias []float64, in, out int) []float64 {
	rows := len(x) / in
	y := make([]float64, rows*out)
	for r := range rows {
		for o := range out {
			y[r*out+o] = dot(x[r*in:][:in], w[o*in:][:in])
			if bias != nil {
				y[r*out+o] += bias[o]
			}
		}
	}
	return y
}

// rope rotates pair i, elements 2i and 2i+1 of every head, by
// position·frequency(i); row n of x [B·T,width] is at position n mod T.
//
//go:norace
func (c Config) rope(x []float64, width, T int) {
	for i := range c.HeadDim / 2 {
		f := c.frequency(i)
		for t := range T {
			sin, cos := math.Sincos(float64(t) * f)
			for row := t * width; row < len(x); row += T * width {
				for at := row + 2*i; at < row+width; at += c.HeadDim {
					a, b := x[at], x[at+1]
					x[at], x[at+1] = a*cos-b*sin, a*sin+b*cos
				}
			}
		}
	}
}

// frequency is the angle per position of pair i. The scaling of "llama3" is
// that of Llama 3.1: by wavelength.
func (c Config) frequency(i int) float64 {
	f := 1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim))
	switch c.RopeType {
	case "linear":
		return f / c.RopeFactor
	case "llama3":
		original := float64(c.RopeOriginalSeqLen)
		wavelength := 2 * math.Pi / f
		if wavelength < original/c.RopeHi {
			return f
		}
		if wavelength > original/c.RopeLow {
			return f / c.RopeFactor
		}
		smooth := (original/wavelength - c.RopeLow) / (c.RopeHi - c.RopeLow)
		return (1-smooth)*f/c.RopeFactor + smooth*f
	}
	return f
}

//go:norace
func add(x, y []float64) []float64 {
	for i := range y {
		y[i] += x[i]
	}
	return y
}

//go:norace
func dot(x, y []float64) float64 {
	even, odd := 0.0, 0.0 // two sums, for speed
	y = y[:len(x)]
	for i := 1; i < len(x); i += 2 {
		even += x[i-1] * y[i-1]
		odd += x[i] * y[i]
	}
	if len(x)%2 == 1 {
		even += x[len(x)-1] * y[len(x)-1]
	}
	return even + odd
}
