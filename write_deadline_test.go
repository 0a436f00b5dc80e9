package websocket

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// isWriteTimeout reports whether err is one as a net.Conn has it.
func isWriteTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout() && errors.Is(err, os.ErrDeadlineExceeded)
}

// The write deadline is for the caller's writes. Once it has passed while nothing was written, the
// library's own writes go on, and so do the caller's with a new deadline.
func TestWriteDeadlinePassed(t *testing.T) {
	for _, tt := range []struct {
		name string
		act  func(t *testing.T, c, client *Conn) // has c write something by itself
		code CloseCode                           // that the client gets then, if not 0
	}{
		{"pong", func(t *testing.T, c, client *Conn) {
			if err := client.Ping(t.Context()); err != nil {
				t.Error("the client has no pong,", err)
			}
		}, 0},
		{"ping", func(t *testing.T, c, client *Conn) {
			if err := c.Ping(t.Context()); err != nil {
				t.Error("the client has not answered,", err)
			}
		}, 0},
		{"held reply", func(t *testing.T, c, client *Conn) {
			c.SetWriteDeadline(time.Now().Add(time.Microsecond))
			c.more.Store(true) // as if another message had arrived
			if err := c.WriteMessage(Text, []byte("held")); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * batchDelay)
			c.more.Store(false)
		}, 0},
		{"answer to a close frame", func(t *testing.T, c, client *Conn) {
			if err := client.Close(); err != nil {
				t.Error("Close returned", err)
			}
		}, CloseNormal},
		{"fault", func(t *testing.T, c, client *Conn) {
			client.WriteMessage(Binary, make([]byte, 2000))
		}, CloseMessageTooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, client := pipe(t, &Options{MaxMessage: 1000})
				serverEnd := goErr(func() error { _, _, err := c.ReadMessage(); return err })
				messages := make(chan string, 10)
				clientEnd := goErr(func() error {
					for {
						_, p, err := client.ReadMessage()
						if err != nil {
							return err
						}
						messages <- string(p)
					}
				})
				c.SetWriteDeadline(time.Now().Add(time.Second))
				if err := c.WriteMessage(Text, []byte("first")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				tt.act(t, c, client)
				synctest.Wait()
				if tt.code != 0 {
					err := wait(t, clientEnd)
					if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != tt.code {
						t.Errorf("the client has got %v", err)
					}
					return
				}
				c.SetWriteDeadline(time.Now().Add(time.Second))
				if err := c.WriteMessage(Text, []byte("last")); err != nil {
					t.Error("with a new deadline, WriteMessage returned", err)
				}
				synctest.Wait()
				c.CloseNow()
				close(messages)
				var got []string
				for m := range messages {
					got = append(got, m)
				}
				if want := "first last"; strings.Replace(strings.Join(got, " "), "held ", "", 1) != want {
					t.Errorf("the client has got %q", got)
				}
				wait(t, serverEnd)
				wait(t, clientEnd)
			})
		})
	}
}

// The pings of Serve, and broadcasts, are the library's own writes, too.
func TestServerWriteDeadlinePassed(t *testing.T) {
	for _, deadline := range []time.Duration{time.Second, -time.Second} {
		synctest.Test(t, func(t *testing.T) {
			opened := make(chan *Conn, 1)
			s := &Server{Handler: Handler{OnOpen: func(c *Conn) {
				c.SetWriteDeadline(time.Now().Add(deadline))
				opened <- c
			}}}
			client := dialMem(t, serveMem(t, s, nil), nil)
			messages := make(chan string, 1)
			end := goErr(func() error {
				for {
					_, p, err := client.ReadMessage()
					if err != nil {
						return err
					}
					messages <- string(p)
				}
			})
			c := wait(t, opened)
			time.Sleep(time.Hour)
			s.Broadcast(Text, []byte("to all"))
			if m := wait(t, messages); m != "to all" {
				t.Errorf("the client has got %q", m)
			}
			if err := c.WriteMessage(Text, nil); !isWriteTimeout(err) {
				t.Error("with the old deadline, WriteMessage returned", err)
			}
			c.SetWriteDeadline(time.Time{})
			if err := c.WriteMessage(Text, []byte("to one")); err != nil {
				t.Error("without a deadline, WriteMessage returned", err)
			}
			if m := wait(t, messages); m != "to one" {
				t.Errorf("the client has got %q", m)
			}
			s.Shutdown(t.Context())
			if e, ok := errors.AsType[*CloseError](wait(t, end)); !ok || e.Code != CloseGoingAway {
				t.Errorf("the client has got %v", e)
			}
		})
	}
}

// dialMem connects to a server in memory.
func dialMem(t testing.TB, l *memListener, o *Options) *Conn {
	t.Helper()
	c, err := ClientHandshake(l.dial(t), "ws://example.com/", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// What a write could not finish goes out before what follows, so the stream stays whole.
func TestWriteDeadline(t *testing.T) {
	kinds := []struct {
		name             string
		hixie            bool
		deflate, context bool
	}{
		{name: "RFC6455"}, {name: "hixie76", hixie: true}, {name: "deflate", deflate: true}, {name: "takeover", deflate: true, context: true},
	}
	for _, k := range kinds {
		for _, client := range []bool{false, true} {
			for _, size := range []int{0, 10, directSize, batchSize, 300_000} {
				for _, read := range []int{0, 1, 5, 70_000} {
					for _, set := range []string{"before", "during"} {
						t.Run(fmt.Sprintf("%s/client=%t/%d/read=%d/%s", k.name, client, size, read, set), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								a, b := net.Pipe()
								c, peer := newConn(a, nil, client), newConn(b, nil, !client)
								defer peer.CloseNow()
								defer c.CloseNow()
								if k.deflate {
									p := paramsWith(k.context)
									c.speak(RFC6455, &p)
									peer.speak(RFC6455, &p)
								} else {
									speakHixie(c, k.hixie)
									speakHixie(peer, k.hixie)
								}
								testWriteDeadline(t, c, peer, b, size, read, set == "before")
							})
						})
					}
				}
			}
		}
	}
}

// testWriteDeadline has the peer of c read some bytes, and the rest when a message of some size
// has run into its deadline. The wire is the peer's transport.
func testWriteDeadline(t *testing.T, c, peer *Conn, wire net.Conn, size, read int, before bool) {
	if before {
		c.SetWriteDeadline(time.Now().Add(time.Second))
	} else {
		time.AfterFunc(time.Second, func() { c.SetWriteDeadline(time.Now()) })
	}
	first := make([]byte, read)
	begun := make(chan int, 1)
	go func() {
		n, _ := io.ReadFull(wire, first)
		begun <- n
	}()
	text := string(sampleText(size, 1))
	start := time.Now()
	n, err := writeText(c, text)
	for range 3 { // these are not even begun
		if err == nil {
			break
		}
		if n != size || !isWriteTimeout(err) {
			t.Fatalf("the write returned %d, %v", n, err)
		}
		if n, err := writeText(c, "too late"); n != 0 || !isWriteTimeout(err) {
			t.Fatalf("a write with no time left returned %d, %v", n, err)
		}
		if _, err := c.NextWriter(Text); !isWriteTimeout(err) {
			t.Fatal("NextWriter returned", err)
		}
	}
	switch d := time.Since(start); {
	case err != nil && d != time.Second:
		t.Error("the write took", d)
	case err == nil && d != 0:
		t.Error("the write succeeded after", d)
	}
	c.SetWriteDeadline(time.Now().Add(time.Second))
	wire.SetReadDeadline(time.Now()) // for the bytes that did not come
	synctest.Wait()
	wire.SetReadDeadline(time.Time{})
	peer.t.preload(first[:wait(t, begun)])
	sent := goErr(func() error {
		w, err := c.NextWriter(Text)
		for i := 0; err == nil && i < 3; i++ {
			_, err = io.WriteString(w, text)
		}
		if err == nil {
			err = w.Close()
		}
		if err == nil {
			_, err = writeText(c, "last")
		}
		return err
	})
	for _, want := range []string{text, text + text + text, "last"} {
		if _, p, err := peer.ReadMessage(); err != nil || string(p) != want {
			t.Fatalf("the peer has got %d bytes, %v, want %d", len(p), err, len(want))
		}
	}
	if err := wait(t, sent); err != nil {
		t.Error("with a new deadline, a write returned", err)
	}
	go peer.ReadMessage()
	if err := c.Close(); err != nil {
		t.Error("Close returned", err)
	}
}

// writeText is Write for text.
func writeText(c *Conn, s string) (int, error) {
	return written(len(s), c.WriteMessage(Text, []byte(s)))
}

// A message may be in the way of another for longer than that can wait.
func TestWriteDeadlineBehindWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t, nil)
		got := make(chan string, 10)
		go func() {
			for {
				_, p, err := peer.ReadMessage()
				if err != nil {
					close(got)
					return
				}
				got <- string(p)
			}
		}()
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "slow"); err != nil {
			t.Fatal(err)
		}
		c.SetWriteDeadline(time.Now().Add(time.Second))
		for _, size := range []int{3, 100_000} {
			start := time.Now()
			if err := c.WriteMessage(Binary, make([]byte, size)); !isWriteTimeout(err) {
				t.Errorf("WriteMessage of %d bytes returned %v", size, err)
			}
			if size == 3 && time.Since(start) != time.Second {
				t.Error("it took", time.Since(start))
			}
			if n, err := io.WriteString(w, "no time"); n != 0 || !isWriteTimeout(err) {
				t.Errorf("Write returned %d, %v", n, err)
			}
			if err := w.Close(); !isWriteTimeout(err) {
				t.Error("Close returned", err)
			}
		}
		if _, err := c.NextWriter(Text); !isWriteTimeout(err) {
			t.Error("NextWriter returned", err)
		}
		// The deadline can be moved while a message waits for it.
		c.SetWriteDeadline(time.Now().Add(time.Second))
		moved := goErr(func() error { return c.WriteMessage(Text, []byte("moved")) })
		synctest.Wait()
		c.SetWriteDeadline(time.Now().Add(time.Hour))
		time.Sleep(time.Minute)
		if len(moved) > 0 {
			t.Fatal("it did not wait until the new deadline: ", <-moved)
		}
		if _, err := io.WriteString(w, "ly"); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := wait(t, moved); err != nil {
			t.Error(err)
		}
		if first, second := wait(t, got), wait(t, got); first != "slowly" || second != "moved" {
			t.Errorf("the peer has got %q and %q", first, second)
		}
	})
}

// Messages that wait behind one whose deadline has passed do not begin within each other.
func TestWriteDeadlineBeforeWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t, nil)
		defer c.CloseNow()
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if err := c.WriteMessage(Text, []byte("late")); err != errSending {
			t.Fatal("WriteMessage returned", err)
		}
		c.SetWriteDeadline(time.Time{})
		const writers = 3
		ends := make(chan error, writers)
		for range writers {
			go func() {
				w, err := c.NextWriter(Text)
				for range 2 {
					if err == nil {
						_, err = io.WriteString(w, "part ")
					}
					time.Sleep(time.Second)
				}
				if err == nil {
					err = w.Close()
				}
				ends <- err
			}()
		}
		synctest.Wait()
		for i := range 1 + writers {
			want := "part part "
			if i == 0 {
				want = "late"
			}
			if _, p, err := peer.ReadMessage(); err != nil || string(p) != want {
				t.Fatalf("the peer has got %q, %v, want %q", p, err, want)
			}
		}
		for range writers {
			if err := wait(t, ends); err != nil {
				t.Error(err)
			}
		}
	})
}

// A message that waits behind a late one ends with the transport, though the timer that was to write
// that one has been stopped, as when the time for the closing handshake is over.
func TestWriteDeadlineShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := barePeer(t, nil, false)
		c.mu.Lock()
		c.write.put(finBit|opText, []byte("late"))
		c.write.stick()
		c.mu.Unlock()
		wrote := goErr(func() error { return c.WriteMessage(Text, nil) })
		synctest.Wait()
		c.shut()
		if err := wait(t, wrote); err != net.ErrClosed {
			t.Error("WriteMessage returned", err)
		}
	})
}

// A fixedConn has the methods for deadlines, but no deadlines.
type fixedConn struct{ net.Conn }

func (fixedConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// A deadline that the transport has not taken does not count.
func TestWriteDeadlineRefused(t *testing.T) {
	a, b := net.Pipe()
	c, peer := newConn(fixedConn{a}, nil, false), newConn(b, nil, true)
	defer peer.CloseNow()
	defer c.CloseNow()
	if err := c.SetWriteDeadline(time.Unix(1, 0)); err != errors.ErrUnsupported {
		t.Error("SetWriteDeadline returned", err)
	}
	go peer.ReadMessage()
	if err := c.WriteMessage(Text, nil); err != nil {
		t.Error("WriteMessage returned", err)
	}
}

// However often writes time out, no more than one message of each waits.
func TestWriteDeadlineMemory(t *testing.T) {
	for _, size := range []int{1000, 100_000} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := barePeer(t, nil, false)
			for i := range 100 {
				c.SetWriteDeadline(time.Now().Add(time.Millisecond))
				n, err := c.Write(make([]byte, size))
				if want := size; i > 0 && n != 0 || i == 0 && n != want || !isWriteTimeout(err) {
					t.Fatalf("write %d returned %d, %v", i, n, err)
				}
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if n := c.write.waiting(0); n > size+maxHeader {
				t.Errorf("%d bytes wait", n)
			}
		})
	}
}

// What the library writes by itself has no deadline of the caller's, but a peer that takes nothing
// of it for minutes is given up. One that takes a little is not.
func TestStalledPong(t *testing.T) {
	for _, reads := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			go c.ReadMessage()
			for range 3 {
				if _, err := peer.Write(toward(c, opPing, strings.Repeat("p", 125))); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 {
				time.Sleep(stallTime / 2)
				if reads {
					peer.Read(make([]byte, 1))
				}
			}
			c.SetWriteDeadline(time.Now().Add(time.Second))
			err := c.WriteMessage(Text, nil)
			if reads && err != errSending || !reads && err != (finalError{errStalled}) {
				t.Errorf("when the peer reads: %t, WriteMessage returned %v", reads, err)
			}
			if err := c.CloseNow(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A write that has timed out may be tried again with a new deadline, until the connection cannot
// write any more: the error that says so is no timeout, or whoever tries again never ends.
func TestWriteDeadlineFinal(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS() // for its certificate
	certs.Close()
	for _, tt := range []struct {
		name string
		wrap func(net.Conn) io.ReadWriter
		want string
	}{
		{"stalled", func(conn net.Conn) io.ReadWriter { return conn }, "does not read"},
		{"TLS", func(conn net.Conn) io.ReadWriter {
			return tls.Server(conn, &tls.Config{Certificates: certs.TLS.Certificates, SessionTicketsDisabled: true})
		}, "after a timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, peer := net.Pipe()
				defer peer.Close()
				rw := tt.wrap(conn)
				if secure, ok := rw.(*tls.Conn); ok {
					shaken := goErr(tls.Client(peer, &tls.Config{InsecureSkipVerify: true}).Handshake)
					if err := cmp.Or(secure.Handshake(), wait(t, shaken)); err != nil {
						t.Fatal(err)
					}
				}
				c := NewConn(rw, nil)
				defer c.CloseNow()
				var err error
				for n := range 1000 {
					c.SetWriteDeadline(time.Now().Add(time.Second))
					err = c.WriteMessage(Text, []byte("hello"))
					if n == 0 && !isWriteTimeout(err) {
						t.Error("the first write returned", err)
					}
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						break
					}
					synctest.Wait()
				}
				if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("writes that were tried again ended with %v", err)
				}
				if _, again := c.Write(nil); again != err {
					t.Errorf("a later write returned %v, and not %v", again, err)
				}
			})
		})
	}
}

// A callback that has not closed a writer blocks its own next write. The connection ends as if
// its peer did not read.
func TestServeUnclosedWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote, end := make(chan error, 1), make(chan error, 1)
		s := &Server{Handler: Handler{
			OnMessage: func(c *Conn, typ MessageType, p []byte) {
				w, err := c.NextWriter(typ)
				if err != nil {
					wrote <- err
					return
				}
				w.Write(p)
				wrote <- c.WriteMessage(typ, p)
			},
			OnClose: func(c *Conn, err error) { end <- err },
		}}
		client := dialMem(t, serveMem(t, s, nil), nil)
		if err := client.WriteMessage(Text, []byte("a")); err != nil {
			t.Fatal(err)
		}
		_, r, err := client.NextReader()
		if err == nil {
			_, err = io.ReadFull(r, make([]byte, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		go client.ReadMessage() // and the client answers pings
		if err := <-wrote; err != (finalError{errUnclosed}) {
			t.Error("WriteMessage returned", err)
		}
		if err := <-end; err != errUnclosed || time.Since(start) > 6*pingInterval {
			t.Errorf("OnClose got %v after %v", err, time.Since(start))
		}
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// So does the next write of any goroutine, whatever else is sent: here the client asks for pongs.
func TestServeUnclosedWriterPongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		s := &Server{Handler: Handler{OnOpen: func(c *Conn) {
			if _, err := c.NextWriter(Text); err != nil {
				t.Error(err)
			}
			go func() { wrote <- c.WriteMessage(Text, nil) }()
		}}}
		client := dialMem(t, serveMem(t, s, nil), nil)
		go client.ReadMessage()
		start := time.Now()
		for len(wrote) == 0 && time.Since(start) < time.Hour {
			client.Ping(t.Context())
			time.Sleep(pingInterval / 3)
		}
		client.CloseNow()
		if err := <-wrote; err != (finalError{errUnclosed}) || time.Since(start) > 6*pingInterval {
			t.Errorf("WriteMessage returned %v after %v", err, time.Since(start))
		}
		s.Shutdown(t.Context())
	})
}

// A message that is long on its way, and goes on, holds others up without an end.
func TestServeSlowWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		s := &Server{Handler: Handler{OnOpen: func(c *Conn) {
			go func() {
				w, err := c.NextWriter(Text)
				go c.WriteMessage(Text, []byte("behind"))
				for i := 0; i < 100 && err == nil; i++ {
					time.Sleep(pingInterval)
					_, err = io.WriteString(w, "x")
				}
				if err == nil {
					err = w.Close()
				}
				ended <- err
			}()
		}}}
		client := dialMem(t, serveMem(t, s, nil), nil)
		for _, want := range []string{strings.Repeat("x", 100), "behind"} {
			if _, p, err := client.ReadMessage(); string(p) != want || err != nil {
				t.Errorf("the client has got %q, %v", p, err)
			}
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		client.CloseNow()
		s.Shutdown(t.Context())
	})
}
