package websocket

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A Conn that is being closed, or read by a method that has not noticed that it is closed, can be
// given to Serve. That calls OnClose at once and leaves the reader to whoever has the turn.
func TestServeWithoutTurn(t *testing.T) {
	for _, reads := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			go io.Copy(io.Discard, peer)
			if reads {
				go c.ReadMessage()
				synctest.Wait()
			}
			closed := goErr(c.Close)
			synctest.Wait() // it waits for the answer
			var ends []error
			served := goErr(func() error {
				return c.Serve(Handler{OnClose: func(_ *Conn, err error) { ends = append(ends, err) }})
			})
			synctest.Wait()
			if len(ends) != 1 {
				t.Errorf("a method reads: %t; OnClose got %v", reads, ends)
			}
			wait(t, closed)
			checkCode(t, wait(t, served), CloseNormal, byUs)
		})
	}
}

// Serve on a connection that is closed does not end the inflation of a message that a method reads.
func TestServeLeavesInflation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, peer := net.Pipe()
		defer peer.Close()
		c := packedConn(a, nil, true, false)
		go io.Copy(io.Discard, peer)
		d, _ := newDeflation(nil, deflateParams{}, false)
		frame := d.appendMessage(nil, finBit|opBinary, sampleText(100_000, 1))
		read := goErr(func() error { _, err := io.Copy(io.Discard, onlyReader{c}); return err })
		peer.Write(frame[:len(frame)/2])
		closed := goErr(c.Close)
		synctest.Wait()
		served := goErr(func() error { return c.Serve(Handler{}) })
		synctest.Wait()
		c.mu.Lock()
		if c.turn != turnMethod || !c.read.inflating() {
			t.Errorf("the turn is %d, a message is being inflated: %t", c.turn, c.read.inflating())
		}
		c.mu.Unlock()
		for _, done := range []<-chan error{read, closed, served} {
			wait(t, done)
		}
	})
}

// CloseWith only begins to close a connection that is served, whoever calls it: also while Serve
// waits for a peer that does not answer, or writes to one that does not read.
func TestCloseServed(t *testing.T) {
	for _, sent := range []string{"", "last"} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			served := goErr(func() error { return c.Serve(Handler{}) })
			if sent != "" { // Serve answers a close frame, and nobody reads the answer
				peer.Write(append(toward(c, opText, sent), toward(c, opClose, closing(CloseNormal, ""))...))
			}
			synctest.Wait()
			start := time.Now()
			if err := c.CloseWith(CloseServiceRestart, ""); err != nil || time.Since(start) > 0 {
				t.Errorf("CloseWith returned %v after %v", err, time.Since(start))
			}
			checkCode(t, wait(t, served), CloseServiceRestart, byUs)
			if d := time.Since(start); d != closeTimeout {
				t.Error("Serve returned after", d)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A Serve that comes too late calls nothing for a client that was never accepted.
func TestServeUnopened(t *testing.T) {
	for _, end := range []func(*Conn) error{(*Conn).CloseNow, (*Conn).Close} {
		synctest.Test(t, func(t *testing.T) {
			a, peer := net.Pipe()
			defer peer.Close()
			c := newConn(a, nil, false)
			go io.WriteString(peer, rfcHead)
			if _, err := GetRequest(c); err != nil {
				t.Fatal(err)
			}
			end(c)
			called := false
			err := c.Serve(Handler{OnOpen: func(*Conn) { called = true }, OnClose: func(*Conn, error) { called = true }})
			if called || !errors.Is(err, net.ErrClosed) {
				t.Errorf("a function was called: %t, Serve returned %v", called, err)
			}
		})
	}
}

// A stuckConn does nothing until it is closed. Then it has written all, and ends or panics.
type stuckConn struct {
	net.Conn
	panics bool
	once   sync.Once
	closed chan struct{}
}

func newStuckConn(panics bool) *stuckConn {
	return &stuckConn{panics: panics, closed: make(chan struct{})}
}

func (s *stuckConn) Read([]byte) (int, error) {
	<-s.closed
	if s.panics {
		panic("read")
	}
	return 0, io.EOF
}

func (s *stuckConn) Write(p []byte) (int, error) {
	if !s.panics {
		<-s.closed
	}
	return len(p), nil
}

func (s *stuckConn) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *stuckConn) CloseWrite() error                { return nil }
func (s *stuckConn) SetReadDeadline(time.Time) error  { return nil }
func (s *stuckConn) SetWriteDeadline(time.Time) error { return nil }

// CloseNow ends writes in progress, also where the transport says that all is written.
func TestCloseNowEndsWrite(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			c := newConn(newStuckConn(false), nil, false)
			written := goErr(func() error { return c.WriteMessage(Binary, make([]byte, size)) })
			synctest.Wait()
			c.CloseNow()
			if err := wait(t, written); err != net.ErrClosed {
				t.Errorf("WriteMessage of %d bytes returned %v", size, err)
			}
		})
	}
}

// Where the transport panics while many close, each has the turn once.
func TestClosePanics(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			c := newConn(newStuckConn(true), nil, false)
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					defer func() { recover() }()
					c.Close()
				})
			}
			synctest.Wait()
			c.CloseNow()
			group.Wait()
			if c.turn != turnFree {
				t.Errorf("the turn is %d", c.turn)
			}
		})
	}
}

// Where reads have ended while a method still waits for input, Serve ends, and no clock looks at the
// connection: that method does not expect one.
func TestServeWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		read := goErr(func() error { _, _, err := c.ReadMessage(); return err })
		closed := goErr(c.Close)
		synctest.Wait()
		var k clock
		if err := c.beginServe(&service{clock: &k}, time.Hour); err != nil {
			t.Fatal(err)
		}
		if k.n != 0 || c.t.now != nil {
			t.Errorf("a clock looks at %d connections", k.n)
		}
		checkCode(t, c.serveAll(Handler{}), CloseNormal, byUs)
		peer.Close()
		checkCode(t, wait(t, read), CloseNormal, byUs)
		wait(t, closed)
	})
}
