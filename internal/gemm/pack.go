package gemm

import "sync"

// panelSize returns the length of a panel of k steps: padded to a multiple of
// unroll steps.
func panelSize(k int) int { return ceil(k, unroll) * unroll * lanes }

// packed is a block of an operand, panel after panel; a panel is [k, lanes].
type packed [tileMax * kBlock]float64

// pack copies lanes l0 to l1 of k0 to k1 into dst. Lanes and steps that the
// operand lacks become 0: a product of padding steps is 0·0 and changes no sum
// (no sum is ever -0, as all begin with +0), and what padding lanes sum, NaN if
// the other factor is Inf, is never stored.
func (o operand) pack(dst *packed, l0, l1, k0, k1 int) {
	size := panelSize(k1 - k0)
	for l := l0; l < l1; l += lanes {
		panel := dst[(l-l0)/lanes*size:][:size]
		clear(panel[(k1-k0)*lanes:])
		switch have := l1 - l; {
		case have < lanes:
			for k := range k1 - k0 {
				to := panel[k*lanes:][:lanes]
				clear(to)
				for i := range have {
					to[i] = float64(o.data[(l+i)*o.lane+(k0+k)*o.step])
				}
			}
		case o.step == 1:
			r0 := o.data[l*o.lane+k0:][:k1-k0]
			r1 := o.data[(l+1)*o.lane+k0:][:len(r0)]
			r2 := o.data[(l+2)*o.lane+k0:][:len(r0)]
			to := panel
			for k, v := range r0 {
				if len(to) < lanes {
					break
				}
				to[0], to[1], to[2] = float64(v), float64(r1[k]), float64(r2[k])
				to = to[lanes:]
			}
		default:
			at := l + k0*o.step
			for to := panel[:(k1-k0)*lanes]; len(to) >= lanes; to = to[lanes:] {
				from := (*[lanes]float32)(o.data[at:])
				to[0], to[1], to[2] = float64(from[0]), float64(from[1]), float64(from[2])
				at += o.step
			}
		}
	}
}

// block is the scratch memory of one tile.
type block struct {
	a, b packed
	acc  [tileMax / lanes * tileMax / lanes]corner
}

// Scratch is a free list of the memory that tiles need: 737 KB for each that is
// computed at the same time. The zero Scratch is ready. (A sync.Pool would
// allocate again now and then.)
type Scratch struct {
	mu   sync.Mutex
	free []*block
	made int
}

// Reserve makes memory for n tiles at the same time, so that Run allocates
// nothing until more run.
func (s *Scratch) Reserve(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.made < n {
		s.free = append(s.free, new(block))
		s.made++
	}
}

// Free forgets the memory that no tile uses.
func (s *Scratch) Free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made -= len(s.free)
	s.free = nil
}

func (s *Scratch) get() *block {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		b := s.free[n-1]
		s.free[n-1] = nil
		s.free = s.free[:n-1]
		return b
	}
	s.made++
	return new(block)
}

func (s *Scratch) put(b *block) {
	s.mu.Lock()
	s.free = append(s.free, b)
	s.mu.Unlock()
}
