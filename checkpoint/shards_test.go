package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/internal/half"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

func saveSharded(t testing.TB, dir string, m *chainrule.Model, size int64) {
	t.Helper()
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{ShardSize: size}))
}

func TestShardsLoadToTheSameBits(t *testing.T) {
	for name, c := range shapes {
		for _, size := range []int64{1, 600, 2000, 4000} {
			dir := filepath.Join(t.TempDir(), "model")
			m := newModel(t, c, 1)
			saveSharded(t, dir, m, size)
			got, err := LoadDir(dir)
			require.NoError(t, err, name)
			requireSameModel(t, m, got)

			again := t.TempDir()
			saveSharded(t, again, got, size)
			require.Equal(t, tree(t, dir), tree(t, again))
		}
	}
}

// The sizes, names and index are those of huggingface_hub's
// split_torch_state_dict_into_shards: tensors in their order, as many as fit.
func TestShardsAreCutAsTransformersCutsThem(t *testing.T) {
	dir := t.TempDir()
	m := newModel(t, shapes["tied"], 1)
	saveSharded(t, dir, m, 2000)
	require.Equal(t, []string{
		"config.json", "model-00001-of-00005.safetensors", "model-00002-of-00005.safetensors",
		"model-00003-of-00005.safetensors", "model-00004-of-00005.safetensors", "model-00005-of-00005.safetensors", "model.safetensors.index.json",
	}, names(t, dir))
	var index struct {
		Metadata  struct{ Total_size int64 }
		WeightMap map[string]string `json:"weight_map"`
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, indexFile))), &index))
	require.Equal(t, int64(4*m.NumParams()), index.Metadata.Total_size)
	size, last := int64(0), 0
	for x := range tensors(m.Config) { // in the order of the file: none could have been in the shard before
		n := int64(4)
		for _, d := range x.shape {
			n *= int64(d)
		}
		var at int
		_, err := fmt.Sscanf(index.WeightMap[x.hf], "model-%05d-of-00005.safetensors", &at)
		require.NoError(t, err)
		if at != last {
			require.Equal(t, last+1, at)
			require.True(t, last == 0 || size+n > 2000, "%s fits the shard before", x.hf)
			size, last = 0, at
		}
		size += n
		require.LessOrEqual(t, size, int64(2000))
	}
	require.Equal(t, 5, last)

	for _, o := range []SaveOptions{{}, {ShardSize: -1}, {ShardSize: int64(4 * m.NumParams())}} {
		dir := t.TempDir()
		require.NoError(t, SaveDir(dir, &Bundle{Model: m}, o))
		require.Equal(t, []string{"config.json", "model.safetensors"}, names(t, dir))
	}
}

// indexOf returns an index with an edit.
func indexOf(t *testing.T, dir string, edit func(weightMap map[string]string, metadata map[string]any)) string {
	t.Helper()
	var index struct {
		Metadata  map[string]any    `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, indexFile))), &index))
	edit(index.WeightMap, index.Metadata)
	b, err := json.Marshal(index)
	require.NoError(t, err)
	return string(b)
}

func TestBadIndexes(t *testing.T) {
	const first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	const norm, embed = "model.norm.weight", "model.embed_tokens.weight"
	m := newModel(t, tiny(), 1)
	total := 4 * m.NumParams()
	good := filepath.Join(t.TempDir(), "good")
	saveSharded(t, good, m, 4500)
	edit := func(f func(weightMap map[string]string, metadata map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { write(t, filepath.Join(dir, indexFile), indexOf(t, dir, f)) }
	}
	content := func(s string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { write(t, filepath.Join(dir, indexFile), s) }
	}
	text := func(old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, indexFile)
			s := strings.Replace(read(t, path), old, new, 1)
			require.NotEqual(t, read(t, path), s)
			write(t, path, s)
		}
	}
	// also is a shard that has a tensor besides its own.
	also := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, second)
			tensors, shapes := readSafetensors(t, path)
			tensors[name], shapes[name] = []float32{1}, []int{1}
			var all []safetensors.Entry
			for name, data := range tensors {
				all = append(all, safetensors.Float32(name, shapes[name], data))
			}
			var b bytes.Buffer
			require.NoError(t, safetensors.Write(&b, metadata, all))
			write(t, path, b.String())
		}
	}
	for _, tc := range []struct {
		name string
		bad  func(t *testing.T, dir string)
		is   error
		want []string
	}{
		{"a shard is missing", func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, first))) },
			fs.ErrNotExist, []string{"1 of 2 shards are missing: " + first}},
		{"all shards are missing", edit(func(w map[string]string, _ map[string]any) {
			for name := range w {
				w[name] = "a" + w[name]
			}
		}), ErrIndex, []string{"2 of 2 shards are missing: a" + first + ", a" + second}},
		{"one file under two names", func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink(second, filepath.Join(dir, "z.safetensors")))
			edit(func(w map[string]string, _ map[string]any) { w[norm] = "z.safetensors" })(t, dir)
		}, ErrIndex, []string{second + " and z.safetensors are one file"}},
		{"above", edit(func(w map[string]string, _ map[string]any) { w[norm] = "../" + second }), ErrIndex, []string{norm, "../" + second, "not the name of a file beside it"}},
		{"absolute", edit(func(w map[string]string, _ map[string]any) { w[norm] = filepath.Join(good, second) }), ErrIndex, []string{"not the name of a file beside it"}},
		{"below", edit(func(w map[string]string, _ map[string]any) { w[norm] = "a/" + second }), ErrIndex, []string{"a/" + second}},
		{"backslash", edit(func(w map[string]string, _ map[string]any) { w[norm] = `..\` + second }), ErrIndex, []string{"not the name of a file beside it"}},
		{"no name", edit(func(w map[string]string, _ map[string]any) { w[norm] = "" }), ErrIndex, []string{`"" is not the name`}},
		{"two dots", edit(func(w map[string]string, _ map[string]any) { w[norm] = ".." }), ErrIndex, []string{`".." is not the name`}},
		{"a pickle", edit(func(w map[string]string, _ map[string]any) { w[norm] = "pytorch_model.bin" }), ErrIndex, []string{"not named .safetensors"}},
		{"not a name", text(`"`+second+`"`, `7`), ErrIndex, []string{`want the name of a file`}},
		{"a name that is null", text(`"`+second+`"`, `null`), ErrIndex, []string{`want the name of a file`}},
		{"an absent tensor", edit(func(w map[string]string, _ map[string]any) { w["surprise"] = first }), ErrIndex,
			[]string{`1 not where the index says: "surprise" in ` + first}},
		{"an absent tensor of the model", func(t *testing.T, dir string) {
			edit(func(w map[string]string, _ map[string]any) {
				w["lm_head.weights"] = w["lm_head.weight"]
				delete(w, "lm_head.weight")
			})(t, dir)
		}, ErrIndex, []string{`1 not where the index says: "lm_head.weights" in ` + second, `1 not in the index: "lm_head.weight" in ` + second}},
		{"another shard", edit(func(w map[string]string, _ map[string]any) { w[norm] = first }), ErrIndex,
			[]string{`"` + norm + `" is in ` + second + ", the index says " + first}},
		{"not listed", edit(func(w map[string]string, _ map[string]any) { delete(w, norm) }), ErrIndex,
			[]string{`1 not in the index: "` + norm + `" in ` + second}},
		{"more in a shard", also("surprise"), ErrIndex, []string{`not in the index: "surprise" in ` + second}},
		{"in two shards", also(embed), ErrIndex, []string{`"` + embed + `" is in ` + second + ", the index says " + first}},
		{"more in a shard and the index", func(t *testing.T, dir string) {
			also("surprise")(t, dir)
			edit(func(w map[string]string, m map[string]any) { w["surprise"], m["total_size"] = second, total+4 })(t, dir)
		}, ErrTensors, []string{`1 not expected: "surprise"`}},
		{"total_size", edit(func(_ map[string]string, m map[string]any) { m["total_size"] = total + 1 }), ErrIndex,
			[]string{fmt.Sprintf("total_size is %d, the tensors have %d bytes", total+1, total)}},
		{"total_size 0", edit(func(_ map[string]string, m map[string]any) { m["total_size"] = 0 }), ErrIndex, []string{"total_size is 0"}},
		{"negative", edit(func(_ map[string]string, m map[string]any) { m["total_size"] = -1 }), ErrIndex, []string{"total_size is \"-1\", want a number of bytes"}},
		{"fraction", edit(func(_ map[string]string, m map[string]any) { m["total_size"] = 1.5 }), ErrIndex, []string{"total_size is \"1.5\""}},
		{"huge", edit(func(_ map[string]string, m map[string]any) { m["total_size"] = 1e300 }), ErrIndex, []string{"total_size is \"1e+300\""}},
		{"text", edit(func(_ map[string]string, m map[string]any) { m["total_size"] = "1" }), ErrIndex, []string{"total_size"}},
		{"tensor twice", text(`"weight_map": {`, `"weight_map": {"`+norm+`": "`+second+`",`), ErrIndex, []string{`tensor "` + norm + `" is there twice`}},
		{"weight_map twice", text(`"weight_map": {`, `"weight_map": {},"weight_map": {`), ErrIndex, []string{`"weight_map" occurs twice`}},
		{"total_size twice", text(`"metadata": {`, `"metadata": {"total_size": 1,`), ErrIndex, []string{"occurs twice"}},
		{"unknown key", text(`"metadata": {`, `"weights": {}, "metadata": {`), ErrIndex, []string{`key "weights" is not known`}},
		{"no weight_map", content(`{"metadata": {"total_size": 0}}`), ErrIndex, []string{"lists no tensors"}},
		{"no tensors", content(`{"metadata": {"total_size": 0}, "weight_map": {}}`), ErrIndex, []string{"lists no tensors"}},
		{"empty", content(""), ErrIndex, []string{"at byte 0: the file ends here, want an object"}},
		{"array", content("[]"), ErrIndex, []string{"want an object"}},
		{"weight_map is a list", content(`{"weight_map": ["a"]}`), ErrIndex, []string{"want an object"}},
		{"deep", content(`{"metadata":{"a":` + strings.Repeat("[", 1<<18)), ErrIndex, []string{"at byte"}},
		{"garbage behind", func(t *testing.T, dir string) { content(read(t, filepath.Join(dir, indexFile))+"x")(t, dir) }, ErrIndex, []string{"after the end"}},
		{"cut", func(t *testing.T, dir string) { content(read(t, filepath.Join(dir, indexFile))[:200])(t, dir) }, ErrIndex, []string{"at byte"}},
		{"not UTF-8", content("{\"weight_map\": {\"\xff\": \"a.safetensors\"}}"), ErrIndex, []string{"UTF-8"}},
		{"HTML", content("<html>404"), ErrNotModel, []string{"HTML"}},
		{"git lfs", content("version https://git-lfs.github.com/spec/v1\n"), ErrNotModel, []string{"LFS"}},
		{"large", content(strings.Repeat(" ", maxIndex+1)), ErrNotModel, []string{"at most"}},
		{"directory", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, indexFile)))
			write(t, filepath.Join(dir, indexFile, "a"), "")
		}, ErrNotModel, []string{"a directory"}},
		{"a shard is a pointer", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, second), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
		}, ErrNotModel, []string{second, "LFS"}},
		{"a shard is cut", func(t *testing.T, dir string) {
			s := read(t, filepath.Join(dir, second))
			write(t, filepath.Join(dir, second), s[:len(s)-1])
		}, safetensors.ErrTruncated, []string{second}},
		{"a shard is a directory", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, second)))
			write(t, filepath.Join(dir, second, "a"), "")
		}, ErrNotModel, []string{second, "a directory"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			copyTree(t, good, dir)
			tc.bad(t, dir)
			_, err := LoadDir(dir)
			require.ErrorIs(t, err, tc.is)
			for _, w := range append(tc.want, dir) {
				require.ErrorContains(t, err, w)
			}
		})
	}
	for name, edit := range map[string]func(w map[string]string, m map[string]any){
		"no total_size": func(_ map[string]string, m map[string]any) { delete(m, "total_size") },
		"a float":       func(_ map[string]string, m map[string]any) { m["total_size"] = json.Number(fmt.Sprintf("%d.0", total)) },
		"more metadata": func(_ map[string]string, m map[string]any) { m["total_parameters"] = []int{1} },
	} {
		dir := t.TempDir()
		copyTree(t, good, dir)
		write(t, filepath.Join(dir, indexFile), indexOf(t, dir, edit))
		got, err := LoadDir(dir)
		require.NoError(t, err, name)
		requireSameModel(t, m, got)
	}
}

func TestAShardThatChangesWhileItIsRead(t *testing.T) {
	dir := t.TempDir()
	saveSharded(t, dir, newModel(t, tiny(), 1), 2000)
	for _, name := range names(t, dir)[1:] { // but config.json
		w, err := openWeights(dir)
		require.NoError(t, err)
		path := filepath.Join(dir, name)
		require.NoError(t, os.Chtimes(path, oldTime, oldTime))
		err = w.close(io.ErrUnexpectedEOF)
		require.ErrorIs(t, err, ErrChanged)
		require.ErrorContains(t, err, path)
	}
}

// A large index gets memory only for what is in it.
func TestAnIndexGetsNoMemoryThatItDoesNotAccountFor(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"weight_map":{`)
	for i := range 1 << 17 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%d":"a.safetensors"`, i)
	}
	b.WriteString("}}")
	content := []byte(b.String())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	x, err := parseIndex(content)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Len(t, x.entries, 1<<17)
	t.Logf("%d bytes for an index of %d", after.TotalAlloc-before.TotalAlloc, len(content))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10+8*len(content)))
}

func TestWeightsAreRoundedToNearestEven(t *testing.T) {
	for dtype, round := range map[string]func(float32) float32{
		"BF16": func(v float32) float32 { return half.FromBF16(half.ToBF16(v)) },
		"F16":  func(v float32) float32 { return half.FromF16(half.ToF16(v)) },
	} {
		for _, size := range []int64{0, 700} {
			dir := t.TempDir()
			m := newModel(t, shapes["qwen2"], 1)
			m.Data[0] = 1 + 1.0/512 + 1.0/4096 // halfway in neither; in bf16 rounded up
			require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{DType: dtype, ShardSize: size}))
			require.Contains(t, read(t, filepath.Join(dir, configFile)), map[string]string{"BF16": "bfloat16", "F16": "float16"}[dtype])
			got, err := LoadDir(dir)
			require.NoError(t, err)
			for i, v := range m.Data {
				require.Equal(t, math.Float32bits(round(v)), math.Float32bits(got.Data[i]))
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "new")
	m := newModel(t, tiny(), 1)
	m.Layers[1].W2[7] = 70000
	err := SaveDir(dir, &Bundle{Model: m}, SaveOptions{DType: "F16"})
	require.ErrorIs(t, err, safetensors.ErrRange)
	require.ErrorContains(t, err, `"model.layers.1.mlp.down_proj.weight"`)
	require.ErrorContains(t, err, "element 7 of row 0 is 70000")
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{DType: "BF16"}))

	err = SaveDir(filepath.Join(dir, "x"), &Bundle{Model: m}, SaveOptions{DType: "float16"})
	require.ErrorIs(t, err, ErrUnsupported)
	require.NoDirExists(t, filepath.Join(dir, "x"))
}

func TestShardsDoNotReplaceAnything(t *testing.T) {
	a, b := newModel(t, tiny(), 1), newModel(t, tiny(), 2)
	for name, tc := range map[string]struct {
		there, save int64
		want        string
	}{
		"shards by shards": {2000, 2000, "weights in shards"}, "shards by a file": {2000, 0, "weights in shards"},
		"a file by shards": {0, 2000, "choose a new"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			saveSharded(t, dir, a, tc.there)
			before := tree(t, dir)
			err := SaveDir(dir, &Bundle{Model: b}, SaveOptions{ShardSize: tc.save})
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, before, tree(t, dir))
		})
	}
}

// A save of shards that fails anywhere leaves no model, or the whole one, and
// no weights that are in the way of the next try.
func TestSavingShardsStoppedAnywhere(t *testing.T) {
	m := newModel(t, tiny(), 1)
	for at := 0; ; at++ {
		dir := t.TempDir()
		n := 0
		setHook(t, func(string, string) error {
			if n++; n > at {
				return io.ErrShortWrite
			}
			return nil
		})
		err := SaveDir(dir, &Bundle{Model: m}, SaveOptions{ShardSize: 2000})
		hook = nil
		if err == nil {
			require.Greater(t, at, 15)
			return
		}
		require.ErrorIs(t, err, io.ErrShortWrite)
		if got, err := LoadDir(dir); err == nil { // only the sync of the last name failed
			requireSameModel(t, m, got)
			continue
		}
		require.Empty(t, slices.DeleteFunc(names(t, dir), func(name string) bool { return name == configFile }))
		saveSharded(t, dir, m, 2000)
		got, err := LoadDir(dir)
		require.NoError(t, err)
		requireSameModel(t, m, got)
	}
}

func TestProgressEndsAtItsTotal(t *testing.T) {
	for name, c := range map[string]chainrule.Config{
		"small": tiny(),
		"large": with(tiny(), func(c *chainrule.Config) { c.Dim, c.HiddenDim, c.NHeads, c.HeadDim = 256, 2048, 2, 512 }),
	} {
		m := newModel(t, c, 1)
		dir, file := t.TempDir(), filepath.Join(t.TempDir(), "model.bin")
		type call struct{ done, total int64 }
		var calls []call
		report := func(done, total int64) { calls = append(calls, call{done, total}) }
		check := func(what string, total int64) {
			t.Helper()
			require.NotEmpty(t, calls, "%s %s", name, what)
			require.Equal(t, call{total, total}, calls[len(calls)-1])
			require.Equal(t, int(total/(4<<20)), len(calls)-1, "every 4 MiB")
			require.True(t, slices.IsSortedFunc(calls, func(a, b call) int { return int(a.done - b.done) }))
			calls = nil
		}
		total := int64(4 * c.NumParams())
		require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{ShardSize: total / 2, Progress: report}))
		check("save", total)
		_, err := Open(dir, OpenOptions{Progress: report})
		require.NoError(t, err)
		check("open", total)
		if c.NHeads*c.HeadDim == c.Dim {
			require.NoError(t, SaveLlama2c(file, m, 0))
			_, err = Open(file, OpenOptions{Progress: report})
			require.NoError(t, err)
			check("llama2.c", total)
		}
	}
}

func FuzzIndex(f *testing.F) {
	dir := f.TempDir()
	saveSharded(f, dir, newModel(f, tiny(), 1), 2000)
	f.Add([]byte(read(f, filepath.Join(dir, indexFile))))
	for _, s := range []string{
		"", "{}", "[]", `{"weight_map":{"a":"a.safetensors"}}`, `{"weight_map":{"a":"../a.safetensors"}}`, `{"weight_map":{"a":"a.safetensors"},"metadata":{"total_size":1e3}}`,
		`{"weight_map":{"a":"a.safetensors","\u0061":"b.safetensors"}}`, `{"metadata":{"total_size":-1}}`, `{"metadata":null}`, `{"weight_map":{"a":["b"]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseIndex(b)
		if err != nil {
			require.ErrorIs(t, err, ErrIndex)
			return
		}
		// encoding/json, which is laxer, reads the same.
		var lax struct {
			WeightMap map[string]string `json:"weight_map"`
		}
		var top map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(b, &top))
		require.NoError(t, json.Unmarshal(top["weight_map"], &lax.WeightMap))
		got := map[string]string{}
		for _, e := range x.entries {
			got[e.name] = x.files[e.file]
		}
		require.Equal(t, lax.WeightMap, got)
		require.Equal(t, slices.Compact(slices.Sorted(maps.Values(got))), x.files)
		for _, file := range x.files {
			require.Equal(t, filepath.Base(file), file)
			require.Equal(t, dir, filepath.Dir(filepath.Join(dir, file)))
		}
		require.GreaterOrEqual(t, x.totalSize, int64(-1))
	})
}
