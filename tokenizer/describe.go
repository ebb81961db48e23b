package tokenizer

import (
	"slices"
	"strings"
)

// Options returns what NewBPE makes a tokenizer of the same ids of, for
// another format than tokenizer.json; an id that is of no token has the token
// "". The error wraps ErrUnsupported if options cannot say it: of a BPE that
// is not byte-level, that cuts words in a way that has no name, or whose added
// tokens take white space with them or are found in normalized text.
func (b *BPE) Options() (BPEOptions, error) {
	o, err := b.options()
	return o, in("options", err)
}

func (b *BPE) options() (o BPEOptions, err error) {
	defer catch(&err)
	s := b.spec
	if o.Pre = b.pre(); o.Pre == "" {
		return o, fail(ErrUnsupported, "normalizer, pre-tokenizer and ignore_merges are not those of any of %q", PreNames())
	}
	if s.unk != "" {
		return o, fail(ErrUnsupported, "an unk_token of the model")
	}
	o.Tokens, o.Types = slices.Clone(b.tokens), make([]TokenType, len(b.tokens))
	for id := range o.Types {
		o.Types[id] = Normal
	}
	for _, t := range s.added {
		if t.LStrip || t.RStrip || t.Normalized && len(b.pipe.normalize) > 0 {
			return o, fail(ErrUnsupported, "the added token %q is lstrip, rstrip or normalized", short(t.Content))
		}
		o.Types[t.ID] = UserDefined
		if t.Special {
			o.Types[t.ID] = Control
		}
	}
	o.Merges = make([]string, len(s.merges))
	for i, m := range s.merges {
		o.Merges[i] = b.tokens[m[0]] + " " + b.tokens[m[1]]
	}
	o.Prefix, o.Suffix = b.Template()
	return o, nil
}

// pre returns which of PreNames b is cut as, "" if none.
func (b *BPE) pre() string {
	if !slices.Equal(kinds("decoder", "decoders", b.spec.decoder), []string{"ByteLevel"}) || b.pipe.spacePrefix || b.pipe.meta != "" {
		return ""
	}
	for _, name := range PreNames() {
		p := pres[name]
		var named pipeline
		named.addPreTokenizer(parseComponent("pre_tokenizer", []byte(p.preTokenizer)))
		if p.wholeWords == b.spec.wholeWords && b.pipe.byteLevel && slices.Equal(named.split, b.pipe.split) &&
			slices.Equal(kinds("normalizer", "normalizers", b.spec.normalizer), kinds("normalizer", "normalizers", []byte(p.normalizer))) {
			return name
		}
	}
	return ""
}

// kinds returns the types of a component, of a Sequence those of its list.
func kinds(what, list string, data []byte) []string {
	c := parseComponent(what, data)
	switch {
	case c.null:
		return nil
	case c.kind != "Sequence":
		return []string{c.kind}
	}
	var all []string
	for _, c := range c.list(list) {
		all = append(all, c.kind)
	}
	return all
}

// Options returns what NewSentencePiece makes a model of the same ids of. A
// model of llama2.c, to which a space is a space, comes as the one of the library that
// it was made from.
func (s *SentencePiece) Options() SentencePieceOptions {
	o := s.o
	o.Tokens, o.Scores, o.Types = slices.Clone(o.Tokens), slices.Clone(o.Scores), slices.Clone(o.Types)
	o.PrecompiledMap = slices.Clone(o.PrecompiledMap)
	o.Prefix, o.Suffix = s.Template()
	if o.noEscape && o.stripSpace {
		for id, t := range o.Tokens {
			if o.Types[id] == Normal {
				o.Tokens[id] = strings.ReplaceAll(t, " ", metaspace)
			}
		}
		o.noEscape, o.stripSpace = false, false
	}
	return o
}

// Options returns what NewBPE makes a tokenizer of the same ids of: its tokens
// are the bytes, and nothing merges.
func (Byte) Options() BPEOptions {
	o := BPEOptions{Pre: "gpt-2", Tokens: make([]string, 256), Types: make([]TokenType, 256), Merges: []string{}}
	for c, r := range byteRunes {
		o.Tokens[c], o.Types[c] = string(r), Normal
	}
	return o
}
