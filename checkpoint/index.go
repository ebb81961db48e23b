package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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
	totalSize int64             // of all tensors, in bytes; -1: it does not say
	shardOf   map[string]string // a tensor's file
}

// parseIndex reads an index. An error wraps ErrIndex.
func parseIndex(b []byte) (*shardIndex, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrIndex)
	}
	x := &shardIndex{totalSize: -1, shardOf: map[string]string{}}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: before byte %d: %s", ErrIndex, d.InputOffset(), fmt.Sprintf(format, args...))
	}
	// object calls member with every key of an object; it must read the value.
	object := func(what string, member func(key string) error) error {
		t, err := d.Token()
		if err != nil || t != json.Delim('{') {
			return fail("%s is %v, want an object", what, orToken(err, t))
		}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return fail("%v", err)
			}
			if err := member(key.(string)); err != nil { // in an object, a token where a key is due is a string
				return err
			}
		}
		if _, err := d.Token(); err != nil {
			return fail("%v", err)
		}
		return nil
	}
	seen := map[string]bool{}
	once := func(key string) error {
		if seen[key] {
			return fail("key %s occurs twice", quote(key))
		}
		seen[key] = true
		return nil
	}
	err := object("the file", func(key string) error {
		if err := once(key); err != nil {
			return err
		}
		switch key {
		case "metadata":
			return object(key, func(key string) error {
				if err := once("metadata." + key); err != nil {
					return err
				}
				var v json.RawMessage
				if err := d.Decode(&v); err != nil {
					return fail("%v", err)
				}
				if key != "total_size" {
					return nil
				}
				size, err := strconv.ParseFloat(string(v), 64) // some programs write 123.0
				if err != nil || size < 0 || size > 1<<53 || size != float64(int64(size)) {
					return fail("total_size is %s, want a number of bytes", quote(v))
				}
				x.totalSize = int64(size)
				return nil
			})
		case "weight_map":
			return object(key, func(name string) error {
				if _, ok := x.shardOf[name]; ok {
					return fail("tensor %s is there twice", quote(name))
				}
				t, err := d.Token()
				file, ok := t.(string)
				if err != nil || !ok {
					return fail("the shard of %s is %v, want the name of a file", quote(name), orToken(err, t))
				}
				if err := checkShardName(file); err != nil {
					return fail("the shard of %s: %v", quote(name), err)
				}
				x.shardOf[name] = file
				return nil
			})
		}
		return fail("key %s is not known", quote(key))
	})
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fail("something comes after the end of the object")
	}
	if len(x.shardOf) == 0 {
		return nil, fmt.Errorf("%w: it lists no tensors: want a weight_map", ErrIndex)
	}
	return x, nil
}

func orToken(err error, t json.Token) any {
	if err != nil {
		return err
	}
	return quote(fmt.Sprint(t))
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
	w = &weights{path: index.path, index: index, where: map[string]int{}}
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
	files := slices.Compact(slices.Sorted(maps.Values(x.shardOf)))
	var missing list
	for _, name := range files {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			missing.add(name)
		}
	}
	if missing.n > 0 {
		return fmt.Errorf("%w: %d of %d shards are missing: %s: %w", ErrIndex, missing.n, len(files), missing, fs.ErrNotExist)
	}
	number := make(map[string]int, len(files))
	for i, name := range files {
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
		number[name] = i
	}
	for name, file := range x.shardOf {
		w.where[name] = number[file]
	}
	return w.checkIndex(x, files)
}

// checkIndex compares the index with what is in the shards, and returns one
// error for all differences.
func (w *weights) checkIndex(x *shardIndex, files []string) error {
	var absent, unlisted, elsewhere list
	found, size := 0, int64(0)
	for i, s := range w.shards {
		for _, t := range s.Tensors() {
			size += t.Size
			switch at, ok := w.where[t.Name]; {
			case !ok:
				unlisted.add(fmt.Sprintf("%s in %s", quote(t.Name), files[i]))
			case at == i:
				found++
			default:
				elsewhere.add(fmt.Sprintf("%s is in %s, the index says %s", quote(t.Name), files[i], files[at]))
			}
		}
	}
	if found < len(w.where) {
		for _, name := range slices.Sorted(maps.Keys(w.where)) {
			if _, _, ok := w.lookup(name); !ok {
				absent.add(fmt.Sprintf("%s in %s", quote(name), x.shardOf[name]))
			}
		}
	}
	err := listed(ErrIndex, section{"not where the index says", absent}, section{"not in the index", unlisted},
		section{"in another shard", elsewhere})
	if err == nil && x.totalSize >= 0 && x.totalSize != size {
		err = fmt.Errorf("%w: total_size is %d, the tensors have %d bytes", ErrIndex, x.totalSize, size)
	}
	return err
}
