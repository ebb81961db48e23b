package train

// SetFree replaces what the file systems say of their free space.
func SetFree(f func(dir string) (int64, bool)) (restore func()) {
	old := free
	free = f
	return func() { free = old }
}

// FreeBytes is what they say.
func FreeBytes(dir string) (int64, bool) { return freeBytes(dir) }
