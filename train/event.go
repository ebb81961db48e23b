package train

import (
	"fmt"
	"math"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/internal/simd"
)

// Step is what happened in a step.
type Step struct {
	Step     int           // counted from 1
	Loss     float64       // nats a target, before the update
	GradNorm float64       // before clipping
	LR       float64       // the learning rate
	Tokens   int           // targets that the step learned from
	Seen     int64         // targets since the start of the run, this step's included
	Duration time.Duration // without evaluation, samples and saving

	// MFU is the share of the processor's peak that the model's arithmetic came
	// to: 6 operations a token and weight of a matrix, and attention's, against
	// multiply-adds in registers on GOMAXPROCS threads, measured when Run began.
	MFU float64
	// PeakMemory is the most memory, in bytes, that the process has had
	// resident, or 0 where the system does not say.
	PeakMemory int64

	Norms []Norm // of every layer, if NormsEvery is due

	Evaluated bool
	ValLoss   float64 // nats a token after the update, if Evaluated

	Sampled bool
	Sample  string // what the model writes after the update, if Sampled

	Saved string // path of the checkpoint that was written after it, or ""

	// Bad says why the step did not update anything, if the run goes on
	// nevertheless. Of a step that was rolled back, Step is that of the
	// checkpoint from which the run goes on; otherwise it is the one whose
	// place the next step takes.
	Bad error
}

// TokensPerSecond returns the rate of the step.
func (s Step) TokensPerSecond() float64 { return float64(s.Tokens) / s.Duration.Seconds() }

// Norm is the Euclidean norm of a part of the model's gradient, before
// clipping, and of its weights, after the update.
type Norm struct {
	Name         string // "token_embedding", "layers.3", "rms_final", "wcls"
	Grad, Weight float64
}

// Kind says what an Event is about.
type Kind string

// The kinds of events, in the order in which a run has them.
const (
	Started    Kind = "start"       // Run begins to take steps
	Stepped    Kind = "step"        // a step was taken
	Evaluated  Kind = "eval"        // its ValLoss is known
	Sampled    Kind = "sample"      // the model wrote its Sample
	Saved      Kind = "save"        // a checkpoint was written to Saved
	SaveFailed Kind = "save_failed" // it was not, for Err
	Skipped    Kind = "skip"        // a step was bad, for Err: nothing was updated
	RolledBack Kind = "rollback"    // and the run goes on from the checkpoint of Step
	Warned     Kind = "warning"     // Err is nothing to stop for
	Ended      Kind = "end"         // Run is through, or ends with Err
)

// Event is what happens in a run. Step has what is known of the step at that
// moment: that of Evaluated has all that the one of Stepped had.
type Event struct {
	Kind Kind
	Time time.Time
	Step Step
	Err  error
}

// emit tells OnEvent and the log.
func (t *Trainer) emit(kind Kind, s Step, err error) {
	if t.c.OnEvent != nil {
		t.c.OnEvent(Event{kind, time.Now(), s, err})
	}
	log := t.c.Logger.With("step", s.Step)
	switch kind {
	case Stepped:
		log.Debug("step", "loss", s.Loss, "grad_norm", s.GradNorm, "lr", s.LR, "duration", s.Duration)
	case Evaluated:
		log.Info("evaluated", "val_loss", s.ValLoss)
	case Saved:
		log.Info("saved", "path", s.Saved)
	case SaveFailed, Skipped, RolledBack, Warned:
		log.Warn(string(kind), "error", err)
	case Ended:
		if err != nil {
			log.Error("ended", "error", err)
			return
		}
		log.Info("ended")
	}
}

// norms returns the norms of the parts of the model.
func norms(m *chainrule.Model, grad *chainrule.Params) []Norm {
	group := func(name string, weights, grads [][]float32) Norm {
		sum := func(parts [][]float32) (sum float64) {
			for _, p := range parts {
				sum += simd.SumSquares(p)
			}
			return math.Sqrt(sum)
		}
		return Norm{name, sum(grads), sum(weights)}
	}
	all := []Norm{group("token_embedding", [][]float32{m.TokenEmbedding}, [][]float32{grad.TokenEmbedding})}
	tensors := func(l *chainrule.LayerParams) [][]float32 {
		return [][]float32{l.RMSAtt, l.Wq, l.Wk, l.Wv, l.Wo, l.RMSFFN, l.W1, l.W2, l.W3, l.Bq, l.Bk, l.Bv, l.QNorm, l.KNorm}
	}
	for i := range m.Layers {
		all = append(all, group(fmt.Sprintf("layers.%d", i), tensors(&m.Layers[i]), tensors(&grad.Layers[i])))
	}
	all = append(all, group("rms_final", [][]float32{m.RMSFinal}, [][]float32{grad.RMSFinal}))
	if !m.Tied {
		all = append(all, group("wcls", [][]float32{m.Wcls}, [][]float32{grad.Wcls}))
	}
	return all
}

// operations returns the floating-point operations of a batch that no
// implementation can do without: 2 a token and weight of a matrix in the
// forward and 4 in the backward; attention has T(T+1)/2 pairs of query and key,
// each with two products of HeadDim in the forward and five in the backward.
func operations(c chainrule.Config, B, T int) float64 {
	q, kv := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
	layer := c.Dim*(q+2*kv) + q*c.Dim + 3*c.Dim*c.HiddenDim
	weights := float64(c.NLayers)*float64(layer) + float64(c.Dim)*float64(c.VocabSize)
	attention := 14 * float64(T) * float64(T+1) / 2 * float64(q) * float64(c.NLayers)
	return float64(B) * (6*float64(T)*weights + attention)
}
