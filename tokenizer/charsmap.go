package tokenizer

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// charsmap is sentencepiece's precompiled_charsmap: a double-array trie of
// Darts-clone from strings to offsets into replacements, which end with a NUL.
type charsmap struct {
	units []uint32
	to    []byte
}

func newCharsmap(b []byte) (*charsmap, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < 4 {
		return nil, fail(ErrFormat, "precompiled_charsmap has %d bytes", len(b))
	}
	size := binary.LittleEndian.Uint32(b)
	if uint64(size) > uint64(len(b)-4) || size%4 != 0 || size == 0 {
		return nil, fail(ErrFormat, "precompiled_charsmap of %d bytes has a trie of %d", len(b), size)
	}
	m := &charsmap{units: make([]uint32, size/4), to: b[4+size:]}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(b[4+4*i:])
	}
	if !utf8.Valid(m.to) {
		return nil, fail(ErrFormat, "precompiled_charsmap replaces by what is not UTF-8")
	}
	for i, u := range m.units {
		// What is not a leaf may look like one: longest checks again.
		if u>>31 != 0 && int(u&(1<<31-1)) > len(m.to) {
			return nil, fail(ErrFormat, "precompiled_charsmap: unit %d is out of range", i)
		}
	}
	if len(m.to) > 0 && m.to[len(m.to)-1] != 0 {
		return nil, fail(ErrFormat, "precompiled_charsmap does not end with a NUL")
	}
	return m, nil
}

// longest returns what the longest string of the map that s begins with is
// replaced by, and its length, 0 if there is none.
func (m *charsmap) longest(s string) (to string, length int) {
	offset := func(u uint32) uint32 { return u >> 10 << (u & (1 << 9) >> 6) }
	at := offset(m.units[0])
	value := -1
	for i := range len(s) {
		at ^= uint32(s[i])
		if int64(at) >= int64(len(m.units)) {
			break
		}
		u := m.units[at]
		if u&(1<<31|0xff) != uint32(s[i]) {
			break
		}
		at ^= offset(u)
		if u>>8&1 != 0 && int64(at) < int64(len(m.units)) {
			value, length = int(m.units[at]&(1<<31-1)), i+1
		}
	}
	if length == 0 || value >= len(m.to) {
		return "", 0
	}
	to = string(m.to[value : value+bytes.IndexByte(m.to[value:], 0)])
	if !utf8.ValidString(to) {
		return "", 0
	}
	return to, length
}
