package ops

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAddGivesTheSumAlsoInPlace(t *testing.T) {
	r := newRand(1)
	for _, n := range []int{0, 1, 3, 16<<10 + 5} {
		a, b := random(r, n, 1), random(r, n, 1)
		out := output(t, n)
		Add(out, a, b, n)
		for i := range out {
			require.Equal(t, a[i]+b[i], out[i])
		}
		intoA, intoB := sum(t, a), sum(t, b)
		Add(intoA, intoA, b, n)
		Add(intoB, a, intoB, n)
		require.Equal(t, out, intoA)
		require.Equal(t, out, intoB)
	}
}

func TestAddBiasAddsToEveryRowAndItsBackwardSums(t *testing.T) {
	r := newRand(2)
	for _, c := range []struct{ n, N int }{{0, 3}, {1, 1}, {3, 5}, {2, 64}, {5, 65}, {300, 131}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			y0, b, dy, db0 := random(r, c.n*c.N, 1), random(r, c.N, 1), random(r, c.n*c.N, 1), random(r, c.N, 1)
			y, db := sum(t, y0), sum(t, db0)
			AddBias(y, b, c.n, c.N)
			AddBiasBackward(db, dy, c.n, c.N)
			want := widen(db0)
			for i := range y {
				require.Equal(t, y0[i]+b[i%c.N], y[i])
				want[i%c.N] += float64(dy[i])
			}
			requireClose(t, want, db, 1e-7, "db")
		})
	}
	require.NotPanics(t, func() { AddBiasBackward(nil, nil, 3, 4) }, "nil skips")
	db := make([]float32, 3)
	AddBiasBackward(db, []float32{1, nan, 2}, 1, 3)
	require.Equal(t, float32(1), db[0])
	require.True(t, db[1] != db[1])
	require.Equal(t, float32(2), db[2])
}

func TestCopyColumnsCopiesThemOnly(t *testing.T) {
	r := newRand(3)
	for _, c := range []struct{ n, N, ds, ss int }{{0, 3, 3, 3}, {1, 2, 9, 9}, {3, 4, 4, 4}, {5, 3, 7, 4}, {4, 65, 70, 66}} {
		src := random(r, max(0, (c.n-1)*c.ss+c.N), 1)
		dst := output(t, max(0, (c.n-1)*c.ds+c.N))
		CopyColumns(dst, src, c.n, c.N, c.ds, c.ss)
		for i, v := range dst {
			if i%c.ds < c.N {
				require.Equal(t, src[i/c.ds*c.ss+i%c.ds], v)
			} else {
				require.True(t, v != v, "written between the rows")
			}
		}
	}
}
