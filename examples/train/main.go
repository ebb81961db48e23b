// Train trains a Llama on a text, and shows how it learns.
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
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/internal/sysmem"
	"github.com/chainrule-go/chainrule/tokenizer"
	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/metrics"
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

	c, err := readCorpus(s)
	if err != nil {
		return err
	}
	be, err := cli.Backend(s.backend, os.Stderr)
	if err != nil {
		return err
	}
	defer be.Close()
	screen := out
	if s.json {
		screen, s.quiet = os.Stderr, true
	}
	show := newDisplay(screen, s.quiet, c)
	watch := &watchers{each: []func(train.Event){show.event}}
	defer watch.Close()
	show.printf("%s: %d bytes to learn from, %d held out\n", s.Data, c.split, len(c.text)-c.split)
	if s.Vocab > 0 {
		show.printf("a BPE of %d tokens, %.2f bytes each\n", c.VocabSize(), float64(c.split)/float64(len(c.train)))
	}
	if s.minutes > 0 {
		if err := s.fit(ctx, c, be); err != nil {
			return err
		}
	}

	cfg := train.Config{
		Backend: be, Train: c.train, Val: c.val,
		Batch: s.Batch, SeqLen: s.Seq, Accumulate: s.Accum, Steps: s.Steps, Seed: s.Seed,
		Schedule: train.WarmupCosine{LR: s.LR, MinLR: s.MinLR, Warmup: s.Warmup, Steps: s.Steps},
		Adam:     chainrule.Adam{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: s.WeightDecay},
		ClipNorm: s.Clip, EMA: s.EMA, OnBad: train.RollBack,
		// Half a window of context for every token, not none for the first ones.
		EvalEvery: s.EvalEvery, EvalTokens: c.evalTokens(s.Seq), EvalStride: max(1, s.Seq/2),
		Dir: s.out, SaveEvery: s.SaveEvery, KeepBest: true, SaveRetries: 4, SaveRetryDelay: retryDelay,
		OnEvent: watch.event, NormsEvery: normsEvery,
	}
	taken, _ := sysmem.Peak() // by the trials of -minutes
	shape := s.model(c)
	need, err := train.NewEstimate(cfg, shape)
	if err != nil {
		return cli.UsageError(strings.TrimPrefix(err.Error(), "train: "))
	}
	memory := max(need.Memory+int64(len(c.text))+int64(c.split)+ending, taken) // the text, and a part of it to compress
	show.printf("Llama of %s parameters: %d layers of width %d, %d heads, context %d %s\n",
		cli.Count(shape.NumParams()), shape.NLayers, shape.Dim, shape.NHeads, shape.SeqLen, c.unit())
	show.printf("%d steps of %d %s on %d cores, %s of memory, %s on disk",
		s.Steps, s.Batch*s.Seq*s.Accum, c.unit(), runtime.GOMAXPROCS(0), cli.Bytes(memory), cli.Bytes(need.Checkpoints))
	if err := cli.CheckMemory(memory); err != nil {
		show.printf("\n")
		return err
	}
	if err := s.enter(); err != nil {
		show.printf("\n")
		return err
	}
	cfg.Dir = s.out
	show.printf(", into %s\n", s.out)
	if err := watch.serve(s, show); err != nil {
		return err
	}

	if cfg.Model, err = chainrule.NewModel(shape); err != nil {
		return err
	}
	cfg.Model.Init(s.Seed)
	w := &writer{c, be, s.Seed}
	if s.SampleEvery > 0 && !s.quiet {
		cfg.SampleEvery = s.SampleEvery
		cfg.Sample = func(ctx context.Context, m *chainrule.Model) (string, error) { return w.write(ctx, m, 160) }
	}
	t, err := s.trainer(cfg, c)
	if err != nil {
		return err
	}
	defer t.Close()
	for _, damage := range t.Damaged() {
		show.printf("passed over a damaged checkpoint: %v\n", damage)
	}
	if err := watch.open(s, c, shape, out); err != nil {
		return err
	}

	show.start(t.Step(), s.Steps)
	for step, err := range t.Run(ctx) {
		if err != nil {
			show.stop()
			return s.ended(show, t.Step(), err)
		}
		show.step(step)
	}
	show.stop()
	if err := finish(ctx, show, s, t, c, w); err != nil {
		return s.ended(show, t.Step(), err)
	}
	if err := watch.Close(); err != nil {
		return err
	}
	if peak, ok := sysmem.Peak(); ok {
		show.printf("\n%s of memory were taken at most, %s had been expected\n", cli.Bytes(peak), cli.Bytes(memory))
	}
	return nil
}

// ending is the memory that measuring, compressing and drawing at the end take.
const ending = 17 << 20

// writer lets a model write.
type writer struct {
	c    *material
	be   backend.Backend
	seed uint64
}

// write returns a prompt and n tokens more.
func (w *writer) write(ctx context.Context, m *chainrule.Model, n int) (string, error) {
	prompt := w.c.Encode("The ")
	stream, b := tokenizer.NewStream(w.c), strings.Builder{}
	b.WriteString(w.c.Decode(prompt))
	o := chainrule.SamplerOptions{Temperature: 0.7, Seed: w.seed}
	for token, err := range cli.Text(ctx, m, w.be, prompt, n, o) {
		if err != nil {
			return "", err
		}
		b.WriteString(stream.Put(token))
	}
	b.WriteString(stream.Flush())
	return cli.Printable(b.String()), nil
}

// retryDelay is how long the first wait for a disk is; tests have less time.
var retryDelay = 2 * time.Second

// trainer begins the run, or goes on with it; one that was killed before its
// first checkpoint begins anew.
func (s *settings) trainer(c train.Config, text *material) (*train.Trainer, error) {
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
		err = text.save(s.out)
	}
	if err == nil {
		err = s.save()
	}
	if err == nil {
		_, err = t.Save() // a disk that has no room for it says so now
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// finish measures on all of the held-out text, and says what came out.
func finish(ctx context.Context, show *display, s *settings, t *train.Trainer, c *material, w *writer) error {
	show.printf("\nmeasuring on all %d held-out bytes …\n", len(c.text)-c.split)
	loss, _, err := t.Eval(ctx, c.val)
	if err != nil {
		return err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("after step %d, the loss on the held-out text is %v", t.Step(), loss)
	}
	ours := c.bits(loss)
	marks := compressors(ctx, c.text, c.split)
	show.resultf("\nbits for a byte of the held-out text, which none of them had seen:\n\n")
	show.resultf("  %-10s %.3f\n", "this model", ours)
	for _, m := range marks {
		show.resultf("  %-10s %.3f\n", m.name, m.bits)
	}
	story, err := w.write(ctx, t.Averaged(), 400)
	if err != nil {
		return err
	}
	show.resultf("\nThe model writes:\n\n%s\n", indent(story))
	run, err := metrics.ReadFile(filepath.Join(s.out, metricsFile))
	if err != nil {
		return err
	}
	png := filepath.Join(s.out, plotFile)
	if err := plotLoss(strings.TrimSuffix(png, ".png"), s, c, metrics.Current(run), ours, marks); err != nil {
		return fmt.Errorf("drawing the loss: %w", err)
	}
	path, _ := newest(s.out)
	show.resultf("\nloss curve  %s\nmodel       %s (a directory that transformers loads, too)\n", png, path)
	if best, err := train.Best(s.out); err == nil && best.Path != path {
		loss, _ := train.ValLoss(best)
		show.resultf("best        %s (%.3f bits a byte while it ran)\n", best.Path, c.bits(loss))
	}
	dir := cli.Quote(s.out)
	show.resultf("more text   %s %s \"The \"\nmeasure     %s -resume %s\nlook at it  %s %s\nexport      %s %s %s\n",
		cli.Sibling("generate"), dir, cli.Command(), dir, cli.Sibling("dashboard"), cli.Quote(filepath.Dir(s.out)), cli.Sibling("export"), dir, cli.Quote(filepath.Join(s.out, "model.gguf")))
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
