package train

import (
	"context"
	"fmt"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/data"
)

// evaluate evaluates if it is due. To be cancelled is no error.
func (t *Trainer) evaluate(ctx context.Context, s *Step) error {
	if t.c.EvalEvery == 0 || !t.due(t.c.EvalEvery) && !(t.c.KeepBest && t.due(t.c.SaveEvery)) {
		return nil
	}
	var loss float64
	var err error
	if t.c.Evaluate != nil {
		if loss, err = t.c.Evaluate(ctx, t.Averaged(), t.ws); err != nil {
			err = fmt.Errorf("train: evaluating after step %d: %w", t.step, err)
		}
	} else {
		loss, _, err = t.eval(ctx, t.c.Val, t.c.EvalTokens)
	}
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	s.Evaluated, s.ValLoss = true, loss
	t.valStep, t.valLoss = t.step, loss
	t.emit(Evaluated, *s, nil)
	return nil
}

// sample lets the model write if it is due. What goes wrong with that is
// nothing to stop for.
func (t *Trainer) sample(ctx context.Context, s *Step) {
	if t.c.SampleEvery == 0 || t.step%t.c.SampleEvery != 0 || ctx.Err() != nil {
		return
	}
	text, err := t.c.Sample(ctx, t.Averaged())
	switch {
	case err == nil:
		s.Sampled, s.Sample = true, text
		t.emit(Sampled, *s, nil)
	case ctx.Err() == nil:
		t.emit(Warned, *s, fmt.Errorf("train: sampling after step %d: %w", t.step, err))
	}
}

// Eval returns the mean loss, in nats a token, of predicting every token but
// the first, and how many these are, by the Averaged model. Tokens have up to
// SeqLen tokens of context (see Config.EvalStride). If ctx is done, the error
// is its cause.
func (t *Trainer) Eval(ctx context.Context, tokens []int32) (loss float64, n int, err error) {
	return t.eval(ctx, tokens, 0)
}

// eval is Eval of all batches, or of as many, evenly spread, as have about so
// many tokens.
func (t *Trainer) eval(ctx context.Context, tokens []int32, about int) (loss float64, n int, err error) {
	w, err := data.NewWindows(tokens, t.c.Batch, t.c.SeqLen, t.c.EvalStride)
	if err != nil {
		return 0, 0, fmt.Errorf("train: %w", err)
	}
	all := w.Len()
	part := all
	if about > 0 && about < len(tokens) {
		part = max(1, int(int64(all)*int64(about)/int64(len(tokens))))
	}
	if err := t.ws.Resize(t.c.Batch, t.c.SeqLen); err != nil {
		return 0, 0, fmt.Errorf("train: %w", err)
	}
	t.ws.LossDenom = 1 // the sum
	size := t.c.Batch * t.c.SeqLen
	for i := range part {
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
		w.Fill(i*all/part, t.tokens[:size], t.targets[:size])
		sum, err := chainrule.Forward(t.Averaged(), t.ws, t.tokens[:size], t.targets[:size])
		if err != nil {
			return 0, 0, fmt.Errorf("train: evaluating after step %d: %w", t.step, err)
		}
		loss += sum
		for _, id := range t.targets[:size] {
			if id >= 0 {
				n++
			}
		}
	}
	return loss / float64(n), n, nil
}
