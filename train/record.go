package train

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/internal/isa"
)

// record is what a checkpoint keeps of a run beside weights and moments, as one
// JSON object: settings, which decide the run's bits beside the model, the seed
// and the state, and Run.
type record struct {
	settings
	Run *progress `json:",omitempty"` // nil in checkpoints of versions that had none
}

type settings struct {
	Batch, SeqLen, Accumulate int
	Schedule                  json.RawMessage
	Adam                      chainrule.Adam
	ClipNorm                  float64
	EMA                       float64 `json:",omitempty"`
	TrainTokens               int     `json:",omitempty"`
	TrainSHA256               string  `json:",omitempty"`
	Source                    string  `json:",omitempty"`
}

// progress is what a run remembers and where it was.
type progress struct {
	On       platform
	Seen     int64             // targets learned from
	RatesSum string            // SHA-256 of the learning rates of the steps taken
	Skipped  []int64           // steps whose batches were passed over, in the order of the data
	ValLoss  *float64          // of this checkpoint's step, if it was evaluated
	Recent   map[string]window `json:",omitempty"` // what spikes are told by
}

// platform is what bits depend on beside the settings.
type platform struct {
	GOARCH, ISA, Go, Chainrule, Backend string
}

// thisPlatform returns that of this process.
func thisPlatform(c Config) platform {
	p := platform{GOARCH: runtime.GOARCH, ISA: isa.Best.String(), Go: runtime.Version(), Chainrule: "unknown", Backend: fmt.Sprintf("%T", c.Backend)}
	if info, ok := debug.ReadBuildInfo(); ok {
		const path = "github.com/chainrule-go/chainrule"
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == path && m.Version != "" {
				p.Chainrule = m.Version
			}
		}
	}
	return p
}

// settings returns the settings of a Config with defaults.
func (c Config) settings() (settings, error) {
	schedule, err := json.Marshal(struct {
		Type  string
		Value Schedule
	}{fmt.Sprintf("%T", c.Schedule), c.Schedule})
	if err != nil {
		return settings{}, fmt.Errorf("train: Config.Schedule cannot be recorded in a checkpoint: %w", err)
	}
	return settings{
		Batch: c.Batch, SeqLen: c.SeqLen, Accumulate: c.Accumulate,
		Schedule: schedule, Adam: c.Adam, ClipNorm: c.ClipNorm, EMA: c.EMA,
	}, nil
}

// withData returns the settings with the fingerprint of the data, which takes
// a second for a billion tokens.
func (s settings) withData(c Config) settings {
	if c.Source != nil {
		s.Source = c.Source.Fingerprint()
		return s
	}
	s.TrainTokens, s.TrainSHA256 = len(c.Train), data.SHA256(c.Train)
	return s
}

// ratesSum returns the SHA-256 of the learning rates of the first steps.
func ratesSum(s Schedule, steps int) string {
	h := sha256.New()
	var b [8]byte
	for step := 1; step <= steps; step++ {
		binary.LittleEndian.PutUint64(b[:], math.Float64bits(s.At(step)))
		h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// record returns what the checkpoint of the run as it is keeps.
func (t *Trainer) record() (json.RawMessage, error) {
	r := record{t.settings, &progress{
		On: thisPlatform(t.c), Seen: t.seen, RatesSum: ratesSum(t.c.Schedule, t.step),
		Skipped: t.skipped, Recent: t.recent.save(),
	}}
	if t.valStep == t.step && t.step > 0 && isFinite(t.valLoss) {
		r.Run.ValLoss = &t.valLoss
	}
	return json.Marshal(r)
}
