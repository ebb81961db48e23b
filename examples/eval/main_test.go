package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
	"github.com/chainrule-go/chainrule/tokenizer"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

// words are what the tokenizer of newModel was trained on.
const words = "The quick brown fox jumps over the lazy dog, and it sleeps. "

// newModel writes a model directory with random weights, and a tokenizer that
// begins a text with <s> if bos is set.
func newModel(t testing.TB, bos bool) string {
	dir := filepath.Join(t.TempDir(), "model")
	tok, err := tokenizer.Train(slices.Values([]string{strings.Repeat(words, 20)}),
		tokenizer.TrainOptions{VocabSize: 340, Special: []string{"<s>", "</s>"}})
	require.NoError(t, err)
	if bos {
		require.NoError(t, tok.SetTemplate([]int32{0}, nil))
	}
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 16, HiddenDim: 32, NLayers: 2, NHeads: 2, NKVHeads: 1, HeadDim: 8, VocabSize: tok.VocabSize(), SeqLen: 32,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	for i := range m.Data { // losses that are not all the same
		m.Data[i] *= 8
	}
	m.Touch()
	b := &checkpoint.Bundle{Model: m, Tokenizer: tok}
	b.Special.BOS, b.Special.EOS = checkpoint.SpecialToken{Text: "<s>", ID: 0}, checkpoint.SpecialToken{Text: "</s>", ID: 1}
	require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{}))
	return dir
}

func newText(t testing.TB, text string) string {
	path := filepath.Join(t.TempDir(), "text.txt")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	return path
}

func eval(t testing.TB, args ...string) (r result) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), append(args, "-json", "-quiet"), &out, io.Discard))
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	return r
}

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, &out, io.Discard), cli.ErrHelp)
	require.Equal(t, help, out.String())
	clitest.RequireHelp(t, help, new(options).flags())
}

// The result is the sum over the tokens, each predicted by a model that reads
// what the help says it does.
func TestTheMeasures(t *testing.T) {
	const text = words + "Zu spät!\n"
	for _, bos := range []bool{false, true} {
		dir := newModel(t, bos)
		b, err := checkpoint.Open(dir, checkpoint.OpenOptions{})
		require.NoError(t, err)
		be, err := cpu.New(cpu.Options{})
		require.NoError(t, err)
		defer be.Close()
		ids, size := b.Tokenizer.Encode(text), len(text)
		if bos {
			ids = append([]int32{0}, ids...)
		} else {
			size -= len(b.Tokenizer.Decode(ids[:1]))
		}
		const context, stride = 7, 3
		nats := 0.0
		for i := 1; i < len(ids); i++ {
			from := 0 // of the window in which token i is predicted
			if i > context {
				from = (i - context + stride - 1) / stride * stride
			}
			ws, err := chainrule.NewWorkspace(b.Model.Config, 1, i-from, be)
			require.NoError(t, err)
			targets := slices.Repeat([]int32{-1}, i-from)
			targets[i-from-1] = ids[i]
			loss, err := chainrule.Forward(b.Model, ws, ids[from:i], targets)
			require.NoError(t, err)
			nats += loss
		}
		for _, batch := range []int{1, 2, 5, 100} {
			r := eval(t, dir, newText(t, text), "-context", "7", "-stride", "3", "-batch", strconv.Itoa(batch))
			require.Equal(t, len(ids)-1, r.Tokens)
			require.Equal(t, r.Tokens, r.Of)
			require.Equal(t, size, r.Bytes)
			require.Equal(t, bos, r.BOS)
			require.True(t, r.Complete)
			require.InEpsilon(t, nats/float64(r.Tokens), r.Loss, 1e-6)
			require.InEpsilon(t, math.Exp(r.Loss), *r.Perplexity, 1e-12)
			require.InEpsilon(t, nats/math.Ln2/float64(size), r.BitsPerByte, 1e-6)
		}
	}
}

func TestTheBeginning(t *testing.T) {
	path := newText(t, words)
	with, without := newModel(t, true), newModel(t, false)
	auto := eval(t, with, path)
	require.Equal(t, auto.Loss, eval(t, without, path, "-bos", "<s>").Loss)
	require.Equal(t, eval(t, without, path).Loss, eval(t, with, path, "-bos", "none").Loss)
	require.NotEqual(t, auto.Loss, eval(t, without, path, "-bos", "</s>").Loss)
	require.Equal(t, len(words), auto.Bytes)
	require.Equal(t, eval(t, without, path).Tokens+1, auto.Tokens)
	err := run(t.Context(), []string{with, path, "-bos", "<bos>"}, io.Discard, io.Discard)
	require.Equal(t, cli.UsageError(`-bos is "<bos>", want auto, none or a token of the model`), err)
}

func TestTheText(t *testing.T) {
	dir := newModel(t, false)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-quiet", dir, newText(t, strings.Repeat(words, 10))}, &out, io.Discard))
	require.Regexp(t, `(?s)^/.*text.txt: \d+ tokens, 597 bytes\nwindows of 32 tokens, 16 apart\n\n`+
		`  loss           \d+\.\d{4}  nats a token\n  perplexity     \d+\.\d{4}\n  bits per byte  \d+\.\d{4}\n$`, out.String())

	one := eval(t, dir, newText(t, "The quick"))
	require.Equal(t, 1, one.Tokens, "the first token is not predicted")
	require.Equal(t, []int{1, 1}, []int{one.Context, one.Stride})
	for text, want := range map[string]string{"": "is empty", "The": "the text has 3 bytes and 1 tokens, want 2 tokens or more", "a\x00b": "is not text"} {
		require.ErrorContains(t, run(t.Context(), []string{dir, newText(t, text)}, io.Discard, io.Discard), want)
	}
}

func TestMistakes(t *testing.T) {
	dir, path := newModel(t, false), newText(t, words)
	for _, c := range []struct {
		args  []string
		usage bool
		want  string
	}{
		{nil, true, "want MODEL TEXT, and there is no MODEL"},
		{[]string{dir}, true, "there is no TEXT"},
		{[]string{dir, path, path}, true, "unexpected argument"},
		{[]string{dir, path, "-context", "33"}, true, "-context is 33, want at most the model's 32"},
		{[]string{dir, path, "-context", "-1"}, true, "-context is -1"},
		{[]string{dir, path, "-context", "8", "-stride", "9"}, true, "-stride is 9, want at most -context 8"},
		{[]string{dir, path, "-batch", "0"}, true, "-batch is 0, want 1"},
		{[]string{dir, path, "-batch", "2147483647", "-context", "2"}, true, "B is 2147483647"},
		{[]string{dir, path, "-backend", "x"}, true, "-backend is"},
		{[]string{dir, "missing"}, false, "missing: no such file"},
		{[]string{"missing", path}, false, "missing: no such file"},
		{[]string{path, path}, false, "text.txt"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), c.args, &out, io.Discard)
		require.ErrorContains(t, err, c.want, "%v", c.args)
		require.Equal(t, c.usage, cli.ExitCode(err) == 2, "%v", err)
		require.Empty(t, out.String())
	}
	b, err := checkpoint.Open(dir, checkpoint.OpenOptions{})
	require.NoError(t, err)
	b.Model.Data[0] = float32(math.NaN())
	b.Model.Touch()
	broken := filepath.Join(t.TempDir(), "broken")
	require.NoError(t, checkpoint.SaveDir(broken, b, checkpoint.SaveOptions{}))
	require.ErrorContains(t, run(t.Context(), []string{broken, newText(t, "<s>"+words)}, io.Discard, io.Discard), "the loss of window 1 of 1 is NaN")
}

func TestStoppedItTellsWhatThereIs(t *testing.T) {
	dir, path := newModel(t, false), newText(t, strings.Repeat(words, 500))
	stopped := cli.Stopped{Signal: syscall.SIGINT}
	was := cli.ProgressEvery
	cli.ProgressEvery = 0
	defer func() { cli.ProgressEvery = was }()
	for _, asJSON := range []bool{false, true} {
		args := []string{dir, path, "-stride", "1"}
		if asJSON {
			args = append(args, "-json")
		}
		ctx, progress := clitest.StopAt(t, "measuring: loss", stopped)
		var out bytes.Buffer
		require.Equal(t, stopped, run(ctx, args, &out, progress))
		if !asJSON {
			require.Regexp(t, `^\nstopped: this is the first \d+ of \d+ tokens\n\n/`, out.String())
			continue
		}
		var r result
		require.NoError(t, json.Unmarshal(out.Bytes(), &r))
		require.False(t, r.Complete)
		require.Less(t, r.Tokens, r.Of)
		whole := strings.Repeat(words, 500)
		b, err := checkpoint.Open(dir, checkpoint.OpenOptions{NoTokenizer: false})
		require.NoError(t, err)
		ids := b.Tokenizer.Encode(whole)
		require.Equal(t, len(b.Tokenizer.Decode(ids[1:1+r.Tokens])), r.Bytes)
	}
	ctx, stop := clitest.StopAt(t, "x", stopped)
	_, err := stop.Write([]byte("x")) // before it began
	require.NoError(t, err)
	var out bytes.Buffer
	require.Equal(t, stopped, run(ctx, []string{dir, path}, &out, io.Discard))
	require.Empty(t, out.String())
}

// TestTransformersAgrees needs a Python with transformers, named by
// CHAINRULE_PYTHON; without one it skips, or fails if CHAINRULE_REQUIRE_PYTHON
// is 1. CHAINRULE_EVAL may name a model and a text, with a colon between them.
func TestTransformersAgrees(t *testing.T) {
	python := os.Getenv("CHAINRULE_PYTHON")
	if python == "" {
		require.NotEqual(t, "1", os.Getenv("CHAINRULE_REQUIRE_PYTHON"), "CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		t.Skip("CHAINRULE_PYTHON names no Python with transformers; .ci/run transformers makes one")
	}
	agree := func(dir, path string, context, stride int) {
		ours := eval(t, dir, path, "-context", strconv.Itoa(context), "-stride", strconv.Itoa(stride))
		script := filepath.Join("..", "..", "testdata", "perplexity.py")
		cmd := exec.Command(python, script, dir, path, strconv.Itoa(context), strconv.Itoa(stride))
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		require.NoError(t, err)
		var theirs result
		require.NoError(t, json.Unmarshal(b, &theirs))
		t.Logf("%s, windows of %d, %d apart: %d tokens; loss %.7f, transformers %.7f; perplexity %.5f, %.5f; bits per byte %.6f, %.6f",
			filepath.Base(dir), context, stride, ours.Tokens, ours.Loss, theirs.Loss, *ours.Perplexity, *theirs.Perplexity, ours.BitsPerByte, theirs.BitsPerByte)
		require.Equal(t, theirs.Tokens, ours.Tokens)
		require.Equal(t, theirs.Bytes, ours.Bytes)
		require.InEpsilon(t, theirs.Loss, ours.Loss, 1e-5)
		require.InEpsilon(t, *theirs.Perplexity, *ours.Perplexity, 1e-4)
		require.InEpsilon(t, theirs.BitsPerByte, ours.BitsPerByte, 1e-5)
	}
	if dir, path, ok := strings.Cut(os.Getenv("CHAINRULE_EVAL"), ":"); ok {
		agree(dir, path, 512, 256)
		return
	}
	path := newText(t, strings.Repeat(words, 8)+"Zu spät! <s>")
	agree(newModel(t, false), path, 32, 16)
	agree(newModel(t, true), path, 20, 7)
}
