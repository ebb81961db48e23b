package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/ane"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
)

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, &out), cli.ErrHelp)
	require.Equal(t, help, out.String())
	clitest.RequireHelp(t, help, new(options).flags())
}

func TestMistakes(t *testing.T) {
	for args, want := range map[string]string{
		"-model gpt2": `-model is "gpt2", want stories15M or stories110M`,
		"-rows 0":     "-rows is 0, want 1 to the model's 256",
		"-rows 257":   "-rows is 257, want 1 to the model's 256",
		"-steps -1":   "-steps is -1",
		"x":           `unexpected argument "x"`,
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard)
		require.ErrorContains(t, err, want)
		require.Equal(t, 2, cli.ExitCode(err))
	}
}

func TestWithoutADeviceItSaysWhatIsMissing(t *testing.T) {
	if be, err := ane.New(ane.Options{}); err == nil {
		require.NoError(t, be.Close())
		t.Skip("there is one")
	}
	var out bytes.Buffer
	err := run(t.Context(), nil, &out)
	require.ErrorContains(t, err, "needs")
	require.ErrorContains(t, err, "(-sim runs on the simulator)")
	require.Contains(t, out.String(), "this build has no bridge")
}

func TestTheSimulatorTriesAllProducts(t *testing.T) {
	if testing.Short() {
		t.Skip("a step of 15M parameters")
	}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), strings.Fields("-sim -rows 64 -steps 1"), &out))
	text := out.String()
	require.NotContains(t, text, "NO:")
	for _, layout := range []string{"rows", "wide", "published"} {
		lines := regexp.MustCompile(`(?m)^W\w+ (forward|dx) +64 +\d+ +\d+ `+layout+` `).FindAllString(text, -1)
		require.Len(t, lines, 10, layout)
	}
	require.Regexp(t, `\n   1 +10\.\d+ +10\.\d+ +-?0\.0\d+ `, text)
	require.Contains(t, text, "simulated Neural Engine (M1): 10 programs loaded, 10 compiled")
}
