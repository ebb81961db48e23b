package gemm

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func BenchmarkTiles(b *testing.B) {
	var s TileScratch
	x := make([]float32, 1<<20)
	y := make([]float32, 1<<20)
	z := make([]float32, 1<<20)
	pr := func() float64 {
		f := Peak(1) * 4000
		t := time.Now()
		Peak(4000)
		return f / time.Since(t).Seconds()
	}
	for _, d := range [][3]int{{64, 1024, 64}, {64, 64, 1024}, {1024, 64, 64}, {64, 256, 64}, {64, 64, 64}, {192, 64, 64}, {192, 256, 64}, {64, 1024, 128}, {64, 128, 1024}, {32, 256, 48}, {64, 48, 256}} {
		m, n, k := d[0], d[1], d[2]
		for i, f := range []func(){
			func() { TileNT(&s, z, n, x, k, y, k, m, n, k, false) },
			func() { TileNN(&s, z, n, x, k, y, n, m, n, k, false) },
			func() { TileTN(&s, z, n, x, m, y, n, m, n, k, false) },
		} {
			b.Run(fmt.Sprintf("%s/%v", forms[i].name, d), func(b *testing.B) {
				f()
				reps := max(1, 5_000_000/(m*n*k))
				var r []float64
				before := pr()
				for b.Loop() {
					t := time.Now()
					for range reps {
						f()
					}
					e := time.Since(t).Seconds()
					after := pr()
					r = append(r, 200*2*float64(m*n*k*reps)/e/(before+after))
					before = after
				}
				slices.Sort(r)
				b.ReportMetric(r[len(r)/2], "%peak")
			})
		}
	}
}
