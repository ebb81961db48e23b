package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

// small writes a model of random weights to a llama2.c file.
func small(t testing.TB, vocabulary int) string {
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 32, HiddenDim: 64, NLayers: 2, NHeads: 2, NKVHeads: 2, HeadDim: 16, VocabSize: vocabulary, SeqLen: 64,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	path := filepath.Join(t.TempDir(), "small.bin")
	require.NoError(t, checkpoint.SaveLlama2c(path, m, 0))
	return path
}

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, &out), cli.ErrHelp)
	require.Equal(t, help, out.String())
	clitest.RequireHelp(t, help, new(options).flags())
}

func TestMistakes(t *testing.T) {
	file, few := small(t, 300), small(t, 200)
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("not a model"), 0o666))
	for _, c := range []struct {
		args  string
		usage bool
		want  string
	}{
		{"-stepz 1", true, "not defined: -stepz"},
		{"-steps 0", true, "-steps is 0, want 1 or more"},
		{"-seq 0", true, "-seq is 0, want 1 or more"},
		{"-load " + file + " -seq 65", true, "-seq is 65, want at most the model's 64"},
		{"-lr 0", true, "-lr is 0, want a positive number"},
		{"-lr NaN", true, "-lr is NaN"},
		{"-clip -1", true, "-clip is -1"},
		{"-model stories42M", true, `-model is "stories42M", want stories110M or stories15M`},
		{"-backend cuda", true, `-backend is "cuda", want cpu, gonum, ane or ane-sim`},
		{"-load " + file + " -seed 3", true, "-load is the whole model: leave out -model and -seed"},
		{"-load= ", true, "-load is empty"},
		{"file", true, `unexpected argument "file"`},
		{"-load /missing/file", false, "/missing/file: no such file or directory"},
		{"-load " + filepath.Dir(file), false, "directory"},
		{"-load " + text, false, "text"},
		{"-load " + few + " -seq 30", false, "the sequence has token 224, the model a vocabulary of 200"},
	} {
		t.Run(c.args, func(t *testing.T) {
			err := run(t.Context(), strings.Fields(c.args), io.Discard)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, c.usage, cli.ExitCode(err) == 2)
		})
	}
}

// losses reads the table that the program prints.
func losses(t testing.TB, out string) (losses []float64) {
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	require.Contains(t, lines[0], "parameters, 2 layers of width 32, vocabulary 300; 1 sequence of 64 tokens; ")
	require.Equal(t, []string{"step", "loss", "grad", "norm", "ms/step", "tokens/s"}, strings.Fields(lines[1]))
	for i, line := range lines[2:] {
		f := strings.Fields(line)
		require.Len(t, f, 5)
		require.Equal(t, strconv.Itoa(i+1), f[0])
		loss, err := strconv.ParseFloat(f[1], 64)
		require.NoError(t, err)
		losses = append(losses, loss)
	}
	return losses
}

func TestTheLossGoesToZero(t *testing.T) {
	steps := 120
	if testing.Short() {
		steps = 10
	}
	args := []string{"-load", small(t, 300), "-seq", "64", "-steps", strconv.Itoa(steps), "-lr", "0.01"}
	var first []float64
	// What the losses of the first ten steps may differ by: sums in another
	// order, and products of binary16.
	for _, be := range []struct {
		name string
		by   float64
	}{{"cpu", 0}, {"gonum", 1e-3}, {"ane-sim", 2e-2}} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), append(args, "-backend", be.name), &out))
		l := losses(t, out.String())
		require.Len(t, l, steps)
		require.InDelta(t, 5.7, l[0], 0.1) // ln 300
		if !testing.Short() {
			require.Less(t, l[steps-1], 0.1)
		}
		if be.by > 0 {
			require.InDeltaSlice(t, first[:10], l[:10], be.by, be.name)
		} else {
			first = l
		}
	}
}

func TestTheDefaultModel(t *testing.T) {
	if testing.Short() {
		t.Skip("a step of 15M parameters")
	}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-steps", "1", "-seq", "16"}, &out))
	require.Contains(t, out.String(), "15M parameters, 6 layers of width 288, vocabulary 32000; 1 sequence of 16 tokens; ")
	require.Regexp(t, `\n     1   10\.[34]\d+ `, out.String())
}

func TestASignalStopsBehindTheStep(t *testing.T) {
	ctx, out := clitest.StopAt(t, "\n     3 ", cli.Stopped{Signal: syscall.SIGINT})
	err := run(ctx, []string{"-load", small(t, 300), "-seq", "64"}, out)
	require.Equal(t, cli.Stopped{Signal: syscall.SIGINT}, err)
	require.Len(t, losses(t, out.String()), 3)
}

func TestALearningRateThatIsTooHighIsNamedWithItsStep(t *testing.T) {
	err := run(t.Context(), []string{"-load", small(t, 300), "-seq", "64", "-lr", "1e30"}, io.Discard)
	require.ErrorContains(t, err, "step 2: the loss is ")
}

func TestAClosedPipeEndsQuietly(t *testing.T) {
	cmd, stderr := clitest.Command("-load", small(t, 300), "-seq", "8", "-steps", "100000"), new(bytes.Buffer)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = w, stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
	require.Equal(t, 128+int(syscall.SIGPIPE), clitest.ExitCode(t, cmd.Wait()))
	require.Empty(t, stderr.String())
}
