// How much of what was written the peer has not taken yet, as Linux tells.

package websocket

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// unsent returns how many bytes written to rw the system holds that the peer has not acknowledged
// (SIOCOUTQ, see tcp(7)), or 0 if it cannot tell. A writer is told of room only when a third of what
// may be some megabytes is free, so from that alone a peer that reads slowly looks like one that
// does not.
func unsent(rw io.ReadWriter) (n int32) {
	if wrapper, ok := rw.(interface{ NetConn() net.Conn }); ok { // as a tls.Conn is
		rw = wrapper.NetConn()
	}
	socket, ok := rw.(syscall.Conn)
	if !ok {
		return 0
	}
	if raw, err := socket.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
		})
	}
	return n
}
