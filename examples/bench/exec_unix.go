//go:build unix

package main

import (
	"os"
	"syscall"
)

// again replaces the process by one whose kernels are capped.
func again(isa string) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(path, os.Args, capped(isa))
}
