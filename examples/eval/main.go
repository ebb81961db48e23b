// Eval measures how well a model predicts a text.
//
//	go run ./examples/eval MODEL TEXT
//
// It prints the loss, the perplexity and the bits per byte; only the last one
// compares models of different tokenizers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

const help = `Measure how well a model predicts a text.

  go run ./examples/eval MODEL TEXT

The model is a Hugging Face model directory, a GGUF file, a run of
examples/train, or a llama2.c file with its tokenizer; the text a file, or a
folder of them. Printed are, over all its tokens,

  loss              the mean of -ln p of each token, in nats
  perplexity        e to the loss
  bits per byte     the sum of -log2 p over the bytes: of these three the only
                    one that compares models of different tokenizers

The text is cut into windows of -context tokens, which begin -stride tokens
apart. Each predicts the tokens that the one before did not, so that every token
counts once and, but for those of the first window, is predicted from at least
-context minus -stride tokens, and one more. A small stride measures better
what the model can do, and takes -context/-stride times as long as a large one.
Where the tokenizer begins a text with a token of its own (Llama's <s>), so
does the first window, and no other; else the first token of the text is not
predicted, and its bytes are not counted. Special tokens that the text spells
out are those tokens, as in transformers.

Ctrl-C stops, with the result so far.

  -context N        tokens of a window; 0: as many as the model was trained on,
                    but at most 1024 (0)
  -stride N         tokens from one window to the next; 0: half of -context (0)
  -batch N          windows computed together (1)
  -bos TOKEN        what the text begins with: auto, what the tokenizer says;
                    none; or a token such as <|endoftext|> (auto)
  -json             print the result as one line of JSON
  -quiet            no progress
` + cli.BackendHelp

type options struct {
	context, stride, batch int
	bos, backend           string
	json, quiet            bool
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("eval", flag.ContinueOnError)
	f.IntVar(&o.context, "context", 0, "")
	f.IntVar(&o.stride, "stride", 0, "")
	f.IntVar(&o.batch, "batch", 1, "")
	f.StringVar(&o.bos, "bos", "auto", "")
	f.BoolVar(&o.json, "json", false, "")
	f.BoolVar(&o.quiet, "quiet", false, "")
	f.StringVar(&o.backend, "backend", "cpu", "")
	return f
}

func main() {
	cli.Main("eval", func(ctx context.Context, args []string, out io.Writer) error {
		return run(ctx, args, out, os.Stderr)
	})
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	var o options
	paths, err := cli.ParseArguments(o.flags(), args, help, out, "MODEL", "TEXT")
	if err != nil {
		return err
	}
	for _, n := range []struct {
		flag   string
		v, min int
	}{{"context", o.context, 0}, {"stride", o.stride, 0}, {"batch", o.batch, 1}} {
		if n.v < n.min || n.v > math.MaxInt32 {
			return cli.Usagef("-%s is %d, want %d to %d", n.flag, n.v, n.min, math.MaxInt32)
		}
	}
	text, err := data.ReadText(paths[1]) // before the model: reading that takes longer
	if err != nil {
		return err
	}
	if o.quiet {
		progress = io.Discard
	}
	b, err := cli.OpenModel(paths[0], checkpoint.OpenOptions{}, progress)
	if err != nil {
		return err
	}
	if b.Tokenizer == nil {
		return fmt.Errorf("%s has no tokenizer, and a text becomes no tokens without", paths[0])
	}
	w, ends, err := o.windows(b, string(text))
	if err != nil {
		return err
	}
	memory, err := chainrule.WorkspaceBytes(b.Model.Config, o.batch, o.context)
	if err != nil {
		return cli.UsageError(err.Error())
	}
	if err := cli.CheckMemory(memory); err != nil {
		return fmt.Errorf("%w: choose a smaller -batch or -context", err)
	}
	be, err := cli.Backend(o.backend, os.Stderr)
	if err != nil {
		return err
	}
	defer be.Close()
	ws, err := chainrule.NewWorkspace(b.Model.Config, o.batch, o.context, be)
	if err != nil {
		return err
	}

	r := result{Model: paths[0], Text: paths[1], Context: o.context, Stride: o.stride, Of: w.Targets(), BOS: ends[0] == 0}
	sum, err := measure(ctx, b.Model, ws, w, &r, progress)
	var stopped cli.Stopped
	if err != nil && !errors.As(err, &stopped) {
		return err
	}
	if r.Tokens == 0 {
		return err
	}
	r.Complete = r.Tokens == r.Of
	r.Bytes = ends[r.Tokens] - ends[0]
	r.Loss = sum / float64(r.Tokens)
	r.BitsPerByte = sum / math.Ln2 / float64(r.Bytes)
	if p := math.Exp(r.Loss); !math.IsInf(p, 0) {
		r.Perplexity = &p
	}
	if printed := r.print(out, o.json); printed != nil {
		return printed
	}
	return err
}

// windows lays out the tokens of a text behind what it begins with, and
// returns where in the text each ends; the options become those in use.
func (o *options) windows(b *checkpoint.Bundle, text string) (*data.Windows, []int, error) {
	var begin []int32
	switch o.bos {
	case "none":
	case "auto":
		begin, _ = b.Tokenizer.Template()
	default:
		id, ok := b.Tokenizer.ID(o.bos)
		if !ok {
			return nil, nil, cli.Usagef("-bos is %q, want auto, none or a token of the model", o.bos)
		}
		begin = []int32{id}
	}
	ids, ends := b.Tokenizer.EncodeOffsets(text)
	ids, ends = append(begin[:len(begin):len(begin)], ids...), append(make([]int, len(begin)), ends...)
	if len(ids) < 2 {
		return nil, nil, fmt.Errorf("the text has %d bytes and %d tokens, want 2 tokens or more, of which the first is not predicted", len(text), len(ids))
	}
	most := b.Model.SeqLen
	switch {
	case o.context > most:
		return nil, nil, cli.Usagef("-context is %d, want at most the model's %d", o.context, most)
	case o.context == 0:
		o.context = min(most, 1024)
	}
	if o.stride > o.context {
		return nil, nil, cli.Usagef("-stride is %d, want at most -context %d", o.stride, o.context)
	}
	if o.stride == 0 {
		o.stride = max(1, o.context/2)
	}
	o.context = min(o.context, len(ids)-1) // there is no more
	o.stride = min(o.stride, o.context)
	w, err := data.NewWindows(ids, o.batch, o.context, o.stride)
	return w, ends, err
}

// measure adds up the losses of all windows, in nats, and counts the tokens in
// r. An error is ctx's cause, with the sum so far, or that of the computation.
func measure(ctx context.Context, m *chainrule.Model, ws *chainrule.Workspace, w *data.Windows, r *result, out io.Writer) (sum float64, err error) {
	tokens, targets := make([]int32, ws.B*ws.T), make([]int32, ws.B*ws.T)
	ws.LossDenom = 1 // the sum
	p := cli.NewProgress(out, "measuring", 0, r.Of)
	defer p.Clear()
	for k := range w.Len() {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		w.Fill(k, tokens, targets)
		loss, err := chainrule.Forward(m, ws, tokens, targets)
		if err != nil {
			return sum, err
		}
		if sum += loss; math.IsNaN(sum) || math.IsInf(sum, 0) {
			return sum, fmt.Errorf("the loss of window %d of %d is %v: the weights are not finite, or not those of a model", k+1, w.Len(), loss)
		}
		for _, id := range targets {
			if id >= 0 {
				r.Tokens++
			}
		}
		p.Set(r.Tokens, fmt.Sprintf("loss %.4f after %d tokens", sum/float64(r.Tokens), r.Tokens))
	}
	return sum, nil
}

// result is what -json prints.
type result struct {
	Model       string   `json:"model"`
	Text        string   `json:"text"`
	Context     int      `json:"context"`
	Stride      int      `json:"stride"`
	BOS         bool     `json:"bos"`    // the text begins with a token of the model
	Tokens      int      `json:"tokens"` // predicted
	Of          int      `json:"of_tokens"`
	Bytes       int      `json:"bytes"` // of the predicted tokens
	Complete    bool     `json:"complete"`
	Loss        float64  `json:"loss"`
	Perplexity  *float64 `json:"perplexity"` // null beyond what a float64 holds
	BitsPerByte float64  `json:"bits_per_byte"`
}

func (r *result) print(out io.Writer, asJSON bool) error {
	if asJSON {
		b, err := json.Marshal(r)
		if err == nil {
			_, err = fmt.Fprintf(out, "%s\n", b)
		}
		return err
	}
	part := ""
	if !r.Complete {
		part = fmt.Sprintf("\nstopped: this is the first %d of %d tokens\n\n", r.Tokens, r.Of)
	}
	perplexity := math.Inf(1)
	if r.Perplexity != nil {
		perplexity = *r.Perplexity
	}
	_, err := fmt.Fprintf(out, `%s%s: %d tokens, %d bytes
windows of %d tokens, %d apart

  loss           %.4f  nats a token
  perplexity     %.4f
  bits per byte  %.4f
`, part, r.Text, r.Tokens, r.Bytes, r.Context, r.Stride, r.Loss, perplexity, r.BitsPerByte)
	return err
}
