package data

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// examplesOf are examples of the given lengths, each of its own tokens.
func examplesOf(lengths ...int) (list []Example) {
	for i, n := range lengths {
		e := Example{Line: i + 1}
		for j := range n {
			e.Tokens, e.Targets = append(e.Tokens, int32(1000*i+j+1)), append(e.Targets, int32((n-j)%3-1))
		}
		list = append(list, e)
	}
	return list
}

func TestPaddedHasEveryExampleOnceInAnEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.IntRange(1, 50), 1, 1000).Draw(t, "lengths")
		B := rapid.IntRange(1, 12).Draw(t, "B")
		seed := rapid.Uint64().Draw(t, "seed")
		list := examplesOf(lengths...)
		require.Equal(t, slices.Max(lengths), Longest(list))
		d, err := NewPadded(list, B, Longest(list), seed)
		require.NoError(t, err)
		require.Equal(t, (len(lengths)+B-1)/B, d.Batches())
		epoch := rapid.IntRange(0, 1000).Draw(t, "epoch")
		var lines []int
		sizes := map[int]bool{}
		for k := range d.Batches() {
			rows := d.Rows(epoch*d.Batches() + k)
			sizes[len(rows)] = true
			require.LessOrEqual(t, len(rows), B)
			for _, e := range rows {
				lines = append(lines, e.Line)
			}
		}
		require.LessOrEqual(t, len(sizes), 2)
		if len(lengths) >= B {
			for size := range sizes {
				require.GreaterOrEqual(t, 2*size, B)
			}
		}
		slices.Sort(lines)
		require.Len(t, slices.Compact(slices.Clone(lines)), len(lengths))
		require.Len(t, lines, len(lengths))
	})
}

func TestPaddedIsShuffledByEpochAndSeed(t *testing.T) {
	lengths := make([]int, 100)
	for i := range lengths {
		lengths[i] = 1 + i%5
	}
	list := examplesOf(lengths...)
	order := func(seed uint64, epoch int) (lines []int) {
		d, err := NewPadded(list, 3, 5, seed)
		require.NoError(t, err)
		for k := range d.Batches() {
			for _, e := range d.Rows(epoch*d.Batches() + k) {
				lines = append(lines, e.Line)
			}
		}
		return lines
	}
	require.Equal(t, order(1, 0), order(1, 0))
	require.NotEqual(t, order(1, 0), order(1, 1))
	require.NotEqual(t, order(1, 0), order(2, 0))
	// Neighbours of one epoch are seldom in one batch in the next.
	batch := map[int]int{}
	for i, line := range order(1, 1) {
		batch[line] = i / 3
	}
	again := 0
	for i, first := range order(1, 0)[1:] {
		if i/3 == (i+1)/3 && batch[first] == batch[order(1, 0)[i]] {
			again++
		}
	}
	require.Less(t, again, 20)
}

// Rows of a batch are of nearly the same length: of random order, more than a
// third of what is computed would be padding.
func TestPaddedSavesPadding(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	lengths := make([]int, 10_000)
	for i := range lengths {
		lengths[i] = 1 + r.IntN(200)
	}
	d, err := NewPadded(examplesOf(lengths...), 8, 200, 1)
	require.NoError(t, err)
	tokens, targets := make([]int32, 8*200), make([]int32, 8*200)
	for epoch := range 3 {
		used, cells := 0, 0
		var longest []int
		for k := range d.Batches() {
			rows := d.Rows(epoch*d.Batches() + k)
			require.NoError(t, d.Fill(epoch*d.Batches()+k, tokens, targets))
			B, T := Trim(tokens, targets, 8, 200)
			cells += B * T
			longest = append(longest, T)
			for _, e := range rows {
				used += len(e.Tokens)
			}
		}
		require.Greater(t, float64(used)/float64(cells), 0.98, "epoch %d", epoch)
		require.False(t, slices.IsSorted(longest))
		ascending := 0 // a sign that short batches come first
		for i := range longest[1:] {
			if longest[i] <= longest[i+1] {
				ascending++
			}
		}
		require.InDelta(t, len(longest)/2, ascending, 100)
	}
}

func TestFillPads(t *testing.T) {
	d, err := NewPadded(examplesOf(2, 4, 1), 4, 5, 1)
	require.NoError(t, err)
	tokens, targets := slices.Repeat([]int32{9}, 20), slices.Repeat([]int32{9}, 20)
	require.NoError(t, d.Fill(5, tokens, targets))
	require.Equal(t, []int32{2001, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1001, 1002, 1003, 1004, 0, 0, 0, 0, 0, 0}, tokens)
	require.Equal(t, []int32{0, -1, -1, -1, -1, 1, 0, -1, -1, -1, 0, -1, 1, 0, -1, -1, -1, -1, -1, -1}, targets)

	b, n := Trim(tokens, targets, 4, 5)
	require.Equal(t, []int{3, 4}, []int{b, n})
	require.Equal(t, []int32{2001, 0, 0, 0, 1, 2, 0, 0, 1001, 1002, 1003, 1004}, tokens[:12])
	require.Equal(t, []int32{0, -1, -1, -1, 1, 0, -1, -1, 0, -1, 1, 0}, targets[:12])
	require.PanicsWithValue(t, "data: Padded.Fill: tokens and targets are not [B,T]", func() { d.Fill(5, tokens, targets[1:]) })
	require.PanicsWithValue(t, "data: Padded.Rows: negative k", func() { d.Fill(-1, tokens, targets) })
}

func TestTrimLeavesWhatTheLossDependsOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		B, T := rapid.IntRange(1, 5).Draw(t, "B"), rapid.IntRange(1, 6).Draw(t, "T")
		tokens, targets := make([]int32, B*T), rapid.SliceOfN(rapid.Int32Range(-1, 1), B*T, B*T).Draw(t, "targets")
		for i := range tokens {
			tokens[i] = int32(i)
		}
		was := slices.Clone(targets)
		b, n := Trim(tokens, targets, B, T)
		require.True(t, b >= 1 && b <= B && n >= 1 && n <= T)
		row, column := b == 1, n == 1 // one of them may be empty only if it is alone
		for i, id := range was {
			if r, c := i/T, i%T; r >= b || c >= n {
				require.Less(t, id, int32(0))
			} else {
				require.Equal(t, int32(i), tokens[r*n+c])
				require.Equal(t, id, targets[r*n+c])
				row, column = row || r == b-1 && id >= 0, column || c == n-1 && id >= 0
			}
		}
		require.True(t, row && column)
	})
	require.PanicsWithValue(t, "data: Trim: tokens and targets are not [B,T]", func() { Trim(nil, nil, 1, 1) })
}

func TestTheFingerprintOfPadded(t *testing.T) {
	of := func(list []Example, B int, seed uint64) string {
		d, err := NewPadded(list, B, 6, seed)
		require.NoError(t, err)
		return d.Fingerprint()
	}
	first := of(examplesOf(2, 4), 2, 1)
	require.Regexp(t, `^2 examples, SHA-256 [0-9a-f]{64}, in padded batches of 2×6, seed 1$`, first)
	require.Equal(t, first, of(examplesOf(2, 4), 2, 1))
	other := examplesOf(2, 4)
	other[1].Targets[3] = 7
	joined := examplesOf(6)
	for _, different := range []string{of(examplesOf(4, 2), 2, 1), of(examplesOf(2, 4), 1, 1), of(examplesOf(2, 4), 2, 2), of(other, 2, 1), of(joined, 2, 1)} {
		require.NotEqual(t, first, different)
	}
}

func TestNewPaddedRefusesWhatHasNoBatches(t *testing.T) {
	for want, c := range map[string]struct {
		list []Example
		B    int
	}{
		"batches of 0 examples, want 1 or more":             {examplesOf(1), 0},
		"there are no examples":                             {nil, 1},
		"example 1 has 0 tokens":                            {examplesOf(1, 0), 1},
		"example 1 has 6 tokens and 6 targets, want 1 to 5": {examplesOf(5, 6), 1},
		"example 0 has 1 tokens and 0 targets":              {[]Example{{Tokens: []int32{1}}}, 1},
	} {
		_, err := NewPadded(c.list, c.B, 5, 1)
		require.ErrorContains(t, err, "data: "+want)
	}
	d, err := NewPadded(examplesOf(1), 1, 1, 1)
	require.NoError(t, err)
	require.PanicsWithValue(t, "data: Padded.Rows: negative k", func() { d.Rows(-1) })
}
