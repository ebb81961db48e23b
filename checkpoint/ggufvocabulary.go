package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule/checkpoint/gguf"
	"github.com/chainrule-go/chainrule/tokenizer"
)

const (
	tokensKey   = "tokenizer.ggml.tokens"
	modelKey    = "tokenizer.ggml.model"
	preKey      = "tokenizer.ggml.pre"
	templateKey = "tokenizer.chat_template"
)

// ggufPre are llama.cpp's names of how words are cut, by that of package
// tokenizer. It has several for some, and many more.
var ggufPre = map[string]string{
	"gpt-2": "gpt-2", "phi-2": "gpt-2",
	"llama-bpe": "llama-bpe", "llama3": "llama-bpe", "llama-v3": "llama-bpe",
	"qwen2": "qwen2", "deepseek-r1-qwen": "qwen2", "megrez": "qwen2",
	"smollm": "smollm", "starcoder": "smollm", "refact": "smollm",
}

// ggufStops are the tokens that llama.cpp stops at whatever a file says.
var ggufStops = []string{"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>"}

// sampling are the values of a Generation that a file may have.
var sampling = []struct {
	key string
	of  func(*Generation) *float64
}{
	{"general.sampling.temp", func(g *Generation) *float64 { return &g.Temperature }},
	{"general.sampling.top_p", func(g *Generation) *float64 { return &g.TopP }},
	{"general.sampling.min_p", func(g *Generation) *float64 { return &g.MinP }},
	{"general.sampling.penalty_repeat", func(g *Generation) *float64 { return &g.RepetitionPenalty }},
}

const topKKey = "general.sampling.top_k"

// readGGUFTokenizer reads tokenizer, chat template, special tokens and how to
// sample of a model of so many tokens.
func (b *Bundle) readGGUFTokenizer(v *values, vocabSize int) error {
	b.ChatTemplate = v.text(templateKey, "")
	b.Generation.readSampling(v)
	model := v.text(modelKey, "")
	if v.err != nil {
		return v.err
	}
	switch model {
	case "gpt2", "llama", "t5":
	case "", "none", "no_vocab":
		b.Tokenizer = bytesOf(vocabSize)
		return nil
	default:
		v.fail(modelKey, "is %s, supported are gpt2, llama and t5", quote(model))
		return v.err
	}

	tokens := get(v, tokensKey, nil, gguf.Value.Texts)
	var types []tokenizer.TokenType
	for _, t := range get(v, "tokenizer.ggml.token_type", nil, gguf.Value.Int32s) {
		types = append(types, tokenizer.TokenType(t))
	}
	scores := get(v, "tokenizer.ggml.scores", nil, gguf.Value.Float32s)
	switch n := len(tokens); {
	case v.err != nil:
		return v.err
	case n != vocabSize:
		return fmt.Errorf("%w: %w: %d tokens, but the model has %d", ErrConfig, tokenizer.ErrVocab, n, vocabSize)
	case types != nil && len(types) != n, len(scores) != n && (scores != nil || model != "gpt2"):
		return fmt.Errorf("%w: %w: %d tokens, %d types, %d scores", ErrConfig, tokenizer.ErrVocab, n, len(types), len(scores))
	}

	// A model of sentencepiece has ids for what the file does not say.
	addBOS, addEOS := model == "llama", model == "t5"
	absent := func(id int32) int32 {
		if model != "llama" {
			return -1
		}
		return id
	}
	special := func(name string, absent int32) (t SpecialToken) {
		key := "tokenizer.ggml." + name + "_token_id"
		id := get(v, key, int64(absent), gguf.Value.Int)
		switch {
		case id == -1: // as some programs write none
		case id < 0 || id >= int64(len(tokens)):
			v.fail(key, "is %d, of a vocabulary of %d", id, len(tokens))
		default:
			t = SpecialToken{tokens[id], int32(id)}
		}
		return t
	}
	b.Special = SpecialTokens{
		BOS: special("bos", absent(1)), EOS: special("eos", absent(2)), Unknown: special("unknown", absent(0)), Pad: special("padding", -1),
	}
	b.Generation.BOS, b.Generation.Pad = ids(b.Special.BOS), ids(b.Special.Pad)
	b.Generation.EOS = ids(b.Special.EOS, special("eot", -1), special("eom", -1))
	for id, t := range tokens {
		if slices.Contains(ggufStops, t) && !slices.Contains(b.Generation.EOS, int32(id)) {
			b.Generation.EOS = append(b.Generation.EOS, int32(id))
		}
	}

	pre := ""
	if model == "gpt2" {
		name := v.text(preKey, "")
		switch pre = ggufPre[name]; {
		case pre == "" && name == "":
			v.fail(preKey, "is missing: the file is of an old program that did not say how words are cut")
		case pre == "":
			v.fail(preKey, "is %s, supported are %s", quote(name), strings.Join(tokenizer.PreNames(), ", "))
		}
		addBOS = pre == "llama-bpe"
	}
	around := func(key string, absent bool, t SpecialToken) []int32 {
		if !v.bool(key, absent) {
			return nil
		}
		if t.Text == "" {
			v.fail(key, "is true, but there is no such token")
		}
		return []int32{t.ID}
	}
	prefix := around("tokenizer.ggml.add_bos_token", addBOS, b.Special.BOS)
	suffix := around("tokenizer.ggml.add_eos_token", addEOS, b.Special.EOS)

	var err error
	if model == "gpt2" {
		o := tokenizer.BPEOptions{Tokens: tokens, Types: types, Pre: pre, Prefix: prefix, Suffix: suffix}
		if o.Merges = get(v, "tokenizer.ggml.merges", nil, gguf.Value.Texts); v.err != nil {
			return v.err
		}
		b.Tokenizer, err = made(tokenizer.NewBPE(o))
		return err
	}
	o := tokenizer.SentencePieceOptions{
		Tokens: tokens, Scores: scores, Types: types, Unigram: model == "t5", Prefix: prefix, Suffix: suffix,
		NoSpacePrefix: !v.bool("tokenizer.ggml.add_space_prefix", model == "llama"),
		TrimSpaces:    v.bool("tokenizer.ggml.remove_extra_whitespaces", false),
		PrecompiledMap: get(v, "tokenizer.ggml.precompiled_charsmap", nil, func(x gguf.Value) ([]byte, error) {
			if bytes, ok := x.Any().([]byte); ok {
				return bytes, nil
			}
			signed, ok := x.Any().([]int8)
			bytes := make([]byte, len(signed))
			for i, c := range signed {
				bytes[i] = byte(c)
			}
			if !ok {
				return nil, fmt.Errorf("%s is not an array of bytes", x.Key())
			}
			return bytes, nil
		}),
	}
	const none = "is not what llama.cpp has for a tokenizer of the type llama"
	if model == "llama" && o.TrimSpaces {
		v.fail("tokenizer.ggml.remove_extra_whitespaces", none)
	}
	if model == "llama" && len(o.PrecompiledMap) > 0 {
		v.fail("tokenizer.ggml.precompiled_charsmap", none)
	}
	if v.err != nil {
		return v.err
	}
	for id, t := range types { // which llama.cpp looks for in the text itself
		if t == tokenizer.UserDefined {
			o.Tokens[id] = strings.ReplaceAll(o.Tokens[id], " ", metaspace)
		}
	}
	b.Tokenizer, err = made(tokenizer.NewSentencePiece(o))
	return err
}

const metaspace = "▁" // U+2581, what stands for a space in a model of sentencepiece

// made keeps a nil pointer from being a tokenizer.
func made[T tokenizer.Model](t T, err error) (tokenizer.Model, error) {
	if err != nil {
		return nil, err
	}
	return t, nil
}

// ids lists the ids of those that are there.
func ids(tokens ...SpecialToken) (list []int32) {
	for _, t := range tokens {
		if t.Text != "" && !slices.Contains(list, t.ID) {
			list = append(list, t.ID)
		}
	}
	return list
}

func (g *Generation) readSampling(v *values) {
	for _, s := range sampling {
		if v.has(s.key) {
			*s.of(g), g.DoSample = v.float(s.key, 0), true
			if x := *s.of(g); !(x >= 0 && x <= 1e6) {
				v.fail(s.key, "is %v, want 0 to 1e6", x)
			}
		}
	}
	if v.has(topKKey) {
		k := get(v, topKKey, 0, gguf.Value.Int)
		if g.TopK, g.DoSample = int(k), true; k <= 0 || k > 1<<31-1 {
			g.TopK = -1
		}
	}
}

// vocabularyPairs returns the metadata of tokenizer, chat template, special
// tokens and sampling, for a model of so many tokens.
func (b *Bundle) vocabularyPairs(vocabSize int) (pairs []gguf.Pair, err error) {
	add := func(key string, value any) { pairs = append(pairs, gguf.Pair{Key: key, Value: value}) }
	if g := b.Generation; g.DoSample {
		for _, s := range sampling {
			if x := *s.of(&g); x != 0 {
				add(s.key, float32(x))
			}
		}
		if g.TopK != 0 {
			add(topKKey, int32(max(g.TopK, 0)))
		}
	}
	bos, eos, unknown := b.Special.BOS, b.Special.EOS, b.Special.Unknown
	var prefix, suffix []int32
	switch t := b.Tokenizer.(type) {
	case nil:
		add(modelKey, "no_vocab")
		return pairs, nil
	case tokenizer.Byte:
		pairs, err = bpePairs(pairs, t.Options(), vocabSize)
	case *tokenizer.BPE:
		var o tokenizer.BPEOptions
		if o, err = t.Options(); err == nil {
			pairs, err = bpePairs(pairs, o, vocabSize)
		}
		prefix, suffix = t.Template()
	case *tokenizer.SentencePiece:
		o := t.Options()
		if id := slices.Index(o.Types, tokenizer.Unknown); unknown.Text == "" && id >= 0 {
			unknown = SpecialToken{o.Tokens[id], int32(id)}
		}
		pairs, err = sentencePiecePairs(pairs, o, vocabSize)
		prefix, suffix = t.Template()
	default:
		err = fmt.Errorf("a tokenizer of type %T", t)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}

	for _, a := range []struct {
		key   string
		ids   []int32
		token *SpecialToken
	}{{"tokenizer.ggml.add_bos_token", prefix, &bos}, {"tokenizer.ggml.add_eos_token", suffix, &eos}} {
		if len(a.ids) == 1 && a.token.Text == "" {
			*a.token = SpecialToken{b.Tokenizer.Token(a.ids[0]), a.ids[0]}
		}
		if len(a.ids) > 1 || len(a.ids) == 1 && a.ids[0] != a.token.ID {
			return nil, fmt.Errorf("%w: the tokens %d around a text, only those that begin and end one can be", ErrUnsupported, a.ids)
		}
		add(a.key, len(a.ids) == 1)
	}
	stops := ids(eos)
	for _, id := range b.Generation.EOS {
		anyway := len(stops) > 0 && slices.Contains(ggufStops, b.Tokenizer.Token(id))
		if !anyway && !slices.Contains(stops, id) {
			stops = append(stops, id)
		}
	}
	if len(stops) > 3 {
		return nil, fmt.Errorf("%w: an answer may end with any of the tokens %d, of which only 3 have a place", ErrUnsupported, stops)
	}
	names := []string{"eos", "eot", "eom"}
	for i, id := range stops {
		add("tokenizer.ggml."+names[i]+"_token_id", uint32(id))
	}
	for _, s := range []struct {
		name  string
		token SpecialToken
	}{{"bos", bos}, {"unknown", unknown}, {"padding", b.Special.Pad}} {
		if s.token.Text != "" {
			add("tokenizer.ggml."+s.name+"_token_id", uint32(s.token.ID))
		}
	}
	if b.ChatTemplate != "" {
		add(templateKey, b.ChatTemplate)
	}
	return pairs, nil
}

// fillTokens gives ids that have no token, up to vocabSize, one that no text
// becomes, as llama.cpp's converter does. Types beyond those given are Unused.
func fillTokens(tokens []string, types []tokenizer.TokenType, vocabSize int) ([]string, []int32) {
	kinds := make([]int32, vocabSize)
	for id := range kinds {
		kinds[id] = int32(tokenizer.Unused)
		if id < len(tokens) && tokens[id] != "" {
			kinds[id] = int32(types[id])
			continue
		}
		if id >= len(tokens) {
			tokens = append(tokens, "")
		}
		tokens[id] = fmt.Sprintf("[PAD%d]", id)
	}
	return tokens, kinds
}

func bpePairs(pairs []gguf.Pair, o tokenizer.BPEOptions, vocabSize int) ([]gguf.Pair, error) {
	if len(o.Tokens) > vocabSize {
		return nil, fmt.Errorf("the tokenizer has %d tokens, the model only %d", len(o.Tokens), vocabSize)
	}
	tokens, types := fillTokens(o.Tokens, o.Types, vocabSize)
	return append(pairs, gguf.Pair{Key: modelKey, Value: "gpt2"}, gguf.Pair{Key: preKey, Value: o.Pre},
		gguf.Pair{Key: tokensKey, Value: tokens}, gguf.Pair{Key: "tokenizer.ggml.token_type", Value: types},
		gguf.Pair{Key: "tokenizer.ggml.merges", Value: o.Merges}), nil
}

func sentencePiecePairs(pairs []gguf.Pair, o tokenizer.SentencePieceOptions, vocabSize int) ([]gguf.Pair, error) {
	switch {
	case len(o.Tokens) > vocabSize:
		return nil, fmt.Errorf("the tokenizer has %d tokens, the model only %d", len(o.Tokens), vocabSize)
	case !o.Unigram && o.TrimSpaces:
		return nil, fmt.Errorf("a BPE of sentencepiece that removes white space: llama.cpp has none")
	case !o.Unigram && len(o.PrecompiledMap) > 0:
		return nil, fmt.Errorf("a BPE of sentencepiece that normalizes text: llama.cpp has none")
	}
	for id, t := range o.Types {
		if t == tokenizer.UserDefined {
			o.Tokens[id] = strings.ReplaceAll(o.Tokens[id], metaspace, " ")
		}
	}
	tokens, types := fillTokens(o.Tokens, o.Types, vocabSize)
	for len(o.Scores) < vocabSize {
		o.Scores = append(o.Scores, -10000)
	}
	model, add := "llama", func(key string, value any) { pairs = append(pairs, gguf.Pair{Key: key, Value: value}) }
	if o.Unigram {
		model = "t5"
		add("tokenizer.ggml.remove_extra_whitespaces", o.TrimSpaces)
		if len(o.PrecompiledMap) > 0 {
			add("tokenizer.ggml.precompiled_charsmap", o.PrecompiledMap)
		}
	}
	add(modelKey, model)
	add(preKey, "default")
	add(tokensKey, tokens)
	add("tokenizer.ggml.scores", o.Scores)
	add("tokenizer.ggml.token_type", types)
	add("tokenizer.ggml.add_space_prefix", !o.NoSpacePrefix)
	return pairs, nil
}
