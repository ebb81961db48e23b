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
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
	"github.com/chainrule-go/chainrule/train"
)

func main() {
	cli.Main("train", run)
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
	if err != nil && s.resume != "" {
		err = fmt.Errorf("%w (if the text of this run has moved, say where with -data)", err)
	}
	if err != nil {
		return err
	}
	tok := tokenizer.Byte{}
	trainTokens, valTokens := data.Split(tok.Encode(string(text)), min(0.1, mostHeldOut/float64(len(text))))
	split := len(trainTokens)
	if split <= s.Seq || len(valTokens) < 2 {
		return fmt.Errorf("%s has %d bytes to learn from and %d held out, want at least %d (-seq and one more) and 2",
			s.Data, split, len(valTokens), s.Seq+1)
	}

	c := chainrule.Config{
		Dim: s.Dim, HiddenDim: s.Hidden, NLayers: s.Layers, NHeads: s.Heads, NKVHeads: s.KVHeads,
		HeadDim: s.Dim / s.Heads, VocabSize: tok.VocabSize(), SeqLen: s.Seq,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
	memory, err := chainrule.WorkspaceBytes(c, s.Batch, s.Seq)
	if err != nil {
		return cli.UsageError(err.Error())
	}
	memory += 16*int64(c.NumParams()) + 5*int64(len(text)) + 8*int64(s.Batch*s.Seq*s.Accum)
	show := newDisplay(out, s.quiet)
	show.printf("%s: %d bytes to learn from, %d held out\n", s.Data, split, len(valTokens))
	show.printf("Llama of %s parameters: %d layers of width %d, %d heads, context %d bytes\n",
		cli.Count(c.NumParams()), c.NLayers, c.Dim, c.NHeads, c.SeqLen)
	show.printf("%d steps of %d bytes on %d cores, %s of memory",
		s.Steps, s.Batch*s.Seq*s.Accum, runtime.GOMAXPROCS(0), cli.Bytes(memory))
	if err := cli.CheckMemory(memory); err != nil {
		show.printf("\n")
		return err
	}
	if err := s.enter(); err != nil {
		show.printf("\n")
		return err
	}
	show.printf(", into %s\n", s.out)

	be, err := cli.Backend(s.backend, os.Stderr)
	if err != nil {
		return err
	}
	defer be.Close()
	m, err := chainrule.NewModel(c)
	if err != nil {
		return err
	}
	m.Init(s.Seed)
	t, err := s.trainer(train.Config{
		Model: m, Backend: be, Train: trainTokens, Val: valTokens,
		Batch: s.Batch, SeqLen: s.Seq, Accumulate: s.Accum, Steps: s.Steps, Seed: s.Seed,
		Schedule: train.WarmupCosine{LR: s.LR, MinLR: s.MinLR, Warmup: s.Warmup, Steps: s.Steps},
		Adam:     chainrule.Adam{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: s.WeightDecay},
		ClipNorm: s.Clip, Dir: s.out, SaveEvery: s.SaveEvery, SaveRetries: 4, SaveRetryDelay: retryDelay,
		// During the run a tenth of the held-out text is enough; the end has all.
		EvalEvery: s.EvalEvery, EvalTokens: min(max(len(valTokens)/10, min(len(valTokens), 4*s.Seq)), 32<<10),
		// Half a window of context for every byte, not none for the first ones.
		EvalStride: max(1, s.Seq/2),
	})
	if err != nil {
		return err
	}
	defer t.Close()
	for _, damage := range t.Damaged() {
		show.printf("passed over a damaged checkpoint: %v\n", damage)
	}
	h, err := openHistory(filepath.Join(s.out, metricsFile), t.Step())
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
		return cli.Printable(b.String()), nil
	}

	show.start(t.Step(), s.Steps)
	for step, err := range t.Run(ctx) {
		if err == nil {
			err = h.add(step)
		}
		if err != nil {
			show.stop()
			return s.ended(show, t.Step(), err)
		}
		show.step(step)
		if s.SampleEvery > 0 && step.Step%s.SampleEvery == 0 && step.Step < s.Steps && !s.quiet {
			if text, err := sample(160); err == nil { // stopped or not finite: the run itself says so
				show.sample(text)
			}
		}
	}
	show.stop()
	if err := finish(ctx, show, s, t, h, text, split, sample); err != nil {
		return s.ended(show, t.Step(), err)
	}
	return nil
}

// retryDelay is how long the first wait for a disk is; tests have less time.
var retryDelay = 2 * time.Second

// mostHeldOut bounds, in bytes, what is measured at the end.
const mostHeldOut = 1 << 20

// trainer begins the run, or goes on with it; one that was killed before its
// first checkpoint begins anew.
func (s *settings) trainer(c train.Config) (*train.Trainer, error) {
	if s.resume != "" {
		t, err := train.Resume(s.resume, c)
		if !errors.Is(err, fs.ErrNotExist) || s.resume != s.out {
			return t, err
		}
	}
	t, err := train.New(c)
	if err != nil {
		return nil, err
	}
	if s.resume == "" {
		err = s.wantNew() // again: the directory is this run's now
	}
	if err == nil {
		err = s.save()
	}
	if err == nil {
		_, err = t.Save() // a disk that has no room for it says so now
	}
	if err != nil {
		t.Close()
	}
	return t, err
}

// finish measures on all of the held-out text, and says what came out.
func finish(ctx context.Context, show *display, s *settings, t *train.Trainer, h *history,
	text []byte, split int, sample func(int) (string, error)) error {
	show.printf("\nmeasuring on all %d held-out bytes …\n", len(text)-split)
	loss, _, err := t.Eval(ctx, tokenizer.Byte{}.Encode(string(text[split:])))
	if err != nil {
		return err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("after step %d, the loss on the held-out text is %v", t.Step(), loss)
	}
	ours := loss / math.Ln2
	marks := compressors(ctx, text, split)
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
	png := filepath.Join(s.out, plotFile)
	if err := plotLoss(png, s, h.rows, ours, marks); err != nil {
		return fmt.Errorf("drawing the loss: %w", err)
	}
	path, _ := newest(s.out)
	show.resultf("\nloss curve  %s\nmodel       %s (a directory that transformers loads, too)\nmore text   %s %s \"The \"\n",
		png, path, cli.Sibling("generate"), cli.Quote(s.out))
	return nil
}

// ended says how a run that did not reach its end can go on. It returns err,
// or only its Stopped if nothing was lost.
func (s *settings) ended(show *display, taken int, err error) error {
	path, step := newest(s.out)
	var stopped cli.Stopped
	switch {
	case !errors.As(err, &stopped) || step != taken:
		if path != "" {
			err = fmt.Errorf("%w\nthe last good checkpoint, of step %d, is %s", err, step, path)
		}
		return err
	case taken == 0:
		show.resultf("\nStopped before the first step. To begin:\n")
	default:
		show.resultf("\nStopped after step %d, saved in %s. To go on:\n", taken, path)
	}
	show.resultf("\n  %s -resume %s\n", cli.Command(), cli.Quote(s.out))
	return stopped
}

// newest returns the last checkpoint of a run, and its step.
func newest(dir string) (path string, step int) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "checkpoint-")
		if n, err := strconv.Atoi(digits); ok && err == nil && n >= step {
			path, step = filepath.Join(dir, e.Name()), n
		}
	}
	return path, step
}
