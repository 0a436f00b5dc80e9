package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	timeout = time.Minute
	allowed = "https://cats.example"
)

// TestMain is the server itself in the process that start starts.
func TestMain(m *testing.M) {
	if os.Getenv("ORIGIN_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start starts the server in a process of its own and returns its address and
// what it prints from then on.
func start(t *testing.T) (addr string, stdout *bufio.Reader) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe, "-addr", "127.0.0.1:0", "-allow", allowed)
	cmd.Env = append(os.Environ(), "ORIGIN_SERVER=1")
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	stdout = bufio.NewReader(pipe)
	var port int
	if _, err := fmt.Fscanf(stdout, "Listening on port %d for "+allowed+".\n", &port); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port), stdout
}

// connect sends an opening handshake with the header fields that are to be
// added to it, and reads the head of the response.
func connect(t *testing.T, addr, fields string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	send(t, conn, "GET / HTTP/1.1\r\n"+
		"Host: server.example.com\r\n"+
		"Upgrade: websocket\r\n"+
		"Connection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+
		fields+
		"\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, r, resp
}

func send(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q (%v), want %q", got[:n], err, want)
	}
}

func expectEOF(t *testing.T, r *bufio.Reader) {
	t.Helper()
	if b, err := r.ReadByte(); err != io.EOF {
		t.Fatalf("got %#x (%v), want EOF", b, err)
	}
}

func TestAllowed(t *testing.T) {
	addr, _ := start(t)
	conn, r, resp := connect(t, addr, "Sec-WebSocket-Version: 13\r\nOrigin: "+allowed+"\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got status %d, want 101", resp.StatusCode)
	}
	if got, want := resp.Header.Get("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Fatalf("accepted with %q, want %q", got, want)
	}
	send(t, conn, "\x81\x85\x00\x00\x00\x00hello") // the masking key is zero
	expect(t, r, "\x81\x0chello, meow.")
	send(t, conn, "\x88\x82\x00\x00\x00\x00\x03\xe8")
	expect(t, r, "\x88\x02\x03\xe8")
	expectEOF(t, r)
}

func TestRefused(t *testing.T) {
	addr, stdout := start(t)
	for _, test := range []struct {
		name, fields string
		status       int
		sentence     string
		line         string
	}{
		{
			"foreign", "Sec-WebSocket-Version: 13\r\nOrigin: https://dogs.example\r\n",
			http.StatusForbidden, `Pages of "https://dogs.example" may not connect.`,
			`websocket: opening handshake failed: Pages of "https://dogs.example" may not connect.`,
		},
		{
			"longer", "Sec-WebSocket-Version: 13\r\nOrigin: " + allowed + ".dogs.example\r\n",
			http.StatusForbidden, `Pages of "` + allowed + `.dogs.example" may not connect.`,
			`websocket: opening handshake failed: Pages of "` + allowed + `.dogs.example" may not connect.`,
		},
		{
			"none", "Sec-WebSocket-Version: 13\r\n",
			http.StatusForbidden, `Pages of "" may not connect.`,
			`websocket: opening handshake failed: Pages of "" may not connect.`,
		},
		{
			"version", "Sec-WebSocket-Version: 8\r\nOrigin: " + allowed + "\r\n",
			http.StatusUpgradeRequired, "Sec-WebSocket-Version is not 13",
			"websocket: opening handshake failed: Sec-WebSocket-Version is not 13",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, r, resp := connect(t, addr, test.fields)
			if resp.StatusCode != test.status {
				t.Errorf("got status %d, want %d", resp.StatusCode, test.status)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(body), test.sentence) {
				t.Errorf("refused with %q (%v), want %q", body, err, test.sentence)
			}
			expectEOF(t, r)
			if line, err := stdout.ReadString('\n'); err != nil || line != test.line+"\n" {
				t.Errorf("the server printed %q (%v), want %q", line, err, test.line)
			}
		})
	}
}
