package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule/tokenizer"
)

const (
	tokenizerFile       = "tokenizer.json"
	sentencePieceFile   = "tokenizer.model"
	tokenizerConfigFile = "tokenizer_config.json"
	specialTokensFile   = "special_tokens_map.json"
	addedTokensFile     = "added_tokens.json"
	chatTemplateFile    = "chat_template.jinja"
)

// vocabularyFiles are those that make a tokenizer, all of which are written
// again as they were.
var vocabularyFiles = []struct {
	name string
	most int64
}{
	{tokenizerFile, 1 << 28}, {sentencePieceFile, 1 << 28}, {tokenizerConfigFile, 1 << 24}, {specialTokensFile, 1 << 24},
	{addedTokensFile, 1 << 24}, {chatTemplateFile, 1 << 24}, {"vocab.json", 1 << 28}, {"merges.txt", 1 << 28},
}

// readTokenizer reads what transformers makes a tokenizer of, from the first
// of dirs that has it.
func (b *Bundle) readTokenizer(dirs []string, d described) error {
	dir, found := dirs[0], false
	for _, at := range dirs {
		for _, f := range vocabularyFiles {
			content, err := readFile(filepath.Join(at, f.name), f.most)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			b.source.keep(f.name, content)
			dir, found = at, true
		}
		if found {
			break
		}
	}
	err := b.makeTokenizer(dir, d)
	if err != nil {
		return err
	}
	if b.Tokenizer == nil {
		if b.Tokenizer = bytesOf(d.VocabSize); b.Tokenizer == nil && b.source.files["vocab.json"] != nil {
			b.Notes = append(b.Notes, "vocab.json and merges.txt are not read: have transformers save a "+tokenizerFile)
		}
		return nil
	}
	if n := b.Tokenizer.VocabSize(); n > d.VocabSize {
		return fmt.Errorf("%s: %w: the tokenizer has %d tokens, the model only %d", dir, ErrConfig, n, d.VocabSize)
	}
	return nil
}

// vocabulary is the content of the JSON files of a tokenizer.
type vocabulary struct {
	dir             string
	config, special *object // tokenizer_config.json and special_tokens_map.json; never nil
	added           []tokenizer.AddedToken
	class           string // of transformers; "": it says none
}

// makeTokenizer makes a tokenizer of the files that were kept.
func (b *Bundle) makeTokenizer(dir string, d described) error {
	files := b.source.files
	v := vocabulary{dir: dir}
	var err error
	if v.config, err = v.object(tokenizerConfigFile, files); err != nil {
		return err
	}
	if v.special, err = v.object(specialTokensFile, files); err != nil {
		return err
	}
	if err := v.readAdded(files); err != nil {
		return err
	}
	if b.ChatTemplate, err = v.chatTemplate(files); err != nil {
		return err
	}
	v.class = strings.TrimSuffix(v.config.string("tokenizer_class", ""), "Fast")
	if v.config.err != nil {
		return v.in(tokenizerConfigFile, v.config.err)
	}

	switch content, pieces := files[tokenizerFile], files[sentencePieceFile]; {
	case content != nil:
		t, err := tokenizer.ReadJSON(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return v.in(tokenizerFile, err)
		}
		if err := v.addSpecial(b, t, d.VocabSize); err != nil {
			return err
		}
		if t, err = t.AddTokens(v.added...); err != nil {
			return v.in(tokenizerConfigFile, err)
		}
		b.Tokenizer = t
		if v.class != "LlamaTokenizer" && v.class != "CodeLlamaTokenizer" { // others leave the template as it is
			break
		}
		return v.setTemplate(b, t.SetTemplate)
	case pieces != nil:
		t, err := tokenizer.ReadSentencePiece(bytes.NewReader(pieces), int64(len(pieces)))
		if err != nil {
			return v.in(sentencePieceFile, err)
		}
		v.class = cmp.Or(v.class, "LlamaTokenizer")
		if err := v.addSpecial(b, t, d.VocabSize); err != nil {
			return err
		}
		if t, err = t.AddTokens(v.added...); err != nil {
			return v.in(tokenizerConfigFile, err)
		}
		b.Tokenizer = t
		if !v.config.bool("legacy", true) {
			b.Notes = append(b.Notes, "legacy is false in "+tokenizerConfigFile+
				", but text behind a special token gets a space before it; a "+tokenizerFile+" would say it all")
		}
		return v.setTemplate(b, t.SetTemplate)
	}
	return nil
}

func (v *vocabulary) in(file string, err error) error {
	return fmt.Errorf("%s: %w", filepath.Join(v.dir, file), err)
}

// object parses one of the files, as an empty object if it is not there.
func (v *vocabulary) object(name string, files map[string][]byte) (*object, error) {
	content, ok := files[name]
	if !ok {
		return &object{}, nil
	}
	o, err := parseObject(content)
	if err != nil {
		return nil, v.in(name, explain(content, err))
	}
	return o, nil
}

// readAdded reads the tokens that come to a vocabulary: added_tokens_decoder,
// or added_tokens.json as older releases write it.
func (v *vocabulary) readAdded(files map[string][]byte) error {
	if o := v.config.object("added_tokens_decoder"); o != nil {
		for key := range o.members {
			id, err := strconv.ParseInt(key, 10, 32)
			t := o.object(key)
			if err != nil || t == nil {
				o.fail(key, "is %s, want an id and a token", quote(o.members[key]))
				break
			}
			if t.bool("single_word", false) {
				t.fail("single_word", "is true, which is not supported")
			}
			v.added = append(v.added, tokenizer.AddedToken{
				ID: int32(id), Content: t.string("content", ""), Special: t.bool("special", false),
				LStrip: t.bool("lstrip", false), RStrip: t.bool("rstrip", false), Normalized: t.bool("normalized", true),
			})
			if t.err != nil {
				return v.in(tokenizerConfigFile, t.err)
			}
		}
		if err := cmp.Or(v.config.err, o.err); err != nil {
			return v.in(tokenizerConfigFile, err)
		}
	} else if content, ok := files[addedTokensFile]; ok {
		o, err := v.object(addedTokensFile, files)
		if err != nil {
			return err
		}
		special := v.names()
		for text := range o.members {
			id := o.count(text)
			v.added = append(v.added, tokenizer.AddedToken{
				ID: int32(id), Content: text, Special: slices.Contains(special, text), Normalized: !slices.Contains(special, text),
			})
		}
		if o.err != nil {
			return v.in(addedTokensFile, explain(content, o.err))
		}
	}
	slices.SortFunc(v.added, func(a, b tokenizer.AddedToken) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

// text returns the spelling of a token that has a name, "" if there is none.
// As in transformers, special_tokens_map.json counts only where
// tokenizer_config.json does not say what is added.
func (v *vocabulary) text(name, absent string) string {
	for _, o := range []*object{v.special, v.config} {
		if o == v.special && v.config.has("added_tokens_decoder") {
			continue
		}
		if m, there := o.members[name]; there {
			return tokenText(o, name, m)
		}
	}
	return absent
}

// tokenText reads a token as transformers writes it: null, its spelling, or an
// object with it.
func tokenText(o *object, name string, m json.RawMessage) (text string) {
	var token struct{ Content *string }
	switch {
	case string(m) == "null" || json.Unmarshal(m, &text) == nil:
	case json.Unmarshal(m, &token) == nil && token.Content != nil:
		text = *token.Content
	default:
		o.fail(name, "is %s, want a token", quote(m))
	}
	return text
}

// namedTokens are the tokens with a name, and what the class LlamaTokenizer
// takes for those that are absent.
var namedTokens = []struct {
	name, llama string
	of          func(*SpecialTokens) *SpecialToken
}{
	{"bos_token", "<s>", func(s *SpecialTokens) *SpecialToken { return &s.BOS }},
	{"eos_token", "</s>", func(s *SpecialTokens) *SpecialToken { return &s.EOS }},
	{"unk_token", "<unk>", func(s *SpecialTokens) *SpecialToken { return &s.Unknown }},
	{"pad_token", "", func(s *SpecialTokens) *SpecialToken { return &s.Pad }},
}

// names lists the spellings of all tokens that are special.
func (v *vocabulary) names() (names []string) {
	for _, t := range namedTokens {
		names = append(names, v.text(t.name, ""))
	}
	for _, o := range []*object{v.config, v.special} {
		var list []json.RawMessage
		if json.Unmarshal(o.members["additional_special_tokens"], &list) == nil {
			for _, m := range list {
				names = append(names, tokenText(o, "additional_special_tokens", m))
			}
		}
	}
	return slices.DeleteFunc(names, func(s string) bool { return s == "" })
}

// addSpecial sets b.Special, and adds to v.added the special tokens that t
// does not have as such: transformers adds them, too.
func (v *vocabulary) addSpecial(b *Bundle, t tokenizer.Model, vocabSize int) error {
	ids := map[string]int32{}
	next, names := int32(t.VocabSize()), v.names()
	for i, a := range v.added {
		ids[a.Content] = a.ID
		next = max(next, a.ID+1)
		v.added[i].Special = a.Special || slices.Contains(names, a.Content)
	}
	add := func(text string) {
		if _, ok := ids[text]; ok || text == "" {
			return
		}
		id, there := t.ID(text)
		if !there {
			if int(next) >= vocabSize {
				b.Notes = append(b.Notes, fmt.Sprintf("the token %s is left out: the model has only %d", quote(text), vocabSize))
				return
			}
			id, next = next, next+1
		}
		ids[text] = id
		if !there || !t.Special(id) {
			v.added = append(v.added, tokenizer.AddedToken{ID: id, Content: text, Special: true})
		}
	}
	for _, n := range namedTokens {
		absent := ""
		if v.class == "LlamaTokenizer" {
			absent = n.llama
		}
		text := v.text(n.name, absent)
		add(text)
		if id, ok := ids[text]; ok {
			*n.of(&b.Special) = SpecialToken{text, id}
		}
	}
	for _, text := range names {
		add(text)
	}
	if v.special.err != nil {
		return v.in(specialTokensFile, v.special.err)
	}
	if v.config.err != nil {
		return v.in(tokenizerConfigFile, v.config.err)
	}
	return nil
}

// setTemplate gives a tokenizer of the class LlamaTokenizer the template that
// tokenizer_config.json asks for.
func (v *vocabulary) setTemplate(b *Bundle, set func(prefix, suffix []int32) error) error {
	var prefix, suffix []int32
	for _, add := range []struct {
		key    string
		absent bool
		token  SpecialToken
		to     *[]int32
	}{{"add_bos_token", true, b.Special.BOS, &prefix}, {"add_eos_token", false, b.Special.EOS, &suffix}} {
		if !v.config.bool(add.key, add.absent) {
			continue
		}
		if add.token.Text == "" {
			v.config.fail(add.key, "is true, but there is no such token")
		}
		*add.to = []int32{add.token.ID}
	}
	if v.config.err != nil {
		return v.in(tokenizerConfigFile, v.config.err)
	}
	return set(prefix, suffix)
}

// chatTemplate returns the template by default of those that are there.
func (v *vocabulary) chatTemplate(files map[string][]byte) (string, error) {
	if t, ok := files[chatTemplateFile]; ok {
		return string(t), nil
	}
	m, ok := v.config.members["chat_template"]
	if !ok {
		return "", nil
	}
	var one *string
	var list []struct{ Name, Template string }
	switch {
	case json.Unmarshal(m, &one) == nil:
		if one != nil {
			return *one, nil
		}
	case json.Unmarshal(m, &list) == nil:
		for _, t := range list {
			if t.Name == "default" {
				return t.Template, nil
			}
		}
	default:
		return "", v.in(tokenizerConfigFile, fmt.Errorf("%w: chat_template is %s, want a string or a list of templates", ErrConfig, quote(m)))
	}
	return "", nil
}
