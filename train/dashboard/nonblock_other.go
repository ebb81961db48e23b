//go:build !unix

package dashboard

const nonblock = 0
