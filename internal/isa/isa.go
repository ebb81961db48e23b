// Package isa says which of the instruction sets that kernels are written for
// a process uses. It is the one place that asks the processor.
//
// The environment variable CHAINRULE_ISA caps the choice: generic, neon, avx2
// or avx512. So does the build tag purego, to generic.
package isa

import (
	"os"
	"slices"
)

// Set is an instruction set. Those of one architecture are in the order in
// which a processor gained them.
type Set int

const (
	Generic Set = iota // Go alone
	NEON               // arm64: its baseline
	AVX2               // amd64: with FMA
	AVX512             // amd64: F, BW, DQ and VL; BMI2 for masks
)

var names = [...]string{"generic", "neon", "avx2", "avx512"}

func (s Set) String() string { return names[s] }

// Best is the set that kernels are dispatched by: the last of Available.
var Best Set

// Available lists what the processor and the operating system support below
// the cap, Generic first: what a test can run.
var Available []Set

func init() {
	Available = limit(append([]Set{Generic}, supported()...), os.Getenv("CHAINRULE_ISA"))
	Best = Available[len(Available)-1]
}

// limit leaves out the sets beyond the named one. "" is no cap. A cap that is
// not available caps all the same: avx512 leaves avx2 on a processor that ends
// there.
func limit(sets []Set, name string) []Set {
	if name == "" {
		return sets
	}
	cap := Set(slices.Index(names[:], name))
	if cap < 0 {
		panic("chainrule: CHAINRULE_ISA is not generic, neon, avx2 or avx512")
	}
	return slices.DeleteFunc(sets, func(s Set) bool { return s > cap })
}

// Required is the environment variable that names the sets, separated by
// commas, that a test may not skip: it fails where one is not available.
const Required = "CHAINRULE_REQUIRE_ISA"
