package websocket

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
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

// TestDeflateServer has broadcasts go to clients of all kinds, while messages are written to
// them by others, in pieces as well, and while OnOpen runs.
func TestDeflateServer(t *testing.T) {
	messages := 10
	if raceEnabled {
		messages = 6
	}
	deflates := []*Deflate{nil, {}, {ContextTakeover: true}, {ContextTakeover: true, WindowBits: 8}, {WindowBits: 10}, {ContextTakeover: true, WindowBits: 15}}
	clients := len(deflates) + 1
	opening := make(chan *Conn, clients)
	open := make(chan struct{})
	s := &Server{
		Options: Options{Deflate: &Deflate{ContextTakeover: true}, MaxQueue: 64 << 20},
		Handler: Handler{
			OnOpen: func(c *Conn) {
				err := sendNumbered(c, "early", messages/2)
				opening <- c
				<-open
				if err == nil {
					err = sendNumbered(c, "opening", messages/2)
				}
				if err != nil {
					t.Error(err)
				}
			},
			OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) },
		},
	}
	piped := servePiped(t, s)
	var done []<-chan error
	for i := range clients {
		var c *Conn
		if i < len(deflates) {
			c = piped.join(t, "/", &Options{Deflate: deflates[i]})
			if (c.Request().Extensions == "") != (deflates[i] == nil) {
				t.Fatalf("client %d: %q agreed on", i, c.Request().Extensions)
			}
		} else {
			c, _ = piped.joinHixie(t)
		}
		done = append(done, goErr(func() error {
			want := arrivals{
				"early": messages / 2, "opening": messages / 2, "a": messages, "bb": messages, "ccc": messages, "echo": messages,
				"broadcast0": messages, "broadcast1": messages, "send": messages,
			}
			got := arrivals{}
			for range 8 * messages {
				_, p, err := deflateReaders[i%len(deflateReaders)](c)
				if err == nil {
					err = got.add(p)
				}
				if err != nil {
					c.CloseNow()
					return fmt.Errorf("client %d: %w", i, err)
				}
			}
			if !maps.Equal(got, want) {
				return fmt.Errorf("client %d got %v, want %v", i, got, want)
			}
			return nil
		}))
		if i < len(deflates) {
			done = append(done, goErr(func() error { return sendNumbered(c, "echo", messages) }))
		} else {
			done = append(done, goErr(func() error {
				for i := range messages {
					if err := c.WriteMessage(Text, numbered("echo", i, 700)); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	var conns []*Conn
	for range clients {
		conns = append(conns, wait(t, opening))
	}
	var writing []<-chan error
	for _, c := range conns {
		for _, source := range []string{"a", "bb", "ccc"} {
			writing = append(writing, goErr(func() error { return sendNumbered(c, source, messages) }))
		}
	}
	var half sync.WaitGroup
	for _, source := range []string{"broadcast0", "broadcast1", "send"} {
		half.Add(1)
		writing = append(writing, goErr(func() error {
			for i := range messages {
				if i == messages/2 {
					half.Done()
				}
				p := numbered(source, i, []int{10, 300, 3000, 20000, 600}[i%5])
				var err error
				if source == "send" {
					err = s.Send(Text, p, conns...)
				} else {
					err = s.Broadcast(Text, p)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
	}
	half.Wait()
	close(open)
	for _, done := range append(writing, done...) {
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
	}
}

// TestDeflateBroadcastOnce checks that clients with the same parameters get the same bytes,
// and that what a broadcast allocates does not depend on their number.
func TestDeflateBroadcastOnce(t *testing.T) {
	p := sampleText(2000, 1)
	d := &Deflate{ContextTakeover: true}
	s := &Server{Options: Options{Deflate: d}}
	var all []*tape
	for i := range 6 {
		rw := new(tape)
		c := tapeDeflate(rw, &Deflate{ContextTakeover: i%2 == 0, WindowBits: []int{0, 9}[i/4]}, false)
		if i < 4 && i%2 == 0 { // what it has got before does not matter
			c.WriteMessage(Text, sampleText(1000, 2))
			rw.events = nil
		}
		c.beginServe(nil, -1)
		c.opened()
		s.add(c)
		defer c.CloseNow()
		all = append(all, rw)
	}
	for i := range 3 {
		if err := s.Broadcast(Text, p); err != nil {
			t.Fatal(err)
		}
		for _, c := range s.conns {
			c.mu.Lock()
			if err := c.flushLocked(callers); err != nil {
				t.Error(err)
			}
			c.mu.Unlock()
		}
		for client, rw := range all {
			same := all[client/4*4]
			if got, want := rw.written(), same.written(); !bytes.Equal(got, want) {
				t.Errorf("broadcast %d: client %d got other bytes than client %d", i, client, client/4*4)
			}
			frames, err := parseWire(rw.written(), false)
			if err != nil || len(frames) != i+1 {
				t.Fatal(len(frames), err)
			}
			got := []byte(frames[i].p)
			if client < 4 { // the others have smaller windows
				got, _, err = parseDeflated(frames[i].p, nil)
			}
			if err != nil || !bytes.Equal(got, p) {
				t.Errorf("broadcast %d: client %d got %d bytes, %v", i, client, len(got), err)
			}
		}
	}

	if raceEnabled {
		return // the race detector makes pools forget
	}
	allocations := func(clients int) float64 {
		var pending sync.WaitGroup
		s := &Server{Options: Options{Deflate: d}}
		z, _ := newDeflation(d, d.offer(), false)
		frame := z.appendMessage(nil, finBit|opText, p)
		for range clients {
			c := tapeDeflate(sink{&pending, make(chan struct{})}, d, false)
			c.beginServe(nil, -1)
			c.opened()
			s.add(c)
			defer c.CloseNow()
		}
		return testing.AllocsPerRun(20, func() {
			pending.Add(clients * len(frame))
			s.Broadcast(Text, p)
			pending.Wait()
		})
	}
	few, many := allocations(10), allocations(400)
	if many > few+40 {
		t.Errorf("%v allocations for 10 clients, %v for 400", few, many)
	}
}

// TestDeflateBroadcastContext has broadcasts stand between messages that refer to each other.
func TestDeflateBroadcastContext(t *testing.T) {
	for _, bits := range []int{0, 9} {
		d := &Deflate{ContextTakeover: true, WindowBits: bits}
		e := &end{tap: &wireTap{Conn: tapeNetConn{tape: new(tape)}}, bits: cmp.Or(bits, 15)}
		e.Conn = tapeDeflate(e.tap, d, false)
		s := &Server{Options: Options{Deflate: d}}
		e.beginServe(nil, -1)
		e.opened()
		s.add(e.Conn)
		var want []string
		send := func(how func(MessageType, []byte) error) {
			t.Helper()
			p := sampleText(300+20*len(want), uint64(len(want)%3))
			want = append(want, string(p))
			if err := how(Text, p); err != nil {
				t.Fatal(err)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if err := e.flushLocked(callers); err != nil {
				t.Fatal(err)
			}
		}
		broadcast := func(typ MessageType, p []byte) error { return s.Broadcast(typ, p) }
		for range 3 {
			send(e.WriteMessage)
			send(broadcast)
			send(e.WriteMessage)
			send(broadcast)
			send(broadcast)
			send(e.WriteMessage)
			send(func(typ MessageType, p []byte) error {
				w, err := e.NextWriter(typ)
				if err != nil {
					return err
				}
				if _, err := w.Write(p); err != nil {
					return err
				}
				send(broadcast) // waits for Close
				return w.Close()
			})
			send(e.WriteMessage)
		}
		peer := tapeDeflate(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(bytes.Clone(e.tap.b)), io.Discard}, d, true)
		for i, want := range want {
			if _, p, err := peer.ReadMessage(); err != nil || string(p) != want {
				t.Fatalf("message %d: %d bytes instead of %d, %v", i, len(p), len(want), err)
			}
		}
		checkHistory(t, true, e)
		e.CloseNow()
	}
}

// TestDeflateForget has a message compressed while broadcasts leave the queue.
func TestDeflateForget(t *testing.T) {
	p := sampleText(2000, 1)
	frame := appendFrame(nil, finBit|byte(Text), []byte("x"), false)
	for range 100 {
		rw, peer := net.Pipe()
		go io.Copy(io.Discard, peer)
		c := packedConn(rw, nil, false, false)
		c.beginServe(nil, -1)
		c.enqueue(frame, []byte("x"), 1<<20, false)
		var group sync.WaitGroup
		group.Go(func() { c.WriteMessage(Text, p) })
		group.Go(c.opened)
		group.Wait()
		c.CloseNow()
		peer.Close()
	}
}

// TestBroadcastOrder checks where broadcasts come among the messages of one connection.
func TestBroadcastOrder(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	for _, hixie := range []bool{false, true} {
		for _, tt := range []struct {
			name string
			// open is OnOpen, and then act is called in another goroutine.
			open, act func(s *Server, c *Conn)
			want      []string
		}{
			{"after WriteMessage", nil, func(s *Server, c *Conn) {
				for i := range 20 {
					c.WriteMessage(Text, fmt.Append(nil, 2*i))
					s.Broadcast(Text, fmt.Append(nil, 2*i+1))
				}
				c.WriteMessage(Text, []byte(large))
				s.Broadcast(Text, []byte("between"))
				c.WriteMessage(Text, []byte(large))
				s.Broadcast(Text, []byte("last"))
			}, append(strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 "+
				"30 31 32 33 34 35 36 37 38 39"), large, "between", large, "last")},
			{"while OnOpen runs", func(s *Server, c *Conn) {
				s.Broadcast(Text, []byte("b1"))
				c.WriteMessage(Text, []byte("welcome"))
				s.Broadcast(Text, []byte("b2"))
				c.WriteMessage(Text, []byte(large))
				w, _ := c.NextWriter(Text)
				io.WriteString(w, "a stream")
				s.Broadcast(Text, []byte("b3"))
				w.Close()
				c.WriteMessage(Text, []byte("that was it"))
			}, func(s *Server, c *Conn) {
				s.Broadcast(Text, []byte("b4"))
			}, []string{"welcome", large, "a stream", "that was it", "b1", "b2", "b3", "b4"}},
			{"while a message is open", nil, func(s *Server, c *Conn) {
				w, _ := c.NextWriter(Text)
				s.Broadcast(Text, []byte("b1"))
				io.WriteString(w, "he")
				s.Broadcast(Text, []byte("b2"))
				io.WriteString(w, "llo")
				done := goErr(func() error { return c.WriteMessage(Text, []byte("after")) })
				synctest.Wait()
				s.Broadcast(Text, []byte("b3"))
				io.WriteString(w, large)
				w.Close()
				wait(t, done)
				s.Broadcast(Text, []byte("b4"))
			}, []string{"hello" + large, "b1", "b2", "b3", "after", "b4"}},
			{"with a message left open by OnOpen", func(s *Server, c *Conn) {
				w, _ := c.NextWriter(Text)
				s.Broadcast(Text, []byte("b1"))
				go func() {
					time.Sleep(time.Second)
					s.Broadcast(Text, []byte("b2"))
					io.WriteString(w, "hello")
					w.Close()
				}()
			}, func(s *Server, c *Conn) {
				c.WriteMessage(Text, []byte("after"))
			}, []string{"hello", "b1", "b2", "after"}},
		} {
			t.Run(fmt.Sprintf("%s/hixie=%t", tt.name, hixie), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opened := make(chan *Conn, 1)
					s := new(Server)
					s.OnOpen = func(c *Conn) {
						opened <- c
						if tt.open != nil {
							tt.open(s, c)
						}
					}
					p := servePiped(t, s)
					var client *Conn
					if hixie {
						// It reads while the handshake returns, as OnOpen waits for that.
						client, _ = p.joinHixie(t)
					} else {
						client = p.join(t, "/", nil)
					}
					go func() {
						c := wait(t, opened)
						synctest.Wait() // OnOpen waits for the reader, or has returned
						tt.act(s, c)
					}()
					expectMessages(t, client, tt.want...)
				})
			})
		}
	}
}

// All clients get the broadcasts of several goroutines in the same order.
func TestBroadcastTotalOrder(t *testing.T) {
	const clients, senders, each = 5, 4, 100
	var opened sync.WaitGroup
	opened.Add(clients)
	s := &Server{Handler: Handler{OnOpen: func(*Conn) { opened.Done() }}}
	url := serveLoopback(t, &http.Server{Handler: s})
	var got [clients][]string
	var readers, writers sync.WaitGroup
	for i := range clients {
		c, err := Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		readers.Go(func() {
			for {
				_, p, err := c.ReadMessage()
				if err != nil {
					checkCode(t, err, CloseGoingAway, byPeer)
					return
				}
				got[i] = append(got[i], string(p))
			}
		})
	}
	opened.Wait()
	for i := range senders {
		writers.Go(func() {
			for n := range each {
				if err := s.Broadcast(Text, fmt.Appendf(nil, "%d %d", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	s.Shutdown(t.Context())
	readers.Wait()
	for i := range clients {
		if len(got[i]) != senders*each || !slices.Equal(got[i], got[0]) {
			t.Errorf("client %d has got %d messages, in another order than client 0 with %d", i, len(got[i]), len(got[0]))
		}
	}
	var next [senders]int
	for _, m := range got[0] {
		var i, n int
		if fmt.Sscan(m, &i, &n); n != next[i] {
			t.Errorf("message %d of sender %d came instead of %d", n, i, next[i])
		}
		next[i]++
	}
}

// TestBroadcast checks who gets what.
func TestBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan *Conn, 4)
		s := &Server{Handler: Handler{OnOpen: func(c *Conn) { opened <- c }}, Options: Options{MaxQueue: 1000}}
		p := servePiped(t, s)
		var clients, conns [3]*Conn
		for i := range clients {
			clients[i] = p.join(t, "/", nil)
			conns[i] = <-opened
		}
		hixie, raw := p.joinHixie(t)
		conns4 := <-opened
		synctest.Wait()
		if got := slices.Collect(s.Conns()); len(got) != 4 || !slices.Contains(got, conns[0]) || !slices.Contains(got, conns4) {
			t.Errorf("Conns: %v", got)
		}
		for range s.Conns() {
			break // stops
		}

		stranger, _ := pipe(t, nil)
		big := strings.Repeat("x", 1000)
		for _, tt := range []struct {
			typ    MessageType
			p      string
			except []*Conn
			ok     bool
		}{
			{Text, "to all", nil, true},
			{Text, "bad \xff", nil, false},
			{MessageType(opPing), "no type", nil, false},
			{0, "no type", nil, false},
			{Binary, big + "x", nil, false},
			{Text, "not to 0", []*Conn{conns[0]}, true},
			{Text, "not to 0 and 1", []*Conn{conns[1], stranger, conns[0], nil}, true},
			{Binary, "\x00\xff", nil, true},
			{Text, "", nil, true},
			{Text, "the end", nil, true},
		} {
			if err := s.Broadcast(tt.typ, []byte(tt.p), tt.except...); (err == nil) != tt.ok {
				t.Errorf("Broadcast(%v, %.20q): %v", tt.typ, tt.p, err)
			}
		}
		expectMessages(t, clients[0], "to all", "\x00\xff", "", "the end")
		expectMessages(t, clients[1], "to all", "not to 0", "\x00\xff", "", "the end")
		expectMessages(t, clients[2], "to all", "not to 0", "not to 0 and 1", "\x00\xff", "", "the end")
		want := "\x00to all\xff\x00not to 0\xff\x00not to 0 and 1\xff\x00\xff\x00the end\xff"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(raw, got); err != nil || string(got) != want {
			t.Errorf("hixie-76: %q, %v, want %q", got, err, want)
		}
		synctest.Wait() // until nothing of the others is queued
		if err := s.Broadcast(Binary, []byte(big)); err != nil {
			t.Errorf("a broadcast of MaxQueue bytes: %v", err)
		}
		for _, c := range clients {
			expectMessages(t, c, big)
		}
		s.Broadcast(Text, []byte("b"))
		expectMessages(t, hixie, "b") // and not the binary one
		for _, c := range clients {
			expectMessages(t, c, "b")
		}
		go s.Shutdown(t.Context())
		expectClose(t, hixie, CloseNoStatus)
		for _, c := range clients {
			expectClose(t, c, CloseGoingAway)
		}
		if err := s.Broadcast(Text, []byte("to nobody")); err != nil {
			t.Errorf("Broadcast after Shutdown: %v", err)
		}
	})
}

// TestBroadcastQueue fills the queue of a client that does not read, in each of the
// places where broadcasts wait.
func TestBroadcastQueue(t *testing.T) {
	for _, where := range []string{"reading", "OnOpen", "OnMessage", "writer", "own write"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opened, ends := make(chan *Conn, 1), make(chan error, 1)
				hold := make(chan struct{})
				s := &Server{Options: Options{MaxQueue: 1000, PingInterval: -1}}
				s.OnOpen = func(c *Conn) {
					opened <- c
					if where == "OnOpen" {
						<-hold
					}
				}
				s.OnMessage = func(*Conn, MessageType, []byte) { <-hold }
				s.OnClose = func(_ *Conn, err error) { ends <- err }
				p := servePiped(t, s)
				client := p.join(t, "/", nil)
				c := <-opened
				var write <-chan error
				switch where {
				case "OnMessage":
					client.WriteMessage(Text, nil)
				case "writer":
					if _, err := c.NextWriter(Text); err != nil {
						t.Fatal(err)
					}
				case "own write":
					write = goErr(func() error { return c.WriteMessage(Binary, make([]byte, 100<<10)) })
				}
				synctest.Wait()
				start := time.Now()
				for n := range 10 {
					if err := s.Broadcast(Binary, make([]byte, 96)); err != nil { // 98 bytes with its header
						t.Fatal(err)
					}
					if got := len(slices.Collect(s.Conns())); got != 1 {
						t.Fatalf("closed at %d bytes", 98*(n+1))
					}
				}
				s.Broadcast(Binary, make([]byte, 96))
				if len(slices.Collect(s.Conns())) != 0 {
					t.Error("1078 bytes wait, of 1000")
				}
				s.Broadcast(Binary, make([]byte, 96)) // to nobody
				close(hold)
				synctest.Wait()
				if len(ends) != 1 || time.Since(start) != 0 {
					t.Fatal("OnClose waits")
				}
				checkCode(t, <-ends, ClosePolicyViolation, byUs)
				// A client that reads at last gets what was sent, and why it ends.
				if where != "writer" {
					n := 0
					for ; ; n++ {
						_, _, err := client.ReadMessage()
						if err != nil {
							checkCode(t, err, ClosePolicyViolation, byPeer)
							break
						}
					}
					want := map[string]int{"reading": 10, "OnOpen": 0, "OnMessage": 10, "own write": 11}[where]
					if n != want {
						t.Errorf("%d messages came, want %d", n, want)
					}
				}
				time.Sleep(2 * closeTimeout)
				if write != nil {
					if err := wait(t, write); err != nil {
						t.Errorf("WriteMessage: %v", err)
					}
				}
				synctest.Wait()
				if s.active != 0 {
					t.Error("the connection is still there")
				}
			})
		})
	}
}

// A client that lags behind, but never by as much as may wait, is not closed: what it has read, or
// its system has taken, does not wait.
func TestBroadcastLag(t *testing.T) {
	const limit, lag = 1 << 20, 900_000
	total := 100 << 20
	if testing.Short() || raceEnabled {
		total = 20 << 20
	}
	for _, size := range []int{100, 10_000, lag / 2} {
		a, b := socketPair(t, "tcp", "127.0.0.1:0")
		a.(*net.TCPConn).SetWriteBuffer(16 << 10) // so that most of it waits
		b.(*net.TCPConn).SetReadBuffer(64 << 10)  // a smaller one makes TCP pause
		s := &Server{Options: Options{MaxQueue: limit}}
		c := newConn(a, nil, false)
		c.beginServe(nil, -1)
		c.opened()
		s.begin()
		s.add(c)
		frame := len(appendFrame(nil, finBit|opBinary, make([]byte, size), false))
		sent := int64(0)
		var read atomic.Int64
		more := make(chan bool, 1) // has been read
		done := goErr(func() error {
			defer close(more)
			p := make([]byte, 32<<10)
			for {
				n, err := b.Read(p)
				if read.Add(int64(n)); err != nil {
					return err
				}
				select {
				case more <- true:
				default:
				}
			}
		})
		p := make([]byte, size)
		for range min(total/size, 20_000) {
			for sent+int64(frame)-read.Load() > lag {
				if !<-more {
					t.Fatal("the client cannot read: ", <-done)
				}
			}
			sent += int64(frame)
			if s.Broadcast(Binary, p); !c.isOpen() {
				t.Fatalf("closed when %d of %d bytes had been read", read.Load(), sent)
			}
		}
		c.CloseNow()
		b.Close()
		<-done
		s.end(c)
	}
}

// A sink is a transport that takes everything and never has input.
type sink struct {
	bytes  *sync.WaitGroup // still to be written
	closed chan struct{}
}

func (s sink) Read([]byte) (int, error) { <-s.closed; return 0, net.ErrClosed }

func (s sink) Write(p []byte) (int, error) {
	s.bytes.Add(-len(p))
	return len(p), nil
}

func (s sink) Close() error { close(s.closed); return nil }

// What Broadcast allocates does not depend on the number of clients.
func TestBroadcastAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	allocations := func(clients int) float64 {
		var bytes sync.WaitGroup
		s := new(Server)
		for range clients {
			c := newConn(sink{&bytes, make(chan struct{})}, nil, false)
			c.beginServe(nil, -1)
			c.opened()
			s.add(c)
			defer c.CloseNow()
		}
		p := []byte(strings.Repeat("x", 200))
		return testing.AllocsPerRun(50, func() {
			bytes.Add(clients * len(appendFrame(nil, finBit|opText, p, false)))
			s.Broadcast(Text, p)
			bytes.Wait()
		})
	}
	few, many := allocations(10), allocations(400)
	if many > few+40 {
		t.Errorf("%v allocations for 10 clients, %v for 400", few, many)
	}
}

// Large broadcasts do not cost memory for every client, once they have been sent.
func TestBroadcastLargeAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	const clients = 50
	var bytes sync.WaitGroup
	s := new(Server)
	for range clients {
		c := newConn(sink{&bytes, make(chan struct{})}, nil, false)
		c.beginServe(nil, -1)
		c.opened()
		s.add(c)
		defer c.CloseNow()
	}
	p := []byte(strings.Repeat("x", 200<<10))
	broadcast := func() {
		bytes.Add(clients * len(appendFrame(nil, finBit|opText, p, false)))
		s.Broadcast(Text, p)
		bytes.Wait()
	}
	broadcast()
	if n := testing.AllocsPerRun(10, broadcast); n > clients/2 {
		t.Errorf("%v allocations for %d clients", n, clients)
	}
}

// TestSend sends to some, and broadcasts in between.
func TestSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan *Conn, 1)
		open := Handler{OnOpen: func(c *Conn) { opened <- c }}
		s := &Server{Handler: open, Options: Options{MaxQueue: 1000}}
		p := servePiped(t, s)
		var clients, conns [3]*Conn
		for i := range clients {
			clients[i] = p.join(t, "/", nil)
			conns[i] = <-opened
		}
		_, raw := p.joinHixie(t)
		hixie := <-opened
		p.join(t, "/", nil).CloseNow()
		ended := <-opened
		other := servePiped(t, &Server{Handler: open}).join(t, "/", nil)
		foreign := <-opened
		stranger, peer := pipe(t, nil)
		synctest.Wait()

		a, b, c := conns[0], conns[1], conns[2]
		all := []*Conn{a, b, c, hixie}
		big := strings.Repeat("x", 1000)
		for _, tt := range []struct {
			typ MessageType
			p   string
			to  []*Conn // or all, by Broadcast
			ok  bool
		}{
			{Text, "to a", []*Conn{a}, true},
			{Text, "to nobody", []*Conn{}, true},
			{Text, "all 1", nil, true},
			{Text, "to b and hixie", []*Conn{hixie, b}, true},
			{Text, "all 2", nil, true},
			{Text, "bad \xff", all, false},
			{0, "no type", all, false},
			{MessageType(opPing), "no type", all, false},
			{Binary, big + "x", all, false},
			{Text, "to those that are", []*Conn{nil, ended, foreign, stranger, c}, true},
			{Binary, "\x00\xff", all, true},
			{Text, "twice", []*Conn{a, hixie, a, hixie}, true},
		} {
			err := error(nil)
			if tt.to == nil {
				err = s.Broadcast(tt.typ, []byte(tt.p))
			} else {
				err = s.Send(tt.typ, []byte(tt.p), tt.to...)
			}
			if (err == nil) != tt.ok {
				t.Errorf("%v %.20q: %v", tt.typ, tt.p, err)
			}
		}
		expectMessages(t, clients[0], "to a", "all 1", "all 2", "\x00\xff", "twice", "twice")
		expectMessages(t, clients[1], "all 1", "to b and hixie", "all 2", "\x00\xff")
		expectMessages(t, clients[2], "all 1", "all 2", "to those that are", "\x00\xff")
		expect(t, raw, "\x00all 1\xff\x00to b and hixie\xff\x00all 2\xff\x00twice\xff\x00twice\xff")
		for _, c := range []*Conn{other, peer} {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, p, err := c.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection of others has got %q, %v", p, err)
			}
		}

		// The largest that may wait, where nothing else does.
		if err := s.Send(Text, []byte(big), all...); err != nil {
			t.Errorf("a message of MaxQueue bytes: %v", err)
		}
		for _, c := range clients {
			expectMessages(t, c, big)
		}
		expect(t, raw, "\x00"+big+"\xff")

		var seen sync.WaitGroup
		for _, c := range clients {
			seen.Go(func() { expectClose(t, c, CloseGoingAway) })
		}
		go io.Copy(io.Discard, raw)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		seen.Wait()
		if err := s.Send(Text, []byte("to nobody"), all...); err != nil {
			t.Errorf("Send after Shutdown: %v", err)
		}
	})
}

// A client that does not read holds up neither Send nor those that get the same, although Send is
// called with a lock held that OnClose needs.
func TestSendSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan *Conn, 1)
		var mu sync.Mutex
		ends := make(map[*Conn]error)
		s := &Server{Options: Options{MaxQueue: 1000}}
		s.OnOpen = func(c *Conn) { opened <- c }
		s.OnClose = func(c *Conn, err error) {
			mu.Lock()
			defer mu.Unlock()
			ends[c] = err
		}
		p := servePiped(t, s)
		p.join(t, "/", nil)
		slow := <-opened
		reader := p.join(t, "/", nil)
		quick := <-opened
		start := time.Now()
		for i := range 100 {
			text := fmt.Sprintf("%099d", i)
			mu.Lock()
			err := s.Send(Text, []byte(text), slow, quick)
			mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			expectMessages(t, reader, text)
		}
		synctest.Wait()
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %v", d)
		}
		if got := slices.Collect(s.Conns()); len(got) != 1 || got[0] != quick || len(ends) != 1 {
			t.Fatalf("%d connections are left, %d have ended", len(got), len(ends))
		}
		checkCode(t, ends[slow], ClosePolicyViolation, byUs)
		slow.CloseNow()
		reader.CloseNow()
		synctest.Wait()
	})
}

// TestSendOthers sends to connections of another Server, while these end.
func TestSendOthers(t *testing.T) {
	var s, other Server
	var conns []*Conn
	for range 10 {
		c, _ := tapeConn(nil, false, false)
		other.begin()
		c.beginServe(nil, -1)
		other.add(c)
		conns = append(conns, c)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, c := range conns {
			other.end(c)
		}
	})
	for range 100 {
		if err := s.Send(Text, nil, conns...); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for _, c := range conns {
		if w := c.t.rw.(*tape).writes(); len(w) > 0 {
			t.Errorf("sent %q", w[0].wrote)
		}
	}
}

// TestBroadcastMany has several processors work for so many clients that they share them: each gets
// every broadcast once, in order.
func TestBroadcastMany(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	const clients, single, burst = 2*perProcessor + share/2, 3, 20
	var s Server
	var conns []*Conn
	var peers []net.Conn
	for range clients {
		a, b := socketPair(t, "tcp", "127.0.0.1:0")
		c := newConn(a, nil, false)
		defer c.CloseNow()
		s.begin()
		c.beginServe(nil, -1)
		c.opened()
		s.add(c)
		conns, peers = append(conns, c), append(peers, b)
	}
	var want []byte
	for n := range single + burst {
		p := fmt.Append(nil, "message ", n)
		want = appendFrame(want, finBit|opText, p, false)
		s.sent = time.Now().Add(time.Hour) // so that this is one of a burst
		if n < single {
			s.sent = time.Time{}
		}
		if err := s.Broadcast(Text, p, conns[share]); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(want))
	for i, b := range peers {
		if i == share {
			continue
		}
		b.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("client %d got %q, %v", i, got, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pushers > 4 {
		t.Errorf("%d goroutines write", s.pushers)
	}
}
