package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule"
)

// What a config.json holds is of four kinds. Members that a Config holds are
// read. Members that are known to change what some model computes, here or in
// transformers, must have the value at which they do not. Members that are
// known to change nothing may be anything. That leaves those that nobody knows
// yet: transformers ignores them, but a later release may not, and programs
// write all sorts of notes into this file, so neither to ignore nor to refuse
// them all is right. One whose name speaks of a part of the model is refused
// unless it says no; of the others a note is made.

// onlyNumber must have this value: members of other models too, since where a
// fork of these uses them, it means them.
var onlyNumber = map[string]float64{
	"partial_rotary_factor": 1, "rotary_pct": 1, "rotary_percent": 1,
	"attn_logit_softcapping": 0, "final_logit_softcapping": 0, "logits_soft_cap": 0,
	"embedding_multiplier": 1, "residual_multiplier": 1, "logits_scaling": 1, "logit_scale": 1,
	"scale_emb": 1, "num_experts": 0, "num_local_experts": 0, "n_routed_experts": 0, "n_shared_experts": 0,
	"moe_num_experts": 0, "num_nextn_predict_layers": 0,
}

// onlyFalse must not be true.
var onlyFalse = []string{
	"mlp_bias", "use_sliding_window", "use_bias", "bias", "enable_bias", "add_bias_linear", "lm_head_bias", "use_qkv_bias",
	"qk_layernorm", "use_qk_norm", "rope_interleaved", "use_alibi", "alibi", "parallel_attn", "use_parallel_residual",
	"scale_attn_by_inverse_layer_idx", "use_mrope", "use_bidirectional_attention", "is_encoder_decoder",
	"add_cross_attention", "tie_encoder_decoder",
}

// onlyAbsent must not be there, or be null or empty.
var onlyAbsent = []string{
	"quantization_config", "compression_config", "attention_multiplier", "query_pre_attn_scalar", "clip_qkv", "attn_config", "ffn_config",
	"text_config", "vision_config", "audio_config", "layers_block_type", "kv_lora_rank", "q_lora_rank", "rotary_dim",
	"rotary_emb_base", "attention_chunk_size", "window_size", "scale_depth", "dim_model_base", "mup_base_width",
	"moe_intermediate_size", "local_rope_theta", "dual_chunk_attention_config", "sparse_attention_config", "pruned_heads",
}

// harmless changes nothing that is computed here.
var harmless = strings.Fields(`
	activation _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled _name_or_path
	architectures attention_bias attn_implementation bos_token_id chunk_size_feed_forward cross_attention_hidden_size
	decoder_start_token_id dtype eos_token_id finetuning_task gradient_checkpointing head_dim hidden_act hidden_size
	id2label initializer_range intermediate_size is_decoder is_llama_config keys_to_ignore_at_inference label2id
	layer_types max_position_embeddings max_window_layers model_max_length model_type name_or_path no_rope_layer_interval
	no_rope_layers num_attention_heads num_hidden_layers num_key_value_heads num_labels num_logits_to_keep
	original_max_position_embeddings output_attentions output_hidden_states pad_token_id prefix pretraining_tp problem_type
	return_dict rms_norm_eps rope_parameters rope_scaling rope_theta sep_token_id seq_length sliding_window
	task_specific_params tf_legacy_loss tie_word_embeddings tokenizer_class torch_dtype torchscript
	transformers.js_config transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache
	use_flash_attention use_flash_attn use_return_dict vocab_size xla_device

	bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
	exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
	no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values
	repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
`)

// dropout is only of training, in which this library has none.
var dropout = []string{
	"attention_dropout", "hidden_dropout", "residual_dropout", "resid_pdrop", "embd_pdrop", "embedding_dropout",
	"classifier_dropout",
}

// ofTheModel are parts of the names of members that may change what is computed.
var ofTheModel = []string{
	"rope", "rotary", "attn", "attention", "norm", "scal", "multiplier", "softcap", "soft_cap", "window", "bias",
	"expert", "moe", "router", "layer", "head", "activation", "act_fn", "_act", "embed", "position", "quant", "clip",
	"mlp", "ffn", "residual", "logit", "mamba", "ssm", "recurrent", "conv", "alibi", "lora", "adapter", "qk", "qkv",
	"kv_", "sparse", "chunk", "parallel", "block", "theta", "mup",
}

// refuseOtherMaths fails for every member of o that makes the model compute
// something else than c says, or may. Where only positions beyond a window are
// computed otherwise, it shortens c to that and says so in the notes.
func refuseOtherMaths(o *object, a architecture, c *chainrule.Config) (notes []string) {
	if act := o.string("hidden_act", "silu"); act != "silu" && act != "swish" {
		o.fail("hidden_act", "is %s, only silu is supported", quote(act))
	}
	if act := o.string("activation", "swiglu"); act != "swiglu" && act != "silu" && act != "swish" { // Falcon3 has both
		o.fail("activation", "is %s, only swiglu is supported", quote(act))
	}
	for _, key := range slices.Sorted(maps.Keys(onlyNumber)) {
		only := onlyNumber[key]
		if v := o.float(key, only); v != only {
			o.fail(key, "is %v, only %v is supported", v, only)
		}
	}
	for _, key := range onlyFalse {
		if o.bool(key, false) {
			o.fail(key, "is true, which is not supported")
		}
	}
	for _, key := range onlyAbsent {
		if !saysNo(o.members[key]) {
			o.fail(key, "is %s, which is not supported", quote(o.members[key]))
		}
	}
	if !o.bool("scale_attn_weights", true) {
		o.fail("scale_attn_weights", "is false, which is not supported")
	}
	if a != qwen2 && o.bool("attention_bias", false) { // Qwen2 has its biases anyway
		o.fail("attention_bias", "is true: a bias of the attention's output is not supported")
	}
	if m := o.object("auto_map"); m != nil && m.has("AutoModelForCausalLM") {
		o.fail("auto_map", "has the model computed by a program of its own, %s", quote(m.members["AutoModelForCausalLM"]))
	}
	for _, t := range o.strings("layer_types") {
		if t != "full_attention" {
			o.fail("layer_types", "has %s, only full_attention is supported", quote(t))
		}
	}
	switch {
	case a == mistral:
		if note := cutToWindow(o, c); note != "" {
			notes = append(notes, note)
		}
	case a == llama && o.has("sliding_window"): // behind use_sliding_window in the others
		o.fail("sliding_window", "is %s, which is not supported", quote(o.members["sliding_window"]))
	}
	wantRopeInAllLayers(o, a, c.NLayers)
	for _, key := range dropout {
		if p := o.float(key, 0); p != 0 {
			notes = append(notes, fmt.Sprintf("%s of %v is not applied in training", key, p))
		}
	}
	return append(notes, unknownMembers(o)...)
}

// cutToWindow shortens the context of a Mistral to its window: as long as that
// hides nothing, attention is the full one.
func cutToWindow(o *object, c *chainrule.Config) (note string) {
	if _, there := o.members["sliding_window"]; there && !o.has("sliding_window") {
		return ""
	}
	window := o.size("sliding_window", 4096)
	if o.err != nil || window >= c.SeqLen {
		return ""
	}
	note = fmt.Sprintf("the context is %d tokens, not %d: beyond its sliding window the model is not supported", window, c.SeqLen)
	c.SeqLen = window
	return note
}

// wantRopeInAllLayers fails if a layer of n has no RoPE, which SmolLM3 has
// unless it says otherwise.
func wantRopeInAllLayers(o *object, a architecture, n int) {
	const key, every = "no_rope_layers", "no_rope_layer_interval"
	if o.has(key) {
		var rope []int
		if json.Unmarshal(o.members[key], &rope) != nil {
			o.fail(key, "is %s, want a list of 0 and 1", quote(o.members[key]))
		}
		if a == smollm3 && len(rope) < n && o.err == nil {
			o.fail(key, "has %d layers, want %d", len(rope), n)
		}
		if i := slices.IndexFunc(rope, func(r int) bool { return r != 1 }); i >= 0 {
			o.fail(key, "has %d for layer %d: a layer without RoPE is not supported", rope[i], i)
		}
	} else if a == smollm3 {
		if interval := o.size(every, 4); interval <= n {
			o.fail(key, "is missing, and each layer number %d has no RoPE (%s), which is not supported", interval, every)
		}
	}
}

// unknownMembers fails for a member that nobody knows and that may change what
// is computed, and notes the others.
func unknownMembers(o *object) (notes []string) {
	var unknown []string
	for _, key := range slices.Sorted(maps.Keys(o.members)) {
		_, number := onlyNumber[key]
		if number || key == "auto_map" || key == "scale_attn_weights" || slices.Contains(onlyFalse, key) ||
			slices.Contains(onlyAbsent, key) || slices.Contains(harmless, key) || slices.Contains(dropout, key) {
			continue
		}
		name := strings.ToLower(key)
		switch {
		case saysNo(o.members[key]):
		case slices.ContainsFunc(ofTheModel, func(part string) bool { return strings.Contains(name, part) }):
			o.fail(key, "is %s: it is not known, and may change what the model computes", quote(o.members[key]))
		default:
			unknown = append(unknown, quote(key))
		}
	}
	if len(unknown) > 0 {
		notes = append(notes, "not known and ignored: "+strings.Join(unknown, ", "))
	}
	return notes
}

// saysNo reports whether a member is absent, or has a value that turns off
// what it is about.
func saysNo(v json.RawMessage) bool {
	switch strings.Join(strings.Fields(string(v)), "") {
	case "", "null", "false", "0", "0.0", `""`, "[]", "{}":
		return true
	}
	return false
}
