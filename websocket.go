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
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

// Options adjusts connections. The zero value and a nil pointer stand for the
// defaults. Functions that take Options copy them; those of a [Server] must not be
// changed once it is in use.
type Options struct {
	// MaxMessage is the size of the largest message that is accepted, in
	// bytes. The connection of a peer that announces a larger one is closed
	// with CloseMessageTooBig before the payload is read, or if it is compressed,
	// while it is inflated. 0 means 1 MiB; a negative number means no limit, for
	// programs that stream with NextReader.
	MaxMessage int64

	// Protocols lists subprotocols in the order of preference. A server accepts
	// the first that the client offers too; GetRequest proposes it in
	// Request.Protocol. A client offers all of them and finds the accepted one
	// in Conn.Request. If there is none, the connection has no subprotocol.
	Protocols []string

	// Deflate lets messages be compressed, if the peer wants that too. Nil means
	// that they are not.
	Deflate *Deflate

	// Origins lists the origins, besides a server's own, whose pages may connect
	// to it by Upgrade or Server. A pattern is an origin such as
	// "https://example.com" or "http://localhost:8080", with the scheme and without a
	// path, in which one asterisk may stand for any part of the host
	// ("https://*.example.com") and one for any port ("http://localhost:*"). "null"
	// allows pages without an origin of their own, and "*" alone every page.
	Origins []string

	// Header holds fields that a client adds to its opening handshake.
	Header http.Header

	// HTTPClient is what Dial uses. Its Transport decides on proxies, TLS and how
	// connections are made, its Jar has the cookies, and its CheckRedirect is asked
	// about redirects. Nil means http.DefaultClient.
	HTTPClient *http.Client

	// HandshakeTimeout is how long an opening handshake may take: for a client all
	// of it, and for a server the reading of the request by GetRequest, on a
	// transport that has read deadlines. Under net/http the request is read within
	// the limits of the http.Server, and what bounds the response is this and 5
	// seconds more. 0 means 10 seconds; a negative duration means no limit.
	HandshakeTimeout time.Duration

	// CloseTimeout is how long a closing handshake may take before the
	// transport is closed anyway. 0 or less means 5 seconds.
	CloseTimeout time.Duration

	// PingInterval is how long a peer may be silent, while Conn.Serve waits for
	// messages, before it is pinged, when another PingInterval is over at the latest.
	// If it remains silent for one more, or takes less than 64 KiB of what is written
	// to it in three to five, the connection is closed. 0 means 20 seconds for the
	// clients of a Server, and otherwise no pings; a negative duration means no pings.
	// Hixie-76 has none.
	PingInterval time.Duration

	// MaxQueue is how many bytes of messages may wait for a client that reads
	// them more slowly than Server.Broadcast sends, or for any client after a burst.
	// The connection of a client for which there would be more is closed with
	// ClosePolicyViolation. It is to be larger than the largest message, so that more than
	// one can wait. 0 or less means 1 MiB.
	MaxQueue int
}

// The defaults of Options.
const (
	maxMessage       = 1 << 20
	handshakeTimeout = 10 * time.Second
	closeTimeout     = 5 * time.Second
	pingInterval     = 20 * time.Second
	maxQueue         = 1 << 20
)

// noOptions stands for a nil pointer. Nothing changes it.
var noOptions = new(Options)

// clone returns a copy of o that its owner does not change.
func (o *Options) clone() *Options {
	if o == nil {
		return noOptions
	}
	o2 := *o
	o2.Protocols = slices.Clone(o.Protocols)
	o2.Origins = slices.Clone(o.Origins)
	o2.Header = o.Header.Clone()
	if o.Deflate != nil {
		d := *o.Deflate
		o2.Deflate = &d
	}
	return &o2
}

// Sizes and times of a Conn's input and output.
const (
	inputSize     = 32 << 10 // bytes of a pooled input buffer
	heldInputSize = 4 << 10  // bytes of a buffer that has to stay while a Conn is idle
	sharedSize    = 4 << 10  // bytes of an allocation for messages that came together
	directSize    = 16 << 10 // bytes of payload from which on none is copied
	batchSize     = 64 << 10 // bytes of output that do not wait for more
	writeSize     = 64 << 10 // bytes of one write, whose end is progress
	batchDelay    = time.Millisecond
)

var (
	errNotUTF8    = errors.New("websocket: text is not valid UTF-8")
	errServed     = errors.New("websocket: Serve reads from this connection")
	errUnfinished = errors.New("websocket: the opening handshake is not finished")
	errShaken     = errors.New("websocket: the opening handshake is over")
	errPanic      = errors.New("websocket: the transport has panicked")
	errBusy       = errors.New("websocket: use of a writer by two goroutines")
	errStale      = errors.New("websocket: use of a reader or writer after the end of its message")
)

// inputs holds buffers of type *[inputSize]byte.
var inputs = sync.Pool{New: func() any { return new([inputSize]byte) }}

// An output collects frames until they are written.
type output struct {
	b    []byte
	vec  [2][]byte // for one call of writev
	bufs net.Buffers
}

var outputs = sync.Pool{New: func() any { return &output{b: make([]byte, 0, 4<<10)} }}

func (o *output) free() {
	if cap(o.b) <= 8*batchSize {
		o.b = o.b[:0]
		outputs.Put(o)
	}
}

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

// ReadMessage returns the next message, put together from its fragments. The
// payload is the caller's to keep. Small messages that have arrived together may share
// an allocation of up to 4 KiB, which stays as long as one of them does.
//
// While it waits, ReadMessage answers pings and the peer's closing handshake. Its
// error is a [*CloseError] if either side has closed the connection or the peer has
// broken the protocol, io.EOF if the transport ends between two messages, and
// io.ErrUnexpectedEOF if it ends within one. Every later call returns the same
// error. Only a timeout is not final: it loses nothing, and the next call goes on
// where this one stopped.
func (c *Conn) ReadMessage() (MessageType, []byte, error) {
	t, p, err := c.AppendMessage(nil)
	if p == nil && err == nil {
		p = []byte{}
	}
	return t, p, err
}

// keep returns a copy of p. Messages that have arrived together share an allocation, of up
// to 4 KiB.
func (c *Conn) keep(p []byte) []byte {
	if len(p) > len(c.spare) {
		c.spare = make([]byte, max(len(p), min(len(p)+c.w-c.r, sharedSize)))
	}
	n := copy(c.spare, p)
	p, c.spare = c.spare[:n:n], c.spare[n:]
	if c.r == c.w {
		c.spare = nil
	}
	return p
}

// AppendMessage is like [Conn.ReadMessage], but appends the payload to dst and
// returns the extended slice. It does not allocate if the message fits. If there is
// an error, it returns dst as it was.
func (c *Conn) AppendMessage(dst []byte) (MessageType, []byte, error) {
	if err := c.lockRead(false); err != nil {
		return 0, dst, err
	}
	if t, p, ok := c.takeMessage(); ok {
		defer c.mu.Unlock() // p lies in the input buffer
		if dst == nil {
			return t, c.keep(p), nil
		}
		return t, append(dst, p...), nil
	}
	c.reading = true
	c.mu.Unlock()
	var t MessageType
	p := dst
	err := c.skipMessage()
	if err == nil {
		t, p, err = c.appendMessage(dst)
	}
	if err := c.endRead(err); err != nil {
		return 0, dst, err
	}
	return t, p, nil
}

// between reports whether nothing has been read, or decoded, of a message that is not over.
func (c *Conn) between() bool {
	return c.dec.kind == noFrame && c.dec.typ == 0 &&
		len(c.chunk) == 0 && !c.end && c.partial == nil && c.reader == nil
}

// takeMessage returns the next message if it has arrived whole, in one frame that is not
// compressed. It lies in the input buffer. mu is held, and nobody reads.
func (c *Conn) takeMessage() (t MessageType, p []byte, ok bool) {
	if c.r == c.w || !c.between() {
		return 0, nil, false
	}
	t, p, n := c.dec.whole(c.in[c.r:c.w])
	if n == 0 {
		return 0, nil, false
	}
	c.r += n
	c.more = c.r < c.w && c.dec.holdsFrame(c.in[c.r:c.w])
	return t, p, true
}

// NextReader returns the type of the next message and a reader for its payload,
// which need not fit into memory. The reader returns io.EOF at the end of the
// message; its other errors are those of [Conn.ReadMessage]. It is valid until the
// next call of another method of c that reads messages, which skips the rest.
func (c *Conn) NextReader() (MessageType, io.Reader, error) {
	if err := c.beginMessage(); err != nil {
		return 0, nil, err
	}
	if err := c.findMessage(); err != nil {
		return 0, nil, c.endRead(err)
	}
	t, r := c.typ, &messageReader{c: c}
	c.reader = r
	if err := c.endRead(nil); err != nil {
		return 0, nil, err
	}
	return t, r, nil
}

// A messageReader reads one message.
type messageReader struct {
	c   *Conn
	end bool
}

func (r *messageReader) Read(p []byte) (int, error) {
	if r.end {
		return 0, io.EOF
	}
	c := r.c
	if err := c.beginRead(false); err != nil {
		return 0, err
	}
	if c.reader != r {
		return 0, cmp.Or(c.endRead(nil), errStale)
	}
	if len(p) == 0 {
		return 0, c.endRead(nil)
	}
	n, end, err := c.readChunk(p)
	if end {
		c.reader, r.end = nil, true
	}
	if err := c.endRead(err); err != nil {
		return 0, err
	}
	if end {
		return 0, io.EOF
	}
	return n, nil
}

// Read reads the payload of all messages, of both types, as one stream. It returns
// what has arrived, of one message at a time. At an orderly end of the connection
// it returns io.EOF. If Read has read a part of a message, the other methods return
// the rest as if it were a message.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	err := c.beginMessage()
	if err == nil {
		for end := true; end; {
			n, end, err = c.readChunk(p)
		}
		err = c.endRead(err)
	}
	if errors.Is(err, io.EOF) {
		err = io.EOF // readers compare with ==
	}
	return n, err
}

// beginRead makes the caller the one that reads: the opening handshake, if shaking,
// or what follows it.
func (c *Conn) beginRead(shaking bool) error {
	if err := c.lockRead(shaking); err != nil {
		return err
	}
	c.reading, c.shaking = true, shaking
	c.mu.Unlock()
	return nil
}

// lockRead waits until nobody reads. Unless it returns an error, mu is held then.
func (c *Conn) lockRead(shaking bool) (err error) {
	c.mu.Lock()
	for c.reading && c.rerr == nil && c.stage == unserved {
		c.turn.Wait()
	}
	switch {
	case c.rerr != nil:
		err = c.rerr
	case c.stage != unserved:
		err = errServed
	case !shaking && c.shaking:
		err = errUnfinished
	case shaking && c.req != nil:
		err = errShaken
	default:
		return nil
	}
	c.mu.Unlock()
	return err
}

// endRead ends what beginRead began. An error that is not a timeout becomes the error
// of all later reads. It returns the first such error, which may come from Close in
// another goroutine.
func (c *Conn) endRead(err error) error {
	more := c.r < c.w && c.dec.kind == noFrame && c.dec.holdsFrame(c.in[c.r:c.w])
	if err != nil && !isTimeout(err) {
		c.releaseInput()
		c.chunk, c.partial = nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading, c.more = false, more
	if c.stage == awaiting {
		c.stage = calling
	}
	if err != nil && !isTimeout(err) {
		c.stopReading(err)
	}
	if c.rerr != nil {
		c.deflate.stop()
	}
	c.turn.Broadcast()
	return cmp.Or(c.rerr, err)
}

// stopReading sets the error of all later reads, if there is none yet. mu is
// held.
func (c *Conn) stopReading(err error) {
	if c.rerr != nil {
		return
	}
	c.rerr = err
	if !c.reading {
		c.deflate.stop()
	}
	for _, p := range c.pings {
		p.done <- err
	}
	c.pings = nil
}

// beginMessage is beginRead for a whole message. It skips what the last
// reader has left of its own.
func (c *Conn) beginMessage() error {
	if err := c.beginRead(false); err != nil {
		return err
	}
	if err := c.skipMessage(); err != nil {
		return c.endRead(err)
	}
	return nil
}

// skipMessage skips what the last reader has left of its message.
func (c *Conn) skipMessage() error {
	for c.reader != nil {
		if c.packed && c.deflate.recv.takeover { // the next message may refer to this one
			var skipped [512]byte
			_, end, err := c.readInflated(skipped[:])
			if err != nil {
				return err
			}
			if end {
				c.reader = nil
			}
			continue
		}
		c.deflate.stop()
		c.chunk = nil
		if c.end {
			c.reader, c.end, c.packed = nil, false, false
		} else if err := c.nextChunk(); err != nil {
			return err
		}
	}
	return nil
}

// findMessage finds the message in progress, or else the next one, so that typ and packed
// tell what it is.
func (c *Conn) findMessage() error {
	if c.deflate.reads() {
		return nil // its input must stay in its place
	}
	return c.nextChunk()
}

// appendMessage appends the message in progress, or else the next one.
func (c *Conn) appendMessage(dst []byte) (MessageType, []byte, error) {
	if c.partial == nil {
		if err := c.findMessage(); err != nil {
			return 0, dst, err
		}
	}
	if c.packed {
		p, err := c.appendInflated(dst)
		if err != nil {
			return 0, dst, err
		}
		return c.typ, p, nil
	}
	return c.appendPayload(dst)
}

// appendPayload is appendMessage for what the frames hold, whether it is compressed or
// not.
func (c *Conn) appendPayload(dst []byte) (MessageType, []byte, error) {
	p, start, owned := dst, len(dst), dst == nil
	if c.partial != nil {
		p, start, owned = c.partial, 0, true
		c.partial = nil
	}
	for {
		err := c.nextChunk()
		if p == nil && c.end && err == nil {
			p = c.keep(c.chunk)
		} else {
			p = append(p, c.chunk...)
		}
		c.chunk = nil
		// The rest of a large frame goes straight to its place. Where memory
		// has to be found for it, it is about as much as has arrived.
		for err == nil && c.direct() {
			room := int(min(c.dec.left, uint64(max(len(p)-start, heldInputSize))))
			if cap(p)-len(p) < room {
				p = slices.Grow(p, room)
			}
			var n int
			n, err = c.readPayload(p[len(p):cap(p)])
			p = p[:len(p)+n]
		}
		switch {
		case err != nil:
			if isTimeout(err) && len(p) > start {
				if !owned {
					p = slices.Clone(p[start:])
				}
				c.partial = p
			}
			return 0, dst, err
		case c.end:
			c.end = false
			if owned && dst != nil {
				p = append(dst, p...)
			}
			return c.typ, p, nil
		}
	}
}

// readChunk reads some payload of the message in progress into p, or reports
// that there is none left.
func (c *Conn) readChunk(p []byte) (n int, end bool, err error) {
	for len(c.chunk) == 0 && !c.packed {
		if c.end {
			c.end = false
			return 0, true, nil
		}
		if len(p) >= heldInputSize && c.partial == nil && c.direct() {
			n, err = c.readPayload(p)
			return n, false, err
		}
		if err := c.nextChunk(); err != nil {
			return 0, false, err
		}
	}
	if c.packed {
		return c.readInflated(p)
	}
	n = copy(p, c.chunk)
	if c.chunk = c.chunk[n:]; len(c.chunk) == 0 {
		c.chunk = nil // it lies in the input buffer, which others may use soon
	}
	return n, false, nil
}

// nextChunk decodes input until chunk holds payload or the message ends.
func (c *Conn) nextChunk() error {
	if c.partial != nil {
		c.chunk, c.partial = c.partial, nil
	}
	for len(c.chunk) == 0 && !c.end {
		p, err := c.step()
		if err != nil {
			return err
		}
		c.typ, c.packed, c.end = MessageType(p.opcode), p.compressed, p.end
		if len(p.payload) > 0 {
			c.chunk = p.payload
		}
	}
	return nil
}

// direct reports whether the next payload is to be read without going through
// the input buffer.
func (c *Conn) direct() bool {
	return c.r == c.w && c.dec.kind == payload &&
		(c.dec.left >= directSize || c.raw == nil && c.dec.left >= heldInputSize)
}

// readPayload reads payload of the frame in progress into p.
func (c *Conn) readPayload(p []byte) (int, error) {
	if c.raw != nil {
		c.releaseInput()
	}
	p = p[:min(uint64(len(p)), c.dec.left)]
	n, err := c.readTransport(p)
	if err != nil {
		return 0, c.cut(err)
	}
	if c.end, err = c.dec.take(p[:n]); err != nil {
		return 0, c.fail(err)
	}
	return n, nil
}

// step decodes input up to the next piece of a message. It deals with the
// control frames on the way.
func (c *Conn) step() (piece, error) {
	for {
		p, n, err := c.dec.next(c.in[c.r:c.w])
		if err != nil {
			return p, c.fail(err)
		}
		c.r += n
		switch {
		case n == 0:
			err = c.cut(c.fill(p.need))
		case p.opcode == opPing:
			c.acceptPing(p.payload)
		case p.opcode == opPong:
			c.acceptPong(p.payload)
		case p.opcode == opClose:
			err = c.acceptClose(p.payload)
		case p.opcode != 0:
			return p, nil
		}
		if err != nil {
			return p, err
		}
	}
}

// cut turns an end of the transport that is not between two messages into
// io.ErrUnexpectedEOF.
func (c *Conn) cut(err error) error {
	if err == nil || isTimeout(err) {
		return err
	}
	if err == io.EOF && (c.r < c.w || c.dec.kind != noFrame || c.dec.typ != 0) {
		err = io.ErrUnexpectedEOF
	}
	c.ended = err
	return err
}

// fill reads more input. A bare Conn reads no more than need bytes. The error errRest means
// that Server.rest is to do that.
func (c *Conn) fill(need int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.raw != nil {
		if err := c.held; err != nil {
			c.held = nil
			return err
		}
		if c.beforeWait() {
			return errRest
		}
		return c.readSocket()
	}
	c.makeRoom(heldInputSize)
	space := c.in[c.w:]
	if c.bare {
		space = space[:min(len(space), need)]
	}
	n, err := c.readTransport(space)
	c.w += n
	return err
}

// readSocket reads more input from a socket. It needs so little stack that a goroutine which
// does nothing else keeps the one it began with.
func (c *Conn) readSocket() error {
	err := c.raw.Read(c.try)
	if err == nil {
		err, c.held = c.held, nil
	}
	if e, ok := err.(*net.OpError); ok {
		e.Op = "read" // not raw-read
	}
	return err
}

// readTransport reads from rw, when all that the peer may be waiting for is on
// its way. It returns bytes or an error.
func (c *Conn) readTransport(p []byte) (int, error) {
	if err := c.held; err != nil {
		c.held = nil
		return 0, err
	}
	var n int
	err := errPanic // unless rw returns
	defer func() {
		if err == errPanic {
			c.endRead(err)
		}
	}()
	c.beforeWait()
	for range 100 {
		err = errPanic
		n, err = c.rw.Read(p)
		if n > 0 {
			c.hear()
			if !isTimeout(err) {
				c.held = err
			}
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// tryRead is what raw.Read calls whenever there may be input, until it reports
// true. When there is none it gives the buffer back, so that none is held while
// raw.Read waits.
func (c *Conn) tryRead(fd uintptr) bool {
	c.makeRoom(inputSize)
	n, err := callFD(syscall.Read, fd, c.in[c.w:])
	for err == syscall.EINTR {
		n, err = callFD(syscall.Read, fd, c.in[c.w:])
	}
	switch {
	case wouldBlock(err):
		c.releaseInput()
		return false
	case err != nil:
		c.held = c.opError("read", err)
	case n == 0:
		c.held = io.EOF
	default:
		c.w += n
		c.hear()
	}
	return true
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(),
		Err: os.NewSyscallError(op, err)}
}

// hear notes that the peer is alive.
func (c *Conn) hear() {
	if !c.heard.Load() {
		c.heard.Store(true)
	}
}

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

// makeRoom makes in a buffer of at least size bytes with space behind w.
func (c *Conn) makeRoom(size int) {
	input := c.in[c.r:c.w]
	switch {
	case len(c.in) < size && size == inputSize:
		c.in = inputs.Get().(*[inputSize]byte)[:]
	case len(c.in) < size:
		c.in = make([]byte, size)
	case len(input) == len(c.in):
		c.in = make([]byte, 2*len(c.in))
	case c.r == 0:
		return
	}
	c.r, c.w = 0, copy(c.in, input)
}

// releaseInput gives the input buffer back. What has not been decoded, a part of
// a header, of a control frame or of a request, stays in a copy of its size.
func (c *Conn) releaseInput() {
	b := c.in
	c.in = slices.Clone(b[c.r:c.w])
	if c.r == c.w {
		c.in = nil
	}
	c.r, c.w = 0, len(c.in)
	if len(b) == inputSize {
		inputs.Put((*[inputSize]byte)(b))
	}
}

// WriteMessage sends p as one message, in one frame. It keeps no reference to p
// and does not allocate. Any number of goroutines may write at the same time; their
// messages stay whole and may share one call of the transport's Write.
//
// WriteMessage returns when the transport has taken the message, and thus waits for
// a slow peer. The exception is a reply that is written while another whole message
// has already arrived and is to be read: it is held back and leaves together with
// the next replies, before a read waits for input, when 64 KiB are held, or after a
// millisecond, whichever comes first. If that fails, a later write reports it.
//
// WriteMessage refuses text that is not UTF-8, and for hixie-76 binary messages;
// the connection stays usable. An error of the transport is final for all writes,
// even if it is a timeout, but does not end reads; see [Conn.CloseNow]. Once the
// connection is closed, the error is the [*CloseError].
func (c *Conn) WriteMessage(t MessageType, p []byte) error {
	if t == Text && !utf8.Valid(p) {
		return errNotUTF8
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginWrite(t); err != nil {
		return err
	}
	if c.deflate.compresses(p) {
		return c.putCompressed(t, p)
	}
	return c.putFrame(finBit|byte(t), p, nil)
}

// NextWriter begins a message that is sent in fragments: every Write sends one, and
// Close a last one without text. Other messages have to wait until then, so a goroutine
// that has begun a message must close it before it sends another. Control frames do
// not wait.
//
// A rune may be split across fragments, but the whole message must be valid UTF-8
// if it is text. For hixie-76 the message is one frame, sent in pieces.
func (c *Conn) NextWriter(t MessageType) (io.WriteCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginWrite(t); err != nil {
		return nil, err
	}
	c.writer = &messageWriter{c: c, typ: t, opcode: byte(t)}
	if c.deflate != nil {
		c.writer.opcode |= rsv1Bit
		c.writer.deflate = c.deflate.compressor(c.deflate.send.history)
	}
	return c.writer, nil
}

// A messageWriter writes one message.
type messageWriter struct {
	c       *Conn
	typ     MessageType
	opcode  byte // of the next fragment, and RSV1 if that is the first of a compressed message
	text    utf8Checker
	deflate *compressor // of a compressed message, unless Write uses it
}

func (w *messageWriter) Write(p []byte) (int, error) {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != w {
		return 0, errStale
	}
	opcode, text := w.opcode, w.text
	if w.typ == Text && !text.check(p) {
		return 0, errNotUTF8
	}
	z := w.deflate
	if c.deflate != nil && z == nil {
		return 0, errBusy
	}
	w.opcode, w.text = opContinuation, text
	fragment := p
	if z != nil {
		w.deflate = nil
		c.mu.Unlock()
		fragment = z.compress(p)
		c.mu.Lock()
		defer func() { w.deflate = z }()
		c.deflate.send.add(p)
	}
	if err := c.putFrame(opcode, fragment, w); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *messageWriter) Close() error {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != w {
		return errStale
	}
	var last []byte
	if c.deflate != nil {
		if w.deflate == nil {
			return errBusy
		}
		last = endOfMessage
		w.deflate.free()
	}
	c.turn.Broadcast()
	if !w.text.whole() {
		// What has been sent cannot become a valid message any more.
		c.putClose(failure(CloseInternalError, "a text message ended within a rune"))
		c.writer = nil
		c.flush()
		return errNotUTF8
	}
	c.writer = nil
	return c.putFrame(finBit|w.opcode, last, nil)
}

// Write sends p as one binary message, or for hixie-76 as a text message; see
// [Conn.WriteMessage], which also sends text to other clients.
func (c *Conn) Write(p []byte) (int, error) {
	t := Binary
	c.mu.Lock()
	if c.dec.hixie {
		t = Text
	}
	c.mu.Unlock()
	if err := c.WriteMessage(t, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// beginWrite waits while another message is being written in fragments and then
// reports what keeps c from sending one of type t. mu is held.
func (c *Conn) beginWrite(t MessageType) error {
	switch {
	case t != Text && t != Binary:
		return fmt.Errorf("websocket: there is no %v", t)
	case t == Binary && c.dec.hixie:
		return fmt.Errorf("websocket: hixie-76 has no binary messages: %w", errors.ErrUnsupported)
	}
	for c.writer != nil && c.werr == nil {
		c.turn.Wait()
	}
	return c.writable()
}

// writable returns the error of a write, if none can succeed. mu is held.
func (c *Conn) writable() error {
	if c.werr == nil && c.shaking {
		return errUnfinished
	}
	return c.werr
}

// putFrame sends a data frame of which first is the first byte and w the writer,
// if it is a fragment. mu is held.
func (c *Conn) putFrame(first byte, p []byte, w *messageWriter) error {
	if len(p) >= batchSize || len(p) >= directSize && c.raw != nil && !c.client && !c.dec.hixie {
		return c.putLarge(first, p, w)
	}
	if err := c.writable(); err != nil {
		return err
	}
	out := c.output()
	if c.dec.hixie {
		out.b = appendHixie(out.b, first, p)
	} else {
		out.b = appendFrame(out.b, first, p, c.client)
	}
	c.unqueue()
	c.crowded = c.crowded || c.reading
	if c.more && len(out.b) < batchSize {
		c.replies = true
		c.writeWithin(batchDelay)
		return nil
	}
	if c.flush() != nil {
		return c.werr
	}
	return nil
}

// putLarge is putFrame for a large payload. It is written from p itself, or piece by
// piece if it has to be masked or delimited.
func (c *Conn) putLarge(first byte, p []byte, w *messageWriter) error {
	for c.writing || c.writer != w && c.werr == nil {
		if w != nil && c.writer != w {
			return errStale
		}
		c.turn.Wait()
	}
	if err := c.writable(); err != nil {
		return err
	}
	out := c.output()
	var key uint32
	if c.dec.hixie {
		out.b = appendHixie(out.b, first&^finBit, nil)
	} else {
		out.b = appendHeader(out.b, first, c.client, len(p))
		if c.client {
			out.b, key = appendKey(out.b)
		}
	}
	c.transfer(func(out *output) error {
		if !c.client && !c.dec.hixie {
			step := min(len(p), writeSize)
			out.vec = [2][]byte{out.b, p[:step]}
			out.bufs = out.vec[:]
			size := int64(len(out.b) + step)
			n, err := out.bufs.WriteTo(c.rw)
			out.vec = [2][]byte{}
			if err == nil && n < size {
				err = io.ErrShortWrite
			}
			if err != nil {
				return err
			}
			c.moved.Add(1)
			return c.write(p[step:])
		}
		for {
			n := len(out.b)
			step := min(len(p), max(0, batchSize+maxHeader-n)) // others may have put more
			out.b = append(out.b, p[:step]...)
			p = p[step:]
			if c.client {
				key = mask(out.b[n:], key)
			}
			if c.dec.hixie && len(p) == 0 && first&finBit != 0 {
				out.b = append(out.b, 0xFF)
			}
			if err := c.write(out.b); err != nil || len(p) == 0 {
				return err
			}
			out.b = out.b[:0]
		}
	})
	if c.broken != nil {
		return c.werr
	}
	return nil
}

// output returns the output that the next bytes are to be appended to. mu is
// held.
func (c *Conn) output() *output {
	if c.out == nil {
		c.out = outputs.Get().(*output)
		c.batch++
	}
	return c.out
}

// flush writes the output, or waits for the goroutine that already does. mu is held
// on entry and on return, but not during the write.
func (c *Conn) flush() error {
	mine := c.batch
	for c.writing && c.done < mine {
		c.turn.Wait()
	}
	if c.done < mine && c.broken == nil {
		c.transfer(func(out *output) error { return c.write(out.b) })
	}
	return c.broken
}

// transfer lets write hand the output to rw. mu is held on entry and on return, but
// not during the write.
func (c *Conn) transfer(write func(*output) error) {
	out, batch := c.take()
	err := errPanic // unless write returns
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.taken(batch, err)
	}()
	err = write(out)
	out.free()
}

// take makes the caller the one that writes, and gives it the output. mu is held.
func (c *Conn) take() (out *output, batch uint64) {
	out, batch = c.out, c.batch
	c.out, c.replies, c.controls, c.writing = nil, false, 0, true
	c.sending = len(out.b)
	return out, batch
}

// taken ends what take began. mu is held.
func (c *Conn) taken(batch uint64, err error) {
	c.writing, c.done, c.sending = false, batch, 0
	if err != nil {
		c.broken = err
		c.werr = cmp.Or(c.werr, err)
	}
	c.turn.Broadcast()
}

// write writes p to rw, with one call of Write unless p is large.
func (c *Conn) write(p []byte) error {
	if c.raw != nil && len(p) > writeSize {
		_, err := c.writeRaw(p, true)
		return err
	}
	for len(p) > 0 {
		n := min(len(p), writeSize)
		if err := writeFull(c.rw, p[:n]); err != nil {
			return err
		}
		p = p[n:]
		c.moved.Add(1)
	}
	return nil
}

// writeRaw is write for a socket: it sees progress without parting p. It waits for room, if
// wait is true, or else returns what there is no room for.
func (c *Conn) writeRaw(p []byte, wait bool) (rest []byte, err error) {
	if c.socket == nil {
		c.socket = &socketWriter{c: c}
		c.socket.try = c.socket.tryWrite
	}
	s := c.socket
	s.rest, s.wait = p, wait
	err = c.raw.Write(s.try)
	if err == nil {
		err, s.err = s.err, nil
	}
	if e, ok := err.(*net.OpError); ok {
		e.Op = "write" // not raw-write
	}
	rest, s.rest = s.rest, nil
	return rest, err
}

// A socketWriter is what writeRaw needs. It belongs to whoever has set writing.
type socketWriter struct {
	c    *Conn
	try  func(fd uintptr) bool
	rest []byte
	wait bool
	err  error // result of try
}

// tryWrite is what raw.Write calls whenever there may be room, until it reports true.
func (s *socketWriter) tryWrite(fd uintptr) bool {
	for len(s.rest) > 0 {
		n, err := callFD(syscall.Write, fd, s.rest[:min(len(s.rest), 1<<30)])
		switch {
		case err == syscall.EINTR:
		case wouldBlock(err):
			return !s.wait
		case err != nil:
			s.err = s.c.opError("write", err)
			return true
		default:
			s.rest = s.rest[n:]
			s.c.moved.Add(1)
		}
	}
	return true
}

// writeFull writes p with one call of w.Write.
func writeFull(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// writeWithin has the timer's goroutine write the output after d, unless it has been
// written by then. mu is held.
func (c *Conn) writeWithin(d time.Duration) {
	switch {
	case c.pushing || c.armed && d > 0 || c.shutdown:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(d, c.writeLate)
	default:
		c.timer.Reset(d)
	}
	c.armed = true
}

// writeLate is the timer's function. At most one such goroutine writes at a time; it
// goes on with what is queued meanwhile.
func (c *Conn) writeLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	if c.pushing {
		return
	}
	c.pushing = true
	for c.out != nil && c.flush() == nil {
	}
	c.pushing = false
}

// beforeWait sends replies that were held back before a read that may wait. If other
// goroutines write too, it leaves that to the timer: waiting for their output could
// deadlock with a peer that waits for this side to read.
//
// It reports whether Serve is to wait in a new goroutine, see Server.rest: between two
// messages, if the peer is calm.
func (c *Conn) beforeWait() (rest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.more = false
	switch {
	case !c.replies:
	case c.crowded && c.closer != nil:
		c.writeWithin(0)
	case !c.writing:
		c.flush()
	}
	if c.calm == 0 || c.stage != awaiting || c.r < c.w || !c.between() {
		return false
	}
	c.calm--
	return true
}

// putControl queues a control frame for the timer's goroutine. If it waited for the
// transport, two busy peers could wait for each other's pongs. It does wait if the
// transport cannot be closed, and is thus no socket, or if 64 KiB of control frames
// are queued. mu is held.
func (c *Conn) putControl(opcode byte, p []byte) error {
	out := c.output()
	n := len(out.b)
	out.b = appendFrame(out.b, finBit|opcode, p, c.client)
	c.controls += len(out.b) - n
	if c.closer == nil || c.controls >= batchSize {
		return c.flush()
	}
	c.writeWithin(0)
	return nil
}

// putBytes sends a part of the opening handshake. mu is held.
func (c *Conn) putBytes(b []byte) error {
	out := c.output()
	out.b = append(out.b, b...)
	return c.flush()
}

// A ping is one that waits for its pong, or for an error.
type ping struct {
	id   uint64
	done chan error // takes one
}

// Ping sends a ping and waits for its pong, or until ctx is done. Another goroutine
// has to read from c meanwhile, as that is how the pong is found, so Ping cannot be called
// within a callback of [Conn.Serve]. For hixie-76, which
// has no pings, the error wraps [errors.ErrUnsupported].
func (c *Conn) Ping(ctx context.Context) error {
	p, err := c.sendPing()
	if err != nil {
		return err
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pings = slices.DeleteFunc(c.pings, func(q ping) bool { return q.id == p.id })
		return ctx.Err()
	}
}

func (c *Conn) sendPing() (ping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dec.hixie {
		return ping{}, fmt.Errorf("websocket: hixie-76 has no pings: %w", errors.ErrUnsupported)
	}
	if err := cmp.Or(c.writable(), c.rerr); err != nil {
		return ping{}, err
	}
	c.lastPing++
	p := ping{c.lastPing, make(chan error, 1)}
	c.pings = append(c.pings, p)
	return p, c.putControl(opPing, binary.BigEndian.AppendUint64(nil, p.id))
}

// acceptPing sends a pong (RFC 6455, section 5.5.3).
func (c *Conn) acceptPing(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writable() == nil {
		c.putControl(opPong, payload)
	}
}

// acceptPong ends the wait for the ping that it answers and for earlier ones,
// which the peer need not answer (RFC 6455, section 5.5.3). Other pongs mean
// nothing.
func (c *Conn) acceptPong(payload []byte) {
	if len(payload) != 8 {
		return
	}
	id := binary.BigEndian.Uint64(payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	for id <= c.lastPing && len(c.pings) > 0 && c.pings[0].id <= id {
		c.pings[0].done <- nil
		c.pings = c.pings[1:]
	}
}

// Close closes the connection with a closing handshake, which it waits for: it calls
// [Conn.CloseWith] with CloseNormal.
func (c *Conn) Close() error { return c.CloseWith(CloseNormal, "") }

// CloseWith carries out the closing handshake (RFC 6455, section 7.1): it sends a
// close frame with the code and the reason, drops what the peer still sends up to its
// own close frame, and closes the transport. If the peer has not answered within
// Options.CloseTimeout, CloseWith closes the transport anyway and returns an error
// that wraps [os.ErrDeadlineExceeded]. It relies on the transport's Close to end calls
// in progress, as that of a [net.Conn] does. If the transport has no Close method,
// CloseWith sends the close frame and returns without waiting for an answer.
//
// Within a callback of [Conn.Serve], or while one runs, CloseWith only begins: it returns
// at once, and Serve does the rest after the callback.
//
// Pending and later calls fail with a [*CloseError] that holds the code. If the
// connection has already ended, or another call of CloseWith was first, CloseWith
// returns nil when the transport is closed. That may take up to Options.CloseTimeout, as
// the peer is given time to read what was sent last.
//
// The reason is UTF-8 of at most 123 bytes. CloseNoStatus, without a reason, sends a
// close frame without a payload. A code or reason that must not be sent is an error,
// and the connection stays open. Hixie-76 carries neither.
func (c *Conn) CloseWith(code CloseCode, reason string) error {
	if err := checkClose(code, reason); err != nil {
		return err
	}
	e := &CloseError{Code: code, Reason: reason, by: byUs}
	c.mu.Lock()
	follower := c.closing && !c.left
	first := c.writable() == nil && c.rerr == nil
	hopeless := c.beginClose(e)
	if c.closer == nil {
		defer c.mu.Unlock()
		if !first {
			return nil
		}
		return c.flush()
	}
	if hopeless {
		c.mu.Unlock()
		c.shut()
		c.mu.Lock()
	}
	if c.stage.calls() {
		c.left = !follower
		c.mu.Unlock()
		return nil
	}
	c.left = false
	for c.reading || follower && !c.shutdown {
		c.turn.Wait()
	}
	c.reading = true
	c.freeDeadlines()
	first = c.sent && !follower
	c.mu.Unlock()

	var err error
	for first && err == nil && c.ended == nil {
		_, err = c.step()
	}
	c.mu.Lock()
	err = cmp.Or(err, c.ended, c.flush())
	c.mu.Unlock()
	answer, _ := c.ended.(*CloseError)
	answered := answer != nil && answer.by != byFailure
	if c.client || !answered {
		c.linger()
	}
	c.endRead(e)
	closed := c.shut()
	switch {
	case !first || answered:
		return nil
	case c.late.Load():
		return fmt.Errorf("websocket: no answer to the close frame: %w", os.ErrDeadlineExceeded)
	case closed == errShut: // by CloseNow
		return net.ErrClosed
	}
	return err
}

// beginClose makes e the error of all later calls and has a close frame sent, unless
// that is hopeless, so that the transport is to be closed. mu is held.
func (c *Conn) beginClose(e *CloseError) (hopeless bool) {
	c.startWatchdog()
	c.closing = true
	c.sent = c.sent || c.writable() == nil && c.rerr == nil
	_, reset := errors.AsType[*net.OpError](c.rerr) // by the peer, as a rule
	hopeless = c.shaking || c.broken != nil || reset || c.dec.hixie && c.writer != nil
	if hopeless {
		c.werr = cmp.Or[error](c.werr, e)
	} else {
		c.putClose(e)
	}
	c.stopReading(e)
	c.turn.Broadcast()
	if c.closer == nil {
		return false
	}
	if hopeless {
		c.sent = false
	} else {
		// Another goroutine writes while this one reads: the peer may have much to
		// send before it reads.
		c.writeWithin(0)
	}
	c.freeDeadlines()
	return hopeless
}

// freeDeadlines leaves the watchdog as the only deadline. mu is held.
func (c *Conn) freeDeadlines() {
	c.limit, c.deadline = time.Time{}, time.Time{}
	c.applyDeadline()
	c.SetWriteDeadline(time.Time{})
}

// CloseNow closes the transport at once, without a closing handshake. Pending and later
// calls fail with [net.ErrClosed], unless the connection has already ended.
func (c *Conn) CloseNow() error { return c.abort(net.ErrClosed) }

// abort closes the transport at once and makes e the error of pending and later
// calls.
func (c *Conn) abort(e error) error {
	c.mu.Lock()
	c.broken = e
	c.werr = cmp.Or(c.werr, e)
	c.stopReading(e)
	c.turn.Broadcast()
	c.mu.Unlock()
	if err := c.shut(); err != errShut {
		return err
	}
	return nil
}

// acceptClose answers a close frame, unless that is the answer (RFC 6455,
// section 5.5.1). Then a server closes the transport, while a client leaves the
// server time to do so (section 7.1.1).
func (c *Conn) acceptClose(payload []byte) error {
	code, reason, err := parseClose(payload)
	if err != nil {
		return c.fail(err)
	}
	e := &CloseError{Code: code, Reason: reason}
	if c.dec.typ != 0 {
		e.by = byPeerEarly
	}
	c.endWith(e)
	if !c.client {
		c.shut()
	}
	return e
}

// fail ends the connection because of what the peer has sent (RFC 6455, section
// 7.1.7). The transport stays open so that the peer can read why, until Close or
// until the time for the closing handshake is over.
func (c *Conn) fail(err error) error {
	c.endWith(err.(*CloseError))
	return err
}

// endWith sends a close frame because of what has been read, and ends the read if the
// transport panics.
func (c *Conn) endWith(e *CloseError) {
	c.ended = e
	returned := false
	defer func() {
		if !returned {
			c.endRead(e)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startWatchdog()
	c.putClose(e)
	c.flush()
	returned = true
}

// putClose puts a close frame behind the output, unless nothing more can be sent,
// and makes e the error of all later writes. The reason goes with it only if it is
// this side's. mu is held.
func (c *Conn) putClose(e *CloseError) {
	switch {
	case c.writable() != nil:
	case !c.dec.hixie:
		reason := e.Reason
		if e.by == byPeer || e.by == byPeerEarly {
			reason = ""
		}
		out := c.output()
		out.b = appendFrame(out.b, finBit|opClose, appendClose(nil, e.Code, reason), c.client)
	case c.writer == nil: // else it would be text of the open message
		out := c.output()
		out.b = append(out.b, 0xFF, 0x00)
	}
	c.werr = cmp.Or[error](c.werr, e)
}

// linger waits for the peer to close the transport: if this side did it while
// there is input that has not been read, a TCP connection would be reset, and the
// peer might lose what was sent last.
func (c *Conn) linger() {
	half, ok := c.closer.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.makeRoom(heldInputSize)
	for err := error(nil); err == nil; {
		_, err = c.readTransport(c.in)
	}
}

// errShut is what shut returns if the transport has been closed before.
var errShut = errors.New("websocket: transport already closed")

// shut closes the transport, once. When it returns, that is done.
func (c *Conn) shut() error {
	c.mu.Lock()
	if c.shutdown || c.closer == nil {
		for c.shutdown && !c.shutEnd {
			c.turn.Wait()
		}
		c.mu.Unlock()
		return errShut
	}
	c.shutdown = true
	c.turn.Broadcast()
	for _, t := range []*time.Timer{c.timer, c.watchdog} {
		if t != nil {
			t.Stop()
		}
	}
	if c.alive != nil {
		c.alive.timer.Stop()
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.shutEnd = true
		c.turn.Broadcast()
	}()
	return c.closer.Close()
}

// startWatchdog has the transport closed when the time for the closing handshake
// is over. mu is held.
func (c *Conn) startWatchdog() {
	if c.watchdog == nil && c.closer != nil && !c.shutdown {
		c.watchdog = time.AfterFunc(cmp.Or(max(0, c.opts.CloseTimeout), closeTimeout), func() {
			c.late.Store(true)
			c.shut()
		})
	}
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

// noAddr is the address of a stream that has none.
type noAddr struct{}

func (noAddr) Network() string { return "websocket" }
func (noAddr) String() string  { return "unknown" }

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

// isTimeout reports whether a read that failed with err can go on later.
func isTimeout(err error) bool {
	if _, ok := err.(*HandshakeError); ok {
		return false
	}
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
