package train

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrBusy says that another process, or another Trainer of this one, has the
// directory of a run.
var ErrBusy = errors.New("another run is at work in this directory")

// lockFile is in the directory of a run while a process has it, and names that.
const lockFile = "run.lock"

// lock makes dir this Trainer's own until the file is closed; if the process
// dies, the kernel does that. A file system that knows no locks does without.
func lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		switch err := lockNow(f); {
		case errors.Is(err, ErrBusy):
			b, _ := io.ReadAll(io.LimitReader(f, 200))
			f.Close()
			if holder := strings.TrimSpace(string(b)); holder != "" {
				return nil, fmt.Errorf("%s: %w: %s", dir, ErrBusy, holder)
			}
			return nil, fmt.Errorf("%s: %w", dir, ErrBusy)
		case err != nil && !errors.Is(err, errors.ErrUnsupported):
			f.Close()
			return nil, fmt.Errorf("%s: locking it: %w", path, err)
		}
		// The one before may have removed the file between these two calls.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		host, _ := os.Hostname()
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintf(f, "process %d on %s\n", os.Getpid(), host)
		}
		if err != nil {
			unlock(f)
			return nil, err
		}
		return f, nil
	}
}

// unlock gives the directory up. The file goes first, so that whoever has it
// open finds that it is no longer the one of that name.
func unlock(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}
