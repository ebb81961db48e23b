package checkpoint

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

// tensor says how transformers calls and lays out a tensor of Params.
type tensor struct {
	name    string // in Params.Tensors
	hf      string
	shape   []int
	rotated bool // RoPE turns its rows
}

// tensors yields every tensor of a model in the order of Params.Tensors.
// Nothing is allocated but the names and shapes.
func tensors(c chainrule.Config) iter.Seq[tensor] {
	return func(yield func(tensor) bool) {
		C, H, V, HD := c.Dim, c.HiddenDim, c.VocabSize, c.HeadDim
		Q, KV := c.NHeads*HD, c.NKVHeads*HD
		if !yield(tensor{"token_embedding", embedding, []int{V, C}, false}) {
			return
		}
		for i := range c.NLayers {
			layer := "layers." + strconv.Itoa(i) + "."
			for _, t := range [...]struct {
				tensor
				there bool
			}{
				{tensor{"rms_att", "input_layernorm.weight", []int{C}, false}, true},
				{tensor{"wq", "self_attn.q_proj.weight", []int{Q, C}, true}, true},
				{tensor{"wk", "self_attn.k_proj.weight", []int{KV, C}, true}, true},
				{tensor{"wv", "self_attn.v_proj.weight", []int{KV, C}, false}, true},
				{tensor{"bq", "self_attn.q_proj.bias", []int{Q}, true}, c.QKVBias},
				{tensor{"bk", "self_attn.k_proj.bias", []int{KV}, true}, c.QKVBias},
				{tensor{"bv", "self_attn.v_proj.bias", []int{KV}, false}, c.QKVBias},
				{tensor{"q_norm", "self_attn.q_norm.weight", []int{HD}, true}, c.QKNorm},
				{tensor{"k_norm", "self_attn.k_norm.weight", []int{HD}, true}, c.QKNorm},
				{tensor{"wo", "self_attn.o_proj.weight", []int{C, Q}, false}, true},
				{tensor{"rms_ffn", "post_attention_layernorm.weight", []int{C}, false}, true},
				{tensor{"w1", "mlp.gate_proj.weight", []int{H, C}, false}, true},
				{tensor{"w3", "mlp.up_proj.weight", []int{H, C}, false}, true},
				{tensor{"w2", "mlp.down_proj.weight", []int{C, H}, false}, true},
			} {
				if t.there && !yield(tensor{layer + t.name, "model." + layer + t.hf, t.shape, t.rotated}) {
					return
				}
			}
		}
		if !yield(tensor{"rms_final", "model.norm.weight", []int{C}, false}) {
			return
		}
		if !c.Tied {
			yield(tensor{"wcls", lmHead, []int{V, C}, false})
		}
	}
}

const (
	embedding = "model.embed_tokens.weight"
	lmHead    = "lm_head.weight"
)

// rows returns the number of rows that move on their way from and to a file,
// and for each row of the file its row here. RoPE turns the pair of rows
// (i, i+HD/2) of a head in transformers, and (2i, 2i+1) here.
func (t tensor) rows(headDim int) (n int, ours func(theirs int) int) {
	if !t.rotated {
		return 1, func(int) int { return 0 }
	}
	half := headDim / 2
	return t.shape[0], func(theirs int) int {
		head, i := theirs/headDim*headDim, theirs%headDim
		if i < half {
			return head + 2*i
		}
		return head + 2*(i-half) + 1
	}
}

// entries appends what a file holds of p, as dtype and with names that begin
// with prefix.
func entries(e []safetensors.Entry, prefix, dtype string, c chainrule.Config, p *chainrule.Params) []safetensors.Entry {
	next, stop := iter.Pull(p.Tensors())
	defer stop()
	for t := range tensors(c) {
		own, ok := next()
		if !ok || own.Name != t.name {
			panic("checkpoint: the model lacks a tensor of its Config")
		}
		n, ours := t.rows(c.HeadDim)
		e = append(e, safetensors.Rows(prefix+t.hf, dtype, t.shape, own.Data, n, ours))
	}
	return e
}

// readTensors fills p from files that checkTensors has passed.
func readTensors(w *weights, prefix string, c chainrule.Config, p *chainrule.Params) error {
	next, stop := iter.Pull(p.Tensors())
	defer stop()
	for t := range tensors(c) {
		own, ok := next()
		if !ok || own.Name != t.name {
			panic("checkpoint: the model lacks a tensor of its Config")
		}
		file, there, _ := w.lookup(prefix + t.hf)
		n, ours := t.rows(c.HeadDim)
		if err := file.ReadRowsFloat32(own.Data, there, n, ours); err != nil {
			return err
		}
	}
	return nil
}

// checkTensors compares tensors, names of which begin with one of prefixes,
// with those of c, and returns one error for all differences. It needs memory
// only for what the files really list.
func checkTensors(w *weights, c chainrule.Config, prefixes ...string) error {
	count := w.count()
	if c.NLayers > count {
		return fmt.Errorf("%w: %d layers, but there are only %d tensors", ErrTensors, c.NLayers, count)
	}
	var missing, extra, wrong list
	want := make(map[string]bool, count)
	for _, prefix := range prefixes {
		for t := range tensors(c) {
			_, have, ok := w.lookup(prefix + t.hf)
			if !ok {
				missing.add(prefix + t.hf)
				continue
			}
			want[have.Name] = true
			switch {
			case !slices.Equal(have.Shape, t.shape):
				wrong.add(fmt.Sprintf("%s is %v, want %v", have.Name, have.Shape, t.shape))
			case have.Dtype != "F32" && have.Dtype != "BF16" && have.Dtype != "F16":
				wrong.add(fmt.Sprintf("%s is %s, want F32, BF16 or F16", have.Name, have.Dtype))
			}
		}
	}
	for file, t := range w.tensors() {
		if want[t.Name] || strings.HasSuffix(t.Name, ".rotary_emb.inv_freq") { // old files; follows from rope_theta
			continue
		}
		if t.Name == lmHead && c.Tied {
			if same, err := w.sameAsEmbedding(file, t); err != nil {
				return err
			} else if !same {
				wrong.add(lmHead + " is not " + embedding + ", though tie_word_embeddings is true")
			}
			continue
		}
		extra.add(quote(t.Name))
	}
	return listed(ErrTensors, section{"missing", missing}, section{"not expected", extra}, section{"wrong", wrong})
}

// list is a list for a message, which does not grow without end.
type list struct {
	n     int
	first []string
}

func (l *list) add(s string) {
	if l.n++; l.n <= 100 {
		l.first = append(l.first, s)
	}
}

func (l list) String() string {
	s := strings.Join(l.first, ", ")
	if more := l.n - len(l.first); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// section is a list under a heading.
type section struct {
	what string
	list
}

// listed returns one error for all that is in the sections, nil if they are empty.
func listed(err error, sections ...section) error {
	var parts []string
	for _, s := range sections {
		if s.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", s.n, s.what, s.list))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", err, strings.Join(parts, "; "))
}

// sameBytes reports whether n bytes of two files are the same.
func sameBytes(f io.ReaderAt, fOffset int64, g io.ReaderAt, gOffset, n int64) (bool, error) {
	a, b := make([]byte, 32<<10), make([]byte, 32<<10)
	for at := int64(0); at < n; {
		k := min(int64(len(a)), n-at)
		if err := rawfile.ReadFull(f, a[:k], fOffset+at); err != nil {
			return false, err
		}
		if err := rawfile.ReadFull(g, b[:k], gOffset+at); err != nil {
			return false, err
		}
		if !bytes.Equal(a[:k], b[:k]) {
			return false, nil
		}
		at += k
	}
	return true, nil
}
