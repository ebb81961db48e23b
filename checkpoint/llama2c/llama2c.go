// Package llama2c reads and writes the model files of llama2.c, versions 0
// and 1: a header, then the weights as little-endian float32, row-major.
//
// Version 0, its "legacy" format, which its run.c reads:
//
//	int32    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
//	         vocab_size is negative if the classifier has weights of its own
//	float32  token_embedding; then of all layers each of rms_att, wq, wk, wv,
//	         wo, rms_ffn, w1, w2, w3; rms_final; two tables of RoPE, cosines
//	         and sines [seq_len, head_dim/2]; wcls, unless it is shared
//
// Version 1:
//
//	int32    0x616b3432 ("ak42"), 1, and the seven as above, vocab_size positive
//	uint8    1 if wcls is token_embedding, or 0; then zeros up to byte 256
//	float32  of all layers rms_att, then rms_ffn; rms_final; token_embedding;
//	         of all layers wq, wk, wv, wo, w1, w2, w3; wcls, unless it is shared
//
// The width of a head is dim/n_heads. The tables of version 0 are skipped when
// read, as run.c does: RoPE has base 10000 and rotates adjacent pairs. Version
// 2 (int8) is refused.
package llama2c

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

const (
	magic       = 0x616b3432
	headerSize0 = 28
	headerSize1 = 256
	bufferSize  = 32 << 10
)

// What can be wrong with a file. Every error of this package about a file is
// an *Error that wraps one of these, or the error of the reader.
var (
	ErrTruncated = errors.New("file is truncated") // within the header
	ErrVersion   = errors.New("unsupported version")
	ErrHeader    = errors.New("bad header")
	ErrSize      = errors.New("file size does not match the header")
	ErrChanged   = rawfile.ErrChanged  // the file shrank under the reader
	ErrNotModel  = rawfile.ErrNotModel // recognisably something else
)

// Error says what is wrong with a file, and where.
type Error struct {
	Err    error  // one of the Err values of this package, or an I/O error
	Key    string // the field of the header or the tensor; may be empty
	Offset int64  // from the start of the file
	Detail string // what was found and what was expected
}

// Error says what is wrong, at which key and byte, and what was expected.
func (e *Error) Error() string {
	key := ""
	if e.Key != "" {
		key = ": " + e.Key
	}
	return fmt.Sprintf("llama2c: %v%s at byte %d: %s", e.Err, key, e.Offset, e.Detail)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

func fail(err error, key string, offset int64, format string, args ...any) error {
	return &Error{err, key, offset, fmt.Sprintf(format, args...)}
}

// Header is the shape of a model.
type Header struct {
	Version          int // 0 or 1
	Dim              int // divisible by NHeads, into heads of even width
	HiddenDim        int
	NLayers          int
	NHeads           int
	NKVHeads         int // divides NHeads
	VocabSize        int // positive in every version
	SeqLen           int
	SharedClassifier bool // the classifier is the token embedding
}

// fields lists the seven sizes in their order in a file, under its names.
func (h *Header) fields() [7]struct {
	name string
	v    *int
} {
	return [7]struct {
		name string
		v    *int
	}{
		{"dim", &h.Dim}, {"hidden_dim", &h.HiddenDim}, {"n_layers", &h.NLayers}, {"n_heads", &h.NHeads},
		{"n_kv_heads", &h.NKVHeads}, {"vocab_size", &h.VocabSize}, {"seq_len", &h.SeqLen},
	}
}

// Validate returns an *Error that names the first field whose value cannot be,
// or nil.
func (h Header) Validate() error {
	if h.Version != 0 && h.Version != 1 {
		return fail(ErrVersion, "version", 4, "%d, want 0 or 1", h.Version)
	}
	at := func(field int) int64 { return int64(8*h.Version + 4*field) }
	for i, f := range h.fields() {
		if *f.v < 1 || *f.v > math.MaxInt32 {
			return fail(ErrHeader, f.name, at(i), "%d, want 1 to %d", *f.v, math.MaxInt32)
		}
	}
	switch {
	case h.Dim%h.NHeads != 0:
		return fail(ErrHeader, "n_heads", at(3), "%d does not divide dim %d", h.NHeads, h.Dim)
	case h.Dim/h.NHeads%2 != 0:
		return fail(ErrHeader, "n_heads", at(3), "%d heads of dim %d have the odd width %d; RoPE rotates pairs",
			h.NHeads, h.Dim, h.Dim/h.NHeads)
	case h.NHeads%h.NKVHeads != 0:
		return fail(ErrHeader, "n_kv_heads", at(4), "%d does not divide n_heads %d", h.NKVHeads, h.NHeads)
	}
	if _, ok := h.layout(nil); !ok {
		return fail(ErrHeader, "", at(0), "%+v: the sizes overflow", h)
	}
	return nil
}

// Size returns how many bytes a file of this header has. The error is
// Validate's.
func (h Header) Size() (int64, error) {
	if err := h.Validate(); err != nil {
		return 0, err
	}
	size, _ := h.layout(nil)
	return size, nil
}

// part is a tensor in a file, or one of every layer one after the other.
type part struct {
	name   string
	layers int // 0: not in layers
	rows   int // 0: one dimension
	cols   int
	offset int64
	size   int64 // bytes of one layer
}

// layout calls each, if not nil, for every part in the order of the file, and
// returns the size of the file, or false if it is 2⁶³ or more. The sizes are
// positive and at most 2³¹-1.
func (h Header) layout(each func(part)) (size int64, ok bool) {
	C, H, L, V := h.Dim, h.HiddenDim, h.NLayers, h.VocabSize
	headDim := C / h.NHeads
	KV := h.NKVHeads * headDim
	var (
		embedding = part{name: "token_embedding", rows: V, cols: C}
		rmsAtt    = part{name: "rms_att", layers: L, cols: C}
		wq        = part{name: "wq", layers: L, rows: C, cols: C}
		wk        = part{name: "wk", layers: L, rows: KV, cols: C}
		wv        = part{name: "wv", layers: L, rows: KV, cols: C}
		wo        = part{name: "wo", layers: L, rows: C, cols: C}
		rmsFFN    = part{name: "rms_ffn", layers: L, cols: C}
		w1        = part{name: "w1", layers: L, rows: H, cols: C}
		w2        = part{name: "w2", layers: L, rows: C, cols: H}
		w3        = part{name: "w3", layers: L, rows: H, cols: C}
		rmsFinal  = part{name: "rms_final", cols: C}
		ropeCos   = part{name: ropeCos, rows: h.SeqLen, cols: headDim / 2}
		ropeSin   = part{name: ropeSin, rows: h.SeqLen, cols: headDim / 2}
		wcls      = part{name: "wcls", rows: V, cols: C}
	)
	var parts []part
	if h.Version == 0 {
		size = headerSize0
		parts = []part{embedding, rmsAtt, wq, wk, wv, wo, rmsFFN, w1, w2, w3, rmsFinal, ropeCos, ropeSin, wcls}
	} else {
		size = headerSize1
		parts = []part{rmsAtt, rmsFFN, rmsFinal, embedding, wq, wk, wv, wo, w1, w2, w3, wcls}
	}
	if h.SharedClassifier {
		parts = parts[:len(parts)-1]
	}
	for _, p := range parts {
		// Below 2⁶⁴: three factors of 31 bits and less, checked one by one.
		n := 4 * uint64(max(p.rows, 1)) * uint64(p.cols)
		hi, all := bits.Mul64(n, uint64(max(p.layers, 1)))
		if hi != 0 || all > uint64(math.MaxInt64-size) {
			return 0, false
		}
		p.offset, p.size = size, int64(n)
		size += int64(all)
		if each != nil {
			each(p)
		}
	}
	return size, true
}

// The two tables of RoPE in version 0, which are not served.
const ropeCos, ropeSin = "freq_cis_real", "freq_cis_imag"

// Tensor is one tensor of a file.
type Tensor struct {
	Name   string // "token_embedding", "layers.3.wq", "rms_final", "wcls", …
	Shape  []int  // [out, in] of a matrix, [n] of a norm
	Offset int64  // of the first byte, from the file's start
	Size   int64  // in bytes
}

// tensor returns the tensor of a layer of p.
func (p part) tensor(layer int) Tensor {
	t := Tensor{p.name, []int{p.cols}, p.offset + int64(layer)*p.size, p.size}
	if p.layers > 0 {
		t.Name = "layers." + strconv.Itoa(layer) + "." + p.name
	}
	if p.rows > 0 {
		t.Shape = []int{p.rows, p.cols}
	}
	return t
}

// File serves the tensors of a file that Read has checked. Goroutines may
// share it if they may share its reader.
type File struct {
	Header

	r     io.ReaderAt
	parts []part // in the order of the file, without the tables of RoPE
}

// Read reads the header of a file of the given size, and checks that the file
// has exactly the bytes that follow from it. The error is an *Error.
func Read(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, max(0, min(headerSize1, size)))
	if err := rawfile.ReadFull(r, head, 0); err != nil {
		return nil, fail(err, "", 0, "reading the header, %d bytes of %d", len(head), size)
	}
	h, err := readHeader(head, size)
	if err == nil {
		err = h.checkSize(size)
	}
	if err != nil {
		if is := rawfile.Foreign(head); is != "" && is != "a llama2.c file" {
			return nil, fail(ErrNotModel, "", 0, "this is %s", is)
		}
		return nil, err
	}
	f := &File{Header: h, r: r}
	h.layout(func(p part) {
		if p.name != ropeCos && p.name != ropeSin {
			f.parts = append(f.parts, p)
		}
	})
	return f, nil
}

// readHeader parses the first bytes of a file, as many as a header may have.
func readHeader(head []byte, size int64) (Header, error) {
	var h Header
	at := 0
	next := func() int {
		v := int32(binary.LittleEndian.Uint32(head[at:]))
		at += 4
		return int(v)
	}
	want := headerSize0
	if len(head) >= 8 && binary.LittleEndian.Uint32(head) == magic {
		at = 4
		switch h.Version = next(); h.Version {
		case 1:
		case 2:
			return h, fail(ErrVersion, "version", 4, "2 (int8 weights) is not supported; export version 0 or 1")
		default:
			return h, fail(ErrVersion, "version", 4, "%d, want 1", h.Version)
		}
		want = headerSize1
	}
	if len(head) < want {
		return h, fail(ErrTruncated, "", max(size, 0), "the file has %d bytes, the header of version %d has %d",
			size, h.Version, want)
	}
	for _, f := range h.fields() {
		*f.v = next()
	}
	if h.Version == 0 {
		h.SharedClassifier = h.VocabSize > 0
		if h.VocabSize < 0 {
			h.VocabSize = -h.VocabSize
		}
		return h, h.Validate()
	}
	if head[at] > 1 {
		return h, fail(ErrHeader, "shared_classifier", int64(at), "%d, want 0 or 1", head[at])
	}
	h.SharedClassifier = head[at] == 1
	for at++; at < headerSize1; at++ {
		if head[at] != 0 {
			return h, fail(ErrHeader, "padding", int64(at), "%d, want 0", head[at])
		}
	}
	return h, h.Validate()
}

// checkSize compares the size of a file with that of its header. The other
// size is in the message too: of the same model with, or without, a
// classifier of its own.
func (h Header) checkSize(size int64) error {
	want, _ := h.layout(nil)
	if want == size {
		return nil
	}
	says := map[bool]string{true: "a shared classifier", false: "a classifier of its own"}
	other := h
	other.SharedClassifier = !h.SharedClassifier
	detail := fmt.Sprintf("the file has %d bytes, want %d (%s, as the header says)",
		size, want, says[h.SharedClassifier])
	if n, ok := other.layout(nil); ok {
		detail += fmt.Sprintf("; with %s it would be %d", says[other.SharedClassifier], n)
	}
	return fail(ErrSize, "", min(want, size), "%s", detail)
}

// Tensors yields the tensors in the order of the file.
func (f *File) Tensors() iter.Seq[Tensor] {
	return func(yield func(Tensor) bool) {
		for _, p := range f.parts {
			for layer := range max(1, p.layers) {
				if !yield(p.tensor(layer)) {
					return
				}
			}
		}
	}
}

// Lookup returns the tensor of that name, if there is one.
func (f *File) Lookup(name string) (Tensor, bool) {
	layer := -1
	if rest, ok := strings.CutPrefix(name, "layers."); ok {
		number, kind, _ := strings.Cut(rest, ".")
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n >= f.NLayers || number != strconv.Itoa(n) {
			return Tensor{}, false
		}
		layer, name = n, kind
	}
	for _, p := range f.parts {
		if p.name == name && p.layers > 0 == (layer >= 0) {
			return p.tensor(max(layer, 0)), true
		}
	}
	return Tensor{}, false
}

// ReadFloat32 reads t into dst. It panics if dst has not the length of t or t
// is not a tensor of f. The error is an *Error: ErrChanged if the file has
// shrunk, or the reader's.
func (f *File) ReadFloat32(dst []float32, t Tensor) error {
	own, ok := f.Lookup(t.Name)
	if !ok || own.Offset != t.Offset || own.Size != t.Size || !slices.Equal(own.Shape, t.Shape) {
		panic("llama2c: not a tensor of this file")
	}
	if int64(len(dst)) != t.Size/4 {
		panic("llama2c: dst has not the length of the tensor")
	}
	buf := make([]byte, min(t.Size, bufferSize))
	for at := t.Offset; len(dst) > 0; {
		n := min(len(dst), len(buf)/4)
		if err := rawfile.ReadFull(f.r, buf[:4*n], at); err != nil {
			return fail(err, t.Name, at, "reading %d bytes", 4*n)
		}
		for i := range n {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*i:]))
		}
		dst = dst[n:]
		at += int64(4 * n)
	}
	return nil
}
