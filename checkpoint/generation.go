package checkpoint

import (
	"encoding/json"
	"fmt"
	"slices"
)

const generationFile = "generation_config.json"

// parseGeneration reads a generation_config.json. To transformers, what it does
// not say is not said, whatever the model's configuration says.
func parseGeneration(b []byte) (Generation, error) {
	o, err := parseObject(b)
	if err != nil {
		return Generation{}, err
	}
	g := Generation{
		BOS: o.tokenIDs("bos_token_id", 0), EOS: o.tokenIDs("eos_token_id", 0), Pad: o.tokenIDs("pad_token_id", 0),
		DoSample:    o.bool("do_sample", false),
		Temperature: o.float("temperature", 0), TopP: o.float("top_p", 0), MinP: o.float("min_p", 0),
		RepetitionPenalty: o.float("repetition_penalty", 0),
		TopK:              int(o.integer("top_k", 0)),
	}
	if o.has("top_k") && g.TopK == 0 {
		g.TopK = -1
	}
	for _, r := range []struct {
		key  string
		v    float64
		most float64
	}{
		{"temperature", g.Temperature, 1e6}, {"top_p", g.TopP, 1}, {"min_p", g.MinP, 1},
		{"repetition_penalty", g.RepetitionPenalty, 1e6},
	} {
		if !(r.v >= 0 && r.v <= r.most) {
			o.fail(r.key, "is %v, want 0 to %v", r.v, r.most)
		}
	}
	if g.TopK < -1 || g.TopK > 1<<31-1 {
		o.fail("top_k", "is %d, want an integer from 0", g.TopK)
	}
	return g, o.err
}

// marshal writes g as a generation_config.json.
func (g Generation) marshal() []byte {
	v := struct {
		BOS         tokenIDs `json:"bos_token_id,omitempty"`
		DoSample    bool     `json:"do_sample,omitempty"`
		EOS         tokenIDs `json:"eos_token_id,omitempty"`
		MinP        number   `json:"min_p,omitempty"`
		Pad         tokenIDs `json:"pad_token_id,omitempty"`
		Penalty     number   `json:"repetition_penalty,omitempty"`
		Temperature number   `json:"temperature,omitempty"`
		TopK        *int     `json:"top_k,omitempty"`
		TopP        number   `json:"top_p,omitempty"`
	}{
		g.BOS, g.DoSample, g.EOS, number(g.MinP), g.Pad, number(g.RepetitionPenalty), number(g.Temperature), nil, number(g.TopP),
	}
	if k := max(g.TopK, 0); g.TopK != 0 {
		v.TopK = &k
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("checkpoint: a Generation does not marshal")
	}
	return append(b, '\n')
}

// within drops ids that a model of that many tokens does not have, and says so.
func (g *Generation) within(vocabSize int) (notes []string) {
	for _, l := range []struct {
		name string
		ids  *[]int32
	}{{"bos", &g.BOS}, {"eos", &g.EOS}, {"pad", &g.Pad}} {
		kept := slices.DeleteFunc(slices.Clone(*l.ids), func(id int32) bool { return int(id) >= vocabSize })
		if len(kept) < len(*l.ids) {
			notes = append(notes, fmt.Sprintf("%s_token_id %d: the model has only %d tokens", l.name, *l.ids, vocabSize))
			*l.ids = kept
		}
	}
	return notes
}

// equal reports whether g and h say the same.
func (g Generation) equal(h Generation) bool {
	same := slices.Equal(g.BOS, h.BOS) && slices.Equal(g.EOS, h.EOS) && slices.Equal(g.Pad, h.Pad)
	g.BOS, g.EOS, g.Pad, h.BOS, h.EOS, h.Pad = nil, nil, nil, nil, nil, nil
	return same && fmt.Sprint(g) == fmt.Sprint(h)
}
