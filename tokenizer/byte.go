package tokenizer

import (
	"io"
	"unicode/utf8"
)

// Byte is the tokenizer of 256 tokens, one for each byte, whose id is the
// byte: any text in any encoding goes in and comes back the same. No token is
// special, and nothing is expected around a text.
type Byte struct{}

// VocabSize returns 256.
func (Byte) VocabSize() int { return 256 }

// Encode returns the bytes of text.
func (Byte) Encode(text string) []int32 {
	tokens := make([]int32, len(text))
	for i := range tokens {
		tokens[i] = int32(text[i])
	}
	return tokens
}

// Decode returns the bytes that tokens are; an id outside 0 to 255 becomes
// U+FFFD, the replacement character.
func (Byte) Decode(tokens []int32) string {
	text := make([]byte, 0, len(tokens))
	for _, id := range tokens {
		if id < 0 || id > 255 {
			text = utf8.AppendRune(text, utf8.RuneError)
			continue
		}
		text = append(text, byte(id))
	}
	return string(text)
}

// EncodeMarkup is Encode.
func (b Byte) EncodeMarkup(text string) []int32 { return b.Encode(text) }

// EncodePlain is Encode.
func (b Byte) EncodePlain(text string) []int32 { return b.Encode(text) }

// EncodeOffsets is Encode, and 1, 2, 3, …
func (b Byte) EncodeOffsets(text string) (ids []int32, ends []int) {
	ends = make([]int, len(text))
	for i := range ends {
		ends[i] = i + 1
	}
	return b.Encode(text), ends
}

// EncodeMixed is EncodeOffsets: there are no special tokens.
func (b Byte) EncodeMixed(text string, _ []Span) (ids []int32, ends []int) {
	return b.EncodeOffsets(text)
}

// ID returns the byte that token is, if it is one.
func (Byte) ID(token string) (id int32, ok bool) {
	if len(token) != 1 {
		return 0, false
	}
	return int32(token[0]), true
}

// Token returns the byte id, as a string of that byte; "" if it is none.
func (Byte) Token(id int32) string {
	if id < 0 || id > 255 {
		return ""
	}
	return string([]byte{byte(id)})
}

// Special returns false.
func (Byte) Special(int32) bool { return false }

// Template returns nothing.
func (Byte) Template() (prefix, suffix []int32) { return nil, nil }

// WriteJSON writes a tokenizer.json with the same ids: of a byte-level BPE
// that merges nothing. Text is UTF-8 to Python's tokenizers, so bytes that are
// not only come out of it.
func (Byte) WriteJSON(w io.Writer) error {
	b, err := NewBPE(BPEOptions{Tokens: byteTokens(), Pre: "gpt-2"})
	if err != nil {
		return err
	}
	return b.WriteJSON(w)
}

// byteTokens spells the 256 bytes as a byte-level BPE does.
func byteTokens() []string {
	tokens := make([]string, len(byteRunes))
	for c, r := range byteRunes {
		tokens[c] = string(r)
	}
	return tokens
}
