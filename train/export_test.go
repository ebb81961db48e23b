package train

// SetFreeDisk replaces what the file systems say of their free space.
func SetFreeDisk(f func(dir string) (int64, bool)) (restore func()) {
	old := freeDisk
	freeDisk = f
	return func() { freeDisk = old }
}

// SetFreeMemory replaces what the system says of its free memory.
func SetFreeMemory(f func() (int64, bool)) (restore func()) {
	old := freeMemory
	freeMemory = f
	return func() { freeMemory = old }
}
