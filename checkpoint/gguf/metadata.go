package gguf

import (
	"bytes"
	"encoding/binary"
	"math"
	"sort"
	"unicode/utf8"
)

// entry is a value of the metadata.
type entry struct {
	key       span
	at        uint32 // of the value in the header; of an array, of its first element
	n         uint32 // elements of an array; else 1
	typ, elem valueType
}

// Value is a value of a file's metadata. Its methods return the value as a Go
// type, or an *Error, ErrType or ErrValue, that names the key.
type Value struct {
	f *File
	e entry
}

// Keys returns the keys of the metadata in the order of the file.
func (f *File) Keys() []string {
	keys := make([]string, len(f.pairs))
	for i := range keys {
		keys[i] = string(f.key(int32(i)))
	}
	return keys
}

// Value returns the value of a key, if there is one.
func (f *File) Value(key string) (Value, bool) {
	i, ok := sort.Find(len(f.byKey), func(i int) int { return bytes.Compare([]byte(key), f.key(f.byKey[i])) })
	if !ok {
		return Value{}, false
	}
	return Value{f, f.pairs[f.byKey[i]]}, true
}

// Key returns the key.
func (v Value) Key() string { return string(v.f.header[v.e.key.lo:v.e.key.hi]) }

// Len returns the number of elements of an array, 1 for another value.
func (v Value) Len() int { return int(v.e.n) }

// Offset returns where in the file the value is.
func (v Value) Offset() int64 { return int64(v.e.at) }

func (v Value) fail(err error, format string, args ...any) error {
	return fail(err, v.Key(), v.Offset(), format, args...)
}

// want is the error of a value that is of another type.
func (v Value) want(what string) error {
	if v.e.typ == vArray {
		return v.fail(ErrType, "it is an array of %v, want %s", v.e.elem, what)
	}
	return v.fail(ErrType, "it is of type %v, want %s", v.e.typ, what)
}

// Any returns the value as the Go type of the same name, and an array as a
// slice of that. The strings of an array share memory.
func (v Value) Any() any {
	b := v.f.header[v.e.at:]
	if v.e.typ != vArray {
		switch v.e.typ {
		case vUint8:
			return b[0]
		case vInt8:
			return int8(b[0])
		case vUint16:
			return binary.LittleEndian.Uint16(b)
		case vInt16:
			return int16(binary.LittleEndian.Uint16(b))
		case vUint32:
			return binary.LittleEndian.Uint32(b)
		case vInt32:
			return int32(binary.LittleEndian.Uint32(b))
		case vFloat32:
			return math.Float32frombits(binary.LittleEndian.Uint32(b))
		case vBool:
			return b[0] == 1
		case vString:
			return string(b[8:][:binary.LittleEndian.Uint64(b)])
		case vUint64:
			return binary.LittleEndian.Uint64(b)
		case vInt64:
			return int64(binary.LittleEndian.Uint64(b))
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	n := int(v.e.n)
	switch v.e.elem {
	case vUint8:
		return elements(n, func(i int) uint8 { return b[i] })
	case vInt8:
		return elements(n, func(i int) int8 { return int8(b[i]) })
	case vUint16:
		return elements(n, func(i int) uint16 { return binary.LittleEndian.Uint16(b[2*i:]) })
	case vInt16:
		return elements(n, func(i int) int16 { return int16(binary.LittleEndian.Uint16(b[2*i:])) })
	case vUint32:
		return elements(n, func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) })
	case vInt32:
		return elements(n, func(i int) int32 { return int32(binary.LittleEndian.Uint32(b[4*i:])) })
	case vFloat32:
		return elements(n, func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) })
	case vBool:
		return elements(n, func(i int) bool { return b[i] == 1 })
	case vString:
		return stringsOf(b, n)
	case vUint64:
		return elements(n, func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) })
	case vInt64:
		return elements(n, func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) })
	}
	return elements(n, func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])) })
}

func elements[T any](n int, at func(i int) T) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = at(i)
	}
	return list
}

// stringsOf returns the n strings that b begins with, as parts of one.
func stringsOf(b []byte, n int) []string {
	end := 0
	for range n {
		end += 8 + int(binary.LittleEndian.Uint64(b[end:]))
	}
	all := string(b[:end])
	end = 0
	return elements(n, func(int) string {
		from := end + 8
		end = from + int(binary.LittleEndian.Uint64(b[end:]))
		return all[from:end]
	})
}

// Int returns an integer of any type.
func (v Value) Int() (int64, error) {
	switch x := v.Any().(type) {
	case uint8:
		return int64(x), nil
	case int8:
		return int64(x), nil
	case uint16:
		return int64(x), nil
	case int16:
		return int64(x), nil
	case uint32:
		return int64(x), nil
	case int32:
		return int64(x), nil
	case int64:
		return x, nil
	case uint64:
		if x > math.MaxInt64 {
			return 0, v.fail(ErrValue, "%d is too large", x)
		}
		return int64(x), nil
	}
	return 0, v.want("an integer")
}

// Float returns a number of type Float32 or Float64.
func (v Value) Float() (float64, error) {
	switch x := v.Any().(type) {
	case float32:
		return float64(x), nil
	case float64:
		return x, nil
	}
	return 0, v.want("float32 or float64")
}

// Bool returns a value of type Bool.
func (v Value) Bool() (bool, error) {
	if x, ok := v.Any().(bool); ok {
		return x, nil
	}
	return false, v.want("bool")
}

// Text returns a value of type String, which must be UTF-8.
func (v Value) Text() (string, error) {
	x, ok := v.Any().(string)
	switch {
	case !ok:
		return "", v.want("string")
	case !utf8.ValidString(x):
		return "", v.fail(ErrString, "it is not UTF-8")
	}
	return x, nil
}

// Texts returns an array of String. They need not be UTF-8, and share memory.
func (v Value) Texts() ([]string, error) {
	if v.e.typ == vArray && v.e.elem == vString {
		return v.Any().([]string), nil
	}
	return nil, v.want("an array of strings")
}

// Int32s returns an array of Int32 or Uint32, whose values must fit an int32.
func (v Value) Int32s() ([]int32, error) {
	switch x := v.Any().(type) {
	case []int32:
		return x, nil
	case []uint32:
		list := make([]int32, len(x))
		for i, u := range x {
			if list[i] = int32(u); list[i] < 0 {
				return nil, v.fail(ErrValue, "element %d is %d, want at most %d", i, u, math.MaxInt32)
			}
		}
		return list, nil
	}
	return nil, v.want("an array of int32")
}

// Float32s returns an array of Float32.
func (v Value) Float32s() ([]float32, error) {
	if x, ok := v.Any().([]float32); ok {
		return x, nil
	}
	return nil, v.want("an array of float32")
}
