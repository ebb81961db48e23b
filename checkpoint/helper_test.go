package checkpoint

import (
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
)

// tiny is a small shape with more query than key heads, all of its sizes
// different.
func tiny() chainrule.Config {
	return chainrule.Config{
		Dim: 12, HiddenDim: 10, NLayers: 2, NHeads: 2, NKVHeads: 1, HeadDim: 6, VocabSize: 11, SeqLen: 9,
		RopeTheta: 10000, NormEps: 1e-5,
	}
}

func with(c chainrule.Config, edit func(*chainrule.Config)) chainrule.Config {
	edit(&c)
	return c
}

var shapes = map[string]chainrule.Config{
	"llama":       tiny(),
	"tied":        with(tiny(), func(c *chainrule.Config) { c.Tied = true }),
	"qwen2":       with(tiny(), func(c *chainrule.Config) { c.QKVBias = true }),
	"qwen3":       with(tiny(), func(c *chainrule.Config) { c.QKNorm, c.Tied = true, true }),
	"wide heads":  with(tiny(), func(c *chainrule.Config) { c.HeadDim = 10 }),
	"other theta": with(tiny(), func(c *chainrule.Config) { c.RopeTheta, c.NormEps = 500000.25, 3e-7 }),
	"linear": with(tiny(), func(c *chainrule.Config) {
		c.RopeScaling = chainrule.RopeScaling{Type: "linear", Factor: 2.5}
	}),
	"llama3": with(tiny(), func(c *chainrule.Config) {
		c.RopeScaling = chainrule.RopeScaling{
			Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalSeqLen: 8192,
		}
	}),
}

// fill gives every element bits of its own; norms and biases too, and some
// that are not numbers.
func fill(data []float32, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range data {
		data[i] = float32(r.NormFloat64())
	}
	data[len(data)/2] = math.Float32frombits(0x7fc12345) // a NaN with a payload
	data[len(data)/3] = float32(math.Inf(-1))
	data[len(data)/4] = float32(math.Copysign(0, -1))
}

func newModel(t testing.TB, c chainrule.Config, seed uint64) *chainrule.Model {
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	fill(m.Data, seed)
	m.Touch()
	return m
}

func newState(t testing.TB, c chainrule.Config, step int) *State {
	a, err := chainrule.NewAdamState(c)
	require.NoError(t, err)
	fill(a.M, uint64(step)+1000)
	fill(a.V, uint64(step)+2000)
	a.Step = step + 3
	return &State{
		Model: newModel(t, c, uint64(step)), Optimizer: a, Step: step, Seed: math.MaxUint64 - uint64(step),
		Position: int64(step) * 1000, Hyper: []byte(`{"lr": 1e-3,  "name":"<a&b>\u00e9"}`),
	}
}

func bitsOf(data []float32) []uint32 {
	b := make([]uint32, len(data))
	for i, v := range data {
		b[i] = math.Float32bits(v)
	}
	return b
}

func requireSameModel(t testing.TB, want, got *chainrule.Model) {
	t.Helper()
	require.Equal(t, want.Config, got.Config)
	require.Equal(t, bitsOf(want.Data), bitsOf(got.Data))
}

func requireSameState(t testing.TB, want, got *State) {
	t.Helper()
	requireSameModel(t, want.Model, got.Model)
	require.Equal(t, bitsOf(want.Optimizer.M), bitsOf(got.Optimizer.M))
	require.Equal(t, bitsOf(want.Optimizer.V), bitsOf(got.Optimizer.V))
	require.Equal(t, want.Optimizer.Step, got.Optimizer.Step)
	require.Equal(t, []any{want.Step, want.Seed, want.Position, want.Hyper},
		[]any{got.Step, got.Seed, got.Position, got.Hyper})
}

// tree returns the content of every file below dir.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			files[filepath.ToSlash(name)] = string(b)
		}
		return err
	}))
	return files
}

func write(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// names lists a directory.
func names(t testing.TB, dir string) (n []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		n = append(n, e.Name())
	}
	return n
}

func setHook(t testing.TB, f func(op, path string) error) {
	hook = f
	t.Cleanup(func() { hook = nil })
}

var oldTime = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// replace puts another file with the content and time of the old one at path.
func replace(t *testing.T, path, content string) {
	info, err := os.Stat(path)
	require.NoError(t, err)
	write(t, path+"2", content)
	require.NoError(t, os.Chtimes(path+"2", info.ModTime(), info.ModTime()))
	require.NoError(t, os.Rename(path+"2", path))
}
