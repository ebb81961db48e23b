package gguf_test

import (
	"bytes"
	"fmt"
	"log"

	"github.com/chainrule-go/chainrule/checkpoint/gguf"
)

func Example() {
	// A file of two tensors, one of them quantized, and of what says what it is.
	weights := make([]float32, 64)
	for i := range weights {
		weights[i] = float32(i) / 64
	}
	var file bytes.Buffer
	err := gguf.Write(&file, []gguf.Pair{
		{Key: "general.architecture", Value: "llama"},
		{Key: "llama.block_count", Value: uint32(1)},
	}, []gguf.Entry{
		gguf.Float32("output_norm.weight", gguf.F32, []int{2}, []float32{1, 0.5}),
		gguf.Float32("output.weight", gguf.Q8_0, []int{2, 32}, weights),
	})
	if err != nil {
		log.Fatal(err)
	}

	f, err := gguf.Read(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		log.Fatal(err)
	}
	blocks, _ := f.Value("llama.block_count")
	n, err := blocks.Int()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Keys(), n)
	for _, t := range f.Tensors() {
		fmt.Println(t.Name, t.Type, t.Shape, t.Size, "bytes")
	}
	t, _ := f.Lookup("output.weight")
	if err := f.ReadFloat32(weights, t); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.4f\n", weights[:4])
	// Output:
	// [general.architecture llama.block_count] 1
	// output_norm.weight F32 [2] 8 bytes
	// output.weight Q8_0 [2 32] 68 bytes
	// [0.0000 0.0153 0.0305 0.0458]
}
