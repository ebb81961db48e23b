package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// object is a JSON object whose members are read by name and type. The first
// failure is kept in err, and later reads return zero values.
type object struct {
	members map[string]json.RawMessage
	path    string // "rope_scaling." for a nested object
	err     error
}

// parseObject parses b, which must be one JSON object. It is stricter than
// encoding/json: invalid UTF-8 and a key given twice, at any depth, are errors.
func parseObject(b []byte) (*object, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrConfig)
	}
	o := &object{}
	if err := json.Unmarshal(b, &o.members); err != nil {
		var at string
		switch e := err.(type) {
		case *json.SyntaxError:
			at = fmt.Sprintf(" at byte %d", max(e.Offset-1, 0))
		case *json.UnmarshalTypeError:
			return nil, fmt.Errorf("%w: a JSON %s, want an object", ErrConfig, e.Value)
		}
		return nil, fmt.Errorf("%w: not JSON%s: %v", ErrConfig, at, err)
	}
	if o.members == nil {
		return nil, fmt.Errorf("%w: a JSON null, want an object", ErrConfig)
	}
	if err := checkDuplicates(b); err != nil {
		return nil, err
	}
	return o, nil
}

// checkDuplicates walks b, which is valid JSON, and returns an error for the
// first key that an object has twice.
func checkDuplicates(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var open []map[string]bool // keys so far; nil for an array
	key := false               // the next string is a key
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: not JSON: %v", ErrConfig, err)
		}
		switch t {
		case json.Delim('{'):
			open = append(open, map[string]bool{})
			key = true
			continue
		case json.Delim('['):
			open = append(open, nil)
			key = false
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		default:
			if key {
				name, keys := t.(string), open[len(open)-1]
				if keys[name] {
					return fmt.Errorf("%w: key %s occurs twice, again before byte %d", ErrConfig, quote(name), d.InputOffset())
				}
				keys[name] = true
				key = false
				continue
			}
		}
		key = len(open) > 0 && open[len(open)-1] != nil
	}
}

// quote quotes s for a message, shortened to what fits one.
func quote[S string | json.RawMessage](s S) string {
	t := string(s)
	if len(t) > 60 {
		t = strings.ToValidUTF8(t[:60], "") + "…"
	}
	return strconv.Quote(t)
}

func (o *object) fail(key, format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf("%w: %s%s %s", ErrConfig, o.path, key, fmt.Sprintf(format, args...))
	}
}

// has reports whether the member is there and not null.
func (o *object) has(key string) bool {
	v, ok := o.members[key]
	return ok && string(v) != "null"
}

// size reads an integer from 1 to MaxInt32; an absent member is absent, which
// may be 0 to say that it must be there.
func (o *object) size(key string, absent int) int {
	n := o.integer(key, int64(absent))
	if o.err == nil && (n < 1 || n > math.MaxInt32) {
		if !o.has(key) {
			o.fail(key, "is missing")
		} else {
			o.fail(key, "is %d, want 1 to %d", n, math.MaxInt32)
		}
	}
	return int(n)
}

func (o *object) integer(key string, absent int64) int64 {
	if !o.has(key) {
		return absent
	}
	n, err := strconv.ParseInt(string(o.members[key]), 10, 64)
	if err != nil {
		o.fail(key, "is %s, want an integer", quote(o.members[key]))
	}
	return n
}

// count reads an integer from 0, which must be there.
func (o *object) count(key string) int64 {
	n := o.integer(key, -1)
	if n < 0 {
		o.fail(key, "is %s, want an integer from 0", quote(o.members[key]))
	}
	return n
}

// tokenIDs are ids of tokens in JSON: null, one integer, or a list of them.
type tokenIDs []int32

func (t tokenIDs) MarshalJSON() ([]byte, error) {
	switch len(t) {
	case 0:
		return []byte("null"), nil
	case 1:
		return json.Marshal(t[0])
	}
	return json.Marshal([]int32(t))
}

// tokenIDs reads an integer or a list of integers, of which -1 is none, as
// some programs write it. An absent member is absent, or none if that is 0.
func (o *object) tokenIDs(key string, absent int) []int32 {
	v, there := o.members[key]
	switch {
	case !there && absent > 0:
		return []int32{int32(absent)}
	case !o.has(key):
		return nil
	}
	var ids []int32
	var id int32
	if json.Unmarshal(v, &id) == nil {
		ids = []int32{id}
	} else if json.Unmarshal(v, &ids) != nil {
		o.fail(key, "is %s, want an integer or a list of integers", quote(v))
	}
	ids = slices.DeleteFunc(ids, func(id int32) bool { return id == -1 })
	for _, id := range ids {
		if id < 0 {
			o.fail(key, "is %s, want ids from 0", quote(v))
		}
	}
	return ids
}

func (o *object) unsigned(key string) uint64 {
	n, err := strconv.ParseUint(string(o.members[key]), 10, 64)
	if err != nil {
		o.fail(key, "is %s, want an integer from 0", quote(o.members[key]))
	}
	return n
}

func (o *object) float(key string, absent float64) float64 {
	if !o.has(key) {
		return absent
	}
	v := string(o.members[key])
	x, err := strconv.ParseFloat(v, 64)
	if err != nil {
		o.fail(key, "is %s, want a number", quote(v))
	}
	return x
}

func (o *object) bool(key string, absent bool) bool {
	if !o.has(key) {
		return absent
	}
	v := string(o.members[key])
	if v != "true" && v != "false" {
		o.fail(key, "is %s, want true or false", quote(v))
	}
	return v == "true"
}

func (o *object) string(key, absent string) string {
	if !o.has(key) {
		return absent
	}
	var s string
	if json.Unmarshal(o.members[key], &s) != nil {
		o.fail(key, "is %s, want a string", quote(o.members[key]))
	}
	return s
}

func (o *object) strings(key string) []string {
	if !o.has(key) {
		return nil
	}
	var s []string
	if json.Unmarshal(o.members[key], &s) != nil {
		o.fail(key, "is %s, want a list of strings", quote(o.members[key]))
	}
	return s
}

// object reads a nested object, nil if it is absent.
func (o *object) object(key string) *object {
	if !o.has(key) {
		return nil
	}
	n := &object{path: o.path + key + "."}
	if json.Unmarshal(o.members[key], &n.members) != nil {
		o.fail(key, "is %s, want an object", quote(o.members[key]))
		return nil
	}
	return n
}

// only fails if o has a member that is not among keys.
func (o *object) only(keys ...string) {
	for _, k := range slices.Sorted(maps.Keys(o.members)) {
		if !slices.Contains(keys, k) {
			o.fail(k, "is not known")
		}
	}
}

// number is a float64 that JSON shows as one, with a point or an exponent:
// Python keeps 10000 an int.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	x := float64(n)
	format := byte('f')
	if a := math.Abs(x); a != 0 && (a < 1e-3 || a >= 1e15) {
		format = 'e'
	}
	b := strconv.AppendFloat(nil, x, format, -1, 64)
	if format == 'f' && !bytes.ContainsRune(b, '.') {
		b = append(b, ".0"...)
	}
	return b, nil
}
