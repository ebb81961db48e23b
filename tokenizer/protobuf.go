package tokenizer

import (
	"encoding/binary"
	"math"
)

// protoReader reads protocol buffers: wire types 0, 1, 2 and 5. The few
// messages of a tokenizer.model need no generated code. It panics with
// *Error; catch returns that as an error.
type protoReader struct {
	data []byte
	pos  int
	base int64 // of data in the file
}

func (r *protoReader) fail(err error, format string, args ...any) {
	e := fail(err, format, args...).(*Error)
	e.Offset = r.base + int64(r.pos)
	panic(e)
}

func (r *protoReader) varint() uint64 {
	v, n := binary.Uvarint(r.data[r.pos:])
	switch {
	case n == 0:
		r.fail(ErrTruncated, "within a varint")
	case n < 0:
		r.fail(ErrFormat, "a varint of more than 64 bits")
	}
	r.pos += n
	return v
}

func (r *protoReader) take(n uint64) []byte {
	if n > uint64(len(r.data)-r.pos) {
		r.fail(ErrTruncated, "%d bytes left, want %d", len(r.data)-r.pos, n)
	}
	b := r.data[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// field is one field of a message. number holds what is not bytes.
type field struct {
	num, wire int
	number    uint64
	bytes     []byte
	at        int64 // of bytes in the file
	r         *protoReader
}

// fields calls f with each field of the message.
func (r *protoReader) fields(f func(field)) {
	for r.pos < len(r.data) {
		key := r.varint()
		v := field{num: int(min(key>>3, 1<<30)), wire: int(key & 7), r: r}
		if v.num == 0 || key>>3 >= 1<<29 {
			r.fail(ErrFormat, "field number %d", key>>3)
		}
		switch v.wire {
		case 0:
			v.number = r.varint()
		case 1:
			v.number = binary.LittleEndian.Uint64(r.take(8))
		case 2:
			n := r.varint()
			v.at = r.base + int64(r.pos)
			v.bytes = r.take(n)
		case 5:
			v.number = uint64(binary.LittleEndian.Uint32(r.take(4)))
		default:
			r.fail(ErrFormat, "wire type %d of field %d", v.wire, v.num)
		}
		f(v)
	}
}

func (f field) want(wire int) {
	if f.wire != wire {
		f.r.fail(ErrFormat, "field %d has wire type %d, want %d", f.num, f.wire, wire)
	}
}

func (f field) message() *protoReader {
	f.want(2)
	return &protoReader{data: f.bytes, base: f.at}
}

func (f field) string() string {
	f.want(2)
	return string(f.bytes)
}

func (f field) bool() bool {
	f.want(0)
	return f.number != 0
}

func (f field) int() int32 {
	f.want(0)
	return int32(f.number)
}

func (f field) float() float32 {
	f.want(5)
	return math.Float32frombits(uint32(f.number))
}
