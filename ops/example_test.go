package ops_test

import (
	"fmt"

	"github.com/chainrule-go/chainrule/ops"
)

// The norm of one row, and the gradient of the sum of its outputs.
func Example() {
	const n, C = 1, 2
	x, w := []float32{3, 4}, []float32{1, 1}
	y, rstd := make([]float32, n*C), make([]float32, n)
	ops.RMSNorm(y, rstd, x, w, n, C, 0)
	fmt.Printf("y %.4f\n", y)

	dy := []float32{1, 1}
	dx, dw := make([]float32, n*C), make([]float32, C) // zeros: both are added to
	ops.RMSNormBackward(dx, dw, dy, x, rstd, w, n, C)
	fmt.Printf("dx %.4f, dw %.4f\n", dx, dw)
	// Output:
	// y [0.8485 1.1314]
	// dx [0.0453 -0.0339], dw [0.8485 1.1314]
}

// A loss of two classes, and its gradient in place of the logits.
func ExampleCrossEntropy() {
	const n, V = 2, 2
	logits, targets := []float32{0, 0, 1, 3}, []int32{0, -1} // the second row is ignored
	losses, lse := make([]float32, n), make([]float64, n)
	ops.CrossEntropy(losses, lse, logits, targets, n, V)
	ops.CrossEntropyBackward(logits, lse, logits, targets, n, V, 1)
	fmt.Printf("%.4f %v\n", losses, logits)
	// Output: [0.6931 0.0000] [-0.5 0.5 0 0]
}
