package checkpoint

import (
	"fmt"
	"io"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/llama2c"
)

// What a llama2.c file does not say, because llama2.c has it as constants.
const (
	llama2cTheta = 10000
	llama2cEps   = 1e-5
)

// LoadLlama2c reads a llama2.c file of version 0 (with no magic number) or 1.
func LoadLlama2c(path string) (*chainrule.Model, error) { return loadLlama2c(path, nil) }

func loadLlama2c(path string, report func(done, total int64)) (*chainrule.Model, error) {
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	m, err := readLlama2c(s, report)
	if err := s.close(err); err != nil {
		return nil, err
	}
	return m, nil
}

func readLlama2c(s *source, report func(done, total int64)) (*chainrule.Model, error) {
	f, err := llama2c.Read(s, s.info.Size()) // checks the size, so the shape can be believed
	if err != nil {
		return nil, err
	}
	c := chainrule.Config{
		Dim: f.Dim, HiddenDim: f.HiddenDim, NLayers: f.NLayers, NHeads: f.NHeads, NKVHeads: f.NKVHeads,
		HeadDim: f.Dim / f.NHeads, VocabSize: f.VocabSize, SeqLen: f.SeqLen,
		RopeTheta: llama2cTheta, NormEps: llama2cEps, Tied: f.SharedClassifier,
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s.progress = &progress{total: 4 * int64(c.NumParams()), report: report}
	for own := range m.Tensors() {
		t, ok := f.Lookup(own.Name)
		if !ok {
			return nil, fmt.Errorf("%w: %s is missing", ErrTensors, own.Name)
		}
		if err := f.ReadFloat32(own.Data, t); err != nil {
			return nil, err
		}
	}
	m.Touch()
	return m, nil
}

// SaveLlama2c writes a llama2.c file of version 0 or 1, replacing the file at
// path when the new one is whole. The format has no room for QKNorm, QKVBias,
// RopeScaling, a HeadDim other than Dim/NHeads, a RopeTheta other than 10000
// or a NormEps other than 1e-5: a model with one of them is ErrUnsupported.
//
// It panics if m is nil.
func SaveLlama2c(path string, m *chainrule.Model, version int) error {
	if m == nil {
		panic("checkpoint: SaveLlama2c: nil Model")
	}
	c := m.Config
	for _, no := range []struct {
		bad  bool
		what string
		have any
	}{
		{version != 0 && version != 1, "a version other than 0 and 1", version},
		{c.QKNorm, "QKNorm", c.QKNorm},
		{c.QKVBias, "QKVBias", c.QKVBias},
		{c.NHeads*c.HeadDim != c.Dim, "a HeadDim other than Dim/NHeads", c.HeadDim},
		{c.RopeTheta != llama2cTheta, "a RopeTheta other than 10000", c.RopeTheta},
		{c.NormEps != llama2cEps, "a NormEps other than 1e-5", c.NormEps},
		{c.RopeScaling.Type != "", "RopeScaling", c.RopeScaling.Type},
	} {
		if no.bad {
			return fmt.Errorf("writing %s: %w: llama2.c has no %s (here: %v)", path, ErrUnsupported, no.what, no.have)
		}
	}
	h := llama2c.Header{
		Version: version, Dim: c.Dim, HiddenDim: c.HiddenDim, NLayers: c.NLayers, NHeads: c.NHeads,
		NKVHeads: c.NKVHeads, VocabSize: c.VocabSize, SeqLen: c.SeqLen, SharedClassifier: c.Tied,
	}
	data := map[string][]float32{}
	for t := range m.Tensors() {
		data[t.Name] = t.Data
	}
	return replaceFile(path, func(w io.Writer) error {
		return llama2c.Write(w, h, func(name string) []float32 { return data[name] })
	})
}
