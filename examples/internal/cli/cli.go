// Package cli is what the example programs share of being a command: exit
// codes, signals, and flags that are checked.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
)

// Main runs a program and ends the process with
//
//	0      behind success, or -h
//	1      behind an error
//	2      behind a mistake in the command line
//	128+n  when signal n stopped it (130 for Ctrl-C, 143 for SIGTERM)
//
// At the first signal, ctx ends with the signal as its cause, so that run can
// finish what it is doing. The second one ends the process at once.
func Main(name string, run func(ctx context.Context, args []string) error) {
	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 4)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
		if !signal.Ignored(s) { // nohup
			signal.Notify(signals, s)
		}
	}
	go func() {
		for asked := false; ; {
			s := (<-signals).(syscall.Signal)
			if asked && s != syscall.SIGPIPE { // a closed pipe repeats itself
				os.Exit(exitCode(Stopped{s}))
			}
			asked = asked || s != syscall.SIGPIPE
			stop(Stopped{s})
		}
	}()
	err := run(ctx, os.Args[1:])
	var stopped Stopped
	if err != nil && !errors.As(err, &stopped) && !errors.Is(err, ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, err)
	}
	os.Exit(exitCode(err))
}

// Stopped is the error of a program that a signal ended.
type Stopped struct{ Signal syscall.Signal }

func (s Stopped) Error() string { return "stopped by a signal: " + s.Signal.String() }

// UsageError is a mistake in the command line.
type UsageError string

func (e UsageError) Error() string { return string(e) + " (-h lists the flags)" }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return UsageError(fmt.Sprintf(format, args...)) }

func exitCode(err error) int {
	var stopped Stopped
	var usage UsageError
	switch {
	case err == nil || errors.Is(err, ErrHelp):
		return 0
	case errors.As(err, &stopped):
		return 128 + int(stopped.Signal)
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

// ErrHelp says that help was asked for and given: there is nothing to do.
var ErrHelp = flag.ErrHelp

// Parse reads the command line. Behind -h it prints help to out and returns
// ErrHelp. An unknown flag or a bad value is a UsageError; so is an argument
// that is no flag, unless arguments allows them.
func Parse(f *flag.FlagSet, args []string, arguments bool, help string, out io.Writer) error {
	f.SetOutput(io.Discard)
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, help)
		return ErrHelp
	case err != nil:
		return UsageError(err.Error())
	case !arguments && f.NArg() > 0:
		return Usagef("unexpected argument %q", f.Arg(0))
	}
	return nil
}

// Given returns the names of the flags that the command line has.
func Given(f *flag.FlagSet) map[string]bool {
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
}

// Command returns how this program was started, for messages that say what to
// type next: "go run ./examples/train", or the program's own path.
func Command() string {
	program := os.Args[0]
	if info, ok := debug.ReadBuildInfo(); ok && strings.Contains(program, string(filepath.Separator)+"go-build") {
		at := "./" + filepath.ToSlash(strings.TrimPrefix(info.Path, info.Main.Path+"/"))
		if dir, err := os.Stat(at); err != nil || !dir.IsDir() {
			at = info.Path
		}
		return "go run " + at
	}
	return Quote(program)
}

// Quote returns s as a shell takes it for one word.
func Quote(s string) string {
	plain := func(r rune) bool {
		return r < 128 && !strings.ContainsRune("/._-+=:,@%\\", r) &&
			(r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if s != "" && strings.IndexFunc(s, plain) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
