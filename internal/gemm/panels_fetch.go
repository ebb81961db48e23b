package gemm

import "unsafe"

// Fetch is memory that Panels.Mul brings into the second-level cache, some lines
// for every tile, while it multiplies what is there. The zero value is empty. It
// keeps no memory alive, and what it was not given time for is never read.
type Fetch struct {
	span          // that a kernel is at
	each      int // lines for a tile
	next, end int // of list
	list      [128]span
}

// span is cache lines: the address of the first, how many bytes they are apart,
// and how many are left.
type span struct {
	at           uintptr
	stride, left int
}

// Reset forgets what was not fetched.
func (f *Fetch) Reset() { f.left, f.next, f.end = 0, 0, 0 }

// Add appends rows of x, the first at x[from], that start stride apart. What
// there is no place for is left out.
func (f *Fetch) Add(x []float32, from, rows, cols, stride int) {
	if rows <= 0 {
		return
	}
	f.next, f.end = 0, copy(f.list[:], f.list[f.next:f.end])
	at := uintptr(unsafe.Pointer(&x[from]))
	for c := 0; c < cols && f.end < len(f.list); c += line {
		f.list[f.end] = span{at + 4*uintptr(c), 4 * stride, rows}
		f.end++
	}
}

// PanelTiles returns how many tiles Panels.Mul takes for [m, n] of k products
// each: how often it fetches.
func PanelTiles(m, k, n int) int {
	if best == nil {
		return 0
	}
	return ceil(m, best.small.rows) * ceil(k, chain) * ceil(n, best.small.cols)
}

// Pace lets products of so many PanelTiles fetch all that there is.
func (f *Fetch) Pace(tiles int) {
	lines := f.left
	for _, s := range f.list[f.next:f.end] {
		lines += s.left
	}
	f.each = ceil(lines, max(1, tiles))
}
