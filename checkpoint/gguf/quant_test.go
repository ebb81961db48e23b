package gguf

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden opens what testdata/quants.py wrote.
func golden(t testing.TB) *File {
	data, err := os.ReadFile(filepath.Join("testdata", "quants.gguf"))
	require.NoError(t, err)
	return open(t, data)
}

func open(t testing.TB, data []byte) *File {
	f, err := Read(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	return f
}

func lookup(t testing.TB, f *File, name string) Tensor {
	x, ok := f.Lookup(name)
	require.True(t, ok, name)
	return x
}

func floats(t testing.TB, f *File, name string) []float32 {
	x := lookup(t, f, name)
	n := 1
	for _, d := range x.Shape {
		n *= d
	}
	data := make([]float32, n)
	require.NoError(t, f.ReadFloat32(data, x))
	return data
}

// requireBits compares bits; of a NaN only that it is one.
func requireBits(t testing.TB, want, got []float32) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if math.IsNaN(float64(want[i])) && math.IsNaN(float64(got[i])) {
			continue
		}
		require.Equal(t, math.Float32bits(want[i]), math.Float32bits(got[i]), "element %d: %v, want %v", i, got[i], want[i])
	}
}

var quantized = []Type{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K}

func TestDequantizeIsTheReferences(t *testing.T) {
	f := golden(t)
	for _, typ := range append([]Type{F16, BF16}, quantized...) {
		t.Run(typ.String(), func(t *testing.T) {
			require.Equal(t, typ, lookup(t, f, typ.String()).Type)
			requireBits(t, floats(t, f, typ.String()+".want"), floats(t, f, typ.String()))
		})
	}
}

// Rows that move, of a length that is no multiple of a block, in tensors
// longer than the buffer.
func TestReadRows(t *testing.T) {
	const block, blocks = 32, 3 * bufferElements / 32
	raw := make([]byte, 34*blocks)
	for i := range raw {
		raw[i] = byte(i * 7)
		if i%34 < 2 {
			raw[i] = byte(0x3c * (i % 34)) // d = 1
		}
	}
	var b bytes.Buffer
	entry := Entry{"x", Q8_0, []int{blocks / 3, 3 * block}, func(w io.Writer) error { _, err := w.Write(raw); return err }}
	require.NoError(t, Write(&b, nil, []Entry{entry}))
	f := open(t, b.Bytes())
	x := lookup(t, f, "x")
	plain := floats(t, f, "x")
	for i := range plain {
		require.Equal(t, float32(int8(raw[i/32*34+2+i%32])), plain[i])
	}
	for _, rows := range []int{1, 2, blocks / 3, 8 * blocks, len(plain)} {
		moved := make([]float32, len(plain))
		require.NoError(t, f.ReadRowsFloat32(moved, x, rows, func(i int) int { return rows - 1 - i }))
		cols := len(plain) / rows
		for i := range rows {
			require.Equal(t, plain[i*cols:][:cols], moved[(rows-1-i)*cols:][:cols])
		}
	}
}

func TestQuantizeIsTheReferences(t *testing.T) {
	f := golden(t)
	for _, typ := range []Type{F16, BF16, Q8_0} {
		t.Run(typ.String(), func(t *testing.T) {
			from, to := lookup(t, f, typ.String()+".from"), lookup(t, f, typ.String()+".to")
			want := make([]byte, to.Size)
			_, err := f.r.ReadAt(want, to.Offset)
			require.NoError(t, err)

			var got bytes.Buffer
			require.NoError(t, Float32("x", typ, from.Shape, floats(t, f, from.Name)).Data(&got))
			l := typ.layout()
			for i := 0; i < len(want); i += int(l.size) {
				require.Equal(t, want[i:][:l.size], got.Bytes()[i:][:l.size], "block %d", i/int(l.size))
			}
			require.Len(t, got.Bytes(), len(want))
		})
	}
}

// What is written and read again has an error of at most half a step, and
// rows are where they were sent.
func TestFloat32Rows(t *testing.T) {
	const rows, cols = 96, 352 // more than a buffer
	data := make([]float32, rows*cols)
	for i := range data {
		data[i] = float32(math.Sin(float64(i)))
	}
	for _, typ := range []Type{F32, F16, BF16, Q8_0} {
		var b bytes.Buffer
		require.NoError(t, Write(&b, nil, []Entry{
			Float32Rows("x", typ, []int{rows, cols}, data, rows, func(i int) int { return rows - 1 - i }),
		}))
		f := open(t, b.Bytes())
		got := make([]float32, len(data))
		require.NoError(t, f.ReadRowsFloat32(got, lookup(t, f, "x"), rows, func(i int) int { return rows - 1 - i }))
		tolerance := map[Type]float64{F32: 0, F16: 1. / 4096, BF16: 1. / 512, Q8_0: 0.57 / 127}[typ]
		for i := range data {
			require.InDelta(t, data[i], got[i], tolerance, "%v", typ)
		}
	}
}

func TestNumbersThatATypeCannotHold(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		typ Type
		v   float32
		ok  bool
	}{
		{F32, inf, true}, {F32, nan, true}, {F16, inf, true}, {F16, nan, true}, {BF16, -inf, true}, {BF16, nan, true},
		{F16, 65519, true}, {F16, 65520, false}, {F16, -65520, false},
		{BF16, 3.38e38, true}, {BF16, math.MaxFloat32, false}, {BF16, -math.MaxFloat32, false},
		{Q8_0, inf, false}, {Q8_0, -inf, false}, {Q8_0, nan, false},
		{Q8_0, 127 * 65519, true}, {Q8_0, 127 * 65520, false},
	} {
		data := make([]float32, 64)
		data[37] = c.v
		var b bytes.Buffer
		err := Write(&b, nil, []Entry{Float32("a", F32, []int{1}, data[:1]), Float32("x", c.typ, []int{64}, data)})
		if c.ok {
			require.NoError(t, err, "%v %v", c.typ, c.v)
			continue
		}
		require.ErrorIs(t, err, ErrValue, "%v %v", c.typ, c.v)
		require.ErrorContains(t, err, "element 37")
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "x", e.Key)
	}
}

// ggml's quantize_row_q8_0_ref gives the values of blocks as small as these
// any bits (1/d is Inf); what they stand for is 0.
func TestQ8_0OfDenormals(t *testing.T) {
	for _, v := range []float32{math.SmallestNonzeroFloat32, 1e-40, -1e-38} {
		data := make([]float32, 32)
		data[3] = v
		b, bad := encodeQ8_0(nil, data)
		require.Equal(t, -1, bad)
		require.Zero(t, binary.LittleEndian.Uint16(b))
	}
}
