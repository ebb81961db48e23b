package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// TokenizeOptions says how Tokenize makes tokens of texts.
type TokenizeOptions struct {
	Encode    func(text string) []int32
	Tokenizer string // identifies Encode: another one's tokens are made anew
	Vocab     int    // every token is less

	ShardTokens int                     // tokens after which a shard is closed; 0: 2²⁴
	Progress    func(done, total int64) // gets the bytes of text; nil: nobody
}

// chunk is how much text is encoded at once. It ends behind a newline where
// there is one.
const chunk = 1 << 20

// Tokenize makes shards of texts in dir, or finds them there: if the texts, by
// name and content, the tokenizer and the sizes are those of an earlier call,
// what that one finished is kept, also if it was interrupted, and the result is
// the same as if it had not been. If anything is different, all is made anew.
//
// A text is read and encoded in pieces of a mebibyte, each up to the end of a
// line. If ctx ends, so does Tokenize, with its cause.
func Tokenize(ctx context.Context, dir string, texts []string, o TokenizeOptions) (*Shards, error) {
	if o.Encode == nil || o.Vocab < 1 {
		panic("data: Tokenize: no Encode or no Vocab")
	}
	if o.ShardTokens == 0 {
		o.ShardTokens = 1 << 24
	}
	if o.ShardTokens < 1 || o.ShardTokens > math.MaxInt32/2 {
		return nil, fmt.Errorf("data: shards of %d tokens, want 1 to %d", o.ShardTokens, math.MaxInt32/2)
	}
	t := &tokenizing{ctx: ctx, dir: dir, texts: texts, o: o}
	if o.Progress == nil {
		t.o.Progress = func(int64, int64) {}
	}
	if err := t.run(); err != nil {
		return nil, err
	}
	return OpenShards(dir)
}

// tokenizing is a call of Tokenize.
type tokenizing struct {
	ctx         context.Context
	dir         string
	texts       []string
	o           TokenizeOptions
	m           *Manifest
	tokens      []int32 // of the shard that is not yet written
	done, total int64   // bytes of text
}

func (t *tokenizing) run() error {
	if err := os.MkdirAll(t.dir, 0o777); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	want := &Manifest{Vocab: t.o.Vocab, Tokenizer: fmt.Sprintf("%s, %d tokens a shard", t.o.Tokenizer, t.o.ShardTokens)}
	for _, path := range t.texts {
		o, err := originOf(t.ctx, path)
		if err != nil {
			return err
		}
		want.Sources = append(want.Sources, o)
		t.total += o.Size
	}
	t.m = want
	if was, err := readManifest(t.dir); err == nil && was.Vocab == want.Vocab && was.Tokenizer == want.Tokenizer &&
		slices.Equal(was.Sources, want.Sources) && t.there(was) {
		t.m = was
	} else if err := want.write(t.dir); err != nil { // before the shards of others are replaced
		return err
	}
	if err := t.sweep(); err != nil {
		return err
	}
	for _, o := range t.m.Sources[:t.m.Next] {
		t.done += o.Size
	}
	t.done += t.m.Offset
	for t.o.Progress(t.done, t.total); t.m.Next < len(t.texts); {
		if err := t.file(t.texts[t.m.Next], t.m.Sources[t.m.Next].Size, t.m.Offset); err != nil {
			return err
		}
	}
	if t.m.Done {
		return nil
	}
	t.m.Done = true
	return t.flush()
}

// there reports whether the shards that m lists are there in their sizes.
func (t *tokenizing) there(m *Manifest) bool {
	for _, s := range m.Shards {
		info, err := os.Stat(filepath.Join(t.dir, s.Name))
		if err != nil || info.Size() != s.Size {
			return false
		}
	}
	return true
}

// sweep removes what killed calls and other texts left.
func (t *tokenizing) sweep() error {
	for _, pattern := range []string{"shard-*.bin", ".shard-*", "." + ManifestFile + ".*"} {
		left, err := filepath.Glob(filepath.Join(t.dir, pattern))
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		for _, path := range left {
			if slices.ContainsFunc(t.m.Shards, func(s Shard) bool { return s.Name == filepath.Base(path) }) {
				continue
			}
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("data: %w", err)
			}
		}
	}
	return nil
}

// file encodes a text from an offset on.
func (t *tokenizing) file(path string, size, offset int64) error {
	f, now, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if now != size {
		return fmt.Errorf("data: %s has %d bytes, it had %d a moment ago", path, now, size)
	}
	b := make([]byte, chunk)
	for offset < size {
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		n := min(int64(len(b)), size-offset)
		if err := readAt(f, b[:n], offset); err != nil {
			return fmt.Errorf("data: %s: %w", path, err)
		}
		if end := bytes.LastIndexByte(b[:n], '\n'); offset+n < size && end >= 0 {
			n = int64(end) + 1
		}
		t.tokens = append(t.tokens, t.o.Encode(string(b[:n]))...)
		offset += n
		t.done += n
		t.m.Offset = offset
		if offset == size {
			t.m.Next, t.m.Offset = t.m.Next+1, 0
		}
		if len(t.tokens) >= t.o.ShardTokens {
			if err := t.flush(); err != nil {
				return err
			}
		}
		t.o.Progress(t.done, t.total)
	}
	if size == 0 {
		t.m.Next++
	}
	return nil
}

// flush writes the tokens as a shard, and then the manifest that knows it.
func (t *tokenizing) flush() error {
	if len(t.tokens) > 0 {
		for i, id := range t.tokens {
			if id < 0 || int(id) >= t.o.Vocab {
				return fmt.Errorf("data: %s made token %d of a text, want 0 to %d (number %d of the shard)", t.o.Tokenizer, id, t.o.Vocab-1, i)
			}
		}
		s := Shard{Name: fmt.Sprintf("shard-%05d.bin", len(t.m.Shards)), Tokens: int64(len(t.tokens))}
		h := sha256.New()
		err := replace(filepath.Join(t.dir, s.Name), func(w io.Writer) error {
			return writeTokens(io.MultiWriter(w, h, (*counter)(&s.Size)), t.tokens, t.o.Vocab)
		})
		if err != nil {
			return err
		}
		s.SHA256 = hex.EncodeToString(h.Sum(nil))
		t.m.Shards = append(t.m.Shards, s)
		t.tokens = t.tokens[:0]
	}
	return t.m.write(t.dir)
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// originOf reads a text to identify it.
func originOf(ctx context.Context, path string) (Origin, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return Origin{}, err
	}
	defer f.Close()
	h, b := sha256.New(), make([]byte, chunk)
	for off := int64(0); off < size; off += int64(len(b)) {
		if ctx.Err() != nil {
			return Origin{}, context.Cause(ctx)
		}
		b = b[:min(chunk, size-off)]
		if err := readAt(f, b, off); err != nil {
			return Origin{}, fmt.Errorf("data: %s: %w", path, err)
		}
		h.Write(b)
	}
	return Origin{filepath.Base(path), size, hex.EncodeToString(h.Sum(nil))}, nil
}
