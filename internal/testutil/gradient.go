package testutil

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Step is the h of the finite differences.
const Step = 1e-5

// Gradient returns the derivatives of the loss with respect to the listed
// elements of every tensor, in the order of the lists.
func (c Config) Gradient(w Weights, b Batch, at map[string][]int) Weights {
	g := make(Weights, len(at))
	type chunk struct {
		name string
		lo   int
	}
	const grain = 32
	var chunks []chunk
	for name, elements := range at {
		g[name] = make([]float64, len(elements))
		for lo := 0; lo < len(elements); lo += grain {
			chunks = append(chunks, chunk{name, lo})
		}
	}
	inputs := c.inputs(w, b)
	var next atomic.Int64
	var done sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			w := w.Clone()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(chunks) {
					return
				}
				ch := chunks[i]
				t, elements, out := w[ch.name], at[ch.name], g[ch.name]
				for j := ch.lo; j < min(ch.lo+grain, len(elements)); j++ {
					e := elements[j]
					saved := t[e]
					out[j] = differentiate(Step, func(step float64) float64 {
						t[e] = saved + step
						return c.lossFrom(w, b, inputs, c.firstStage(ch.name))
					})
					t[e] = saved
				}
			}
		})
	}
	done.Wait()
	return g
}

// Project returns, for every tensor, the derivatives of the loss along the
// given directions, [K,N] each. Every element takes part, so this finds a
// fault that a sample of elements would miss.
func (c Config) Project(w Weights, b Batch, along map[string][][]float64) Weights {
	g := make(Weights, len(along))
	names := make(chan string, len(along))
	for name, us := range along {
		g[name] = make([]float64, len(us))
		names <- name
	}
	close(names)
	inputs := c.inputs(w, b)
	var done sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			w := maps.Clone(w)
			for name := range names {
				original := w[name]
				moved := slices.Clone(original)
				w[name] = moved
				for k, u := range along[name] {
					norm := math.Sqrt(dot(u, u))
					g[name][k] = norm * differentiate(Step, func(step float64) float64 {
						for i := range moved {
							moved[i] = original[i] + step/norm*u[i]
						}
						return c.lossFrom(w, b, inputs, c.firstStage(name))
					})
				}
				w[name] = original
			}
		})
	}
	done.Wait()
	return g
}

// differentiate is the central difference of fourth order: its error is
// O(h⁴), where the two-point formula's h² shows for small activations.
func differentiate(h float64, f func(step float64) float64) float64 {
	return (8*(f(h)-f(-h)) - (f(2*h) - f(-2*h))) / (12 * h)
}

// inputs returns what goes into every stage, so that a difference starts at
// the first one that its tensor takes part in.
func (c Config) inputs(w Weights, b Batch) [][]float64 {
	var ignored float64
	xs := [][]float64{c.embed(w, b)}
	for stage := range 2 * c.NLayers {
		xs = append(xs, c.stage(w, b, xs[stage], stage, &ignored))
	}
	return xs
}

// firstStage returns the first stage that the tensor takes part in; -1 is the
// embedding.
func (c Config) firstStage(name string) int {
	var l int
	var tensor string
	switch {
	case name == "token_embedding":
		return -1
	case name == "rms_final" || name == "wcls":
		return 2 * c.NLayers
	}
	if _, err := fmt.Sscanf(strings.ReplaceAll(name, ".", " "), "layers %d %s", &l, &tensor); err != nil {
		panic("testutil: unknown tensor " + name)
	}
	switch tensor {
	case "rms_ffn", "w1", "w2", "w3":
		return 2*l + 1
	}
	return 2 * l
}

func (c Config) lossFrom(w Weights, b Batch, inputs [][]float64, stage int) float64 {
	var x []float64
	if stage < 0 {
		stage, x = 0, c.embed(w, b)
	} else {
		x = inputs[stage]
	}
	var ignored float64
	for ; stage < 2*c.NLayers; stage++ {
		x = c.stage(w, b, x, stage, &ignored)
	}
	_, loss := c.loss(b, c.logits(w, x))
	return loss
}

// AllElements lists every element of every tensor.
func (c Config) AllElements() map[string][]int {
	at := map[string][]int{}
	for name, n := range c.Sizes() {
		for i := range n {
			at[name] = append(at[name], i)
		}
	}
	return at
}

// SampleElements lists up to k different elements of every tensor.
func (c Config) SampleElements(k int, seed uint64) map[string][]int {
	at := map[string][]int{}
	for i, name := range slices.Sorted(maps.Keys(c.Sizes())) {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		at[name] = r.Perm(c.Sizes()[name])[:min(k, c.Sizes()[name])]
	}
	return at
}

// SampleDirections returns k directions of random signs for every tensor: the
// mean of (Δ·u)² is an unbiased estimate of ‖Δ‖².
func (c Config) SampleDirections(k int, seed uint64) map[string][][]float64 {
	along := map[string][][]float64{}
	for i, name := range slices.Sorted(maps.Keys(c.Sizes())) {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for range k {
			u := make([]float64, c.Sizes()[name])
			for j := range u {
				u[j] = float64(2*r.IntN(2) - 1)
			}
			along[name] = append(along[name], u)
		}
	}
	return along
}

// Pick returns the listed elements of every tensor.
func (g Weights) Pick(at map[string][]int) Weights {
	p := Weights{}
	for name, t := range g {
		for _, e := range at[name] {
			p[name] = append(p[name], t[e])
		}
	}
	return p
}

// ScaleTo multiplies every tensor by √(size/length): the norm of a sample of
// elements becomes an estimate of the whole tensor's norm.
func (g Weights) ScaleTo(sizes map[string]int) Weights {
	for name, t := range g {
		for i := range t {
			t[i] *= math.Sqrt(float64(sizes[name]) / float64(len(t)))
		}
	}
	return g
}

// Along returns the products of every tensor with its directions.
func (g Weights) Along(directions map[string][][]float64) Weights {
	p := Weights{}
	for name, t := range g {
		for _, u := range directions[name] {
			p[name] = append(p[name], dot(t, u))
		}
	}
	return p
}

// Bound is how far a tensor may be from the reference:
// ‖Δ‖ ≤ OfTensor·‖reference‖ + OfAll·‖reference of all tensors‖.
type Bound struct{ OfTensor, OfAll float64 }

// Check returns an error that names every tensor of got that is further from
// want than the bound, missing, unknown or of another length.
func (b Bound) Check(want, got Weights) error {
	all := 0.0
	for _, t := range want {
		all += dot(t, t)
	}
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		t, u := want[name], got[name]
		if len(u) != len(t) {
			faults = append(faults, fmt.Sprintf("%s: %d elements, want %d", name, len(u), len(t)))
			continue
		}
		delta, worst := 0.0, 0
		for i := range t {
			delta += (u[i] - t[i]) * (u[i] - t[i])
			if math.Abs(u[i]-t[i]) > math.Abs(u[worst]-t[worst]) {
				worst = i
			}
		}
		delta = math.Sqrt(delta)
		norm := math.Sqrt(dot(t, t))
		if limit := b.OfTensor*norm + b.OfAll*math.Sqrt(all); !(delta <= limit) {
			faults = append(faults, fmt.Sprintf("%s: ‖Δ‖ %.3g > %.3g, ‖reference‖ %.3g; most at [%d]: %.9g, want %.9g",
				name, delta, limit, norm, worst, u[worst], t[worst]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			faults = append(faults, name+": unknown to the reference")
		}
	}
	if faults != nil {
		return fmt.Errorf("%d of %d tensors:\n%s", len(faults), len(want), strings.Join(faults, "\n"))
	}
	return nil
}

// Worst returns the tensor with the largest ratio of ‖Δ‖ to the bound.
func (b Bound) Worst(want, got Weights) (name string, ratio float64) {
	all := 0.0
	for _, t := range want {
		all += dot(t, t)
	}
	ratios := map[string]float64{}
	for name, t := range want {
		delta := 0.0
		for i := range t {
			delta += (got[name][i] - t[i]) * (got[name][i] - t[i])
		}
		ratios[name] = math.Sqrt(delta) / (b.OfTensor*math.Sqrt(dot(t, t)) + b.OfAll*math.Sqrt(all))
	}
	name = slices.MaxFunc(slices.Collect(maps.Keys(ratios)), func(x, y string) int { return cmp.Compare(ratios[x], ratios[y]) })
	return name, ratios[name]
}
