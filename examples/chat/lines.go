package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// lines is where messages come from. Read returns the next line, without its
// end; more says that it continues one. Its error is io.EOF behind the last,
// errInterrupted where the user gives the message up, or the cause of the end of ctx.
type lines interface {
	read(ctx context.Context, more bool) (string, error)
}

type result struct {
	line string
	err  error
}

// await returns what read does, or the cause of the end of ctx before that.
func await(ctx context.Context, read func() (string, error)) (string, error) {
	done := make(chan result, 1)
	go func() {
		line, err := read()
		done <- result{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case r := <-done:
		return r.line, r.err
	}
}

// maxLine is the longest line in bytes.
const maxLine = 1 << 20

// piped is a standard input that is no terminal.
type piped struct{ s *bufio.Scanner }

func newPiped(in io.Reader) lines {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxLine)
	return piped{s}
}

func (p piped) read(ctx context.Context, _ bool) (string, error) {
	return await(ctx, func() (string, error) {
		if p.s.Scan() {
			return p.s.Text(), nil
		}
		switch err := p.s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return "", fmt.Errorf("a message has more than %d bytes", maxLine)
		case err != nil:
			return "", fmt.Errorf("reading the messages: %w", err)
		}
		return "", io.EOF
	})
}

// terminal edits lines. Between them the terminal is as it was, so that Ctrl-C
// is a signal while the model answers.
type terminal struct {
	in         *os.File
	out        io.Writer
	keys       keys
	t          *term.Terminal
	interrupts <-chan struct{}
	warned     bool // the last key at the prompt was Ctrl-C
}

// keys is an input that remembers whether it ended with Ctrl-C, which to the
// editor is the end of the input.
type keys struct {
	io.Reader
	io.Writer
	interrupted bool
}

func (k *keys) Read(b []byte) (int, error) {
	n, err := k.Reader.Read(b)
	k.interrupted = bytes.IndexByte(b[:n], 3) >= 0
	return n, err
}

func newTerminal(in *os.File, out io.Writer, interrupts <-chan struct{}) lines {
	t := &terminal{in: in, out: out, keys: keys{Reader: in, Writer: out}, interrupts: interrupts}
	t.t = term.NewTerminal(&t.keys, "")
	return t
}

func (t *terminal) read(ctx context.Context, more bool) (string, error) {
	line, err := t.edit(ctx, more)
	again := t.warned
	t.warned = errors.Is(err, errInterrupted)
	switch {
	case t.warned && again:
		return "", io.EOF
	case t.warned:
		fmt.Fprintln(t.out, "(Ctrl-C again, or Ctrl-D, to end)")
	}
	return line, err
}

// edit reads one line, or, pasted, several. A line given up by Ctrl-C is errInterrupted.
func (t *terminal) edit(ctx context.Context, more bool) (string, error) {
	state, err := term.MakeRaw(int(t.in.Fd()))
	if err != nil {
		return "", err
	}
	defer term.Restore(int(t.in.Fd()), state)
	t.t.SetBracketedPasteMode(true)
	defer t.t.SetBracketedPasteMode(false)
	if width, height, err := term.GetSize(int(t.in.Fd())); err == nil && width > 0 && height > 0 {
		t.t.SetSize(width, height)
	}
	prompt := "> "
	if more {
		prompt = ". "
	}
	t.t.SetPrompt(prompt)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	over := make(chan struct{})
	defer close(over)
	go func() { // kill -INT
		select {
		case <-t.interrupts:
			stop(io.EOF)
		case <-over:
		}
	}()
	return await(ctx, func() (string, error) {
		var pasted strings.Builder
		for {
			line, err := t.t.ReadLine()
			pasted.WriteString(line)
			switch {
			case errors.Is(err, term.ErrPasteIndicator):
				pasted.WriteByte('\n')
				continue
			case errors.Is(err, io.EOF) && t.keys.interrupted:
				history := t.t.History // another editor: this one has the line still
				t.t = term.NewTerminal(&t.keys, "")
				t.t.History = history
				io.WriteString(&t.keys, "^C\r\n")
				return "", errInterrupted
			case errors.Is(err, io.EOF):
				io.WriteString(&t.keys, "\r\n")
			}
			return pasted.String(), err
		}
	})
}
