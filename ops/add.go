package ops

import (
	"github.com/chainrule-go/chainrule/internal/par"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// Add computes out = a + b over n elements: a residual connection. Its
// backward is the identity on both sides. out may be a or b.
func Add(out, a, b []float32, n int) {
	need(len(out) >= n && len(a) >= n && len(b) >= n, "chainrule: ops.Add: a slice is too short")
	addLoop.For(n, grain(1), addArgs{out, a, b})
}

type addArgs struct{ out, a, b []float32 }

var addLoop = par.New(func(p *addArgs, lo, hi int) {
	simd.Add(p.out[lo:hi], p.a[lo:hi], p.b[lo:hi])
})

// AddBias adds the bias b [N] to each of the n rows of y [n,N].
func AddBias(y, b []float32, n, N int) {
	need(len(y) >= n*N && len(b) >= N, "chainrule: ops.AddBias: a slice is too short")
	addBiasLoop.For(n, grain(N), addBiasArgs{y, b[:N]})
}

type addBiasArgs struct{ y, b []float32 }

var addBiasLoop = par.New(func(p *addBiasArgs, lo, hi int) {
	N := len(p.b)
	for i := lo; i < hi; i++ {
		y := p.y[i*N:][:N]
		simd.Add(y, y, p.b)
	}
})

// AddBiasBackward adds Σ_rows dy to db [N]; dy [n,N]. Backward of y = x + b.
func AddBiasBackward(db, dy []float32, n, N int) {
	if db == nil {
		return
	}
	need(len(db) >= N && len(dy) >= n*N, "chainrule: ops.AddBiasBackward: a slice is too short")
	addBiasBackwardLoop.For(chunks(N), 1, addBiasBackwardArgs{db[:N], dy, n})
}

type addBiasBackwardArgs struct {
	db, dy []float32
	n      int
}

var addBiasBackwardLoop = par.New(func(p *addBiasBackwardArgs, lo, hi int) {
	N := len(p.db)
	for c := lo * columns; c < min(N, hi*columns); c += columns {
		db := p.db[c:min(N, c+columns)]
		var sum [columns]float64
		for i := range p.n {
			simd.AddWide(sum[:], p.dy[i*N+c:][:len(db)])
		}
		for j := range db {
			db[j] += float32(sum[j])
		}
	}
})

// CopyColumns copies N columns of the n rows of src to dst. Row i of dst starts
// at dst[i·ds], of src at src[i·ss].
func CopyColumns(dst, src []float32, n, N, ds, ss int) {
	need(n <= 0 || len(dst) >= (n-1)*ds+N && len(src) >= (n-1)*ss+N, "chainrule: ops.CopyColumns: a slice is too short")
	copyLoop.For(n, grain(N), copyArgs{dst, src, N, ds, ss})
}

type copyArgs struct {
	dst, src  []float32
	N, ds, ss int
}

var copyLoop = par.New(func(a *copyArgs, lo, hi int) {
	for i := lo; i < hi; i++ {
		copy(a.dst[i*a.ds:][:a.N], a.src[i*a.ss:][:a.N])
	}
})
