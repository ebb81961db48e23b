package gguf

import (
	"slices"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

// bufferElements is what reading and writing a tensor holds of it at a time.
const bufferElements = 8 << 10 // a multiple of every block

// ReadFloat32 reads t into dst: F32, F16 and BF16 exactly, the quantized types
// with the very bits that ggml's reference dequantization gives (a NaN may
// have another payload). It panics if dst has not the length of t or t is not
// a tensor of f. The error is an *Error: ErrType if the type is not one of
// those, ErrChanged if the file has shrunk, or the reader's.
func (f *File) ReadFloat32(dst []float32, t Tensor) error {
	return f.ReadRowsFloat32(dst, t, 1, func(int) int { return 0 })
}

// ReadRowsFloat32 is ReadFloat32 that moves rows: t has the given number of
// rows of equal length, and row i of t becomes row to(i) of dst. It panics if
// rows does not divide the length.
func (f *File) ReadRowsFloat32(dst []float32, t Tensor, rows int, to func(i int) int) error {
	own, ok := f.Lookup(t.Name)
	if !ok || own.Offset != t.Offset || own.Size != t.Size || own.Type != t.Type || !slices.Equal(own.Shape, t.Shape) {
		panic("gguf: not a tensor of this file")
	}
	length := 1
	for _, d := range t.Shape {
		length *= d
	}
	if len(dst) != length {
		panic("gguf: dst has not the length of the tensor")
	}
	if rows < 1 || length%rows != 0 {
		panic("gguf: rows does not divide the length of the tensor")
	}
	decode := t.Type.decoder()
	if decode == nil {
		return fail(ErrType, t.Name, t.Offset, "%v cannot be read as numbers", t.Type)
	}
	l := t.Type.layout()
	bytesOf := func(n int) int { return n / int(l.block) * int(l.size) }
	values := make([]float32, min(length, bufferElements))
	buf := make([]byte, bytesOf(len(values)))
	cols := length / rows
	for i := 0; i < length; {
		n := min(length-i, len(values))
		b, at := buf[:bytesOf(n)], t.Offset+int64(bytesOf(i))
		if err := rawfile.ReadFull(f.r, b, at); err != nil {
			return fail(err, t.Name, at, "reading %d bytes", len(b))
		}
		decode(values[:n], b)
		for from := values[:n]; len(from) > 0; {
			row, col := i/cols, i%cols
			k := copy(dst[to(row)*cols:][:cols][col:], from)
			from = from[k:]
			i += k
		}
	}
	return nil
}
