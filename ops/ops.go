// Package ops holds the operations of a transformer other than the dense
// products: one file an operation, the forward and the backward in it, each a
// plain function over flat slices.
//
// Arguments come as outputs, inputs, weights, sizes. Tensors are row-major; n
// is the number of rows, B·T where a batch has B sequences of T tokens.
// Gradients of activations (dx) are overwritten and gradients of weights (dw)
// added to, except where a function says that it adds. A nil gradient of a
// weight is skipped. Slices longer than needed are used up to that length; a
// shorter one panics. NaN and Inf propagate.
//
// The functions spread their rows over the cores and give the same bits at any
// GOMAXPROCS; they allocate nothing after the first call.
package ops

// grain is the number of rows of some width that make a chunk of work: about
// ten microseconds' worth. It depends on the shape only.
func grain(width int) int { return max(1, (16<<10)/max(1, width)) }

// columns is the width of the chunks in which a gradient that sums over rows
// is split: outputs, never the sum.
const columns = 64

func chunks(n int) int { return (n + columns - 1) / columns }

// need panics with a constant message unless ok.
func need(ok bool, message string) {
	if !ok {
		panic(message)
	}
}
