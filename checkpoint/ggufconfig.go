package checkpoint

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/gguf"
)

// The architectures of llama.cpp that a chainrule.Config can describe.
const (
	ggufLlama = "llama"
	ggufQwen2 = "qwen2"
	ggufQwen3 = "qwen3"
)

// values reads the metadata of a file by name and type. The first failure is
// kept in err, and later reads return zero values.
type values struct {
	f     *gguf.File
	arch  string
	err   error
	notes []string
}

func (v *values) fail(key, format string, args ...any) {
	if v.err == nil {
		at := ""
		if x, ok := v.f.Value(key); ok {
			at = fmt.Sprintf(" at byte %d", x.Offset())
		}
		v.err = fmt.Errorf("%w: %s%s %s", ErrConfig, key, at, fmt.Sprintf(format, args...))
	}
}

// get reads a value with one of gguf.Value's methods; absent if there is none.
func get[T any](v *values, key string, absent T, as func(gguf.Value) (T, error)) T {
	x, ok := v.f.Value(key)
	if !ok {
		return absent
	}
	y, err := as(x)
	if err != nil && v.err == nil {
		v.err = fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return y
}

func (v *values) has(key string) bool { _, ok := v.f.Value(key); return ok }

func (v *values) text(key, absent string) string { return get(v, key, absent, gguf.Value.Text) }

func (v *values) bool(key string, absent bool) bool { return get(v, key, absent, gguf.Value.Bool) }

// float reads a number. A float32 is taken for the shortest decimal that it is
// the nearest to: 1e-5, not 9.99999974737875e-06.
func (v *values) float(key string, absent float64) float64 {
	x := get(v, key, absent, gguf.Value.Float)
	if short, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', -1, 32), 64); err == nil && float64(float32(x)) == x {
		x = short
	}
	return x
}

// size reads an integer from 1 to MaxInt32; an absent one is absent, which may
// be 0 to say that it must be there.
func (v *values) size(key string, absent int) int {
	n := get(v, key, int64(absent), gguf.Value.Int)
	if v.err == nil && (n < 1 || n > math.MaxInt32) {
		if !v.has(key) {
			v.fail(key, "is missing")
		} else {
			v.fail(key, "is %d, want 1 to %d", n, math.MaxInt32)
		}
	}
	return int(n)
}

// Of the metadata below the architecture's name, what a Config holds is read,
// what is here must have this value, and what is in ggufHarmless may have any.
// What is left is refused: llama.cpp has a key for all that changes a model.
var ggufOnly = map[string]float64{
	"expert_count": 0, "expert_used_count": 0, "expert_shared_count": 0, "leading_dense_block_count": 0,
	"attention.clamp_kqv": 0, "attention.max_alibi_bias": 0, "attention.scale": 0, "attention.causal": 1,
	"attn_logit_softcapping": 0, "final_logit_softcapping": 0, "use_parallel_residual": 0,
	"logit_scale": 1, "embedding_scale": 1, "residual_scale": 1, "rope.scaling.attn_factor": 1,
}

var ggufHarmless = strings.Fields(`block_count context_length embedding_length feed_forward_length vocab_size
	attention.head_count attention.head_count_kv attention.key_length attention.value_length
	attention.layer_norm_rms_epsilon attention.sliding_window
	rope.dimension_count rope.freq_base rope.scale_linear rope.scaling.type rope.scaling.factor
	rope.scaling.finetuned rope.scaling.original_context_length tensor_data_layout`)

// config reads the shape of the model and its architecture.
func (v *values) config() (c chainrule.Config, arch string) {
	if t := v.text("general.type", "model"); t != "model" {
		v.fail("general.type", "is %s, want model", quote(t))
	}
	if n := get(v, "split.count", 0, gguf.Value.Int); n > 1 {
		v.fail("split.count", "is %d: the model is in so many files; merge them with llama-gguf-split --merge", n)
	}
	arch = v.text("general.architecture", "")
	if known := []string{ggufLlama, ggufQwen2, ggufQwen3}; !slices.Contains(known, arch) {
		v.fail("general.architecture", "is %s, supported are %s", quote(arch), strings.Join(known, ", "))
	}
	v.arch = arch
	key := func(name string) string { return arch + "." + name }
	c = chainrule.Config{
		Dim:       v.size(key("embedding_length"), 0),
		HiddenDim: v.size(key("feed_forward_length"), 0),
		NLayers:   v.size(key("block_count"), 0),
		NHeads:    v.size(key("attention.head_count"), 0),
		SeqLen:    v.size(key("context_length"), 0),
		RopeTheta: v.float(key("rope.freq_base"), 10000),
		NormEps:   v.float(key("attention.layer_norm_rms_epsilon"), -1),
		QKNorm:    arch == ggufQwen3, QKVBias: arch == ggufQwen2,
	}
	if c.NormEps == -1 {
		v.fail(key("attention.layer_norm_rms_epsilon"), "is missing")
	}
	if v.err != nil {
		return c, arch
	}
	c.NKVHeads = v.size(key("attention.head_count_kv"), c.NHeads)
	c.HeadDim = v.size(key("attention.key_length"), max(1, c.Dim/c.NHeads))
	switch {
	case !v.has(key("attention.key_length")) && c.Dim%c.NHeads != 0:
		v.fail(key("attention.head_count"), "is %d, which does not divide embedding_length %d, and attention.key_length is missing",
			c.NHeads, c.Dim)
	case v.size(key("attention.value_length"), c.HeadDim) != c.HeadDim:
		v.fail(key("attention.value_length"), "is not %d, the length of a key", c.HeadDim)
	case v.size(key("rope.dimension_count"), c.HeadDim) != c.HeadDim:
		v.fail(key("rope.dimension_count"), "is not %d, the length of a key: RoPE of a part is not supported", c.HeadDim)
	}
	if e, ok := v.f.Lookup(ggufEmbedding); !ok || len(e.Shape) != 2 {
		v.err = cmpErr(v.err, fmt.Errorf("%w: there is no matrix %s", ErrTensors, ggufEmbedding))
	} else if c.VocabSize = e.Shape[0]; v.size(key("vocab_size"), c.VocabSize) != c.VocabSize {
		v.fail(key("vocab_size"), "is not %d, which is what the embedding has", c.VocabSize)
	}
	_, untied := v.f.Lookup("output.weight")
	c.Tied = !untied
	if _, biased := v.f.Lookup("blk.0.attn_q.bias"); biased && arch == ggufLlama {
		c.QKVBias = true
	}
	v.refuseOtherMaths()
	if n := get(v, key("attention.sliding_window"), 0, gguf.Value.Int); v.err == nil && 0 < n && n < int64(c.SeqLen) {
		v.notes = append(v.notes, fmt.Sprintf(
			"the context is %d tokens, not %d: beyond its sliding window the model is not supported", n, c.SeqLen))
		c.SeqLen = int(n)
	}
	v.rope(&c)
	if v.err == nil {
		if err := c.Validate(); err != nil {
			v.err = fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	return c, arch
}

// cmpErr returns the first error that is not nil.
func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// refuseOtherMaths fails for metadata that makes the model compute something
// else, or may.
func (v *values) refuseOtherMaths() {
	for _, key := range v.f.Keys() {
		name, ok := strings.CutPrefix(key, v.arch+".")
		if !ok || slices.Contains(ggufHarmless, name) {
			continue
		}
		x, _ := v.f.Value(key)
		only, known := ggufOnly[name]
		switch {
		case !known:
			v.fail(key, "is %s: it is not known, and may change what the model computes", quote(fmt.Sprint(x.Any())))
		case fmt.Sprint(x.Any()) != fmt.Sprint(only) && fmt.Sprint(x.Any()) != fmt.Sprint(only == 1):
			v.fail(key, "is %s, only %v is supported", quote(fmt.Sprint(x.Any())), only)
		}
	}
}

// rope reads how RoPE's frequencies are scaled.
func (v *values) rope(c *chainrule.Config) {
	key := func(name string) string { return v.arch + ".rope." + name }
	factor := v.float(key("scaling.factor"), v.float(key("scale_linear"), 0))
	if factor == 0 { // as llama.cpp has it
		factor = 1
	}
	switch t := v.text(key("scaling.type"), "linear"); {
	case t != "linear" && t != "none":
		v.fail(key("scaling.type"), "is %s, supported are none and linear", quote(t))
	case t == "linear" && factor != 1:
		c.RopeScaling = chainrule.RopeScaling{Type: "linear", Factor: factor}
	case factor != 1:
		v.fail(key("scaling.factor"), "is %v, but scaling.type is none", factor)
	}
	t, ok := v.f.Lookup(ropeFreqs)
	if !ok || v.err != nil {
		return
	}
	half := c.HeadDim / 2
	if c.HeadDim%2 != 0 || !slices.Equal(t.Shape, []int{half}) || t.Type != gguf.F32 || v.arch != ggufLlama {
		v.err = fmt.Errorf("%w: %s at byte %d is %v of %v, want %d of F32, in a file of llama", ErrTensors, t.Name, t.Offset, t.Shape, t.Type, half)
		return
	}
	factors := make([]float32, half)
	if err := v.f.ReadFloat32(factors, t); err != nil {
		v.err = err
		return
	}
	linear := c.RopeScaling
	if c.RopeScaling, ok = llama3Of(factors, *c); !ok || linear.Type != "" && c.RopeScaling.Type != "" {
		v.err = fmt.Errorf("%w: %s at byte %d has factors of frequencies that no RoPE scaling of type llama3 has, or there is another scaling",
			ErrConfig, t.Name, t.Offset)
	} else if c.RopeScaling.Type == "" {
		c.RopeScaling = linear
	}
}

// general returns what the file says about the model that any file of it may say.
func (v *values) general() (pairs []gguf.Pair) {
	for _, key := range v.f.Keys() {
		switch key {
		case "general.architecture", "general.type", "general.file_type", "general.quantization_version", "general.alignment":
			continue
		}
		if strings.HasPrefix(key, "general.") && !strings.HasPrefix(key, "general.sampling.") {
			x, _ := v.f.Value(key)
			pairs = append(pairs, gguf.Pair{Key: key, Value: x.Any()})
		}
	}
	return pairs
}

// ggufArchitecture returns the architecture that computes c in llama.cpp.
func ggufArchitecture(c chainrule.Config) (string, error) {
	arch := ggufLlama
	switch {
	case c.QKNorm:
		arch = ggufQwen3
	case c.QKVBias:
		arch = ggufQwen2
	}
	switch {
	case arch != ggufLlama && c.RopeScaling.Type == "llama3":
		return "", fmt.Errorf("%w: llama.cpp has RopeScaling of type llama3 for llama only, not for %s", ErrUnsupported, arch)
	case arch == ggufQwen2 && c.NHeads*c.HeadDim != c.Dim:
		return "", fmt.Errorf("%w: llama.cpp has no qwen2 with a HeadDim other than Dim/NHeads (here: %d)", ErrUnsupported, c.HeadDim)
	}
	for _, n := range []struct {
		name string
		x    float64
	}{{"RopeTheta", c.RopeTheta}, {"NormEps", c.NormEps}, {"RopeScaling.Factor", c.RopeScaling.Factor}} {
		if f := math.Abs(float64(float32(n.x))); n.x != 0 && (f == 0 || f > math.MaxFloat32) {
			return "", fmt.Errorf("%w: GGUF has %s as a float32, which %v is beyond", ErrUnsupported, n.name, n.x)
		}
	}
	return arch, nil
}

// configPairs returns the metadata of c.
func configPairs(c chainrule.Config, arch string) []gguf.Pair {
	var pairs []gguf.Pair
	add := func(name string, value any) { pairs = append(pairs, gguf.Pair{Key: arch + "." + name, Value: value}) }
	add("block_count", uint32(c.NLayers))
	add("context_length", uint32(c.SeqLen))
	add("embedding_length", uint32(c.Dim))
	add("feed_forward_length", uint32(c.HiddenDim))
	add("attention.head_count", uint32(c.NHeads))
	add("attention.head_count_kv", uint32(c.NKVHeads))
	add("attention.key_length", uint32(c.HeadDim))
	add("attention.value_length", uint32(c.HeadDim))
	add("attention.layer_norm_rms_epsilon", float32(c.NormEps))
	add("rope.dimension_count", uint32(c.HeadDim))
	add("rope.freq_base", float32(c.RopeTheta))
	add("vocab_size", uint32(c.VocabSize))
	if s := c.RopeScaling; s.Type == "linear" {
		add("rope.scaling.type", "linear")
		add("rope.scaling.factor", float32(s.Factor))
	}
	return pairs
}
