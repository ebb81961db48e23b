package chat

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// Encode returns the tokens of a conversation, those of the text that Render
// returns. Special tokens that a content spells are encoded as the characters
// that they are: what a user writes cannot end the turn or begin another.
//
// Nothing is added: a template that wants a token at the beginning writes it.
// The error is that of Render, or that a content with special tokens cannot be
// told from the template.
func (t *Template) Encode(messages []Message, generationPrompt bool) ([]int32, error) {
	t.needTokenizer()
	text, err := t.Render(messages, generationPrompt)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(messages, func(m Message) bool { s := t.find(valid(m.Content), 0); return s.Start != s.End }) {
		return t.o.Tokenizer.EncodeMarkup(text), nil
	}
	m, err := t.mark(messages, generationPrompt, text)
	if err != nil {
		return nil, err
	}
	plain, err := t.spelled(m)
	if err != nil {
		return nil, err
	}
	tokens, _ := t.o.Tokenizer.EncodeMixed(text, plain)
	return tokens, nil
}

// EncodeAnswers returns the tokens of a whole conversation, those that Encode
// returns without a generation prompt, and which of them the model is to
// learn: those that lie in a part of what RenderSpans returns. For next-token
// prediction, the target at position i is tokens[i+1] if trained[i+1], else
// ignored.
func (t *Template) EncodeAnswers(messages []Message) (tokens []int32, trained []bool, err error) {
	t.needTokenizer()
	text, err := t.Render(messages, false)
	if err != nil {
		return nil, nil, err
	}
	m, err := t.mark(messages, false, text)
	if err != nil {
		return nil, nil, err
	}
	answers, err := t.answers(m)
	if err != nil {
		return nil, nil, err
	}
	plain, err := t.spelled(m)
	if err != nil {
		return nil, nil, err
	}
	tokens, ends := t.o.Tokenizer.EncodeMixed(text, plain)
	trained = make([]bool, len(tokens))
	start := 0
	for i, end := range ends {
		for len(answers) > 0 && answers[0].End <= start {
			answers = answers[1:]
		}
		trained[i] = len(answers) > 0 && answers[0].Start < max(end, start+1)
		start = end
	}
	return tokens, trained, nil
}

// spelled returns the special tokens in the text without marks that contents
// spell: of each, the first rune.
func (t *Template) spelled(m *marked) (spans []tokenizer.Span, err error) {
	for i, message := range m.messages {
		// A content that goes without marks has its special tokens uncut.
		if at := t.find(message.Content, 0); at.Start != at.End {
			return nil, fmt.Errorf("chat: message %d (%s): a special token in its content cannot be told from the template's", i, message.Role)
		}
	}
	n, last := 0, 0
	for _, r := range m.text {
		switch {
		case r == m.runes.cut:
			spans = append(spans, tokenizer.Span{Start: n - last, End: n})
		case !m.runes.has(r):
			last = utf8.RuneLen(r)
			n += last
		}
	}
	return spans, nil
}

func (t *Template) needTokenizer() {
	if t.o.Tokenizer == nil {
		panic("chat: Options.Tokenizer is nil")
	}
}
