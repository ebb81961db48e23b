package ops

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEmbeddingCopiesRowsAndItsBackwardAddsThem(t *testing.T) {
	r := newRand(1)
	const V = 6
	for _, c := range []struct{ n, C int }{{0, 3}, {1, 1}, {3, 2}, {7, 63}, {9, 65}, {40, 130}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			n, C := c.n, c.C
			table, dx, dtable0 := random(r, V*C, 1), random(r, n*C, 1), random(r, V*C, 1)
			tokens := make([]int32, n)
			for i := range tokens {
				tokens[i] = int32(r.IntN(V - 1)) // the last one never occurs
			}
			x, dtable := output(t, n*C), sum(t, dtable0)
			Embedding(x, table, tokens, n, C)
			EmbeddingBackward(dtable, dx, tokens, n, C)
			want := append([]float32(nil), dtable0...)
			for i, token := range tokens {
				require.Equal(t, table[int(token)*C:][:C], x[i*C:][:C])
				for j := range C {
					want[int(token)*C+j] += dx[i*C+j]
				}
			}
			require.Equal(t, bitsOf(want), bitsOf(dtable))
		})
	}
}

// In another order 1e8 would swallow the 1s or be left.
func TestEmbeddingBackwardAddsARepeatedTokenInOrder(t *testing.T) {
	const C = 200
	var dx []float32
	for _, v := range []float32{1e8, 1, -1e8, 1} {
		dx = append(dx, filled(C, v)...)
	}
	dtable := sum(t, make([]float32, 2*C))
	EmbeddingBackward(dtable, dx, []int32{1, 1, 1, 1}, 4, C)
	require.Equal(t, make([]float32, C), dtable[:C])
	require.Equal(t, filled(C, 1), dtable[C:])
}

func TestEmbeddingBackwardSkipsANilTable(t *testing.T) {
	require.NotPanics(t, func() { EmbeddingBackward(nil, nil, []int32{1}, 1, 4) })
}

func TestEmbeddingBackwardKeepsNaNInItsToken(t *testing.T) {
	dx := []float32{1, nan, 2, 3}
	dtable := sum(t, make([]float32, 6))
	EmbeddingBackward(dtable, dx, []int32{0, 2}, 2, 2)
	require.Equal(t, float32(1), dtable[0])
	require.True(t, dtable[1] != dtable[1])
	require.Equal(t, []float32{0, 0, 2, 3}, dtable[2:])
}
