// Package clitest is what the tests of the example programs share: the program
// as a process, outputs that are watched, and the rules of a help text.
package clitest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const child = "CHAINRULE_TEST_CHILD"

// Main is for TestMain: it runs the tests or, in a process that Command
// starts, the program.
func Main(m *testing.M, program func()) {
	if os.Getenv(child) == "" {
		os.Exit(m.Run())
	}
	program()
}

// Command is the program with arguments, as a process of its own. Ctrl-C ends it
// even if the tests run behind a shell, which starts them to ignore that: so would
// the program, but not from a process that receives it.
func Command(args ...string) *exec.Cmd {
	if signal.Ignored(os.Interrupt) {
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), child+"=1")
	return cmd
}

// ExitCode returns what a process ended with, from the error of its Wait.
func ExitCode(t testing.TB, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
		return 0
	}
	return exit.ExitCode()
}

// Watch is an output that does something, once, when it first contains At.
type Watch struct {
	At string
	Do func()

	b bytes.Buffer
}

func (w *Watch) String() string { return w.b.String() }

func (w *Watch) Write(b []byte) (int, error) {
	n, err := w.b.Write(b)
	if w.Do != nil && strings.Contains(w.String(), w.At) {
		w.Do()
		w.Do = nil
	}
	return n, err
}

// StopAt returns a context and an output: the context ends as by Ctrl-C when
// the output contains at.
func StopAt(t testing.TB, at string, s cli.Stopped) (context.Context, *Watch) {
	ctx, stop := context.WithCancelCause(t.Context())
	return ctx, &Watch{At: at, Do: func() { stop(s) }}
}

var (
	flagLine    = regexp.MustCompile(`^  -([a-z0-9-]+)( [A-Z]+)?  +\S`)
	defaultText = regexp.MustCompile(`\(([^()]*)\)$`)
)

// RequireHelp checks a help text: it lists every flag and no other, each with
// the default that it has, and fits a terminal.
func RequireHelp(t testing.TB, help string, f *flag.FlagSet) {
	entries := map[string]string{}
	last := ""
	for line := range strings.Lines(help) {
		line = strings.TrimSuffix(line, "\n")
		require.LessOrEqual(t, utf8.RuneCountInString(line), 80, line)
		require.NotContains(t, line, "\t")
		if m := flagLine.FindStringSubmatch(line); m != nil {
			last = m[1]
			require.NotContains(t, entries, last)
			entries[last] = line
			def := f.Lookup(last)
			require.NotNil(t, def, "%s is no flag", last)
			b, isBool := def.Value.(interface{ IsBoolFlag() bool })
			require.Equal(t, isBool && b.IsBoolFlag(), m[2] == "", "-%s and its value", last)
		} else if last != "" && strings.HasPrefix(line, "     ") {
			entries[last] += line
		} else {
			last = ""
		}
	}
	var flags, listed []string
	f.VisitAll(func(f *flag.Flag) {
		flags = append(flags, f.Name)
		m := defaultText.FindStringSubmatch(entries[f.Name])
		if f.DefValue == "" || f.DefValue == "false" {
			return
		}
		require.NotNil(t, m, "-%s: its default %s is missing in %q", f.Name, f.DefValue, entries[f.Name])
		require.Equal(t, f.DefValue, m[1], "-%s", f.Name)
	})
	for name := range entries {
		listed = append(listed, name)
	}
	slices.Sort(listed)
	require.Equal(t, flags, listed)
}
