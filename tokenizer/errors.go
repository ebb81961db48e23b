package tokenizer

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// What can be wrong with a tokenizer that is read or made. Every such error is
// an *Error that wraps one of these, or the error of the reader.
var (
	ErrTruncated   = errors.New("file is truncated")
	ErrTooLarge    = errors.New("file is too large")
	ErrFormat      = errors.New("malformed file")
	ErrVocab       = errors.New("inconsistent vocabulary")
	ErrUnsupported = errors.New("unsupported component")
)

// Error says what is wrong with a tokenizer, and where.
type Error struct {
	Format string // "tokenizer.json", "tokenizer.model", "tokenizer.bin" or "options"
	Err    error  // one of the Err values of this package, or an I/O error
	Offset int64  // from the start of the file; -1 where there is no one place
	Detail string // what was found and what was expected
}

// Error says what is wrong, and where.
func (e *Error) Error() string {
	s := fmt.Sprintf("tokenizer: %s: %v", e.Format, e.Err)
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at byte %d", e.Offset)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// fail is an error of no one place and, until in sets it, of no format.
func fail(err error, format string, args ...any) error {
	return &Error{Err: err, Offset: -1, Detail: fmt.Sprintf(format, args...)}
}

// in sets the format of an error that has none yet.
func in(format string, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Format == "" {
		e.Format = format
	}
	return err
}

// short cuts a string of an untrusted file to what fits into a message.
func short(s string) string {
	const most = 96
	if len(s) <= most {
		return s
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
