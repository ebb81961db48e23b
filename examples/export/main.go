// Export writes a model for other programs.
//
//	go run ./examples/export runs/opticks-1 opticks.gguf
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"

	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Write a model, with its tokenizer, for other programs.

  go run ./examples/export runs/opticks-1 opticks.gguf   for llama.cpp, Ollama
  go run ./examples/export runs/opticks-1 opticks        for transformers

MODEL is a run of examples/train, one of its checkpoints, or any other that
examples/generate takes. What is written is a GGUF file if its name ends like
that, and otherwise a Hugging Face model directory.

  -dtype TYPE       what weights are written as: f32, f16, bf16 and, in a GGUF
                    file, q8_0 (f32)
`

func flags(dtype *string) *flag.FlagSet {
	f := flag.NewFlagSet("export", flag.ContinueOnError)
	f.StringVar(dtype, "dtype", "f32", "")
	return f
}

func main() { cli.Main("export", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	var dtype string
	f := flags(&dtype)
	paths, err := cli.ParseArguments(f, args, help, out, "MODEL", "OUTPUT")
	if err != nil {
		return err
	}
	from, to := paths[0], paths[1]
	gguf := strings.HasSuffix(strings.ToLower(to), ".gguf")
	switch dtype = strings.ToUpper(dtype); dtype {
	case "F32", "F16", "BF16":
	case "Q8_0":
		if !gguf {
			return cli.Usagef("-dtype q8_0 is for GGUF files, and %s is none", to)
		}
	default:
		return cli.Usagef("-dtype is %q, want f32, f16, bf16 or q8_0", strings.ToLower(dtype))
	}
	b, err := cli.OpenModel(from, checkpoint.OpenOptions{}, os.Stderr)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o := checkpoint.SaveOptions{DType: dtype}
	if cli.Width(os.Stderr) > 0 {
		bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetWidth(24),
			progressbar.OptionClearOnFinish(), progressbar.OptionShowBytes(true), progressbar.OptionSetDescription("writing"))
		o.Progress = func(done, total int64) {
			bar.ChangeMax64(total)
			_ = bar.Set64(done)
		}
	}
	if gguf {
		err = checkpoint.SaveGGUF(to, b, o)
	} else {
		err = checkpoint.SaveDir(to, b, o)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %s parameters as %s", to, cli.Count(b.Model.NumParams()), strings.ToLower(dtype))
	if b.Tokenizer == nil {
		fmt.Fprintf(out, ", without a tokenizer")
	}
	fmt.Fprintln(out)
	return nil
}
