//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
)

// CHAINRULE_TEST_FSIZE is the size that no file of the process can grow beyond,
// which is what a full disk does.
func TestMain(m *testing.M) {
	clitest.Main(m, func() {
		if limit := os.Getenv("CHAINRULE_TEST_FSIZE"); limit != "" {
			limitFiles(limit)
		}
		main()
	})
}

func limitFiles(limit string) {
	retryDelay = time.Millisecond
	signal.Ignore(syscall.SIGXFSZ)
	var r syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r)
	if n, e := strconv.ParseUint(limit, 10, 64); err == nil && e == nil {
		r.Cur = n
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r)
	}
	if err != nil {
		panic(err)
	}
}

// long is a run whose lines do not fit into a pipe that nobody reads, so it
// cannot end before a test has done what it is about.
var long = with(tiny, "-dim", "2", "-hidden", "2", "-batch", "1", "-steps", "2000", "-save-every", "0", "-sample-every", "0")

// process starts the program and reads its output up to a line that contains at.
func process(t testing.TB, at string, args ...string) (cmd *exec.Cmd, out *bufio.Reader, stderr *bytes.Buffer) {
	cmd, stderr = clitest.Command(args...), new(bytes.Buffer)
	cmd.Stderr = stderr
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	out = bufio.NewReader(pipe)
	for {
		line, err := out.ReadString('\n')
		require.NoError(t, err, stderr)
		if strings.Contains(line, at) {
			return cmd, out, stderr
		}
	}
}

func TestASignalStopsTheProcess(t *testing.T) {
	text := corpus(t)
	whole, _ := begin(t, with(long, "-data", text)...)
	for _, c := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}, {syscall.SIGHUP, 129}} {
		t.Run(c.signal.String(), func(t *testing.T) {
			if signal.Ignored(c.signal) {
				t.Skip("it is ignored, as under nohup, and so the program ignores it")
			}
			dir := filepath.Join(t.TempDir(), "run")
			cmd, out, stderr := process(t, "      5 ", with(long, "-data", text, "-out", dir)...)
			require.NoError(t, cmd.Process.Signal(c.signal))
			rest, err := io.ReadAll(out)
			require.NoError(t, err)
			require.Equal(t, c.code, clitest.ExitCode(t, cmd.Wait()))
			require.Empty(t, stderr.String())
			require.Regexp(t, `\nStopped after step \d+, saved in `+regexp.QuoteMeta(dir)+`/checkpoint-\d+. To go on:\n\n  \S.* -resume `+
				regexp.QuoteMeta(dir)+"\n$", string(rest))

			require.NoError(t, run(t.Context(), []string{"-resume", dir}, io.Discard))
			requireMetrics(t, dir, 2000)
			want, got := tree(t, whole), tree(t, dir)
			require.Equal(t, want, got)
		})
	}
}

func TestTheSecondSignalEndsTheProcessAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	cmd, _, _ := process(t, "      5 ", with(long, "-data", corpus(t), "-out", dir)...)
	metrics := func() int64 {
		info, err := os.Stat(filepath.Join(dir, metricsFile))
		require.NoError(t, err)
		return info.Size()
	}
	for last := int64(-1); last != metrics(); time.Sleep(300 * time.Millisecond) { // until it hangs in the pipe
		last = metrics()
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 130, clitest.ExitCode(t, cmd.Wait()))
	require.NoDirExists(t, filepath.Join(dir, "checkpoint-2000"))
}

func TestAClosedPipeSavesAndEndsQuietly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	cmd, stderr := clitest.Command(with(long, "-data", corpus(t), "-out", dir)...), new(bytes.Buffer)
	cmd.Stderr = stderr
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout = w
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	_, err = bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, 128+int(syscall.SIGPIPE), clitest.ExitCode(t, cmd.Wait()))
	require.Empty(t, stderr.String())
	require.FileExists(t, filepath.Join(dir, settingsFile))
	if state, _, err := checkpoint.LoadState(dir); err == nil { // the pipe may have closed before the first step
		require.Less(t, state.Step, 2000)
	}
}

func TestHelpAndMistakesHaveTheirExitCodes(t *testing.T) {
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"-h"}, 0, help, ""},
		{[]string{"-nope"}, 2, "", "train: flag provided but not defined: -nope (-h lists the flags)\n"},
		{[]string{"-data", "/missing"}, 1, "", "train: data: reading a corpus: stat /missing: no such file or directory\n"},
	} {
		cmd, stdout, stderr := clitest.Command(c.args...), new(bytes.Buffer), new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = stdout, stderr
		require.Equal(t, c.code, clitest.ExitCode(t, cmd.Run()))
		require.Equal(t, c.stdout, stdout.String())
		require.Equal(t, c.stderr, stderr.String())
	}
}

func TestTwoRunsAtOnceTakeTwoDirectories(t *testing.T) {
	text, dir := corpus(t), t.TempDir()
	var cmds []*exec.Cmd
	for range 4 {
		cmd := clitest.Command(with(tiny, "-data", text)...)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		require.NoError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		require.NoError(t, cmd.Wait())
	}
	first := tree(t, filepath.Join(dir, "runs", "fox-1"))
	for _, name := range []string{"fox-2", "fox-3", "fox-4"} {
		require.Equal(t, first, tree(t, filepath.Join(dir, "runs", name)))
	}
}

func TestTheDirectoryOfARunUnderWayIsItsOwn(t *testing.T) {
	text, dir := corpus(t), filepath.Join(t.TempDir(), "run")
	cmd, _, _ := process(t, "      5 ", with(long, "-data", text, "-out", dir)...)
	require.ErrorContains(t, run(t.Context(), []string{"-resume", dir}, io.Discard),
		dir+": another run is at work in this directory: process "+strconv.Itoa(cmd.Process.Pid))
	require.ErrorContains(t, run(t.Context(), with(tiny, "-data", text, "-out", dir), io.Discard), "run.json is there already")
}

func TestAFullDisk(t *testing.T) {
	text, dir := corpus(t), filepath.Join(t.TempDir(), "run")
	args := with(tiny, "-data", text, "-out", dir)
	onFullDisk := func(limit string, args ...string) (stdout, stderr string) {
		cmd := clitest.Command(args...)
		cmd.Env = append(cmd.Env, "CHAINRULE_TEST_FSIZE="+limit)
		var o, e bytes.Buffer
		cmd.Stdout, cmd.Stderr = &o, &e
		require.Equal(t, 1, clitest.ExitCode(t, cmd.Run()), e.String())
		return o.String(), e.String()
	}
	stdout, stderr := onFullDisk("2000", args...)
	require.Contains(t, stderr, "output directory: write ")
	require.NotContains(t, stdout, "bits/byte")
	require.Empty(t, tree(t, dir)) // so that the same command works when there is room
	small := filepath.Join(t.TempDir(), "run")
	stdout, stderr = onFullDisk("4500", with(tiny, "-data", text, "-out", small)...)
	require.Contains(t, stderr, "saving after step 0: ")
	require.NotContains(t, stdout, "bits/byte")

	ctx, out := clitest.StopAt(t, "\n      3 ", cli.Stopped{Signal: syscall.SIGINT})
	require.Error(t, run(ctx, args, out))
	before := tree(t, dir)
	_, stderr = onFullDisk("4500", "-resume", dir)
	require.Contains(t, stderr, "train: saving after step 6: ")
	require.Contains(t, stderr, "the last good checkpoint, of step 3, is "+filepath.Join(dir, "checkpoint-3"))
	after := tree(t, dir)
	require.Equal(t, before, after)
	require.NoError(t, run(t.Context(), []string{"-resume", dir}, io.Discard))
	requireMetrics(t, dir, 6)
}

// A compressor that fails is left out, whatever it does to its pipe.
func TestABrokenXZIsLeftOut(t *testing.T) {
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "xz"), []byte("#!/bin/sh\nexit 1\n"), 0o777))
	text := filepath.Join(t.TempDir(), "long.txt")
	write(t, text, strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 10000)) // more than a pipe holds
	cmd := clitest.Command(with(tiny, "-data", text, "-out", filepath.Join(t.TempDir(), "run"), "-eval-every", "100")...)
	cmd.Env = append(cmd.Env, "PATH="+bin+":/bin:/usr/bin")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "gzip -9")
	require.NotContains(t, string(out), "xz -9e")
	require.Contains(t, string(out), "The model writes")
}

// signals is how many TestRandomSignals sends: CHAINRULE_SIGNALS, or 12.
func signals(t *testing.T) int {
	s := os.Getenv("CHAINRULE_SIGNALS")
	if s == "" {
		return 12
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, "CHAINRULE_SIGNALS")
	return n
}

// A run that signals stop again and again, at random instants, ends like one
// that nobody stops. Each time the process says so and exits as the signal asks,
// and what it did is saved.
func TestRandomSignals(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a dozen processes")
	}
	text := corpus(t)
	last, sent := -1, signals(t)
	args := with(tiny, "-data", text, "-steps", strconv.Itoa(1500*sent), "-save-every", "0", "-sample-every", "0", "-eval-every", "1000000", "-quiet")
	dir := filepath.Join(t.TempDir(), "run")
	for i := range sent {
		cmd, stderr := clitest.Command(with(args, "-out", dir)...), new(bytes.Buffer)
		if _, err := os.Stat(filepath.Join(dir, settingsFile)); err == nil {
			cmd = clitest.Command("-resume", dir, "-quiet")
		}
		cmd.Stderr = stderr
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
		s := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}[rand.IntN(2)]
		require.NoError(t, cmd.Process.Signal(s))
		code := clitest.ExitCode(t, cmd.Wait())
		if code == -1 {
			continue // before it could listen
		}
		if code == 0 {
			sent = i
			break // it was through
		}
		require.Equal(t, 128+int(s), code, "signal %d: %s", i, stderr)
		require.Empty(t, stderr.String())
		if state, _, err := checkpoint.LoadState(dir); err == nil {
			require.GreaterOrEqual(t, state.Step, last)
			last = state.Step
		} else {
			require.Equal(t, -1, last, "what was saved is there")
		}
	}
	t.Logf("%d signals, %d steps", sent, last)
	require.Greater(t, last, 0)
	require.NoError(t, run(t.Context(), []string{"-resume", dir, "-quiet"}, io.Discard))
	whole, _ := begin(t, args...)
	got, want := tree(t, dir), tree(t, whole)
	require.Equal(t, want, got)
}
