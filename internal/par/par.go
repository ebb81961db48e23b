// Package par runs loops over the cores.
//
// A loop is split into chunks of a fixed size, never into as many as there are
// cores, and each chunk writes outputs of its own: the result has the same
// bits at any GOMAXPROCS. Workers are goroutines that spin for some
// microseconds after a loop, because the next one of a training step is
// usually that close, and then park. Running a loop allocates nothing.
package par

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Loop is a loop body with the memory of its arguments. Make it once, as a
// package variable, with New.
type Loop[A any] struct {
	body func(a *A, lo, hi int)
	free Pool[call[A]]
}

// New returns a Loop that calls body with the arguments of For and a range
// lo ≤ i < hi of its indices.
func New[A any](body func(a *A, lo, hi int)) *Loop[A] {
	return &Loop[A]{body: body}
}

// call is one run of a Loop; it is what the workers see.
type call[A any] struct {
	loop *Loop[A]
	args A
}

func (c *call[A]) run(lo, hi int) { c.loop.body(&c.args, lo, hi) }

// For calls the body for all of 0 ≤ i < n, in chunks of grain indices (the
// last one may be shorter), on up to GOMAXPROCS cores, and returns when all
// are done. A loop that runs while another one has the workers, or inside a
// body, runs on its caller alone.
func (l *Loop[A]) For(n, grain int, args A) {
	if n <= 0 {
		return
	}
	c := l.free.Get()
	c.loop, c.args = l, args
	if procs := runtime.GOMAXPROCS(0); n <= grain || procs == 1 || !crew.run(c, n, grain, procs) {
		for lo := 0; lo < n; lo += grain {
			c.run(lo, min(n, lo+grain))
		}
	}
	*c = call[A]{} // hold nobody's memory
	l.free.Put(c)
}

// Pool is a free list. Unlike sync.Pool it never drops what it was given, so
// that a caller who returns what he took allocates nothing the second time.
// The zero Pool is ready.
type Pool[T any] struct {
	mu   sync.Mutex
	free []*T
	made int
}

// Reserve makes as many as n callers take at the same time, and has f prepare
// those that Get returns next: so a worker who comes when the first loop is over
// need not allocate.
func (p *Pool[T]) Reserve(n int, f func(*T)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; p.made < n; p.made++ {
		p.free = append(p.free, new(T))
	}
	for i := max(0, len(p.free)-n); i < len(p.free); i++ {
		f(p.free[i])
	}
}

// Get returns something given to Put before, or a new zero T.
func (p *Pool[T]) Get() *T {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.free)
	if n == 0 {
		p.made++
		return new(T)
	}
	x := p.free[n-1]
	p.free = p.free[:n-1]
	return x
}

// Put gives x to a later Get.
func (p *Pool[T]) Put(x *T) {
	p.mu.Lock()
	p.free = append(p.free, x)
	p.mu.Unlock()
}

type runner interface{ run(lo, hi int) }

// team is the workers of the process. One loop has them at a time.
type team struct {
	taken   atomic.Bool
	workers []*worker // grows only, under taken

	// The current loop. Workers look at seq, then enter (active), then read
	// open; the caller clears open and waits for active to be 0 before it
	// touches the rest again, so a worker that wakes late meets nothing.
	seq    atomic.Uint64
	open   atomic.Bool
	active atomic.Int32
	// Of the chunks, the caller takes those from the front, in order, and the
	// workers those from the back: with two cores, each meets the same part of
	// memory in one loop after the other.
	claimed atomic.Int64 // chunks
	back    atomic.Int64 // the first chunk that a worker has taken
	job     runner
	n       int
	grain   int
	core    int // of the caller
}

var crew team

type worker struct {
	parked atomic.Bool
	wake   chan struct{}
	away   mover
}

// spins is how often a worker looks for the next loop before it parks: some
// 50 to 100 µs.
const spins = 1 << 15

// run runs the loop on the team, or returns false if the team is taken.
func (t *team) run(job runner, n, grain, procs int) bool {
	if !t.taken.CompareAndSwap(false, true) {
		return false
	}
	helpers := min(procs, (n+grain-1)/grain) - 1
	for len(t.workers) < helpers {
		w := &worker{wake: make(chan struct{}, 1)}
		t.workers = append(t.workers, w)
		go w.loop(t, t.seq.Load())
	}
	t.job, t.n, t.grain = job, n, grain
	t.core = core()
	t.claimed.Store(0)
	t.back.Store(int64((n + grain - 1) / grain))
	t.open.Store(true)
	t.seq.Add(1)
	for _, w := range t.workers[:helpers] {
		if w.parked.Load() && w.parked.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
	for i := 0; t.claim(); i++ {
		t.chunk(i)
	}
	t.open.Store(false)
	for i := 1; t.active.Load() != 0; i++ {
		if i%1024 == 0 {
			runtime.Gosched()
		}
	}
	t.job = nil
	t.taken.Store(false)
	return true
}

// claim reports whether there was a chunk left to take.
func (t *team) claim() bool { return int(t.claimed.Add(1)-1)*t.grain < t.n }

func (t *team) chunk(i int) {
	lo := i * t.grain
	t.job.run(lo, min(t.n, lo+t.grain))
}

func (w *worker) loop(t *team, seen uint64) {
	for {
		for i := 0; t.seq.Load() == seen; i++ {
			if i < spins {
				continue
			}
			w.parked.Store(true)
			if t.seq.Load() != seen && w.parked.CompareAndSwap(true, false) {
				break
			}
			<-w.wake // run cleared parked and sends, or will when it needs us
			i = 0
		}
		seen = t.seq.Load()
		t.active.Add(1)
		if t.open.Load() {
			if core() == t.core {
				w.away.leave(t.core)
			}
			for t.claim() {
				t.chunk(int(t.back.Add(-1)))
			}
		}
		t.active.Add(-1)
	}
}
