package gguf

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func rawEntry(name string, typ Type, shape []int, raw []byte) Entry {
	return Entry{name, typ, shape, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	}}
}

func TestWhatIsNotWritten(t *testing.T) {
	x := Float32("x", F32, []int{2}, []float32{1, 2})
	for _, c := range []struct {
		name    string
		pairs   []Pair
		entries []Entry
		err     error
		key     string
	}{
		{"no key", []Pair{{"", uint8(1)}}, nil, ErrString, ""},
		{"key not UTF-8", []Pair{{"\xff", uint8(1)}}, nil, ErrString, "\xff"},
		{"long key", []Pair{{strings.Repeat("k", 1<<16), uint8(1)}}, nil, ErrString, strings.Repeat("k", 96) + "…"},
		{"duplicate key", []Pair{{"k", uint8(1)}, {"k", true}}, nil, ErrDuplicate, "k"},
		{"alignment", []Pair{{alignmentKey, uint32(48)}}, nil, ErrValue, alignmentKey},
		{"alignment of another type", []Pair{{alignmentKey, uint64(64)}}, nil, ErrValue, alignmentKey},
		{"no name", nil, []Entry{rawEntry("", F32, []int{1}, nil)}, ErrString, ""},
		{"long name", nil, []Entry{rawEntry(strings.Repeat("n", 65), F32, []int{1}, nil)}, ErrString, strings.Repeat("n", 65)},
		{"duplicate name", nil, []Entry{x, x}, ErrDuplicate, "x"},
		{"no type", nil, []Entry{rawEntry("x", 4, []int{32}, nil)}, ErrType, "x"},
		{"no dimension", nil, []Entry{rawEntry("x", F32, nil, nil)}, ErrShape, "x"},
		{"5 dimensions", nil, []Entry{rawEntry("x", F32, []int{1, 1, 1, 1, 1}, nil)}, ErrShape, "x"},
		{"dimension 0", nil, []Entry{rawEntry("x", F32, []int{0, 1}, nil)}, ErrShape, "x"},
		{"half a block", nil, []Entry{rawEntry("x", Q8_0, []int{2, 16}, nil)}, ErrBlock, "x"},
		{"too large", nil, []Entry{rawEntry("x", F32, []int{1 << 31, 1 << 31}, nil)}, ErrOverflow, "x"},
		{"too large together", nil, []Entry{
			rawEntry("x", F32, []int{1 << 30, 1 << 28}, nil), rawEntry("y", F32, []int{1 << 30, 1 << 28}, nil),
			rawEntry("z", F32, []int{1 << 30, 1 << 28}, nil), rawEntry("w", F32, []int{1 << 30, 1 << 28}, nil),
		}, ErrOverflow, "w"},
		{"too few bytes", nil, []Entry{rawEntry("x", F32, []int{2}, make([]byte, 7))}, ErrSize, "x"},
		{"too many bytes", nil, []Entry{rawEntry("x", F32, []int{2}, make([]byte, 9))}, ErrSize, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			err := Write(&b, c.pairs, c.entries)
			require.ErrorIs(t, err, c.err)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.key, e.Key)
			require.Zero(t, b.Len())
		})
	}
}

// A writer that fails at any byte: its error, and no more written.
func TestWriterThatFails(t *testing.T) {
	full := errors.New("disk full")
	data := example(t)
	pairs, entries := everyValue, []Entry{
		Float32("x", F32, []int{2, 3}, make([]float32, 6)),
		Float32("long", F32, []int{1 << 15}, make([]float32, 1<<15)),
	}
	for n := 0; n < len(data)+1<<17; n += 4999 {
		require.ErrorIs(t, Write(&limited{n, full}, pairs, entries), full, "%d bytes", n)
	}
}

type limited struct {
	left int
	err  error
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.left {
		return l.left, l.err
	}
	l.left -= len(b)
	return len(b), nil
}

func TestAlignment(t *testing.T) {
	for _, a := range []uint32{1, 8, 32, 256} {
		var b bytes.Buffer
		require.NoError(t, Write(&b, []Pair{{alignmentKey, a}}, []Entry{
			Float32("a", F32, []int{3}, []float32{1, 2, 3}), Float32("b", F16, []int{1}, []float32{math.Pi}),
		}))
		f, err := read(t, b.Bytes())
		require.NoError(t, err)
		for _, x := range f.Tensors() {
			require.Zero(t, x.Offset%int64(a))
		}
		require.Zero(t, b.Len()%int(a))
		require.Equal(t, []float32{1, 2, 3}, floats(t, f, "a"))
		require.Equal(t, []float32{3.140625}, floats(t, f, "b"))
	}
}

// The package gguf reads what Write writes: every value, shape and element.
// CHAINRULE_GGUF_PYTHON is a Python that has it.
func TestPythonReads(t *testing.T) {
	python := os.Getenv("CHAINRULE_GGUF_PYTHON")
	if python == "" {
		t.Skip("CHAINRULE_GGUF_PYTHON is not set: no Python with the package gguf")
	}
	path := filepath.Join(t.TempDir(), "x.gguf")
	require.NoError(t, os.WriteFile(path, example(t), 0o666))
	script, err := filepath.Abs(filepath.Join("testdata", "read.py"))
	require.NoError(t, err)
	out, err := exec.Command(python, script, path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "as written\n", string(out))
}
