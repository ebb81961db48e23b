// Package tokenizer turns text into the token ids that a model reads, and ids
// back into text.
//
// [Byte] needs no file. [BPE] and [SentencePiece] are the tokenizers of real
// models, and give exactly the ids of Python's tokenizers and sentencepiece:
// [ReadJSON] reads tokenizer.json, [ReadSentencePiece] tokenizer.model,
// [ReadLlama2C] tokenizer.bin; [NewBPE] and [NewSentencePiece] take lists,
// such as those in a GGUF file. What a file wants and they do not do is an
// error that wraps [ErrUnsupported], never another id. [Train] makes a BPE of
// a corpus.
//
// The classes of characters and the normalization are those of tokenizers
// 0.21.4, of Unicode 16 and 9, in tables of this package: ids do not change
// with the release of Go.
package tokenizer

import (
	"cmp"
	"slices"
)

// Tokenizer maps text to token ids 0 ≤ id < VocabSize() and back. It is safe
// for concurrent use.
//
// Decode never fails: what stands for an id out of range, each implementation
// says. Adding a token to a sequence adds bytes to the end of its Decode and
// changes none before them; which bytes depends on that token and, as long as
// the Decode of the tokens before it is empty, on those; Stream relies on it. The
// bytes of a rune may be spread over tokens, so the Decode of a part of a text need not be valid UTF-8.
type Tokenizer interface {
	Encode(text string) []int32   // text to ids
	Decode(tokens []int32) string // ids to text
	VocabSize() int               // the number of ids
}

// Model is what tokenizers of models can do besides.
type Model interface {
	Tokenizer

	// EncodeMarkup finds special tokens in the text, as a chat template
	// writes them. Encode does what the reference does by default.
	EncodeMarkup(text string) []int32

	// EncodePlain takes all of it for text, as what others wrote should be.
	EncodePlain(text string) []int32

	// EncodeOffsets is EncodeMarkup, and the byte of text that each token
	// ends at.
	EncodeOffsets(text string) (ids []int32, ends []int)

	// EncodeMixed is EncodeOffsets for a text of which the plain spans are
	// what others wrote: a special token that lies in a part of one means
	// nothing there. Spans are in order.
	EncodeMixed(text string, plain []Span) (ids []int32, ends []int)

	// ID returns the id of a token, as the vocabulary spells it.
	ID(token string) (id int32, ok bool)

	// Token returns the token of an id, as the vocabulary spells it; "" if
	// it is of none.
	Token(id int32) string

	// Special reports whether a token marks text up and is no part of it.
	Special(id int32) bool

	// Template returns the tokens that the model expects before and after a
	// text; no Encode adds them.
	Template() (prefix, suffix []int32)
}

// Span is a part of a text: the bytes from Start up to, without, End.
type Span struct{ Start, End int }

// overlap returns what tells whether a part of a text overlaps one of spans,
// nil if there are none.
func overlap(spans []Span) func(start, end int) bool {
	if len(spans) == 0 {
		return nil
	}
	return func(start, end int) bool {
		i, _ := slices.BinarySearchFunc(spans, start, func(s Span, start int) int { return cmp.Compare(s.End, start+1) })
		for ; i < len(spans) && spans[i].Start < end; i++ {
			if spans[i].Start < spans[i].End {
				return true
			}
		}
		return false
	}
}

// everywhere is the overlap of a span that is the whole text.
func everywhere(int, int) bool { return true }

var _, _, _ Model = (*BPE)(nil), (*SentencePiece)(nil), Byte{}
