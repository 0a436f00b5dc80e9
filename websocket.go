// Package websocket speaks the WebSocket protocol beside net/http and over any [io.ReadWriter]:
// the standard, RFC 6455, and the older draft hixie-76. A server built with it serves the
// clients of both on one port, with the same calls; [Version] has the differences.
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
// It pings silent clients, keeps slow ones from holding up others, counts in [Server.Stats] what
// happens, and ends in order with [Server.Shutdown]. [Upgrade] makes a single [Conn] of a request,
// for a handler that reads in a loop of its own:
//
//	c, err := websocket.Upgrade(w, r, nil)
//	if err != nil {
//		return // Upgrade has answered the request
//	}
//	defer c.Close()
//	for {
//		t, p, err := c.ReadMessage()
//		if err != nil {
//			return
//		}
//		c.WriteMessage(t, p)
//	}
//
// Both accept only pages of the server's own origin, until Options.Origins names others.
// [Dial] connects to a server and returns a Conn, too; [Reconnect] stays connected to one.
// [Conn.Serve] calls functions for any Conn, and [Pipe] connects two of them for tests. The folder
// examples holds whole programs.
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
//		if err != nil {
//			return err // io.EOF once the client has closed
//		}
//		if err := websocket.PutFrame(h, msg); err != nil {
//			return err
//		}
//	}
//
// [ShakeHands] accepts every client, unless Options.Origins limits whose pages may connect. A
// server that has to look at the request first calls [GetRequest], and then [PutResponse] or
// [PutRefusal], as the example of GetRequest does. [Server.Adopt] has a Server serve a
// connection that was accepted so. [ClientHandshake] is the client's side.
//
// [GetFrame] and [PutFrame] exchange whole text messages. The methods of a [Conn] offer more:
// binary messages, streams, pings, deadlines, and the codes of the closing handshake.
//
// A Conn remembers which version its client speaks, and what it has read past the end of a
// message. The functions also take a bare stream: one that is neither a Conn nor a struct that
// embeds a *Conn. There they speak RFC 6455 as a server, and read no byte that they do not
// need, so that other code may go on with the stream. That takes several small reads for each
// message, and more for a handshake, so a Conn is faster.
//
// # Errors
//
// A connection has ended when a read returns an error that is no timeout. The methods that read
// messages then return a [*CloseError], with a code and a reason, even if the transport has just
// ended, but [net.ErrClosed] after CloseNow. GetFrame and [Conn.Read] return io.EOF where a stream
// would end. CloseError has a table. Whatever the error is, Close is still to be called.
//
// An opening handshake that fails is a [*HandshakeError], unless the transport is to blame. A
// call that is wrong, or comes at the wrong time, returns an error that is [os.ErrInvalid] to
// errors.Is, such as for text that is not UTF-8, a message before the opening handshake is
// finished, or a read while Serve reads. A write that is refused so sends nothing, and the
// connection stays usable. The reader or writer of a single message returns an error that is
// [os.ErrClosed] once the message is over.
//
// # Limits
//
// All input is bounded. Most limits are fields of [Options] and have defaults: the size of
// messages, the time for handshakes, silence, and what waits to be sent. Others are fixed:
//
//   - The head of a request that GetRequest reads may have 8 KiB and 100 fields, or it is
//     refused with 431. The response to ClientHandshake may have 8 KiB. Beside net/http the
//     [http.Server] and the [http.Transport] have limits for both.
//   - A message may have 16384 fragments, one more for every 64 bytes of it, or for every 8 if
//     it is compressed, and a last one. For more the connection is closed with
//     ClosePolicyViolation.
//
// Memory grows with the bytes that have arrived, not with the length that a peer announces.
//
// A peer that is silent, or takes nothing of what is written to it, is waited for without end,
// except as Options.PingInterval says. Elsewhere [Conn.Ping], [Conn.SetReadDeadline] and
// [Conn.SetWriteDeadline] are the means.
package websocket

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn is one end of a WebSocket connection over any [io.ReadWriter]. It comes from [NewConn],
// [Upgrade], [Dial], [Reconnect], [ClientHandshake] or [Pipe]; the methods of the zero value panic.
//
//	read a message, to keep             ReadMessage
//	  into memory of the caller         AppendMessage
//	  of any size, as a stream          NextReader
//	have functions called for each      Serve
//	send a message                      WriteMessage
//	  in fragments, as a stream         NextWriter
//	see whether the peer is there       Ping
//	close with a closing handshake      Close, CloseWith
//	  without one                       CloseNow
//	use it as a net.Conn                Read, Write, SetDeadline and others
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
	cond   changes // signals a change of any of these
	pings  *pinger // or nil: there has been no ping
	timers timers
	req    keptRequest // that was accepted

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
// that; it overrides deadlines that were set on rw itself. While a Conn is idle it keeps an
// input buffer of 4 KiB, but none over a *net.TCPConn or *net.UnixConn, except on Windows,
// Plan 9 and js.
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
// accepted yet. Each call makes a new copy, which is the caller's: to change it changes
// nothing else, and what is needed for every message is better kept.
func (c *Conn) Request() *Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.req == "" {
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
func (c *Conn) LocalAddr() net.Addr { return localAddr(c.stream()) }

// RemoteAddr returns the remote address of the transport, or one that stands for none.
func (c *Conn) RemoteAddr() net.Addr { return remoteAddr(c.stream()) }

// stream returns what c is over now, of which methods can be called without mu.
func (c *Conn) stream() io.ReadWriter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t.stream()
}

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
	defer c.wakeLocked(t)
	return c.t.setReadDeadline(t)
}

// wakeLocked has a read go on that is to end at a time, unless that is zero.
func (c *Conn) wakeLocked(at time.Time) {
	c.mu.assertLocked()
	if !at.IsZero() && c.canRest() {
		c.serve.service().resting.wake(c)
	}
}

// limitRead lets reads end at a time at the latest, or if it is zero, when the caller wants.
// It reports whether there was such a limit before the caller's deadline.
func (c *Conn) limitRead(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limitReadLocked(at)
}

func (c *Conn) limitReadLocked(at time.Time) bool {
	c.mu.assertLocked()
	defer c.wakeLocked(at)
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
// interrupted. The error of writes that cannot succeed any more does not wrap
// [os.ErrDeadlineExceeded].
//
// If the transport has no deadlines, the error is [os.ErrNoDeadline].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cond.broadcast() // to those that wait until the deadline
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

// A changes is a sync.Cond that takes memory once somebody has waited. The lock of its Conn guards it.
type changes struct{ cond *sync.Cond }

// wait waits for a change. l is that lock, and held.
func (c *changes) wait(l sync.Locker) {
	if c.cond == nil {
		c.cond = sync.NewCond(l)
	}
	c.cond.Wait()
}

// broadcast tells all who wait of a change. The lock is held.
func (c *changes) broadcast() {
	if c.cond != nil {
		c.cond.Broadcast()
	}
}

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
	if p == nil {
		return
	}
	for id <= p.last && len(p.waiting) > 0 && p.waiting[0].id <= id {
		p.waiting[0].done <- nil
		p.waiting = p.waiting[1:]
	}
}

// fail ends the wait for all.
func (p *pinger) fail(err error) {
	if p == nil {
		return
	}
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

// A service is how a Server serves connections.
type service struct {
	clock   *clock       // looks after them
	resting *idlers      // those that have no goroutine
	ledger  *ledger      // counts what they do
	serve   func(*Conn)  // goes on with one that has rested
	http    *http.Server // whose log is used, or nil
}

// canRest reports whether c can wait for input without a goroutine: on a socket, for a Server. It
// is so, or not, from the beginning of Serve to the end.
func (c *Conn) canRest() bool { return canIdle && c.serve.by != nil && c.t.isSocket() }

// A serving is what Serve and a Server know of a connection. Apart from what is atomic, the lock
// of the Conn guards it.
type serving struct {
	stage  stage
	pinged bool          // a ping waits for something to come
	mute   bool          // no ping is to be sent, and no progress expected
	nudged bool          // the wait for input is to end, as the connection is to rest
	inside bool          // a function of a Handler runs within a read
	slot   atomic.Int32  // in Server.conns; set while Server.mu is held
	left   atomic.Uint32 // how often it may yet rest

	by    *service // of the Server, or nil
	nap   nap      // among those that rest; guarded by their lock
	clock *clock   // looks at the connection, or nil
	spot  place    // in clock; guarded by its lock
	moved uint32   // the progress of what was written at the last look
	quiet uint32   // tick at which something came, or a ping was sent
	still uint32   // tick at which something was sent, or an interval without that ended
	stuck uint32   // tick of the look that saw progress last, or no need of it

	traffic traffic // that is not in the ledger
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

// begin notes that Serve is called, or a Server serves the connection, and counts from now on.
func (s *serving) begin(by *service) { s.stage, s.by, s.traffic = stageOpening, by, traffic{} }

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

// beginWatch notes that a clock looks at the connection, and when that began. If mute is true,
// that is only to let it rest.
func (s *serving) beginWatch(k *clock, mute bool) {
	now := k.now.Load()
	s.clock, s.mute, s.quiet, s.still, s.stuck = k, mute, now, now, now
}

// watcher returns the clock that looks at the connection, or nil.
func (s *serving) watcher() *clock { return s.clock }

// expects reports whether that expects something of the peer.
func (s *serving) expects() bool { return s.clock != nil && !s.mute }

// service returns what serves the connection for a Server, or nil.
func (s *serving) service() *service { return s.by }

// count notes bytes of payload, which end as many messages.
func (s *serving) count(w way, messages uint64, size int) {
	if s.traffic.add(w, messages, size) && s.by != nil {
		s.by.ledger.carry(&s.traffic)
	}
}

// counted returns what the ledger has not counted.
func (s *serving) counted() traffic { return s.traffic }

// napping returns where the connection has its place among those that rest.
func (s *serving) napping() *nap { return &s.nap }

// place returns the connection's place in that clock.
func (s *serving) place() *place { return &s.spot }

// mayRest lets the connection rest n times, as long as nothing is to be read.
func (s *serving) mayRest(n uint32) { s.left.Store(n) }

// rests reports whether it is to rest now.
func (s *serving) rests() bool {
	n := s.left.Load()
	return n > 0 && s.left.CompareAndSwap(n, n-1)
}

// setInside notes that a function of a Handler is called within a read, or has returned, and
// isInside reports which.
func (s *serving) setInside(on bool) { s.inside = on }
func (s *serving) isInside() bool    { return s.inside }

// nudge notes that the wait for input is to end for a rest.
func (s *serving) nudge() { s.nudged = true }

// isNudged reports whether it has ended so.
func (s *serving) isNudged() bool {
	nudged := s.nudged
	s.nudged = false
	return nudged
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
	stalled := v.now-s.stuck >= 3*ticks && !s.mute
	quiet, still := int32(v.now-s.quiet), int32(v.now-s.still) // negative if the clock has gone on
	calm := v.listens && !v.busy
	switch {
	case stalled && v.busy:
		return false, 0, errStalled
	case stalled:
		return false, 0, errUnclosed
	case quiet >= ticks && calm && s.pinged:
		return false, 0, errSilent
	}
	if still >= ticks {
		s.still = v.now
	}
	if quiet >= ticks || still >= ticks {
		ping = !v.hixie && !s.mute
		s.quiet, s.pinged = v.now, calm && ping
	}
	return ping, v.now + ticks - uint32(max(0, int32(v.now-s.quiet), int32(v.now-s.still))), nil
}
