package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// files returns the files of a model directory but for the weights, which have
// the dtype torchDType.
func (b *Bundle) files(torchDType string) (map[string][]byte, error) {
	files := map[string][]byte{}
	from := &b.source
	files[configFile] = marshalConfig(b.Model.Config, b.Generation, torchDType)
	if config, ok := from.files[configFile]; ok {
		if d, err := describe(config); err == nil && d.Config == b.Model.Config {
			key := "torch_dtype"
			if o, err := parseObject(config); err == nil && !o.has(key) && o.has("dtype") {
				key = "dtype" // of transformers 5
			}
			if files[configFile], err = setMember(config, key, torchDType); err != nil {
				return nil, err
			}
		}
	}
	switch generation, ok := from.files[generationFile]; {
	case ok && b.Generation.equal(from.generation):
		files[generationFile] = generation
	case !b.Generation.equal(Generation{}):
		files[generationFile] = b.Generation.marshal()
	}
	if b.Tokenizer == nil {
		return files, nil
	}
	if b.Tokenizer != from.tokenizer || from.files[tokenizerFile] == nil && from.files[sentencePieceFile] == nil {
		return files, b.newTokenizerFiles(files)
	}
	for _, f := range vocabularyFiles {
		if content, ok := from.files[f.name]; ok {
			files[f.name] = content
		}
	}
	return files, b.editTokenizerFiles(files)
}

// editTokenizerFiles changes what no longer says what b has.
func (b *Bundle) editTokenizerFiles(files map[string][]byte) error {
	config := files[tokenizerConfigFile]
	if config == nil {
		config = []byte("{}\n")
	}
	edited := config
	set := func(key string, value any) (err error) {
		edited, err = setMember(edited, key, value)
		return err
	}
	if b.ChatTemplate != b.source.chatTemplate {
		delete(files, chatTemplateFile)
		if err := set("chat_template", b.ChatTemplate); err != nil {
			return err
		}
	}
	if b.Special != b.source.special {
		for _, n := range namedTokens {
			if err := set(n.name, textOrNull(n.of(&b.Special).Text)); err != nil {
				return err
			}
		}
		files[specialTokensFile] = b.Special.marshal()
	}
	if !bytes.Equal(edited, config) {
		files[tokenizerConfigFile] = edited
	}
	return nil
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// marshal writes s as a special_tokens_map.json.
func (s SpecialTokens) marshal() []byte {
	texts := map[string]string{}
	for _, n := range namedTokens {
		if t := n.of(&s).Text; t != "" {
			texts[n.name] = t
		}
	}
	return marshalIndented(texts)
}

func marshalIndented(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // tokens are full of < and >
	e.SetIndent("", "  ")
	if e.Encode(v) != nil {
		panic("checkpoint: strings that are no JSON")
	}
	return b.Bytes()
}

// newTokenizerFiles writes the tokenizer of b as transformers reads it.
func (b *Bundle) newTokenizerFiles(files map[string][]byte) error {
	config := map[string]any{"model_max_length": b.Model.SeqLen, "clean_up_tokenization_spaces": false}
	for _, n := range namedTokens {
		config[n.name] = textOrNull(n.of(&b.Special).Text)
	}
	if b.ChatTemplate != "" {
		config["chat_template"] = b.ChatTemplate
	}
	var content bytes.Buffer
	switch t := b.Tokenizer.(type) {
	case interface{ WriteJSON(io.Writer) error }:
		if err := t.WriteJSON(&content); err != nil {
			return err
		}
		files[tokenizerFile] = content.Bytes()
		config["tokenizer_class"] = "PreTrainedTokenizerFast"
	case *tokenizer.SentencePiece:
		if err := t.WriteModel(&content); err != nil {
			return err
		}
		files[sentencePieceFile] = content.Bytes()
		config["tokenizer_class"], config["legacy"] = "LlamaTokenizer", true
		prefix, suffix := t.Template()
		for _, add := range []struct {
			key   string
			ids   []int32
			token SpecialToken
		}{{"add_bos_token", prefix, b.Special.BOS}, {"add_eos_token", suffix, b.Special.EOS}} {
			if len(add.ids) > 0 && (add.token.Text == "" || !slices.Equal(add.ids, []int32{add.token.ID})) {
				return fmt.Errorf("%w: a sentencepiece tokenizer with %v around a text", ErrUnsupported, add.ids)
			}
			config[add.key] = len(add.ids) > 0
		}
	default:
		return fmt.Errorf("%w: a %T has no file that transformers reads", ErrUnsupported, t)
	}
	files[tokenizerConfigFile] = marshalIndented(config)
	files[specialTokensFile] = b.Special.marshal()
	return nil
}

// setMember returns the JSON object b with a member set to a value, and all
// else as it is.
func setMember(b []byte, key string, value any) ([]byte, error) {
	var v bytes.Buffer
	e := json.NewEncoder(&v)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(v.Bytes(), []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	last := d.InputOffset() // where the last member ends
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var old json.RawMessage
		if err := d.Decode(&old); err != nil {
			return nil, err
		}
		last = d.InputOffset()
		if name == key {
			return slices.Concat(b[:last-int64(len(old))], text, b[last:]), nil
		}
	}
	comma := ","
	if strings.TrimSpace(string(b[:last])) == "{" {
		comma = ""
	}
	member := fmt.Appendf(nil, "%s\n  %q: %s", comma, key, text)
	return slices.Concat(b[:last], member, b[last:]), nil
}
