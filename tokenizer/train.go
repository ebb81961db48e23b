package tokenizer

import (
	"cmp"
	"container/heap"
	"iter"
	"maps"
	"slices"
)

// TrainOptions says what Train makes.
type TrainOptions struct {
	// VocabSize is the number of tokens: the special ones, 256 bytes, and as
	// many merges as there is room and reason for.
	VocabSize int
	// MinFrequency is how often a pair must occur to be merged; 0 means 1.
	MinFrequency int
	// Special tokens have the ids from 0. In the corpus they are text.
	Special []string
	// Pre is how text is cut into words, one of PreNames; "" means gpt-2.
	Pre string
}

// Train makes a byte-level BPE of the most frequent pairs in a corpus of
// texts. The same corpus gives the same tokenizer: of pairs that occur equally
// often the one of the lower ids is merged first, as Python's tokenizers
// does, and the order of the texts does not matter. WriteJSON saves it.
func Train(corpus iter.Seq[string], o TrainOptions) (*BPE, error) {
	b, err := train(corpus, o)
	return b, in("options", err)
}

func train(corpus iter.Seq[string], o TrainOptions) (*BPE, error) {
	base := len(o.Special) + 256
	if o.VocabSize < base || o.VocabSize >= maxID {
		return nil, fail(ErrVocab, "a vocabulary of %d, want from %d, of which 256 are bytes, to %d", o.VocabSize, base, maxID-1)
	}
	o.Pre = cmp.Or(o.Pre, "gpt-2")
	bytes := slices.Clone(byteRunes[:])
	slices.Sort(bytes)
	options := BPEOptions{Tokens: slices.Clone(o.Special), Pre: o.Pre}
	var idOf [256]int32
	for _, r := range bytes {
		idOf[runeBytes[r]] = int32(len(options.Tokens))
		options.Tokens = append(options.Tokens, string(r))
	}
	for i := range options.Tokens {
		typ := Normal
		if i < len(o.Special) {
			typ = Control
		}
		options.Types = append(options.Types, typ)
	}
	// The tokenizer before the first merge cuts and normalizes the corpus.
	b, err := newBPEOptions(options)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	for text := range corpus {
		if text = b.normalize(text, nil); text != "" {
			splitAll(b.piece(text, true, nil), b.pipe.split, func(w string) {
				if n, ok := counts[w]; ok {
					counts[w] = n + 1
				} else {
					counts[string([]byte(w))] = 1 // and not all of text kept
				}
			})
		}
	}
	t := newTrainer(counts, idOf)
	ids := map[string]int32{}
	for id, s := range options.Tokens {
		ids[s] = int32(id)
	}
	for len(options.Tokens) < o.VocabSize {
		p, ok := t.most(int64(max(1, o.MinFrequency)))
		if !ok {
			break
		}
		left, right := options.Tokens[p.left], options.Tokens[p.right]
		id, ok := ids[left+right]
		if !ok {
			id = int32(len(options.Tokens))
			ids[left+right] = id
			options.Tokens, options.Types = append(options.Tokens, left+right), append(options.Types, Normal)
		}
		options.Merges = append(options.Merges, left+" "+right)
		t.merge(p, id)
	}
	return newBPEOptions(options)
}

type pair struct{ left, right int32 }

func (p pair) compare(q pair) int {
	return cmp.Or(cmp.Compare(p.left, q.left), cmp.Compare(p.right, q.right))
}

// A trainer counts the pairs of symbols in words.
type trainer struct {
	words  [][]int32
	counts []int64 // of words
	pairs  map[pair]*pairCount
	queue  pairQueue
}

type pairCount struct {
	count int64
	words []int32 // where it may be
}

func newTrainer(words map[string]int64, idOf [256]int32) *trainer {
	t := &trainer{pairs: map[pair]*pairCount{}}
	for _, w := range slices.Sorted(maps.Keys(words)) {
		syms := make([]int32, len(w))
		for i := range len(w) {
			syms[i] = idOf[w[i]]
		}
		for i := range len(syms) - 1 {
			t.add(pair{syms[i], syms[i+1]}, words[w], int32(len(t.words)))
		}
		t.words, t.counts = append(t.words, syms), append(t.counts, words[w])
	}
	for p, c := range t.pairs {
		t.queue = append(t.queue, queued{c.count, p})
	}
	heap.Init(&t.queue)
	return t
}

// add counts a pair n times more, which may be below 0, in a word.
func (t *trainer) add(p pair, n int64, word int32) {
	c := t.pairs[p]
	if c == nil {
		c = &pairCount{}
		t.pairs[p] = c
	}
	c.count += n
	if n > 0 && (len(c.words) == 0 || c.words[len(c.words)-1] != word) {
		c.words = append(c.words, word)
	}
}

// most takes the pair that occurs most often, if that is often enough.
func (t *trainer) most(least int64) (pair, bool) {
	for len(t.queue) > 0 {
		top := &t.queue[0]
		c := t.pairs[top.pair]
		if c == nil { // queued twice, and merged
			heap.Pop(&t.queue)
			continue
		}
		if c.count != top.count { // others took some of its symbols
			top.count = c.count
			heap.Fix(&t.queue, 0)
			continue
		}
		if top.count < least {
			break
		}
		return heap.Pop(&t.queue).(queued).pair, true
	}
	return pair{}, false
}

// merge makes the pair the symbol id in all words.
func (t *trainer) merge(p pair, id int32) {
	grown := map[pair]bool{}
	for _, at := range t.pairs[p].words {
		word, n := t.words[at], t.counts[at]
		more := func(p pair) {
			t.add(p, n, at)
			grown[p] = true
		}
		for i := 0; i+1 < len(word); i++ {
			if word[i] != p.left || word[i+1] != p.right {
				continue
			}
			if i > 0 {
				t.add(pair{word[i-1], p.left}, -n, at)
				more(pair{word[i-1], id})
			}
			if i+2 < len(word) {
				t.add(pair{p.right, word[i+2]}, -n, at)
				more(pair{id, word[i+2]})
			}
			word[i] = id
			word = append(word[:i+1], word[i+2:]...)
		}
		t.words[at] = word
	}
	delete(t.pairs, p)
	for p := range grown {
		heap.Push(&t.queue, queued{t.pairs[p].count, p})
	}
}

// queued is a pair and how often it occurred when it was queued.
type queued struct {
	count int64
	pair  pair
}

// pairQueue is a heap with the most frequent pair, of those the lowest, at the top.
type pairQueue []queued

func (q pairQueue) Len() int { return len(q) }
func (q pairQueue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[j].count, q[i].count), q[i].pair.compare(q[j].pair)) < 0
}
func (q pairQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *pairQueue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *pairQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}
