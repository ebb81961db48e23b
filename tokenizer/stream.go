package tokenizer

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

// Stream decodes a sequence token by token, and never splits a rune: bytes
// that may still become one are held back until they do, or cannot any more.
// What Put and Flush return, joined, is the Decode of the whole sequence.
// Where that is not valid UTF-8, neither are the pieces; strings.ToValidUTF8
// makes them so.
//
// A Stream with stop strings ends at the first of them, which may begin and end
// within tokens: it holds back what may still become one, and returns neither it nor what
// comes behind.
type Stream struct {
	tok     Tokenizer
	stops   []string
	head    []int32 // the first tokens, up to the first that has text
	held    []byte  // an incomplete rune, or the beginning of a stop string
	stopped bool
}

// NewStream returns a Stream at the start of a sequence. Empty stop strings
// are ignored.
func NewStream(tok Tokenizer, stops ...string) *Stream {
	stops = slices.DeleteFunc(slices.Clone(stops), func(s string) bool { return s == "" })
	return &Stream{tok: tok, stops: stops}
}

// Stopped reports whether a stop string was found. Nothing else comes until
// Flush, which begins another sequence.
func (s *Stream) Stopped() bool { return s.stopped }

// Put appends a token to the sequence and returns the text that it completes,
// which may be empty.
func (s *Stream) Put(token int32) string {
	if s.stopped {
		return ""
	}
	// What a token adds depends on the others only in that they have text, or
	// have none yet: the first few stand for all.
	before := len(s.tok.Decode(s.head))
	with := append(s.head, token)
	text := append(s.held, s.tok.Decode(with)[before:]...)
	if before == 0 {
		s.head = with
	}

	whole := len(text) - incomplete(text)
	if at := firstOf(text, s.stops); at >= 0 {
		s.stopped = true
		text, whole = text[:at], at
	} else {
		whole = min(whole, len(text)-beginning(text, s.stops))
	}
	out := string(text[:whole])
	s.held = append(s.held[:0], text[whole:]...)
	return out
}

// Flush ends the sequence and returns the bytes that were held back. The
// Stream is then at the start of another one.
func (s *Stream) Flush() string {
	out := string(s.held)
	s.held, s.head, s.stopped = s.held[:0], s.head[:0], false
	return out
}

// firstOf returns where the first of stops begins in text, -1 if none is there.
func firstOf(text []byte, stops []string) int {
	first := -1
	for _, stop := range stops {
		if at := bytes.Index(text, []byte(stop)); at >= 0 && (first < 0 || at < first) {
			first = at
		}
	}
	return first
}

// beginning returns the number of bytes at the end of text that are the
// beginning of one of stops.
func beginning(text []byte, stops []string) int {
	most := 0
	for _, stop := range stops {
		for n := min(len(stop)-1, len(text)); n > most; n-- {
			if string(text[len(text)-n:]) == stop[:n] {
				most = n
			}
		}
	}
	return most
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
