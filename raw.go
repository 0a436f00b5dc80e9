// System calls on a socket, and writes that are made of them: without a wait, or with one for each
// time that the socket has no room.

package websocket

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// A socketWriter is what a transport needs to write to a socket.
type socketWriter struct {
	raw   syscall.RawConn
	taken *atomic.Uint32 // counts the bytes that the socket takes, modulo 2^32
	try   func(fd uintptr) bool
	rest  []byte
	tail  []byte // what follows it
	wait  bool   // for room
	err   error  // result of try

	two  [2][]byte
	bufs net.Buffers
}

// socketWriters holds those that are not in use: few are, at a time.
var socketWriters = sync.Pool{New: func() any {
	s := new(socketWriter)
	s.try = s.tryWrite
	return s
}}

func newSocketWriter(raw syscall.RawConn, taken *atomic.Uint32) *socketWriter {
	s := socketWriters.Get().(*socketWriter)
	s.raw, s.taken = raw, taken
	return s
}

func (s *socketWriter) free() {
	*s = socketWriter{try: s.try}
	socketWriters.Put(s)
}

// write writes rest and tail, or as much as there is room for, and leaves what has not been
// written. The error of the socket is a syscall.Errno.
func (s *socketWriter) write() error {
	err := s.raw.Write(s.try)
	if err == nil {
		err = s.err
	}
	return err
}

// tryWrite is what raw.Write calls whenever there may be room, until it reports true.
func (s *socketWriter) tryWrite(fd uintptr) bool {
	for len(s.rest) > 0 {
		var n int
		var err error
		if len(s.tail) > 0 {
			n, err = writev(fd, s.rest, s.tail)
		} else {
			n, err = callFD(syscall.Write, fd, s.rest[:min(len(s.rest), 1<<30)])
		}
		switch {
		case err == syscall.EINTR:
		case wouldBlock(err):
			return !s.wait
		case err != nil:
			s.err = err
			return true
		default:
			s.take(n)
			if n < len(s.rest) {
				s.rest = s.rest[n:]
			} else {
				s.rest, s.tail = s.tail[n-len(s.rest):], nil
			}
		}
	}
	return true
}

// writeBuffers writes two pieces with one call of writev, where w has that. w is what raw is of.
func (s *socketWriter) writeBuffers(w io.Writer, head, tail []byte) (n int, err error) {
	s.two = [2][]byte{head, tail}
	s.bufs = s.two[:]
	sent, err := s.bufs.WriteTo(w)
	s.take(int(sent))
	if err == nil && int(sent) < len(head)+len(tail) {
		err = io.ErrShortWrite
	}
	return int(sent), err
}

func (s *socketWriter) take(n int) { s.taken.Add(uint32(n)) }

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
