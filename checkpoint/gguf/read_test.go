package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var le = binary.LittleEndian

// builder puts a file together piece by piece; marks are byte offsets.
type builder struct {
	b     []byte
	marks map[string]int
}

func header(version uint32, tensors, pairs uint64) *builder {
	b := &builder{marks: map[string]int{}}
	b.b = le.AppendUint32([]byte(magic), version)
	b.b = le.AppendUint64(le.AppendUint64(b.b, tensors), pairs)
	return b
}

func (b *builder) mark(name string) *builder { b.marks[name] = len(b.b); return b }
func (b *builder) u32(v ...uint32) *builder {
	for _, v := range v {
		b.b = le.AppendUint32(b.b, v)
	}
	return b
}
func (b *builder) u64(v ...uint64) *builder {
	for _, v := range v {
		b.b = le.AppendUint64(b.b, v)
	}
	return b
}
func (b *builder) text(s string) *builder        { b.b = appendText(b.b, s); return b }
func (b *builder) raw(s string) *builder         { b.b = append(b.b, s...); return b }
func (b *builder) pair(k string, v any) *builder { b.b = appendValue(appendText(b.b, k), v); return b }

func (b *builder) tensor(name string, typ uint32, offset uint64, dims ...uint64) *builder {
	return b.text(name).u32(uint32(len(dims))).u64(dims...).u32(typ).u64(offset)
}

// data pads and appends n bytes.
func (b *builder) data(n int) *builder {
	b.b = append(b.b, make([]byte, int(padded(int64(len(b.b)), 32))-len(b.b)+n)...)
	return b
}

type badFile struct {
	name string
	file *builder
	err  error
	key  string // of the error
	at   string // the mark at the error's offset; "" for byte 0, "END" for the end
}

func one() *builder { return header(3, 1, 0).mark("x").text("x") }

func badFiles() []badFile {
	x := func(b *builder, n uint32) *builder { return b.mark("n").u32(n).mark("dims") }
	bads := []badFile{
		{"empty", &builder{}, ErrTruncated, "", "END"},
		{"3 bytes", (&builder{}).raw("GGU"), ErrTruncated, "", "END"},
		{"23 bytes", (&builder{}).raw("GGUF\x03\x00\x00\x00").raw(strings.Repeat("\x00", 15)), ErrTruncated, "", "END"},
		{"FUGG", (&builder{}).raw("FUGG").u32(3).u64(0, 0), ErrMagic, "", ""},
		{"ggjt", (&builder{}).raw("tjgg").u32(3).u64(0, 0), ErrMagic, "", ""},
		{"another magic", (&builder{}).raw("GGUX").u32(3).u64(0, 0), ErrMagic, "", ""},
		{"a zip", (&builder{}).raw("PK\x03\x04").raw(strings.Repeat("\x00", 40)), ErrNotModel, "", ""},
		{"a page", (&builder{}).raw("<!DOCTYPE html><html></html>"), ErrNotModel, "", ""},
		{"a safetensors", (&builder{}).u64(16).raw(`{"__metadata__": `), ErrNotModel, "", ""},
		{"version 0", header(0, 0, 0), ErrVersion, "", "V"},
		{"version 1", header(1, 0, 0), ErrVersion, "", "V"},
		{"version 4", header(4, 0, 0), ErrVersion, "", "V"},
		{"big endian", header(0x03000000, 0, 0), ErrVersion, "", "V"},
		{"2^64-1 tensors", header(3, math.MaxUint64, 0), ErrCount, "", "T"},
		{"2^40 tensors", header(3, 1<<40, 0), ErrCount, "", "T"},
		{"1 tensor in 24 bytes", header(3, 1, 0), ErrCount, "", "T"},
		{"2^64-1 values", header(3, 0, math.MaxUint64), ErrCount, "", "P"},
		{"2^40 values", header(3, 0, 1<<40), ErrCount, "", "P"},
		{"1 value in 24 bytes", header(3, 0, 1), ErrCount, "", "P"},

		{"key of 2^63 bytes", header(3, 0, 1).mark("k").u64(1 << 63).raw("abcdefghijkl"), ErrString, "", "k"},
		{"key of 0 bytes", header(3, 0, 1).mark("k").pair("", uint32(1)), ErrString, "", "k"},
		{"key of 64 KiB", header(3, 0, 1).mark("k").pair(strings.Repeat("k", 1<<16), true), ErrString, strings.Repeat("k", 96) + "…", "k"},
		{"key not UTF-8", header(3, 0, 1).mark("k").pair("a\xff", uint32(1)), ErrString, "", "k"},
		{"string of 2^63 bytes", header(3, 0, 1).text("k").u32(8).mark("v").u64(1<<63, 1), ErrString, "k", "v"},
		{"string of 8 GiB", header(3, 0, 1).text("k").u32(8).mark("v").u64(8<<30, 1), ErrString, "k", "v"},
		{"string one byte too long", header(3, 0, 1).text("k").u32(8).mark("v").u64(9, 1), ErrString, "k", "v"},
		{"type 13", header(3, 0, 1).text("k").mark("t").u32(13).u64(1), ErrType, "k", "t"},
		{"type -1", header(3, 0, 1).text("k").mark("t").u32(math.MaxUint32).u64(1), ErrType, "k", "t"},
		{"array of type 13", header(3, 0, 1).text("k").u32(9).mark("t").u32(13).u64(1, 1), ErrType, "k", "t"},
		{"array of type -1", header(3, 0, 1).text("k").u32(9).mark("t").u32(math.MaxUint32).u64(1, 1), ErrType, "k", "t"},
		{"array in an array", header(3, 0, 1).text("k").u32(9).mark("t").u32(9).u64(1).u32(4).u64(0), ErrType, "k", "t"},
		{"array of 2^64-1", header(3, 0, 1).text("k").u32(9, 0).mark("n").u64(math.MaxUint64), ErrCount, "k", "n"},
		{"array of 2^61 float64", header(3, 0, 1).text("k").u32(9, 12).mark("n").u64(1<<61, 1), ErrCount, "k", "n"},
		{"array of 2^61 strings", header(3, 0, 1).text("k").u32(9, 8).mark("n").u64(1<<61, 1), ErrCount, "k", "n"},
		{"array with one too many", header(3, 0, 1).text("k").u32(9, 5).mark("n").u64(3, 1), ErrCount, "k", "n"},
		{"string in an array too long", header(3, 0, 1).text("k").u32(9, 8).u64(2).text("abc").mark("v").u64(6).raw("abcde"), ErrString, "k", "v"},
		{"value cut off", header(3, 0, 1).text("abcd").u32(10).mark("v").raw("1234567"), ErrTruncated, "abcd", "v"},
		{"bool 2", header(3, 0, 1).text("k").u32(7).mark("v").raw("\x02"), ErrValue, "k", "v"},
		{"bool 2 in an array", header(3, 0, 1).text("k").u32(9, 7).u64(2).raw("\x00").mark("v").raw("\xff"), ErrValue, "k", "v"},
		{"duplicate key", header(3, 0, 3).pair("k", uint8(1)).pair("j", uint8(1)).mark("k").pair("k", "x"), ErrDuplicate, "k", "k"},
		{"alignment 0", header(3, 0, 1).text(alignmentKey).u32(4).mark("v").u32(0), ErrValue, alignmentKey, "v"},
		{"alignment 33", header(3, 0, 1).text(alignmentKey).u32(4).mark("v").u32(33), ErrValue, alignmentKey, "v"},
		{"alignment of another type", header(3, 0, 1).text(alignmentKey).u32(10).mark("v").u64(32), ErrValue, alignmentKey, "v"},

		{"duplicate tensor", header(3, 2, 0).tensor("x", 0, 0, 8).mark("x").tensor("x", 0, 32, 8).data(64), ErrDuplicate, "x", "x"},
		{"tensor without a name", header(3, 1, 0).mark("x").tensor("", 0, 0, 8).data(32), ErrString, "", "x"},
		{"tensor with a long name", header(3, 1, 0).mark("x").tensor(strings.Repeat("é", 33), 0, 0, 8).data(32), ErrString,
			strings.Repeat("é", 33), "x"},
		{"tensor name not UTF-8", header(3, 1, 0).mark("x").tensor("\xc0\x80", 0, 0, 8).data(32), ErrString, "", "x"},
		{"0 dimensions", x(one(), 0).u32(0).u64(0).data(32), ErrShape, "x", "n"},
		{"5 dimensions", x(one(), 5).u64(1, 1, 1, 1, 1).u32(0).u64(0).data(32), ErrShape, "x", "n"},
		{"2^28 dimensions", x(one(), 1<<28).u64(1, 1, 1, 1, 1).u32(0).u64(0).data(32), ErrShape, "x", "n"},
		{"2^32-1 dimensions", x(one(), math.MaxUint32).u64(1, 1, 1, 1, 1).u32(0).u64(0).data(32), ErrShape, "x", "n"},
		{"dimension 0", x(one(), 1).u64(0).u32(0).u64(0).data(32), ErrShape, "x", "dims"},
		{"dimension -1", x(one(), 1).u64(math.MaxUint64).u32(0).u64(0).data(32), ErrShape, "x", "dims"},
		{"dimension 2^63", x(one(), 2).u64(1<<63, 2).u32(0).u64(0).data(32), ErrShape, "x", "dims"},
		{"2^62 float32", x(one(), 1).u64(1 << 62).u32(0).u64(0).data(32), ErrOverflow, "x", "dims"},
		{"dimensions whose product wraps to 0", x(one(), 2).u64(1<<32, 1<<32).u32(0).u64(0).data(32), ErrOverflow, "x", "dims"},
		{"dimensions whose product wraps to 32", x(one(), 3).u64(32, 1<<62+1, 4).u32(8).u64(0).data(64), ErrOverflow, "x", "dims"},
		{"2^63 bytes", x(one(), 2).u64(1<<32, 1<<29).u32(0).u64(0).data(32), ErrOverflow, "x", "dims"},
		{"Q4_0 row of 33", x(one(), 2).u64(33, 32).u32(2).u64(0).data(594), ErrBlock, "x", "dims"},
		{"Q4_K row of 128", x(one(), 2).u64(128, 2).u32(12).u64(0).data(144), ErrBlock, "x", "dims"},
		{"offset unaligned", header(3, 1, 0).mark("x").tensor("x", 0, 4, 8).data(64), ErrOffset, "x", "x"},
		{"offset past the end", header(3, 1, 0).mark("x").tensor("x", 0, 1<<20, 8).data(32), ErrOffset, "x", "x"},
		{"offset 2^64-32", header(3, 1, 0).mark("x").tensor("x", 0, math.MaxUint64-31, 8).data(32), ErrOffset, "x", "x"},
		{"a hole", header(3, 2, 0).tensor("x", 0, 0, 8).mark("y").tensor("y", 0, 64, 8).data(96), ErrOffset, "y", "y"},
		{"a hole at the start", header(3, 1, 0).mark("x").tensor("x", 0, 32, 8).data(64), ErrOffset, "x", "x"},
		{"overlap", header(3, 2, 0).tensor("x", 0, 0, 16).mark("y").tensor("y", 0, 32, 8).data(96), ErrOffset, "y", "y"},
		{"the same range", header(3, 2, 0).tensor("x", 0, 0, 8).mark("y").tensor("y", 1, 0, 16).data(32), ErrOffset, "y", "y"},
		{"one byte missing", header(3, 1, 0).mark("x").tensor("x", 0, 0, 8).data(31), ErrTruncated, "x", "x"},
		{"no data", header(3, 1, 0).mark("x").tensor("x", 0, 0, 8), ErrTruncated, "x", "x"},
		{"second tensor missing", header(3, 2, 0).tensor("x", 0, 0, 8).mark("y").tensor("y", 0, 32, 8).data(32), ErrTruncated, "y", "y"},
		{"2^62 bytes twice", header(3, 2, 0).mark("x").tensor("x", 24, 0, 1<<62).tensor("y", 24, 1<<62, 1<<62).data(32), ErrTruncated, "x", "x"},
		{"100 trailing bytes", header(3, 1, 0).tensor("x", 0, 0, 7).data(28).mark("e").raw(strings.Repeat("\x00", 100)), ErrTrailing, "", "e"},
		{"half of the padding", header(3, 1, 0).tensor("x", 0, 0, 7).data(28).mark("e").raw("\x00\x00"), ErrTrailing, "", "e"},
		{"trailing bytes, no tensors", header(3, 0, 0).mark("e").raw("\x00"), ErrTrailing, "", "e"},
	}
	for _, typ := range []uint32{999, math.MaxUint32, 4, 5, 9, 15, 31, 36, 41} {
		bads = append(bads, badFile{fmt.Sprintf("tensor of type %d", int32(typ)),
			x(one(), 1).u64(256).mark("t").u32(typ).u64(0).data(1024), ErrType, "x", "t"})
	}
	nested := header(3, 0, 1).text("k").u32(9).mark("t")
	for range 1_000_000 {
		nested.u32(9).u64(1)
	}
	return append(bads, badFile{"10^6 nested arrays", nested, ErrType, "k", "t"})
}

// counted counts the bytes that are really read.
type counted struct {
	r    io.ReaderAt
	read int64
}

func (c *counted) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(b, off)
	c.read += int64(n)
	return n, err
}

// allocated returns the bytes that f allocates.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	least := int64(math.MaxInt64) // the runtime allocates too, now and then
	for range 3 {
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, int64(after.TotalAlloc-before.TotalAlloc))
	}
	return least
}

// read reads data within the memory that is allowed.
func read(t require.TestingT, data []byte) (*File, error) {
	c := &counted{r: bytes.NewReader(data)}
	var f *File
	var err error
	n := allocated(func() {
		c.read = 0
		f, err = Read(c, int64(len(data)))
	})
	require.LessOrEqual(t, n, 64<<10+8*c.read)
	return f, err
}

func TestBadFiles(t *testing.T) {
	for _, bad := range badFiles() {
		t.Run(bad.name, func(t *testing.T) {
			f, err := read(t, bad.file.b)
			require.True(t, f == nil, "accepted")
			require.ErrorIs(t, err, bad.err)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, bad.key, e.Key)
			at, ok := map[string]int{"": 0, "V": 4, "T": 8, "P": 16, "END": len(bad.file.b)}[bad.at]
			if !ok {
				at, ok = bad.file.marks[bad.at]
				require.True(t, ok)
			}
			require.EqualValues(t, at, e.Offset, err)
			require.Less(t, len(err.Error()), 400)
		})
	}
}

// Counts that the file could hold, if it were not sparse, allocate nothing.
func TestSparseFile(t *testing.T) {
	for name, b := range map[string]*builder{
		"tensors": header(3, 200<<20/minTensor, 0),
		"values":  header(3, 0, 200<<20/minValue),
		"strings": header(3, 0, 1).text("k").u32(9, 8).u64(200 << 20 / 8),
		"bytes":   header(3, 0, 1).text("k").u32(9, 0).u64(1 << 40),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			require.NoError(t, os.WriteFile(path, b.b, 0o666))
			require.NoError(t, os.Truncate(path, 1<<41))
			file, err := os.Open(path)
			require.NoError(t, err)
			defer file.Close()
			if name == "strings" { // they end where the file does
				require.NoError(t, os.Truncate(path, 1<<20))
			}
			info, err := file.Stat()
			require.NoError(t, err)
			c := &counted{r: file}
			n := allocated(func() {
				c.read = 0
				_, err = Read(c, info.Size())
			})
			require.Error(t, err)
			require.LessOrEqual(t, n, 64<<10+8*c.read)
		})
	}
}

// Every truncation of a good file is an error, and so is a reader that fails or
// has less than was said.
func TestTruncations(t *testing.T) {
	data := example(t)
	last := open(t, data).tensors[2]
	for n := range data {
		_, err := Read(bytes.NewReader(data[:n]), int64(n))
		require.Equal(t, int64(n) == last.Offset+last.Size, err == nil, "%d of %d bytes", n, len(data)) // but for padding
		_, err = Read(bytes.NewReader(data[:n]), int64(len(data)))
		require.ErrorIs(t, err, ErrChanged, "%d of %d bytes", n, len(data))
	}
	broken := errors.New("broken")
	_, err := Read(failing{broken}, 1000)
	require.ErrorIs(t, err, broken)

	f := open(t, data)
	x := lookup(t, f, "x")
	f.r = bytes.NewReader(data[:x.Offset+3])
	err = f.ReadFloat32(make([]float32, 6), x)
	require.ErrorIs(t, err, ErrChanged)
	f.r = failing{broken}
	err = f.ReadFloat32(make([]float32, 6), x)
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, `"x"`)
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

var everyValue = []Pair{
	{"general.architecture", "llama"},
	{"u8", uint8(200)}, {"i8", int8(-100)}, {"u16", uint16(60000)}, {"i16", int16(-30000)},
	{"u32", uint32(4e9)}, {"i32", int32(-2e9)}, {"f32", float32(0.1)}, {"yes", true}, {"no", false}, {"text", "é\n"},
	{"u64", uint64(math.MaxUint64)}, {"i64", int64(math.MinInt64)}, {"f64", 0.1}, {"empty", ""},
	{"u8s", []uint8{1, 255}}, {"i8s", []int8{-1, 5}}, {"u16s", []uint16{1, 60000}}, {"i16s", []int16{-7}},
	{"u32s", []uint32{7, 8, 9}}, {"i32s", []int32{-7, 8}}, {"f32s", []float32{1.5, -2}}, {"bools", []bool{true, false}},
	{"texts", []string{"", "a", "\xff", "abc"}}, {"none", []string{}}, {"u64s", []uint64{1 << 63}}, {"i64s", []int64{-1 << 63}},
	{"f64s", []float64{math.Pi, 1}},
}

// example is a file with a value of every type and three tensors.
func example(t testing.TB) []byte {
	var b bytes.Buffer
	require.NoError(t, Write(&b, everyValue, []Entry{
		Float32("x", F32, []int{2, 3}, []float32{1, 2, 3, 4, 5, 6}),
		Float32("y", BF16, []int{3}, []float32{1, 2, 3}),
		Float32("z", Q8_0, []int{2, 1, 32}, make([]float32, 64)),
	}))
	return b.Bytes()
}

func TestMetadata(t *testing.T) {
	f := open(t, example(t))
	require.Equal(t, 3, f.Version)
	keys := f.Keys()
	require.Len(t, keys, len(everyValue))
	for i, p := range everyValue {
		require.Equal(t, p.Key, keys[i])
		v, ok := f.Value(p.Key)
		require.True(t, ok)
		require.Equal(t, p.Key, v.Key())
		require.Equal(t, p.Value, v.Any())
		require.Less(t, v.Offset(), f.tensors[0].Offset)

		_, err := v.Int()
		requireTyped(t, err, v, "u8 i8 u16 i16 u32 i32 i64")
		_, err = v.Float()
		requireTyped(t, err, v, "f32 f64")
		_, err = v.Bool()
		requireTyped(t, err, v, "yes no")
		_, err = v.Text()
		requireTyped(t, err, v, "general.architecture text empty")
		_, err = v.Texts()
		requireTyped(t, err, v, "texts none")
		_, err = v.Int32s()
		requireTyped(t, err, v, "u32s i32s")
		_, err = v.Float32s()
		requireTyped(t, err, v, "f32s")
	}
	_, ok := f.Value("another")
	require.False(t, ok)
	for key, want := range map[string]int64{
		"u8": 200, "i8": -100, "u16": 60000, "i16": -30000, "u32": 4e9, "i32": -2e9, "i64": math.MinInt64,
	} {
		v, _ := f.Value(key)
		got, err := v.Int()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	v, _ := f.Value("u32s")
	require.Equal(t, 3, v.Len())
	list, err := v.Int32s()
	require.NoError(t, err)
	require.Equal(t, []int32{7, 8, 9}, list)
}

func requireTyped(t *testing.T, err error, v Value, ok string) {
	t.Helper()
	if strings.Contains(" "+ok+" ", " "+v.Key()+" ") {
		require.NoError(t, err)
		return
	}
	require.True(t, errors.Is(err, ErrType) || v.Key() == "u64" && errors.Is(err, ErrValue), "%v", err)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, v.Key(), e.Key)
	require.Equal(t, v.Offset(), e.Offset)
}

func TestValuesThatDoNotFit(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, Write(&b, []Pair{{"text", "\xff"}, {"list", []uint32{1 << 31}}}, nil))
	f := open(t, b.Bytes())
	v, _ := f.Value("text")
	_, err := v.Text()
	require.ErrorIs(t, err, ErrString)
	v, _ = f.Value("list")
	_, err = v.Int32s()
	require.ErrorIs(t, err, ErrValue)
}

// A file of version 2, tensors listed in another order than they lie, another
// alignment, no padding at the end, and scalars' cousins.
func TestAccepted(t *testing.T) {
	b := header(2, 3, 1).pair(alignmentKey, uint32(64)).
		tensor("b", 0, 64, 1).tensor("c", 0, 128, 1, 1, 1, 2).tensor("a", 1, 0, 3, 2)
	b.b = append(b.b, make([]byte, int(padded(int64(len(b.b)), 64))-len(b.b))...)
	start := len(b.b)
	for i := range 128 + 8 {
		b.raw(string(rune(i % 128)))
	}
	f, err := read(t, b.b)
	require.NoError(t, err)
	require.Equal(t, 2, f.Version)
	require.Equal(t, []Tensor{
		{"a", F16, []int{2, 3}, int64(start), 12},
		{"b", F32, []int{1}, int64(start) + 64, 4},
		{"c", F32, []int{2, 1, 1, 1}, int64(start) + 128, 8},
	}, f.Tensors())
	require.Equal(t, math.Float32frombits(0x43424140), floats(t, f, "b")[0])
	require.Equal(t, math.Float32frombits(0x07060504), floats(t, f, "c")[1])

	_, err = read(t, header(3, 0, 0).b)
	require.NoError(t, err)
}

// Types that are known but have no decoder: the file opens, the tensor does not.
func TestTypesThatAreNotRead(t *testing.T) {
	f, err := read(t, header(3, 1, 0).tensor("x", 10, 0, 256).data(84).b)
	require.NoError(t, err)
	x := lookup(t, f, "x")
	err = f.ReadFloat32(make([]float32, 256), x)
	require.ErrorIs(t, err, ErrType)
	require.ErrorContains(t, err, "Q2_K")
	for typ, l := range layouts {
		if l.block > 0 {
			require.Equal(t, l.name, Type(typ).String())
			require.Equal(t, int(l.block), Type(typ).Block())
			require.Zero(t, bufferElements%l.block)
		}
	}
	require.Equal(t, "type 4", Type(4).String())
	require.Equal(t, "type 77", Type(77).String())
}

func TestPanics(t *testing.T) {
	f := open(t, example(t))
	x, y := lookup(t, f, "x"), lookup(t, f, "y")
	y.Shape = []int{4}
	for what, do := range map[string]func(){
		"gguf: dst has not the length of the tensor":                func() { f.ReadFloat32(make([]float32, 5), x) },
		"gguf: not a tensor of this file":                           func() { f.ReadFloat32(make([]float32, 4), y) },
		"gguf: rows does not divide the length of the tensor":       func() { f.ReadRowsFloat32(make([]float32, 6), x, 4, nil) },
		"gguf: data has not the length that shape says":             func() { Float32("x", F32, []int{2}, make([]float32, 3)) },
		"gguf: Float32 writes F32, F16, BF16 and Q8_0 only":         func() { Float32("x", Q4_0, []int{32}, make([]float32, 32)) },
		"gguf: Entry.Data is nil":                                   func() { Write(io.Discard, nil, []Entry{{Name: "x", Shape: []int{1}}}) },
		"gguf: a Pair's Value is of a type that a file cannot hold": func() { Write(io.Discard, []Pair{{"x", 1}}, nil) },
	} {
		require.PanicsWithValue(t, what, do)
	}
}
