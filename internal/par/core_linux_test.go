package par

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func allowed(t *testing.T) (s unix.CPUSet) {
	t.Helper()
	if err := unix.SchedGetaffinity(0, &s); err != nil {
		t.Skip("this system does not say which cores we may use: ", err)
	}
	return s
}

// A thread that leaves a core is on another one, and may come back.
func TestLeave(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := allowed(t)
	if before.Count() < 2 {
		t.Skip("one core")
	}
	const times = 20
	left := 0
	for range times {
		var m mover
		at := core()
		if m.leave(at); m.stuck {
			t.Fatalf("stuck on core %d", at)
		}
		if core() != at { // where the machine is busy, it may be back already
			left++
		}
	}
	if left < times/2 {
		t.Fatalf("%d times of %d on another core", left, times)
	}
	if allowed(t) != before {
		t.Fatal("the cores that the thread may use have changed")
	}
}

// Where there is no other core nothing happens, and it is not tried again.
func TestLeaveTheOnlyCore(t *testing.T) {
	runtime.LockOSThread() // and never unlock: the thread ends with the test
	allowed(t)
	var one unix.CPUSet
	one.Set(core())
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Skip(err)
	}
	var m mover
	m.leave(core())
	if !m.stuck || allowed(t) != one {
		t.Fatal("a thread with one core has tried to leave it")
	}
}

func BenchmarkCore(b *testing.B) {
	for range b.N {
		core()
	}
}
