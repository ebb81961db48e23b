// Package safetensors reads and writes files of the safetensors format:
//
//	8 bytes   N, the size of the header, little-endian
//	N bytes   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
//	the rest  the tensors, row-major and little-endian, with no gap
//
// data_offsets count from the end of the header. The key __metadata__, if
// there, holds an object of strings.
//
// [Read] refuses what the reference implementation (the Rust crate) refuses,
// and also:
//
//   - two tensors of one name, or two metadata entries of one key, which the
//     crate lets through: the last one wins;
//   - fields other than dtype, shape and data_offsets, and a tensor given as
//     an array of the three;
//   - __metadata__ that is null;
//   - white space before the first brace;
//   - more than 8 dimensions, and a shape like [0, 2⁶², 2⁶²], whose other
//     dimensions overflow;
//   - more than 65536 metadata entries.
//
// Scalars (shape []), tensors of no elements and white space inside the header
// and after it are accepted. The bytes of a tensor are not judged: NaN, Inf
// and a BOOL that is neither 0 nor 1 pass.
//
// Reading needs memory for the header and its tensors, at most 64 KiB and 8
// bytes for each byte really read, whatever the file claims. [Write] produces
// what the reference does: tensors by dtype, the most strictly aligned first,
// then by name; the header padded with spaces to a multiple of 8.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

const (
	maxHeader   = 100_000_000 // bytes; the reference's limit
	maxDims     = 8
	maxMetadata = 65536
	metadataKey = "__metadata__"
)

// Tensor is one tensor of a file.
type Tensor struct {
	Name   string
	Dtype  string // "F32", "BF16", …
	Shape  []int  // empty: a scalar
	Offset int64  // of the first byte, from the file's start
	Size   int64  // in bytes
}

// File serves the tensors of a file that Read has checked. Goroutines may
// share it if they may share its reader.
type File struct {
	r        io.ReaderAt
	tensors  []Tensor // by offset
	byName   []int32  // indices into tensors, sorted by name
	hasMeta  bool
	metadata []pair
}

// pair is an entry of the metadata.
type pair struct {
	key, value string
	at         int32 // where the key is in the header
}

// dtypes in the reference's order of alignment, with the bits of an element.
var dtypes = []struct {
	name string
	bits uint64
}{
	{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8},
	{"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
	{"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},
	{"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64},
}

// Read reads the header of a file of the given size and checks all of it: when
// it returns no error, every tensor is within the file, as large as its shape
// and dtype say, and the tensors fill the file with no gap or overlap. The
// error is an *Error.
func Read(r io.ReaderAt, size int64) (*File, error) {
	var head [32]byte
	n := max(0, min(int64(len(head)), size))
	if err := rawfile.ReadFull(r, head[:n], 0); err != nil {
		return nil, fail(err, "", 0, "reading the first %d bytes of %d", n, size)
	}
	f, err := read(r, size, head[:n])
	if err != nil {
		if e := err.(*Error); n >= 8 && e.Key == "" && !e.io() {
			if is := rawfile.Foreign(head[:n]); is != "" && is != "a safetensors file" {
				return nil, fail(ErrNotModel, "", 0, "this is %s", is)
			}
		}
		return nil, err
	}
	return f, nil
}

// io reports whether the file could not be read, rather than is bad.
func (e *Error) io() bool {
	for _, bad := range []error{ErrTruncated, ErrTrailing, ErrHeader, ErrHeaderTooLarge} {
		if e.Err == bad {
			return false
		}
	}
	return true
}

func read(r io.ReaderAt, size int64, head []byte) (*File, error) {
	if len(head) < 8 {
		return nil, fail(ErrTruncated, "", 0, "the file has %d bytes, want 8 or more", size)
	}
	n := binary.LittleEndian.Uint64(head)
	switch {
	case n == 0:
		return nil, fail(ErrHeader, "", 0, "the header has no bytes, want at least {}")
	case n > maxHeader:
		return nil, fail(ErrHeaderTooLarge, "", 0, "the header is said to have %d bytes, want at most %d", n, maxHeader)
	case n > uint64(size-8):
		return nil, fail(ErrTruncated, "", 0,
			"the header is said to have %d bytes, the file has %d after its first 8", n, size-8)
	}
	header, err := readHeader(r, int(n))
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(header) {
		at := 0
		for c, w := utf8.DecodeRune(header); c != utf8.RuneError || w > 1; c, w = utf8.DecodeRune(header[at:]) {
			at += w
		}
		return nil, fail(ErrHeader, "", 8+int64(at), "not UTF-8")
	}

	// The first pass checks and counts, so that the second can allocate
	// exactly.
	p := parser{b: header, dataSize: size - 8 - int64(n)}
	if err := p.header(); err != nil {
		return nil, err
	}
	f := &File{
		r:        r,
		tensors:  make([]Tensor, 0, p.tensors),
		byName:   make([]int32, p.tensors),
		hasMeta:  p.hasMeta,
		metadata: make([]pair, 0, p.pairs),
	}
	p = parser{b: header, dataSize: p.dataSize, out: f, at: make([]int32, 0, p.tensors)}
	if err := p.header(); err != nil {
		return nil, err
	}
	if err := f.checkNames(p.at); err != nil {
		return nil, err
	}
	return f, f.checkRanges(8+int64(n), size)
}

// readHeader reads the n bytes after the first 8. The buffer grows with what
// has really been read: the file may be shorter than it was said to be.
func readHeader(r io.ReaderAt, n int) ([]byte, error) {
	var b []byte
	for want := 32 << 10; len(b) < n; want *= 4 {
		grown := make([]byte, min(n, want))
		had := copy(grown, b)
		if err := rawfile.ReadFull(r, grown[had:], 8+int64(had)); err != nil {
			return nil, fail(err, "", 8+int64(had), "reading a header of %d bytes", n)
		}
		b = grown
	}
	return b, nil
}

// checkNames fills byName and finds duplicates; at says where in the header
// the names of the tensors are.
func (f *File) checkNames(at []int32) error {
	f.sortNames()
	for i := 1; i < len(f.byName); i++ {
		a, b := f.byName[i-1], f.byName[i]
		if name := f.tensors[a].Name; name == f.tensors[b].Name {
			return fail(ErrDuplicate, name, 8+int64(max(at[a], at[b])), "the tensor is also at byte %d of the header",
				min(at[a], at[b]))
		}
	}
	slices.SortFunc(f.metadata, func(a, b pair) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.at, b.at))
	})
	for i := 1; i < len(f.metadata); i++ {
		if a, b := f.metadata[i-1], f.metadata[i]; a.key == b.key {
			return fail(ErrDuplicate, a.key, 8+int64(b.at), "the metadata key is also at byte %d of the header", a.at)
		}
	}
	return nil
}

func (f *File) sortNames() {
	for i := range f.byName {
		f.byName[i] = int32(i)
	}
	slices.SortFunc(f.byName, func(a, b int32) int { return strings.Compare(f.tensors[a].Name, f.tensors[b].Name) })
}

// checkRanges sorts the tensors by offset and checks that they fill the file
// from the end of the header on.
func (f *File) checkRanges(start, size int64) error {
	slices.SortFunc(f.tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), strings.Compare(a.Name, b.Name))
	})
	f.sortNames()
	end := start
	for i, t := range f.tensors {
		if t.Offset < end {
			return fail(ErrOverlap, t.Name, t.Offset, "it begins within %q, which ends at byte %d",
				short(f.tensors[i-1].Name), end)
		}
		if t.Offset > end {
			return fail(ErrHole, t.Name, t.Offset, "%d bytes before it belong to no tensor", t.Offset-end)
		}
		end = t.Offset + t.Size
	}
	if end < size {
		return fail(ErrTrailing, "", end, "the tensors end here, the file has %d bytes", size)
	}
	return nil
}

// byteSize returns the size of a tensor. ErrShape: it overflows, even without
// the dimensions that are 0; ErrDtype: the elements fill no whole bytes.
func byteSize(shape []int, elementBits uint64) (int64, error) {
	n, empty := elementBits, false
	for _, d := range shape {
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, ErrShape
		}
		n = lo
	}
	if empty {
		return 0, nil
	}
	if n%8 != 0 {
		return 0, ErrDtype
	}
	return int64(n / 8), nil
}

// Len returns the number of tensors.
func (f *File) Len() int { return len(f.tensors) }

// Tensors returns the tensors in the order of their offsets.
func (f *File) Tensors() []Tensor { return slices.Clone(f.tensors) }

// Lookup returns the tensor of that name, if there is one.
func (f *File) Lookup(name string) (Tensor, bool) {
	i, ok := sort.Find(len(f.byName), func(i int) int { return strings.Compare(name, f.tensors[f.byName[i]].Name) })
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[f.byName[i]], true
}

// Metadata returns a new map of the entries of __metadata__, nil if the file
// has none.
func (f *File) Metadata() map[string]string {
	if !f.hasMeta {
		return nil
	}
	m := make(map[string]string, len(f.metadata))
	for _, p := range f.metadata {
		m[p.key] = p.value
	}
	return m
}
