package chat_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/chat"
)

// A template comes with a model from anywhere: whatever it is, there is a text
// or an error, and RenderSpans has the text of Render.
func FuzzTemplate(f *testing.F) {
	for _, path := range templates() {
		source, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(string(source), "<think>x</think> <|im_end|>\n")
	}
	f.Add("{% macro f(x) %}{{ x[1:2] | tojson }}{% endmacro %}{{ f(messages) }}{{ range(3) | join(',') }}", "y")
	f.Fuzz(func(t *testing.T, source, content string) {
		tmpl, err := chat.Parse(source, chat.Options{BOS: "<s>", EOS: "<|im_end|>", Now: clock})
		if err != nil {
			return
		}
		messages := []chat.Message{user(content), assistant(content), user("b"), assistant("c")}
		text, spans, err := tmpl.RenderSpans(messages)
		if err != nil {
			return
		}
		want, err := tmpl.Render(messages, false)
		require.NoError(t, err)
		require.Equal(t, want, text)
		last := 0
		for _, s := range spans {
			require.LessOrEqual(t, last, s.End)
			require.LessOrEqual(t, s.Start, s.End)
			require.LessOrEqual(t, s.End, len(text))
			last = s.End
		}
	})
}
