package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/54eee7d7/websocket"
)

// clients returns the clients. They take the port and "talk", for the whole
// conversation, "wait", for the greeting and the server's goodbye, or "listen",
// for a broadcast between these.
func clients(t *testing.T) []program {
	var jars []string // where Debian has them
	for _, name := range []string{"buffer", "codec", "codec-http", "common", "handler", "resolver", "transport"} {
		jars = append(jars, fmt.Sprintf("/usr/share/java/netty-%s.jar", name))
	}
	classes := t.TempDir()
	path := strings.Join(jars, ":")
	java := []string{"java", "-XX:TieredStopAtLevel=1", "-cp", classes + ":" + path, "Client"}
	netty := needed{
		[]string{"javac", "-cp", path, "-d", classes, "Client.java"},
		"a JDK and Netty (Debian: default-jdk-headless, libnetty-java)",
	}
	return []program{
		{name: "Perl", command: []string{"perl", "client.pl", "13"}, needed: perl},
		{name: "PerlHixie76", command: []string{"perl", "client.pl", "76"}, needed: perl, hixie: true},
		{name: "PerlHixie76Length", command: []string{"perl", "client.pl", "76-length"}, needed: perl, hixie: true},
		{name: "Ruby", command: []string{"ruby", "client.rb", "13"}, needed: ruby},
		{name: "RubyHixie76", command: []string{"ruby", "client.rb", "76"}, needed: ruby, hixie: true},
		{name: "RubyHixie76Length", command: []string{"ruby", "client.rb", "76-length"}, needed: ruby, hixie: true},
		{name: "Node", command: []string{"node", "ws.js"}, needed: node},
		{name: "NodeHixie76", command: []string{"node", "hixie.js"}, needed: node, hixie: true},
		{name: "Python", command: []string{"/usr/bin/python3", "client.py"}, needed: python},
		{name: "Netty", command: slices.Concat(java, []string{"V13"}), needed: netty},
		{name: "NettyHixie76", command: slices.Concat(java, []string{"V00"}), needed: netty, hixie: true, short: true},
	}
}

// talk is what a client prints of the whole conversation.
func (p program) talk() string {
	lines := []string{"greeting: " + greeting, "hello: hello, meow.", "empty: , meow.", "unicode: γάτα 🐱, meow."}
	if !p.short {
		lines = append(lines, "large: 70007 bytes")
	}
	lines = append(lines, "batch: one, meow. two, meow. three, meow.")
	if p.hixie {
		lines = append(lines, "close: FF 00")
	} else {
		lines = append(lines, "pong: purr", "fragmented: fragmented, meow.", "close: 1000")
	}
	return strings.Join(append(lines, "end: EOF"), "\n") + "\n"
}

// goodbye is what a client prints when the server goes away.
func (p program) goodbye() string {
	if p.hixie {
		return "close: FF 00\nend: EOF\n"
	}
	return "close: 1001\nend: EOF\n"
}

// A server is one of ours that runs.
type server struct {
	port string
	web  bool // has plain HTTP on the same port

	// broadcast sends a text to all clients. It may be nil.
	broadcast func(text string) error

	// stop closes the connections that are open and returns how all of them
	// have ended. There have been n.
	stop func(t *testing.T, n int) []error
}

// servers are started before each test.
var servers = []struct {
	name  string
	start func(*testing.T, context.Context) *server
}{
	{"Echo", startEcho},
	{"Server", startServer},
	{"Upgrade", startUpgrade},
}

// startEcho starts the echo example, which calls ShakeHands.
func startEcho(t *testing.T, ctx context.Context) *server {
	echo := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", echo, "../../examples/echo").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := start(t, ctx, echo, "-addr", "127.0.0.1:0")
	stop := func(t *testing.T, n int) []error {
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil { // what Ctrl-C sends
			t.Fatal(err)
		}
		const welcome = "Shook hands, sent welcome message.\n"
		const eof = "EOF encountered. Closing handle.\n"
		out := p.end(t)
		if got := strings.Count(out, welcome); got != n {
			t.Errorf("the server printed %q %d times, want %d", welcome, got, n)
		}
		var ends []error
		for line := range strings.Lines(out) {
			switch line {
			case welcome:
			case eof:
				ends = append(ends, io.EOF)
			default:
				ends = append(ends, errors.New(line))
			}
		}
		return ends
	}
	return &server{port: p.port(t), stop: stop}
}

// options are those of the servers that net/http has a part in. Some of the
// clients send the origin without the port.
var options = websocket.Options{
	Origins:   []string{"http://127.0.0.1"},
	Protocols: []string{"meow", "purr"},
}

// startServer starts a Server.
func startServer(t *testing.T, ctx context.Context) *server {
	ends := make(chan error, 100)
	s := &websocket.Server{
		Options: options,
		Handler: websocket.Handler{
			OnOpen: func(c *websocket.Conn) { c.WriteMessage(websocket.Text, []byte(greeting)) },
			OnMessage: func(c *websocket.Conn, typ websocket.MessageType, p []byte) {
				if err := answer(ctx, c, typ, p); err != nil {
					c.CloseWith(websocket.CloseInternalError, err.Error())
				}
			},
			OnClose: func(_ *websocket.Conn, err error) { ends <- err },
		},
	}
	return &server{
		port:      mount(t, s),
		web:       true,
		broadcast: func(text string) error { return s.Broadcast(websocket.Text, []byte(text)) },
		stop: func(t *testing.T, n int) []error {
			if err := s.Shutdown(ctx); err != nil {
				t.Error("Shutdown:", err)
			}
			if left := slices.Collect(s.Conns()); len(left) > 0 {
				t.Errorf("Shutdown has left %d connections", len(left))
			}
			return receive(t, ctx, ends, n)
		},
	}
}

// startUpgrade starts a server whose handler calls Upgrade and reads messages.
func startUpgrade(t *testing.T, ctx context.Context) *server {
	ends := make(chan error, 100)
	running, goAway := context.WithCancel(ctx)
	t.Cleanup(goAway)
	handler := func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Upgrade(w, r, &options)
		if err != nil {
			return
		}
		defer c.Close()
		defer context.AfterFunc(running, func() { c.CloseWith(websocket.CloseGoingAway, "") })()
		err = c.WriteMessage(websocket.Text, []byte(greeting))
		for err == nil {
			var typ websocket.MessageType
			var p []byte
			if typ, p, err = c.ReadMessage(); err == nil {
				err = answer(ctx, c, typ, p)
			}
		}
		ends <- err
	}
	return &server{
		port: mount(t, http.HandlerFunc(handler)),
		web:  true,
		stop: func(t *testing.T, n int) []error {
			goAway()
			return receive(t, ctx, ends, n)
		},
	}
}

// mount starts an HTTP server with h and another route, and returns its port.
func mount(t *testing.T, h http.Handler) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/cats", h)
	mux.HandleFunc("/dogs", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "No dogs here.") })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// receive returns n errors from ch.
func receive(t *testing.T, ctx context.Context, ch <-chan error, n int) (errs []error) {
	t.Helper()
	for range n {
		select {
		case err := <-ch:
			errs = append(errs, err)
		case <-ctx.Done():
			t.Fatalf("%d connections have ended in time, want %d", len(errs), n)
		}
	}
	return errs
}

// answer answers a message of a client.
func answer(ctx context.Context, c *websocket.Conn, typ websocket.MessageType, p []byte) error {
	command, args, _ := strings.Cut(string(p), " ")
	switch command {
	case "request":
		r := c.Request()
		parts := []string{r.Path, r.Protocol, r.Header.Get("Cookie"), r.Header.Get("Cat")}
		return c.WriteMessage(typ, []byte(strings.Join(parts, ", ")))
	case "fragments":
		go func() { // the pong is found by whoever reads
			if err := sendFragments(ctx, c); err != nil {
				c.CloseWith(websocket.CloseInternalError, err.Error())
			}
		}()
		return nil
	case "close":
		code, reason, _ := strings.Cut(args, " ")
		n, err := strconv.ParseUint(code, 10, 16)
		if err != nil {
			return err
		}
		return c.CloseWith(websocket.CloseCode(n), reason)
	}
	return c.WriteMessage(typ, append(p, ", meow."...))
}

// sendFragments sends a message in fragments, with a ping between them.
func sendFragments(ctx context.Context, c *websocket.Conn) error {
	w, err := c.NextWriter(websocket.Text)
	if err != nil {
		return err
	}
	_, first := io.WriteString(w, "frag")
	ping := c.Ping(ctx)
	_, second := io.WriteString(w, "mented")
	return errors.Join(first, ping, second, w.Close())
}

// TestClients has every client go through the whole conversation with every
// server of ours, and then all of them together wait for the end of the server.
func TestClients(t *testing.T) {
	clients := installed(t, clients(t))
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			server := s.start(t, ctx)
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					if got, want := c.start(t, ctx, server.port, "talk").end(t), c.talk(); got != want {
						t.Errorf("the client printed\n%swant\n%s", got, want)
					}
				})
			}

			mode := "wait"
			if server.broadcast != nil {
				mode = "listen"
			}
			var waiting []*process
			for _, c := range clients {
				waiting = append(waiting, c.start(t, ctx, server.port, mode))
			}
			for i, p := range waiting {
				if got, want := p.line(t), "greeting: "+greeting; got != want {
					t.Fatalf("%s printed %q, want %q", clients[i].name, got, want)
				}
			}
			if server.web {
				get(t, ctx, server.port, "/dogs", http.StatusOK, "No dogs here.")
				get(t, ctx, server.port, "/cats", http.StatusUpgradeRequired, "")
			}
			if server.broadcast != nil {
				if err := server.broadcast(broadcast); err != nil {
					t.Error("Broadcast:", err)
				}
			}
			ends := server.stop(t, 2*len(clients))
			for i, p := range waiting {
				want := clients[i].goodbye()
				if mode == "listen" {
					want = "broadcast: " + broadcast + "\n" + want
				}
				if got := p.end(t); got != want {
					t.Errorf("%s printed\n%swant\n%s", clients[i].name, got, want)
				}
			}
			if len(ends) != 2*len(clients) {
				t.Errorf("%d connections have ended, want %d", len(ends), 2*len(clients))
			}
			for _, err := range ends {
				if !errors.Is(err, io.EOF) {
					t.Error("a connection has ended with", err)
				}
			}
		})
	}
}

// get makes a plain HTTP request. No body fits all.
func get(t *testing.T, ctx context.Context, port, path string, status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if resp.StatusCode != status || body != "" && string(got) != body || err != nil {
		t.Errorf("GET %s: got %s, %q, %v", path, resp.Status, got, err)
	}
}

// TestPython has a client try what the conversation of all clients leaves out.
func TestPython(t *testing.T) {
	client := installed(t, []program{{name: "Python", command: []string{"/usr/bin/python3", "client.py"}, needed: python}})[0]
	want := strings.Join([]string{
		"other origin: 403",
		"subprotocol: purr", "close: 1000", "end: EOF",
		"subprotocol: meow", "close: 1000", "end: EOF",
		"subprotocol: None", "close: 1000", "end: EOF",
		"request: /cats?lives=9, purr, name=Tom; tail=long, Felix",
		`binary: b'\x00\xff, meow.'`,
		"empty binary: b', meow.'",
		"large text: 524291 bytes",
		"large binary: 1048576 bytes",
		"binary fragments: 65795",
		"fragments: fragmented",
		"close: 4001 γάτα", "end: EOF",
		"close: 1009", "end: EOF",
		"close: 4002", "end: EOF",
	}, "\n") + "\n"
	wantEnds := []string{"1000", "1000", "1000", "1009", "4001 γάτα", "4002 γάτα"}
	for _, s := range servers[1:] { // those that know the commands
		t.Run(s.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			server := s.start(t, ctx)
			if got := client.start(t, ctx, server.port, "more").end(t); got != want {
				t.Errorf("the client printed\n%swant\n%s", got, want)
			}
			var ends []string
			for _, err := range server.stop(t, len(wantEnds)) {
				end := err.Error()
				if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
					end = strconv.Itoa(int(closed.Code))
					if closed.Code >= 3000 { // the others have reasons of the library
						end += " " + closed.Reason
					}
				}
				ends = append(ends, end)
			}
			slices.Sort(ends)
			if !slices.Equal(ends, wantEnds) {
				t.Errorf("the connections have ended with %q, want %q", ends, wantEnds)
			}
		})
	}
}
