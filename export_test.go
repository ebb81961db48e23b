package chainrule

// Distribution returns the probabilities [V] that Sample draws by.
func (s *Sampler) Distribution(logits []float32, before ...int32) ([]float64, error) {
	order, sum, err := s.distribution(logits, before)
	if err != nil {
		return nil, err
	}
	p := make([]float64, len(logits))
	for _, c := range order {
		p[c.token] = c.p / sum
	}
	return p, nil
}
