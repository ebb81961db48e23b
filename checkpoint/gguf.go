package checkpoint

import (
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/gguf"
)

// LoadGGUF reads the model of a GGUF file of llama.cpp, of the architectures
// llama, qwen2 and qwen3, whose weights are F32, F16, BF16, Q8_0, Q4_0, Q4_1,
// Q5_0, Q5_1, Q4_K, Q5_K or Q6_K. Open reads its tokenizer and chat template,
// too. It needs the memory of the model, and of what the file has besides weights.
//
// Metadata that asks for anything the library does not compute is ErrConfig
// and names it; tensors that are missing, not expected or of another shape are
// one error, ErrTensors, that lists them all. Weights that are NaN or Inf load.
func LoadGGUF(path string) (*chainrule.Model, error) {
	b, err := openGGUF(path, OpenOptions{NoTokenizer: true})
	if err != nil {
		return nil, err
	}
	return b.Model, nil
}

// openGGUF reads a GGUF file.
func openGGUF(path string, o OpenOptions) (*Bundle, error) {
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Format: FormatGGUF, Path: path}
	if err := s.close(b.readGGUF(s, o)); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Bundle) readGGUF(s *source, o OpenOptions) error {
	f, err := gguf.Read(s, s.info.Size())
	if err != nil {
		return err
	}
	v := &values{f: f}
	c, arch := v.config()
	if v.err != nil {
		return v.err
	}
	b.Notes = append(b.Notes, v.notes...)
	b.source.general = v.general()
	if !o.NoTokenizer {
		if err := b.readGGUFTokenizer(v, c.VocabSize); err != nil {
			return err
		}
		debug.FreeOSMemory() // what a large vocabulary took to make is not to stay beside the model
	}
	if err := checkGGUFTensors(f, c); err != nil {
		return err
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		return err
	}
	s.progress = &progress{report: o.Progress}
	for t := range tensors(c) {
		there, _ := f.Lookup(t.gguf())
		s.progress.total += there.Size
	}
	for t, data := range both(c, m.Params) {
		there, _ := f.Lookup(t.gguf())
		n, ours := t.ggufRows(arch, c.HeadDim)
		if err := f.ReadRowsFloat32(data, there, n, ours); err != nil {
			return err
		}
	}
	m.Touch()
	b.Model = m
	return nil
}

// both yields the tensors of c and their data in p.
func both(c chainrule.Config, p *chainrule.Params) iter.Seq2[tensor, []float32] {
	return func(yield func(tensor, []float32) bool) {
		next, stop := iter.Pull(p.Tensors())
		defer stop()
		for t := range tensors(c) {
			own, ok := next()
			if !ok || own.Name != t.name {
				panic("checkpoint: the model lacks a tensor of its Config")
			}
			if !yield(t, own.Data) {
				return
			}
		}
	}
}

// ggufNames are llama.cpp's names of the tensors of a layer and of the others.
var ggufNames = map[string]string{
	"token_embedding": "token_embd.weight", "rms_final": "output_norm.weight", "wcls": "output.weight",
	"rms_att": "attn_norm.weight", "wq": "attn_q.weight", "wk": "attn_k.weight", "wv": "attn_v.weight",
	"bq": "attn_q.bias", "bk": "attn_k.bias", "bv": "attn_v.bias",
	"q_norm": "attn_q_norm.weight", "k_norm": "attn_k_norm.weight", "wo": "attn_output.weight",
	"rms_ffn": "ffn_norm.weight", "w1": "ffn_gate.weight", "w3": "ffn_up.weight", "w2": "ffn_down.weight",
}

const (
	ggufEmbedding = "token_embd.weight"
	ropeFreqs     = "rope_freqs.weight"
)

// gguf returns llama.cpp's name of a tensor.
func (t tensor) gguf() string {
	layer, ok := strings.CutPrefix(t.name, "layers.")
	if !ok {
		return ggufNames[t.name]
	}
	n, name, _ := strings.Cut(layer, ".")
	return "blk." + n + "." + ggufNames[name]
}

// ggufRows is rows for a GGUF file: the files of llama have the rows that RoPE
// turns together side by side, as they are here, those of qwen2 and qwen3 have
// them as transformers does.
func (t tensor) ggufRows(arch string, headDim int) (n int, ours func(theirs int) int) {
	t.rotated = t.rotated && arch != ggufLlama
	return t.rows(headDim)
}

// checkGGUFTensors compares the tensors of a file with those of c, and returns
// one error for all differences.
func checkGGUFTensors(f *gguf.File, c chainrule.Config) error {
	there := f.Tensors()
	if c.NLayers > len(there) {
		return fmt.Errorf("%w: %d layers, but there are only %d tensors", ErrTensors, c.NLayers, len(there))
	}
	var missing, extra, wrong list
	want := map[string]bool{ropeFreqs: true} // which has been read, if it is there
	for t := range tensors(c) {
		have, ok := f.Lookup(t.gguf())
		if !ok {
			missing.add(t.gguf())
			continue
		}
		want[have.Name] = true
		if !slices.Equal(have.Shape, t.shape) {
			wrong.add(fmt.Sprintf("%s at byte %d is %v, want %v", have.Name, have.Offset, have.Shape, t.shape))
		} else if !slices.Contains(ggufTypes, have.Type) {
			wrong.add(fmt.Sprintf("%s at byte %d is %v, want one of %v", have.Name, have.Offset, have.Type, ggufTypes))
		}
	}
	for _, t := range there {
		// Old files have the frequencies, which follow from the metadata, in each layer.
		if !want[t.Name] && !strings.HasSuffix(t.Name, ".attn_rot_embd") && !strings.HasSuffix(t.Name, ".attn_rot_embd.weight") {
			extra.add(quote(t.Name))
		}
	}
	return listed(ErrTensors, section{"missing", missing}, section{"not expected", extra}, section{"wrong", wrong})
}

// ggufTypes are the types that are read.
var ggufTypes = []gguf.Type{gguf.F32, gguf.F16, gguf.BF16, gguf.Q8_0, gguf.Q4_0, gguf.Q4_1, gguf.Q5_0, gguf.Q5_1,
	gguf.Q4_K, gguf.Q5_K, gguf.Q6_K}

// ggufDTypes are the types that are written, with llama.cpp's number for a
// file of them.
var ggufDTypes = map[string]struct {
	typ  gguf.Type
	file uint32
}{"": {gguf.F32, 0}, "F32": {gguf.F32, 0}, "F16": {gguf.F16, 1}, "BF16": {gguf.BF16, 32}, "Q8_0": {gguf.Q8_0, 7}}

// SaveGGUF writes a GGUF file that llama.cpp loads: the model, of the
// architecture llama, qwen2 or qwen3, its tokenizer and its chat template. A
// file at path is replaced when the new one is whole.
//
// Matrices are written as o.DType: F32, the default, F16, BF16, or Q8_0, where
// one whose rows are no multiple of 32 is F16. Norms and biases are F32.
//
// What the format cannot hold, or llama.cpp does not compute, is
// ErrUnsupported. Without a Tokenizer the file says that it has none. It
// panics if b or its Model is nil.
func SaveGGUF(path string, b *Bundle, o SaveOptions) error {
	if b == nil || b.Model == nil {
		panic("checkpoint: SaveGGUF: no Model")
	}
	in := func(err error) error { return fmt.Errorf("writing %s: %w", path, err) }
	dtype, ok := ggufDTypes[o.DType]
	if !ok {
		return in(fmt.Errorf("%w: DType %s, want F32, F16, BF16 or Q8_0", ErrUnsupported, quote(o.DType)))
	}
	c := b.Model.Config
	arch, err := ggufArchitecture(c)
	if err != nil {
		return in(err)
	}
	pairs := []gguf.Pair{{Key: "general.architecture", Value: arch}, {Key: "general.type", Value: "model"}}
	pairs = append(pairs, b.generalPairs()...)
	pairs = append(pairs, configPairs(c, arch)...)
	pairs = append(pairs, gguf.Pair{Key: "general.file_type", Value: dtype.file})
	if dtype.typ == gguf.Q8_0 {
		pairs = append(pairs, gguf.Pair{Key: "general.quantization_version", Value: uint32(2)})
	}
	vocabulary, err := b.vocabularyPairs(c.VocabSize)
	if err != nil {
		return in(err)
	}
	pairs = append(pairs, vocabulary...)

	p := &progress{report: o.Progress}
	var entries []gguf.Entry
	add := func(e gguf.Entry, elements int) {
		p.total += e.Type.Bytes(elements)
		data := e.Data
		e.Data = func(w io.Writer) error { return data(countingWriter{w, p}) }
		entries = append(entries, e)
	}
	if c.RopeScaling.Type == "llama3" {
		factors := ropeFactors(c)
		add(gguf.Float32(ropeFreqs, gguf.F32, []int{len(factors)}, factors), len(factors))
	}
	for t, data := range both(c, b.Model.Params) {
		typ := dtype.typ
		switch {
		case len(t.shape) == 1:
			typ = gguf.F32
		case t.shape[1]%typ.Block() != 0:
			typ = gguf.F16
		}
		n, ours := t.ggufRows(arch, c.HeadDim)
		add(gguf.Float32Rows(t.gguf(), typ, t.shape, data, n, ours), len(data))
	}
	return replaceFile(path, func(w io.Writer) error { return gguf.Write(w, pairs, entries) })
}

// countingWriter tells a progress what goes through it.
type countingWriter struct {
	w io.Writer
	p *progress
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.p.add(n)
	return n, err
}

// generalPairs are what the file that was read says about the model, or a name
// for it.
func (b *Bundle) generalPairs() []gguf.Pair {
	if b.source.general != nil {
		return b.source.general
	}
	name := filepath.Base(filepath.Clean(b.Path))
	if name == "." || name == string(filepath.Separator) {
		return nil
	}
	return []gguf.Pair{{Key: "general.name", Value: strings.ToValidUTF8(name, "?")}}
}
