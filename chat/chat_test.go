package chat_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/chainrule-go/chainrule/chat"
)

func TestMistakesInATemplateAreErrors(t *testing.T) {
	for source, want := range map[string]string{
		"{% if %}":                               "the template is malformed",
		"{{ x":                                   "the template is malformed",
		"{% for m in messages %}":                "the template is malformed",
		strings.Repeat("x", 1<<17+1):             "the template has 131073 bytes, at most 131072 are read",
		"{% macro f() %}{{ f() }}{% endmacro %}": "the template's macro f calls itself",
		"{%- macro f(x) -%}{{ g(x) }}{%- endmacro -%}{% macro g(x) %}{% if f(x) %}{% endif %}{% endmacro %}": "calls itself",
		"{% macro f() %}{% macro g() %}{{ f() }}{% endmacro %}{{ g() }}{% endmacro %}":                       "calls itself",
		"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}":                                            "has a recursive loop",
	} {
		_, err := chat.Parse(source, chat.Options{})
		require.ErrorContains(t, err, want)
	}
	_, err := chat.Parse("{% macro f() %}1{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}{{ g() }}", chat.Options{})
	require.NoError(t, err)
}

func TestWhatATemplateRefuses(t *testing.T) {
	_, err := parse(t, "mistral", chat.Options{}).Render([]chat.Message{system("x"), user("y")}, true)
	require.EqualError(t, err, "chat: the template fails on this conversation: Conversation roles must alternate user/assistant/user/assistant/...")
	require.ErrorAs(t, err, new(*chat.Refused))
	_, err = parse(t, "smollm2", chat.Options{}).Render(nil, true)
	require.EqualError(t, err, "chat: the conversation has no messages")
	for source, want := range map[string]string{
		"{% for i in range(100001) %}x{% endfor %}": "range: more than 100000",
		"{{ range(1, 2, 0) }}":                      "range: the step is 0",
		"{{ raise_exception() }}":                   "it does not say why",
	} {
		tmpl, err := chat.Parse(source, chat.Options{})
		require.NoError(t, err)
		_, err = tmpl.Render([]chat.Message{user("x")}, true)
		require.ErrorContains(t, err, want)
	}
}

func TestRange(t *testing.T) {
	tmpl, err := chat.Parse(`{{ range(3) | join(' ') }};{{ range(2, 5) | join(' ') }};{{ range(5, 0, -2) | join(' ') }};{{ range(0) | join(' ') }};`+
		`{{ range(max - 1, max, 7) | length }};{{ range(max, -max, -max) | length }}`, chat.Options{Variables: map[string]any{"max": math.MaxInt}})
	require.NoError(t, err)
	text, err := tmpl.Render([]chat.Message{user("x")}, false)
	require.NoError(t, err)
	require.Equal(t, "0 1 2;2 3 4;5 3 1;;1;2", text)
}

func TestTheDate(t *testing.T) {
	const source = `{{ strftime_now("%d %b %Y, %A %H:%M:%S %y %j %%") }}`
	tmpl, err := chat.Parse(source, chat.Options{Now: clock})
	require.NoError(t, err)
	text, err := tmpl.Render([]chat.Message{user("x")}, false)
	require.NoError(t, err)
	require.Equal(t, "02 Jan 2026, Friday 03:04:05 26 002 %", text)
	tmpl, err = chat.Parse(source, chat.Options{})
	require.NoError(t, err)
	now, err := tmpl.Render([]chat.Message{user("x")}, false)
	require.NoError(t, err)
	require.NotEqual(t, text, now)
}

func TestWhatIsNotUTF8(t *testing.T) {
	text, err := parse(t, "mistral", chat.Options{}).Render([]chat.Message{user("a\xff\xfeb")}, true)
	require.NoError(t, err)
	require.Equal(t, "<s>[INST] a\uFFFDb [/INST]", text)
}

func TestAnswersThatCannotBeFoundAreErrors(t *testing.T) {
	for _, c := range []struct{ source, eos, want string }{
		{"{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "</s>", "message 1 (assistant): no special token ends its turn"},
		{"{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}</s>{% endif %}{% endfor %}", "</s>", "message 1 (assistant): no special token ends its turn"},
		{"{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}{% endif %}{{ m.content }}{% endfor %}", "</s>", "message 1 (assistant): no special token ends its turn"},
		{"{% for m in messages %}{{ m.content }}{{ m.content }}</s>{% endfor %}", "</s>", "message 1 (assistant): the template has its content more than once"},
		{"{{ messages[0].content }}</s>", "</s>", "message 1 (assistant): the template leaves its content out"},
		{"{% for m in messages %}{{ m.content | length }}</s>{% endfor %}", "</s>", "message 1 (assistant): where the template puts its content cannot be found"},
		{"{% set n = namespace(s='') %}{% for m in messages %}{% set n.s = n.s ~ m.content %}{% endfor %}{{ n.s | length }}</s>", "</s>", "cannot be found"},
	} {
		tmpl, err := chat.Parse(c.source, chat.Options{BOS: "<s>", EOS: c.eos})
		require.NoError(t, err)
		_, _, err = tmpl.RenderSpans([]chat.Message{user("q"), assistant("a"), user("r"), assistant("b")})
		require.ErrorContains(t, err, c.want, c.source)
	}
}

// fragments are what can go wrong in a message.
var fragments = []string{
	"", " ", "\n", "\t", "\u00a0", "\u2003", "\x1c", "a", "word", "é", "日本", "😀", "<think>", "</think>", "<|im_end|>", "<|im_start|>assistant\n",
	"</s>", "<s>", "[INST]", "[/INST]", "<|eot_id|>", "<<SYS>>", "<tool_response>", "</tool_response>", "{{ x }}", "\U000F0000", "\U000F0001", "\U000F0002", "<|im_", "end|>", "\xff", "\r\n",
}

// Whatever is said, the answers are found; the text is that of Render, and they are the tokens that a harmless conversation
// would have between special tokens.
func TestAnswersOfAnyConversation(t *testing.T) {
	for name, g := range goldens() {
		tok := tokenizerFor(t, name)
		tmpl := parse(t, name, chat.Options{Tokenizer: tok})
		rapid.Check(t, func(t *rapid.T) {
			content := rapid.Custom(func(t *rapid.T) string {
				return strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 6).Draw(t, "content"), "")
			})
			var messages []chat.Message
			for range rapid.IntRange(1, 3).Draw(t, "turns") {
				messages = append(messages, user(content.Draw(t, "user")), assistant(content.Draw(t, "assistant")))
			}
			text, spans, err := tmpl.RenderSpans(messages)
			require.NoError(t, err)
			want, err := tmpl.Render(messages, false)
			require.NoError(t, err)
			require.Equal(t, want, text)
			require.Len(t, spans, len(messages)/2)
			last := 0
			for i, s := range spans {
				require.LessOrEqual(t, last, s.Start)
				last = s.End
				answer, ok := strings.CutSuffix(text[s.Start:s.End], g.Tokens["eos_token"])
				require.True(t, ok, answer)
				if !strings.Contains(messages[2*i+1].Content, "think>") {
					require.Equal(t, strings.TrimSpace(strings.ToValidUTF8(messages[2*i+1].Content, "\uFFFD")), strings.TrimSpace(strings.TrimPrefix(answer, "<think>\n\n</think>\n\n")))
				}
			}
			tokens, trained, err := tmpl.EncodeAnswers(messages)
			require.NoError(t, err)
			ends := 0
			for i := range tokens {
				if trained[i] && tok.Special(tokens[i]) {
					ends++
				}
			}
			require.Equal(t, len(spans), ends, "an answer that ends before its end")
		})
	}
}
