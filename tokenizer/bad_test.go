package tokenizer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// small is a tokenizer.json that badJSON mutates.
const small = `{"version":"1.0","added_tokens":[{"id":3,"content":"<s>","special":true}],` +
	`"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"post_processor":null,` +
	`"decoder":{"type":"ByteLevel"},` +
	`"model":{"type":"BPE","dropout":null,"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`

// badJSON replaces old by new in small, all of it where old is "".
var badJSON = []struct {
	name, old, new string
	want           error
	says           string
}{
	{"empty", "", "", tokenizer.ErrTruncated, ""},
	{"an array", "", "[]", tokenizer.ErrFormat, `'[', want '{'`},
	{"an empty object", "", "{}", tokenizer.ErrFormat, "no model"},
	{"a byte order mark", `{"version"`, "\uFEFF{\"version\"", tokenizer.ErrFormat, ""},
	{"something after the end", `["a b"]}}`, `["a b"]}} x`, tokenizer.ErrFormat, "after the end"},
	{"a key twice", `"normalizer":null`, `"normalizer":null,"normalizer":null`, tokenizer.ErrFormat, "normalizer"},
	{"another case of a key", `"model"`, `"Model"`, tokenizer.ErrUnsupported, "Model"},
	{"another version", `"1.0"`, `"2.0"`, tokenizer.ErrUnsupported, "2.0"},
	{"deep nesting", `"normalizer":null`, `"truncation":` + strings.Repeat("[", 200_000), tokenizer.ErrFormat, "deep"},
	{"a large component", `"normalizer":null`, `"normalizer":{"type":"NFC","x":"` + strings.Repeat("x", 1<<16) + `"}`, tokenizer.ErrUnsupported, "normalizer"},
	{"a surrogate by itself", `"ab":2`, `"\ud800":2`, tokenizer.ErrFormat, "surrogate"},
	{"a wrong escape", `"ab":2`, `"\x":2`, tokenizer.ErrFormat, "escape"},
	{"not UTF-8", `"ab":2`, "\"\xff\":2", tokenizer.ErrFormat, "UTF-8"},
	{"a control character", `"ab":2`, "\"a\n\":2", tokenizer.ErrFormat, "control"},
	{"no vocab", `"vocab":{"a":0,"b":1,"ab":2},`, ``, tokenizer.ErrFormat, "vocab"},
	{"no merges", `,"merges":["a b"]`, ``, tokenizer.ErrFormat, "merges"},
	{"an id below 0", `"ab":2`, `"ab":-2`, tokenizer.ErrFormat, "-2"},
	{"a fraction as id", `"ab":2`, `"ab":2.5`, tokenizer.ErrFormat, "2.5"},
	{"a string as id", `"ab":2`, `"ab":"2"`, tokenizer.ErrFormat, ""},
	{"an id of 2^63", `"ab":2`, `"ab":9223372036854775808`, tokenizer.ErrFormat, "9223372036854775808"},
	{"a large id", `"ab":2`, `"ab":16000000`, tokenizer.ErrVocab, "16000000"},
	{"an id twice", `"ab":2`, `"ab":1`, tokenizer.ErrVocab, "id 1"},
	{"a token twice", `"ab":2`, `"ab":2,"ab":4`, tokenizer.ErrVocab, "ab"},
	{"an empty token", `"ab":2`, `"":2`, tokenizer.ErrUnsupported, "empty"},
	{"a merge of no token", `"a b"`, `"a c"`, tokenizer.ErrVocab, `"c"`},
	{"a merge to no token", `"a b"`, `"b a"`, tokenizer.ErrVocab, `"b"`},
	{"a merge of three", `"a b"`, `"a b c"`, tokenizer.ErrFormat, "a b c"},
	{"a merge of one", `"a b"`, `["a"]`, tokenizer.ErrFormat, "1 tokens"},
	{"merges of no list", `["a b"]`, `"a b"`, tokenizer.ErrFormat, ""},
	{"another model", `"type":"BPE"`, `"type":"WordPiece"`, tokenizer.ErrUnsupported, "WordPiece"},
	{"dropout", `"dropout":null`, `"dropout":0.1`, tokenizer.ErrUnsupported, "dropout"},
	{"a suffix of words", `"dropout":null`, `"end_of_word_suffix":"</w>"`, tokenizer.ErrUnsupported, "end_of_word_suffix"},
	{"an unknown field of the model", `"dropout":null`, `"dropin":1`, tokenizer.ErrUnsupported, "dropin"},
	{"an unknown token that is none", `"dropout":null`, `"unk_token":"?"`, tokenizer.ErrVocab, "?"},
	{"another normalizer", `"normalizer":null`, `"normalizer":{"type":"NFKC"}`, tokenizer.ErrUnsupported, "NFKC"},
	{"another field", `"normalizer":null`, `"normalizer":{"type":"NFC","form":1}`, tokenizer.ErrUnsupported, "form"},
	{"a normalizer by a regular expression", `"normalizer":null`, `"normalizer":{"type":"Replace","pattern":{"Regex":"a"},"content":"b"}`, tokenizer.ErrUnsupported, "Replace"},
	{"text that becomes endless", `"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[` + strings.Repeat(`{"type":"Replace","pattern":{"String":"a"},"content":"aa"},`, 99) + `{"type":"NFC"}]}`, tokenizer.ErrUnsupported, "longer"},
	{"another pre-tokenizer", `"type":"ByteLevel","add`, `"type":"Whitespace","add`, tokenizer.ErrUnsupported, "Whitespace"},
	{"another pattern", `{"type":"ByteLevel","add_prefix_space":false}`, `{"type":"Split","pattern":{"Regex":"\\w+"},"behavior":"Isolated","invert":false}`, tokenizer.ErrUnsupported, `\\w+`},
	{"another decoder", `"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"WordPiece"}`, tokenizer.ErrUnsupported, "WordPiece"},
	{"no decoder", `"decoder":{"type":"ByteLevel"}`, `"decoder":null`, tokenizer.ErrUnsupported, "decoder"},
	{"another post-processor", `"post_processor":null`, `"post_processor":{"type":"BertProcessing"}`, tokenizer.ErrUnsupported, "BertProcessing"},
	{"a template of no text", `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[],"pair":[],"special_tokens":{}}`, tokenizer.ErrUnsupported, "0 texts"},
	{"a template of no token", `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[9],"tokens":["<s>"]}}}`, tokenizer.ErrVocab, "9"},
	{"a single word", `"special":true`, `"single_word":true`, tokenizer.ErrUnsupported, "single_word"},
	{"an empty added token", `"<s>"`, `""`, tokenizer.ErrVocab, "empty"},
	{"an added token of another id", `"id":3,"content":"<s>"`, `"id":3,"content":"a"`, tokenizer.ErrVocab, "a"},
	{"an added token of a taken id", `"id":3`, `"id":2`, tokenizer.ErrVocab, "<s>"},
	{"an added token of a large id", `"id":3`, `"id":16000000`, tokenizer.ErrVocab, "16000000"},
	{"an added token that the reference counts", `"id":3`, `"id":4`, tokenizer.ErrVocab, "<s>"},
	{"an added token twice", `"special":true}`, `"special":true},{"id":3,"content":"<s>"}`, tokenizer.ErrVocab, "<s>"},
	{"an added token that is null", `{"id":3,"content":"<s>","special":true}`, `null`, tokenizer.ErrFormat, "null"},
}

func readJSONBytes(b []byte) (*tokenizer.BPE, error) {
	return tokenizer.ReadJSON(bytes.NewReader(b), int64(len(b)))
}

func TestSmallJSONIsGood(t *testing.T) {
	tok, err := readJSONBytes([]byte(small))
	require.NoError(t, err)
	require.Equal(t, []int32{2, 3, 0}, tok.Encode("ab<s>a"))
}

func TestBadJSON(t *testing.T) {
	for _, c := range badJSON {
		t.Run(c.name, func(t *testing.T) {
			bad := c.new
			if c.old != "" {
				require.Equal(t, 1, strings.Count(small, c.old), "not a mutation")
				bad = strings.Replace(small, c.old, c.new, 1)
			}
			var err error
			requireBounded(t, len(bad), func() { _, err = readJSONBytes([]byte(bad)) })
			requireTyped(t, err, c.want, "tokenizer.json")
			require.Contains(t, err.Error(), c.says)
			require.Less(t, len(err.Error()), 400)
		})
	}
}

func requireTyped(t *testing.T, err, want error, format string) {
	t.Helper()
	require.ErrorIs(t, err, want)
	var e *tokenizer.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, format, e.Format)
}

// requireBounded fails if f allocates more than a small multiple of size.
func requireBounded(t *testing.T, size int, f func()) {
	t.Helper()
	f() // tables that are made once
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10+8*size))
}

// What is read comes out again: an added token that is not in the vocabulary
// stays so, unless its id needs it.
func TestWriteJSONKeepsTheVocabulary(t *testing.T) {
	for id, in := range map[string]bool{"3": false, "0": true} {
		o := tokenizer.BPEOptions{Tokens: []string{"a", "b", "ab", "<s>"}, Merges: []string{"a b"}, Pre: "gpt-2", Types: []tokenizer.TokenType{1, 1, 1, 3}}
		if id == "0" {
			slices.Reverse(o.Tokens)
			slices.Reverse(o.Types)
		}
		tok, err := tokenizer.NewBPE(o)
		require.NoError(t, err)
		var b strings.Builder
		require.NoError(t, tok.WriteJSON(&b))
		require.Equal(t, in, strings.Contains(b.String(), `"<s>": `+id))
		require.Contains(t, b.String(), `{"id": `+id+`, "content": "<s>"`)
	}
}

func TestEveryTruncationOfJSONIsAnError(t *testing.T) {
	for i := range len(small) {
		_, err := readJSONBytes([]byte(small[:i]))
		require.Error(t, err, "%d bytes", i)
		var e *tokenizer.Error
		require.ErrorAs(t, err, &e)
	}
}

func TestReadErrorsAndSizes(t *testing.T) {
	_, err := tokenizer.ReadJSON(strings.NewReader(small), int64(len(small))+1)
	requireTyped(t, err, tokenizer.ErrTruncated, "tokenizer.json")
	requireBounded(t, 0, func() { _, err = tokenizer.ReadJSON(strings.NewReader(""), 1<<28) })
	requireTyped(t, err, tokenizer.ErrTruncated, "tokenizer.json")
	_, err = tokenizer.ReadJSON(strings.NewReader(small), 1<<40)
	requireTyped(t, err, tokenizer.ErrTooLarge, "tokenizer.json")
	broken := errors.New("broken")
	for _, read := range []func(io.ReaderAt) error{
		func(r io.ReaderAt) error { _, err := tokenizer.ReadJSON(r, 100); return err },
		func(r io.ReaderAt) error { _, err := tokenizer.ReadSentencePiece(r, 100); return err },
		func(r io.ReaderAt) error { _, err := tokenizer.ReadLlama2C(r, 100, 300); return err },
	} {
		err := read(brokenReader{broken})
		require.ErrorIs(t, err, broken)
		var e *tokenizer.Error
		require.ErrorAs(t, err, &e)
		require.NotEmpty(t, e.Format)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) ReadAt([]byte, int64) (int, error) { return 0, r.err }

// proto writes a sentencepiece model.
type proto struct{ bytes.Buffer }

func (p *proto) key(field, wire int) { p.WriteByte(byte(field<<3 | wire)) }
func (p *proto) int(field, v int) *proto {
	if field > 15 {
		p.Write(binary.AppendUvarint(nil, uint64(field<<3)))
	} else {
		p.key(field, 0)
	}
	p.Write(binary.AppendUvarint(nil, uint64(v)))
	return p
}
func (p *proto) bytes(field int, b []byte) *proto {
	p.key(field, 2)
	p.Write(binary.AppendUvarint(nil, uint64(len(b))))
	p.Write(b)
	return p
}
func (p *proto) piece(s string, score float32, typ tokenizer.TokenType) *proto {
	var m proto
	m.bytes(1, []byte(s))
	m.key(2, 5)
	binary.Write(&m, binary.LittleEndian, score)
	m.int(3, int(typ))
	return p.bytes(1, m.Bytes())
}

// sp is a small model, to which the cases of badModels add.
func sp() *proto {
	p := &proto{}
	p.piece("<unk>", 0, tokenizer.Unknown).piece("<s>", 0, tokenizer.Control)
	return p.piece("a", -1, tokenizer.Normal).piece("b", -2, tokenizer.Normal).piece("ab", -4, tokenizer.Normal)
}

func trainer(p *proto, add func(m *proto)) *proto {
	var m proto
	add(&m)
	return p.bytes(2, m.Bytes())
}

func charsmap(b []byte) *proto {
	var m proto
	m.bytes(2, b)
	return sp().bytes(3, m.Bytes())
}

func TestBadSentencePiece(t *testing.T) {
	u32 := func(v ...uint32) (b []byte) {
		for _, v := range v {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		return b
	}
	for _, c := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", nil, tokenizer.ErrFormat},
		{"text", []byte("version https://git-lfs.github.com/spec/v1\n"), tokenizer.ErrFormat},
		{"a piece beyond the end", []byte("\x0a\x05\x0a\x04abc"), tokenizer.ErrTruncated},
		{"a length of 2^63", append([]byte("\x0a"), binary.AppendUvarint(nil, 1<<63)...), tokenizer.ErrTruncated},
		{"a varint of 70 bits", bytes.Repeat([]byte{0xff}, 11), tokenizer.ErrFormat},
		{"half a varint", []byte{0xff}, tokenizer.ErrTruncated},
		{"field 0", []byte{0x00, 0x00}, tokenizer.ErrFormat},
		{"a group", []byte{0x0b}, tokenizer.ErrFormat},
		{"a number for a piece", []byte{0x08, 0x01}, tokenizer.ErrFormat},
		{"no unknown", (&proto{}).piece("a", 0, tokenizer.Normal).Bytes(), tokenizer.ErrVocab},
		{"two unknowns", sp().piece("?", 0, tokenizer.Unknown).Bytes(), tokenizer.ErrVocab},
		{"a token twice", sp().piece("a", 0, tokenizer.Normal).Bytes(), tokenizer.ErrVocab},
		{"an empty token", sp().piece("", 0, tokenizer.Normal).Bytes(), tokenizer.ErrVocab},
		{"a long token", sp().piece(strings.Repeat("a", 5000), 0, tokenizer.Normal).Bytes(), tokenizer.ErrVocab},
		{"not UTF-8", sp().piece("\xff", 0, tokenizer.Normal).Bytes(), tokenizer.ErrVocab},
		{"NaN", sp().piece("c", float32(math.NaN()), tokenizer.Normal).Bytes(), tokenizer.ErrVocab},
		{"type 7", sp().piece("c", 0, 7).Bytes(), tokenizer.ErrVocab},
		{"type 0", sp().piece("c", 0, 0).Bytes(), tokenizer.ErrVocab},
		{"one byte of 256", trainer(sp().piece("<0x0A>", 0, tokenizer.ByteToken), func(m *proto) { m.int(35, 1) }).Bytes(), tokenizer.ErrVocab},
		{"a byte that is none", sp().piece("<0x0G>", 0, tokenizer.ByteToken).Bytes(), tokenizer.ErrVocab},
		{"byte_fallback without bytes", trainer(sp(), func(m *proto) { m.int(35, 1) }).Bytes(), tokenizer.ErrVocab},
		{"a model of words", trainer(sp(), func(m *proto) { m.int(3, 3) }).Bytes(), tokenizer.ErrUnsupported},
		{"a model of characters", trainer(sp(), func(m *proto) { m.int(3, 4) }).Bytes(), tokenizer.ErrUnsupported},
		{"treat_whitespace_as_suffix", trainer(sp(), func(m *proto) { m.int(24, 1) }).Bytes(), tokenizer.ErrUnsupported},
		{"a charsmap of 3 bytes", charsmap([]byte("abc")).Bytes(), tokenizer.ErrFormat},
		{"a charsmap of a larger trie", charsmap(u32(1<<31, 0)).Bytes(), tokenizer.ErrFormat},
		{"a charsmap of an odd trie", charsmap(u32(3, 0)).Bytes(), tokenizer.ErrFormat},
		{"a charsmap of a value out of range", charsmap(append(u32(4, 1<<31|9), 'a', 0)).Bytes(), tokenizer.ErrFormat},
		{"a charsmap without NUL", charsmap(append(u32(4, 0), 'a')).Bytes(), tokenizer.ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			requireBounded(t, len(c.file), func() {
				_, err = tokenizer.ReadSentencePiece(bytes.NewReader(c.file), int64(len(c.file)))
			})
			requireTyped(t, err, c.want, "tokenizer.model")
		})
	}
	good := sp().Bytes()
	tok, err := tokenizer.ReadSentencePiece(bytes.NewReader(good), int64(len(good)))
	require.NoError(t, err)
	require.Equal(t, []int32{0, 2, 2, 3}, tok.Encode("aab"), "▁ is unknown, ab has the lowest score")
}

// llama2c writes a tokenizer.bin, with the changes of change to the tokens' lengths.
func llama2c(longest int32, tokens []string, change map[int]int32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(longest))
	for i, s := range tokens {
		n := int32(len(s))
		if c, ok := change[i]; ok {
			n = c
		}
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(-float32(i)))
		b = append(binary.LittleEndian.AppendUint32(b, uint32(n)), s...)
	}
	return b
}

func TestBadLlama2C(t *testing.T) {
	tokens := []string{"<unk>", "\n<s>\n", "\n</s>\n"}
	for c := range 256 {
		tokens = append(tokens, "<0x"+strings.ToUpper(string("0123456789abcdef"[c>>4])+string("0123456789abcdef"[c&15]))+">")
	}
	tokens = append(tokens, " ", "a", " a")
	n := len(tokens)
	good := llama2c(7, tokens, nil)
	swapped := append([]string{}, tokens...)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	twice := append(append([]string{}, tokens...), "a")
	for _, c := range []struct {
		name  string
		file  []byte
		vocab int
		want  error
	}{
		{"empty", nil, n, tokenizer.ErrTruncated},
		{"max_token_length huge", llama2c(1<<30, tokens, nil), n, tokenizer.ErrFormat},
		{"max_token_length negative", llama2c(-1, tokens, nil), n, tokenizer.ErrFormat},
		{"max_token_length 0", llama2c(0, tokens, nil), n, tokenizer.ErrFormat},
		{"a length below 0", llama2c(7, tokens, map[int]int32{5: -1}), n, tokenizer.ErrFormat},
		{"a length above the longest", llama2c(7, tokens, map[int]int32{5: 8}), n, tokenizer.ErrFormat},
		{"fewer than vocab", good, n + 1, tokenizer.ErrTruncated},
		{"a vocab of 2^24", good, 1 << 24, tokenizer.ErrVocab},
		{"a vocab of 2^23", good, 1 << 23, tokenizer.ErrTruncated},
		{"more than vocab", good, n - 1, tokenizer.ErrFormat},
		{"fewer than bytes", good, 258, tokenizer.ErrVocab},
		{"bytes in another order", llama2c(7, swapped, nil), n, tokenizer.ErrFormat},
		{"a token twice", llama2c(7, twice, nil), n + 1, tokenizer.ErrVocab},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			requireBounded(t, len(c.file), func() {
				_, err = tokenizer.ReadLlama2C(bytes.NewReader(c.file), int64(len(c.file)), c.vocab)
			})
			requireTyped(t, err, c.want, "tokenizer.bin")
		})
	}
	for i := range len(good) {
		_, err := tokenizer.ReadLlama2C(bytes.NewReader(good[:i]), int64(i), n)
		require.Error(t, err, "%d bytes", i)
	}
	tok, err := tokenizer.ReadLlama2C(bytes.NewReader(good), int64(len(good)), n)
	require.NoError(t, err)
	require.Equal(t, []int32{261, 261, 260, 3 + '\n'}, tok.Encode("a aa\n"))
}

func TestBadOptions(t *testing.T) {
	bpe := func(change func(o *tokenizer.BPEOptions)) error {
		o := tokenizer.BPEOptions{Tokens: []string{"a", "b", "ab"}, Merges: []string{"a b"}, Pre: "gpt-2"}
		change(&o)
		_, err := tokenizer.NewBPE(o)
		return err
	}
	require.NoError(t, bpe(func(*tokenizer.BPEOptions) {}))
	for _, c := range []struct {
		err  error
		want error
	}{
		{bpe(func(o *tokenizer.BPEOptions) { o.Pre = "deepseek-llm" }), tokenizer.ErrUnsupported},
		{bpe(func(o *tokenizer.BPEOptions) { o.Tokens[1] = "a" }), tokenizer.ErrVocab},
		{bpe(func(o *tokenizer.BPEOptions) { o.Tokens[1] = "" }), tokenizer.ErrVocab},
		{bpe(func(o *tokenizer.BPEOptions) { o.Types = []tokenizer.TokenType{1} }), tokenizer.ErrVocab},
		{bpe(func(o *tokenizer.BPEOptions) { o.Types = []tokenizer.TokenType{1, 1, 9} }), tokenizer.ErrVocab},
		{bpe(func(o *tokenizer.BPEOptions) { o.Merges[0] = "ab" }), tokenizer.ErrFormat},
		{bpe(func(o *tokenizer.BPEOptions) { o.Merges[0] = "b a" }), tokenizer.ErrVocab},
		{bpe(func(o *tokenizer.BPEOptions) { o.Prefix = []int32{3} }), tokenizer.ErrVocab},
	} {
		requireTyped(t, c.err, c.want, "options")
	}
	_, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{Tokens: []string{"<unk>"}})
	requireTyped(t, err, tokenizer.ErrVocab, "options")
}
