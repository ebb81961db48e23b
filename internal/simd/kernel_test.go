package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/isa"
	"github.com/chainrule-go/chainrule/internal/testutil"
)

var (
	nan = float32(math.NaN())
	inf = float32(math.Inf(1))
)

// onEvery runs f with each instruction set that this processor has.
func onEvery(t *testing.T, f func(t *testing.T)) {
	defer func(s isa.Set) { set = s }(set)
	for _, s := range isa.Available {
		set = s
		t.Run(s.String(), f)
	}
}

// loop is a function of this package and its Go loop.
type loop struct {
	name     string
	slices   int // that it takes
	outputs  int // the first of them, which it may write
	run, ref func(s [][]float32) float64
	// An output may differ from the Go loop's by tol·(1+|want|), a sum by
	// tol·(1+n): fused, and added up in another order. 0: not at all.
	tol float64
}

var (
	adamFactors = AdamW{0.5, 0.9, 0.1, 0.95, 0.05, 1e-3, 2e-3, 1.5, 1e-3, false}
	adamZeroing = AdamW{0.5, 0.9, 0.1, 0.95, 0.05, 1e-3, 2e-3, 1.5, 1e-3, true}
)

func none(f func()) float64 { f(); return 0 }

var loops = []loop{
	{"ExpScaleSub", 2, 1,
		func(s [][]float32) float64 { return ExpScaleSub(s[0], s[1], 0.7, 0.3) },
		func(s [][]float32) float64 { return goExp(s[0], s[1], 0.7, 0.3) }, 3e-7},
	{"SumExpSub", 1, 0,
		func(s [][]float32) float64 { return SumExpSub(s[0], 0.3) },
		func(s [][]float32) float64 { return goSumExp(s[0], 0.3) }, 3e-7},
	{"ScaledExpSub", 2, 1,
		func(s [][]float32) float64 { return ScaledExpSub(s[0], s[1], 0.3, 0.7) },
		func(s [][]float32) float64 { return goScaledExp(s[0], s[1], 0.3, 0.7) }, 3e-7},
	{"Max", 1, 0,
		func(s [][]float32) float64 { return float64(Max(s[0])) },
		func(s [][]float32) float64 { return float64(goMax(s[0])) }, 0},
	{"SumSquares", 1, 0,
		func(s [][]float32) float64 { return SumSquares(s[0]) },
		func(s [][]float32) float64 { return goSumSquares(s[0]) }, 1e-15},
	{"Dot", 2, 0,
		func(s [][]float32) float64 { return Dot(s[0], s[1]) },
		func(s [][]float32) float64 { return goDot(s[0], s[1]) }, 3e-7},
	{"Dot3", 3, 0,
		func(s [][]float32) float64 { return Dot3(s[0], s[1], s[2]) },
		func(s [][]float32) float64 { return goDot3(s[0], s[1], s[2]) }, 1e-14},
	{"Axpy", 2, 1,
		func(s [][]float32) float64 { return none(func() { Axpy(s[0], 0.7, s[1]) }) },
		func(s [][]float32) float64 { return none(func() { goAxpy(s[0], 0.7, s[1]) }) }, 3e-7},
	{"Scale", 1, 1,
		func(s [][]float32) float64 { return none(func() { Scale(s[0], 0.7) }) },
		func(s [][]float32) float64 { return none(func() { goScale(s[0], 0.7) }) }, 0},
	{"Clear", 1, 1,
		func(s [][]float32) float64 { return none(func() { Clear(s[0]) }) },
		func(s [][]float32) float64 { return none(func() { clear(s[0]) }) }, 0},
	{"Add", 3, 1,
		func(s [][]float32) float64 { return none(func() { Add(s[0], s[1], s[2]) }) },
		func(s [][]float32) float64 { return none(func() { goAdd(s[0], s[1], s[2]) }) }, 0},
	{"Normalize", 3, 1,
		func(s [][]float32) float64 { return none(func() { Normalize(s[0], s[1], s[2], 0.7) }) },
		func(s [][]float32) float64 { return none(func() { goNormalize(s[0], s[1], s[2], 0.7) }) }, 0},
	{"NormalizeBackward", 4, 1,
		func(s [][]float32) float64 {
			return none(func() { NormalizeBackward(s[0], s[1], s[2], s[3], 0.7, 0.3) })
		},
		func(s [][]float32) float64 {
			return none(func() { goNormalizeBackward(s[0], s[1], s[2], s[3], 0.7, 0.3) })
		}, 1e-6},
	{"SwiGLU", 3, 1,
		func(s [][]float32) float64 { return none(func() { SwiGLU(s[0], s[1], s[2]) }) },
		func(s [][]float32) float64 { return none(func() { goSwiglu(s[0], s[1], s[2]) }) }, 5e-7},
	{"SwiGLUBackward", 5, 2,
		func(s [][]float32) float64 { return none(func() { SwiGLUBackward(s[0], s[1], s[2], s[3], s[4]) }) },
		func(s [][]float32) float64 { return none(func() { goSwigluBackward(s[0], s[1], s[2], s[3], s[4]) }) }, 1e-6},
	{"AdamW", 4, 4,
		func(s [][]float32) float64 {
			return none(func() { adamFactors.Update(s[0], s[1], s[2], s[3]) })
		},
		func(s [][]float32) float64 {
			return none(func() { goAdamW(s[0], s[1], s[2], s[3], &adamFactors) })
		}, 1e-6},
	{"AdamW, ZeroGrad", 4, 4,
		func(s [][]float32) float64 {
			return none(func() { adamZeroing.Update(s[0], s[1], s[2], s[3]) })
		},
		func(s [][]float32) float64 {
			return none(func() { goAdamW(s[0], s[1], s[2], s[3], &adamZeroing) })
		}, 1e-6},
	{"AdamTraffic", 4, 4,
		func(s [][]float32) float64 { return none(func() { AdamTraffic(s[0], s[1], s[2], s[3]) }) },
		func(s [][]float32) float64 { return none(func() { goAdamTraffic(s[0], s[1], s[2], s[3]) }) }, 0},
}

// data is random arguments; the second moment of AdamW is not negative.
func (l loop) data(r *rand.Rand, n int) [][]float32 {
	data := make([][]float32, l.slices)
	for i := range data {
		data[i] = random(r, n)
	}
	if strings.HasPrefix(l.name, "AdamW") {
		for i, v := range data[3] {
			data[3][i] = v * v
		}
	}
	return data
}

// few are all lengths up to several vectors of the widest kind, but with -short,
// under emulation or the race detector, not all of the longer ones.
func few() (n []int) {
	for i := range 258 {
		if !testing.Short() || i < 70 || i%16 < 2 || i%16 == 15 {
			n = append(n, i)
		}
	}
	return n
}

// lengths are those and some odd ones.
func lengths() []int { return append(few(), 511, 513, 1000, 1025, 4099) }

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// arena holds slices of up to most elements that end at a page that faults, and
// others that begin wherever they are told to.
type arena struct{ guarded, plain [][]float32 }

const most = 4099

func newArena(t testing.TB) (a arena) {
	for range 8 {
		a.guarded = append(a.guarded, testutil.Guarded(t, most+64))
		a.plain = append(a.plain, make([]float32, most+128))
	}
	return a
}

const canary = 12345

// check runs the loop on data where every access behind a slice faults, and at
// another alignment, and compares it with the Go loop.
func (a arena) check(t *testing.T, l loop, data [][]float32, shift int) {
	t.Helper()
	n := len(data[0])
	want := make([][]float32, len(data))
	for i := range data {
		want[i] = slices.Clone(data[i])
	}
	wantSum := l.ref(want)

	got, moved := make([][]float32, len(data)), make([][]float32, len(data))
	for i := range data {
		g := a.guarded[i]
		for j := range 16 {
			g[len(g)-n-1-j] = canary
		}
		got[i] = g[len(g)-n:]
		copy(got[i], data[i])
		p := a.plain[i]
		for j := range p {
			p[j] = canary
		}
		moved[i] = p[32+(shift+i)%16:][:n]
		copy(moved[i], data[i])
	}
	sum, movedSum := l.run(got), l.run(moved)

	if math.Float64bits(sum) != math.Float64bits(movedSum) {
		require.Fail(t, "the alignment shows", "%s n=%d", l.name, n)
	}
	// a sum is as large as its terms, of which there are n
	requireClose(t, []float64{wantSum}, []float64{sum}, l.tol*float64(1+n), "%s n=%d", l.name, n)
	for i := range data {
		g, p := a.guarded[i], a.plain[i]
		for j := range 16 {
			if g[len(g)-n-1-j] != canary || p[32+(shift+i)%16+n+j] != canary {
				require.Fail(t, "written before the start or behind the end", "%s n=%d", l.name, n)
			}
		}
		requireSame(t, got[i], moved[i], "%s n=%d: slice %d, moved", l.name, n, i)
		tol := l.tol
		if i >= l.outputs {
			tol = 0
		}
		requireClose(t, want[i], got[i], tol, "%s n=%d: slice %d", l.name, n, i)
	}
}

// close64 says whether got is want within tol·(1+|want|); NaN and Inf have to
// be the same.
func close64(want, got, tol float64) bool {
	if want != want || math.IsInf(want, 0) {
		return want == got || want != want && got != got
	}
	return math.Abs(got-want) <= tol*(1+math.Abs(want))
}

// requireClose is close64 of every element. Nothing is formatted, nor allocated,
// while all is well: there are millions of elements.
func requireClose[F float32 | float64](t *testing.T, want, got []F, tol float64, format string, args ...any) {
	t.Helper()
	for i, w := range want {
		if !close64(float64(w), float64(got[i]), tol) {
			require.Fail(t, "differs from the Go loop", "%s: [%d] is %v, want %v", fmt.Sprintf(format, args...), i, got[i], w)
		}
	}
}

// requireSame compares to the bit.
func requireSame(t *testing.T, want, got []float32, format string, args ...any) {
	t.Helper()
	for i, w := range want {
		if math.Float32bits(w) != math.Float32bits(got[i]) {
			require.Fail(t, "not the same bits", "%s: [%d] is %v, want %v", fmt.Sprintf(format, args...), i, got[i], w)
		}
	}
}

func TestKernelsAreTheirGoLoops(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		a := newArena(t)
		for _, l := range loops {
			r := rand.New(rand.NewPCG(1, 2))
			for _, n := range lengths() {
				data := l.data(r, n)
				a.check(t, l, data, n)
			}
		}
	})
}

func TestKernelsPassOnWhatIsNotFinite(t *testing.T) {
	special := []float32{nan, inf, -inf, 0, float32(math.Copysign(0, -1)), 1e-40, -1e-45, 1e37, -1e37, 120, -120} // no sum of four overflows
	onEvery(t, func(t *testing.T) {
		a := newArena(t)
		for _, l := range loops {
			if l.tol > 0 {
				l.tol = 1e-4 // of large numbers that cancel
			}
			r := rand.New(rand.NewPCG(3, 4))
			for _, n := range []int{1, 7, 16, 23, 70, 131} {
				for range 40 {
					data := l.data(r, n)
					// one is bad, or everything is
					for range 1 + r.IntN(2)*n {
						data[r.IntN(len(data))][r.IntN(n)] = special[r.IntN(len(special))]
					}
					a.check(t, l, data, n)
				}
			}
		}
	})
}

func TestElementsDoNotDependOnTheirPosition(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		for _, l := range loops {
			if l.outputs == 0 {
				continue
			}
			const n = 150
			data := l.data(r, n)
			run := func(from, to int) [][]float32 {
				s := make([][]float32, len(data))
				for i := range s {
					s[i] = slices.Clone(data[i][from:to])
				}
				l.run(s)
				return s
			}
			all := run(0, n)
			for from := range 40 {
				to := from + 1 + r.IntN(n-from)
				part := run(from, to)
				for i := range part {
					requireSame(t, all[i][from:to], part[i], "%s of %d to %d", l.name, from, to)
				}
			}
		}
	})
}

func TestAdamWLeavesNoSubnormalMoment(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		for n := range 40 {
			p, g, m, v := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
			for i := range p {
				p[i], m[i], v[i] = 1, 1e-40, 1e-40
				if i%2 == 1 {
					m[i] = -1e-44
				}
			}
			adamFactors.Update(p, g, m, v)
			require.Equal(t, make([]float32, n), m)
			require.Equal(t, make([]float32, n), v)
		}
		// and only there
		x := []float32{1e-40}
		Scale(x, 0.5)
		require.Equal(t, []float32{1e-40 * 0.5}, x)
	})
}

func TestSumsOfRowsAreTheirGoLoops(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		a := newArena(t)
		memory := testutil.Guarded(t, 2*most+64)
		sums := unsafe.Slice((*float64)(unsafe.Pointer(&memory[0])), len(memory)/2)
		for _, n := range lengths() {
			x, y := a.guarded[0][most+64-n:], a.guarded[1][most+64-n:]
			copy(x, random(r, n))
			copy(y, random(r, n))
			if n > 3 {
				x[r.IntN(n)], y[r.IntN(n)] = nan, inf
			}
			sum := sums[len(sums)-Sums(n):] // ends at the page
			before := &sums[len(sums)-Sums(n)-1]
			*before = canary
			check := func(run func(), add func(i int) float64) {
				want := make([]float64, n)
				for i := range want {
					sum[i] = float64(i)
					want[i] = sum[i] + add(i)
				}
				run()
				requireClose(t, want, sum, 1e-15, "n=%d: sum", n)
			}
			check(func() { AddWide(sum, x) }, func(i int) float64 { return float64(x[i]) })
			check(func() { AddProducts(sum, y, x, 0.7) }, func(i int) float64 { return float64(y[i]) * float64(x[i]*0.7) })
			require.Equal(t, float64(canary), *before)
		}
	})
}

func TestRopeIsItsGoLoop(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(9, 10))
		a := newArena(t)
		for _, pairs := range few() {
			for _, heads := range []int{0, 1, 3, 7} {
				n := 2 * pairs * heads
				x, cos, sin := a.guarded[0][most+64-n:], a.guarded[1][most+64-pairs:], a.guarded[2][most+64-pairs:]
				copy(x, random(r, n))
				copy(cos, random(r, pairs))
				copy(sin, random(r, pairs))
				if n > 5 {
					x[r.IntN(n)], x[r.IntN(n)] = nan, inf
				}
				before := a.guarded[0][most+64-n-16:][:16]
				copy(before, random(r, 16))
				kept := slices.Clone(before)
				for _, sign := range []float32{1, -1} {
					want := slices.Clone(x)
					goRope(want, cos, sin, heads, sign)
					Rope(x, cos, sin, sign)
					requireClose(t, want, x, 5e-7, "%d heads of %d pairs", heads, pairs)
					copy(x, want)
				}
				requireSame(t, kept, before, "%d heads of %d pairs: before them", heads, pairs)
			}
		}
	})
}

func TestProductsWithRowsAreTheirGoLoops(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(17, 18))
		a := newArena(t)
		end := func(i, n int) []float32 { return a.guarded[i][most+64-n:] }
		for _, width := range few() {
			for n := range 14 {
				ld := width + r.IntN(20)
				size := max(0, (n-1)*ld+width)
				x, p, w := end(0, width), end(1, n), end(2, size)
				for _, s := range [][]float32{x, p, w} {
					copy(s, random(r, len(s)))
				}
				if size > 0 && r.IntN(2) == 0 {
					w[r.IntN(size)] = []float32{nan, inf, 1e-40}[r.IntN(3)]
				}
				for _, sum := range []bool{false, true} {
					y, want := end(3, n), make([]float32, n)
					if sum {
						y, want = end(3, width), make([]float32, width)
					}
					before := end(3, len(y)+1)[:1]
					before[0] = canary
					for i := range y {
						y[i] = nan
					}
					if sum {
						SumRows(y, p, w, ld)
						goSumRows(want, p, w, ld)
					} else {
						DotRows(y, x, w, ld)
						goDotRows(want, x, w, ld)
					}
					requireClose(t, want, y, 1e-5, "%d rows of %d", n, width)
					requireClose(t, []float32{canary}, before, 0, "%d rows of %d: before them", n, width)
				}
			}
		}
	})
}

func TestRowsMove(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(21, 22))
		a := newArena(t)
		end := func(i, n int) []float32 { return a.guarded[i][most+64-n:] }
		for n := range 5 {
			for _, cols := range few() {
				ldy, ldx := cols+r.IntN(3), cols+r.IntN(3)
				y, x, by := end(0, max(0, n-1)*ldy+cols), end(1, max(0, n-1)*ldx+cols), end(2, n)
				for i := range x {
					x[i] = float32(r.NormFloat64())
				}
				for i := range by {
					by[i] = float32(r.NormFloat64())
				}
				if len(x) > 0 {
					x[r.IntN(len(x))] = nan
				}
				for _, scale := range []bool{false, true} {
					for i := range y {
						y[i] = canary
					}
					want := append([]float32(nil), y...)
					if scale {
						ScaleRows(y, ldy, x, ldx, cols, by)
						goScaleRows(want, ldy, x, ldx, cols, by)
					} else {
						CopyRows(y, ldy, x, ldx, n, cols)
						goCopyRows(want, ldy, x, ldx, n, cols)
					}
					requireSame(t, want, y, "%d rows of %d", n, cols)
				}
			}
		}
	})
}

// What the mask hides is not finite, and what is beside the columns stays.
func TestColumnsOfScoresAreTheirGoLoops(t *testing.T) {
	onEvery(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(19, 20))
		a := newArena(t)
		end := func(i, n int) []float32 { return a.guarded[i][most+64-n:] }
		sumMemory := testutil.Guarded(t, 2*ScoreCols)
		for past := range 45 {
			for _, cols := range []int{0, 16, 32, 48, 64}[:1+min(4, (most/ScoreCols-past)/16)] {
				size := max(0, (past+cols-1)*ScoreCols+cols)
				x, dp, m, norm := end(0, size), end(1, size), end(2, cols), end(3, cols)
				sum := unsafe.Slice((*float64)(unsafe.Pointer(&sumMemory[0])), ScoreCols)[ScoreCols-cols:]
				copy(x, random(r, size))
				copy(dp, random(r, size))
				seen := func(at int) bool { return at%ScoreCols < cols && at/ScoreCols <= past+at%ScoreCols }
				for at := range x {
					if at%ScoreCols < cols && !seen(at) {
						x[at], dp[at] = nan, inf
					}
				}
				if cols > 0 && r.IntN(2) == 0 {
					x[r.IntN(past+1)*ScoreCols+r.IntN(cols)] = []float32{nan, inf, -inf, -1e30}[r.IntN(4)]
				}
				saved := slices.Clone(x)
				check := func(want, got []float32, what string) {
					requireClose(t, want, got, 3e-6, "%s, past=%d, cols=%d", what, past, cols)
				}
				masked := func(x []float32) {
					for at, v := range x {
						if at%ScoreCols < cols && !seen(at) && math.Float32bits(v) != 0 {
							require.Fail(t, "hidden, but not 0", "[%d], past=%d, cols=%d", at, past, cols)
						}
					}
				}

				want, wantM, wantSum := slices.Clone(x), make([]float32, cols), make([]float64, cols)
				goExpCols(want, past, 0.3, wantM, wantSum)
				ExpCols(x, past, 0.3, m, sum)
				check(want, x, "exp")
				check(wantM, m, "most")
				masked(x)
				requireClose(t, wantSum, sum, 1e-6, "sum, past=%d, cols=%d", past, cols)

				copy(x, saved)
				want, wantDP, wantNorm := saved, slices.Clone(dp), make([]float32, cols)
				copy(m, random(r, cols))
				goDSoftmaxCols(want, wantDP, past, 0.3, m, wantNorm)
				DSoftmaxCols(x, dp, past, 0.3, m, norm)
				check(want, x, "p")
				check(wantDP, dp, "dp")
				check(wantNorm, norm, "norm")
				masked(x)
				masked(dp)
			}
		}
		require.Panics(t, func() { ExpCols(make([]float32, 64*ScoreCols), 0, 1, make([]float32, 8), make([]float64, 8)) })
	})
}

// Numbers that decayed to nothing do not slow it down.
func BenchmarkAdamWOfSubnormals(b *testing.B) {
	const n = 4096
	f := AdamW{1, 0.9, 0.1, 0.95, 0.05, 1e-5, 1e-4, 1, 1e-8, false}
	p, g := random(rand.New(rand.NewPCG(15, 16)), n), make([]float32, n)
	for _, size := range []float32{1e-4, 1e-40} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m, v := make([]float32, n), make([]float32, n)
			b.SetBytes(28 * n)
			for b.Loop() {
				for i := range m {
					m[i], v[i] = size, size
				}
				f.Update(p, g, m, v)
			}
		})
	}
}

func BenchmarkKernels(b *testing.B) {
	defer func(s isa.Set) { set = s }(set)
	const n = 4096 // in the first cache
	for _, l := range loops {
		data := l.data(rand.New(rand.NewPCG(11, 12)), n)
		for _, s := range isa.Available {
			b.Run(fmt.Sprintf("%s/%v", l.name, s), func(b *testing.B) {
				set = s
				b.SetBytes(int64(4 * n * (l.slices + l.outputs)))
				for b.Loop() {
					l.run(data)
				}
			})
		}
	}
}
