package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/internal/mem"
)

// The rows of x: those of training, and those of generation, where the weights
// come from memory each time.
var (
	trainingRows   = []int{256, 1024}
	generationRows = []int{1, 4, 16}
)

// productRow is a product of one shape on so many threads.
type productRow struct {
	Product string  `json:"product"` // linear, dx or dW
	Weight  string  `json:"weight"`
	Rows    int     `json:"rows"`
	In      int     `json:"in"`
	Out     int     `json:"out"`
	Threads int     `json:"threads"`
	Time    figure  `json:"seconds"`
	FLOPs   float64 `json:"flops"`
	// Bound is the most FLOP/s: the multiply-add peak or, in generation, what
	// the memory feeds: bandwidth · rows/2 (2·rows FLOP for 4 bytes of weight).
	Bound   float64 `json:"bound_flops"`
	OfBound float64 `json:"percent_of_bound"`
	Best    float64 `json:"percent_of_bound_best"`
}

// productCase is a shape, and what it is in the models.
type productCase struct {
	weight  string
	in, out int
}

// productCases returns the different shapes of the models, or of one.
func productCases(model string) (cases []productCase) {
	for _, s := range shapes {
		if model != "" && s.name != model || model == "" && s.name == "tiny" {
			continue
		}
		for _, p := range products(s.Config) {
			if !slices.ContainsFunc(cases, func(c productCase) bool { return c.in == p.in && c.out == p.out }) {
				cases = append(cases, productCase{s.name + " " + p.name, p.in, p.out})
			}
		}
	}
	return cases
}

// operands is the memory of the products, of which all shapes use parts.
type operands struct {
	be              backend.Backend
	x, y, dx, w, dw []float32
}

func newOperands(rows int, cases []productCase, weights int) (*operands, error) {
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		return nil, err
	}
	var in, out, w int
	for _, c := range cases {
		in, out, w = max(in, c.in), max(out, c.out), max(w, c.in*c.out)
	}
	need := 4 * (rows*(2*in+out) + w + max(w, weights))
	if err := cli.CheckMemory(int64(need)); err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		s := mem.Floats(n)
		var block [4096]float32 // one block over and over: drawing takes time
		for i := range block {
			block[i] = r.Float32() - 0.5
		}
		for at := 0; at < n; {
			at += copy(s[at:], block[:])
		}
		return s
	}
	return &operands{be: be, x: random(rows * in), y: random(rows * out), dx: random(rows * in),
		w: random(max(w, weights)), dw: random(w)}, nil
}

// run returns the product of a kind. A Linear of few rows takes other weights
// at each call, so that they come from memory.
func (o *operands) run(kind string, rows, in, out int, rotate bool) func() error {
	size := in * out
	sets := 1
	if rotate {
		sets = max(1, len(o.w)/size)
	}
	matrices := make([]backend.Matrix, sets)
	for i := range matrices {
		matrices[i] = backend.Matrix{Data: o.w[i*size:][:size], Out: out, In: in, Gen: 1}
	}
	next := 0
	return func() error {
		w := &matrices[next]
		next = (next + 1) % sets
		switch kind {
		case "dx":
			return o.be.LinearBackward(o.dx, nil, o.y, o.x, w, rows)
		case "dW":
			return o.be.LinearBackward(nil, o.dw, o.y, o.x, w, rows)
		}
		return o.be.Linear(o.y, o.x, w, rows)
	}
}

func runProducts(ctx context.Context, o *options, p *printer) error {
	model := ""
	if o.given["model"] {
		model = o.model
	}
	cases := productCases(model)
	threads := []int{1}
	if o.given["threads"] || o.threads == 1 {
		threads[0] = o.threads
	} else {
		threads = append(threads, o.threads)
	}
	ops, err := newOperands(slices.Max(trainingRows), cases, streamBytes/4)
	if err != nil {
		return err
	}
	defer ops.be.Close()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(o.threads))
	var meters []*meter
	var all [2]peaks
	for _, n := range threads {
		var m *meter
		m, all = o.meters(ctx, n)
		meters = append(meters, m)
	}
	o.progress("")
	var rows []productRow
	if !o.json {
		p.machine(thisMachine(all))
	}
	left, noisy := 0, false
	sheet := func(kinds []string, n int, rotate bool) error {
		if !o.json {
			p.productHead(kinds, n, rotate, threads)
		}
		for _, c := range cases {
			var line []productRow
			for _, m := range meters {
				for _, kind := range kinds {
					o.progress("%s, %s of %d rows, %d thread%s", c.weight, kind, n, m.threads, plural(m.threads))
					time, err := m.time(o.secondsOr(0.1), false, ops.run(kind, n, c.in, c.out, rotate))
					if errors.Is(err, errLimit) {
						left++
						continue
					}
					if err != nil {
						return err
					}
					flop := 2 * float64(n) * float64(c.in) * float64(c.out)
					r := productRow{Product: kind, Weight: c.weight, Rows: n, In: c.in, Out: c.out, Threads: m.threads,
						Time: time, FLOPs: flop / time.Median, Bound: m.peaks.FMA}
					if rotate {
						r.Bound = min(r.Bound, m.peaks.Read*float64(n)/2)
					}
					r.OfBound, r.Best = of(r.FLOPs, r.Bound), of(flop/time.Best, r.Bound)
					noisy = noisy || time.Noisy
					line = append(line, r)
				}
			}
			o.progress("")
			rows = append(rows, line...)
			if !o.json && len(line) == len(meters)*len(kinds) {
				p.productLine(c, line)
			}
			if p.err != nil {
				return p.err
			}
		}
		return nil
	}
	for _, n := range trainingRows {
		if err := sheet([]string{"linear", "dx", "dW"}, n, false); err != nil {
			return err
		}
	}
	for _, n := range generationRows {
		if err := sheet([]string{"linear"}, n, true); err != nil {
			return err
		}
	}
	if o.json {
		p.json(struct {
			Machine  machine      `json:"machine"`
			Products []productRow `json:"products"`
			Left     int          `json:"not_measured"`
		}{thisMachine(all), rows, left})
		return nil
	}
	p.printf("\nlinear: y = x·Wᵀ; dx = dy·W; dW += dyᵀ·x. GF/s of the median; in brackets the median and the best in %% of the bound.\n")
	if noisy {
		p.printf("* the cores were never free before and after: the figure may be too low\n")
	}
	if left > 0 {
		p.printf("%d figures were left out, because the %v of -limit were over\n", left, o.limit)
	}
	return nil
}

func (p *printer) productHead(kinds []string, rows int, rotate bool, threads []int) {
	bound := "the bound is the multiply-add peak"
	if rotate {
		bound = "weights from memory; the bound is min(peak, read bandwidth × rows/2)"
	}
	p.printf("\n%d row%s: %s\n%-20s %13s", rows, plural(rows), bound, "", "")
	for _, n := range threads {
		for _, kind := range kinds {
			p.printf("  %-16s", fmt.Sprintf("%s, %d thread%s", kind, n, plural(n)))
		}
	}
	p.printf("\n")
}

func (p *printer) productLine(c productCase, line []productRow) {
	p.printf("%-20s %13s", c.weight, fmt.Sprintf("%d→%d", c.in, c.out))
	for _, r := range line {
		p.printf("  %5s%s(%3.0f %3.0f)", giga(r.FLOPs), star(r.Time.Noisy), r.OfBound, r.Best)
	}
	p.printf("\n")
}
