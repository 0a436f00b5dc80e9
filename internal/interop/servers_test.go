package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

// TestServers has our client talk to the servers of others. These print how the
// connection has ended, after each of them.
func TestServers(t *testing.T) {
	for _, p := range installed(t, []program{
		{name: "Node", command: []string{"node", "server.js"}, needed: node},
		{name: "Python", command: []string{"/usr/bin/python3", "server.py"}, needed: python},
	}) {
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			s := &peer{process: p.start(t, ctx), ctx: ctx}
			s.host = "127.0.0.1:" + s.port(t)
			for _, tt := range []struct {
				name string
				run  func(*testing.T)
			}{
				{"Messages", s.testMessages},
				{"Fragments", s.testFragments},
				{"Request", s.testRequest},
				{"Subprotocols", s.testSubprotocols},
				{"CloseByServer", s.testCloseByServer},
				{"CloseByClient", s.testCloseByClient},
				{"ClientHandshake", s.testClientHandshake},
				{"Refusal", s.testRefusal},
			} {
				if !t.Run(tt.name, tt.run) {
					return // the others would get the lines that this one has not read
				}
			}
		})
	}
}

// A peer is a server that somebody else has written.
type peer struct {
	*process
	ctx  context.Context
	host string
}

// dial connects to s and reads its greeting. The connection's calls end in time.
func (s *peer) dial(t *testing.T, url string, o *websocket.Options) *websocket.Conn {
	t.Helper()
	c, err := websocket.Dial(s.ctx, url, o)
	if err != nil {
		t.Fatal(err)
	}
	s.greet(t, c)
	return c
}

func (s *peer) greet(t *testing.T, c *websocket.Conn) {
	t.Helper()
	t.Cleanup(func() { c.CloseNow() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	want(t, c, websocket.Text, greeting)
}

func (s *peer) url() string { return "ws://" + s.host + "/cats?lives=9" }

// want reads a message.
func want(t *testing.T, c *websocket.Conn, typ websocket.MessageType, text string) {
	t.Helper()
	gotType, got, err := c.ReadMessage()
	if gotType != typ || string(got) != text || err != nil {
		t.Fatalf("got %v %.50q (%d bytes), %v, want %v %.50q (%d bytes)", gotType, got, len(got), err, typ, text, len(text))
	}
}

// send sends a message.
func send(t *testing.T, c *websocket.Conn, typ websocket.MessageType, text string) {
	t.Helper()
	if err := c.WriteMessage(typ, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// closed checks what s prints of a connection that has ended: a code, and a reason
// that has to be the one in end if there is any in there.
func (s *peer) closed(t *testing.T, end string) {
	t.Helper()
	got := strings.TrimPrefix(s.line(t), "closed ")
	if code, _, _ := strings.Cut(got, " "); got != end && code != end {
		t.Errorf("the server printed %q, want %q", got, end)
	}
}

// hangUp closes c in an orderly way.
func (s *peer) hangUp(t *testing.T, c *websocket.Conn) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error("Close:", err)
	}
	s.closed(t, "1000")
}

func (s *peer) testMessages(t *testing.T) {
	large := strings.Repeat("γ", 1<<19-4) + "x" // with a meow it is 1 MiB
	c := s.dial(t, s.url(), nil)
	for _, tt := range []struct {
		typ  websocket.MessageType
		text string
	}{
		{websocket.Text, "hello"},
		{websocket.Text, ""},
		{websocket.Text, "γάτα 🐱"},
		{websocket.Binary, "\x00\xFF"},
		{websocket.Binary, ""},
		{websocket.Text, strings.Repeat("x", 118)}, // around the limits of both forms of length
		{websocket.Binary, strings.Repeat("x", 126)},
		{websocket.Text, strings.Repeat("x", 1<<16-8)},
		{websocket.Binary, strings.Repeat("x", 1<<16)},
		{websocket.Text, large},
		{websocket.Binary, large},
	} {
		send(t, c, tt.typ, tt.text)
		want(t, c, tt.typ, tt.text+", meow.")
	}
	for _, text := range []string{"one", "two", "three"} {
		send(t, c, websocket.Text, text)
	}
	for _, text := range []string{"one", "two", "three"} {
		want(t, c, websocket.Text, text+", meow.")
	}
	s.hangUp(t, c)
}

// testFragments sends and gets a message in fragments. Each time the sender
// pings the other side between two of them and waits for the pong.
func (s *peer) testFragments(t *testing.T) {
	c := s.dial(t, s.url(), nil)
	sent := make(chan error, 1)
	go func() { sent <- sendFragments(s.ctx, c) }()
	want(t, c, websocket.Text, "fragmented, meow.")
	if err := <-sent; err != nil {
		t.Error(err)
	}

	w, err := c.NextWriter(websocket.Binary)
	if err != nil {
		t.Fatal(err)
	}
	piece := bytes.Repeat([]byte{0xFF}, 1<<16)
	for range 4 {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, c, websocket.Binary, strings.Repeat(string(piece), 4)+", meow.")

	send(t, c, websocket.Text, "fragments")
	want(t, c, websocket.Text, "fragmented")
	s.hangUp(t, c)
}

// testRequest looks at what the server gets in the opening handshake. The cookie
// that it sets has to come back.
func (s *peer) testRequest(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &websocket.Options{
		Header:     http.Header{"Cat": {"Felix"}},
		HTTPClient: &http.Client{Jar: jar},
		Protocols:  []string{"purr"},
	}
	url := "ws://Tom:secret@" + s.host + "/cats?lives=9"
	const authorization = "Basic VG9tOnNlY3JldA==" // RFC 7617, section 2
	for _, cookie := range []string{"", "tail=long"} {
		c := s.dial(t, url, o)
		send(t, c, websocket.Text, "request")
		want(t, c, websocket.Text, strings.Join([]string{"/cats?lives=9", "purr", cookie, "Felix", authorization}, ", "))
		s.hangUp(t, c)
	}
}

// testSubprotocols offers subprotocols to a server that knows meow and purr.
func (s *peer) testSubprotocols(t *testing.T) {
	for _, tt := range []struct {
		offered  []string
		accepted string
	}{
		{nil, ""},
		{[]string{"purr"}, "purr"},
		{[]string{"bark", "meow"}, "meow"},
		{[]string{"bark"}, ""},
	} {
		c := s.dial(t, s.url(), &websocket.Options{Protocols: tt.offered})
		if got := c.Request().Protocol; got != tt.accepted {
			t.Errorf("offered %q: the server has accepted %q, want %q", tt.offered, got, tt.accepted)
		}
		s.hangUp(t, c)
	}
}

func (s *peer) testCloseByServer(t *testing.T) {
	for _, tt := range []struct {
		command string
		code    websocket.CloseCode
		reason  string
	}{
		{"close 1000 ", websocket.CloseNormal, ""},
		{"close 1001 see you", websocket.CloseGoingAway, "see you"},
		{"close 1011 γάτα", websocket.CloseInternalError, "γάτα"},
		{"close 4999 " + strings.Repeat("x", 123), 4999, strings.Repeat("x", 123)},
	} {
		c := s.dial(t, s.url(), nil)
		send(t, c, websocket.Text, tt.command)
		_, _, err := c.ReadMessage()
		closed, ok := errors.AsType[*websocket.CloseError](err)
		if !ok || closed.Code != tt.code || closed.Reason != tt.reason {
			t.Fatalf("%.20q: got %v", tt.command, err)
		}
		if orderly := tt.code <= websocket.CloseGoingAway; errors.Is(err, io.EOF) != orderly {
			t.Errorf("%.20q: %v is io.EOF: %t", tt.command, err, !orderly)
		}
		if err := c.Close(); err != nil {
			t.Errorf("%.20q: Close: %v", tt.command, err)
		}
		s.closed(t, strings.TrimSpace(strconv.Itoa(int(tt.code))+" "+tt.reason)) // which our own close frame holds
	}
}

func (s *peer) testCloseByClient(t *testing.T) {
	for _, tt := range []struct {
		name  string
		close func(*websocket.Conn) error
		end   string
	}{
		{"Close", (*websocket.Conn).Close, "1000"},
		{"CloseNow", (*websocket.Conn).CloseNow, "1006"},
		{"no code", func(c *websocket.Conn) error { return c.CloseWith(websocket.CloseNoStatus, "") }, "1005"},
		{"code", func(c *websocket.Conn) error { return c.CloseWith(3000, "") }, "3000"},
		{"reason", func(c *websocket.Conn) error { return c.CloseWith(4999, "γάτα") }, "4999 γάτα"},
		{"too large a message", func(c *websocket.Conn) error {
			err := c.WriteMessage(websocket.Binary, make([]byte, 94)) // and a meow
			if err != nil {
				return err
			}
			_, _, err = c.ReadMessage()
			if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != websocket.CloseMessageTooBig {
				return fmt.Errorf("ReadMessage returned the error %v", err)
			}
			return c.Close()
		}, "1009"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.dial(t, s.url(), &websocket.Options{MaxMessage: 100})
			if err := tt.close(c); err != nil {
				t.Error(err)
			}
			s.closed(t, tt.end)
		})
	}
}

func (s *peer) testClientHandshake(t *testing.T) {
	conn, err := net.Dial("tcp", s.host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := websocket.ClientHandshake(conn, s.url(), &websocket.Options{Protocols: []string{"meow"}})
	if err != nil {
		t.Fatal(err)
	}
	s.greet(t, c)
	send(t, c, websocket.Text, "request")
	want(t, c, websocket.Text, "/cats?lives=9, meow, , , ")
	s.hangUp(t, c)
}

func (s *peer) testRefusal(t *testing.T) {
	c, err := websocket.Dial(s.ctx, "ws://"+s.host+"/dogs", nil)
	if err == nil {
		c.CloseNow()
	}
	refusal, ok := errors.AsType[*websocket.HandshakeError](err)
	if !ok || refusal.Status != http.StatusForbidden || refusal.Response == nil {
		t.Fatal("got", err)
	}
	body, err := io.ReadAll(refusal.Response.Body)
	if string(body) != "No dogs here." || err != nil {
		t.Errorf("the body is %q, %v", body, err)
	}
	if got := refusal.Response.Header.Get("Cat"); got != "Felix" {
		t.Errorf("the field Cat is %q", got)
	}
}
