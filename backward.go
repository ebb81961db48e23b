package chainrule

import "github.com/chainrule-go/chainrule/ops"

// Backward adds to g the gradient, with respect to every parameter, of the
// loss that the last Forward on ws returned: calls accumulate until ZeroGrad.
// A tied TokenEmbedding receives the sum of both its uses. A tensor of g that
// is nil is left out.
//
// It panics unless the last use of ws was a Forward with targets on the same,
// unchanged model, or if g has another Config or an argument is nil. The error is that of the
// Backend; g is undefined after it.
func Backward(m *Model, ws *Workspace, g *Params) error {
	if m == nil || ws == nil || g == nil {
		panic("chainrule: Backward: nil Model, Workspace or gradient")
	}
	B, T, c := ws.B, ws.T, m.Config
	n := B * T
	switch {
	case ws.model != m || ws.gen != m.gen:
		panic("chainrule: Backward without a Forward with targets on the same, unchanged model before it")
	case g.config != c:
		panic("chainrule: Backward: the gradient was made for another Config")
	}
	ws.model = nil // the activations are used up, whatever happens

	C, H, Q, KV, NH, NKV, HD := c.Dim, c.HiddenDim, c.q(), c.kv(), c.NHeads, c.NKVHeads, c.HeadDim
	be, dx, dnorm := ws.backend, ws.dx, ws.branch

	// loss → logits → norm → x
	dlogits := ws.logits
	ops.CrossEntropyBackward(dlogits, ws.lse, ws.logits, ws.targets, n, c.VocabSize, ws.invDenom)
	ops.RMSNorm(ws.norm, ws.rstd, ws.x, m.RMSFinal, n, C, c.NormEps)
	if err := be.LinearBackward(dnorm, g.Wcls, dlogits, ws.norm, &m.wcls, n); err != nil {
		return productError("Wcls", -1, err)
	}
	clear(dx[:n*C])
	ops.RMSNormBackward(dx, g.RMSFinal, dnorm, ws.x, ws.rstd, m.RMSFinal, n, C)

	for i := len(m.Layers) - 1; i >= 0; i-- {
		l, w, a, d := &m.Layers[i], &m.layers[i], &ws.layers[i], &g.Layers[i]

		// x = mid + branch ← W2 ← SwiGLU ← gate, up ← norm ← mid
		ops.SwiGLU(ws.act, a.h13, n, H)
		dact := ws.dwide
		if err := be.LinearBackward(dact, d.W2, dx, ws.act, &w.w2, n); err != nil {
			return productError("W2", i, err)
		}
		dh13 := a.h13
		ops.SwiGLUBackward(dh13, dact, a.h13, n, H)
		ops.RMSNorm(ws.norm, a.rstd2, a.mid, l.RMSFFN, n, C, c.NormEps)
		if err := be.LinearBackward(dnorm, d.W13, dh13, ws.norm, &w.w13, n); err != nil {
			return productError("W13", i, err)
		}
		ops.RMSNormBackward(dx, d.RMSFFN, dnorm, a.mid, a.rstd2, l.RMSFFN, n, C)

		// mid = x + branch ← Wo ← attention ← q, k, v ← norm ← x
		datt := ws.dwide
		if err := be.LinearBackward(datt, d.Wo, dx, a.att, &w.wo, n); err != nil {
			return productError("Wo", i, err)
		}
		ops.AttentionBackward(ws.dqkv, datt, a.lse, a.qkv, B, T, NH, NKV, HD)
		ops.RopeBackward(ws.dqkv, ws.cos, ws.sin, n, T, NH+NKV, HD, Q+2*KV)
		dqkv := ws.dqkv
		if c.QKNorm {
			// qkv has done its work and takes the sum, which starts at 0
			dqkv = a.qkv
			clear(dqkv[:n*(Q+2*KV)])
			ops.CopyColumns(dqkv[Q+KV:], ws.dqkv[Q+KV:], n, KV, Q+2*KV, Q+2*KV)
			ops.RMSNormHeadsBackward(dqkv, d.QNorm, ws.dqkv, a.qk, a.qrstd, l.QNorm, n, NH, HD, Q+2*KV, Q+2*KV, Q+KV)
			ops.RMSNormHeadsBackward(dqkv[Q:], d.KNorm, ws.dqkv[Q:], a.qk[Q:], a.krstd, l.KNorm, n, NKV, HD, Q+2*KV, Q+2*KV, Q+KV)
		}
		if c.QKVBias {
			ops.AddBiasBackward(d.Bqkv, dqkv, n, Q+2*KV)
		}
		ops.RMSNorm(ws.norm, a.rstd1, a.x, l.RMSAtt, n, C, c.NormEps)
		if err := be.LinearBackward(dnorm, d.Wqkv, dqkv, ws.norm, &w.wqkv, n); err != nil {
			return productError("Wqkv", i, err)
		}
		ops.RMSNormBackward(dx, d.RMSAtt, dnorm, a.x, a.rstd1, l.RMSAtt, n, C)
	}
	ops.EmbeddingBackward(g.TokenEmbedding, dx, ws.tokens, n, C)
	return nil
}
