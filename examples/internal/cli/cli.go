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
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"unicode"

	"golang.org/x/term"
)

// Main runs a program and ends the process with
//
//	0      behind success, or -h
//	1      behind an error
//	2      behind a mistake in the command line
//	128+n  when signal n stopped it (130 for Ctrl-C, 143 for SIGTERM)
//
// At the first signal, ctx ends with the signal as its cause, so that run can
// finish what it is doing. The second one ends the process at once. When
// nobody reads the standard output any more (| head), that counts as SIGPIPE.
func Main(name string, run func(ctx context.Context, args []string, out io.Writer) error) {
	ctx, stop := context.WithCancelCause(context.Background())
	signal.Ignore(syscall.SIGPIPE) // it does not say which pipe; output does
	signals := make(chan os.Signal, 4)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // nohup
			signal.Notify(signals, s)
		}
	}
	go func() {
		for first := true; ; {
			s := (<-signals).(syscall.Signal)
			if to := interrupts.Load(); to != nil && s == syscall.SIGINT {
				select {
				case *to <- struct{}{}:
				default: // the one before is not dealt with yet
				}
				continue
			}
			if !first {
				os.Exit(ExitCode(Stopped{s}))
			}
			first = false
			stop(Stopped{s})
		}
	}()
	err := run(ctx, os.Args[1:], output{os.Stdout, stop})
	if errors.Is(err, syscall.EPIPE) {
		err = Stopped{syscall.SIGPIPE}
	}
	if _, stopped := err.(Stopped); err != nil && !stopped && !errors.Is(err, ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, strings.TrimPrefix(err.Error(), name+": "))
	}
	os.Exit(ExitCode(err))
}

var interrupts atomic.Pointer[chan struct{}]

// Interrupts is for a program to which Ctrl-C does not mean the end: from now
// on it is received here, and does not end the context of Main. A second one
// is not kept while the first waits.
func Interrupts() <-chan struct{} {
	c := make(chan struct{}, 1)
	interrupts.Store(&c)
	return c
}

// output is the standard output; the program stops when its reader is gone.
type output struct {
	file *os.File
	stop context.CancelCauseFunc
}

func (o output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		o.stop(Stopped{syscall.SIGPIPE})
	}
	return n, err
}

// Fd is what Width asks.
func (o output) Fd() uintptr { return o.file.Fd() }

// Width returns the number of columns of the terminal that out is, or 0 if it
// is none.
func Width(out io.Writer) int {
	f, ok := out.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		return width
	}
	return 80
}

// Stopped is the error of a program that a signal ended.
type Stopped struct{ Signal syscall.Signal }

func (s Stopped) Error() string { return "stopped by a signal: " + s.Signal.String() }

// UsageError is a mistake in the command line.
type UsageError string

func (e UsageError) Error() string { return string(e) + " (-h lists the flags)" }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return UsageError(fmt.Sprintf(format, args...)) }

// ExitCode is that of Main. A signal together with another error, say that of
// saving, is an error.
func ExitCode(err error) int {
	if stopped, ok := err.(Stopped); ok {
		return 128 + int(stopped.Signal)
	}
	var usage UsageError
	switch {
	case err == nil || errors.Is(err, ErrHelp):
		return 0
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

// ParseAll is Parse that allows arguments and returns them, with flags before,
// between and behind them; a lone -- ends the flags.
func ParseAll(f *flag.FlagSet, args []string, help string, out io.Writer) (arguments []string, err error) {
	for {
		if err := Parse(f, args, true, help, out); err != nil {
			return nil, err
		}
		rest := f.Args()
		if len(args) > len(rest) && args[len(args)-len(rest)-1] == "--" {
			return append(arguments, rest...), nil
		}
		if len(rest) == 0 {
			return arguments, nil
		}
		arguments, args = append(arguments, rest[0]), rest[1:]
	}
}

// ParseArguments is ParseAll with so many arguments as there are names. If
// there are fewer, they are returned with an error that wraps ErrTooFew.
func ParseArguments(f *flag.FlagSet, args []string, help string, out io.Writer, names ...string) ([]string, error) {
	got, err := ParseAll(f, args, help, out)
	if err != nil {
		return nil, err
	}
	switch {
	case len(got) < len(names):
		return got, errTooFew{Usagef("want %s, and there is no %s", strings.Join(names, " "), names[len(got)])}
	case len(got) > len(names):
		return nil, Usagef("unexpected argument %q", got[len(names)])
	}
	return got, nil
}

// ErrTooFew says that arguments are missing.
var ErrTooFew = errors.New("too few arguments")

type errTooFew struct{ error }

func (e errTooFew) Unwrap() []error { return []error{e.error, ErrTooFew} }

// Given returns the names of the flags that the command line has.
func Given(f *flag.FlagSet) map[string]bool {
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
}

// Command returns how this program was started, for messages that say what to
// type next: "go run ./examples/train", or the program's own path.
func Command() string { return command(os.Args[0], "") }

// Sibling returns how to start another of the example programs in the same way.
func Sibling(name string) string { return command(os.Args[0], name) }

func command(program, sibling string) string {
	info, ok := debug.ReadBuildInfo()
	cache := os.Getenv("GOCACHE")
	if ok && (strings.Contains(program, string(filepath.Separator)+"go-build") || cache != "" && strings.HasPrefix(program, cache)) {
		pkg := info.Path
		if sibling != "" {
			pkg = path.Join(path.Dir(pkg), sibling)
		}
		at := "./" + strings.TrimPrefix(pkg, info.Main.Path+"/")
		if dir, err := os.Stat(filepath.FromSlash(at)); err != nil || !dir.IsDir() {
			at = pkg
		}
		return "go run " + at
	}
	if sibling != "" {
		dir, _ := filepath.Split(program)
		program = dir + sibling
	}
	return Quote(program)
}

// Quote returns s as a shell takes it for one word.
func Quote(s string) string {
	special := func(r rune) bool {
		return r != filepath.Separator && !strings.ContainsRune("/._-+=:,@%", r) &&
			(r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Printable makes what a model wrote safe for a terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, strings.ToValidUTF8(text, "·"))
}
