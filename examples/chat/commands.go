package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const commands = `/help          this
/reset         forget the conversation, but not the system message
/system TEXT   replace the system message; without TEXT, remove it
/save FILE     write the conversation, as a line of the JSONL to fine-tune on
/quit          end, as Ctrl-D does
A line that ends with a backslash goes on in the next; a space before a slash
makes it a message. Ctrl-C stops an answer.
`

// errQuit ends the conversation.
var errQuit = errors.New("quit")

// hold answers line after line of in until it ends.
func (c *conversation) hold(ctx context.Context, in *os.File) error {
	lines := newPiped(in)
	interactive := term.IsTerminal(int(in.Fd())) && cli.Width(c.out) > 0
	if interactive {
		c.interrupts = cli.Interrupts()
		lines = newTerminal(in, c.out, c.interrupts)
		fmt.Fprintf(c.log, "%s, %d tokens of context. /help lists the commands.\n", cli.Printable(filepath.Base(c.o.model)), c.session.MaxLen())
	}
	for {
		line, err := message(ctx, lines)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "/") {
			err = c.command(line)
		} else if strings.TrimSpace(line) != "" {
			err = c.answer(ctx, line)
		}
		switch {
		case errors.Is(err, errQuit):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !interactive:
			return err
		case err != nil:
			fmt.Fprintln(c.log, cli.Printable(err.Error()))
		}
	}
}

// message reads a line, and those behind while it ends with a backslash.
func message(ctx context.Context, lines lines) (string, error) {
	var all strings.Builder
	for {
		line, err := lines.read(ctx, all.Len() > 0)
		if errors.Is(err, errInterrupted) {
			all.Reset()
			continue
		}
		if err != nil {
			return "", err
		}
		rest, more := strings.CutSuffix(line, `\`)
		all.WriteString(rest)
		if !more {
			return all.String(), nil
		}
		all.WriteByte('\n')
	}
}

// command does what a line that begins with a slash says.
func (c *conversation) command(line string) error {
	name, argument, _ := strings.Cut(line, " ")
	argument = strings.TrimSpace(argument)
	switch name {
	case "/help", "/?":
		fmt.Fprint(c.log, commands)
	case "/reset":
		c.reset()
	case "/system":
		before := c.o.system
		c.setSystem(argument)
		test := append(append([]chat.Message{}, c.messages...), chat.Message{Role: "user", Content: "Hello"})
		if _, err := c.template.Render(test, true); err != nil {
			c.setSystem(before)
			return err
		}
	case "/save":
		if argument == "" {
			return errors.New("/save needs the name of a file")
		}
		return c.save(argument)
	case "/quit", "/exit", "/bye":
		return errQuit
	default:
		return fmt.Errorf("there is no command %s; /help lists them", name)
	}
	return nil
}

// save writes the conversation to a file, which is there already only if the
// conversation was written to it before.
func (c *conversation) save(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) && path != c.saved {
		if err == nil {
			err = fmt.Errorf("%s exists", path)
		}
		return err
	}
	line, err := json.Marshal(map[string]any{"messages": c.messages})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(line, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("not saved: %w", err)
	}
	c.saved = path
	fmt.Fprintf(c.log, "(saved %d messages)\n", len(c.messages))
	return nil
}
