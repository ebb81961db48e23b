package tokenizer

import (
	"math/bits"
	"slices"
)

// pairTable maps a pair of symbols to what they merge to, and how soon: an
// open hash table.
type pairTable struct {
	slots []pairSlot
	shift uint
}

type pairSlot struct {
	left, right int32
	rank        uint32 // the lowest merges first
	id          int32
}

// noRank is the rank of a pair that does not merge; no pair has it.
const noRank = ^uint32(0)

func newPairTable(pairs int) *pairTable {
	n := max(4, bits.Len(uint(pairs)*3/2))
	t := &pairTable{slots: make([]pairSlot, 1<<n), shift: uint(64 - n)}
	for i := range t.slots {
		t.slots[i].rank = noRank
	}
	return t
}

// slot returns where the pair is, or would be.
func (t *pairTable) slot(left, right int32) *pairSlot {
	key := uint64(uint32(left))<<32 | uint64(uint32(right))
	i := key * 0x9E3779B97F4A7C15 >> t.shift
	for {
		s := &t.slots[i]
		if s.rank == noRank || s.left == left && s.right == right {
			return s
		}
		i = (i + 1) & uint64(len(t.slots)-1)
	}
}

// set makes the pair merge to id; a later rule for a pair replaces an earlier.
func (t *pairTable) set(left, right int32, rank uint32, id int32) {
	*t.slot(left, right) = pairSlot{left, right, rank, id}
}

func (t *pairTable) get(left, right int32) (rank uint32, id int32) {
	s := t.slot(left, right)
	return s.rank, s.id
}

// A merger merges the symbols of a word, the pair of the lowest rank first and
// of those the leftmost, until no pair merges. It is the scratch memory of one
// goroutine.
type merger struct {
	ranks      []uint32 // of the pair that begins at a symbol
	prev, next []int32

	// Pairs to merge, as rank<<32 | position: those that were there at first
	// in runs[0], and those that merging made. These mostly come in order,
	// of a few ranks in turn; what fits no run goes to the heap.
	runs [8]run
	heap []uint64

	// made, if not nil, is called with each pair that may merge, as it comes up.
	made func(left, right, id int32)
}

// scanLimit is the length up to which searching all pairs for the lowest rank
// is faster than keeping them in a heap.
const scanLimit = 40

// merge merges syms in place and returns what is left of them.
func (m *merger) merge(t *pairTable, syms []int32) []int32 {
	switch {
	case len(syms) < 2:
		return syms
	case len(syms) <= scanLimit && m.made == nil:
		return m.mergeScan(t, syms)
	}
	return m.mergeHeap(t, syms)
}

func (m *merger) mergeScan(t *pairTable, syms []int32) []int32 {
	ranks, ids := slices.Grow(m.ranks[:0], len(syms))[:len(syms)-1], slices.Grow(m.next[:0], len(syms))[:len(syms)-1]
	m.ranks, m.next = ranks, ids
	for i := range ranks {
		ranks[i], ids[i] = t.get(syms[i], syms[i+1])
	}
	for len(ranks) > 0 {
		at, low := 0, ranks[0]
		for i, r := range ranks {
			if r < low {
				at, low = i, r
			}
		}
		if low == noRank {
			break
		}
		syms[at] = ids[at]
		copy(syms[at+1:], syms[at+2:])
		copy(ranks[at:], ranks[at+1:])
		copy(ids[at:], ids[at+1:])
		n := len(syms) - 1
		syms, ranks, ids = syms[:n], ranks[:n-1], ids[:n-1]
		if at > 0 {
			ranks[at-1], ids[at-1] = t.get(syms[at-1], syms[at])
		}
		if at < len(ranks) {
			ranks[at], ids[at] = t.get(syms[at], syms[at+1])
		}
	}
	return syms
}

func (m *merger) mergeHeap(t *pairTable, syms []int32) []int32 {
	n := len(syms)
	m.ranks = slices.Grow(m.ranks[:0], n)[:n]
	m.prev = slices.Grow(m.prev[:0], n)[:n]
	m.next = slices.Grow(m.next[:0], n)[:n]
	m.heap = m.heap[:0]
	for i := range m.runs {
		m.runs[i] = run{list: m.runs[i].list[:0]}
	}
	first := &m.runs[0]
	ranks, prev, next := m.ranks, m.prev, m.next
	for i := range syms {
		prev[i], next[i], ranks[i] = int32(i-1), int32(i+1), noRank
		if i+1 < n {
			ranks[i] = m.get(t, syms[i], syms[i+1])
		}
		if ranks[i] != noRank {
			first.list = append(first.list, uint64(ranks[i])<<32|uint64(i))
		}
	}
	slices.Sort(first.list)
	update := func(i int32) {
		ranks[i] = noRank
		if j := next[i]; int(j) < n {
			if ranks[i] = m.get(t, syms[i], syms[j]); ranks[i] != noRank {
				m.put(uint64(ranks[i])<<32 | uint64(i))
			}
		}
	}
	for {
		top, ok := m.take()
		if !ok {
			break
		}
		i := int32(uint32(top))
		if ranks[i] != uint32(top>>32) {
			continue // the pair is no longer there
		}
		j := next[i]
		_, syms[i] = t.get(syms[i], syms[j])
		ranks[j] = noRank
		next[i] = next[j]
		if int(next[i]) < n {
			prev[next[i]] = i
		}
		if prev[i] >= 0 {
			update(prev[i])
		}
		update(i)
	}
	out := syms[:0]
	for i := int32(0); int(i) < n; i = next[i] {
		out = append(out, syms[i])
	}
	return out
}

// get looks a pair up and tells made.
func (m *merger) get(t *pairTable, left, right int32) uint32 {
	rank, id := t.get(left, right)
	if rank != noRank && m.made != nil {
		m.made(left, right, id)
	}
	return rank
}

// A run is a list in order, of which those before next are taken.
type run struct {
	list []uint64
	next int
}

// put adds x to the run that it is nearest to the end of.
func (m *merger) put(x uint64) {
	var to *run
	last := uint64(0)
	for i := range m.runs {
		r := &m.runs[i]
		if r.next == len(r.list) {
			if to == nil {
				r.list, r.next = r.list[:0], 0
				to = r
			}
		} else if end := r.list[len(r.list)-1]; end <= x && end >= last {
			to, last = r, end
		}
	}
	if to == nil {
		m.push(x)
		return
	}
	to.list = append(to.list, x)
}

// take removes the least.
func (m *merger) take() (x uint64, ok bool) {
	var from *run
	x = ^uint64(0)
	for i := range m.runs {
		r := &m.runs[i]
		if r.next < len(r.list) && r.list[r.next] < x {
			from, x = r, r.list[r.next]
		}
	}
	if len(m.heap) > 0 && m.heap[0] < x {
		return m.pop(), true
	}
	if from == nil {
		return 0, false
	}
	from.next++
	return x, true
}

// push and pop keep a heap of four children a node, the least at the top.
func (m *merger) push(x uint64) {
	h := append(m.heap, x)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if h[up] <= x {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = x
	m.heap = h
}

func (m *merger) pop() uint64 {
	h := m.heap
	top, x := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	for i := 0; len(h) > 0; {
		low := 4*i + 1
		if low >= len(h) {
			h[i] = x
			break
		}
		for c := low + 1; c < min(4*i+5, len(h)); c++ {
			if h[c] < h[low] {
				low = c
			}
		}
		if x <= h[low] {
			h[i] = x
			break
		}
		h[i] = h[low]
		i = low
	}
	m.heap = h
	return top
}
