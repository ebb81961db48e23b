package data

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// count returns the tokens 0, 1, …, n-1, so that a token tells its position.
func count(n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(i)
	}
	return tokens
}

func TestPermuteIsABijectionForEverySmallSize(t *testing.T) {
	for n := uint64(1); n <= 300; n++ {
		for key := range uint64(4) {
			seen := make([]bool, n)
			for i := range n {
				j := permute(i, n, key)
				require.Less(t, j, n)
				require.False(t, seen[j], "n %d, key %d: %d twice", n, key, j)
				seen[j] = true
			}
		}
	}
}

func TestPermuteStaysInRangeOfLargeSizes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(1, 1<<62).Draw(t, "n")
		i := rapid.Uint64Range(0, n-1).Draw(t, "i")
		j := rapid.Uint64Range(0, n-1).Draw(t, "j")
		key := rapid.Uint64().Draw(t, "key")
		require.Less(t, permute(i, n, key), n)
		require.Equal(t, i == j, permute(i, n, key) == permute(j, n, key))
	})
}

// Where an index lands is uniform over keys, and so is where its neighbour
// lands after it: chi-squared against 6 standard deviations.
func TestPermuteIsUniformOverKeys(t *testing.T) {
	for _, n := range []uint64{5, 16, 37} {
		const keys = 20000
		place, gap := make([]float64, n), make([]float64, n)
		for k := range uint64(keys) {
			key := mix(k)
			a, b := permute(1, n, key), permute(2, n, key)
			place[a]++
			gap[(b+n-a)%n]++
		}
		require.Zero(t, gap[0])
		for name, counts := range map[string][]float64{"place": place, "gap": gap[1:]} {
			want := float64(keys) / float64(len(counts))
			chi := 0.0
			for _, c := range counts {
				chi += (c - want) * (c - want) / want
			}
			df := float64(len(counts) - 1)
			require.Less(t, chi, df+6*math.Sqrt(2*df), "%s, n %d: %v", name, n, counts)
		}
	}
}

// rows returns the rows of batches from..to-1.
func rows(t require.TestingT, d *Batches, from, to int) (tokens, targets [][]int32) {
	for k := from; k < to; k++ {
		x, y := make([]int32, d.b*d.t), make([]int32, d.b*d.t)
		d.Fill(k, x, y)
		tokens = slices.AppendSeq(tokens, slices.Chunk(x, d.t))
		targets = slices.AppendSeq(targets, slices.Chunk(y, d.t))
	}
	return
}

func TestEveryWindowOnceAnEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		T := rapid.IntRange(1, 9).Draw(t, "T")
		B := rapid.IntRange(1, 7).Draw(t, "B")
		n := rapid.IntRange(T+1, 120).Draw(t, "n")
		d, err := NewBatches(count(n), B, T, rapid.Uint64().Draw(t, "seed"))
		require.NoError(t, err)
		W := d.Windows()
		require.GreaterOrEqual(t, W, 1)
		require.Less(t, n-(W*T+1), 2*T, "too much is left over at the ends")

		const epochs = 3
		x, y := rows(t, d, 0, (epochs*W+B-1)/B)
		for e := range epochs {
			var starts []int
			for i := e * W; i < (e+1)*W; i++ {
				for j := range T { // one run of the corpus, and the token after each
					require.Equal(t, x[i][0]+int32(j), x[i][j])
					require.Equal(t, x[i][j]+1, y[i][j])
				}
				starts = append(starts, int(x[i][0]))
			}
			slices.Sort(starts)
			require.Less(t, starts[0], T)
			for i := range starts {
				require.Equal(t, starts[0]+i*T, starts[i])
			}
			require.Less(t, starts[W-1]+T, n)
		}
	})
}

func TestABatchIsAPureFunctionOfSeedAndK(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens, seed := count(rapid.IntRange(9, 200).Draw(t, "n")), rapid.Uint64().Draw(t, "seed")
		fill := func(d *Batches, k int) []int32 {
			x, y := make([]int32, 24), make([]int32, 24)
			d.Fill(k, x, y)
			return append(x, y...)
		}
		a, err := NewBatches(tokens, 3, 8, seed)
		require.NoError(t, err)
		b, err := NewBatches(slices.Clone(tokens), 3, 8, seed)
		require.NoError(t, err)
		ks := rapid.SliceOfN(rapid.IntRange(0, math.MaxInt), 1, 8).Draw(t, "ks")
		var want [][]int32
		for _, k := range ks {
			want = append(want, fill(a, k))
		}
		for i := len(ks) - 1; i >= 0; i-- {
			require.Equal(t, want[i], fill(b, ks[i]))
		}
	})
}

// Accumulating A batches of B rows reads what one batch of A·B rows does.
func TestSmallBatchesAreTheRowsOfALargeOne(t *testing.T) {
	small, err := NewBatches(count(500), 2, 7, 5)
	require.NoError(t, err)
	large, err := NewBatches(count(500), 6, 7, 5)
	require.NoError(t, err)
	xs, ys := rows(t, small, 0, 90)
	xl, yl := rows(t, large, 0, 30)
	require.Equal(t, xl, xs)
	require.Equal(t, yl, ys)
}

func TestEpochsAndSeedsDiffer(t *testing.T) {
	epochs := map[string]string{}
	first := map[int32]bool{}
	for seed := range uint64(20) {
		d, err := NewBatches(count(1000), 1, 10, seed)
		require.NoError(t, err)
		require.Equal(t, 99, d.Windows())
		x, _ := rows(t, d, 0, 2*99)
		for e := range 2 {
			var order []int32
			smallest := int32(1000)
			for _, row := range x[e*99:][:99] {
				order = append(order, row[0])
				smallest = min(smallest, row[0])
			}
			first[smallest] = true
			name, at := fmt.Sprint(order), fmt.Sprintf("seed %d epoch %d", seed, e)
			require.Empty(t, epochs[name], "%s has the order of another", at)
			epochs[name] = at
			require.False(t, slices.IsSorted(order))
		}
	}
	require.Len(t, first, 10, "40 epochs begin at every offset")
}

func TestBatchesRefuse(t *testing.T) {
	for _, c := range []struct {
		n, B, T int
		want    string
	}{
		{0, 1, 4, "data: 0 tokens are too few: one window of a sequence of 4 has 5"},
		{128, 16, 128, "data: 128 tokens are too few: one window of a sequence of 128 has 129"},
		{9, 1, math.MaxInt, "one window of a sequence of 9223372036854775807 has 9223372036854775808"},
		{9, 0, 4, "batches of 0 rows of 4 tokens"},
		{9, 4, -1, "batches of 4 rows of -1 tokens"},
	} {
		_, err := NewBatches(count(c.n), c.B, c.T, 1)
		require.ErrorContains(t, err, c.want)
	}
	d, err := NewBatches(count(5), 2, 4, 1) // exactly one window
	require.NoError(t, err)
	x, _ := rows(t, d, 0, 2)
	require.Equal(t, [][]int32{{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}}, x)

	buf := make([]int32, 8)
	require.PanicsWithValue(t, "data: Batches.Fill: negative k", func() { d.Fill(-1, buf, buf) })
	require.Panics(t, func() { d.Fill(0, buf[:7], buf) })
	require.Panics(t, func() { d.Fill(0, buf, buf[:7]) })
}

func TestFillAllocatesNothing(t *testing.T) {
	d, err := NewBatches(count(500), 4, 7, 5)
	require.NoError(t, err)
	w, err := NewWindows(count(500), 4, 7, 3)
	require.NoError(t, err)
	x, y := make([]int32, 28), make([]int32, 28)
	require.Zero(t, testing.AllocsPerRun(100, func() { d.Fill(3, x, y); w.Fill(3, x, y) }))
}

func TestWindowsPredictEveryTokenOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		T := rapid.IntRange(1, 9).Draw(t, "T")
		B := rapid.IntRange(1, 4).Draw(t, "B")
		stride := rapid.IntRange(1, T).Draw(t, "stride")
		n := rapid.IntRange(2, 80).Draw(t, "n")
		w, err := NewWindows(count(n), B, T, stride)
		require.NoError(t, err)
		require.Equal(t, n-1, w.Targets())

		var seen []int32
		x, y := make([]int32, B*T), make([]int32, B*T)
		for k := range w.Len() {
			for i := range x {
				x[i], y[i] = -9, -9 // what the last batch left must not stay
			}
			w.Fill(k, x, y)
			for r := range B {
				row, next := x[r*T:][:T], y[r*T:][:T]
				for j, target := range next {
					require.True(t, row[j] >= 0 && row[j] < int32(n))
					if target < 0 {
						require.Equal(t, int32(-1), target)
						continue
					}
					seen = append(seen, target)
					context := j + 1
					require.True(t, k+r == 0 || context > T-stride)
					for i := range context { // all of it is what comes before the target
						require.Equal(t, target-int32(context-i), row[i])
					}
				}
			}
		}
		require.Equal(t, count(n)[1:], seen)

		// No batch is empty: the last one has a target.
		w.Fill(w.Len()-1, x, y)
		require.GreaterOrEqual(t, slices.Max(y), int32(0))
	})
}

func TestWindowsRefuse(t *testing.T) {
	for _, c := range []struct {
		n, B, T, stride int
		want            string
	}{
		{1, 1, 4, 4, "data: 1 tokens are too few to evaluate on"},
		{9, 0, 4, 4, "batches of 0 rows"},
		{9, 1, 0, 1, "rows of 0 tokens"},
		{9, 1, 4, 5, "windows of 4 tokens with a stride of 5, want 1 to 4"},
		{9, 1, 4, 0, "with a stride of 0"},
	} {
		_, err := NewWindows(count(c.n), c.B, c.T, c.stride)
		require.ErrorContains(t, err, c.want)
	}
	w, err := NewWindows(count(9), 1, 4, 4)
	require.NoError(t, err)
	buf := make([]int32, 4)
	require.Panics(t, func() { w.Fill(2, buf, buf) })
	require.Panics(t, func() { w.Fill(-1, buf, buf) })
	require.Panics(t, func() { w.Fill(0, buf[:3], buf) })
}

func TestSplitHoldsOutTheEnd(t *testing.T) {
	for _, c := range []struct {
		n       int
		heldOut float64
		val     int
	}{{100, 0.1, 10}, {99, 0.1, 9}, {5, 0, 0}, {0, 0.5, 0}, {3, 0.999, 2}} {
		train, val := Split(count(c.n), c.heldOut)
		require.Len(t, val, c.val)
		require.Equal(t, count(c.n), append(train, val...))
		require.Equal(t, len(train), cap(train), "appending to train must not write into val")
	}
	for _, f := range []float64{-0.1, 1, math.NaN()} {
		require.Panics(t, func() { Split(nil, f) })
	}
}
