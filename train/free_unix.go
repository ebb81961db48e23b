//go:build linux || darwin

package train

import (
	"math"
	"syscall"
)

// freeBytes returns how much can be written to the file system of dir, or
// false if that does not say.
func freeBytes(dir string) (n int64, ok bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil || s.Blocks == 0 {
		return 0, false
	}
	return int64(min(float64(s.Bavail)*float64(s.Bsize), math.MaxInt64/2)), true
}
