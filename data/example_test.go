package data_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/tokenizer"
)

func ExampleBatches() {
	corpus := []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	batches, err := data.NewBatches(corpus, 2, 3, 1)
	if err != nil {
		panic(err)
	}
	tokens, targets := make([]int32, 2*3), make([]int32, 2*3)
	batches.Fill(0, tokens, targets)
	fmt.Println(batches.Windows(), "windows an epoch")
	fmt.Println(targets[0]-tokens[0], targets[5]-tokens[5])
	// Output:
	// 2 windows an epoch
	// 1 1
}

func ExampleWindows() {
	w, err := data.NewWindows([]int32{10, 11, 12, 13, 14, 15}, 1, 3, 2)
	if err != nil {
		panic(err)
	}
	tokens, targets := make([]int32, 3), make([]int32, 3)
	for k := range w.Len() {
		w.Fill(k, tokens, targets)
		fmt.Println(tokens, targets)
	}
	// Output:
	// [10 11 12] [11 12 13]
	// [12 13 14] [-1 14 15]
}

// A text file is read, turned into bytes, and its last tenth held out.
func Example() {
	dir, err := os.MkdirTemp("", "corpus")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("0123456789abcdefghi"), 0o666); err != nil {
		panic(err)
	}

	text, err := data.ReadText(dir)
	if err != nil {
		panic(err)
	}
	tokens := tokenizer.Byte{}.Encode(string(text))
	train, val := data.Split(tokens, 0.1)
	fmt.Println(len(text), "bytes,", len(train), "to train on,", len(val), "held out")
	// Output: 19 bytes, 18 to train on, 1 held out
}

// A line of a JSONL file becomes an example of which the completion is learned.
func ExampleEncoder() {
	dir, err := os.MkdirTemp("", "jsonl")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "train.jsonl")
	if err := os.WriteFile(path, []byte(`{"prompt": "2+2=", "completion": "4"}`+"\n"), 0o666); err != nil {
		panic(err)
	}

	e := data.Encoder{Tokenizer: tokenizer.Byte{}, End: '\n', MaxLen: 128}
	for record, err := range data.ReadJSONL(path) {
		if err != nil {
			panic(err)
		}
		examples, err := e.Encode(record)
		if err != nil {
			panic(err)
		}
		fmt.Println(examples[0].Tokens)
		fmt.Println(examples[0].Targets)
	}
	// Output:
	// [50 43 50 61 52]
	// [-1 -1 -1 52 10]
}
