package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

// torchDTypes are the names in a config.json of what weights are written as.
var torchDTypes = map[string]string{"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

// SaveDir writes a Hugging Face model directory that Open and LoadDir read and
// that transformers loads with from_pretrained: config.json and
// model.safetensors or, where that would be larger than o.ShardSize, shards
// and model.safetensors.index.json; and what b has besides, tokenizer.json or
// tokenizer.model, tokenizer_config.json with the chat template,
// special_tokens_map.json and generation_config.json. Files of the directory
// that b was read from are written as they were, as long as b still has what
// they say, so that to transformers all but the weights is the same.
//
// The directory is created if it is not there. Other files in it stay. Weights
// come last, so a save that did not end leaves no model that could be loaded,
// and may be tried again.
//
// If the directory has this model already, its weights are replaced at once
// when the new ones are whole. All else must be the same: two files cannot be
// replaced at once, and so SaveDir would have to leave neither model for an
// instant. Another model is an error, and so are weights in shards, for which
// a new directory is needed.
//
// It panics if b or its Model is nil.
func SaveDir(dir string, b *Bundle, o SaveOptions) error {
	if b == nil || b.Model == nil {
		panic("checkpoint: SaveDir: no Model")
	}
	dtype := cmp.Or(o.DType, "F32")
	torchDType, ok := torchDTypes[dtype]
	if !ok {
		return fmt.Errorf("writing %s: %w: weights are written as F32, BF16 or F16, not as %s", dir, ErrUnsupported, quote(dtype))
	}
	all := entries(nil, "", dtype, b.Model.Config, b.Model.Params)
	shards, total, err := split(all, cmp.Or(o.ShardSize, 5e9))
	if err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	files, err := b.files(torchDType)
	if err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := wantRoom(dir, b.Model.Config, files, len(shards) > 1); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue // and the same
		}
		if err := replaceFile(path, writeBytes(files[name])); err != nil {
			return err
		}
	}
	p := &progress{total: total, report: o.Progress}
	if len(shards) == 1 {
		return replaceFile(filepath.Join(dir, weightsFile), writeTensors(shards[0], p))
	}
	return writeShards(dir, shards, total, p)
}

// split cuts tensors into shards of at most most bytes, if a shard is not of a
// single larger tensor, in the order of the tensors, as transformers does.
func split(all []safetensors.Entry, most int64) (shards [][]safetensors.Entry, total int64, err error) {
	size := int64(0) // of the last shard
	for _, e := range all {
		n, err := e.Size()
		if err != nil {
			return nil, 0, err
		}
		if len(shards) == 0 || most > 0 && size > 0 && size+n > most {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], e)
		size += n
		total += n
	}
	return shards, total, nil
}

// wantRoom returns an error if dir has files that are not those of this save,
// or weights that cannot be replaced at once.
func wantRoom(dir string, c chainrule.Config, files map[string][]byte, sharded bool) error {
	one, shards := false, ""
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		ours, _ := filepath.Match("model-*-of-*.safetensors", e.Name())
		switch {
		case e.Name() == weightsFile:
			one = true
		case e.Name() == indexFile, ours:
			shards = e.Name()
		}
	}
	path := filepath.Join(dir, configFile)
	if _, err := os.Lstat(path); err == nil || one || shards != "" {
		if err := wantSameModel(path, c); err != nil {
			return err
		}
	}
	switch {
	case shards != "":
		return fmt.Errorf("%s: the directory has weights in shards, which cannot be replaced at once; choose a new one",
			filepath.Join(dir, shards))
	case one && sharded:
		return fmt.Errorf("%s: the directory has weights, which shards cannot replace at once; choose a new one",
			filepath.Join(dir, weightsFile))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || name == configFile {
			continue
		}
		there, err := readFile(path, 1<<28)
		if err != nil {
			return err
		}
		if !bytes.Equal(there, files[name]) {
			return fmt.Errorf("%s: the directory has another one, choose a new directory", path)
		}
	}
	return nil
}

func wantSameModel(config string, want chainrule.Config) error {
	b, err := readSmall(config)
	if err != nil {
		return fmt.Errorf("the directory has a model, but which: %w", err)
	}
	c, err := parseConfig(b)
	if err == nil && c != want {
		err = fmt.Errorf("%+v is not %+v", c, want)
	}
	if err != nil {
		return fmt.Errorf("%s: the directory has another model, choose a new one: %w", config, err)
	}
	return nil
}

// writeShards writes shards and their index aside, and gives them their names
// when all are whole, the index last: without it they are no model.
func writeShards(dir string, shards [][]safetensors.Entry, total int64, p *progress) (err error) {
	type file struct{ tmp, path string }
	var written []file
	defer func() {
		if err != nil {
			for _, f := range written {
				os.Remove(f.tmp)
				os.Remove(f.path)
			}
		}
	}()
	if err := sweep(dir, temporary+"model-", temporary+indexFile); err != nil {
		return err
	}
	create := func(name string, write func(io.Writer) error) error {
		f := file{aside(dir, name), filepath.Join(dir, name)}
		written = append(written, f)
		_, err := createFile(f.tmp, write)
		return err
	}
	where := map[string]string{}
	for i, shard := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := create(name, writeTensors(shard, p)); err != nil {
			return err
		}
		for _, e := range shard {
			where[e.Name] = name
		}
	}
	index := marshalIndented(map[string]any{"metadata": map[string]int64{"total_size": total}, "weight_map": where})
	if err := create(indexFile, writeBytes(index)); err != nil {
		return err
	}
	for _, f := range written[:len(shards)] {
		if err := rename(f.tmp, f.path); err != nil {
			return err
		}
	}
	if err := syncNames(dir); err != nil {
		return err
	}
	last := written[len(shards)]
	if err := rename(last.tmp, last.path); err != nil {
		return err
	}
	written = nil // it is a model now, whether its name is durable or not
	return syncNames(dir)
}

func writeBytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// metadata is what transformers wants in a file of its own.
var metadata = map[string]string{"format": "pt"}

// writeTensors writes a safetensors file, and counts the bytes of tensors.
func writeTensors(all []safetensors.Entry, p *progress) func(io.Writer) error {
	return func(w io.Writer) error {
		counted := slices.Clone(all)
		for i, e := range counted {
			counted[i].Data = func(w io.Writer) error { return e.Data(progressWriter{w, p}) }
		}
		return safetensors.Write(w, metadata, counted)
	}
}

type progressWriter struct {
	w io.Writer
	p *progress
}

func (w progressWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.p.add(n)
	return n, err
}
