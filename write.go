package websocket

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
	"unicode/utf8"
)

// An output collects frames until they are written.
type output struct {
	b    []byte
	vec  [2][]byte // for one call of writev
	bufs net.Buffers
}

var outputs = sync.Pool{New: func() any { return &output{b: make([]byte, 0, 4<<10)} }}

func (o *output) free() {
	if cap(o.b) <= 8*batchSize {
		o.b = o.b[:0]
		outputs.Put(o)
	}
}

// WriteMessage sends p as one message, in one frame. It keeps no reference to p
// and does not allocate. Any number of goroutines may write at the same time; their
// messages stay whole and may share one call of the transport's Write.
//
// WriteMessage returns when the transport has taken the message, and thus waits for
// a slow peer. The exception is a reply that is written while another whole message
// has already arrived and is to be read: it is held back and leaves together with
// the next replies, before a read waits for input, when 64 KiB are held, or after a
// millisecond, whichever comes first. If that fails, a later write reports it.
//
// WriteMessage refuses text that is not UTF-8, and for hixie-76 binary messages;
// the connection stays usable. An error of the transport is final for all writes,
// even if it is a timeout, but does not end reads; see [Conn.CloseNow]. Once the
// connection is closed, the error is the [*CloseError].
func (c *Conn) WriteMessage(t MessageType, p []byte) error {
	if t == Text && !utf8.Valid(p) {
		return errNotUTF8
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginWrite(t); err != nil {
		return err
	}
	if c.deflate.compresses(p) {
		return c.putCompressed(t, p)
	}
	return c.putFrame(finBit|byte(t), p, nil)
}

// NextWriter begins a message that is sent in fragments: every Write sends one, and
// Close a last one without text. Other messages have to wait until then, so a goroutine
// that has begun a message must close it before it sends another. Control frames do
// not wait.
//
// A rune may be split across fragments, but the whole message must be valid UTF-8
// if it is text. For hixie-76 the message is one frame, sent in pieces.
func (c *Conn) NextWriter(t MessageType) (io.WriteCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginWrite(t); err != nil {
		return nil, err
	}
	c.writer = &messageWriter{c: c, typ: t, opcode: byte(t)}
	if c.deflate != nil {
		c.writer.opcode |= rsv1Bit
		c.writer.deflate = c.deflate.compressor(c.deflate.send.history)
	}
	return c.writer, nil
}

// A messageWriter writes one message.
type messageWriter struct {
	c       *Conn
	typ     MessageType
	opcode  byte // of the next fragment, and RSV1 if that is the first of a compressed message
	text    utf8Checker
	deflate *compressor // of a compressed message, unless Write uses it
}

func (w *messageWriter) Write(p []byte) (int, error) {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != w {
		return 0, errStale
	}
	opcode, text := w.opcode, w.text
	if w.typ == Text && !text.check(p) {
		return 0, errNotUTF8
	}
	z := w.deflate
	if c.deflate != nil && z == nil {
		return 0, errBusy
	}
	w.opcode, w.text = opContinuation, text
	fragment := p
	if z != nil {
		w.deflate = nil
		c.mu.Unlock()
		fragment = z.compress(p)
		c.mu.Lock()
		defer func() { w.deflate = z }()
		c.deflate.send.add(p)
	}
	if err := c.putFrame(opcode, fragment, w); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *messageWriter) Close() error {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != w {
		return errStale
	}
	var last []byte
	if c.deflate != nil {
		if w.deflate == nil {
			return errBusy
		}
		last = endOfMessage
		w.deflate.free()
	}
	c.turn.Broadcast()
	if !w.text.whole() {
		// What has been sent cannot become a valid message any more.
		c.putClose(failure(CloseInternalError, "a text message ended within a rune"))
		c.writer = nil
		c.flush()
		return errNotUTF8
	}
	c.writer = nil
	return c.putFrame(finBit|w.opcode, last, nil)
}

// Write sends p as one binary message, or for hixie-76 as a text message; see
// [Conn.WriteMessage], which also sends text to other clients.
func (c *Conn) Write(p []byte) (int, error) {
	t := Binary
	c.mu.Lock()
	if c.dec.hixie {
		t = Text
	}
	c.mu.Unlock()
	if err := c.WriteMessage(t, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// beginWrite waits while another message is being written in fragments and then
// reports what keeps c from sending one of type t. mu is held.
func (c *Conn) beginWrite(t MessageType) error {
	switch {
	case t != Text && t != Binary:
		return fmt.Errorf("websocket: there is no %v", t)
	case t == Binary && c.dec.hixie:
		return fmt.Errorf("websocket: hixie-76 has no binary messages: %w", errors.ErrUnsupported)
	}
	for c.writer != nil && c.werr == nil {
		c.turn.Wait()
	}
	return c.writable()
}

// writable returns the error of a write, if none can succeed. mu is held.
func (c *Conn) writable() error {
	if c.werr == nil && c.shaking {
		return errUnfinished
	}
	return c.werr
}

// putFrame sends a data frame of which first is the first byte and w the writer,
// if it is a fragment. mu is held.
func (c *Conn) putFrame(first byte, p []byte, w *messageWriter) error {
	if len(p) >= batchSize || len(p) >= directSize && c.raw != nil && !c.client && !c.dec.hixie {
		return c.putLarge(first, p, w)
	}
	if err := c.writable(); err != nil {
		return err
	}
	out := c.output()
	if c.dec.hixie {
		out.b = appendHixie(out.b, first, p)
	} else {
		out.b = appendFrame(out.b, first, p, c.client)
	}
	c.unqueue()
	c.crowded = c.crowded || c.reading
	if c.more && len(out.b) < batchSize {
		c.replies = true
		c.writeWithin(batchDelay)
		return nil
	}
	if c.flush() != nil {
		return c.werr
	}
	return nil
}

// putLarge is putFrame for a large payload. It is written from p itself, or piece by
// piece if it has to be masked or delimited.
func (c *Conn) putLarge(first byte, p []byte, w *messageWriter) error {
	for c.writing || c.writer != w && c.werr == nil {
		if w != nil && c.writer != w {
			return errStale
		}
		c.turn.Wait()
	}
	if err := c.writable(); err != nil {
		return err
	}
	out := c.output()
	var key uint32
	if c.dec.hixie {
		out.b = appendHixie(out.b, first&^finBit, nil)
	} else {
		out.b = appendHeader(out.b, first, c.client, len(p))
		if c.client {
			out.b, key = appendKey(out.b)
		}
	}
	c.transfer(func(out *output) error {
		if !c.client && !c.dec.hixie {
			step := min(len(p), writeSize)
			out.vec = [2][]byte{out.b, p[:step]}
			out.bufs = out.vec[:]
			size := int64(len(out.b) + step)
			n, err := out.bufs.WriteTo(c.rw)
			out.vec = [2][]byte{}
			if err == nil && n < size {
				err = io.ErrShortWrite
			}
			if err != nil {
				return err
			}
			c.moved.Add(1)
			return c.write(p[step:])
		}
		for {
			n := len(out.b)
			step := min(len(p), max(0, batchSize+maxHeader-n)) // others may have put more
			out.b = append(out.b, p[:step]...)
			p = p[step:]
			if c.client {
				key = mask(out.b[n:], key)
			}
			if c.dec.hixie && len(p) == 0 && first&finBit != 0 {
				out.b = append(out.b, 0xFF)
			}
			if err := c.write(out.b); err != nil || len(p) == 0 {
				return err
			}
			out.b = out.b[:0]
		}
	})
	if c.broken != nil {
		return c.werr
	}
	return nil
}

// putCompressed sends a message, compressed if that makes it shorter. mu is held, but not
// while p is compressed.
func (c *Conn) putCompressed(t MessageType, p []byte) error {
	d := c.deflate
	var w *messageWriter
	if d.send.takeover {
		// Messages have to be sent in the order in which they refer to each other.
		w = &d.writer
		c.writer = w
	}
	history := d.send.history
	c.mu.Unlock()
	out := outputs.Get().(*output)
	defer out.free()
	message, rsv := d.message(out, history, p)
	c.mu.Lock()
	switch {
	case w == nil:
		if err := c.beginWrite(t); err != nil {
			return err
		}
	case rsv != 0:
		d.send.add(p)
	}
	if w != nil && len(message) < directSize { // it is put behind the others at once
		c.writer, w = nil, nil
		c.turn.Broadcast()
	}
	err := c.putFrame(finBit|rsv|byte(t), message, w)
	if w != nil {
		c.writer = nil
		if c.unqueue() {
			c.writeWithin(0)
		}
		c.turn.Broadcast()
	}
	return err
}

// output returns the output that the next bytes are to be appended to. mu is
// held.
func (c *Conn) output() *output {
	if c.out == nil {
		c.out = outputs.Get().(*output)
		c.batch++
	}
	return c.out
}

// flush writes the output, or waits for the goroutine that already does. mu is held
// on entry and on return, but not during the write.
func (c *Conn) flush() error {
	mine := c.batch
	for c.writing && c.done < mine {
		c.turn.Wait()
	}
	if c.done < mine && c.broken == nil {
		c.transfer(func(out *output) error { return c.write(out.b) })
	}
	return c.broken
}

// transfer lets write hand the output to rw. mu is held on entry and on return, but
// not during the write.
func (c *Conn) transfer(write func(*output) error) {
	out, batch := c.take()
	err := errPanic // unless write returns
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.taken(batch, err)
	}()
	err = write(out)
	out.free()
}

// take makes the caller the one that writes, and gives it the output. mu is held.
func (c *Conn) take() (out *output, batch uint64) {
	out, batch = c.out, c.batch
	c.out, c.replies, c.controls, c.writing = nil, false, 0, true
	c.sending = len(out.b)
	return out, batch
}

// taken ends what take began. mu is held.
func (c *Conn) taken(batch uint64, err error) {
	c.writing, c.done, c.sending = false, batch, 0
	if err != nil {
		c.broken = err
		c.werr = cmp.Or(c.werr, err)
	}
	c.turn.Broadcast()
}

// writeWithin has the timer's goroutine write the output after d, unless it has been
// written by then. mu is held.
func (c *Conn) writeWithin(d time.Duration) {
	switch {
	case c.pushing || c.armed && d > 0 || c.shutdown:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(d, c.writeLate)
	default:
		c.timer.Reset(d)
	}
	c.armed = true
}

// writeLate is the timer's function. At most one such goroutine writes at a time; it
// goes on with what is queued meanwhile.
func (c *Conn) writeLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	if c.pushing {
		return
	}
	c.pushing = true
	for c.out != nil && c.flush() == nil {
	}
	c.pushing = false
}

// beforeWait sends replies that were held back before a read that may wait. If other
// goroutines write too, it leaves that to the timer: waiting for their output could
// deadlock with a peer that waits for this side to read.
//
// It reports whether Serve is to wait in a new goroutine, see Server.rest: between two
// messages, if the peer is calm.
func (c *Conn) beforeWait() (rest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.more = false
	switch {
	case !c.replies:
	case c.crowded && c.closer != nil:
		c.writeWithin(0)
	case !c.writing:
		c.flush()
	}
	if c.calm == 0 || c.stage != awaiting || c.r < c.w || !c.between() {
		return false
	}
	c.calm--
	return true
}

// putControl queues a control frame for the timer's goroutine. If it waited for the
// transport, two busy peers could wait for each other's pongs. It does wait if the
// transport cannot be closed, and is thus no socket, or if 64 KiB of control frames
// are queued. mu is held.
func (c *Conn) putControl(opcode byte, p []byte) error {
	out := c.output()
	n := len(out.b)
	out.b = appendFrame(out.b, finBit|opcode, p, c.client)
	c.controls += len(out.b) - n
	if c.closer == nil || c.controls >= batchSize {
		return c.flush()
	}
	c.writeWithin(0)
	return nil
}

// putBytes sends a part of the opening handshake. mu is held.
func (c *Conn) putBytes(b []byte) error {
	out := c.output()
	out.b = append(out.b, b...)
	return c.flush()
}
