package main

import (
	"bytes"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
)

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, &out), cli.ErrHelp)
	require.Equal(t, help, out.String())
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.String("http", "localhost:8080", "")
	clitest.RequireHelp(t, help, f)
}

func TestItServesUntilItIsStopped(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "fox-1"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "fox-1", "metrics.jsonl"), []byte("{\"type\":\"start\",\"step\":0}\n"), 0o666))
	stopped := cli.Stopped{Signal: syscall.SIGINT}
	ctx, out := clitest.StopAt(t, "Ctrl-C", stopped)
	var list string
	answer := writer(func(b []byte) (int, error) {
		if at := regexp.MustCompile(`http://\S+`).Find(b); at != nil {
			r, err := http.Get(string(at) + "runs")
			require.NoError(t, err)
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			list = string(body)
		}
		return out.Write(b)
	})
	require.Equal(t, stopped, run(ctx, []string{"-http", "localhost:0", dir}, answer))
	require.Contains(t, list, `"name":"fox-1"`)
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"a", "b"}, `unexpected argument "b"`, 2},
		{[]string{"-port", "1"}, "flag provided but not defined: -port", 2},
		{[]string{file + "-missing"}, "no folder of runs", 1},
		{[]string{file}, "is a file, want a folder of runs", 1},
		{[]string{"-http", "8080", t.TempDir()}, "is not host:port", 1},
	} {
		err := run(t.Context(), c.args, io.Discard)
		require.ErrorContains(t, err, c.want)
		require.Equal(t, c.code, cli.ExitCode(err))
	}
}
