package websocket

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// TestIdle looks at what a Conn on a socket holds while it waits.
func TestIdle(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "js" {
		t.Skip("waits with a buffer there")
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, tt := range []struct {
			name string
			then []byte // begins another frame
			read func(c *Conn) error
		}{
			{"ReadMessage", nil, func(c *Conn) error { _, _, err := c.ReadMessage(); return err }},
			{"NextReader", nil, func(c *Conn) error {
				_, r, err := c.NextReader()
				if err != nil {
					return err
				}
				_, err = io.ReadAll(r)
				return err
			}},
			{"Read", nil, func(c *Conn) error { _, err := c.Read(make([]byte, 4)); return err }},
			{"half a header", []byte("\x81\xfe\x00"), func(c *Conn) error { _, _, err := c.ReadMessage(); return err }},
			{"half a ping", []byte("\x89\x84\x00\x00\x00\x00ab"), func(c *Conn) error { _, _, err := c.ReadMessage(); return err }},
		} {
			t.Run(network+"/"+tt.name, func(t *testing.T) {
				address := "127.0.0.1:0"
				if network == "unix" {
					address = filepath.Join(t.TempDir(), "socket")
				}
				socket, peer := socketPair(t, network, address)
				c := newConn(socket, nil, false)
				defer c.CloseNow()
				if _, err := peer.Write(append(toward(c, opText, "once"), tt.then...)); err != nil {
					t.Fatal(err)
				}
				if err := tt.read(c); err != nil {
					t.Fatal(err)
				}
				if err := c.WriteMessage(Text, []byte("reply")); err != nil {
					t.Fatal(err)
				}
				// A deadline gets the reader out of its wait. It may have passed
				// before that began, so the next one is longer.
				for d := time.Millisecond; ; d *= 2 {
					c.SetReadDeadline(time.Now().Add(d))
					if err := tt.read(c); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					if len(c.t.in) == len(tt.then) && cap(c.t.in) <= 16 && c.write.out == nil && cap(c.read.chunk) == 0 {
						break
					}
					if d > time.Second {
						t.Fatalf("holds input: %d of %d, chunk: %d of %d, output: %t",
							len(c.t.in), cap(c.t.in), len(c.read.chunk), cap(c.read.chunk), c.write.out != nil)
					}
				}
			})
		}
	}
}

// TestSocketAllocs is TestAllocs over TCP, where a Conn gives its buffer back
// whenever it waits.
func TestSocketAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	for _, size := range []int{128, 16 << 10, 60 << 10} {
		server, client := tcpPipe(t, nil)
		done := goErr(func() error {
			p := make([]byte, size)
			for {
				typ, q, err := server.AppendMessage(p[:0])
				if err == nil {
					err = server.WriteMessage(typ, q)
				}
				if err != nil {
					return err
				}
			}
		})
		p := make([]byte, size)
		if n := testing.AllocsPerRun(200, func() {
			err := client.WriteMessage(Binary, p)
			if err == nil {
				_, p, err = client.AppendMessage(p[:0])
			}
			if err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%d bytes: %v allocations", size, n)
		}
		client.CloseNow()
		wait(t, done)
	}
}

// A faulty transport fails after some bytes in either direction.
type faulty struct {
	io.ReadWriter
	reads, writes int // bytes that pass
}

func (f *faulty) Read(p []byte) (int, error) {
	if f.reads == 0 {
		return 0, errBroken
	}
	n, err := f.ReadWriter.Read(p[:min(len(p), f.reads)])
	f.reads -= n
	return n, err
}

func (f *faulty) Write(p []byte) (int, error) {
	n, err := f.ReadWriter.Write(p[:min(len(p), f.writes)])
	f.writes -= n
	if n < len(p) && err == nil {
		err = errBroken
	}
	return n, err
}

// A faultyCloser can be closed, too.
type faultyCloser struct{ *faulty }

func (f faultyCloser) Close() error { return f.ReadWriter.(io.Closer).Close() }

// TestFaultyTransport runs a whole exchange over a transport that fails after
// n bytes, for every n.
func TestFaultyTransport(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, closer := range []bool{false, true} {
			for _, fault := range []string{"read", "write"} {
				t.Run(fmt.Sprintf("%s/client=%t/closer=%t", fault, client, closer), func(t *testing.T) {
					for n := 0; ; n++ {
						rw := &tape{}
						f := &faulty{rw, math.MaxInt, math.MaxInt}
						if fault == "read" {
							f.reads = n
						} else {
							f.writes = n
						}
						var transport io.ReadWriter = f
						if closer {
							transport = faultyCloser{f}
						}
						c := newConn(transport, nil, client)
						if !client {
							rw.in = append(rw.in, []byte("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
								"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
						}
						rw.in = append(rw.in, toward(c, opText, "one"), toward(c, opPing, "p"),
							toward(c, opBinary, strings.Repeat("x", 200)), toward(c, opClose, closing(CloseNormal, "")))
						rerr, werr := exchange(c, !client)
						c.Close()
						if err := errors.Join(rerr, werr); !errors.Is(err, errBroken) {
							if n < 200 || !errors.Is(err, io.EOF) {
								t.Fatalf("after %d bytes: read: %v, write: %v", n, rerr, werr)
							}
							return // all bytes have passed
						}
						for range 1100 {
							if _, _, err := c.ReadMessage(); err == nil || rerr != nil && err != rerr {
								t.Fatalf("after %d bytes ReadMessage returned %v, then %v", n, rerr, err)
							}
							if err := c.WriteMessage(Text, nil); err == nil || werr != nil && err != werr {
								t.Fatalf("after %d bytes WriteMessage returned %v, then %v", n, werr, err)
							}
							if fault == "read" && n > 0 && n%64 != 0 {
								break // once in a while is enough
							}
						}
					}
				})
			}
		}
	}
}

// exchange reads and answers what there is. It returns the first error in
// either direction.
func exchange(c *Conn, server bool) (rerr, werr error) {
	if server {
		if _, err := ShakeHands(c); err != nil {
			if _, _, rerr = c.ReadMessage(); rerr == nil {
				werr = err
			}
			return rerr, werr
		}
	}
	for rerr == nil && werr == nil {
		var typ MessageType
		var p []byte
		if typ, p, rerr = c.ReadMessage(); rerr == nil {
			werr = c.WriteMessage(typ, p)
		}
	}
	return rerr, werr
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestOddTransport is about Reads and Writes that are rare but allowed, or not
// even that.
func TestOddTransport(t *testing.T) {
	t.Run("no progress", func(t *testing.T) {
		reads := 0
		rw := struct {
			io.Reader
			io.Writer
		}{readFunc(func([]byte) (int, error) { reads++; return 0, nil }), io.Discard}
		c := newConn(rw, nil, false)
		for range 3 {
			if _, _, err := c.ReadMessage(); err != io.ErrNoProgress {
				t.Error(err)
			}
		}
		if reads > 1000 {
			t.Errorf("%d reads", reads)
		}
		if _, err := GetRequest(rw); !errors.Is(err, io.ErrNoProgress) {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, size := range []int{1, 1 << 10, 100 << 10} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("short write/%d/client=%t", size, client), func(t *testing.T) {
				rw := struct {
					io.Reader
					io.Writer
				}{nil, writeFunc(func(p []byte) (int, error) { return len(p) / 2, nil })}
				c := newConn(rw, nil, client)
				for range 2 {
					if err := c.WriteMessage(Binary, make([]byte, size)); err != io.ErrShortWrite {
						t.Error(err)
					}
				}
			})
		}
	}
	t.Run("data with EOF", func(t *testing.T) {
		for _, chunk := range []func(io.Reader) io.Reader{iotest.DataErrReader, iotest.HalfReader, iotest.OneByteReader, iotest.TimeoutReader} {
			for _, size := range []int{3, 100 << 10} {
				message := strings.Repeat("x", size)
				rw := &tape{}
				c := newConn(nil, nil, false)
				c.t.rw = struct {
					io.Reader
					io.Writer
				}{chunk(rw), rw}
				rw.in = [][]byte{toward(c, opText, message), toward(c, opText, message)}
				for n := range 3 {
					_, p, err := c.ReadMessage()
					if err == iotest.ErrTimeout || n == 2 && err == io.EOF { // it is none that says so
						break
					}
					if string(p) != message || err != nil {
						t.Fatalf("got %d bytes, %v", len(p), err)
					}
				}
			}
		}
	})
	t.Run("data with an error", func(t *testing.T) {
		for _, size := range []int{10, 100 << 10} {
			c, rw := tapeConn(nil, true, false)
			rw.in = [][]byte{toward(c, opText, strings.Repeat("x", size))}
			c.t.rw = struct {
				io.Reader
				io.Writer
			}{readFunc(func(p []byte) (int, error) { // tells its error once
				n, err := rw.Read(p)
				if err == nil && len(rw.in) == 0 {
					err = errBroken
				}
				return n, err
			}), rw}
			if p, err := GetFrame(c); len(p) != size || err != nil {
				t.Errorf("got %d bytes, %v", len(p), err)
			}
			if _, _, err := c.ReadMessage(); err != errBroken {
				t.Error("got", err)
			}
		}
	})
	t.Run("reset by the peer", func(t *testing.T) {
		socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
		c := newConn(socket, nil, false)
		peer.(*net.TCPConn).SetLinger(0)
		peer.Close()
		_, _, err := c.ReadMessage()
		if _, _, again := c.ReadMessage(); !errors.Is(err, syscall.ECONNRESET) || again != err {
			t.Errorf("got %v, then %v", err, again)
		}
		if err := c.Close(); err != nil && !errors.Is(err, syscall.EPIPE) {
			t.Error("Close returned", err)
		}
	})
	t.Run("timed out by the system", func(t *testing.T) {
		c, rw := tapeConn(nil, false, false)
		rw.end = &net.OpError{Op: "read", Err: syscall.ETIMEDOUT}
		_, _, err := c.ReadMessage()
		if _, _, again := c.ReadMessage(); err != rw.end || again != err || len(rw.events) != 1 {
			t.Errorf("got %v, then %v, in %d reads", err, again, len(rw.events))
		}
	})
}

// BenchmarkIdle reports what a server's Conn costs that waits for its second
// message.
func BenchmarkIdle(b *testing.B) {
	const conns = 1000
	memory := func() (heap, stack float64) {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // empties the pools
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc), float64(m.StackInuse)
	}
	for b.Loop() {
		var sockets, peers []net.Conn
		for range conns {
			s, p := socketPair(b, "tcp", "127.0.0.1:0")
			sockets, peers = append(sockets, s), append(peers, p)
		}
		heap, stack := memory()
		var reading sync.WaitGroup
		var ready atomic.Int32
		var cs []*Conn
		for _, s := range sockets {
			c := newConn(s, nil, false)
			cs = append(cs, c)
			reading.Go(func() {
				for {
					typ, p, err := c.ReadMessage()
					if err != nil {
						return
					}
					ready.Add(1)
					c.WriteMessage(typ, p)
				}
			})
		}
		for i, p := range peers {
			p.Write(toward(cs[i], opText, "once"))
			io.ReadFull(p, make([]byte, 6))
		}
		heap2, stack2 := memory()
		b.ReportMetric((heap2-heap)/conns, "heap-B/conn")
		b.ReportMetric((stack2-stack)/conns, "stack-B/conn")
		for _, c := range cs {
			c.CloseNow()
		}
		for _, p := range peers {
			p.Close()
		}
		reading.Wait()
	}
}

// TestTransportPanic has the transport panic within a write and the caller recover.
// Close must not wait for a write that will never end.
func TestTransportPanic(t *testing.T) {
	c := newConn(struct {
		io.Reader
		io.Writer
		io.Closer
	}{&tape{}, writeFunc(func([]byte) (int, error) { panic("transport") }), io.NopCloser(nil)}, nil, false)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is lost")
			}
		}()
		PutFrame(c, nil)
	}()
	if err := PutFrame(c, nil); err != errPanic {
		t.Error("a later write returned", err)
	}
	if err := wait(t, goErr(c.Close)); err != nil {
		t.Error("Close returned", err)
	}
}

// TestTimeoutWithData has a transport report a timeout together with data. The data
// count, and the timeout is over by the next read.
func TestTimeoutWithData(t *testing.T) {
	first := true
	c := newConn(struct {
		io.Reader
		io.Writer
	}{readFunc(func(p []byte) (int, error) {
		if first {
			first = false
			return copy(p, "\x81\x01a"), os.ErrDeadlineExceeded
		}
		return copy(p, "\x81\x01b"), nil
	}), io.Discard}, nil, true)
	for _, want := range []string{"a", "b"} {
		if p, err := GetFrame(c); err != nil || string(p) != want {
			t.Errorf("got %q, %v, want %q", p, err, want)
		}
	}
}

// TestTransportClosed has the program close the transport itself. Unlike a Close of
// the Conn that is an error, above all within a message.
func TestTransportClosed(t *testing.T) {
	socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
	c := newConn(socket, nil, false)
	peer.Write(toward(c, opText, "message")[:8])
	socket.Close()
	if _, err := GetFrame(c); err == nil || err == io.EOF {
		t.Error("GetFrame returned", err)
	}
}

// TestWritePanic has the transport panic when a read sends a close frame.
func TestWritePanic(t *testing.T) {
	for name, input := range map[string]string{"a broken rule": "\xff\x00", "a close frame": "\x88\x00"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newConn(struct {
					io.Reader
					io.Writer
					io.Closer
				}{strings.NewReader(input), writeFunc(func([]byte) (int, error) { panic("transport") }), io.NopCloser(nil)}, nil, true)
				func() {
					defer func() {
						if v := recover(); v != "transport" {
							t.Errorf("recovered %v", v)
						}
					}()
					c.ReadMessage()
				}()
				wait(t, goErr(c.Close))
				checkStopped(t, c)
			})
		})
	}
}

// TestReadPanic has the transport panic within a read and the caller recover. Close must
// not wait for a read that will never end.
func TestReadPanic(t *testing.T) {
	for name, read := range map[string]func(*Conn) error{
		"ReadMessage": func(c *Conn) error { _, _, err := c.ReadMessage(); return err },
		"NextReader":  func(c *Conn) error { _, _, err := c.NextReader(); return err },
		"Read":        func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"Serve":       func(c *Conn) error { return c.Serve(Handler{}) },
		"GetRequest":  func(c *Conn) error { _, err := GetRequest(c); return err },
		"ShakeHands":  func(c *Conn) error { _, err := ShakeHands(c); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rw, peer := net.Pipe()
				defer peer.Close()
				go io.Copy(io.Discard, peer)
				c := newConn(struct {
					io.Reader
					io.Writer
					io.Closer
				}{readFunc(func([]byte) (int, error) { panic("transport") }), rw, rw}, nil, false)
				func() {
					defer func() {
						if v := recover(); v != "transport" {
							t.Errorf("recovered %v", v)
						}
					}()
					read(c)
				}()
				if err := wait(t, goErr(func() error { return read(c) })); err == nil {
					t.Error("a later read succeeds")
				}
				if err := wait(t, goErr(c.Close)); err != nil {
					t.Error("Close returned", err)
				}
				checkStopped(t, c)
			})
		})
	}
}

// The error of a read that times out is that of net.Conn, even where a Conn waits in its
// own way.
func TestTimeoutText(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			a, _ := socketPair(t, network, address)
			a.SetReadDeadline(time.Unix(1, 0))
			_, want := a.Read(make([]byte, 1))
			c := newConn(a, nil, false)
			if _, _, err := c.ReadMessage(); err == nil || err.Error() != want.Error() || !isTimeout(err) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}
