package chat_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/chat"
)

// user, assistant and system are messages.
func user(content string) chat.Message      { return chat.Message{Role: "user", Content: content} }
func assistant(content string) chat.Message { return chat.Message{Role: "assistant", Content: content} }
func system(content string) chat.Message    { return chat.Message{Role: "system", Content: content} }

func answersOf(t testing.TB, tmpl *chat.Template, messages ...chat.Message) (answers []string) {
	t.Helper()
	text, spans, err := tmpl.RenderSpans(messages)
	require.NoError(t, err)
	want, err := tmpl.Render(messages, false)
	require.NoError(t, err)
	require.Equal(t, want, text)
	for _, s := range spans {
		answers = append(answers, text[s.Start:s.End])
	}
	return answers
}

func TestAnswersAndTheTokenThatEndsThem(t *testing.T) {
	const thought = "<think>\nLet me see.\n</think>\n\nBecause."
	for _, c := range []struct {
		template string
		messages []chat.Message
		want     []string
	}{
		{"llama2", []chat.Message{user("One?"), assistant("1"), user("Two?"), assistant("2")}, []string{"1 </s>", "2 </s>"}},
		{"llama2", []chat.Message{system("S"), user("One?"), assistant("  1\n")}, []string{"1 </s>"}},
		{"llama3.2", []chat.Message{user("One?"), assistant("1 "), user("Two?"), assistant("2")}, []string{"1<|eot_id|>", "2<|eot_id|>"}},
		{"mistral", []chat.Message{user("One?"), assistant("1"), user("Two?"), assistant("2\n")}, []string{"1</s>", "2\n</s>"}},
		{"smollm2", []chat.Message{user("One?"), assistant("1"), user("Two?"), assistant(" 2 ")}, []string{"1<|im_end|>", " 2 <|im_end|>"}},
		{"qwen2.5", []chat.Message{user("One?"), assistant(thought)}, []string{thought + "<|im_end|>"}},
		{"smollm2", []chat.Message{assistant("First."), user("One?"), assistant("")}, []string{"First.<|im_end|>", "<|im_end|>"}},
		{"smollm2", []chat.Message{user("x"), assistant("a<|im_end|>b")}, []string{"a<|im_end|>b<|im_end|>"}},
		{"mistral", []chat.Message{user("x"), assistant("</s>")}, []string{"</s></s>"}},
		// Only the last turn has thoughts, and it has them always.
		{"qwen3", []chat.Message{user("Why?"), assistant(thought), user("And?"), assistant(thought)},
			[]string{"Because.<|im_end|>", thought + "<|im_end|>"}},
		{"qwen3", []chat.Message{user("Why?"), assistant("a"), user("And?"), assistant("b")},
			[]string{"a<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"}},
		{"qwen3", []chat.Message{user("Why?"), assistant("<think>x</think>y")}, []string{"<think>\nx\n</think>\n\ny<|im_end|>"}},
		{"qwen3", []chat.Message{user("Why?"), assistant("<think>\nonly\n</think>\n\n")}, []string{"<think>\nonly\n</think>\n\n<|im_end|>"}},
		{"qwen3", []chat.Message{user("Why?"), assistant("")}, []string{"<think>\n\n</think>\n\n<|im_end|>"}},
		// White space behind the thoughts is trimmed at its beginning.
		{"qwen3", []chat.Message{user(""), assistant(""), user(""), assistant("<|im_end|></think>\n")},
			[]string{"<|im_end|>", "<think>\n<|im_end|>\n</think>\n\n<|im_end|>"}},
		// One behind the other: both are turns.
		{"qwen3", []chat.Message{user("Why?"), assistant("a"), assistant("b")}, []string{"a<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"}},
		// The template looks at how a message begins.
		{"qwen3", []chat.Message{user("Call."), assistant("<think>\nI will.\n</think>\n\nCalled."), user("<tool_response>\n42\n</tool_response>"), assistant("42.")},
			[]string{"<think>\nI will.\n</think>\n\nCalled.<|im_end|>", "<think>\n\n</think>\n\n42.<|im_end|>"}},
	} {
		require.Equal(t, c.want, answersOf(t, parse(t, c.template, chat.Options{}), c.messages...), "%s %q", c.template, c.messages)
	}
}

func TestGenerationBlocksAreNotHeeded(t *testing.T) {
	tmpl, err := chat.Parse(`{% for m in messages %}{% if m.role == 'assistant' %}
Assistant: {% generation %}{{ m.content }}</s>
{% endgeneration %}
{% else %}
User: {{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}`, chat.Options{EOS: "</s>"})
	require.NoError(t, err)
	require.Equal(t, []string{"1</s>", "2</s>"}, answersOf(t, tmpl, user("One?"), assistant("1"), user("Two?"), assistant("2")))
}

func TestAGenerationPromptWithoutThoughtsIsNotLearned(t *testing.T) {
	tmpl := parse(t, "qwen3", chat.Options{Variables: map[string]any{"enable_thinking": false}})
	require.Equal(t, []string{"a<|im_end|>", "b<|im_end|>"}, answersOf(t, tmpl, user("Why?"), assistant("a"), user("And?"), assistant("b")))
}

// What precedes an answer of the whole conversation is what Render says before
// it, where a template renders a turn the same way whatever follows.
func TestAnswersBeginWhereThePromptEnds(t *testing.T) {
	for name, g := range goldens() {
		for _, c := range conversations(t) {
			tmpl := parse(t, name, chat.Options{Variables: c.Variables})
			text, spans, err := tmpl.RenderSpans(c.Messages)
			if g.Cases[c.Name][0].Error != "" {
				require.Error(t, err)
				continue
			}
			if err != nil {
				t.Logf("%s, %s: %v", name, c.Name, err)
				continue
			}
			require.Equal(t, g.Cases[c.Name][0].Text, text)
			n := 0
			for i, m := range c.Messages {
				if m.Role != "assistant" {
					continue
				}
				s := spans[n]
				n++
				answer := text[s.Start:s.End]
				require.True(t, strings.HasSuffix(answer, g.Tokens["eos_token"]), "%s, %s: %q", name, c.Name, answer)
				if name != "qwen3" {
					require.Contains(t, answer, strings.TrimSpace(m.Content))
					if i > 0 {
						prompt, err := tmpl.Render(c.Messages[:i], true)
						require.NoError(t, err)
						require.Equal(t, prompt, strings.TrimRight(text[:s.Start], " ")+prompt[len(strings.TrimRight(prompt, " ")):], "%s, %s", name, c.Name)
					}
				}
			}
			require.Len(t, spans, n)
		}
	}
}
