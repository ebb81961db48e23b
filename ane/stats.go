package ane

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// reason is why a call, or a part of it, did not run on the device at once.
type reason int

const (
	ok reason = iota
	fewRows
	longAxis
	programLimit
	compileBudget
	noLayout
	inputNotFinite
	outOfRange
	retried
	resultNotFinite
	resultZero
	bindFailed
	stageFailed
	evalFailed
	readFailed
	givenUp
	reasons
)

var reasonTexts = [reasons]string{
	fewRows:         "fewer rows than MinRows",
	longAxis:        "an axis is too long for the device",
	programLimit:    "MaxPrograms are loaded",
	compileBudget:   "MaxCompiles are used up",
	noLayout:        "no layout was accepted",
	inputNotFinite:  "an input is infinite or NaN",
	outOfRange:      "an input is too large or too small to scale",
	retried:         "run again at a smaller scale",
	resultNotFinite: "the result was infinite or NaN twice",
	resultZero:      "the result was all zero",
	bindFailed:      "a surface or request could not be made",
	stageFailed:     "a surface could not be locked for staging",
	evalFailed:      "the evaluation failed",
	readFailed:      "a surface could not be locked for reading",
	givenUp:         "given up after failures in a row",
}

// Stats is what a Backend did.
type Stats struct {
	Device   string
	Compiles int   // texts given to the compiler
	Programs int   // loaded
	Bytes    int64 // of all surfaces
	Shapes   []ShapeStats
}

// ShapeStats is what it did with products of one shape.
type ShapeStats struct {
	Product Product
	Rows    int // of an evaluation; 0: too few for the device, or too long an axis
	Out, In int // of W

	Layout   string   // of the input; empty if it was left to the CPU
	Rejected []string // the layouts before that, and why

	Calls    int            // of Linear or LinearBackward
	OnDevice int            // calls that ran there; the others ran on the CPU
	Reasons  map[string]int // why not, or not at once
	Error    string         // of the last failure

	Evaluations     int
	WeightBytes     int64 // binary16 staged
	ActivationBytes int64
	ResultBytes     int64 // binary16 read

	Scale, Stage, Eval, Read time.Duration // on the way to the device and back
	CPU                      time.Duration // calls that ran on the CPU
}

// Stats returns what the Backend did until now. It waits for products that
// are running.
func (b *Backend) Stats() Stats {
	b.mu.Lock()
	s := Stats{Device: b.device.Name(), Compiles: b.compiles, Programs: b.programs}
	var routes []*route
	for _, r := range b.routes {
		routes = append(routes, r)
	}
	b.mu.Unlock()
	s.Bytes = b.bytes.Load()
	for _, r := range routes {
		r.mu.Lock()
		shape := r.stats
		shape.Rejected = slices.Clone(shape.Rejected)
		shape.Reasons = map[string]int{}
		for i, n := range r.reasons {
			if n > 0 {
				shape.Reasons[reasonTexts[i]] = n
			}
		}
		r.mu.Unlock()
		s.Shapes = append(s.Shapes, shape)
	}
	slices.SortFunc(s.Shapes, func(a, b ShapeStats) int {
		return cmp.Or(cmp.Compare(a.Product, b.Product), cmp.Compare(a.Out, b.Out), cmp.Compare(a.In, b.In), cmp.Compare(a.Rows, b.Rows))
	})
	return s
}

// Total adds up the counts and times of all shapes.
func (s Stats) Total() (t ShapeStats) {
	for _, shape := range s.Shapes {
		t.Calls += shape.Calls
		t.OnDevice += shape.OnDevice
		t.Evaluations += shape.Evaluations
		t.WeightBytes += shape.WeightBytes
		t.ActivationBytes += shape.ActivationBytes
		t.ResultBytes += shape.ResultBytes
		t.Scale += shape.Scale
		t.Stage += shape.Stage
		t.Eval += shape.Eval
		t.Read += shape.Read
		t.CPU += shape.CPU
	}
	return t
}

// String is a table, a shape a line, with what went wrong below it.
func (s Stats) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d programs loaded, %d compiled, %.1f MB of surfaces\n", s.Device, s.Programs, s.Compiles, float64(s.Bytes)/1e6)
	fmt.Fprintf(&b, "%-9s %6s %6s %6s %-9s %6s %6s %6s %8s %8s %8s %8s %8s\n",
		"product", "rows", "out", "in", "layout", "calls", "device", "evals", "MB put", "stage µs", "eval µs", "read µs", "cpu ms")
	for _, p := range s.Shapes {
		each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(1, p.Evaluations)) }
		layout := p.Layout
		if layout == "" {
			layout = "cpu"
		}
		fmt.Fprintf(&b, "%-9s %6d %6d %6d %-9s %6d %6d %6d %8.1f %8.0f %8.0f %8.0f %8.1f\n",
			p.Product, p.Rows, p.Out, p.In, layout, p.Calls, p.OnDevice, p.Evaluations,
			float64(p.WeightBytes+p.ActivationBytes)/1e6, each(p.Scale+p.Stage), each(p.Eval), each(p.Read), float64(p.CPU.Microseconds())/1e3)
		for _, r := range p.Rejected {
			fmt.Fprintf(&b, "    layout %s\n", r)
		}
		for _, text := range reasonTexts {
			if n := p.Reasons[text]; n > 0 {
				fmt.Fprintf(&b, "    %d × %s\n", n, text)
			}
		}
		if p.Error != "" {
			fmt.Fprintf(&b, "    last error: %s\n", p.Error)
		}
	}
	return b.String()
}
