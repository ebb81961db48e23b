// Package backendtest is the conformance suite of package backend: every
// implementation runs it in a test.
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, func() backend.Backend { … }, backendtest.Options{})
//	}
package backendtest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/chainrule-go/chainrule/backend"
)

// Options says what an implementation promises less than a float32 backend
// does. The zero Options are the strictest.
type Options struct {
	// Roundoff is u in the bound √K·u·Σ|x||w| + 2u·|dw₀| on the error of an
	// element, a sum of K products; dw₀ is what dw held before. 0 is 2⁻²⁴, the
	// unit roundoff of float32. That bound allows no rounding of each product
	// and each sum where K is 1 to 3: a backend that does it needs 2⁻²².
	Roundoff float64

	// Inexact skips the checks that small integers come out exactly.
	Inexact bool

	// Allocates skips the check that a call allocates nothing after the first.
	Allocates bool

	// AddressDependent skips the check that equal slices give equal bits
	// wherever they lie in memory: sums may start at an aligned address.
	AddressDependent bool
}

// Run runs every check as a subtest, each on a backend of its own from open,
// which it closes.
func Run(t *testing.T, open func() backend.Backend, o Options) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(open, o); err != nil {
				t.Error(err)
			}
		})
	}
}

type check struct {
	name string
	f    func(be backend.Backend, o Options) error
}

// run runs the check on a new backend. A panic of the backend is an error.
func (c check) run(open func() backend.Backend, o Options) (err error) {
	if o.Roundoff == 0 {
		o.Roundoff = 0x1p-24
	}
	be := open()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		if e := be.Close(); e != nil && err == nil {
			err = fmt.Errorf("from Close: %w", e)
		}
	}()
	return c.f(be, o)
}

var checks = []check{
	{"small integers come out exactly", exact},
	{"errors are within the bound", accurate},
	{"a large dw is added to, not rounded away", largeDW},
	{"NaN and Inf propagate and stay in their rows and columns", propagate},
	{"nil dx or dw is skipped", skipNil},
	{"memory around the slices is left alone", guarded},
	{"a changed Gen is observed", gen},
	{"concurrent calls do not meet", concurrent},
	{"the same bits at any GOMAXPROCS", deterministic},
	{"the same bits wherever the slices lie", relocated},
	{"no allocation after the first call", allocates},
	{"longer slices are accepted, shorter ones panic", lengths},
	{"Close may be called twice", closeTwice},
}

// shape is rows of x, and a matrix [out, in].
type shape struct{ rows, out, in int }

// shapes has the corners first (no rows, one of everything, primes around
// register tiles and vectors), then sizes that blocked implementations cut.
var shapes = []shape{
	{0, 3, 5}, {70, 0, 13}, {70, 13, 0}, {1, 1, 1}, {1, 1, 2}, {1, 2, 1}, {2, 1, 1}, {1, 5, 7}, {2, 3, 4}, {3, 7, 2}, {5, 3, 1}, {4, 4, 4},
	{7, 13, 11}, {8, 16, 32}, {5, 9, 64}, {17, 31, 33}, {1, 97, 129}, {3, 64, 65}, {16, 48, 96}, {49, 50, 51},
	{1, 300, 513}, {2, 257, 100}, {130, 65, 257}, {33, 515, 12}, {257, 20, 300}, {145, 147, 290}, {64, 128, 384},
}

// buffer is a slice with guard words on both sides.
type buffer struct {
	all []float32
	v   []float32 // what a backend gets; its capacity reaches over the guard
}

const (
	guards    = 37
	guardBits = 0x7fc0dead // a NaN, so that reading one shows too
)

func newBuffer(n int, f func(i int) float32) buffer {
	all := make([]float32, n+2*guards)
	for i := range all {
		all[i] = math.Float32frombits(guardBits)
	}
	b := buffer{all, all[guards : guards+n]}
	for i := range b.v {
		b.v[i] = f(i)
	}
	return b
}

func (b buffer) check(name string) error {
	for i := range guards {
		for _, at := range []int{i, len(b.all) - 1 - i} {
			if math.Float32bits(b.all[at]) != guardBits {
				return fmt.Errorf("%s, %d long, was written at %d", name, len(b.v), at-guards)
			}
		}
	}
	return nil
}

// problem is one linear layer with its gradient.
type problem struct {
	shape
	x, w, dy, dw0 buffer // inputs
	y, dx, dw     buffer // outputs
	m             *backend.Matrix
}

// newProblem draws the inputs with f. The outputs y and dx hold NaN, dw holds
// dw0.
func newProblem(s shape, f func() float32) *problem {
	draw := func(int) float32 { return f() }
	nan := func(int) float32 { return float32(math.NaN()) }
	p := &problem{shape: s}
	p.x = newBuffer(s.rows*s.in, draw)
	p.w = newBuffer(s.out*s.in, draw)
	p.dy = newBuffer(s.rows*s.out, draw)
	p.dw0 = newBuffer(s.out*s.in, draw)
	p.y = newBuffer(s.rows*s.out, nan)
	p.dx = newBuffer(s.rows*s.in, nan)
	p.dw = newBuffer(s.out*s.in, func(i int) float32 { return p.dw0.v[i] })
	p.m = &backend.Matrix{Data: p.w.v, Out: s.out, In: s.in, Gen: 1}
	return p
}

func (p *problem) run(be backend.Backend) error {
	if err := be.Linear(p.y.v, p.x.v, p.m, p.rows); err != nil {
		return fmt.Errorf("calling Linear, %+v: %w", p.shape, err)
	}
	if err := be.LinearBackward(p.dx.v, p.dw.v, p.dy.v, p.x.v, p.m, p.rows); err != nil {
		return fmt.Errorf("calling LinearBackward, %+v: %w", p.shape, err)
	}
	return nil
}

// reset makes the outputs what they were before run.
func (p *problem) reset() {
	clear(p.y.v)
	clear(p.dx.v)
	copy(p.dw.v, p.dw0.v)
}

// verify compares the outputs with float64 sums; u as in Options.Roundoff, 0
// demands equality.
func (p *problem) verify(u float64) error {
	return errors.Join(
		p.compare("y", p.y.v, nil, p.rows, p.out, p.in, u, factor{p.x.v, p.in, 1}, factor{p.w.v, p.in, 1}),
		p.compare("dx", p.dx.v, nil, p.rows, p.in, p.out, u, factor{p.dy.v, p.out, 1}, factor{p.w.v, 1, p.in}),
		p.compare("dw", p.dw.v, p.dw0.v, p.out, p.in, p.rows, u, factor{p.dy.v, 1, p.out}, factor{p.x.v, 1, p.in}))
}

// factor is one side of a product: term k of lane i is v[i*lane+k*step].
type factor struct {
	v          []float32
	lane, step int
}

// compare compares got [m,n] with the sums of k products, behind the backend's
// last access: the race detector, which has nothing to see, makes them slow.
//
//go:norace
func (p *problem) compare(name string, got, before []float32, m, n, k int, u float64, a, b factor) error {
	for r := range m {
		for c := range n {
			var want, abs, was float64
			for l := range k {
				product := float64(a.v[r*a.lane+l*a.step]) * float64(b.v[c*b.lane+l*b.step])
				want += product
				abs += max(product, -product)
			}
			if before != nil {
				was = float64(before[r*n+c])
			}
			want += was
			bound := math.Sqrt(float64(k))*u*abs + 2*u*math.Abs(was)
			// What the float64 sum itself may be off.
			bound += float64(k+1) * 0x1p-53 * (abs + math.Abs(was))
			g := float64(got[r*n+c])
			if u == 0 && g != want || !(math.Abs(g-want) <= bound) {
				return fmt.Errorf("%s[%d,%d] of rows=%d out=%d in=%d is %v, want %v ± %.3g",
					name, r, c, p.rows, p.out, p.in, g, want, bound)
			}
		}
	}
	return nil
}

// verifySame compares the outputs with those of q, bit by bit.
func (p *problem) verifySame(q *problem) error {
	for _, o := range []struct {
		name string
		a, b []float32
	}{{"y", p.y.v, q.y.v}, {"dx", p.dx.v, q.dx.v}, {"dw", p.dw.v, q.dw.v}} {
		for i := range o.a {
			if math.Float32bits(o.a[i]) != math.Float32bits(o.b[i]) {
				return fmt.Errorf("%s[%d] of rows=%d out=%d in=%d is %v, then %v",
					o.name, i, p.rows, p.out, p.in, o.b[i], o.a[i])
			}
		}
	}
	return nil
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(20, 26)) }

func exact(be backend.Backend, o Options) error {
	if o.Inexact {
		return nil
	}
	rng := newRand()
	for _, s := range shapes {
		p := newProblem(s, func() float32 { return float32(rng.IntN(17) - 8) })
		if err := p.run(be); err != nil {
			return err
		}
		if err := p.verify(0); err != nil {
			return err
		}
	}
	return nil
}

func accurate(be backend.Backend, o Options) error {
	rng := newRand()
	for _, d := range []struct {
		name string
		f    func() float32
	}{
		{"normal", func() float32 { return float32(rng.NormFloat64()) }},
		{"positive", func() float32 { return rng.Float32() + 0x1p-20 }},
	} {
		large := []shape{{65, 96, 1023}, {1023, 33, 40}, {20, 1100, 48}}
		for _, s := range append(large, shapes...) {
			p := newProblem(s, d.f)
			if err := p.run(be); err != nil {
				return err
			}
			if err := p.verify(o.Roundoff); err != nil {
				return fmt.Errorf("%s data: %w", d.name, err)
			}
		}
	}
	return nil
}

func largeDW(be backend.Backend, o Options) error {
	rng := newRand()
	for _, rows := range []int{1, 3, 7} {
		p := newProblem(shape{rows, 37, 41}, func() float32 { return float32(rng.NormFloat64()) })
		for i := range p.dw.v {
			p.dw0.v[i] *= 1000
			p.dw.v[i] = p.dw0.v[i]
		}
		for range 2 { // the second call adds to the first one's
			if err := p.run(be); err != nil {
				return err
			}
			if err := p.verify(o.Roundoff); err != nil {
				return err
			}
			copy(p.dw0.v, p.dw.v)
		}
	}
	return nil
}

// propagate puts a value that is not finite into one input at a time, first
// with all else 1, then with all else 0, which a backend that skips zeros
// loses. What depends on the value becomes NaN or Inf; nothing else does.
func propagate(be backend.Backend, o Options) error {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, s := range []shape{{1, 1, 1}, {1, 7, 9}, {2, 5, 3}, {5, 17, 19}, {17, 33, 31}, {130, 150, 40}} {
		for _, in := range []string{"x", "w", "dy", "dw"} {
			for _, bad := range []float32{nan, inf, -inf} {
				for _, rest := range []float32{1, 0} {
					p := newProblem(s, func() float32 { return rest })
					b := map[string]buffer{"x": p.x, "w": p.w, "dy": p.dy, "dw": p.dw}[in]
					at := len(b.v) * 2 / 3
					if rest == 0 { // the end of a row, which must not reach the next
						at = s.in - 1
						if in == "dy" {
							at = s.out - 1
						}
					}
					b.v[at] = bad
					if in == "dw" {
						p.dw0.v[at] = bad
					}
					if err := p.run(be); err != nil {
						return err
					}
					if err := p.verifyBad(); err != nil {
						return fmt.Errorf("%s[%d] = %v, all else %v: %w", in, at, bad, rest, err)
					}
				}
			}
		}
	}
	// Inf - Inf
	p := newProblem(shape{6, 6, 6}, func() float32 { return 1 })
	p.x.v[0], p.x.v[1], p.dy.v[0], p.dy.v[1], p.dy.v[6] = inf, -inf, inf, -inf, -inf
	if err := p.run(be); err != nil {
		return err
	}
	return p.verifyBad()
}

// verifyBad compares the outputs with float64 sums where a NaN is as good as
// another: products of 0, 1 and values that are not finite.
//
//go:norace
func (p *problem) verifyBad() error {
	same := func(name string, got []float32, i int, want float64) error {
		if g := float64(got[i]); g != want && !(math.IsNaN(g) && math.IsNaN(want)) {
			return fmt.Errorf("%s[%d] of rows=%d out=%d in=%d is %v, want %v", name, i, p.rows, p.out, p.in, g, want)
		}
		return nil
	}
	for r := range p.rows {
		for c := range p.out {
			var s float64
			for k := range p.in {
				s += float64(p.x.v[r*p.in+k]) * float64(p.w.v[c*p.in+k])
			}
			if err := same("y", p.y.v, r*p.out+c, s); err != nil {
				return err
			}
		}
		for c := range p.in {
			var s float64
			for k := range p.out {
				s += float64(p.dy.v[r*p.out+k]) * float64(p.w.v[k*p.in+c])
			}
			if err := same("dx", p.dx.v, r*p.in+c, s); err != nil {
				return err
			}
		}
	}
	for r := range p.out {
		for c := range p.in {
			s := float64(p.dw0.v[r*p.in+c])
			for k := range p.rows {
				s += float64(p.dy.v[k*p.out+r]) * float64(p.x.v[k*p.in+c])
			}
			if err := same("dw", p.dw.v, r*p.in+c, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func skipNil(be backend.Backend, o Options) error {
	rng := newRand()
	for _, s := range []shape{{0, 3, 2}, {1, 4, 3}, {9, 21, 34}} {
		p := newProblem(s, func() float32 { return float32(rng.NormFloat64()) })
		q := newProblem(s, func() float32 { return 0 })
		*q = *p
		q.y, q.dx = newBuffer(len(p.y.v), zero), newBuffer(len(p.dx.v), zero)
		q.dw = newBuffer(len(p.dw.v), func(i int) float32 { return p.dw0.v[i] })
		if err := p.run(be); err != nil {
			return err
		}
		// dw alone reads no weights, dx alone no x.
		bare := &backend.Matrix{Out: s.out, In: s.in, Gen: 1}
		for _, err := range []error{
			be.Linear(q.y.v, q.x.v, q.m, s.rows),
			be.LinearBackward(nil, nil, q.dy.v, q.x.v, q.m, s.rows),
			be.LinearBackward(q.dx.v, nil, q.dy.v, nil, q.m, s.rows),
			be.LinearBackward(nil, q.dw.v, q.dy.v, q.x.v, bare, s.rows),
		} {
			if err != nil {
				return err
			}
		}
		if err := p.verifySame(q); err != nil {
			return fmt.Errorf("together and one by one differ: %w", err)
		}
	}
	return nil
}

func zero(int) float32 { return 0 }

func guarded(be backend.Backend, o Options) error {
	rng := newRand()
	for _, s := range shapes {
		p := newProblem(s, func() float32 { return float32(rng.NormFloat64()) })
		inputs := map[string][]float32{"x": p.x.v, "w.Data": p.w.v, "dy": p.dy.v}
		before := map[string][]float32{}
		for name, v := range inputs {
			before[name] = append([]float32(nil), v...)
		}
		if err := p.run(be); err != nil {
			return err
		}
		for name, v := range inputs {
			for i := range v {
				if v[i] != before[name][i] {
					return fmt.Errorf("%s[%d] was written", name, i)
				}
			}
		}
		for name, b := range map[string]buffer{"y": p.y, "x": p.x, "w.Data": p.w, "dx": p.dx, "dw": p.dw, "dy": p.dy} {
			if err := b.check(name); err != nil {
				return fmt.Errorf("%+v: %w", s, err)
			}
		}
		if p.m.Gen != 1 || p.m.Out != s.out || p.m.In != s.in || len(p.m.Data) != len(p.w.v) {
			return errors.New("the Matrix was written")
		}
	}
	return nil
}

// gen runs on the same Matrix with new weights again and again, and on two
// matrices in turn.
func gen(be backend.Backend, o Options) error {
	rng := newRand()
	f := func() float32 { return float32(rng.NormFloat64()) }
	s := shape{9, 23, 38}
	p, q := newProblem(s, f), newProblem(s, f)
	for range 4 {
		for _, p := range []*problem{p, q} {
			for range 2 { // the second time, derived forms may be kept
				p.reset()
				if err := p.run(be); err != nil {
					return err
				}
				if err := p.verify(o.Roundoff); err != nil {
					return fmt.Errorf("at Gen %d: %w", p.m.Gen, err)
				}
			}
			for i := range p.w.v {
				p.w.v[i] = f()
			}
			p.m.Gen++
		}
	}
	// The same Gen and size, another Matrix; and other memory in the same one.
	r := newProblem(s, f)
	r.m.Gen = p.m.Gen - 1
	if err := r.run(be); err != nil {
		return err
	}
	if err := r.verify(o.Roundoff); err != nil {
		return fmt.Errorf("another Matrix of the same Gen: %w", err)
	}
	r.w = newBuffer(len(r.w.v), func(int) float32 { return f() })
	r.m.Data, r.m.Gen = r.w.v, r.m.Gen+1
	r.reset()
	if err := r.run(be); err != nil {
		return err
	}
	return r.verify(o.Roundoff)
}

func concurrent(be backend.Backend, o Options) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	rng := newRand()
	f := func() float32 { return float32(rng.NormFloat64()) }
	var want, got []*problem
	for i := range 6 {
		s := shape{20 + i, 64, 70}
		if i%3 == 2 {
			s = shape{3, 40 + i, 200}
		}
		p := newProblem(s, f)
		if i == 1 { // the same weights as 0, by the same Matrix
			p.w, p.m = want[0].w, want[0].m
		}
		if err := p.run(be); err != nil {
			return err
		}
		q := *p
		q.y, q.dx, q.dw = newBuffer(len(p.y.v), zero), newBuffer(len(p.dx.v), zero), newBuffer(len(p.dw.v), zero)
		want, got = append(want, p), append(got, &q)
	}
	errs := make([]error, len(got))
	var wg sync.WaitGroup
	for i, p := range got {
		wg.Go(func() {
			for range 12 {
				p.reset()
				if errs[i] = p.run(be); errs[i] == nil {
					errs[i] = p.verifySame(want[i])
				}
				if errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func deterministic(be backend.Backend, o Options) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	rng := newRand()
	for _, s := range []shape{{1, 300, 513}, {3, 64, 65}, {49, 50, 51}, {130, 65, 257}, {257, 200, 300}, {64, 512, 128}} {
		var first *problem
		for _, procs := range []int{1, 2, 4, 4, 1} {
			runtime.GOMAXPROCS(procs)
			if first == nil {
				first = newProblem(s, func() float32 { return float32(rng.NormFloat64()) })
				if err := first.run(be); err != nil {
					return err
				}
				continue
			}
			p := *first
			p.y, p.dx = newBuffer(len(p.y.v), zero), newBuffer(len(p.dx.v), zero)
			p.dw = newBuffer(len(p.dw.v), func(i int) float32 { return p.dw0.v[i] })
			if err := p.run(be); err != nil {
				return err
			}
			if err := p.verifySame(first); err != nil {
				return fmt.Errorf("GOMAXPROCS %d: %w", procs, err)
			}
		}
	}
	return nil
}

// relocated moves the inputs by 1 to 3 words.
func relocated(be backend.Backend, o Options) error {
	if o.AddressDependent {
		return nil
	}
	rng := newRand()
	for _, s := range []shape{{1, 64, 513}, {3, 64, 67}, {20, 50, 51}, {70, 65, 131}} {
		p := newProblem(s, func() float32 { return float32(rng.NormFloat64()) })
		if err := p.run(be); err != nil {
			return err
		}
		for by := 1; by <= 3; by++ {
			move := func(b buffer) buffer {
				all := append(make([]float32, by, by+len(b.all)), b.all...)[by:]
				return buffer{all, all[guards : guards+len(b.v)]}
			}
			q := *p
			q.x, q.w, q.dy = move(p.x), move(p.w), move(p.dy)
			q.y, q.dx, q.dw = move(p.y), move(p.dx), move(p.dw0)
			q.m = &backend.Matrix{Data: q.w.v, Out: s.out, In: s.in, Gen: 1}
			if err := q.run(be); err != nil {
				return err
			}
			if err := q.verifySame(p); err != nil {
				return fmt.Errorf("inputs moved by %d words: %w", by, err)
			}
		}
	}
	return nil
}

func allocates(be backend.Backend, o Options) error {
	if o.Allocates || testing.Short() { // -short is for emulators, beside whose pace the runtime's own allocations show
		return nil
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var ps []*problem
	for _, s := range []shape{{1, 65, 128}, {64, 128, 96}, {200, 300, 64}} {
		p := newProblem(s, func() float32 { return 1 })
		if err := p.run(be); err != nil {
			return err
		}
		ps = append(ps, p)
	}
	const calls = 20
	for try := 0; ; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			for _, p := range ps {
				if err := p.run(be); err != nil {
					return err
				}
			}
		}
		runtime.ReadMemStats(&after)
		n := after.Mallocs - before.Mallocs
		if n == 0 {
			return nil
		}
		// The runtime itself allocates now and then, for goroutines that wait, but not in every call.
		if n >= calls || try == 20 {
			return fmt.Errorf("%d allocations in %d calls after the first", n, 2*calls*len(ps))
		}
	}
}

func lengths(be backend.Backend, o Options) error {
	rng := newRand()
	s := shape{4, 6, 5}
	p := newProblem(s, func() float32 { return float32(rng.NormFloat64()) })
	q := *p
	longer := func(b buffer) []float32 { return b.all[guards : guards+len(b.v)+guards/2] }
	w := *p.m
	w.Data = longer(p.w)
	q.y, q.dx = newBuffer(len(p.y.v), zero), newBuffer(len(p.dx.v), zero)
	q.dw = newBuffer(len(p.dw.v), func(i int) float32 { return p.dw0.v[i] })
	if err := p.run(be); err != nil {
		return err
	}
	if err := be.Linear(longer(q.y), longer(q.x), &w, s.rows); err != nil {
		return err
	}
	if err := be.LinearBackward(longer(q.dx), longer(q.dw), longer(q.dy), longer(q.x), &w, s.rows); err != nil {
		return err
	}
	if err := q.verifySame(p); err != nil {
		return fmt.Errorf("longer slices: %w", err)
	}
	for _, b := range []buffer{q.y, q.dx, q.dw} {
		if err := b.check("an output, given longer"); err != nil {
			return err
		}
	}

	// The full capacity does not count, so it must be the length that is seen.
	less := func(b buffer) []float32 { return b.v[:len(b.v)-1] }
	short := *p.m
	short.Data = less(p.w)
	for _, c := range []struct {
		name string
		f    func() error
	}{
		{"Linear with short y", func() error { return be.Linear(less(p.y), p.x.v, p.m, s.rows) }},
		{"Linear with short x", func() error { return be.Linear(p.y.v, less(p.x), p.m, s.rows) }},
		{"Linear with short w.Data", func() error { return be.Linear(p.y.v, p.x.v, &short, s.rows) }},
		{"Linear with negative rows", func() error { return be.Linear(p.y.v, p.x.v, p.m, -1) }},
		{"Linear without a Matrix", func() error { return be.Linear(p.y.v, p.x.v, nil, s.rows) }},
		{"LinearBackward without a Matrix", func() error { return be.LinearBackward(p.dx.v, p.dw.v, p.dy.v, p.x.v, nil, s.rows) }},
		{"LinearBackward with short dx", func() error { return be.LinearBackward(less(p.dx), nil, p.dy.v, p.x.v, p.m, s.rows) }},
		{"LinearBackward with short dw", func() error { return be.LinearBackward(nil, less(p.dw), p.dy.v, p.x.v, p.m, s.rows) }},
		{"LinearBackward with short dy", func() error { return be.LinearBackward(p.dx.v, nil, less(p.dy), p.x.v, p.m, s.rows) }},
		{"LinearBackward with short x", func() error { return be.LinearBackward(nil, p.dw.v, p.dy.v, less(p.x), p.m, s.rows) }},
		{"LinearBackward with short w.Data", func() error { return be.LinearBackward(p.dx.v, nil, p.dy.v, p.x.v, &short, s.rows) }},
		{"LinearBackward with negative rows", func() error { return be.LinearBackward(p.dx.v, p.dw.v, p.dy.v, p.x.v, p.m, -1) }},
	} {
		if p := panics(c.f); p == nil {
			return fmt.Errorf("%s does not panic", c.name)
		} else if message, _ := p.(string); !strings.HasPrefix(message, "chainrule: ") {
			return fmt.Errorf("%s panics with %v, want a string that begins with \"chainrule: \"", c.name, p)
		}
	}
	return nil
}

// panics returns what f panics with, or nil.
func panics(f func() error) (with any) {
	defer func() { with = recover() }()
	_ = f()
	return nil
}

// closeTwice closes here, and check.run again.
func closeTwice(be backend.Backend, o Options) error {
	p := newProblem(shape{3, 4, 5}, func() float32 { return 1 })
	if err := p.run(be); err != nil {
		return err
	}
	return be.Close()
}
