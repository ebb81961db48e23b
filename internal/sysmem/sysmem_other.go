//go:build !linux && !darwin

package sysmem

// Peak returns the most bytes that the process has had resident: not here.
func Peak() (bytes int64, ok bool) { return 0, false }

// Disk returns how many bytes can be written to the file system of dir: not here.
func Disk(string) (bytes int64, ok bool) { return 0, false }
