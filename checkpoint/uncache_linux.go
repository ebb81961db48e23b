package checkpoint

import (
	"os"

	"golang.org/x/sys/unix"
)

// uncache makes the next reading of a synced file one from the disk, if it can.
func uncache(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
