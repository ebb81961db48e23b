package tokenizer

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// TokenType says what a token is. The values are those of sentencepiece and GGUF; 0
// is Normal too.
type TokenType int32

const (
	Normal      TokenType = 1 // text
	Unknown     TokenType = 2 // what has no other token
	Control     TokenType = 3 // marks up text, is not part of it
	UserDefined TokenType = 4 // always one token
	Unused      TokenType = 5 // has an id, and no text becomes it
	ByteToken   TokenType = 6 // <0x0A>
)

// SentencePieceOptions is what a sentencepiece model is made of. The zero
// value of all but Tokens and Scores is Llama 2's.
type SentencePieceOptions struct {
	Tokens []string    // by id; ▁ stands for a space
	Scores []float32   // of tokens
	Types  []TokenType // of tokens; nil: all Normal, but for <unk>, <s>, </s> and <0x00> to <0xFF>

	Unigram bool // the most likely tokens; else BPE, the pair of the highest score first

	NoSpacePrefix  bool    // Text is not given a space at its start.
	TrimSpaces     bool    // Spaces at both ends are removed, and others joined (remove_extra_whitespaces).
	PrecompiledMap []byte  // sentencepiece's precompiled_charsmap; nil: text is not normalized
	UnknownText    string  // what Unknown decodes to; "": " ⁇ "
	Prefix, Suffix []int32 // what Template returns
	noEscape       bool    // a space is a space, and not ▁
	stripSpace     bool    // and taken from the start of a decoded text
}

// SentencePiece is a model of the library of that name, BPE or Unigram: its
// ids are those that the library gives. It is safe for concurrent use.
//
// Text is any string; a byte that is not UTF-8 is U+FFFD to the library, and here.
type SentencePiece struct {
	o        SentencePieceOptions
	space    string           // what text has for a space
	lead     string           // what Decode takes from its start
	ids      map[string]int32 // of Normal, UserDefined and Unused
	reserved map[string]int32 // of the others
	byteID   [256]int32       // -1 for all if there are none
	unk      int32
	users    *matcher // UserDefined
	controls *matcher // Control, for EncodeMarkup
	charsmap *charsmap

	// BPE
	pairs    *pairTable
	letters  map[string]int32 // characters that are part of tokens and none themselves: ids from len(Tokens)
	letterOf []string
	frozen   int32 // ids of UserDefined that were found as such are above: those do not merge
	unused   bool  // some token that merging makes is Unused
	cutWords bool  // no token has a ▁ after something else

	// Unigram
	trie               *trie
	minScore, maxScore float32

	scratch sync.Pool // of *spScratch
}

// maxPiece is the longest token in bytes.
const maxPiece = 1 << 12

// NewSentencePiece makes a sentencepiece model.
func NewSentencePiece(o SentencePieceOptions) (*SentencePiece, error) {
	s, err := newSentencePiece(o)
	return s, in("options", err)
}

func newSentencePiece(o SentencePieceOptions) (s *SentencePiece, err error) {
	if len(o.Scores) != len(o.Tokens) || o.Types != nil && len(o.Types) != len(o.Tokens) {
		return nil, fail(ErrVocab, "%d tokens, %d scores, %d types", len(o.Tokens), len(o.Scores), len(o.Types))
	}
	if len(o.Tokens) >= maxID {
		return nil, fail(ErrTooLarge, "%d tokens", len(o.Tokens))
	}
	if o.Types == nil {
		o.Types = defaultTypes(o.Tokens)
	}
	space, lead := metaspace, metaspace
	if o.noEscape {
		space = " "
	}
	if o.stripSpace {
		lead = " "
	}
	o.UnknownText = cmp.Or(o.UnknownText, " \u2047 ")
	s = &SentencePiece{o: o, space: space, lead: lead, unk: -1,
		ids: make(map[string]int32, len(o.Tokens)), reserved: map[string]int32{}}
	var users, controls []AddedToken
	nBytes := 0
	for i := range s.byteID {
		s.byteID[i] = -1
	}
	for i, t := range o.Tokens {
		id := int32(i)
		switch {
		case t == "":
			return nil, fail(ErrVocab, "token %d is empty", id)
		case len(t) > maxPiece:
			return nil, fail(ErrVocab, "token %d has %d bytes, at most %d can be", id, len(t), maxPiece)
		case !utf8.ValidString(t):
			return nil, fail(ErrVocab, "token %d, %q, is not UTF-8", id, short(t))
		case math.IsNaN(float64(o.Scores[i])):
			return nil, fail(ErrVocab, "token %d, %q, has the score NaN", id, short(t))
		}
		into := s.reserved
		switch o.Types[i] {
		case 0, Normal, Unused:
			into = s.ids
		case UserDefined:
			into = s.ids
			users = append(users, AddedToken{ID: id, Content: t})
		case Unknown:
			if s.unk >= 0 {
				return nil, fail(ErrVocab, "tokens %d and %d are both unknown", s.unk, id)
			}
			s.unk = id
		case Control:
			controls = append(controls, AddedToken{ID: id, Content: t, Special: true})
		case ByteToken:
			c, ok := byteOfToken(t)
			if !ok || s.byteID[c] >= 0 {
				return nil, fail(ErrVocab, "token %d, %q, is not a byte, or it is there twice", id, short(t))
			}
			s.byteID[c] = id
			nBytes++
		default:
			return nil, fail(ErrVocab, "token %d, %q, has the type %d", id, short(t), o.Types[i])
		}
		if _, ok := into[t]; ok {
			return nil, fail(ErrVocab, "token %q occurs twice", short(t))
		}
		into[t] = id
	}
	switch {
	case s.unk < 0:
		return nil, fail(ErrVocab, "no token is unknown")
	case nBytes != 0 && nBytes != 256:
		return nil, fail(ErrVocab, "%d of 256 bytes have a token", nBytes)
	}
	if err := s.SetTemplate(o.Prefix, o.Suffix); err != nil {
		return nil, err
	}
	if s.users, err = newMatcher(users, contents(users)); err != nil {
		return nil, err
	}
	if s.controls, err = newMatcher(controls, contents(controls)); err != nil {
		return nil, err
	}
	if s.charsmap, err = newCharsmap(o.PrecompiledMap); err != nil {
		return nil, err
	}
	if o.Unigram {
		err = s.initUnigram()
	} else {
		err = s.initBPE()
	}
	s.scratch.New = func() any { return &spScratch{bpeScratch: bpeScratch{cache: map[string]cached{}}} }
	return s, err
}

func contents(tokens []AddedToken) []string {
	list := make([]string, len(tokens))
	for i, t := range tokens {
		list[i] = t.Content
	}
	return list
}

// defaultTypes knows tokens by their spelling.
func defaultTypes(tokens []string) []TokenType {
	types := make([]TokenType, len(tokens))
	for i, t := range tokens {
		types[i] = Normal
		if _, ok := byteOfToken(t); ok {
			types[i] = ByteToken
		}
		switch t {
		case "<unk>":
			types[i] = Unknown
		case "<s>", "</s>":
			types[i] = Control
		}
	}
	return types
}

// VocabSize returns the number of tokens.
func (s *SentencePiece) VocabSize() int { return len(s.o.Tokens) }

// ID returns the id of a token as the vocabulary spells it.
func (s *SentencePiece) ID(token string) (id int32, ok bool) {
	if id, ok = s.reserved[token]; !ok {
		id, ok = s.ids[token]
	}
	return id, ok
}

// Token returns a token as the vocabulary spells it, "" where the id is of none.
func (s *SentencePiece) Token(id int32) string {
	if id < 0 || int(id) >= len(s.o.Tokens) {
		return ""
	}
	return s.o.Tokens[id]
}

// Special reports whether a token is one that marks up text and is not part of it.
func (s *SentencePiece) Special(id int32) bool {
	return id >= 0 && int(id) < len(s.o.Types) && (s.o.Types[id] == Control || s.o.Types[id] == Unknown)
}

// Template returns the tokens that the model expects before and after a text.
func (s *SentencePiece) Template() (prefix, suffix []int32) {
	return slices.Clone(s.o.Prefix), slices.Clone(s.o.Suffix)
}

// SetTemplate replaces what Template returns, before the tokenizer is in use:
// a tokenizer.model does not say it. It fails if an id is of no token.
func (s *SentencePiece) SetTemplate(prefix, suffix []int32) error {
	for _, id := range slices.Concat(prefix, suffix) {
		if s.Token(id) == "" {
			return in("options", fail(ErrVocab, "the template has the id %d, of a vocabulary of %d", id, len(s.o.Tokens)))
		}
	}
	s.o.Prefix, s.o.Suffix = slices.Clone(prefix), slices.Clone(suffix)
	return nil
}

// Encode returns the ids of text, without those of Template. Control tokens
// in the text, like <s>, are characters, as they are to the library.
func (s *SentencePiece) Encode(text string) []int32 { return s.EncodePlain(text) }

// EncodePlain is Encode.
func (s *SentencePiece) EncodePlain(text string) []int32 {
	st := s.scratch.Get().(*spScratch)
	defer s.scratch.Put(st)
	return s.encode(make([]int32, 0, len(text)/3+2), text, 0, st)
}

// EncodeMarkup returns the ids of text in which control tokens are found, and what is
// between them is encoded as texts of their own.
func (s *SentencePiece) EncodeMarkup(text string) []int32 { return s.encodeMarkup(text, nil, nil) }

// EncodeOffsets is EncodeMarkup, and where in text each token ends, in bytes:
// token i is of text[ends[i-1]:ends[i]]. A token may be of nothing, such as
// the space at the start, and of a part of a rune.
func (s *SentencePiece) EncodeOffsets(text string) (ids []int32, ends []int) {
	return s.EncodeMixed(text, nil)
}

// EncodeMixed is EncodeOffsets, but control tokens that lie in a part of one of
// the plain spans are characters there, as in EncodePlain. Spans are in order.
func (s *SentencePiece) EncodeMixed(text string, plain []Span) (ids []int32, ends []int) {
	ids = s.encodeMarkup(text, overlap(plain), &ends)
	return ids, ends
}

func (s *SentencePiece) encodeMarkup(text string, plain func(start, end int) bool, ends *[]int) []int32 {
	st := s.scratch.Get().(*spScratch)
	defer s.scratch.Put(st)
	st.ends = ends
	defer func() { st.ends = nil }()
	ids := make([]int32, 0, len(text)/3+2)
	s.controls.split(text, plain,
		func(t string, at int) { ids = s.encode(ids, t, at, st) },
		func(t *AddedToken, end int) {
			ids = append(ids, t.ID)
			if ends != nil {
				*ends = append(*ends, end)
			}
		})
	return ids
}

// Decode returns the text of tokens; control tokens are nothing, and so is an
// id that is of no token. The space that encoding puts at the start is removed.
func (s *SentencePiece) Decode(tokens []int32) string {
	var text []byte
	start := !s.o.NoSpacePrefix || s.o.TrimSpaces // a space at the start goes
	for _, id := range tokens {
		if id < 0 || int(id) >= len(s.o.Tokens) {
			continue
		}
		switch t := s.o.Tokens[id]; s.o.Types[id] {
		case Control:
		case Unknown:
			text = append(text, s.o.UnknownText...)
		case ByteToken:
			c, _ := byteOfToken(t)
			text = append(text, c)
		default:
			if start && len(text) == 0 {
				rest, ok := strings.CutPrefix(t, s.lead)
				t = rest
				start = !ok || s.o.TrimSpaces
			}
			if !s.o.stripSpace {
				t = strings.ReplaceAll(t, metaspace, " ")
			}
			text = append(text, t...)
		}
	}
	return string(text)
}

// spScratch is the memory of one call of encode.
type spScratch struct {
	bpeScratch
	normal []byte
	best   []bestPath

	// Where tokens end, if that is wanted.
	ends *[]int
	a    *alignment // of normal
	done int        // the bytes of normal that have their tokens
}

// emit appends an id, of the next n bytes of the normalized text.
func (st *spScratch) emit(ids []int32, id int32, n int) []int32 {
	if st.ends != nil {
		st.done += n
		*st.ends = append(*st.ends, st.a.at(st.done))
	}
	return append(ids, id)
}

// encode appends the ids of text, which begins at the byte at of what ends are of.
func (s *SentencePiece) encode(ids []int32, text string, at int, st *spScratch) []int32 {
	st.a, st.done = nil, 0
	if st.ends != nil {
		st.a = &alignment{from: at}
	}
	st.normal = s.normalize(st.normal[:0], text, st.a)
	normal := string(st.normal)
	switch {
	case s.o.Unigram:
		return s.encodeUnigram(ids, normal, st)
	case s.cutWords:
		splitAll(normal, []splitter{metaSplitter{s.space, true}}, func(w string) { ids = s.word(ids, w, st) })
		return ids
	}
	return s.encodeBPE(ids, normal, st)
}

// normalize appends text as the model sees it, and to a where that is from.
func (s *SentencePiece) normalize(dst []byte, text string, a *alignment) []byte {
	at := 0 // in text
	put := func(t string) {
		dst = append(dst, t...)
		if a != nil {
			for range len(t) {
				a.ends = append(a.ends, a.from+at)
			}
		}
	}
	if s.o.TrimSpaces {
		for at < len(text) {
			to, n := s.normalizePrefix(text[at:])
			if to != " " {
				break
			}
			at += n
		}
	}
	if at == len(text) {
		return dst
	}
	if !s.o.NoSpacePrefix {
		put(s.space)
	}
	afterSpace := s.o.TrimSpaces
	for at < len(text) {
		to, n := s.normalizePrefix(text[at:])
		begin, changed := at, to != text[at:at+n]
		if afterSpace && strings.HasPrefix(to, " ") {
			to, changed = strings.TrimLeft(to, " "), true
		}
		for i := range len(to) {
			switch {
			case !changed: // byte by byte
				at = begin + i + 1
			case i == len(to)-1:
				at = begin + n
			default: // all of the original goes to the last
				at = begin
			}
			if to[i] == ' ' {
				put(s.space)
			} else {
				put(to[i : i+1])
			}
		}
		at = begin + n
		if to == "" && a != nil && len(a.ends) > 0 { // goes to what is before it
			a.ends[len(a.ends)-1] = a.from + at
		}
		if to != "" {
			afterSpace = strings.HasSuffix(to, " ")
		}
		afterSpace = afterSpace && s.o.TrimSpaces
	}
	for s.o.TrimSpaces && bytes.HasSuffix(dst, []byte(s.space)) {
		dst = dst[:len(dst)-len(s.space)]
	}
	return dst
}

// normalizePrefix returns what the first n bytes of text are to the model.
func (s *SentencePiece) normalizePrefix(text string) (to string, n int) {
	if s.users != nil {
		if _, n := s.users.trie.longest(text); n > 0 {
			return text[:n], n
		}
	}
	if s.charsmap != nil {
		if to, n := s.charsmap.longest(text); n > 0 {
			return to, n
		}
	}
	if text[0] < utf8.RuneSelf {
		return text[:1], 1
	}
	r, n := utf8.DecodeRuneInString(text)
	if r == utf8.RuneError && n == 1 {
		return "\uFFFD", 1
	}
	return text[:n], n
}
