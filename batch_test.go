package chainrule_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/internal/testutil"
)

func TestSessionKnowsItsTokens(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["MHA"], 1, 1100)
	s := newSession(t, tr, chainrule.SessionOptions{Batch: 3})
	require.Empty(t, s.Tokens(0))
	_, err := s.Append(1, tr.tokens[:1030])
	require.NoError(t, err)
	require.Equal(t, tr.tokens[:1030], s.Tokens(1))
	_, err = s.Step([]int32{5, -1, 7})
	require.NoError(t, err)
	_, err = s.Step([]int32{-1, 6, 8})
	require.NoError(t, err)
	require.Equal(t, []int32{5}, s.Tokens(0))
	require.Equal(t, append(slices.Clone(tr.tokens[:1030]), 6), s.Tokens(1))
	require.Equal(t, []int32{7, 8}, s.Tokens(2))
	s.Truncate(1, 2)
	_, err = s.Append(1, []int32{9})
	require.NoError(t, err)
	require.Equal(t, []int32{tr.tokens[0], tr.tokens[1], 9}, s.Tokens(1))
	_, err = s.Append(1, []int32{1, 11})
	require.Error(t, err)
	_, err = s.Step([]int32{11, 1, 1})
	require.Error(t, err)
	require.Len(t, s.Tokens(1), 3)
}

// Every sequence is continued as it would be alone.
func TestGenerateBatchIsGenerateManyTimes(t *testing.T) {
	for name, c := range tinyShapes() {
		t.Run(name, func(t *testing.T) {
			tr := newTrainer(t, c, 1, 60)
			prompts := [][]int32{tr.tokens[:1], tr.tokens[3:20], tr.tokens[7:15], tr.tokens[30:39]}
			lengths := []int{20, 3, 1, 1 << 30}
			const maxLen = 30
			o := chainrule.SamplerOptions{Temperature: 1.5, TopK: 9, RepetitionPenalty: 1.2, Seed: 7}

			got := make([][]int32, len(prompts))
			s := newSession(t, tr, chainrule.SessionOptions{MaxLen: maxLen, Batch: 5})
			require.NoError(t, s.GenerateBatch(t.Context(), prompts, o, func(d chainrule.Drawn) bool {
				require.Len(t, d.Logits, c.VocabSize)
				got[d.Seq] = append(got[d.Seq], d.Token)
				return len(got[d.Seq]) < lengths[d.Seq]
			}))
			for i, prompt := range prompts {
				alone := newSession(t, tr, chainrule.SessionOptions{MaxLen: maxLen})
				var want []int32
				o := o
				o.Seed += uint64(i)
				for token, err := range alone.Generate(t.Context(), prompt, newSampler(t, o)) {
					require.NoError(t, err)
					if want = append(want, token); len(want) == lengths[i] {
						break
					}
				}
				require.Equal(t, want, got[i], "sequence %d", i)
				require.Equal(t, append(slices.Clone(prompt), got[i][:len(got[i])-1]...), s.Tokens(i))
			}
			require.Len(t, got[3], maxLen-len(prompts[3])+1, "the context's end")
			require.Zero(t, s.Len(4))
		})
	}
}

func TestGenerateBatchEnds(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["MHA"], 1, 20)
	prompts := [][]int32{tr.tokens[:3], tr.tokens[:5]}
	always := func(chainrule.Drawn) bool { return true }
	s := newSession(t, tr, chainrule.SessionOptions{Batch: 2, MaxLen: 40})

	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	require.ErrorIs(t, s.GenerateBatch(ctx, prompts, chainrule.SamplerOptions{}, func(chainrule.Drawn) bool {
		if n++; n == 6 {
			cancel(reason)
		}
		return true
	}), reason)
	require.Equal(t, 6, n)
	require.ErrorIs(t, s.GenerateBatch(ctx, prompts, chainrule.SamplerOptions{}, always), reason)

	require.ErrorContains(t, s.GenerateBatch(t.Context(), [][]int32{{1}, {}}, chainrule.SamplerOptions{}, always), "prompt 1 has no tokens")
	require.ErrorContains(t, s.GenerateBatch(t.Context(), [][]int32{{11}}, chainrule.SamplerOptions{}, always), "token 11")
	require.ErrorContains(t, s.GenerateBatch(t.Context(), prompts, chainrule.SamplerOptions{TopP: 2}, always), "TopP is 2")
	require.ErrorIs(t, s.GenerateBatch(t.Context(), [][]int32{make([]int32, 41)}, chainrule.SamplerOptions{}, always), chainrule.ErrContextFull)
	require.NoError(t, s.GenerateBatch(t.Context(), nil, chainrule.SamplerOptions{}, always))
	const says = "chainrule: Session.GenerateBatch: more prompts than sequences, or a nil function"
	require.PanicsWithValue(t, says, func() { s.GenerateBatch(t.Context(), make([][]int32, 3), chainrule.SamplerOptions{}, always) })
	require.PanicsWithValue(t, says, func() { s.GenerateBatch(t.Context(), prompts, chainrule.SamplerOptions{}, nil) })

	be := &testutil.Failing{Backend: newBackend(t)}
	be.Left.Store(int64(3 * (4*tr.NLayers + 1))) // two prompts and a step
	failing, err := chainrule.NewSession(tr.Model, be, chainrule.SessionOptions{Batch: 2})
	require.NoError(t, err)
	n = 0
	require.ErrorIs(t, failing.GenerateBatch(t.Context(), prompts, chainrule.SamplerOptions{}, func(chainrule.Drawn) bool { n++; return true }), testutil.ErrDevice)
	require.Equal(t, 4, n)
}

// A sequence that has ended costs nothing: the products have a row fewer.
func TestGenerateBatchDropsWhatHasEnded(t *testing.T) {
	tr := newTrainer(t, tinyShapes()["MHA"], 1, 20)
	s := newSession(t, tr, chainrule.SessionOptions{Batch: 2, MaxLen: 40})
	n := 0
	require.NoError(t, s.GenerateBatch(t.Context(), [][]int32{tr.tokens[:3], tr.tokens[:5]}, chainrule.SamplerOptions{}, func(d chainrule.Drawn) bool {
		n++
		return d.Seq == 1 && n < 10
	}))
	require.Equal(t, 3, s.Len(0))
	require.Equal(t, 5+8, s.Len(1))
}
