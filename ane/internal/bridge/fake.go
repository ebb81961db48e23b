//go:build cgo && linux && amd64 && anefake

package bridge

/*
#include "fake.h"
#include <stdlib.h>
*/
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/chainrule-go/chainrule/ane/internal/sim"
)

// fake is the Neural Engine behind the fake runtime.
var fake = struct {
	sync.Mutex
	chip     *sim.Chip
	programs []*sim.Program
}{chip: sim.Early()}

func init() { name = "simulated Neural Engine behind a fake framework" }

// FakeChip sets the chip of programs compiled from now on.
func FakeChip(c *sim.Chip) {
	fake.Lock()
	fake.chip = c
	fake.Unlock()
}

// FakeLive returns the number of Objective-C and CoreFoundation objects.
func FakeLive() int { return int(C.fake_live()) }

// FakeFail makes a call fail, counted from now and from 0; -1 is none.
func FakeFail(call int) { C.fake_fail(C.int(call)) }

// FakeCalls returns the number of calls since FakeFail that could fail.
func FakeCalls() int { return int(C.fake_calls()) }

// FakeHide takes a class and a method, of the order in bridge.c, out of the
// framework; -1 is none.
func FakeHide(class, method int) { C.fake_hide(C.int(class), C.int(method)) }

// FakeHideFramework takes all of it away.
func FakeHideFramework(hide bool) { C.fake_hide_framework(flag(hide)) }

// FakeChange gives a method another type.
func FakeChange(method int, encoding string) {
	C.free(unsafe.Pointer(fakeType))
	fakeType = C.CString(encoding)
	C.fake_change(C.int(method), fakeType)
}

var fakeType *C.char

func tell(why *C.char, size C.long, err error) C.int {
	if err == nil {
		return 0
	}
	to := unsafe.Slice((*byte)(unsafe.Pointer(why)), int(size))
	to[copy(to[:len(to)-1], err.Error())] = 0
	return -1
}

// fakeCompile finds the text also where the compiler looks for it.
//
//export fakeCompile
func fakeCompile(text unsafe.Pointer, n C.long, name, why *C.char, size C.long) C.int {
	want := string(unsafe.Slice((*byte)(text), int(n)))
	dir := filepath.Join(os.TempDir(), C.GoString(name))
	if got, err := os.ReadFile(filepath.Join(dir, "model.mil")); err != nil || string(got) != want {
		return tell(why, size, fmt.Errorf("model.mil in %s is not the text: %v", dir, err))
	}
	if info, err := os.Stat(filepath.Join(dir, "weights")); err != nil || !info.IsDir() {
		return tell(why, size, fmt.Errorf("no directory weights in %s: %v", dir, err))
	}
	fake.Lock()
	defer fake.Unlock()
	p, err := fake.chip.Compile(want)
	if err != nil {
		return tell(why, size, err)
	}
	fake.programs = append(fake.programs, p)
	return C.int(len(fake.programs) - 1)
}

func fakeProgram(i C.int) *sim.Program {
	fake.Lock()
	defer fake.Unlock()
	return fake.programs[i]
}

//export fakeLoad
func fakeLoad(program C.int, why *C.char, size C.long) C.int {
	return tell(why, size, fakeProgram(program).Load())
}

//export fakeUnload
func fakeUnload(program C.int) { _ = fakeProgram(program).Unload() }

//export fakeDrop
func fakeDrop(program C.int) {
	fake.Lock()
	fake.programs[program] = nil
	fake.Unlock()
}

//export fakeEval
func fakeEval(program C.int, in unsafe.Pointer, inBytes C.long, out unsafe.Pointer, outBytes C.long, why *C.char, size C.long) C.int {
	return tell(why, size, fakeProgram(program).Eval(
		unsafe.Slice((*uint16)(out), int(outBytes)/2), unsafe.Slice((*uint16)(in), int(inBytes)/2)))
}
