package train_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/train"
)

// rowCounter is a backend that keeps the most rows of a product.
type rowCounter struct {
	backend.Backend
	rows int
}

func (c *rowCounter) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	c.rows = max(c.rows, rows)
	return c.Backend.Linear(y, x, w, rows)
}

// Padding that all rows have is not computed, and changes nothing.
func TestPaddingIsNotComputed(t *testing.T) {
	var examples []data.Example
	for i := range 10 {
		e := data.Example{Line: i}
		for j := range 3 + i%3 {
			e.Tokens, e.Targets = append(e.Tokens, int32(i+j)), append(e.Targets, int32(i+j+1))
		}
		e.Targets[0] = -1
		examples = append(examples, e)
	}
	const most = 5 // tokens
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	tune := func(B, T int) (*chainrule.Model, []float64, int) {
		source, err := data.NewPadded(examples, 4, T, 1)
		require.NoError(t, err)
		var s train.Source = source
		if B > 4 {
			s = moreRows{source, B, T}
		}
		m, err := chainrule.NewModel(chainrule.Config{
			Dim: 8, HiddenDim: 16, NLayers: 2, NHeads: 2, NKVHeads: 2, HeadDim: 4, VocabSize: 32, SeqLen: 40,
			RopeTheta: 10000, NormEps: 1e-5, Tied: true,
		})
		require.NoError(t, err)
		m.Init(1)
		counter := &rowCounter{Backend: be}
		tr, err := train.New(train.Config{
			Model: m, Backend: counter, Source: s, Batch: B, SeqLen: T, Accumulate: 2, Steps: 6, Schedule: train.Constant{LR: 0.01},
		})
		require.NoError(t, err)
		defer tr.Close()
		var losses []float64
		for step, err := range tr.Run(t.Context()) {
			require.NoError(t, err)
			losses = append(losses, step.Loss)
		}
		rows := counter.rows
		_, _, err = tr.Eval(t.Context(), examples[2].Tokens) // which is in batches of [Batch,SeqLen] again
		require.NoError(t, err)
		return m, losses, rows
	}
	tight, losses, rows := tune(4, most)
	require.LessOrEqual(t, rows, 4*most)
	for _, shape := range [][2]int{{4, 40}, {9, most}, {9, 17}} {
		m, again, same := tune(shape[0], shape[1])
		require.Equal(t, losses, again)
		require.Equal(t, tight.Data, m.Data)
		require.Equal(t, rows, same)
	}
}

// moreRows has rows behind those of its source that hold nothing.
type moreRows struct {
	*data.Padded
	B, T int
}

func (r moreRows) Fill(k int, tokens, targets []int32) error {
	for i := range targets {
		tokens[i], targets[i] = 0, -1
	}
	return r.Padded.Fill(k, tokens[:4*r.T], targets[:4*r.T])
}
