package ane

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/chainrule-go/chainrule/ane/internal/bridge"
	"github.com/chainrule-go/chainrule/backend"
)

// Trial is a product of random numbers on the device, in one layout, against
// the CPU.
type Trial struct {
	Layout string
	Err    error // nil: the layout is good
	Tiles  int   // evaluations for a whole product

	// RMSError and MaxError are the root mean square and the largest difference
	// from the CPU's result, divided by the root mean square of that.
	RMSError, MaxError float64

	Compile           time.Duration // and load
	StageAll          time.Duration // conversion of the weights and a
	Stage, Eval, Read time.Duration // of one evaluation, the shortest of a few
}

// accept is the largest MaxError of a good layout. Inputs and the result are
// each within 2⁻¹¹ of what they were, which makes a root mean square error of
// 0.7·2⁻¹¹ for any length of the sums, and a largest one of 3 to 5·2⁻¹¹,
// the more elements the larger.
// Sums in binary16 (20·2⁻¹¹ for 96 terms, more for more), a factor in the wrong
// place or an old result are above.
const accept = 0x1p-8

// Try runs a Trial of each layout for a product of rows with a W [out, in].
// The programs are unloaded again, but the compiler's budget is spent.
func (b *Backend) Try(p Product, rows, out, in int) ([]Trial, error) {
	pl, fits := newPlan(p, rows, out, in, b.device.Limits())
	if !fits {
		return nil, fmt.Errorf("ane: %v of %d rows, W [%d, %d]: %s", p, rows, out, in, reasonTexts[longAxis])
	}
	var trials []Trial
	for _, l := range layouts(p) {
		r := newRoute(routeKey{p, pl.m, out, in}, pl)
		t := b.try(r, l, 5)
		if r.program != nil {
			t.Err = errors.Join(t.Err, b.unload(r))
		}
		trials = append(trials, t)
	}
	return trials, nil
}

// choose gives r the first layout that passes its trial.
func (b *Backend) choose(r *route) {
	r.why = noLayout
	for _, l := range layouts(r.key.p) {
		t := b.try(r, l, 1)
		if t.Err == nil {
			r.stats.Layout = l.name
			return
		}
		r.stats.Rejected = append(r.stats.Rejected, l.name+": "+t.Err.Error())
		if r.program != nil {
			if err := b.unload(r); err != nil {
				r.stats.Error = err.Error()
			}
		}
		var limit limitError
		if errors.As(t.Err, &limit) {
			r.why = reason(limit)
			return
		}
	}
}

// limitError is a limit of the Options.
type limitError reason

func (e limitError) Error() string { return reasonTexts[e] }

// load compiles a program for r.
func (b *Backend) load(r *route, l *layout) error {
	b.mu.Lock()
	switch {
	case b.programs >= b.o.MaxPrograms:
		b.mu.Unlock()
		return limitError(programLimit)
	case b.compiles >= b.o.MaxCompiles:
		b.mu.Unlock()
		return limitError(compileBudget)
	}
	b.programs++
	b.compiles++
	b.mu.Unlock()
	program, err := b.device.Compile(l.text(r.plan.m, r.plan.k, r.plan.n), r.plan.inBytes(), r.plan.outBytes())
	if err != nil {
		b.mu.Lock()
		b.programs--
		b.mu.Unlock()
		return err
	}
	r.layout, r.program = l, program
	b.bytes.Add(int64(r.plan.outBytes()))
	return nil
}

// unload undoes load.
func (b *Backend) unload(r *route) error {
	err := r.program.Close()
	r.layout, r.program = nil, nil
	b.bytes.Add(-int64(r.plan.outBytes()))
	b.mu.Lock()
	b.programs--
	b.mu.Unlock()
	return err
}

// try loads a program, runs it a few times on the first tile, and compares the
// result with the CPU's. If the error is not nil, the program may be loaded.
func (b *Backend) try(r *route, l *layout, evaluations int) (t Trial) {
	t.Layout, t.Tiles = l.name, r.plan.tiles
	start := time.Now()
	if t.Err = b.load(r, l); t.Err != nil {
		return t
	}
	t.Compile = time.Since(start)

	rng := rand.New(rand.NewPCG(20, 26))
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = rng.Float32() - 0.5
		}
		return v
	}
	m, out, in := r.plan.m, min(r.plan.tile, r.key.out), r.key.in
	w := &backend.Matrix{Data: random(out * in), Out: out, In: in}
	from, to := in, out
	if r.key.p == Backward {
		from, to = to, from
	}
	src, dst := random(m*from), make([]float32, m*to)
	wt := newWeight()
	defer func() { t.Err = errors.Join(t.Err, b.closeTrial(wt)) }()
	if why := wt.scale(w); why != ok {
		t.Err = errors.New(reasonTexts[why])
		return t
	}
	e, _ := scaleTo(rowTarget, math.Float32bits(0.5))
	for i := range m {
		r.put[i], r.get[i] = power(e), power(-e)
	}
	asked := r.stats // only products that were asked for count
	var peak float32
	why := ok
	for i := 0; i < evaluations && why == ok; i++ {
		before := r.stats
		peak, why = b.evaluate(r, dst, src, wt, w, m, 0)
		stage, eval, read := r.stats.Stage-before.Stage, r.stats.Eval-before.Eval, r.stats.Read-before.Read
		if i == 0 {
			t.StageAll, t.Stage, t.Eval, t.Read = stage, stage, eval, read
		}
		t.Stage, t.Eval, t.Read = min(t.Stage, stage), min(t.Eval, eval), min(t.Read, read)
	}
	failure := r.stats.Error
	r.stats = asked
	switch {
	case why != ok:
		t.Err = fmt.Errorf("%s: %s", reasonTexts[why], failure)
		return t
	case peak == 0:
		t.Err = errors.New("the result is all zero")
		return t
	}

	// The device computed all rows; some of them are enough to compare.
	const samples = 64
	n := min(m, samples)
	some, got, want := make([]float32, n*from), make([]float32, n*to), make([]float32, n*to)
	for i := range n {
		row := i * (m - 1) / max(1, n-1)
		copy(some[i*from:], src[row*from:][:from])
		copy(got[i*to:], dst[row*to:][:to])
	}
	var err error
	if r.key.p == Forward {
		err = b.cpu.Linear(want, some, w, n)
	} else {
		err = b.cpu.LinearBackward(want, nil, some, nil, w, n)
	}
	if err != nil {
		t.Err = err
		return t
	}
	var size, square, most float64
	for i, v := range want {
		d := float64(got[i]) - float64(v)
		size += float64(v) * float64(v)
		square += d * d
		if most = max(most, math.Abs(d)); d != d {
			most = math.Inf(1)
		}
	}
	size = math.Sqrt(size / float64(len(want)))
	t.RMSError, t.MaxError = math.Sqrt(square/float64(len(want)))/size, most/size
	if !(t.MaxError <= accept) {
		t.Err = fmt.Errorf("wrong result: off by %.2g of its size, at most; want %.2g", t.MaxError, accept)
	}
	return t
}

// closeTrial releases the request of a trial, whose route is locked or private.
func (b *Backend) closeTrial(wt *weight) error {
	var errs []error
	for key, q := range wt.requests {
		errs = append(errs, q.Close())
		b.bytes.Add(-int64(key.route.plan.inBytes()))
	}
	return errors.Join(errs...)
}

// Method is a method of Apple's private framework: the type that the bridge
// calls it with, and the one that this system has, as the Objective-C runtime
// encodes them. Got is empty if there is no such method.
type Method = bridge.Method

// Methods lists the methods that New needs, found or not; none in a build
// without the bridge.
func Methods() []Method { return bridge.Methods() }
