package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// BPEOptions is what a byte-level BPE is made of where it is not in a
// tokenizer.json, such as in the metadata of a GGUF file.
type BPEOptions struct {
	Tokens []string    // by id, in the byte alphabet, where Ġ is a space
	Types  []TokenType // of tokens; nil: all Normal
	Merges []string    // "left right", the first merges first
	Pre    string      // how text is cut into words: one of PreNames

	Prefix, Suffix []int32 // what Template returns
}

const (
	jsonByteLevel = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}`
	jsonBytes     = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}`
)

// pres are the components of tokenizer.json that the names of GGUF's
// tokenizer.ggml.pre stand for.
var pres = map[string]struct {
	normalizer, preTokenizer string
	wholeWords               bool
}{
	"gpt-2":     {preTokenizer: jsonByteLevel},
	"llama-bpe": {preTokenizer: jsonSplit(patternLlama3), wholeWords: true},
	"qwen2":     {normalizer: `{"type":"NFC"}`, preTokenizer: jsonSplit(patternQwen2)},
	"smollm": {preTokenizer: `{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},` +
		jsonByteLevel + `]}`},
}

func jsonSplit(pattern string) string {
	quoted, err := json.Marshal(pattern)
	if err != nil {
		panic("chainrule: a pattern that is no JSON")
	}
	return `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":` + string(quoted) +
		`},"behavior":"Isolated","invert":false},` + jsonBytes + `]}`
}

// PreNames are the values of BPEOptions.Pre: gpt-2, llama-bpe (Llama 3),
// qwen2 (and Qwen 2.5 and 3) and smollm (and SmolLM2).
func PreNames() []string { return []string{"gpt-2", "llama-bpe", "qwen2", "smollm"} }

// NewBPE makes a byte-level BPE, with the ids of the tokenizer.json of a model with
// such a Pre. Control and Unknown tokens are special, UserDefined ones are not
// and are found in any text.
func NewBPE(o BPEOptions) (*BPE, error) {
	b, err := newBPEOptions(o)
	return b, in("options", err)
}

func newBPEOptions(o BPEOptions) (*BPE, error) {
	pre, ok := pres[o.Pre]
	switch {
	case !ok:
		return nil, fail(ErrUnsupported, "the pre-tokenizer %q, want one of %q", short(o.Pre), PreNames())
	case o.Types != nil && len(o.Types) != len(o.Tokens):
		return nil, fail(ErrVocab, "%d tokens, %d types", len(o.Tokens), len(o.Types))
	case len(o.Tokens) >= maxID:
		return nil, fail(ErrTooLarge, "%d tokens", len(o.Tokens))
	}
	s := &bpeSpec{
		tokens: make([]string, len(o.Tokens)), wholeWords: pre.wholeWords,
		normalizer: []byte(pre.normalizer), preTokenizer: []byte(pre.preTokenizer),
		decoder: []byte(jsonByteLevel),
	}
	ids := make(map[string]int32, len(o.Tokens))
	for i, t := range o.Tokens {
		if t == "" {
			return nil, fail(ErrVocab, "token %d is empty", i)
		}
		if _, ok := ids[t]; ok {
			return nil, fail(ErrVocab, "token %q occurs twice", short(t))
		}
		ids[t] = int32(i)
		typ := Normal
		if o.Types != nil {
			typ = o.Types[i]
		}
		switch typ {
		case 0, Normal, Unused, ByteToken:
			s.tokens[i] = t
		case Control, Unknown, UserDefined:
			s.added = append(s.added, AddedToken{ID: int32(i), Content: t, Special: typ != UserDefined})
		default:
			return nil, fail(ErrVocab, "token %d, %q, has the type %d", i, short(t), typ)
		}
	}
	s.merges, s.merged = make([][2]int32, 0, len(o.Merges)), make([]int32, 0, len(o.Merges))
	for i, m := range o.Merges {
		left, right, ok := cutMerge(m)
		if !ok {
			return nil, fail(ErrFormat, "merge %d is %q, want two tokens and one space", i, short(m))
		}
		if err := s.addMerge(left, right, ids); err != nil {
			return nil, fail(err, "merge %d of %q and %q: these or what they make is not a token", i, short(left), short(right))
		}
	}
	b, err := newBPE(s)
	if err != nil {
		return nil, err
	}
	return b, b.SetTemplate(o.Prefix, o.Suffix)
}

// cutMerge cuts "left right".
func cutMerge(line string) (left, right string, ok bool) {
	left, right, ok = strings.Cut(line, " ")
	return left, right, ok && !strings.Contains(right, " ")
}

func (s *bpeSpec) addMerge(left, right string, ids map[string]int32) error {
	l, ok1 := ids[left]
	r, ok2 := ids[right]
	id, ok3 := ids[left+right]
	if !ok1 || !ok2 || !ok3 {
		return ErrVocab
	}
	s.merges = append(s.merges, [2]int32{l, r})
	s.merged = append(s.merged, id)
	return nil
}

// SetTemplate replaces what Template returns, before the tokenizer is in use.
// It fails if an id is of no token.
func (b *BPE) SetTemplate(prefix, suffix []int32) error {
	for _, id := range slices.Concat(prefix, suffix) {
		if b.Token(id) == "" {
			return in("options", fail(ErrVocab, "the template has the id %d, which no token has", id))
		}
	}
	b.pipe.template = templateIDs{slices.Clone(prefix), slices.Clone(suffix)}
	if len(prefix)+len(suffix) == 0 {
		b.spec.postProcessor = nil
		return nil
	}
	type special struct {
		ID     string   `json:"id"`
		IDs    []int32  `json:"ids"`
		Tokens []string `json:"tokens"`
	}
	specials := map[string]special{}
	piece := func(id int32) any {
		t := b.Token(id)
		specials[t] = special{t, []int32{id}, []string{t}}
		return map[string]any{"SpecialToken": map[string]any{"id": t, "type_id": 0}}
	}
	text := func(name string) any { return map[string]any{"Sequence": map[string]any{"id": name, "type_id": 0}} }
	var single, pair []any
	for _, name := range []string{"A", "B"} {
		var one []any
		for _, id := range prefix {
			one = append(one, piece(id))
		}
		one = append(one, text(name))
		for _, id := range suffix {
			one = append(one, piece(id))
		}
		pair = append(pair, one...)
		if name == "A" {
			single = one
		}
	}
	data, err := json.Marshal(map[string]any{
		"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials,
	})
	if err != nil {
		return fmt.Errorf("tokenizer: the template as JSON: %w", err)
	}
	b.spec.postProcessor = data
	return nil
}
