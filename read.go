// Reading: whole messages, messages in pieces, and what comes between them.

package websocket

import (
	"io"
	"slices"
)

// ReadMessage returns the next message, put together from its fragments. The
// payload is the caller's to keep. Small messages that have arrived together may share
// an allocation of up to 4 KiB, which stays as long as one of them does.
//
// While it waits, ReadMessage answers pings and the peer's closing handshake. Its
// error is a [*CloseError] if either side has closed the connection, the peer has broken
// the protocol, or the transport has ended or failed without a closing handshake. Every
// later call returns the same error. Only a timeout is not final: it loses nothing, and
// the next call goes on where this one stopped.
func (c *Conn) ReadMessage() (MessageType, []byte, error) {
	t, p, err := c.AppendMessage(nil)
	if p == nil && err == nil {
		p = []byte{}
	}
	return t, p, err
}

// AppendMessage is like [Conn.ReadMessage], but appends the payload to dst and
// returns the extended slice. It does not allocate if the message fits. If there is
// an error, it returns dst as it was.
func (c *Conn) AppendMessage(dst []byte) (MessageType, []byte, error) {
	c.mu.Lock()
	if err := c.awaitTurnLocked(false); err != nil {
		c.mu.Unlock()
		return 0, dst, err
	}
	t, p, ok := c.takeMessage()
	if ok {
		p = c.keep(dst, p)
		c.mu.Unlock()
		return t, p, nil
	}
	c.turn = turnMethod
	c.mu.Unlock()
	t, p, ok, err := c.awaitMessage(false)
	if ok {
		p = c.keep(dst, p)
	} else if err == nil {
		t, p, err = c.appendMessage(dst, nil)
	}
	if err := c.release(err); err != nil {
		return 0, dst, err
	}
	return t, p, nil
}

// keep appends p, which lies in the input buffer, to dst, or if that is nil, copies it.
func (c *Conn) keep(dst, p []byte) []byte {
	if dst == nil {
		return c.read.keep(p, c.t.buffered())
	}
	return append(dst, p...)
}

// NextReader returns the type of the next message and a reader for its payload,
// which need not fit into memory. The reader returns io.EOF at the end of the
// message; its other errors are those of [Conn.ReadMessage]. It is valid until the
// next call of another method of c that reads messages, which skips the rest. A compressed
// message needs about 50 KB from its first Read until its end.
func (c *Conn) NextReader() (MessageType, io.Reader, error) {
	if err := c.takeTurn(false); err != nil {
		return 0, nil, err
	}
	t, err := c.findMessage()
	if err != nil {
		return 0, nil, c.release(err)
	}
	r := &messageReader{c: c, number: c.read.begin()}
	if err := c.release(nil); err != nil {
		return 0, nil, err
	}
	return t, r, nil
}

// A messageReader reads one message.
type messageReader struct {
	c      *Conn
	number uint64
	end    bool
}

func (r *messageReader) Read(p []byte) (int, error) {
	if r.end {
		return 0, io.EOF
	}
	c := r.c
	if err := c.takeTurn(false); err != nil {
		return 0, err
	}
	n, err, stale := 0, error(nil), !c.read.reads(r.number)
	if !stale {
		n, r.end, err = c.readSome(p)
	}
	if r.end {
		c.read.endStream()
	}
	switch err := c.release(err); {
	case err != nil:
		return 0, err
	case stale:
		return 0, errStale
	case r.end:
		return 0, io.EOF
	}
	return n, nil
}

// Read reads the payload of all messages, of both types, as one stream. It returns
// what has arrived, of one message at a time. At an orderly end of the connection, and
// if the transport ends between two messages, it returns io.EOF. If Read has read a part of a
// message, the other methods return the rest as if it were a message.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	err := c.takeTurn(false)
	if err == nil {
		err = c.skipMessage()
		for end := true; end && err == nil; {
			n, end, err = c.readSome(p)
		}
		err = c.release(err)
	}
	return n, asStream(err)
}

// takeMessage takes the next message, if it has arrived whole and is not compressed. It lies in
// the input buffer. The caller has the turn, or holds mu while nobody has.
func (c *Conn) takeMessage() (t MessageType, p []byte, ok bool) {
	t, p, n := c.read.message(c.t.input())
	if n == 0 {
		return 0, nil, false
	}
	c.t.use(n)
	c.expectMore()
	return t, p, true
}

// awaitMessage waits for the next message, or for more of the one in progress. It takes the
// message if that arrives whole, as takeMessage does, and has it ready otherwise. If rest is true
// and the connection is to rest, the error is errRest.
func (c *Conn) awaitMessage(rest bool) (t MessageType, p []byte, ok bool, err error) {
	err = c.skipMessage()
	for err == nil && !c.read.ready() && !c.read.inflating() {
		switch idle := c.t.buffered() == 0 && c.read.between(); {
		case rest && c.restsNow():
			c.settle()
			err = errRest
		case idle:
			_, err = c.fill(nil) // here, where a wait needs little stack
		default:
			if t, p, ok = c.takeMessage(); ok {
				return t, p, true, nil
			}
			err = c.step()
		}
	}
	return 0, nil, false, err
}

// restsNow reports whether c is to rest rather than to wait for input. The caller has the turn, or
// nobody else can.
func (c *Conn) restsNow() bool {
	return c.t.buffered() == 0 && c.read.between() && !c.t.isHeld() && c.serve.rests()
}

// skipMessage skips what the last messageReader has left of its message.
func (c *Conn) skipMessage() error {
	for c.read.reads(0) {
		var end bool
		var err error
		if c.read.refers() {
			var skipped [512]byte
			_, end, err = c.readSome(skipped[:])
		} else if end = c.read.discard(); !end {
			err = c.advance()
		}
		if err != nil {
			return err
		}
		if end {
			c.read.endStream()
		}
	}
	return nil
}

// findMessage finds the message in progress, or else the next one, and returns its type.
func (c *Conn) findMessage() (MessageType, error) {
	if err := c.skipMessage(); err != nil {
		return 0, err
	}
	if !c.read.inflating() { // its input must stay in its place
		if err := c.advance(); err != nil {
			return 0, err
		}
	}
	return c.read.messageType(), nil
}

// appendMessage appends the message in progress, or else the next one, to dst, which is buf's
// memory unless that is nil.
func (c *Conn) appendMessage(dst []byte, buf *messageBuffer) (t MessageType, p []byte, err error) {
	if t, err = c.findMessage(); err != nil {
		return 0, dst, err
	}
	switch {
	case c.read.inflating():
		p, err = c.appendRest(dst)
	case c.read.isPacked():
		p, err = c.appendInflated(dst, buf)
	default:
		p, err = c.collect(dst, buf)
	}
	return t, p, err
}

// collect appends what the frames of the message in progress hold, compressed or not, to dst.
// After a timeout it is there for the next read.
func (c *Conn) collect(dst []byte, buf *messageBuffer) ([]byte, error) {
	p, start, owned := dst, len(dst), dst == nil && buf == nil
	if kept, ok := c.read.takeKept(); ok {
		p, start, owned, buf = kept, 0, true, nil
	}
	for {
		err := c.advance()
		chunk := c.read.take()
		p = append(buf.grow(p, len(chunk)), chunk...)
		// The rest of a large frame goes straight to its place. Where memory
		// has to be found for it, it is about as much as has arrived.
		for err == nil {
			left := c.direct()
			if left == 0 {
				break
			}
			if cap(p)-len(p) < leastRoom {
				p = buf.grow(p, int(min(left, uint64(max(len(p)-start, heldInputSize)))))
			}
			var n int
			n, err = c.readDirect(p[len(p):cap(p)], left)
			p = p[:len(p)+n]
		}
		switch {
		case err != nil:
			if isTimeout(err) && len(p) > start {
				if !owned {
					p = slices.Clone(p[start:])
				}
				c.read.putBack(p)
			}
			return dst, err
		case c.read.takeEnd():
			if owned && dst != nil {
				p = append(dst, p...)
			}
			return p, nil
		}
	}
}

// appendInflated appends a compressed message to dst.
func (c *Conn) appendInflated(dst []byte, buf *messageBuffer) ([]byte, error) {
	message, whole := c.read.whole()
	if !whole {
		var packed messageBuffer
		defer packed.free()
		var err error
		if message, err = c.collect(nil, &packed); err != nil {
			return dst, err
		}
	}
	p, err := c.read.inflate(dst, message, buf)
	if err != nil {
		return dst, c.fail(err)
	}
	return p, nil
}

// appendRest appends what Read has left of a compressed message. A timeout leaves all of it
// for the next read.
func (c *Conn) appendRest(dst []byte) ([]byte, error) {
	p := dst
	for {
		p = slices.Grow(p, leastRoom)
		n, end, err := c.readSome(p[len(p):cap(p)])
		p = p[:len(p)+n]
		switch {
		case end:
			return p, nil
		case isTimeout(err):
			c.read.putBackInflated(p[len(dst):])
		}
		if err != nil {
			return dst, err
		}
	}
}

// readSome reads some payload of the message in progress into p, or reports
// that there is none left.
func (c *Conn) readSome(p []byte) (n int, end bool, err error) {
	for len(p) > 0 {
		n, end, err = c.read.read(p)
		if err != nil {
			return 0, false, c.fail(err)
		}
		if n > 0 || end {
			return n, end, nil
		}
		if left := c.direct(); left > 0 && len(p) >= heldInputSize && !c.read.isPacked() {
			n, err = c.readDirect(p, left)
			return n, false, err
		}
		if err = c.advance(); err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// advance reads until there is a chunk of a message, or its end.
func (c *Conn) advance() error {
	for !c.read.ready() {
		if err := c.step(); err != nil {
			return err
		}
	}
	return nil
}

// step decodes the next piece of the input, or reads more if there is none. It deals with
// control frames.
func (c *Conn) step() error {
	p, n, err := c.read.next(c.t.input())
	if err != nil {
		return c.fail(err)
	}
	c.t.use(n)
	switch {
	case n == 0:
		_, err = c.fill(nil)
		return err
	case p.opcode == opPing:
		c.acceptPing(p.payload)
	case p.opcode == opPong:
		c.acceptPong(p.payload)
	case p.opcode == opClose:
		return c.acceptClose(p.payload)
	}
	return nil
}

// direct returns how many bytes of payload are to be read without going through the input
// buffer.
func (c *Conn) direct() uint64 {
	least := heldInputSize
	if c.t.isSocket() {
		least = directSize
	}
	if c.t.buffered() > 0 {
		return 0
	}
	return c.read.direct(least)
}

// readDirect reads some of that into p.
func (c *Conn) readDirect(p []byte, left uint64) (int, error) {
	n, err := c.fill(p[:min(uint64(len(p)), left)])
	if err != nil {
		return 0, err
	}
	if err := c.read.directed(p[:n]); err != nil {
		return 0, c.fail(err)
	}
	return n, nil
}
