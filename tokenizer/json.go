package tokenizer

import (
	"bytes"
	"io"
	"strings"
)

// ReadJSON reads a tokenizer.json of Hugging Face's tokenizers, of size bytes, that
// holds a BPE model. What such a file may hold and BPE does not do is an
// error that wraps ErrUnsupported and names it; truncation and padding are
// ignored, as transformers does.
func ReadJSON(r io.ReaderAt, size int64) (*BPE, error) {
	data, err := readAll(r, size)
	if err != nil {
		return nil, in("tokenizer.json", err)
	}
	b, err := parseJSON(data)
	return b, in("tokenizer.json", err)
}

func parseJSON(data []byte) (b *BPE, err error) {
	defer catch(&err)
	s := &bpeSpec{}
	r := &jsonReader{data: data}
	seen := map[string]bool{}
	r.object(func(key string) {
		if seen[key] {
			r.fail(ErrFormat, "key %q occurs twice", short(key))
		}
		seen[key] = true
		raw := func() []byte {
			r.peek()
			start := r.pos
			r.skip(1)
			if r.pos-start > maxComponent {
				r.fail(ErrUnsupported, "%s has %d bytes, at most %d are read", key, r.pos-start, maxComponent)
			}
			return r.data[start:r.pos:r.pos]
		}
		switch key {
		case "version":
			if v := r.string(); v != "1.0" {
				r.fail(ErrUnsupported, "version %q, want \"1.0\"", short(v))
			}
		case "truncation", "padding":
			r.skip(1)
		case "added_tokens":
			r.array(func(int) { s.added = append(s.added, readAdded(r)) })
		case "normalizer":
			s.normalizer = raw()
		case "pre_tokenizer":
			s.preTokenizer = raw()
		case "post_processor":
			s.postProcessor = raw()
		case "decoder":
			s.decoder = raw()
		case "model":
			readModel(r, s)
		default:
			r.fail(ErrUnsupported, "field %q", short(key))
		}
	})
	r.end()
	if !seen["model"] {
		return nil, fail(ErrFormat, "there is no model")
	}
	if err := s.checkCount(); err != nil {
		return nil, err
	}
	return newBPE(s)
}

// checkCount fails if an added token that is not in the vocabulary has not
// the id that the reference counts for it, whatever the file says.
func (s *bpeSpec) checkCount() error {
	size, most := len(s.ids), int32(-1)
	for _, t := range s.added {
		if _, ok := s.ids[t.Content]; !ok {
			if next := max(int32(size), most+1); t.ID != next {
				return fail(ErrVocab, "added token %q has the id %d, but %d comes next", short(t.Content), t.ID, next)
			}
		}
		most = max(most, t.ID)
	}
	return nil
}

// readAdded reads one of added_tokens.
func readAdded(r *jsonReader) AddedToken {
	c := r.component("added token")
	if c.null {
		r.fail(ErrFormat, "an added token is null")
	}
	t := AddedToken{
		ID:         int32(c.must("id").integer(maxID - 1)),
		Content:    c.string("content"),
		Special:    c.bool("special", false),
		LStrip:     c.bool("lstrip", false),
		RStrip:     c.bool("rstrip", false),
		Normalized: c.bool("normalized", true),
	}
	if c.bool("single_word", false) {
		c.unsupported("%q is a single_word", short(t.Content))
	}
	c.done()
	return t
}

// readModel reads the model, which must be BPE.
func readModel(r *jsonReader, s *bpeSpec) {
	var ids map[string]int32
	var merges *jsonReader // left for later: they need the vocabulary
	kind := ""
	seen := map[string]bool{}
	r.object(func(key string) {
		if seen[key] {
			r.fail(ErrFormat, "model has the key %q twice", short(key))
		}
		seen[key] = true
		switch key {
		case "type":
			if kind = r.string(); kind != "BPE" {
				r.fail(ErrUnsupported, "model %q, want \"BPE\"", short(kind))
			}
		case "vocab":
			if kind == "" { // a Unigram model has a list here
				if r.peek() != '{' {
					r.fail(ErrUnsupported, "a model that is not BPE")
				}
			}
			ids = readVocab(r, s)
		case "merges":
			r.peek()
			if start := r.pos; ids == nil {
				r.skip(1)
				merges = &jsonReader{data: r.data[:r.pos], pos: start}
			} else {
				readMerges(r, s, ids)
			}
		case "dropout":
			if !r.null() {
				if v := r.literal(); strings.Trim(v, "0.") != "" {
					r.fail(ErrUnsupported, "model field dropout %q", short(v))
				}
			}
		case "unk_token":
			if !r.null() {
				s.unk = r.string()
			}
		case "continuing_subword_prefix", "end_of_word_suffix":
			if !r.null() {
				if v := r.string(); v != "" {
					r.fail(ErrUnsupported, "model field %s %q", key, short(v))
				}
			}
		case "fuse_unk":
			s.fuseUnk = r.bool()
		case "byte_fallback":
			s.fallback = r.bool()
		case "ignore_merges":
			s.wholeWords = r.bool()
		default:
			r.fail(ErrUnsupported, "model field %q", short(key))
		}
	})
	if ids == nil || !seen["merges"] {
		r.fail(ErrFormat, "the model has no vocab or no merges")
	}
	if merges != nil {
		readMerges(merges, s, ids)
	}
}

// readVocab reads the ids of tokens into s.tokens, and returns them.
func readVocab(r *jsonReader, s *bpeSpec) map[string]int32 {
	ids := make(map[string]int32, (len(r.data)-r.pos)/64)
	last := 0
	r.object(func(token string) {
		if token == "" {
			r.fail(ErrUnsupported, "an empty token")
		}
		if _, ok := ids[token]; ok {
			r.fail(ErrVocab, "token %q occurs twice", short(token))
		}
		r.peek()
		id := r.integer(maxID - 1)
		ids[token] = int32(id)
		last = max(last, id)
	})
	if last > 2*len(ids)+1024 {
		r.fail(ErrVocab, "the highest id is %d, of a vocabulary of %d", last, len(ids))
	}
	s.ids = ids
	s.tokens = make([]string, last+1)
	for token, id := range ids {
		if s.tokens[id] != "" {
			r.fail(ErrVocab, "id %d is of two tokens, one is %q", id, short(max(token, s.tokens[id])))
		}
		s.tokens[id] = token
	}
	return ids
}

// readMerges reads "left right" or ["left","right"].
func readMerges(r *jsonReader, s *bpeSpec, ids map[string]int32) {
	guess := (len(r.data) - r.pos) / 12
	s.merges, s.merged = make([][2]int32, 0, guess), make([]int32, 0, guess)
	var both []byte
	r.array(func(i int) {
		var left, right []byte
		r.peek()
		at := r.pos
		if r.data[at] == '[' {
			n := 0
			r.array(func(j int) {
				switch t := r.text(); j {
				case 0:
					left = t
				case 1:
					right = t
				}
				n = j + 1
			})
			if n != 2 {
				r.pos = at
				r.fail(ErrFormat, "merge %d is of %d tokens, want 2", i, n)
			}
		} else {
			line := r.text()
			if bytes.HasPrefix(line, []byte("#version")) {
				return
			}
			var ok bool
			left, right, ok = bytes.Cut(line, []byte(" "))
			if !ok || bytes.IndexByte(right, ' ') >= 0 {
				r.pos = at
				r.fail(ErrFormat, "merge %d is %q, want two tokens and one space", i, short(string(line)))
			}
		}
		l, ok1 := ids[string(left)]
		t, ok2 := ids[string(right)]
		both = append(append(both[:0], left...), right...)
		id, ok3 := ids[string(both)]
		if !ok1 || !ok2 || !ok3 {
			r.pos = at
			r.fail(ErrVocab, "merge %d of %q and %q: these or what they make is not a token", i, short(string(left)), short(string(right)))
		}
		s.merges, s.merged = append(s.merges, [2]int32{l, t}), append(s.merged, id)
	})
}
