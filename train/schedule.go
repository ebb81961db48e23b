package train

import "math"

// Schedule gives the learning rate of each step. It must be a pure function,
// and of a type that encoding/json writes in full: a checkpoint records it, and
// Resume compares.
type Schedule interface {
	// At returns the learning rate of a step, counted from 1.
	At(step int) float64
}

// Constant is one learning rate for all steps.
type Constant struct{ LR float64 }

// At returns LR.
func (s Constant) At(int) float64 { return s.LR }

// WarmupCosine rises linearly to LR in Warmup steps, which may be 0, and falls
// to MinLR at step Steps along half a cosine (Loshchilov and Hutter, SGDR,
// 2016). It stays there after.
type WarmupCosine struct {
	LR, MinLR     float64
	Warmup, Steps int
}

// At returns the learning rate of a step, counted from 1.
func (s WarmupCosine) At(step int) float64 {
	switch {
	case step <= s.Warmup:
		return s.LR * float64(step) / float64(s.Warmup)
	case step >= s.Steps:
		return s.MinLR
	}
	done := float64(step-s.Warmup) / float64(s.Steps-s.Warmup)
	return s.MinLR + (s.LR-s.MinLR)*(1+math.Cos(math.Pi*done))/2
}

// Linear rises linearly to LR in Warmup steps, which may be 0, and falls
// linearly to MinLR at step Steps. It stays there after.
type Linear struct {
	LR, MinLR     float64
	Warmup, Steps int
}

// At returns the learning rate of a step, counted from 1.
func (s Linear) At(step int) float64 {
	switch {
	case step <= s.Warmup:
		return s.LR * float64(step) / float64(s.Warmup)
	case step >= s.Steps:
		return s.MinLR
	}
	return s.MinLR + (s.LR-s.MinLR)*float64(s.Steps-step)/float64(s.Steps-s.Warmup)
}

// WarmupStableDecay rises linearly to LR in Warmup steps, which may be 0, stays
// there, and falls to MinLR in the last Decay of Steps steps, linearly. It
// stays there after. (Hu and others, MiniCPM, 2024.) A checkpoint from before
// the decay is a place from which a longer run can go on.
type WarmupStableDecay struct {
	LR, MinLR            float64
	Warmup, Decay, Steps int
}

// At returns the learning rate of a step, counted from 1.
func (s WarmupStableDecay) At(step int) float64 {
	switch {
	case step >= s.Steps:
		return s.MinLR
	case step <= s.Warmup:
		return s.LR * float64(step) / float64(s.Warmup)
	case step <= s.Steps-s.Decay:
		return s.LR
	}
	return s.MinLR + (s.LR-s.MinLR)*float64(s.Steps-step)/float64(s.Decay)
}
