//go:build linux || darwin

package sysmem

import (
	"math"
	"runtime"
	"syscall"
)

// Peak returns the most bytes that the process has had resident.
func Peak() (bytes int64, ok bool) {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0, false
	}
	bytes = int64(r.Maxrss)
	if runtime.GOOS == "linux" {
		bytes <<= 10 // it counts in KiB there
	}
	return bytes, true
}

// Disk returns how many bytes can be written to the file system of dir.
func Disk(dir string) (bytes int64, ok bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil || s.Blocks == 0 {
		return 0, false
	}
	return int64(min(float64(s.Bavail)*float64(s.Bsize), math.MaxInt64/2)), true
}
