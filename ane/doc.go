// Package ane is a backend on the Apple Neural Engine, through cgo and Apple's
// private AppleNeuralEngine framework, and on a simulation of it that runs
// anywhere.
//
// It has not yet run on Apple hardware. What it knows of the framework and the
// engine is from public reverse engineering (github.com/maderix/ANE, and the
// Orion paper, arXiv 2603.06728), the strictest of it where they disagree. All
// of the code but Apple's runs in the tests, on Linux: the bridge against an
// Objective-C runtime of its own, everything else against the simulator. On a
// Mac, start with
//
//	go run ./examples/ane
//
// and paste its output into a bug report.
//
// # Which product runs where
//
//	y  = x Wᵀ    device   Linear
//	dx = dy W    device   LinearBackward, while …
//	dW += dyᵀ x  CPU      … this runs, in float32
//
//	  W ── once a Gen ──► 2ᵉ, binary16 ─┐ (stays in the surface)
//	                                    ├─► one IOSurface ─► program ─► one IOSurface ─► 2⁻ᵉ ─► y, dx
//	  x, dy ─ each call ► 2ᵉ, binary16 ─┘
//
// Weights that are constants of a program cannot be changed, so they are
// inputs: a program computes a product of one shape, and is compiled once. For
// each weight and direction there is an input surface and a request, for as
// long as the Matrix lives, in which the weights stay until Gen changes; a call
// converts x or dy only. With micro-batches, a weight is converted once for each
// direction in an optimizer step.
//
// Rows are rounded up to 2ⁱ or 3·2ⁱ, and widths to multiples of 32, with zeros;
// rows also until the surfaces have 49152 bytes. A matrix whose rows are too
// many for the longest axis (the classifier's) is cut into tiles. Products of
// fewer than MinRows rows, those with an axis that is too long, and those of
// more shapes than MaxPrograms run on the CPU.
//
// # Numbers
//
// Factors are rounded to binary16, sums are wide, results are rounded to
// binary16: an element is within 3·2⁻¹¹·Σ|x||w| of the exact product, and
// usually within 2⁻¹¹ of the size of the others. Each row of x and dy, and each
// W, is scaled by a power of two to where binary16 is accurate and cannot
// overflow, and the result is scaled back in float32, so that gradients of any
// size keep their precision: there is no loss scale to set. dW is exact to
// float32. The same input gives the same bits at any GOMAXPROCS.
//
// # Nothing is trusted
//
// The first product of a shape is preceded by one of random numbers, which is
// compared with the CPU's. If a layout of the input is refused, or its result
// is wrong, the next one is tried (there are three, the last one the kernel
// that others have trained with), then the shape is left to the CPU. A result
// that is not finite is computed again at 1/16 of the scale, then by the CPU,
// as is one that is all zero at once. An input that is infinite or NaN, or so large or
// small that it cannot be scaled, goes to the CPU, where NaN and Inf
// propagate. A call to the framework that fails is never ignored: the CPU
// computes the product, and after three in a row all products of the shape.
// All this is counted: see Backend.Stats.
//
// # Memory
//
// A weight [out, in] has 2·(rows+out)·in bytes of input surface forward and
// 2·(rows+in)·out backward, a shape 2·rows·out or 2·rows·in of output, where
// rows are those of a chunk (at most 4096). Stats counts them. They are freed
// when the Matrix is collected, and by Close.
//
// # Simulator
//
// NewSimulator is the same backend on an interpreter of the programs, with
// binary16 at every operation and the engine's limits: 119 compilations, 15
// programs, axes, surfaces, overflow above 32752, and on early engines slices
// that lose |v| > 4094. It needs no cgo. Sums are those of backend/cpu,
// float32 or wider: that the hardware accumulates like this is something that
// only a Mac can tell, and that the comparison with the CPU finds out.
package ane
