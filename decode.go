// Frames become pieces of messages: the order of fragments, limits, UTF-8, control frames. It is
// state only.

package websocket

import (
	"bytes"
	"math"
	"unicode/utf8"
)

// A utf8Checker checks text that comes in pieces, which may part a rune.
type utf8Checker struct {
	part [utf8.UTFMax]byte // the start of a rune whose rest is to come
	n    int8
}

// check reports whether p continues valid UTF-8. A rune that is cut short by
// the end of p is held against the next piece, but one that no further byte
// could complete is refused at once.
func (u *utf8Checker) check(p []byte) bool {
	for u.n > 0 && len(p) > 0 {
		u.part[u.n] = p[0]
		u.n++
		p = p[1:]
		if utf8.FullRune(u.part[:u.n]) {
			if !utf8.Valid(u.part[:u.n]) {
				return false
			}
			u.n = 0
		}
	}
	end := len(p)
	for i := end - 1; i >= 0 && i > end-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			// FullRune is false only for what more bytes can make valid.
			if !utf8.FullRune(p[i:]) {
				u.n = int8(copy(u.part[:], p[i:]))
				p = p[:i]
			}
			break
		}
	}
	return utf8.Valid(p)
}

// whole reports whether the text checked so far ends with a whole rune.
func (u *utf8Checker) whole() bool { return u.n == 0 }

// A decoder turns the bytes that one peer sends into messages and control
// frames, and refuses what the protocol does not allow. It is state only: it
// keeps no bytes and does no input. The zero value with the first group of
// fields set is ready for a stream's first frame.
type decoder struct {
	hixie   bool
	deflate bool // RSV1 tells that a message is compressed (RFC 7692, section 6)
	masked  bool // frames have to be masked: they come from a client

	// The message in progress.
	typ        MessageType // 0 between messages
	compressed bool
	text       utf8Checker

	// The frame in progress.
	kind frameKind
	fin  bool
	key  uint32 // for the next payload bytes
	left uint64 // payload bytes to come

	limit     uint64 // bytes a message may have
	size      uint64 // bytes announced so far of the message in progress
	fragments uint64
}

// A frameKind says how the bytes of the frame in progress are to be taken.
type frameKind byte

const (
	noFrame    frameKind = iota // the next byte begins a frame
	payload                     // left bytes of payload
	hixieText                   // text up to FF
	hixieSkip                   // anything up to FF
	hixieBlock                  // left bytes of anything
)

// A piece is what a decoder has made of some input: all or a part of the
// payload of a message, or a whole control frame.
type piece struct {
	opcode     byte   // opText and opBinary: of a message; 0: nothing
	compressed bool   // payload is
	end        bool   // the message ends behind payload
	payload    []byte // unmasked, and valid unless it is compressed; lies in the input
	need       int    // with no input used: bytes missing at least, of the same frame
}

// next decodes the first piece of b and returns it with the number of bytes consumed;
// 0 means that b is too short. It unmasks in place, so consumed bytes must not be passed
// again.
func (d *decoder) next(b []byte) (piece, int, error) {
	if d.hixie {
		return d.nextHixie(b)
	}
	size := 0
	if d.kind == noFrame {
		var h header
		h, size = parseHeader(b)
		if len(b) >= 2 {
			if err := d.checkHeader(h, b[1]&lengthBits); err != nil {
				return piece{}, 0, err
			}
		}
		if len(b) < size {
			need := size - len(b)
			if h.length <= maxControl { // or else it is not known yet
				need += int(h.length)
			}
			return piece{need: need}, 0, nil
		}
		if h.opcode&0x8 != 0 {
			return d.control(h, b, size)
		}
		if err := d.begin(h); err != nil {
			return piece{}, 0, err
		}
		b = b[size:]
	} else if len(b) == 0 {
		return piece{need: int(min(d.left, math.MaxInt))}, 0, nil
	}
	p := b[:min(uint64(len(b)), d.left)]
	typ := d.typ
	end, err := d.take(p)
	return piece{opcode: byte(typ), compressed: d.compressed, end: end, payload: p}, size + len(p), err
}

// whole decodes a message that begins b and is whole, in one frame that is not compressed.
// It is called between two messages. It returns the number of bytes consumed, or 0 if there
// is no such message, or one that is not valid: next is for these. It unmasks in place.
func (d *decoder) whole(b []byte) (t MessageType, p []byte, n int) {
	h, size := parseHeader(b)
	if d.hixie || len(b) < size ||
		!h.fin || h.rsv != 0 || h.opcode != opText && h.opcode != opBinary ||
		h.masked != d.masked || h.length > min(d.limit, uint64(len(b)-size)) {
		return 0, nil, 0
	}
	n = size + int(h.length)
	p = b[size:n]
	if h.masked {
		mask(p, h.key)
	}
	if h.opcode == opText && !utf8.Valid(p) {
		mask(p, h.key) // as it was; without a mask, the key is 0
		return 0, nil, 0
	}
	return MessageType(h.opcode), p, n
}

// within reports whether a part of a frame or message has been decoded, and not its end.
func (d *decoder) within() bool { return d.kind != noFrame || d.typ != 0 }

// control decodes a control frame, which comes whole.
func (d *decoder) control(h header, b []byte, size int) (piece, int, error) {
	end := size + int(h.length)
	if len(b) < end {
		return piece{need: end - len(b)}, 0, nil
	}
	p := b[size:end]
	mask(p, h.key) // without a mask, the key is 0
	return piece{opcode: h.opcode, end: true, payload: p}, end, nil
}

// checkHeader checks what the first two bytes of a header tell, each against
// its rule in RFC 6455. The second holds the length, or what stands for a longer
// form of it.
func (d *decoder) checkHeader(h header, length byte) error {
	isControl := h.opcode&0x8 != 0
	switch {
	case h.rsv != 0 && !(h.rsv == rsv1Bit && d.deflate && (h.opcode == opText || h.opcode == opBinary)): // 5.2
		return failure(CloseProtocolError, "a reserved bit is set")
	case h.opcode > opBinary && h.opcode < opClose, h.opcode > opPong: // 5.2
		return failure(CloseProtocolError, "the opcode is reserved")
	case d.masked && !h.masked: // 5.1
		return failure(CloseProtocolError, "a frame from the client is not masked")
	case !d.masked && h.masked: // 5.1
		return failure(CloseProtocolError, "a frame from the server is masked")
	case isControl && !h.fin: // 5.5
		return failure(CloseProtocolError, "a control frame is fragmented")
	case isControl && length > maxControl: // 5.5
		return failure(CloseProtocolError, "a control frame is longer than 125 bytes")
	case h.opcode == opContinuation && d.typ == 0: // 5.4
		return failure(CloseProtocolError, "a continuation has no message to continue")
	case h.opcode != opContinuation && !isControl && d.typ != 0: // 5.4
		return failure(CloseProtocolError, "a message begins within another")
	}
	return nil
}

// begin takes up a data frame whose header is whole.
func (d *decoder) begin(h header) error {
	if h.opcode != opContinuation {
		d.start(MessageType(h.opcode))
		d.compressed = h.rsv != 0
	}
	d.fragments++
	limit, least := d.limit, uint64(64)
	if d.compressed {
		// What cannot be compressed becomes longer: by the headers of blocks that
		// store it, and by the end of the last block of a fragment. What can be
		// makes short fragments. Their number is bounded by the limit, and so are these.
		limit += limit/4 + 16*d.fragments
		least = 8
	}
	size := d.size + h.length
	switch {
	case h.length>>63 != 0: // 5.2
		return failure(CloseProtocolError, "the top bit of a length is set")
	case h.length > limit-d.size:
		return failure(CloseMessageTooBig, "a message is larger than allowed")
	case !h.fin && d.fragments > maxFragments+min(size, d.limit)/least:
		return failure(ClosePolicyViolation, "a message has too many fragments")
	}
	d.size = size
	d.kind, d.fin, d.left, d.key = payload, h.fin, h.length, h.key
	return nil
}

func (d *decoder) start(t MessageType) {
	d.typ, d.size, d.fragments, d.text = t, 0, 0, utf8Checker{}
}

// take unmasks and checks p, the next payload bytes of the frame in progress,
// in place. It reports whether they complete the message.
func (d *decoder) take(p []byte) (end bool, err error) {
	if d.masked {
		d.key = mask(p, d.key)
	}
	d.left -= uint64(len(p))
	if d.left == 0 {
		d.kind = noFrame
		end = d.fin
	}
	if d.typ == Text && !d.compressed && (!d.text.check(p) || end && !d.text.whole()) {
		return false, failure(CloseInvalidPayload, "a text is not valid UTF-8")
	}
	if end {
		d.typ = 0
	}
	return end, nil
}

// nextHixie is next for the frames of hixie-76 (draft section 4.2).
func (d *decoder) nextHixie(b []byte) (piece, int, error) {
	if len(b) == 0 {
		return piece{need: 1}, 0, nil
	}
	n := 0
	if d.kind == noFrame {
		switch first := b[0]; {
		case first >= 0x80:
			return d.beginBlock(b)
		case first == 0:
			d.kind = hixieText
			d.start(Text)
		default:
			d.kind, d.size = hixieSkip, 0
		}
		n, b = 1, b[1:]
	}
	if d.kind == hixieBlock {
		p := b[:min(uint64(len(b)), d.left)]
		if d.left -= uint64(len(p)); d.left == 0 {
			d.kind = noFrame
		}
		return piece{}, n + len(p), nil
	}

	p := b
	i := bytes.IndexByte(b, 0xFF)
	end := i >= 0
	if end {
		p = b[:i]
	}
	room := d.limit - d.size
	tooBig := uint64(len(p)) > room
	if tooBig { // the first fault counts, so look at what comes before
		p, end = p[:room], false
	}
	if d.kind == hixieText && (!d.text.check(p) || end && !d.text.whole()) {
		return piece{}, 0, failure(CloseInvalidPayload, "a text is not valid UTF-8")
	}
	if tooBig {
		return piece{}, 0, failure(CloseMessageTooBig, "a message is larger than allowed")
	}
	n += len(p)
	d.size += uint64(len(p))
	kind := d.kind
	if end {
		n++
		d.kind, d.typ = noFrame, 0
	}
	if kind == hixieSkip {
		return piece{}, n, nil
	}
	return piece{opcode: opText, end: end, payload: p}, n, nil
}

// beginBlock takes up a frame with a length, which is to be discarded. Of type
// FF and without a payload it begins or ends the closing handshake.
func (d *decoder) beginBlock(b []byte) (piece, int, error) {
	var length uint64
	for i := 1; i < len(b); i++ {
		length = length<<7 | uint64(b[i]&0x7F)
		if i > 9 || length > d.limit { // nine bytes hold 63 bits
			return piece{}, 0, failure(CloseMessageTooBig, "a message is larger than allowed")
		}
		if b[i] >= 0x80 {
			continue
		}
		if length > 0 {
			d.kind, d.left = hixieBlock, length
		} else if b[0] == 0xFF {
			return piece{opcode: opClose, end: true}, i + 1, nil
		}
		return piece{}, i + 1, nil
	}
	return piece{need: 1}, 0, nil
}

// holdsFrame reports whether b, which begins with a frame, seems to hold all of it. For
// hixie-76 this is a guess; a wrong one only delays or hastens a reply.
func (d *decoder) holdsFrame(b []byte) bool {
	if d.hixie {
		return bytes.IndexByte(b, 0xFF) >= 0
	}
	h, size := parseHeader(b)
	return len(b) >= size && h.length <= uint64(len(b)-size)
}
