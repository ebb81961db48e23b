// Ane is what to run first on a Mac: it says what this machine's Neural Engine
// accepts, how right and how fast it is, and trains a model on it and on the
// CPU side by side.
//
//	go run ./examples/ane
//
// Its whole output belongs into a bug report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/ane"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Try the Neural Engine of this machine; paste the output into a bug report.

  go run ./examples/ane          what it accepts, errors, times, 20 steps
  go run ./examples/ane -sim     the same on the simulator, on any machine

  -sim              simulate it
  -model NAME       the products of stories15M or stories110M (stories15M)
  -rows N           tokens in the sequence, rows of a product (256)
  -steps N          training steps on both (20)
`

type options struct {
	sim   bool
	model string
	rows  int
	steps int
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("ane", flag.ContinueOnError)
	f.BoolVar(&o.sim, "sim", false, "")
	f.StringVar(&o.model, "model", "stories15M", "")
	f.IntVar(&o.rows, "rows", 256, "")
	f.IntVar(&o.steps, "steps", 20, "")
	return f
}

func main() { cli.Main("ane", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	if err := cli.Parse(o.flags(), args, false, help, out); err != nil {
		return err
	}
	c, ok := cli.Stories[o.model]
	switch {
	case !ok:
		return cli.Usagef("-model is %q, want stories15M or stories110M", o.model)
	case o.rows < 1 || o.rows > c.SeqLen:
		return cli.Usagef("-rows is %d, want 1 to the model's %d", o.rows, c.SeqLen)
	case o.steps < 0:
		return cli.Usagef("-steps is %d, want 0 or more", o.steps)
	}
	describe(out)
	be, err := open(o.sim)
	if err != nil {
		return fmt.Errorf("%w (-sim runs on the simulator)", err)
	}
	defer be.Close()
	fmt.Fprintf(out, "\ndevice: %s\n", be.Stats().Device)
	if err := trials(ctx, out, be, c, o.rows); err != nil {
		return err
	}
	// Another one: the programs of the trials are unloaded, but compiled.
	if err := be.Close(); err != nil {
		return err
	}
	if be, err = open(o.sim); err != nil {
		return err
	}
	defer be.Close()
	return training(ctx, out, be, o)
}

func open(sim bool) (*ane.Backend, error) {
	if sim {
		return ane.NewSimulator(ane.M1)
	}
	return ane.New(ane.Options{})
}

// describe prints the machine, and the framework's methods as they are there.
func describe(out io.Writer) {
	fmt.Fprintf(out, "%s %s/%s, %d cores\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	for _, line := range machine() {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintf(out, "programs are compiled in %s\n", os.TempDir())
	methods := ane.Methods()
	if len(methods) == 0 {
		fmt.Fprintln(out, "this build has no bridge to the Neural Engine")
		return
	}
	fmt.Fprintln(out, "\nmethods of the framework")
	for _, m := range methods {
		got := m.Got
		if got == "" {
			got = "missing"
		}
		fmt.Fprintf(out, "  %s %s\n    type %s, expected %s\n", m.Class, m.Selector, got, m.Want)
	}
}

// trials tries each layout for each product of the model.
func trials(ctx context.Context, out io.Writer, be *ane.Backend, c chainrule.Config, rows int) error {
	fmt.Fprintf(out, "\n%-12s %5s %6s %5s %-9s %5s %8s %8s %8s %8s %8s %8s %8s %7s\n", "product", "rows", "out", "in", "layout",
		"tiles", "rms err", "max err", "load ms", "W+x µs", "x µs", "eval µs", "read µs", "TFLOP/s")
	Q, KV, C, H := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim, c.Dim, c.HiddenDim
	for _, w := range []struct {
		name    string
		out, in int
	}{{"Wqkv", Q + 2*KV, C}, {"Wo", C, Q}, {"W13", 2 * H, C}, {"W2", C, H}, {"Wcls", c.VocabSize, C}} {
		for _, p := range []ane.Product{ane.Forward, ane.Backward} {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			name := w.name + " forward"
			if p == ane.Backward {
				name = w.name + " dx"
			}
			tried, err := be.Try(p, rows, w.out, w.in)
			if err != nil {
				fmt.Fprintf(out, "%-12s %5d %6d %5d %v\n", name, rows, w.out, w.in, err)
				continue
			}
			for _, t := range tried {
				fmt.Fprintf(out, "%-12s %5d %6d %5d %-9s %5d ", name, rows, w.out, w.in, t.Layout, t.Tiles)
				if t.Eval > 0 {
					us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
					flop := 2 * float64(rows) * float64(w.out) * float64(w.in) / float64(t.Tiles)
					fmt.Fprintf(out, "%8.1e %8.1e %8.1f %8.0f %8.0f %8.0f %8.0f %7.3f", t.RMSError, t.MaxError,
						us(t.Compile)/1e3, us(t.StageAll), us(t.Stage), us(t.Eval), us(t.Read), flop/t.Eval.Seconds()/1e12)
				}
				if t.Err != nil {
					fmt.Fprintf(out, "  NO: %v", t.Err)
				}
				fmt.Fprintln(out)
			}
		}
	}
	return nil
}

// training takes steps on both backends, from the same weights, on the
// sequence of examples/overfit.
func training(ctx context.Context, out io.Writer, be *ane.Backend, o options) error {
	onCPU, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	defer onCPU.Close()
	sequence := make([]int32, o.rows+1)
	for i := range sequence {
		sequence[i] = int32((i*7+13)%256 + 1)
	}
	a, err := newTrainer(o.model, be, sequence)
	if err != nil {
		return err
	}
	b, err := newTrainer(o.model, onCPU, sequence)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%4s %10s %10s %10s %8s %8s\n", "step", "loss ane", "loss cpu", "difference", "ms ane", "ms cpu")
	for step := 1; step <= o.steps; step++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		lossA, tookA, errA := a.step()
		lossB, tookB, errB := b.step()
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		fmt.Fprintf(out, "%4d %10.5f %10.5f %10.5f %8.0f %8.0f\n", step, lossA, lossB, lossA-lossB,
			tookA.Seconds()*1e3, tookB.Seconds()*1e3)
	}
	_, err = fmt.Fprintf(out, "\n%s", be.Stats())
	return err
}

// trainer is a model in training.
type trainer struct {
	m               *chainrule.Model
	ws              *chainrule.Workspace
	g               *chainrule.Params
	state           *chainrule.AdamState
	tokens, targets []int32
}

func newTrainer(model string, be backend.Backend, sequence []int32) (*trainer, error) {
	m, err := cli.StoriesModel(model, 1)
	if err != nil {
		return nil, err
	}
	n := len(sequence) - 1
	t := &trainer{m: m, tokens: sequence[:n], targets: sequence[1:]}
	if t.ws, err = chainrule.NewWorkspace(m.Config, 1, n, be); err != nil {
		return nil, err
	}
	if t.g, err = chainrule.NewParams(m.Config); err != nil {
		return nil, err
	}
	t.state, err = chainrule.NewAdamState(m.Config)
	return t, err
}

func (t *trainer) step() (loss float64, took time.Duration, err error) {
	start := time.Now()
	if loss, err = chainrule.Forward(t.m, t.ws, t.tokens, t.targets); err != nil {
		return 0, 0, err
	}
	chainrule.ZeroGrad(t.g)
	if err := chainrule.Backward(t.m, t.ws, t.g); err != nil {
		return 0, 0, err
	}
	chainrule.ClipGradients(t.g, 1)
	chainrule.AdamStep(t.m, t.g, t.state, chainrule.Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8})
	return loss, time.Since(start), nil
}
