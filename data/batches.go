package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Split cuts tokens by position: the last heldOut of them, rounded down, for
// validation, the rest for training. It panics unless 0 ≤ heldOut < 1.
func Split(tokens []int32, heldOut float64) (train, val []int32) {
	if !(heldOut >= 0 && heldOut < 1) {
		panic("data: Split: heldOut is not within [0,1)")
	}
	cut := len(tokens) - int(heldOut*float64(len(tokens)))
	return tokens[:cut:cut], tokens[cut:]
}

// Batches draws training batches of B rows of T tokens, with the tokens that
// follow them as targets.
//
// In an epoch, the tokens are cut into windows of T+1, each of which begins
// with the last token of the one before: all predictions within the cut are
// made once. Where the first window begins, 0 to T-1 tokens from the start,
// depends on the epoch, so that a token is not met in the same place each
// time; what this leaves over at the two ends is less than 2T tokens. The
// windows come in an order that is shuffled anew in each epoch. A batch may
// span the end of an epoch.
//
// Batches holds no state: batch k is a pure function of tokens, B, T, seed and
// k. It is safe for concurrent use.
type Batches struct {
	read    func(tokens []int32, at int64) error
	data    func() string // identifies the tokens
	b, t    int
	seed    uint64
	windows uint64 // W, in each epoch
	offsets uint64 // places where an epoch's first window may begin
}

// NewBatches returns the batches of tokens, which it keeps. It is an error if
// B or T is less than 1, or if tokens has less than one window.
func NewBatches(tokens []int32, B, T int, seed uint64) (*Batches, error) {
	d, err := newBatches(int64(len(tokens)), B, T, seed)
	if err != nil {
		return nil, err
	}
	d.read = func(to []int32, at int64) error {
		copy(to, tokens[at:])
		return nil
	}
	d.data = func() string { return fmt.Sprintf("%d tokens, SHA-256 %s", len(tokens), SHA256(tokens)) }
	return d, nil
}

// newBatches returns the batches of n tokens, without the tokens.
func newBatches(n int64, B, T int, seed uint64) (*Batches, error) {
	if B < 1 || T < 1 {
		return nil, fmt.Errorf("data: batches of %d rows of %d tokens, want 1 or more of both", B, T)
	}
	if n <= int64(T) {
		return nil, fmt.Errorf("data: %d tokens are too few: one window of a sequence of %d has %d", n, T, uint(T)+1)
	}
	// W windows from any offset need offset + W·T + 1 ≤ n.
	w := max(1, (n-int64(T))/int64(T))
	return &Batches{
		b: B, t: T, seed: seed,
		windows: uint64(w), offsets: uint64(min(int64(T), n-w*int64(T))),
	}, nil
}

// Windows returns the number of windows in an epoch.
func (d *Batches) Windows() int { return int(d.windows) }

// Fill writes batch k into tokens and targets, both [B,T]. It panics if k is
// negative or a length is wrong. The error is that of reading; tokens in memory
// have none.
func (d *Batches) Fill(k int, tokens, targets []int32) error {
	if k < 0 {
		panic("data: Batches.Fill: negative k")
	}
	if len(tokens) != d.b*d.t || len(targets) != d.b*d.t {
		panic("data: Batches.Fill: tokens and targets are not [B,T]")
	}
	for row := range d.b {
		i := uint64(k)*uint64(d.b) + uint64(row) // windows drawn before this one
		at := d.start(i/d.windows, i%d.windows)
		x, y := tokens[row*d.t:][:d.t], targets[row*d.t:][:d.t]
		if err := d.read(x, at); err != nil {
			return err
		}
		copy(y, x[1:])
		if err := d.read(y[d.t-1:], at+int64(d.t)); err != nil {
			return err
		}
	}
	return nil
}

// Fingerprint identifies the batches: the tokens, B, T and the seed.
func (d *Batches) Fingerprint() string {
	return fmt.Sprintf("%s, in batches of %d×%d, seed %d", d.data(), d.b, d.t, d.seed)
}

// SHA256 returns that of tokens as little-endian int32, in hexadecimal.
func SHA256(tokens []int32) string {
	h := sha256.New()
	block := make([]byte, 0, 64<<10)
	for len(tokens) > 0 {
		n := min(len(tokens), cap(block)/4)
		block = block[:0]
		for _, id := range tokens[:n] {
			block = binary.LittleEndian.AppendUint32(block, uint32(id))
		}
		h.Write(block)
		tokens = tokens[n:]
	}
	return hex.EncodeToString(h.Sum(nil))
}

// start returns the position of the i-th window of an epoch.
func (d *Batches) start(epoch, i uint64) int64 {
	key := mix(mix(d.seed) + epoch)
	return int64(mix(key)%d.offsets) + int64(permute(i, d.windows, key))*int64(d.t)
}

// permute returns the image of i in a permutation of 0..n-1 that key chooses:
// a Feistel network on the smallest even number of bits that hold n-1,
// followed until it comes out below n. (Black and Rogaway, Ciphers with
// Arbitrary Finite Domains, 2002.)
func permute(i, n, key uint64) uint64 {
	half := (bits.Len64(n-1) + 1) / 2
	mask := uint64(1)<<half - 1
	for {
		left, right := i>>half, i&mask
		for round := range uint64(rounds) {
			left, right = right, left^mix(key+right*rounds+round)&mask
		}
		if i = left<<half | right; i < n {
			return i
		}
	}
}

const rounds = 8

// mix is a bijection of 64 bits, each of which depends on all: splitmix64's
// step and finaliser (Steele, Lea and Flood, Fast Splittable Pseudorandom
// Number Generators, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
