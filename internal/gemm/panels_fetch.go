package gemm

import "unsafe"

// Fetch is rows of memory that Panels.Mul brings into the second-level cache,
// some for every tile, while it multiplies what is there. The zero value is
// empty. It keeps no memory alive, and what it was not given time for is never
// read.
type Fetch struct {
	// The rows that a kernel is at: the address of the first, in bytes how far
	// they are apart, how many there are, and of these for every tile.
	at                 uintptr
	stride, rows, each int

	list    [16]span
	n, left int // of list; rows of it
}

type span struct {
	at           uintptr
	stride, rows int
}

// fetchCols is how many columns of a row a kernel fetches at a time.
const fetchCols = 64

// Reset forgets what was not fetched.
func (f *Fetch) Reset() { f.rows, f.n, f.left = 0, 0, 0 }

// Add appends rows of x, the first at x[from], that start stride apart. What
// there is no place for is left out.
func (f *Fetch) Add(x []float32, from, rows, cols, stride int) {
	if rows <= 0 {
		return
	}
	at := uintptr(unsafe.Pointer(&x[from]))
	for c := 0; c < cols && f.n < len(f.list); c += fetchCols {
		f.list[f.n] = span{at + 4*uintptr(c), 4 * stride, rows}
		f.n++
		f.left += rows
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
func (f *Fetch) Pace(tiles int) { f.each = max(1, ceil(f.left+f.rows, max(1, tiles))) }

// begin gives the kernel the next rows.
func (f *Fetch) begin() {
	if f.n == 0 {
		return
	}
	s := f.list[0]
	f.n--
	copy(f.list[:f.n], f.list[1:])
	f.at, f.stride, f.rows = s.at, s.stride, s.rows
	f.left -= s.rows
}
