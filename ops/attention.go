package ops

import (
	"math"
	"runtime"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// stripSize is how many queries of one head at consecutive positions are a
// strip. Its scores [keys, queries] are the only ones that a worker has in
// memory.
const stripSize = simd.ScoreCols

// manyPieces is how many pieces there are at least, if key heads have as many
// strips: enough for some cores. A piece is consecutive strips of all the query
// heads of a key head. It shares packed keys and values, and in the backward it
// has a dk and dv of its own.
const manyPieces = 8

// pieces is how many pieces each of heads key heads is cut into.
func pieces(heads, strips int) int { return min(strips, ceil(manyPieces, max(1, heads))) }

// piece returns the strips of piece i: none, or such that pieces have about as
// many scores.
func piece(i, pieces, strips int) (lo, hi int) {
	cut := func(i int) int { return int(float64(strips) * math.Sqrt(float64(i)/float64(pieces))) }
	return cut(i), cut(i + 1)
}

// part returns which piece of which head part i is of a loop over heads·pieces,
// and its strips. The last pieces, with the longest strips, come first.
func part(i, heads, pieces, rows int) (at, head, first, end int) {
	at, head = pieces-1-i/heads, i%heads
	first, end = piece(at, pieces, ceil(rows, stripSize))
	return at, head, first, end
}

// Attention computes causal softmax attention for B sequences of T tokens.
// A row of qkv [B,T,(NH+2·NKV)·HD] is NH heads of q, then NKV of k, then NKV
// of v; query head h reads key head h/(NH/NKV) (GQA). For each head and row t,
// over the keys s ≤ t:
//
//	score_s = q_t·k_s/√HD,  lse_t = ln Σ_s e^score_s,  out_t = Σ_s e^(score_s − lse_t)·v_s
//
// out is [B,T,NH·HD]; lse [B,NH,T] is all that the backward keeps of the
// scores. The mask skips: what is in keys s > t has no influence on row t, not
// even NaN.
func Attention(out, lse, qkv []float32, B, T, NH, NKV, HD int) {
	stride := (NH + 2*NKV) * HD
	need(len(out) >= B*T*NH*HD && len(lse) >= B*NH*T && len(qkv) >= B*T*stride,
		"chainrule: ops.Attention: a slice is too short")
	need(NKV > 0 && NH%NKV == 0, "chainrule: ops.Attention: NH is not a multiple of NKV")
	need(HD%2 == 0, "chainrule: ops.Attention: HD is odd")
	a := attentionArgs{out: out, lse: lse, q: qkv, qs: stride, kvs: stride, n: T, NKV: NKV, group: NH / NKV, HD: HD}
	a.k, a.v = qkv[min(len(qkv), NH*HD):], qkv[min(len(qkv), (NH+NKV)*HD):]
	a.run(B)
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
	a := attentionArgs{out: out, q: q, k: k, v: v, qs: qs, kvs: NKV * HD, n: n, pos: pos, NKV: NKV, group: NH / NKV, HD: HD}
	if n == 1 {
		a.decode()
		return
	}
	a.run(1)
}

type attentionArgs struct {
	out, lse      []float32 // lse may be nil
	q, k, v       []float32 // row i of q at i·qs, of k and v at i·kvs; head h at h·HD
	qs, kvs       int
	n, pos        int // rows of a sequence; position of its first query
	NKV, group    int // key heads; query heads to a key head
	HD            int
	heads, pieces int    // B·NKV; of each head
	parts         *parts // of decode
}

func (a *attentionArgs) run(B int) {
	a.heads = B * a.NKV
	a.pieces = pieces(a.heads, ceil(a.n, stripSize))
	parts := a.heads * a.pieces
	stripPool.Reserve(min(runtime.GOMAXPROCS(0), parts), a.reserve)
	attentionLoop.For(parts, 1, *a)
}

// reserve makes room for any part.
func (a *attentionArgs) reserve(w *strip) {
	keys := a.pos + a.n
	fit(&w.keys, keys*a.HD)
	w.v.Reserve(keys, a.HD)
	w.reserve(a.n, a.HD, a.pos)
}

var attentionLoop = par.New(func(a *attentionArgs, lo, hi int) {
	w := stripPool.Get()
	w.fetch.Reset()
	for i := lo; i < hi; i++ {
		b, h, first, end := a.part(i)
		k, keys := b*a.n*a.kvs+h*a.HD, a.pos+min(a.n, end*stripSize)
		gather(fit(&w.keys, keys*a.HD), a.k[k:], keys, a.HD, a.kvs)
		w.v.Pack(a.v[k:], a.kvs, keys, a.HD)
		for s := end - 1; s >= first; s-- {
			for g := range a.group {
				t, n := s*stripSize, min(stripSize, a.n-s*stripSize)
				a.ahead(w, i, s, g)
				a.strip(w, b, h*a.group+g, t, n)
			}
		}
	}
	stripPool.Put(w)
})

// part returns what part i is: sequence, key head and strips.
func (a *attentionArgs) part(i int) (b, h, first, end int) {
	_, head, first, end := part(i, a.heads, a.pieces, a.n)
	return head / a.NKV, head % a.NKV, first, end
}

// ahead lets the products of strip s and query head g of part i fetch what
// comes after them, and where their results go.
func (a *attentionArgs) ahead(w *strip, i, s, g int) {
	b, h, first, end := a.part(i)
	q := func(x []float32, stride, b, h, s, g int) {
		t := s * stripSize
		w.fetch.Add(x, (b*a.n+t)*stride+(h*a.group+g)*a.HD, min(stripSize, a.n-t), a.HD, stride)
	}
	q(a.out, a.NKV*a.group*a.HD, b, h, s, g)
	next := following(i, a.heads*a.pieces)
	switch {
	case g+1 < a.group:
		q(a.q, a.qs, b, h, s, g+1)
	case s > first:
		q(a.q, a.qs, b, h, s-1, 0)
	}
	if next >= 0 && g+1 == a.group {
		b, h, _, last := a.part(next)
		from, to := share(s, first, end, a.pos+min(a.n, last*stripSize))
		at := (b*a.n+from)*a.kvs + h*a.HD
		w.fetch.Add(a.k, at, to-from, a.HD, a.kvs)
		w.fetch.Add(a.v, at, to-from, a.HD, a.kvs)
		if s == first && last > 0 {
			q(a.q, a.qs, b, h, last-1, 0)
		}
	}
	t := s * stripSize
	w.pace(min(stripSize, a.n-t), a.HD, a.pos+t, 1, 1, 0)
}

// strip computes rows t to t+n of query head h of sequence b.
func (a *attentionArgs) strip(w *strip, b, h, t, n int) {
	HD, NH := a.HD, a.NKV*a.group
	scale := float32(1 / math.Sqrt(float64(HD)))
	out := a.out[((b*a.n+t)*NH+h)*HD:]
	w.shape(n, HD, a.pos+t)

	w.scores(w.p, w.keys, a.q[(b*a.n+t)*a.qs+h*HD:], a.qs) // Pᵀ = K Qᵀ
	simd.ExpCols(w.p, w.past, scale, w.most, w.sum)
	w.weigh(w.p, &w.v) // Y = P V
	for i, sum := range w.sum {
		w.norm[i] = float32(1 / sum)
	}
	simd.ScaleRows(out, NH*HD, w.y, HD, HD, w.norm[:n])
	if a.lse != nil {
		for i, most := range w.most[:n] {
			a.lse[(b*NH+h)*a.n+t+i] = float32(float64(most) + math.Log(w.sum[i]))
		}
	}
}

// keyBlock is how many keys a chunk of work has in decode, which reads them from
// memory: so many as stay in cache for the other query heads of the group.
const keyBlock = 256

// parts is what decode computes for each block of keys and head.
type parts struct {
	most, out []float32 // [blocks, NH], [blocks, NH, HD]
	sum       []float64 // [blocks, NH]
}

var partsPool par.Pool[parts]

// decode computes one row. Blocks of keys are computed on their own, and added
// up in their order: with m the largest score,
//
//	out = Σ_blocks e^(most − m)·out / Σ_blocks e^(most − m)·sum
func (a *attentionArgs) decode() {
	NH, HD := a.NKV*a.group, a.HD
	blocks := ceil(a.pos+1, keyBlock)
	a.parts = partsPool.Get()
	fit(&a.parts.most, blocks*NH)
	fit(&a.parts.sum, blocks*NH)
	fit(&a.parts.out, blocks*NH*HD)
	decodeLoop.For(blocks*a.NKV, 1, *a)
	for h := range NH {
		most := float32(math.Inf(-1))
		for i := h; i < blocks*NH; i += NH {
			most = max(most, a.parts.most[i])
		}
		out, sum := a.out[h*HD:][:HD], 0.0
		clear(out)
		for i := h; i < blocks*NH; i += NH {
			weight := simd.Exp(a.parts.most[i] - most)
			sum += float64(weight) * a.parts.sum[i]
			simd.Axpy(out, weight, a.parts.out[i*HD:][:HD])
		}
		simd.Scale(out, float32(1/sum))
	}
	partsPool.Put(a.parts)
}

var decodeLoop = par.New(func(a *attentionArgs, lo, hi int) {
	var scores [keyBlock]float32
	HD, group := a.HD, a.group
	scale := float32(1 / math.Sqrt(float64(HD)))
	for i := lo; i < hi; i++ {
		h, from := i%a.NKV, i/a.NKV*keyBlock
		keys := min(keyBlock, a.pos+1-from)
		at := i * group // the first of the query heads
		p, k, v := scores[:keys], a.k[from*a.kvs+h*HD:], a.v[from*a.kvs+h*HD:]
		for g := range group {
			simd.DotRows(p, a.q[(h*group+g)*HD:][:HD], k, a.kvs)
			// not -Inf: blocks without weight are 0, not NaN
			most := max(scale*simd.Max(p), -math.MaxFloat32)
			a.parts.most[at+g] = most
			a.parts.sum[at+g] = simd.ExpScaleSub(p, p, scale, most)
			simd.SumRows(a.parts.out[(at+g)*HD:][:HD], p, v, a.kvs)
		}
	}
})

// AttentionBackward computes dqkv [B,T,(NH+2·NKV)·HD] from dout, with lse and
// qkv of the forward. With P = e^(score − lse), recomputed for a strip at a
// time:
//
//	dv_s = Σ_t P_ts·dout_t,  dP_ts = dout_t·v_s,  dS_ts = P_ts·(dP_ts − Σ_u P_tu·dP_tu)
//	dq_t = Σ_s dS_ts·k_s/√HD,  dk_s = Σ_t dS_ts·q_t/√HD
//
// summed over the query heads of a group for dk and dv. A worker sums the dk
// and dv of a piece; the shape says how many pieces a head has, and they are
// added in their order, so sums have one order.
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
	a := attentionBackwardArgs{dqkv: dqkv, dout: dout, lse: lse, qkv: qkv, T: T, NKV: NKV, group: NH / NKV, HD: HD}
	a.heads = B * NKV
	a.pieces = pieces(a.heads, ceil(T, stripSize))
	a.sums = sumsPool.Get()
	fit(a.sums, (a.pieces-1)*a.heads*2*T*HD)
	parts := a.heads * a.pieces
	stripPool.Reserve(min(runtime.GOMAXPROCS(0), parts), a.reserve)
	attentionBackwardLoop.For(parts, 1, a)
	if a.pieces > 1 {
		attentionSumLoop.For(a.heads*T, grain(2*HD), a)
	}
	sumsPool.Put(a.sums)
}

type attentionBackwardArgs struct {
	dqkv, dout, lse, qkv []float32
	T, NKV, group, HD    int
	heads, pieces        int        // B·NKV; of each head
	sums                 *[]float32 // [pieces−1, heads, 2, T, HD]: dk and dv of all pieces but the last
}

var sumsPool par.Pool[[]float32]

// reserve makes room for any part.
func (a *attentionBackwardArgs) reserve(w *strip) {
	for _, s := range [...]*[]float32{&w.keys, &w.values, &w.dk, &w.dv} {
		fit(s, a.T*a.HD)
	}
	w.k.Reserve(a.T, a.HD)
	w.reserve(a.T, a.HD, 0)
	fit(&w.dp, len(w.p))
	n := min(stripSize, a.T)
	w.rows.Reserve(n, a.HD)
	fit(&w.dout, n*a.HD)
}

// stride is the length of a row of qkv.
func (a *attentionBackwardArgs) stride() int { return (a.NKV*a.group + 2*a.NKV) * a.HD }

// kv returns where k and v of sequence b and key head h begin.
func (a *attentionBackwardArgs) kv(b, h int) (k, v int) {
	k = b*a.T*a.stride() + (a.NKV*a.group+h)*a.HD
	return k, k + a.NKV*a.HD
}

// sum returns dk and dv of a piece of a head.
func (a *attentionBackwardArgs) sum(piece, head int) (dk, dv []float32) {
	size := a.T * a.HD
	s := (*a.sums)[(piece*a.heads+head)*2*size:]
	return s[:size], s[size:][:size]
}

var attentionBackwardLoop = par.New(func(a *attentionBackwardArgs, lo, hi int) {
	w := stripPool.Get()
	w.fetch.Reset()
	stride := a.stride()
	for i := lo; i < hi; i++ {
		at, head, b, h, first, end := a.part(i)
		k, v := a.kv(b, h)
		keys := min(a.T, end*stripSize)
		gather(fit(&w.values, keys*a.HD), a.qkv[v:], keys, a.HD, stride)
		w.k.Pack(a.qkv[k:], stride, keys, a.HD)
		rows := w.k.Rows()
		if rows == nil {
			rows = fit(&w.keys, keys*a.HD)
			gather(rows, a.qkv[k:], keys, a.HD, stride)
		}
		dk, dv := fit(&w.dk, keys*a.HD), fit(&w.dv, keys*a.HD)
		if at < a.pieces-1 {
			dk, dv = a.sum(at, head)
		}
		// The last strip sees all keys and is the first to write them.
		for s := end - 1; s >= first; s-- {
			for g := range a.group {
				t, n := s*stripSize, min(stripSize, a.T-s*stripSize)
				a.ahead(w, i, s, g)
				a.strip(w, rows, dk, dv, b, h*a.group+g, t, n, g > 0 || s < end-1)
			}
		}
		if at == a.pieces-1 {
			scatter(a.dqkv[k:], dk, keys, a.HD, stride)
			scatter(a.dqkv[v:], dv, keys, a.HD, stride)
		}
	}
	stripPool.Put(w)
})

// part returns what part i is: which piece of which of the heads, that is
// sequence and key head, and its strips.
func (a *attentionBackwardArgs) part(i int) (at, head, b, h, first, end int) {
	at, head, first, end = part(i, a.heads, a.pieces, a.T)
	return at, head, head / a.NKV, head % a.NKV, first, end
}

// ahead lets the products of strip s and query head g of part i fetch what
// comes after them, and where their results go.
func (a *attentionBackwardArgs) ahead(w *strip, i, s, g int) {
	at, _, b, h, first, end := a.part(i)
	stride, width := a.stride(), a.NKV*a.group*a.HD
	q := func(x []float32, stride, b, h, s, g int) {
		t := s * stripSize
		w.fetch.Add(x, (b*a.T+t)*stride+(h*a.group+g)*a.HD, min(stripSize, a.T-t), a.HD, stride)
	}
	kv := func(x []float32, b, h, from, to int) {
		k, v := a.kv(b, h)
		w.fetch.Add(x, k+from*stride, to-from, a.HD, stride)
		w.fetch.Add(x, v+from*stride, to-from, a.HD, stride)
	}
	q(a.dqkv, stride, b, h, s, g)
	switch {
	case g+1 < a.group:
		q(a.qkv, stride, b, h, s, g+1)
		q(a.dout, width, b, h, s, g+1)
	case s > first:
		q(a.qkv, stride, b, h, s-1, 0)
		q(a.dout, width, b, h, s-1, 0)
	}
	if g+1 == a.group {
		if at == a.pieces-1 {
			from, to := share(s, first, end, a.T)
			kv(a.dqkv, b, h, from, to)
		}
		if next := following(i, a.heads*a.pieces); next >= 0 {
			_, _, b, h, _, last := a.part(next)
			from, to := share(s, first, end, min(a.T, last*stripSize))
			kv(a.qkv, b, h, from, to)
			if s == first && last > 0 {
				q(a.qkv, stride, b, h, last-1, 0)
				q(a.dout, width, b, h, last-1, 0)
			}
		}
	}
	t := s * stripSize
	w.pace(min(stripSize, a.T-t), a.HD, t, 2, 1, 2)
}

// attentionSumLoop adds the sums of the other pieces to row s of dk and dv of
// one head; index i is head·T + s.
var attentionSumLoop = par.New(func(a *attentionBackwardArgs, lo, hi int) {
	for i := lo; i < hi; i++ {
		head, s := i/a.T, i%a.T
		k, v := a.kv(head/a.NKV, head%a.NKV)
		for at := a.pieces - 2; at >= 0; at-- {
			if first, end := piece(at, a.pieces, ceil(a.T, stripSize)); first < end && s < end*stripSize {
				dk, dv := a.sum(at, head)
				simd.Axpy(a.dqkv[k+s*a.stride():][:a.HD], 1, dk[s*a.HD:][:a.HD])
				simd.Axpy(a.dqkv[v+s*a.stride():][:a.HD], 1, dv[s*a.HD:][:a.HD])
			}
		}
	}
})

// strip computes rows t to t+n of dq of query head h of sequence b, and sets dk
// and dv to what they contribute, or adds it. k is the rows of its key head.
func (a *attentionBackwardArgs) strip(w *strip, k, dk, dv []float32, b, h, t, n int, add bool) {
	HD, NH, stride := a.HD, a.NKV*a.group, a.stride()
	scale := float32(1 / math.Sqrt(float64(HD)))
	at := (b*a.T+t)*stride + h*HD
	q, dout := a.qkv[at:], a.dout[((b*a.T+t)*NH+h)*HD:]
	w.shape(n, HD, t)
	fit(&w.dp, len(w.p))
	copy(w.most, a.lse[(b*NH+h)*a.T+t:][:n])

	w.scores(w.p, k, q, stride)           // Pᵀ = K Qᵀ
	w.scores(w.dp, w.values, dout, NH*HD) // dPᵀ = V doutᵀ
	simd.DSoftmaxCols(w.p, w.dp, w.past, scale, w.most, w.norm)
	simd.ScaleRows(fit(&w.dout, n*HD), HD, dout, NH*HD, HD, w.norm[:n])
	w.weighBack(dv, w.p, w.dout, HD, add) // dV += Pᵀ dout, which has the norm of the weights
	w.weighBack(dk, w.dp, q, stride, add) // dK += dSᵀ Q
	w.weigh(w.dp, &w.k)                   // dQ = dS K
	scatter(a.dqkv[at:], w.y, n, HD, stride)
}

func ceil(a, b int) int { return (a + b - 1) / b }
