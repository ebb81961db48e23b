package ops

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	nan = float32(math.NaN())
	inf = float32(math.Inf(1))
)

// random returns n numbers of N(0, std).
func random(r *rand.Rand, n int, std float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(std * r.NormFloat64())
	}
	return x
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 77)) }

func filled(n int, v float32) []float32 { return slices.Repeat([]float32{v}, n) }

// output returns n elements that are NaN, so that what an operation adds to or
// leaves out shows, between guard words that the end of the test looks at.
func output(t testing.TB, n int) []float32 {
	const guard = 8
	const word = 0x7fc0dead // a NaN
	b := filled(n+2*guard, math.Float32frombits(word))
	t.Cleanup(func() {
		for i := range guard {
			require.Equal(t, uint32(word), math.Float32bits(b[i]), "written %d before an output", guard-i)
			require.Equal(t, uint32(word), math.Float32bits(b[guard+n+i]), "written %d behind an output", i+1)
		}
	})
	return b[guard : guard+n]
}

// sum is output with a copy of x in it, for an operation that adds.
func sum(t testing.TB, x []float32) []float32 {
	y := output(t, len(x))
	copy(y, x)
	return y
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func bitsOf(x []float32) []uint32 {
	y := make([]uint32, len(x))
	for i, v := range x {
		y[i] = math.Float32bits(v)
	}
	return y
}

func norm(x []float64) float64 {
	s := 0.0
	for _, v := range x {
		s += v * v
	}
	return math.Sqrt(s)
}

// requireClose requires ‖got − want‖ ≤ tol·‖want‖.
func requireClose(t testing.TB, want []float64, got []float32, tol float64, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	delta := make([]float64, len(want))
	for i := range want {
		delta[i] = float64(got[i]) - want[i]
	}
	if d, w := norm(delta), norm(want); !(d <= tol*w) {
		require.Fail(t, what, "‖Δ‖/‖want‖ = %.3g, at most %.1g allowed\nwant %.7g\ngot  %.7g",
			d/w, tol, want[:min(8, len(want))], got[:min(8, len(got))])
	}
}

// gradient is the derivative of f with respect to every element of x, by
// central differences of fourth order.
func gradient(x []float64, f func() float64) []float64 {
	g := make([]float64, len(x))
	for i, saved := range x {
		h := 1e-4 * max(math.Abs(saved), 1e-2)
		at := func(step float64) float64 {
			x[i] = saved + step
			return f()
		}
		g[i] = (8*(at(h)-at(-h)) - (at(2*h) - at(-2*h))) / (12 * h)
		x[i] = saved
	}
	return g
}

// dot is the loss whose gradient with respect to y is dy.
func dot(y, dy []float64) float64 {
	s := 0.0
	for i, v := range y {
		s += v * dy[i]
	}
	return s
}

func plus(x []float32, g []float64) []float64 {
	s := widen(x)
	for i := range s {
		s[i] += g[i]
	}
	return s
}

// operation is one call on inputs large enough to be many chunks of work.
type operation struct {
	name  string
	bytes int                                            // that it reads and writes
	flops int                                            // of products and sums, for those that compute much
	build func(r *rand.Rand) (run func(), out []float32) // out is what run writes
}

// operations is every operation of the package at the size of a small model.
func operations() []operation {
	const (
		B, T, NH, NKV, HD = 2, 160, 6, 2, 48
		Q, QKV            = NH * HD, (NH + 2*NKV) * HD
		n, C, H, V        = B * T, 288, 768, 512
	)
	tokens := func(r *rand.Rand, least int) []int32 {
		x := make([]int32, n)
		for i := range x {
			x[i] = int32(least + r.IntN(20))
		}
		return x
	}
	tables := func() (cos, sin []float32) {
		cos, sin = make([]float32, T*HD/2), make([]float32, T*HD/2)
		freqs := make([]float64, HD/2)
		for i := range freqs {
			freqs[i] = math.Pow(10000, -2*float64(i)/HD)
		}
		RopeTable(cos, sin, freqs, T)
		return cos, sin
	}
	attention := func(r *rand.Rand) (out, lse, qkv []float32) {
		out, lse, qkv = make([]float32, n*Q), make([]float32, B*NH*T), random(r, n*QKV, 1)
		Attention(out, lse, qkv, B, T, NH, NKV, HD)
		return out, lse, qkv
	}
	return []operation{
		{"Embedding", 8 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, table, tokens := make([]float32, n*C), random(r, V*C, 1), tokens(r, 0)
			return func() { Embedding(out, table, tokens, n, C) }, out
		}},
		{"EmbeddingBackward", 12 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, dx, tokens := make([]float32, V*C), random(r, n*C, 1), tokens(r, 0)
			return func() { EmbeddingBackward(out, dx, tokens, n, C) }, out
		}},
		{"RMSNorm", 8 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, x, w := make([]float32, n*C+n), random(r, n*C, 1), random(r, C, 1)
			return func() { RMSNorm(out, out[n*C:], x, w, n, C, 1e-5) }, out
		}},
		{"RMSNormBackward", 16 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, dy, x, w := make([]float32, n*C+C), random(r, n*C, 1), random(r, n*C, 1), random(r, C, 1)
			rstd := filled(n, 1)
			return func() { RMSNormBackward(out, out[n*C:], dy, x, rstd, w, n, C) }, out
		}},
		{"Rope", 8 * n * (Q + Q/NH*NKV), 0, func(r *rand.Rand) (func(), []float32) {
			out := random(r, n*QKV, 1)
			cos, sin := tables()
			return func() { Rope(out, cos, sin, n, T, NH+NKV, HD, QKV) }, out
		}},
		{"RopeBackward", 8 * n * (Q + Q/NH*NKV), 0, func(r *rand.Rand) (func(), []float32) {
			out := random(r, n*QKV, 1)
			cos, sin := tables()
			return func() { RopeBackward(out, cos, sin, n, T, NH+NKV, HD, QKV) }, out
		}},
		// two products of T²/2 rows of HD, a multiplication and an addition each
		{"Attention", 4 * n * (QKV + Q), 2 * B * NH * T * T * HD, func(r *rand.Rand) (func(), []float32) {
			out, qkv := make([]float32, n*Q+B*NH*T), random(r, n*QKV, 1)
			return func() { Attention(out, out[n*Q:], qkv, B, T, NH, NKV, HD) }, out
		}},
		{"AttentionCached", 4 * T * (QKV + Q), 2 * NH * T * T * HD, func(r *rand.Rand) (func(), []float32) {
			out, q, k, v := make([]float32, T*Q), random(r, T*Q, 1), random(r, T*NKV*HD, 1), random(r, T*NKV*HD, 1)
			return func() { AttentionCached(out, q, k, v, T, 0, NH, NKV, HD, Q) }, out
		}},
		// five products
		{"AttentionBackward", 4 * n * (2*QKV + Q), 5 * B * NH * T * T * HD, func(r *rand.Rand) (func(), []float32) {
			dqkv, dout := make([]float32, n*QKV), random(r, n*Q, 1)
			_, lse, qkv := attention(r)
			return func() { AttentionBackward(dqkv, dout, lse, qkv, B, T, NH, NKV, HD) }, dqkv
		}},
		{"SwiGLU", 12 * n * H, 0, func(r *rand.Rand) (func(), []float32) {
			out, h13 := make([]float32, n*H), random(r, 2*n*H, 1)
			return func() { SwiGLU(out, h13, n, H) }, out
		}},
		{"SwiGLUBackward", 20 * n * H, 0, func(r *rand.Rand) (func(), []float32) {
			out, dout, h13 := make([]float32, 2*n*H), random(r, n*H, 1), random(r, 2*n*H, 1)
			return func() { SwiGLUBackward(out, dout, h13, n, H) }, out
		}},
		{"CrossEntropy", 4 * n * V, 0, func(r *rand.Rand) (func(), []float32) {
			out, lse, logits, targets := make([]float32, n), make([]float64, n), random(r, n*V, 1), tokens(r, -3)
			return func() { CrossEntropy(out, lse, logits, targets, n, V) }, out
		}},
		{"CrossEntropyBackward", 8 * n * V, 0, func(r *rand.Rand) (func(), []float32) {
			out, lse, logits, targets := make([]float32, n*V), make([]float64, n), random(r, n*V, 1), tokens(r, -3)
			CrossEntropy(make([]float32, n), lse, logits, targets, n, V)
			return func() { CrossEntropyBackward(out, lse, logits, targets, n, V, 0.01) }, out
		}},
		{"Add", 12 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, a, b := make([]float32, n*C), random(r, n*C, 1), random(r, n*C, 1)
			return func() { Add(out, a, b, n*C) }, out
		}},
		{"AddBias", 8 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, b := random(r, n*C, 1), random(r, C, 1)
			return func() { AddBias(out, b, n, C) }, out
		}},
		{"AddBiasBackward", 4 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, dy := make([]float32, C), random(r, n*C, 1)
			return func() { AddBiasBackward(out, dy, n, C) }, out
		}},
		{"CopyColumns", 8 * n * (C - 8), 0, func(r *rand.Rand) (func(), []float32) {
			out, x := make([]float32, n*C), random(r, n*(C+4), 1)
			return func() { CopyColumns(out, x, n, C-8, C, C+4) }, out
		}},
		{"AdamW", 28 * n * C, 0, func(r *rand.Rand) (func(), []float32) {
			out, g := random(r, 3*n*C, 1), random(r, n*C, 1)
			for i, v := range out[2*n*C:] {
				out[2*n*C+i] = v * v
			}
			h := Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1}
			return func() { AdamW(out[:n*C], g, out[n*C:2*n*C], out[2*n*C:], 3, h) }, out
		}},
	}
}

func TestSameBitsAtAnyGOMAXPROCS(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			var first []uint32
			for _, procs := range []int{1, 2, 4} {
				runtime.GOMAXPROCS(procs)
				for range 2 {
					run, out := op.build(newRand(1))
					run()
					if first == nil {
						first = bitsOf(out)
					}
					require.True(t, slices.Equal(first, bitsOf(out)), "other bits at GOMAXPROCS %d", procs)
				}
			}
		})
	}
}

func TestNothingIsAllocatedAfterTheFirstCall(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for _, op := range operations() {
		run, _ := op.build(newRand(1))
		run()
		least := uint64(math.MaxUint64) // the runtime's own allocations come and go
		for try := 0; try < 20 && least > 0; try++ {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			run()
			runtime.ReadMemStats(&after)
			least = min(least, after.Mallocs-before.Mallocs)
		}
		require.Zero(t, least, op.name)
	}
}

func BenchmarkOps(b *testing.B) {
	for _, op := range operations() {
		b.Run(op.name, func(b *testing.B) {
			run, _ := op.build(newRand(1))
			b.SetBytes(int64(op.bytes))
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
			if op.flops > 0 {
				b.ReportMetric(float64(op.flops)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GF/s")
			}
		})
	}
}

// panicsWith requires that f panics with a message of this package.
func panicsWith(t testing.TB, message string, f func(), note string, args ...any) {
	t.Helper()
	require.PanicsWithValue(t, message, f, fmt.Sprintf(note, args...))
}

func TestShortSlicesPanic(t *testing.T) {
	const n, C, V, B, T, NH, NKV, HD = 3, 6, 5, 2, 3, 4, 2, 2
	const Q, QKV = NH * HD, (NH + 2*NKV) * HD
	tokens := make([]int32, n)
	lse := make([]float64, n)
	for _, c := range []struct {
		op, message string
		sizes       []int // of the float32 slices that f takes
		f           func(s [][]float32)
	}{
		{"Add", "chainrule: ops.Add: a slice is too short", []int{n, n, n},
			func(s [][]float32) { Add(s[0], s[1], s[2], n) }},
		{"AddBias", "chainrule: ops.AddBias: a slice is too short", []int{n * C, C},
			func(s [][]float32) { AddBias(s[0], s[1], n, C) }},
		{"AddBiasBackward", "chainrule: ops.AddBiasBackward: a slice is too short", []int{C, n * C},
			func(s [][]float32) { AddBiasBackward(s[0], s[1], n, C) }},
		{"CopyColumns", "chainrule: ops.CopyColumns: a slice is too short", []int{2*9 + C, 2*7 + C},
			func(s [][]float32) { CopyColumns(s[0], s[1], n, C, 9, 7) }},
		{"Embedding", "chainrule: ops.Embedding: a slice is too short", []int{n * C},
			func(s [][]float32) { Embedding(s[0], make([]float32, V*C), tokens, n, C) }},
		{"EmbeddingBackward", "chainrule: ops.EmbeddingBackward: a slice is too short", []int{n * C},
			func(s [][]float32) { EmbeddingBackward(make([]float32, V*C), s[0], tokens, n, C) }},
		{"RMSNorm", "chainrule: ops.RMSNorm: a slice is too short", []int{n * C, n, n * C, C},
			func(s [][]float32) { RMSNorm(s[0], s[1], s[2], s[3], n, C, 1) }},
		{"RMSNormBackward", "chainrule: ops.RMSNormBackward: a slice is too short", []int{n * C, C, n * C, n * C, n, C},
			func(s [][]float32) { RMSNormBackward(s[0], s[1], s[2], s[3], s[4], s[5], n, C) }},
		{"RMSNormHeads", "chainrule: ops.RMSNorm: a slice is too short", []int{2*9 + Q, n * NH, 2*8 + Q, HD},
			func(s [][]float32) { RMSNormHeads(s[0], s[1], s[2], s[3], n, NH, HD, 9, 8, 1) }},
		{"Rope", "chainrule: ops.Rope: a slice is too short", []int{2*9 + Q, T * HD / 2, T * HD / 2},
			func(s [][]float32) { Rope(s[0], s[1], s[2], n, T, NH, HD, 9) }},
		{"RopeTable", "chainrule: ops.RopeTable: a slice is too short", []int{T * 2, T * 2},
			func(s [][]float32) { RopeTable(s[0], s[1], []float64{1, 2}, T) }},
		{"Attention", "chainrule: ops.Attention: a slice is too short", []int{B * T * Q, B * NH * T, B * T * QKV},
			func(s [][]float32) { Attention(s[0], s[1], s[2], B, T, NH, NKV, HD) }},
		{"AttentionCached", "chainrule: ops.AttentionCached: a slice is too short",
			[]int{n * Q, 2*9 + Q, (4 + n) * NKV * HD, (4 + n) * NKV * HD},
			func(s [][]float32) { AttentionCached(s[0], s[1], s[2], s[3], n, 4, NH, NKV, HD, 9) }},
		{"AttentionBackward", "chainrule: ops.AttentionBackward: a slice is too short",
			[]int{B * T * QKV, B * T * Q, B * NH * T, B * T * QKV},
			func(s [][]float32) { AttentionBackward(s[0], s[1], s[2], s[3], B, T, NH, NKV, HD) }},
		{"SwiGLU", "chainrule: ops.SwiGLU: a slice is too short", []int{n * C, 2 * n * C},
			func(s [][]float32) { SwiGLU(s[0], s[1], n, C) }},
		{"SwiGLUBackward", "chainrule: ops.SwiGLUBackward: a slice is too short", []int{2 * n * C, n * C, 2 * n * C},
			func(s [][]float32) { SwiGLUBackward(s[0], s[1], s[2], n, C) }},
		{"CrossEntropy", "chainrule: ops.CrossEntropy: a slice is too short", []int{n, n * V},
			func(s [][]float32) { CrossEntropy(s[0], lse, s[1], tokens, n, V) }},
		{"CrossEntropyBackward", "chainrule: ops.CrossEntropyBackward: a slice is too short", []int{n * V, n * V},
			func(s [][]float32) { CrossEntropyBackward(s[0], lse, s[1], tokens, n, V, 1) }},
	} {
		t.Run(c.op, func(t *testing.T) {
			build := func(short int) [][]float32 {
				s := make([][]float32, len(c.sizes))
				for i, size := range c.sizes {
					if i == short {
						size--
					}
					s[i] = make([]float32, size, c.sizes[i]+1) // capacity does not count
				}
				return s
			}
			require.NotPanics(t, func() { c.f(build(-1)) })
			for i := range c.sizes {
				panicsWith(t, c.message, func() { c.f(build(i)) }, "slice %d", i)
			}
		})
	}
	panicsWith(t, "chainrule: ops.Embedding: a slice is too short", func() {
		Embedding(make([]float32, n*C), make([]float32, V*C), tokens[:n-1], n, C)
	}, "tokens")
	panicsWith(t, "chainrule: ops.CrossEntropy: a slice is too short", func() {
		CrossEntropy(make([]float32, n), lse[:n-1], make([]float32, n*V), tokens, n, V)
	}, "lse")
	panicsWith(t, "chainrule: ops.CrossEntropy: a slice is too short", func() {
		CrossEntropy(make([]float32, n), lse, make([]float32, n*V), tokens[:n-1], n, V)
	}, "targets")
	panicsWith(t, "chainrule: ops.Rope: a slice is too short", func() {
		Rope(make([]float32, n*C), nil, nil, n, 0, 1, C, C)
	}, "no positions")
	panicsWith(t, "chainrule: ops.Attention: NH is not a multiple of NKV", func() {
		Attention(make([]float32, 99), make([]float32, 99), make([]float32, 99), 1, 1, 3, 2, 2)
	}, "heads")
}
