package chainrule

import (
	"fmt"

	"github.com/chainrule-go/chainrule/ops"
)

// Forward computes the logits of tokens [B,T] into ws, and returns the mean
// cross-entropy of targets [B,T], in nats, over those ≥ 0: a negative target
// is ignored. (See Workspace.LossDenom for other means.) Position t predicts
// targets[t], so targets are the tokens shifted by one. If all targets are
// ignored the loss is 0; with nil targets it is 0 and only the logits are
// computed.
//
// It panics if m or ws is nil, ws has not the model's Config or a slice not B·T
// elements. The error is that of a token or target outside the vocabulary, or of the
// Backend.
func Forward(m *Model, ws *Workspace, tokens, targets []int32) (loss float64, err error) {
	if m == nil || ws == nil {
		panic("chainrule: Forward: nil Model or Workspace")
	}
	B, T, c := ws.B, ws.T, m.Config
	n := B * T
	switch {
	case ws.config != c:
		panic("chainrule: Forward: the Workspace was made for another Config")
	case len(tokens) != n:
		panic("chainrule: Forward: tokens is not [B,T]")
	case targets != nil && len(targets) != n:
		panic("chainrule: Forward: targets is not [B,T]")
	}
	ws.model = nil
	if err := checkTokens("token", tokens, T, 0, c.VocabSize); err != nil {
		return 0, err
	}
	if err := checkTokens("target", targets, T, -1<<31, c.VocabSize); err != nil {
		return 0, err
	}
	copy(ws.tokens, tokens)

	C, H, Q, KV, NH, NKV, HD := c.Dim, c.HiddenDim, c.q(), c.kv(), c.NHeads, c.NKVHeads, c.HeadDim
	be := ws.backend
	x := ws.layers[0].x
	ops.Embedding(x, m.TokenEmbedding, tokens, n, C)
	for i := range m.Layers {
		l, w, a := &m.Layers[i], &m.layers[i], &ws.layers[i]

		// x → norm → q, k, v → attention → Wo → mid = x + branch
		ops.RMSNorm(ws.norm, a.rstd1, x, l.RMSAtt, n, C, c.NormEps)
		if err := be.Linear(a.qkv, ws.norm, &w.wqkv, n); err != nil {
			return 0, productError("Wqkv", i, err)
		}
		if c.QKVBias {
			ops.AddBias(a.qkv, l.Bqkv, n, Q+2*KV)
		}
		if c.QKNorm {
			ops.CopyColumns(a.qk, a.qkv, n, Q+KV, Q+KV, Q+2*KV)
			ops.RMSNormHeads(a.qkv, a.qrstd, a.qk, l.QNorm, n, NH, HD, Q+2*KV, Q+KV, c.NormEps)
			ops.RMSNormHeads(a.qkv[Q:], a.krstd, a.qk[Q:], l.KNorm, n, NKV, HD, Q+2*KV, Q+KV, c.NormEps)
		}
		ops.Rope(a.qkv, ws.cos, ws.sin, n, T, NH+NKV, HD, Q+2*KV)
		ops.Attention(a.att, a.lse, a.qkv, B, T, NH, NKV, HD)
		if err := be.Linear(ws.branch, a.att, &w.wo, n); err != nil {
			return 0, productError("Wo", i, err)
		}
		ops.Add(a.mid, x, ws.branch, n*C)

		// mid → norm → gate, up → SwiGLU → W2 → x = mid + branch
		ops.RMSNorm(ws.norm, a.rstd2, a.mid, l.RMSFFN, n, C, c.NormEps)
		if err := be.Linear(a.h13, ws.norm, &w.w13, n); err != nil {
			return 0, productError("W13", i, err)
		}
		ops.SwiGLU(ws.act, a.h13, n, H)
		if err := be.Linear(ws.branch, ws.act, &w.w2, n); err != nil {
			return 0, productError("W2", i, err)
		}
		x = ws.x
		if i+1 < len(ws.layers) {
			x = ws.layers[i+1].x
		}
		ops.Add(x, a.mid, ws.branch, n*C)
	}
	ops.RMSNorm(ws.norm, ws.rstd, x, m.RMSFinal, n, C, c.NormEps)
	if err := be.Linear(ws.logits, ws.norm, &m.wcls, n); err != nil {
		return 0, productError("Wcls", -1, err)
	}
	if targets == nil {
		clear(ws.losses[:n])
		return 0, nil
	}
	copy(ws.targets, targets)
	ops.CrossEntropy(ws.losses, ws.lse, ws.logits, ws.targets, n, c.VocabSize)
	var sum float64
	denom, counted := ws.LossDenom, 0
	for i, target := range targets {
		if target >= 0 {
			sum += float64(ws.losses[i])
			counted++
		}
	}
	if denom == 0 {
		denom = max(1, float64(counted))
	}
	ws.invDenom = 1 / denom
	ws.model, ws.gen = m, m.gen
	return sum / denom, nil
}

// checkTokens returns an error that names the first token outside [least,V).
func checkTokens(what string, tokens []int32, T, least, V int) error {
	for i, token := range tokens {
		if int(token) < least || int(token) >= V {
			return fmt.Errorf("chainrule: %s %d at sequence %d, position %d, is outside the vocabulary of %d",
				what, token, i/T, i%T, V)
		}
	}
	return nil
}

// productError says which product of which layer (or none: -1) failed.
func productError(weight string, layer int, err error) error {
	if layer < 0 {
		return fmt.Errorf("chainrule: product with %s: %w", weight, err)
	}
	return fmt.Errorf("chainrule: product with %s of layer %d: %w", weight, layer, err)
}
