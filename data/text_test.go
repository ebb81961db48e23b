package data

import (
	"bytes"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func write(t testing.TB, path, text string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	return path
}

func TestReadTextOfAFileReturnsItsBytes(t *testing.T) {
	for _, text := range []string{"x", "no newline at the end", "\ufeffDébut\r\n", "caf\xe9 cr\xe8me br\xfbl\xe9e is Latin-1, and passes"} {
		got, err := ReadText(write(t, filepath.Join(t.TempDir(), ".any name.bin"), text))
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
}

func TestReadTextOfADirectoryJoinsItsTextInOrder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.txt":          "b\n",
		"a/2.txt":        "a2", // ends no line
		"a/10.txt":       "a10\n",
		"c.go":           "c",
		"a/empty":        "",
		".hidden":        "hidden",
		".git/config":    "hidden",
		"a/.b/c/d":       "hidden",
		"z/image.png":    "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
		"z/noise":        "\xff\xfe\xfd\x80\x81\x90\xa0abc",
		"z/deep/er/last": "last",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	const want = "a10\na2\nb\nc\nlast"
	got, err := ReadText(dir)
	require.NoError(t, err)
	require.Equal(t, want, string(got))

	// Links: to a file it is read; loops, directories and nowhere are left out.
	if runtime.GOOS == "windows" {
		return
	}
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "a", "loop")))
	require.NoError(t, os.Symlink("self", filepath.Join(dir, "self")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "broken")))
	require.NoError(t, os.Symlink("b.txt", filepath.Join(dir, "zz")))
	require.NoError(t, os.Symlink("/dev/zero", filepath.Join(dir, "zero")))
	top := filepath.Join(t.TempDir(), "top")
	require.NoError(t, os.Symlink(dir, top))
	got, err = ReadText(top)
	require.NoError(t, err)
	require.Equal(t, want+"\nb\n", string(got))
}

func TestReadTextRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.Mkdir(at("no text"), 0o777))
	write(t, at("no text/.hidden"), "hidden")
	write(t, at("no text/bin"), "a\x00b")
	require.NoError(t, os.Mkdir(at("empty dir"), 0o777))

	sparse := write(t, at("sparse"), "")
	require.NoError(t, os.Truncate(sparse, MaxText+1))
	many := at("many")
	write(t, filepath.Join(many, "1"), "some text")
	write(t, filepath.Join(many, "2"), "")
	require.NoError(t, os.Truncate(filepath.Join(many, "2"), MaxText-8))

	for _, c := range []struct {
		path, want string
		is         error
	}{
		{at("absent"), "absent", fs.ErrNotExist},
		{write(t, at("empty"), ""), "empty is empty", nil},
		{write(t, at("nul"), "abc\x00"), "nul is not text: it has a NUL byte at offset 3", nil},
		{write(t, at("noise"), "ab\xff\xff"), "noise is not text: 2 of its 4 bytes are not UTF-8", nil},
		{at("empty dir"), "empty dir holds no text file (0 left out", nil},
		{at("no text"), "no text holds no text file (2 left out", nil},
		{sparse, "4294967297 bytes are too much", nil},
		{many, filepath.Join("many", "2") + ": 4294967288 bytes are too much", nil},
	} {
		_, err := ReadText(c.path)
		require.ErrorContains(t, err, c.want)
		require.True(t, strings.HasPrefix(err.Error(), "data: "))
		if c.is != nil {
			require.ErrorIs(t, err, c.is)
		}
	}
}

func TestReadTextNamesWhatCannotBeRead(t *testing.T) {
	if os.Geteuid() <= 0 {
		t.Skip("root may read everything, and Windows has no such permissions")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "a")
	locked := write(t, filepath.Join(dir, "locked"), "b")
	require.NoError(t, os.Chmod(locked, 0))
	for _, path := range []string{dir, locked} {
		_, err := ReadText(path)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, locked)
	}
}

func TestReadTextReadsGosOwnSource(t *testing.T) {
	src := filepath.Join(build.Default.GOROOT, "src")
	if _, err := os.Stat(src); err != nil || testing.Short() {
		t.Skip("no Go source tree here, or -short")
	}
	text, err := ReadText(src)
	require.NoError(t, err)
	require.Greater(t, len(text), 20<<20)
	require.Equal(t, -1, bytes.IndexByte(text, 0))
	one, err := os.ReadFile(filepath.Join(src, "fmt", "print.go"))
	require.NoError(t, err)
	require.True(t, bytes.Contains(text, one))
}

// within fails a test whose call waits for something.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting after 10 s")
	}
}
