// The turn to read: taking it, waiting for input in it, and giving it up.

package websocket

import (
	"cmp"
	"io"
)

// takeTurn waits until it is the caller's turn to read: the opening handshake, if shaking, or
// what follows it.
func (c *Conn) takeTurn(shaking bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.awaitTurnLocked(shaking); err != nil {
		return err
	}
	c.turn = turnMethod
	if shaking {
		c.end.connect()
	}
	return nil
}

// awaitTurnLocked waits while a method reads, and returns what keeps the caller from reading.
func (c *Conn) awaitTurnLocked(shaking bool) error {
	c.mu.assertLocked()
	c.waitMethodLocked()
	switch err := c.end.readable(); {
	case err != nil:
		return err
	case c.serve.isBegun():
		return errServed
	case !shaking && c.end.isConnecting():
		return errUnfinished
	case shaking && c.req != "":
		return errShaken
	}
	return nil
}

// waitMethodLocked waits while a method reads, unless nothing more can be read.
func (c *Conn) waitMethodLocked() {
	c.mu.assertLocked()
	for c.turn == turnMethod && c.end.readable() == nil {
		c.cond.wait(&c.mu)
	}
}

// release gives the turn up, after a read that ended with err. Unless that is a timeout it
// becomes the error of all later reads. release returns the first such error, which may come
// from Close in another goroutine.
func (c *Conn) release(err error) error {
	c.endRead(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.releaseLocked(err)
}

// endRead does what release does without mu, and releaseLocked the rest.
func (c *Conn) endRead(err error) {
	if isFinal(err) {
		c.t.release()
		c.read.take()
	}
	c.expectMore()
}

func (c *Conn) releaseLocked(err error) error {
	c.mu.assertLocked()
	c.turn = turnFree
	if isFinal(err) {
		c.stopReadsLocked(err)
	}
	if c.end.readable() != nil {
		c.read.stop()
	}
	c.cond.broadcast()
	return cmp.Or(c.end.readable(), err)
}

func isFinal(err error) bool { return err != nil && !isTimeout(err) }

// ended returns the error of all later reads, or nil if they have not ended.
func (c *Conn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end.readable()
}

// stopReadsLocked sets the error of all later reads, if there is none yet.
func (c *Conn) stopReadsLocked(err error) {
	c.mu.assertLocked()
	if !c.end.stopReads(err) {
		return
	}
	if c.turn == turnFree && !c.serve.runs() {
		c.read.stop()
	}
	c.pings.fail(err)
}

// expectMore notes whether another whole message has arrived, which replies then wait for.
func (c *Conn) expectMore() {
	if more := c.read.more(c.t.input()); more != c.more.Load() {
		c.more.Store(more)
	}
}

// fill reads more input, or if p is not nil, payload into p: at least a byte. The peer first gets
// what it may be waiting for.
func (c *Conn) fill(p []byte) (n int, err error) {
	err = errPanic // unless the transport returns
	defer func() {
		// Not the turn of turnCloser, which endClose gives up, nor if it was a function of a
		// Handler that did not return.
		if err == errPanic && c.turn != turnCloser && c.turn != turnFree {
			c.release(err)
		}
	}()
	c.settle()
	for {
		if p != nil {
			n, err = c.t.read(p)
		} else {
			err = c.t.fill()
		}
		switch {
		case err == errEnded:
			return 0, c.ended()
		case !isTimeout(err) || !c.isNudged():
			return n, c.cut(err)
		case c.turn == turnServe && c.t.buffered() == 0 && c.read.between():
			return 0, errRest
		}
	}
}

// isNudged reports whether a read has ended only so that the connection can rest. The next one
// ends when the caller wants.
func (c *Conn) isNudged() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	nudged := c.serve.isNudged()
	if nudged {
		c.t.applyDeadline()
	}
	return nudged
}

// cut notes that the transport has failed with err, unless that is a timeout, and returns the error
// of reads.
func (c *Conn) cut(err error) error {
	if err == nil || isTimeout(err) {
		return err
	}
	if err == io.EOF && (c.t.buffered() > 0 || c.read.within()) {
		err = io.ErrUnexpectedEOF
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.end.isConnecting() {
		err = cutOff(err)
	}
	c.end.end(err)
	return err
}
