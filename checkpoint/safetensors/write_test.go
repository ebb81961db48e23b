package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func rawEntry(name, dtype string, shape []int, raw []byte) Entry {
	return Entry{name, dtype, shape, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	}}
}

// TestWriteMatchesTheReference compares with what safetensors 0.8.0 for Python
// wrote: safetensors.numpy.save of one tensor of each dtype of NumPy, named
// against the order of dtypes, and metadata with what needs escapes.
func TestWriteMatchesTheReference(t *testing.T) {
	want := `{"__metadata__":{"b":"x\"\\é` + "\u2028" + `\u0001` + "\x7f" + `/<"},` +
		`"t11":{"dtype":"U64","shape":[2],"data_offsets":[0,16]},` +
		`"t10":{"dtype":"I64","shape":[2],"data_offsets":[16,32]},` +
		`"t09":{"dtype":"F64","shape":[2],"data_offsets":[32,48]},` +
		`"t12":{"dtype":"C64","shape":[2],"data_offsets":[48,64]},` +
		`"t08":{"dtype":"F32","shape":[2],"data_offsets":[64,72]},` +
		`"t13":{"dtype":"F32","shape":[],"data_offsets":[72,76]},` +
		`"t07":{"dtype":"U32","shape":[2],"data_offsets":[76,84]},` +
		`"t06":{"dtype":"I32","shape":[2],"data_offsets":[84,92]},` +
		`"t05":{"dtype":"F16","shape":[2],"data_offsets":[92,96]},` +
		`"t04":{"dtype":"U16","shape":[2],"data_offsets":[96,100]},` +
		`"t03":{"dtype":"I16","shape":[2],"data_offsets":[100,104]},` +
		`"t02":{"dtype":"I8","shape":[2],"data_offsets":[104,106]},` +
		`"t01":{"dtype":"U8","shape":[2],"data_offsets":[106,108]},` +
		`"t00":{"dtype":"BOOL","shape":[2],"data_offsets":[108,110]}}`
	want += strings.Repeat(" ", (8-len(want)%8)%8)

	entries := []Entry{Float32("t13", nil, []float32{0})}
	for i, dtype := range strings.Fields("BOOL U8 I8 I16 U16 F16 I32 U32 F32 F64 I64 U64 C64") {
		e := Entry{Name: fmt.Sprintf("t%02d", i), Dtype: dtype, Shape: []int{2}}
		_, size, err := Entry{Dtype: dtype, Shape: e.Shape, Data: func(io.Writer) error { return nil }}.check()
		require.NoError(t, err)
		e.Data = func(w io.Writer) error {
			_, err := w.Write(make([]byte, size))
			return err
		}
		entries = append(entries, e)
	}
	var b bytes.Buffer
	require.NoError(t, Write(&b, map[string]string{"b": "x\"\\é\u2028\x01\x7f/<"}, entries))
	require.Equal(t, string(file(want, 110)), b.String())

	b.Reset()
	require.NoError(t, Write(&b, nil, nil))
	require.Equal(t, "\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b.String())
}

func TestWriteRefusesWhatReadWould(t *testing.T) {
	ok := Float32("a", []int{2}, []float32{1, 2})
	change := func(f func(e *Entry)) []Entry {
		e := ok
		f(&e)
		return []Entry{e}
	}
	for _, c := range []struct {
		name     string
		metadata map[string]string
		entries  []Entry
		err      error
	}{
		{"duplicate", nil, []Entry{ok, Float32("b", nil, []float32{1}), rawEntry("a", "U8", []int{1}, []byte{1})}, ErrDuplicate},
		{"name of the metadata", nil, change(func(e *Entry) { e.Name = "__metadata__" }), ErrHeader},
		{"name not UTF-8", nil, change(func(e *Entry) { e.Name = "\xff" }), ErrHeader},
		{"metadata not UTF-8", map[string]string{"k": "\xff"}, nil, ErrHeader},
		{"unknown dtype", nil, change(func(e *Entry) { e.Dtype = "f32" }), ErrDtype},
		{"negative shape", nil, change(func(e *Entry) { e.Shape = []int{-1, -2} }), ErrShape},
		{"9 dimensions", nil, change(func(e *Entry) { e.Shape = make([]int, 9) }), ErrShape},
		{"size overflows", nil, change(func(e *Entry) { e.Shape = []int{1 << 32, 1 << 32} }), ErrShape},
		{"odd F4", nil, change(func(e *Entry) { e.Dtype, e.Shape = "F4", []int{1} }), ErrDtype},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			require.ErrorIs(t, Write(&b, c.metadata, c.entries), c.err)
			require.Zero(t, b.Len(), "written before the arguments were checked")
		})
	}
}

func TestWriteHoldsDataToItsSize(t *testing.T) {
	for _, n := range []int{0, 7, 9, 100000} {
		var b bytes.Buffer
		err := Write(&b, nil, []Entry{rawEntry("a", "F32", []int{2}, make([]byte, n))})
		require.ErrorIs(t, err, ErrSize, "%d bytes", n)
		require.ErrorContains(t, err, `"a"`)
		require.Less(t, b.Len(), 100, "written beyond the size of the tensor")
	}
}

// limited fails once n bytes have been written.
type limited struct {
	n   int
	err error
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.n {
		n := l.n
		l.n = 0
		return n, l.err
	}
	l.n -= len(b)
	return len(b), nil
}

func TestWriteReportsAFullDiskWhereverItHappens(t *testing.T) {
	full := errors.New("disk full")
	entries := []Entry{
		Float32("a", []int{20000}, make([]float32, 20000)),
		Float32("b", []int{3}, make([]float32, 3)),
	}
	var b bytes.Buffer
	require.NoError(t, Write(&b, nil, entries))
	for n := 0; n < b.Len(); n += 1 + n/7 {
		require.ErrorIs(t, Write(&limited{n, full}, nil, entries), full, "after %d bytes", n)
	}
	require.ErrorIs(t, Write(&limited{b.Len() - 1, full}, nil, entries), full)
	require.NoError(t, Write(&limited{b.Len(), full}, nil, entries))

	own := errors.New("own")
	err := Write(io.Discard, nil, []Entry{{"a", "U8", nil, func(io.Writer) error { return own }}})
	require.ErrorIs(t, err, own)
}

func TestMisuseOfWritingPanics(t *testing.T) {
	require.Panics(t, func() { Float32("a", []int{2}, make([]float32, 3)) })
	require.Panics(t, func() { Rows("a", "F32", []int{3}, make([]float32, 3), 2, func(i int) int { return i }) })
	require.Panics(t, func() { Write(io.Discard, nil, []Entry{{Name: "a", Dtype: "U8"}}) })
}

// model draws metadata and entries with their bytes.
func model(t *rapid.T) (map[string]string, []Entry, map[string][]byte) {
	names := rapid.SliceOfNDistinct(rapid.String(), 0, 8, rapid.ID[string]).Draw(t, "names")
	var metadata map[string]string
	if rapid.Bool().Draw(t, "has metadata") {
		metadata = rapid.MapOfN(rapid.String(), rapid.String(), 0, 4).Draw(t, "metadata")
	}
	var entries []Entry
	contents := map[string][]byte{}
	for _, name := range names {
		if name == metadataKey {
			continue
		}
		d := rapid.SampledFrom(dtypes).Draw(t, "dtype")
		shape := rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "shape")
		size, err := byteSize(shape, d.bits)
		if err != nil { // no whole bytes
			shape = []int{4}
			size, err = byteSize(shape, d.bits)
			require.NoError(t, err)
		}
		raw := rapid.SliceOfN(rapid.Byte(), int(size), int(size)).Draw(t, "data")
		entries = append(entries, rawEntry(name, d.name, shape, raw))
		contents[name] = raw
	}
	return metadata, entries, contents
}

func TestRoundTripIsByteExactInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		metadata, entries, contents := model(t)
		var first bytes.Buffer
		require.NoError(t, Write(&first, metadata, entries))
		data := first.Bytes()
		require.Zero(t, binary.LittleEndian.Uint64(data)%8)

		f, err := Read(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		requireSound(t, f, data)
		require.Equal(t, metadata, f.Metadata())
		require.Len(t, f.Tensors(), len(entries))
		for _, x := range f.Tensors() {
			require.Equal(t, contents[x.Name], append([]byte{}, data[x.Offset:][:x.Size]...))
		}

		shuffled := rapid.Permutation(entries).Draw(t, "order")
		var second bytes.Buffer
		require.NoError(t, Write(&second, f.Metadata(), shuffled))
		require.Equal(t, data, second.Bytes())
	})
}
