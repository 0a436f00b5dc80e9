package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// newTestSocket returns a socket, in the poller or not, the connection that it has come from, and
// its peer.
func newTestSocket(t *testing.T, polled bool) (s *socket, conn, peer *net.TCPConn) {
	t.Helper()
	conn, peer = loopback(t)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	s = newSocket(conn, raw).(*socket)
	conn.Close()
	t.Cleanup(func() { s.Close() })
	if polled {
		if _, err := s.poll(); err != nil {
			t.Fatal(err)
		}
	}
	if s.isPolled() != polled {
		t.Fatalf("it is polled: %v", !polled)
	}
	return s, conn, peer
}

// testBoth runs f with a socket that is in the poller, and with one that is not.
func testBoth(t *testing.T, f func(t *testing.T, polled bool)) {
	for _, polled := range []bool{false, true} {
		t.Run(fmt.Sprintf("polled=%v", polled), func(t *testing.T) { f(t, polled) })
	}
}

// TestSocketSize has a socket take what its comment says.
func TestSocketSize(t *testing.T) {
	if size := unsafe.Sizeof(socket{}); size > 64 {
		t.Errorf("it has %d bytes", size)
	}
}

// TestSocket reads and writes, at once and when it has to wait.
func TestSocket(t *testing.T) {
	testBoth(t, func(t *testing.T, polled bool) {
		s, conn, peer := newTestSocket(t, polled)
		if _, err := conn.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the connection that it was has the error %v", err)
		}
		if got, want := s.LocalAddr(), conn.LocalAddr(); got.String() != want.String() || got.Network() != "tcp" {
			t.Errorf("the local address is %v, want %v", got, want)
		}
		if got, want := s.RemoteAddr(), conn.RemoteAddr(); got.String() != want.String() || got.Network() != "tcp" {
			t.Errorf("the remote address is %v, want %v", got, want)
		}
		if n, err := s.Write([]byte("meow")); n != 4 || err != nil || s.isPolled() != polled {
			t.Errorf("Write: %d, %v, polled: %v", n, err, s.isPolled())
		}
		p := make([]byte, 4)
		if _, err := io.ReadFull(peer, p); string(p) != "meow" {
			t.Errorf("the peer has read %q, %v", p, err)
		}
		large := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		var group sync.WaitGroup
		group.Go(func() {
			if n, err := s.Write(large); n != len(large) || err != nil {
				t.Errorf("Write of much: %d, %v", n, err)
			}
		})
		got := make([]byte, len(large))
		if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, large) {
			t.Errorf("the peer has not read what was written, %v", err)
		}
		group.Wait()
		group.Go(func() { peer.Write([]byte("purr")) })
		if _, err := io.ReadFull(s, p); string(p) != "purr" {
			t.Errorf("Read: %q, %v", p, err)
		}
		group.Wait()

		// Its output ends, and its input does not.
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
		if n, err := peer.Read(p); n != 0 || err != io.EOF {
			t.Errorf("the peer has read %q, %v", p[:n], err)
		}
		peer.Close()
		if n, err := s.Read(p); n != 0 || err != io.EOF {
			t.Errorf("at the end: %q, %v", p[:n], err)
		}
	})
}

// TestSocketPieces writes two pieces with one call, of which the socket takes a part at a time.
func TestSocketPieces(t *testing.T) {
	conn, peer := loopback(t)
	conn.SetWriteBuffer(32 << 10)
	var tr transport
	tr.init(conn)
	if tr.unpoll() != io.Closer(conn) {
		t.Fatal("it is not unpolled")
	}
	conn.Close()
	defer tr.close()
	var group sync.WaitGroup
	want := make([]byte, 200_000)
	for i := range want {
		want[i] = byte(i % 251)
	}
	for _, n := range []int{1, 10, 100, 100_000} {
		group.Go(func() {
			if head, tail, err := tr.write(want[:n], want[n:]); err != nil || len(head)+len(tail) > 0 {
				t.Errorf("%d and %d bytes are left, %v", len(head), len(tail), err)
			}
		})
		got := make([]byte, len(want))
		if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("what was written with a head of %d bytes does not come, %v", n, err)
		}
		group.Wait()
	}
	if got := tr.taken.Load(); got != uint32(4*len(want)) {
		t.Errorf("it has taken %d bytes", got)
	}
}

// TestSocketErrors compares errors with those of the connection that the socket was.
func TestSocketErrors(t *testing.T) {
	past := time.Unix(1, 0)
	closed := func(c net.Conn, _ *net.TCPConn) { c.Close() }
	tests := []struct {
		name    string
		prepare func(c net.Conn, peer *net.TCPConn)
		want    error
	}{
		{"closed", closed, net.ErrClosed},
		{"deadline", func(c net.Conn, _ *net.TCPConn) { c.SetReadDeadline(past); c.SetWriteDeadline(past) }, os.ErrDeadlineExceeded},
		{"reset", func(c net.Conn, peer *net.TCPConn) {
			peer.SetLinger(0)
			peer.Close()
			raw, _ := c.(syscall.Conn).SyscallConn()
			for tries := 0; tries < 1e6; tries++ { // until it has come
				var code int
				raw.Control(func(fd uintptr) { code, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO) })
				if code&0xff == 7 { // TCP_CLOSE
					break
				}
			}
		}, syscall.ECONNRESET},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			testBoth(t, func(t *testing.T, polled bool) {
				s, _, peer := newTestSocket(t, polled)
				test.prepare(socketConn{s}, peer)
				want := test.want
				_, err := s.Read(make([]byte, 1))
				var op *net.OpError
				if !errors.Is(err, want) || !errors.As(err, &op) || op.Op != "read" || op.Source.String() != s.LocalAddr().String() {
					t.Errorf("Read: %v, want %v", err, want)
				}
				if timeout := want == os.ErrDeadlineExceeded; op != nil && op.Timeout() != timeout {
					t.Errorf("Read: it is a timeout: %v", !timeout)
				}
				_, err = s.Write([]byte{1})
				if want == syscall.ECONNRESET { // which only one call gets
					want = syscall.EPIPE
				}
				if !errors.Is(err, want) || !errors.As(err, &op) || op.Op != "write" {
					t.Errorf("Write: %v, want %v", err, want)
				}
				if want != net.ErrClosed {
					return
				}
				raw, _ := s.SyscallConn()
				never := func(uintptr) bool { t.Error("a descriptor that is closed is used"); return true }
				for name, err := range map[string]error{
					"Close": s.Close(), "CloseWrite": s.CloseWrite(), "SetReadDeadline": s.SetReadDeadline(past),
					"raw.Read": raw.Read(never), "raw.Write": raw.Write(never), "raw.Control": raw.Control(func(fd uintptr) { never(fd) }),
				} {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		})
	}
}

// A socketConn is a socket as a net.Conn.
type socketConn struct{ *socket }

func (c socketConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// TestSocketDeadline has a deadline go once it is taken back.
func TestSocketDeadline(t *testing.T) {
	testBoth(t, func(t *testing.T, polled bool) {
		s, _, peer := newTestSocket(t, polled)
		if err := s.SetReadDeadline(time.Time{}); err != nil || s.isPolled() != polled {
			t.Errorf("no deadline: %v, polled: %v", err, s.isPolled())
		}
		s.SetReadDeadline(time.Unix(1, 0))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		s.SetReadDeadline(time.Time{})
		peer.Write([]byte("x"))
		if n, err := s.Read(make([]byte, 1)); n != 1 {
			t.Error(err)
		}
	})
}

// inode returns the number of what a descriptor is of, which another one has that gets the same
// descriptor.
func inode(fd int32) uint64 {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(fd), &st); err != nil {
		return 0
	}
	return st.Ino
}

// TestSocketClose closes a socket while its descriptor is used: that stays as long, and whoever
// waits is told at once.
func TestSocketClose(t *testing.T) {
	testBoth(t, func(t *testing.T, polled bool) {
		s, _, _ := newTestSocket(t, polled)
		fd, was := s.fd, inode(s.fd)
		raw, _ := s.SyscallConn()
		var group sync.WaitGroup
		read := make(chan error, 1)
		raw.Control(func(uintptr) {
			if polled {
				group.Go(func() { _, err := s.Read(make([]byte, 1)); read <- err })
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if inode(fd) != was {
				t.Error("the descriptor is closed while it is used")
			}
			if polled {
				if err := wait(t, read); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a read that waits ends with %v", err)
				}
			}
		})
		group.Wait()
		for begin := time.Now(); inode(fd) == was; runtime.Gosched() { // by a goroutine, if polled
			if time.Since(begin) > 20*time.Second {
				t.Fatal("the descriptor is not closed")
			}
		}
	})
}

// TestSocketLeave has the last user of a socket that is closed not wait for a read that calls
// functions, of which one may wait for that user.
func TestSocketLeave(t *testing.T) {
	s, _, _ := newTestSocket(t, false)
	raw, _ := s.SyscallConn()
	fd, err := s.enter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.poll(); err != nil {
		t.Fatal(err)
	}
	inside, left, done := make(chan bool), make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		raw.Read(func(uintptr) bool {
			close(inside)
			<-left
			return true
		})
	}()
	wait(t, inside)
	s.Close()
	go func() {
		s.leave(fd)
		close(left)
	}()
	wait(t, left)
	wait(t, done)
}

// TestSocketUnpoll takes a socket from the poller: nothing is lost, and no descriptor left.
func TestSocketUnpoll(t *testing.T) {
	s, _, peer := newTestSocket(t, false)
	p := make([]byte, 1)
	for i := range byte(5) {
		fd, was := s.fd, inode(s.fd)
		if s.unpoll() != nil || s.fd != fd {
			t.Error("it has another descriptor, and was not in the poller")
		}
		peer.Write([]byte{i})
		if _, err := s.poll(); err != nil || s.fd != fd {
			t.Fatalf("the poller has it with another descriptor, or not: %v", err)
		}
		if s.unpoll().Close(); s.isPolled() || s.fd == fd || inode(s.fd) != was || inode(fd) == was {
			t.Error("the poller has it still, or the descriptor of before")
		}
		if n, err := syscall.Read(int(s.fd), p); n != 1 || p[0] != i {
			t.Errorf("read: %d, %d, %v", n, p[0], err)
		}
	}
}

// noDescriptor is a connection of which there can be no other descriptor.
type noDescriptor struct{ syscall.RawConn }

func (noDescriptor) Control(func(uintptr)) error { return syscall.EMFILE }

// TestSocketNoDescriptor has everything stay as it is when there is no descriptor left.
func TestSocketNoDescriptor(t *testing.T) {
	_, _, peer := newTestSocket(t, false)
	if s := newSocket(peer, noDescriptor{}); s != nil {
		t.Error("there is a socket")
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	s, _, _ := newTestSocket(t, true)
	f := s.file.Load()
	f.raw = noDescriptor{f.raw}
	if s.unpoll() != nil {
		t.Error("something is to be closed")
	}
	if _, err := s.Write([]byte("x")); err != nil || !s.isPolled() {
		t.Errorf("Write: %v, polled: %v", err, s.isPolled())
	}
}

// TestServerRestUnpolled has a connection beside net/http rest, and go on: it keeps no net.Conn,
// nor has one to read and answer what comes now and then.
func TestServerRestUnpolled(t *testing.T) {
	opened, accepted := make(chan *Conn, 1), make(chan net.Conn, 1)
	addr := make(chan string, 10)
	s := &Server{Options: Options{PingInterval: time.Hour}}
	s.OnOpen = func(c *Conn) { addr <- c.RemoteAddr().String(); opened <- c }
	s.OnMessage = func(c *Conn, m MessageType, p []byte) {
		addr <- c.RemoteAddr().String()
		c.WriteMessage(m, p)
	}
	keep := func(ctx context.Context, conn net.Conn) context.Context { accepted <- conn; return ctx }
	url := serveLoopback(t, &http.Server{Handler: s, ConnContext: keep})
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	client, err := Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseNow()
	c := wait(t, opened)
	expectUnpolled := func(when string) {
		t.Helper()
		awaitRest(t, s, 1, 0)
		c.mu.Lock()
		defer c.mu.Unlock()
		if sock, ok := c.t.rw.(*socket); !ok || sock.isPolled() {
			t.Errorf("%s the transport is a %T", when, c.t.rw)
		}
	}
	expectUnpolled("at first")
	if _, err := wait(t, accepted).Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the net.Conn has the error %v", err)
	}
	s.Broadcast(Text, []byte("news"))
	expectMessages(t, client, "news")
	expectUnpolled("after a broadcast")
	for _, text := range []string{"one", "two"} {
		c.serve.mayRest(2)
		if err := client.WriteMessage(Text, []byte(text)); err != nil {
			t.Fatal(err)
		}
		expectMessages(t, client, text)
		expectUnpolled("after " + text)
	}
	c.serve.mayRest(0)
	for _, text := range []string{"three", "four"} { // the goroutine waits
		client.WriteMessage(Text, []byte(text))
		expectMessages(t, client, text)
	}
	awaitRest(t, s, 0, 1)
	c.mu.Lock()
	c.serve.nudge()
	c.t.interrupt()
	c.serve.mayRest(1)
	c.mu.Unlock()
	expectUnpolled("after a while in the poller")
	client.WriteMessage(Text, []byte("five"))
	expectMessages(t, client, "five")
	for want := wait(t, addr); len(addr) > 0; {
		if got := <-addr; got != want || got != client.LocalAddr().String() {
			t.Errorf("the remote address is %s, want %s", got, want)
		}
	}
}

// TestServerRestKept has a connection rest while the program is in a call on the net.Conn that it has
// kept, and from there uses the connection.
func TestServerRestKept(t *testing.T) {
	opened, done := make(chan *Conn, 1), make(chan bool)
	s := &Server{Options: Options{PingInterval: time.Hour}, Handler: Handler{OnOpen: func(c *Conn) { opened <- c }}}
	server, conn := loopback(t)
	go func() {
		defer close(done)
		c := NewConn(server, nil)
		if _, err := ShakeHands(c); err != nil {
			t.Error(err)
		}
		raw, _ := server.SyscallConn()
		err := raw.Control(func(uintptr) {
			if err := s.Adopt(c, s.Handler); err != nil {
				t.Error(err)
			}
			awaitRest(t, s, 1, 0)
			if err := c.WriteMessage(Text, []byte("Hello")); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}()
	client, err := ClientHandshake(conn, "ws://server.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseNow()
	wait(t, opened)
	expectMessages(t, client, "Hello")
	wait(t, done)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestTransportUnpollDeadline has a write deadline that was taken back not keep a connection in the poller.
func TestTransportUnpollDeadline(t *testing.T) {
	conn, _ := loopback(t)
	var tr transport
	tr.init(conn)
	for _, at := range []time.Time{time.Now().Add(time.Hour), {}} {
		tr.beginWrite(true)
		tr.setWriteDeadline(at)
		tr.endWrite()
		if polled := tr.isPolled(); polled != at.IsZero() {
			t.Errorf("with the deadline %v there is something to keep: %v", at, !polled)
		}
	}
}

// TestServerRestWrites has a goroutine of the program write all the time while connections rest
// and go on.
func TestServerRestWrites(t *testing.T) {
	const clients, messages = 4, 2000
	s := &Server{Options: Options{PingInterval: 32 * time.Millisecond}} // a tick is 2 ms
	var group sync.WaitGroup
	s.OnMessage = func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) }
	s.OnOpen = func(c *Conn) {
		group.Go(func() {
			for i := range messages {
				if err := c.WriteMessage(Text, fmt.Append(nil, i)); err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					c.RemoteAddr()
				}
			}
		})
	}
	url := serveLoopback(t, &http.Server{Handler: s})
	for range clients {
		client, err := Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			defer client.CloseNow()
			echoes := 0
			for next := 0; next < messages; {
				_, p, err := client.ReadMessage()
				if err != nil {
					t.Error(err)
					return
				}
				if string(p) == "echo" {
					echoes++
					continue
				}
				if string(p) != fmt.Sprint(next) {
					t.Errorf("message %d is %q", next, p)
					return
				}
				if next++; next%20 == 0 {
					if err := client.WriteMessage(Text, []byte("echo")); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
