package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

// kernel is the assembly of an instruction set. The Go loops that its
// functions stand for are in the comments of kernel_amd64.go.
type kernel struct {
	tile        // of products
	small small // of Panels: their matrices have few columns

	// packedA is up to how many rows of A, times the power of two that divides
	// their length, products read A where it lies.
	packedA int
	gap     int // between packed panels of Aᵀ for strips, at most a line
	// spread: rows of W take turns in what is fetched, and a panel of A is fetched to
	// its end.
	spread bool

	// copy copies columns of k rows into panels.
	copy func(dst, src *float32, lds, k, cols, ldd, panels, step int)
	// transpose packs lanes rows as columns of a panel of B, ldd wide; k is a
	// multiple of 4.
	transpose func(dst, src *float32, lds, k, ldd int)
	lanes     int

	// dot multiplies up to dotRows rows of x with groups of four rows of W.
	dot     func(y, x, w *float32, ldy, k, rows, groups int)
	dotRows int
	dotMost int // rows up to which that is faster than to pack W

	// rank adds few products to each element, in float64, rankLanes columns at a time;
	// nil: Go does.
	rank func(c, b *float32, a *float64, ldc, ldb, k, rows, vecs int, add bool)

	// strip multiplies a few rows of A with B where it lies, as is faster for dx
	// of up to stripRows rows and dW of up to stripK; nil: gemm does.
	strip                          direct
	stripRows, stripK, stripCached int // the last, where dW is in cache
	stripPaged                     int // stripRows where rows of W are a multiple of a page
	stripDepth                     int // rows of W at a time, at most: they are sums of their own
	stripParts                     int // of W, for cores to take; more cores take columns

	// twice does what strip does in two calls that add to dW, to the bit, with as many rows
	// as it has and whole groups of columns; nil: strip does. Which rows that are
	// depends on the grid.
	twice func(c, a, b *float32, ldc, ldb, k, groups int)

	// apart: dW copies rows of x a multiple of half a page apart, because in a
	// first-level cache of eight ways few of them find room.
	apart bool

	thin                []thinTile // by their columns
	thinLeast, thinMost int        // rows of x that are faster with them
}

// tile is the part of C that is in registers, and its kernel.
type tile struct {
	rows, cols int
	// gemm multiplies panels of A with a panel of B, [k, cols], which it packs
	// first if src is not nil; those of A it packs to to, if that is not nil.
	gemm func(c, a, b *float32, ldc, lda, ka, stepA, k, chunk, rows, panels, cols int, add bool,
		src *float32, lds int, to *float32, next *uintptr)
}

// small is the part of C that is in registers where B is in cache.
type small struct {
	rows, cols int
	mul        direct
}

// direct multiplies rows of A with columns of B where they lie, rows of B ldb
// apart, and may fetch a part of next.
type direct func(c, a, b *float32, ldc, lda, ka, ldb, k, rows, cols int, add bool, next *uintptr)

// pairs is how many pairs of cache lines a row of the tile takes.
func (t *tile) pairs() int { return ceil(t.cols, 2*line) }

// stepA is the distance of packed panels of Aᵀ, [k, rows], for strips. A step of k is written
// to all of them, so they should begin on different sets of the first-level cache.
func (q *kernel) stepA(k int) int { return q.rows*k + q.gap }

// edge is memory for rows to transpose where fewer are left than lanes.
type edge [edgeCols * maxLanes]float32

const edgeCols = 256

// columns packs so many rows of src, at most lanes, lds apart and k long, as
// columns of dst: dst[l·ldd+j] = src[j·lds+l]. It writes whole vectors in the
// order of l: where they are longer than ldd, each covers what the one before it
// wrote too far, and dst has room for the last.
func (q *kernel) columns(e *edge, dst []float32, ldd int, src []float32, lds, rows, k int) {
	k4 := k &^ 3
	if k4 > 0 && rows == q.lanes {
		q.transpose(&dst[0], &src[0], lds, k4, ldd)
	} else {
		for l := 0; l < k4; l += edgeCols { // the rows that are missing are not there to be read
			n := min(edgeCols, k4-l)
			for j := range rows {
				copy(e[j*edgeCols:][:n], src[j*lds+l:])
			}
			q.transpose(&dst[l*ldd], &e[0], edgeCols, n, ldd)
		}
	}
	for l := k4; l < k; l++ {
		for j := range rows {
			dst[l*ldd+j] = src[j*lds+l]
		}
	}
}

// best is the kernel that products are made for, or nil.
var best = kernels[isa.Best]
