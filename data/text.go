package data

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// MaxText is the most that ReadText reads, in bytes: a larger corpus belongs
// into token files.
const MaxText = 4 << 30

// ReadText returns the text of a file, or of all text files of a directory
// and those below it, in the order of their names, directory by directory.
//
// Text is what has no NUL byte and no more than a tenth of its bytes outside
// valid UTF-8, so Latin-1 passes; its bytes are returned as they are. Of a
// directory, other files are left out, and so are empty ones, names that begin
// with a dot, devices, and links that lead anywhere but to a file. Where a
// file does not end a line, a newline is added between it and the next one.
//
// It is an error, which names the file, if path or anything below it cannot
// be read, is a device or a FIFO (path itself; nothing waits for one), if
// there is no text, or more than MaxText of it.
func ReadText(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data: reading a corpus: %w", err)
	}
	if !info.IsDir() {
		text, err := readFile(path, MaxText)
		if err != nil {
			return nil, err
		}
		if len(text) == 0 {
			return nil, fmt.Errorf("data: %s is empty", path)
		}
		if why := notText(text); why != "" {
			return nil, fmt.Errorf("data: %s is not text: %s", path, why)
		}
		return text, nil
	}
	return readTree(path, MaxText)
}

func readTree(root string, limit int64) ([]byte, error) {
	dir, err := filepath.EvalSymlinks(root) // WalkDir follows no link, its root included
	if err != nil {
		return nil, fmt.Errorf("data: reading a corpus: %w", err)
	}
	var text []byte
	files, left := 0, 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("data: reading a corpus: %w", err)
		case path == dir:
			return nil
		case strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			left++
			return nil
		case d.IsDir():
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() {
				left++
				return nil
			}
		} else if !d.Type().IsRegular() {
			left++
			return nil
		}
		one, err := readFile(path, limit-int64(len(text)))
		if err != nil {
			return err
		}
		if len(one) == 0 || notText(one) != "" {
			left++
			return nil
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		text = append(text, one...)
		files++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if files == 0 {
		return nil, fmt.Errorf("data: %s holds no text file (%d left out: empty, hidden, not text or not regular)", root, left)
	}
	return text, nil
}

// readFile returns the bytes of a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("data: %s: %d bytes are too much: at most %d bytes of text are read in all", path, size, int64(MaxText))
	}
	text := make([]byte, size)
	if err := readAt(f, text, 0); err != nil {
		return nil, fmt.Errorf("data: %s: %w", path, err)
	}
	return text, nil
}

// openRegular opens a file that has a size: of anything else, opening or
// reading could wait forever.
func openRegular(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, fmt.Errorf("data: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("data: %s is %s, not a file", path, kind(info.Mode()))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("data: %w", err)
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(info, opened) {
		err = fmt.Errorf("%s was replaced while it was opened", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("data: %w", err)
	}
	return f, opened.Size(), nil
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "something special (" + m.String() + ")"
}

// readAt fills p from an offset; a file that ends before was cut while it was
// read, since its size was looked at first.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("the file shrank while it was read: it ends at byte %d, %d more were expected",
			off+int64(n), len(p)-n)
	}
	return fmt.Errorf("reading at byte %d: %w", off+int64(n), err)
}

// notText returns why b is not text, or "".
func notText(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return fmt.Sprintf("it has a NUL byte at offset %d", i)
	}
	if utf8.Valid(b) {
		return ""
	}
	bad := 0
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 {
			bad++
		}
		rest = rest[n:]
	}
	if bad > len(b)/10 {
		return fmt.Sprintf("%d of its %d bytes are not UTF-8", bad, len(b))
	}
	return ""
}
