package websocket

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Here is what the tests of several concepts use: connections in memory and over sockets.

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
			if strings.Contains(s, "\nruntime.handleEvent()") && !strings.Contains(s, "syscall/js") {
				return true // it waits for what a page has to say
			}
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

// A tapeNetConn makes a tape a net.Conn.
type tapeNetConn struct {
	net.Conn // nil, for the methods that are not called
	*tape
}

func (c tapeNetConn) Read(p []byte) (int, error)       { return c.tape.Read(p) }
func (c tapeNetConn) Write(p []byte) (int, error)      { return c.tape.Write(p) }
func (c tapeNetConn) Close() error                     { return c.tape.Close() }
func (c tapeNetConn) SetDeadline(time.Time) error      { return nil }
func (c tapeNetConn) SetReadDeadline(time.Time) error  { return nil }
func (c tapeNetConn) SetWriteDeadline(time.Time) error { return nil }

// A memStream is a stream in memory: what is written to it does not come back.
type memStream struct {
	io.Reader
	out    bytes.Buffer
	writes int
}

func (s *memStream) Write(p []byte) (int, error) {
	s.writes++
	return s.out.Write(p)
}

var errTooFar = errors.New("read further than needed")

// A limitReader hands out s, at most step bytes at a time, and remembers
// whether it was asked for more.
type limitReader struct {
	s    string
	step int
	over bool
}

func (r *limitReader) Read(p []byte) (int, error) {
	if r.s == "" {
		r.over = true
		return 0, errTooFar
	}
	n := copy(p[:min(len(p), r.step)], r.s)
	r.s = r.s[n:]
	return n, nil
}

func lastBytes(s string) string { return s[max(0, len(s)-40):] }

// A chunkReader hands out data in pieces whose sizes depend on seed.
type chunkReader struct {
	data []byte
	rnd  *rand.Rand
}

func newChunkReader(data []byte, seed uint64) *chunkReader {
	return &chunkReader{data, rand.New(rand.NewPCG(seed, 0))}
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := len(p)
	if r.rnd.IntN(4) > 0 {
		n = min(n, 1+r.rnd.IntN(64))
	}
	n = copy(p[:n], r.data)
	r.data = r.data[n:]
	return n, nil
}

// A cutConn fails for ever after some bytes in either direction.
type cutConn struct {
	net.Conn
	err           error // of Read
	mu            sync.Mutex
	reads, writes int // bytes that pass
	cut           bool
}

// cutAfter returns a cutConn over conn that lets n bytes pass in one direction: until a
// "write" fails, or a "read", or until the "EOF" of what is read.
func cutAfter(conn net.Conn, fault string, n int) *cutConn {
	cut := &cutConn{Conn: conn, reads: 1 << 20, writes: 1 << 20, err: errBroken}
	switch fault {
	case "write":
		cut.writes = n
	case "EOF":
		cut.err = io.EOF
		fallthrough
	case "read":
		cut.reads = n
	}
	return cut
}

// left returns how many of n bytes still pass in a direction.
func (c *cutConn) left(way *int, n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = c.cut || n > 0 && *way == 0
	return min(n, *way)
}

func (c *cutConn) pass(way *int, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*way -= n
}

func (c *cutConn) Read(p []byte) (int, error) {
	n := c.left(&c.reads, len(p))
	if n == 0 {
		return 0, c.err
	}
	n, err := c.Conn.Read(p[:n])
	c.pass(&c.reads, n)
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	n := c.left(&c.writes, len(p))
	var err error
	if n > 0 {
		n, err = c.Conn.Write(p[:n])
		c.pass(&c.writes, n)
	}
	if n < len(p) && err == nil {
		c.left(&c.writes, 1) // notes the failure
		err = errBroken
	}
	return n, err
}

func (c *cutConn) wasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

// checkStopped checks that the timers of c, whose transport is closed, do not run.
func checkStopped(t testing.TB, c *Conn) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.end.isShut() || stops(c.timers.write) || stops(c.timers.wait) || stops(c.timers.close) || c.serve.spot.state != nowhere {
		t.Error("the transport is open, or a timer runs")
	}
}

// stops stops a timer, and reports whether it ran.
func stops(t *time.Timer) bool { return t != nil && t.Stop() }

// speakHixie lets c speak hixie-76, or RFC 6455.
func speakHixie(c *Conn, hixie bool) {
	v := RFC6455
	if hixie {
		v = Hixie76
	}
	c.speak(v, nil)
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
		speakHixie(server, true)
		speakHixie(client, true)
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
	{"RFC6455/Pipe", func(t testing.TB, o *Options) (server, client *Conn) {
		client, server = openPiped(t, o, o)
		return server, client
	}},
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

// cause returns the error of the transport that has cut a connection, or any other error as it is.
func cause(err error) error {
	if e, ok := err.(*CloseError); ok && e.by == byCut && e.Code == CloseAbnormal {
		return e.err
	}
	return err
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
	speakHixie(c, hixie)
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

// claims are beginnings of messages that announce far more than they bring.
var claims = []struct {
	name string
	wire []byte
	eof  error // in the end
}{
	{"2^62 bytes", []byte("\x82\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), io.ErrUnexpectedEOF},
	{"1 MiB", []byte("\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x000123456789"), io.ErrUnexpectedEOF},
}

// raceEnabled is true under the race detector, which makes pools forget.
var raceEnabled = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// looped returns a Conn that reads the same frame for ever.
func looped(client bool, size int) *Conn {
	c := newConn(nil, nil, client)
	c.t.rw = struct {
		io.Reader
		io.Writer
	}{&endless{b: toward(c, opBinary, strings.Repeat("x", size))}, io.Discard}
	return c
}

var payloadSizes = []int{16, 128, 1 << 10, 16 << 10, 1 << 20}

var errBroken = errors.New("broken")

// A writeFunc is an io.Writer.
type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

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

// expectMessages reads messages from c and compares them.
func expectMessages(t testing.TB, c *Conn, want ...string) {
	t.Helper()
	for i, want := range want {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
			t.Fatalf("message %d is %.40q (%d bytes), %v, want %.40q", i, p, len(p), err, want)
		}
	}
	c.SetReadDeadline(time.Time{})
}

// expectClose reads from c until it is closed and compares the code.
func expectClose(t testing.TB, c *Conn, code CloseCode) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, _, err := c.ReadMessage()
		if err == nil {
			continue
		}
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != code {
			t.Errorf("closed with %v, want %v", err, code)
		}
		return
	}
}

// checkCode compares the code of an error and who has closed.
func checkCode(t testing.TB, err error, code CloseCode, by closedBy) {
	t.Helper()
	if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != code || e.by != by {
		t.Errorf("error %v, want code %v", err, code)
	}
}

// awaitRest waits until so many connections of s rest, and so many others are served.
func awaitRest(t testing.TB, s *Server, resting, others int) {
	t.Helper()
	b := make([]byte, 1<<20)
	for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		r, o := 0, 0
		for stack := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
			if strings.Contains(stack, ".(*Conn).serveAll(") {
				o++
			}
		}
		for c := range s.Conns() {
			if s.resting.waits(c) {
				r++
			}
		}
		if r == resting && o == others {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections rest and %d do not, want %d and %d", r, o, resting, others)
		}
	}
}
