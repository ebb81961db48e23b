package checkpoint

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
)

func TestLlama2cFilesLoadToTheSameBits(t *testing.T) {
	for _, version := range []int{0, 1} {
		for _, name := range []string{"llama", "tied"} {
			path := filepath.Join(t.TempDir(), "model.bin")
			m := newModel(t, shapes[name], 5)
			require.NoError(t, SaveLlama2c(path, m, version))
			first := read(t, path)
			got, err := LoadLlama2c(path)
			require.NoError(t, err)
			requireSameModel(t, m, got)
			require.NoError(t, SaveLlama2c(path, got, version))
			require.Equal(t, first, read(t, path))
			require.Equal(t, []string{"model.bin"}, names(t, filepath.Dir(path)))
		}
	}
}

// The layout by hand: a file of version 0 has two tables of RoPE before an
// untied classifier, and keeps the order of rows.
func TestLlama2cVersion0HasItsTensorsInPlace(t *testing.T) {
	c := with(tiny(), func(c *chainrule.Config) { c.NLayers = 1 })
	m := newModel(t, c, 6)
	path := filepath.Join(t.TempDir(), "model.bin")
	require.NoError(t, SaveLlama2c(path, m, 0))
	b := read(t, path)
	at := 7 * 4
	next := func(n int) (bits []uint32) {
		for range n {
			bits = append(bits, binary.LittleEndian.Uint32([]byte(b[at:at+4])))
			at += 4
		}
		return bits
	}
	l := m.Layers[0]
	for _, want := range [][]float32{
		m.TokenEmbedding, l.RMSAtt, l.Wq, l.Wk, l.Wv, l.Wo, l.RMSFFN, l.W1, l.W2, l.W3, m.RMSFinal,
	} {
		require.Equal(t, bitsOf(want), next(len(want)))
	}
	next(2 * c.SeqLen * c.HeadDim / 2)
	require.Equal(t, bitsOf(m.Wcls), next(len(m.Wcls)))
	require.Len(t, b, at)
	require.Equal(t, int32(-c.VocabSize), int32(binary.LittleEndian.Uint32([]byte(b[20:24]))))
}

func TestLlama2cRefusesWhatItCannotHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.bin")
	for name, want := range map[string]string{
		"qwen2": "QKVBias", "qwen3": "QKNorm", "wide heads": "HeadDim", "other theta": "RopeTheta", "linear": "RopeScaling",
	} {
		err := SaveLlama2c(path, newModel(t, shapes[name], 1), 1)
		require.ErrorIs(t, err, ErrUnsupported)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
	eps := with(tiny(), func(c *chainrule.Config) { c.NormEps = 1e-6 })
	require.ErrorContains(t, SaveLlama2c(path, newModel(t, eps, 1), 0), "NormEps")
	require.ErrorContains(t, SaveLlama2c(path, newModel(t, tiny(), 1), 2), "version")
	require.Empty(t, names(t, filepath.Dir(path)))
}

func TestForeignLlama2cFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.bin")
	require.NoError(t, SaveLlama2c(path, newModel(t, tiny(), 1), 0))
	good := read(t, path)
	for name, content := range map[string]string{
		"empty": "", "short": good[:len(good)-1], "long": good + "\x00", "half": good[:len(good)/2],
	} {
		write(t, path, content)
		_, err := LoadLlama2c(path)
		require.ErrorContains(t, err, path, name)
	}
	for _, content := range []string{"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "<!DOCTYPE html><html><body>404 not found"} {
		write(t, path, content)
		_, err := LoadLlama2c(path)
		require.ErrorIs(t, err, ErrNotModel)
	}
	_, err := LoadLlama2c(dir)
	require.ErrorIs(t, err, ErrNotModel)
	require.ErrorIs(t, SaveLlama2c(dir, newModel(t, tiny(), 1), 0), ErrNotModel)
	_, err = LoadLlama2c(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
