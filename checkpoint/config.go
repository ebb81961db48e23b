package checkpoint

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/chainrule-go/chainrule"
)

// architecture is one of the transformers models that a chainrule.Config can
// describe, with what transformers takes for members that are absent.
type architecture struct {
	modelType, class string
	seqLen           int // max_position_embeddings
	kvHeads          int // num_key_value_heads; 0: as many as heads
	headDim          int // head_dim; 0: hidden_size / num_attention_heads
}

var (
	llama         = architecture{"llama", "LlamaForCausalLM", 2048, 0, 0}
	qwen2         = architecture{"qwen2", "Qwen2ForCausalLM", 32768, 32, 0}
	qwen3         = architecture{"qwen3", "Qwen3ForCausalLM", 32768, 32, 128}
	architectures = []architecture{llama, qwen2, qwen3}
)

func architectureOf(c chainrule.Config) architecture {
	switch {
	case c.QKNorm:
		return qwen3
	case c.QKVBias:
		return qwen2
	}
	return llama
}

// hfConfig is the config.json that we write: what transformers 4.4x and later read.
type hfConfig struct {
	Architectures    []string       `json:"architectures"`
	AttentionBias    *bool          `json:"attention_bias,omitempty"`
	BosTokenID       *int           `json:"bos_token_id"` // unknown here; null, as the default may be wrong
	EosTokenID       *int           `json:"eos_token_id"`
	HeadDim          int            `json:"head_dim"`
	HiddenAct        string         `json:"hidden_act"`
	HiddenSize       int            `json:"hidden_size"`
	IntermediateSize int            `json:"intermediate_size"`
	MaxPosition      int            `json:"max_position_embeddings"`
	MLPBias          *bool          `json:"mlp_bias,omitempty"`
	ModelType        string         `json:"model_type"`
	NumHeads         int            `json:"num_attention_heads"`
	NumLayers        int            `json:"num_hidden_layers"`
	NumKVHeads       int            `json:"num_key_value_heads"`
	NormEps          number         `json:"rms_norm_eps"`
	RopeScaling      *hfRopeScaling `json:"rope_scaling"`
	RopeTheta        number         `json:"rope_theta"`
	Tied             bool           `json:"tie_word_embeddings"`
	DType            string         `json:"torch_dtype"`
	UseSlidingWindow *bool          `json:"use_sliding_window,omitempty"`
	VocabSize        int            `json:"vocab_size"`
}

type hfRopeScaling struct {
	Type       string  `json:"rope_type"`
	Factor     number  `json:"factor"`
	LowFreq    *number `json:"low_freq_factor,omitempty"`
	HighFreq   *number `json:"high_freq_factor,omitempty"`
	OrigSeqLen int     `json:"original_max_position_embeddings,omitempty"`
}

// marshalConfig returns the config.json of a valid Config.
func marshalConfig(c chainrule.Config) []byte {
	a := architectureOf(c)
	h := hfConfig{
		Architectures: []string{a.class}, ModelType: a.modelType, DType: "float32", HiddenAct: "silu",
		HiddenSize: c.Dim, IntermediateSize: c.HiddenDim, NumLayers: c.NLayers, NumHeads: c.NHeads,
		NumKVHeads: c.NKVHeads, HeadDim: c.HeadDim, VocabSize: c.VocabSize, MaxPosition: c.SeqLen,
		NormEps: number(c.NormEps), RopeTheta: number(c.RopeTheta), Tied: c.Tied,
	}
	no := new(bool)
	switch a {
	case llama:
		h.AttentionBias, h.MLPBias = no, no
	case qwen2:
		h.UseSlidingWindow = no
	case qwen3:
		h.AttentionBias, h.UseSlidingWindow = no, no
	}
	if s := c.RopeScaling; s.Type != "" {
		h.RopeScaling = &hfRopeScaling{Type: s.Type, Factor: number(s.Factor)}
		if s.Type == "llama3" {
			low, high := number(s.LowFreqFactor), number(s.HighFreqFactor)
			h.RopeScaling.LowFreq, h.RopeScaling.HighFreq = &low, &high
			h.RopeScaling.OrigSeqLen = s.OriginalSeqLen
		}
	}
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		panic("checkpoint: a valid Config does not marshal")
	}
	return append(b, '\n')
}

// parseConfig reads a config.json. Members that change what the model computes
// are refused unless they have the value that a chainrule.Config stands for;
// others are left alone, as transformers does.
func parseConfig(b []byte) (chainrule.Config, error) {
	var c chainrule.Config
	o, err := parseObject(b)
	if err != nil {
		return c, err
	}
	a, err := findArchitecture(o)
	if err != nil {
		return c, err
	}
	c.Dim = o.size("hidden_size", 0)
	c.HiddenDim = o.size("intermediate_size", 0)
	c.NLayers = o.size("num_hidden_layers", 0)
	c.NHeads = o.size("num_attention_heads", 0)
	c.VocabSize = o.size("vocab_size", 0)
	c.SeqLen = o.size("max_position_embeddings", a.seqLen)
	c.NormEps = o.float("rms_norm_eps", 1e-6)
	c.Tied = o.bool("tie_word_embeddings", false)
	c.QKNorm, c.QKVBias = a == qwen3, a == qwen2

	c.NKVHeads = c.NHeads
	if _, there := o.members["num_key_value_heads"]; there || a.kvHeads > 0 {
		c.NKVHeads = o.size("num_key_value_heads", c.NHeads)
		if !there {
			c.NKVHeads = a.kvHeads
		}
	}
	_, there := o.members["head_dim"]
	switch {
	case o.has("head_dim"):
		c.HeadDim = o.size("head_dim", 0)
	case !there && a.headDim > 0:
		c.HeadDim = a.headDim
	case o.err == nil && c.Dim%c.NHeads != 0:
		o.fail("hidden_size", "is %d, not a multiple of num_attention_heads %d, and head_dim is missing", c.Dim, c.NHeads)
	case o.err == nil:
		c.HeadDim = c.Dim / c.NHeads
	}
	refuseOtherMaths(o, a)
	parseRope(o, &c)
	if o.err != nil {
		return chainrule.Config{}, o.err
	}
	if err := c.Validate(); err != nil {
		return chainrule.Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

func findArchitecture(o *object) (architecture, error) {
	modelType, classes := o.string("model_type", ""), o.strings("architectures")
	if o.err != nil {
		return architecture{}, o.err
	}
	if modelType == "" && len(classes) == 0 {
		return architecture{}, fmt.Errorf("%w: neither model_type nor architectures is there", ErrConfig)
	}
	for _, a := range architectures {
		typeFits := modelType == "" || modelType == a.modelType
		if typeFits && (len(classes) == 0 || slices.Equal(classes, []string{a.class})) {
			return a, nil
		}
	}
	return architecture{}, fmt.Errorf("%w: model_type %s with architectures %q; supported are llama LlamaForCausalLM, "+
		"qwen2 Qwen2ForCausalLM and qwen3 Qwen3ForCausalLM", ErrConfig, quote(modelType), classes)
}

// refuseOtherMaths fails for every known member that makes the model compute
// something else than a chainrule.Config says.
func refuseOtherMaths(o *object, a architecture) {
	if act := o.string("hidden_act", "silu"); act != "silu" && act != "swish" {
		o.fail("hidden_act", "is %s, only silu is supported", quote(act))
	}
	// Members of other models too: where a fork of these three uses them, it
	// means them.
	for _, n := range []struct {
		key  string
		only float64
	}{
		{"partial_rotary_factor", 1}, {"pretraining_tp", 1},
		{"attn_logit_softcapping", 0}, {"final_logit_softcapping", 0},
		{"embedding_multiplier", 1}, {"residual_multiplier", 1}, {"logits_scaling", 1}, {"logit_scale", 1},
		{"num_experts", 0}, {"num_local_experts", 0},
	} {
		if v := o.float(n.key, n.only); v != n.only {
			o.fail(n.key, "is %v, only %v is supported", v, n.only)
		}
	}
	for _, key := range []string{"mlp_bias", "use_sliding_window"} {
		if o.bool(key, false) {
			o.fail(key, "is true, which is not supported")
		}
	}
	if a != qwen2 && o.bool("attention_bias", false) { // Qwen2 has its biases anyway
		o.fail("attention_bias", "is true: a bias of the attention's output is not supported")
	}
	if a == llama && o.has("sliding_window") { // behind use_sliding_window in the other two
		o.fail("sliding_window", "is %s, which is not supported", quote(o.members["sliding_window"]))
	}
	for _, t := range o.strings("layer_types") {
		if t != "full_attention" {
			o.fail("layer_types", "has %s, only full_attention is supported", quote(t))
		}
	}
	for _, key := range []string{"quantization_config", "attention_multiplier", "no_rope_layers"} {
		if o.has(key) {
			o.fail(key, "is %s, which is not supported", quote(o.members[key]))
		}
	}
}

const defaultTheta = 10000 // of all three architectures

// parseRope reads rope_theta and rope_scaling (transformers 4) and
// rope_parameters (transformers 5). If both are there they must agree.
func parseRope(o *object, c *chainrule.Config) {
	c.RopeTheta = o.float("rope_theta", defaultTheta)
	s := o.object("rope_scaling")
	if s != nil && s.has("rope_theta") {
		o.fail("rope_scaling", "has a rope_theta, want that beside it or in rope_parameters")
	}
	c.RopeScaling = parseScaling(o, s)
	p := o.object("rope_parameters")
	if p == nil {
		return
	}
	theta := p.float("rope_theta", c.RopeTheta)
	scaling := parseScaling(o, p)
	if o.err == nil && o.has("rope_theta") && theta != c.RopeTheta {
		o.fail("rope_theta", "is %v, but rope_parameters.rope_theta is %v", c.RopeTheta, theta)
	}
	if o.err == nil && o.has("rope_scaling") && scaling != c.RopeScaling {
		o.fail("rope_scaling", "is %+v, but rope_parameters say %+v", c.RopeScaling, scaling)
	}
	c.RopeTheta, c.RopeScaling = theta, scaling
}

// parseScaling reads the object s of o, which may be nil.
func parseScaling(o, s *object) (r chainrule.RopeScaling) {
	if s == nil {
		return r
	}
	name := s.string("rope_type", "")
	if old := s.string("type", name); name == "" { // its name before transformers 4.43
		name = old
	} else if old != name {
		s.fail("type", "is %s, but rope_type is %s", quote(old), quote(name))
	}
	if v := s.float("partial_rotary_factor", 1); v != 1 {
		s.fail("partial_rotary_factor", "is %v, only 1 is supported", v)
	}
	known := []string{"rope_type", "type", "rope_theta", "partial_rotary_factor"}
	switch name {
	case "", "default":
		s.only(append(known, "factor", "original_max_position_embeddings")...)
		if f := s.float("factor", 1); f != 1 {
			s.fail("factor", "is %v without a rope_type that uses it", f)
		}
	case "linear":
		s.only(append(known, "factor", "original_max_position_embeddings")...)
		r = chainrule.RopeScaling{Type: "linear", Factor: s.float("factor", 0)}
	case "llama3":
		s.only(append(known, "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")...)
		r = chainrule.RopeScaling{
			Type: "llama3", Factor: s.float("factor", 0), LowFreqFactor: s.float("low_freq_factor", 0),
			HighFreqFactor: s.float("high_freq_factor", 0),
			OriginalSeqLen: s.size("original_max_position_embeddings", 0),
		}
	default:
		s.fail("rope_type", "is %s, supported are default, linear and llama3", quote(name))
	}
	if o.err == nil {
		o.err = s.err
	}
	return r
}
