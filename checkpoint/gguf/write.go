package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/checkpoint/internal/half"
)

// Pair is a value of the metadata to write.
type Pair struct {
	Key   string
	Value any // a number of a type with a size, bool, string, or a slice of one of these
}

// Entry is a tensor to write.
type Entry struct {
	Name  string
	Type  Type
	Shape []int // the slowest dimension first: [out, in] of a matrix
	// Data writes the tensor as the file has it: exactly as many bytes as
	// Shape and Type say. It is called once.
	Data func(w io.Writer) error
}

// Float32 returns an Entry of data, stored as F32, F16, BF16 or Q8_0 (as
// ggml's quantize_row_q8_0_ref does it). It panics if data has not the length
// that shape says, or typ is another type.
//
// A finite number that F16 or BF16 would make infinite, and in Q8_0 also one
// that is not finite, is ErrValue when the data is written.
func Float32(name string, typ Type, shape []int, data []float32) Entry {
	return Float32Rows(name, typ, shape, data, 1, func(int) int { return 0 })
}

// Float32Rows is Float32 that moves rows: data has the given number of rows of
// equal length, and row from(i) of data becomes row i in the file. It panics if
// rows does not divide the length.
func Float32Rows(name string, typ Type, shape []int, data []float32, rows int, from func(i int) int) Entry {
	length := 1
	for _, d := range shape {
		length *= d
	}
	encode := typ.encoder()
	switch {
	case encode == nil:
		panic("gguf: Float32 writes F32, F16, BF16 and Q8_0 only")
	case length != len(data):
		panic("gguf: data has not the length that shape says")
	case rows < 1 || length%rows != 0:
		panic("gguf: rows does not divide the length of the tensor")
	}
	cols := length / rows
	write := func(w io.Writer) error {
		values := make([]float32, min(length, bufferElements))
		var buf []byte
		for i := 0; i < length; {
			n := 0
			for n < len(values) && i+n < length {
				row, col := (i+n)/cols, (i+n)%cols
				n += copy(values[n:], data[from(row)*cols:][:cols][col:])
			}
			var bad int
			if buf, bad = encode(buf[:0], values[:n]); bad >= 0 {
				return fmt.Errorf("%w: element %d is %v, which %v cannot hold", ErrValue, i+bad, values[bad], typ)
			}
			if _, err := w.Write(buf); err != nil {
				return err
			}
			i += n
		}
		return nil
	}
	return Entry{name, typ, slices.Clone(shape), write}
}

// encoder returns the function that appends the bytes of values, whole blocks,
// and returns the index of the first that cannot be stored, or -1.
func (t Type) encoder() func(b []byte, values []float32) ([]byte, int) {
	switch t {
	case F32:
		return func(b []byte, values []float32) ([]byte, int) {
			for _, v := range values {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
			}
			return b, -1
		}
	case F16:
		return encode16(half.ToF16, 0x7c00)
	case BF16:
		return encode16(half.ToBF16, 0x7f80)
	case Q8_0:
		return encodeQ8_0
	}
	return nil
}

func encode16(to func(float32) uint16, inf uint16) func([]byte, []float32) ([]byte, int) {
	return func(b []byte, values []float32) ([]byte, int) {
		for i, v := range values {
			h := to(v)
			if h&0x7fff == inf && !math.IsInf(float64(v), 0) {
				return b, i
			}
			b = binary.LittleEndian.AppendUint16(b, h)
		}
		return b, -1
	}
}

// encodeQ8_0 divides each block of 32 by d, the greatest magnitude over 127,
// and rounds halves away from zero. As in ggml, the division is a product with
// 1/d, and it is d as a float32 that divides, and as a F16 that is stored.
func encodeQ8_0(b []byte, values []float32) ([]byte, int) {
	for at := 0; at < len(values); at += 32 {
		block := values[at:][:32]
		greatest, most := 0, float32(0)
		for i, v := range block {
			a := float32(math.Abs(float64(v)))
			if !(a <= math.MaxFloat32) {
				return b, at + i
			}
			if a > most {
				greatest, most = i, a
			}
		}
		d := most / 127
		scale := half.ToF16(d)
		if scale == 0x7c00 {
			return b, at + greatest
		}
		inverse := float32(0)
		if d != 0 {
			inverse = 1 / d
		}
		b = binary.LittleEndian.AppendUint16(b, scale)
		for _, v := range block {
			q := math.Round(float64(v * inverse))
			if !(math.Abs(q) <= 127) { // 1/d is Inf: d is 0 as a F16 anyway
				q = 0
			}
			b = append(b, byte(int8(q)))
		}
	}
	return b, -1
}

// Write writes a file of version 3 with the values and tensors in the order
// given, each tensor padded to a multiple of 32 or, if it is among the values, of
// general.alignment. What Read would refuse is an *Error before the first byte
// is written, and so is an entry, when its turn comes, that writes more or
// fewer bytes than its shape and type say. Errors of w and of Data are
// wrapped. It panics if a value is of a type that Pair does not name.
func Write(w io.Writer, metadata []Pair, entries []Entry) error {
	header := []byte(magic)
	header = binary.LittleEndian.AppendUint32(header, 3)
	header = binary.LittleEndian.AppendUint64(header, uint64(len(entries)))
	header = binary.LittleEndian.AppendUint64(header, uint64(len(metadata)))
	alignment := int64(defaultAlignment)
	seen := make(map[string]bool, len(metadata)+len(entries))
	for _, p := range metadata {
		if p.Key == "" || len(p.Key) > maxKey || !utf8.ValidString(p.Key) {
			return fail(ErrString, p.Key, 0, "no key for a value to write")
		}
		if seen[p.Key] {
			return fail(ErrDuplicate, p.Key, 0, "two values to write have this key")
		}
		seen[p.Key] = true
		header = appendText(header, p.Key)
		header = appendValue(header, p.Value)
		if p.Key == alignmentKey {
			a, ok := p.Value.(uint32)
			if !ok || a == 0 || a&(a-1) != 0 {
				return fail(ErrValue, p.Key, 0, "%v to write, want a power of two as an uint32", p.Value)
			}
			alignment = int64(a)
		}
	}
	clear(seen)
	sizes, end := make([]int64, len(entries)), int64(0)
	for i, e := range entries {
		size, err := e.size()
		if err != nil {
			return err
		}
		if seen[e.Name] {
			return fail(ErrDuplicate, e.Name, 0, "two tensors to write have this name")
		}
		seen[e.Name], sizes[i] = true, size
		header = appendText(header, e.Name)
		header = binary.LittleEndian.AppendUint32(header, uint32(len(e.Shape)))
		for _, d := range slices.Backward(e.Shape) {
			header = binary.LittleEndian.AppendUint64(header, uint64(d))
		}
		header = binary.LittleEndian.AppendUint32(header, uint32(e.Type))
		header = binary.LittleEndian.AppendUint64(header, uint64(end))
		if size > math.MaxInt64/2-end {
			return fail(ErrOverflow, e.Name, 0, "the tensors to write have too many bytes in all")
		}
		end = padded(end+size, alignment)
	}
	if len(header) > maxHeader {
		return fail(ErrTooLarge, "", 0, "the header to write has %d bytes, want at most %d", len(header), maxHeader)
	}

	out := bufio.NewWriterSize(w, 32<<10)
	pad := func(at int64) int64 {
		n := padded(at, alignment) - at
		for range n {
			out.WriteByte(0) // a bufio.Writer keeps its first error
		}
		return at + n
	}
	if _, err := out.Write(header); err != nil {
		return fail(err, "", 0, "writing the header")
	}
	at := int64(len(header))
	if len(entries) > 0 {
		at = pad(at)
	}
	for i, e := range entries {
		body := tensorWriter{w: out, left: sizes[i]}
		if err := e.Data(&body); err != nil {
			return fail(err, e.Name, at+sizes[i]-body.left, "writing %d bytes", sizes[i])
		}
		if body.left != 0 {
			return fail(ErrSize, e.Name, at, "Data wrote %d bytes, want %d", sizes[i]-body.left, sizes[i])
		}
		at = pad(at + sizes[i])
	}
	if err := out.Flush(); err != nil {
		return fail(err, "", at-int64(out.Buffered()), "writing the end")
	}
	return nil
}

// size checks the entry and returns its size in bytes.
func (e Entry) size() (int64, error) {
	if e.Data == nil {
		panic("gguf: Entry.Data is nil")
	}
	l := e.Type.layout()
	switch n := len(e.Shape); {
	case e.Name == "" || len(e.Name) > maxName || !utf8.ValidString(e.Name):
		return 0, fail(ErrString, e.Name, 0, "no name for a tensor to write, want 1 to %d bytes", maxName)
	case l.block == 0:
		return 0, fail(ErrType, e.Name, 0, "%v to write", e.Type)
	case n < 1 || n > maxDims || slices.ContainsFunc(e.Shape, func(d int) bool { return d < 1 }):
		return 0, fail(ErrShape, e.Name, 0, "%v to write, want 1 to %d dimensions, each 1 or more", e.Shape, maxDims)
	case int64(e.Shape[n-1])%l.block != 0:
		return 0, fail(ErrBlock, e.Name, 0, "rows of %d elements to write, want a multiple of the %d in a block of %v",
			e.Shape[n-1], l.block, e.Type)
	}
	size := l.size
	for i, d := range e.Shape {
		n := int64(d)
		if i == len(e.Shape)-1 {
			n /= l.block
		}
		if size > math.MaxInt64/4/n {
			return 0, fail(ErrOverflow, e.Name, 0, "%v elements of %v to write", e.Shape, e.Type)
		}
		size *= n
	}
	return size, nil
}

// tensorWriter passes on the bytes of one tensor and no more.
type tensorWriter struct {
	w    *bufio.Writer
	left int64
}

func (t *tensorWriter) Write(b []byte) (int, error) {
	if int64(len(b)) > t.left {
		return 0, fmt.Errorf("%w: Data writes more", ErrSize)
	}
	n, err := t.w.Write(b)
	t.left -= int64(n)
	return n, err
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// appendValue appends the type of a value and the value.
func appendValue(b []byte, value any) []byte {
	le := binary.LittleEndian
	typed := func(t valueType) []byte { return le.AppendUint32(b, uint32(t)) }
	switch v := value.(type) {
	case uint8:
		return append(typed(vUint8), v)
	case int8:
		return append(typed(vInt8), byte(v))
	case uint16:
		return le.AppendUint16(typed(vUint16), v)
	case int16:
		return le.AppendUint16(typed(vInt16), uint16(v))
	case uint32:
		return le.AppendUint32(typed(vUint32), v)
	case int32:
		return le.AppendUint32(typed(vInt32), uint32(v))
	case float32:
		return le.AppendUint32(typed(vFloat32), math.Float32bits(v))
	case bool:
		return append(typed(vBool), boolByte(v))
	case string:
		return appendText(typed(vString), v)
	case uint64:
		return le.AppendUint64(typed(vUint64), v)
	case int64:
		return le.AppendUint64(typed(vInt64), uint64(v))
	case float64:
		return le.AppendUint64(typed(vFloat64), math.Float64bits(v))
	case []uint8:
		return appendArray(b, vUint8, v, func(b []byte, v uint8) []byte { return append(b, v) })
	case []int8:
		return appendArray(b, vInt8, v, func(b []byte, v int8) []byte { return append(b, byte(v)) })
	case []uint16:
		return appendArray(b, vUint16, v, le.AppendUint16)
	case []int16:
		return appendArray(b, vInt16, v, func(b []byte, v int16) []byte { return le.AppendUint16(b, uint16(v)) })
	case []uint32:
		return appendArray(b, vUint32, v, le.AppendUint32)
	case []int32:
		return appendArray(b, vInt32, v, func(b []byte, v int32) []byte { return le.AppendUint32(b, uint32(v)) })
	case []float32:
		return appendArray(b, vFloat32, v, func(b []byte, v float32) []byte { return le.AppendUint32(b, math.Float32bits(v)) })
	case []bool:
		return appendArray(b, vBool, v, func(b []byte, v bool) []byte { return append(b, boolByte(v)) })
	case []string:
		return appendArray(b, vString, v, appendText)
	case []uint64:
		return appendArray(b, vUint64, v, le.AppendUint64)
	case []int64:
		return appendArray(b, vInt64, v, func(b []byte, v int64) []byte { return le.AppendUint64(b, uint64(v)) })
	case []float64:
		return appendArray(b, vFloat64, v, func(b []byte, v float64) []byte { return le.AppendUint64(b, math.Float64bits(v)) })
	}
	panic("gguf: a Pair's Value is of a type that a file cannot hold")
}

func appendArray[T any](b []byte, elem valueType, list []T, appendOne func([]byte, T) []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(vArray))
	b = binary.LittleEndian.AppendUint32(b, uint32(elem))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(list)))
	for _, v := range list {
		b = appendOne(b, v)
	}
	return b
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
