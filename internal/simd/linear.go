package simd

import "unsafe"

// Axpy adds a·x to y. The slices have one length.
func Axpy(y []float32, a float32, x []float32) { kernelAxpy(y, a, x[:len(y)]) }

func goAxpy(y []float32, a float32, x []float32) {
	for i := range y {
		y[i] += a * x[i]
	}
}

// Scale multiplies x by a.
func Scale(x []float32, a float32) { kernelScale(x, a) }

func goScale(x []float32, a float32) {
	for i := range x {
		x[i] *= a
	}
}

// Clear sets x to 0 in memory: the caches need not read what is overwritten,
// which is half of the traffic, and do not keep it. It is for more than they
// hold.
func Clear(x []float32) {
	const block, line = 64, 64 // floats that a kernel wants, bytes where it begins
	at := uintptr(unsafe.Pointer(unsafe.SliceData(x)))
	head := min(len(x), int(-at%line/4))
	end := head + (len(x)-head)/block*block
	clear(x[:head])
	if head < end {
		kernelClear(x[head:end])
	}
	clear(x[end:])
}

// Add sets out = a + b. The slices have one length; out may be a or b.
func Add(out, a, b []float32) { kernelAdd(out, a[:len(out)], b[:len(out)]) }

func goAdd(out, a, b []float32) {
	for i := range out {
		out[i] = a[i] + b[i]
	}
}
