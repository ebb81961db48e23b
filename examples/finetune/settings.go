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
	"path/filepath"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Fine-tune a model on examples of how it should answer.

  go run ./examples/finetune MODEL DATA.jsonl
  go run ./examples/finetune -show MODEL DATA.jsonl   what is learned, in colour
  go run ./examples/finetune -resume runs/NAME-1       go on with a run
  go run ./examples/finetune -demo go.jsonl            make a data set to try

MODEL is a Hugging Face model directory, a GGUF file, or another model that
examples/eval takes. A line of DATA is a conversation, a prompt and how it goes
on, or a text:

  {"messages": [{"role": "user", "content": "…"},
                {"role": "assistant", "content": "…"}]}    in one line
  {"prompt": "…", "completion": "…"}
  {"text": "…"}

Only the assistant's answers and the completions are learned, with the token
that ends them; of a text, all of it. Ctrl-C finishes the step, saves, and says
how to go on; a second one leaves at once.

Where
  -out DIR          where everything goes (runs/NAME-N, a new one)
  -resume DIR       go on with the run in DIR, with its settings; only MODEL and
                    DATA, where they are now, -gguf, -backend and -quiet go
                    with it
  -gguf             write DIR/model.gguf, too, and a Modelfile for Ollama beside
                    it; -gguf=TYPE: f32, f16 (that of -gguf alone), bf16, q8_0
  -dtype TYPE       of the weights in DIR/model: f32, bf16 or f16 (f32)
  -demo FILE        write questions and answers from the documentation of Go's
                    standard library, and leave
  -show             print the first batch with what is learned in colour, or, in
                    a pipe, in brackets, and leave
  -trace FILE       write the batches and losses of all steps as lines of JSON

Training
  -epochs N         times that every example is learned from (1)
  -steps N          steps to take, whatever -epochs says; 0: -epochs decides (0)
  -lr RATE          highest learning rate of AdamW; it falls to a tenth (2e-05)
  -warmup N         steps to the highest rate; -1: a twentieth of them all (-1)
  -batch N          examples in a batch, each in its row (4)
  -accumulate N     batches in a step, of which every token weighs the same (1)
  -max-len N        most tokens of an example: longer answers are cut there,
                    longer texts become several examples; 0: 1024, or the
                    model's (0)
  -weight-decay X   of matrices (0)
  -clip NORM        largest norm of the gradient; 0: not clipped (1)
  -seed N           of the order of the data, and of what is held out (1)

Watching
  -held-out X       fraction of the lines to measure on (0.1)
  -val FILE         lines to measure on, in place of -held-out
  -eval-every N     steps from one measurement to the next; 0: only before and
                    after (50)
  -save-every N     steps from one checkpoint to the next; 0: only when
                    interrupted (0)
  -prompt TEXT      what the model is asked before and after; without it, the
                    first held-out prompt
  -quiet            only the result
` + cli.BackendHelp

// settings are what a run is made of; -resume finds them in run.json.
type settings struct {
	Model, Data, Val         string
	DType                    string
	Epochs, Steps            int
	LR                       float64
	Warmup                   int
	Batch, Accumulate        int
	MaxLen                   int
	WeightDecay, Clip        float64
	Seed                     uint64
	HeldOut                  float64
	EvalEvery, SaveEvery     int
	Prompt                   string
	GGUF                     ggufType
	out, resume, demo, trace string
	backend                  string
	show, quiet              bool
}

func (s *settings) flags() *flag.FlagSet {
	f := flag.NewFlagSet("finetune", flag.ContinueOnError)
	f.StringVar(&s.out, "out", "", "")
	f.StringVar(&s.resume, "resume", "", "")
	f.Var(&s.GGUF, "gguf", "")
	f.StringVar(&s.DType, "dtype", "f32", "")
	f.StringVar(&s.demo, "demo", "", "")
	f.BoolVar(&s.show, "show", false, "")
	f.StringVar(&s.trace, "trace", "", "")
	f.IntVar(&s.Epochs, "epochs", 1, "")
	f.IntVar(&s.Steps, "steps", 0, "")
	f.Float64Var(&s.LR, "lr", 2e-5, "")
	f.IntVar(&s.Warmup, "warmup", -1, "")
	f.IntVar(&s.Batch, "batch", 4, "")
	f.IntVar(&s.Accumulate, "accumulate", 1, "")
	f.IntVar(&s.MaxLen, "max-len", 0, "")
	f.Float64Var(&s.WeightDecay, "weight-decay", 0, "")
	f.Float64Var(&s.Clip, "clip", 1, "")
	f.Uint64Var(&s.Seed, "seed", 1, "")
	f.Float64Var(&s.HeldOut, "held-out", 0.1, "")
	f.StringVar(&s.Val, "val", "", "")
	f.IntVar(&s.EvalEvery, "eval-every", 50, "")
	f.IntVar(&s.SaveEvery, "save-every", 0, "")
	f.StringVar(&s.Prompt, "prompt", "", "")
	f.BoolVar(&s.quiet, "quiet", false, "")
	f.StringVar(&s.backend, "backend", "cpu", "")
	return f
}

// ggufType is the value of -gguf, which need not have one.
type ggufType string

var ggufTypes = []string{"f32", "f16", "bf16", "q8_0"}

func (t *ggufType) String() string   { return string(*t) }
func (t *ggufType) IsBoolFlag() bool { return true }

func (t *ggufType) Set(v string) error {
	switch {
	case v == "true":
		v = "f16"
	case v == "false":
		v = ""
	case !slices.Contains(ggufTypes, v):
		return fmt.Errorf("want one of %s, as in -gguf=q8_0", strings.Join(ggufTypes, ", "))
	}
	*t = ggufType(v)
	return nil
}

// parse reads the command line and, with -resume, the settings of the run that
// goes on.
func parse(args []string, out io.Writer) (*settings, error) {
	s := new(settings)
	f := s.flags()
	arguments, err := cli.ParseArguments(f, args, help, out, "MODEL", "DATA.jsonl")
	given := cli.Given(f)
	alone := errors.Is(err, cli.ErrTooFew) && len(arguments) == 0 && (given["resume"] || given["demo"])
	if err != nil && !alone {
		return nil, err
	}
	if given["demo"] {
		if len(arguments) > 0 || len(given) > 1 {
			return nil, cli.Usagef("-demo FILE goes with nothing else")
		}
		return s, nil
	}
	if given["resume"] {
		err = s.load(given)
	} else if err = s.complete(); err != nil {
		err = cli.UsageError(err.Error())
	}
	if err != nil {
		return nil, err
	}
	if len(arguments) == 2 {
		s.Model, s.Data = arguments[0], arguments[1]
	}
	for _, path := range []*string{&s.Model, &s.Data, &s.Val} {
		if *path != "" && err == nil {
			*path, err = filepath.Abs(*path)
		}
	}
	return s, err
}

// complete checks the settings.
func (s *settings) complete() error {
	for _, n := range []struct {
		flag string
		v    int
		min  int
	}{
		{"epochs", s.Epochs, 1}, {"steps", s.Steps, 0}, {"warmup", s.Warmup, -1}, {"batch", s.Batch, 1},
		{"accumulate", s.Accumulate, 1}, {"max-len", s.MaxLen, 0}, {"eval-every", s.EvalEvery, 0}, {"save-every", s.SaveEvery, 0},
	} {
		if n.v < n.min || n.v > math.MaxInt32 {
			return fmt.Errorf("-%s is %d, want %d to %d", n.flag, n.v, n.min, math.MaxInt32)
		}
	}
	for _, x := range []struct {
		flag string
		v    float64
	}{{"lr", s.LR}, {"weight-decay", s.WeightDecay}, {"clip", s.Clip}} {
		if !(x.v >= 0) || math.IsInf(x.v, 0) {
			return fmt.Errorf("-%s is %v, want 0 or a positive number", x.flag, x.v)
		}
	}
	if !(s.HeldOut >= 0 && s.HeldOut < 1) {
		return fmt.Errorf("-held-out is %v, want 0 or more, and less than 1", s.HeldOut)
	}
	if !slices.Contains([]string{"f32", "bf16", "f16"}, s.DType) {
		return fmt.Errorf("-dtype is %q, want f32, bf16 or f16", s.DType)
	}
	return nil
}

// A run's directory has these files, its checkpoint if it was interrupted, and
// the model when it is done.
const (
	settingsFile = "run.json"
	metricsFile  = "metrics.jsonl"
	modelDir     = "model"
	ggufFile     = "model.gguf"
	ollamaFile   = "Modelfile"
)

// enter makes the directory of a new run: -out, which must have no run yet, or
// runs/NAME-N for the first N that is free.
func (s *settings) enter() (err error) {
	switch {
	case s.resume != "":
		return nil
	case s.out != "":
		err = os.MkdirAll(s.out, 0o777)
	default:
		name := strings.TrimSuffix(filepath.Base(s.Data), filepath.Ext(s.Data))
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
	for _, name := range []string{settingsFile, metricsFile, modelDir, ggufFile, ollamaFile} {
		path := filepath.Join(s.out, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already: go on with that run by -resume %s, or choose another -out", path, cli.Quote(s.out))
		}
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replace(filepath.Join(s.out, settingsFile), append(b, '\n'))
}

// replace writes a file aside and renames it.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// load takes the settings of the run that goes on.
func (s *settings) load(given map[string]bool) error {
	for name := range given {
		switch name {
		case "resume", "gguf", "backend", "quiet":
		default:
			return cli.Usagef("-%s: a run goes on with its own settings; leave it out beside -resume", name)
		}
	}
	if s.resume == "" {
		return cli.Usagef("-resume is empty, want the directory of a run")
	}
	s.out = filepath.Clean(s.resume)
	path, gguf := filepath.Join(s.out, settingsFile), s.GGUF
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s is not a run of this program: %w", s.resume, err)
	}
	if err := json.Unmarshal(b, s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if given["gguf"] {
		s.GGUF = gguf
	}
	if s.Model == "" || s.Data == "" {
		return fmt.Errorf("%s names no Model or no Data", path)
	}
	if err := s.complete(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	model := filepath.Join(s.out, modelDir)
	if left, err := checkpoint.States(s.out); err == nil && len(left) == 0 {
		if _, err := os.Stat(model); err == nil {
			return fmt.Errorf("this run is done, and its model is %s: to go on from there, fine-tune that", model)
		}
	}
	return nil
}
