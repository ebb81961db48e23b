package main

import (
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
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Train a Llama on a text and watch it learn.

  go run ./examples/train                      Newton's Opticks, a few minutes
  go run ./examples/train -data book.txt       your own text, or a folder of it
  go run ./examples/train -minutes 5           a model for that time
  go run ./examples/train -resume runs/opticks-1

Ctrl-C finishes the step, saves, and says how to go on; a second one leaves at
once. The last tenth of the text, at most 1 MiB, is held out to measure on.

Where
  -data PATH        a text file, or a folder of them (Newton's Opticks)
  -out DIR          where checkpoints and loss.png go (runs/NAME-N, a new one)
  -resume DIR       go on with the run in DIR, with its settings; only -data,
                    where its text is now, -backend and the last five go with it

  -minutes X        choose -dim, -layers, -heads, -steps and -lr for a run of so
                    long, by the speed of this machine; 0: as they are given (0)

Model
  -dim N            width (256)
  -hidden N         width of the feed-forward layers; 0: 8/3 of -dim (0)
  -layers N         layers (4)
  -heads N          attention heads (4)
  -kv-heads N       key and value heads; 0: as many as -heads (0)
  -vocab N          tokens of a BPE that is made of the text; 0: bytes are the
                    tokens (0)
  -seed N           of the weights, the order of the data and the samples (1)

Training
  -steps N          steps to take (800)
  -batch N          sequences in a batch (8)
  -seq N            tokens in a sequence (256)
  -accum N          batches in a step (1)
  -lr RATE          highest learning rate of AdamW (0.002)
  -min-lr RATE      learning rate at the end; 0: a tenth of -lr (0)
  -warmup N         steps to the highest rate; -1: a twentieth of -steps (-1)
  -weight-decay X   of matrices (0.1)
  -clip NORM        largest norm of the gradient; 0: not clipped (1)
  -ema DECAY        measure and write with averaged weights; 0: do not (0)
` + cli.BackendHelp + `
Watching
  -eval-every N     steps from one measurement on held-out text to the next (50)
  -save-every N     steps from one checkpoint to the next (200)
  -sample-every N   steps from one sample to the next; 0: only at the end (200)
  -http ADDR        show the run, and those beside it, in a browser, at
                    localhost:8080 for example; examples/dashboard does later
  -tensorboard      write an event file for TensorBoard, too
  -json             print what happens as lines of JSON, those of metrics.jsonl
  -quiet            only the result
  -cpuprofile FILE  write a profile of the processor's time
`

// settings are what a run is made of; -resume finds them in run.json.
type settings struct {
	Data                                string
	Dim, Hidden, Layers, Heads, KVHeads int
	Vocab                               int `json:",omitempty"`
	Seed                                uint64
	Steps, Batch, Seq, Accum            int
	LR, MinLR                           float64
	Warmup                              int
	WeightDecay, Clip                   float64
	EMA                                 float64 `json:",omitempty"`
	EvalEvery, SaveEvery, SampleEvery   int
	out, resume, profile, backend       string
	http                                string
	quiet, json, tensorboard            bool
	minutes                             float64
}

// flags are the command line, with its defaults.
func (s *settings) flags() *flag.FlagSet {
	f := flag.NewFlagSet("train", flag.ContinueOnError)
	f.StringVar(&s.Data, "data", "", "")
	f.StringVar(&s.out, "out", "", "")
	f.StringVar(&s.resume, "resume", "", "")
	f.IntVar(&s.Dim, "dim", 256, "")
	f.IntVar(&s.Hidden, "hidden", 0, "")
	f.IntVar(&s.Layers, "layers", 4, "")
	f.IntVar(&s.Heads, "heads", 4, "")
	f.IntVar(&s.KVHeads, "kv-heads", 0, "")
	f.Float64Var(&s.minutes, "minutes", 0, "")
	f.IntVar(&s.Vocab, "vocab", 0, "")
	f.Float64Var(&s.EMA, "ema", 0, "")
	f.Uint64Var(&s.Seed, "seed", 1, "")
	f.IntVar(&s.Steps, "steps", 800, "")
	f.IntVar(&s.Batch, "batch", 8, "")
	f.IntVar(&s.Seq, "seq", 256, "")
	f.IntVar(&s.Accum, "accum", 1, "")
	f.Float64Var(&s.LR, "lr", 2e-3, "")
	f.Float64Var(&s.MinLR, "min-lr", 0, "")
	f.IntVar(&s.Warmup, "warmup", -1, "")
	f.Float64Var(&s.WeightDecay, "weight-decay", 0.1, "")
	f.Float64Var(&s.Clip, "clip", 1, "")
	f.IntVar(&s.EvalEvery, "eval-every", 50, "")
	f.IntVar(&s.SaveEvery, "save-every", 200, "")
	f.IntVar(&s.SampleEvery, "sample-every", 200, "")
	f.StringVar(&s.backend, "backend", "cpu", "")
	f.StringVar(&s.http, "http", "", "")
	f.BoolVar(&s.tensorboard, "tensorboard", false, "")
	f.BoolVar(&s.json, "json", false, "")
	f.BoolVar(&s.quiet, "quiet", false, "")
	f.StringVar(&s.profile, "cpuprofile", "", "")
	return f
}

// parse reads the command line and, with -resume, the settings of the run that
// goes on.
func parse(args []string, out io.Writer) (*settings, error) {
	s := new(settings)
	f := s.flags()
	if err := cli.Parse(f, args, false, help, out); err != nil {
		return nil, err
	}
	given := cli.Given(f)
	if given["resume"] {
		if err := s.load(given); err != nil {
			return nil, err
		}
	} else {
		if s.minutes != 0 {
			for _, name := range []string{"dim", "hidden", "layers", "heads", "kv-heads", "steps", "eval-every", "save-every", "sample-every"} {
				if given[name] {
					return nil, cli.Usagef("-%s: -minutes chooses that; give one of the two", name)
				}
			}
		}
		if err := s.complete(); err != nil {
			return nil, cli.UsageError(err.Error())
		}
	}
	if s.Data == "" {
		path, err := opticks()
		if err != nil {
			return nil, err
		}
		s.Data = path
	}
	var err error
	s.Data, err = filepath.Abs(s.Data)
	return s, err
}

// complete checks the settings, and fills in what 0 and -1 stand for.
func (s *settings) complete() error {
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
			return fmt.Errorf("-%s is %d, want %d to %d", n.flag, n.v, n.min, math.MaxInt32)
		}
	}
	for _, x := range []struct {
		flag string
		v    float64
	}{{"lr", s.LR}, {"min-lr", s.MinLR}, {"weight-decay", s.WeightDecay}, {"clip", s.Clip}, {"minutes", s.minutes}} {
		if !(x.v >= 0) || math.IsInf(x.v, 0) {
			return fmt.Errorf("-%s is %v, want 0 or a positive number", x.flag, x.v)
		}
	}
	if s.Vocab != 0 && (s.Vocab < 257 || s.Vocab > 1<<20) {
		return fmt.Errorf("-vocab is %d, want 257 to %d, or 0 for bytes", s.Vocab, 1<<20)
	}
	if !(s.EMA >= 0 && s.EMA < 1) {
		return fmt.Errorf("-ema is %v, want 0 or more and less than 1", s.EMA)
	}
	if s.minutes > 1e6 {
		return fmt.Errorf("-minutes is %v, want at most 1e6", s.minutes)
	}
	if s.Dim%s.Heads != 0 || s.Dim/s.Heads%2 != 0 {
		return fmt.Errorf("-dim is %d, want an even multiple of -heads %d", s.Dim, s.Heads)
	}
	if s.Batch*s.Seq > math.MaxInt32/s.Accum {
		return fmt.Errorf("-batch %d, -seq %d and -accum %d make too many tokens in a step, want at most %d",
			s.Batch, s.Seq, s.Accum, math.MaxInt32)
	}
	if s.Hidden == 0 {
		s.Hidden = hidden(s.Dim)
	}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.minutes > 0 {
		return nil // the rest when fit has chosen
	}
	if s.MinLR == 0 {
		s.MinLR = s.LR / 10
	}
	if s.Warmup < 0 {
		s.Warmup = s.Steps / 20
	}
	return nil
}

// hidden is the usual width of the feed-forward layers.
func hidden(dim int) int { return (dim*8/3 + 31) &^ 31 }

// model is the shape of the model.
func (s *settings) model(c *material) chainrule.Config {
	return chainrule.Config{
		Dim: s.Dim, HiddenDim: s.Hidden, NLayers: s.Layers, NHeads: s.Heads, NKVHeads: s.KVHeads,
		HeadDim: s.Dim / s.Heads, VocabSize: c.VocabSize(), SeqLen: s.Seq,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
}

// opticks finds Newton's Opticks in the Go distribution.
func opticks() (string, error) {
	//lint:ignore SA1019 it is right for a program that runs where it was built
	root := runtime.GOROOT()
	if b, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(b))
	}
	path := filepath.Join(root, "src", "testdata", opticksFile)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no Opticks in this Go distribution (%w); give a text of your own with -data", err)
	}
	return path, nil
}

const opticksFile = "Isaac.Newton-Opticks.txt"

// A run's directory has these files and its checkpoints.
const (
	settingsFile = "run.json"
	metricsFile  = "metrics.jsonl"
	plotFile     = "loss.png" // and loss.svg
)

// enter makes the directory of the run: -out, runs/NAME-N for the first N that
// is free, or that of -resume.
func (s *settings) enter() (err error) {
	switch {
	case s.resume != "":
	case s.out != "":
		err = os.MkdirAll(s.out, 0o777)
	default:
		name := strings.TrimSuffix(filepath.Base(s.Data), filepath.Ext(s.Data))
		if filepath.Base(s.Data) == opticksFile {
			name = "opticks"
		}
		if err = os.MkdirAll("runs", 0o777); err != nil {
			break
		}
		for i := 1; ; i++ {
			s.out = filepath.Join("runs", fmt.Sprintf("%s-%d", name, i))
			if err = os.Mkdir(s.out, 0o777); !errors.Is(err, fs.ErrExist) {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	if s.resume == "" {
		return s.wantNew()
	}
	return nil
}

// wantNew returns an error if the directory has a run already.
func (s *settings) wantNew() error {
	for _, name := range []string{settingsFile, metricsFile, plotFile, tokenizerFile} {
		path := filepath.Join(s.out, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already: go on with that run by -resume %s, or choose another -out",
				path, cli.Quote(s.out))
		}
	}
	return nil
}

// save keeps the settings for -resume.
func (s *settings) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replace(filepath.Join(s.out, settingsFile), func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
}

// replace writes a file aside, syncs it and renames it to path.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone, unless something failed
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// load takes the settings of the run that goes on. Flags beside -resume may
// only say where its text is now, what computes, and what to show.
func (s *settings) load(given map[string]bool) error {
	for name := range given {
		switch name {
		case "resume", "data", "backend", "http", "tensorboard", "json", "quiet", "cpuprofile":
		default:
			return cli.Usagef("-%s: a run goes on with its own settings; leave it out beside -resume", name)
		}
	}
	if s.resume == "" {
		return cli.Usagef("-resume is empty, want the directory of a run")
	}
	dir, text := filepath.Clean(s.resume), s.Data
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir { // a checkpoint in the run
		if parent, e := os.ReadFile(filepath.Join(filepath.Dir(dir), settingsFile)); e == nil {
			b, err, dir = parent, nil, filepath.Dir(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("%s is not a run of this program: %w", s.resume, err)
	}
	path := filepath.Join(dir, settingsFile)
	if err := json.Unmarshal(b, s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if given["data"] {
		s.Data = text
	}
	if s.Data == "" {
		return fmt.Errorf("%s has no Data", path)
	}
	if err := s.complete(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.out = dir
	return nil
}
