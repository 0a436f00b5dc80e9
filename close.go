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
// own close frame, and closes the transport. If the peer has not answered within
// Options.CloseTimeout, CloseWith closes the transport anyway and returns an error
// that wraps [os.ErrDeadlineExceeded]. It relies on the transport's Close to end calls
// in progress, as that of a [net.Conn] does. If the transport has no Close method,
// CloseWith sends the close frame and returns without waiting for an answer.
//
// Within a callback of [Conn.Serve], or while one runs, CloseWith only begins: it returns
// at once, and Serve does the rest after the callback.
//
// Pending and later calls fail with a [*CloseError] that holds the code. If the
// connection has already ended, or another call of CloseWith was first, CloseWith
// returns nil when the transport is closed. That may take up to Options.CloseTimeout, as
// the peer is given time to read what was sent last.
//
// The reason is UTF-8 of at most 123 bytes. CloseNoStatus, without a reason, sends a
// close frame without a payload. A code or reason that must not be sent is an error,
// and the connection stays open. Hixie-76 carries neither.
func (c *Conn) CloseWith(code CloseCode, reason string) error {
	if err := checkClose(code, reason); err != nil {
		return err
	}
	e := &CloseError{Code: code, Reason: reason, by: byUs}
	c.mu.Lock()
	follower := c.closing && !c.left
	first := c.writable() == nil && c.rerr == nil
	hopeless := c.beginClose(e)
	if c.closer == nil {
		defer c.mu.Unlock()
		if !first {
			return nil
		}
		return c.flush()
	}
	if hopeless {
		c.mu.Unlock()
		c.shut()
		c.mu.Lock()
	}
	if c.stage.calls() {
		c.left = !follower
		c.mu.Unlock()
		return nil
	}
	c.left = false
	for c.reading || follower && !c.shutdown {
		c.turn.Wait()
	}
	c.reading = true
	c.freeDeadlines()
	first = c.sent && !follower
	c.mu.Unlock()

	var err error
	for first && err == nil && c.ended == nil {
		_, err = c.step()
	}
	c.mu.Lock()
	err = cmp.Or(err, c.ended, c.flush())
	c.mu.Unlock()
	answer, _ := c.ended.(*CloseError)
	answered := answer != nil && answer.by != byFailure
	if c.client || !answered {
		c.linger()
	}
	c.endRead(e)
	closed := c.shut()
	switch {
	case !first || answered:
		return nil
	case c.late.Load():
		return fmt.Errorf("websocket: no answer to the close frame: %w", os.ErrDeadlineExceeded)
	case closed == errShut: // by CloseNow
		return net.ErrClosed
	}
	return err
}

// beginClose makes e the error of all later calls and has a close frame sent, unless
// that is hopeless, so that the transport is to be closed. mu is held.
func (c *Conn) beginClose(e *CloseError) (hopeless bool) {
	c.startWatchdog()
	c.closing = true
	c.sent = c.sent || c.writable() == nil && c.rerr == nil
	_, reset := errors.AsType[*net.OpError](c.rerr) // by the peer, as a rule
	hopeless = c.shaking || c.broken != nil || reset || c.dec.hixie && c.writer != nil
	if hopeless {
		c.werr = cmp.Or[error](c.werr, e)
	} else {
		c.putClose(e)
	}
	c.stopReading(e)
	c.turn.Broadcast()
	if c.closer == nil {
		return false
	}
	if hopeless {
		c.sent = false
	} else {
		// Another goroutine writes while this one reads: the peer may have much to
		// send before it reads.
		c.writeWithin(0)
	}
	c.freeDeadlines()
	return hopeless
}

// freeDeadlines leaves the watchdog as the only deadline. mu is held.
func (c *Conn) freeDeadlines() {
	c.limit, c.deadline = time.Time{}, time.Time{}
	c.applyDeadline()
	c.SetWriteDeadline(time.Time{})
}

// CloseNow closes the transport at once, without a closing handshake. Pending and later
// calls fail with [net.ErrClosed], unless the connection has already ended.
func (c *Conn) CloseNow() error { return c.abort(net.ErrClosed) }

// abort closes the transport at once and makes e the error of pending and later
// calls.
func (c *Conn) abort(e error) error {
	c.mu.Lock()
	c.broken = e
	c.werr = cmp.Or(c.werr, e)
	c.stopReading(e)
	c.turn.Broadcast()
	c.mu.Unlock()
	if err := c.shut(); err != errShut {
		return err
	}
	return nil
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

// acceptClose answers a close frame, unless that is the answer (RFC 6455,
// section 5.5.1). Then a server closes the transport, while a client leaves the
// server time to do so (section 7.1.1).
func (c *Conn) acceptClose(payload []byte) error {
	code, reason, err := parseClose(payload)
	if err != nil {
		return c.fail(err)
	}
	e := &CloseError{Code: code, Reason: reason}
	if c.dec.typ != 0 {
		e.by = byPeerEarly
	}
	c.endWith(e)
	if !c.client {
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
	c.ended = e
	returned := false
	defer func() {
		if !returned {
			c.endRead(e)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startWatchdog()
	c.putClose(e)
	c.flush()
	returned = true
}

// putClose puts a close frame behind the output, unless nothing more can be sent,
// and makes e the error of all later writes. The reason goes with it only if it is
// this side's. mu is held.
func (c *Conn) putClose(e *CloseError) {
	switch {
	case c.writable() != nil:
	case !c.dec.hixie:
		reason := e.Reason
		if e.by == byPeer || e.by == byPeerEarly {
			reason = ""
		}
		out := c.output()
		out.b = appendFrame(out.b, finBit|opClose, appendClose(nil, e.Code, reason), c.client)
	case c.writer == nil: // else it would be text of the open message
		out := c.output()
		out.b = append(out.b, 0xFF, 0x00)
	}
	c.werr = cmp.Or[error](c.werr, e)
}

// linger waits for the peer to close the transport: if this side did it while
// there is input that has not been read, a TCP connection would be reset, and the
// peer might lose what was sent last.
func (c *Conn) linger() {
	half, ok := c.closer.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.makeRoom(heldInputSize)
	for err := error(nil); err == nil; {
		_, err = c.readTransport(c.in)
	}
}

// errShut is what shut returns if the transport has been closed before.
var errShut = errors.New("websocket: transport already closed")

// shut closes the transport, once. When it returns, that is done.
func (c *Conn) shut() error {
	c.mu.Lock()
	if c.shutdown || c.closer == nil {
		for c.shutdown && !c.shutEnd {
			c.turn.Wait()
		}
		c.mu.Unlock()
		return errShut
	}
	c.shutdown = true
	c.turn.Broadcast()
	for _, t := range []*time.Timer{c.timer, c.watchdog} {
		if t != nil {
			t.Stop()
		}
	}
	if c.alive != nil {
		c.alive.timer.Stop()
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.shutEnd = true
		c.turn.Broadcast()
	}()
	return c.closer.Close()
}

// startWatchdog has the transport closed when the time for the closing handshake
// is over. mu is held.
func (c *Conn) startWatchdog() {
	if c.watchdog == nil && c.closer != nil && !c.shutdown {
		c.watchdog = time.AfterFunc(cmp.Or(max(0, c.opts.CloseTimeout), closeTimeout), func() {
			c.late.Store(true)
			c.shut()
		})
	}
}
