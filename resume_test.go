// Connections whose opening handshake has been done elsewhere.

package websocket

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// TestNewConnAfterHandshake has both sides come from NewConn, as what was done elsewhere says.
func TestNewConnAfterHandshake(t *testing.T) {
	text := sampleText(3000, 1)
	for _, tt := range []struct {
		extensions           string
		deflate              *Deflate
		compressed, takeover bool
	}{
		{"", nil, false, false},
		{"", &Deflate{}, false, false},
		{"permessage-deflate", nil, true, false},
		{"permessage-deflate", &Deflate{ContextTakeover: true}, true, true},
		{"permessage-deflate; server_no_context_takeover; client_no_context_takeover", &Deflate{ContextTakeover: true}, true, false},
		{"Permessage-Deflate; server_max_window_bits=9; client_max_window_bits=\"10\"", &Deflate{ContextTakeover: true}, true, false},
	} {
		a, b := net.Pipe()
		tap := &wireTap{Conn: a}
		o := &Options{Deflate: tt.deflate, Extensions: tt.extensions}
		server := NewConn(tap, o)
		o.Client = true
		client := NewConn(b, o)
		for _, c := range []*Conn{server, client} {
			if tt.extensions == "" && c == server {
				continue // it may yet shake hands
			}
			if req := c.Request(); req == nil || req.Version != RFC6455 || req.Extensions != tt.extensions {
				t.Errorf("%q: the request is %+v", tt.extensions, req)
			}
			if _, err := ShakeHands(c); err != errShaken {
				t.Error("another handshake returned", err)
			}
			if err := PutResponse(c, &Request{Version: RFC6455, Host: "h", Path: "/", Key: "dGhlIHNhbXBsZSBub25jZQ=="}); err != errShaken {
				t.Error("another response returned", err)
			}
		}
		for range 2 {
			for _, pair := range [][2]*Conn{{server, client}, {client, server}} {
				sent := goErr(func() error { return pair[0].WriteMessage(Text, text) })
				if _, got, err := pair[1].ReadMessage(); !bytes.Equal(got, text) || err != nil {
					t.Fatalf("%q: read %d bytes, %v", tt.extensions, len(got), err)
				}
				if err := wait(t, sent); err != nil {
					t.Fatal(err)
				}
			}
		}
		frames := tap.frames(t, false)
		if len(frames) != 2 || (frames[0].first&rsv1Bit != 0) != tt.compressed {
			t.Errorf("%q: sent frames %+v", tt.extensions, frames)
		} else if (len(frames[1].p) < len(frames[0].p)/2) != tt.takeover {
			t.Errorf("%q: the same message has %d bytes, and then %d", tt.extensions, len(frames[0].p), len(frames[1].p))
		}
		done := goErr(client.Close)
		server.Close()
		if err := wait(t, done); err != nil {
			t.Errorf("%q: Close: %v", tt.extensions, err)
		}
	}
}

// What cannot have been agreed on is an error of all calls, and not ignored.
func TestNewConnBadHandshake(t *testing.T) {
	for _, o := range []Options{
		{Extensions: "permessage-deflate; server_max_window_bits=7"},
		{Extensions: "permessage-deflate; client_max_window_bits"}, // which is an offer
		{Extensions: "permessage-deflate, permessage-deflate"},
		{Extensions: "x-other"},
		{Extensions: ";"},
		{Extensions: "permessage-deflate", Deflate: &Deflate{Level: 10}},
	} {
		for _, client := range []bool{false, true} {
			o.Client = client
			rw := &tape{in: [][]byte{firstFrames()}}
			c := NewConn(rw, &o)
			_, _, readErr := c.ReadMessage()
			writeErr := c.WriteMessage(Text, []byte("hello"))
			if readErr == nil || readErr == io.EOF || writeErr != readErr {
				t.Errorf("%q: a read returned %v, a write %v", o.Extensions, readErr, writeErr)
			}
			served := c.Serve(Handler{OnMessage: func(*Conn, MessageType, []byte) { t.Error("got a message") }})
			if served != readErr {
				t.Error("Serve returned", served)
			}
			c.Close()
			if !rw.closed || len(rw.written()) > 0 {
				t.Errorf("closed: %t, written: %q", rw.closed, rw.written())
			}
		}
	}
}
