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

// DSoftmax is the backward of p = softmax(s·scale), whose sums are still to be
// divided by:
//
//	p ← p·norm,  ds = p·(dp − mean)·scale
//
// with mean = Σ p·dp of the p that it leaves. The slices have one length; ds
// may be dp.
func DSoftmax(ds, p, dp []float32, norm, mean, scale float32) {
	kernelDSoftmax(ds, p[:len(ds)], dp[:len(ds)], norm, mean, scale)
}

func goDSoftmax(ds, p, dp []float32, norm, mean, scale float32) {
	for i := range ds {
		p[i] *= norm
		ds[i] = p[i] * (dp[i] - mean) * scale
	}
}
