package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
)

// byteModel is a run as examples/train leaves it.
func byteModel(t testing.TB) (dir string, m *chainrule.Model) {
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 32, HiddenDim: 32, NLayers: 1, NHeads: 2, NKVHeads: 1, HeadDim: 16, VocabSize: 256, SeqLen: 8,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	a, err := chainrule.NewAdamState(m.Config)
	require.NoError(t, err)
	dir = t.TempDir()
	_, err = checkpoint.SaveState(dir, &checkpoint.State{Model: m, Optimizer: a, Step: 3})
	require.NoError(t, err)
	return dir, m
}

func TestWhatIsWrittenIsTheModel(t *testing.T) {
	from, m := byteModel(t)
	for _, c := range []struct {
		to, dtype string
		within    float64
	}{{"model.gguf", "f32", 0}, {"MODEL.GGUF", "q8_0", 1e-3}, {"model", "f32", 0}, {"half", "bf16", 1e-3}} {
		to := filepath.Join(t.TempDir(), c.to)
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), []string{from, to, "-dtype", c.dtype}, &out))
		require.Contains(t, out.String(), to+": ")
		b, err := checkpoint.Open(to, checkpoint.OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, m.Config.Dim, b.Model.Dim)
		require.NotNil(t, b.Tokenizer)
		require.InDeltaSlice(t, m.Data, b.Model.Data, c.within)
	}
}

func TestMistakesAreUsageErrors(t *testing.T) {
	from, _ := byteModel(t)
	for _, args := range [][]string{{}, {from}, {from, "a", "b"}, {"-dtype", "int3", from, "x"}, {"-dtype", "q8_0", from, "x"}, {"-nope"}} {
		require.ErrorAs(t, run(t.Context(), args, io.Discard), new(cli.UsageError), args)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	require.ErrorIs(t, run(t.Context(), []string{missing, filepath.Join(t.TempDir(), "x")}, io.Discard), os.ErrNotExist)
}

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, &out), cli.ErrHelp)
	require.Equal(t, help, out.String())
	clitest.RequireHelp(t, help, flags(new(string)))
}
