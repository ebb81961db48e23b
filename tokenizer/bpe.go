package tokenizer

import (
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// BPE is byte pair encoding as Hugging Face's tokenizers does it, byte-level
// (GPT-2, Llama 3, Qwen, SmolLM) or of characters with bytes for those it does
// not know (Llama 2): its ids are those that the package gives. It is safe for concurrent
// use.
//
// Text is any string. What is not UTF-8, which the reference does not take, is
// neither a letter nor a number nor a space to a pattern, and is encoded byte
// by byte: Decode gives it back, but for bytes that the vocabulary has not
// (SmolLM2's has not all) and that are nothing, as in the reference.
type BPE struct {
	tokens []string         // as the vocabulary spells them; "" where an id is of none
	bytes  []string         // what they decode to
	ids    map[string]int32 // of tokens, added ones too
	whole  map[string]int32 // of bytes, if words that are tokens are not merged
	spec   *bpeSpec         // what it was made of, to be written again
	added  map[int32]bool   // special?
	pipe   pipeline
	pairs  *pairTable
	raw    *matcher // of added tokens, in text
	normal *matcher // and in normalized text

	byteID [256]int32 // the token of a byte, -1 for none
	unk    int32      // the token of what has none, -1 for none

	scratch sync.Pool // of *bpeScratch
}

// bpeSpec is what a BPE is made of.
type bpeSpec struct {
	tokens     []string         // of the model, by id
	ids        map[string]int32 // of tokens; nil: not yet made
	merges     [][2]int32       // ids, in order of rank
	merged     []int32          // what they merge to
	added      []AddedToken
	unk        string // "" for none
	fuseUnk    bool
	fallback   bool // characters that have no token are bytes
	wholeWords bool // ignore_merges

	// The components, as JSON.
	normalizer, preTokenizer, postProcessor, decoder []byte
}

func newBPE(s *bpeSpec) (b *BPE, err error) {
	defer catch(&err)
	b = &BPE{spec: s, ids: s.ids, unk: -1, added: map[int32]bool{}}
	b.pipe.addNormalizer(parseComponent("normalizer", s.normalizer))
	b.pipe.addPreTokenizer(parseComponent("pre_tokenizer", s.preTokenizer))
	b.pipe.addPostProcessor(parseComponent("post_processor", s.postProcessor))
	b.pipe.addDecoder(parseComponent("decoder", s.decoder))
	if b.pipe.byteLevel && s.fallback {
		return nil, fail(ErrUnsupported, "byte_fallback of a byte-level model")
	}

	b.tokens = slices.Clone(s.tokens)
	if b.ids == nil {
		b.ids = make(map[string]int32, len(s.tokens)+len(s.added))
		for id, t := range s.tokens {
			if _, ok := b.ids[t]; ok {
				return nil, fail(ErrVocab, "token %q occurs twice", short(t))
			}
			if t != "" {
				b.ids[t] = int32(id)
			}
		}
	}
	s.ids = nil // the added ones come to it
	if err := b.addTokens(); err != nil {
		return nil, err
	}
	b.bytes = make([]string, len(b.tokens))
	for id, t := range b.tokens {
		b.bytes[id] = b.pipe.decode.token(t)
	}
	for _, id := range slices.Concat(b.pipe.template.prefix, b.pipe.template.suffix) {
		if int(id) >= len(b.tokens) || b.tokens[id] == "" {
			return nil, fail(ErrVocab, "the template has the id %d, which no token has", id)
		}
	}

	if s.unk != "" {
		id, ok := b.ids[s.unk]
		if !ok {
			return nil, fail(ErrVocab, "unk_token %q is not a token", short(s.unk))
		}
		b.unk = id
	}
	for c := range b.byteID {
		spelled := string(byteRunes[c])
		if !b.pipe.byteLevel {
			spelled = byteToken(byte(c))
		}
		b.byteID[c] = -1
		if id, ok := b.ids[spelled]; ok && int(id) < len(s.tokens) && s.tokens[id] != "" {
			b.byteID[c] = id
		}
	}
	b.pairs = newPairTable(len(s.merges))
	for rank, m := range s.merges {
		b.pairs.set(m[0], m[1], uint32(rank), s.merged[rank])
	}
	if s.wholeWords {
		b.whole = make(map[string]int32, len(s.tokens))
		for id, t := range s.tokens {
			w, ok := t, t != ""
			if ok && b.pipe.byteLevel {
				w, ok = cutByteLevel(t) // else no text is spelled so
			}
			if ok {
				b.whole[w] = int32(id)
			}
		}
	}
	if len(b.pipe.split) == 0 && !b.pipe.byteLevel && b.spacesLead() {
		b.pipe.split = []splitter{metaSplitter{metaspace, true}}
	}
	b.scratch.New = func() any { return &bpeScratch{cache: map[string]cached{}} }
	return b, nil
}

// spacesLead reports whether no merge has a ▁ after something else: then text
// may be cut there, which saves memory and time and changes nothing.
func (b *BPE) spacesLead() bool {
	if _, ok := b.ids[metaspace]; !ok || b.spec.wholeWords {
		return false
	}
	for _, id := range b.spec.merged {
		if strings.Contains(strings.TrimLeft(b.tokens[id], metaspace), metaspace) {
			return false
		}
	}
	return true
}

// addTokens gives the added tokens their ids, which the reference counts on
// from the vocabulary.
func (b *BPE) addTokens() error {
	normalize := func(s string) string { return s }
	if len(b.pipe.normalize) > 0 {
		normalize = func(s string) string { return b.normalize(s, nil) }
	}
	var raw, normal []AddedToken
	var rawSpelled, normalSpelled []string
	for _, t := range b.spec.added {
		id, ok := b.ids[t.Content]
		switch {
		case t.Content == "":
			return fail(ErrVocab, "added token %d is empty", t.ID)
		case t.ID < 0 || int(t.ID) >= len(b.spec.tokens)+len(b.spec.added):
			return fail(ErrVocab, "added token %q has the id %d, of a vocabulary of %d", short(t.Content), t.ID, len(b.tokens))
		case ok && id != t.ID:
			return fail(ErrVocab, "added token %q has the id %d in the vocabulary, and %d as an added token", short(t.Content), id, t.ID)
		case !ok && int(t.ID) < len(b.tokens) && b.tokens[t.ID] != "":
			return fail(ErrVocab, "added token %q has the id %d of %q", short(t.Content), t.ID, short(b.tokens[t.ID]))
		}
		for int(t.ID) >= len(b.tokens) {
			b.tokens = append(b.tokens, "")
		}
		if _, ok := b.added[t.ID]; ok {
			return fail(ErrVocab, "added token %q occurs twice", short(t.Content))
		}
		b.tokens[t.ID], b.ids[t.Content], b.added[t.ID] = t.Content, t.ID, t.Special
		spelled := t.Content
		if t.Normalized {
			spelled = normalize(spelled)
			if spelled == "" {
				return fail(ErrVocab, "added token %q is normalized to nothing", short(t.Content))
			}
			normal, normalSpelled = append(normal, t), append(normalSpelled, spelled)
		} else {
			raw, rawSpelled = append(raw, t), append(rawSpelled, spelled)
		}
	}
	var err error
	if b.raw, err = newMatcher(raw, rawSpelled); err != nil {
		return err
	}
	b.normal, err = newMatcher(normal, normalSpelled)
	return err
}

func (b *BPE) normalize(s string, a *alignment) string {
	for _, f := range b.pipe.normalize {
		s = f(s, a)
	}
	return s
}

// VocabSize returns the highest id and one.
func (b *BPE) VocabSize() int { return len(b.tokens) }

// ID returns the id of a token as the vocabulary spells it.
func (b *BPE) ID(token string) (id int32, ok bool) {
	id, ok = b.ids[token]
	return id, ok
}

// Token returns a token as the vocabulary spells it, "" where the id is of none.
func (b *BPE) Token(id int32) string {
	if id < 0 || int(id) >= len(b.tokens) {
		return ""
	}
	return b.tokens[id]
}

// Special reports whether a token is one that marks up text and is not part of it.
func (b *BPE) Special(id int32) bool { return b.added[id] }

// Template returns the tokens that the model expects before and after a text,
// such as the one that begins it.
func (b *BPE) Template() (prefix, suffix []int32) {
	return slices.Clone(b.pipe.template.prefix), slices.Clone(b.pipe.template.suffix)
}

// Encode returns the ids of text, without those of Template. Special tokens in the
// text, like <|endoftext|>, are found: do not encode so what others wrote.
func (b *BPE) Encode(text string) []int32 { return b.encode(text, nil, nil) }

// EncodeMarkup is Encode.
func (b *BPE) EncodeMarkup(text string) []int32 { return b.encode(text, nil, nil) }

// EncodePlain returns the ids of text in which special tokens mean nothing:
// they are encoded as the characters that they are spelled with.
func (b *BPE) EncodePlain(text string) []int32 { return b.encode(text, everywhere, nil) }

// EncodeOffsets is EncodeMarkup, and where in text each token ends, in bytes:
// token i is of text[ends[i-1]:ends[i]]. A token may be of nothing, such as a
// space that the model wants at the start, and of a part of a rune; one of
// text that was normalized ends where a whole normalized sequence does.
func (b *BPE) EncodeOffsets(text string) (ids []int32, ends []int) {
	return b.EncodeMixed(text, nil)
}

// EncodeMixed is EncodeOffsets, but special tokens that lie in a part of one
// of the plain spans mean nothing there, as in EncodePlain. Spans are in order.
func (b *BPE) EncodeMixed(text string, plain []Span) (ids []int32, ends []int) {
	ids = b.encode(text, overlap(plain), &ends)
	return ids, ends
}

// Decode returns the text of tokens, special ones included. An id that is of no token is nothing.
func (b *BPE) Decode(tokens []int32) string {
	d := &b.pipe.decode
	var text []byte
	first := true
	for _, id := range tokens {
		if id < 0 || int(id) >= len(b.tokens) || b.tokens[id] == "" {
			continue
		}
		if first && d.dropFirst != "" {
			text = append(text, d.token(strings.ReplaceAll(b.tokens[id], d.dropFirst, ""))...)
		} else {
			text = append(text, b.bytes[id]...)
		}
		first = false
	}
	for n := 0; n < d.stripMost && len(text) > 0 && text[0] == d.strip; n++ {
		text = text[1:]
	}
	return string(text)
}

// bpeScratch is the memory of one call of encode.
type bpeScratch struct {
	merger
	cache map[string]cached
	arena []int32 // what cache points into
	syms  []int32
}

// cached is the tokens of a word: arena[at:at+n].
type cached struct{ at, n uint32 }

// What a scratch keeps: words of up to cachedBytes, cachedWords of them.
const cachedBytes, cachedWords = 48, 1 << 15

// encode returns the ids of text and, if ends is not nil, sets what
// EncodeOffsets returns. Special tokens are text where plain says so.
func (b *BPE) encode(text string, plain func(start, end int) bool, ends *[]int) []int32 {
	st := b.scratch.Get().(*bpeScratch)
	defer b.scratch.Put(st)
	ids := make([]int32, 0, len(text)/4+1)
	b.raw.split(text, plain, func(s string, at int) {
		var a *alignment
		if ends != nil {
			a = align(at, len(s))
		}
		normalized := b.normalize(s, a)
		plainNormalized := plain
		if plain != nil && a != nil {
			plainNormalized = func(start, end int) bool { return plain(a.at(start), a.at(end)) }
		}
		b.normal.split(normalized, plainNormalized, func(s string, within int) {
			a := a.slice(within, len(s))
			s = b.piece(s, at+within == 0, a)
			done := 0
			splitAll(s, b.pipe.split, func(w string) {
				n := len(ids)
				ids = b.word(ids, w, st)
				if ends != nil {
					*ends = b.appendEnds(*ends, ids[n:], w, a.slice(done, len(w)))
				}
				done += len(w)
			})
		}, func(t *AddedToken, end int) {
			ids = append(ids, t.ID)
			if ends != nil {
				*ends = append(*ends, a.at(end))
			}
		})
	}, func(t *AddedToken, end int) {
		ids = append(ids, t.ID)
		if ends != nil {
			*ends = append(*ends, end)
		}
	})
	return ids
}

// piece returns what is between two added tokens as the splitters see it.
func (b *BPE) piece(s string, first bool, a *alignment) string {
	p := &b.pipe
	if p.spacePrefix && s[0] != ' ' {
		s = a.prepend(" ", s)
	}
	if p.meta != "" {
		s = a.replace(s, " ", p.meta)
		if p.metaPrefix != "never" && (first || p.metaPrefix == "always") && !strings.HasPrefix(s, p.meta) {
			s = a.prepend(p.meta, s)
		}
	}
	return s
}

// appendEnds appends where the tokens of a word end.
func (b *BPE) appendEnds(ends []int, ids []int32, w string, a *alignment) []int {
	at := 0
	for i, id := range ids {
		switch {
		case i == len(ids)-1:
			at = len(w)
		case id == b.unk:
			at += b.unknown(w[at:])
		case b.pipe.byteLevel:
			for at < len(w) && b.byteID[w[at]] < 0 { // has no token
				at++
			}
			at += len(b.bytes[id])
		case at < len(w) && id == b.byteID[w[at]] && b.unknown(w[at:]) > 0:
			at++
		default:
			at += len(b.tokens[id])
		}
		at = min(at, len(w))
		ends = append(ends, a.at(at))
	}
	return ends
}

// unknown returns the length of what one unknown token at the start of w stands for.
func (b *BPE) unknown(w string) int {
	n := 0
	for n < len(w) && (n == 0 || b.spec.fuseUnk) {
		size := 1
		known := false
		if b.pipe.byteLevel {
			known = b.byteID[w[n]] >= 0
		} else {
			_, size = utf8.DecodeRuneInString(w[n:])
			id, ok := b.ids[w[n:n+size]]
			known = ok && b.isModel(id)
		}
		if known {
			break
		}
		n += size
	}
	return n
}

// word appends the ids of a word.
func (b *BPE) word(ids []int32, w string, st *bpeScratch) []int32 {
	if b.whole != nil {
		if id, ok := b.whole[w]; ok {
			return append(ids, id)
		}
	}
	if len(w) > cachedBytes {
		st.syms = b.symbols(st.syms[:0], w)
		return append(ids, st.merge(b.pairs, st.syms)...)
	}
	if c, ok := st.cache[w]; ok {
		return append(ids, st.arena[c.at:c.at+c.n]...)
	}
	st.syms = b.symbols(st.syms[:0], w)
	out := st.merge(b.pairs, st.syms)
	if len(st.cache) >= cachedWords {
		clear(st.cache)
		st.arena = st.arena[:0]
	}
	st.cache[strings.Clone(w)] = cached{uint32(len(st.arena)), uint32(len(out))}
	st.arena = append(st.arena, out...)
	return append(ids, out...)
}

// symbols appends the ids that merging starts from.
func (b *BPE) symbols(syms []int32, w string) []int32 {
	unk := false // one is due; the next known character, or the end, has it appended
	flush := func() {
		if unk {
			syms, unk = append(syms, b.unk), false
		}
	}
	for i := 0; i < len(w); {
		size := 1
		id := int32(-1)
		if b.pipe.byteLevel {
			id = b.byteID[w[i]]
		} else {
			_, size = utf8.DecodeRuneInString(w[i:])
			if v, ok := b.ids[w[i:i+size]]; ok && b.isModel(v) {
				id = v
			}
		}
		switch {
		case id >= 0:
			flush()
			syms = append(syms, id)
		case b.spec.fallback && b.hasBytes(w[i:i+size]):
			for j := range size {
				syms = append(syms, b.byteID[w[i+j]])
			}
		case b.unk >= 0:
			if !b.spec.fuseUnk {
				flush()
			}
			unk = true
		}
		i += size
	}
	flush()
	return syms
}

// isModel reports whether an id is of the model and not only of an added token.
func (b *BPE) isModel(id int32) bool { return int(id) < len(b.spec.tokens) && b.spec.tokens[id] != "" }

func (b *BPE) hasBytes(s string) bool {
	for i := range len(s) {
		if b.byteID[s[i]] < 0 {
			return false
		}
	}
	return true
}

// byteToken spells a byte as sentencepiece does: <0x0A>.
func byteToken(c byte) string {
	const hex = "0123456789ABCDEF"
	return "<0x" + hex[c>>4:c>>4+1] + hex[c&15:c&15+1] + ">"
}

// parseComponent reads a component of its own; empty is null.
func parseComponent(what string, data []byte) *component {
	if len(data) == 0 {
		return &component{what: what, null: true}
	}
	r := &jsonReader{data: data}
	c := r.component(what)
	r.end()
	return c
}
