package checkpoint

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule"
)

// architecture is one of the transformers models that a chainrule.Config can
// describe, with what transformers takes for members that are absent.
type architecture struct {
	modelType, class string
	seqLen           int // max_position_embeddings
	kvHeads          int // num_key_value_heads; 0: as many as heads
	headDim          int // head_dim; 0: hidden_size / num_attention_heads
	theta            float64
	tied             bool
	bos, eos, pad    int // the ids of tokens; 0: none
}

var (
	llama         = architecture{"llama", "LlamaForCausalLM", 2048, 0, 0, 10000, false, 1, 2, 0}
	mistral       = architecture{"mistral", "MistralForCausalLM", 131072, 8, 0, 10000, false, 1, 2, 0}
	smollm3       = architecture{"smollm3", "SmolLM3ForCausalLM", 32768, 4, 0, 2000000, true, 128000, 128001, 128004}
	qwen2         = architecture{"qwen2", "Qwen2ForCausalLM", 32768, 32, 0, 10000, false, 0, 0, 0}
	qwen3         = architecture{"qwen3", "Qwen3ForCausalLM", 32768, 32, 128, 10000, false, 0, 0, 0}
	architectures = []architecture{llama, mistral, smollm3, qwen2, qwen3}
)

// architectureOf is what a model is written as when it was not read from a
// config.json: Mistral and SmolLM3 are Llamas, where a Config can hold them.
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
	BosTokenID       tokenIDs       `json:"bos_token_id"` // null where unknown, as the default may be wrong
	EosTokenID       tokenIDs       `json:"eos_token_id"`
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
	PadTokenID       tokenIDs       `json:"pad_token_id,omitempty"`
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

// marshalConfig returns the config.json of a valid Config, of weights of the
// dtype torchDType.
func marshalConfig(c chainrule.Config, g Generation, torchDType string) []byte {
	a := architectureOf(c)
	h := hfConfig{
		Architectures: []string{a.class}, ModelType: a.modelType, DType: torchDType, HiddenAct: "silu",
		BosTokenID: g.BOS, EosTokenID: g.EOS, PadTokenID: g.Pad,
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

// described is what a config.json says.
type described struct {
	chainrule.Config
	architecture
	generation Generation // tokens only
	notes      []string
}

// parseConfig reads a config.json.
func parseConfig(b []byte) (chainrule.Config, error) {
	d, err := describe(b)
	return d.Config, err
}

// describe reads a config.json. Members that change what the model computes
// are refused unless they have the value that a chainrule.Config stands for.
func describe(b []byte) (d described, err error) {
	o, err := parseObject(b)
	if err != nil {
		return d, err
	}
	a, err := findArchitecture(o)
	if err != nil {
		return d, err
	}
	c := chainrule.Config{
		Dim:       o.size("hidden_size", 0),
		HiddenDim: o.size("intermediate_size", 0),
		NLayers:   o.size("num_hidden_layers", 0),
		NHeads:    o.size("num_attention_heads", 0),
		VocabSize: o.size("vocab_size", 0),
		SeqLen:    o.size("max_position_embeddings", a.seqLen),
		NormEps:   o.float("rms_norm_eps", 1e-6),
		Tied:      o.bool("tie_word_embeddings", a.tied),
		QKNorm:    a == qwen3, QKVBias: a == qwen2,
	}
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
	d.generation = Generation{
		BOS: o.tokenIDs("bos_token_id", a.bos), EOS: o.tokenIDs("eos_token_id", a.eos), Pad: o.tokenIDs("pad_token_id", a.pad),
	}
	d.notes = refuseOtherMaths(o, a, &c)
	parseRope(o, a, &c)
	if o.err != nil {
		return described{}, o.err
	}
	if err := c.Validate(); err != nil {
		return described{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	d.Config, d.architecture = c, a
	return d, nil
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
	var supported []string
	for _, a := range architectures {
		supported = append(supported, a.modelType+" "+a.class)
	}
	return architecture{}, fmt.Errorf("%w: model_type %s with architectures %q is not supported; supported are %s",
		ErrConfig, quote(modelType), classes, strings.Join(supported, ", "))
}

// parseRope reads rope_theta and rope_scaling (transformers 4) and
// rope_parameters (transformers 5). If both are there they must agree.
func parseRope(o *object, a architecture, c *chainrule.Config) {
	c.RopeTheta = o.float("rope_theta", a.theta)
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
