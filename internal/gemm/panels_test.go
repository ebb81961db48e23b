package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/isa"
)

func TestPartsBeginWithAPanel(t *testing.T) {
	for _, set := range isa.Available {
		require.Zero(t, PanelCols%kernels[set].panel(), set)
	}
}

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
			n0 := r.IntN((N+PanelCols-1)/PanelCols) * PanelCols
			n1 := n0 + 1 + r.IntN(N-n0)
			k0 := r.IntN(K)
			k1 := k0 + r.IntN(K-k0+1)
			note := fmt.Sprintf("%v: m=%d k=%d:%d of %d n=%d:%d of %d", set, m, k0, k1, K, n0, n1, N)
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
			p.mul(q, c, ldc, a, lda, ka, m, k0, k1, n0, n1, add)
			for at, got := range c {
				row, col := at/ldc, at%ldc
				if col >= n1-n0 {
					require.Equal(t, before[at], got, note)
					continue
				}
				want, size := 0.0, 0.0
				if add {
					want = float64(before[at])
					size = math.Abs(want)
				}
				for l := range k {
					x := float64(a[row*lda+l*ka]) * float64(b[(k0+l)*ldb+n0+col])
					want += x
					size += math.Abs(x)
				}
				require.InDelta(t, want, got, 1e-6*size, "%s: [%d,%d]", note, row, col)
			}
		}
	}
}
