package websocket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An insideServer is one at whose connections the functions of a test run within a read.
type insideServer struct {
	Server
	l      net.Listener
	does   func(c *Conn, m MessageType, p []byte) // for all messages but the first
	closed chan error                             // what OnClose got
}

// serveInside starts a server beside net/http.
func serveInside(t *testing.T, o Options, does func(c *Conn, m MessageType, p []byte)) *insideServer {
	t.Helper()
	s := &insideServer{Server: Server{Options: o}, does: does, closed: make(chan error, 16)}
	s.OnMessage = func(c *Conn, m MessageType, p []byte) {
		switch {
		case string(p) == "warm up":
			c.WriteMessage(m, p)
		case !c.serve.isInside():
			t.Errorf("%d bytes come outside of a read", len(p))
			fallthrough
		default:
			s.does(c, m, p)
		}
	}
	s.OnClose = func(_ *Conn, err error) { s.closed <- err }
	var err error
	if s.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
	served := goErr(func() error { return web.Serve(s.l) })
	t.Cleanup(func() {
		web.Close()
		wait(t, served)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// connect returns a client whose connection is busy, and its transport.
func (s *insideServer) connect(t *testing.T, o *Options) (*Conn, *net.TCPConn) {
	t.Helper()
	conn, err := net.Dial("tcp", s.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, err := ClientHandshake(conn, "ws://"+s.l.Addr().String()+"/", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.CloseNow() })
	client.SetReadDeadline(time.Now().Add(20 * time.Second))
	for range busyAfter + 1 {
		if err := client.WriteMessage(Text, []byte("warm up")); err != nil {
			t.Fatal(err)
		}
		expectMessages(t, client, "warm up")
	}
	return client, conn.(*net.TCPConn)
}

// sees waits for the end of the stream.
func sees(t *testing.T, c *Conn) {
	t.Helper()
	if _, _, err := c.ReadMessage(); isTimeout(err) || err == nil {
		t.Errorf("the peer sees %v", err)
	}
}

// TestServeInsideClose closes connections from functions that run within a read, and while these
// run: nobody waits for that read, and the peer sees the end at once.
func TestServeInsideClose(t *testing.T) {
	t.Run("by itself", func(t *testing.T) {
		goOn := make(chan bool)
		s := serveInside(t, Options{}, func(c *Conn, _ MessageType, _ []byte) {
			for range 2 {
				if err := c.CloseNow(); err != nil {
					t.Error(err)
				}
			}
			<-goOn
		})
		client, _ := s.connect(t, nil)
		client.WriteMessage(Text, []byte("a"))
		client.WriteMessage(Text, []byte("b"))
		sees(t, client)
		close(goOn)
		if err := wait(t, s.closed); err != net.ErrClosed {
			t.Error(err)
		}
	})
	t.Run("by another goroutine", func(t *testing.T) {
		running, goOn := make(chan *Conn), make(chan bool)
		s := serveInside(t, Options{}, func(c *Conn, _ MessageType, _ []byte) {
			running <- c
			<-goOn
		})
		client, _ := s.connect(t, nil)
		client.WriteMessage(Text, []byte("a"))
		c := wait(t, running)
		wait(t, goErr(func() error { c.CloseNow(); return c.CloseNow() }))
		sees(t, client)
		close(goOn)
		if err := wait(t, s.closed); err != net.ErrClosed {
			t.Error(err)
		}
	})
	t.Run("by each other", func(t *testing.T) {
		conns := make(chan *Conn, 2)
		var all, both sync.WaitGroup
		all.Add(2)
		both.Add(2)
		others := make(map[*Conn]*Conn)
		s := serveInside(t, Options{}, func(c *Conn, _ MessageType, _ []byte) {
			conns <- c
			all.Done()
			both.Wait()
			others[c].CloseNow()
		})
		a, _ := s.connect(t, nil)
		b, _ := s.connect(t, nil)
		a.WriteMessage(Text, []byte("a"))
		b.WriteMessage(Text, []byte("b"))
		all.Wait()
		x, y := <-conns, <-conns
		others[x], others[y] = y, x
		both.Add(-2)
		sees(t, a)
		sees(t, b)
		for range 2 {
			if err := wait(t, s.closed); err != net.ErrClosed {
				t.Error(err)
			}
		}
	})
	t.Run("while it writes", func(t *testing.T) {
		running := make(chan *Conn)
		s := serveInside(t, Options{}, func(c *Conn, _ MessageType, _ []byte) {
			running <- c
			for c.WriteMessage(Binary, make([]byte, 1<<20)) == nil {
			}
		})
		client, _ := s.connect(t, nil)
		client.WriteMessage(Text, []byte("a"))
		c := wait(t, running)
		for !func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.write.isBusy() }() {
			runtime.Gosched()
		}
		c.CloseNow()
		if err := wait(t, s.closed); err != net.ErrClosed {
			t.Error(err)
		}
	})
	t.Run("with a handshake", func(t *testing.T) {
		n := 0
		s := serveInside(t, Options{}, func(c *Conn, _ MessageType, _ []byte) {
			n++
			c.CloseWith(4001, "enough")
		})
		client, conn := s.connect(t, nil)
		wire := appendFrame(nil, finBit|opText, []byte("a"), true)
		conn.Write(append(wire, wire...))
		if _, _, err := client.ReadMessage(); err == nil || err.(*CloseError).Code != 4001 {
			t.Error(err)
		}
		client.Close()
		checkCode(t, wait(t, s.closed), 4001, byUs)
		if n != 1 {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("by the peer", func(t *testing.T) {
		s := serveInside(t, Options{}, func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) })
		client, conn := s.connect(t, nil)
		conn.Write(appendFrame(appendFrame(nil, finBit|opText, []byte("a"), true), finBit|opClose, []byte{0x0f, 0xa0}, true))
		expectMessages(t, client, "a")
		expectClose(t, client, 4000)
		checkCode(t, wait(t, s.closed), 4000, byPeer)
	})
}

// TestServeInsidePanic has functions not return that run within a read.
func TestServeInsidePanic(t *testing.T) {
	for name, end := range map[string]func(){
		"panic": func() { panic("out of tea") }, "Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			s := serveInside(t, Options{}, func(*Conn, MessageType, []byte) { end() })
			client, _ := s.connect(t, nil)
			client.WriteMessage(Text, []byte("a"))
			expectClose(t, client, CloseInternalError)
			client.Close()
			checkCode(t, wait(t, s.closed), CloseInternalError, byUs)
		})
	}
}

// cork has what is written come together with the end of the stream.
func cork(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = cmp.Or(raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 1)
	}), err)
	if err != nil {
		t.Fatal(err)
	}
}

// TestServeInsideEnd ends the input together with a message, and ends the wait for the next one.
func TestServeInsideEnd(t *testing.T) {
	for _, tt := range []struct {
		name     string
		interval time.Duration
		replies  bool
		end      func(*net.TCPConn) error
	}{
		{"unanswered", time.Hour, false, (*net.TCPConn).CloseWrite},
		{"gone", time.Hour, true, (*net.TCPConn).Close},
		{"half closed", 2 * time.Second, true, (*net.TCPConn).CloseWrite}, // found when it rests
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveInside(t, Options{PingInterval: tt.interval}, func(c *Conn, m MessageType, p []byte) {
				if tt.replies {
					c.WriteMessage(m, p)
				}
			})
			_, conn := s.connect(t, nil)
			cork(t, conn)
			conn.Write(appendFrame(nil, finBit|opText, []byte("a"), true))
			tt.end(conn)
			checkCode(t, wait(t, s.closed), CloseAbnormal, byCut)
		})
	}
	t.Run("read deadline", func(t *testing.T) {
		s := serveInside(t, Options{}, func(c *Conn, _ MessageType, _ []byte) {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
		})
		client, _ := s.connect(t, nil)
		client.WriteMessage(Text, []byte("a"))
		if err := wait(t, s.closed); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("rest", func(t *testing.T) {
		s := serveInside(t, Options{PingInterval: 100 * time.Millisecond}, nil)
		client, conn := s.connect(t, nil)
		go client.ReadMessage() // and answer pings
		awaitRest(t, &s.Server, 1, 0)
		conn.CloseWrite()
		checkCode(t, wait(t, s.closed), CloseAbnormal, byCut)
	})
}

// TestServeInsideStream sends messages of all kinds in pieces and together, with control frames and
// bytes of the next message between them, and gets them back.
func TestServeInsideStream(t *testing.T) {
	for name, o := range map[string]Options{"plain": {}, "deflate": {Deflate: &Deflate{}}} {
		t.Run(name, func(t *testing.T) {
			s := serveInside(t, o, nil)
			s.OnMessage = func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) }
			client, conn := s.connect(t, &o)
			rng := rand.New(rand.NewPCG(15, 2))
			var wire []byte
			var want [][]byte
			for range 400 {
				p := make([]byte, []int{0, 1, 125, 126, 5000, 40 << 10, 200 << 10}[rng.IntN(7)]>>rng.IntN(3))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				want = append(want, p)
				switch rng.IntN(5) {
				case 0:
					wire = appendFrame(wire, finBit|opPing, []byte("still there?"), true)
				case 1:
					n := rng.IntN(len(p) + 1)
					wire = appendFrame(wire, opBinary, p[:n], true)
					wire = appendFrame(wire, finBit|opContinuation, p[n:], true)
					continue
				}
				wire = appendFrame(wire, finBit|opBinary, p, true)
			}
			sent := goErr(func() error {
				for len(wire) > 0 {
					n := min(len(wire), 1+rng.IntN(1<<rng.IntN(17)))
					if _, err := conn.Write(wire[:n]); err != nil {
						return err
					}
					wire = wire[n:]
				}
				return nil
			})
			for i, p := range want {
				if _, got, err := client.ReadMessage(); err != nil || !bytes.Equal(got, p) {
					t.Fatalf("message %d: %d bytes of %d, %v", i, len(got), len(p), err)
				}
			}
			if err := wait(t, sent); err != nil {
				t.Error(err)
			}
			client.Close()
			checkCode(t, wait(t, s.closed), CloseNormal, byPeer)
		})
	}
}
