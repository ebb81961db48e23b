// Generate writes text with a model, as it comes.
//
//	go run ./examples/generate runs/opticks-1 "The Rays of Light"
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
)

const help = `Write text with a model.

  go run ./examples/generate runs/opticks-1 "The Rays of Light"
  echo "The Rays" | go run ./examples/generate runs/opticks-1
  go run ./examples/generate -tokens stories15M.bin "1 9038 2501"

The model is a run of examples/train, one of its checkpoints, a Hugging Face
model directory of a Llama, Mistral, SmolLM, Qwen2, Qwen2.5 or Qwen3, a GGUF
file, or a llama2.c file with its tokenizer.bin beside it. The prompt is the
other arguments, behind a lone -- also those with a dash, or standard input. The
model goes on from it; to be answered, use examples/chat. Ctrl-C stops.

  -n N              tokens to write at most: a model may end its text (400)
  -temperature X    0 always takes the most likely token (0.8)
  -top-k N          draw from the N most likely; 0: from all (0)
  -top-p X          draw from the fewest that together have this probability;
                    1: from all (0.95)
  -seed N           the same seed writes the same text (1)
  -tokens           the prompt and the output are token numbers, of any model
` + cli.BackendHelp

type options struct {
	n       int
	sampler chainrule.SamplerOptions
	numbers bool
	backend string
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("generate", flag.ContinueOnError)
	f.IntVar(&o.n, "n", 400, "")
	f.Float64Var(&o.sampler.Temperature, "temperature", 0.8, "")
	f.IntVar(&o.sampler.TopK, "top-k", 0, "")
	f.Float64Var(&o.sampler.TopP, "top-p", 0.95, "")
	f.Uint64Var(&o.sampler.Seed, "seed", 1, "")
	f.BoolVar(&o.numbers, "tokens", false, "")
	f.StringVar(&o.backend, "backend", "cpu", "")
	return f
}

func main() {
	cli.Main("generate", func(ctx context.Context, args []string, out io.Writer) error {
		return run(ctx, args, os.Stdin, out)
	})
}

func run(ctx context.Context, args []string, in *os.File, out io.Writer) error {
	var o options
	arguments, err := cli.ParseAll(o.flags(), args, help, out)
	if err != nil {
		return err
	}
	if len(arguments) == 0 {
		return cli.Usagef("which model? Name a directory, a GGUF or a llama2.c file")
	}
	path := arguments[0]
	if o.n < 1 {
		return cli.Usagef("-n is %d, want 1 or more", o.n)
	}
	if _, err := chainrule.NewSampler(o.sampler); err != nil {
		return cli.UsageError(err.Error())
	}
	b, err := cli.OpenModel(path, checkpoint.OpenOptions{NoTokenizer: o.numbers}, os.Stderr)
	if err != nil {
		return err
	}
	if b.Tokenizer == nil && !o.numbers {
		return fmt.Errorf("%s has no tokenizer for its %d tokens: use -tokens", path, b.Model.VocabSize)
	}
	text := strings.Join(arguments[1:], " ")
	if text == "" && !term.IsTerminal(int(in.Fd())) {
		if text, err = read(ctx, in); err != nil {
			return err
		}
	}
	var prompt []int32
	put, end := func(token int32) string { return fmt.Sprintf(" %d", token) }, func() string { return "" }
	if o.numbers {
		text = strings.Join(strings.Fields(strings.ReplaceAll(text, ",", " ")), " ")
		for _, word := range strings.Fields(text) {
			token, err := strconv.ParseInt(word, 10, 32)
			if err != nil {
				return cli.Usagef("%q in the prompt is not a token number", word)
			}
			prompt = append(prompt, int32(token))
		}
	} else {
		prompt, put, end = encode(b.Tokenizer, text)
		if cli.Width(out) > 0 { // whatever bytes the model writes, the terminal stays whole
			text = cli.Printable(text)
			bytes, rest := put, end
			put = func(token int32) string { return cli.Printable(bytes(token)) }
			end = func() string { return cli.Printable(rest()) }
		}
	}
	if text == "" {
		return cli.Usagef("the prompt is empty: give it behind the model, or on standard input")
	}
	be, err := cli.Backend(o.backend, os.Stderr)
	if err != nil {
		return err
	}
	defer be.Close()

	if _, err := io.WriteString(out, text); err != nil {
		return err
	}
	stop := b.StopTokens()
	for token, err := range cli.Text(ctx, b.Model, be, prompt, o.n, o.sampler) {
		if err != nil {
			fmt.Fprintln(out)
			return err
		}
		if slices.Contains(stop, token) {
			break
		}
		if _, err := io.WriteString(out, put(token)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(out, end())
	return err
}

// read returns the prompt that is piped in, but not beyond the end of ctx.
func read(ctx context.Context, in io.Reader) (string, error) {
	const most = 1 << 20
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(io.LimitReader(in, most+1))
		done <- result{b, err}
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case r := <-done:
		if r.err == nil && len(r.b) > most {
			r.err = fmt.Errorf("it is longer than %d bytes", most)
		}
		if r.err != nil {
			return "", fmt.Errorf("reading the prompt: %w", r.err)
		}
		return strings.TrimRight(string(r.b), "\r\n"), nil
	}
}

// encode returns the tokens of a text, with what the model expects before one,
// and what writes those that come behind: it decodes them where they stand,
// and leaves out those that mark text up.
func encode(t tokenizer.Model, text string) (prompt []int32, put func(int32) string, end func() string) {
	prefix, _ := t.Template()
	prompt = append(prefix, t.Encode(text)...)
	stream, written := tokenizer.NewStream(t), 0
	for _, token := range prompt {
		written += len(stream.Put(token))
	}
	held := len(t.Decode(prompt)) - written // the prompt ends within a rune, but is there
	return prompt, func(token int32) string {
		if t.Special(token) {
			return ""
		}
		text := stream.Put(token)
		again := min(held, len(text))
		held -= again
		return text[again:]
	}, stream.Flush
}
