package main

import (
	"context"
	"errors"
	"runtime"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

// generateRow is the generation of T tokens by a batch of sequences, from the
// first token on, and the reading of a prompt of T tokens.
type generateRow struct {
	Model   string  `json:"model"`
	B       int     `json:"B"`
	T       int     `json:"T"`
	Threads int     `json:"threads"`
	Time    figure  `json:"token_seconds"` // a token of each sequence
	Tokens  float64 `json:"tokens_per_second"`
	Bytes   float64 `json:"bytes_per_token"` // weights and, on average, keys and values
	Rate    float64 `json:"bytes_per_second"`
	OfRead  float64 `json:"percent_of_read_bandwidth"`
	Prefill figure  `json:"prefill_seconds"`
	FLOPs   float64 `json:"prefill_flops"`
	OfPeak  float64 `json:"percent_of_fma_peak"`
}

// generateBytes is what has to come from memory for a token of each of B
// sequences: every weight of a product once, and the keys and values of T/2
// earlier tokens a sequence.
func generateBytes(c chainrule.Config, B, T int) float64 {
	weights := 0.0
	for _, p := range products(c) {
		weights += float64(p.in) * float64(p.out) * float64(p.times)
	}
	cache := 2 * float64(c.NLayers) * float64(B) * float64(T) / 2 * float64(c.NKVHeads*c.HeadDim)
	return 4 * (weights + cache)
}

// generateMemory is the memory of generating T tokens of each of B sequences:
// weights, keys and values, and logits.
func generateMemory(c chainrule.Config, B, T int) int64 {
	cache := 2 * int64(c.NLayers) * int64(T) * int64(c.NKVHeads*c.HeadDim)
	return 4 * (int64(c.NumParams()) + int64(B)*(cache+int64(c.VocabSize)))
}

// generate generates T tokens of each of B sequences greedily, one pass after
// the other.
func generate(ctx context.Context, s *chainrule.Session, B, T int) error {
	for i := range B {
		s.Truncate(i, 0)
	}
	tokens := make([]int32, B)
	for i := range tokens {
		tokens[i] = 1
	}
	for range T {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		logits, err := s.Step(tokens)
		if err != nil {
			return err
		}
		V := len(logits) / B
		for b := range tokens {
			tokens[b] = likeliest(logits[b*V:][:V])
		}
	}
	return nil
}

func likeliest(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}

func runGenerate(ctx context.Context, o *options, p *printer) error {
	if o.T < 2 {
		return cli.Usagef("-T is %d, want 2 or more tokens to generate", o.T)
	}
	models := []string{o.model}
	if !o.given["model"] {
		models = []string{"stories15M", "stories110M", "SmolLM2-135M"}
	}
	threads := []int{1}
	if o.given["threads"] || o.threads == 1 {
		threads[0] = o.threads
	} else {
		threads = append(threads, o.threads)
	}
	for _, name := range models {
		c, err := shape(name, o.untied, o.T)
		if err != nil {
			return err
		}
		if err := cli.CheckMemory(generateMemory(c, o.B, o.T)); err != nil {
			return err
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(o.threads))
	var meters []*meter
	var all [2]peaks
	for _, n := range threads {
		var m *meter
		m, all = o.meters(ctx, n)
		meters = append(meters, m)
	}
	if !o.json {
		o.progress("")
		p.machine(thisMachine(all))
		p.printf("\n%d tokens, greedily, from an empty context on; bytes are the weights and half of the final keys and values\n", o.T)
		p.printf("%-14s %7s %5s %12s %10s %9s %9s %8s   %s\n", "", "threads", "batch", "tokens/s", "ms/token", "GB/token", "GB/s", "of read", "prompt of as many tokens")
	}
	var rows []generateRow
	left := 0
	for _, name := range models {
		c, err := shape(name, o.untied, o.T)
		if err != nil {
			return err
		}
		be, err := cpu.New(cpu.Options{})
		if err != nil {
			return err
		}
		m, err := chainrule.NewModel(c)
		if err != nil {
			return err
		}
		o.progress("%s: weights", name)
		m.Init(1)
		s, err := chainrule.NewSession(m, be, chainrule.SessionOptions{MaxLen: o.T, Batch: o.B})
		if err != nil {
			return cli.UsageError(err.Error())
		}
		for _, meter := range meters {
			o.progress("%s on %d thread%s", name, meter.threads, plural(meter.threads))
			row, err := generateOne(ctx, o, meter, name, c, s)
			if errors.Is(err, errLimit) {
				left++
				continue
			}
			if err != nil {
				return err
			}
			rows = append(rows, row)
			if !o.json {
				o.progress("")
				p.printf("%-14s %7d %5d %11s%s %10s %9s %9s %7.1f%%   %s%sms, %s GF/s, %.1f%% of peak\n",
					row.Model, row.Threads, row.B, rate(row.Tokens), star(row.Time.Noisy), millis(row.Time.Median),
					giga(row.Bytes), giga(row.Rate), row.OfRead, millis(row.Prefill.Median), star(row.Prefill.Noisy), giga(row.FLOPs), row.OfPeak)
			}
			if p.err != nil {
				return p.err
			}
		}
		be.Close()
	}
	if o.json {
		p.json(struct {
			Machine  machine       `json:"machine"`
			Generate []generateRow `json:"generate"`
			Left     int           `json:"not_measured"`
		}{thisMachine(all), rows, left})
		return nil
	}
	if left > 0 {
		p.printf("%d lines were left out, because the %v of -limit were over\n", left, o.limit)
	}
	return nil
}

func generateOne(ctx context.Context, o *options, m *meter, name string, c chainrule.Config, s *chainrule.Session) (generateRow, error) {
	row := generateRow{Model: name, B: o.B, T: o.T, Threads: m.threads, Bytes: generateBytes(c, o.B, o.T)}
	var err error
	row.Time, err = m.time(o.secondsOr(2), false, func() error { return generate(ctx, s, o.B, o.T) })
	if err != nil {
		return row, err
	}
	passes := float64(o.T)
	row.Time.Median, row.Time.Best = row.Time.Median/passes, row.Time.Best/passes
	row.Tokens = float64(o.B) / row.Time.Median
	row.Rate = row.Bytes / row.Time.Median
	row.OfRead = of(row.Rate, m.peaks.Read)
	prompt := make([]int32, o.T)
	for i := range prompt {
		prompt[i] = int32(i*7) % int32(c.VocabSize)
	}
	row.Prefill, err = m.time(o.secondsOr(0.5), true, func() error {
		s.Truncate(0, 0)
		_, err := s.Append(0, prompt)
		return err
	})
	if err != nil {
		return row, err
	}
	// Only the last token goes through the classifier.
	flop := attentionFLOP(c, 1, o.T, 2) * float64(c.NLayers)
	for _, p := range products(c) {
		n := float64(o.T)
		if p.name == "Wcls" {
			n = 1
		}
		flop += 2 * n * float64(p.in) * float64(p.out) * float64(p.times)
	}
	row.FLOPs = flop / row.Prefill.Median
	row.OfPeak = of(row.FLOPs, m.peaks.FMA)
	return row, nil
}
