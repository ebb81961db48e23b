package ane

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/ane/internal/sim"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/backendtest"
	"github.com/chainrule-go/chainrule/backend/cpu"
)

// roundoff bounds the error of a product of k terms through binary16 by
// √k·roundoff·Σ|a||b|, for any k ≥ 1. With u = 2⁻¹¹, each factor is within
// u of itself (scaled, so that it is normal, or less than 2⁻¹⁸ of the row's
// largest), so a product of two is within 2u+u²; the sum, accumulated wide, is
// rounded once more, by u: together 3u+3u²+u³ of Σ|a||b|. The rest is for the
// accumulation (2⁻²⁴) and for factors that became subnormal: at most 2⁻²⁵ of
// 2⁻¹ or 2³.
const roundoff = 3.01 * 0x1p-11

var unlimited = Options{MinRows: 1, MaxPrograms: 1000, MaxCompiles: 1000}

// unlimitedChip is an early engine that takes any number of programs.
func unlimitedChip() *sim.Chip {
	c := sim.Early()
	c.MaxLive, c.MaxCompiles = 1000, 1000
	return c
}

func open(t testing.TB, chip *sim.Chip, o Options) *Backend {
	be, err := newBackend(sim.Device{Chip: chip}, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	return be
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		chip func() *sim.Chip
	}{
		{"everything on the device", unlimited, unlimitedChip},
		{"within the limits", Options{MinRows: 1}, sim.Early},
		{"as it comes", Options{}, sim.M4},
	}[:map[bool]int{false: 3, true: 1}[raced]] {
		t.Run(c.name, func(t *testing.T) {
			backendtest.Run(t, func() backend.Backend {
				be, err := newBackend(sim.Device{Chip: c.chip()}, c.o)
				require.NoError(t, err)
				return be
			}, conformance)
		})
	}
}

// conformance leaves out the allocations: with dx and dw at the same time, one
// waits for the other, and the runtime may allocate what a waiting goroutine
// needs. TestNoAllocationAfterTheFirstCall has the rest.
var conformance = backendtest.Options{Roundoff: roundoff, Inexact: true, Allocates: true}

func TestNoAllocationAfterTheFirstCall(t *testing.T) {
	if raced {
		t.Skip("waits are long, and the runtime allocates what waiting goroutines need")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	be := open(t, sim.Early(), Options{})
	p := newProblem(t, 200, 300, 64, 1)
	p.run(t, be)
	require.Equal(t, 1, shapeOf(t, be, Backward).OnDevice)
	for try := 0; ; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			require.NoError(t, be.Linear(p.y, p.x, p.w, p.rows))
			require.NoError(t, be.LinearBackward(p.dx, nil, p.dy, nil, p.w, p.rows))
		}
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n == 0 {
			return
		} else if try == 20 { // the runtime itself allocates now and then
			require.Failf(t, "allocations", "%d in 40 calls after the first", n)
		}
	}
}

// problem is a layer with its gradient.
type problem struct {
	rows                 int
	w                    *backend.Matrix
	x, dy, y, dx, dw     []float32
	wantY, wantDX, dwCPU []float32 // the CPU's
}

func newProblem(t testing.TB, rows, out, in int, seed uint64) *problem {
	rng := rand.New(rand.NewPCG(seed, 26))
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	return &problem{
		rows: rows, w: &backend.Matrix{Data: random(out * in), Out: out, In: in, Gen: 1},
		x: random(rows * in), dy: random(rows * out), y: make([]float32, rows*out), dx: make([]float32, rows*in), dw: make([]float32, out*in),
	}
}

func (p *problem) run(t testing.TB, be backend.Backend) {
	clear(p.dw)
	require.NoError(t, be.Linear(p.y, p.x, p.w, p.rows))
	require.NoError(t, be.LinearBackward(p.dx, p.dw, p.dy, p.x, p.w, p.rows))
}

// solve computes on the CPU what run must be close to.
func (p *problem) solve(t testing.TB) {
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	q := *p
	q.y, q.dx, q.dw = make([]float32, len(p.y)), make([]float32, len(p.dx)), make([]float32, len(p.dw))
	q.run(t, be)
	p.wantY, p.wantDX, p.dwCPU = q.y, q.dx, q.dw
}

// difference is ‖got-want‖ / ‖want‖.
func difference(got, want []float32) float64 {
	var d, s float64
	for i := range want {
		e := float64(got[i]) - float64(want[i])
		d += e * e
		s += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(d / s)
}

// verify checks that y and dx are those of binary16 (or of the CPU, if they
// are exactly its), and dw the CPU's to the bit.
func (p *problem) verify(t testing.TB) {
	p.solve(t)
	require.Less(t, difference(p.y, p.wantY), 0x1p-10)
	require.Less(t, difference(p.dx, p.wantDX), 0x1p-10)
	require.Equal(t, p.dwCPU, p.dw)
}

func shapeOf(t testing.TB, be *Backend, p Product) ShapeStats {
	s := be.Stats().Shapes
	i := slices.IndexFunc(s, func(s ShapeStats) bool { return s.Product == p })
	require.GreaterOrEqual(t, i, 0)
	return s[i]
}

func TestProductsRunOnTheDevice(t *testing.T) {
	be := open(t, sim.Early(), Options{})
	p := newProblem(t, 128, 320, 192, 1)
	for range 3 {
		p.run(t, be)
		p.verify(t)
		require.NotZero(t, difference(p.y, p.wantY), "not binary16")
		require.NotZero(t, difference(p.dx, p.wantDX), "not binary16")
	}
	for _, c := range []struct {
		p      Product
		layout string
	}{{Forward, "rows"}, {Backward, "wide"}} {
		s := shapeOf(t, be, c.p)
		require.Equal(t, c.layout, s.Layout)
		require.Equal(t, []int{3, 3, 3}, []int{s.Calls, s.OnDevice, s.Evaluations})
		require.Empty(t, s.Reasons)
		require.Empty(t, s.Rejected)
		require.Empty(t, s.Error)
		require.EqualValues(t, 2*320*192, s.WeightBytes, "once")
	}
	stats := be.Stats()
	require.Equal(t, 2, stats.Programs)
	require.EqualValues(t, 2*((128+320)*192+128*320)+2*((128+192)*320+128*192), stats.Bytes)
	runtime.KeepAlive(p)
}

func TestGradientsOfAnySizeKeepTheirPrecision(t *testing.T) {
	for _, size := range []float32{1e-30, 1e-7, 1, 1e4, 1e30} {
		be := open(t, sim.Early(), Options{})
		p := newProblem(t, 64, 96, 160, 2)
		for i := range p.dy {
			p.dy[i] *= size
		}
		p.run(t, be)
		p.verify(t)
		require.Equal(t, 1, shapeOf(t, be, Backward).OnDevice, "%g", size)
	}
}

// Rows and weights of very different sizes, as in a gradient where a few
// tokens are still wrong.
func TestEachRowHasItsScale(t *testing.T) {
	be := open(t, sim.Early(), Options{})
	p := newProblem(t, 64, 96, 160, 3)
	for i := range p.dy {
		p.dy[i] *= float32(math.Pow(10, -float64(i/96%20)))
	}
	for i := range p.w.Data {
		p.w.Data[i] *= 1e-6
	}
	clear(p.dy[5*96 : 6*96])
	p.run(t, be)
	p.verify(t)
	for r := range p.rows {
		if got, want := p.dx[r*160:][:160], p.wantDX[r*160:][:160]; r != 5 {
			require.Less(t, difference(got, want), 0x1p-10, "row %d", r)
		} else {
			require.Equal(t, want, got)
		}
	}
	require.Equal(t, 1, shapeOf(t, be, Backward).OnDevice)
}

func TestTheClassifierIsTiled(t *testing.T) {
	chip := sim.Early()
	chip.MaxAxis = 480
	be := open(t, chip, Options{})
	p := newProblem(t, 128, 1000, 96, 4) // 3 tiles of 352, 352 and 296 rows
	for gen := range uint64(2) {
		p.w.Gen = gen
		p.run(t, be)
		p.verify(t)
	}
	for _, product := range []Product{Forward, Backward} {
		s := shapeOf(t, be, product)
		require.Equal(t, 2, s.OnDevice)
		require.Equal(t, 2*3, s.Evaluations)
		require.EqualValues(t, 2*2*1000*96, s.WeightBytes)
	}
	require.EqualValues(t, 2*3*2*128*96, shapeOf(t, be, Forward).ActivationBytes)
	require.EqualValues(t, 2*2*128*1000, shapeOf(t, be, Backward).ActivationBytes)
}

func TestManyRowsAreCutIntoChunks(t *testing.T) {
	be := open(t, sim.Early(), Options{})
	p := newProblem(t, 5000, 32, 32, 5) // 2500 are rounded up to 3072
	p.run(t, be)
	p.verify(t)
	s := shapeOf(t, be, Forward)
	require.Equal(t, []int{3072, 1, 2}, []int{s.Rows, s.OnDevice, s.Evaluations})
}

func TestWeightsAreStagedWhenGenChanges(t *testing.T) {
	chip := sim.Early()
	be := open(t, chip, Options{})
	p, q := newProblem(t, 64, 64, 448, 6), newProblem(t, 64, 64, 448, 7)
	weights := func() int64 { s := be.Stats().Total(); return s.WeightBytes }
	const each = 2 * 64 * 448
	p.run(t, be)
	require.EqualValues(t, 2*each, weights())
	q.run(t, be)
	require.EqualValues(t, 4*each, weights())
	p.run(t, be)
	q.run(t, be)
	require.EqualValues(t, 4*each, weights())
	p.w.Data[0], p.w.Gen = 8, 2
	p.run(t, be)
	p.verify(t)
	require.EqualValues(t, 6*each, weights())

	// The device counts what it converts by itself.
	trials := chip.Counts().BytesPut
	p.run(t, be)
	require.EqualValues(t, 2*64*(64+448), chip.Counts().BytesPut-trials)
}

func TestACollectedMatrixFreesItsSurfaces(t *testing.T) {
	chip := sim.Early()
	be := open(t, chip, Options{})
	p := newProblem(t, 64, 96, 256, 8)
	p.run(t, be)
	before := be.Stats().Bytes
	func() {
		q := newProblem(t, 64, 96, 256, 9)
		q.run(t, be)
		require.Equal(t, 4, chip.Counts().Requests)
		require.EqualValues(t, 2*((256+96)*256+(96+256)*96), be.Stats().Bytes-before) // rows rounded up to 256 and 96
		runtime.KeepAlive(q)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return chip.Counts().Requests == 2 && be.Stats().Bytes == before
	}, 10*time.Second, time.Millisecond)
	p.run(t, be)
	p.verify(t)
}

func TestCloseReleasesEverything(t *testing.T) {
	chip := sim.Early()
	be := open(t, chip, Options{})
	newProblem(t, 64, 96, 256, 10).run(t, be)
	require.NoError(t, be.Close())
	require.Zero(t, be.Stats().Bytes)
	require.Zero(t, chip.Counts().Requests)
	require.Zero(t, chip.Counts().Loaded)
	runtime.GC()
}

func TestWhatTheDeviceCannotTakeRunsOnTheCPU(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		name   string
		rows   int
		in     int
		change func(p *problem)
		o      Options
		y, dx  string // reasons
	}{
		{name: "few rows", rows: 63, y: "fewer rows than MinRows", dx: "fewer rows than MinRows"},
		{name: "long axis", rows: 64, in: 20000, y: "an axis is too long for the device", dx: "an axis is too long for the device"},
		{name: "NaN in x", rows: 64, change: func(p *problem) { p.x[77] = nan }, y: "an input is infinite or NaN"},
		{name: "infinity in dy", rows: 64, change: func(p *problem) { p.dy[77] = -inf }, dx: "an input is infinite or NaN"},
		{name: "NaN in W", rows: 64, change: func(p *problem) { p.w.Data[77] = nan }, y: "an input is infinite or NaN", dx: "an input is infinite or NaN"},
		{name: "subnormal row", rows: 64, change: func(p *problem) {
			for i := range p.dy[:96] {
				p.dy[i] = 1e-39
			}
		}, dx: "an input is too large or too small to scale"},
		{name: "large times large", rows: 64, change: func(p *problem) {
			for i := range p.w.Data {
				p.w.Data[i] *= 1e20
			}
			for i := range p.x {
				p.x[i] *= 1e20
			}
		}, y: "an input is too large or too small to scale"},
		{name: "no programs", rows: 64, o: Options{MaxPrograms: 1}, dx: "MaxPrograms are loaded"},
		{name: "no compilations", rows: 64, o: Options{MaxCompiles: 1}, dx: "MaxCompiles are used up"},
	} {
		t.Run(c.name, func(t *testing.T) {
			be := open(t, sim.Early(), c.o)
			p := newProblem(t, c.rows, 96, max(c.in, 160), 11)
			if c.change != nil {
				c.change(p)
			}
			p.run(t, be)
			p.solve(t)
			for _, s := range []struct {
				p         Product
				reason    string
				got, want []float32
			}{{Forward, c.y, p.y, p.wantY}, {Backward, c.dx, p.dx, p.wantDX}} {
				stats := shapeOf(t, be, s.p)
				require.Equal(t, 1, stats.Calls)
				if s.reason == "" {
					require.Empty(t, stats.Reasons)
					require.Equal(t, 1, stats.OnDevice)
					continue
				}
				require.Equal(t, map[string]int{s.reason: 1}, stats.Reasons)
				require.Zero(t, stats.OnDevice)
				for i := range s.want {
					require.Equal(t, math.Float32bits(s.want[i]), math.Float32bits(s.got[i]))
				}
			}
			require.Contains(t, be.Stats().String(), c.y+c.dx[len(c.dx):])
		})
	}
}

func TestZeroWeightsAndInputsAreNoFailure(t *testing.T) {
	be := open(t, sim.Early(), Options{})
	p := newProblem(t, 64, 96, 160, 12)
	clear(p.w.Data)
	p.run(t, be)
	clear(p.x)
	clear(p.dy)
	p.w.Data[3], p.w.Gen = 1, 2
	p.run(t, be)
	require.Equal(t, make([]float32, len(p.y)), p.y)
	require.Equal(t, make([]float32, len(p.dx)), p.dx)
	for _, product := range []Product{Forward, Backward} {
		s := shapeOf(t, be, product)
		require.Empty(t, s.Reasons)
		require.Equal(t, 2, s.OnDevice)
	}
}

func TestConcurrentCalls(t *testing.T) {
	be := open(t, sim.Early(), Options{})
	shared := newProblem(t, 64, 96, 160, 13)
	var wg sync.WaitGroup
	for i := range 4 {
		p := newProblem(t, 64, 96, 160+i%2*32, uint64(20+i))
		if i > 1 {
			p.w = shared.w
			p.rows = 64
			p.x, p.dx, p.dw = p.x[:64*160], p.dx[:64*160], p.dw[:96*160]
		}
		wg.Go(func() {
			for range 5 {
				p.run(t, be)
				p.verify(t)
				be.Stats()
			}
		})
	}
	wg.Wait()
}

// meeting is a CPU backend that waits, in dW, for the device's evaluation.
type meeting struct {
	backend.Backend
	device, cpu chan struct{}
}

func (m meeting) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	if dw != nil {
		close(m.cpu)
		<-m.device
	}
	return m.Backend.LinearBackward(dx, dw, dy, x, w, rows)
}

func TestTheCPUComputesDWMeanwhile(t *testing.T) {
	onCPU, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	m := meeting{onCPU, make(chan struct{}), make(chan struct{})}
	chip := sim.Early()
	be := open(t, chip, Options{CPU: m})
	p := newProblem(t, 64, 96, 160, 14)
	require.NoError(t, be.LinearBackward(p.dx, nil, p.dy, nil, p.w, p.rows)) // the trial
	chip.Fault = func(s sim.Step, _ string) sim.Fault {
		if s == sim.Eval { // both get here, or neither returns
			close(m.device)
			<-m.cpu
		}
		return sim.None
	}
	done := make(chan error)
	go func() { done <- be.LinearBackward(p.dx, p.dw, p.dy, p.x, p.w, p.rows) }()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		require.Fail(t, "dx and dW wait for each other")
	}
	chip.Fault = nil
	p.solve(t)
	require.Equal(t, p.dwCPU, p.dw)
	require.Less(t, difference(p.dx, p.wantDX), 0x1p-10)
	require.NoError(t, be.Close())
	require.NoError(t, onCPU.LinearBackward(nil, p.dw, p.dy, p.x, p.w, p.rows), "it is still open")
}
