package chainrule

import (
	"fmt"
	"math"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/internal/mem"
	"github.com/chainrule-go/chainrule/ops"
)

// Workspace holds the activations of one pass over a batch [B,T], and the
// Backend that computes its products. Forward fills it and Backward uses it
// up. One goroutine uses a Workspace at a time.
type Workspace struct {
	// LossDenom is what Forward divides the sum of losses by, and with it the
	// gradient. 0 means the number of targets ≥ 0 of the call, which makes the
	// loss a mean. Set it to the number of a whole step's targets, and the
	// micro-batches of the step weigh their tokens equally.
	LossDenom float64

	config   Config
	backend  backend.Backend
	B, T     int // the current shape; Resize sets it
	capacity int // B·T at most

	cos, sin []float32 // RoPE table [min(SeqLen,capacity),HD/2]

	// what the backward needs of the forward
	layers   []layerActivations
	rstd     []float32 // [n] of RMSFinal
	logits   []float32 // [n,V]; dlogits in Backward
	losses   []float32 // [n]
	lse      []float64 // [n]
	tokens   []int32   // [n]
	targets  []int32   // [n]
	invDenom float64   // of the last Forward

	// scratch, in which a later step overwrites an earlier one
	norm   []float32 // [n,C] output of an RMSNorm
	branch []float32 // [n,C] output of Wo or W2; gradient of norm in Backward
	act    []float32 // [n,H] output of SwiGLU
	dqkv   []float32 // [n,Q+2KV] in the memory of act
	dwide  []float32 // [n,max(H,Q)] gradient of act or of att
	x      []float32 // [n,C] the residual stream behind the last layer, in the memory of dwide
	dx     []float32 // [n,C] gradient of the residual stream

	// which Forward the activations belong to; model is nil when Backward has
	// nothing to work on
	model *Model
	gen   uint64
}

// layerActivations are what a layer keeps for its backward. Outputs of norms
// and of SwiGLU are not among them: recomputing them is cheap.
type layerActivations struct {
	x     []float32 // [n,C] input of the layer
	qk    []float32 // [n,Q+KV] q and k before their norm, if QKNorm
	qrstd []float32 // [n,NH] if QKNorm
	krstd []float32 // [n,NKV] if QKNorm
	qkv   []float32 // [n,Q+2KV] behind RoPE
	lse   []float32 // [B,NH,T]
	att   []float32 // [n,Q] output of attention
	mid   []float32 // [n,C] the residual stream behind attention
	h13   []float32 // [n,2H] gate and up projection; their gradient in Backward
	rstd1 []float32 // [n] of RMSAtt
	rstd2 []float32 // [n] of RMSFFN
}

// NewWorkspace returns a Workspace for batches of B sequences of T tokens of
// models of shape c. The error is Validate's, or says that B or T is out of
// range.
func NewWorkspace(c Config, B, T int, be backend.Backend) (*Workspace, error) {
	if be == nil {
		panic("chainrule: NewWorkspace: nil Backend")
	}
	ws, floats, err := shapeWorkspace(c, B, T)
	if err != nil {
		return nil, err
	}
	ws.backend = be
	ws.layers = make([]layerActivations, c.NLayers)
	memory := mem.Floats(floats)
	ws.cut(func(rows, width int) []float32 {
		t := memory[: rows*width : rows*width]
		memory = memory[rows*width:]
		return t
	})
	n := ws.capacity
	ws.lse, ws.tokens, ws.targets = make([]float64, n), make([]int32, n), make([]int32, n)
	ops.RopeTable(ws.cos, ws.sin, c.ropeFrequencies(), min(c.SeqLen, n))
	return ws, nil
}

// cut takes every float32 buffer from alloc, which gets rows and width.
func (ws *Workspace) cut(alloc func(rows, width int) []float32) {
	c, n := ws.config, ws.capacity
	C, H, Q, KV := c.Dim, c.HiddenDim, c.q(), c.kv()
	table := min(c.SeqLen, n)
	ws.cos, ws.sin = alloc(table, c.HeadDim/2), alloc(table, c.HeadDim/2)
	for i := range ws.layers {
		l := &ws.layers[i]
		l.x, l.qkv, l.att, l.mid, l.h13 = alloc(n, C), alloc(n, Q+2*KV), alloc(n, Q), alloc(n, C), alloc(n, 2*H)
		l.lse, l.rstd1, l.rstd2 = alloc(n, c.NHeads), alloc(n, 1), alloc(n, 1)
		if c.QKNorm {
			l.qk, l.qrstd, l.krstd = alloc(n, Q+KV), alloc(n, c.NHeads), alloc(n, c.NKVHeads)
		}
	}
	ws.rstd, ws.logits, ws.losses = alloc(n, 1), alloc(n, c.VocabSize), alloc(n, 1)
	ws.norm, ws.branch, ws.dx = alloc(n, C), alloc(n, C), alloc(n, C)
	ws.act, ws.dwide = alloc(n, max(H, Q+2*KV)), alloc(n, max(H, Q, C))
	ws.dqkv, ws.x = ws.act, ws.dwide
}

// WorkspaceBytes returns the memory that NewWorkspace(c, B, T, …) takes, with
// the same errors, and takes none of it.
func WorkspaceBytes(c Config, B, T int) (int64, error) {
	ws, floats, err := shapeWorkspace(c, B, T)
	if err != nil {
		return 0, err
	}
	return 4*int64(floats) + 16*int64(ws.capacity), nil
}

// shapeWorkspace returns a Workspace without its layers and memory, and the
// number of float32 that it needs. It takes no memory that grows with a size.
func shapeWorkspace(c Config, B, T int) (ws *Workspace, floats int, err error) {
	if err := c.Validate(); err != nil {
		return nil, 0, err
	}
	if err := checkShape(c, B, T); err != nil {
		return nil, 0, err
	}
	const most = 1 << (29 + 21*(^uint(0)>>63)) // an int has 32 or 64 bits
	ws = &Workspace{config: c, B: B, T: T, capacity: B * T}
	count := func() (floats int) {
		ws.cut(func(rows, width int) []float32 {
			if rows > (most-min(floats, most))/width {
				floats = most + 1
			} else {
				floats += rows * width
			}
			return nil
		})
		return floats
	}
	around := count() // without layers, then with one
	ws.layers = make([]layerActivations, 1)
	layer := count() - around
	if around > most || layer > (most-around)/c.NLayers {
		return nil, 0, fmt.Errorf("chainrule: a Workspace of B=%d, T=%d would have more than %d activations", B, T, most)
	}
	return ws, around + c.NLayers*layer, nil
}

func checkShape(c Config, B, T int) error {
	switch {
	case T < 1 || T > c.SeqLen:
		return fmt.Errorf("chainrule: T is %d, want 1 to Config.SeqLen %d", T, c.SeqLen)
	case B < 1 || B > (1<<31-1)/T:
		return fmt.Errorf("chainrule: B is %d, want 1 or more, and B·T (T is %d) below 2³¹", B, T)
	}
	return nil
}

// Resize changes the shape of the batches to [B,T], which must fit the one
// that NewWorkspace made: B·T may not grow. The activations of the last
// Forward are gone.
func (ws *Workspace) Resize(B, T int) error {
	if err := checkShape(ws.config, B, T); err != nil {
		return err
	}
	if B*T > ws.capacity {
		return fmt.Errorf("chainrule: Resize to B=%d, T=%d: the Workspace holds %d tokens", B, T, ws.capacity)
	}
	ws.B, ws.T, ws.model = B, T, nil
	return nil
}

// Logits returns the logits [B,T,V] of the last Forward, in the Workspace's
// own memory. Backward overwrites them with their gradient.
func (ws *Workspace) Logits() []float32 { return ws.logits[:ws.B*ws.T*ws.config.VocabSize] }

// ResidualRMS returns the largest root mean square, over the tokens of the last
// Forward, of the residual stream behind the last layer. Every layer adds to
// the stream, and normalisation hides how large it is from the losses: a number
// that went wrong on the way, and became huge, shows here.
func (ws *Workspace) ResidualRMS() float64 {
	least := float32(math.Inf(1))
	for _, r := range ws.rstd[:ws.B*ws.T] {
		least = min(least, r) // NaN if any is
	}
	return 1 / float64(least)
}

// Losses returns the losses [B,T] of the last Forward, in the Workspace's own
// memory; 0 where the target is ignored, and everywhere if there were none.
func (ws *Workspace) Losses() []float32 { return ws.losses[:ws.B*ws.T] }
