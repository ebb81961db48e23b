package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sort"
)

// ManifestFile is the name of the file that says which shards a directory has.
const ManifestFile = "shards.json"

// Manifest describes tokens that are kept in several token files.
type Manifest struct {
	Format  string // "chainrule token shards"
	Version int    // 1
	Vocab   int    // every token is less

	Tokenizer string   // identifies what made tokens of the text
	Sources   []Origin // the texts, in order
	Shards    []Shard

	// Done says that Shards are those of all Sources. Otherwise tokenizing was
	// interrupted, and goes on at byte Offset of source Next.
	Done   bool
	Next   int
	Offset int64
}

// Origin is a text that was tokenized.
type Origin struct {
	Name   string // of the file
	Size   int64
	SHA256 string
}

// Shard is a token file, in the directory of the manifest.
type Shard struct {
	Name   string
	Tokens int64
	Size   int64 // of the file, in bytes
	SHA256 string
}

const (
	manifestFormat  = "chainrule token shards"
	manifestVersion = 1
)

// readManifest reads the manifest in dir.
func readManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, ManifestFile)
	b, err := readFile(path, 64<<20)
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	bad := func(format string, args ...any) (*Manifest, error) {
		return nil, fmt.Errorf("data: %s: %s", path, fmt.Sprintf(format, args...))
	}
	if err := json.Unmarshal(b, m); err != nil {
		return bad("%v", err)
	}
	if m.Format != manifestFormat || m.Version != manifestVersion {
		return bad("Format is %q and Version %d, want %q and %d", m.Format, m.Version, manifestFormat, manifestVersion)
	}
	for i, s := range m.Shards {
		if s.Name == "" || filepath.Base(s.Name) != s.Name || s.Tokens < 1 || s.Tokens > math.MaxInt32 {
			return bad("Shards[%d] is %q of %d tokens, want a file's name and 1 to %d", i, s.Name, s.Tokens, math.MaxInt32)
		}
	}
	return m, nil
}

// write replaces the manifest in dir.
func (m *Manifest) write(dir string) error {
	m.Format, m.Version = manifestFormat, manifestVersion
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return replace(filepath.Join(dir, ManifestFile), func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
}

// Shards is the tokens of a directory that Tokenize made. They are read when
// they are wanted, never mapped: a file that is cut while a run reads it is an
// error that names the file and the byte. It is safe for concurrent use.
type Shards struct {
	dir    string
	m      *Manifest
	files  []*os.File
	starts []int64 // of every shard in the whole, and the number of all tokens
	width  int64   // bytes a token
}

// OpenShards opens the tokens in dir. Of every file, it looks at the size and
// the header; Verify reads all of it. Tokenizing that was not finished is an
// error.
func OpenShards(dir string) (_ *Shards, err error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if !m.Done || len(m.Shards) == 0 {
		return nil, fmt.Errorf("data: %s: the texts are not tokenized to their end", dir)
	}
	s := &Shards{dir: dir, m: m, starts: []int64{0}, width: 2}
	if m.Vocab > 1<<16 {
		s.width = 4
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, shard := range m.Shards {
		path := filepath.Join(dir, shard.Name)
		f, size, err := openRegular(path)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, f)
		if want := tokenHeader + shard.Tokens*s.width; size != shard.Size || size != want {
			return nil, fmt.Errorf("data: %s has %d bytes, want %d for the %d tokens that %s says", path, size, want, shard.Tokens, ManifestFile)
		}
		n, width, err := tokenFile(f, size)
		if err == nil && (n != shard.Tokens || width != s.width) {
			err = fmt.Errorf("%d tokens of %d bytes, want %d of %d", n, width, shard.Tokens, s.width)
		}
		if err != nil {
			return nil, fmt.Errorf("data: %s: %w", path, err)
		}
		s.starts = append(s.starts, s.starts[len(s.starts)-1]+shard.Tokens)
	}
	return s, nil
}

// Close closes the files.
func (s *Shards) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	s.files = nil
	return errors.Join(errs...)
}

// Len returns the number of tokens.
func (s *Shards) Len() int64 { return s.starts[len(s.starts)-1] }

// Manifest returns what the directory says of itself.
func (s *Shards) Manifest() Manifest { return *s.m }

// Read fills tokens from position at on. It panics if some of that is out of
// range.
func (s *Shards) Read(tokens []int32, at int64) error {
	if at < 0 || at+int64(len(tokens)) > s.Len() {
		panic("data: Shards.Read: out of range")
	}
	i := sort.Search(len(s.files), func(i int) bool { return s.starts[i+1] > at })
	for len(tokens) > 0 {
		n := min(int64(len(tokens)), s.starts[i+1]-at)
		if err := s.readShard(i, tokens[:n], at-s.starts[i]); err != nil {
			return fmt.Errorf("data: %s: %w", s.files[i].Name(), err)
		}
		tokens, at = tokens[n:], at+n
		i++
	}
	return nil
}

// readShard fills tokens from position at of a shard.
func (s *Shards) readShard(i int, tokens []int32, at int64) error {
	b := make([]byte, int64(len(tokens))*s.width)
	off := tokenHeader + at*s.width
	if err := readAt(s.files[i], b, off); err != nil {
		return err
	}
	for j := range tokens {
		var id uint32
		if s.width == 2 {
			id = uint32(binary.LittleEndian.Uint16(b[2*j:]))
		} else {
			id = binary.LittleEndian.Uint32(b[4*j:])
		}
		if int64(id) >= int64(s.m.Vocab) {
			return &FormatError{off + int64(j)*s.width, fmt.Sprintf("token %d", at+int64(j)),
				fmt.Sprintf("%d, want less than the vocabulary of %d", id, s.m.Vocab)}
		}
		tokens[j] = int32(id)
	}
	return nil
}

// Verify reads every byte and compares it with the manifest.
func (s *Shards) Verify() error {
	for i, shard := range s.m.Shards {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(s.files[i], 0, shard.Size)); err != nil {
			return fmt.Errorf("data: %s: %w", s.files[i].Name(), err)
		}
		if sum := hex.EncodeToString(h.Sum(nil)); sum != shard.SHA256 {
			return fmt.Errorf("data: %s: its SHA-256 is %s, want %s: it is damaged, remove %s to tokenize anew",
				s.files[i].Name(), sum, shard.SHA256, s.dir)
		}
	}
	return nil
}

// fingerprint identifies the tokens.
func (s *Shards) fingerprint() string {
	h := sha256.New()
	for _, shard := range s.m.Shards {
		fmt.Fprintln(h, shard.Tokens, shard.SHA256)
	}
	return fmt.Sprintf("%d tokens in %d shards, SHA-256 %x", s.Len(), len(s.files), h.Sum(nil))
}

// NewShardBatches returns the batches of tokens [from,to) of s, which it keeps:
// those that NewBatches would return if they were in memory.
func NewShardBatches(s *Shards, from, to int64, B, T int, seed uint64) (*Batches, error) {
	if from < 0 || to < from || to > s.Len() {
		return nil, fmt.Errorf("data: tokens %d to %d, want them within 0 to %d", from, to, s.Len())
	}
	d, err := newBatches(to-from, B, T, seed)
	if err != nil {
		return nil, err
	}
	d.read = func(tokens []int32, at int64) error { return s.Read(tokens, from+at) }
	d.data = func() string { return fmt.Sprintf("%d to %d of %s", from, to, s.fingerprint()) }
	return d, nil
}
