package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

const (
	indexFile = weightsFile + ".index.json"
	maxIndex  = 32 << 20
)

// shardIndex is the content of a model.safetensors.index.json.
type shardIndex struct {
	totalSize int64        // of all tensors, in bytes; -1: it does not say
	files     []string     // the shards, sorted
	entries   []indexEntry // sorted by name
}

// indexEntry says in which of the files a tensor is.
type indexEntry struct {
	name string
	file int
}

// find returns in which of the files a tensor is said to be.
func (x *shardIndex) find(name string) (file int, ok bool) {
	i, ok := slices.BinarySearchFunc(x.entries, name, func(e indexEntry, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return 0, false
	}
	return x.entries[i].file, true
}

// parseIndex reads an index. An error wraps ErrIndex.
func parseIndex(b []byte) (*shardIndex, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrIndex)
	}
	x, r := &shardIndex{totalSize: -1}, &indexReader{s: string(b)}
	number := map[string]int{} // of a file, in order of appearance
	var hasMap, hasMetadata, hasSize bool
	err := r.object(func(key string) error {
		again := false
		switch key {
		case "metadata":
			again, hasMetadata = hasMetadata, true
		case "weight_map":
			again, hasMap = hasMap, true
		default:
			return r.fail("key %s is not known", quote(key))
		}
		if again {
			return r.fail("key %s occurs twice", quote(key))
		}
		if key == "metadata" {
			return r.object(func(key string) error {
				v, err := r.value()
				if err != nil || key != "total_size" {
					return err
				}
				if hasSize {
					return r.fail("key total_size occurs twice")
				}
				hasSize = true
				size, err := strconv.ParseFloat(v, 64) // some programs write 123.0
				if err != nil || size < 0 || size > 1<<53 || size != math.Trunc(size) {
					return r.fail("total_size is %s, want a number of bytes", quote(v))
				}
				x.totalSize = int64(size)
				return nil
			})
		}
		return r.object(func(name string) error {
			file, err := r.text("the name of a file")
			if err != nil {
				return err
			}
			if err := checkShardName(file); err != nil {
				return r.fail("the shard of %s: %v", quote(name), err)
			}
			n, ok := number[file]
			if !ok {
				n = len(x.files)
				number[file] = n
				x.files = append(x.files, file)
			}
			x.entries = append(x.entries, indexEntry{name, n})
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if r.space(); r.pos < len(r.s) {
		return nil, r.fail("something comes after the end of the object")
	}
	if len(x.entries) == 0 {
		return nil, fmt.Errorf("%w: it lists no tensors: want a weight_map", ErrIndex)
	}
	found := slices.Clone(x.files)
	slices.Sort(x.files)
	for i := range x.entries {
		e := &x.entries[i]
		e.file, _ = slices.BinarySearch(x.files, found[e.file])
	}
	slices.SortFunc(x.entries, func(a, b indexEntry) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(x.entries); i++ {
		if name := x.entries[i].name; name == x.entries[i-1].name {
			return nil, fmt.Errorf("%w: tensor %s is there twice", ErrIndex, quote(name))
		}
	}
	return x, nil
}

// indexReader reads the JSON of an index, which is valid UTF-8. What it
// returns are parts of s, so that an index of hundreds of thousands of tensors
// does not take many times its size.
type indexReader struct {
	s   string
	pos int
}

func (r *indexReader) fail(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", ErrIndex, r.pos, fmt.Sprintf(format, args...))
}

func (r *indexReader) space() {
	for r.pos < len(r.s) && strings.IndexByte(" \t\r\n", r.s[r.pos]) >= 0 {
		r.pos++
	}
}

// take reads a byte behind white space, if it is c.
func (r *indexReader) take(c byte) bool {
	r.space()
	if r.pos == len(r.s) || r.s[r.pos] != c {
		return false
	}
	r.pos++
	return true
}

// bad is the error for finding something else than what was wanted.
func (r *indexReader) bad(want string) error {
	if r.pos == len(r.s) {
		return r.fail("the file ends here, want %s", want)
	}
	return r.fail("found %s, want %s", quote(r.s[r.pos:min(len(r.s), r.pos+16)]), want)
}

// object calls member with every key of an object; it must read the value.
func (r *indexReader) object(member func(key string) error) error {
	if !r.take('{') {
		return r.bad("an object")
	}
	if r.take('}') {
		return nil
	}
	for {
		key, err := r.text("a key")
		if err != nil {
			return err
		}
		if !r.take(':') {
			return r.bad(":")
		}
		if err := member(key); err != nil {
			return err
		}
		if r.take('}') {
			return nil
		}
		if !r.take(',') {
			return r.bad(", or }")
		}
	}
}

// text reads a string.
func (r *indexReader) text(want string) (string, error) {
	if !r.take('"') {
		return "", r.bad(want)
	}
	begin, escaped := r.pos, false
	for ; r.pos < len(r.s); r.pos++ {
		switch c := r.s[r.pos]; {
		case c == '\\':
			escaped = true
			r.pos++
		case c < ' ':
			return "", r.fail("a control character in a string")
		case c == '"':
			t := r.s[begin:r.pos]
			if escaped && json.Unmarshal([]byte(r.s[begin-1:r.pos+1]), &t) != nil {
				return "", r.fail("a string with a bad escape")
			}
			r.pos++
			return t, nil
		}
	}
	r.pos = len(r.s)
	return "", r.bad("the end of a string")
}

// value reads any value, and returns its JSON.
func (r *indexReader) value() (string, error) {
	r.space()
	d := json.NewDecoder(strings.NewReader(r.s[r.pos:]))
	var v json.RawMessage
	if err := d.Decode(&v); err != nil {
		return "", r.fail("%v", err)
	}
	r.pos += int(d.InputOffset())
	return string(v), nil
}

// checkShardName fails for what is not a plain name of a file beside the index.
func checkShardName(name string) error {
	switch {
	case strings.ContainsAny(name, `/\:`) || !filepath.IsLocal(name):
		return fmt.Errorf("%s is not the name of a file beside it", quote(name))
	case !strings.HasSuffix(name, ".safetensors"):
		return fmt.Errorf("%s is not named .safetensors", quote(name))
	}
	return nil
}

// openShards opens the weights that the index of a model directory lists, and
// checks that they are those.
func openShards(dir string) (w *weights, err error) {
	index, err := open(filepath.Join(dir, indexFile))
	if err != nil {
		return nil, err
	}
	w = &weights{path: index.path, index: index}
	if err = w.openShards(dir); err != nil {
		return nil, w.close(err)
	}
	return w, nil
}

func (w *weights) openShards(dir string) error {
	b, err := w.index.readUpTo(maxIndex)
	if err != nil {
		return err
	}
	x, err := parseIndex(b)
	if err != nil {
		return explain(b, err)
	}
	w.where = x
	var missing list
	for _, name := range x.files {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			missing.add(name)
		}
	}
	if missing.n > 0 {
		return fmt.Errorf("%w: %d of %d shards are missing: %s: %w", ErrIndex, missing.n, len(x.files), missing, fs.ErrNotExist)
	}
	for _, name := range x.files {
		s, err := open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		for _, other := range w.shards {
			if os.SameFile(other.info, s.info) {
				s.File.Close()
				return fmt.Errorf("%w: %s and %s are one file", ErrIndex, filepath.Base(other.path), name)
			}
		}
		f, err := safetensors.Read(s, s.info.Size())
		if err != nil {
			return s.close(err)
		}
		w.shards = append(w.shards, shard{s, f})
	}
	return w.checkIndex()
}

// checkIndex compares the index with what is in the shards, and returns one
// error for all differences.
func (w *weights) checkIndex() error {
	var absent, unlisted, elsewhere list
	found, size, files := 0, int64(0), w.where.files
	for i, s := range w.shards {
		for _, t := range s.Tensors() {
			size += t.Size
			switch at, ok := w.where.find(t.Name); {
			case !ok:
				unlisted.add(fmt.Sprintf("%s in %s", quote(t.Name), files[i]))
			case at == i:
				found++
			default:
				elsewhere.add(fmt.Sprintf("%s is in %s, the index says %s", quote(t.Name), files[i], files[at]))
			}
		}
	}
	if found < len(w.where.entries) {
		for _, e := range w.where.entries {
			if _, _, ok := w.lookup(e.name); !ok {
				absent.add(fmt.Sprintf("%s in %s", quote(e.name), files[e.file]))
			}
		}
	}
	err := listed(ErrIndex, section{"not where the index says", absent}, section{"not in the index", unlisted},
		section{"in another shard", elsewhere})
	if err == nil && w.where.totalSize >= 0 && w.where.totalSize != size {
		err = fmt.Errorf("%w: total_size is %d, the tensors have %d bytes", ErrIndex, w.where.totalSize, size)
	}
	return err
}
