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
//		websocket.PutRefusal(h, bad.Status, bad.Reason)
//	}
//	if err != nil {
//		return err
//	}
//	if req.Origin != "https://example.com" {
//		websocket.PutRefusal(h, http.StatusForbidden, "This origin is not served.")
//		return fmt.Errorf("refused a client from %q", req.Origin)
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
// stream that is not a Conn. There they speak RFC 6455 as a server, and read
// exactly what they need, in small pieces. That suits a handshake whose connection
// is then handed to other code, and is slow for anything else.
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
//	transport ended                 io.EOF                  io.EOF
//	  within a message              io.ErrUnexpectedEOF     io.ErrUnexpectedEOF
//	peer broke the protocol         *CloseError             *CloseError
//	read deadline                   timeout, not final      timeout, not final
//
// [Conn.Read] returns io.EOF itself where the others return an error that is
// io.EOF to [errors.Is]. From the others, io.EOF itself means that there was no closing
// handshake. Whatever the error is, Close is still to be called. Later reads return the
// same error, and so do writes once the connection is closed or a write has failed. What
// is wrong with an argument, such as text that is not UTF-8, is reported before anything
// is sent; the connection stays usable.
//
// # Limits
//
// All input is bounded: a request head by 8 KiB and 100 fields, its arrival by
// [Options].HandshakeTimeout if it is read through a Conn with deadlines, a message
// by Options.MaxMessage, also while it is inflated, and by 16384 fragments or one for
// every 64 bytes (compressed, 8) if that is more, a closing handshake by
// Options.CloseTimeout. Memory grows with the bytes that have arrived, not with the
// length that a peer announces. Under net/http it is the [http.Server] that bounds the
// head, which a Conn then keeps, and its arrival.
//
// A Server bounds time as well: it closes the connections of clients that do not answer a
// ping within Options.PingInterval, or take next to nothing of what is sent to them in five;
// over HTTP/2 see also [Upgrade]. Elsewhere a client may be idle, and let a write wait, for
// as long as it likes: see [Conn.Ping], [Conn.SetReadDeadline] and [Conn.SetWriteDeadline].
package websocket

import (
	"cmp"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
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
	rw     io.ReadWriter
	opts   *Options        // not to be changed
	closer io.Closer       // rw, where it can be closed
	raw    syscall.RawConn // of a socket on which reads can wait without a buffer
	try    func(fd uintptr) bool
	client bool
	bare   bool // rw serves one call: no byte too many is read from it

	// The reading side belongs to the goroutine that has set reading, or while nobody
	// has, to the one that holds mu.
	end     bool        // the message ends behind chunk
	typ     MessageType // of the message that chunk is from
	packed  bool        // and that is compressed, and so are chunk and partial
	large   bool        // the last message that Serve needed a buffer for was
	dec     decoder
	deflate *deflation // or nil; its part for writes is guarded by mu
	in      []byte     // in[r:w] is input that has not been decoded
	r, w    int
	held    error  // for the next read: it came with the last bytes, or from try
	chunk   []byte // payload that has been decoded and not been returned
	partial []byte // payload before chunk, from a read that has timed out
	spare   []byte // room for the next messages to be kept
	reader  *messageReader
	ended   error // why nothing that may still come matters

	heard atomic.Bool   // something has been read since alive looked
	late  atomic.Bool   // watchdog has closed rw
	moved atomic.Uint32 // counts writes that rw has taken
	slot  int32         // in server.conns; guarded by server.mu

	// mu guards what follows. It is not held during I/O; whoever has set
	// reading or writing owns that direction until it clears it, or hands it on.
	mu       sync.Mutex
	turn     sync.Cond    // signals a change of any of these
	req      *keptRequest // that was accepted
	deadline time.Time    // for reads, as the caller has set it
	limit    time.Time    // for the opening handshake, while that is read
	rerr     error        // of every later read
	werr     error        // of every later write
	broken   error        // of a write to rw: none may follow

	reading  bool
	writing  bool
	shaking  bool // the opening handshake has begun and is not accepted
	closing  bool // a closing handshake has been begun by this side
	sent     bool // with a close frame
	left     bool // and it is left to Serve to end it
	shutdown bool // rw has been closed, or is being closed
	shutEnd  bool // and that is done

	replies bool  // out holds messages that wait for more
	crowded bool  // messages are written by other goroutines than the reader
	more    bool  // in holds another whole frame
	armed   bool  // timer is running
	pushing bool  // writeLate is
	due     bool  // it is among those that the Server is to push
	stage   stage // of Serve
	calm    uint8 // how often Serve may yet rest; see Server.rest

	out      *output // frames to be written, or nil
	queue    *output // broadcasts that wait for OnOpen or for writer, or nil
	batch    uint64  // number of the batch in out, or of the last one
	done     uint64  // number of the last batch that was written
	controls int     // bytes of control frames in out
	sending  int     // bytes of output that are being written
	timer    *time.Timer
	watchdog *time.Timer
	writer   *messageWriter // of a message that is being written
	pings    []ping         // in the order sent
	lastPing uint64
	socket   *socketWriter // or nil
	server   *Server       // that has it among its conns, or nil
	alive    *keepalive    // of Serve, or nil
}

var _ net.Conn = (*Conn)(nil)

// NewConn returns a Conn that speaks over rw as a server. If rw is a Conn, NewConn
// returns it.
//
// The opening handshake comes next: [ShakeHands], or [GetRequest] and
// [PutResponse]. Only a stream on which it has been done elsewhere needs none; a
// new Conn speaks RFC 6455.
//
// The Conn closes rw and sets its deadlines if rw has the methods of [net.Conn] for
// that; it overrides deadlines that were set on rw itself. If rw is a *net.TCPConn or a
// *net.UnixConn, a Conn that waits for input holds no buffer, except on Windows, Plan 9
// and js.
func NewConn(rw io.ReadWriter, o *Options) *Conn {
	if c, ok := rw.(*Conn); ok {
		return c
	}
	return newConn(rw, o.clone(), false)
}

// newConn is NewConn for either role. It keeps o.
func newConn(rw io.ReadWriter, o *Options, client bool) *Conn {
	c := &Conn{rw: rw, opts: cmp.Or(o, noOptions), client: client}
	c.turn.L = &c.mu
	c.dec.masked = !client
	c.dec.limit = maxMessage
	if c.opts.MaxMessage > 0 {
		c.dec.limit = uint64(c.opts.MaxMessage)
	} else if c.opts.MaxMessage < 0 {
		c.dec.limit = math.MaxInt64
	}
	// Only these types are known not to have a Read of their own above the
	// socket's.
	switch s := rw.(type) {
	case *net.TCPConn:
		c.raw, _ = s.SyscallConn()
	case *net.UnixConn:
		c.raw, _ = s.SyscallConn()
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" || runtime.GOOS == "js" {
		c.raw = nil // syscall.Read cannot poll a descriptor there
	}
	c.try = c.tryRead
	c.closer, _ = rw.(io.Closer)
	return c
}

// bareConn returns the Conn that serves one call on a stream of the caller's.
func bareConn(rw io.ReadWriter) *Conn {
	c := newConn(rw, nil, false)
	c.bare, c.raw, c.closer = true, nil, nil
	return c
}

var (
	errNotUTF8    = errors.New("websocket: text is not valid UTF-8")
	errServed     = errors.New("websocket: Serve reads from this connection")
	errUnfinished = errors.New("websocket: the opening handshake is not finished")
	errShaken     = errors.New("websocket: the opening handshake is over")
	errPanic      = errors.New("websocket: the transport has panicked")
	errBusy       = errors.New("websocket: use of a writer by two goroutines")
	errStale      = errors.New("websocket: use of a reader or writer after the end of its message")
)

// Request returns the client's opening handshake, on either side, or nil if it has not been
// accepted yet. The caller must not modify it.
func (c *Conn) Request() *Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.req == nil {
		return nil
	}
	return c.req.request()
}

// LocalAddr returns the local address of the transport, or one that stands for none.
func (c *Conn) LocalAddr() net.Addr {
	if t, ok := c.rw.(interface{ LocalAddr() net.Addr }); ok {
		return t.LocalAddr()
	}
	return noAddr{}
}

// RemoteAddr returns the remote address of the transport, or one that stands for none.
func (c *Conn) RemoteAddr() net.Addr {
	if t, ok := c.rw.(interface{ RemoteAddr() net.Addr }); ok {
		return t.RemoteAddr()
	}
	return noAddr{}
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
	c.deadline = t
	return c.applyDeadline()
}

// limitRead lets reads end after d at the latest, or if d is negative, when the
// caller wants. It reports whether there was such a limit before the caller's
// deadline.
func (c *Conn) limitRead(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	limited := !c.limit.IsZero() && (c.deadline.IsZero() || c.limit.Before(c.deadline))
	c.limit = time.Time{}
	if d >= 0 {
		c.limit = time.Now().Add(d)
	}
	c.applyDeadline()
	return limited
}

// applyDeadline sets the read deadline of the transport. mu is held.
func (c *Conn) applyDeadline() error {
	t := c.deadline
	if !c.limit.IsZero() && (t.IsZero() || c.limit.Before(t)) {
		t = c.limit
	}
	if d, ok := c.rw.(interface{ SetReadDeadline(time.Time) error }); ok {
		return d.SetReadDeadline(t)
	}
	return os.ErrNoDeadline
}

// SetWriteDeadline sets the time after which writes fail with an error that wraps
// [os.ErrDeadlineExceeded]; the zero time means never. A timeout is final for writes,
// as a part of a frame may have been sent. If the transport has no deadlines, the
// error is [os.ErrNoDeadline].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if d, ok := c.rw.(interface{ SetWriteDeadline(time.Time) error }); ok {
		return d.SetWriteDeadline(t)
	}
	return os.ErrNoDeadline
}
