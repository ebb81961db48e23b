package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
// some, of which the newest whole one is taken (Damaged tells of others). If c.Model is nil, the Trainer
// makes one; otherwise its weights are overwritten. New checkpoints go to
// c.Dir, usually dir; any other must not have checkpoints yet.
//
// The run must be the same. If the model's Config, the seed, the batch, the
// schedule, the optimizer's settings, clipping or the training tokens are not
// those of the checkpoint, the error is a *MismatchError that lists them all.
// Steps, evaluation and saving may change.
func Resume(dir string, c Config) (*Trainer, error) {
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
	hyper, err := c.hyper()
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := compare(path, state, c, hyper); err != nil {
		return nil, err
	}
	if state.Step < 0 || state.Position < 0 || state.Step > c.Steps {
		return nil, fmt.Errorf("train: %s is at step %d and batch %d, want 0 to Config.Steps %d and 0 or more",
			path, state.Step, state.Position, c.Steps)
	}
	// Steps, batches and updates are counted together from the start of a run.
	if state.Position/int64(c.Accumulate) != int64(state.Step) || state.Position%int64(c.Accumulate) != 0 || state.Optimizer.Step != state.Step {
		return nil, fmt.Errorf("train: %s is of no run: step %d with batch %d and %d updates, want Accumulate %d batches and one update a step",
			path, state.Step, state.Position, state.Optimizer.Step, c.Accumulate)
	}
	allowed, room := path, 2
	if sameFile(c.Dir, dir) {
		allowed = "*"
	}
	if sameFile(c.Dir, filepath.Dir(path)) {
		room = 1 // beside this one
	}
	if err := prepareDir(c, allowed, room); err != nil {
		return nil, err
	}
	t, err := newTrainer(c, hyper, state.Optimizer)
	if err != nil {
		return nil, err
	}
	if given != nil {
		copy(given.Data, state.Model.Data)
		given.Touch()
	}
	t.step, t.position = state.Step, state.Position
	t.savedStep, t.savedPath, t.damaged = state.Step, path, state.Damaged
	return t, nil
}

// compare returns a *MismatchError unless the state is one of c's run.
func compare(path string, s *checkpoint.State, c Config, hyper json.RawMessage) error {
	saved, err := settings(s.Model.Config, s.Seed, s.Hyper)
	if err != nil {
		return fmt.Errorf("train: %s: hyperparameters: %w", path, err)
	}
	given, err := settings(c.Model.Config, c.Seed, hyper)
	if err != nil {
		return fmt.Errorf("train: %w", err)
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

// orUnset stands for a setting that only one of two versions knows.
func orUnset(v string) string {
	if v == "" {
		return "not set"
	}
	return v
}

// settings returns the values, as compact JSON, of everything that a run must
// have in common with its checkpoint.
func settings(model any, seed uint64, hyper json.RawMessage) (map[string]string, error) {
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

// free is freeBytes, but in tests.
var free = freeBytes

// prepareDir makes c.Dir and checks that files can be written there, and that
// there is room for so many checkpoints, before a step is taken that could not
// be saved. Checkpoints that are there already must be allowed: "" is none of
// them, "*" all, else the one of that path.
func prepareDir(c Config, allowed string, room int) error {
	dir := c.Dir
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("train: output directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("train: output directory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if n, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".old"), "checkpoint-"); ok && n != "" && strings.Trim(n, "0123456789") == "" &&
			allowed != "*" && !sameFile(path, allowed) {
			return fmt.Errorf("train: output directory: %s is there already: resume from it, or choose another directory: %w",
				path, fs.ErrExist)
		}
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("train: output directory: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync() // a full disk may say so only here
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("train: output directory: %w", err)
	}
	one := 12 * int64(c.Model.NumParams()) // the weights and two moments
	if n, ok := free(dir); ok && n/int64(room) < one {
		return fmt.Errorf("train: output directory: %s has room for %d bytes, want %d: a checkpoint has %d, and the old one stays until the new one is whole",
			dir, n, int64(room)*one, one)
	}
	return nil
}

func sameFile(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}
