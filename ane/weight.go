package ane

import (
	"errors"
	"runtime"
	"sync"

	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/backend"
)

// weight is what the device has of a Matrix: for each program, and each tile
// that it takes, a request whose input holds the weights in binary16.
type weight struct {
	cleanup runtime.Cleanup

	mu       sync.Mutex // of what follows; requests belong to the lock of their route
	scaled   bool
	gen      uint64 // of exponent
	exponent int    // the input holds W·2^exponent
	zero     bool
	why      reason // W cannot be staged
	requests map[requestKey]*request
	bits     []uint32
}

type requestKey struct {
	route *route
	tile  int
}

// request runs a program on an input that holds a tile of W.
type request struct {
	device.Request
	staged bool
	gen    uint64 // of the staged weights
}

func newWeight() *weight { return &weight{requests: map[requestKey]*request{}} }

// scale finds the scale of w. It reads w.Data only when Gen changed.
func (wt *weight) scale(w *backend.Matrix) reason {
	wt.mu.Lock()
	defer wt.mu.Unlock()
	if wt.scaled && wt.gen == w.Gen {
		return wt.why
	}
	if len(wt.bits) < w.Out {
		wt.bits = make([]uint32, w.Out)
	}
	of := wt.bits[:w.Out]
	largestOfRows.For(w.Out, max(1, 1<<15/w.In), rows{of, w.Data, w.In})
	var bits uint32
	for _, b := range of {
		bits = max(bits, b)
	}
	wt.exponent, wt.why = scaleTo(weightTarget, bits)
	wt.zero = bits == 0
	wt.scaled, wt.gen = true, w.Gen
	return wt.why
}

// request returns the request for a tile. Its caller holds the lock of r.
func (b *Backend) request(wt *weight, r *route, tile int) (*request, error) {
	wt.mu.Lock()
	defer wt.mu.Unlock()
	key := requestKey{r, tile}
	if q := wt.requests[key]; q != nil {
		return q, nil
	}
	bound, err := r.program.Bind()
	if err != nil {
		return nil, err
	}
	q := &request{Request: bound}
	wt.requests[key] = q
	b.bytes.Add(int64(r.plan.inBytes()))
	return q, nil
}

// closeRequests releases the surfaces of a weight that nobody uses any more.
func (b *Backend) closeRequests(wt *weight) error {
	var errs []error
	for key, q := range wt.requests {
		key.route.mu.Lock()
		err := q.Close()
		key.route.mu.Unlock()
		if err != nil {
			errs = append(errs, err)
		}
		b.bytes.Add(-int64(key.route.plan.inBytes()))
	}
	clear(wt.requests)
	return errors.Join(errs...)
}
