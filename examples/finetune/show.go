package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// showBatch prints the first batch, token for token, with what is learned in
// colour on a terminal, and in brackets elsewhere.
func showBatch(out io.Writer, tok tokenizer.Model, train *data.Padded) error {
	open, shut, how := "[", "]", "in brackets"
	colour := cli.Width(out) > 0
	if colour {
		open, shut, how = "\x1b[1;32m", "\x1b[0m", "in green"
	}
	var b bytes.Buffer
	rows := train.Rows(0)
	fmt.Fprintf(&b, "The first of %d batches, with what is learned %s:\n", train.Batches(), how)
	for _, e := range rows {
		n := 0
		for _, id := range e.Targets {
			if id >= 0 {
				n++
			}
		}
		fmt.Fprintf(&b, "\n--- line %d: %d tokens, %d learned\n", e.Line, len(e.Tokens)+1, n)
		tokens := append(e.Tokens[:len(e.Tokens):len(e.Tokens)], e.Targets[len(e.Targets)-1])
		learned := func(i int) bool { return i > 0 && e.Targets[i-1] >= 0 }
		for from := 0; from < len(tokens); {
			to := from + 1
			for to < len(tokens) && learned(to) == learned(from) {
				to++
			}
			text := spell(tok, tokens[from:to])
			if colour {
				text = cli.Printable(text)
			}
			if learned(from) {
				text = open + text + shut
			}
			b.WriteString(text)
			from = to
		}
		b.WriteByte('\n')
	}
	_, err := out.Write(b.Bytes())
	return err
}

// spell returns the text of tokens, with special tokens as the vocabulary
// spells them.
func spell(tok tokenizer.Model, tokens []int32) string {
	var b strings.Builder
	for len(tokens) > 0 {
		n := 0
		for n < len(tokens) && !tok.Special(tokens[n]) {
			n++
		}
		b.WriteString(tok.Decode(tokens[:n]))
		if n < len(tokens) {
			b.WriteString(tok.Token(tokens[n]))
			n++
		}
		tokens = tokens[n:]
	}
	return b.String()
}
