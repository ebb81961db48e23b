package chainrule_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/internal/testutil"
)

// tinyShapes are models of one kind each, for long sequences.
func tinyShapes() map[string]chainrule.Config {
	base := chainrule.Config{
		Dim: 8, HiddenDim: 12, NLayers: 2, NHeads: 2, NKVHeads: 2, HeadDim: 4, VocabSize: 11, SeqLen: 1200,
		RopeTheta: 10000, NormEps: 1e-5,
	}
	gqa, norm, bias, scaled := base, base, base, base
	gqa.NKVHeads, gqa.Tied = 1, true
	norm.QKNorm, norm.NKVHeads, norm.NHeads = true, 2, 4
	bias.QKVBias, bias.NKVHeads = true, 1
	scaled.RopeScaling = chainrule.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalSeqLen: 64}
	return map[string]chainrule.Config{"MHA": base, "GQA, tied": gqa, "QK-norm": norm, "biases": bias, "RoPE scaled": scaled}
}

func newSession(t testing.TB, tr *trainer, o chainrule.SessionOptions) *chainrule.Session {
	s, err := chainrule.NewSession(tr.Model, newBackend(t), o)
	require.NoError(t, err)
	return s
}

func newSampler(t testing.TB, o chainrule.SamplerOptions) *chainrule.Sampler {
	s, err := chainrule.NewSampler(o)
	require.NoError(t, err)
	return s
}

func TestSessionTakesPromptsLongerThanAPass(t *testing.T) {
	for name, c := range tinyShapes() {
		t.Run(name, func(t *testing.T) {
			const T = 1111 // a pass is 512 rows
			tr := newTrainer(t, c, 1, T)
			V := c.VocabSize
			want := tr.logits(t, tr.tokens)
			near := func(pos int, got []float32) {
				t.Helper()
				require.LessOrEqual(t, distance(got, want[pos*V:][:V]), 1e-5, "position %d", pos)
			}
			s := newSession(t, tr, chainrule.SessionOptions{Batch: 2})
			for _, n := range []int{T - 3, 1024, 513, 512, 511} {
				s.Truncate(1, 0)
				logits, err := s.Append(1, tr.tokens[:n])
				require.NoError(t, err)
				require.Len(t, logits, V)
				near(n-1, logits)
				for pos := n; pos < n+3; pos++ { // the cache holds what the pass computed
					logits, err = s.Append(1, tr.tokens[pos:pos+1])
					require.NoError(t, err)
					near(pos, logits)
				}
				require.Equal(t, []int{0, n + 3}, []int{s.Len(0), s.Len(1)})
			}
		})
	}
}

func TestSessionStepMovesTheSequencesItIsGiven(t *testing.T) {
	for name, c := range tinyShapes() {
		t.Run(name, func(t *testing.T) {
			const B, T = 5, 24
			tr := newTrainer(t, c, B, T)
			V := c.VocabSize
			want := tr.logits(t, tr.tokens)
			s := newSession(t, tr, chainrule.SessionOptions{MaxLen: T, Batch: B})
			for mask := range 1 << B { // every choice of sequences
				tokens := make([]int32, B)
				for b := range tokens {
					if tokens[b] = -1 - int32(b); mask>>b&1 == 1 {
						if s.Len(b) == T {
							s.Truncate(b, mask%7)
						}
						tokens[b] = tr.tokens[b*T+s.Len(b)]
					}
				}
				var before [B]int
				for b := range before {
					before[b] = s.Len(b)
				}
				logits, err := s.Step(tokens)
				require.NoError(t, err)
				require.Len(t, logits, B*V)
				for b, token := range tokens {
					if token < 0 {
						require.Equal(t, before[b], s.Len(b))
						continue
					}
					require.Equal(t, before[b]+1, s.Len(b))
					require.LessOrEqual(t, distance(logits[b*V:][:V], want[(b*T+before[b])*V:][:V]), 1e-5, "sequence %d of %05b", b, mask)
				}
			}
		})
	}
}

func TestSessionLogitsAreBitwiseEqualAtAnyGOMAXPROCS(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 1, 90)
		var want []uint32
		for _, procs := range []int{1, 2, 4} {
			runtime.GOMAXPROCS(procs)
			s := newSession(t, tr, chainrule.SessionOptions{Batch: 2})
			logits, err := s.Append(1, tr.tokens[:80])
			require.NoError(t, err)
			got := bits(logits)
			for i := range 5 {
				logits, err = s.Step([]int32{tr.tokens[i], tr.tokens[80+i]})
				require.NoError(t, err)
				got = append(got, bits(logits)...)
			}
			if want == nil {
				want = got
			}
			requireSameBits(t, want, got, "GOMAXPROCS %d", procs)
		}
	})
}

func TestSessionTruncatedContinuesLikeAFreshOne(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["QK-norm"], 1, 40)
	used := newSession(t, tr, chainrule.SessionOptions{MaxLen: 40})
	for n := range 40 {
		used.Truncate(0, 0)
		_, err := used.Append(0, append(slices.Clone(tr.tokens[:n]), slices.Repeat([]int32{5}, 40-n)...))
		require.NoError(t, err)
		used.Truncate(0, n)
		got, err := used.Append(0, tr.tokens[n:])
		require.NoError(t, err)

		fresh := newSession(t, tr, chainrule.SessionOptions{MaxLen: 40})
		want, err := fresh.Append(0, tr.tokens)
		require.NoError(t, err)
		require.LessOrEqual(t, distance(got, want), 1e-5, "after %d", n)
	}
	for _, n := range []int{-1, 41} {
		require.PanicsWithValue(t, "chainrule: Session.Truncate: n is not between 0 and Len", func() { used.Truncate(0, n) })
	}
}

func TestSessionErrorInALaterPassLeavesTheSequence(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["MHA"], 1, 1100)
	be := &testutil.Failing{Backend: newBackend(t)}
	be.Left.Store(-1)
	s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{})
	require.NoError(t, err)
	_, err = s.Append(0, tr.tokens[:7])
	require.NoError(t, err)
	perPass := 4*tr.NLayers + 1
	for _, k := range []int{perPass, perPass + 1, 2*perPass - 1, 2 * perPass} {
		be.Left.Store(int64(k))
		_, err = s.Append(0, slices.Repeat([]int32{1}, 1030)) // three passes
		require.ErrorIs(t, err, testutil.ErrDevice)
		require.Equal(t, 7, s.Len(0))
	}
	be.Left.Store(-1)
	got, err := s.Append(0, tr.tokens[7:])
	require.NoError(t, err)
	V := tr.VocabSize
	require.LessOrEqual(t, distance(got, tr.logits(t, tr.tokens)[1099*V:]), 1e-5)
}

func TestSessionNamesABadToken(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["MHA"], 1, 8)
	s := newSession(t, tr, chainrule.SessionOptions{Batch: 3})
	for _, c := range []struct {
		token int32
		says  string
	}{{11, "11"}, {-1, "-1"}, {math.MaxInt32, "2147483647"}, {math.MinInt32, "-2147483648"}} {
		_, err := s.Append(1, []int32{1, 2, c.token, 4})
		require.ErrorContains(t, err, "token "+c.says)
		require.ErrorContains(t, err, "position 2")
		require.ErrorContains(t, err, "vocabulary of 11")
		require.Zero(t, s.Len(1))
	}
	_, err := s.Step([]int32{1, 1, 11})
	require.ErrorContains(t, err, "token 11 at sequence 2")
	require.Zero(t, s.Len(0))
	require.PanicsWithValue(t, "chainrule: Session.Append: no tokens", func() { s.Append(0, nil) })
	require.PanicsWithValue(t, "chainrule: Session.Step: not one token a sequence", func() { s.Step([]int32{1}) })
	require.PanicsWithValue(t, "chainrule: NewSession: nil Model or Backend", func() {
		chainrule.NewSession(nil, newBackend(t), chainrule.SessionOptions{})
	})
	require.PanicsWithValue(t, "chainrule: NewSession: nil Model or Backend", func() {
		chainrule.NewSession(tr.Model, nil, chainrule.SessionOptions{})
	})
}

func TestSessionMemoryFollowsItsOptionsNotSeqLen(t *testing.T) {
	c := tinyShapes()["MHA"]
	c.SeqLen = 1 << 30
	tr := &trainer{}
	var err error
	tr.Model, err = chainrule.NewModel(c)
	require.NoError(t, err)
	require.Equal(t, 2048, newSession(t, tr, chainrule.SessionOptions{}).MaxLen(), "the default")
	require.Equal(t, 5000, newSession(t, tr, chainrule.SessionOptions{MaxLen: 5000}).MaxLen())
	allocated := func(o chainrule.SessionOptions) int {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		newSession(t, tr, o)
		runtime.ReadMemStats(&after)
		return int(after.TotalAlloc - before.TotalAlloc)
	}
	cache := 4 * 2 * c.NLayers * c.NKVHeads * c.HeadDim // bytes a token
	require.InEpsilon(t, 3*3000*cache, allocated(chainrule.SessionOptions{MaxLen: 3000, Batch: 3}), 0.1)

	c.SeqLen = 100
	tr.Model, err = chainrule.NewModel(c)
	require.NoError(t, err)
	require.Equal(t, 100, newSession(t, tr, chainrule.SessionOptions{}).MaxLen(), "the default")
	require.Equal(t, 100, newSession(t, tr, chainrule.SessionOptions{MaxLen: 100}).MaxLen())
}

func TestSessionOptionsThatCannotBeAreNamed(t *testing.T) {
	c := tinyShapes()["MHA"]
	c.VocabSize = 1 << 16
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	for _, bad := range []struct {
		o    chainrule.SessionOptions
		says string
	}{
		{chainrule.SessionOptions{MaxLen: -1}, "MaxLen is -1, want 1 to Config.SeqLen 1200"},
		{chainrule.SessionOptions{MaxLen: 1201}, "MaxLen is 1201, want 1 to Config.SeqLen 1200"},
		{chainrule.SessionOptions{Batch: -1}, "Batch is -1, want 1 to"},
		{chainrule.SessionOptions{Batch: math.MaxInt}, "Batch is 9223372036854775807, want 1 to"},
		{chainrule.SessionOptions{MaxLen: 1, Batch: 1 << 36}, "Batch is 68719476736, want 1 to"}, // its logits
	} {
		_, err := chainrule.NewSession(m, newBackend(t), bad.o)
		require.ErrorContains(t, err, bad.says)
	}
}

func TestGenerateDrawsWhatForwardSays(t *testing.T) {
	tr := newTrainer(t, shapes()["GQA, tied"], 1, 30)
	V := tr.VocabSize
	s := newSession(t, tr, chainrule.SessionOptions{MaxLen: 30})
	prompt := tr.tokens[:9]
	var got []int32
	for token, err := range s.Generate(t.Context(), prompt, newSampler(t, chainrule.SamplerOptions{})) {
		require.NoError(t, err)
		got = append(got, token)
	}
	require.Len(t, got, 30-9+1, "the last token is drawn behind the full context")
	require.Equal(t, 30, s.Len(0), "and is not appended")
	all := append(slices.Clone(prompt), got...)
	want := tr.logits(t, all[:30])
	for i, token := range all[9:] {
		row := want[(9+i-1)*V:][:V]
		require.InDelta(t, slices.Max(row), row[token], 1e-4, "position %d", 9+i)
	}
}

func TestGenerateEnds(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["MHA"], 1, 8)
	greedy := newSampler(t, chainrule.SamplerOptions{})
	collect := func(s *chainrule.Session, ctx context.Context, prompt []int32, visit func(n int) bool) (tokens []int32, err error) {
		for token, e := range s.Generate(ctx, prompt, greedy) {
			require.NoError(t, err, "went on after an error")
			if err = e; err == nil {
				tokens = append(tokens, token)
			}
			if !visit(len(tokens)) {
				break
			}
		}
		return tokens, err
	}
	always := func(int) bool { return true }

	t.Run("at the context's end", func(t *testing.T) {
		for _, prompt := range []int{1, 7, 8} {
			s := newSession(t, tr, chainrule.SessionOptions{MaxLen: 8})
			tokens, err := collect(s, t.Context(), tr.tokens[:prompt], always)
			require.NoError(t, err)
			require.Len(t, tokens, 8-prompt+1)
		}
	})
	t.Run("with an error for a prompt that does not fit", func(t *testing.T) {
		s := newSession(t, tr, chainrule.SessionOptions{MaxLen: 7})
		tokens, err := collect(s, t.Context(), tr.tokens, always)
		require.ErrorIs(t, err, chainrule.ErrContextFull)
		require.Empty(t, tokens)
		require.Zero(t, s.Len(0))
	})
	t.Run("with an error for an empty prompt", func(t *testing.T) {
		tokens, err := collect(newSession(t, tr, chainrule.SessionOptions{}), t.Context(), nil, always)
		require.ErrorContains(t, err, "the prompt has no tokens")
		require.Empty(t, tokens)
	})
	t.Run("with an error for a prompt outside the vocabulary", func(t *testing.T) {
		_, err := collect(newSession(t, tr, chainrule.SessionOptions{}), t.Context(), []int32{1, 11}, always)
		require.ErrorContains(t, err, "token 11")
	})
	t.Run("where the caller breaks, and may go on", func(t *testing.T) {
		whole, err := collect(newSession(t, tr, chainrule.SessionOptions{MaxLen: 8}), t.Context(), tr.tokens[:2], always)
		require.NoError(t, err)
		s := newSession(t, tr, chainrule.SessionOptions{MaxLen: 8})
		first, err := collect(s, t.Context(), tr.tokens[:2], func(n int) bool { return n < 3 })
		require.NoError(t, err)
		require.Equal(t, whole[:3], first)
		require.Equal(t, 2+2, s.Len(0), "the last one was not appended")
		rest, err := collect(s, t.Context(), first[2:], always)
		require.NoError(t, err)
		require.Equal(t, whole[3:], rest)
	})
	t.Run("when the context is cancelled", func(t *testing.T) {
		reason := errors.New("enough")
		for stop := range 4 {
			ctx, cancel := context.WithCancelCause(t.Context())
			if stop == 0 {
				cancel(reason)
			}
			tokens, err := collect(newSession(t, tr, chainrule.SessionOptions{}), ctx, tr.tokens, func(n int) bool {
				if n == stop {
					cancel(reason)
				}
				return true
			})
			require.ErrorIs(t, err, reason)
			require.Len(t, tokens, stop)
		}
	})
	t.Run("with the Sampler's error", func(t *testing.T) {
		broken := newTrainer(t, tinyShapes()["MHA"], 1, 8)
		broken.RMSFinal[2] = float32(math.NaN())
		broken.Touch()
		tokens, err := collect(newSession(t, broken, chainrule.SessionOptions{}), t.Context(), tr.tokens, always)
		require.ErrorContains(t, err, "the logit of token 0 is NaN")
		require.Empty(t, tokens)
	})
	t.Run("with the Backend's error", func(t *testing.T) {
		be := &testutil.Failing{Backend: newBackend(t)}
		be.Left.Store(int64(2 * (4*tr.NLayers + 1)))
		s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{})
		require.NoError(t, err)
		tokens, err := collect(s, t.Context(), tr.tokens, always)
		require.ErrorIs(t, err, testutil.ErrDevice)
		require.Len(t, tokens, 2)
		require.Equal(t, 8+1, s.Len(0))
	})
}

var inf = float32(math.Inf(1))

// logitsOf are the logits of given probabilities, off by a constant.
func logitsOf(p ...float64) []float32 {
	l := make([]float32, len(p))
	for i := range p {
		l[i] = float32(math.Log(p[i]) + 3)
	}
	return l
}

// draw counts what n calls of Sample give.
func draw(t testing.TB, o chainrule.SamplerOptions, logits []float32, n int) []int {
	t.Helper()
	s, counts := newSampler(t, o), make([]int, len(logits))
	before := slices.Clone(logits)
	for range n {
		token, err := s.Sample(logits)
		require.NoError(t, err)
		counts[token]++
	}
	require.Equal(t, before, logits, "the logits were written")
	return counts
}

// requireDistribution is Pearson's test at a level that fails once in some 10⁵
// seeds; the seed is fixed.
func requireDistribution(t *testing.T, p []float64, counts []int, what ...any) {
	t.Helper()
	n, chi, degrees := 0, 0.0, -1.0
	for _, c := range counts {
		n += c
	}
	for i, c := range counts {
		if p[i] == 0 {
			require.Zero(t, c, what...)
			continue
		}
		expected := p[i] * float64(n)
		chi += (float64(c) - expected) * (float64(c) - expected) / expected
		degrees++
	}
	require.LessOrEqual(t, chi, degrees+4.5*math.Sqrt(2*degrees)+10, what...)
}

func TestSamplerDrawsByTemperature(t *testing.T) {
	p := []float64{0.05, 0.4, 0.1, 0.25, 0.2}
	for _, temperature := range []float64{0.25, 0.5, 1, 2, 100} {
		want, sum := make([]float64, len(p)), 0.0
		for i := range p {
			want[i] = math.Pow(p[i], 1/temperature)
			sum += want[i]
		}
		for i := range want {
			want[i] /= sum
		}
		counts := draw(t, chainrule.SamplerOptions{Temperature: temperature, Seed: 1}, logitsOf(p...), 20000)
		requireDistribution(t, want, counts, "temperature %v: %v, want %v", temperature, counts, want)
	}
	for _, tiny := range []float64{1e-5, 1e-300, math.SmallestNonzeroFloat64} {
		require.Equal(t, []int{0, 100, 0, 0, 0}, draw(t, chainrule.SamplerOptions{Temperature: tiny}, logitsOf(p...), 100))
	}
	require.Equal(t, []int{0, 100}, draw(t, chainrule.SamplerOptions{Temperature: 1}, []float32{-3e38, 3e38}, 100))
}

func TestSamplerTakesTheMostLikelyAtTemperatureZero(t *testing.T) {
	for _, o := range []chainrule.SamplerOptions{
		{}, {TopK: 3}, {TopP: 0.9}, {Temperature: 5, TopK: 1}, {Temperature: 5, TopP: 1e-9}, {Temperature: 5, TopK: 1, TopP: 1},
	} {
		for _, c := range []struct {
			logits []float32
			want   int
		}{
			{[]float32{7}, 0}, {[]float32{1, 3, 2}, 1}, {[]float32{1, 3, 3}, 1}, {[]float32{-inf, -5, -4}, 2},
			{[]float32{-3e38, -inf}, 0}, {[]float32{-inf, -3e38}, 1}, {[]float32{2, 2, 2}, 0},
		} {
			counts := draw(t, o, c.logits, 5)
			require.Equal(t, 5, counts[c.want], "%+v of %v drew %v", o, c.logits, counts)
		}
	}
}

func TestSamplerTopKAndTopPKeepExactlyTheirTokens(t *testing.T) {
	p := []float64{0.05, 0.4, 0.1, 0.25, 0.2} // by rank: 1, 3, 4, 2, 0
	for _, c := range []struct {
		k    int
		topP float64
		want []int
	}{
		{0, 0, []int{0, 1, 2, 3, 4}}, {0, 1, []int{0, 1, 2, 3, 4}}, {9, 0, []int{0, 1, 2, 3, 4}}, {5, 1, []int{0, 1, 2, 3, 4}},
		{1, 0, []int{1}}, {2, 0, []int{1, 3}}, {3, 0, []int{1, 3, 4}}, {4, 0, []int{1, 2, 3, 4}},
		{0, 0.001, []int{1}}, {0, 0.39, []int{1}}, {0, 0.41, []int{1, 3}}, {0, 0.64, []int{1, 3}},
		{0, 0.66, []int{1, 3, 4}}, {0, 0.86, []int{1, 2, 3, 4}}, {0, 0.96, []int{0, 1, 2, 3, 4}},
		{2, 0.61, []int{1}}, {2, 0.62, []int{1, 3}}, // of the two, token 1 has 0.4/0.65
	} {
		want, sum := make([]float64, len(p)), 0.0
		for _, i := range c.want {
			sum += p[i]
		}
		for _, i := range c.want {
			want[i] = p[i] / sum
		}
		counts := draw(t, chainrule.SamplerOptions{Temperature: 1, TopK: c.k, TopP: c.topP, Seed: 2}, logitsOf(p...), 4000)
		requireDistribution(t, want, counts, "%+v: %v", c, counts)
		for _, i := range c.want {
			require.NotZero(t, counts[i], "%+v: %v", c, counts)
		}
	}
	equal := []float32{1, 1, 1, 1}
	require.Zero(t, draw(t, chainrule.SamplerOptions{Temperature: 1, TopK: 2}, equal, 1000)[2], "of equals the lowest come first")
	counts := draw(t, chainrule.SamplerOptions{Temperature: 1, TopP: 0.6}, equal, 1000)
	require.Zero(t, counts[3])
	require.NotZero(t, counts[2])
}

func TestSamplerNeverDrawsMinusInf(t *testing.T) {
	for _, o := range []chainrule.SamplerOptions{
		{}, {Temperature: 1}, {Temperature: 1e6}, {Temperature: 1e300}, {Temperature: 1, TopK: 5}, {Temperature: 1e6, TopK: 3, TopP: 0.9999}, {Temperature: 10, TopP: 0.9999999},
	} {
		for seed := range uint64(20) {
			o.Seed = seed
			counts := draw(t, o, []float32{-inf, 1, -inf, 2, -inf, -inf}, 200)
			require.Equal(t, 200, counts[1]+counts[3], "%+v: %v", o, counts)
		}
	}
}

func TestSamplerIsDeterminedByItsSeed(t *testing.T) {
	logits := make([]float32, 1000)
	sequence := func(seed uint64) []int32 {
		s, tokens := newSampler(t, chainrule.SamplerOptions{Temperature: 1, Seed: seed}), []int32{}
		for range 20 {
			token, err := s.Sample(logits)
			require.NoError(t, err)
			tokens = append(tokens, token)
		}
		return tokens
	}
	require.Equal(t, sequence(3), sequence(3))
	require.NotEqual(t, sequence(3), sequence(4))
}

func TestSamplerRefusesLogitsItCannotDrawFrom(t *testing.T) {
	nan := float32(math.NaN())
	for _, o := range []chainrule.SamplerOptions{{}, {Temperature: 1}, {Temperature: 1, TopK: 1}, {Temperature: 1, TopP: 0.5}} {
		for _, c := range []struct {
			logits []float32
			says   string
		}{
			{[]float32{1, nan, 2}, "chainrule: the logit of token 1 is NaN"},
			{[]float32{1, 3, nan}, "chainrule: the logit of token 2 is NaN"},
			{[]float32{inf, 3}, "chainrule: the logit of token 0 is +Inf"},
			{[]float32{-inf, -inf}, "chainrule: no token has a finite logit"},
			{nil, "chainrule: no token has a finite logit"},
		} {
			_, err := newSampler(t, o).Sample(c.logits)
			require.EqualError(t, err, c.says)
		}
	}
}

func TestSamplerOptionsThatCannotBeAreNamed(t *testing.T) {
	for _, c := range []struct {
		o    chainrule.SamplerOptions
		says string
	}{
		{chainrule.SamplerOptions{Temperature: -1}, "Temperature is -1"},
		{chainrule.SamplerOptions{Temperature: math.NaN()}, "Temperature is NaN"},
		{chainrule.SamplerOptions{Temperature: math.Inf(1)}, "Temperature is +Inf"},
		{chainrule.SamplerOptions{TopK: -1}, "TopK is -1"},
		{chainrule.SamplerOptions{TopP: -0.1}, "TopP is -0.1"},
		{chainrule.SamplerOptions{TopP: 1.1}, "TopP is 1.1"},
		{chainrule.SamplerOptions{TopP: math.NaN()}, "TopP is NaN"},
		{chainrule.SamplerOptions{MinP: 1.1}, "MinP is 1.1"},
		{chainrule.SamplerOptions{MinP: math.NaN()}, "MinP is NaN"},
		{chainrule.SamplerOptions{RepetitionPenalty: -1}, "RepetitionPenalty is -1"},
		{chainrule.SamplerOptions{RepetitionPenalty: math.NaN()}, "RepetitionPenalty is NaN"},
		{chainrule.SamplerOptions{RepetitionWindow: -1}, "RepetitionWindow is -1"},
	} {
		_, err := chainrule.NewSampler(c.o)
		require.ErrorContains(t, err, c.says)
	}
}

func BenchmarkSample(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 49152) // with the spread that those of a trained model have
	for i := range logits {
		logits[i] = float32(3 * rng.NormFloat64())
	}
	for _, o := range []chainrule.SamplerOptions{
		{}, {Temperature: 0.7}, {Temperature: 0.7, TopK: 40}, {Temperature: 0.7, TopP: 0.95}, {Temperature: 0.7, MinP: 0.05},
	} {
		b.Run(fmt.Sprintf("%+v", o), func(b *testing.B) {
			s := newSampler(b, o)
			for b.Loop() {
				if _, err := s.Sample(logits); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
