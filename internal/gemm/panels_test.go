package gemm

import (
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/isa"
)

// Every part of a packed matrix, both packs and both sides of A, against
// float64, in memory around which nothing may change.
func TestPanelsMultiplyPartsOfAMatrix(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	for _, set := range isa.Available {
		q := kernels[set]
		var p Panels
		for i := range 400 {
			K, N, m := 1+r.IntN(90), 1+r.IntN(100), 1+r.IntN(40)
			if i%10 == 0 {
				K = 150 + r.IntN(500)
			}
			n0 := r.IntN((N+PanelStep-1)/PanelStep) * PanelStep
			n1 := n0 + 1 + r.IntN(N-n0)
			k0 := r.IntN(K)
			k1 := k0 + r.IntN(K-k0+1)
			ldb := N + r.IntN(5)
			b := random(K * ldb)
			if i%2 == 0 {
				p.pack(q, b[:(K-1)*ldb+N], ldb, K, N)
			} else {
				ldT := K + r.IntN(5)
				bT := random(N * ldT)
				for k := range K {
					for n := range N {
						bT[n*ldT+k] = b[k*ldb+n]
					}
				}
				p.packT(q, bT[:(N-1)*ldT+K], ldT, K, N)
			}
			k := k1 - k0
			lda, ka := k+r.IntN(5), 1
			if i%4 < 2 {
				lda, ka = 1, m+r.IntN(5)
			}
			a := random((m-1)*lda + max(k-1, 0)*ka + 1)
			ldc := n1 - n0 + r.IntN(5)
			c := random((m-1)*ldc + n1 - n0)
			before := append([]float32(nil), c...)
			add := i%8 < 4
			p.mul(q, c, ldc, a, lda, ka, m, k0, k1, n0, n1, add, new(Fetch))
			for at, got := range c {
				row, col := at/ldc, at%ldc
				want, size := 0.0, 0.0
				if add || col >= n1-n0 {
					want = float64(before[at])
				}
				if col < n1-n0 {
					size = math.Abs(want)
					for l := range k {
						x := float64(a[row*lda+l*ka]) * float64(b[(k0+l)*ldb+n0+col])
						want += x
						size += math.Abs(x)
					}
				}
				if !(math.Abs(float64(got)-want) <= 1e-6*size) {
					t.Fatalf("%v: m=%d k=%d:%d of %d n=%d:%d of %d: [%d,%d] is %v, want %v", set, m, k0, k1, K, n0, n1, N, row, col, got, want)
				}
			}
		}
	}
}

func TestFinitePanels(t *testing.T) {
	for _, set := range isa.Available {
		q := kernels[set]
		const K, N = 5, 70
		var p Panels
		for bad := range K*N + 1 {
			b := make([]float32, K*N)
			if bad < K*N {
				b[bad] = float32(math.Inf(-1))
			}
			p.pack(q, b, N, K, N)
			for k := range K {
				if p.finite(q.panel(), k, k+1) != (bad/N != k) {
					t.Fatalf("%v: row %d, not finite: [%d]", set, k, bad)
				}
			}
		}
		p.pack(q, make([]float32, K*3), 3, K, 3) // columns beyond are not those of the last matrix
		require.True(t, p.finite(q.panel(), 0, K), set)
	}
}

func TestRowsOfPanels(t *testing.T) {
	for _, set := range isa.Available {
		q := kernels[set]
		for _, n := range []int{1, q.panel(), q.panel() + 1, 2 * q.panel()} {
			const K = 3
			b := random(rand.New(rand.NewPCG(3, 4)), K*(n+2))
			var p Panels
			p.pack(q, b, n+2, K, n)
			rows := p.rows(q.panel())
			require.Equal(t, n == q.panel(), rows != nil, "%v: %d columns", set, n)
			for i := range rows {
				require.Equal(t, b[i/n*(n+2)+i%n], rows[i], "%v: [%d]", set, i)
			}
		}
	}
}

var fetched [1000]float32 // not on a stack, which moves

// What is added is what kernels fetch, after what they have not yet.
func TestFetch(t *testing.T) {
	var f Fetch
	x := fetched[:]
	at := func(i int) uintptr { return uintptr(unsafe.Pointer(&x[i])) }
	f.Add(x, 3, 2, 17, 100) // two lines of each row
	f.Add(x, 999, 0, 64, 100)
	f.Add(x, 1000, -1, 64, 100)
	f.Add(x, 7, 4, 16, 100)
	f.Pace(4)
	require.Equal(t, 2, f.each) // eight lines
	require.Equal(t, []span{{at(3), 400, 2}, {at(19), 400, 2}, {at(7), 400, 4}}, f.list[f.next:f.end])
	f.span, f.next = f.list[0], 1 // as a kernel begins
	f.left--
	f.Add(x, 8, 1, 1, 100)
	f.Pace(4)
	require.Equal(t, 2, f.each)
	require.Equal(t, []span{{at(19), 400, 2}, {at(7), 400, 4}, {at(8), 400, 1}}, f.list[f.next:f.end])
	for range 2 * len(f.list) {
		f.Add(x, 0, 1, 1, 64) // there is not place for all
	}
	f.Reset()
	f.Pace(0)
	require.Zero(t, f.each)
}
