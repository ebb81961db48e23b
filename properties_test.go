package chainrule_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/testutil"
)

// trainer is a model with what a step takes.
type trainer struct {
	*chainrule.Model
	ws              *chainrule.Workspace
	g               *chainrule.Params
	state           *chainrule.AdamState
	tokens, targets []int32
}

// newTrainer makes a model with Init's weights, norms and biases moved off
// their special values, and a random batch.
func newTrainer(t testing.TB, c chainrule.Config, B, T int) *trainer {
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	m.Init(3)
	r := rand.New(rand.NewPCG(4, 5))
	for tensor := range m.Tensors() {
		for i := range tensor.Data {
			tensor.Data[i] += float32(0.1 * r.NormFloat64())
		}
	}
	m.Touch()
	tr := &trainer{Model: m}
	tr.ws, err = chainrule.NewWorkspace(c, B, T, newBackend(t))
	require.NoError(t, err)
	tr.g, err = chainrule.NewParams(c)
	require.NoError(t, err)
	tr.state, err = chainrule.NewAdamState(c)
	require.NoError(t, err)
	tr.tokens, tr.targets = randomTokens(r, c, B*T), randomTokens(r, c, B*T)
	return tr
}

// pass adds a gradient to g and returns the loss.
func (tr *trainer) pass(t testing.TB) float64 {
	loss, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
	require.NoError(t, err)
	require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g))
	return loss
}

var adam = chainrule.Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1}

func (tr *trainer) step(t testing.TB) float64 {
	chainrule.ZeroGrad(tr.g)
	loss := tr.pass(t)
	chainrule.ClipGradients(tr.g, 1)
	chainrule.AdamStep(tr.Model, tr.g, tr.state, adam)
	return loss
}

func (tr *trainer) logits(t testing.TB, tokens []int32) []float32 {
	_, err := chainrule.Forward(tr.Model, tr.ws, tokens, nil)
	require.NoError(t, err)
	return slices.Clone(tr.ws.Logits())
}

// shapes is the kinds of models, each of a size at which the loops run in
// parallel.
func shapes() map[string]chainrule.Config {
	base := chainrule.Config{
		Dim: 64, HiddenDim: 160, NLayers: 2, NHeads: 4, NKVHeads: 4, HeadDim: 16, VocabSize: 211, SeqLen: 96,
		RopeTheta: 10000, NormEps: 1e-5,
	}
	gqa, norm, bias := base, base, base
	gqa.NKVHeads, gqa.Tied = 2, true
	norm.QKNorm, norm.NKVHeads, norm.HeadDim = true, 1, 24
	bias.QKVBias, bias.Tied, bias.NKVHeads = true, true, 2
	return map[string]chainrule.Config{"MHA": base, "GQA, tied": gqa, "QK-norm, MQA": norm, "biases": bias}
}

func eachShape(t *testing.T, f func(t *testing.T, c chainrule.Config)) {
	for name, c := range shapes() {
		t.Run(name, func(t *testing.T) { f(t, c) })
	}
}

func bits(x []float32) []uint32 {
	b := make([]uint32, len(x))
	for i, v := range x {
		b[i] = math.Float32bits(v)
	}
	return b
}

// requireSameBits compares slices too long for a message of both.
func requireSameBits(t testing.TB, want, got []uint32, what ...any) {
	t.Helper()
	require.Len(t, got, len(want), what...)
	for i := range want {
		if want[i] != got[i] {
			require.FailNow(t, fmt.Sprintf("element %d is %v, want %v",
				i, math.Float32frombits(got[i]), math.Float32frombits(want[i])), what...)
		}
	}
}

// distance is ‖x−y‖/‖y‖.
func distance(x, y []float32) float64 {
	delta, norm := 0.0, 0.0
	for i := range x {
		delta += (float64(x[i]) - float64(y[i])) * (float64(x[i]) - float64(y[i]))
		norm += float64(y[i]) * float64(y[i])
	}
	return math.Sqrt(delta / norm)
}

func TestTheSameCallTwiceGivesTheSameBits(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 2, 33)
		loss := tr.pass(t)
		first := slices.Clone(tr.g.Data)
		chainrule.ZeroGrad(tr.g)
		require.Equal(t, loss, tr.pass(t))
		requireSameBits(t, bits(first), bits(tr.g.Data))
	})
}

func TestStepsAreBitwiseEqualAtAnyGOMAXPROCS(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		var losses []float64
		var gradient, weights []uint32
		for i, procs := range []int{1, 2, 4} {
			runtime.GOMAXPROCS(procs)
			tr := newTrainer(t, c, 3, 37)
			got := []float64{tr.step(t), tr.step(t)}
			if i == 0 {
				losses, gradient, weights = got, bits(tr.g.Data), bits(tr.Data)
				continue
			}
			require.Equal(t, losses, got, "losses at GOMAXPROCS %d", procs)
			requireSameBits(t, gradient, bits(tr.g.Data), "gradient at GOMAXPROCS %d", procs)
			requireSameBits(t, weights, bits(tr.Data), "weights at GOMAXPROCS %d", procs)
		}
	})
}

func TestBackwardAddsSoThatTwiceDoublesTheGradient(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 2, 17)
		tr.pass(t)
		doubled := slices.Clone(tr.g.Data)
		for i := range doubled {
			doubled[i] *= 2
		}
		tr.pass(t)
		require.LessOrEqual(t, distance(tr.g.Data, doubled), 1e-6)
	})
}

func TestMicroBatchesWithLossDenomAddUpToTheLargeBatch(t *testing.T) {
	const B, T = 4, 9
	for name, ignore := range map[string]func(sequence, i int) bool{
		"equal numbers of targets":   func(_, _ int) bool { return false },
		"unequal numbers of targets": func(sequence, i int) bool { return i < 2*sequence },
		"one micro-batch without":    func(sequence, _ int) bool { return sequence == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			large := newTrainer(t, shapes()["GQA, tied"], B, T)
			count := 0.0
			for i := range large.targets {
				if ignore(i/T, i%T) {
					large.targets[i] = -1
				} else {
					count++
				}
			}
			wantLoss := large.pass(t)
			for _, rows := range []int{1, 2} {
				micro := newTrainer(t, large.Config, rows, T)
				micro.ws.LossDenom = count
				loss := 0.0
				for at := 0; at < B*T; at += rows * T {
					micro.tokens, micro.targets = large.tokens[at:][:rows*T], large.targets[at:][:rows*T]
					loss += micro.pass(t)
				}
				require.InEpsilon(t, wantLoss, loss, 1e-6)
				require.LessOrEqual(t, distance(micro.g.Data, large.g.Data), 1e-6)
			}
		})
	}
}

func TestPermutingTheBatchPermutesTheLogits(t *testing.T) {
	const B, T = 3, 11
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, B, T)
		logits := tr.logits(t, tr.tokens)
		order := []int{2, 0, 1}
		var tokens []int32
		var want []float32
		for _, s := range order {
			tokens = append(tokens, tr.tokens[s*T:][:T]...)
			want = append(want, logits[s*T*c.VocabSize:][:T*c.VocabSize]...)
		}
		require.LessOrEqual(t, distance(tr.logits(t, tokens), want), 1e-6)
	})
}

func TestNoLogitDependsOnALaterToken(t *testing.T) {
	const B, T = 2, 70
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, B, T)
		V := int32(c.VocabSize)
		for i := range tr.tokens {
			tr.tokens[i] = int32(i) % (V - 1) // the last token is free
		}
		want := bits(tr.logits(t, tr.tokens))
		positions := []int{0, 1, 31, 32, 63, 64, 69} // in the second sequence
		if testing.Short() {
			positions = []int{0, 32, 69}
		}
		for _, at := range positions {
			tokens := slices.Clone(tr.tokens)
			tokens[T+at] = V - 1
			before := (T + at) * c.VocabSize
			changed := bits(tr.logits(t, tokens))
			requireSameBits(t, want[:before], changed[:before], "token %d changed", at)
			for i := at; i < T; i++ {
				row := (T + i) * c.VocabSize
				require.NotEqual(t, want[row:row+c.VocabSize], changed[row:row+c.VocabSize],
					"token %d changed: logits of position %d", at, i)
			}
			for _, poison := range []float64{math.NaN(), math.Inf(1)} {
				row := tr.TokenEmbedding[(c.VocabSize-1)*c.Dim:][:c.Dim]
				saved := slices.Clone(row)
				for i := range row {
					row[i] = float32(poison)
				}
				tr.Touch()
				poisoned := tr.logits(t, tokens)
				copy(row, saved)
				tr.Touch()
				for i, v := range poisoned {
					switch position, token := i/c.VocabSize, i%c.VocabSize; {
					case c.Tied && token == c.VocabSize-1: // the classifier's row is poisoned too
					case position < T+at && math.Float32bits(v) != want[i]:
						t.Fatalf("token %d is %v: logit %d of position %d is another", at, poison, token, position-T)
					case position >= T+at && v == v:
						t.Fatalf("token %d is %v: position %d is not NaN", at, poison, position-T)
					}
				}
			}
		}
	})
}

func TestNothingIsAllocatedAfterTheFirstStep(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 3, 40)
		tr.step(t)
		for name, f := range map[string]func(){
			"Forward": func() { _, _ = chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets) },
			"Forward and Backward": func() {
				_, _ = chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
				_ = chainrule.Backward(tr.Model, tr.ws, tr.g)
			},
			"ZeroGrad":      func() { chainrule.ZeroGrad(tr.g) },
			"GradNorm":      func() { chainrule.GradNorm(tr.g) },
			"ClipGradients": func() { chainrule.ClipGradients(tr.g, 1e-9) },
			"AdamStep":      func() { chainrule.AdamStep(tr.Model, tr.g, tr.state, adam) },
		} {
			require.Zero(t, mallocs(f), name)
		}
	})
}

// mallocs returns the fewest allocations that some calls of f were seen to
// make: the runtime allocates now and then too, so one count may be too high,
// but an allocation in every call is in every count. It counts all threads,
// which testing.AllocsPerRun, at GOMAXPROCS 1, does not make busy.
func mallocs(f func()) uint64 {
	fewest := uint64(math.MaxUint64)
	for try := 0; try < 20 && fewest > 0; try++ {
		var before, after runtime.MemStats
		f()
		runtime.ReadMemStats(&before)
		f()
		f()
		runtime.ReadMemStats(&after)
		fewest = min(fewest, after.Mallocs-before.Mallocs)
	}
	return fewest
}

func TestTheCountOfAllocationsSeesOneInACall(t *testing.T) {
	var kept []byte
	require.NotZero(t, mallocs(func() { kept = make([]byte, 100) }))
	require.Zero(t, mallocs(func() { kept[0]++ }))
}

func TestGoroutinesShareAModel(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		want := newTrainer(t, c, 2, 12)
		loss := want.pass(t)
		be := newBackend(t)
		var done sync.WaitGroup
		for range 4 {
			done.Go(func() {
				ws, err := chainrule.NewWorkspace(c, 2, 12, be)
				if err != nil {
					t.Error(err)
					return
				}
				g, _ := chainrule.NewParams(c)
				for range 3 {
					chainrule.ZeroGrad(g)
					got, err := chainrule.Forward(want.Model, ws, want.tokens, want.targets)
					if err == nil {
						err = chainrule.Backward(want.Model, ws, g)
					}
					if err != nil || got != loss || !slices.Equal(bits(g.Data), bits(want.g.Data)) {
						t.Errorf("another result than alone: loss %v, want %v, error %v", got, loss, err)
					}
				}
			})
		}
		done.Wait()
	})
}

func TestLossAtInitIsThatOfAUniformGuess(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 4, 48)
		tr.Init(1)
		loss, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
		require.NoError(t, err)
		require.InDelta(t, math.Log(float64(c.VocabSize)), loss, 0.05)
	})
}

func TestATinyModelOverfits(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		c.Dim, c.HiddenDim, c.NHeads, c.HeadDim, c.VocabSize = 32, 64, 4, 8, 31
		tr := newTrainer(t, c, 2, 16)
		tr.Init(1)
		h := chainrule.Adam{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
		loss, steps := math.Inf(1), 0
		for ; steps < 200 && loss >= 0.01; steps++ {
			chainrule.ZeroGrad(tr.g)
			loss = tr.pass(t)
			chainrule.ClipGradients(tr.g, 1)
			chainrule.AdamStep(tr.Model, tr.g, tr.state, h)
		}
		require.Less(t, loss, 0.01)
		t.Logf("loss %.4f after %d steps", loss, steps)
	})
}

func TestSessionLogitsAreThoseOfForward(t *testing.T) {
	const B, T = 2, 21
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, B, T)
		V := c.VocabSize
		want := tr.logits(t, tr.tokens)
		behind := func(sequence, position int) []float32 { return want[(sequence*T+position)*V:][:V] }
		newSession := func() *chainrule.Session {
			s, err := chainrule.NewSession(tr.Model, newBackend(t), chainrule.SessionOptions{MaxLen: T, Batch: B})
			require.NoError(t, err)
			return s
		}
		appended := func(s *chainrule.Session, sequence, from, to int) {
			t.Helper()
			logits, err := s.Append(sequence, tr.tokens[sequence*T+from:sequence*T+to])
			require.NoError(t, err)
			require.Len(t, logits, V)
			require.InDeltaSlice(t, behind(sequence, to-1), logits, 1e-5)
			require.Equal(t, to, s.Len(sequence))
		}
		t.Run("prefill whole", func(t *testing.T) {
			s := newSession()
			appended(s, 1, 0, T)
			appended(s, 0, 0, T)
		})
		t.Run("prefill in pieces", func(t *testing.T) {
			s := newSession()
			for _, to := range [][2]int{{0, 1}, {1, 8}, {8, 9}, {9, T}} {
				appended(s, 1, to[0], to[1])
				appended(s, 0, to[0], to[1])
			}
		})
		t.Run("prefill, then steps", func(t *testing.T) {
			s := newSession()
			appended(s, 0, 0, 5)
			appended(s, 1, 0, 5)
			for position := 5; position < T; position++ {
				logits, err := s.Step([]int32{tr.tokens[position], tr.tokens[T+position]})
				require.NoError(t, err)
				require.InDeltaSlice(t, behind(0, position), logits[:V], 1e-5, "position %d", position)
				require.InDeltaSlice(t, behind(1, position), logits[V:2*V], 1e-5, "position %d", position)
			}
		})
		t.Run("steps at different lengths", func(t *testing.T) {
			s := newSession()
			appended(s, 0, 0, 3)
			appended(s, 1, 0, 11)
			for i := range 10 {
				logits, err := s.Step([]int32{tr.tokens[3+i], tr.tokens[T+11+i]})
				require.NoError(t, err)
				require.InDeltaSlice(t, behind(0, 3+i), logits[:V], 1e-5)
				require.InDeltaSlice(t, behind(1, 11+i), logits[V:2*V], 1e-5)
			}
		})
		t.Run("steps of one sequence", func(t *testing.T) {
			s := newSession()
			appended(s, 0, 0, 3)
			appended(s, 1, 0, 3)
			logits, err := s.Step([]int32{-1, tr.tokens[T+3]})
			require.NoError(t, err)
			require.InDeltaSlice(t, behind(1, 3), logits[V:2*V], 1e-5)
			require.Equal(t, []int{3, 4}, []int{s.Len(0), s.Len(1)})
			appended(s, 0, 3, 4)
		})
		t.Run("after Truncate", func(t *testing.T) {
			s := newSession()
			appended(s, 0, 0, T)
			s.Truncate(0, 4)
			require.Equal(t, 4, s.Len(0))
			appended(s, 0, 4, 10)
			s.Truncate(0, 0)
			appended(s, 0, 0, 2)
		})
	})
}

func TestSessionRefusesWhatItCannotHold(t *testing.T) {
	tr := newTrainer(t, shapes()["MHA"], 1, 8)
	be := &testutil.Failing{Backend: newBackend(t)}
	be.Left.Store(-1)
	s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{MaxLen: 4, Batch: 2})
	require.NoError(t, err)
	_, err = s.Append(0, []int32{1, 2, 3})
	require.NoError(t, err)
	want := func() []float32 {
		logits, err := s.Append(0, []int32{4})
		require.NoError(t, err)
		return slices.Clone(logits)
	}
	logits := want()

	_, err = s.Append(0, []int32{5})
	require.ErrorIs(t, err, chainrule.ErrContextFull)
	_, err = s.Step([]int32{5, 5})
	require.ErrorIs(t, err, chainrule.ErrContextFull)
	require.Equal(t, []int{4, 0}, []int{s.Len(0), s.Len(1)}, "a refused step changes no sequence")
	s.Truncate(0, 3)
	_, err = s.Append(0, []int32{5, 211})
	require.ErrorContains(t, err, "211")
	_, err = s.Step([]int32{211, 1})
	require.ErrorContains(t, err, "211")
	require.Equal(t, []int{3, 0}, []int{s.Len(0), s.Len(1)})
	products := 4*tr.NLayers + 1
	for k := range products {
		be.Left.Store(int64(k))
		_, err = s.Append(0, []int32{9})
		require.ErrorIs(t, err, testutil.ErrDevice, "product %d", k)
		be.Left.Store(int64(k))
		_, err = s.Step([]int32{9, 9})
		require.ErrorIs(t, err, testutil.ErrDevice, "product %d", k)
		require.Equal(t, []int{3, 0}, []int{s.Len(0), s.Len(1)})
	}
	be.Left.Store(-1)
	require.Equal(t, logits, want(), "errors left a trace")

	for _, o := range []chainrule.SessionOptions{{MaxLen: -1}, {MaxLen: tr.SeqLen + 1}, {Batch: -1}, {Batch: math.MaxInt}} {
		_, err = chainrule.NewSession(tr.Model, be, o)
		require.Error(t, err, "%+v", o)
	}
}

// A prompt longer than a pass goes through the model in pieces.
func TestSessionTakesALongPrompt(t *testing.T) {
	const T = 1100
	c := callsiteConfig()
	c.SeqLen = T
	tr := newTrainer(t, c, 1, T)
	want := tr.logits(t, tr.tokens)[(T-1)*c.VocabSize:]
	be := &testutil.Failing{Backend: newBackend(t)}
	s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{MaxLen: T})
	require.NoError(t, err)
	products := 4*c.NLayers + 1
	for _, k := range []int{0, products - 1, products, 2 * products} {
		be.Left.Store(int64(k))
		_, err = s.Append(0, tr.tokens)
		require.ErrorIs(t, err, testutil.ErrDevice, "product %d", k)
		require.Zero(t, s.Len(0), "product %d", k)
	}
	be.Left.Store(-1)
	logits, err := s.Append(0, tr.tokens)
	require.NoError(t, err)
	require.InDeltaSlice(t, want, logits, 1e-5)
	require.Equal(t, T, s.Len(0))
}

func TestClipGradients(t *testing.T) {
	tr := newTrainer(t, shapes()["GQA, tied"], 1, 5)
	tr.pass(t)
	before := slices.Clone(tr.g.Data)
	norm := chainrule.GradNorm(tr.g)
	sum := 0.0
	for _, v := range before {
		sum += float64(v) * float64(v)
	}
	require.InEpsilon(t, math.Sqrt(sum), norm, 1e-12)

	require.Equal(t, norm, chainrule.ClipGradients(tr.g, norm*1.01))
	requireSameBits(t, bits(before), bits(tr.g.Data), "a norm below the limit changes nothing")

	require.Equal(t, norm, chainrule.ClipGradients(tr.g, norm/8), "the norm before")
	require.InEpsilon(t, norm/8, chainrule.GradNorm(tr.g), 1e-6)
	for i := range before {
		before[i] /= 8
	}
	require.LessOrEqual(t, distance(tr.g.Data, before), 1e-6)

	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, at := range []int{0, len(before) / 2, len(before) - 1} {
			copy(tr.g.Data, before)
			tr.g.Data[at] = float32(bad)
			want := bits(tr.g.Data)
			norm := chainrule.ClipGradients(tr.g, 1e-3)
			require.True(t, math.IsNaN(norm) || math.IsInf(norm, 1), "norm %v with %v at %d", norm, bad, at)
			requireSameBits(t, want, bits(tr.g.Data), "%v at %d", bad, at)
		}
	}
	for i := range tr.g.Data {
		tr.g.Data[i] = 1e30 // its square is beyond float32
	}
	require.InEpsilon(t, 1e30*math.Sqrt(float64(len(before))), chainrule.ClipGradients(tr.g, 1), 1e-6)
	require.InEpsilon(t, 1, chainrule.GradNorm(tr.g), 1e-5)
}

func TestNonFiniteWeightsReachTheLossAndTheGradient(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 1, 5)
		for tensor := range tr.Tensors() {
			if tensor.Name == "token_embedding" && !c.Tied {
				continue // most of its rows take no part
			}
			for _, bad := range []float64{math.NaN(), math.Inf(1)} {
				saved := tensor.Data[0]
				tensor.Data[0] = float32(bad)
				tr.Touch()
				loss := tr.pass(t)
				tensor.Data[0] = saved
				norm := chainrule.GradNorm(tr.g)
				chainrule.ZeroGrad(tr.g)
				require.False(t, math.Abs(norm) <= math.MaxFloat64, "%s is %v: norm %v", tensor.Name, bad, norm)
				if math.IsNaN(bad) {
					require.True(t, math.IsNaN(loss), "%s is NaN: loss %v", tensor.Name, loss)
				}
			}
		}
	})
}

func TestATokenOutsideTheVocabularyIsNamed(t *testing.T) {
	tr := newTrainer(t, shapes()["MHA"], 2, 8)
	for _, bad := range []int32{-1, 211, math.MaxInt32, math.MinInt32} {
		tokens := slices.Clone(tr.tokens)
		tokens[8+3] = bad
		_, err := chainrule.Forward(tr.Model, tr.ws, tokens, tr.targets)
		require.ErrorContains(t, err, fmt.Sprint("token ", bad))
		require.ErrorContains(t, err, "sequence 1")
		require.ErrorContains(t, err, "position 3")
		require.ErrorContains(t, err, "211")
	}
	for _, bad := range []int32{211, math.MaxInt32} {
		targets := slices.Clone(tr.targets)
		targets[8+3] = bad
		_, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, targets)
		require.ErrorContains(t, err, fmt.Sprint("target ", bad))
		require.ErrorContains(t, err, "sequence 1")
		require.ErrorContains(t, err, "position 3")
		require.Panics(t, func() { _ = chainrule.Backward(tr.Model, tr.ws, tr.g) }, "Backward after a failed Forward")
	}
}

func TestMistakesOfTheProgrammerPanicWithAConstant(t *testing.T) {
	tr := newTrainer(t, shapes()["MHA"], 2, 8)
	other := newTrainer(t, shapes()["biases"], 2, 8)
	be := newBackend(t)
	forward := func(tokens, targets []int32) func() {
		return func() { _, _ = chainrule.Forward(tr.Model, tr.ws, tokens, targets) }
	}
	for name, f := range map[string]func(){
		"short tokens":              forward(tr.tokens[1:], tr.targets),
		"long tokens":               forward(append(slices.Clone(tr.tokens), 1), tr.targets),
		"nil tokens":                forward(nil, tr.targets),
		"short targets":             forward(tr.tokens, tr.targets[1:]),
		"empty targets":             forward(tr.tokens, []int32{}),
		"Workspace of another":      func() { _, _ = chainrule.Forward(tr.Model, other.ws, tr.tokens, tr.targets) },
		"nil Backend":               func() { _, _ = chainrule.NewWorkspace(tr.Config, 1, 1, nil) },
		"nil Backend for a Session": func() { _, _ = chainrule.NewSession(tr.Model, nil, chainrule.SessionOptions{}) },
		"ParamsOf short memory":     func() { _, _ = chainrule.ParamsOf(tr.Config, tr.Data[1:]) },
		"ParamsOf long memory":      func() { _, _ = chainrule.ParamsOf(tr.Config, make([]float32, len(tr.Data)+1)) },
		"NewModelOf another":        func() { _, _ = chainrule.NewModelOf(tr.Config, other.Params) },
		"NewModelOf nil":            func() { _, _ = chainrule.NewModelOf(tr.Config, nil) },
		"gradient of another": func() {
			forward(tr.tokens, tr.targets)()
			_ = chainrule.Backward(tr.Model, tr.ws, other.g)
		},
		"AdamStep, gradient of another": func() { chainrule.AdamStep(tr.Model, other.g, tr.state, adam) },
		"AdamStep, state of another":    func() { chainrule.AdamStep(tr.Model, tr.g, other.state, adam) },
		"AdamStep, Beta1 1":             func() { h := adam; h.Beta1 = 1; chainrule.AdamStep(tr.Model, tr.g, tr.state, h) },
		"AdamStep, Beta2 NaN":           func() { h := adam; h.Beta2 = math.NaN(); chainrule.AdamStep(tr.Model, tr.g, tr.state, h) },
		"AdamStep, Eps 0":               func() { h := adam; h.Eps = 0; chainrule.AdamStep(tr.Model, tr.g, tr.state, h) },
		"ClipGradients to 0":            func() { chainrule.ClipGradients(tr.g, 0) },
		"ClipGradients to NaN":          func() { chainrule.ClipGradients(tr.g, math.NaN()) },
		"Session, no tokens": func() {
			s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{})
			require.NoError(t, err)
			_, _ = s.Append(0, nil)
		},
		"Session, not a token a sequence": func() {
			s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{Batch: 2})
			require.NoError(t, err)
			_, _ = s.Step([]int32{1})
		},
		"Session, Truncate above Len": func() {
			s, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{})
			require.NoError(t, err)
			s.Truncate(0, 1)
		},
		"Session, Append to none": func() { _, _ = newSession(t, tr, chainrule.SessionOptions{}).Append(1, []int32{1}) },
		"Session, Append below":   func() { _, _ = newSession(t, tr, chainrule.SessionOptions{}).Append(-1, []int32{1}) },
		"Session, Truncate none":  func() { newSession(t, tr, chainrule.SessionOptions{}).Truncate(1, 0) },
		"Session, Len of none":    func() { newSession(t, tr, chainrule.SessionOptions{}).Len(1) },
		"Generate, nil Sampler":   func() { newSession(t, tr, chainrule.SessionOptions{}).Generate(t.Context(), tr.tokens, nil) },
		"Forward, nil Model":      func() { _, _ = chainrule.Forward(nil, tr.ws, tr.tokens, nil) },
		"Forward, nil Workspace":  func() { _, _ = chainrule.Forward(tr.Model, nil, tr.tokens, nil) },
		"Backward, nil Model":     func() { _ = chainrule.Backward(nil, tr.ws, tr.g) },
		"Backward, nil Workspace": func() { _ = chainrule.Backward(tr.Model, nil, tr.g) },
		"Backward, nil gradient":  func() { forward(tr.tokens, tr.targets)(); _ = chainrule.Backward(tr.Model, tr.ws, nil) },
		"ZeroGrad of nil":         func() { chainrule.ZeroGrad(nil) },
		"GradNorm of nil":         func() { chainrule.GradNorm(nil) },
		"ClipGradients of nil":    func() { chainrule.ClipGradients(nil, 1) },
		"AdamStep, nil Model":     func() { chainrule.AdamStep(nil, tr.g, tr.state, adam) },
		"AdamStep, nil gradient":  func() { chainrule.AdamStep(tr.Model, nil, tr.state, adam) },
		"AdamStep, nil state":     func() { chainrule.AdamStep(tr.Model, tr.g, nil, adam) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				message, ok := recover().(string)
				require.True(t, ok, "no panic, or not with a string")
				require.True(t, strings.HasPrefix(message, "chainrule: "), message)
			}()
			f()
		})
	}
}

func TestARefusedAdamStepChangesNothing(t *testing.T) {
	tr := newTrainer(t, shapes()["MHA"], 1, 5)
	_, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
	require.NoError(t, err)
	before := bits(tr.Data)
	for _, h := range []chainrule.Adam{{LR: 1, Beta1: 1, Eps: 1}, {LR: 1, Beta2: -1, Eps: 1}, {LR: 1}} {
		require.Panics(t, func() { chainrule.AdamStep(tr.Model, tr.g, tr.state, h) })
	}
	require.Zero(t, tr.state.Step)
	requireSameBits(t, before, bits(tr.Data))
	require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g), "the model is the one of Forward")
}

func TestBackwardNeedsAForwardOfTheSameUnchangedModel(t *testing.T) {
	tr := newTrainer(t, shapes()["MHA"], 1, 5)
	twin, err := chainrule.NewModelOf(tr.Config, tr.Params)
	require.NoError(t, err)
	forward := func(targets []int32) {
		_, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, targets)
		require.NoError(t, err)
	}
	for name, prepare := range map[string]func() *chainrule.Model{
		"no Forward":    func() *chainrule.Model { return tr.Model },
		"nil targets":   func() *chainrule.Model { forward(nil); return tr.Model },
		"Touch between": func() *chainrule.Model { forward(tr.targets); tr.Touch(); return tr.Model },
		"Init between":  func() *chainrule.Model { forward(tr.targets); tr.Init(9); return tr.Model },
		"another model": func() *chainrule.Model { forward(tr.targets); return twin },
		"AdamStep between": func() *chainrule.Model {
			forward(tr.targets)
			chainrule.AdamStep(tr.Model, tr.g, tr.state, adam)
			return tr.Model
		},
		"Resize between": func() *chainrule.Model {
			forward(tr.targets)
			require.NoError(t, tr.ws.Resize(1, 5))
			return tr.Model
		},
		"a Backward already": func() *chainrule.Model {
			forward(tr.targets)
			require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g))
			return tr.Model
		},
		"a failed Forward": func() *chainrule.Model {
			forward(tr.targets)
			_, err := chainrule.Forward(tr.Model, tr.ws, []int32{0, 0, 0, 0, -1}, tr.targets)
			require.Error(t, err)
			return tr.Model
		},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			tr.ws, err = chainrule.NewWorkspace(tr.Config, 1, 5, newBackend(t))
			require.NoError(t, err)
			m := prepare()
			before := bits(tr.g.Data)
			require.PanicsWithValue(t,
				"chainrule: Backward without a Forward with targets on the same, unchanged model before it",
				func() { _ = chainrule.Backward(m, tr.ws, tr.g) })
			requireSameBits(t, before, bits(tr.g.Data))
		})
	}
}

func TestNoTargetsGiveNoLossAndNoGradient(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 2, 5)
		want := tr.logits(t, tr.tokens)
		for _, denom := range []float64{0, 7} {
			for i := range tr.targets {
				tr.targets[i] = -1 - int32(i)
			}
			tr.ws.LossDenom = denom
			loss, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
			require.NoError(t, err)
			require.Zero(t, loss)
			require.Equal(t, make([]float32, 10), tr.ws.Losses())
			requireSameBits(t, bits(want), bits(tr.ws.Logits()))
			require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g))
			require.Zero(t, chainrule.GradNorm(tr.g))
		}
		tr.targets[3] = 1
		loss, err := chainrule.Forward(tr.Model, tr.ws, tr.tokens, tr.targets)
		require.NoError(t, err)
		require.Positive(t, loss)
		loss, err = chainrule.Forward(tr.Model, tr.ws, tr.tokens, nil)
		require.NoError(t, err)
		require.Zero(t, loss)
		require.Equal(t, make([]float32, 10), tr.ws.Losses())
		requireSameBits(t, bits(want), bits(tr.ws.Logits()))
	})
}

func TestAResizedWorkspaceWorksLikeANewOne(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		const B, T = 4, 12
		large := newTrainer(t, c, B, T)
		large.pass(t)
		for _, shape := range [][2]int{{1, 1}, {2, 5}, {1, 48}, {48, 1}, {4, 12}} {
			b, n := shape[0], shape[0]*shape[1]
			require.NoError(t, large.ws.Resize(b, shape[1]))
			require.Len(t, large.ws.Logits(), n*c.VocabSize)
			require.Len(t, large.ws.Losses(), n)
			fresh := newTrainer(t, c, b, shape[1])
			fresh.tokens, fresh.targets = large.tokens[:n], large.targets[:n]
			want := fresh.pass(t)

			chainrule.ZeroGrad(large.g)
			resized := *large
			resized.tokens, resized.targets = large.tokens[:n], large.targets[:n]
			require.Equal(t, want, resized.pass(t), "%v", shape)
			requireSameBits(t, bits(fresh.g.Data), bits(large.g.Data), "%v", shape)
		}
		for _, shape := range [][2]int{{5, 12}, {1, 49}, {0, 5}, {5, 0}, {-1, 5}, {1, c.SeqLen + 1}, {math.MaxInt, math.MaxInt}, {math.MaxInt, 2}} {
			require.Error(t, large.ws.Resize(shape[0], shape[1]), "%v", shape)
			require.Len(t, large.ws.Losses(), B*T, "a refused Resize changed the shape")
		}
	})
}

func TestAWorkspaceThatCannotBeIsRefused(t *testing.T) {
	c := shapes()["MHA"]
	for _, shape := range []struct {
		B, T int
		says string
	}{
		{1, c.SeqLen + 1, "T is 97"}, {1, 0, "T is 0"}, {1, -1, "T is -1"}, {0, 5, "B is 0"}, {-3, 5, "B is -3"},
		{math.MaxInt, 96, "B is"}, {1 << 40, 1, "B is"},
	} {
		_, err := chainrule.NewWorkspace(c, shape.B, shape.T, newBackend(t))
		require.ErrorContains(t, err, shape.says)
		_, err = chainrule.WorkspaceBytes(c, shape.B, shape.T)
		require.ErrorContains(t, err, shape.says)
	}
	c.Dim = 0
	_, err := chainrule.NewWorkspace(c, 1, 1, newBackend(t))
	require.ErrorContains(t, err, "Config.Dim")
}

func TestWorkspaceBytesIsWhatAWorkspaceTakes(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		want, err := chainrule.WorkspaceBytes(c, 8, 64)
		require.NoError(t, err)
		be := newBackend(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ws, err := chainrule.NewWorkspace(c, 8, 64, be)
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		require.InEpsilon(t, want, after.TotalAlloc-before.TotalAlloc, 0.02)
		runtime.KeepAlive(ws)
	})
}

// Logits and their gradient are one buffer, and so are others of which never
// two are in use at a time.
func TestBuffersShareMemory(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		const B, T = 3, 8
		C, H, Q, KV := c.Dim, c.HiddenDim, c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
		layer := 2*C + Q + 2*KV + Q + 2*H + c.NHeads + 2 // the stream twice, qkv, attention, gate and up, lse, norms
		if c.QKNorm {
			layer += Q + KV + c.NHeads + c.NKVHeads
		}
		around := c.VocabSize + 1 + 1 + 2 + 1 + 1      // logits, losses, norm, lse (float64), tokens, targets
		scratch := 3*C + max(H, Q+2*KV) + max(H, Q, C) // norm, branch or dnorm, dx; act or dqkv; dact or datt or the last x
		table := 2 * (B * T) * c.HeadDim / 2
		want := 4 * (B*T*(c.NLayers*layer+around+scratch) + table)
		bytes, err := chainrule.WorkspaceBytes(c, B, T)
		require.NoError(t, err)
		require.EqualValues(t, want, bytes)
	})
}

// The activations grow with the tokens, not with their square.
func TestWorkspaceBytesAreLinearInTheLength(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		c.SeqLen = 1 << 16
		bytes := func(B, T int) int64 {
			n, err := chainrule.WorkspaceBytes(c, B, T)
			require.NoError(t, err)
			return n
		}
		require.LessOrEqual(t, bytes(1, 1<<16), 16*bytes(1, 1<<12))
		require.InEpsilon(t, bytes(16, 1<<12), bytes(1, 1<<16), 1e-9)
	})
}

func TestConfigValidateNamesTheField(t *testing.T) {
	require.NoError(t, smallConfig().Validate())
	huge := math.MaxInt32
	for _, bad := range []struct {
		says   string
		change func(c *chainrule.Config)
	}{
		{"Config.Dim is 0", func(c *chainrule.Config) { c.Dim = 0 }},
		{"Config.Dim is -12", func(c *chainrule.Config) { c.Dim = -12 }},
		{"Config.Dim is", func(c *chainrule.Config) { c.Dim = math.MaxInt }},
		{"Config.HiddenDim is 0", func(c *chainrule.Config) { c.HiddenDim = 0 }},
		{"Config.HiddenDim is -1", func(c *chainrule.Config) { c.HiddenDim = -1 }},
		{"Config.NLayers is 0", func(c *chainrule.Config) { c.NLayers = 0 }},
		{"Config.NLayers is -1", func(c *chainrule.Config) { c.NLayers = -1 }},
		{"Config.NHeads is 0", func(c *chainrule.Config) { c.NHeads = 0 }},
		{"Config.NHeads is 3, not a multiple of NKVHeads 2", func(c *chainrule.Config) { c.NHeads = 3 }},
		{"Config.NHeads is 2, not a multiple of NKVHeads 4", func(c *chainrule.Config) { c.NKVHeads = 4 }},
		{"Config.NKVHeads is 0", func(c *chainrule.Config) { c.NKVHeads = 0 }},
		{"Config.NKVHeads is -3", func(c *chainrule.Config) { c.NKVHeads = -3 }},
		{"Config.HeadDim is 0", func(c *chainrule.Config) { c.HeadDim = 0 }},
		{"Config.HeadDim is 5", func(c *chainrule.Config) { c.HeadDim = 5 }},
		{"Config.VocabSize is 0", func(c *chainrule.Config) { c.VocabSize = 0 }},
		{"Config.VocabSize is -32000", func(c *chainrule.Config) { c.VocabSize = -32000 }},
		{"Config.SeqLen is 0", func(c *chainrule.Config) { c.SeqLen = 0 }},
		{"Config.SeqLen is -1", func(c *chainrule.Config) { c.SeqLen = -1 }},
		{"Config.SeqLen", func(c *chainrule.Config) { c.SeqLen, c.HeadDim = huge, 1024 }},
		{"Config.RopeTheta is 0", func(c *chainrule.Config) { c.RopeTheta = 0 }},
		{"Config.RopeTheta is -1", func(c *chainrule.Config) { c.RopeTheta = -1 }},
		{"Config.RopeTheta is NaN", func(c *chainrule.Config) { c.RopeTheta = math.NaN() }},
		{"Config.RopeTheta is +Inf", func(c *chainrule.Config) { c.RopeTheta = math.Inf(1) }},
		{"Config.NormEps is -1e-05", func(c *chainrule.Config) { c.NormEps = -1e-5 }},
		{"Config.NormEps is NaN", func(c *chainrule.Config) { c.NormEps = math.NaN() }},
		{"Config.NormEps is +Inf", func(c *chainrule.Config) { c.NormEps = math.Inf(1) }},
		{"both QKNorm and QKVBias", func(c *chainrule.Config) { c.QKNorm, c.QKVBias = true, true }},
		{`Config.RopeScaling.Type is "yarn"`, func(c *chainrule.Config) { c.RopeScaling.Type = "yarn" }},
		{"Config.RopeScaling has factors but no Type", func(c *chainrule.Config) { c.RopeScaling.Factor = 2 }},
		{"Config.RopeScaling.Factor is 0", func(c *chainrule.Config) { c.RopeScaling.Type = "linear" }},
		{"Config.RopeScaling.Factor is NaN", func(c *chainrule.Config) {
			c.RopeScaling = chainrule.RopeScaling{Type: "linear", Factor: math.NaN()}
		}},
		{"LowFreqFactor 4 and HighFreqFactor 1", func(c *chainrule.Config) {
			c.RopeScaling = chainrule.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 4, HighFreqFactor: 1, OriginalSeqLen: 9}
		}},
		{"Config.RopeScaling.OriginalSeqLen is 0", func(c *chainrule.Config) {
			c.RopeScaling = chainrule.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4}
		}},
		{"too many parameters", func(c *chainrule.Config) { c.VocabSize, c.Dim = huge, huge }},
		{"too many parameters", func(c *chainrule.Config) { c.HiddenDim, c.Dim, c.NLayers = huge, huge, huge }},
		{"too many parameters", func(c *chainrule.Config) { c.NHeads, c.NKVHeads, c.HeadDim = huge, huge, huge-1 }},
		{"too many parameters", func(c *chainrule.Config) { c.NLayers, c.Dim, c.HiddenDim = 1<<30, 1<<10, 1<<10 }},
	} {
		c := smallConfig()
		bad.change(&c)
		require.ErrorContains(t, c.Validate(), bad.says)
		for name, f := range map[string]func() error{
			"NewParams":      func() error { _, err := chainrule.NewParams(c); return err },
			"ParamsOf":       func() error { _, err := chainrule.ParamsOf(c, nil); return err },
			"NewModel":       func() error { _, err := chainrule.NewModel(c); return err },
			"NewModelOf":     func() error { _, err := chainrule.NewModelOf(c, nil); return err },
			"NewAdamState":   func() error { _, err := chainrule.NewAdamState(c); return err },
			"WorkspaceBytes": func() error { _, err := chainrule.WorkspaceBytes(c, 1, 1); return err },
		} {
			require.ErrorContains(t, f(), bad.says, name)
		}
	}
}

func TestNumParamsIsTheSumOfTheTensors(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := func(name string, most int) int { return rapid.IntRange(1, most).Draw(r, name) }
		kv := n("NKVHeads", 3)
		c := chainrule.Config{
			Dim: n("Dim", 9), HiddenDim: n("HiddenDim", 9), NLayers: n("NLayers", 3), NHeads: kv * n("group", 3), NKVHeads: kv,
			HeadDim: 2 * n("HeadDim/2", 4), VocabSize: n("VocabSize", 9), SeqLen: 8, RopeTheta: 1e4,
			Tied: rapid.Bool().Draw(r, "Tied"),
		}
		switch rapid.IntRange(0, 2).Draw(r, "extra") {
		case 1:
			c.QKNorm = true
		case 2:
			c.QKVBias = true
		}
		p, err := chainrule.NewParams(c)
		require.NoError(r, err)
		sizes := referenceConfig(c).Sizes()
		at := 0
		for tensor := range p.Tensors() {
			require.Equal(r, sizes[tensor.Name], len(tensor.Data), tensor.Name)
			require.Equal(r, len(tensor.Data), cap(tensor.Data), "%s: append would write the next tensor", tensor.Name)
			require.Same(r, &p.Data[at], &tensor.Data[0], tensor.Name)
			delete(sizes, tensor.Name)
			at += len(tensor.Data)
		}
		require.Empty(r, sizes)
		require.Equal(r, c.NumParams(), at)
		require.Len(r, p.Data, at)
		for _, l := range p.Layers { // what is one product is adjacent
			require.Equal(r, len(l.Wq)+len(l.Wk)+len(l.Wv), len(l.Wqkv))
			require.Same(r, &l.Wqkv[0], &l.Wq[0])
			require.Same(r, &l.Wqkv[len(l.Wq)], &l.Wk[0])
			require.Same(r, &l.Wqkv[len(l.Wq)+len(l.Wk)], &l.Wv[0])
			require.Same(r, &l.W13[0], &l.W1[0])
			require.Same(r, &l.W13[len(l.W1)], &l.W3[0])
			require.Len(r, l.Bqkv, len(l.Bq)+len(l.Bk)+len(l.Bv))
		}
		for range p.Tensors() { // breaking off is allowed
			break
		}
	})
}

func TestInitIsThatOfItsSeedAndOfItsDistribution(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		c.VocabSize = 3000 // more than one generator
		m, err := chainrule.NewModel(c)
		require.NoError(t, err)
		m.Init(1)
		first := bits(m.Data)
		m.Init(2)
		require.NotEqual(t, first, bits(m.Data))
		runtime.GOMAXPROCS(1)
		m.Init(1)
		requireSameBits(t, first, bits(m.Data))
		runtime.GOMAXPROCS(4)
		seen := map[float32]string{}
		for tensor := range m.Tensors() {
			switch {
			case len(tensor.Shape) == 2:
				want := 0.02
				if strings.HasSuffix(tensor.Name, ".wo") || strings.HasSuffix(tensor.Name, ".w2") {
					want /= math.Sqrt(2 * float64(c.NLayers))
				}
				sum, square, outside := 0.0, 0.0, 0.0
				for _, v := range tensor.Data {
					sum += float64(v)
					square += float64(v) * float64(v)
					if math.Abs(float64(v)) > want {
						outside++
					}
				}
				n := float64(len(tensor.Data))
				require.InDelta(t, 0, sum/n, 5*want/math.Sqrt(n), "mean of %s", tensor.Name)
				require.InEpsilon(t, want, math.Sqrt(square/n), 5/math.Sqrt(2*n), "std of %s", tensor.Name)
				require.InDelta(t, 0.3173, outside/n, 5*0.47/math.Sqrt(n), "%s beyond one std", tensor.Name)
				other, repeated := seen[tensor.Data[0]]
				require.False(t, repeated, "%s begins like %s", tensor.Name, other)
				seen[tensor.Data[0]] = tensor.Name
			case strings.Contains(tensor.Name, ".b"):
				require.Equal(t, make([]float32, len(tensor.Data)), tensor.Data, tensor.Name)
			default:
				require.Equal(t, slices.Repeat([]float32{1}, len(tensor.Data)), tensor.Data, tensor.Name)
			}
		}
	})
}

func TestAdamStepIsTheFormula(t *testing.T) {
	for _, scale := range []float64{0, 1, 0.5} {
		eachShape(t, func(t *testing.T, c chainrule.Config) {
			c.Dim, c.HiddenDim, c.VocabSize = 24, 30, 50
			tr := newTrainer(t, c, 1, 1)
			h := chainrule.Adam{LR: 3e-3, Beta1: 0.9, Beta2: 0.97, Eps: 1e-8, WeightDecay: 0.3, GradScale: scale}
			factor := scale
			if factor == 0 {
				factor = 1
			}
			p := referenceWeights(tr.Params)
			m, v := testutil.Weights{}, testutil.Weights{}
			for name := range p {
				m[name], v[name] = make([]float64, len(p[name])), make([]float64, len(p[name]))
			}
			r := rand.New(rand.NewPCG(1, 1))
			const steps = 20
			for step := 1; step <= steps; step++ {
				for i := range tr.g.Data {
					tr.g.Data[i] = float32(r.NormFloat64())
				}
				tr.g.Data[0] = 0
				ofM, ofV := 1-math.Pow(h.Beta1, float64(step)), 1-math.Pow(h.Beta2, float64(step))
				for tensor := range tr.g.Tensors() {
					decay := h.WeightDecay
					if len(tensor.Shape) < 2 {
						decay = 0
					}
					p, m, v := p[tensor.Name], m[tensor.Name], v[tensor.Name]
					for i, g := range tensor.Data {
						d := float64(g) * factor
						m[i] = h.Beta1*m[i] + (1-h.Beta1)*d
						v[i] = h.Beta2*v[i] + (1-h.Beta2)*d*d
						p[i] -= h.LR*decay*p[i] + h.LR*(m[i]/ofM)/(math.Sqrt(v[i]/ofV)+h.Eps)
					}
				}
				chainrule.AdamStep(tr.Model, tr.g, tr.state, h)
				require.Equal(t, step, tr.state.Step)
			}
			got := referenceWeights(tr.Params)
			for name := range p {
				for i, want := range p[name] {
					// a rounding of the weight each step, and of what each step adds
					if !(math.Abs(got[name][i]-want) <= steps*(6e-8*max(math.Abs(want), 0.1)+1e-6*h.LR)) {
						t.Fatalf("%s[%d] is %v, want %v", name, i, got[name][i], want)
					}
				}
			}
		})
	}
}

func TestWeightDecayIsOfMatricesOnly(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 1, 1)
		before := referenceWeights(tr.Params)
		h := adam
		h.LR, h.WeightDecay = 0.5, 0.5
		chainrule.AdamStep(tr.Model, tr.g, tr.state, h) // the gradient is 0
		for tensor := range tr.Tensors() {
			keep := 1.0
			if len(tensor.Shape) == 2 {
				keep = 0.75
			}
			for i, v := range tensor.Data {
				was := before[tensor.Name][i]
				if !(math.Abs(float64(v)-keep*was) <= 1e-7*math.Abs(was)) {
					t.Fatalf("%s[%d] is %v, want %v", tensor.Name, i, v, keep*was)
				}
			}
		}
	})
}

// With small factors a decay that is rounded before it is applied is another
// one, or none.
func TestSmallWeightDecayIsNotRoundedAway(t *testing.T) {
	c := shapes()["MHA"]
	tr := newTrainer(t, c, 1, 1)
	mean := func() float64 {
		sum := 0.0
		for _, v := range tr.TokenEmbedding {
			sum += math.Abs(float64(v))
		}
		return sum / float64(len(tr.TokenEmbedding))
	}
	before := mean()
	h := adam
	h.LR, h.WeightDecay = 1.3e-5, 0.1
	const steps = 200
	for range steps {
		chainrule.AdamStep(tr.Model, tr.g, tr.state, h)
	}
	require.InEpsilon(t, steps*h.LR*h.WeightDecay, 1-mean()/before, 0.02)
}

// A caller may fill its slices with the next batch before Backward.
func TestForwardKeepsNoSliceOfItsCaller(t *testing.T) {
	tr := newTrainer(t, shapes()["MHA"], 2, 9)
	tr.pass(t)
	want := slices.Clone(tr.g.Data)
	chainrule.ZeroGrad(tr.g)
	tokens, targets := slices.Clone(tr.tokens), slices.Clone(tr.targets)
	_, err := chainrule.Forward(tr.Model, tr.ws, tokens, targets)
	require.NoError(t, err)
	for i := range tokens {
		tokens[i], targets[i] = 0, -1
	}
	require.NoError(t, chainrule.Backward(tr.Model, tr.ws, tr.g))
	requireSameBits(t, bits(want), bits(tr.g.Data))
}

func TestTouchedWeightsAreSeen(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 1, 6)
		tr.logits(t, tr.tokens)
		for tensor := range tr.Tensors() {
			for i := range tensor.Data {
				tensor.Data[i] *= 1.5
			}
		}
		tr.Touch()
		fresh, err := chainrule.ParamsOf(c, slices.Clone(tr.Data))
		require.NoError(t, err)
		m, err := chainrule.NewModelOf(c, fresh)
		require.NoError(t, err)
		got := tr.logits(t, tr.tokens)
		tr.Model = m
		requireSameBits(t, bits(tr.logits(t, tr.tokens)), bits(got))
	})
}

// A gradient is left out where it is nil, and the others stay what they are.
func TestNilGradientsAreLeftOut(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		tr := newTrainer(t, c, 2, 9)
		tr.pass(t)
		want := referenceWeights(tr.g)
		part, err := chainrule.NewParams(c)
		require.NoError(t, err)
		part.TokenEmbedding, part.Wcls, part.RMSFinal = nil, nil, nil
		part.Layers[0] = chainrule.LayerParams{W2: part.Layers[0].W2, RMSAtt: part.Layers[0].RMSAtt}
		part.Layers[1] = chainrule.LayerParams{Wo: part.Layers[1].Wo, Wqkv: part.Layers[1].Wqkv, Wq: part.Layers[1].Wq, QNorm: part.Layers[1].QNorm}
		tr.g = part
		tr.pass(t)
		kept := 0
		for tensor := range part.Tensors() {
			kept++
			require.Equal(t, want[tensor.Name], float64s(tensor.Data), tensor.Name)
		}
		require.GreaterOrEqual(t, kept, 4)
		others := 0
		for _, v := range part.Data {
			if v != 0 {
				others++
			}
		}
		require.LessOrEqual(t, others, len(part.Layers[0].W2)+c.Dim+len(part.Layers[1].Wo)+len(part.Layers[1].Wqkv)+c.HeadDim,
			"Backward wrote where the gradient is nil")
	})
}

// A backend is given the shapes that its Matrix says, and a Gen that changes
// with the weights only.
func TestABackendSeesTheSameMatricesUntilTheWeightsChange(t *testing.T) {
	tr := newTrainer(t, shapes()["GQA, tied"], 1, 4)
	spy := &spy{Backend: newBackend(t), gens: map[*backend.Matrix]uint64{}}
	var err error
	tr.ws, err = chainrule.NewWorkspace(tr.Config, 1, 4, spy)
	require.NoError(t, err)
	tr.pass(t)
	tr.pass(t)
	require.Len(t, spy.gens, 4*tr.NLayers+1)
	require.Zero(t, spy.changed)
	require.Equal(t, 4*(4*tr.NLayers+1), spy.calls)
	chainrule.AdamStep(tr.Model, tr.g, tr.state, adam)
	tr.logits(t, tr.tokens)
	require.Len(t, spy.gens, 4*tr.NLayers+1)
	require.Equal(t, 4*tr.NLayers+1, spy.changed)
}

type spy struct {
	backend.Backend
	gens           map[*backend.Matrix]uint64
	calls, changed int
}

func (s *spy) see(w *backend.Matrix) {
	s.calls++
	if gen, ok := s.gens[w]; ok && gen != w.Gen {
		s.changed++
	}
	s.gens[w] = w.Gen
}

func (s *spy) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	s.see(w)
	return s.Backend.Linear(y, x, w, rows)
}

func (s *spy) LinearBackward(dx, dw, dy, x []float32, w *backend.Matrix, rows int) error {
	s.see(w)
	return s.Backend.LinearBackward(dx, dw, dy, x, w, rows)
}
