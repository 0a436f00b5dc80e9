package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Here are the servers, clients and opening handshakes that the tests of several concepts use.

// A connector is one of the two ways to be a client, over a pipe in memory to a server
// that is served by serve. The way of Dial is an http.Client that connects to the pipe.
type connector struct {
	name    string
	connect func(t testing.TB, ctx context.Context, url string, o *Options, serve func(net.Conn)) (*Conn, error)
}

var connectors = []connector{
	{"Dial", func(t testing.TB, ctx context.Context, url string, o *Options, serve func(net.Conn)) (*Conn, error) {
		o = new(*o.clone())
		if o.HTTPClient == nil {
			o.HTTPClient = memoryClient(t, serve)
		}
		c, err := Dial(ctx, url, o)
		if c != nil {
			t.Cleanup(func() { c.CloseNow() })
		}
		return c, err
	}},
	{"ClientHandshake", func(t testing.TB, _ context.Context, url string, o *Options, serve func(net.Conn)) (*Conn, error) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close() })
		go func() {
			defer b.Close()
			serve(b)
		}()
		return ClientHandshake(a, url, o)
	}},
}

// memoryClient returns an http.Client whose every connection is a pipe to serve. The
// heads of responses are limited more narrowly than is net/http's default.
func memoryClient(t testing.TB, serve func(net.Conn)) *http.Client {
	dial := func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			serve(b)
		}()
		return a, nil
	}
	transport := &http.Transport{
		MaxResponseHeaderBytes: 16 << 10,
		DialContext:            dial,
		DialTLSContext:         dial, // takes the pipe for TLS
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// readHead returns the head of a request as it was sent.
func readHead(r io.Reader) string {
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := io.ReadFull(r, one); err != nil {
			break
		}
		head = append(head, one[0])
	}
	return string(head)
}

// headField returns the value of a field that a head has exactly once, or else what
// cannot be a value.
func headField(head, name string) string {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		return "\x00" + err.Error()
	}
	if v := r.Header.Values(name); len(v) == 1 {
		return v[0]
	} else {
		return fmt.Sprintf("\x00%q", v)
	}
}

// answerTo returns the text of a response to a request, in which {accept} stands for the
// value that fits the key.
func answerTo(head, text string) []byte {
	token := CreateToken(&Request{Version: RFC6455, Key: headField(head, "Sec-WebSocket-Key")})
	return []byte(strings.ReplaceAll(text, "{accept}", string(token)))
}

// answer writes such a response. It returns the head of the request.
func answer(conn net.Conn, text string) string {
	head := readHead(conn)
	conn.Write(answerTo(head, text))
	return head
}

// accepting is a response that fits every request.
const accepting = "HTTP/1.1 101 Switching Protocols\r\n" +
	"Upgrade: websocket\r\n" +
	"Connection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: {accept}\r\n\r\n"

// answerWith returns a server that answers with text and then reads to the end.
func answerWith(text string) func(net.Conn) {
	return func(conn net.Conn) {
		answer(conn, text)
		io.Copy(io.Discard, conn)
	}
}

// echoHandler accepts clients with o and echoes what they send.
func echoHandler(o *Options) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if c, err := Upgrade(w, r, o); err == nil {
			go func() {
				echo(c)
				c.Close()
			}()
		}
	}
}

// checkEchoes fails the test if c does not get back what it sends.
func checkEchoes(t testing.TB, c *Conn) {
	t.Helper()
	for _, want := range []string{"", "hello", strings.Repeat("x", 9000)} {
		sent := goErr(func() error { return c.WriteMessage(Text, []byte(want)) })
		typ, p, err := c.ReadMessage()
		if err != nil || typ != Text || string(p) != want {
			t.Fatalf("read %v %.20q, %v instead of %.20q", typ, p, err, want)
		}
		if err := wait(t, sent); err != nil {
			t.Fatal(err)
		}
	}
}

// withScheme returns a URL of a test server with another scheme.
func withScheme(scheme, rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	return scheme + "://" + rest
}

// firstMessages are what servers send in the same breath as their response: messages, one
// of which is larger than the buffers that net/http reads responses with.
var firstMessages = []string{"first", "", strings.Repeat("large ", 3000), "last"}

func firstFrames() (b []byte) {
	for _, m := range firstMessages {
		b = appendFrame(b, finBit|opText, []byte(m), false)
	}
	return b
}

// checkFirst reads firstMessages, and then what c echoes.
func checkFirst(t testing.TB, c *Conn) {
	t.Helper()
	for i, want := range firstMessages {
		typ, p, err := c.ReadMessage()
		if err != nil || typ != Text || string(p) != want {
			t.Fatalf("message %d is %v %.20q (%d bytes), %v instead of %.20q (%d bytes)", i, typ, p, len(p), err, want, len(want))
		}
	}
}

// checkDeadline lets a read time out, within a message too, and go on.
func checkDeadline(t testing.TB, c *Conn) {
	t.Helper()
	for range 2 {
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, p, err := c.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %q, %v instead of a timeout", p, err)
		}
	}
	if n := held(&c.t); n != 0 && c.t.raw != nil {
		t.Errorf("an idle Conn holds a buffer of %d bytes", n)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	checkEchoes(t, c)
}

// Two messages of a client: that of RFC 6455, section 5.7, and one with an
// extended length; and the same in hixie-76.
var (
	rfcFrames = [2]string{
		"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
		"\x82\xfe\x00\xc8\x00\x00\x00\x00" + strings.Repeat("\x00\xff\r\n", 50),
	}
	hixieFrames = [2]string{
		"\x00Hello\xff",
		"\x00" + strings.Repeat("\u00e9\r\n", 50) + "\xff",
	}
	rfcMessages   = [2]string{"Hello", strings.Repeat("\x00\xff\r\n", 50)}
	hixieMessages = [2]string{"Hello", strings.Repeat("\u00e9\r\n", 50)}
)

// handshakes is what a client of each version sends: its opening handshake and,
// right behind it, two messages.
var handshakes = []struct {
	name             string
	version          Version
	hello            string
	frames, messages [2]string
}{
	{"RFC 6455", RFC6455, rfcHead, rfcFrames, rfcMessages},
	{"hixie-76", Hixie76, hixieHead + hixieToken, hixieFrames, hixieMessages},
}

// checkResponse checks that a response answers req and says nothing else.
func checkResponse(t testing.TB, req *Request, response []byte) {
	t.Helper()
	want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	status, scheme := "101 Switching Protocols", "ws://"
	head, token := string(response), ""
	if req.Version == Hixie76 {
		status = "101 WebSocket Protocol Handshake"
		head, token = head[:max(0, len(head)-16)], head[max(0, len(head)-16):]
		if req.Secure {
			scheme = "wss://"
		}
		want["Upgrade"] = []string{"WebSocket"}
		want["Sec-Websocket-Origin"] = []string{req.Origin}
		want["Sec-Websocket-Location"] = []string{scheme + req.Host + req.Path}
	} else {
		want["Sec-Websocket-Accept"] = []string{string(CreateToken(req))}
	}
	if req.Protocol != "" {
		want["Sec-Websocket-Protocol"] = []string{req.Protocol}
	}
	lines, ok := strings.CutSuffix(head, "\r\n\r\n")
	if !ok || strings.ContainsAny(strings.ReplaceAll(lines, "\r\n", ""), "\r\n") || strings.Count(lines, "\r\n") != len(want) {
		t.Fatalf("lines of response %q to %+v", response, req)
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head)), nil)
	if err != nil {
		t.Fatalf("response %q to %+v: %v", response, req, err)
	}
	if resp.Status != status || !reflect.DeepEqual(resp.Header, want) || token != "" && token != string(CreateToken(req)) {
		t.Fatalf("response %q to %+v, want %q", response, req, want)
	}
}

// checkRefusal checks that raw is one HTTP response with the status, down to
// its last byte, and returns its text.
func checkRefusal(t testing.TB, raw string, status int) string {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(raw))
	resp, err := http.ReadResponse(r, &http.Request{Method: "GET"})
	if err != nil {
		t.Fatalf("refusal %q: %v", raw, err)
	}
	body, err := io.ReadAll(resp.Body)
	rest, _ := io.ReadAll(r)
	if err != nil || len(rest) > 0 || resp.ContentLength != int64(len(body)) {
		t.Errorf("refusal %q: body of %d bytes, %v, and then %q", raw, resp.ContentLength, err, rest)
	}
	if resp.StatusCode != status || !resp.ProtoAtLeast(1, 1) || !resp.Close {
		t.Errorf("refusal %q: status %d, want %d", raw, resp.StatusCode, status)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("refusal %q: type %q", raw, got)
	}
	for _, tt := range []struct {
		rule, field string
		status      int
		want        []string
	}{
		{"RFC 9110 15.5.6", "Allow", 405, []string{"GET"}},
		{"RFC 9110 15.5.22", "Upgrade", 426, []string{"websocket"}},
		{"RFC 6455 4.4", "Sec-Websocket-Version", 426, []string{"13"}},
	} {
		if tt.status != status {
			tt.want = nil
		}
		if got := resp.Header[tt.field]; !slices.Equal(got, tt.want) {
			t.Errorf("%s: refusal %q: %s %q, want %q", tt.rule, raw, tt.field, got, tt.want)
		}
	}
	// RFC 9110, section 7.8; ReadResponse takes the field out.
	if want := map[bool]string{true: "close, Upgrade", false: "close"}[status == 426]; strings.Count(raw, "\r\nConnection: ") != 1 || !strings.Contains(raw, "\r\nConnection: "+want+"\r\n") {
		t.Errorf("refusal %q: wrong Connection", raw)
	}
	return string(body)
}

// checkNoResponse checks that PutResponse has an error for req and writes
// nothing.
func checkNoResponse(t *testing.T, req *Request) {
	t.Helper()
	stream := &memStream{Reader: strings.NewReader("")}
	for _, w := range []io.Writer{stream, NewConn(stream, nil)} {
		var he *HandshakeError
		if err := PutResponse(w, req); !errors.As(err, &he) || stream.writes != 0 {
			t.Fatalf("PutResponse to a %T: %v, wrote %q", w, err, stream.out.String())
		}
	}
}

// A memListener is a listener whose connections are pipes in memory, so that a Write of
// the client has been read when it returns.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	wrap  func(net.Conn) net.Conn // of the server's end, if not nil
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memListener) Addr() net.Addr { return noAddr{} }

func (l *memListener) dial(t testing.TB) net.Conn {
	t.Helper()
	var a net.Conn
	a, b := net.Pipe()
	if l.wrap != nil {
		a = l.wrap(a)
	}
	select {
	case l.conns <- a:
	case <-l.done:
		t.Fatal("the server is closed")
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// An upgrader is a handler that upgrades its requests and then returns.
type upgrader struct {
	opts   *Options
	before func(http.ResponseWriter, *http.Request)
	result chan upgraded
}

type upgraded struct {
	c   *Conn
	err error
}

func newUpgrader(o *Options) *upgrader { return &upgrader{opts: o, result: make(chan upgraded, 1)} }

func (u *upgrader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if u.before != nil {
		u.before(w, r)
	}
	c, err := Upgrade(w, r, u.opts)
	u.result <- upgraded{c, err}
}

// accepted returns the connection that has been made.
func (u *upgrader) accepted(t testing.TB) *Conn {
	t.Helper()
	res := wait(t, u.result)
	if res.err != nil || res.c == nil {
		t.Fatalf("Upgrade: %v, %v", res.c, res.err)
	}
	t.Cleanup(func() { res.c.CloseNow() })
	return res.c
}

// refused returns the error of a request that has been refused.
func (u *upgrader) refused(t testing.TB) *HandshakeError {
	t.Helper()
	res := wait(t, u.result)
	e, ok := errors.AsType[*HandshakeError](res.err)
	if !ok || res.c != nil {
		t.Fatalf("Upgrade: %v, %v, want a *HandshakeError", res.c, res.err)
	}
	return e
}

// serveMem serves h in memory until the test ends.
func serveMem(t testing.TB, h http.Handler, config func(*http.Server)) *memListener {
	t.Helper()
	l := newMemListener()
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	if config != nil {
		config(s)
	}
	done := goErr(func() error { return s.Serve(l) })
	t.Cleanup(func() {
		s.Close()
		if err := wait(t, done); err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return l
}

// serveTCP serves h on a socket until the test ends.
func serveTCP(t testing.TB, h http.Handler, secure bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// dialTCP connects to s, with TLS if it has that.
func dialTCP(t testing.TB, s *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if s.TLS != nil {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// send writes s in the background.
func send(w io.Writer, s string) <-chan error {
	return goErr(func() error { _, err := io.WriteString(w, s); return err })
}

// expect reads exactly want.
func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// upgradeHellos are handshakes, and that of the clients of hixie-76 which announce their
// token as a body.
func upgradeHellos(t testing.TB) (all []struct {
	name             string
	version          Version
	hello            string
	frames, messages [2]string
}) {
	all = slices.Clone(handshakes)
	announced := all[1]
	announced.name += " with Content-Length"
	announced.hello = editHead(t, announced.hello, "Upgrade: WebSocket\r\n", "Upgrade: WebSocket\r\nContent-Length: 8\r\n")
	return append(all, announced)
}

// A hijackWriter is a writer whose connection is a tape, or an error.
type hijackWriter struct {
	*httptest.ResponseRecorder
	conn tapeNetConn
	err  error
}

func newHijackWriter() *hijackWriter {
	return &hijackWriter{ResponseRecorder: httptest.NewRecorder(), conn: tapeNetConn{tape: new(tape)}}
}

func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.err != nil {
		return nil, nil, w.err
	}
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// parsedRequest is data as a server has got it, with the token of hixie-76 as its body.
func parsedRequest(t testing.TB, data string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// An http2Test is a test of what comes over HTTP/2.
type http2Test struct {
	name   string
	bubble bool // in which time is not real
	test   func(*testing.T, []tls.Certificate)
}

// runHTTP2 runs tests. Both sides of net/http know the extended CONNECT only if the
// environment said so at the start of the process, so the program is started once more.
func runHTTP2(t *testing.T, tests []http2Test) {
	const setting = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), setting) {
		t.Parallel()
		args := []string{"-test.run=^" + t.Name() + "$", "-test.timeout=1m"}
		if testing.Verbose() {
			args = append(args, "-test.v")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+","+setting, ","))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.bubble {
				synctest.Test(t, func(t *testing.T) { tt.test(t, s.TLS.Certificates) })
			} else {
				tt.test(t, s.TLS.Certificates)
			}
		})
	}
}

// An h2Client is a connection of HTTP/2.
type h2Client struct {
	http.RoundTripper
	host string
}

// openHTTP2 serves h and connects to it.
func openHTTP2(t *testing.T, certs []tls.Certificate, h http.Handler, config func(*http.Server)) *h2Client {
	t.Helper()
	return openHTTP2On(t, newMemListener(), certs, h, config)
}

func openHTTP2On(t *testing.T, l *memListener, certs []tls.Certificate, h http.Handler, config func(*http.Server)) *h2Client {
	t.Helper()
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: certs}}
	if config != nil {
		config(s)
	}
	done := goErr(func() error { return s.ServeTLS(l, "", "") })
	conn := tls.Client(l.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	// A Transport does not send fields whose names have a colon; what it makes of a
	// connection of HTTP/2 does.
	transport := &http.Transport{ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	transport.CloseIdleConnections() // fills TLSNextProto
	const host = "example.com:443"
	rt := transport.TLSNextProto["h2"](host, conn)
	t.Cleanup(func() {
		conn.Close()
		s.Close()
		if err := wait(t, done); err != http.ErrServerClosed {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	})
	return &h2Client{rt, host}
}

// An h2Stream is the client's end of a stream.
type h2Stream struct {
	io.ReadCloser
	*io.PipeWriter
}

func (s *h2Stream) Close() error {
	s.PipeWriter.Close()
	return s.ReadCloser.Close()
}

func (s *h2Stream) CloseWrite() error { return s.PipeWriter.Close() }

// connect sends an extended CONNECT (RFC 8441, section 5), with more fields or others.
func (c *h2Client) connect(t *testing.T, fields ...string) (*http.Response, *h2Stream) {
	t.Helper()
	r, w := io.Pipe()
	header := http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	for i := 0; i < len(fields); i += 2 {
		if header[fields[i]] = []string{fields[i+1]}; fields[i+1] == "" {
			delete(header, fields[i])
		}
	}
	resp, err := c.RoundTrip(&http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "https", Host: c.host, Path: "/chat", RawQuery: "room=1"},
		Host:   strings.TrimSuffix(c.host, ":443"),
		Header: header,
		Body:   r,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &h2Stream{resp.Body, w}
	t.Cleanup(func() { s.Close() })
	return resp, s
}

// open is connect where the server accepts.
func (c *h2Client) open(t *testing.T, fields ...string) (*Conn, *h2Stream) {
	t.Helper()
	resp, s := c.connect(t, fields...)
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	return newConn(s, &Options{MaxMessage: -1}, true), s
}

// serve2 is a handler that upgrades and calls serve.
func serve2(o *Options, serve func(*Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		w.Header().Set("Sec-WebSocket-Protocol", "evil")
		w.Header().Set("Sec-WebSocket-Accept", "evil")
		if h, err := Upgrade(w, r, o); err == nil {
			defer h.CloseNow()
			serve(h)
		}
	})
}

// Well-formed opening handshakes. Tests edit them.
const (
	rfcHead = "GET /chat?room=1 HTTP/1.1\r\n" +
		"Host: server.example.com\r\n" +
		"Upgrade: websocket\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Origin: http://example.com\r\n" +
		"Sec-WebSocket-Protocol: chat, superchat\r\n" +
		"Sec-WebSocket-Version: 13\r\n\r\n"
	rfcFields = 7

	hixieHead = "GET /demo?room=1 HTTP/1.1\r\n" +
		"Host: example.com\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n" +
		"Sec-WebSocket-Protocol: sample\r\n" +
		"Upgrade: WebSocket\r\n" +
		"Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n" +
		"Origin: http://example.com\r\n\r\n"
	hixieToken = "^n:ds[4U"
)

// editHead returns s with the first old replaced by new, or just new if old is
// empty.
func editHead(t testing.TB, s, old, new string) string {
	t.Helper()
	if old == "" {
		return new
	}
	if !strings.Contains(s, old) {
		t.Fatalf("%q is not in %q", old, s)
	}
	return strings.Replace(s, old, new, 1)
}

// hixieRequest returns an opening handshake with the keys and the token, and
// the fields in the order of a draft example.
func hixieRequest(key1, key2, token string) string {
	return strings.NewReplacer(
		"4 @1  46546xW%0l 1 5", key1, "12998 5 Y3 1  .P00", key2,
	).Replace(hixieHead) + token
}

// checkAccepted checks that data is a whole opening handshake, for a bare
// stream and a Conn alike, and returns the request.
func checkAccepted(t *testing.T, data string) *Request {
	t.Helper()
	in := &limitReader{s: data, step: len(data)}
	req, err := GetRequest(in)
	if err != nil || in.over || in.s != "" {
		t.Fatalf("bare: %v, read too far: %v, not read: %q", err, in.over, lastBytes(in.s))
	}
	in = &limitReader{s: data, step: len(data)}
	again, err := GetRequest(NewConn(&memStream{Reader: in}, nil))
	if err != nil || in.over || in.s != "" {
		t.Fatalf("Conn: %v, read too far: %v, not read: %q", err, in.over, lastBytes(in.s))
	}
	if !reflect.DeepEqual(req, again) {
		t.Fatalf("bare %+v, Conn %+v", req, again)
	}
	checkResponse(t, req, CreateResponse(req))
	return req
}

// manyTokens returns a list of n different tokens, of two bytes each.
func manyTokens(n int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	b := make([]byte, 0, 3*n)
	for i := range n {
		b = append(b, digits[i/len(digits)], digits[i%len(digits)], ',')
	}
	return string(b)
}

// A pipedServer is an http.Server whose connections are pipes in memory, so that it can
// run in a bubble.
type pipedServer struct {
	http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	wrap   func(net.Conn) net.Conn // of the server's end, if not nil
	log    serverLog
}

// A serverLog collects what an http.Server logs.
type serverLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// servePiped serves h until the test ends.
func servePiped(t testing.TB, h http.Handler) *pipedServer {
	s := &pipedServer{conns: make(chan net.Conn), closed: make(chan struct{})}
	s.Server.Handler = h
	s.ErrorLog = log.New(&s.log, "", 0)
	done := goErr(func() error { return s.Serve(s) })
	t.Cleanup(func() {
		if h, ok := h.(*Server); ok {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			h.Shutdown(ctx)
		}
		s.Server.Close()
		wait(t, done)
	})
	return s
}

func (s *pipedServer) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *pipedServer) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *pipedServer) Addr() net.Addr { return noAddr{} }

// connect returns the client's end of a new connection.
func (s *pipedServer) connect(t testing.TB) net.Conn {
	a, b := net.Pipe()
	if s.wrap != nil {
		a = s.wrap(a)
	}
	t.Cleanup(func() { b.Close() })
	select {
	case s.conns <- a:
	case <-s.closed:
		a.Close()
	}
	return b
}

// join opens a connection as a client of RFC 6455 does.
func (s *pipedServer) join(t testing.TB, path string, o *Options) *Conn {
	t.Helper()
	c, err := ClientHandshake(s.connect(t), "ws://server.example.com"+path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// joinHixie opens a connection as a client of hixie-76 does. It returns its end, and a
// Conn over that.
func (s *pipedServer) joinHixie(t testing.TB) (*Conn, net.Conn) {
	t.Helper()
	conn := s.connect(t)
	go io.WriteString(conn, hixieHead+hixieToken)
	// The server says nothing more until it is told to, so that a buffered reader
	// takes the response and nothing else.
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("response %v, %v", resp, err)
	}
	if _, err := r.Discard(16); err != nil || r.Buffered() != 0 {
		t.Fatalf("no token, or %d bytes behind it: %v", r.Buffered(), err)
	}
	c := newConn(conn, nil, true)
	speakHixie(c, true)
	t.Cleanup(func() { c.CloseNow() })
	return c, conn
}

// serveLoopback serves h on a port of its own until the test ends. It returns the URL.
func serveLoopback(t testing.TB, web *http.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := goErr(func() error { return web.Serve(ln) })
	t.Cleanup(func() {
		web.Close()
		if err := wait(t, done); err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return "ws://" + ln.Addr().String()
}

// A tally counts the calls of a Handler and checks their order.
type tally struct {
	mu           sync.Mutex
	opens, calls int
	ends         []error
}

func (y *tally) handler(t testing.TB) Handler {
	return Handler{
		OnOpen: func(c *Conn) {
			y.mu.Lock()
			defer y.mu.Unlock()
			if y.opens++; y.calls+len(y.ends) > 0 {
				t.Error("OnOpen is not called first")
			}
			c.WriteMessage(Text, []byte("welcome"))
		},
		OnMessage: func(c *Conn, typ MessageType, p []byte) {
			y.mu.Lock()
			defer y.mu.Unlock()
			if y.calls++; y.opens == 0 || len(y.ends) > 0 {
				t.Error("OnMessage is called before OnOpen or after OnClose")
			}
			c.WriteMessage(typ, p)
		},
		OnClose: func(c *Conn, err error) {
			y.mu.Lock()
			defer y.mu.Unlock()
			if y.ends = append(y.ends, err); err == nil {
				t.Error("OnClose without an error")
			}
		},
	}
}

type userKey struct{}

// checkServe tests Server.ServeHTTPWith with functions for each connection, which know the context
// of its request. serve starts an http.Server that logs to out, and returns what connects a
// user to it.
func checkServe(t *testing.T, out *serverLog, serve func(http.Handler) (join func(user string) *Conn)) {
	ends := make(chan string, 2)
	s := &Server{Handler: Handler{
		OnOpen:    func(*Conn) { t.Error("OnOpen of the Server is called") },
		OnMessage: func(*Conn, MessageType, []byte) { t.Error("OnMessage of the Server is called") },
		OnClose:   func(*Conn, error) { t.Error("OnClose of the Server is called") },
	}}
	join := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// As a middleware does.
		r = r.WithContext(context.WithValue(r.Context(), userKey{}, r.Header.Get("User")))

		ctx := context.WithoutCancel(r.Context())
		n := 0
		s.ServeHTTPWith(w, r, Handler{
			OnOpen: func(c *Conn) { c.WriteMessage(Text, []byte("welcome")) },
			OnMessage: func(c *Conn, typ MessageType, p []byte) {
				if string(p) == "panic" {
					panic("out of tea")
				}
				n++
				c.WriteMessage(typ, fmt.Appendf(nil, "%v, %d: %s, %v", ctx.Value(userKey{}), n, p, ctx.Err()))
			},
			OnClose: func(*Conn, error) { ends <- ctx.Value(userKey{}).(string) },
		})
	}))
	alice, bob := join("alice"), join("bob")
	say := func(c *Conn, p string) {
		t.Helper()
		if err := c.WriteMessage(Text, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	expectMessages(t, alice, "welcome")
	expectMessages(t, bob, "welcome")
	say(alice, "a")
	expectMessages(t, alice, "alice, 1: a, <nil>")
	say(bob, "b")
	expectMessages(t, bob, "bob, 1: b, <nil>")
	say(alice, "c")
	expectMessages(t, alice, "alice, 2: c, <nil>")
	if n := len(slices.Collect(s.Conns())); n != 2 {
		t.Errorf("%d connections", n)
	}
	s.Broadcast(Text, []byte("all"))
	expectMessages(t, alice, "all")
	expectMessages(t, bob, "all")

	say(bob, "panic")
	expectClose(t, bob, CloseInternalError)
	bob.Close()
	if got := wait(t, ends); got != "bob" {
		t.Errorf("OnClose of %s", got)
	}
	synctest.Wait()
	if got := out.String(); !strings.Contains(got, "websocket: panic serving") || !strings.Contains(got, "out of tea") {
		t.Errorf("log: %q", got)
	}

	down := goErr(func() error { return s.Shutdown(context.Background()) })
	expectClose(t, alice, CloseGoingAway)
	alice.Close()
	if err := wait(t, down); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if len(ends) != 1 || <-ends != "alice" {
		t.Error("Shutdown has not waited for OnClose")
	}
}
