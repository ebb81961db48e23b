// Package gguf reads and writes GGUF, the format of ggml and llama.cpp:
//
//	"GGUF", version (uint32: 2 or 3), number of tensors, of metadata values (uint64)
//	each value: key, type (uint32), value
//	each tensor: name, number of dimensions (uint32), dimensions (uint64, the
//	    fastest first), type (uint32), offset from the start of the data (uint64)
//	padding to a multiple of general.alignment (32 if it is not there)
//	the tensors, each padded so
//
// All is little-endian. A string is its length (uint64) and its bytes; an
// array the type of its elements (uint32), their number (uint64) and they.
//
// [Read] refuses what llama.cpp refuses, and also: arrays of arrays, tensors
// with no dimension or one that is 0, keys and names that are not UTF-8 or
// empty, a bool that is neither 0 nor 1, tensors that overlap, and bytes after
// the last tensor but for its padding. Unlike llama.cpp it lets the list of
// tensors have another order than the data. Headers of more than 256 MiB are
// refused. The bytes of a tensor are not judged: NaN and Inf pass.
//
// Reading needs memory for the header and its tensors, at most 64 KiB and 8
// bytes for each byte really read, whatever the file claims.
package gguf

import (
	"bytes"
	"cmp"
	"io"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

const (
	magic            = "GGUF"
	maxHeader        = 256 << 20 // bytes
	maxKey           = 1<<16 - 1 // bytes, the specification's limit
	maxName          = 64        // bytes, ggml's
	maxDims          = 4
	alignmentKey     = "general.alignment"
	defaultAlignment = 32
)

// Tensor is one tensor of a file.
type Tensor struct {
	Name   string
	Type   Type
	Shape  []int // the slowest dimension first: [out, in] of a matrix
	Offset int64 // of the first byte, from the file's start
	Size   int64 // in bytes
}

// File serves the metadata and the tensors of a file that Read has checked.
// Goroutines may share it if they may share its reader.
type File struct {
	Version int // of the format

	r       io.ReaderAt
	header  []byte
	pairs   []entry
	byKey   []int32  // indices into pairs, sorted by key
	tensors []Tensor // by offset
	byName  []int32  // indices into tensors, sorted by name
	dims    []int    // what the shapes are of
	at      []int32  // where in the header the tensors are; of no use after Read
}

// Read reads the header of a file of the given size and checks all of it: when
// it returns no error, every tensor is within the file, as large as its shape
// and type say, and the tensors fill the file with no more between them than
// padding. The error is an *Error.
func Read(r io.ReaderAt, size int64) (*File, error) {
	p := &parser{r: r, size: size}
	if first := min(size, 32<<10); first > 0 {
		p.need(first, span{})
	}
	if p.err != nil {
		return nil, p.err
	}
	if head := p.b[:min(len(p.b), len(magic))]; !bytes.Equal(head, []byte(magic[:len(head)])) {
		return nil, notGGUF(p.b)
	}
	p.header()
	if p.err != nil {
		return nil, p.err
	}

	// The first pass has checked and counted, so that the second can allocate
	// exactly.
	f := &File{
		Version: int(p.version),
		r:       r,
		pairs:   make([]entry, 0, p.nPairs),
		tensors: make([]Tensor, 0, p.nTensors),
		byName:  make([]int32, p.nTensors),
		byKey:   make([]int32, p.nPairs),
		dims:    make([]int, 0, p.dims),
		at:      make([]int32, 0, p.nTensors),
	}
	p.out = f
	p.header()
	f.header = p.b[:p.pos:p.pos]
	if err := f.checkNames(); err != nil {
		return nil, err
	}
	if err := f.checkRanges(padded(int64(p.pos), p.alignment), size, p.alignment); err != nil {
		return nil, err
	}
	return f, nil
}

// notGGUF says what a file is that does not begin like one.
func notGGUF(head []byte) error {
	const want = `want "GGUF"`
	first := head[:min(len(head), 4)]
	switch string(first) {
	case "FUGG":
		return fail(ErrMagic, "", 0, "it begins with %q, a big-endian magic number; "+want, first)
	case "lmgg", "fmgg", "tjgg", "algg":
		return fail(ErrMagic, "", 0, "it begins with %q: a file of llama.cpp from before GGUF; convert the model again", first)
	}
	if is := rawfile.Foreign(head[:min(len(head), 64)]); is != "" {
		return fail(ErrNotModel, "", 0, "this is %s", is)
	}
	return fail(ErrMagic, "", 0, "it begins with %q, "+want, first)
}

// padded returns n or the next multiple of alignment, a power of two.
func padded(n, alignment int64) int64 {
	if n > math.MaxInt64-alignment {
		return math.MaxInt64
	}
	return (n + alignment - 1) &^ (alignment - 1)
}

// checkNames fills byKey and byName and finds duplicates.
func (f *File) checkNames() error {
	for i := range f.byKey {
		f.byKey[i] = int32(i)
	}
	slices.SortFunc(f.byKey, func(a, b int32) int {
		return cmp.Or(bytes.Compare(f.key(a), f.key(b)), cmp.Compare(a, b))
	})
	for i := 1; i < len(f.byKey); i++ {
		if a, b := f.byKey[i-1], f.byKey[i]; bytes.Equal(f.key(a), f.key(b)) {
			return fail(ErrDuplicate, string(f.key(b)), int64(f.pairs[b].key.lo-8), "the key is also at byte %d", f.pairs[a].key.lo-8)
		}
	}
	f.sortNames()
	for i := 1; i < len(f.byName); i++ {
		a, b := f.byName[i-1], f.byName[i]
		if name := f.tensors[a].Name; name == f.tensors[b].Name {
			return fail(ErrDuplicate, name, int64(max(f.at[a], f.at[b])), "the tensor is also at byte %d", min(f.at[a], f.at[b]))
		}
	}
	return nil
}

func (f *File) key(i int32) []byte {
	k := f.pairs[i].key
	return f.header[k.lo:k.hi]
}

func (f *File) sortNames() {
	for i := range f.byName {
		f.byName[i] = int32(i)
	}
	slices.SortFunc(f.byName, func(a, b int32) int { return strings.Compare(f.tensors[a].Name, f.tensors[b].Name) })
}

// checkRanges sorts the tensors by offset, makes offsets count from the start
// of the file, and checks that the tensors fill it from start on.
func (f *File) checkRanges(start, size, alignment int64) error {
	order := make([]int32, len(f.tensors))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(uint64(f.tensors[a].Offset), uint64(f.tensors[b].Offset)), cmp.Compare(a, b))
	})
	end, last := start, start // padded, and not
	for _, i := range order {
		t := &f.tensors[i]
		if offset := uint64(t.Offset); offset != uint64(end-start) {
			return fail(ErrOffset, t.Name, int64(f.at[i]), "its data is said to begin at %d, want %d: where the data before it ends", offset, end-start)
		}
		if t.Size > math.MaxInt64-end {
			return fail(ErrOverflow, t.Name, int64(f.at[i]), "it would end beyond the largest offset")
		}
		t.Offset = end
		last = end + t.Size
		if last > size {
			return fail(ErrTruncated, t.Name, int64(f.at[i]), "its data ends at %d, the file has %d bytes", last, size)
		}
		end = padded(last, alignment)
	}
	if len(order) == 0 {
		last = int64(len(f.header))
	}
	if last < size && size != end {
		return fail(ErrTrailing, "", last, "the tensors end here, the file has %d bytes", size)
	}
	slices.SortFunc(f.tensors, func(a, b Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
	f.sortNames()
	f.at = nil
	return nil
}

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
