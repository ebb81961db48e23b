package checkpoint

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/safetensors"
)

func TestSavedDirLoadsToTheSameBits(t *testing.T) {
	for name, c := range shapes {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new", "model")
			m := newModel(t, c, 1)
			require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
			require.Equal(t, []string{"config.json", "model.safetensors"}, names(t, dir))
			got, err := LoadDir(dir)
			require.NoError(t, err)
			requireSameModel(t, m, got)

			again := filepath.Join(t.TempDir(), "again")
			require.NoError(t, SaveDir(again, &Bundle{Model: got}, SaveOptions{}))
			require.Equal(t, tree(t, dir), tree(t, again))
		})
	}
}

func TestTensorsAreThoseOfParams(t *testing.T) {
	for name, c := range shapes {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, c, 1)
			var want, got []chainrule.Tensor
			for x := range m.Tensors() {
				want = append(want, chainrule.Tensor{Name: x.Name, Shape: x.Shape})
			}
			for x := range tensors(c) {
				got = append(got, chainrule.Tensor{Name: x.name, Shape: x.shape})
			}
			require.Equal(t, want, got)
		})
	}
}

// readSafetensors returns a file's tensors by name, without LoadDir.
func readSafetensors(t *testing.T, path string) (tensors map[string][]float32, shapes map[string][]int) {
	b := []byte(read(t, path))
	f, err := safetensors.Read(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt"}, f.Metadata())
	tensors, shapes = map[string][]float32{}, map[string][]int{}
	for _, x := range f.Tensors() {
		require.Equal(t, "F32", x.Dtype)
		for i := int64(0); i < x.Size; i += 4 {
			v := math.Float32frombits(binary.LittleEndian.Uint32(b[x.Offset+i:]))
			tensors[x.Name] = append(tensors[x.Name], v)
		}
		shapes[x.Name] = x.Shape
	}
	return tensors, shapes
}

func TestSavedTensorsHaveTheNamesAndShapesOfTransformers(t *testing.T) {
	layer := map[string][]int{
		"input_layernorm.weight": {12}, "post_attention_layernorm.weight": {12},
		"self_attn.q_proj.weight": {12, 12}, "self_attn.k_proj.weight": {6, 12},
		"self_attn.v_proj.weight": {6, 12}, "self_attn.o_proj.weight": {12, 12},
		"mlp.gate_proj.weight": {10, 12}, "mlp.up_proj.weight": {10, 12}, "mlp.down_proj.weight": {12, 10},
	}
	bias := map[string][]int{
		"self_attn.q_proj.bias": {12}, "self_attn.k_proj.bias": {6}, "self_attn.v_proj.bias": {6},
	}
	norm := map[string][]int{"self_attn.q_norm.weight": {6}, "self_attn.k_norm.weight": {6}}
	for name, extra := range map[string]map[string][]int{"llama": nil, "tied": nil, "qwen2": bias, "qwen3": norm} {
		t.Run(name, func(t *testing.T) {
			want := map[string][]int{"model.embed_tokens.weight": {11, 12}, "model.norm.weight": {12}}
			if !shapes[name].Tied {
				want["lm_head.weight"] = []int{11, 12}
			}
			for _, l := range []string{"model.layers.0.", "model.layers.1."} {
				for _, of := range []map[string][]int{layer, extra} {
					for k, v := range of {
						want[l+k] = v
					}
				}
			}
			dir := t.TempDir()
			require.NoError(t, SaveDir(dir, &Bundle{Model: newModel(t, shapes[name], 1)}, SaveOptions{}))
			_, got := readSafetensors(t, filepath.Join(dir, "model.safetensors"))
			require.Equal(t, want, got)
		})
	}
}

// The rotation of a head by RoPE at one position, as transformers has it
// (x·cos + rotate_half(x)·sin) and as this library has it.
func rotateHalves(x []float32, angle []float64) []float64 {
	y, half := make([]float64, len(x)), len(x)/2
	for i, a := range angle {
		p, q := float64(x[i]), float64(x[i+half])
		y[i], y[i+half] = p*math.Cos(a)-q*math.Sin(a), q*math.Cos(a)+p*math.Sin(a)
	}
	return y
}

func rotatePairs(x []float32, angle []float64) []float64 {
	y := make([]float64, len(x))
	for i, a := range angle {
		p, q := float64(x[2*i]), float64(x[2*i+1])
		y[2*i], y[2*i+1] = p*math.Cos(a)-q*math.Sin(a), q*math.Cos(a)+p*math.Sin(a)
	}
	return y
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

// A bias has the layout of a row's outputs: taken as the queries and keys
// themselves, they must have the same scores in both conventions.
func TestScoresAgreeWithTransformersRotation(t *testing.T) {
	c := with(shapes["qwen2"], func(c *chainrule.Config) { c.HeadDim = 8 })
	m, err := chainrule.NewModel(c)
	require.NoError(t, err)
	for i := range m.Data {
		m.Data[i] = float32(math.Sin(float64(i * i)))
	}
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
	file, _ := readSafetensors(t, filepath.Join(dir, "model.safetensors"))
	HD := c.HeadDim
	angles := func(pos float64) (a []float64) {
		for i := range HD / 2 {
			a = append(a, pos*math.Pow(c.RopeTheta, -2*float64(i)/float64(HD)))
		}
		return a
	}
	check := func(q, k, theirQ, theirK []float32) {
		t.Helper()
		require.NotEqual(t, q, theirQ)
		want := dot(rotatePairs(q, angles(7)), rotatePairs(k, angles(3)))
		got := dot(rotateHalves(theirQ, angles(7)), rotateHalves(theirK, angles(3)))
		require.InDelta(t, want, got, 1e-12)
	}
	for head := range c.NHeads {
		at := head * HD
		check(m.Layers[1].Bq[at:at+HD], m.Layers[1].Bk,
			file["model.layers.1.self_attn.q_proj.bias"][at:at+HD], file["model.layers.1.self_attn.k_proj.bias"])
		for col := range c.Dim { // and a column of the matrices is a vector of outputs
			column := func(w []float32, row int) (x []float32) {
				for i := range HD {
					x = append(x, w[(row+i)*c.Dim+col])
				}
				return x
			}
			check(column(m.Layers[0].Wq, at), column(m.Layers[0].Wk, 0),
				column(file["model.layers.0.self_attn.q_proj.weight"], at),
				column(file["model.layers.0.self_attn.k_proj.weight"], 0))
		}
	}
}

func TestRowsOfAHeadAreReorderedAndOthersAreNot(t *testing.T) {
	m := newModel(t, shapes["qwen3"], 1)
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
	file, _ := readSafetensors(t, filepath.Join(dir, "model.safetensors"))
	l := m.Layers[1]
	order := []int{0, 2, 4, 1, 3, 5}
	reorder := func(x []float32, cols int) (y []float32) {
		for head := 0; head < len(x); head += 6 * cols {
			for _, row := range order {
				y = append(y, x[head+row*cols:head+(row+1)*cols]...)
			}
		}
		return y
	}
	for name, want := range map[string][]float32{
		"self_attn.q_norm.weight": reorder(l.QNorm, 1), "self_attn.k_norm.weight": reorder(l.KNorm, 1),
		"self_attn.q_proj.weight": reorder(l.Wq, 12), "self_attn.k_proj.weight": reorder(l.Wk, 12),
		"self_attn.v_proj.weight": l.Wv, "self_attn.o_proj.weight": l.Wo,
		"mlp.gate_proj.weight": l.W1, "mlp.up_proj.weight": l.W3, "mlp.down_proj.weight": l.W2,
		"input_layernorm.weight": l.RMSAtt, "post_attention_layernorm.weight": l.RMSFFN,
	} {
		require.Equal(t, bitsOf(want), bitsOf(file["model.layers.1."+name]), name)
	}
	require.Equal(t, bitsOf(m.TokenEmbedding), bitsOf(file["model.embed_tokens.weight"]))
	require.Equal(t, bitsOf(m.RMSFinal), bitsOf(file["model.norm.weight"]))
}

// rewrite copies a model's weights with each entry changed, left out (no
// Data) or added.
func rewrite(t *testing.T, dir string, edit func(safetensors.Entry) safetensors.Entry, more ...safetensors.Entry) {
	path := filepath.Join(dir, "model.safetensors")
	tensors, shapes := readSafetensors(t, path)
	var all []safetensors.Entry
	for name, data := range tensors {
		if e := edit(safetensors.Float32(name, shapes[name], data)); e.Data != nil {
			all = append(all, e)
		}
	}
	var b bytes.Buffer
	require.NoError(t, safetensors.Write(&b, metadata, append(all, more...)))
	write(t, path, b.String())
}

func keep(e safetensors.Entry) safetensors.Entry { return e }

func TestHalfPrecisionLoads(t *testing.T) {
	m, err := chainrule.NewModel(tiny())
	require.NoError(t, err)
	for i := range m.Data {
		m.Data[i] = float32(i%251-125) / 64 // exact in both
	}
	for _, dtype := range []string{"BF16", "F16"} {
		t.Run(dtype, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
			rewrite(t, dir, func(e safetensors.Entry) safetensors.Entry {
				from := e.Data
				e.Dtype = dtype
				e.Data = func(w io.Writer) error {
					var b bytes.Buffer
					if err := from(&b); err != nil {
						return err
					}
					for x := b.Bytes(); len(x) > 0; x = x[4:] {
						v := binary.LittleEndian.Uint32(x)
						h := uint16(v >> 16)
						if dtype == "F16" && v<<1 != 0 {
							h = uint16(v>>16&0x8000 | (v>>23&255-112)<<10 | v>>13&1023)
						}
						if _, err := w.Write(binary.LittleEndian.AppendUint16(nil, h)); err != nil {
							return err
						}
					}
					return nil
				}
				return e
			})
			got, err := LoadDir(dir)
			require.NoError(t, err)
			require.Equal(t, m.Data, got.Data)
		})
	}
}

func TestAllTensorsThatDoNotFitAreListed(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{}))
	rewrite(t, dir, func(e safetensors.Entry) safetensors.Entry {
		switch e.Name {
		case "model.norm.weight", "model.layers.1.mlp.up_proj.weight":
			return safetensors.Entry{}
		case "model.layers.0.self_attn.k_proj.weight":
			e.Shape = []int{12, 6}
		case "lm_head.weight":
			return safetensors.Entry{
				Name: e.Name, Dtype: "U8", Shape: e.Shape,
				Data: func(w io.Writer) error { _, err := w.Write(make([]byte, 11*12)); return err },
			}
		}
		return e
	}, safetensors.Float32("model.layers.2.mlp.up_proj.weight", []int{1}, []float32{1}),
		safetensors.Float32("surprise", []int{1}, []float32{1}))
	_, err := LoadDir(dir)
	require.ErrorIs(t, err, ErrTensors)
	for _, part := range []string{
		filepath.Join(dir, "model.safetensors"), "2 missing: model.layers.1.mlp.up_proj.weight, model.norm.weight",
		"model.layers.0.self_attn.k_proj.weight is [12 6], want [6 12]", "lm_head.weight is U8",
		`2 not expected`, `"surprise"`, `"model.layers.2.mlp.up_proj.weight"`,
	} {
		require.ErrorContains(t, err, part)
	}
}

func TestTiedClassifierMayBeThereTwice(t *testing.T) {
	m := newModel(t, shapes["tied"], 1)
	head := slices.Clone(m.TokenEmbedding)
	for _, same := range []bool{true, false} {
		dir := t.TempDir()
		require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
		if !same {
			head[len(head)-1]++
		}
		rewrite(t, dir, keep, safetensors.Float32("lm_head.weight", []int{11, 12}, head))
		got, err := LoadDir(dir)
		if same {
			require.NoError(t, err)
			requireSameModel(t, m, got)
		} else {
			require.ErrorIs(t, err, ErrTensors)
			require.ErrorContains(t, err, "tie_word_embeddings")
		}
	}
}

func TestInvFreqOfOldFilesIsLeftOut(t *testing.T) {
	m, dir := newModel(t, tiny(), 1), t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
	rewrite(t, dir, keep, safetensors.Float32("model.layers.0.self_attn.rotary_emb.inv_freq", []int{3}, make([]float32, 3)))
	got, err := LoadDir(dir)
	require.NoError(t, err)
	requireSameModel(t, m, got)
}

func TestForeignDirs(t *testing.T) {
	good := t.TempDir()
	require.NoError(t, SaveDir(good, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{}))
	config, weights := read(t, filepath.Join(good, configFile)), read(t, filepath.Join(good, weightsFile))
	for _, tc := range []struct {
		name   string
		files  map[string]string
		is     error
		errors []string
	}{
		{"empty", nil, os.ErrNotExist, []string{"config.json"}},
		{"no weights", map[string]string{configFile: config}, os.ErrNotExist, []string{"model.safetensors"}},
		{"shards", map[string]string{configFile: config, "model.safetensors.index.json": "{}"},
			ErrIndex, []string{"weight_map", "index.json"}},
		{"pickle beside", map[string]string{configFile: config, "pytorch_model.bin": ""},
			os.ErrNotExist, []string{"pickle", "pytorch_model.bin"}},
		{"run", map[string]string{"checkpoint-7/trainer.json": "{}"}, os.ErrNotExist, []string{"checkpoint-7"}},
		{"empty weights", map[string]string{configFile: config, weightsFile: ""},
			safetensors.ErrTruncated, []string{"model.safetensors"}},
		{"cut weights", map[string]string{configFile: config, weightsFile: weights[:len(weights)-1]},
			safetensors.ErrTruncated, []string{"model.safetensors"}},
		{"pickle", map[string]string{configFile: config, weightsFile: "\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u."}, ErrNotModel, []string{"pickle"}},
		{"zip", map[string]string{configFile: config, weightsFile: "PK\x03\x04" + weights}, ErrNotModel, []string{"zip"}},
		{"html", map[string]string{configFile: config, weightsFile: "<!DOCTYPE html><p>404"}, ErrNotModel, []string{"HTML"}},
		{"git lfs", map[string]string{configFile: config,
			weightsFile: "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}, ErrNotModel, []string{"LFS"}},
		{"html config", map[string]string{configFile: "<html>404", weightsFile: weights},
			ErrNotModel, []string{"config.json", "HTML"}},
		{"large config", map[string]string{configFile: config + strings.Repeat(" ", maxSmall)},
			ErrNotModel, []string{"config.json", "at most"}},
		{"config is a directory", map[string]string{"config.json/a": ""}, ErrNotModel, []string{"a directory"}},
		{"weights are a directory", map[string]string{configFile: config, "model.safetensors/a": ""},
			ErrNotModel, []string{"model.safetensors", "a directory"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tc.files {
				write(t, filepath.Join(dir, name), content)
			}
			_, err := LoadDir(dir)
			require.ErrorIs(t, err, tc.is)
			for _, e := range append(tc.errors, dir) {
				require.ErrorContains(t, err, e)
			}
		})
	}
	_, err := LoadDir(filepath.Join(good, configFile))
	require.ErrorIs(t, err, ErrNotModel)
	_, err = LoadDir(filepath.Join(good, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Neither a large configuration nor a large header gets memory that the file
// does not account for.
func TestMemoryIsNotAllocatedForWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: newModel(t, tiny(), 1)}, SaveOptions{}))
	path := filepath.Join(dir, configFile)
	config := read(t, path)
	for _, huge := range []string{
		`"num_hidden_layers": 1000000000`, `"num_hidden_layers": 20`, `"vocab_size": 2147483647`, `"intermediate_size": 100000000`,
	} {
		t.Run(huge, func(t *testing.T) {
			key, _, _ := strings.Cut(huge, ":")
			lines := strings.Split(config, "\n")
			i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, key) })
			lines[i] = huge + ","
			write(t, path, strings.Join(lines, "\n"))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := LoadDir(dir)
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<10))
		})
	}
}

func TestLoadingNeedsLittleMemoryBesideTheModel(t *testing.T) {
	c := with(tiny(), func(c *chainrule.Config) { c.Dim, c.HiddenDim, c.NHeads, c.HeadDim = 256, 1024, 2, 512 })
	dir := t.TempDir()
	require.NoError(t, SaveDir(dir, &Bundle{Model: newModel(t, c, 1)}, SaveOptions{}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := LoadDir(dir)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	model := uint64(4 * c.NumParams())
	require.Greater(t, model, uint64(10<<20))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, model+2<<20)
}

func TestFileThatChangesWhileItIsRead(t *testing.T) {
	for name, edit := range map[string]func(t *testing.T, path string){
		"written":  func(t *testing.T, path string) { write(t, path, "{} ") },
		"touched":  func(t *testing.T, path string) { require.NoError(t, os.Chtimes(path, oldTime, oldTime)) },
		"replaced": func(t *testing.T, path string) { replace(t, path, read(t, path)) },
		"removed":  func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			write(t, path, "{}")
			s, err := open(path)
			require.NoError(t, err)
			edit(t, path)
			err = s.close(io.ErrUnexpectedEOF)
			require.ErrorIs(t, err, ErrChanged)
			require.ErrorContains(t, err, path)
		})
	}
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "{}")
	s, err := open(path)
	require.NoError(t, err)
	require.NoError(t, s.close(nil))
}

// What is loaded meanwhile is the model or an error, never half of two.
func TestLoadingAFileThatChanges(t *testing.T) {
	m := newModel(t, tiny(), 1)
	dir, llama2c := t.TempDir(), filepath.Join(t.TempDir(), "model.bin")
	require.NoError(t, SaveDir(dir, &Bundle{Model: m}, SaveOptions{}))
	require.NoError(t, SaveLlama2c(llama2c, m, 0))
	for path, load := range map[string]func() (*chainrule.Model, error){
		filepath.Join(dir, configFile):  func() (*chainrule.Model, error) { return LoadDir(dir) },
		filepath.Join(dir, weightsFile): func() (*chainrule.Model, error) { return LoadDir(dir) },
		llama2c:                         func() (*chainrule.Model, error) { return LoadLlama2c(llama2c) },
	} {
		stop, stopped := make(chan bool), make(chan bool)
		go func() {
			defer close(stopped)
			for at := oldTime; ; at = at.Add(time.Second) {
				select {
				case <-stop:
					return
				default:
					os.Chtimes(path, at, at)
				}
			}
		}()
		changed, deadline := false, time.Now().Add(20*time.Second)
		for !changed && time.Now().Before(deadline) {
			got, err := load()
			if err == nil {
				requireSameModel(t, m, got)
				continue
			}
			changed = true
			require.Nil(t, got)
			require.ErrorIs(t, err, ErrChanged)
			require.ErrorContains(t, err, path)
		}
		close(stop)
		<-stopped
		require.True(t, changed, "%s changed all the time and nobody saw it", path)
	}
}

func TestSaveDirReplacesWeightsOfTheSameModelOnly(t *testing.T) {
	dir := t.TempDir()
	a, b := newModel(t, tiny(), 1), newModel(t, tiny(), 2)
	require.NoError(t, SaveDir(dir, &Bundle{Model: a}, SaveOptions{}))
	write(t, filepath.Join(dir, "tokenizer.json"), "mine")
	config := strings.Replace(read(t, filepath.Join(dir, configFile)), `"eos_token_id": null`, `"eos_token_id": 2`, 1)
	write(t, filepath.Join(dir, configFile), config)
	write(t, filepath.Join(dir, ".tmp-model.safetensors-0123"), "of a killed save")

	require.NoError(t, SaveDir(dir, &Bundle{Model: b}, SaveOptions{}))
	got, err := LoadDir(dir)
	require.NoError(t, err)
	requireSameModel(t, b, got)
	require.Equal(t, config, read(t, filepath.Join(dir, configFile)))
	require.Equal(t, []string{"config.json", "model.safetensors", "tokenizer.json"}, names(t, dir))

	before := tree(t, dir)
	err = SaveDir(dir, &Bundle{Model: newModel(t, shapes["other theta"], 3)}, SaveOptions{})
	require.ErrorContains(t, err, "another model")
	require.Equal(t, before, tree(t, dir))

	require.NoError(t, os.Remove(filepath.Join(dir, configFile)))
	require.ErrorIs(t, SaveDir(dir, &Bundle{Model: a}, SaveOptions{}), os.ErrNotExist)
}

func TestSaveDirStoppedAnywhereLeavesAModel(t *testing.T) {
	a, b := newModel(t, tiny(), 1), newModel(t, tiny(), 2)
	for at := 0; ; at++ {
		dir := t.TempDir()
		require.NoError(t, SaveDir(dir, &Bundle{Model: a}, SaveOptions{}))
		n := 0
		setHook(t, func(string, string) error {
			if n++; n > at {
				return io.ErrShortWrite
			}
			return nil
		})
		err := SaveDir(dir, &Bundle{Model: b}, SaveOptions{})
		hook = nil
		got, loadErr := LoadDir(dir)
		require.NoError(t, loadErr)
		if err == nil {
			require.Greater(t, at, 4)
			requireSameModel(t, b, got)
			return
		}
		require.ErrorIs(t, err, io.ErrShortWrite)
		if got.Data[0] == a.Data[0] {
			requireSameModel(t, a, got)
		} else {
			requireSameModel(t, b, got)
		}
		require.Equal(t, []string{"config.json", "model.safetensors"}, names(t, dir))
	}
}
