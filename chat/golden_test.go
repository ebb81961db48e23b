package chat_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/chat"
)

// conversation is a case of testdata/cases.json.
type conversation struct {
	Name      string
	Messages  []chat.Message
	Variables map[string]any
}

func conversations(t testing.TB) (cases []conversation) {
	b, err := os.ReadFile("testdata/cases.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &cases))
	return cases
}

// llama32 is the one template that the interpreter's own tests have, and ours
// have not: its licence is Llama's.
const llama32 = "llama3.2"

// templates are the files of the templates by name. llama32 is missing where
// modules are vendored.
var templates = sync.OnceValue(func() map[string]string {
	files := map[string]string{}
	paths, _ := filepath.Glob("testdata/*.jinja")
	for _, path := range paths {
		files[strings.TrimSuffix(filepath.Base(path), ".jinja")] = path
	}
	if dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/ardanlabs/jinja").Output(); err == nil {
		path := filepath.Join(strings.TrimSpace(string(dir)), "testdata", "templates", "Llama-3.2-1B-Instruct-GGUF.jinja")
		if _, err := os.Stat(path); err == nil {
			files[llama32] = path
		}
	}
	return files
})

// rendered is what transformers makes of a conversation.
type rendered struct{ Text, Error string }

type golden struct {
	Tokens map[string]string      // special_tokens_map
	Cases  map[string][2]rendered // without and with a generation prompt
}

var goldens = sync.OnceValue(func() (g map[string]golden) {
	b, err := os.ReadFile("testdata/golden.json")
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err != nil {
		panic(err)
	}
	return g
})

// clock is that of testdata/render.py.
var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func parse(t testing.TB, name string, o chat.Options) *chat.Template {
	path, ok := templates()[name]
	if !ok {
		t.Skip("modules are vendored, without their tests")
	}
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	g := goldens()[name]
	o.BOS, o.EOS, o.Now = g.Tokens["bos_token"], g.Tokens["eos_token"], clock
	tmpl, err := chat.Parse(string(source), o)
	require.NoError(t, err)
	return tmpl
}

func TestTextsAreThoseOfTransformers(t *testing.T) {
	for name, g := range goldens() {
		t.Run(name, func(t *testing.T) {
			for _, c := range conversations(t) {
				tmpl := parse(t, name, chat.Options{Variables: c.Variables})
				for i, want := range g.Cases[c.Name] {
					got, err := tmpl.Render(c.Messages, i == 1)
					if want.Error != "" {
						require.Error(t, err, c.Name)
						require.Empty(t, got)
						continue
					}
					require.NoError(t, err, c.Name)
					require.Equal(t, want.Text, got, "%s, generation prompt: %v", c.Name, i == 1)
				}
			}
		})
	}
}

// TestTransformersRendersTheSame renders again what golden.json holds.
func TestTransformersRendersTheSame(t *testing.T) {
	python := os.Getenv("CHAINRULE_PYTHON")
	if python == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		}
		t.Skip("CHAINRULE_PYTHON names no Python with transformers; .ci/run transformers makes one")
	}
	args := []string{"testdata/render.py"}
	for name, path := range templates() {
		args = append(args, name+"="+path)
	}
	cmd := exec.Command(python, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	want, err := os.ReadFile("testdata/golden.json")
	require.NoError(t, err)
	require.Equal(t, string(want), string(out))
}
