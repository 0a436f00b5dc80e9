package websocket

import (
	"errors"
	"io"
	"net"
	"os"
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
