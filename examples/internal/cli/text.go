package cli

import (
	"context"
	"iter"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
)

// Text yields n tokens that the model writes behind the prompt, however long
// its context is: when that is full, writing goes on from its last half.
func Text(ctx context.Context, m *chainrule.Model, be backend.Backend, prompt []int32, n int, o chainrule.SamplerOptions) iter.Seq2[int32, error] {
	return func(yield func(int32, error) bool) {
		s, err := chainrule.NewSession(m, be, chainrule.SessionOptions{})
		if err != nil {
			yield(0, err)
			return
		}
		sampler, err := chainrule.NewSampler(o)
		if err != nil {
			yield(0, err)
			return
		}
		all := append([]int32(nil), prompt...)
		for left := n; left > 0; {
			s.Truncate(0, 0)
			keep := len(all)
			if room := s.MaxLen(); keep >= room {
				keep = max(1, room/2)
			}
			for token, err := range s.Generate(ctx, all[len(all)-keep:], sampler) {
				if !yield(token, err) || err != nil {
					return
				}
				all = append(all, token)
				if left--; left == 0 {
					return
				}
			}
		}
	}
}
