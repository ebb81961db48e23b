package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

// stepReport is a training step and what it is made of.
type stepReport struct {
	Model      string  `json:"model"`
	Params     int     `json:"params"`
	B          int     `json:"B"`
	T          int     `json:"T"`
	Step       figure  `json:"step_seconds"`
	Tokens     float64 `json:"tokens_per_second"`
	FLOPs      float64 `json:"flops"`
	Work       work    `json:"work"`
	Roofline   float64 `json:"roofline_seconds"`
	OfRoofline float64 `json:"percent_of_roofline"`
	Resident   int64   `json:"peak_resident_bytes,omitempty"`
	Expected   int64   `json:"expected_bytes"` // 16 a parameter and the activations
	Ops        []opRow `json:"ops"`
	Else       float64 `json:"else_seconds"` // the step less the sum of its ops, which are timed in other steps: mostly noise
	Noisy      bool    `json:"ops_noisy,omitempty"`

	config chainrule.Config
}

// opRow is all calls of an op that are alike.
type opRow struct {
	Pass    string  `json:"pass"`
	Op      string  `json:"op"`
	Shape   string  `json:"shape"`
	Calls   int     `json:"calls"`
	Seconds float64 `json:"seconds"`
	Share   float64 `json:"percent_of_step"`
	FLOPs   float64 `json:"flops,omitempty"`
	Bytes   float64 `json:"bytes_per_second,omitempty"`
	OfPeak  float64 `json:"percent_of_peak"`
}

// measureStep measures whole steps and, in turns with them, steps whose ops are
// timed one by one.
func measureStep(ctx context.Context, o *options, c chainrule.Config) (*stepReport, [2]peaks, error) {
	r := &stepReport{Model: o.model, Params: c.NumParams(), B: o.B, T: o.T, Work: stepWork(c, o.B, o.T), config: c}
	var all [2]peaks
	expected, err := trainingBytes(c, o.B, o.T)
	if err != nil {
		return nil, all, cli.UsageError(err.Error())
	}
	r.Expected = expected
	activations := expected - 16*int64(r.Params)
	if err := cli.CheckMemory(expected + activations); err != nil { // once more for the replay
		return nil, all, err
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(o.threads))
	t, err := newTraining(ctx, c, o.B, o.T)
	if err != nil {
		return nil, all, err
	}
	defer t.be.Close()
	o.progress("the first step")
	if err := t.step(); err != nil { // it allocates the last buffers
		return nil, all, err
	}
	r.Resident = peakResident()
	if ctx.Err() != nil {
		return nil, all, context.Cause(ctx)
	}
	o.progress("peaks")
	m, all := o.meters(ctx, o.threads)

	losses := make([]float32, o.B*o.T)
	ops := t.replay(o.B, o.T, losses)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	o.progress("the first step, op by op")
	if _, err := timeEach(ctx, ops); err != nil {
		return nil, all, err
	}
	var whole, parts series[[]float64]
	seconds := o.secondsOr(8)
	for n := 1; ; n++ {
		o.progress("step %d, whole", n)
		if err := whole.add(m, func() ([]float64, error) { return m.round(t.step) }); err != nil {
			return nil, all, err
		}
		o.progress("step %d, op by op", n)
		if err := parts.add(m, func() ([]float64, error) { return timeEach(ctx, ops) }); err != nil {
			return nil, all, err
		}
		enough := len(whole.good) >= 3 && len(parts.good) >= 3 && whole.spent >= seconds
		if enough || whole.spent >= 3*seconds && n >= 6 || time.Now().After(m.until) {
			break
		}
	}
	all = o.measured(m, all)
	times, noisy := whole.all()
	r.Step = figureOf(slices.Concat(times...), noisy)
	runs, noisy := parts.all()
	r.Noisy = noisy
	r.table(ops, runs, m.peaks)
	return r, all, nil
}

// series is results of rounds, kept apart by what the probes around them said.
type series[T any] struct {
	good, bad []T
	spent     float64
}

func (s *series[T]) add(m *meter, round func() (T, error)) error {
	var x T
	start := time.Now()
	ok, err := m.between(func() (err error) {
		x, err = round()
		return err
	})
	if err != nil {
		return err
	}
	s.spent += time.Since(start).Seconds()
	if ok {
		s.good = append(s.good, x)
	} else {
		s.bad = append(s.bad, x)
	}
	return nil
}

// all returns the good results, or the others if there are none.
func (s *series[T]) all() (results []T, noisy bool) {
	if len(s.good) == 0 {
		return s.bad, true
	}
	return s.good, false
}

// timeEach runs the ops one after the other and returns the seconds of each.
func timeEach(ctx context.Context, ops []op) ([]float64, error) {
	seconds := make([]float64, len(ops))
	last := time.Now()
	for i := range ops {
		if err := ops[i].run(); err != nil {
			return nil, err
		}
		now := time.Now()
		seconds[i], last = now.Sub(last).Seconds(), now
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return seconds, nil
}

// table fills in what follows from the times: an op takes the median of its
// runs.
func (r *stepReport) table(ops []op, runs [][]float64, p peaks) {
	step := r.Step.Median
	r.Tokens, r.FLOPs = float64(r.B*r.T)/step, r.Work.flop()/step
	r.Roofline = r.Work.roofline(p.FMA, p.Update)
	r.OfRoofline = of(r.Roofline, step)
	r.Else = step
	type total struct{ flop, bytes, bound float64 }
	at := map[[3]string]int{}
	var totals []total
	for i, op := range ops {
		key := [3]string{op.pass, op.name, op.shape}
		row, ok := at[key]
		if !ok {
			row = len(r.Ops)
			at[key] = row
			r.Ops = append(r.Ops, opRow{Pass: op.pass, Op: op.name, Shape: op.shape})
			totals = append(totals, total{})
		}
		var times []float64
		for _, run := range runs {
			times = append(times, run[i])
		}
		seconds := figureOf(times, false).Median
		r.Ops[row].Calls++
		r.Ops[row].Seconds += seconds
		r.Else -= seconds
		bandwidth := p.Update
		if op.reads {
			bandwidth = p.Read
		}
		totals[row].flop += op.flop
		totals[row].bytes += op.bytes
		totals[row].bound += op.flop/p.FMA + op.bytes/bandwidth
	}
	for i := range r.Ops {
		row, total := &r.Ops[i], totals[i]
		row.Share = of(row.Seconds, step)
		row.FLOPs, row.Bytes = total.flop/row.Seconds, total.bytes/row.Seconds
		row.OfPeak = of(total.bound, row.Seconds)
	}
	slices.SortStableFunc(r.Ops, func(a, b opRow) int { return passOrder[a.Pass] - passOrder[b.Pass] })
}

var passOrder = map[string]int{forward: 0, backward: 1, update: 2}
