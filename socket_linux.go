// A TCP connection of which only the descriptor is kept while nobody waits for it.

package websocket

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unique"
	"unsafe"
)

// A socket is a TCP connection in 64 bytes, where a net.TCPConn takes about a thousand, half of
// them in the poller of the runtime. It reads and writes what can be read and written at once. Who
// has to wait takes it to the poller: there the descriptor belongs to an os.File, up to unpoll.
//
// A descriptor that is closed may be another connection's at once. An os.File sees to that itself.
// All others that use the descriptor are counted, and if there are any when the socket is closed,
// the last of them closes the descriptor. None of them waits, but one may be a read that calls
// functions of a Handler.
type socket struct {
	file   atomic.Pointer[polledFile] // or nil: nobody has had to wait
	mu     sync.Mutex                 // guards what follows, and changes of file
	fd     int32                      // or -1: it is closed
	users  int32                      // of the descriptor
	local  unique.Handle[netip.AddrPort]
	remote netip.AddrPort
}

// A polledFile is a descriptor in the poller of the runtime.
type polledFile struct {
	*os.File
	raw syscall.RawConn
}

// newSocket returns a socket in the place of conn, which is then to be closed, or nil if conn stays.
// raw is that of conn. Nobody reads or writes meanwhile, and conn has no deadlines.
func newSocket(conn *net.TCPConn, raw syscall.RawConn) io.ReadWriter {
	local, _ := conn.LocalAddr().(*net.TCPAddr)
	remote, _ := conn.RemoteAddr().(*net.TCPAddr)
	s := &socket{fd: copyDescriptor(raw), local: unique.Make(local.AddrPort()), remote: remote.AddrPort()}
	if s.fd < 0 {
		return nil
	}
	return s
}

// isPolled reports whether the poller has the socket.
func (s *socket) isPolled() bool { return s.file.Load() != nil }

// unpoll takes the socket from the poller, as newSocket takes a net.TCPConn, and returns what is then
// to be closed. The descriptor becomes another one, unless there is none left: then nothing changes.
func (s *socket) unpoll() io.Closer {
	f := s.file.Load()
	if f == nil {
		return nil
	}
	fd := copyDescriptor(f.raw)
	if fd < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fd = fd
	s.file.Store(nil)
	return f
}

// copyDescriptor returns a descriptor of the same connection, or -1. It is not 1 or 2, even if those
// are free: an os.File takes these for the standard output, and has EPIPE end the program.
func copyDescriptor(raw syscall.RawConn) (fd int32) {
	fd = -1
	raw.Control(func(old uintptr) {
		if n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 3); errno == 0 {
			fd = int32(n)
		}
	})
	return fd
}

// enter returns the descriptor, for a use that does not wait and ends with leave.
func (s *socket) enter() (fd int32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return -1, net.ErrClosed
	}
	s.users++
	return s.fd, nil
}

func (s *socket) leave(fd int32) {
	s.mu.Lock()
	s.users--
	last := s.fd < 0 && s.users == 0
	s.mu.Unlock()
	switch {
	case last && s.file.Load() != nil:
		go s.end(fd) // it waits for a read that calls functions of a Handler
	case last:
		s.end(fd)
	}
}

// end closes the descriptor, which nobody uses any more.
func (s *socket) end(fd int32) error {
	if f := s.file.Load(); f != nil {
		return f.Close()
	}
	return os.NewSyscallError("close", syscall.Close(int(fd)))
}

// Close closes the socket. It does not wait for those that use the descriptor.
func (s *socket) Close() error {
	s.mu.Lock()
	fd, users := s.fd, s.users
	s.fd = -1
	s.mu.Unlock()
	switch f := s.file.Load(); {
	case fd < 0:
		return s.error("close", net.ErrClosed)
	case users == 0:
		return s.error("close", s.end(fd))
	case f != nil:
		f.SetDeadline(time.Unix(1, 0)) // whoever waits is not to wait for the users
	}
	return nil
}

// poll returns the socket in the poller.
func (s *socket) poll() (*polledFile, error) {
	if f := s.file.Load(); f != nil {
		return f, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.file.Load(); f != nil {
		return f, nil
	}
	if s.fd < 0 {
		return nil, net.ErrClosed
	}
	f := &polledFile{File: os.NewFile(uintptr(s.fd), "tcp")}
	f.raw, _ = f.SyscallConn()
	s.file.Store(f)
	return f, nil
}

// error returns err as a net.TCPConn would, or nil.
func (s *socket) error(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if e, ok := err.(*os.PathError); ok {
		err = e.Err
	}
	s.mu.Lock()
	if s.fd < 0 {
		err = net.ErrClosed
	}
	s.mu.Unlock()
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

func (s *socket) Read(p []byte) (int, error) {
	f, err := s.poll()
	if err != nil {
		return 0, s.error("read", err)
	}
	n, err := f.Read(p)
	return n, s.error("read", err)
}

func (s *socket) Write(p []byte) (n int, err error) {
	if s.file.Load() == nil {
		fd, err := s.enter()
		if err != nil {
			return 0, s.error("write", err)
		}
		n, err = syscall.Write(int(fd), p)
		s.leave(fd)
		if n == len(p) {
			return n, nil
		}
		if n = max(n, 0); err != nil && err != syscall.EAGAIN && err != syscall.EINTR {
			return n, s.error("write", err)
		}
	}
	f, err := s.poll()
	if err != nil {
		return n, s.error("write", err)
	}
	m, err := f.Write(p[n:])
	return n + m, s.error("write", err)
}

// CloseWrite ends the output.
func (s *socket) CloseWrite() error {
	var err error
	if closed := (*rawSocket)(s).Control(func(fd uintptr) { err = syscall.Shutdown(int(fd), syscall.SHUT_WR) }); closed != nil {
		return closed
	}
	return s.error("shutdown", err)
}

func (s *socket) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(s.local.Value()) }
func (s *socket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

func (s *socket) SetReadDeadline(t time.Time) error {
	return s.setDeadline(t, (*os.File).SetReadDeadline)
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(t, (*os.File).SetWriteDeadline)
}

// setDeadline sets a deadline in the poller, where there is none before the socket comes there.
func (s *socket) setDeadline(t time.Time, set func(*os.File, time.Time) error) error {
	if t.IsZero() && s.file.Load() == nil {
		return nil
	}
	f, err := s.poll()
	if err == nil {
		err = set(f.File, t)
	}
	return s.error("set", err)
}

// SyscallConn returns s.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return (*rawSocket)(s), nil }

// A rawSocket is a socket as a syscall.RawConn.
type rawSocket socket

// Control calls f with the descriptor.
func (r *rawSocket) Control(f func(fd uintptr)) error {
	s := (*socket)(r)
	fd, err := s.enter()
	if err != nil {
		return s.error("control", err)
	}
	defer s.leave(fd)
	f(uintptr(fd))
	return nil
}

// Read calls f whenever there may be input, until that returns true.
func (r *rawSocket) Read(f func(fd uintptr) bool) error {
	return r.wait("read", f, syscall.RawConn.Read)
}

// Write calls f whenever there may be room, until that returns true.
func (r *rawSocket) Write(f func(fd uintptr) bool) error {
	return r.wait("write", f, syscall.RawConn.Write)
}

func (r *rawSocket) wait(op string, f func(fd uintptr) bool, wait func(syscall.RawConn, func(uintptr) bool) error) error {
	s, done, err := (*socket)(r), false, error(nil)
	if s.file.Load() == nil {
		done, err = r.try(f)
	}
	if !done && err == nil {
		var p *polledFile
		if p, err = s.poll(); err == nil {
			err = wait(p.raw, f)
		}
	}
	return s.error(op, err)
}

// try calls f once.
func (r *rawSocket) try(f func(fd uintptr) bool) (done bool, err error) {
	s := (*socket)(r)
	fd, err := s.enter()
	if err != nil {
		return false, err
	}
	defer s.leave(fd) // also if f panics
	return f(uintptr(fd)), nil
}

// writev writes two pieces with one call.
func writev(fd uintptr, head, tail []byte) (int, error) {
	v := [2]syscall.Iovec{{Base: unsafe.SliceData(head)}, {Base: unsafe.SliceData(tail)}}
	v[0].SetLen(len(head))
	v[1].SetLen(len(tail))
	n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v)), 2)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
