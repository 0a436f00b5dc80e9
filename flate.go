// Compressing and inflating messages: windows, what one message may refer to in others, and the
// pools of compressors and inflaters.

package websocket

import (
	"cmp"
	"compress/flate"
	"errors"
	"io"
	"math"
	"sync"
)

// A deflater compresses what one side of a connection sends. Its writer has it.
type deflater struct {
	*Deflate
	window
}

// An unpacker inflates what one side receives. Its reader has it.
type unpacker struct {
	window
	stream *inflation // of the message in progress, if that is read in pieces
}

// newDeflation returns what the two sides of a connection need if p is agreed on.
func newDeflation(d *Deflate, p deflateParams, client bool) (*deflater, *unpacker) {
	if d == nil {
		d = new(Deflate)
	}
	send := window{takeover: p[serverReset] == 0, bits: cmp.Or(p[serverBits], maxWindowBits)}
	recv := window{takeover: p[clientReset] == 0, bits: cmp.Or(p[clientBits], maxWindowBits)}
	if client {
		send, recv = recv, send
	}
	send.takeover = send.takeover && d.ContextTakeover
	send.bits = min(send.bits, d.windowBits())
	// A compressor can take in as many bytes as the window has, and the context is a
	// part of these.
	send.size = min(sendHistory, 1<<send.bits/2)
	recv.size = 1 << max(recv.bits, minInflateBits)
	return &deflater{d, send}, &unpacker{window: recv}
}

// compresses reports whether messages like p are compressed.
func (d *deflater) compresses(p []byte) bool {
	return d != nil && len(p) >= d.threshold(d.takeover)
}

// compressor returns a compressor for one message, to be freed.
func (d *deflater) compressor(history []byte) *compressor {
	return newCompressor(d.level(d.bits), d.bits, history)
}

// appendMessage appends a frame with p as a whole message that does not refer to others.
// It is not masked.
func (d *deflater) appendMessage(dst []byte, first byte, p []byte) []byte {
	out := newScratch(len(p))
	defer out.free()
	message, rsv := d.message(out, nil, p)
	return appendFrame(dst, first|rsv, message, false)
}

// message compresses p as a message of its own, in out, or returns it as it is if that is
// shorter. It keeps no compressor, as the message may have to wait for a slow peer.
func (d *deflater) message(out *output, history, p []byte) (message []byte, rsv byte) {
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

// forget makes the next message refer to none before it, as others are sent between them.
func (d *deflater) forget() {
	if d != nil {
		d.history = d.history[:0]
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

// lastBlock is an empty block that says that there are no more.
const lastBlock = "\x01" + syncMarker

// inflateTail stands behind a message for the reader of compress/flate: what the sender
// has left out, and a lastBlock.
var inflateTail = []byte(syncMarker + lastBlock)

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
	case f.input.tail && len(f.input.in) > 0 && len(f.input.in) != len(lastBlock):
		err = errInflate // the message was complete within what the sender has left out
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
	if before := len(d.in) - len(lastBlock); d.tail && before >= 0 && len(p) > before {
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
	if s.inflater == nil {
		s.inflater = newInflater(s.input, history, s.wait)
		if !s.last {
			s.resume, s.yield = make(chan struct{}), make(chan struct{}, 1)
			go s.run()
		}
	} else if s.resume != nil {
		s.resume <- struct{}{}
	}
	if s.resume == nil {
		s.step()
	} else {
		<-s.yield
	}
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
