//go:build !purego

package isa

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/cpu"
)

// A processor, or a virtual machine that hides some of it, has all that kernels
// of a set execute, or the set is not there.
func TestASetIsThereWithAllOfItsInstructions(t *testing.T) {
	x := &cpu.X86
	for _, c := range []struct {
		has  *bool
		left []Set
	}{
		{&x.HasAVX2, nil},
		{&x.HasFMA, nil},
		{&x.HasAVX512F, []Set{AVX2}},
		{&x.HasAVX512BW, []Set{AVX2}},
		{&x.HasAVX512DQ, []Set{AVX2}},
		{&x.HasAVX512VL, []Set{AVX2}},
		{&x.HasBMI2, []Set{AVX2}},
	} {
		was := *x
		x.HasAVX2, x.HasFMA, x.HasAVX512F, x.HasAVX512BW, x.HasAVX512DQ, x.HasAVX512VL, x.HasBMI2 = true, true, true, true, true, true, true
		require.Equal(t, []Set{AVX2, AVX512}, supported())
		*c.has = false
		require.Equal(t, c.left, supported())
		*x = was
	}
}
