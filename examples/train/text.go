package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// material is the text, cut in two, and its tokens.
type material struct {
	tokenizer.Model
	text       []byte
	split      int     // text[:split] is learned from, text[split:] held out
	train, val []int32 // their tokens
}

// mostHeldOut bounds, in bytes, what is measured at the end.
const mostHeldOut = 1 << 20

// tokenizerFile is where the run, its checkpoints and generate find it.
const tokenizerFile = "tokenizer.json"

// readCorpus reads the text and makes tokens of it: bytes, or those of a BPE
// that is made of the text to learn from, or was when the run began.
func readCorpus(s *settings) (*material, error) {
	text, err := data.ReadText(s.Data)
	if err != nil && s.resume != "" {
		err = fmt.Errorf("%w (if the text of this run has moved, say where with -data)", err)
	}
	if err != nil {
		return nil, err
	}
	c := &material{Model: tokenizer.Byte{}, text: text}
	c.split = len(text) - int(min(0.1, mostHeldOut/float64(len(text)))*float64(len(text)))
	if s.Vocab > 0 {
		if c.Model, err = bpe(s, string(text[:c.split])); err != nil {
			return nil, err
		}
	}
	c.train, c.val = c.Encode(string(text[:c.split])), c.Encode(string(text[c.split:]))
	if len(c.train) <= s.Seq || len(c.val) < 2 {
		return nil, fmt.Errorf("%s has %d %s to learn from and %d held out, want at least %d (-seq and one more) and 2",
			s.Data, len(c.train), c.unit(), len(c.val), s.Seq+1)
	}
	return c, nil
}

// bpe is the tokenizer of the run, if it has begun, or a new one.
func bpe(s *settings, text string) (*tokenizer.BPE, error) {
	f, err := os.Open(filepath.Join(s.out, tokenizerFile))
	if s.resume == "" || errors.Is(err, fs.ErrNotExist) {
		return tokenizer.Train(strings.Lines(text), tokenizer.TrainOptions{VocabSize: s.Vocab})
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.ReadJSON(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return tok, nil
}

// save keeps a tokenizer that was made.
func (c *material) save(dir string) error {
	tok, ok := c.Model.(*tokenizer.BPE)
	if !ok {
		return nil
	}
	return replace(filepath.Join(dir, tokenizerFile), tok.WriteJSON)
}

func (c *material) unit() string {
	if _, ok := c.Model.(tokenizer.Byte); ok {
		return "bytes"
	}
	return "tokens"
}

// evalTokens is how many held-out tokens are measured on during the run. A
// tenth is enough; the end has all.
func (c *material) evalTokens(seq int) int {
	return min(max(len(c.val)/10, min(len(c.val), 4*seq)), 32<<10)
}

// bits turns nats a token into bits a byte, which do not depend on the
// tokenizer.
func (c *material) bits(nats float64) float64 { return nats / math.Ln2 / c.bytesPerToken() }

// bytesPerToken is that of the held-out text.
func (c *material) bytesPerToken() float64 {
	return float64(len(c.text)-c.split) / float64(len(c.val))
}
