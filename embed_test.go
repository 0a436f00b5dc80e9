package websocket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/54eee7d7/websocket"
)

// A session is a type of a program's own that embeds a Conn.
type session struct{ *websocket.Conn }

// handles are the forms in which a program may hold a Conn.
var handles = map[string]func(*websocket.Conn) io.ReadWriter{
	"embedded":       func(c *websocket.Conn) io.ReadWriter { return session{Conn: c} },
	"pointer":        func(c *websocket.Conn) io.ReadWriter { return &session{Conn: c} },
	"embedded twice": func(c *websocket.Conn) io.ReadWriter { return struct{ *session }{&session{Conn: c}} },
	"itself":         func(c *websocket.Conn) io.ReadWriter { return c },
}

// Every function finds the Conn in a struct that embeds one, and does not take it for a bare
// stream.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	for name, handle := range handles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := net.Pipe()
			defer b.Close()
			c := websocket.NewConn(a, &websocket.Options{Protocols: []string{"chat"}})
			defer c.CloseNow()
			h := handle(c)
			if got := websocket.NewConn(h, nil); got != c {
				t.Error("NewConn returned another Conn")
			}
			served := make(chan error, 1)
			go func() {
				served <- func() error {
					req, err := websocket.GetRequest(h)
					if err != nil {
						return err
					}
					if req.Protocol != "chat" {
						t.Errorf("GetRequest chose the subprotocol %q", req.Protocol)
					}
					if err := websocket.PutResponse(h, req); err != nil {
						return err
					}
					if c.Request() == nil {
						t.Error("PutResponse did not end the opening handshake of the Conn")
					}
					p, err := websocket.GetFrame(h)
					if err != nil {
						return err
					}
					return websocket.PutFrame(h, p)
				}()
			}()
			client, err := websocket.ClientHandshake(b, "ws://example.com/", &websocket.Options{Protocols: []string{"chat"}})
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseNow()
			if err := client.WriteMessage(websocket.Text, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if typ, p, err := client.ReadMessage(); typ != websocket.Text || string(p) != "hello" || err != nil {
				t.Errorf("the client got %v %q, %v", typ, p, err)
			}
			if err := <-served; err != nil {
				t.Error("the server ended with", err)
			}
		})
		t.Run(name+"/ShakeHands", func(t *testing.T) {
			t.Parallel()
			// Only a Conn speaks hixie-76.
			stream := &pipeEnds{r: bytes.NewReader([]byte(hixieHello))}
			c := websocket.NewConn(stream, nil)
			req, err := websocket.ShakeHands(handle(c))
			if err != nil || req.Version != websocket.Hixie76 || c.Request() == nil {
				t.Errorf("ShakeHands: %+v, %v", req, err)
			}
		})
		t.Run(name+"/PutRefusal", func(t *testing.T) {
			t.Parallel()
			c := websocket.NewConn(&pipeEnds{r: bytes.NewReader([]byte(hixieHello))}, nil)
			h := handle(c)
			if _, err := websocket.GetRequest(h); err != nil {
				t.Fatal(err)
			}
			if err := websocket.PutRefusal(h, &websocket.HandshakeError{Status: 403, Reason: "no"}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.ReadMessage(); !isRefused(err, 403) {
				t.Error("after PutRefusal the Conn returned", err)
			}
		})
	}
}

func isRefused(err error, status int) bool {
	e, ok := errors.AsType[*websocket.HandshakeError](err)
	return ok && e.Status == status
}

const hixieHello = "GET /demo HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\nUpgrade: WebSocket\r\n" +
	"Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\nOrigin: http://example.com\r\n\r\n^n:ds[4U"

// pipeEnds is a stream whose output nobody reads.
type pipeEnds struct{ r io.Reader }

func (p *pipeEnds) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pipeEnds) Write(b []byte) (int, error) { return len(b), nil }

// A Conn that is nil is an error of every function, and no panic; what NewConn returns for it
// has no other result.
func TestEmbeddedNil(t *testing.T) {
	t.Parallel()
	for name, handle := range handles {
		h := handle(nil)
		req := &websocket.Request{Version: websocket.RFC6455, Host: "h", Path: "/", Key: "dGhlIHNhbXBsZSBub25jZQ=="}
		for call, f := range map[string]func() error{
			"ShakeHands":  func() error { _, err := websocket.ShakeHands(h); return err },
			"GetRequest":  func() error { _, err := websocket.GetRequest(h); return err },
			"PutResponse": func() error { return websocket.PutResponse(h, req) },
			"PutRefusal":  func() error { return websocket.PutRefusal(h, &websocket.HandshakeError{Status: 403, Reason: "no"}) },
			"GetFrame":    func() error { _, err := websocket.GetFrame(h); return err },
			"PutFrame":    func() error { return websocket.PutFrame(h, nil) },
			"NewConn":     func() error { return websocket.PutFrame(websocket.NewConn(h, nil), nil) },
			"ReadMessage": func() error { _, _, err := websocket.NewConn(h, nil).ReadMessage(); return err },
		} {
			err := func() (err error) {
				defer func() {
					if v := recover(); v != nil {
						t.Errorf("%s, %s: panic: %v", name, call, v)
					}
				}()
				return f()
			}()
			if !errors.Is(err, os.ErrInvalid) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
		if err := websocket.NewConn(h, nil).Close(); err != nil {
			t.Errorf("%s, Close: %v", name, err)
		}
	}
}
