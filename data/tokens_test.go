package data

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// file returns a token file as the format says, written independently.
func file(header []int32, tokens any) []byte {
	var b bytes.Buffer
	h := make([]int32, 256)
	copy(h, header)
	for _, v := range []any{h, tokens} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func TestReadTokensOfLLMC(t *testing.T) {
	for name, b := range map[string][]byte{
		"16 bits": file([]int32{20240520, 1, 3}, []uint16{7, 0, 50256}),
		"32 bits": file([]int32{20240801, 7, 3}, []uint32{7, 0, 50256}),
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "x.bin"), string(b))
			got, err := ReadTokens(path, 50257)
			require.NoError(t, err)
			require.Equal(t, []int32{7, 0, 50256}, got)

			// What is written is the same file.
			vocab := map[string]int{"16 bits": 50257, "32 bits": 128256}[name]
			require.NoError(t, WriteTokens(path, got, vocab))
			again, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, b, again)
		})
	}
}

func TestTokenFilesRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		vocab := rapid.SampledFrom([]int{1, 256, 1 << 16, 1<<16 + 1, 128256, math.MaxInt32}).Draw(t, "vocab")
		n := rapid.SampledFrom([]int{1, 2, 100, 32<<10 - 1, 32<<10 + 1}).Draw(t, "n")
		tokens := make([]int32, n)
		x := rapid.Uint64().Draw(t, "tokens")
		for i := range tokens {
			x = mix(x)
			tokens[i] = int32(x % uint64(vocab))
		}
		tokens[n-1] = int32(vocab - 1)
		path := filepath.Join(dir, "tokens.bin")
		require.NoError(t, WriteTokens(path, tokens, vocab))
		got, err := ReadTokens(path, vocab)
		require.NoError(t, err)
		require.Equal(t, tokens, got)
	})
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing is left beside the file")
}

func TestReadTokensRefuses(t *testing.T) {
	good := file([]int32{20240520, 1, 3}, []uint16{7, 8, 9})
	wide := file([]int32{20240801, 7, 2}, []uint32{7, 8})
	header := func(h ...int32) []byte { return file(h, []uint16{7, 8, 9}) }
	padded := make([]int32, 256)
	copy(padded, []int32{20240520, 1, 3})
	padded[255] = 1
	for name, c := range map[string]struct {
		b       []byte
		field   string
		offset  int64
		problem string
	}{
		"empty":                      {nil, "size", 0, "ends within its header of 1024 bytes"},
		"cut within the header":      {good[:1023], "size", 1023, "ends within its header"},
		"only a header":              {good[:1024], "size", 1024, "the file has 1024 bytes, want 1030 for 3 tokens of 2"},
		"one byte short":             {good[:len(good)-1], "size", 1029, "the file has 1029 bytes, want 1030"},
		"one byte more":              {append(bytes.Clone(good), 0), "size", 1030, "the file has 1031 bytes, want 1030"},
		"32 bits, cut":               {wide[:len(wide)-2], "size", 1030, "want 1032 for 2 tokens of 4"},
		"text":                       {bytes.Repeat([]byte("<html>"), 200), "magic", 0, "want 20240520 (16 bits a token) or 20240801"},
		"big-endian":                 {header(0x08d83501), "magic", 0, "want 20240520"},
		"version 0":                  {header(20240520, 0, 3), "version", 4, "0, want 1"},
		"version 7 of 16 bits":       {header(20240520, 7, 3), "version", 4, "7, want 1"},
		"version 1 of 32 bits":       {header(20240801, 1, 3), "version", 4, "1, want 7"},
		"no tokens":                  {file([]int32{20240520, 1, 0}, []uint16{}), "count", 8, "0 tokens"},
		"negative count":             {header(20240520, 1, -1), "count", 8, "-1 tokens"},
		"a count beyond the file":    {header(20240520, 1, math.MaxInt32), "size", 1030, "want 4294968318"},
		"something in the padding":   {header(padded...), "padding", 1020, "1, want 0"},
		"a token out of range":       {file([]int32{20240520, 1, 3}, []uint16{7, 256, 9}), "token 1", 1026, "256, want less than the vocabulary of 256"},
		"a 32-bit token too large":   {file([]int32{20240801, 7, 2}, []uint32{7, 1 << 31}), "token 1", 1028, "2147483648, want less"},
		"a 32-bit token out of 2³¹":  {file([]int32{20240801, 7, 1}, []uint32{math.MaxUint32}), "token 0", 1024, "4294967295, want less"},
		"bad tokens after one block": {file([]int32{20240520, 1, 40000}, append(make([]uint16, 39999), 999)), "token 39999", 1024 + 2*39999, "999"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "x.bin"), string(c.b))
			_, err := ReadTokens(path, 256)
			var bad *FormatError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.field, bad.Field)
			require.Equal(t, c.offset, bad.Offset)
			require.Contains(t, bad.Problem, c.problem)
			require.ErrorContains(t, err, path)
		})
	}
	_, err := ReadTokens(filepath.Join(t.TempDir(), "absent"), 256)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = parseTokens(bytes.NewReader(wide), int64(len(wide)), math.MaxInt)
	require.NoError(t, err)
}

func TestAVocabularyBeyond2To31LetsNoTokenWrap(t *testing.T) {
	b := file([]int32{20240801, 7, 1}, []uint32{1 << 31})
	_, err := parseTokens(bytes.NewReader(b), int64(len(b)), math.MaxInt)
	require.ErrorContains(t, err, "token 0")
}

func TestAFileThatShrinksWhileItIsReadIsAnError(t *testing.T) {
	b := file([]int32{20240520, 1, 3}, []uint16{7, 8, 9})
	for _, n := range []int{0, 100, 1024, len(b) - 1} {
		_, err := parseTokens(bytes.NewReader(b[:n]), int64(len(b)), 256)
		require.ErrorContains(t, err, "the file shrank while it was read")
	}
}

func TestWriteTokensThatFailsLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.bin")
	require.NoError(t, WriteTokens(path, []int32{1, 2}, 256))
	require.ErrorContains(t, WriteTokens(path, []int32{1, 256}, 256), "x.bin: token 1 is 256, want 0 to 255")
	require.ErrorContains(t, WriteTokens(path, []int32{-1}, 256), "token 0 is -1")
	require.ErrorContains(t, WriteTokens(path, nil, 256), "0 tokens")
	got, err := ReadTokens(path, 256)
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2}, got)

	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub", "x.bin"), 0o777)) // cannot be renamed over
	err = WriteTokens(filepath.Join(dir, "sub", "x.bin"), []int32{1}, 256)
	require.ErrorContains(t, err, "data: writing ")
	left, err := os.ReadDir(filepath.Join(dir, "sub"))
	require.NoError(t, err)
	require.Len(t, left, 1, "the half-made file is removed")
	require.ErrorIs(t, WriteTokens(filepath.Join(dir, "absent", "x.bin"), []int32{1}, 256), fs.ErrNotExist)
}

// FuzzReadTokens: whatever the bytes, there is a FormatError, or the file is
// exactly what the format says of the tokens.
func FuzzReadTokens(f *testing.F) {
	good := file([]int32{20240520, 1, 3}, []uint16{7, 8, 9})
	f.Add(good, 256)
	f.Add(good[:1027], 256)
	f.Add(file([]int32{20240801, 7, 2}, []uint32{7, 1 << 31}), 1<<17)
	f.Add(file([]int32{20240520, 1, -1}, []uint16{}), 1)
	f.Add([]byte{}, 1)
	f.Fuzz(checkTokens)
}

// FuzzReadTokensFields does the same with a header made of fields.
func FuzzReadTokensFields(f *testing.F) {
	f.Add(int32(20240520), int32(1), int32(2), uint8(3), int32(0), []byte{7, 0, 8, 0}, 256)
	f.Add(int32(20240801), int32(7), int32(1), uint8(255), int32(0), []byte{7, 0, 1, 0}, 1<<17)
	f.Add(int32(20240520), int32(1), int32(-1), uint8(9), int32(1), []byte{}, 1)
	f.Fuzz(func(t *testing.T, magic, version, count int32, at uint8, pad int32, body []byte, vocab int) {
		h := make([]int32, 256)
		h[at] = pad
		copy(h, []int32{magic, version, count})
		checkTokens(t, append(file(h, []uint16{}), body...), vocab)
	})
}

func checkTokens(t *testing.T, b []byte, vocab int) {
	if vocab < 1 {
		return
	}
	tokens, err := parseTokens(bytes.NewReader(b), int64(len(b)), vocab)
	if err != nil {
		var bad *FormatError
		if !errors.As(err, &bad) {
			t.Fatalf("not a FormatError: %v", err)
		}
		if bad.Offset < 0 || bad.Offset > int64(len(b)) {
			t.Fatalf("offset %d of a file of %d bytes", bad.Offset, len(b))
		}
		return
	}
	var again []byte
	if binary.LittleEndian.Uint32(b) == 20240801 {
		wide := make([]uint32, len(tokens))
		for i, id := range tokens {
			wide[i] = uint32(id)
		}
		again = file([]int32{20240801, 7, int32(len(tokens))}, wide)
	} else {
		narrow := make([]uint16, len(tokens))
		for i, id := range tokens {
			narrow[i] = uint16(id)
		}
		again = file([]int32{20240520, 1, int32(len(tokens))}, narrow)
	}
	if !bytes.Equal(b, again) {
		t.Fatal("the tokens are not those of the file")
	}
}

// The new file is on the disk before it has its name, and the name before
// WriteTokens returns.
func TestWriteTokensSyncsTheFileThenItsName(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a directory cannot be synced")
	}
	path := filepath.Join(t.TempDir(), "tokens.bin")
	require.NoError(t, WriteTokens(path, []int32{1}, 9))
	old := fsync
	defer func() { fsync = old }()
	var synced []string
	fsync = func(f *os.File) error {
		info, err := f.Stat()
		require.NoError(t, err)
		there, err := ReadTokens(path, 9)
		require.NoError(t, err)
		synced = append(synced, fmt.Sprint(info.IsDir(), " while there is ", there))
		if !info.IsDir() {
			require.EqualValues(t, 1024+2*2, info.Size(), "synced before all was written")
		}
		return old(f)
	}
	require.NoError(t, WriteTokens(path, []int32{2, 3}, 9))
	require.Equal(t, []string{"false while there is [1]", "true while there is [2 3]"}, synced)

	broken := errors.New("broken disk")
	fsync = func(*os.File) error { return broken }
	require.ErrorIs(t, WriteTokens(path, []int32{4}, 9), broken)
	there, err := ReadTokens(path, 9)
	require.NoError(t, err)
	require.Equal(t, []int32{2, 3}, there)
}
