// Generate writes text with a trained model, byte after byte as it comes.
//
//	go run ./examples/generate runs/opticks-1 "The Rays of Light"
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
)

const help = `Write text with a trained model.

  go run ./examples/generate runs/opticks-1 "The Rays of Light"
  echo "The Rays" | go run ./examples/generate runs/opticks-1
  go run ./examples/generate -tokens stories15M.bin "1 9038 2501"

The model is a run of examples/train, one of its checkpoints, a Hugging Face
model directory, or a llama2.c file. The prompt is the other arguments, or
standard input. Models of 256 tokens read and write bytes; there is no
tokenizer for others yet, so they need -tokens. Ctrl-C stops.

  -n N              tokens to write (400)
  -temperature X    0 always takes the most likely token (0.8)
  -top-k N          draw from the N most likely; 0: from all (0)
  -top-p X          draw from the fewest that together have this probability;
                    1: from all (0.95)
  -seed N           the same seed writes the same text (1)
  -tokens           the prompt and the output are token numbers
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
	f := o.flags()
	if err := cli.Parse(f, args, true, help, out); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return cli.Usagef("which model? Name a directory or a llama2.c file")
	}
	path := f.Arg(0)
	if err := cli.Parse(f, f.Args()[1:], true, help, out); err != nil { // flags behind the model
		return err
	}
	if o.n < 1 {
		return cli.Usagef("-n is %d, want 1 or more", o.n)
	}
	if _, err := chainrule.NewSampler(o.sampler); err != nil {
		return cli.UsageError(err.Error())
	}
	m, err := load(path)
	if err != nil {
		return err
	}
	if m.VocabSize != (tokenizer.Byte{}).VocabSize() && !o.numbers {
		return fmt.Errorf("%s has %d tokens; there is no tokenizer for other models than those of bytes yet: use -tokens",
			path, m.VocabSize)
	}
	text := strings.Join(f.Args(), " ")
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
		stream := tokenizer.NewStream(tokenizer.Byte{})
		prompt, put, end = tokenizer.Byte{}.Encode(text), stream.Put, stream.Flush
		if cli.Width(out) > 0 { // whatever bytes the model writes, the terminal stays whole
			text = cli.Printable(text)
			put = func(token int32) string { return cli.Printable(stream.Put(token)) }
			end = func() string { return cli.Printable(stream.Flush()) }
		}
	}
	if len(prompt) == 0 {
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
	for token, err := range cli.Text(ctx, m, be, prompt, o.n, o.sampler) {
		if err != nil {
			fmt.Fprintln(out)
			return err
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

// load reads whatever model path is.
func load(path string) (*chainrule.Model, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return checkpoint.LoadLlama2c(path)
	}
	if _, err := os.Lstat(filepath.Join(path, "config.json")); err == nil {
		return checkpoint.LoadDir(path)
	}
	state, _, err := checkpoint.LoadState(path)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a model directory, with a config.json, nor a run with a checkpoint: %w", path, err)
	}
	return state.Model, nil
}
