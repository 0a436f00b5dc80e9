package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

const timeout = time.Minute

// TestMain is the server itself in the process that start starts.
func TestMain(m *testing.M) {
	if os.Getenv("CHAT_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A server is a chat server in a process of its own.
type server struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *strings.Builder
	url    string // with a slash at the end
	addr   string
}

// start starts the server on a free port, or what args say.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	s := &server{stderr: new(strings.Builder)}
	s.cmd = exec.CommandContext(ctx, exe, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	s.cmd.Env = append(os.Environ(), "CHAT_SERVER=1", "GODEBUG=http2xconnect=1")
	s.cmd.Stderr = s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
	s.stdout = bufio.NewReader(stdout)
	if _, err := fmt.Fscanf(s.stdout, "Listening on %s\n", &s.url); err != nil {
		t.Fatalf("the server does not start: %v", err)
	}
	_, s.addr, _ = strings.Cut(strings.TrimSuffix(s.url, "/"), "://")
	return s
}

// interrupt ends the server as Ctrl-C does. wait is for its end.
func (s *server) interrupt(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be interrupted on windows")
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

func (s *server) wait(t *testing.T) {
	t.Helper()
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	// A browser makes connections in advance, and may drop one before its TLS handshake.
	spare := regexp.MustCompile(`.* http: TLS handshake error from \S+: (EOF|.*reset by peer)\n`)
	if complaints := spare.ReplaceAllString(s.stderr.String(), ""); complaints != "" {
		t.Errorf("the server complained: %s", complaints)
	}
}

// get returns the response to an ordinary request, and its body.
func (s *server) get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	client := http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// expectClients checks what the server says about how many are connected.
func (s *server) expectClients(t *testing.T, want string) {
	t.Helper()
	if _, got := s.get(t, "clients"); got != want {
		t.Errorf("there are %s clients, want %s", got, want)
	}
}

type client struct{ *websocket.Conn }

// dial connects a client and checks its welcome.
func (s *server) dial(t *testing.T, name string) client {
	t.Helper()
	conn, err := websocket.Dial(t.Context(), s.url+"chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	c := client{conn}
	c.expect(t, "welcome "+name)
	return c
}

func (c client) send(t *testing.T, msg string) {
	t.Helper()
	if err := c.WriteMessage(websocket.Text, []byte(msg)); err != nil {
		t.Fatal(err)
	}
}

func (c client) expect(t *testing.T, want string) {
	t.Helper()
	typ, msg, err := c.ReadMessage()
	if err != nil || typ != websocket.Text || string(msg) != want {
		t.Fatalf("got %v %q (%v), want %q", typ, msg, err, want)
	}
}

func (c client) expectClose(t *testing.T, want websocket.CloseCode) {
	t.Helper()
	_, msg, err := c.ReadMessage()
	if e, ok := errors.AsType[*websocket.CloseError](err); !ok || e.Code != want {
		t.Fatalf("got %q (%v), want close code %v", msg, err, want)
	}
}

func TestChat(t *testing.T) {
	s := start(t)
	s.expectClients(t, "0")
	alice := s.dial(t, "user_1")
	alice.send(t, "hello server!")
	alice.expect(t, "echo: hello server!")

	bob := s.dial(t, "user_2")
	alice.expect(t, "user_2 joined")
	bob.send(t, "hi everyone!")
	bob.expect(t, "echo: hi everyone!")
	alice.expect(t, "user_2: hi everyone!")

	resp, body := s.get(t, "ping")
	if got := resp.Header.Get("Content-Type"); body != "pong" || !strings.HasPrefix(got, "text/plain") {
		t.Errorf("the answer to a ping is %q (%s)", body, got)
	}
	s.expectClients(t, "2")

	alice.send(t, "user_2 left") // no, she says so
	bob.expect(t, "user_1: user_2 left")
	alice.expect(t, "echo: user_2 left")

	if err := bob.Close(); err != nil {
		t.Error(err)
	}
	alice.expect(t, "user_2 left")
	s.expectClients(t, "1")
	s.dial(t, "user_3") // no name is given twice
	alice.expect(t, "user_3 joined")
}

// TestRude has clients that do not behave. The others see them leave.
func TestRude(t *testing.T) {
	s := start(t)
	polite := s.dial(t, "user_1")

	binary := s.dial(t, "user_2")
	polite.expect(t, "user_2 joined")
	if err := binary.WriteMessage(websocket.Binary, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	binary.expectClose(t, websocket.CloseUnsupportedData)
	polite.expect(t, "user_2 left")

	long := s.dial(t, "user_3")
	polite.expect(t, "user_3 joined")
	most := strings.Repeat("a", 4096)
	long.send(t, most)
	long.expect(t, "echo: "+most)
	polite.expect(t, "user_3: "+most)
	long.send(t, most+"a")
	long.expectClose(t, websocket.CloseMessageTooBig)
	polite.expect(t, "user_3 left")

	gone := s.dial(t, "user_4")
	polite.expect(t, "user_4 joined")
	gone.CloseNow()
	polite.expect(t, "user_4 left")

	s.expectClients(t, "1")
	polite.send(t, "hello?")
	polite.expect(t, "echo: hello?")
}

func TestOrigin(t *testing.T) {
	s := start(t, "-origin", "https://a.example,https://b.example", "-origin", "https://*.c.example")
	for _, test := range []struct {
		origin string
		status int
	}{
		{"http://" + s.addr, http.StatusSwitchingProtocols},
		{"https://a.example", http.StatusSwitchingProtocols},
		{"https://b.example", http.StatusSwitchingProtocols},
		{"https://www.c.example", http.StatusSwitchingProtocols},
		{"http://a.example", http.StatusForbidden},
		{"https://d.example", http.StatusForbidden},
	} {
		got := http.StatusSwitchingProtocols
		conn, err := websocket.Dial(t.Context(), s.url+"chat", &websocket.Options{Header: http.Header{"Origin": {test.origin}}})
		if e, ok := errors.AsType[*websocket.HandshakeError](err); ok {
			got = e.Status
		} else if err != nil {
			t.Error(err)
		} else {
			conn.CloseNow()
		}
		if got != test.status {
			t.Errorf("a page of %s got status %d, want %d", test.origin, got, test.status)
		}
	}
}

// TestFigures asks what the server has counted, which is not to be had where everybody may ask.
func TestFigures(t *testing.T) {
	s := start(t, "-debug", "127.0.0.1:0")
	var url string
	if _, err := fmt.Fscanf(s.stdout, "Figures are at %s\n", &url); err != nil {
		t.Fatal(err)
	}
	alice := s.dial(t, "user_1")
	alice.send(t, "hello")
	alice.expect(t, "echo: hello")
	if _, err := websocket.Dial(t.Context(), s.url+"chat", &websocket.Options{Header: http.Header{"Origin": {"https://evil.example"}}}); err == nil {
		t.Error("another page was accepted")
	}
	if resp, _ := s.get(t, "debug/vars"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("everybody gets status %d", resp.StatusCode)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var vars struct{ Chat websocket.Stats }
	if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
		t.Fatal(err)
	}
	want := websocket.Stats{
		Conns: 1, Accepted: 1,
		Refused:          map[int]uint64{http.StatusForbidden: 1},
		Closed:           map[websocket.CloseCode]uint64{},
		MessagesReceived: 1, BytesReceived: uint64(len("hello")),
		MessagesSent: 2, BytesSent: uint64(len("welcome user_1") + len("echo: hello")),
	}
	if !reflect.DeepEqual(vars.Chat, want) {
		t.Errorf("got  %+v\nwant %+v", vars.Chat, want)
	}
}

// A browser applies the policy, see TestBrowser. Here it is for what must not be in it.
func TestPage(t *testing.T) {
	s := start(t)
	resp, body := s.get(t, "")
	if got, want := resp.Header.Get("Content-Type"), "text/html; charset=utf-8"; got != want {
		t.Errorf("the type of the page is %q, want %q", got, want)
	}
	if body != page {
		t.Errorf("got %d bytes, want the %d of the page", len(body), len(page))
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, tag := range []string{"style", "script"} {
		if n := strings.Count(page, "<"+tag); n != 1 {
			t.Errorf("the page has %d elements %s, want 1", n, tag)
		}
		if !strings.Contains(policy, tag+"-src 'sha256-") {
			t.Errorf("the policy does not name the %s: %s", tag, policy)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("the policy allows too much: %s", policy)
	}
	if resp, _ := s.get(t, "index.html"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("got status %d for a page that is not there, want 404", resp.StatusCode)
	}
}

func TestTLS(t *testing.T) {
	cert, files := certificate(t)
	s := start(t, files...)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	h := &http.Client{Timeout: timeout, Transport: transport}

	resp, err := h.Get(s.url + "ping")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "pong" {
		t.Errorf("the answer to a ping is %q (%v)", body, err)
	}
	if resp.ProtoMajor != 2 {
		t.Errorf("the server speaks %s, want HTTP/2", resp.Proto)
	}
	conn, err := websocket.Dial(t.Context(), "wss://"+s.addr+"/chat", &websocket.Options{HTTPClient: h})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	client{conn}.expect(t, "welcome user_1")
}

// certificate makes a certificate for 127.0.0.1, and the flags of the server with it
// and its key.
func certificate(t *testing.T) (*x509.Certificate, []string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(signed)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	save := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return cert, []string{
		"-cert", save("cert.pem", "CERTIFICATE", signed),
		"-key", save("key.pem", "PRIVATE KEY", secret),
	}
}

func TestInterrupt(t *testing.T) {
	s := start(t)
	alice := s.dial(t, "user_1")
	bob := s.dial(t, "user_2")
	alice.expect(t, "user_2 joined")
	s.interrupt(t)
	alice.expectClose(t, websocket.CloseGoingAway)
	bob.expectClose(t, websocket.CloseGoingAway)
	s.wait(t)
}
