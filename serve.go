// The life of a served connection, which is a straight loop of callbacks, and the watch over
// its peer.

package websocket

import (
	"cmp"
	"io"
	"slices"
	"time"
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
	//
	// Nothing else is read meanwhile: no ping is answered and no close frame seen. A peer
	// that waits for a pong takes this side for dead, after 20 to 40 seconds as a rule. So
	// work that may take more than a few seconds belongs in a goroutine, which may write to
	// the connection, with a bound on how much of it there is at once. The example does that.
	//
	// Close of the net.Conn below, should a ConnContext have kept it, may wait for OnMessage to
	// return, or if the connection has rested in a [Server], does not end it. CloseNow ends it
	// and does not wait.
	OnMessage func(*Conn, MessageType, []byte)

	// OnClose is called last, once, when nothing more can come from the
	// connection, with the error that [Conn.ReadMessage] would return: a
	// [*CloseError], also if the transport has ended without a closing handshake, or an
	// error that wraps [os.ErrDeadlineExceeded] if the peer did not answer a ping or did
	// not read, or if a read deadline has passed.
	OnClose func(*Conn, error)
}

// Serve reads messages and passes them to h, in the goroutine that calls it, until the
// connection ends, and then closes it, with a closing handshake if there has been none. It
// returns the error that OnClose has got, which is never nil. While it runs, methods that
// read from c return an error. A read deadline that passes ends it, too. With Handler{}, which
// has no functions, it discards all messages, and yet answers pings and a close frame: for a
// connection that is only written to.
//
// If Options.PingInterval is positive, Serve pings, and finds out whether a silent peer is
// still there. If a function of h panics, Serve begins to close the connection with
// CloseInternalError, and OnClose is called before the panic goes on. Whoever recovers
// from it calls Close.
func (c *Conn) Serve(h Handler) error {
	if err := c.beginServe(nil, c.opts.PingInterval); err != nil {
		return err
	}
	err := c.serveAll(h)
	c.Close()
	return err
}

// beginServe makes the caller the one that calls serveAll, for a Server unless by is nil. The clock
// of the Server, or else a new one, looks after the peer, unless the interval is 0 or less.
func (c *Conn) beginServe(by *service, interval time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.serve.isBegun() {
		c.waitMethodLocked()
	}
	switch {
	case c.serve.isBegun():
		return errServed
	case c.end.isUnopened():
		return cmp.Or(c.end.readable(), errUnfinished)
	}
	c.write.retain(true)
	c.serve.begin(by)
	rests := c.canRest()
	if rests {
		c.serve.mayRest(firstRests)
	}
	if c.end.readable() == nil && (interval > 0 || rests) { // or else a method may still read, without mu
		var k *clock
		if by != nil {
			k = by.clock
		} else {
			k = new(clock)
		}
		c.serve.beginWatch(k, interval <= 0)
		c.t.watch(&k.now)
		if interval <= 0 {
			interval = pingInterval
		}
		k.watch(c, interval)
	}
	return nil
}

// serveAll calls the functions of h. What is left to do then is to close c, or if the error is
// errRest, to call serveAll again when there is input.
func (c *Conn) serveAll(h Handler) (err error) {
	inside := false
	defer func() {
		if inside { // or else a method may still have the transport's input, if reads have ended
			c.t.setThen(nil)
		}
		if err != errRest {
			c.endServe(h, err)
		}
	}()
	if c.serve.isOpening() {
		if h.OnOpen != nil {
			h.OnOpen(c)
		}
		c.opened()
	}
	for n := 1; ; n++ {
		var buf messageBuffer
		t, p, err := c.nextMessage(&buf)
		if err != nil {
			return err
		}
		if h.OnMessage != nil {
			h.OnMessage(c, t, p)
		}
		buf.free()
		if n == busyAfter && h.OnMessage != nil && c.canServeInside() {
			inside = true
			c.t.setThen(func() (bool, error) { return c.serveInside(h.OnMessage) })
		}
	}
}

// busyAfter is how many messages a connection gets, without a rest, before it is served within its
// reads: a peer that may have ended its output is found at once by another read, but else only when
// the connection comes to rest.
const busyAfter = 16

// canServeInside reports whether c can be served within its reads. Close of a socket waits for these.
// So nobody else may have the socket, as the function that handles a message might close it: it has
// to come from net/http. And the connection has to rest sometimes.
func (c *Conn) canServeInside() bool { return c.canRest() && c.serve.service().http != nil }

// serveInside calls a function for each message in the input, within the call of the transport that
// has read it. It reports whether nothing is left, and the peer has got what it may be waiting for:
// then that call goes on, and saves a read that would find nothing. Otherwise it returns, and what
// is left is dealt with as ever. The error is errEnded if nothing is to be read any more.
func (c *Conn) serveInside(onMessage func(*Conn, MessageType, []byte)) (used bool, err error) {
	for c.t.buffered() > 0 {
		t, p, ok, err := c.enterInside()
		if !ok {
			return false, err
		}
		onMessage(c, t, slices.Clip(p))
		if err := c.leaveInside(); err != nil {
			return false, err
		}
	}
	if !c.read.between() {
		return false, nil
	}
	c.settle()
	return true, nil
}

// enterInside takes the next message, unless there is none, or nothing is to be read any more, and
// gives the turn up.
func (c *Conn) enterInside() (t MessageType, p []byte, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end.readable() != nil {
		return 0, nil, false, errEnded
	}
	if t, p, ok = c.takeMessage(); ok {
		c.serve.count(inward, 1, len(p))
		c.turn = turnFree
		c.serve.setInside(true)
	}
	return t, p, ok, nil
}

// leaveInside takes the turn again.
func (c *Conn) leaveInside() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn = turnServe
	c.serve.setInside(false)
	if c.end.readable() != nil {
		return errEnded
	}
	return nil
}

// opened lets the broadcasts out that came while OnOpen ran.
func (c *Conn) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serve.enter(stageRunning)
	c.write.retain(false)
	if c.write.unqueue(c.end.writable() == nil) {
		c.writeLaterLocked(0)
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
		c.serve.enter(stageServed)
		if c.turn == turnFree { // else whoever has it does that
			c.read.stop()
		}
		c.mu.Unlock()
	}()
	c.mu.Lock()
	c.serve.setInside(false)
	c.serve.enter(stageParting)
	c.startWatchdogLocked() // OnClose may write to a peer that does not read
	c.mu.Unlock()
	if err == nil {
		err = c.startClose(&CloseError{Code: CloseInternalError, by: byUs})
	}
	if h.OnClose != nil {
		h.OnClose(c, err)
	}
	failed = false
}

// nextMessage waits for the next message. It is valid until the next call, or lies in buf. The
// error errRest means that nobody is to wait for it in this goroutine.
func (c *Conn) nextMessage(buf *messageBuffer) (t MessageType, p []byte, err error) {
	c.mu.Lock()
	if c.turn != turnServe { // or else it is Serve's still, after a rest
		if err = c.end.readable(); err != nil {
			c.mu.Unlock()
			return 0, nil, err
		}
		if t, p, ok := c.takeMessage(); ok {
			c.serve.count(inward, 1, len(p))
			c.mu.Unlock()
			return t, slices.Clip(p), nil
		}
		c.turn = turnServe
	}
	c.mu.Unlock()
	t, p, ok, err := c.awaitMessage(true)
	switch {
	case err == errRest:
		return 0, nil, err
	case err == nil && !ok:
		t, p, err = c.appendMessage(nil, buf)
	}
	c.endRead(err)
	c.mu.Lock()
	if err = c.releaseLocked(err); err == nil {
		c.serve.count(inward, 1, len(p))
	}
	c.mu.Unlock()
	return t, slices.Clip(p), err
}

// counted returns what has gone over c and is not in the ledger, and how reads have ended.
func (c *Conn) counted() (traffic, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serve.counted(), c.end.readable()
}

// place returns where its clock has c.
func (c *Conn) place() *place { return c.serve.place() }

// look is called by a clock, and does not wait for the peer. It does not expect anything from
// one that nobody listens to, because a callback runs.
func (c *Conn) look(now uint32) (due uint32, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end.readable() != nil || c.end.isShut() {
		return 0, false // the watchdog does the rest
	}
	if err := c.end.failed(); err != nil && c.serve.expects() { // pings could not be answered, nor sent
		go c.abort(cutOff(err))
		return 0, false
	}
	v := view{now: now, busy: c.write.isBusy(), listens: c.turn != turnFree, hixie: c.write.isHixie()}
	v.heard, v.sent = c.t.lastInput(), c.t.lastOutput()
	if v.moved, v.blocked = c.write.blocks(); v.busy {
		v.moved = c.t.progress()
	}
	ping, due, err := c.serve.judge(v)
	switch {
	case err != nil:
		go c.abort(err)
		return 0, false
	case ping && c.end.writable() == nil:
		c.write.putControl(opPing, nil)
		if c.t.isSocket() { // no timer is needed
			c.drainAllLocked()
		} else {
			c.writeLaterLocked(0)
		}
	}
	if c.canRest() {
		due = c.calmLocked(v, due)
	}
	return due, true
}

// firstRests is how often a new connection rests at once, as it is likely to have to wait: for the
// first message, and for the second.
const firstRests = 2

// restSoon is how many ticks after it has gone on a connection is looked at, and so often again
// until it rests.
const restSoon = 2

// calmLocked has a connection rest that has waited for input for more than a tick, and a read
// deadline kept in time. due is when to look again for other reasons; it returns when.
func (c *Conn) calmLocked(v view, due uint32) uint32 {
	c.mu.assertLocked()
	resting := c.serve.service().resting
	switch {
	case resting.waits(c):
		if !c.deadlineIsFarLocked() {
			resting.wake(c)
		}
	case c.turn == turnServe && v.now-v.heard >= restSoon && c.deadlineIsFarLocked():
		c.serve.nudge()
		c.t.interrupt()
	default:
		due = min(due, v.now+restSoon)
	}
	return due
}

// deadlineIsFarLocked reports whether c is looked at before reads have to end.
func (c *Conn) deadlineIsFarLocked() bool {
	c.mu.assertLocked()
	at := c.t.readLimit()
	return at.IsZero() || time.Until(at) > c.serve.watcher().span(ticks+1)
}

// startServe has a Server begin to serve c, in a goroutine of its own. That is not needed before the
// client sends something, if no function is to be called first.
func (c *Conn) startServe(h *Handler) {
	if h.OnOpen != nil || !c.restFirst() {
		go c.serve.service().serve(c)
	}
}

// restFirst has c rest before anything else, and reports whether it does. If reads have ended, a
// method may still have the turn.
func (c *Conn) restFirst() bool {
	if c.ended() != nil || !c.restsNow() {
		return false
	}
	c.opened()
	c.mu.Lock()
	ended := c.end.readable() != nil
	if !ended {
		c.turn = turnServe
	}
	c.mu.Unlock()
	return !ended && c.rest()
}

// rest has c wait for input without a goroutine, and reports whether it does. Then goOn is called.
func (c *Conn) rest() bool {
	c.t.release()
	c.read.rest()
	c.mu.Lock()
	rests, old := c.restLocked()
	c.mu.Unlock()
	if old != nil {
		old.Close()
	}
	if !rests {
		c.read.wake()
	}
	return rests
}

// restLocked begins a rest, and reports whether it has. It also returns what is to be closed without
// the lock, or nil.
func (c *Conn) restLocked() (rests bool, old io.Closer) {
	c.mu.assertLocked()
	if c.serve.watcher() == nil || !c.deadlineIsFarLocked() {
		return false, nil
	}
	resting := c.serve.service().resting
	if c.t.isPolled() && !c.write.isBusy() && !c.end.isShut() {
		resting.leave(c, false) // the descriptor becomes another one
		old = c.t.unpoll()
	}
	return resting.wait(c), old
}

// goOn goes on after a rest, in a goroutine of its own. The stack of that is small as long as the
// connection waits; if that was long, it is likely that it will be again.
func (c *Conn) goOn() {
	by, k := c.serve.service(), c.serve.watcher()
	if now := k.now.Load(); now != c.t.lastInput() {
		c.serve.mayRest(1)
	}
	k.hasten(c, restSoon)
	c.read.wake()
	c.t.wait()
	growStack(0)
	by.serve(c)
}

func (c *Conn) napping() *nap { return c.serve.napping() }

func (c *Conn) control(f func(fd uintptr)) error { return c.t.control(f) }
