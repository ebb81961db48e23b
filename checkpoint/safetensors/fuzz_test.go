package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// FuzzRead takes any bytes. What Read accepts, encoding/json must parse to the
// same tensors, and Write must preserve.
func FuzzRead(f *testing.F) {
	f.Add(small(f))
	for _, bad := range badFiles {
		if len(bad.data) < 4096 {
			f.Add(bad.data)
		}
	}
	f.Fuzz(checkAny)
}

// FuzzHeader takes a header and the size of the data.
func FuzzHeader(f *testing.F) {
	for _, bad := range badFiles {
		if n := len(bad.data) - 8; n > 0 && n < 4096 {
			if h := binary.LittleEndian.Uint64(bad.data); h <= uint64(n) {
				f.Add(string(bad.data[8:8+h]), uint16(n-int(h)))
			}
		}
	}
	f.Add(`{"__metadata__":{"format":"pt"},"a":`+f32("[2]", 4, 12)+`,"b\n":`+f32("[]", 0, 4)+`}  `, uint16(12))
	f.Fuzz(func(t *testing.T, header string, n uint16) { checkAny(t, file(header, int(n))) })
}

// FuzzRoundTrip writes what it draws, reads it, then breaks one byte.
func FuzzRoundTrip(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		metadata, entries, _ := model(t)
		var b bytes.Buffer
		require.NoError(t, Write(&b, metadata, entries))
		data := b.Bytes()
		file, err := Read(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		requireSound(t, file, data)
		require.Equal(t, metadata, file.Metadata())
		require.Len(t, file.Tensors(), len(entries))

		i := rapid.IntRange(0, 7+int(binary.LittleEndian.Uint64(data))).Draw(t, "at")
		data[i] ^= rapid.ByteRange(1, 255).Draw(t, "flip")
		requireReadIsSafe(t, data)
	}))
}

// requireReadIsSafe reads any bytes, and returns nil if they are refused.
func requireReadIsSafe(t require.TestingT, data []byte) *File {
	c := counted{r: bytes.NewReader(data)}
	var f *File
	var err error
	allocated, _ := measure(func() {
		c.read = 0
		f, err = Read(&c, int64(len(data)))
	})
	require.LessOrEqual(t, allocated, 64<<10+8*c.read)
	if err != nil {
		var e *Error
		require.True(t, errors.As(err, &e))
		require.LessOrEqual(t, e.Offset, int64(len(data)))
		return nil
	}
	requireSound(t, f, data)
	return f
}

func checkAny(t *testing.T, data []byte) {
	f := requireReadIsSafe(t, data)
	if f == nil {
		return
	}
	var oracle map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data[8:][:binary.LittleEndian.Uint64(data)], &oracle))
	start := 8 + int64(binary.LittleEndian.Uint64(data))
	if raw, ok := oracle[metadataKey]; ok {
		var metadata map[string]string
		require.NoError(t, json.Unmarshal(raw, &metadata))
		require.Equal(t, metadata, f.Metadata())
		delete(oracle, metadataKey)
	} else {
		require.Nil(t, f.Metadata())
	}
	require.Len(t, f.Tensors(), len(oracle))
	var entries []Entry
	for _, x := range f.Tensors() {
		var want struct {
			Dtype   string   `json:"dtype"`
			Shape   []int    `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}
		require.NoError(t, json.Unmarshal(oracle[x.Name], &want))
		require.Equal(t, want.Dtype, x.Dtype)
		require.Equal(t, want.Shape, append([]int{}, x.Shape...))
		require.Equal(t, want.Offsets, [2]int64{x.Offset - start, x.Offset - start + x.Size})
		require.True(t, utf8.ValidString(x.Name))
		entries = append(entries, rawEntry(x.Name, x.Dtype, x.Shape, data[x.Offset:][:x.Size]))

		switch length := x.Size / 4; x.Dtype {
		case "F32":
			require.NoError(t, f.ReadFloat32(make([]float32, length), x))
		case "I32":
			require.ErrorIs(t, f.ReadFloat32(make([]float32, length), x), ErrDtype)
		}
	}
	var b bytes.Buffer
	require.NoError(t, Write(&b, f.Metadata(), entries))
	again, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	require.Equal(t, f.Metadata(), again.Metadata())
	for _, x := range f.Tensors() {
		y, ok := again.Lookup(x.Name)
		require.True(t, ok)
		require.Equal(t, x.Shape, y.Shape)
		require.Equal(t, data[x.Offset:][:x.Size], b.Bytes()[y.Offset:][:y.Size])
	}
}
