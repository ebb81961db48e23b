//go:build unix

package data

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNothingWaitsForAFIFOOrADevice(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	within(t, func() {
		for path, want := range map[string]string{
			fifo: "fifo is a FIFO, not a file", "/dev/zero": "/dev/zero is a device, not a file", dir: "holds no text file (1 left",
		} {
			_, err := ReadText(path)
			require.ErrorContains(t, err, want)
		}
		for path, want := range map[string]string{
			fifo: "fifo is a FIFO, not a file", "/dev/zero": "/dev/zero is a device, not a file", dir: "is a directory, not a file",
		} {
			_, err := ReadTokens(path, 256)
			require.ErrorContains(t, err, want)
		}
		write(t, filepath.Join(dir, "text"), "text")
		text, err := ReadText(dir)
		require.NoError(t, err)
		require.Equal(t, "text", string(text))
	})
}

func TestReadJSONLWaitsForNoDevice(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o666))
	for path, want := range map[string]string{fifo: " is a FIFO, not a file", "/dev/zero": " is a device, not a file"} {
		_, err := readAll(path)
		require.EqualError(t, err, "data: "+path+want)
	}
}
