package ane

import (
	"fmt"
	"strings"

	"github.com/chainrule-go/chainrule/ane/internal/device"
)

// A program computes c = a b of a [m,k] and b [k,n], binary16, from one packed
// input to one output. Weights baked into a program cannot be changed, and
// programs of several inputs fail or give zeros, so both factors lie side by
// side in the input. m, k and n are multiples of 32.
//
// layout is one way to do it.
type layout struct {
	name string
	text func(m, k, n int) string

	// wide: the input is [1,k,1,m+n], aᵀ beside b; otherwise [1,m+n,1,k], the
	// rows of a above those of bᵀ.
	wide bool

	// columns: the output is cᵀ, [1,n,1,m]; otherwise c, [1,m,1,n].
	columns bool
}

var (
	rowsLayout      = &layout{name: "rows", text: rowsProgram}
	wideLayout      = &layout{name: "wide", text: wideProgram, wide: true}
	publishedLayout = &layout{name: "published", text: publishedProgram, wide: true, columns: true}
)

// layouts lists the layouts of a product in the order in which they are tried.
// The first one stages W as it lies in memory; the last one is the kernel that
// others have trained with.
func layouts(p Product) []*layout {
	if p == Forward {
		return []*layout{rowsLayout, wideLayout, publishedLayout}
	}
	return []*layout{wideLayout, rowsLayout, publishedLayout}
}

// a places rows × cols of a in the input.
func (l *layout) a(rows, cols, stride, m, k, n int) device.Block {
	b := device.Block{Rows: rows, Cols: cols, Stride: stride, LD: k, Scale: 1}
	if l.wide {
		b.Transposed, b.LD = true, m+n
	}
	return b
}

// w places W [rows, cols], or a tile of its rows, in the input: it is bᵀ for
// y = x Wᵀ and b for dx = dy W.
func (l *layout) w(p Product, rows, cols, m, k, n int) device.Block {
	b := device.Block{Rows: rows, Cols: cols, Stride: cols, Scale: 1, Transposed: l.wide == (p == Forward)}
	if l.wide {
		b.Offset, b.LD = m, m+n
	} else {
		b.Offset, b.LD = m*k, k
	}
	return b
}

// c is where rows × cols of the result are in the output.
func (l *layout) c(rows, cols, stride, m, n int) device.Block {
	b := device.Block{Rows: rows, Cols: cols, Stride: stride, LD: n, Scale: 1}
	if l.columns {
		b.Transposed, b.LD = true, m
	}
	return b
}

// rowsProgram slices on the channel axis only and transposes nothing itself.
func rowsProgram(m, k, n int) string {
	t := begin(m+n, k)
	t.flag("bF", false)
	t.flag("bT", true)
	t.slice("a", 0, 0, m, k)
	t.slice("b", m, 0, n, k)
	t.reshape("a2", "a", 1, 1, m, k)
	t.reshape("b2", "b", 1, 1, n, k)
	t.op("c2", "matmul(transpose_x=bF,transpose_y=bT,x=a2,y=b2)", 1, 1, m, n)
	t.reshape("c", "c2", 1, m, 1, n)
	return t.end("c")
}

// wideProgram slices on the last axis; matmul transposes aᵀ.
func wideProgram(m, k, n int) string {
	t := begin(k, m+n)
	t.flag("bF", false)
	t.flag("bT", true)
	t.slice("a", 0, 0, k, m)
	t.slice("b", 0, m, k, n)
	t.reshape("a2", "a", 1, 1, k, m)
	t.reshape("b2", "b", 1, 1, k, n)
	t.op("c2", "matmul(transpose_x=bT,transpose_y=bF,x=a2,y=b2)", 1, 1, m, n)
	t.reshape("c", "c2", 1, m, 1, n)
	return t.end("c")
}

// publishedProgram has the operations, in their order, of the dynamic kernel
// of github.com/maderix/ANE, with explicit transposes.
func publishedProgram(m, k, n int) string {
	t := begin(k, m+n)
	t.slice("a", 0, 0, k, m)
	t.slice("b", 0, m, k, n)
	t.reshape("a2", "a", 1, 1, k, m)
	t.ints("pm", 0, 1, 3, 2)
	t.op("a3", "transpose(perm=pm,x=a2)", 1, 1, m, k)
	t.reshape("b2", "b", 1, 1, k, n)
	t.flag("bF", false)
	t.op("c2", "matmul(transpose_x=bF,transpose_y=bF,x=a3,y=b2)", 1, 1, m, n)
	t.op("c3", "transpose(perm=pm,x=c2)", 1, 1, n, m)
	t.reshape("c", "c3", 1, n, 1, m)
	return t.end("c")
}

// text writes MIL. Every constant is a named const(): the compiler takes no
// other arguments.
type text struct{ strings.Builder }

func begin(channels, width int) *text {
	t := &text{}
	t.WriteString("program(1.3)\n" +
		`[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, ` +
		`{"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]` + "\n{\n")
	fmt.Fprintf(t, "    func main<ios18>(tensor<fp16, [1, %d, 1, %d]> x) {\n", channels, width)
	return t
}

func (t *text) ints(name string, a, b, c, d int) {
	fmt.Fprintf(t, "        tensor<int32, [4]> %s = const()[name=string(\"%s\"), val=tensor<int32, [4]>([%d,%d,%d,%d])];\n",
		name, name, a, b, c, d)
}

func (t *text) flag(name string, v bool) {
	fmt.Fprintf(t, "        bool %s = const()[name=string(\"%s\"), val=bool(%v)];\n", name, name, v)
}

func (t *text) op(name, expr string, a, b, c, d int) {
	fmt.Fprintf(t, "        tensor<fp16, [%d,%d,%d,%d]> %s = %s[name=string(\"%s\")];\n", a, b, c, d, name, expr, name)
}

// slice takes channels × width of the input, from (channel, column) on.
func (t *text) slice(name string, channel, column, channels, width int) {
	t.ints(name+"_at", 0, channel, 0, column)
	t.ints(name+"_size", 1, channels, 1, width)
	t.op(name, fmt.Sprintf("slice_by_size(x=x,begin=%s_at,size=%s_size)", name, name), 1, channels, 1, width)
}

func (t *text) reshape(name, of string, a, b, c, d int) {
	t.ints(name+"_shape", a, b, c, d)
	t.op(name, fmt.Sprintf("reshape(shape=%s_shape,x=%s)", name, of), a, b, c, d)
}

func (t *text) end(result string) string {
	fmt.Fprintf(t, "    } -> (%s);\n}\n", result)
	return t.String()
}
