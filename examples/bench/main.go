// Bench measures this library on this machine: a training step and what it is
// made of, the products, the generation of text, and how cost grows with size.
//
//	go run ./examples/bench
//
// Every figure is held against what the processor and the memory can do,
// measured in the same process: FLOP/s of multiply-adds in registers, bytes/s of
// reads, and bytes/s in the pattern of AdamW, each on as many threads as the
// figure beside it. A time counts only if a short probe right before it and one
// right behind it both found the FMA peak, because the cores of a virtual
// machine sometimes share one; where that never happened the figure is marked.
//
// Beside the FMA peak stands what the kernel of products reaches while its
// operands stay in the first-level cache. No product of size gets beyond that: a
// kernel loads, too, and processors lower their clock the more of their units
// work.
//
// The roofline of a step is the least time that its arithmetic and its weights
// need:
//
//	FLOP/peak + bytes/bandwidth
//	FLOP  = 6·n·Σ in·out of the weights of products          (2 forward, 4 backward)
//	      + L·14·B·T(T+1)/2·NH·HD                            (attention: 2 products forward, 5 backward)
//	bytes = 28·parameters in the pattern of AdamW
//
// with n = B·T tokens. Activations, gradients being set to 0 and the norm for
// clipping are not in it: a perfect program has them in its caches or fuses
// them.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/internal/isa"
	"github.com/chainrule-go/chainrule/internal/peak"
)

const help = `Measure this library on this machine, as a share of what the machine can do.

  go run ./examples/bench                a training step, and each op's part in it
  go run ./examples/bench -products      the matrix products of all models
  go run ./examples/bench -generate      tokens a second, against the memory
  go run ./examples/bench -scaling       time against length, layers, width, batch

Ctrl-C stops. A figure with a * was taken while the cores were not free.

What
  -model NAME       @MODELS@ (stories110M)
  -untied           a classifier of its own, apart from the embedding
  -B N              sequences in a batch (1)
  -T N              tokens in a sequence (256)
  -threads N        threads; 0: one for each core (0)
  -isa NAME         instruction set: generic, neon, avx2 or avx512 (the best one)

How
  -seconds X        time for each figure; 0: what suits it (0)
  -limit TIME       begin nothing new behind this time (2m)
  -png FILE         where -scaling draws (runs/scaling.png)
  -json             print JSON instead
  -cpuprofile FILE  write a profile of the processor's time
  -serve            measure what bench/peers/run asks for, a JSON object a line
`

type options struct {
	model             string
	untied            bool
	B, T, threads     int
	isa               string
	seconds           float64
	limit             time.Duration
	png, profile      string
	json              bool
	products, scaling bool
	generate, serve   bool
	given             map[string]bool

	begin   time.Time
	streams *peak.Streams
	status  io.Writer // where progress is shown, or nil
}

func main() {
	cli.Main("bench", func(ctx context.Context, args []string, out io.Writer) error {
		return run(ctx, args, os.Stdin, out)
	})
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	if o.isa != "" && o.isa != isa.Best.String() {
		return again(o.isa)
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	p := &printer{out: out}
	switch {
	case o.serve:
		err = serve(ctx, in, out)
	case o.products:
		err = runProducts(ctx, o, p)
	case o.generate:
		err = runGenerate(ctx, o, p)
	case o.scaling:
		err = runScaling(ctx, o, p)
	default:
		err = runStep(ctx, o, p)
	}
	o.progress("")
	if err == nil {
		err = p.err
	}
	return err
}

func parse(args []string, out io.Writer) (*options, error) {
	o := &options{begin: time.Now()}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.model, "model", "stories110M", "")
	f.BoolVar(&o.untied, "untied", false, "")
	f.IntVar(&o.B, "B", 1, "")
	f.IntVar(&o.T, "T", 256, "")
	f.IntVar(&o.threads, "threads", 0, "")
	f.StringVar(&o.isa, "isa", "", "")
	f.Float64Var(&o.seconds, "seconds", 0, "")
	f.DurationVar(&o.limit, "limit", 2*time.Minute, "")
	f.StringVar(&o.png, "png", "runs/scaling.png", "")
	f.StringVar(&o.profile, "cpuprofile", "", "")
	f.BoolVar(&o.json, "json", false, "")
	f.BoolVar(&o.products, "products", false, "")
	f.BoolVar(&o.scaling, "scaling", false, "")
	f.BoolVar(&o.generate, "generate", false, "")
	f.BoolVar(&o.serve, "serve", false, "")
	if err := cli.Parse(f, args, false, replaced(help, "@MODELS@", modelNames()), out); err != nil {
		return nil, err
	}
	o.given = cli.Given(f)
	modes := 0
	for _, mode := range []bool{o.products, o.scaling, o.generate, o.serve} {
		if mode {
			modes++
		}
	}
	const most = 1 << 20
	switch {
	case modes > 1:
		return nil, cli.Usagef("-products, -generate, -scaling and -serve are different things to do: give one of them")
	case o.B < 1 || o.B > most:
		return nil, cli.Usagef("-B is %d, want 1 to %d", o.B, most)
	case o.T < 1 || o.T > most:
		return nil, cli.Usagef("-T is %d, want 1 to %d", o.T, most)
	case o.threads < 0 || o.threads > runtime.NumCPU():
		return nil, cli.Usagef("-threads is %d, want 0 to %d: this machine has no more cores", o.threads, runtime.NumCPU())
	case !(o.seconds >= 0 && o.seconds < 1e6):
		return nil, cli.Usagef("-seconds is %v, want 0 or a positive number", o.seconds)
	case o.limit <= 0:
		return nil, cli.Usagef("-limit is %v, want a positive time such as 90s", o.limit)
	case o.products && (o.given["B"] || o.given["T"] || o.given["untied"]):
		return nil, cli.Usagef("-B, -T and -untied are not for -products: it measures 256 and 1024 rows, and few")
	case o.given["png"] && !o.scaling:
		return nil, cli.Usagef("-png is where -scaling draws: give it with that")
	case o.png == "":
		return nil, cli.Usagef("-png is empty, want the name of a file")
	}
	if _, err := shape(o.model, o.untied, o.T); err != nil {
		return nil, err
	}
	if o.isa != "" {
		if err := checkISA(o.isa); err != nil {
			return nil, err
		}
	}
	if o.threads == 0 {
		o.threads = runtime.NumCPU()
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		o.status = os.Stderr
	}
	return o, nil
}

// checkISA refuses a set that there are no kernels for here: the figures would
// be those of another one.
func checkISA(name string) error {
	var have string
	for _, s := range isa.Available {
		if s.String() == name {
			return nil
		}
		have += " " + s.String()
	}
	if cap := os.Getenv("CHAINRULE_ISA"); cap != "" {
		have += ", because CHAINRULE_ISA is " + cap
	}
	return cli.Usagef("-isa is %q, but this program has here:%s", name, have)
}

// capped is the environment with a cap on the kernels. Of two caps the first
// one would count.
func capped(isa string) []string {
	const name = "CHAINRULE_ISA="
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, name) })
	return append(env, name+isa)
}

// progress shows what is going on, on one line of a terminal, until the next.
func (o *options) progress(format string, args ...any) {
	if o.status != nil {
		fmt.Fprintf(o.status, "\r\x1b[K"+format, args...)
	}
}

func (o *options) secondsOr(usual float64) float64 {
	if o.seconds > 0 {
		return o.seconds
	}
	return usual
}

// meters returns a meter for so many threads, and the peaks of one thread and
// of these.
func (o *options) meters(ctx context.Context, threads int) (*meter, [2]peaks) {
	o.progress("what the machine can do")
	if o.streams == nil {
		o.streams = peak.NewStreams(streamBytes)
	}
	until := o.begin.Add(o.limit)
	one := newMeter(ctx, 1, 0, o.streams, until)
	if threads == 1 {
		return one, [2]peaks{one.peaks, one.peaks}
	}
	m := newMeter(ctx, threads, one.peaks.FMA, o.streams, until)
	return m, [2]peaks{one.peaks, m.peaks}
}

// measured returns the peaks behind all measurements: the best of before and
// after, because what neighbours leave of the memory changes.
func (o *options) measured(m *meter, before [2]peaks) [2]peaks {
	_, after := o.meters(m.ctx, m.threads)
	for i := range after {
		after[i] = after[i].max(before[i])
	}
	after[1] = after[1].max(m.peaks)
	m.peaks = after[1]
	return after
}

func replaced(s string, oldnew ...string) string { return strings.NewReplacer(oldnew...).Replace(s) }
