package main

import "golang.org/x/sys/unix"

// machine says which Mac and which macOS this is.
func machine() (lines []string) {
	for _, name := range []string{"hw.model", "machdep.cpu.brand_string", "kern.osproductversion", "kern.osversion"} {
		if v, err := unix.Sysctl(name); err == nil {
			lines = append(lines, name+": "+v)
		}
	}
	return lines
}
