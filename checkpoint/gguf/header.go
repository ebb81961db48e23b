package gguf

import (
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

// The fixed part of a header, and the fewest bytes of an entry of the two
// lists that follow it: a key of one byte and a value of one; a name of one
// byte and one dimension.
const (
	fixedBytes = 24
	minValue   = 8 + 1 + 4 + 1
	minTensor  = 8 + 1 + 4 + 8 + 4 + 8
)

// parser walks the header. It keeps its first error, and reads zeros after it.
// It reads the file as it goes, and allocates nothing for what it finds until
// out is set.
type parser struct {
	r    io.ReaderAt
	size int64
	b    []byte // the first len(b) bytes of the file
	pos  int
	err  error

	version          uint32
	nTensors, nPairs int
	dims             int // of all tensors
	alignment        int64

	out *File // gets metadata and tensors, if not nil
}

// span is a string of the header.
type span struct{ lo, hi uint32 }

func (p *parser) fail(err error, key span, at int, format string, args ...any) {
	if p.err == nil {
		p.err = fail(err, string(p.b[key.lo:key.hi]), int64(at), format, args...)
	}
}

// left is how many bytes of the file have not been walked.
func (p *parser) left() int64 { return p.size - int64(p.pos) }

// need makes b hold the next n bytes. What is read grows with what was walked,
// so that memory is needed only for bytes that there are.
func (p *parser) need(n int64, key span) bool {
	if p.err != nil {
		return false
	}
	end := int64(p.pos) + n
	if end > p.size {
		p.fail(ErrTruncated, key, p.pos, "%d bytes are wanted, the file has %d more", n, p.left())
		return false
	}
	if end > maxHeader {
		p.fail(ErrTooLarge, key, p.pos, "it has more than %d bytes", maxHeader)
		return false
	}
	if end > int64(len(p.b)) {
		grown := make([]byte, min(p.size, max(end, 2*int64(len(p.b)))))
		had := copy(grown, p.b)
		if err := rawfile.ReadFull(p.r, grown[had:], int64(had)); err != nil {
			p.fail(err, key, had, "reading %d bytes of the header", len(grown)-had)
			return false
		}
		p.b = grown
	}
	return true
}

func (p *parser) uint32(key span) (v uint32) {
	if p.need(4, key) {
		v = binary.LittleEndian.Uint32(p.b[p.pos:])
		p.pos += 4
	}
	return v
}

func (p *parser) uint64(key span) (v uint64) {
	if p.need(8, key) {
		v = binary.LittleEndian.Uint64(p.b[p.pos:])
		p.pos += 8
	}
	return v
}

// string walks a string.
func (p *parser) string(key span) span {
	at := p.pos
	n := p.uint64(key)
	if p.err != nil {
		return span{}
	}
	if n > uint64(p.left()) {
		p.fail(ErrString, key, at, "it is said to have %d bytes, the file has %d more", n, p.left())
		return span{}
	}
	if !p.need(int64(n), key) {
		return span{}
	}
	s := span{uint32(p.pos), uint32(p.pos) + uint32(n)}
	p.pos += int(n)
	return s
}

// name walks a key or the name of a tensor, of at most so many bytes.
func (p *parser) name(what string, most int) span {
	at := p.pos
	s := p.string(span{})
	switch n := int(s.hi - s.lo); {
	case p.err != nil:
	case n == 0 || n > most:
		p.fail(ErrString, s, at, "%s of %d bytes, want 1 to %d", what, n, most)
	case !utf8.Valid(p.b[s.lo:s.hi]):
		p.fail(ErrString, span{}, at, "%s that is not UTF-8: %q", what, short(string(p.b[s.lo:s.hi])))
	}
	return s
}

// header walks all of it.
func (p *parser) header() {
	if p.size < fixedBytes {
		p.fail(ErrTruncated, span{}, int(max(p.size, 0)), "the file has %d bytes, want %d or more", p.size, fixedBytes)
		return
	}
	p.pos = 4
	p.version = p.uint32(span{})
	switch v := p.version; {
	case p.err != nil || v == 2 || v == 3:
	case bits.ReverseBytes32(v) == 2 || bits.ReverseBytes32(v) == 3:
		p.fail(ErrVersion, span{}, 4, "it is %#x: a file for big-endian machines; convert it again with --endian little", v)
	case v == 1:
		p.fail(ErrVersion, span{}, 4, "it is 1, which llama.cpp no longer reads either, want 2 or 3")
	default:
		p.fail(ErrVersion, span{}, 4, "it is %d, want 2 or 3", v)
	}
	tensors, pairs := p.uint64(span{}), p.uint64(span{})
	room := uint64(p.left())
	switch {
	case p.err != nil:
	case tensors > room/minTensor:
		p.fail(ErrCount, span{}, 8, "%d tensors in a file of %d bytes", tensors, p.size)
	case pairs > room/minValue:
		p.fail(ErrCount, span{}, 16, "%d metadata values in a file of %d bytes", pairs, p.size)
	}
	if p.err != nil {
		return
	}
	p.nTensors, p.nPairs = int(tensors), int(pairs)
	p.alignment = defaultAlignment
	for range p.nPairs {
		if p.pair(); p.err != nil {
			return
		}
	}
	for range p.nTensors {
		if p.tensor(); p.err != nil {
			return
		}
	}
}

// pair walks a key and its value.
func (p *parser) pair() {
	key := p.name("a key", maxKey)
	at := p.pos
	e := entry{key: key, typ: valueType(p.uint32(key)), n: 1}
	elem := e.typ
	if e.typ == vArray {
		elem = valueType(p.uint32(key))
		n := p.uint64(key)
		switch least := elem.least(); {
		case p.err != nil:
		case elem == vArray:
			p.fail(ErrType, key, at+4, "an array of arrays is not supported")
		case least == 0:
			p.fail(ErrType, key, at+4, "an array of type %d, want 0 to %d", uint32(elem), uint32(vFloat64))
		case n > uint64(p.left()/least):
			p.fail(ErrCount, key, at+8, "an array of %d values of %v, the file has %d more bytes", n, elem, p.left())
		case n > maxHeader:
			p.fail(ErrTooLarge, key, at+8, "an array of %d values", n)
		}
		e.elem, e.n = elem, uint32(n)
	} else if p.err == nil && e.typ.least() == 0 {
		p.fail(ErrType, key, at, "a value of type %d, want 0 to %d", uint32(e.typ), uint32(vFloat64))
	}
	e.at = uint32(p.pos)
	p.values(key, elem, int(e.n))
	if p.err == nil && string(p.b[key.lo:key.hi]) == alignmentKey {
		a := uint32(0)
		if e.typ == vUint32 {
			a = binary.LittleEndian.Uint32(p.b[e.at:])
		}
		if bits.OnesCount32(a) != 1 {
			p.fail(ErrValue, key, int(e.at), "want a power of two as an uint32")
		}
		p.alignment = int64(a)
	}
	if p.err == nil && p.out != nil {
		p.out.pairs = append(p.out.pairs, e)
	}
}

// values walks n values of a type that is no array.
func (p *parser) values(key span, typ valueType, n int) {
	if p.err != nil {
		return
	}
	if typ == vString {
		for i := 0; i < n && p.err == nil; i++ {
			p.string(key)
		}
		return
	}
	size := n * int(typ.least())
	if !p.need(int64(size), key) {
		return
	}
	if typ == vBool {
		for i, c := range p.b[p.pos : p.pos+size] {
			if c > 1 {
				p.fail(ErrValue, key, p.pos+i, "the byte %d for a bool, want 0 or 1", c)
			}
		}
	}
	p.pos += size
}

// tensor walks the description of a tensor and checks it for itself.
func (p *parser) tensor() {
	begin := p.pos
	name := p.name("a tensor's name", maxName)
	if p.err != nil {
		return
	}
	at := p.pos
	n := p.uint32(name)
	if p.err == nil && (n < 1 || n > maxDims) {
		p.fail(ErrShape, name, at, "%d dimensions, want 1 to %d", n, maxDims)
	}
	if p.err != nil {
		return
	}
	var shape [maxDims]uint64
	elements, overflow := uint64(1), false
	for i := range int(n) {
		d := p.uint64(name)
		if p.err == nil && (d == 0 || d > math.MaxInt) {
			p.fail(ErrShape, name, p.pos-8, "dimension %d is %d, want 1 or more", i, int64(d))
		}
		shape[i] = d
		hi, lo := bits.Mul64(elements, d)
		elements, overflow = lo, overflow || hi != 0
	}
	typeAt := p.pos
	typ := Type(p.uint32(name))
	offset := p.uint64(name)
	if p.err != nil {
		return
	}
	l := typ.layout()
	if l.block == 0 {
		p.fail(ErrType, name, typeAt, "the tensor is of type %d, which there is not", uint32(typ))
		return
	}
	hi, size := bits.Mul64(elements/uint64(l.block), uint64(l.size))
	switch {
	case overflow || hi != 0 || size > math.MaxInt64 || elements > math.MaxInt:
		p.fail(ErrOverflow, name, at+4, "%v elements of %v", shape[:n], typ)
	case shape[0]%uint64(l.block) != 0:
		p.fail(ErrBlock, name, at+4, "rows of %d elements, want a multiple of the %d in a block of %v", shape[0], l.block, typ)
	}
	p.dims += int(n)
	if p.err != nil || p.out == nil {
		return
	}
	f := p.out
	from := len(f.dims)
	for i := range int(n) {
		f.dims = append(f.dims, int(shape[int(n)-1-i]))
	}
	// The offset is from the start of the data, which is not known yet.
	f.tensors = append(f.tensors, Tensor{string(p.b[name.lo:name.hi]), typ, f.dims[from:len(f.dims):len(f.dims)], int64(offset), int64(size)})
	f.at = append(f.at, int32(begin))
}
