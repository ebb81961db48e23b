package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// file returns the bytes of a file with this header and n bytes of data.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

// lengthOnly is a file whose first 8 bytes are n, with some more.
func lengthOnly(n uint64, more string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), more...)
}

// f32 is the value of a float32 tensor in a header.
func f32(shape string, begin, end int) string {
	return fmt.Sprintf(`{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, shape, begin, end)
}

func dtyped(dtype, shape string, begin, end int) string {
	return fmt.Sprintf(`{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, dtype, shape, begin, end)
}

type badFile struct {
	name string
	data []byte
	err  error
	key  string // of the error
	at   string // the error's offset is where this begins in the file; "" for byte 0
}

const word = `"dtype":"F32","shape":[1],"data_offsets":[0,4]`

var badFiles = []badFile{
	{"empty", nil, ErrTruncated, "", ""},
	{"7 bytes", make([]byte, 7), ErrTruncated, "", ""},
	{"N is 0", lengthOnly(0, "{}"), ErrHeader, "", ""},
	{"8 zeros", make([]byte, 8), ErrHeader, "", ""},
	{"N is more than the file", lengthOnly(1000, "{}"), ErrTruncated, "", ""},
	{"N is one more than the file", lengthOnly(3, "{}"), ErrTruncated, "", ""},
	{"N is 2^63", lengthOnly(1<<63, "{}"), ErrHeaderTooLarge, "", ""},
	{"N is 2^64-1", lengthOnly(1<<64-1, "{}"), ErrHeaderTooLarge, "", ""},
	{"N is 2^64-8, which overflows with 8", lengthOnly(1<<64-8, "{}"), ErrHeaderTooLarge, "", ""},
	{"not UTF-8", file("{\"\xff\":"+f32("[]", 0, 4)+"}", 4), ErrHeader, "", "\xff"},
	{"UTF-16", file("{\x00}\x00", 0), ErrHeader, "", "\x00}"},
	{"surrogate in UTF-8", file("{\"\xed\xa0\x80\":"+f32("[]", 0, 4)+"}", 4), ErrHeader, "", "\xed"},
	{"byte order mark", file("\ufeff{}", 0), ErrHeader, "", "\ufeff"},
	{"NUL padded", file("{}\x00\x00", 0), ErrHeader, "", "\x00\x00"},
	{"white space first", file(" {}", 0), ErrHeader, "", " {}"},
	{"trailing garbage", file("{} {}", 0), ErrHeader, "", " {}"[1:] + "\x00"},
	{"trailing comma", file(`{"a":`+f32("[]", 0, 4)+",}", 4), ErrHeader, "", "}\x00\x00\x00\x00"},
	{"comma first", file(`{,}`, 0), ErrHeader, "", ",}"},
	{"unclosed", file(`{"a":`+f32("[]", 0, 4), 4), ErrHeader, "", "\x00\x00\x00\x00"},
	{"only a brace", file(`{`, 0), ErrHeader, "", "END"},
	{"200000 nested arrays", file(strings.Repeat("[", 200000), 0), ErrHeader, "", "["},
	{"200000 nested arrays for a tensor", file(`{"a":`+strings.Repeat("[", 200000), 0), ErrHeader, "a", "["},
	{"200000 nested arrays in a shape", file(`{"a":{"shape":`+strings.Repeat("[", 200000), 0), ErrHeader, "a", "[["[1:]},
	{"200000 nested objects", file(`{"b":`+strings.Repeat(`{"a":`, 200000), 0), ErrUnknownField, "b", `"a"`},
	{"an array", file("[]", 0), ErrHeader, "", "[]"},
	{"a number", file("12345678", 0), ErrHeader, "", "12345678"},
	{"key without quotes", file(`{a:`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", "a:"},
	{"no colon", file(`{"a" `+f32("[]", 0, 4)+"}", 4), ErrHeader, "a", `{"dtype`},
	{"no comma", file(`{"a":{"dtype":"F32" "shape":[],"data_offsets":[0,4]}}`, 4), ErrHeader, "a", `"shape`},
	{"comment", file(`{/**/}`, 0), ErrHeader, "", "/"},
	{"tensor is null", file(`{"a":null}`, 0), ErrHeader, "a", "null"},
	{"tensor is an array", file(`{"a":["F32",[],[0,4]]}`, 4), ErrHeader, "a", `["F32"`},

	{"duplicate tensor, same range, other dtype", file(`{"a":`+f32("[1]", 0, 4)+`,"b":`+f32("[0]", 4, 4)+`,"a":`+
		dtyped("I32", "[1]", 0, 4)+`}`, 4), ErrDuplicate, "a", `"a":{"dtype":"I32"`},
	{"duplicate tensor by an escape", file(`{"a":`+f32("[1]", 0, 4)+`,"\u0061":`+f32("[1]", 4, 8)+`}`, 8),
		ErrDuplicate, "a", `"\u0061"`},
	{"duplicate __metadata__", file(`{"__metadata__":{},"__metadata__":{"x":"y"}}`, 0),
		ErrDuplicate, "__metadata__", `"__metadata__":{"x"`},
	{"duplicate __metadata__ by an escape", file(`{"__metadata__":{},"__met\u0061data__":{}}`, 0),
		ErrDuplicate, "__metadata__", `"__met\`},
	{"duplicate metadata key", file(`{"__metadata__":{"k":"1","j":"","k":"2"}}`, 0), ErrDuplicate, "k", `"k":"2"`},
	{"duplicate dtype", file(`{"a":{"dtype":"F32",`+word+`}}`, 4), ErrDuplicate, "a", `"dtype":"F32","shape`},
	{"duplicate shape", file(`{"a":{`+word+`,"shape":[1]}}`, 4), ErrDuplicate, "a", `"shape":[1]}`},
	{"duplicate data_offsets", file(`{"a":{`+word+`,"data_offsets":[0,4]}}`, 4), ErrDuplicate, "a", `"data_offsets":[0,4]}`},

	{"DType", file(`{"a":{"DType":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), ErrUnknownField, "a", `"DType"`},
	{"Shape", file(`{"a":{"dtype":"F32","Shape":[1],"data_offsets":[0,4]}}`, 4), ErrUnknownField, "a", `"Shape"`},
	{"Kelvin sign is no k", file("{\"a\":{"+word+",\"\u212a\":1}}", 4), ErrUnknownField, "a", "\"\u212a"},
	{"unknown field", file(`{"a":{`+word+`,"x":{"y":[1]}}}`, 4), ErrUnknownField, "a", `"x"`},
	{"unknown field is a malformed header", file(`{"a":{`+word+`,"x":1}}`, 4), ErrHeader, "a", `"x"`},
	{"no dtype", file(`{"a":{"shape":[1],"data_offsets":[0,4]}}`, 4), ErrHeader, "a", `"a"`},
	{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), ErrHeader, "a", `"a"`},
	{"no offsets", file(`{"a":{"dtype":"F32","shape":[1]}}`, 4), ErrHeader, "a", `"a"`},
	{"no fields", file(`{"a":{}}`, 0), ErrHeader, "a", `"a"`},

	{"metadata value is a number", file(`{"__metadata__":{"k":1}}`, 0), ErrHeader, "__metadata__", "1}}"},
	{"metadata value is an object", file(`{"__metadata__":{"k":{}}}`, 0), ErrHeader, "__metadata__", "{}}}"},
	{"metadata shaped like a tensor", file(`{"__metadata__":`+f32("[1]", 0, 4)+`}`, 4), ErrHeader, "__metadata__", "[1]"},
	{"metadata is null", file(`{"__metadata__":null}`, 0), ErrHeader, "__metadata__", "null"},
	{"metadata is a string", file(`{"__metadata__":"k"}`, 0), ErrHeader, "__metadata__", `"k"`},
	{"65537 metadata entries", file(manyPairs(65537), 0), ErrHeader, "__metadata__", `"65536"`},

	{"lone high surrogate", file(`{"\ud800":`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", `\ud800`},
	{"lone low surrogate", file(`{"\udc00":`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", `\udc00`},
	{"surrogates reversed", file(`{"\udc00\ud800":`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", `\udc00`},
	{"surrogate and a letter", file(`{"\ud800\u0061":`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", `\ud800`},
	{"unknown escape", file(`{"\x41":`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", `\x41`},
	{"short escape", file(`{"\u41":`+f32("[]", 0, 4)+"}", 4), ErrHeader, "", `\u41`},
	{"escape cut off by the end", file(`{"\u00`, 0), ErrHeader, "", `\u00`},
	{"backslash at the end", file(`{"\`, 0), ErrHeader, "", `\`},
	{"newline in a string", file("{\"a\nb\":"+f32("[]", 0, 4)+"}", 4), ErrHeader, "", "\n"},
	{"NUL in a string", file("{\"a\x00b\":"+f32("[]", 0, 4)+"}", 4), ErrHeader, "", "\x00b"},
	{"unclosed string", file(`{"abc`, 0), ErrHeader, "", "END"},

	{"3 offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,9]}}`, 4), ErrOffsets, "a", "9]"},
	{"1 offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}`, 4), ErrOffsets, "a", "[4]"},
	{"no offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[]}}`, 4), ErrOffsets, "a", "[]"},
	{"end before begin", file(`{"a":`+f32("[1]", 4, 0)+`}`, 4), ErrOffsets, "a", "[4,0]"},
	{"negative offset", file(`{"a":`+f32("[1]", -4, 0)+`}`, 4), ErrOffsets, "a", "-4"},
	{"offset 4.0", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}}`, 4), ErrOffsets, "a", "4.0"},
	{"offset 4e0", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}}`, 4), ErrOffsets, "a", "4e0"},
	{"offset 04", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,04]}}`, 4), ErrOffsets, "a", "04"},
	{"offset 2^63", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775808]}}`, 4),
		ErrOffsets, "a", "9223"},
	{"offset 2^64+4", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551620]}}`, 4),
		ErrOffsets, "a", "1844"},
	{"offset is a string", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,"4"]}}`, 4), ErrHeader, "a", `"4"`},
	{"offsets are an object", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":{}}}`, 4), ErrHeader, "a", `{}}`},

	{"partial overlap", file(`{"a":`+f32("[2]", 0, 8)+`,"b":`+f32("[2]", 4, 12)+`}`, 12), ErrOverlap, "b", "DATA+4"},
	{"identical range", file(`{"a":`+f32("[1]", 0, 4)+`,"b":`+f32("[1]", 0, 4)+`}`, 4), ErrOverlap, "b", "DATA+0"},
	{"empty tensor within another", file(`{"e":`+f32("[0]", 2, 2)+`,"b":`+f32("[1]", 0, 4)+`}`, 4),
		ErrOverlap, "e", "DATA+2"},
	{"hole in the middle", file(`{"a":`+f32("[1]", 0, 4)+`,"b":`+f32("[1]", 5, 9)+`}`, 9), ErrHole, "b", "DATA+5"},
	{"hole at the start", file(`{"a":`+f32("[1]", 4, 8)+`}`, 8), ErrHole, "a", "DATA+4"},
	{"data truncated by 1", file(`{"a":`+f32("[1]", 0, 4)+`}`, 3), ErrTruncated, "a", "[0,4]"},
	{"data missing", file(`{"a":`+f32("[1]", 0, 4)+`}`, 0), ErrTruncated, "a", "[0,4]"},
	{"trailing byte", file(`{"a":`+f32("[1]", 0, 4)+`}`, 5), ErrTrailing, "", "DATA+4"},
	{"data without tensors", file(`{}`, 5), ErrTrailing, "", "DATA+0"},

	{"shape has less than the range", file(`{"a":`+f32("[1]", 0, 8)+`}`, 8), ErrSize, "a", "[0,8]"},
	{"shape has more than the range", file(`{"a":`+f32("[3]", 0, 8)+`}`, 8), ErrSize, "a", "[0,8]"},
	{"scalar without bytes", file(`{"a":`+f32("[]", 0, 0)+`}`, 0), ErrSize, "a", "[0,0]"},
	{"empty tensor with bytes", file(`{"a":`+f32("[0]", 0, 4)+`}`, 4), ErrSize, "a", "[0,4]"},
	{"size wraps to the range", file(`{"a":`+f32("[4611686018427387905]", 0, 4)+`}`, 4), ErrShape, "a", "[4611"},

	{"shape -1", file(`{"a":`+f32("[-1]", 0, 4)+`}`, 4), ErrShape, "a", "-1"},
	{"shape -0", file(`{"a":`+f32("[-0]", 0, 0)+`}`, 0), ErrShape, "a", "-0"},
	{"shape 1.5", file(`{"a":`+f32("[1.5]", 0, 4)+`}`, 4), ErrShape, "a", "1.5"},
	{"shape 2^63", file(`{"a":`+f32("[9223372036854775808]", 0, 4)+`}`, 4), ErrShape, "a", "9223"},
	{"shape 2^63-1", file(`{"a":`+f32("[9223372036854775807]", 0, 4)+`}`, 4), ErrShape, "a", "[9223"},
	{"shape [0,2^62,2^62]", file(`{"a":`+f32("[0,4611686018427387904,4611686018427387904]", 0, 0)+`}`, 0),
		ErrShape, "a", "[0,4611"},
	{"shape [2^32,2^32]", file(`{"a":`+f32("[4294967296,4294967296]", 0, 0)+`}`, 0), ErrShape, "a", "[4294"},
	{"9 dimensions", file(`{"a":`+f32("[1,1,1,1,1,1,1,1,7]", 0, 28)+`}`, 28), ErrShape, "a", "7]"},
	{"1000000 dimensions", file(`{"a":`+f32("["+strings.Repeat("1,", 999999)+"1]", 0, 4)+`}`, 4), ErrShape, "a", ""},
	{"shape is a string", file(`{"a":`+f32(`"1"`, 0, 4)+`}`, 4), ErrHeader, "a", `"1"`},
	{"shape holds a string", file(`{"a":`+f32(`["1"]`, 0, 4)+`}`, 4), ErrHeader, "a", `"1"]`},
	{"shape ends in a comma", file(`{"a":`+f32(`[1,]`, 0, 4)+`}`, 4), ErrHeader, "a", `],"`},
	{"shape unclosed", file(`{"a":`+f32(`[1`, 0, 4)+`}`, 4), ErrHeader, "a", `"data_off`},

	{"F4 of an odd count", file(`{"a":`+dtyped("F4", "[3]", 0, 1)+`}`, 1), ErrDtype, "a", `"F4"`},
	{"F6 in no whole bytes", file(`{"a":`+dtyped("F6_E2M3", "[2]", 0, 1)+`}`, 1), ErrDtype, "a", `"F6`},
	{"unknown dtype", file(`{"a":`+dtyped("Q4_0", "[1]", 0, 4)+`}`, 4), ErrDtype, "a", `"Q4_0"`},
	{"lower-case dtype", file(`{"a":`+dtyped("f32", "[1]", 0, 4)+`}`, 4), ErrDtype, "a", `"f32"`},
	{"dtype with a space", file(`{"a":`+dtyped("F32 ", "[1]", 0, 4)+`}`, 4), ErrDtype, "a", `"F32 "`},
	{"empty dtype", file(`{"a":`+dtyped("", "[1]", 0, 4)+`}`, 4), ErrDtype, "a", `"",`},
	{"dtype is a number", file(`{"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}}`, 4), ErrHeader, "a", `32,`},

	{"zip", []byte("PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00archive/data.pkl"), ErrNotModel, "", ""},
	{"pickle", []byte("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9"), ErrNotModel, "", ""},
	{"gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abcdefgh"), ErrNotModel, "", ""},
	{"HTML", []byte("<!DOCTYPE html><title>404</title>"), ErrNotModel, "", ""},
	{"HTML behind empty lines", []byte("\n\n\r\n<!Doctype HTML><title>404</title>"), ErrNotModel, "", ""},
	{"HTML in capitals", []byte("<HTML><TITLE>404</TITLE></HTML>"), ErrNotModel, "", ""},
	{"XML", []byte("<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code>"), ErrNotModel, "", ""},
	{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:"), ErrNotModel, "", ""},
	{"GGUF", []byte("GGUF\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"), ErrNotModel, "", ""},
	{"zeros", make([]byte, 4096), ErrNotModel, "", ""},
}

func manyPairs(n int) string {
	var b strings.Builder
	b.WriteString(`{"__metadata__":{`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%d":""`, i)
	}
	return b.String() + "}}"
}

// offset finds where the error of f must be.
func (f badFile) offset(t *testing.T) int64 {
	data := int64(8)
	if len(f.data) >= 8 {
		data += int64(binary.LittleEndian.Uint64(f.data))
	}
	switch {
	case f.at == "":
		return 0
	case f.at == "END":
		return int64(len(f.data))
	case strings.HasPrefix(f.at, "DATA+"):
		return data + int64(f.at[5]-'0')
	case strings.HasSuffix(f.at, "}\x00"): // the last brace of the header
		return data - 2
	case f.at == "\x00\x00\x00\x00":
		return data
	}
	i := bytes.Index(f.data[8:], []byte(f.at))
	if f.name == "200000 nested arrays in a shape" {
		i++ // the first bracket opens the shape
	}
	require.GreaterOrEqual(t, i, 0, "the test's own mark is not in its file")
	return 8 + int64(i)
}

func TestReadRefusesBadFilesSayingWhatAndWhere(t *testing.T) {
	for _, bad := range badFiles {
		t.Run(bad.name, func(t *testing.T) {
			f, err := Read(bytes.NewReader(bad.data), int64(len(bad.data)))
			require.Nil(t, f)
			require.ErrorIs(t, err, bad.err)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, bad.key, e.Key, err)
			if bad.name != "1000000 dimensions" {
				require.Equal(t, bad.offset(t), e.Offset, err)
			}
			require.NotEmpty(t, e.Detail)
			require.Less(t, len(err.Error()), 700)
			require.Contains(t, err.Error(), fmt.Sprintf("at byte %d", e.Offset))
		})
	}
}

func TestReadRefusesAHeaderOverTheLimitInALargeSparseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	w, err := os.Create(path)
	require.NoError(t, err)
	defer w.Close()
	_, err = w.Write(lengthOnly(100_000_001, `{"a`))
	require.NoError(t, err)
	require.NoError(t, w.Truncate(200_000_000))

	allocated, _ := measure(func() { _, err = Read(w, 200_000_000) })
	require.ErrorIs(t, err, ErrHeaderTooLarge)
	require.Less(t, allocated, uint64(64<<10))
}

func TestReadAcceptsWhatTheFormatAllows(t *testing.T) {
	for _, c := range []struct {
		name   string
		data   []byte
		expect []Tensor // Offset from the end of the header
	}{
		{"no tensors", file("{}", 0), []Tensor{}},
		{"scalar", file(`{"a":`+f32("[]", 0, 4)+`}`, 4), []Tensor{{"a", "F32", []int{}, 0, 4}}},
		{"no elements", file(`{"a":`+f32("[3,0]", 0, 0)+`}`, 0), []Tensor{{"a", "F32", []int{3, 0}, 0, 0}}},
		{"empty tensors between others", file(`{"d":`+f32("[0]", 4, 4)+`,"c":`+f32("[0]", 4, 4)+`,"b":`+f32("[]", 0, 4)+
			`,"a":`+f32("[0]", 0, 0)+`}`, 4), []Tensor{{"a", "F32", []int{0}, 0, 0}, {"b", "F32", []int{}, 0, 4},
			{"c", "F32", []int{0}, 4, 0}, {"d", "F32", []int{0}, 4, 0}}},
		{"white space", file("{ \"a\" : { \"dtype\"\t:\r\n\"F32\" , \"shape\" : [ 1 , 1 ] , \"data_offsets\":[ 0 , 4 ] } } \n", 4),
			[]Tensor{{"a", "F32", []int{1, 1}, 0, 4}}},
		{"fields in another order", file(`{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}`, 4),
			[]Tensor{{"a", "F32", []int{1}, 0, 4}}},
		{"tensors in another order", file(`{"b":`+f32("[]", 4, 8)+`,"a":`+f32("[]", 0, 4)+`}`, 8),
			[]Tensor{{"a", "F32", []int{}, 0, 4}, {"b", "F32", []int{}, 4, 4}}},
		{"escapes", file(`{"\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00":{"d\u0074ype":"\u004632","shape":[],"data_offsets":[0,4]}}`, 4),
			[]Tensor{{"\"\\/\b\f\n\r\té😀", "F32", []int{}, 0, 4}}},
		{"empty name", file(`{"":`+f32("[]", 0, 4)+`}`, 4), []Tensor{{"", "F32", []int{}, 0, 4}}},
		{"8 dimensions", file(`{"a":`+f32("[1,1,1,1,1,1,1,2]", 0, 8)+`}`, 8),
			[]Tensor{{"a", "F32", []int{1, 1, 1, 1, 1, 1, 1, 2}, 0, 8}}},
		{"two F4 in a byte", file(`{"a":`+dtyped("F4", "[2]", 0, 1)+`}`, 1), []Tensor{{"a", "F4", []int{2}, 0, 1}}},
		{"four F6 in three bytes", file(`{"a":`+dtyped("F6_E3M2", "[4]", 0, 3)+`}`, 3),
			[]Tensor{{"a", "F6_E3M2", []int{4}, 0, 3}}},
		{"BOOL is not judged", append(file(`{"a":`+dtyped("BOOL", "[1]", 0, 1)+`}`, 0), 2),
			[]Tensor{{"a", "BOOL", []int{1}, 0, 1}}},
		{"0 with large dimensions that fit", file(`{"a":`+f32("[0,4294967296]", 0, 0)+`}`, 0),
			[]Tensor{{"a", "F32", []int{0, 4294967296}, 0, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Read(bytes.NewReader(c.data), int64(len(c.data)))
			require.NoError(t, err)
			start := 8 + int64(binary.LittleEndian.Uint64(c.data))
			for i := range c.expect {
				c.expect[i].Offset += start
			}
			require.Equal(t, c.expect, f.Tensors())
			for _, want := range c.expect {
				got, ok := f.Lookup(want.Name)
				require.True(t, ok)
				require.Equal(t, want, got)
			}
			_, ok := f.Lookup("absent")
			require.False(t, ok)
		})
	}
}

func TestEveryDtypeOfTheReferenceHasItsSize(t *testing.T) {
	// Bytes of 8 elements.
	sizes := map[string]int{"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8,
		"F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
		"I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
	require.Len(t, dtypes, len(sizes))
	for dtype, n := range sizes {
		data := file(`{"a":`+dtyped(dtype, "[8]", 0, n)+`}`, n)
		_, err := Read(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err, dtype)
	}
}

func TestMetadataIsNilWithoutTheKey(t *testing.T) {
	for _, c := range []struct {
		header string
		want   map[string]string
	}{
		{`{}`, nil},
		{`{"__metadata__":{}}`, map[string]string{}},
		{`{"__metadata__":{"format":"pt","":"\u0000"}}`, map[string]string{"format": "pt", "": "\x00"}},
		{manyPairs(2), map[string]string{"0": "", "1": ""}},
	} {
		data := file(c.header, 0)
		f, err := Read(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		require.Equal(t, c.want, f.Metadata())
	}
}

// small is a valid file of a few tensors and metadata.
func small(t testing.TB) []byte {
	var b bytes.Buffer
	require.NoError(t, Write(&b, map[string]string{"format": "pt"}, []Entry{
		Float32("w", []int{2, 3}, []float32{1, 2, 3, 4, 5, 6}),
		Float32("é\n", nil, []float32{7}),
		{Name: "h", Dtype: "BF16", Shape: []int{3}, Data: func(w io.Writer) error {
			_, err := w.Write([]byte{1, 2, 3, 4, 5, 6})
			return err
		}},
	}))
	return b.Bytes()
}

func TestEveryTruncationIsRefused(t *testing.T) {
	data := small(t)
	for n := range data {
		_, err := Read(bytes.NewReader(data[:n]), int64(n))
		require.ErrorIs(t, err, ErrTruncated, "%d of %d bytes", n, len(data))
	}
	_, err := Read(bytes.NewReader(append(data, 0)), int64(len(data)+1))
	require.ErrorIs(t, err, ErrTrailing)
}

func TestEveryCorruptByteOfTheHeaderIsAnErrorOrAnotherValidFile(t *testing.T) {
	data := small(t)
	n := 8 + int(binary.LittleEndian.Uint64(data))
	for i := range n {
		for v := range 256 {
			b := bytes.Clone(data)
			b[i] = byte(v)
			f, err := Read(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				requireSound(t, f, b)
				continue
			}
			var e *Error
			require.ErrorAs(t, err, &e)
			require.LessOrEqual(t, e.Offset, int64(len(b)))
		}
	}
}

// requireSound checks what Read promises: the tensors fill the file.
func requireSound(t require.TestingT, f *File, data []byte) {
	end := 8 + int64(binary.LittleEndian.Uint64(data))
	for _, x := range f.Tensors() {
		require.Equal(t, end, x.Offset)
		require.GreaterOrEqual(t, x.Size, int64(0))
		end += x.Size
	}
	require.Equal(t, int64(len(data)), end)
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

// measure returns the bytes that f allocated: the least of a few runs, since
// others may allocate meanwhile.
func measure(f func()) (bytes, mallocs uint64) {
	bytes = 1 << 63
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n < bytes {
			bytes, mallocs = n, after.Mallocs-before.Mallocs
		}
	}
	return bytes, mallocs
}

// requireBounded reads the file and checks what it allocated.
func requireBounded(t testing.TB, r io.ReaderAt, size int64) (*File, error) {
	var f *File
	var err error
	c := counted{r: r}
	allocated, _ := measure(func() {
		c.read = 0
		f, err = Read(&c, size)
	})
	require.LessOrEqual(t, allocated, 64<<10+8*c.read, "allocated, having read %d bytes", c.read)
	return f, err
}

func TestReadAllocatesInProportionToWhatItReads(t *testing.T) {
	// The densest valid headers: many small tensors, many small metadata.
	tensors := func(n int, shape string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%x":{"dtype":"U8","shape":%s,"data_offsets":[0,0]}`, i, shape)
		}
		return "{" + b.String()[1:] + "}"
	}
	escaped := strings.Repeat(`\u0061`, 5000)
	for _, c := range []struct {
		name   string
		header string
		err    error
	}{
		{"tensors", tensors(20000, "[0]"), nil},
		{"dimensions", tensors(20000, "[0,0,0,0,0,0,0,0]"), nil},
		{"metadata", manyPairs(65536), nil},
		{"metadata and a bad end", manyPairs(65536)[:400000] + "!", ErrHeader},
		{"a long name", `{"` + strings.Repeat("a", 1<<20) + `":` + dtyped("U8", "[0]", 0, 0) + "}", nil},
		{"a long escaped name", `{"` + escaped + `":` + dtyped("U8", "[0]", 0, 0) + "}", nil},
		{"a long name in an error", `{"` + strings.Repeat("a", 1<<20) + `":` + dtyped("X", "[0]", 0, 0) + "}", ErrDtype},
		{"a long unknown field", `{"a":{"` + strings.Repeat("é", 1<<19) + `":1}}`, ErrUnknownField},
		{"a long duplicate", `{"__metadata__":{"` + escaped + `":"","` + escaped + `":""}}`, ErrDuplicate},
		{"quotes", "{" + strings.Repeat(`"`, 1<<20), ErrHeader},
		{"braces", strings.Repeat(`{`, 1<<20), ErrHeader},
		{"spaces", "{}" + strings.Repeat(` `, 1<<20), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := file(c.header, 0)
			_, err := requireBounded(t, bytes.NewReader(data), int64(len(data)))
			require.ErrorIs(t, err, c.err)
		})
	}
	for _, bad := range badFiles {
		requireBounded(t, bytes.NewReader(bad.data), int64(len(bad.data)))
	}
}

func TestAFileThatShrinksIsAnErrorAndBelievedInNothing(t *testing.T) {
	data := small(t)
	for n := range data {
		_, err := requireBounded(t, bytes.NewReader(data[:n]), int64(len(data)))
		if err != nil {
			require.ErrorIs(t, err, ErrChanged, "%d of %d bytes", n, len(data))
		} else {
			require.GreaterOrEqual(t, n, len(data)-34, "the header is not all there")
		}
	}
	// The header is said to be large and the file to hold it.
	huge := lengthOnly(maxHeader, "{")
	_, err := requireBounded(t, bytes.NewReader(append(huge, make([]byte, 100)...)), 1<<40)
	require.ErrorIs(t, err, ErrChanged)

	f, err := Read(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	f.r = bytes.NewReader(data[:len(data)-20])
	w, _ := f.Lookup("w")
	err = f.ReadFloat32(make([]float32, 6), w)
	require.ErrorIs(t, err, ErrChanged)
	require.ErrorContains(t, err, `"w"`)
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestTheReadersOwnErrorIsWrapped(t *testing.T) {
	broken := errors.New("broken disk")
	_, err := Read(failing{broken}, 1000)
	require.ErrorIs(t, err, broken)
	_, err = Read(failing{nil}, 1000) // against the contract of io.ReaderAt
	require.ErrorIs(t, err, ErrChanged)
}

// eager returns io.EOF with the last bytes, as io.ReaderAt allows.
type eager struct{ r io.ReaderAt }

func (e eager) ReadAt(b []byte, off int64) (int, error) {
	n, _ := e.r.ReadAt(b, off)
	return n, io.EOF
}

func TestEOFWithTheLastBytesIsNoError(t *testing.T) {
	data := small(t)
	f, err := Read(eager{bytes.NewReader(data)}, int64(len(data)))
	require.NoError(t, err)
	w, _ := f.Lookup("w")
	got := make([]float32, 6)
	require.NoError(t, f.ReadFloat32(got, w))
	require.Equal(t, []float32{1, 2, 3, 4, 5, 6}, got)
}

func TestNegativeSizeIsTruncated(t *testing.T) {
	_, err := Read(bytes.NewReader(nil), -1)
	require.ErrorIs(t, err, ErrTruncated)
}
