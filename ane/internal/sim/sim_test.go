package sim

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/ane/internal/device"
	"github.com/chainrule-go/chainrule/ane/internal/fp16"
)

// read returns one of the texts that package ane sends: m, k, n are 64, 96, 128.
func read(t testing.TB, layout string) string {
	b, err := os.ReadFile(filepath.Join("../../testdata", layout+".mil"))
	require.NoError(t, err)
	return string(b)
}

const m, k, n = 64, 96, 128

// pack puts a [m,k] and b [k,n] where the layout has them, in binary16.
func pack(layout string, a, b func(i, j int) float32) []uint16 {
	in := make([]uint16, (m+n)*k)
	for l := range k {
		for i := range m {
			at := l*(m+n) + i
			if layout == "rows" {
				at = i*k + l
			}
			in[at] = fp16.From(a(i, l))
		}
		for j := range n {
			at := l*(m+n) + m + j
			if layout == "rows" {
				at = (m+j)*k + l
			}
			in[at] = fp16.From(b(l, j))
		}
	}
	return in
}

// element returns c[i,j] of an output.
func element(layout string, out []uint16, i, j int) float32 {
	if layout == "published" {
		return fp16.To(out[j*m+i])
	}
	return fp16.To(out[i*n+j])
}

func eachLayout(t *testing.T, f func(t *testing.T, layout string)) {
	for _, layout := range []string{"rows", "wide", "published"} {
		t.Run(layout, func(t *testing.T) { f(t, layout) })
	}
}

func run(t testing.TB, c *Chip, layout string, a, b func(i, j int) float32) []uint16 {
	p, err := c.Compile(read(t, layout))
	require.NoError(t, err)
	out := make([]uint16, 49152/2)
	in := pack(layout, a, b)
	require.NoError(t, p.Eval(out, append(in, make([]uint16, 49152/2)...)))
	return out
}

func TestProductsAreRoundedOnce(t *testing.T) {
	a := func(i, l int) float32 { return float32(math.Sin(float64(i*k + l))) }
	b := func(l, j int) float32 { return float32(math.Cos(float64(l*n + 2*j))) }
	half := func(v float32) float64 { return float64(fp16.To(fp16.From(v))) }
	eachLayout(t, func(t *testing.T, layout string) {
		out := run(t, Early(), layout, a, b)
		for i := range m {
			for j := range n {
				var sum, abs float64
				for l := range k {
					v := half(a(i, l)) * half(b(l, j))
					sum, abs = sum+v, abs+math.Abs(v)
				}
				require.InDelta(t, sum, element(layout, out, i, j), 0x1p-11*math.Abs(sum)+0x1p-22*abs)
			}
		}
	})
}

func TestEveryOperationIsRounded(t *testing.T) {
	text := read(t, "wide")
	text = strings.Replace(text, "        tensor<int32, [4]> c_shape", `        tensor<fp16, [1,1,64,96]> d2 = matmul(transpose_x=bF,transpose_y=bT,x=c2,y=b2)[name=string("d2")];
        tensor<int32, [4]> c_shape`, 1)
	text = strings.Replace(text, "([1,64,1,128])", "([1,64,1,96])", 1)
	text = strings.Replace(text, "[1,64,1,128]> c = reshape(shape=c_shape,x=c2)", "[1,64,1,96]> c = reshape(shape=c_shape,x=d2)", 1)
	p, err := M4().Compile(text)
	require.NoError(t, err)
	// c = (2049 → 2048, -2048, 0, …), d[·,2] = c[·,0] + c[·,1]
	a := func(_, l int) float32 { return map[int]float32{0: 1, 1: 1}[l] }
	b := func(l, j int) float32 {
		return map[[2]int]float32{{0, 0}: 2048, {1, 0}: 1, {0, 1}: -2048, {2, 0}: 1, {2, 1}: 1}[[2]int{l, j}]
	}
	out := make([]uint16, 49152)
	require.NoError(t, p.Eval(out, append(pack("wide", a, b), make([]uint16, 49152)...)))
	require.Zero(t, fp16.To(out[2]))
	require.EqualValues(t, 2048, fp16.To(out[1]), "c[·,0]·b[1,0]")
}

func TestSumsAreWide(t *testing.T) {
	one := func(int, int) float32 { return 1 }
	big := func(l, _ int) float32 {
		if l == 0 {
			return 4096
		}
		return 1
	}
	eachLayout(t, func(t *testing.T, layout string) {
		out := run(t, M4(), layout, one, big)
		require.EqualValues(t, 4192, element(layout, out, 3, 5)) // 4096 + 95, to a multiple of 4
	})
}

func TestLargeResultsAreInfinite(t *testing.T) {
	a := func(i, _ int) float32 { return []float32{18, 19, -19}[i%3] }
	b := func(int, int) float32 { return 18 }
	eachLayout(t, func(t *testing.T, layout string) {
		out := run(t, Early(), layout, a, b)
		require.EqualValues(t, 31104, element(layout, out, 0, 0))
		require.EqualValues(t, math.Inf(1), element(layout, out, 1, 0)) // 32832
		require.EqualValues(t, math.Inf(-1), element(layout, out, 2, 0))
	})
}

func TestEarlySlicesClamp(t *testing.T) {
	a := func(int, l int) float32 { return map[bool]float32{true: 1}[l == 0] }
	b := func(l, j int) float32 { return []float32{4094, 4096, -4096}[j%3] }
	eachLayout(t, func(t *testing.T, layout string) {
		early, late := run(t, Early(), layout, a, b), run(t, M4(), layout, a, b)
		require.EqualValues(t, 4096, element(layout, late, 0, 1))
		if layout == "rows" {
			require.EqualValues(t, 4096, element(layout, early, 0, 1))
			return
		}
		require.EqualValues(t, 4094, element(layout, early, 0, 0))
		require.NotEqualValues(t, 4096, element(layout, early, 0, 1)) // Inf + 0·Inf
		require.NotEqualValues(t, -4096, element(layout, early, 0, 2))
	})
}

func TestSmallSurfaces(t *testing.T) {
	p, err := Early().Compile(read(t, "rows"))
	require.NoError(t, err)
	large, small := make([]uint16, 49152/2), make([]uint16, 49152/2-1)
	require.NoError(t, p.Eval(large, large))
	require.ErrorContains(t, p.Eval(large, small), "0x1d")
	require.ErrorContains(t, p.Eval(small, large), "0x1d")
}

func TestBudgets(t *testing.T) {
	c := Early()
	text := read(t, "rows")
	for i := range 119 {
		p, err := c.Compile(text)
		require.NoError(t, err)
		if err := p.Load(); i < 15 {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "15 programs are loaded")
		}
		if i == 100 {
			require.NoError(t, p.Unload())
			require.NoError(t, p.Load())
		}
	}
	_, err := c.Compile(text)
	require.ErrorContains(t, err, "119 programs")
}

func TestWhatTheCompilerRefuses(t *testing.T) {
	wide := read(t, "wide")
	for _, c := range []struct{ old, new, want string }{
		{"program(1.3)", "program(1.0)", `line 1: want "program(1.3)"`},
		{"buildInfo", "buildinfo", "line 2"},
		{"main<ios18>", "main<ios17>", "line 4"},
		{"matmul(", "matmulx(", "c2: unknown operation matmulx"},
		{"x=a2", "x=a9", `x = "a9", which is no tensor`},
		{"y=b2", "y=b9", `y = "b9", which is no tensor`},
		{"transpose_y=bF", "transpose_y=bX", "needs a const transpose_y"},
		{"begin=b_at", "begin=bF", "needs a const begin of 4 numbers"},
		{"y=b2", "y=a2", "c2 is declared"},
		{"transpose_x=bT", "transpose_x=bF", "matmul of [96,64] and [96,128]"},
		{"[0,0,0,64]", "[0,0,0,65]", "slice [0 0 0 65]"},
		{"[0,0,0,64]", "[0,0,0]", "3 values for"},
		{"val=bool(true)", "val=bool(1)", "want a name"},
		{"[name=string(\"a\")]", "", `want "["`},
		{"tensor<int32, [4]> b_at", "tensor<int32, [4]> a_at", "a_at is defined twice"},
		{"[1,1,64,128]> c2", "[1,1,128,64]> c2", "c2 is declared"},
		{"[1, 96, 1, 192]", "[1, 96, 1, 193]", "not a multiple of 32"},
		{"[1, 96, 1, 192]", "[1, 20000, 1, 192]", "axis 1"},
		{"[1, 96, 1, 192]", "[2, 96, 1, 192]", "want tensor<fp16"},
		{"tensor<fp16, [1, 96", "tensor<fp32, [1, 96", "want tensor<fp16"},
		{"-> (c)", "-> (c, c2)", "2 outputs"},
		{"-> (c)", "-> (x)", "not computed"},
		{"-> (c);\n}", "-> (c);\n}}", "text behind the program"},
		{"1,96,1,64]> a", "1,96,1,99999999999]> a", "want a number"},
		{"    } -> (c)", `        tensor<int32, [4]> d_size = const()[name=string("d_size"), val=tensor<int32, [4]>([1,64,1,64])];
        tensor<fp16, [1,64,1,64]> d = slice_by_size(x=c,begin=b_at,size=d_size)[name=string("d")];
    } -> (d)`, "of a result is not simulated"},
		{"tensor<int32, [4]>([1,1,96,64])", "tensor<int32, [4]>([1,1,64,96])", "is not simulated"},
	} {
		bad := strings.Replace(wide, c.old, c.new, 1)
		require.NotEqual(t, wide, bad)
		_, err := Early().Compile(bad)
		require.ErrorContains(t, err, c.want, "%s → %s", c.old, c.new)
		require.ErrorContains(t, err, "InvalidMILProgram")
	}
	for cut := range len(wide) - 1 {
		_, err := Early().Compile(wide[:cut])
		require.Error(t, err)
	}
	_, err := Early().Compile(strings.ReplaceAll(read(t, "published"), "[0,1,3,2]", "[0,1,3,3]"))
	require.ErrorContains(t, err, "transpose by [0 1 3 3]")
}

func TestSurfacesAreLockedInTurn(t *testing.T) {
	p, err := Device{Early()}.Compile(read(t, "rows"), 2*(m+n)*k, 49152)
	require.NoError(t, err)
	q, err := p.Bind()
	require.NoError(t, err)
	require.ErrorContains(t, q.UnlockInput(), "not locked")
	_, err = q.LockInput()
	require.NoError(t, err)
	_, err = q.LockInput()
	require.ErrorContains(t, err, "locked already")
	require.ErrorContains(t, q.Eval(), "locked")
}

func TestPutAndGet(t *testing.T) {
	d := Device{Early()}
	src := []float32{1, 2, 3, 99, 4, 5, 6, 99}
	for _, b := range []device.Block{
		{Rows: 2, Cols: 3, Stride: 4, Offset: 5, LD: 7, Scale: 2, RowScale: []float32{1, 0.5}},
		{Rows: 2, Cols: 3, Stride: 4, Offset: 5, LD: 7, Scale: 2, RowScale: []float32{1, 0.5}, Transposed: true},
	} {
		h := make([]uint16, 40)
		for row := range 2 {
			sub, at := b.Sub(row, row+1)
			d.Put(h, src[at:], sub)
		}
		want := make([]uint16, 40)
		for r := range 2 {
			for c := range 3 {
				at := 5 + r*7 + c
				if b.Transposed {
					at = 5 + c*7 + r
				}
				want[at] = fp16.From(src[r*4+c] * []float32{2, 1}[r])
			}
		}
		require.Equal(t, want, h)
		b.Scale, b.RowScale = 0.5, []float32{1, 2}
		got := []float32{7, 7, 7, 7, 7, 7, 7, 7}
		require.EqualValues(t, 6, d.Get(got, h, b))
		require.Equal(t, []float32{1, 2, 3, 7, 4, 5, 6, 7}, got)
		b.Add = true
		d.Get(got, h, b)
		require.Equal(t, []float32{2, 4, 6, 7, 8, 10, 12, 7}, got)
		for _, bad := range []uint16{0x7c00, 0xfc00, 0x7e01, 0xfe00} {
			h[5] = bad
			require.EqualValues(t, math.Inf(1), d.Get(got, h, b))
		}
	}
	require.EqualValues(t, 2*2*6, d.Counts().BytesPut)
	require.EqualValues(t, 2*6*2*6, d.Counts().BytesGot)
}

func FuzzCompile(f *testing.F) {
	for _, layout := range []string{"rows", "wide", "published"} {
		f.Add(read(f, layout))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) < 1<<14 {
			if p, err := parse(text); err == nil {
				require.NotNil(t, p)
			}
		}
	})
}
