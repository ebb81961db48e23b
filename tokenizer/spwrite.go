package tokenizer

import (
	"encoding/binary"
	"io"
	"math"
	"strings"
)

// WriteModel writes s as a tokenizer.model that the sentencepiece library
// reads, with the same ids; but for those of text that has a ▁ itself where s
// was read from a tokenizer.bin, to which that is no space. Template is not
// written: the file has no place for it. Errors of w are returned as they are.
func (s *SentencePiece) WriteModel(w io.Writer) error {
	kind := uint64(2)
	if s.o.Unigram {
		kind = 1
	}
	var b, m protoWriter
	for id, t := range s.o.Tokens {
		if s.o.noEscape && s.o.Types[id] != ByteToken {
			t = strings.ReplaceAll(t, " ", metaspace)
		}
		typ := s.o.Types[id]
		if typ == 0 {
			typ = Normal
		}
		m = m[:0]
		m.bytes(1, t)
		m.float(2, s.o.Scores[id])
		m.number(3, uint64(typ))
		b.bytes(1, string(m))
	}
	m = m[:0]
	m.number(3, kind)
	m.number(4, uint64(len(s.o.Tokens)))
	m.number(35, number(s.byteID[0] >= 0))
	m.number(40, uint64(s.unk))
	for field, piece := range []string{"<s>", "</s>"} {
		id, ok := s.ID(piece)
		if !ok {
			id = -1
		}
		m.number(41+field, uint64(int64(id)))
	}
	m.number(43, math.MaxUint64) // pad_id: -1, none
	m.bytes(44, s.o.UnknownText)
	b.bytes(2, string(m))
	m = m[:0]
	if len(s.o.PrecompiledMap) == 0 {
		m.bytes(1, "identity")
	} else {
		m.bytes(2, string(s.o.PrecompiledMap))
	}
	m.number(3, number(!s.o.NoSpacePrefix))
	m.number(4, number(s.o.TrimSpaces))
	m.number(5, 1) // spaces are ▁
	b.bytes(3, string(m))
	_, err := w.Write(b)
	return err
}

func number(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// protoWriter appends fields of a protocol buffer.
type protoWriter []byte

func (b *protoWriter) number(field int, v uint64) {
	*b = binary.AppendUvarint(binary.AppendUvarint(*b, uint64(field)<<3), v)
}

func (b *protoWriter) float(field int, v float32) {
	*b = binary.LittleEndian.AppendUint32(binary.AppendUvarint(*b, uint64(field)<<3|5), math.Float32bits(v))
}

func (b *protoWriter) bytes(field int, v string) {
	*b = append(binary.AppendUvarint(binary.AppendUvarint(*b, uint64(field)<<3|2), uint64(len(v))), v...)
}
