package data

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Padded lays examples out in batches of B rows of T tokens, each example in a
// row of its own. Attention is causal over a row, so packed examples would see
// each other: here none does. What follows the end of an example, or the last
// row, is the token 0 with the target -1; Trim takes it away from all rows alike.
//
// In an epoch, every example is in one batch. For Trim to leave little padding,
// the examples, shuffled anew in each epoch, are sorted by length within
// stretches of 64 batches, and the order of the batches is shuffled again. An epoch
// has as few batches as there can be, and none has more than one example less
// than another.
//
// Padded holds no state: batch k is a pure function of the examples, B, T, seed
// and k. It is safe for concurrent use, and a train.Source.
type Padded struct {
	examples []Example
	b, t     int
	batches  uint64 // in an epoch
	seed     uint64
}

const stretch = 64 // batches that are sorted together

// NewPadded returns the batches of examples, which it keeps. It is an error if
// there are none, or one is empty, longer than T, or has targets of another
// length, or B is less than 1.
func NewPadded(examples []Example, B, T int, seed uint64) (*Padded, error) {
	if B < 1 {
		return nil, fmt.Errorf("data: batches of %d examples, want 1 or more", B)
	}
	if len(examples) == 0 {
		return nil, errors.New("data: there are no examples to make batches of")
	}
	for i, e := range examples {
		if n := len(e.Tokens); n < 1 || n > T || len(e.Targets) != n {
			return nil, fmt.Errorf("data: example %d has %d tokens and %d targets, want 1 to %d, and as many", i, n, len(e.Targets), T)
		}
	}
	return &Padded{examples: examples, b: B, t: T, batches: uint64((len(examples)-1)/B + 1), seed: seed}, nil
}

// Longest returns the length of the longest example, 0 if there is none.
func Longest(examples []Example) (T int) {
	for _, e := range examples {
		T = max(T, len(e.Tokens))
	}
	return T
}

// Batches returns the number of batches in an epoch: batch k is of epoch
// k/Batches().
func (d *Padded) Batches() int { return int(d.batches) }

// Rows returns the examples of batch k, in the order of its rows, the shortest
// first. It panics if k is negative.
func (d *Padded) Rows(k int) []Example {
	if k < 0 {
		panic("data: Padded.Rows: negative k")
	}
	n := uint64(len(d.examples))
	key := mix(mix(d.seed) + uint64(k)/d.batches)
	batch := permute(uint64(k)%d.batches, d.batches, mix(key))
	begin := func(batch uint64) uint64 { return batch * n / d.batches } // n and batches are below 2³¹ or so
	first := batch / stretch * stretch
	from, to := begin(first), begin(min(first+stretch, d.batches))
	sorted := make([]Example, 0, to-from)
	for i := from; i < to; i++ {
		sorted = append(sorted, d.examples[permute(i, n, key)])
	}
	slices.SortStableFunc(sorted, func(a, b Example) int { return cmp.Compare(len(a.Tokens), len(b.Tokens)) })
	return sorted[begin(batch)-from : begin(batch+1)-from]
}

// Fill writes batch k into tokens and targets, both [B,T]. It panics if k is
// negative or a length is wrong; there is no error.
func (d *Padded) Fill(k int, tokens, targets []int32) error {
	if len(tokens) != d.b*d.t || len(targets) != d.b*d.t {
		panic("data: Padded.Fill: tokens and targets are not [B,T]")
	}
	clear(tokens)
	for i := range targets {
		targets[i] = -1
	}
	for i, e := range d.Rows(k) {
		copy(tokens[i*d.t:], e.Tokens)
		copy(targets[i*d.t:], e.Targets)
	}
	return nil
}

// Fingerprint identifies the batches: the examples, B, T and the seed.
func (d *Padded) Fingerprint() string {
	h := sha256.New()
	var b []byte
	for _, e := range d.examples {
		b = binary.LittleEndian.AppendUint32(b[:0], uint32(len(e.Tokens)))
		for i, id := range e.Tokens {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
			b = binary.LittleEndian.AppendUint32(b, uint32(e.Targets[i]))
		}
		h.Write(b)
	}
	return fmt.Sprintf("%d examples, SHA-256 %x, in padded batches of %d×%d, seed %d", len(d.examples), h.Sum(nil), d.b, d.t, d.seed)
}

// Trim takes from a batch [B,T] the rows and the columns at its end that have no
// target ≥ 0, which neither the loss nor the gradient depends on, and returns the
// shape of what is left, at the beginning of the slices. One token stays where there
// is no target at all.
func Trim(tokens, targets []int32, B, T int) (b, t int) {
	if len(tokens) != B*T || len(targets) != B*T {
		panic("data: Trim: tokens and targets are not [B,T]")
	}
	b, t = 1, 1
	for i, id := range targets {
		if id >= 0 {
			b, t = i/T+1, max(t, i%T+1)
		}
	}
	for row := 1; row < b && t < T; row++ {
		copy(tokens[row*t:], tokens[row*T:][:t])
		copy(targets[row*t:], targets[row*T:][:t])
	}
	return b, t
}
