package train

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockNow takes the lock of a file or returns ErrBusy. It locks a byte far
// behind the content, because nobody else could read what is locked.
func lockNow(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{Offset: 1 << 30})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrBusy
	}
	return err
}
