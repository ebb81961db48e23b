package tokenizer

import (
	"errors"
	"io"
)

const (
	maxFile = 1 << 28 // bytes of a file
	maxID   = 1 << 24 // a token's id is below; an embedding row each
)

// readAll reads a whole file, in steps, so that a size that is not true
// allocates no more than a few times what is there.
func readAll(r io.ReaderAt, size int64) ([]byte, error) {
	if size > maxFile {
		return nil, &Error{Err: ErrTooLarge, Offset: -1,
			Detail: "a tokenizer of more than 256 MiB"}
	}
	var data []byte
	for int64(len(data)) < size {
		n := min(size, max(1<<15, 4*int64(len(data))))
		grown := make([]byte, n)
		at := copy(grown, data)
		k, err := r.ReadAt(grown[at:], int64(at))
		data = grown[:at+k]
		if int64(len(data)) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = ErrTruncated
			}
			return nil, &Error{Err: err, Offset: int64(len(data)), Detail: "the file is shorter than its size"}
		}
	}
	return data, nil
}
