// permessage-deflate (RFC 7692): its options, how both sides agree on its parameters, and what a
// connection then needs for its messages.

package websocket

import (
	"cmp"
	"compress/flate"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Deflate lets connections compress their messages with permessage-deflate (RFC 7692), which
// every browser offers, if both sides want that. What was agreed on stands in Extensions of
// [Conn.Request]. Messages are written and read as ever, and Options.MaxMessage limits what they
// inflate to. The zero value is a good choice: nothing is remembered from one message to the next,
// so that an idle connection needs hardly any memory for it. That takes the peer as well: for a
// server that does not agree to forget, a client remembers up to 32 KiB.
//
// Compression takes processor time on both sides, and it can betray secrets, even under TLS: where
// a message, or with ContextTakeover one before it, holds both a secret and what an attacker may
// choose, its size tells whether the two are alike (CRIME, BREACH). Send such messages over a
// connection without compression.
type Deflate struct {
	// Level is a level of compress/flate, from flate.HuffmanOnly to
	// flate.BestCompression. 0 means flate.BestSpeed. It is not for the NewWriter of a Flate.
	Level int

	// Threshold is the size, in bytes, of the smallest message that is compressed. 0
	// means 512 bytes, or 128 where messages can refer to those before. With a negative
	// number all messages are, except where that would not make them smaller. Messages
	// from NextWriter are always compressed, and need about 1.2 MB until they end.
	Threshold int

	// ContextTakeover lets a message refer to those before it, which makes small
	// messages that are alike much smaller: records in JSON of 200 bytes, in one
	// measurement, 63 bytes each instead of 123. It applies to each direction whose
	// receiver allows it. A connection then keeps up to 4 KiB of what it has sent and 32
	// KiB of what it has received, or less with a smaller window. Some clients refer to
	// earlier messages although they have agreed not to, which ends with
	// CloseInvalidPayload; a server that has to bear them sets ContextTakeover.
	ContextTakeover bool

	// WindowBits is the base-2 logarithm of how many bytes back a message may refer
	// to, from 8 to 15. 0 means 15. It applies to what this side sends, and to what it
	// receives if the peer can limit its window. Windows below 12 bits gain little, are
	// slow, and let Level be flate.BestSpeed at most. Peers that use zlib cannot keep 8.
	WindowBits int

	// Flate is what compresses and inflates, if it is not to be compress/flate: others are
	// faster.
	Flate *Flate
}

const (
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
	if takeover && d.Threshold == 0 {
		return 128 // below that flate.BestSpeed does not look for matches
	}
	return max(1, cmp.Or(d.Threshold, 512))
}

func (d *Deflate) windowBits() int {
	if d == nil {
		return maxWindowBits
	}
	return cmp.Or(d.WindowBits, maxWindowBits)
}

// check reports what is wrong with the options.
func (d *Deflate) check() error {
	switch {
	case d.Level < flate.HuffmanOnly || d.Level > flate.BestCompression:
		return fmt.Errorf("%d is no level of compression", d.Level)
	case d.WindowBits != 0 && (d.WindowBits < 8 || d.WindowBits > maxWindowBits):
		return fmt.Errorf("%d window bits are not from 8 to 15", d.WindowBits)
	}
	return d.Flate.check()
}

// The name of the extension, and below those of its parameters (RFC 7692, section 7).
const deflateName = "permessage-deflate"

// deflateParams are the parameters of an offer or of a response, in the order of deflateNames.
// A value is 0 for one that is absent, and noValue for one without a value.
type deflateParams [4]int

const (
	serverReset = iota // no context takeover
	clientReset
	serverBits
	clientBits
)

const noValue = maxWindowBits + 1

var deflateNames = [...]string{
	serverReset: "server_no_context_takeover",
	clientReset: "client_no_context_takeover",
	serverBits:  "server_max_window_bits",
	clientBits:  "client_max_window_bits",
}

// parseDeflate parses an element of Sec-WebSocket-Extensions and reports whether it is a
// valid offer (RFC 7692, section 7.1), of permessage-deflate, or a valid response.
func parseDeflate(e extension, response bool) (p deflateParams, ok bool) {
	if !strings.EqualFold(e.name, deflateName) {
		return p, false
	}
	for _, param := range e.params {
		i := slices.Index(deflateNames[:], strings.ToLower(param.name))
		if i < 0 || p[i] != 0 {
			return p, false
		}
		hasBits := i == serverBits || i == clientBits
		optional := i == clientBits && !response
		n, err := strconv.Atoi(param.value)
		switch {
		case !param.hasValue && (!hasBits || optional):
			p[i] = noValue
		case hasBits && err == nil && 8 <= n && n <= maxWindowBits && strconv.Itoa(n) == param.value:
			p[i] = n
		default:
			return p, false
		}
	}
	return p, true
}

// String returns the element of Sec-WebSocket-Extensions.
func (p deflateParams) String() string {
	s := deflateName
	for i, n := range p {
		if n != 0 {
			s += "; " + deflateNames[i]
		}
		if n != 0 && n != noValue {
			s += "=" + strconv.Itoa(n)
		}
	}
	return s
}

// offer returns what a client offers.
func (d *Deflate) offer() (p deflateParams) {
	if !d.ContextTakeover {
		p[serverReset], p[clientReset] = noValue, noValue
	}
	p[clientBits] = noValue
	if bits := d.windowBits(); bits < maxWindowBits {
		p[serverBits], p[clientBits] = bits, bits
	}
	return p
}

// answer returns a server's response to an offer.
func (d *Deflate) answer(offer deflateParams) deflateParams {
	p := d.offer()
	p[serverReset] = max(p[serverReset], offer[serverReset])
	p[clientReset] = max(p[clientReset], offer[clientReset])
	if bits := offer[serverBits]; bits != 0 {
		p[serverBits] = min(bits, d.windowBits())
	}
	if p[clientBits] = min(p[clientBits], offer[clientBits]); p[clientBits] == noValue {
		p[clientBits] = 0
	}
	return p
}

// fault says why a client that offers d cannot accept the extensions that a server answers
// with. It is empty if the client can. A server may leave out that it keeps no context, or a
// small window, as it was asked to: what it may refer to is remembered for it then.
func (d *Deflate) fault(answers []extension) string {
	for _, e := range answers {
		if d == nil || !strings.EqualFold(e.name, deflateName) {
			return "names an extension that was not offered"
		}
	}
	if len(answers) > 1 {
		return "names permessage-deflate more than once"
	}
	p, ok := parseDeflate(answers[0], true)
	offer := d.offer()
	switch {
	case !ok:
		return "has a parameter that permessage-deflate does not allow there"
	case offer[serverBits] != 0 && p[serverBits] > offer[serverBits]:
		return "has a server_max_window_bits above the one that was asked for"
	case p[clientBits] > offer[clientBits]:
		return "has a client_max_window_bits above the one that was offered"
	}
	return ""
}

// agreedDeflate returns the parameters in a response's list of extensions, or nil if the list is
// empty.
func agreedDeflate(extensions string) (*deflateParams, error) {
	if extensions == "" {
		return nil, nil
	}
	answers, err := parseExtensions([]string{extensions})
	if err == nil && len(answers) == 1 {
		if p, ok := parseDeflate(answers[0], true); ok {
			return &p, nil
		}
	}
	return nil, fmt.Errorf("%q is not what a response can have", extensions)
}

// answers reports whether p is a response that the offer allows, to the letter.
func (p deflateParams) answers(offer deflateParams) bool {
	return p[serverReset] >= offer[serverReset] && p[clientBits] <= offer[clientBits] &&
		(offer[serverBits] == 0 || 0 < p[serverBits] && p[serverBits] <= offer[serverBits])
}

// chooseExtensions returns a server's Sec-WebSocket-Extensions: the answer to the first
// offer of permessage-deflate that is valid, or an empty string.
func (d *Deflate) chooseExtensions(header http.Header) (string, error) {
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

// A deflater compresses what one side of a connection sends. Its writer has it.
type deflater struct {
	*Deflate
	window
}

// An unpacker inflates what one side receives. Its reader has it.
type unpacker struct {
	window
	flate  *Flate
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
	return &deflater{d, send}, &unpacker{window: recv, flate: d.Flate.forReads()}
}

// compresses reports whether messages like p are compressed.
func (d *deflater) compresses(p []byte) bool {
	return d != nil && len(p) >= d.threshold(d.takeover)
}

// compressor returns a compressor for one message, to be freed.
func (d *deflater) compressor(history []byte) *compressor {
	return d.Flate.forWrites(d.level(d.bits)).compressor(d.bits, history)
}

// appendMessage appends a frame with p as a whole message that does not refer to others.
// It is not masked. If p cannot be compressed, the frame has it as it is.
func (d *deflater) appendMessage(dst []byte, first byte, p []byte) []byte {
	out := newScratch(len(p))
	defer out.free()
	message, rsv, err := d.message(out, nil, p)
	if err != nil {
		message, rsv = p, 0
	}
	return appendFrame(dst, first|rsv, message, false)
}

// message compresses p as a message of its own, in out, or returns it as it is if that is
// shorter. It keeps no compressor, as the message may have to wait for a slow peer.
func (d *deflater) message(out *output, history, p []byte) (message []byte, rsv byte, err error) {
	z := d.compressor(history)
	held := z.out
	z.out = out.b
	out.b, err = z.compress(p)
	z.out = held
	z.free()
	if err != nil {
		return nil, 0, err
	}
	if b := out.b[:len(out.b)-len(syncMarker)]; len(b) < len(p) {
		return b, rsv1Bit, nil
	}
	return p, 0, nil
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
