package safetensors

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/checkpoint/internal/half"
)

// Entry is a tensor to write.
type Entry struct {
	Name  string
	Dtype string // "F32", …
	Shape []int  // empty: a scalar
	// Data writes the elements, row-major and little-endian: exactly as many
	// bytes as Shape and Dtype say. It is called once.
	Data func(w io.Writer) error
}

// Float32 returns an Entry of dtype F32. It panics if data has not the length
// that shape says.
func Float32(name string, shape []int, data []float32) Entry {
	return Rows(name, "F32", shape, data, 1, func(int) int { return 0 })
}

// Rows returns an Entry of dtype F32, F16 or BF16, to which values are rounded,
// to nearest even; a finite one beyond the dtype's range is ErrRange when it is
// written. Rows move: data has the given number of rows of equal length, and
// row from(i) of data becomes row i in the file. It panics if rows does not
// divide the length of data, or that is not what shape says, or the dtype is
// another.
func Rows(name, dtype string, shape []int, data []float32, rows int, from func(i int) int) Entry {
	length := 1
	for _, d := range shape {
		length *= d
	}
	if length != len(data) {
		panic("safetensors: data has not the length that shape says")
	}
	if rows < 1 || length%rows != 0 {
		panic("safetensors: rows does not divide the length of the tensor")
	}
	encode, width := encoder(dtype)
	cols := length / rows
	write := func(w io.Writer) error {
		buf := make([]byte, 0, min(width*length, bufferSize))
		for i := range rows {
			at := from(i) * cols
			for row := data[at:][:cols]; len(row) > 0; {
				n := min(len(row), (cap(buf)-len(buf))/width)
				if n == 0 {
					if _, err := w.Write(buf); err != nil {
						return err
					}
					buf = buf[:0]
					continue
				}
				buf = buf[:len(buf)+width*n]
				if bad := encode(buf[len(buf)-width*n:], row[:n]); bad >= 0 {
					return fmt.Errorf("%w: element %d of row %d is %v", ErrRange, cols-len(row)+bad, i, row[bad])
				}
				row = row[n:]
			}
		}
		_, err := w.Write(buf)
		return err
	}
	return Entry{name, dtype, slices.Clone(shape), write}
}

// encoder returns what writes values in a dtype, and the bytes of one. It
// returns the index of the first value that is out of range, or -1.
func encoder(dtype string) (encode func(dst []byte, src []float32) int, width int) {
	switch dtype {
	case "F32":
		return func(dst []byte, src []float32) int {
			for i, v := range src {
				binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
			}
			return -1
		}, 4
	case "F16":
		return func(dst []byte, src []float32) int {
			for i, v := range src {
				h := half.ToF16(v)
				if h&0x7fff == 0x7c00 && !math.IsInf(float64(v), 0) {
					return i
				}
				binary.LittleEndian.PutUint16(dst[2*i:], h)
			}
			return -1
		}, 2
	case "BF16":
		return func(dst []byte, src []float32) int {
			for i, v := range src {
				h := half.ToBF16(v)
				if h&0x7fff == 0x7f80 && !math.IsInf(float64(v), 0) {
					return i
				}
				binary.LittleEndian.PutUint16(dst[2*i:], h)
			}
			return -1
		}, 2
	}
	panic("safetensors: Rows writes only F32, F16 and BF16")
}

// Write writes a file of the entries, in the reference's order: by dtype, the
// most strictly aligned first, then by name. Metadata is sorted by key, so the
// same arguments give the same bytes; nil metadata is left out. Entries that
// Read would refuse are an *Error before the first byte is written, and so is
// an entry, when its turn comes, that writes more or fewer bytes than its
// shape and dtype say. Errors of w and of Data are wrapped.
func Write(w io.Writer, metadata map[string]string, entries []Entry) error {
	type sized struct {
		Entry
		rank int // of the dtype
		size int64
	}
	sorted := make([]sized, len(entries))
	for i, e := range entries {
		rank, size, err := e.check()
		if err != nil {
			return err
		}
		sorted[i] = sized{e, rank, size}
	}
	slices.SortFunc(sorted, func(a, b sized) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(sorted); i++ {
		if name := sorted[i].Name; name == sorted[i-1].Name {
			return fail(ErrDuplicate, name, 0, "two entries to write have this name")
		}
	}
	slices.SortStableFunc(sorted, func(a, b sized) int { return cmp.Compare(b.rank, a.rank) })

	header := []byte{'{'}
	if metadata != nil {
		if len(metadata) > maxMetadata {
			return fail(ErrHeader, metadataKey, 0, "%d entries to write, want at most %d", len(metadata), maxMetadata)
		}
		header = append(header, `"__metadata__":{`...)
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if !utf8.ValidString(key) || !utf8.ValidString(metadata[key]) {
				return fail(ErrHeader, key, 0, "metadata to write is not UTF-8")
			}
			if i > 0 {
				header = append(header, ',')
			}
			header = appendText(header, key)
			header = append(header, ':')
			header = appendText(header, metadata[key])
		}
		header = append(header, '}')
	}
	end := int64(0)
	for _, e := range sorted {
		if len(header) > 1 {
			header = append(header, ',')
		}
		begin := end
		if end += e.size; end < begin {
			return fail(ErrSize, e.Name, 0, "the tensors to write have too many bytes in all")
		}
		header = appendText(header, e.Name)
		header = append(header, `:{"dtype":"`+e.Dtype+`","shape":[`...)
		for i, d := range e.Shape {
			if i > 0 {
				header = append(header, ',')
			}
			header = strconv.AppendInt(header, int64(d), 10)
		}
		header = fmt.Appendf(header, `],"data_offsets":[%d,%d]}`, begin, end)
	}
	header = append(header, '}')
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	if len(header) > maxHeader {
		return fail(ErrHeaderTooLarge, "", 0, "the header to write has %d bytes, want at most %d", len(header), maxHeader)
	}

	out := bufio.NewWriterSize(w, bufferSize)
	out.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))
	if _, err := out.Write(header); err != nil { // a bufio.Writer keeps its first error
		return fail(err, "", 0, "writing the header")
	}
	at := 8 + int64(len(header))
	for _, e := range sorted {
		body := tensorWriter{w: out, left: e.size}
		if err := e.Data(&body); err != nil {
			return fail(err, e.Name, at+e.size-body.left, "writing %d bytes", e.size)
		}
		if body.left != 0 {
			return fail(ErrSize, e.Name, at, "Data wrote %d bytes, want %d", e.size-body.left, e.size)
		}
		at += e.size
	}
	if err := out.Flush(); err != nil {
		return fail(err, "", at-int64(out.Buffered()), "writing the end")
	}
	return nil
}

// Size returns how many bytes the entry has in a file. The error is Write's.
func (e Entry) Size() (int64, error) {
	_, size, err := e.check()
	return size, err
}

// check returns the index of the entry's dtype and its size in bytes.
func (e Entry) check() (rank int, size int64, err error) {
	if e.Data == nil {
		panic("safetensors: Entry.Data is nil")
	}
	rank = -1
	for i, d := range dtypes {
		if d.name == e.Dtype {
			rank = i
		}
	}
	switch {
	case e.Name == metadataKey || !utf8.ValidString(e.Name):
		return 0, 0, fail(ErrHeader, e.Name, 0, "no name for a tensor to write")
	case rank < 0:
		return 0, 0, fail(ErrDtype, e.Name, 0, "unknown dtype %q to write", e.Dtype)
	case len(e.Shape) > maxDims || slices.ContainsFunc(e.Shape, func(d int) bool { return d < 0 }):
		return 0, 0, fail(ErrShape, e.Name, 0, "%v to write, want at most %d dimensions, none negative", e.Shape, maxDims)
	}
	size, err = byteSize(e.Shape, dtypes[rank].bits)
	if err != nil {
		return 0, 0, fail(err, e.Name, 0, "%s in the shape %v cannot be written", e.Dtype, e.Shape)
	}
	return rank, size, nil
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

// appendText appends s as the reference writes it: only quotes, backslashes
// and control characters escaped.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if c < ' ' {
				b = fmt.Appendf(b, `\u%04x`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}
