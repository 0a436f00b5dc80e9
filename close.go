// Closing: the closing handshake (RFC 6455, section 7) from either side, and the end of the
// transport.

package websocket

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Close closes the connection with a closing handshake, which it waits for: it calls
// [Conn.CloseWith] with CloseNormal.
func (c *Conn) Close() error { return c.CloseWith(CloseNormal, "") }

// CloseWith carries out the closing handshake (RFC 6455, section 7.1): it sends a
// close frame with the code and the reason, drops what the peer still sends up to its
// own close frame, and closes the transport, which a client lets the server do first.
// All that takes Options.CloseTimeout at most. If the peer has not answered by then,
// CloseWith closes the transport anyway and returns an error that wraps
// [os.ErrDeadlineExceeded]. It relies on the transport's Close to end calls in progress,
// as that of a [net.Conn] does. If the transport has no Close method, CloseWith sends the
// close frame and returns without waiting for an answer.
//
// On a connection that [Conn.Serve] or a [Server] serves, CloseWith only begins: it returns
// at once, in a callback or elsewhere, Serve does the rest, and OnClose tells the end. If a
// callback has called it, OnMessage is not called any more. If another goroutine has, one call
// may already be about to begin.
//
// Pending and later calls fail with a [*CloseError] that holds the code. If the
// connection has already ended, or another call of CloseWith was first, CloseWith
// returns nil when the transport is closed. That may take up to Options.CloseTimeout, as
// the peer is given time to read what was sent last.
//
// The reason may be any text, such as that of an error: it is made valid UTF-8, and cut
// between two runes if it has more than 123 bytes, as a close frame has no room for more.
// CloseNoStatus, without a reason, sends a close frame without a payload. For a code that must
// not be sent, CloseWith closes with CloseInternalError and returns an error. Hixie-76 carries
// neither code nor reason.
func (c *Conn) CloseWith(code CloseCode, reason string) error {
	e, bad := closeByUs(code, reason)
	if !c.t.closes() {
		return cmp.Or(bad, c.closeStream(e))
	}
	awaits, done := c.beginClose(e)
	if done {
		return bad
	}
	return cmp.Or(bad, c.endClose(e, awaits))
}

// closeStream is CloseWith for a transport that cannot be closed.
func (c *Conn) closeStream(e *CloseError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.end.writable() == nil && c.end.readable() == nil
	c.beginCloseLocked(e)
	if !first {
		return nil
	}
	return c.flushLocked(ours)
}

// beginClose begins a closing handshake, and takes the turn to read the answer, unless that is
// left to Serve: then it is done. It reports whether there is an answer to wait for.
func (c *Conn) beginClose(e *CloseError) (awaits, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serve.runs() {
		c.startCloseLocked(e)
		return false, true
	}
	first := c.end.lead()
	if c.beginCloseLocked(e) {
		c.mu.Unlock()
		c.shut()
		c.mu.Lock()
	}
	for c.turn != turnFree || !first && !c.end.isShut() {
		c.cond.wait(&c.mu)
	}
	c.turn = turnCloser
	if !c.end.isShut() {
		c.t.freeDeadlines()
	}
	return c.end.awaits() && first, false
}

// endClose waits for the answer and closes the transport.
func (c *Conn) endClose(e *CloseError, awaits bool) (err error) {
	returned := false // or else the transport has panicked
	defer func() {
		if !returned {
			c.release(errPanic)
		}
	}()
	if awaits {
		err = c.awaitClose()
	}
	c.mu.Lock()
	err = cmp.Or(err, c.end.lastInput(), c.flushLocked(ours))
	answered := c.end.answered()
	lingers := (c.write.isClient() || !answered) && !c.end.isShut()
	c.mu.Unlock()
	if lingers {
		c.t.linger()
	}
	returned = true
	c.release(e)
	closed := c.shut()
	switch {
	case !awaits || answered:
		return nil
	case c.isLate():
		return fmt.Errorf("websocket: no answer to the close frame: %w", os.ErrDeadlineExceeded)
	case closed == errShut: // by CloseNow
		return net.ErrClosed
	}
	return err
}

// awaitClose drops what comes before the answer to a close frame.
func (c *Conn) awaitClose() error {
	for !c.isOver() {
		p, n, err := c.read.next(c.t.input())
		if err != nil {
			return c.fail(err)
		}
		c.t.use(n)
		switch {
		case n == 0:
			_, err = c.fill(nil)
		case p.opcode == opClose:
			err = c.acceptClose(p.payload)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end.isOver()
}

func (c *Conn) isLate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end.isLate()
}

// beginCloseLocked makes e the error of all later calls and has a close frame sent, unless
// that is hopeless, so that the transport is to be closed.
func (c *Conn) beginCloseLocked(e *CloseError) (hopeless bool) {
	c.mu.assertLocked()
	send, hopeless := c.end.begin(e, c.write.endable())
	if send {
		c.write.putClose(e.Code, e.Reason)
	}
	c.stopReadsLocked(e)
	c.cond.broadcast()
	switch {
	case !c.t.closes():
		return false
	case hopeless:
		return true
	}
	c.startWatchdogLocked()
	// Another goroutine writes while this one reads: the peer may have much to send before it
	// reads.
	c.writeLaterLocked(0)
	c.t.freeDeadlines()
	return false
}

// startClose begins a closing handshake that is left to Serve, unless the connection has
// ended already. It returns the error of all later reads.
func (c *Conn) startClose(e *CloseError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startCloseLocked(e)
	return c.end.readable()
}

func (c *Conn) startCloseLocked(e *CloseError) {
	c.mu.assertLocked()
	if c.beginCloseLocked(e) {
		go c.shut()
	}
}

// CloseNow closes the transport at once, without a closing handshake. Pending and later
// calls fail with [net.ErrClosed], unless the connection has already ended.
func (c *Conn) CloseNow() error { return c.abort(net.ErrClosed) }

// abort closes the transport at once and makes e the error of pending and later
// calls.
func (c *Conn) abort(e error) error {
	c.mu.Lock()
	c.end.breakWrites(e)
	c.stopReadsLocked(e)
	c.cond.broadcast()
	c.mu.Unlock()
	if err := c.shut(); err != errShut {
		return err
	}
	return nil
}

// acceptClose answers a close frame, unless that is the answer (RFC 6455, section 5.5.1),
// with the same code and reason: a browser tells its page those of the answer, whatever the
// page has closed with. Then a server closes the transport, while a client leaves the server
// time to do so (section 7.1.1).
func (c *Conn) acceptClose(payload []byte) error {
	code, reason, err := parseClose(payload)
	if err != nil {
		return c.fail(err)
	}
	e := &CloseError{Code: code, Reason: reason}
	if c.read.within() {
		e.by = byPeerEarly
	}
	if c.endWith(e); !c.write.isClient() {
		c.shut()
	}
	return e
}

// fail ends the connection because of what the peer has sent (RFC 6455, section
// 7.1.7). The transport stays open so that the peer can read why, until Close or
// until the time for the closing handshake is over.
func (c *Conn) fail(err error) error {
	c.endWith(err.(*CloseError))
	return err
}

// endWith sends a close frame because of what has been read, and ends the read if the
// transport panics.
func (c *Conn) endWith(e *CloseError) {
	returned := false
	defer func() {
		if !returned && c.turn != turnCloser { // whose turn endClose gives up
			c.release(e)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end.end(e)
	c.startWatchdogLocked()
	c.putCloseLocked(e)
	c.flushLocked(ours)
	returned = true
}

// errShut is what shut returns if another call closes the transport, or none can.
var errShut = errors.New("websocket: transport already closed")

// shut closes the transport, once. When it returns, that is done, except for a function of a Handler
// that runs within a read, or while it does.
func (c *Conn) shut() error {
	if !c.t.closes() {
		return errShut
	}
	first, waits := c.beginShut()
	switch {
	case !first:
		return errShut
	case !waits:
		c.t.endOutput() // which the peer sees at once
		go c.endShut()
		return nil
	}
	return c.endShut()
}

// endShut closes the transport.
func (c *Conn) endShut() error {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end.closed()
		c.cond.broadcast()
	}()
	return c.t.close()
}

// beginShut reports whether the caller is the one that is to close the transport, and whether it
// may wait until that is done: not while a function of a Handler is called within a read, for
// which the transport would wait. If it is not the one, it has waited.
func (c *Conn) beginShut() (first, waits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waits = !c.serve.isInside()
	if c.end.isShut() {
		for waits && !c.end.isClosed() {
			c.cond.wait(&c.mu)
		}
		return false, waits
	}
	c.end.shut()
	c.cond.broadcast()
	c.timers.stop()
	if k := c.serve.watcher(); k != nil {
		k.forget(c)
	}
	if c.canRest() {
		c.serve.service().resting.leave(c, true)
	}
	return true, waits
}

// startWatchdogLocked has the transport closed when the time for the closing handshake
// is over.
func (c *Conn) startWatchdogLocked() {
	c.mu.assertLocked()
	if c.timers.close == nil && c.t.closes() && !c.end.isShut() {
		c.timers.close = time.AfterFunc(c.opts.closeLimit(), func() {
			c.mu.Lock()
			c.end.expire()
			c.mu.Unlock()
			c.shut()
		})
	}
}
