// Writing: whole messages, messages in fragments, and the one place where output leaves.

package websocket

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"
)

const (
	batchDelay = time.Millisecond // how long a reply may wait for others to leave with it
	stallTime  = time.Minute      // in which a peer must take something of what is its
)

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
// the connection stays usable. So it does after a write deadline; see
// [Conn.SetWriteDeadline]. Any other error of the transport is final for all writes,
// but does not end reads; see [Conn.CloseNow]. Once the connection is closed, the error
// is the [*CloseError].
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
	return c.putLocked(finBit|byte(t), p, len(p), nil)
}

// Write sends p as one binary message, or for hixie-76 as a text message. So do [fmt.Fprintf] and
// [encoding/json.NewEncoder] with a Conn, where most peers expect text: that takes
// [Conn.WriteMessage], or the writer that [Conn.NextWriter] returns.
//
// If Write fails and yet returns the length of p, the write deadline has passed after the message
// was begun, which will be sent.
func (c *Conn) Write(p []byte) (int, error) {
	t := Binary
	c.mu.Lock()
	if c.write.isHixie() {
		t = Text
	}
	c.mu.Unlock()
	return written(len(p), c.WriteMessage(t, p))
}

// NextWriter begins a message that is sent in fragments: every Write sends one, and
// Close a last one without text. Other messages have to wait until then, so a goroutine
// that has begun a message must close it before it sends another. Control frames do
// not wait.
//
// A rune may be split across fragments, but the whole message must be valid UTF-8
// if it is text: if it ends within a rune, Close closes the connection. For hixie-76 the
// message is one frame, sent in pieces.
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
	if err := c.readyLocked(); err != nil {
		return 0, err
	}
	opcode, z, err := m.fragment(p)
	if err != nil {
		return 0, err
	}
	fragment := p
	if z != nil {
		c.mu.Unlock()
		fragment, err = z.compress(p)
		c.mu.Lock()
		defer m.keep(z)
		if err != nil {
			return 0, c.breakLocked(err)
		}
		c.write.remember(p)
	}
	return written(len(p), c.putLocked(opcode, fragment, len(p), m))
}

// written returns what a Write of n bytes returns if sending them has returned err.
func written(n int, err error) (int, error) {
	if err != nil && err != errSending {
		n = 0
	}
	return n, err
}

func (w *messageWriter) Close() error {
	c, m := w.c, &w.m
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.write.isOpen(m) {
		return errStale
	}
	if err := c.readyLocked(); err == errUnsent {
		return err
	}
	opcode, last, err := m.end()
	if err == errBusy {
		return err
	}
	c.cond.broadcast()
	if err != nil {
		// What has been sent cannot become a valid message any more.
		c.putCloseLocked(failure(CloseInternalError, "a text message ended within a rune"))
		c.write.end()
		c.flushLocked(ours)
		return err
	}
	c.write.end()
	return c.putLocked(opcode, last, 0, nil)
}

// beginWriteLocked waits until a message can begin, and then reports what keeps c from sending one
// of type t.
func (c *Conn) beginWriteLocked(t MessageType) error {
	c.mu.assertLocked()
	switch {
	case t != Text && t != Binary:
		return misuse("there is no %v", t)
	case t == Binary && c.write.isHixie():
		return fmt.Errorf("websocket: hixie-76 has no binary messages: %w", errors.ErrUnsupported)
	}
	err := c.readyLocked()
	for err == nil && !c.write.isOpen(nil) {
		if err = c.awaitOpenLocked(); err == nil {
			err = c.readyLocked() // in the meantime, another message may have begun
		}
	}
	return err
}

// awaitOpenLocked waits while a message is open.
func (c *Conn) awaitOpenLocked() error {
	c.mu.assertLocked()
	c.write.block(1)
	defer c.write.block(-1)
	for !c.write.isOpen(nil) && c.end.sends() {
		if err := c.waitLocked(callers); err != nil {
			return err
		}
	}
	return nil
}

// readyLocked waits until no message is left that an earlier write could not wait for, and then
// reports what keeps c from sending.
func (c *Conn) readyLocked() error {
	c.mu.assertLocked()
	for c.write.isStuck() && c.end.sends() {
		if err := c.waitLocked(callers); err != nil {
			return err
		}
	}
	if err := c.end.writable(); err != nil {
		return err
	}
	return c.t.expired()
}

// waitLocked waits for a change. For a caller's write it also waits until the deadline, after
// which it returns an error.
func (c *Conn) waitLocked(by patience) error {
	c.mu.assertLocked()
	if by == callers {
		if err := c.t.expired(); err != nil {
			return err
		}
		if at := c.t.writeDeadline(); !at.IsZero() {
			c.timers.wakeAt(at, c.wake)
		}
	}
	c.cond.wait(&c.mu)
	return nil
}

// wake is the timer's function for writes that wait until their deadline.
func (c *Conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cond.broadcast()
}

// putLocked sends a data frame of which first is the first byte, and m the open message if it
// is a part of that. Its payload, before it was compressed, had size bytes.
func (c *Conn) putLocked(first byte, p []byte, size int, m *outgoing) error {
	c.mu.assertLocked()
	if len(p) >= batchSize || len(p) >= directSize && c.t.isSocket() && c.write.isPlain() {
		return c.putLargeLocked(first, p, size, m)
	}
	if err := c.end.writable(); err != nil {
		return err
	}
	c.write.put(first, p)
	c.countSentLocked(first, size)
	c.write.unqueue(true)
	if c.turn != turnFree {
		c.write.crowd()
	}
	if c.write.hold(c.more.Load()) {
		c.writeLaterLocked(batchDelay)
		return nil
	}
	err := c.flushLocked(callers)
	if c.end.failed() != nil {
		return c.end.writable()
	}
	return err
}

// putLargeLocked is putLocked for a large payload. It is written from p itself, or piece by
// piece if it has to be masked or delimited.
func (c *Conn) putLargeLocked(first byte, p []byte, size int, m *outgoing) error {
	c.mu.assertLocked()
	for {
		err := c.end.writable()
		switch {
		case err != nil:
			return err
		case m != nil && !c.write.isOpen(m):
			return errStale
		case c.write.isBusy() || !c.write.isOpen(m):
			err = c.waitLocked(callers)
		case !c.write.isSmall():
			err = c.drainLocked(c.write.take(), callers)
		default:
			c.countSentLocked(first, size)
			err = c.drainLocked(c.write.takeLarge(first, p), callers)
			switch {
			case c.end.failed() != nil:
				return c.end.writable()
			case err != nil:
				return c.stickLocked()
			}
			return nil
		}
		switch {
		case err == nil || c.end.writable() != nil:
		case m == nil:
			return errUnsent
		default: // a part of a message that has begun
			c.write.put(first, p)
			c.countSentLocked(first, size)
			return c.stickLocked()
		}
	}
}

// countSentLocked counts a data frame, which ends a message if it has FIN.
func (c *Conn) countSentLocked(first byte, size int) {
	c.mu.assertLocked()
	c.serve.count(outward, uint64(first/finBit), size)
}

// writeCompressedLocked sends a message, compressed if that makes it shorter. mu is not held
// while p is compressed.
func (c *Conn) writeCompressedLocked(t MessageType, p []byte) error {
	c.mu.assertLocked()
	z, history, ordered := c.write.compress()
	c.mu.Unlock()
	out := newScratch(len(p))
	defer out.free()
	message, rsv, err := z.message(out, history, p)
	c.mu.Lock()
	if err != nil {
		err = c.breakLocked(err)
		if ordered {
			c.write.end()
		}
		return err
	}
	if !ordered {
		if err := c.beginWriteLocked(t); err != nil {
			return err
		}
		return c.putLocked(finBit|rsv|byte(t), message, len(p), nil)
	}
	if rsv != 0 {
		c.write.remember(p)
	}
	if len(message) < directSize { // it is put behind the others at once
		c.write.end()
		c.cond.broadcast()
		return c.putLocked(finBit|rsv|byte(t), message, len(p), nil)
	}
	err = c.putLocked(finBit|rsv|byte(t), message, len(p), compressing)
	c.write.end()
	if c.write.unqueue(c.end.writable() == nil) {
		c.writeLaterLocked(0)
	}
	c.cond.broadcast()
	return err
}

// breakLocked sends a close frame, as a message cannot be compressed, and returns the error of its
// writer.
func (c *Conn) breakLocked(err error) error {
	c.mu.assertLocked()
	const reason = "a message could not be compressed"
	c.putCloseLocked(&CloseError{Code: CloseInternalError, Reason: reason, by: byUs, err: err})
	c.cond.broadcast()
	c.flushLocked(ours)
	return fmt.Errorf("websocket: %s: %w", reason, err)
}

// A patience says how long a write to the transport may take.
type patience byte

const (
	impatient patience = iota // no time: only what a socket has room for is written
	callers                   // until the deadline that the caller has set
	ours                      // as long as the peer takes something now and then
)

// flushLocked writes the output, or waits for the goroutine that already does. If it must not
// wait any longer, the output stays, and the timer's goroutine goes on. mu is not held during the
// write.
func (c *Conn) flushLocked(by patience) error {
	c.mu.assertLocked()
	mine := c.write.lastNumber()
	for !c.write.wrote(mine) && c.end.failed() == nil {
		var err error
		switch {
		case c.write.isBusy():
			err = c.waitLocked(by)
		case by == callers && c.t.expired() != nil: // while it waited
			err = errUnsent
		default:
			err = c.drainLocked(c.write.take(), by)
		}
		if err != nil && c.end.failed() == nil {
			return c.stickLocked()
		}
	}
	return c.end.failed()
}

// stickLocked leaves a message, or the rest of it, to the timer's goroutine.
func (c *Conn) stickLocked() error {
	c.mu.assertLocked()
	c.write.stick()
	c.writeLaterLocked(0)
	return errSending
}

// drainLocked gives a batch to the transport: nothing else does. What it must not wait for goes
// back in front of the output: then the timer's goroutine is to write it, and the error is a
// timeout. Any other error is the end of all writes. mu is not held during the write.
func (c *Conn) drainLocked(b batch, by patience) (err error) {
	c.mu.assertLocked()
	c.t.beginWrite(by != callers)
	err = errPanic // unless the transport returns
	late := false
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.t.endWrite()
		if err != nil && !late {
			c.end.breakWrites(err)
		}
		c.write.giveBack(b, !late)
		if late {
			c.writeLaterLocked(0)
		}
		c.cond.broadcast()
	}()
	for more := true; more; {
		var head, tail []byte
		head, tail, more = b.next()
		if by == callers {
			head, tail, err = c.t.write(head, tail)
		} else { // there is no tail
			head, err = c.send(head, by)
		}
		if err != nil {
			if late = by != ours && isTimeout(err); late {
				b.retain(head, tail, more)
			}
			break
		}
	}
	return err
}

// drainAllLocked writes the output to a socket as far as that has room.
func (c *Conn) drainAllLocked() {
	c.mu.assertLocked()
	for c.write.pending() && !c.write.isBusy() && c.end.failed() == nil {
		if c.drainLocked(c.write.take(), impatient) != nil {
			return
		}
	}
}

// send writes p, which the caller does not wait for, to the transport, and returns what that has not
// taken.
func (c *Conn) send(p []byte, by patience) (rest []byte, err error) {
	if c.t.isSocket() {
		if p, err = c.t.tryWrite(p); by == impatient || err != os.ErrDeadlineExceeded {
			return p, err
		}
	}
	var seen uint32 // the progress that there was when it took too long
	for {
		limit := c.limitWrite()
		if p, _, err = c.t.write(p, nil); !isTimeout(err) {
			return p, err
		}
		switch now := c.t.progress(); {
		case now != seen:
			seen = now
		case time.Now().Before(limit): // as a tls.Conn is for good, once it was interrupted
			return p, fmt.Errorf("websocket: the transport writes nothing more after a timeout: %w", err)
		default:
			return p, errStalled
		}
	}
}

// limitWrite sets a deadline for a write of the library's own, unless Serve looks after the peer,
// and returns the time up to which the write can take.
func (c *Conn) limitWrite() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := time.Now().Add(stallTime)
	if !c.serve.expects() {
		c.t.limitWrite(limit)
	}
	return limit
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
	for c.write.pending() && c.flushLocked(ours) == nil {
	}
	c.write.endLate()
}

// settle sends replies that were held back before a read that may wait. If it had to wait itself,
// it could deadlock with a peer that waits for this side to read: what a socket has no room for it
// leaves to the timer, and on other transports everything, once other goroutines write, too.
func (c *Conn) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.more.Store(false)
	held, crowded := c.write.replies()
	switch {
	case !held:
	case crowded && c.t.closes() && !c.t.isSocket():
		c.writeLaterLocked(0)
	case c.write.isBusy():
	case c.t.isSocket():
		c.drainAllLocked()
	case c.t.writeDeadline().IsZero():
		c.flushLocked(callers)
	default: // which may have passed meanwhile
		c.flushLocked(ours)
	}
}

// putControlLocked queues a control frame for the timer's goroutine. If it waited for the
// transport, two busy peers could wait for each other's pongs. It does wait if the
// transport cannot be closed, and is thus no socket, or if 64 KiB of control frames
// are queued.
func (c *Conn) putControlLocked(opcode byte, p []byte) error {
	c.mu.assertLocked()
	if c.write.putControl(opcode, p) || !c.t.closes() {
		return c.flushLocked(ours)
	}
	c.writeLaterLocked(0)
	return nil
}

// putCloseLocked puts a close frame behind the output, unless nothing more can be sent,
// and makes e the error of all later writes.
func (c *Conn) putCloseLocked(e *CloseError) {
	c.mu.assertLocked()
	if c.end.stopWrites(e) {
		c.write.putClose(e.Code, e.Reason)
	}
}
