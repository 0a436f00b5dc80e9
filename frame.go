// Frames: their headers, masks, close payloads, and those of hixie-76; and whole text messages as
// frames on a stream.

package websocket

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"net"
	"strconv"
	"strings"
	"unicode/utf8"
)

// GetFrame returns the payload of the next whole message, text or binary, put
// together from its fragments. The slice is the caller's to keep. While it waits,
// GetFrame answers pings and the peer's closing handshake. It does not tell the type
// of the message; [Conn.ReadMessage] does.
//
// At the end GetFrame returns io.EOF itself: after an orderly closing handshake, after
// any Close method of this side, and if rw ends between two messages. If rw ends
// within a message, the error is io.ErrUnexpectedEOF. If the peer breaks the protocol,
// or closes the connection with a code that stands for a fault, it is a [*CloseError].
//
// If rw is not a [Conn], GetFrame takes it for a stream from an RFC 6455 client and
// does not read past the end of the message. It keeps nothing between calls, so an
// error within a message, even a timeout, cannot be recovered from.
func GetFrame(rw io.ReadWriter) ([]byte, error) {
	var p []byte
	var err error
	if c, ok := connOf(rw); ok {
		_, p, err = c.ReadMessage()
	} else {
		p, err = getBare(rw)
	}
	closed, ok := err.(*CloseError)
	if err = asStream(err); err == net.ErrClosed || ok && closed.by == byUs {
		err = io.EOF
	}
	return p, err
}

// PutFrame sends p as one text message, with one call of w.Write. It keeps no
// reference to p. If p is not UTF-8, PutFrame returns an error and sends nothing; use
// [Conn.WriteMessage] to send binary messages.
//
// If w is not a [Conn], PutFrame takes it for a stream to an RFC 6455 client. To serve
// clients of hixie-76, use a Conn.
func PutFrame(w io.Writer, p []byte) error {
	if c, ok := connOf(w); ok {
		return c.WriteMessage(Text, p)
	}
	if !utf8.Valid(p) {
		return errNotUTF8
	}
	return putBare(w, opText, p)
}

// A MessageType says what the payload of a message is (RFC 6455, section 5.6).
type MessageType uint8

const (
	Text   MessageType = opText   // UTF-8, which is checked in both directions
	Binary MessageType = opBinary // any bytes; hixie-76 has no such messages
)

var typeNames = map[MessageType]string{Text: "text", Binary: "binary"}

// String returns "text" or "binary".
func (t MessageType) String() string {
	return cmp.Or(typeNames[t], "message type "+strconv.Itoa(int(t)))
}

// The opcodes of RFC 6455, section 11.8.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// The bits of a header's first two bytes (RFC 6455, section 5.2).
const (
	finBit     = 0x80
	rsvBits    = 0x70
	rsv1Bit    = 0x40
	opcodeBits = 0x0F
	maskBit    = 0x80
	lengthBits = 0x7F
)

const (
	maxHeader  = 14  // bytes of the longest frame header
	maxControl = 125 // payload bytes of a control frame (RFC 6455, section 5.5)

	// maxFragments is how many frames a message may have, besides one for every 64 bytes
	// of it (8 if they are compressed) and the last: a message of empty frames has to end.
	maxFragments = 16 << 10
)

// A header is a frame header (RFC 6455, section 5.2).
type header struct {
	fin    bool
	rsv    byte // RSV1 to RSV3, in place
	opcode byte
	masked bool
	key    uint32 // masking key; its first byte is the lowest
	length uint64 // of the payload, in bytes
}

// parseHeader parses the frame header at the start of b. It returns the size
// of the header, or as much of the size as b can tell. While b is shorter
// than that, only the fields that the first two bytes hold are set, if b has
// these; a length above 125 is then no more than that.
func parseHeader(b []byte) (h header, size int) {
	if len(b) < 2 {
		return h, 2
	}
	h.fin = b[0]&finBit != 0
	h.rsv = b[0] & rsvBits
	h.opcode = b[0] & opcodeBits
	h.masked = b[1]&maskBit != 0
	h.length = uint64(b[1] & lengthBits)
	size = 2
	switch h.length {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	lengthEnd := size
	if h.masked {
		size += 4
	}
	if len(b) < size {
		return h, size
	}
	switch lengthEnd {
	case 4:
		h.length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 10:
		h.length = binary.BigEndian.Uint64(b[2:])
	}
	if h.masked {
		h.key = binary.LittleEndian.Uint32(b[lengthEnd:])
	}
	return h, size
}

// appendHeader appends the header of a frame: its first byte, and the length
// of its payload in the shortest form. A masked header ends before the
// masking key.
func appendHeader(dst []byte, first byte, masked bool, length int) []byte {
	var m byte
	if masked {
		m = maskBit
	}
	switch {
	case length <= 125:
		return append(dst, first, m|byte(length))
	case length <= 0xFFFF:
		return append(dst, first, m|126, byte(length>>8), byte(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, m|127), uint64(length))
	}
}

// appendFrame appends a whole frame.
func appendFrame(dst []byte, first byte, p []byte, masked bool) []byte {
	dst = appendHeader(dst, first, masked, len(p))
	if !masked {
		return append(dst, p...)
	}
	var key uint32
	dst, key = appendKey(dst)
	n := len(dst)
	dst = append(dst, p...)
	mask(dst[n:], key)
	return dst
}

// A codec says how this side writes frames: it masks those of a client, and hixie-76 has frames
// of its own.
type codec struct {
	client bool
	hixie  bool
}

// appendFrame appends a data frame, or in hixie-76 what the text of a message needs in its place.
func (k codec) appendFrame(dst []byte, first byte, p []byte) []byte {
	if k.hixie {
		return appendHixie(dst, first, p)
	}
	return appendFrame(dst, first, p, k.client)
}

// appendClose appends a close frame. Hixie-76 carries neither code nor reason.
func (k codec) appendClose(dst []byte, code CloseCode, reason string) []byte {
	if k.hixie {
		return append(dst, 0xFF, 0x00)
	}
	return appendFrame(dst, finBit|opClose, appendClose(nil, code, reason), k.client)
}

// appendKey appends a new masking key, which has to be unpredictable (RFC 6455,
// section 10.3).
func appendKey(dst []byte) ([]byte, uint32) {
	dst = append(dst, 0, 0, 0, 0)
	key := dst[len(dst)-4:]
	rand.Read(key)
	return dst, binary.LittleEndian.Uint32(key)
}

// appendHixie appends p to the text message that the first byte of an RFC 6455
// frame tells of: it begins the message unless that is a continuation, and ends
// it if that has FIN.
func appendHixie(dst []byte, first byte, p []byte) []byte {
	if first&opcodeBits != opContinuation {
		dst = append(dst, 0x00)
	}
	dst = append(dst, p...)
	if first&finBit != 0 {
		dst = append(dst, 0xFF)
	}
	return dst
}

// mask XORs b in place with the masking key and returns the key turned so
// that it fits the byte behind b (RFC 6455, section 5.3).
func mask(b []byte, key uint32) uint32 {
	k := uint64(key)<<32 | uint64(key)
	le := binary.LittleEndian
	for len(b) >= 64 {
		le.PutUint64(b[0:8], le.Uint64(b[0:8])^k)
		le.PutUint64(b[8:16], le.Uint64(b[8:16])^k)
		le.PutUint64(b[16:24], le.Uint64(b[16:24])^k)
		le.PutUint64(b[24:32], le.Uint64(b[24:32])^k)
		le.PutUint64(b[32:40], le.Uint64(b[32:40])^k)
		le.PutUint64(b[40:48], le.Uint64(b[40:48])^k)
		le.PutUint64(b[48:56], le.Uint64(b[48:56])^k)
		le.PutUint64(b[56:64], le.Uint64(b[56:64])^k)
		b = b[64:]
	}
	for len(b) >= 8 {
		le.PutUint64(b, le.Uint64(b)^k)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(key)
		key = bits.RotateLeft32(key, -8)
	}
	return key
}

// A CloseCode says why a connection is closed (RFC 6455, section 7.4). Programs
// may use 3000 to 4999 for reasons of their own.
type CloseCode uint16

const (
	CloseNormal          CloseCode = 1000
	CloseGoingAway       CloseCode = 1001 // the server stops, or the page is left
	CloseProtocolError   CloseCode = 1002
	CloseUnsupportedData CloseCode = 1003 // type of message
	CloseNoStatus        CloseCode = 1005 // stands for a close frame without a code
	CloseAbnormal        CloseCode = 1006 // stands for an end without a close frame
	CloseInvalidPayload  CloseCode = 1007 // text that is not UTF-8
	ClosePolicyViolation CloseCode = 1008
	CloseMessageTooBig   CloseCode = 1009 // message
	CloseInternalError   CloseCode = 1011

	// These are younger than the RFC. Some clients take them for a fault.
	CloseServiceRestart CloseCode = 1012
	CloseTryAgainLater  CloseCode = 1013
)

var closeNames = map[CloseCode]string{
	CloseNormal:          " (normal closure)",
	CloseGoingAway:       " (going away)",
	CloseProtocolError:   " (protocol error)",
	CloseUnsupportedData: " (unsupported data)",
	CloseNoStatus:        " (no status)",
	CloseAbnormal:        " (abnormal closure)",
	CloseInvalidPayload:  " (invalid payload)",
	ClosePolicyViolation: " (policy violation)",
	CloseMessageTooBig:   " (message too big)",
	CloseInternalError:   " (internal error)",
	CloseServiceRestart:  " (service restart)",
	CloseTryAgainLater:   " (try again later)",
}

// String returns the number and, where the standard has one, the name.
func (c CloseCode) String() string { return strconv.Itoa(int(c)) + closeNames[c] }

// sendable reports whether a close frame may hold the code (RFC 6455, section
// 7.4, and the registry of section 11.7).
func (c CloseCode) sendable() bool {
	return 1000 <= c && c <= 1003 || 1007 <= c && c <= 1014 || 3000 <= c && c <= 4999
}

// A CloseError says how a connection ended: by a close frame from either side, because the
// peer broke a rule, or with CloseAbnormal because the transport ended or failed without a
// closing handshake (RFC 6455, section 7.1.5). What a read returns depends on how it ended:
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
//	transport ended                 io.EOF                  *CloseError with 1006, which is
//	  within a message              io.ErrUnexpectedEOF       io.ErrUnexpectedEOF to errors.Is
//	transport failed                its error               the same, and wraps its error
//	peer broke the protocol         *CloseError             *CloseError
//	read deadline                   timeout, not final      timeout, not final
//
// [Conn.Read] returns what GetFrame does, unless this side has closed: then it returns io.EOF
// for the codes with which a CloseError is that, and otherwise what the other methods do. Later
// reads return the same error. What writes return, [Conn.WriteMessage] says.
//
// A client that reconnects does so, after a while, when the connection was lost (CloseAbnormal,
// or from [Conn.Serve] with pings an error that is os.ErrDeadlineExceeded), when the server stops
// (CloseGoingAway, CloseServiceRestart) or asks for it (CloseTryAgainLater), and after
// ClosePolicyViolation from a [Server] for which it has read too slowly. [Reconnect] does so after
// every end, until the loop is left.
type CloseError struct {
	Code   CloseCode
	Reason string

	by  closedBy
	err error // of the transport, if it was cut
}

type closedBy byte

const (
	byPeer      closedBy = iota
	byPeerEarly          // within a message
	byUs                 // with one of the Close methods
	byFailure            // the peer broke a rule (RFC 6455, section 7.1.7)
	byCut                // nobody has closed it
)

// failure returns the error for a connection that the peer has made to fail.
func failure(code CloseCode, reason string) *CloseError {
	return &CloseError{Code: code, Reason: reason, by: byFailure}
}

// cutOff returns the error for a connection whose transport has failed. The end of the transport
// is io.EOF between two messages, and otherwise io.ErrUnexpectedEOF.
func cutOff(err error) *CloseError {
	return &CloseError{Code: CloseAbnormal, by: byCut, err: err}
}

// Error returns who closed the connection and why.
func (e *CloseError) Error() string {
	s := [...]string{
		byPeer:      "websocket: closed by the peer: ",
		byPeerEarly: "websocket: closed by the peer within a message: ",
		byUs:        "websocket: closed: ",
		byFailure:   "websocket: connection failed: ",
		byCut:       "websocket: connection lost: ",
	}[e.by] + e.Code.String()
	switch {
	case e.Reason != "":
		s += ": " + e.Reason
	case e.err != nil:
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns the error behind e, such as that of the transport that has ended the connection,
// or nil if there is none.
func (e *CloseError) Unwrap() error {
	if e.err == io.EOF {
		return io.ErrUnexpectedEOF // as it was no orderly end
	}
	return e.err
}

// Is makes errors.Is(e, io.EOF) true for an orderly end: either side closed between
// messages with CloseNormal, CloseGoingAway or CloseNoStatus. For io.ErrUnexpectedEOF it
// reports whether the peer closed within a message, or the transport ended or failed
// without a closing handshake, and for net.ErrClosed whether this side closed.
func (e *CloseError) Is(target error) bool {
	switch target {
	case io.EOF:
		return (e.by == byPeer || e.by == byUs) && (e.Code == CloseNormal || e.Code == CloseGoingAway || e.Code == CloseNoStatus)
	case io.ErrUnexpectedEOF:
		return e.by == byPeerEarly || e.by == byCut
	case net.ErrClosed:
		return e.by == byUs
	}
	return false
}

// asStream returns the error of a call that takes the messages for one stream: io.EOF at an
// orderly end, and what the transport has failed with as it is.
func asStream(err error) error {
	if e, ok := err.(*CloseError); ok && e.by == byCut {
		return e.err
	}
	if errors.Is(err, io.EOF) {
		return io.EOF // readers compare with ==
	}
	return err
}

// closeByUs returns the error of a connection that this side closes, with what its close frame
// is to hold: the reason made valid and cut between two runes. A code that a close frame cannot
// hold is an error, and CloseInternalError stands in its place.
func closeByUs(code CloseCode, reason string) (e *CloseError, err error) {
	if !code.sendable() && (code != CloseNoStatus || reason != "") {
		err = misuse("a close frame cannot hold the code %d", code)
		code = CloseInternalError
	}
	reason = strings.ToValidUTF8(reason, string(utf8.RuneError))
	if n := maxControl - 2; len(reason) > n {
		for !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	return &CloseError{Code: code, Reason: reason, by: byUs}, err
}

// parseClose parses the payload of a close frame (RFC 6455, section 5.5.1).
func parseClose(p []byte) (CloseCode, string, error) {
	switch {
	case len(p) == 0:
		return CloseNoStatus, "", nil
	case len(p) == 1:
		return 0, "", failure(CloseProtocolError, "a close frame has a payload of one byte")
	}
	code, reason := CloseCode(binary.BigEndian.Uint16(p)), p[2:]
	if !code.sendable() {
		return 0, "", failure(CloseProtocolError, "a close code is not allowed")
	}
	if !utf8.Valid(reason) {
		return 0, "", failure(CloseInvalidPayload, "a text is not valid UTF-8")
	}
	return code, string(reason), nil
}

// appendClose appends the payload of a close frame.
func appendClose(dst []byte, code CloseCode, reason string) []byte {
	if code == CloseNoStatus {
		return dst
	}
	return append(binary.BigEndian.AppendUint16(dst, uint16(code)), reason...)
}
