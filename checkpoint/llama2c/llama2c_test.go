package llama2c

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// tiny has sizes that are all different, and grouped heads.
var tiny = Header{Dim: 8, HiddenDim: 5, NLayers: 2, NHeads: 2, NKVHeads: 1, VocabSize: 7, SeqLen: 3}

func with(h Header, version int, shared bool) Header {
	h.Version, h.SharedClassifier = version, shared
	return h
}

// weights returns, for Write, weights that no two tensors share.
func weights(h Header) func(name string) []float32 {
	f := &File{Header: h}
	h.layout(func(p part) { f.parts = append(f.parts, p) })
	first := map[string]int{}
	n := 0
	for x := range f.Tensors() {
		first[x.Name] = n
		n += int(x.Size / 4)
	}
	return func(name string) []float32 {
		x, ok := f.Lookup(name)
		if !ok {
			panic(name)
		}
		data := make([]float32, x.Size/4)
		for i := range data {
			data[i] = float32(first[name] + i)
		}
		return data
	}
}

func write(t require.TestingT, h Header) []byte {
	var b bytes.Buffer
	require.NoError(t, Write(&b, h, weights(h)))
	return b.Bytes()
}

func read(data []byte) (*File, error) { return Read(bytes.NewReader(data), int64(len(data))) }

// TestFilesAreThoseOfLlama2C builds each version by hand, number by number, in
// the order in which llama2.c's export.py writes them.
func TestFilesAreThoseOfLlama2C(t *testing.T) {
	h := tiny
	sizes := map[string]int{"token_embedding": 7 * 8, "rms_att": 8, "wq": 8 * 8, "wk": 4 * 8, "wv": 4 * 8, "wo": 8 * 8,
		"rms_ffn": 8, "w1": 5 * 8, "w2": 8 * 5, "w3": 5 * 8, "rms_final": 8, "wcls": 7 * 8}
	for _, c := range []struct {
		version int
		shared  bool
		order   string
	}{
		{0, true, "token_embedding rms_att* wq* wk* wv* wo* rms_ffn* w1* w2* w3* rms_final rope"},
		{0, false, "token_embedding rms_att* wq* wk* wv* wo* rms_ffn* w1* w2* w3* rms_final rope wcls"},
		{1, true, "rms_att* rms_ffn* rms_final token_embedding wq* wk* wv* wo* w1* w2* w3*"},
		{1, false, "rms_att* rms_ffn* rms_final token_embedding wq* wk* wv* wo* w1* w2* w3* wcls"},
	} {
		t.Run(fmt.Sprintf("version %d, shared %v", c.version, c.shared), func(t *testing.T) {
			var file []byte
			ints := func(v ...int32) {
				for _, x := range v {
					file = binary.LittleEndian.AppendUint32(file, uint32(x))
				}
			}
			switch {
			case c.version == 0 && c.shared:
				ints(8, 5, 2, 2, 1, 7, 3)
			case c.version == 0:
				ints(8, 5, 2, 2, 1, -7, 3)
			default:
				file = append(file, "24ka"...) // 0x616b3432, little-endian
				ints(1, 8, 5, 2, 2, 1, 7, 3)
				if c.shared {
					file = append(file, 1)
				}
				file = append(file, make([]byte, 256-len(file))...)
			}
			want := map[string][]float32{}
			var names []string
			next := float32(1)
			tensor := func(name, kind string) {
				names = append(names, name)
				for range sizes[kind] {
					want[name] = append(want[name], next)
					file = binary.LittleEndian.AppendUint32(file, math.Float32bits(next))
					next++
				}
			}
			for _, kind := range strings.Fields(c.order) {
				if kind == "rope" {
					for _, wave := range []func(float64) float64{math.Cos, math.Sin} {
						for pos := range 3 { // head_dim 4: the frequencies 10000^(-0/4) and 10000^(-2/4)
							for _, freq := range []float64{1, 0.01} {
								v := math.Float32bits(float32(wave(float64(pos) * freq)))
								file = binary.LittleEndian.AppendUint32(file, v)
							}
						}
					}
				} else if name, ok := strings.CutSuffix(kind, "*"); ok {
					for layer := range 2 {
						tensor(fmt.Sprintf("layers.%d.%s", layer, name), name)
					}
				} else {
					tensor(kind, kind)
				}
			}

			f, err := read(file)
			require.NoError(t, err)
			require.Equal(t, with(h, c.version, c.shared), f.Header)
			var got []string
			for x := range f.Tensors() {
				got = append(got, x.Name)
				data := make([]float32, len(want[x.Name]))
				require.NoError(t, f.ReadFloat32(data, x))
				require.Equal(t, want[x.Name], data, x.Name)
				same, ok := f.Lookup(x.Name)
				require.True(t, ok)
				require.Equal(t, x, same)
			}
			require.Equal(t, names, got)

			var b bytes.Buffer
			require.NoError(t, Write(&b, f.Header, func(name string) []float32 { return want[name] }))
			require.Equal(t, file, b.Bytes())
			size, err := f.Header.Size()
			require.NoError(t, err)
			require.EqualValues(t, len(file), size)
		})
	}
}

func TestSizeOfStories15M(t *testing.T) {
	// The file stories15M.bin of llama2.c has 60,816,028 bytes.
	size, err := Header{Dim: 288, HiddenDim: 768, NLayers: 6, NHeads: 6, NKVHeads: 6, VocabSize: 32000, SeqLen: 256,
		SharedClassifier: true}.Size()
	require.NoError(t, err)
	require.EqualValues(t, 60816028, size)
}

func TestShapesAreOutByIn(t *testing.T) {
	f, err := read(write(t, tiny))
	require.NoError(t, err)
	for name, shape := range map[string][]int{"token_embedding": {7, 8}, "wcls": {7, 8}, "rms_final": {8},
		"layers.1.rms_att": {8}, "layers.1.rms_ffn": {8}, "layers.0.wq": {8, 8}, "layers.0.wk": {4, 8},
		"layers.0.wv": {4, 8}, "layers.0.wo": {8, 8}, "layers.0.w1": {5, 8}, "layers.0.w2": {8, 5}, "layers.0.w3": {5, 8}} {
		x, ok := f.Lookup(name)
		require.True(t, ok, name)
		require.Equal(t, shape, x.Shape, name)
	}
	for _, name := range []string{"", "layers", "layers.0", "layers.0.", "layers.2.wq", "layers.-1.wq", "layers.+1.wq",
		"layers.01.wq", "layers.1.wcls", "wq", "layers.0.token_embedding", "freq_cis_real", "layers.0.freq_cis_imag",
		"layers.99999999999999999999.wq"} {
		_, ok := f.Lookup(name)
		require.False(t, ok, name)
	}
	shared, err := read(write(t, with(tiny, 0, true)))
	require.NoError(t, err)
	_, ok := shared.Lookup("wcls")
	require.False(t, ok)
}

type badFile struct {
	name   string
	data   []byte
	err    error
	key    string
	offset int64
	text   string // in the message
}

// head0 and head1 are headers of version 0 and 1 with n zeros after them.
func head0(n int, v ...int) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(int32(x)))
	}
	return append(b, make([]byte, n)...)
}

func head1(version int, shared byte, v ...int) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("24ka"), uint32(version))
	b = append(append(b, head0(0, v...)...), shared)
	return append(b, make([]byte, 256-len(b))...)
}

func badFiles(t require.TestingT) []badFile {
	const top = math.MaxInt32
	resized := func(h Header, by int) []byte {
		return append(write(t, h), make([]byte, max(by, 0))...)[:fileSize(h)+by]
	}
	padded := write(t, with(tiny, 1, true))
	padded[200] = 1
	bad := []badFile{
		{"empty", nil, ErrTruncated, "", 0, "0 bytes"},
		{"27 bytes", head0(0, 8, 5, 2, 2, 1, 7, 3)[:27], ErrTruncated, "", 27, "has 28"},
		{"255 bytes of version 1", head1(1, 1, 8, 5, 2, 2, 1, 7, 3)[:255], ErrTruncated, "", 255, "has 256"},
		{"only the magic number and version 1", head1(1, 1)[:8], ErrTruncated, "", 8, "has 256"},
		{"version 2", head1(2, 1, 8, 5, 2, 2, 1, 7, 3), ErrVersion, "version", 4, "int8"},
		{"version 0 after the magic number", head1(0, 1, 8, 5, 2, 2, 1, 7, 3), ErrVersion, "version", 4, "0, want 1"},
		{"version 3", head1(3, 1, 8, 5, 2, 2, 1, 7, 3), ErrVersion, "version", 4, "3, want 1"},
		{"version -1", head1(-1, 1, 8, 5, 2, 2, 1, 7, 3), ErrVersion, "version", 4, "-1, want 1"},
		{"shared flag 2", head1(1, 2, 8, 5, 2, 2, 1, 7, 3), ErrHeader, "shared_classifier", 36, "want 0 or 1"},
		{"padding", padded, ErrHeader, "padding", 200, "want 0"},
		{"negative vocabulary in version 1", head1(1, 1, 8, 5, 2, 2, 1, -7, 3), ErrHeader, "vocab_size", 28, "-7"},
		{"big-endian", []byte("\x00\x00\x01\x20\x00\x00\x03\x00\x00\x00\x00\x06\x00\x00\x00\x06\x00\x00\x00\x06" +
			"\x00\x00\x7d\x00\x00\x00\x01\x00"), ErrHeader, "n_heads", 12, "divide"},

		{"a head that does not divide", head0(9, 8, 5, 2, 3, 1, 7, 3), ErrHeader, "n_heads", 12, "divide dim 8"},
		{"more heads than dim", head0(9, 8, 5, 2, 16, 1, 7, 3), ErrHeader, "n_heads", 12, "divide dim 8"},
		{"odd head", head0(9, 6, 5, 2, 2, 1, 7, 3), ErrHeader, "n_heads", 12, "odd width 3"},
		{"kv heads that do not divide", head0(9, 8, 5, 2, 4, 3, 7, 3), ErrHeader, "n_kv_heads", 16, "divide n_heads 4"},
		{"more kv heads than heads", head0(9, 8, 5, 2, 2, 4, 7, 3), ErrHeader, "n_kv_heads", 16, "divide n_heads 2"},
		{"kv heads that do not divide in version 1", head1(1, 1, 8, 5, 2, 4, 3, 7, 3), ErrHeader, "n_kv_heads", 24, ""},
		{"vocabulary of -2^31", head0(9, 8, 5, 2, 2, 1, math.MinInt32, 3), ErrHeader, "vocab_size", 20, "2147483648"},

		{"all sizes 2^31-1 wrap", head0(9, top-1, top, top, 1, 1, top, top), ErrHeader, "", 0, "overflow"},
		{"2^64 bytes of w1", head0(9, 1<<30, 1<<30, 4, 1, 1, 1, 1), ErrHeader, "", 0, "overflow"},
		{"2^62 bytes of w1 in one layer", head0(9, 1<<30, 1<<30, 1, 1, 1, 1, 1), ErrHeader, "", 0, "overflow"},
		{"2^30 layers", head0(9, 2, 1, 1<<30, 1, 1, 1, 1), ErrSize, "", 37, "has 37 bytes"},
		{"2^31-1 positions", head0(9, 2, 1, 1, 1, 1, 1, top), ErrSize, "", 37, "has 37 bytes"},
		{"2^31-1 tokens", head0(9, 2, 1, 1, 1, 1, -top, 1), ErrSize, "", 37, "has 37 bytes"},
		{"2^60 bytes", head0(9, 1<<28, 1<<28, 1, 1, 1, 1, 1), ErrSize, "", 37, "has 37 bytes"},

		{"zip", []byte("PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00archive/data.pklFB\x0d\x00ZZZZZZ"), ErrNotModel, "", 0, "zip"},
		{"pickle", []byte("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10"), ErrNotModel, "", 0, "pickle"},
		{"gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abcdefghijklmnopqrstuvwxyz"), ErrNotModel, "", 0, "gzip"},
		{"HTML", []byte("<!DOCTYPE html><html><title>404 Not Found</title>"), ErrNotModel, "", 0, "HTML"},
		{"HTML behind empty lines", []byte("\n\n<!doctype html>\n<html><title>404 Not Found</title>"), ErrNotModel, "", 0, "HTML"},
		{"XML", []byte("<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code>"), ErrNotModel, "", 0, "XML"},
		{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:0"), ErrNotModel, "", 0, "LFS"},
		{"GGUF", []byte("GGUF\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00"),
			ErrNotModel, "", 0, "GGUF"},
		{"safetensors", []byte("\x40\x00\x00\x00\x00\x00\x00\x00{\"a\":{\"dtype\":\"F32\",\"shape\":[1]"), ErrNotModel, "", 0, "safetensors"},
		{"zeros", make([]byte, 4096), ErrNotModel, "", 0, "zeros"},
	}
	for i, name := range []string{"dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"} {
		for _, v := range []int{0, -1, math.MinInt32} {
			sizes := []int{8, 5, 2, 2, 1, 7, 3}
			sizes[i] = v
			if name != "vocab_size" || v == 0 {
				bad = append(bad, badFile{fmt.Sprintf("%s is %d", name, v), head0(9, sizes...), ErrHeader, name,
					int64(4 * i), "want 1 to"})
			}
			bad = append(bad, badFile{fmt.Sprintf("%s is %d in version 1", name, v), head1(1, 1, sizes...), ErrHeader, name,
				int64(8 + 4*i), "want 1 to"})
		}
	}
	for _, h := range []Header{tiny, with(tiny, 0, true), with(tiny, 1, false), with(tiny, 1, true)} {
		for _, by := range []int{-4, -1, 1, 4, 100} {
			size := fileSize(h)
			other := fileSize(with(h, h.Version, !h.SharedClassifier))
			bad = append(bad, badFile{fmt.Sprintf("%+v and %d bytes", h, by), resized(h, by), ErrSize, "",
				int64(size + min(by, 0)), fmt.Sprintf("has %d bytes, want %d", size+by, size)})
			bad[len(bad)-1].text += map[bool]string{true: " (a shared classifier", false: " (a classifier of its own"}[h.SharedClassifier]
			require.Contains(t, func() string { _, err := read(resized(h, by)); return err.Error() }(), fmt.Sprint(other))
		}
	}
	return bad
}

func fileSize(h Header) int {
	n, err := h.Size()
	if err != nil {
		panic(err)
	}
	return int(n)
}

func TestReadRefusesBadFilesSayingWhatAndWhere(t *testing.T) {
	for _, bad := range badFiles(t) {
		t.Run(bad.name, func(t *testing.T) {
			f, err := requireBounded(t, bytes.NewReader(bad.data), int64(len(bad.data)))
			require.Nil(t, f)
			require.ErrorIs(t, err, bad.err)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, bad.key, e.Key, err)
			require.Equal(t, bad.offset, e.Offset, err)
			require.ErrorContains(t, err, bad.text)
		})
	}
}

func TestAVersion0FileWithoutItsTablesOfRoPEIsRefused(t *testing.T) {
	// The classifier would otherwise be read from the wrong place.
	data := write(t, tiny)
	tables := 2 * tiny.SeqLen * (tiny.Dim / tiny.NHeads / 2) * 4
	_, err := read(data[:len(data)-tables])
	require.ErrorIs(t, err, ErrSize)
}

func TestEveryTruncationIsRefused(t *testing.T) {
	for _, h := range []Header{tiny, with(tiny, 1, true)} {
		data := write(t, h)
		for n := range data {
			_, err := read(data[:n])
			require.True(t, errors.Is(err, ErrTruncated) || errors.Is(err, ErrSize), "%d bytes: %v", n, err)
		}
	}
}

func TestEveryCorruptByteOfTheHeaderIsAnErrorOrAnotherValidFile(t *testing.T) {
	for _, h := range []Header{tiny, with(tiny, 1, false)} {
		data := write(t, h)
		n := map[int]int{0: headerSize0, 1: headerSize1}[h.Version]
		for i := range n {
			for v := range 256 {
				b := bytes.Clone(data)
				b[i] = byte(v)
				if f, err := read(b); err == nil {
					requireSound(t, f, b)
				}
			}
		}
	}
}

// requireSound checks what Read promises: tensors within the file, in order,
// and of the size of their shapes.
func requireSound(t require.TestingT, f *File, data []byte) {
	end := int64(headerSize0)
	for x := range f.Tensors() {
		require.GreaterOrEqual(t, x.Offset, end)
		n := int64(4)
		for _, d := range x.Shape {
			n *= int64(d)
		}
		require.Equal(t, n, x.Size)
		end = x.Offset + x.Size
	}
	require.LessOrEqual(t, end, int64(len(data)))
}

// counted counts what is read.
type counted struct {
	r    io.ReaderAt
	read uint64
}

func (c *counted) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(b, off)
	c.read += uint64(n)
	return n, err
}

// requireBounded reads the file and checks what it allocated, the least of a
// few runs, since others may allocate meanwhile.
func requireBounded(t require.TestingT, r io.ReaderAt, size int64) (f *File, err error) {
	c := counted{r: r}
	least := uint64(math.MaxUint64)
	for range 3 {
		c.read = 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err = Read(&c, size)
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	require.LessOrEqual(t, least, 64<<10+8*c.read, "allocated, having read %d bytes", c.read)
	return f, err
}

func TestAHugeValidFileCostsNothingToOpen(t *testing.T) {
	// 2³⁰ layers, as a sparse file may have them.
	h := Header{Dim: 2, HiddenDim: 1, NLayers: 1 << 30, NHeads: 1, NKVHeads: 1, VocabSize: 1, SeqLen: 1, SharedClassifier: true}
	size := fileSize(h)
	data := head0(300, 2, 1, 1<<30, 1, 1, 1, 1)
	f, err := requireBounded(t, bytes.NewReader(data), int64(size))
	require.NoError(t, err)
	x, ok := f.Lookup("layers.1073741823.w3")
	require.True(t, ok)
	require.EqualValues(t, size, x.Offset+x.Size+4*(2+1+1)) // rms_final and the tables
	require.ErrorIs(t, f.ReadFloat32(make([]float32, 2), x), ErrChanged)
}

func TestAFileThatShrinksIsAnError(t *testing.T) {
	data := write(t, tiny)
	for n := range data {
		f, err := Read(bytes.NewReader(data[:n]), int64(len(data)))
		if n < 256 {
			require.ErrorIs(t, err, ErrChanged)
			continue
		}
		require.NoError(t, err)
		x, _ := f.Lookup("wcls")
		err = f.ReadFloat32(make([]float32, 56), x)
		require.ErrorIs(t, err, ErrChanged)
		require.ErrorContains(t, err, "wcls")
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestTheReadersOwnErrorIsWrapped(t *testing.T) {
	broken := errors.New("broken disk")
	_, err := Read(failing{broken}, 1000)
	require.ErrorIs(t, err, broken)
	_, err = Read(failing{broken}, -1) // nothing to read
	require.ErrorIs(t, err, ErrTruncated)
	_, err = read(nil)
	require.ErrorIs(t, err, ErrTruncated)
}

func TestNaNAndInfSurvive(t *testing.T) {
	h := with(tiny, 1, true)
	patterns := []uint32{0x7fc00001, 0xff800000, 0x7f800000, 1 << 31, 1, 0xffc12345, 0x007fffff, 0x3f800000}
	fill := weights(h)
	var b bytes.Buffer
	require.NoError(t, Write(&b, h, func(name string) []float32 {
		data := fill(name)
		for i := range data {
			data[i] = math.Float32frombits(patterns[i%len(patterns)])
		}
		return data
	}))
	f, err := read(b.Bytes())
	require.NoError(t, err)
	for x := range f.Tensors() {
		data := make([]float32, x.Size/4)
		require.NoError(t, f.ReadFloat32(data, x))
		for i, v := range data {
			require.Equal(t, patterns[i%len(patterns)], math.Float32bits(v))
		}
	}
}

func TestMisusePanics(t *testing.T) {
	f, err := read(write(t, tiny))
	require.NoError(t, err)
	x, _ := f.Lookup("rms_final")
	require.Panics(t, func() { f.ReadFloat32(make([]float32, 7), x) })
	require.Panics(t, func() { f.ReadFloat32(make([]float32, 9), x) })
	x.Offset -= 4
	require.Panics(t, func() { f.ReadFloat32(make([]float32, 8), x) })
	require.Panics(t, func() { Write(io.Discard, tiny, func(string) []float32 { return make([]float32, 8) }) })
}

func TestWriteRefusesABadHeaderBeforeItWrites(t *testing.T) {
	for field, h := range map[string]Header{
		"version":    with(tiny, 2, true),
		"n_heads":    {Dim: 8, HiddenDim: 5, NLayers: 2, NHeads: 3, NKVHeads: 1, VocabSize: 7, SeqLen: 3},
		"vocab_size": {Dim: 8, HiddenDim: 5, NLayers: 2, NHeads: 2, NKVHeads: 1, VocabSize: -7, SeqLen: 3},
		"seq_len":    {Dim: 8, HiddenDim: 5, NLayers: 2, NHeads: 2, NKVHeads: 1, VocabSize: 7, SeqLen: 1 << 31},
	} {
		var b bytes.Buffer
		err := Write(&b, h, func(string) []float32 { panic("asked for weights") })
		require.ErrorContains(t, err, field)
		require.Zero(t, b.Len())
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

func TestWriteReportsAFullDiskOnceAndStops(t *testing.T) {
	h := Header{Dim: 32, HiddenDim: 70, NLayers: 3, NHeads: 2, NKVHeads: 2, VocabSize: 50, SeqLen: 2000}
	full := errors.New("disk full")
	n := fileSize(h)
	for _, at := range []int{0, 1, 10000, n / 3, n / 2, n - 30000, n - 1} {
		err := Write(&limited{at, full}, h, weights(h))
		require.ErrorIs(t, err, full, "after %d bytes", at)
		require.Equal(t, 1, strings.Count(err.Error(), "llama2c:"))
	}
	require.NoError(t, Write(&limited{n, full}, h, weights(h)))

	asked := 0
	fill := weights(h)
	require.Error(t, Write(&limited{0, full}, h, func(name string) []float32 { asked++; return fill(name) }))
	require.Less(t, asked, 20)
}

// anyHeader draws a small valid header.
func anyHeader(t *rapid.T) Header {
	small := func(name string) int { return rapid.IntRange(1, 5).Draw(t, name) }
	kv := small("kv heads")
	heads := kv * small("heads of a kv head")
	return Header{
		Version: rapid.IntRange(0, 1).Draw(t, "version"), Dim: heads * 2 * small("half head"), HiddenDim: small("hidden"),
		NLayers: small("layers"), NHeads: heads, NKVHeads: kv, VocabSize: small("vocabulary"), SeqLen: small("positions"),
		SharedClassifier: rapid.Bool().Draw(t, "shared"),
	}
}

func TestRoundTripIsByteExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { requireRoundTrip(t, anyHeader(t)) })
}

func requireRoundTrip(t require.TestingT, h Header) []byte {
	data := write(t, h)
	f, err := read(data)
	require.NoError(t, err)
	require.Equal(t, h, f.Header)
	requireSound(t, f, data)
	require.Equal(t, data, rewrite(t, f))
	return data
}

// rewrite writes what f serves.
func rewrite(t require.TestingT, f *File) []byte {
	var b bytes.Buffer
	require.NoError(t, Write(&b, f.Header, func(name string) []float32 {
		x, ok := f.Lookup(name)
		require.True(t, ok)
		data := make([]float32, x.Size/4)
		require.NoError(t, f.ReadFloat32(data, x))
		return data
	}))
	return b.Bytes()
}

// FuzzRead takes any bytes. What Read accepts, Write must preserve, but for
// the tables of RoPE.
func FuzzRead(f *testing.F) {
	for _, bad := range badFiles(f) {
		f.Add(bad.data)
	}
	for _, h := range []Header{tiny, with(tiny, 0, true), with(tiny, 1, false), with(tiny, 1, true)} {
		f.Add(write(f, h))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkAny(t, data) })
}

func checkAny(t require.TestingT, data []byte) {
	f, err := requireBounded(t, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		var e *Error
		require.True(t, errors.As(err, &e))
		require.LessOrEqual(t, e.Offset, int64(max(len(data), headerSize0)))
		return
	}
	requireSound(t, f, data)
	got := rewrite(t, f)
	require.Len(t, got, len(data))
	if f.Version == 0 {
		last := slices.IndexFunc(f.parts, func(p part) bool { return p.name == "rms_final" })
		from := f.parts[last].offset + f.parts[last].size
		to := from + int64(8*f.SeqLen*(f.Dim/f.NHeads/2))
		copy(got[from:to], data[from:to])
	}
	require.Equal(t, data, got)
}

// FuzzRoundTrip writes a model of any small shape, reads it, then breaks one
// byte of its header.
func FuzzRoundTrip(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		h := anyHeader(t)
		data := requireRoundTrip(t, h)
		n := map[int]int{0: headerSize0, 1: headerSize1}[h.Version]
		data[rapid.IntRange(0, n-1).Draw(t, "at")] ^= rapid.ByteRange(1, 255).Draw(t, "flip")
		checkAny(t, data)
	}))
}

// FuzzHeader takes the sizes themselves, and a file that is as large as they
// say, if that is little.
func FuzzHeader(f *testing.F) {
	f.Add(true, int32(8), int32(5), int32(2), int32(2), int32(1), int32(7), int32(3), uint8(1), 0)
	f.Add(false, int32(8), int32(5), int32(2), int32(2), int32(1), int32(-7), int32(3), uint8(0), 1)
	f.Add(false, int32(1<<30), int32(1<<30), int32(4), int32(1), int32(1), int32(1), int32(1), uint8(0), -1)
	f.Fuzz(func(t *testing.T, v1 bool, a, b, c, d, e, v, s int32, shared uint8, by int) {
		sizes := []int{int(a), int(b), int(c), int(d), int(e), int(v), int(s)}
		data := head0(0, sizes...)
		h := Header{Dim: sizes[0], HiddenDim: sizes[1], NLayers: sizes[2], NHeads: sizes[3], NKVHeads: sizes[4],
			VocabSize: sizes[5], SeqLen: sizes[6]}
		if v1 {
			data = head1(1, shared, sizes...)
			h.Version, h.SharedClassifier = 1, shared == 1
		} else if h.SharedClassifier = v > 0; v < 0 {
			h.VocabSize = -h.VocabSize
		}
		size, err := h.Size()
		if err == nil && size < 1<<16 {
			data = append(data, make([]byte, int(size)-len(data)+max(-1, min(1, by)))...)
		}
		checkAny(t, data)
	})
}
