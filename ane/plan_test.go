package ane

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/ane/internal/sim"
)

// The texts are what Apple's compiler gets: a change must be seen.
func TestProgramTexts(t *testing.T) {
	for _, l := range []*layout{rowsLayout, wideLayout, publishedLayout} {
		file := filepath.Join("testdata", l.name+".mil")
		got := l.text(64, 96, 128)
		if os.Getenv("CHAINRULE_UPDATE") != "" {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), got)
	}
}

func TestPlans(t *testing.T) {
	early, m4 := sim.Early().Limits(), sim.M4().Limits()
	for _, c := range []struct {
		p             Product
		rows, out, in int
		early, m4     plan
	}{
		// Stories110M, 256 tokens
		{Forward, 256, 2304, 768, plan{256, 768, 2304, 2304, 1}, plan{256, 768, 2304, 2304, 1}},
		{Backward, 256, 2304, 768, plan{256, 2304, 768, 2304, 1}, plan{256, 2304, 768, 2304, 1}},
		{Forward, 256, 32000, 768, plan{256, 768, 16000, 16000, 2}, plan{256, 768, 32000, 32000, 1}},
		{Backward, 256, 32000, 768, plan{256, 16000, 768, 16000, 2}, plan{256, 32000, 768, 32000, 1}},
		// rounded up: rows, and widths that are no multiple of 32
		{Forward, 257, 65, 1000, plan{384, 1024, 96, 96, 1}, plan{384, 1024, 96, 96, 1}},
		// surfaces of 49152 bytes
		{Forward, 1, 32, 32, plan{768, 32, 32, 32, 1}, plan{768, 32, 32, 32, 1}},
		{Backward, 1, 2304, 32, plan{768, 2304, 32, 2304, 1}, plan{768, 2304, 32, 2304, 1}},
		// chunks
		{Forward, 8192, 128, 128, plan{4096, 128, 128, 128, 1}, plan{4096, 128, 128, 128, 1}},
		{Forward, 4097, 128, 128, plan{3072, 128, 128, 128, 1}, plan{3072, 128, 128, 128, 1}},
	} {
		name := fmt.Sprintf("%v of %d rows, W [%d,%d]", c.p, c.rows, c.out, c.in)
		got, fits := newPlan(c.p, c.rows, c.out, c.in, early)
		require.True(t, fits, name)
		require.Equal(t, c.early, got, name)
		got, fits = newPlan(c.p, c.rows, c.out, c.in, m4)
		require.True(t, fits, name)
		require.Equal(t, c.m4, got, name)
	}
	for _, p := range []Product{Forward, Backward} {
		_, fits := newPlan(p, 64, 64, 16385, early)
		require.False(t, fits)
		_, fits = newPlan(p, 64, 64, 16385, m4)
		require.True(t, fits)
	}
}

func TestPlansKeepTheLimits(t *testing.T) {
	limits := sim.Early().Limits()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom([]Product{Forward, Backward}).Draw(t, "product")
		rows := rapid.IntRange(1, 20000).Draw(t, "rows")
		out, in := rapid.IntRange(1, 200000).Draw(t, "out"), rapid.IntRange(1, 20000).Draw(t, "in")
		pl, fits := newPlan(p, rows, out, in, limits)
		if !fits {
			require.Greater(t, in, 12288)
			return
		}
		for _, n := range []int{pl.m, pl.k, pl.n, pl.tile} {
			require.Positive(t, n)
			require.Zero(t, n%limits.Multiple)
		}
		require.LessOrEqual(t, max(pl.m+pl.n, pl.k), limits.MaxAxis)
		require.GreaterOrEqual(t, min(pl.inBytes(), pl.outBytes()), limits.MinSurface)
		require.GreaterOrEqual(t, pl.tile*pl.tiles, out)
		require.Less(t, pl.tile*(pl.tiles-1), out)
		if p == Forward {
			require.Equal(t, []int{roundUp(in), pl.tile}, []int{pl.k, pl.n})
		} else {
			require.Equal(t, []int{roundUp(in), pl.tile}, []int{pl.n, pl.k})
		}
	})
}

func TestRoundRows(t *testing.T) {
	for n, want := range map[int]int{1: 32, 32: 32, 33: 64, 65: 96, 97: 128, 129: 192, 193: 256, 257: 384, 1025: 1536, 2048: 2048} {
		require.Equal(t, want, roundRows(n), n)
	}
}
