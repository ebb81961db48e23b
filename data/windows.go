package data

import "fmt"

// Windows lays tokens out for evaluation, in batches of B rows of T tokens, so
// that every token but the first is a target exactly once. A row begins stride
// tokens after the one before it; what that one has predicted already is
// context, with the target -1. A stride of T is the cheapest; a smaller one
// gives every prediction but those of the first row more than T-stride
// tokens of context, at T/stride times the cost. What the last batch has room for
// beyond the end has the token 0 and the target -1.
//
// It is safe for concurrent use.
type Windows struct {
	tokens       []int32
	b, t, stride int
	rows         int
}

// NewWindows returns the windows of tokens, which it keeps. It is an error if
// B or T is less than 1, if stride is not 1 to T, or if there are less than
// two tokens.
func NewWindows(tokens []int32, B, T, stride int) (*Windows, error) {
	switch {
	case B < 1 || T < 1:
		return nil, fmt.Errorf("data: windows in batches of %d rows of %d tokens, want 1 or more of both", B, T)
	case stride < 1 || stride > T:
		return nil, fmt.Errorf("data: windows of %d tokens with a stride of %d, want 1 to %d", T, stride, T)
	case len(tokens) < 2:
		return nil, fmt.Errorf("data: %d tokens are too few to evaluate on: want 2 or more", len(tokens))
	}
	rows := 1
	if more := len(tokens) - 1 - T; more > 0 { // targets beyond the first row
		rows += (more-1)/stride + 1
	}
	return &Windows{tokens, B, T, stride, rows}, nil
}

// Len returns the number of batches.
func (w *Windows) Len() int { return (w.rows-1)/w.b + 1 }

// Targets returns the number of targets in all batches: that of the tokens,
// less one.
func (w *Windows) Targets() int { return len(w.tokens) - 1 }

// Fill writes batch k < Len() into tokens and targets, both [B,T]. It panics
// if k or a length is wrong.
func (w *Windows) Fill(k int, tokens, targets []int32) {
	if k < 0 || k >= w.Len() {
		panic("data: Windows.Fill: k is not 0 to Len()-1")
	}
	if len(tokens) != w.b*w.t || len(targets) != w.b*w.t {
		panic("data: Windows.Fill: tokens and targets are not [B,T]")
	}
	clear(tokens)
	for i := range targets {
		targets[i] = -1
	}
	for r := range min(w.b, w.rows-k*w.b) {
		row := k*w.b + r
		at, known := row*w.stride, w.t-w.stride
		if row == 0 {
			known = 0
		}
		copy(tokens[r*w.t:][:w.t], w.tokens[at:len(w.tokens)-1])
		copy(targets[r*w.t:][known:w.t], w.tokens[at+1+known:])
	}
}
