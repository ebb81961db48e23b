//go:build !darwin

package main

// machine says which Mac this is: none.
func machine() []string { return nil }
