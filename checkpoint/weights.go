package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

// weights are the tensors of a model: in one file, or in shards that an index
// lists.
type weights struct {
	path   string // of the file, or of the index
	index  *source
	shards []shard
	where  *shardIndex // of index, which says in which shard a tensor is; nil: there is one file
}

type shard struct {
	*source
	*safetensors.File
}

// openWeights opens the weights of a model directory. As transformers does, it
// takes the one file where there are shards too.
func openWeights(dir string) (*weights, error) {
	w, err := openWeightsFile(filepath.Join(dir, weightsFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return w, err
	}
	if _, e := os.Lstat(filepath.Join(dir, indexFile)); e == nil {
		return openShards(dir)
	}
	return nil, fmt.Errorf("%w%s", err, otherWeights(dir))
}

// otherWeights says which weights are in dir that cannot be read.
func otherWeights(dir string) string {
	for _, o := range []struct{ name, hint string }{
		{"pytorch_model.bin", "a Python pickle is not read; convert it to safetensors"},
		{"pytorch_model.bin.index.json", "Python pickles are not read; convert them to safetensors"},
		{"consolidated.safetensors", "it has the names of Mistral's own program; convert it to Hugging Face's"},
		{"consolidated.00.pth", "a Python pickle is not read; convert it to Hugging Face's format"},
		{"adapter_model.safetensors", "an adapter is not read; merge it into the model that it is for"},
	} {
		if _, err := os.Lstat(filepath.Join(dir, o.name)); err == nil {
			return fmt.Sprintf(" (%s is there: %s)", o.name, o.hint)
		}
	}
	return ""
}

func openWeightsFile(path string) (*weights, error) {
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	return weightsOf(s)
}

// weightsOf reads the header of one file. After an error s is closed.
func weightsOf(s *source) (*weights, error) {
	f, err := safetensors.Read(s, s.info.Size())
	if err != nil {
		return nil, s.close(err)
	}
	return &weights{path: s.path, shards: []shard{{s, f}}}, nil
}

// close ends the reading of all files, whose outcome so far is err.
func (w *weights) close(err error) error {
	var changed error
	all := []*source{w.index}
	for _, s := range w.shards {
		all = append(all, s.source)
	}
	for _, s := range all {
		if s == nil {
			continue
		}
		if e := s.close(nil); e != nil && changed == nil {
			changed = e
		}
	}
	if changed != nil {
		return changed
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.path, err)
	}
	return nil
}

// count returns the number of tensors.
func (w *weights) count() (n int) {
	for _, s := range w.shards {
		n += s.Len()
	}
	return n
}

// tensors yields all tensors.
func (w *weights) tensors() iter.Seq2[shard, safetensors.Tensor] {
	return func(yield func(shard, safetensors.Tensor) bool) {
		for _, s := range w.shards {
			for _, t := range s.Tensors() {
				if !yield(s, t) {
					return
				}
			}
		}
	}
}

// lookup returns the tensor of that name, if there is one.
func (w *weights) lookup(name string) (s shard, t safetensors.Tensor, ok bool) {
	i := 0
	if w.where != nil {
		if i, ok = w.where.find(name); !ok {
			return s, t, false
		}
	}
	s = w.shards[i]
	t, ok = s.Lookup(name)
	return s, t, ok
}

// readModel reads the weights of a model of shape c into its memory.
func (w *weights) readModel(c chainrule.Config, report func(done, total int64)) (*chainrule.Model, error) {
	if err := checkTensors(w, c, ""); err != nil {
		return nil, err
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		return nil, err
	}
	p := &progress{report: report}
	for t := range tensors(c) {
		_, there, _ := w.lookup(t.hf)
		p.total += there.Size
	}
	for _, s := range w.shards {
		s.progress = p
	}
	if err := readTensors(w, "", c, m.Params); err != nil {
		return nil, err
	}
	m.Touch()
	return m, nil
}

// sameAsEmbedding reports whether head has the very bytes of the embedding:
// some programs write a tied classifier twice.
func (w *weights) sameAsEmbedding(headFile shard, head safetensors.Tensor) (bool, error) {
	file, e, ok := w.lookup(embedding)
	if !ok || e.Dtype != head.Dtype || !slices.Equal(e.Shape, head.Shape) {
		return false, nil
	}
	return sameBytes(file, e.Offset, headFile, head.Offset, e.Size)
}

// progress tells a caller how many bytes have been read or written.
type progress struct {
	done, total, told int64
	report            func(done, total int64)
}

// add counts n bytes. It reports every 4 MiB, and the end.
func (p *progress) add(n int) {
	if p == nil || p.report == nil {
		return
	}
	p.done += int64(n)
	if p.done-p.told >= 4<<20 || p.done == p.total {
		p.told = p.done
		p.report(p.done, p.total)
	}
}
