package checkpoint_test

import (
	"go/build"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
)

// llamaQuestion and llamaAnswer are the input and output of
// testdata/check_llamacpp.py.
type llamaQuestion struct {
	Plain    []string  `json:"plain"`
	Texts    []string  `json:"texts"`
	Generate int       `json:"generate"`
	Windows  [][]int32 `json:"windows"`
}

type llamaAnswer struct {
	Library      string      `json:"library"`
	System       string      `json:"system"`
	Plain        [][]int32   `json:"plain"`
	Tokens       [][]int32   `json:"tokens"`
	Greedy       [][]int32   `json:"greedy"`
	Losses       [][]float64 `json:"losses"`
	ChatTemplate string      `json:"chat_template"`
	BOS          int32       `json:"bos"`
	EOS          int32       `json:"eos"`
}

// TestLlamaCppAgrees needs the shared libraries of llama.cpp, whose directory
// CHAINRULE_LLAMACPP names, and a Python with numpy, CHAINRULE_PYTHON. Without
// it skips, or fails if CHAINRULE_REQUIRE_PYTHON is 1. CHAINRULE_SMOLLM2
// names the directory of the real model: see testdata/fetch-smollm2. With
// CHAINRULE_LLAMACPP_FULL=1 it takes minutes.
func TestLlamaCppAgrees(t *testing.T) {
	if os.Getenv("CHAINRULE_PYTHON") == "" || os.Getenv("CHAINRULE_LLAMACPP") == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but not both CHAINRULE_PYTHON and CHAINRULE_LLAMACPP are set")
		}
		t.Skip("CHAINRULE_LLAMACPP names no libraries of llama.cpp; .ci/run llamacpp fetches them")
	}

	t.Run("on every architecture", func(t *testing.T) {
		configs := transformersConfigs()
		for _, name := range slices.Sorted(maps.Keys(configs)) {
			m, err := chainrule.NewModel(configs[name])
			require.NoError(t, err)
			randomWeights(m, 7)
			for _, dtype := range slices.Sorted(maps.Keys(llamaBounds)) {
				t.Run(name+" "+dtype, func(t *testing.T) { requireLlamaLosses(t, m, dtype) })
			}
		}
	})
	t.Run("on SmolLM2", testLlamaCppOnSmolLM2)
}

// llamaBounds are those of the largest difference of a loss, in nats:
// llama.cpp rounds x to the type of the matrix.
var llamaBounds = map[string]float64{"F32": 2e-5, "F16": 0.02, "BF16": 0.2, "Q8_0": 0.5}

// requireLlamaLosses writes a GGUF file and compares what llama.cpp and we
// compute of it: the losses of random tokens.
func requireLlamaLosses(t *testing.T, m *chainrule.Model, dtype string) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	require.NoError(t, checkpoint.SaveGGUF(path, &checkpoint.Bundle{Model: m}, checkpoint.SaveOptions{DType: dtype}))
	window := randomBatch(m.Config).Tokens[0]
	got := askLlama(t, path, llamaQuestion{Plain: []string{}, Texts: []string{}, Windows: [][]int32{window}})
	worst := 0.0
	for i, loss := range lossesOf(t, load(t, path), window) {
		worst = max(worst, math.Abs(float64(loss)-got.Losses[0][i])) // NaN if one is
	}
	t.Logf("losses within %.2g", worst)
	require.True(t, worst <= llamaBounds[dtype])
}

// prompts are those of the greedy continuations; the first are the most varied.
var prompts = []string{
	"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" +
		"<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
	"Once upon a time, in a village at the foot of a mountain,",
	"package main\n\nimport \"fmt\"\n\nfunc main() {\n\t",
	"The capital of France is",
	"Water boils at",
	"To make bread, you need",
	"def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
	"1, 2, 3, 4, 5,",
	"Dear Sir or Madam,\n\n",
	"The three laws of thermodynamics are:\n1.",
	"<|im_start|>user\nWrite a haiku about autumn.<|im_end|>\n<|im_start|>assistant\n",
	"<|im_start|>user\nTranslate \"good morning\" into German, French and Spanish.<|im_end|>\n<|im_start|>assistant\n",
	"Photosynthesis is the process by which",
	"SELECT name, COUNT(*) FROM",
	"| Year | Population |\n|------|------------|\n| 1900 |",
	"Die Hauptstadt von Deutschland ist",
	"In 1905, Albert Einstein",
	"Q: What is the largest planet in the Solar System?\nA:",
	"   \n\n\tİstanbul, 東京, Αθήνα and 🙂:",
	"The",
}

func testLlamaCppOnSmolLM2(t *testing.T) {
	n, steps, size := 3, 16, 4_000
	if os.Getenv("CHAINRULE_LLAMACPP_FULL") == "1" {
		n, steps, size = len(prompts), 64, 100_000
	}
	b, path := smolLM2(t)
	file := filepath.Join(t.TempDir(), "smollm2.f32.gguf")
	require.NoError(t, checkpoint.SaveGGUF(file, b, checkpoint.SaveOptions{}))
	again, err := checkpoint.Open(file, checkpoint.OpenOptions{})
	require.NoError(t, err)
	require.Equal(t, b.Model.Config, again.Model.Config)
	require.True(t, slices.Equal(b.Model.Data, again.Model.Data), "%s is not the same model as %s", file, path)

	q := llamaQuestion{Texts: prompts[:n], Generate: steps}
	var plain [][]int32
	for _, path := range []string{"src/testdata/Isaac.Newton-Opticks.txt", "src/net/http/server.go"} {
		text, err := os.ReadFile(filepath.Join(build.Default.GOROOT, path))
		require.NoError(t, err)
		q.Plain = append(q.Plain, string(text[:size]))
		plain = append(plain, b.Tokenizer.EncodePlain(string(text[:size])))
	}
	q.Windows = slices.Collect(slices.Chunk(plain[0], 512))
	got := askLlama(t, file, q)
	require.True(t, slices.EqualFunc(plain, got.Plain, slices.Equal[[]int32]), "the ids of the texts are others in llama.cpp")
	t.Logf("%s, %s", got.Library, got.System)
	require.Equal(t, b.ChatTemplate, got.ChatTemplate)
	require.Equal(t, []int32{b.Special.BOS.ID, b.Special.EOS.ID}, []int32{got.BOS, got.EOS})

	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	s, err := chainrule.NewSession(b.Model, be, chainrule.SessionOptions{MaxLen: 256})
	require.NoError(t, err)
	equal := 0
	for i, prompt := range q.Texts {
		tokens := b.Tokenizer.EncodeMarkup(prompt)
		require.Equal(t, tokens, got.Tokens[i], "%q", prompt)
		s.Truncate(0, 0)
		for j, want := range got.Greedy[i] {
			logits, err := s.Append(0, tokens)
			require.NoError(t, err)
			top, gap := topTwo(logits)
			if top != want {
				require.Less(t, gap, 1e-3, "%q: token %d is %d here, %d in llama.cpp", prompt, j, top, want)
				t.Logf("%q: from token %d on another, where our first two logits are %.2g apart", prompt, j, gap)
				break
			}
			equal++
			tokens = []int32{top}
		}
	}
	t.Logf("greedy: %d prompts of %d tokens; equal up to the first difference: %d", n, steps, equal)

	var ours, theirs, worst float64
	count := 0
	for i, window := range q.Windows {
		for j, loss := range lossesOf(t, b.Model, window) {
			ours, theirs = ours+float64(loss), theirs+got.Losses[i][j]
			worst = max(worst, math.Abs(float64(loss)-got.Losses[i][j]))
			count++
		}
	}
	ours, theirs = math.Exp(ours/float64(count)), math.Exp(theirs/float64(count))
	t.Logf("perplexity of %d tokens, %d bytes: %.6f, llama.cpp %.6f; losses of tokens within %.2g", count, size, ours, theirs, worst)
	require.InEpsilon(t, theirs, ours, 1e-5)
	require.True(t, worst <= 1e-3)
}

// smolLM2 returns the real model, SmolLM2-135M-Instruct as Q4_1.
func smolLM2(t *testing.T) (b *checkpoint.Bundle, path string) {
	t.Helper()
	dir := os.Getenv("CHAINRULE_SMOLLM2")
	if dir == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_SMOLLM2 names no directory")
		}
		t.Skip("CHAINRULE_SMOLLM2 names no directory; testdata/fetch-smollm2 makes one")
	}
	path = filepath.Join(dir, "SmolLM2-135M-Instruct.Q4_1.gguf")
	b, err := checkpoint.Open(path, checkpoint.OpenOptions{})
	require.NoError(t, err)
	return b, path
}

// topTwo returns the largest of x and how far the next is below it.
func topTwo(x []float32) (top int32, gap float64) {
	second := math.Inf(-1)
	for i, v := range x {
		switch {
		case i == 0 || v > x[top]:
			if i > 0 {
				second = float64(x[top])
			}
			top = int32(i)
		case float64(v) > second:
			second = float64(v)
		}
	}
	return top, float64(x[top]) - second
}

// lossesOf returns the loss of each token of a window but the first.
func lossesOf(t *testing.T, m *chainrule.Model, window []int32) []float32 {
	t.Helper()
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	ws, err := chainrule.NewWorkspace(m.Config, 1, len(window)-1, be)
	require.NoError(t, err)
	_, err = chainrule.Forward(m, ws, window[:len(window)-1], window[1:])
	require.NoError(t, err)
	return ws.Losses()
}

func askLlama(t *testing.T, path string, q llamaQuestion) (a llamaAnswer) {
	t.Helper()
	askPython(t, q, &a, filepath.Join("..", "testdata", "check_llamacpp.py"), os.Getenv("CHAINRULE_LLAMACPP"), path)
	require.Len(t, a.Losses, len(q.Windows))
	for i, w := range q.Windows {
		require.Len(t, a.Losses[i], len(w)-1)
	}
	require.Len(t, a.Greedy, len(q.Texts))
	return a
}
