package cli

import "github.com/chainrule-go/chainrule"

// Stories are the shapes of the llama2.c models, which all tie the classifier
// to the embedding.
var Stories = map[string]chainrule.Config{
	"stories15M": {
		Dim: 288, HiddenDim: 768, NLayers: 6, NHeads: 6, NKVHeads: 6, HeadDim: 48,
		VocabSize: 32000, SeqLen: 256, RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	},
	"stories110M": {
		Dim: 768, HiddenDim: 2048, NLayers: 12, NHeads: 12, NKVHeads: 12, HeadDim: 64,
		VocabSize: 32000, SeqLen: 1024, RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	},
}

// StoriesModel returns a model of random weights.
func StoriesModel(name string, seed uint64) (*chainrule.Model, error) {
	c, ok := Stories[name]
	if !ok {
		return nil, Usagef("-model is %q, want stories110M or stories15M", name)
	}
	if err := CheckMemory(16 * int64(c.NumParams())); err != nil {
		return nil, err
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		return nil, err
	}
	m.Init(seed)
	return m, nil
}
