package tokenizer_test

import (
	"fmt"
	"os"

	"github.com/chainrule-go/chainrule/tokenizer"
)

func ExampleReadJSON() {
	f, err := os.Open("testdata/golden/gpt-2.json") // a tokenizer.json
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	tok, err := tokenizer.ReadJSON(f, info.Size())
	if err != nil {
		fmt.Println(err)
		return
	}
	ids := tok.Encode("the end<|endoftext|>")
	fmt.Println(ids, tok.Special(ids[len(ids)-1]))
	fmt.Println(len(tok.EncodePlain("<|endoftext|>")) > 1)

	s := tokenizer.NewStream(tok)
	for _, id := range tok.Encode("5 €") {
		fmt.Printf("%q ", s.Put(id))
	}
	fmt.Printf("%q\n", s.Flush())
	// Output: [84 319 221 321 0] true
	// true
	// "5" " " "" "€" ""
}

func ExampleNewBPE() {
	tok, err := tokenizer.NewBPE(tokenizer.BPEOptions{
		Tokens: []string{"<|end|>", "l", "o", "w", "Ġ", "lo", "Ġlo"},
		Types: []tokenizer.TokenType{tokenizer.Control, tokenizer.Normal, tokenizer.Normal, tokenizer.Normal,
			tokenizer.Normal, tokenizer.Normal, tokenizer.Normal},
		Merges: []string{"l o", "Ġ lo"},
		Pre:    "gpt-2",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(tok.Encode("low low<|end|>"))
	// Output: [5 3 6 3 0]
}

func ExampleNewSentencePiece() {
	tok, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{
		Tokens: []string{"<unk>", "<s>", "</s>", "▁", "l", "o", "w", "lo", "▁lo", "low"},
		Scores: []float32{0, 0, 0, -4, -5, -6, -7, -1, -2, -3},
		Prefix: []int32{1},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	prefix, _ := tok.Template()
	ids := append(prefix, tok.Encode("low slow")...)
	fmt.Println(ids)
	fmt.Println(tok.Decode(ids))
	// Output: [1 8 6 3 0 9]
	// low  ⁇ low
}
