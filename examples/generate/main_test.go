package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
	"github.com/chainrule-go/chainrule/tokenizer"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

func newModel(t testing.TB, vocabulary int) *chainrule.Model {
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 8, HiddenDim: 16, NLayers: 1, NHeads: 2, NKVHeads: 2, HeadDim: 4, VocabSize: vocabulary, SeqLen: 32,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	return m
}

// models writes one model in every form that the program reads.
func models(t testing.TB, m *chainrule.Model) map[string]string {
	dir := t.TempDir()
	at := map[string]string{
		"run": filepath.Join(dir, "run"), "model directory": filepath.Join(dir, "hf"), "llama2.c file": filepath.Join(dir, "model.bin"),
	}
	adam, err := chainrule.NewAdamState(m.Config)
	require.NoError(t, err)
	at["checkpoint"], err = checkpoint.SaveState(at["run"], &checkpoint.State{Model: m, Optimizer: adam, Step: 3})
	require.NoError(t, err)
	require.NoError(t, checkpoint.SaveDir(at["model directory"], &checkpoint.Bundle{Model: m}, checkpoint.SaveOptions{}))
	require.NoError(t, checkpoint.SaveLlama2c(at["llama2.c file"], m, 1))
	return at
}

// stdin is a standard input that holds a text.
func stdin(t testing.TB, text string) *os.File {
	path := filepath.Join(t.TempDir(), "stdin")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func generate(t testing.TB, input string, args ...string) (string, error) {
	var out bytes.Buffer
	err := run(t.Context(), args, stdin(t, input), &out)
	return out.String(), err
}

func TestHelpListsTheFlags(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"model", "-h"}} {
		out, err := generate(t, "", args...)
		require.ErrorIs(t, err, cli.ErrHelp)
		require.Equal(t, help, out)
	}
	clitest.RequireHelp(t, help, new(options).flags())
}

func TestEveryFormOfAModelWritesTheSameText(t *testing.T) {
	var want string
	for name, path := range models(t, newModel(t, 256)) {
		out, err := generate(t, "", "-n", "50", path, "The Rays")
		require.NoError(t, err, name)
		require.True(t, strings.HasPrefix(out, "The Rays"))
		require.True(t, strings.HasSuffix(out, "\n"))
		require.Len(t, out, len("The Rays")+50+1, name) // every byte, also those that are no UTF-8
		if want == "" {
			want = out
		}
		require.Equal(t, want, out, name)
	}
}

func TestTheSeedDecides(t *testing.T) {
	path := models(t, newModel(t, 256))["llama2.c file"]
	text := func(args ...string) string {
		out, err := generate(t, "", append(args, "-n", "60", path, "x")...)
		require.NoError(t, err)
		return out
	}
	require.Equal(t, text(), text("-seed", "1"))
	require.NotEqual(t, text(), text("-seed", "2"))
	require.Equal(t, text("-temperature", "0"), text("-temperature", "0", "-seed", "2"))
	require.Equal(t, text("-temperature", "0"), text("-top-k", "1"))
}

func TestThePrompt(t *testing.T) {
	path := models(t, newModel(t, 256))["run"]
	long := strings.Repeat("a long prompt ", 100)
	for _, c := range []struct {
		name, input string
		args        []string
		want        string
	}{
		{"argument", "not this", []string{path, "one"}, "one"},
		{"arguments", "", []string{path, "one", "two"}, "one two"},
		{"standard input", "one\ntwo\n", []string{path}, "one\ntwo"},
		{"flags behind", "", []string{path, "-n", "4", "one"}, "one"},
		{"flags between and last", "", []string{path, "one", "-top-k", "3", "two", "-n", "4"}, "one two"},
		{"a dash", "", []string{path, "--", "-n"}, "-n"},
		{"bad UTF-8", "a\xff\xfeb", []string{path}, "a\xff\xfeb"},
		{"cut UTF-8", "a\xe2\x82", []string{path}, "a\xe2\x82"},
		{"beyond the context", long, []string{path}, strings.TrimRight(long, "\n")},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := generate(t, c.input, append([]string{"-n", "4"}, c.args...)...)
			require.NoError(t, err)
			require.Len(t, out, len(c.want)+4+1)
			require.Equal(t, c.want, out[:len(c.want)])
		})
	}
}

func TestTokenNumbers(t *testing.T) {
	path := models(t, newModel(t, 32000))["llama2.c file"]
	_, err := generate(t, "", path, "text")
	require.ErrorContains(t, err, "model.bin has no tokenizer for its 32000 tokens: use -tokens")
	for _, prompt := range []string{"1 9038 2501", "1,9038,2501", "  1, 9038\n2501 "} {
		out, err := generate(t, "", "-n", "5", "-tokens", path, prompt)
		require.NoError(t, err)
		require.Regexp(t, `^1 9038 2501( \d+){5}\n$`, out)
	}
	for prompt, want := range map[string]string{
		"one": `"one" in the prompt is not a token number`, "1.5": "not a token number", "99999999999": "not a token number",
		"32000": "32000", "-- -1": "-1", " ": "the prompt is empty",
	} {
		_, err := generate(t, "", append([]string{"-tokens", path}, strings.SplitN(prompt, " ", 2)...)...)
		require.ErrorContains(t, err, want, prompt)
	}
}

// A model with a tokenizer of words goes on from text; what marks text up is not
// written, and what ends it is where it stops.
func TestATokenizerOfItsOwn(t *testing.T) {
	bpe, err := tokenizer.Train(slices.Values([]string{"the cat sat on the mat and the cat sat on the hat"}),
		tokenizer.TrainOptions{VocabSize: 280, Special: []string{"<end>", "<mark>"}})
	require.NoError(t, err)
	b := &checkpoint.Bundle{Model: newModel(t, bpe.VocabSize()+5), Tokenizer: bpe,
		Special: checkpoint.SpecialTokens{EOS: checkpoint.SpecialToken{Text: "<end>", ID: 0}, Pad: checkpoint.SpecialToken{Text: "<mark>", ID: 1}}}
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{}))
	numbers, err := generate(t, "", "-temperature", "0", "-n", "20", "-tokens", dir, "5 6 7")
	require.NoError(t, err)
	var ids []int32
	for _, word := range strings.Fields(numbers) {
		n, err := strconv.Atoi(word)
		require.NoError(t, err)
		ids = append(ids, int32(n))
	}
	text, err := generate(t, "", "-temperature", "0", "-n", "20", dir, bpe.Decode(ids[:3]))
	require.NoError(t, err)
	require.Equal(t, bpe.Decode(ids)+"\n", text)

	// The token that greedy decoding takes first is made the one to end at, and
	// the one that is not text.
	for special, want := range map[string]string{"<end>": "the\n", "<mark>": "the\n"} {
		m := newModel(t, bpe.VocabSize())
		id, _ := bpe.ID(special)
		for i := range m.Dim {
			for row := range m.VocabSize {
				m.TokenEmbedding[row*m.Dim+i] *= 0.01
			}
			m.TokenEmbedding[int(id)*m.Dim+i] = 0
		}
		prompt := bpe.Encode("the")
		last := int(prompt[len(prompt)-1])
		for i := range m.Dim { // the logits of the last token's own row are the largest
			m.TokenEmbedding[int(id)*m.Dim+i] = 5 * m.TokenEmbedding[last*m.Dim+i]
		}
		m.Touch()
		b.Model = m
		dir := filepath.Join(t.TempDir(), "model")
		require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{}))
		out, err := generate(t, "", "-temperature", "0", "-n", "4", dir, "the")
		require.NoError(t, err)
		require.Equal(t, want, out, special)
	}
}

func TestMistakes(t *testing.T) {
	m := newModel(t, 256)
	path := models(t, m)["run"]
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("not a model"), 0o666))
	m.RMSFinal[0] = float32(math.NaN())
	broken := models(t, m)["run"]
	for _, c := range []struct {
		args  []string
		usage bool
		want  string
	}{
		{nil, true, "which model?"},
		{[]string{"-m"}, true, "not defined: -m"},
		{[]string{"-n", "0", path, "x"}, true, "-n is 0, want 1 or more"},
		{[]string{path, "x", "-temperature", "-1"}, true, "-1"},
		{[]string{"--", path, "x", "-temperature", "-1"}, false, ""},
		{[]string{"-temperature", "-1", path, "x"}, true, "-1"},
		{[]string{"-temperature", "NaN", path, "x"}, true, "NaN"},
		{[]string{"-top-p", "1.5", path, "x"}, true, "1.5"},
		{[]string{"-top-k", "-1", path, "x"}, true, "-1"},
		{[]string{path}, true, "the prompt is empty"},
		{[]string{path, ""}, true, "the prompt is empty"},
		{[]string{filepath.Join(dir, "missing"), "x"}, false, "missing: no such file or directory"},
		{[]string{file, "x"}, false, "file"},
		{[]string{dir, "x"}, false, dir + ": not a model file: it is neither a model directory, with a config.json, nor a run with a checkpoint"},
		{[]string{broken, "x"}, false, "NaN"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			_, err := generate(t, "", c.args...)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.Equal(t, c.usage, cli.ExitCode(err) == 2)
		})
	}
	_, err := generate(t, strings.Repeat("x", 1<<20+1), path)
	require.ErrorContains(t, err, "reading the prompt: it is longer than 1048576 bytes")
}

func TestASignalStops(t *testing.T) {
	path := models(t, newModel(t, 256))["run"]
	stopped := cli.Stopped{Signal: syscall.SIGINT}
	ctx, out := clitest.StopAt(t, "prompt", stopped)
	require.Equal(t, stopped, run(ctx, []string{path, "prompt"}, stdin(t, ""), out))
	require.Equal(t, "prompt\n", out.String())

	// Also while nobody writes to the standard input.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	ctx, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { stop(stopped) })
	require.Equal(t, stopped, run(ctx, []string{path}, r, io.Discard))
}

func TestAClosedPipeEndsQuietly(t *testing.T) {
	cmd, stderr := clitest.Command("-n", "10000000", models(t, newModel(t, 256))["run"], "x"), new(bytes.Buffer)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = w, stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	_, err = io.ReadFull(r, make([]byte, 100))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, 128+int(syscall.SIGPIPE), clitest.ExitCode(t, cmd.Wait()))
	require.Empty(t, stderr.String())
}
