// Package sysmem asks the operating system for memory and disk space: what is
// free, and what the process has had. Every answer may be that it does not say.
package sysmem

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Free returns the bytes that the process can take before the machine swaps or
// a container is killed: the least of what the machine and the control groups
// around the process have left. Linux says.
func Free() (bytes int64, ok bool) { return free("/") }

// free is Free with the files below root.
func free(root string) (bytes int64, ok bool) {
	info, _ := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" {
			kb, err := strconv.ParseInt(f[1], 10, 53)
			bytes, ok = kb<<10, err == nil
		}
	}
	for _, g := range groups(root) {
		if left, limited := g.left(); limited && (!ok || left < bytes) {
			bytes, ok = left, true
		}
	}
	return bytes, ok
}

// group is a control group that may limit memory.
type group struct{ dir, limit, used, stat, cache string }

// groups returns the control groups of the process and those around them, of
// both versions (Linux, admin-guide/cgroup-v2 and cgroup-v1/memory). In a
// container, the path that the process is told may be one outside: the root of
// what is mounted counts in any case.
func groups(root string) (all []group) {
	own, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	v1, v2 := []string{"/"}, []string{"/"}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[0] == "0" && f[1] == "":
			v2 = above(f[2])
		case strings.Contains(","+f[1]+",", ",memory,"):
			v1 = above(f[2])
		}
	}
	const fs = "sys/fs/cgroup"
	for _, dir := range v2 {
		all = append(all, group{filepath.Join(root, fs, dir), "memory.max", "memory.current", "memory.stat", "inactive_file"})
	}
	for _, dir := range v1 {
		all = append(all, group{filepath.Join(root, fs, "memory", dir), "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"})
	}
	return all
}

// above returns a path and those above it.
func above(dir string) (all []string) {
	for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
		if all = append(all, dir); dir == "/" {
			return all
		}
	}
}

// left returns what a group may still take. Files that are cached and not in
// use are given back before a limit is felt.
func (g group) left() (bytes int64, limited bool) {
	number := func(file string) (int64, bool) {
		b, _ := os.ReadFile(filepath.Join(g.dir, file))
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // or "max"
		return n, err == nil
	}
	most, limited := number(g.limit)
	used, known := number(g.used)
	if !limited || !known || most >= 1<<62 { // what version 1 says for no limit
		return 0, false
	}
	stat, _ := os.ReadFile(filepath.Join(g.dir, g.stat))
	for line := range strings.Lines(string(stat)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == g.cache {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				used -= n
			}
		}
	}
	return most - used, true
}
