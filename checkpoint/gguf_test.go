package checkpoint

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint/gguf"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// finite is newModel with weights that every type can hold.
func finite(t testing.TB, c chainrule.Config) *chainrule.Model {
	m := newModel(t, c, 5)
	for i, v := range m.Data {
		if !(math.Abs(float64(v)) < 100) {
			m.Data[i] = 1
		}
	}
	return m
}

func TestGGUFRoundTrip(t *testing.T) {
	for name, c := range shapes {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.gguf")
			m := newModel(t, c, 1)
			require.NoError(t, SaveGGUF(path, &Bundle{Model: m}, SaveOptions{}))
			got, err := LoadGGUF(path)
			require.NoError(t, err)
			if c.RopeScaling.Type == "llama3" { // which a file has as what follows from it
				require.InDeltaSlice(t, ropeFactors(c), ropeFactors(got.Config), 1e-4)
				got.RopeScaling = c.RopeScaling
			}
			requireSameModel(t, m, got)

			// Small types: norms and biases stay as they are.
			m = finite(t, c)
			for dtype, tolerance := range map[string]float64{"F16": 2e-3, "BF16": 0.01, "Q8_0": 2e-3} {
				require.NoError(t, SaveGGUF(path, &Bundle{Model: m}, SaveOptions{DType: dtype}))
				got, err := LoadGGUF(path)
				require.NoError(t, err)
				for want, data := range both(c, m.Params) {
					for own, back := range both(c, got.Params) {
						if own.name != want.name {
							continue
						}
						for i := range data {
							if len(want.shape) == 1 {
								require.Equal(t, data[i], back[i], want.name)
							} else {
								require.InDelta(t, data[i], back[i], tolerance*max(1, math.Abs(float64(data[i]))), want.name)
							}
						}
					}
				}
			}
		})
	}
}

// A file that the package gguf wrote, with the rows as llama.cpp's converter
// has them: the weight of row i of a head is its row in transformers.
func TestGGUFRowOrder(t *testing.T) {
	c := with(tiny(), func(c *chainrule.Config) { c.QKNorm = true })
	for _, arch := range []string{ggufLlama, ggufQwen3} {
		c.QKNorm = arch == ggufQwen3
		m, err := chainrule.NewModel(c)
		require.NoError(t, err)
		for r := range c.NHeads * c.HeadDim {
			for j := range c.Dim {
				m.Layers[1].Wq[r*c.Dim+j] = float32(r)
			}
		}
		path := filepath.Join(t.TempDir(), "x.gguf")
		require.NoError(t, SaveGGUF(path, &Bundle{Model: m}, SaveOptions{}))
		f, s := openFile2(t, path)
		q, ok := f.Lookup("blk.1.attn_q.weight")
		require.True(t, ok)
		data := make([]float32, c.NHeads*c.HeadDim*c.Dim)
		require.NoError(t, f.ReadFloat32(data, q))
		s.Close()
		var rows []float32
		for r := range c.HeadDim {
			rows = append(rows, data[r*c.Dim])
		}
		want := map[string][]float32{ggufLlama: {0, 1, 2, 3, 4, 5}, ggufQwen3: {0, 2, 4, 1, 3, 5}}[arch]
		require.Equal(t, want, rows, arch)
	}
}

func openFile2(t testing.TB, path string) (*gguf.File, *os.File) {
	s, err := os.Open(path)
	require.NoError(t, err)
	info, err := s.Stat()
	require.NoError(t, err)
	f, err := gguf.Read(s, info.Size())
	require.NoError(t, err)
	return f, s
}

// All that a bundle has comes back.
func TestGGUFBundle(t *testing.T) {
	bpe := func(pre string) *tokenizer.BPE {
		b, err := tokenizer.Train(slices.Values([]string{"the cat and the hat"}),
			tokenizer.TrainOptions{VocabSize: 265, Pre: pre, Special: []string{"<s>", "</s>", "<|im_end|>", "<pad>"}})
		require.NoError(t, err)
		return b
	}
	spTokens := []string{"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab", "<x>", "▁▁"}
	sp := func(o tokenizer.SentencePieceOptions) *tokenizer.SentencePiece {
		o.Tokens, o.Scores = spTokens, []float32{0, 0, 0, -5, -4, -3, -1, -2, 0, 0}
		o.Types = []tokenizer.TokenType{2, 3, 3, 1, 1, 1, 1, 1, 3, 4}
		s, err := tokenizer.NewSentencePiece(o)
		require.NoError(t, err)
		return s
	}
	begins := bpe("llama-bpe")
	require.NoError(t, begins.SetTemplate([]int32{0}, []int32{1}))
	special := SpecialTokens{BOS: SpecialToken{"<s>", 0}, EOS: SpecialToken{"</s>", 1}, Pad: SpecialToken{"<pad>", 3}}
	spSpecial := SpecialTokens{BOS: SpecialToken{"<s>", 1}, EOS: SpecialToken{"</s>", 2}, Unknown: SpecialToken{"<unk>", 0}}
	for name, b := range map[string]*Bundle{
		"gpt-2":  {Tokenizer: bpe("gpt-2"), Special: special, Generation: Generation{BOS: []int32{0}, EOS: []int32{1, 2}, Pad: []int32{3}}},
		"qwen2":  {Tokenizer: bpe("qwen2"), ChatTemplate: "{{ messages }}\n", Generation: Generation{EOS: []int32{2}}, Special: SpecialTokens{EOS: SpecialToken{"<|im_end|>", 2}}},
		"begins": {Tokenizer: begins, Special: special, Generation: Generation{BOS: []int32{0}, EOS: []int32{1, 200, 201, 2}, Pad: []int32{3}}},
		"smollm": {Tokenizer: bpe("smollm"), Special: special, Generation: Generation{
			BOS: []int32{0}, EOS: []int32{1, 2}, Pad: []int32{3},
			DoSample: true, Temperature: 0.6, TopK: 40, TopP: 0.95, MinP: 0.05, RepetitionPenalty: 1.1,
		}},
		"bytes": {Tokenizer: tokenizer.Byte{}},
		"sentencepiece": {Tokenizer: sp(tokenizer.SentencePieceOptions{Prefix: []int32{1}}), Special: spSpecial,
			Generation: Generation{BOS: []int32{1}, EOS: []int32{2}}},
		"sentencepiece, no space": {Tokenizer: sp(tokenizer.SentencePieceOptions{NoSpacePrefix: true}), Special: spSpecial,
			Generation: Generation{BOS: []int32{1}, EOS: []int32{2}, DoSample: true, TopK: -1}},
		"unigram": {Tokenizer: sp(tokenizer.SentencePieceOptions{Unigram: true, TrimSpaces: true, Suffix: []int32{2}}), Special: spSpecial,
			Generation: Generation{BOS: []int32{1}, EOS: []int32{2}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := with(tiny(), func(c *chainrule.Config) { c.VocabSize = b.Tokenizer.VocabSize() + 3 })
			if name == "bytes" {
				c.VocabSize -= 3
			}
			b.Model, b.Path = finite(t, c), "somewhere/a-model"
			path := filepath.Join(t.TempDir(), "x.gguf")
			require.NoError(t, SaveGGUF(path, b, SaveOptions{DType: "Q8_0"}))
			got, err := Open(path, OpenOptions{})
			require.NoError(t, err)
			require.Equal(t, b.ChatTemplate, got.ChatTemplate)
			require.Equal(t, b.Special, got.Special)
			require.Equal(t, b.Generation, got.Generation)
			require.Equal(t, FormatGGUF, got.Format)
			require.Empty(t, got.Notes)
			require.Equal(t, c.VocabSize, got.Tokenizer.VocabSize())
			prefix, suffix := b.Tokenizer.Template()
			gotPrefix, gotSuffix := got.Tokenizer.Template()
			require.Equal(t, [][]int32{prefix, suffix}, [][]int32{gotPrefix, gotSuffix})
			rapid.Check(t, func(t *rapid.T) {
				text := rapid.StringOf(rapid.SampledFrom([]rune("the cat ab  12\n<s>xé漢"))).Draw(t, "text")
				require.Equal(t, b.Tokenizer.EncodeMarkup(text), got.Tokenizer.EncodeMarkup(text), "%q", text)
				require.Equal(t, b.Tokenizer.EncodePlain(text), got.Tokenizer.EncodePlain(text), "%q", text)
			})
			for id := range int32(b.Tokenizer.VocabSize()) {
				require.Equal(t, b.Tokenizer.Special(id), got.Tokenizer.Special(id))
				require.Equal(t, b.Tokenizer.Decode([]int32{4, id}), got.Tokenizer.Decode([]int32{4, id}))
			}

			only, err := Open(path, OpenOptions{NoTokenizer: true})
			require.NoError(t, err)
			require.Nil(t, only.Tokenizer)
			require.Empty(t, only.ChatTemplate)

			// And again, with what the file says of itself.
			again := filepath.Join(t.TempDir(), "y.gguf")
			got.Path = "elsewhere"
			require.NoError(t, SaveGGUF(again, got, SaveOptions{DType: "Q8_0"}))
			third, err := Open(again, OpenOptions{})
			require.NoError(t, err)
			require.Equal(t, bitsOf(got.Model.Data), bitsOf(third.Model.Data))
			require.Equal(t, []gguf.Pair{{Key: "general.name", Value: "a-model"}}, third.source.general)
			require.Equal(t, []any{got.Special, got.Generation, got.source.general}, []any{third.Special, third.Generation, third.source.general})
		})
	}
}

func TestWhatGGUFCannotHold(t *testing.T) {
	tok := func(edit func(*tokenizer.SentencePieceOptions)) tokenizer.Model {
		o := tokenizer.SentencePieceOptions{Tokens: []string{"<unk>", "a", "b"}, Scores: []float32{0, 1, 2}}
		edit(&o)
		s, err := tokenizer.NewSentencePiece(o)
		require.NoError(t, err)
		return s
	}
	bpe, err := tokenizer.NewBPE(tokenizer.BPEOptions{Tokens: []string{"a", "b", "c"}, Pre: "gpt-2", Prefix: []int32{0, 1}})
	require.NoError(t, err)
	llama3 := shapes["llama3"].RopeScaling
	for what, c := range map[string]struct {
		config func(*chainrule.Config)
		bundle Bundle
		o      SaveOptions
	}{
		"DType \"Q4_0\"":           {o: SaveOptions{DType: "Q4_0"}},
		"llama3 for llama only":    {config: func(c *chainrule.Config) { c.QKNorm, c.RopeScaling = true, llama3 }},
		"RopeTheta as a float32":   {config: func(c *chainrule.Config) { c.RopeTheta = 1e-200 }},
		"NormEps as a float32":     {config: func(c *chainrule.Config) { c.NormEps = 1e60 }},
		"no qwen2 with a HeadDim":  {config: func(c *chainrule.Config) { c.QKVBias, c.HeadDim = true, 8 }},
		"removes white space":      {bundle: Bundle{Tokenizer: tok(func(o *tokenizer.SentencePieceOptions) { o.TrimSpaces = true })}},
		"has 256 tokens":           {bundle: Bundle{Tokenizer: tokenizer.Byte{}}},
		"tokens [0 1] around":      {bundle: Bundle{Tokenizer: bpe}},
		"any of the tokens [0 1 2": {bundle: Bundle{Tokenizer: tok(func(o *tokenizer.SentencePieceOptions) {}), Generation: Generation{EOS: []int32{0, 1, 2, 5}}}},
	} {
		t.Run(what, func(t *testing.T) {
			cfg := tiny()
			if c.config != nil {
				c.config(&cfg)
			}
			c.bundle.Model = newModel(t, cfg, 1)
			path := filepath.Join(t.TempDir(), "x.gguf")
			err := SaveGGUF(path, &c.bundle, c.o)
			require.ErrorIs(t, err, ErrUnsupported)
			require.ErrorContains(t, err, what)
			require.ErrorContains(t, err, path)
			require.NoFileExists(t, path)
		})
	}
	require.Panics(t, func() { SaveGGUF("x", nil, SaveOptions{}) })
	require.Panics(t, func() { SaveGGUF("x", &Bundle{}, SaveOptions{}) })

	// A number that the type cannot hold: the old file stays.
	path := filepath.Join(t.TempDir(), "x.gguf")
	write(t, path, "old")
	err = SaveGGUF(path, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{DType: "Q8_0"})
	require.NoError(t, err, "rows of 12 are F16, which holds Inf and NaN")
	write(t, path, "old")
	m := newModel(t, with(tiny(), func(c *chainrule.Config) { c.Dim = 32 }), 1)
	err = SaveGGUF(path, &Bundle{Model: m}, SaveOptions{DType: "Q8_0"})
	require.ErrorIs(t, err, gguf.ErrValue)
	require.ErrorContains(t, err, ".weight")
	require.Equal(t, "old", read(t, path))
	require.Len(t, names(t, filepath.Dir(path)), 1)
}

// Any llama3 scaling survives as what it does to the frequencies.
func TestLlama3FactorsAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := tiny()
		c.HeadDim = 2 * rapid.IntRange(1, 64).Draw(t, "half")
		c.RopeTheta = rapid.Float64Range(100, 1e6).Draw(t, "theta")
		low := rapid.Float64Range(0.1, 8).Draw(t, "low")
		c.RopeScaling = chainrule.RopeScaling{
			Type: "llama3", Factor: rapid.Float64Range(1.01, 100).Draw(t, "factor"), LowFreqFactor: low,
			HighFreqFactor: low + rapid.Float64Range(0.1, 32).Draw(t, "width"), OriginalSeqLen: rapid.IntRange(64, 1<<17).Draw(t, "length"),
		}
		factors := ropeFactors(c)
		s, ok := llama3Of(factors, c)
		require.True(t, ok, "%v", factors)
		c.RopeScaling = s
		if s.Type == "" {
			for _, f := range factors {
				require.EqualValues(t, 1, f)
			}
			return
		}
		require.NoError(t, c.Validate())
		for i, f := range ropeFactors(c) {
			require.InEpsilon(t, factors[i], f, 2e-5)
		}
	})
	for _, bad := range [][]float32{{1, 2, 1.5}, {2, 1, 1}, {1, 1, 0.5}, {1, float32(math.NaN()), 2}, {1, 1, float32(math.Inf(1))}} {
		_, ok := llama3Of(bad, tiny())
		require.False(t, ok, "%v", bad)
	}
	// Those of Llama 3.1 and 3.2 come back as they are.
	for _, factor := range []float64{8, 32} {
		c := with(tiny(), func(c *chainrule.Config) { c.HeadDim, c.RopeTheta = 64, 500000 })
		c.RopeScaling = chainrule.RopeScaling{Type: "llama3", Factor: factor, LowFreqFactor: 1, HighFreqFactor: 4, OriginalSeqLen: 8192}
		s, ok := llama3Of(ropeFactors(c), c)
		require.True(t, ok)
		require.Equal(t, c.RopeScaling, s)
	}
}

// The progress ends with all, and what is loaded is not held twice.
func TestGGUFProgressAndMemory(t *testing.T) {
	c := chainrule.Config{
		Dim: 512, HiddenDim: 2048, NLayers: 4, NHeads: 8, NKVHeads: 8, HeadDim: 64, VocabSize: 4096, SeqLen: 64,
		RopeTheta: 10000, NormEps: 1e-5,
	}
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	m.Init(1)
	path := filepath.Join(t.TempDir(), "x.gguf")
	check := func(step string) (report func(done, total int64), end func()) {
		var last, all int64
		calls := 0
		return func(done, total int64) {
				require.Greater(t, done, last, step)
				require.LessOrEqual(t, done, total, step)
				last, all = done, total
				calls++
			}, func() {
				require.Equal(t, all, last, step)
				require.Greater(t, calls, 3, step)
			}
	}
	report, end := check("saving")
	require.NoError(t, SaveGGUF(path, &Bundle{Model: m}, SaveOptions{DType: "Q8_0", Progress: report}))
	end()
	report, end = check("loading")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b, err := Open(path, OpenOptions{Progress: report})
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	end()
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*c.NumParams())+4<<20)
	require.Equal(t, c, b.Model.Config)
}

// The real model answers, in Q4_1 and in what we make of it.
func TestSmolLM2(t *testing.T) {
	path := smolLM2Path(t)
	b, err := Open(path, OpenOptions{})
	require.NoError(t, err)
	require.Equal(t, SpecialTokens{
		BOS: SpecialToken{"<|im_start|>", 1}, EOS: SpecialToken{"<|im_end|>", 2}, Pad: SpecialToken{"<|im_end|>", 2},
		Unknown: SpecialToken{"<|endoftext|>", 0},
	}, b.Special)
	require.Equal(t, []int32{2, 0}, b.StopTokens())
	require.Contains(t, b.ChatTemplate, "You are a helpful AI assistant named SmolLM")
	require.Equal(t, chainrule.Config{
		Dim: 576, HiddenDim: 1536, NLayers: 30, NHeads: 9, NKVHeads: 3, HeadDim: 64, VocabSize: 49152, SeqLen: 8192,
		RopeTheta: 100000, NormEps: 1e-5, Tied: true,
	}, b.Model.Config)

	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	s, err := chainrule.NewSession(b.Model, be, chainrule.SessionOptions{MaxLen: 64})
	require.NoError(t, err)
	prompt := b.Tokenizer.EncodeMarkup("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
	require.Equal(t, []int32{1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198}, prompt)
	sampler, err := chainrule.NewSampler(chainrule.SamplerOptions{})
	require.NoError(t, err)
	var answer []int32
	for id, err := range s.Generate(t.Context(), prompt, sampler) {
		require.NoError(t, err)
		if answer = append(answer, id); slices.Contains(b.StopTokens(), id) || len(answer) > 30 {
			break
		}
	}
	require.Equal(t, "The capital of France is Paris.<|im_end|>", b.Tokenizer.Decode(answer))
}

// smolLM2Path returns where testdata/fetch-smollm2 puts the model.
func smolLM2Path(t testing.TB) string {
	dir := os.Getenv("CHAINRULE_SMOLLM2")
	if dir == "" {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		dir = filepath.Join(home, ".cache", "chainrule")
	}
	path := filepath.Join(dir, "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skip("SmolLM2 is not there: testdata/fetch-smollm2 fetches it")
	}
	return path
}
