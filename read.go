package websocket

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"sync"
)

// ReadMessage returns the next message, put together from its fragments. The
// payload is the caller's to keep. Small messages that have arrived together may share
// an allocation of up to 4 KiB, which stays as long as one of them does.
//
// While it waits, ReadMessage answers pings and the peer's closing handshake. Its
// error is a [*CloseError] if either side has closed the connection or the peer has
// broken the protocol, io.EOF if the transport ends between two messages, and
// io.ErrUnexpectedEOF if it ends within one. Every later call returns the same
// error. Only a timeout is not final: it loses nothing, and the next call goes on
// where this one stopped.
func (c *Conn) ReadMessage() (MessageType, []byte, error) {
	t, p, err := c.AppendMessage(nil)
	if p == nil && err == nil {
		p = []byte{}
	}
	return t, p, err
}

// keep returns a copy of p. Messages that have arrived together share an allocation, of up
// to 4 KiB.
func (c *Conn) keep(p []byte) []byte {
	if len(p) > len(c.spare) {
		c.spare = make([]byte, max(len(p), min(len(p)+c.w-c.r, sharedSize)))
	}
	n := copy(c.spare, p)
	p, c.spare = c.spare[:n:n], c.spare[n:]
	if c.r == c.w {
		c.spare = nil
	}
	return p
}

// AppendMessage is like [Conn.ReadMessage], but appends the payload to dst and
// returns the extended slice. It does not allocate if the message fits. If there is
// an error, it returns dst as it was.
func (c *Conn) AppendMessage(dst []byte) (MessageType, []byte, error) {
	if err := c.lockRead(false); err != nil {
		return 0, dst, err
	}
	if t, p, ok := c.takeMessage(); ok {
		defer c.mu.Unlock() // p lies in the input buffer
		if dst == nil {
			return t, c.keep(p), nil
		}
		return t, append(dst, p...), nil
	}
	c.reading = true
	c.mu.Unlock()
	var t MessageType
	p := dst
	err := c.skipMessage()
	if err == nil {
		t, p, err = c.appendMessage(dst)
	}
	if err := c.endRead(err); err != nil {
		return 0, dst, err
	}
	return t, p, nil
}

// between reports whether nothing has been read, or decoded, of a message that is not over.
func (c *Conn) between() bool {
	return c.dec.kind == noFrame && c.dec.typ == 0 &&
		len(c.chunk) == 0 && !c.end && c.partial == nil && c.reader == nil
}

// takeMessage returns the next message if it has arrived whole, in one frame that is not
// compressed. It lies in the input buffer. mu is held, and nobody reads.
func (c *Conn) takeMessage() (t MessageType, p []byte, ok bool) {
	if c.r == c.w || !c.between() {
		return 0, nil, false
	}
	t, p, n := c.dec.whole(c.in[c.r:c.w])
	if n == 0 {
		return 0, nil, false
	}
	c.r += n
	c.more = c.r < c.w && c.dec.holdsFrame(c.in[c.r:c.w])
	return t, p, true
}

// NextReader returns the type of the next message and a reader for its payload,
// which need not fit into memory. The reader returns io.EOF at the end of the
// message; its other errors are those of [Conn.ReadMessage]. It is valid until the
// next call of another method of c that reads messages, which skips the rest.
func (c *Conn) NextReader() (MessageType, io.Reader, error) {
	if err := c.beginMessage(); err != nil {
		return 0, nil, err
	}
	if err := c.findMessage(); err != nil {
		return 0, nil, c.endRead(err)
	}
	t, r := c.typ, &messageReader{c: c}
	c.reader = r
	if err := c.endRead(nil); err != nil {
		return 0, nil, err
	}
	return t, r, nil
}

// A messageReader reads one message.
type messageReader struct {
	c   *Conn
	end bool
}

func (r *messageReader) Read(p []byte) (int, error) {
	if r.end {
		return 0, io.EOF
	}
	c := r.c
	if err := c.beginRead(false); err != nil {
		return 0, err
	}
	if c.reader != r {
		return 0, cmp.Or(c.endRead(nil), errStale)
	}
	if len(p) == 0 {
		return 0, c.endRead(nil)
	}
	n, end, err := c.readChunk(p)
	if end {
		c.reader, r.end = nil, true
	}
	if err := c.endRead(err); err != nil {
		return 0, err
	}
	if end {
		return 0, io.EOF
	}
	return n, nil
}

// Read reads the payload of all messages, of both types, as one stream. It returns
// what has arrived, of one message at a time. At an orderly end of the connection
// it returns io.EOF. If Read has read a part of a message, the other methods return
// the rest as if it were a message.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	err := c.beginMessage()
	if err == nil {
		for end := true; end; {
			n, end, err = c.readChunk(p)
		}
		err = c.endRead(err)
	}
	if errors.Is(err, io.EOF) {
		err = io.EOF // readers compare with ==
	}
	return n, err
}

// beginRead makes the caller the one that reads: the opening handshake, if shaking,
// or what follows it.
func (c *Conn) beginRead(shaking bool) error {
	if err := c.lockRead(shaking); err != nil {
		return err
	}
	c.reading, c.shaking = true, shaking
	c.mu.Unlock()
	return nil
}

// lockRead waits until nobody reads. Unless it returns an error, mu is held then.
func (c *Conn) lockRead(shaking bool) (err error) {
	c.mu.Lock()
	for c.reading && c.rerr == nil && c.stage == unserved {
		c.turn.Wait()
	}
	switch {
	case c.rerr != nil:
		err = c.rerr
	case c.stage != unserved:
		err = errServed
	case !shaking && c.shaking:
		err = errUnfinished
	case shaking && c.req != nil:
		err = errShaken
	default:
		return nil
	}
	c.mu.Unlock()
	return err
}

// endRead ends what beginRead began. An error that is not a timeout becomes the error
// of all later reads. It returns the first such error, which may come from Close in
// another goroutine.
func (c *Conn) endRead(err error) error {
	more := c.r < c.w && c.dec.kind == noFrame && c.dec.holdsFrame(c.in[c.r:c.w])
	if err != nil && !isTimeout(err) {
		c.releaseInput()
		c.chunk, c.partial = nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading, c.more = false, more
	if c.stage == awaiting {
		c.stage = calling
	}
	if err != nil && !isTimeout(err) {
		c.stopReading(err)
	}
	if c.rerr != nil {
		c.deflate.stop()
	}
	c.turn.Broadcast()
	return cmp.Or(c.rerr, err)
}

// stopReading sets the error of all later reads, if there is none yet. mu is
// held.
func (c *Conn) stopReading(err error) {
	if c.rerr != nil {
		return
	}
	c.rerr = err
	if !c.reading {
		c.deflate.stop()
	}
	for _, p := range c.pings {
		p.done <- err
	}
	c.pings = nil
}

// beginMessage is beginRead for a whole message. It skips what the last
// reader has left of its own.
func (c *Conn) beginMessage() error {
	if err := c.beginRead(false); err != nil {
		return err
	}
	if err := c.skipMessage(); err != nil {
		return c.endRead(err)
	}
	return nil
}

// skipMessage skips what the last reader has left of its message.
func (c *Conn) skipMessage() error {
	for c.reader != nil {
		if c.packed && c.deflate.recv.takeover { // the next message may refer to this one
			var skipped [512]byte
			_, end, err := c.readInflated(skipped[:])
			if err != nil {
				return err
			}
			if end {
				c.reader = nil
			}
			continue
		}
		c.deflate.stop()
		c.chunk = nil
		if c.end {
			c.reader, c.end, c.packed = nil, false, false
		} else if err := c.nextChunk(); err != nil {
			return err
		}
	}
	return nil
}

// findMessage finds the message in progress, or else the next one, so that typ and packed
// tell what it is.
func (c *Conn) findMessage() error {
	if c.deflate.reads() {
		return nil // its input must stay in its place
	}
	return c.nextChunk()
}

// appendMessage appends the message in progress, or else the next one.
func (c *Conn) appendMessage(dst []byte) (MessageType, []byte, error) {
	if c.partial == nil {
		if err := c.findMessage(); err != nil {
			return 0, dst, err
		}
	}
	if c.packed {
		p, err := c.appendInflated(dst)
		if err != nil {
			return 0, dst, err
		}
		return c.typ, p, nil
	}
	return c.appendPayload(dst)
}

// appendPayload is appendMessage for what the frames hold, whether it is compressed or
// not.
func (c *Conn) appendPayload(dst []byte) (MessageType, []byte, error) {
	p, start, owned := dst, len(dst), dst == nil
	if c.partial != nil {
		p, start, owned = c.partial, 0, true
		c.partial = nil
	}
	for {
		err := c.nextChunk()
		if p == nil && c.end && err == nil {
			p = c.keep(c.chunk)
		} else {
			p = append(p, c.chunk...)
		}
		c.chunk = nil
		// The rest of a large frame goes straight to its place. Where memory
		// has to be found for it, it is about as much as has arrived.
		for err == nil && c.direct() {
			room := int(min(c.dec.left, uint64(max(len(p)-start, heldInputSize))))
			if cap(p)-len(p) < room {
				p = slices.Grow(p, room)
			}
			var n int
			n, err = c.readPayload(p[len(p):cap(p)])
			p = p[:len(p)+n]
		}
		switch {
		case err != nil:
			if isTimeout(err) && len(p) > start {
				if !owned {
					p = slices.Clone(p[start:])
				}
				c.partial = p
			}
			return 0, dst, err
		case c.end:
			c.end = false
			if owned && dst != nil {
				p = append(dst, p...)
			}
			return c.typ, p, nil
		}
	}
}

// readChunk reads some payload of the message in progress into p, or reports
// that there is none left.
func (c *Conn) readChunk(p []byte) (n int, end bool, err error) {
	for len(c.chunk) == 0 && !c.packed {
		if c.end {
			c.end = false
			return 0, true, nil
		}
		if len(p) >= heldInputSize && c.partial == nil && c.direct() {
			n, err = c.readPayload(p)
			return n, false, err
		}
		if err := c.nextChunk(); err != nil {
			return 0, false, err
		}
	}
	if c.packed {
		return c.readInflated(p)
	}
	n = copy(p, c.chunk)
	if c.chunk = c.chunk[n:]; len(c.chunk) == 0 {
		c.chunk = nil // it lies in the input buffer, which others may use soon
	}
	return n, false, nil
}

// nextChunk decodes input until chunk holds payload or the message ends.
func (c *Conn) nextChunk() error {
	if c.partial != nil {
		c.chunk, c.partial = c.partial, nil
	}
	for len(c.chunk) == 0 && !c.end {
		p, err := c.step()
		if err != nil {
			return err
		}
		c.typ, c.packed, c.end = MessageType(p.opcode), p.compressed, p.end
		if len(p.payload) > 0 {
			c.chunk = p.payload
		}
	}
	return nil
}

// direct reports whether the next payload is to be read without going through
// the input buffer.
func (c *Conn) direct() bool {
	return c.r == c.w && c.dec.kind == payload &&
		(c.dec.left >= directSize || c.raw == nil && c.dec.left >= heldInputSize)
}

// readPayload reads payload of the frame in progress into p.
func (c *Conn) readPayload(p []byte) (int, error) {
	if c.raw != nil {
		c.releaseInput()
	}
	p = p[:min(uint64(len(p)), c.dec.left)]
	n, err := c.readTransport(p)
	if err != nil {
		return 0, c.cut(err)
	}
	if c.end, err = c.dec.take(p[:n]); err != nil {
		return 0, c.fail(err)
	}
	return n, nil
}

// step decodes input up to the next piece of a message. It deals with the
// control frames on the way.
func (c *Conn) step() (piece, error) {
	for {
		p, n, err := c.dec.next(c.in[c.r:c.w])
		if err != nil {
			return p, c.fail(err)
		}
		c.r += n
		switch {
		case n == 0:
			err = c.cut(c.fill(p.need))
		case p.opcode == opPing:
			c.acceptPing(p.payload)
		case p.opcode == opPong:
			c.acceptPong(p.payload)
		case p.opcode == opClose:
			err = c.acceptClose(p.payload)
		case p.opcode != 0:
			return p, nil
		}
		if err != nil {
			return p, err
		}
	}
}

// cut turns an end of the transport that is not between two messages into
// io.ErrUnexpectedEOF.
func (c *Conn) cut(err error) error {
	if err == nil || isTimeout(err) {
		return err
	}
	if err == io.EOF && (c.r < c.w || c.dec.kind != noFrame || c.dec.typ != 0) {
		err = io.ErrUnexpectedEOF
	}
	c.ended = err
	return err
}

// fill reads more input. A bare Conn reads no more than need bytes. The error errRest means
// that Server.rest is to do that.
func (c *Conn) fill(need int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.raw != nil {
		if err := c.held; err != nil {
			c.held = nil
			return err
		}
		if c.beforeWait() {
			return errRest
		}
		return c.readSocket()
	}
	c.makeRoom(heldInputSize)
	space := c.in[c.w:]
	if c.bare {
		space = space[:min(len(space), need)]
	}
	n, err := c.readTransport(space)
	c.w += n
	return err
}

// appendInflated is appendMessage for a compressed message.
func (c *Conn) appendInflated(dst []byte) ([]byte, error) {
	d := c.deflate
	if d.reads() {
		return c.appendRest(dst)
	}
	message := c.chunk
	if !c.end {
		buf := c.newMessage(len(message))
		defer buf.free()
		_, b, err := c.appendPayload(buf.b[:0])
		if err != nil {
			return dst, err
		}
		buf.b, message = b, b
	}
	c.chunk, c.end, c.packed = nil, false, false

	f := newInflater(message, d.recv.history, nil)
	defer f.free()
	p, start := dst, len(dst)
	if len(p) == cap(p) {
		p = slices.Grow(p, min(4*len(message), 64<<10))
	}
	for {
		var n int
		var err error
		if len(p) == cap(p) { // there may be no more
			n, err = f.Read(f.space[:])
			p = append(p, f.space[:n]...)
		} else {
			n, err = f.Read(p[len(p):cap(p)])
			p = p[:len(p)+n]
		}
		err = c.checkInflated(p[len(p)-n:], uint64(len(p)-start), err)
		if err == io.EOF {
			d.recv.add(p[start:])
			return p, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// checkInflated checks a piece of a message that has size bytes with it, and the error that
// came behind it. It fails the connection unless that is io.EOF.
func (c *Conn) checkInflated(piece []byte, size uint64, err error) error {
	text := &c.dec.text
	switch {
	case size > c.dec.limit:
		return c.fail(failure(CloseMessageTooBig, "a message is larger than allowed"))
	case c.typ == Text && (!text.check(piece) || err == io.EOF && !text.whole()):
		return c.fail(failure(CloseInvalidPayload, "a text is not valid UTF-8"))
	case err != nil && err != io.EOF:
		return c.fail(failure(CloseInvalidPayload, err.Error()))
	}
	return err
}

// readInflated is readChunk for a compressed message.
func (c *Conn) readInflated(p []byte) (n int, end bool, err error) {
	d := c.deflate
	if d.reading == nil {
		d.reading = &inflation{starved: true}
	}
	s := d.reading
	for len(s.out) == 0 {
		if s.err != nil {
			c.end, c.packed = false, false
			d.stop()
			return 0, true, nil
		}
		if s.starved {
			if err := c.nextChunk(); err != nil {
				return 0, false, err
			}
			s.input, s.last, s.starved = c.chunk, c.end, false
			c.chunk = nil
		}
		s.next(d.recv.history)
		s.size += uint64(len(s.out))
		if err := c.checkInflated(s.out, s.size, s.err); err != nil && err != io.EOF {
			return 0, false, err
		}
		d.recv.add(s.out)
	}
	n = copy(p, s.out)
	s.out = s.out[n:]
	return n, false, nil
}

// appendRest appends what Read has left of a compressed message. A timeout leaves all of it
// for the next read.
func (c *Conn) appendRest(dst []byte) ([]byte, error) {
	p := dst
	for {
		p = slices.Grow(p, 512)
		n, end, err := c.readInflated(p[len(p):cap(p)])
		p = p[:len(p)+n]
		switch {
		case end:
			return p, nil
		case isTimeout(err):
			c.deflate.reading.out = slices.Clone(p[len(dst):])
		}
		if err != nil {
			return dst, err
		}
	}
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
