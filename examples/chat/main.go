// Chat holds a conversation with a model, in a terminal or through a pipe.
//
//	go run ./examples/chat -model SmolLM2-135M-Instruct.gguf
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Hold a conversation with a model.

  go run ./examples/chat -model SmolLM2-135M-Instruct.gguf
  go run ./examples/chat -model DIR -system "Answer in French." -prompt "Hi!"
  printf 'One?\nTwo?\n' | go run ./examples/chat -model DIR

The model is a Hugging Face directory or a GGUF file that has a chat template.
Every line is a message; one that ends with a backslash goes on in the next.
Ctrl-C stops an answer, which is kept as far as it came; at the prompt, a second
one ends the program, as Ctrl-D and /quit do. /help lists the commands. How
tokens are drawn is what the model's generation_config.json says, if it does.

  -model PATH        the model; an argument does, too
  -system TEXT       the system message, which says how to answer
  -prompt TEXT       answer this, and end
  -n N               tokens an answer has at most (1024)
  -context N         tokens a conversation has at most, of which the oldest
                     turns are forgotten; 0: what the model has, up to 2048 (0)
  -temperature X     0 always takes the most likely token (the model's, or 0.7)
  -top-k N           draw from the N most likely; 0: all (the model's, or 0)
  -top-p X           draw from the fewest that together have this probability;
                     1: from all (the model's, or 0.95)
  -min-p X           draw from those that are at least X times as likely as the
                     most likely one; 0: from all (the model's, or 0)
  -repeat-penalty X  make what was said less likely; 1: no (the model's, or 1)
  -seed N            the same seed draws the same answers; 0: any (0)
  -set PAIR          a variable of the chat template, as enable_thinking=false
  -v                 print how fast it was
` + cli.BackendHelp

type options struct {
	model, system, prompt, backend string
	n, context                     int
	sampler                        chainrule.SamplerOptions
	variables                      map[string]any
	verbose                        bool
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("chat", flag.ContinueOnError)
	f.StringVar(&o.model, "model", "", "")
	f.StringVar(&o.system, "system", "", "")
	f.StringVar(&o.prompt, "prompt", "", "")
	f.IntVar(&o.n, "n", 1024, "")
	f.IntVar(&o.context, "context", 0, "")
	number := func(to *float64) func(string) error {
		return func(s string) (err error) {
			*to, err = strconv.ParseFloat(s, 64)
			return err
		}
	}
	f.Func("temperature", "", number(&o.sampler.Temperature))
	f.Func("top-k", "", func(s string) (err error) {
		o.sampler.TopK, err = strconv.Atoi(s)
		return err
	})
	f.Func("top-p", "", number(&o.sampler.TopP))
	f.Func("min-p", "", number(&o.sampler.MinP))
	f.Func("repeat-penalty", "", number(&o.sampler.RepetitionPenalty))
	f.Uint64Var(&o.sampler.Seed, "seed", 0, "")
	f.Func("set", "", o.set)
	f.BoolVar(&o.verbose, "v", false, "")
	f.StringVar(&o.backend, "backend", "cpu", "")
	return f
}

// set reads -set NAME=VALUE.
func (o *options) set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return errors.New("want NAME=VALUE")
	}
	if o.variables == nil {
		o.variables = map[string]any{}
	}
	if b, err := strconv.ParseBool(value); err == nil && value != "0" && value != "1" {
		o.variables[name] = b
	} else if n, err := strconv.Atoi(value); err == nil {
		o.variables[name] = n
	} else {
		o.variables[name] = value
	}
	return nil
}

func main() {
	cli.Main("chat", func(ctx context.Context, args []string, out io.Writer) error {
		return run(ctx, args, os.Stdin, out, os.Stderr)
	})
}

func run(ctx context.Context, args []string, in *os.File, out, log io.Writer) error {
	var o options
	f := o.flags()
	arguments, err := cli.ParseAll(f, args, help, out)
	if err != nil {
		return err
	}
	if o.model == "" && len(arguments) > 0 {
		o.model, arguments = arguments[0], arguments[1:]
	}
	given := cli.Given(f)
	switch {
	case len(arguments) > 0:
		return cli.Usagef("unexpected argument %q: messages come from -prompt or standard input", arguments[0])
	case o.model == "":
		return cli.Usagef("which model? Name it with -model")
	case o.n < 1:
		return cli.Usagef("-n is %d, want 1 or more", o.n)
	case o.context < 0:
		return cli.Usagef("-context is %d, want 0 or more", o.context)
	case given["prompt"] && strings.TrimSpace(o.prompt) == "":
		return cli.Usagef("-prompt is empty")
	}
	if _, err := chainrule.NewSampler(o.sampler); err != nil {
		return cli.UsageError(err.Error())
	}
	b, err := cli.OpenModel(o.model, checkpoint.OpenOptions{}, log)
	if err != nil {
		return err
	}
	o.defaults(b.Generation, given)
	c, err := newConversation(b, &o, out, log)
	if err != nil {
		return err
	}
	defer c.Close()
	if o.prompt != "" {
		return c.answer(ctx, o.prompt)
	}
	return c.hold(ctx, in)
}

// defaults are of what the command line does not say.
func (o *options) defaults(g checkpoint.Generation, given map[string]bool) {
	set := func(name string, to *float64, of, otherwise float64) {
		switch {
		case given[name]:
		case of != 0:
			*to = of
		default:
			*to = otherwise
		}
	}
	set("temperature", &o.sampler.Temperature, g.Temperature, 0.7)
	set("top-p", &o.sampler.TopP, g.TopP, 0.95)
	set("min-p", &o.sampler.MinP, g.MinP, 0)
	set("repeat-penalty", &o.sampler.RepetitionPenalty, g.RepetitionPenalty, 1)
	if !given["top-k"] {
		o.sampler.TopK = max(0, g.TopK)
	}
	if o.sampler.Seed == 0 {
		o.sampler.Seed = uint64(time.Now().UnixNano())
	}
}

// openTemplate returns the model's chat template, or says what the model has
// not.
func openTemplate(b *checkpoint.Bundle, o *options) (*chat.Template, error) {
	switch {
	case b.Tokenizer == nil:
		return nil, fmt.Errorf("%s has no tokenizer", o.model)
	case b.ChatTemplate == "":
		return nil, fmt.Errorf("%s has no chat template: it was not trained to hold conversations; to let it go on with a text, type\n%s %s 'Once upon a time'",
			o.model, cli.Sibling("generate"), cli.Quote(o.model))
	}
	t, err := chat.Parse(b.ChatTemplate, chat.Options{
		BOS: b.Special.BOS.Text, EOS: b.Special.EOS.Text, Tokenizer: b.Tokenizer, Variables: o.variables,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.model, err)
	}
	messages := []chat.Message{{Role: "user", Content: "Hello"}}
	if _, err := t.Render(messages, true); err != nil {
		return nil, fmt.Errorf("%s: %w", o.model, err)
	}
	if o.system != "" {
		if _, err := t.Render(append([]chat.Message{{Role: "system", Content: o.system}}, messages...), true); err != nil {
			return nil, fmt.Errorf("%s: -system: %w", o.model, err)
		}
	}
	return t, nil
}
