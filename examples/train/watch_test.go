package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/metrics"
)

func TestJSONIsWhatTheFileHas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), with(tiny, "-data", corpus(t), "-out", dir, "-json", "-tensorboard"), &out))
	file, err := os.ReadFile(filepath.Join(dir, metricsFile))
	require.NoError(t, err)
	require.Equal(t, string(file), out.String())
	all, err := metrics.Read(&out)
	require.NoError(t, err)
	require.Equal(t, train.Started, all[0].Type)
	require.Equal(t, 6, all[0].Steps)
	require.Equal(t, 1.0, all[0].BytesPerToken)
	var config struct{ Dim, Parameters int }
	require.NoError(t, json.Unmarshal(all[0].Config, &config))
	require.Equal(t, 4, config.Dim)
	require.Positive(t, config.Parameters)
	require.Equal(t, train.Ended, all[len(all)-1].Type)
	events, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, events, 1)
	svg, err := os.ReadFile(filepath.Join(dir, "loss.svg"))
	require.NoError(t, err)
	require.Contains(t, string(svg), "<svg")
}

func TestTheRunIsServedWhileItRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fox")
	url, list := "", ""
	get := func(at string) string {
		r, err := http.Get(at)
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return string(b)
	}
	out := writes(func(b []byte) (int, error) {
		if at := regexp.MustCompile(`watch it at (\S+)`).FindSubmatch(b); at != nil {
			url = string(at[1])
		}
		if strings.Contains(string(b), "\n      3 ") || strings.HasPrefix(string(b), "      3 ") {
			list = get(url + "runs")
		}
		return len(b), nil
	})
	require.NoError(t, run(t.Context(), with(tiny, "-data", corpus(t), "-out", dir, "-http", "localhost:0"), out))
	require.Contains(t, list, `{"first":"fox","runs":[{"name":"fox",`)
	_, err := http.Get(url)
	require.Error(t, err, "it ends with the program")

	err = run(t.Context(), with(tiny, "-data", corpus(t), "-out", dir+"2", "-http", "8080"), io.Discard)
	require.ErrorContains(t, err, "is not host:port")
	require.Empty(t, tree(t, dir+"2"))
}

type writes func([]byte) (int, error)

func (w writes) Write(b []byte) (int, error) { return w(b) }
