package dashboard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// handler reads the runs below root, and nothing outside of it, whatever the
// links there.
type handler struct {
	root    *os.Root
	name    string // of the folder itself, if it is a run
	host    string
	o       Options
	clients atomic.Int32
	streams sync.WaitGroup
}

func newHandler(root *os.Root, name, host string, o Options) *handler {
	return &handler{root: root, name: name, host: host, o: o}
}

// file is what a run has in its folder.
const file = "metrics.jsonl"

// maxRuns bounds the list.
const maxRuns = 1000

// run is a folder with a file.
type run struct {
	Name string `json:"name"`
	Path string `json:"path"` // in the folder that is shown; "." is that folder
	Time int64  `json:"time"` // of the last change, in milliseconds since 1970
	Size int64  `json:"size"`
}

// runs returns the runs, the latest first.
func (h *handler) runs() ([]run, error) {
	runs := []run{}
	add := func(at, name string) {
		if info, err := h.root.Stat(path.Join(at, file)); err == nil && info.Mode().IsRegular() {
			runs = append(runs, run{name, at, info.ModTime().UnixMilli(), info.Size()})
		}
	}
	add(".", h.name)
	entries, err := fs.ReadDir(h.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			add(e.Name(), e.Name())
		}
	}
	slices.SortStableFunc(runs, func(a, b run) int { return int(max(-1, min(1, b.Time-a.Time))) })
	return runs[:min(len(runs), maxRuns)], nil
}

const (
	poll       = 250 * time.Millisecond // from one look at a file to the next
	heartbeat  = 15 * time.Second       // from one sign of life to the next
	patience   = 10 * time.Second       // with a client that does not read
	maxClients = 64
	maxChunk   = 64 << 10 // of lines that go out together
	maxLine    = 16 << 20
)

// serveEvents sends the lines of a run, those that are there and those that
// come. The id of an event is where in the file it ends, so that a page goes on
// from there, by Last-Event-ID or from=. The event "idle" says that there is no
// more for now, "reset" that the file is another one than before.
func (h *handler) serveEvents(w http.ResponseWriter, r *http.Request) {
	h.streams.Add(1)
	defer h.streams.Done()
	at := r.URL.Query().Get("run")
	if at != "." && (at == "" || strings.ContainsAny(at, `/\`) || strings.HasPrefix(at, ".")) {
		http.NotFound(w, r)
		return
	}
	if h.clients.Add(1) > maxClients {
		h.clients.Add(-1)
		http.Error(w, "too many pages are looking", http.StatusServiceUnavailable)
		return
	}
	defer h.clients.Add(-1)
	f, err := h.open(at)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer func() { f.Close() }()
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	out := stream{w: w, control: http.NewResponseController(w)}
	from := r.Header.Get("Last-Event-ID")
	if from == "" {
		from = r.URL.Query().Get("from")
	}
	offset, err := strconv.ParseInt(from, 10, 64)
	if err != nil || offset < 0 {
		offset = 0
	}
	tail := tail{f: f, offset: offset}
	if out.send("retry: 1000\n\n") != nil {
		return
	}
	wait := time.NewTicker(poll)
	defer wait.Stop()
	idle, told := time.Now(), false
	for {
		again, err := h.replaced(at, tail.f, tail.offset)
		if err == nil && again != nil { // a new run under the old name
			f.Close()
			f, tail.f, tail.offset = again, again, 0
			told = false
			err = out.send("event: reset\nid: 0\ndata:\n\n")
		}
		for err == nil {
			var lines []byte
			if lines, err = tail.next(); err != nil || len(lines) == 0 {
				break
			}
			idle, told = time.Now(), false
			err = out.lines(lines, tail.offset)
		}
		if err == nil && !told {
			told = true
			err = out.send("event: idle\ndata:\n\n")
		}
		if err == nil && time.Since(idle) > heartbeat {
			idle = time.Now()
			err = out.send(": still here\n\n")
		}
		if err != nil {
			return // the client comes again, or is gone
		}
		select {
		case <-r.Context().Done():
			return
		case <-wait.C:
		}
	}
}

// open opens the file of a run. It does not wait, whatever the file is.
func (h *handler) open(at string) (*os.File, error) {
	name := path.Join(at, file)
	info, err := h.root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return h.root.OpenFile(name, os.O_RDONLY|nonblock, 0)
}

// replaced returns the file that has taken the place of f, or f anew if what was
// read of it ended where there is no end of a line now; nil if neither is so.
func (h *handler) replaced(at string, f *os.File, offset int64) (*os.File, error) {
	was, err := f.Stat()
	if err != nil {
		return nil, err
	}
	now, err := h.root.Stat(path.Join(at, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it may come back
	}
	if err != nil {
		return nil, err
	}
	if os.SameFile(was, now) {
		before := []byte{'\n'}
		if offset > 0 {
			if n, _ := f.ReadAt(before, offset-1); n == 0 {
				before[0] = 0
			}
		}
		if before[0] == '\n' {
			return nil, nil
		}
	}
	return h.open(at)
}

// tail is a file that grows.
type tail struct {
	f      *os.File
	offset int64 // of what was not returned yet
}

// next returns whole lines, about maxChunk bytes of them, or none if none have
// come.
func (t *tail) next() ([]byte, error) {
	for size := maxChunk; ; size *= 4 {
		b := make([]byte, size)
		n, err := t.f.ReadAt(b, t.offset)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if end := bytes.LastIndexByte(b[:n], '\n'); end >= 0 {
			t.offset += int64(end) + 1
			return b[:end], nil
		}
		if n < size {
			return nil, nil
		}
		if size > maxLine {
			return nil, errors.New("a line does not end")
		}
	}
}

// stream writes server-sent events.
type stream struct {
	w       io.Writer
	control *http.ResponseController
}

// lines sends lines as one event, whose data they are.
func (s *stream) lines(lines []byte, id int64) error {
	b := append([]byte("id: "), strconv.FormatInt(id, 10)...)
	for line := range bytes.SplitSeq(lines, []byte("\n")) {
		b = append(b, "\ndata: "...)
		for _, c := range line {
			if c != '\r' { // which would end the field; JSON has it as an escape
				b = append(b, c)
			}
		}
	}
	return s.send(string(b) + "\n\n")
}

// send gives the client a while to take an event.
func (s *stream) send(event string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(s.w, event); err != nil {
		return err
	}
	return s.control.Flush()
}
