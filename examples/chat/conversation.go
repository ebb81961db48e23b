package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// conversation is one with a model, and what it takes.
type conversation struct {
	o        *options
	out, log io.Writer

	tok      tokenizer.Model
	template *chat.Template
	stop     []int32
	be       backend.Backend
	session  *chainrule.Session
	sampler  *chainrule.Sampler

	interrupts <-chan struct{} // nil: Ctrl-C ends the program
	messages   []chat.Message
	saved      string // where the conversation was saved
}

func newConversation(b *checkpoint.Bundle, o *options, out, log io.Writer) (*conversation, error) {
	c := &conversation{o: o, out: out, log: log, tok: b.Tokenizer, stop: b.StopTokens()}
	var err error
	if c.template, err = openTemplate(b, o); err != nil {
		return nil, err
	}
	if c.sampler, err = chainrule.NewSampler(o.sampler); err != nil {
		return nil, fmt.Errorf("%s: generation_config.json: %w", o.model, err)
	}
	if c.be, err = cli.Backend(o.backend, log); err != nil {
		return nil, err
	}
	if c.session, err = chainrule.NewSession(b.Model, c.be, chainrule.SessionOptions{MaxLen: o.context}); err != nil {
		c.be.Close()
		return nil, cli.Usagef("-context: %v", err)
	}
	c.reset()
	return c, nil
}

// Close frees what the backend has.
func (c *conversation) Close() error { return c.be.Close() }

// reset forgets all but the system message.
func (c *conversation) reset() {
	c.messages = nil
	c.setSystem(c.o.system)
}

// setSystem replaces the system message, or removes it.
func (c *conversation) setSystem(text string) {
	c.o.system = text
	if c.head() == 1 {
		c.messages = c.messages[1:]
	}
	if text != "" {
		c.messages = append([]chat.Message{{Role: "system", Content: text}}, c.messages...)
	}
}

// head is the number of messages before the first turn.
func (c *conversation) head() int {
	if len(c.messages) > 0 && c.messages[0].Role == "system" {
		return 1
	}
	return 0
}

// errInterrupted is why an answer ends where it does.
var errInterrupted = errors.New("interrupted")

// answer writes the answer to a message and keeps both. An error of one
// message, such as that it is too long, is an error; the conversation is then
// as it was before.
func (c *conversation) answer(ctx context.Context, message string) error {
	before := slices.Clone(c.messages)
	c.messages = append(c.messages, chat.Message{Role: "user", Content: message})
	text, err := c.reply(ctx)
	if err != nil && !(errors.Is(err, errInterrupted) && text != "") {
		c.messages = before
		if errors.Is(err, errInterrupted) {
			return nil // nothing was said: ask again
		}
		return err
	}
	c.messages = append(c.messages, chat.Message{Role: "assistant", Content: text})
	return nil
}

// reply writes what the model says to the messages, and returns it.
func (c *conversation) reply(ctx context.Context) (text string, err error) {
	if c.interrupts != nil {
		var stop context.CancelCauseFunc
		ctx, stop = context.WithCancelCause(ctx)
		done := make(chan struct{})
		defer close(done)
		defer stop(nil)
		select {
		case <-c.interrupts: // of before
		default:
		}
		go func() {
			select {
			case <-c.interrupts:
				stop(errInterrupted)
			case <-done:
			}
		}()
	}
	prompt, err := c.fit()
	if err != nil {
		return "", err
	}
	// What the cache has of the conversation need not be computed again.
	cached := 0
	for has := c.session.Tokens(0); cached < min(len(has), len(prompt)-1) && has[cached] == prompt[cached]; cached++ {
	}
	c.session.Truncate(0, cached)

	begin, first, n := time.Now(), time.Duration(0), 0
	stream := tokenizer.NewStream(c.tok)
	var all strings.Builder
	put := func(s string) error {
		all.WriteString(s)
		if cli.Width(c.out) > 0 { // whatever bytes the model writes, the terminal stays whole
			s = cli.Printable(s)
		}
		_, err := io.WriteString(c.out, s)
		return err
	}
	ended := false
	for token, e := range c.session.Generate(ctx, prompt[cached:], c.sampler) {
		if err = e; err != nil {
			break
		}
		if n++; n == 1 {
			first = time.Since(begin)
		}
		if ended = slices.Contains(c.stop, token); ended {
			break
		}
		if err = put(stream.Put(token)); err != nil || n == c.o.n {
			break
		}
	}
	if e := put(stream.Flush()); err == nil {
		err = e
	}
	if _, e := fmt.Fprintln(c.out); err == nil {
		err = e
	}
	took := time.Since(begin)
	switch {
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(c.log, "(stopped)")
	case err != nil:
		return all.String(), err
	case ended:
	case n == c.o.n:
		fmt.Fprintf(c.log, "(cut at %d tokens: -n)\n", n)
	default:
		fmt.Fprintf(c.log, "(the context of %d tokens is full)\n", c.session.MaxLen())
	}
	if c.o.verbose && n > 0 {
		fmt.Fprintf(c.log, "(%d tokens of %d in the cache; %d read in %s, %s; %d written in %s, %s)\n",
			cached, len(prompt), len(prompt)-cached, seconds(first), speed(len(prompt)-cached, first), n, seconds(took-first), speed(n-1, took-first))
	}
	return all.String(), err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func speed(tokens int, d time.Duration) string {
	return fmt.Sprintf("%.1f tokens/s", float64(tokens)/max(d.Seconds(), 1e-9))
}

// fit returns the tokens of the conversation. Where they leave too little room
// for an answer, the oldest turns go, more than needed, so that not every turn
// from now on costs another and all that the cache has.
func (c *conversation) fit() ([]int32, error) {
	most := c.session.MaxLen()
	tokens, err := c.template.Encode(c.messages, true)
	if err != nil || len(tokens) <= most-min(c.o.n, most/4) {
		return tokens, err
	}
	forgotten := 0
	for len(tokens) > most/2 {
		// A turn is a user's message and all that follows it.
		rest := c.messages[c.head():]
		next := slices.IndexFunc(rest[1:], func(m chat.Message) bool { return m.Role == "user" })
		if next < 0 {
			break
		}
		c.messages = append(slices.Clone(c.messages[:c.head()]), rest[next+1:]...)
		forgotten++
		if tokens, err = c.template.Encode(c.messages, true); err != nil {
			return nil, err
		}
	}
	if len(tokens) >= most {
		return nil, fmt.Errorf("the message is too long: with it, %d tokens are to be read, and -context is %d", len(tokens), most)
	}
	if forgotten > 0 {
		fmt.Fprintf(c.log, "(the context of %d tokens is full: the oldest turns, %d, are forgotten)\n", most, forgotten)
	}
	return tokens, nil
}
