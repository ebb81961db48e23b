package train_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/train"
)

// A real file system that is really full: the save fails, the run goes on, and
// is saved when there is room again, or ends with its last checkpoint whole.
func TestARunOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a file system")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(disk, syscall.MNT_DETACH)) })
	whole := newTrainer(t, newConfig(t))
	run(t, whole, 0)
	filler := filepath.Join(disk, "filler")
	fill := func() {
		f, err := os.Create(filler)
		require.NoError(t, err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
	for _, mended := range []int{13, 100} {
		c := newConfig(t)
		c.Dir, c.SaveEvery, c.SaveRetries, c.SaveRetryDelay = filepath.Join(disk, "run"), 5, 6, time.Nanosecond
		var failed []int
		c.OnEvent = func(e train.Event) {
			if e.Kind == train.SaveFailed {
				require.ErrorIs(t, e.Err, syscall.ENOSPC)
				failed = append(failed, e.Step.Step)
				state, _, err := checkpoint.LoadState(c.Dir)
				require.NoError(t, err)
				require.Equal(t, 5, state.Step)
			}
		}
		tr := newTrainer(t, c)
		err := runUntil(tr, func(s train.Step) {
			if s.Step == 7 {
				fill()
			}
			if s.Step == mended {
				require.NoError(t, os.Remove(filler))
			}
		})
		if mended == 13 {
			require.NoError(t, err)
			require.Equal(t, []int{10, 11, 12, 13}, failed)
		} else {
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.Equal(t, 16, tr.Step())
			require.NoError(t, os.Remove(filler))
			run(t, tr, 0) // the state was intact
		}
		require.Equal(t, weights(whole), weights(tr))
		state, _, err := checkpoint.LoadState(c.Dir)
		require.NoError(t, err)
		require.Equal(t, 20, state.Step)
		require.NoError(t, tr.Close())
		require.NoError(t, os.RemoveAll(c.Dir))
	}

	// A disk that is too small is refused before the first step.
	c := newConfig(t)
	c.Dir = filepath.Join(disk, "run")
	fill()
	_, err := train.New(c)
	require.Error(t, err)
	require.ErrorContains(t, err, "train: output directory: ")
}
