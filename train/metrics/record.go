package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/chainrule-go/chainrule/train"
)

// Record is a line of metrics.jsonl. Type and Step are always there; what else
// is there depends on the Type, which is a train.Kind.
type Record struct {
	Type   train.Kind `json:"type"`
	Step   int        `json:"step"`
	Tokens int64      `json:"tokens"` // targets learned from since the start of the run
	Time   float64    `json:"time"`   // seconds since 1970

	// Of a "start": what the run is.
	Steps         int             `json:"steps,omitempty"`           // it ends after this many
	BytesPerToken float64         `json:"bytes_per_token,omitempty"` // of text, on average
	Config        json.RawMessage `json:"config,omitempty"`          // what the program says of it

	// Of a "step".
	Loss      *Float       `json:"train/loss,omitempty"` // nats a token, before the update
	LR        *Float       `json:"lr,omitempty"`
	GradNorm  *Float       `json:"grad_norm,omitempty"` // before clipping
	TokPerSec *Float       `json:"tok_per_sec,omitempty"`
	MFU       *Float       `json:"mfu,omitempty"`      // share of the measured peak
	Millis    *Float       `json:"dt_ms,omitempty"`    // the step's duration
	PeakMem   int64        `json:"peak_mem,omitempty"` // bytes resident at most, so far
	Norms     []NormRecord `json:"norms,omitempty"`

	// Of an "eval".
	ValLoss *Float `json:"val/loss,omitempty"` // nats a token, after the update
	ValBPB  *Float `json:"val/bpb,omitempty"`  // bits a byte, if BytesPerToken is known

	Text  string `json:"text,omitempty"`  // of a "sample"
	Path  string `json:"path,omitempty"`  // of a "save"
	Error string `json:"error,omitempty"` // what went wrong
}

// NormRecord is a train.Norm.
type NormRecord struct {
	Name   string `json:"name"`
	Grad   Float  `json:"grad"`
	Weight Float  `json:"weight"`
}

// Float is a float64 that may be NaN or infinite: JSON has no word for these,
// so they are the strings "NaN", "Infinity" and "-Infinity".
type Float float64

// MarshalJSON writes a number, or one of the three strings.
func (f Float) MarshalJSON() ([]byte, error) {
	switch x := float64(f); {
	case math.IsNaN(x):
		return []byte(`"NaN"`), nil
	case math.IsInf(x, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(x, -1):
		return []byte(`"-Infinity"`), nil
	default:
		return json.Marshal(x)
	}
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *Float) UnmarshalJSON(b []byte) error {
	s := string(bytes.Trim(b, `"`))
	x, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("%s is not a number", b)
	}
	*f = Float(x)
	return nil
}

// maxLine bounds a line: a sample may be long, but not without end.
const maxLine = 16 << 20

// Read returns the records of r. A last line without an end, of a process that
// was killed, is left out. The error names the line that is not a Record; what
// came before it is returned.
func Read(r io.Reader) ([]Record, error) {
	var all []Record
	lines := newLines(r)
	for {
		line, err := lines.next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("line %d: %w", len(all)+1, err)
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return all, fmt.Errorf("line %d: %w", len(all)+1, err)
		}
		if rec.Type == "" || rec.Step < 0 {
			return all, fmt.Errorf("line %d: type is %q and step %d, want a record of a run", len(all)+1, rec.Type, rec.Step)
		}
		all = append(all, rec)
	}
}

// ReadFile is Read on a file. A file that is not there is fs.ErrNotExist.
func ReadFile(path string) ([]Record, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := Read(f)
	if err != nil {
		return all, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// Current returns the records that count: without those of steps that were
// lost with a process, or rolled back, and taken again.
func Current(all []Record) []Record {
	var kept []Record
	for _, r := range all {
		if r.Type == train.Started || r.Type == train.RolledBack {
			for len(kept) > 0 && kept[len(kept)-1].Step > r.Step {
				kept = kept[:len(kept)-1]
			}
		}
		kept = append(kept, r)
	}
	return kept
}

// lines cuts a reader into lines, each of which ends.
type lines struct {
	r   io.Reader
	buf []byte // read and not yet returned
	err error
}

func newLines(r io.Reader) *lines { return &lines{r: r} }

var errLongLine = errors.New("it does not end")

func (l *lines) next() ([]byte, error) {
	from := 0
	for {
		if i := bytes.IndexByte(l.buf[from:], '\n'); i >= 0 {
			line := l.buf[:from+i]
			l.buf = l.buf[from+i+1:]
			return line, nil
		}
		if from = len(l.buf); from > maxLine {
			return nil, errLongLine
		}
		if l.err != nil {
			return nil, l.err
		}
		chunk := make([]byte, 64<<10)
		var n int
		n, l.err = l.r.Read(chunk)
		l.buf = append(l.buf, chunk[:n]...)
	}
}

// BitsPerByte returns the bits that a byte of text takes at a loss of so many
// nats a token.
func BitsPerByte(loss, bytesPerToken float64) float64 { return loss / math.Ln2 / bytesPerToken }
