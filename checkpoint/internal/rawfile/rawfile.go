// Package rawfile holds what every reader of a model file needs: reads that
// tell a file that shrank from a failing disk, and a guess at what a file is
// that is not what its name says.
package rawfile

import (
	"bytes"
	"errors"
	"io"
)

var (
	// ErrChanged reports that a file ended before the size it had when it was
	// opened: it shrank, or was replaced, under the reader.
	ErrChanged = errors.New("file changed while it was read")
	// ErrNotModel reports a file that is recognisably something else.
	ErrNotModel = errors.New("not a model file")
)

// ReadFull fills b from offset off. A file that ends early is ErrChanged: the
// caller has checked that off+len(b) is within the size the file had.
func ReadFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return ErrChanged
	}
	return err
}

// Foreign names what a file that begins with head is, if its first bytes say
// so, or returns "". Ask only once the file has proved not to be what was
// expected: a length field may look like another format's magic number.
func Foreign(head []byte) string {
	for _, f := range []struct{ magic, is string }{
		{"PK\x03\x04", "a zip archive (a PyTorch .pt or .bin file? convert it to safetensors)"},
		{"\x80\x02", "a Python pickle (an old PyTorch file? convert it to safetensors)"},
		{"\x80\x03", "a Python pickle (convert it to safetensors)"},
		{"\x80\x04", "a Python pickle (convert it to safetensors)"},
		{"\x80\x05", "a Python pickle (convert it to safetensors)"},
		{"\x1f\x8b", "a gzip file (decompress it first)"},
		{"\x28\xb5\x2f\xfd", "a zstd file (decompress it first)"},
		{"\xfd7zXZ\x00", "an xz file (decompress it first)"},
		{"version https://git-lfs", "a Git LFS pointer (fetch the file itself with git lfs pull)"},
		{"GGUF", "a GGUF file"},
		{"lmgg", "an old GGML file (convert it to GGUF with llama.cpp)"},
		{"fmgg", "an old GGML file (convert it to GGUF with llama.cpp)"},
		{"tjgg", "an old GGML file (convert it to GGUF with llama.cpp)"},
		{"algg", "an adapter of an old llama.cpp (merge it into the model that it is for)"},
		{"24ka", "a llama2.c file"},
		{"\x89HDF\r\n", "an HDF5 file"},
		{"\x93NUMPY", "a NumPy array"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.is
		}
	}
	text := bytes.ToLower(bytes.TrimLeft(head[:min(len(head), 64)], " \t\r\n"))
	switch {
	case bytes.HasPrefix(text, []byte("<!doctype")), bytes.HasPrefix(text, []byte("<html")):
		return "an HTML page (a failed download?)"
	case bytes.HasPrefix(text, []byte("<?xml")):
		return "an XML document (a failed download?)"
	case len(head) > 8 && head[8] == '{' && head[4]|head[5]|head[6]|head[7] == 0:
		return "a safetensors file"
	case len(head) >= 16 && len(bytes.Trim(head, "\x00")) == 0:
		return "all zeros at its start (an unfinished download?)"
	}
	return ""
}
