package data

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
)

// A token file, as llm.c writes it, is a header of 256 little-endian int32
// (magic, version, number of tokens, then zeros) and the tokens, little-endian
// and unsigned.
//
//	magic     version  bytes a token
//	20240520  1        2
//	20240801  7        4
const (
	tokenHeader = 256 * 4

	magic16, version16 = 20240520, 1
	magic32, version32 = 20240801, 7
)

// FormatError says what is wrong with a token file, and where.
type FormatError struct {
	Offset  int64  // byte of the file
	Field   string // "magic", "version", "count", "padding", "size" or "token 12"
	Problem string // what was found and what was expected
}

// Error says what is wrong, in which field and at which byte.
func (e *FormatError) Error() string {
	return fmt.Sprintf("token file: %s at byte %d: %s", e.Field, e.Offset, e.Problem)
}

// ReadTokens returns the tokens of a token file of llm.c, of 16 or of 32 bits
// a token. The file must be exactly what its header says, and every token less
// than vocab; otherwise the error is a *FormatError with the file's name
// around it.
func ReadTokens(path string, vocab int) ([]int32, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tokens, err := parseTokens(f, size, vocab)
	if err != nil {
		return nil, fmt.Errorf("data: %s: %w", path, err)
	}
	return tokens, nil
}

func parseTokens(r io.ReaderAt, size int64, vocab int) ([]int32, error) {
	if vocab < 1 {
		panic("data: ReadTokens: vocab is less than 1")
	}
	bad := func(off int64, field, format string, args ...any) ([]int32, error) {
		return nil, &FormatError{off, field, fmt.Sprintf(format, args...)}
	}
	n, width, err := tokenFile(r, size)
	if err != nil {
		return nil, err
	}
	tokens := make([]int32, 0, n) // n·width bytes are there
	block := make([]byte, 64<<10)
	for off := int64(tokenHeader); off < size; {
		b := block[:min(int64(len(block)), size-off)]
		if err := readAt(r, b, off); err != nil {
			return nil, err
		}
		for i := 0; i < len(b); i += int(width) {
			var id uint32
			if width == 2 {
				id = uint32(binary.LittleEndian.Uint16(b[i:]))
			} else {
				id = binary.LittleEndian.Uint32(b[i:])
			}
			if uint64(id) >= uint64(vocab) || id > math.MaxInt32 {
				return bad(off+int64(i), fmt.Sprintf("token %d", len(tokens)), "%d, want less than the vocabulary of %d", id, vocab)
			}
			tokens = append(tokens, int32(id))
		}
		off += int64(len(b))
	}
	return tokens, nil
}

// tokenFile reads the header of a token file of so many bytes.
func tokenFile(r io.ReaderAt, size int64) (n, width int64, err error) {
	bad := func(off int64, field, format string, args ...any) (int64, int64, error) {
		return 0, 0, &FormatError{off, field, fmt.Sprintf(format, args...)}
	}
	if size < tokenHeader {
		return bad(size, "size", "the file ends within its header of %d bytes", tokenHeader)
	}
	var h [tokenHeader]byte
	if err := readAt(r, h[:], 0); err != nil {
		return 0, 0, err
	}
	field := func(i int) int32 { return int32(binary.LittleEndian.Uint32(h[4*i:])) }
	width = 2
	version := int32(version16)
	switch field(0) {
	case magic16:
	case magic32:
		width, version = 4, version32
	default:
		return bad(0, "magic", "%d, want %d (16 bits a token) or %d (32 bits)", field(0), magic16, magic32)
	}
	if field(1) != version {
		return bad(4, "version", "%d, want %d", field(1), version)
	}
	n = int64(field(2))
	if n < 1 {
		return bad(8, "count", "%d tokens, want 1 or more", n)
	}
	for i := 3; i < 256; i++ {
		if field(i) != 0 {
			return bad(int64(4*i), "padding", "%d, want 0", field(i))
		}
	}
	if want := tokenHeader + n*width; size != want {
		return bad(min(size, want), "size", "the file has %d bytes, want %d for %d tokens of %d bytes", size, want, n, width)
	}
	return n, width, nil
}

// WriteTokens writes a token file, of 16 bits a token if vocab allows and of
// 32 otherwise. It is written aside, synced and renamed, so that path is
// either what it was or the whole new file. A token out of range, and more of
// them than the format can count, is an error before anything is written.
func WriteTokens(path string, tokens []int32, vocab int) error {
	if len(tokens) < 1 || len(tokens) > math.MaxInt32 {
		return fmt.Errorf("data: %s: %d tokens, want 1 to %d", path, len(tokens), math.MaxInt32)
	}
	for i, id := range tokens {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("data: %s: token %d is %d, want 0 to %d", path, i, id, vocab-1)
		}
	}
	return replace(path, func(w io.Writer) error { return writeTokens(w, tokens, vocab) })
}

// writeTokens writes the bytes of a token file.
func writeTokens(to io.Writer, tokens []int32, vocab int) error {
	w := bufio.NewWriterSize(to, 64<<10)
	var h [tokenHeader]byte
	wide := vocab > 1<<16
	fields := [3]uint32{magic16, version16, uint32(len(tokens))}
	if wide {
		fields[0], fields[1] = magic32, version32
	}
	for i, v := range fields {
		binary.LittleEndian.PutUint32(h[4*i:], v)
	}
	w.Write(h[:]) // a bufio.Writer keeps its first error for Flush
	for _, id := range tokens {
		b := w.AvailableBuffer()
		if wide {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		} else {
			b = binary.LittleEndian.AppendUint16(b, uint16(id))
		}
		w.Write(b)
	}
	return w.Flush()
}

// replace writes a file aside, syncs it and renames it to path.
func replace(path string, write func(io.Writer) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("data: writing %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone, unless something failed
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil && runtime.GOOS != "windows" {
		return err
	}
	if err := fsync(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// fsync is Sync, but in tests.
var fsync = (*os.File).Sync

// syncDir makes a rename in dir last. Windows cannot sync a directory.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return fsync(d)
}
