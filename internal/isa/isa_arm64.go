//go:build arm64 && !purego

package isa

func supported() []Set { return []Set{NEON} }
