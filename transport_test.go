package websocket

import (
	"bytes"
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
					if c.t.buffered() == len(tt.then) && held(&c.t) <= 16 && c.write.first == nil && cap(c.read.chunk) == 0 {
						break
					}
					if d > time.Second {
						t.Fatalf("holds input: %d of %d, chunk: %d of %d, output: %t",
							c.t.buffered(), held(&c.t), len(c.read.chunk), cap(c.read.chunk), c.write.first != nil)
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
			if _, _, err := c.ReadMessage(); cause(err) != io.ErrNoProgress {
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
					if cause(err) == iotest.ErrTimeout || n == 2 && cause(err) == io.EOF { // it is none that says so
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
			if _, _, err := c.ReadMessage(); cause(err) != errBroken {
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
		if _, _, again := c.ReadMessage(); cause(err) != rw.end || again != err || len(rw.events) != 1 {
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

// transportPairs are a transport and the other end of its stream, in memory and over TCP.
var transportPairs = []struct {
	name string
	open func(testing.TB) (*transport, net.Conn)
}{
	{"pipe", func(t testing.TB) (*transport, net.Conn) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return newTransport(a), b
	}},
	{"TCP", func(t testing.TB) (*transport, net.Conn) {
		a, b := socketPair(t, "tcp", "127.0.0.1:0")
		return newTransport(a), b
	}},
}

func newTransport(rw io.ReadWriter) *transport {
	t := new(transport)
	t.init(rw)
	t.watch(new(atomic.Uint32))
	t.now.Add(1)
	return t
}

// heard reports whether something has been read since it was asked last.
func heard(t *transport) bool { return t.lastInput() == t.now.Add(1)-1 }

// socketTransport is a transport over TCP that knows it is one, with the other end.
func socketTransport(t *testing.T) (*transport, net.Conn) {
	t.Helper()
	tr, peer := transportPairs[1].open(t)
	if !tr.isSocket() {
		t.Skip("waits with a buffer here")
	}
	return tr, peer
}

// fillUntil fills the input of tr until it has n bytes.
func fillUntil(t *testing.T, tr *transport, n int) {
	t.Helper()
	for tr.buffered() < n {
		if err := tr.fill(); err != nil {
			t.Fatalf("after %d of %d bytes: %v", tr.buffered(), n, err)
		}
	}
}

// held returns how many bytes the input buffer of tr has.
func held(tr *transport) int {
	if tr.in == nil {
		return 0
	}
	return cap(tr.in.b)
}

// Input stays in its order until it is used, however much of it there is, and also while the
// buffer is given back.
func TestTransportInput(t *testing.T) {
	for _, pair := range transportPairs {
		t.Run(pair.name, func(t *testing.T) {
			tr, peer := pair.open(t)
			tr.preload([]byte("ab"))
			if heard(tr) {
				t.Error("alive before anything has been read")
			}
			sent := send(peer, "cdef")
			fillUntil(t, tr, 6)
			if err := wait(t, sent); err != nil || string(tr.input()) != "abcdef" {
				t.Fatalf("the input is %q, %v", tr.input(), err)
			}
			if !heard(tr) || heard(tr) {
				t.Error("what has been read does not count once")
			}
			tr.use(2)
			tr.release()
			if string(tr.input()) != "cdef" || held(tr) > 16 {
				t.Errorf("the input is %q in %d bytes", tr.input(), held(tr))
			}
			text := string(sampleText(3*inputSize, 1))
			sent = send(peer, text)
			fillUntil(t, tr, 4+len(text))
			if err := wait(t, sent); err != nil || string(tr.input()) != "cdef"+text {
				t.Fatalf("the input is %.20q of %d bytes, %v", tr.input(), tr.buffered(), err)
			}
			tr.use(4)
			tr.use(len(text) - 1)
			sent = send(peer, "!")
			fillUntil(t, tr, 2)
			if err := wait(t, sent); err != nil || string(tr.input()) != text[len(text)-1:]+"!" {
				t.Fatalf("the input is %q, %v", tr.input(), err)
			}
			tr.use(2)
			if tr.buffered() != 0 || tr.isHeld() || !heard(tr) {
				t.Errorf("the input is %q", tr.input())
			}
			if tr.release(); tr.in != nil {
				t.Errorf("%d bytes are held for no input", held(tr))
			}
			peer.Close()
			for range 2 {
				if err := tr.fill(); err != io.EOF || tr.buffered() != 0 || heard(tr) {
					t.Errorf("at the end there are %d bytes, %v", tr.buffered(), err)
				}
			}
		})
	}
}

// A sourceFunc is a source that is a function.
type sourceFunc func(fd uintptr) bool

func (f sourceFunc) tryRead(fd uintptr) bool { return f(fd) }

// A socket is waited on without a buffer, but for what has not been used.
func TestTransportWait(t *testing.T) {
	for _, left := range []string{"", "abc"} {
		tr, peer := socketTransport(t)
		if _, err := io.WriteString(peer, "12"+left); err != nil {
			t.Fatal(err)
		}
		fillUntil(t, tr, 2+len(left))
		tr.use(2)
		sizes := make(chan int, 1000) // of the buffer, as it begins to wait
		tr.makeInput().from = sourceFunc(func(fd uintptr) bool {
			done := tr.tryRead(fd)
			if !done {
				sizes <- held(tr)
			}
			return done
		})
		filled := goErr(func() error { return tr.fill() })
		if n := wait(t, sizes); n > 16 || left == "" && n > 0 {
			t.Errorf("it waits with a buffer of %d bytes for %q", n, left)
		}
		if _, err := io.WriteString(peer, "d"); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, filled); err != nil || string(tr.input()) != left+"d" {
			t.Errorf("the input is %q, %v", tr.input(), err)
		}
		tr.use(len(left) + 1)
		peer.Close()
		if tr.wait(); !tr.isHeld() {
			t.Error("the end is not held for the next read")
		}
		if err := tr.fill(); err != io.EOF || tr.isHeld() {
			t.Error("the next read returned", err)
		}
	}
}

// A buffer that was large for what it was given, or for an opening handshake, does not stay so.
func TestTransportShrinks(t *testing.T) {
	tr := newTransport(&memStream{Reader: strings.NewReader("more")})
	tr.preload(make([]byte, 64<<10))
	tr.use(64<<10 - 1)
	if err := tr.fill(); err != nil || held(tr) != 64<<10 {
		t.Errorf("with input, the buffer has %d bytes, %v", held(tr), err)
	}
	tr.use(tr.buffered())
	if err := tr.fill(); err != io.EOF || held(tr) != heldInputSize {
		t.Errorf("without input, the buffer has %d bytes, %v", held(tr), err)
	}
}

// What is read past the buffer comes behind what went through it, and an error that came with
// the last bytes comes after them.
func TestTransportRead(t *testing.T) {
	for _, pair := range transportPairs {
		t.Run(pair.name, func(t *testing.T) {
			tr, peer := pair.open(t)
			text := string(sampleText(100000, 1))
			sent := send(peer, text)
			if err := tr.fill(); err != nil {
				t.Fatal(err)
			}
			got := string(tr.input())
			tr.use(len(got))
			p := make([]byte, 5000)
			for len(got) < len(text) {
				n, err := tr.read(p)
				if n == 0 || err != nil || tr.buffered() > 0 || tr.isSocket() && held(tr) > 0 {
					t.Fatalf("read %d bytes, %v, and %d bytes are held", n, err, held(tr))
				}
				got += string(p[:n])
			}
			if err := wait(t, sent); err != nil || got != text || !heard(tr) {
				t.Errorf("read other text, %v", err)
			}
		})
	}
	tr := newTransport(struct {
		io.Reader
		io.Writer
	}{iotest.DataErrReader(strings.NewReader("abc")), io.Discard})
	if n, err := tr.read(make([]byte, 10)); n != 3 || err != nil || !tr.isHeld() {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if n, err := tr.read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// writeAll writes with tr, and returns an error also if something is left without one.
func writeAll(tr *transport, head, tail string) error {
	h, t, err := tr.write([]byte(head), []byte(tail))
	if err == nil && len(h)+len(t) > 0 {
		err = fmt.Errorf("%d bytes are left", len(h)+len(t))
	}
	return err
}

// A head and a tail arrive behind each other: on a socket with one call, and elsewhere with one
// each, unless they are large.
func TestTransportWrite(t *testing.T) {
	head := string(sampleText(100, 1))
	for _, size := range []int{0, 1, 10000, writeSize, 1 << 20} {
		tail := string(sampleText(size, 2))
		for _, pair := range transportPairs {
			t.Run(fmt.Sprintf("%s/%d", pair.name, size), func(t *testing.T) {
				tr, peer := pair.open(t)
				written := goErr(func() error { return writeAll(tr, head, tail) })
				got := make([]byte, len(head)+size)
				_, rerr := io.ReadFull(peer, got)
				if err := wait(t, written); err != nil || rerr != nil || string(got) != head+tail {
					t.Errorf("another text has arrived, %v, %v", err, rerr)
				}
				if tr.takenNow() != len(head)+size {
					t.Errorf("%d of %d bytes count as taken", tr.takenNow(), len(head)+size)
				}
			})
		}
		stream := &memStream{}
		tr := newTransport(stream)
		if err := writeAll(tr, head, tail); err != nil || stream.out.String() != head+tail {
			t.Errorf("%d bytes: wrote %d, %v", size, stream.out.Len(), err)
		}
		if want := 1 + (size+writeSize-1)/writeSize; stream.writes != want || tr.progress() != uint32(len(head)+size) {
			t.Errorf("%d bytes: %d writes, want %d, and progress to %d", size, stream.writes, want, tr.progress())
		}
	}
	tr := newTransport(struct {
		io.Reader
		io.Writer
	}{nil, writeFunc(func(p []byte) (int, error) { return len(p) / 2, nil })})
	for n, tail := range []string{"", "tail"} {
		rest, more, err := tr.write([]byte(head), []byte(tail))
		if err != io.ErrShortWrite || string(rest)+string(more) != head[len(head)/2:]+tail || tr.takenNow() != (n+1)*len(head)/2 {
			t.Errorf("a short write returned %v, and took %d bytes", err, tr.takenNow())
		}
	}
}

// A write that does not wait returns what the peer has no room for. The rest can be written
// later, by one that waits.
func TestTransportTryWrite(t *testing.T) {
	tr, peer := socketTransport(t)
	if rest, err := tr.tryWrite([]byte("abc")); len(rest) > 0 || err != nil {
		t.Fatalf("%d bytes are left, %v", len(rest), err)
	}
	tr.stream().(*net.TCPConn).SetWriteBuffer(1 << 16) // for less than what follows
	peer.(*net.TCPConn).SetReadBuffer(1 << 16)
	text := bytes.Repeat(sampleText(1000003, 1), 8)
	rest, err := tr.tryWrite(text)
	if err != os.ErrDeadlineExceeded || len(rest) == 0 || len(rest) == len(text) || &rest[len(rest)-1] != &text[len(text)-1] {
		t.Fatalf("%d of %d bytes are left, %v", len(rest), len(text), err)
	}
	if tr.takenNow() != 3+len(text)-len(rest) {
		t.Errorf("%d bytes have been taken, and %d of %d are left", tr.takenNow(), len(rest), len(text))
	}
	before := tr.takenNow()
	if again, err := tr.tryWrite(rest[:1000]); (err == nil) != (len(again) == 0) || (len(again) == 1000) != (tr.takenNow() == before) {
		t.Fatalf("%d of 1000 bytes are left, %v, with progress: %t", len(again), err, tr.takenNow() != before)
	} else {
		rest = rest[1000-len(again):]
	}
	written := goErr(func() error { return writeAll(tr, string(rest), "") })
	got := make([]byte, 3+len(text))
	_, rerr := io.ReadFull(peer, got)
	if err := wait(t, written); err != nil || rerr != nil || string(got[:3]) != "abc" || !bytes.Equal(got[3:], text) {
		t.Errorf("another text has arrived, %v, %v", err, rerr)
	}
	peer.Close()
	tr.close()
	for _, write := range []func() error{
		func() error { _, err := tr.tryWrite([]byte("abc")); return err },
		func() error { return writeAll(tr, "abc", "d") },
		func() error { return writeAll(tr, string(text), "") },
	} {
		if err := write(); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "write") {
			t.Error("a write to a closed socket returned", err)
		}
	}
}

// A timedStream is a stream that keeps its deadlines.
type timedStream struct {
	*memStream
	read, write time.Time
}

func (d *timedStream) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *timedStream) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// Of the caller's deadline and the limit the earlier one counts. Neither forgets the other.
func TestTransportDeadlines(t *testing.T) {
	never, soon, later := time.Time{}, time.Unix(1000, 0), time.Unix(2000, 0)
	for _, tt := range []struct {
		caller, limit, want time.Time
		limited             bool
	}{
		{never, never, never, false},
		{soon, never, soon, false},
		{never, soon, soon, true},
		{soon, later, soon, false},
		{later, soon, soon, true},
		{soon, soon, soon, false},
	} {
		d := new(timedStream)
		tr := newTransport(d)
		for _, order := range []string{"caller", "limit", "caller"} {
			var err error
			if order == "caller" {
				err = tr.setReadDeadline(tt.caller)
			} else if tr.limitRead(tt.limit) {
				t.Error("limited before the first limit")
			}
			if err != nil {
				t.Error(err)
			}
		}
		if !d.read.Equal(tt.want) {
			t.Errorf("of %v and %v, %v counts", tt.caller, tt.limit, d.read)
		}
		if got := tr.limitRead(never); got != tt.limited || !d.read.Equal(tt.caller) {
			t.Errorf("of %v and %v, the limit was earlier: %t; then %v counts", tt.caller, tt.limit, got, d.read)
		}
		if tr.limitRead(later) {
			t.Error("limited without a limit")
		}
		if err := tr.setWriteDeadline(soon); err != nil || !d.write.Equal(soon) {
			t.Errorf("the deadline of writes is %v, %v", d.write, err)
		}
		if tr.freeDeadlines(); !d.read.IsZero() || !d.write.IsZero() || tr.limitRead(never) {
			t.Errorf("the deadlines that stay are %v and %v", d.read, d.write)
		}
	}
	tr := newTransport(&memStream{})
	if err := tr.setReadDeadline(soon); err != os.ErrNoDeadline {
		t.Error("a stream without deadlines returned", err)
	}
	if err := tr.setWriteDeadline(soon); err != os.ErrNoDeadline {
		t.Error("a stream without deadlines returned", err)
	}
}

// A timeout loses no input, and is over with a new deadline.
func TestTransportTimeout(t *testing.T) {
	for _, pair := range transportPairs {
		t.Run(pair.name, func(t *testing.T) {
			tr, peer := pair.open(t)
			sent := send(peer, "abc")
			fillUntil(t, tr, 3)
			wait(t, sent)
			for _, past := range []func(){
				func() { tr.setReadDeadline(time.Unix(1, 0)) },
				func() { tr.setReadDeadline(time.Time{}); tr.limitRead(time.Unix(1, 0)) },
			} {
				past()
				if err := tr.fill(); !isTimeout(err) || string(tr.input()) != "abc" || tr.isHeld() {
					t.Fatalf("the input is %q, %v", tr.input(), err)
				}
			}
			tr.limitRead(time.Time{})
			sent = send(peer, "def")
			fillUntil(t, tr, 6)
			if err := wait(t, sent); err != nil || string(tr.input()) != "abcdef" {
				t.Errorf("the input is %q, %v", tr.input(), err)
			}
		})
	}
}

// To linger is to end the output, and to wait until the peer has ended its own.
func TestTransportLinger(t *testing.T) {
	tr, peer := transportPairs[1].open(t)
	if err := writeAll(tr, "last", ""); err != nil {
		t.Fatal(err)
	}
	lingered := goErr(func() error { tr.linger(); return tr.close() })
	if p, err := io.ReadAll(peer); string(p) != "last" || err != nil {
		t.Errorf("the peer has read %q, %v", p, err)
	}
	for range 3 {
		if _, err := peer.Write(make([]byte, 1<<20)); err != nil { // without a reset
			t.Fatal(err)
		}
	}
	select {
	case err := <-lingered:
		t.Error("it did not wait for the peer,", err)
	default:
	}
	peer.Close()
	if err := wait(t, lingered); err != nil {
		t.Error(err)
	}

	tr, peer = transportPairs[0].open(t) // which has no ends of its own
	tr.linger()
	if !tr.closes() || tr.close() != nil {
		t.Error("a pipe cannot be closed")
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Error("the peer of what was closed has read", err)
	}
	tr = newTransport(&memStream{})
	if tr.closes() {
		t.Error("a stream without Close can be closed")
	}
	tr.linger()
	if localAddr(tr.rw) != (noAddr{}) || remoteAddr(tr.rw) != (noAddr{}) {
		t.Errorf("the addresses are %v and %v", localAddr(tr.rw), remoteAddr(tr.rw))
	}
}

// An error that is held for the next read stays when the input is given back.
func TestTransportHeld(t *testing.T) {
	a, peer := socketPair(t, "tcp", "127.0.0.1:0")
	tr := newTransport(a)
	a.SetReadDeadline(time.Unix(1, 0))
	tr.wait()
	a.SetReadDeadline(time.Time{})
	tr.release()
	if _, err := io.WriteString(peer, "late"); err != nil {
		t.Fatal(err)
	}
	if err := tr.fill(); !isTimeout(err) {
		t.Errorf("the timeout is lost: %v", err)
	}
	if tr.release(); tr.in != nil {
		t.Error("the input is kept, though nothing is left of it")
	}
}
