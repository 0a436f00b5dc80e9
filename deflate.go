package websocket

import (
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Deflate lets connections compress their messages with permessage-deflate (RFC 7692),
// if the peer wants that too. The zero value is a good choice: nothing is remembered from
// one message to the next, so that an idle connection needs hardly any memory for it.
//
// What is compressed takes processor time on both sides. And where a message holds both a
// secret and what an attacker may choose, its size can tell the secret: send such messages
// over a connection without compression.
type Deflate struct {
	// Level is a level of compress/flate, from flate.HuffmanOnly to
	// flate.BestCompression. 0 means flate.BestSpeed.
	Level int

	// Threshold is the size, in bytes, of the smallest message that is compressed. 0
	// means 512 bytes, or 128 where messages can refer to those before. With a negative
	// number all messages are, except where that would not make them smaller. Messages
	// from NextWriter are always compressed, and need about 1.2 MB until they end.
	Threshold int

	// ContextTakeover lets a message refer to those before it, which makes small
	// messages that are alike much smaller. It applies to each direction whose
	// receiver allows it. A connection then keeps up to 4 KiB of what it has sent and 32
	// KiB of what it has received, or less with a smaller window.
	ContextTakeover bool

	// WindowBits is the base-2 logarithm of how many bytes back a message may refer
	// to, from 8 to 15. 0 means 15. It applies to what this side sends, and to what it
	// receives if the peer can limit its window. Windows below 12 bits gain little, are
	// slow, and let Level be flate.BestSpeed at most. Peers that use zlib cannot keep 8.
	WindowBits int
}

const (
	maxWindowBits  = 15      // RFC 7692, section 7.1.2
	minInflateBits = 9       // of a sender that has agreed on 8: zlib cannot keep that
	sendHistory    = 4 << 10 // bytes of context of what is sent; more would be slow and gain little
)

// level returns the level for a window. The others take too long for a reset to have one
// for every few bytes.
func (d *Deflate) level(windowBits int) int {
	if d.Level == 0 || d.Level != flate.HuffmanOnly && windowBits < 12 {
		return flate.BestSpeed
	}
	return d.Level
}

// threshold returns the size of the smallest message to compress.
func (d *Deflate) threshold(takeover bool) int {
	switch {
	case d.Threshold != 0:
		return max(d.Threshold, 1)
	case takeover:
		return 128 // below that flate.BestSpeed does not look for matches
	}
	return 512
}

func (d *Deflate) windowBits() int {
	if d.WindowBits == 0 {
		return maxWindowBits
	}
	return d.WindowBits
}

// check reports what is wrong with the options.
func (d *Deflate) check() error {
	switch {
	case d.Level < flate.HuffmanOnly || d.Level > flate.BestCompression:
		return fmt.Errorf("%d is no level of compression", d.Level)
	case d.WindowBits != 0 && (d.WindowBits < 8 || d.WindowBits > maxWindowBits):
		return fmt.Errorf("%d window bits are not from 8 to 15", d.WindowBits)
	}
	return nil
}

// Names of the extension and its parameters (RFC 7692, section 7).
const (
	deflateName      = "permessage-deflate"
	serverNoTakeover = "server_no_context_takeover"
	clientNoTakeover = "client_no_context_takeover"
	serverWindowBits = "server_max_window_bits"
	clientWindowBits = "client_max_window_bits"
)

// deflateParams are the parameters of an offer or of a response.
type deflateParams struct {
	serverReset, clientReset bool // no context takeover
	serverBits, clientBits   int  // 0: absent, anyBits: without a value
}

const anyBits = 16

// parseDeflate parses an element of Sec-WebSocket-Extensions and reports whether it is a
// valid offer (RFC 7692, section 7.1), of permessage-deflate, or a valid response.
func parseDeflate(e extension, response bool) (p deflateParams, ok bool) {
	if !strings.EqualFold(e.name, deflateName) {
		return p, false
	}
	for _, param := range e.params {
		var flag *bool
		var bits *int
		name := strings.ToLower(param.name)
		switch name {
		case serverNoTakeover:
			flag = &p.serverReset
		case clientNoTakeover:
			flag = &p.clientReset
		case serverWindowBits:
			bits = &p.serverBits
		case clientWindowBits:
			bits = &p.clientBits
		default:
			return p, false
		}
		switch {
		case flag != nil:
			if *flag || param.hasValue {
				return p, false
			}
			*flag = true
		case *bits != 0:
			return p, false
		case !param.hasValue:
			if response || name == serverWindowBits {
				return p, false
			}
			*bits = anyBits
		default:
			n, err := strconv.Atoi(param.value)
			if err != nil || n < 8 || n > maxWindowBits || strconv.Itoa(n) != param.value {
				return p, false
			}
			*bits = n
		}
	}
	return p, true
}

// String returns the element of Sec-WebSocket-Extensions.
func (p deflateParams) String() string {
	s := deflateName
	if p.serverReset {
		s += "; " + serverNoTakeover
	}
	if p.clientReset {
		s += "; " + clientNoTakeover
	}
	if p.serverBits != 0 {
		s += "; " + serverWindowBits + "=" + strconv.Itoa(p.serverBits)
	}
	if p.clientBits != 0 {
		s += "; " + clientWindowBits
		if p.clientBits != anyBits {
			s += "=" + strconv.Itoa(p.clientBits)
		}
	}
	return s
}

// offer returns what a client offers.
func (d *Deflate) offer() deflateParams {
	p := deflateParams{serverReset: !d.ContextTakeover, clientReset: !d.ContextTakeover, clientBits: anyBits}
	if bits := d.windowBits(); bits < maxWindowBits {
		p.serverBits, p.clientBits = bits, bits
	}
	return p
}

// answer returns a server's response to an offer.
func (d *Deflate) answer(offer deflateParams) deflateParams {
	p := deflateParams{
		serverReset: offer.serverReset || !d.ContextTakeover,
		clientReset: offer.clientReset || !d.ContextTakeover,
	}
	bits := d.windowBits()
	if offer.serverBits != 0 || bits < maxWindowBits {
		p.serverBits = bits
		if offer.serverBits != 0 {
			p.serverBits = min(bits, offer.serverBits)
		}
	}
	if n := min(bits, offer.clientBits); n != 0 && (n < maxWindowBits || offer.clientBits == n) {
		p.clientBits = n
	}
	return p
}

// answers reports whether p is a response that the offer allows.
func (p deflateParams) answers(offer deflateParams) bool {
	return (p.serverReset || !offer.serverReset) &&
		(offer.serverBits == 0 || 0 < p.serverBits && p.serverBits <= offer.serverBits) &&
		p.clientBits <= offer.clientBits
}

// chooseExtensions returns a server's Sec-WebSocket-Extensions: the answer to the first
// offer of permessage-deflate that is valid, or an empty string.
func (d *Deflate) chooseExtensions(header http.Header) (string, error) {
	if d == nil {
		return "", nil
	}
	if err := d.check(); err != nil {
		return "", &HandshakeError{Status: http.StatusInternalServerError, Reason: "the server's options for compression are not valid", err: err}
	}
	offers, err := parseExtensions(header["Sec-Websocket-Extensions"])
	if err != nil {
		return "", err
	}
	for _, e := range offers {
		if offer, ok := parseDeflate(e, false); ok {
			return d.answer(offer).String(), nil
		}
	}
	return "", nil
}

// checkExtensions reports whether the client that sent r can be answered with
// r.Extensions, and returns the parameters if there are any.
func (r *Request) checkExtensions() (p *deflateParams, err error) {
	if r.Extensions == "" {
		return nil, nil
	}
	bad := badRequest("Sec-WebSocket-Extensions", "does not offer what the response has")
	answers, err := parseExtensions([]string{r.Extensions})
	if err != nil || len(answers) != 1 || r.Version != RFC6455 {
		return nil, bad
	}
	answer, ok := parseDeflate(answers[0], true)
	if !ok {
		return nil, bad
	}
	offers, err := parseExtensions(r.Header["Sec-Websocket-Extensions"])
	if err != nil {
		return nil, err
	}
	for _, e := range offers {
		if offer, ok := parseDeflate(e, false); ok && answer.answers(offer) {
			return &answer, nil
		}
	}
	return nil, bad
}

// A deflation is the compression of one connection.
type deflation struct {
	*Deflate
	send, recv window
	writer     messageWriter // stands for a message that is compressed and sent in its turn
	reading    *inflation    // of the message in progress, if that is read in pieces
}

// newDeflation returns what a connection needs if p is agreed on.
func newDeflation(d *Deflate, p deflateParams, client bool) *deflation {
	if d == nil {
		d = new(Deflate)
	}
	server := window{takeover: !p.serverReset, bits: maxWindowBits}
	if p.serverBits != 0 {
		server.bits = p.serverBits
	}
	other := window{takeover: !p.clientReset, bits: maxWindowBits}
	if p.clientBits != 0 {
		other.bits = p.clientBits
	}
	z := &deflation{Deflate: d, send: server, recv: other}
	if client {
		z.send, z.recv = other, server
	}
	z.send.takeover = z.send.takeover && d.ContextTakeover
	z.send.bits = min(z.send.bits, d.windowBits())
	// A compressor can take in as many bytes as the window has, and the context is a
	// part of these.
	z.send.size = min(sendHistory, 1<<z.send.bits/2)
	z.recv.size = 1 << max(z.recv.bits, minInflateBits)
	return z
}

// compresses reports whether messages like p are compressed.
func (d *deflation) compresses(p []byte) bool {
	return d != nil && len(p) >= d.threshold(d.send.takeover)
}

// compressor returns a compressor for one message, to be freed.
func (d *deflation) compressor(history []byte) *compressor {
	return newCompressor(d.level(d.send.bits), d.send.bits, history)
}

// appendCompressed appends a frame with p as a whole message that does not refer to others.
// It is not masked.
func (d *deflation) appendCompressed(dst []byte, first byte, p []byte) []byte {
	out := outputs.Get().(*output)
	defer out.free()
	message, rsv := d.message(out, nil, p)
	return appendFrame(dst, first|rsv, message, false)
}

// forget makes the next message refer to none before it, as others are sent between them.
func (d *deflation) forget() {
	if d != nil {
		d.send.history = d.send.history[:0]
	}
}

// reads reports whether a message is being read in pieces.
func (d *deflation) reads() bool { return d != nil && d.reading != nil }

// stop ends what has been begun for a message that is read in pieces.
func (d *deflation) stop() {
	if d.reads() {
		d.reading.stop()
		d.reading = nil
	}
}

// A window is what one direction of a connection remembers of its messages.
type window struct {
	takeover bool
	bits     int
	size     int    // bytes that history can have
	history  []byte // the end of what has been compressed, for the next message to refer to
}

// add notes that p has been a message, or a part of one.
func (w *window) add(p []byte) {
	if !w.takeover {
		return
	}
	p = p[max(0, len(p)-w.size):]
	if excess := len(w.history) + len(p) - w.size; excess > 0 {
		w.history = w.history[:copy(w.history, w.history[excess:])]
	}
	if n := len(w.history) + len(p); n > cap(w.history) { // append would make more room than is used
		w.history = append(make([]byte, 0, min(w.size, max(n, 2*cap(w.history)))), w.history...)
	}
	w.history = append(w.history, p...)
}

// syncMarker ends what flate.Writer.Flush writes. A message goes without it (RFC 7692,
// section 7.2.1).
const syncMarker = "\x00\x00\xff\xff"

// A compressor compresses one message at a time.
type compressor struct {
	flate *flate.Writer
	level int
	out   []byte // what flate has written
	mute  bool   // out is not to have it
	limit int    // bytes of input between resets
	room  int    // bytes of input until the next
}

// compressors holds those of every level, beginning with flate.HuffmanOnly. Each has 0.7
// to 1.2 MB.
var compressors [flate.BestCompression - flate.HuffmanOnly + 1]sync.Pool

// newCompressor returns a compressor for one message. history is the context.
func newCompressor(level, windowBits int, history []byte) *compressor {
	z, ok := compressors[level-flate.HuffmanOnly].Get().(*compressor)
	if !ok {
		z = &compressor{level: level}
		z.flate, _ = flate.NewWriter(z, level) // whose only error is another level
	}
	z.limit = math.MaxInt
	if windowBits < maxWindowBits {
		z.limit = 1 << windowBits
	}
	z.reset(history)
	return z
}

func (z *compressor) free() {
	if cap(z.out) > maxMessage {
		z.out = nil
	}
	compressors[z.level-flate.HuffmanOnly].Put(z)
}

// reset makes the compressor forget all of its input, and remember history.
func (z *compressor) reset(history []byte) {
	z.flate.Reset(z)
	z.room = z.limit - len(history)
	if len(history) > 0 {
		z.mute = true
		z.flate.Write(history)
		z.flate.Flush()
		z.mute = false
	}
}

// Write takes what flate writes.
func (z *compressor) Write(p []byte) (int, error) {
	if !z.mute {
		z.out = append(z.out, p...)
	}
	return len(p), nil
}

// compress returns p as a fragment: whole blocks, the last of them an empty one, which
// ends with a syncMarker. It is valid until z is used again.
//
// A compressor that is reset after as many bytes as the window has cannot refer to any
// that are farther back.
func (z *compressor) compress(p []byte) []byte {
	z.out = z.out[:0]
	for {
		if z.room == 0 {
			z.reset(nil)
		}
		n := min(len(p), z.room)
		z.flate.Write(p[:n])
		z.flate.Flush()
		z.room -= n
		if p = p[n:]; len(p) == 0 {
			return z.out
		}
	}
}

// endOfMessage is the last fragment behind such ones: an empty block without the
// syncMarker (RFC 7692, section 7.2.3.6).
var endOfMessage = []byte{0}

// message compresses p as a message of its own, in out, or returns it as it is if that is
// shorter. It keeps no compressor, as the message may have to wait for a slow peer.
func (d *deflation) message(out *output, history, p []byte) (message []byte, rsv byte) {
	z := d.compressor(history)
	held := z.out
	z.out = out.b
	b := z.compress(p)
	out.b, z.out = b, held
	z.free()
	if b = b[:len(b)-len(syncMarker)]; len(b) < len(p) {
		return b, rsv1Bit
	}
	return p, 0
}

// inflateTail stands behind a message for the reader of compress/flate: what the sender
// has left out, and an empty block that says that there are no more.
var inflateTail = []byte(syncMarker + "\x01" + syncMarker)

var errInflate = errors.New("a message is not compressed as it should be")

// An inflater inflates one message at a time.
type inflater struct {
	flate io.ReadCloser
	input deflated
	space [4 << 10]byte // to inflate into
}

// inflaters holds inflaters, of about 50 KB each.
var inflaters sync.Pool

// newInflater returns an inflater for a message that begins with in. more is nil if that
// is all of it.
func newInflater(in, history []byte, more func() ([]byte, bool)) *inflater {
	f, ok := inflaters.Get().(*inflater)
	if !ok {
		f = &inflater{}
		f.flate = flate.NewReader(&f.input)
	}
	f.input = deflated{in: in, more: more}
	f.flate.(flate.Resetter).Reset(&f.input, history)
	return f
}

func (f *inflater) free() {
	f.input = deflated{}
	inflaters.Put(f)
}

// Read reads the inflated message. It returns io.EOF at its end.
func (f *inflater) Read(p []byte) (int, error) {
	n, err := f.flate.Read(p)
	switch {
	case err == nil:
	case err != io.EOF:
		err = errInflate
	case f.input.tail && len(f.input.in) > 0: // a part of the tail has completed the message
		err = errInflate
	case !f.input.tail && f.input.fill():
		// A block was the last of its stream (RFC 7692, section 7.2.3.4), and there is
		// another.
		err = nil
		f.flate.(flate.Resetter).Reset(&f.input, nil)
	}
	return n, err
}

// deflated is what flate reads: a message and its tail. It takes no byte more than it needs.
type deflated struct {
	in   []byte
	more func() ([]byte, bool) // returns more of the message, or that there is no more
	tail bool                  // in is of the tail
}

// fill reports whether in is not empty, or can be filled with more of the message.
func (d *deflated) fill() bool {
	for len(d.in) == 0 && d.more != nil {
		var ok bool
		if d.in, ok = d.more(); !ok {
			d.more = nil
		}
	}
	return len(d.in) > 0
}

func (d *deflated) Read(p []byte) (int, error) {
	if !d.fill() {
		if d.tail {
			return 0, io.ErrUnexpectedEOF
		}
		d.in, d.tail = inflateTail, true
	}
	// flate begins a block with ReadByte. What a block of the message stores may end with
	// the marker, but must not go on into the block behind that.
	if before := len(d.in) - (len(inflateTail) - len(syncMarker)); d.tail && before >= 0 && len(p) > before {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, d.in)
	d.in = d.in[n:]
	return n, nil
}

func (d *deflated) ReadByte() (byte, error) {
	if len(d.in) > 0 { // as a rule
		b := d.in[0]
		d.in = d.in[1:]
		return b, nil
	}
	var b [1]byte
	_, err := d.Read(b[:])
	return b[0], err
}

// An inflation inflates a message that is read in pieces. flate does not go on after an
// error of its input, such as a timeout. So it never gets one: it runs in a goroutine of its
// own, which waits between the pieces, unless the message is already there as a whole.
type inflation struct {
	*inflater        // nil before the first piece
	out       []byte // inflated and not read; lies in space, as a rule
	err       error  // comes behind out
	size      uint64 // bytes inflated so far
	starved   bool   // input is needed
	input     []byte
	last      bool          // input is the end of the message
	resume    chan struct{} // lets the goroutine go on, or if closed, end; nil if there is none
	yield     chan struct{} // has one when the goroutine waits
}

// next inflates more, to out and err, or reports that it has to have input first.
func (s *inflation) next(history []byte) {
	switch {
	case s.inflater != nil && s.resume == nil:
		s.step()
		return
	case s.inflater != nil:
		s.resume <- struct{}{}
	case s.last:
		s.inflater = newInflater(s.input, history, nil)
		s.step()
		return
	default:
		s.resume, s.yield = make(chan struct{}), make(chan struct{}, 1)
		s.inflater = newInflater(s.input, history, s.wait)
		go s.run()
	}
	<-s.yield
}

func (s *inflation) step() {
	var n int
	n, s.err = s.Read(s.space[:])
	s.out = s.space[:n]
}

func (s *inflation) run() {
	defer s.free()
	for ok := true; ok; _, ok = <-s.resume {
		s.step()
		s.yield <- struct{}{}
	}
}

// wait returns more input when there is some.
func (s *inflation) wait() ([]byte, bool) {
	if s.last {
		return nil, false
	}
	s.starved = true
	s.yield <- struct{}{}
	if _, ok := <-s.resume; !ok {
		return nil, false
	}
	return s.input, true
}

func (s *inflation) stop() {
	switch {
	case s.resume != nil:
		close(s.resume)
	case s.inflater != nil:
		s.free()
	}
}

// putCompressed sends a message, compressed if that makes it shorter. mu is held, but not
// while p is compressed.
func (c *Conn) putCompressed(t MessageType, p []byte) error {
	d := c.deflate
	var w *messageWriter
	if d.send.takeover {
		// Messages have to be sent in the order in which they refer to each other.
		w = &d.writer
		c.writer = w
	}
	history := d.send.history
	c.mu.Unlock()
	out := outputs.Get().(*output)
	defer out.free()
	message, rsv := d.message(out, history, p)
	c.mu.Lock()
	switch {
	case w == nil:
		if err := c.beginWrite(t); err != nil {
			return err
		}
	case rsv != 0:
		d.send.add(p)
	}
	if w != nil && len(message) < directSize { // it is put behind the others at once
		c.writer, w = nil, nil
		c.turn.Broadcast()
	}
	err := c.putFrame(finBit|rsv|byte(t), message, w)
	if w != nil {
		c.writer = nil
		if c.unqueue() {
			c.writeWithin(0)
		}
		c.turn.Broadcast()
	}
	return err
}

// appendInflated is appendMessage for a compressed message.
func (c *Conn) appendInflated(dst []byte) ([]byte, error) {
	d := c.deflate
	if d.reads() {
		return c.appendRest(dst)
	}
	message := c.chunk
	if !c.end {
		buf := c.newMessage(len(message))
		defer buf.free()
		_, b, err := c.appendPayload(buf.b[:0])
		if err != nil {
			return dst, err
		}
		buf.b, message = b, b
	}
	c.chunk, c.end, c.packed = nil, false, false

	f := newInflater(message, d.recv.history, nil)
	defer f.free()
	p, start := dst, len(dst)
	if len(p) == cap(p) {
		p = slices.Grow(p, min(4*len(message), 64<<10))
	}
	for {
		var n int
		var err error
		if len(p) == cap(p) { // there may be no more
			n, err = f.Read(f.space[:])
			p = append(p, f.space[:n]...)
		} else {
			n, err = f.Read(p[len(p):cap(p)])
			p = p[:len(p)+n]
		}
		err = c.checkInflated(p[len(p)-n:], uint64(len(p)-start), err)
		if err == io.EOF {
			d.recv.add(p[start:])
			return p, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// checkInflated checks a piece of a message that has size bytes with it, and the error that
// came behind it. It fails the connection unless that is io.EOF.
func (c *Conn) checkInflated(piece []byte, size uint64, err error) error {
	text := &c.dec.text
	switch {
	case size > c.dec.limit:
		return c.fail(failure(CloseMessageTooBig, "a message is larger than allowed"))
	case c.typ == Text && (!text.check(piece) || err == io.EOF && !text.whole()):
		return c.fail(failure(CloseInvalidPayload, "a text is not valid UTF-8"))
	case err != nil && err != io.EOF:
		return c.fail(failure(CloseInvalidPayload, err.Error()))
	}
	return err
}

// readInflated is readChunk for a compressed message.
func (c *Conn) readInflated(p []byte) (n int, end bool, err error) {
	d := c.deflate
	if d.reading == nil {
		d.reading = &inflation{starved: true}
	}
	s := d.reading
	for len(s.out) == 0 {
		if s.err != nil {
			c.end, c.packed = false, false
			d.stop()
			return 0, true, nil
		}
		if s.starved {
			if err := c.nextChunk(); err != nil {
				return 0, false, err
			}
			s.input, s.last, s.starved = c.chunk, c.end, false
			c.chunk = nil
		}
		s.next(d.recv.history)
		s.size += uint64(len(s.out))
		if err := c.checkInflated(s.out, s.size, s.err); err != nil && err != io.EOF {
			return 0, false, err
		}
		d.recv.add(s.out)
	}
	n = copy(p, s.out)
	s.out = s.out[n:]
	return n, false, nil
}

// appendRest appends what Read has left of a compressed message. A timeout leaves all of it
// for the next read.
func (c *Conn) appendRest(dst []byte) ([]byte, error) {
	p := dst
	for {
		p = slices.Grow(p, 512)
		n, end, err := c.readInflated(p[len(p):cap(p)])
		p = p[:len(p)+n]
		switch {
		case end:
			return p, nil
		case isTimeout(err):
			c.deflate.reading.out = slices.Clone(p[len(dst):])
		}
		if err != nil {
			return dst, err
		}
	}
}
