//go:build cgo && linux && amd64 && anefake

package ane

import (
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/ane/internal/bridge"
	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/ane/internal/fp16"
	"github.com/chainrule-go/chainrule/ane/internal/sim"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/backendtest"
)

// These tests run the bridge against the fake Objective-C runtime.

// bridged is a Backend on the fake framework, in a temporary directory of its
// own.
func bridged(t testing.TB, chip *sim.Chip, o Options) *Backend {
	t.Setenv("TMPDIR", t.TempDir())
	bridge.FakeFail(-1)
	bridge.FakeChip(chip)
	d, err := bridge.Open()
	require.NoError(t, err)
	be, err := newBackend(d, o)
	require.NoError(t, err)
	return be
}

// requireNothingLeft checks that all objects and directories are gone.
func requireNothingLeft(t testing.TB, live int, chip *sim.Chip) {
	require.Equal(t, live, bridge.FakeLive(), "Objective-C objects")
	require.Zero(t, chip.Counts().Loaded)
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

func fakeObjects(t testing.TB) int {
	_, err := bridge.Open() // makes what lives as long as the process
	require.NoError(t, err)
	return bridge.FakeLive()
}

func TestBridgeConformance(t *testing.T) {
	live := fakeObjects(t)
	chip := unlimitedChip()
	t.Setenv("TMPDIR", t.TempDir())
	backendtest.Run(t, func() backend.Backend {
		bridge.FakeChip(chip)
		be, err := New(unlimited)
		require.NoError(t, err)
		return be
	}, conformance)
	requireNothingLeft(t, live, chip)
}

func TestBridgeProductsRunOnTheDevice(t *testing.T) {
	live, chip := fakeObjects(t), sim.Early()
	be := bridged(t, chip, Options{})
	simulated := open(t, sim.Early(), Options{})
	p := newProblem(t, 128, 320, 192, 1)
	p.run(t, be)
	p.verify(t)
	q := newProblem(t, 128, 320, 192, 1)
	q.run(t, simulated)
	require.Equal(t, q.y, p.y, "conversions in C and in Go round alike")
	require.Equal(t, q.dx, p.dx)
	for _, product := range []Product{Forward, Backward} {
		require.Equal(t, 1, shapeOf(t, be, product).OnDevice)
	}
	require.NoError(t, be.Close())
	requireNothingLeft(t, live, chip)
}

func TestBridgeLayouts(t *testing.T) {
	for bad := range 3 {
		live, chip := fakeObjects(t), sim.Early()
		be := bridged(t, chip, Options{})
		texts := 0
		chip.Fault = func(s sim.Step, text string) sim.Fault {
			if s == sim.Compile {
				if texts++; (texts-1)%(bad+1) < bad {
					return sim.Error
				}
			}
			return sim.None
		}
		p := newProblem(t, 64, 1000, 96, 1)
		p.run(t, be)
		p.verify(t)
		for _, product := range []Product{Forward, Backward} {
			require.Equal(t, layouts(product)[bad].name, shapeOf(t, be, product).Layout)
		}
		require.NoError(t, be.Close())
		requireNothingLeft(t, live, chip)
	}
}

// Every call of the runtime and of the frameworks that can fail does, once.
func TestBridgeEveryFaultAtEveryCall(t *testing.T) {
	run := func(t *testing.T, fail int) int {
		live, chip := fakeObjects(t), sim.Early()
		be := bridged(t, chip, Options{})
		bridge.FakeFail(fail)
		p := newProblem(t, 64, 96, 160, 2)
		for range 2 {
			p.run(t, be)
			p.verify(t)
		}
		calls := bridge.FakeCalls()
		bridge.FakeFail(-1)
		seen := 0
		for _, s := range be.Stats().Shapes {
			require.Equal(t, 2, s.Calls)
			seen += len(s.Rejected)
			for _, n := range s.Reasons {
				seen += n
			}
		}
		if fail >= 0 && seen != 1 {
			// The one failure that is survived: the first load of a program.
			require.Zero(t, seen, be.Stats())
			require.Equal(t, 4, be.Stats().Total().OnDevice)
		}
		require.NotContains(t, be.Stats().String(), "an error of more than", "the framework's words are lost")
		require.NoError(t, be.Close())
		requireNothingLeft(t, live, chip)
		if seen == 0 {
			return -calls
		}
		return calls
	}
	calls := -run(t, -1)
	require.Greater(t, calls, 100)
	survived, stride := 0, 1
	if testing.Short() { // with the race detector
		stride = 7
	}
	for i := 0; i < calls; i += stride {
		if run(t, i) < 0 {
			survived++
		}
	}
	if stride == 1 {
		require.Equal(t, 2, survived, "one load for each of two programs")
	}
}

func TestBridgeErrorsSayWhatTheFrameworkSaid(t *testing.T) {
	chip := sim.Early()
	be := bridged(t, chip, Options{})
	defer be.Close()
	chip.Fault = func(s sim.Step, _ string) sim.Fault {
		if s == sim.Eval {
			return sim.Error
		}
		return sim.None
	}
	p := newProblem(t, 64, 96, 160, 3)
	p.run(t, be)
	p.verify(t)
	require.Contains(t, be.Stats().String(), "status=0x1d: injected")
}

func TestBridgeTwoBackendsOfOneProgram(t *testing.T) {
	live, chip := fakeObjects(t), sim.Early()
	a := bridged(t, chip, Options{})
	b, err := New(Options{})
	require.NoError(t, err)
	p := newProblem(t, 64, 96, 160, 4)
	p.run(t, a)
	p.run(t, b)
	require.NoError(t, a.Close())
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Len(t, left, 2, "the other's are in use")
	p.run(t, b)
	p.verify(t)
	require.NoError(t, b.Close())
	requireNothingLeft(t, live, chip)
}

func TestBridgeChecksEveryClassAndMethod(t *testing.T) {
	defer bridge.FakeHide(-1, -1)
	bridge.FakeHideFramework(true)
	_, err := New(Options{})
	require.ErrorContains(t, err, "ane: the framework was not found: no such file")
	bridge.FakeHideFramework(false)
	for class, name := range []string{"_ANEInMemoryModelDescriptor", "_ANEInMemoryModel", "_ANERequest", "_ANEIOSurfaceObject"} {
		bridge.FakeHide(class, -1)
		_, err := New(Options{})
		require.ErrorContains(t, err, "class not found: "+name)
		for _, m := range Methods() { // a report has all that is there
			require.Equal(t, m.Class == name, m.Got == "", m)
		}
	}
	bridge.FakeHide(-1, -1)
	methods := Methods()
	require.Len(t, methods, 9)
	for _, m := range methods {
		require.NotEmpty(t, m.Got)
		require.Equal(t, m.Want, strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, m.Got))
	}
	for i, m := range methods {
		bridge.FakeHide(-1, i)
		_, err := New(Options{})
		require.ErrorContains(t, err, m.Class+" "+m.Selector+"] has the type (no such method), want "+m.Want)
		require.Empty(t, Methods()[i].Got)
		bridge.FakeHide(-1, -1)
		for _, other := range []string{m.Want + "@", m.Want[:len(m.Want)-1], "v" + m.Want[1:]} {
			bridge.FakeChange(i, other)
			_, err := New(Options{})
			require.ErrorContains(t, err, "has the type "+other+", want "+m.Want)
		}
		bridge.FakeChange(-1, "")
	}
	bridge.FakeChange(3, "c36@0:8I16@20^@28") // BOOL as a char
	be, err := New(Options{})
	require.NoError(t, err)
	require.NoError(t, be.Close())
	bridge.FakeChange(-1, "")
}

// The conversions in C are those in Go, for every half and around the middle
// of every two, in each form of a block, and the peaks are found.
func TestBridgeConversions(t *testing.T) {
	c, err := bridge.Open()
	require.NoError(t, err)
	pure := sim.Device{Chip: sim.Early()}
	const rows, cols, stride = 3 * 33, 2111, 2113
	f := make([]float32, rows*stride)
	for i := range f {
		h := uint16(i % 0x7bff)
		middle := (fp16.To(h) + fp16.To(h+1)) / 2
		f[i] = []float32{
			middle, math.Nextafter32(middle, 0), math.Nextafter32(middle, 1e9), 65504, 65520, 1e30, float32(math.Inf(1)),
		}[min(i/0x7bff, 6)]
		if i%5 == 0 {
			f[i] = -f[i]
		}
	}
	scale, inverse := make([]float32, rows), make([]float32, rows)
	for r := range scale {
		scale[r] = float32(math.Ldexp(1, r%7-3))
		inverse[r] = 1 / scale[r]
	}
	for _, transposed := range []bool{false, true} {
		for _, scales := range [][]float32{nil, scale} {
			b := device.Block{
				Rows: rows, Cols: cols, Stride: stride, Offset: 17, LD: 2200, Transposed: transposed, RowScale: scales, Scale: 1,
			}
			got, want := make([]uint16, 17+2200*2200), make([]uint16, 17+2200*2200)
			c.Put(got, f, b)
			pure.Put(want, f, b)
			require.True(t, slices.Equal(want, got), "transposed: %v, scaled: %v", transposed, scales != nil)
		}
		for _, add := range []bool{false, true} {
			for _, largest := range []uint16{0x7bff, 0x7c00, 0x7fff} { // finite, an infinity, NaN
				b := device.Block{
					Rows: rows, Cols: cols, Stride: stride, Offset: 17, LD: 2200, Transposed: transposed, RowScale: inverse, Scale: 2, Add: add,
				}
				h := slices.Repeat([]uint16{0x7fff}, 17+2200*2200) // NaN, outside of the block
				for r := range rows {
					for col := range cols {
						v := uint16((r*cols+col)*31) & 0xffff
						if v&0x7fff > 0x7bfe {
							v &= 0xbfff
						}
						if r == rows-1 && col == cols-1 {
							v = 0x8000 | largest
						}
						if transposed {
							h[b.Offset+col*b.LD+r] = v
						} else {
							h[b.Offset+r*b.LD+col] = v
						}
					}
				}
				got, want := slices.Clone(f), slices.Clone(f)
				require.Equal(t, pure.Get(want, h, b), c.Get(got, h, b))
				for i, v := range want {
					if v != v {
						require.True(t, got[i] != got[i], i)
					} else if v != got[i] {
						require.Equal(t, v, got[i], i)
					}
				}
			}
		}
	}
}
