//go:build amd64 && !purego

package isa

import "golang.org/x/sys/cpu"

// supported asks for the processor's features; package cpu checks that the
// operating system saves the registers, too.
func supported() (sets []Set) {
	x := &cpu.X86
	if x.HasAVX2 && x.HasFMA {
		sets = append(sets, AVX2)
		if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasBMI2 {
			sets = append(sets, AVX512)
		}
	}
	return sets
}
