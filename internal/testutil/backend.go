package testutil

import (
	"errors"
	"sync/atomic"

	"github.com/chainrule-go/chainrule/backend"
)

// ErrDevice is the error of a Failing backend.
var ErrDevice = errors.New("testutil: the device failed")

// Failing is a backend whose k-th call from now, counted from 0, fails and
// writes nothing. It counts calls down to -1, at which none fails.
type Failing struct {
	backend.Backend
	Left atomic.Int64
}

func (f *Failing) fails() bool { return f.Left.Add(-1) == -1 }

// Linear fails or calls the backend.
func (f *Failing) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	if f.fails() {
		return ErrDevice
	}
	return f.Backend.Linear(y, x, w, rows)
}

// LinearBackward fails or calls the backend.
func (f *Failing) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	if f.fails() {
		return ErrDevice
	}
	return f.Backend.LinearBackward(dx, dw, dy, x, w, rows)
}
