package simd

import (
	"fmt"
	"testing"
)

// BenchmarkSoftmaxRows is 96 rows under the mask, in the second-level cache.
func BenchmarkSoftmaxRows(b *testing.B) {
	const rows = 96
	for _, n := range []int{1, 97, 161, 929} {
		ld := n + rows
		x, p := make([]float32, rows*ld), make([]float32, rows*ld)
		most, sum := make([]float32, rows), make([]float64, rows)
		b.Run(fmt.Sprintf("Exp/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				ExpRows(x, ld, n, 0.125, most, sum)
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/(rows*(float64(n)+rows/2)/16), "ns/vector")
		})
		b.Run(fmt.Sprintf("Backward/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				DSoftmaxRows(x, p, ld, n, 0.125, most)
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/(rows*(float64(n)+rows/2)/16), "ns/vector")
		})
	}
}
