package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/chainrule-go/chainrule/train"
)

// row is a line of metrics.jsonl: a step, in bits per byte.
type row struct {
	Step     int      `json:"step"`
	Train    float64  `json:"train"`
	HeldOut  *float64 `json:"held_out,omitempty"`
	LR       float64  `json:"lr"`
	GradNorm float64  `json:"grad_norm"`
}

// history is the steps of a run, also of those before it was interrupted.
type history struct {
	*os.File
	c    *material
	rows []row
}

// openHistory opens the file of a run that has taken so many steps. Later ones
// in it were lost with the process, and are taken again.
func openHistory(path string, steps int, c *material) (*history, error) {
	h := &history{c: c}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	whole := 0
	for line := range bytes.Lines(b) {
		var r row
		if json.Unmarshal(line, &r) != nil || r.Step > steps || line[len(line)-1] != '\n' {
			break
		}
		h.rows = append(h.rows, r)
		whole += len(line)
	}
	if h.File, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666); err != nil {
		return nil, err
	}
	if err = h.Truncate(int64(whole)); err == nil {
		_, err = h.Seek(0, io.SeekEnd)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *history) add(s train.Step) error {
	r := row{Step: s.Step, Train: h.c.bits(s.Loss), LR: s.LR, GradNorm: s.GradNorm}
	if s.Evaluated && !math.IsNaN(s.ValLoss) && !math.IsInf(s.ValLoss, 0) { // JSON has no word for these
		held := h.c.bits(s.ValLoss)
		r.HeldOut = &held
	}
	h.rows = append(h.rows, r)
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err = h.Write(append(b, '\n')); err == nil && s.Saved != "" {
		err = h.Sync() // as lasting as the checkpoint
	}
	return err
}

// rewind forgets the steps behind a checkpoint that the run went back to.
func (h *history) rewind(steps int) error {
	if len(h.rows) == 0 || h.rows[len(h.rows)-1].Step <= steps {
		return nil
	}
	path, c := h.Name(), h.c
	h.Close()
	back, err := openHistory(path, steps, c)
	if err == nil {
		*h = *back
	}
	return err
}

// mark is what another program needs for a byte of the held-out text.
type mark struct {
	name string
	bits float64
}

// compressors measures gzip, and xz where it is installed: the compressed size
// of the whole text minus that of the text before the split, so that they too
// know all the training text.
func compressors(ctx context.Context, text []byte, split int) []mark {
	if split == len(text) {
		return nil
	}
	bits := func(size func([]byte) (int, error)) (float64, bool) {
		all, err1 := size(text)
		before, err2 := size(text[:split])
		return 8 * float64(all-before) / float64(len(text)-split), err1 == nil && err2 == nil
	}
	var marks []mark
	if b, ok := bits(func(b []byte) (int, error) {
		var n counter
		w, err := gzip.NewWriterLevel(&n, gzip.BestCompression)
		if err == nil {
			_, err = w.Write(b)
		}
		if err == nil {
			err = w.Close()
		}
		return int(n), err
	}); ok {
		marks = append(marks, mark{"gzip -9", b})
	}
	if b, ok := bits(func(b []byte) (int, error) {
		c := exec.CommandContext(ctx, "xz", "-9e", "-c")
		c.Stdin = bytes.NewReader(b)
		out, err := c.Output()
		return len(out), err
	}); ok {
		marks = append(marks, mark{"xz -9e", b})
	}
	return marks
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// plotLoss draws the run: bits per byte against steps.
func plotLoss(path string, s *settings, rows []row, final float64, marks []mark) error {
	var training, held plotter.XYs
	for _, r := range rows {
		training = append(training, plotter.XY{X: float64(r.Step), Y: r.Train})
		if r.HeldOut != nil {
			held = append(held, plotter.XY{X: float64(r.Step), Y: *r.HeldOut})
		}
	}
	if len(training) == 0 {
		return nil
	}
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: %.2f bits per byte of held-out text", filepath.Base(s.Data), final)
	p.Title.TextStyle.Font.Size = 14
	p.Title.Padding = 8
	p.X.Label.Text, p.Y.Label.Text = "step", "bits per byte"
	p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 12, 12
	p.X.Min, p.X.Max = 0, float64(rows[len(rows)-1].Step)
	p.Legend.Top, p.Legend.TextStyle.Font.Size = true, 11
	p.Legend.XOffs, p.Legend.YOffs = -8, -8
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{230}, color.Gray{230}
	p.Add(grid)
	line := func(name string, xy plotter.XYs, c color.Color, width float64, dashes ...vg.Length) error {
		l, err := plotter.NewLine(xy)
		if err != nil {
			return err
		}
		l.Color, l.Width, l.Dashes = c, vg.Points(width), dashes
		p.Add(l)
		p.Legend.Add(name, l)
		return nil
	}
	if err := line("training batch", training, color.RGBA{150, 180, 215, 255}, 1); err != nil {
		return err
	}
	if len(held) > 0 {
		if err := line("held out, a tenth of it", held, color.RGBA{20, 80, 160, 255}, 2.2); err != nil {
			return err
		}
	}
	for i, m := range marks {
		at := plotter.XYs{{X: 0, Y: m.bits}, {X: p.X.Max, Y: m.bits}}
		c := []color.Color{color.RGBA{200, 80, 30, 255}, color.RGBA{60, 140, 60, 255}}[i%2]
		if err := line(fmt.Sprintf("%s (%.2f)", m.name, m.bits), at, c, 1.5, vg.Points(6), vg.Points(4)); err != nil {
			return err
		}
	}
	p.Y.Min = math.Floor(min(final, p.Y.Min)*2) / 2
	return p.Save(8*vg.Inch, 4.5*vg.Inch, path)
}
