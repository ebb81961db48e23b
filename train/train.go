package train

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/internal/peak"
	"github.com/chainrule-go/chainrule/internal/sysmem"
)

// Trainer is a run: its Config, the optimizer's state and the position in the
// data. It is for one goroutine, and starts none. Close it.
type Trainer struct {
	c        Config
	settings settings
	lock     *os.File // of c.Dir; nil: there is none
	source   Source
	ws       *chainrule.Workspace
	grad     *chainrule.Params
	zeroed   bool // grad, by the last AdamStep
	adam     *chainrule.AdamState
	average  *average // nil: there is none

	step    int     // steps taken
	cursor  int64   // of the data: step s takes the batches from s·Accumulate on
	skipped []int64 // cursors that are passed over, sorted
	seen    int64   // targets
	recent  recent
	bad     int // bad steps since things went well

	valStep int // the step of valLoss; 0: none
	valLoss float64

	saves    saves
	damaged  []error
	warnings []error
	peak     float64 // operations a second

	tokens, targets []int32 // of a step: [Accumulate,Batch,SeqLen]
	batches         []batch // the parts of it that the step takes
}

// New returns a Trainer at the start of a run. Beside Validate's, there is an
// error if the memory is not there; and if Dir cannot be written to, has not the
// room for its checkpoints, is another run's at this moment (ErrBusy), or holds
// some already: those of another run would be replaced.
func New(c Config) (*Trainer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	lock, err := prepareDir(c, "")
	if err != nil {
		return nil, err
	}
	t, err := newTrainer(c, lock)
	if err == nil {
		t.adam, err = chainrule.NewAdamState(c.Model.Config)
	}
	if err == nil {
		t.average, err = newAverage(c.EMA, c.Model)
	}
	if err != nil {
		if lock != nil {
			unlock(lock)
		}
		return nil, fmt.Errorf("train: %w", err)
	}
	return t, nil
}

// newTrainer makes what New and Resume share, of a valid Config with defaults.
func newTrainer(c Config, lock *os.File) (*Trainer, error) {
	s, err := c.settings()
	if err != nil {
		return nil, err
	}
	t := &Trainer{c: c, settings: s, lock: lock, source: c.Source}
	if c.Dir != "" {
		t.settings = s.withData(c)
	}
	if t.source == nil {
		if t.source, err = data.NewBatches(c.Train, c.Batch, c.SeqLen, c.Seed); err != nil {
			return nil, err
		}
	}
	if t.ws, err = chainrule.NewWorkspace(c.Model.Config, c.Batch, c.SeqLen, c.Backend); err != nil {
		return nil, err
	}
	if t.grad, err = chainrule.NewParams(c.Model.Config); err != nil {
		return nil, err
	}
	n := c.Accumulate * c.Batch * c.SeqLen
	t.tokens, t.targets, t.batches = make([]int32, n), make([]int32, n), make([]batch, c.Accumulate)
	return t, nil
}

// Close gives Dir up for others. The Trainer can take no more steps, and not
// save.
func (t *Trainer) Close() error {
	if t.lock != nil {
		unlock(t.lock)
		t.lock = nil
	}
	return nil
}

// Model returns the model that is trained.
func (t *Trainer) Model() *chainrule.Model { return t.c.Model }

// Averaged returns the model with the averaged weights, or Model if there is no
// EMA.
func (t *Trainer) Averaged() *chainrule.Model {
	if t.average == nil {
		return t.c.Model
	}
	return t.average.model
}

// Step returns the number of steps taken since the start of the run.
func (t *Trainer) Step() int { return t.step }

// Seen returns the number of targets learned from since the start of the run.
func (t *Trainer) Seen() int64 { return t.seen }

// Damaged says why Resume passed over checkpoints of later steps; usually it
// is empty.
func (t *Trainer) Damaged() []error { return t.damaged }

// Warnings says why a run that Resume goes on with may not end with the same
// bits as one that was never interrupted; usually it is empty.
func (t *Trainer) Warnings() []error { return t.warnings }

// Run takes the steps that are left, and yields each with a nil error after
// its update, evaluation and checkpoint. Between steps, the loop's body may
// call any method but Run and Close; if it leaves, another Run goes on after
// that step.
//
// An error ends the Run, as its last pair. The Step beside it tells nothing
// but the last step taken and, in Saved, the checkpoint of that step if there
// is one. The error is
//
//   - ctx's cause: the step under way was finished and, if Dir is set, saved
//     (an evaluation is given up). If that failed, the error is both's;
//   - around a *BadNumberError: nothing was updated, and nothing saved;
//   - otherwise, what the data, the backend or the schedule did (nothing was
//     updated, and what there was is saved) or the evaluation or the writing of
//     checkpoints did (after the update).
//
// The last step is evaluated, if EvalEvery is set, and saved, if Dir is.
func (t *Trainer) Run(ctx context.Context) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		if t.step == t.c.Steps {
			return
		}
		if t.saves.time.IsZero() {
			t.saves.time = time.Now()
		}
		t.peak = peak.FMA(runtime.GOMAXPROCS(0))
		t.emit(Started, t.last(), nil)
		for _, w := range slices.Concat(t.damaged, t.warnings) {
			t.emit(Warned, t.last(), w)
		}
		var err error
		if t.c.OnBad == RollBack && t.saves.path == "" && ctx.Err() == nil {
			_, err = t.Save() // there must be something to go back to
		}
		for err == nil && t.step < t.c.Steps {
			var s Step
			var news bool
			s, news, err = t.next(ctx)
			if news && !yield(s, nil) {
				t.emit(Ended, t.last(), nil)
				return
			}
		}
		t.emit(Ended, t.last(), err)
		if err != nil {
			yield(t.last(), err)
		}
	}
}

// next takes a step, and does what is due after it. news says whether there is
// something to yield, before the error.
func (t *Trainer) next(ctx context.Context) (s Step, news bool, err error) {
	if ctx.Err() != nil {
		return s, false, t.saveFor(context.Cause(ctx))
	}
	s, err = t.take()
	var bad *BadNumberError
	switch {
	case errors.As(err, &bad):
		s, err = t.handle(bad, err)
		return s, err == nil, err
	case err != nil:
		return s, false, t.saveFor(err)
	}
	t.emit(Stepped, s, nil)
	if err := t.evaluate(ctx, &s); err != nil {
		return s, true, err
	}
	t.sample(ctx, &s)
	return s, true, t.saveIfDue(ctx, &s)
}

// saveFor saves the run because of an error that ends it.
func (t *Trainer) saveFor(err error) error {
	if t.c.Dir == "" || t.step == t.saves.step {
		return err
	}
	s := t.last()
	path, failed := t.Save()
	if failed != nil {
		t.emit(SaveFailed, s, failed)
		return errors.Join(err, failed)
	}
	s.Saved = path
	t.emit(Saved, s, nil)
	return err
}

// due reports whether something is done after the step just taken: every so
// many steps, and after the last.
func (t *Trainer) due(every int) bool {
	return t.step == t.c.Steps || every > 0 && t.step%every == 0
}

// last is the Step that goes with what is not about a step.
func (t *Trainer) last() Step {
	s := Step{Step: t.step, Seen: t.seen}
	if t.saves.step == t.step {
		s.Saved = t.saves.path
	}
	return s
}

// take takes one step: the gradient of Accumulate batches, and the update.
func (t *Trainer) take() (Step, error) {
	start := time.Now()
	if err := t.c.checkRate(t.step + 1); err != nil {
		return Step{}, err
	}
	s := Step{Step: t.step + 1, LR: t.c.Schedule.At(t.step + 1)}
	for slices.Contains(t.skipped, t.cursor) {
		t.cursor++
	}
	if err := t.fill(); err != nil {
		return s, fmt.Errorf("train: step %d: %w", s.Step, err)
	}
	for _, b := range t.batches {
		for _, id := range b.targets {
			if id >= 0 {
				s.Tokens++
			}
		}
	}

	// Each loss is a sum over the batch divided by the step's number of
	// targets, so losses and gradients add up to those of one large batch.
	t.ws.LossDenom = float64(max(s.Tokens, 1))
	rms := 0.0
	if !t.zeroed {
		chainrule.ZeroGrad(t.grad)
	}
	t.zeroed = false
	for _, b := range t.batches {
		var loss float64
		err := t.ws.Resize(b.B, b.T)
		if err == nil {
			loss, err = chainrule.Forward(t.c.Model, t.ws, b.tokens, b.targets)
		}
		if err == nil {
			rms = max(rms, t.ws.ResidualRMS())
			err = chainrule.Backward(t.c.Model, t.ws, t.grad)
		}
		if err != nil {
			return s, fmt.Errorf("train: step %d: %w", s.Step, err)
		}
		s.Loss += loss
	}
	if err := t.ws.Resize(t.c.Batch, t.c.SeqLen); err != nil { // evaluations take it as it is
		return s, fmt.Errorf("train: step %d: %w", s.Step, err)
	}
	s.GradNorm = chainrule.GradNorm(t.grad)
	if err := t.check(s, rms); err != nil {
		if weight := badValue(s.Step, "weight ", t.c.Model.Params, implausible, false); weight != nil { // as it was loaded
			err = fmt.Errorf("%w; %w", err, weight)
		}
		return s, fmt.Errorf("train: nothing was updated: %w", err)
	}

	adam := t.c.Adam
	adam.LR = s.LR
	if t.c.ClipNorm > 0 && s.GradNorm > t.c.ClipNorm {
		adam.GradScale = t.c.ClipNorm / s.GradNorm
	}
	wanted := t.c.NormsEvery > 0 && (s.Step%t.c.NormsEvery == 0 || s.Step == t.c.Steps)
	adam.ZeroGrad = !wanted
	chainrule.AdamStep(t.c.Model, t.grad, t.adam, adam)
	t.zeroed = adam.ZeroGrad
	t.step++
	t.cursor++
	t.seen += int64(s.Tokens)
	t.recent.add(s)
	if t.average != nil {
		t.average.add(t.step, t.c.Model)
	}
	if t.c.OnBad == Skip {
		t.bad = 0
	}
	s.Duration = time.Since(start)
	s.Seen = t.seen
	for _, b := range t.batches {
		s.MFU += operations(t.c.Model.Config, b.B, b.T) / s.Duration.Seconds() / t.peak
	}
	s.PeakMemory, _ = sysmem.Peak()
	if wanted {
		s.Norms = norms(t.c.Model, t.grad)
	}
	return s, nil
}

// batch is [B,T] tokens and targets.
type batch struct {
	B, T            int
	tokens, targets []int32
}

// fill reads the batches of the step at cursor, and trims them to what the
// gradient depends on.
func (t *Trainer) fill() error {
	size := t.c.Batch * t.c.SeqLen
	for i := range t.batches {
		k := int(t.cursor)*t.c.Accumulate + i
		b := batch{tokens: t.tokens[i*size:][:size], targets: t.targets[i*size:][:size]}
		if err := t.source.Fill(k, b.tokens, b.targets); err != nil {
			return fmt.Errorf("batch %d: %w", k, err)
		}
		b.B, b.T = data.Trim(b.tokens, b.targets, t.c.Batch, t.c.SeqLen)
		b.tokens, b.targets = b.tokens[:b.B*b.T], b.targets[:b.B*b.T]
		t.batches[i] = b
	}
	return nil
}

// handle does what OnBad says about a step that failed with err, around bad.
func (t *Trainer) handle(bad *BadNumberError, err error) (Step, error) {
	s := Step{Step: bad.Step, Seen: t.seen, Bad: err}
	if t.c.OnBad == Stop {
		return s, err
	}
	if t.bad++; t.bad > maxBad {
		return s, fmt.Errorf("%w; it is the %d. of the kind, and no more are passed over", err, t.bad)
	}
	t.skip(t.cursor)
	t.emit(Skipped, s, err)
	if t.c.OnBad == Skip {
		return s, nil
	}
	if failed := t.rollBack(); failed != nil {
		return s, fmt.Errorf("%w; going back to the last checkpoint failed: %w", err, failed)
	}
	s = t.last()
	s.Bad = err
	t.emit(RolledBack, s, err)
	return s, nil
}

// skip passes over the batches at cursor from now on.
func (t *Trainer) skip(cursor int64) {
	if i, found := slices.BinarySearch(t.skipped, cursor); !found {
		t.skipped = slices.Insert(t.skipped, i, cursor)
	}
}
