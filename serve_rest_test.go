package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestServerRest follows connections from rest to rest: new ones, after a message, when they
// have been busy, and when they have been silent for a while.
func TestServerRest(t *testing.T) {
	const n = 3
	opened := make(chan *Conn, n)
	s := &Server{Options: Options{PingInterval: time.Hour}, Handler: Handler{
		OnOpen:    func(c *Conn) { opened <- c },
		OnMessage: func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) },
	}}
	l := serveTCP(t, s, false)
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	var clients, conns []*Conn
	for range n {
		c, err := ClientHandshake(dialTCP(t, l), "ws://server.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		clients, conns = append(clients, c), append(conns, wait(t, opened))
	}
	echo := func(c *Conn) {
		t.Helper()
		if err := c.WriteMessage(Text, []byte("Hello")); err != nil {
			t.Fatal(err)
		}
		expectMessages(t, c, "Hello")
	}
	awaitRest(t, s, n, 0)
	for _, c := range clients {
		echo(c)
	}
	awaitRest(t, s, n, 0)
	if err := s.Broadcast(Text, []byte("news")); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		expectMessages(t, c, "news")
	}
	for range 3 {
		echo(clients[0])
	}
	awaitRest(t, s, n-1, 1)

	c := clients[0]
	passInterval(conns[0])
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	pinged := goErr(func() error { _, _, err := c.ReadMessage(); return err })
	awaitRest(t, s, n, 0)
	conns[0].WriteMessage(Text, []byte("still here"))
	if err := wait(t, pinged); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(20 * time.Second); conns[0].t.lastInput() != s.clock.now.Load(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("there is no pong")
		}
	}

	// What comes in pieces is waited for as ever.
	passInterval(conns[0])
	whole := appendFrame(nil, finBit|opText, []byte("in pieces"), true)
	for _, b := range whole {
		c.mu.Lock()
		c.write.putBytes([]byte{b})
		err := c.flushLocked(callers)
		c.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	expectMessages(t, c, "in pieces")
	echo(c)
}

// TestServerRestEnds ends connections that are at rest.
func TestServerRestEnds(t *testing.T) {
	tests := []struct {
		name  string
		end   func(t *testing.T, s *Server, c, client *Conn)
		check func(t *testing.T, err error) // of OnClose
		peer  CloseCode                     // that the client reads, or 0
	}{
		{"peer closes", func(t *testing.T, _ *Server, _, client *Conn) {
			if err := client.CloseWith(4000, "bye"); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, err error) { checkCode(t, err, 4000, byPeer) }, 0},
		{"peer ends", func(t *testing.T, _ *Server, _, client *Conn) { client.CloseNow() },
			func(t *testing.T, err error) {
				if cause(err) != io.EOF {
					t.Error(err)
				}
			}, 0},
		{"peer resets", func(t *testing.T, _ *Server, _, client *Conn) {
			client.t.rw.(*net.TCPConn).SetLinger(0)
			client.CloseNow()
		}, func(t *testing.T, err error) {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		}, 0},
		{"peer breaks the protocol", func(t *testing.T, _ *Server, _, client *Conn) {
			client.mu.Lock()
			defer client.mu.Unlock()
			client.write.putBytes([]byte{0x83, 0x80, 0, 0, 0, 0})
			client.flushLocked(callers)
		}, func(t *testing.T, err error) { checkCode(t, err, CloseProtocolError, byFailure) }, CloseProtocolError},
		{"CloseWith", func(t *testing.T, _ *Server, c, _ *Conn) {
			if err := c.CloseWith(4001, ""); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, err error) { checkCode(t, err, 4001, byUs) }, 4001},
		{"CloseNow", func(t *testing.T, _ *Server, c, _ *Conn) { c.CloseNow() },
			func(t *testing.T, err error) {
				if err != net.ErrClosed {
					t.Error(err)
				}
			}, 0},
		{"read deadline", func(t *testing.T, _ *Server, c, _ *Conn) { c.SetReadDeadline(time.Unix(1, 0)) },
			func(t *testing.T, err error) {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			}, CloseNormal},
		{"Shutdown", func(t *testing.T, s *Server, _, _ *Conn) {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, err error) { checkCode(t, err, CloseGoingAway, byUs) }, CloseGoingAway},
		{"panic", func(t *testing.T, _ *Server, _, client *Conn) { client.WriteMessage(Text, []byte("panic")) },
			func(t *testing.T, err error) { checkCode(t, err, CloseInternalError, byUs) }, CloseInternalError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opened, closed := make(chan *Conn, 1), make(chan error, 2)
			s := &Server{Handler: Handler{
				OnOpen: func(c *Conn) { opened <- c },
				OnMessage: func(_ *Conn, _ MessageType, p []byte) {
					if string(p) == "panic" {
						panic("out of tea")
					}
				},
				OnClose: func(_ *Conn, err error) { closed <- err },
			}}
			l := serveTCP(t, s, false)
			client, err := ClientHandshake(dialTCP(t, l).(*net.TCPConn), "ws://server.example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseNow()
			if err := client.WriteMessage(Text, []byte("Hello")); err != nil {
				t.Fatal(err)
			}
			c := wait(t, opened)
			awaitRest(t, s, 1, 0)
			read := make(chan error, 1)
			if tt.peer != 0 {
				go func() {
					_, _, err := client.ReadMessage()
					client.Close()
					read <- err
				}()
			}
			tt.end(t, s, c, client)
			tt.check(t, wait(t, closed))
			if tt.peer != 0 {
				if e, ok := errors.AsType[*CloseError](wait(t, read)); !ok || e.Code != tt.peer {
					t.Errorf("the peer has read %v, want %v", e, tt.peer)
				}
			}
			awaitRest(t, s, 0, 0)
			if err := s.Shutdown(t.Context()); err != nil || len(closed) > 0 {
				t.Errorf("Shutdown: %v; OnClose was called %d times more", err, len(closed))
			}
		})
	}
}

// TestServerRestSoon has connections rest that were busy, once they have waited for more than a tick
// of the clock, also without pings, and keeps read deadlines.
func TestServerRestSoon(t *testing.T) {
	opened, closed := make(chan *Conn, 1), make(chan error, 1)
	s := &Server{Options: Options{PingInterval: -1}, Handler: Handler{
		OnOpen:    func(c *Conn) { opened <- c },
		OnMessage: func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) },
		OnClose:   func(_ *Conn, err error) { closed <- err },
	}}
	l := serveTCP(t, s, false)
	client, err := ClientHandshake(dialTCP(t, l), "ws://server.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseNow()
	c := wait(t, opened)
	k := c.serve.watcher()
	k.mu.Lock()
	k.timer.Stop() // the test ticks
	k.tick = time.Minute
	k.mu.Unlock()
	tick := func(n uint32) (due uint32) {
		t.Helper()
		now := k.now.Add(n)
		due, more := c.look(now)
		if !more {
			t.Fatal("it is not looked at any more")
		}
		return due - now
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("not yet: ", what)
			}
		}
	}
	awake := func() {
		t.Helper()
		until("a goroutine reads", func() bool { return !s.resting.waits(c) })
	}
	asleep := func() { // once the goroutine has come to wait
		t.Helper()
		until("it rests", func() bool { tick(restSoon); return s.resting.waits(c) })
	}
	busy := func() {
		t.Helper()
		for range 3 {
			if err := client.WriteMessage(Text, []byte("Hello")); err != nil {
				t.Fatal(err)
			}
			expectMessages(t, client, "Hello")
		}
	}
	busy()
	awaitRest(t, s, 0, 1)
	if due := tick(1); due != restSoon {
		t.Errorf("a busy connection is looked at again in %d ticks", due)
	}
	awaitRest(t, s, 0, 1)
	asleep()
	for range 2 * ticks { // with nothing to be done, nor to be complained of
		tick(1)
	}
	awaitRest(t, s, 1, 0)

	busy() // the first after a long rest
	awaitRest(t, s, 0, 1)
	wire := appendFrame(nil, finBit|opText, []byte("in pieces"), true)
	k.now.Add(1)
	client.t.rw.Write(wire[:8])
	until("the first piece has been read", func() bool { return c.t.lastInput() == k.now.Load() })
	tick(restSoon)
	client.t.rw.Write(wire[8:])
	expectMessages(t, client, "in pieces")

	c.SetReadDeadline(time.Now().Add(10 * time.Minute))
	for range 3 {
		tick(restSoon)
	}
	awake() // as the clock might be late
	c.SetReadDeadline(time.Now().Add(time.Hour))
	asleep()
	k.mu.Lock()
	k.tick = time.Hour // the next look would be too late
	k.mu.Unlock()
	tick(restSoon)
	awake()
	k.mu.Lock()
	k.tick = time.Second
	k.mu.Unlock()
	asleep()
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := wait(t, closed); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	go client.ReadMessage()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A wait that was to end for a rest may have ended for another reason. Then it is not for whoever
// closes the connection later to rest: a timeout is one.
func TestRestStale(t *testing.T) {
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	defer b.Close()
	c := newConn(a, nil, false)
	defer c.CloseNow()
	c.turn = turnCloser
	c.serve.nudge()
	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.fill(nil); err == errRest || !isTimeout(err) {
		t.Error(err)
	}
}

// A connection that cannot rest before its first message, as its read deadline is near, is served by
// a goroutine, and the deadline is kept. So is one that was closed before.
func TestAdoptNoRest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*Conn)
		check  func(t *testing.T, err error)
	}{
		{"deadline", func(c *Conn) { c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) }, func(t *testing.T, err error) {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}},
		{"closed", func(c *Conn) { c.CloseNow() }, func(t *testing.T, err error) {
			if err != net.ErrClosed {
				t.Error(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s Server
			a, _ := socketPair(t, "tcp", "127.0.0.1:0")
			c := newConn(a, &Options{CloseTimeout: 10 * time.Millisecond}, false)
			tt.before(c)
			closed := make(chan error, 1)
			if err := s.Adopt(c, Handler{OnClose: func(_ *Conn, err error) { closed <- err }}); err != nil {
				t.Fatal(err)
			}
			tt.check(t, wait(t, closed))
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A method that still reads when a closing handshake has begun has the turn, and the input, until the
// answer has come. A connection that is served only then leaves both alone.
func TestServeReadsStill(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(s *Server, c *Conn, h Handler) error
	}{
		{"Serve", func(_ *Server, c *Conn, h Handler) error { go c.Serve(h); return nil }},
		{"Adopt", func(s *Server, c *Conn, h Handler) error { return s.Adopt(c, h) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s Server
			a, peer := socketPair(t, "tcp", "127.0.0.1:0")
			c := newConn(a, nil, false)
			defer c.CloseNow()
			read := goErr(func() error { _, _, err := c.ReadMessage(); return err })
			for reads := false; !reads; runtime.Gosched() {
				c.mu.Lock()
				reads = c.turn == turnMethod
				c.mu.Unlock()
			}
			ended := goErr(func() error { return c.CloseWith(4000, "") })
			for c.ended() == nil {
				runtime.Gosched()
			}
			wire := appendFrame(nil, finBit|opText, make([]byte, 100), true)
			wire = appendFrame(wire, finBit|opClose, []byte{0x0f, 0xa0}, true)
			sent := goErr(func() (err error) {
				for i := 0; i < len(wire) && err == nil; i++ {
					_, err = peer.Write(wire[i:][:1])
				}
				return err
			})
			closed := make(chan error, 1)
			if err := tt.serve(&s, c, Handler{OnClose: func(_ *Conn, err error) { closed <- err }}); err != nil {
				t.Fatal(err)
			}
			checkCode(t, wait(t, closed), 4000, byUs)
			if err := wait(t, sent); err != nil {
				t.Error(err)
			}
			checkCode(t, wait(t, read), 4000, byUs)
			if err := wait(t, ended); err != nil {
				t.Error(err)
			}
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
