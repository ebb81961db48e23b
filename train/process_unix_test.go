//go:build unix

package train_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/train"
)

// The test binary runs itself as a process to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CHAINRULE_TEST_DIR"); dir != "" {
		trainForever(dir)
	}
	os.Exit(m.Run())
}

const killSaveEvery = 3

// killConfig is the run that is killed, without its model and its directory.
func killConfig(be *cpu.Backend) train.Config {
	return train.Config{
		Backend: be, Train: corpus(200), Val: corpus(50), Batch: 2, SeqLen: 12, Steps: 1 << 30, Seed: 7,
		Schedule: train.WarmupCosine{LR: 1e-2, MinLR: 1e-3, Warmup: 4, Steps: 2000}, ClipNorm: 0.5, EMA: 0.9,
		SaveEvery: killSaveEvery, Keep: 2, OnBad: train.RollBack, Spike: 1e9,
	}
}

func killModel() *chainrule.Model {
	m, err := chainrule.NewModel(shape)
	must(err)
	m.Init(3)
	return m
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// trainForever goes on with the run in dir, and tells of every step before it
// is saved, and of every save.
func trainForever(dir string) {
	be, err := cpu.New(cpu.Options{})
	must(err)
	c := killConfig(be)
	c.Dir, c.Model = dir, killModel()
	c.OnEvent = func(e train.Event) {
		if e.Kind == train.Stepped || e.Kind == train.Saved {
			fmt.Println(e.Kind, e.Step.Step)
		}
	}
	t, err := train.Resume(dir, c)
	if os.IsNotExist(err) || err != nil && strings.Contains(err.Error(), "no training state") {
		t, err = train.New(c)
	}
	must(err)
	for _, err := range t.Run(context.Background()) {
		must(err)
	}
}

// kills is how many processes TestAKilledRunLosesNothing kills: CHAINRULE_KILLS,
// or 100.
func kills(t *testing.T) int {
	s := os.Getenv("CHAINRULE_KILLS")
	if s == "" {
		return 100
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, "CHAINRULE_KILLS")
	return n
}

// A run is killed at random instants, every other time as soon as a save has
// begun. It loses no more than the steps since the last save, and what it goes
// on from is, bit for bit, what a run that nobody kills comes by.
func TestAKilledRunLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a hundred processes")
	}
	total := kills(t)
	dir := t.TempDir()
	c := killConfig(newBackend(t))
	c.Model, c.SaveEvery, c.OnBad, c.Keep = killModel(), 0, train.Stop, 0
	whole, err := train.New(c)
	require.NoError(t, err)

	known, midway, lost := 0, 0, 0
	for kill := range total {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CHAINRULE_TEST_DIR="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		inSave := kill%2 == 0
		after := rand.IntN(12)
		delay := time.Duration(rand.Int64N(int64(12 * time.Millisecond)))
		armed := false
		arm := func() {
			if !armed {
				armed = true
				time.AfterFunc(delay, func() { cmd.Process.Kill() })
			}
		}
		reached := known
		for lines := bufio.NewScanner(out); lines.Scan(); {
			kind, number, _ := strings.Cut(lines.Text(), " ")
			step, err := strconv.Atoi(number)
			require.NoError(t, err)
			if reached = max(reached, step); kind == string(train.Saved) {
				known = step
			}
			if after--; after <= 0 && (!inSave || kind == string(train.Stepped) && step%killSaveEvery == 0) {
				arm()
			}
		}
		require.EqualError(t, cmd.Wait(), "signal: killed")
		for _, name := range listOf(t, dir) {
			if strings.HasPrefix(name, ".") {
				midway++
				break
			}
		}
		state, _, err := checkpoint.LoadState(dir)
		if os.IsNotExist(err) || err != nil && known == 0 {
			continue // before its first save
		}
		require.NoError(t, err, "kill %d", kill)
		require.Empty(t, state.Damaged)
		require.GreaterOrEqual(t, state.Step, known)
		require.Zero(t, state.Step%killSaveEvery)
		lost = max(lost, reached-state.Step)
		require.LessOrEqual(t, reached-state.Step, killSaveEvery, "more than a save interval is lost")
		known = state.Step
		if n := state.Step - whole.Step(); n > 0 {
			run(t, whole, n)
		}
		require.Equal(t, weights(whole), bitsOf(state.Model.Data), "kill %d, step %d", kill, state.Step)
		require.Equal(t, bitsOf(whole.AdamState().M), bitsOf(state.Optimizer.M))
		require.Equal(t, bitsOf(whole.AdamState().V), bitsOf(state.Optimizer.V))
		require.Equal(t, bitsOf(whole.Averaged().Data), bitsOf(state.Average.Data))
	}
	t.Logf("%d steps; %d of %d kills left a save half done; at most %d steps were lost, of %d between saves",
		known, midway, total, lost, killSaveEvery)
	require.Greater(t, midway, total/10)
}

func listOf(t testing.TB, dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The holder of the lock is another process, which the message names.
func TestARunThatAnotherProcessHas(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process, which an emulator may not do")
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CHAINRULE_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "save 3" {
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	c := killConfig(newBackend(t))
	c.Dir, c.Model = dir, killModel()
	for _, enter := range []func() (*train.Trainer, error){
		func() (*train.Trainer, error) { return train.New(c) },
		func() (*train.Trainer, error) { return train.Resume(dir, c) },
	} {
		_, err := enter()
		require.ErrorIs(t, err, train.ErrBusy)
		require.ErrorContains(t, err, "process "+strconv.Itoa(cmd.Process.Pid))
	}
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	require.FileExists(t, filepath.Join(dir, "run.lock"))
	require.GreaterOrEqual(t, resume(t, dir, c).Step(), 3) // the kernel gave it up
}
