package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

// sweep is steps that differ in one size.
type sweep struct {
	Of     string         `json:"of"` // what grows
	Points []scalingPoint `json:"points"`
	Left   []int          `json:"not_measured,omitempty"` // no time or memory for them
}

// scalingPoint is a step of some size.
type scalingPoint struct {
	Size       int     `json:"size"`
	Step       figure  `json:"step_seconds"`
	Work       work    `json:"work"`
	FLOPs      float64 `json:"flops"`
	Roofline   float64 `json:"roofline_seconds"`
	OfRoofline float64 `json:"percent_of_roofline"`
}

// scalingCase is the shape of a point.
type scalingCase struct {
	size int
	chainrule.Config
	B, T int
}

// sweeps returns what to measure around a model: one size at a time, smallest
// first. A width keeps the head and the proportions.
func sweeps(c chainrule.Config, B, T int) (names []string, cases [][]scalingCase) {
	add := func(name string, list []scalingCase) { names, cases = append(names, name), append(cases, list) }
	var list []scalingCase
	for n := 64; n <= 2048; n *= 2 {
		c := c
		c.SeqLen = max(c.SeqLen, n)
		list = append(list, scalingCase{n, c, B, n})
	}
	add("T", list)
	list = nil
	for n := 1; n <= 16; n *= 2 {
		c := c
		c.NLayers = n
		list = append(list, scalingCase{n, c, B, T})
	}
	add("layers", list)
	list = nil
	for kv := 1; c.Dim*kv/c.NKVHeads <= 1024; kv *= 2 {
		wide := c
		wide.NKVHeads, wide.NHeads = kv, c.NHeads/c.NKVHeads*kv
		wide.Dim, wide.HiddenDim = c.Dim*kv/c.NKVHeads, c.HiddenDim*kv/c.NKVHeads
		list = append(list, scalingCase{wide.Dim, wide, B, T})
	}
	add("width", list)
	list = nil
	for n := 1; n <= 16; n *= 2 {
		list = append(list, scalingCase{n, c, n, T})
	}
	add("B", list)
	return names, cases
}

func runScaling(ctx context.Context, o *options, p *printer) error {
	if !o.given["model"] {
		o.model = "stories15M"
	}
	base, err := shape(o.model, o.untied, o.T)
	if err != nil {
		return err
	}
	if err := canDraw(o.png); err != nil {
		return fmt.Errorf("-png: %w", err)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(o.threads))
	m, all := o.meters(ctx, o.threads)
	o.progress("")
	if !o.json {
		p.machine(thisMachine(all))
		p.printf("\nA training step of %s shapes with one size changed at a time, from B=%d, T=%d, %d layers, width %d; %d thread%s\n",
			o.model, o.B, o.T, base.NLayers, base.Dim, o.threads, plural(o.threads))
	}
	names, cases := sweeps(base, o.B, o.T)
	var list []sweep
	for i, name := range names {
		s := sweep{Of: name}
		if !o.json {
			p.printf("\n%8s %10s %12s %9s %10s %12s\n", name, "GF", "ms", "GF/s", "roofline", "of roofline")
		}
		slowest := 0.0 // seconds for a FLOP: what the next size may take
		for _, c := range cases[i] {
			w := stepWork(c.Config, c.B, c.T)
			if left := m.left().Seconds(); 2*slowest*w.flop() > left {
				s.Left = append(s.Left, c.size)
				continue
			}
			o.progress("%s=%d", name, c.size)
			step, err := stepTime(m, o.secondsOr(0.5), c)
			var memory memoryError
			if errors.Is(err, errLimit) || errors.As(err, &memory) {
				s.Left = append(s.Left, c.size)
				continue
			}
			if err != nil {
				return err
			}
			point := scalingPoint{Size: c.size, Step: step, Work: w, FLOPs: w.flop() / step.Median,
				Roofline: w.roofline(m.peaks.FMA, m.peaks.Update)}
			point.OfRoofline = of(point.Roofline, step.Median)
			slowest = step.Median / w.flop()
			s.Points = append(s.Points, point)
			o.progress("")
			if !o.json {
				p.printf("%8d %10s %11s%s %9s %10s %11.1f%%\n", c.size, giga(w.flop()), millis(step.Median), star(step.Noisy),
					giga(point.FLOPs), millis(point.Roofline), point.OfRoofline)
			}
			if p.err != nil {
				return p.err
			}
		}
		if len(s.Left) > 0 && !o.json {
			p.printf("%8s no time (-limit is %v) or memory for %s = %v\n", "", o.limit, name, s.Left)
		}
		list = append(list, s)
	}
	if err := drawScaling(o.png, fmt.Sprintf("%s shapes, %d thread%s, %s", o.model, o.threads, plural(o.threads), processor()), list, base, o); err != nil {
		return err
	}
	if o.json {
		p.json(struct {
			Machine machine `json:"machine"`
			Model   string  `json:"model"`
			Scaling []sweep `json:"scaling"`
			Picture string  `json:"picture"`
		}{thisMachine(all), o.model, list, o.png})
		return nil
	}
	p.printf("\npicture     %s\n", o.png)
	return nil
}

// memoryError says that there is not enough.
type memoryError struct{ error }

// stepTime measures a whole step of a shape.
func stepTime(m *meter, seconds float64, c scalingCase) (figure, error) {
	need, err := trainingBytes(c.Config, c.B, c.T)
	if err != nil {
		return figure{}, err
	}
	if err := cli.CheckMemory(need); err != nil {
		return figure{}, memoryError{err}
	}
	t, err := newTraining(m.ctx, c.Config, c.B, c.T)
	if err != nil {
		return figure{}, err
	}
	defer debug.FreeOSMemory()
	defer t.be.Close()
	return m.time(seconds, false, t.step)
}
