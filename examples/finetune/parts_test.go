package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

func TestMistakes(t *testing.T) {
	t.Chdir(t.TempDir())
	base, path := newModel(t), newData(t, 10)
	plain := filepath.Join(t.TempDir(), "plain") // has no chat template
	b, err := checkpoint.Open(base, checkpoint.OpenOptions{})
	require.NoError(t, err)
	require.NoError(t, checkpoint.SaveDir(plain, &checkpoint.Bundle{Model: b.Model, Tokenizer: b.Tokenizer}, checkpoint.SaveOptions{}))
	long := write(t, filepath.Join(t.TempDir(), "long.jsonl"), `{"prompt":"`+strings.Repeat("What is one? ", 50)+`","completion":"It is 1."}`)
	bad := write(t, filepath.Join(t.TempDir(), "bad.jsonl"), `{"text":"It is 1."}`+"\n"+`{"text":1}`)
	done, _ := begin(t, with(quick, base, path)...)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "want MODEL DATA.jsonl, and there is no MODEL"},
		{[]string{base}, 2, "there is no DATA.jsonl"},
		{[]string{base, path, path}, 2, "unexpected argument"},
		{[]string{base, path, "-lr", "-1"}, 2, "-lr is -1"},
		{[]string{base, path, "-lr", "NaN"}, 2, "-lr is NaN"},
		{[]string{base, path, "-epochs", "0"}, 2, "-epochs is 0, want 1"},
		{[]string{base, path, "-batch", "0"}, 2, "-batch is 0"},
		{[]string{base, path, "-held-out", "1"}, 2, "-held-out is 1, want 0 or more, and less than 1"},
		{[]string{base, path, "-dtype", "q8_0"}, 2, `-dtype is "q8_0", want f32, bf16 or f16`},
		{[]string{base, path, "-gguf=q9"}, 2, `invalid boolean value "q9" for -gguf: want one of f32, f16, bf16, q8_0, as in -gguf=q8_0`},
		{[]string{base, path, "-max-len", "65"}, 2, "-max-len is 65, want at most the model's 64"},
		{[]string{base, path, "-backend", "x"}, 2, "-backend is"},
		{[]string{"-demo", "x", base, path}, 2, "-demo FILE goes with nothing else"},
		{[]string{"-resume", done, "-lr", "1"}, 2, "-lr: a run goes on with its own settings"},
		{[]string{"-resume", ""}, 2, "-resume is empty"},
		{[]string{"-resume", base}, 1, "is not a run of this program"},
		{[]string{"-resume", done}, 1, "this run is done, and its model is " + filepath.Join(done, "model")},
		{[]string{base, path, "-out", done}, 1, "run.json is there already: go on with that run by -resume " + done},
		{[]string{base, "missing"}, 1, "missing: no such file"},
		{[]string{base, bad}, 1, "bad.jsonl:2: at byte 28: text is a number, want a string"},
		{[]string{base, path, "-val", bad}, 1, "bad.jsonl:2: at byte 28"},
		{[]string{base, long}, 1, "of 1 lines none is left to learn from: all prompts are longer than -max-len 64"},
		{[]string{"missing", path}, 1, "missing: no such file"},
		{[]string{plain, path}, 1, "line 1: it has messages, and this model has no chat template"},
		{[]string{base, path, "-trace", "/missing/x"}, 1, "/missing/x: no such file"},
	} {
		err := run(t.Context(), c.args, io.Discard, io.Discard)
		require.ErrorContains(t, err, c.want, "%v", c.args)
		require.Equal(t, c.code, cli.ExitCode(err), "%v", err)
	}
	require.NoDirExists(t, "runs")
}

func TestEveryFormOfData(t *testing.T) {
	base := newModel(t)
	path := write(t, filepath.Join(t.TempDir(), "x.jsonl"), strings.Repeat(`{"text":"It is one. `+strings.Repeat("What is 1? ", 40)+`"}
{"prompt":"What is one?","completion":" It is 1."}
{"prompt":"`+strings.Repeat("What is one? ", 40)+`","completion":" It is 1."}
{"messages":[{"role":"user","content":"What is <|im_end|>?"},{"role":"assistant","content":"`+strings.Repeat("It is 1. ", 40)+`"}]}
`, 3))
	_, out := begin(t, base, path, "-val", newData(t, 5), "-prompt", "What is it?", "-steps", "2")
	require.Contains(t, out, "17 lines, 5 held out")
	require.Contains(t, out, "  3 answers are longer than -max-len, and cut there\n")
	require.Contains(t, out, "  3 lines have longer prompts than -max-len, and are left out\n")
	require.Contains(t, out, "asked     What is it?\n")

	_, out = begin(t, base, path, "-held-out", "0", "-steps", "2", "-quiet")
	require.NotContains(t, out, "held-out")
	require.NotContains(t, out, "asked")
	require.Contains(t, out, "model     ")
}

func TestShowMarksWhatIsLearned(t *testing.T) {
	t.Chdir(t.TempDir())
	base := newModel(t)
	path := write(t, "x.jsonl", `{"messages":[{"role":"user","content":"What is one?"},{"role":"assistant","content":"It is 1."},{"role":"user","content":"What?"}]}`)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-show", base, path, "-held-out", "0"}, &out, io.Discard))
	require.Equal(t, `The first of 1 batches, with what is learned in brackets:

--- line 1: 28 tokens, 5 learned
<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
What is one?<|im_end|>
<|im_start|>assistant
[It is 1.<|im_end|>]
`, out.String())
	require.NoDirExists(t, "runs")
}

func TestTheTypesOfWhatIsWritten(t *testing.T) {
	args := with(quick, newModel(t), newData(t, 20))
	dir, out := begin(t, append(args, "-gguf=f32", "-dtype", "bf16")...)
	require.Contains(t, out, "ollama    ollama create my-model -f "+filepath.Join(dir, ollamaFile)+"\n")
	directory, err := checkpoint.Open(filepath.Join(dir, modelDir), checkpoint.OpenOptions{})
	require.NoError(t, err)
	file, err := checkpoint.Open(filepath.Join(dir, ggufFile), checkpoint.OpenOptions{})
	require.NoError(t, err)
	require.Equal(t, directory.Model.Config, file.Model.Config)
	require.InDeltaSlice(t, file.Model.Data, directory.Model.Data, 0.01)
	require.NotEqual(t, file.Model.Data, directory.Model.Data)
	require.Equal(t, directory.ChatTemplate, file.ChatTemplate)
	require.Contains(t, file.StopTokens(), directory.StopTokens()[0])

	b, err := os.ReadFile(filepath.Join(dir, ollamaFile))
	require.NoError(t, err)
	require.Equal(t, `# ollama create my-model -f Modelfile
FROM ./model.gguf
TEMPLATE """{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system
Be brief.<|im_end|>
{{ end }}{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system
{{ .Content }}<|im_end|>
{{ else if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
PARAMETER stop "<|im_end|>"
`, string(b))
}

// Templates that write each message in the same way become Ollama's, and others
// do not: whatever comes out was compared.
func TestOllamaTemplates(t *testing.T) {
	base, err := checkpoint.Open(newModel(t), checkpoint.OpenOptions{})
	require.NoError(t, err)
	for name, c := range map[string]struct{ source, want string }{
		"no system role": {`{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}[{{ m.content }}]{% endfor %}`, ""},
		"Llama 3": {`{% for m in messages %}<|h|>{{ m.role }}<|e|>

{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|h|>assistant<|e|>

{% endif %}`, `{{ range .Messages }}{{ if eq .Role "system" }}<|h|>system<|e|>

{{ .Content }}<|im_end|>{{ else if eq .Role "user" }}<|h|>user<|e|>

{{ .Content }}<|im_end|>{{ else if eq .Role "assistant" }}<|h|>assistant<|e|>

{{ .Content }}<|im_end|>{{ end }}{{ end }}<|h|>assistant<|e|>

`},
		"looks like an action": {`{% for m in messages %}{{ '{{' }}{{ m.role }}}}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}{{ '{{' }}assistant}}{% endif %}`,
			`{{ range .Messages }}{{ if eq .Role "system" }}{{ "{{" }}system}}{{ .Content }}<|im_end|>{{ else if eq .Role "user" }}{{ "{{" }}user}}{{ .Content }}<|im_end|>` +
				`{{ else if eq .Role "assistant" }}{{ "{{" }}assistant}}{{ .Content }}<|im_end|>{{ end }}{{ end }}{{ "{{" }}assistant}}`},
		"the last answer is not like the others": {`{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think>{% endif %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`,
			""},
		"the index is written": {`{% for m in messages %}{{ loop.index }}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`, ""},
	} {
		p := &pupil{Bundle: base}
		p.template, err = chat.Parse(c.source, chat.Options{Tokenizer: base.Tokenizer, EOS: "<|im_end|>"})
		require.NoError(t, err, name)
		require.Equal(t, c.want, p.ollamaTemplate(), name)
	}
	require.Empty(t, (&pupil{Bundle: base}).ollamaTemplate())
}

func TestTheDemonstration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "go.jsonl")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-demo", path}, &out, io.Discard))
	require.Regexp(t, `go.jsonl: 1\d{3} questions about the functions of Go's standard library, with answers\n\n  \S.* MODEL `, out.String())
	found := false
	n := 0
	for r, err := range data.ReadJSONL(path) {
		require.NoError(t, err)
		require.Len(t, r.Messages, 2)
		n++
		if r.Messages[0].Content == "What does strings.TrimSuffix do in Go?" {
			found = true
			require.Equal(t, "TrimSuffix returns s without the provided trailing suffix string.\n\n"+
				"The declaration is `func TrimSuffix(s, suffix string) string`, in package strings.", r.Messages[1].Content)
		}
	}
	require.True(t, found)
	require.Greater(t, n, 1000)

	was, err := os.ReadFile(path)
	require.NoError(t, err)
	require.ErrorContains(t, run(t.Context(), []string{"-demo", path}, io.Discard, io.Discard), "go.jsonl is there already")
	is, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, was, is)
}

func TestTheTraceHasTheBatches(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace.jsonl")
	dir, _ := begin(t, with(quick, newModel(t), newData(t, 30), "-accumulate", "2", "-trace", path)...)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	rows := metrics(t, dir)[1:]
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	require.Len(t, lines, len(rows))
	for i, line := range lines {
		var traced struct {
			row
			Batches []tracedBatch
		}
		require.NoError(t, json.Unmarshal(line, &traced))
		traced.HeldOut = rows[i].HeldOut
		require.Equal(t, rows[i], traced.row)
		require.Len(t, traced.Batches, 2)
		n := 0
		for _, batch := range traced.Batches {
			require.Len(t, batch.Tokens, batch.B*batch.T)
			for _, id := range batch.Targets {
				if id >= 0 {
					n++
				}
			}
		}
		require.Equal(t, rows[i].Tokens, n)
	}
}
