package websocket

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestCloseWalk walks through the closing handshake: it tries all sequences of events up to a
// length, in both roles and with each way to read. A walkModel says what is to come of a sequence.
// An event waits until the one before it has had all its effects, and a time that passes is
// that of a bubble.
func TestCloseWalk(t *testing.T) {
	depth := 4
	if raceEnabled || testing.Short() {
		depth = 3
	}
	request := parsedRequest(t, rfcHead)
	for _, way := range []walkWay{
		{"server, ReadMessage", false, false},
		{"client, ReadMessage", true, false},
		{"server, Serve", false, true},
		{"client, Serve", true, true},
		{"server, Server", false, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				events := walkEvents
				if way.name == "server, Server" {
					events = append(slices.Clip(events), walkShutdown)
				}
				paths := [][]walkEvent{nil}
				for i := 0; i < len(paths) && !t.Failed(); i++ {
					path, n := paths[i], len(paths[i])
					newWalk(t, way, request).run(path)
					// After the end, one more event is enough to show that it is the end.
					if n == depth || n > 0 && way.model(path[:n-1]).closed {
						continue
					}
					for _, e := range events {
						paths = append(paths, append(path[:n:n], e))
					}
				}
				t.Log(len(paths), "sequences")
			})
		})
	}
}

// A walkWay is a role and a way to read: by a loop that calls ReadMessage, by Conn.Serve or by a
// Server.
type walkWay struct {
	name           string
	client, serves bool
}

// A walkEvent is a part of a sequence. In its name, # stands for its place there, by which the
// close codes of this side differ.
type walkEvent struct {
	name string
	do   func(*walk)
	want func(*walkModel)
}

var (
	walkEvents = []walkEvent{
		walkClose, walkEOF, walkTimeout,
		{"message answered by CloseWith 410#", walkSends(finBit|opText, "bye"), func(m *walkModel) { m.message(true) }},
		{"message", walkSends(finBit|opText, "in"), func(m *walkModel) { m.message(false) }},
		{"fragment", walkSends(opText, "in"), func(m *walkModel) { m.within = m.within || !m.deaf }},
		{"ping", walkSends(finBit|opPing, ""), (*walkModel).ping},
		{"close frame 1000", walkSends(finBit|opClose, "\x03\xe8bye"), func(m *walkModel) { m.peerEnds(&CloseError{Code: 1000, Reason: "bye"}, nil) }},
		{"reserved opcode", walkSends(finBit|0x3, ""), func(m *walkModel) { m.peerEnds(failure(1002, ""), errWhatever) }},
		{"text that is not UTF-8", walkSends(finBit|opText, "\xff"), func(m *walkModel) { m.peerEnds(failure(1007, ""), errWhatever) }},
		{"WriteMessage", func(w *walk) { w.call("write", w.write) }, (*walkModel).writes},
		{"NextWriter or its Close", func(w *walk) { w.call("write", w.fragment) }, (*walkModel).fragment},
		{"CloseNow", func(w *walk) { w.call("CloseNow", w.c.CloseNow) }, (*walkModel).closeNow},
		{"reset", func(w *walk) { w.conn.fail(errWalkReset, errWalkReset) }, (*walkModel).reset},
		{"broken writes", func(w *walk) { w.conn.fail(nil, errBroken) }, func(m *walkModel) { m.broken = cmp.Or(m.broken, errBroken) }},
	}
	walkClose    = walkEvent{"CloseWith 400#", func(w *walk) { w.call("CloseWith", w.closeWith) }, (*walkModel).closeWith}
	walkEOF      = walkEvent{"EOF", func(w *walk) { w.conn.fail(io.EOF, nil) }, func(m *walkModel) { m.inputEnds(io.EOF) }}
	walkTimeout  = walkEvent{"CloseTimeout", func(*walk) { time.Sleep(closeTimeout) }, (*walkModel).timeout}
	walkShutdown = walkEvent{"Shutdown", func(w *walk) { w.call("Shutdown", w.shutdown) }, (*walkModel).shutdown}

	walkReason = strings.Repeat("long ", 100) // of what OnMessage closes with

	errWalkReset = error(&net.OpError{Op: "read", Err: syscall.ECONNRESET})
	errUndecided = errors.New("undecided: the peer may yet answer")
	errWhatever  = errors.New("undocumented: an error or nil")
)

// A walkModel says what is to come of a sequence, by RFC 6455, section 7, and the documentation.
// It knows nothing of goroutines, locks and timers.
type walkModel struct {
	walkWay
	n int // the place of the event

	read, write error    // what reads and writes return from now on, or nil
	frames      []string // that are sent
	messages    int      // that are delivered
	results     []error  // of the calls of CloseWith

	within  bool // the peer has begun a message
	open    bool // this side has begun one
	waiting int  // calls of WriteMessage that wait for its end

	broken  error // of the transport's writes
	failed  bool  // one of them has
	gone    bool  // the transport's input has ended
	deaf    bool  // what the peer may yet send does not matter
	begun   bool  // CloseTimeout runs
	closing bool  // somebody has called CloseWith, or Serve is about to end
	closed  bool  // the transport has been closed
	down    bool  // Shutdown was the first to close
}

func (y walkWay) model(path []walkEvent) *walkModel {
	m := &walkModel{walkWay: y}
	for n, e := range path {
		m.n = n
		e.want(m)
	}
	return m
}

// send sends a frame, unless that has failed or there has been a close frame.
func (m *walkModel) send(first byte, p string) {
	switch {
	case m.write != nil:
	case m.broken != nil:
		m.write, m.failed = m.broken, true
	default:
		m.frames = append(m.frames, walkFrame(first, p))
	}
}

// sendClose sends a close frame, if one can be sent. Nothing is sent after that.
func (m *walkModel) sendClose(e *CloseError) {
	m.begun = true
	if m.write != nil {
		return
	}
	m.send(finBit|opClose, closing(e.Code, e.Reason))
	m.write = e
}

// close is what CloseWith, Shutdown, and in the end Serve, do.
func (m *walkModel) close(code CloseCode) {
	hopeless := m.gone || m.failed && !m.serves // An answer is not to be expected.
	e := &CloseError{Code: code, by: byUs}
	if code >= 4100 {
		e.Reason = walkReason[:123]
	}
	m.sendClose(e)
	m.read = cmp.Or[error](m.read, e)
	switch m.closing = true; {
	case hopeless:
		m.shut(errWhatever)
	case m.failed: // Serve does not expect one either, but only when it is woken.
		m.decide(errWhatever)
	}
}

// stop is the end of what the peer has to say. Serve closes the connection then.
func (m *walkModel) stop(err error) {
	m.deaf = true
	if m.read = cmp.Or(m.read, err); m.serves {
		m.close(CloseNormal)
	}
}

// shut is the end of the transport.
func (m *walkModel) shut(result error) {
	m.deaf, m.closed = true, true
	m.decide(result)
}

// mayClose reports whether Serve may close the transport early, as it may have been woken.
func (m *walkModel) mayClose() bool { return m.serves && m.closing && m.failed }

// decide says what a call of CloseWith returns that waits for the peer.
func (m *walkModel) decide(result error) {
	if i := slices.Index(m.results, errUndecided); i >= 0 {
		m.results[i] = result
	}
}

func (m *walkModel) closeWith() {
	result := errUndecided
	switch {
	case m.serves:
		result = nil // It only begins.
	case m.down, m.failed && m.read == nil:
		result = errWhatever
	case m.read != nil:
		result = nil // It is not the first, or the connection has ended.
	}
	m.close(CloseCode(4000 + m.n))
	m.results = append(m.results, result)
}

func (m *walkModel) shutdown() {
	m.down = m.down || m.read == nil
	m.close(CloseGoingAway)
}

func (m *walkModel) closeNow() {
	m.write = cmp.Or(m.write, net.ErrClosed)
	m.stop(net.ErrClosed)
	m.shut(errWhatever)
}

func (m *walkModel) timeout() {
	switch {
	case m.begun:
		m.shut(os.ErrDeadlineExceeded)
	}
}

func (m *walkModel) message(closes bool) {
	if m.deaf {
		return
	}
	switch m.within = false; {
	case m.read == nil:
		if m.messages++; closes {
			m.close(CloseCode(4100 + m.n))
		}
	case m.serves:
		m.close(CloseNormal) // Serve is woken, and finds that reading is over.
	}
}

func (m *walkModel) ping() {
	if !m.deaf {
		m.send(finBit|opPong, "")
	}
}

// peerEnds is a close frame of the peer, or a fault.
func (m *walkModel) peerEnds(e *CloseError, result error) {
	if m.deaf {
		return
	}
	if m.within && e.by == byPeer {
		e.by = byPeerEarly
	}
	m.decide(result)
	m.sendClose(e)
	m.stop(e)
	if e.by != byFailure && !m.client { // A client leaves that to the server.
		m.shut(nil)
	}
}

func (m *walkModel) inputEnds(err error) {
	m.gone = true
	if !m.deaf {
		if err == io.EOF && m.within {
			err = io.ErrUnexpectedEOF
		}
		m.decide(errWhatever)
		m.stop(cutOff(err))
	}
	if m.closing {
		m.shut(nil)
	}
}

func (m *walkModel) reset() {
	m.broken = cmp.Or(m.broken, errWalkReset)
	m.inputEnds(errWalkReset)
}

func (m *walkModel) writes() {
	if m.open {
		m.waiting++
	} else {
		m.send(finBit|opText, "out")
	}
}

func (m *walkModel) fragment() {
	if m.open = !m.open; m.open {
		m.send(opText, "part")
		return
	}
	for m.send(finBit|opContinuation, ""); m.waiting > 0; m.waiting-- {
		m.writes()
	}
}

// A walk is a connection that goes through a sequence.
type walk struct {
	walkWay
	t    *testing.T
	path []walkEvent // so far
	n    int         // the place of the last one

	conn   walkConn
	c      *Conn
	server Server

	calls  []*walkCall
	within bool           // the peer has begun a message
	writer io.WriteCloser // of the message that this side has begun, or nil
	log    []string       // what has been called back
	err    error          // what reading has ended with
}

// A walkCall is a call in a goroutine of its own.
type walkCall struct {
	name     string
	returned bool
	err      error
}

func newWalk(t *testing.T, way walkWay, request *http.Request) *walk {
	w := &walk{walkWay: way, t: t}
	w.conn.cond.L = &w.conn.mu
	h := Handler{
		OnOpen:    func(c *Conn) { w.c, w.log = c, append(w.log, "open") },
		OnMessage: func(_ *Conn, _ MessageType, p []byte) { w.answer(p) },
		OnClose:   func(_ *Conn, err error) { w.err, w.log = err, append(w.log, "close") },
	}
	defer synctest.Wait()
	if w.name == "server, Server" {
		w.server = Server{Handler: h, Options: Options{Origins: []string{"*"}, PingInterval: -1}}
		w.server.ServeHTTP(walkResponse{httptest.NewRecorder(), &w.conn}, request)
		w.conn.out = nil // which was the response
		return w
	}
	w.c = newConn(&w.conn, nil, w.client)
	w.call("reader", func() error {
		if w.serves {
			return w.c.Serve(h)
		}
		for {
			_, p, err := w.c.ReadMessage()
			if err != nil {
				h.OnClose(w.c, err)
				return err
			}
			w.answer(p)
		}
	})
	return w
}

// answer is called for a message.
func (w *walk) answer(p []byte) {
	w.log = append(w.log, "message")
	if strings.HasSuffix(string(p), "bye") {
		w.c.CloseWith(CloseCode(4100+w.n), walkReason)
	}
}

func (w *walk) call(name string, f func() error) {
	k := &walkCall{name: name}
	w.calls = append(w.calls, k)
	go func() {
		k.err = f()
		k.returned = true
	}()
}

// send has the peer send a frame. A message that it has begun goes on with the next text.
func (w *walk) send(first byte, p string) {
	if first&^finBit == opText {
		if w.within {
			first &^= opText
		}
		w.within = first&finBit == 0
	}
	w.conn.send(wf(first, p).append(nil, !w.client, false))
}

func (w *walk) read() error      { _, _, err := w.c.ReadMessage(); return err }
func (w *walk) write() error     { return w.c.WriteMessage(Text, []byte("out")) }
func (w *walk) closeWith() error { return w.c.CloseWith(CloseCode(4000+w.n), "") }
func (w *walk) shutdown() error  { return w.server.Shutdown(context.Background()) }

// fragment begins a message, or ends the one that it has begun.
func (w *walk) fragment() (err error) {
	if m := w.writer; m != nil {
		w.writer = nil
		return m.Close()
	}
	if w.writer, err = w.c.NextWriter(Text); err == nil {
		_, err = io.WriteString(w.writer, "part")
	}
	return err
}

func walkSends(first byte, p string) func(*walk) { return func(w *walk) { w.send(first, p) } }

// run goes through path, and then ends what is left of the connection.
func (w *walk) run(path []walkEvent) {
	all := slices.Concat(path, []walkEvent{walkEOF, walkTimeout, walkClose})
	for n, e := range all {
		if n == len(path) {
			w.check(w.model(path))
		}
		w.n, w.path = n, all[:n+1]
		e.do(w)
		time.Sleep(2 * walkCloses)
		synctest.Wait()
	}
	m := w.model(all)
	w.check(m)
	w.checkEnd(m)
}

func (w *walk) errorf(format string, args ...any) {
	w.t.Helper()
	var names []string
	for n, e := range w.path {
		names = append(names, strings.ReplaceAll(e.name, "#", strconv.Itoa(n)))
	}
	w.t.Errorf("%s: %s: %s", w.name, strings.Join(names, ", "), fmt.Sprintf(format, args...))
}

// check compares what has happened so far with m.
func (w *walk) check(m *walkModel) {
	sent, err := parseWire(w.conn.out, w.client)
	if err != nil {
		w.errorf("sent no frame: %v", err)
	}
	var frames []string
	for _, f := range sent {
		if code := f.p[:min(2, len(f.p))]; f.first == finBit|opClose && (code == closing(1002, "") || code == closing(1007, "")) {
			f.p = code // It is not said what reason a fault has.
		}
		frames = append(frames, walkFrame(f.first, f.p))
	}
	if !slices.Equal(frames, m.frames) {
		w.errorf("sent %v, want %v", frames, m.frames)
	}
	if n := w.conn.closes; n > 1 || n == 0 && m.closed || n == 1 && !m.closed && !m.mayClose() {
		w.errorf("the transport was closed %d times, wanted: %t", n, m.closed)
	}
	if m.read != nil {
		w.call("read", w.read)
	}
	if m.write != nil {
		w.call("write", w.write)
	}
	synctest.Wait()
	for _, k := range w.calls {
		if !k.returned && (m.closed || k.name == "read" || k.name == "write" && m.write != nil) {
			w.errorf("%s has not returned", k.name)
		}
	}
}

// sameEnd compares errors, but not the reason of a CloseError.
func sameEnd(got, want error) bool {
	g, _ := got.(*CloseError)
	w, _ := want.(*CloseError)
	return got == want || g != nil && w != nil && g.Code == w.Code && g.by == w.by && g.err == w.err
}

// walkFrame describes a frame.
func walkFrame(first byte, p string) string { return fmt.Sprintf("%#x %q", first, p) }

// checkEnd compares what is known at the end with m.
func (w *walk) checkEnd(m *walkModel) {
	read, write, results := w.read(), w.write(), m.results
	if !sameEnd(read, m.read) || !sameEnd(write, m.write) || m.read == m.write && read != write {
		w.errorf("reads return %v, want %v; writes return %v, want %v", read, m.read, write, m.write)
	}
	for _, k := range w.calls {
		ok := true
		switch k.name {
		case "read", "reader":
			ok = k.err == read
		case "write":
			ok = k.err == nil || k.err == write
		case "CloseWith":
			ok = results[0] == errWhatever || errors.Is(k.err, results[0])
			results = results[1:]
		}
		if !ok {
			w.errorf("%s returned %v; later reads return %v, writes %v; CloseWith is to return %v", k.name, k.err, read, write, m.results)
		}
	}
	log := append(slices.Repeat([]string{"message"}, m.messages), "close")
	if w.serves {
		log = slices.Insert(log, 0, "open")
	}
	if !slices.Equal(w.log, log) || w.err != read {
		w.errorf("callbacks %v, want %v; the last got %v, and reads return %v", w.log, log, w.err, read)
	}
	if checkStopped(w.t, w.c); w.t.Failed() {
		w.errorf("failed")
	}
}

// A walkConn is a transport in memory.
type walkConn struct {
	net.Conn // nil, for the methods that are not called

	mu                sync.Mutex
	cond              sync.Cond
	in, out           []byte
	readErr, writeErr error
	closes            int
}

func (c *walkConn) Read(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) == 0 && c.readErr == nil {
		c.cond.Wait()
	}
	if len(c.in) == 0 {
		return 0, c.readErr
	}
	n = copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *walkConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeErr != nil {
		return 0, c.writeErr
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// walkCloses is how long Close takes, so that others may come to wait for it.
const walkCloses = time.Millisecond

func (c *walkConn) Close() error {
	time.Sleep(walkCloses)
	c.fail(net.ErrClosed, net.ErrClosed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	return nil
}

func (c *walkConn) CloseWrite() error                { c.fail(nil, syscall.EPIPE); return nil }
func (c *walkConn) SetReadDeadline(time.Time) error  { return nil }
func (c *walkConn) SetWriteDeadline(time.Time) error { return nil }

// send has the peer send p.
func (c *walkConn) send(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in = append(c.in, p...)
	c.cond.Broadcast()
}

// fail lets Read, behind what has been sent, and Write fail from now on, unless the error is nil.
func (c *walkConn) fail(read, write error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readErr, c.writeErr = cmp.Or(c.readErr, read), cmp.Or(c.writeErr, write)
	c.cond.Broadcast()
}

// A walkResponse is a response whose connection can be taken over.
type walkResponse struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (r walkResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return r.conn, bufio.NewReadWriter(bufio.NewReaderSize(r.conn, 16), bufio.NewWriter(io.Discard)), nil
}
