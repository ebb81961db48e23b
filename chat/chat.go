// Package chat makes a conversation the text, and the tokens, that a model was
// trained on: by its chat template, a program in Jinja that comes with the
// model. What a template sees is what Python's transformers gives it, without
// tools and documents, and a text is the one that apply_chat_template makes
// (but that U+001C to U+001F are no white space to be trimmed, as in Python).
//
// A conversation to be continued goes through [Template.Encode], one to be
// learned from through [Template.EncodeAnswers].
package chat

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ardanlabs/jinja"
	"github.com/ncruces/go-strftime"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// Message is a turn of a conversation. Roles are what the template knows:
// mostly "system", "user" and "assistant".
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Options are what a template is used with. The zero value renders.
type Options struct {
	// BOS and EOS are bos_token and eos_token, as the vocabulary spells them.
	// What is "" is not defined in the template.
	BOS, EOS string
	// Tokenizer is what Encode and EncodeAnswers encode with. Its special
	// tokens, and EOS, are what may end a turn.
	Tokenizer tokenizer.Model
	// Variables are more that the template may ask for, such as
	// "enable_thinking": false (Qwen3) or "date_string" (Llama 3). A value is
	// nil, a bool, an int, a float64, a string, or a []any or map[string]any
	// of these.
	Variables map[string]any
	// Now is the clock of strftime_now, by which templates say what day it is;
	// zero: the time of rendering.
	Now time.Time
}

// Template is a chat template. It is safe for concurrent use.
type Template struct {
	o       Options
	source  string
	program *jinja.Template
	specials
}

// maxSource is the largest template in bytes. Those of known models have at
// most 32 KiB; the bound is also one on how deeply expressions nest.
const maxSource = 1 << 17

// Parse reads a template. The error is that of its syntax, or that it recurses
// without a bound, which would end the process and not just the rendering.
//
// A template is a program, and may take long or much memory: one that a
// stranger wrote deserves the trust that the stranger does.
func Parse(source string, o Options) (*Template, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("chat: the template has %d bytes, at most %d are read", len(source), maxSource)
	}
	if err := checkRecursion(source); err != nil {
		return nil, err
	}
	t := &Template{o: o, source: source, specials: specialsOf(o)}
	err := recovered(func() (err error) {
		t.program, err = jinja.Compile(source)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("chat: the template is malformed: %w", err)
	}
	return t, nil
}

// Render returns the text of a conversation; generationPrompt adds what the
// model's answer is to follow. The error is mostly what the template says of
// the conversation, such as that it knows no system role.
//
// Special tokens that a content spells are not to be told from the template's
// in the text: Encode does.
func (t *Template) Render(messages []Message, generationPrompt bool) (text string, err error) {
	if len(messages) == 0 {
		return "", errors.New("chat: the conversation has no messages")
	}
	list := make([]jinja.Value, len(messages))
	for i, m := range messages {
		d := jinja.NewDict()
		d.AsDict().Set("role", jinja.NewString(m.Role))
		d.AsDict().Set("content", jinja.NewString(valid(m.Content)))
		list[i] = d
	}
	// The variables of transformers' apply_chat_template.
	vars := map[string]jinja.Value{
		"messages":              jinja.NewList(list),
		"add_generation_prompt": jinja.NewBool(generationPrompt),
		"tools":                 jinja.None(),
		"documents":             jinja.None(),
		"raise_exception":       jinja.NewCallable("raise_exception", raise),
		"strftime_now":          jinja.NewCallable("strftime_now", t.now),
		"range":                 jinja.NewCallable("range", boundedRange),
	}
	if t.o.BOS != "" {
		vars["bos_token"] = jinja.NewString(t.o.BOS)
	}
	if t.o.EOS != "" {
		vars["eos_token"] = jinja.NewString(t.o.EOS)
	}
	for name, v := range t.o.Variables {
		vars[name] = jinja.FromGoValue(v)
	}
	err = recovered(func() (err error) {
		text, err = t.program.RenderValues(vars)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("chat: the template fails on this conversation: %w", err)
	}
	return text, nil
}

// valid replaces what is not UTF-8, as every step behind would in its own way.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// recovered makes a panic of the interpreter, which a template from a file
// brought about, an error.
func recovered(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the interpreter failed: %v", r)
		}
	}()
	return f()
}

// Refused is what a template says of a conversation that it cannot render, by
// raise_exception.
type Refused struct{ Reason string }

// Error returns the reason.
func (e *Refused) Error() string { return e.Reason }

func raise(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	if len(args) == 0 || !args[0].IsString() {
		return jinja.Undefined(), &Refused{"it does not say why"}
	}
	return jinja.Undefined(), &Refused{args[0].AsString()}
}

func (t *Template) now(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	if len(args) == 0 || !args[0].IsString() {
		return jinja.Undefined(), errors.New("strftime_now: missing format")
	}
	now := t.o.Now
	if now.IsZero() {
		now = time.Now()
	}
	return jinja.NewString(strftime.Format(args[0].AsString(), now)), nil
}

// maxRange is the most that a range may have, as in the sandbox that
// transformers renders in.
const maxRange = 100_000

func boundedRange(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	n := [3]int64{0, 0, 1}
	switch len(args) {
	case 1, 2, 3:
	default:
		return jinja.Undefined(), fmt.Errorf("range: %d arguments", len(args))
	}
	for i, a := range args {
		if !a.IsInt() {
			return jinja.Undefined(), errors.New("range: an argument is no integer")
		}
		if len(args) == 1 {
			i = 1
		}
		n[i] = a.AsInt()
	}
	from, to, step := n[0], n[1], n[2]
	if step == 0 {
		return jinja.Undefined(), errors.New("range: the step is 0")
	}
	var items []jinja.Value
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if len(items) == maxRange {
			return jinja.Undefined(), fmt.Errorf("range: more than %d", maxRange)
		}
		items = append(items, jinja.NewInt(i))
		if step > 0 && i > to-step || step < 0 && i < to-step {
			break // the next would be beyond, and might overflow
		}
	}
	return jinja.NewList(items), nil
}
