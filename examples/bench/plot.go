package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/chainrule-go/chainrule"
)

// drawScaling draws the sweeps side by side, both axes logarithmic: where cost
// grows as the roofline does, the two run in parallel.
func drawScaling(path, title string, list []sweep, base chainrule.Config, o *options) error {
	fixed := map[string]string{
		"T":      fmt.Sprintf("B=%d, %d layers, width %d", o.B, base.NLayers, base.Dim),
		"layers": fmt.Sprintf("B=%d, T=%d, width %d", o.B, o.T, base.Dim),
		"width":  fmt.Sprintf("B=%d, T=%d, %d layers", o.B, o.T, base.NLayers),
		"B":      fmt.Sprintf("T=%d, %d layers, width %d", o.T, base.NLayers, base.Dim),
	}
	plots := [][]*plot.Plot{nil, nil}
	for i, s := range list {
		p, err := plotSweep(s, fixed[s.Of])
		if err != nil {
			return err
		}
		plots[i/2] = append(plots[i/2], p)
	}
	const width, height = 10 * vg.Inch, 7.5 * vg.Inch
	img := vgimg.New(width, height)
	dc := draw.New(img)
	style := plot.New().Title.TextStyle
	style.Font.Size = 14
	style.XAlign, style.YAlign = draw.XCenter, draw.YTop
	dc.FillText(style, vg.Point{X: width / 2, Y: height - 8}, "Time of a training step: "+title)
	area := draw.Crop(dc, 8, -12, 8, -34)
	tiles := draw.Tiles{Rows: 2, Cols: 2, PadX: 18, PadY: 14}
	for y, row := range plot.Align(plots, tiles, area) {
		for x, canvas := range row {
			plots[y][x].Draw(canvas)
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = vgimg.PngCanvas{Canvas: img}.WriteTo(f)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// canDraw makes the directory of a picture, and finds out whether it can be
// written, before minutes of measurements. A picture from before stays.
func canDraw(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	_, missing := os.Stat(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	if missing != nil {
		os.Remove(path)
	}
	return f.Close()
}

func plotSweep(s sweep, fixed string) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle.Font.Size, p.Title.Padding = fixed, 11, 4
	p.X.Label.Text, p.Y.Label.Text = s.Of, "ms"
	p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 11, 11
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{232}, color.Gray{232}
	p.Add(grid)
	var measured, roof plotter.XYs
	var xs []float64
	low, high := math.Inf(1), 0.0
	for _, q := range s.Points {
		x := float64(q.Size)
		measured = append(measured, plotter.XY{X: x, Y: 1e3 * q.Step.Median})
		roof = append(roof, plotter.XY{X: x, Y: 1e3 * q.Roofline})
		low, high = min(low, 1e3*q.Roofline, 1e3*q.Step.Median), max(high, 1e3*q.Step.Median, 1e3*q.Roofline)
		xs = append(xs, x)
	}
	if len(xs) == 0 { // nothing was measured
		xs, low, high = []float64{1}, 1, 10
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = sizes(xs), decades{}
	p.X.Min, p.X.Max = xs[0]/1.15, xs[len(xs)-1]*1.15
	p.Y.Min, p.Y.Max = low/1.5, high*1.5
	for _, l := range []struct {
		name   string
		xy     plotter.XYs
		colour color.Color
		dashes []vg.Length
	}{
		{"measured", measured, color.RGBA{20, 80, 160, 255}, nil},
		{"roofline", roof, color.RGBA{200, 80, 30, 255}, []vg.Length{5, 3}},
	} {
		if len(l.xy) == 0 {
			continue
		}
		line, points, err := plotter.NewLinePoints(l.xy)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width, line.Dashes = l.colour, 1.8, l.dashes
		points.Color, points.Shape, points.Radius = l.colour, draw.CircleGlyph{}, 2.6
		p.Add(line, points)
		p.Legend.Add(l.name, line, points)
	}
	p.Legend.Left, p.Legend.Top, p.Legend.TextStyle.Font.Size = true, true, 10
	p.Legend.XOffs, p.Legend.YOffs = 6, -4
	return p, nil
}

// sizes are ticks at the points themselves.
type sizes []float64

func (s sizes) Ticks(_, _ float64) (ticks []plot.Tick) {
	for _, v := range s {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.Itoa(int(v))})
	}
	return ticks
}

// decades are ticks at 1, 2 and 5 times powers of ten, less of them where
// there are many.
type decades struct{}

func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	steps := []float64{1, 2, 5}
	if high/low > 1000 {
		steps = steps[:1]
	}
	for e := math.Floor(math.Log10(low)); e <= math.Log10(high); e++ {
		for _, s := range steps {
			if v := s * math.Pow(10, e); v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 4, 64)})
			}
		}
	}
	return ticks
}
