package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader reads JSON strictly: a key that occurs twice, another case of a
// key, a surrogate by itself and invalid UTF-8 are errors, which encoding/json
// lets through. It panics with *Error; catch returns that as an error.
type jsonReader struct {
	data []byte
	pos  int
	base int64 // of data in the file
}

// maxJSONDepth is how deep values may nest.
const maxJSONDepth = 64

func catch(err *error) {
	switch e := recover().(type) {
	case nil:
	case *Error:
		*err = e
	default:
		panic(e)
	}
}

func (r *jsonReader) fail(err error, format string, args ...any) {
	e := fail(err, format, args...).(*Error)
	e.Offset = r.base + int64(r.pos)
	panic(e)
}

// peek skips white space and returns the byte after it.
func (r *jsonReader) peek() byte {
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; c {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return c
		}
	}
	r.fail(ErrTruncated, "")
	return 0
}

func (r *jsonReader) expect(want byte) {
	if c := r.peek(); c != want {
		r.fail(ErrFormat, "%q, want %q", c, want)
	}
	r.pos++
}

// end fails unless there is nothing but white space left.
func (r *jsonReader) end() {
	for ; r.pos < len(r.data); r.pos++ {
		switch c := r.data[r.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			r.fail(ErrFormat, "%q after the end of the JSON value", c)
		}
	}
}

// object calls member with each key, which must read its value.
func (r *jsonReader) object(member func(key string)) {
	r.expect('{')
	if r.peek() == '}' {
		r.pos++
		return
	}
	for {
		key := r.string()
		r.expect(':')
		member(key)
		if r.peek() == '}' {
			r.pos++
			return
		}
		r.expect(',')
	}
}

// array calls element with each index, which must read the element.
func (r *jsonReader) array(element func(i int)) {
	r.expect('[')
	if r.peek() == ']' {
		r.pos++
		return
	}
	for i := 0; ; i++ {
		element(i)
		if r.peek() == ']' {
			r.pos++
			return
		}
		r.expect(',')
	}
}

func (r *jsonReader) string() string { return string(r.text()) }

// text is string, valid until data changes.
func (r *jsonReader) text() []byte {
	r.expect('"')
	start := r.pos
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; {
		case c == '"':
			r.pos++
			return r.utf8(r.data[start : r.pos-1])
		case c == '\\':
			return r.escaped(start)
		case c < 0x20:
			r.fail(ErrFormat, "control character %#02x in a string", c)
		default:
			r.pos++
		}
	}
	r.fail(ErrTruncated, "within a string")
	return nil
}

func (r *jsonReader) utf8(s []byte) []byte {
	if !utf8.Valid(s) {
		r.fail(ErrFormat, "string %q is not UTF-8", short(string(s)))
	}
	return s
}

// escaped reads on in a string that began at start, from its first escape.
func (r *jsonReader) escaped(start int) []byte {
	s := append(make([]byte, 0, r.pos-start+8), r.data[start:r.pos]...)
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		switch {
		case c == '"':
			r.pos++
			return r.utf8(s)
		case c < 0x20:
			r.fail(ErrFormat, "control character %#02x in a string", c)
		case c != '\\':
			s = append(s, c)
			r.pos++
			continue
		}
		r.pos++
		if r.pos == len(r.data) {
			break
		}
		c = r.data[r.pos]
		r.pos++
		if c == 'u' {
			u := r.hex()
			if utf16.IsSurrogate(u) {
				low := rune(-1)
				if r.pos+1 < len(r.data) && r.data[r.pos] == '\\' && r.data[r.pos+1] == 'u' {
					r.pos += 2
					low = r.hex()
				}
				if u = utf16.DecodeRune(u, low); u == utf8.RuneError {
					r.fail(ErrFormat, "a surrogate by itself")
				}
			}
			s = utf8.AppendRune(s, u)
			continue
		}
		i := strings.IndexByte(`"\/bfnrt`, c)
		if i < 0 {
			r.fail(ErrFormat, "escape \\%c", c)
		}
		s = append(s, "\"\\/\b\f\n\r\t"[i])
	}
	r.fail(ErrTruncated, "within a string")
	return nil
}

func (r *jsonReader) hex() rune {
	if len(r.data)-r.pos < 4 {
		r.fail(ErrTruncated, "within a string")
	}
	u, err := strconv.ParseUint(string(r.data[r.pos:r.pos+4]), 16, 16)
	if err != nil {
		r.fail(ErrFormat, "escape \\u%q", r.data[r.pos:r.pos+4])
	}
	r.pos += 4
	return rune(u)
}

// integer reads an integer from 0 to most.
func (r *jsonReader) integer(most int) int {
	r.peek()
	at := r.pos
	lit := r.literal()
	n, err := strconv.ParseUint(lit, 10, 63)
	if err != nil || n > uint64(most) || len(lit) > 1 && lit[0] == '0' {
		r.pos = at
		r.fail(ErrFormat, "%q, want an integer from 0 to %d", short(lit), most)
	}
	return int(n)
}

func (r *jsonReader) bool() bool {
	r.peek()
	at := r.pos
	lit := r.literal()
	if lit != "true" && lit != "false" {
		r.pos = at
		r.fail(ErrFormat, "%q, want true or false", short(lit))
	}
	return lit == "true"
}

// null reads a null if there is one.
func (r *jsonReader) null() bool {
	if r.peek() != 'n' {
		return false
	}
	if lit := r.literal(); lit != "null" {
		r.fail(ErrFormat, "%q, want null", short(lit))
	}
	return true
}

// literal reads what may be a number or a name.
func (r *jsonReader) literal() string {
	start := r.pos
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c == 'E' || c == '+' || c == '-' || c == '.') {
			break
		}
		r.pos++
	}
	return string(r.data[start:r.pos])
}

// skip reads any value, and checks that it is one.
func (r *jsonReader) skip(depth int) {
	if depth > maxJSONDepth {
		r.fail(ErrFormat, "values nest more than %d deep", maxJSONDepth)
	}
	switch r.peek() {
	case '{':
		seen := map[string]bool{}
		r.object(func(key string) {
			if seen[key] {
				r.fail(ErrFormat, "key %q occurs twice", short(key))
			}
			seen[key] = true
			r.skip(depth + 1)
		})
	case '[':
		r.array(func(int) { r.skip(depth + 1) })
	case '"':
		r.text()
	default:
		switch lit := r.literal(); lit {
		case "true", "false", "null":
		default:
			if _, err := strconv.ParseFloat(lit, 64); err != nil || strings.ContainsAny(lit[:1], "+.in") {
				r.fail(ErrFormat, "%q, want a JSON value", short(lit))
			}
		}
	}
}

// component is a JSON object, or null, whose members are read by name and type.
// Each read takes the member away; done fails if there is one left. Its
// methods panic with *Error, which catch returns.
type component struct {
	what    string // "normalizer"
	members map[string]*jsonReader
	kind    string // its "type"
	null    bool
}

// maxComponent bounds the size of a component in bytes.
const maxComponent = 1 << 16

// component reads the value at r as a component.
func (r *jsonReader) component(what string) *component {
	c := &component{what: what, members: map[string]*jsonReader{}}
	if c.null = r.null(); c.null {
		return c
	}
	r.object(func(key string) {
		if c.members[key] != nil {
			r.fail(ErrFormat, "%s has the key %q twice", what, short(key))
		}
		r.peek()
		start := r.pos
		r.skip(1)
		c.members[key] = &jsonReader{data: r.data[start:r.pos], base: r.base + int64(start)}
	})
	if m := c.take("type"); m != nil {
		c.kind = m.string()
	}
	return c
}

func (c *component) take(key string) *jsonReader {
	m := c.members[key]
	delete(c.members, key)
	return m
}

func (c *component) must(key string) *jsonReader {
	m := c.take(key)
	if m == nil {
		panic(fail(ErrFormat, "%s %q has no %q", c.what, short(c.kind), key))
	}
	return m
}

func (c *component) string(key string) string { return c.must(key).string() }

func (c *component) bool(key string, absent bool) bool {
	if m := c.take(key); m != nil {
		return m.bool()
	}
	return absent
}

// list reads the components of a sequence.
func (c *component) list(key string) []*component {
	var list []*component
	m := c.must(key)
	m.array(func(int) { list = append(list, m.component(c.what)) })
	return list
}

// done fails if a member is left.
func (c *component) done() {
	for key := range c.members {
		c.unsupported("field %q", short(key))
	}
}

func (c *component) unsupported(format string, args ...any) {
	e := fail(ErrUnsupported, "%s %q: "+format, append([]any{c.what, short(c.kind)}, args...)...)
	panic(e)
}
