package chainrule

import "testing"

// The passes over all parameters of a training step, larger than the caches:
// bytes that each cannot do without.
func BenchmarkUpdate(b *testing.B) {
	c := Config{
		Dim: 768, HiddenDim: 2048, NLayers: 12, NHeads: 12, NKVHeads: 12, HeadDim: 64,
		VocabSize: 32000, SeqLen: 1024, RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
	m, err := NewModel(c)
	if err != nil {
		b.Fatal(err)
	}
	m.Init(1)
	g, err := NewParams(c)
	if err != nil {
		b.Fatal(err)
	}
	copy(g.Data, m.Data)
	s, err := NewAdamState(c)
	if err != nil {
		b.Fatal(err)
	}
	for _, op := range []struct {
		name  string
		bytes int64 // a parameter
		run   func()
	}{
		{"AdamStep", 28, func() { AdamStep(m, g, s, Adam{LR: 1e-6, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1}) }},
		{"GradNorm", 4, func() { GradNorm(g) }},
		{"ClipGradients", 12, func() { ClipGradients(g, 1e-3) }},
		{"ZeroGrad", 4, func() { ZeroGrad(g) }},
	} {
		op.run() // the first step meets memory that was never touched
		b.Run(op.name, func(b *testing.B) {
			b.SetBytes(op.bytes * int64(len(m.Data)))
			for b.Loop() {
				op.run()
			}
		})
	}
}
