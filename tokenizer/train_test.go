package tokenizer_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// TestTrainAgreesWithReference: the same merges in the same order, from the
// same corpus, and a file that the reference reads.
func TestTrainAgreesWithReference(t *testing.T) {
	texts := corpus(t, 500_000, true)
	dir := t.TempDir()
	in := filepath.Join(dir, "corpus")
	writeRecords(t, in, texts)
	special := []string{"<|endoftext|>", "<|im_start|>"}
	for _, c := range []struct{ vocab, min int }{{3000, 0}, {100_000, 6}} {
		path := filepath.Join(dir, strconv.Itoa(c.vocab)+".json")
		runReference(t, append([]string{"train", in, strconv.Itoa(c.vocab), strconv.Itoa(c.min), path}, special...)...)
		want := readJSON(t, path)
		got, err := tokenizer.Train(slices.Values(texts), tokenizer.TrainOptions{VocabSize: c.vocab, MinFrequency: c.min, Special: special})
		require.NoError(t, err)
		require.Equal(t, want.VocabSize(), got.VocabSize())
		for id := range int32(want.VocabSize()) {
			require.Equal(t, want.Token(id), got.Token(id), "id %d", id)
		}
		ours := filepath.Join(dir, "ours.json")
		requireWrite(t, got, ours)
		requireReference(t, ours, append(texts, special...), "", got, got.Encode)
	}
}

func requireWrite(t testing.TB, tok *tokenizer.BPE, path string) {
	var b bytes.Buffer
	require.NoError(t, tok.WriteJSON(&b))
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
}

// TestWrittenAgreesWithReference writes each tokenizer.json again.
func TestWrittenAgreesWithReference(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "corpus")
	texts := corpus(t, 200_000, true, "<|endoftext|>", "<mask>")
	writeRecords(t, in, texts)
	runReference(t, "small", dir, in)
	paths, err := filepath.Glob(filepath.Join(dir, "*", "tokenizer.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		tok := readJSON(t, path)
		again := filepath.Join(filepath.Dir(path), "again.json")
		requireWrite(t, tok, again)
		requireReference(t, again, texts, "", tok, readJSON(t, again).Encode)
	}
}

func TestTrainIsDeterministic(t *testing.T) {
	texts := []string{"low lower lowest", "new newer newest", "wide wider widest", "aaaaaaa aaa", "日本語 日本", "\xff\xfe\xff"}
	var first []byte
	for range 3 {
		tok, err := tokenizer.Train(slices.Values(texts), tokenizer.TrainOptions{VocabSize: 300, Special: []string{"<s>"}})
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, tok.WriteJSON(&b))
		if first == nil {
			first = b.Bytes()
		}
		require.Equal(t, string(first), b.String())
		slices.Reverse(texts)
		for _, s := range texts {
			require.Equal(t, s, tok.Decode(tok.Encode(s)))
		}
	}
}

func TestTrainMergesTheMostFrequentPairFirst(t *testing.T) {
	tok, err := tokenizer.Train(slices.Values([]string{"abab", "ab ab", "cd cd", "xyz"}),
		tokenizer.TrainOptions{VocabSize: 1000, MinFrequency: 2})
	require.NoError(t, err)
	var got []string
	for id := 256; id < tok.VocabSize(); id++ {
		got = append(got, tok.Token(int32(id)))
	}
	// ab 4; cd 2 before Ġab 1 and Ġcd 1, which are too few.
	require.Equal(t, []string{"ab", "cd"}, got)
}

func TestTrainRefuses(t *testing.T) {
	for _, c := range []struct {
		o    tokenizer.TrainOptions
		want error
	}{
		{tokenizer.TrainOptions{VocabSize: 255}, tokenizer.ErrVocab},
		{tokenizer.TrainOptions{VocabSize: 1 << 30}, tokenizer.ErrVocab},
		{tokenizer.TrainOptions{VocabSize: 256, Special: []string{"x"}}, tokenizer.ErrVocab},
		{tokenizer.TrainOptions{VocabSize: 300, Special: []string{"<s>", "<s>"}}, tokenizer.ErrVocab},
		{tokenizer.TrainOptions{VocabSize: 300, Special: []string{""}}, tokenizer.ErrVocab},
		{tokenizer.TrainOptions{VocabSize: 300, Special: []string{"a"}}, tokenizer.ErrVocab}, // also a byte
		{tokenizer.TrainOptions{VocabSize: 300, Pre: "gpt-5"}, tokenizer.ErrUnsupported},
	} {
		_, err := tokenizer.Train(slices.Values([]string{"abc"}), c.o)
		require.ErrorIs(t, err, c.want)
		var e *tokenizer.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "options", e.Format)
	}
}

func ExampleTrain() {
	corpus := slices.Values([]string{"low lower lowest", "new newer newest", "slow and slower"})
	tok, err := tokenizer.Train(corpus, tokenizer.TrainOptions{VocabSize: 264, Special: []string{"<|endoftext|>"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ids := tok.Encode("lower news<|endoftext|>")
	for _, id := range ids {
		fmt.Printf("%q ", tok.Token(id))
	}
	fmt.Println(tok.Decode(ids))

	var file strings.Builder // or a file named tokenizer.json
	if err := tok.WriteJSON(&file); err != nil {
		fmt.Println(err)
		return
	}
	again, err := tokenizer.ReadJSON(strings.NewReader(file.String()), int64(file.Len()))
	fmt.Println(again.VocabSize(), err)
	// Output: "lowe" "r" "Ġne" "w" "s" "<|endoftext|>" lower news<|endoftext|>
	// 264 <nil>
}
