package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// CheckMemory returns an error if a program that is about to take so many
// bytes would get into the machine's swap or be killed. Where the system does
// not say what is free (it is asked the Linux way), there is no error.
func CheckMemory(bytes int64) error {
	if free, ok := freeMemory(); ok && bytes > free {
		return fmt.Errorf("this takes %s of memory, and %s are free", Bytes(bytes), Bytes(free))
	}
	return nil
}

// freeMemory returns the smaller of what the machine and what the container
// has left.
func freeMemory() (free int64, ok bool) {
	info, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" {
			kb, err := strconv.ParseInt(f[1], 10, 53)
			free, ok = kb<<10, err == nil
		}
	}
	number := func(file string) (int64, bool) {
		b, _ := os.ReadFile("/sys/fs/cgroup/" + file)
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 63) // or "max"
		return n, err == nil
	}
	most, limited := number("memory.max")
	used, known := number("memory.current")
	if left := most - used; limited && known && (!ok || left < free) {
		return left, true
	}
	return free, ok
}

// Bytes writes a size as people say it: "3.2 GiB".
func Bytes(n int64) string {
	v, unit := float64(n), 0
	for v >= 1024 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	if unit == 0 || v >= 10 {
		return fmt.Sprintf("%.0f %s", v, units[unit])
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}

var units = [...]string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}

// Count writes a number as people say it: "1.2M".
func Count(n int) string {
	switch v := float64(n); {
	case v >= 1e10:
		return fmt.Sprintf("%.0fG", v/1e9)
	case v >= 1e9:
		return fmt.Sprintf("%.1fG", v/1e9)
	case v >= 1e7:
		return fmt.Sprintf("%.0fM", v/1e6)
	case v >= 1e6:
		return fmt.Sprintf("%.1fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return strconv.Itoa(n)
}
