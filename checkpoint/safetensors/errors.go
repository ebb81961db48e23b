package safetensors

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

// What can be wrong with a file. Every error of this package about a file is
// an *Error that wraps one of these, or the error of the reader or writer.
var (
	ErrTruncated      = errors.New("file is truncated")
	ErrTrailing       = errors.New("bytes after the last tensor")
	ErrHeader         = errors.New("malformed header")
	ErrUnknownField   = fmt.Errorf("%w: unknown field", ErrHeader)
	ErrHeaderTooLarge = errors.New("header is too large")
	ErrDuplicate      = errors.New("duplicate key")
	ErrDtype          = errors.New("bad dtype")
	ErrShape          = errors.New("bad shape")
	ErrOffsets        = errors.New("bad data_offsets")
	ErrSize           = errors.New("size does not match shape and dtype")
	ErrOverlap        = errors.New("tensors overlap")
	ErrHole           = errors.New("hole between tensors")
	ErrRange          = errors.New("value out of the dtype's range") // of one to write
	ErrChanged        = rawfile.ErrChanged                           // the file shrank under the reader
	ErrNotModel       = rawfile.ErrNotModel                          // recognisably something else
)

// Error says what is wrong with a file, and where.
type Error struct {
	Err    error  // one of the Err values of this package, or an I/O error
	Key    string // the tensor or header key, shortened if it is very long; may be empty
	Offset int64  // from the start of the file
	Detail string // what was found and what was expected
}

// Error says what is wrong, at which key and byte, and what was expected.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "safetensors: %v", e.Err)
	if e.Key != "" {
		fmt.Fprintf(&b, ": %q", e.Key)
	}
	fmt.Fprintf(&b, " at byte %d", e.Offset)
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

func fail(err error, key string, offset int64, format string, args ...any) error {
	return &Error{err, short(key), offset, fmt.Sprintf(format, args...)}
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
