package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func describeEdited(t *testing.T, base string, edit set) (described, error) {
	t.Helper()
	return describe(edited(t, base, edit))
}

func TestNothingIsNotedOfPublishedConfigs(t *testing.T) {
	for _, config := range []string{configLlama32, configQwen25, configQwen3, configSmolLM2, configSmolLM3} {
		d, err := describe([]byte(config))
		require.NoError(t, err)
		require.Empty(t, d.notes)
	}
}

func TestAMistralEndsAtItsWindow(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit set
		want int
		cut  bool
	}{
		{"window", set{}, 4096, true},
		{"window by default", set{"sliding_window": absent}, 4096, true},
		{"no window", set{"sliding_window": nil}, 32768, false},
		{"as long as the context", set{"sliding_window": 32768}, 32768, false},
		{"longer", set{"sliding_window": 40000}, 32768, false},
		{"one shorter", set{"sliding_window": 32767}, 32767, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := describeEdited(t, configMistral, tc.edit)
			require.NoError(t, err)
			require.Equal(t, tc.want, d.SeqLen)
			if !tc.cut {
				require.Empty(t, d.notes)
				return
			}
			require.Len(t, d.notes, 1)
			require.Contains(t, d.notes[0], "not 32768: beyond its sliding window")
		})
	}
	_, err := describeEdited(t, configMistral, set{"sliding_window": 0})
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "sliding_window is 0")
}

func TestSmolLM3NeedsRopeInEveryLayer(t *testing.T) {
	d, err := describe([]byte(configSmolLM3))
	require.NoError(t, err)
	require.True(t, d.Tied, "as SmolLM3 is by default")
	require.Equal(t, 128, d.HeadDim)
	for _, tc := range []struct {
		name string
		edit set
		want string // "": it is supported
	}{
		{"one layer has none", set{"no_rope_layers": []int{1, 0}}, "no_rope_layers has 0 for layer 1"},
		{"the list is short", set{"no_rope_layers": []int{1}}, "no_rope_layers has 1 layers, want 2"},
		{"the list is none", set{"no_rope_layers": "all"}, "want a list of 0 and 1"},
		{"by default every fourth, of two", set{"no_rope_layers": absent}, ""},
		{"by default every fourth, of four", set{"no_rope_layers": absent, "num_hidden_layers": 4}, "each layer number 4 has no RoPE"},
		{"by null", set{"no_rope_layers": nil, "num_hidden_layers": 36}, "each layer number 4 has no RoPE"},
		{"every fifth of four", set{"no_rope_layers": absent, "num_hidden_layers": 4, "no_rope_layer_interval": 5}, ""},
		{"windows", set{"use_sliding_window": true}, "use_sliding_window is true"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := describeEdited(t, configSmolLM3, tc.edit)
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrConfig)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestMembersThatChangeTheMathsAreRefused(t *testing.T) {
	for key, value := range map[string]any{
		"clip_qkv": 8.0, "query_pre_attn_scalar": 256, "attention_multiplier": 0.015625, "rotary_pct": 0.25,
		"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0, "logit_scale": 0.0625,
		"use_qk_norm": true, "qk_layernorm": true, "rope_interleaved": true, "use_parallel_residual": true,
		"scale_attn_weights": false, "is_encoder_decoder": true, "lm_head_bias": true, "scale_emb": 12,
		"scale_depth": 1.4, "kv_lora_rank": 512, "n_routed_experts": 64, "moe_intermediate_size": 768,
		"text_config":    set{"hidden_size": 1},
		"pruned_heads":   set{"0": []int{1}},
		"no_rope_layers": []int{0}, "attention_chunk_size": 8192,
		"auto_map": set{"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
		// Not known to anybody yet, but speaking of the model.
		"attn_temperature_tuning": 4, "rope_ratio": 2, "layerwise_scale": []float64{1}, "ffn_multiplier": 1.5,
		"NormPlacement": "post", "use_value_residual": true, "kv_shared_from": 12,
	} {
		_, err := describeEdited(t, configLlama32, set{key: value})
		require.ErrorIs(t, err, ErrConfig, key)
		require.ErrorContains(t, err, key)
	}
}

func TestMembersThatChangeNothingAreNot(t *testing.T) {
	d, err := describeEdited(t, configLlama32, set{
		"clip_qkv": nil, "query_pre_attn_scalar": nil, "quantization_config": nil, "pruned_heads": set{}, "num_experts": 0,
		"rotary_pct": 1, "logit_scale": 1.0, "use_qk_norm": false, "rope_interleaved": false, "scale_attn_weights": true,
		"no_rope_layers": []int{1, 1}, "layer_types": []string{"full_attention"}, "auto_map": set{"AutoTokenizer": "own"},
		"use_value_residual": false, "attn_temperature_tuning": nil, "layerwise_scale": []int{}, "rope_ratio": 0,
		"id2label": set{"0": "LABEL_0"}, "pretraining_tp": 4, "max_length": 20, "unsloth_version": "2025.1",
	})
	require.NoError(t, err)
	require.Empty(t, d.notes)

	d, err = describeEdited(t, configLlama32, set{"my_note": 1, "trained_by": "me", "attention_dropout": 0.1})
	require.NoError(t, err)
	require.Equal(t, []string{
		"attention_dropout of 0.1 is not applied in training", `not known and ignored: "my_note", "trained_by"`,
	}, d.notes)
}

func TestTokensOfAConfig(t *testing.T) {
	for _, tc := range []struct {
		name string
		base string
		edit set
		want Generation
	}{
		{"as they are", configSmolLM3, set{}, Generation{BOS: []int32{128000}, EOS: []int32{128012}, Pad: []int32{128012}}},
		{"llama by default", configLlama32, set{}, Generation{BOS: []int32{1}, EOS: []int32{2}}},
		{"qwen by default", configQwen3, set{}, Generation{}},
		{"null", configLlama32, set{"bos_token_id": nil, "eos_token_id": nil}, Generation{}},
		{"several", configLlama32, set{"eos_token_id": []int{7, 9}, "pad_token_id": -1}, Generation{BOS: []int32{1}, EOS: []int32{7, 9}}},
	} {
		d, err := describeEdited(t, tc.base, tc.edit)
		require.NoError(t, err, tc.name)
		require.True(t, tc.want.equal(d.generation), "%s: %+v", tc.name, d.generation)
	}
	for _, bad := range []any{"2", -7, []int{1, -3}, 1.5, 1 << 40} {
		_, err := describeEdited(t, configLlama32, set{"eos_token_id": bad})
		require.ErrorContains(t, err, "eos_token_id is", "%v", bad)
	}
}

func TestGenerationConfigs(t *testing.T) {
	g, err := parseGeneration([]byte(`{"bos_token_id": 128000, "do_sample": true, "eos_token_id": [128001, 128009],
		"min_p": null, "repetition_penalty": 1.05, "temperature": 0.6, "top_k": 20, "top_p": 0.9,
		"transformers_version": "4.43.0.dev0"}`))
	require.NoError(t, err)
	want := Generation{BOS: []int32{128000}, EOS: []int32{128001, 128009}, DoSample: true,
		Temperature: 0.6, TopK: 20, TopP: 0.9, RepetitionPenalty: 1.05}
	require.Equal(t, want, g)
	again, err := parseGeneration(g.marshal())
	require.NoError(t, err)
	require.Equal(t, g, again)

	g, err = parseGeneration([]byte(`{"top_k": 0, "eos_token_id": null, "pad_token_id": 3}`))
	require.NoError(t, err)
	require.Equal(t, Generation{Pad: []int32{3}, TopK: -1}, g)
	again, err = parseGeneration(g.marshal())
	require.NoError(t, err)
	require.True(t, g.equal(again), "%+v", again)
	require.False(t, g.equal(Generation{Pad: []int32{3}}))
	require.False(t, g.equal(Generation{TopK: -1}))

	for _, bad := range []string{
		`{"temperature": -1}`, `{"temperature": "hot"}`, `{"top_p": 1.5}`, `{"min_p": 2}`, `{"top_k": -3}`, `{"top_k": 1.5}`,
		`{"repetition_penalty": -1}`, `{"eos_token_id": {}}`, `{"do_sample": 1}`, `[]`, `{"top_k": 1, "top_k": 2}`, ``,
	} {
		_, err := parseGeneration([]byte(bad))
		require.ErrorIs(t, err, ErrConfig, bad)
	}
	g = Generation{BOS: []int32{10}, EOS: []int32{9, 10, 3}}
	require.Equal(t, []string{"bos_token_id [10]: the model has only 10 tokens", "eos_token_id [9 10 3]: the model has only 10 tokens"}, g.within(10))
	require.Equal(t, []int32{9, 3}, g.EOS)
}
