package backendtest

import (
	"errors"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/backend"
)

// mistakes are what a backend may do wrong.
type mistakes struct {
	drop         string // "y", "dx" or "dw": leaves out the last product of a sum
	float32Sums  bool   // one sum, every product and sum rounded
	overwriteDW  bool
	roundDW      bool // adds to dw product by product, in float32
	addDX        bool
	pastEnd      string // "y", "dx" or "dw": writes one too many, if there is memory
	writeW       bool
	writeX       bool
	keepGen      bool // keeps weights although Gen changes
	keepByGen    bool // keeps weights by Gen alone
	keepData     bool // keeps the slice w.Data although Gen and Data change
	skipZeros    bool
	flushNaN     bool
	spreadNaN    bool // a NaN in a row of x reaches the next row of y
	readForNil   bool // reads x although dw is nil
	needW        bool // reads w.Data although dx is nil
	writeNil     bool // takes a nil dw for an error
	shared       bool // one scratch memory for all callers
	procs        bool // splits sums into GOMAXPROCS parts
	address      bool // starts sums at a k that depends on the address
	allocate     bool
	acceptShort  bool // computes what fits
	exactLength  bool // panics on longer slices
	runtimePanic bool // leaves short slices to the runtime
	closeOnce    bool
	fail         bool
	failDX       bool
}

// plain is the contract as three loops.
type plain struct {
	mistakes

	mu      sync.Mutex
	data    map[*backend.Matrix][]float32
	byGen   map[uint64][]float32
	scratch []float32
	closed  bool
}

var sink []float32

// weights returns w.Data, or what mistakes kept of it.
func (b *plain) weights(w *backend.Matrix) []float32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.keepGen || b.keepData:
		if b.data[w] == nil {
			b.data[w] = w.Data
			if b.keepGen {
				b.data[w] = append([]float32(nil), w.Data...)
			}
		}
		return b.data[w]
	case b.keepByGen:
		if len(b.byGen[w.Gen]) < w.Out*w.In {
			b.byGen[w.Gen] = append([]float32(nil), w.Data...)
		}
		return b.byGen[w.Gen]
	}
	return w.Data
}

// product computes c[i,j] = start(c[i,j]) + Σ over l < k of term l of lanes i of a and j of w.
func (b *plain) product(name string, c []float32, m, n, k int, add bool, a, w factor, first int) {
	for i := range m {
		for j := range n {
			terms, parts := k, 1
			if b.drop == name {
				terms--
			}
			if b.procs {
				parts = runtime.GOMAXPROCS(0)
			}
			var start float32
			if add {
				start = c[i*n+j]
			}
			total, total32 := float64(start), start
			for p := range parts {
				var s float64
				var s32 float32
				for l := terms * p / parts; l < terms*(p+1)/parts; l++ {
					l := (l + first) % k
					x, y := a.v[i*a.lane+l*a.step], w.v[j*w.lane+l*w.step]
					if b.skipZeros && x == 0 {
						continue
					}
					s += float64(x) * float64(y)
					s32 += float32(x * y)
					if b.roundDW && name == "dw" {
						total32 += float32(x * y)
					}
				}
				total += s
				if !(b.roundDW && name == "dw") {
					total32 += s32
				}
			}
			c[i*n+j] = float32(total)
			if b.float32Sums || b.procs || b.address || b.roundDW && name == "dw" {
				c[i*n+j] = total32
			}
			if b.flushNaN && total-total != 0 {
				c[i*n+j] = 0
			}
		}
	}
	if b.pastEnd == name && cap(c) > m*n {
		c[:m*n+1][m*n] = 0
	}
}

func (b *plain) cut(s []float32, n int) []float32 {
	if b.exactLength && len(s) != n {
		panic("chainrule: not the length")
	}
	if b.acceptShort && len(s) < n {
		return append(append([]float32(nil), s...), make([]float32, n-len(s))...)
	}
	if len(s) < n && !b.runtimePanic {
		panic("chainrule: too short")
	}
	_ = s[:len(s):len(s)][:n]
	return s[:n]
}

func (b *plain) first(x []float32) int {
	if b.address && len(x) > 0 {
		return int(uintptr(unsafe.Pointer(&x[0])) / 4 % 4)
	}
	return 0
}

func (b *plain) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	if b.fail {
		return errors.New("the device is gone")
	}
	if b.allocate {
		sink = make([]float32, 9)
	}
	if w == nil || rows < 0 {
		panic("chainrule: nil or negative")
	}
	in, out := w.In, w.Out
	y, x = b.cut(y, rows*out), b.cut(x, rows*in)
	data := b.cut(b.weights(w), out*in)
	first := b.first(x)
	if b.shared {
		b.mu.Lock()
		b.scratch = append(b.scratch[:0], x...)
		b.mu.Unlock()
		runtime.Gosched()
		b.mu.Lock()
		x = append(append([]float32(nil), b.scratch...), x...)
		b.mu.Unlock()
	}
	b.product("y", y, rows, out, in, false, factor{x, in, 1}, factor{data, in, 1}, first)
	for r := 1; b.spreadNaN && r < rows; r++ {
		if v := x[r*in-1]; v-v != 0 {
			y[r*out] = float32(math.NaN())
		}
	}
	if b.writeW && len(data) > 0 {
		data[0]++
	}
	if b.writeX && len(x) > 0 {
		x[0]++
	}
	return nil
}

func (b *plain) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	if w == nil || rows < 0 {
		panic("chainrule: nil or negative")
	}
	if b.failDX {
		return errors.New("the device is gone")
	}
	if b.writeNil && dw == nil {
		return errors.New("dw is nil")
	}
	in, out := w.In, w.Out
	dy = b.cut(dy, rows*out)
	if b.readForNil || dw != nil {
		x = b.cut(x, rows*in)
	}
	if b.needW || dx != nil {
		data := b.cut(b.weights(w), out*in)
		if dx != nil {
			b.product("dx", b.cut(dx, rows*in), rows, in, out, b.addDX, factor{dy, out, 1}, factor{data, 1, in}, b.first(dy))
		}
	}
	if dw != nil {
		b.product("dw", b.cut(dw, out*in), out, in, rows, !b.overwriteDW, factor{dy, 1, out}, factor{x, 1, in}, b.first(x))
	}
	return nil
}

func (b *plain) Close() error {
	if b.closed && b.closeOnce {
		return errors.New("closed twice")
	}
	b.closed = true
	return nil
}

func open(m mistakes) func() backend.Backend {
	return func() backend.Backend {
		return &plain{mistakes: m, data: map[*backend.Matrix][]float32{}, byGen: map[uint64][]float32{}}
	}
}

func TestCorrectBackendPasses(t *testing.T) {
	// The closures of plain allocate.
	Run(t, open(mistakes{}), Options{Allocates: true})
}

func TestMistakesFail(t *testing.T) {
	if testing.Short() {
		t.Skip("the suite is the same on all machines, and slow on an emulated one")
	}
	for _, c := range []struct {
		name   string
		m      mistakes
		checks []string // a word of the name of each check that must fail
	}{
		{"drops the last product of y", mistakes{drop: "y"}, []string{"exactly", "bound"}},
		{"drops the last product of dx", mistakes{drop: "dx"}, []string{"exactly", "bound"}},
		{"drops the last product of dw", mistakes{drop: "dw"}, []string{"exactly", "bound"}},
		{"rounds every product and sum", mistakes{float32Sums: true}, []string{"bound"}},
		{"overwrites dw", mistakes{overwriteDW: true}, []string{"exactly", "bound", "large dw", "Inf"}},
		{"adds to dw product by product", mistakes{roundDW: true}, []string{"large dw"}},
		{"adds to dx", mistakes{addDX: true}, []string{"exactly", "bound"}},
		{"writes past the end of y", mistakes{pastEnd: "y"}, []string{"memory", "longer"}},
		{"writes past the end of dx", mistakes{pastEnd: "dx"}, []string{"memory", "longer"}},
		{"writes past the end of dw", mistakes{pastEnd: "dw"}, []string{"memory", "longer"}},
		{"writes w.Data", mistakes{writeW: true}, []string{"memory"}},
		{"writes x", mistakes{writeX: true}, []string{"memory"}},
		{"keeps weights across Gen", mistakes{keepGen: true}, []string{"Gen"}},
		{"keeps weights by Gen alone", mistakes{keepByGen: true}, []string{"Gen"}},
		{"keeps the old slice", mistakes{keepData: true}, []string{"Gen"}},
		{"skips zeros", mistakes{skipZeros: true}, []string{"Inf"}},
		{"flushes NaN", mistakes{flushNaN: true}, []string{"Inf"}},
		{"spreads NaN", mistakes{spreadNaN: true}, []string{"Inf"}},
		{"reads x without dw", mistakes{readForNil: true}, []string{"nil"}},
		{"reads w.Data without dx", mistakes{needW: true}, []string{"nil"}},
		{"takes nil for an error", mistakes{writeNil: true}, []string{"nil"}},
		{"shares scratch", mistakes{shared: true}, []string{"concurrent"}},
		{"splits sums by cores", mistakes{procs: true}, []string{"GOMAXPROCS"}},
		{"sums by address", mistakes{address: true}, []string{"wherever"}},
		{"allocates", mistakes{allocate: true}, []string{"allocation"}},
		{"accepts short slices", mistakes{acceptShort: true}, []string{"longer"}},
		{"leaves short slices to the runtime", mistakes{runtimePanic: true}, []string{"longer"}},
		{"refuses longer slices", mistakes{exactLength: true}, []string{"longer"}},
		{"fails at the second Close", mistakes{closeOnce: true}, []string{"twice"}},
		{"fails forward", mistakes{fail: true}, []string{"exactly", "bound", "large", "Inf", "nil", "memory", "Gen",
			"concurrent", "GOMAXPROCS", "wherever", "allocation", "longer", "twice"}},
		{"fails backward", mistakes{failDX: true}, []string{"exactly", "bound", "large", "Inf", "nil", "memory", "Gen",
			"concurrent", "GOMAXPROCS", "wherever", "allocation", "longer", "twice"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, word := range c.checks {
				require.Error(t, named(t, word).run(open(c.m), Options{}), word)
			}
		})
	}
}

// named returns the check with the word in its name.
func named(t *testing.T, word string) check {
	for _, c := range checks {
		if strings.Contains(c.name, word) {
			return c
		}
	}
	require.Fail(t, "no check is called "+word)
	return check{}
}

func TestLooserOptionsSkipWhatTheyName(t *testing.T) {
	for _, c := range []struct {
		word string
		m    mistakes
		o    Options
	}{
		{"exactly", mistakes{drop: "y"}, Options{Inexact: true}},
		{"bound", mistakes{float32Sums: true}, Options{Roundoff: 0x1p-22}},
		{"wherever", mistakes{address: true}, Options{AddressDependent: true}},
		{"allocation", mistakes{allocate: true}, Options{Allocates: true}},
	} {
		require.NoError(t, named(t, c.word).run(open(c.m), c.o), c.word)
	}
	require.Error(t, named(t, "bound").run(open(mistakes{drop: "y"}), Options{Roundoff: 0x1p-22}))
}
