package isa

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		name string
		have []Set
		want []Set
	}{
		{"", []Set{Generic, AVX2, AVX512}, []Set{Generic, AVX2, AVX512}},
		{"generic", []Set{Generic, AVX2, AVX512}, []Set{Generic}},
		{"avx2", []Set{Generic, AVX2, AVX512}, []Set{Generic, AVX2}},
		{"avx512", []Set{Generic, AVX2}, []Set{Generic, AVX2}},
		{"neon", []Set{Generic, NEON}, []Set{Generic, NEON}},
		{"generic", []Set{Generic}, []Set{Generic}},
	} {
		require.Equal(t, c.want, limit(c.have, c.name), "%q of %v", c.name, c.have)
	}
	require.PanicsWithValue(t, "chainrule: CHAINRULE_ISA is not generic, neon, avx2 or avx512",
		func() { limit([]Set{Generic}, "sse9") })
}

func TestRequiredSetsAreAvailable(t *testing.T) {
	require.Equal(t, Available[len(Available)-1], Best)
	for _, name := range strings.FieldsFunc(os.Getenv(Required), func(r rune) bool { return r == ',' }) {
		var have []string
		for _, s := range Available {
			have = append(have, s.String())
		}
		require.Contains(t, have, name, Required)
	}
}
