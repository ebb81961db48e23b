package train_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/train"
)

// faults are what is injected: values, and a flip of the highest bit of the
// exponent.
var faults = []struct {
	name string
	of   func(v float32) float32
}{
	{"NaN", func(float32) float32 { return float32(math.NaN()) }},
	{"Inf", func(float32) float32 { return float32(math.Inf(1)) }},
	{"-Inf", func(float32) float32 { return float32(math.Inf(-1)) }},
	{"flip", func(v float32) float32 { return math.Float32frombits(math.Float32bits(v) ^ 1<<30) }},
}

// What goes wrong in a product, in any call of a step, is found before the
// update of that step, unless the model bounds it (see BadNumberError).
func TestEveryFaultInAProductIsFoundBeforeTheUpdate(t *testing.T) {
	const good = 18 // steps
	be := &faulty{Backend: newBackend(t)}
	c := newConfig(t)
	c.Backend, c.Steps, c.Schedule = be, 40, train.Constant{LR: 1e-3}
	tr := newTrainer(t, c)
	run(t, tr, good)
	linears, backwards := be.linears/good, be.backwards/good
	before := weights(tr)
	const q, k, v = 8, 4, 4
	perLayer := (linears - 1) / shape.NLayers
	injected, places := 0, 8
	if testing.Short() { // under emulation
		places = 1
	}
	for _, fault := range faults {
		for call := range linears + backwards {
			for at := range places {
				bounded, done := false, false
				inject := func(out []float32, linear bool) {
					if i := at * (len(out) - 1) / 7; len(out) > 0 && !done {
						is := fault.of(out[i])
						qk := linear && call < linears-1 && call%perLayer == 0 && i%(q+k+v) < q+k && fault.name == "flip"
						gate := linear && call < linears-1 && call%perLayer == 2 && i%(2*shape.HiddenDim) < shape.HiddenDim && fault.name == "flip"
						bounded = qk || gate && is < 0 || linear && call == linears-1 && is < 0
						if !bounded {
							out[i] = is
						}
						done = true
					}
				}
				first, firstBack := be.linears, be.backwards
				be.linear = func(n int, out []float32) error {
					if n-first == call+1 {
						inject(out, true)
					}
					if bounded {
						return io.EOF // not this one
					}
					return nil
				}
				be.backward = func(n int, out []float32) error {
					if n-firstBack == call-linears+1 {
						inject(out, false)
					}
					return nil
				}
				what := fmt.Sprintf("%s in call %d of %d+%d, element %d/7", fault.name, call, linears, backwards, at)
				err := runUntil(tr, func(train.Step) {})
				require.True(t, done, what)
				require.Error(t, err, what)
				require.Equal(t, good, tr.Step(), what)
				require.Equal(t, before, weights(tr), what)
				if bounded {
					require.ErrorIs(t, err, io.EOF)
					continue
				}
				require.ErrorAs(t, err, new(*train.BadNumberError), what)
				injected++
			}
		}
	}
	t.Logf("%d faults found", injected)
	require.Greater(t, injected, 60*places)
}

// states are the parts of a run's state that may go bad between two steps.
func states(t testing.TB, tr *train.Trainer) map[string]*chainrule.Params {
	return map[string]*chainrule.Params{
		"weight": tr.Model().Params, "average": tr.Averaged().Params,
		"first moment": params(t, tr.AdamState().M), "second moment": params(t, tr.AdamState().V),
	}
}

// params returns the tensors of flat memory.
func params(t testing.TB, data []float32) *chainrule.Params {
	p, err := chainrule.ParamsOf(shape, data)
	require.NoError(t, err)
	return p
}

// A number that a flip makes huge; a moment may be too small for that.
func flippable(v float32) bool { return math.Abs(float64(v)) > 1e-15 }

func TestNoFaultInTheStateIsSaved(t *testing.T) {
	c := newConfig(t)
	c.EMA, c.Dir = 0.9, t.TempDir()
	tr := newTrainer(t, c)
	run(t, tr, 9)
	for where, p := range states(t, tr) {
		for tensor := range p.Tensors() {
			for _, fault := range faults {
				i := slices.IndexFunc(tensor.Data, flippable)
				require.GreaterOrEqual(t, i, 0)
				old := tensor.Data[i]
				tensor.Data[i] = fault.of(old)
				_, err := tr.Save()
				require.Error(t, err, "%s in the %s of %s: %v", fault.name, where, tensor.Name, tensor.Data[i])
				require.ErrorContains(t, err, fmt.Sprintf("not saved: step 9: the %s", where))
				require.ErrorContains(t, err, fmt.Sprintf("%s[%d] is ", tensor.Name, i))
				tensor.Data[i] = old
			}
		}
	}
	v := params(t, tr.AdamState().V).RMSFinal
	v[3] = -v[3]
	_, err := tr.Save()
	require.ErrorContains(t, err, "the second moment of rms_final[3] is -")
	left, err := checkpoint.States(c.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Whether a step or the save finds it: a run that rolls back goes on, and one
// that stops has a good checkpoint.
func TestAFaultInTheStateRollsBack(t *testing.T) {
	c := newConfig(t)
	c.EMA, c.SaveEvery, c.OnBad = 0.9, 10, train.RollBack
	clean := c
	clean.Dir, clean.SaveEvery, clean.OnBad = "", 0, 0
	whole := newTrainer(t, clean)
	run(t, whole, 0)
	for _, where := range []string{"weight", "first moment", "second moment", "average"} {
		for _, fault := range faults {
			c.Model, c.Dir = newModel(t), t.TempDir()
			tr := newTrainer(t, c)
			rolled, armed := 0, true
			require.NoError(t, runUntil(tr, func(s train.Step) {
				if s.Bad != nil {
					rolled++
					require.ErrorAs(t, s.Bad, new(*train.BadNumberError))
					require.Equal(t, 10, s.Step)
				}
				if s.Step == 18 && armed {
					armed = false
					data := states(t, tr)[where].Layers[1].W1
					i := slices.IndexFunc(data, flippable)
					data[i] = fault.of(data[i])
					tr.Model().Touch()
				}
			}))
			require.Equal(t, 1, rolled, "%s in a %s", fault.name, where)
			state, _, err := checkpoint.LoadState(c.Dir)
			require.NoError(t, err)
			require.Equal(t, 20, state.Step)
			if state.Position == 20 { // the save found it, so that no batch was blamed
				require.Equal(t, weights(whole), weights(tr))
			}
			require.NoError(t, tr.Close())
		}
	}
}

// spiked is a source with one batch of nonsense.
type spiked struct {
	*data.Batches
	at int
}

func (s spiked) Fill(k int, tokens, targets []int32) error {
	err := s.Batches.Fill(k, tokens, targets)
	if k == s.at {
		for i := range tokens {
			tokens[i], targets[i] = 5, int32(i%11)
		}
	}
	return err
}

func TestASpikeIsSkippedOrRolledBack(t *testing.T) {
	c := newConfig(t)
	batches, err := data.NewBatches(c.Train, c.Batch, c.SeqLen, c.Seed)
	require.NoError(t, err)
	c.Train, c.Steps, c.Schedule = nil, 100, train.Constant{LR: 1e-2}
	for _, policy := range []train.Policy{train.Stop, train.Skip, train.RollBack} {
		c.Model, c.Source, c.Dir, c.SaveEvery = newModel(t), spiked{batches, 70}, t.TempDir(), 30
		c.OnBad, c.Spike = policy, 8
		var kinds []train.Kind
		c.OnEvent = func(e train.Event) {
			if e.Kind != train.Stepped && e.Kind != train.Saved {
				kinds = append(kinds, e.Kind)
			}
		}
		tr := newTrainer(t, c)
		var bad []train.Step
		last := runUntil(tr, func(s train.Step) {
			if s.Bad != nil {
				bad = append(bad, s)
			}
		})
		if policy == train.Stop {
			var spike *train.BadNumberError
			require.ErrorAs(t, last, &spike)
			require.Equal(t, 71, spike.Step)
			require.Equal(t, 70, tr.Step())
			require.Greater(t, spike.Value, spike.Mean+8*spike.Sigma)
			require.Regexp(t, `step 71: the (loss|gradient norm) is \S+, \d+ standard deviations above the recent mean`, last.Error())
			require.Equal(t, []train.Kind{train.Started, train.Ended}, kinds)
			continue
		}
		require.NoError(t, last)
		require.Len(t, bad, 1)
		require.Equal(t, 100, tr.Step())
		if policy == train.Skip {
			require.Equal(t, 71, bad[0].Step)
			require.Equal(t, []train.Kind{train.Started, train.Skipped, train.Ended}, kinds)
		} else {
			require.Equal(t, 60, bad[0].Step)
			require.Equal(t, []train.Kind{train.Started, train.Skipped, train.RolledBack, train.Ended}, kinds)
		}
		state, _, err := checkpoint.LoadState(c.Dir)
		require.NoError(t, err)
		require.Equal(t, int64(101), state.Position, "the batch was passed over")

		// Both policies end where a run without that batch ends.
		without := c
		without.Model, without.Dir, without.SaveEvery, without.OnBad, without.Spike, without.OnEvent = newModel(t), "", 0, 0, 0, nil
		without.Source = skipping{batches, 70}
		w := newTrainer(t, without)
		run(t, w, 0)
		require.Equal(t, weights(w), weights(tr))

		// And so does one that was interrupted behind it.
		other := c
		other.Model, other.Dir = newModel(t), t.TempDir()
		first := newTrainer(t, other)
		for s, err := range first.Run(context.Background()) {
			require.NoError(t, err)
			if s.Step == 85 {
				break
			}
		}
		_, err = first.Save()
		require.NoError(t, err)
		require.NoError(t, first.Close())
		second := resume(t, other.Dir, other)
		run(t, second, 0)
		require.Equal(t, weights(w), weights(second))
	}
}

// skipping leaves a batch out.
type skipping struct {
	*data.Batches
	at int
}

func (s skipping) Fill(k int, tokens, targets []int32) error {
	if k >= s.at {
		k++
	}
	return s.Batches.Fill(k, tokens, targets)
}

// runUntil takes steps until an error or the end, and returns the error.
func runUntil(tr *train.Trainer, between func(s train.Step)) error {
	for s, err := range tr.Run(context.Background()) {
		if err != nil {
			return err
		}
		between(s)
	}
	return nil
}

// Weights that are bad themselves are not trained around for ever.
func TestNoRunGoesOnWithoutEndOverBadSteps(t *testing.T) {
	for _, policy := range []train.Policy{train.Skip, train.RollBack} {
		be := &faulty{Backend: newBackend(t)}
		c := newConfig(t)
		c.Backend, c.Dir, c.OnBad = be, t.TempDir(), policy
		tr := newTrainer(t, c)
		run(t, tr, 5)
		be.linear = func(_ int, y []float32) error {
			y[0] = float32(math.NaN())
			return nil
		}
		steps, _, err := fail(t, context.Background(), tr)
		require.Len(t, steps, 3)
		require.ErrorContains(t, err, "the loss is NaN")
		require.ErrorContains(t, err, "it is the 4. of the kind")
	}
}

// The checks of a step cost a microsecond and one more for every thousand tokens,
// also in models whose steps take seconds.
func BenchmarkChecks(b *testing.B) {
	c := newConfig(b)
	c.Steps = math.MaxInt32
	c.Schedule = train.Constant{LR: 1e-3}
	c.Spike = 1e9
	tr := newTrainer(b, c)
	run(b, tr, 100)
	b.Run("step", func(b *testing.B) {
		run(b, tr, b.N)
	})
	b.Run("checks", func(b *testing.B) {
		for b.Loop() {
			if err := tr.Check(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
