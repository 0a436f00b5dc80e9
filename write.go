// Writing: whole messages, messages in fragments, and the one place where output leaves.

package websocket

import (
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// batchDelay is how long a reply may wait for others to leave with it.
const batchDelay = time.Millisecond

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
	if err := c.beginWriteLocked(t); err != nil {
		return err
	}
	if c.write.compresses(p) {
		return c.writeCompressedLocked(t, p)
	}
	return c.putLocked(finBit|byte(t), p, nil)
}

// Write sends p as one binary message, or for hixie-76 as a text message; see
// [Conn.WriteMessage], which also sends text to other clients.
func (c *Conn) Write(p []byte) (int, error) {
	t := Binary
	c.mu.Lock()
	if c.write.isHixie() {
		t = Text
	}
	c.mu.Unlock()
	if err := c.WriteMessage(t, p); err != nil {
		return 0, err
	}
	return len(p), nil
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
	if err := c.beginWriteLocked(t); err != nil {
		return nil, err
	}
	w := &messageWriter{c: c}
	c.write.begin(&w.m, t)
	return w, nil
}

// A messageWriter writes one message.
type messageWriter struct {
	c *Conn
	m outgoing
}

func (w *messageWriter) Write(p []byte) (int, error) {
	c, m := w.c, &w.m
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.write.isOpen(m) {
		return 0, errStale
	}
	opcode, z, err := m.fragment(p)
	if err != nil {
		return 0, err
	}
	fragment := p
	if z != nil {
		c.mu.Unlock()
		fragment = z.compress(p)
		c.mu.Lock()
		defer m.keep(z)
		c.write.remember(p)
	}
	if err := c.putLocked(opcode, fragment, m); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *messageWriter) Close() error {
	c, m := w.c, &w.m
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.write.isOpen(m) {
		return errStale
	}
	opcode, last, err := m.end()
	if err == errBusy {
		return err
	}
	c.cond.Broadcast()
	if err != nil {
		// What has been sent cannot become a valid message any more.
		c.putCloseLocked(failure(CloseInternalError, "a text message ended within a rune"))
		c.write.end()
		c.flushLocked()
		return err
	}
	c.write.end()
	return c.putLocked(opcode, last, nil)
}

// beginWriteLocked waits while another message is open and then reports what keeps c from
// sending one of type t.
func (c *Conn) beginWriteLocked(t MessageType) error {
	c.mu.assertLocked()
	switch {
	case t != Text && t != Binary:
		return fmt.Errorf("websocket: there is no %v", t)
	case t == Binary && c.write.isHixie():
		return fmt.Errorf("websocket: hixie-76 has no binary messages: %w", errors.ErrUnsupported)
	}
	for !c.write.isOpen(nil) && c.end.sends() {
		c.cond.Wait()
	}
	return c.end.writable()
}

// putLocked sends a data frame of which first is the first byte, and m the open message if it
// is a part of that.
func (c *Conn) putLocked(first byte, p []byte, m *outgoing) error {
	c.mu.assertLocked()
	if len(p) >= batchSize || len(p) >= directSize && c.t.isSocket() && c.write.isPlain() {
		return c.putLargeLocked(first, p, m)
	}
	if err := c.end.writable(); err != nil {
		return err
	}
	c.write.put(first, p)
	c.write.unqueue(true)
	if c.turn != turnFree {
		c.write.crowd()
	}
	if c.write.hold(c.more.Load()) {
		c.writeLaterLocked(batchDelay)
		return nil
	}
	if c.flushLocked() != nil {
		return c.end.writable()
	}
	return nil
}

// putLargeLocked is putLocked for a large payload. It is written from p itself, or piece by
// piece if it has to be masked or delimited.
func (c *Conn) putLargeLocked(first byte, p []byte, m *outgoing) error {
	c.mu.assertLocked()
	for c.write.isBusy() || !c.write.isOpen(m) && c.end.sends() {
		if m != nil && !c.write.isOpen(m) {
			return errStale
		}
		c.cond.Wait()
	}
	if err := c.end.writable(); err != nil {
		return err
	}
	if c.drainLocked(c.write.takeLarge(first, p), true); c.end.failed() != nil {
		return c.end.writable()
	}
	return nil
}

// writeCompressedLocked sends a message, compressed if that makes it shorter. mu is not held
// while p is compressed.
func (c *Conn) writeCompressedLocked(t MessageType, p []byte) error {
	c.mu.assertLocked()
	z, history, ordered := c.write.compress()
	c.mu.Unlock()
	out := newOutput()
	defer out.free()
	message, rsv := z.message(out, history, p)
	c.mu.Lock()
	if !ordered {
		if err := c.beginWriteLocked(t); err != nil {
			return err
		}
		return c.putLocked(finBit|rsv|byte(t), message, nil)
	}
	if rsv != 0 {
		c.write.remember(p)
	}
	if len(message) < directSize { // it is put behind the others at once
		c.write.end()
		c.cond.Broadcast()
		return c.putLocked(finBit|rsv|byte(t), message, nil)
	}
	err := c.putLocked(finBit|rsv|byte(t), message, compressing)
	c.write.end()
	if c.write.unqueue(c.end.writable() == nil) {
		c.writeLaterLocked(0)
	}
	c.cond.Broadcast()
	return err
}

// flushLocked writes the output, or waits for the goroutine that already does. mu is not held
// during the write.
func (c *Conn) flushLocked() error {
	c.mu.assertLocked()
	mine := c.write.last()
	for c.write.isBusy() && !c.write.wrote(mine) {
		c.cond.Wait()
	}
	if !c.write.wrote(mine) && c.end.failed() == nil {
		c.drainLocked(c.write.take(), true)
	}
	return c.end.failed()
}

// drainLocked gives a batch to the transport: nothing else does. Unless it is to wait for room,
// it leaves what a socket has no room for to the timer's goroutine. mu is not held during the
// write.
func (c *Conn) drainLocked(b batch, wait bool) {
	c.mu.assertLocked()
	var rest []byte
	err := errPanic // unless the transport returns
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		if err != nil { // nothing can follow
			c.end.breakWrites(err)
			rest = nil
		}
		c.write.giveBack(b, rest)
		if len(rest) > 0 {
			c.writeLaterLocked(0)
		}
		c.cond.Broadcast()
	}()
	for more := true; more; {
		var head, tail []byte
		head, tail, more = b.next()
		if !wait {
			rest, err = c.t.tryWrite(head)
		} else if err = c.t.write(head, tail); err != nil {
			break
		}
	}
}

// writeLaterLocked has the timer's goroutine write the output after d, unless it has been
// written by then.
func (c *Conn) writeLaterLocked(d time.Duration) {
	c.mu.assertLocked()
	switch {
	case c.end.isShut() || !c.write.postpone(d == 0):
	case c.timers.write == nil:
		c.timers.write = time.AfterFunc(d, c.writeLate)
	default:
		c.timers.write.Reset(d)
	}
}

// writeLate is the timer's function. One goroutine at a time writes, and goes on with what is
// put behind the output meanwhile.
func (c *Conn) writeLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.write.beginLate() {
		return
	}
	for c.write.pending() && c.flushLocked() == nil {
	}
	c.write.endLate()
}

// settle sends replies that were held back before a read that may wait. If other
// goroutines write too, it leaves that to the timer: waiting for their output could
// deadlock with a peer that waits for this side to read.
func (c *Conn) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.more.Store(false)
	held, crowded := c.write.replies()
	switch {
	case !held:
	case crowded && c.t.closes():
		c.writeLaterLocked(0)
	case !c.write.isBusy():
		c.flushLocked()
	}
}

// putControlLocked queues a control frame for the timer's goroutine. If it waited for the
// transport, two busy peers could wait for each other's pongs. It does wait if the
// transport cannot be closed, and is thus no socket, or if 64 KiB of control frames
// are queued.
func (c *Conn) putControlLocked(opcode byte, p []byte) error {
	c.mu.assertLocked()
	if c.write.putControl(opcode, p) || !c.t.closes() {
		return c.flushLocked()
	}
	c.writeLaterLocked(0)
	return nil
}

// putCloseLocked puts a close frame behind the output, unless nothing more can be sent,
// and makes e the error of all later writes. The reason goes with it only if it is
// this side's.
func (c *Conn) putCloseLocked(e *CloseError) {
	c.mu.assertLocked()
	if c.end.stopWrites(e) {
		c.write.putClose(e.Code, e.ownReason())
	}
}
