package par

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type fill struct {
	hits  []atomic.Int32
	inner bool
}

var fillLoop *Loop[fill]

func init() {
	fillLoop = New(func(a *fill, lo, hi int) {
		for i := lo; i < hi; i++ {
			if a.inner {
				fillLoop.For(1, 1, fill{hits: a.hits[i : i+1]})
			} else {
				a.hits[i].Add(1)
			}
		}
	})
}

func check(t *testing.T, hits []atomic.Int32) {
	t.Helper()
	for i := range hits {
		if h := hits[i].Load(); h != 1 {
			t.Fatalf("index %d ran %d times, want once", i, h)
		}
	}
}

func TestForRunsEveryIndexOnce(t *testing.T) {
	for _, procs := range []int{1, 2, 4, 7} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		for _, n := range []int{0, 1, 2, 3, 16, 17, 1000} {
			for _, grain := range []int{1, 3, 16, 2000} {
				for _, inner := range []bool{false, true} {
					hits := make([]atomic.Int32, n)
					fillLoop.For(n, grain, fill{hits, inner})
					check(t, hits)
				}
			}
		}
	}
}

// Workers that have parked must wake, and callers that collide must not meet
// each other's loops.
func TestForConcurrentAndParked(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				hits := make([]atomic.Int32, 64)
				fillLoop.For(len(hits), 1+i%5, fill{hits: hits})
				check(t, hits)
				if i%50 == g {
					time.Sleep(2 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

func TestForSpreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var together atomic.Int32
	met := New(func(a *int, lo, hi int) {
		together.Add(1)
		for start := time.Now(); together.Load() < 2 && time.Since(start) < 5*time.Second; {
			runtime.Gosched()
		}
	})
	met.For(2, 1, 0)
	if together.Load() != 2 {
		t.Fatal("two chunks never ran at the same time")
	}
}

func TestForAllocatesNothing(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	hits := make([]atomic.Int32, 64)
	var before, after runtime.MemStats
	for try := 0; ; try++ {
		runtime.ReadMemStats(&before)
		for range 100 {
			fillLoop.For(len(hits), 1, fill{hits: hits})
		}
		runtime.ReadMemStats(&after)
		if after.Mallocs == before.Mallocs {
			return
		}
		if try == 20 { // the runtime itself allocates now and then, for goroutines that wait
			t.Fatalf("%d allocations in 100 loops", after.Mallocs-before.Mallocs)
		}
	}
}

func TestPoolReserves(t *testing.T) {
	var p Pool[int]
	prepare := func(x *int) { *x++ }
	p.Reserve(3, prepare)
	a, b := p.Get(), p.Get()
	p.Reserve(3, prepare) // two of them are out
	if *a != 1 || *b != 1 {
		t.Fatalf("what was taken was prepared again: %d, %d", *a, *b)
	}
	if c, d := p.Get(), p.Get(); *c != 2 || *d != 0 {
		t.Fatalf("then come %d and %d, want one prepared twice and a new one", *c, *d)
	}
	p.Put(a)
	p.Reserve(-1, prepare)
	p.Put(b)
	p.Reserve(1, prepare)
	if *a != 1 || *b != 2 {
		t.Fatalf("%d and %d, want that only the next one is prepared", *a, *b)
	}
}

func BenchmarkForkJoin(b *testing.B) {
	hits := make([]atomic.Int32, 2)
	for b.Loop() {
		fillLoop.For(2, 1, fill{hits: hits})
	}
}
