// Package mem allocates the memory of tensors.
package mem

// Floats returns n zeros. Where they are many they lie in huge pages, if the
// system has some: loops that go through all parameters miss the translation
// of addresses less (a training step was 3 to 4% faster, the norm of a gradient
// 25%), and the first touch of a page comes once in 2 MiB.
func Floats(n int) []float32 {
	s := make([]float32, n)
	huge(s)
	return s
}
