package ane

import "github.com/chainrule-go/chainrule/ane/internal/device"

// Product is one of the two products that run on the device. The third, dW,
// is computed by the CPU meanwhile.
type Product int

// The products of a layer with weights W [Out, In].
const (
	Forward  Product = iota // y = x Wᵀ
	Backward                // dx = dy W
)

// String returns the equation.
func (p Product) String() string {
	if p == Forward {
		return "y = x Wᵀ"
	}
	return "dx = dy W"
}

// plan cuts a product into evaluations of one program, c [m,n] = a [m,k] b:
// chunks of m rows, and tiles of the rows of W, which are columns of y, or
// terms of the sums of dx. Missing rows and columns are zeros.
type plan struct {
	m, k, n int
	tile    int // rows of W in a tile; the last one may have less
	tiles   int
}

const (
	granule   = 32   // axes are multiples of it
	mostRows  = 4096 // of a chunk
	mostTiles = 64
)

// newPlan returns the plan with the fewest tiles, or false if an axis is too
// long in any.
//
// Rows are rounded up to a few sizes, 2ⁱ and 3·2ⁱ, because every other m is
// another program. They go on until both surfaces have the size that the
// device demands.
func newPlan(p Product, rows, out, in int, limits device.Limits) (plan, bool) {
	chunks := (rows + mostRows - 1) / mostRows
	for tiles := 1; tiles <= mostTiles; tiles++ {
		pl := plan{m: roundRows((rows + chunks - 1) / chunks), tile: roundUp((out + tiles - 1) / tiles)}
		pl.tiles = (out + pl.tile - 1) / pl.tile
		pl.k, pl.n = roundUp(in), pl.tile
		if p == Backward {
			pl.k, pl.n = pl.n, pl.k
		}
		for pl.outBytes() < limits.MinSurface || pl.inBytes() < limits.MinSurface {
			pl.m = roundRows(pl.m + 1)
		}
		if pl.m+pl.n <= limits.MaxAxis && pl.k <= limits.MaxAxis {
			return pl, true
		}
	}
	return plan{}, false
}

func (p plan) inBytes() int  { return 2 * (p.m + p.n) * p.k }
func (p plan) outBytes() int { return 2 * p.m * p.n }

func roundUp(n int) int { return (n + granule - 1) / granule * granule }

// roundRows returns the first of 32, 64, 96, 128, 192, 256, … that is not
// below n.
func roundRows(n int) int {
	m := granule
	for m < n {
		if half := m + m/2; half%granule == 0 && half >= n {
			return half
		}
		m *= 2
	}
	return m
}
