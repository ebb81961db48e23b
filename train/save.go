package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chainrule-go/chainrule/checkpoint"
)

// saves is what a Trainer knows of its checkpoints.
type saves struct {
	step int    // of the last one; 0 at the start of a run, which needs none
	path string // of it
	time time.Time

	failed int       // attempts in a row
	retry  time.Time // when the next one is due, if failed > 0
}

// saveIfDue saves after a step, and again if it failed before. It is an error
// if that is hopeless.
func (t *Trainer) saveIfDue(ctx context.Context, s *Step) error {
	last := t.step == t.c.Steps
	due := t.due(t.c.SaveEvery) || t.c.SaveTime > 0 && time.Since(t.saves.time) >= t.c.SaveTime
	if t.saves.failed > 0 && !last { // a failed one is tried when its time has come
		due = !time.Now().Before(t.saves.retry)
	}
	if t.c.Dir == "" || !due {
		return nil
	}
	for {
		path, err := t.Save()
		if path != "" {
			s.Saved = path
			t.emit(Saved, *s, nil)
			if err != nil {
				t.emit(Warned, *s, err) // it was tidying up, which the next save does again
			}
			return nil
		}
		t.emit(SaveFailed, *s, err)
		var bad *BadNumberError
		if errors.As(err, &bad) {
			return t.handleState(s, bad, err)
		}
		if t.saves.failed++; t.saves.failed > t.c.SaveRetries {
			t.saves.failed = 0
			return err
		}
		delay := t.c.SaveRetryDelay << (t.saves.failed - 1)
		t.saves.retry = time.Now().Add(delay)
		if !last {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(delay):
		}
	}
}

// handleState does what OnBad says about weights or moments that are bad.
// There is no batch to blame, so none is skipped.
func (t *Trainer) handleState(s *Step, bad *BadNumberError, err error) error {
	if t.c.OnBad != RollBack {
		return err
	}
	if t.bad++; t.bad > maxBad {
		return fmt.Errorf("%w; it is the %d. of the kind, and the run does not go back once more", err, t.bad)
	}
	if failed := t.rollBack(); failed != nil {
		return fmt.Errorf("%w; going back to the last checkpoint failed: %w", err, failed)
	}
	*s = t.last()
	s.Bad = err
	t.emit(RolledBack, *s, err)
	return nil
}

// Save writes a checkpoint of the run as it is and returns its path. Weights
// and moments that are bad are not saved: the error is around a
// *BadNumberError. Whatever fails, the checkpoint before it stays. A path with
// an error is a checkpoint that was saved before tidying up failed.
func (t *Trainer) Save() (path string, err error) {
	switch {
	case t.c.Dir == "":
		return "", errors.New("train: Config.Dir is empty: there is nowhere to save to")
	case t.lock == nil:
		return "", errors.New("train: the Trainer was closed: its directory may be another's")
	}
	if err := t.checkState(); err != nil {
		return "", fmt.Errorf("train: not saved: %w", err)
	}
	hyper, err := t.record()
	if err != nil {
		return "", fmt.Errorf("train: saving after step %d: %w", t.step, err)
	}
	state := &checkpoint.State{
		Model: t.c.Model, Optimizer: t.adam,
		Step: t.step, Seed: t.c.Seed, Position: t.cursor * int64(t.c.Accumulate),
		Hyper: hyper,
	}
	if t.average != nil {
		state.Average = t.average.model.Params
	}
	path, err = checkpoint.SaveState(t.c.Dir, state, t.keep()...)
	if path != "" {
		t.saves = saves{step: t.step, path: path, time: time.Now()}
		t.bad = 0
	}
	if err != nil {
		err = fmt.Errorf("train: saving after step %d: %w", t.step, err)
	}
	return path, err
}

// keep returns the steps whose checkpoints stay beside that of this step.
func (t *Trainer) keep() (steps []int) {
	there, err := checkpoint.States(t.c.Dir)
	if err != nil {
		return nil
	}
	var others []checkpoint.Info
	for _, i := range there {
		if i.Step < t.step {
			others = append(others, i)
		}
	}
	for i := range min(t.c.Keep-1, len(others)) {
		steps = append(steps, others[len(others)-1-i].Step)
	}
	if !t.c.KeepBest {
		return steps
	}
	best, least := -1, math.Inf(1)
	for _, i := range others {
		if loss, ok := ValLoss(i); ok && loss < least {
			best, least = i.Step, loss
		}
	}
	if best >= 0 && !(t.valStep == t.step && t.valLoss < least) {
		steps = append(steps, best)
	}
	return steps
}

// ValLoss returns the validation loss of a checkpoint, in nats a token, if its
// step was evaluated.
func ValLoss(i checkpoint.Info) (loss float64, ok bool) {
	var r record
	if json.Unmarshal(i.Hyper, &r) != nil || r.Run == nil || r.Run.ValLoss == nil {
		return 0, false
	}
	return *r.Run.ValLoss, true
}

// Best returns the checkpoint in dir with the least validation loss, the
// earliest of equals. Without one that was evaluated, it is fs.ErrNotExist.
func Best(dir string) (checkpoint.Info, error) {
	there, err := checkpoint.States(dir)
	if err != nil {
		return checkpoint.Info{}, fmt.Errorf("train: %w", err)
	}
	best, least := -1, math.Inf(1)
	for n, i := range there {
		if loss, ok := ValLoss(i); ok && loss < least {
			best, least = n, loss
		}
	}
	if best < 0 {
		return checkpoint.Info{}, fmt.Errorf("train: %s has no checkpoint that was evaluated: %w", dir, fs.ErrNotExist)
	}
	return there[best], nil
}

// prepareDir makes c.Dir and takes it for this run, sweeps what killed saves
// left, and checks that files can be written there, and that there is room,
// before a step is taken that could not be saved. Checkpoints that are there
// already must be allowed: "" is none of them, "*" all, else the one of that
// path. Without a Dir, there is no lock to return.
func prepareDir(c Config, allowed string) (*os.File, error) {
	if c.Dir == "" {
		return nil, checkRoom(c, 0)
	}
	if err := os.MkdirAll(c.Dir, 0o777); err != nil {
		return nil, fmt.Errorf("train: output directory: %w", err)
	}
	f, err := lock(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("train: output directory: %w", err)
	}
	there, err := checkDir(c.Dir, allowed)
	if err != nil {
		err = fmt.Errorf("train: output directory: %w", err)
	} else {
		err = checkRoom(c, there)
	}
	if err != nil {
		unlock(f)
		return nil, err
	}
	return f, nil
}

// checkDir is prepareDir behind the lock. It returns the number of checkpoints.
func checkDir(dir, allowed string) (checkpoints int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		n, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".old"), "checkpoint-")
		if !ok || n == "" || strings.Trim(n, "0123456789") != "" {
			continue
		}
		if allowed != "*" && !sameFile(path, allowed) {
			return 0, fmt.Errorf("%s is there already: resume from it, or choose another directory: %w", path, fs.ErrExist)
		}
		checkpoints++
	}
	if err := checkpoint.SweepStates(dir); err != nil {
		return 0, err
	}
	// Named like what a killed save leaves, so that it is swept like that.
	f, err := os.CreateTemp(dir, ".tmp-checkpoint-writable-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync() // a full disk may say so only here
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return checkpoints, err
}

func sameFile(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// rollBack goes back to the last whole checkpoint.
func (t *Trainer) rollBack() error {
	state, path, err := checkpoint.LoadState(t.c.Dir)
	if err != nil {
		return err
	}
	r, err := t.c.readRecord(state)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	pending := t.skipped
	if err := t.restore(state, path, r); err != nil {
		return err
	}
	for _, cursor := range pending {
		t.skip(cursor)
	}
	return nil
}
