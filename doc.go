// Package chainrule trains, fine-tunes and runs Llama-family transformers with
// explicit gradients: no autograd, no tape, no graph. Weights, gradients and
// optimizer state are flat []float32, and every backward is a plain function
// beside its forward. A training step is five lines:
//
//	loss, err := chainrule.Forward(m, ws, tokens, targets)
//	chainrule.ZeroGrad(g)
//	err = chainrule.Backward(m, ws, g)
//	norm := chainrule.ClipGradients(g, 1)
//	chainrule.AdamStep(m, g, state, adam)
//
// forward.go and backward.go can be read side by side; package ops has the
// operations, package backend the dense products. Packages train, checkpoint,
// data and tokenizer are what a program needs around the five lines.
//
// # Contracts
//
// Exact: the gradients are those of the loss that Forward returns, for every
// parameter. The tests compare each tensor with central differences of an
// independent float64 model: ‖Δ‖ ≤ 3e-6·‖g‖ + 1e-7·‖g of all‖.
//
// Deterministic: the same backend, instruction set and input give the same
// bits at any GOMAXPROCS.
//
// No hidden allocation: Forward, Backward and AdamStep allocate nothing after
// the first call.
//
// Concurrency: Forward and Backward only read a Model, so goroutines may share
// it, each with its own Workspace and gradient. Nothing may overlap AdamStep or
// a load. After an error, the Workspace and the gradient are undefined until
// the next Forward and ZeroGrad.
//
// Panic or error: a wrong length or a nil argument is a programmer's mistake
// and panics; bad tokens, files, configurations and devices return an error
// that names what, where and what was expected.
//
// NaN and Inf propagate. The causal mask skips, it never multiplies by zero:
// NaN at one position leaves every earlier one alone.
//
// # Mistakes of the ancestor
//
// The C headers this library descends from were wrong in places that are easy
// to get wrong again. Here, each has a test that fails on the wrong version:
// RMSNorm's dx divides by rms³ (not rms²); the feed-forward norm's backward
// uses its own input, the residual behind attention (not the layer's); the
// norms' weights have gradients and are trained; tied embeddings are one
// tensor with one gradient, one pair of moments and one step; the number of
// layers, head size and key heads are configuration; the two RoPE tables of a
// llama2.c file are skipped; a failed product is an error, never stale output;
// the loss is over whatever targets a batch has.
package chainrule
