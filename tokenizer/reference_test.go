package tokenizer_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// python returns a Python with tokenizers and sentencepiece, which
// CHAINRULE_PYTHON names. Without one the test skips, or fails if
// CHAINRULE_REQUIRE_PYTHON is 1.
func python(t *testing.T) string {
	p := os.Getenv("CHAINRULE_PYTHON")
	if p == "" {
		if os.Getenv("CHAINRULE_REQUIRE_PYTHON") == "1" {
			t.Fatal("CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		}
		t.Skip("CHAINRULE_PYTHON names no Python with tokenizers and sentencepiece; .ci/run tokenizers makes one")
	}
	return p
}

func runReference(t *testing.T, args ...string) {
	cmd := exec.Command(python(t), append([]string{"testdata/reference.py"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
}

func writeRecords(t *testing.T, path string, texts []string) {
	var b bytes.Buffer
	for _, s := range texts {
		binary.Write(&b, binary.LittleEndian, uint32(len(s)))
		b.WriteString(s)
	}
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
}

func readRecords(t *testing.T, path string) (records [][]byte) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b)
		records = append(records, b[4:4+n])
		b = b[4+n:]
	}
	return records
}

// requireReference encodes texts with the reference and compares.
func requireReference(t *testing.T, model string, texts []string, mode string, tok tokenizer.Tokenizer, encode func(string) []int32) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "texts"), filepath.Join(dir, "ids")
	writeRecords(t, in, texts)
	runReference(t, "encode", model, in, out, mode)
	records := readRecords(t, out)
	require.Len(t, records, 2*len(texts))
	size, count := 0, 0
	for i, text := range texts {
		want := make([]int32, len(records[2*i])/4)
		for j := range want {
			want[j] = int32(binary.LittleEndian.Uint32(records[2*i][4*j:]))
		}
		got := encode(text)
		if !slices.Equal(got, want) {
			at := 0
			for at < len(got) && at < len(want) && got[at] == want[at] {
				at++
			}
			from := max(0, at-3)
			t.Fatalf("text %d of %d bytes differs from id %d on: after %q\ngot  %v\nwant %v\ngot  %q\nwant %q", i, len(text), at,
				tok.Decode(got[from:at]), got[at:min(at+8, len(got))], want[at:min(at+8, len(want))],
				tok.Decode(got[at:min(at+8, len(got))]), tok.Decode(want[at:min(at+8, len(want))]))
		}
		// The reference has U+FFFD where bytes are not UTF-8; how many of
		// them is its own affair.
		decoded := tok.Decode(want)
		if utf8.ValidString(decoded) {
			require.Equal(t, string(records[2*i+1]), decoded)
		} else {
			require.Equal(t, squeeze(string(records[2*i+1])), squeeze(decoded))
		}
		size, count = size+len(text), count+len(want)
	}
	t.Logf("%s: %d texts, %d bytes, %d ids: no difference", filepath.Base(filepath.Dir(model))+"/"+filepath.Base(model), len(texts), size, count)
}

// squeeze makes a run of bytes that are not UTF-8, or of U+FFFD, one U+FFFD.
func squeeze(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	for strings.Contains(s, "\uFFFD\uFFFD") {
		s = strings.ReplaceAll(s, "\uFFFD\uFFFD", "\uFFFD")
	}
	return s
}

// corpusSize is CHAINRULE_TOKENIZER_BYTES, or 1 MB.
func corpusSize(t *testing.T) int {
	if v := os.Getenv("CHAINRULE_TOKENIZER_BYTES"); v != "" {
		n, err := strconv.Atoi(v)
		require.NoError(t, err)
		return n
	}
	return 1 << 20
}

func readJSON(t testing.TB, path string) *tokenizer.BPE {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	tok, err := tokenizer.ReadJSON(f, info.Size())
	require.NoError(t, err)
	return tok
}

// TestReferenceAgreesOnModels compares with the reference on each
// tokenizer.json and tokenizer.model in a directory below CHAINRULE_TOKENIZERS.
func TestReferenceAgreesOnModels(t *testing.T) {
	python(t)
	requireAllAgree(t, tokenizers(t), corpusSize(t))
}

// TestReferenceAgreesOnSmallModels has the reference make a model of every
// kind, and compares.
func TestReferenceAgreesOnSmallModels(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "corpus")
	writeRecords(t, in, corpus(t, 300_000, true, "<sep>"))
	runReference(t, "small", dir, in)
	requireAllAgree(t, dir, corpusSize(t))
}

func requireAllAgree(t *testing.T, dir string, size int) {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "tokenizer.*"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			if filepath.Ext(path) == ".model" {
				tok := readSentencePiece(t, path)
				requireReference(t, path, corpus(t, size, false, specials(tok)...), "", tok, tok.Encode)
				return
			}
			tok := readJSON(t, path)
			texts := corpus(t, size, true, specials(tok)...)
			requireReference(t, path, texts, "", tok, tok.Encode)
			requireReference(t, path, texts[len(texts)/2:], "plain", tok, tok.EncodePlain)
		})
	}
}

// specials returns what a text may be marked up with.
func specials(tok interface {
	VocabSize() int
	Special(int32) bool
	Token(int32) string
}) []string {
	list := []string{"<mask>", "<sep>", " r", "donkey", "e\u0301", "o\u0308"}
	for id := range int32(tok.VocabSize()) {
		if tok.Special(id) {
			list = append(list, tok.Token(id))
		}
	}
	return list
}

// tokenizers returns the directory of tokenizers of real models.
func tokenizers(t testing.TB) string {
	dir := os.Getenv("CHAINRULE_TOKENIZERS")
	if dir == "" {
		t.Skip("CHAINRULE_TOKENIZERS names no directory of tokenizers; testdata/fetch.sh makes one")
	}
	return dir
}

func readSentencePiece(t testing.TB, path string) *tokenizer.SentencePiece {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	tok, err := tokenizer.ReadSentencePiece(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	return tok
}

// TestOptionsAgreeWithJSON makes each real byte-level model of lists, as a
// GGUF file has them; what its tokenizer.json gives is compared elsewhere.
func TestOptionsAgreeWithJSON(t *testing.T) {
	for name, pre := range map[string]string{"gpt2": "gpt-2", "llama3": "llama-bpe", "qwen3": "qwen2", "smollm2": "smollm"} {
		path := filepath.Join(tokenizers(t), name, "tokenizer.json")
		want := readJSON(t, path)
		o := optionsOf(t, path)
		o.Pre = pre
		got, err := tokenizer.NewBPE(o)
		require.NoError(t, err)
		require.Equal(t, want.VocabSize(), got.VocabSize())
		for _, text := range corpus(t, 1<<20, false, specials(want)...) {
			require.Equal(t, want.Encode(text), got.Encode(text), name)
			require.Equal(t, want.EncodePlain(text), got.EncodePlain(text), name)
			if name != "qwen3" && name != "smollm2" { // NFC; and some bytes have no token
				require.Equal(t, text, got.Decode(got.Encode(text)), name)
			}
		}
	}
}
