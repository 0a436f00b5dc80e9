package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

const timeout = time.Minute

// TestMain is the server itself in the process that start starts.
func TestMain(m *testing.M) {
	if os.Getenv("ECHO_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A server is an echo server in a process of its own.
type server struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	addr   string
}

func start(t *testing.T) *server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	s := &server{cmd: exec.CommandContext(ctx, exe, "-addr", "127.0.0.1:0")}
	s.cmd.Env = append(os.Environ(), "ECHO_SERVER=1")
	s.cmd.Stderr = os.Stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdout = bufio.NewReader(stdout)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
	line := s.line(t)
	var port int
	if _, err := fmt.Sscanf(line, "Listening on port %d.\n", &port); err != nil {
		t.Fatalf("the server printed %q", line)
	}
	s.addr = fmt.Sprintf("127.0.0.1:%d", port)
	return s
}

// line returns the next line that the server prints.
func (s *server) line(t *testing.T) string {
	t.Helper()
	line, err := s.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the server printed %q, then %v", line, err)
	}
	return line
}

// prints checks the next line that the server prints.
func (s *server) prints(t *testing.T, want string) {
	t.Helper()
	if got := s.line(t); got != want+"\n" {
		t.Fatalf("the server printed %q, want %q", got, want)
	}
}

// A client is a connection to a server. What goes over it is for the tests to
// say, byte by byte.
type client struct {
	net.Conn
	r *bufio.Reader
}

func (s *server) dial(t *testing.T) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", s.addr, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	return &client{conn, bufio.NewReader(conn)}
}

func (c *client) send(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func (c *client) expect(t *testing.T, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
		t.Fatalf("got %q (%v), want %q", got[:n], err, want)
	}
}

func (c *client) expectEOF(t *testing.T) {
	t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		t.Fatalf("got %#x (%v), want EOF", b, err)
	}
}

// expectStatus reads the head of an HTTP response.
func (c *client) expectStatus(t *testing.T, want int) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Fatalf("got status %d, want %d", resp.StatusCode, want)
	}
	return resp
}

// The handshake of RFC 6455, section 1.3, and frames whose masking key is zero.
const (
	request = "GET /chat HTTP/1.1\r\n" +
		"Host: server.example.com\r\n" +
		"Upgrade: websocket\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Version: 13\r\n" +
		"\r\n"
	accept     = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	greeting   = "\x81\x21Do you read me, Lieutenant Bowie?"
	hello      = "\x81\x85\x00\x00\x00\x00hello"
	meow       = "\x81\x0chello, meow."
	closeFrame = "\x88\x82\x00\x00\x00\x00\x03\xe8"
	closed     = "\x88\x02\x03\xe8"
)

// greet has the server shake hands with a new client and greet it.
func (s *server) greet(t *testing.T) *client {
	t.Helper()
	c := s.dial(t)
	c.send(t, request)
	if got := c.expectStatus(t, http.StatusSwitchingProtocols).Header.Get("Sec-WebSocket-Accept"); got != accept {
		t.Fatalf("accepted with %q, want %q", got, accept)
	}
	c.expect(t, greeting)
	s.prints(t, "Shook hands, sent welcome message.")
	return c
}

func TestRFC6455(t *testing.T) {
	s := start(t)
	c := s.greet(t)
	c.send(t, hello)
	c.expect(t, meow)
	c.send(t, "\x81\x80\x00\x00\x00\x00"+hello) // two at once, one of them empty
	c.expect(t, "\x81\x07, meow."+meow)
	c.send(t, "\x82\x82\x00\x00\x00\x00\x01\xff") // no text
	c.expect(t, "\x82\x09\x01\xff, meow.")
	c.send(t, closeFrame)
	c.expect(t, closed)
	c.expectEOF(t)
	s.prints(t, "EOF encountered. Closing handle.")
}

// The handshake is that of section 1.2 of the draft.
func TestHixie76(t *testing.T) {
	s := start(t)
	c := s.dial(t)
	c.send(t, "GET /demo HTTP/1.1\r\n"+
		"Host: example.com\r\n"+
		"Connection: Upgrade\r\n"+
		"Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n"+
		"Upgrade: WebSocket\r\n"+
		"Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n"+
		"Origin: http://example.com\r\n"+
		"\r\n"+
		"^n:ds[4U")
	resp := c.expectStatus(t, http.StatusSwitchingProtocols)
	if got, want := resp.Header.Get("Sec-WebSocket-Location"), "ws://example.com/demo"; got != want {
		t.Errorf("the location is %q, want %q", got, want)
	}
	c.expect(t, "8jKS'y:G*Co,Wxa-")
	c.expect(t, "\x00Do you read me, Lieutenant Bowie?\xff")
	s.prints(t, "Shook hands, sent welcome message.")
	c.send(t, "\x00hello\xff\x00\xff")
	c.expect(t, "\x00hello, meow.\xff\x00, meow.\xff")
	c.send(t, "\xff\x00")
	c.expect(t, "\xff\x00")
	c.expectEOF(t)
	s.prints(t, "EOF encountered. Closing handle.")
}

// TestRude has clients that do not behave. The others are not to notice.
func TestRude(t *testing.T) {
	s := start(t)
	polite := s.greet(t)

	garbage := s.dial(t)
	garbage.send(t, "\x16\x03\x01\x02\x00 this is no WebSocket\r\n\r\n")
	resp := garbage.expectStatus(t, http.StatusBadRequest)
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) == 0 {
		t.Errorf("refused with %q (%v), want a sentence", body, err)
	}
	garbage.expectEOF(t)
	garbage.Close()
	if got, want := s.line(t), "websocket: opening handshake failed: "; !strings.HasPrefix(got, want) {
		t.Errorf("the server printed %q, want %q first", got, want)
	}

	unmasked := s.greet(t)
	unmasked.send(t, "\x81\x05hello")
	unmasked.expect(t, "\x88")
	unmasked.Close()
	if got, want := s.line(t), "websocket: connection failed: 1002 (protocol error)"; !strings.HasPrefix(got, want) {
		t.Errorf("the server printed %q, want %q first", got, want)
	}

	cut := s.greet(t)
	cut.send(t, hello[:8])
	cut.Close()
	s.prints(t, io.ErrUnexpectedEOF.Error())

	polite.send(t, hello)
	polite.expect(t, meow)
	late := s.greet(t)
	late.send(t, hello)
	late.expect(t, meow)
}

func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be interrupted on windows")
	}
	s := start(t)
	clients := []*client{s.greet(t), s.greet(t)}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		c.expect(t, "\x88\x02\x03\xe9") // 1001
		c.send(t, "\x88\x82\x00\x00\x00\x00\x03\xe9")
		c.expectEOF(t)
		s.prints(t, "EOF encountered. Closing handle.")
	}
	if line, err := s.stdout.ReadString('\n'); !errors.Is(err, io.EOF) || line != "" {
		t.Errorf("the server printed %q (%v) last", line, err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
}
