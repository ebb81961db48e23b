package checkpoint

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// disk is what would be left of a directory if the machine lost power: what was
// synced, and of the rest any part. Contents are durable when the file is synced,
// names when their directory is.
type disk struct {
	t      testing.TB
	root   string
	synced map[string]string // content of files, by the path at which they are now
	names  []nameChange      // not yet durable, in order
	base   map[string]string // the tree that is durable: file to content, directory to "/"
}

type nameChange struct{ op, from, to string }

func newDisk(t testing.TB, root string) *disk {
	d := &disk{t: t, root: root, synced: map[string]string{}, base: map[string]string{}}
	require.NoError(t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && path != root {
			if d.base[path] = "/"; !e.IsDir() {
				d.base[path] = read(t, path)
				d.synced[path] = d.base[path]
			}
		}
		return err
	}))
	return d
}

// op takes a change that is about to be made.
func (d *disk) op(op, path string) {
	switch op {
	case "create", "mkdir":
		d.names = append(d.names, nameChange{op, "", path})
	case "sync":
		d.synced[path] = read(d.t, path)
	case "syncdir":
		var left []nameChange
		for _, c := range d.names {
			if filepath.Dir(c.to) == path {
				apply(d.base, c)
			} else {
				left = append(left, c)
			}
		}
		d.names = left
	case "delete":
		d.names = append(d.names, nameChange{op, "", path})
	case "rename":
		// hook tells the new name; the old one is the directory that is aside, or
		// what stands in the way of it.
		from := ""
		base := filepath.Base(path)
		for _, name := range names(d.t, d.root) {
			if name != base && (strings.HasPrefix(name, temporary+base+"-") || removing+name == base || name+stateOld == base) {
				from = filepath.Join(d.root, name)
			}
		}
		require.NotEmpty(d.t, from, "renamed to %s", path)
		d.names = append(d.names, nameChange{op, from, path})
		for p, content := range d.synced {
			if strings.HasPrefix(p, from+"/") {
				d.synced[path+strings.TrimPrefix(p, from)] = content
			}
		}
	}
}

// apply makes a change of names in a tree, if what it is about is there.
func apply(tree map[string]string, c nameChange) {
	switch c.op {
	case "create":
		tree[c.to] = "" // also in a directory whose own name is not durable yet
	case "mkdir":
		tree[c.to] = "/"
	case "delete", "rename":
		source := c.from
		if c.op == "delete" {
			source = c.to
		}
		if _, ok := tree[source]; !ok {
			return
		}
		moved := map[string]string{}
		for p, content := range tree {
			if p == source || strings.HasPrefix(p, source+"/") {
				moved[c.to+strings.TrimPrefix(p, source)] = content
				delete(tree, p)
			}
		}
		if c.op == "rename" {
			for p, content := range moved {
				tree[p] = content
			}
		}
	}
}

// image writes to dir what may be left: of the changes of names that are not
// durable any, and of contents that are not synced any part.
func (d *disk) image(r *rand.Rand, dir string) {
	tree := map[string]string{}
	for p, content := range d.base {
		tree[p] = content
	}
	keep := r.Float64()
	for _, c := range d.names {
		if r.Float64() < keep { // dropped ones and kept ones in any order, since each may be either
			apply(tree, c)
		}
	}
	for p, kind := range tree {
		if dir := filepath.Dir(p); dir != d.root && tree[dir] != "/" {
			continue
		}
		to := filepath.Join(dir, strings.TrimPrefix(p, d.root))
		if kind == "/" {
			require.NoError(d.t, os.MkdirAll(to, 0o777))
			continue
		}
		content, ok := d.synced[p]
		if !ok {
			b, _ := os.ReadFile(p)
			switch r.IntN(4) {
			case 0:
				b = nil
			case 1:
				b = b[:r.IntN(len(b)+1)] // torn
			case 2:
				clear(b[r.IntN(len(b)+1):]) // the size without the content
			}
			content = string(b)
		}
		write(d.t, to, content)
	}
}

// A machine that loses power at any moment of a save, with writes that were not
// synced dropped, torn or reordered, has the old or the new state.
func TestPowerLostAnywhereLeavesTheOldOrTheNewState(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]int{"later step": 8, "same step": 7} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before, after := newState(t, tiny(), 7), newState(t, tiny(), next)
			after.Position += 5
			save(t, dir, before)
			d := newDisk(t, dir)
			images, olds := 0, 0
			setHook(t, func(op, path string) error {
				for range 25 {
					left := t.TempDir()
					d.image(r, left)
					got, _, err := LoadState(left)
					require.NoError(t, err, "before %s %s", op, path)
					require.Empty(t, got.Damaged)
					if images++; got.Position == before.Position {
						olds++
						requireSameState(t, before, got)
					} else {
						requireSameState(t, after, got)
					}
				}
				d.op(op, path)
				return nil
			})
			save(t, dir, after)
			hook = nil
			t.Logf("%d images, %d with the old state", images, olds)
			require.Greater(t, olds, 0)
			require.Less(t, olds, images)
			for range 50 { // and behind it
				left := t.TempDir()
				d.image(r, left)
				got, _, err := LoadState(left)
				require.NoError(t, err)
				requireSameState(t, after, got)
			}
		})
	}
}

// From some change to the disk on every one fails, as on a disk that is gone.
func TestADiskThatIsGoneKeepsTheOldState(t *testing.T) {
	for at := 1; ; at++ {
		dir := t.TempDir()
		before, after := newState(t, tiny(), 7), newState(t, tiny(), 8)
		save(t, dir, before)
		n := 0
		setHook(t, func(string, string) error {
			if n++; n >= at {
				return os.ErrInvalid
			}
			return nil
		})
		path, err := SaveState(dir, after)
		hook = nil
		got, _, loadErr := LoadState(dir)
		require.NoError(t, loadErr)
		if path == "" {
			require.Error(t, err)
			requireSameState(t, before, got)
		} else {
			requireSameState(t, after, got)
		}
		save(t, dir, after) // and when it is back, all is well
		require.Equal(t, []string{"checkpoint-8"}, names(t, dir))
		if n < at {
			require.Greater(t, at, 15)
			return
		}
	}
}
