package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

const timeout = time.Minute

// TestMain is the client itself in the process that start starts.
func TestMain(m *testing.M) {
	if os.Getenv("TALK_CLIENT") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A client is the program in a process of its own.
type client struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer // to be read after the end of the process
}

// command returns the program, which has not been started.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), "TALK_CLIENT=1", "GORACE=atexit_sleep_ms=0") // else a second with -race
	return cmd
}

// start starts the program. Its standard input is a pipe.
func start(t *testing.T, args ...string) *client {
	t.Helper()
	c := &client{cmd: command(t, args...)}
	c.cmd.Stderr = &c.stderr
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = bufio.NewReader(stdout)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

func (c *client) types(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c.stdin, s); err != nil {
		t.Fatal(err)
	}
}

// prints checks the next line that the program prints.
func (c *client) prints(t *testing.T, want string) {
	t.Helper()
	if got, err := c.stdout.ReadString('\n'); err != nil || got != want+"\n" {
		t.Fatalf("the client printed %s (%v), want %s", short(got), err, short(want))
	}
}

// short quotes what may be long.
func short(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%q and so on, %d bytes", s[:200], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// interrupt is what Ctrl-C does.
func (c *client) interrupt(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// ends waits until the program ends. Nothing more may have come to standard output, and
// exactly stderr to standard error.
func (c *client) ends(t *testing.T, status int, stderr string) {
	t.Helper()
	if got := c.finish(t, status); got != stderr {
		t.Errorf("standard error has %q, want %q", got, stderr)
	}
}

// finish is ends for a standard error that only the caller can check.
func (c *client) finish(t *testing.T, status int) (stderr string) {
	t.Helper()
	if rest, err := io.ReadAll(c.stdout); err != nil || len(rest) > 0 {
		t.Errorf("the client printed %s (%v) at last", short(string(rest)), err)
	}
	c.cmd.Wait()
	if got := c.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("the exit status is %d, want %d", got, status)
	}
	return c.stderr.String()
}

// serve starts a server, which compresses for those who want that, and returns its URL and
// the errors with which its connections end.
func serve(t *testing.T, h websocket.Handler) (url string, ends <-chan error) {
	t.Helper()
	errs := make(chan error, 1)
	h.OnClose = func(_ *websocket.Conn, err error) { errs <- err }
	s := &websocket.Server{Handler: h}
	s.Deflate = &websocket.Deflate{ContextTakeover: true}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		web.Close()
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return wsURL(web), errs
}

func wsURL(s *httptest.Server) string { return "ws" + strings.TrimPrefix(s.URL, "http") }

// closedWith checks that the client has closed its connection in order.
func closedWith(t *testing.T, ends <-chan error, code websocket.CloseCode) {
	t.Helper()
	select {
	case err := <-ends:
		if e, ok := errors.AsType[*websocket.CloseError](err); !ok || e.Code != code || errors.Is(err, net.ErrClosed) {
			t.Errorf("the connection ended with %v, want %v from the client", err, code)
		}
	case <-time.After(timeout):
		t.Fatal("the connection is still open")
	}
}

// echo is a server that sends everything back.
var echo = websocket.Handler{
	OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) { c.WriteMessage(t, p) },
}

// A peer is a server's end of a connection on which a test sees every frame.
type peer struct {
	net.Conn
}

// startPeer starts the program and accepts its connection. The first of args may be
// flags.
func startPeer(t *testing.T, args ...string) (*client, *peer) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	c := start(t, append(args, "ws://"+listener.Addr().String())...)
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := websocket.ShakeHands(struct{ io.ReadWriter }{conn}); err != nil {
		t.Fatal(err)
	}
	return c, &peer{conn}
}

func (p *peer) send(t *testing.T, frames string) {
	t.Helper()
	if _, err := io.WriteString(p, frames); err != nil {
		t.Fatal(err)
	}
}

// frame reads a short frame and returns its payload. Its first byte is to be want.
func (p *peer) frame(t *testing.T, want byte) string {
	t.Helper()
	head := make([]byte, 6) // first byte, length, masking key
	if _, err := io.ReadFull(p, head); err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, head[1]&0x7F)
	if _, err := io.ReadFull(p, payload); err != nil {
		t.Fatal(err)
	}
	for i := range payload {
		payload[i] ^= head[2+i%4]
	}
	if head[0] != want {
		t.Fatalf("got a frame %#x with %q, want %#x", head[0], payload, want)
	}
	return string(payload)
}

// The first bytes of frames.
const (
	text = 0x81
	clos = 0x88
	ping = 0x89
)

// frame returns a frame from a server.
func frame(first byte, payload string) string {
	return string([]byte{first, byte(len(payload))}) + payload
}

const (
	normal = "talk: closed: 1000 (normal closure)\n"
	going  = "talk: closed: 1001 (going away)\n"
)

func TestTalk(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		flags   []string
		welcome string
	}{
		{nil, `welcome, ""`},
		{[]string{"-compress"}, `welcome, "permessage-deflate"`},
	} {
		url, ends := serve(t, websocket.Handler{
			OnOpen: func(c *websocket.Conn) {
				c.WriteMessage(websocket.Text, fmt.Appendf(nil, "welcome, %q", c.Request().Extensions))
			},
			OnMessage: echo.OnMessage,
		})
		c := start(t, append(tt.flags, url)...)
		c.prints(t, tt.welcome) // before anything has been typed
		long := strings.Repeat("x", 1<<20)
		for _, line := range []string{"hello", "", " grüße, 世界 \t", long, "bye"} {
			c.types(t, line+"\n")
			c.prints(t, line)
		}
		c.types(t, "from Windows\r\n")
		c.prints(t, "from Windows")
		c.types(t, "no line end")
		c.stdin.Close()
		c.prints(t, "no line end")
		c.ends(t, 0, normal)
		closedWith(t, ends, websocket.CloseNormal)
	}
}

// Everything that a server replies comes out of a pipe.
func TestPipe(t *testing.T) {
	t.Parallel()
	url, ends := serve(t, echo)
	c := start(t, url)
	const lines = 10000
	go func() {
		for i := range lines {
			fmt.Fprintln(c.stdin, i)
		}
		c.stdin.Close()
	}()
	for i := range lines {
		c.prints(t, fmt.Sprint(i))
	}
	c.ends(t, 0, normal)
	closedWith(t, ends, websocket.CloseNormal)
}

// The program does not close the connection before the pong has come, even if the
// replies take their time.
func TestEndOfInput(t *testing.T) {
	t.Parallel()
	c, p := startPeer(t)
	c.types(t, "one\ntwo\n")
	c.stdin.Close()
	for _, want := range []string{"one", "two"} {
		if got := p.frame(t, text); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	pong := frame(0x8A, p.frame(t, ping))
	p.send(t, frame(text, "ONE"))
	c.prints(t, "ONE")
	p.send(t, frame(text, "TWO")+pong)
	c.prints(t, "TWO")
	if got := p.frame(t, clos); got != "\x03\xe8" {
		t.Errorf("closed with %q, want 1000", got)
	}
	p.send(t, frame(clos, "\x03\xe8"))
	p.Close()
	c.ends(t, 0, normal)
}

func TestWait(t *testing.T) {
	t.Parallel()
	c, p := startPeer(t, "-wait", "1h")
	c.stdin.Close()
	p.send(t, frame(0x8A, p.frame(t, ping)))
	for range 100 { // so that a client that does not wait has time to close
		p.send(t, frame(text, "late"))
		c.prints(t, "late")
	}
	p.send(t, frame(clos, "\x03\xe8"))
	if got := p.frame(t, clos); got != "\x03\xe8" {
		t.Errorf("closed with %q, want 1000", got)
	}
	p.Close()
	c.ends(t, 0, "talk: closed by the peer: 1000 (normal closure)\n")
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		typ     websocket.MessageType
		message string
		want    string
	}{
		{"text", websocket.Text, `"quoted" \n 'as it is'`, `"quoted" \n 'as it is'`},
		{"not ASCII", websocket.Text, "\u00a0äß 世界 👩\u200d🚀\t.", "\u00a0äß 世界 👩\u200d🚀\t."},
		{"escape sequence", websocket.Text, "\x1b[2J\x1b]0;title\a", "␛[2J␛]0;title␇"},
		{"all of C0", websocket.Text, "\x00\x08\r\v\f\x1f\x7f", "␀␈␍␋␌␟\ufffd"},
		{"all of C1", websocket.Text, "\u0080\u0085\u009b31m\u009f", "\ufffd\ufffd\ufffd31m\ufffd"},
		{"lines", websocket.Text, "one\ntwo\r\n", "one␊two␍␊"},
		{"empty", websocket.Text, "", ""},
		{"binary", websocket.Binary, "\x00\x1b[2J\n\xff\"ä", `binary "\x00\x1b[2J\n\xff\"\u00e4"`},
		{"empty binary", websocket.Binary, "", `binary ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, websocket.Handler{OnOpen: func(c *websocket.Conn) {
				c.WriteMessage(test.typ, []byte(test.message))
				c.Close()
			}})
			c := start(t, url)
			c.prints(t, test.want)
			c.ends(t, 0, "talk: closed by the peer: 1000 (normal closure)\n")
		})
	}
}

func TestInvalidLine(t *testing.T) {
	t.Parallel()
	url, ends := serve(t, echo)
	c := start(t, url)
	c.types(t, "one\n\xff\xfe\nthree\n")
	c.stdin.Close()
	c.prints(t, "one")
	c.prints(t, "three")
	c.ends(t, 0, "talk: line 2 is not sent, as it is not valid UTF-8\n"+normal)
	closedWith(t, ends, websocket.CloseNormal)
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		frames string // what the server sends before it has gone
		status int
		stderr string
	}{
		{"normal", frame(clos, "\x03\xe8"), 0, "talk: closed by the peer: 1000 (normal closure)\n"},
		{"going away", frame(clos, "\x03\xe9at five"), 0, "talk: closed by the peer: 1001 (going away): at five\n"},
		{"no status", frame(clos, ""), 0, "talk: closed by the peer: 1005 (no status)\n"},
		{"own code", frame(clos, "\x0f\xa0reason"), 1, "talk: closed by the peer: 4000: reason\n"},
		{"escape sequence", frame(clos, "\x0f\xa0\x1b[2J\n"), 1, "talk: closed by the peer: 4000: ␛[2J␊\n"},
		{"fault", frame(clos, "\x03\xf3"), 1, "talk: closed by the peer: 1011 (internal error)\n"},
		{"within a message", "\x01\x01a" + frame(clos, "\x03\xe8"), 1,
			"talk: closed by the peer within a message: 1000 (normal closure)\n"},
		{"gone", "", 1, "talk: connection lost: 1006 (abnormal closure): EOF\n"},
		{"gone within a message", "\x01\x01a", 1, "talk: connection lost: 1006 (abnormal closure): unexpected EOF\n"},
		{"invalid", "\x83\x00", 1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, p := startPeer(t)
			p.send(t, test.frames)
			if err := p.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got := c.finish(t, test.status)
			if want := "talk: connection failed: 1002 (protocol error): "; test.stderr == "" && strings.HasPrefix(got, want) {
				return
			}
			if got != test.stderr {
				t.Errorf("standard error has %q, want %q", got, test.stderr)
			}
		})
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	c, p := startPeer(t, "-ping", "10ms")
	p.frame(t, ping)
	c.ends(t, 1, "talk: the peer does not answer: i/o timeout\n")
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"a body", 403, "Go \x1b[2Jaway.\r\nNow\u009b \xff\x9b31m!\n", "403 Forbidden\ntalk:   Go ␛[2Jaway.\ntalk:   Now\ufffd \ufffd\ufffd31m!\n"},
		{"a long body", 500, strings.Repeat("Help!\n", 1000), "500 Internal Server Error\n" + strings.Repeat("talk:   Help!\n", 10)},
		{"no body", 404, "", "404 Not Found\n"},
		{"no WebSocket", 200, "<html>\n", "200 OK\ntalk:   <html>\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}))
			defer server.Close()
			c := start(t, wsURL(server))
			c.ends(t, 1, "talk: opening handshake failed: the server answered "+test.want)
		})
	}
}

// No other test may run that could listen on the port.
func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	c := start(t, "ws://"+listener.Addr().String())
	if got, want := c.finish(t, 1), listener.Addr().String(); !strings.HasPrefix(got, "talk: ") || !strings.Contains(got, want) {
		t.Errorf("standard error has %q, want %q in it", got, want)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{},
		{"ws://127.0.0.1:1/", "ws://127.0.0.1:1/"},
		{"-nonsense", "ws://127.0.0.1:1/"},
		{"-header", "no colon", "ws://127.0.0.1:1/"},
		{"-wait", "soon", "ws://127.0.0.1:1/"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			c := start(t, args...)
			if got, want := c.finish(t, 2), "usage: talk [flags] ws://"; !strings.Contains(got, want) {
				t.Errorf("standard error has %q, want %q in it", got, want)
			}
		})
	}
}

// handshake starts a server that accepts the subprotocols, and the program with args. It returns the opening handshake that arrives.
func handshake(t *testing.T, protocols []string, args ...string) *websocket.Request {
	t.Helper()
	reqs := make(chan *websocket.Request, 1)
	s := &websocket.Server{
		Handler: websocket.Handler{OnOpen: func(c *websocket.Conn) {
			reqs <- c.Request()
			c.Close()
		}},
		Options: websocket.Options{Origins: []string{"*"}, Protocols: protocols},
	}
	web := httptest.NewServer(s)
	defer web.Close()
	c := start(t, append(args, wsURL(web)+"/path?query")...)
	c.ends(t, 0, "talk: closed by the peer: 1000 (normal closure)\n")
	select {
	case req := <-reqs:
		return req
	default:
		t.Fatal("no handshake has arrived")
		return nil
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	req := handshake(t, []string{"soup"},
		"-origin", "https://cats.example",
		"-protocol", "chat, superchat", "-protocol", "soup",
		"-header", "X-Cat: Tom", "-header", "x-cat:Jerry: a mouse", "-header", "Host: cats.example")
	if got, want := req.Origin, "https://cats.example"; got != want {
		t.Errorf("the origin is %q, want %q", got, want)
	}
	if got, want := req.Protocols, []string{"chat", "superchat", "soup"}; !slices.Equal(got, want) {
		t.Errorf("the subprotocols are %q, want %q", got, want)
	}
	if got, want := req.Protocol, "soup"; got != want {
		t.Errorf("the subprotocol is %q, want %q", got, want)
	}
	if got, want := req.Header["X-Cat"], []string{"Tom", "Jerry: a mouse"}; !slices.Equal(got, want) {
		t.Errorf("the field is %q, want %q", got, want)
	}
	if got, want := req.Host+req.Path, "cats.example/path?query"; got != want {
		t.Errorf("the client asked for %q, want %q", got, want)
	}
}

func TestNoFlags(t *testing.T) {
	t.Parallel()
	req := handshake(t, nil)
	if req.Origin != "" || req.Header["Origin"] != nil || req.Protocols != nil {
		t.Errorf("the client sent origin %q and subprotocols %q", req.Origin, req.Protocols)
	}
}

func TestInsecure(t *testing.T) {
	t.Parallel()
	s := &websocket.Server{Handler: websocket.Handler{OnOpen: func(c *websocket.Conn) {
		c.WriteMessage(websocket.Text, fmt.Append(nil, c.Request().Secure))
		c.Close()
	}}}
	web := httptest.NewUnstartedServer(s)
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()

	c := start(t, wsURL(web))
	if got, want := c.finish(t, 1), "certificate"; !strings.Contains(got, want) {
		t.Errorf("standard error has %q, want %q in it", got, want)
	}
	c = start(t, "-insecure", wsURL(web))
	c.prints(t, "true")
	c.ends(t, 0, "talk: closed by the peer: 1000 (normal closure)\n")
}

func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be interrupted on windows")
	}
	t.Parallel()
	url, ends := serve(t, echo)
	c := start(t, url)
	c.types(t, "hello\n")
	c.prints(t, "hello")
	c.interrupt(t)
	c.ends(t, 0, going)
	closedWith(t, ends, websocket.CloseGoingAway)
}

// The second Ctrl-C is for servers that do not answer.
func TestInterruptTwice(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be interrupted on windows")
	}
	t.Parallel()
	c, p := startPeer(t)
	p.send(t, frame(text, "hello"))
	c.prints(t, "hello")
	c.interrupt(t)
	if got := p.frame(t, clos); got != "\x03\xe9" {
		t.Errorf("closed with %q, want 1001", got)
	}
	c.interrupt(t)
	c.ends(t, -1, "") // killed by the signal
}

// Before the connection is open, one Ctrl-C is enough.
func TestInterruptDial(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be interrupted on windows")
	}
	t.Parallel()
	arrived, done := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-done
	}))
	defer server.Close()
	defer close(done)
	c := start(t, wsURL(server))
	select {
	case <-arrived:
	case <-time.After(timeout):
		t.Fatal("no request has arrived")
	}
	c.interrupt(t)
	if got, want := c.finish(t, 1), "interrupt signal received"; !strings.Contains(got, want) {
		t.Errorf("standard error has %q, want %q in it", got, want)
	}
}

// The null device is a character device, as a terminal is, but nobody types there.
func TestNoPrompt(t *testing.T) {
	t.Parallel()
	url, ends := serve(t, websocket.Handler{
		OnOpen: func(c *websocket.Conn) { c.WriteMessage(websocket.Text, []byte("welcome")) },
	})
	var stdout, stderr bytes.Buffer
	cmd := command(t, url) // its standard input is the null device
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	if got, want := stdout.String(), "welcome\n"; got != want {
		t.Errorf("standard output has %q, want %q", got, want)
	}
	if got := stderr.String(); got != normal {
		t.Errorf("standard error has %q, want %q", got, normal)
	}
	closedWith(t, ends, websocket.CloseNormal)
}
