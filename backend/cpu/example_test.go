package cpu_test

import (
	"fmt"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
)

func Example() {
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer be.Close()
	w := &backend.Matrix{Data: []float32{1, 2, 3, 4, 5, 6}, Out: 3, In: 2}
	x, y := []float32{1, -1}, make([]float32, 3)
	if err := be.Linear(y, x, w, 1); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(y)

	dx, dw := make([]float32, 2), make([]float32, 6)
	if err := be.LinearBackward(dx, dw, []float32{1, 0, 2}, x, w, 1); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(dx, dw)
	// Output:
	// [-1 -1 -1]
	// [11 14] [1 -1 0 0 2 -2]
}
