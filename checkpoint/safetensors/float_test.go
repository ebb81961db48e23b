package safetensors

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// open writes raw bytes as the tensor "x" of that dtype and reads the file.
func open(t *testing.T, dtype string, shape []int, raw []byte) (*File, Tensor) {
	var b bytes.Buffer
	require.NoError(t, Write(&b, nil, []Entry{rawEntry("x", dtype, shape, raw)}))
	f, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	x, ok := f.Lookup("x")
	require.True(t, ok)
	return f, x
}

func TestEveryF16IsReadExactly(t *testing.T) {
	raw := make([]byte, 2<<16)
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(raw[2*h:], uint16(h))
	}
	f, x := open(t, "F16", []int{1 << 16}, raw)
	got := make([]float32, 1<<16)
	require.NoError(t, f.ReadFloat32(got, x))
	wide := make([]float64, 1<<16)
	require.NoError(t, f.ReadFloat64(wide, x))

	for h, v := range got {
		// From the definition, in float64: (-1)^s · 2^(e-15) · (1 + m/1024),
		// or (-1)^s · 2^-14 · m/1024 if e = 0.
		s, e, m := h>>15, h>>10&31, float64(h&1023)
		want := math.Ldexp(1+m/1024, e-15)
		switch {
		case e == 0:
			want = math.Ldexp(m/1024, -14)
		case e == 31 && m == 0:
			want = math.Inf(1)
		case e == 31:
			require.True(t, math.IsNaN(float64(v)), "%#04x", h)
			require.True(t, math.IsNaN(wide[h]), "%#04x", h)
			continue
		}
		if s == 1 {
			want = math.Copysign(want, -1)
		}
		require.Equal(t, math.Float64bits(want), math.Float64bits(float64(v)), "%#04x", h)
		require.Equal(t, math.Float64bits(want), math.Float64bits(wide[h]), "%#04x", h)
	}
}

func TestEveryBF16IsReadExactly(t *testing.T) {
	raw := make([]byte, 2<<16)
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(raw[2*h:], uint16(h))
	}
	f, x := open(t, "BF16", []int{1 << 16}, raw)
	got := make([]float32, 1<<16)
	require.NoError(t, f.ReadFloat32(got, x))
	for h, v := range got {
		s, e, m := h>>15, h>>7&255, float64(h&127)
		want := math.Ldexp(1+m/128, e-127)
		switch {
		case e == 0:
			want = math.Ldexp(m/128, -126)
		case e == 255 && m == 0:
			want = math.Inf(1)
		case e == 255:
			require.True(t, math.IsNaN(float64(v)), "%#04x", h)
			continue
		}
		if s == 1 {
			want = math.Copysign(want, -1)
		}
		require.Equal(t, math.Float64bits(want), math.Float64bits(float64(v)), "%#04x", h)
	}
}

func TestFloat32BitsSurviveNaNAndInf(t *testing.T) {
	patterns := []uint32{0, 1 << 31, 1, 0x7f800000, 0xff800000, 0x7fc00001, 0xffc12345, 0x3f800000, 0x007fffff}
	data := make([]float32, len(patterns))
	for i, p := range patterns {
		data[i] = math.Float32frombits(p)
	}
	var b bytes.Buffer
	require.NoError(t, Write(&b, nil, []Entry{Float32("x", []int{len(data)}, data)}))
	f, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	x, _ := f.Lookup("x")
	got := make([]float32, len(data))
	require.NoError(t, f.ReadFloat32(got, x))
	for i, p := range patterns {
		require.Equal(t, p, math.Float32bits(got[i]))
	}
}

func TestF64IsRoundedToFloat32AndReadExactlyToFloat64(t *testing.T) {
	values := []float64{1.0 / 3, math.Copysign(0, -1), 1e300, -1e300, math.Inf(1), 1e-300, math.MaxFloat32, 1 + 0x1p-24, 1 + 0x1.8p-23}
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(v))
	}
	f, x := open(t, "F64", []int{len(values)}, raw)
	wide := make([]float64, len(values))
	require.NoError(t, f.ReadFloat64(wide, x))
	require.Equal(t, values, wide)
	require.True(t, math.Signbit(wide[1]))
	narrow := make([]float32, len(values))
	require.NoError(t, f.ReadFloat32(narrow, x))
	require.Equal(t, []float32{0.33333334, 0, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.Inf(1)), 0,
		math.MaxFloat32, 1, 1 + 0x1p-22}, narrow)
	require.True(t, math.Signbit(float64(narrow[1])))
}

func TestF32AndBF16WidenToFloat64AcrossBuffers(t *testing.T) {
	const n = 3*bufferSize/2 + 7
	for _, width := range []int{2, 4} {
		raw := make([]byte, n*width)
		for i := range n {
			binary.LittleEndian.PutUint16(raw[i*width+width-2:], uint16(math.Float32bits(float32(i%256))>>16))
		}
		f, x := open(t, map[int]string{2: "BF16", 4: "F32"}[width], []int{n}, raw)
		got := make([]float64, n)
		require.NoError(t, f.ReadFloat64(got, x))
		for i, v := range got {
			require.Equal(t, float64(i%256), v)
		}
	}
}

func TestRowsMoveOnTheWayInAndOut(t *testing.T) {
	// Widths around the buffer's, so that rows straddle its end.
	for _, shape := range [][]int{{6, 1}, {6}, {6, 5}, {4, bufferSize / 4}, {3, bufferSize/4 + 1}, {5, 3000}, {2, 40000}} {
		rows, length := shape[0], 1
		for _, d := range shape {
			length *= d
		}
		cols := length / rows
		data := make([]float32, length)
		for i := range data {
			data[i] = float32(i)
		}
		turn := func(i int) int { return (i + 1) % rows } // row i of the file is row i+1 of data
		var b bytes.Buffer
		require.NoError(t, Write(&b, nil, []Entry{Rows("x", "F32", shape, data, rows, turn)}))
		f, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
		require.NoError(t, err)
		x, _ := f.Lookup("x")

		plain := make([]float32, length)
		require.NoError(t, f.ReadFloat32(plain, x))
		for i := range plain {
			require.Equal(t, float32(turn(i/cols)*cols+i%cols), plain[i])
		}
		back := make([]float32, length)
		require.NoError(t, f.ReadRowsFloat32(back, x, rows, turn))
		require.Equal(t, data, back)
	}
}

func TestIntegersAreNotReadAsFloats(t *testing.T) {
	f, x := open(t, "I32", []int{2}, make([]byte, 8))
	err := f.ReadFloat32(make([]float32, 2), x)
	require.ErrorIs(t, err, ErrDtype)
	require.ErrorContains(t, err, `"x"`)
	require.ErrorIs(t, f.ReadFloat64(make([]float64, 2), x), ErrDtype)
}

func TestMisuseOfReadingPanics(t *testing.T) {
	f, x := open(t, "F32", []int{2, 3}, make([]byte, 24))
	require.Panics(t, func() { f.ReadFloat32(make([]float32, 5), x) })
	require.Panics(t, func() { f.ReadFloat32(make([]float32, 7), x) })
	require.Panics(t, func() { f.ReadRowsFloat32(make([]float32, 6), x, 4, func(i int) int { return i }) })
	require.Panics(t, func() { f.ReadRowsFloat32(make([]float32, 6), x, 0, func(i int) int { return i }) })
	forged := x
	forged.Offset++
	require.Panics(t, func() { f.ReadFloat32(make([]float32, 6), forged) })
	forged = x
	forged.Shape = []int{4, 3}
	require.PanicsWithValue(t, "safetensors: not a tensor of this file", func() { f.ReadFloat32(make([]float32, 12), forged) })
	require.Panics(t, func() { f.ReadFloat32(nil, Tensor{}) })
}

func TestReadingATensorHoldsOneBuffer(t *testing.T) {
	const n = 1 << 20
	f, x := open(t, "F32", []int{n}, make([]byte, 4*n))
	dst := make([]float32, n)
	allocated, mallocs := measure(func() { f.ReadFloat32(dst, x) })
	require.Less(t, allocated, uint64(bufferSize+2048))
	require.Less(t, mallocs, uint64(10))
}
