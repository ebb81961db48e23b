//go:build unix && !solaris && !aix

package train

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockNow takes the lock of a file or returns ErrBusy.
func lockNow(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return ErrBusy
	case errors.Is(err, syscall.ENOLCK):
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}
