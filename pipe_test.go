package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// openPiped returns what Pipe does.
func openPiped(t testing.TB, co, so *Options) (client, server *Conn) {
	t.Helper()
	client, server, err := Pipe(co, so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.CloseNow(); server.CloseNow() })
	return client, server
}

// TestPipe finds that the opening handshake is over, on both sides, with the options of each.
func TestPipe(t *testing.T) {
	co := &Options{
		Protocols: []string{"a", "b"},
		Header:    http.Header{"Host": {"h.example"}, "Origin": {"https://h.example"}, "Cookie": {"c=d"}},
		Deflate:   &Deflate{WindowBits: 9},
	}
	so := &Options{
		Protocols:  []string{"b"},
		Header:     http.Header{"X-A": {"1"}},
		Deflate:    &Deflate{},
		Origins:    []string{"https://*.example"},
		Client:     true, // this and the next are for NewConn alone
		Extensions: "x",
	}
	client, server := openPiped(t, co, so)
	for _, c := range []*Conn{client, server} {
		r := c.Request()
		if r.Version != RFC6455 || r.Host != "h.example" || r.Path != "/" || r.Origin != "https://h.example" || r.Header.Get("Cookie") != "c=d" ||
			r.Protocol != "b" || !strings.HasPrefix(r.Extensions, "permessage-deflate") {
			t.Errorf("Request returns %+v", r)
		}
	}
	if client.Request().ResponseHeader.Get("X-A") != "1" {
		t.Error("the client has not got the server's field")
	}

	client, server = openPiped(t, nil, nil)
	if r := server.Request(); r.Host != "example.com" || r.Path != "/" || r.Origin != "" || r.Protocol != "" || r.Extensions != "" {
		t.Errorf("without options Request returns %+v", r)
	}
	for _, pair := range [][2]*Conn{{client, server}, {server, client}} {
		for i := range 3 { // nobody reads yet
			if err := pair[0].WriteMessage(Text, fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		expectMessages(t, pair[1], "0", "1", "2")
	}
}

// TestPipeDeflate finds that messages are compressed, by both.
func TestPipeDeflate(t *testing.T) {
	o := &Options{Deflate: &Deflate{ContextTakeover: true}}
	client, server := openPiped(t, o, o)
	text := string(sampleText(4*pipeSize, 1)) // that fits
	for _, pair := range [][2]*Conn{{client, server}, {server, client}} {
		if err := pair[0].WriteMessage(Text, []byte(text)); err != nil {
			t.Fatal(err)
		}
		expectMessages(t, pair[1], text)
	}
}

// TestPipeLimits finds that each side heeds its own MaxMessage.
func TestPipeLimits(t *testing.T) {
	for _, test := range []struct {
		name   string
		co, so *Options
		toward string
	}{
		{"client", &Options{MaxMessage: 9}, nil, "client"},
		{"server", nil, &Options{MaxMessage: 9}, "server"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := openPiped(t, test.co, test.so)
			from, to := client, server
			if test.toward == "client" {
				from, to = server, client
			}
			for _, c := range []*Conn{from, to} {
				if err := c.WriteMessage(Text, []byte("123456789")); err != nil {
					t.Fatal(err)
				}
			}
			expectMessages(t, to, "123456789")
			expectMessages(t, from, "123456789")
			to.WriteMessage(Text, []byte("1234567890"))
			expectMessages(t, from, "1234567890")
			from.WriteMessage(Text, []byte("1234567890"))
			expectClose(t, to, CloseMessageTooBig)
			expectClose(t, from, CloseMessageTooBig)
		})
	}
}

// TestPipeErrors finds what is said of options that are wrong, or do not go together.
func TestPipeErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		co, so *Options
		status int // of a *HandshakeError
		text   string
	}{
		{"origin", &Options{Header: http.Header{"Origin": {"https://a.example"}}}, &Options{Origins: []string{}}, 403, "origin"},
		{"subprotocols", &Options{Protocols: []string{"a", "a"}}, nil, 0, "Options.Protocols"},
		{"field", &Options{Header: http.Header{"Upgrade": {"x"}}}, nil, 0, "Options.Header"},
		{"client's compression", &Options{Deflate: &Deflate{WindowBits: 99}}, nil, 0, "Options.Deflate"},
		{"server's compression", &Options{Deflate: &Deflate{}}, &Options{Deflate: &Deflate{WindowBits: 99}}, 500, "window bits"},
		{"Host", &Options{Header: http.Header{"Host": {"a b"}}}, nil, 400, "Host"},
		{"head", &Options{Header: http.Header{"X": {strings.Repeat("x", 9<<10)}}}, nil, 431, ""},
		{"answer", nil, &Options{Header: http.Header{"X": {strings.Repeat("x", 9<<10)}}}, 502, "8 KiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where no goroutine may be left
				c, s, err := Pipe(test.co, test.so)
				if c != nil || s != nil || err == nil || !strings.Contains(err.Error(), test.text) {
					t.Fatalf("%v, %v, %v", c, s, err)
				}
				if e, ok := errors.AsType[*HandshakeError](err); ok != (test.status != 0) || ok && e.Status != test.status {
					t.Errorf("%#v, want status %d", err, test.status)
				}
			})
		})
	}
}

// TestPipeTime finds that what waits for time waits for that of the bubble.
func TestPipeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := openPiped(t, nil, nil)
		start := time.Now()
		passed := func(want time.Duration) {
			t.Helper()
			if d := time.Since(start); d != want {
				t.Errorf("%v have passed, want %v", d, want)
			}
			start = time.Now()
		}
		for _, c := range []*Conn{client, server} {
			c.SetReadDeadline(start.Add(time.Hour))
			c.SetReadDeadline(start.Add(time.Minute))
			if _, _, err := c.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			passed(time.Minute)
			c.SetReadDeadline(time.Time{})
		}

		// A write that has no room times out, is not lost, and goes on once there is some.
		large := strings.Repeat("x", 3*pipeSize)
		for _, pair := range [][2]*Conn{{client, server}, {server, client}} {
			pair[0].SetWriteDeadline(start.Add(time.Second))
			n, err := pair[0].Write([]byte(large))
			if n != len(large) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("wrote %d, %v", n, err)
			}
			passed(time.Second)
			pair[0].SetWriteDeadline(time.Time{})
			next := goErr(func() error { return pair[0].WriteMessage(Text, []byte("next")) })
			expectMessages(t, pair[1], large, "next")
			if err := wait(t, next); err != nil {
				t.Error(err)
			}
			passed(0)
		}

		read := goErr(func() error { _, _, err := client.ReadMessage(); return err })
		go server.ReadMessage()
		if err := server.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if err := client.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		client.CloseNow()
		wait(t, read)
		passed(0)
	})
}

// TestPipePings finds that silence is noticed on either side.
func TestPipePings(t *testing.T) {
	o := &Options{PingInterval: 16 * time.Second}
	for _, side := range []string{"client", "server"} {
		synctest.Test(t, func(t *testing.T) {
			c, other := openPiped(t, o, nil)
			if side == "server" {
				other, c = openPiped(t, nil, o)
			}
			served := goErr(func() error { return c.Serve(Handler{}) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			go func() { // reads for an hour, and then no more
				other.SetReadDeadline(time.Now().Add(time.Hour))
				other.ReadMessage()
				cancel()
			}()
			<-ctx.Done()
			start := time.Now()
			if err := <-served; err != errSilent {
				t.Error(side, err)
			}
			if d := time.Since(start); d < 16*time.Second || d > 48*time.Second {
				t.Errorf("%s: the silence was noticed after %v", side, d)
			}
		})
	}
}

// TestPipeClose closes from either side.
func TestPipeClose(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		run := func(name string, f func(t *testing.T, c, peer *Conn)) {
			t.Run(name+"/"+side, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := openPiped(t, nil, nil)
					if side == "server" {
						c, peer = peer, c
					}
					f(t, c, peer)
					if c.CloseNow(); !c.end.isClosed() {
						t.Error("not closed")
					}
					if err := c.WriteMessage(Text, nil); err == nil {
						t.Error("a write after the end")
					}
				})
			})
		}
		run("CloseWith", func(t *testing.T, c, peer *Conn) {
			c.WriteMessage(Text, []byte("last"))
			closed := goErr(func() error { return c.CloseWith(CloseTryAgainLater, "later") })
			expectMessages(t, peer, "last")
			_, _, err := peer.ReadMessage()
			if checkCode(t, err, CloseTryAgainLater, byPeer); err.(*CloseError).Reason != "later" {
				t.Error(err)
			}
			if err := peer.Close(); err != nil {
				t.Error(err)
			}
			if err := wait(t, closed); err != nil {
				t.Error(err)
			}
		})
		run("both", func(t *testing.T, c, peer *Conn) {
			closed := goErr(peer.Close)
			if err := errors.Join(c.Close(), wait(t, closed)); err != nil {
				t.Error(err)
			}
		})
		run("nobody reads", func(t *testing.T, c, peer *Conn) {
			start := time.Now()
			if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != closeTimeout {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
		run("CloseNow", func(t *testing.T, c, peer *Conn) {
			c.WriteMessage(Text, []byte("last"))
			c.CloseNow()
			expectMessages(t, peer, "last")
			_, _, err := peer.ReadMessage()
			checkCode(t, err, CloseAbnormal, byCut)
			if err := peer.WriteMessage(Text, nil); !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		})
		run("CloseNow amid a write", func(t *testing.T, c, peer *Conn) {
			wrote := goErr(func() error { return peer.WriteMessage(Binary, make([]byte, 2*pipeSize)) })
			synctest.Wait()
			c.CloseNow()
			if err := wait(t, wrote); !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		})
	}
}

// TestPipeBoth has both sides write much at once, while they read.
func TestPipeBoth(t *testing.T) {
	client, server := openPiped(t, &Options{MaxMessage: -1}, &Options{MaxMessage: -1})
	message := func(i, n int) []byte { return bytes.Repeat([]byte{byte(i)}, n) }
	sizes := []int{1, 1 << 20, 125, pipeSize - 1, pipeSize, pipeSize + 1, 3 << 20}
	var all []<-chan error
	for _, c := range []*Conn{client, server} {
		all = append(all, goErr(func() error {
			for i, n := range sizes {
				if err := c.WriteMessage(Binary, message(i, n)); err != nil {
					return err
				}
			}
			return nil
		}), goErr(func() error {
			for i, n := range sizes {
				if _, p, err := c.ReadMessage(); err != nil || !bytes.Equal(p, message(i, n)) {
					return fmt.Errorf("message %d has %d bytes: %v", i, len(p), err)
				}
			}
			return nil
		}))
	}
	for _, done := range all {
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
	}
}

// TestPipeServer has a Server serve its end.
func TestPipeServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{}
		s.OnMessage = func(_ *Conn, typ MessageType, p []byte) { s.Broadcast(typ, p) }
		var clients []*Conn
		served := make(chan error, 3)
		s.OnClose = func(_ *Conn, err error) { served <- err }
		for range 3 {
			client, server := openPiped(t, nil, nil)
			clients = append(clients, client)
			if err := s.Adopt(server, s.Handler); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		clients[0].WriteMessage(Text, []byte("to all"))
		for _, c := range clients {
			expectMessages(t, c, "to all")
		}
		down := goErr(func() error { return s.Shutdown(t.Context()) })
		for _, c := range clients {
			expectClose(t, c, CloseGoingAway)
			c.Close()
			checkCode(t, wait(t, served), CloseGoingAway, byUs)
		}
		if err := wait(t, down); err != nil {
			t.Error(err)
		}
	})
}

// TestPipeStream is about what lies below: a stream that behaves as one of TCP.
func TestPipeStream(t *testing.T) {
	run := func(name string, f func(t *testing.T, a, b pipeEnd)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newPipe()
				f(t, a, b)
			})
		})
	}
	buf := make([]byte, 100)
	read := func(t *testing.T, e pipeEnd, want string, fault error) {
		t.Helper()
		if n, err := e.Read(buf); string(buf[:n]) != want || err != fault {
			t.Errorf("read %q, %v, want %q, %v", buf[:n], err, want, fault)
		}
	}
	write := func(t *testing.T, e pipeEnd, p string, want int, fault error) {
		t.Helper()
		if n, err := e.Write([]byte(p)); n != want || err != fault {
			t.Errorf("wrote %d, %v, want %d, %v", n, err, want, fault)
		}
	}
	past, full := time.Unix(1, 0), strings.Repeat("x", pipeSize)

	run("in pieces", func(t *testing.T, a, b pipeEnd) {
		write(t, a, "Hel", 3, nil)
		write(t, a, "lo", 2, nil)
		read(t, b, "Hello", nil)
		write(t, b, "back", 4, nil)
		buf = buf[:3]
		read(t, a, "bac", nil)
		read(t, a, "k", nil)
		buf = buf[:100]
	})
	run("Close", func(t *testing.T, a, b pipeEnd) {
		write(t, a, "last", 4, nil)
		write(t, b, "unread", 6, nil)
		a.Close()
		a.Close()
		read(t, a, "", net.ErrClosed)
		write(t, a, "x", 0, net.ErrClosed)
		read(t, b, "last", nil)
		read(t, b, "", io.EOF)
		read(t, b, "", io.EOF)
		write(t, b, "x", 0, io.ErrClosedPipe)
	})
	run("CloseWrite", func(t *testing.T, a, b pipeEnd) {
		write(t, a, "last", 4, nil)
		a.CloseWrite()
		write(t, a, "x", 0, net.ErrClosed)
		read(t, b, "last", nil)
		read(t, b, "", io.EOF)
		write(t, b, "answer", 6, nil)
		read(t, a, "answer", nil)
	})
	run("Close while calls wait", func(t *testing.T, a, b pipeEnd) {
		write(t, a, full, pipeSize, nil)
		write(t, b, full, pipeSize, nil)
		calls := []<-chan error{
			goErr(func() error { write(t, a, "x", 0, net.ErrClosed); return nil }),
			goErr(func() error { write(t, b, "x", 0, io.ErrClosedPipe); return nil }),
		}
		synctest.Wait()
		a.Close()
		wait(t, calls[0])
		wait(t, calls[1])
	})
	run("Close while reads wait", func(t *testing.T, a, b pipeEnd) {
		calls := []<-chan error{
			goErr(func() error { read(t, a, "", net.ErrClosed); return nil }),
			goErr(func() error { _, err := b.Read(make([]byte, 1)); return err }),
		}
		synctest.Wait()
		a.Close()
		wait(t, calls[0])
		if err := wait(t, calls[1]); err != io.EOF {
			t.Error(err)
		}
	})
	run("deadlines", func(t *testing.T, a, b pipeEnd) {
		write(t, b, "there", 5, nil)
		a.SetReadDeadline(past)
		a.SetWriteDeadline(past)
		read(t, a, "", os.ErrDeadlineExceeded)
		write(t, a, "x", 0, os.ErrDeadlineExceeded)
		a.SetReadDeadline(time.Time{})
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		read(t, a, "there", nil)
		write(t, a, full+"x", pipeSize, os.ErrDeadlineExceeded)
		a.SetReadDeadline(time.Now().Add(time.Minute))
		read(t, a, "", os.ErrDeadlineExceeded)
		a.SetReadDeadline(time.Now().Add(time.Minute))
		a.SetReadDeadline(time.Time{})
		sent := goErr(func() error { time.Sleep(time.Hour); write(t, b, "late", 4, nil); return nil })
		read(t, a, "late", nil)
		wait(t, sent)
	})
	run("deadlines while calls wait", func(t *testing.T, a, b pipeEnd) {
		write(t, a, full, pipeSize, nil)
		written := goErr(func() error { write(t, a, "x", 0, os.ErrDeadlineExceeded); return nil })
		readDone := goErr(func() error { read(t, a, "", os.ErrDeadlineExceeded); return nil })
		synctest.Wait()
		a.SetReadDeadline(time.Now().Add(time.Hour))
		a.SetWriteDeadline(time.Now().Add(time.Hour))
		synctest.Wait()
		a.SetReadDeadline(past)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		wait(t, written)
		wait(t, readDone)
	})
	run("room", func(t *testing.T, a, b pipeEnd) {
		sent := goErr(func() error { write(t, a, full+full+"end", 2*pipeSize+3, nil); return nil })
		synctest.Wait()
		if n := b.in.b.Len(); n != pipeSize {
			t.Errorf("the pipe holds %d bytes", n)
		}
		got := make([]byte, 2*pipeSize+3)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != full+full+"end" {
			t.Error("what was read is not what was written", err)
		}
		wait(t, sent)
	})
}
