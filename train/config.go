package train

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
)

// Config is a training run. Zero is right for a field whose comment says what
// 0 or "" means; the others must be set.
type Config struct {
	Model   *chainrule.Model // trained in place; Resume also takes nil: the checkpoint's
	Backend backend.Backend

	Train []int32 // the corpus: at least SeqLen+1 tokens
	Val   []int32 // held-out tokens, at least 2; needed only for EvalEvery

	Batch      int // sequences in a batch
	SeqLen     int // tokens in a sequence; at most Model.SeqLen
	Accumulate int // batches in a step, which weigh every target equally; 0: 1
	Steps      int // the run ends after this many steps

	Seed     uint64 // the order of the batches; the weights are the caller's to Init
	Schedule Schedule
	Adam     chainrule.Adam // LR and GradScale are the run's to set; all zero: 0.9, 0.95, 1e-8, decay 0.1
	ClipNorm float64        // the largest norm of a step's gradient; 0: not clipped

	EvalEvery  int // steps from one evaluation on Val to the next, and at the end; 0: none
	EvalTokens int // evaluate on about so many tokens of Val, in batches spread over all of it; 0: all
	EvalStride int // of data.Windows: smaller is slower and gives more context; 0: SeqLen

	Dir       string // where checkpoints go; "": none are written
	SaveEvery int    // steps from one checkpoint to the next; 0: at the end, and when interrupted
}

// defaultAdam is what a Config whose Adam is all zero trains with.
var defaultAdam = chainrule.Adam{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1}

// withDefaults fills in what zero stands for.
func (c Config) withDefaults() Config {
	if c.Accumulate == 0 {
		c.Accumulate = 1
	}
	if c.Adam == (chainrule.Adam{}) {
		c.Adam = defaultAdam
	}
	if c.EvalStride == 0 {
		c.EvalStride = c.SeqLen
	}
	return c
}

// Validate returns an error that names the first field that cannot be, or nil.
// It looks at every token, and at the learning rates of the first million steps.
func (c Config) Validate() error {
	c = c.withDefaults()
	bad := func(format string, args ...any) error { return fmt.Errorf("train: Config."+format, args...) }
	switch {
	case c.Model == nil:
		return bad("Model is nil")
	case c.Backend == nil:
		return bad("Backend is nil")
	case c.Schedule == nil:
		return bad("Schedule is nil")
	}
	for _, f := range []struct {
		name string
		v    int
		min  int
	}{
		{"Batch", c.Batch, 1}, {"SeqLen", c.SeqLen, 1}, {"Accumulate", c.Accumulate, 1}, {"Steps", c.Steps, 1},
		{"EvalEvery", c.EvalEvery, 0}, {"EvalTokens", c.EvalTokens, 0}, {"SaveEvery", c.SaveEvery, 0},
	} {
		if f.v < f.min || f.v > math.MaxInt32 {
			return bad("%s is %d, want %d to %d", f.name, f.v, f.min, math.MaxInt32)
		}
	}
	a := c.Adam
	switch {
	case c.SeqLen > c.Model.SeqLen:
		return bad("SeqLen is %d, want at most the model's %d", c.SeqLen, c.Model.SeqLen)
	case c.Batch*c.SeqLen > math.MaxInt32/c.Accumulate:
		return bad("Batch %d, SeqLen %d and Accumulate %d make too many tokens in a step", c.Batch, c.SeqLen, c.Accumulate)
	case len(c.Train) <= c.SeqLen:
		return bad("Train has %d tokens, want at least one window of SeqLen+1 = %d", len(c.Train), c.SeqLen+1)
	case c.EvalStride < 1 || c.EvalStride > c.SeqLen:
		return bad("EvalStride is %d, want 1 to SeqLen %d", c.EvalStride, c.SeqLen)
	case c.EvalEvery > 0 && len(c.Val) < 2:
		return bad("EvalEvery is %d, but there are %d tokens to evaluate on, want 2 or more", c.EvalEvery, len(c.Val))
	case c.SaveEvery > 0 && c.Dir == "":
		return bad("SaveEvery is %d, but there is no Dir", c.SaveEvery)
	case !(a.Beta1 >= 0 && a.Beta1 < 1):
		return bad("Adam.Beta1 is %v, want 0 ≤ Beta1 < 1", a.Beta1)
	case !(a.Beta2 >= 0 && a.Beta2 < 1):
		return bad("Adam.Beta2 is %v, want 0 ≤ Beta2 < 1", a.Beta2)
	case !(a.Eps > 0) || math.IsInf(a.Eps, 0):
		return bad("Adam.Eps is %v, want a positive number", a.Eps)
	case !(a.WeightDecay >= 0) || math.IsInf(a.WeightDecay, 0):
		return bad("Adam.WeightDecay is %v, want 0 or a positive number", a.WeightDecay)
	case a.LR != 0:
		return bad("Adam.LR is %v, want 0: Schedule gives the learning rate", a.LR)
	case a.GradScale != 0:
		return bad("Adam.GradScale is %v, want 0: ClipNorm scales the gradient", a.GradScale)
	case !(c.ClipNorm >= 0) || math.IsInf(c.ClipNorm, 0):
		return bad("ClipNorm is %v, want 0 or a positive number", c.ClipNorm)
	}
	for step := 1; step <= min(c.Steps, 1e6); step++ {
		if err := c.checkRate(step); err != nil {
			return err
		}
	}
	if _, err := json.Marshal(c.Schedule); err != nil {
		return bad("Schedule cannot be recorded in a checkpoint: %w", err)
	}
	for _, of := range []struct {
		name   string
		tokens []int32
	}{{"Train", c.Train}, {"Val", c.Val}} {
		for i, id := range of.tokens {
			if id < 0 || int(id) >= c.Model.VocabSize {
				return bad("%s[%d] is token %d, want 0 to %d", of.name, i, id, c.Model.VocabSize-1)
			}
		}
	}
	return nil
}

// checkRate returns an error if the learning rate of a step cannot be.
func (c Config) checkRate(step int) error {
	if lr := c.Schedule.At(step); !(lr >= 0) || math.IsInf(lr, 0) {
		return fmt.Errorf("train: Config.Schedule gives step %d the learning rate %v, want 0 or a positive number", step, lr)
	}
	return nil
}

// hyper returns what decides a run's bits beside the model, the seed and the
// state, as one JSON object that a checkpoint keeps.
func (c Config) hyper() (json.RawMessage, error) {
	type schedule struct {
		Type  string
		Value Schedule
	}
	return json.Marshal(struct {
		Batch, SeqLen, Accumulate int
		Schedule                  schedule
		Adam                      chainrule.Adam
		ClipNorm                  float64
		TrainTokens               int
		TrainSHA256               string
	}{
		c.Batch, c.SeqLen, c.Accumulate,
		schedule{fmt.Sprintf("%T", c.Schedule), c.Schedule},
		c.Adam, c.ClipNorm,
		len(c.Train), fingerprint(c.Train),
	})
}

// fingerprint returns the SHA-256 of tokens as little-endian int32.
func fingerprint(tokens []int32) string {
	h := sha256.New()
	block := make([]byte, 0, 64<<10)
	for len(tokens) > 0 {
		n := min(len(tokens), cap(block)/4)
		block = block[:0]
		for _, id := range tokens[:n] {
			block = binary.LittleEndian.AppendUint32(block, uint32(id))
		}
		h.Write(block)
		tokens = tokens[n:]
	}
	return hex.EncodeToString(h.Sum(nil))
}
