package websocket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// A Handler has the functions that [Conn.Serve] calls, one at a time for each
// connection. Any of them may be nil. They may write to the connection and close it, but
// not read from it, nor wait for a pong with [Conn.Ping], which the next read would find.
type Handler struct {
	// OnOpen is called first. What it writes is sent ahead of all broadcasts that
	// the connection gets, as these wait until OnOpen returns.
	OnOpen func(*Conn)

	// OnMessage is called for every message. The payload is valid until
	// OnMessage returns. The next message is read after that, so an OnMessage
	// that takes long slows its own peer down and nobody else.
	OnMessage func(*Conn, MessageType, []byte)

	// OnClose is called last, once, when nothing more can come from the
	// connection, with the error that [Conn.ReadMessage] would return: a
	// [*CloseError] if either side has closed, io.EOF or another error of the
	// transport if it ended without a closing handshake, and one that wraps
	// [os.ErrDeadlineExceeded] if the peer did not answer a ping, or a read deadline
	// has passed.
	OnClose func(*Conn, error)
}

// A stage says what Serve is doing.
type stage byte

const (
	unserved stage = iota
	opening        // OnOpen runs
	awaiting       // Serve reads
	calling        // OnMessage runs
	ending         // OnClose runs
	served
)

// calls reports whether a function of a Handler runs.
func (s stage) calls() bool { return s == opening || s == calling || s == ending }

// Serve reads messages and passes them to h, in the goroutine that calls it, until the
// connection ends, and then closes it, with a closing handshake if there has been none. It
// returns the error that OnClose has got, which is never nil. While it runs, methods that
// read from c return an error. A read deadline that passes ends it, too.
//
// If Options.PingInterval is positive, Serve finds out whether a silent peer is still
// there. If a function of h panics, Serve begins to close the connection with
// CloseInternalError, and OnClose is called before the panic goes on. Whoever recovers
// from it calls Close.
func (c *Conn) Serve(h Handler) error {
	if err := c.beginServe(c.opts.PingInterval); err != nil {
		return err
	}
	err := c.serve(h)
	c.Close()
	return err
}

// beginServe makes the caller the one that calls serve.
func (c *Conn) beginServe(interval time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.reading && c.rerr == nil && c.stage == unserved {
		c.turn.Wait()
	}
	switch {
	case c.stage != unserved:
		return errServed
	case c.shaking:
		return cmp.Or(c.rerr, errUnfinished)
	}
	c.stage = opening
	if interval > 0 && !c.shutdown {
		c.alive = &keepalive{interval: interval, rests: c.calm}
		c.alive.timer = time.AfterFunc(interval, c.keepAlive)
	}
	return nil
}

// serve calls the functions of h. What is left to do then is to close c, or if the error is
// errRest, to call serve again when there is input.
func (c *Conn) serve(h Handler) (err error) {
	defer func() {
		if err != errRest {
			c.endServe(h, err)
		}
	}()
	if c.stage == opening {
		if h.OnOpen != nil {
			h.OnOpen(c)
		}
		c.opened()
	}
	for {
		t, p, buf, err := c.nextMessage()
		if err != nil {
			return err
		}
		if h.OnMessage != nil {
			h.OnMessage(c, t, p)
		}
		if buf != nil {
			buf.free()
		}
	}
}

// opened lets the broadcasts out that came while OnOpen ran.
func (c *Conn) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stage = calling
	if c.unqueue() {
		c.writeWithin(0)
	}
}

// endServe calls OnClose with what ended the connection. err is nil if a function of h has
// panicked or ended its goroutine.
func (c *Conn) endServe(h Handler, err error) {
	failed := true
	defer func() {
		if failed {
			c.startClose(&CloseError{Code: CloseInternalError, by: byUs})
		}
		c.mu.Lock()
		c.stage = served
		c.mu.Unlock()
	}()
	c.mu.Lock()
	c.stage = ending
	c.startWatchdog() // OnClose may write to a peer that does not read
	c.mu.Unlock()
	if err == nil {
		err = c.startClose(&CloseError{Code: CloseInternalError, by: byUs})
	}
	if h.OnClose != nil {
		h.OnClose(c, err)
	}
	failed = false
}

// A messageBuffer holds a message that does not lie in an input buffer as a whole.
type messageBuffer struct {
	b     []byte
	large bool // it belongs into largeMessages
}

// messages holds buffers of up to 64 KiB, largeMessages those for messages that may be larger.
var (
	messages      = sync.Pool{New: func() any { return new(messageBuffer) }}
	largeMessages = sync.Pool{New: func() any { return &messageBuffer{large: true} }}
)

// newMessage returns a buffer for a message that begins with so many bytes. One byte may
// hold it for long, so that a large one is only for those who have sent much: of this message,
// or the one before.
func (c *Conn) newMessage(begun int) *messageBuffer {
	if begun >= inputSize-maxHeader || c.large {
		return largeMessages.Get().(*messageBuffer)
	}
	return messages.Get().(*messageBuffer)
}

func (m *messageBuffer) free() {
	m.large = m.large || cap(m.b) > batchSize
	switch {
	case !m.large:
		messages.Put(m)
	case cap(m.b) <= 2*maxMessage:
		largeMessages.Put(m)
	}
}

// nextMessage waits for the next message. It is valid until the next call. If it lies in
// a buffer of the pool, that is returned, too.
func (c *Conn) nextMessage() (t MessageType, p []byte, buf *messageBuffer, err error) {
	c.mu.Lock()
	if c.stage != awaiting {
		if c.rerr != nil {
			defer c.mu.Unlock()
			return 0, nil, nil, c.rerr
		}
		if t, p, ok := c.takeMessage(); ok {
			c.mu.Unlock()
			return t, slices.Clip(p), nil, nil
		}
		c.stage, c.reading = awaiting, true
	}
	c.mu.Unlock()

	err = c.skipMessage()
	if err == nil && c.r == c.w && c.between() {
		err = c.cut(c.fill(2)) // here, where a wait needs little stack
	}
	if err == nil {
		err = c.findMessage()
	}
	switch {
	case err == errRest: // still awaiting, and reading
		return 0, nil, nil, err
	case err != nil:
	case c.end && !c.packed:
		t, p = c.typ, slices.Clip(c.chunk)
		c.chunk, c.end = nil, false
	default:
		buf = c.newMessage(len(c.chunk))
		t, p, err = c.appendMessage(buf.b[:0])
		buf.b, p = p, slices.Clip(p)
		c.large = len(p) > batchSize/2
	}
	err = c.endRead(err)
	return t, p, buf, err
}

// startClose begins a closing handshake that is left to Serve, unless the connection has
// ended already. It returns the error of all later reads.
func (c *Conn) startClose(e *CloseError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveClose(e)
	return c.rerr
}

// leaveClose is startClose where mu is held.
func (c *Conn) leaveClose(e *CloseError) {
	c.left = c.left || !c.closing
	if c.beginClose(e) {
		go c.shut()
	}
}

// A keepalive is what Serve needs to find out that a peer is gone.
type keepalive struct {
	timer    *time.Timer
	interval time.Duration
	rests    uint8 // of a peer that has been silent for an interval
	pinged   bool
	moved    uint32 // value of Conn.moved
	stalls   int    // times that one write has been seen
}

var (
	errSilent  = fmt.Errorf("websocket: the peer does not answer: %w", os.ErrDeadlineExceeded)
	errStalled = fmt.Errorf("websocket: the peer does not read: %w", os.ErrDeadlineExceeded)
)

// keepAlive looks after the peer once in an interval. It does not expect anything from a
// peer that nobody listens to, because a callback runs.
func (c *Conn) keepAlive() {
	c.mu.Lock()
	k := c.alive
	calm := !c.heard.Swap(false) && c.reading && !c.writing
	silent := calm && !c.dec.hixie
	moved := c.moved.Load()
	if c.writing && moved == k.moved {
		k.stalls++
	} else {
		k.stalls = 0
	}
	k.moved = moved
	var err error
	switch {
	case c.rerr != nil || c.shutdown: // the watchdog does the rest
	case k.stalls > 3:
		err = errStalled
	case silent && k.pinged:
		err = errSilent
	default:
		k.pinged = silent
		if calm {
			c.calm = k.rests
		}
		if silent && c.writable() == nil {
			c.putControl(opPing, nil)
		}
		k.timer.Reset(k.interval)
	}
	c.mu.Unlock()
	if err != nil {
		c.abort(err)
	}
}

// A Server is an [http.Handler] that makes every request a WebSocket connection, with
// [Upgrade], and serves it with the functions of Handler as [Conn.Serve] does, in a
// goroutine of its own. It can stand beside other handlers on the same port. The zero value
// accepts clients of its own origin and discards what they send. Otherwise it is
//
//	&websocket.Server{
//		Handler: websocket.Handler{OnMessage: f},
//		Options: websocket.Options{Origins: origins},
//	}
//
// In the pattern of an [http.ServeMux] it has no method, as a request is a GET over HTTP/1.1
// and a CONNECT over HTTP/2.
//
// A panic in a function of Handler ends that connection and no other. It is logged to the
// ErrorLog of the [http.Server], and so is a handshake that fails because of the server.
//
// A Server must not be copied, nor its fields changed, once it is in use.
type Server struct {
	Handler
	Options

	mu      sync.Mutex
	conns   []*Conn // each has its place in its slot
	active  int     // handshakes and connections
	down    bool
	idle    chan struct{} // closed when down and nothing is active
	due     []*Conn       // that have something to be written, from next on
	next    int
	pushing bool // a goroutine looks after these

	order   sync.Mutex // held by Broadcast, as all clients get broadcasts in the same order
	targets []*Conn    // of the broadcast; kept for its memory
	sent    time.Time  // when the last one was
}

// ServeHTTP answers the request, as [Upgrade] does. Over HTTP/1.1 it then returns, so that
// the memory that net/http needs for a request is free while the connection lives; over
// HTTP/2 it returns when the connection has ended. On a TCP or Unix socket, except on Windows,
// Plan 9 and js, a connection that is new, or whose client has been silent for
// Options.PingInterval, goes on in a new goroutine, whose stack is small.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, s.Handler) }

// Serve is ServeHTTP with functions for this connection alone, in place of s.Handler. They can
// hold what belongs to it: its state, or what a handler has found out about the request, such
// as the user. If the client is refused, none of them is called. The context of r ends with
// the handler, so functions that need its values take [context.WithoutCancel] of it.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, h Handler) {
	if !s.begin() {
		refuse(w, r, &HandshakeError{Status: http.StatusServiceUnavailable, Reason: "the server is shutting down"})
		return
	}
	var c *Conn
	served := false
	defer func() {
		if !served {
			s.end(c)
		}
	}()
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	_, err := upgrade(w, r, &s.Options, func(conn *Conn) {
		c = conn
		if c.raw != nil {
			c.calm = rests
		}
		c.beginServe(cmp.Or(s.PingInterval, pingInterval))
		s.add(c)
	})
	if err != nil {
		if e, ok := errors.AsType[*HandshakeError](err); ok && e.Status >= 500 && e.err != nil {
			logf(server, "%v", e)
		}
		return
	}
	served = true
	if r.ProtoMajor > 1 {
		s.serve(c, h, server)
	} else {
		go s.serve(c, h, server)
	}
}

// serve is the life of a connection, or what is left of it after a rest.
func (s *Server) serve(c *Conn, h Handler, server *http.Server) {
	var err error
	defer func() {
		if err == errRest {
			return
		}
		defer s.end(c)
		defer c.Close()
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			logf(server, "websocket: panic serving %v: %v\n%s", c.RemoteAddr(), v, debug.Stack())
		}
	}()
	if err = c.serve(h); err == errRest {
		go s.rest(c, h, server)
	}
}

// rests is how often a connection rests when it is new or its peer has been silent for
// Options.PingInterval: for the pong, or the first message, and for one more.
const rests = 2

// errRest is what Conn.serve returns before a wait that may be long. It is a timeout, so
// that nothing is lost.
var errRest = fmt.Errorf("websocket: at rest: %w", os.ErrDeadlineExceeded)

// rest goes on with serve when there is input. It is called in a new goroutine, as the stack
// of one that has handled a message has grown, and would not shrink while it waits: an idle
// connection needs 2 KiB less. A connection that is busy does not rest.
func (s *Server) rest(c *Conn, h Handler, server *http.Server) {
	c.held = c.readSocket()
	s.serve(c, h, server)
}

// logf logs where an http.Server, if there is one, does.
func logf(server *http.Server, format string, args ...any) {
	if server != nil && server.ErrorLog != nil {
		server.ErrorLog.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}

// begin reports whether a client may come in.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.down {
		s.active++
	}
	return !s.down
}

func (s *Server) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.server, c.slot = s, int32(len(s.conns))
	s.conns = append(s.conns, c)
	if s.down {
		c.startClose(goingAway())
	}
}

func (s *Server) end(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has(c) {
		last := len(s.conns) - 1
		s.conns[c.slot] = s.conns[last]
		s.conns[c.slot].slot = c.slot
		s.conns[last] = nil
		s.conns = s.conns[:last]
	}
	if s.active--; s.active == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// has reports whether c is a connection of s. mu is held.
func (s *Server) has(c *Conn) bool {
	return c != nil && c.server == s && int(c.slot) < len(s.conns) && s.conns[c.slot] == c
}

// Conns returns the connections that are open now, in no order. A connection is among them
// from before the client knows that it is accepted until before its OnClose is called.
func (s *Server) Conns() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		s.mu.Lock()
		open := make([]*Conn, 0, len(s.conns))
		for _, c := range s.conns {
			c.mu.Lock()
			if c.rerr == nil && c.stage < ending {
				open = append(open, c)
			}
			c.mu.Unlock()
		}
		s.mu.Unlock()
		for _, c := range open {
			if !yield(c) {
				return
			}
		}
	}
}

// Broadcast sends p as one message to all connections of s but those excepted. It does not
// wait for any of them: a client that reads more slowly gets its messages later, and one for
// which more than Options.MaxQueue bytes would have to wait is closed with
// ClosePolicyViolation. Clients of hixie-76 get no binary messages.
//
// Every client gets broadcasts in the same order, each of them behind what WriteMessage
// sent to that client before. Broadcast does not keep p, and does not allocate for every
// client. It compresses p once, for clients with the window of Options.Deflate; those that have
// asked for a smaller one get p as it is.
//
// The error is about p: text that is not UTF-8, or more than Options.MaxQueue bytes.
// Then it has been sent to nobody.
func (s *Server) Broadcast(t MessageType, p []byte, except ...*Conn) error {
	return s.send(t, p, func(yield func(*Conn) bool) {
		for _, c := range s.conns {
			if !slices.Contains(except, c) && !yield(c) {
				return
			}
		}
	})
}

// Send is Broadcast to some connections of s, such as those of a room or of a user. It skips
// those that have ended, and connections that are not of s. One that is given twice gets p twice.
func (s *Server) Send(t MessageType, p []byte, to ...*Conn) error {
	return s.send(t, p, slices.Values(to))
}

// send sends p to connections that it takes from a sequence while it holds mu.
func (s *Server) send(t MessageType, p []byte, to iter.Seq[*Conn]) error {
	limit := maxQueue
	if s.MaxQueue > 0 {
		limit = s.MaxQueue
	}
	switch {
	case t != Text && t != Binary:
		return fmt.Errorf("websocket: there is no %v", t)
	case t == Text && !utf8.Valid(p):
		return errNotUTF8
	case len(p) > limit:
		return errors.New("websocket: a broadcast is larger than Options.MaxQueue")
	}
	limit = min(limit, math.MaxInt-maxHeader) + maxHeader // the largest fits, with its header
	all := outputs.Get().(*output)
	defer all.free()
	const (
		plain = iota
		hixie
		compressed // for the window that the server prefers: clients cannot have it done many times
		kinds
	)
	var frames [kinds][2]int // where in all

	s.order.Lock()
	defer s.order.Unlock()
	burst := time.Since(s.sent) < burstGap
	s.mu.Lock()
	for c := range to {
		if s.has(c) && !(c.dec.hixie && t == Binary) {
			s.targets = append(s.targets, c)
		}
	}
	s.mu.Unlock()
	due := s.targets[:0]
	for _, c := range s.targets {
		kind := plain
		switch {
		case c.dec.hixie:
			kind = hixie
		case c.deflate.compresses(p) && c.deflate.send.bits == c.deflate.windowBits():
			kind = compressed
		}
		f := &frames[kind]
		if f[1] == 0 { // made for the first that needs it
			f[0] = len(all.b)
			switch kind {
			case hixie:
				all.b = appendHixie(all.b, finBit|opText, p)
			case plain:
				all.b = appendFrame(all.b, finBit|byte(t), p, false)
			default:
				all.b = c.deflate.appendCompressed(all.b, finBit|byte(t), p)
			}
			f[1] = len(all.b)
		}
		if c.enqueue(all.b[f[0]:f[1]], p, limit, !burst) {
			due = append(due, c)
		}
	}
	if len(due) > 0 {
		s.mu.Lock()
		if s.next > len(s.due)/2 {
			n := copy(s.due, s.due[s.next:])
			clear(s.due[n:])
			s.due, s.next = s.due[:n], 0
		}
		s.due = append(s.due, due...)
		if !s.pushing {
			s.pushing = true
			go s.push()
		}
		s.mu.Unlock()
	}
	clear(s.targets)
	s.targets = s.targets[:0]
	s.sent = time.Now()
	return nil
}

// burstGap is the time within which a broadcast follows another one in a burst. What is
// enqueued then is written by a goroutine, together with what comes meanwhile.
const burstGap = 10 * time.Microsecond

// push writes what is due.
func (s *Server) push() {
	for {
		s.mu.Lock()
		if s.next == len(s.due) {
			s.due, s.next, s.pushing = s.due[:0], 0, false
			s.mu.Unlock()
			return
		}
		c := s.due[s.next]
		s.due[s.next] = nil
		s.next++
		s.mu.Unlock()
		c.push()
	}
}

// enqueue puts a frame, which holds p, behind the output, or writes it at once if that is
// wanted and possible. If then more than limit bytes waited, it begins to close the connection
// instead. It reports whether somebody has to push.
func (c *Conn) enqueue(frame, p []byte, limit int, now bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writable() != nil || c.stage >= ending {
		return false
	}
	waiting := c.sending
	for _, o := range []*output{c.out, c.queue} {
		if o != nil {
			waiting += len(o.b)
		}
	}
	switch {
	case waiting+len(frame) > limit:
		c.leaveClose(&CloseError{Code: ClosePolicyViolation, Reason: "too many messages wait to be read", by: byUs})
		// Serve waits for input; this ends the wait.
		c.limit = time.Unix(1, 0)
		c.applyDeadline()
	case c.stage == opening || c.writer != nil:
		if c.queue == nil {
			c.queue = outputs.Get().(*output)
		}
		c.queue.b = append(c.queue.b, frame...)
	default:
		if frame[0]&rsv1Bit != 0 { // never for hixie-76
			c.deflate.send.add(p)
		}
		c.crowded = true
		if now && c.raw != nil && c.out == nil && !c.writing {
			c.writeNow(frame)
			return false
		}
		out := c.output()
		out.b = append(out.b, frame...)
		if c.raw == nil {
			c.writeWithin(0)
		} else if !c.due {
			c.due = true
			return true
		}
	}
	return false
}

// push writes the output to a socket. If that has to wait for the peer, it is left to another
// goroutine.
func (c *Conn) push() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = false
	switch {
	case c.out == nil || c.broken != nil || c.shutdown:
	case c.writing:
		c.writeWithin(0)
	default:
		out, batch := c.take()
		c.writeSome(out.b, batch)
		out.free()
	}
}

// writeNow writes a frame to a socket without putting it into the output, which is empty. mu
// is held.
func (c *Conn) writeNow(frame []byte) {
	c.batch++
	c.writing, c.sending = true, len(frame)
	c.writeSome(frame, c.batch)
}

// writeSome writes p for whoever has set writing, and leaves what would have to wait for the
// peer to another goroutine. mu is held on entry and on return, but not during the write.
func (c *Conn) writeSome(p []byte, batch uint64) {
	c.mu.Unlock()
	rest, err := c.writeRaw(p, false)
	if err != nil || len(rest) == 0 {
		c.mu.Lock()
		c.taken(batch, err)
		return
	}
	out := outputs.Get().(*output)
	out.b = append(out.b, rest...)
	go func() {
		_, err := c.writeRaw(out.b, true)
		out.free()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.taken(batch, err)
	}()
	c.mu.Lock()
}

// unqueue moves broadcasts that need not wait any more to the output, and reports whether
// there were any. mu is held.
func (c *Conn) unqueue() bool {
	if c.queue == nil || c.stage == opening || c.writer != nil {
		return false
	}
	if c.writable() == nil {
		out := c.output()
		out.b = append(out.b, c.queue.b...)
	}
	c.deflate.forget()
	c.queue.free()
	c.queue = nil
	return true
}

// goingAway is the reason of Shutdown.
func goingAway() *CloseError { return &CloseError{Code: CloseGoingAway, by: byUs} }

// Shutdown closes all connections with CloseGoingAway, behind all that was sent before apart
// from broadcasts that still wait, for OnOpen or for the end of a message in fragments. It
// waits until the last has ended and its OnClose has returned. When ctx is done it has the
// transports of those that are left closed and returns the context's error. New clients are
// refused with 503 from the beginning.
//
// [http.Server.Shutdown] does not close WebSocket connections, and waits only for those over
// HTTP/2. So a program calls both, this one first. It must not call Shutdown from a function
// of Handler, which it would wait for.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.down {
		s.down = true
		for _, c := range s.conns {
			c.startClose(goingAway())
		}
	}
	if s.active == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()

	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		go c.CloseNow() // over HTTP/2 and TLS it may have to wait for the peer
	}
	return ctx.Err()
}
