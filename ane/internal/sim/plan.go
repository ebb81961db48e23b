package sim

import (
	"fmt"
	"math"
	"slices"

	"github.com/chainrule-go/chainrule/ane/internal/fp16"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/internal/par"
)

// Program is a compiled MIL text. Its values are float32 numbers that are
// binary16 numbers; views of other values are not copied. Run needs memory of
// its own, so only one may run at a time.
type Program struct {
	chip *Chip
	text string

	in, out  int // elements of the input and of the output
	products []product
	result   tensor

	values  [][]float32 // memory: 0 is the input, then one for each product
	scratch [2][]float32
	matrix  backend.Matrix
	math    *cpu.Backend

	largest float32  // |y| of a product above which it is infinite
	narrow  bool     // sums in binary16: a fault
	clamped []tensor // slices that turn |v| > clampAbove into infinities
}

const clampAbove = 4094

// tensor is a view of values[value].
type tensor struct {
	value  int
	at     int
	dims   [4]int
	stride [4]int
}

func contiguous(value int, dims [4]int) tensor {
	t := tensor{value: value, dims: dims}
	n := 1
	for i := 3; i >= 0; i-- {
		t.stride[i] = n
		n *= dims[i]
	}
	return t
}

func (t tensor) size() int { return t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3] }

// product is values[to] [m,n] = x [m,k] · y [k,n], views of two dimensions.
type product struct {
	x, y    matrix
	m, k, n int
	to      int
}

// matrix is element (i,j) at at + i·di + j·dj.
type matrix struct{ value, at, di, dj int }

// compile plans a parsed program.
func compile(text string, chip *Chip) (*Program, error) {
	src, err := parse(text)
	if err != nil {
		return nil, err
	}
	c := &compiler{Program: &Program{largest: chip.Largest}, chip: chip, tensors: map[string]tensor{}, consts: map[string]literal{}}
	if err := c.program(src); err != nil {
		return nil, fmt.Errorf("InvalidMILProgram: %w", err)
	}
	if c.math, err = cpu.New(cpu.Options{}); err != nil {
		return nil, err
	}
	return c.Program, nil
}

type compiler struct {
	*Program
	chip    *Chip
	tensors map[string]tensor
	consts  map[string]literal
}

func (c *compiler) program(src *program) error {
	dims, err := c.dims(src.input.kind)
	if err != nil {
		return fmt.Errorf("input %s: %w", src.input.name, err)
	}
	input := contiguous(0, dims)
	c.tensors[src.input.name] = input
	c.in = input.size()
	c.values = append(c.values, make([]float32, c.in))
	for i := range src.body {
		s := &src.body[i]
		if _, ok := c.tensors[s.name]; ok || c.consts[s.name].defined() {
			return fmt.Errorf("%s is defined twice", s.name)
		}
		if s.op == "const" {
			c.consts[s.name] = s.val
			continue
		}
		t, err := c.operation(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		want, err := c.dims(s.kind)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if t.dims != want {
			return fmt.Errorf("%s is declared %v and is %v", s.name, want, t.dims)
		}
		c.tensors[s.name] = t
	}
	if len(src.results) != 1 {
		return fmt.Errorf("%d outputs, want 1", len(src.results))
	}
	result, ok := c.tensors[src.results[0]]
	if !ok || src.results[0] == src.input.name {
		return fmt.Errorf("output %s is not computed", src.results[0])
	}
	c.result, c.out = result, result.size()
	return nil
}

func (l literal) defined() bool { return l.ints != nil || l.word != "" }

// dims checks a tensor against the limits of the device.
func (c *compiler) dims(k kind) (dims [4]int, err error) {
	if k.elem != "fp16" || len(k.dims) != 4 || k.dims[0] != 1 {
		return dims, fmt.Errorf("%v, want tensor<fp16, [1, …]> of four dimensions", k)
	}
	for i, n := range k.dims {
		if n < 1 || n > c.chip.MaxAxis {
			return dims, fmt.Errorf("axis %d of %v is not 1 to %d", i, k.dims, c.chip.MaxAxis)
		}
	}
	if k.dims[3]%c.chip.Multiple != 0 {
		return dims, fmt.Errorf("the last axis of %v is not a multiple of %d", k.dims, c.chip.Multiple)
	}
	return [4]int(k.dims), nil
}

func (c *compiler) operation(s *statement) (t tensor, err error) {
	x, ok := c.tensors[s.arg("x")]
	if !ok {
		return t, fmt.Errorf("%s of x = %q, which is no tensor", s.op, s.arg("x"))
	}
	list := func(name string, n int) (v []int) {
		l, ok := c.consts[s.arg(name)]
		if err == nil && (!ok || len(l.ints) != n) {
			err = fmt.Errorf("%s needs a const %s of %d numbers", s.op, name, n)
		}
		return append(l.ints, make([]int, n)...)[:n]
	}
	flag := func(name string) bool {
		l, ok := c.consts[s.arg(name)]
		if err == nil && (!ok || l.word != "true" && l.word != "false") {
			err = fmt.Errorf("%s needs a const %s, true or false", s.op, name)
		}
		return l.word == "true"
	}
	switch s.op {
	case "slice_by_size":
		begin, size := list("begin", 4), list("size", 4)
		if err != nil {
			return t, err
		}
		t = x
		for i := range 4 {
			if size[i] < 1 || begin[i]+size[i] > x.dims[i] {
				return t, fmt.Errorf("slice %v + %v of %v", begin, size, x.dims)
			}
			t.at += begin[i] * x.stride[i]
			t.dims[i] = size[i]
		}
		if begin[3] != 0 && c.chip.ClampSlices {
			if x.value != 0 { // Run clamps before the products
				return t, fmt.Errorf("slice at %v of a result is not simulated on an engine that clamps", begin)
			}
			c.clamped = append(c.clamped, t)
		}
		return t, nil
	case "transpose":
		perm := list("perm", 4)
		if sorted := slices.Sorted(slices.Values(perm)); err == nil && !slices.Equal(sorted, []int{0, 1, 2, 3}) {
			err = fmt.Errorf("transpose by %v", perm)
		}
		if err != nil {
			return t, err
		}
		t = x
		for i, p := range perm {
			t.dims[i], t.stride[i] = x.dims[p], x.stride[p]
		}
		return t, nil
	case "reshape":
		shape := list("shape", 4)
		if err != nil {
			return t, err
		}
		return reshape(x, [4]int(shape))
	case "matmul":
		y, ok := c.tensors[s.arg("y")]
		if !ok {
			return t, fmt.Errorf("matmul of y = %q, which is no tensor", s.arg("y"))
		}
		tx, ty := flag("transpose_x"), flag("transpose_y")
		if err != nil {
			return t, err
		}
		return c.matmul(x, y, tx, ty)
	}
	return t, fmt.Errorf("unknown operation %s", s.op)
}

// reshape moves the dimensions of 1, which is all that the programs need.
func reshape(x tensor, shape [4]int) (tensor, error) {
	t := tensor{value: x.value, at: x.at, dims: shape}
	from := 0
	for i, n := range shape {
		if n == 1 {
			continue
		}
		for from < 4 && x.dims[from] == 1 {
			from++
		}
		if from == 4 || x.dims[from] != n {
			return t, fmt.Errorf("reshape of %v to %v is not simulated: it may only move dimensions of 1", x.dims, shape)
		}
		t.stride[i] = x.stride[from]
		from++
	}
	for ; from < 4; from++ {
		if x.dims[from] != 1 {
			return t, fmt.Errorf("reshape of %v to %v", x.dims, shape)
		}
	}
	return t, nil
}

func (c *compiler) matmul(x, y tensor, tx, ty bool) (tensor, error) {
	if x.dims[0] != 1 || x.dims[1] != 1 || y.dims[0] != 1 || y.dims[1] != 1 {
		return tensor{}, fmt.Errorf("matmul of %v and %v, want [1,1,·,·]", x.dims, y.dims)
	}
	a := matrix{x.value, x.at, x.stride[2], x.stride[3]}
	b := matrix{y.value, y.at, y.stride[2], y.stride[3]}
	m, k, kb, n := x.dims[2], x.dims[3], y.dims[2], y.dims[3]
	if tx {
		m, k, a.di, a.dj = k, m, a.dj, a.di
	}
	if ty {
		kb, n, b.di, b.dj = n, kb, b.dj, b.di
	}
	switch {
	case k != kb:
		return tensor{}, fmt.Errorf("matmul of [%d,%d] and [%d,%d]", m, k, kb, n)
	case k%c.chip.Multiple != 0:
		return tensor{}, fmt.Errorf("the contraction of %d is not a multiple of %d", k, c.chip.Multiple)
	}
	to := len(c.values)
	c.values = append(c.values, make([]float32, m*n))
	c.products = append(c.products, product{a, b, m, k, n, to})
	return contiguous(to, [4]int{1, 1, m, n}), nil
}

// Run computes the program on in, binary16 numbers, into out. Products
// accumulate wide, as the hardware does (here: as package backend/cpu does, in
// float32 or better), and are rounded once.
func (p *Program) Run(out, in []uint16) error {
	widen.For(p.in, 1<<14, halves{p.values[0], in[:p.in]})
	for _, t := range p.clamped {
		clampTensor(p.values[t.value], t)
	}
	for _, q := range p.products {
		if p.narrow {
			narrowSums.For(q.m, 1, narrowProduct{p.values, q})
		} else if err := p.multiply(q); err != nil {
			return err
		}
		round.For(q.m*q.n, 1<<14, rounding{p.values[q.to], p.largest})
	}
	r := p.result
	narrow.For(r.dims[0]*r.dims[1], 1, narrowing{out, p.values[r.value], r})
	return nil
}

// multiply runs a product on whichever of the CPU's two forms fits the
// layout of y; x is copied if it does not lie row by row.
func (p *Program) multiply(q product) error {
	x := p.layOut(0, q.x, q.m, q.k)
	p.matrix.Gen++
	if q.y.di == 1 { // yᵀ lies row by row
		p.matrix.Data = p.layOut(1, matrix{q.y.value, q.y.at, q.y.dj, q.y.di}, q.n, q.k)
		p.matrix.Out, p.matrix.In = q.n, q.k
		return p.math.Linear(p.values[q.to], x, &p.matrix, q.m)
	}
	p.matrix.Data = p.layOut(1, q.y, q.k, q.n)
	p.matrix.Out, p.matrix.In = q.k, q.n
	return p.math.LinearBackward(p.values[q.to], nil, x, nil, &p.matrix, q.m)
}

// layOut returns the matrix [rows, cols] row by row: itself, or a copy.
func (p *Program) layOut(slot int, x matrix, rows, cols int) []float32 {
	v := p.values[x.value]
	if x.di == cols && x.dj == 1 {
		return v[x.at : x.at+rows*cols]
	}
	if len(p.scratch[slot]) < rows*cols {
		p.scratch[slot] = make([]float32, rows*cols)
	}
	gather.For((rows+31)/32, 1, gathering{p.scratch[slot], v, x, rows, cols})
	return p.scratch[slot][:rows*cols]
}

type narrowProduct struct {
	values [][]float32
	product
}

var narrowSums = par.New(func(p *narrowProduct, lo, hi int) {
	x, y, to := p.values[p.x.value], p.values[p.y.value], p.values[p.to]
	for i := lo; i < hi; i++ {
		for j := range p.n {
			sum := float32(0)
			for l := range p.k {
				sum = fp16.To(fp16.From(sum + x[p.x.at+i*p.x.di+l*p.x.dj]*y[p.y.at+l*p.y.di+j*p.y.dj]))
			}
			to[i*p.n+j] = sum
		}
	}
})

type halves struct {
	to   []float32
	from []uint16
}

var widen = par.New(func(h *halves, lo, hi int) {
	to := h.to[lo:hi]
	for i, v := range h.from[lo:hi] {
		to[i] = fp16.To(v)
	}
})

type rounding struct {
	v       []float32
	largest float32
}

var round = par.New(func(r *rounding, lo, hi int) {
	v, largest := r.v[lo:hi], r.largest
	for i, y := range v {
		if y > largest || y < -largest {
			y *= float32(math.Inf(1))
		}
		v[i] = fp16.To(fp16.From(y))
	}
})

type narrowing struct {
	to   []uint16
	from []float32
	t    tensor
}

// narrow rounds a view, for each of the first two dimensions.
var narrow = par.New(func(n *narrowing, lo, hi int) {
	t := &n.t
	for i := lo; i < hi; i++ {
		at := t.at + i/t.dims[1]*t.stride[0] + i%t.dims[1]*t.stride[1]
		k := i * t.dims[2] * t.dims[3]
		for a := range t.dims[2] {
			for b := range t.dims[3] {
				n.to[k] = fp16.From(n.from[at+a*t.stride[2]+b*t.stride[3]])
				k++
			}
		}
	}
})

type gathering struct {
	to, from   []float32
	x          matrix
	rows, cols int
}

// gather copies bands of 32 rows, 32 columns at a time.
var gather = par.New(func(g *gathering, lo, hi int) {
	for r0 := lo * 32; r0 < min(hi*32, g.rows); r0 += 32 {
		for c0 := 0; c0 < g.cols; c0 += 32 {
			for r := r0; r < min(r0+32, g.rows); r++ {
				for c := c0; c < min(c0+32, g.cols); c++ {
					g.to[r*g.cols+c] = g.from[g.x.at+r*g.x.di+c*g.x.dj]
				}
			}
		}
	}
})

func clampTensor(v []float32, t tensor) {
	for a := range t.dims[0] {
		for b := range t.dims[1] {
			for c := range t.dims[2] {
				at := t.at + a*t.stride[0] + b*t.stride[1] + c*t.stride[2]
				for d := range t.dims[3] {
					e := &v[at+d*t.stride[3]]
					if *e > clampAbove || *e < -clampAbove {
						*e *= float32(math.Inf(1))
					}
				}
			}
		}
	}
}
