package ops

import (
	"math"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// Scores are computed in tiles of queryTile rows by keyTile keys: no [T,T]
// buffer exists.
const (
	queryTile = 4
	keyTile   = 64
)

// Attention computes causal softmax attention for B sequences of T tokens.
// A row of qkv [B,T,(NH+2·NKV)·HD] is NH heads of q, then NKV of k, then NKV
// of v; query head h reads key head h/(NH/NKV) (GQA). For each head and row t,
// over the keys s ≤ t:
//
//	score_s = q_t·k_s/√HD,  lse_t = ln Σ_s e^score_s,  out_t = Σ_s e^(score_s − lse_t)·v_s
//
// out is [B,T,NH·HD]; lse [B,NH,T] is all that the backward keeps of the
// scores. The softmax runs online over tiles of keys (Milakov and Gimelshein,
// 2018; Dao et al., 2022). The mask skips: what is in keys s > t has no
// influence on row t, not even NaN.
func Attention(out, lse, qkv []float32, B, T, NH, NKV, HD int) {
	stride := (NH + 2*NKV) * HD
	need(len(out) >= B*T*NH*HD && len(lse) >= B*NH*T && len(qkv) >= B*T*stride,
		"chainrule: ops.Attention: a slice is too short")
	need(NKV > 0 && NH%NKV == 0, "chainrule: ops.Attention: NH is not a multiple of NKV")
	need(HD%2 == 0, "chainrule: ops.Attention: HD is odd")
	a := attentionArgs{out: out, lse: lse, q: qkv, qs: stride, kvs: stride, n: T, NH: NH, group: NH / NKV, HD: HD}
	a.k, a.v = qkv[min(len(qkv), NH*HD):], qkv[min(len(qkv), (NH+NKV)*HD):]
	a.blocks = (T + rowBlock - 1) / rowBlock
	attentionLoop.For(B*NH*a.blocks, 1, a)
}

// AttentionCached is Attention for one sequence whose keys and values are in a
// cache: the queries of n new tokens, at positions pos … pos+n−1, attend to
// rows 0 … pos+n−1 of k and v [pos+n, NKV·HD]. Row i of q starts at q[i·qs];
// out is [n,NH·HD].
func AttentionCached(out, q, k, v []float32, n, pos, NH, NKV, HD, qs int) {
	need(n <= 0 || len(out) >= n*NH*HD && len(q) >= (n-1)*qs+NH*HD &&
		len(k) >= (pos+n)*NKV*HD && len(v) >= (pos+n)*NKV*HD, "chainrule: ops.AttentionCached: a slice is too short")
	need(NKV > 0 && NH%NKV == 0, "chainrule: ops.AttentionCached: NH is not a multiple of NKV")
	need(HD%2 == 0, "chainrule: ops.AttentionCached: HD is odd")
	a := attentionArgs{out: out, q: q, k: k, v: v, qs: qs, kvs: NKV * HD, n: n, pos: pos, NH: NH, group: NH / NKV, HD: HD}
	a.blocks = (n + rowBlock - 1) / rowBlock
	attentionLoop.For(NH*a.blocks, 1, a)
}

// rowBlock is the number of query rows in a chunk of work.
const rowBlock = 32

type attentionArgs struct {
	out, lse  []float32 // lse may be nil
	q, k, v   []float32 // row i of q at i·qs, of k and v at i·kvs; head h at h·HD
	qs, kvs   int
	n, pos    int // rows of a sequence; position of its first query
	NH, group int // query heads; query heads to a key head
	HD        int
	blocks    int // chunks in a sequence's head
}

var attentionLoop = par.New(func(a *attentionArgs, lo, hi int) {
	for i := lo; i < hi; i++ {
		block, bh := i%a.blocks, i/a.blocks
		b, h := bh/a.NH, bh%a.NH
		for t := block * rowBlock; t < min(a.n, (block+1)*rowBlock); t += queryTile {
			a.rows(b, h, t, min(queryTile, a.n-t))
		}
	}
})

// rows computes rows t … t+nr−1 of head h of sequence b.
func (a *attentionArgs) rows(b, h, t, nr int) {
	HD := a.HD
	scale := float32(1 / math.Sqrt(float64(HD)))
	kv := b*a.n*a.kvs + h/a.group*HD
	var q, out [queryTile][]float32
	for r := range nr {
		q[r] = a.q[(b*a.n+t+r)*a.qs+h*HD:][:HD]
		out[r] = a.out[((b*a.n+t+r)*a.NH+h)*HD:][:HD]
		clear(out[r])
	}
	var most [queryTile]float32 // the largest score so far
	var sum [queryTile]float64  // Σ e^(score − most)
	for r := range most {
		most[r] = float32(math.Inf(-1))
	}
	var s [queryTile][keyTile]float32
	for s0 := 0; s0 < a.pos+t+nr; s0 += keyTile {
		n := min(keyTile, a.pos+t+nr-s0)
		scores(&s, &q, a.k[kv+s0*a.kvs:], a.kvs, nr, n, a.pos+t-s0)
		for r := range nr {
			row := s[r][:max(0, min(n, a.pos+t+r+1-s0))]
			if len(row) == 0 {
				continue
			}
			for j := range row {
				row[j] *= scale
			}
			m := max(most[r], simd.Max(row))
			if m > most[r] {
				shrink := simd.Exp(most[r] - m) // 0 at first
				sum[r] *= float64(shrink)
				for i := range out[r] {
					out[r][i] *= shrink
				}
				most[r] = m
			}
			sum[r] += simd.ExpSub(row, row, m)
			weightedRows(out[r], row, a.v[kv+s0*a.kvs:], a.kvs)
		}
	}
	for r := range nr {
		inv := float32(1 / sum[r])
		for i := range out[r] {
			out[r][i] *= inv
		}
		if a.lse != nil {
			a.lse[(b*a.NH+h)*a.n+t+r] = float32(float64(most[r]) + math.Log(sum[r]))
		}
	}
}

// scores sets s[r][j] = x_r·y_j for nr rows x_r and the n rows y_j of y, which
// are stride apart; s[r][j] with j > diagonal+r is not read by anyone and may
// be left out.
func scores(s *[queryTile][keyTile]float32, x *[queryTile][]float32, y []float32, stride, nr, n, diagonal int) {
	HD := len(x[0])
	if nr == queryTile {
		x0, x1, x2, x3 := x[0][:HD], x[1][:HD], x[2][:HD], x[3][:HD]
		for j := range n {
			yj := y[j*stride:][:HD]
			var a0, a1, a2, a3, b0, b1, b2, b3 float32
			for i := 0; i+2 <= HD; i += 2 {
				u, v := yj[i], yj[i+1]
				a0 += x0[i] * u
				b0 += x0[i+1] * v
				a1 += x1[i] * u
				b1 += x1[i+1] * v
				a2 += x2[i] * u
				b2 += x2[i+1] * v
				a3 += x3[i] * u
				b3 += x3[i+1] * v
			}
			s[0][j], s[1][j], s[2][j], s[3][j] = a0+b0, a1+b1, a2+b2, a3+b3
		}
		return
	}
	for r := range nr {
		xr := x[r][:HD]
		for j := 0; j < min(n, diagonal+r+1); j++ {
			yj := y[j*stride:][:HD]
			var a, b float32
			for i := 0; i+2 <= HD; i += 2 {
				a += xr[i] * yj[i]
				b += xr[i+1] * yj[i+1]
			}
			s[r][j] = a + b
		}
	}
}

// weightedRows adds Σ_j w[j]·y_j to out; the rows y_j are stride apart.
func weightedRows(out, w, y []float32, stride int) {
	HD, j := len(out), 0
	for ; j+4 <= len(w); j += 4 {
		simd.Axpy4(out, w[j], w[j+1], w[j+2], w[j+3],
			y[j*stride:][:HD], y[(j+1)*stride:][:HD], y[(j+2)*stride:][:HD], y[(j+3)*stride:][:HD])
	}
	for ; j < len(w); j++ {
		simd.Axpy(out, w[j], y[j*stride:][:HD])
	}
}

// AttentionBackward computes dqkv [B,T,(NH+2·NKV)·HD] from dout, with lse and
// qkv of the forward. With P = e^(score − lse), recomputed for a few rows at a
// time:
//
//	dv_s = Σ_t P_ts·dout_t,  dP_ts = dout_t·v_s,  dS_ts = P_ts·(dP_ts − Σ_u P_tu·dP_tu)
//	dq_t = Σ_s dS_ts·k_s/√HD,  dk_s = Σ_t dS_ts·q_t/√HD
//
// summed over the query heads of a group for dk and dv. One worker has all of
// a key head, so sums have one order.
//
// The sum in dS is dout_t·out_t, but computed so from the rounded out it would
// not cancel the dP of a key that has nearly all of the weight: the error of
// scores near 100 would be several times as large.
func AttentionBackward(dqkv, dout, lse, qkv []float32, B, T, NH, NKV, HD int) {
	stride := (NH + 2*NKV) * HD
	need(len(dqkv) >= B*T*stride && len(dout) >= B*T*NH*HD && len(lse) >= B*NH*T && len(qkv) >= B*T*stride,
		"chainrule: ops.AttentionBackward: a slice is too short")
	need(NKV > 0 && NH%NKV == 0, "chainrule: ops.AttentionBackward: NH is not a multiple of NKV")
	need(HD%2 == 0, "chainrule: ops.AttentionBackward: HD is odd")
	attentionBackwardLoop.For(B*NKV, 1, attentionBackwardArgs{dqkv, dout, lse, qkv, T, NH, NKV, HD})
}

type attentionBackwardArgs struct {
	dqkv, dout, lse, qkv []float32
	T, NH, NKV, HD       int
}

// strips hold a few rows of P and of dP, then dS, over all keys.
type strips struct{ p, ds [][queryTile][keyTile]float32 }

var stripPool par.Pool[strips]

var attentionBackwardLoop = par.New(func(a *attentionBackwardArgs, lo, hi int) {
	w := stripPool.Get()
	if n := (a.T + keyTile - 1) / keyTile; len(w.p) < n {
		w.p, w.ds = make([][queryTile][keyTile]float32, n), make([][queryTile][keyTile]float32, n)
	}
	for i := lo; i < hi; i++ {
		b, h := i/a.NKV, i%a.NKV
		stride := (a.NH + 2*a.NKV) * a.HD
		for t := range a.T {
			row := a.dqkv[(b*a.T+t)*stride:]
			clear(row[(a.NH+h)*a.HD:][:a.HD])
			clear(row[(a.NH+a.NKV+h)*a.HD:][:a.HD])
		}
		group := a.NH / a.NKV
		for head := h * group; head < (h+1)*group; head++ {
			for t := 0; t < a.T; t += queryTile {
				a.rows(w, b, head, h, t, min(queryTile, a.T-t))
			}
		}
	}
	stripPool.Put(w)
})

// rows adds what rows t … t+nr−1 of query head h contribute to dk and dv of
// key head kvh, and computes their dq.
func (a *attentionBackwardArgs) rows(w *strips, b, h, kvh, t, nr int) {
	HD := a.HD
	scale := float32(1 / math.Sqrt(float64(HD)))
	stride := (a.NH + 2*a.NKV) * HD
	kAt := b*a.T*stride + (a.NH+kvh)*HD
	vAt := kAt + a.NKV*HD
	var q, dq, dout [queryTile][]float32
	var lse [queryTile]float32
	for r := range nr {
		row := b*a.T + t + r
		q[r] = a.qkv[row*stride+h*HD:][:HD]
		dq[r] = a.dqkv[row*stride+h*HD:][:HD]
		clear(dq[r])
		dout[r] = a.dout[(row*a.NH+h)*HD:][:HD]
		lse[r] = a.lse[(b*a.NH+h)*a.T+t+r]
	}
	var sum, weighted [queryTile]float64 // Σ P, which is 1 but for rounding, and Σ P·dP
	for s0 := 0; s0 < t+nr; s0 += keyTile {
		n := min(keyTile, t+nr-s0)
		p, dp := &w.p[s0/keyTile], &w.ds[s0/keyTile]
		scores(p, &q, a.qkv[kAt+s0*stride:], stride, nr, n, t-s0)
		scores(dp, &dout, a.qkv[vAt+s0*stride:], stride, nr, n, t-s0)
		for r := range nr {
			seen := max(0, min(n, t+r+1-s0))
			p, dp := p[r][:seen], dp[r][:seen]
			for j := range p {
				p[j] *= scale
			}
			sum[r] += simd.ExpSub(p, p, lse[r])
			weighted[r] += simd.Dot(p, dp)
		}
	}
	for s0 := 0; s0 < t+nr; s0 += keyTile {
		n := min(keyTile, t+nr-s0)
		p, ds := &w.p[s0/keyTile], &w.ds[s0/keyTile]
		k := a.qkv[kAt+s0*stride:]
		dk, dv := a.dqkv[kAt+s0*stride:], a.dqkv[vAt+s0*stride:]
		for r := range nr {
			seen := max(0, min(n, t+r+1-s0))
			p, ds := p[r][:seen], ds[r][:seen]
			norm, mean := float32(1/sum[r]), float32(weighted[r]/sum[r])
			for j := range p {
				p[j] *= norm
				ds[j] = p[j] * (ds[j] - mean) * scale
			}
			weightedRows(dq[r], ds, k, stride)
		}
		// keys that all rows see, then the triangle
		full := 0
		if nr == queryTile {
			full = max(0, min(n, t+1-s0))
		}
		for j := range full {
			simd.Axpy4(dk[j*stride:][:HD], ds[0][j], ds[1][j], ds[2][j], ds[3][j], q[0], q[1], q[2], q[3])
			simd.Axpy4(dv[j*stride:][:HD], p[0][j], p[1][j], p[2][j], p[3][j], dout[0], dout[1], dout[2], dout[3])
		}
		for r := range nr {
			for j := full; j < min(n, t+r+1-s0); j++ {
				simd.Axpy(dk[j*stride:][:HD], ds[r][j], q[r])
				simd.Axpy(dv[j*stride:][:HD], p[r][j], dout[r])
			}
		}
	}
}
