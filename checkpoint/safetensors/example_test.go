package safetensors_test

import (
	"bytes"
	"fmt"

	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

func Example() {
	var file bytes.Buffer
	err := safetensors.Write(&file, map[string]string{"format": "pt"}, []safetensors.Entry{
		safetensors.Float32("w", []int{2, 3}, []float32{1, 2, 3, 4, 5, 6}),
		safetensors.Float32("bias", []int{2}, []float32{-1, 1}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	f, err := safetensors.Read(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, t := range f.Tensors() {
		fmt.Println(t.Name, t.Dtype, t.Shape)
	}
	w, _ := f.Lookup("w")
	data := make([]float32, 6)
	if err := f.ReadFloat32(data, w); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(data)
	// Output:
	// bias F32 [2]
	// w F32 [2 3]
	// [1 2 3 4 5 6]
}
