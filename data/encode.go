package data

import (
	"errors"
	"fmt"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// Example is a sequence to learn from: Targets[i] is the token that follows
// Tokens[i], or -1 where it is read and not learned. The last target is always
// one to learn: what came after it would change nothing.
type Example struct {
	Line            int // of the Record's file
	Tokens, Targets []int32
	Cut             bool // targets to learn were cut off at Encoder.MaxLen
}

// Encoder turns records into examples.
//
// Of a text every token is learned, of a prompt and its completion those of the
// completion, of a conversation those of the assistant's answers; always with
// the token that ends it, so that the model learns to stop.
//
// A prompt and its completion become tokens together, as they do when the model
// is used, and a token is learned if any of the bytes that it stands for is of
// the completion. So one across the boundary, of the space that a prompt
// ends with and the first word of the completion, is learned. A token of no
// bytes goes with the one before it, whose character it completes, or, at the
// start and after a special token, with what follows.
//
// Special tokens that a text, a prompt or a completion spells out, like
// <|im_end|>, are found, as transformers does it; what is so in a conversation,
// Chat decides.
type Encoder struct {
	Tokenizer tokenizer.Model

	// End is the token that ends a text and a completion, if the tokenizer's
	// Template does not; -1 for none.
	End int32

	// Chat returns the tokens of a whole conversation and which of them are
	// learned, as EncodeAnswers of the model's chat.Template does. nil: a
	// conversation is an error.
	Chat func(messages []Message) (tokens []int32, learned []bool, err error)

	// MaxLen is the most tokens of an example. A text that is longer becomes
	// several, each of which begins with the last token that the one before
	// predicts, so that every token is learned once. A longer completion or conversation is
	// cut at its end, and is no example if nothing to learn is left.
	MaxLen int
}

// Encode returns the examples of a record, of which there may be none (see
// MaxLen). The error is Chat's, or that a record has a single token, of which
// nothing can be learned. It panics if MaxLen is less than 1.
func (e *Encoder) Encode(r Record) ([]Example, error) {
	if e.MaxLen < 1 {
		panic("data: Encoder.Encode: MaxLen is less than 1")
	}
	tokens, learned, err := e.tokens(r)
	if err != nil {
		return nil, fmt.Errorf("data: line %d: %w", r.Line, err)
	}
	for len(learned) > 0 && !learned[len(learned)-1] {
		learned = learned[:len(learned)-1]
	}
	if len(learned) < 2 {
		return nil, fmt.Errorf("data: line %d becomes %d tokens, and none to learn follows another", r.Line, len(tokens))
	}
	n := len(learned) - 1 // predictions
	whole := Example{Line: r.Line, Tokens: tokens[:n:n], Targets: tokens[1 : n+1 : n+1]}
	whole.Targets = append([]int32(nil), whole.Targets...)
	for i := range whole.Targets {
		if !learned[i+1] {
			whole.Targets[i] = -1
		}
	}
	if n <= e.MaxLen {
		return []Example{whole}, nil
	}
	var examples []Example
	if r.Text == "" {
		n, whole.Cut = e.MaxLen, true
	}
	for at := 0; at < n; at += e.MaxLen {
		part, to := whole, min(n, at+e.MaxLen)
		for to > at && whole.Targets[to-1] < 0 {
			to--
		}
		part.Tokens, part.Targets = whole.Tokens[at:to:to], whole.Targets[at:to:to]
		if to > at {
			examples = append(examples, part)
		}
	}
	return examples, nil
}

// tokens returns those of a record, and which of them are learned.
func (e *Encoder) tokens(r Record) (tokens []int32, learned []bool, err error) {
	if r.Messages != nil {
		if e.Chat == nil {
			return nil, nil, errors.New("it has messages, and this model has no chat template")
		}
		tokens, learned, err := e.Chat(r.Messages)
		if err == nil && len(learned) != len(tokens) {
			panic("data: Encoder.Chat: learned is not as long as tokens")
		}
		return tokens, learned, err
	}
	text := r.Prompt + r.Completion + r.Text // of which either is ""
	prefix, suffix := e.Tokenizer.Template()
	ids, ends := e.Tokenizer.EncodeOffsets(text)
	tokens = append(append(append(tokens, prefix...), ids...), suffix...)
	learned = make([]bool, len(prefix), len(tokens)+1)
	from := 0 // byte
	for i, to := range ends {
		in := max(to, from+1) > len(r.Prompt) // of bytes [from,to), or of those from there on
		if from == to && i > 0 && !e.Tokenizer.Special(ids[i-1]) {
			in = learned[len(learned)-1]
		}
		learned = append(learned, in)
		from = to
	}
	for range suffix {
		learned = append(learned, true)
	}
	if e.End >= 0 && (len(tokens) == 0 || tokens[len(tokens)-1] != e.End) {
		tokens, learned = append(tokens, e.End), append(learned, true)
	}
	return tokens, learned, nil
}

// SplitExamples holds out a fraction of the lines for validation, which the
// seed draws: all examples of a line go the same way, in their order. It panics
// unless 0 ≤ heldOut < 1.
func SplitExamples(examples []Example, heldOut float64, seed uint64) (train, val []Example) {
	if !(heldOut >= 0 && heldOut < 1) {
		panic("data: SplitExamples: heldOut is not within [0,1)")
	}
	index, lines := make([]int, len(examples)), 0
	for i, e := range examples {
		if i > 0 && e.Line != examples[i-1].Line {
			lines++
		}
		index[i] = lines
	}
	if len(examples) > 0 {
		lines++
	}
	out := uint64(heldOut * float64(lines))
	for i, e := range examples {
		if permute(uint64(index[i]), uint64(lines), mix(seed)) < out {
			val = append(val, e)
		} else {
			train = append(train, e)
		}
	}
	return train, val
}
