package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
)

// screen is the other side of a terminal.
type screen struct {
	t    *testing.T
	ptmx *os.File
	mu   sync.Mutex
	text strings.Builder
}

// inTerminal starts the program in a terminal of its own.
func inTerminal(t *testing.T, args ...string) (s *screen, wait func() int) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ptmx.Close() })
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0))
	require.NoError(t, unix.IoctlSetWinsize(int(ptmx.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100}))
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd := clitest.Command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	require.NoError(t, tty.Close())
	t.Cleanup(func() { cmd.Process.Kill() })
	s = &screen{t: t, ptmx: ptmx}
	go func() {
		b := make([]byte, 1<<12)
		for {
			n, err := ptmx.Read(b)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.text.Write(b[:n])
			s.mu.Unlock()
		}
	}()
	return s, func() int { return clitest.ExitCode(t, cmd.Wait()) }
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// sees waits until the screen has shown a text, and forgets all up to its end.
func (s *screen) sees(text string) (before string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.String(), text) }, 20*time.Second, 5*time.Millisecond, "%q, not %q", s, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	before, rest, _ := strings.Cut(s.text.String(), text)
	s.text.Reset()
	s.text.WriteString(rest)
	return before
}

func (s *screen) types(text string) {
	_, err := s.ptmx.WriteString(text)
	require.NoError(s.t, err)
}

const ctrlC, ctrlD = "\x03", "\x04"

func TestInATerminal(t *testing.T) {
	b := bundle(t, chatML)
	clear(b.Model.TokenEmbedding[b.Generation.EOS[0]*16:][:16]) // never among the most likely
	dir := model(t, b)
	start := func(t *testing.T, args ...string) (*screen, func() int) {
		s, wait := inTerminal(t, append([]string{"-model", dir, "-seed", "1", "-top-k", "5"}, args...)...)
		s.sees("4096")
		return s, wait
	}
	t.Run("Ctrl-C stops the answer and the program goes on", func(t *testing.T) {
		s, wait := start(t, "-context", "4096", "-n", "100000")
		s.sees("> ")
		for range 2 {
			s.types("Tell me everything.\r")
			s.sees("everything.\r\n")
			require.Eventually(t, func() bool { return len(s.String()) > 50 }, 20*time.Second, time.Millisecond)
			s.types(ctrlC)
			s.sees("(stopped)")
			s.sees("> ")
		}
		s.types("half a line" + ctrlC)
		s.sees("(Ctrl-C again, or Ctrl-D, to end)")
		s.sees("> ")
		s.types("/help\r") // not Ctrl-C: it counts anew
		s.sees("/quit ")
		s.sees("> ")
		s.types(ctrlC)
		s.sees("to end)")
		s.types(ctrlC)
		require.Zero(t, wait())
	})
	t.Run("Ctrl-D ends", func(t *testing.T) {
		s, wait := start(t, "-context", "4096")
		s.sees("> ")
		s.types(ctrlD)
		require.Zero(t, wait())
	})
	t.Run("what is pasted is one message", func(t *testing.T) {
		s, wait := start(t, "-context", "4096", "-n", "3", "-v")
		s.sees("> ")
		s.types("\x1b[200~one\rtwo\x1b[201~\r")
		s.sees("tokens/s)")
		s.sees("> ")
		s.types("a line that \\\rgoes on\r")
		s.sees(". ")
		s.sees("tokens/s)")
		file := t.TempDir() + "/talk"
		s.types("/save " + file + "\r")
		s.sees("(saved 4 messages)")
		saved, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(saved), `"one\ntwo"`)
		require.Contains(t, string(saved), `"a line that \ngoes on"`)
		s.types("/quit\r")
		require.Zero(t, wait())
	})
	t.Run("mistakes do not end", func(t *testing.T) {
		s, wait := start(t, "-context", "4096")
		s.sees("> ")
		s.types("/nothing\r")
		s.sees("there is no command /nothing")
		s.sees("> ")
		s.types("/quit\r")
		require.Zero(t, wait())
	})
}
