package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// kernelsOnly runs f for every instruction set that has kernels.
func kernelsOnly(t *testing.T, f func(t *testing.T, q *kernel)) {
	each(t, func(t *testing.T, q *kernel) {
		if q == nil {
			t.Skip("Go alone")
		}
		f(t, q)
	})
}

func fma32(a, b, c float32) float32 { return float32(math.FMA(float64(a), float64(b), float64(c))) }

// near compares within the double rounding of fma32.
func near(t *testing.T, want, got []float32, format string, args ...any) {
	t.Helper()
	for i := range want {
		if w, g := float64(want[i]), float64(got[i]); !(math.Abs(w-g) <= 0x1p-21*(1+math.Abs(w))) && !(math.IsNaN(w) && math.IsNaN(g)) && w != g {
			t.Fatalf("%s: [%d] is %v, want %v", fmt.Sprintf(format, args...), i, g, w)
		}
	}
}

// same compares to the bit, but for the bits of a NaN.
func same(t *testing.T, want, got []float32, format string, args ...any) {
	t.Helper()
	for i, w := range want {
		if g := got[i]; math.Float32bits(w) != math.Float32bits(g) && (w == w || g == g) {
			t.Fatalf("%s: [%d] is %v, want %v", fmt.Sprintf(format, args...), i, g, w)
		}
	}
}

// sizesOf calls f for every number of rows and of columns, with some k, and for
// every k to 257, with some rows and columns and with all.
func sizesOf(rng *rand.Rand, rows, cols int, f func(rows, cols, k int)) {
	for i := 1; i <= rows; i++ {
		for j := 1; j <= cols; j++ {
			f(i, j, 1+rng.IntN(40))
		}
	}
	for k := 1; k <= 257; k++ {
		f(1+rng.IntN(rows), 1+rng.IntN(cols), k)
		f(rows, cols, k)
	}
}

// special makes some of s NaN, infinite or denormal.
func special(rng *rand.Rand, s []float32) []float32 {
	for i, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 1e-42, -1e-45} {
		if j := rng.IntN(4*len(s) + 1); j < len(s) && i < len(s) {
			s[j] = v
		}
	}
	return s
}

// Every tile size, A in rows and in panels, A and B packed before and meanwhile, in
// one chunk and in two, against the loop in the kernel's comment.
func TestGemmKernel(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(5, 6))
		sizesOf(rng, q.rows, q.cols, func(rows, cols, k int) {
			panels, chunk, add := 1+rng.IntN(3), k, rng.IntN(2) == 0
			if rng.IntN(2) == 0 {
				chunk = ceil(k, 2)
			}
			lda, ka, step := k+rng.IntN(3), 1, rows*(k+2)
			if rng.IntN(2) == 0 {
				lda, ka, step = 1, rows, rows*k
			}
			var to, packed []float32
			if rng.IntN(3) == 0 {
				lda, ka, step = 1, panels*rows+rng.IntN(3), rows
				to = guarded(t, make([]float32, panels*rows*k))
				packed = make([]float32, len(to))
			}
			ldc := cols + rng.IntN(3)
			a := guarded(t, special(rng, random(rng, (panels-1)*step+(rows-1)*lda+(k-1)*ka+1)))
			for i := range packed {
				packed[i] = a[i/(rows*k)*step+i%rows+i/rows%k*ka]
			}
			b := guarded(t, random(rng, k*q.cols))
			c0 := special(rng, random(rng, (panels*rows-1)*ldc+cols))
			c := guarded(t, c0)
			var src *float32
			lds := q.cols + rng.IntN(3)
			if to == nil && cols == q.cols && rng.IntN(2) == 0 {
				from := guarded(t, special(rng, random(rng, (k-1)*lds+cols)))
				src = &from[0]
				for l := range k {
					copy(b[l*q.cols:], from[l*lds:][:cols])
				}
			}
			want := append([]float32(nil), c0...)
			eachChunk := q.lanes == 4 // NEON adds them to C one by one, others their sum
			for i := range panels * rows {
				a := a[i/rows*step+i%rows*lda:]
				for j := range cols {
					var sum float32
					if add && eachChunk {
						sum = want[i*ldc+j]
					}
					for k0 := 0; k0 < k; k0 += chunk {
						var s float32
						for l := k0; l < min(k, k0+chunk); l++ {
							s = fma32(a[l*ka], b[l*q.cols+j], s)
						}
						sum += s
					}
					if add && !eachChunk {
						sum += want[i*ldc+j]
					}
					want[i*ldc+j] = sum
				}
			}
			if src != nil { // what the kernel must fill
				for i := range b {
					b[i] = -99
				}
			}
			next := stream{1, new(int), 0, 0, 0, &new([maxPairs + 2]int)[0], &guarded(t, make([]float32, rows*q.cols))[0]} // not to be read
			q.gemm(&c[0], &a[0], &b[0], ldc, lda, ka, step, k, chunk, rows, panels, cols, add, src, lds, unsafe.SliceData(to), &next.base)
			near(t, want, c, "rows=%d cols=%d k=%d", rows, cols, k)
			same(t, packed, to, "A packed, rows=%d cols=%d k=%d", rows, cols, k)
		})
	})
}

// directLoop is what a direct kernel makes of c: the loop in its comment.
func directLoop(c, a, b []float32, ldc, lda, ka, ldb, k, rows, cols int, add bool) []float32 {
	c = slices.Clone(c)
	for i := range rows {
		for j := range cols {
			var sum float32
			for l := range k {
				sum = fma32(a[i*lda+l*ka], b[l*ldb+j], sum)
			}
			if add {
				sum += c[i*ldc+j]
			}
			c[i*ldc+j] = sum
		}
	}
	return c
}

// Every number of rows and columns, A by rows and by columns, against the loop
// in the kernel's comment.
func TestSmallKernel(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(15, 16))
		sizesOf(rng, 2*q.small.rows+1, q.small.cols, func(rows, cols, k int) {
			add := rng.IntN(2) == 0
			lda, ka := k+rng.IntN(3), 1
			if rng.IntN(2) == 0 {
				lda, ka = 1, rows+rng.IntN(3)
			}
			ldb, ldc := q.small.cols, cols+rng.IntN(3)
			a := guarded(t, special(rng, random(rng, (rows-1)*lda+(k-1)*ka+1)))
			b := guarded(t, special(rng, random(rng, k*ldb)))
			c := guarded(t, special(rng, random(rng, (rows-1)*ldc+cols)))
			wantC := directLoop(c, a, b, ldc, lda, ka, ldb, k, rows, cols, add)
			f := Fetch{each: rng.IntN(4) + 1, end: 2} // not to be read
			f.list[0], f.list[1] = span{1 << 20, 100, 3}, span{1 << 21, 10, 4}
			want := f
			for range ceil(rows, q.small.rows) {
				if want.left == 0 && want.next < want.end {
					want.span = want.list[want.next]
					want.next++
				}
				n := min(want.each, want.left, k/2)
				want.at += uintptr(n * want.stride)
				want.left -= n
			}
			q.small.mul(&c[0], &a[0], &b[0], ldc, lda, ka, ldb, k, rows, cols, add, &f.at)
			near(t, wantC, c, "rows=%d cols=%d k=%d", rows, cols, k)
			if q.lanes > 4 { // NEON does not fetch
				require.Equal(t, want, f)
			}
		})
	})
}

func TestPackKernels(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(7, 8))
		for cols := 1; cols <= q.cols; cols++ {
			k, panels := 1+rng.IntN(9), 1+rng.IntN(3)
			lds, ldd := panels*cols+rng.IntN(3), cols+rng.IntN(2)
			step := k * ldd
			src := guarded(t, special(rng, random(rng, (k-1)*lds+panels*cols)))
			dst := guarded(t, make([]float32, (panels-1)*step+(k-1)*ldd+cols))
			want := make([]float32, len(dst))
			for l := range k {
				for p := range panels {
					for j := range cols {
						want[p*step+l*ldd+j] = src[l*lds+p*cols+j]
					}
				}
			}
			q.copy(&dst[0], &src[0], lds, k, cols, ldd, panels, step)
			same(t, want, dst, "cols=%d k=%d panels=%d", cols, k, panels)
		}
		for k := 4; k <= 260; k += 4 {
			lds := k + rng.IntN(3)
			src := guarded(t, special(rng, random(rng, (q.lanes-1)*lds+k)))
			dst := guarded(t, make([]float32, (k-1)*q.cols+q.lanes))
			want := make([]float32, len(dst))
			for l := range k {
				for j := range q.lanes {
					want[l*q.cols+j] = src[j*lds+l]
				}
			}
			q.transpose(&dst[0], &src[0], lds, k, q.cols)
			same(t, want, dst, "k=%d", k)
		}
	})
}

func TestDotKernel(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(9, 10))
		for k := 1; k <= 257; k++ {
			rows, groups := 1+k%q.dotRows, 1+k%3
			n := 4 * groups
			ldy := n + k%2
			x, w := guarded(t, random(rng, rows*k)), guarded(t, random(rng, n*k))
			if k%4 == 0 {
				special(rng, x)
				special(rng, w)
			}
			y := guarded(t, make([]float32, (rows-1)*ldy+n))
			q.dot(&y[0], &x[0], &w[0], ldy, k, rows, groups)
			for i := range rows {
				for j := range n {
					var want, abs float64
					for l := range k {
						v := float64(x[i*k+l]) * float64(w[j*k+l])
						want += v
						abs += math.Abs(v)
					}
					if got := float64(y[i*ldy+j]); math.IsNaN(want) || math.IsInf(want, 0) {
						require.True(t, got == want || math.IsNaN(want) && math.IsNaN(got), "k=%d y[%d,%d] is %v, want %v", k, i, j, got, want)
						continue
					}
					require.InDelta(t, want, float64(y[i*ldy+j]), 0x1p-24*(math.Sqrt(float64(k))+3)*abs, "k=%d y[%d,%d]", k, i, j)
				}
			}
		}
	})
}

func TestThinKernels(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(15, 16))
		for _, q := range q.thin {
			for k := 1; k <= 257; k++ {
				groups, chunk := 1+k%3, 1+rng.IntN(k)
				if q.pairs {
					chunk += chunk % 2
				}
				n := groups * q.rows
				xt, w := guarded(t, special(rng, random(rng, q.depth(k)*q.cols))), guarded(t, special(rng, random(rng, n*k)))
				yt, want := guarded(t, random(rng, n*q.cols)), make([]float32, n*q.cols)
				for j := range n {
					for i := range q.cols {
						for k0 := 0; k0 < k; k0 += chunk {
							var s [2]float32
							for l := k0; l < min(k, k0+chunk); l++ {
								at := l*q.cols + i
								if q.pairs {
									at = l/2*2*q.cols + 2*i + l%2
								}
								s[(l-k0)%q.sums] = fma32(w[j*k+l], xt[at], s[(l-k0)%q.sums])
							}
							want[j*q.cols+i] += s[0] + s[1]
						}
					}
				}
				q.thin(&yt[0], &xt[0], &w[0], k, chunk, groups)
				near(t, want, yt, "%dx%d k=%d chunk=%d", q.rows, q.cols, k, chunk)
			}
		}
	})
}

func TestRankKernel(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		if q.rank == nil {
			t.Skip("Go has it")
		}
		rng := rand.New(rand.NewPCG(17, 18))
		for k := 1; k < 2*minK; k++ {
			for _, rows := range []int{1, 4} {
				for vecs := 1; vecs < 5; vecs++ {
					for _, add := range []bool{false, true} {
						n := vecs * rankLanes
						ldc, ldb := n+rng.IntN(3), n+rng.IntN(3)
						a := make([]float64, k*rows)
						for i := range a {
							a[i] = float64(float32(rng.NormFloat64()))
						}
						b := guarded(t, special(rng, random(rng, (k-1)*ldb+n)))
						c := guarded(t, special(rng, random(rng, (rows-1)*ldc+n)))
						want := append([]float32(nil), c...)
						for i := range rows {
							for j := range n {
								var s float64
								if add {
									s = float64(want[i*ldc+j])
								}
								for l := range k {
									s += a[l*rows+i] * float64(b[l*ldb+j])
								}
								want[i*ldc+j] = float32(s)
							}
						}
						q.rank(&c[0], &b[0], &a[0], ldc, ldb, k, rows, vecs, add)
						same(t, want, c, "k=%d rows=%d vecs=%d add=%v", k, rows, vecs, add)
					}
				}
			}
		}
	})
}

// Every number of rows and columns, A by rows and by columns, against the loop
// in the kernel's comment.
func TestStripKernel(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		if q.strip == nil {
			t.Skip("gemm does it")
		}
		rng := rand.New(rand.NewPCG(19, 20))
		sizesOf(rng, q.rows, 2*q.cols+1, func(rows, cols, k int) {
			add := rng.IntN(2) == 0
			lda, ka := k+rng.IntN(3), 1
			if rng.IntN(2) == 0 {
				lda, ka = 1, rows+rng.IntN(3)
			}
			ldb, ldc := cols+rng.IntN(3), cols+rng.IntN(3)
			a := guarded(t, special(rng, random(rng, (rows-1)*lda+(k-1)*ka+1)))
			b := guarded(t, special(rng, random(rng, (k-1)*ldb+cols)))
			c := guarded(t, special(rng, random(rng, (rows-1)*ldc+cols)))
			want := directLoop(c, a, b, ldc, lda, ka, ldb, k, rows, cols, add)
			next := walk{at: 1 << 20, left: 2, step: 100, steps: 7, gap: 1000} // not to be read
			q.strip(&c[0], &a[0], &b[0], ldc, lda, ka, ldb, k, rows, cols, add, &next.at)
			near(t, want, c, "rows=%d cols=%d k=%d", rows, cols, k)
			steps := k * ceil(cols, q.cols)
			ends := (steps + 5) / 7 // of rows
			require.Equal(t, walk{at: 1<<20 + uintptr(100*steps+1000*ends), left: 7*ends + 2 - steps, step: 100, steps: 7, gap: 1000}, next)
		})
	})
}

// Every number of products and of groups, against the loop in the kernel's comment.
func TestTwiceKernel(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		if q.twice == nil {
			t.Skip("strip does it")
		}
		rng := rand.New(rand.NewPCG(29, 30))
		for k := minK; k <= q.stripK; k++ {
			for groups := 1; groups <= 3; groups++ {
				cols := groups * q.cols
				ldb, ldc := cols+rng.IntN(3), cols+rng.IntN(3)
				a := guarded(t, special(rng, random(rng, k*q.rows)))
				b := guarded(t, special(rng, random(rng, (k-1)*ldb+cols)))
				c := guarded(t, special(rng, random(rng, (q.rows-1)*ldc+cols)))
				want := slices.Clone(c)
				for i := range q.rows {
					for j := range cols {
						var s [2]float32
						for l := range k {
							h := l / ceil(k, 2)
							s[h] = fma32(a[l*q.rows+i], b[l*ldb+j], s[h])
						}
						want[i*ldc+j] = want[i*ldc+j] + s[0] + s[1]
					}
				}
				bits := slices.Clone(c)
				for l, n := 0, ceil(k, 2); l < k; l += n {
					q.strip(&bits[0], &a[l*q.rows], &b[l*ldb], ldc, 1, q.rows, ldb, min(n, k-l), q.rows, cols, true, &new(walk).at)
				}
				q.twice(&c[0], &a[0], &b[0], ldc, ldb, k, groups)
				same(t, bits, c, "k=%d groups=%d", k, groups)
				near(t, want, c, "k=%d groups=%d", k, groups)
			}
		}
	})
}

// What is measured is a product.
func TestCachedIsAProduct(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		p := newCached(q)
		require.Equal(t, float64(2*2*q.rows*q.cols*cachedK), p.Run(2))
		for i := range q.rows {
			for j := range q.cols {
				want := 0.0
				for l := range cachedK {
					want += float64(p.a[l*q.rows+i]) * float64(p.b[l*q.cols+j])
				}
				require.InDelta(t, want, p.c[i*q.cols+j], 1e-4, "[%d,%d]", i, j)
			}
		}
	})
}

// A stream ends where its table does, however many rows the panels have.
func TestStreamEnds(t *testing.T) {
	kernelsOnly(t, func(t *testing.T, q *kernel) {
		rng := rand.New(rand.NewPCG(21, 22))
		var s Scratch
		ends := *q
		ends.gemm = func(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels, cols int, add bool,
			src *float32, lds int, to *float32, next *uintptr) {
			q.gemm(c, a, b, ldc, lda, ka, stepA, k, chunk, rows, panels, cols, add, src, lds, to, next)
			if l := (*lines)(unsafe.Pointer(next)); l.at > l.n {
				t.Errorf("rows=%d panels=%d k=%d: at %d of %d", rows, panels, k, l.at, l.n)
			}
		}
		for m := 1; m < 10*q.rows; m++ {
			n, k := 1+rng.IntN(3*q.cols), minK+rng.IntN(2*kBlock)
			a, b := random(rng, m*k), random(rng, k*n)
			for _, p := range []Product{
				ends.product(make([]float32, m*n), operand{a, k, 1}, operand{b, k, 1}, m, n, k, false, 1),
				ends.product(make([]float32, m*n), operand{a, k, 1}, operand{b, 1, n}, m, n, k, false, 1),
				ends.product(make([]float32, m*n), operand{a, 1, m}, operand{b, 1, n}, m, n, k, true, 1),
			} {
				p.Run(&s, 0, p.Tiles())
			}
		}
	})
}
