package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/internal/isa"
)

// printer keeps the first error of writing.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

func (p *printer) json(v any) {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	if err := e.Encode(v); p.err == nil {
		p.err = err
	}
}

// machine is what the figures depend on beside this library.
type machine struct {
	CPU   string  `json:"cpu"`
	Cores int     `json:"cores"`
	OS    string  `json:"os"`
	Arch  string  `json:"arch"`
	Go    string  `json:"go"`
	ISA   string  `json:"isa"`
	Peaks []peaks `json:"peaks"`
}

func thisMachine(all [2]peaks) machine {
	m := machine{CPU: processor(), Cores: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Go: runtime.Version(), ISA: isa.Best.String(), Peaks: all[:1]}
	if all[1].Threads != all[0].Threads {
		m.Peaks = all[:]
	}
	return m
}

// processor returns the name of the processor as Linux tells it.
func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// peakResident returns the most memory that the process had, as Linux tells
// it, or 0.
func peakResident() int64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseInt(f[1], 10, 53)
			return kib << 10
		}
	}
	return 0
}

func (p *printer) machine(m machine) {
	p.printf("%s, %d core%s, %s/%s, %s, kernels: %s\n", m.CPU, m.Cores, plural(m.Cores), m.OS, m.Arch, m.Go, m.ISA)
	for _, k := range m.Peaks {
		kernel := ""
		if k.Kernel > 0 {
			kernel = fmt.Sprintf(" (%s by the kernel in L1)", giga(k.Kernel))
		}
		p.printf("%-18s  %s GF/s multiply-adds%s, %s GB/s read, %s GB/s AdamW's pattern\n",
			fmt.Sprintf("peak of %d thread%s", k.Threads, plural(k.Threads)), giga(k.FMA), kernel, giga(k.Read), giga(k.Update))
	}
	if len(m.Peaks) == 2 {
		if one, all := m.Peaks[0], m.Peaks[1]; all.FMA < 0.8*float64(all.Threads)*one.FMA {
			p.printf("note: %d threads never had more than %.1f times the peak of one; the cores share something\n",
				all.Threads, all.FMA/one.FMA)
		}
	}
}

// plural is the end of a word for n things.
func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// giga writes v/10⁹ with three digits.
func giga(v float64) string {
	switch v /= 1e9; {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// millis writes seconds as milliseconds with three digits or more.
func millis(seconds float64) string {
	switch v := seconds * 1e3; {
	case v < 0: // what is left of a step, when noise says so
		return "-" + millis(-seconds)
	case v < 0.9995:
		return fmt.Sprintf("%.3f", v)
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// rate writes a number of tokens a second.
func rate(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// star marks a figure that no good probe vouches for.
func star(noisy bool) string {
	if noisy {
		return "*"
	}
	return " "
}

func runStep(ctx context.Context, o *options, p *printer) error {
	c, err := shape(o.model, o.untied, o.T)
	if err != nil {
		return err
	}
	r, all, err := measureStep(ctx, o, c)
	if err != nil {
		return err
	}
	o.progress("")
	mach := thisMachine(all)
	if o.json {
		p.json(struct {
			Machine machine     `json:"machine"`
			Step    *stepReport `json:"step"`
		}{mach, r})
		return nil
	}
	p.machine(mach)
	p.step(r, all[1])
	return nil
}

func (p *printer) step(r *stepReport, k peaks) {
	c := r.config
	p.printf("\nA training step of %s: %s parameters, %d layers of width %d, vocabulary %d; B=%d, T=%d, %d thread%s\n",
		r.Model, cli.Count(r.Params), c.NLayers, c.Dim, c.VocabSize, r.B, r.T, k.Threads, plural(k.Threads))
	p.printf("  time      %s%sms (best %s, %d steps), %.0f tokens/s, %s GF/s\n",
		millis(r.Step.Median), star(r.Step.Noisy), millis(r.Step.Best), r.Step.Times, r.Tokens, giga(r.FLOPs))
	p.printf("  roofline  %s ms: %s GF of products and %s GF of attention at the peak, %s GB of AdamW; the step is at %.1f%%\n",
		millis(r.Roofline), giga(r.Work.Products), giga(r.Work.Attention), giga(r.Work.Update), r.OfRoofline)
	if r.Resident > 0 {
		p.printf("  memory    %s resident at most; 16 bytes a parameter and the activations are %s (%.0f%%)\n",
			cli.Bytes(r.Resident), cli.Bytes(r.Expected), of(float64(r.Resident), float64(r.Expected)))
	}
	p.printf("\n  %-15s %-18s %5s %9s %6s %10s %8s\n", "op", "shape", "calls", "ms", "share", "rate", "of peak")
	pass, sum, share := "", 0.0, 0.0
	flush := func() {
		if pass != "" {
			p.printf("  %-15s %-18s %5s %9s %5.1f%%\n", "= "+pass, "", "", millis(sum), share)
		}
		sum, share = 0, 0
	}
	for _, row := range r.Ops {
		if row.Pass != pass {
			flush()
			pass = row.Pass
			p.printf("%s\n", pass)
		}
		sum, share = sum+row.Seconds, share+row.Share
		rate := giga(row.Bytes) + " GB/s"
		if row.FLOPs > 0 {
			rate = giga(row.FLOPs) + " GF/s"
		}
		p.printf("  %-15s %-18s %5d %9s %5.1f%% %10s %7.1f%%\n",
			row.Op, row.Shape, row.Calls, millis(row.Seconds), row.Share, rate, row.OfPeak)
	}
	flush()
	p.printf("%-17s %-18s %5s %9s %5.1f%%\n", "step less its ops", "", "", millis(r.Else), of(r.Else, r.Step.Median))
	products, attention, adam, others := r.groups()
	p.printf("\nproducts %.1f%%, attention %.1f%%, AdamW %.1f%%, all other ops together %.1f%%\n", products, attention, adam, others)
	p.printf("Of peak: products and attention of the multiply-adds; others of reads or of AdamW's pattern, above 100%% from caches.\n")
	p.printf("The ops are timed in steps of their own, where dx and dW are two calls: what is left of the step is that and noise.\n")
	if r.Noisy || r.Step.Noisy {
		p.printf("* the cores were never free before and after: the time may be too long\n")
	}
}

// groups returns the shares of the step in percent.
func (r *stepReport) groups() (products, attention, adam, others float64) {
	for _, row := range r.Ops {
		switch {
		case row.Op == "attention":
			attention += row.Share
		case row.FLOPs > 0:
			products += row.Share
		case row.Op == "AdamStep":
			adam += row.Share
		default:
			others += row.Share
		}
	}
	return products, attention, adam, others
}
