package sim

import (
	"errors"

	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/ane/internal/fp16"
)

// Device is a Chip with surfaces in Go's memory.
type Device struct{ *Chip }

var _ device.Device = Device{}

// Name says that nothing here is hardware.
func (d Device) Name() string { return "simulated Neural Engine (" + d.Chip.Name + ")" }

// Close has nothing to do.
func (d Device) Close() error { return nil }

// Compile compiles and loads a program and makes its output surface.
func (d Device) Compile(text string, inBytes, outBytes int) (device.Program, error) {
	p, err := d.Chip.Compile(text)
	if err != nil {
		return nil, err
	}
	if err := p.Load(); err != nil {
		return nil, err
	}
	return &loaded{p, inBytes, surface{memory: make([]uint16, outBytes/2)}}, nil
}

type loaded struct {
	*Program
	inBytes int
	out     surface
}

func (p *loaded) Close() error { return p.Unload() }

func (p *loaded) Bind() (device.Request, error) {
	if p.chip.fault(Bind, p.text) != None {
		return nil, errors.New("IOSurfaceCreate failed: injected")
	}
	p.chip.count(func(n *Counts) { n.Requests++ })
	return &request{p, surface{memory: make([]uint16, p.inBytes/2)}}, nil
}

// surface is memory that is touched only while it is locked.
type surface struct {
	memory []uint16
	locked bool
}

func (s *surface) lock(p *Program) ([]uint16, error) {
	switch {
	case p.chip.fault(Lock, p.text) != None:
		return nil, errors.New("IOSurfaceLock failed: injected")
	case s.locked:
		return nil, errors.New("the surface is locked already")
	}
	s.locked = true
	return s.memory, nil
}

func (s *surface) unlock(p *Program) error {
	switch {
	case !s.locked:
		return errors.New("the surface is not locked")
	case p.chip.fault(Unlock, p.text) != None:
		s.locked = false
		return errors.New("IOSurfaceUnlock failed: injected")
	}
	s.locked = false
	return nil
}

type request struct {
	program *loaded
	in      surface
}

func (r *request) LockInput() ([]uint16, error)  { return r.in.lock(r.program.Program) }
func (r *request) UnlockInput() error            { return r.in.unlock(r.program.Program) }
func (r *request) LockOutput() ([]uint16, error) { return r.program.out.lock(r.program.Program) }
func (r *request) UnlockOutput() error           { return r.program.out.unlock(r.program.Program) }

func (r *request) Eval() error {
	if r.in.locked || r.program.out.locked {
		return errors.New("a surface is locked during evaluation")
	}
	return r.program.Eval(r.program.out.memory, r.in.memory)
}

func (r *request) Close() error {
	r.program.chip.count(func(n *Counts) { n.Requests-- })
	return nil
}

// Put converts to binary16. Transposed blocks go 32 rows at a time, so that
// writes fill whole cache lines.
func (d Device) Put(dst []uint16, src []float32, b device.Block) {
	for r0 := 0; r0 < b.Rows; r0 += 32 {
		r1 := min(r0+32, b.Rows)
		if !b.Transposed {
			for r := r0; r < r1; r++ {
				scale := b.ScaleOf(r)
				to := dst[b.Offset+r*b.LD:][:b.Cols]
				for c, v := range src[r*b.Stride:][:b.Cols] {
					to[c] = fp16.From(v * scale)
				}
			}
			continue
		}
		for c0 := 0; c0 < b.Cols; c0 += 32 {
			c1 := min(c0+32, b.Cols)
			for r := r0; r < r1; r++ {
				scale := b.ScaleOf(r)
				for c := c0; c < c1; c++ {
					dst[b.Offset+c*b.LD+r] = fp16.From(src[r*b.Stride+c] * scale)
				}
			}
		}
	}
	d.count(func(n *Counts) { n.BytesPut += 2 * int64(b.Rows) * int64(b.Cols) })
}

// Get converts from binary16.
func (d Device) Get(dst []float32, src []uint16, b device.Block) (peak float32) {
	largest := uint16(0)
	for r := range b.Rows {
		scale := b.ScaleOf(r)
		at, step := b.Offset+r*b.LD, 1
		if b.Transposed {
			at, step = b.Offset+r, b.LD
		}
		to := dst[r*b.Stride:][:b.Cols]
		for c := range to {
			h := src[at+c*step]
			largest = max(largest, h&0x7fff)
			if v := fp16.To(h) * scale; b.Add {
				to[c] += v
			} else {
				to[c] = v
			}
		}
	}
	d.count(func(n *Counts) { n.BytesGot += 2 * int64(b.Rows) * int64(b.Cols) })
	if largest > 0x7c00 { // NaN
		largest = 0x7c00
	}
	return fp16.To(largest)
}
