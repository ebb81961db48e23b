package checkpoint_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/checkpoint"
)

// How far float32 may be from what transformers computes, in float64 where it
// lets itself: see testdata/check_transformers.py, which has the same bounds.
const (
	logitsBound   = 5e-5 // of the largest difference, relative to the root mean square
	lossBound     = 1e-6 // relative
	gradientBound = 5e-5 // of each tensor: of the difference's norm, relative to the norm
)

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
		check := []string{"check"}
		for name, c := range transformersConfigs() {
			dir := filepath.Join(root, name)
			m, err := chainrule.NewModel(c)
			require.NoError(t, err)
			randomWeights(m, 7)
			save(t, dir, m, checkpoint.SaveOptions{})
			writeReference(t, dir, m, randomBatch(c))
			check = append(check, dir)
		}
		checkTransformers(t, check...)
	})

	t.Run("on models that it wrote", func(t *testing.T) {
		root := t.TempDir()
		checkTransformers(t, "make", root)
		dirs, err := filepath.Glob(filepath.Join(root, "*"))
		require.NoError(t, err)
		require.NotEmpty(t, dirs)
		same := []string{"same"}
		for _, dir := range dirs {
			t.Run(filepath.Base(dir), func(t *testing.T) {
				m := requireReference(t, dir)
				for suffix, o := range rewritings(t, dir) {
					save(t, dir+suffix, m, o)
					same = append(same, dir, dir+suffix)
				}
			})
		}
		checkTransformers(t, same...)
	})

	t.Run("on models that newer ones wrote", func(t *testing.T) {
		checkTransformers(t, "check", filepath.Join("testdata", "transformers4", "small_qwen3"))
	})

	t.Run("on SmolLM2", testTransformersOnSmolLM2)

	t.Run("on CHAINRULE_CHECKPOINT", func(t *testing.T) {
		from := os.Getenv("CHAINRULE_CHECKPOINT")
		if from == "" {
			t.Skip("CHAINRULE_CHECKPOINT names no model directory")
		}
		m := load(t, from)
		// The files themselves, not as we would write them again, beside the reference.
		dir := filepath.Join(t.TempDir(), "checkpoint")
		require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
		writeReference(t, dir, m, randomBatch(m.Config))
		checkTransformers(t, "check", dir)
	})
}

// The directory that SaveDir makes of a real GGUF file is to transformers the
// model that it was before it became one.
func testTransformersOnSmolLM2(t *testing.T) {
	b, _ := smolLM2(t)
	dir := filepath.Join(t.TempDir(), "smollm2")
	require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{}))

	question := struct {
		Texts         []string         `json:"texts"`
		Conversations [][]chat.Message `json:"conversations"`
	}{Texts: append([]string{
		"", " ", "Hello, world!  Two  spaces.\r\n\r\n\ttab", "don't we'll THEY'RE 'tis", "3.14159265 1234567890 0x7f",
		"<|im_start|><|im_end|><|endoftext|> <|im_start|> x<repo_name>y<fim_prefix>", "naïve café — “quotes” … ﬁne",
		"你好，世界。こんにちは 안녕하세요 العربية हिन्दी ไทย", "👩‍👩‍👧‍👦🇩🇪🏳️‍🌈 e\u0301\u0323 \u00a0\u200b\ufeff", "{\n    \"a\": [1, 2],\n}\n\n\n",
		"a , b . c ! d ? do n't 's", strings.Repeat("ab ", 200) + strings.Repeat("\n", 30),
	}, prompts...), Conversations: [][]chat.Message{
		{{Role: "user", Content: "Hi!"}},
		{{Role: "system", Content: "Be brief."}, {Role: "user", Content: " What is 2+2? \n"}, {Role: "assistant", Content: "4"},
			{Role: "user", Content: "Sure?\n\n<|im_end|>"}},
		{{Role: "assistant", Content: ""}, {Role: "tool", Content: "{\"x\": \"é\"}"}},
	}}
	var answer struct {
		Tokens         [][]int32    `json:"tokens"`
		Decoded        []string     `json:"decoded"`
		Rendered       [][2]string  `json:"rendered"`
		RenderedTokens [][2][]int32 `json:"rendered_tokens"`
	}
	askTransformers(t, question, &answer, "tokens", dir)
	prefix, suffix := b.Tokenizer.Template()
	for i, text := range question.Texts {
		tokens := slices.Concat(prefix, b.Tokenizer.EncodeMarkup(text), suffix)
		require.Equal(t, answer.Tokens[i], append([]int32{}, tokens...), "%q", text)
		require.Equal(t, answer.Decoded[i], b.Tokenizer.Decode(tokens), "%q", text)
	}
	template, err := chat.Parse(b.ChatTemplate, chat.Options{BOS: b.Special.BOS.Text, EOS: b.Special.EOS.Text, Tokenizer: b.Tokenizer})
	require.NoError(t, err)
	for i, messages := range question.Conversations {
		for j, prompt := range []bool{false, true} {
			text, err := template.Render(messages, prompt)
			require.NoError(t, err)
			require.Equal(t, answer.Rendered[i][j], text)
			require.Equal(t, answer.RenderedTokens[i][j], b.Tokenizer.EncodeMarkup(text))
		}
	}

	writeReference(t, dir, b.Model, randomBatch(b.Model.Config))
	checkTransformers(t, "check", dir)
}

// The files of testdata/transformers4 and 5 are what
//
//	check_transformers.py make DIR small_qwen3 small_llama3_sharded small_smollm3
//
// wrote with torch 2.15 and transformers 4.57.6 and 5.24.0, which have another
// config.json, the real Qwen3 and SmolLM3.
func TestModelsOfNewerTransformersAreComputedAsThere(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join("testdata", "transformers?", "*"))
	require.NoError(t, err)
	require.Len(t, dirs, 5)
	for _, dir := range dirs {
		t.Run(filepath.ToSlash(dir), func(t *testing.T) { requireReference(t, dir) })
	}
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

// rewritings are ways in which a model of transformers is written again: each
// keeps every bit of it.
func rewritings(t *testing.T, dir string) map[string]checkpoint.SaveOptions {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	var config struct {
		Old string `json:"torch_dtype"`
		New string `json:"dtype"` // since transformers 4.56
	}
	require.NoError(t, json.Unmarshal(text, &config))
	its, ok := map[string]string{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[config.Old+config.New]
	require.True(t, ok, "dtype in %s", text)
	o := map[string]checkpoint.SaveOptions{"_again": {}}
	if sharded, _ := filepath.Glob(filepath.Join(dir, "*.index.json")); its != "F32" || sharded != nil {
		o["_sharded"] = checkpoint.SaveOptions{DType: its, ShardSize: 9_000}
	}
	return o
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

// reference is the reference.json of testdata/check_transformers.py: a batch
// [B,T] and its loss.
type reference struct {
	Tokens  [][]int32 `json:"tokens"`
	Targets [][]int32 `json:"targets"` // negative: ignored
	Loss    float64   `json:"loss"`
}

func randomBatch(c chainrule.Config) reference {
	r := rand.New(rand.NewPCG(3, 0))
	var f reference
	for _, rows := range []*[][]int32{&f.Tokens, &f.Targets} {
		for range 2 {
			row := make([]int32, min(33, c.SeqLen))
			for i := range row {
				row[i] = int32(r.IntN(c.VocabSize))
			}
			*rows = append(*rows, row)
		}
	}
	for i := 0; i < len(f.Targets[1]); i += 3 {
		f.Targets[1][i] = -100
	}
	return f
}

// compute returns what the library computes of the batch: the loss is in f.
func (f *reference) compute(t *testing.T, m *chainrule.Model) (logits []float32, gradient *chainrule.Params) {
	t.Helper()
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	var tokens, targets []int32
	for i := range f.Tokens {
		tokens, targets = append(tokens, f.Tokens[i]...), append(targets, f.Targets[i]...)
	}
	ws, err := chainrule.NewWorkspace(m.Config, len(f.Tokens), len(f.Tokens[0]), be)
	require.NoError(t, err)
	f.Loss, err = chainrule.Forward(m, ws, tokens, targets)
	require.NoError(t, err)
	logits = append(logits, ws.Logits()...)
	gradient, err = chainrule.NewParams(m.Config)
	require.NoError(t, err)
	require.NoError(t, chainrule.Backward(m, ws, gradient))
	return logits, gradient
}

// writeReference computes f and puts it beside the model in dir.
func writeReference(t *testing.T, dir string, m *chainrule.Model, f reference) {
	t.Helper()
	logits, gradient := f.compute(t, m)
	text, err := json.Marshal(f)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "reference.json"), text, 0o666))
	raw, err := binary.Append(nil, binary.LittleEndian, logits)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "logits.f32"), raw, 0o666))
	g, err := chainrule.NewModelOf(m.Config, gradient)
	require.NoError(t, err)
	save(t, filepath.Join(dir, "gradient"), g, checkpoint.SaveOptions{})
}

// requireReference loads the model in dir and compares it with the reference
// there.
func requireReference(t *testing.T, dir string) *chainrule.Model {
	t.Helper()
	m := load(t, dir)
	text, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	require.NoError(t, err)
	var want reference
	require.NoError(t, json.Unmarshal(text, &want))
	raw, err := os.ReadFile(filepath.Join(dir, "logits.f32"))
	require.NoError(t, err)
	wantLogits := make([]float32, len(raw)/4)
	_, err = binary.Decode(raw, binary.LittleEndian, wantLogits)
	require.NoError(t, err)
	wantGradient := load(t, filepath.Join(dir, "gradient"))

	got := want
	logits, gradient := got.compute(t, m)
	require.Len(t, logits, len(wantLogits))
	worst, sum := 0.0, 0.0
	for i, x := range wantLogits {
		sum += float64(x) * float64(x)
		if d := math.Abs(float64(logits[i]) - float64(x)); !(d <= worst) { // NaN is worst
			worst = d
		}
	}
	worst /= math.Sqrt(sum / float64(len(wantLogits)))
	ofLoss := math.Abs(got.Loss/want.Loss - 1)
	ofGradient, name := 0.0, ""
	tensors := map[string][]float32{}
	for g := range gradient.Tensors() {
		tensors[g.Name] = g.Data
	}
	for w := range wantGradient.Tensors() {
		d2, w2 := 0.0, 0.0
		for i, x := range w.Data {
			d := float64(tensors[w.Name][i]) - float64(x)
			d2, w2 = d2+d*d, w2+float64(x)*float64(x)
		}
		if r := math.Sqrt(d2 / w2); !(r <= ofGradient) {
			ofGradient, name = r, w.Name
		}
	}
	t.Logf("logits within %.2g, loss %.4f within %.2g, gradients within %.2g (%s)", worst, got.Loss, ofLoss, ofGradient, name)
	require.True(t, worst <= logitsBound, "logits")
	require.True(t, ofLoss <= lossBound, "loss")
	require.True(t, ofGradient <= gradientBound, "gradient of %s", name)
	return m
}

func load(t *testing.T, dir string) *chainrule.Model {
	t.Helper()
	b, err := checkpoint.Open(dir, checkpoint.OpenOptions{NoTokenizer: true})
	require.NoError(t, err)
	return b.Model
}

func save(t *testing.T, dir string, m *chainrule.Model, o checkpoint.SaveOptions) {
	t.Helper()
	require.NoError(t, checkpoint.SaveDir(dir, &checkpoint.Bundle{Model: m}, o))
}

func checkTransformers(t *testing.T, args ...string) {
	t.Helper()
	askTransformers(t, nil, nil, args...)
}

// askTransformers runs testdata/check_transformers.py, with a question on its
// input if there is one, and an answer on its output.
func askTransformers(t *testing.T, question, answer any, args ...string) {
	t.Helper()
	script := filepath.Join("..", "testdata", "check_transformers.py")
	askPython(t, question, answer, append([]string{script}, args...)...)
}

// askPython runs a script. What it prints, but an answer, is logged.
func askPython(t *testing.T, question, answer any, args ...string) {
	t.Helper()
	command := exec.Command(os.Getenv("CHAINRULE_PYTHON"), args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if question != nil {
		text, err := json.Marshal(question)
		require.NoError(t, err)
		command.Stdin = bytes.NewReader(text)
	}
	err := command.Run()
	if answer == nil {
		t.Logf("%s%s", &stderr, &stdout)
		require.NoError(t, err)
		return
	}
	require.NoError(t, err, stderr.String())
	require.NoError(t, json.Unmarshal(stdout.Bytes(), answer), stderr.String())
}
