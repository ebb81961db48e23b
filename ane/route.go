package ane

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/par"
)

// routeKey is the shape of a product: m rows in an evaluation, 0 if it is not
// for the device.
type routeKey struct {
	p          Product
	m, out, in int
}

// route is where products of one shape go: to a program, if one was accepted.
type route struct {
	key  routeKey
	plan plan

	mu      sync.Mutex // of what follows, the program and its requests
	tried   bool
	why     reason // there is no program
	layout  *layout
	program device.Program
	failed  int // calls in a row
	stats   ShapeStats
	reasons [reasons]int

	bits     []uint32  // [m] the largest element of each row
	put, get []float32 // [m] its scale, and the inverse
	peak     atomic.Uint32
}

// mostFailures in a row are the end of a program.
const mostFailures = 3

// run computes a product on the device. If it does not return true, the
// CPU must, and dst is undefined.
func (b *Backend) run(p Product, dst, src []float32, w *backend.Matrix, rows int) (*route, bool) {
	key, pl, why := routeKey{p: p, out: w.Out, in: w.In}, plan{}, fewRows
	if rows >= b.o.MinRows && rows > 0 && w.Out > 0 && w.In > 0 {
		why = longAxis
		if fit, fits := newPlan(p, rows, w.Out, w.In, b.device.Limits()); fits {
			key.m, pl, why = fit.m, fit, ok
		}
	}
	r := b.route(key, pl)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Calls++
	if why == ok {
		why = b.product(r, dst, src, w, rows)
	}
	if why != ok {
		r.reasons[why]++
		return r, false
	}
	r.stats.OnDevice++
	return r, true
}

func (b *Backend) route(key routeKey, pl plan) *route {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.routes[key]
	if r == nil {
		r = newRoute(key, pl)
		b.routes[key] = r
	}
	return r
}

func newRoute(key routeKey, pl plan) *route {
	return &route{
		key: key, plan: pl,
		bits: make([]uint32, pl.m), put: make([]float32, pl.m), get: make([]float32, pl.m),
		stats: ShapeStats{Product: key.p, Rows: key.m, Out: key.out, In: key.in},
	}
}

func (r *route) ranOnCPU(d time.Duration) {
	r.mu.Lock()
	r.stats.CPU += d
	r.mu.Unlock()
}

// product computes dst in chunks of m rows.
func (b *Backend) product(r *route, dst, src []float32, w *backend.Matrix, rows int) reason {
	if r.failed >= mostFailures {
		return givenUp
	}
	if !r.tried {
		b.choose(r)
		r.tried = true
	}
	if r.program == nil {
		return r.why
	}
	defer runtime.KeepAlive(w)
	wt := b.weight(w)
	start := time.Now()
	why := wt.scale(w)
	r.stats.Scale += time.Since(start)
	if why != ok {
		return why
	}
	from, to := w.In, w.Out
	if r.key.p == Backward {
		from, to = to, from
	}
	for at := 0; at < rows; at += r.plan.m {
		n := min(r.plan.m, rows-at)
		why := b.chunk(r, dst[at*to:][:n*to], src[at*from:][:n*from], wt, w, n)
		switch why {
		case ok:
			r.failed = 0
		case inputNotFinite, outOfRange: // nobody's fault
			return why
		default:
			r.failed++
			return why
		}
	}
	return ok
}

// chunk computes n ≤ m rows of dst, and once more, scaled down, if a result is
// not finite.
func (b *Backend) chunk(r *route, dst, src []float32, wt *weight, w *backend.Matrix, n int) reason {
	cols := len(src) / n
	start := time.Now()
	largestOfRows.For(n, max(1, 1<<15/cols), rows{r.bits[:n], src, cols})
	zero := true
	for i, bits := range r.bits[:n] {
		e, why := scaleTo(rowTarget, bits)
		if why != ok {
			return why
		}
		if down := e - retryShift + wt.exponent; e-retryShift < -mostExponent ||
			down < -mostExponent || e+wt.exponent > mostExponent {
			return outOfRange
		}
		r.put[i], r.get[i] = power(e), power(-e)
		zero = zero && bits == 0
	}
	r.stats.Scale += time.Since(start)
	for try := 0; ; try++ {
		peak, why := b.tiles(r, dst, src, wt, w, n, zero)
		switch {
		case why != ok:
			return why
		case peak == 0 && !zero && !wt.zero:
			return resultZero
		case !math.IsInf(float64(peak), 0):
			return ok
		case try == 1:
			return resultNotFinite
		}
		r.reasons[retried]++
		for i := range n {
			r.put[i] *= 1.0 / (1 << retryShift)
			r.get[i] *= 1 << retryShift
		}
	}
}

// tiles evaluates the program for each tile of W. The peak is the largest
// element of a result, of the device's numbers.
func (b *Backend) tiles(r *route, dst, src []float32, wt *weight, w *backend.Matrix, n int, zero bool) (peak float32, why reason) {
	for tile := range r.plan.tiles {
		p, why := b.evaluate(r, dst, src, wt, w, n, tile)
		if why != ok {
			return 0, why
		}
		if p == 0 && r.key.p == Forward && !zero && !wt.zero {
			return 0, ok // a part that is all zero counts as if all were
		}
		if peak = max(peak, p); math.IsInf(float64(p), 0) {
			break
		}
	}
	return peak, ok
}

// evaluate stages src, and the tile's weights if their Gen changed, runs the
// program, and reads the result.
func (b *Backend) evaluate(r *route, dst, src []float32, wt *weight, w *backend.Matrix, n, tile int) (peak float32, why reason) {
	m, k, width := r.plan.m, r.plan.k, r.plan.n
	first := tile * r.plan.tile
	tileRows := min(r.plan.tile, w.Out-first)
	a := r.layout.a(n, w.In, w.In, m, k, width)
	c := r.layout.c(n, tileRows, w.Out, m, width)
	if r.key.p == Forward {
		dst = dst[first:]
	} else {
		a = r.layout.a(n, tileRows, w.Out, m, k, width)
		c = r.layout.c(n, w.In, w.In, m, width)
		src, c.Add = src[first:], tile > 0
	}
	a.RowScale, c.RowScale, c.Scale = r.put[:n], r.get[:n], power(-wt.exponent)

	failed := func(why reason, err error) (float32, reason) {
		r.stats.Error = err.Error()
		return 0, why
	}
	start := time.Now()
	q, err := b.request(wt, r, tile)
	if err != nil {
		return failed(bindFailed, err)
	}
	in, err := q.LockInput()
	if err != nil {
		return failed(stageFailed, err)
	}
	if !q.staged || q.gen != w.Gen {
		block := r.layout.w(r.key.p, tileRows, w.In, m, k, width)
		block.Scale = power(wt.exponent)
		b.put(in, w.Data[first*w.In:], block)
		q.staged, q.gen = true, w.Gen
		r.stats.WeightBytes += int64(2 * block.Rows * block.Cols)
	}
	b.put(in, src, a)
	r.stats.ActivationBytes += int64(2 * a.Rows * a.Cols)
	if err := q.UnlockInput(); err != nil {
		q.staged = false
		return failed(stageFailed, err)
	}
	staged := time.Now()
	r.stats.Stage += staged.Sub(start)
	err = q.Eval()
	evaluated := time.Now()
	r.stats.Eval += evaluated.Sub(staged)
	if err != nil {
		return failed(evalFailed, err)
	}
	r.stats.Evaluations++
	out, err := q.LockOutput()
	if err != nil {
		return failed(readFailed, err)
	}
	peak = b.get(dst, out, c, &r.peak)
	r.stats.ResultBytes += int64(2 * c.Rows * c.Cols)
	if err := q.UnlockOutput(); err != nil {
		return failed(readFailed, err)
	}
	r.stats.Read += time.Since(evaluated)
	return peak, ok
}

// conversion is a Put or a Get in bands of rows.
type conversion struct {
	device device.Device
	f      []float32
	h      []uint16
	block  device.Block
	peak   *atomic.Uint32
}

// band is how many rows a core converts at a time: whole cache lines of a
// transposed block, and some 2¹⁵ elements.
func band(cols int) int { return roundUp(max(1, 1<<15/max(1, cols))) }

var putBands = par.New(func(c *conversion, lo, hi int) {
	block, at := c.block.Sub(lo, hi)
	c.device.Put(c.h, c.f[at:], block)
})

var getBands = par.New(func(c *conversion, lo, hi int) {
	block, at := c.block.Sub(lo, hi)
	bits := math.Float32bits(c.device.Get(c.f[at:], c.h, block))
	for old := c.peak.Load(); bits > old && !c.peak.CompareAndSwap(old, bits); old = c.peak.Load() {
	}
})

func (b *Backend) put(dst []uint16, src []float32, block device.Block) {
	putBands.For(block.Rows, band(block.Cols), conversion{b.device, src, dst, block, nil})
}

func (b *Backend) get(dst []float32, src []uint16, block device.Block, peak *atomic.Uint32) float32 {
	peak.Store(0)
	getBands.For(block.Rows, band(block.Cols), conversion{b.device, dst, src, block, peak})
	return math.Float32frombits(peak.Load())
}
