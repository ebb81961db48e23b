package main

import (
	"strings"
	"text/template"

	"github.com/chainrule-go/chainrule/chat"
)

// ollamaTemplate returns the chat template in the language of Ollama, which is
// that of text/template, or "" if it is none of those that write every message
// in the same way wherever it stands, as most do. It is made by looking at what
// the model's own renders, and used only where both render the same. What begins every
// text is left out if the runtime adds it (BOS).
func (p *pupil) ollamaTemplate() string {
	if p.template == nil {
		return ""
	}
	render := func(prompt bool, messages ...chat.Message) string {
		text, err := p.template.Render(messages, prompt)
		if err != nil {
			return ""
		}
		if prefix, _ := p.Tokenizer.Template(); len(prefix) > 0 && p.Special.BOS.Text != "" {
			text = strings.TrimPrefix(text, p.Special.BOS.Text)
		}
		return text
	}
	const system, user, answer = "%system%", "%user%", "%answer%"
	s, u, a := chat.Message{Role: "system", Content: system}, chat.Message{Role: "user", Content: user}, chat.Message{Role: "assistant", Content: answer}

	// A system message, a user's and an answer, each as [before, after], and
	// the prompt to answer; what a template puts where there is no system message.
	cut := func(text, at string) (before, after string, ok bool) {
		before, after, ok = strings.Cut(text, at)
		return before, after, ok && !strings.Contains(after, at)
	}
	both, one := render(false, s, u), render(false, s, u, a)
	beforeSystem, rest, ok1 := cut(both, system)
	between, afterUser, ok2 := cut(rest, user)
	alone := render(false, u)
	beforeUser, _, ok3 := cut(alone, user)
	if !ok1 || !ok2 || !ok3 || !strings.HasPrefix(one, both) {
		return ""
	}
	beforeAnswer, afterAnswer, ok := cut(one[len(both):], answer)
	prompt, ok4 := strings.CutPrefix(render(true, s, u), both)
	if !ok || !ok4 {
		return ""
	}
	// Where a user's message begins is what the two before it have in common.
	n := 0
	for n < len(between) && n < len(beforeUser) && between[len(between)-1-n] == beforeUser[len(beforeUser)-1-n] {
		n++
	}
	for split := n; split > 0; split-- {
		begin := beforeUser[len(beforeUser)-split:]
		standard := beforeUser[:len(beforeUser)-split] // said where there is no system message
		text := ollamaSource(standard, [2]string{beforeSystem, between[:len(between)-split]},
			[2]string{begin, afterUser}, [2]string{beforeAnswer, afterAnswer}, prompt)
		t, err := template.New("").Parse(text)
		if err != nil {
			return ""
		}
		same := func(messages ...chat.Message) bool {
			var b strings.Builder
			err := t.Execute(&b, map[string]any{"Messages": messages, "System": ""})
			want := render(true, messages...)
			return err == nil && want != "" && b.String() == want
		}
		if same(u) && same(s, u) && same(u, a, u) && same(s, u, a, u, a, u) && !strings.Contains(text, `"""`) {
			return text
		}
	}
	return ""
}

// ollamaSource is a template of messages that are written as the content
// between two texts.
func ollamaSource(standard string, system, user, answer [2]string, prompt string) string {
	literal := func(s string) string { // also where it looks like an action
		return strings.ReplaceAll(s, "{{", `{{ "{{" }}`)
	}
	var b strings.Builder
	if standard != "" {
		b.WriteString(`{{ if ne (index .Messages 0).Role "system" }}` + literal(standard) + `{{ end }}`)
	}
	b.WriteString(`{{ range .Messages }}`)
	for i, m := range []struct {
		role string
		text [2]string
	}{{"system", system}, {"user", user}, {"assistant", answer}} {
		b.WriteString([]string{`{{ if`, `{{ else if`}[min(i, 1)] + ` eq .Role "` + m.role + `" }}`)
		b.WriteString(literal(m.text[0]) + `{{ .Content }}` + literal(m.text[1]))
	}
	b.WriteString(`{{ end }}{{ end }}` + literal(prompt))
	return b.String()
}
