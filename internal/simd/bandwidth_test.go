package simd

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/chainrule-go/chainrule/internal/mem"
	"github.com/chainrule-go/chainrule/internal/par"
)

// What AdamW and the norm reach of what memory gives, on one core and on all:
// 28 bytes a parameter or 32, 4 for the norm. Compare within one run.
func BenchmarkBandwidth(b *testing.B) {
	const n, chunk = 24 << 20, 16 << 10 // 400 MB
	r := rand.New(rand.NewPCG(13, 14))
	p, g, m, v := mem.Stream(n), mem.Stream(n), mem.Stream(n), mem.Stream(n)
	copy(p, random(r, n))
	for i := range p {
		g[i], m[i], v[i] = 1e-3*p[n-1-i], 1e-3*p[i], 1e-6*p[i]*p[i]
	}
	f := AdamW{1, 0.9, 0.1, 0.95, 0.05, 1e-5, 1e-4, 1, 1e-8, false}
	zeroing := f
	zeroing.ZeroGrad = true
	var sums [n / chunk]float64
	for _, c := range []struct {
		name  string
		bytes int64
		loop  *par.Loop[struct{}]
	}{
		{"AdamTraffic", 28, par.New(func(_ *struct{}, lo, hi int) { AdamTraffic(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]) })},
		{"AdamW", 28, par.New(func(_ *struct{}, lo, hi int) { f.Update(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]) })},
		{"AdamWZeroGrad", 32, par.New(func(_ *struct{}, lo, hi int) { zeroing.Update(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]) })},
		{"SumSquares", 4, par.New(func(_ *struct{}, lo, hi int) { sums[lo/chunk] = SumSquares(p[lo:hi]) })},
		{"Max", 4, par.New(func(_ *struct{}, lo, hi int) { Max(p[lo:hi]) })},
		{"clear", 4, par.New(func(_ *struct{}, lo, hi int) { clear(g[lo:hi]) })},
		{"Clear", 4, par.New(func(_ *struct{}, lo, hi int) { Clear(g[lo:hi]) })},
	} {
		for _, procs := range []int{1, runtime.NumCPU()} {
			b.Run(fmt.Sprintf("%s/procs=%d", c.name, procs), func(b *testing.B) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				b.SetBytes(c.bytes * n)
				for b.Loop() {
					c.loop.For(n, chunk, struct{}{})
				}
			})
		}
	}
}
