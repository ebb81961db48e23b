package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
	"github.com/chainrule-go/chainrule/tokenizer"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

const chatML = `{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`

// noSystem is a template that knows no system messages.
const noSystem = `{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}[{{ m.content }}]<|im_end|>{% endfor %}`

// bundle is a model of random weights that can hold a conversation.
func bundle(t testing.TB, template string) *checkpoint.Bundle {
	tok, err := tokenizer.Train(slices.Values([]string{"user assistant system"}),
		tokenizer.TrainOptions{VocabSize: 280, Special: []string{"<|im_start|>", "<|im_end|>"}})
	require.NoError(t, err)
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 16, HiddenDim: 16, NLayers: 2, NHeads: 2, NKVHeads: 1, HeadDim: 8, VocabSize: tok.VocabSize(), SeqLen: 4096,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	for tensor := range m.Tensors() { // so that what it says depends on all that was said
		for i := range tensor.Data {
			if len(tensor.Shape) == 2 {
				tensor.Data[i] *= 20
			}
		}
	}
	m.Touch()
	end, _ := tok.ID("<|im_end|>")
	return &checkpoint.Bundle{
		Model: m, Tokenizer: tok, ChatTemplate: template,
		Special:    checkpoint.SpecialTokens{EOS: checkpoint.SpecialToken{Text: "<|im_end|>", ID: end}},
		Generation: checkpoint.Generation{EOS: []int32{end}},
	}
}

func model(t testing.TB, b *checkpoint.Bundle) string {
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, checkpoint.SaveDir(dir, b, checkpoint.SaveOptions{}))
	return dir
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

// talk runs the program with an input, and returns what it wrote.
func talk(t testing.TB, input string, args ...string) (out, log string, err error) {
	var o, l bytes.Buffer
	err = run(t.Context(), args, stdin(t, input), &o, &l)
	return o.String(), l.String(), err
}

func TestHelpListsTheFlags(t *testing.T) {
	out, _, err := talk(t, "", "-h")
	require.ErrorIs(t, err, cli.ErrHelp)
	require.Equal(t, help, out)
	clitest.RequireHelp(t, help, new(options).flags())
}

func TestMistakes(t *testing.T) {
	dir := model(t, bundle(t, chatML))
	bare := model(t, bundle(t, ""))
	strict := model(t, bundle(t, noSystem))
	broken := model(t, bundle(t, "{% if %}"))
	for _, c := range []struct {
		args  []string
		usage bool
		want  string
	}{
		{nil, true, "which model?"},
		{[]string{"-model", dir, "Hello"}, true, `unexpected argument "Hello": messages come from -prompt`},
		{[]string{dir, "-n", "5", "Hello"}, true, `unexpected argument "Hello"`},
		{[]string{dir, "-n", "0"}, true, "-n is 0"},
		{[]string{"-model", dir, "-n", "0"}, true, "-n is 0, want 1 or more"},
		{[]string{"-model", dir, "-context", "-1"}, true, "-context is -1, want 0 or more"},
		{[]string{"-model", dir, "-context", "5000"}, true, "-context: "},
		{[]string{"-model", dir, "-temperature", "-1"}, true, "Temperature is -1"},
		{[]string{"-model", dir, "-temperature", "x"}, true, "invalid value"},
		{[]string{"-model", dir, "-top-p", "2"}, true, "TopP is 2"},
		{[]string{"-model", dir, "-set", "x"}, true, "want NAME=VALUE"},
		{[]string{"-model", dir, "-prompt", " "}, true, "-prompt is empty"},
		{[]string{"-model", dir, "-backend", "x", "-prompt", "x"}, true, "-backend is"},
		{[]string{"-model", filepath.Join(dir, "missing")}, false, "no such file or directory"},
		{[]string{"-model", bare}, false, bare + " has no chat template: it was not trained to hold conversations"},
		{[]string{"-model", broken}, false, "the template is malformed"},
		{[]string{"-model", strict, "-system", "x"}, false, "-system: chat: the template fails on this conversation: no system role"},
	} {
		out, _, err := talk(t, "", c.args...)
		require.ErrorContains(t, err, c.want)
		require.Equal(t, c.usage, cli.ExitCode(err) == 2, "%v", err)
		require.Empty(t, out)
	}
}

func TestEveryLineIsAnswered(t *testing.T) {
	dir := model(t, bundle(t, chatML))
	args := []string{"-model", dir, "-n", "12", "-seed", "3"}
	out, log, err := talk(t, "One?\nTwo?\n\n  \nlong \\\nmessage", args...)
	require.NoError(t, err)
	again, _, err := talk(t, "One?\nTwo?\nlong \\\nmessage\n", args...)
	require.NoError(t, err)
	require.Equal(t, out, again, "the seed decides")
	require.NotEmpty(t, log)

	first, _, err := talk(t, "", append(args, "-prompt", "One?")...)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(out, first))
	require.Greater(t, len(out), len(first))
}

// converse is a conversation without a program around it.
func converse(t testing.TB, b *checkpoint.Bundle, o options) (c *conversation, out, log *bytes.Buffer) {
	out, log = new(bytes.Buffer), new(bytes.Buffer)
	o.backend = "cpu"
	if o.n == 0 {
		o.n = 16
	}
	c, err := newConversation(b, &o, out, log)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c, out, log
}

func TestTheCacheChangesNothing(t *testing.T) {
	b := bundle(t, chatML)
	c, out, log := converse(t, b, options{verbose: true})
	for i := range 4 {
		out.Reset()
		if i == 2 {
			c.setSystem("From the beginning it is another conversation.")
		}
		require.NoError(t, c.answer(t.Context(), fmt.Sprint("Question ", i)))
		fresh, want, _ := converse(t, b, options{})
		fresh.messages = slices.Clone(c.messages[:len(c.messages)-2])
		require.NoError(t, fresh.answer(t.Context(), fmt.Sprint("Question ", i)))
		require.Equal(t, want.String(), out.String())
		require.Equal(t, fresh.messages, c.messages)
	}
	require.Regexp(t, `\(0 tokens of \d+ in the cache; \d+ read in `, log.String())
	require.Regexp(t, `\([1-9]\d+ tokens of \d+ in the cache; `, log.String())
}

func TestAFullContextForgetsTheOldestTurns(t *testing.T) {
	c, _, log := converse(t, bundle(t, chatML), options{context: 160, n: 10, system: "Be kind."})
	for i := range 12 {
		require.NoError(t, c.answer(t.Context(), fmt.Sprint("Question ", i)))
		require.Equal(t, chat.Message{Role: "system", Content: "Be kind."}, c.messages[0])
		require.Equal(t, "user", c.messages[1].Role)
		require.Equal(t, fmt.Sprint("Question ", i), c.messages[len(c.messages)-2].Content)
		tokens, err := c.template.Encode(c.messages, false)
		require.NoError(t, err)
		require.LessOrEqual(t, len(tokens), 160+10)
	}
	n := strings.Count(log.String(), "(the context of 160 tokens is full: the oldest turns, ")
	require.Greater(t, n, 1)
	require.Less(t, n, 8, "every turn costs another")

	before := slices.Clone(c.messages)
	require.ErrorContains(t, c.answer(t.Context(), strings.Repeat("long ", 100)), "the message is too long: with it, ")
	require.Equal(t, before[len(before)-2:], c.messages[len(c.messages)-2:], "the conversation goes on")

	// An answer that the context cuts.
	c, _, log = converse(t, bundle(t, chatML), options{context: 60, n: 1000, sampler: chainrule.SamplerOptions{Temperature: 1, Seed: 1}})
	require.NoError(t, c.answer(t.Context(), "Question"))
	require.Contains(t, log.String(), "(the context of 60 tokens is full)")
}

func TestCommands(t *testing.T) {
	dir, file := model(t, bundle(t, chatML)), filepath.Join(t.TempDir(), "talk.jsonl")
	out, log, err := talk(t, "/help\n/system Be brief.\nHi\n/save "+file+"\n Hi again\n/save "+file+"\n/quit\nnot this", "-model", dir, "-n", "4", "-seed", "1")
	require.NoError(t, err)
	require.Contains(t, log, commands)
	require.Contains(t, log, "(saved 3 messages)\n")
	require.Contains(t, log, "(saved 5 messages)\n")
	require.NotEmpty(t, out)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var saved struct{ Messages []chat.Message }
	require.NoError(t, json.Unmarshal(b, &saved))
	require.Len(t, saved.Messages, 5)
	require.Equal(t, chat.Message{Role: "system", Content: "Be brief."}, saved.Messages[0])
	require.Equal(t, chat.Message{Role: "user", Content: " Hi again"}, saved.Messages[3])

	for command, want := range map[string]string{
		"/save " + file:                      "talk.jsonl exists",
		"/save":                              "/save needs the name of a file",
		"/save " + filepath.Join(file, "/x"): "not a directory",
		"/frobnicate":                        "there is no command /frobnicate; /help lists them",
	} {
		_, _, err := talk(t, command, "-model", dir)
		require.ErrorContains(t, err, want)
	}

	c, _, _ := converse(t, bundle(t, chatML), options{system: "A"})
	require.NoError(t, c.answer(t.Context(), "x"))
	require.Len(t, c.messages, 3)
	require.NoError(t, c.command("/system B"))
	require.Equal(t, "B", c.messages[0].Content)
	require.Len(t, c.messages, 3)
	require.NoError(t, c.command("/reset"))
	require.Equal(t, []chat.Message{{Role: "system", Content: "B"}}, c.messages)
	require.NoError(t, c.command("/system"))
	require.Empty(t, c.messages)

	c, _, _ = converse(t, bundle(t, noSystem), options{})
	require.ErrorContains(t, c.command("/system B"), "no system role")
	require.Empty(t, c.messages)
}

func TestDefaultsAreTheModels(t *testing.T) {
	g := checkpoint.Generation{Temperature: 0.2, TopK: 20, TopP: 0.9, MinP: 0.1, RepetitionPenalty: 1.1}
	var o options
	o.sampler.Temperature, o.sampler.Seed = 0, 5
	o.defaults(g, map[string]bool{"temperature": true})
	require.Equal(t, chainrule.SamplerOptions{TopK: 20, TopP: 0.9, MinP: 0.1, RepetitionPenalty: 1.1, Seed: 5}, o.sampler)
	o = options{}
	o.defaults(checkpoint.Generation{TopK: -1}, nil)
	require.NotZero(t, o.sampler.Seed)
	o.sampler.Seed = 0
	require.Equal(t, chainrule.SamplerOptions{Temperature: 0.7, TopP: 0.95, RepetitionPenalty: 1}, o.sampler)
	require.NoError(t, o.set("a=true"))
	require.NoError(t, o.set("b=1"))
	require.NoError(t, o.set("c=x=y"))
	require.Equal(t, map[string]any{"a": true, "b": 1, "c": "x=y"}, o.variables)
}

func TestAnInterruptStopsTheAnswer(t *testing.T) {
	c, _, log := converse(t, bundle(t, chatML), options{n: 4000, sampler: chainrule.SamplerOptions{Temperature: 2, Seed: 1}})
	c.stop = nil // it would go on
	interrupts := make(chan struct{}, 1)
	c.interrupts = interrupts
	c.out = &clitest.Watch{At: "a", Do: func() { interrupts <- struct{}{} }}
	require.NoError(t, c.answer(t.Context(), "Hi"))
	require.Len(t, c.messages, 2)
	require.NotEmpty(t, c.messages[1].Content)
	require.Contains(t, log.String(), "(stopped)\n")

	interrupts <- struct{}{} // of the time before: it stops nothing
	c.out, c.o.n = io.Discard, 5
	require.NoError(t, c.answer(t.Context(), "Hi"))
	require.Len(t, c.messages, 4)
	require.Equal(t, 1, strings.Count(log.String(), "(stopped)"))
}

func TestASignalStops(t *testing.T) {
	dir := model(t, bundle(t, chatML))
	stopped := cli.Stopped{Signal: syscall.SIGTERM}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	ctx, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { stop(stopped) })
	require.Equal(t, stopped, run(ctx, []string{"-model", dir}, r, io.Discard, io.Discard), "while it waits for a message")

	ctx, stop = context.WithCancelCause(t.Context())
	out := &clitest.Watch{At: "a", Do: func() { stop(stopped) }}
	require.Equal(t, stopped, run(ctx, []string{"-model", dir, "-n", "4000", "-seed", "1", "-prompt", "Hi", "-temperature", "3"}, r, out, io.Discard))
}

// SmolLM2-135M-Instruct knows the capitals.
func TestARealModel(t *testing.T) {
	dir := os.Getenv("CHAINRULE_SMOLLM2")
	if dir == "" {
		cache, _ := os.UserHomeDir()
		dir = filepath.Join(cache, ".cache", "chainrule")
	}
	path := filepath.Join(dir, "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skip("testdata/fetch-smollm2 fetches the model")
	}
	out, log, err := talk(t, "What is the capital of France?\nAnd of Italy?\n", "-model", path, "-temperature", "0", "-v")
	require.NoError(t, err)
	require.Equal(t, "The capital of France is Paris.\nThe capital of Italy is Rome.\n", out)
	require.Contains(t, log, "tokens/s")
}
