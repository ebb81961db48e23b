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
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
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

  -n N             tokens to write (400)
  -temperature X   0 always takes the most likely token (0.8)
  -top-k N         draw from the N most likely; 0: from all (0)
  -top-p X         draw from the fewest of this probability together; 1: from all (0.95)
  -seed N          the same seed writes the same text (1)
  -tokens          the prompt and the output are token numbers
`

func main() {
	cli.Main("generate", func(ctx context.Context, args []string) error {
		return run(ctx, args, os.Stdin, os.Stdout)
	})
}

func run(ctx context.Context, args []string, in *os.File, out io.Writer) error {
	f := flag.NewFlagSet("generate", flag.ContinueOnError)
	n := f.Int("n", 400, "")
	numbers := f.Bool("tokens", false, "")
	var o chainrule.SamplerOptions
	f.Float64Var(&o.Temperature, "temperature", 0.8, "")
	f.IntVar(&o.TopK, "top-k", 0, "")
	f.Float64Var(&o.TopP, "top-p", 0.95, "")
	f.Uint64Var(&o.Seed, "seed", 1, "")
	if err := cli.Parse(f, args, true, help, out); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return cli.Usagef("which model? Name a directory or a llama2.c file")
	}
	if *n < 1 {
		return cli.Usagef("-n is %d, want 1 or more", *n)
	}
	if _, err := chainrule.NewSampler(o); err != nil {
		return cli.UsageError(err.Error())
	}
	m, err := load(f.Arg(0))
	if err != nil {
		return err
	}
	if m.VocabSize != (tokenizer.Byte{}).VocabSize() && !*numbers {
		return fmt.Errorf("%s has %d tokens; there is no tokenizer for other models than those of bytes yet: use -tokens",
			f.Arg(0), m.VocabSize)
	}
	text := strings.Join(f.Args()[1:], " ")
	if text == "" && !term.IsTerminal(int(in.Fd())) {
		b, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil {
			return fmt.Errorf("reading the prompt: %w", err)
		}
		text = strings.TrimRight(string(b), "\r\n")
	}
	var prompt []int32
	put, end := func(token int32) string { return fmt.Sprintf(" %d", token) }, func() string { return "" }
	if *numbers {
		for _, word := range strings.Fields(strings.ReplaceAll(text, ",", " ")) {
			token, err := strconv.ParseInt(word, 10, 32)
			if err != nil {
				return cli.Usagef("%q in the prompt is not a token number", word)
			}
			prompt = append(prompt, int32(token))
		}
		text = strings.Join(strings.Fields(text), " ")
	} else {
		stream := tokenizer.NewStream(tokenizer.Byte{})
		prompt, put, end = tokenizer.Byte{}.Encode(text), stream.Put, stream.Flush
	}
	if len(prompt) == 0 {
		return cli.Usagef("the prompt is empty: give it behind the model, or on standard input")
	}
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	defer be.Close()

	if _, err := io.WriteString(out, text); err != nil {
		return err
	}
	for token, err := range cli.Text(ctx, m, be, prompt, *n, o) {
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

// load reads whatever model path is.
func load(path string) (*chainrule.Model, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return checkpoint.LoadLlama2c(path)
	}
	m, err := checkpoint.LoadDir(path)
	if err == nil {
		return m, nil
	}
	if state, _, e := checkpoint.LoadState(path); e == nil {
		return state.Model, nil
	}
	return nil, err
}
