package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/train"
)

// config is the run that the settings ask for.
func (s *settings) config(p *pupil, set *dataset) train.Config {
	steps := s.Steps
	if steps == 0 {
		steps = (s.Epochs*set.train.Batches() + s.Accumulate - 1) / s.Accumulate
	}
	warmup := s.Warmup
	if warmup < 0 {
		warmup = steps / 20
	}
	c := train.Config{
		Model: p.Model, Backend: p.be, Source: set.train,
		Batch: set.batch, SeqLen: set.longest, Accumulate: s.Accumulate, Steps: steps, Seed: s.Seed,
		Schedule: train.WarmupCosine{LR: s.LR, MinLR: s.LR / 10, Warmup: warmup, Steps: steps},
		Adam:     chainrule.Adam{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: s.WeightDecay},
		ClipNorm: s.Clip, Dir: s.out, SaveEvery: s.SaveEvery,
	}
	if set.val != nil {
		c.EvalEvery = s.EvalEvery
		if c.EvalEvery == 0 {
			c.EvalEvery = steps // the last is measured whatever it is
		}
	}
	return c
}

// begin begins the run, or goes on with it; one that was stopped before its
// first checkpoint begins anew.
func (s *settings) begin(c train.Config) (*train.Trainer, error) {
	if s.resume != "" {
		if t, err := train.Resume(s.out, c); !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
	}
	return train.New(c)
}

// measure returns the mean loss of the held-out examples. It is a
// train.EvaluateFunc, but for progress.
func (set *dataset) measure(ctx context.Context, m *chainrule.Model, ws *chainrule.Workspace, progress func(done, total int)) (float64, error) {
	B, T := set.batch, set.longest
	tokens, targets := make([]int32, B*T), make([]int32, B*T)
	defer ws.Resize(B, T)
	ws.LossDenom = 1 // the sum
	sum, n := 0.0, 0
	for k := range set.val.Batches() {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err := set.val.Fill(k, tokens, targets); err != nil {
			return 0, err
		}
		b, t := data.Trim(tokens, targets, B, T)
		if err := ws.Resize(b, t); err != nil {
			return 0, err
		}
		loss, err := chainrule.Forward(m, ws, tokens[:b*t], targets[:b*t])
		if err != nil {
			return 0, err
		}
		sum += loss
		for _, id := range targets[:b*t] {
			if id >= 0 {
				n++
			}
		}
		progress(k+1, set.val.Batches())
	}
	if loss := sum / float64(n); !math.IsNaN(loss) && !math.IsInf(loss, 0) {
		return loss, nil
	}
	return 0, fmt.Errorf("the loss of the held-out examples is %v", sum)
}

// row is a line of metrics.jsonl: a step, in nats a token.
type row struct {
	Step     int      `json:"step"`
	Loss     float64  `json:"loss"` // 0 before the first step
	HeldOut  *float64 `json:"held_out,omitempty"`
	LR       float64  `json:"lr"`
	GradNorm float64  `json:"grad_norm"`
	Tokens   int      `json:"tokens"` // learned from
}

func rowOf(s train.Step) row {
	r := row{Step: s.Step, Loss: s.Loss, LR: s.LR, GradNorm: s.GradNorm, Tokens: s.Tokens}
	if s.Evaluated {
		r.HeldOut = &s.ValLoss
	}
	return r
}

// history is metrics.jsonl: the steps of a run, also of those before it was
// interrupted.
type history struct {
	*os.File
	rows []row
}

// openHistory opens the file of a run that has taken so many steps. Later ones
// in it were lost with the process, and are taken again.
func openHistory(path string, steps int) (*history, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	h := &history{File: f}
	whole := int64(0)
	for d := json.NewDecoder(f); ; whole = d.InputOffset() {
		var r row
		if d.Decode(&r) != nil || r.Step > steps {
			break
		}
		h.rows = append(h.rows, r)
	}
	if err = f.Truncate(whole); err == nil {
		_, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil && whole > 0 {
		_, err = f.WriteString("\n")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return h, nil
}

func (h *history) add(r row) error {
	h.rows = append(h.rows, r)
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = h.Write(append(b, '\n'))
	return err
}

// heldOut returns the measurement of a step.
func (h *history) heldOut(step int) (loss float64, ok bool) {
	for _, r := range h.rows {
		if r.Step == step && r.HeldOut != nil {
			return *r.HeldOut, true
		}
	}
	return 0, false
}

// trace writes the batches and the results of steps as lines of JSON, for
// another program to take the same ones.
type trace struct {
	*os.File
	set *dataset
	acc int
}

// tracedBatch is a batch [B,T] as it was computed.
type tracedBatch struct {
	B       int     `json:"B"`
	T       int     `json:"T"`
	Tokens  []int32 `json:"tokens"`
	Targets []int32 `json:"targets"`
}

func (t *trace) add(r row) error {
	if t.File == nil {
		return nil
	}
	line := struct {
		row
		Batches []tracedBatch `json:"batches"`
	}{row: r}
	n := t.set.batch * t.set.longest
	for i := range t.acc {
		tokens, targets := make([]int32, n), make([]int32, n)
		if err := t.set.train.Fill((r.Step-1)*t.acc+i, tokens, targets); err != nil {
			return err
		}
		B, T := data.Trim(tokens, targets, t.set.batch, t.set.longest)
		line.Batches = append(line.Batches, tracedBatch{B, T, slices.Clone(tokens[:B*T]), slices.Clone(targets[:B*T])})
	}
	b, err := json.Marshal(line)
	if err == nil {
		_, err = t.Write(append(b, '\n'))
	}
	if err != nil {
		err = fmt.Errorf("-trace: %w", err)
	}
	return err
}
