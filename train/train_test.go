package train_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/train"
)

var shape = chainrule.Config{
	Dim: 8, HiddenDim: 12, NLayers: 2, NHeads: 2, NKVHeads: 1, HeadDim: 4,
	VocabSize: 11, SeqLen: 16, RopeTheta: 10000, NormEps: 1e-5,
}

func newModel(t testing.TB) *chainrule.Model {
	m, err := chainrule.NewModel(shape)
	require.NoError(t, err)
	m.Init(3)
	return m
}

// corpus is a sequence that a model can learn: each token follows from the two
// before it.
func corpus(n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		if i < 2 {
			tokens[i] = int32(i + 1)
		} else {
			tokens[i] = (tokens[i-1]*3 + tokens[i-2] + 1) % 11
		}
	}
	return tokens
}

// faulty is the CPU backend, with something done to the n-th call of Linear or
// LinearBackward.
type faulty struct {
	backend.Backend
	linear   func(call int, y []float32) error
	backward func(call int, dw []float32) error

	linears, backwards int
	gen                uint64 // of the last Matrix
}

func (f *faulty) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	err := f.Backend.Linear(y, x, w, rows)
	f.linears++
	f.gen = w.Gen
	if err == nil && f.linear != nil {
		err = f.linear(f.linears, y)
	}
	return err
}

func (f *faulty) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	err := f.Backend.LinearBackward(dx, dw, dy, x, w, rows)
	f.backwards++
	if err == nil && f.backward != nil {
		err = f.backward(f.backwards, dw)
	}
	return err
}

func newBackend(t testing.TB) *cpu.Backend {
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { be.Close() })
	return be
}

func newConfig(t testing.TB) train.Config {
	return train.Config{
		Model: newModel(t), Backend: newBackend(t),
		Train: corpus(200), Val: corpus(50),
		Batch: 2, SeqLen: 12, Steps: 20, Seed: 7,
		Schedule: train.WarmupCosine{LR: 1e-2, MinLR: 1e-3, Warmup: 4, Steps: 20},
		ClipNorm: 0.5,
	}
}

func newTrainer(t testing.TB, c train.Config) *train.Trainer {
	tr, err := train.New(c)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}

// resume goes on from a checkpoint that no open Trainer has.
func resume(t testing.TB, dir string, c train.Config) *train.Trainer {
	tr, err := train.Resume(dir, c)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}

// run takes n steps, or all that are left if n is 0.
func run(t testing.TB, tr *train.Trainer, n int) (steps []train.Step) {
	for s, err := range tr.Run(context.Background()) {
		require.NoError(t, err)
		steps = append(steps, s)
		if len(steps) == n {
			break
		}
	}
	return steps
}

// fail runs until the error that must come.
func fail(t testing.TB, ctx context.Context, tr *train.Trainer) (steps []train.Step, last train.Step, err error) {
	for last, err = range tr.Run(ctx) {
		if err != nil {
			require.Equal(t, tr.Step(), last.Step)
			continue // the pair with the error is the last one
		}
		steps = append(steps, last)
	}
	require.Error(t, err)
	return steps, last, err
}

// bitsOf returns bytes, which require compares as a whole.
func bitsOf(x []float32) []byte {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func weights(tr *train.Trainer) []byte { return bitsOf(tr.Model().Data) }

// byHand is the loop that Run must be, in the five calls of the library, on
// batches of rows sequences.
func byHand(t testing.TB, c train.Config, rows int) (losses, norms []float64) {
	batches, err := data.NewBatches(c.Train, rows, c.SeqLen, c.Seed)
	require.NoError(t, err)
	ws, err := chainrule.NewWorkspace(shape, rows, c.SeqLen, c.Backend)
	require.NoError(t, err)
	g, err := chainrule.NewParams(shape)
	require.NoError(t, err)
	state, err := chainrule.NewAdamState(shape)
	require.NoError(t, err)
	x, y := make([]int32, rows*c.SeqLen), make([]int32, rows*c.SeqLen)
	for k := range c.Steps {
		batches.Fill(k, x, y)
		loss, err := chainrule.Forward(c.Model, ws, x, y)
		require.NoError(t, err)
		chainrule.ZeroGrad(g)
		require.NoError(t, chainrule.Backward(c.Model, ws, g))
		norm := chainrule.GradNorm(g)
		if c.ClipNorm > 0 {
			chainrule.ClipGradients(g, c.ClipNorm)
		}
		chainrule.AdamStep(c.Model, g, state, chainrule.Adam{
			LR: c.Schedule.At(k + 1), Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1,
		})
		losses, norms = append(losses, loss), append(norms, norm)
	}
	return losses, norms
}

func TestRunIsTheLoopByHand(t *testing.T) {
	for _, c := range []struct {
		name              string
		batch, accumulate int
		clip              float64
	}{
		{"plain", 4, 0, 0},
		{"clipped", 4, 1, 0.5},
		{"below the clip", 4, 1, 1000},
		{"accumulated", 1, 4, 0.5},
		{"accumulated by two", 2, 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			cfg.Batch, cfg.Accumulate, cfg.ClipNorm, cfg.Steps = c.batch, c.accumulate, c.clip, 8
			steps := run(t, newTrainer(t, cfg), 0)
			require.Len(t, steps, 8)

			hand := cfg
			hand.Model = newModel(t)
			losses, norms := byHand(t, hand, 4)
			for i, s := range steps {
				require.Equal(t, i+1, s.Step)
				require.InEpsilon(t, losses[i], s.Loss, 1e-5)
				require.InEpsilon(t, norms[i], s.GradNorm, 1e-4)
				require.Equal(t, cfg.Schedule.At(i+1), s.LR)
				require.Equal(t, 4*12, s.Tokens)
				require.Positive(t, s.Duration)
				require.False(t, s.Evaluated)
				require.Empty(t, s.Saved)
				if c.clip == 0.5 && i == 0 {
					require.Greater(t, s.GradNorm, c.clip, "or nothing is clipped")
				}
			}
			require.InDeltaSlice(t, hand.Model.Data, cfg.Model.Data, 2e-4)
		})
	}
}

func TestRunLearns(t *testing.T) {
	c := newConfig(t)
	c.Steps, c.EvalEvery, c.Batch = 150, 150, 4
	c.Schedule = train.Constant{LR: 1e-2}
	steps := run(t, newTrainer(t, c), 0)
	require.InDelta(t, math.Log(11), steps[0].Loss, 0.1)
	require.Less(t, steps[149].Loss, 0.7)
	require.Less(t, steps[149].ValLoss, 0.7)
}

// The heart of it: 20 steps are the same bits as 10, a checkpoint, another
// Trainer and 10 more, wherever that happens.
func TestResumedIsUninterruptedBitForBit(t *testing.T) {
	for _, c := range []struct {
		name       string
		accumulate int
		procs      [3]int // uninterrupted, first half, second half
		interrupt  string
	}{
		{"plain", 1, [3]int{2, 2, 2}, "cancel"},
		{"accumulated", 3, [3]int{2, 2, 2}, "cancel"},
		{"other GOMAXPROCS", 2, [3]int{1, 4, 2}, "cancel"},
		{"a save within the loop", 1, [3]int{2, 2, 2}, "save"},
		{"a save of every step", 1, [3]int{2, 2, 2}, "every"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(c.procs[0]))
			cfg := newConfig(t)
			cfg.Accumulate = c.accumulate
			whole := newTrainer(t, cfg)
			want := run(t, whole, 0)
			require.Len(t, want, 20)

			runtime.GOMAXPROCS(c.procs[1])
			cfg.Model, cfg.Dir = newModel(t), t.TempDir()
			if c.interrupt == "every" {
				cfg.SaveEvery = 1
			}
			first := newTrainer(t, cfg)
			ctx, cancel := context.WithCancel(context.Background())
			var got []train.Step
			for s, err := range first.Run(ctx) {
				if err != nil {
					require.ErrorIs(t, err, context.Canceled)
					require.Equal(t, 10, s.Step)
					require.DirExists(t, s.Saved)
					break
				}
				got = append(got, s)
				if s.Step == 10 {
					switch c.interrupt {
					case "save":
						path, err := first.Save()
						require.NoError(t, err)
						require.DirExists(t, path)
					case "every":
						require.DirExists(t, s.Saved)
					}
					if c.interrupt != "cancel" {
						break
					}
					cancel()
				}
			}
			cancel()
			require.Len(t, got, 10)

			runtime.GOMAXPROCS(c.procs[2])
			cfg.Model = nil
			require.NoError(t, first.Close())
			second := resume(t, cfg.Dir, cfg)
			require.Equal(t, 10, second.Step())
			got = append(got, run(t, second, 0)...)

			require.Equal(t, weights(whole), weights(second))
			require.Len(t, got, 20)
			for i := range want {
				require.Equal(t, want[i].Step, got[i].Step)
				require.Equal(t, want[i].Loss, got[i].Loss, "step %d", i+1)
				require.Equal(t, want[i].GradNorm, got[i].GradNorm, "step %d", i+1)
				require.Equal(t, want[i].LR, got[i].LR)
			}

			// The final checkpoint of both ends is the same state.
			state, path, err := checkpoint.LoadState(cfg.Dir)
			require.NoError(t, err)
			require.Equal(t, path, got[19].Saved)
			require.Equal(t, 20, state.Step)
			require.Equal(t, int64(20*c.accumulate), state.Position)
			require.Equal(t, uint64(7), state.Seed)
			require.Equal(t, weights(whole), bitsOf(state.Model.Data))
		})
	}
}

func TestLeavingTheLoopAndRunningAgainChangesNothing(t *testing.T) {
	c := newConfig(t)
	whole := newTrainer(t, c)
	run(t, whole, 0)
	c.Model = newModel(t)
	parts := newTrainer(t, c)
	for _, n := range []int{1, 5, 0} {
		run(t, parts, n)
	}
	require.Equal(t, 20, parts.Step())
	require.Equal(t, weights(whole), weights(parts))
	require.Empty(t, run(t, parts, 0), "no step is left")
}

func TestEvaluationAndCheckpointsChangeNoBitAndComeWhenDue(t *testing.T) {
	c := newConfig(t)
	whole := newTrainer(t, c)
	run(t, whole, 0)

	c.Model, c.Dir = newModel(t), filepath.Join(t.TempDir(), "made", "by", "New")
	c.EvalEvery, c.EvalStride, c.SaveEvery = 6, 5, 8
	tr := newTrainer(t, c)
	for s, err := range tr.Run(context.Background()) {
		require.NoError(t, err)
		require.Equal(t, slices.Contains([]int{6, 12, 18, 20}, s.Step), s.Evaluated, "step %d", s.Step)
		require.Equal(t, slices.Contains([]int{8, 16, 20}, s.Step), s.Saved != "", "step %d", s.Step)
		if s.Evaluated {
			loss, n, err := tr.Eval(context.Background(), c.Val)
			require.NoError(t, err)
			require.Equal(t, 49, n)
			require.Equal(t, loss, s.ValLoss)
		}
		if s.Saved != "" {
			_, path, err := checkpoint.LoadState(c.Dir)
			require.NoError(t, err)
			require.Equal(t, s.Saved, path)
		}
	}
	require.Equal(t, weights(whole), weights(tr))
}

// EvalTokens takes whole batches, from the first on, evenly spread.
func TestEvalTokensTakesBatchesFromAllOverVal(t *testing.T) {
	c := newConfig(t)
	c.Batch, c.EvalEvery, c.Steps = 1, 1, 1
	c.Val = corpus(6*12 + 1) // six batches
	for _, part := range []struct {
		tokens  int
		batches []int
	}{{0, []int{0, 1, 2, 3, 4, 5}}, {1, []int{0}}, {25, []int{0, 3}}, {40, []int{0, 2, 4}}, {1000, []int{0, 1, 2, 3, 4, 5}}} {
		c.Model, c.EvalTokens = newModel(t), part.tokens
		tr := newTrainer(t, c)
		steps := run(t, tr, 0)
		want := 0.0
		for _, k := range part.batches {
			loss, n, err := tr.Eval(context.Background(), c.Val[k*12:(k+1)*12+1])
			require.NoError(t, err)
			require.Equal(t, 12, n)
			want += loss / float64(len(part.batches))
		}
		require.InEpsilon(t, want, steps[0].ValLoss, 1e-6, "EvalTokens %d", part.tokens)
	}
}

func TestEvalIsTheMeanOverEveryTokenButTheFirst(t *testing.T) {
	c := newConfig(t)
	c.EvalStride = 1 // every token has all the context that fits
	tr := newTrainer(t, c)
	run(t, tr, 5)
	tokens := corpus(40)
	got, n, err := tr.Eval(context.Background(), tokens)
	require.NoError(t, err)
	require.Equal(t, 39, n)

	ws, err := chainrule.NewWorkspace(shape, 1, c.SeqLen, c.Backend)
	require.NoError(t, err)
	sum := 0.0
	for i := 1; i < len(tokens); i++ {
		x := tokens[max(0, i-c.SeqLen):i]
		y := slices.Repeat([]int32{-1}, len(x))
		y[len(y)-1] = tokens[i]
		require.NoError(t, ws.Resize(1, len(x)))
		loss, err := chainrule.Forward(c.Model, ws, x, y)
		require.NoError(t, err)
		sum += loss
	}
	require.InEpsilon(t, sum/39, got, 1e-6)

	_, _, err = tr.Eval(context.Background(), tokens[:1])
	require.ErrorContains(t, err, "too few to evaluate on")
	_, _, err = tr.Eval(context.Background(), []int32{1, 11})
	require.ErrorContains(t, err, "train: evaluating after step 5: ")
	require.ErrorContains(t, err, "target 11")
}

func TestCancellationFinishesTheStepAndSaves(t *testing.T) {
	cause := errors.New("the user pressed Ctrl-C")
	for _, c := range []struct {
		name string
		dir  bool
	}{{"with a directory", true}, {"without one", false}} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			be := &faulty{Backend: newBackend(t)}
			perForward := 0
			be.linear = func(call int, _ []float32) error {
				if perForward > 0 && call == 2*perForward+2 { // within the third step
					cancel(cause)
				}
				return nil
			}
			cfg := newConfig(t)
			cfg.Backend = be
			if c.dir {
				cfg.Dir = t.TempDir()
			}
			tr := newTrainer(t, cfg)
			run(t, tr, 1)
			perForward = be.linears
			steps, last, err := fail(t, ctx, tr)
			require.ErrorIs(t, err, cause)
			require.Len(t, steps, 2, "the step under way is finished")
			require.Equal(t, 3, last.Step)
			if c.dir {
				state, path, err := checkpoint.LoadState(cfg.Dir)
				require.NoError(t, err)
				require.Equal(t, path, last.Saved)
				require.Equal(t, 3, state.Step)
				require.Equal(t, weights(tr), bitsOf(state.Model.Data))
			} else {
				require.Empty(t, last.Saved)
			}
			run(t, tr, 0) // and it can go on
			require.Equal(t, 20, tr.Step())
		})
	}
}

func TestCancelledBeforeTheFirstStepWritesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := newConfig(t)
	c.Dir = t.TempDir()
	tr := newTrainer(t, c)
	steps, last, err := fail(t, ctx, tr)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, steps)
	require.Equal(t, train.Step{}, last)
	require.NoError(t, tr.Close())
	left, err := os.ReadDir(c.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestCancellationGivesUpAnEvaluation(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	be := &faulty{Backend: newBackend(t)}
	c := newConfig(t)
	c.Backend, c.EvalEvery, c.Dir = be, 2, t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 1)
	perForward := be.linears
	be.linear = func(call int, _ []float32) error {
		if call == 2*perForward+1 { // the first batch of the evaluation after step 2
			cancel()
		}
		return nil
	}
	steps, last, err := fail(t, ctx, tr)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, steps, 1)
	require.False(t, steps[0].Evaluated)
	require.Equal(t, 2, last.Step)
	require.DirExists(t, last.Saved)
	require.LessOrEqual(t, be.linears, 3*perForward, "one batch, not all, was evaluated")

	_, _, err = tr.Eval(ctx, c.Val)
	require.ErrorIs(t, err, context.Canceled)
}

func TestANonFiniteStepUpdatesNothingAndKeepsTheCheckpoint(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		name    string
		forward bool
		value   float32
		what    string
	}{
		{"a NaN in the forward", true, nan, "loss"},
		{"an Inf in the forward", true, inf, "loss"},
		{"a NaN in the backward", false, nan, "gradient of "},
		{"an Inf in the backward", false, -inf, "gradient of "},
	} {
		t.Run(c.name, func(t *testing.T) {
			clean := newConfig(t)
			whole := newTrainer(t, clean)
			run(t, whole, 0)

			be := &faulty{Backend: newBackend(t)}
			cfg := newConfig(t)
			cfg.Backend, cfg.Dir, cfg.SaveEvery, cfg.Accumulate = be, t.TempDir(), 5, 0
			tr := newTrainer(t, cfg)
			run(t, tr, 7)
			before := weights(tr)
			armed := true
			inject := func(_ int, out []float32) error {
				if armed && out != nil {
					out[0], armed = c.value, false
				}
				return nil
			}
			if c.forward {
				be.linear = inject
			} else {
				be.backward = inject
			}
			steps, last, err := fail(t, context.Background(), tr)
			var bad *train.BadNumberError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, 8, bad.Step)
			require.Contains(t, bad.What, c.what)
			require.ErrorContains(t, err, "train: nothing was updated: step 8: the "+c.what)
			require.False(t, armed)
			require.Empty(t, steps)
			require.Equal(t, 7, last.Step)
			require.Equal(t, before, weights(tr))
			state, _, err := checkpoint.LoadState(cfg.Dir)
			require.NoError(t, err)
			require.Equal(t, 5, state.Step, "the last good checkpoint")

			// The fault was the device's and is gone: the same bits after all.
			run(t, tr, 0)
			require.Equal(t, weights(whole), weights(tr))
		})
	}
}

func TestWeightsThatAreNotFiniteAreNeverSaved(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 3)
	good, err := tr.Save()
	require.NoError(t, err)
	run(t, tr, 1)
	tr.Model().Layers[1].W2[5] = float32(math.Inf(-1))
	tr.Model().Touch()
	_, err = tr.Save()
	var bad *train.BadNumberError
	require.ErrorAs(t, err, &bad)
	require.EqualError(t, err, "train: not saved: step 4: the weight layers.1.w2[5] is -Inf")
	_, path, err := checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	require.Equal(t, good, path)
}

func TestMomentsThatAreNotFiniteAreNeverSaved(t *testing.T) {
	for which, what := range []string{"first", "second"} {
		c := newConfig(t)
		c.Dir = t.TempDir()
		tr := newTrainer(t, c)
		run(t, tr, 3)
		_, err := tr.Save()
		require.NoError(t, err)
		state, _, err := checkpoint.LoadState(c.Dir)
		require.NoError(t, err)
		[][]float32{state.Optimizer.M, state.Optimizer.V}[which][1] = float32(math.Inf(1))
		_, err = checkpoint.SaveState(c.Dir, state)
		require.NoError(t, err)
		require.NoError(t, tr.Close())
		tr = resume(t, c.Dir, c)
		_, err = tr.Save()
		require.EqualError(t, err, "train: not saved: step 3: the "+what+" moment of token_embedding[1] is +Inf")
	}
}

func TestACheckpointWithNaNLoadsAndStopsAtItsFirstStep(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 3)
	_, err := tr.Save()
	require.NoError(t, err)
	state, _, err := checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	state.Model.RMSFinal[2] = float32(math.NaN())
	other := t.TempDir()
	bad, err := checkpoint.SaveState(other, state)
	require.NoError(t, err)
	c.Model, c.Dir = nil, other
	tr = resume(t, other, c)
	_, last, err := fail(t, context.Background(), tr)
	require.ErrorContains(t, err, "step 4: the loss is NaN")
	require.ErrorContains(t, err, "the weight rms_final[2] is NaN", "where it came from")
	require.Equal(t, train.Step{Step: 3, Seen: 3 * 24, Saved: bad}, last)
}

func TestABackendErrorUpdatesNothing(t *testing.T) {
	broken := errors.New("the device is gone")
	for _, phase := range []string{"forward", "backward", "evaluation"} {
		t.Run(phase, func(t *testing.T) {
			be := &faulty{Backend: newBackend(t)}
			c := newConfig(t)
			c.Backend, c.Steps = be, 6
			if phase == "evaluation" {
				c.EvalEvery = 3
			}
			tr := newTrainer(t, c)
			run(t, tr, 2)
			before, n := weights(tr), be.linears/2
			var steps int
			once := func(call int, at int) error {
				if call == at {
					return broken
				}
				return nil
			}
			switch phase {
			case "forward":
				be.linear = func(call int, _ []float32) error { return once(call, 2*n+1) }
			case "backward":
				at := be.backwards + 1
				be.backward = func(call int, _ []float32) error { return once(call, at) }
			case "evaluation":
				steps = 1
				be.linear = func(call int, _ []float32) error { return once(call, 3*n+1) }
			}
			got, last, err := fail(t, context.Background(), tr)
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, "step 3")
			require.Len(t, got, steps)
			require.Equal(t, 2+steps, last.Step)
			if steps == 0 {
				require.Equal(t, before, weights(tr))
			}
			run(t, tr, 0)
			require.Equal(t, 6, tr.Step())
		})
	}
}

func TestAFailedSaveIsReportedWithTheStateIntact(t *testing.T) {
	whole := newTrainer(t, newConfig(t))
	run(t, whole, 0)

	c := newConfig(t)
	c.Dir, c.SaveEvery, c.SaveRetries = filepath.Join(t.TempDir(), "out"), 5, -1
	tr := newTrainer(t, c)
	run(t, tr, 6)
	require.NoError(t, os.Rename(c.Dir, c.Dir+".away"))
	require.NoError(t, os.WriteFile(c.Dir, nil, 0o666)) // no directory any more
	steps, last, err := fail(t, context.Background(), tr)
	require.ErrorContains(t, err, "train: saving after step 10")
	require.Len(t, steps, 4, "the step itself was taken")
	require.Equal(t, train.Step{Step: 10, Seen: 10 * 24}, last)

	cause := errors.New("stop") // an interrupt whose save fails tells both
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	_, _, err = fail(t, ctx, tr)
	require.ErrorIs(t, err, cause)
	require.ErrorContains(t, err, "saving after step 10")

	require.NoError(t, os.Remove(c.Dir))
	require.NoError(t, os.Rename(c.Dir+".away", c.Dir))
	state, _, err := checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	require.Equal(t, 5, state.Step)
	run(t, tr, 0)
	require.Equal(t, weights(whole), weights(tr))
	state, _, err = checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	require.Equal(t, 20, state.Step)
}

func TestNewRefusesADirectoryBeforeTheFirstStep(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	c := newConfig(t)
	for _, c.Dir = range []string{file, filepath.Join(file, "below")} {
		_, err := train.New(c)
		require.ErrorContains(t, err, "train: output directory: ")
		require.ErrorContains(t, err, file)
	}

	c.Dir = filepath.Join(dir, "out")
	tr := newTrainer(t, c)
	left, err := os.ReadDir(c.Dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "the lock: the test of writing leaves nothing")
	run(t, tr, 2)
	path, err := tr.Save()
	require.NoError(t, err)
	require.NoError(t, tr.Close())
	_, err = train.New(c)
	require.ErrorIs(t, err, fs.ErrExist, "a new run does not replace an old one's checkpoints")
	require.ErrorContains(t, err, path)
	require.NoError(t, os.Rename(path, path+".old")) // as a save that was killed leaves it
	_, err = train.New(c)
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, path+".old")
	require.Equal(t, 2, resume(t, c.Dir, c).Step())

	if os.Geteuid() > 0 {
		c.Dir = filepath.Join(dir, "locked")
		require.NoError(t, os.Mkdir(c.Dir, 0o500))
		_, err = train.New(c)
		require.ErrorIs(t, err, fs.ErrPermission)
	}
	c.Dir = ""
	_, err = newTrainer(t, c).Save()
	require.ErrorContains(t, err, "Config.Dir is empty")
}

func TestAFullDiskIsSaidBeforeTheFirstStep(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	bytes, known := int64(0), true
	defer train.SetFreeDisk(func(dir string) (int64, bool) {
		require.Equal(t, c.Dir, dir)
		return bytes, known
	})()
	one := 12 * int64(shape.NumParams())
	for _, bytes = range []int64{0, one, 2*one - 1} {
		_, err := train.New(c)
		require.EqualError(t, err, fmt.Sprintf("train: output directory: %s has room for %d bytes, want %d: "+
			"a checkpoint has %d, and the old ones stay until the new one is whole", c.Dir, bytes, 2*one, one))
		left, err := os.ReadDir(c.Dir)
		require.NoError(t, err)
		require.Empty(t, left)
	}
	bytes = 2 * one
	tr := newTrainer(t, c)
	run(t, tr, 2)
	path, err := tr.Save()
	require.NoError(t, err)

	bytes = one - 1
	require.NoError(t, tr.Close())
	_, err = train.Resume(c.Dir, c)
	require.ErrorContains(t, err, fmt.Sprintf("want %d: a checkpoint has %d", one, one))
	bytes = one // beside the one that is there
	for _, from := range []string{c.Dir, path} {
		require.NoError(t, resume(t, from, c).Close())
	}
	bytes, known = 0, false
	resume(t, c.Dir, c)
}

func TestResumeRefusesCountsThatNoRunHas(t *testing.T) {
	c := newConfig(t)
	c.Dir, c.Accumulate = t.TempDir(), 2
	tr := newTrainer(t, c)
	run(t, tr, 3)
	_, err := tr.Save()
	require.NoError(t, err)
	for _, change := range []func(s *checkpoint.State){
		func(s *checkpoint.State) { s.Position = 7 },
		func(s *checkpoint.State) { s.Position = 3 },
		func(s *checkpoint.State) { s.Position = math.MaxInt64 },
		func(s *checkpoint.State) { s.Optimizer.Step = 4 },
		func(s *checkpoint.State) { s.Optimizer.Step = math.MaxInt },
	} {
		state, _, err := checkpoint.LoadState(c.Dir)
		require.NoError(t, err)
		change(state)
		path, err := checkpoint.SaveState(t.TempDir(), state)
		require.NoError(t, err)
		_, err = train.Resume(path, c)
		require.ErrorContains(t, err, "is of no run: step 3 with batch")
		require.ErrorContains(t, err, path)
	}
}

func TestResumeSaysWhatDiffers(t *testing.T) {
	c := newConfig(t)
	c.Train = corpus(20000)
	c.Dir = t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 2)
	path, err := tr.Save()
	require.NoError(t, err)

	for name, change := range map[string]func(c *train.Config){
		"Batch": func(c *train.Config) { c.Batch = 3 }, "SeqLen": func(c *train.Config) { c.SeqLen = 5 },
		"Accumulate": func(c *train.Config) { c.Accumulate = 2 }, "ClipNorm": func(c *train.Config) { c.ClipNorm = 0 },
		"Seed":        func(c *train.Config) { c.Seed = 8 },
		"Adam":        func(c *train.Config) { c.Adam = chainrule.Adam{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8} },
		"Schedule":    func(c *train.Config) { c.Schedule = train.Constant{LR: 1e-2} },
		"TrainSHA256": func(c *train.Config) { c.Train = slices.Clone(c.Train); c.Train[19999] = 10 - c.Train[19999] },
		"Model.NHeads": func(c *train.Config) {
			other := shape
			other.NHeads = 4
			c.Model, _ = chainrule.NewModel(other)
		},
	} {
		given := c
		given.Model = newModel(t)
		given.Model.Init(99)
		change(&given)
		before := bitsOf(given.Model.Data)
		_, err := train.Resume(c.Dir, given)
		var bad *train.MismatchError
		require.ErrorAs(t, err, &bad, name)
		require.Len(t, bad.Differences, 1, name)
		require.Equal(t, name, bad.Differences[0].Name)
		require.NotEqual(t, bad.Differences[0].Saved, bad.Differences[0].Given)
		require.Equal(t, path, bad.Path)
		require.Equal(t, before, bitsOf(given.Model.Data), "a refused model is left alone")
	}

	many := c
	many.Batch, many.Seed, many.Schedule = 4, 1, train.WarmupCosine{LR: 1e-2, MinLR: 1e-3, Warmup: 5, Steps: 20}
	_, err = train.Resume(c.Dir, many)
	require.EqualError(t, err, fmt.Sprintf("train: %s is of another run: Batch was 2, is 4; "+
		`Schedule was {"Type":"train.WarmupCosine","Value":{"LR":0.01,"MinLR":0.001,"Warmup":4,"Steps":20}}, `+
		`is {"Type":"train.WarmupCosine","Value":{"LR":0.01,"MinLR":0.001,"Warmup":5,"Steps":20}}; Seed was 7, is 1`, path))

	short := c
	short.Steps = 1
	_, err = train.Resume(c.Dir, short)
	require.ErrorContains(t, err, "is at step 2 and batch 2, want 0 to Config.Steps 1")

	_, err = train.Resume(t.TempDir(), c)
	require.ErrorContains(t, err, "train: resuming from ")
	none := c
	none.Batch = 0
	_, err = train.Resume(c.Dir, none)
	require.ErrorContains(t, err, "Config.Batch is 0")
}

func TestResumeOverwritesTheGivenModelAndMayMoveOn(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 2)
	path, err := tr.Save()
	require.NoError(t, err)

	given := c
	given.Model, given.Dir = newModel(t), t.TempDir()
	given.Model.Init(99)
	given.EvalEvery, given.SaveEvery = 3, 4 // these may differ
	be := &faulty{Backend: newBackend(t)}
	given.Backend = be
	fresh := given
	fresh.Dir, fresh.SaveEvery = "", 0
	_, _, err = newTrainer(t, fresh).Eval(context.Background(), c.Val) // a backend may keep the old weights now
	require.NoError(t, err)
	gen := be.gen
	moved := resume(t, path, given)
	_, _, err = moved.Eval(context.Background(), c.Val)
	require.NoError(t, err)
	require.NotEqual(t, gen, be.gen, "the backend must see that the weights changed")
	require.Same(t, given.Model, moved.Model())
	require.Equal(t, weights(tr), weights(moved))
	run(t, moved, 0)
	run(t, tr, 0)
	require.Equal(t, weights(tr), weights(moved))
	for _, dir := range []string{c.Dir, given.Dir} {
		state, _, err := checkpoint.LoadState(dir)
		require.NoError(t, err)
		require.Equal(t, 20, state.Step)
	}

	require.NoError(t, moved.Close())
	require.NoError(t, tr.Close())
	_, err = train.Resume(c.Dir, given)
	require.ErrorIs(t, err, fs.ErrExist, "the other directory has checkpoints")

	require.NoError(t, os.Mkdir(filepath.Join(c.Dir, "checkpoint-1"), 0o777)) // what a kill may leave
	done := resume(t, c.Dir, c)
	require.Empty(t, run(t, done, 0), "the run is over")
}

// turning is a schedule that breaks its contract after Validate has looked.
type turning struct{ bad *bool }

func (s turning) At(step int) float64 {
	if *s.bad {
		return math.NaN()
	}
	return 1e-3
}

func TestABadLearningRateNeverReachesTheWeights(t *testing.T) {
	bad := false
	c := newConfig(t)
	c.Schedule = turning{&bad}
	tr := newTrainer(t, c)
	run(t, tr, 2)
	before := weights(tr)
	bad = true
	_, last, err := fail(t, context.Background(), tr)
	require.ErrorContains(t, err, "Config.Schedule gives step 3 the learning rate NaN")
	require.Equal(t, 2, last.Step)
	require.Equal(t, before, weights(tr))
}

func TestValidateOfALongRunIsQuick(t *testing.T) {
	c := newConfig(t)
	c.Schedule, c.Steps = train.WarmupCosine{LR: 1e-3, Steps: math.MaxInt32}, math.MaxInt32
	start := time.Now()
	require.NoError(t, c.Validate())
	require.Less(t, time.Since(start), 5*time.Second)
}

func TestResumePassesOverADamagedCheckpointAndSaysSo(t *testing.T) {
	c := newConfig(t)
	c.Dir = t.TempDir()
	whole := newTrainer(t, c)
	run(t, whole, 2)
	good, err := whole.Save()
	require.NoError(t, err)
	run(t, whole, 0)
	// The checkpoint of step 20 took the place of that of step 2; bring it back.
	state, last, err := checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	require.Equal(t, 20, state.Step)
	require.NoDirExists(t, good)
	other := c
	other.Model, other.Dir = newModel(t), t.TempDir()
	early := newTrainer(t, other)
	run(t, early, 2)
	saved, err := early.Save()
	require.NoError(t, err)
	require.NoError(t, os.Rename(saved, good))
	weightsFile := filepath.Join(last, "model.safetensors")
	b, err := os.ReadFile(weightsFile)
	require.NoError(t, err)
	b[len(b)-1] ^= 1
	require.NoError(t, os.WriteFile(weightsFile, b, 0o666))

	c.Model = nil
	require.NoError(t, whole.Close())
	tr := resume(t, c.Dir, c)
	require.Equal(t, 2, tr.Step())
	require.Len(t, tr.Damaged(), 1)
	require.ErrorContains(t, tr.Damaged()[0], "checkpoint-20")
	run(t, tr, 0)
	require.Equal(t, weights(whole), weights(tr))
	state, _, err = checkpoint.LoadState(c.Dir)
	require.NoError(t, err)
	require.Equal(t, 20, state.Step, "the damaged one was replaced")
	require.Empty(t, state.Damaged)
}

func TestValidateNamesTheField(t *testing.T) {
	require.NoError(t, newConfig(t).Validate())
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		want   string
		change func(c *train.Config)
	}{
		{"Config.Model is nil", func(c *train.Config) { c.Model = nil }},
		{"Config.Backend is nil", func(c *train.Config) { c.Backend = nil }},
		{"Config.Schedule is nil", func(c *train.Config) { c.Schedule = nil }},
		{"Config.Batch is 0", func(c *train.Config) { c.Batch = 0 }},
		{"Config.SeqLen is -1", func(c *train.Config) { c.SeqLen = -1 }},
		{"Config.SeqLen is 17, want at most the model's 16", func(c *train.Config) { c.SeqLen = 17 }},
		{"Config.Accumulate is -1", func(c *train.Config) { c.Accumulate = -1 }},
		{"Config.Steps is 0", func(c *train.Config) { c.Steps = 0 }},
		{"too many tokens in a step", func(c *train.Config) { c.Batch, c.Accumulate = 1<<30, 1<<30 }},
		{"Config.Train has 12 tokens, want at least one window of SeqLen+1 = 13", func(c *train.Config) { c.Train = c.Train[:12] }},
		{"Config.Train[3] is token 11, want 0 to 10", func(c *train.Config) { c.Train = slices.Clone(c.Train); c.Train[3] = 11 }},
		{"Config.Val[49] is token -1", func(c *train.Config) { c.Val = slices.Clone(c.Val); c.Val[49] = -1 }},
		{"Config.EvalEvery is -1", func(c *train.Config) { c.EvalEvery = -1 }},
		{"Config.EvalEvery is 5, but there are 1 tokens", func(c *train.Config) { c.EvalEvery, c.Val = 5, c.Val[:1] }},
		{"there are 1 tokens", func(c *train.Config) { c.EvalEvery, c.Val = 5, c.Val[:1] }},
		{"Config.EvalTokens is -1", func(c *train.Config) { c.EvalTokens = -1 }},
		{"Config.EvalStride is 13", func(c *train.Config) { c.EvalStride = 13 }},
		{"Config.EvalStride is -1", func(c *train.Config) { c.EvalStride = -1 }},
		{"Config.SaveEvery is -1", func(c *train.Config) { c.SaveEvery = -1 }},
		{"Config.SaveEvery is 5, but there is no Dir", func(c *train.Config) { c.SaveEvery = 5 }},
		{"Config.ClipNorm is NaN", func(c *train.Config) { c.ClipNorm = nan }},
		{"Config.ClipNorm is -1", func(c *train.Config) { c.ClipNorm = -1 }},
		{"Config.ClipNorm is +Inf", func(c *train.Config) { c.ClipNorm = inf }},
		{"Config.Adam.Beta1 is 1,", func(c *train.Config) { c.Adam = chainrule.Adam{Beta1: 1, Eps: 1} }},
		{"Config.Adam.Beta2 is NaN", func(c *train.Config) { c.Adam = chainrule.Adam{Beta2: nan, Eps: 1} }},
		{"Config.Adam.Eps is 0", func(c *train.Config) { c.Adam = chainrule.Adam{Beta1: 0.9} }},
		{"Config.Adam.WeightDecay is -1", func(c *train.Config) { c.Adam = chainrule.Adam{Eps: 1, WeightDecay: -1} }},
		{"Config.Adam.LR is 0.1", func(c *train.Config) { c.Adam = chainrule.Adam{Eps: 1, LR: 0.1} }},
		{"Config.Adam.ZeroGrad is true", func(c *train.Config) { c.Adam = chainrule.Adam{Eps: 1, ZeroGrad: true} }},
		{"Config.Adam.GradScale is 2", func(c *train.Config) { c.Adam = chainrule.Adam{Eps: 1, GradScale: 2} }},
		{"Config.Schedule gives step 1 the learning rate NaN", func(c *train.Config) { c.Schedule = train.Constant{LR: nan} }},
		{"Config.Schedule gives step 20 the learning rate -1", func(c *train.Config) {
			c.Schedule = train.WarmupCosine{LR: 1, MinLR: -1, Steps: 20, Warmup: 19}
		}},
	} {
		cfg := newConfig(t)
		c.change(&cfg)
		require.ErrorContains(t, cfg.Validate(), c.want)
		_, err := train.New(cfg)
		require.ErrorContains(t, err, c.want)
	}
}
