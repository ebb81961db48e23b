// Finetune goes on training a model on examples of how it should answer.
//
//	go run ./examples/finetune MODEL DATA.jsonl
//
// Only the answers are learned, and the token that ends them. What comes out is
// a model directory as transformers writes it and, with -gguf, a file for
// llama.cpp and Ollama.
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/train"
)

func main() {
	cli.Main("finetune", func(ctx context.Context, args []string, out io.Writer) error {
		return run(ctx, args, out, os.Stderr)
	})
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	s, err := parse(args, out)
	if err != nil {
		return err
	}
	if s.demo != "" {
		return writeDemo(ctx, s.demo, out)
	}
	if s.quiet {
		progress = io.Discard
	}
	printf := func(format string, args ...any) {
		if !s.quiet {
			fmt.Fprintf(out, format, args...)
		}
	}
	set, err := readData(s) // before the model: reading that takes longer
	if err != nil {
		return err
	}
	p, err := openPupil(s.Model, progress)
	if err != nil {
		return err
	}
	if err := set.encode(ctx, s, p); err != nil {
		return err
	}
	if s.show {
		return showBatch(out, p.Tokenizer, set.train)
	}
	c := s.config(p, set)
	need, err := train.NewEstimate(c, p.Model.Config)
	if err != nil {
		return err
	}
	printf("%s: %s, %s parameters\n%s", s.Model, p.Format, cli.Count(p.Model.NumParams()), set.report(s))
	if err := cli.CheckMemory(need.Memory - 4*int64(p.Model.NumParams())); err != nil {
		return fmt.Errorf("%w, beside the model: choose a smaller -batch, with more -accumulate, or a smaller -max-len", err)
	}
	if p.be, err = cli.Backend(s.backend, os.Stderr); err != nil {
		return err
	}
	defer p.be.Close()
	traced := &trace{set: set, acc: s.Accumulate}
	if s.trace != "" {
		if traced.File, err = os.Create(s.trace); err != nil {
			return err
		}
		defer traced.Close()
	}
	if err := s.enter(); err != nil {
		return err
	}
	c.Backend, c.Dir = p.be, s.out
	printf("%d steps of %d examples of at most %d tokens, %s of memory, into %s\n",
		c.Steps, set.batch*s.Accumulate, set.longest, cli.Bytes(need.Memory), s.out)
	r := &report{out: out, progress: progress, quiet: s.quiet}
	taken, err := tune(ctx, s, c, p, set, r, traced)
	if err != nil {
		return ended(out, s, taken, err)
	}
	return nil
}

// tune measures, takes the steps that are left, measures again, and writes what
// came out. It returns how many steps were taken and are saved.
func tune(ctx context.Context, s *settings, c train.Config, p *pupil, set *dataset, r *report, traced *trace) (taken int, err error) {
	measure := func(ctx context.Context, m *chainrule.Model, ws *chainrule.Workspace) (float64, error) {
		bar := cli.NewProgress(r.progress, "measuring", 0, set.val.Batches())
		defer bar.Clear()
		return set.measure(ctx, m, ws, func(done, total int) { bar.Set(done, fmt.Sprintf("batch %d of %d", done, total)) })
	}
	ask := set.question(s, p)
	before, err := p.answer(ctx, ask) // with the weights that the run began with
	if err != nil {
		return 0, err
	}
	first := row{}
	metrics := filepath.Join(s.out, metricsFile)
	if info, err := os.Stat(metrics); set.val != nil && (err != nil || info.Size() == 0) { // not measured yet
		ws, err := chainrule.NewWorkspace(p.Model.Config, c.Batch, c.SeqLen, c.Backend)
		if err != nil {
			return 0, err
		}
		loss, err := measure(ctx, p.Model, ws)
		if err != nil {
			return 0, err
		}
		first.HeldOut = &loss
	}
	runtime.GC() // the Trainer has its own Workspace
	c.Evaluate = measure
	t, err := s.begin(c)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	for _, w := range append(t.Damaged(), t.Warnings()...) {
		fmt.Fprintf(r.out, "%v\n", w)
	}
	h, err := openHistory(metrics, t.Step())
	if err != nil {
		return t.Step(), err
	}
	defer h.Close()
	if len(h.rows) == 0 {
		if err := h.add(first); err != nil {
			return 0, err
		}
	}
	r.begin(t.Step(), c.Steps, h.rows[0].HeldOut)
	for step, err := range t.Run(ctx) {
		if err == nil {
			err = h.add(rowOf(step))
		}
		if err == nil {
			err = traced.add(rowOf(step))
		}
		if err != nil {
			r.end()
			return t.Step(), err
		}
		r.step(step)
	}
	r.end()
	return t.Step(), finish(ctx, s, p, h, r, ask, before)
}

// finish writes the model, then says what came of the run.
func finish(ctx context.Context, s *settings, p *pupil, h *history, r *report, ask *question, before string) error {
	if err := export(p, s, r.progress); err != nil {
		return err
	}
	after, err := p.answer(ctx, ask)
	if err != nil && ctx.Err() == nil {
		return err
	}
	if first, ok := h.heldOut(0); ok {
		steps := h.rows[len(h.rows)-1].Step
		if last, ok := h.heldOut(steps); ok {
			r.resultf("\nheld-out loss %.4f before, %.4f after %d steps (perplexity %.2f, %.2f)\n",
				first, last, steps, math.Exp(first), math.Exp(last))
		}
	}
	if ask != nil {
		r.resultf("\nasked     %s\n\nbefore    %s\n\nafter     %s\n", indent(ask.text), indent(before), indent(after))
	}
	model := filepath.Join(s.out, modelDir)
	r.resultf("\nmodel     %s (transformers loads it, too)\n", model)
	if s.GGUF != "" {
		r.resultf("gguf      %s (llama-cli -m %[1]s)\nollama    ollama create my-model -f %s\n",
			cli.Quote(filepath.Join(s.out, ggufFile)), cli.Quote(filepath.Join(s.out, ollamaFile)))
	}
	if p.template != nil {
		r.resultf("talk      %s -model %s\n", cli.Sibling("chat"), cli.Quote(model))
	}
	return removeStates(s.out) // the model is written: there is nothing to go on with
}

// ended says how a run that did not reach its end can go on. It returns err, or
// only its Stopped if nothing was lost.
func ended(out io.Writer, s *settings, taken int, err error) error {
	stopped, ok := err.(cli.Stopped)
	if !ok {
		return err
	}
	after := "before the first step"
	if taken > 0 {
		after = fmt.Sprintf("after step %d, saved in %s", taken, s.out)
	}
	fmt.Fprintf(out, "\nStopped %s. To go on:\n\n  %s -resume %s\n", after, cli.Command(), cli.Quote(s.out))
	return stopped
}

// report shows a run: a line a measurement and, below the last line, how far it is.
type report struct {
	out, progress io.Writer
	quiet         bool
	bar           *cli.Progress
	began         time.Time
	steps, tokens int
}

func (r *report) resultf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

func (r *report) begin(done, steps int, heldOut *float64) {
	r.steps, r.began = steps, time.Now()
	r.bar = cli.NewProgress(r.progress, "training", done, steps)
	if !r.quiet {
		fmt.Fprintf(r.out, "\n%7s %9s %9s %10s %7s %9s\n", "step", "loss", "held out", "learning", "norm", "tokens/s")
		if done == 0 && heldOut != nil {
			fmt.Fprintf(r.out, "%7d %9s %9.4f\n", 0, "", *heldOut)
		}
	}
}

// step shows a step: a line for the first ones and those that were measured.
func (r *report) step(s train.Step) {
	r.tokens += s.Tokens
	rate := float64(r.tokens) / time.Since(r.began).Seconds()
	if !r.quiet && (s.Evaluated || s.Step == 1 || s.Step == 10) {
		held := "-"
		if s.Evaluated {
			held = fmt.Sprintf("%.4f", s.ValLoss)
		}
		r.bar.Clear()
		fmt.Fprintf(r.out, "%7d %9.4f %9s %10.2e %7.2f %9.0f\n", s.Step, s.Loss, held, s.LR, s.GradNorm, rate)
	}
	r.bar.Set(s.Step, fmt.Sprintf("step %d, loss %.3f", s.Step, s.Loss))
}

func (r *report) end() { r.bar.Clear() }
