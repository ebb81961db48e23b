package tokenizer_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// FuzzReadJSON takes any bytes. What is accepted must encode, and be the same
// when it is written and read again.
func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(small))
	for _, c := range badJSON {
		if len(c.new) < 1000 {
			f.Add([]byte(strings.Replace(small, c.old, c.new, 1)))
		}
	}
	for _, c := range [][2]string{
		{`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}`},
		{`{"type":"ByteLevel","add_prefix_space":false}`, `{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false}]}`},
		{`{"type":"ByteLevel","add_prefix_space":false}`, `{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}`},
		{`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}`},
		{`"dropout":null`, `"unk_token":"a","fuse_unk":true,"ignore_merges":true`},
	} {
		require.Contains(f, small, c[0])
		f.Add([]byte(strings.Replace(small, c[0], c[1], 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := readJSONBytes(data)
		if err != nil {
			var e *tokenizer.Error
			require.ErrorAs(t, err, &e)
			return
		}
		var b bytes.Buffer
		require.NoError(t, tok.WriteJSON(&b))
		again, err := readJSONBytes(b.Bytes())
		require.NoError(t, err, "%s", b.Bytes())
		for _, s := range fuzzTexts {
			ids := tok.Encode(s)
			requireIDs(t, tok, ids)
			require.Equal(t, ids, again.Encode(s))
			require.Equal(t, tok.Decode(ids), again.Decode(ids))
			requireIDs(t, tok, tok.EncodePlain(s))
		}
	})
}

var fuzzTexts = []string{"", "ab<s>a  b", "don't 123 \n\n ▁e\u0301\xff", strings.Repeat("ab", 40), "<|endoftext|> x"}

func requireIDs(t *testing.T, tok tokenizer.Tokenizer, ids []int32) {
	for _, id := range ids {
		require.True(t, id >= 0 && int(id) < tok.VocabSize(), "%d", id)
	}
	tok.Decode(ids)
}

// FuzzReadSentencePiece takes any bytes; what is accepted must encode.
func FuzzReadSentencePiece(f *testing.F) {
	f.Add(sp().Bytes())
	f.Add(trainer(sp(), func(m *proto) { m.int(3, 2) }).Bytes())
	// Units: the root, to 1^'a' = 96: a leaf below it, of "x".
	units := make([]byte, 4*97)
	for i, u := range map[int]uint32{0: 1 << 10, 96: 'a' | 1<<8 | 1<<10, 97 - 1 ^ 1: 1 << 31} {
		if 4*i < len(units) {
			binary.LittleEndian.PutUint32(units[4*i:], u)
		}
	}
	f.Add(charsmap(slices.Concat(binary.LittleEndian.AppendUint32(nil, uint32(len(units))), units, []byte("x\x00"))).Bytes())
	f.Add(sp().piece("aa", -2, tokenizer.UserDefined).piece("▁a", -2, tokenizer.Unused).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := tokenizer.ReadSentencePiece(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			var e *tokenizer.Error
			require.ErrorAs(t, err, &e)
			return
		}
		for _, s := range fuzzTexts {
			requireIDs(t, tok, tok.Encode(s))
			requireIDs(t, tok, tok.EncodeMarkup(s))
		}
	})
}

// FuzzReadLlama2C takes any bytes and a size of the vocabulary.
func FuzzReadLlama2C(f *testing.F) {
	b, err := os.ReadFile("testdata/golden/llama2c.bin")
	require.NoError(f, err)
	sp := readSentencePiece(f, "testdata/golden/spbpe.model")
	f.Add(b, sp.VocabSize())
	f.Fuzz(func(t *testing.T, data []byte, vocab int) {
		tok, err := tokenizer.ReadLlama2C(bytes.NewReader(data), int64(len(data)), vocab)
		if err != nil {
			var e *tokenizer.Error
			require.ErrorAs(t, err, &e)
			return
		}
		require.Equal(t, vocab, tok.VocabSize())
		for _, s := range fuzzTexts {
			requireIDs(t, tok, tok.Encode(s))
		}
	})
}

// FuzzEncode takes any text: what it is encoded to decodes to it again, also
// through a Stream, and does not depend on what was encoded before.
func FuzzEncode(f *testing.F) {
	for _, c := range goldens(f)[0].Cases {
		f.Add(c.Text)
	}
	toks := goldenTokenizers(f)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1000 {
			return
		}
		for name, tok := range toks {
			ids := tok.EncodePlain(text)
			requireIDs(t, tok, ids)
			got := tok.Decode(ids)
			switch name {
			case "gpt-2.json", "llama-bpe.json", "smollm.json":
				require.Equal(t, text, got, name)
				require.Equal(t, text, tok.Decode(tok.Encode(text)), name)
			case "llama2.json":
				// A ▁ in the text is a space in it.
				if !strings.Contains(text, "▁") {
					require.Equal(t, text, got, name)
				}
			case "spbpe.model":
				if !strings.Contains(text, "▁") {
					want := ""
					for _, r := range text { // each wrong byte is U+FFFD
						want += string(r)
					}
					require.Equal(t, want, got, name)
				}
			}
			s := tokenizer.NewStream(tok)
			var b strings.Builder
			for _, id := range ids {
				b.WriteString(s.Put(id))
			}
			require.Equal(t, got, b.String()+s.Flush(), name)
		}
	})
}
