package tokenizer

import (
	"encoding/binary"
	"io"
	"math"
)

// ReadSentencePiece reads a tokenizer.model of the sentencepiece library, of
// size bytes, that holds a BPE or a Unigram model. Its Template is empty: the
// file does not say what a model expects around a text.
func ReadSentencePiece(r io.ReaderAt, size int64) (*SentencePiece, error) {
	data, err := readAll(r, size)
	if err != nil {
		return nil, in("tokenizer.model", err)
	}
	s, err := parseSentencePiece(data)
	return s, in("tokenizer.model", err)
}

// The numbers of the fields are those of sentencepiece_model.proto.
func parseSentencePiece(data []byte) (s *SentencePiece, err error) {
	defer catch(&err)
	o := SentencePieceOptions{TrimSpaces: true}
	kind, byteFallback := int32(1), false
	top := &protoReader{data: data}
	top.fields(func(f field) {
		switch f.num {
		case 1: // pieces
			piece, score, typ := "", float32(0), Normal
			f.message().fields(func(f field) {
				switch f.num {
				case 1:
					piece = f.string()
				case 2:
					score = f.float()
				case 3:
					typ = TokenType(f.int())
				}
			})
			if typ == 0 {
				top.fail(ErrVocab, "token %q has the type 0", short(piece))
			}
			o.Tokens, o.Scores, o.Types = append(o.Tokens, piece), append(o.Scores, score), append(o.Types, typ)
		case 2: // trainer_spec
			f.message().fields(func(f field) {
				switch f.num {
				case 3:
					kind = f.int()
				case 24:
					if f.bool() {
						top.fail(ErrUnsupported, "treat_whitespace_as_suffix")
					}
				case 35:
					byteFallback = f.bool()
				case 44:
					o.UnknownText = f.string()
				}
			})
		case 3: // normalizer_spec
			f.message().fields(func(f field) {
				switch f.num {
				case 2:
					f.want(2)
					o.PrecompiledMap = f.bytes
				case 3:
					o.NoSpacePrefix = !f.bool()
				case 4:
					o.TrimSpaces = f.bool()
				case 5:
					o.noEscape = !f.bool()
				}
			})
		case 5: // denormalizer_spec
			f.message().fields(func(f field) {
				if f.num == 2 && len(f.bytes) > 0 {
					top.fail(ErrUnsupported, "denormalizer_spec")
				}
			})
		}
	})
	switch {
	case len(o.Tokens) == 0:
		return nil, fail(ErrFormat, "there are no tokens")
	case kind != 1 && kind != 2:
		return nil, fail(ErrUnsupported, "model_type %d, want 1 (Unigram) or 2 (BPE)", kind)
	}
	o.Unigram = kind == 1
	s, err = newSentencePiece(o)
	if err == nil && (s.byteID[0] >= 0) != byteFallback {
		return nil, fail(ErrVocab, "byte_fallback is %t, but of bytes there are tokens: %t", byteFallback, !byteFallback)
	}
	return s, err
}

// ReadLlama2C reads a tokenizer.bin of llama2.c, of size bytes, for a model
// of vocab tokens: the file does not say how many it has. On valid UTF-8 its
// ids are those of llama2.c's run.c, to which ▁ is a character as any other.
// Its Template is <s> before a text.
func ReadLlama2C(r io.ReaderAt, size int64, vocab int) (*SentencePiece, error) {
	data, err := readAll(r, size)
	if err != nil {
		return nil, in("tokenizer.bin", err)
	}
	s, err := parseLlama2C(data, vocab)
	return s, in("tokenizer.bin", err)
}

// Llama2.c's layout: the greatest length of a token, then of each token its
// score, its length and its bytes; all little-endian 32 bits. Ids 0, 1 and 2
// are unknown, begin and end; from 3 on there are the 256 bytes. A space is a
// space.
func parseLlama2C(data []byte, vocab int) (*SentencePiece, error) {
	const bytesFrom, textFrom = 3, 3 + 256
	at := 0
	bad := func(err error, format string, args ...any) error {
		e := fail(err, format, args...).(*Error)
		e.Offset = int64(at)
		return e
	}
	if vocab < textFrom || vocab >= maxID {
		return nil, fail(ErrVocab, "a vocabulary of %d, want at least %d", vocab, textFrom)
	}
	if len(data) < 4 {
		return nil, bad(ErrTruncated, "%d bytes", len(data))
	}
	if int64(vocab) > int64(len(data)-4)/8 {
		return nil, bad(ErrTruncated, "%d bytes are too few for %d tokens", len(data), vocab)
	}
	longest := int32(binary.LittleEndian.Uint32(data))
	if longest < 1 || int64(longest) > int64(len(data)) {
		return nil, bad(ErrFormat, "max_token_length is %d, of a file of %d bytes", longest, len(data))
	}
	at = 4
	o := SentencePieceOptions{
		Tokens: make([]string, 0, vocab), Scores: make([]float32, 0, vocab), Types: make([]TokenType, 0, vocab),
		Prefix: []int32{1}, noEscape: true, stripSpace: true,
	}
	for id := range vocab {
		if len(data)-at < 8 {
			return nil, bad(ErrTruncated, "at token %d of %d", id, vocab)
		}
		score := math.Float32frombits(binary.LittleEndian.Uint32(data[at:]))
		n := int32(binary.LittleEndian.Uint32(data[at+4:]))
		if n < 0 || n > longest {
			at += 4
			return nil, bad(ErrFormat, "token %d has the length %d, the longest has %d", id, n, longest)
		}
		at += 8
		if int(n) > len(data)-at {
			return nil, bad(ErrTruncated, "within token %d of %d", id, vocab)
		}
		t := string(data[at : at+int(n)])
		at += int(n)
		typ := Normal
		switch {
		case id == 0:
			typ = Unknown
		case id < bytesFrom:
			typ = Control
		case id < textFrom:
			typ = ByteToken
			if c, ok := byteOfToken(t); !ok || int(c) != id-bytesFrom {
				return nil, bad(ErrFormat, "token %d is %q, want %s", id, short(t), byteToken(byte(id-bytesFrom)))
			}
		}
		o.Tokens, o.Scores, o.Types = append(o.Tokens, t), append(o.Scores, score), append(o.Types, typ)
	}
	if at != len(data) {
		return nil, bad(ErrFormat, "%d bytes after token %d, the last", len(data)-at, vocab-1)
	}
	return newSentencePiece(o)
}
