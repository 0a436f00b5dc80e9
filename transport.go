package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Sizes and times of a Conn's input and output.
const (
	inputSize     = 32 << 10 // bytes of a pooled input buffer
	heldInputSize = 4 << 10  // bytes of a buffer that has to stay while a Conn is idle
	sharedSize    = 4 << 10  // bytes of an allocation for messages that came together
	directSize    = 16 << 10 // bytes of payload from which on none is copied
	batchSize     = 64 << 10 // bytes of output that do not wait for more
	writeSize     = 64 << 10 // bytes of one write, whose end is progress
	batchDelay    = time.Millisecond
)

// inputs holds buffers of type *[inputSize]byte.
var inputs = sync.Pool{New: func() any { return new([inputSize]byte) }}

// readSocket reads more input from a socket. It needs so little stack that a goroutine which
// does nothing else keeps the one it began with.
func (c *Conn) readSocket() error {
	err := c.raw.Read(c.try)
	if err == nil {
		err, c.held = c.held, nil
	}
	if e, ok := err.(*net.OpError); ok {
		e.Op = "read" // not raw-read
	}
	return err
}

// readTransport reads from rw, when all that the peer may be waiting for is on
// its way. It returns bytes or an error.
func (c *Conn) readTransport(p []byte) (int, error) {
	if err := c.held; err != nil {
		c.held = nil
		return 0, err
	}
	var n int
	err := errPanic // unless rw returns
	defer func() {
		if err == errPanic {
			c.endRead(err)
		}
	}()
	c.beforeWait()
	for range 100 {
		err = errPanic
		n, err = c.rw.Read(p)
		if n > 0 {
			c.hear()
			if !isTimeout(err) {
				c.held = err
			}
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// tryRead is what raw.Read calls whenever there may be input, until it reports
// true. When there is none it gives the buffer back, so that none is held while
// raw.Read waits.
func (c *Conn) tryRead(fd uintptr) bool {
	c.makeRoom(inputSize)
	n, err := callFD(syscall.Read, fd, c.in[c.w:])
	for err == syscall.EINTR {
		n, err = callFD(syscall.Read, fd, c.in[c.w:])
	}
	switch {
	case wouldBlock(err):
		c.releaseInput()
		return false
	case err != nil:
		c.held = c.opError("read", err)
	case n == 0:
		c.held = io.EOF
	default:
		c.w += n
		c.hear()
	}
	return true
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(),
		Err: os.NewSyscallError(op, err)}
}

// hear notes that the peer is alive.
func (c *Conn) hear() {
	if !c.heard.Load() {
		c.heard.Store(true)
	}
}

// wouldBlock reports whether err is syscall.EAGAIN, which Plan 9 has not.
func wouldBlock(err error) bool {
	errno, ok := err.(net.Error)
	return ok && errno.Timeout() && err != syscall.ETIMEDOUT
}

// callFD calls syscall.Read or Write, whose first parameter is an int, or on Windows a
// Handle.
func callFD[FD ~int | ~uintptr](f func(FD, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	return f(FD(fd), p)
}

// makeRoom makes in a buffer of at least size bytes with space behind w.
func (c *Conn) makeRoom(size int) {
	input := c.in[c.r:c.w]
	switch {
	case len(c.in) < size && size == inputSize:
		c.in = inputs.Get().(*[inputSize]byte)[:]
	case len(c.in) < size:
		c.in = make([]byte, size)
	case len(input) == len(c.in):
		c.in = make([]byte, 2*len(c.in))
	case c.r == 0:
		return
	}
	c.r, c.w = 0, copy(c.in, input)
}

// releaseInput gives the input buffer back. What has not been decoded, a part of
// a header, of a control frame or of a request, stays in a copy of its size.
func (c *Conn) releaseInput() {
	b := c.in
	c.in = slices.Clone(b[c.r:c.w])
	if c.r == c.w {
		c.in = nil
	}
	c.r, c.w = 0, len(c.in)
	if len(b) == inputSize {
		inputs.Put((*[inputSize]byte)(b))
	}
}

// write writes p to rw, with one call of Write unless p is large.
func (c *Conn) write(p []byte) error {
	if c.raw != nil && len(p) > writeSize {
		_, err := c.writeRaw(p, true)
		return err
	}
	for len(p) > 0 {
		n := min(len(p), writeSize)
		if err := writeFull(c.rw, p[:n]); err != nil {
			return err
		}
		p = p[n:]
		c.moved.Add(1)
	}
	return nil
}

// writeRaw is write for a socket: it sees progress without parting p. It waits for room, if
// wait is true, or else returns what there is no room for.
func (c *Conn) writeRaw(p []byte, wait bool) (rest []byte, err error) {
	if c.socket == nil {
		c.socket = &socketWriter{c: c}
		c.socket.try = c.socket.tryWrite
	}
	s := c.socket
	s.rest, s.wait = p, wait
	err = c.raw.Write(s.try)
	if err == nil {
		err, s.err = s.err, nil
	}
	if e, ok := err.(*net.OpError); ok {
		e.Op = "write" // not raw-write
	}
	rest, s.rest = s.rest, nil
	return rest, err
}

// A socketWriter is what writeRaw needs. It belongs to whoever has set writing.
type socketWriter struct {
	c    *Conn
	try  func(fd uintptr) bool
	rest []byte
	wait bool
	err  error // result of try
}

// tryWrite is what raw.Write calls whenever there may be room, until it reports true.
func (s *socketWriter) tryWrite(fd uintptr) bool {
	for len(s.rest) > 0 {
		n, err := callFD(syscall.Write, fd, s.rest[:min(len(s.rest), 1<<30)])
		switch {
		case err == syscall.EINTR:
		case wouldBlock(err):
			return !s.wait
		case err != nil:
			s.err = s.c.opError("write", err)
			return true
		default:
			s.rest = s.rest[n:]
			s.c.moved.Add(1)
		}
	}
	return true
}

// writeFull writes p with one call of w.Write.
func writeFull(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// noAddr is the address of a stream that has none.
type noAddr struct{}

func (noAddr) Network() string { return "websocket" }

func (noAddr) String() string { return "unknown" }

// isTimeout reports whether a read that failed with err can go on later.
func isTimeout(err error) bool {
	if _, ok := err.(*HandshakeError); ok {
		return false
	}
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
