package ops

import (
	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// Embedding copies row tokens[i] of table [V,C] to row i of x [n,C]. The
// tokens are within [0,V): the caller has checked.
func Embedding(x, table []float32, tokens []int32, n, C int) {
	need(len(x) >= n*C && len(tokens) >= n, "chainrule: ops.Embedding: a slice is too short")
	embeddingLoop.For(n, grain(C), embeddingArgs{x, table, tokens, n, C})
}

// EmbeddingBackward adds row i of dx [n,C] to row tokens[i] of dtable [V,C],
// in the order of i: each worker has columns of its own, so a token that
// occurs twice gets its sum in one order.
func EmbeddingBackward(dtable, dx []float32, tokens []int32, n, C int) {
	if dtable == nil {
		return
	}
	need(len(dx) >= n*C && len(tokens) >= n, "chainrule: ops.EmbeddingBackward: a slice is too short")
	embeddingBackwardLoop.For(chunks(C), 1, embeddingArgs{dtable, dx, tokens, n, C})
}

type embeddingArgs struct {
	out, in []float32
	tokens  []int32
	n, C    int
}

var embeddingLoop = par.New(func(a *embeddingArgs, lo, hi int) {
	for i := lo; i < hi; i++ {
		copy(a.out[i*a.C:][:a.C], a.in[int(a.tokens[i])*a.C:][:a.C])
	}
})

var embeddingBackwardLoop = par.New(func(a *embeddingArgs, lo, hi int) {
	from, to := lo*columns, min(a.C, hi*columns)
	for i, token := range a.tokens[:a.n] {
		dst, src := a.out[int(token)*a.C:][from:to], a.in[i*a.C:][from:to]
		simd.Add(dst, dst, src)
	}
})
