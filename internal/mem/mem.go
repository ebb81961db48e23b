// Package mem allocates the memory of tensors.
package mem

import "sync/atomic"

// Floats returns n zeros. Where they are many they lie in huge pages, if the
// system has some: loops that go through all parameters miss the translation
// of addresses less (a training step was 3 to 4% faster, the norm of a gradient
// 25%), and the first touch of a page comes once in 2 MiB.
func Floats(n int) []float32 {
	s := make([]float32, n)
	huge(s)
	return s
}

// Stream is Floats for memory that a loop walks through beside that of other
// calls, as an optimizer does with weights, gradients and moments. The system
// would have all of it begin at the same place of a page, and the loop would be
// at the same place in all of it, which the memory serves 10% more slowly (AdamW in
// BenchmarkBandwidth of package simd): here it begins at different places.
func Stream(n int) []float32 {
	return Floats(n + page)[(count.Add(1)-1)*step%page:][:n:n]
}

// In floats. The step is a quarter of a page and a line: four calls in a row get
// different quarters, and no two of 64 the same line.
const (
	page = 4096 / 4
	step = page/4 + 64/4
)

var count atomic.Uint32
