package safetensors

import (
	"math"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// parser reads the JSON of a header, which is UTF-8. It takes the one form
// that the format has and nothing else, so it never recurses, and it allocates
// nothing until out is set.
type parser struct {
	b        []byte
	pos      int
	dataSize int64 // bytes after the header

	tensors, pairs int // how many there were
	hasMeta        bool

	out *File   // gets tensors and metadata, if not nil
	at  []int32 // positions of the names of out.tensors
}

// text is a string of the header without its quotes.
type text struct {
	lo, hi  int
	escaped bool
}

func (p *parser) fail(err error, key text, at int, format string, args ...any) error {
	return fail(err, p.string(key), 8+int64(at), format, args...)
}

// bad is the error for finding something else than what was wanted at pos.
func (p *parser) bad(key text, want string) error {
	if p.pos >= len(p.b) {
		return p.fail(ErrHeader, key, p.pos, "the header ends here, want %s", want)
	}
	found := p.b[p.pos:min(len(p.b), p.pos+16)]
	return p.fail(ErrHeader, key, p.pos, "found %q, want %s", found, want)
}

// header parses the whole header.
func (p *parser) header() error {
	if p.b[0] != '{' {
		return p.bad(text{}, "{")
	}
	err := p.object(text{}, func(key text) error {
		if !p.is(key, metadataKey) {
			return p.tensor(key)
		}
		if p.hasMeta {
			return p.fail(ErrDuplicate, key, key.lo-1, "there is one before it")
		}
		p.hasMeta = true
		return p.metadata(key)
	})
	if err != nil {
		return err
	}
	if p.space(); p.pos < len(p.b) {
		return p.bad(text{}, "nothing but spaces after the closing brace")
	}
	return nil
}

// object parses {"key": value, …}; value parses what follows a key. where
// names the object in errors.
func (p *parser) object(where text, value func(key text) error) error {
	if !p.take('{') {
		return p.bad(where, "{")
	}
	if p.take('}') {
		return nil
	}
	for {
		key, err := p.text(where, "a key")
		if err != nil {
			return err
		}
		if !p.take(':') {
			return p.bad(key, ":")
		}
		p.space()
		if err := value(key); err != nil {
			return err
		}
		if p.take('}') {
			return nil
		}
		if !p.take(',') {
			return p.bad(where, ", or }")
		}
	}
}

// metadata parses the value of __metadata__.
func (p *parser) metadata(where text) error {
	return p.object(where, func(key text) error {
		value, err := p.text(where, "a string (metadata holds nothing else)")
		if err != nil {
			return err
		}
		if p.pairs++; p.pairs > maxMetadata {
			return p.fail(ErrHeader, where, key.lo-1, "more than %d entries", maxMetadata)
		}
		if p.out != nil {
			p.out.metadata = append(p.out.metadata, pair{p.string(key), p.string(value), int32(key.lo - 1)})
		}
		return nil
	})
}

// tensor parses the value of the key name and checks it for itself.
func (p *parser) tensor(name text) error {
	const wantFields = "want dtype, shape and data_offsets, once each"
	var (
		dtype      = -1
		shape      [maxDims]int
		dims       = -1
		begin, end int64
		hasOffsets bool

		// Where the values are, for errors.
		dtypeAt, shapeAt, offsetsAt int
	)
	err := p.object(name, func(field text) error {
		again := func() error {
			return p.fail(ErrDuplicate, name, field.lo-1, "a second %s; %s", short(p.string(field)), wantFields)
		}
		var err error
		switch {
		case p.is(field, "dtype"):
			if dtype >= 0 {
				return again()
			}
			dtypeAt = p.pos
			dtype, err = p.dtype(name)
		case p.is(field, "shape"):
			if dims >= 0 {
				return again()
			}
			shapeAt = p.pos
			dims, err = p.shape(name, &shape)
		case p.is(field, "data_offsets"):
			if hasOffsets {
				return again()
			}
			hasOffsets, offsetsAt = true, p.pos
			begin, end, err = p.offsets(name)
		default:
			err = p.fail(ErrUnknownField, name, field.lo-1, "%q; %s", short(p.string(field)), wantFields)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		has  bool
	}{{"dtype", dtype >= 0}, {"shape", dims >= 0}, {"data_offsets", hasOffsets}} {
		if !f.has {
			return p.fail(ErrHeader, name, name.lo-1, "the tensor has no %s; %s", f.name, wantFields)
		}
	}

	size, err := byteSize(shape[:dims], dtypes[dtype].bits)
	switch {
	case err == ErrShape:
		return p.fail(ErrShape, name, shapeAt, "%v is too large", shape[:dims])
	case err == ErrDtype:
		return p.fail(ErrDtype, name, dtypeAt, "%s in the shape %v fills no whole number of bytes",
			dtypes[dtype].name, shape[:dims])
	case end-begin != size:
		return p.fail(ErrSize, name, offsetsAt, "data_offsets [%d,%d] hold %d bytes, %s in the shape %v has %d",
			begin, end, end-begin, dtypes[dtype].name, shape[:dims], size)
	case end > p.dataSize:
		return p.fail(ErrTruncated, name, offsetsAt, "the tensor ends at %d after the header, the file at %d",
			end, p.dataSize)
	}
	p.tensors++
	if p.out != nil {
		start := 8 + int64(len(p.b)) + begin
		t := Tensor{p.string(name), dtypes[dtype].name, slices.Clone(shape[:dims]), start, size}
		p.out.tensors = append(p.out.tensors, t)
		p.at = append(p.at, int32(name.lo-1))
	}
	return nil
}

// dtype parses the name of a dtype and returns its index in dtypes.
func (p *parser) dtype(name text) (int, error) {
	t, err := p.text(name, "the name of a dtype")
	if err != nil {
		return 0, err
	}
	for i, d := range dtypes {
		if p.is(t, d.name) {
			return i, nil
		}
	}
	return 0, p.fail(ErrDtype, name, t.lo-1, "unknown dtype %q, want F32, BF16, F16, F64, I64, …", short(p.string(t)))
}

// shape parses an array of dimensions and returns how many there are.
func (p *parser) shape(name text, shape *[maxDims]int) (dims int, err error) {
	err = p.numbers(name, ErrShape, func(v int64, at int) error {
		if dims == maxDims {
			return p.fail(ErrShape, name, at, "more than %d dimensions", maxDims)
		}
		shape[dims] = int(v)
		dims++
		return nil
	})
	return dims, err
}

// offsets parses [begin, end].
func (p *parser) offsets(name text) (begin, end int64, err error) {
	var v [2]int64
	n, at := 0, p.pos
	err = p.numbers(name, ErrOffsets, func(x int64, at int) error {
		if n == len(v) {
			return p.fail(ErrOffsets, name, at, "more than two numbers, want [begin, end]")
		}
		v[n] = x
		n++
		return nil
	})
	switch {
	case err != nil:
		return 0, 0, err
	case n < len(v):
		return 0, 0, p.fail(ErrOffsets, name, at, "%d numbers, want [begin, end]", n)
	case v[1] < v[0]:
		return 0, 0, p.fail(ErrOffsets, name, at, "the end %d is before the begin %d", v[1], v[0])
	}
	return v[0], v[1], nil
}

// numbers parses an array of integers from 0 to 2⁶³-1; another number is the
// error kind.
func (p *parser) numbers(name text, kind error, each func(v int64, at int) error) error {
	const want = "an array of integers"
	if !p.take('[') {
		return p.bad(name, want)
	}
	if p.take(']') {
		return nil
	}
	for {
		p.space()
		at := p.pos
		if at == len(p.b) || p.b[at] != '-' && !digit(p.b[at]) {
			return p.bad(name, want)
		}
		v, ok := p.integer()
		if !ok {
			found := p.b[at:min(len(p.b), at+24)]
			return p.fail(kind, name, at, "found %q, want an integer from 0 to %d", found, int64(math.MaxInt64))
		}
		if err := each(v, at); err != nil {
			return err
		}
		if p.take(']') {
			return nil
		}
		if !p.take(',') {
			return p.bad(name, ", or ]")
		}
	}
}

// integer parses digits without a leading zero, a sign, a fraction or an
// exponent; false if there is something else.
func (p *parser) integer() (v int64, ok bool) {
	start := p.pos
	for p.pos < len(p.b) && digit(p.b[p.pos]) {
		d := int64(p.b[p.pos] - '0')
		if v > (math.MaxInt64-d)/10 {
			return 0, false
		}
		v = 10*v + d
		p.pos++
	}
	n := p.pos - start
	if n == 0 || n > 1 && p.b[start] == '0' {
		return 0, false
	}
	if p.pos < len(p.b) {
		switch p.b[p.pos] {
		case '.', 'e', 'E':
			return 0, false
		}
	}
	return v, true
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// space skips white space.
func (p *parser) space() {
	for p.pos < len(p.b) {
		switch p.b[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// take skips white space and then c, if that is next.
func (p *parser) take(c byte) bool {
	p.space()
	if p.pos < len(p.b) && p.b[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

// text parses a string: escapes are checked, decoding is left to string.
func (p *parser) text(where text, want string) (text, error) {
	if !p.take('"') {
		return text{}, p.bad(where, want)
	}
	t := text{lo: p.pos}
	for p.pos < len(p.b) {
		switch c := p.b[p.pos]; {
		case c == '"':
			t.hi = p.pos
			p.pos++
			return t, nil
		case c == '\\':
			t.escaped = true
			_, n := escape(p.b[p.pos:])
			if n == 0 {
				return text{}, p.bad(where, "an escape of JSON, surrogates only in pairs")
			}
			p.pos += n
		case c < ' ':
			return text{}, p.bad(where, "no control character in a string")
		default:
			p.pos++
		}
	}
	return text{}, p.bad(where, "the closing quote of a string")
}

// escape decodes the escape that b begins with and returns its length, 0 if
// it is none. A surrogate counts only as half of a pair.
func escape(b []byte) (c rune, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	}
	c, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(c) {
		return c, 6
	}
	second, ok := hex4(b[6:])
	if c = utf16.DecodeRune(c, second); !ok || c == utf8.RuneError {
		return 0, 0
	}
	return c, 12
}

// hex4 decodes the \uXXXX that b begins with.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var v rune
	for _, c := range b[2:6] {
		switch {
		case digit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | rune(c)
	}
	return v, true
}

// string decodes t.
func (p *parser) string(t text) string {
	b := p.b[t.lo:t.hi]
	if !t.escaped {
		return string(b)
	}
	s := make([]byte, 0, len(b))
	for len(b) > 0 {
		if b[0] != '\\' {
			s = append(s, b[0])
			b = b[1:]
			continue
		}
		c, n := escape(b)
		s = utf8.AppendRune(s, c)
		b = b[n:]
	}
	return string(s)
}

// is reports whether t, decoded, is s.
func (p *parser) is(t text, s string) bool {
	if !t.escaped {
		return string(p.b[t.lo:t.hi]) == s
	}
	return t.hi-t.lo <= 6*len(s) && p.string(t) == s
}
