package gemm

import "sync"

// memory is what the tiles of one goroutine pack into, made when it is needed.
type memory struct {
	b *block
	p *portableBlock
	t *thinBlock

	rank [4 * minK]float64 // rows of A
	rows []float32         // of B, for apart
	next walk
}

func (m *memory) block() *block {
	if m.b == nil {
		m.b = new(block)
	}
	return m.b
}

func (m *memory) portable() *portableBlock {
	if m.p == nil {
		m.p = new(portableBlock)
	}
	return m.p
}

func (m *memory) thin() *thinBlock {
	if m.t == nil {
		m.t = new(thinBlock)
	}
	return m.t
}

// shared reports whether the rows of x, of which dW is made, fall on the same
// set of the first-level cache, or on two, and are copied.
func (p *Product) shared() bool { return p.add && p.kern.apart && p.b.step%(page/2) == 0 }

// apart returns the columns c0 to c1 of B and the distance of its rows; copied,
// if that is better.
func (p *Product) apart(m *memory, c0, c1 int) (b []float32, ldb int) {
	b, ldb = p.b.data[c0:], p.b.step
	if !p.shared() {
		return b, ldb
	}
	m.reserve(p)
	for l := range p.k {
		copy(m.rows[l*(p.tn+line):], b[l*ldb:][:c1-c0])
	}
	return m.rows, p.tn + line
}

func (m *memory) reserve(p *Product) {
	if n := p.k * (p.tn + line); p.shared() && len(m.rows) < n {
		m.rows = make([]float32, n)
	}
}

// Scratch is a free list of the memory that goroutines need while they compute
// tiles: up to 3 MB for each that does at the same time, if rows of A and B have
// up to 16384 elements. The zero Scratch is ready. (A sync.Pool would allocate
// again now and then.)
type Scratch struct {
	mu   sync.Mutex
	free []*memory
	made int
	sums [][]float32 // of parts of dx
}

// partsOf returns memory for the sums of the parts of p.
func (s *Scratch) partsOf(p *Product) []float32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.sums == nil {
		s.reserveSums(p)
		last := len(s.sums) - 1
		p.sums = s.sums[last][:(p.parts-1)*p.m*p.n]
		s.sums = s.sums[:last]
	}
	return p.sums
}

// reserveSums has the last of the free sums be enough for p.
func (s *Scratch) reserveSums(p *Product) {
	if len(s.sums) == 0 {
		s.sums = append(s.sums, nil)
	}
	if last := &s.sums[len(s.sums)-1]; cap(*last) < (p.parts-1)*p.m*p.n {
		*last = make([]float32, (p.parts-1)*p.m*p.n)
	}
}

// partsDone takes the memory back.
func (s *Scratch) partsDone(p *Product) {
	s.mu.Lock()
	s.sums = append(s.sums, p.sums)
	s.mu.Unlock()
	p.sums, p.done = nil, 0
}

// Reserve makes memory for n goroutines that run p, so that Run allocates
// nothing until more do.
func (s *Scratch) Reserve(n int, p *Product) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.made < n {
		s.free = append(s.free, new(memory))
		s.made++
	}
	if p.parts > 1 {
		s.reserveSums(p)
	}
	for _, m := range s.free {
		switch p.how {
		case blocked:
			m.block().reserve(p)
		case strip:
			if p.packed { // dW
				m.block().reserve(p)
				m.reserve(p)
			}
		case rank:
			m.reserve(p)
		case portable:
			m.portable()
		case thin:
			m.thin().reserve(p)
		}
	}
}

// Free forgets the memory that no goroutine uses.
func (s *Scratch) Free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made -= len(s.free)
	s.free = nil
	s.sums = nil
}

func (s *Scratch) get() *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		m := s.free[n-1]
		s.free[n-1] = nil
		s.free = s.free[:n-1]
		return m
	}
	s.made++
	return new(memory)
}

func (s *Scratch) put(m *memory) {
	s.mu.Lock()
	s.free = append(s.free, m)
	s.mu.Unlock()
}
