package gemm

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkPanels is the products of attention: scores, what they weigh, and
// that of the transpose in the backward, with operands in cache.
func BenchmarkPanels(b *testing.B) {
	for _, s := range []struct {
		name         string
		m, k, n      int
		lda, ka, ldc int
		add          bool
	}{
		{"Scores", 96, 64, 64, 64, 1, 80, false},
		{"Scores", 96, 64, 256, 64, 1, 272, false},
		{"Scores", 96, 64, 1024, 64, 1, 1040, false},
		{"Scores", 96, 128, 1024, 128, 1, 1040, false},
		{"Weigh", 96, 96, 64, 272, 1, 768, false},
		{"Weigh", 96, 192, 64, 272, 1, 768, false},
		{"Weigh", 96, 960, 64, 1040, 1, 768, false},
		{"Weigh", 96, 960, 128, 1040, 1, 768, false},
		{"Back", 192, 96, 64, 1, 272, 768, true},
		{"Back", 960, 96, 64, 1, 1040, 768, true},
		{"Back", 960, 96, 64, 1, 1040, 64, true},
		{"Back", 60, 96, 64, 1, 64, 64, true},
		{"Weigh", 96, 64, 64, 64, 1, 64, true},
		{"Weigh", 96, 64, 64, 1040, 1, 64, true},
		{"Weigh", 96, 64, 64, 1040, 1, 768, true},
		{"Back", 960, 96, 128, 1, 1040, 768, true},
	} {
		b.Run(fmt.Sprintf("%s/m=%d/k=%d/n=%d/lda=%d/ka=%d/ldc=%d", s.name, s.m, s.k, s.n, s.lda, s.ka, s.ldc), func(b *testing.B) {
			var p Panels
			var f Fetch
			r := rand.New(rand.NewPCG(1, 2)) // the clock is higher where most bits are 0
			p.Pack(random(r, s.k*s.n), s.n, s.k, s.n)
			a := random(r, (s.m-1)*s.lda+(s.k-1)*s.ka+1)
			c := make([]float32, s.m*max(s.ldc, s.n))
			for b.Loop() {
				p.Mul(c, max(s.ldc, s.n), a, s.lda, s.ka, s.m, 0, s.k, 0, s.n, s.add, &f)
			}
			b.ReportMetric(2*float64(s.m*s.k*s.n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GF/s")
		})
	}
	b.Run("Cached", func(b *testing.B) {
		p, f := NewCached(), 0.0
		if p == nil {
			b.Skip("Go alone")
		}
		for b.Loop() {
			f = p.Run(10)
		}
		b.ReportMetric(f*float64(b.N)/b.Elapsed().Seconds()/1e9, "GF/s")
	})
}
