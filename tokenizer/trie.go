package tokenizer

// trie is a set of byte strings with a value each. Its edges are in one hash
// table, from a node and a byte to a node.
type trie struct {
	keys, nodes []uint32 // a node<<8 | the byte; the node that it leads to, 0: free
	value       []int32  // of a node; -1: no string ends there
	bits        uint
}

// maxTrieNodes is what a key has room for.
const maxTrieNodes = 1 << 24

// newTrie makes an empty trie that the given number of bytes fits.
func newTrie(size int) *trie {
	t := &trie{bits: 4, value: []int32{-1}}
	for 1<<t.bits < 2*size {
		t.bits++
	}
	t.keys, t.nodes = make([]uint32, 1<<t.bits), make([]uint32, 1<<t.bits)
	return t
}

// slot returns where the edge is, or would be.
func (t *trie) slot(key uint32) int {
	mask := uint32(len(t.keys) - 1)
	i := key * 0x9E3779B1 >> (32 - t.bits)
	for t.nodes[i] != 0 && t.keys[i] != key {
		i = (i + 1) & mask
	}
	return int(i)
}

// step returns the node that b leads to, 0 if there is none.
func (t *trie) step(node uint32, b byte) uint32 {
	return t.nodes[t.slot(node<<8|uint32(b))]
}

func (t *trie) add(s string, value int32) {
	node := uint32(0)
	for i := range len(s) {
		key := node<<8 | uint32(s[i])
		slot := t.slot(key)
		if t.nodes[slot] == 0 {
			t.keys[slot], t.nodes[slot] = key, uint32(len(t.value))
			t.value = append(t.value, -1)
		}
		node = t.nodes[slot]
	}
	t.value[node] = value
}

// longest returns the value and the length of the longest string of the trie
// that s begins with; -1 and 0 if there is none.
func (t *trie) longest(s string) (value int32, length int) {
	value = -1
	node := uint32(0)
	for i := range len(s) {
		if node = t.step(node, s[i]); node == 0 {
			break
		}
		if v := t.value[node]; v >= 0 {
			value, length = v, i+1
		}
	}
	return value, length
}

// trieOf makes the trie of strings, with their indices as values or, where ids
// is not nil, those.
func trieOf(strings []string, ids []int32) (*trie, error) {
	size := 0
	for _, s := range strings {
		size += len(s)
	}
	if size >= maxTrieNodes {
		return nil, fail(ErrTooLarge, "%d bytes of tokens that are matched by prefix, at most %d can be", size, maxTrieNodes-1)
	}
	t := newTrie(size)
	for i, s := range strings {
		v := int32(i)
		if ids != nil {
			v = ids[i]
		}
		t.add(s, v)
	}
	return t, nil
}
