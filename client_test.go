package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"

	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"

	"net/url"
	"os"
	"path/filepath"

	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"

	"testing"
	"testing/iotest"

	"time"
)

// A connector is one of the two ways to be a client, over a pipe in memory to a server
// that is served by serve. The way of Dial is an http.Client that connects to the pipe.
type connector struct {
	name    string
	connect func(t testing.TB, ctx context.Context, url string, o *Options, serve func(net.Conn)) (*Conn, error)
}

var connectors = []connector{
	{"Dial", func(t testing.TB, ctx context.Context, url string, o *Options, serve func(net.Conn)) (*Conn, error) {
		o = o.clone()
		if o == noOptions {
			o = new(Options)
		}
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

// acceptEcho is a server that accepts every client and echoes what it sends.
func acceptEcho(conn net.Conn) {
	h := NewConn(conn, nil)
	if _, err := ShakeHands(h); err == nil {
		echo(h)
	}
	h.Close()
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

func TestDial(t *testing.T) {
	server := &Server{Handler: Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) }}}
	for name, handler := range map[string]http.Handler{"Server": server, "Upgrade": echoHandler(nil)} {
		plain := httptest.NewServer(handler)
		defer plain.Close()
		secure := httptest.NewTLSServer(handler)
		defer secure.Close()
		six := httptest.NewUnstartedServer(handler)
		if ln, err := net.Listen("tcp", "[::1]:0"); err == nil {
			six.Listener.Close()
			six.Listener = ln
		} else {
			t.Log("without IPv6:", err) // and so again over IPv4
		}
		six.Start()
		defer six.Close()

		for _, test := range []struct {
			url    string
			secure bool
		}{
			{withScheme("ws", plain.URL), false},
			{withScheme("http", plain.URL) + "/", false},
			{withScheme("WS", plain.URL) + "/a?b=c", false},
			{withScheme("HtTp", plain.URL), false},
			{withScheme("ws", six.URL), false},
			{withScheme("wss", secure.URL), true},
			{withScheme("https", secure.URL), true},
			{withScheme("WSS", secure.URL) + "?b", true},
		} {
			t.Run(name+"/"+test.url, func(t *testing.T) {
				// Nil options stand for http.DefaultClient, which does not trust the
				// server's certificate.
				var o *Options
				if test.secure {
					o = &Options{HTTPClient: secure.Client()}
				}
				c, err := Dial(t.Context(), test.url, o)
				if err != nil {
					t.Fatal(err)
				}
				checkEchoes(t, c)
				if r := c.Request(); r.Secure != test.secure {
					t.Errorf("Secure is %v", r.Secure)
				}
				u, err := url.Parse(test.url)
				if err != nil {
					t.Fatal(err)
				}
				if got := c.RemoteAddr().String(); got != u.Host {
					t.Errorf("connected to %s instead of %s", got, u.Host)
				}
				if a, ok := c.LocalAddr().(*net.TCPAddr); !ok || a.Port == 0 || !a.IP.IsLoopback() {
					t.Errorf("connected from %v", c.LocalAddr())
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDialUntrusted finds that TLS is net/http's: a certificate is checked.
func TestDialUntrusted(t *testing.T) {
	s := httptest.NewUnstartedServer(echoHandler(nil))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports the client's alert
	s.StartTLS()
	defer s.Close()
	c, err := Dial(t.Context(), withScheme("wss", s.URL), nil)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("%v, %v instead of an error about the certificate", c, err)
	}
}

// TestDialHTTP2 dials a server that would rather speak HTTP/2, which has no Upgrade.
func TestDialHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(echoHandler(nil))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	if resp, err := s.Client().Get(s.URL); err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("the server does not speak HTTP/2: %v, %v", resp, err)
	}
	c, err := Dial(t.Context(), withScheme("wss", s.URL), &Options{HTTPClient: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	checkEchoes(t, c)
	c.Close()
}

// TestClientRequest checks what clients of both kinds send, byte by byte, apart from
// the key.
func TestClientRequest(t *testing.T) {
	const plain = "GET / HTTP/1.1\r\nHost: h.example\r\n"
	for _, test := range []struct {
		name  string
		url   string
		o     *Options
		start string   // request line and Host
		with  []string // further fields
		req   Request  // but Key and Header
	}{
		{"plain", "ws://h.example", nil, plain, nil, Request{Host: "h.example", Path: "/"}},
		{"TLS", "wss://h.example/", nil, plain, nil, Request{Host: "h.example", Path: "/", Secure: true}},
		{"default port", "ws://h.example:80/", nil, "GET / HTTP/1.1\r\nHost: h.example:80\r\n", nil,
			Request{Host: "h.example:80", Path: "/"}},
		{"port", "ws://h.example:8080/a", nil, "GET /a HTTP/1.1\r\nHost: h.example:8080\r\n", nil,
			Request{Host: "h.example:8080", Path: "/a"}},
		{"no number of a port", "ws://h.example:/a", nil, "GET /a HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/a"}},
		{"IPv6", "ws://[::1]:8080/", nil, "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n", nil,
			Request{Host: "[::1]:8080", Path: "/"}},
		{"query", "ws://h.example?a=b&c", nil, "GET /?a=b&c HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/?a=b&c"}},
		{"empty query", "ws://h.example/?", nil, "GET /? HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/?"}},
		{"path as given", "ws://h.example//a/./../%2F%41;x,y:@z?q=%20+%zz/?", nil,
			"GET //a/./../%2F%41;x,y:@z?q=%20+%zz/? HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "//a/./../%2F%41;x,y:@z?q=%20+%zz/?"}},
		{"path to be escaped", "ws://h.example/ä b", nil, "GET /%C3%A4%20b HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/%C3%A4%20b"}},
		{"user", "ws://Aladdin:open%20sesame@h.example/", nil, plain,
			[]string{"Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}, Request{Host: "h.example", Path: "/"}},
		{"user without a password", "ws://Aladdin@h.example/", nil, plain,
			[]string{"Authorization: Basic QWxhZGRpbjo="}, Request{Host: "h.example", Path: "/"}},
		{"user and Authorization", "ws://a:b@h.example/", &Options{Header: http.Header{"Authorization": {"Bearer x"}}}, plain,
			[]string{"Authorization: Bearer x"}, Request{Host: "h.example", Path: "/"}},
		{"one subprotocol", "ws://h.example", &Options{Protocols: []string{"chat"}}, plain,
			[]string{"Sec-Websocket-Protocol: chat"}, Request{Host: "h.example", Path: "/", Protocols: []string{"chat"}}},
		{"subprotocols", "ws://h.example", &Options{Protocols: []string{"v2.chat", "chat", "Chat"}}, plain,
			[]string{"Sec-Websocket-Protocol: v2.chat, chat, Chat"},
			Request{Host: "h.example", Path: "/", Protocols: []string{"v2.chat", "chat", "Chat"}}},
		{"fields", "ws://h.example", &Options{Header: http.Header{"X-A": {"1", "2"}, "x-b": {"ä\t "}, "X-Empty": {""}, "X-None": nil}}, plain,
			[]string{"X-A: 1", "X-A: 2", "X-B: ä", "X-Empty: "}, Request{Host: "h.example", Path: "/"}},
		{"Host", "ws://h.example:81/a", &Options{Header: http.Header{"Host": {"other.example:82"}}},
			"GET /a HTTP/1.1\r\nHost: other.example:82\r\n", nil, Request{Host: "other.example:82", Path: "/a"}},
		{"host in lower case", "ws://h.example", &Options{Header: http.Header{"host": {"other.example"}}},
			"GET / HTTP/1.1\r\nHost: other.example\r\n", nil, Request{Host: "other.example", Path: "/"}},
		{"Origin", "ws://h.example", &Options{Header: http.Header{"Origin": {"https://o.example"}}}, plain,
			[]string{"Origin: https://o.example"}, Request{Host: "h.example", Path: "/", Origin: "https://o.example"}},
		{"User-Agent", "ws://h.example", &Options{Header: http.Header{"User-Agent": {"me/1"}}}, plain,
			[]string{"User-Agent: me/1"}, Request{Host: "h.example", Path: "/"}},
		{"no User-Agent", "ws://h.example", &Options{Header: http.Header{"User-Agent": {""}}}, plain,
			nil, Request{Host: "h.example", Path: "/"}},
		{"Cookie", "ws://h.example", &Options{Header: http.Header{"Cookie": {"a=b; c=d"}}}, plain,
			[]string{"Cookie: a=b; c=d"}, Request{Host: "h.example", Path: "/"}},
	} {
		for _, via := range connectors {
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				var before http.Header
				if test.o != nil {
					before = test.o.Header.Clone()
				}
				heads := make(chan string, 1)
				c, err := via.connect(t, t.Context(), test.url, test.o, func(conn net.Conn) {
					heads <- answer(conn, accepting)
					io.Copy(io.Discard, conn)
				})
				if err != nil {
					t.Fatal(err)
				}
				head := wait(t, heads)
				fields, ok := strings.CutPrefix(head, test.start)
				if !ok {
					t.Errorf("the request begins as %q instead of %q", head, test.start)
				}
				key := headField(head, "Sec-WebSocket-Key")
				if p, err := base64.StdEncoding.DecodeString(key); err != nil || len(p) != 16 {
					t.Errorf("the key %q is not 16 bytes in base64", key) // RFC 6455, section 4.1, item 7
				}
				// Each field exactly once, in whatever order.
				want := append([]string{
					"Connection: Upgrade",
					"Upgrade: websocket",
					"Sec-Websocket-Key: " + key,
					"Sec-Websocket-Version: 13",
				}, test.with...)
				if via.name == "Dial" {
					want = append(want, "Accept-Encoding: gzip") // for the body of a refusal
				}
				if test.o == nil || test.o.Header["User-Agent"] == nil {
					want = append(want, "User-Agent: Go-http-client/1.1")
				}
				got := strings.Split(strings.TrimSuffix(fields, "\r\n\r\n"), "\r\n")
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("the request has the fields\n\t%q instead of\n\t%q", got, want)
				}

				req := *c.Request()
				if req.Key != key || req.Header.Get("Sec-WebSocket-Key") != key {
					t.Errorf("Request has the key %q instead of %q", req.Key, key)
				}
				for _, f := range test.with {
					if name, value, _ := strings.Cut(f, ": "); !slices.ContainsFunc(req.Header.Values(name), func(v string) bool { return strings.TrimSpace(v) == value }) {
						t.Errorf("Request.Header lacks %q", f)
					}
				}
				test.req.Version, req.Header, req.Key = RFC6455, nil, ""
				if !reflect.DeepEqual(req, test.req) {
					t.Errorf("Request is %+v instead of %+v", req, test.req)
				}
				if test.o != nil && !reflect.DeepEqual(test.o.Header, before) {
					t.Errorf("Options.Header has changed from %v to %v", before, test.o.Header)
				}
			})
		}
	}
}

// TestClientKey finds that no two requests have the same key (RFC 6455, section 4.1,
// item 7).
func TestClientKey(t *testing.T) {
	seen := map[string]bool{}
	for _, via := range connectors {
		for range 5 {
			c, err := via.connect(t, t.Context(), "ws://h.example", nil, answerWith(accepting))
			if err != nil {
				t.Fatal(err)
			}
			seen[c.Request().Key] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("10 requests have %d keys", len(seen))
	}
}

func TestClientProtocol(t *testing.T) {
	for _, test := range []struct {
		server, client []string
		want           string
	}{
		{nil, nil, ""},
		{nil, []string{"a"}, ""},
		{[]string{"a"}, nil, ""},
		{[]string{"a", "b"}, []string{"b", "a"}, "a"},
		{[]string{"c", "b"}, []string{"a", "b"}, "b"},
	} {
		s := httptest.NewServer(echoHandler(&Options{Protocols: test.server}))
		o := &Options{Protocols: slices.Clone(test.client)}
		c, err := Dial(t.Context(), s.URL, o)
		if err != nil {
			t.Fatal(err)
		}
		clear(o.Protocols) // they have been copied
		if r := c.Request(); r.Protocol != test.want || !slices.Equal(r.Protocols, test.client) {
			t.Errorf("a client of %q at a server of %q: %q of %q", test.client, test.server, r.Protocol, r.Protocols)
		}
		checkEchoes(t, c)
		c.Close()
		s.Close()
	}
}

// TestDialCookies takes cookies from a jar and to it, also from a refusal.
func TestDialCookies(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		var got []string
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = append(got, strings.Join(r.Header["Cookie"], "|"))
			http.SetCookie(w, &http.Cookie{Name: "new", Value: "2"})
			if refuse {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			echoHandler(nil)(w, r)
		}))
		defer s.Close()
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		jar.SetCookies(u, []*http.Cookie{{Name: "old", Value: "1"}})
		o := &Options{HTTPClient: &http.Client{Jar: jar}, Header: http.Header{"Cookie": {"mine=0"}}}
		for range 2 {
			c, err := Dial(t.Context(), withScheme("ws", s.URL), o)
			if (err != nil) != refuse {
				t.Fatal(err)
			}
			if c != nil {
				checkEchoes(t, c)
				c.Close()
			}
		}
		if want := []string{"mine=0; old=1", "mine=0; old=1; new=2"}; !slices.Equal(got, want) {
			t.Errorf("the server got the cookies %q instead of %q", got, want)
		}
		if !reflect.DeepEqual(o.Header, http.Header{"Cookie": {"mine=0"}}) {
			t.Errorf("Options.Header has become %v", o.Header)
		}
	}
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

// TestClientFirstFrames finds that no frame is lost which comes together with the
// response, or cut anywhere.
func TestClientFirstFrames(t *testing.T) {
	small := accepting + string(appendFrame(appendFrame(nil, finBit|opText, []byte("one"), false), finBit|opText, []byte("two"), false))
	for _, via := range connectors {
		size := len(small) - len("{accept}") + 28
		for cut := range size {
			c, err := via.connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
				b := answerTo(readHead(conn), small)
				conn.Write(b[:cut])
				conn.Write(b[cut:])
				io.Copy(io.Discard, conn)
			})
			if err != nil {
				t.Fatalf("%s, cut at %d: %v", via.name, cut, err)
			}
			for _, want := range []string{"one", "two"} {
				if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
					t.Fatalf("%s, cut at %d: read %q, %v instead of %q", via.name, cut, p, err, want)
				}
			}
			c.CloseNow()
		}
	}
}

// TestDialFirstFrames does so with sockets, plain and with TLS, for more than fits into
// net/http's buffer. After that the Conn reads from the connection itself.
func TestDialFirstFrames(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, piece := range []int{1 << 20, 1000, 5} {
			t.Run(fmt.Sprintf("TLS=%v/%d bytes a write", secure, piece), func(t *testing.T) {
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					head := fmt.Sprintf("GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: %s\r\n\r\n", r.Header.Get("Sec-WebSocket-Key"))
					b := append(answerTo(head, accepting), firstFrames()...)
					n := min(len(b), 500*piece)
					for p := range slices.Chunk(b[:n], piece) {
						conn.Write(p)
					}
					conn.Write(b[n:])
					h := newConn(conn, nil, false)
					echo(h)
					h.Close()
				}))
				s.EnableHTTP2 = false
				if secure {
					s.StartTLS()
				} else {
					s.Start()
				}
				defer s.Close()
				c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: s.Client()})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if _, ok := c.rw.(*tls.Conn); ok != secure {
					t.Errorf("the transport is a %T", c.rw)
				}
				if _, ok := c.rw.(*net.TCPConn); ok == secure || (c.raw != nil) != (ok && runtime.GOOS != "windows") {
					t.Errorf("the transport is a %T, and waits on the socket: %v", c.rw, c.raw != nil)
				}
				checkFirst(t, c)
				checkEchoes(t, c)
				checkDeadline(t, c)
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
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
	if len(c.in) != 0 && c.raw != nil {
		t.Errorf("an idle Conn holds a buffer of %d bytes", len(c.in))
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	checkEchoes(t, c)
}

// TestDialContext ends the context at every stage.
func TestDialContext(t *testing.T) {
	silent := func(conn net.Conn) {
		readHead(conn)
		io.Copy(io.Discard, conn)
	}
	half := func(conn net.Conn) {
		readHead(conn)
		io.WriteString(conn, accepting[:40])
		io.Copy(io.Discard, conn)
	}
	body := func(conn net.Conn) {
		readHead(conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nfirst")
		io.Copy(io.Discard, conn)
	}
	for _, test := range []struct {
		name  string
		after time.Duration // end of the context, or 0 for before
		serve func(net.Conn)
		want  error
	}{
		{"before", 0, silent, context.Canceled},
		{"no answer", time.Second, silent, context.Canceled},
		{"half an answer", time.Second, half, context.Canceled},
		{"within a body", time.Second, body, nil}, // the refusal is known
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gone := make(chan bool, 1)
				client := memoryClient(t, func(conn net.Conn) {
					test.serve(conn)
					gone <- true
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.after == 0 {
					cancel()
				} else {
					time.AfterFunc(test.after, cancel)
				}
				start := time.Now()
				c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client})
				if d := time.Since(start); c != nil || d != test.after {
					t.Errorf("Dial has returned %v after %v", c, d)
				}
				if test.want != nil {
					if !errors.Is(err, test.want) {
						t.Errorf("Dial has returned %v instead of %v", err, test.want)
					}
				} else if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 200 {
					t.Errorf("Dial has returned %v", err)
				} else if b, err := io.ReadAll(e.Response.Body); string(b) != "first" || err != nil {
					t.Errorf("the body is %q, %v", b, err)
				}
				if test.after > 0 {
					wait(t, gone)
				}
			})
		})
	}

	t.Run("while connecting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			end := make(chan bool) // net/http lets a dial go on, for other requests
			defer close(end)
			client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				<-end
				return nil, net.ErrClosed
			}}}
			start := time.Now()
			c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("Dial has returned %v, %v after %v", c, err, time.Since(start))
			}
		})
	})

	t.Run("afterwards", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client := memoryClient(t, acceptEcho)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() {
				_, p, err := c.ReadMessage()
				if string(p) != "late" {
					err = fmt.Errorf("read %q, %v", p, err)
				}
				read <- err
			}()
			synctest.Wait()
			cancel() // while a read waits
			time.Sleep(time.Hour)
			if err := c.WriteMessage(Text, []byte("late")); err != nil {
				t.Error(err)
			}
			if err := wait(t, read); err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections() // of which c is none
			checkEchoes(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestClientTimeout finds out how long a handshake may take. What follows may take as
// long as it wants.
func TestClientTimeout(t *testing.T) {
	const never = -1
	for _, test := range []struct {
		name                string
		handshake, ofClient time.Duration // timeouts
		want                time.Duration
	}{
		{"default", 0, 0, 10 * time.Second},
		{"of Options", 3 * time.Second, 0, 3 * time.Second},
		{"longer than the default", time.Minute, 0, time.Minute},
		{"of the http.Client", 0, 2 * time.Second, 2 * time.Second},
		{"of the http.Client, but no other", -1, time.Hour, time.Hour},
		{"of both, Options first", time.Second, 2 * time.Second, time.Second},
		{"of both, http.Client first", 2 * time.Second, time.Second, time.Second},
		{"the http.Client's is longer than the default", 0, time.Hour, 10 * time.Second},
		{"none", -1, 0, never},
	} {
		for _, via := range connectors {
			if via.name == "ClientHandshake" && test.ofClient != 0 {
				continue
			}
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					connect := func(serve func(net.Conn)) (*Conn, time.Duration, error) {
						o := &Options{HandshakeTimeout: test.handshake}
						if via.name == "Dial" {
							o.HTTPClient = memoryClient(t, serve)
							o.HTTPClient.Timeout = test.ofClient
							before := *o.HTTPClient
							defer func() {
								if !reflect.DeepEqual(*o.HTTPClient, before) {
									t.Errorf("the http.Client has changed from %+v to %+v", before, *o.HTTPClient)
								}
							}()
						}
						start := time.Now()
						c, err := via.connect(t, t.Context(), "ws://h.example", o, serve)
						return c, time.Since(start), err
					}
					if test.want == never {
						c, d, err := connect(func(conn net.Conn) {
							b := answerTo(readHead(conn), accepting)
							time.Sleep(24 * time.Hour)
							conn.Write(b)
							io.Copy(io.Discard, conn)
						})
						if err != nil || d != 24*time.Hour {
							t.Fatalf("%v, %v after %v", c, err, d)
						}
						c.CloseNow()
						return
					}
					// Byte by byte, and too slowly.
					late := func(conn net.Conn) {
						b := answerTo(readHead(conn), accepting)
						for i := range b {
							time.Sleep(test.want/time.Duration(len(b)) + 1)
							conn.Write(b[i : i+1])
						}
						io.Copy(io.Discard, conn)
					}
					// Without an end.
					silent := func(conn net.Conn) {
						readHead(conn)
						io.WriteString(conn, accepting[:len(accepting)-2])
						io.Copy(io.Discard, conn)
					}
					for name, serve := range map[string]func(net.Conn){"late": late, "silent": silent} {
						c, d, err := connect(serve)
						if timeout, ok := errors.AsType[net.Error](err); c != nil || !ok || !timeout.Timeout() || d != test.want {
							t.Errorf("%s: %v, %v after %v instead of a timeout after %v", name, c, err, d, test.want)
						}
					}
					// Just in time.
					c, d, err := connect(func(conn net.Conn) {
						b := answerTo(readHead(conn), accepting)
						for i := range b {
							time.Sleep((test.want - 1) / time.Duration(len(b)))
							conn.Write(b[i : i+1])
						}
						h := newConn(conn, nil, false)
						echo(h)
						h.Close()
					})
					if err != nil {
						t.Fatalf("%v after %v", err, d)
					}
					checkEchoes(t, c)
					time.Sleep(2 * time.Hour)
					checkEchoes(t, c)
					c.Close()
				})
			})
		}
	}
}

// TestDialStuckServer dials a server that accepts TCP and never answers.
func TestDialStuckServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ended := goErr(func() error {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = io.Copy(io.Discard, conn)
		return err
	})
	c, err := Dial(t.Context(), "ws://"+ln.Addr().String(), &Options{HandshakeTimeout: 20 * time.Millisecond})
	if c != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v instead of a timeout", c, err)
	}
	if err := wait(t, ended); err != nil {
		t.Errorf("the connection is left open: %v", err)
	}
}

func TestDialRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization") + r.Header.Get("X-Secret"); a != "x" {
			t.Errorf("the other host has got %q", a)
		}
		echoHandler(&Options{Protocols: []string{"chat"}})(w, r)
	}))
	defer other.Close()
	// Another name is another host. Names that end in localhost are not looked up.
	otherURL := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)

	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			t.Errorf("%s has got Authorization %q", r.URL, r.Header["Authorization"])
		}
		echoHandler(&Options{Protocols: []string{"chat"}})(w, r)
	})
	mux.HandleFunc("/to/{status}", func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscan(r.PathValue("status"), &status)
		w.Header().Set("Location", r.URL.RawQuery)
		w.WriteHeader(status)
	})
	mux.HandleFunc("/circle", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, withScheme("ws", s.URL)+"/circle", http.StatusFound)
	})
	chained := "/to/302?/to/307?/end"
	for _, test := range []struct {
		name   string
		path   string
		text   string // of the error
		status int    // of the HandshakeError
	}{
		{"301", "/to/301?/end", "", 0},
		{"302", "/to/302?/end", "", 0},
		{"303", "/to/303?/end", "", 0},
		{"307", "/to/307?/end", "", 0},
		{"308", "/to/308?/end", "", 0},
		{"chain", chained, "", 0},
		{"relative", "/to/301?../end?a=b", "", 0},
		{"ws scheme", "/to/301?" + withScheme("ws", s.URL) + "/end", "", 0},
		{"upper-case scheme", "/to/301?" + withScheme("WS", s.URL) + "/end", "", 0},
		{"no scheme", "/to/301?" + withScheme("", s.URL)[1:] + "/end", "", 0},
		{"other host", "/to/307?" + otherURL, "", 0},
		{"other host, ws", "/to/302?" + withScheme("ws", otherURL), "", 0},
		{"circle", "/circle", "stopped after 10 redirects", 0},
		{"circle behind another", "/to/302?" + s.URL + "/circle", "stopped after 10 redirects", 0},
		{"other scheme", "/to/302?ftp://127.0.0.1/", "unsupported protocol scheme", 0},
		{"not found", "/to/302?/nowhere", "404 Not Found", 404},
		{"no Location", "/to/302?", "302", 302},
		{"not followed", "/to/300?/end", "300 Multiple Choices", 300},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := strings.Replace(withScheme("ws", s.URL), "//", "//u:p@", 1) + test.path
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			c, err := Dial(t.Context(), u, &Options{
				HTTPClient: client,
				Protocols:  []string{"chat"},
				Header:     http.Header{"X-Secret": {"x"}},
			})
			if test.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkEchoes(t, c)
				if c.Request().Protocol != "chat" {
					t.Error("no subprotocol")
				}
				c.Close()
				return
			}
			if c != nil || err == nil || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("%v, %v instead of %q", c, err, test.text)
			}
			if e, _ := errors.AsType[*HandshakeError](err); (e != nil) != (test.status != 0) || e != nil && (e.Status != test.status || e.Response == nil) {
				t.Errorf("the error is %#v", err)
			}
		})
	}
	t.Run("CheckRedirect", func(t *testing.T) {
		var asked []string
		no := errors.New("no further")
		client := &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
			asked = append(asked, fmt.Sprint(r.URL.Scheme, r.URL.Path, len(via)))
			if r.URL.Path == "/end" {
				return no
			}
			return nil
		}}
		check := reflect.ValueOf(client.CheckRedirect).Pointer()
		c, err := Dial(t.Context(), s.URL+"/to/301?"+withScheme("ws", s.URL)+chained, &Options{HTTPClient: client})
		if c != nil || !errors.Is(err, no) {
			t.Errorf("%v, %v", c, err)
		}
		if want := []string{"http/to/3021", "http/to/3072", "http/end3"}; !slices.Equal(asked, want) {
			t.Errorf("CheckRedirect was asked about %q instead of %q", asked, want)
		}
		if reflect.ValueOf(client.CheckRedirect).Pointer() != check {
			t.Error("the http.Client has changed")
		}
	})

	t.Run("ErrUseLastResponse", func(t *testing.T) {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		c, err := Dial(t.Context(), s.URL+"/to/307?/end", &Options{HTTPClient: client})
		e, ok := errors.AsType[*HandshakeError](err)
		if c != nil || !ok || e.Status != 307 || e.Response == nil || e.Response.Header.Get("Location") != "/end" {
			t.Errorf("%v, %#v", c, err)
		}
	})

	// ClientHandshake has one connection only and hands redirects out.
	t.Run("ClientHandshake", func(t *testing.T) {
		c, err := connectors[1].connect(t, t.Context(), "ws://h.example", nil,
			answerWith("HTTP/1.1 302 Found\r\nLocation: ws://other.example/\r\nContent-Length: 0\r\n\r\n"))
		e, ok := errors.AsType[*HandshakeError](err)
		if c != nil || !ok || e.Status != 302 || e.Response.Header.Get("Location") != "ws://other.example/" {
			t.Errorf("%v, %#v", c, err)
		}
	})
}

// A forwarder is a proxy that speaks HTTP and remembers the requests.
type forwarder struct {
	t        *testing.T
	to       string // where all connections lead
	mu       sync.Mutex
	requests []string
}

func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Method+" "+r.RequestURI+" "+r.Header.Get("Proxy-Authorization"))
	f.mu.Unlock()
	out, err := net.Dial("tcp", f.to)
	if err != nil {
		f.t.Error(err)
		return
	}
	defer out.Close()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.t.Error(err)
		return
	}
	defer in.Close()
	if r.Method == http.MethodConnect {
		io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	} else {
		r.Write(out) // a proxy for WebSocket keeps Connection and Upgrade
	}
	joinConns(in, out)
}

// joinConns passes on what comes from either side, to the end of both.
func joinConns(a, b net.Conn) {
	back := make(chan bool)
	go func() {
		io.Copy(a, b)
		a.Close()
		close(back)
	}()
	io.Copy(b, a)
	b.Close()
	<-back
}

// TestDialProxy goes through proxies. With wss that is CONNECT; with ws net/http sends
// the request to the proxy, in the absolute form.
func TestDialProxy(t *testing.T) {
	plain := httptest.NewServer(echoHandler(nil))
	defer plain.Close()
	secure := httptest.NewTLSServer(echoHandler(nil))
	defer secure.Close()
	roots := secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, test := range []struct {
		name string
		to   *httptest.Server
		url  string
		want string
	}{
		{"ws", plain, "ws://h.example:81/a?b", "GET http://h.example:81/a?b Basic dTpw"},
		{"wss", secure, "wss://example.com/a?b", "CONNECT example.com:443 Basic dTpw"}, // the name in the certificate
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &forwarder{t: t, to: test.to.Listener.Addr().String()}
			proxy := httptest.NewServer(f)
			defer proxy.Close()
			u, err := url.Parse(proxy.URL)
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.UserPassword("u", "p")
			transport := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{RootCAs: roots}}
			c, err := Dial(t.Context(), test.url, &Options{HTTPClient: &http.Client{Transport: transport}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			checkEchoes(t, c)
			f.mu.Lock()
			if want := []string{test.want}; !slices.Equal(f.requests, want) {
				t.Errorf("the proxy has got %q instead of %q", f.requests, want)
			}
			f.mu.Unlock()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}

	t.Run("refused", func(t *testing.T) {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "not there", http.StatusProxyAuthRequired)
		}))
		defer proxy.Close()
		u, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}
		defer client.CloseIdleConnections()
		_, err = Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client})
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != http.StatusProxyAuthRequired {
			t.Errorf("ws: %v", err)
		}
		// Here the answer is one to CONNECT and an error of net/http's.
		_, err = Dial(t.Context(), "wss://h.example", &Options{HTTPClient: client})
		if _, ok := errors.AsType[*HandshakeError](err); ok || err == nil || !strings.Contains(err.Error(), "Proxy Authentication Required") {
			t.Errorf("wss: %v", err)
		}
	})

	t.Run("SOCKS5", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		proxied := goErr(func() error {
			in, err := ln.Accept()
			if err != nil {
				return err
			}
			defer in.Close()
			// RFC 1928: one method, no authentication; CONNECT to a name.
			b := make([]byte, 3)
			if _, err := io.ReadFull(in, b); err != nil || !bytes.Equal(b, []byte{5, 1, 0}) {
				return fmt.Errorf("greeted with % x, %v", b, err)
			}
			in.Write([]byte{5, 0})
			b = make([]byte, 5+len("h.example")+2)
			if _, err := io.ReadFull(in, b); err != nil || string(b) != "\x05\x01\x00\x03\x09h.example\x00\x50" {
				return fmt.Errorf("asked for %q, %v", b, err)
			}
			in.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
			out, err := net.Dial("tcp", plain.Listener.Addr().String())
			if err != nil {
				return err
			}
			joinConns(in, out)
			return nil
		})
		transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: ln.Addr().String()})}
		c, err := Dial(t.Context(), "ws://h.example/", &Options{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		checkEchoes(t, c)
		c.Close()
		if err := wait(t, proxied); err != nil {
			t.Error(err)
		}
	})
}

// A hostileServer answers with what is not an opening handshake.
type hostileServer struct {
	name   string
	answer string
	repeat string // follows without an end
	end    bool   // the server closes the connection behind it
	status int    // of the HandshakeError, or 0 for another error
	field  string
	text   string // within the error; if empty, only Dial's or ClientHandshake's own words matter
	body   string // of the refusal
	pooled bool   // the connection can serve another request
}

// hostileServers returns servers that no client may take for one of WebSocket (RFC
// 6455, section 4.1).
func hostileServers() (all []hostileServer) {
	const upgrade, connection, accept = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n", "Sec-WebSocket-Accept: {accept}\r\n"
	bad := func(name, field, text string, fields ...string) {
		all = append(all, hostileServer{name: name, status: 101, field: field, text: text,
			answer: "HTTP/1.1 101 Switching Protocols\r\n" + strings.Join(fields, "") + "\r\n"})
	}
	const wrong, offered = "does not fit the key", "that was not offered"
	bad("no accept value", "Sec-WebSocket-Accept", wrong, upgrade, connection)
	bad("empty accept value", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept:\r\n")
	bad("accept value for another key", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
	bad("longer accept value", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept: {accept}=\r\n")
	bad("accept values in a list", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept: {accept}, {accept}\r\n")
	bad("accept value repeated", "Sec-WebSocket-Accept", "is repeated", upgrade, connection, accept, accept)
	bad("no Upgrade", "Upgrade", "is not websocket", connection, accept)
	bad("empty Upgrade", "Upgrade", "is not websocket", "Upgrade:\r\n", connection, accept)
	bad("other Upgrade", "Upgrade", "is not websocket", "Upgrade: websocket2\r\n", connection, accept)
	bad("no Connection", "Connection", "does not hold upgrade", upgrade, accept)
	bad("other Connection", "Connection", "does not hold upgrade", upgrade, "Connection: close\r\n", accept)
	bad("subprotocol", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol: super\r\n")
	bad("subprotocol in other case", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol: CHAT\r\n")
	bad("empty subprotocol", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol:\r\n")
	bad("two subprotocols", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol: chat, more\r\n")
	bad("subprotocol repeated", "Sec-WebSocket-Protocol", "is repeated", upgrade, connection, accept, "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n")
	bad("extension", "Sec-WebSocket-Extensions", offered, upgrade, connection, accept, "Sec-WebSocket-Extensions: permessage-deflate\r\n")

	refuse := func(name string, status int, fields, body, want string, pooled, end bool) {
		all = append(all, hostileServer{name: name, status: status, text: fmt.Sprint("the server answered ", status), body: want, pooled: pooled, end: end,
			answer: fmt.Sprintf("HTTP/1.1 %d What\r\nX-Why: because\r\n%s\r\n%s", status, fields, body)})
	}
	length := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(body)) }
	long := strings.Repeat("body ", 1000)
	refuse("200", 200, length("hello"), "hello", "hello", true, false)
	refuse("200 with the fields of 101", 200, upgrade+connection+accept+length("hello"), "hello", "hello", true, false)
	refuse("204", 204, "", "", "", true, false)
	refuse("401", 401, "WWW-Authenticate: Basic\r\n"+length("no"), "no", "no", true, false)
	refuse("404 to the end", 404, "", "nowhere", "nowhere", false, true)
	refuse("404 in chunks", 404, "Transfer-Encoding: chunked\r\n", "3\r\nnow\r\n4\r\nhere\r\n0\r\n\r\n", "nowhere", true, false)
	refuse("404 without an end", 404, "", "nowhere", "nowhere", false, false)
	refuse("426", 426, "Sec-WebSocket-Version: 8\r\n"+length(""), "", "", true, false)
	refuse("500 with a long body", 500, length(long), long, long[:maxRefusal], false, true)
	refuse("500 cut short", 500, length(long), "body", "body", false, true)
	refuse("599", 599, length(""), "", "", true, false)

	other := func(name, answer, text string, end bool) {
		all = append(all, hostileServer{name: name, answer: answer, text: text, end: end})
	}
	other("nothing", "", "EOF", true)
	other("silence", "", "", false)
	other("no end of the head", accepting[:len(accepting)-2], "", false)
	other("garbage", "\x00\x01\x02\r\n\r\n", "malformed HTTP", false)
	other("SSH", "SSH-2.0-OpenSSH_9.9\r\n", "malformed HTTP", false)
	other("a frame", "\x81\x05hello\r\n\r\n", "malformed HTTP", false)
	other("HTTP/x", "HTTP/x.y 101 Switching Protocols\r\n\r\n", "malformed HTTP version", false)
	other("no status", "HTTP/1.1 abc Switching Protocols\r\n\r\n", "malformed HTTP status", false)
	other("no colon", "HTTP/1.1 101 Switching Protocols\r\nUpgrade websocket\r\n\r\n", "malformed MIME header", false)
	other("interim response only", "HTTP/1.1 100 Continue\r\n\r\n", "", false)

	const status = "HTTP/1.1 101 Switching Protocols\r\n"
	endless := func(name, answer, repeat string) {
		all = append(all, hostileServer{name: name, answer: answer, repeat: repeat})
	}
	endless("endless status line", "HTTP/1.1 101 ", "x")
	endless("endless field name", status, "x")
	endless("endless value", status+"X: ", "x")
	endless("endless fields", status, "X: y\r\n")
	endless("endless folded value", status+"X: ", "y\r\n ")
	endless("endless interim responses", "", "HTTP/1.1 103 Early Hints\r\n\r\n")
	endless("endless zeros", "", "\x00")
	all = append(all,
		hostileServer{name: "endless body", answer: "HTTP/1.1 404 Not Found\r\nX-Why: because\r\n\r\n", repeat: "body ", status: 404, text: "404 Not Found", body: long[:maxRefusal]},
		hostileServer{name: "endless chunks", answer: "HTTP/1.1 404 Not Found\r\nX-Why: because\r\nTransfer-Encoding: chunked\r\n\r\n", repeat: "a\r\nbody body \r\n", status: 404, text: "404 Not Found", body: "body "})
	return all
}

// TestHostileServers finds that clients fail with a clear error, in time, within bounds
// of memory, and without leaving anything behind.
func TestHostileServers(t *testing.T) {
	const timeout, most = 3 * time.Second, 1 << 20
	for _, test := range hostileServers() {
		for _, via := range connectors {
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					received := make(chan string, 1) // what the client sends after its request
					serve := func(conn net.Conn) {
						text := answerTo(readHead(conn), test.answer)
						rest := make(chan string, 1)
						go func() {
							b, _ := io.ReadAll(conn)
							rest <- string(b)
						}()
						conn.Write(text)
						if test.repeat != "" {
							many := []byte(strings.Repeat(test.repeat, 4096/len(test.repeat)))
							for n := 0; n < 16<<20; n += len(many) {
								if _, err := conn.Write(many); err != nil {
									break
								}
							}
						}
						if test.end {
							conn.Close()
						}
						received <- <-rest
					}
					o := &Options{HandshakeTimeout: timeout, Protocols: []string{"chat"}}
					var stream, peer net.Conn
					var c *Conn
					var err error
					start := time.Now()
					size := allocated(func() {
						if via.name == "Dial" {
							o.HTTPClient = memoryClient(t, serve)
							c, err = Dial(t.Context(), "ws://h.example", o)
						} else {
							stream, peer = net.Pipe()
							go func() {
								defer peer.Close()
								serve(peer)
							}()
							c, err = ClientHandshake(stream, "ws://h.example", o)
						}
					})
					if c != nil || err == nil {
						t.Fatalf("%v, %v", c, err)
					}
					if !strings.Contains(err.Error(), test.text) {
						t.Errorf("the error is %q instead of %q", err, test.text)
					}
					if size > most {
						t.Errorf("%d bytes were allocated", size)
					}
					if d := time.Since(start); d > timeout {
						t.Errorf("it took %v", d)
					} else if n, ok := errors.AsType[net.Error](err); d == timeout && test.status == 0 && !(ok && n.Timeout()) {
						t.Errorf("after the timeout the error is %v", err)
					}
					e, _ := errors.AsType[*HandshakeError](err)
					switch {
					case test.status == 0:
						if e != nil && !strings.Contains(e.Reason, "8 KiB") {
							t.Errorf("the error is %#v", e)
						}
					case e == nil || e.Status != test.status || e.Field != test.field:
						t.Errorf("the error is %#v instead of %d because of %q", err, test.status, test.field)
					case test.status == 101:
						if e.Response != nil {
							t.Errorf("the response is %v", e.Response)
						}
					default:
						if e.Response == nil || e.Response.StatusCode != test.status || e.Response.Header.Get("X-Why") != "because" {
							t.Fatalf("the refusal is %v", e.Response)
						}
						b, err := io.ReadAll(e.Response.Body)
						if !strings.HasPrefix(string(b), test.body) || len(b) > maxRefusal || test.repeat == "" && len(b) != len(test.body) || err != nil {
							t.Errorf("its body is %.20q (%d bytes), %v instead of %.20q (%d bytes)", b, len(b), err, test.body, len(test.body))
						}
					}

					// Dial closes the connection, or leaves it to the http.Client for other
					// requests. ClientHandshake leaves its stream as it was.
					const more = "still open"
					if stream == nil {
						if test.pooled {
							synctest.Wait()
							o.HTTPClient.CloseIdleConnections()
						}
						if got := wait(t, received); got != "" {
							t.Errorf("the client has sent %q", got)
						}
						return
					}
					if !test.end {
						time.Sleep(time.Hour) // no deadline is left
						if _, err := io.WriteString(stream, more); err != nil {
							t.Errorf("the stream is closed: %v", err)
						}
					}
					stream.Close()
					if got := wait(t, received); !test.end && got != more {
						t.Errorf("the client has sent %q", got)
					}
				})
			})
		}
	}
}

// TestUnusualServers has responses that are valid, or that do no harm.
func TestUnusualServers(t *testing.T) {
	field := func(f string) string { return strings.Replace(accepting, "\r\n\r\n", "\r\n"+f+"\r\n\r\n", 1) }
	for _, test := range []struct{ name, answer string }{
		{"lower case", strings.NewReplacer("Upgrade: w", "upgrade: w", "Connection: U", "connection: u", "Sec-WebSocket-Accept", "sec-websocket-accept").Replace(accepting)},
		{"upper case", strings.NewReplacer("Upgrade: websocket", "UPGRADE: WEBSOCKET", "Connection: Upgrade", "CONNECTION: UPGRADE", "Sec-WebSocket-Accept", "SEC-WEBSOCKET-ACCEPT").Replace(accepting)},
		{"lists", strings.NewReplacer("Connection: Upgrade", "Connection: keep-alive, , upgrade", "Upgrade: websocket", "Upgrade: h2c, websocket").Replace(accepting)},
		{"white space", strings.NewReplacer(": {accept}", ":\t {accept} \t").Replace(accepting)},
		{"no white space", strings.ReplaceAll(accepting, ": ", ":")},
		{"LF", strings.ReplaceAll(accepting, "\r\n", "\n")},
		{"other phrase", strings.Replace(accepting, "Switching Protocols", "Web Socket Protocol Handshake", 1)},
		{"no phrase", strings.Replace(accepting, " Switching Protocols", "", 1)},
		{"Content-Length", field("Content-Length: 5")}, // means nothing (RFC 9110, section 8.6)
		{"Content-Length: 0", field("Content-Length: 0")},
		{"Transfer-Encoding", field("Transfer-Encoding: chunked")}, // likewise (RFC 9112, section 6.1)
		{"HTTP/1.0", strings.Replace(accepting, "HTTP/1.1", "HTTP/1.0", 1)},
		{"subprotocol", field("Sec-WebSocket-Protocol: chat")},
		{"Continue", "HTTP/1.1 100 Continue\r\n\r\n" + accepting},
		{"hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + accepting},
		{"long", field("X: " + strings.Repeat("x", 7000))},
	} {
		for _, via := range connectors {
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				c, err := via.connect(t, t.Context(), "ws://h.example", &Options{Protocols: []string{"chat"}}, func(conn net.Conn) {
					conn.Write(append(answerTo(readHead(conn), test.answer), firstFrames()...))
					h := newConn(conn, nil, false)
					echo(h)
					h.Close()
				})
				if err != nil {
					t.Fatal(err)
				}
				checkFirst(t, c)
				checkEchoes(t, c)
				if want := test.name == "subprotocol"; (c.Request().Protocol == "chat") != want {
					t.Errorf("the subprotocol is %q", c.Request().Protocol)
				}
				c.Close()
			})
		}
	}
}

// TestClientMasked sends a client masked frames (RFC 6455, section 5.1).
func TestClientMasked(t *testing.T) {
	for _, via := range connectors {
		frames := make(chan []byte, 1)
		c, err := via.connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
			conn.Write(append(answerTo(readHead(conn), accepting), appendFrame(nil, finBit|opText, []byte("x"), true)...))
			b, _ := io.ReadAll(conn)
			frames <- b
		})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = c.ReadMessage()
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != CloseProtocolError {
			t.Errorf("%s: %v", via.name, err)
		}
		c.Close()
		got := parseSent(t, c, wait(t, frames))
		if len(got) != 1 || got[0].opcode != opClose || !strings.HasPrefix(got[0].payload, closing(CloseProtocolError, "")) {
			t.Errorf("%s: the client has sent %q", via.name, got)
		}
	}
}

// TestClientArguments finds faults before anything is sent.
func TestClientArguments(t *testing.T) {
	header := func(name, value string) *Options { return &Options{Header: http.Header{name: {value}}} }
	type argument struct {
		url  string
		o    *Options
		text string
	}
	const u = "ws://h.example/"
	tests := []argument{
		{"", nil, "scheme"},
		{"h.example", nil, "scheme"},
		{"//h.example/", nil, "scheme"},
		{"/path", nil, "scheme"},
		{"ftp://h.example/", nil, "scheme"},
		{"wsx://h.example/", nil, "scheme"},
		{"ws:", nil, "no host"},
		{"ws:/path", nil, "no host"},
		{"ws:h.example", nil, "no host"},
		{"ws:///path", nil, "no host"},
		{"ws://user@/path", nil, "no host"},
		{u + "#", nil, "fragment"}, // RFC 6455, section 3
		{u + "#a", nil, "fragment"},
		{u + "?#a", nil, "fragment"},
		{u + "\r\nX: y", nil, "control character"},
		{u + "\x00", nil, "control character"},
		{u + "?\x7f", nil, "control character"},
		{"ws://h.example\n/", nil, "control character"},
		{"ws://h example/", nil, "invalid character"},
		{"ws://h.example:port/", nil, "invalid port"},
		{"ws://[::1/", nil, "]"},
		{u + "%zz", nil, "invalid URL escape"},
		{u, header("X", "a\r\nY: b"), "control character"},
		{u, header("X", "a\nb"), "control character"},
		{u, header("X", "\x00"), "control character"},
		{u, header("X", "\x7f"), "control character"},
		{u, header("Host", "h\r\nX: y"), "control character"},
		{u, header("Origin", "a\rb"), "control character"},
		{u, header("", "a"), "must not have"},
		{u, header("X Y", "a"), "must not have"},
		{u, header("X:", "a"), "must not have"},
		{u, header("X\r\nY", "a"), "must not have"},
		{u, header("Ä", "a"), "must not have"},
		{u, &Options{Protocols: []string{"chat", "chat"}}, "twice"},
	}
	for _, name := range []string{"Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer", "Sec-WebSocket-Key",
		"Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Sec-WebSocket-Accept"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			tests = append(tests, argument{u, header(name, "a"), "must not have the field"})
		}
	}
	for _, p := range []string{"", " ", "a b", "a,b", "a\r\nb", "ä", "a/b", "\"a\""} {
		tests = append(tests, argument{u, &Options{Protocols: []string{"chat", p}}, "no token"})
	}
	for _, test := range tests {
		for _, via := range connectors {
			c, err := via.connect(t, t.Context(), test.url, test.o, func(conn net.Conn) {
				if head := readHead(conn); head != "" {
					t.Errorf("%s(%q, %+v) has sent %q", via.name, test.url, test.o, head)
				}
			})
			if c != nil || err == nil || !strings.HasPrefix(err.Error(), "websocket: ") || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%s(%q, %+v): %v instead of %q", via.name, test.url, test.o, err, test.text)
			}
			if _, ok := errors.AsType[*HandshakeError](err); ok && test.o == nil {
				t.Errorf("%s(%q) blames the server: %v", via.name, test.url, err)
			}
		}
	}
}

// A roundTripper is an http.RoundTripper that is not net/http's.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// serveUpgrade is the response to r of a server whose connection is body.
func serveUpgrade(r *http.Request, body io.ReadCloser) *http.Response {
	head := fmt.Sprintf("GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: %s\r\n\r\n", r.Header.Get("Sec-WebSocket-Key"))
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answerTo(head, accepting))), r)
	if err != nil {
		panic(err)
	}
	resp.Body = body
	return resp
}

// closeFlag counts how often it is closed.
type closeFlag struct {
	io.Reader
	closed int
}

func (c *closeFlag) Close() error { c.closed++; return nil }

// TestDialTransport dials through all kinds of http.RoundTripper.
func TestDialTransport(t *testing.T) {
	t.Run("Unix socket", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Skip(err)
		}
		s := &http.Server{Handler: echoHandler(nil)}
		go s.Serve(ln)
		defer s.Close()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if _, ok := c.rw.(*net.UnixConn); !ok || c.raw == nil && runtime.GOOS != "windows" {
			t.Errorf("the transport is a %T", c.rw)
		}
		checkEchoes(t, c)
		checkDeadline(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("no keep-alive", func(t *testing.T) {
		s := httptest.NewServer(echoHandler(nil))
		defer s.Close()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, MaxConnsPerHost: 2}}
		for range 3 {
			c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(err)
			}
			checkEchoes(t, c)
			c.Close()
		}
	})

	t.Run("wrapped", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Added") != "1" {
				t.Errorf("the server has got %v", r.Header)
			}
			echoHandler(nil)(w, r)
		}))
		defer s.Close()
		transport := new(http.Transport)
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Header.Set("X-Added", "1")
			return transport.RoundTrip(r)
		})}
		c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if _, ok := c.rw.(*net.TCPConn); !ok {
			t.Errorf("the transport is a %T", c.rw)
		}
		checkEchoes(t, c)
		if c.Request().Header.Get("X-Added") != "" {
			t.Error("the RoundTripper has changed the request")
		}
		c.Close()
	})

	for _, deadlines := range []bool{true, false} {
		t.Run(fmt.Sprint("own connection/deadlines=", deadlines), func(t *testing.T) {
			a, b := net.Pipe()
			served := goErr(func() error {
				h := newConn(b, nil, false)
				defer h.Close()
				return echo(h)
			})
			client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if deadlines {
					return serveUpgrade(r, a), nil
				}
				return serveUpgrade(r, struct{ io.ReadWriteCloser }{a}), nil
			})}
			c, err := Dial(t.Context(), "wss://h.example", &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(err)
			}
			checkEchoes(t, c)
			if deadlines {
				checkDeadline(t, c)
			} else if err := c.SetReadDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
				t.Errorf("SetReadDeadline: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := wait(t, served); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	}

	t.Run("body is no writer", func(t *testing.T) {
		body := &closeFlag{Reader: strings.NewReader("x")}
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return serveUpgrade(r, body), nil
		})}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client})
		if e, ok := errors.AsType[*HandshakeError](err); c != nil || !ok || !strings.Contains(e.Reason, "does not give access to the connection") {
			t.Errorf("%v, %v", c, err)
		}
		if body.closed != 1 {
			t.Errorf("the body was closed %d times", body.closed)
		}
	})

	t.Run("error", func(t *testing.T) {
		no := errors.New("no network")
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return nil, no })}
		if c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client}); c != nil || !errors.Is(err, no) {
			t.Errorf("%v, %v", c, err)
		}
	})

	t.Run("refused connection", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		c, err := Dial(t.Context(), "ws://"+ln.Addr().String(), nil)
		if _, ok := errors.AsType[*net.OpError](err); c != nil || !ok {
			t.Errorf("%v, %v", c, err)
		}
	})
}

// TestClientHandshake shakes hands over streams of all kinds.
func TestClientHandshake(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS() // for its certificate
	s.Close()
	for _, test := range []struct {
		name string
		open func(t *testing.T) (server, client net.Conn)
		wrap func(client, server net.Conn) (io.ReadWriter, net.Conn)
		idle bool // waits without a buffer
	}{
		{"pipe", nil, nil, false},
		{"TCP", func(t *testing.T) (_, _ net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") }, nil, true},
		{"TLS", func(t *testing.T) (_, _ net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") }, func(client, server net.Conn) (io.ReadWriter, net.Conn) {
			roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			return tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "example.com"}),
				tls.Server(server, &tls.Config{Certificates: s.TLS.Certificates})
		}, false},
		{"io.ReadWriter", nil, func(client, server net.Conn) (io.ReadWriter, net.Conn) { return noClose{client}, server }, false},
		{"one byte a read", nil, func(client, server net.Conn) (io.ReadWriter, net.Conn) {
			return struct {
				io.Reader
				io.Writer
			}{iotest.OneByteReader(client), client}, server
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := test.open
			if open == nil {
				open = func(t *testing.T) (_, _ net.Conn) { return net.Pipe() }
			}
			server, client := open(t)
			defer server.Close()
			defer client.Close()
			rw := io.ReadWriter(client)
			if test.wrap != nil {
				rw, server = test.wrap(client, server)
			}
			served := goErr(func() error {
				h := NewConn(server, nil)
				req, err := GetRequest(h)
				if err != nil {
					return err
				}
				server.Write(append(CreateResponse(req), firstFrames()...))
				return echo(newConn(server, nil, false))
			})
			c, err := ClientHandshake(rw, "wss://h.example/chat", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.raw != nil; got != (test.idle && runtime.GOOS != "windows") {
				t.Errorf("waits on the socket: %v", got)
			}
			checkFirst(t, c)
			checkEchoes(t, c)
			if d, ok := rw.(net.Conn); ok {
				checkDeadline(t, c)
				if c.RemoteAddr() != d.RemoteAddr() || c.LocalAddr() != d.LocalAddr() {
					t.Errorf("the addresses are %v and %v", c.LocalAddr(), c.RemoteAddr())
				}
			} else if err := c.SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
				t.Errorf("SetDeadline: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			client.Close() // which c cannot do in all cases
			if err := wait(t, served); !errors.Is(err, io.EOF) {
				t.Errorf("the server ended with %v", err)
			}
		})
	}
}

// TestClientHandshakeSize has responses of the largest size that is accepted, and larger,
// with frames behind them.
func TestClientHandshakeSize(t *testing.T) {
	for size := maxHead - 2; size <= maxHead+2; size++ {
		c, err := connectors[1].connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
			b := answerTo(readHead(conn), strings.TrimSuffix(accepting, "\r\n")+"X: ")
			b = append(b, strings.Repeat("x", size-len(b)-4)...)
			b = append(b, "\r\n\r\n"...)
			if len(b) != size {
				t.Errorf("the head has %d bytes", len(b))
			}
			conn.Write(append(b, firstFrames()...))
			io.Copy(io.Discard, conn)
		})
		if size <= maxHead {
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			checkFirst(t, c)
			c.CloseNow()
		} else if e, ok := errors.AsType[*HandshakeError](err); !ok || !strings.Contains(e.Reason, "8 KiB") {
			t.Errorf("%d bytes: %v, %v", size, c, err)
		}
	}
}

// TestClientHandshakeWrite has a stream that takes no request.
func TestClientHandshakeWrite(t *testing.T) {
	broken := errors.New("broken")
	rw := struct {
		io.Reader
		io.Writer
	}{strings.NewReader(""), writeFunc(func([]byte) (int, error) { return 0, broken })}
	if c, err := ClientHandshake(rw, "ws://h.example", nil); c != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestDialClose closes connections from either side, served and not.
func TestDialClose(t *testing.T) {
	for _, test := range []struct {
		name    string
		server  bool // closes first
		serve   bool // the client runs Serve
		code    CloseCode
		reason  string
		orderly bool
	}{
		{"client", false, false, CloseNormal, "", true},
		{"client with a code", false, false, 4000, "enough", false},
		{"client without a code", false, false, CloseNoStatus, "", true},
		{"client in Serve", false, true, CloseGoingAway, "bye", true},
		{"server", true, false, CloseGoingAway, "restart", true},
		{"server with a code", true, false, ClosePolicyViolation, "no", false},
		{"server without a code", true, false, CloseNoStatus, "", true},
		{"server, client in Serve", true, true, 4999, "enough", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ended := make(chan error, 1)
			s := httptest.NewServer(&Server{Handler: Handler{
				OnMessage: func(c *Conn, typ MessageType, p []byte) {
					c.WriteMessage(typ, p)
					if test.server {
						c.CloseWith(test.code, test.reason)
					}
				},
				OnClose: func(_ *Conn, err error) { ended <- err },
			}})
			defer s.Close()
			c, err := Dial(t.Context(), s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			var calls []string
			if test.serve {
				err = c.Serve(Handler{
					OnOpen: func(c *Conn) { calls = append(calls, "open"); c.WriteMessage(Text, []byte("hello")) },
					OnMessage: func(c *Conn, typ MessageType, p []byte) {
						calls = append(calls, string(p))
						if !test.server {
							c.CloseWith(test.code, test.reason)
						}
					},
					OnClose: func(*Conn, error) { calls = append(calls, "close") },
				})
				if want := []string{"open", "hello", "close"}; !slices.Equal(calls, want) {
					t.Errorf("Serve has called %q instead of %q", calls, want)
				}
			} else {
				c.WriteMessage(Text, []byte("hello"))
				if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
					t.Fatalf("read %q, %v", p, err)
				}
				if !test.server {
					if err := c.CloseWith(test.code, test.reason); err != nil {
						t.Error(err)
					}
				}
				_, _, err = c.ReadMessage()
			}
			for side, err := range map[string]error{"client": err, "server": wait(t, ended)} {
				e, ok := errors.AsType[*CloseError](err)
				if !ok || e.Code != test.code || e.Reason != test.reason {
					t.Errorf("%s: %v instead of %v %q", side, err, test.code, test.reason)
				}
				if errors.Is(err, io.EOF) != test.orderly {
					t.Errorf("%s: orderly is %v", side, !test.orderly)
				}
				if errors.Is(err, net.ErrClosed) == ((side == "server") != test.server) {
					t.Errorf("%s: %v does not tell who has closed", side, err)
				}
			}
			if err := c.WriteMessage(Text, nil); err == nil {
				t.Error("a write after the end succeeds")
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDialCut has servers that close the connection after every number of bytes.
func TestDialCut(t *testing.T) {
	type unit struct {
		b       []byte
		message string
	}
	units := []unit{
		{appendFrame(nil, finBit|opText, []byte("one"), false), "one"},
		{appendFrame(nil, finBit|opPing, []byte("p"), false), ""},
		{appendFrame(nil, opText, []byte("tw"), false), ""},
		{appendFrame(nil, finBit|opContinuation, []byte("o"), false), "two"},
		{appendFrame(nil, finBit|opClose, []byte(closing(4001, "x")), false), ""},
	}
	for _, network := range []string{"pipe", "TCP"} {
		head := len(accepting) - len("{accept}") + 28
		end := head
		for _, u := range units {
			end += len(u.b)
		}
		var mu sync.Mutex
		cut := 0
		serve := func(conn net.Conn) {
			b := answerTo(readHead(conn), accepting)
			for _, u := range units {
				b = append(b, u.b...)
			}
			mu.Lock()
			b = b[:cut]
			mu.Unlock()
			conn.Write(b)
			if tcp, ok := conn.(*net.TCPConn); ok && len(b) >= head {
				tcp.CloseWrite() // an end instead of a reset when the client's pong comes
			}
			if _, ok := conn.(*net.TCPConn); ok && len(b) >= head || len(b) == end {
				io.Copy(io.Discard, conn)
			}
			conn.Close()
		}
		ways := connectors
		if network == "TCP" {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan bool)
			go func() {
				defer close(done)
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					serve(conn)
				}
			}()
			defer func() { ln.Close(); <-done }()
			ways = []connector{{"Dial", func(t testing.TB, ctx context.Context, _ string, o *Options, _ func(net.Conn)) (*Conn, error) {
				return Dial(ctx, "ws://"+ln.Addr().String(), o)
			}}}
		}
		for _, via := range ways {
			for n := range end + 1 {
				mu.Lock()
				cut = n
				mu.Unlock()
				c, err := via.connect(t, t.Context(), "ws://h.example", &Options{HandshakeTimeout: 20 * time.Second}, serve)
				if n < head {
					if timeout, ok := errors.AsType[net.Error](err); c != nil || err == nil || ok && timeout.Timeout() {
						t.Fatalf("%s over %s, %d bytes: %v, %v", via.name, network, n, c, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s over %s, %d bytes: %v", via.name, network, n, err)
				}
				c.SetReadDeadline(time.Now().Add(20 * time.Second))
				// What is whole is read. Then the end is within a frame or a message,
				// or between two.
				var want []string
				within := false
				rest := n - head
				for i, u := range units {
					if rest < len(u.b) {
						within = rest > 0 || i == 3
						break
					}
					rest -= len(u.b)
					if u.message != "" {
						want = append(want, u.message)
					}
				}
				var got []string
				for {
					var p []byte
					if _, p, err = c.ReadMessage(); err != nil {
						break
					}
					got = append(got, string(p))
				}
				closed, ok := errors.AsType[*CloseError](err)
				switch {
				case !slices.Equal(got, want):
					t.Errorf("%s over %s, %d bytes: read %q instead of %q", via.name, network, n, got, want)
				case n == end && (!ok || closed.Code != 4001),
					n < end && within && !errors.Is(err, io.ErrUnexpectedEOF),
					n < end && !within && err != io.EOF:
					t.Errorf("%s over %s, %d of %d bytes: %v", via.name, network, n, end, err)
				}
				c.CloseNow()
			}
		}
	}
}

// TestClientHandshakeCut ends the response within a line. http.ReadResponse then finds
// fault with the line and keeps the transport's error to itself.
func TestClientHandshakeCut(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(net.Conn)
		want error
	}{
		{"timeout", func(conn net.Conn) { io.Copy(io.Discard, conn) }, os.ErrDeadlineExceeded},
		{"end", func(net.Conn) {}, io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for cut := range accepting {
					a, b := net.Pipe()
					go func() {
						answer(b, accepting[:cut])
						test.end(b)
						b.Close()
					}()
					_, err := ClientHandshake(a, "ws://h.example", &Options{HandshakeTimeout: time.Second})
					if !errors.Is(err, test.want) {
						t.Errorf("after %q: %v instead of %v", accepting[:cut], err, test.want)
					}
					a.Close()
				}
			})
		})
	}
}

// TestClientHandshakeInterim sends informational responses ahead of the final one, which
// every client has to be able to parse (RFC 9110, section 15.2).
func TestClientHandshakeInterim(t *testing.T) {
	for _, via := range connectors {
		t.Run(via.name, func(t *testing.T) {
			c, err := via.connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
				answer(conn, "HTTP/1.1 100 Continue\r\n\r\n"+
					"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"+
					accepting)
				h := newConn(conn, nil, false)
				echo(h)
				h.Close()
			})
			if err != nil {
				t.Fatal(err)
			}
			checkEchoes(t, c)
			c.Close()
		})
	}
}

// TestDialNestedRequest has an http.Client that, once the server has answered, sends a
// request of its own with the same context. The Conn has to speak over the connection
// that the handshake took.
func TestDialNestedRequest(t *testing.T) {
	ws := httptest.NewServer(echoHandler(nil))
	defer ws.Close()
	log := httptest.NewServer(http.NotFoundHandler())
	defer log.Close()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: clientFunc(func(r *http.Request) (*http.Response, error) {
		resp, err := transport.RoundTrip(r)
		if note, err := http.NewRequestWithContext(r.Context(), "GET", log.URL, nil); err == nil {
			if resp, err := transport.RoundTrip(note); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
		return resp, err
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, ws.URL, &Options{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if got, want := c.RemoteAddr().String(), ws.Listener.Addr().String(); got != want {
		t.Fatalf("the Conn speaks to %s instead of %s", got, want)
	}
	checkEchoes(t, c)
}

type clientFunc func(*http.Request) (*http.Response, error)

func (f clientFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestDialNoHost has URLs with a port or a user, but without a host, which net/http would
// take for this machine (RFC 9110, section 4.2.1).
func TestDialNoHost(t *testing.T) {
	for _, u := range []string{"ws://:80/", "ws://u:p@:80", "wss://:"} {
		client := &http.Client{Transport: clientFunc(func(r *http.Request) (*http.Response, error) {
			return nil, errors.New("sent")
		})}
		if _, err := Dial(t.Context(), u, &Options{HTTPClient: client}); err == nil || !strings.Contains(err.Error(), "has no host") {
			t.Errorf("Dial(%q): %v", u, err)
		}
	}
}

// TestClientHost has values for Host that net/http would replace by an empty one.
func TestClientHost(t *testing.T) {
	for _, host := range []string{"a b", "a/b", "a\tb", "ä b", "a\"b"} {
		for _, via := range connectors {
			heads := make(chan string, 1)
			c, err := via.connect(t, t.Context(), "ws://h.example/", &Options{Header: http.Header{"Host": {host}}}, func(conn net.Conn) {
				heads <- answer(conn, accepting)
				io.Copy(io.Discard, conn)
			})
			if err == nil {
				t.Errorf("%s with Host %q sent %q", via.name, host, <-heads)
				c.CloseNow()
			}
		}
	}
}

// TestClientPassword finds no password in errors, which go to logs.
func TestClientPassword(t *testing.T) {
	for _, u := range []string{"ws://u:secret@h/#a", "ftp://u:secret@h/", "ws://u:secret@", "ws://u:secret@h/%zz", "ws://u:secret@h:x/"} {
		if _, err := ClientHandshake(nil, u, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

// TestDialReferer follows a redirect. A URL of TLS does not go out in plain text.
func TestDialReferer(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"wss", "ws", ""},
		{"wss", "WS", ""},
		{"wss", "http", ""},
		{"https", "ws", ""},
		{"wss", "wss", "https://a.example/?token=secret"},
		{"wss", "https", "https://a.example/?token=secret"},
		{"ws", "ws", "http://a.example/?token=secret"},
		{"ws", "wss", "http://a.example/?token=secret"},
	} {
		referers := make(chan string, 1)
		client := memoryClient(t, func(conn net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			switch {
			case err != nil:
				t.Error(err)
			case r.Host == "a.example":
				fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s://b.example/\r\nContent-Length: 0\r\n\r\n", test.to)
			default:
				referers <- r.Referer()
				io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
			}
		})
		_, err := Dial(t.Context(), test.from+"://a.example/?token=secret", &Options{HTTPClient: client})
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 404 {
			t.Fatalf("from %s to %s: %v", test.from, test.to, err)
		}
		if got := <-referers; got != test.want {
			t.Errorf("from %s to %s: Referer %q, want %q", test.from, test.to, got, test.want)
		}
	}
}

// A deafConn has read deadlines that do nothing, as some tunnels do, and counts what is read.
type deafConn struct {
	net.Conn
	read atomic.Int64
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (*deafConn) SetDeadline(time.Time) error     { return nil }
func (*deafConn) SetReadDeadline(time.Time) error { return nil }

// TestDialDeaf dials a server that sends much at once, over a connection that does not tell
// what came together with the response. Dial takes no more of it than it needs.
func TestDialDeaf(t *testing.T) {
	dial := func(t *testing.T, messages int) (*Conn, *deafConn, error) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close() })
		go func() {
			defer b.Close()
			answer(b, accepting)
			h := newConn(b, nil, false)
			for i := range messages {
				h.WriteMessage(Binary, bytes.Repeat([]byte{byte(i)}, 9999))
			}
			echo(h)
		}()
		conn := &deafConn{Conn: a}
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}, HandshakeTimeout: time.Second})
		return c, conn, err
	}
	t.Run("much", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const messages = 400
			c, conn, err := dial(t, messages)
			if err != nil {
				t.Fatal(err)
			}
			if n := conn.read.Load(); n > maxEarly+8<<10 {
				t.Errorf("Dial has read %d bytes", n)
			}
			for i := range messages {
				if _, p, err := c.ReadMessage(); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{byte(i)}, 9999)) {
					t.Fatalf("message %d: %d bytes, %v", i, len(p), err)
				}
			}
			checkEchoes(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			c, _, err := dial(t, 0)
			if c != nil || err != context.DeadlineExceeded || time.Since(start) != time.Second {
				t.Errorf("%v, %v after %v", c, err, time.Since(start))
			}
		})
	})
}

// TestClientURLErrors has errors show the URL as the caller has given it, apart from a
// password.
func TestClientURLErrors(t *testing.T) {
	for u, text := range map[string]string{
		"ftp://h/":               `the scheme of "ftp://h/"`,
		"ws:///path":             `the URL "ws:///path" has no host`,
		"wss:///path":            `the URL "wss:///path" has no host`,
		"https:///path":          `the URL "https:///path" has no host`,
		"ws://h/#a":              `the URL "ws://h/#a" has a fragment`,
		"wss://u:secret@h/?q#a":  `the URL "wss://u:xxxxx@h/?q#a" has a fragment`,
		"http://u:secret@h/?q#a": `the URL "http://u:xxxxx@h/?q#a" has a fragment`,
	} {
		_, err := Dial(t.Context(), u, nil)
		_, err2 := ClientHandshake(nil, u, nil)
		for _, err := range []error{err, err2} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%q: %v, want %s", u, err, text)
			}
		}
	}
}

// TestDialLargeBuffer dials through a Transport that reads much together with the response.
// The Conn has deadlines nonetheless.
func TestDialLargeBuffer(t *testing.T) {
	for _, size := range []int{maxEarly - 1000, maxEarly, 4 * maxEarly} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				defer b.Close()
				text := accepting + string(appendFrame(nil, finBit|opText, []byte(strings.Repeat("x", size)), false))
				b.Write(answerTo(readHead(b), text))
				echo(newConn(b, nil, false))
			}()
			transport := &http.Transport{
				ReadBufferSize: 1 << 20,
				DialContext:    func(context.Context, string, string) (net.Conn, error) { return a, nil },
			}
			c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}})
			if err != nil {
				t.Fatal(err)
			}
			if _, p, err := c.ReadMessage(); err != nil || string(p) != strings.Repeat("x", size) {
				t.Errorf("%d bytes, %v", len(p), err)
			}
			checkDeadline(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
