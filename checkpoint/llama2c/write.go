package llama2c

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
)

// Write writes a file. tensor returns the weights by the names of Tensor, each
// asked for once, in the order of the file, and written before the next: it
// may fill the same slice again. Write panics if one has not the length that h
// says. The tables of RoPE in version 0 are computed. The error is Validate's,
// before anything is written, or that of w as an *Error.
func Write(w io.Writer, h Header, tensor func(name string) []float32) error {
	if err := h.Validate(); err != nil {
		return err
	}
	var parts []part
	size, _ := h.layout(func(p part) { parts = append(parts, p) })
	out := &floatWriter{w: bufio.NewWriterSize(w, bufferSize)}
	out.header(h)
	for _, p := range parts {
		for layer := range max(1, p.layers) {
			t := p.tensor(layer)
			switch p.name {
			case ropeCos:
				out.rope(p, math.Cos)
			case ropeSin:
				out.rope(p, math.Sin)
			default:
				data := tensor(t.Name)
				if int64(len(data)) != t.Size/4 {
					panic("llama2c: the weights have not the length of the tensor")
				}
				for _, v := range data {
					out.float(v)
				}
			}
			if out.err != nil {
				return fail(out.err, t.Name, t.Offset, "writing %d bytes", t.Size)
			}
		}
	}
	if err := out.w.Flush(); err != nil {
		return fail(err, "", size, "writing the end")
	}
	return nil
}

// floatWriter writes numbers until one fails.
type floatWriter struct {
	w   *bufio.Writer
	err error
}

func (f *floatWriter) bytes(b []byte) {
	if f.err == nil {
		_, f.err = f.w.Write(b)
	}
}

func (f *floatWriter) uint32(v uint32) {
	f.bytes(binary.LittleEndian.AppendUint32(f.w.AvailableBuffer(), v))
}

func (f *floatWriter) float(v float32) { f.uint32(math.Float32bits(v)) }

func (f *floatWriter) header(h Header) {
	if h.Version == 1 {
		f.uint32(magic)
		f.uint32(1)
	} else if !h.SharedClassifier {
		h.VocabSize = -h.VocabSize
	}
	for _, field := range h.fields() {
		f.uint32(uint32(int32(*field.v)))
	}
	if h.Version == 1 {
		rest := make([]byte, headerSize1-8-headerSize0)
		if h.SharedClassifier {
			rest[0] = 1
		}
		f.bytes(rest)
	}
}

// rope writes the table of wave(t·10000^(-i/cols)) for position t and pair i.
func (f *floatWriter) rope(p part, wave func(float64) float64) {
	for t := range p.rows {
		for i := range p.cols {
			angle := float64(t) * math.Pow(10000, -float64(i)/float64(p.cols))
			f.float(float32(wave(angle)))
		}
	}
}
