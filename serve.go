package websocket

import (
	"cmp"
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
