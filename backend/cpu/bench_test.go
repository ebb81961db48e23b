package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"

	"github.com/chainrule-go/chainrule/backend"
)

// The linear layers of models of 1M to 110M parameters: {rows, in, out}.
var benchShapes = [][3]int{
	{1, 288, 864}, {1, 768, 2304}, {1, 768, 32000}, {4, 768, 2304}, {16, 768, 2304},
	{256, 128, 384}, {1024, 128, 768}, {1024, 384, 128}, {2048, 128, 384}, {2048, 128, 256},
	{1024, 288, 864}, {256, 768, 2304}, {1024, 768, 768}, {256, 2048, 768}, {256, 768, 4096},
	{256, 768, 32000},
}

// BenchmarkLinear runs this package and gonum's Sgemm in turns, shape by shape
// and product by product: y = x Wᵀ (NT), dx = dy W (NN), dw += dyᵀ x (TN).
func BenchmarkLinear(b *testing.B) {
	be, err := New(Options{})
	require.NoError(b, err)
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		s := make([]float32, n)
		for i := range s {
			s[i] = rng.Float32() - 0.5
		}
		return s
	}
	for _, s := range benchShapes {
		rows, in, out := s[0], s[1], s[2]
		x, y := random(rows*in), random(rows*out)
		dx, dw := make([]float32, rows*in), make([]float32, out*in)
		w := &backend.Matrix{Data: random(out * in), Out: out, In: in}
		var g gonum.Implementation
		for _, p := range []struct {
			name        string
			ours, gonum func()
		}{
			{"NT",
				func() { be.Linear(y, x, w, rows) },
				func() { g.Sgemm(blas.NoTrans, blas.Trans, rows, out, in, 1, x, in, w.Data, in, 0, y, out) }},
			{"NN",
				func() { be.LinearBackward(dx, nil, y, nil, w, rows) },
				func() { g.Sgemm(blas.NoTrans, blas.NoTrans, rows, in, out, 1, y, out, w.Data, in, 0, dx, in) }},
			{"TN",
				func() { be.LinearBackward(nil, dw, y, x, w, rows) },
				func() { g.Sgemm(blas.Trans, blas.NoTrans, out, in, rows, 1, y, out, x, in, 1, dw, in) }},
		} {
			if rows < 16 && p.name != "NT" { // generation
				continue
			}
			for _, impl := range []struct {
				name string
				run  func()
			}{{"cpu", p.ours}, {"gonum", p.gonum}} {
				b.Run(fmt.Sprintf("%s/%dx%dx%d/%s", p.name, rows, in, out, impl.name), func(b *testing.B) {
					for b.Loop() {
						impl.run()
					}
					ops := 2 * float64(rows) * float64(in) * float64(out) * float64(b.N)
					b.ReportMetric(ops/b.Elapsed().Seconds()/1e9, "GF/s")
				})
			}
		}
	}
}
