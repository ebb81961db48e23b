package metrics

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/chainrule-go/chainrule/train"
)

// EventFile writes the events of a run as TensorBoard reads them: scalars under
// the names that they have in a Record, and samples as texts. It is for one
// goroutine.
//
// The format is TensorFlow's: records of a length, a checksum of it, a
// protocol buffer and its checksum (tensorflow/core/lib/io/record_writer.h);
// the buffers are those of tensorflow/core/util/event.proto and
// framework/summary.proto.
type EventFile struct {
	o    Options
	file *os.File
	size int64
	err  error
	lost int
}

// NewEventFile creates a file in dir, which must exist, with a name of its own.
// A run that goes on has one more: TensorBoard joins them, and leaves out of the
// earlier ones what was lost with the process.
func NewEventFile(dir string, o Options) (*EventFile, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	now := time.Now()
	var f *os.File
	for i := 0; ; i++ {
		name := fmt.Sprintf("events.out.tfevents.%010d.%s.%d.%d", now.Unix(), filepath.Base(host), os.Getpid(), i)
		f, err = os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o666)
		if !errors.Is(err, os.ErrExist) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	w := &EventFile{o: o, file: f}
	version := protowire.AppendTag(nil, 3, protowire.BytesType)
	if w.event(now, 0, protowire.AppendString(version, "brain.Event:2")); w.err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, w.err
	}
	return w, nil
}

// OnEvent writes what TensorBoard shows of an event; it is what
// train.Config.OnEvent wants. Failures are treated as Log treats them.
func (w *EventFile) OnEvent(e train.Event) {
	s := e.Step
	var values []byte
	scalar := func(tag string, x float64) {
		values = protowire.AppendTag(values, 1, protowire.BytesType)
		values = protowire.AppendBytes(values, scalarValue(tag, x))
	}
	switch e.Kind {
	case train.Started, train.RolledBack: // what was there of later steps is to be forgotten
		start := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1) // status: START
		log := protowire.AppendTag(nil, 7, protowire.BytesType)
		w.event(e.Time, s.Step+1, protowire.AppendBytes(log, start))
		return
	case train.Stepped:
		scalar("train/loss", s.Loss)
		scalar("lr", s.LR)
		scalar("grad_norm", s.GradNorm)
		scalar("tok_per_sec", s.TokensPerSecond())
		if s.MFU > 0 {
			scalar("mfu", s.MFU)
		}
		for _, n := range s.Norms {
			scalar("grad_norm/"+n.Name, n.Grad)
			scalar("weight_norm/"+n.Name, n.Weight)
		}
	case train.Evaluated:
		scalar("val/loss", s.ValLoss)
		if w.o.BytesPerToken > 0 {
			scalar("val/bpb", BitsPerByte(s.ValLoss, w.o.BytesPerToken))
		}
	case train.Sampled:
		values = protowire.AppendTag(values, 1, protowire.BytesType)
		values = protowire.AppendBytes(values, textValue("sample", strings.ToValidUTF8(s.Sample, "\ufffd")))
	case train.Saved, train.Ended:
		if err := w.file.Sync(); err != nil && w.err == nil {
			w.err = err
		}
		return
	default:
		return
	}
	summary := protowire.AppendTag(nil, 5, protowire.BytesType)
	w.event(e.Time, s.Step, protowire.AppendBytes(summary, values))
}

// scalarValue is a Summary.Value of a tag and a simple_value.
func scalarValue(tag string, x float64) []byte {
	v := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), tag)
	return protowire.AppendFixed32(protowire.AppendTag(v, 2, protowire.Fixed32Type), math.Float32bits(float32(x)))
}

// textValue is a Summary.Value of a tag, the name of the plugin that shows
// texts, and a tensor of one string.
func textValue(tag, text string) []byte {
	const dtString = 7
	plugin := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "text")
	metadata := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), plugin)
	one := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	shape := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), one)
	tensor := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), dtString)
	tensor = protowire.AppendBytes(protowire.AppendTag(tensor, 2, protowire.BytesType), shape)
	tensor = protowire.AppendString(protowire.AppendTag(tensor, 8, protowire.BytesType), text)
	v := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), tag)
	v = protowire.AppendBytes(protowire.AppendTag(v, 9, protowire.BytesType), metadata)
	return protowire.AppendBytes(protowire.AppendTag(v, 8, protowire.BytesType), tensor)
}

// event appends an Event whose field what is encoded already.
func (w *EventFile) event(at time.Time, step int, what []byte) {
	e := protowire.AppendFixed64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), math.Float64bits(float64(at.UnixMicro())/1e6))
	if step != 0 {
		e = protowire.AppendVarint(protowire.AppendTag(e, 2, protowire.VarintType), uint64(step))
	}
	e = append(e, what...)

	b := binary.LittleEndian.AppendUint64(nil, uint64(len(e)))
	b = binary.LittleEndian.AppendUint32(b, masked(b))
	b = append(b, e...)
	b = binary.LittleEndian.AppendUint32(b, masked(e))
	_, err := w.file.Write(b)
	if err == nil {
		w.size += int64(len(b))
		return
	}
	if e := w.file.Truncate(w.size); e != nil {
		err = errors.Join(err, e)
	}
	w.lost++
	if w.err == nil {
		w.err = err
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is TensorFlow's checksum of b (tensorflow/core/lib/hash/crc32c.h).
func masked(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// Err returns the first error of OnEvent.
func (w *EventFile) Err() error {
	if w.err == nil {
		return nil
	}
	return fmt.Errorf("%d events are not in %s: %w", w.lost, w.file.Name(), w.err)
}

// Close closes the file, and returns Err.
func (w *EventFile) Close() error { return errors.Join(w.Err(), w.file.Close()) }
