package ane

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/ane/internal/sim"
)

// layoutOf tells which layout a text has.
func layoutOf(text string) string {
	switch {
	case strings.Contains(text, "transpose("):
		return "published"
	case strings.Contains(text, "transpose_x=bT"):
		return "wide"
	}
	return "rows"
}

// A layout that the device refuses, or answers wrongly, is passed over.
func TestTheNextLayoutIsTried(t *testing.T) {
	for _, c := range []struct {
		name  string
		step  sim.Step
		fault sim.Fault
		why   string
	}{
		{"compilation fails", sim.Compile, sim.Error, "ANECCompile() FAILED"},
		{"load fails", sim.Load, sim.Error, "load failure"},
		{"0x1d", sim.Eval, sim.Error, "0x1d"},
		{"silent zeros", sim.Eval, sim.Zeros, "all zero"},
		{"wrong result", sim.Eval, sim.Garbage, "wrong result"},
		{"infinities", sim.Eval, sim.Infinite, "wrong result"},
		{"no surface", sim.Bind, sim.Error, "IOSurfaceCreate"},
		{"no lock", sim.Lock, sim.Error, "IOSurfaceLock"},
	} {
		for bad := range 4 { // how many of the layouts
			t.Run(c.name, func(t *testing.T) {
				chip := sim.Early()
				be := open(t, chip, Options{})
				refused := map[Product]map[string]bool{}
				for _, p := range []Product{Forward, Backward} {
					refused[p] = map[string]bool{}
					for _, l := range layouts(p)[:bad] {
						refused[p][l.name] = true
					}
				}
				product := Forward
				chip.Fault = func(s sim.Step, text string) sim.Fault {
					if s == c.step && refused[product][layoutOf(text)] {
						return c.fault
					}
					return sim.None
				}
				q := newProblem(t, 64, 96, 160, 1)
				require.NoError(t, be.Linear(q.y, q.x, q.w, q.rows))
				product = Backward
				require.NoError(t, be.LinearBackward(q.dx, q.dw, q.dy, q.x, q.w, q.rows))
				q.verify(t)
				for _, p := range []Product{Forward, Backward} {
					s := shapeOf(t, be, p)
					require.Len(t, s.Rejected, bad)
					for i, why := range s.Rejected {
						require.Contains(t, why, c.why)
						require.True(t, strings.HasPrefix(why, layouts(p)[i].name+": "), why)
					}
					if bad < 3 {
						require.Equal(t, layouts(p)[bad].name, s.Layout)
						require.Equal(t, 1, s.OnDevice)
					} else {
						require.Empty(t, s.Layout)
						require.Equal(t, map[string]int{"no layout was accepted": 1}, s.Reasons)
					}
				}
				require.Equal(t, be.Stats().Programs, chip.Counts().Loaded)
				require.Equal(t, be.Stats().Programs, chip.Counts().Requests, "trials leave none")
				runtime.KeepAlive(q)
			})
		}
	}
}

// Every step of a trial and of a product fails once; the results are right,
// the failure is counted, and nothing is left behind.
func TestEveryFaultAtEveryCall(t *testing.T) {
	run := func(t *testing.T, fail int64, fault sim.Fault, only sim.Step) (steps int64) {
		chip := sim.Early()
		be := open(t, chip, Options{})
		var at atomic.Int64
		chip.Fault = func(s sim.Step, _ string) sim.Fault {
			if only != "" && s != only {
				return sim.None
			}
			if at.Add(1)-1 == fail {
				return fault
			}
			return sim.None
		}
		p := newProblem(t, 64, 96, 160, 2)
		for range 2 {
			p.run(t, be)
			p.verify(t)
		}
		steps = at.Load()
		chip.Fault = nil
		if fail >= 0 {
			s := be.Stats()
			seen := 0
			for _, shape := range s.Shapes {
				require.Equal(t, 2, shape.Calls)
				seen += len(shape.Rejected)
				for _, n := range shape.Reasons {
					seen += n
				}
			}
			require.Equal(t, 1, seen, "call %d: %s", fail, s)
		}
		require.NoError(t, be.Close())
		require.Zero(t, chip.Counts().Requests)
		require.Zero(t, chip.Counts().Loaded)
		return steps
	}
	steps := run(t, -1, sim.None, "")
	require.EqualValues(t, 2*(8+6+5), steps, "a trial, a call that binds, and one that does not, of both products")
	for i := range steps {
		run(t, i, sim.Error, "")
	}
	evals := run(t, -1, sim.None, sim.Eval)
	require.EqualValues(t, 6, evals)
	for _, fault := range []sim.Fault{sim.Zeros, sim.Infinite} {
		for i := range evals {
			run(t, i, fault, sim.Eval)
		}
	}
}

func TestAResultThatIsNotFiniteIsTriedAtASmallerScale(t *testing.T) {
	chip := sim.Early()
	chip.Largest = 900
	be := open(t, chip, Options{})
	q := newProblem(t, 64, 96, 192, 4)
	for i := range q.x {
		q.x[i] = 1
	}
	for i := range q.w.Data {
		q.w.Data[i] = 1 + float32(i%7)/8
	}
	// Sums of 192 products of 8 and 0.5 to 0.9, then of a sixteenth of that.
	require.NoError(t, be.Linear(q.y, q.x, q.w, q.rows))
	q.solve(t)
	require.Less(t, difference(q.y, q.wantY), 0x1p-10)
	s := shapeOf(t, be, Forward)
	require.Equal(t, 1, s.OnDevice)
	require.Equal(t, map[string]int{"run again at a smaller scale": 1}, s.Reasons)
	require.Equal(t, 2, s.Evaluations)
}

func TestAProgramThatKeepsFailingIsGivenUp(t *testing.T) {
	chip := sim.Early()
	be := open(t, chip, Options{})
	p := newProblem(t, 64, 96, 160, 5)
	p.run(t, be)
	chip.Fault = func(s sim.Step, _ string) sim.Fault {
		if s == sim.Eval {
			return sim.Infinite
		}
		return sim.None
	}
	for range 5 {
		require.NoError(t, be.Linear(p.y, p.x, p.w, p.rows))
		p.solve(t)
		require.Equal(t, p.wantY, p.y)
	}
	s := shapeOf(t, be, Forward)
	require.Equal(t, 1, s.OnDevice)
	require.Equal(t, map[string]int{
		"run again at a smaller scale":         3,
		"the result was infinite or NaN twice": 3,
		"given up after failures in a row":     2,
	}, s.Reasons)
}

// The device's own limits, beyond those of the Options.
func TestTheDevicesLimits(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit func(*sim.Chip)
		why   string
	}{
		{"the 16th program", func(c *sim.Chip) { c.MaxLive = 1 }, "programs are loaded"},
		{"the 120th compilation", func(c *sim.Chip) { c.MaxCompiles = 1 }, "programs were compiled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			chip := sim.Early()
			c.limit(chip)
			be := open(t, chip, Options{})
			p := newProblem(t, 64, 96, 160, 6)
			p.run(t, be)
			p.verify(t)
			require.Equal(t, 1, shapeOf(t, be, Forward).OnDevice)
			s := shapeOf(t, be, Backward)
			require.Zero(t, s.OnDevice)
			require.Len(t, s.Rejected, 3)
			require.Contains(t, s.Rejected[0], c.why)
		})
	}
}

// An early engine's slices turn |v| > 4094 into infinity: scaled weights are
// far below.
func TestClampedSlicesAreNoMatter(t *testing.T) {
	be := open(t, sim.Early(), Options{})
	p := newProblem(t, 64, 96, 160, 7)
	for i := range p.w.Data {
		p.w.Data[i] *= 5000
	}
	p.run(t, be)
	p.verify(t)
	require.Equal(t, 1, shapeOf(t, be, Backward).OnDevice)
}

// An engine that does not accumulate wide is found out.
func TestNarrowSumsAreNoticed(t *testing.T) {
	chip := sim.Early()
	be := open(t, chip, Options{})
	chip.Fault = func(s sim.Step, _ string) sim.Fault {
		if s == sim.Eval {
			return sim.Narrow
		}
		return sim.None
	}
	p := newProblem(t, 64, 96, 96, 8)
	require.NoError(t, be.Linear(p.y, p.x, p.w, p.rows))
	s := shapeOf(t, be, Forward)
	require.Zero(t, s.OnDevice)
	require.Len(t, s.Rejected, 3)
	require.Contains(t, s.Rejected[0], "wrong result")

	chip.Fault = nil
	trials, err := be.Try(Backward, 64, 96, 1024)
	require.NoError(t, err)
	require.Len(t, trials, 3)
	for _, trial := range trials {
		require.NoError(t, trial.Err)
		require.InDelta(t, 0.7, trial.RMSError*2048, 0.1)
		require.Less(t, trial.MaxError, accept/2)
		require.Positive(t, trial.Eval)
	}
	p.solve(t)
	require.Equal(t, p.wantY, p.y)
}
