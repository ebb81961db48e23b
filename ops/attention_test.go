package ops

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/peak"
)

// heads is the shape of an attention.
type heads struct{ B, T, NH, NKV, HD int }

func (s heads) q() int      { return s.NH * s.HD }
func (s heads) stride() int { return (s.NH + 2*s.NKV) * s.HD }

// attention64 writes the whole matrix of probabilities of each head.
func attention64(qkv []float64, s heads) (out, lse []float64) {
	Q, KV, stride := s.q(), s.NKV*s.HD, s.stride()
	out, lse = make([]float64, s.B*s.T*Q), make([]float64, s.B*s.NH*s.T)
	for b := range s.B {
		for h := range s.NH {
			kvh := h / (s.NH / s.NKV)
			for t := range s.T {
				row := func(t int) []float64 { return qkv[(b*s.T+t)*stride:][:stride] }
				p := make([]float64, t+1)
				most := math.Inf(-1)
				for j := range p {
					p[j] = dot(row(t)[h*s.HD:][:s.HD], row(j)[Q+kvh*s.HD:][:s.HD]) / math.Sqrt(float64(s.HD))
					most = max(most, p[j])
				}
				total := 0.0
				for _, score := range p {
					total += math.Exp(score - most)
				}
				l := most + math.Log(total)
				lse[(b*s.NH+h)*s.T+t] = l
				o := out[(b*s.T+t)*Q+h*s.HD:][:s.HD]
				for j, score := range p {
					weight := math.Exp(score - l)
					for i, v := range row(j)[Q+KV+kvh*s.HD:][:s.HD] {
						o[i] += weight * v
					}
				}
			}
		}
	}
	return out, lse
}

// attentionBackward64 writes the whole matrices P and dS of each head.
func attentionBackward64(qkv, dout []float64, s heads) (dqkv []float64) {
	Q, KV, stride := s.q(), s.NKV*s.HD, s.stride()
	dqkv = make([]float64, len(qkv))
	_, lse := attention64(qkv, s)
	for b := range s.B {
		for h := range s.NH {
			kvh := h / (s.NH / s.NKV)
			at := func(x []float64, t, col int) []float64 { return x[(b*s.T+t)*stride+col:][:s.HD] }
			k, v := Q+kvh*s.HD, Q+KV+kvh*s.HD
			for t := range s.T {
				do := dout[(b*s.T+t)*Q+h*s.HD:][:s.HD]
				p, dp, mean := make([]float64, t+1), make([]float64, t+1), 0.0
				for j := range p {
					score := dot(at(qkv, t, h*s.HD), at(qkv, j, k)) / math.Sqrt(float64(s.HD))
					p[j], dp[j] = math.Exp(score-lse[(b*s.NH+h)*s.T+t]), dot(do, at(qkv, j, v))
					mean += p[j] * dp[j]
				}
				for j := range p {
					ds := p[j] * (dp[j] - mean) / math.Sqrt(float64(s.HD))
					q, dq := at(qkv, t, h*s.HD), at(dqkv, t, h*s.HD)
					kj, dk, dv := at(qkv, j, k), at(dqkv, j, k), at(dqkv, j, v)
					for i := range s.HD {
						dv[i] += p[j] * do[i]
						dq[i] += ds * kj[i]
						dk[i] += ds * q[i]
					}
				}
			}
		}
	}
	return dqkv
}

// run is both passes of the float32 attention into guarded outputs.
func (s heads) run(t testing.TB, qkv, dout []float32) (out, lse, dqkv []float32) {
	out, lse, dqkv = output(t, s.B*s.T*s.q()), output(t, s.B*s.NH*s.T), output(t, len(qkv))
	Attention(out, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD)
	AttentionBackward(dqkv, dout, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD)
	return out, lse, dqkv
}

var lengths = []int{1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 66, 67, 130}

func TestAttentionAndItsBackwardMatchFloat64(t *testing.T) {
	shapes := []heads{{0, 3, 1, 1, 2}, {2, 0, 1, 1, 2}, {3, 5, 6, 2, 10}, {2, 9, 4, 1, 64}, {1, 70, 2, 2, 128}, {2, 67, 3, 1, 6}}
	for _, T := range lengths {
		shapes = append(shapes, heads{1, T, 1, 1, 2}, heads{1, T, 2, 1, 4}, heads{2, T, 4, 2, 8})
	}
	r := newRand(1)
	most := 3_000_000 // work for a derivative by every element
	if testing.Short() {
		most = 300_000
	}
	for _, s := range shapes {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			qkv, dout := random(r, s.B*s.T*s.stride(), 1), random(r, s.B*s.T*s.q(), 1)
			out, lse, dqkv := s.run(t, qkv, dout)
			x, d := widen(qkv), widen(dout)
			want, wantL := attention64(x, s)
			requireClose(t, want, out, 5e-7, "out")
			requireClose(t, wantL, lse, 5e-7, "lse")

			loss := func() float64 { out, _ := attention64(x, s); return dot(out, d) }
			if len(x)*len(x)*s.T < most {
				g := gradient(x, loss)
				n := s.B * s.T
				for _, part := range []struct {
					name     string
					from, to int
				}{{"dq", 0, s.q()}, {"dk", s.q(), s.q() + s.NKV*s.HD}, {"dv", s.q() + s.NKV*s.HD, s.stride()}} {
					w, got := make([]float64, 0, n), make([]float32, 0, n)
					for i := range n {
						w = append(w, g[i*s.stride()+part.from:i*s.stride()+part.to]...)
						got = append(got, dqkv[i*s.stride()+part.from:i*s.stride()+part.to]...)
					}
					if s.T > 1 || part.name == "dv" {
						requireClose(t, w, got, 1e-6, part.name)
					} else {
						require.InDeltaSlice(t, make([]float32, len(got)), got, 1e-6, "one key: the scores do not matter")
					}
				}
				return
			}
			// One direction of random signs in each of q, k and v: (Δ·u)² is
			// an unbiased estimate of ‖Δ‖².
			for part := range 3 {
				from, to := []int{0, s.q(), s.q() + s.NKV*s.HD}[part], []int{s.q(), s.q() + s.NKV*s.HD, s.stride()}[part]
				for range 3 {
					u, at := make([]float64, len(x)), append([]float64(nil), x...)
					got, size := 0.0, 0.0
					for i := range u {
						if c := i % s.stride(); c >= from && c < to {
							u[i] = float64(2*r.IntN(2) - 1)
							got += u[i] * float64(dqkv[i])
							size += float64(dqkv[i]) * float64(dqkv[i])
						}
					}
					along := []float64{0}
					g := gradient(along, func() float64 {
						for i := range x {
							x[i] = at[i] + along[0]*u[i]
						}
						return loss()
					})
					copy(x, at)
					require.InDelta(t, g[0], got, 3e-6*math.Sqrt(size), "d%c along a direction", "qkv"[part])
				}
			}
		})
	}
}

// Lengths about the edges of strips, blocks of the diagonal and pieces, heads
// that are whole vectors and that are not.
func TestAttentionInManyStripsMatchesFloat64(t *testing.T) {
	r := newRand(6)
	shapes := []heads{
		{1, 200, 2, 2, 34}, {2, 193, 3, 1, 6}, {1, 130, 6, 2, 66}, {1, 1000, 1, 1, 4}, {1, 777, 3, 1, 2},
		{3, 290, 6, 3, 10}, {1, 320, 1, 1, 128}, {9, 100, 1, 1, 8}, {1, 600, 8, 8, 2},
	}
	counts := []int{1, 2, 3, 4, 5, 7}
	if testing.Short() { // under emulation or the race detector
		counts = []int{1, 3}
	}
	for _, strips := range counts {
		for _, more := range []int{-1, 0, 1, 31, 32, 33} {
			shapes = append(shapes, heads{1, strips*stripSize + more, 1, 1, 4})
		}
	}
	for _, s := range shapes {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			qkv, dout := random(r, s.B*s.T*s.stride(), 1), random(r, s.B*s.T*s.q(), 1)
			out, lse, dqkv := s.run(t, qkv, dout)
			want, wantL := attention64(widen(qkv), s)
			requireClose(t, want, out, 5e-7, "out")
			requireClose(t, wantL, lse, 5e-7, "lse")
			wantD := attentionBackward64(widen(qkv), widen(dout), s)
			Q, KV := s.q(), s.NKV*s.HD
			for _, part := range []struct {
				name     string
				from, to int
			}{{"dq", 0, Q}, {"dk", Q, Q + KV}, {"dv", Q + KV, s.stride()}} {
				var w []float64
				var got []float32
				for i := range s.B * s.T {
					w = append(w, wantD[i*s.stride()+part.from:i*s.stride()+part.to]...)
					got = append(got, dqkv[i*s.stride()+part.from:i*s.stride()+part.to]...)
				}
				requireClose(t, w, got, 1e-6, part.name)
			}
		})
	}
}

// Every piece of every shape has its strips, and all have all.
// Of few numbers in all: tolerances are wider than those above.
func FuzzAttention(f *testing.F) {
	f.Add(uint64(1), uint8(1), uint8(33), uint8(1), uint8(2), uint8(5))
	f.Add(uint64(2), uint8(2), uint8(129), uint8(3), uint8(1), uint8(32))
	f.Fuzz(func(t *testing.T, seed uint64, B, T, NKV, group, pairs uint8) {
		s := heads{B: int(B % 3), T: int(T) % 200, NKV: 1 + int(NKV%3), HD: 2 + 2*int(pairs%35)}
		s.NH = s.NKV * (1 + int(group%3))
		r := newRand(seed)
		qkv, dout := random(r, s.B*s.T*s.stride(), 1), random(r, s.B*s.T*s.q(), 1)
		out, lse, dqkv := s.run(t, qkv, dout)
		want, wantL := attention64(widen(qkv), s)
		requireClose(t, want, out, 2e-6, "out")
		for i, want := range wantL { // of scores that cancel, maybe
			require.InDelta(t, want, float64(lse[i]), 2e-6*(1+math.Abs(want)), "lse")
		}
		requireClose(t, attentionBackward64(widen(qkv), widen(dout), s), dqkv, 5e-6, "dqkv")
	})
}

func TestPiecesAreTheStrips(t *testing.T) {
	for heads := 1; heads < 20; heads++ {
		for strips := range 70 {
			n, next := pieces(heads, strips), 0
			require.LessOrEqual(t, n, strips)
			for i := range n {
				lo, hi := piece(i, n, strips)
				require.Equal(t, next, lo)
				require.LessOrEqual(t, lo, hi)
				next = hi
			}
			require.Equal(t, strips, next)
			if n > 0 { // the last one writes all of dk and dv
				lo, hi := piece(n-1, n, strips)
				require.Less(t, lo, hi)
			}
		}
	}
}

func TestAttentionMemoryIsLinearInTheLength(t *testing.T) {
	s := heads{1, 8192, 2, 1, 2}
	if testing.Short() {
		s.T = 2048
	}
	qkv, dout := random(newRand(7), s.T*s.stride(), 1), random(newRand(7), s.T*s.q(), 1)
	out, lse, dqkv := make([]float32, len(dout)), make([]float32, s.NH*s.T), make([]float32, len(qkv))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	Attention(out, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD)
	AttentionBackward(dqkv, dout, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD)
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes for a key", int(after.TotalAlloc-before.TotalAlloc)/s.T)
	// two strips of scores, four packed matrices and a dk and dv for each piece
	perKey := 4 * (2*(stripSize+1) + 4*max(s.HD, 64) + manyPieces*2*s.HD) // a panel has 64 columns
	require.Less(t, int(after.TotalAlloc-before.TotalAlloc), 2*perKey*s.T, "the scores of a head are %d bytes", 4*s.T*s.T)
}

func TestAttentionWithLargeScoresIsFiniteAndRight(t *testing.T) {
	r := newRand(2)
	for _, c := range []struct {
		std, tol float64
	}{{3, 2e-5}, {6, 2e-5}, {20, 5e-4}} { // scores of about 20, 100 and 1000: lse is float32
		s := heads{2, 67, 2, 1, 8}
		qkv, dout := random(r, s.B*s.T*s.stride(), 1), random(r, s.B*s.T*s.q(), 1)
		for i := range qkv {
			if i%s.stride() < s.q()+s.HD { // q and k
				qkv[i] *= float32(c.std)
			}
		}
		out, lse, dqkv := s.run(t, qkv, dout)
		want, wantL := attention64(widen(qkv), s)
		requireClose(t, want, out, c.tol, "out")
		requireClose(t, wantL, lse, 1e-6, "lse")
		for _, v := range dqkv {
			require.False(t, math.IsNaN(float64(v)) || math.IsInf(float64(v), 0))
		}
	}
	s := heads{1, 6, 1, 1, 4}
	qkv, dout := random(r, s.T*s.stride(), 1), random(r, s.T*s.q(), 1)
	for i := range qkv {
		if i%s.stride() < 2*s.HD {
			qkv[i] *= 12
		}
	}
	_, _, dqkv := s.run(t, qkv, dout)
	x, d := widen(qkv), widen(dout)
	requireClose(t, gradient(x, func() float64 { out, _ := attention64(x, s); return dot(out, d) }), dqkv, 2e-5, "dqkv")
}

// A bad number in q, k, v or dout at row t may reach what depends on it, and
// nothing else, whatever the strips of 96 queries and the blocks of 32.
func TestAttentionIsCausalAlsoForNaNAndInf(t *testing.T) {
	testCausal(t, heads{2, 134, 4, 2, 6}, nan, inf, -inf)
	testCausal(t, heads{2, 134, 4, 2, 32}, nan) // whole vectors
}

func testCausal(t *testing.T, s heads, bads ...float32) {
	r := newRand(3)
	qkv, dout := random(r, s.B*s.T*s.stride(), 1), random(r, s.B*s.T*s.q(), 1)
	out, lse, dqkv := s.run(t, qkv, dout)
	Q, KV, stride := s.q(), s.NKV*s.HD, s.stride()
	const badBatch, badKVHead = 1, 1
	for _, bad := range bads {
		rows := []int{0, 1, 30, 31, 32, 63, 64, 65, 94, 95, 96, 97, 127, 128, 133}
		if testing.Short() {
			rows = []int{0, 31, 32, 95, 96, 128, 133}
		}
		for _, at := range rows {
			for _, what := range []string{"q", "k", "v", "dout"} {
				x, d := slices.Clone(qkv), slices.Clone(dout)
				row := badBatch*s.T + at
				badHead := 2 // of the query heads; its key head is 1
				switch what {
				case "q":
					x[row*stride+badHead*s.HD+3] = bad
				case "k":
					x[row*stride+Q+badKVHead*s.HD+3] = bad
				case "v":
					x[row*stride+Q+KV+badKVHead*s.HD+3] = bad
				case "dout":
					d[row*Q+badHead*s.HD+3] = bad
				}
				gotOut, gotLSE, gotD := s.run(t, x, d)
				note := fmt.Sprintf("%v in %s at row %d", bad, what, at)
				finite := func(v float32) bool { return v-v == 0 }
				same := func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) }
				for i := range gotOut {
					b, tt, h := i/Q/s.T, i/Q%s.T, i%Q/s.HD
					var touched bool
					switch what {
					case "q":
						touched = tt == at && h == badHead
					case "k", "v":
						touched = tt >= at && h/2 == badKVHead
					}
					if b != badBatch || !touched {
						if !same(out[i], gotOut[i]) {
							t.Fatalf("out[%d,%d,%d] is another, %s", b, tt, h, note)
						}
					} else if bad != bad && (what != "v" || i%s.HD == 3) && finite(gotOut[i]) {
						t.Fatalf("out[%d,%d,%d] is finite, %s", b, tt, h, note)
					}
				}
				for i := range gotLSE {
					b, h, tt := i/s.T/s.NH, i/s.T%s.NH, i%s.T
					if (b != badBatch || what == "v" || what == "dout" || h/2 != badKVHead || tt < at) && !same(lse[i], gotLSE[i]) {
						t.Fatalf("lse[%d,%d,%d] is another, %s", b, h, tt, note)
					}
				}
				for i := range gotD {
					b, tt, c := i/stride/s.T, i/stride%s.T, i%stride
					isQ, h := c < Q, c/s.HD
					group := 0 // the key head
					if isQ {
						group = h / 2
					} else {
						group = (c - Q) % KV / s.HD
					}
					// A bad query or dout is felt at its own dq and at the keys up
					// to it; a bad key or value by the queries from it on, and
					// through them by every key.
					var may bool
					switch what {
					case "q", "dout":
						may = tt == at && isQ && h == badHead || !isQ && tt <= at && group == badKVHead
					default:
						may = group == badKVHead && (!isQ || tt >= at)
					}
					if b != badBatch || !may {
						if !same(dqkv[i], gotD[i]) {
							t.Fatalf("dqkv[%d,%d,%d] is another, %s", b, tt, c, note)
						}
					} else if bad != bad && what == "q" && finite(gotD[i]) {
						t.Fatalf("dqkv[%d,%d,%d] is finite, %s", b, tt, c, note)
					}
				}
			}
		}
	}
}

// A key's row is left alone by later keys also if those hold what no product
// may touch.
func TestAttentionOfTheFirstRowIsItsValue(t *testing.T) {
	s := heads{1, 70, 1, 1, 4}
	qkv := filled(s.T*s.stride(), nan)
	copy(qkv, []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	out, lse := output(t, s.T*s.q()), output(t, s.T)
	Attention(out, lse, qkv, 1, s.T, 1, 1, 4)
	require.Equal(t, []float32{9, 10, 11, 12}, out[:4])
	require.Equal(t, float32(35), lse[0])
	for _, v := range out[4:] {
		require.True(t, v != v)
	}
}

func TestAttentionCachedGivesTheRowsOfAttention(t *testing.T) {
	r := newRand(4)
	for _, s := range []heads{{1, 1, 1, 1, 2}, {1, 5, 2, 1, 4}, {1, 67, 4, 2, 6}, {1, 131, 3, 3, 10}, {1, 2*keyBlock + 3, 3, 1, 8}} {
		qkv := random(r, s.T*s.stride(), 1)
		Q, KV, stride := s.q(), s.NKV*s.HD, s.stride()
		want, lse := make([]float32, s.T*Q), make([]float32, s.NH*s.T)
		Attention(want, lse, qkv, 1, s.T, s.NH, s.NKV, s.HD)
		k, v := filled((s.T+3)*KV, nan), filled((s.T+3)*KV, nan) // NaN behind the last key
		CopyColumns(k, qkv[Q:], s.T, KV, KV, stride)
		CopyColumns(v, qkv[Q+KV:], s.T, KV, KV, stride)
		for _, chunk := range []int{1, 2, 3, 5, 33, 64, 66, 100, s.T} {
			got := output(t, s.T*Q)
			for pos := 0; pos < s.T; pos += chunk {
				n := min(chunk, s.T-pos)
				AttentionCached(got[pos*Q:][:n*Q], qkv[pos*stride:][:(n-1)*stride+Q], k, v, n, pos, s.NH, s.NKV, s.HD, stride)
			}
			tol := 1e-7
			if s.T > keyBlock { // other sums
				tol = 2e-7
			}
			if chunk == 1 || s.T%chunk == 1 { // decode has sums of its own: the bound of Attention itself
				tol = 5e-7
			}
			requireClose(t, widen(want), got, tol, fmt.Sprintf("%+v in chunks of %d", s, chunk))
		}
	}
}

func TestAttentionCachedIsCausalAlsoForNaN(t *testing.T) {
	const pos, n, NH, NKV, HD = 61, 13, 2, 1, 4
	r := newRand(5)
	q, k, v := random(r, n*NH*HD, 1), random(r, (pos+n)*HD, 1), random(r, (pos+n)*HD, 1)
	clean := output(t, n*NH*HD)
	AttentionCached(clean, q, k, v, n, pos, NH, NKV, HD, NH*HD)
	for bad := range pos + n {
		for _, s := range [][]float32{k, v} {
			saved := s[bad*HD+1]
			s[bad*HD+1] = nan
			out := output(t, n*NH*HD)
			AttentionCached(out, q, k, v, n, pos, NH, NKV, HD, NH*HD)
			for i := range out {
				row, col := i/(NH*HD), i%HD
				if pos+row < bad {
					require.Equal(t, math.Float32bits(clean[i]), math.Float32bits(out[i]))
				} else if &s[0] == &k[0] || col == 1 {
					require.True(t, out[i] != out[i], "row %d, NaN at key %d", pos+row, bad)
				}
			}
			s[bad*HD+1] = saved
		}
	}
	for bad := range n {
		q2 := slices.Clone(q)
		q2[bad*NH*HD] = nan
		out := output(t, n*NH*HD)
		AttentionCached(out, q2, k, v, n, pos, NH, NKV, HD, NH*HD)
		for i := range out {
			if i/(NH*HD) != bad || i%(NH*HD) >= HD {
				require.Equal(t, math.Float32bits(clean[i]), math.Float32bits(out[i]))
			}
		}
	}
}

// decode computes blocks of keys on their own.
func TestDecodeWithBadBlocks(t *testing.T) {
	const pos, NH, NKV, HD = 3*keyBlock + 5, 4, 2, 6
	r := newRand(8)
	q, k, v := random(r, NH*HD, 1), random(r, (pos+1)*NKV*HD, 1), random(r, (pos+1)*NKV*HD, 1)
	decode := func() []float32 {
		out := output(t, NH*HD)
		AttentionCached(out, q, k, v, 1, pos, NH, NKV, HD, NH*HD)
		return out
	}
	clean := decode()
	for bad := 0; bad <= pos; bad += 37 {
		for _, x := range [][]float32{k, v} {
			saved := x[(bad*NKV+1)*HD+2]
			x[(bad*NKV+1)*HD+2] = nan
			for i, got := range decode() {
				if i/HD < NH/NKV || &x[0] == &v[0] && i%HD != 2 {
					require.Equal(t, math.Float32bits(clean[i]), math.Float32bits(got))
				} else {
					require.True(t, got != got, "NaN at key %d", bad)
				}
			}
			x[(bad*NKV+1)*HD+2] = saved
		}
	}
	// Scores of -Inf have no weight, not even where a block has no others.
	for i := range q {
		q[i] = 1
	}
	for i := range k[:(3*keyBlock+2)*NKV*HD] {
		if at := i / (NKV * HD); at != 2*keyBlock+1 {
			k[i] = -math.MaxFloat32
		}
	}
	qkv := make([]float64, 0, 5*(NH+2*NKV)*HD) // what is left, for the last row of attention64
	for _, at := range []int{2*keyBlock + 1, 3*keyBlock + 2, 3*keyBlock + 3, 3*keyBlock + 4, 3*keyBlock + 5} {
		qkv = append(qkv, widen(q)...)
		qkv = append(qkv, widen(k[at*NKV*HD:][:NKV*HD])...)
		qkv = append(qkv, widen(v[at*NKV*HD:][:NKV*HD])...)
	}
	want, _ := attention64(qkv, heads{1, 5, NH, NKV, HD})
	requireClose(t, want[4*NH*HD:], decode(), 5e-7, "out")
}

// The strips of a part fetch every row of the next one once.
func TestShares(t *testing.T) {
	for end := 1; end < 9; end++ {
		for first := range end {
			for _, rows := range []int{0, 1, 5, 96, 1000} {
				next := 0
				for s := end - 1; s >= first; s-- {
					from, to := share(s, first, end, rows)
					if s < first+fetchStrips {
						require.Equal(t, next, from)
						next = to
					}
				}
				require.Equal(t, rows, next, "strips %d to %d", first, end)
			}
		}
	}
}

// BenchmarkAttention counts the operations under the mask: two products of
// T(T+1)/2 rows of HD in the forward, five in the backward; and what the
// processor could do, on as many cores.
func BenchmarkAttention(b *testing.B) {
	most := peak.FMA(1) // of a core
	for _, s := range []heads{
		{1, 64, 12, 12, 64}, {1, 256, 12, 12, 64}, {1, 1024, 12, 12, 64}, {1, 2048, 12, 12, 64}, {1, 256, 9, 3, 64}, {1, 1024, 9, 3, 64},
		{1, 64, 16, 8, 128}, {1, 256, 16, 8, 128}, {1, 1024, 16, 8, 128}, {1, 2048, 16, 8, 128},
	} {
		r := newRand(1)
		qkv, dout := random(r, s.B*s.T*s.stride(), 1), random(r, s.B*s.T*s.q(), 1)
		out, lse, dqkv := make([]float32, len(dout)), make([]float32, s.B*s.T*s.NH), make([]float32, len(qkv))
		run := func(name string, products int, f func()) {
			b.Run(fmt.Sprintf("%s/T=%d/NH=%d/NKV=%d/HD=%d", name, s.T, s.NH, s.NKV, s.HD), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				rate := float64(products*s.B*s.NH*s.HD*s.T*(s.T+1)) * float64(b.N) / b.Elapsed().Seconds()
				b.ReportMetric(rate/1e9, "GF/s")
				b.ReportMetric(100*rate/most/float64(runtime.GOMAXPROCS(0)), "%peak")
			})
		}
		run("Forward", 2, func() { Attention(out, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD) })
		run("Backward", 5, func() { AttentionBackward(dqkv, dout, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD) })
	}
}

// BenchmarkDecode reads a different layer's cache at every call, from memory.
func BenchmarkDecode(b *testing.B) {
	for _, s := range []heads{{1, 1024, 12, 12, 64}, {1, 8192, 9, 3, 64}, {1, 4096, 16, 8, 128}} {
		b.Run(fmt.Sprintf("T=%d/NH=%d/NKV=%d/HD=%d", s.T, s.NH, s.NKV, s.HD), func(b *testing.B) {
			n := s.T * s.NKV * s.HD
			layers := ceil(256<<20, 8*n)
			cache := random(newRand(1), 2*n, 1)
			for range layers - 1 {
				cache = append(cache, cache[:2*n]...)
			}
			q, out, layer := random(newRand(1), s.q(), 1), make([]float32, s.q()), 0
			b.SetBytes(int64(8 * n))
			for b.Loop() {
				kv := cache[layer*2*n:]
				layer = (layer + 1) % layers
				AttentionCached(out, q, kv, kv[n:], 1, s.T-1, s.NH, s.NKV, s.HD, s.q())
			}
		})
	}
}

// A worker that comes when the first call is over finds its memory made: each of
// the strips that the pool has then is enough for all of the work, which has as
// many parts as there are workers or more.
func TestALateWorkerAllocatesNothing(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	const workers, pos = 4, 70
	for _, s := range []struct{ B, T, NH, NKV, HD int }{{1, 150, 4, 2, 16}, {2, 230, 2, 1, 64}, {3, 5, 4, 4, 32}} {
		r := newRand(7)
		qkv := random(r, s.B*s.T*(s.NH+2*s.NKV)*s.HD, 1)
		dqkv, dout := make([]float32, len(qkv)), random(r, s.B*s.T*s.NH*s.HD, 1)
		out, lse := make([]float32, len(dout)), make([]float32, s.B*s.NH*s.T)
		k := random(r, (pos+s.T)*s.NKV*s.HD, 1)
		for name, f := range map[string]func(){
			"Attention":         func() { Attention(out, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD) },
			"AttentionBackward": func() { AttentionBackward(dqkv, dout, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD) },
			"AttentionCached": func() {
				AttentionCached(out, qkv, k, k, s.T, pos, s.NH, s.NKV, s.HD, (s.NH+2*s.NKV)*s.HD)
			},
		} {
			Attention(out, lse, qkv, s.B, s.T, s.NH, s.NKV, s.HD)
			least := uint64(math.MaxUint64) // the runtime's own allocations come and go
			for try := 0; try < 20 && least > 0; try++ {
				stripPool = par.Pool[strip]{}
				runtime.GOMAXPROCS(workers)
				f()
				runtime.GOMAXPROCS(1) // so that one has all of the work
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				var held [workers]*strip
				for turn := range held {
					f()
					held[turn] = stripPool.Get() // the one that f had
				}
				runtime.ReadMemStats(&after)
				least = min(least, after.Mallocs-before.Mallocs)
			}
			require.Zero(t, least, "%s of %v", name, s)
		}
	}
}
