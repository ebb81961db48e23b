package train_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/train"
)

// inOrder is a backend that adds every product to dw in the order of the rows,
// so that a batch may be cut anywhere between two rows.
type inOrder struct{}

func (inOrder) Close() error { return nil }

func (inOrder) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	for r := range rows {
		for o := range w.Out {
			sum := float32(0)
			for i := range w.In {
				sum += float32(x[r*w.In+i] * w.Data[o*w.In+i])
			}
			y[r*w.Out+o] = sum
		}
	}
	return nil
}

func (inOrder) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	if dx != nil {
		clear(dx[:rows*w.In])
	}
	for r := range rows {
		for o := range w.Out {
			d := dy[r*w.Out+o]
			for i := range w.In {
				if dx != nil {
					dx[r*w.In+i] += float32(d * w.Data[o*w.In+i])
				}
				if dw != nil {
					dw[o*w.In+i] += float32(d * x[r*w.In+i])
				}
			}
		}
	}
	return nil
}

// masked is a source of random sequences, some of whose targets are ignored.
type masked struct {
	seed uint64
	rows int // in a batch
	t    int
}

func (m masked) Fingerprint() string { return fmt.Sprint(m) }

func (m masked) Fill(k int, tokens, targets []int32) error {
	for row := range m.rows {
		r := rand.New(rand.NewPCG(m.seed, uint64(k*m.rows+row)))
		ignored := r.Float64()
		for i := row * m.t; i < (row+1)*m.t; i++ {
			tokens[i], targets[i] = int32(r.IntN(11)), int32(r.IntN(11))
			if r.Float64() < ignored {
				targets[i] = -1
			}
		}
	}
	return nil
}

// The gradient of a step is that of all its targets, however they are cut into
// batches and however many each of them has: the matrices' to the bit where
// products are added row by row, all others and those of backend/cpu within the
// rounding of sums.
func TestAccumulationIsTheLargeBatch(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rows, batches := rapid.IntRange(1, 3).Draw(rt, "rows"), rapid.IntRange(2, 4).Draw(rt, "batches")
		seed, exact := rapid.Uint64().Draw(rt, "seed"), rapid.Bool().Draw(rt, "exact")
		c := newConfig(t)
		c.Train, c.Steps, c.ClipNorm, c.EvalEvery = nil, 1, 0, 0
		if exact {
			c.Backend = inOrder{}
		}
		step := func(rows, batches int) (train.Step, *chainrule.Params) {
			c.Model, c.Batch, c.Accumulate = newModel(t), rows, batches
			c.Source = masked{seed, rows, c.SeqLen}
			tr, err := train.New(c)
			require.NoError(rt, err)
			return run(t, tr, 1)[0], tr.Gradient()
		}
		cut, g := step(rows, batches)
		whole, want := step(rows*batches, 1)
		require.Equal(rt, whole.Tokens, cut.Tokens)
		require.InDelta(rt, whole.Loss, cut.Loss, 1e-6)
		require.InDelta(rt, whole.GradNorm, cut.GradNorm, 1e-6*whole.GradNorm)
		other := slices.Collect(want.Tensors())
		for i, tensor := range slices.Collect(g.Tensors()) {
			if exact && len(tensor.Shape) == 2 && tensor.Name != "token_embedding" {
				require.Equal(rt, bitsOf(other[i].Data), bitsOf(tensor.Data), tensor.Name)
			}
			var diff, size float64
			for j, v := range tensor.Data {
				diff += math.Pow(float64(v-other[i].Data[j]), 2)
				size += math.Pow(float64(other[i].Data[j]), 2)
			}
			require.LessOrEqual(rt, math.Sqrt(diff), 1e-6*math.Sqrt(size)+1e-9, tensor.Name)
		}
	})
}

func TestTheAverageIsThatOfTheWeights(t *testing.T) {
	c := newConfig(t)
	c.EMA, c.EvalEvery, c.Dir = 0.6, 5, t.TempDir()
	tr := newTrainer(t, c)
	want := make([]float64, len(c.Model.Data))
	for i, v := range c.Model.Data {
		want[i] = float64(v)
	}
	require.NoError(t, runUntil(tr, func(s train.Step) {
		d := min(0.6, float64(1+s.Step)/float64(10+s.Step))
		for i, v := range tr.Model().Data {
			want[i] = d*want[i] + (1-d)*float64(v)
		}
		for i, v := range tr.Averaged().Data {
			require.InDelta(t, want[i], v, 1e-6)
		}
		if s.Evaluated {
			loss, _, err := tr.Eval(context.Background(), c.Val)
			require.NoError(t, err)
			require.Equal(t, loss, s.ValLoss)
			ws, err := chainrule.NewWorkspace(shape, 1, 12, c.Backend)
			require.NoError(t, err)
			loss, err = chainrule.Forward(tr.Averaged(), ws, c.Val[:12], c.Val[1:13])
			require.NoError(t, err)
			got, _, err := tr.Eval(context.Background(), c.Val[:13])
			require.NoError(t, err)
			require.InDelta(t, loss, got, 1e-6)
		}
	}))
	require.NotEqual(t, weights(tr), bitsOf(tr.Averaged().Data))

	// A run that is interrupted keeps it.
	other := c
	other.Model, other.Dir = newModel(t), t.TempDir()
	first := newTrainer(t, other)
	run(t, first, 7)
	_, err := first.Save()
	require.NoError(t, err)
	require.NoError(t, first.Close())
	second := resume(t, other.Dir, other)
	run(t, second, 0)
	require.Equal(t, bitsOf(tr.Averaged().Data), bitsOf(second.Averaged().Data))
	m, err := checkpoint.LoadDir(filepath.Join(other.Dir, "checkpoint-20"))
	require.NoError(t, err)
	require.Equal(t, weights(tr), bitsOf(m.Data))

	require.NoError(t, second.Close())
	none := other
	none.EMA = 0
	_, err = train.Resume(other.Dir, none)
	require.ErrorContains(t, err, "EMA was 0.6, is not set")
}

func TestEventsTellEverythingInOrder(t *testing.T) {
	var log bytes.Buffer
	var events []train.Event
	c := newConfig(t)
	c.Steps, c.EvalEvery, c.SampleEvery, c.SaveEvery, c.NormsEvery, c.Dir = 4, 2, 3, 2, 2, t.TempDir()
	c.Sample = func(_ context.Context, m *chainrule.Model) (string, error) {
		require.Same(t, c.Model, m)
		return "hello", nil
	}
	c.OnEvent = func(e train.Event) { events = append(events, e) }
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	start := time.Now()
	steps := run(t, newTrainer(t, c), 0)
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, fmt.Sprintf("%s %d", e.Kind, e.Step.Step))
		require.NoError(t, e.Err)
		require.WithinRange(t, e.Time, start, time.Now())
	}
	require.Equal(t, []string{"start 0", "step 1", "step 2", "eval 2", "save 2", "step 3", "sample 3", "step 4", "eval 4", "save 4", "end 4"}, kinds)
	require.Equal(t, "hello", events[6].Step.Sample)
	require.Equal(t, steps[3], events[9].Step)
	require.Contains(t, log.String(), "level=INFO msg=saved step=4 path=")
	for i, s := range steps {
		require.Equal(t, int64(24*(i+1)), s.Seen)
		require.Greater(t, s.MFU, 0.0)
		require.Less(t, s.MFU, 1.0)
		require.Greater(t, s.TokensPerSecond(), 0.0)
		if runtime.GOOS == "linux" {
			require.Greater(t, s.PeakMemory, int64(1<<20))
		}
		require.Equal(t, i%2 == 1, s.Norms != nil)
	}
	n := steps[3].Norms
	require.Equal(t, []string{"token_embedding", "layers.0", "layers.1", "rms_final", "wcls"},
		[]string{n[0].Name, n[1].Name, n[2].Name, n[3].Name, n[4].Name})
	var grad, weight float64
	for _, l := range n {
		grad += l.Grad * l.Grad
		weight += l.Weight * l.Weight
	}
	require.InEpsilon(t, steps[3].GradNorm, math.Sqrt(grad), 1e-9)
	require.InEpsilon(t, chainrule.GradNorm(c.Model.Params), math.Sqrt(weight), 1e-9)
}

// What a program calls between two steps is its own, and what it leaves is ended.
func TestARunStartsNoGoroutine(t *testing.T) {
	c := newConfig(t)
	c.Dir, c.SaveEvery, c.EvalEvery, c.EMA, c.OnBad = t.TempDir(), 3, 2, 0.9, train.RollBack
	be := newBackend(t)
	c.Backend = be
	run(t, newTrainer(t, newConfig(t)), 1) // the library's workers, which all products share, are there from now on
	before := goleak.IgnoreCurrent()
	for _, stop := range []int{0, 1, 7} {
		c.Model, c.Dir = newModel(t), t.TempDir()
		tr, err := train.New(c)
		require.NoError(t, err)
		run(t, tr, stop)
		goleak.VerifyNone(t, before)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for range tr.Run(ctx) {
		}
		require.NoError(t, tr.Close())
	}
	goleak.VerifyNone(t, before)
}

func TestOneTrainerHasADirectory(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	first := newTrainer(t, c)
	other := c
	other.Model = newModel(t)
	for range 2 {
		_, err := train.New(other)
		require.ErrorIs(t, err, train.ErrBusy)
		require.ErrorContains(t, err, c.Dir)
		require.ErrorContains(t, err, "process "+strconv.Itoa(os.Getpid()))
	}
	run(t, first, 0)
	_, err := train.Resume(c.Dir, other)
	require.ErrorIs(t, err, train.ErrBusy)
	require.NoError(t, first.Close())
	require.NoError(t, first.Close())
	_, err = first.Save()
	require.ErrorContains(t, err, "the Trainer was closed")
	require.Equal(t, 20, resume(t, c.Dir, other).Step())
}

// What a killed process leaves is no obstacle: its lock is nobody's.
func TestALockThatNobodyHoldsIsTaken(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(c.Dir, "run.lock"), []byte("process 1 on elsewhere\n"), 0o666))
	require.NoError(t, os.Mkdir(filepath.Join(c.Dir, ".tmp-checkpoint-3-00ff"), 0o777))
	tr := newTrainer(t, c)
	require.NoDirExists(t, filepath.Join(c.Dir, ".tmp-checkpoint-3-00ff"), "orphans are swept")
	require.NoError(t, tr.Close())
	left, err := os.ReadDir(c.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestMemoryThatIsNotThereIsSaidBeforeTheFirstStep(t *testing.T) {
	c := newConfig(t)
	e, err := train.NewEstimate(c, shape)
	require.NoError(t, err)
	need := e.Memory - 4*int64(shape.NumParams()+250)
	free := need - 1
	defer train.SetFreeMemory(func() (int64, bool) { return free, true })()
	_, err = train.New(c)
	require.EqualError(t, err, fmt.Sprintf("train: %d bytes of memory are free, want %d for gradients, moments and activations", free, need))
	free++
	newTrainer(t, c)
}

func TestKeepKeepsTheLastAndTheBest(t *testing.T) {
	c := newConfig(t)
	losses := map[int]float64{2: 5, 4: 3, 6: 1, 8: 2, 10: 4, 12: 3, 14: math.NaN(), 16: 1, 18: 9, 20: 8}
	evaluated := 0
	var tr *train.Trainer
	c.Evaluate = func(context.Context, *chainrule.Model, *chainrule.Workspace) (float64, error) {
		evaluated++
		return losses[tr.Step()], nil
	}
	c.EvalEvery, c.SaveEvery, c.Keep, c.KeepBest = 20, 2, 2, true
	for _, interrupted := range []bool{false, true} {
		c.Model, c.Dir, evaluated = newModel(t), t.TempDir(), 0
		tr = newTrainer(t, c)
		want := map[int][]int{
			2: {2}, 4: {2, 4}, 6: {4, 6}, 8: {6, 8}, 10: {6, 8, 10}, 12: {6, 10, 12}, 14: {6, 12, 14},
			16: {6, 14, 16}, 18: {6, 16, 18}, 20: {6, 18, 20},
		}
		for tr.Step() < 20 {
			for s, err := range tr.Run(context.Background()) {
				require.NoError(t, err)
				require.Equal(t, s.Step%2 == 0, s.Evaluated, "what is saved is evaluated")
				if s.Saved == "" {
					continue
				}
				there, err := checkpoint.States(c.Dir)
				require.NoError(t, err)
				var steps []int
				for _, i := range there {
					steps = append(steps, i.Step)
				}
				require.Equal(t, want[s.Step], steps)
				if s.Step == 10 && interrupted {
					break
				}
			}
			if interrupted && tr.Step() < 20 {
				require.NoError(t, tr.Close())
				tr = resume(t, c.Dir, c)
			}
		}
		require.Equal(t, 10, evaluated)
		best, err := train.Best(c.Dir)
		require.NoError(t, err)
		require.Equal(t, 6, best.Step)
		loss, ok := train.ValLoss(best)
		require.True(t, ok)
		require.Equal(t, 1.0, loss)
		require.NoError(t, tr.Close())
	}
	_, err := train.Best(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAFailedSaveIsTriedAgainWhileTheRunGoesOn(t *testing.T) {
	whole := newTrainer(t, newConfig(t))
	run(t, whole, 0)
	for _, mended := range []int{6, 12, 100} { // the step behind which the disk is well again
		c := newConfig(t)
		c.Dir, c.SaveEvery, c.SaveRetries, c.SaveRetryDelay = filepath.Join(t.TempDir(), "out"), 5, 4, time.Nanosecond
		var failed []int
		c.OnEvent = func(e train.Event) {
			if e.Kind == train.SaveFailed {
				failed = append(failed, e.Step.Step)
				require.ErrorContains(t, e.Err, "saving after step")
			}
		}
		tr := newTrainer(t, c)
		away := c.Dir + ".away"
		mend := func() {
			require.NoError(t, os.Remove(c.Dir))
			require.NoError(t, os.Rename(away, c.Dir))
		}
		var saved []int
		err := runUntil(tr, func(s train.Step) {
			if s.Saved != "" {
				saved = append(saved, s.Step)
			}
			if s.Step == 4 {
				require.NoError(t, os.Rename(c.Dir, away))
				require.NoError(t, os.WriteFile(c.Dir, nil, 0o666))
			}
			if s.Step == mended {
				mend()
			}
		})
		switch mended {
		case 6:
			require.NoError(t, err)
			require.Equal(t, []int{5, 6}, failed)
			require.Equal(t, []int{7, 10, 15, 20}, saved)
		case 12: // it took too long
			require.ErrorContains(t, err, "train: saving after step 9: ")
			require.Equal(t, []int{5, 6, 7, 8, 9}, failed)
			mend()
		default:
			require.ErrorContains(t, err, "train: saving after step 9: ")
			mend()
		}
		run(t, tr, 0)
		require.Equal(t, weights(whole), weights(tr))
		state, _, err := checkpoint.LoadState(c.Dir)
		require.NoError(t, err)
		require.Equal(t, 20, state.Step)
	}
}

func TestSavesComeByTheClock(t *testing.T) {
	c := newConfig(t)
	c.Dir, c.SaveTime = t.TempDir(), time.Nanosecond
	for s, err := range newTrainer(t, c).Run(context.Background()) {
		require.NoError(t, err)
		require.NotEmpty(t, s.Saved)
	}
	c.Model, c.Dir, c.SaveTime = newModel(t), t.TempDir(), time.Hour
	for s, err := range newTrainer(t, c).Run(context.Background()) {
		require.NoError(t, err)
		require.Equal(t, s.Step == 20, s.Saved != "")
	}
}

// A backend, or the data, that fails ends the run with what there is saved.
func TestARunThatAnErrorEndsIsSaved(t *testing.T) {
	broken := errors.New("the device is gone")
	be := &faulty{Backend: newBackend(t)}
	c := newConfig(t)
	c.Backend, c.Dir = be, t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 7)
	be.linear = func(int, []float32) error { return broken }
	_, last, err := fail(t, context.Background(), tr)
	require.ErrorIs(t, err, broken)
	require.Equal(t, filepath.Join(c.Dir, "checkpoint-7"), last.Saved)
	state, _, err := checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	require.Equal(t, 7, state.Step)
}

// On another machine a run goes on with a warning, or not at all.
func TestResumeSaysWhereBitsWillDiffer(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 2)
	path, err := tr.Save()
	require.NoError(t, err)
	require.NoError(t, tr.Close())
	c.Exact = true
	require.Empty(t, resume(t, path, with(c, func(c *train.Config) { c.Dir = t.TempDir() })).Warnings())

	state, _, err := checkpoint.LoadState(path)
	require.NoError(t, err)
	state.Hyper = bytes.Replace(state.Hyper, []byte(`"GOARCH":"`+runtime.GOARCH), []byte(`"GOARCH":"pdp11`), 1)
	_, err = checkpoint.SaveState(c.Dir, state)
	require.NoError(t, err)
	_, err = train.Resume(c.Dir, c)
	var bad *train.MismatchError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, []train.Difference{{Name: "GOARCH", Saved: "pdp11", Given: runtime.GOARCH}}, bad.Differences)
	c.Exact = false
	var warned []error
	c.OnEvent = func(e train.Event) {
		if e.Kind == train.Warned {
			warned = append(warned, e.Err)
		}
	}
	tr = resume(t, c.Dir, c)
	run(t, tr, 0)
	require.Equal(t, tr.Warnings(), warned)
	require.Len(t, warned, 1)
	require.ErrorContains(t, warned[0], "was saved by a run on GOARCH pdp11, this is "+runtime.GOARCH+": the bits will differ")
}

func with(c train.Config, edit func(c *train.Config)) train.Config {
	edit(&c)
	return c
}

// A schedule may change in what is still to come.
func TestALongerRunGoesOnFromTheStablePhase(t *testing.T) {
	c := newConfig(t)
	c.Dir, c.Schedule = t.TempDir(), train.WarmupStableDecay{LR: 1e-2, Warmup: 3, Decay: 5, Steps: 20}
	tr := newTrainer(t, c)
	run(t, tr, 15)
	_, err := tr.Save()
	require.NoError(t, err)
	require.NoError(t, tr.Close())
	longer := c
	longer.Steps, longer.Schedule = 30, train.WarmupStableDecay{LR: 1e-2, Warmup: 3, Decay: 5, Steps: 30}
	second := resume(t, c.Dir, longer)
	run(t, second, 0)

	longer.Model, longer.Dir = newModel(t), ""
	whole := newTrainer(t, longer)
	run(t, whole, 0)
	require.Equal(t, weights(whole), weights(second))
}

// A shard that is cut while a run reads it is an error that names it, with the
// run saved.
func TestAShardThatIsCutWhileTraining(t *testing.T) {
	text, dir := filepath.Join(t.TempDir(), "text"), t.TempDir()
	require.NoError(t, os.WriteFile(text, bytes.Repeat([]byte("abcabd\n"), 500), 0o666))
	shards, err := data.Tokenize(t.Context(), dir, []string{text}, data.TokenizeOptions{
		Encode: func(text string) (tokens []int32) {
			for _, b := range []byte(text) {
				tokens = append(tokens, int32(b%11))
			}
			return tokens
		},
		Tokenizer: "mod 11", Vocab: 11,
	})
	require.NoError(t, err)
	defer shards.Close()
	c := newConfig(t)
	c.Train, c.Dir = nil, t.TempDir()
	c.Source, err = data.NewShardBatches(shards, 0, shards.Len(), c.Batch, c.SeqLen, c.Seed)
	require.NoError(t, err)
	tr := newTrainer(t, c)
	run(t, tr, 5)
	require.NoError(t, os.Truncate(filepath.Join(dir, "shard-00000.bin"), 1024))
	_, last, err := fail(t, context.Background(), tr)
	require.ErrorContains(t, err, "train: step 6: batch 5: data: "+filepath.Join(dir, "shard-00000.bin")+": the file shrank while it was read: it ends at byte ")
	require.Equal(t, filepath.Join(c.Dir, "checkpoint-5"), last.Saved)
}
