package main

import (
	"fmt"
	"math"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/mem"
	"github.com/chainrule-go/chainrule/ops"
)

// op is one call of a training step.
type op struct {
	pass, name, shape string
	flop              float64 // 0: its measure is the memory traffic
	bytes             float64
	reads             bool // of bytes: it writes nothing to speak of
	run               func() error
}

const (
	forward  = "forward"
	backward = "backward"
	update   = "update"
)

// replay returns the calls of a training step one by one, in the order of
// chainrule.Forward and chainrule.Backward and with the same arguments but for
// its own activations: the time of each is that of the call within a step, with
// its inputs in the caches or not as there. A test holds its gradients against
// the library's.
//
// The two products of a LinearBackward are calls of their own here. losses
// receives what the cross-entropy returns.
func (t *training) replay(B, T int, losses []float32) []op {
	m, g, be, c, n := t.m, t.g, t.be, t.m.Config, B*T
	C, H, V, NH, NKV, HD := c.Dim, c.HiddenDim, c.VocabSize, c.NHeads, c.NKVHeads, c.HeadDim
	Q, KV := NH*HD, NKV*HD
	QKV := Q + 2*KV
	var arena []float32 // large pieces, as a Workspace's, for its huge pages
	floats := func(width int) []float32 {
		if len(arena) < n*width {
			arena = mem.Floats(max(8<<20, n*width))
		}
		s := arena[: n*width : n*width]
		arena = arena[n*width:]
		return s
	}

	type activations struct{ x, qk, qrstd, krstd, qkv, lse, att, mid, h13, rstd1, rstd2 []float32 }
	acts := make([]activations, c.NLayers)
	for i := range acts {
		acts[i] = activations{
			x: floats(C), qkv: floats(QKV), lse: floats(NH), att: floats(Q), mid: floats(C), h13: floats(2 * H),
			rstd1: floats(1), rstd2: floats(1),
		}
		if c.QKNorm {
			acts[i].qk, acts[i].qrstd, acts[i].krstd = floats(Q+KV), floats(NH), floats(NKV)
		}
	}
	rstd, logits, lse := floats(1), floats(V), make([]float64, n)
	norm, branch, act, dwide, dx := floats(C), floats(C), floats(max(H, QKV)), floats(max(H, Q, C)), floats(C)
	last, dqkvRope := dwide, act
	freqs := make([]float64, HD/2)
	for i := range freqs {
		freqs[i] = math.Pow(c.RopeTheta, -2*float64(i)/float64(HD))
	}
	cos, sin := make([]float32, T*HD/2), make([]float32, T*HD/2)
	ops.RopeTable(cos, sin, freqs, T)

	var list []op
	var matrices []*backend.Matrix
	pass := forward
	call := func(name string, width int, bytesPerElement float64, f func()) {
		list = append(list, op{pass: pass, name: name, shape: fmt.Sprintf("%d×%d", n, width),
			bytes: bytesPerElement * float64(n) * float64(width), run: func() error { f(); return nil }})
	}
	product := func(name string, w *backend.Matrix, f func() error) {
		list = append(list, op{pass: pass, name: name, shape: fmt.Sprintf("%d×%d→%d", n, w.In, w.Out),
			flop: 2 * float64(n) * float64(w.In) * float64(w.Out), run: f})
	}
	linear := func(name string, y, x []float32, w *backend.Matrix) {
		product(name, w, func() error { return be.Linear(y, x, w, n) })
	}
	linearBackward := func(name string, dx, dw, dy, x []float32, w *backend.Matrix) {
		product(name+" dx", w, func() error { return be.LinearBackward(dx, nil, dy, x, w, n) })
		product(name+" dW", w, func() error { return be.LinearBackward(nil, dw, dy, x, w, n) })
	}
	attention := func(name string, products int, f func()) {
		list = append(list, op{pass: pass, name: name, shape: fmt.Sprintf("%d×%d×%d×%d", B, NH, T, HD),
			flop: attentionFLOP(c, B, T, products), run: func() error { f(); return nil }})
	}
	matrix := func(data []float32, out, in int) *backend.Matrix {
		w := &backend.Matrix{Data: data, Out: out, In: in, Gen: 1}
		matrices = append(matrices, w)
		return w
	}
	type weights struct{ wqkv, wo, w13, w2 *backend.Matrix }
	ws := make([]weights, c.NLayers)
	for i, l := range m.Layers {
		ws[i] = weights{matrix(l.Wqkv, QKV, C), matrix(l.Wo, C, Q), matrix(l.W13, 2*H, C), matrix(l.W2, C, H)}
	}
	wcls := matrix(m.Wcls, V, C)

	whole := func(name string, bytesPerParam float64, reads bool, f func()) {
		P := c.NumParams()
		list = append(list, op{pass: update, name: name, shape: fmt.Sprint(P), bytes: bytesPerParam * float64(P), reads: reads,
			run: func() error { f(); return nil }})
	}
	if !t.adam.ZeroGrad {
		whole("ZeroGrad", 4, false, func() { chainrule.ZeroGrad(g) })
	}

	call("embedding", C, 8, func() { ops.Embedding(acts[0].x, m.TokenEmbedding, t.tokens, n, C) })
	for i := range m.Layers {
		l, w, a, next := &m.Layers[i], ws[i], &acts[i], last
		if i+1 < len(acts) {
			next = acts[i+1].x
		}
		call("rmsnorm", C, 8, func() { ops.RMSNorm(norm, a.rstd1, a.x, l.RMSAtt, n, C, c.NormEps) })
		linear("Wqkv", a.qkv, norm, w.wqkv)
		if c.QKNorm {
			call("qk-norm", Q+KV, 16, func() {
				ops.CopyColumns(a.qk, a.qkv, n, Q+KV, Q+KV, QKV)
				ops.RMSNormHeads(a.qkv, a.qrstd, a.qk, l.QNorm, n, NH, HD, QKV, Q+KV, c.NormEps)
				ops.RMSNormHeads(a.qkv[Q:], a.krstd, a.qk[Q:], l.KNorm, n, NKV, HD, QKV, Q+KV, c.NormEps)
			})
		}
		call("rope", Q+KV, 8, func() { ops.Rope(a.qkv, cos, sin, n, T, NH+NKV, HD, QKV) })
		attention("attention", 2, func() { ops.Attention(a.att, a.lse, a.qkv, B, T, NH, NKV, HD) })
		linear("Wo", branch, a.att, w.wo)
		call("add", C, 12, func() { ops.Add(a.mid, a.x, branch, n*C) })
		call("rmsnorm", C, 8, func() { ops.RMSNorm(norm, a.rstd2, a.mid, l.RMSFFN, n, C, c.NormEps) })
		linear("W13", a.h13, norm, w.w13)
		call("swiglu", H, 12, func() { ops.SwiGLU(act, a.h13, n, H) })
		linear("W2", branch, act, w.w2)
		call("add", C, 12, func() { ops.Add(next, a.mid, branch, n*C) })
	}
	call("rmsnorm", C, 8, func() { ops.RMSNorm(norm, rstd, last, m.RMSFinal, n, C, c.NormEps) })
	linear("Wcls", logits, norm, wcls)
	call("cross-entropy", V, 4, func() { ops.CrossEntropy(losses, lse, logits, t.targets, n, V) })
	list[len(list)-1].reads = true

	pass = backward
	call("cross-entropy", V, 8, func() { ops.CrossEntropyBackward(logits, lse, logits, t.targets, n, V, 1/float64(n)) })
	call("rmsnorm redone", C, 8, func() { ops.RMSNorm(norm, rstd, last, m.RMSFinal, n, C, c.NormEps) })
	linearBackward("Wcls", branch, g.Wcls, logits, norm, wcls)
	call("rmsnorm", C, 20, func() {
		clear(dx)
		ops.RMSNormBackward(dx, g.RMSFinal, branch, last, rstd, m.RMSFinal, n, C)
	})
	for i := len(m.Layers) - 1; i >= 0; i-- {
		l, w, a, d := &m.Layers[i], ws[i], &acts[i], &g.Layers[i]
		call("swiglu redone", H, 12, func() { ops.SwiGLU(act, a.h13, n, H) })
		linearBackward("W2", dwide, d.W2, dx, act, w.w2)
		call("swiglu", H, 20, func() { ops.SwiGLUBackward(a.h13, dwide, a.h13, n, H) })
		call("rmsnorm redone", C, 8, func() { ops.RMSNorm(norm, a.rstd2, a.mid, l.RMSFFN, n, C, c.NormEps) })
		linearBackward("W13", branch, d.W13, a.h13, norm, w.w13)
		call("rmsnorm", C, 16, func() { ops.RMSNormBackward(dx, d.RMSFFN, branch, a.mid, a.rstd2, l.RMSFFN, n, C) })

		linearBackward("Wo", dwide, d.Wo, dx, a.att, w.wo)
		attention("attention", 5, func() { ops.AttentionBackward(dqkvRope, dwide, a.lse, a.qkv, B, T, NH, NKV, HD) })
		call("rope", Q+KV, 8, func() { ops.RopeBackward(dqkvRope, cos, sin, n, T, NH+NKV, HD, QKV) })
		dqkv := dqkvRope
		if c.QKNorm {
			dqkv = a.qkv
			call("qk-norm", Q+KV, 20, func() {
				clear(dqkv)
				ops.CopyColumns(dqkv[Q+KV:], dqkvRope[Q+KV:], n, KV, QKV, QKV)
				ops.RMSNormHeadsBackward(dqkv, d.QNorm, dqkvRope, a.qk, a.qrstd, l.QNorm, n, NH, HD, QKV, QKV, Q+KV)
				ops.RMSNormHeadsBackward(dqkv[Q:], d.KNorm, dqkvRope[Q:], a.qk[Q:], a.krstd, l.KNorm, n, NKV, HD, QKV, QKV, Q+KV)
			})
		}
		call("rmsnorm redone", C, 8, func() { ops.RMSNorm(norm, a.rstd1, a.x, l.RMSAtt, n, C, c.NormEps) })
		linearBackward("Wqkv", branch, d.Wqkv, dqkv, norm, w.wqkv)
		call("rmsnorm", C, 16, func() { ops.RMSNormBackward(dx, d.RMSAtt, branch, a.x, a.rstd1, l.RMSAtt, n, C) })
	}
	call("embedding", C, 12, func() { ops.EmbeddingBackward(g.TokenEmbedding, dx, t.tokens, n, C) })

	whole("GradNorm", 4, true, func() { t.clipBy(chainrule.GradNorm(g)) })
	moved := 28.0
	if t.adam.ZeroGrad {
		moved = 32 // the gradient is written, too
	}
	whole("AdamStep", moved, false, func() {
		chainrule.AdamStep(m, g, t.state, t.adam)
		for _, w := range matrices {
			w.Gen++
		}
	})
	return list
}
