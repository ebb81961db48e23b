package train

import (
	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/internal/par"
)

// average is an exponential moving average of the weights, and a model that
// has it for weights.
type average struct {
	decay float64
	model *chainrule.Model
}

// newAverage begins with the weights of m.
func newAverage(decay float64, m *chainrule.Model) (*average, error) {
	if decay == 0 {
		return nil, nil
	}
	a, err := chainrule.NewModel(m.Config)
	if err != nil {
		return nil, err
	}
	copy(a.Data, m.Data)
	a.Touch()
	return &average{decay, a}, nil
}

// add takes the weights after a step, counted from 1. The decay grows from
// 2/11 on, so that the first weights, which are random, do not linger.
func (a *average) add(step int, m *chainrule.Model) {
	d := min(a.decay, float64(1+step)/float64(10+step))
	averageLoop.For(len(m.Data), averageGrain, averageArgs{a.model.Data, m.Data, float32(d), float32(1 - d)})
	a.model.Touch()
}

const averageGrain = 1 << 14

type averageArgs struct {
	average, weights []float32
	keep, take       float32
}

var averageLoop = par.New(func(a *averageArgs, lo, hi int) {
	weights := a.weights[lo:hi]
	for i, v := range a.average[lo:hi] {
		a.average[lo+i] = float32(a.keep*v) + float32(a.take*weights[i]) // rounded twice on every architecture
	}
})
