//go:build unix

package dashboard

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// folder has two runs and what is none.
func folder(t testing.TB) string {
	dir := t.TempDir()
	for name, content := range map[string]string{"a": line(1), "b": line(1) + line(2), "none": ""} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o777))
		if content != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name, file), []byte(content), 0o666))
		}
	}
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a", file), old, old))
	return dir
}

func line(step int) string { return fmt.Sprintf(`{"type":"step","step":%d}`, step) + "\n" }

func start(t testing.TB, dir string) *Server {
	s, err := Start("127.0.0.1:0", dir, Options{Run: "a"})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func request(t testing.TB, method, url, host string) (int, http.Header, string) {
	r, err := http.NewRequest(method, url, nil)
	require.NoError(t, err)
	if host != "" {
		r.Host = host
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, answer.Header, string(b)
}

func TestThePageAndTheListOfRuns(t *testing.T) {
	s := start(t, folder(t))
	for path, want := range map[string]string{"": "text/html", "app.js": "text/javascript", "style.css": "text/css", "uplot.js": "text/javascript", "icon.svg": "image/svg"} {
		code, header, body := request(t, "GET", s.URL()+path, "")
		require.Equal(t, 200, code, path)
		require.Contains(t, header.Get("Content-Type"), want)
		require.NotEmpty(t, body)
	}
	_, _, body := request(t, "GET", s.URL()+"runs", "")
	require.Regexp(t, `^{"first":"a","runs":\[{"name":"b","path":"b",.*},{"name":"a","path":"a",.*}\]}\n$`, body)
	_, _, body = request(t, "GET", s.URL(), "")
	t.Chdir(filepath.Join(s.handler.root.Name(), "a"))
	_, _, here := request(t, "GET", start(t, ".").URL()+"runs", "")
	require.Contains(t, here, `"runs":[{"name":"a","path":".",`)
	require.NotRegexp(t, `(src|href)="(https?:|//)|\sstyle=|\son[a-z]+=|<script>`, body)
}

func TestOnlyThisMachineByItsOwnName(t *testing.T) {
	s := start(t, folder(t))
	port := s.URL()[strings.LastIndex(s.URL(), ":")+1 : len(s.URL())-1]
	for host, want := range map[string]int{
		"127.0.0.1:" + port: 200, "localhost:" + port: 200, "LOCALHOST": 200, "localhost.:" + port: 200, "127.0.0.1": 200,
		"evil.example:" + port: 421, "evil.example": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421, "localhost.evil.example": 421,
		"[::1]:" + port: 421, "127.0.0.2": 421, "2130706433": 421,
	} {
		for _, path := range []string{"", "runs", "events?run=a", "app.js"} {
			if path == "events?run=a" && want == 200 {
				continue // it does not end
			}
			code, header, _ := request(t, "GET", s.URL()+path, host)
			require.Equal(t, want, code, host+" "+path)
			require.Equal(t, policy, header.Get("Content-Security-Policy"))
			require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		}
	}
	require.NotContains(t, policy, "unsafe")
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"} {
		code, _, _ := request(t, method, s.URL()+"runs", "")
		require.Equal(t, 405, code, method)
	}
}

func TestWithoutAHostItIsTheLoopback(t *testing.T) {
	s, err := Start(":0", folder(t), Options{})
	require.NoError(t, err)
	defer s.Close()
	require.Contains(t, s.URL(), "http://127.0.0.1:")
	for addr, want := range map[string]string{
		"8080": "is not host:port", strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/"): "address already in use",
	} {
		_, err = Start(addr, folder(t), Options{})
		require.ErrorContains(t, err, want)
	}
	_, err = Start("127.0.0.1:0", filepath.Join(t.TempDir(), "missing"), Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestNothingOutsideOfTheFolderIsRead(t *testing.T) {
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, file), []byte(line(666)), 0o666))
	dir := folder(t)
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "c"), 0o777))
	require.NoError(t, os.Symlink(filepath.Join(outside, file), filepath.Join(dir, "c", file)))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "fifo"), 0o777))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo", file), 0o666))
	s := start(t, dir)
	_, _, body := request(t, "GET", s.URL()+"runs", "")
	for _, name := range []string{"link", `"c"`, "fifo"} {
		require.NotContains(t, body, name)
	}
	for _, at := range []string{"link", "c", "fifo", "..", "../" + filepath.Base(outside), "a/../../x", "%2e%2e", "", ".hidden", "none", "/etc", `a\b`, "a%00b"} {
		code, _, _ := request(t, "GET", s.URL()+"events?run="+at, "")
		require.Equal(t, 404, code, at)
	}
	for _, path := range []string{"../doc.go", "%2e%2e/server.go", "page/index.html", "page", "uplot.LICENSE", "missing"} {
		code, _, _ := request(t, "GET", s.URL()+path, "")
		require.Equal(t, 404, code, path)
	}
}

// events reads the events of a run; the channel ends with the connection.
func events(t testing.TB, s *Server, run, last string) (ids, data chan string) {
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL()+"events?run="+run, nil)
	require.NoError(t, err)
	r.Header.Set("Last-Event-ID", last)
	answer, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", answer.Header.Get("Content-Type"))
	ids, data = make(chan string, 100), make(chan string, 100)
	go func() {
		defer answer.Body.Close()
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() {
			if lines.Text() == "event: idle" {
				lines.Scan() // its data
				continue
			}
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				ids <- id
			} else if d, ok := strings.CutPrefix(lines.Text(), "data:"); ok {
				data <- strings.TrimPrefix(d, " ")
			}
		}
		close(data)
	}()
	return ids, data
}

func next(t testing.TB, from chan string) string {
	select {
	case s := <-from:
		return s
	case <-time.After(10 * time.Second):
		require.Fail(t, "nothing comes")
		return ""
	}
}

func TestLinesComeWhenTheyAreWhole(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "b", file)
	s := start(t, dir)
	ids, data := events(t, s, "b", "")
	require.Equal(t, line(1), next(t, data)+"\n")
	require.Equal(t, line(2), next(t, data)+"\n")
	end := next(t, ids)
	require.Equal(t, fmt.Sprint(len(line(1)+line(2))), end)

	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(line(3) + `{"type":`)
	require.NoError(t, err)
	require.Equal(t, line(3), next(t, data)+"\n")
	time.Sleep(2 * poll)
	require.Empty(t, data)
	_, err = f.WriteString("\"x\"}\n")
	require.NoError(t, err)
	require.Equal(t, `{"type":"x"}`, next(t, data))

	_, again := events(t, s, "b", end) // a page that lost its connection
	require.Equal(t, line(3), next(t, again)+"\n")

	_, again = events(t, s, "b&from="+end, "")
	require.Equal(t, line(3), next(t, again)+"\n")
	for _, offset := range []string{"5", "10000"} { // of another file: no line ends there
		_, other := events(t, s, "b", offset)
		require.Empty(t, next(t, other)) // reset
		require.Equal(t, line(1), next(t, other)+"\n")
	}

	require.NoError(t, os.WriteFile(path, []byte(line(9)), 0o666)) // begun anew
	require.Empty(t, next(t, data))                                // reset
	require.Equal(t, line(9), next(t, data)+"\n")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, []byte(line(8)), 0o666))
	require.Empty(t, next(t, data))
	require.Equal(t, line(8), next(t, data)+"\n")
}

func TestLongLinesAndLongFiles(t *testing.T) {
	dir := folder(t)
	long := strings.Repeat("x", 3*maxChunk)
	var b strings.Builder
	for i := range 3000 {
		b.WriteString(line(i))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", file), []byte(b.String()+long+"\n"+line(7)), 0o666))
	r, err := http.Get(start(t, dir).URL() + "events?run=a")
	require.NoError(t, err)
	defer r.Body.Close()
	in := bufio.NewReader(r.Body)
	var got []string
	for len(got) < 3002 {
		l, err := in.ReadString('\n')
		require.NoError(t, err)
		if d, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "data: "); ok {
			got = append(got, d)
		}
	}
	require.Equal(t, b.String()+long+"\n"+line(7), strings.Join(got, "\n")+"\n")
}

// Clients that connect and never read cost the machine next to nothing, and
// Close waits for none.
func TestStuckClientsAreNoBurden(t *testing.T) {
	dir := folder(t)
	var b strings.Builder
	for i := range 200000 {
		b.WriteString(line(i))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", file), []byte(b.String()), 0o666))
	before := runtime.NumGoroutine()
	s := start(t, dir)
	for range 16 {
		c, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(s.URL(), "http:"), "/"))
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET /events?run=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
	}
	used := cpuTime(t)
	for busy := true; busy; { // until the buffers of the connections are full
		time.Sleep(500 * time.Millisecond)
		now := cpuTime(t)
		busy, used = now-used > 10*time.Millisecond, now
	}
	time.Sleep(3 * time.Second)
	spent := cpuTime(t) - used
	t.Logf("16 stuck clients: %v of processor time in 3 s", spent)
	require.Less(t, spent, 30*time.Millisecond)

	closed := time.Now()
	require.NoError(t, s.Close())
	require.Less(t, time.Since(closed), 3*time.Second)
	for range 500 {
		if runtime.NumGoroutine() > before {
			time.Sleep(20 * time.Millisecond)
		}
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}

func TestTooManyClients(t *testing.T) {
	s := start(t, folder(t))
	connect := func() *http.Response {
		r, err := http.Get(s.URL() + "events?run=b")
		require.NoError(t, err)
		t.Cleanup(func() { r.Body.Close() })
		return r
	}
	first := connect()
	require.Equal(t, http.StatusOK, first.StatusCode)
	for range maxClients - 1 {
		require.Equal(t, http.StatusOK, connect().StatusCode)
	}
	require.Equal(t, http.StatusServiceUnavailable, connect().StatusCode)

	first.Body.Close() // makes room when the server has noticed
	for range 1000 {
		if connect().StatusCode == http.StatusOK {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.Fail(t, "no room where a client has left")
}

func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
