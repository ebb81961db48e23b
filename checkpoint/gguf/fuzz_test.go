package gguf

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// FuzzRead takes any bytes. What Read accepts, Write must preserve.
func FuzzRead(f *testing.F) {
	f.Add(example(f))
	for _, bad := range badFiles() {
		if len(bad.file.b) < 4096 {
			f.Add(bad.file.b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkAny(t, data) })
}

// FuzzRoundTrip writes what it draws, reads it, then breaks bytes of the header.
func FuzzRoundTrip(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		var pairs []Pair
		if rapid.Bool().Draw(t, "aligned") {
			pairs = append(pairs, Pair{alignmentKey, uint32(1) << rapid.IntRange(0, 9).Draw(t, "alignment")})
		}
		for i := range rapid.IntRange(0, 4).Draw(t, "pairs") {
			pairs = append(pairs, Pair{fmt.Sprintf("%s%d", rapid.StringN(0, 8, 20).Draw(t, "key"), i), drawValue(t)})
		}
		var types []Type
		for typ, l := range layouts {
			if l.block > 0 {
				types = append(types, Type(typ))
			}
		}
		var entries []Entry
		var raws [][]byte
		for i := range rapid.IntRange(0, 4).Draw(t, "tensors") {
			typ := rapid.SampledFrom(types).Draw(t, "type")
			shape := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 4).Draw(t, "shape")
			shape[len(shape)-1] *= typ.Block()
			size := int(typ.layout().size)
			for i, d := range shape {
				if i == len(shape)-1 {
					d /= typ.Block()
				}
				size *= d
			}
			raw := bytes.Repeat([]byte{byte(i) + 1, 2, 3, 4}, size)[:size]
			raws = append(raws, raw)
			entries = append(entries, rawEntry(fmt.Sprintf("%s%d", rapid.StringN(0, 8, 32).Draw(t, "name"), i), typ, shape, raw))
		}
		var b bytes.Buffer
		require.NoError(t, Write(&b, pairs, entries))
		data := b.Bytes()
		file := checkAny(t, data)
		require.NotNil(t, file)
		for i, p := range pairs {
			require.Equal(t, p.Key, file.Keys()[i])
			v, _ := file.Value(p.Key)
			require.Equal(t, p.Value, v.Any())
		}
		require.Len(t, file.Tensors(), len(entries))
		for i, x := range file.Tensors() {
			e := entries[i]
			require.Equal(t, Tensor{e.Name, e.Type, e.Shape, x.Offset, int64(len(raws[i]))}, x)
			require.Equal(t, raws[i], data[x.Offset:][:x.Size])
		}

		for range rapid.IntRange(1, 3).Draw(t, "flips") {
			i := rapid.IntRange(0, len(file.header)-1).Draw(t, "at")
			data[i] ^= rapid.ByteRange(1, 255).Draw(t, "flip")
		}
		checkAny(t, data)
	}))
}

func drawValue(t *rapid.T) any {
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return rapid.Uint8().Draw(t, "v")
	case 1:
		return rapid.Int32().Draw(t, "v")
	case 2:
		return rapid.Float32Range(-math.MaxFloat32, math.MaxFloat32).Draw(t, "v")
	case 3:
		return rapid.Bool().Draw(t, "v")
	case 4:
		return rapid.String().Draw(t, "v")
	case 5:
		return rapid.Uint64().Draw(t, "v")
	case 6:
		return rapid.SliceOfN(rapid.String(), 0, 5).Draw(t, "v")
	case 7:
		return rapid.SliceOfN(rapid.Int16(), 0, 5).Draw(t, "v")
	case 8:
		return rapid.SliceOfN(rapid.Bool(), 0, 5).Draw(t, "v")
	}
	return rapid.SliceOfN(rapid.Int64(), 0, 5).Draw(t, "v")
}

// checkAny reads any bytes within the memory that is allowed; nil if they are
// refused. An accepted file is sound, and comes back from what Write makes of it.
func checkAny(t require.TestingT, data []byte) *File {
	f, err := read(t, data)
	if err != nil {
		var e *Error
		require.ErrorAs(t, err, &e)
		require.LessOrEqual(t, e.Offset, int64(len(data)))
		require.False(t, strings.Contains(e.Detail, "%!"), e.Detail)
		return nil
	}
	var pairs []Pair
	for _, k := range f.Keys() {
		v, ok := f.Value(k)
		require.True(t, ok)
		pairs = append(pairs, Pair{k, v.Any()})
	}
	var entries []Entry
	end := int64(len(f.header))
	for _, x := range f.Tensors() {
		require.GreaterOrEqual(t, x.Offset, end)
		end = x.Offset + x.Size
		require.LessOrEqual(t, end, int64(len(data)))
		same, ok := f.Lookup(x.Name)
		require.True(t, ok)
		require.Equal(t, x, same)
		entries = append(entries, rawEntry(x.Name, x.Type, x.Shape, data[x.Offset:end]))
		n := int(x.Size) / int(x.Type.layout().size) * x.Type.Block()
		if err := f.ReadFloat32(make([]float32, n), x); x.Type.decoder() == nil {
			require.ErrorIs(t, err, ErrType)
		} else {
			require.NoError(t, err)
		}
	}
	var b bytes.Buffer
	require.NoError(t, Write(&b, pairs, entries))
	again := b.Bytes()
	g, err := Read(bytes.NewReader(again), int64(len(again)))
	require.NoError(t, err)
	require.Equal(t, f.Keys(), g.Keys())
	require.Equal(t, f.header[8:24], g.header[8:24])
	for _, x := range f.Tensors() {
		y, ok := g.Lookup(x.Name)
		require.True(t, ok)
		require.Equal(t, x.Shape, y.Shape)
		require.Equal(t, data[x.Offset:][:x.Size], again[y.Offset:][:y.Size])
	}
	return f
}
