package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall/js"
	"testing"
	"time"
)

// These tests run in Node and in Chromium. The tests of internal/interop start them there, with
// a server at the URL in WEBSOCKET_PAGE.

// inBrowser says that it is not Node.
var inBrowser = !js.Global().Get("document").IsUndefined()

// pageURL returns the URL of a path on the server.
func pageURL(t *testing.T, path string) string {
	t.Helper()
	base := os.Getenv("WEBSOCKET_PAGE")
	if base == "" {
		t.Skip("runs in a page, for which internal/interop has the server")
	}
	return base + path
}

// dialPage connects to a path. The connection ends with the test.
func dialPage(t *testing.T, path string, o *Options) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), pageURL(t, path), o)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() {
		c.CloseNow()
		if s := c.t.rw.(*pageStream); !s.ws.Get("onmessage").IsNull() {
			t.Error("the page still has events for the connection")
		} else if len(s.queue) > 0 {
			t.Error("a closed connection still has messages")
		}
	})
	return c
}

// expectMessage reads a message.
func expectMessage(t *testing.T, c *Conn, typ MessageType, want []byte) {
	t.Helper()
	got, p, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if got != typ || !bytes.Equal(p, want) {
		t.Fatalf("got %v of %d bytes, want %v of %d: %.20q, %.20q", got, len(p), typ, len(want), p, want)
	}
}

// expectEnded checks how the server says that the connection with the id has ended.
func expectEnded(t *testing.T, id, want string) {
	t.Helper()
	_, p, err := dialPage(t, "/ended?id="+id, nil).ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if string(p) != want {
		t.Errorf("for the server the connection ended with %s, want %s", p, want)
	}
}

func TestPageMessages(t *testing.T) {
	c := dialPage(t, "/echo", &Options{MaxMessage: 4 << 20})
	large := make([]byte, 3<<20)
	for i := range large {
		large[i] = byte(i * i >> 5)
	}
	for _, p := range [][]byte{{}, []byte("a"), []byte("γάτα 🐱\x00\uFEFF")} {
		for _, typ := range []MessageType{Text, Binary} {
			if err := c.WriteMessage(typ, p); err != nil {
				t.Fatal(err)
			}
			expectMessage(t, c, typ, p)
		}
	}
	for _, n := range []int{125, 126, heldInputSize, heldInputSize + 1, 65535, 65536, batchSize + 1, 1 << 20, 3 << 20} {
		if err := c.WriteMessage(Binary, large[:n]); err != nil {
			t.Fatal(err)
		}
		expectMessage(t, c, Binary, large[:n])
		text := bytes.Repeat([]byte("γά"), n/4)
		if err := c.WriteMessage(Text, text); err != nil {
			t.Fatal(err)
		}
		expectMessage(t, c, Text, text)
	}
	if err := c.WriteMessage(Text, []byte("\xff")); err != errNotUTF8 {
		t.Error("text that is not UTF-8:", err)
	}
	for i := range 1000 {
		if err := c.WriteMessage(Text, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		expectMessage(t, c, Text, fmt.Append(nil, i))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.WriteMessage(Text, nil); !errors.Is(err, net.ErrClosed) {
		t.Error("a write behind Close:", err)
	}
}

// A byte order mark is as good as any other character.
func TestPageByteOrderMark(t *testing.T) {
	c := dialPage(t, "/swap", nil)
	for _, text := range []string{"\uFEFF", "\uFEFFmeow", "\uFEFF\uFEFF"} {
		if err := c.WriteMessage(Text, []byte(text)); err != nil {
			t.Fatal(err)
		}
		expectMessage(t, c, Binary, []byte(text))
		if inBrowser { // Node drops the first, before it passes the text on
			if err := c.WriteMessage(Binary, []byte(text)); err != nil {
				t.Fatal(err)
			}
			expectMessage(t, c, Text, []byte(text))
		}
	}
}

// Fragments, of which a page knows nothing, leave as one message.
func TestPageFragments(t *testing.T) {
	c := dialPage(t, "/echo", nil)
	for _, n := range []int{0, 1, 3, 20_000} {
		for _, typ := range []MessageType{Text, Binary} {
			w, err := c.NextWriter(typ)
			if err != nil {
				t.Fatal(err)
			}
			var want []byte
			for i := range n {
				p := []byte("🐱"[i%4 : i%4+1])
				if n < 4 {
					p = bytes.Repeat([]byte{'a' + byte(i)}, i*100_000)
				}
				want = append(want, p...)
				if _, err := w.Write(p); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			expectMessage(t, c, typ, want)
		}
	}
	c.WriteMessage(Text, []byte("read in pieces"))
	_, r, err := c.NextReader()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(r); string(p) != "read in pieces" || err != nil {
		t.Errorf("read %q, %v", p, err)
	}
	if err := PutFrame(c, []byte("frame")); err != nil {
		t.Fatal(err)
	}
	if p, err := GetFrame(c); string(p) != "frame" || err != nil {
		t.Errorf("read %q, %v", p, err)
	}
}

// ClientHandshake needs no page, but a stream.
func TestPageClientHandshake(t *testing.T) {
	a, b := net.Pipe()
	var server sync.WaitGroup
	server.Go(func() {
		h := NewConn(b, nil)
		defer h.Close()
		if _, err := ShakeHands(h); err != nil {
			t.Error(err)
			return
		}
		p, err := GetFrame(h)
		if err == nil {
			err = PutFrame(h, append(p, ", meow."...))
		}
		if err != nil {
			t.Error(err)
		}
	})
	c, err := ClientHandshake(a, "ws://localhost/", &Options{Header: http.Header{"Origin": {"http://localhost"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteMessage(Text, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	expectMessage(t, c, Text, []byte("hello, meow."))
	c.Close()
	server.Wait()
}

func TestPageRequest(t *testing.T) {
	c := dialPage(t, "/echo?a=%20b", &Options{Protocols: []string{"woof", "purr", "meow"}})
	extensions := c.t.rw.(*pageStream).ws.Get("extensions").String()
	want := &Request{
		Version:    RFC6455,
		Host:       strings.TrimPrefix(pageURL(t, ""), "ws://"),
		Path:       "/echo?a=%20b",
		Protocols:  []string{"woof", "purr", "meow"},
		Protocol:   "meow", // which the server prefers
		Extensions: extensions,
		Header:     http.Header{},
	}
	if got := c.Request(); !reflect.DeepEqual(got, want) {
		t.Errorf("the request is\n%#v, want\n%#v", got, want)
	}
	if c := dialPage(t, "/echo", nil); c.Request().Protocol != "" {
		t.Errorf("the subprotocol is %q", c.Request().Protocol)
	}
	// The server compresses what it sends, if the page has offered that.
	p := []byte(strings.Repeat("meow", 1000))
	if err := c.WriteMessage(Text, p); err != nil {
		t.Fatal(err)
	}
	expectMessage(t, c, Text, p)
}

func TestPageUnsupported(t *testing.T) {
	echo := pageURL(t, "/echo")
	for _, tt := range []struct {
		what string
		url  string
		o    Options
	}{
		{"Options.Header", echo, Options{Header: http.Header{"Origin": {"http://localhost"}}}},
		{"Options.HTTPClient", echo, Options{HTTPClient: http.DefaultClient}},
		{"Options.Deflate", echo, Options{Deflate: &Deflate{}}},
		{"Options.PingInterval", echo, Options{PingInterval: time.Minute}},
		{"user", strings.Replace(echo, "://", "://me:secret@", 1), Options{}},
	} {
		c, err := Dial(t.Context(), tt.url, &tt.o)
		if err == nil {
			c.CloseNow()
		}
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), tt.what) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	c := dialPage(t, "/echo", &Options{PingInterval: -1})
	if err := c.Ping(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Error("Ping:", err)
	}
	if err := c.WriteMessage(Text, nil); err != nil {
		t.Error("a write behind a Ping:", err)
	}
	expectMessage(t, c, Text, nil)

	constructor := js.Global().Get("WebSocket")
	defer js.Global().Set("WebSocket", constructor)
	for _, none := range []js.Value{js.Undefined(), js.Null()} {
		js.Global().Set("WebSocket", none)
		if _, err := Dial(t.Context(), echo, nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("the WebSocket is %v: %v", none, err)
		}
	}
}

func TestPageClose(t *testing.T) {
	for _, tt := range []struct {
		code   CloseCode
		reason string
		want   string // what the server gets
	}{
		{CloseNormal, "", `1000 ""`},
		{CloseNormal, "c'était tout", `1000 "c'était tout"`},
		{3000, "", `3000 ""`},
		{4999, strings.Repeat("é", 61), `4999 "` + strings.Repeat("é", 61) + `"`},
		{CloseNoStatus, "", `1005 ""`},
		{CloseGoingAway, "gone", `1005 ""`}, // a page must not send it
		{CloseInternalError, "", `1005 ""`},
	} {
		id := fmt.Sprintf("close-%d-%d", tt.code, len(tt.reason))
		c := dialPage(t, "/end?id="+id, nil)
		if err := c.WriteMessage(Text, []byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWith(tt.code, tt.reason); err != nil {
			t.Errorf("CloseWith(%d): %v", tt.code, err)
		}
		expectEnded(t, id, "1 messages, "+tt.want)
		var e *CloseError
		if _, _, err := c.ReadMessage(); !errors.As(err, &e) || e.Code != tt.code || e.Reason != tt.reason || !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read behind CloseWith(%d): %v", tt.code, err)
		}
	}
	for _, tt := range []struct {
		code   CloseCode
		reason string
	}{
		{CloseNormal, ""}, {CloseNoStatus, ""}, {CloseGoingAway, "bye"}, {ClosePolicyViolation, "c'était tout"},
		{CloseServiceRestart, ""}, {3000, ""}, {4999, strings.Repeat("é", 61)},
	} {
		c := dialPage(t, fmt.Sprintf("/close?code=%d&reason=%s", tt.code, url.QueryEscape(tt.reason)), nil)
		expectMessage(t, c, Text, []byte("last words"))
		_, _, err := c.ReadMessage()
		if want := (&CloseError{Code: tt.code, Reason: tt.reason}); !reflect.DeepEqual(err, want) {
			t.Errorf("closed with %v, want %v", err, want)
		}
		if err := c.WriteMessage(Text, nil); err == nil {
			t.Error("a write behind the peer's close frame succeeds")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What was written before CloseNow still arrives.
func TestPageCloseNow(t *testing.T) {
	c := dialPage(t, "/end?id=now", nil)
	for range 3 {
		if err := c.WriteMessage(Binary, make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.CloseNow(); err != nil {
		t.Error("CloseNow:", err)
	}
	expectEnded(t, "now", `3 messages, 1005 ""`)
}

// A server that does not answer a close frame is waited for until the time is over.
func TestPageCloseTimeout(t *testing.T) {
	c := dialPage(t, "/deaf", &Options{CloseTimeout: 100 * time.Millisecond})
	if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("Close:", err)
	}
	c = dialPage(t, "/deaf", nil)
	read := make(chan error)
	go func() {
		_, _, err := c.ReadMessage()
		read <- err
	}()
	if err := c.CloseNow(); err != nil {
		t.Error("CloseNow:", err)
	}
	if err := <-read; err != net.ErrClosed {
		t.Error("a read behind CloseNow:", err)
	}
}

func TestPageVanish(t *testing.T) {
	c := dialPage(t, "/vanish", nil)
	expectMessage(t, c, Text, []byte("last words"))
	var e *CloseError
	if _, _, err := c.ReadMessage(); !errors.As(err, &e) || e.Code != CloseAbnormal || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.Error("the server has vanished, and a read returns", err)
	}
	if err := c.WriteMessage(Text, nil); err == nil {
		t.Error("a write succeeds")
	}
	if err := c.Close(); err != nil {
		t.Error("Close:", err)
	}
}

func TestPageDialFails(t *testing.T) {
	handshake := new(HandshakeError)
	for _, url := range []string{pageURL(t, "/refuse"), "ws://127.0.0.1:1/"} {
		if _, err := Dial(t.Context(), url, nil); err == nil || errors.As(err, &handshake) || !strings.Contains(err.Error(), "not told why") {
			t.Errorf("%s: %v", url, err)
		}
	}
	// What a page throws is an error.
	if _, err := Dial(t.Context(), "ws://127.0.0.1:99999/", nil); !errors.As(err, new(js.Error)) {
		t.Error("a port that there cannot be:", err)
	}
	if _, err := Dial(t.Context(), "ftp://127.0.0.1/", nil); err == nil {
		t.Error("a scheme that there cannot be:", err)
	}
	if inBrowser { // or else there is no origin
		if _, err := Dial(t.Context(), pageURL(t, "/foreign"), nil); err == nil {
			t.Error("a page of another origin may connect")
		}
	}
	if _, err := Dial(t.Context(), pageURL(t, "/hang"), &Options{HandshakeTimeout: 50 * time.Millisecond}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("a handshake that takes too long:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Dial(ctx, pageURL(t, "/hang"), nil); !errors.Is(err, context.Canceled) {
		t.Error("a handshake that is cancelled:", err)
	}
	if _, err := Dial(ctx, pageURL(t, "/echo"), nil); !errors.Is(err, context.Canceled) {
		t.Error("a handshake that was cancelled before:", err)
	}
}

// A deadline loses nothing.
func TestPageReadDeadline(t *testing.T) {
	c := dialPage(t, "/echo", nil)
	for _, d := range []time.Duration{-1, 0, time.Millisecond, 20 * time.Millisecond} {
		c.SetReadDeadline(time.Now().Add(d))
		if _, _, err := c.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a read until %v: %v", d, err)
		}
	}
	read := make(chan error)
	c.SetReadDeadline(time.Time{})
	go func() {
		_, _, err := c.ReadMessage()
		read <- err
	}()
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("a deadline set during a read:", err)
	}
	for i := range 3 {
		if err := c.WriteMessage(Text, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for i := range 3 {
		expectMessage(t, c, Text, fmt.Append(nil, i))
	}
}

// A write waits while the server does not read, and goes on when it does.
func TestPageWriteDeadline(t *testing.T) {
	c := dialPage(t, "/sink?id=sink", &Options{MaxQueue: 1 << 18})
	s := c.t.rw.(*pageStream)
	message := make([]byte, 100_000)
	n, most, err := 0, 0, error(nil)
	c.SetWriteDeadline(time.Now().Add(time.Second))
	for err == nil {
		written := 0
		written, err = c.Write(message)
		n += written / len(message)
		most = max(most, s.ws.Get("bufferedAmount").Int())
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if limit := 1<<18 + len(message) + writeSize; most > limit {
		t.Errorf("%d bytes wait to be sent, want up to %d", most, limit)
	}
	waiting := make(chan error)
	c.SetWriteDeadline(time.Time{})
	go func() { waiting <- c.WriteMessage(Binary, message) }()
	dialPage(t, "/go?id=sink", nil)
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWith(4000, "enough"); err != nil {
		t.Error(err)
	}
	expectEnded(t, "sink", fmt.Sprintf(`%d messages, 4000 "enough"`, n+1))
}

// What nobody reads does not fill the memory.
func TestPageFlood(t *testing.T) {
	const size = 64 << 10 // of a message
	for _, limit := range []int{0, 10 * size} {
		c := dialPage(t, fmt.Sprint("/flood?n=1000&size=", size), &Options{MaxQueue: limit})
		s := c.t.rw.(*pageStream)
		s.in.mu.Lock()
		for s.in.ended == nil {
			s.in.cond.Wait()
		}
		queued := s.queued
		s.in.mu.Unlock()
		want := c.opts.queueLimit() / (size + queuedSize)
		if queued != want*(size+queuedSize) {
			t.Errorf("%d bytes are queued, want %d messages", queued, want)
		}
		n := 0
		_, _, err := c.ReadMessage()
		for ; err == nil; n++ {
			_, _, err = c.ReadMessage()
		}
		if n != want {
			t.Errorf("read %d messages, want %d", n, want)
		}
		var e *CloseError
		if !errors.As(err, &e) || e.Code != CloseAbnormal || !strings.Contains(err.Error(), fmt.Sprint("more than ", c.opts.queueLimit(), " bytes")) {
			t.Error("the connection has ended with", err)
		}
		if err := c.Close(); err != nil {
			t.Error("Close:", err)
		}
	}
	// Small messages need memory, too.
	c := dialPage(t, "/flood?n=1000&size=0", &Options{MaxQueue: 100_000})
	s := c.t.rw.(*pageStream)
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	for s.in.ended == nil {
		s.in.cond.Wait()
	}
	if n := len(s.queue); n != 100_000/queuedSize {
		t.Errorf("%d empty messages are queued", n)
	}
}

func TestPageMaxMessage(t *testing.T) {
	c := dialPage(t, "/echo", &Options{MaxMessage: 1000})
	for _, n := range []int{1000, 200_000} {
		if err := c.WriteMessage(Binary, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	expectMessage(t, c, Binary, make([]byte, 1000))
	awaitQueued(c)
	c.SetMaxMessage(200_000) // though the message has come
	expectMessage(t, c, Binary, make([]byte, 200_000))

	c.SetMaxMessage(199_999)
	if err := c.WriteMessage(Binary, make([]byte, 200_000)); err != nil {
		t.Fatal(err)
	}
	var e *CloseError
	if _, _, err := c.ReadMessage(); !errors.As(err, &e) || e.Code != CloseMessageTooBig {
		t.Error("a message that is too large:", err)
	}
	if s := c.t.rw.(*pageStream); len(s.queue) != 1 || s.queue[0].size != 200_000-pipeSize {
		t.Error("the rest of a message that is refused is not in the page's memory any more")
	}
	if err := c.Close(); err != nil {
		t.Error("Close:", err)
	}
}

// A message that is refused does not take the memory of Go either when Close drops it.
func TestPageDropped(t *testing.T) {
	const size = 64 << 20
	c := dialPage(t, fmt.Sprint("/flood?n=1&size=", size), nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var e *CloseError
	if _, _, err := c.ReadMessage(); !errors.As(err, &e) || e.Code != CloseMessageTooBig {
		t.Error("a message that is too large:", err)
	}
	if err := c.Close(); err != nil {
		t.Error("Close:", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.Sys - before.Sys; n > size/2 {
		t.Errorf("to drop %d MiB has taken %d MiB", size>>20, n>>20)
	}
}

// What the page throws ends the connection, and not the program.
func TestPageSendThrows(t *testing.T) {
	c := dialPage(t, "/end?id=throws", nil)
	c.t.rw.(*pageStream).ws.Set("send", js.Global().Get("Function").New("throw new RangeError('it is too long')"))
	if err := c.WriteMessage(Text, []byte("meow")); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.ReadMessage()
	if e := (*CloseError)(nil); !errors.As(err, &e) || e.Code != CloseAbnormal || !strings.Contains(err.Error(), "it is too long") {
		t.Error("a read after that:", err)
	}
	if err := c.WriteMessage(Text, nil); err == nil {
		t.Error("a write after that succeeds")
	}
	if err := c.Close(); err != nil {
		t.Error("Close:", err)
	}
	expectEnded(t, "throws", `0 messages, 1005 ""`)
}

// CloseNow ends what waits for a network that takes nothing. TestMain sees if a goroutine stays.
func TestPageStuck(t *testing.T) {
	c := dialPage(t, "/deaf", &Options{MaxQueue: 1 << 10})
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for err := error(nil); err == nil; {
		err = c.WriteMessage(Binary, make([]byte, 1<<20))
	}
	if c.t.rw.(*pageStream).ws.Get("bufferedAmount").Int() == 0 {
		t.Error("the network takes all")
	}
	if err := c.CloseNow(); err != nil {
		t.Error("CloseNow:", err)
	}
}

// awaitQueued waits until there is a message that nobody has read.
func awaitQueued(c *Conn) {
	s := c.t.rw.(*pageStream)
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	for len(s.queue) == 0 {
		s.in.cond.Wait()
	}
}

func TestPageServe(t *testing.T) {
	c := dialPage(t, "/echo", nil)
	var said []string
	err := c.Serve(Handler{
		OnOpen: func(c *Conn) { c.WriteMessage(Text, []byte("aaaa")) },
		OnMessage: func(c *Conn, typ MessageType, p []byte) {
			if said = append(said, string(p)); len(p) == 0 {
				c.CloseWith(3333, "done")
			} else if err := c.WriteMessage(typ, p[1:]); err != nil {
				t.Error(err)
			}
		},
		OnClose: func(_ *Conn, err error) { said = append(said, err.Error()) },
	})
	if want := []string{"aaaa", "aaa", "aa", "a", "", "websocket: closed: 3333: done"}; !reflect.DeepEqual(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}
	if e, ok := err.(*CloseError); !ok || e.Code != 3333 {
		t.Error("Serve:", err)
	}
	c = dialPage(t, "/close?code=1001", nil)
	if err := c.Serve(Handler{}); !errors.Is(err, io.EOF) {
		t.Error("Serve:", err)
	}
	s := new(Server)
	if err := s.Adopt(dialPage(t, "/echo", nil), Handler{}); !errors.Is(err, os.ErrInvalid) {
		t.Error("a Server serves a client:", err)
	}
}

// Both sides send much at the same time, from several goroutines here.
func TestPageMuch(t *testing.T) {
	const goroutines, messages, size = 4, 500, 60_000
	c := dialPage(t, "/swap", &Options{MaxQueue: 16 << 20})
	var all sync.WaitGroup
	for g := range byte(goroutines) {
		all.Go(func() {
			p := bytes.Repeat([]byte{'a' + g}, size)
			for i := range messages {
				copy(p, fmt.Sprintf("%08d", i))
				if err := c.WriteMessage(MessageType(1+i%2), p[:size-i]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var next [goroutines]int
	for range goroutines * messages {
		typ, p, err := c.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		g := p[len(p)-1] - 'a'
		i := next[g]
		next[g]++
		want := append(fmt.Appendf(nil, "%08d", i), bytes.Repeat([]byte{'a' + g}, size-8)...)[:size-i]
		if typ != MessageType(2-i%2) || !bytes.Equal(p, want) {
			t.Fatalf("message %d of goroutine %d is %v of %d bytes: %.20q", i, g, typ, len(p), p)
		}
	}
	all.Wait()
}

// What the page has needed for messages that are over it gets back, so that there is never much.
func TestPageMemory(t *testing.T) {
	if inBrowser {
		t.Skip("only Node tells")
	}
	const n, size = 4000, 60_000
	var before, most int
	check := func() {
		now := js.Global().Get("process").Call("memoryUsage").Get("external").Int()
		if before == 0 {
			before = now
		}
		most = max(most, now)
	}
	c := dialPage(t, "/end?id=memory", nil)
	p := make([]byte, size)
	for range n {
		if err := c.WriteMessage(Binary, p); err != nil {
			t.Fatal(err)
		}
		check()
	}
	c.Close()
	expectEnded(t, "memory", fmt.Sprintf(`%d messages, 1000 ""`, n))

	c = dialPage(t, fmt.Sprintf("/flood?n=%d&size=%d", n, size), &Options{MaxQueue: 16 << 20})
	left := n
	c.Serve(Handler{OnMessage: func(c *Conn, _ MessageType, _ []byte) {
		check()
		if left--; left == 0 {
			c.Close()
		}
	}})
	if left != 0 {
		t.Errorf("%d messages have not come", left)
	}
	if most -= before; most > 80<<20 {
		t.Errorf("for %d MiB in either direction the page has needed %d MiB", n*size>>20, most>>20)
	}
}
