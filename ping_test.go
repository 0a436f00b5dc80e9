package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepalive lets time pass on connections whose peers do this and that.
func TestKeepalive(t *testing.T) {
	const interval = 5 * time.Second
	const never = -1
	drain := func(peer net.Conn, size int, every time.Duration) {
		p := make([]byte, size)
		for {
			time.Sleep(every)
			if _, err := io.ReadFull(peer, p); err != nil {
				return
			}
		}
	}
	frame := func(peer net.Conn, client bool, p string) bool {
		_, err := peer.Write(appendFrame(nil, finBit|opText, []byte(p), client))
		return err == nil
	}
	// often sends frames, each of them less than an interval after the last.
	often := func(peer net.Conn, client bool, every time.Duration) {
		for frame(peer, client, "a") {
			time.Sleep(every)
		}
	}
	for _, tt := range []struct {
		name     string
		interval time.Duration
		h        Handler
		// peer acts as the peer; other is called in a goroutine when Serve runs.
		peer      func(peer net.Conn, client bool)
		other     func(c *Conn)
		min, max  time.Duration // when the connection is closed; or never
		callbacks int           // calls of OnMessage that return at least
	}{
		{name: "silent", interval: interval, min: 2 * interval, max: 2 * interval,
			peer: func(peer net.Conn, _ bool) { io.Copy(io.Discard, peer) }},
		{name: "silent, no pings", min: never,
			peer: func(peer net.Conn, _ bool) { io.Copy(io.Discard, peer) }},
		{name: "silent, negative", interval: never, min: never,
			peer: func(peer net.Conn, _ bool) { io.Copy(io.Discard, peer) }},
		// The ping is sent after one interval, and is then what it does not take.
		{name: "reads nothing", interval: interval, min: 4 * interval, max: 5 * interval,
			peer: func(net.Conn, bool) {}},
		{name: "answers pings", interval: interval, min: never,
			peer: func(peer net.Conn, client bool) { newConn(peer, nil, client).ReadMessage() }},
		{name: "answers a ping, then none", interval: interval, min: 3 * interval, max: 4 * interval,
			peer: func(peer net.Conn, client bool) {
				p := make([]byte, 6)
				io.ReadFull(peer, p[:2])
				if !client { // the ping is masked
					io.ReadFull(peer, p[2:])
				}
				peer.Write(appendFrame(nil, finBit|opPong, nil, client))
				io.Copy(io.Discard, peer)
			}},
		{name: "sends, but does not answer", interval: interval, min: never, callbacks: 100,
			peer: func(peer net.Conn, client bool) {
				go io.Copy(io.Discard, peer)
				often(peer, client, interval-time.Second)
			}},
		{name: "sends bytes of one frame", interval: interval, min: never,
			peer: func(peer net.Conn, client bool) {
				go io.Copy(io.Discard, peer)
				for _, b := range appendFrame(nil, finBit|opText, bytes.Repeat([]byte("x"), 4000), client) {
					time.Sleep(interval - time.Second)
					if _, err := peer.Write([]byte{b}); err != nil {
						break
					}
				}
			}},
		{name: "sends, but reads nothing", interval: interval, min: 3 * interval, max: 4 * interval,
			other: func(c *Conn) { c.WriteMessage(Text, []byte("a")) },
			peer:  func(peer net.Conn, client bool) { often(peer, client, time.Second) }},
		{name: "waits for a callback", interval: interval, min: never, callbacks: 2,
			h: Handler{OnMessage: func(*Conn, MessageType, []byte) { time.Sleep(10 * interval) }},
			peer: func(peer net.Conn, client bool) {
				c := newConn(peer, nil, client)
				read := goErr(func() error { _, _, err := c.ReadMessage(); return err })
				c.WriteMessage(Text, []byte("a"))
				time.Sleep(9 * interval)
				c.WriteMessage(Text, []byte("b"))
				<-read
			}},
		{name: "silent after a callback", interval: interval, min: 11 * interval, max: 13 * interval, callbacks: 1,
			h: Handler{OnMessage: func(*Conn, MessageType, []byte) { time.Sleep(10*interval - time.Second) }},
			peer: func(peer net.Conn, client bool) {
				frame(peer, client, "a")
				io.Copy(io.Discard, peer)
			}},
		{name: "takes nothing of a write of a callback", interval: interval, min: 3 * interval, max: 4 * interval,
			h: Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 1<<20)) }}},
		{name: "takes nothing more of a write", interval: interval, min: 3 * interval, max: 5 * interval,
			h:    Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 10<<20)) }},
			peer: func(peer net.Conn, _ bool) { io.ReadFull(peer, make([]byte, 5<<20)) }},
		{name: "takes small messages slowly", interval: interval, min: never,
			h: Handler{OnOpen: func(c *Conn) {
				for c.WriteMessage(Binary, make([]byte, 100)) == nil {
				}
			}},
			peer: func(peer net.Conn, _ bool) { drain(peer, 100, interval/2) }},
		{name: "takes large messages slowly", interval: interval, min: never,
			h: Handler{OnOpen: func(c *Conn) {
				for c.WriteMessage(Binary, make([]byte, 100<<10)) == nil {
				}
			}},
			peer: func(peer net.Conn, _ bool) { drain(peer, 64<<10, interval-time.Second) }},
		{name: "takes one large message slowly, in a callback", interval: interval, min: never,
			h:    Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 100<<20)) }},
			peer: func(peer net.Conn, _ bool) { drain(peer, writeSize/2, interval-time.Second) }},
		{name: "takes one large message slowly, while Serve reads", interval: interval, min: never,
			other: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 100<<20)) },
			peer:  func(peer net.Conn, _ bool) { drain(peer, writeSize/2, interval-time.Second) }},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/client=%t", tt.name, client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, &Options{PingInterval: tt.interval}, client)
					start, end := time.Now(), make(chan error, 1)
					done := make(chan error, 1)
					callbacks := 0
					h := tt.h
					h.OnMessage = func(c *Conn, typ MessageType, p []byte) {
						if tt.h.OnMessage != nil {
							tt.h.OnMessage(c, typ, p)
						}
						callbacks++
					}
					h.OnClose = func(_ *Conn, err error) { end <- err }
					go func() { done <- c.Serve(h) }()
					stopped := make(chan struct{})
					go func() {
						defer close(stopped)
						if tt.peer != nil {
							tt.peer(peer, !client)
						}
					}()
					if tt.other != nil {
						go tt.other(c)
					}
					if tt.min == never {
						time.Sleep(200 * interval)
						if len(end) > 0 {
							t.Fatalf("closed: %v", <-end)
						}
						c.CloseNow()
					}
					err := <-end
					d := time.Since(start)
					if got := <-done; got != err {
						t.Errorf("Serve returned %v, OnClose got %v", got, err)
					}
					if tt.min != never && (d < tt.min || d > tt.max || !errors.Is(err, os.ErrDeadlineExceeded)) {
						t.Errorf("closed after %v, want %v to %v, with %v", d, tt.min, tt.max, err)
					}
					if callbacks < tt.callbacks {
						t.Errorf("%d calls of OnMessage, want %d", callbacks, tt.callbacks)
					}
					synctest.Wait()
					checkStopped(t, c)
					peer.Close()
					<-stopped
				})
			})
		}
	}
}

// passInterval lets the clock of c tick for an interval in which nothing comes.
func passInterval(c *Conn) {
	c.look(c.t.now.Add(ticks))
}

// A gapConn measures how long a stream is silent in each direction.
type gapConn struct {
	net.Conn
	read, written gap
}

func (c *gapConn) Read(p []byte) (n int, err error) {
	n, err = c.Conn.Read(p)
	c.read.end()
	return n, err
}

func (c *gapConn) Write(p []byte) (n int, err error) {
	n, err = c.Conn.Write(p)
	c.written.end()
	return n, err
}

// A gap is the longest time between two of n calls of end.
type gap struct {
	mu      sync.Mutex
	since   time.Time
	longest time.Duration
	n       int
}

func (g *gap) end() (longest time.Duration, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.n++; g.n > 1 {
		g.longest = max(g.longest, now.Sub(g.since))
	}
	g.since = now
	return g.longest, g.n
}

// TestKeepaliveSilence has both sides of a connection say much or little. It is never silent
// for longer than an interval and a tenth, in either direction, and nobody is pinged for nothing.
func TestKeepaliveSilence(t *testing.T) {
	const interval = 10 * time.Second
	const intervals = 100
	every := func(c *Conn, d time.Duration) {
		for d > 0 && c.WriteMessage(Text, []byte("a")) == nil {
			time.Sleep(d)
		}
	}
	for _, tt := range []struct {
		name        string
		peer, other time.Duration // how often the peer, and this side, sends a message; or never
		callback    time.Duration // how long OnMessage takes
		pings       int           // in an interval, at most
	}{
		{name: "nobody sends", pings: 1},
		{name: "the peer sends often", peer: interval / 30, pings: 1},
		{name: "the peer sends once in an interval", peer: interval, pings: 1},
		{name: "the peer sends seldom", peer: interval * 13 / 10, pings: 1},
		{name: "the peer sends very seldom", peer: interval * 77 / 10, pings: 1},
		{name: "this side sends often", other: interval / 30, pings: 1},
		{name: "this side sends seldom", other: interval * 13 / 10, pings: 1},
		{name: "both send often", peer: interval / 30, other: interval / 20},
		{name: "callbacks take long", peer: interval * 6, callback: interval * 55 / 10, pings: 1},
	} {
		for _, way := range []string{"server", "client", "Server"} {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := Options{PingInterval: interval}
					opened := make(chan *Conn, 1)
					h := Handler{
						OnOpen:    func(c *Conn) { opened <- c },
						OnMessage: func(*Conn, MessageType, []byte) { time.Sleep(tt.callback) },
					}
					wire, ended := new(gapConn), make(chan error, 1)
					h.OnClose = func(_ *Conn, err error) { ended <- err }
					var peer *Conn
					if way == "Server" {
						p := servePiped(t, &Server{Handler: h, Options: o})
						// The clock of a Server runs already when a client comes.
						p.join(t, "/", nil).CloseNow()
						wait(t, opened)
						wait(t, ended)
						time.Sleep(interval * 3 / 100)
						wire.Conn = p.connect(t)
						var err error
						if peer, err = ClientHandshake(wire, "ws://server.example.com/", nil); err != nil {
							t.Fatal(err)
						}
					} else {
						a, b := net.Pipe()
						wire.Conn = b
						peer = newConn(wire, nil, way == "server")
						go newConn(a, &o, way == "client").Serve(h)
					}
					c := wait(t, opened)
					var messages atomic.Int32
					go func() {
						for {
							if _, _, err := peer.ReadMessage(); err != nil {
								return
							}
							messages.Add(1)
						}
					}()
					var senders sync.WaitGroup
					senders.Go(func() { every(peer, tt.peer) })
					senders.Go(func() { every(c, tt.other) })
					wire.written.end()
					_, before := wire.read.end()
					time.Sleep(intervals * interval)
					synctest.Wait()
					if len(ended) > 0 {
						t.Error("closed")
					}
					silence, n := wire.read.end()
					if pings := n - 1 - before - int(messages.Load()); pings > tt.pings*intervals {
						t.Errorf("%d pings in %d intervals", pings, intervals)
					}
					if silence > interval*11/10 {
						t.Errorf("nothing was sent for %v", silence)
					}
					if silence, _ := wire.written.end(); silence > interval*11/10 && tt.callback == 0 {
						t.Errorf("nothing has come for %v", silence)
					}
					peer.CloseNow()
					c.CloseNow()
					wait(t, ended)
					senders.Wait()
				})
			})
		}
	}
}

// TestServerKeepalive checks what a Server does about silent clients if it is told nothing
// else, that those of hixie-76 are not pinged, and that its clock stops with the last.
func TestServerKeepalive(t *testing.T) {
	for _, tt := range []struct {
		interval, want time.Duration
	}{{0, 2 * pingInterval}, {time.Second, 2 * time.Second}, {-1, -1}} {
		t.Run(fmt.Sprint(tt.interval), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 2)
				s := &Server{Handler: Handler{OnClose: func(_ *Conn, err error) { ends <- err }},
					Options: Options{PingInterval: tt.interval}}
				p := servePiped(t, s)
				_, hixie := p.joinHixie(t)
				silent := p.connect(t)
				go io.WriteString(silent, strings.Replace(rfcHead, "Origin: http://example.com\r\n", "", 1))
				go io.Copy(io.Discard, silent)
				got := make(chan []byte)
				go func() {
					b, _ := io.ReadAll(hixie)
					got <- b
				}()
				start := time.Now()
				if tt.want > 0 {
					if err := <-ends; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != tt.want {
						t.Errorf("closed with %v after %v, want %v", err, time.Since(start), tt.want)
					}
				}
				time.Sleep(time.Hour)
				want := 1
				if tt.want < 0 {
					want = 2
				}
				if n := len(slices.Collect(s.Conns())); n != want || len(ends) > 0 {
					t.Errorf("%d connections are open, want %d", n, want)
				}
				hixie.Close()
				if b := <-got; len(b) > 0 {
					t.Errorf("the client of hixie-76 has got %q", b)
				}
				if <-ends; tt.want < 0 {
					return
				}
				time.Sleep(time.Hour)
				if stops(s.clock.timer) {
					t.Error("the clock ticks for nobody")
				}
			})
		})
	}
}

// A roomyConn has room for a thousand small writes that the peer has not read yet, as a socket has.
type roomyConn struct {
	net.Conn
	room   chan []byte
	closed chan struct{}
	once   sync.Once
}

func newRoomyConn(conn net.Conn) net.Conn {
	c := &roomyConn{Conn: conn, room: make(chan []byte, 1000), closed: make(chan struct{})}
	go func() {
		for {
			select {
			case p := <-c.room:
				conn.Write(p)
			case <-c.closed:
				return
			}
		}
	}()
	return c
}

func (c *roomyConn) Write(p []byte) (int, error) {
	select {
	case c.room <- bytes.Clone(p):
		return len(p), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *roomyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// TestKeepaliveLongCallback has a client take long for a message, with defaults on both sides
// unless it pings. It is closed, and not because of that alone if it works in a goroutine.
func TestKeepaliveLongCallback(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client Options
		aside  bool // the work is done in a goroutine
		closed bool
	}{
		{"defaults", Options{}, false, true},
		{"in a goroutine", Options{}, true, false},
		{"the client pings", Options{PingInterval: pingInterval / 2}, false, false},
	} {
		for _, before := range []time.Duration{0, pingInterval / 2, pingInterval - time.Second} {
			t.Run(fmt.Sprint(tt.name, "/", before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ends := make(chan error, 1)
					s := &Server{Handler: Handler{OnClose: func(_ *Conn, err error) { ends <- err }}}
					p := servePiped(t, s)
					p.wrap = newRoomyConn
					c := p.join(t, "/", &tt.client)
					worked := make(chan struct{})
					work := func() {
						time.Sleep(time.Hour)
						close(worked)
					}
					served := goErr(func() error {
						return c.Serve(Handler{OnMessage: func(*Conn, MessageType, []byte) {
							if tt.aside {
								go work()
							} else {
								work()
							}
						}})
					})
					time.Sleep(before)
					if err := s.Broadcast(Text, []byte("work")); err != nil {
						t.Fatal(err)
					}
					start := time.Now()
					if tt.closed {
						err := <-ends
						if d := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || d < pingInterval || d > 2*pingInterval {
							t.Errorf("closed with %v after %v", err, d)
						}
					}
					<-worked
					if !tt.closed {
						if len(ends) > 0 {
							t.Error("closed")
						}
						c.Close()
						<-ends
					}
					<-served
				})
			})
		}
	}
}

// A peer that takes a little of a write in every interval is not closed.
func TestKeepaliveTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 5 * time.Second
		c, peer := barePeer(t, &Options{PingInterval: interval}, false)
		served := goErr(func() error {
			return c.Serve(Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 1<<20)) }})
		})
		stopped := goErr(func() error {
			p := make([]byte, 16<<10)
			for {
				time.Sleep(interval / 2)
				if _, err := io.ReadFull(peer, p); err != nil {
					return err
				}
			}
		})
		time.Sleep(20 * interval)
		if len(served) > 0 {
			t.Errorf("closed: %v", <-served)
		}
		c.CloseNow()
		peer.Close()
		<-stopped
	})
}

// A muteConn cannot be written to any more once it is mute, as a tls.Conn is for good when a write
// was interrupted.
type muteConn struct {
	net.Conn
	mute atomic.Bool
}

func (c *muteConn) Write(p []byte) (int, error) {
	if c.mute.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

// A peer that cannot be pinged, nor answered, does not keep the connection by what it sends.
func TestKeepaliveMute(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			var conn *muteConn
			s := &Server{Handler: Handler{
				OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) },
				OnClose:   func(_ *Conn, err error) { ended <- err },
			}}
			p := servePiped(t, s)
			p.wrap = func(c net.Conn) net.Conn {
				conn = &muteConn{Conn: c}
				return conn
			}
			var c *Conn
			if hixie {
				c, _ = p.joinHixie(t)
			} else {
				c = p.join(t, "/", nil)
			}
			go c.ReadMessage()
			conn.mute.Store(true)
			start := time.Now()
			for time.Since(start) < time.Hour && c.WriteMessage(Text, []byte("hello")) == nil {
				time.Sleep(pingInterval / 3)
			}
			t.Log(hixie, time.Since(start))
			if err := wait(t, ended); cause(err) != io.ErrClosedPipe || time.Since(start) > 2*pingInterval {
				t.Errorf("hixie-76 %t: ended after %v with %v", hixie, time.Since(start), err)
			}
		})
	}
}

// TestServePings has Serve ping a peer over a socket, outside of a Server.
func TestServePings(t *testing.T) {
	o := &Options{PingInterval: time.Hour}
	ends := map[string]func(t *testing.T, c *Conn) *Conn{
		"server": func(t *testing.T, c *Conn) *Conn { return c },
		"client": func(t *testing.T, c *Conn) *Conn { c.init(o, true); return c },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			a, b := socketPair(t, "tcp", "127.0.0.1:0")
			c, peer := end(t, newConn(a, o, false)), newConn(b, nil, name == "server")
			opened, closed := make(chan struct{}), make(chan error, 1)
			served := goErr(func() error {
				return c.Serve(Handler{
					OnOpen:    func(*Conn) { close(opened) },
					OnMessage: func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) },
					OnClose:   func(_ *Conn, err error) { closed <- err },
				})
			})
			wait(t, opened)
			for range 3 {
				if err := peer.WriteMessage(Text, []byte("Hello")); err != nil {
					t.Fatal(err)
				}
				expectMessages(t, peer, "Hello") // and the peer has answered the ping
				awaitRest(t, new(Server), 0, 1)
				passInterval(c)
			}
			if err := peer.Close(); err != nil {
				t.Error(err)
			}
			checkCode(t, wait(t, served), CloseNormal, byPeer)
			checkCode(t, wait(t, closed), CloseNormal, byPeer)
		})
	}
}

func TestPing(t *testing.T) {
	t.Run("answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server, client := pipe(t, nil)
			go server.ReadMessage()
			go client.ReadMessage()
			for range 3 {
				for _, c := range []*Conn{server, client} {
					start := time.Now()
					if err := c.Ping(t.Context()); err != nil || time.Since(start) != 0 {
						t.Error(err, "after", time.Since(start))
					}
				}
			}
		})
	})
	t.Run("context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			go io.Copy(io.Discard, peer)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := c.Ping(ctx); err != context.DeadlineExceeded {
				t.Error(err)
			}
			if len(c.pings.waiting) != 0 {
				t.Error("the ping is kept")
			}
		})
	})
	// RFC 6455, section 5.5.3: a pong may answer the latest ping only, and it
	// may be unsolicited.
	t.Run("pongs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			go io.Copy(io.Discard, peer)
			go c.ReadMessage()
			pong := func(p string) {
				if _, err := peer.Write(toward(c, opPong, p)); err != nil {
					t.Error(err)
				}
				synctest.Wait()
			}
			first := goErr(func() error { return c.Ping(t.Context()) })
			synctest.Wait()
			second := goErr(func() error { return c.Ping(t.Context()) })
			synctest.Wait()
			third := goErr(func() error { return c.Ping(t.Context()) })
			synctest.Wait()
			for _, p := range []string{"", "other", "\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x09", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
				pong(p)
				if len(first) > 0 {
					t.Errorf("a pong %q ended a ping", p)
				}
			}
			pong("\x00\x00\x00\x00\x00\x00\x00\x02")
			if len(first) != 1 || len(second) != 1 || len(third) != 0 {
				t.Errorf("the second pong ended %d, %d, %d pings", len(first), len(second), len(third))
			}
			peer.Write(toward(c, opClose, closing(4000, "")))
			var e *CloseError
			if err := wait(t, third); !errors.As(err, &e) || e.Code != 4000 {
				t.Error("after the peer's close a ping returned", err)
			}
			if err := c.Ping(t.Context()); !errors.As(err, &e) {
				t.Error("a later ping returned", err)
			}
		})
	})
	t.Run("hixie-76", func(t *testing.T) {
		c, _ := tapeConn(nil, false, true)
		if err := c.Ping(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
	})
	t.Run("failed read", func(t *testing.T) {
		c, _ := tapeConn(nil, false, false)
		if _, _, err := c.ReadMessage(); cause(err) != io.EOF {
			t.Fatal(err)
		}
		if err := c.Ping(t.Context()); cause(err) != io.EOF {
			t.Error("a ping that nobody can find the pong of returned", err)
		}
	})
}

// TestPongBehindOutput has a ping arrive while a lot waits to be sent to a peer
// that does not read for now. It must not keep this side from reading, or two
// such peers would wait for each other for ever.
func TestPongBehindOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		for range 4 {
			go c.WriteMessage(Binary, make([]byte, 60<<10))
		}
		synctest.Wait()
		go func() {
			peer.Write(toward(c, opPing, "ping"))
			peer.Write(toward(c, opText, "message"))
		}()
		read := goErr(func() error { _, err := GetFrame(c); return err })
		synctest.Wait()
		if len(read) == 0 {
			t.Fatal("the read waits for the pong to be written")
		}
	})
	// Pings without an end must not pile up for all that.
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		go c.ReadMessage()
		go func() {
			for range 100_000 {
				if _, err := peer.Write(toward(c, opPing, strings.Repeat("p", 125))); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := c.write.waiting(0); n > 4*batchSize {
			t.Errorf("pongs take %d bytes", n)
		}
	})
}

// TestPongIsPrompt has a ping arrive between messages while the handler stalls.
func TestPongIsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rw := tapeConn(nil, false, false)
		rw.in = [][]byte{slices.Concat(toward(c, opText, ""), toward(c, opPing, "ping"), toward(c, opText, ""), toward(c, opText, ""))}
		start := time.Now()
		for range 2 {
			if _, err := GetFrame(c); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		w := rw.writes()
		if len(w) != 1 || !w[0].at.Equal(start) {
			t.Fatalf("%d writes", len(w))
		}
		if f := parseSent(t, c, w[0].wrote); len(f) != 1 || f[0] != (sent{opPong, "ping"}) {
			t.Errorf("sent %q", f)
		}
	})
	// Nor does it wait with a reply.
	synctest.Test(t, func(t *testing.T) {
		c, rw := tapeConn(nil, false, false)
		rw.in = [][]byte{slices.Concat(toward(c, opText, "a"), toward(c, opPing, "ping"), toward(c, opText, "b"), toward(c, opText, "c"))}
		start := time.Now()
		if err := echoes["GetFrame"](c); err != nil {
			t.Fatal(err)
		}
		if _, err := GetFrame(c); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if w := rw.writes(); len(w) != 1 || !w[0].at.Equal(start) {
			t.Errorf("%d writes at once", len(w))
		}
	})
}

// TestPingsToStuckPeer has pings arrive one by one while nothing can be written.
// They must not take a goroutine each.
func TestPingsToStuckPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		go c.ReadMessage()
		synctest.Wait()
		before := runtime.NumGoroutine()
		for range 1000 {
			if _, err := peer.Write(toward(c, opPing, "")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := runtime.NumGoroutine() - before; n > 5 {
			t.Errorf("%d goroutines more", n)
		}
		// What waits is still sent when the peer reads at last.
		sent := goErr(func() error {
			_, err := io.ReadFull(peer, make([]byte, 2*1000))
			return err
		})
		if err := wait(t, sent); err != nil {
			t.Error(err)
		}
	})
}
