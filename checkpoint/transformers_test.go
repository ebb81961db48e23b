package checkpoint_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
)

// transformersTolerance bounds the difference of two float32 logits.
const transformersTolerance = 1e-4

// logitsFile is what testdata/check_transformers.py reads and writes beside a
// model: tokens [B,T] and their logits [B,T,V].
type logitsFile struct {
	Tokens [][]int32 `json:"tokens"`
	Logits []float32 `json:"logits"`
}

// TestTransformersAgrees needs a Python with transformers, named by
// CHAINRULE_PYTHON. Without one it skips, or fails if
// CHAINRULE_REQUIRE_PYTHON is 1. CHAINRULE_CHECKPOINT may name a further model
// directory to compare.
func TestTransformersAgrees(t *testing.T) {
	if os.Getenv("CHAINRULE_PYTHON") == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		}
		t.Skip("CHAINRULE_PYTHON names no Python with transformers; .ci/run transformers makes one")
	}

	t.Run("on models that we wrote", func(t *testing.T) {
		root := t.TempDir()
		var dirs []string
		for name, c := range transformersConfigs() {
			dir := filepath.Join(root, name)
			m, err := chainrule.NewModel(c)
			require.NoError(t, err)
			randomWeights(m, 7)
			require.NoError(t, checkpoint.SaveDir(dir, &checkpoint.Bundle{Model: m}, checkpoint.SaveOptions{}))
			writeLogits(t, dir, m)
			dirs = append(dirs, dir)
		}
		checkTransformers(t, append([]string{"check"}, dirs...)...)
	})

	t.Run("on models that it wrote", func(t *testing.T) {
		root := t.TempDir()
		checkTransformers(t, "make", root)
		dirs, err := filepath.Glob(filepath.Join(root, "*"))
		require.NoError(t, err)
		require.NotEmpty(t, dirs)
		check, same := []string{"check"}, []string{"same"}
		for _, dir := range dirs {
			m, err := checkpoint.LoadDir(dir)
			require.NoError(t, err)
			b, err := os.ReadFile(filepath.Join(dir, "logits.json"))
			require.NoError(t, err)
			var want logitsFile
			require.NoError(t, json.Unmarshal(b, &want))
			got := logitsOf(t, m, want.Tokens)
			require.Len(t, got, len(want.Logits))
			for i := range got {
				if d := math.Abs(float64(got[i] - want.Logits[i])); !(d <= transformersTolerance) {
					t.Fatalf("%s: logit %d is %v, transformers has %v", dir, i, got[i], want.Logits[i])
				}
			}

			again := dir + "_again"
			require.NoError(t, checkpoint.SaveDir(again, &checkpoint.Bundle{Model: m}, checkpoint.SaveOptions{}))
			require.NoError(t, os.WriteFile(filepath.Join(again, "logits.json"), b, 0o666))
			check, same = append(check, again), append(same, dir, again)
		}
		checkTransformers(t, check...)
		checkTransformers(t, same...)
	})

	t.Run("on CHAINRULE_CHECKPOINT", func(t *testing.T) {
		from := os.Getenv("CHAINRULE_CHECKPOINT")
		if from == "" {
			t.Skip("CHAINRULE_CHECKPOINT names no model directory")
		}
		m, err := checkpoint.LoadDir(from)
		require.NoError(t, err)
		// The files themselves, not as we would write them again, beside the logits.
		dir := filepath.Join(t.TempDir(), "checkpoint")
		require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
		writeLogits(t, dir, m)
		checkTransformers(t, "check", dir)
	})
}

func transformersConfigs() map[string]chainrule.Config {
	configs := map[string]chainrule.Config{}
	add := func(name string, change func(c *chainrule.Config)) {
		c := chainrule.Config{Dim: 32, HiddenDim: 40, NLayers: 3, NHeads: 4, NKVHeads: 4, HeadDim: 8,
			VocabSize: 61, SeqLen: 64, RopeTheta: 10000, NormEps: 1e-5}
		change(&c)
		configs[name] = c
	}
	add("mha_untied", func(c *chainrule.Config) {})
	add("gqa_tied", func(c *chainrule.Config) { c.NKVHeads, c.Tied, c.RopeTheta = 2, true, 500 })
	add("mqa_head_dim", func(c *chainrule.Config) { c.NKVHeads, c.HeadDim, c.NormEps = 1, 12, 1e-6 })
	add("llama3_rope", func(c *chainrule.Config) {
		c.NKVHeads, c.RopeScaling = 2, chainrule.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1,
			HighFreqFactor: 4, OriginalSeqLen: 16}
	})
	add("linear_rope", func(c *chainrule.Config) {
		c.RopeScaling = chainrule.RopeScaling{Type: "linear", Factor: 2.5}
	})
	add("qkv_bias", func(c *chainrule.Config) { c.NKVHeads, c.QKVBias = 2, true })
	add("qkv_bias_tied", func(c *chainrule.Config) { c.QKVBias, c.Tied = true, true })
	add("qk_norm", func(c *chainrule.Config) { c.NKVHeads, c.HeadDim, c.QKNorm = 2, 12, true })
	return configs
}

// randomWeights makes every tensor matter: Init's norms and biases do not, and
// its logits are tiny.
func randomWeights(m *chainrule.Model, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	for tensor := range m.Tensors() {
		mean := 0.0
		if strings.Contains(tensor.Name, "rms") || strings.Contains(tensor.Name, "norm") {
			mean = 1
		}
		for i := range tensor.Data {
			tensor.Data[i] = float32(mean + 0.2*r.NormFloat64())
		}
	}
	m.Touch()
}

// writeLogits writes a logits.json of random tokens.
func writeLogits(t *testing.T, dir string, m *chainrule.Model) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 0))
	f := logitsFile{Tokens: make([][]int32, 2)}
	for i := range f.Tokens {
		f.Tokens[i] = make([]int32, min(33, m.SeqLen))
		for j := range f.Tokens[i] {
			f.Tokens[i][j] = int32(r.IntN(m.VocabSize))
		}
	}
	f.Logits = logitsOf(t, m, f.Tokens)
	b, err := json.Marshal(f)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "logits.json"), b, 0o666))
}

func logitsOf(t *testing.T, m *chainrule.Model, tokens [][]int32) []float32 {
	t.Helper()
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	ws, err := chainrule.NewWorkspace(m.Config, len(tokens), len(tokens[0]), be)
	require.NoError(t, err)
	var flat []int32
	for _, row := range tokens {
		flat = append(flat, row...)
	}
	_, err = chainrule.Forward(m, ws, flat, nil)
	require.NoError(t, err)
	return ws.Logits()
}

func checkTransformers(t *testing.T, args ...string) {
	t.Helper()
	script := filepath.Join("..", "testdata", "check_transformers.py")
	out, err := exec.Command(os.Getenv("CHAINRULE_PYTHON"), append([]string{script}, args...)...).CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
}
