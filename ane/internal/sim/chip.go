// Package sim simulates a Neural Engine: it interprets MIL texts with the
// rounding of binary16, keeps to the limits that were found on the hardware,
// and fails in the ways that were seen there.
package sim

import (
	"errors"
	"fmt"
	"sync"

	"github.com/chainrule-go/chainrule/ane/internal/device"
)

// Chip is a Neural Engine: its limits, and what it counts. The fields are set
// before it is used.
type Chip struct {
	Name        string
	MaxAxis     int     // longest axis of a tensor
	Multiple    int     // of the last axis and of the contraction
	MinSurface  int     // bytes; evaluation with a smaller one fails with 0x1d
	ClampSlices bool    // a slice with an offset on the last axis turns |v| > 4094 into infinity
	Largest     float32 // a product above it is infinite
	MaxCompiles int     // of a process; the next one fails
	MaxLive     int     // programs loaded; the next one fails

	// Fault, if it is set, is asked before each step of each program.
	Fault func(Step, string) Fault

	mu     sync.Mutex
	counts Counts
}

// Early and M4 are what was published about the engines up to M3, and from M4 on.
func Early() *Chip { return newChip("M1", 16384, true) }
func M4() *Chip    { return newChip("M4", 65536, false) }

func newChip(name string, maxAxis int, clamp bool) *Chip {
	return &Chip{
		Name: name, MaxAxis: maxAxis, Multiple: 32, MinSurface: 49152,
		ClampSlices: clamp, Largest: 32752, MaxCompiles: 119, MaxLive: 15,
	}
}

// Step is what may fail.
type Step string

// The steps of a program, in order.
const (
	Compile Step = "compile"
	Load    Step = "load"
	Bind    Step = "bind"
	Lock    Step = "lock"
	Unlock  Step = "unlock"
	Eval    Step = "eval"
	Unload  Step = "unload"
)

// Fault is how a step fails.
type Fault int

// Faults: an error, or at Eval an output that is wrong without one.
const (
	None Fault = iota
	Error
	Zeros   // an output of zeros
	Garbage // an output whose rows are in the wrong order
	Infinite
	Narrow // sums that are rounded to binary16 at every addition
)

// Counts is what a Chip did.
type Counts struct {
	Compiles, Loaded, Requests, Evals int
	BytesPut, BytesGot                int64 // binary16, converted from and to float32
}

// Counts returns what the chip did until now. Loaded and Requests are those
// that are open.
func (c *Chip) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

func (c *Chip) count(f func(n *Counts)) {
	c.mu.Lock()
	f(&c.counts)
	c.mu.Unlock()
}

// Limits are those that programs must keep to.
func (c *Chip) Limits() device.Limits {
	return device.Limits{MaxAxis: c.MaxAxis, Multiple: c.Multiple, MinSurface: c.MinSurface}
}

func (c *Chip) fault(step Step, text string) Fault {
	if c.Fault == nil {
		return None
	}
	return c.Fault(step, text)
}

// Compile compiles a text.
func (c *Chip) Compile(text string) (*Program, error) {
	if c.fault(Compile, text) != None {
		return nil, errors.New("ANECCompile() FAILED: injected")
	}
	p, err := compile(text, c)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts.Compiles >= c.MaxCompiles {
		return nil, fmt.Errorf("ANECCompile() FAILED: %d programs were compiled in this process", c.MaxCompiles)
	}
	c.counts.Compiles++
	p.chip, p.text = c, text
	return p, nil
}

// Load takes one of the places for programs.
func (p *Program) Load() error {
	c := p.chip
	if c.fault(Load, p.text) != None {
		return errors.New("program load failure: injected")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts.Loaded >= c.MaxLive {
		return fmt.Errorf("program load failure (0x50004): %d programs are loaded", c.MaxLive)
	}
	c.counts.Loaded++
	return nil
}

// Unload gives the place back.
func (p *Program) Unload() error {
	p.chip.count(func(n *Counts) { n.Loaded-- })
	if p.chip.fault(Unload, p.text) != None {
		return errors.New("program unload failure: injected")
	}
	return nil
}

// Eval runs the program on surfaces.
func (p *Program) Eval(out, in []uint16) error {
	c := p.chip
	least := c.MinSurface / 2
	if len(in) < max(p.in, least) || len(out) < max(p.out, least) {
		return fmt.Errorf("Program Inference error: status=0x1d: surfaces of %d and %d bytes for tensors of %d and %d, want at least %d",
			2*len(in), 2*len(out), 2*p.in, 2*p.out, c.MinSurface)
	}
	fault := c.fault(Eval, p.text)
	if fault == Error {
		return errors.New("Program Inference error: status=0x1d: injected")
	}
	c.count(func(n *Counts) { n.Evals++ })
	out = out[:p.out]
	switch fault {
	case Zeros:
		clear(out)
		return nil
	case Infinite:
		for i := range out {
			out[i] = 0x7c00
		}
		return nil
	}
	p.narrow = fault == Narrow
	if err := p.Run(out, in); err != nil {
		return err
	}
	if fault == Garbage {
		half := len(out) / 2
		for i, v := range out[:half] {
			out[i], out[half+i] = out[half+i], v
		}
	}
	return nil
}
