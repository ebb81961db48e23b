package checkpoint

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule"
)

// Published configurations, as they are but for the tokens' ids.
const (
	configLlama32 = `{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
		"head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
		"intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
		"num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
		"rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
		"original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
		"tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 128256}`
	configQwen25 = `{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu",
		"hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
		"model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
		"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
		"torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936}`
	configQwen3 = `{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128,
		"hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
		"max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
		"num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
		"sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936}`
	configMistral = `{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
		"hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
		"model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
		"rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
		"torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000}`
	configSmolLM2 = `{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
		"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
		"initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": true,
		"max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 9,
		"num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
		"rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
		"tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers.js_config": {"kv_cache_dtype": {
		"q4f16": "float16", "fp16": "float16"}}, "transformers_version": "4.42.3", "use_cache": true,
		"vocab_size": 49152}`
	configSmolLM3 = `{"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
		"bos_token_id": 128000, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048,
		"initializer_range": 0.02, "intermediate_size": 11008, "layer_types": ["full_attention", "full_attention"],
		"max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": false, "model_type": "smollm3",
		"no_rope_layer_interval": 4, "no_rope_layers": [1, 1], "num_attention_heads": 16, "num_hidden_layers": 2,
		"num_key_value_heads": 4, "pad_token_id": 128012, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
		"rope_scaling": null, "rope_theta": 5000000.0, "sliding_window": null, "torch_dtype": "bfloat16",
		"transformers_version": "4.54.0.dev0", "use_cache": false, "use_sliding_window": false, "vocab_size": 128256}`
)

func TestPublishedConfigs(t *testing.T) {
	for name, tc := range map[string]struct {
		json   string
		want   chainrule.Config
		params int
	}{
		"Llama 3.2 1B": {configLlama32, chainrule.Config{
			Dim: 2048, HiddenDim: 8192, NLayers: 16, NHeads: 32, NKVHeads: 8, HeadDim: 64, VocabSize: 128256,
			SeqLen: 131072, RopeTheta: 500000, NormEps: 1e-5, Tied: true,
			RopeScaling: chainrule.RopeScaling{
				Type: "llama3", Factor: 32, LowFreqFactor: 1, HighFreqFactor: 4, OriginalSeqLen: 8192,
			},
		}, 1235814400},
		"Qwen2.5 0.5B": {configQwen25, chainrule.Config{
			Dim: 896, HiddenDim: 4864, NLayers: 24, NHeads: 14, NKVHeads: 2, HeadDim: 64, VocabSize: 151936,
			SeqLen: 32768, RopeTheta: 1e6, NormEps: 1e-6, Tied: true, QKVBias: true,
		}, 494032768},
		"Qwen3 0.6B": {configQwen3, chainrule.Config{
			Dim: 1024, HiddenDim: 3072, NLayers: 28, NHeads: 16, NKVHeads: 8, HeadDim: 128, VocabSize: 151936,
			SeqLen: 40960, RopeTheta: 1e6, NormEps: 1e-6, Tied: true, QKNorm: true,
		}, 596049920},
		"Mistral 7B": {configMistral, chainrule.Config{
			Dim: 4096, HiddenDim: 14336, NLayers: 32, NHeads: 32, NKVHeads: 8, HeadDim: 128, VocabSize: 32000,
			SeqLen: 4096, RopeTheta: 10000, NormEps: 1e-5,
		}, 7241732096},
		"SmolLM2 135M": {configSmolLM2, chainrule.Config{
			Dim: 576, HiddenDim: 1536, NLayers: 30, NHeads: 9, NKVHeads: 3, HeadDim: 64, VocabSize: 49152,
			SeqLen: 8192, RopeTheta: 100000, NormEps: 1e-5, Tied: true,
		}, 134515008},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseConfig([]byte(tc.json))
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.params, got.NumParams())
		})
	}
}

// edited returns the JSON of tiny with members set (or, with nil, removed).
func edited(t testing.TB, base string, edit map[string]any) []byte {
	t.Helper()
	m := map[string]any{}
	require.NoError(t, json.Unmarshal([]byte(base), &m))
	maps.Copy(m, edit)
	for k, v := range edit {
		if v == absent {
			delete(m, k)
		}
	}
	b, err := json.Marshal(m)
	require.NoError(t, err)
	return b
}

const absent = "absent"

type set = map[string]any

func TestAbsentMembersHaveTheDefaultsOfTransformers(t *testing.T) {
	for _, tc := range []struct {
		name string
		base string
		edit set
		get  func(chainrule.Config) any
		want any
	}{
		{"llama kv heads", configLlama32, set{"num_key_value_heads": absent}, kvHeads, 32},
		{"llama kv heads null", configLlama32, set{"num_key_value_heads": nil}, kvHeads, 32},
		{"qwen2 kv heads", configQwen25, set{"num_attention_heads": 64, "hidden_size": 4096, "num_key_value_heads": absent}, kvHeads, 32},
		{"qwen2 kv heads null", configQwen25, set{"num_key_value_heads": nil}, kvHeads, 14},
		{"llama head dim", configLlama32, set{"head_dim": absent, "hidden_size": 64}, headDim, 2},
		{"llama head dim null", configLlama32, set{"head_dim": nil, "hidden_size": 64}, headDim, 2},
		{"qwen2 head dim", configQwen25, set{}, headDim, 64},
		{"qwen3 head dim", configQwen3, set{"head_dim": absent}, headDim, 128},
		{"llama length", configLlama32, set{"max_position_embeddings": absent}, seqLen, 2048},
		{"qwen2 length", configQwen25, set{"max_position_embeddings": absent}, seqLen, 32768},
		{"eps", configLlama32, set{"rms_norm_eps": absent}, func(c chainrule.Config) any { return c.NormEps }, 1e-6},
		{"theta", configQwen3, set{"rope_theta": absent}, theta, 10000.},
		{"tied", configQwen3, set{"tie_word_embeddings": absent}, func(c chainrule.Config) any { return c.Tied }, false},
		{"only model_type", configQwen3, set{"architectures": absent}, func(c chainrule.Config) any { return c.QKNorm }, true},
		{"only architectures", configQwen3, set{"model_type": absent}, func(c chainrule.Config) any { return c.QKNorm }, true},
		{"activation of Falcon3", configLlama32, set{"activation": "swiglu"}, kvHeads, 8},
		{"fields nobody knows", configQwen3, set{"my_note": set{"a": []int{1}}}, kvHeads, 8},

		{"rope_parameters", configLlama32, set{"rope_theta": absent, "rope_scaling": absent,
			"rope_parameters": set{"rope_type": "default", "rope_theta": 70000.0}}, theta, 70000.},
		{"rope_parameters scale", configLlama32, set{"rope_theta": absent, "rope_scaling": absent,
			"rope_parameters": set{"rope_type": "linear", "factor": 4, "rope_theta": 7.5}}, scaling, linear4},
		{"both agree", configQwen3, set{"rope_scaling": set{"type": "linear", "factor": 4},
			"rope_parameters": set{"rope_type": "linear", "factor": 4, "rope_theta": 1000000}}, scaling, linear4},
		{"theta beside rope_parameters", configQwen3, set{"rope_parameters": set{"rope_type": "default"}}, theta, 1e6},
		{"old name", configQwen3, set{"rope_scaling": set{"type": "linear", "factor": 4.0}}, scaling, linear4},
		{"default scaling", configQwen3, set{"rope_scaling": set{"rope_type": "default"}}, scaling, chainrule.RopeScaling{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := parseConfig(edited(t, tc.base, tc.edit))
			require.NoError(t, err)
			require.Equal(t, tc.want, tc.get(c))
		})
	}
}

var linear4 = chainrule.RopeScaling{Type: "linear", Factor: 4}

func kvHeads(c chainrule.Config) any { return c.NKVHeads }
func headDim(c chainrule.Config) any { return c.HeadDim }
func seqLen(c chainrule.Config) any  { return c.SeqLen }
func theta(c chainrule.Config) any   { return c.RopeTheta }
func scaling(c chainrule.Config) any { return c.RopeScaling }

func TestConfigsThatComputeSomethingElseAreRefusedByName(t *testing.T) {
	for _, tc := range []struct {
		name string
		base string
		edit set
		want []string
	}{
		{"gemma2", configLlama32, set{"model_type": "gemma2", "architectures": []string{"Gemma2ForCausalLM"}}, []string{"gemma2", "Gemma2ForCausalLM", "supported"}},
		{"not a language model", configLlama32, set{"architectures": []string{"LlamaForSequenceClassification"}}, []string{"LlamaForSequenceClassification"}},
		{"type and class differ", configLlama32, set{"model_type": "qwen2"}, []string{"qwen2", "LlamaForCausalLM"}},
		{"neither", configLlama32, set{"model_type": absent, "architectures": absent}, []string{"model_type", "architectures"}},
		{"biases of llama", configLlama32, set{"attention_bias": true}, []string{"attention_bias"}},
		{"biases of qwen3", configQwen3, set{"attention_bias": true}, []string{"attention_bias"}},
		{"mlp bias", configLlama32, set{"mlp_bias": true}, []string{"mlp_bias"}},
		{"gelu", configLlama32, set{"hidden_act": "gelu"}, []string{"hidden_act", "gelu", "silu"}},
		{"geglu", configLlama32, set{"activation": "geglu"}, []string{"activation", "geglu", "swiglu"}},
		{"compressed", configLlama32, set{"compression_config": set{"format": "marlin-24"}}, []string{"compression_config"}},
		{"sliding window", configQwen25, set{"use_sliding_window": true}, []string{"use_sliding_window"}},
		{"sliding window of llama", configLlama32, set{"sliding_window": 4096}, []string{"sliding_window", "4096"}},
		{"layer types", configQwen3, set{"layer_types": []string{"full_attention", "sliding_attention"}}, []string{"layer_types", "sliding_attention"}},
		{"partial rotation", configLlama32, set{"partial_rotary_factor": 0.5}, []string{"partial_rotary_factor", "0.5"}},
		{"partial rotation, new", configQwen3, set{"rope_parameters": set{"partial_rotary_factor": 0.5}}, []string{"rope_parameters.partial_rotary_factor"}},
		{"soft caps", configLlama32, set{"final_logit_softcapping": 30.0}, []string{"final_logit_softcapping"}},
		{"soft caps of scores", configLlama32, set{"attn_logit_softcapping": 50.0}, []string{"attn_logit_softcapping"}},
		{"quantised", configLlama32, set{"quantization_config": set{"bits": 4}}, []string{"quantization_config"}},
		{"experts", configLlama32, set{"num_experts": 8}, []string{"num_experts"}},
		{"yarn", configQwen3, set{"rope_scaling": set{"rope_type": "yarn", "factor": 4}}, []string{"rope_scaling.rope_type", "yarn", "llama3"}},
		{"factor for nothing", configQwen3, set{"rope_scaling": set{"factor": 4}}, []string{"rope_scaling.factor"}},
		{"unknown factor", configQwen3, set{"rope_scaling": set{"rope_type": "linear", "factor": 4, "short_factor": []int{1}}}, []string{"rope_scaling.short_factor"}},
		{"rope of layers", configQwen3, set{"rope_parameters": set{"full_attention": set{"rope_theta": 1}}}, []string{"rope_parameters.full_attention"}},
		{"no factor", configQwen3, set{"rope_scaling": set{"rope_type": "linear"}}, []string{"Factor"}},
		{"theta inside scaling", configQwen3, set{"rope_scaling": set{"rope_type": "linear", "factor": 4, "rope_theta": 5}}, []string{"rope_scaling", "rope_theta"}},
		{"type and rope_type", configQwen3, set{"rope_scaling": set{"rope_type": "linear", "type": "llama3", "factor": 4}}, []string{"rope_scaling.type", "rope_type"}},
		{"thetas differ", configQwen3, set{"rope_parameters": set{"rope_type": "default", "rope_theta": 5.0}}, []string{"rope_theta", "1e+06", "rope_parameters.rope_theta", "5"}},
		{"scalings differ", configLlama32, set{"rope_parameters": set{"rope_type": "default"}}, []string{"rope_scaling", "rope_parameters"}},
		{"no size", configLlama32, set{"hidden_size": absent}, []string{"hidden_size is missing"}},
		{"null size", configLlama32, set{"vocab_size": nil}, []string{"vocab_size is missing"}},
		{"zero", configLlama32, set{"num_hidden_layers": 0}, []string{"num_hidden_layers is 0"}},
		{"negative", configLlama32, set{"num_attention_heads": -1}, []string{"num_attention_heads is -1"}},
		{"large", configLlama32, set{"intermediate_size": 1 << 31}, []string{"intermediate_size is 2147483648"}},
		{"text", configLlama32, set{"vocab_size": "32000"}, []string{"vocab_size", "integer"}},
		{"fraction", configLlama32, set{"vocab_size": 1.5}, []string{"vocab_size", "integer"}},
		{"text for a number", configLlama32, set{"rope_theta": "10000"}, []string{"rope_theta", "number"}},
		{"number for a flag", configLlama32, set{"tie_word_embeddings": 1}, []string{"tie_word_embeddings", "true or false"}},
		{"number for text", configLlama32, set{"hidden_act": 1}, []string{"hidden_act", "string"}},
		{"text for a list", configLlama32, set{"architectures": "LlamaForCausalLM"}, []string{"architectures", "list"}},
		{"text for an object", configLlama32, set{"rope_scaling": "linear"}, []string{"rope_scaling", "object"}},
		{"heads do not divide", configQwen25, set{"hidden_size": 900}, []string{"hidden_size", "num_attention_heads"}},
		{"groups do not divide", configQwen25, set{"num_key_value_heads": 3}, []string{"NKVHeads"}},
		{"odd head", configQwen3, set{"head_dim": 5}, []string{"HeadDim"}},
		{"zero head", configQwen3, set{"head_dim": 0}, []string{"head_dim is 0"}},
		{"theta zero", configQwen3, set{"rope_theta": 0}, []string{"RopeTheta"}},
		{"overflow", configQwen3, set{"vocab_size": 1<<31 - 1, "hidden_size": 1<<31 - 1}, []string{"too many parameters"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseConfig(edited(t, tc.base, tc.edit))
			require.ErrorIs(t, err, ErrConfig)
			for _, w := range tc.want {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

func TestConfigsThatAreNotStrictJSON(t *testing.T) {
	for name, tc := range map[string]struct{ json, want string }{
		"empty":            {"", "not JSON"},
		"array":            {"[]", "array"},
		"number":           {"1", "number"},
		"null":             {"null", "null"},
		"garbage after":    {configQwen3 + "x", "not JSON at byte"},
		"cut":              {configQwen3[:100], "not JSON"},
		"NaN":              {`{"rope_theta": NaN}`, "not JSON at byte 15"},
		"large number":     {strings.Replace(configQwen3, "1000000", "1e999", 1), "rope_theta"},
		"not UTF-8":        {"{\"a\": \"\xff\"}", "UTF-8"},
		"byte order mark":  {"\ufeff" + configQwen3, "not JSON"},
		"duplicate":        {`{"model_type": "qwen2", "model_type": "llama"}`, `key "model_type" occurs twice, again before byte 36`},
		"duplicate inside": {`{"x": [1, {"a": {}, "b": 1, "a": 2}]}`, `key "a" occurs twice`},
		"escaped":          {`{"ab": 1, "\u0061b": 2}`, `key "ab" occurs twice`},
		"deep":             {strings.Repeat(`{"a":`, 200000), "depth"},
		"other case":       {strings.Replace(configQwen3, "vocab_size", "Vocab_Size", 1), "vocab_size is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseConfig([]byte(tc.json))
			require.ErrorIs(t, err, ErrConfig)
			require.ErrorContains(t, err, tc.want)
		})
	}
	for _, ok := range []string{`{"a": "a", "b": {"a": 1}, "c": [{"a": 1}, {"a": 1}, "a", "a"]}`, `{}`, `{"a":[],"b":[[]],"":{}}`} {
		_, err := parseObject([]byte(ok))
		require.NoError(t, err)
	}
}

func drawConfig(t *rapid.T) chainrule.Config {
	size := rapid.IntRange(1, 1<<10)
	c := chainrule.Config{
		Dim: size.Draw(t, "dim"), HiddenDim: size.Draw(t, "hidden"), NLayers: rapid.IntRange(1, 100).Draw(t, "layers"),
		NKVHeads: rapid.IntRange(1, 9).Draw(t, "kv"), HeadDim: 2 * rapid.IntRange(1, 99).Draw(t, "head"),
		VocabSize: size.Draw(t, "vocab"), SeqLen: size.Draw(t, "seq"), Tied: rapid.Bool().Draw(t, "tied"),
		RopeTheta: rapid.Float64Range(1e-9, 1e30).Draw(t, "theta"), NormEps: rapid.Float64Range(0, 1).Draw(t, "eps"),
	}
	c.NHeads = c.NKVHeads * rapid.IntRange(1, 5).Draw(t, "group")
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 1:
		c.QKNorm = true
	case 2:
		c.QKVBias = true
	}
	switch rapid.IntRange(0, 2).Draw(t, "scaling") {
	case 1:
		c.RopeScaling = chainrule.RopeScaling{Type: "linear", Factor: rapid.Float64Range(1, 1e20).Draw(t, "factor")}
	case 2:
		low := rapid.Float64Range(1e-3, 100).Draw(t, "low")
		c.RopeScaling = chainrule.RopeScaling{
			Type: "llama3", Factor: rapid.Float64Range(1, 100).Draw(t, "factor"), LowFreqFactor: low,
			HighFreqFactor: low + 1, OriginalSeqLen: size.Draw(t, "original"),
		}
	}
	return c
}

func TestWrittenConfigsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawConfig(t)
		require.NoError(t, c.Validate())
		got, err := parseConfig(marshalConfig(c, Generation{}, "float32"))
		require.NoError(t, err)
		require.Equal(t, c, got)
	})
}

func TestWrittenConfigIsOneThatTransformersReads(t *testing.T) {
	require.Equal(t, `{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "attention_bias": false,
  "bos_token_id": null,
  "eos_token_id": null,
  "head_dim": 6,
  "hidden_act": "silu",
  "hidden_size": 12,
  "intermediate_size": 10,
  "max_position_embeddings": 9,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192
  },
  "rope_theta": 10000.0,
  "tie_word_embeddings": false,
  "torch_dtype": "float32",
  "vocab_size": 11
}
`, string(marshalConfig(shapes["llama3"], Generation{}, "float32")))
	require.Contains(t, string(marshalConfig(shapes["qwen2"], Generation{}, "float32")), `"model_type": "qwen2"`)
	require.Contains(t, string(marshalConfig(shapes["qwen3"], Generation{}, "float32")), `"Qwen3ForCausalLM"`)
	require.Contains(t, string(marshalConfig(shapes["qwen3"], Generation{}, "float32")), `"rope_scaling": null`)
}
