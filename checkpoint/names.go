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
		if !yield(tensor{"token_embedding", "model.embed_tokens.weight", []int{V, C}, false}) {
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

const lmHead = "lm_head.weight"

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

// entries appends what a file holds of p, with names that begin with prefix.
func entries(e []safetensors.Entry, prefix string, c chainrule.Config, p *chainrule.Params) []safetensors.Entry {
	next, stop := iter.Pull(p.Tensors())
	defer stop()
	for t := range tensors(c) {
		own, ok := next()
		if !ok || own.Name != t.name {
			panic("checkpoint: the model lacks a tensor of its Config")
		}
		n, ours := t.rows(c.HeadDim)
		e = append(e, safetensors.Float32Rows(prefix+t.hf, t.shape, own.Data, n, ours))
	}
	return e
}

// readTensors fills p from a file that checkTensors has passed.
func readTensors(f *safetensors.File, prefix string, c chainrule.Config, p *chainrule.Params) error {
	next, stop := iter.Pull(p.Tensors())
	defer stop()
	for t := range tensors(c) {
		own, ok := next()
		if !ok || own.Name != t.name {
			panic("checkpoint: the model lacks a tensor of its Config")
		}
		there, _ := f.Lookup(prefix + t.hf)
		n, ours := t.rows(c.HeadDim)
		if err := f.ReadRowsFloat32(own.Data, there, n, ours); err != nil {
			return err
		}
	}
	return nil
}

// checkTensors compares the tensors of a file, names of which begin with one
// of prefixes, with those of c, and returns one error for all differences. It
// needs memory only for what the file really lists.
func checkTensors(f *safetensors.File, r io.ReaderAt, c chainrule.Config, prefixes ...string) error {
	there := f.Tensors()
	if c.NLayers > len(there) {
		return fmt.Errorf("%w: %d layers, but the file has only %d tensors", ErrTensors, c.NLayers, len(there))
	}
	var missing, extra, wrong list
	want := make(map[string]bool, len(there))
	for _, prefix := range prefixes {
		for t := range tensors(c) {
			have, ok := f.Lookup(prefix + t.hf)
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
	for _, t := range there {
		if want[t.Name] || strings.HasSuffix(t.Name, ".rotary_emb.inv_freq") { // old files; follows from rope_theta
			continue
		}
		if t.Name == lmHead && c.Tied {
			if same, err := sameAsEmbedding(f, r, t); err != nil {
				return err
			} else if !same {
				wrong.add(lmHead + " is not model.embed_tokens.weight, though tie_word_embeddings is true")
			}
			continue
		}
		extra.add(quote(t.Name))
	}
	if missing.n+extra.n+wrong.n == 0 {
		return nil
	}
	var parts []string
	for _, l := range []struct {
		list
		what string
	}{{missing, "missing"}, {extra, "not expected"}, {wrong, "wrong"}} {
		if l.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", l.n, l.what, l))
		}
	}
	return fmt.Errorf("%w: %s", ErrTensors, strings.Join(parts, "; "))
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

// sameAsEmbedding reports whether head has the very bytes of the embedding:
// some programs write a tied classifier twice.
func sameAsEmbedding(f *safetensors.File, r io.ReaderAt, head safetensors.Tensor) (bool, error) {
	e, ok := f.Lookup("model.embed_tokens.weight")
	if !ok || e.Dtype != head.Dtype || !slices.Equal(e.Shape, head.Shape) {
		return false, nil
	}
	a, b := make([]byte, 32<<10), make([]byte, 32<<10)
	for at := int64(0); at < e.Size; {
		n := min(int64(len(a)), e.Size-at)
		if _, err := r.ReadAt(a[:n], e.Offset+at); err != nil {
			return false, err
		}
		if _, err := r.ReadAt(b[:n], head.Offset+at); err != nil {
			return false, err
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		at += n
	}
	return true, nil
}
