package interop

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

// A direction is what a peer asks for, or what is agreed on, of the messages that one
// side sends.
type direction struct {
	reset bool // no context takeover
	bits  int  // of the window; 0: not asked for, or 15
}

func (d direction) String() string {
	if d.reset {
		return fmt.Sprint(cmp.Or(d.bits, 15), " reset")
	}
	return fmt.Sprint(cmp.Or(d.bits, 15), " takeover")
}

const (
	deflate      = "permessage-deflate"
	bothReset    = deflate + "; server_no_context_takeover; client_no_context_takeover"
	bothWindows9 = "; server_max_window_bits=9; client_max_window_bits=9"
	bothWindows8 = "; server_max_window_bits=8; client_max_window_bits=8"
)

var deflateTests = []struct {
	name               string
	ours               websocket.Deflate
	askSent, askRecv   direction // what the peer asks for: of us, and for itself
	without            bool      // it does not compress
	asServer, asClient string    // what our server answers, and what theirs does
	sent, recv         direction // which means that
	large              int       // bytes of a large message; 0: 64 KiB
	only               string    // peer
}{
	{
		name: "Takeover", ours: websocket.Deflate{ContextTakeover: true}, large: 1 << 20, // Options.MaxMessage
		asServer: deflate, asClient: deflate,
	},
	{
		name: "Reset", asServer: bothReset, asClient: bothReset,
		sent: direction{reset: true}, recv: direction{reset: true},
	},
	{
		name: "TheirReset", ours: websocket.Deflate{ContextTakeover: true, WindowBits: 9},
		askSent: direction{reset: true}, askRecv: direction{reset: true},
		asServer: bothReset + bothWindows9, asClient: bothReset + bothWindows9,
		sent: direction{true, 9}, recv: direction{true, 9},
	},
	{
		name: "SentTakeover", ours: websocket.Deflate{ContextTakeover: true, Level: 9},
		askRecv:  direction{reset: true},
		asServer: deflate + "; client_no_context_takeover", asClient: deflate + "; server_no_context_takeover",
		recv: direction{reset: true},
	},
	{
		name: "ReceivedTakeover", ours: websocket.Deflate{ContextTakeover: true},
		askSent:  direction{reset: true},
		asServer: deflate + "; server_no_context_takeover", asClient: deflate + "; client_no_context_takeover",
		sent: direction{reset: true},
	},
	{
		name: "Windows", ours: websocket.Deflate{ContextTakeover: true, WindowBits: 9},
		asServer: deflate + bothWindows9, asClient: deflate + bothWindows9,
		sent: direction{bits: 9}, recv: direction{bits: 9},
	},
	{
		name: "TheirWindows", ours: websocket.Deflate{ContextTakeover: true}, large: 1 << 20,
		askSent: direction{bits: 10}, askRecv: direction{bits: 9},
		asServer: deflate + "; server_max_window_bits=10; client_max_window_bits=9",
		asClient: deflate + "; server_max_window_bits=9; client_max_window_bits=10",
		sent:     direction{bits: 10}, recv: direction{bits: 9},
	},
	// zlib can read what a window of 8 bits allows but cannot write it. Then Node.js has it
	// use 9, and Python fails.
	{
		name: "Windows8", ours: websocket.Deflate{ContextTakeover: true, WindowBits: 8}, only: "Node",
		asServer: deflate + bothWindows8, asClient: deflate + bothWindows8,
		sent: direction{bits: 8}, recv: direction{bits: 8},
	},
	{
		name: "SentWindow8", ours: websocket.Deflate{ContextTakeover: true}, only: "Python",
		askSent:  direction{bits: 8},
		asServer: deflate + "; server_max_window_bits=8", asClient: deflate + "; client_max_window_bits=8",
		sent: direction{bits: 8},
	},
	{name: "Without", ours: websocket.Deflate{ContextTakeover: true}, without: true},
}

// TestDeflate talks, compressed, to the clients and to the servers of others.
func TestDeflate(t *testing.T) {
	peers := installed(t, []program{
		{name: "Node", command: []string{"node", "deflate.js"}, needed: node},
		{name: "Python", command: []string{"/usr/bin/python3", "deflate.py"}, needed: python},
	})
	for _, tt := range deflateTests {
		asked := func(server, client direction) string {
			params := make(map[string]any)
			for name, d := range map[string]direction{"server": server, "client": client} {
				if d.reset {
					params[name+"_no_context_takeover"] = true
				}
				if d.bits != 0 {
					params[name+"_max_window_bits"] = d.bits
				}
			}
			if tt.without {
				params = nil
			}
			text, err := json.Marshal(params)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		line := fmt.Sprintf("reads %v, writes %v", tt.sent, tt.recv)
		if tt.without {
			line = "reads plain, writes plain"
		}
		check := func(t *testing.T, ctx context.Context, p *process, c *websocket.Conn, traffic *counter, extensions string) {
			t.Cleanup(func() { c.CloseNow() })
			c.SetDeadline(time.Now().Add(timeout))
			if got := p.line(t); got != line {
				t.Fatalf("the peer %s, want that it %s", got, line)
			}
			// The parameters may come in any order.
			got, want := strings.Split(c.Request().Extensions, "; "), strings.Split(extensions, "; ")
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("agreed on %q, want %q", c.Request().Extensions, extensions)
			}
			d := &deflated{ctx: ctx, conn: c, traffic: traffic, plain: tt.without}
			d.testSmall(t, tt.sent, tt.recv)
			d.testLarge(t, cmp.Or(tt.large, 64<<10))
			d.testFragments(t)
			d.testPieces(t)
			if err := c.Close(); err != nil {
				t.Error("Close:", err)
			}
			if got := p.line(t); got != "closed 1000" {
				t.Errorf("the peer printed %q at the end", got)
			}
		}
		tt.ours.Threshold = 128 // else without takeover no small message is compressed
		options := &websocket.Options{Deflate: &tt.ours}
		for _, p := range peers {
			if tt.only != "" && tt.only != p.name {
				continue
			}
			t.Run(tt.name+"/"+p.name+"Client", func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				accepted, done := make(chan *websocket.Conn, 1), make(chan struct{})
				defer close(done)
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c, err := websocket.Upgrade(w, r, options)
					if err != nil {
						t.Error("Upgrade:", err)
					}
					accepted <- c
				}))
				traffic := new(counter)
				s.Listener = countingListener{s.Listener, traffic}
				s.Start()
				defer s.Close()
				_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
				process := p.start(t, ctx, asked(tt.askSent, tt.askRecv), port)
				select {
				case c := <-accepted:
					if c == nil {
						return
					}
					check(t, ctx, process, c, traffic, tt.asServer)
				case <-ctx.Done():
					t.Fatalf("the client does not come: %s", process.end(t))
				}
				process.end(t)
			})
			t.Run(tt.name+"/"+p.name+"Server", func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				process := p.start(t, ctx, asked(tt.askRecv, tt.askSent))
				host := "127.0.0.1:" + process.port(t)
				conn, err := net.Dial("tcp", host)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				traffic := &counter{Conn: conn}
				c, err := websocket.ClientHandshake(traffic, "ws://"+host, options)
				if err != nil {
					t.Fatal(err)
				}
				check(t, ctx, process, c, traffic, tt.asClient)
			})
		}
	}
}

// A counter is a connection that counts its bytes.
type counter struct {
	net.Conn
	sent, received atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// A countingListener accepts one connection, which it makes that of the counter.
type countingListener struct {
	net.Listener
	counter *counter
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.counter.Conn = conn
	return l.counter, nil
}

// deflated is a connection to a peer that sends all messages back.
type deflated struct {
	ctx     context.Context
	conn    *websocket.Conn
	traffic *counter
	plain   bool // nothing is compressed
}

// echo sends a message, gets it back, and returns how many bytes have passed for that.
func (d *deflated) echo(t *testing.T, typ websocket.MessageType, text string) (sent, received int64) {
	t.Helper()
	sent, received = d.traffic.sent.Load(), d.traffic.received.Load()
	send(t, d.conn, typ, text)
	want(t, d.conn, typ, text)
	return d.traffic.sent.Load() - sent, d.traffic.received.Load() - received
}

// testSmall sends small messages, and one of them again and again: that becomes smaller if
// it may refer to those before it.
func (d *deflated) testSmall(t *testing.T, sent, recv direction) {
	for _, text := range []string{"", "x", "", "γάτα 🐱", strings.Repeat("γάτα 🐱 ", 50)} {
		d.echo(t, websocket.Text, text)
		d.echo(t, websocket.Binary, text)
	}
	text := records(200)
	firstOut, firstIn := d.echo(t, websocket.Text, text)
	for range 3 {
		out, in := d.echo(t, websocket.Text, text)
		for _, way := range []struct {
			name         string
			agreed       direction
			first, later int64
		}{{"sent", sent, firstOut, out}, {"received", recv, firstIn, in}} {
			switch {
			case d.plain:
				if way.later < int64(len(text)) {
					t.Errorf("a message of %d bytes has been %s as %d", len(text), way.name, way.later)
				}
			case way.first >= int64(len(text)):
				t.Errorf("a message of %d bytes has been %s as %d", len(text), way.name, way.first)
			case way.agreed.reset && way.later != way.first:
				t.Errorf("a message has been %s as %d bytes, and again as %d", way.name, way.first, way.later)
			case way.agreed.bits == 8: // which is too small for the message before this one
			case !way.agreed.reset && way.later > way.first/2:
				t.Errorf("a message has been %s as %d bytes, and again as %d, want at most half of it", way.name, way.first, way.later)
			}
		}
	}
}

// testLarge sends a message that becomes much smaller, and one that cannot.
func (d *deflated) testLarge(t *testing.T, size int) {
	sent, received := d.echo(t, websocket.Text, records(size))
	if small := max(sent, received) < int64(size)/2; small == d.plain {
		t.Errorf("a text of %d bytes has been sent as %d and received as %d", size, sent, received)
	}
	random := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(random)
	if sent, _ := d.echo(t, websocket.Binary, string(random)); sent < int64(size) || sent > int64(size)+100 {
		t.Errorf("%d random bytes have been sent as %d", size, sent)
	}
}

// testFragments sends and gets a message in fragments, with a ping between them.
func (d *deflated) testFragments(t *testing.T) {
	text := "fragments " + records(5000)
	for range 2 {
		sent := make(chan error, 1)
		before := d.traffic.sent.Load()
		go func() { sent <- d.sendFragments(text) }()
		want(t, d.conn, websocket.Text, text)
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if n := d.traffic.sent.Load() - before; n < int64(len(text)) == d.plain {
			t.Errorf("%d bytes have been sent as %d", len(text), n)
		}
	}
}

func (d *deflated) sendFragments(text string) error {
	w, err := d.conn.NextWriter(websocket.Text)
	if err != nil {
		return err
	}
	for len(text) > 0 {
		n := min(len(text), 999)
		if _, err := io.WriteString(w, text[:n]); err != nil {
			return err
		}
		if err := d.conn.Ping(d.ctx); err != nil {
			return err
		}
		text = text[n:]
	}
	return w.Close()
}

// testPieces reads a message in pieces, and then only the start of one.
func (d *deflated) testPieces(t *testing.T) {
	text := records(40000)
	send(t, d.conn, websocket.Binary, text)
	typ, r, err := d.conn.NextReader()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if typ != websocket.Binary || string(got) != text || err != nil {
		t.Fatalf("got %v of %d bytes, %v", typ, len(got), err)
	}
	send(t, d.conn, websocket.Text, text)
	_, r, err = d.conn.NextReader()
	if err != nil {
		t.Fatal(err)
	}
	start := make([]byte, 100)
	if _, err := io.ReadFull(r, start); string(start) != text[:100] || err != nil {
		t.Fatalf("got %q, %v", start, err)
	}
	d.echo(t, websocket.Text, text[:10000])
}

// records returns n bytes of text that is a little repetitive.
func records(n int) string {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"user":"user_%d","text":"the night falls on cat %d","tags":["meow","purr"]}`, r.IntN(1e6), r.IntN(1000), r.IntN(10))
	}
	return b.String()[:n]
}
