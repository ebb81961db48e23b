//go:build unix

package train_test

import (
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/train"
)

// A file system that says that it has room, and where no byte can be written.
func TestADirectoryThatTakesNoByteIsRefusedBeforeTheFirstStep(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	c := newConfig(t)
	c.Dir = t.TempDir()
	none := limit
	none.Cur = 0
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &none))
	_, err := train.New(c)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	require.ErrorIs(t, err, syscall.EFBIG)
	require.ErrorContains(t, err, "train: output directory: ")
	require.ErrorContains(t, err, c.Dir)
	left, err := os.ReadDir(c.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
