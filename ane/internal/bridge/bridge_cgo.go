//go:build cgo && ((darwin && arm64) || (linux && amd64 && anefake))

package bridge

/*
#cgo CFLAGS: -std=gnu11 -O2
#cgo linux CFLAGS: -I${SRCDIR}/fakeapple
#cgo darwin LDFLAGS: -framework CoreFoundation -framework IOSurface -lobjc
#include "bridge.h"
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/ane/internal/fp16"
)

// failure takes what a function of bridge.h returned.
func failure(why *C.char) error {
	if why == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(why))
	return errors.New(C.GoString(why))
}

var opening sync.Mutex

func open() error {
	opening.Lock()
	defer opening.Unlock()
	return failure(C.ane_open())
}

// Open returns the Neural Engine of this machine. The error says what is
// missing.
func Open() (device.Device, error) {
	if err := open(); err != nil {
		return nil, fmt.Errorf("ane: %w", err)
	}
	return engine{}, nil
}

// Methods lists the methods of the framework that the bridge calls, found or
// not.
func Methods() (list []Method) {
	_ = open() // what is missing is in the list
	for i := 0; ; i++ {
		var class, selector, want, got *C.char
		if C.ane_method(C.int(i), &class, &selector, &want, &got) == 0 {
			return list
		}
		list = append(list, Method{C.GoString(class), C.GoString(selector), C.GoString(want), C.GoString(got)})
	}
}

type engine struct{}

var name = "Apple Neural Engine"

func (engine) Name() string { return name }
func (engine) Close() error { return nil }

// Limits are the strictest that were published, those of the engines up to M3.
func (engine) Limits() device.Limits {
	return device.Limits{MaxAxis: 16384, Multiple: 32, MinSurface: 49152}
}

func (engine) Put(dst []uint16, src []float32, b device.Block) {
	if b.Rows == 0 || b.Cols == 0 {
		return
	}
	check(dst, src, b)
	C.ane_put((*C.uint16_t)(&dst[0]), (*C.float)(&src[0]), C.ptrdiff_t(b.Rows), C.ptrdiff_t(b.Cols), C.ptrdiff_t(b.Stride),
		C.ptrdiff_t(b.Offset), C.ptrdiff_t(b.LD), flag(b.Transposed), (*C.float)(unsafe.SliceData(b.RowScale)), C.float(b.Scale))
}

func (engine) Get(dst []float32, src []uint16, b device.Block) float32 {
	if b.Rows == 0 || b.Cols == 0 {
		return 0
	}
	check(src, dst, b)
	bits := C.ane_get((*C.float)(&dst[0]), (*C.uint16_t)(&src[0]), C.ptrdiff_t(b.Rows), C.ptrdiff_t(b.Cols), C.ptrdiff_t(b.Stride),
		C.ptrdiff_t(b.Offset), C.ptrdiff_t(b.LD), flag(b.Transposed), flag(b.Add), (*C.float)(unsafe.SliceData(b.RowScale)), C.float(b.Scale))
	if bits >= 0x7c00 {
		return float32(math.Inf(1))
	}
	return fp16.To(uint16(bits))
}

// check panics where C would read or write outside of the slices.
func check(h []uint16, f []float32, b device.Block) {
	last := b.Offset + (b.Rows-1)*b.LD + b.Cols - 1
	if b.Transposed {
		last = b.Offset + (b.Cols-1)*b.LD + b.Rows - 1
	}
	_, _ = h[last], f[(b.Rows-1)*b.Stride+b.Cols-1]
	if b.RowScale != nil {
		_ = b.RowScale[b.Rows-1]
	}
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func (engine) Compile(text string, inBytes, outBytes int) (device.Program, error) {
	p := &program{in: inBytes}
	data := []byte(text)
	if err := failure(C.ane_model_new(unsafe.Pointer(&data[0]), C.size_t(len(data)), &p.model)); err != nil {
		return nil, err
	}
	if err := p.load(text); err != nil {
		C.ane_model_free(p.model)
		return nil, err
	}
	if err := failure(C.ane_surface_new(C.size_t(outBytes), &p.out.ref)); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.out.n, p.out.readOnly = outBytes/2, 1
	return p, nil
}

type program struct {
	model *C.ane_model
	dir   string
	in    int // bytes
	out   surface
}

// load compiles and loads the program, once more 100 ms later if the load
// fails: the daemon that does it is busy now and then.
func (p *program) load(text string) (err error) {
	if p.dir, err = makeDir(C.GoString(C.ane_model_hex(p.model)), text); err != nil {
		return err
	}
	if err = failure(C.ane_model_compile(p.model)); err == nil {
		if err = failure(C.ane_model_load(p.model)); err != nil {
			time.Sleep(100 * time.Millisecond)
			err = failure(C.ane_model_load(p.model))
		}
	}
	if err != nil {
		err = errors.Join(err, removeDir(p.dir))
	}
	return err
}

func (p *program) Close() error {
	err := failure(C.ane_model_unload(p.model))
	C.ane_model_free(p.model)
	if p.out.ref != nil {
		C.ane_surface_free(p.out.ref)
	}
	return errors.Join(err, removeDir(p.dir))
}

func (p *program) Bind() (device.Request, error) {
	r := &request{program: p, in: surface{n: p.in / 2}}
	if err := failure(C.ane_surface_new(C.size_t(p.in), &r.in.ref)); err != nil {
		return nil, err
	}
	if err := failure(C.ane_request_new(p.model, r.in.ref, p.out.ref, &r.ref)); err != nil {
		C.ane_surface_free(r.in.ref)
		return nil, err
	}
	return r, nil
}

type request struct {
	ref     *C.ane_request
	program *program
	in      surface
}

func (r *request) LockInput() ([]uint16, error)  { return r.in.lock() }
func (r *request) UnlockInput() error            { return r.in.unlock() }
func (r *request) LockOutput() ([]uint16, error) { return r.program.out.lock() }
func (r *request) UnlockOutput() error           { return r.program.out.unlock() }
func (r *request) Eval() error                   { return failure(C.ane_request_eval(r.ref)) }

func (r *request) Close() error {
	C.ane_request_free(r.ref)
	C.ane_surface_free(r.in.ref)
	return nil
}

type surface struct {
	ref      *C.ane_surface
	n        int // elements
	readOnly C.int
}

func (s *surface) lock() ([]uint16, error) {
	memory := C.ane_surface_lock(s.ref, s.readOnly)
	if memory == nil {
		return nil, errors.New("IOSurfaceLock failed")
	}
	return unsafe.Slice((*uint16)(memory), s.n), nil
}

func (s *surface) unlock() error {
	if code := C.ane_surface_unlock(s.ref, s.readOnly); code != 0 {
		return fmt.Errorf("IOSurfaceUnlock failed: %#x", uint32(code))
	}
	return nil
}

// dirs counts the programs of this process that use a directory: equal texts
// have equal names.
var dirs = struct {
	sync.Mutex
	users map[string]int
}{users: map[string]int{}}

// makeDir writes the text where the compiler looks for it, in a directory of
// the temporary one that has the model's name.
func makeDir(name, text string) (dir string, err error) {
	if name == "" || strings.Trim(name, "0123456789abcdefABCDEF_-") != "" {
		return "", fmt.Errorf("the model's identifier is %q, want a hexadecimal number", name)
	}
	dir = filepath.Join(os.TempDir(), name)
	dirs.Lock()
	defer dirs.Unlock()
	if err = os.MkdirAll(filepath.Join(dir, "weights"), 0o755); err == nil {
		err = os.WriteFile(filepath.Join(dir, "model.mil"), []byte(text), 0o644)
	}
	if err != nil {
		if dirs.users[dir] == 0 {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return "", err
	}
	dirs.users[dir]++
	return dir, nil
}

// removeDir removes a directory behind the last program that used it.
func removeDir(dir string) error {
	dirs.Lock()
	defer dirs.Unlock()
	if dirs.users[dir]--; dirs.users[dir] > 0 {
		return nil
	}
	delete(dirs.users, dir)
	return os.RemoveAll(dir)
}
