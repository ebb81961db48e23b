// Overfit trains a model on one sequence until it knows it by heart: the
// quickest proof that the gradients are right, on the shapes of llama2.c's
// Stories models.
//
//	go run ./examples/overfit
//
// The sequence is (i·7+13) mod 256 + 1. A model of random weights starts at a
// loss of ln 32000 = 10.4 nats a token and goes to about 0.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Overfit a Stories model on one fixed sequence: the loss goes to about 0.

  go run ./examples/overfit                      15M parameters, random
  go run ./examples/overfit -model stories110M   the larger shape (2.3 GiB)
  go run ./examples/overfit -load stories15M.bin a llama2.c file

Model
  -model NAME       stories15M or stories110M, with random weights (stories15M)
  -load FILE        the weights and the shape of a llama2.c file instead
  -seed N           of the random weights (1)

Training
  -steps N          steps to take (80)
  -seq N            tokens in the sequence (256)
  -lr RATE          learning rate of AdamW (0.001)
  -clip NORM        largest norm of the gradient; 0: not clipped (1)
` + cli.BackendHelp

type options struct {
	model, load, backend string
	seed                 uint64
	steps, seq           int
	lr, clip             float64
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("overfit", flag.ContinueOnError)
	f.StringVar(&o.model, "model", "stories15M", "")
	f.StringVar(&o.load, "load", "", "")
	f.Uint64Var(&o.seed, "seed", 1, "")
	f.IntVar(&o.steps, "steps", 80, "")
	f.IntVar(&o.seq, "seq", 256, "")
	f.Float64Var(&o.lr, "lr", 1e-3, "")
	f.Float64Var(&o.clip, "clip", 1, "")
	f.StringVar(&o.backend, "backend", "cpu", "")
	return f
}

func main() { cli.Main("overfit", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	f := o.flags()
	if err := cli.Parse(f, args, false, help, out); err != nil {
		return err
	}
	given := cli.Given(f)
	switch {
	case o.steps < 1:
		return cli.Usagef("-steps is %d, want 1 or more", o.steps)
	case o.seq < 1:
		return cli.Usagef("-seq is %d, want 1 or more", o.seq)
	case !(o.lr > 0) || math.IsInf(o.lr, 0):
		return cli.Usagef("-lr is %v, want a positive number", o.lr)
	case !(o.clip >= 0) || math.IsInf(o.clip, 0):
		return cli.Usagef("-clip is %v, want 0 or a positive number", o.clip)
	case given["load"] && (given["model"] || given["seed"]):
		return cli.Usagef("-load is the whole model: leave out -model and -seed")
	case given["load"] && o.load == "":
		return cli.Usagef("-load is empty, want a llama2.c file")
	}
	be, err := cli.Backend(o.backend, os.Stderr)
	if err != nil {
		return err
	}
	defer be.Close()
	m, err := newModel(o.model, o.load, o.seed)
	if err != nil {
		return err
	}
	T := o.seq
	if T > m.SeqLen {
		return cli.Usagef("-seq is %d, want at most the model's %d", T, m.SeqLen)
	}

	sequence := make([]int32, T+1)
	for i := range sequence {
		sequence[i] = int32((i*7+13)%256 + 1)
	}
	if largest := slices.Max(sequence); int(largest) >= m.VocabSize {
		return fmt.Errorf("the sequence has token %d, the model a vocabulary of %d", largest, m.VocabSize)
	}
	tokens, targets := sequence[:T], sequence[1:]

	activations, err := chainrule.WorkspaceBytes(m.Config, 1, T)
	if err != nil {
		return err
	}
	memory := 16*int64(m.NumParams()) + activations // weights, gradient, two moments
	fmt.Fprintf(out, "%s parameters, %d layers of width %d, vocabulary %d; 1 sequence of %d tokens; %s of memory, %d cores\n",
		cli.Count(m.NumParams()), m.NLayers, m.Dim, m.VocabSize, T, cli.Bytes(memory), runtime.GOMAXPROCS(0))
	if err := cli.CheckMemory(memory - 4*int64(m.NumParams())); err != nil { // the weights are there
		return err
	}
	ws, err := chainrule.NewWorkspace(m.Config, 1, T, be)
	if err != nil {
		return err
	}
	grad, err := chainrule.NewParams(m.Config)
	if err != nil {
		return err
	}
	state, err := chainrule.NewAdamState(m.Config)
	if err != nil {
		return err
	}

	adam := chainrule.Adam{LR: o.lr, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
	fmt.Fprintf(out, "%6s %10s %10s %9s %9s\n", "step", "loss", "grad norm", "ms/step", "tokens/s")
	for step := 1; step <= o.steps; step++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start := time.Now()
		loss, err := chainrule.Forward(m, ws, tokens, targets)
		if err != nil {
			return err
		}
		chainrule.ZeroGrad(grad)
		if err := chainrule.Backward(m, ws, grad); err != nil {
			return err
		}
		norm := chainrule.GradNorm(grad)
		if math.IsNaN(loss+norm) || math.IsInf(loss+norm, 0) {
			return fmt.Errorf("step %d: the loss is %v and the norm of the gradient %v", step, loss, norm)
		}
		adam.GradScale = 1
		if o.clip > 0 && norm > o.clip {
			adam.GradScale = o.clip / norm
		}
		chainrule.AdamStep(m, grad, state, adam)
		took := time.Since(start)
		_, err = fmt.Fprintf(out, "%6d %10.5f %10.4f %9.0f %9.0f\n", step, loss, norm,
			float64(took.Milliseconds()), float64(T)/took.Seconds())
		if err != nil {
			return err
		}
	}
	return nil
}

// newModel returns the model of a llama2.c file, or one of random weights.
func newModel(name, file string, seed uint64) (*chainrule.Model, error) {
	if file != "" {
		return checkpoint.LoadLlama2c(file)
	}
	return cli.StoriesModel(name, seed)
}
