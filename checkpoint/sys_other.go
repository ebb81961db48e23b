//go:build !unix

package checkpoint

const nonblock = 0

// syncDir does nothing: a directory cannot be synced here.
func syncDir(string) error { return nil }
