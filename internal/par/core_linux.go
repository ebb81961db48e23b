package par

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// core returns the core that the calling thread runs on, or -1.
func core() int {
	var c uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&c)), 0, 0); errno != 0 {
		return -1
	}
	return int(c)
}

// mover moves a worker. Where the cores are busy, Linux wakes a thread where it
// slept last without a look at who is idle: on two cores a worker may share its
// caller's for tens of milliseconds.
type mover struct {
	may, to unix.CPUSet
	stuck   bool // there is no other core, or we may not choose
}

// leave moves the calling thread away from a core, once: it may come back.
func (m *mover) leave(core int) {
	if m.stuck || core < 0 {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.SchedGetaffinity(0, &m.may) != nil {
		m.stuck = true
		return
	}
	m.to = m.may
	m.to.Clear(core)
	m.stuck = m.to.Count() == 0 || unix.SchedSetaffinity(0, &m.to) != nil || unix.SchedSetaffinity(0, &m.may) != nil
}
