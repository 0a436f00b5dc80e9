// The reading side of a connection: bytes become pieces of messages, and control frames. It is
// state only: it is given slices of input and does none itself.

package websocket

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// A reader decodes what the peer sends. It belongs to whoever has the turn to read.
//
// A message comes in chunks, which lie in the input. If it is compressed it is inflated as a
// whole where it has come whole, and else by unpack.stream.
type reader struct {
	*reading // or nil: the connection rests
	masked   bool
	hixie    bool
	unpack   *unpacker     // or nil
	limit    atomic.Uint64 // bytes that the next message may have; set at any time
}

// A reading is what there is of a message.
type reading struct {
	dec decoder

	chunk  []byte      // payload that has been decoded and not been taken
	kept   bool        // it does not lie in the input, but was put back
	typ    MessageType // of the message that it is from
	packed bool        // that is compressed, and so is chunk
	end    bool        // that ends behind chunk

	streaming bool   // a messageReader reads the message
	streams   uint64 // number of the last that one has read
	spare     []byte // room for the next messages to be kept
}

// unusedReadings holds those of connections that rest.
var unusedReadings = sync.Pool{New: func() any { return new(reading) }}

// init makes r ready for what a peer of the other role sends.
func (r *reader) init(client bool, limit uint64) {
	r.masked = !client
	r.limit.Store(limit)
	r.wake()
}

// rest gives up what is not needed between two messages, and wake, which may be called again, gets
// it back.
func (r *reader) rest() {
	*r.reading = reading{}
	unusedReadings.Put(r.reading)
	r.reading = nil
}

func (r *reader) wake() {
	if r.reading == nil {
		r.reading = unusedReadings.Get().(*reading)
	}
	r.dec.masked, r.dec.hixie, r.dec.deflate = r.masked, r.hixie, r.unpack != nil
}

// setLimit lets the messages that have not begun have limit bytes. It may be called without the
// turn.
func (r *reader) setLimit(limit uint64) { r.limit.Store(limit) }

// speak lets r read a version of the protocol, with compression unless u is nil.
func (r *reader) speak(hixie bool, u *unpacker) {
	r.hixie, r.unpack = hixie, u
	r.wake()
}

// next decodes the first piece of the input, and returns it with the number of bytes used; 0
// means that more input is needed. It keeps what is of a message; the rest is a control frame,
// or nothing.
func (r *reader) next(in []byte) (piece, int, error) {
	if !r.within() {
		r.dec.limit = r.limit.Load()
	}
	p, n, err := r.dec.next(in)
	if n > 0 && err == nil && (p.opcode == opText || p.opcode == opBinary) {
		r.typ, r.packed, r.end = MessageType(p.opcode), p.compressed, p.end
		if len(p.payload) > 0 { // or else chunk would hold the input buffer
			r.chunk = p.payload
		}
	}
	return p, n, err
}

// ready reports whether there is payload to be taken, or the end of a message.
func (r *reader) ready() bool { return len(r.chunk) > 0 || r.end }

// within reports whether the decoder is within a frame or message.
func (r *reader) within() bool { return r.dec.within() }

// between reports whether nothing has been read, or decoded, of a message that is not over.
func (r *reader) between() bool {
	return !r.within() && !r.ready() && !r.streaming
}

// more reports whether the input seems to begin with another whole message.
func (r *reader) more(in []byte) bool {
	return len(in) > 0 && r.dec.kind == noFrame && r.dec.holdsFrame(in)
}

// message decodes the next message, if the input begins with all of it, in one frame that is not
// compressed. It lies in the input. n is the number of bytes used, or 0.
func (r *reader) message(in []byte) (t MessageType, p []byte, n int) {
	if len(in) == 0 || !r.between() {
		return 0, nil, 0
	}
	r.dec.limit = r.limit.Load()
	return r.dec.whole(in)
}

// keep returns a copy of p. Messages that have arrived together share an allocation, of up
// to 4 KiB: behind p there are left bytes of input.
func (r *reader) keep(p []byte, left int) []byte {
	if len(p) > len(r.spare) {
		r.spare = make([]byte, max(len(p), min(len(p)+left, sharedSize)))
	}
	n := copy(r.spare, p)
	p, r.spare = r.spare[:n:n], r.spare[n:]
	if left == 0 {
		r.spare = nil
	}
	return p
}

// sharedSize is the size of an allocation for messages that came together.
const sharedSize = 4 << 10

// whole takes a message of which all that is missing lies in the chunk.
func (r *reader) whole() (p []byte, ok bool) {
	if !r.end {
		return nil, false
	}
	return r.take(), r.takeEnd()
}

// isPacked reports whether the message in progress is compressed, and messageType its type.
func (r *reader) isPacked() bool           { return r.packed }
func (r *reader) messageType() MessageType { return r.typ }

// take takes the chunk.
func (r *reader) take() []byte {
	p := r.chunk
	r.chunk, r.kept = nil, false
	return p
}

// takeKept takes the chunk if it was put back: more may be appended to it.
func (r *reader) takeKept() (p []byte, ok bool) {
	if !r.kept {
		return nil, false
	}
	return r.take(), true
}

// takeEnd takes the end of the message, if it has come.
func (r *reader) takeEnd() bool {
	end := r.end
	if end {
		r.end, r.packed = false, false
	}
	return end
}

// putBack makes p the chunk, for a later read.
func (r *reader) putBack(p []byte) { r.chunk, r.kept = p, true }

// direct returns how many bytes of payload come next, if these are least or more: they may be
// read to where they are wanted, and then given to directed.
func (r *reader) direct(least int) uint64 {
	if r.dec.kind != payload || r.dec.left < uint64(least) {
		return 0
	}
	return r.dec.left
}

// directed is told of payload that has been read to where it is wanted.
func (r *reader) directed(p []byte) (err error) {
	r.end, err = r.dec.take(p)
	return err
}

// inflating reports whether a message is being read in pieces and inflated.
func (r *reader) inflating() bool { return r.unpack != nil && r.unpack.stream != nil }

// inflate appends a whole message, inflated, to dst, which is buf's memory unless that is nil.
func (r *reader) inflate(dst, message []byte, buf *messageBuffer) ([]byte, error) {
	f := r.unpack.flate.inflater(message, r.unpack.history, nil)
	defer f.free()
	p, start := dst, len(dst)
	if len(p) == cap(p) {
		p = buf.grow(p, min(4*len(message), 64<<10))
	}
	for {
		var n int
		var err error
		if len(p) == cap(p) { // there may be no more
			n, err = f.Read(f.space[:])
			p = append(buf.grow(p, n), f.space[:n]...)
		} else {
			n, err = f.Read(p[len(p):cap(p)])
			p = p[:len(p)+n]
		}
		if err == io.EOF && bytes.HasSuffix(p[start:], inflateTail) && !r.unpack.flate.isWhole(message, r.unpack.history) {
			err = errInflate
		}
		end, err := r.check(p[len(p)-n:], uint64(len(p)-start), err)
		if err != nil {
			return dst, err
		}
		if end {
			r.unpack.add(p[start:])
			return p, nil
		}
	}
}

// check checks a piece of an inflated message that has size bytes with it, and the error that
// came behind it, which is io.EOF at the end.
func (r *reader) check(piece []byte, size uint64, err error) (end bool, _ error) {
	text := &r.dec.text
	end = err == io.EOF
	switch {
	case size > r.dec.limit:
		return end, failure(CloseMessageTooBig, "a message is larger than allowed")
	case r.typ == Text && (!text.check(piece) || end && !text.whole()):
		return end, failure(CloseInvalidPayload, "a text is not valid UTF-8")
	case err == errInflate:
		return end, failure(CloseInvalidPayload, err.Error())
	case err != nil && !end:
		return end, &CloseError{Code: CloseInternalError, Reason: "a message could not be inflated", by: byFailure, err: err}
	}
	return end, nil
}

// read copies payload of the message in progress to p, or reports its end. If it does neither,
// it needs another chunk.
func (r *reader) read(p []byte) (n int, end bool, err error) {
	if r.packed {
		return r.readPacked(p)
	}
	if len(r.chunk) == 0 {
		return 0, r.takeEnd(), nil
	}
	n = copy(p, r.chunk)
	if r.chunk = r.chunk[n:]; len(r.chunk) == 0 {
		r.take() // it lies in the input buffer, which others may use soon
	}
	return n, false, nil
}

// readPacked is read for a compressed message.
func (r *reader) readPacked(p []byte) (n int, end bool, err error) {
	if r.unpack.stream == nil {
		r.unpack.stream = &inflation{starved: true}
	}
	s := r.unpack.stream
	for len(s.out) == 0 {
		if s.err != nil {
			r.stop()
			return 0, r.takeEnd(), nil
		}
		if s.starved {
			if !r.ready() {
				return 0, false, nil
			}
			s.input, s.last, s.starved = r.take(), r.end, false
		}
		s.next(r.unpack.flate, r.unpack.history)
		s.size += uint64(len(s.out))
		if _, err := r.check(s.out, s.size, s.err); err != nil {
			return 0, false, err
		}
		r.unpack.add(s.out)
	}
	n = copy(p, s.out)
	s.out = s.out[n:]
	return n, false, nil
}

// putBackInflated makes p what is read next of a compressed message. It is copied.
func (r *reader) putBackInflated(p []byte) { r.unpack.stream.out = slices.Clone(p) }

// begin makes the message in progress one that is read by a messageReader, and returns its
// number.
func (r *reader) begin() uint64 {
	r.streams++
	r.streaming = true
	return r.streams
}

// reads reports whether the message of that number is being read. 0 stands for any.
func (r *reader) reads(number uint64) bool {
	return r.streaming && (number == 0 || number == r.streams)
}

// endStream ends what begin began.
func (r *reader) endStream() { r.streaming = false }

// refers reports whether the next message may refer to the one in progress, which is
// therefore to be inflated.
func (r *reader) refers() bool { return r.packed && r.unpack.takeover }

// discard drops the chunk of a message that is not wanted, and reports whether it was the last.
func (r *reader) discard() bool {
	r.stop()
	r.take()
	return r.takeEnd()
}

// stop ends what has been begun for a message that is inflated in pieces.
func (r *reader) stop() {
	if r.inflating() {
		r.unpack.stream.stop()
		r.unpack.stream = nil
	}
}
