// Package websocket speaks the WebSocket protocol over any [io.ReadWriter] and beside
// net/http: the standard, RFC 6455, and the older draft hixie-76. A server built with it
// serves the clients of both on one port, with the same calls.
//
// # Servers and clients
//
// A [Server] is an [http.Handler] that calls functions:
//
//	chat := &websocket.Server{}
//	chat.OnMessage = func(c *websocket.Conn, t websocket.MessageType, p []byte) {
//		chat.Broadcast(t, p, c) // to all but c
//	}
//	http.Handle("/chat", chat)
//
// It pings silent clients, keeps slow ones from holding up others, and ends in order with
// [Server.Shutdown]. [Upgrade] makes a single connection of a request, for a handler that
// reads from it in a loop or passes it on:
//
//	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
//		c, err := websocket.Upgrade(w, r, nil)
//		if err != nil {
//			return // Upgrade has answered the request
//		}
//		defer c.Close()
//		for {
//			t, p, err := c.ReadMessage()
//			if err != nil {
//				return
//			}
//			c.WriteMessage(t, p)
//		}
//	})
//
// Both accept only pages of the server's own origin, until Options.Origins names others.
// [Dial] connects to a server. What it returns is a [Conn], as on the other side, and
// [Conn.Serve] calls functions for a client, too.
//
// # Streams
//
// Nothing of that needs net/http. A server on any stream wraps it in a Conn, shakes hands and
// exchanges messages:
//
//	h := websocket.NewConn(conn, nil)
//	defer h.Close()
//	if _, err := websocket.ShakeHands(h); err != nil {
//		return err
//	}
//	for {
//		msg, err := websocket.GetFrame(h)
//		if err == io.EOF {
//			return nil
//		}
//		if err != nil {
//			return err
//		}
//		if err := websocket.PutFrame(h, msg); err != nil {
//			return err
//		}
//	}
//
// [ShakeHands] accepts every client. A server that has to look at the request
// first calls [GetRequest], and then [PutResponse] or [PutRefusal]:
//
//	req, err := websocket.GetRequest(h)
//	if bad, ok := errors.AsType[*websocket.HandshakeError](err); ok {
//		websocket.PutRefusal(h, bad)
//	}
//	if err != nil {
//		return err
//	}
//	if req.Origin != "https://example.com" {
//		refusal := &websocket.HandshakeError{Status: http.StatusForbidden, Reason: "This origin is not served."}
//		websocket.PutRefusal(h, refusal)
//		return refusal
//	}
//	return websocket.PutResponse(h, req)
//
// [ClientHandshake] is the client's side of that.
//
// [GetFrame] and [PutFrame] exchange whole text messages. The methods of a Conn
// offer more: the type of a message, reading without an allocation
// ([Conn.AppendMessage]), streams ([Conn.NextReader], [Conn.NextWriter]), pings,
// and the codes and reasons of the closing handshake. A Conn is also a
// [net.Conn], for programs that expect one.
//
// The folder examples holds whole programs.
//
// # Bare streams
//
// A Conn holds state between calls: the version that its client speaks, and the
// bytes that were read past the end of a message. The functions also take a
// stream that is neither a Conn nor a struct that embeds a *Conn, which counts as one. On such
// a stream they speak RFC 6455 as a server, and read exactly what they need: a frame with two
// or three calls of Read, an opening handshake a few bytes at a time. That suits a handshake
// whose connection is then handed to other code. Over a socket every Read is a system
// call, of which a Conn needs far fewer.
//
// # Compression
//
// With [Options].Deflate messages are compressed by permessage-deflate (RFC 7692), which
// every browser offers, if both sides want it. It is off by default, as it takes processor
// time, and see [Deflate] for what it tells about secrets. No call changes: messages are
// written and read as ever, and Options.MaxMessage limits their inflated size. What was agreed
// on stands in Extensions of [Conn.Request].
//
// # Versions
//
// The client's request tells its version. After the opening handshake the version
// makes no difference to a program, apart from what hixie-76 lacks:
//
//	                  RFC 6455                      hixie-76
//	request           Sec-WebSocket-Key             Sec-WebSocket-Key1 and -Key2, and
//	                                                eight bytes behind the head
//	token             28 bytes, SHA-1 in base64     16 bytes, MD5
//	messages          text and binary               text
//	frame             header with a length,         byte 00, text, byte FF
//	                  masked by the client
//	fragments         yes                           no; NextWriter sends one frame
//	pings             yes                           no; Ping is ErrUnsupported
//	close             code and reason               bytes FF 00; read as CloseNoStatus
//	subprotocols      a list, of which the          at most one
//	                  server chooses
//	compression       if both sides want it         no
//
// # Errors
//
// What a read returns when a connection ends depends on how it ended:
//
//	                                GetFrame                the methods of Conn
//	closed by the peer with         io.EOF                  *CloseError, which is io.EOF
//	  1000, 1001 or no code                                   to errors.Is
//	closed by the peer with         *CloseError             *CloseError
//	  another code
//	closed by this side             io.EOF                  *CloseError, which is
//	                                                          net.ErrClosed to errors.Is,
//	                                                          and io.EOF with those codes
//	CloseNow                        io.EOF                  net.ErrClosed
//	transport ended                 io.EOF                  *CloseError with 1006, which is
//	  within a message              io.ErrUnexpectedEOF       io.ErrUnexpectedEOF to errors.Is
//	transport failed                its error               the same, and wraps its error
//	peer broke the protocol         *CloseError             *CloseError
//	read deadline                   timeout, not final      timeout, not final
//
// [Conn.Read] returns what GetFrame does, but for a connection that this side has closed:
// then its error is that of the other methods, or io.EOF if it is that to errors.Is.
//
// Whatever the error is, Close is still to be called. Later reads return the same error, and
// so do writes once the connection is closed or a write has failed.
//
// A call that is wrong, or comes at the wrong time, returns an error that is [os.ErrInvalid]
// to errors.Is. Text that is not UTF-8 is one reason; others are a message before the opening
// handshake is finished, an answer to it after that, and a read while Serve reads. A write
// that is refused so sends nothing, and the connection stays usable. The reader or writer of
// a single message returns an error that is [os.ErrClosed] once the message is over.
//
// # Limits
//
// All input is bounded: a request head by 8 KiB and 100 fields, its arrival by
// [Options].HandshakeTimeout if it is read through a Conn with deadlines, a message
// by Options.MaxMessage, also while it is inflated, and by 16384 fragments and one more for
// every 64 bytes (compressed, 8) before the last, a closing handshake by
// Options.CloseTimeout. Memory grows with the bytes that have arrived, not with the
// length that a peer announces. Under net/http it is the [http.Server] that bounds the
// head, which a Conn then keeps, and its arrival.
//
// A Server bounds time as well: it closes the connections of clients that do not answer a
// ping within Options.PingInterval, or take nothing of what is sent to them in five;
// over HTTP/2 see also [Upgrade]. Elsewhere a client may be idle, and let a write wait, for
// as long as it likes: see [Conn.Ping], [Conn.SetReadDeadline] and [Conn.SetWriteDeadline].
package websocket

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn is one end of a WebSocket connection over any [io.ReadWriter].
//
// Any number of goroutines may use a Conn. Reads are serialized, and so are writes.
// The methods that close the connection or set deadlines may be called at any time
// and affect calls in progress. The readers and writers of single messages, from
// NextReader and NextWriter, are for one goroutine each.
//
// An idle Conn has no goroutine, unless a compressed message has been read in part.
// Timers, which Close stops, send pongs and replies that were held back.
type Conn struct {
	opts  *Options    // not to be changed
	serve serving     // what Serve and a Server know of the connection; guarded by mu, too
	more  atomic.Bool // another whole message has arrived; set in the turn

	// mu guards what follows, up to req. It is not held during I/O.
	mu     mutex
	turn   turn
	end    ending
	write  writer
	cond   sync.Cond // signals a change of any of these
	pings  pinger
	timers timers
	req    *keptRequest // that was accepted

	t    transport // its halves belong to whoever reads, and to whoever writes
	read reader    // belongs to whoever has the turn
}

var _ net.Conn = (*Conn)(nil)

// NewConn returns a Conn that speaks over rw as a server. If rw is a Conn, or a struct that
// embeds a *Conn, NewConn returns that.
//
// The opening handshake comes next: [ShakeHands], or [GetRequest] and
// [PutResponse]. Only a stream on which it has been done elsewhere needs none; a
// new Conn speaks RFC 6455. Options.Client makes it the client's side of such a stream, and
// Options.Extensions lets it compress. What was read behind the handshake is what rw has to
// return first.
//
// The Conn closes rw and sets its deadlines if rw has the methods of [net.Conn] for
// that; it overrides deadlines that were set on rw itself. If rw is a *net.TCPConn or a
// *net.UnixConn, a Conn that waits for input holds no buffer, except on Windows, Plan 9
// and js.
func NewConn(rw io.ReadWriter, o *Options) *Conn {
	if c, ok := connOf(rw); ok {
		return c
	}
	o = o.clone()
	c := newConn(rw, o, o.Client)
	if o.Client || o.Extensions != "" {
		c.resume()
	}
	return c
}

// conn is for connOf: a struct that embeds a *Conn has this method, too.
func (c *Conn) conn() *Conn { return c }

// connOf returns the Conn that rw is, or that it embeds. For one that is nil it returns one of
// which nothing can be had but an error.
func connOf(rw any) (c *Conn, ok bool) {
	if c, ok = rw.(*Conn); !ok {
		h, ok := rw.(interface{ conn() *Conn })
		if !ok {
			return nil, false
		}
		c = h.conn()
	}
	if c == nil {
		c = newConn(nil, nil, false)
		c.end.stopReads(errNoConn)
		c.end.stopWrites(errNoConn)
	}
	return c, true
}

// newConn is NewConn for either role. It keeps o.
func newConn(rw io.ReadWriter, o *Options, client bool) *Conn {
	c := new(Conn)
	c.init(o, client)
	c.t.init(rw)
	return c
}

func (c *Conn) init(o *Options, client bool) {
	c.opts = cmp.Or(o, noOptions)
	c.cond.L = &c.mu
	c.read.init(client, messageLimit(c.opts.MaxMessage))
	c.write.init(client)
}

// agree lets c speak as the response to req says, which has been checked.
func (c *Conn) agree(req *Request) {
	c.req = req.keep()
	p, _ := agreedDeflate(req.Extensions)
	c.speak(req.Version, p)
}

// resume lets c speak as its options say that was agreed on elsewhere.
func (c *Conn) resume() {
	req := &Request{Version: RFC6455, Extensions: c.opts.Extensions}
	c.req = req.keep()
	p, err := agreedDeflate(req.Extensions)
	if err == nil && p != nil && c.opts.Deflate != nil {
		err = c.opts.Deflate.check()
	}
	if err != nil {
		err = misuse("the options for compression are not valid: %v", err)
		c.end.stopReads(err)
		c.end.stopWrites(err)
		return
	}
	c.speak(RFC6455, p)
}

// speak lets c speak a version of the protocol, with compression unless p is nil.
func (c *Conn) speak(v Version, p *deflateParams) {
	var d *deflater
	var u *unpacker
	if p != nil {
		d, u = newDeflation(c.opts.Deflate, *p, c.write.isClient())
	}
	c.read.speak(v == Hixie76, u)
	c.write.speak(v == Hixie76, d)
}

// Request returns the client's opening handshake, on either side, or nil if it has not been
// accepted yet. Each call makes a new copy, which is the caller's.
func (c *Conn) Request() *Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.req == nil {
		return nil
	}
	return c.req.request()
}

// isOpen reports whether a connection that is served may yet have something to say.
func (c *Conn) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end.readable() == nil && !c.serve.isParting()
}

// SetMaxMessage changes Options.MaxMessage for c: n is the size of the largest message that
// is accepted, in bytes; 0 means 1 MiB, and a negative number no limit. It may be called
// at any time, also by the functions of a [Handler]: a server can let its clients send larger
// messages once they have logged in. It holds for the next message, and for those after that. A
// message in progress, of which c has read at least the header of the first frame, keeps the
// limit with which it began.
func (c *Conn) SetMaxMessage(n int64) { c.read.setLimit(messageLimit(n)) }

// LocalAddr returns the local address of the transport, or one that stands for none.
func (c *Conn) LocalAddr() net.Addr { return c.t.localAddr() }

// RemoteAddr returns the remote address of the transport, or one that stands for none.
func (c *Conn) RemoteAddr() net.Addr { return c.t.remoteAddr() }

// SetDeadline sets both deadlines; see SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return cmp.Or(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the time after which reads fail with an error that wraps
// [os.ErrDeadlineExceeded]; the zero time means never. A timeout loses no data: set a
// new deadline and read again. It does end [Conn.Serve]. If the transport has no deadlines,
// the error is [os.ErrNoDeadline].
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t.setReadDeadline(t)
}

// limitRead lets reads end at a time at the latest, or if it is zero, when the caller wants.
// It reports whether there was such a limit before the caller's deadline.
func (c *Conn) limitRead(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t.limitRead(at)
}

// SetWriteDeadline sets the time after which writes fail with an error that wraps
// [os.ErrDeadlineExceeded]; the zero time means never. What the Conn sends by itself, such as
// pongs, does not heed it.
//
// A timeout is not final. A message that there was no time to begin is not sent. One that was
// begun stays, and goes out before all that is sent later: [Conn.Write] tells them apart, as it
// returns 0 or the length of the message. Set a new deadline and go on, or call Close. But over
// HTTP/2, and if the transport is a [crypto/tls.Conn], no write can succeed after one has been
// interrupted.
//
// If the transport has no deadlines, the error is [os.ErrNoDeadline].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cond.Broadcast() // to those that wait until the deadline
	return c.t.setWriteDeadline(t)
}

// A turn says whose it is to read from a connection. The reader, and the input half of the
// transport, belong to it. While a function of a Handler runs nobody has the turn, and nobody
// but CloseWith, once reads have ended, can take it.
//
//	free ⇄ method    a method that reads
//	free ⇄ serve     Serve, while it waits for input
//	free ⇄ closer    CloseWith, which waits for the answer
type turn byte

const (
	turnFree turn = iota
	turnMethod
	turnServe
	turnCloser
)

// A pinger has the pings that wait for their pongs, in the order sent. The lock of its Conn
// guards it.
type pinger struct {
	waiting []ping
	last    uint64
}

// A ping is one that waits for its pong, or for an error.
type ping struct {
	id   uint64
	done chan error // takes one
}

// add returns a new ping.
func (p *pinger) add() ping {
	p.last++
	q := ping{p.last, make(chan error, 1)}
	p.waiting = append(p.waiting, q)
	return q
}

// answer ends the wait for a ping and for earlier ones, which the peer need not answer (RFC
// 6455, section 5.5.3). Other pongs mean nothing.
func (p *pinger) answer(id uint64) {
	for id <= p.last && len(p.waiting) > 0 && p.waiting[0].id <= id {
		p.waiting[0].done <- nil
		p.waiting = p.waiting[1:]
	}
}

// fail ends the wait for all.
func (p *pinger) fail(err error) {
	for _, q := range p.waiting {
		q.done <- err
	}
	p.waiting = nil
}

// remove forgets a ping that nobody waits for any more.
func (p *pinger) remove(q ping) {
	p.waiting = slices.DeleteFunc(p.waiting, func(o ping) bool { return o.id == q.id })
}

// timers are the clocks of a connection, or nil until they are needed.
type timers struct {
	write *time.Timer // has the output written later
	wait  *time.Timer // wakes writes that wait until their deadline
	close *time.Timer // closes the transport when the closing handshake takes too long
}

// wakeAt has f called at a time.
func (t *timers) wakeAt(at time.Time, f func()) {
	if d := time.Until(at); t.wait == nil {
		t.wait = time.AfterFunc(d, f)
	} else {
		t.wait.Reset(d)
	}
}

// stop stops the timers.
func (t *timers) stop() {
	for _, timer := range []*time.Timer{t.write, t.wait, t.close} {
		if timer != nil {
			timer.Stop()
		}
	}
}

// A serving is what Serve and a Server know of a connection. Apart from what is atomic, the lock
// of the Conn guards it.
type serving struct {
	stage  stage
	pinged bool          // a ping waits for something to come
	slot   atomic.Int32  // in Server.conns; set while Server.mu is held
	left   atomic.Uint32 // how often it may yet rest
	rests  uint32        // and how often when it is new, or its peer has been silent

	clock *clock // looks at the connection, or nil
	spot  place  // in clock; guarded by its lock
	moved uint32 // the progress of what was written at the last look
	quiet uint32 // tick at which something came, or a ping was sent
	still uint32 // tick at which something was sent, or an interval without that ended
	stuck uint32 // tick of the look that saw progress last, or no need of it
}

// A stage says what Serve is doing.
//
//	unserved → opening → running → parting → served
type stage byte

const (
	unserved     stage = iota
	stageOpening       // OnOpen runs
	stageRunning       // it waits for messages, or OnMessage runs
	stageParting       // OnClose runs
	stageServed
)

// begin notes that Serve is called.
func (s *serving) begin(rests uint32) {
	s.stage, s.rests = stageOpening, rests
	s.left.Store(rests)
}

// enter notes the next stage.
func (s *serving) enter(next stage) { s.stage = next }

func (s *serving) isBegun() bool   { return s.stage != unserved }
func (s *serving) isOpening() bool { return s.stage == stageOpening }

// runs reports whether functions of a Handler are called, and nobody else may read.
func (s *serving) runs() bool { return s.stage != unserved && s.stage != stageServed }

// isParting reports whether OnClose runs, or has.
func (s *serving) isParting() bool { return s.stage >= stageParting }

// setSlot sets the connection's place among those of its Server, and slotOf returns it.
func (s *serving) setSlot(n int) { s.slot.Store(int32(n)) }
func (s *serving) slotOf() int   { return int(s.slot.Load()) }

// beginWatch notes that a clock looks at the connection, and when that began.
func (s *serving) beginWatch(k *clock) {
	now := k.now.Load()
	s.clock, s.quiet, s.still, s.stuck = k, now, now, now
}

// watcher returns the clock that looks at the connection, or nil.
func (s *serving) watcher() *clock { return s.clock }

// place returns the connection's place in that clock.
func (s *serving) place() *place { return &s.spot }

// rest reports whether the connection is to rest now.
func (s *serving) rest() bool {
	n := s.left.Load()
	return n > 0 && s.left.CompareAndSwap(n, n-1)
}

// A view is what the clock of a connection sees.
type view struct {
	now         uint32 // the tick
	heard, sent uint32 // the ticks at which something was read last, and written
	moved       uint32 // the progress of what is written
	busy        bool   // something is
	blocked     bool   // a message waits for the end of another one
	listens     bool   // somebody waits for what may come
	hixie       bool   // there are no pings
}

// judge says whether the peer is to be pinged, as nothing has come from it, or nothing was sent to
// it, for an interval; or what is wrong with it. It also returns the tick at which to look again.
func (s *serving) judge(v view) (ping bool, due uint32, err error) {
	if int32(v.heard-s.quiet) >= 0 {
		s.quiet, s.pinged = v.heard, false
	}
	if int32(v.sent-s.still) > 0 {
		s.still = v.sent
	}
	if v.moved != s.moved || !v.busy && !v.blocked {
		s.moved, s.stuck = v.moved, v.now
	}
	stalled := v.now-s.stuck >= 3*ticks
	quiet, still := int32(v.now-s.quiet), int32(v.now-s.still) // negative if the clock has gone on
	calm := v.listens && !v.busy
	switch {
	case stalled && v.busy:
		return false, 0, errStalled
	case stalled:
		return false, 0, errUnclosed
	case quiet >= ticks && calm && s.pinged:
		return false, 0, errSilent
	case quiet >= ticks && calm:
		s.left.Store(s.rests)
	}
	if still >= ticks {
		s.still = v.now
	}
	if quiet >= ticks || still >= ticks {
		s.quiet, s.pinged = v.now, calm && !v.hixie
		ping = !v.hixie
	}
	return ping, v.now + ticks - uint32(max(0, int32(v.now-s.quiet), int32(v.now-s.still))), nil
}

var (
	errSilent   = fmt.Errorf("websocket: the peer does not answer: %w", os.ErrDeadlineExceeded)
	errStalled  = fmt.Errorf("websocket: the peer does not read: %w", os.ErrDeadlineExceeded)
	errUnclosed = fmt.Errorf("websocket: a message that NextWriter began is not closed: %w", os.ErrDeadlineExceeded)
)
