package gemm

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/isa"
)

// each runs f for the kernel of every instruction set, nil for none.
func each(t *testing.T, f func(t *testing.T, q *kernel)) {
	for _, s := range isa.Available {
		if s != isa.Generic {
			require.NotNil(t, kernels[s], s)
		}
		t.Run(s.String(), func(t *testing.T) { f(t, kernels[s]) })
	}
}

// oneOr is n if tests are to be short, under emulation or the race detector,
// and 1 else.
func oneOr(n int) int {
	if testing.Short() {
		return n
	}
	return 1
}

func random(rng *rand.Rand, n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(rng.NormFloat64())
	}
	return s
}

type form struct {
	name   string
	at, bt bool // steps lie together
}

var forms = []form{{"NT", true, true}, {"NN", true, false}, {"TN", false, false}}

// operands returns A [m,k] and B [k,n] of the form, with these elements.
func (f form) operands(a, b []float32, m, n, k int) (A, B operand) {
	A, B = operand{a, k, 1}, operand{b, k, 1}
	if !f.at {
		A.lane, A.step = 1, m
	}
	if !f.bt {
		B.lane, B.step = 1, n
	}
	return A, B
}

// compare checks C = A B, or C = c0 + A B, with float64 sums within u√K, and
// that nothing between the rows was written. The race detector would look at
// each of its reads, of what nobody writes any more.
//
//go:norace
func compare(t *testing.T, c, c0 []float32, ldc int, a, b operand, m, n, k int, add bool) {
	t.Helper()
	for i := range m {
		for j := range n {
			want, abs := dot64(a, b, i, j, k)
			bound := 0x1p-24 * (math.Sqrt(float64(k)) + 2) * abs
			if add {
				was := float64(c0[i*ldc+j])
				want += was
				bound += 0x1p-23 * math.Abs(was)
			}
			if got := float64(c[i*ldc+j]); !(math.Abs(got-want) <= bound) {
				t.Fatalf("m=%d n=%d k=%d: c[%d,%d] is %v, want %v ± %.2g", m, n, k, i, j, got, want, bound)
			}
		}
		if i+1 < m && n < ldc {
			same(t, c0[i*ldc+n:(i+1)*ldc], c[i*ldc+n:(i+1)*ldc], "between rows %d and %d", i, i+1)
		}
	}
}

// dot64 is the sum of the products of row i of A and column j of B, and that of
// their absolute values.
//
//go:norace
func dot64(a, b operand, i, j, k int) (sum, abs float64) {
	if k == 0 {
		return 0, 0
	}
	x, y := a.data[i*a.lane:], b.data[j*b.lane:]
	for l := range k {
		v := float64(x[l*a.step]) * float64(y[l*b.step])
		sum += v
		abs += max(v, -v) // Abs is slow where pointers are checked
	}
	return sum, abs
}

// Tiles are computed out of order, and the bits do not depend on how many
// there are.
func checkProduct(t *testing.T, q *kernel, rng *rand.Rand, m, n, k, form int, add bool) {
	t.Helper()
	f := forms[form]
	a, b := f.operands(guarded(t, random(rng, m*k)), guarded(t, random(rng, n*k)), m, n, k)
	c0 := random(rng, m*n)
	var first []float32
	var s Scratch
	for _, cores := range []int{1, 2, 5} {
		c := guarded(t, c0)
		p := q.product(c, a, b, m, n, k, add, cores)
		for _, i := range rng.Perm(p.Tiles()) {
			p.Run(&s, i, i+1)
		}
		if first == nil {
			first = c
			compare(t, c, c0, n, a, b, m, n, k, add)
		}
		same(t, first, c, "%s m=%d n=%d k=%d, %d cores", f.name, m, n, k, cores)
	}
}

// sizes are m, n and k of products, for each way to compute one.
var sizes = [][3]int{
	{1, 1, 1}, {1, 37, 12}, {2, 3, 11}, {39, 1000, 7}, {6, 9000, 1}, {100, 50, 11}, {3, 5, 40}, {7, 1000, 13}, {16, 33, 129}, {17, 66, 257}, {65, 40, 1024},
	{65, 97, 12}, {70, 49, 321}, {40, 35, 1024}, {1024, 35, 13}, {300, 200, 30}, {100, 500, 50}, {600, 33, 20}, {30, 1100, 20},
	{3, 301, 300}, {5, 7, 40}, {5, 500, 700}, {8, 61, 1030}, {9, 100, 33}, {13, 14, 530}, {16, 259, 258}, {21, 62, 770}, {32, 505, 300},
	{47, 130, 100}, {50, 700, 77}, {64, 100, 1100}, {300, 50, 1024}, {24, 77, 1031},
	{40, 1024, 7}, {9, 9216, 3}, {60, 2048, 17}, {14, 1024, 50}, {1, 300, 1024}, {1, 300, 770}, {2, 301, 96}, {4, 333, 1100},
}

func TestProducts(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, d := range sizes {
			if testing.Short() && d[0]*d[1]*d[2] > 3e6 {
				continue
			}
			for form := range forms {
				checkProduct(t, q, rng, d[0], d[1], d[2], form, form == 2)
			}
		}
	})
}

// A product without rows or columns has no tiles, and one of sums without
// products is 0, or what was there.
func TestEmptyProducts(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(5, 6))
		some := []int{0, 1, 11, 13, 50, 400, 1024, 1030}
		for _, m := range some {
			for _, n := range some {
				for _, k := range some {
					for form := range forms {
						if m == 0 || n == 0 || k == 0 && m*n < 1<<16 {
							checkProduct(t, q, rng, m, n, k, form, form == 2)
						}
					}
				}
			}
		}
	})
}

// The last tile has few rows or many, as it happens: the bits stay.
func TestTheSizeOfTheLastTileDoesNotMatter(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(25, 26))
		for m := 60; m < 80; m += oneOr(3) {
			for _, k := range []int{5, 13, 16, 24, 40} {
				for form := range forms {
					checkProduct(t, q, rng, m, 70, k, form, form == 2)
					checkProduct(t, q, rng, 70, m, k, form, form == 2)
				}
			}
		}
	})
}

// All tiles at the same time, twice in the same memory.
func TestTilesAreComputedAtTheSameTime(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(27, 28))
		var s Scratch
		for _, d := range [][3]int{{3, 300, 500}, {8, 700, 333}, {16, 48, 1500}, {60, 2048, 17}, {16, 300, 258}, {30, 300, 10}} {
			m, n, k := d[0], d[1], d[2]
			a, b := random(rng, m*k), random(rng, n*k)
			for form, f := range forms {
				A, B := f.operands(a, b, m, n, k)
				want := make([]float32, m*n)
				p := q.product(want, A, B, m, n, k, form == 2, 1)
				p.Run(&s, 0, p.Tiles())
				for range 2 {
					c := make([]float32, m*n)
					p := q.product(c, A, B, m, n, k, form == 2, 4)
					var all sync.WaitGroup
					for i := range p.Tiles() {
						all.Go(func() { p.Run(&s, i, i+1) })
					}
					all.Wait()
					same(t, want, c, "%s m=%d n=%d k=%d", f.name, m, n, k)
				}
			}
		}
	})
}

// Each core reads W upwards, whichever end its tiles are dealt from.
func TestTilesAreTakenInOrder(t *testing.T) {
	for n := 1; n < 20; n++ {
		var got []int
		for i := range n {
			got = append(got, inOrder(i, n))
		}
		require.IsIncreasing(t, append([]int{-1}, got[:n/2]...))
		require.IsDecreasing(t, append(got[n/2:], -1))
		slices.Sort(got)
		for i, v := range got {
			require.Equal(t, i, v)
		}
	}
}

// Products of all forms after each other in the same memory.
func TestProductsShareMemory(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(13, 14))
		var s Scratch
		for range 4 / oneOr(4) {
			for _, d := range [][3]int{{50, 70, 40}, {200, 33, 2048}, {60, 40, 1024}, {33, 100, 90}} {
				for form, f := range forms {
					m, n, k := d[0], d[1], d[2]
					a, b := f.operands(random(rng, m*k), random(rng, n*k), m, n, k)
					c0 := random(rng, m*n)
					c := append([]float32(nil), c0...)
					p := q.product(c, a, b, m, n, k, form == 2, 1)
					p.Run(&s, 0, p.Tiles())
					compare(t, c, c0, n, a, b, m, n, k, form == 2)
				}
			}
		}
	})
}

// A goroutine that comes late, when the first call is over, finds its memory made.
func TestRunAllocatesNothingAfterReserve(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(23, 24))
		for _, d := range sizes {
			m, n, k := d[0], d[1], d[2]
			a, b, c := random(rng, m*k), random(rng, n*k), make([]float32, m*n)
			for form, f := range forms {
				A, B := f.operands(a, b, m, n, k)
				p := q.product(c, A, B, m, n, k, form == 2, 1)
				fewest := uint64(math.MaxUint64) // the runtime's own come and go
				for try := 0; try < 5 && fewest > 0; try++ {
					var s Scratch
					s.Reserve(1, &p)
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					p.Run(&s, 0, p.Tiles())
					runtime.ReadMemStats(&after)
					fewest = min(fewest, after.Mallocs-before.Mallocs)
				}
				require.Zero(t, fewest, "%s m=%d n=%d k=%d", f.name, m, n, k)
			}
		}
	})
}

// dW of one output is made as dx is, which copies no rows of x.
func TestReserveMakesNoMoreThanRunTakes(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		const rows, in = 10000, 1024
		p := q.product(nil, operand{nil, 1, 1}, operand{nil, 1, in}, 1, in, rows, true, 1)
		var s Scratch
		s.Reserve(1, &p)
		require.Zero(t, len(s.free[0].rows))
	})
}

func FuzzProducts(f *testing.F) {
	f.Add(uint64(1), uint16(1), uint16(1), uint16(1), uint8(0))
	f.Add(uint64(2), uint16(70), uint16(33), uint16(321), uint8(1))
	f.Add(uint64(3), uint16(13), uint16(129), uint16(12), uint8(2))
	f.Add(uint64(4), uint16(96), uint16(69), uint16(11), uint8(5)) // dW that is not added to
	f.Fuzz(func(t *testing.T, seed uint64, m, n, k uint16, form uint8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		for _, s := range isa.Available {
			checkProduct(t, kernels[s], rng, 1+int(m%150), 1+int(n%150), 1+int(k%400), int(form%3), form%2 == 0)
		}
	})
}

// Positive products are the worst case of a sum that only grows: one float32
// sum of them is beyond √K·2⁻²⁴·Σ|a||b| in some of a hundred thousand elements.
func TestErrorBound(t *testing.T) {
	each(t, func(t *testing.T, q *kernel) {
		for _, k := range []int{12, 16, 24, 48, 128, 300} {
			rng := rand.New(rand.NewPCG(11, uint64(k)))
			for _, m := range []int{6, 14, 30, 46, 100} {
				for form, f := range forms {
					n := 1200 / oneOr(4)
					if form > 0 {
						n = 500 / oneOr(4)
					}
					a, b := operand{make([]float32, m*k), k, 1}, operand{make([]float32, n*k), k, 1}
					if !f.at {
						a.lane, a.step = 1, m
					}
					if !f.bt {
						b.lane, b.step = 1, n
					}
					for _, s := range [][]float32{a.data, b.data} {
						for i := range s {
							s[i] = rng.Float32() + 0x1p-20
						}
					}
					c := make([]float32, m*n)
					p := q.product(c, a, b, m, n, k, form == 2, 1)
					p.Run(new(Scratch), 0, p.Tiles())
					var worst float64
					for i := range m {
						for j := range n {
							want, _ := dot64(a, b, i, j, k)
							worst = max(worst, math.Abs(float64(c[i*n+j])-want)/(0x1p-24*math.Sqrt(float64(k))*want))
						}
					}
					require.LessOrEqual(t, worst, 1.0, "%s m=%d k=%d", f.name, m, k)
				}
			}
		}
	})
}
