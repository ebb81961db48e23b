package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// RenderSpans returns the text of a whole conversation, that of Render without
// a generation prompt, and for each message of the role "assistant" the part
// of it that the model is to learn: what it would have written at that place.
//
// An answer begins where the generation prompt ends, so that what a template
// puts before the content for the model to write, such as Qwen3's empty
// <think> block, is part of it; it ends behind the special token that ends the
// turn, without which a model would never learn to stop. White space behind
// that token is not part of it.
//
// Parts are found by rendering with marks, not by comparing texts of
// conversations of different lengths: some templates render a turn in another
// way once it is not the last (Qwen3 drops its thoughts). Marks are characters
// of Unicode's private use that occur in no message; they are put at both ends
// of each content, inside of the white space there if the template trims it, and
// into each special token that a content spells, and are taken out of what was
// rendered. What is left must be the text that comes without marks. A message
// that a template renders otherwise with marks goes without.
//
// The {% generation %} blocks that a few templates have say the same, but also
// what no model writes, such as the newline behind the end of a turn (those of
// trl's templates for Qwen 2.5 and 3; for Llama 3 they agree): they are
// rendered, and not heeded.
//
// The error is that of Render, or names the message whose answer cannot be
// told from the text, or that no special token ends.
func (t *Template) RenderSpans(messages []Message) (text string, answers []tokenizer.Span, err error) {
	text, err = t.Render(messages, false)
	if err != nil {
		return "", nil, err
	}
	m, err := t.mark(messages, false, text)
	if err != nil {
		return "", nil, err
	}
	answers, err = t.answers(m)
	return text, answers, err
}

func (t *Template) answers(m *marked) (answers []tokenizer.Span, err error) {
	m.prompt = t.prompt(m.messages)
	for i, message := range m.messages {
		if message.Role != "assistant" {
			continue
		}
		span, err := t.answer(m, i)
		if err != nil {
			return nil, fmt.Errorf("chat: message %d (assistant): %w", i, err)
		}
		answers = append(answers, span)
	}
	return answers, nil
}

// marked is a conversation that was rendered with marks.
type marked struct {
	messages []Message // with marks
	runes    marks
	text     string       // with marks
	at       map[rune]int // where each mark is in text, -1 where it is more than once
	prompt   string
}

// marks are characters that occur nowhere else: those around content i are the
// runes first+2i and first+2i+1, and cut is in special tokens.
type marks struct{ cut, first, end rune }

func (m marks) open(i int) rune  { return m.first + 2*rune(i) }
func (m marks) close(i int) rune { return m.open(i) + 1 }
func (m marks) has(r rune) bool  { return r >= m.cut && r < m.end }

// strip returns s without marks.
func (m marks) strip(s string) string {
	return strings.Map(func(r rune) rune {
		if m.has(r) {
			return -1
		}
		return r
	}, s)
}

// newMarks returns marks for messages: a run of characters of planes 15 and 16
// that neither they nor the template have.
func (t *Template) newMarks(messages []Message) (marks, error) {
	const lowest, highest = 0xF0000, 0x10FFFD
	n := rune(2*len(messages) + 1)
	used := lowest - 1 // the last rune that is taken
	for from := rune(lowest); ; from = rune(used) + 1 {
		if from+n > highest+1 {
			return marks{}, errors.New("chat: the messages leave no characters to mark them with")
		}
		used = -1
		look := func(s string) {
			for _, r := range s {
				if r >= from && r < from+n {
					used = max(used, int(r))
				}
			}
		}
		look(t.source)
		for _, m := range messages {
			look(m.Content)
		}
		if used < 0 {
			return marks{from, from + 1, from + n}, nil
		}
	}
}

// mark renders messages with marks; text is what they are without.
func (t *Template) mark(messages []Message, generationPrompt bool, text string) (*marked, error) {
	runes, err := t.newMarks(messages)
	if err != nil {
		return nil, err
	}
	m := &marked{runes: runes, messages: slices.Clone(messages)}
	render := func(messages []Message) (with string, ok bool) {
		with, err := t.Render(messages, generationPrompt)
		return with, err == nil && runes.strip(with) == text
	}
	var with string
	ok := false
	for _, p := range places {
		for i, message := range messages {
			m.messages[i].Content = t.markContent(message.Content, runes, i, p)
		}
		if with, ok = render(m.messages); ok {
			break
		}
	}
	if !ok { // each message in its own way
		for i, message := range messages {
			alone := slices.Clone(messages)
			for _, p := range places {
				alone[i].Content = t.markContent(message.Content, runes, i, p)
				if _, ok = render(alone); ok {
					break
				}
			}
			if !ok {
				alone[i].Content = message.Content
			}
			m.messages[i] = alone[i]
		}
		if with, ok = render(m.messages); !ok {
			return nil, errors.New("chat: the template's text depends on the messages in a way that hides where they are")
		}
	}
	m.text, m.at = with, map[rune]int{}
	for i, r := range with {
		if _, twice := m.at[r]; twice {
			i = -1
		}
		if runes.has(r) && r != runes.cut {
			m.at[r] = i
		}
	}
	return m, nil
}

// places are where the marks at the ends of a content may be: outside of the
// white space there, or inside.
var places = []struct{ leadOutside, trailOutside bool }{{true, false}, {false, false}, {false, true}, {true, true}}

// markContent returns the content of message i with marks.
func (t *Template) markContent(content string, m marks, i int, place struct{ leadOutside, trailOutside bool }) string {
	from, to := 0, len(content)
	if !place.leadOutside {
		from = to - len(strings.TrimLeftFunc(content, unicode.IsSpace))
	}
	if !place.trailOutside {
		to = max(from, len(strings.TrimRightFunc(content, unicode.IsSpace)))
	}
	return content[:from] + string(m.open(i)) + t.cut(content[from:to], m.cut) + string(m.close(i)) + content[to:]
}

// find returns where a mark is in the marked text.
func (m *marked) find(r rune) (at int, ok bool) {
	at, ok = m.at[r]
	return at, ok && at >= 0
}

// plain returns the offset in the text without marks of one in that with.
func (m *marked) plain(at int) int {
	n := 0
	for _, r := range m.text[:at] {
		if !m.runes.has(r) {
			n += utf8.RuneLen(r)
		}
	}
	return n
}

// answer returns the span of message i in the text without marks.
func (t *Template) answer(m *marked, i int) (span tokenizer.Span, err error) {
	open, opened := m.find(m.runes.open(i))
	content, closed := m.find(m.runes.close(i)) // where it ends
	if !closed {
		_, twice := m.at[m.runes.close(i)]
		special := t.find(m.messages[i].Content, 0)
		switch {
		case twice:
			return span, errors.New("the template has its content more than once")
		case strings.ContainsRune(m.messages[i].Content, m.runes.close(i)):
			return span, errors.New("the template leaves its content out")
		case special.Start != special.End: // the content is without marks
			return span, errors.New("a special token in its content cannot be told from the template's")
		}
	}
	start, ok := m.promptEnd(i)
	if !ok {
		if start = open; !opened {
			return span, errors.New("where the template puts its content cannot be found")
		}
	}
	content = max(content, start)
	end := t.find(m.text, content)
	if end.Start == end.End || t.o.BOS != "" && t.o.BOS != t.o.EOS && m.text[end.Start:end.End] == t.o.BOS || m.foreign(i, content, end.Start) {
		return span, errors.New("no special token ends its turn: a model could not learn to stop")
	}
	return tokenizer.Span{Start: m.plain(start), End: m.plain(end.End)}, nil
}

// foreign reports whether a mark of another message than i is in a part of the
// marked text.
func (m *marked) foreign(i, from, to int) bool {
	return strings.ContainsFunc(m.text[from:to], func(r rune) bool {
		return m.runes.has(r) && r != m.runes.cut && r != m.runes.open(i) && r != m.runes.close(i)
	})
}

// promptEnd returns where in the marked text the generation prompt before
// answer i ends: behind all other contents that come before it.
func (m *marked) promptEnd(i int) (at int, ok bool) {
	if m.prompt == "" {
		return 0, false
	}
	to, opened := m.find(m.runes.open(i))
	if !opened {
		if to, ok = m.find(m.runes.close(i)); !ok {
			to = len(m.text)
		}
	}
	from := 0
	for j := range m.messages {
		for _, r := range []rune{m.runes.open(j), m.runes.close(j)} {
			if at, ok := m.find(r); ok && j < i {
				from = max(from, at)
			} else if ok && j > i {
				to = min(to, at)
			}
		}
	}
	if from > to {
		return 0, false
	}
	within := m.text[from:to]
	if at = strings.Index(within, m.prompt); opened {
		at = strings.LastIndex(within, m.prompt)
	}
	return from + at + len(m.prompt), at >= 0
}

// prompt returns what the template puts behind messages for the model's answer
// to follow, "" if nothing or more changes than that.
func (t *Template) prompt(messages []Message) string {
	if len(messages) > 1 && messages[len(messages)-1].Role == "assistant" {
		messages = messages[:len(messages)-1]
	}
	without, err := t.Render(messages, false)
	if err != nil {
		return ""
	}
	with, err := t.Render(messages, true)
	prompt, ok := strings.CutPrefix(with, without)
	if err != nil || !ok {
		return ""
	}
	return prompt
}
