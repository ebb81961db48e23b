package llama2c_test

import (
	"bytes"
	"fmt"

	"github.com/chainrule-go/chainrule/checkpoint/llama2c"
)

func Example() {
	h := llama2c.Header{
		Dim: 4, HiddenDim: 8, NLayers: 1, NHeads: 2, NKVHeads: 1, VocabSize: 10, SeqLen: 16, SharedClassifier: true,
	}
	var file bytes.Buffer
	sizes := map[string]int{
		"token_embedding": 40, "rms_final": 4, "layers.0.rms_att": 4, "layers.0.rms_ffn": 4,
		"layers.0.wq": 16, "layers.0.wk": 8, "layers.0.wv": 8, "layers.0.wo": 16,
		"layers.0.w1": 32, "layers.0.w2": 32, "layers.0.w3": 32,
	}
	err := llama2c.Write(&file, h, func(name string) []float32 { return make([]float32, sizes[name]) })
	if err != nil {
		fmt.Println(err)
		return
	}

	f, err := llama2c.Read(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.NLayers, "layer, shared classifier:", f.SharedClassifier)
	wk, _ := f.Lookup("layers.0.wk")
	fmt.Println(wk.Name, wk.Shape)

	_, err = llama2c.Read(bytes.NewReader(file.Bytes()), int64(file.Len()-4))
	fmt.Println(err)
	// Output:
	// 1 layer, shared classifier: true
	// layers.0.wk [2 4]
	// llama2c: file size does not match the header at byte 936: the file has 936 bytes, want 940 (a shared classifier, as the header says); with a classifier of its own it would be 1100
}
