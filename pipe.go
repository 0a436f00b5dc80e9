// Both ends of a connection in memory, for tests, and the stream below, which a page uses, too.

package websocket

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns both ends of a connection in memory, the client's and the server's, whose opening
// handshake is over. It is for tests: it needs no port, and in a bubble of [testing/synctest] its
// deadlines, pings and timeouts take no time.
//
// It behaves as a connection over TCP. Each direction holds up to 64 KiB that have not been read;
// a write for which there is no room waits until the peer reads, or for its deadline. What was
// written before the transport was closed can still be read. A closing handshake needs a peer that
// reads, or it takes Options.CloseTimeout.
//
// The client heeds its options as [ClientHandshake] does, and its request is for
// ws://example.com/; its Options.Header can add an Origin or a Cookie, and replace the Host. The
// server heeds its own as [NewConn] and [ShakeHands] do. If these refuse the client, the error is
// their [*HandshakeError], and otherwise that of ClientHandshake.
func Pipe(client, server *Options) (c, s *Conn, err error) {
	near, far := newPipe()
	s = newConn(far, server.clone(), false)
	shaken := make(chan error, 1)
	go func() {
		_, err := ShakeHands(s)
		shaken <- err
	}()
	if c, err = ClientHandshake(near, "ws://example.com/", client); err != nil {
		near.Close()
	}
	if refusal, ok := errors.AsType[*HandshakeError](<-shaken); ok {
		err = refusal
	}
	if err != nil {
		return nil, nil, err
	}
	return c, s, nil
}

const pipeSize = 64 << 10 // bytes that a direction of a pipe holds

// A pipeEnd is one end of a stream in memory, as a Conn uses it: one goroutine at a time reads,
// and one writes.
type pipeEnd struct{ in, out *pipeHalf }

func newPipe() (a, b pipeEnd) {
	x, y := newPipeHalf(), newPipeHalf()
	return pipeEnd{x, y}, pipeEnd{y, x}
}

func (e pipeEnd) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e pipeEnd) Write(p []byte) (int, error) { return e.out.write(p) }

func (e pipeEnd) Close() error {
	e.in.drop()
	e.out.end()
	return nil
}

func (e pipeEnd) CloseWrite() error {
	e.out.end()
	return nil
}

func (e pipeEnd) SetReadDeadline(t time.Time) error {
	e.in.limit(&e.in.reads, t)
	return nil
}

func (e pipeEnd) SetWriteDeadline(t time.Time) error {
	e.out.limit(&e.out.writes, t)
	return nil
}

// A pipeHalf is one direction of a stream in memory.
type pipeHalf struct {
	mu      sync.Mutex    // guards what follows
	cond    sync.Cond     // signals a change of any of these
	b       bytes.Buffer  // what has been written and not been read
	more    func() []byte // returns what can be read behind b, if anything; or nil
	ended   error         // of reads behind that; nothing more is written
	dropped bool          // nothing more is read
	reads   pipeLimit
	writes  pipeLimit
}

// A pipeLimit is a deadline.
type pipeLimit struct {
	timer  *time.Timer // or nil: there is none
	passed bool
}

func newPipeHalf() *pipeHalf {
	h := new(pipeHalf)
	h.cond.L = &h.mu
	return h
}

func (h *pipeHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if h.b.Len() == 0 && h.more != nil {
			h.b = *bytes.NewBuffer(h.more())
		}
		switch {
		case h.dropped:
			return 0, net.ErrClosed
		case h.reads.passed:
			return 0, os.ErrDeadlineExceeded
		case h.b.Len() > 0:
			n, _ := h.b.Read(p)
			h.cond.Broadcast()
			return n, nil
		case h.ended != nil:
			return 0, h.ended
		}
		h.cond.Wait()
	}
}

func (h *pipeHalf) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n < len(p) {
		room := min(len(p)-n, pipeSize-h.b.Len())
		switch {
		case h.ended != nil:
			return n, net.ErrClosed
		case h.dropped:
			return n, io.ErrClosedPipe
		case h.writes.passed:
			return n, os.ErrDeadlineExceeded
		case room == 0:
			h.cond.Wait()
			continue
		}
		h.b.Write(p[n : n+room])
		n += room
		h.cond.Broadcast()
	}
	return n, nil
}

// end lets no more be written, and drop no more be read.
func (h *pipeHalf) end()  { h.set(func() { h.ended = cmp.Or(h.ended, io.EOF) }) }
func (h *pipeHalf) drop() { h.set(func() { h.dropped = true }) }

func (h *pipeHalf) set(state func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state()
	h.cond.Broadcast()
}

// limit sets a deadline, or removes it if at is zero.
func (h *pipeHalf) limit(d *pipeLimit, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	*d = pipeLimit{}
	if at.IsZero() {
		return
	}
	left := time.Until(at)
	d.passed = left <= 0
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.timer == timer { // there is no other deadline by now
			d.passed = true
			h.cond.Broadcast()
		}
	})
	d.timer = timer
}
