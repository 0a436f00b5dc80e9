package websocket

import (
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
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// HTTP/2 without its CONNECT has no upgrade. Nor is there a response of HTTP/1.1 to it.
func TestUpgradeHTTP2Page(t *testing.T) {
	t.Parallel()
	u := newUpgrader(nil)
	s := httptest.NewUnstartedServer(u)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	for _, tt := range []struct {
		method string
		status int
		field  string
	}{
		{"GET", 426, ""},
		{"POST", 405, ""},
	} {
		r, err := http.NewRequest(tt.method, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		e := u.refused(t)
		if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != tt.status || string(body) != e.Reason+"\n" || e.Field != tt.field {
			t.Errorf("%s %s: %q, %v, error %+v", resp.Proto, resp.Status, body, err, e)
		}
		for _, name := range []string{"Connection", "Upgrade"} { // RFC 9113, section 8.2.2
			if got := resp.Header[name]; got != nil {
				t.Errorf("%s: %s %q", resp.Status, name, got)
			}
		}
	}
}

// TestUpgradeHTTP2 tests clients that come with the extended CONNECT of RFC 8441.
func TestUpgradeHTTP2(t *testing.T) {
	runHTTP2(t, []http2Test{
		{"echo", false, testHTTP2Echo},
		{"key", true, testHTTP2Key},
		{"refusals", true, testHTTP2Refuses},
		{"close", true, testHTTP2Close},
		{"read deadline", true, testHTTP2ReadDeadline},
		{"write deadline", true, testHTTP2WriteDeadline},
		{"deadlines of the server", true, testHTTP2ServerTimeouts},
		{"end of the stream", true, testHTTP2Ends},
		{"close while blocked", true, testHTTP2CloseBlocked},
		{"many streams", false, testHTTP2Streams},
		{"Server", true, testHTTP2Server},
		{"version in a refusal", true, testHTTP2Version},
		{"writer without deadlines", false, testHTTP2Recorder},
		{"handler returns", true, testHTTP2HandlerReturns},
		{"Close when the handler returns", false, testHTTP2LateClose},
		{"reset behind a busy reader", true, testHTTP2Reset},
		{"client that does not read", false, testHTTP2Unread},
		{"WriteByteTimeout", true, testHTTP2ByteTimeout},
		{"log", true, testHTTP2Log},
		{"ServeHTTPWith", true, testHTTP2Serve},
	})
}

func testHTTP2Echo(t *testing.T, certs []tls.Certificate) {
	requests := make(chan *Request, 1)
	c := openHTTP2(t, certs, serve2(&Options{Protocols: []string{"superchat"}, MaxMessage: -1}, func(h *Conn) {
		requests <- h.Request()
		echo(h)
	}), nil)
	resp, s := c.connect(t, "Origin", "https://example.com", "Sec-Websocket-Protocol", "chat, superchat")
	if resp.StatusCode != 200 || resp.Header.Get("Sec-Websocket-Protocol") != "superchat" || resp.Header.Get("Set-Cookie") != "a=1" ||
		resp.Header["Sec-Websocket-Accept"] != nil || len(resp.Header["Sec-Websocket-Protocol"]) != 1 ||
		resp.Header["Upgrade"] != nil || resp.Header["Connection"] != nil {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
	req := wait(t, requests)
	if req.Version != RFC6455 || req.Host != "example.com" || req.Path != "/chat?room=1" || req.Origin != "https://example.com" ||
		!req.Secure || req.Key != "" || req.Protocol != "superchat" || len(req.Protocols) != 2 {
		t.Errorf("%+v", req)
	}
	client := newConn(s, &Options{MaxMessage: -1}, true)
	for _, size := range []int{0, 1, 125, 126, 4096, 65535, 65536, 3 << 20} {
		p := bytes.Repeat([]byte("\x00\xff\r\n"), size/4+1)[:size]
		sent := goErr(func() error { return client.WriteMessage(Binary, p) })
		if typ, got, err := client.ReadMessage(); err != nil || typ != Binary || !bytes.Equal(got, p) {
			t.Fatalf("%d bytes: %v of %d, %v", size, typ, len(got), err)
		}
		if err := wait(t, sent); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

// Over HTTP/2 the key means nothing (RFC 8441, section 5), but a client that sends one may look
// for the answer.
func testHTTP2Key(t *testing.T, certs []tls.Certificate) {
	requests := make(chan *Request, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { requests <- h.Request() }), nil)
	const key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455, section 1.3
	keys := map[string]string{key: accept, "x": "", key + ", " + key: ""}
	for _, bad := range refusedKeys {
		if !strings.ContainsFunc(bad, isControl) {
			keys[bad] = ""
		}
	}
	for key, accept := range keys {
		resp, s := c.connect(t, "Sec-Websocket-Key", key)
		var want []string
		wantKey := ""
		if accept != "" {
			want, wantKey = []string{accept}, key
		}
		if got := resp.Header["Sec-Websocket-Accept"]; resp.StatusCode != 200 || !slices.Equal(got, want) {
			t.Errorf("key %.60q: %s, %q, want %q", key, resp.Status, got, want)
		}
		if req := wait(t, requests); req.Key != wantKey {
			t.Errorf("key %.60q: kept %q", key, req.Key)
		}
		s.Close()
	}
}

func testHTTP2Refuses(t *testing.T, certs []tls.Certificate) {
	u := newUpgrader(nil)
	c := openHTTP2(t, certs, u, nil)
	for _, tt := range []struct {
		field, value string
		status       int
	}{
		{"Origin", "https://evil.com", 403},
		{"Origin", "http://example.com", 403},
		{"Origin", "null", 403},
		{":protocol", "webtransport", 501},
		{":protocol", "WebSocket", 501},
		{"Sec-Websocket-Version", "", 426},
		{"Sec-Websocket-Version", "8", 426},
		{"Sec-Websocket-Protocol", "a b", 400},
		{"Sec-Websocket-Protocol", "a, a", 400},
	} {
		resp, s := c.connect(t, tt.field, tt.value)
		s.CloseWrite()
		body, err := io.ReadAll(resp.Body)
		e := u.refused(t)
		if resp.StatusCode != tt.status || e.Status != tt.status || err != nil || string(body) != e.Reason+"\n" ||
			tt.field != ":protocol" && !strings.EqualFold(e.Field, tt.field) {
			t.Errorf("%s %q: %s, %q, %v, error %+v", tt.field, tt.value, resp.Status, body, err, e)
		}
		if resp.Header["Upgrade"] != nil || resp.Header["Connection"] != nil {
			t.Errorf("%s has %v", resp.Status, resp.Header)
		}
	}
}

func testHTTP2Close(t *testing.T, certs []tls.Certificate) {
	ends := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		_, p, err := h.ReadMessage()
		if string(p) == "close" {
			err = h.CloseWith(4001, "server")
		}
		ends <- err
	}), nil)
	client, _ := c.open(t)
	if err := client.CloseWith(4000, "client"); err != nil {
		t.Error(err)
	}
	if ce, ok := errors.AsType[*CloseError](wait(t, ends)); !ok || ce.Code != 4000 || ce.Reason != "client" {
		t.Errorf("server: %v", ce)
	}

	client, _ = c.open(t)
	if err := client.WriteMessage(Text, []byte("close")); err != nil {
		t.Fatal(err)
	}
	_, _, err := client.ReadMessage()
	if ce, ok := errors.AsType[*CloseError](err); !ok || ce.Code != 4001 || ce.Reason != "server" {
		t.Errorf("client: %v", err)
	}
	if err := wait(t, ends); err != nil {
		t.Errorf("server: %v", err)
	}
	client.Close()

	// A client that does not answer is given up after a while.
	_, s := c.open(t)
	begun := time.Now()
	s.Write(toward(&Conn{}, opText, "close"))
	drained := goErr(func() error { _, err := io.Copy(io.Discard, s.ReadCloser); return err })
	if err := wait(t, ends); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != closeTimeout {
		t.Errorf("server: %v after %v", err, time.Since(begun))
	}
	wait(t, drained)
}

func testHTTP2ReadDeadline(t *testing.T, certs []tls.Certificate) {
	result := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		for i := range 3 {
			start := time.Now()
			h.SetReadDeadline(start.Add(time.Minute))
			if _, _, err := h.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
				result <- fmt.Errorf("%d: %v after %v", i, err, time.Since(start))
				return
			}
			result <- nil
		}
		h.SetReadDeadline(time.Time{})
		_, p, err := h.ReadMessage()
		if string(p) != "Hello" || err != nil {
			err = fmt.Errorf("got %q, %v", p, err)
		}
		result <- err
		h.WriteMessage(Text, []byte("bye"))
		echo(h)
	}), nil)
	client, s := c.open(t)
	for _, part := range []string{"\x81", "\x85\x37\xfa\x21\x3d\x7f", "\x9f\x4d\x51\x58"} {
		if err := waitLong(result); err != nil {
			t.Fatal(err)
		}
		io.WriteString(s, part)
	}
	if err := waitLong(result); err != nil {
		t.Fatal(err)
	}
	if _, p, err := client.ReadMessage(); string(p) != "bye" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	client.Close()
}

// waitLong is wait without a limit, for bubbles in which much time passes.
func waitLong[T any](ch <-chan T) T { return <-ch }

func testHTTP2WriteDeadline(t *testing.T, certs []tls.Certificate) {
	result := make(chan error, 3)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		start := time.Now()
		h.SetWriteDeadline(start.Add(time.Hour))
		result <- h.WriteMessage(Text, []byte("in time"))
		h.SetWriteDeadline(start.Add(time.Minute))
		err := h.WriteMessage(Binary, make([]byte, 1<<20))
		if d := time.Since(start); d != time.Minute {
			err = fmt.Errorf("%v after %v", err, d)
		}
		result <- err
		result <- h.WriteMessage(Text, nil)
	}), nil)
	c.open(t)
	if err := waitLong(result); err != nil {
		t.Error(err)
	}
	if err := waitLong(result); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a timeout", err)
	}
	// Then nothing can be written any more, which may not have been found out yet.
	if err := waitLong(result); err == nil {
		t.Error("a message can be sent after that")
	}
}

func testHTTP2ServerTimeouts(t *testing.T, certs []tls.Certificate) {
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { echo(h) }), func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = time.Second, time.Second, time.Second, time.Second
	})
	client, _ := c.open(t)
	for range 2 {
		time.Sleep(time.Hour)
		if err := client.WriteMessage(Text, []byte("a")); err != nil {
			t.Fatal(err)
		}
		if _, p, err := client.ReadMessage(); string(p) != "a" || err != nil {
			t.Fatalf("%q, %v", p, err)
		}
	}
	client.Close()
}

func testHTTP2Ends(t *testing.T, certs []tls.Certificate) {
	ends := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { ends <- echo(h) }), nil)
	for _, tt := range []struct {
		name string
		send string
		end  func(*h2Stream)
		want func(error) bool
	}{
		{"END_STREAM", "", func(s *h2Stream) { s.CloseWrite() }, func(err error) bool { return cause(err) == io.EOF }},
		{"END_STREAM within a frame", "\x81", func(s *h2Stream) { s.CloseWrite() }, func(err error) bool { return cause(err) == io.ErrUnexpectedEOF }},
		{"RST_STREAM", "", func(s *h2Stream) { s.ReadCloser.Close() }, func(err error) bool { return err != nil && !errors.Is(err, io.EOF) }},
		{"RST_STREAM within a frame", "\x81", func(s *h2Stream) { s.ReadCloser.Close() }, func(err error) bool { return err != nil && !errors.Is(err, io.EOF) }},
	} {
		_, s := c.open(t)
		if _, err := io.WriteString(s, tt.send); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		tt.end(s)
		if err := wait(t, ends); !tt.want(err) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// The other streams of the connection go on.
	client, _ := c.open(t)
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	wait(t, ends)
}

func testHTTP2CloseBlocked(t *testing.T, certs []tls.Certificate) {
	for name, end := range map[string]struct {
		close func(*Conn) error
		time  time.Duration
	}{
		"Close":    {(*Conn).Close, closeTimeout},
		"CloseNow": {(*Conn).CloseNow, 0},
	} {
		handlers := make(chan *Conn, 1)
		over := make(chan struct{})
		c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { handlers <- h; <-over }), nil)
		_, s := c.open(t)
		h := wait(t, handlers)
		read := goErr(func() error { _, _, err := h.ReadMessage(); return err })
		write := goErr(func() error { return h.WriteMessage(Binary, make([]byte, 1<<20)) })
		synctest.Wait() // both are blocked
		start := time.Now()
		end.close(h)
		if d := time.Since(start); d != end.time {
			t.Errorf("%s took %v", name, d)
		}
		if err := wait(t, read); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: read: %v", name, err)
		}
		if err := wait(t, write); err == nil {
			t.Errorf("%s: write succeeds", name)
		}
		close(over)
		if _, err := io.Copy(io.Discard, s.ReadCloser); err == nil {
			t.Errorf("%s: the client has a whole message", name)
		}
	}
}

func testHTTP2Streams(t *testing.T, certs []tls.Certificate) {
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { echo(h) }), nil)
	var group sync.WaitGroup
	for i := range 50 {
		client, _ := c.open(t)
		group.Go(func() {
			for j := range 20 {
				want := fmt.Sprint(i, " ", j, strings.Repeat("a", j*200))
				if err := client.WriteMessage(Text, []byte(want)); err != nil {
					t.Error(err)
					return
				}
				if _, p, err := client.ReadMessage(); err != nil || string(p) != want {
					t.Errorf("%.20q, %v, want %.20q", p, err, want)
					return
				}
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func testHTTP2Server(t *testing.T, certs []tls.Certificate) {
	closed := make(chan error, 3)
	opened := make(chan *Conn, 3)
	s := &Server{Handler: Handler{
		OnOpen:    func(h *Conn) { opened <- h },
		OnMessage: func(h *Conn, typ MessageType, p []byte) { h.WriteMessage(typ, p) },
		OnClose:   func(_ *Conn, err error) { closed <- err },
	}}
	c := openHTTP2(t, certs, s, nil)
	var clients []*Conn
	for i := range 3 {
		client, _ := c.open(t)
		clients = append(clients, client)
		wait(t, opened)
		if err := client.WriteMessage(Text, []byte("a")); err != nil {
			t.Fatal(err)
		}
		if _, p, err := client.ReadMessage(); string(p) != "a" || err != nil {
			t.Fatalf("%d: %q, %v", i, p, err)
		}
	}
	n := 0
	for range s.Conns() {
		n++
	}
	if err := s.Broadcast(Text, []byte("all")); err != nil || n != 3 {
		t.Errorf("%v to %d", err, n)
	}
	for i, client := range clients {
		if _, p, err := client.ReadMessage(); string(p) != "all" || err != nil {
			t.Fatalf("%d: %q, %v", i, p, err)
		}
	}
	down := goErr(func() error { return s.Shutdown(context.Background()) })
	for i, client := range clients {
		_, _, err := client.ReadMessage()
		if ce, ok := errors.AsType[*CloseError](err); !ok || ce.Code != CloseGoingAway {
			t.Errorf("%d: %v", i, err)
		}
		client.Close()
	}
	if err := wait(t, down); err != nil {
		t.Error(err)
	}
	for range clients {
		if err := wait(t, closed); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	if resp, s := c.connect(t); resp.StatusCode != 503 {
		t.Error(resp.Status)
	} else {
		s.Close()
	}
	checkStats(t, s, Stats{
		Accepted: 3, Refused: map[int]uint64{503: 1}, Closed: map[CloseCode]uint64{CloseGoingAway: 3},
		MessagesReceived: 3, BytesReceived: 3, MessagesSent: 6, BytesSent: 12,
	})
}

// A client of another version learns which one is spoken (RFC 6455, section 4.4), over
// HTTP/2, too.
func testHTTP2Version(t *testing.T, certs []tls.Certificate) {
	u := newUpgrader(nil)
	resp, s := openHTTP2(t, certs, u, nil).connect(t, "Sec-Websocket-Version", "8")
	s.Close()
	u.refused(t)
	if got := resp.Header.Get("Sec-WebSocket-Version"); resp.StatusCode != 426 || got != "13" {
		t.Errorf("%s, version %q", resp.Status, got)
	}
}

// After the handler has returned nothing panics, whether the connection has been closed or
// not.
func testHTTP2HandlerReturns(t *testing.T, certs []tls.Certificate) {
	for _, closed := range []bool{true, false} {
		handlers := make(chan *Conn, 1)
		c := openHTTP2(t, certs, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h, err := Upgrade(w, r, nil)
			if err == nil && closed {
				h.CloseNow()
			}
			handlers <- h
		}), nil)
		_, s := c.open(t)
		h := wait(t, handlers)
		io.Copy(io.Discard, s.ReadCloser) // until the handler has returned
		synctest.Wait()
		for name, call := range map[string]func() error{
			"WriteMessage":     func() error { return h.WriteMessage(Text, []byte("late")) },
			"ReadMessage":      func() error { _, _, err := h.ReadMessage(); return err },
			"SetWriteDeadline": func() error { h.SetWriteDeadline(time.Now().Add(time.Hour)); return errBroken },
			"SetDeadline":      func() error { h.SetDeadline(time.Time{}); return errBroken },
		} {
			func() {
				defer func() {
					if v := recover(); v != nil {
						t.Errorf("closed %v: %s panics: %v", closed, name, v)
					}
				}()
				if call() == nil {
					t.Errorf("closed %v: %s succeeds", closed, name)
				}
			}()
		}
		func() {
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("closed %v: Close panics: %v", closed, v)
				}
			}()
			h.Close()
		}()
	}
}

// A writer without what a stream needs is not used for one.
func testHTTP2Recorder(t *testing.T, certs []tls.Certificate) {
	u := newUpgrader(nil)
	c := openHTTP2(t, certs, http.TimeoutHandler(u, time.Minute, ""), nil)
	resp, s := c.connect(t)
	s.CloseWrite()
	res := wait(t, u.result)
	if res.c != nil {
		res.c.CloseNow()
	}
	if resp.StatusCode != 501 || res.c != nil || res.err == nil {
		t.Errorf("%s, %v, %v", resp.Status, res.c, res.err)
	}
}

// Goroutines that close a connection, or set its deadlines, do not disturb the end of its
// handler. The race detector would see it.
func testHTTP2LateClose(t *testing.T, certs []tls.Certificate) {
	var group sync.WaitGroup
	s := &Server{Handler: Handler{OnClose: func(h *Conn, _ error) {
		for range 4 {
			group.Go(func() {
				for range 20 {
					h.SetDeadline(time.Time{})
					h.Close()
				}
			})
		}
	}}}
	c := openHTTP2(t, certs, s, nil)
	for range 50 {
		client, _ := c.open(t)
		client.Close()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	group.Wait()
}

// A stream that is reset while nobody reads from it has ended. That is no timeout, which
// would not be final.
func testHTTP2Reset(t *testing.T, certs []tls.Certificate) {
	result := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		time.Sleep(time.Minute) // longer than what has come is kept
		var err error
		for range 20 {
			if _, _, err = h.ReadMessage(); err != nil && !isTimeout(err) {
				break
			}
		}
		result <- err
	}), nil)
	client, s := c.open(t)
	for range 8 {
		if err := client.WriteMessage(Binary, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	s.ReadCloser.Close()
	if err := waitLong(result); err == nil || isTimeout(err) {
		t.Errorf("read: %v", err)
	}
}

// A jammedConn is a connection whose peer ceases to read.
type jammedConn struct {
	net.Conn
	jam     net.Conn // takes nothing
	jammed  atomic.Bool
	blocked chan struct{} // a Write has begun that does not end
}

// jam makes the next connection of l a jammedConn.
func jam(t *testing.T, l *memListener) *jammedConn {
	a, b := net.Pipe()
	t.Cleanup(func() { b.Close() })
	c := &jammedConn{jam: a, blocked: make(chan struct{}, 1)}
	l.wrap = func(conn net.Conn) net.Conn {
		c.Conn = conn
		return c
	}
	return c
}

func (c *jammedConn) Write(p []byte) (int, error) {
	if !c.jammed.Load() {
		return c.Conn.Write(p)
	}
	select {
	case c.blocked <- struct{}{}:
	default:
	}
	return c.jam.Write(p)
}

func (c *jammedConn) Close() error {
	c.jam.Close()
	return c.Conn.Close()
}

func (c *jammedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetDeadline(t), c.jam.SetDeadline(t))
}

func (c *jammedConn) SetWriteDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetWriteDeadline(t), c.jam.SetWriteDeadline(t))
}

// A client that reads nothing from its connection keeps Close from ending, but not Shutdown.
func testHTTP2Unread(t *testing.T, certs []tls.Certificate) {
	opened := make(chan *Conn, 1)
	s := &Server{Handler: Handler{OnOpen: func(h *Conn) { opened <- h }}}
	l := newMemListener()
	conn := jam(t, l)
	openHTTP2On(t, l, certs, s, nil).open(t)
	h := wait(t, opened)
	conn.jammed.Store(true)
	write := goErr(func() error { return h.WriteMessage(Binary, make([]byte, 64<<10)) })
	wait(t, conn.blocked)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(t, goErr(func() error { return s.Shutdown(ctx) })); err != context.Canceled {
		t.Errorf("Shutdown: %v", err)
	}
	conn.Close()
	if err := wait(t, write); err == nil {
		t.Error("the write succeeds")
	}
	if err := wait(t, goErr(func() error { return s.Shutdown(t.Context()) })); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// With a WriteByteTimeout such a client is gone soon after that has passed.
func testHTTP2ByteTimeout(t *testing.T, certs []tls.Certificate) {
	opened, ends := make(chan *Conn, 1), make(chan error, 1)
	s := &Server{Handler: Handler{
		OnOpen:  func(h *Conn) { opened <- h },
		OnClose: func(_ *Conn, err error) { ends <- err },
	}, Options: Options{CloseTimeout: time.Minute}} // not what ends it
	l := newMemListener()
	conn := jam(t, l)
	openHTTP2On(t, l, certs, s, func(s *http.Server) {
		s.HTTP2 = &http.HTTP2Config{WriteByteTimeout: time.Second}
	}).open(t)
	h := wait(t, opened)
	conn.jammed.Store(true)
	start := time.Now()
	write := goErr(func() error { return h.WriteMessage(Binary, make([]byte, 64<<10)) })
	wait(t, conn.blocked)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if d := time.Since(start); d < time.Second || d > 10*time.Second { // crypto/tls takes 5 s to say that it closes
		t.Errorf("Shutdown took %v", d)
	}
	checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	if err := wait(t, write); err == nil {
		t.Error("the write succeeds")
	}
}

// A client that asks for what there is not does not get into the log.
func testHTTP2Log(t *testing.T, certs []tls.Certificate) {
	var out serverLog
	c := openHTTP2(t, certs, new(Server), func(s *http.Server) { s.ErrorLog = log.New(&out, "", 0) })
	resp, s := c.connect(t, ":protocol", "webtransport")
	s.Close()
	synctest.Wait()
	if resp.StatusCode != 501 || out.String() != "" {
		t.Errorf("%s, log: %q", resp.Status, out.String())
	}
}

func testHTTP2Serve(t *testing.T, certs []tls.Certificate) {
	var out serverLog
	checkServe(t, &out, func(h http.Handler) func(string) *Conn {
		c := openHTTP2(t, certs, h, func(s *http.Server) { s.ErrorLog = log.New(&out, "", 0) })
		return func(user string) *Conn {
			client, _ := c.open(t, "User", user)
			return client
		}
	})
}
