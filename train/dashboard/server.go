package dashboard

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options are the options of Start; the zero value is right for most.
type Options struct {
	// Run is the name of the run, a folder in the one that is shown, that the
	// page begins with; "": the latest.
	Run string
}

// Server answers requests until it is closed.
type Server struct {
	url      string
	server   *http.Server
	handler  *handler
	stop     context.CancelFunc
	finished chan struct{}
}

// Start serves the runs in dir at an address such as "localhost:8080"; port 0 is
// any that is free.
func Start(addr, dir string, o Options) (*Server, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dashboard: the address %q is not host:port: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	abs, err := filepath.Abs(dir) // "." has a name, too
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h := newHandler(root, filepath.Base(abs), host, o)
	s := &Server{handler: h, stop: stop, finished: make(chan struct{})}
	s.server = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // what clients do is nothing for the output of a run
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	s.url = "http://" + net.JoinHostPort(host, port) + "/"
	go func() {
		defer close(s.finished)
		_ = s.server.Serve(listener) // ends with Close
	}()
	return s, nil
}

// URL returns the address of the page.
func (s *Server) URL() string { return s.url }

// Close ends all connections, and returns when everything has stopped.
func (s *Server) Close() error {
	s.stop()
	err := s.server.Close()
	<-s.finished
	s.handler.streams.Wait()
	return errors.Join(err, s.handler.root.Close())
}

//go:embed page/*.html page/*.js page/*.css page/*.svg page/uplot.LICENSE
var page embed.FS

// types are those of the files of the page.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml",
}

// policy lets the page have what comes from here, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP answers a request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
	} {
		w.Header().Set(name, value)
	}
	if !h.allowed(r) {
		http.Error(w, "this dashboard is not known by that name", http.StatusMisdirectedRequest)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "nothing can be changed here", http.StatusMethodNotAllowed)
		return
	}
	switch name := strings.TrimPrefix(r.URL.Path, "/"); name {
	case "runs":
		h.serveRuns(w)
	case "events":
		h.serveEvents(w, r)
	default:
		if name == "" {
			name = "index.html"
		}
		b, err := fs.ReadFile(page, "page/"+name)
		if err != nil || types[filepath.Ext(name)] == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", types[filepath.Ext(name)])
		_, _ = w.Write(b)
	}
}

// allowed reports whether a request names this machine as it was asked to be
// named.
func (h *handler) allowed(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || host == strings.ToLower(h.host) {
		return true
	}
	ip := net.ParseIP(host)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if ip == nil || !ok {
		return false
	}
	at, _, err := net.SplitHostPort(local.String())
	return err == nil && ip.Equal(net.ParseIP(at))
}

// serveRuns lists the runs, the latest first.
func (h *handler) serveRuns(w http.ResponseWriter) {
	runs, err := h.runs()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct {
		First string `json:"first"`
		Runs  []run  `json:"runs"`
	}{h.o.Run, runs})
}
