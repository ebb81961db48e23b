package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/data"
)

// Trainer is a run: its Config, the optimizer's state and the position in the
// data. It is for one goroutine.
type Trainer struct {
	c       Config
	hyper   json.RawMessage
	ws      *chainrule.Workspace
	grad    *chainrule.Params
	adam    *chainrule.AdamState
	batches *data.Batches

	step     int   // steps taken
	position int64 // batches consumed

	savedStep int // step of the last checkpoint; 0 at the start of a run, which needs none
	savedPath string
	damaged   []error

	tokens, targets []int32 // of a step: [Accumulate,B,T]
}

// Step is what happened in a step.
type Step struct {
	Step     int           // counted from 1
	Loss     float64       // nats a target, before the update
	GradNorm float64       // before clipping
	LR       float64       // the learning rate
	Tokens   int           // targets that the step learned from
	Duration time.Duration // without evaluation and saving

	Evaluated bool
	ValLoss   float64 // nats a token after the update, if Evaluated

	Saved string // path of the checkpoint that was written after it, or ""
}

// NonFiniteError says that a step came upon a number that is NaN or infinite.
type NonFiniteError struct {
	Step  int
	What  string // "loss", "gradient of layers.3.wq[17]", "rms_final[2]", …
	Value float64
}

// Error says which number of which step it is.
func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("step %d: the %s is %v", e.Step, e.What, e.Value)
}

// New returns a Trainer at the start of a run. Beside Validate's, there is an
// error if Dir cannot be written to, has not the room for two checkpoints (an
// old one stays until the new one is whole), or holds some already: those of
// another run would be replaced.
func New(c Config) (*Trainer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	adam, err := chainrule.NewAdamState(c.Model.Config)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := prepareDir(c, "", 2); err != nil {
		return nil, err
	}
	hyper := json.RawMessage(nil)
	if c = c.withDefaults(); c.Dir != "" {
		if hyper, err = c.hyper(); err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
	}
	return newTrainer(c, hyper, adam)
}

// newTrainer makes what New and Resume share, of a valid Config with defaults.
func newTrainer(c Config, hyper json.RawMessage, adam *chainrule.AdamState) (*Trainer, error) {
	batches, err := data.NewBatches(c.Train, c.Batch, c.SeqLen, c.Seed)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	ws, err := chainrule.NewWorkspace(c.Model.Config, c.Batch, c.SeqLen, c.Backend)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	grad, err := chainrule.NewParams(c.Model.Config)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	n := c.Accumulate * c.Batch * c.SeqLen
	return &Trainer{
		c: c, hyper: hyper, ws: ws, grad: grad, adam: adam, batches: batches,
		tokens: make([]int32, n), targets: make([]int32, n),
	}, nil
}

// Model returns the model that is trained.
func (t *Trainer) Model() *chainrule.Model { return t.c.Model }

// Step returns the number of steps taken since the start of the run.
func (t *Trainer) Step() int { return t.step }

// Damaged says why Resume passed over checkpoints of later steps; usually it
// is empty.
func (t *Trainer) Damaged() []error { return t.damaged }

// Run takes the steps that are left, and yields each with a nil error after
// its update, evaluation and checkpoint. Between steps, the loop's body may
// call any method but Run; if it leaves, another Run goes on after that step.
//
// An error ends the Run, as its last pair. The Step beside it tells nothing
// but the last step taken and, in Saved, the checkpoint of that step if there
// is one. The error is
//
//   - ctx's cause: the step under way was finished and, if Dir is set, saved
//     (an evaluation is given up). If that failed, the error is both's;
//   - around a *NonFiniteError: nothing was updated;
//   - otherwise, what the backend or the schedule did (nothing was updated), or
//     the evaluation or the writing of the checkpoint (after the update).
//
// The last step is evaluated, if EvalEvery is set, and saved, if Dir is.
func (t *Trainer) Run(ctx context.Context) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		for t.step < t.c.Steps {
			if ctx.Err() != nil {
				err := context.Cause(ctx)
				if t.c.Dir != "" && t.savedStep != t.step {
					_, failed := t.Save()
					err = errors.Join(err, failed)
				}
				yield(t.last(), err)
				return
			}
			s, err := t.take()
			if err != nil {
				yield(t.last(), err)
				return
			}
			if err = t.evaluate(ctx, &s); err == nil && t.due(t.c.SaveEvery) && t.c.Dir != "" {
				s.Saved, err = t.Save()
			}
			if !yield(s, nil) {
				return
			}
			if err != nil {
				yield(t.last(), err)
				return
			}
		}
	}
}

// due reports whether something is done after the step just taken: every so
// many steps, and after the last.
func (t *Trainer) due(every int) bool {
	return t.step == t.c.Steps || every > 0 && t.step%every == 0
}

// last is the Step that goes with an error.
func (t *Trainer) last() Step {
	s := Step{Step: t.step}
	if t.savedStep == t.step {
		s.Saved = t.savedPath
	}
	return s
}

// evaluate evaluates on Val if it is due. To be cancelled is no error.
func (t *Trainer) evaluate(ctx context.Context, s *Step) error {
	if t.c.EvalEvery == 0 || !t.due(t.c.EvalEvery) {
		return nil
	}
	loss, _, err := t.eval(ctx, t.c.Val, t.c.EvalTokens)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	s.Evaluated, s.ValLoss = err == nil, loss
	return err
}

// take takes one step: the gradient of Accumulate batches, and the update.
func (t *Trainer) take() (Step, error) {
	start := time.Now()
	if err := t.c.checkRate(t.step + 1); err != nil {
		return Step{}, err
	}
	s := Step{Step: t.step + 1, LR: t.c.Schedule.At(t.step + 1)}
	size := t.c.Batch * t.c.SeqLen
	for i := range t.c.Accumulate {
		lo, hi := i*size, (i+1)*size
		t.batches.Fill(int(t.position)+i, t.tokens[lo:hi], t.targets[lo:hi])
	}
	for _, id := range t.targets {
		if id >= 0 {
			s.Tokens++
		}
	}

	// Each loss is a sum over the batch divided by the step's number of
	// targets, so losses and gradients add up to those of one large batch.
	t.ws.LossDenom = float64(s.Tokens)
	chainrule.ZeroGrad(t.grad)
	for i := range t.c.Accumulate {
		lo, hi := i*size, (i+1)*size
		loss, err := chainrule.Forward(t.c.Model, t.ws, t.tokens[lo:hi], t.targets[lo:hi])
		if err == nil {
			err = chainrule.Backward(t.c.Model, t.ws, t.grad)
		}
		if err != nil {
			return s, fmt.Errorf("train: step %d: %w", s.Step, err)
		}
		s.Loss += loss
	}
	s.GradNorm = chainrule.GradNorm(t.grad)
	if err := t.finite(s); err != nil {
		if weight := finiteParams(s.Step, "weight ", t.c.Model.Params); weight != nil { // as it was loaded
			err = fmt.Errorf("%w; %w", err, weight)
		}
		return s, fmt.Errorf("train: nothing was updated: %w", err)
	}

	adam := t.c.Adam
	adam.LR = s.LR
	if t.c.ClipNorm > 0 && s.GradNorm > t.c.ClipNorm {
		adam.GradScale = t.c.ClipNorm / s.GradNorm
	}
	chainrule.AdamStep(t.c.Model, t.grad, t.adam, adam)
	t.step++
	t.position += int64(t.c.Accumulate)
	s.Duration = time.Since(start)
	return s, nil
}

// finite returns a *NonFiniteError unless the loss and the gradient are.
func (t *Trainer) finite(s Step) error {
	if !isFinite(s.Loss) {
		return &NonFiniteError{s.Step, "loss", s.Loss}
	}
	if isFinite(s.GradNorm) {
		return nil
	}
	if err := finiteParams(s.Step, "gradient of ", t.grad); err != nil {
		return err
	}
	return &NonFiniteError{s.Step, "gradient norm", s.GradNorm}
}

func finiteParams(step int, of string, p *chainrule.Params) error {
	for tensor := range p.Tensors() {
		for i, v := range tensor.Data {
			if !isFinite(float64(v)) {
				return &NonFiniteError{step, fmt.Sprintf("%s%s[%d]", of, tensor.Name, i), float64(v)}
			}
		}
	}
	return nil
}

func isFinite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// Eval returns the mean loss, in nats a token, of predicting every token but
// the first, and how many these are. Tokens have up to SeqLen tokens of
// context (see Config.EvalStride). If ctx is done, the error is its cause.
func (t *Trainer) Eval(ctx context.Context, tokens []int32) (loss float64, n int, err error) {
	return t.eval(ctx, tokens, 0)
}

// eval is Eval of all batches, or of as many, evenly spread, as have about so
// many tokens.
func (t *Trainer) eval(ctx context.Context, tokens []int32, about int) (loss float64, n int, err error) {
	w, err := data.NewWindows(tokens, t.c.Batch, t.c.SeqLen, t.c.EvalStride)
	if err != nil {
		return 0, 0, fmt.Errorf("train: %w", err)
	}
	all := w.Len()
	part := all
	if about > 0 && about < len(tokens) {
		part = max(1, int(int64(all)*int64(about)/int64(len(tokens))))
	}
	t.ws.LossDenom = 1 // the sum
	size := t.c.Batch * t.c.SeqLen
	for i := range part {
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
		w.Fill(i*all/part, t.tokens[:size], t.targets[:size])
		sum, err := chainrule.Forward(t.c.Model, t.ws, t.tokens[:size], t.targets[:size])
		if err != nil {
			return 0, 0, fmt.Errorf("train: evaluating after step %d: %w", t.step, err)
		}
		loss += sum
		for _, id := range t.targets[:size] {
			if id >= 0 {
				n++
			}
		}
	}
	return loss / float64(n), n, nil
}

// Save writes a checkpoint of the run as it is and returns its path. Weights
// and moments that are not finite are not saved: the error is around a
// *NonFiniteError. Whatever fails, the checkpoint before it stays. A path with
// an error is a checkpoint that was saved before tidying up failed.
func (t *Trainer) Save() (path string, err error) {
	if t.c.Dir == "" {
		return "", errors.New("train: Config.Dir is empty: there is nowhere to save to")
	}
	err = finiteParams(t.step, "", t.c.Model.Params)
	for _, moments := range [][]float32{t.adam.M, t.adam.V} {
		if err == nil {
			err = finiteMoments(t.step, t.c.Model.Config, moments)
		}
	}
	if err != nil {
		return "", fmt.Errorf("train: not saved: %w", err)
	}
	path, err = checkpoint.SaveState(t.c.Dir, &checkpoint.State{
		Model: t.c.Model, Optimizer: t.adam,
		Step: t.step, Seed: t.c.Seed, Position: t.position,
		Hyper: t.hyper,
	})
	if path != "" {
		t.savedStep, t.savedPath = t.step, path
	}
	if err != nil {
		err = fmt.Errorf("train: saving after step %d: %w", t.step, err)
	}
	return path, err
}

func finiteMoments(step int, c chainrule.Config, m []float32) error {
	p, err := chainrule.ParamsOf(c, m)
	if err != nil {
		return err
	}
	return finiteParams(step, "moment of ", p)
}
