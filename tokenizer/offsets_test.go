package tokenizer_test

import (
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// TestReferenceAgreesOnOffsets compares where tokens end. The reference gives
// a token of a part of a rune all of it, and sentencepiece only to the last byte.
func TestReferenceAgreesOnOffsets(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "corpus"), filepath.Join(dir, "ends")
	texts := corpus(t, 200_000, true, "<|endoftext|>", "<mask>", "<sep>")
	for i := range texts { // EncodeOffsets finds control tokens, the library does not
		texts[i] = strings.NewReplacer("<s>", "<b>", "</s>", "</b>", "<pad>", "<p>").Replace(texts[i])
	}
	writeRecords(t, in, texts)
	runReference(t, "small", dir, in)
	paths, err := filepath.Glob(filepath.Join(dir, "*", "tokenizer.*"))
	require.NoError(t, err)
	for _, path := range paths {
		name := filepath.Base(filepath.Dir(path))
		if name == "nfc" {
			continue // the reference's offsets in a normalized sequence are its own
		}
		tok := readModel(t, path)
		runReference(t, "offsets", path, in, out)
		count := 0
		for i, record := range readRecords(t, out) {
			text := texts[i]
			ids, ends := tok.EncodeOffsets(text)
			require.Len(t, record, 4*len(ends), name)
			for j, end := range ends {
				want := int(binary.LittleEndian.Uint32(record[4*j:]))
				nothing := j == 0 && end == 0 || j > 0 && end == ends[j-1]
				if strings.HasPrefix(tok.Token(ids[j]), "<0x") && want < end || nothing && filepath.Ext(path) == ".json" {
					continue // to tokenizers, a space that it prepends is the character after it
				}
				for end < len(text) && !utf8.RuneStart(text[end]) {
					end++
				}
				require.Equal(t, want, end, "%s: text %d, token %d, %q, before %q", name, i, j, tok.Token(ids[j]), text[end:min(end+20, len(text))])
				count++
			}
		}
		t.Logf("%s: %d tokens, no difference", name, count)
	}
}

func TestOffsetsOfGoldens(t *testing.T) {
	for _, g := range goldens(t) {
		tok := readModel(t, filepath.Join("testdata/golden", g.File))
		for _, c := range g.Cases {
			ids, ends := tok.EncodeOffsets(c.Text)
			require.Equal(t, tok.EncodeMarkup(c.Text), ids)
			require.Len(t, ends, len(ids))
			at := 0
			for i, end := range ends {
				require.True(t, at <= end && end <= len(c.Text), "%s: %q: %d", g.File, c.Text, ends)
				switch g.File {
				case "gpt-2.json", "llama-bpe.json", "smollm.json":
					require.Equal(t, c.Text[at:end], tok.Decode(ids[i:i+1]))
				case "spbpe.model", "llama2.json":
					if at > 0 && !strings.Contains(c.Text, "▁") && !strings.Contains(c.Text, "<") {
						require.Equal(t, c.Text[at:end], strings.TrimPrefix(tok.Decode([]int32{ids[0], ids[i]}), tok.Decode(ids[:1])))
					}
				}
				at = end
			}
			if len(ids) > 0 && g.File != "unigram.model" { // which trims spaces
				require.Equal(t, len(c.Text), at, "%s: %q", g.File, c.Text)
			}
		}
	}
}

func TestOffsetsOfNormalizedText(t *testing.T) {
	tok := readJSON(t, "testdata/golden/qwen2.json")
	text := "ae\u0301<|endoftext|>\u1100\u1161b"
	ids, ends := tok.EncodeOffsets(text)
	// é is two bytes, of three; 가 three, of six. No token is of more than one.
	require.Equal(t, "aé<|endoftext|>가b", tok.Decode(ids))
	require.Equal(t, []int{1, 4, 4, 17, 23, 23, 23, 24}, ends)

	sp := readSentencePiece(t, "testdata/golden/unigram.model")
	ids, ends = sp.EncodeOffsets("<s>  A\u00A0\u3000b </s>")
	require.Equal(t, "a b", sp.Decode(ids))
	require.Equal(t, 3, ends[0])
	require.Equal(t, len("<s>  A\u00A0\u3000b </s>"), ends[len(ends)-1])
	require.Equal(t, len("<s>  A\u00A0\u3000b"), ends[len(ends)-2], "the space at the end is of no token")

	// An added token that is normalized, and one unknown token of three characters.
	json := strings.NewReplacer(`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},`+
		`{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}`,
		`{"type":"ByteLevel","add_prefix_space":false}`, `null`, `"dropout":null`, `"unk_token":"b","fuse_unk":true`,
		`"special":true`, `"normalized":true`, `"ab":2},"merges":["a b"]`, `"▁":2},"merges":[]`).Replace(small)
	bpe, err := readJSONBytes([]byte(json))
	require.NoError(t, err)
	ids, ends = bpe.EncodeOffsets("a <s>xyza a")
	require.Equal(t, []int32{2, 0, 3, 1, 0, 2, 0}, ids)
	require.Equal(t, []int{0, 1, 5, 8, 9, 10, 11}, ends)

	// Of more than one space the others go to the first.
	ids, ends = sp.EncodeOffsets("a   b")
	require.Equal(t, "a b", sp.Decode(ids))
	require.Contains(t, ends, 4)
}
