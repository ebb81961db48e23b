package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
)

// MismatchError says how the run that a checkpoint was saved by differs from
// the one that was to go on from it.
type MismatchError struct {
	Path        string // of the checkpoint
	Differences []Difference
}

// Difference is a setting that has two values, both as JSON.
type Difference struct{ Name, Saved, Given string }

// Error lists every difference.
func (e *MismatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "train: %s is of another run:", e.Path)
	for i, d := range e.Differences {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, " %s was %s, is %s", d.Name, d.Saved, d.Given)
	}
	return b.String()
}

// Resume returns a Trainer that goes on from a checkpoint: dir is one, or has
// some, of which the newest whole one is taken (Damaged tells of others). If
// c.Model is nil, the Trainer makes one; otherwise its weights are overwritten.
// New checkpoints go to c.Dir, usually dir; any other must not have checkpoints
// yet. Errors are New's, too.
//
// The run must be the same. If the model's Config, the seed, the batch, the
// learning rates of the steps taken, the optimizer's settings, clipping, the
// average or the training data are not those of the checkpoint, the error is a
// *MismatchError that lists them all. Steps, what comes of the schedule,
// evaluation, saving and policies may change.
//
// Bits also depend on the architecture, the instruction set, the backend and
// the versions of Go and of this library. Where these differ, Warnings says so;
// with c.Exact it is a *MismatchError.
func Resume(dir string, c Config) (_ *Trainer, err error) {
	state, path, err := checkpoint.LoadState(dir)
	if err != nil {
		return nil, fmt.Errorf("train: resuming from %s: %w", dir, err)
	}
	given := c.Model
	if given == nil {
		c.Model = state.Model
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	r, err := c.readRecord(state)
	if err != nil {
		return nil, fmt.Errorf("train: %s: hyperparameters: %w", path, err)
	}
	if err := compare(path, state, c, r); err != nil {
		return nil, err
	}
	inexact := r.platformDifferences(c)
	if c.Exact && inexact != nil {
		return nil, &MismatchError{path, inexact}
	}
	if err := checkCounts(path, state, c, r); err != nil {
		return nil, err
	}
	allowed := path
	if sameFile(c.Dir, dir) {
		allowed = "*"
	}
	lock, err := prepareDir(c, allowed)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && lock != nil {
			unlock(lock)
		}
	}()
	t, err := newTrainer(c, lock)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if t.average, err = newAverage(c.EMA, c.Model); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := t.restore(state, path, r); err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	t.damaged = state.Damaged
	for _, d := range inexact {
		t.warnings = append(t.warnings, fmt.Errorf("train: %s was saved by a run on %s %s, this is %s: the bits will differ from those of an uninterrupted run",
			path, d.Name, d.Saved, d.Given))
	}
	return t, nil
}

// restore takes the state of a checkpoint.
func (t *Trainer) restore(s *checkpoint.State, path string, r record) error {
	if (s.Average != nil) != (t.average != nil) {
		return fmt.Errorf("average.safetensors is there: %v, EMA is %v", s.Average != nil, t.c.EMA)
	}
	m := t.c.Model
	if m != s.Model {
		copy(m.Data, s.Model.Data)
		m.Touch()
	}
	if t.average != nil {
		copy(t.average.model.Data, s.Average.Data)
		t.average.model.Touch()
	}
	t.adam = s.Optimizer
	t.step, t.cursor = s.Step, s.Position/int64(t.c.Accumulate)
	t.saves = saves{step: s.Step, path: path, time: time.Now()}
	t.seen, t.skipped = r.Run.Seen, slices.Clone(r.Run.Skipped)
	slices.Sort(t.skipped)
	t.recent.load(r.Run.Recent)
	t.valStep = 0
	if r.Run.ValLoss != nil {
		t.valStep, t.valLoss = s.Step, *r.Run.ValLoss
	}
	return nil
}

// readRecord returns the record of a checkpoint. Of one that has no progress,
// it is what it must have been.
func (c Config) readRecord(s *checkpoint.State) (r record, err error) {
	if err := json.Unmarshal(s.Hyper, &r); err != nil {
		return r, err
	}
	if r.Run == nil {
		r.Run = &progress{Seen: s.Position * int64(c.Batch) * int64(c.SeqLen)}
	}
	return r, nil
}

// checkCounts returns an error unless steps, batches and updates are counted
// together from the start of a run.
func checkCounts(path string, s *checkpoint.State, c Config, r record) error {
	if s.Step < 0 || s.Position < 0 || s.Step > c.Steps {
		return fmt.Errorf("train: %s is at step %d and batch %d, want 0 to Config.Steps %d and 0 or more",
			path, s.Step, s.Position, c.Steps)
	}
	cursor, passed := s.Position/int64(c.Accumulate), int64(0)
	for _, at := range r.Run.Skipped {
		if at < cursor {
			passed++
		}
	}
	if s.Position%int64(c.Accumulate) != 0 || cursor != int64(s.Step)+passed || s.Optimizer.Step != s.Step {
		return fmt.Errorf("train: %s is of no run: step %d with batch %d, %d passed over, and %d updates, want Accumulate %d batches and one update a step",
			path, s.Step, s.Position, passed, s.Optimizer.Step, c.Accumulate)
	}
	return nil
}

// compare returns a *MismatchError unless the state is one of c's run.
func compare(path string, s *checkpoint.State, c Config, r record) error {
	saved, err := values(s.Model.Config, s.Seed, s.Hyper)
	if err != nil {
		return fmt.Errorf("train: %s: hyperparameters: %w", path, err)
	}
	settings, err := c.settings()
	if err != nil {
		return err
	}
	hyper, err := json.Marshal(settings.withData(c))
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	given, err := values(c.Model.Config, c.Seed, hyper)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	delete(saved, "Run")
	if r.Run.RatesSum != "" && r.Run.RatesSum == ratesSum(c.Schedule, s.Step) {
		delete(saved, "Schedule") // it has been the same so far
		delete(given, "Schedule")
	}
	all := maps.Clone(saved)
	maps.Copy(all, given)
	var diffs []Difference
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if a, b := saved[name], given[name]; a != b {
			diffs = append(diffs, Difference{name, orUnset(a), orUnset(b)})
		}
	}
	if diffs != nil {
		return &MismatchError{path, diffs}
	}
	return nil
}

// platformDifferences returns how this process differs from that of the
// checkpoint in what bits depend on.
func (r record) platformDifferences(c Config) (diffs []Difference) {
	if r.Run.On == (platform{}) {
		return nil
	}
	was, is := reflect.ValueOf(r.Run.On), reflect.ValueOf(thisPlatform(c))
	for i := range was.NumField() {
		if a, b := was.Field(i).String(), is.Field(i).String(); a != b {
			diffs = append(diffs, Difference{was.Type().Field(i).Name, a, b})
		}
	}
	return diffs
}

// orUnset stands for a setting that only one of two versions knows.
func orUnset(v string) string {
	if v == "" {
		return "not set"
	}
	return v
}

// values returns the values, as compact JSON, of everything that a run must
// have in common with its checkpoint.
func values(model chainrule.Config, seed uint64, hyper json.RawMessage) (map[string]string, error) {
	all := map[string]string{"Seed": fmt.Sprint(seed)}
	add := func(prefix string, object []byte) error {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(object, &fields); err != nil {
			return err
		}
		for name, v := range fields {
			var b bytes.Buffer
			if err := json.Compact(&b, v); err != nil {
				return err
			}
			all[prefix+name] = b.String()
		}
		return nil
	}
	config, err := json.Marshal(model)
	if err != nil {
		return nil, err
	}
	if err := add("Model.", config); err != nil {
		return nil, err
	}
	return all, add("", hyper)
}
