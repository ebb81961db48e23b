// Train trains a Llama on a text, byte by byte, and shows how it learns.
//
//	go run ./examples/train
//
// The text is Newton's Opticks, which is part of every Go distribution, or
// your own. The last tenth is held out; what counts is the number of bits that
// the model needs for each of its bytes, which gzip and xz have figures for
// too.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
	"github.com/chainrule-go/chainrule/train"
)

const help = `Train a Llama on a text and watch it learn.

  go run ./examples/train                      Newton's Opticks, a few minutes
  go run ./examples/train -data book.txt       your own text, or a folder of it
  go run ./examples/train -resume runs/opticks-1

Ctrl-C finishes the step, saves, and says how to go on; a second one leaves at
once. The last tenth of the text is held out to measure on.

Where
  -data PATH        a text file, or a folder of them (Newton's Opticks)
  -out DIR          where checkpoints and loss.png go (runs/NAME-N, a new one)
  -resume DIR       go on with the run in DIR, with its settings

Model
  -dim N            width (128)
  -hidden N         width of the feed-forward layers; 0: 8/3 of -dim (0)
  -layers N         layers (4)
  -heads N          attention heads (4)
  -kv-heads N       key and value heads; 0: as many as -heads (0)
  -seed N           of the weights, the order of the data and the samples (1)

Training
  -steps N          steps to take (@STEPS@)
  -batch N          sequences in a batch (16)
  -seq N            bytes in a sequence (128)
  -accum N          batches in a step (1)
  -lr RATE          highest learning rate of AdamW (@LR@)
  -min-lr RATE      learning rate at the end; 0: a tenth of -lr (0)
  -warmup N         steps to the highest rate; -1: a twentieth of -steps (-1)
  -weight-decay X   of matrices (0.1)
  -clip NORM        largest norm of the gradient; 0: not clipped (1)

Watching
  -eval-every N     steps from one measurement on held-out text to the next (25)
  -save-every N     steps from one checkpoint to the next (100)
  -sample-every N   steps from one sample to the next; 0: only at the end (100)
  -quiet            only the result
  -cpuprofile FILE  write a profile of the processor's time
`

// settings are what a run is made of; -resume finds them in run.json.
type settings struct {
	Data                                string
	Dim, Hidden, Layers, Heads, KVHeads int
	Seed                                uint64
	Steps, Batch, Seq, Accum            int
	LR, MinLR                           float64
	Warmup                              int
	WeightDecay, Clip                   float64
	EvalEvery, SaveEvery, SampleEvery   int
	out, resume, profile                string
	quiet                               bool
}

func main() {
	cli.Main("train", func(ctx context.Context, args []string) error {
		return run(ctx, args, os.Stdout)
	})
}

func run(ctx context.Context, args []string, out io.Writer) error {
	s, err := parse(args, out)
	if err != nil {
		return err
	}
	if s.profile != "" {
		f, err := os.Create(s.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	text, err := data.ReadText(s.Data)
	if err != nil {
		return err
	}
	tok := tokenizer.Byte{}
	trainTokens, valTokens := data.Split(tok.Encode(string(text)), 0.1)
	split := len(trainTokens)

	c := chainrule.Config{
		Dim: s.Dim, HiddenDim: s.Hidden, NLayers: s.Layers, NHeads: s.Heads, NKVHeads: s.KVHeads,
		HeadDim: max(s.Dim/max(s.Heads, 1)&^1, 2), VocabSize: tok.VocabSize(), SeqLen: s.Seq,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
	activations, err := chainrule.WorkspaceBytes(c, s.Batch, s.Seq)
	if err != nil {
		return cli.UsageError(err.Error())
	}
	memory := 16*int64(c.NumParams()) + activations
	show := newDisplay(out, s.quiet)
	show.printf("%s: %d bytes to learn from, %d held out\n", s.Data, split, len(valTokens))
	show.printf("Llama of %s parameters: %d layers of width %d, %d heads, context %d bytes\n",
		cli.Count(c.NumParams()), c.NLayers, c.Dim, c.NHeads, c.SeqLen)
	show.printf("%d steps of %d bytes on %d cores, %s of memory, into %s\n",
		s.Steps, s.Batch*s.Seq*s.Accum, runtime.GOMAXPROCS(0), cli.Bytes(memory), s.out)
	if err := cli.CheckMemory(memory); err != nil {
		return err
	}

	be, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	defer be.Close()
	m, err := chainrule.NewModel(c)
	if err != nil {
		return err
	}
	m.Init(s.Seed)
	config := train.Config{
		Model: m, Backend: be, Train: trainTokens, Val: valTokens,
		Batch: s.Batch, SeqLen: s.Seq, Accumulate: s.Accum, Steps: s.Steps, Seed: s.Seed,
		Schedule: train.WarmupCosine{LR: s.LR, MinLR: s.MinLR, Warmup: s.Warmup, Steps: s.Steps},
		Adam:     chainrule.Adam{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: s.WeightDecay},
		ClipNorm: s.Clip, Dir: s.out, SaveEvery: s.SaveEvery,
		// During the run a tenth of the held-out text is enough; the end has all.
		EvalEvery: s.EvalEvery, EvalTokens: max(len(valTokens)/10, min(len(valTokens), 4*s.Seq)),
	}
	var t *train.Trainer
	if s.resume == "" {
		if t, err = train.New(config); err == nil {
			err = s.save()
		}
	} else {
		t, err = train.Resume(s.resume, config)
	}
	if err != nil {
		return err
	}
	for _, damage := range t.Damaged() {
		show.printf("passed over a damaged checkpoint: %v\n", damage)
	}
	h, err := openHistory(filepath.Join(s.out, "metrics.jsonl"), t.Step())
	if err != nil {
		return err
	}
	defer h.Close()

	prompt := tok.Encode("The ")
	sample := func(n int) (string, error) {
		stream, b := tokenizer.NewStream(tok), strings.Builder{}
		b.WriteString(tok.Decode(prompt))
		o := chainrule.SamplerOptions{Temperature: 0.7, Seed: s.Seed}
		for token, err := range cli.Text(ctx, m, be, prompt, n, o) {
			if err != nil {
				return "", err
			}
			b.WriteString(stream.Put(token))
		}
		b.WriteString(stream.Flush())
		return printable(b.String()), nil
	}

	show.start(t.Step(), s.Steps)
	for step, err := range t.Run(ctx) {
		if err != nil {
			show.stop()
			return ended(show, s, step, err)
		}
		if err := h.add(step); err != nil {
			return err
		}
		show.step(step)
		if s.SampleEvery > 0 && step.Step%s.SampleEvery == 0 && step.Step < s.Steps && !s.quiet {
			if text, err := sample(160); err == nil { // stopped or not finite: the run itself says so
				show.sample(text)
			}
		}
	}
	show.stop()
	return finish(ctx, show, s, t, h, config, text, split, sample)
}

// ended reports how a run that did not reach its end can go on.
func ended(show *display, s *settings, last train.Step, err error) error {
	var stopped cli.Stopped
	if errors.As(err, &stopped) {
		switch {
		case last.Saved != "":
			show.resultf("\nStopped after step %d, saved in %s. To go on:\n\n  %s -resume %s\n",
				last.Step, last.Saved, cli.Command(), cli.Quote(s.out))
		case last.Step == 0:
			show.resultf("\nStopped before the first step; nothing was saved.\n")
		}
		return err
	}
	if path, state := newest(s.out); path != "" {
		return fmt.Errorf("%w\nthe last good checkpoint, of step %d, is %s", err, state, path)
	}
	return err
}

func newest(dir string) (path string, step int) {
	state, path, err := checkpoint.LoadState(dir)
	if err != nil {
		return "", 0
	}
	return path, state.Step
}

// finish measures on all of the held-out text, and says what came out.
func finish(ctx context.Context, show *display, s *settings, t *train.Trainer, h *history,
	config train.Config, text []byte, split int, sample func(int) (string, error)) error {
	show.printf("\nmeasuring on all %d held-out bytes …\n", len(text)-split)
	// Half a window of context for every byte, not none for the first ones.
	config.EvalStride, config.Dir, config.SaveEvery = max(1, s.Seq/2), "", 0
	e, err := train.New(config)
	if err != nil {
		return err
	}
	loss, _, err := e.Eval(ctx, config.Val)
	if err != nil {
		return err
	}
	ours := loss / math.Ln2
	marks := compressors(text, split)
	show.resultf("\nbits for a byte of the held-out text, which none of them had seen:\n\n")
	show.resultf("  %-10s %.3f\n", "this model", ours)
	for _, m := range marks {
		show.resultf("  %-10s %.3f\n", m.name, m.bits)
	}
	story, err := sample(400)
	if err != nil {
		return err
	}
	show.resultf("\nThe model writes:\n\n%s\n", indent(story))
	png := filepath.Join(s.out, "loss.png")
	if err := plotLoss(png, s, h.rows, ours, marks); err != nil {
		return fmt.Errorf("drawing the loss: %w", err)
	}
	path, _ := newest(s.out)
	show.resultf("\nloss curve  %s\nmodel       %s (a directory that transformers loads, too)\nmore text   %s %s\n",
		png, path, strings.Replace(cli.Command(), "train", "generate", 1), cli.Quote(s.out))
	return nil
}

// parse reads the flags; with -resume, those of the run that goes on.
func parse(args []string, out io.Writer) (*settings, error) {
	s := new(settings)
	f := flag.NewFlagSet("train", flag.ContinueOnError)
	f.StringVar(&s.Data, "data", "", "")
	f.StringVar(&s.out, "out", "", "")
	f.StringVar(&s.resume, "resume", "", "")
	f.IntVar(&s.Dim, "dim", 128, "")
	f.IntVar(&s.Hidden, "hidden", 0, "")
	f.IntVar(&s.Layers, "layers", 4, "")
	f.IntVar(&s.Heads, "heads", 4, "")
	f.IntVar(&s.KVHeads, "kv-heads", 0, "")
	f.Uint64Var(&s.Seed, "seed", 1, "")
	f.IntVar(&s.Steps, "steps", defaultSteps, "")
	f.IntVar(&s.Batch, "batch", 16, "")
	f.IntVar(&s.Seq, "seq", 128, "")
	f.IntVar(&s.Accum, "accum", 1, "")
	f.Float64Var(&s.LR, "lr", defaultLR, "")
	f.Float64Var(&s.MinLR, "min-lr", 0, "")
	f.IntVar(&s.Warmup, "warmup", -1, "")
	f.Float64Var(&s.WeightDecay, "weight-decay", 0.1, "")
	f.Float64Var(&s.Clip, "clip", 1, "")
	f.IntVar(&s.EvalEvery, "eval-every", 25, "")
	f.IntVar(&s.SaveEvery, "save-every", 100, "")
	f.IntVar(&s.SampleEvery, "sample-every", 100, "")
	f.BoolVar(&s.quiet, "quiet", false, "")
	f.StringVar(&s.profile, "cpuprofile", "", "")
	text := strings.NewReplacer("@STEPS@", fmt.Sprint(defaultSteps), "@LR@", fmt.Sprint(defaultLR)).Replace(help)
	if err := cli.Parse(f, args, false, text, out); err != nil {
		return nil, err
	}
	if s.resume != "" {
		return s, s.load(cli.Given(f))
	}
	for _, n := range []struct {
		flag string
		v    int
		min  int
	}{
		{"dim", s.Dim, 1}, {"hidden", s.Hidden, 0}, {"layers", s.Layers, 1}, {"heads", s.Heads, 1},
		{"kv-heads", s.KVHeads, 0}, {"steps", s.Steps, 1}, {"batch", s.Batch, 1}, {"seq", s.Seq, 1},
		{"accum", s.Accum, 1}, {"warmup", s.Warmup, -1}, {"eval-every", s.EvalEvery, 1},
		{"save-every", s.SaveEvery, 0}, {"sample-every", s.SampleEvery, 0},
	} {
		if n.v < n.min || n.v > math.MaxInt32 {
			return nil, cli.Usagef("-%s is %d, want %d or more", n.flag, n.v, n.min)
		}
	}
	for _, x := range []struct {
		flag string
		v    float64
	}{{"lr", s.LR}, {"min-lr", s.MinLR}, {"weight-decay", s.WeightDecay}, {"clip", s.Clip}} {
		if !(x.v >= 0) || math.IsInf(x.v, 0) {
			return nil, cli.Usagef("-%s is %v, want 0 or a positive number", x.flag, x.v)
		}
	}
	if s.Dim%s.Heads != 0 || s.Dim/s.Heads%2 != 0 {
		return nil, cli.Usagef("-dim is %d, want an even multiple of -heads %d", s.Dim, s.Heads)
	}
	if s.Hidden == 0 {
		s.Hidden = (s.Dim*8/3 + 31) &^ 31
	}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.MinLR == 0 {
		s.MinLR = s.LR / 10
	}
	if s.Warmup < 0 {
		s.Warmup = s.Steps / 20
	}
	name := "opticks"
	if s.Data == "" {
		path, err := opticks()
		if err != nil {
			return nil, err
		}
		s.Data = path
	} else {
		base := filepath.Base(filepath.Clean(s.Data))
		name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	var err error
	if s.Data, err = filepath.Abs(s.Data); err != nil {
		return nil, err
	}
	for i := 1; s.out == ""; i++ {
		dir := filepath.Join("runs", fmt.Sprintf("%s-%d", name, i))
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			s.out = dir
		} else if err != nil {
			return nil, err
		}
	}
	return s, nil
}

const (
	defaultSteps = 500
	defaultLR    = 3e-3
)

// opticks finds Newton's Opticks in the Go distribution.
func opticks() (string, error) {
	//lint:ignore SA1019 it is right for a program that runs where it was built
	root := runtime.GOROOT()
	if b, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(b))
	}
	path := filepath.Join(root, "src", "testdata", "Isaac.Newton-Opticks.txt")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no Opticks in this Go distribution (%w); give a text of your own with -data", err)
	}
	return path, nil
}

const settingsFile = "run.json"

// save keeps the settings for -resume.
func (s *settings) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.out, "."+settingsFile)
	if err := os.WriteFile(tmp, append(b, '\n'), 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.out, settingsFile))
}

// load takes the settings of the run that goes on. Flags beside -resume may
// only say what to show.
func (s *settings) load(given map[string]bool) error {
	for name := range given {
		switch name {
		case "resume", "quiet", "cpuprofile":
		default:
			return cli.Usagef("-%s: a run goes on with its own settings; leave it out beside -resume", name)
		}
	}
	dir := filepath.Clean(s.resume)
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir { // a checkpoint in the run
		if parent, e := os.ReadFile(filepath.Join(filepath.Dir(dir), settingsFile)); e == nil {
			b, err, dir = parent, nil, filepath.Dir(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("%s is not a run of this program: %w", s.resume, err)
	}
	if err := json.Unmarshal(b, s); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, settingsFile), err)
	}
	s.out = dir
	return nil
}
