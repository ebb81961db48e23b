package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// pupil is the model that is tuned, and what it takes to talk to it.
type pupil struct {
	*checkpoint.Bundle
	template *chat.Template // nil: there is none
	be       backend.Backend
}

func openPupil(path string, progress io.Writer) (*pupil, error) {
	b, err := cli.OpenModel(path, checkpoint.OpenOptions{}, progress)
	if err != nil {
		return nil, err
	}
	if b.Tokenizer == nil {
		return nil, fmt.Errorf("%s has no tokenizer, and data become no tokens without", path)
	}
	p := &pupil{Bundle: b}
	if b.ChatTemplate != "" {
		p.template, err = chat.Parse(b.ChatTemplate, chat.Options{BOS: b.Special.BOS.Text, EOS: b.Special.EOS.Text, Tokenizer: b.Tokenizer})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return p, nil
}

// dataset is what a run learns from and what it measures on.
type dataset struct {
	records, valRecords []data.Record // of -val, if there is one
	heldOut             *data.Record  // the first one
	train, val          *data.Padded  // val is nil if nothing is held out
	batch, longest      int           // the shape of their batches

	tokens, learned, cut, left, held int
}

// readData reads DATA and -val.
func readData(s *settings) (*dataset, error) {
	set := new(dataset)
	for _, from := range []struct {
		path string
		to   *[]data.Record
	}{{s.Data, &set.records}, {s.Val, &set.valRecords}} {
		if from.path == "" {
			continue
		}
		for r, err := range data.ReadJSONL(from.path) {
			if err != nil {
				return nil, err
			}
			*from.to = append(*from.to, r)
		}
	}
	return set, nil
}

// encode makes batches of the records.
func (set *dataset) encode(ctx context.Context, s *settings, p *pupil) error {
	most := p.Model.SeqLen
	if s.MaxLen > most {
		return cli.Usagef("-max-len is %d, want at most the model's %d", s.MaxLen, most)
	}
	e := &data.Encoder{Tokenizer: p.Tokenizer, End: -1, MaxLen: s.MaxLen}
	if e.MaxLen == 0 {
		e.MaxLen = min(most, 1024)
	}
	if ends := p.StopTokens(); p.Special.EOS.Text != "" {
		e.End = p.Special.EOS.ID
	} else if len(ends) > 0 {
		e.End = ends[0]
	}
	if p.template != nil {
		e.Chat = func(messages []data.Message) ([]int32, []bool, error) {
			return p.template.EncodeAnswers(messagesOf(messages))
		}
	}
	examples := func(path string, records []data.Record) (all []data.Example, err error) {
		for _, r := range records {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			some, err := e.Encode(r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			if len(some) == 0 {
				set.left++
			}
			for _, x := range some {
				set.tokens += len(x.Tokens) + 1
				if x.Cut {
					set.cut++
				}
				for _, id := range x.Targets {
					if id >= 0 {
						set.learned++
					}
				}
			}
			all = append(all, some...)
		}
		return all, nil
	}
	train, err := examples(s.Data, set.records)
	if err != nil {
		return err
	}
	val, from := []data.Example(nil), set.records
	if s.Val != "" {
		from = set.valRecords
		if val, err = examples(s.Val, from); err != nil {
			return err
		}
	} else if s.HeldOut > 0 {
		train, val = data.SplitExamples(train, s.HeldOut, s.Seed)
	}
	if len(train) == 0 {
		return fmt.Errorf("%s: of %d lines none is left to learn from: all prompts are longer than -max-len %d", s.Data, len(set.records), e.MaxLen)
	}
	set.batch, set.longest = s.Batch, max(data.Longest(train), data.Longest(val))
	if set.train, err = data.NewPadded(train, set.batch, set.longest, s.Seed); err != nil {
		return err
	}
	if len(val) > 0 {
		if set.val, err = data.NewPadded(val, set.batch, set.longest, s.Seed); err != nil {
			return err
		}
		i := slices.IndexFunc(from, func(r data.Record) bool { return r.Line == val[0].Line })
		set.heldOut = &from[i]
		for i, x := range val {
			if i == 0 || x.Line != val[i-1].Line {
				set.held++
			}
		}
	}
	return nil
}

func messagesOf(messages []data.Message) []chat.Message {
	out := make([]chat.Message, len(messages))
	for i, m := range messages {
		out[i] = chat.Message(m)
	}
	return out
}

// report says what the data are.
func (set *dataset) report(s *settings) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d lines, %d held out; %d tokens, of which %d are learned\n", s.Data, len(set.records)+len(set.valRecords), set.held, set.tokens, set.learned)
	if set.cut > 0 {
		fmt.Fprintf(&b, "  %d answers are longer than -max-len, and cut there\n", set.cut)
	}
	if set.left > 0 {
		fmt.Fprintf(&b, "  %d lines have longer prompts than -max-len, and are left out\n", set.left)
	}
	if set.val == nil {
		fmt.Fprintf(&b, "  nothing is held out: there is no measuring what the model learns to answer elsewhere\n")
	}
	return b.String()
}

// question is what the model is asked before and after.
type question struct {
	text   string
	tokens []int32
}

// question returns that of -prompt, or of the first held-out example; nil if there is none.
func (set *dataset) question(s *settings, p *pupil) *question {
	var messages []chat.Message
	text := s.Prompt
	switch r := set.heldOut; {
	case text != "":
		messages = []chat.Message{{Role: "user", Content: text}}
	case r == nil:
		return nil
	case r.Messages != nil:
		messages = messagesOf(r.Messages)
		for len(messages) > 0 && messages[len(messages)-1].Role != "assistant" {
			messages = messages[:len(messages)-1]
		}
		messages = messages[:len(messages)-1]
		if len(messages) > 0 {
			text = messages[len(messages)-1].Content
		}
	default:
		text = r.Prompt
	}
	if text == "" {
		return nil
	}
	if p.template != nil && messages != nil {
		if tokens, err := p.template.Encode(messages, true); err == nil {
			return &question{text, tokens}
		}
	}
	prefix, _ := p.Tokenizer.Template()
	return &question{text, append(prefix[:len(prefix):len(prefix)], p.Tokenizer.EncodeMarkup(text)...)}
}

// answer returns the most likely answer, of at most 100 tokens; "" if nothing is asked.
func (p *pupil) answer(ctx context.Context, q *question) (string, error) {
	const most = 100
	if q == nil || len(q.tokens) >= p.Model.SeqLen {
		return "", nil
	}
	session, err := chainrule.NewSession(p.Model, p.be, chainrule.SessionOptions{MaxLen: min(p.Model.SeqLen, len(q.tokens)+most)})
	if err != nil {
		return "", err
	}
	greedy, err := chainrule.NewSampler(chainrule.SamplerOptions{})
	if err != nil {
		return "", err
	}
	stream, ends := tokenizer.NewStream(p.Tokenizer), p.StopTokens()
	var b strings.Builder
	n := 0
	for id, err := range session.Generate(ctx, q.tokens, greedy) {
		if err != nil {
			return "", err
		}
		if slices.Contains(ends, id) {
			return b.String() + stream.Flush(), nil
		}
		b.WriteString(stream.Put(id))
		if n++; n == most {
			break
		}
	}
	return b.String() + stream.Flush() + "…", nil
}

// indent makes what a model wrote safe for a terminal, and fits it beside a heading.
func indent(text string) string {
	return strings.ReplaceAll(cli.Printable(strings.TrimSpace(text)), "\n", "\n          ")
}
