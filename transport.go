// What lies below a connection: any stream, or a socket that is waited on without a buffer. It
// knows nothing of the protocol.

package websocket

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	directSize = 16 << 10 // bytes of payload from which on none is copied
	writeSize  = 64 << 10 // bytes of one write, whose end is progress
)

// A transport reads from a stream into an input, writes to it, and closes it. Its input
// half belongs to whoever has the turn to read, its output half to whoever writes.
type transport struct {
	raw   syscall.RawConn // of a socket on which reads can wait without a buffer, or nil
	in    *input          // or nil
	now   *atomic.Uint32  // of the clock that looks at this, or nil
	heard atomic.Uint32   // when something was read last
	taken atomic.Uint32   // bytes that rw has taken, modulo 2^32
	rw    io.ReadWriter
	shuts bool // rw can be closed

	// The lock of a Conn guards these.
	own       bool       // a write that does not heed the caller's deadline is in progress
	sent      uint32     // when something was written last
	before    uint32     // bytes that rw had taken at beginWrite
	deadlines *deadlines // or nil: there are none
}

// deadlines are the times at which reads and writes end.
type deadlines struct {
	read  time.Time // as the caller has set it
	limit time.Time // for reads besides
	write time.Time // for the caller's writes
	set   time.Time // for writes, as rw has it
}

// init makes t a transport over rw.
func (t *transport) init(rw io.ReadWriter) {
	t.rw = rw
	// Only these types are known not to have a Read of their own above the
	// socket's.
	switch rw.(type) {
	case *net.TCPConn, *net.UnixConn:
		t.raw, _ = rw.(syscall.Conn).SyscallConn()
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" || runtime.GOOS == "js" {
		t.raw = nil // syscall.Read cannot poll a descriptor there
	}
	_, t.shuts = rw.(io.Closer)
}

// A pollable takes the place of a socket. It is in the poller of the runtime only while somebody
// has to wait.
type pollable interface {
	io.ReadWriter
	syscall.Conn
	isPolled() bool
	unpoll() io.Closer
}

// isPolled reports whether unpoll would have t keep less.
func (t *transport) isPolled() bool {
	t.forget()
	if p, ok := t.rw.(pollable); ok {
		return p.isPolled() && t.deadlines == nil
	}
	_, ok := t.rw.(*net.TCPConn)
	return ok && t.raw != nil && t.deadlines == nil
}

// unpoll has t keep no more of a TCP connection than it needs while nobody waits. The lock of the
// Conn is held, and nobody reads, writes or closes. It returns what is to be closed without that
// lock, as it may wait for a program that has kept the net.Conn; or nil.
func (t *transport) unpoll() io.Closer {
	switch rw := t.rw.(type) {
	case pollable:
		return rw.unpoll()
	case *net.TCPConn:
		if s := newSocket(rw, t.raw); s != nil {
			t.rw = s
			t.raw, _ = s.(syscall.Conn).SyscallConn()
			return rw
		}
	}
	return nil
}

// stream returns what t is over.
func (t *transport) stream() io.ReadWriter { return t.rw }

// isSocket reports whether t waits for input without a buffer, and can try to write.
func (t *transport) isSocket() bool { return t.raw != nil }

// closes reports whether t can be closed.
func (t *transport) closes() bool { return t.shuts }

// preload makes b the first input.
func (t *transport) preload(b []byte) {
	if len(b) > 0 {
		t.makeInput().preload(b)
	}
}

// makeInput returns the input, for what is about to be read. It takes one if there is none.
func (t *transport) makeInput() *input {
	if t.in == nil {
		t.in = newInput(t)
	}
	return t.in
}

// release gives back what only reads need. What has not been decoded stays.
func (t *transport) release() {
	if t.in.free() {
		t.in = nil
	}
}

// input returns what has been read and not been used. It may be changed, and is valid until
// more is read or the buffer is released.
func (t *transport) input() []byte { return t.in.bytes() }

// buffered returns the length of input.
func (t *transport) buffered() int { return len(t.in.bytes()) }

// use takes the first n bytes off the input.
func (t *transport) use(n int) { t.in.use(n) }

// fill reads more input: at least a byte.
func (t *transport) fill() error {
	if t.raw != nil {
		return t.fillSocket()
	}
	in := t.makeInput()
	in.makeRoom(heldInputSize)
	n, err := t.readFrom(in.space())
	in.add(n)
	return err
}

// fillSocket is fill for a socket. It needs so little stack that a goroutine which does
// nothing else keeps the one it began with.
func (t *transport) fillSocket() error {
	in, err := t.makeInput(), error(nil)
	if !in.isHeld() {
		err = t.raw.Read(in.try)
	}
	if err == nil {
		err = in.takeHeld()
	}
	if e, ok := err.(*net.OpError); ok {
		e.Op = "read" // not raw-read
	}
	return err
}

// setThen has f deal with what reads find that do not fill the buffer, before they return. It
// reports whether it has used all, or an error for the read.
func (t *transport) setThen(f func() (used bool, err error)) {
	if t.in != nil || f != nil {
		t.makeInput().setThen(f)
	}
}

// isHeld reports whether the next read has an error that came before.
func (t *transport) isHeld() bool { return t.in.isHeld() }

// wait fills the input. An error is held for the next read.
func (t *transport) wait() {
	err := t.fillSocket()
	t.in.hold(err)
}

// control calls f with the descriptor of a socket, unless that is closed.
func (t *transport) control(f func(fd uintptr)) error { return t.raw.Control(f) }

// read reads into p, past the input buffer, which is empty.
func (t *transport) read(p []byte) (int, error) {
	if t.raw != nil && t.in != nil {
		t.in.release()
	}
	return t.readFrom(p)
}

// readFrom reads from rw. It returns bytes or an error.
func (t *transport) readFrom(p []byte) (int, error) {
	if err := t.in.takeHeld(); err != nil {
		return 0, err
	}
	n, err := readSome(t.rw, p)
	if n == 0 {
		return 0, err
	}
	t.hear()
	if err != nil && !isTimeout(err) {
		t.makeInput().hold(err)
	}
	return n, nil
}

// readSome reads from r, with one call unless that returns nothing at all. There may be an error
// with the bytes, as r returns it.
func readSome(r io.Reader, p []byte) (n int, err error) {
	for range 100 {
		if n, err = r.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// tryRead is what raw.Read calls whenever there may be input, until it reports
// true. When there is none it gives the buffer back, so that none is held while
// raw.Read waits.
//
// A read that does not fill the buffer has found all there was. If then has used that, no other
// read is needed to see that there is no more: raw.Read waits for what has come since raw.Read was
// called, or comes now. But an end may have come with the last bytes, which is no news any more.
// A peer that is gone answers what was written to it by a reset, which is, so only if nothing was
// written the next read is made.
func (t *transport) tryRead(fd uintptr) bool {
	in := t.in
	for {
		in.makeRoom(inputSize)
		n, err := callFD(syscall.Read, fd, in.space())
		switch {
		case err == syscall.EINTR:
			continue
		case wouldBlock(err):
			in.release()
			return false
		case err != nil:
			err = t.opError("read", err)
		case n == 0:
			err = io.EOF
		}
		if in.hold(err); err != nil {
			return true
		}
		in.add(n)
		t.hear()
		if in.isFull() {
			return true
		}
		taken := t.taken.Load()
		if !in.finish() {
			return true
		}
		if t.taken.Load() != taken {
			in.release()
			return false
		}
	}
}

// watch has t note when something is read, and written, by a clock.
func (t *transport) watch(now *atomic.Uint32) {
	t.now, t.sent = now, now.Load()
	t.heard.Store(t.sent)
}

// lastInput and lastOutput return when something was read last, and written.
func (t *transport) lastInput() uint32  { return t.heard.Load() }
func (t *transport) lastOutput() uint32 { return t.sent }

// hear notes that something was read.
func (t *transport) hear() {
	if t.now == nil {
		return
	}
	if now := t.now.Load(); now != t.heard.Load() {
		t.heard.Store(now)
	}
}

// progress returns how many bytes, modulo 2^32, the peer has taken as far as the system tells, or
// else rw. It changes when there is progress.
func (t *transport) progress() uint32 { return t.taken.Load() - uint32(unsent(t.rw)) }

// takenNow returns how many bytes rw has taken since beginWrite.
func (t *transport) takenNow() int { return int(t.taken.Load() - t.before) }

// take notes that rw has taken n bytes.
func (t *transport) take(n int) { t.taken.Add(uint32(n)) }

// write writes head and then tail, which may be empty, with one call unless they are large. It
// returns what rw has not taken, which is nothing if there is no error.
func (t *transport) write(head, tail []byte) (_, _ []byte, err error) {
	if t.raw != nil && len(tail) > 0 {
		n := 0
		n, err = t.writeBoth(head, tail[:min(len(tail), writeSize)])
		if n < len(head) {
			return head[n:], tail, err
		}
		if head, tail = tail[n-len(head):], nil; err != nil {
			return head, nil, err
		}
	}
	if t.raw != nil && len(head) > writeSize {
		head, err = t.writeSocket(head, true)
		return head, nil, err
	}
	for len(head)+len(tail) > 0 && err == nil {
		if len(head) == 0 {
			head, tail = tail, nil
		}
		n := 0
		n, err = writeSome(t.rw, head[:min(len(head), writeSize)])
		t.take(n)
		head = head[n:]
	}
	return head, tail, err
}

// tryWrite writes what a socket has room for, and returns the rest. If there is one, the error is
// os.ErrDeadlineExceeded.
func (t *transport) tryWrite(p []byte) (rest []byte, err error) {
	if rest, err = t.writeSocket(p, false); len(rest) > 0 && err == nil {
		err = os.ErrDeadlineExceeded
	}
	return rest, err
}

// writeSocket writes to a socket: it sees progress without parting p. It waits for room, if
// wait is true, or else returns what there is no room for.
func (t *transport) writeSocket(p []byte, wait bool) (rest []byte, err error) {
	s := newSocketWriter(t.raw, &t.taken)
	defer s.free()
	s.rest, s.wait = p, wait
	err = t.writeError(s.write())
	return s.rest, err
}

// writeBoth writes head and tail to a socket, with one call unless there is no room for them.
func (t *transport) writeBoth(head, tail []byte) (n int, err error) {
	s := newSocketWriter(t.raw, &t.taken)
	defer s.free()
	if _, ok := t.rw.(pollable); !ok {
		return s.writeBuffers(t.rw, head, tail)
	}
	s.rest, s.tail, s.wait = head, tail, true
	err = t.writeError(s.write())
	return len(head) + len(tail) - len(s.rest) - len(s.tail), err
}

// writeError returns the error of a write to a socket.
func (t *transport) writeError(err error) error {
	if e, ok := err.(*net.OpError); ok {
		e.Op = "write" // not raw-write
	} else if err != nil {
		err = t.opError("write", err)
	}
	return err
}

// writeSome writes p with one call of w.Write, and returns how much w has taken, which is all of it
// if there is no error.
func writeSome(w io.Writer, p []byte) (n int, err error) {
	n, err = w.Write(p)
	n = max(0, min(n, len(p))) // whatever w says
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

func (t *transport) opError(op string, err error) error {
	local := localAddr(t.rw)
	return &net.OpError{Op: op, Net: local.Network(), Source: local, Addr: remoteAddr(t.rw), Err: os.NewSyscallError(op, err)}
}

// close closes rw. It is called once.
func (t *transport) close() error { return t.rw.(io.Closer).Close() }

// endOutput ends the output, and reports whether that can be done.
func (t *transport) endOutput() bool {
	half, ok := t.rw.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// linger waits for the peer to close the stream: if this side did it while
// there is input that has not been read, a TCP connection would be reset, and the
// peer might lose what was sent last.
func (t *transport) linger() {
	if !t.endOutput() {
		return
	}
	in := t.makeInput()
	in.makeRoom(heldInputSize)
	for err := error(nil); err == nil; {
		_, err = t.readFrom(in.space())
	}
}

// setReadDeadline sets the deadline for reads that the caller wants.
func (t *transport) setReadDeadline(at time.Time) error {
	t.times().read = at
	return t.applyDeadline()
}

// limitRead lets reads end at a time at the latest, or if it is zero, when the caller wants.
// It reports whether there was such a limit before the caller's deadline.
func (t *transport) limitRead(at time.Time) bool {
	d := t.times()
	limited := d.limited()
	d.limit = at
	t.applyDeadline()
	return limited
}

// times returns the deadlines, to be changed.
func (t *transport) times() *deadlines {
	if t.deadlines == nil {
		t.deadlines = new(deadlines)
	}
	return t.deadlines
}

// limited reports whether limit is before the caller's deadline for reads.
func (d *deadlines) limited() bool {
	return !d.limit.IsZero() && (d.read.IsZero() || d.limit.Before(d.read))
}

// readLimit returns the time at which reads end, or the zero time.
func (t *transport) readLimit() time.Time {
	switch d := t.deadlines; {
	case d == nil:
		return time.Time{}
	case d.limited():
		return d.limit
	default:
		return d.read
	}
}

// interrupt ends a read in progress with a timeout, and all later ones until applyDeadline is called
// or another deadline is set.
func (t *transport) interrupt() { t.endReads(time.Unix(1, 0)) }

// applyDeadline has reads end when they are to.
func (t *transport) applyDeadline() error {
	at := t.readLimit()
	t.forget()
	return t.endReads(at)
}

func (t *transport) endReads(at time.Time) error {
	if rw, ok := t.rw.(interface{ SetReadDeadline(time.Time) error }); ok {
		return rw.SetReadDeadline(at)
	}
	return os.ErrNoDeadline
}

// forget gives the memory of deadlines back if there are none.
func (t *transport) forget() {
	if t.deadlines != nil && *t.deadlines == (deadlines{}) {
		t.deadlines = nil
	}
}

// setWriteDeadline sets the deadline for the caller's writes.
func (t *transport) setWriteDeadline(at time.Time) error {
	rw, ok := t.rw.(interface{ SetWriteDeadline(time.Time) error })
	if !ok {
		return os.ErrNoDeadline
	}
	if t.own {
		t.times().write = at
		return nil
	}
	err := rw.SetWriteDeadline(at)
	if err != nil {
		at = time.Time{} // some have the method, but no deadlines
	}
	if t.deadlines != nil || !at.IsZero() {
		d := t.times()
		d.write, d.set = at, at
		t.forget()
	}
	return err
}

// writeDeadline returns the deadline for the caller's writes, or the zero time.
func (t *transport) writeDeadline() time.Time {
	if t.deadlines == nil {
		return time.Time{}
	}
	return t.deadlines.write
}

// expired returns an error if the caller's writes have no time left.
func (t *transport) expired() error {
	if at := t.writeDeadline(); at.IsZero() || time.Now().Before(at) {
		return nil
	}
	return errUnsent
}

// beginWrite has the writes up to endWrite end at the caller's deadline, or if they are not the
// caller's own, never, unless limitWrite is called.
func (t *transport) beginWrite(own bool) {
	t.own = own
	t.before = t.taken.Load()
	if t.deadlines == nil {
		return
	}
	at := t.deadlines.write
	if own {
		at = time.Time{}
	}
	if !at.Equal(t.deadlines.set) {
		t.limitWrite(at)
	}
}

// endWrite ends what beginWrite began.
func (t *transport) endWrite() {
	if t.own = false; t.now != nil && t.takenNow() > 0 {
		t.sent = t.now.Load()
	}
}

// limitWrite lets the write in progress end at a time at the latest.
func (t *transport) limitWrite(at time.Time) {
	if rw, ok := t.rw.(interface{ SetWriteDeadline(time.Time) error }); ok {
		t.times().set = at
		rw.SetWriteDeadline(at)
	}
}

// freeDeadlines removes all deadlines.
func (t *transport) freeDeadlines() {
	if d := t.deadlines; d != nil {
		d.read, d.limit = time.Time{}, time.Time{}
	}
	t.applyDeadline()
	t.setWriteDeadline(time.Time{})
}

// localAddr returns the local address of rw, or one that stands for none.
func localAddr(rw io.ReadWriter) net.Addr {
	if a, ok := rw.(interface{ LocalAddr() net.Addr }); ok {
		return a.LocalAddr()
	}
	return noAddr{}
}

// remoteAddr returns the remote address of rw, or one that stands for none.
func remoteAddr(rw io.ReadWriter) net.Addr {
	if a, ok := rw.(interface{ RemoteAddr() net.Addr }); ok {
		return a.RemoteAddr()
	}
	return noAddr{}
}

// noAddr is the address of a stream that has none.
type noAddr struct{}

func (noAddr) Network() string { return "websocket" }
func (noAddr) String() string  { return "unknown" }
