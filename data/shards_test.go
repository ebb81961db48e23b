package data_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/data"
)

// runes makes a token of every byte, and one more of every newline.
func runes(text string) (tokens []int32) {
	for _, b := range []byte(text) {
		tokens = append(tokens, int32(b))
		if b == '\n' {
			tokens = append(tokens, 256)
		}
	}
	return tokens
}

// texts writes three files, the largest of several pieces, and returns their
// names and tokens.
func texts(t testing.TB) (paths []string, tokens []int32) {
	r := rand.New(rand.NewPCG(1, 2))
	for i, size := range []int{3 << 20, 0, 70_000} {
		var b bytes.Buffer
		for b.Len() < size {
			fmt.Fprintf(&b, "%d %s\n", r.Uint64(), strings.Repeat("x", r.IntN(100)))
		}
		path := filepath.Join(t.TempDir(), fmt.Sprintf("text-%d.txt", i))
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
		paths, tokens = append(paths, path), append(tokens, runes(b.String())...)
	}
	return paths, tokens
}

func options(vocab int) data.TokenizeOptions {
	return data.TokenizeOptions{Encode: runes, Tokenizer: "runes", Vocab: vocab, ShardTokens: 1 << 19}
}

func listing(t testing.TB, dir string) map[string]string {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	files := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = string(b)
	}
	return files
}

func tokenize(t testing.TB, dir string, paths []string, o data.TokenizeOptions) *data.Shards {
	s, err := data.Tokenize(t.Context(), dir, paths, o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestShardsAreTheTokensOfTheTexts(t *testing.T) {
	paths, want := texts(t)
	for _, vocab := range []int{257, 70_000} {
		dir := t.TempDir()
		var seen []int64
		o := options(vocab)
		o.Progress = func(done, total int64) {
			require.LessOrEqual(t, done, total)
			seen = append(seen, done)
		}
		s := tokenize(t, dir, paths, o)
		require.Equal(t, int64(len(want)), s.Len())
		require.Greater(t, len(s.Manifest().Shards), 3)
		require.IsIncreasing(t, seen)
		got := make([]int32, len(want))
		require.NoError(t, s.Read(got, 0))
		require.Equal(t, want, got)
		r := rand.New(rand.NewPCG(3, 4))
		for range 200 {
			at := r.IntN(len(want))
			part := make([]int32, r.IntN(min(len(want)-at, 700_000)+1))
			require.NoError(t, s.Read(part, int64(at)))
			require.True(t, slices.Equal(want[at:at+len(part)], part))
		}
		require.NoError(t, s.Verify())
		require.Panics(t, func() { s.Read(got, 1) })
		tokens, err := data.ReadTokens(filepath.Join(dir, "shard-00001.bin"), vocab) // a file of the usual kind
		require.NoError(t, err)
		require.Len(t, tokens, int(s.Manifest().Shards[1].Tokens))
	}
}

func TestBatchesOfShardsAreThoseOfMemory(t *testing.T) {
	paths, want := texts(t)
	s := tokenize(t, t.TempDir(), paths, options(257))
	from, to := 1000, len(want)-5000
	a, err := data.NewBatches(want[from:to], 3, 100, 7)
	require.NoError(t, err)
	b, err := data.NewShardBatches(s, int64(from), int64(to), 3, 100, 7)
	require.NoError(t, err)
	require.Equal(t, a.Windows(), b.Windows())
	x, y, z, w := make([]int32, 300), make([]int32, 300), make([]int32, 300), make([]int32, 300)
	for _, k := range []int{0, 1, 2, 1000, a.Windows(), 123456} {
		require.NoError(t, a.Fill(k, x, y))
		require.NoError(t, b.Fill(k, z, w))
		require.Equal(t, x, z)
		require.Equal(t, y, w)
	}
	other, err := data.NewShardBatches(s, int64(from), int64(to), 3, 100, 8)
	require.NoError(t, err)
	require.NotEqual(t, other.Fingerprint(), b.Fingerprint())
	_, err = data.NewShardBatches(s, 0, s.Len()+1, 3, 100, 7)
	require.ErrorContains(t, err, "want them within 0 to")
}

// Stopped behind any piece, tokenizing goes on to the same files.
func TestTokenizingGoesOn(t *testing.T) {
	paths, _ := texts(t)
	whole := t.TempDir()
	tokenize(t, whole, paths, options(257))
	cause := errors.New("stop")
	for stop := 1; stop <= 5; stop++ {
		dir, pieces := t.TempDir(), 0
		ctx, cancel := context.WithCancelCause(t.Context())
		o := options(257)
		o.Encode = func(text string) []int32 {
			if pieces++; pieces == stop {
				cancel(cause)
			}
			return runes(text)
		}
		_, err := data.Tokenize(ctx, dir, paths, o)
		if stop < 5 {
			require.ErrorIs(t, err, cause)
			_, err = data.OpenShards(dir)
			require.ErrorContains(t, err, "not tokenized to their end")
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, ".shard-00009.bin.123"), nil, 0o666)) // of a killed process
		tokenize(t, dir, paths, o)
		if stop == 4 {
			require.Less(t, pieces, 4+4, "what was finished is not made again")
		}
		require.Equal(t, listing(t, whole), listing(t, dir))
		pieces = 0
		tokenize(t, dir, paths, o)
		require.Zero(t, pieces, "it is all there")
	}
}

func TestOtherTextsAreTokenizedAnew(t *testing.T) {
	paths, want := texts(t)
	dir := t.TempDir()
	tokenize(t, dir, paths, options(257))
	pieces := 0
	o := options(257)
	o.Encode = func(text string) []int32 { pieces++; return runes(text) }
	for _, change := range []func(){
		func() { o.Tokenizer = "other" },
		func() { o.Vocab = 300 },
		func() { o.ShardTokens = 1 << 18 },
		func() { require.NoError(t, os.Remove(filepath.Join(dir, "shard-00002.bin"))) },
		func() { require.NoError(t, os.Truncate(filepath.Join(dir, "shard-00002.bin"), 5000)) },
		func() { require.NoError(t, os.WriteFile(filepath.Join(dir, data.ManifestFile), []byte("{"), 0o666)) },
	} {
		change()
		pieces = 0
		s := tokenize(t, dir, paths, o)
		require.NotZero(t, pieces)
		require.Equal(t, int64(len(want)), s.Len())
		require.NoError(t, s.Verify())
	}
	require.NoError(t, os.WriteFile(paths[1], []byte("more\n"), 0o666))
	s := tokenize(t, dir, paths, o)
	require.Equal(t, int64(len(want)+6), s.Len())
	s = tokenize(t, dir, paths[:2], o)
	require.Len(t, listing(t, dir), 1+len(s.Manifest().Shards), "shards of the other texts are gone")
}

// A file that is cut while it is read is an error, never a signal.
func TestACutShardIsAnErrorWithFileAndByte(t *testing.T) {
	paths, _ := texts(t)
	dir := t.TempDir()
	s := tokenize(t, dir, paths, options(257))
	shard := filepath.Join(dir, "shard-00001.bin")
	tokens := make([]int32, 1000)
	at := s.Manifest().Shards[0].Tokens + 2000
	require.NoError(t, s.Read(tokens, at))
	require.NoError(t, os.Truncate(shard, 1024+2*2500))
	require.EqualError(t, s.Read(tokens, at), fmt.Sprintf("data: %s: the file shrank while it was read: it ends at byte 6024, 1000 more were expected", shard))
	require.NoError(t, s.Read(tokens, 0), "the others are as they were")
	_, err := data.OpenShards(dir)
	require.ErrorContains(t, err, shard+" has 6024 bytes, want ")
}

func TestADamagedShardIsFound(t *testing.T) {
	paths, _ := texts(t)
	dir := t.TempDir()
	s := tokenize(t, dir, paths, options(257))
	shard := filepath.Join(dir, "shard-00002.bin")
	b, err := os.ReadFile(shard)
	require.NoError(t, err)
	b[5000] ^= 1
	require.NoError(t, os.WriteFile(shard, b, 0o666))
	require.ErrorContains(t, s.Verify(), shard+": its SHA-256 is ")
	b[5001] = 0xff
	require.NoError(t, os.WriteFile(shard, b, 0o666))
	var bad *data.FormatError
	at := s.Manifest().Shards[0].Tokens + s.Manifest().Shards[1].Tokens
	require.ErrorAs(t, s.Read(make([]int32, 3000), at), &bad)
	require.Equal(t, int64(5000), bad.Offset)

	manifest := filepath.Join(dir, data.ManifestFile)
	m, err := os.ReadFile(manifest)
	require.NoError(t, err)
	for old, bad := range map[string]string{
		`"Version": 1`: `"Version": 2`, `"Name": "shard-00001.bin"`: `"Name": "../shard-00001.bin"`, `"Tokens": `: `"Tokens": -`,
	} {
		require.NoError(t, os.WriteFile(manifest, bytes.Replace(m, []byte(old), []byte(bad), 1), 0o666))
		_, err := data.OpenShards(dir)
		require.ErrorContains(t, err, manifest)
	}
}
