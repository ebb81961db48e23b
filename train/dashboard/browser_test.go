//go:build unix

package dashboard

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/metrics"
)

// browser is a page in a real Chromium, and what it complained about.
type browser struct {
	t   testing.TB
	ctx context.Context

	mu     sync.Mutex
	errors []string
}

// open shows a page in the browser that CHAINRULE_CHROMIUM names.
func open(t testing.TB, url string) *browser {
	path := os.Getenv("CHAINRULE_CHROMIUM")
	if path == "" {
		t.Skip("CHAINRULE_CHROMIUM does not name a Chromium")
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.Headless, chromedp.DisableGPU,
		chromedp.NoFirstRun, chromedp.WSURLReadTimeout(time.Minute)}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it has none for root
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	b := &browser{t: t, ctx: ctx}
	b.show(url)
	return b
}

// tab opens another tab of the same browser.
func (b *browser) tab(url string) *browser {
	ctx, stop := chromedp.NewContext(b.ctx)
	b.t.Cleanup(stop)
	tab := &browser{t: b.t, ctx: ctx}
	tab.show(url)
	return tab
}

// show goes to a page, and listens to what is said about it.
func (b *browser) show(url string) {
	complain := func(format string, args ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.errors = append(b.errors, fmt.Sprintf(format, args...))
	}
	require.NoError(b.t, chromedp.Listen(b.ctx, func(e any) {
		switch e := e.(type) {
		case *log.EventEntryAdded: // what the browser says: refused by the policy, not found, …
			complain("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
		case *runtime.EventExceptionThrown:
			complain("exception: %s %v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		case *runtime.EventConsoleAPICalled: // what the page says
			complain("console.%s", e.Type)
		}
	}))
	_, err := chromedp.Call(b.ctx, log.Enable, cdp.Empty{})
	require.NoError(b.t, err)
	require.NoError(b.t, chromedp.Do(b.ctx, chromedp.EmulateViewport(1280, 2000), chromedp.Navigate(url)))
}

// complaints returns what the browser has said, and forgets it.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.errors
	b.errors = nil
	return all
}

func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	require.NoError(b.t, err, expression)
	return v
}

// waits until an expression is true.
func (b *browser) waits(expression string) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		v, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && v {
			return
		}
		if time.Now().After(end) {
			require.FailNow(b.t, expression, "%v\n%s\n%s", err, b.text("body"), b.complaints())
		}
	}
}

func (b *browser) text(selector string) string {
	return eval[string](b, fmt.Sprintf("document.querySelector(%q).innerText", selector))
}

// pixels are those of a copy of a canvas: Chromium warns of the canvas that is
// read often.
const pixels = `(selector => {
	const c = document.querySelector(selector), copy = new OffscreenCanvas(c.width, c.height).getContext("2d", { willReadFrequently: true });
	copy.drawImage(c, 0, 0);
	return copy.getImageData(0, 0, c.width, c.height).data;
})`

// colors counts the colours of a canvas; a blank one has one.
func (b *browser) colors(selector string) int {
	return eval[int](b, fmt.Sprintf(`new Set(new Uint32Array(%s(%q).buffer)).size`, pixels, selector))
}

// ink counts the pixels of a canvas that have the colour of a CSS variable.
func (b *browser) ink(selector, variable string) int {
	return eval[int](b, fmt.Sprintf(`(d => {
		const want = getComputedStyle(document.documentElement).getPropertyValue(%q).trim().slice(1);
		const [r, g, b] = [0, 2, 4].map(i => parseInt(want.slice(i, i + 2), 16));
		let n = 0;
		for (let i = 0; i < d.length; i += 4) n += d[i] === r && d[i+1] === g && d[i+2] === b && d[i+3] === 255;
		return n;
	})(%s(%q))`, variable, pixels, selector))
}

// picture keeps what is seen, for a person to look at.
func (b *browser) picture(name string) {
	dir := os.Getenv("CHAINRULE_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o666))
}

// hostile is what a text of a model, a name or an error may try to be.
const hostile = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></script></pre><b id=bold>&amp; "quoted" {{1+1}}`

// recording writes a run's events, as a run does.
type recording struct {
	t   testing.TB
	log *metrics.Log
	at  time.Time

	harder float64 // what its loss is more than another's
}

func record(t testing.TB, dir string, steps int, at time.Time) *recording {
	require.NoError(t, os.MkdirAll(dir, 0o777))
	l, err := metrics.Open(filepath.Join(dir, file), metrics.Options{
		Steps: steps, BytesPerToken: 3.5, Config: map[string]any{"Dim": 256, "Data": hostile, hostile: map[string]int{hostile: 1}},
	})
	require.NoError(t, err)
	r := &recording{t: t, log: l, at: at}
	t.Cleanup(func() { l.Close() })
	return r
}

func (r *recording) event(kind train.Kind, s train.Step, err error) {
	r.at = r.at.Add(50 * time.Millisecond)
	r.log.OnEvent(train.Event{Kind: kind, Time: r.at, Step: s, Err: err})
	require.NoError(r.t, r.log.Err())
}

// steps takes steps from+1 to to, with all that a run has.
func (r *recording) steps(from, to int) {
	for i := from + 1; i <= to; i++ {
		x := float64(i)
		s := train.Step{
			Step: i, Loss: 3 + r.harder + 5*math.Exp(-x/50) + 0.2*math.Sin(x*x), GradNorm: 1 + math.Exp(-x/30), LR: 1e-3, Tokens: 512, Seen: 512 * int64(i),
			Duration: time.Duration(90+i%20) * time.Millisecond, MFU: 0.5 + 0.05*math.Sin(x), PeakMemory: 300 << 20,
		}
		if i%5 == 0 {
			for k := range 4 {
				s.Norms = append(s.Norms, train.Norm{Name: fmt.Sprintf("layers.%d", k), Grad: math.Exp(-x/40) * float64(k+1), Weight: 10 + x/9})
			}
		}
		r.event(train.Stepped, s, nil)
		if i%20 == 0 {
			s.Evaluated, s.ValLoss = true, s.Loss+0.3
			r.event(train.Evaluated, s, nil)
		}
		if i%50 == 0 {
			s.Sampled, s.Sample = true, fmt.Sprintf("sample %d\n%s", i, hostile)
			r.event(train.Sampled, s, nil)
			s.Saved = "checkpoint-" + hostile
			r.event(train.Saved, s, nil)
		}
	}
}

func TestTheBrowserDrawsARunThatGoesOn(t *testing.T) {
	dir := t.TempDir()
	old := record(t, filepath.Join(dir, "old <b>run"), 200, time.Now().Add(-time.Hour))
	old.harder = 1
	old.event(train.Started, train.Step{}, nil)
	old.steps(0, 200)
	old.event(train.Ended, train.Step{Step: 200}, nil)
	past := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "old <b>run", file), past, past))
	now := record(t, filepath.Join(dir, "now"), 300, time.Now().Add(-6*time.Second))
	now.event(train.Started, train.Step{}, nil)
	now.steps(0, 100)

	s := start(t, dir)
	b := open(t, s.URL())
	b.waits(`document.title.includes("now") && document.querySelector("#figures").innerText.includes("100")`)
	for _, id := range []string{"loss", "norm", "lr", "rate", "mfu"} {
		b.waits(fmt.Sprintf(`document.querySelector("#%s canvas")`, id))
		require.Greater(t, b.ink("#"+id+" canvas", "--c0"), 100, id)
	}
	require.Greater(t, b.colors("#heat"), 20)
	require.Contains(t, b.text("#status"), "live, about ")
	b.picture("light")

	// It goes on, in front of whoever looks.
	before := eval[string](b, `document.querySelector("#loss canvas").toDataURL()`)
	now.steps(100, 150)
	b.waits(`document.querySelector("#figures").innerText.includes("150") && document.querySelector("#samples").innerText.includes("sample 150")`)
	require.NotEqual(t, before, eval[string](b, `document.querySelector("#loss canvas").toDataURL()`))

	// Another run beside it, and the dark.
	require.Zero(t, b.ink("#loss canvas", "--c1"))
	require.NoError(t, chromedp.Do(b.ctx, chromedp.Evaluate[chromedp.Void](`[...document.querySelectorAll("#runs label")].find(l => l.innerText.includes("old")).click()`)))
	b.waits(`document.querySelector("#runs .c1")`)
	require.Eventually(t, func() bool { return b.ink("#loss canvas", "--c1") > 100 }, 10*time.Second, 100*time.Millisecond)
	require.NoError(t, chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS("#theme"))))
	require.Eventually(t, func() bool { return b.ink("#loss canvas", "--c1") > 100 }, 10*time.Second, 100*time.Millisecond)
	b.picture("dark")
	for _, x := range []string{"tokens", "time", "step"} {
		require.NoError(t, chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS("#x input[value="+x+"]"))))
		require.Eventually(t, func() bool { return b.ink("#loss canvas", "--c0") > 100 }, 10*time.Second, 100*time.Millisecond)
	}

	// A step back: what was lost is drawn as it was taken again.
	now.event(train.Started, train.Step{Step: 120, Seen: 512 * 120}, nil)
	now.steps(120, 130)
	b.waits(`document.querySelector("#figures").innerText.includes("130") && !document.querySelector("#samples").innerText.includes("sample 150")`)
	now.event(train.Skipped, train.Step{Step: 131, Loss: math.NaN(), GradNorm: math.Inf(1)}, fmt.Errorf("the loss is NaN %s", hostile))
	now.event(train.Ended, train.Step{Step: 130}, fmt.Errorf("the disk is full %s", hostile))
	b.waits(`document.querySelector("#status").innerText.includes("the disk is full")`)
	require.Contains(t, b.text("#events"), "the loss is NaN "+hostile)

	// Whatever a text is, it is text.
	require.Contains(t, eval[string](b, `document.querySelector("#samples").textContent`), hostile)
	require.Contains(t, b.text("#status"), hostile)
	require.Contains(t, b.text("#config"), hostile)
	require.Equal(t, "undefined", eval[string](b, `typeof window.hacked`))
	require.Zero(t, eval[int](b, `document.querySelectorAll("img, b, iframe, script:not([src])").length`))
	require.Empty(t, b.complaints())

	// On a telephone, nothing is wider than it.
	require.NoError(t, chromedp.Do(b.ctx, chromedp.EmulateViewport(390, 2000)))
	b.waits(`document.querySelector("#loss canvas").getBoundingClientRect().right <= 390`)
	require.LessOrEqual(t, eval[int](b, `document.documentElement.scrollWidth`), 390)
	b.picture("narrow")
	require.Empty(t, b.complaints())
}

func TestTheBrowserFindsTheServerAgain(t *testing.T) {
	dir := t.TempDir()
	addr := "127.0.0.1:0"
	s, err := Start(addr, dir, Options{})
	require.NoError(t, err)
	addr = strings.Trim(strings.TrimPrefix(s.URL(), "http:"), "/")
	b := open(t, s.URL())
	b.waits(`!document.querySelector("#empty").hidden`)
	b.picture("empty")
	r := record(t, filepath.Join(dir, "first"), 100, time.Now())
	r.event(train.Started, train.Step{}, nil)
	r.steps(0, 20)
	b.waits(`document.querySelector("#figures").innerText.includes("20")`) // by itself
	require.Empty(t, b.complaints())

	require.NoError(t, s.Close())
	b.waits(`document.querySelector("#status").innerText.includes("reconnecting")`)
	r.steps(20, 40)
	s, err = Start(addr, dir, Options{})
	require.NoError(t, err)
	defer s.Close()
	b.waits(`document.querySelector("#figures").innerText.includes("40") && document.querySelector("#status").innerText.includes("live")`)
	for _, c := range b.complaints() { // of the time when there was no server
		require.Contains(t, c, "net::ERR_")
	}

	// The file begins anew.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "first", file), fmt.Appendf(nil,
		`{"type":"start","step":0,"tokens":0,"time":%d,"steps":77}`+"\n"+`{"type":"step","step":7,"tokens":7,"time":%[1]d,"train/loss":1}`+"\n", time.Now().Unix()), 0o666))
	b.waits(`document.querySelector("#figures").innerText.includes("step of 77")`)
	require.NotContains(t, b.text("#figures"), "memory")
	require.Empty(t, b.complaints())
}

// A browser has six connections to a server, whatever the number of its tabs.
func TestTheBrowserShowsManyRunsInManyTabs(t *testing.T) {
	dir := t.TempDir()
	for i := range 4 {
		r := record(t, filepath.Join(dir, fmt.Sprint("run", i)), 100, time.Now())
		r.event(train.Started, train.Step{}, nil)
		r.steps(0, 20)
		if i > 0 {
			past := time.Now().Add(-time.Hour)
			require.NoError(t, os.Chtimes(filepath.Join(dir, fmt.Sprint("run", i), file), past, past))
		}
	}
	s := start(t, dir)
	tabs := []*browser{open(t, s.URL())}
	for range 2 {
		tabs = append(tabs, tabs[0].tab(s.URL()))
	}
	for _, b := range tabs {
		b.waits(`document.title.includes("run0")`)
		for i := range 3 {
			b.waits(fmt.Sprintf(`[...document.querySelectorAll("#runs label:not(.on)")].find(l => l.innerText.includes("run%d"))?.click() ?? true`, i+1))
		}
		b.waits(`[...document.querySelectorAll("#loss .u-series")].length === 1 + 3 * 4`)
	}
	// Each goes on, the first one and another.
	for _, i := range []int{0, 2} {
		l, err := metrics.Open(filepath.Join(dir, fmt.Sprint("run", i), file), metrics.Options{})
		require.NoError(t, err)
		r := &recording{t: t, log: l, at: time.Now()}
		r.steps(20, 60)
		require.NoError(t, l.Close())
		for _, b := range tabs {
			b.waits(fmt.Sprintf(`runs.get("run%d").last.step === 60`, i))
			b.waits(fmt.Sprintf(`runs.get("run%d").steps.step.length === 60`, i))
		}
	}
	for _, b := range tabs {
		require.Empty(t, b.complaints())
	}
}

// A page for which there was no place gets one when there is.
func TestTheBrowserWaitsForAPlace(t *testing.T) {
	dir := t.TempDir()
	r := record(t, filepath.Join(dir, "run"), 100, time.Now())
	r.event(train.Started, train.Step{}, nil)
	r.steps(0, 20)
	s := start(t, dir)
	s.handler.clients.Store(maxClients)
	b := open(t, s.URL())
	b.waits(`document.querySelector("#status").innerText.includes("reconnecting")`)
	s.handler.clients.Store(0)
	b.waits(`document.querySelector("#figures").innerText.includes("20")`)
}

// What was looked at closely stays there while the run goes on.
func TestTheBrowserStaysWhereItLooks(t *testing.T) {
	dir := t.TempDir()
	r := record(t, filepath.Join(dir, "run"), 300, time.Now())
	r.event(train.Started, train.Step{}, nil)
	r.steps(0, 100)
	b := open(t, start(t, dir).URL())
	b.waits(`document.querySelector("#figures").innerText.includes("100")`)
	at := eval[[]float64](b, `(r => [r.left + 0.4 * r.width, r.top + 0.5 * r.height, r.left + 0.6 * r.width])(document.querySelector("#loss .u-over").getBoundingClientRect())`)
	require.NoError(t, chromedp.Do(b.ctx, chromedp.DragAndDropXY(at[0], at[1], at[2], at[1], 5)))
	ends := `(x => [x.min, x.max])(charts.get("%s").plot.scales.x)`
	near := func(id string) []float64 { return eval[[]float64](b, fmt.Sprintf(ends, id)) }
	require.InDeltaSlice(t, []float64{40, 60}, near("loss"), 3)
	require.InDeltaSlice(t, []float64{40, 60}, near("norm"), 3)
	r.steps(100, 150)
	b.waits(`document.querySelector("#figures").innerText.includes("150")`)
	require.InDeltaSlice(t, []float64{40, 60}, near("loss"), 3)
	require.InDeltaSlice(t, []float64{40, 60}, near("norm"), 3)
	require.NoError(t, chromedp.Do(b.ctx, chromedp.DoubleClick(chromedp.CSS("#loss .u-over"))))
	b.waits(`charts.get("loss").plot.scales.x.max > 149 && charts.get("norm").plot.scales.x.max > 149`)
	r.steps(150, 170)
	b.waits(`charts.get("loss").plot.scales.x.max > 169 && charts.get("norm").plot.scales.x.max > 169`)
	require.Empty(t, b.complaints())
}
