package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
)

func save(t testing.TB, dir string, s *State) string {
	t.Helper()
	path, err := SaveState(dir, s)
	require.NoError(t, err)
	return path
}

func TestSavedStateLoadsToTheSameBits(t *testing.T) {
	for name, c := range shapes {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			s := newState(t, c, 3)
			path := save(t, dir, s)
			require.Equal(t, filepath.Join(dir, "checkpoint-3"), path)
			require.Equal(t, []string{"config.json", "model.safetensors", "optimizer.safetensors", "trainer.json"}, names(t, path))

			for _, from := range []string{dir, path} {
				got, at, err := LoadState(from)
				require.NoError(t, err)
				require.Equal(t, path, at)
				require.Empty(t, got.Damaged)
				requireSameState(t, s, got)
				again := t.TempDir()
				save(t, again, got)
				require.Equal(t, tree(t, dir), tree(t, again))
			}
			m, err := LoadDir(path)
			require.NoError(t, err)
			requireSameModel(t, s.Model, m)
			_, err = LoadDir(dir)
			require.ErrorContains(t, err, path)
		})
	}
}

func TestHyperparametersStayAsTheyAre(t *testing.T) {
	for _, hyper := range []string{"", `{}`, `"a\u2028<&>"`, `[1, 2.50, 1e5]`, "{\n \"a\":\t1}"} {
		s := newState(t, tiny(), 1)
		s.Hyper = nil
		if hyper != "" {
			s.Hyper = []byte(hyper)
		}
		got, _, err := LoadState(save(t, t.TempDir(), s))
		require.NoError(t, err)
		require.Equal(t, s.Hyper, got.Hyper)
	}
	for _, hyper := range []string{
		`{`, `1, "step": 2`, `{"a": 1, "a": 2}`, "\"\xff\"", `"` + strings.Repeat("a", maxSmall) + `"`,
	} {
		dir := t.TempDir()
		s := newState(t, tiny(), 1)
		s.Hyper = []byte(hyper)
		_, err := SaveState(dir, s)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "hyperparameters")
		require.Empty(t, names(t, dir))
	}
}

func TestMomentsAreStoredLikeTheirWeights(t *testing.T) {
	s := newState(t, shapes["qwen3"], 1)
	path := save(t, t.TempDir(), s)
	file, _ := readSafetensors(t, filepath.Join(path, "optimizer.safetensors"))
	for prefix, data := range map[string][]float32{"exp_avg.": s.Optimizer.M, "exp_avg_sq.": s.Optimizer.V} {
		p, err := chainrule.ParamsOf(s.Model.Config, data)
		require.NoError(t, err)
		k := p.Layers[0].KNorm
		require.Equal(t, []float32{k[0], k[2], k[4], k[1], k[3], k[5]},
			file[prefix+"model.layers.0.self_attn.k_norm.weight"])
		require.Equal(t, bitsOf(p.Layers[1].W3), bitsOf(file[prefix+"model.layers.1.mlp.up_proj.weight"]))
	}
	weights, _ := readSafetensors(t, filepath.Join(path, "model.safetensors"))
	require.Len(t, file, 2*len(weights))
}

func TestOnlyTheNewestStateStays(t *testing.T) {
	dir := t.TempDir()
	for _, other := range []string{"loss.png", "checkpoint-1/trainer_state.json", "checkpoint-02/trainer.json", ".tmp-mine/a"} {
		write(t, filepath.Join(dir, other), "not ours")
	}
	for _, orphan := range []string{".tmp-checkpoint-1-00ff/config.json", ".removed-checkpoint-0/config.json"} {
		write(t, filepath.Join(dir, orphan), "of a killed save")
	}
	for step := 2; step < 5; step++ {
		s := newState(t, tiny(), step)
		save(t, dir, s)
		got, _, err := LoadState(dir)
		require.NoError(t, err)
		requireSameState(t, s, got)
	}
	require.Equal(t, []string{".tmp-mine", "checkpoint-02", "checkpoint-1", "checkpoint-4", "loss.png"}, names(t, dir))
	_, err := SaveState(dir, newState(t, tiny(), 1))
	require.ErrorIs(t, err, ErrNewer)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "checkpoint-4")))
	_, err = SaveState(dir, newState(t, tiny(), 1))
	require.ErrorContains(t, err, "not a training state")
	require.Equal(t, []string{".tmp-mine", "checkpoint-02", "checkpoint-1", "loss.png"}, names(t, dir))
}

func TestTheSameStepIsReplaced(t *testing.T) {
	dir := t.TempDir()
	s := newState(t, tiny(), 7)
	save(t, dir, s)
	s.Position++
	s.Model.Data[0]++
	save(t, dir, s)
	got, _, err := LoadState(dir)
	require.NoError(t, err)
	requireSameState(t, s, got)
	require.Equal(t, []string{"checkpoint-7"}, names(t, dir))
}

func TestARunBegunAnewDoesNotEndAnOldOne(t *testing.T) {
	dir := t.TempDir()
	old := newState(t, tiny(), 7)
	save(t, dir, old)
	before := tree(t, dir)
	_, err := SaveState(dir, newState(t, tiny(), 0))
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, "checkpoint-7")
	require.Equal(t, before, tree(t, dir))
	require.Equal(t, []string{"checkpoint-7"}, names(t, dir))
}

// twoStates returns a directory with whole states of steps 5 and 9.
func twoStates(t *testing.T) (dir string, older, newer *State) {
	dir = t.TempDir()
	older, newer = newState(t, tiny(), 5), newState(t, tiny(), 9)
	save(t, dir, newer)
	other := t.TempDir()
	require.NoError(t, os.Rename(save(t, other, older), filepath.Join(dir, "checkpoint-5")))
	return dir, older, newer
}

func TestADamagedStateFallsBackToAWholeOne(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, state string){
		"no weights":  func(t *testing.T, p string) { require.NoError(t, os.Remove(filepath.Join(p, weightsFile))) },
		"cut moments": func(t *testing.T, p string) { require.NoError(t, os.Truncate(filepath.Join(p, optimizerFile), 100)) },
		"bad config": func(t *testing.T, p string) {
			write(t, filepath.Join(p, configFile), strings.Replace(read(t, filepath.Join(p, configFile)), "10000.0", "10001.0", 1))
		},
		"zeroed trainer": func(t *testing.T, p string) { // what some file systems leave when power is lost
			write(t, filepath.Join(p, trainerFile), strings.Repeat("\x00", len(read(t, filepath.Join(p, trainerFile)))))
		},
		"foreign trainer": func(t *testing.T, p string) { write(t, filepath.Join(p, trainerFile), "<html>404") },
		"zeroed weights": func(t *testing.T, p string) {
			write(t, filepath.Join(p, weightsFile), strings.Repeat("\x00", len(read(t, filepath.Join(p, weightsFile)))))
		},
		"empty trainer": func(t *testing.T, p string) { write(t, filepath.Join(p, trainerFile), "") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, older, newer := twoStates(t)
			got, _, err := LoadState(dir)
			require.NoError(t, err)
			requireSameState(t, newer, got)

			bad := filepath.Join(dir, "checkpoint-9")
			damage(t, bad)
			got, path, err := LoadState(dir)
			require.NoError(t, err)
			require.Equal(t, filepath.Join(dir, "checkpoint-5"), path)
			requireSameState(t, older, got)
			require.Len(t, got.Damaged, 1)
			require.ErrorContains(t, got.Damaged[0], bad)

			got.Step = 6 // goes on from there, and keeps the damaged one for inspection
			save(t, dir, got)
			require.Equal(t, []string{"checkpoint-6", "damaged-checkpoint-9"}, names(t, dir))
			_, path, err = LoadState(dir)
			require.NoError(t, err)
			require.Equal(t, filepath.Join(dir, "checkpoint-6"), path)
		})
	}
}

func TestAStateOfAnotherVersionDoesNotFallBack(t *testing.T) {
	dir, _, _ := twoStates(t)
	path := filepath.Join(dir, "checkpoint-9", trainerFile)
	b := resum([]byte(strings.Replace(read(t, path), `"version": 1`, `"version": 2`, 1)))
	write(t, path, string(b))
	_, _, err := LoadState(dir)
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "version is 2, want 1")
	_, err = SaveState(dir, newState(t, tiny(), 6))
	require.ErrorContains(t, err, "version is 2")
}

// resum gives a changed trainer.json its checksum.
func resum(b []byte) []byte {
	at := len(b) - len(sumAfter) - sumDigits
	copy(b[at:], strings.Repeat("0", sumDigits))
	sum := sha256.Sum256(b)
	hex.Encode(b[at:], sum[:])
	return b
}

func TestNoState(t *testing.T) {
	dir := t.TempDir()
	_, _, err := LoadState(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, dir)
	_, _, err = LoadState(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
	write(t, filepath.Join(dir, "file"), "")
	_, _, err = LoadState(filepath.Join(dir, "file"))
	require.ErrorIs(t, err, ErrNotModel)
	_, err = SaveState(filepath.Join(dir, "file"), newState(t, tiny(), 1))
	require.ErrorContains(t, err, "not a directory")
	_, err = SaveState(filepath.Join(dir, "file", "below"), newState(t, tiny(), 1))
	require.ErrorContains(t, err, "file")
}

func TestWrongArgumentsPanic(t *testing.T) {
	s := newState(t, tiny(), 1)
	s.Optimizer.M = s.Optimizer.M[1:]
	require.PanicsWithValue(t, "checkpoint: SaveState: Optimizer is of another shape than Model", func() { SaveState(t.TempDir(), s) })
	require.Panics(t, func() { SaveState(t.TempDir(), nil) })
	require.PanicsWithValue(t, "checkpoint: SaveDir: no Model", func() { SaveDir(t.TempDir(), &Bundle{Model: nil}, SaveOptions{}) })
	require.PanicsWithValue(t, "checkpoint: SaveLlama2c: nil Model", func() { SaveLlama2c(filepath.Join(t.TempDir(), "m"), nil, 0) })
	s = newState(t, tiny(), 1)
	s.Step = -1
	require.Panics(t, func() { SaveState(t.TempDir(), s) })
}

func requireDamaged(t *testing.T, dir string, is error, what ...any) {
	t.Helper()
	_, _, err := LoadState(dir)
	if !errors.Is(err, is) {
		require.ErrorIs(t, err, is, what...)
	}
}

func TestEveryBitFlipIsAChecksumError(t *testing.T) {
	small := chainrule.Config{
		Dim: 2, HiddenDim: 1, NLayers: 1, NHeads: 1, NKVHeads: 1, HeadDim: 2, VocabSize: 2, SeqLen: 1,
		RopeTheta: 10000, Tied: true,
	}
	dir := save(t, t.TempDir(), newState(t, small, 1))
	for _, name := range []string{trainerFile, configFile, weightsFile, optimizerFile} {
		path := filepath.Join(dir, name)
		good := []byte(read(t, path))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		flip := func(bit int) {
			b := []byte{good[bit/8] ^ 1<<(bit%8)}
			_, err := f.WriteAt(b, int64(bit/8))
			require.NoError(t, err)
			requireDamaged(t, dir, ErrChecksum, "%s: bit %d", name, bit)
			_, err = f.WriteAt(good[bit/8:bit/8+1], int64(bit/8))
			require.NoError(t, err)
		}
		switch {
		case name == trainerFile:
			for bit := range 8 * len(good) {
				flip(bit)
			}
		case name != configFile && !testing.Short(): // the whole header
			for bit := range 8 * (8 + int(binary.LittleEndian.Uint64(good))) {
				flip(bit)
			}
			fallthrough
		default:
			r := rand.New(rand.NewPCG(1, 2))
			for range 300 {
				flip(r.IntN(8 * len(good)))
			}
		}
	}
	_, _, err := LoadState(dir) // and all of it is as it was
	require.NoError(t, err)
}

func TestEveryTruncationIsAnError(t *testing.T) {
	c := chainrule.Config{
		Dim: 2, HiddenDim: 1, NLayers: 1, NHeads: 1, NKVHeads: 1, HeadDim: 2, VocabSize: 2, SeqLen: 1,
		RopeTheta: 10000, Tied: true,
	}
	dir := save(t, t.TempDir(), newState(t, c, 1))
	for _, name := range []string{trainerFile, configFile, weightsFile, optimizerFile} {
		path := filepath.Join(dir, name)
		good := read(t, path)
		for size := len(good) - 1; size >= 0; size-- {
			require.NoError(t, os.Truncate(path, int64(size)))
			requireDamaged(t, dir, ErrTruncated, "%s: %d bytes", name, size)
		}
		write(t, path, good+"x")
		requireDamaged(t, dir, ErrChecksum)
		write(t, path, good)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	for name, content := range tree(t, from) {
		write(t, filepath.Join(to, name), content)
	}
}

// What is on the disk before each change of a save is what a kill there
// leaves. It must load as the old or the new state, and the next save must
// find its way.
func TestASaveStoppedAnywhereLeavesTheOldOrTheNewState(t *testing.T) {
	for name, next := range map[string]int{"later step": 8, "same step": 7} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before, after := newState(t, tiny(), 7), newState(t, tiny(), next)
			after.Position += 5
			after.Model.Data[1]++
			save(t, dir, before)
			stops, seenNew := 0, false
			setHook(t, func(op, _ string) error {
				stops++
				left := t.TempDir()
				copyTree(t, dir, left)
				got, _, err := LoadState(left)
				require.NoError(t, err, "stopped before %s", op)
				require.Empty(t, got.Damaged)
				if got.Position == after.Position {
					seenNew = true
					requireSameState(t, after, got)
				} else {
					require.False(t, seenNew, "the old state came back")
					requireSameState(t, before, got)
				}
				last := newState(t, tiny(), next+1)
				resume := hook
				hook = nil
				save(t, left, last)
				hook = resume
				got, _, err = LoadState(left)
				require.NoError(t, err)
				requireSameState(t, last, got)
				require.Equal(t, []string{statePrefix + strconv.Itoa(next+1)}, names(t, left))
				return nil
			})
			save(t, dir, after)
			require.True(t, seenNew)
			require.Greater(t, stops, 15)
		})
	}
}

// Every change to the disk fails in turn, as on a full or broken one.
func TestAFailedSaveKeepsTheOldState(t *testing.T) {
	for name, next := range map[string]int{"later step": 8, "same step": 7} {
		t.Run(name, func(t *testing.T) {
			for at := 0; ; at++ {
				dir := t.TempDir()
				before, after := newState(t, tiny(), 7), newState(t, tiny(), next)
				after.Position += 5
				save(t, dir, before)
				n := 0
				setHook(t, func(op, path string) error {
					if n++; n == at+1 {
						return io.ErrShortWrite
					}
					return nil
				})
				path, err := SaveState(dir, after)
				hook = nil
				got, _, loadErr := LoadState(dir)
				require.NoError(t, loadErr)
				require.Empty(t, got.Damaged)
				if n <= at {
					require.NoError(t, err)
					require.Greater(t, at, 15)
					return
				}
				require.ErrorIs(t, err, io.ErrShortWrite)
				if path != "" {
					requireSameState(t, after, got)
				} else {
					requireSameState(t, before, got)
					for _, name := range names(t, dir) {
						require.False(t, strings.HasPrefix(name, temporary), name)
					}
				}
				save(t, dir, after)
				got, _, err = LoadState(dir)
				require.NoError(t, err)
				requireSameState(t, after, got)
				require.Len(t, names(t, dir), 1)
			}
		})
	}
}

// A machine may lose power: what has a final name must be on the disk before
// the name is, and the name before the old state goes.
func TestASaveSyncsBeforeItDepends(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, newState(t, tiny(), 1))
	dirty := map[string]bool{} // files and directories with changes that are not synced
	var order []string
	setHook(t, func(op, path string) error {
		switch op {
		case "create", "mkdir":
			dirty[path], dirty[filepath.Dir(path)] = true, true
		case "write":
			dirty[path] = true
		case "sync", "syncdir":
			delete(dirty, path)
		case "rename":
			order = append(order, op)
			for d := range dirty {
				// A name about to be replaced may itself be unsynced: only its
				// directory's other changes are at stake.
				require.True(t, d == dir && len(order) == 1, "%s is not synced before the rename to %s", d, path)
			}
			dirty[dir] = true
		case "delete":
			if len(order) == 1 {
				require.Empty(t, dirty, "not synced before %s is deleted", path)
				order = append(order, op)
				return nil
			}
			delete(dirty, dir) // from here on only names of no account change
		}
		return nil
	})
	save(t, dir, newState(t, tiny(), 2))
	require.Equal(t, []string{"rename", "delete", "rename"}, order)
}

func TestMissingDirectoriesAreMadeDurably(t *testing.T) {
	base := t.TempDir()
	var ops []string
	setHook(t, func(op, path string) error {
		if rel, _ := filepath.Rel(base, path); op == "mkdir" || op == "syncdir" {
			ops = append(ops, op+" "+filepath.ToSlash(rel))
		}
		return nil
	})
	require.NoError(t, makeDir(filepath.Join(base, "a", "b")))
	require.Equal(t, []string{"mkdir a", "syncdir .", "mkdir a/b", "syncdir a"}, ops)
}

// A state that is replaced by another of its step while it is read is no damage.
func TestAStateReplacedWhileItIsReadIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	s := newState(t, tiny(), 1)
	save(t, dir, s)
	calls := 0
	_, path, bad, err := newest(dir, func(path string) (*trainer, error) {
		if calls++; calls == 1 {
			require.NoError(t, os.Rename(path, path+"-gone"))
			_, err := readTrainer(path)
			save(t, dir, s)
			return nil, err
		}
		return readTrainer(path)
	})
	require.NoError(t, err)
	require.Empty(t, bad)
	require.Equal(t, filepath.Join(dir, "checkpoint-1"), path)
	require.Equal(t, 2, calls)
}

// A run that saves removes or replaces the state that a reader has just
// chosen.
func TestLoadingBesideARunThatSaves(t *testing.T) {
	dir := t.TempDir()
	done := make(chan error)
	states := make([]*State, 60)
	for i := range states {
		states[i] = newState(t, tiny(), i/2)
		states[i].Position = int64(i)
	}
	save(t, dir, states[0])
	go func() {
		for _, s := range states[1:] {
			if _, err := SaveState(dir, s); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	last := int64(0)
	for running := true; running; {
		select {
		case err := <-done:
			require.NoError(t, err)
			running = false
		default:
		}
		s, _, err := LoadState(dir)
		require.NoError(t, err)
		require.Empty(t, s.Damaged)
		require.GreaterOrEqual(t, s.Position, last)
		last = s.Position
	}
	require.EqualValues(t, len(states)-1, last)
}
