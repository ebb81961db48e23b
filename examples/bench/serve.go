package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/internal/peak"
)

// request is what bench/peers/run asks this program and its peers for: one
// JSON object a line, each answered by one line.
type request struct {
	Do      string `json:"do"` // hello, probe, read, step, check, product, generate or save
	Model   string `json:"model"`
	Untied  bool   `json:"untied"`
	B       int    `json:"B"`
	T       int    `json:"T"`
	Clip    bool   `json:"clip"`
	Product string `json:"product"`
	Rows    int    `json:"rows"`
	In      int    `json:"in"`
	Out     int    `json:"out"`
	Threads int    `json:"threads"`
	Rotate  bool   `json:"rotate"`
	// Seconds is how long to run again and again; once at least.
	Seconds float64 `json:"seconds"`
	Path    string  `json:"path"`
	// What check trains on, [B,T], each token's target being the next one of its
	// row, or the first one; how many steps; and the learning rate.
	Tokens []int32 `json:"tokens"`
	Steps  int     `json:"steps"`
	Rate   float64 `json:"rate"`
}

type answer struct {
	Error    string       `json:"error,omitempty"`
	Seconds  []float64    `json:"seconds,omitempty"`
	Steps    [][2]float64 `json:"steps,omitempty"` // loss and norm of the gradient
	FMA      float64      `json:"fma,omitempty"`
	Read     float64      `json:"read,omitempty"`
	Update   float64      `json:"update,omitempty"`
	Machine  *machine     `json:"machine,omitempty"`
	Resident int64        `json:"resident,omitempty"`
	Config   any          `json:"config,omitempty"`
}

// server keeps what the last request used, because the next one mostly asks for
// the same again.
type server struct {
	ctx      context.Context
	key      string
	training *training
	run      func() error
	free     func()
	streams  *peak.Streams
}

// serve answers requests until the input ends.
func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &server{ctx: ctx}
	requests, end := make(chan []byte), make(chan error, 1)
	go func() { // a signal stops us while we wait for the next one, too
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			select {
			case requests <- bytes.Clone(lines.Bytes()):
			case <-ctx.Done():
				return
			}
		}
		end <- lines.Err()
	}()
	for {
		var line []byte
		select {
		case line = <-requests:
		case err := <-end:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var r request
		var a answer
		err := json.Unmarshal(line, &r)
		if err == nil {
			a, err = s.answer(r)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := json.NewEncoder(out).Encode(a); err != nil {
			return err
		}
	}
}

func (s *server) answer(r request) (a answer, err error) {
	if r.Threads > runtime.NumCPU() {
		return a, fmt.Errorf("%d threads are more than the cores, %d", r.Threads, runtime.NumCPU())
	}
	if r.Threads < 1 {
		r.Threads = runtime.NumCPU()
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(r.Threads))
	switch r.Do {
	case "hello":
		m := thisMachine([2]peaks{})
		m.Peaks = nil
		a.Machine = &m
		if r.Model != "" {
			c, err := shape(r.Model, r.Untied, r.T)
			if err != nil {
				return a, err
			}
			a.Config = struct {
				chainrule.Config
				Params int
				Work   work
				Bytes  float64 // of memory for a token of generation
			}{c, c.NumParams(), stepWork(c, r.B, r.T), generateBytes(c, 1, r.T)}
		}
		return a, nil
	case "probe":
		a.FMA = peak.FMA(r.Threads)
		return a, nil
	case "read":
		if s.streams == nil {
			s.streams = peak.NewStreams(streamBytes)
		}
		a.Read, a.Update = s.streams.Read(r.Threads), s.streams.Update(r.Threads)
		return a, nil
	case "save":
		c, err := shape(r.Model, r.Untied, r.T)
		if err != nil {
			return a, err
		}
		m, err := chainrule.NewModel(c)
		if err != nil {
			return a, err
		}
		m.Init(1)
		return a, checkpoint.SaveLlama2c(r.Path, m, 0)
	case "check":
		a.Steps, err = check(s.ctx, r)
		return a, err
	case "step", "product", "generate":
	default:
		return a, fmt.Errorf("%q is not hello, probe, read, step, check, product, generate or save", r.Do)
	}
	key := fmt.Sprint(r.Do, r.Model, r.Untied, r.B, r.T, r.Product, r.Rows, r.In, r.Out, r.Rotate)
	if key != s.key {
		if s.free != nil {
			s.free()
		}
		s.key, s.training, s.run, s.free = "", nil, nil, nil
		debug.FreeOSMemory()
		if err := s.prepare(r); err != nil {
			return a, err
		}
		if err := s.run(); err != nil {
			return a, err
		}
		s.key = key
	}
	if s.training != nil {
		s.training.clip = r.Clip
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for begin := time.Now(); len(a.Seconds) == 0 || time.Since(begin).Seconds() < r.Seconds; {
		start := time.Now()
		if err := s.run(); err != nil {
			return a, err
		}
		a.Seconds = append(a.Seconds, time.Since(start).Seconds())
	}
	a.Resident = peakResident()
	return a, nil
}

// check returns the losses and the norms of the gradients of some steps from
// the weights that save writes: what a peer is held to.
func check(ctx context.Context, r request) (steps [][2]float64, err error) {
	c, err := shape(r.Model, r.Untied, r.T)
	if err != nil {
		return nil, err
	}
	t, err := newTraining(ctx, c, r.B, r.T)
	if err != nil {
		return nil, err
	}
	defer t.be.Close()
	if len(r.Tokens) != r.B*r.T {
		return nil, fmt.Errorf("%d tokens, want B·T = %d", len(r.Tokens), r.B*r.T)
	}
	t.tokens, t.adam.LR, t.clip = r.Tokens, r.Rate, r.Clip
	t.targets = t.targets[:0]
	for row := range slices.Chunk(t.tokens, r.T) {
		t.targets = append(append(t.targets, row[1:]...), row[0])
	}
	for range r.Steps {
		if err := t.step(); err != nil {
			return nil, err
		}
		steps = append(steps, [2]float64{t.loss, t.norm})
	}
	return steps, nil
}

// prepare makes s.run do what r asks for.
func (s *server) prepare(r request) error {
	switch r.Do {
	case "product":
		if r.Rows < 1 || r.In < 1 || r.Out < 1 {
			return errors.New("a product wants rows, in and out")
		}
		weights := 0
		if r.Rotate {
			weights = streamBytes / 4
		}
		ops, err := newOperands(r.Rows, []productCase{{"", r.In, r.Out}}, weights)
		if err != nil {
			return err
		}
		s.run, s.free = ops.run(r.Product, r.Rows, r.In, r.Out, r.Rotate), func() { ops.be.Close() }
		return nil
	case "generate":
		c, err := shape(r.Model, r.Untied, r.T)
		if err != nil {
			return err
		}
		be, err := cpu.New(cpu.Options{})
		if err != nil {
			return err
		}
		m, err := chainrule.NewModel(c)
		if err != nil {
			return err
		}
		m.Init(1)
		session, err := chainrule.NewSession(m, be, chainrule.SessionOptions{MaxLen: r.T, Batch: 1})
		if err != nil {
			return err
		}
		s.free = func() { be.Close() }
		s.run = func() error { return generate(s.ctx, session, 1, r.T) }
		return nil
	}
	c, err := shape(r.Model, r.Untied, r.T)
	if err != nil {
		return err
	}
	need, err := trainingBytes(c, r.B, r.T)
	if err != nil {
		return err
	}
	if err := cli.CheckMemory(need); err != nil {
		return err
	}
	t, err := newTraining(s.ctx, c, r.B, r.T)
	if err != nil {
		return err
	}
	s.training, s.run, s.free = t, t.step, func() { t.be.Close() }
	return nil
}
