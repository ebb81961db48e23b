package tokenizer

import "unicode/utf8"

// Stream decodes a sequence token by token, and never splits a rune: bytes
// that may still become one are held back until they do, or cannot any more.
// What Put and Flush return, joined, is the Decode of the whole sequence.
// Where that is not valid UTF-8, neither are the pieces; strings.ToValidUTF8
// makes them so.
type Stream struct {
	tok  Tokenizer
	head []int32 // the first tokens, up to the first that has text
	held []byte  // an incomplete rune: at most utf8.UTFMax-1 bytes
}

// NewStream returns a Stream at the start of a sequence.
func NewStream(tok Tokenizer) *Stream { return &Stream{tok: tok} }

// Put appends a token to the sequence and returns the text that it completes,
// which may be empty.
func (s *Stream) Put(token int32) string {
	// What a token adds depends on the others only in that they have text, or
	// have none yet: the first few stand for all.
	before := len(s.tok.Decode(s.head))
	with := append(s.head, token)
	text := append(s.held, s.tok.Decode(with)[before:]...)
	if before == 0 {
		s.head = with
	}

	whole := len(text) - incomplete(text)
	out := string(text[:whole])
	s.held = append(s.held[:0], text[whole:]...)
	return out
}

// Flush ends the sequence and returns the bytes that were held back. The
// Stream is then at the start of another one.
func (s *Stream) Flush() string {
	out := string(s.held)
	s.held, s.head = s.held[:0], s.head[:0]
	return out
}

// incomplete returns the number of bytes at the end of text that are the
// beginning of a rune.
func incomplete(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		tail := text[len(text)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
