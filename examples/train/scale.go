package main

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/train"
)

// The scaling rule of -minutes. Models have k layers of width 64·k with k heads,
// so that one number is the size: about 12·k·(64·k)² parameters. Of the operations
// C that fit into the time, parameters and tokens both take the share √C, as they
// should (Hoffmann and others, Training Compute-Optimal Large Language Models,
// 2022), through the default run, whose ratio was found by trying on this amount
// of text. The learning rate falls with the square root of the width. Nine tenths of
// the time are for steps and what is measured between them, the rest for a
// machine that slows down.
const (
	anchorSize  = 4       // k of the default run
	anchorSteps = 800     // of anchorBatch tokens
	anchorBatch = 8 * 256 // tokens
	forSteps    = 0.9
	mostSize    = 32
)

// fit chooses the shape and the number of steps for -minutes.
func (s *settings) fit(ctx context.Context, c *material, be backend.Backend) error {
	seconds := forSteps * s.minutes * 60
	k, perStep := 1, 0.0
	for try := range 4 {
		s.shape(k)
		var err error
		if perStep, err = s.probe(ctx, c, be); err != nil {
			return err
		}
		// C, in steps of the default run: an operation costs as much everywhere.
		budget := seconds / perStep * work(k) * float64(s.Batch*s.Seq*s.Accum) / anchorBatch
		best := 1
		for i := 1; i <= mostSize; i++ {
			want := math.Sqrt(budget / (work(anchorSize) * anchorSteps))
			if math.Abs(math.Log(work(i)/work(anchorSize)/want)) < math.Abs(math.Log(work(best)/work(anchorSize)/want)) {
				best = i
			}
		}
		if best == k || try == 3 {
			break
		}
		k = min(best, 2*k) // a model that is far too large takes long to find that out
		debug.FreeOSMemory()
	}
	debug.FreeOSMemory() // what the trials took is given back
	// An evaluation is a forward, a third of a step's work, of every window twice.
	measured := 2.0 / 3 * float64(measurements*c.evalTokens(s.Seq)+len(c.val)) / float64(s.Batch*s.Seq*s.Accum)
	s.Steps = min(max(int(seconds/perStep-measured), 1), math.MaxInt32)
	s.EvalEvery = max(1, s.Steps/measurements)
	s.SaveEvery, s.SampleEvery = max(1, s.Steps/4), max(1, s.Steps/4)
	s.LR *= math.Sqrt(float64(anchorSize) / float64(k))
	s.minutes = 0
	if err := s.complete(); err != nil {
		return fmt.Errorf("-minutes: %w", err)
	}
	return nil
}

// measurements is how many evaluations a run of -minutes has.
const measurements = 16

// work is the operations of a token, but for a constant.
func work(k int) float64 { return 12 * float64(k) * math.Pow(64*float64(k), 2) }

// shape makes the model one of size k.
func (s *settings) shape(k int) {
	s.Dim, s.Layers, s.Heads, s.KVHeads = 64*k, k, k, k
	s.Hidden = hidden(s.Dim)
}

// probe returns the seconds that a step takes.
func (s *settings) probe(ctx context.Context, c *material, be backend.Backend) (float64, error) {
	m, err := chainrule.NewModel(s.model(c))
	if err != nil {
		return 0, err
	}
	m.Init(s.Seed)
	const steps = 5
	t, err := train.New(train.Config{
		Model: m, Backend: be, Train: c.train, Batch: s.Batch, SeqLen: s.Seq, Accumulate: s.Accum,
		Steps: steps, Seed: s.Seed, Schedule: train.Constant{LR: s.LR / 100}, ClipNorm: 1,
	})
	if err != nil {
		return 0, err
	}
	defer t.Close()
	best := time.Duration(math.MaxInt64) // of the first one, pages are made
	for step, err := range t.Run(ctx) {
		if err != nil {
			return 0, err
		}
		best = min(best, step.Duration)
	}
	return best.Seconds(), nil
}
