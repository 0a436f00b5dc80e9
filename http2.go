// A stream of HTTP/2 (RFC 8441) as a transport.

package websocket

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// A stream is a stream of HTTP/2 as a transport. Its body is read through a pipe, because a
// read deadline of net/http's would be the end of it.
type stream struct {
	net.Conn // the end of the pipe that is read from
	body     io.ReadCloser
	w        http.ResponseWriter
	control  *http.ResponseController
	local    net.Addr
	remote   net.Addr

	readErr error // of body; set before the pipe is closed

	mu     sync.Mutex // held while w is written to
	closed bool

	deadlines sync.Mutex // guards what follows, and control
	deadline  time.Time  // for writes
	writing   bool       // and the deadline is in force
	over      bool       // the handler may return: neither w nor control is to be used any more
}

func newStream(w http.ResponseWriter, r *http.Request) *stream {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	s := &stream{body: r.Body, w: w, control: http.NewResponseController(w), local: cmp.Or[net.Addr](local, noAddr{}), remote: noAddr{}}
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		s.remote = net.TCPAddrFromAddrPort(a)
	}
	var in net.Conn
	s.Conn, in = net.Pipe()
	// When the stream has ended, what it has brought can be read for a while.
	stop := context.AfterFunc(r.Context(), func() { in.SetWriteDeadline(time.Now().Add(closeTimeout)) })
	go func() {
		_, s.readErr = io.CopyBuffer(in, s.body, make([]byte, heldInputSize))
		stop()
		if isTimeout(s.readErr) { // of in: what the stream has brought has not been read in time
			s.readErr = io.ErrUnexpectedEOF
		}
		in.Close()
	}()
	return s
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF && s.readErr != nil {
		err = s.readErr
	}
	return n, err
}

func (s *stream) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	s.enforce(true)
	err = s.try(func() error {
		if n, err = s.w.Write(p); err != nil {
			return err
		}
		return s.control.Flush()
	})
	if d := s.enforce(false); err != nil && !d.IsZero() && !d.After(time.Now()) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// enforce puts the deadline in force for a write, or not any more: a stream would not survive it,
// even if nothing was written. It returns the deadline.
func (s *stream) enforce(on bool) time.Time {
	s.deadlines.Lock()
	defer s.deadlines.Unlock()
	s.writing = on
	switch {
	case s.deadline.IsZero():
	case on:
		s.setLocked(s.deadline)
	default:
		s.setLocked(time.Time{})
	}
	return s.deadline
}

func (s *stream) setLocked(t time.Time) error {
	if s.over {
		return net.ErrClosed
	}
	return s.try(func() error { return s.control.SetWriteDeadline(t) })
}

// try calls f, which uses w. That may panic after the handler has returned.
func (s *stream) try(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("websocket: %v", v)
		}
	}()
	return f()
}

// Close ends reads and writes in progress. The stream itself ends when its handler
// returns.
func (s *stream) Close() error {
	s.Conn.Close()
	s.body.Close()
	if !s.mu.TryLock() {
		s.SetWriteDeadline(time.Unix(1, 0)) // resets the stream
		s.mu.Lock()
	}
	s.closed = true
	s.mu.Unlock()
	s.deadlines.Lock()
	s.over = true
	s.deadlines.Unlock()
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.deadlines.Lock()
	defer s.deadlines.Unlock()
	s.deadline = t
	switch {
	case s.over:
		return net.ErrClosed
	case s.writing:
		return s.setLocked(t)
	}
	return nil
}

func (s *stream) LocalAddr() net.Addr { return s.local }

func (s *stream) RemoteAddr() net.Addr { return s.remote }
