package simd

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkSoftmaxCols is 64 columns under the mask, in the second-level cache.
func BenchmarkSoftmaxCols(b *testing.B) {
	for _, past := range []int{0, 64, 128, 960} {
		rows := past + ScoreCols
		from := random(rand.New(rand.NewPCG(1, 2)), rows*ScoreCols)
		x, p := make([]float32, rows*ScoreCols), make([]float32, rows*ScoreCols)
		most, sum, norm := make([]float32, ScoreCols), make([]float64, ScoreCols), make([]float32, ScoreCols)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/past=%d", name, past), func(b *testing.B) {
				copy(x, from)
				for b.Loop() {
					f()
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/(ScoreCols*(float64(past)+ScoreCols/2)/16), "ns/vector")
			})
		}
		run("Exp", func() { ExpCols(x, past, 0.125, most, sum) })
		run("Backward", func() { DSoftmaxCols(x, p, past, 0.125, most, norm) })
	}
}
