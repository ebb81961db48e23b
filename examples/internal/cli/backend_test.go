package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/ane"
	"github.com/chainrule-go/chainrule/backend/blas"
	"github.com/chainrule-go/chainrule/backend/cpu"
)

func TestBackend(t *testing.T) {
	for name, want := range map[string]any{"cpu": new(cpu.Backend), "gonum": new(blas.Backend), "ane-sim": new(ane.Backend)} {
		var warn bytes.Buffer
		be, err := Backend(name, &warn)
		require.NoError(t, err)
		require.IsType(t, want, be)
		require.Empty(t, warn.String())
		require.NoError(t, be.Close())
	}
	_, err := Backend("cuda", new(bytes.Buffer))
	require.Equal(t, UsageError(`-backend is "cuda", want cpu, gonum, ane or ane-sim`), err)
}

func TestWithoutANeuralEngineTheCPURuns(t *testing.T) {
	if be, err := ane.New(ane.Options{}); err == nil {
		require.NoError(t, be.Close())
		t.Skip("there is one")
	}
	var warn bytes.Buffer
	be, err := Backend("ane", &warn)
	require.NoError(t, err)
	defer be.Close()
	require.IsType(t, new(cpu.Backend), be)
	require.Equal(t, 1, strings.Count(warn.String(), "\n"))
	require.Contains(t, warn.String(), "ane: the Neural Engine needs ")
	require.Contains(t, warn.String(), "; running on the CPU\n")
}
