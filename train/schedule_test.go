package train_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/train"
)

func TestWarmupCosineGoesThroughItsPoints(t *testing.T) {
	s := train.WarmupCosine{LR: 1, MinLR: 0.1, Warmup: 10, Steps: 110}
	for step, want := range map[int]float64{
		1: 0.1, 5: 0.5, 10: 1, // linear to LR
		35: 0.1 + 0.9*(1+math.Sqrt2/2)/2, 60: 0.55, 85: 0.1 + 0.9*(1-math.Sqrt2/2)/2, // half a cosine
		110: 0.1, 111: 0.1, 1e6: 0.1, // and stays
	} {
		require.InDelta(t, want, s.At(step), 1e-15, "step %d", step)
	}
	none := train.WarmupCosine{LR: 1, Steps: 2}
	require.Equal(t, []float64{0.5, 0}, []float64{none.At(1), none.At(2)})
	only := train.WarmupCosine{LR: 1, MinLR: 0.5, Warmup: 4, Steps: 4}
	require.Equal(t, []float64{0.25, 1, 0.5}, []float64{only.At(1), only.At(4), only.At(5)})
	require.Equal(t, 0.3, train.Constant{LR: 0.3}.At(7))
}

func TestWarmupCosineRisesThenFallsWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lr := rapid.Float64Range(1e-6, 1).Draw(t, "LR")
		s := train.WarmupCosine{LR: lr, MinLR: lr * rapid.Float64Range(0, 1).Draw(t, "min")}
		s.Steps = rapid.IntRange(1, 200).Draw(t, "steps")
		s.Warmup = rapid.IntRange(0, s.Steps).Draw(t, "warm-up")
		for step := 1; step <= s.Steps+3; step++ {
			v := s.At(step)
			require.True(t, v >= 0 && v <= s.LR*(1+1e-12), "step %d: %v", step, v)
			switch {
			case step > 1 && step <= s.Warmup:
				require.Greater(t, v, s.At(step-1))
			case step > 1 && step > s.Warmup+1:
				require.LessOrEqual(t, v, s.At(step-1)*(1+1e-12))
			}
		}
	})
}

func TestLinearGoesThroughItsPoints(t *testing.T) {
	s := train.Linear{LR: 1, MinLR: 0.2, Warmup: 10, Steps: 50}
	for step, want := range map[int]float64{1: 0.1, 5: 0.5, 10: 1, 11: 0.98, 30: 0.6, 49: 0.22, 50: 0.2, 1000: 0.2} {
		require.InDelta(t, want, s.At(step), 1e-15, "step %d", step)
	}
	require.Equal(t, 0.5, train.Linear{LR: 1, Steps: 2}.At(1))
	require.Equal(t, 1.0, train.Linear{LR: 1, Warmup: 4, Steps: 4}.At(4), "the warm-up ends at LR")
}

func TestWarmupStableDecayGoesThroughItsPoints(t *testing.T) {
	s := train.WarmupStableDecay{LR: 1, MinLR: 0.2, Warmup: 10, Decay: 20, Steps: 100}
	for step, want := range map[int]float64{1: 0.1, 10: 1, 11: 1, 80: 1, 81: 0.96, 90: 0.6, 99: 0.24, 100: 0.2, 101: 0.2} {
		require.InDelta(t, want, s.At(step), 1e-15, "step %d", step)
	}
	longer := s
	longer.Steps = 1000
	for step := 1; step <= 80; step++ {
		require.Equal(t, s.At(step), longer.At(step), "what a longer run can go on from")
	}
	for _, none := range []train.WarmupStableDecay{{LR: 1, Steps: 5}, {LR: 1, Warmup: 3, Steps: 5}} {
		require.Equal(t, 1.0, none.At(4))
	}
}
