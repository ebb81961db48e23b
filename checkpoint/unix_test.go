//go:build unix

package checkpoint

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// The test binary runs itself as a process to be killed or confined.
func TestMain(m *testing.M) {
	switch dir := os.Getenv("CHAINRULE_TEST_DIR"); os.Getenv("CHAINRULE_TEST_CHILD") {
	case "save":
		saveForever(dir)
	case "full":
		saveOnFullDisk(dir)
	case "open":
		openOnce(dir)
	default:
		os.Exit(m.Run())
	}
}

func child(name, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CHAINRULE_TEST_CHILD="+name, "CHAINRULE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// stateOf derives all of a state from a number, which is its Position. Two
// numbers make one step, so that every other save replaces a state.
func stateOf(n int64) *State {
	c := tiny()
	m, err := chainrule.NewModel(c)
	must(err)
	a, err := chainrule.NewAdamState(c)
	must(err)
	fill(m.Data, uint64(n))
	fill(a.M, uint64(n)+1<<32)
	fill(a.V, uint64(n)+2<<32)
	a.Step = int(n)
	return &State{
		Model: m, Optimizer: a, Step: int(n / 2), Seed: uint64(n) * 3, Position: n,
		Hyper: []byte(strconv.FormatInt(n, 10)),
	}
}

// saveForever goes on from the state in dir and prints the number of each
// state once it is saved.
func saveForever(dir string) {
	s, _, err := LoadState(dir)
	must(err)
	fmt.Println("ready")
	for n := s.Position + 1; ; n++ {
		_, err := SaveState(dir, stateOf(n))
		must(err)
		fmt.Println(n)
	}
}

// kills is how many saves TestAKilledSaveLosesNothing kills: CHAINRULE_KILLS, or
// 120.
func kills(t *testing.T) int {
	s := os.Getenv("CHAINRULE_KILLS")
	if s == "" {
		return 120
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, "CHAINRULE_KILLS")
	require.GreaterOrEqual(t, n, 100, "CHAINRULE_KILLS")
	return n
}

func TestAKilledSaveLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a hundred processes")
	}
	total := kills(t)
	dir := t.TempDir()
	save(t, dir, stateOf(0))
	last, midway := int64(0), 0
	delay := 5 * time.Millisecond
	for kill := range total {
		cmd := child("save", dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		require.Equal(t, "ready", lines.Text())
		start, first := time.Now(), last
		time.AfterFunc(time.Duration(rand.Int64N(int64(delay))), func() { cmd.Process.Kill() })
		for lines.Scan() {
			last, err = strconv.ParseInt(lines.Text(), 10, 64)
			require.NoError(t, err)
		}
		if took, n := time.Since(start), last-first; n > 0 { // kills fall into the first three saves or so
			delay = min(3*took/time.Duration(n), 200*time.Millisecond)
		} else {
			delay = min(delay*2, 200*time.Millisecond)
		}
		require.Error(t, cmd.Wait()) // killed
		if len(names(t, dir)) > 1 {
			midway++
		}
		got, _, err := LoadState(dir)
		require.NoError(t, err, "kill %d", kill)
		require.Empty(t, got.Damaged)
		require.GreaterOrEqual(t, got.Position, last)
		require.LessOrEqual(t, got.Position, last+1)
		requireSameState(t, stateOf(got.Position), got)
		last = got.Position
	}
	t.Logf("%d saves; %d of %d kills left one half done", last, midway, total)
	require.Greater(t, midway, total/12)
	require.Greater(t, last, int64(20))
}

// saveOnFullDisk saves with every limit on the size of a file, from none at
// all, and checks that the old state stays until one is saved.
func saveOnFullDisk(dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	old, _, err := LoadState(dir)
	must(err)
	next := stateOf(old.Position + 2)
	for limit := 0; ; limit += 97 {
		var r syscall.Rlimit
		must(syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r))
		r.Cur = uint64(limit)
		must(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r))
		_, saveErr := SaveState(dir, next)
		got, _, err := LoadState(dir)
		must(err)
		if saveErr == nil {
			if got.Position != next.Position || limit < 1000 {
				must(fmt.Errorf("limit %d: saved %d, loaded %d", limit, next.Position, got.Position))
			}
			return
		}
		if got.Position != old.Position || len(got.Damaged) > 0 {
			must(fmt.Errorf("limit %d: %v, and the old state is gone", limit, saveErr))
		}
		entries, err := os.ReadDir(dir)
		must(err)
		if len(entries) != 1 {
			must(fmt.Errorf("limit %d: %v are left", limit, entries))
		}
	}
}

func TestAFullDiskKeepsTheOldState(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes, which an emulator may not do")
	}
	dir := t.TempDir()
	save(t, dir, stateOf(4))
	require.NoError(t, child("full", dir).Run())
	got, _, err := LoadState(dir)
	require.NoError(t, err)
	requireSameState(t, stateOf(6), got)
}

func TestPathsThatAreNoFilesNeverBlock(t *testing.T) {
	dir := t.TempDir()
	pipe, loop, zero := filepath.Join(dir, "pipe"), filepath.Join(dir, "loop"), filepath.Join(dir, "zero")
	require.NoError(t, syscall.Mkfifo(pipe, 0o666))
	require.NoError(t, os.Symlink("loop", loop))
	require.NoError(t, os.Symlink("/dev/zero", zero))
	good := t.TempDir()
	require.NoError(t, SaveDir(good, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{}))
	state := save(t, t.TempDir(), newState(t, tiny(), 1))

	for path, is := range map[string]string{
		pipe: "named pipe", loop: "loop", zero: "device", "/dev/zero": "device", dir: "directory",
	} {
		t.Run(is, func(t *testing.T) {
			check := func(err error) {
				t.Helper()
				require.ErrorIs(t, err, ErrNotModel)
				require.ErrorContains(t, err, is)
			}
			_, err := LoadLlama2c(path)
			check(err)
			for _, name := range []string{configFile, weightsFile} {
				bad := t.TempDir()
				copyTree(t, good, bad)
				require.NoError(t, os.Remove(filepath.Join(bad, name)))
				require.NoError(t, os.Symlink(path, filepath.Join(bad, name)))
				_, err := LoadDir(bad)
				check(err)
			}
			for _, name := range []string{configFile, weightsFile, optimizerFile, trainerFile} {
				bad := t.TempDir()
				copyTree(t, state, bad)
				require.NoError(t, os.Remove(filepath.Join(bad, name)))
				require.NoError(t, os.Symlink(path, filepath.Join(bad, name)))
				_, _, err := LoadState(bad)
				check(err)
			}
		})
	}
	file := filepath.Join(dir, "file.zip") // and none of them is a directory
	write(t, file, "PK\x03\x04")
	for _, path := range []string{pipe, loop, zero, "/dev/zero", file} {
		_, err := LoadDir(path)
		require.ErrorIs(t, err, ErrNotModel)
		require.ErrorContains(t, err, path)
		_, _, err = LoadState(path)
		require.ErrorIs(t, err, ErrNotModel)
		require.ErrorContains(t, err, path)
	}
	require.ErrorIs(t, SaveLlama2c(pipe, newModel(t, tiny(), 1), 0), ErrNotModel)
	require.ErrorIs(t, SaveLlama2c(zero, newModel(t, tiny(), 1), 0), ErrNotModel)
}

func TestLinksToAModelLoad(t *testing.T) {
	blobs, dir := t.TempDir(), t.TempDir()
	m := newModel(t, tiny(), 1)
	require.NoError(t, SaveDir(blobs, &Bundle{Model: m}, SaveOptions{}))
	for _, name := range []string{configFile, weightsFile} {
		require.NoError(t, os.Symlink(filepath.Join(blobs, name), filepath.Join(dir, name)))
	}
	got, err := LoadDir(dir)
	require.NoError(t, err)
	requireSameModel(t, m, got)
}

// peakMemory returns the most memory that the process has had resident.
func peakMemory() (bytes int64, err error) {
	status, err := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); n == 1 {
			return bytes << 10, nil
		}
	}
	return 0, err
}

// openOnce opens dir and prints by how much that raised the peak of memory.
func openOnce(dir string) {
	before, err := peakMemory()
	must(err)
	b, err := Open(dir, OpenOptions{})
	must(err)
	after, err := peakMemory()
	must(err)
	fmt.Println(after - before)
	runtime.KeepAlive(b)
}

// The peak is that of the model in float32, and 64 MiB for all else: here a
// tokenizer of half the size of those of Llama 3 and Qwen.
func TestOpenNeedsTheMemoryOfTheModel(t *testing.T) {
	if _, err := peakMemory(); err != nil || testing.Short() || raced {
		t.Skip("it asks Linux, and writes 100 MB; the race detector takes memory of its own")
	}
	o := tokenizer.BPEOptions{Pre: "gpt-2"}
	letters := byteSpellings(t)
	o.Tokens = slices.Clone(letters)
	for _, a := range letters {
		for _, b := range letters {
			o.Tokens, o.Merges = append(o.Tokens, a+b), append(o.Merges, a+" "+b)
		}
	}
	bpe, err := tokenizer.NewBPE(o)
	require.NoError(t, err)
	c := with(tiny(), func(c *chainrule.Config) {
		c.Dim, c.HiddenDim, c.NHeads, c.NKVHeads, c.HeadDim, c.VocabSize, c.NLayers = 256, 4096, 4, 2, 64, bpe.VocabSize(), 8
	})
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	m.Init(1)
	for _, save := range []SaveOptions{{DType: "BF16", ShardSize: 30e6}, {}} {
		dir := filepath.Join(t.TempDir(), "model")
		require.NoError(t, SaveDir(dir, &Bundle{Model: m, Tokenizer: bpe}, save))
		cmd := child("open", dir)
		out, err := cmd.Output()
		require.NoError(t, err)
		var grown int64
		_, err = fmt.Sscan(string(out), &grown)
		require.NoError(t, err)
		model := int64(4 * c.NumParams())
		t.Logf("%s: %d MiB for a model of %d MiB and a %s of %d MiB", save.DType, grown>>20, model>>20, tokenizerFile,
			len(read(t, filepath.Join(dir, tokenizerFile)))>>20)
		require.Greater(t, grown, model)
		require.Less(t, grown, model+64<<20)
	}
}

// byteSpellings is how a byte-level vocabulary spells the bytes.
func byteSpellings(t *testing.T) (letters []string) {
	var b bytes.Buffer
	require.NoError(t, tokenizer.Byte{}.WriteJSON(&b))
	bpe, err := tokenizer.ReadJSON(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	for c := range int32(256) {
		letters = append(letters, bpe.Token(c))
	}
	return letters
}
