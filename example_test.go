package websocket_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"expvar"
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
	"testing"
	"testing/synctest"
	"time"

	"github.com/54eee7d7/websocket"
)

// request is the opening handshake of the client in these examples.
const request = "GET /chat?room=1 HTTP/1.1\r\n" +
	"Host: example.com\r\n" +
	"Origin: https://example.com\r\n" +
	"Upgrade: websocket\r\n" +
	"Connection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Protocol: chat, superchat\r\n\r\n"

// client returns the server's end of a stream on which a client has sent the
// texts as frames. What the server writes is thrown away.
func client(texts ...string) io.ReadWriter {
	var b strings.Builder
	b.WriteString(request)
	for _, text := range texts {
		// A masking key of zeros leaves the text as it is.
		b.Write([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0})
		b.WriteString(text)
	}
	b.WriteString("\x88\x82\x00\x00\x00\x00\x03\xe8") // close, 1000
	return struct {
		io.Reader
		io.Writer
	}{strings.NewReader(b.String()), io.Discard}
}

// talkTo greets a client and answers each of its messages.
func talkTo(conn net.Conn) error {
	h := websocket.NewConn(conn, nil)
	defer h.Close()
	if _, err := websocket.ShakeHands(h); err != nil {
		return err
	}
	if err := websocket.PutFrame(h, []byte("Do you read me, Lieutenant Bowie?")); err != nil {
		return err
	}
	for {
		msg, err := websocket.GetFrame(h)
		if err != nil {
			return err // io.EOF once the client has closed
		}
		if err := websocket.PutFrame(h, append(msg, ", meow."...)); err != nil {
			return err
		}
	}
}

// A server without net/http: a loop that accepts connections, and a goroutine for each.
func Example() {
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go talkTo(conn)
		}
	}()

	c, err := websocket.Dial(context.Background(), "ws://"+listener.Addr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	websocket.PutFrame(c, []byte("I read you"))
	for range 2 {
		msg, err := websocket.GetFrame(c)
		fmt.Printf("%s %v\n", msg, err)
	}
	// Output:
	// Do you read me, Lieutenant Bowie? <nil>
	// I read you, meow. <nil>
}

func ExampleNewConn() {
	h := websocket.NewConn(client("hello"), &websocket.Options{
		MaxMessage: 64 << 10,
		Protocols:  []string{"superchat", "chat"},
	})
	req, err := websocket.ShakeHands(h)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(req.Version, req.Protocol)
	// Output: RFC 6455 superchat
}

// A bufferedConn is a connection of which something has been read into a buffer.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// The client's side of a connection, behind an opening handshake of the program's own.
func ExampleNewConn_client() {
	server := httptest.NewServer(&websocket.Server{
		Options: websocket.Options{Deflate: &websocket.Deflate{}},
		Handler: websocket.Handler{OnOpen: func(c *websocket.Conn) {
			c.WriteMessage(websocket.Text, []byte(strings.Repeat("hello ", 100)))
		}},
	})
	defer server.Close()

	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: example.com\r\n"+
		"Upgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		log.Fatal("no handshake: ", err)
	}

	c := websocket.NewConn(bufferedConn{conn, r}, &websocket.Options{
		Client:     true,
		Extensions: resp.Header.Get("Sec-WebSocket-Extensions"),
	})
	defer c.Close()
	_, msg, err := c.ReadMessage()
	fmt.Println(len(msg), err)
	// Output: 600 <nil>
}

func ExampleShakeHands() {
	h := websocket.NewConn(client("hello"), nil)
	req, err := websocket.ShakeHands(h)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(req.Host, req.Path, req.Origin)
	// Output: example.com /chat?room=1 https://example.com
}

// A server that serves the pages of one origin only.
func ExampleGetRequest() {
	h := websocket.NewConn(client("hello"), nil)
	defer h.Close()

	req, err := websocket.GetRequest(h)
	if bad, ok := errors.AsType[*websocket.HandshakeError](err); ok {
		websocket.PutRefusal(h, bad)
	}
	if err != nil {
		log.Fatal(err)
	}
	if req.Origin != "https://example.org" {
		websocket.PutRefusal(h, &websocket.HandshakeError{Status: http.StatusForbidden, Reason: "This origin is not served."})
		fmt.Println("refused", req.Origin)
		return
	}
	if err := websocket.PutResponse(h, req); err != nil {
		log.Fatal(err)
	}
	// Output: refused https://example.com
}

// A subprotocol is chosen by setting it before the response is sent.
func ExamplePutResponse() {
	h := websocket.NewConn(client("hello"), nil)
	req, err := websocket.GetRequest(h)
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range req.Protocols {
		if p == "superchat" {
			req.Protocol = p
		}
	}
	if err := websocket.PutResponse(h, req); err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Request().Protocol)
	// Output: superchat
}

func ExamplePutRefusal() {
	var response bytes.Buffer
	websocket.PutRefusal(&response, &websocket.HandshakeError{Status: http.StatusForbidden, Reason: "Members only."})
	fmt.Println(strings.ReplaceAll(response.String(), "\r\n", "\n"))
	// Output:
	// HTTP/1.1 403 Forbidden
	// Connection: close
	// Content-Type: text/plain; charset=utf-8
	// X-Content-Type-Options: nosniff
	// Content-Length: 14
	//
	// Members only.
}

func ExampleCreateResponse() {
	req, err := websocket.GetRequest(strings.NewReader(request))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.ReplaceAll(string(websocket.CreateResponse(req)), "\r\n", "\n"))
	// Output:
	// HTTP/1.1 101 Switching Protocols
	// Upgrade: websocket
	// Connection: Upgrade
	// Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
}

// The example of hixie-76, section 1.2.
func ExampleCreateToken() {
	token := websocket.CreateToken(&websocket.Request{
		Version: websocket.Hixie76,
		Key1:    "4 @1  46546xW%0l 1 5",
		Key2:    "12998 5 Y3 1  .P00",
		Token:   "^n:ds[4U",
	})
	fmt.Printf("%s\n", token)
	// Output: 8jKS'y:G*Co,Wxa-
}

func ExampleGetFrame() {
	h := websocket.NewConn(client("Ground control", "to Major Tom"), nil)
	if _, err := websocket.ShakeHands(h); err != nil {
		log.Fatal(err)
	}
	for {
		msg, err := websocket.GetFrame(h)
		if err == io.EOF {
			fmt.Println("EOF")
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msg)
	}
	// Output:
	// Ground control
	// to Major Tom
	// EOF
}

func ExamplePutFrame() {
	var frame bytes.Buffer
	websocket.PutFrame(&frame, []byte("Hello"))
	fmt.Printf("% x\n", frame.Bytes())
	// Output: 81 05 48 65 6c 6c 6f
}

func ExampleConn_ReadMessage() {
	h := websocket.NewConn(client("hello"), nil)
	websocket.ShakeHands(h)
	for {
		t, p, err := h.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			fmt.Println(closed.Code)
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(t == websocket.Text, string(p))
	}
	// Output:
	// true hello
	// 1000 (normal closure)
}

// A loop that reads into the same memory does not allocate.
func ExampleConn_AppendMessage() {
	h := websocket.NewConn(client("one", "two"), nil)
	websocket.ShakeHands(h)
	var buf []byte
	for {
		t, p, err := h.AppendMessage(buf[:0])
		if err != nil {
			return
		}
		buf = p
		fmt.Printf("%s\n", p)
		if err := h.WriteMessage(t, p); err != nil {
			return
		}
	}
	// Output:
	// one
	// two
}

// Values in JSON, one in each message.
func ExampleConn_WriteMessage() {
	type line struct{ From, Text string }
	server := httptest.NewServer(&websocket.Server{Handler: websocket.Handler{
		OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
			var l line
			if err := json.Unmarshal(p, &l); err != nil {
				c.CloseWith(websocket.CloseInvalidPayload, "this is no line in JSON")
				return
			}
			p, err := json.Marshal(line{"server", "hello, " + l.From})
			if err != nil {
				log.Print(err)
				return
			}
			c.WriteMessage(websocket.Text, p)
		},
	}})
	defer server.Close()

	c, err := websocket.Dial(context.Background(), server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{`{"From": "Alice", "Text": "hi"}`, "hi"} {
		c.WriteMessage(websocket.Text, []byte(text))
		_, p, err := c.ReadMessage()
		fmt.Printf("%s %v\n", p, err)
	}
	// Output:
	// {"From":"server","Text":"hello, Alice"} <nil>
	//  websocket: closed by the peer: 1007 (invalid payload): this is no line in JSON
}

// A message of any size goes through a small buffer.
func ExampleConn_NextReader() {
	h := websocket.NewConn(client("a long message"), &websocket.Options{MaxMessage: -1})
	websocket.ShakeHands(h)
	_, r, err := h.NextReader()
	if err != nil {
		log.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	fmt.Println(n, err)
	// Output: 14 <nil>
}

// Every Write sends a fragment; Close ends the message.
func ExampleConn_NextWriter() {
	var sent bytes.Buffer
	h := websocket.NewConn(&sent, nil)
	w, err := h.NextWriter(websocket.Text)
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(w, "Hel")
	io.WriteString(w, "lo")
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("% x\n", sent.Bytes())
	// Output: 01 03 48 65 6c 00 02 6c 6f 80 00
}

// keepAlive pings a peer until ctx is done, and ends the connection if there is no
// answer in time. Meanwhile another goroutine has to read from h.
func keepAlive(ctx context.Context, h *websocket.Conn) {
	ticker := time.NewTicker(20 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		wait, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := h.Ping(wait)
		cancel()
		if err != nil {
			h.CloseNow()
			return
		}
	}
}

// A connection that may be idle for long is kept alive by pings, for as long as they
// are answered.
func ExampleConn_Ping() {
	h := websocket.NewConn(client("hello"), nil)
	websocket.ShakeHands(h)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go keepAlive(ctx, h)
	for { // reading is what finds the pongs
		msg, err := websocket.GetFrame(h)
		if err != nil {
			break
		}
		fmt.Printf("%s\n", msg)
	}
	// Output: hello
}

func ExampleConn_CloseWith() {
	var sent bytes.Buffer
	h := websocket.NewConn(&sent, nil)
	h.CloseWith(websocket.CloseGoingAway, "back at noon")
	fmt.Printf("% x\n%s\n", sent.Bytes()[:4], sent.Bytes()[4:])

	_, err := websocket.GetFrame(h)
	fmt.Println(err)
	// Output:
	// 88 0e 03 e9
	// back at noon
	// EOF
}

// A chat: what one client says is sent to all others.
func ExampleServer() {
	mux := http.NewServeMux()
	chat := &websocket.Server{}
	chat.OnMessage = func(c *websocket.Conn, t websocket.MessageType, p []byte) {
		chat.Broadcast(t, p, c) // to all but c
	}
	chat.OnClose = func(c *websocket.Conn, err error) {
		chat.Broadcast(websocket.Text, []byte("somebody left"))
	}
	mux.Handle("/chat", chat)
	server := httptest.NewServer(mux) // in a program, http.Server.ListenAndServe
	defer server.Close()

	ctx := context.Background()
	url := server.URL + "/chat"
	alice, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	bob, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Close()

	alice.WriteMessage(websocket.Text, []byte("hello, Bob"))
	_, msg, err := bob.ReadMessage()
	fmt.Printf("%s %v\n", msg, err)

	go chat.Shutdown(ctx)
	_, _, err = bob.ReadMessage()
	fmt.Println(err)
	// Output:
	// hello, Bob <nil>
	// websocket: closed by the peer: 1001 (going away)
}

type userKey struct{}

// What a middleware has found out about a request goes into functions of its connection.
func ExampleServer_ServeHTTPWith() {
	chat := &websocket.Server{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := r.Context().Value(userKey{})
		chat.ServeHTTPWith(w, r, websocket.Handler{
			OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
				chat.Broadcast(t, fmt.Appendf(nil, "%s: %s", user, p))
			},
		})
	})
	authenticate := func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth() // and its password
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
	}
	server := httptest.NewServer(http.HandlerFunc(authenticate))
	defer server.Close()

	c, err := websocket.Dial(context.Background(), strings.Replace(server.URL, "http://", "ws://alice:secret@", 1), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	c.WriteMessage(websocket.Text, []byte("hello"))
	_, msg, err := c.ReadMessage()
	fmt.Printf("%s %v\n", msg, err)
	// Output: alice: hello <nil>
}

// Long work goes into goroutines, so that the connection is read meanwhile: pings are answered,
// and nobody takes it for dead. There is a bound on how much work is under way.
func ExampleHandler() {
	done := make(chan struct{})
	busy := make(chan struct{}, 2) // with as much work at once, for all clients
	server := httptest.NewServer(&websocket.Server{Handler: websocket.Handler{
		OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
			task := string(p) // p is valid until OnMessage returns
			select {
			case busy <- struct{}{}:
				go func() {
					defer func() { <-busy }()
					<-done // after a minute, say
					c.WriteMessage(t, []byte(task+" is done"))
				}()
			default:
				c.WriteMessage(t, []byte(task+" has to wait: ask later"))
			}
		},
	}})
	defer server.Close()

	c, err := websocket.Dial(context.Background(), server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, task := range []string{"cooking", "baking", "frying"} {
		c.WriteMessage(websocket.Text, []byte(task))
	}
	for range 3 {
		_, msg, err := c.ReadMessage()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msg)
		if string(msg) == "frying has to wait: ask later" {
			close(done)
		}
	}
	// Unordered output:
	// frying has to wait: ask later
	// cooking is done
	// baking is done
}

// Rooms: what a client says is sent to those that have come by the same path.
func ExampleServer_Send() {
	chat := &websocket.Server{}
	var mu sync.Mutex
	rooms := map[string][]*websocket.Conn{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		room := r.URL.Path
		chat.ServeHTTPWith(w, r, websocket.Handler{
			OnOpen: func(c *websocket.Conn) {
				mu.Lock()
				defer mu.Unlock()
				rooms[room] = append(rooms[room], c)
			},
			OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
				mu.Lock()
				defer mu.Unlock() // Send waits for nobody
				chat.Send(t, p, rooms[room]...)
			},
			OnClose: func(c *websocket.Conn, err error) {
				mu.Lock()
				defer mu.Unlock()
				rooms[room] = slices.DeleteFunc(rooms[room], func(o *websocket.Conn) bool { return o == c })
				if len(rooms[room]) == 0 {
					delete(rooms, room)
				}
			},
		})
	}))
	defer server.Close()

	for _, room := range []string{"/tea", "/coffee"} {
		c, err := websocket.Dial(context.Background(), server.URL+room, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		c.WriteMessage(websocket.Text, []byte("hello, "+room))
		_, msg, err := c.ReadMessage()
		fmt.Printf("%s %v\n", msg, err)
	}
	// Output:
	// hello, /tea <nil>
	// hello, /coffee <nil>
}

// Figures for those who look after a server.
func ExampleServer_Stats() {
	chat := &websocket.Server{}
	figures := expvar.Func(func() any { return chat.Stats() })
	// expvar.Publish("chat", figures) shows them at /debug/vars of http.DefaultServeMux.
	fmt.Println(figures)
	// Output: {"Conns":0,"Accepted":0,"Refused":{},"Closed":{},"MessagesReceived":0,"BytesReceived":0,"MessagesSent":0,"BytesSent":0,"Slow":0,"PingsLost":0}
}

// A handler that reads in a loop of its own.
func ExampleUpgrade() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Upgrade(w, r, &websocket.Options{MaxMessage: 4096})
		if err != nil {
			return // Upgrade has answered the request
		}
		defer c.Close()
		for {
			t, msg, err := c.ReadMessage()
			if err != nil {
				return
			}
			c.WriteMessage(t, bytes.ToUpper(msg))
		}
	}))
	defer server.Close()

	c, err := websocket.Dial(context.Background(), server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	c.WriteMessage(websocket.Text, []byte("hello"))
	_, msg, err := c.ReadMessage()
	fmt.Printf("%s %v\n", msg, err)
	// Output: HELLO <nil>
}

// A server that refuses says why in its response.
func ExampleDial_refused() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Members only.", http.StatusForbidden)
	}))
	defer server.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := websocket.Dial(ctx, server.URL, nil)
	fmt.Println(err)
	if refused, ok := errors.AsType[*websocket.HandshakeError](err); ok && refused.Response != nil {
		io.Copy(os.Stdout, refused.Response.Body)
	}
	// Output:
	// websocket: opening handshake failed: the server answered 403 Forbidden
	// Members only.
}

// A client whose functions are called.
func ExampleConn_Serve() {
	server := httptest.NewServer(&websocket.Server{Handler: websocket.Handler{
		OnOpen: func(c *websocket.Conn) {
			c.WriteMessage(websocket.Text, []byte("welcome"))
			c.CloseWith(websocket.CloseNormal, "that was all")
		},
	}})
	defer server.Close()

	c, err := websocket.Dial(context.Background(), server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	c.Serve(websocket.Handler{
		OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
			fmt.Printf("%v: %s\n", t, p)
		},
		OnClose: func(c *websocket.Conn, err error) {
			fmt.Println(err)
		},
	})
	// Output:
	// text: welcome
	// websocket: closed by the peer: 1000 (normal closure): that was all
}

// listen prints what a server sends, until ctx is done or the connection has ended.
func listen(ctx context.Context, url string) error {
	c, err := websocket.Dial(ctx, url, &websocket.Options{PingInterval: 20 * time.Second})
	if err != nil {
		return err // a *HandshakeError if the server has refused
	}
	defer context.AfterFunc(ctx, func() { c.CloseWith(websocket.CloseGoingAway, "") })()
	return c.Serve(websocket.Handler{
		OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
			fmt.Printf("%s\n", p)
		},
	})
}

// A client that goes when a context is done.
func ExampleConn_Serve_context() {
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(&websocket.Server{Handler: websocket.Handler{
		OnOpen: func(c *websocket.Conn) {
			c.WriteMessage(websocket.Text, []byte("welcome"))
			go func() {
				c.Ping(ctx) // its pong comes when the client has printed that
				cancel()
			}()
		},
	}})
	defer server.Close()

	fmt.Println(listen(ctx, server.URL))
	// Output:
	// welcome
	// websocket: closed: 1001 (going away)
}

// pipeTest is what the test that runs ExamplePipe has got.
var pipeTest *testing.T

func TestExamplePipe(t *testing.T) {
	pipeTest = t
	ExamplePipe()
}

// A test of a function that gives its client a minute. In a bubble of testing/synctest that takes
// no time, and is exact.
func ExamplePipe() {
	greet := func(c *websocket.Conn) {
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Minute))
		_, name, err := c.ReadMessage()
		if err != nil {
			c.CloseWith(websocket.ClosePolicyViolation, "nobody there?")
			return
		}
		c.WriteMessage(websocket.Text, fmt.Appendf(nil, "hello, %s", name))
	}

	t := pipeTest // of func TestGreet(t *testing.T)
	synctest.Test(t, func(t *testing.T) {
		client, server, err := websocket.Pipe(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		go greet(server)

		start := time.Now()
		_, _, err = client.ReadMessage()
		closed, ok := errors.AsType[*websocket.CloseError](err)
		if !ok || closed.Code != websocket.ClosePolicyViolation {
			t.Errorf("a silent client got %v", err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("it had %v", d)
		}
	})
}

// A client that stays connected to a server, which restarts now and then.
func ExampleReconnect() {
	server := httptest.NewServer(&websocket.Server{Handler: websocket.Handler{
		OnOpen: func(c *websocket.Conn) {
			c.WriteMessage(websocket.Text, []byte("welcome"))
			c.CloseWith(websocket.CloseServiceRestart, "")
		},
	}})
	defer server.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	visits := 0
	for c, err := range websocket.Reconnect(ctx, server.URL, &websocket.Options{PingInterval: 20 * time.Second}) {
		if err != nil {
			log.Print(err) // of an attempt that has failed; it may not be the last
			continue
		}
		err = c.Serve(websocket.Handler{
			OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
				fmt.Printf("%s\n", p)
			},
		})
		fmt.Println(err)
		if visits++; visits == 2 {
			cancel() // in a program, when it is to end
		}
	}
	// Output:
	// welcome
	// websocket: closed by the peer: 1012 (service restart)
	// welcome
	// websocket: closed by the peer: 1012 (service restart)
}

// The client's side over any stream, here one in memory.
func ExampleClientHandshake() {
	a, b := net.Pipe()
	go func() {
		h := websocket.NewConn(b, nil)
		websocket.ShakeHands(h)
		websocket.PutFrame(h, []byte("hello"))
		h.Close()
	}()

	c, err := websocket.ClientHandshake(a, "ws://example.com/chat", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, msg, err := c.ReadMessage()
	fmt.Printf("%s %v\n", msg, err)
	// Output: hello <nil>
}
