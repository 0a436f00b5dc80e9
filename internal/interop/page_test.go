package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/54eee7d7/websocket"
)

// A pageServer is what the tests of the root package talk to that run in a page.
type pageServer struct {
	websocket.Server               // echoes
	stop             chan struct{} // ends connections that nobody reads

	mu     sync.Mutex
	events map[string]chan string // by their names; each is for one string
}

// event returns the channel for an event.
func (s *pageServer) event(name string) chan string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.events[name] == nil {
		s.events[name] = make(chan string, 1)
	}
	return s.events[name]
}

// startPageServer starts one, at a URL.
func startPageServer(t *testing.T, pages http.Handler) (url string) {
	s := &pageServer{stop: make(chan struct{}), events: make(map[string]chan string)}
	s.Options = websocket.Options{
		Protocols:  []string{"meow", "purr"},
		Deflate:    &websocket.Deflate{ContextTakeover: true},
		MaxMessage: 4 << 20,
	}
	s.OnMessage = func(c *websocket.Conn, typ websocket.MessageType, p []byte) { c.WriteMessage(typ, p) }
	mux := http.NewServeMux()
	mux.Handle("/", pages)
	mux.Handle("/echo", s)
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-s.stop:
		}
	})
	mux.HandleFunc("/foreign", func(w http.ResponseWriter, r *http.Request) {
		r.Host = "example.com"
		s.ServeHTTP(w, r)
	})
	for path, serve := range map[string]func(*websocket.Conn, *http.Request){
		"/swap":   s.swap,
		"/close":  s.close,
		"/vanish": func(c *websocket.Conn, _ *http.Request) { c.WriteMessage(websocket.Text, []byte("last words")) },
		"/deaf":   func(*websocket.Conn, *http.Request) { <-s.stop },
		"/flood":  s.flood,
		"/end":    s.end,
		"/sink": func(c *websocket.Conn, r *http.Request) {
			<-s.event("go " + r.FormValue("id"))
			s.end(c, r)
		},
		"/go": func(_ *websocket.Conn, r *http.Request) { s.event("go " + r.FormValue("id")) <- "" },
		"/ended": func(c *websocket.Conn, r *http.Request) {
			c.WriteMessage(websocket.Text, []byte(<-s.event("end "+r.FormValue("id"))))
		},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if c, err := websocket.Upgrade(w, r, nil); err == nil {
				serve(c, r)
				c.CloseNow()
			}
		})
	}
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	t.Cleanup(func() { close(s.stop) })
	return web.URL
}

// swap sends every message back as one of the other type.
func (s *pageServer) swap(c *websocket.Conn, _ *http.Request) {
	for {
		typ, p, err := c.ReadMessage()
		if err != nil {
			return
		}
		c.WriteMessage(websocket.Text+websocket.Binary-typ, p)
	}
}

// close closes a connection.
func (s *pageServer) close(c *websocket.Conn, r *http.Request) {
	code, _ := strconv.Atoi(r.FormValue("code"))
	c.WriteMessage(websocket.Text, []byte("last words"))
	c.CloseWith(websocket.CloseCode(code), r.FormValue("reason"))
}

// flood sends n messages of a size, and waits for the end.
func (s *pageServer) flood(c *websocket.Conn, r *http.Request) {
	n, _ := strconv.Atoi(r.FormValue("n"))
	size, _ := strconv.Atoi(r.FormValue("size"))
	for range n {
		c.WriteMessage(websocket.Binary, make([]byte, size))
	}
	io.Copy(io.Discard, c)
}

// end reads to the end, and tells how that was.
func (s *pageServer) end(c *websocket.Conn, r *http.Request) {
	for n := 0; ; n++ {
		if _, _, err := c.ReadMessage(); err != nil {
			end := err.Error()
			if e, ok := errors.AsType[*websocket.CloseError](err); ok {
				end = fmt.Sprintf("%d %q", e.Code, e.Reason)
			}
			s.event("end " + r.FormValue("id")) <- fmt.Sprintf("%d messages, %s", n, end)
			return
		}
	}
}

// pageTests are those of the root package that run in a page.
var pageTests = []string{"-test.run=^TestPage", "-test.v", "-test.timeout=" + (2 * timeout).String()}

// buildPage builds the tests of the root package for a page, and returns the folder that has them
// as page.wasm, and what Go has for running them.
func buildPage(t *testing.T) (dir, support string) {
	t.Helper()
	dir = t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", filepath.Join(dir, "page.wasm"), "../..")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(strings.TrimSpace(string(root)), "lib", "wasm")
}

// checkPage checks what the tests in a page have printed.
func checkPage(t *testing.T, out []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestPage")) || !bytes.HasSuffix(out, []byte("PASS\n")) {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// TestNodePage has Node run the client for pages, which it has the WebSocket of.
func TestNodePage(t *testing.T) {
	installed(t, []program{{name: "Node", needed: needed{
		[]string{"node_modules/.bin/node", "-e", "process.exit(globalThis.WebSocket ? 0 : 1)"},
		"a Node that has a WebSocket, for amd64 or arm64 (run npm install in internal/interop)",
	}}})
	dir, support := buildPage(t)
	url := startPageServer(t, http.NotFoundHandler())
	ctx, cancel := context.WithTimeout(t.Context(), 3*timeout)
	defer cancel()
	args := append([]string{"--stack-size=8192", filepath.Join(support, "wasm_exec_node.js"), filepath.Join(dir, "page.wasm")}, pageTests...)
	cmd := exec.CommandContext(ctx, "node_modules/.bin/node", args...)
	cmd.Env = append(os.Environ(), "WEBSOCKET_PAGE=ws"+strings.TrimPrefix(url, "http"))
	out, err := cmd.CombinedOutput()
	checkPage(t, out, err)
}
