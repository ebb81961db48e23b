//go:build unix

package checkpoint

import (
	"errors"
	"os"
	"syscall"
)

// nonblock keeps an open from waiting for the writer of a named pipe that
// took a file's place after it was looked at.
const nonblock = syscall.O_NONBLOCK

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err // the two others: a file system that has no such thing
	}
	return nil
}
