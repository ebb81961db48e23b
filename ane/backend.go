package ane

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/chainrule-go/chainrule/ane/internal/bridge"
	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/ane/internal/sim"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/internal/par"
)

// Options configures a Backend. The zero Options are right for most.
type Options struct {
	// MinRows is the least number of rows of a product that runs on the device.
	// Fewer, as in generation, do not pay for the dispatch. 0 is 64.
	MinRows int

	// MaxPrograms is how many programs may be loaded, one a shape; products of
	// further shapes run on the CPU. 0 is 15, the number after which others saw
	// loads fail.
	MaxPrograms int

	// MaxCompiles is how many texts this Backend gives the compiler, in all. 0 is
	// 100; others saw about 119 a process succeed, so a process that makes
	// several Backends has less for each.
	MaxCompiles int

	// CPU computes dW, and what the device cannot. nil is backend/cpu; on a Mac,
	// backend/blas with Accelerate may be faster. Close leaves it open.
	CPU backend.Backend
}

// Backend is a backend.Backend. Its methods may be called concurrently;
// products of one shape wait for each other, because they share a program.
type Backend struct {
	device device.Device
	cpu    backend.Backend
	ownCPU bool
	o      Options
	bytes  atomic.Int64 // of surfaces
	tasks  par.Pool[task]

	life sync.Mutex // held by Close, and by the cleanup of a Matrix

	mu       sync.Mutex // of what follows
	routes   map[routeKey]*route
	weights  map[weak.Pointer[backend.Matrix]]*weight
	compiles int
	programs int
	closed   bool
}

var _ backend.Backend = (*Backend)(nil)

// New returns a Backend on the Neural Engine of this machine. The error says
// what is missing: another operating system or processor, a build without
// cgo, the framework, one of its classes or methods, or a method whose type is
// not the known one.
func New(o Options) (*Backend, error) {
	d, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	return newBackend(d, o)
}

// Chip is a generation of the Neural Engine that can be simulated.
type Chip int

// What is known of a generation: M1 stands for the engines up to M3, axes up
// to 16384 and slices that turn |v| > 4094 into infinity, M4 for those from
// M4 on, axes up to 65536.
const (
	M1 Chip = iota
	M4
)

// NewSimulator returns a Backend on a simulated Neural Engine, on any machine:
// the same programs, in binary16, within the same limits.
func NewSimulator(chip Chip) (*Backend, error) {
	c := sim.Early()
	if chip == M4 {
		c = sim.M4()
	}
	return newBackend(sim.Device{Chip: c}, Options{})
}

func newBackend(d device.Device, o Options) (*Backend, error) {
	for _, f := range []struct {
		v    *int
		zero int
	}{{&o.MinRows, 64}, {&o.MaxPrograms, 15}, {&o.MaxCompiles, 100}} {
		if *f.v == 0 {
			*f.v = f.zero
		}
	}
	onCPU := o.CPU
	if onCPU == nil {
		var err error
		if onCPU, err = cpu.New(cpu.Options{}); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return &Backend{
		device: d, cpu: onCPU, ownCPU: o.CPU == nil, o: o,
		routes:  map[routeKey]*route{},
		weights: map[weak.Pointer[backend.Matrix]]*weight{},
	}, nil
}

// Linear computes y = x Wᵀ, y [rows, w.Out], x [rows, w.In], on the device or,
// where that cannot, on the CPU.
func (b *Backend) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	check(w, rows)
	need(w.Data, w.Out, w.In, "chainrule: Linear: w.Data is shorter than Out·In")
	need(x, rows, w.In, "chainrule: Linear: x is shorter than rows·In")
	need(y, rows, w.Out, "chainrule: Linear: y is shorter than rows·Out")
	r, done := b.run(Forward, y, x, w, rows)
	if done {
		return nil
	}
	start := time.Now()
	err := b.cpu.Linear(y, x, w, rows)
	r.ranOnCPU(time.Since(start))
	return err
}

// LinearBackward computes dx = dy W, dx [rows, w.In], on the device or, where
// that cannot, on the CPU, and dw = dw + dyᵀ x, dw [w.Out, w.In], on the CPU
// at the same time; dy [rows, w.Out], x [rows, w.In]. A nil dx or dw is
// skipped.
func (b *Backend) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	check(w, rows)
	need(dy, rows, w.Out, "chainrule: LinearBackward: dy is shorter than rows·Out")
	if dx != nil {
		need(w.Data, w.Out, w.In, "chainrule: LinearBackward: w.Data is shorter than Out·In")
		need(dx, rows, w.In, "chainrule: LinearBackward: dx is shorter than rows·In")
	}
	if dw != nil {
		need(x, rows, w.In, "chainrule: LinearBackward: x is shorter than rows·In")
		need(dw, w.Out, w.In, "chainrule: LinearBackward: dw is shorter than Out·In")
	}
	switch {
	case dx == nil:
		return b.cpu.LinearBackward(nil, dw, dy, x, w, rows)
	case dw == nil:
		return b.backward(dx, dy, w, rows)
	case rows < b.o.MinRows: // nothing to do at the same time
		return errors.Join(b.backward(dx, dy, w, rows), b.cpu.LinearBackward(nil, dw, dy, x, w, rows))
	}
	t := b.tasks.Get()
	t.start(b, dx, dy, w, rows)
	err := b.cpu.LinearBackward(nil, dw, dy, x, w, rows)
	if e := <-t.done; err == nil {
		err = e
	}
	b.tasks.Put(t)
	return err
}

// backward computes dx = dy W.
func (b *Backend) backward(dx, dy []float32, w *backend.Matrix, rows int) error {
	r, done := b.run(Backward, dx, dy, w, rows)
	if done {
		return nil
	}
	start := time.Now()
	err := b.cpu.LinearBackward(dx, nil, dy, nil, w, rows)
	r.ranOnCPU(time.Since(start))
	return err
}

// task is a backward in a goroutine of its own, which waits for the next one
// until Close: starting another would allocate now and then.
type task struct {
	b      *Backend
	dx, dy []float32
	w      *backend.Matrix
	rows   int
	work   chan struct{}
	done   chan error
}

func (t *task) start(b *Backend, dx, dy []float32, w *backend.Matrix, rows int) {
	t.b, t.dx, t.dy, t.w, t.rows = b, dx, dy, w, rows
	if t.work == nil {
		t.work, t.done = make(chan struct{}, 1), make(chan error, 1)
		go func() {
			for range t.work {
				err := t.b.backward(t.dx, t.dy, t.w, t.rows)
				t.b, t.dx, t.dy, t.w = nil, nil, nil, nil // hold nobody's memory
				t.done <- err
			}
		}()
	}
	t.work <- struct{}{}
}

// Close unloads the programs and releases all surfaces.
func (b *Backend) Close() error {
	b.life.Lock()
	defer b.life.Unlock()
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	weights, routes := b.weights, b.routes
	b.weights = nil
	b.mu.Unlock()
	for t := b.tasks.Get(); t.work != nil; t = b.tasks.Get() {
		close(t.work)
	}
	var errs []error
	for _, wt := range weights {
		wt.cleanup.Stop()
		errs = append(errs, b.closeRequests(wt))
	}
	for _, r := range routes {
		if r.program != nil {
			errs = append(errs, b.unload(r))
		}
	}
	if b.ownCPU {
		errs = append(errs, b.cpu.Close())
	}
	return errors.Join(append(errs, b.device.Close())...)
}

// release is the cleanup of a Matrix.
func (b *Backend) release(key weak.Pointer[backend.Matrix]) {
	b.life.Lock()
	defer b.life.Unlock()
	b.mu.Lock()
	wt := b.weights[key]
	delete(b.weights, key)
	b.mu.Unlock()
	if wt != nil {
		_ = b.closeRequests(wt) // nobody is there to be told
	}
}

// weight returns what is kept for w, for as long as w lives.
func (b *Backend) weight(w *backend.Matrix) *weight {
	key := weak.Make(w)
	b.mu.Lock()
	defer b.mu.Unlock()
	wt := b.weights[key]
	if wt == nil {
		wt = newWeight()
		wt.cleanup = runtime.AddCleanup(w, b.release, key)
		b.weights[key] = wt
	}
	return wt
}

func check(w *backend.Matrix, rows int) {
	switch {
	case w == nil:
		panic("chainrule: nil Matrix")
	case rows < 0:
		panic("chainrule: rows is negative")
	case w.Out < 0 || w.In < 0:
		panic("chainrule: Matrix has a negative size")
	}
}

// need panics if s is shorter than n·m, which may overflow.
func need(s []float32, n, m int, message string) {
	if n > 0 && m > len(s)/n {
		panic(message)
	}
}
