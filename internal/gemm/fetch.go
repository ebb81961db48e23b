package gemm

import "unsafe"

// stream is memory that will be read soon, as pairs of cache lines: a kernel
// brings them into the second-level cache, a step further for every two
// products that it sums, and notes how far it came. To fetch is no access: a
// pair may lie past the end.
type stream struct {
	base  uintptr
	table *int // the distances of the pairs from base, in bytes
	at    int  // in table
	part  uint // of a pair, in 2⁻⁶⁴
	step  uint
	rows  *int // the distances of the rows of C, in bytes, or nil

	sums *float32 // where a kernel keeps those of a chunk
}

// nothing is a stream that stands still: all that is read is in cache.
var nothing = func() *stream {
	table := new(int)
	return &stream{base: uintptr(unsafe.Pointer(table)), table: table}
}()

// lines is a block of an operand in pairs of cache lines.
type lines struct {
	stream
	n     int               // pairs
	table [maxFetch + 1]int // and the last one again: a stream ends behind its last pair
}

// lay makes the table of so many lanes by so many k of o: row by row, or, if they
// take turns, pair by pair.
func (l *lines) lay(o operand, lanes, k int, turns bool) {
	rows, cols, ld := lanes, k, o.lane
	if o.step != 1 {
		rows, cols, ld = k, lanes, o.step
	}
	part := cols // of a row, in one turn
	if turns {
		part = 2 * line
	}
	l.n = 0
	for j0 := 0; j0 < cols; j0 += part {
		for i := range rows {
			for j := j0; j < min(j0+part, cols); j += 2 * line {
				l.table[l.n] = 4 * (i*ld + j)
				l.n++
			}
		}
	}
	l.table[l.n] = l.table[l.n-1]
	l.stream.table = &l.table[0]
}

// begin has the block fetched that begins at lane and k, while a kernel makes
// so many steps.
func (l *lines) begin(o operand, lane, k, steps int) {
	l.at, l.part, l.step = 0, 0, 0
	if i := lane*o.lane + k*o.step; i < len(o.data) {
		l.base = uintptr(unsafe.Pointer(&o.data[i]))
		l.step = ^uint(0) / uint(max(steps, l.n+1)) * uint(l.n)
	}
}

// ahead is what a tile has fetched: the next panel of B, and, while it takes a
// block of A panel by panel, its next panel.
type ahead struct {
	b, panel lines
	rows     [maxPairs + 1]int // the distances of the rows of C, in bytes, a pair of lines after the other
	sums     [maxTile]float32
	of       layout
}

// layout is what the tables depend on.
type layout struct {
	aLane, aStep, bLane, bStep, rows, cols, kb, ldc int
}

// plan makes the tables for p.
func (f *ahead) plan(p *Product) {
	q := p.kern
	of := layout{p.a.lane, p.a.step, p.b.lane, p.b.step, q.rows, q.cols, p.kb, p.ldc}
	if f.of == of {
		return
	}
	f.of = of
	f.b.lay(p.b, q.cols, p.kb, q.spread)
	f.panel.lay(p.a, q.rows, p.kb, false)
	pairs := q.pairs()
	for i := range f.rows {
		f.rows[i] = 4 * (i/pairs*p.ldc + i%pairs*2*line)
	}
	for _, s := range []*stream{&f.b.stream, &f.panel.stream} {
		s.rows, s.sums = &f.rows[0], &f.sums[0]
	}
}

// nextB begins to fetch columns c of the block k0 of B.
func (f *ahead) nextB(p *Product, c, k0, steps int) *stream {
	f.b.begin(p.b, c, k0, steps)
	return &f.b.stream
}

// nextPanel begins to fetch the panel of A from row r on of the block k0, while
// a kernel makes so many steps.
func (f *ahead) nextPanel(p *Product, r, k0, steps int) *stream {
	f.panel.begin(p.a, r, k0, steps)
	return &f.panel.stream
}
