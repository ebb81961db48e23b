// Package peak measures what the processor and its memory can do at most, for
// benchmarks to compare with: multiply-adds in registers and of operands in the
// first-level cache, reads, and the memory pattern of an optimizer.
//
// The kernels are those of the instruction set isa.Best, so a cap on it caps
// the peak, too.
package peak

import (
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chainrule-go/chainrule/internal/gemm"
	"github.com/chainrule-go/chainrule/internal/isa"
	"github.com/chainrule-go/chainrule/internal/mem"
)

// FMA returns the float32 operations a second of so many threads together that
// multiply and add in registers, an FMA counting as two. It is the best of some
// runs that take about two milliseconds together.
func FMA(threads int) float64 {
	k := kernels[isa.Best]
	acc := make([][most]float32, threads)
	const n, runs = 64 << 10, 6
	best := math.Inf(1)
	for range runs {
		best = min(best, together(threads, func(i int) { k.fma(&acc[i], 1, 1, n) }))
	}
	return float64(threads) * n * float64(k.lanes) * 2 / best
}

// Kernel returns the FLOP/s of so many threads together at products whose
// operands stay in the first-level cache, by the kernel of package gemm: what
// its loads and stores, and a clock that is lower with them, leave of FMA. It is
// the best of some runs that take about 20 milliseconds together, and 0 where
// there is no kernel.
func Kernel(threads int) float64 {
	products := make([]*gemm.Cached, threads)
	for i := range products {
		products[i] = gemm.NewCached()
	}
	if products[0] == nil {
		return 0
	}
	const seconds, runs = 5e-3, 4
	n := int(seconds*FMA(1)/products[0].Run(1)) + 1
	best := math.Inf(1)
	for range runs {
		best = min(best, together(threads, func(i int) { products[i].Run(n) }))
	}
	return float64(threads) * products[0].Run(1) * float64(n) / best
}

// Streams holds the memory that Read and Update go through, allocated once. It
// should be larger than the caches. It is full of random numbers: zeros are
// read 1.15 and updated 1.2 times as fast on an EPYC of Zen 3.
type Streams struct{ p, g, m, v []float32 }

// StreamBytes returns the size of Streams that suits the machine: twice its
// last cache, between 256 MiB and 1 GiB.
func StreamBytes() int { return min(max(2*lastCache(), 256<<20), 1<<30) }

// NewStreams returns Streams of so many bytes.
func NewStreams(bytes int) *Streams {
	n := max(bytes/16/blockFloats, 1) * blockFloats
	s := &Streams{mem.Stream(n), mem.Stream(n), mem.Stream(n), mem.Stream(n)}
	r := rand.New(rand.NewPCG(1, 2))
	var block [4096]float32 // over and over: drawing takes time
	for _, a := range [...][]float32{s.p, s.g, s.m, s.v} {
		for i := range block {
			block[i] = r.Float32() - 0.5
		}
		for at := 0; at < n; {
			at += copy(a[at:], block[:])
		}
	}
	return s
}

// Read returns the bytes a second that so many threads together read.
func (s *Streams) Read(threads int) float64 {
	all := [...][]float32{s.p, s.g, s.m, s.v}
	sums := make([]float32, 16*threads) // a cache line each
	best := math.Inf(1)
	for range streamRuns {
		best = min(best, together(threads, func(i int) {
			for _, a := range all {
				sums[16*i] += kernels[isa.Best].read(part(a, i, threads))
			}
		}))
	}
	return 16 * float64(len(s.p)) / best
}

// Update returns the bytes a second of so many threads together that do to four
// arrays what AdamW does: all of them are read and three written, 28 bytes a
// parameter.
func (s *Streams) Update(threads int) float64 {
	best := math.Inf(1)
	for range streamRuns {
		best = min(best, together(threads, func(i int) {
			kernels[isa.Best].update(part(s.p, i, threads), part(s.g, i, threads), part(s.m, i, threads), part(s.v, i, threads))
		}))
	}
	return 28 * float64(len(s.p)) / best
}

// Bytes returns the size of the memory.
func (s *Streams) Bytes() int { return 16 * len(s.p) }

const streamRuns = 4

// part is the i-th of n parts of a, in whole blocks.
func part(a []float32, i, n int) []float32 {
	blocks := len(a) / blockFloats
	return a[i*blocks/n*blockFloats : (i+1)*blocks/n*blockFloats]
}

// together runs f(0) … f(threads−1) at the same time, each on a thread of its
// own, and returns the seconds from the first start to the last end.
func together(threads int, f func(i int)) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
	var ready, done atomic.Int32
	var begin atomic.Int64
	base := time.Now()
	body := func(i int) {
		if ready.Add(1) == int32(threads) {
			begin.Store(max(1, int64(time.Since(base)))) // a coarse clock may not have moved yet
		}
		for begin.Load() == 0 {
			runtime.Gosched()
		}
		f(i)
		done.Add(1)
	}
	for i := 1; i < threads; i++ {
		go body(i)
	}
	body(0)
	for done.Load() != int32(threads) {
		runtime.Gosched()
	}
	return (time.Since(base) - time.Duration(begin.Load())).Seconds()
}

// lastCache returns the size of the last cache in bytes as Linux tells it, or 0.
func lastCache() (bytes int) {
	for i := range 5 {
		b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cache/index" + strconv.Itoa(i) + "/size")
		if kib, isKiB := strings.CutSuffix(strings.TrimSpace(string(b)), "K"); err == nil && isKiB {
			n, _ := strconv.Atoi(kib)
			bytes = max(bytes, n<<10)
		}
	}
	return bytes
}
