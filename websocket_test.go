package websocket

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// TestMain fails the run if a goroutine outlives it.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leftGoroutines(10 * time.Second); left != nil {
			fmt.Fprintf(os.Stderr, "goroutines left behind:\n\n%s\n", strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of the goroutines that have not ended after
// d, without those of the testing package.
func leftGoroutines(d time.Duration) []string {
	for deadline := time.Now().Add(d); ; time.Sleep(time.Millisecond) {
		b := make([]byte, 1<<20)
		stacks := strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n")[1:] // the first is the caller's
		left := slices.DeleteFunc(stacks, func(s string) bool {
			for _, pkg := range []string{"testing", "internal/fuzz", "runtime", "os/signal"} {
				if strings.Contains(s, "created by "+pkg+".") || strings.Contains(s, "created by "+pkg+"/") {
					return true
				}
			}
			return false
		})
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return left
		}
	}
}

// pipe returns both ends of a connection in memory, accepted already.
func pipe(t testing.TB, o *Options) (server, client *Conn) {
	t.Helper()
	a, b := net.Pipe()
	server, client = newConn(a, o, false), newConn(b, o, true)
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	return server, client
}

// tcpPipe is pipe over TCP.
func tcpPipe(t testing.TB, o *Options) (server, client *Conn) {
	t.Helper()
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	server, client = newConn(a, o, false), newConn(b, o, true)
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	return server, client
}

// hixiePipe makes pipe or tcpPipe speak hixie-76.
func hixiePipe(open openFunc) openFunc {
	return func(t testing.TB, o *Options) (server, client *Conn) {
		server, client = open(t, o)
		server.dec.hixie, client.dec.hixie = true, true
		return server, client
	}
}

type openFunc func(testing.TB, *Options) (server, client *Conn)

// pairs are the connections that most tests run over.
var pairs = []struct {
	name string
	open openFunc
}{
	{"RFC6455/pipe", pipe},
	{"RFC6455/TCP", tcpPipe},
	{"hixie76/pipe", hixiePipe(pipe)},
	{"hixie76/TCP", hixiePipe(tcpPipe)},
}

// socketPair returns both ends of a socket, the accepted one first.
func socketPair(t testing.TB, network, address string) (accepted, dialed net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err = net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close(); dialed.Close() })
	return accepted, dialed
}

// barePeer returns a Conn over a pipe in memory and the other end as it is.
func barePeer(t testing.TB, o *Options, client bool) (c *Conn, peer net.Conn) {
	a, peer := net.Pipe()
	c = newConn(a, o, client)
	t.Cleanup(func() { c.CloseNow(); peer.Close() })
	return c, peer
}

// goErr runs f in a goroutine and hands on what it returns.
func goErr(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// wait returns what ch holds before long. In a bubble that takes no time.
func wait[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting after 20 s")
		panic("unreachable")
	}
}

// toward returns a frame that the peer of c sends.
func toward(c *Conn, opcode byte, p string) []byte {
	switch {
	case !c.dec.hixie:
		return appendFrame(nil, finBit|opcode, []byte(p), !c.client)
	case opcode == opClose:
		return []byte{0xFF, 0x00}
	}
	return appendHixie(nil, finBit|opcode, []byte(p))
}

// closing is the payload of a close frame.
func closing(code CloseCode, reason string) string { return string(appendClose(nil, code, reason)) }

// A sent is a frame, or of hixie-76 a message, that a Conn has written.
type sent struct {
	opcode  byte
	payload string
}

// parseSent parses what a Conn of the role and version of c has written.
func parseSent(t testing.TB, c *Conn, b []byte) (frames []sent) {
	t.Helper()
	d := decoder{hixie: c.dec.hixie, masked: c.client, limit: math.MaxInt64}
	for b = bytes.Clone(b); len(b) > 0; {
		p, n, err := d.next(b)
		if err != nil || n == 0 {
			t.Fatalf("what was written is not valid: %v at %.20q", err, b)
		}
		frames = append(frames, sent{p.opcode, string(p.payload)})
		b = b[n:]
	}
	return frames
}

// A tape is a transport: a Read returns one of in, cut to size, and then end.
// It keeps what is written.
type tape struct {
	in  [][]byte
	end error // io.EOF, unless set

	mu     sync.Mutex
	events []event
	closed bool
}

// An event is a Read, or a Write of some bytes.
type event struct {
	at    time.Time
	wrote []byte // nil for a Read
}

func (t *tape) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event{at: time.Now()})
	switch {
	case t.closed:
		return 0, net.ErrClosed
	case len(t.in) == 0:
		return 0, cmp.Or(t.end, io.EOF)
	}
	n := copy(p, t.in[0])
	if t.in[0] = t.in[0][n:]; len(t.in[0]) == 0 {
		t.in = t.in[1:]
	}
	return n, nil
}

func (t *tape) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, net.ErrClosed
	}
	t.events = append(t.events, event{time.Now(), append([]byte{}, p...)})
	return len(p), nil
}

func (t *tape) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

func (t *tape) writes() (w []event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.events {
		if e.wrote != nil {
			w = append(w, e)
		}
	}
	return w
}

// written returns all that has been written.
func (t *tape) written() (b []byte) {
	for _, e := range t.writes() {
		b = append(b, e.wrote...)
	}
	return b
}

// tapeConn returns a Conn over a tape.
func tapeConn(o *Options, client, hixie bool) (*Conn, *tape) {
	rw := &tape{}
	c := newConn(rw, o, client)
	c.dec.hixie = hixie
	return c, rw
}

// noClose hides all methods but two.
type noClose struct{ io.ReadWriter }

// echo answers every message until the connection ends.
func echo(c *Conn) error {
	for {
		typ, p, err := c.ReadMessage()
		if err == nil {
			err = c.WriteMessage(typ, p)
		}
		if err != nil {
			return err
		}
	}
}

func TestEcho(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			done := goErr(func() error { return echo(server) })
			for _, size := range []int{0, 1, 125, 126, 1<<12 - 1, 1 << 12, 1<<14 - 1, 1 << 14, 1<<16 - 1, 1 << 16, 1 << 20} {
				want := bytes.Repeat([]byte("ab"), size)[:size]
				go client.WriteMessage(Text, want)
				typ, p, err := client.ReadMessage()
				if typ != Text || !bytes.Equal(p, want) || err != nil {
					t.Fatalf("%d bytes: got type %d, %d bytes, %v", size, typ, len(p), err)
				}
				if p == nil {
					t.Error("ReadMessage returned nil without an error")
				}
			}
			if err := client.Close(); err != nil {
				t.Error("Close:", err)
			}
			if err := wait(t, done); !errors.Is(err, io.EOF) {
				t.Error("the server ended with", err)
			}
		})
	}
}

// TestClose has one side close and the other read.
func TestClose(t *testing.T) {
	closes := []struct {
		code   CloseCode
		reason string
		eof    bool // an orderly end for the peer
	}{
		{CloseNormal, "", true},
		{CloseGoingAway, "good bye", true},
		{CloseNoStatus, "", true},
		{CloseProtocolError, "why", false},
		{4999, strings.Repeat("x", 121) + "é", false},
	}
	for _, pair := range pairs {
		for _, side := range []string{"server", "client"} {
			for _, tt := range closes {
				t.Run(fmt.Sprint(pair.name, "/", side, "/", int(tt.code)), func(t *testing.T) {
					closer, peer := pair.open(t, nil)
					if side == "client" {
						closer, peer = peer, closer
					}
					want := CloseError{tt.code, tt.reason, byPeer}
					if peer.dec.hixie {
						want, tt.eof = CloseError{Code: CloseNoStatus}, true
					}
					done := goErr(func() error { return closer.CloseWith(tt.code, tt.reason) })
					_, _, err := peer.ReadMessage()
					var got *CloseError
					if !errors.As(err, &got) || *got != want || errors.Is(err, io.EOF) != tt.eof || errors.Is(err, net.ErrClosed) {
						t.Errorf("the peer read %#v, want %#v", err, want)
					}
					if _, _, again := peer.ReadMessage(); again != err {
						t.Errorf("the peer read %v next", again)
					}
					if werr := peer.WriteMessage(Text, nil); werr != err {
						t.Errorf("the peer's write returned %v", werr)
					}
					if _, err := GetFrame(peer); (err == io.EOF) != tt.eof {
						t.Errorf("the peer's GetFrame returned %v", err)
					}
					// This is what ends a client's wait for the server.
					if err := peer.Close(); err != nil {
						t.Errorf("the peer's Close returned %v", err)
					}
					if err := wait(t, done); err != nil {
						t.Errorf("Close returned %v", err)
					}

					if err := closer.Close(); err != nil {
						t.Errorf("a second Close returned %v", err)
					}
					err = closer.WriteMessage(Text, []byte("late"))
					if !errors.As(err, &got) || *got != (CloseError{tt.code, tt.reason, byUs}) || !errors.Is(err, net.ErrClosed) {
						t.Errorf("WriteMessage after Close returned %#v", err)
					}
					if _, err := closer.NextWriter(Text); !errors.Is(err, net.ErrClosed) {
						t.Errorf("NextWriter after Close returned %v", err)
					}
					if _, _, rerr := closer.ReadMessage(); rerr != err {
						t.Errorf("ReadMessage after Close returned %v", rerr)
					}
					if err := closer.Ping(t.Context()); !closer.dec.hixie && !errors.Is(err, net.ErrClosed) {
						t.Errorf("Ping after Close returned %v", err)
					}
					if _, err := GetFrame(closer); err != io.EOF {
						t.Errorf("GetFrame after Close returned %v", err)
					}
					for _, c := range []*Conn{closer, peer} {
						if _, err := c.rw.Write([]byte{0}); err == nil {
							t.Error("a transport is open")
						}
					}
				})
			}
		}
	}
}

// TestCloseBoth has both sides close at the same time while nobody reads. The
// pipe in memory holds nothing: each side has to read to let the other write.
func TestCloseBoth(t *testing.T) {
	for _, pair := range pairs {
		test := func(t *testing.T) {
			server, client := pair.open(t, nil)
			done := goErr(server.Close)
			if err := client.Close(); err != nil {
				t.Error("client:", err)
			}
			if err := wait(t, done); err != nil {
				t.Error("server:", err)
			}
		}
		t.Run(pair.name, func(t *testing.T) {
			if strings.HasSuffix(pair.name, "pipe") {
				synctest.Test(t, test)
			} else {
				test(t)
			}
		})
	}
}

// TestCloseBothFull is TestCloseBoth with a large message under way in either
// direction.
func TestCloseBothFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, nil)
		for _, c := range []*Conn{server, client} {
			go c.WriteMessage(Binary, make([]byte, 1<<20))
		}
		synctest.Wait()
		done := goErr(server.Close)
		if err := client.Close(); err != nil {
			t.Error("client:", err)
		}
		if err := wait(t, done); err != nil {
			t.Error("server:", err)
		}
	})
}

// A slowReader reads 4 KiB a millisecond.
type slowReader struct{ io.Reader }

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return r.Reader.Read(p[:min(len(p), 4<<10)])
}

// TestCloseBehindWrite closes while another goroutine's message is on its way.
func TestCloseBehindWrite(t *testing.T) {
	message := make([]byte, 1<<20)
	for _, tt := range []struct {
		name          string
		hixie, client bool
		size          int // of the message and the close frame
	}{
		{"RFC6455/server", false, false, 10 + 1<<20 + 4},
		{"RFC6455/client", false, true, 14 + 1<<20 + 8},
		{"hixie76/server", true, false, 2 + 1<<20 + 2},
		{"hixie76/client", true, true, 2 + 1<<20 + 2},
	} {
		// begin closes behind a message that has not been read.
		begin := func(t *testing.T) (c *Conn, peer net.Conn, written, closed <-chan error) {
			c, peer = barePeer(t, nil, tt.client)
			c.dec.hixie = tt.hixie
			written = goErr(func() error { return c.WriteMessage(Text, message) })
			synctest.Wait()
			c.SetDeadline(time.Now().Add(50 * time.Millisecond)) // no concern of Close
			closed = goErr(c.Close)
			synctest.Wait()
			return c, peer, written, closed
		}
		t.Run(tt.name+"/slow", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer, written, closed := begin(t)
				got := make([]byte, tt.size)
				if _, err := io.ReadFull(slowReader{peer}, got); err != nil {
					t.Fatal(err)
				}
				frames := parseSent(t, c, got)
				if n := len(frames); frames[n-1].opcode != opClose {
					t.Errorf("the last of %d frames has opcode %d", n, frames[n-1].opcode)
				}
				go peer.Write(toward(c, opClose, ""))
				if err := wait(t, written); err != nil {
					t.Error("WriteMessage returned", err)
				}
				if err := wait(t, closed); err != nil {
					t.Error("Close returned", err)
				}
			})
		})
		t.Run(tt.name+"/stuck", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, _, written, closed := begin(t)
				if err := wait(t, closed); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("Close returned", err)
				}
				if d := time.Since(start); d != closeTimeout {
					t.Error("Close took", d)
				}
				if err := wait(t, written); !errors.Is(err, net.ErrClosed) {
					t.Error("WriteMessage returned", err)
				}
			})
		})
	}
}

// TestCloseUnanswered closes towards a peer that reads but says nothing.
func TestCloseUnanswered(t *testing.T) {
	for _, tt := range []struct{ option, want time.Duration }{
		{0, 5 * time.Second},
		{time.Minute, time.Minute},
	} {
		for _, hixie := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.want, "/hixie=", hixie), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, &Options{CloseTimeout: tt.option}, false)
					c.dec.hixie = hixie
					start := time.Now()
					gone := make(chan time.Duration, 1)
					go func() {
						io.Copy(io.Discard, peer)
						gone <- time.Since(start)
					}()
					// Neither the caller's deadline nor chatter makes it any longer or shorter.
					c.SetReadDeadline(start.Add(time.Second))
					chatter := goErr(func() error {
						for {
							time.Sleep(time.Second)
							if _, err := peer.Write(toward(c, opText, "x")); err != nil {
								return err
							}
						}
					})
					if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("Close returned", err)
					}
					if d := time.Since(start); d != tt.want {
						t.Error("Close took", d)
					}
					if d := wait(t, gone); d != tt.want {
						t.Error("the transport was closed after", d)
					}
					wait(t, chatter)
					if err := c.Close(); err != nil {
						t.Error("a second Close returned", err)
					}
				})
			})
		}
	}
}

// TestCloseWhileReading closes while another goroutine waits in a read. It gets
// the close, not a message that comes later.
func TestCloseWhileReading(t *testing.T) {
	for _, m := range readings {
		for _, message := range []string{"", "late"} {
			for _, hixie := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%q/hixie=%t", m.name, message, hixie), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c, peer := barePeer(t, nil, false)
						c.dec.hixie = hixie
						read := goErr(func() error {
							p, err := m.open(c, 4)()
							if err == nil {
								err = fmt.Errorf("the message %q", p)
							}
							return err
						})
						synctest.Wait()
						closed := goErr(c.Close)
						go io.Copy(io.Discard, peer)
						synctest.Wait()
						if message != "" {
							go peer.Write(toward(c, opText, message))
							synctest.Wait()
						}
						go peer.Write(toward(c, opClose, ""))
						if err := wait(t, read); !errors.Is(err, io.EOF) {
							t.Error("the read returned", err)
						}
						if err := wait(t, closed); err != nil {
							t.Error("Close returned", err)
						}
					})
				})
			}
		}
	}
}

// TestReadWhileClosing reads while another goroutine waits in Close.
func TestReadWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		go io.Copy(io.Discard, peer)
		closed := goErr(c.Close)
		synctest.Wait()
		start := time.Now()
		if _, _, err := c.ReadMessage(); !errors.Is(err, net.ErrClosed) {
			t.Error("ReadMessage returned", err)
		}
		if d := time.Since(start); d != 0 {
			t.Error("ReadMessage took", d)
		}
		wait(t, closed)
	})
}

// TestCloseAmidMessage closes while another goroutine has a message open and a
// third waits to send its own.
func TestCloseAmidMessage(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		t.Run(fmt.Sprint("hixie=", hixie), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := barePeer(t, nil, false)
				c.dec.hixie = hixie
				got := make(chan []byte, 1)
				go func() {
					b, _ := io.ReadAll(peer)
					got <- b
				}()
				w, err := c.NextWriter(Text)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, "begun"); err != nil {
					t.Fatal(err)
				}
				waiting := goErr(func() error { return c.WriteMessage(Text, nil) })
				synctest.Wait()
				closed := goErr(c.Close)
				synctest.Wait()
				if err := wait(t, waiting); !errors.Is(err, net.ErrClosed) {
					t.Error("WriteMessage returned", err)
				}
				if _, err := io.WriteString(w, "more"); !errors.Is(err, net.ErrClosed) {
					t.Error("Write returned", err)
				}
				if err := w.Close(); !errors.Is(err, net.ErrClosed) {
					t.Error("Close of the message returned", err)
				}
				go peer.Write(toward(c, opClose, ""))
				if err := wait(t, closed); err != nil {
					t.Error("Close returned", err)
				}
				want := "\x01\x05begun\x88\x02\x03\xe8"
				if hixie {
					want = "\x00begun" // a close frame would be text
				}
				if b := wait(t, got); string(b) != want {
					t.Errorf("sent %q, want %q", b, want)
				}
			})
		})
	}
}

// TestCloseAmidHandshake closes while another goroutine waits for a request.
func TestCloseAmidHandshake(t *testing.T) {
	for _, begun := range []string{"", "GET / HTTP/1.1\r\nHost: x"} {
		for name, end := range map[string]func(*Conn) error{"Close": (*Conn).Close, "CloseNow": (*Conn).CloseNow} {
			t.Run(fmt.Sprintf("%s/%d", name, len(begun)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					shaken := goErr(func() error { _, err := ShakeHands(c); return err })
					if _, err := io.WriteString(peer, begun); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					start := time.Now()
					if err := end(c); err != nil {
						t.Error("returned", err)
					}
					if err := wait(t, shaken); !errors.Is(err, net.ErrClosed) {
						t.Error("ShakeHands returned", err)
					}
					if d := time.Since(start); d != 0 {
						t.Error("took", d)
					}
					if b, err := io.ReadAll(peer); len(b) > 0 || err != nil {
						t.Errorf("the client read %q, %v", b, err)
					}
				})
			})
		}
	}
}

// TestWriteBeforeHandshake sends when the response has not been written.
func TestWriteBeforeHandshake(t *testing.T) {
	c, rw := tapeConn(nil, false, false)
	rw.in = [][]byte{[]byte("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")}
	req, err := GetRequest(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := PutFrame(c, nil); err != errUnfinished {
		t.Error("PutFrame returned", err)
	}
	if _, err := GetFrame(c); err != errUnfinished {
		t.Error("GetFrame returned", err)
	}
	if c.Request() != nil {
		t.Error("there is a request before it is accepted")
	}
	if err := PutResponse(c, req); err != nil {
		t.Fatal(err)
	}
	if err := PutFrame(c, nil); err != nil || !reflect.DeepEqual(c.Request(), req) {
		t.Error(err, c.Request())
	}
}

// TestCloseNow ends calls that wait in other goroutines.
func TestCloseNow(t *testing.T) {
	large := make([]byte, 1<<20)
	for _, tt := range []struct {
		name string
		sent string // by the peer, before
		call func(c *Conn) error
		want error // net.ErrClosed, unless set
	}{
		{"ReadMessage", "", func(c *Conn) error { _, _, err := c.ReadMessage(); return err }, nil},
		{"AppendMessage", "", func(c *Conn) error { _, _, err := c.AppendMessage(nil); return err }, nil},
		{"NextReader", "", func(c *Conn) error { _, _, err := c.NextReader(); return err }, nil},
		{"Read", "", func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err }, nil},
		{"GetFrame", "", func(c *Conn) error { _, err := GetFrame(c); return err }, io.EOF},
		{"reader", "\x01\x85\x00\x00\x00\x00ab", func(c *Conn) error {
			_, r, err := c.NextReader()
			if err == nil {
				_, err = io.ReadAll(r)
			}
			return err
		}, nil},
		{"WriteMessage", "", func(c *Conn) error { return c.WriteMessage(Binary, nil) }, nil},
		{"large WriteMessage", "", func(c *Conn) error { return c.WriteMessage(Binary, large) }, nil},
		{"WriteMessage behind another", "", func(c *Conn) error {
			first, second := goErr(func() error { return c.WriteMessage(Binary, large) }), goErr(func() error { return c.WriteMessage(Binary, nil) })
			return errors.Join(<-first, <-second)
		}, nil},
		{"large WriteMessage behind another", "", func(c *Conn) error {
			first, second := goErr(func() error { return c.WriteMessage(Binary, nil) }), goErr(func() error { return c.WriteMessage(Binary, large) })
			return errors.Join(<-first, <-second)
		}, nil},
		{"WriteMessage behind NextWriter", "", func(c *Conn) error {
			c.NextWriter(Binary)
			return c.WriteMessage(Binary, nil)
		}, nil},
		{"NextWriter behind NextWriter", "", func(c *Conn) error {
			c.NextWriter(Binary)
			_, err := c.NextWriter(Binary)
			return err
		}, nil},
		{"writer", "", func(c *Conn) error {
			w, err := c.NextWriter(Binary)
			if err == nil {
				_, err = w.Write(large)
			}
			return err
		}, nil},
		{"Ping", "", func(c *Conn) error { return c.Ping(context.Background()) }, nil},
		{"Close", "", (*Conn).Close, nil},
	} {
		for _, client := range []bool{false, true} {
			if client && tt.sent != "" {
				continue
			}
			t.Run(fmt.Sprint(tt.name, "/client=", client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, client)
					done := goErr(func() error { return tt.call(c) })
					if tt.sent != "" {
						io.WriteString(peer, tt.sent)
					}
					synctest.Wait()
					start := time.Now()
					if err := c.CloseNow(); err != nil {
						t.Error("CloseNow returned", err)
					}
					if err := wait(t, done); !errors.Is(err, cmp.Or(tt.want, net.ErrClosed)) {
						t.Errorf("returned %v", err)
					}
					if d := time.Since(start); d != 0 {
						t.Error("took", d)
					}
					if err := c.CloseNow(); err != nil {
						t.Error("a second CloseNow returned", err)
					}
					if err := c.Close(); err != nil {
						t.Error("Close after CloseNow returned", err)
					}
					if err := c.WriteMessage(Binary, nil); !errors.Is(err, net.ErrClosed) {
						t.Error("WriteMessage after CloseNow returned", err)
					}
				})
			})
		}
	}
	t.Run("TCP", func(t *testing.T) {
		server, _ := tcpPipe(t, nil)
		calls := []<-chan error{
			goErr(func() error {
				for { // nobody reads this
					if err := server.WriteMessage(Binary, large); err != nil {
						return err
					}
				}
			}),
			goErr(func() error { _, _, err := server.ReadMessage(); return err }),
			goErr(func() error { return server.Ping(context.Background()) }),
		}
		if err := server.CloseNow(); err != nil {
			t.Error(err)
		}
		for i, done := range calls {
			if err := wait(t, done); !errors.Is(err, net.ErrClosed) {
				t.Errorf("call %d returned %v", i, err)
			}
		}
	})
}

// TestDataAroundClose sends data behind either side's close frame: none is
// delivered.
func TestDataAroundClose(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("ours/hixie=%t/client=%t", hixie, client), func(t *testing.T) {
				c, rw := tapeConn(nil, client, hixie)
				rw.in = [][]byte{toward(c, opText, "1"), toward(c, opText, "2"), toward(c, opClose, "")}
				if err := c.Close(); err != nil {
					t.Error("Close returned", err)
				}
				if p, err := GetFrame(c); err != io.EOF {
					t.Errorf("GetFrame returned %q, %v", p, err)
				}
				if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0].opcode != opClose {
					t.Errorf("sent %q", frames)
				}
				if len(rw.in) != 0 {
					t.Error("the peer's close frame was not awaited")
				}
			})
			t.Run(fmt.Sprintf("theirs/hixie=%t/client=%t", hixie, client), func(t *testing.T) {
				c, rw := tapeConn(nil, client, hixie)
				rw.in = [][]byte{slices.Concat(toward(c, opText, "1"), toward(c, opClose, ""), toward(c, opText, "2"))}
				if p, err := GetFrame(c); string(p) != "1" || err != nil {
					t.Errorf("GetFrame returned %q, %v", p, err)
				}
				for range 2 {
					if p, err := GetFrame(c); err != io.EOF {
						t.Errorf("GetFrame returned %q, %v", p, err)
					}
				}
				c.Close()
				if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0].opcode != opClose {
					t.Errorf("sent %q", frames)
				}
			})
		}
	}
}

// TestCloseWithinMessage has the peer close before its message is whole. That
// must not look like an end behind it.
func TestCloseWithinMessage(t *testing.T) {
	for name, read := range map[string]func(c *Conn) ([]byte, error){
		"ReadMessage": func(c *Conn) ([]byte, error) { _, p, err := c.ReadMessage(); return p, err },
		"GetFrame":    func(c *Conn) ([]byte, error) { return GetFrame(c) },
		"Read":        func(c *Conn) ([]byte, error) { return io.ReadAll(c) },
		"NextReader": func(c *Conn) ([]byte, error) {
			_, r, err := c.NextReader()
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, rw := tapeConn(nil, true, false)
			rw.in = [][]byte{[]byte("\x01\x02ab\x88\x02\x03\xe8")}
			if p, err := read(c); err == nil || err == io.EOF {
				t.Errorf("half a message is %q, %v", p, err)
			}
		})
	}
}

func TestCloseArguments(t *testing.T) {
	for _, tt := range []struct {
		code   CloseCode
		reason string
		ok     bool
	}{
		{CloseNormal, "", true},
		{CloseNormal, strings.Repeat("x", 123), true},
		{CloseNormal, strings.Repeat("x", 124), false},
		{CloseNormal, "\xff", false},
		{CloseNoStatus, "", true},
		{CloseNoStatus, "reason", false},
		{0, "", false},
		{999, "", false},
		{1004, "", false},
		{1006, "", false},
		{1014, "", true},
		{1015, "", false},
		{2999, "", false},
		{3000, "", true},
		{4999, "", true},
		{5000, "", false},
	} {
		c, rw := tapeConn(nil, false, false)
		err := c.CloseWith(tt.code, tt.reason)
		if (err == nil || err == io.EOF) != tt.ok {
			t.Errorf("CloseWith(%d, %q) returned %v", tt.code, tt.reason, err)
		}
		if tt.ok {
			continue
		}
		if err := c.WriteMessage(Text, nil); err != nil || rw.closed {
			t.Errorf("after CloseWith(%d, %q): %v, transport closed: %t", tt.code, tt.reason, err, rw.closed)
		}
	}
}

// TestFailureReachesPeer has a peer break the protocol and go on sending. Over
// TCP it must nevertheless read why it was closed, and then an end, no reset.
func TestFailureReachesPeer(t *testing.T) {
	for _, tt := range []struct {
		name string
		bad  []byte
		code CloseCode
	}{
		{"unmasked", []byte("\x81\x00"), CloseProtocolError},
		{"not UTF-8", []byte("\x81\x81\x00\x00\x00\x00\xff"), CloseInvalidPayload},
		{"too big", []byte("\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"), CloseMessageTooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
			c := newConn(socket, nil, false)
			sent := goErr(func() error {
				_, err := peer.Write(append(tt.bad, make([]byte, 8<<20)...))
				return err
			})
			var got *CloseError
			_, err := c.Read(make([]byte, 8))
			if !errors.As(err, &got) || got.Code != tt.code || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				t.Fatalf("Read returned %v", err)
			}
			if werr := c.WriteMessage(Text, nil); werr != err {
				t.Errorf("WriteMessage returned %v", werr)
			}
			closed := goErr(c.Close)
			if err := wait(t, sent); err != nil {
				t.Error("the peer's Write returned", err)
			}
			b, err := io.ReadAll(peer)
			want := appendFrame(nil, finBit|opClose, appendClose(nil, got.Code, got.Reason), false)
			if !bytes.Equal(b, want) || err != nil {
				t.Errorf("the peer read %q, %v; want %q", b, err, want)
			}
			peer.Close()
			if err := wait(t, closed); err != nil {
				t.Error("Close returned", err)
			}
			if _, again := c.Read(make([]byte, 8)); again != error(got) {
				t.Error("Read returned", again, "after Close")
			}
		})
	}
}

// TestFailureUnclosed breaks the protocol towards a Conn that nobody closes: the
// transport goes with the time for the closing handshake.
func TestFailureUnclosed(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, client)
			gone := goErr(func() error { _, err := io.Copy(io.Discard, peer); return err })
			go peer.Write([]byte("\xff\xff"))
			start := time.Now()
			if _, err := GetFrame(c); err == nil {
				t.Error("GetFrame returned no error")
			}
			synctest.Wait()
			if len(gone) != 0 {
				t.Error("the transport is closed at once")
			}
			wait(t, gone)
			if d := time.Since(start); d != closeTimeout {
				t.Error("the transport was closed after", d)
			}
		})
	}
}

// TestServerClosesFirst has a client wait for the server to close the TCP
// connection, whoever began (RFC 6455, section 7.1.1).
func TestServerClosesFirst(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, begins := range []string{"server", "client"} {
			t.Run(fmt.Sprintf("%s/hixie=%t", begins, hixie), func(t *testing.T) {
				socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
				c := newConn(socket, nil, false)
				c.dec.hixie = hixie
				done := goErr(func() error {
					if begins == "server" {
						return c.Close()
					}
					_, err := GetFrame(c)
					if err == io.EOF {
						err = nil
					}
					return err
				})
				if _, err := peer.Write(toward(c, opClose, "")); err != nil {
					t.Fatal(err)
				}
				peer.SetReadDeadline(time.Now().Add(4 * time.Second)) // before the server gives up
				b, err := io.ReadAll(peer)
				if frames := parseSent(t, c, b); len(frames) != 1 || frames[0].opcode != opClose || err != nil {
					t.Errorf("the client read %q, %v", b, err)
				}
				if err := wait(t, done); err != nil {
					t.Error("the server got", err)
				}
			})
		}
	}
	// The client, for its part, leaves the server time to do so.
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, true)
		gone := goErr(func() error { _, err := io.Copy(io.Discard, peer); return err })
		go peer.Write(toward(c, opClose, ""))
		start := time.Now()
		if _, err := GetFrame(c); err != io.EOF {
			t.Error("GetFrame returned", err)
		}
		synctest.Wait()
		if len(gone) != 0 {
			t.Error("the client closed the transport")
		}
		wait(t, gone)
		if d := time.Since(start); d != closeTimeout {
			t.Error("the client let go after", d)
		}
	})
}

func TestCloseErrorIs(t *testing.T) {
	for _, tt := range []struct {
		err         CloseError
		eof, closed bool
		message     string
	}{
		{CloseError{CloseNormal, "", byPeer}, true, false, "websocket: closed by the peer: 1000 (normal closure)"},
		{CloseError{CloseGoingAway, "", byPeer}, true, false, ""},
		{CloseError{CloseNoStatus, "", byPeer}, true, false, ""},
		{CloseError{CloseMessageTooBig, "why", byPeer}, false, false, "websocket: closed by the peer: 1009 (message too big): why"},
		{CloseError{4000, "", byPeer}, false, false, "websocket: closed by the peer: 4000"},
		{CloseError{CloseNormal, "", byUs}, true, true, "websocket: closed: 1000 (normal closure)"},
		{CloseError{4000, "", byUs}, false, true, ""},
		{CloseError{CloseProtocolError, "", byFailure}, false, false, "websocket: connection failed: 1002 (protocol error)"},
		{CloseError{Code: CloseNormal, by: byFailure}, false, false, ""},
		{CloseError{}, false, false, ""},
	} {
		err := fmt.Errorf("wrapped: %w", &tt.err)
		if errors.Is(err, io.EOF) != tt.eof || errors.Is(err, net.ErrClosed) != tt.closed || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%#v: io.EOF is %t, net.ErrClosed is %t", tt.err, !tt.eof, !tt.closed)
		}
		if tt.message != "" && tt.err.Error() != tt.message {
			t.Errorf("%#v reads %q", tt.err, tt.err.Error())
		}
	}
}

// TestCloseWithoutCloser closes a Conn over a stream that has no Close: it says
// good bye and does not wait.
func TestCloseWithoutCloser(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		rw := &tape{in: [][]byte{{1}}}
		c := newConn(noClose{rw}, nil, false)
		c.dec.hixie = hixie
		if err := c.Close(); err != nil {
			t.Error("Close returned", err)
		}
		if err := c.Close(); err != nil {
			t.Error("a second Close returned", err)
		}
		if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0].opcode != opClose || len(rw.events) != 1 {
			t.Errorf("sent %q in %d steps", frames, len(rw.events))
		}
		if _, err := GetFrame(c); err != io.EOF {
			t.Error("GetFrame returned", err)
		}
		if err := c.CloseNow(); err != nil {
			t.Error("CloseNow returned", err)
		}
		if err := c.SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Error("SetDeadline returned", err)
		}
		if c.LocalAddr().String() == "" || c.RemoteAddr().Network() == "" {
			t.Error("there is no address")
		}
	}
}

// readings are the ways to read one message.
var readings = []struct {
	name string
	// open returns a function that returns the next message of c, which has
	// size bytes. After a timeout it goes on.
	open func(c *Conn, size int) func() ([]byte, error)
}{
	{"ReadMessage", func(c *Conn, _ int) func() ([]byte, error) {
		return func() ([]byte, error) {
			_, p, err := c.ReadMessage()
			return p, err
		}
	}},
	{"AppendMessage", func(c *Conn, size int) func() ([]byte, error) {
		dst := make([]byte, 2, 2+size/2)
		return func() ([]byte, error) {
			_, p, err := c.AppendMessage(dst)
			return p[2:], err
		}
	}},
	{"NextReader", func(c *Conn, _ int) func() ([]byte, error) {
		var r io.Reader
		var got []byte
		return func() (_ []byte, err error) {
			if r == nil {
				if _, r, err = c.NextReader(); err != nil {
					return nil, err
				}
			}
			p, err := io.ReadAll(r)
			got = append(got, p...)
			return got, err
		}
	}},
	{"Read", func(c *Conn, size int) func() ([]byte, error) {
		got := make([]byte, 0, size)
		return func() ([]byte, error) {
			for len(got) < size {
				n, err := c.Read(got[len(got):size])
				got = got[:len(got)+n]
				if err != nil {
					return nil, err
				}
			}
			return got, nil
		}
	}},
}

// TestReadDeadline has a deadline pass within a message, wherever that may be,
// and then once more. Nothing may be lost.
func TestReadDeadline(t *testing.T) {
	small := "Hello, wörld"
	large := strings.Repeat("0123456789abcdef", 5<<10)
	for _, client := range []bool{false, true} {
		frame := func(first byte, p string) []byte { return appendFrame(nil, first, []byte(p), !client) }
		for _, tt := range []struct {
			name, want string
			wire       []byte
			step       int // from cut to cut, behind the first few bytes
		}{
			// The first cut parts the ö.
			{"small", small, slices.Concat(frame(opText, small[:9]), frame(finBit|opPing, "ping"),
				frame(opContinuation, ""), frame(finBit|opContinuation, small[9:])), 1},
			{"large", large, slices.Concat(frame(opBinary, large[:70<<10]), frame(finBit|opPing, "ping"),
				frame(finBit|opContinuation, large[70<<10:])), 3001},
		} {
			for _, m := range readings {
				name := fmt.Sprintf("%s/%s/client=%t", m.name, tt.name, client)
				// check reads with the deadline passing behind the first and
				// the second third of the wire.
				check := func(t *testing.T, c *Conn, peer net.Conn, timeout time.Duration, cut int) {
					go io.Copy(io.Discard, peer)
					read := m.open(c, len(tt.want))
					second := cut + (len(tt.wire)-cut)/2
					for _, part := range [][]byte{tt.wire[:cut], tt.wire[cut:second]} {
						written := goErr(func() error { _, err := peer.Write(part); return err })
						if _, ok := peer.(*net.TCPConn); ok { // its buffers hold all that
							wait(t, written)
						}
						c.SetReadDeadline(time.Now().Add(timeout))
						if p, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
							t.Fatalf("cut at %d: read %.20q, %v", cut, p, err)
						}
					}
					go peer.Write(tt.wire[second:])
					c.SetReadDeadline(time.Time{})
					if p, err := read(); string(p) != tt.want || err != nil {
						t.Fatalf("cut at %d: read %d bytes, %.20q, %v; want %d bytes", cut, len(p), p, err, len(tt.want))
					}
				}
				// A cut just before the end would leave nothing for the last part.
				cuts := func(t *testing.T, check func(cut int)) {
					for cut := 0; cut < len(tt.wire)-1; {
						check(cut)
						if cut < 24 {
							cut++
						} else {
							cut += tt.step
						}
					}
				}
				t.Run(name+"/pipe", func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cuts(t, func(cut int) {
							c, peer := barePeer(t, nil, client)
							check(t, c, peer, time.Second, cut)
							c.CloseNow()
						})
					})
				})
				t.Run(name+"/TCP", func(t *testing.T) {
					cuts(t, func(cut int) {
						socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
						c := newConn(socket, nil, client)
						defer c.CloseNow()
						if c.raw == nil && runtime.GOOS == "linux" {
							t.Fatal("no RawConn")
						}
						check(t, c, peer, 500*time.Microsecond, cut)
					})
				})
			}
		}
	}
}

// TestReadDeadlineOtherMethod goes on with another method after a timeout.
func TestReadDeadlineOtherMethod(t *testing.T) {
	want := strings.Repeat("x", 10<<10)
	for _, first := range readings[:2] {
		for _, then := range readings {
			t.Run(first.name+"/"+then.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					wire := toward(c, opText, want)
					go peer.Write(wire[:6<<10])
					c.SetReadDeadline(time.Now().Add(time.Second))
					if _, err := first.open(c, len(want))(); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					c.SetReadDeadline(time.Time{})
					go peer.Write(wire[6<<10:])
					if p, err := then.open(c, len(want))(); string(p) != want || err != nil {
						t.Errorf("read %d bytes, %v", len(p), err)
					}
				})
			})
		}
	}
}

// TestWriteDeadline has a write fail because of its deadline, which is final.
func TestWriteDeadline(t *testing.T) {
	for _, size := range []int{0, 1 << 20} {
		for _, hixie := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/hixie=%t", size, hixie), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					c.dec.hixie = hixie
					c.SetDeadline(time.Now().Add(time.Second))
					err := c.WriteMessage(Text, make([]byte, size))
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("WriteMessage returned", err)
					}
					c.SetDeadline(time.Time{})
					go io.Copy(io.Discard, peer)
					for range 2 {
						if again := c.WriteMessage(Text, nil); again != err {
							t.Error("WriteMessage returned", again, "the next time")
						}
					}
					if _, again := c.NextWriter(Text); again != err {
						t.Error("NextWriter returned", again)
					}
					// It takes nothing from reading.
					go peer.Write(toward(c, opText, "still"))
					if p, err := GetFrame(c); string(p) != "still" || err != nil {
						t.Errorf("GetFrame returned %q, %v", p, err)
					}
					start := time.Now()
					if err := c.Close(); err != nil || time.Since(start) != 0 {
						t.Error("Close returned", err, "after", time.Since(start))
					}
				})
			})
		}
	}
}

// TestNothingBehindFailedWrite has messages wait while a write fails. A part of
// a frame may have left, so that no byte may follow.
func TestNothingBehindFailedWrite(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		for _, client := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var writes atomic.Int32
				fail := make(chan struct{})
				c := newConn(struct {
					io.Reader
					io.Writer
				}{&tape{}, writeFunc(func(p []byte) (int, error) {
					if writes.Add(1) == 1 {
						<-fail
						return len(p) / 2, errBroken
					}
					return len(p), nil
				})}, nil, client)
				var written []<-chan error
				for _, size := range []int{size, 10, 100 << 10} {
					written = append(written, goErr(func() error { return c.WriteMessage(Binary, make([]byte, size)) }))
					synctest.Wait()
				}
				close(fail)
				for _, done := range written {
					if err := wait(t, done); err != errBroken {
						t.Error("WriteMessage returned", err)
					}
				}
				if err := c.Close(); err != nil {
					t.Error("Close returned", err)
				}
				if n := writes.Load(); n != 1 {
					t.Errorf("%d writes", n)
				}
			})
		}
	}
}

// TestConcurrentWriters has sixteen goroutines send at the same time. Every
// message must arrive whole, and those of one goroutine in order.
func TestConcurrentWriters(t *testing.T) {
	const senders, each, empties = 16, 24, 3
	sizes := []int{5, 100, 126, 4 << 10, 20 << 10, 60 << 10, 64<<10 - 1, 64 << 10, 100 << 10, 300 << 10}
	// message returns what a sender sends as its nth.
	message := func(sender, n int) []byte {
		if n%(each/empties) == 0 {
			return nil
		}
		size := sizes[rand.New(rand.NewPCG(uint64(sender), uint64(n))).IntN(len(sizes))]
		p := bytes.Repeat([]byte{byte(sender + n&0x3F)}, size)
		p[0] = byte(sender)
		binary.BigEndian.PutUint32(p[1:], uint32(n))
		return p
	}
	for _, pair := range pairs {
		for _, role := range []string{"server", "client"} {
			t.Run(pair.name+"/"+role, func(t *testing.T) {
				from, to := pair.open(t, nil)
				if role == "client" {
					from, to = to, from
				}
				hixie := from.dec.hixie
				go from.ReadMessage() // finds the pongs
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var sending []<-chan error
				for sender := range senders {
					sending = append(sending, goErr(func() error {
						for n := range each {
							var err error
							if p := message(sender, n); n%4 == 1 && p != nil {
								var w io.WriteCloser
								w, err = from.NextWriter(Text)
								if err == nil {
									for part := range slices.Chunk(p, len(p)/2+1) {
										if _, err = w.Write(part); err != nil {
											return err
										}
									}
									err = w.Close()
								}
							} else {
								err = from.WriteMessage(Text, p)
							}
							if err == nil && n%6 == 2 && !hixie {
								err = from.Ping(ctx)
							}
							if err != nil {
								return err
							}
						}
						return nil
					}))
				}
				var next [senders]int
				empty := 0
				for range senders * each {
					_, p, err := to.ReadMessage()
					if err != nil {
						t.Fatal(err)
					}
					if len(p) == 0 {
						empty++
						continue
					}
					sender := int(p[0])
					if sender >= senders {
						t.Fatalf("a message begins %.10q", p)
					}
					n := next[sender]
					if n%(each/empties) == 0 {
						n++
					}
					if want := message(sender, n); !bytes.Equal(p, want) {
						t.Fatalf("sender %d, message %d: %d bytes, %.10q; want %d bytes", sender, n, len(p), p, len(want))
					}
					next[sender] = n + 1
				}
				if empty != senders*empties {
					t.Errorf("%d messages without payload, want %d", empty, senders*empties)
				}
				go to.ReadMessage() // answers the last pings
				for _, done := range sending {
					if err := wait(t, done); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestConcurrentReaders has several goroutines read: each message goes to one
// of them, whole, and all of them learn of the end.
func TestConcurrentReaders(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			const readers, messages = 8, 400
			var sum atomic.Int64
			var done []<-chan error
			for range readers {
				done = append(done, goErr(func() error {
					for {
						_, p, err := server.ReadMessage()
						if err != nil {
							return err
						}
						n, err := strconv.Atoi(strings.TrimLeft(string(p), " "))
						if err != nil {
							return err
						}
						sum.Add(int64(n))
					}
				}))
			}
			for n := range messages {
				if err := PutFrame(client, fmt.Appendf(nil, "%*d", 10+n*n%20000, n)); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			first := wait(t, done[0])
			if !errors.Is(first, io.EOF) {
				t.Error(first)
			}
			for _, done := range done[1:] {
				if err := wait(t, done); err != first {
					t.Error(err, "is not", first)
				}
			}
			if n := sum.Load(); n != messages*(messages-1)/2 {
				t.Error("the sum is", n)
			}
		})
	}
}

// TestTextReadDirectly has a text that is not UTF-8, in a frame so large that it
// does not go through the input buffer.
func TestTextReadDirectly(t *testing.T) {
	for _, m := range readings {
		c, rw := tapeConn(nil, false, false)
		rw.in = [][]byte{toward(c, opText, strings.Repeat("x", 40<<10)+"\xff"+strings.Repeat("x", 40<<10))}
		_, err := m.open(c, 100<<10)()
		var e *CloseError
		if !errors.As(err, &e) || e.Code != CloseInvalidPayload {
			t.Errorf("%s returned %v", m.name, err)
		}
	}
}

// TestFullDuplex has two peers send and ping each other at full speed. It must
// not come to each waiting for the other to read.
func TestFullDuplex(t *testing.T) {
	for _, pair := range pairs[:2] {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			const senders, each = 4, 200
			var done []<-chan error
			for _, c := range []*Conn{server, client} {
				done = append(done, goErr(func() error {
					for range senders * each {
						if _, _, err := c.ReadMessage(); err != nil {
							return err
						}
					}
					go c.ReadMessage() // for the pongs
					return nil
				}))
				for range senders {
					done = append(done, goErr(func() error {
						p := make([]byte, 100<<10)
						for n := range each {
							if err := c.WriteMessage(Binary, p[:n*509%len(p)]); err != nil {
								return err
							}
						}
						return nil
					}), goErr(func() error {
						for range each / 4 {
							if err := c.Ping(t.Context()); err != nil {
								return err
							}
						}
						return nil
					}))
				}
			}
			for _, done := range done {
				if err := wait(t, done); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestWriteBehindBatch has a large message wait behind small ones that have
// come to more than what is written at once.
func TestWriteBehindBatch(t *testing.T) {
	for _, pair := range pairs {
		if !strings.HasSuffix(pair.name, "pipe") {
			continue
		}
		for _, role := range []string{"server", "client"} {
			t.Run(pair.name+"/"+role, func(t *testing.T) {
				for range 8 { // it depends on who comes first
					synctest.Test(t, func(t *testing.T) {
						from, to := pair.open(t, nil)
						if role == "client" {
							from, to = to, from
						}
						var written []<-chan error
						for _, size := range []int{1 << 10, 60 << 10, 60 << 10, 60 << 10, 100 << 10, 60 << 10, 100 << 10} {
							written = append(written, goErr(func() error { return from.WriteMessage(Text, make([]byte, size)) }))
							synctest.Wait()
						}
						for range written {
							if _, _, err := to.ReadMessage(); err != nil {
								t.Fatal(err)
							}
						}
						for _, done := range written {
							if err := wait(t, done); err != nil {
								t.Error(err)
							}
						}
					})
				}
			})
		}
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
			if len(c.pings) != 0 {
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
		if _, _, err := c.ReadMessage(); err != io.EOF {
			t.Fatal(err)
		}
		if err := c.Ping(t.Context()); err != io.EOF {
			t.Error("a ping that nobody can find the pong of returned", err)
		}
	})
}

func TestWriteArguments(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		c, rw := tapeConn(nil, false, hixie)
		if err := c.WriteMessage(Text, []byte("\xff")); err != errNotUTF8 {
			t.Error(err)
		}
		for _, typ := range []MessageType{0, 3, opClose, opPing, 0xFF} {
			if err := c.WriteMessage(typ, nil); err == nil {
				t.Errorf("WriteMessage took the type %d", typ)
			}
			if _, err := c.NextWriter(typ); err == nil {
				t.Errorf("NextWriter took the type %d", typ)
			}
		}
		if err := c.WriteMessage(Binary, nil); errors.Is(err, errors.ErrUnsupported) != hixie {
			t.Error(err)
		}
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("\xff")); err != errNotUTF8 {
			t.Error(err)
		}
		for _, part := range []string{"\xf0\x9f", "", "\x98\x80"} { // parts of one rune
			if _, err := io.WriteString(w, part); err != nil {
				t.Error(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != errStale {
			t.Error("a second Close returned", err)
		}
		if _, err := w.Write(nil); err != errStale {
			t.Error("Write after Close returned", err)
		}
		var text string
		for _, f := range parseSent(t, c, rw.written()) {
			if f.opcode == opText {
				text += f.payload
			}
		}
		if text != "\U0001F600" {
			t.Errorf("sent %q", text)
		}
	}
	// A message that ends within a rune cannot be mended any more.
	c, rw := tapeConn(nil, false, false)
	w, _ := c.NextWriter(Text)
	io.WriteString(w, "\xf0\x9f")
	if err := w.Close(); err != errNotUTF8 {
		t.Error(err)
	}
	if b := rw.written(); !bytes.Contains(b, []byte("\x03\xf3")) { // 1011
		t.Errorf("sent %q", b)
	}
	if err := c.WriteMessage(Text, nil); err == nil {
		t.Error("a message left behind half a rune")
	}
}

// TestPayloadIsKept appends to what was read and reads on.
func TestPayloadIsKept(t *testing.T) {
	for _, pair := range pairs {
		for name, read := range map[string]func(c *Conn) ([]byte, error){
			"GetFrame":      func(c *Conn) ([]byte, error) { return GetFrame(c) },
			"ReadMessage":   func(c *Conn) ([]byte, error) { _, p, err := c.ReadMessage(); return p, err },
			"AppendMessage": func(c *Conn) ([]byte, error) { _, p, err := c.AppendMessage(nil); return p, err },
		} {
			t.Run(pair.name+"/"+name, func(t *testing.T) {
				server, client := pair.open(t, nil)
				sizes := []int{1, 10, 2000, 4096, 5, 20000, 70000, 0, 3}
				go func() {
					for i, size := range sizes {
						client.WriteMessage(Text, bytes.Repeat([]byte{'a' + byte(i)}, size))
					}
				}()
				var got [][]byte
				for range sizes {
					p, err := read(server)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, p)
					_ = append(p, "overwrites what is behind"...)
				}
				for i, size := range sizes {
					if !bytes.Equal(got[i], bytes.Repeat([]byte{'a' + byte(i)}, size)) {
						t.Errorf("message %d became %d bytes, %.20q", i, len(got[i]), got[i])
					}
				}
			})
		}
	}
}

func TestAppendMessage(t *testing.T) {
	c, rw := tapeConn(&Options{MaxMessage: 100 << 10}, false, false)
	rw.in = [][]byte{
		toward(c, opText, "one"), toward(c, opBinary, ""), toward(c, opText, strings.Repeat("x", 80<<10)),
		toward(c, opText, strings.Repeat("y", 90<<10))[:50<<10],
	}
	dst := append(make([]byte, 0, 64), "kept"...)
	typ, p, err := c.AppendMessage(dst)
	if typ != Text || string(p) != "keptone" || &p[0] != &dst[0] || err != nil {
		t.Errorf("got type %d, %q, %v", typ, p, err)
	}
	if typ, p, err = c.AppendMessage(p); typ != Binary || string(p) != "keptone" || err != nil {
		t.Errorf("got type %d, %q, %v", typ, p, err)
	}
	if typ, p, err = c.AppendMessage(p); typ != Text || len(p) != 7+80<<10 || string(p[:8]) != "keptonex" || err != nil {
		t.Errorf("got type %d, %d bytes, %.10q, %v", typ, len(p), p, err)
	}
	for range 2 {
		if typ, p, err = c.AppendMessage(dst); typ != 0 || string(p) != "kept" || err != io.ErrUnexpectedEOF {
			t.Errorf("got type %d, %q, %v", typ, p, err)
		}
	}
	if _, p, err := c.ReadMessage(); p != nil || err != io.ErrUnexpectedEOF {
		t.Errorf("ReadMessage returned %q, %v", p, err)
	}
}

// TestNextReader leaves messages half read.
func TestNextReader(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, size := range []int{10, 5000, 100 << 10} {
			t.Run(fmt.Sprintf("%d/hixie=%t", size, hixie), func(t *testing.T) {
				c, rw := tapeConn(nil, true, hixie)
				for i := range 6 {
					p := bytes.Repeat([]byte{'a' + byte(i)}, size)
					if hixie {
						rw.in = append(rw.in, toward(c, opText, string(p)))
					} else {
						rw.in = append(rw.in, appendFrame(nil, opText, p[:size/2], false),
							appendFrame(nil, finBit|opPing, nil, false), appendFrame(nil, finBit|opContinuation, p[size/2:], false))
					}
				}
				next := func() io.Reader {
					typ, r, err := c.NextReader()
					if typ != Text || err != nil {
						t.Fatal(typ, err)
					}
					return r
				}
				b := make([]byte, 4)
				r := next() // a
				if n, err := r.Read(nil); n != 0 || err != nil {
					t.Error("Read of nothing returned", n, err)
				}
				if _, err := io.ReadFull(r, b); string(b) != "aaaa" || err != nil {
					t.Errorf("read %q, %v", b, err)
				}
				stale := r
				r = next() // b, of which nothing is read
				if n, err := stale.Read(b); n != 0 || err == nil || err == io.EOF {
					t.Errorf("the reader of a message that is over read %q, %v", b[:n], err)
				}
				if n, err := stale.Read(nil); n != 0 || err == nil {
					t.Error("it read nothing without an error", n, err)
				}
				stale = r
				if typ, p, err := c.ReadMessage(); typ != Text || len(p) != size || p[0] != 'c' || err != nil {
					t.Errorf("behind a message that was left, ReadMessage returned %d bytes, %.5q, %v", len(p), p, err)
				}
				if n, err := stale.Read(b); n != 0 || err == nil || err == io.EOF {
					t.Errorf("the reader of a message that is over read %q, %v", b[:n], err)
				}
				r = next() // d
				if err := iotest.TestReader(r, bytes.Repeat([]byte{'d'}, size)); err != nil {
					t.Error(err)
				}
				for _, p := range [][]byte{nil, b} {
					if n, err := r.Read(p); n != 0 || err != io.EOF {
						t.Error("after the end Read returned", n, err)
					}
				}
				r = next() // e
				if n, err := c.Read(b); err != nil || n == 0 || strings.Trim(string(b[:n]), "f") != "" {
					t.Errorf("Read returned %q, %v", b[:n], err)
				}
				if n, err := r.Read(b); n != 0 || err == nil {
					t.Errorf("the reader of a message that is over read %q, %v", b[:n], err)
				}
			})
		}
	}
}

// An endless reader repeats what it is.
type endless struct {
	b []byte
	n int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[e.n:])
	e.n = (e.n + n) % len(e.b)
	return n, nil
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestStream passes on messages larger than the memory it may use.
func TestStream(t *testing.T) {
	const size, most = 64 << 20, 256 << 10
	for _, client := range []bool{false, true} {
		t.Run(fmt.Sprint("read/client=", client), func(t *testing.T) {
			head := appendHeader(nil, finBit|opBinary, !client, size)
			if !client {
				head = append(head, 0, 0, 0, 0)
			}
			rw := struct {
				io.Reader
				io.Writer
			}{io.MultiReader(bytes.NewReader(head), &endless{b: make([]byte, 64<<10)}), io.Discard}
			if n := allocated(func() {
				c := newConn(rw, &Options{MaxMessage: -1}, client)
				_, r, err := c.NextReader()
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); n != size || err != nil {
					t.Error(n, err)
				}
			}); n > most {
				t.Errorf("allocated %d bytes", n)
			}
		})
		t.Run(fmt.Sprint("write/client=", client), func(t *testing.T) {
			p := make([]byte, size)
			if n := allocated(func() {
				c := newConn(struct {
					io.Reader
					io.Writer
				}{nil, io.Discard}, nil, client)
				if err := c.WriteMessage(Binary, p); err != nil {
					t.Error(err)
				}
				w, err := c.NextWriter(Binary)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.CopyN(w, &endless{b: make([]byte, 1<<10)}, size); n != size || err != nil {
					t.Error(n, err)
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}); n > 2*most && !raceEnabled {
				t.Errorf("allocated %d bytes", n)
			}
		})
	}
}

// echoes are the ways to answer a message.
var echoes = map[string]func(c *Conn) error{
	"ReadMessage": func(c *Conn) error {
		typ, p, err := c.ReadMessage()
		if err == nil {
			err = c.WriteMessage(typ, p)
		}
		return err
	},
	"GetFrame": func(c *Conn) error {
		p, err := GetFrame(c)
		if err == nil {
			err = PutFrame(c, p)
		}
		return err
	},
	"AppendMessage": func(c *Conn) error {
		typ, p, err := c.AppendMessage(nil)
		if err == nil {
			err = c.WriteMessage(typ, p)
		}
		return err
	},
	"NextReader": func(c *Conn) error {
		typ, r, err := c.NextReader()
		if err != nil {
			return err
		}
		p, err := io.ReadAll(r)
		if err == nil {
			err = c.WriteMessage(typ, p)
		}
		return err
	},
}

// TestBatch answers frames that arrive together: the replies leave together,
// before the Conn waits for more.
func TestBatch(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parts []int  // frames in each read; -1 cuts the last one in half
		want  string // r is a read, w and a number is a write of that many frames
	}{
		{"one by one", []int{1, 1, 1}, "r w1 r w1 r w1 r"},
		{"together", []int{16}, "r w16 r"},
		{"twice", []int{16, 3}, "r w16 r w3 r"},
		{"half", []int{4, -1, 1, 2}, "r w3 r w2 r w2 r"}, // frames 1 to 3 must not wait for the rest of 4
	} {
		for name, answer := range echoes {
			for _, client := range []bool{false, true} {
				for _, hixie := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/client=%t/hixie=%t", tt.name, name, client, hixie), func(t *testing.T) {
						// Time stands still: the timer cannot have written anything.
						synctest.Test(t, func(t *testing.T) {
							c, rw := tapeConn(nil, client, hixie)
							message := strings.Repeat("x", 16)
							var rest []byte
							total := 0
							for _, n := range tt.parts {
								if n < 0 {
									last := rw.in[len(rw.in)-1]
									half := len(last) - 8
									rw.in[len(rw.in)-1], rest = last[:half], last[half:]
									continue
								}
								part := rest
								rest = nil
								for range n {
									part = append(part, toward(c, opText, message)...)
								}
								rw.in = append(rw.in, part)
								total += n
							}
							for range total {
								if err := answer(c); err != nil {
									t.Fatal(err)
								}
							}
							if err := answer(c); err != io.EOF {
								t.Fatal(err)
							}
							var got []string
							for _, e := range rw.events {
								if e.wrote == nil {
									got = append(got, "r")
									continue
								}
								got = append(got, fmt.Sprint("w", len(parseSent(t, c, e.wrote))))
							}
							if got := strings.Join(got, " "); got != tt.want {
								t.Errorf("got %s, want %s", got, tt.want)
							}
						})
					})
				}
			}
		}
	}
}

// TestBatchUnanswered does not answer what comes last: the replies before it
// must leave nevertheless before the Conn waits.
func TestBatchUnanswered(t *testing.T) {
	for _, last := range []struct {
		name  string
		frame func(c *Conn) []byte
		reads int // messages in it
	}{
		{"message", func(c *Conn) []byte { return toward(c, opText, "last") }, 1},
		{"pong", func(c *Conn) []byte { return toward(c, opPong, "") }, 0},
		{"fragment", func(c *Conn) []byte { return appendFrame(nil, opText, nil, !c.client) }, 0},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/client=%t", last.name, client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, rw := tapeConn(nil, client, false)
					rw.in = [][]byte{slices.Concat(toward(c, opText, "1"), toward(c, opText, "2"), last.frame(c))}
					for range 2 {
						if err := echoes["GetFrame"](c); err != nil {
							t.Fatal(err)
						}
					}
					if n := len(rw.writes()); n != 0 {
						t.Errorf("%d writes while there is more to read", n)
					}
					for range last.reads {
						if _, err := GetFrame(c); err != nil {
							t.Fatal(err)
						}
					}
					GetFrame(c) // finds the end
					w := rw.writes()
					if len(w) != 1 || len(parseSent(t, c, w[0].wrote)) != 2 || len(rw.events) != 3 || rw.events[1].wrote == nil {
						t.Errorf("%d writes among %d events", len(w), len(rw.events))
					}
				})
			})
		}
	}
}

// TestWriteWhileReading sends while another goroutine waits for input: nothing
// is left to be read, so the message has nothing to wait for.
func TestWriteWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		go peer.Write(slices.Concat(toward(c, opText, "message"), toward(c, opPong, "")))
		if _, err := GetFrame(c); err != nil {
			t.Fatal(err)
		}
		go c.ReadMessage()
		synctest.Wait()
		start := time.Now()
		go c.WriteMessage(Text, nil)
		if _, err := peer.Read(make([]byte, 8)); err != nil || time.Since(start) != 0 {
			t.Error("the message came after", time.Since(start), err)
		}
	})
}

// TestNextWriterInBatch ends a message that need not leave at once, for which
// another goroutine waits.
func TestNextWriterInBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rw := tapeConn(nil, false, false)
		rw.in = [][]byte{bytes.Repeat(toward(c, opText, ""), 2)}
		if _, err := GetFrame(c); err != nil {
			t.Fatal(err)
		}
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		written := goErr(func() error { return PutFrame(c, []byte("next")) })
		synctest.Wait()
		if len(written) != 0 {
			t.Error("a message came between the fragments of another")
		}
		start := time.Now()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := wait(t, written); err != nil || time.Since(start) != 0 {
			t.Error(err, "after", time.Since(start))
		}
	})
}

// TestBatchDelay has a handler stall after it has replied.
func TestBatchDelay(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, rw := tapeConn(nil, false, hixie)
			rw.in = [][]byte{bytes.Repeat(toward(c, opText, "x"), 4)}
			for range 2 {
				start := time.Now()
				if err := echoes["ReadMessage"](c); err != nil {
					t.Fatal(err)
				}
				if n := len(rw.writes()); n != 0 {
					t.Errorf("%d writes while there is more to read", n)
				}
				time.Sleep(time.Hour)
				w := rw.writes()
				if len(w) != 1 || w[0].at.Sub(start) > 2*time.Millisecond {
					t.Errorf("%d writes; the reply was late", len(w))
				}
				rw.events = nil
			}
		})
	}
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
		if c.out != nil && len(c.out.b) > 4*batchSize {
			t.Errorf("pongs take %d bytes", len(c.out.b))
		}
	})
}

// TestWriteOfOthers has the message of another goroutine wait in the output when
// the reader has to wait for input, from a peer that sends before it reads. The
// reader must not wait for that peer to read.
func TestWriteOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		next, read := make(chan bool), make(chan string)
		go func() {
			for range next {
				p, _ := GetFrame(c)
				read <- string(p)
			}
		}()
		defer close(next)
		get := func(want string) {
			t.Helper()
			select {
			case got := <-read:
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("the reader waits for its peer to read")
			}
		}

		next <- true
		synctest.Wait()
		go func() {
			io.ReadFull(peer, make([]byte, 2+len("first")))
			peer.Write(bytes.Repeat(toward(c, opText, "a"), 2))
			peer.Write(toward(c, opText, "b"))
			io.Copy(io.Discard, peer)
		}()
		if err := c.WriteMessage(Text, []byte("first")); err != nil {
			t.Fatal(err)
		}
		get("a")
		if err := c.WriteMessage(Text, []byte("second")); err != nil {
			t.Fatal(err)
		}
		next <- true
		get("a")
		next <- true
		get("b")
	})
}

// TestCloseHixieWriter closes a hixie-76 connection within a message, where FF 00
// would be text. Nothing is to be waited for.
func TestCloseHixieWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		c.dec.hixie = true
		sent := make(chan string)
		go func() {
			b, _ := io.ReadAll(peer)
			sent <- string(b)
		}()
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "half")
		start := time.Now()
		if err := c.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("Close returned %v after %v", err, time.Since(start))
		}
		if got := <-sent; got != "\x00half" {
			t.Errorf("sent %q", got)
		}
	})
}

// TestCloseAfterEOF closes a connection whose peer has gone without a word.
func TestCloseAfterEOF(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			client.rw.(io.Closer).Close()
			if _, err := GetFrame(server); err != io.EOF {
				t.Error("GetFrame returned", err)
			}
			if err := server.Close(); err != nil {
				t.Error("Close returned", err)
			}
		})
	}
}

// TestBatchSize makes more output than is to be kept back.
func TestBatchSize(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, size := range []int{1 << 10, 10 << 10, 60 << 10} {
			synctest.Test(t, func(t *testing.T) {
				c, rw := tapeConn(nil, true, hixie)
				rw.in = [][]byte{bytes.Repeat(toward(c, opText, ""), 400)}
				p := make([]byte, size)
				sent, count := 0, 0
				for n := range 200 {
					if _, err := GetFrame(c); err != nil {
						t.Fatal(err)
					}
					if err := PutFrame(c, p); err != nil {
						t.Fatal(err)
					}
					writes := rw.writes()
					for _, w := range writes {
						sent += len(w.wrote)
					}
					count += len(writes)
					rw.events = nil
					if kept := (n+1)*size - sent; kept > batchSize {
						t.Fatalf("%d bytes are kept back", kept)
					}
				}
				if n, most := count, 1+200*size/batchSize*2; n > most {
					t.Errorf("%d writes, want %d at the most", n, most)
				}
			})
		}
	}
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

// TestOneWrite sends messages when nothing waits to be read: each takes one
// Write, and so does each fragment.
func TestOneWrite(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, hixie := range []bool{false, true} {
			for _, size := range []int{0, 1, 125, 126, 4 << 10, 16<<10 - 1, 16 << 10, 60 << 10} {
				c, rw := tapeConn(nil, client, hixie)
				p := bytes.Repeat([]byte("x"), size)
				want := func(n int, what string) {
					t.Helper()
					w := rw.writes()
					if len(w) != n {
						t.Fatalf("client=%t, hixie=%t, %d bytes: %d writes for %s", client, hixie, size, len(w), what)
					}
				}
				if err := c.WriteMessage(Text, p); err != nil {
					t.Fatal(err)
				}
				want(1, "a message")
				w, err := c.NextWriter(Text)
				if err != nil {
					t.Fatal(err)
				}
				want(1, "a message and no fragment")
				w.Write(p)
				want(2, "a message and a fragment")
				w.Close()
				want(3, "a message and two fragments")
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
				want(4, "two messages and two fragments")
				total := 0
				for _, f := range parseSent(t, c, rw.written()) {
					total += len(f.payload)
				}
				if total != 3*size {
					t.Errorf("client=%t, hixie=%t, %d bytes: sent %d", client, hixie, size, total)
				}
			}
		}
	}
}

// claims are beginnings of messages that announce far more than they bring.
var claims = []struct {
	name string
	wire []byte
	eof  error // in the end
}{
	{"2^62 bytes", []byte("\x82\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), io.ErrUnexpectedEOF},
	{"1 MiB", []byte("\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x000123456789"), io.ErrUnexpectedEOF},
}

// TestClaim has a peer announce a large message: memory must not follow what
// it says.
func TestClaim(t *testing.T) {
	const most = 64 << 10
	o := &Options{MaxMessage: -1}
	for _, claim := range claims {
		for _, m := range readings {
			t.Run(claim.name+"/"+m.name, func(t *testing.T) {
				var err error
				rw := &tape{in: [][]byte{claim.wire}}
				n := allocated(func() {
					_, err = m.open(newConn(rw, o, false), 8<<10)()
				})
				// What has come of the message may be there, but not its end.
				if n > most || err != claim.eof && !(err == nil && m.name == "Read") {
					t.Errorf("allocated %d bytes, %v", n, err)
				}
			})
			t.Run(claim.name+"/"+m.name+"/TCP", func(t *testing.T) {
				socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
				if _, err := peer.Write(claim.wire); err != nil {
					t.Fatal(err)
				}
				peer.Close()
				var err error
				n := allocated(func() {
					_, err = m.open(newConn(socket, o, false), 8<<10)()
				})
				if n > most || err == nil {
					t.Errorf("allocated %d bytes, %v", n, err)
				}
			})
		}
		t.Run(claim.name+"/GetFrame", func(t *testing.T) {
			rw := &tape{in: [][]byte{claim.wire}}
			var err error
			if n := allocated(func() { _, err = GetFrame(rw) }); n > most || err == nil {
				t.Errorf("allocated %d bytes, %v", n, err)
			}
		})
	}
}

// TestGrowth reads a message of which only a part comes. What that costs is to
// be in proportion to the part.
func TestGrowth(t *testing.T) {
	for _, arrived := range []int{100, 10 << 10, 100 << 10, 1 << 20, 8 << 20} {
		wire := append(appendHeader(nil, finBit|opBinary, false, 1<<30), make([]byte, arrived)...)
		c := newConn(noClose{&tape{in: [][]byte{wire}}}, &Options{MaxMessage: -1}, true)
		var err error
		n := allocated(func() { _, _, err = c.ReadMessage() })
		// Doubling makes up to two of what has come, and as much again of the
		// memory that was too small.
		if most := uint64(8*arrived + 32<<10); n > most || err != io.ErrUnexpectedEOF {
			t.Errorf("%d bytes arrived, allocated %d, more than %d; %v", arrived, n, most, err)
		}
	}
	for _, size := range []int{1, 5000, 100 << 10, 1 << 20} {
		c, rw := tapeConn(nil, true, false)
		rw.in = [][]byte{toward(c, opBinary, strings.Repeat("x", size))}
		_, p, err := c.ReadMessage()
		if len(p) != size || cap(p) > 2*size+4<<10 || err != nil {
			t.Errorf("%d bytes came in a slice of %d, %v", len(p), cap(p), err)
		}
	}
}

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
					if len(c.in) == len(tt.then) && cap(c.in) <= 16 && c.out == nil && cap(c.chunk) == 0 {
						break
					}
					if d > time.Second {
						t.Fatalf("holds input: %d of %d, chunk: %d of %d, output: %t",
							len(c.in), cap(c.in), len(c.chunk), cap(c.chunk), c.out != nil)
					}
				}
			})
		}
	}
}

// raceEnabled is true under the race detector, which makes pools forget.
var raceEnabled = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// looped returns a Conn that reads the same frame for ever.
func looped(client bool, size int) *Conn {
	c := newConn(nil, nil, client)
	c.rw = struct {
		io.Reader
		io.Writer
	}{&endless{b: toward(c, opBinary, strings.Repeat("x", size))}, io.Discard}
	return c
}

var payloadSizes = []int{16, 128, 1 << 10, 16 << 10, 1 << 20}

func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	for _, client := range []bool{false, true} {
		for _, size := range payloadSizes {
			t.Run(fmt.Sprintf("%d/client=%t", size, client), func(t *testing.T) {
				c := looped(client, size)
				p := make([]byte, 0, size)
				buf := make([]byte, 8<<10)
				for _, tt := range []struct {
					name string
					most float64
					call func() error
				}{
					{"AppendMessage", 0, func() (err error) { _, p, err = c.AppendMessage(p[:0]); return err }},
					{"WriteMessage", 0, func() error { return c.WriteMessage(Binary, p) }},
					{"echo", 0, func() (err error) {
						if _, p, err = c.AppendMessage(p[:0]); err == nil {
							err = c.WriteMessage(Binary, p)
						}
						return err
					}},
					{"Read", 0, func() error {
						_, err := io.ReadFull(c, p[:size])
						return err
					}},
					{"ReadMessage", 1, func() error {
						if size > 4<<10 {
							return nil // grows as bytes arrive
						}
						_, _, err := c.ReadMessage()
						return err
					}},
					{"NextReader", 1, func() error {
						_, r, err := c.NextReader()
						for err == nil {
							_, err = r.Read(buf)
						}
						if err == io.EOF {
							err = nil
						}
						return err
					}},
				} {
					if n := testing.AllocsPerRun(50, func() {
						if err := tt.call(); err != nil {
							t.Fatal(err)
						}
					}); n > tt.most {
						t.Errorf("%s: %v allocations, want %v", tt.name, n, tt.most)
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

// TestNetConn uses a Conn for what a net.Conn is used for.
func TestNetConn(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			t.Run("stream", func(t *testing.T) {
				server, client := pair.open(t, nil)
				text := strings.Repeat("All work and no play makes Jack a dull boy.\n", 5000)
				go func() {
					for i, rest := 0, text; rest != ""; i++ { // messages of all sizes
						n := min(i*i, len(rest))
						if m, err := io.WriteString(client, rest[:n]); m != n || err != nil {
							t.Error(m, err)
							return
						}
						rest = rest[n:]
					}
					client.Close()
				}()
				if err := iotest.TestReader(server, []byte(text)); err != nil {
					t.Error(err)
				}
			})
			t.Run("messages", func(t *testing.T) {
				server, client := pair.open(t, nil)
				go func() {
					client.Write([]byte("ab"))
					client.Write(nil)
					client.Write([]byte("c"))
				}()
				want := Binary
				if client.dec.hixie {
					want = Text
				}
				for _, m := range []string{"ab", "", "c"} {
					typ, p, err := server.ReadMessage()
					if typ != want || string(p) != m || err != nil {
						t.Errorf("got type %d, %q, %v; want %q", typ, p, err, m)
					}
				}
			})
			t.Run("copy", func(t *testing.T) {
				server, client := pair.open(t, nil)
				go func() {
					io.Copy(server, server)
					server.Close()
				}()
				want := bytes.Repeat([]byte("0123456789"), 30000)
				go io.Copy(client, bytes.NewReader(want))
				got := make([]byte, len(want))
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
					t.Error("the copy came back otherwise:", err)
				}
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			})
			t.Run("JSON", func(t *testing.T) {
				server, client := pair.open(t, nil)
				go func() {
					var v any
					enc := json.NewEncoder(server)
					for dec := json.NewDecoder(server); dec.Decode(&v) == nil; {
						enc.Encode([]any{v})
					}
					server.Close()
				}()
				enc, dec := json.NewEncoder(client), json.NewDecoder(client)
				for _, v := range []string{"a", strings.Repeat("é", 3000)} {
					if err := enc.Encode(v); err != nil {
						t.Fatal(err)
					}
					var got []string
					if err := dec.Decode(&got); err != nil || !slices.Equal(got, []string{v}) {
						t.Errorf("got %q, %v", got, err)
					}
				}
				client.Close()
			})
			t.Run("deadline", func(t *testing.T) {
				_, client := pair.open(t, nil)
				if err := client.SetDeadline(time.Now().Add(-time.Second)); err != nil {
					t.Fatal(err)
				}
				var e net.Error
				if _, err := client.Read(make([]byte, 1)); !errors.As(err, &e) || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("Read returned", err)
				}
				if _, err := client.Write([]byte("x")); !errors.As(err, &e) || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("Write returned", err)
				}
			})
			t.Run("addresses", func(t *testing.T) {
				server, client := pair.open(t, nil)
				if got, want := server.LocalAddr(), client.RemoteAddr(); got.String() != want.String() || got.Network() != want.Network() {
					t.Errorf("%v is not %v", got, want)
				}
				if c := NewConn(server.rw, nil); c == server || c.client || NewConn(c, nil) != c {
					t.Error("NewConn made no server's Conn, or another one of a Conn")
				}
			})
			if pair.name[0] == 'R' { // its messages are no text
				t.Run("RPC", func(t *testing.T) {
					server, client := pair.open(t, nil)
					s := rpc.NewServer()
					if err := s.RegisterName("Arith", Arith{}); err != nil {
						t.Fatal(err)
					}
					served := goErr(func() error { s.ServeConn(server); return nil })
					cl := rpc.NewClient(client)
					var calls []*rpc.Call
					for i := range 100 {
						calls = append(calls, cl.Go("Arith.Double", i, new(int), nil))
					}
					for i, call := range calls {
						if call := wait(t, call.Done); call.Error != nil || *call.Reply.(*int) != 2*i {
							t.Error(call.Error, call.Reply)
						}
					}
					if err := cl.Close(); err != nil {
						t.Error(err)
					}
					wait(t, served)
				})
			}
		})
	}
}

// Arith is a service for net/rpc.
type Arith struct{}

func (Arith) Double(n int, twice *int) error {
	*twice = 2 * n
	return nil
}

var errBroken = errors.New("broken")

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

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

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
				c.rw = struct {
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
			c.rw = struct {
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

// TestReadTogether checks that frames which arrive together, some of which are decoded in
// another way, are read as if they came byte by byte.
func TestReadTogether(t *testing.T) {
	hello := []byte("héllo")
	consumers := map[string]func(c *Conn, got func(MessageType, []byte)) error{
		"ReadMessage": func(c *Conn, got func(MessageType, []byte)) error {
			for {
				typ, p, err := c.ReadMessage()
				if err != nil {
					return err
				}
				if p == nil {
					t.Error("a message is nil")
				}
				got(typ, p)
			}
		},
		"AppendMessage": func(c *Conn, got func(MessageType, []byte)) error {
			for {
				typ, p, err := c.AppendMessage([]byte("kept"))
				if err != nil {
					return err
				}
				got(typ, bytes.TrimPrefix(p, []byte("kept")))
			}
		},
		"Serve": func(c *Conn, got func(MessageType, []byte)) error {
			return c.Serve(Handler{OnMessage: func(_ *Conn, typ MessageType, p []byte) {
				if len(p) != cap(p) {
					t.Error("the next frame lies in reach")
				}
				got(typ, p)
			}})
		},
		"reader and ReadMessage": func(c *Conn, got func(MessageType, []byte)) error {
			for {
				typ, r, err := c.NextReader()
				if err != nil {
					return err
				}
				b, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				got(typ, b)
				if typ, b, err = c.ReadMessage(); err != nil {
					return err
				}
				got(typ, b)
			}
		},
	}
	for _, client := range []bool{false, true} {
		frame := func(first byte, p []byte) []byte { return appendFrame(nil, first, p, !client) }
		bare := frame(finBit|opText, hello)
		last := map[string][]byte{
			"end":                   nil,
			"binary":                frame(finBit|opBinary, []byte{0, 0xff}),
			"empty":                 frame(finBit|opText, nil),
			"long":                  frame(finBit|opText, bytes.Repeat([]byte("x"), 100)),
			"of 16 bits":            frame(finBit|opBinary, make([]byte, 200)),
			"fragments":             slices.Concat(frame(opText, hello[:2]), frame(finBit|opPing, hello), frame(finBit, hello[2:])),
			"ping":                  frame(finBit|opPing, hello),
			"close":                 frame(finBit|opClose, appendClose(nil, 4000, "bye")),
			"not UTF-8":             frame(finBit|opText, []byte("a\xff")),
			"valid while masked":    {finBit | opText, maskBit | 2, 0x80, 0x80, 0x80, 0x80, 'a', 'b'},
			"ends within a rune":    frame(finBit|opText, hello[:2]),
			"too large":             frame(finBit|opText, make([]byte, 501)),
			"RSV1":                  frame(finBit|rsv1Bit|opText, hello),
			"RSV3":                  frame(finBit|0x10|opText, hello),
			"opcode 3":              frame(finBit|0x3, hello),
			"continuation":          frame(finBit, hello),
			"within another":        slices.Concat(frame(opText, hello), frame(finBit|opText, hello)),
			"masked the other way":  appendFrame(nil, finBit|opText, hello, client),
			"cut within the header": bare[:1],
			"cut within the frame":  bare[:len(bare)-1],
		}
		for name, end := range last {
			wire := slices.Concat(frame(finBit|opText, hello), frame(finBit|opBinary, hello), end, frame(finBit|opText, hello))
			if name == "cut within the header" || name == "cut within the frame" {
				wire = wire[:len(wire)-len(bare)]
			}
			for consumer, consume := range consumers {
				results := map[string]string{}
				var first string
				for way, chop := range map[string]int{"together": len(wire), "in pieces": 11, "byte by byte": 1} {
					c, rw := tapeConn(&Options{MaxMessage: 500}, client, false)
					rw.in = slices.Collect(slices.Chunk(bytes.Clone(wire), chop))
					var log []string
					err := consume(c, func(typ MessageType, p []byte) { log = append(log, fmt.Sprintf("%v %q", typ, p)) })
					c.CloseNow()
					results[way] = fmt.Sprint(log, err)
					first = results[way]
				}
				for way, got := range results {
					if got != first {
						t.Errorf("client=%t, %s, %s, %s: %s, want %s", client, name, consumer, way, got, first)
					}
				}
			}
		}
	}
}

// FuzzConn feeds arbitrary bytes to a Conn, while a consumer does with it
// whatever ops says. Only documented errors may come out, and what the Conn
// sends must be valid.
func FuzzConn(f *testing.F) {
	add := func(flags byte, ops string, wire ...[]byte) {
		f.Add(flags, uint64(len(ops)), []byte(ops), slices.Concat(wire...))
	}
	const all = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"
	for flags := range byte(8) {
		c := newConn(nil, nil, flags&1 != 0)
		c.dec.hixie = flags&2 != 0
		frame := func(op byte, p string) []byte { return toward(c, op, p) }
		add(flags, "", frame(opText, "one"), frame(opBinary, "two"), frame(opPing, "p"), frame(opText, ""), frame(opClose, closing(CloseNormal, "bye")), frame(opText, "late"))
		add(flags, all, frame(opText, strings.Repeat("é", 3000)), frame(opText, strings.Repeat("x", 20<<10)), frame(opText, "end"))
		add(flags, "\x02\x03\x02\x04\x02\x00", bytes.Repeat(frame(opText, "again and again"), 20))
		add(flags, "\x05\x06\x09\x05\x0b", frame(opText, "a"), frame(opPong, "\x00\x00\x00\x00\x00\x00\x00\x01"), frame(opText, "b"))
		add(flags, all, frame(opText, "\xff"))
		add(flags, all, frame(opClose, "\x03\xe7"))
		add(flags, all, frame(opClose, "\x03"), frame(opPing, strings.Repeat("x", 126)))
		add(flags, "\x00", []byte("\x01\x03one\x80\x03two\x00\x80\x7fdiscard\xff\x05skip\xff\xff\x00"))
		add(flags, "\x00", appendFrame(nil, opText, []byte("o\xc3"), flags&1 == 0), frame(opPing, ""), appendFrame(nil, finBit, []byte("\xa9"), flags&1 == 0))
		for _, claim := range claims {
			add(flags, "\x02\x04\x00", claim.wire)
		}
	}
	f.Fuzz(func(t *testing.T, flags byte, seed uint64, ops, wire []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		rw := &tape{}
		for len(wire) > 0 {
			n := min(len(wire), 1+rnd.IntN(1<<rnd.IntN(15)))
			rw.in = append(rw.in, wire[:n])
			wire = wire[n:]
		}
		if flags&16 != 0 {
			rw.end = errBroken
		}
		o := &Options{MaxMessage: []int64{0, 16, 5000, -1}[flags>>5&3]}
		var transport io.ReadWriter = noClose{rw}
		if flags&4 != 0 {
			transport = rw // it has Close: control frames take another way
		}
		c := newConn(transport, o, flags&1 != 0)
		c.dec.hixie = flags&2 != 0
		if flags&8 != 0 && !c.client { // the handshake may be in there, too
			c.dec.hixie = false
			if _, err := ShakeHands(c); err != nil {
				checkFuzzError(t, err)
				c.CloseNow()
				return
			}
			rw.mu.Lock()
			rw.events = nil // what follows is to be frames
			rw.mu.Unlock()
		}
		var r io.Reader
		var w io.WriteCloser
		ended := 0
		for i := 0; ended < 3; i++ {
			var op byte
			if len(ops) > 0 {
				op = ops[i%len(ops)]
			}
			if i > len(ops) && i%2 == 0 {
				op = 0 // something has to read until the end
			}
			size := rnd.IntN(1 << rnd.IntN(17))
			var err error
			switch op % 14 {
			case 0:
				var typ MessageType
				var p []byte
				typ, p, err = c.ReadMessage()
				if err == nil && (typ != Text && typ != Binary || p == nil) {
					t.Fatalf("a message of type %d, %q", typ, p)
				}
				if o.MaxMessage > 0 && int64(len(p)) > o.MaxMessage {
					t.Fatalf("a message of %d bytes", len(p))
				}
			case 1:
				var p []byte
				dst := []byte("kept")
				_, p, err = c.AppendMessage(dst)
				if !bytes.HasPrefix(p, dst) || err != nil && len(p) != len(dst) {
					t.Fatalf("AppendMessage made %q of %q, %v", p, dst, err)
				}
			case 2:
				_, r, err = c.NextReader()
			case 3:
				_, err = c.Read(make([]byte, size))
			case 4:
				if r != nil {
					if _, err = r.Read(make([]byte, size)); err == io.EOF {
						r, err = nil, nil
					}
				}
			case 5, 6:
				if w == nil {
					err = c.WriteMessage(Text, make([]byte, size))
				}
			case 7:
				if w == nil && !c.dec.hixie {
					err = c.WriteMessage(Binary, make([]byte, size))
				}
			case 8:
				if w == nil {
					w, err = c.NextWriter(Text)
				}
			case 9:
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				c.Ping(ctx)
			case 10:
				if w != nil {
					_, err = w.Write([]byte("wörld"))
				}
			case 11:
				if w != nil {
					err = w.Close()
					w = nil
				}
			case 12:
				if w == nil && i > len(ops)/2 {
					checkFuzzError(t, c.CloseWith(4000, "enough"))
				}
			case 13:
				if i > len(ops)/2 {
					c.CloseNow()
				}
			}
			checkFuzzError(t, err)
			if err != nil && op%14 < 4 {
				ended++
				if _, _, again := c.ReadMessage(); again == nil {
					t.Fatalf("ReadMessage returned no error after %v", err)
				}
			}
		}
		c.CloseNow()

		d := decoder{hixie: c.dec.hixie, masked: c.client, limit: math.MaxInt64}
		closed := false
		for b := rw.written(); len(b) > 0; {
			p, n, err := d.next(b)
			if err != nil || n == 0 || closed {
				t.Fatalf("sent %.20q: %v, behind a close frame: %t", b, err, closed)
			}
			closed = p.opcode == opClose
			b = b[n:]
		}
	})
}

// checkFuzzError accepts the errors that a Conn over a tape may return.
func checkFuzzError(t *testing.T, err error) {
	t.Helper()
	var ce *CloseError
	var he *HandshakeError
	switch {
	case err == nil, errors.As(err, &ce), errors.As(err, &he), errors.Is(err, net.ErrClosed):
	case err == io.EOF, err == io.ErrUnexpectedEOF, err == errBroken, err == errStale:
	default:
		t.Fatalf("undocumented error %v", err)
	}
}

// benchSizes runs a benchmark for both roles and several sizes.
func benchSizes(b *testing.B, bench func(b *testing.B, c *Conn, p []byte)) {
	for _, client := range []bool{false, true} {
		role := "server"
		if client {
			role = "client"
		}
		for _, size := range payloadSizes {
			b.Run(role+"/"+strconv.Itoa(size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				bench(b, looped(client, size), make([]byte, size))
			})
		}
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		for b.Loop() {
			var err error
			if _, p, err = c.AppendMessage(p[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReadMessage(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		for b.Loop() {
			if _, _, err := c.ReadMessage(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNextReader(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		buf := make([]byte, 32<<10)
		for b.Loop() {
			_, r, err := c.NextReader()
			for err == nil {
				_, err = r.Read(buf)
			}
			if err != io.EOF {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWriteMessage(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		c.more = false
		for b.Loop() {
			if err := c.WriteMessage(Binary, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkEcho sends 128 bytes there and back over TCP, with some messages in
// flight at a time.
func BenchmarkEcho(b *testing.B) {
	for _, flight := range []int{1, 16} {
		b.Run(fmt.Sprint("inflight=", flight), func(b *testing.B) {
			server, client := tcpPipe(b, nil)
			done := goErr(func() error {
				var p []byte
				for {
					typ, q, err := server.AppendMessage(p[:0])
					if err == nil {
						p = q
						err = server.WriteMessage(typ, p)
					}
					if err != nil {
						return err
					}
				}
			})
			message := make([]byte, 128)
			batch := bytes.Repeat(toward(server, opBinary, string(message)), flight)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += flight {
				if _, err := client.rw.Write(batch); err != nil {
					b.Fatal(err)
				}
				for range flight {
					var err error
					if _, message, err = client.AppendMessage(message[:0]); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			if err := client.Close(); err != nil {
				b.Error(err)
			}
			<-done
		})
	}
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

// TestTimeoutsWithinMessage has many reads time out within a large message. They
// must not copy it each time.
func TestTimeoutsWithinMessage(t *testing.T) {
	const size = 1 << 20
	for name, dst := range map[string][]byte{"ReadMessage": nil, "AppendMessage": []byte("before")} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, &Options{MaxMessage: size}, false)
			frame := toward(c, opBinary, strings.Repeat("x", size))
			go peer.Write(frame[:len(frame)-1])
			read := func() ([]byte, error) {
				c.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, p, err := c.AppendMessage(dst)
				return p, err
			}
			if _, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(name, "returned", err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 100 {
				if p, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || !bytes.Equal(p, dst) {
					t.Fatalf("%s returned %d bytes, %v", name, len(p), err)
				}
			}
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > size/2 {
				t.Errorf("%s: 100 timeouts took %d bytes", name, n)
			}
			go peer.Write(frame[len(frame)-1:])
			if p, err := read(); err != nil || string(p) != string(dst)+strings.Repeat("x", size) {
				t.Errorf("%s returned %d bytes, %v", name, len(p), err)
			}
		})
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

// TestReadBehindTimeout has Read go on with a large message of which AppendMessage
// has read a part before its deadline.
func TestReadBehindTimeout(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, client)
			message := make([]byte, 100_000)
			for i := range message {
				message[i] = byte(i / 1000)
			}
			frame := toward(c, opBinary, string(message))
			go peer.Write(frame[:len(frame)/2])
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, _, err := c.AppendMessage(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			go peer.Write(frame[len(frame)/2:])
			c.SetReadDeadline(time.Time{})
			got := make([]byte, len(message))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, message) {
				t.Errorf("got other bytes, %v", err)
			}
		})
	}
}

// TestIdleTimeout has reads time out between messages. That must not cost the next
// message its place in the caller's memory.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		dst := make([]byte, 0, 100)
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := c.AppendMessage(dst); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if c.partial != nil {
			t.Error("the next message will be put together elsewhere")
		}
		c.SetReadDeadline(time.Time{})
		go peer.Write(toward(c, opText, "message"))
		if _, p, err := c.AppendMessage(dst); err != nil || &p[0] != &dst[:1][0] {
			t.Errorf("%q is not in place, %v", p, err)
		}
	})
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

// TestTwoClosers has a second goroutine call Close while the first one waits for
// the peer's answer. It must not take that away.
func TestTwoClosers(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			reader := goErr(func() error {
				c.ReadMessage()
				return c.Close()
			})
			synctest.Wait()
			closer := goErr(func() error { return c.CloseWith(CloseGoingAway, "") })
			io.ReadFull(peer, make([]byte, 4))
			peer.Write(toward(c, opText, "late"))
			synctest.Wait()
			peer.Write(toward(c, opClose, "\x03\xe9"))
			for _, done := range []<-chan error{closer, reader} {
				if err := wait(t, done); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestCloseDropped has the peer go without an answer. Who was reading then makes
// no difference to Close.
func TestCloseDropped(t *testing.T) {
	for _, reading := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			if reading {
				go c.ReadMessage()
				synctest.Wait()
			}
			closed := goErr(c.Close)
			io.ReadFull(peer, make([]byte, 4))
			peer.Close()
			if err := wait(t, closed); err != io.EOF {
				t.Errorf("with a reader %t: Close returned %v", reading, err)
			}
		})
	}
}

// TestNoEmptyWrite ends a hixie-76 connection where nothing can be sent any more.
func TestNoEmptyWrite(t *testing.T) {
	c, rw := tapeConn(nil, false, true)
	w, err := c.NextWriter(Text)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "half")
	rw.in = [][]byte{{0xFF, 0x00}}
	if _, err := GetFrame(c); err != io.EOF {
		t.Error(err)
	}
	for _, w := range rw.writes() {
		if len(w.wrote) == 0 {
			t.Error("a write of nothing")
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

// A lazyConn takes a second to close.
type lazyConn struct {
	net.Conn
	closed atomic.Bool
}

func (c *lazyConn) Close() error {
	time.Sleep(time.Second)
	c.closed.Store(true)
	return c.Conn.Close()
}

// TestCloseWaits closes while another goroutine is closing the transport. That is done
// when the call returns.
func TestCloseWaits(t *testing.T) {
	for name, end := range map[string]func(*Conn) error{
		"Close":    (*Conn).Close,
		"CloseNow": (*Conn).CloseNow,
		"Serve": func(c *Conn) error {
			if err := c.Serve(Handler{}); err != net.ErrClosed {
				return fmt.Errorf("Serve: %w", err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer b.Close()
				transport := &lazyConn{Conn: a}
				c := newConn(transport, nil, false)
				first := goErr(c.CloseNow)
				synctest.Wait()
				if err := end(c); err != nil || !transport.closed.Load() {
					t.Errorf("returned %v, transport closed: %t", err, transport.closed.Load())
				}
				if err := wait(t, first); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestReadMessageShared checks that messages that share an allocation do not share bytes.
func TestReadMessageShared(t *testing.T) {
	var input []byte
	var want []string
	for _, n := range []int{0, 1, 125, 2000, 126, 5000, 3, 0, 70} {
		want = append(want, strings.Repeat(string(rune('a'+len(want))), n))
		input = appendFrame(input, finBit|opText, []byte(want[len(want)-1]), true)
	}
	for size := range 3 { // of the pieces that come
		c := newConn(&tape{in: slices.Collect(slices.Chunk(bytes.Clone(input), []int{len(input), 1000, 7}[size]))}, nil, false)
		var got [][]byte
		for {
			_, p, err := c.ReadMessage()
			if err == io.EOF {
				break
			}
			if err != nil || p == nil {
				t.Fatal(p, err)
			}
			got = append(got, p)
		}
		for _, p := range got {
			_ = append(p, "overwritten"...)
		}
		if len(got) != len(want) {
			t.Fatalf("%d messages", len(got))
		}
		for i, p := range got {
			if string(p) != want[i] {
				t.Errorf("message %d is %.20q", i, p)
			}
		}
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
				}{strings.NewReader(input), writerFunc(func([]byte) (int, error) { panic("transport") }), io.NopCloser(nil)}, nil, true)
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
