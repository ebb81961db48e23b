package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
	"github.com/chainrule-go/chainrule/tokenizer"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

// chatML is a template like SmolLM2's, with a system message of its own.
const chatML = `{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be brief.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}`

// newModel writes a model directory: random weights, a tokenizer of few words,
// and a chat template.
func newModel(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "base")
	tok, err := tokenizer.Train(slices.Values([]string{strings.Repeat("system user assistant Be brief. What is one? It is 1. ", 20)}),
		tokenizer.TrainOptions{VocabSize: 340, Special: []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}})
	require.NoError(t, err)
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 16, HiddenDim: 32, NLayers: 2, NHeads: 2, NKVHeads: 1, HeadDim: 8, VocabSize: tok.VocabSize(), SeqLen: 64,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	b := &checkpoint.Bundle{Model: m, Tokenizer: tok, ChatTemplate: chatML}
	b.Special.EOS = checkpoint.SpecialToken{Text: "<|im_end|>", ID: 2}
	require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{}))
	return dir
}

// newData writes conversations that ask what a number is.
func newData(t testing.TB, lines int) string {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, `{"messages":[{"role":"user","content":"What is %d?"},{"role":"assistant","content":"It is 1."}]}`+"\n", i)
	}
	return write(t, filepath.Join(t.TempDir(), "numbers.jsonl"), b.String())
}

func write(t testing.TB, path, text string) string {
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	return path
}

// begin runs the program to its end, in a directory of its own.
func begin(t testing.TB, args ...string) (dir, out string) {
	dir = filepath.Join(t.TempDir(), "run")
	var b bytes.Buffer
	require.NoError(t, run(t.Context(), append(args, "-out", dir), &b, io.Discard))
	return dir, b.String()
}

// quick are settings of a run that takes no time and learns.
var quick = []string{"-lr", "0.01", "-epochs", "3", "-eval-every", "10"}

func with(args []string, more ...string) []string {
	return append(append([]string{}, args...), more...)
}

func metrics(t testing.TB, dir string) (rows []row) {
	b, err := os.ReadFile(filepath.Join(dir, metricsFile))
	require.NoError(t, err)
	for line := range bytes.Lines(b) {
		var r row
		require.NoError(t, json.Unmarshal(line, &r))
		rows = append(rows, r)
	}
	return rows
}

func TestTuning(t *testing.T) {
	base := newModel(t)
	dir, out := begin(t, with(quick, base, newData(t, 60))...)
	rows := metrics(t, dir)
	require.Len(t, rows, 1+42) // 54 lines in batches of 4, three times
	require.Less(t, *rows[42].HeldOut, *rows[0].HeldOut/2)
	require.Regexp(t, `60 lines, 6 held out; 1\d\d\d tokens, of which \d\d\d are learned`, out)
	require.Contains(t, out, fmt.Sprintf("held-out loss %.4f before, %.4f after 42 steps", *rows[0].HeldOut, *rows[42].HeldOut))
	require.Regexp(t, `asked     What is \d+\?\n\nbefore    (?s:.*)\n\nafter     It is 1\.\n`, out)

	// The directory is what the base is, with other weights.
	was, err := checkpoint.Open(base, checkpoint.OpenOptions{})
	require.NoError(t, err)
	is, err := checkpoint.Open(filepath.Join(dir, modelDir), checkpoint.OpenOptions{})
	require.NoError(t, err)
	require.Equal(t, was.Model.Config, is.Model.Config)
	require.NotEqual(t, was.Model.Data, is.Model.Data)
	require.Equal(t, was.ChatTemplate, is.ChatTemplate)
	require.Equal(t, was.Special, is.Special)
	require.Equal(t, was.Tokenizer.Encode("What is it?"), is.Tokenizer.Encode("What is it?"))
	for _, name := range []string{ggufFile, ollamaFile} {
		require.NoFileExists(t, filepath.Join(dir, name))
	}
	left, err := filepath.Glob(filepath.Join(dir, "checkpoint-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, &out, io.Discard), cli.ErrHelp)
	require.Equal(t, help, out.String())
	clitest.RequireHelp(t, help, new(settings).flags())
}

// An interrupted run that goes on ends with the bits of one that was not.
func TestAnInterruptedRunGoesOn(t *testing.T) {
	args := with(quick, newModel(t), newData(t, 60), "-accumulate", "2", "-gguf")
	whole, _ := begin(t, args...)
	for _, at := range []string{"      1 ", "     10 ", "     20 "} {
		dir := filepath.Join(t.TempDir(), "run")
		ctx, out := clitest.StopAt(t, "\n"+at, cli.Stopped{Signal: syscall.SIGINT})
		err := run(ctx, append(args, "-out", dir), out, io.Discard)
		require.Equal(t, cli.Stopped{Signal: syscall.SIGINT}, err)
		require.Contains(t, out.String(), fmt.Sprintf("Stopped after step %s, saved in %s. To go on:\n\n  ", strings.TrimSpace(at), dir))
		require.Contains(t, out.String(), " -resume "+dir)
		require.NoDirExists(t, filepath.Join(dir, modelDir))

		var rest bytes.Buffer
		require.NoError(t, run(t.Context(), []string{"-resume", dir}, &rest, io.Discard))
		require.Equal(t, metrics(t, whole), metrics(t, dir))
		for _, name := range []string{"model/model.safetensors", ggufFile, ollamaFile} {
			want, err := os.ReadFile(filepath.Join(whole, name))
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, want, got, name)
		}
	}
}
