package safetensors

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/chainrule-go/chainrule/checkpoint/internal/half"
	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

// bufferSize is what reading and writing a tensor holds of it at a time.
const bufferSize = 32 << 10

// ReadFloat32 reads t, of dtype F32, F16 or BF16 (exactly) or F64 (rounded to
// nearest even, to ±Inf beyond the range), into dst. It panics if dst has not
// the length of t or t is not a tensor of f. The error is an *Error: ErrDtype,
// ErrChanged if the file has shrunk, or the reader's.
func (f *File) ReadFloat32(dst []float32, t Tensor) error {
	return f.ReadRowsFloat32(dst, t, 1, func(int) int { return 0 })
}

// ReadRowsFloat32 is ReadFloat32 that moves rows: t has the given number of
// rows of equal length, and row i of t becomes row to(i) of dst. It panics if
// rows does not divide the length.
func (f *File) ReadRowsFloat32(dst []float32, t Tensor, rows int, to func(i int) int) error {
	return readRows(f, dst, t, rows, to, func(dtype string) func([]float32, []byte) {
		switch dtype {
		case "F32":
			return decodeF32
		case "F16":
			return decodeF16
		case "BF16":
			return decodeBF16
		case "F64":
			return func(dst []float32, b []byte) {
				for i := range dst {
					dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
				}
			}
		}
		return nil
	})
}

// ReadFloat64 reads t, of dtype F64, F32, F16 or BF16, exactly into dst.
// Panics and errors are those of ReadFloat32.
func (f *File) ReadFloat64(dst []float64, t Tensor) error {
	return readRows(f, dst, t, 1, func(int) int { return 0 }, func(dtype string) func([]float64, []byte) {
		var narrow func([]float32, []byte)
		switch dtype {
		case "F64":
			return func(dst []float64, b []byte) {
				for i := range dst {
					dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
				}
			}
		case "F32":
			narrow = decodeF32
		case "F16":
			narrow = decodeF16
		case "BF16":
			narrow = decodeBF16
		default:
			return nil
		}
		values := make([]float32, min(len(dst), bufferSize/2))
		return func(dst []float64, b []byte) {
			narrow(values[:len(dst)], b)
			for i, v := range values[:len(dst)] {
				dst[i] = float64(v)
			}
		}
	})
}

// readRows streams t through a buffer. decoder returns a function that fills
// dst from the bytes of as many elements, or nil if it cannot.
func readRows[T float32 | float64](f *File, dst []T, t Tensor, rows int, to func(int) int,
	decoder func(dtype string) func(dst []T, b []byte)) error {

	own, ok := f.Lookup(t.Name)
	if !ok || own.Offset != t.Offset || own.Size != t.Size || own.Dtype != t.Dtype || !slices.Equal(own.Shape, t.Shape) {
		panic("safetensors: not a tensor of this file")
	}
	length := 1
	for _, d := range t.Shape {
		length *= d
	}
	if len(dst) != length {
		panic("safetensors: dst has not the length of the tensor")
	}
	decode := decoder(t.Dtype)
	if decode == nil {
		return fail(ErrDtype, t.Name, t.Offset, "%s cannot be read as numbers, want F32, F16, BF16 or F64", t.Dtype)
	}
	if length == 0 {
		return nil
	}
	if rows < 1 || length%rows != 0 {
		panic("safetensors: rows does not divide the length of the tensor")
	}
	width := int(t.Size) / length // bytes of an element
	cols := length / rows
	buf := make([]byte, min(t.Size, bufferSize))
	for i := 0; i < length; {
		n := min(length-i, len(buf)/width)
		at := t.Offset + int64(i*width)
		if err := rawfile.ReadFull(f.r, buf[:n*width], at); err != nil {
			return fail(err, t.Name, at, "reading %d bytes", n*width)
		}
		for b := buf[:n*width]; len(b) > 0; {
			row, col := i/cols, i%cols
			k := min(cols-col, len(b)/width)
			decode(dst[to(row)*cols:][:cols][col:][:k], b[:k*width])
			b = b[k*width:]
			i += k
		}
	}
	return nil
}

func decodeF32(dst []float32, b []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

func decodeF16(dst []float32, b []byte) {
	for i := range dst {
		dst[i] = half.FromF16(binary.LittleEndian.Uint16(b[2*i:]))
	}
}

func decodeBF16(dst []float32, b []byte) {
	for i := range dst {
		dst[i] = half.FromBF16(binary.LittleEndian.Uint16(b[2*i:]))
	}
}
