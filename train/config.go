package train

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
)

// Config is a training run. Zero is right for a field whose comment says what
// 0, "" or nil means; the others must be set.
type Config struct {
	Model   *chainrule.Model // trained in place; Resume also takes nil: the checkpoint's
	Backend backend.Backend

	Train  []int32 // the corpus: at least SeqLen+1 tokens
	Source Source  // gives the batches in place of Train and Seed; nil: Train does
	Val    []int32 // held-out tokens, at least 2; needed only for EvalEvery

	Batch      int // sequences in a batch
	SeqLen     int // tokens in a sequence; at most Model.SeqLen
	Accumulate int // batches in a step, which weigh every target equally; 0: 1
	Steps      int // the run ends after this many steps

	Seed     uint64 // the order of the batches; the weights are the caller's to Init
	Schedule Schedule
	Adam     chainrule.Adam // LR, GradScale and ZeroGrad are the run's to set; all zero: 0.9, 0.95, 1e-8, decay 0.1
	ClipNorm float64        // the largest norm of a step's gradient; 0: not clipped

	// EMA is the decay of an exponential moving average of the weights, which
	// takes the weights' place in evaluations and samples: 0.999 averages about
	// the last thousand steps, and fewer early on. 0: there is none.
	EMA float64

	EvalEvery  int          // steps from one evaluation to the next, and at the end; 0: none
	EvalTokens int          // evaluate on about so many tokens of Val, in batches spread over all of it; 0: all
	EvalStride int          // of data.Windows: smaller is slower and gives more context; 0: SeqLen
	Evaluate   EvaluateFunc // evaluates in place of Eval on Val; nil: that

	SampleEvery int // steps from one sample to the next; 0: none
	Sample      SampleFunc

	Dir       string        // where checkpoints go; "": none are written
	SaveEvery int           // steps from one checkpoint to the next; 0: at the end, and when interrupted
	SaveTime  time.Duration // save also when the last checkpoint is so old; 0: no
	Keep      int           // the last checkpoints to keep; 0: 1
	KeepBest  bool          // keep the one of the least validation loss, too; what is saved is evaluated then

	// A save that failed is tried again after the first step that ends
	// SaveRetryDelay later, and later by twice as much each time. When
	// SaveRetries of these have failed as well, the run ends. When it ends
	// anyway, that is not waited for.
	SaveRetries    int           // 0: 5; negative: none
	SaveRetryDelay time.Duration // 0: 10 s

	// OnBad is what is done about a step whose loss or gradient norm is not a
	// number, beyond 2⁶⁴ or, if Spike is set, more than Spike standard deviations
	// above the mean of the last 64 steps (see BadNumberError).
	OnBad Policy
	Spike float64 // 0: anything up to 2⁶⁴ will do

	NormsEvery int          // steps from one report of every layer's norms to the next; 0: none
	OnEvent    func(Event)  // gets everything that happens, on the goroutine of Run; nil: nobody
	Logger     *slog.Logger // gets what is worth a line of a log; nil: nobody

	// Exact makes Resume refuse a checkpoint from which this machine and
	// program cannot go on to the same bits; otherwise it warns.
	Exact bool
}

// Source is where batches come from. *data.Batches and *data.Padded are ones.
type Source interface {
	// Fill writes batch k ≥ 0 into tokens and targets, both [Batch,SeqLen]; a
	// target of −1 is not learned from, and rows and columns at the end that have
	// no other are not computed. It is a pure function of k: a run that goes on
	// from a checkpoint asks for some again.
	Fill(k int, tokens, targets []int32) error

	// Fingerprint identifies all that decides the batches. Resume compares it.
	Fingerprint() string
}

// EvaluateFunc returns the mean loss of m, in nats. It may use ws, which was
// made for [Batch,SeqLen]. If ctx is done, it returns ctx's cause.
type EvaluateFunc func(ctx context.Context, m *chainrule.Model, ws *chainrule.Workspace) (loss float64, err error)

// SampleFunc returns what m writes. If ctx is done, it returns ctx's cause.
type SampleFunc func(ctx context.Context, m *chainrule.Model) (text string, err error)

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
	if c.Keep == 0 {
		c.Keep = 1
	}
	if c.SaveRetries == 0 {
		c.SaveRetries = 5
	}
	if c.SaveRetryDelay == 0 {
		c.SaveRetryDelay = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
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
	case c.Source != nil && c.Train != nil:
		return bad("Source is set, and so is Train: want one of them")
	}
	for _, f := range []struct {
		name string
		v    int
		min  int
	}{
		{"Batch", c.Batch, 1}, {"SeqLen", c.SeqLen, 1}, {"Accumulate", c.Accumulate, 1}, {"Steps", c.Steps, 1},
		{"EvalEvery", c.EvalEvery, 0}, {"EvalTokens", c.EvalTokens, 0}, {"SaveEvery", c.SaveEvery, 0},
		{"SampleEvery", c.SampleEvery, 0}, {"NormsEvery", c.NormsEvery, 0}, {"Keep", c.Keep, 1},
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
	case c.Source == nil && len(c.Train) <= c.SeqLen:
		return bad("Train has %d tokens, want at least one window of SeqLen+1 = %d", len(c.Train), c.SeqLen+1)
	case c.EvalStride < 1 || c.EvalStride > c.SeqLen:
		return bad("EvalStride is %d, want 1 to SeqLen %d", c.EvalStride, c.SeqLen)
	case c.EvalEvery > 0 && c.Evaluate == nil && len(c.Val) < 2:
		return bad("EvalEvery is %d, but there are %d tokens to evaluate on, want 2 or more", c.EvalEvery, len(c.Val))
	case c.SampleEvery > 0 && c.Sample == nil:
		return bad("SampleEvery is %d, but Sample is nil", c.SampleEvery)
	case c.SaveEvery > 0 && c.Dir == "":
		return bad("SaveEvery is %d, but there is no Dir", c.SaveEvery)
	case c.SaveTime < 0:
		return bad("SaveTime is %v, want 0 or more", c.SaveTime)
	case c.SaveTime > 0 && c.Dir == "":
		return bad("SaveTime is %v, but there is no Dir", c.SaveTime)
	case c.KeepBest && (c.Dir == "" || c.EvalEvery == 0):
		return bad("KeepBest is set, but there is no Dir or no EvalEvery")
	case c.SaveRetryDelay < 0:
		return bad("SaveRetryDelay is %v, want 0 or more", c.SaveRetryDelay)
	case c.OnBad < Stop || c.OnBad > RollBack:
		return bad("OnBad is %d, want Stop, Skip or RollBack", c.OnBad)
	case c.OnBad == RollBack && c.Dir == "":
		return bad("OnBad is RollBack, but there is no Dir to go back to a checkpoint of")
	case !(c.Spike >= 0) || math.IsInf(c.Spike, 0):
		return bad("Spike is %v, want 0 or a positive number", c.Spike)
	case !(c.EMA >= 0 && c.EMA < 1):
		return bad("EMA is %v, want 0 ≤ EMA < 1", c.EMA)
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
	case a.ZeroGrad:
		return bad("Adam.ZeroGrad is true, want false: a Trainer does that by itself")
	case !(c.ClipNorm >= 0) || math.IsInf(c.ClipNorm, 0):
		return bad("ClipNorm is %v, want 0 or a positive number", c.ClipNorm)
	}
	for step := 1; step <= min(c.Steps, 1e6); step++ {
		if err := c.checkRate(step); err != nil {
			return err
		}
	}
	if _, err := c.settings(); err != nil {
		return err
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
