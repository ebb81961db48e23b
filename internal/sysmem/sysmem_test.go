package sysmem

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFreeIsTheLeastOfTheMachineAndTheGroupsAround(t *testing.T) {
	const available = "MemTotal:  9 kB\nMemAvailable:   1000 kB\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64 // −1: unknown
	}{
		{"nothing is said", nil, -1},
		{"the machine", map[string]string{"proc/meminfo": available}, 1000 << 10},
		{"no limit", map[string]string{
			"proc/meminfo": available, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "5\n",
		}, 1000 << 10},
		{"its own group", map[string]string{
			"proc/meminfo": available, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "5000\n", "sys/fs/cgroup/a/b/memory.current": "2000\n",
		}, 3000},
		{"a group around, less what is cached", map[string]string{
			"proc/meminfo": available, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/memory.max": "5000\n", "sys/fs/cgroup/a/memory.current": "2000\n",
			"sys/fs/cgroup/a/memory.stat":  "anon 1000\ninactive_file 500\nactive_file 500\n",
			"sys/fs/cgroup/a/b/memory.max": "50000\n", "sys/fs/cgroup/a/b/memory.current": "2000\n",
		}, 3500},
		{"a container's root", map[string]string{
			"proc/meminfo": available, "proc/self/cgroup": "0::/outside\n",
			"sys/fs/cgroup/memory.max": "4096\n", "sys/fs/cgroup/memory.current": "96\n",
		}, 4000},
		{"version 1", map[string]string{
			"proc/meminfo": available, "proc/self/cgroup": "5:cpu,memory:/x\n1:name=systemd:/x\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9000\n", "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
		}, 8000},
		{"a limit alone", map[string]string{
			"sys/fs/cgroup/memory.max": "4096\n", "sys/fs/cgroup/memory.current": "96\n",
		}, 4000},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range c.files {
				path := filepath.Join(root, name)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
				require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
			}
			bytes, ok := free(root)
			require.Equal(t, c.want >= 0, ok)
			if ok {
				require.Equal(t, c.want, bytes)
			}
		})
	}
}

func TestTheSystemAnswers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the questions are Linux's")
	}
	bytes, ok := Free()
	require.True(t, ok)
	require.Greater(t, bytes, int64(1<<20))
	before, ok := Peak()
	require.True(t, ok)
	more := make([]byte, 64<<20)
	for i := 0; i < len(more); i += 4096 {
		more[i] = 1
	}
	after, _ := Peak()
	require.GreaterOrEqual(t, after, before) // equal where memory that was freed is used again
	require.GreaterOrEqual(t, after, int64(len(more)))
	runtime.KeepAlive(more)
	bytes, ok = Disk(t.TempDir())
	require.True(t, ok)
	require.Positive(t, bytes)
	_, ok = Disk(filepath.Join(t.TempDir(), "missing"))
	require.False(t, ok)
}
