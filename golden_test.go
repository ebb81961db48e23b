package chainrule_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/internal/testutil"
)

// golden is a file that testdata/golden.py wrote: what PyTorch computes in
// float64.
type golden struct {
	Config struct {
		Dim         int      `json:"dim"`
		HiddenDim   int      `json:"hidden_dim"`
		NLayers     int      `json:"n_layers"`
		NHeads      int      `json:"n_heads"`
		NKVHeads    int      `json:"n_kv_heads"`
		HeadDim     int      `json:"head_dim"`
		VocabSize   int      `json:"vocab_size"`
		RopeTheta   float64  `json:"rope_theta"`
		NormEps     float64  `json:"norm_eps"`
		Tied        bool     `json:"tied"`
		QKNorm      bool     `json:"qk_norm"`
		QKVBias     bool     `json:"qkv_bias"`
		RopeScaling *scaling `json:"rope_scaling"`
		B           int      `json:"b"`
		T           int      `json:"t"`
		Seed        uint32   `json:"seed"`
	} `json:"config"`
	AdamW struct {
		LR          float64 `json:"lr"`
		Beta1       float64 `json:"beta1"`
		Beta2       float64 `json:"beta2"`
		Eps         float64 `json:"eps"`
		WeightDecay float64 `json:"weight_decay"`
		MaxNorm     float64 `json:"max_norm"`
		Steps       int     `json:"steps"`
	} `json:"adamw"`
	Tokens     []int32           `json:"tokens"`
	Targets    []int32           `json:"targets"`
	Loss       float64           `json:"loss"`
	Logits     []byte            `json:"logits"`
	Gradients  map[string][]byte `json:"gradients"`
	StepLosses []float64         `json:"step_losses"`
	StepNorms  []float64         `json:"step_norms"`
	FinalLoss  float64           `json:"final_loss"`
}

type scaling struct {
	Factor   float64 `json:"factor"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Original int     `json:"original"`
}

func readGolden(t *testing.T, path string) golden {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var f golden
	require.NoError(t, json.Unmarshal(text, &f))
	return f
}

// problem makes the model and the batch of the file: the weights come from the
// generator of golden.py.
func (f golden) problem(t *testing.T) problem {
	c := chainrule.Config{
		Dim: f.Config.Dim, HiddenDim: f.Config.HiddenDim, NLayers: f.Config.NLayers, NHeads: f.Config.NHeads,
		NKVHeads: f.Config.NKVHeads, HeadDim: f.Config.HeadDim, VocabSize: f.Config.VocabSize, SeqLen: f.Config.T,
		RopeTheta: f.Config.RopeTheta, NormEps: f.Config.NormEps,
		Tied: f.Config.Tied, QKNorm: f.Config.QKNorm, QKVBias: f.Config.QKVBias,
	}
	if s := f.Config.RopeScaling; s != nil {
		c.RopeScaling = chainrule.RopeScaling{
			Type: "llama3", Factor: s.Factor, LowFreqFactor: s.Low, HighFreqFactor: s.High, OriginalSeqLen: s.Original,
		}
	}
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	state := f.Config.Seed
	next := func() uint32 {
		state = 1664525*state + 1013904223
		return state >> 16
	}
	weights := map[string][]float32{}
	for tensor := range m.Tensors() {
		weights[tensor.Name] = tensor.Data
	}
	for _, name := range fillOrder(c) {
		offset := float32(0)
		if strings.Contains(name, "rms") || strings.Contains(name, "_norm") {
			offset = 1
		}
		for i := range weights[name] {
			weights[name][i] = offset + 0.5*(float32(next())-32768)/32768
		}
		delete(weights, name)
	}
	require.Empty(t, weights, "tensors that golden.py does not fill")
	m.Touch()
	for _, tokens := range [][]int32{f.Tokens, f.Targets} {
		for _, token := range tokens {
			if drawn := int32(next() % uint32(c.VocabSize)); token >= 0 {
				require.Equal(t, drawn, token, "the generator is not that of golden.py")
			}
		}
	}
	return problem{
		Config: c, model: m, tokens: f.Tokens, targets: f.Targets,
		reference: referenceConfig(c), weights: referenceWeights(m.Params),
		batch: testutil.Batch{B: f.Config.B, T: f.Config.T, Tokens: f.Tokens, Targets: f.Targets},
	}
}

// fillOrder is the order of golden.py's make_params.
func fillOrder(c chainrule.Config) []string {
	names := []string{"token_embedding"}
	for l := range c.NLayers {
		layer := []string{"rms_att", "wq", "wk", "wv"}
		if c.QKVBias {
			layer = append(layer, "bq", "bk", "bv")
		}
		if c.QKNorm {
			layer = append(layer, "q_norm", "k_norm")
		}
		for _, name := range append(layer, "wo", "rms_ffn", "w1", "w3", "w2") {
			names = append(names, "layers."+string(rune('0'+l))+"."+name)
		}
	}
	names = append(names, "rms_final")
	if !c.Tied {
		names = append(names, "wcls")
	}
	return names
}

func decode(raw []byte) []float64 {
	x := make([]float64, len(raw)/8)
	for i := range x {
		x[i] = math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:]))
	}
	return x
}

func (f golden) gradients() testutil.Weights {
	g := testutil.Weights{}
	for name, raw := range f.Gradients {
		g[name] = decode(raw)
	}
	return g
}

func eachGolden(t *testing.T, f func(t *testing.T, g golden)) {
	paths, err := filepath.Glob("testdata/golden_*.json")
	require.NoError(t, err)
	require.Len(t, paths, 4)
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { f(t, readGolden(t, path)) })
	}
}

// The oracle is itself held against PyTorch.
func TestTheFloat64ModelIsThatOfPyTorch(t *testing.T) {
	eachGolden(t, func(t *testing.T, f golden) {
		p := f.problem(t)
		got := p.reference.Forward(p.weights, p.batch)
		require.InEpsilon(t, f.Loss, got.Loss, 1e-13)
		logits := testutil.Weights{"logits": decode(f.Logits)}
		requireClose(t, testutil.Bound{OfTensor: 1e-13}, logits, testutil.Weights{"logits": got.Logits})
		at := p.reference.SampleElements(20, 1)
		differences := p.reference.Gradient(p.weights, p.batch, at)
		requireClose(t, testutil.Bound{OfTensor: 1e-8, OfAll: 1e-9}, f.gradients().Pick(at), differences)
	})
}

func TestLogitsLossAndGradientsAreThoseOfPyTorch(t *testing.T) {
	eachGolden(t, func(t *testing.T, f golden) {
		p := f.problem(t)
		be := newBackend(t)
		loss, g := p.gradient(t, be)
		require.InDelta(t, f.Loss, loss, 1e-6*max(1, f.Loss))
		requireClose(t, ordinary, f.gradients(), referenceWeights(g))

		ws, err := chainrule.NewWorkspace(p.Config, p.batch.B, p.batch.T, be)
		require.NoError(t, err)
		_, err = chainrule.Forward(p.model, ws, p.tokens, nil)
		require.NoError(t, err)
		requireClose(t, testutil.Bound{OfTensor: 1e-6}, testutil.Weights{"logits": decode(f.Logits)},
			testutil.Weights{"logits": float64s(ws.Logits())})
	})
}

func TestTenClippedAdamWStepsAreThoseOfPyTorch(t *testing.T) {
	eachGolden(t, func(t *testing.T, f golden) {
		p := f.problem(t)
		ws, err := chainrule.NewWorkspace(p.Config, p.batch.B, p.batch.T, newBackend(t))
		require.NoError(t, err)
		g, err := chainrule.NewParams(p.Config)
		require.NoError(t, err)
		state, err := chainrule.NewAdamState(p.Config)
		require.NoError(t, err)
		h := chainrule.Adam{
			LR: f.AdamW.LR, Beta1: f.AdamW.Beta1, Beta2: f.AdamW.Beta2, Eps: f.AdamW.Eps, WeightDecay: f.AdamW.WeightDecay,
		}
		require.Len(t, f.StepLosses, 10)
		clipped := 0
		for step, want := range f.StepLosses {
			loss, err := chainrule.Forward(p.model, ws, p.tokens, p.targets)
			require.NoError(t, err)
			require.InEpsilon(t, want, loss, 1e-5, "loss of step %d", step)
			chainrule.ZeroGrad(g)
			require.NoError(t, chainrule.Backward(p.model, ws, g))
			require.InEpsilon(t, f.StepNorms[step], chainrule.ClipGradients(g, f.AdamW.MaxNorm), 1e-4, "norm of step %d", step)
			if f.StepNorms[step] > f.AdamW.MaxNorm {
				clipped++
			}
			chainrule.AdamStep(p.model, g, state, h)
		}
		require.Positive(t, clipped)
		loss, err := chainrule.Forward(p.model, ws, p.tokens, nil)
		require.NoError(t, err)
		require.Zero(t, loss)
		loss, err = chainrule.Forward(p.model, ws, p.tokens, p.targets)
		require.NoError(t, err)
		require.InEpsilon(t, f.FinalLoss, loss, 1e-5, "loss after the last step")
		t.Logf("relative difference of the loss after ten steps: %.2g", math.Abs(loss/f.FinalLoss-1))
	})
}
