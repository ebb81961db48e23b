package chainrule_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
)

const samplerGoldens = "testdata/sampler.json"

func TestSamplerDrawsByTheProbabilitiesOfTransformers(t *testing.T) {
	var cases []struct {
		Options chainrule.SamplerOptions
		Logits  []float32
		Before  []int32
		P       []float64
	}
	b, err := os.ReadFile(samplerGoldens)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &cases))
	require.Len(t, cases, 3*3*2*3*3)
	for _, c := range cases {
		got, err := newSampler(t, c.Options).Distribution(c.Logits, c.Before...)
		require.NoError(t, err)
		for i, want := range c.P {
			require.InDelta(t, want, got[i], 2e-6, "%+v: token %d", c.Options, i)
			require.Equal(t, want == 0, got[i] < 5e-7, "%+v: token %d is %v, want %v", c.Options, i, got[i], want)
		}
	}
}

func TestTopPKeepsTheFewestOfALargeVocabulary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, spread := range []float64{0, 1e-3, 0.5, 3, 20} {
		for _, topP := range []float64{1e-9, 0.3, 0.95, 0.9999, 1 - 1e-9} {
			logits, p, sum := make([]float32, 5000), make([]float64, 5000), 0.0
			for i := range logits {
				logits[i] = float32(spread * rng.NormFloat64())
				p[i] = math.Exp(float64(logits[i]))
				sum += p[i]
			}
			slices.Sort(p)
			n, kept := 0, 0.0
			for kept < topP*sum && n < len(p) {
				n++
				kept += p[len(p)-n]
			}
			got, err := newSampler(t, chainrule.SamplerOptions{Temperature: 1, TopP: topP}).Distribution(logits)
			require.NoError(t, err)
			positive := 0
			for i, q := range got {
				if q > 0 {
					positive++
					require.InEpsilon(t, math.Exp(float64(logits[i]))/kept, q, 1e-9)
				}
			}
			require.InDelta(t, n, positive, 1, "spread %v, top-p %v: rounding moves the limit by one at most", spread, topP)
		}
	}
}

// It renders the goldens again.
func TestTransformersSamplesTheSame(t *testing.T) {
	python := os.Getenv("CHAINRULE_PYTHON")
	if python == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		}
		t.Skip("CHAINRULE_PYTHON names no Python with transformers; .ci/run transformers makes one")
	}
	cmd := exec.Command(python, "testdata/sampler.py")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	want, err := os.ReadFile(samplerGoldens)
	require.NoError(t, err)
	require.Equal(t, string(want), string(out))
}

func TestRepetitionPenalty(t *testing.T) {
	logits := []float32{2, 1, -1, 0}
	top := func(o chainrule.SamplerOptions, before ...int32) int32 {
		token, err := newSampler(t, o).Sample(logits, before...)
		require.NoError(t, err)
		require.Equal(t, []float32{2, 1, -1, 0}, logits)
		return token
	}
	penalty := chainrule.SamplerOptions{RepetitionPenalty: 3}
	require.EqualValues(t, 0, top(penalty))
	require.EqualValues(t, 0, top(penalty, 1, 2, 3))
	require.EqualValues(t, 1, top(penalty, 0))
	require.EqualValues(t, 0, top(penalty, 0, 1), "2/3 is more than 1/3")
	require.EqualValues(t, 0, top(chainrule.SamplerOptions{RepetitionPenalty: 1.9}, 0, 0, 0), "a token counts once")
	require.EqualValues(t, 0, top(penalty, -1, 4, math.MaxInt32), "what is no token")

	penalty.RepetitionWindow = 2
	require.EqualValues(t, 1, top(penalty, 3, 0, 3))
	require.EqualValues(t, 0, top(penalty, 0, 3, 3))
	p, err := newSampler(t, chainrule.SamplerOptions{RepetitionPenalty: 2, Temperature: 1}).Distribution([]float32{-1, -2}, 0)
	require.NoError(t, err)
	require.InDelta(t, 0.5, p[0], 1e-9, "a negative logit is multiplied")
}

func TestLogProbs(t *testing.T) {
	logits := logitsOf(0.5, 0.125, 0.25, 0.125)
	for token, p := range []float64{0.5, 0.125, 0.25, 0.125} {
		require.InDelta(t, math.Log(p), chainrule.LogProb(logits, int32(token)), 1e-6)
	}
	top := chainrule.TopLogProbs(logits, 3)
	require.Len(t, top, 3)
	for i, token := range []int32{0, 2, 1} { // of equal ones the lowest
		require.Equal(t, token, top[i].Token)
		require.Equal(t, chainrule.LogProb(logits, token), top[i].LogProb)
	}
	require.Len(t, chainrule.TopLogProbs(logits, 10), 4)
	require.Empty(t, chainrule.TopLogProbs(logits, 0))
	require.InDelta(t, 0, chainrule.LogProb([]float32{-3e38, 3e38}, 1), 0)
	require.True(t, math.IsInf(chainrule.LogProb([]float32{-inf, 1}, 0), -1))
	require.True(t, math.IsNaN(chainrule.LogProb([]float32{float32(math.NaN()), 1}, 1)))
}
