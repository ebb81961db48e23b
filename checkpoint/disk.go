package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

// source is a file that is being read. It is a regular one, and close reports
// whether it stayed as it was.
type source struct {
	*os.File
	path     string
	info     fs.FileInfo
	progress *progress // counts what is read, if not nil
}

// ReadAt reads from the file.
func (s *source) ReadAt(b []byte, off int64) (int, error) {
	n, err := s.File.ReadAt(b, off)
	s.progress.add(n)
	return n, err
}

// open opens a regular file. It never blocks, whatever path is.
func open(path string) (*source, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if err := wantRegular(path, info); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	s := &source{File: f, path: path, info: info}
	if s.info, err = f.Stat(); err == nil {
		err = wantRegular(path, s.info)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s: %w: a loop of symbolic links", path, ErrNotModel)
	}
	return info, err
}

func wantRegular(path string, info fs.FileInfo) error {
	is := ""
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		is = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		is = "a named pipe"
	case mode&fs.ModeSocket != 0:
		is = "a socket"
	case mode&fs.ModeDevice != 0:
		is = "a device"
	default:
		is = "neither a file nor a directory"
	}
	return fmt.Errorf("%s: %w: it is %s, want a regular file", path, ErrNotModel, is)
}

// close ends the reading of s, whose outcome so far is err. A file that is not
// what it was when it was opened is ErrChanged, whatever else went wrong.
func (s *source) close(err error) error {
	defer s.File.Close()
	if changed := s.changed(); changed != "" {
		return fmt.Errorf("%s: %w: %s", s.path, ErrChanged, changed)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return nil
}

func (s *source) changed() string {
	now, err := s.Stat()
	if err != nil {
		return err.Error()
	}
	there, err := os.Stat(s.path)
	switch {
	case now.Size() != s.info.Size():
		return fmt.Sprintf("it had %d bytes, now %d", s.info.Size(), now.Size())
	case !now.ModTime().Equal(s.info.ModTime()):
		return fmt.Sprintf("it was of %v, now %v", s.info.ModTime(), now.ModTime())
	case err != nil:
		return err.Error()
	case !os.SameFile(there, s.info):
		return "it was replaced"
	}
	return ""
}

// maxSmall bounds the files that are read as a whole: config.json, trainer.json.
const maxSmall = 1 << 20

// readAll returns the content of a small file.
func (s *source) readAll() ([]byte, error) { return s.readUpTo(maxSmall) }

// readUpTo returns the content of a file of at most that many bytes.
func (s *source) readUpTo(most int64) ([]byte, error) {
	if s.info.Size() > most {
		return nil, fmt.Errorf("%w: it has %d bytes, want at most %d", ErrNotModel, s.info.Size(), most)
	}
	b := make([]byte, s.info.Size())
	return b, rawfile.ReadFull(s, b, 0)
}

// readFile returns the content of a file of at most that many bytes.
func readFile(path string, most int64) ([]byte, error) {
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	b, err := s.readUpTo(most)
	return b, s.close(err)
}

// readSmall returns the content of a small file that is JSON.
func readSmall(path string) ([]byte, error) { return readFile(path, maxSmall) }

// explain adds to an error about the JSON file b what the file seems to be.
func explain(b []byte, err error) error {
	if is := rawfile.Foreign(b); err != nil && is != "" {
		return fmt.Errorf("%w: this is %s", ErrNotModel, is)
	}
	return err
}

// digest identifies the content of a file.
type digest struct {
	size   int64
	sha256 string // lower-case hex
}

// digestWriter computes the digest of what goes through it to w.
type digestWriter struct {
	w    io.Writer
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
	size int64
}

func newDigestWriter(w io.Writer) *digestWriter { return &digestWriter{w: w, hash: sha256.New()} }

func (d *digestWriter) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	d.hash.Write(b[:n])
	d.size += int64(n)
	return n, err
}

func (d *digestWriter) digest() digest { return digest{d.size, hex.EncodeToString(d.hash.Sum(nil))} }

// hook is for tests, which use it to watch a save, stop it and make it fail:
// it is called before every change to the disk, and its error is that
// change's.
var hook func(op, path string) error

func change(op, path string, do func() error) error {
	if hook != nil {
		if err := hook(op, path); err != nil {
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
	}
	return do()
}

// createFile writes a new file, durably but for its name, and returns the
// digest of what write wrote. After an error there is no file.
func createFile(path string, write func(io.Writer) error) (d digest, err error) {
	var f *os.File
	err = change("create", path, func() (err error) {
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		return err
	})
	if err != nil {
		return d, err
	}
	w := newDigestWriter(fileWriter{f})
	err = write(w)
	if err == nil {
		err = change("sync", path, f.Sync)
		uncache(f) // for what verifies it
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(path)
		return d, fmt.Errorf("writing %s: %w", path, err)
	}
	return w.digest(), nil
}

type fileWriter struct{ f *os.File }

func (w fileWriter) Write(b []byte) (n int, err error) {
	err = change("write", w.f.Name(), func() (err error) {
		n, err = w.f.Write(b)
		return err
	})
	return n, err
}

// replaceFile writes a file aside and gives it its name when it is whole.
func replaceFile(path string, write func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil {
		if err := wantRegular(path, info); err != nil {
			return err
		}
	}
	dir, base := filepath.Split(filepath.Clean(path))
	dir = filepath.Clean(dir)
	if err := sweep(dir, temporary+base+"-"); err != nil {
		return err
	}
	tmp := aside(dir, base)
	if _, err := createFile(tmp, write); err != nil {
		return err
	}
	if err := rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncNames(dir)
}

// temporary begins the names of what is being written, removing those of what
// is being removed. A save sweeps what killed ones left of both.
const (
	temporary = ".tmp-"
	removing  = ".removed-"
)

// aside returns a name for what will be base. It is random, so that of two
// processes that save to the same place, which is a mistake, one gets an error.
func aside(dir, base string) string {
	return filepath.Join(dir, fmt.Sprintf("%s%s-%016x", temporary, base, rand.Uint64()))
}

// sweep removes what is in dir under names with any of the prefixes.
func sweep(dir string, prefixes ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, p := range prefixes {
			if len(e.Name()) > len(p) && e.Name()[:len(p)] == p {
				path := filepath.Join(dir, e.Name())
				if err := change("delete", path, func() error { return os.RemoveAll(path) }); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// remove removes a directory so that at no instant a part of it has its name.
func remove(dir, base string) error {
	gone := filepath.Join(dir, removing+base)
	if err := change("delete", gone, func() error { return os.RemoveAll(gone) }); err != nil {
		return err
	}
	if err := rename(filepath.Join(dir, base), gone); err != nil {
		return err
	}
	return change("delete", gone, func() error { return os.RemoveAll(gone) })
}

func rename(from, to string) error {
	return change("rename", to, func() error { return os.Rename(from, to) })
}

func syncNames(dir string) error {
	return change("syncdir", dir, func() error { return syncDir(dir) })
}

// makeDir creates dir and the directories above it, durably.
func makeDir(dir string) error {
	dir = filepath.Clean(dir)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	} else if err == nil {
		return fmt.Errorf("%s is there and is not a directory", dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := change("mkdir", dir, func() error { return os.Mkdir(dir, 0o777) }); err != nil {
		return err
	}
	return syncNames(parent)
}
