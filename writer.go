// The writing side of a connection: frames become batches of output. It is state only, driven
// by calls and without a clock.

package websocket

// A writer collects frames, and hands them out as batches. The lock of its Conn guards it, apart
// from what the opening handshake has decided, which does not change any more.
//
//	frames → list of outputs → batch → transport
//	broadcasts → queue ↗
//
// At most one batch is out at a time, and the writer is busy until it comes back.
type writer struct {
	codec
	busy     bool // a batch is being written
	held     bool // the output holds replies that wait for more
	crowded  bool // messages are written by other goroutines than the reader
	retained bool // broadcasts wait for OnOpen
	claimed  bool // the Server is to write the output
	late     lateness

	deflate *deflater // or nil
	open    *outgoing // the message that others have to wait for: one in fragments, compressing, or nil

	first    *output // frames to be written, a list, or nil
	last     *output // of the list
	full     int     // bytes of the list, apart from the last output
	queue    *output // broadcasts that wait for OnOpen or for open, or nil
	number   uint64  // of the last output, in the list or before it
	done     uint64  // number of the last one that has been written
	sending  int     // bytes of the batch that is being written, apart from a tail
	controls int32   // bytes of control frames in the list
	blocked  int32   // goroutines that wait for open
	stuck    uint64  // number of the last one that a caller has not waited for
}

// A lateness says what has become of a wish to have the output written later.
//
//	idle → armed → running → idle
type lateness byte

const (
	lateIdle    lateness = iota
	lateArmed            // the timer runs
	lateRunning          // its goroutine writes
)

// An outgoing message is sent in fragments.
type outgoing struct {
	typ     MessageType
	opcode  byte // of the next fragment, and RSV1 if that is the first of a compressed message
	packed  bool // the message is compressed
	text    utf8Checker
	sent    uint32      // fragments
	deflate *compressor // of a compressed message, unless a Write uses it
}

// fragment begins a fragment with p: it returns the first byte, and what compresses it if it is
// to be compressed, which is to be given to keep.
func (m *outgoing) fragment(p []byte) (first byte, z *compressor, err error) {
	text := m.text
	switch {
	case m.typ == Text && !text.check(p):
		return 0, nil, errNotUTF8
	case m.packed && m.deflate == nil:
		return 0, nil, errBusy
	}
	first, z = m.opcode, m.deflate
	m.opcode, m.deflate, m.text = opContinuation, nil, text
	m.sent++
	return first, z, nil
}

func (m *outgoing) keep(z *compressor) { m.deflate = z }

// end returns the first byte and the payload of the last fragment. Text may end within a rune:
// that is errNotUTF8.
func (m *outgoing) end() (first byte, p []byte, err error) {
	if m.packed {
		if m.deflate == nil {
			return 0, nil, errBusy
		}
		p = endOfMessage
		m.deflate.free()
	}
	if !m.text.whole() {
		err = errNotUTF8
	}
	return finBit | m.opcode, p, err
}

// compressing is the open message of a writer while a message is compressed that may refer to
// those before it, and thus has to be sent before those that come after it.
var compressing = new(outgoing)

func (w *writer) init(client bool) { w.client = client }

// speak lets w write a version of the protocol, with compression unless d is nil.
func (w *writer) speak(hixie bool, d *deflater) { w.hixie, w.deflate = hixie, d }

func (w *writer) isClient() bool { return w.client }
func (w *writer) isHixie() bool  { return w.hixie }

// isPlain reports whether payload is written as it is.
func (w *writer) isPlain() bool { return !w.client && !w.hixie }

// begin makes a message of type t in fragments the open one.
func (w *writer) begin(m *outgoing, t MessageType) {
	*m = outgoing{typ: t, opcode: byte(t)}
	if w.deflate != nil {
		m.opcode |= rsv1Bit
		m.packed, m.deflate = true, w.deflate.compressor(w.deflate.history)
	}
	w.open = m
}

// end ends the open message.
func (w *writer) end() { w.open = nil }

// isOpen reports whether m is the open message, or if it is nil, whether there is none.
func (w *writer) isOpen(m *outgoing) bool { return w.open == m }

// compresses reports whether messages like p are compressed.
func (w *writer) compresses(p []byte) bool { return w.deflate.compresses(p) }

// compress returns what a message is compressed with. If it may refer to others they have to be
// sent in order: then it is the open message until end is called.
func (w *writer) compress() (d *deflater, history []byte, ordered bool) {
	if w.deflate.takeover {
		w.open = compressing
	}
	return w.deflate, w.deflate.history, w.deflate.takeover
}

// remember notes that p has been compressed, and is sent in order.
func (w *writer) remember(p []byte) { w.deflate.add(p) }

// output returns the output that the next bytes are to be appended to: the last, or a new one if
// that is large, so that a peer that has read a part does not keep the memory of all.
func (w *writer) output() *output {
	if w.last == nil || len(w.last.b) >= batchSize {
		o := newOutput()
		w.number++
		o.number = w.number
		if w.last == nil {
			w.first = o
		} else {
			w.full += len(w.last.b)
			w.last.next = o
		}
		w.last = o
	}
	return w.last
}

// putBytes puts bytes behind the output.
func (w *writer) putBytes(b []byte) {
	for len(b) > 0 {
		out := w.output()
		n := min(len(b), batchSize-len(out.b))
		out.b = append(out.b, b[:n]...)
		b = b[n:]
	}
}

// put puts a data frame behind the output, of which first is the first byte.
func (w *writer) put(first byte, p []byte) {
	out := w.output()
	out.b = w.appendFrame(out.b, first, p)
}

// putControl puts a control frame behind the output. It reports whether there are so many that
// somebody has to wait until they are written.
func (w *writer) putControl(opcode byte, p []byte) (full bool) {
	out := w.output()
	n := len(out.b)
	out.b = appendFrame(out.b, finBit|opcode, p, w.client)
	w.controls += int32(len(out.b) - n)
	return w.controls >= batchSize
}

// endable reports whether a close frame can be sent: within a message of hixie-76 it would be a
// part of the text.
func (w *writer) endable() bool { return !w.hixie || w.open == nil }

// putClose puts a close frame behind the output, if it can be sent.
func (w *writer) putClose(code CloseCode, reason string) {
	if w.endable() {
		out := w.output()
		out.b = w.appendClose(out.b, code, reason)
	}
}

// An encoding is a form in which broadcasts are made, once for all connections that take it.
type encoding byte

const (
	encodePlain encoding = iota
	encodeHixie
	encodeCompressed // for the Server's window: clients cannot have it done for many
	encodings
)

// encoding returns the encoding of a broadcast of p for this connection, if bits is the window
// for which a Server compresses.
func (w *writer) encoding(p []byte, bits int) encoding {
	switch {
	case w.hixie:
		return encodeHixie
	case w.compresses(p) && w.deflate.bits == bits:
		return encodeCompressed
	}
	return encodePlain
}

// encode appends a broadcast of p in the encoding of this connection.
func (w *writer) encode(e encoding, dst []byte, first byte, p []byte) []byte {
	if e == encodeCompressed {
		return w.deflate.appendMessage(dst, first, p)
	}
	return w.appendFrame(dst, first, p)
}

// isEmpty reports whether a broadcast would be the first thing to be written now.
func (w *writer) isEmpty() bool { return w.first == nil && !w.busy && !w.queues() }

// enqueue puts a frame of a broadcast, which holds p, behind the output, or if it has to wait,
// into the queue.
func (w *writer) enqueue(frame, p []byte) (queued bool) {
	if w.queues() {
		if w.queue == nil {
			w.queue = newOutput()
		}
		w.queue.b = append(w.queue.b, frame...)
		return true
	}
	w.share(frame, p)
	w.putBytes(frame)
	return false
}

// share notes that a frame of a broadcast, which holds p, is sent.
func (w *writer) share(frame, p []byte) {
	w.crowded = true
	if frame[0]&rsv1Bit != 0 { // never for hixie-76
		w.remember(p)
	}
}

// queues reports whether broadcasts have to wait.
func (w *writer) queues() bool { return w.retained || w.open != nil }

// retain makes broadcasts wait for OnOpen, or not any more.
func (w *writer) retain(on bool) { w.retained = on }

// unqueue moves broadcasts that need not wait any more to the output, or drops them if they
// cannot be sent. It reports whether there were any.
func (w *writer) unqueue(sendable bool) bool {
	if w.queue == nil || w.queues() {
		return false
	}
	if sendable {
		w.putBytes(w.queue.b)
	}
	w.deflate.forget()
	w.queue.free()
	w.queue = nil
	return true
}

// replies reports whether the output holds messages that wait for more, and whether others than
// the reader write some.
func (w *writer) replies() (held, crowded bool) { return w.held, w.crowded }

// waiting returns how many bytes have not been written, apart from the payload of a large message,
// which somebody waits for. Of the batch that is being written the transport has taken some.
func (w *writer) waiting(taken int) int {
	n := max(0, w.sending-taken) + w.full
	for _, o := range []*output{w.last, w.queue} {
		if o != nil {
			n += len(o.b)
		}
	}
	return n
}

// lastNumber returns the number of the last output, and wrote whether an output has been written.
func (w *writer) lastNumber() uint64       { return w.number }
func (w *writer) wrote(number uint64) bool { return w.done >= number }

// stick notes that a caller does not wait any longer until its message is written. Until it is,
// no other is to be put behind it, or there might be more and more.
func (w *writer) stick() { w.stuck = w.number }

func (w *writer) isStuck() bool { return w.done < w.stuck }

// block notes that a goroutine begins to wait for the open message, or with -1, that it has
// ended.
func (w *writer) block(n int32) { w.blocked += n }

// blocks reports whether a goroutine waits for the open message, and how many fragments of that
// have been sent.
func (w *writer) blocks() (sent uint32, blocks bool) {
	if w.open == nil || w.blocked == 0 {
		return 0, false
	}
	return w.open.sent, true
}

// pending reports whether there is output to be written.
func (w *writer) pending() bool { return w.first != nil }

// isBusy reports whether somebody writes.
func (w *writer) isBusy() bool { return w.busy }

// hold reports whether the output is to wait for more, because more is expected and it is not
// large.
func (w *writer) hold(more bool) bool {
	if !more || w.first != w.last || len(w.last.b) >= batchSize {
		return false
	}
	w.held = true
	return true
}

// crowd notes that a message has been written by another goroutine than the reader.
func (w *writer) crowd() { w.crowded = true }

// postpone reports whether a timer is to be set that calls beginLate: at once, or not if there
// is one already.
func (w *writer) postpone(atOnce bool) bool {
	if w.late == lateRunning || w.late == lateArmed && !atOnce {
		return false
	}
	w.late = lateArmed
	return true
}

// beginLate reports whether the timer's goroutine is to write. One at a time does.
func (w *writer) beginLate() bool {
	if w.late == lateRunning {
		return false
	}
	w.late = lateRunning
	return true
}

func (w *writer) endLate() { w.late = lateIdle }

// claim notes that the Server is to write the output, and reports whether that is new.
func (w *writer) claim() bool {
	claimed := w.claimed
	w.claimed = true
	return !claimed
}

func (w *writer) unclaim() { w.claimed = false }

// A batch is output on its way to the transport: frames, and perhaps the payload of a large
// one behind them, which lies where its owner has it.
type batch struct {
	codec
	number uint64
	out    *output // or nil
	tail   []byte
	copied bool // tail has to be, to be masked or delimited
	begun  bool // a part has been
	last   bool // the message ends behind tail
	key    uint32
}

// take hands out the first output, and makes the writer busy.
func (w *writer) take() batch {
	o := w.first
	if w.first, o.next = o.next, nil; w.first == nil {
		w.last, w.held, w.controls = nil, false, 0
	} else {
		w.full -= len(o.b)
	}
	w.sending, w.busy = len(o.b), true
	return batch{codec: w.codec, number: o.number, out: o}
}

// takeFrame hands out a frame of a broadcast, which holds p, without putting it into the
// output, which is empty.
func (w *writer) takeFrame(frame, p []byte) batch {
	w.share(frame, p)
	w.number++
	w.sending, w.busy = len(frame), true
	return batch{number: w.number, tail: frame}
}

// takeLarge hands out the output, which is small or empty, and behind it a large frame, whose
// payload is not copied as a whole.
func (w *writer) takeLarge(first byte, p []byte) batch {
	out := w.output()
	var key uint32
	if w.hixie {
		out.b = appendHixie(out.b, first&^finBit, nil)
	} else {
		out.b = appendHeader(out.b, first, w.client, len(p))
		if w.client {
			out.b, key = appendKey(out.b)
		}
	}
	b := w.take()
	b.tail, b.key, b.last, b.copied = p, key, first&finBit != 0, w.client || w.hixie
	return b
}

// isSmall reports whether the output can be handed out as one batch.
func (w *writer) isSmall() bool {
	return w.first == nil || w.first == w.last && len(w.last.b) < batchSize
}

// next returns what is to be written next, with one call, and whether there is more.
func (b *batch) next() (head, tail []byte, more bool) {
	switch {
	case b.out == nil:
		return b.tail, nil, false
	case !b.copied:
		return b.out.b, b.tail, false
	case b.begun:
		b.out.b = b.out.b[:0]
	}
	b.begun = true
	return b.copy(max(0, batchSize+maxHeader-len(b.out.b))), nil, len(b.tail) > 0
}

// copy appends up to n bytes of the tail to the frames, masked or delimited as has to be, and
// returns the frames.
func (b *batch) copy(n int) []byte {
	out, start := b.out, len(b.out.b)
	n = min(n, len(b.tail))
	out.b = append(out.b, b.tail[:n]...)
	b.tail = b.tail[n:]
	if b.client {
		b.key = mask(out.b[start:], b.key)
	}
	if b.hixie && b.last && len(b.tail) == 0 {
		out.b = append(out.b, 0xFF)
	}
	return out.b
}

// retain makes b hold what has not been written of it: head and tail, which are the rest of what
// next has returned last, and if there was more, that.
func (b *batch) retain(head, tail []byte, more bool) {
	if b.out == nil { // a broadcast, which waits in pieces
		b.out = inPieces(head, b.number)
		return
	}
	b.out.b = append(append(b.out.b[:0], head...), tail...)
	if more {
		b.copy(len(b.tail))
	}
}

// inPieces returns a list of outputs that holds p. The last has the number, when p is written.
func inPieces(p []byte, number uint64) *output {
	o := newOutput()
	n := min(len(p), batchSize)
	o.b = append(o.b, p[:n]...)
	if o.number = number; n < len(p) {
		o.number--
		o.next = inPieces(p[n:], number)
	}
	return o
}

// giveBack ends what take began. Unless all has been written, what b retains goes in front of the
// output.
func (w *writer) giveBack(b batch, written bool) {
	w.busy, w.sending = false, 0
	o := b.out
	switch {
	case written:
		w.done = b.number
		if o != nil {
			o.free()
		}
	default:
		last := o
		for ; last.next != nil; last = last.next {
			w.full += len(last.b)
		}
		if last.next = w.first; w.first == nil {
			w.last = last
		} else {
			w.full += len(last.b)
		}
		w.first = o
	}
}
