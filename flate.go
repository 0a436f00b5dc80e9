// DEFLATE (RFC 1951): what compresses and inflates messages, and the pools of both.

package websocket

import (
	"bytes"
	"cmp"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
)

// A Flate compresses and inflates in place of compress/flate. With the package of the same name in
// github.com/klauspost/compress, which is faster, it is
//
//	var fast = &websocket.Flate{
//		NewWriter: func(w io.Writer) (websocket.FlateWriter, error) {
//			return flate.NewWriter(w, flate.BestSpeed)
//		},
//		NewReader: flate.NewReader,
//	}
//
// and is used with Options{Deflate: &websocket.Deflate{Flate: fast}}. What the functions return is
// used for one message after another, of any connection, and kept for a while in between. So one
// Flate is to serve all connections; one for each would keep nothing. It must not be copied, nor
// changed once it is in use.
//
// The first opening handshake tries the functions, and fails if they do not fit together. If a
// writer fails later, or panics, a broadcast goes out without compression; for any other message
// the caller gets the error, and the connection is closed with CloseInternalError. So is one whose
// reader panics.
type Flate struct {
	// NewWriter returns what compresses messages, to w. Nil means a [flate.Writer] with
	// Deflate.Level, which does not count otherwise.
	NewWriter func(w io.Writer) (FlateWriter, error)

	// NewReader returns what inflates messages, from r. It has to be a [flate.Resetter], too,
	// and to take single bytes from r, which is an [io.ByteReader], so that it reads no more
	// than it needs. It is never closed. Nil means [flate.NewReader].
	NewReader func(r io.Reader) io.ReadCloser

	writers sync.Pool // of *compressor
	readers sync.Pool // of *inflater

	tried sync.Once
	fault error // found by it
}

// A FlateWriter is what a [flate.Writer] is: Flush writes all that is still to be written, with an
// empty stored block behind it, which ends with 00 00 FF FF, and Reset forgets everything and goes
// on with another w. If there is a method ResetDict(w io.Writer, dict []byte), that is called
// instead, and what is written then may refer to dict; without it, context takeover takes more
// time. A FlateWriter is never closed.
type FlateWriter interface {
	io.Writer
	Flush() error
	Reset(w io.Writer)
}

// A dictWriter is a FlateWriter that need not compress what it is to refer to.
type dictWriter interface {
	ResetDict(w io.Writer, dict []byte)
}

// A flateReader is what NewReader has to return.
type flateReader interface {
	io.Reader
	flate.Resetter
}

const maxWindowBits = 15 // of DEFLATE, and in RFC 7692, section 7.1.2

// standard has compress/flate at every level, beginning with flate.HuffmanOnly. A writer takes 0.7
// to 1.2 MB, and a reader about 50 KB.
var standard = func() (all [flate.BestCompression - flate.HuffmanOnly + 1]*Flate) {
	for i := range all {
		all[i] = &Flate{
			NewWriter: func(w io.Writer) (FlateWriter, error) { return flate.NewWriter(w, i+flate.HuffmanOnly) },
			NewReader: flate.NewReader,
		}
	}
	return all
}()

// forWrites returns the Flate that compresses: f, or compress/flate at a level.
func (f *Flate) forWrites(level int) *Flate {
	if f == nil || f.NewWriter == nil {
		return standard[level-flate.HuffmanOnly]
	}
	return f
}

// forReads returns the Flate that inflates.
func (f *Flate) forReads() *Flate {
	if f == nil || f.NewReader == nil {
		return standard[0]
	}
	return f
}

// check reports what is wrong with the functions of f. It tries them once.
func (f *Flate) check() error {
	if f != nil {
		f.tried.Do(f.try)
		return f.fault
	}
	return nil
}

// try compresses and inflates messages, of which one refers to an earlier one and the others must
// not.
func (f *Flate) try() {
	p := bytes.Repeat([]byte("To be, or not to be. "), 4)
	z := f.forWrites(flate.BestSpeed).compressor(maxWindowBits, nil)
	for n, history := range [][]byte{nil, p, nil} {
		if n > 0 {
			z.reset(history)
		}
		message, err := z.compress(p)
		if err != nil {
			f.fault = err
			return
		}
		message = message[:len(message)-len(syncMarker)]
		i := f.forReads().inflater(message, history, nil)
		q, err := io.ReadAll(i)
		if err != nil || !bytes.Equal(p, q) || !f.forReads().isWhole(message, history) {
			f.fault = fmt.Errorf("Flate.NewReader does not inflate what Flate.NewWriter compresses: %w", cmp.Or(err, errInflate))
			return
		}
		i.free()
	}
	z.free()
}

// caught makes an error of a panic in a Flate. The peer may have caused it, in a goroutine that
// nobody else can recover.
func caught(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("panic in Flate: %v", v)
	}
}

// syncMarker ends what FlateWriter.Flush writes. A message goes without it (RFC 7692,
// section 7.2.1).
const syncMarker = "\x00\x00\xff\xff"

var errFlush = errors.New("what Flate.NewWriter returned does not flush as it should")

// A compressor compresses one message at a time.
type compressor struct {
	of    *Flate
	flate FlateWriter
	dict  dictWriter // flate, if it is one
	err   error      // of flate, which is then not used again
	out   []byte     // what flate has written
	mute  bool       // out is not to have it
	limit int        // bytes of input between resets
	room  int        // bytes of input until the next
}

// compressor returns a compressor for one message. history is the context.
func (f *Flate) compressor(windowBits int, history []byte) *compressor {
	z, ok := f.writers.Get().(*compressor)
	if !ok {
		z = &compressor{of: f}
	}
	z.limit = math.MaxInt
	if windowBits < maxWindowBits {
		z.limit = 1 << windowBits
	}
	z.reset(history)
	return z
}

func (z *compressor) free() {
	if cap(z.out) > maxLarge {
		z.out = nil
	}
	if z.err == nil {
		z.of.writers.Put(z)
	}
}

// reset makes the compressor forget all of its input, and remember history.
func (z *compressor) reset(history []byte) {
	defer caught(&z.err)
	if z.flate == nil {
		switch z.flate, z.err = z.of.NewWriter(z); {
		case z.err != nil:
			return
		case z.flate == nil:
			z.err = errors.New("Flate.NewWriter returned nil")
			return
		}
		z.dict, _ = z.flate.(dictWriter)
	}
	z.room = z.limit - len(history)
	if z.dict != nil {
		z.dict.ResetDict(z, history)
		return
	}
	z.flate.Reset(z)
	if len(history) > 0 {
		z.mute = true
		z.flush(history)
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

// flush compresses p to whole blocks.
func (z *compressor) flush(p []byte) {
	defer caught(&z.err)
	before := len(z.out)
	if _, z.err = z.flate.Write(p); z.err == nil {
		z.err = z.flate.Flush()
	}
	if z.err == nil && !z.mute && !bytes.HasSuffix(z.out[before:], []byte(syncMarker)) {
		z.err = errFlush
	}
}

// compress returns p as a fragment: whole blocks, the last of them an empty one, which
// ends with a syncMarker. It is valid until z is used again.
//
// A compressor that is reset after as many bytes as the window has cannot refer to any
// that are farther back.
func (z *compressor) compress(p []byte) ([]byte, error) {
	z.out = z.out[:0]
	for z.err == nil {
		if z.room == 0 {
			z.reset(nil)
		}
		n := min(len(p), z.room)
		z.flush(p[:n])
		z.room -= n
		if p = p[n:]; len(p) == 0 {
			break
		}
	}
	return z.out, z.err
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
	of     *Flate
	flate  flateReader
	err    error // of flate, which is then not used again
	input  flateInput
	pieces deflated      // the input
	whole  bytes.Reader  // or, if it has come whole
	packed []byte        // of whole, up to 64 KiB
	space  [4 << 10]byte // to inflate into
}

// A flateInput is what flate reads: a message and its tail. Len returns how much of them is left, as
// far as it has come.
type flateInput interface {
	io.Reader
	io.ByteReader
	Len() int
}

// inflater returns an inflater for a message that begins with in. more is nil if that
// is all of it.
func (f *Flate) inflater(in, history []byte, more func() ([]byte, bool)) *inflater {
	i, ok := f.readers.Get().(*inflater)
	if !ok {
		i = &inflater{of: f}
	}
	if more == nil && len(in) <= batchSize {
		// Some packages inflate faster from a bytes.Reader than from what they do not know.
		i.packed = append(append(i.packed[:0], in...), inflateTail...)
		i.whole.Reset(i.packed)
		i.input = &i.whole
	} else {
		i.pieces = deflated{in: in, more: more}
		i.input = &i.pieces
	}
	i.reset(history)
	return i
}

func (i *inflater) free() {
	i.pieces = deflated{}
	if i.err == nil {
		i.of.readers.Put(i)
	}
}

// reset begins a stream of DEFLATE, which may refer to history.
func (i *inflater) reset(history []byte) {
	defer caught(&i.err)
	if i.flate == nil {
		var ok bool
		if i.flate, ok = i.of.NewReader(i.input).(flateReader); !ok {
			i.err = errors.New("what Flate.NewReader returned is no flate.Resetter")
			return
		}
	}
	i.err = i.flate.Reset(i.input, history)
}

// Read reads the inflated message. It returns io.EOF at its end, and errInflate if the peer is to
// blame.
func (i *inflater) Read(p []byte) (int, error) {
	n, err := i.read(p)
	switch {
	case i.err != nil:
		return 0, i.err
	case err == nil:
	case err != io.EOF:
		err = errInflate
	default:
		switch left := i.input.Len(); {
		case left > len(inflateTail):
			// A block was the last of its stream (RFC 7692, section 7.2.3.4), and
			// there is another.
			err = nil
			i.reset(nil)
		case left != len(inflateTail) && left != len(lastBlock) && left != 0:
			err = errInflate // the message was complete within what the sender has left out
		}
	}
	return n, err
}

func (i *inflater) read(p []byte) (n int, err error) {
	if i.err == nil {
		defer caught(&i.err)
		n, err = i.flate.Read(p)
		_ = p[:n]
	}
	return n, err
}

// isWhole reports whether a message is valid that has become one with inflateTail as its end. That may
// be of the message, but also what was appended, if its last block stores more than there is of it.
func (f *Flate) isWhole(message, history []byte) bool {
	i := f.inflater(message, history, func() ([]byte, bool) { return nil, false })
	defer i.free()
	_, err := io.Copy(io.Discard, i)
	return err == nil
}

// deflated is a message that comes in pieces, and its tail.
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

func (d *deflated) Len() int {
	if d.tail {
		return len(d.in)
	}
	d.fill()
	return len(d.in) + len(inflateTail)
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
func (s *inflation) next(f *Flate, history []byte) {
	if s.inflater == nil {
		s.inflater = f.inflater(s.input, history, s.wait)
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
