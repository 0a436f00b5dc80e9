package websocket

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"runtime"

	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"unicode/utf8"
)

// errStall is how the stream of a peer that sends nothing more ends in these
// tests. A Conn that needs one byte too many to notice a fault returns it
// instead of the *CloseError, so that no test has to wait.
var errStall = errors.New("the peer has stalled")

// A wireStream is a transport in memory. It has no Close: all that a Conn sends
// on it is written before the call returns.
type wireStream struct {
	io.Reader
	io.Writer
}

// A wireCloser is a wireStream that counts how often it is closed.
type wireCloser struct {
	wireStream
	closed int
}

func (w *wireCloser) Close() error { w.closed++; return nil }

// A wireOnce is a stream that reports its end once. A Conn has to remember it,
// above all if it comes together with the last bytes.
type wireOnce struct {
	io.Reader
	ended bool
}

func (w *wireOnce) Read(p []byte) (int, error) {
	if w.ended {
		panic("read behind the end")
	}
	n, err := w.Reader.Read(p)
	w.ended = err != nil
	return n, err
}

// wireChunks are the ways in which a stream may arrive.
var wireChunks = []struct {
	name string
	of   func(io.Reader) io.Reader
}{
	{"whole", func(r io.Reader) io.Reader { return r }},
	{"one byte", iotest.OneByteReader},
	{"halves", iotest.HalfReader},
	{"random", func(r io.Reader) io.Reader { return &wireRandom{r, rand.New(rand.NewPCG(6455, 76))} }},
	{"data with error", iotest.DataErrReader},
}

// A wireRandom reads pieces of random sizes, small and large ones alike.
type wireRandom struct {
	r   io.Reader
	rng *rand.Rand
}

func (w *wireRandom) Read(p []byte) (int, error) {
	n := 1 << w.rng.IntN(bits.Len(uint(len(p))))
	return w.r.Read(p[:n+w.rng.IntN(len(p)-n+1)>>w.rng.IntN(16)])
}

// A wireMessage is a message that a Conn has delivered. Its typ is 0 for the
// stream that Read makes of all messages.
type wireMessage struct {
	typ MessageType
	p   string
}

// wireReads are the ways to read from a Conn. Each returns all messages and the
// error behind them.
var wireReads = []struct {
	name string
	all  func(*Conn) ([]wireMessage, error)
}{
	{"ReadMessage", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, p, err := c.ReadMessage()
			if err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, string(p)})
		}
	}},
	{"AppendMessage", func(c *Conn) (got []wireMessage, err error) {
		dst := []byte("dst")
		for {
			t, p, err := c.AppendMessage(dst)
			if s, ok := strings.CutPrefix(string(p), "dst"); !ok {
				return got, fmt.Errorf("AppendMessage has lost what dst held: %.20q", p)
			} else if err != nil {
				if s != "" {
					err = fmt.Errorf("AppendMessage returned %q along with %w", s, err)
				}
				return got, err
			} else {
				got = append(got, wireMessage{t, s})
			}
			dst = p[:3]
		}
	}},
	{"NextReader", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return got, err
			}
			p, err := io.ReadAll(r)
			if _, again := r.Read(make([]byte, 1)); again != cmp.Or(err, io.EOF) {
				return got, fmt.Errorf("the reader returned %v, then %v", err, again)
			}
			if err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, string(p)})
		}
	}},
	{"Read", func(c *Conn) ([]wireMessage, error) {
		var all []byte
		p := make([]byte, heldInputSize+1)
		for {
			n, err := c.Read(p)
			all = append(all, p[:n]...)
			if err != nil {
				return []wireMessage{{0, string(all)}}, err
			}
		}
	}},
}

// sameMessages reports whether got are the messages want. If partly, what has
// been streamed of one more may follow.
func sameMessages(got, want []wireMessage, partly bool) bool {
	if len(got) == 1 && got[0].typ == 0 {
		stream := ""
		for _, m := range want {
			stream += m.p
		}
		return got[0].p == stream || partly && strings.HasPrefix(got[0].p, stream)
	}
	return slices.Equal(got, want)
}

// describe returns messages short enough to be printed.
func describe(all []wireMessage) (s []string) {
	for _, m := range all {
		s = append(s, fmt.Sprintf("%d:%d:%.32q", m.typ, len(m.p), m.p))
	}
	return s
}

// wireKey is the masking key in the examples of RFC 6455, section 5.7.
var wireKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// A wireFrame is a frame as a test wants it on the wire, be it right or wrong.
// It is encoded without the help of the package.
type wireFrame struct {
	first byte
	p     string
	form  int    // bytes of length behind the second byte: 2, 8, or 0 for the fewest
	claim uint64 // the length announced, if more than len(p)
	wrong bool   // masked where it must not be, or the other way round
	head  bool   // nothing behind the first two bytes is sent
}

func wf(first byte, p string) wireFrame { return wireFrame{first: first, p: p} }

// wfHead returns a frame of which the first two bytes must be enough.
func wfHead(first byte) wireFrame { return wireFrame{first: first, p: "abc", head: true} }

// wfClose returns a close frame.
func wfClose(code int, reason string) wireFrame {
	return wf(0x88, string([]byte{byte(code >> 8), byte(code)})+reason)
}

// append appends f. If late, it also appends what f has left out.
func (f wireFrame) append(b []byte, masked, late bool) []byte {
	length := max(f.claim, uint64(len(f.p)))
	form := f.form
	if form == 0 && length > 0xFFFF {
		form = 8
	} else if form == 0 && length > 125 {
		form = 2
	}
	var m byte
	if masked != f.wrong {
		m = 0x80
	}
	end := len(b) + 2
	switch form {
	case 0:
		b = append(b, f.first, m|byte(length))
	case 2:
		b = append(b, f.first, m|126, byte(length>>8), byte(length))
	case 8:
		b = binary.BigEndian.AppendUint64(append(b, f.first, m|127), length)
	}
	if f.head && !late {
		return b[:end]
	}
	p := []byte(f.p)
	if late {
		p = append(p, strings.Repeat("x", int(min(length-uint64(len(p)), 300)))...)
	}
	if m != 0 {
		b = append(b, wireKey[:]...)
		for i := range p {
			p[i] ^= wireKey[i%4]
		}
	}
	return append(b, p...)
}

// parseWire parses what a Conn has sent, which has to be whole frames in the
// shortest form, all masked or none.
func parseWire(b []byte, masked bool) (all []wireFrame, err error) {
	for len(b) > 0 {
		f, header := wireFrame{first: b[0]}, 2
		if len(b) < 2 || b[1]&0x80 != 0 != masked {
			return all, fmt.Errorf("bad header % x", b[:min(len(b), 14)])
		}
		n := uint64(b[1] & 0x7F)
		switch n {
		case 126:
			n, header = uint64(b[2])<<8|uint64(b[3]), 4
		case 127:
			n, header = binary.BigEndian.Uint64(b[2:]), 10
		}
		if header == 4 && n < 126 || header == 10 && n < 65536 {
			return all, fmt.Errorf("length %d in %d bytes", n, header)
		}
		var key [4]byte
		if masked {
			header += copy(key[:], b[header:])
		}
		if uint64(len(b)-header) < n {
			return all, fmt.Errorf("a frame is cut short: % x", b[:min(len(b), 14)])
		}
		p := bytes.Clone(b[header:][:n])
		for i := range p {
			p[i] ^= key[i%4]
		}
		f.p = string(p)
		all, b = append(all, f), b[header+int(n):]
	}
	return all, nil
}

// A wireRule is a rule of the protocol: what a peer sends and what comes of it.
// In a row that ends the connection the input stops at the very byte that shows
// the fault.
type wireRule struct {
	section string // of RFC 6455
	name    string
	in      []wireFrame
	max     int64 // Options.MaxMessage

	want   []wireMessage
	code   CloseCode // of the error and of the close frame sent; 0: all is well
	peer   bool      // the peer has closed, with this code and reason
	early  bool      // and within a message
	reason string
}

// wireRules returns the rules of RFC 6455 for frames, messages and their ends.
func wireRules() []wireRule {
	text := func(p string) wireMessage { return wireMessage{Text, p} }
	bin := func(p string) wireMessage { return wireMessage{Binary, p} }
	type (
		in   = []wireFrame
		want = []wireMessage
	)
	const protocol, invalid, tooBig = CloseProtocolError, CloseInvalidPayload, CloseMessageTooBig
	x := func(n int) string { return strings.Repeat("x", n) }

	rules := []wireRule{
		// Messages and fragments.
		{section: "5.6", name: "text", in: in{wf(0x81, "Hello")}, want: want{text("Hello")}},
		{section: "5.6", name: "binary", in: in{wf(0x82, "\xff\x00")}, want: want{bin("\xff\x00")}},
		{section: "5.4", name: "fragments", in: in{wf(0x01, "a"), wf(0x00, "b"), wf(0x80, "c")}, want: want{text("abc")}},
		{section: "5.4", name: "empty fragments", in: in{wf(0x02, ""), wf(0x00, ""), wf(0x00, "b"), wf(0x80, "")}, want: want{bin("b")}},
		{section: "5.4", name: "only empty fragments", in: in{wf(0x01, ""), wf(0x80, "")}, want: want{text("")}},
		{section: "5.4", name: "messages in a row", in: in{wf(0x81, "a"), wf(0x02, "b"), wf(0x80, "c"), wf(0x82, ""), wf(0x81, "d")},
			want: want{text("a"), bin("bc"), bin(""), text("d")}},
		{section: "5.4", name: "continuation first", in: in{wfHead(0x80)}, code: protocol},
		{section: "5.4", name: "continuation first, not final", in: in{wfHead(0x00)}, code: protocol},
		{section: "5.4", name: "continuation after a message", in: in{wf(0x81, "a"), wfHead(0x80)}, want: want{text("a")}, code: protocol},
		{section: "5.4", name: "continuation after fragments", in: in{wf(0x01, "a"), wf(0x80, "b"), wfHead(0x80)}, want: want{text("ab")}, code: protocol},
		{section: "5.4", name: "continuation after a ping", in: in{wf(0x89, "a"), wfHead(0x80)}, code: protocol},

		// Lengths.
		{section: "5.2", name: "7 bits of length in 2 bytes", in: in{{first: 0x81, p: "Hello", form: 2}}, want: want{text("Hello")}},
		{section: "5.2", name: "7 bits of length in 8 bytes", in: in{{first: 0x81, p: "Hello", form: 8}}, want: want{text("Hello")}},
		{section: "5.2", name: "no length in 2 bytes", in: in{{first: 0x81, form: 2}}, want: want{text("")}},
		{section: "5.2", name: "no length in 8 bytes", in: in{{first: 0x82, form: 8}}, want: want{bin("")}},
		{section: "5.2", name: "125 in 2 bytes", in: in{{first: 0x82, p: x(125), form: 2}}, want: want{bin(x(125))}},
		{section: "5.2", name: "126 in 8 bytes", in: in{{first: 0x82, p: x(126), form: 8}}, want: want{bin(x(126))}},
		{section: "5.2", name: "65535 in 8 bytes", in: in{{first: 0x82, p: x(65535), form: 8}}, want: want{bin(x(65535))}},
		{section: "5.2", name: "top bit of the length", in: in{{first: 0x82, claim: 1 << 63}}, code: protocol},
		{section: "5.2", name: "top bit and a short length", in: in{{first: 0x82, claim: 1<<63 | 5}}, code: protocol},
		{section: "5.2", name: "all bits of the length", in: in{{first: 0x82, claim: math.MaxUint64}}, code: protocol},
		{section: "5.2", name: "top bit, no limit", in: in{{first: 0x82, claim: 1 << 63}}, max: -1, code: protocol},
		{section: "5.2", name: "top bit, in a fragment", in: in{wf(0x02, "a"), {first: 0x80, claim: 1<<64 - 1}}, max: -1, code: protocol},
		{section: "10.4", name: "length 2^62", in: in{{first: 0x82, claim: 1 << 62}}, code: tooBig},
		{section: "10.4", name: "length 2^63-1", in: in{{first: 0x81, claim: 1<<63 - 1}}, code: tooBig},
		{section: "10.4", name: "fragments past 2^63-1", in: in{wf(0x02, "a"), {first: 0x80, claim: 1<<63 - 1}}, max: -1, code: tooBig},
		{section: "10.4", name: "length 2^32", in: in{{first: 0x82, claim: 1 << 32}}, code: tooBig},
		{section: "10.4", name: "1 MiB", in: in{wf(0x82, x(1<<20))}, want: want{bin(x(1 << 20))}},
		{section: "10.4", name: "1 MiB and a byte", in: in{{first: 0x82, claim: 1<<20 + 1}}, code: tooBig},
		{section: "10.4", name: "the limit", in: in{wf(0x81, x(1000)), wf(0x82, x(1000))}, max: 1000, want: want{text(x(1000)), bin(x(1000))}},
		{section: "10.4", name: "over the limit", in: in{{first: 0x81, claim: 1001}}, max: 1000, code: tooBig},
		{section: "10.4", name: "over the limit in 8 bytes", in: in{{first: 0x81, claim: 1001, form: 8}}, max: 1000, code: tooBig},
		{section: "10.4", name: "over a limit of one byte", in: in{wf(0x82, "a"), {first: 0x82, claim: 2}}, max: 1, want: want{bin("a")}, code: tooBig},
		{section: "10.4", name: "no limit", in: in{wf(0x82, x(1<<20+1))}, max: -1, want: want{bin(x(1<<20 + 1))}},
		{section: "10.4", name: "fragments up to the limit", in: in{wf(0x02, x(600)), wf(0x00, x(400)), wf(0x00, ""), wf(0x80, "")}, max: 1000, want: want{bin(x(1000))}},
		{section: "10.4", name: "fragments over the limit", in: in{wf(0x02, x(600)), {first: 0x80, claim: 401}}, max: 1000, code: tooBig},
		{section: "10.4", name: "a byte behind the limit", in: in{wf(0x01, x(999)), wf(0x00, "x"), {first: 0x00, claim: 1}}, max: 1000, code: tooBig},
		{section: "10.4", name: "control frames have no part in the limit", in: in{wf(0x01, x(9)), wf(0x89, x(125)), wf(0x8A, x(125)), wf(0x80, "x")}, max: 10, want: want{text(x(10))}},

		// Masking.
		{section: "5.1", name: "wrong masking of text", in: in{{first: 0x81, p: "a", wrong: true, head: true}}, code: protocol},
		{section: "5.1", name: "wrong masking of an empty message", in: in{{first: 0x82, wrong: true, head: true}}, code: protocol},
		{section: "5.1", name: "wrong masking of a continuation", in: in{wf(0x01, "a"), {first: 0x80, p: "a", wrong: true, head: true}}, code: protocol},
		{section: "5.1", name: "wrong masking of a long frame", in: in{{first: 0x81, p: x(126), wrong: true, head: true}}, code: protocol},
		{section: "5.1", name: "wrong masking of a ping", in: in{{first: 0x89, wrong: true, head: true}}, code: protocol},
		{section: "5.1", name: "wrong masking of a pong", in: in{{first: 0x8A, wrong: true, head: true}}, code: protocol},
		{section: "5.1", name: "wrong masking of a close frame", in: in{{first: 0x88, p: "\x03\xe8", wrong: true, head: true}}, code: protocol},

		// Control frames.
		{section: "5.5.2", name: "ping", in: in{wf(0x89, "Hello")}},
		{section: "5.5.2", name: "empty ping", in: in{wf(0x89, "")}},
		{section: "5.5.2", name: "longest ping", in: in{wf(0x89, x(125))}},
		{section: "5.5.2", name: "ping with any bytes", in: in{wf(0x89, "\xff\x00\xc0")}},
		{section: "5.5.2", name: "pings before and after", in: in{wf(0x89, "1"), wf(0x81, "a"), wf(0x89, "2"), wf(0x89, "3")}, want: want{text("a")}},
		{section: "5.5.3", name: "unsolicited pongs", in: in{wf(0x8A, ""), wf(0x8A, "\x00\x00\x00\x00\x00\x00\x00\x01"), wf(0x8A, x(125)), wf(0x81, "a")}, want: want{text("a")}},
		{section: "5.4", name: "control frames between fragments", in: in{wf(0x01, "a"), wf(0x89, "1"), wf(0x00, "b"), wf(0x8A, "2"), wf(0x89, ""), wf(0x80, "c")}, want: want{text("abc")}},
		{section: "5.4", name: "ping within a rune", in: in{wf(0x01, "\xe2"), wf(0x89, "\x82"), wf(0x00, "\x82"), wf(0x89, "A"), wf(0x80, "\xac")}, want: want{text("€")}},

		// Closing.
		{section: "5.5.1", name: "close without a code", in: in{wf(0x88, "")}, code: CloseNoStatus, peer: true},
		{section: "5.5.1", name: "close with a reason", in: in{wfClose(1000, "going")}, code: 1000, peer: true, reason: "going"},
		{section: "5.5.1", name: "close with the longest reason", in: in{wfClose(1000, x(123))}, code: 1000, peer: true, reason: x(123)},
		{section: "5.5.1", name: "close with a UTF-8 reason", in: in{wfClose(4999, "κόσμε\x00")}, code: 4999, peer: true, reason: "κόσμε\x00"},
		{section: "5.5.1", name: "close with half a code", in: in{wf(0x88, "\x03")}, code: protocol},
		{section: "5.5.1", name: "close after a message", in: in{wf(0x81, "a"), wfClose(1001, "")}, want: want{text("a")}, code: 1001, peer: true},
		{section: "5.5.1", name: "close within a message", in: in{wf(0x01, "a"), wfClose(1000, "")}, code: 1000, peer: true, early: true},
		{section: "5.5.1", name: "close within a message after a rune's first byte", in: in{wf(0x01, "\xe2"), wf(0x00, ""), wfClose(4000, "")}, code: 4000, peer: true, early: true},
		{section: "5.5.1", name: "pong before the close frame", in: in{wf(0x89, "1"), wfClose(1000, "")}, code: 1000, peer: true},
		{section: "8.1", name: "bad reason", in: in{wfClose(1000, "a\xff")}, code: invalid},
		{section: "8.1", name: "reason ends within a rune", in: in{wfClose(1000, "\xe2\x82")}, code: invalid},
		{section: "8.1", name: "surrogate in the reason", in: in{wfClose(3000, "\xed\xa0\x80")}, code: invalid},
	}
	add := func(section, name string, r wireRule) {
		r.section, r.name = section, name
		rules = append(rules, r)
	}

	for _, n := range []int{0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537} {
		add("5.2", fmt.Sprintf("binary of %d bytes", n), wireRule{in: in{wf(0x82, x(n))}, want: want{bin(x(n))}})
		add("5.2", fmt.Sprintf("text of %d bytes", n), wireRule{in: in{wf(0x81, x(n)), wf(0x81, "b")}, want: want{text(x(n)), text("b")}})
	}
	for rsv := byte(0x10); rsv <= 0x70; rsv += 0x10 {
		for _, first := range []byte{0x81, 0x82, 0x01, 0x88, 0x89, 0x8A} {
			add("5.2", fmt.Sprintf("reserved bits %#x", rsv|first), wireRule{in: in{wfHead(rsv | first)}, code: protocol})
		}
		add("5.2", fmt.Sprintf("reserved bits %#x of a continuation", rsv), wireRule{in: in{wf(0x01, "a"), wfHead(0x80 | rsv)}, code: protocol})
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		add("5.2", fmt.Sprintf("reserved opcode %#x", opcode), wireRule{in: in{wfHead(0x80 | opcode)}, code: protocol})
		add("5.2", fmt.Sprintf("reserved opcode %#x, not final", opcode), wireRule{in: in{wfHead(opcode)}, code: protocol})
		add("5.2", fmt.Sprintf("reserved opcode %#x within a message", opcode), wireRule{in: in{wf(0x01, "a"), wfHead(0x80 | opcode)}, code: protocol})
	}
	for _, first := range []byte{0x81, 0x82, 0x01, 0x02} {
		add("5.4", fmt.Sprintf("message %#x within another", first), wireRule{in: in{wf(0x02, "a"), wfHead(first)}, code: protocol})
	}
	for _, opcode := range []byte{8, 9, 0xA} {
		add("5.5", fmt.Sprintf("fragment of control frame %#x", opcode), wireRule{in: in{wfHead(opcode)}, code: protocol})
		add("5.5", fmt.Sprintf("fragment of control frame %#x within a message", opcode), wireRule{in: in{wf(0x01, "a"), wfHead(opcode)}, code: protocol})
		for _, f := range []wireFrame{
			{p: x(126)}, {p: x(127)}, {p: x(65536)}, {claim: 1 << 63},
			// However few bytes come of it, more than 125 may follow what the
			// second byte says.
			{p: "Hello", form: 2}, {p: "\x03\xe8Hello", form: 8},
		} {
			f.first, f.head = 0x80|opcode, true
			add("5.5", fmt.Sprintf("length %d in %d bytes of control frame %#x", max(int(f.claim), len(f.p)), f.form, opcode), wireRule{in: in{f}, code: protocol})
		}
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535} {
		add("7.4", fmt.Sprintf("close code %d", code), wireRule{in: in{wfClose(code, "")}, code: protocol})
		add("7.4", fmt.Sprintf("close code %d and a reason", code), wireRule{in: in{wfClose(code, "a")}, code: protocol})
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add("7.4", fmt.Sprintf("close code %d", code), wireRule{in: in{wfClose(code, "why")}, code: CloseCode(code), peer: true, reason: "why"})
	}

	// UTF-8. Each of these is bad from its last byte on and not before.
	for _, bad := range []string{
		"\x80", "\xbf", "\xc0", "\xc1", "\xf5", "\xf8", "\xfe", "\xff", // never a first byte
		"\xe0\x80", "\xe0\x9f", "\xf0\x80", "\xf0\x8f", // overlong
		"\xed\xa0", "\xed\xaf", "\xed\xb0", "\xed\xbf", // surrogates
		"\xf4\x90", "\xf4\xbf", // above U+10FFFF
		"\xc3A", "\xc3\xc3", "\xe2A", "\xe2\x82A", "\xe2\x82\xe2", "\xf0\x9fA", "\xf0\x9f\x98A", "\xf0\x9f\x98\xf0", "\xf0\x9f\x98\xff",
	} {
		for _, good := range []string{"", "κόσμε", strings.Repeat("abc€", 2000)} {
			if len(good) > 1000 && bad != "\xff" && bad != "\xed\xa0" {
				continue
			}
			p := good + bad
			name := fmt.Sprintf("%d bytes, then %q", len(good), bad)
			add("8.1", name, wireRule{in: in{{first: 0x81, p: p, claim: uint64(len(p) + 5)}}, code: invalid})
			add("8.1", name+" at the end", wireRule{in: in{wf(0x81, p)}, code: invalid})
			add("5.6", name+" in binary", wireRule{in: in{wf(0x82, p)}, want: want{bin(p)}})
			for cut := max(len(good)-2, 0); cut < len(p); cut++ {
				add("8.1", fmt.Sprintf("%s, cut at %d", name, cut),
					wireRule{in: in{wf(0x01, p[:cut]), {first: 0x80, p: p[cut:], claim: uint64(len(p) + 5)}}, code: invalid})
			}
		}
	}
	for _, short := range []string{"\xc2", "\xdf", "\xe0", "\xe2\x82", "\xed\x9f", "\xf0\x9f\x98", "\xf4\x8f\xbf"} {
		for _, good := range []string{"", "a€", strings.Repeat("é", 5000)} {
			p := good + short
			name := fmt.Sprintf("%d bytes, then the end within %q", len(good), short)
			add("8.1", name, wireRule{in: in{wf(0x81, p)}, code: invalid})
			add("8.1", name+" in a fragment", wireRule{in: in{wf(0x01, good), wf(0x80, short)}, code: invalid})
			add("8.1", name+" before an empty fragment", wireRule{in: in{wf(0x01, p), wf(0x00, ""), wf(0x80, "")}, code: invalid})
			add("8.1", name+", not held against the next", wireRule{in: in{wf(0x02, p), wf(0x80, ""), wf(0x81, "a")}, want: want{bin(p), text("a")}})
		}
	}
	const good = "a\x00\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufeff\ufffd\uffff\U00010000\U0001f600\U0010ffff"
	for cut := range len(good) + 1 {
		add("8.1", fmt.Sprintf("valid text cut at %d", cut), wireRule{in: in{wf(0x01, good[:cut]), wf(0x80, good[cut:])}, want: want{text(good)}})
		add("8.1", fmt.Sprintf("valid text cut at %d and %d", cut, min(cut+1, len(good))),
			wireRule{in: in{wf(0x01, good[:cut]), wf(0x00, good[cut:][:min(1, len(good)-cut)]), wf(0x80, good[min(cut+1, len(good)):])}, want: want{text(good)}})
	}
	return rules
}

// TestRules holds a Conn in either role, and GetFrame on a bare stream, to the
// rules of RFC 6455.
func TestRules(t *testing.T) {
	for _, r := range wireRules() {
		t.Run(r.section+" "+r.name, func(t *testing.T) {
			for _, client := range []bool{false, true} {
				testRule(t, r, client, false)
				if r.code != 0 {
					testRule(t, r, client, true)
				}
			}
		})
	}
}

func testRule(t *testing.T, r wireRule, client, late bool) {
	var in []byte
	var pongs []wireFrame
	for _, f := range r.in {
		in = f.append(in, !client, late)
		if f.first == 0x89 && !f.head {
			pongs = append(pongs, wf(0x8A, f.p))
		}
	}
	if late { // data behind the end is not to be delivered, nor answered
		in = wf(0x81, "late").append(in, !client, false)
		in = wf(0x89, "late").append(in, !client, false)
	}
	opts := &Options{MaxMessage: r.max}

	// try reads in with read and checks what comes of it. An orderly end may be
	// io.EOF itself, or a *CloseError that is one.
	try := func(how string, simple bool, in io.Reader, read func(*wireStream) ([]wireMessage, error)) error {
		t.Helper()
		var out bytes.Buffer
		got, err := read(&wireStream{in, &out})
		how = fmt.Sprintf("client=%v late=%v %s", client, late, how)

		if !sameMessages(got, r.want, r.code != 0) {
			t.Fatalf("%s: messages %q, want %q", how, describe(got), describe(r.want))
		}
		orderly := r.peer && !r.early && (r.code == 1000 || r.code == 1001 || r.code == 1005)
		var ce *CloseError
		switch {
		case r.code == 0:
			if err != errStall {
				t.Fatalf("%s: error %v, want none", how, err)
			}
		case orderly && simple:
			if err != io.EOF {
				t.Fatalf("%s: error %v, want io.EOF", how, err)
			}
		case !errors.As(err, &ce) || err != error(ce):
			t.Fatalf("%s: error %v, want a *CloseError", how, err)
		case ce.Code != r.code || (ce.by == byFailure) == r.peer || r.peer && ce.Reason != r.reason:
			t.Fatalf("%s: error %v, want code %d, reason %q", how, err, r.code, r.reason)
		case errors.Is(err, io.EOF) != orderly:
			t.Fatalf("%s: error %v: errors.Is(err, io.EOF) = %v", how, err, !orderly)
		case errors.Is(err, io.ErrUnexpectedEOF) != r.early:
			t.Fatalf("%s: error %v: errors.Is(err, io.ErrUnexpectedEOF) = %v", how, err, !r.early)
		}

		sent, perr := parseWire(out.Bytes(), client)
		want := slices.Clone(pongs)
		if r.code == CloseNoStatus {
			want = append(want, wf(0x88, ""))
		} else if r.code != 0 {
			want = append(want, wfClose(int(r.code), ""))
			if n := len(sent) - 1; n >= 0 && sent[n].first == 0x88 && len(sent[n].p) > 2 && !r.peer {
				if reason := sent[n].p[2:]; len(reason) > 123 || !utf8.ValidString(reason) {
					t.Fatalf("%s: bad reason %q", how, reason)
				}
				sent[n].p = sent[n].p[:2]
			}
		}
		if perr != nil || !slices.Equal(sent, want) {
			t.Fatalf("%s: the peer was sent %+v (%v), want %+v", how, sent, perr, want)
		}
		return err
	}
	stream := func(parts ...[]byte) io.Reader {
		var all []io.Reader
		for _, p := range parts {
			all = append(all, bytes.NewReader(p))
		}
		return io.MultiReader(append(all, iotest.ErrReader(errStall))...)
	}

	for _, chunk := range wireChunks {
		if len(in) > 10_000 && chunk.name == "one byte" {
			continue
		}
		for i, read := range wireReads {
			var c *Conn
			err := try(chunk.name+" "+read.name, read.name == "Read", chunk.of(stream(in)), func(w *wireStream) ([]wireMessage, error) {
				w.Reader = &wireOnce{Reader: w.Reader}
				c = newConn(w, opts, client)
				return read.all(c)
			})
			switch {
			case r.code == 0 || chunk.name != "whole":
			case late && i == 0:
				testSticky(t, c, err, 200)
			default:
				testSticky(t, c, err, 5)
			}
		}
		if r.max == 0 && !client {
			try(chunk.name+" bare GetFrame", true, chunk.of(stream(in)), func(w *wireStream) ([]wireMessage, error) {
				var all []byte
				for {
					p, err := GetFrame(w)
					if all = append(all, p...); err != nil {
						return []wireMessage{{0, string(all)}}, err
					}
				}
			})
		}
	}
	if len(in) > 64 {
		return
	}
	for cut := 1; cut < len(in); cut++ {
		try(fmt.Sprint("cut at ", cut), false, stream(in[:cut], in[cut:]), func(w *wireStream) ([]wireMessage, error) {
			return wireReads[0].all(newConn(w, opts, client))
		})
	}
}

// testSticky calls every method of a Conn that the peer has ended, some as
// often as it takes to be sure: each returns the same error for ever, and none
// touches the transport.
func testSticky(t *testing.T, c *Conn, end error, times int) {
	t.Helper()
	c.mu.Lock()
	werr, rerr := c.werr, c.rerr
	c.rw = wireStream{&wireOnce{ended: true}, wireRefusal{}}
	c.mu.Unlock()
	if werr == nil || werr != rerr || end != io.EOF && end != rerr {
		t.Errorf("the errors differ: returned %v, then %v for reading and %v for writing", end, rerr, werr)
		return
	}
	simple := rerr
	if errors.Is(simple, io.EOF) {
		simple = io.EOF
	}
	dst := make([]byte, 3, 10)
	p := make([]byte, 10)
	for range times {
		t1, m, err1 := c.ReadMessage()
		t2, d, err2 := c.AppendMessage(dst)
		t3, r, err3 := c.NextReader()
		n4, err4 := c.Read(p)
		err5 := c.WriteMessage(Text, p)
		n6, err6 := c.Write(p)
		w, err7 := c.NextWriter(Text)
		err8 := c.Ping(context.Background())
		f, err9 := GetFrame(c)
		err10 := PutFrame(c, p)
		for i, err := range []error{err1, err2, err3, err5, err6, err7, err8, err10} {
			if err != rerr {
				t.Fatalf("call %d returned %v, want %v", i, err, rerr)
			}
		}
		if err4 != simple || err9 != simple {
			t.Fatalf("Read returned %v, GetFrame %v, want %v", err4, err9, simple)
		}
		if t1|t2|t3 != 0 || m != nil || len(d) != 3 || r != nil || n4|n6 != 0 || w != nil || f != nil {
			t.Fatal("a call returned something with an error")
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, _, err := c.ReadMessage(); err != rerr {
		t.Errorf("after Close: %v, want %v", err, rerr)
	}
}

// wireRefusal is a writer that nothing may be written to.
type wireRefusal struct{}

func (wireRefusal) Write(p []byte) (int, error) { panic(fmt.Sprintf("% x was sent", p)) }

// TestStalledPeer shows on a transport that blocks that a fault is noticed, and
// the close frame sent, while the rest of the frame is still to come.
func TestStalledPeer(t *testing.T) {
	for _, f := range []wireFrame{
		{first: 0x81, p: "a\xff", claim: 1000},
		{first: 0x81, p: strings.Repeat("a", 10_000) + "\xc0", claim: 1 << 20},
		{first: 0x82, claim: 1 << 40},
		wfHead(0xC1),
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			c := newConn(a, nil, false)
			defer c.CloseNow()
			go b.Write(f.append(nil, true, false))
			go c.ReadMessage()
			head := make([]byte, 2)
			// If the Conn goes on reading, synctest finds the deadlock.
			if _, err := io.ReadFull(b, head); err != nil || head[0] != 0x88 {
				t.Errorf("%x with %d bytes: received % x, %v", f.first, len(f.p), head, err)
			}
		})
	}
}

// TestExamples decodes the examples of RFC 6455, section 5.7, as they stand there.
func TestExamples(t *testing.T) {
	for _, tt := range []struct {
		in     string
		client bool
		want   wireMessage
		sent   string
	}{
		{"\x81\x05\x48\x65\x6c\x6c\x6f", true, wireMessage{Text, "Hello"}, ""},
		{"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", false, wireMessage{Text, "Hello"}, ""},
		{"\x01\x03\x48\x65\x6c\x80\x02\x6c\x6f", true, wireMessage{Text, "Hello"}, ""},
		{"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x82\x80\x00\x00\x00\x00", false, wireMessage{Binary, ""}, "\x8a\x05Hello"},
		{"\x82\x7e\x01\x00" + strings.Repeat("h", 256), true, wireMessage{Binary, strings.Repeat("h", 256)}, ""},
		{"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("h", 65536), true, wireMessage{Binary, strings.Repeat("h", 65536)}, ""},
	} {
		var out bytes.Buffer
		c := newConn(wireStream{strings.NewReader(tt.in), &out}, nil, tt.client)
		got, err := wireReads[0].all(c)
		if err != io.EOF || !slices.Equal(got, []wireMessage{tt.want}) || out.String() != tt.sent {
			t.Errorf("%.20q: got %q, %v, sent %q", tt.in, describe(got), err, out.String())
		}
	}
}

// TestExactReads shows that GetFrame takes no byte behind its message from a
// bare stream, however the stream delivers, and keeps nothing back.
func TestExactReads(t *testing.T) {
	messages := [][]wireFrame{
		{wf(0x81, "a")},
		{wf(0x81, "")},
		{wf(0x89, "1"), wf(0x01, "\xe2"), wf(0x89, "2"), wf(0x00, ""), wf(0x80, "\x82\xac")},
		{wf(0x82, strings.Repeat("b", 126))},
		{{first: 0x82, p: strings.Repeat("c", 70_000)}},
		{{first: 0x82, p: "d", form: 8}},
	}
	for _, chunk := range wireChunks {
		if chunk.name == "data with error" {
			continue // reads ahead itself
		}
		var in []byte
		var ends []int
		for _, m := range messages {
			for _, f := range m {
				in = f.append(in, true, false)
			}
			ends = append(ends, len(in))
		}
		rest := bytes.NewReader(in)
		for i, m := range messages {
			want := ""
			for _, f := range m {
				if f.first != 0x89 {
					want += f.p
				}
			}
			// A new wrapper each time: GetFrame is to ask for no more than it needs.
			p, err := GetFrame(wireStream{chunk.of(rest), io.Discard})
			if err != nil || string(p) != want || p == nil {
				t.Fatalf("%s: message %d is %.20q, %v", chunk.name, i, p, err)
			}
			if read := len(in) - rest.Len(); read != ends[i] {
				t.Fatalf("%s: message %d ends at %d, %d bytes were read", chunk.name, i, ends[i], read)
			}
		}
		if p, err := GetFrame(wireStream{chunk.of(rest), io.Discard}); p != nil || err != io.EOF {
			t.Errorf("%s: at the end: %q, %v", chunk.name, p, err)
		}
	}
}

// TestTruncated cuts a stream at every byte: between two messages that is
// io.EOF, and anywhere else io.ErrUnexpectedEOF.
func TestTruncated(t *testing.T) {
	frame := func(f wireFrame) string { return string(f.append(nil, true, false)) }
	type unit struct {
		b        string
		messages int // that end with b; -1: b ends within one
	}
	for _, units := range [][]unit{
		{
			{frame(wf(0x81, "a")), 1}, {frame(wf(0x82, "")), 1}, {frame(wf(0x89, "ping")), 0},
			{frame(wf(0x01, "\xe2")), -1}, {frame(wf(0x8A, "")), -1}, {frame(wf(0x80, "\x82\xac")), 1},
			{frame(wf(0x82, strings.Repeat("b", 130))), 1},
		},
		{
			{"\x00a\xff", 1}, {"\x00\xff", 1}, {"\x01b\xff", 0}, {"\x80\x03abc", 0}, {"\x80\x00", 0},
			{"\x80\x81\x00" + strings.Repeat("a", 128), 0}, {"\x00\xe2\x82\xac\xff", 1},
		},
	} {
		var in string
		messages := map[int]int{0: 0} // before a cut that is between two
		n, hixie := 0, units[0].b[0] == 0
		for _, u := range units {
			if in += u.b; u.messages >= 0 {
				n += u.messages
				messages[len(in)] = n
			}
		}
		for cut := range len(in) + 1 {
			n, between := messages[cut]
			want := io.ErrUnexpectedEOF
			if between {
				want = io.EOF
			}
			for _, chunk := range wireChunks {
				for _, read := range wireReads {
					c := newConn(wireStream{&wireOnce{Reader: chunk.of(strings.NewReader(in[:cut]))}, io.Discard}, nil, false)
					c.dec.hixie = hixie
					got, err := read.all(c)
					if err != want || between && read.name != "Read" && len(got) != n {
						t.Fatalf("hixie=%v cut at %d, %s %s: %d messages, %v, want %v", hixie, cut, chunk.name, read.name, len(got), err, want)
					}
				}
				var err error
				for w := (wireStream{chunk.of(strings.NewReader(in[:cut])), io.Discard}); err == nil && !hixie; {
					_, err = GetFrame(w)
				}
				if err != want && !hixie {
					t.Fatalf("cut at %d, %s: GetFrame returned %v, want %v", cut, chunk.name, err, want)
				}
			}
		}
	}
}

// wireAllocated returns how many bytes f allocates.
func wireAllocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A wireLoop is an endless stream that repeats b.
type wireLoop struct {
	b    []byte
	i    int
	read int // bytes in all
}

func (w *wireLoop) Read(p []byte) (n int, err error) {
	for n < len(p) {
		k := copy(p[n:], w.b[w.i:])
		w.i = (w.i + k) % len(w.b)
		n += k
	}
	w.read += n
	return n, nil
}

// TestFragments shows that fragments which cost a peer nothing are counted, and
// cost this side nothing.
func TestFragments(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, first := range []byte{opText, opBinary} {
			begin := wf(first, "").append(nil, !client, false)
			empty := wf(0x00, "").append(nil, !client, false)
			end := wf(0x80, "z").append(nil, !client, false)

			in := bytes.Repeat(empty, maxFragments-2)
			in = slices.Concat(begin, in, end, begin, in, empty) // the second message has its last fragment to come
			for _, late := range [][]byte{nil, end, empty} {
				var out bytes.Buffer
				stream := io.MultiReader(bytes.NewReader(in), bytes.NewReader(late), iotest.ErrReader(errStall))
				c := newConn(wireStream{stream, &out}, nil, client)
				got, err := wireReads[0].all(c)
				if !slices.Equal(got, []wireMessage{{MessageType(first), "z"}}) {
					t.Fatalf("16 Ki fragments: %q, %v", describe(got), err)
				}
				var ce *CloseError
				if late == nil {
					if err != errStall || out.Len() > 0 {
						t.Errorf("a second message of 16 Ki fragments: %v", err)
					}
				} else if sent, _ := parseWire(out.Bytes(), client); !errors.As(err, &ce) || ce.Code != ClosePolicyViolation ||
					len(sent) != 1 || !strings.HasPrefix(sent[0].p, "\x03\xf0") {
					t.Errorf("one fragment more: %v, sent %+v", err, sent)
				}
			}

			for _, read := range wireReads {
				endless := &wireLoop{b: empty}
				stream := io.MultiReader(bytes.NewReader(begin), io.LimitReader(endless, int64(100_000*len(empty))))
				var err error
				n := wireAllocated(func() {
					_, err = read.all(newConn(wireStream{stream, io.Discard}, nil, client))
				})
				var ce *CloseError
				if !errors.As(err, &ce) || ce.Code != ClosePolicyViolation {
					t.Errorf("%s: 100,000 empty fragments: %v", read.name, err)
				}
				if limit := (maxFragments+2)*len(empty) + inputSize; n > 64<<10 || endless.read > limit {
					t.Errorf("%s: %d bytes allocated, %d read", read.name, n, endless.read)
				}
			}
		}
	}
}

// TestFragmentLimit shows how many fragments a message may have, which depends
// on how large they are.
func TestFragmentLimit(t *testing.T) {
	for size, want := range map[int]int{0: 16 << 10, 1: 16 << 10, 63: 16 << 10, 64: 100_000, 125: 100_000} {
		d := decoder{limit: math.MaxInt64}
		b := make([]byte, 2+size)
		b[0], b[1] = opBinary, byte(size)
		n := 0
		var err error
		for ; err == nil && n < 100_000; b[0] = opContinuation {
			if _, _, err = d.next(b); err == nil {
				n++
			}
		}
		if n != want {
			t.Errorf("a message may have %d fragments of %d bytes, want %d: %v", n, size, want, err)
		}
	}
}

// TestClaims shows that memory grows with what arrives, not with what a peer
// announces.
func TestClaims(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, f := range []wireFrame{
			{first: 0x82, claim: 1 << 20},
			{first: 0x82, p: "0123456789", claim: 1<<63 - 1},
			{first: 0x81, p: "0123456789", claim: 1 << 40},
			{first: 0x82, p: strings.Repeat("a", 50_000), claim: 1 << 62},
		} {
			for _, read := range wireReads {
				in := f.append(nil, !client, false)
				var got []wireMessage
				var err error
				n := wireAllocated(func() {
					c := newConn(wireStream{bytes.NewReader(in), io.Discard}, &Options{MaxMessage: -1}, client)
					got, err = read.all(c)
				})
				if err != io.ErrUnexpectedEOF {
					t.Errorf("%s of %d bytes: %v", read.name, f.claim, err)
				}
				if read.name == "Read" && got[0].p != f.p {
					t.Errorf("Read of %d bytes streamed %q", f.claim, describe(got))
				}
				if n > 64<<10+8*uint64(len(f.p)) {
					t.Errorf("%s of %d bytes: %d allocated for %d", read.name, f.claim, n, len(f.p))
				}
			}
		}
	}
}

// TestHeader encodes and parses headers at all the bounds of their forms.
func TestHeader(t *testing.T) {
	lengths := []int{0, 1, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, math.MaxInt >> 40, math.MaxInt >> 7, math.MaxInt - 1, math.MaxInt}
	sizes := func(n int) int {
		switch {
		case n < 126:
			return 2
		case n < 65536:
			return 4
		}
		return 10
	}
	for _, n := range lengths {
		for first := range 256 {
			for _, masked := range []bool{false, true} {
				b := appendHeader([]byte("dst"), byte(first), masked, n)
				b, ok := bytes.CutPrefix(b, []byte("dst"))
				want := header{fin: first >= 0x80, rsv: byte(first) & 0x70, opcode: byte(first) & 0x0F, masked: masked, length: uint64(n)}
				size := sizes(n)
				if !ok || len(b) != size {
					t.Fatalf("a header for %d bytes has %d, want %d", n, len(b), size)
				}
				if masked {
					b = append(b, "\x01\x02\x03\x04"...)
					want.key = 0x04030201
					size += 4
				}
				if h, got := parseHeader(append(b, 0xAA)); h != want || got != size || size > maxHeader {
					t.Fatalf("% x: parsed %+v of %d bytes, want %+v", b, h, got, want)
				}
				// A prefix tells no more than it holds.
				for cut := range b {
					h, got := parseHeader(b[:cut])
					if cut < 2 {
						if h != (header{}) || got != 2 {
							t.Fatalf("% x: parsed %+v, size %d", b[:cut], h, got)
						}
						continue
					}
					part := want
					part.key, part.length = 0, min(part.length, uint64(b[1]&0x7F))
					if n > 65535 {
						part.length = 127
					} else if n > 125 {
						part.length = 126
					}
					if h != part || got != size {
						t.Fatalf("% x: parsed %+v, size %d, want %+v, size %d", b[:cut], h, got, part, size)
					}
				}
			}
		}
	}
	for in, want := range map[string]uint64{
		"\x82\x7e\x00\x00":                         0,
		"\x82\x7e\x00\x7d":                         125,
		"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05": 5,
		"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff": 65535,
		"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xfe": math.MaxUint64 - 1,
	} {
		if h, size := parseHeader([]byte(in)); h.length != want || size != len(in) {
			t.Errorf("%q: length %d in %d bytes", in, h.length, size)
		}
	}
}

// TestHoldsFrame shows that no start of a frame is taken for the whole.
func TestHoldsFrame(t *testing.T) {
	for _, masked := range []bool{false, true} {
		d := decoder{masked: masked}
		for _, n := range []int{0, 1, 125, 126, 65536} {
			b := wf(0x82, strings.Repeat("a", n)).append(nil, masked, false)
			for cut := 0; cut < len(b); cut += 1 + cut/20 {
				if d.holdsFrame(b[:cut]) {
					t.Errorf("%d bytes, masked=%v: held by the first %d of %d", n, masked, cut, len(b))
				}
			}
			if d.holdsFrame(b[:len(b)-1]) || !d.holdsFrame(b) || !d.holdsFrame(append(b, 0x81)) {
				t.Errorf("%d bytes, masked=%v: not held as it should be", n, masked)
			}
		}
		if b := (wireFrame{first: 0x82, claim: math.MaxUint64}).append(nil, masked, false); d.holdsFrame(b) {
			t.Errorf("masked=%v: the largest length is held", masked)
		}
	}
	d := decoder{hixie: true}
	if d.holdsFrame(nil) || d.holdsFrame([]byte("\x00a")) || !d.holdsFrame([]byte("\x00a\xff")) || !d.holdsFrame([]byte("\x00\xff\x00")) {
		t.Error("a hixie-76 text is not held as it should be")
	}
}

// TestAppendFrame parses what appendFrame has encoded, and finds no masking key
// twice.
func TestAppendFrame(t *testing.T) {
	keys := map[string]bool{}
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 100_000} {
		p := make([]byte, n)
		rand.NewChaCha8([32]byte{}).Read(p)
		for _, masked := range []bool{false, true} {
			b := appendFrame([]byte("dst"), finBit|opBinary, p, masked)
			got, err := parseWire(b[3:], masked)
			if err != nil || string(b[:3]) != "dst" || !slices.Equal(got, []wireFrame{wf(0x82, string(p))}) {
				t.Errorf("%d bytes, masked=%v: %v", n, masked, err)
			}
			if masked {
				keys[string(b[len(b)-n-4:len(b)-n])] = true
			}
		}
	}
	if len(keys) < 7 { // of 8: one may be drawn twice, once in 150 million runs
		t.Errorf("8 frames have %d masking keys", len(keys))
	}
}

// TestMask compares mask with the loop of RFC 6455, section 5.3, at every
// alignment and length, as a whole and cut in two.
func TestMask(t *testing.T) {
	naive := func(b []byte, key uint32, at int) {
		for i := range b {
			b[i] ^= byte(key >> (8 * ((at + i) % 4)))
		}
	}
	buf := make([]byte, 400)
	want := make([]byte, 400)
	for _, key := range []uint32{0x3d21fa37, 0, 0xFFFFFFFF, 0x00000080} {
		for align := range 17 {
			for n := range 301 {
				for i := range buf {
					buf[i] = byte(i * 7)
				}
				copy(want, buf)
				naive(want[align:align+n], key, 0)
				next := mask(buf[align:align+n], key)
				if !bytes.Equal(buf, want) { // the bytes around it, too
					t.Fatalf("key %08x, %d bytes at %d: got % x", key, n, align, buf[align:align+n])
				}
				if turned := bits.RotateLeft32(key, -8*(n%4)); next != turned {
					t.Fatalf("key %08x, %d bytes: next key %08x, want %08x", key, n, next, turned)
				}
			}
		}
	}
	const key = 0x3d21fa37
	for n := range 301 {
		p := buf[n%17:][:n]
		clear(want)
		naive(want[:n], key, 0)
		for cut := range n + 1 {
			clear(p)
			if mask(p[cut:], mask(p[:cut], key)); !bytes.Equal(p, want[:n]) {
				t.Fatalf("%d bytes cut at %d: got % x", n, cut, p)
			}
		}
	}
}

// runePrefixes returns every start of the encoding of a rune that is not the
// whole of it.
func runePrefixes() map[string]bool {
	all := map[string]bool{}
	for r := range rune(utf8.MaxRune + 1) {
		if s := string(r); r < utf8.RuneSelf || s == "\ufffd" && r != utf8.RuneError {
			continue // a surrogate
		} else {
			for n := 1; n < len(s); n++ {
				all[s[:n]] = true
			}
		}
	}
	return all
}

// TestUTF8Checker cuts all strings of up to four bytes, out of those at the
// bounds of the table in RFC 3629, section 4, in all ways. A string is refused at
// the first byte that leaves no way to go on, and never before.
func TestUTF8Checker(t *testing.T) {
	const alphabet = "\x00A\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
	prefixes := runePrefixes()
	viable := func(s []byte) bool {
		for len(s) > 0 {
			_, n := utf8.DecodeRune(s)
			if !utf8.Valid(s[:n]) {
				return prefixes[string(s)]
			}
			s = s[n:]
		}
		return true
	}
	for _, prefix := range []string{"", "a", "€😀", strings.Repeat("x", 70)} {
		// states[i] are those of checkers that have seen i bytes behind the
		// prefix, one for each way to cut these; but states[0] has seen nothing.
		var try func(s []byte, states [][]utf8Checker)
		try = func(s []byte, states [][]utf8Checker) {
			for _, b := range []byte(alphabet) {
				s := append(s, b)
				want, whole := viable(s), utf8.Valid(s)
				var next []utf8Checker
				for i := range states {
					cut := i + len(prefix)
					if i == 0 {
						cut = 0
					}
					for _, u := range states[i] {
						if got := u.check(s[cut:]); got != want {
							t.Fatalf("%q behind %q: %v, want %v", s[cut:], s[:cut], got, want)
						}
						if want && u.whole() != whole {
							t.Fatalf("%q behind %q: whole is %v", s[cut:], s[:cut], !whole)
						}
						next = append(next, u)
					}
				}
				if want && len(states) < 4 {
					try(s, append(states[:len(states):len(states)], next))
				}
			}
		}
		try([]byte(prefix), [][]utf8Checker{{{}}})
	}
	var u utf8Checker
	for _, p := range []string{"a\xe2", "", "\x82", "", "\xac"} {
		if whole := p == "\xac"; !u.check([]byte(p)) || u.whole() != whole {
			t.Errorf("after %q: whole is %v", p, u.whole())
		}
	}
}

// A hixieRule is a wireRule for the frames of hixie-76 (draft section 4.2). Its
// max is 1000 unless it says otherwise.
type hixieRule struct {
	name string
	in   string
	max  int64
	want []string
	code CloseCode
	peer bool
}

func hixieRules() []hixieRule {
	x := func(n int) string { return strings.Repeat("x", n) }
	// base128 encodes a length in as many bytes as it takes, and more zeros before.
	base128 := func(n uint64, zeros int) string {
		b := []byte{byte(n & 0x7F)}
		for n >>= 7; n > 0; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		for range zeros {
			b = append(b, 0x80)
		}
		slices.Reverse(b)
		return string(b)
	}
	const invalid, tooBig = CloseInvalidPayload, CloseMessageTooBig

	rules := []hixieRule{
		{name: "text", in: "\x00Hello\xff", want: []string{"Hello"}},
		{name: "empty text", in: "\x00\xff\x00\xff", want: []string{"", ""}},
		{name: "texts", in: "\x00a\xff\x00\xff\x00κόσμε\xff", want: []string{"a", "", "κόσμε"}},
		{name: "NUL within a text", in: "\x00a\x00\x00b\xff", want: []string{"a\x00\x00b"}},
		{name: "text at the limit", in: "\x00" + x(1000) + "\xff\x00" + x(1000) + "\xff", want: []string{x(1000), x(1000)}},
		{name: "text over the limit", in: "\x00" + x(1001), code: tooBig},
		{name: "long text", in: "\x00" + strings.Repeat("€", 4000) + "\xff", max: 12_000, want: []string{strings.Repeat("€", 4000)}},
		{name: "long text over the limit", in: "\x00" + strings.Repeat("€", 4000), max: 11_999, code: tooBig},
		{name: "text without an end", in: "\x00"},

		{name: "type 01 at the limit", in: "\x01" + x(1000) + "\xff\x00a\xff", want: []string{"a"}},
		{name: "type 01 at the limit after a text", in: "\x00" + x(1000) + "\xff\x01" + x(1000) + "\xff\x00a\xff", want: []string{x(1000), "a"}},
		{name: "type 01 over the limit", in: "\x00a\xff\x01" + x(1001), want: []string{"a"}, code: tooBig},
		{name: "block at the limit", in: "\x80" + base128(1000, 0) + x(1000) + "\x00a\xff", want: []string{"a"}},
		{name: "block over the limit", in: "\x80" + base128(1001, 0)[:2], code: tooBig},
		{name: "block with zeros before its length", in: "\x80" + base128(3, 5) + "abc\x00a\xff", want: []string{"a"}},
		{name: "block of 16 KiB", in: "\x90" + base128(1<<14, 0) + strings.Repeat("\x00\xff", 1<<13) + "\x00a\xff", max: 1 << 14, want: []string{"a"}},
		{name: "block of 2^31 bytes", in: "\x80" + base128(1<<31, 0)[:4], code: tooBig},
		{name: "block of 2^63-1 bytes, no limit", in: "\x80" + base128(1<<63-1, 0) + "\x00a\xff", max: -1},
		{name: "block of 2^63 bytes, no limit", in: "\x80" + base128(1<<63, 0), max: -1, code: tooBig},
		{name: "block of 2^64 bytes, no limit", in: "\x80\x82" + strings.Repeat("\x80", 8) + "\x00", max: -1, code: tooBig},
		{name: "block of 2^69 bytes, no limit", in: "\x80\xc0" + strings.Repeat("\x80", 8) + "\x00", max: -1, code: tooBig},
		{name: "close frame of 2^64 bytes, no limit", in: "\xff\x82" + strings.Repeat("\x80", 8) + "\x00", max: -1, code: tooBig},
		{name: "endless length", in: "\x80" + strings.Repeat("\x80", 100), code: tooBig},
		{name: "endless length, no limit", in: "\xfe" + strings.Repeat("\xff", 100), max: -1, code: tooBig},
		{name: "endless length of a close frame", in: "\xff" + strings.Repeat("\x80", 100), code: tooBig},

		{name: "close", in: "\xff\x00", code: CloseNoStatus, peer: true},
		{name: "close after a text", in: "\x00a\xff\xff\x00", want: []string{"a"}, code: CloseNoStatus, peer: true},
		{name: "close after a discarded frame", in: "\x7fa\xff\xff\x00", code: CloseNoStatus, peer: true},
		{name: "close with its length in two bytes", in: "\xff\x80\x00", code: CloseNoStatus, peer: true},
		{name: "half a close", in: "\xff"},
		{name: "type FF with a length", in: "\xff\x03\x00b\xff\x00a\xff", want: []string{"a"}},
		{name: "type FF with a length of two bytes", in: "\xff\x81\x00" + x(128) + "\x00a\xff", want: []string{"a"}},

		{name: "ends within a rune", in: "\x00\xe2\x82\xff", code: invalid},
		{name: "ends within a rune, not held against the next", in: "\x00\xe2\x82\xac\xff\x00\xac\xff", want: []string{"€"}, code: invalid},
		{name: "the first fault counts, of a rune", in: "\x00\x80" + x(1001), code: invalid},
		{name: "the first fault counts, of a size", in: "\x00" + x(1001) + "\x80", code: tooBig},
		{name: "over the limit within a rune", in: "\x00" + x(999) + "\xe2\x82", code: tooBig},
	}
	for first := 0x01; first <= 0x7F; first++ {
		rules = append(rules, hixieRule{name: fmt.Sprintf("type %02X", first), in: string([]byte{byte(first)}) +
			"\x00\x80\xc0\xfe\xff" + string([]byte{byte(first)}) + "\xff\x00a\xff", want: []string{"a"}})
	}
	for first := 0x80; first <= 0xFE; first++ {
		f := string([]byte{byte(first)})
		rules = append(rules, hixieRule{name: fmt.Sprintf("type %02X", first), in: f + "\x00\x00a\xff" + f + "\x03\xff\x00\xff\x00b\xff" +
			f + "\x81\x02" + strings.Repeat("\xff\x00", 65) + "\x00c\xff", want: []string{"a", "b", "c"}})
	}
	for _, bad := range []string{"\x80", "\xc0", "\xfe", "\xe0\x9f", "\xed\xa0", "\xf4\x90", "\xf5", "\xe2\x82A"} {
		for _, good := range []string{"", "κόσμε", x(900)} {
			rules = append(rules, hixieRule{name: fmt.Sprintf("%d bytes, then %q", len(good), bad), in: "\x00" + good + bad, code: invalid})
		}
	}
	return rules
}

// TestHixieRules holds a Conn to the rules of hixie-76.
func TestHixieRules(t *testing.T) {
	for _, r := range hixieRules() {
		t.Run(r.name, func(t *testing.T) {
			ins := []string{r.in}
			if r.code != 0 {
				ins = append(ins, r.in+"\xff\x00late\xff\xff\x00")
			}
			for _, in := range ins {
				for _, chunk := range wireChunks {
					for _, read := range wireReads {
						testHixieRule(t, r, chunk.of(io.MultiReader(strings.NewReader(in), iotest.ErrReader(errStall))), chunk.name+" "+read.name, read.all)
					}
				}
				for cut := 1; cut < len(in) && len(in) < 200; cut++ {
					stream := io.MultiReader(strings.NewReader(in[:cut]), strings.NewReader(in[cut:]), iotest.ErrReader(errStall))
					testHixieRule(t, r, stream, fmt.Sprint("cut at ", cut), wireReads[0].all)
				}
			}
		})
	}
}

func testHixieRule(t *testing.T, r hixieRule, in io.Reader, how string, read func(*Conn) ([]wireMessage, error)) {
	t.Helper()
	var out bytes.Buffer
	w := &wireCloser{wireStream: wireStream{in, &out}}
	c := newConn(w, &Options{MaxMessage: cmp.Or(r.max, 1000)}, false)
	defer c.CloseNow()
	c.dec.hixie = true
	got, err := read(c)

	var want []wireMessage
	for _, p := range r.want {
		want = append(want, wireMessage{Text, p})
	}
	if !sameMessages(got, want, r.code != 0) {
		t.Fatalf("%s: messages %q, want %q", how, describe(got), r.want)
	}
	if r.code == 0 {
		if err != errStall || out.Len() > 0 || w.closed > 0 {
			t.Fatalf("%s: error %v, sent % x, closed %d times", how, err, out.Bytes(), w.closed)
		}
		return
	}
	_, _, later := c.ReadMessage()
	ce, ok := later.(*CloseError)
	if err != later && (!r.peer || err != io.EOF) || !ok || ce.Code != r.code || errors.Is(later, io.EOF) != r.peer {
		t.Fatalf("%s: error %v, then %v, want code %d", how, err, later, r.code)
	}
	// A server that has been asked to close does so; otherwise the peer is left
	// time to read.
	if closed := w.closed == 1; closed != r.peer {
		t.Fatalf("%s: closed %d times", how, w.closed)
	}
	for range 100 {
		if _, _, err := c.ReadMessage(); err != later {
			t.Fatalf("%s: ReadMessage returned %v, then %v", how, later, err)
		}
		if err := c.WriteMessage(Text, nil); err != later {
			t.Fatalf("%s: WriteMessage returned %v, want %v", how, err, later)
		}
	}
	if err := c.Close(); err != nil || w.closed != 1 || out.String() != "\xff\x00" {
		t.Fatalf("%s: Close returned %v; sent % x, closed %d times", how, err, out.Bytes(), w.closed)
	}
}

// TestHixieWrites shows what a Conn sends with hixie-76, and what it refuses to.
func TestHixieWrites(t *testing.T) {
	for _, client := range []bool{false, true} {
		var out bytes.Buffer
		w := &wireCloser{wireStream: wireStream{strings.NewReader("\x00late\xff\xff\x00\x00later\xff"), &out}}
		c := newConn(w, nil, client)
		defer c.CloseNow()
		c.dec.hixie = true
		// sent returns what has been sent since the last call.
		sent := func() string {
			defer out.Reset()
			return out.String()
		}

		long := strings.Repeat("€", 100_000)
		for _, p := range []string{"", "a", "κόσμε\x00", long[:directSize/3*3], long} {
			if err := c.WriteMessage(Text, []byte(p)); err != nil || sent() != "\x00"+p+"\xff" {
				t.Errorf("WriteMessage of %d bytes: %v", len(p), err)
			}
			if err := PutFrame(c, []byte(p)); err != nil || sent() != "\x00"+p+"\xff" {
				t.Errorf("PutFrame of %d bytes: %v", len(p), err)
			}
			if n, err := c.Write([]byte(p)); n != len(p) || err != nil || sent() != "\x00"+p+"\xff" {
				t.Errorf("Write of %d bytes: %d, %v", len(p), n, err)
			}
		}

		for _, parts := range [][]string{{}, {""}, {"a"}, {"a", "", "b"}, {"\xe2", "\x82", "\xac"}, {"", long, "c"}, {long, long}} {
			m, err := c.NextWriter(Text)
			if err != nil {
				t.Fatal(err)
			}
			whole := "\x00"
			for _, p := range parts {
				if n, err := m.Write([]byte(p)); n != len(p) || err != nil {
					t.Errorf("Write of a part: %d, %v", n, err)
				}
				whole += p
			}
			if err := m.Close(); err != nil || sent() != whole+"\xff" {
				t.Errorf("parts of %d bytes: %v", len(whole), err)
			}
		}

		if err := c.WriteMessage(Binary, []byte("a")); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("WriteMessage of binary: %v", err)
		}
		if m, err := c.NextWriter(Binary); m != nil || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("NextWriter of binary: %v", err)
		}
		if err := c.Ping(context.Background()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Ping: %v", err)
		}
		for _, bad := range []string{"\xff", "a\xff\x00b", "\xc0\x80", "\xe2\x82", "\xed\xa0\x80"} {
			n, err := c.Write([]byte(bad))
			if err1, err2 := c.WriteMessage(Text, []byte(bad)), PutFrame(c, []byte(bad)); n != 0 || err != errNotUTF8 || err1 != err || err2 != err {
				t.Errorf("%q: %d, %v, %v, %v", bad, n, err, err1, err2)
			}
		}
		if s := sent(); s != "" {
			t.Errorf("what was refused sent %q", s)
		}
		m, _ := c.NextWriter(Text)
		m.Write([]byte("a"))
		if n, err := m.Write([]byte("\xffb")); n != 0 || err != errNotUTF8 {
			t.Errorf("bad part: %d, %v", n, err)
		}
		if err := m.Close(); err != nil || sent() != "\x00a\xff" {
			t.Errorf("Close behind a part that was refused: %v", err)
		}

		for range 2 {
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if s := sent(); s != "\xff\x00" || w.closed != 1 {
			t.Errorf("Close sent % x and closed %d times", s, w.closed)
		}
		if _, err := GetFrame(c); err != io.EOF {
			t.Errorf("GetFrame after Close: %v", err)
		}
		if err := c.Ping(context.Background()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Ping after Close: %v", err)
		}
		if err := c.WriteMessage(Text, nil); !errors.Is(err, net.ErrClosed) || sent() != "" {
			t.Errorf("WriteMessage after Close: %v", err)
		}
	}

	// FF 00 within a text would end that as if it were whole.
	var out bytes.Buffer
	c := newConn(wireStream{strings.NewReader("\xff\x00"), &out}, nil, false)
	c.dec.hixie = true
	m, _ := c.NextWriter(Text)
	m.Write([]byte("half"))
	if _, _, err := c.ReadMessage(); !errors.Is(err, io.EOF) || out.String() != "\x00half" {
		t.Errorf("closing handshake within a text: %v, sent %q", err, out.String())
	}
}

// TestMatrix has what one Conn writes read by another: in both roles and both
// versions, however it arrives and whatever it is read with.
func TestMatrix(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	// payload returns n bytes; as text with runes of all sizes.
	payload := func(typ MessageType, n int) string {
		var b []byte
		for len(b) < n {
			if typ == Binary {
				b = append(b, byte(rng.Uint32()))
			} else if r := []rune("aé€😀")[rng.IntN(4)]; len(b)+utf8.RuneLen(r) <= n {
				b = utf8.AppendRune(b, r)
			}
		}
		return string(b)
	}
	type message struct {
		typ   MessageType
		parts []string // more than one: fragments
	}
	var kinds []struct {
		name     string
		messages []message
	}
	add := func(name string, f func(MessageType) []message) {
		kinds = append(kinds, struct {
			name     string
			messages []message
		}{name, append(f(Text), f(Binary)...)})
	}
	for _, sizes := range [][]int{{0}, {1, 2, 3, 4}, {125, 126, 127}, {16383, 16384}, {65535}, {65536}, {65537}, {200_000}} {
		add(fmt.Sprint(sizes), func(typ MessageType) (all []message) {
			for _, n := range sizes {
				all = append(all, message{typ, []string{payload(typ, n)}})
			}
			return all
		})
	}
	for _, cuts := range [][]int{{0, 0}, {1}, {0, 5, 5, 10}, {126, 252}, {8000, 12_000}, {100, 65_700, 65_700}} {
		add(fmt.Sprint("cut at ", cuts), func(typ MessageType) []message {
			p := payload(typ, cuts[len(cuts)-1]+7)
			var parts []string
			at := 0
			for _, cut := range cuts {
				parts, at = append(parts, p[at:cut]), cut
			}
			return []message{{typ, append(parts, p[at:])}, {typ, []string{"next"}}}
		})
	}
	add("a byte a fragment", func(typ MessageType) []message {
		var parts []string
		for _, b := range []byte(payload(typ, 300)) {
			parts = append(parts, string([]byte{b}))
		}
		return []message{{typ, parts}}
	})

	for _, kind := range kinds {
		for _, client := range []bool{false, true} {
			for _, hixie := range []bool{false, true} {
				var wire bytes.Buffer
				w := newConn(wireStream{nil, &wire}, nil, client)
				w.dec.hixie = hixie
				var want []wireMessage
				var pongs []wireFrame
				ping := func() {
					if hixie {
						return
					}
					p, err := w.sendPing()
					if err != nil {
						t.Fatal(err)
					}
					pongs = append(pongs, wf(0x8A, string(binary.BigEndian.AppendUint64(nil, p.id))))
				}
				for _, m := range kind.messages {
					if hixie && m.typ == Binary {
						continue
					}
					ping()
					want = append(want, wireMessage{m.typ, strings.Join(m.parts, "")})
					if len(m.parts) == 1 {
						if err := w.WriteMessage(m.typ, []byte(m.parts[0])); err != nil {
							t.Fatal(err)
						}
						continue
					}
					mw, err := w.NextWriter(m.typ)
					if err != nil {
						t.Fatal(err)
					}
					for _, p := range m.parts {
						if n, err := mw.Write([]byte(p)); n != len(p) || err != nil {
							t.Fatal(n, err)
						}
						ping()
					}
					if err := mw.Close(); err != nil {
						t.Fatal(err)
					}
				}

				for _, chunk := range wireChunks {
					for i, read := range wireReads {
						// A byte at a time takes long. ReadMessage does what AppendMessage
						// does, and the reader of NextReader what Read does.
						if n := wire.Len(); chunk.name == "one byte" && (n > 150_000 || n > 20_000 && i%2 == 0) {
							continue
						}
						var out bytes.Buffer
						r := newConn(wireStream{&wireOnce{Reader: chunk.of(bytes.NewReader(wire.Bytes()))}, &out}, nil, !client)
						r.dec.hixie = hixie
						got, err := read.all(r)
						how := fmt.Sprintf("%s, client=%v hixie=%v, %s, %s", kind.name, client, hixie, chunk.name, read.name)
						if err != io.EOF || !sameMessages(got, want, false) {
							t.Fatalf("%s: messages %q, %v, want %q", how, describe(got), err, describe(want))
						}
						if sent, err := parseWire(out.Bytes(), !client); err != nil || !slices.Equal(sent, pongs) {
							t.Fatalf("%s: pongs %+v, %v, want %+v", how, sent, err, pongs)
						}
					}
				}
			}
		}
	}
}

// TestCloseCodes takes every code through both directions of a close frame.
func TestCloseCodes(t *testing.T) {
	for n := range 1 << 16 {
		code := CloseCode(n)
		// RFC 6455, section 7.4, and the registry that its section 11.7 has set up.
		want := n >= 1000 && n <= 1003 || n >= 1007 && n <= 1014 || n >= 3000 && n <= 4999
		if got := checkClose(code, "why") == nil; got != want {
			t.Errorf("checkClose(%d) accepts: %v", n, got)
		}
		p := appendClose(nil, code, "why")
		if code == CloseNoStatus {
			continue
		}
		got, reason, err := parseClose(p)
		if want && (got != code || reason != "why" || err != nil) || !want && err == nil {
			t.Errorf("parseClose(% x) = %d, %q, %v", p, got, reason, err)
		}
	}
	if got, reason, err := parseClose(appendClose(nil, CloseNoStatus, "")); got != CloseNoStatus || reason != "" || err != nil {
		t.Errorf("no status: %d, %q, %v", got, reason, err)
	}
	for _, tt := range []struct {
		code   CloseCode
		reason string
		ok     bool
	}{
		{CloseNoStatus, "", true},
		{CloseNoStatus, "a", false},
		{CloseNormal, strings.Repeat("a", 123), true},
		{CloseNormal, strings.Repeat("a", 124), false},
		{CloseNormal, "\xff", false},
		{0, "", false},
	} {
		var out bytes.Buffer
		c := newConn(wireStream{iotest.ErrReader(errStall), &out}, nil, false)
		if err := c.CloseWith(tt.code, tt.reason); (err == nil) != tt.ok || (out.Len() > 0) != tt.ok {
			t.Errorf("CloseWith(%d, %d bytes): %v, sent % x", tt.code, len(tt.reason), err, out.Bytes())
		}
		if err := c.WriteMessage(Text, nil); (err != nil) != tt.ok {
			t.Errorf("after CloseWith(%d, %d bytes): %v", tt.code, len(tt.reason), err)
		}
	}
}

func TestMessageType(t *testing.T) {
	for typ, want := range map[MessageType]string{Text: "text", Binary: "binary", 0: "message type 0", 255: "message type 255"} {
		if got := typ.String(); got != want {
			t.Errorf("%d is %q, want %q", uint8(typ), got, want)
		}
	}
}

func TestCloseError(t *testing.T) {
	for _, tt := range []struct {
		e    CloseError
		want string
		is   error // the only one of those below, or nil
	}{
		{CloseError{Code: CloseNormal}, "websocket: closed by the peer: 1000 (normal closure)", io.EOF},
		{CloseError{Code: CloseGoingAway, Reason: "bye"}, "websocket: closed by the peer: 1001 (going away): bye", io.EOF},
		{CloseError{Code: CloseNoStatus}, "websocket: closed by the peer: 1005 (no status)", io.EOF},
		{CloseError{Code: CloseInternalError}, "websocket: closed by the peer: 1011 (internal error)", nil},
		{CloseError{Code: 4000}, "websocket: closed by the peer: 4000", nil},
		{CloseError{Code: CloseNormal, by: byPeerEarly}, "websocket: closed by the peer within a message: 1000 (normal closure)", io.ErrUnexpectedEOF},
		{CloseError{Code: ClosePolicyViolation, Reason: "slow", by: byUs}, "websocket: closed: 1008 (policy violation): slow", net.ErrClosed},
		{*failure(CloseProtocolError, "bad"), "websocket: connection failed: 1002 (protocol error): bad", nil},
		{*failure(CloseNormal, ""), "websocket: connection failed: 1000 (normal closure)", nil},
	} {
		if got := tt.e.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
		err := fmt.Errorf("wrapped: %w", &tt.e)
		for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, errStall} {
			if errors.Is(err, target) != (target == tt.is) {
				t.Errorf("%v: errors.Is(err, %q) = %v", err, target, target != tt.is)
			}
		}
	}
	if err := (&CloseError{Code: CloseNormal, by: byUs}); !errors.Is(err, io.EOF) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v is not both io.EOF and net.ErrClosed", err)
	}
}

// A wireWriter counts calls, and takes no more than the bytes in room.
type wireWriter struct {
	bytes.Buffer
	calls int
	room  int
	err   error
}

func (w *wireWriter) Write(p []byte) (int, error) {
	w.calls++
	p = p[:min(len(p), w.room)]
	w.Buffer.Write(p)
	return len(p), w.err
}

func TestPutFrame(t *testing.T) {
	for _, p := range []string{"", "a", "κόσμε", strings.Repeat("a", 126), strings.Repeat("é", 100_000)} {
		w := &wireWriter{room: math.MaxInt}
		if err := PutFrame(w, []byte(p)); err != nil || w.calls != 1 || w.String() != string(wf(0x81, p).append(nil, false, false)) {
			t.Errorf("%d bytes: %v after %d calls", len(p), err, w.calls)
		}
		for _, client := range []bool{false, true} {
			w := &wireWriter{room: math.MaxInt}
			if err := PutFrame(newConn(wireStream{nil, w}, nil, client), []byte(p)); err != nil || w.calls != 1 && len(p) < batchSize {
				t.Errorf("client=%v, %d bytes: %v after %d calls", client, len(p), err, w.calls)
			}
			if all, err := parseWire(w.Bytes(), client); err != nil || !slices.Equal(all, []wireFrame{wf(0x81, p)}) {
				t.Errorf("client=%v, %d bytes: %v", client, len(p), err)
			}
		}
	}
	for _, p := range []string{"\xff", "\xe2\x82", "a\xed\xa0\x80"} {
		w := &wireWriter{room: math.MaxInt}
		if err := PutFrame(w, []byte(p)); err != errNotUTF8 || w.calls != 0 {
			t.Errorf("%q: %v after %d calls", p, err, w.calls)
		}
	}
	if err := PutFrame(&wireWriter{room: 2}, []byte("abc")); err != io.ErrShortWrite {
		t.Errorf("short write: %v", err)
	}
	if err := PutFrame(&wireWriter{room: 2, err: errStall}, []byte("abc")); err != errStall {
		t.Errorf("failed write: %v", err)
	}
}

// decodeWire feeds in to d, in pieces of the sizes that chunk chooses for what
// is left; if chunk is nil, of those that d asks for. It returns the messages and
// control frames, each behind its opcode. If whole is true, messages that are whole are
// decoded at once.
func decodeWire(t *testing.T, d *decoder, in []byte, chunk func(rest int) int, whole bool) (all []string, err error) {
	var buf, message []byte
	for {
		if whole && d.kind == noFrame && d.typ == 0 {
			if typ, p, n := d.whole(buf); n > 0 {
				all, buf = append(all, string(rune(typ))+string(p)), buf[n:]
				continue
			}
		}
		p, n, err := d.next(buf)
		switch {
		case n < 0 || n > len(buf):
			t.Fatalf("%d of %d bytes used", n, len(buf))
		case err != nil:
			if _, ok := err.(*CloseError); !ok {
				t.Fatalf("error %v", err)
			}
			return all, err
		case len(p.payload) > n:
			t.Fatalf("payload of %d bytes out of %d", len(p.payload), n)
		case n == 0 && p.need <= 0:
			t.Fatal("nothing was used and nothing is needed")
		case n == 0 && len(in) == 0:
			return all, nil
		case n == 0:
			k := min(p.need, len(in))
			if chunk != nil {
				k = chunk(len(in))
			}
			buf, in = append(bytes.Clone(buf), in[:k]...), in[k:]
			continue
		}
		if buf = buf[n:]; chunk == nil && len(buf) > 0 {
			t.Fatalf("%d bytes too many were asked for", len(buf))
		}
		switch p.opcode {
		case opClose, opPing, opPong:
			if !p.end || len(p.payload) > maxControl {
				t.Fatalf("control frame of %d bytes, whole: %v", len(p.payload), p.end)
			}
			all = append(all, string(rune(p.opcode))+string(p.payload))
		case opText, opBinary:
			if message = append(message, p.payload...); uint64(len(message)) > d.limit {
				t.Fatalf("%d bytes of message, limit %d", len(message), d.limit)
			}
			if p.end {
				if p.opcode == opText && !utf8.Valid(message) {
					t.Fatalf("bad text %q", message)
				}
				all, message = append(all, string(rune(p.opcode))+string(message)), nil
			}
		}
	}
}

// FuzzDecoder shows that it makes no difference to a decoder how its input is
// cut, and that it decodes what has been encoded.
func FuzzDecoder(f *testing.F) {
	const (
		hixie = 1 << iota
		masked
		small // limit
		huge
	)
	frames := func(all ...wireFrame) (in, maskedIn []byte) {
		for _, f := range all {
			in, maskedIn = f.append(in, false, true), f.append(maskedIn, true, true)
		}
		return in, maskedIn
	}
	for _, all := range [][]wireFrame{
		{wf(0x81, "Hello"), wf(0x82, "\xff"), wf(0x81, "")},
		{wf(0x01, "\xe2"), wf(0x89, "ping"), wf(0x00, "\x82"), wf(0x8A, ""), wf(0x80, "\xac"), wfClose(1000, "bye")},
		{wf(0x81, strings.Repeat("é", 63)), {first: 0x82, p: strings.Repeat("b", 300), form: 8}},
		{{first: 0x81, p: "a", form: 2}, {first: 0x81, p: "b", form: 8}, {first: 0x89, p: "c", form: 2}},
		{wf(0x81, "a\xffb")}, {wf(0x81, "\xe2\x82")}, {wf(0x01, "\xf0\x9f"), wf(0x80, "\x98A")},
		{wfHead(0xC1)}, {wfHead(0x83)}, {wfHead(0x80)}, {wfHead(0x09)}, {wf(0x01, "a"), wfHead(0x81)},
		{{first: 0x81, p: "a", wrong: true}}, {{first: 0x82, claim: 1 << 63}}, {{first: 0x82, p: "a", claim: 1<<63 - 1}},
		{wf(0x02, "abcdef"), wf(0x80, "ghijklm")},
	} {
		in, maskedIn := frames(all...)
		f.Add(in, uint64(1), byte(0))
		f.Add(in, uint64(2), byte(small))
		f.Add(maskedIn, uint64(3), byte(masked))
		f.Add(maskedIn, uint64(4), byte(masked|huge))
	}
	for _, r := range hixieRules() {
		if len(r.in) > 200 {
			continue
		}
		f.Add([]byte(r.in), uint64(1), byte(hixie))
		f.Add([]byte(r.in), uint64(2), byte(hixie|huge))
	}
	f.Add([]byte("\x00\xe2\x82\xac0123456789\xff"), uint64(3), byte(hixie|small))

	f.Fuzz(func(t *testing.T, in []byte, seed uint64, mode byte) {
		if len(in) > 4<<10 {
			return // slow, and no different
		}
		start := decoder{hixie: mode&hixie != 0, masked: mode&masked != 0, limit: maxMessage}
		switch {
		case mode&small != 0:
			start.limit = 12
		case mode&huge != 0:
			start.limit = math.MaxInt64
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		random := func(rest int) int { return 1 + min(rng.IntN(rest), rng.IntN(rest), rng.IntN(64)) }

		d := start
		all := func(rest int) int { return rest }
		want, werr := decodeWire(t, &d, in, all, false)
		for i, chunk := range []func(rest int) int{random, func(int) int { return 1 }, nil, all, random} {
			name := [...]string{"random", "byte by byte", "as needed", "messages", "some messages"}[i]
			whole := i > 2
			e := start
			got, err := decodeWire(t, &e, in, chunk, whole)
			if !slices.Equal(got, want) {
				t.Fatalf("%s: decoded %.100q, want %.100q", name, got, want)
			}
			if fmt.Sprint(err) != fmt.Sprint(werr) {
				t.Fatalf("%s: error %v, want %v", name, err, werr)
			}
			if err == nil && !whole && (e.kind != d.kind || e.typ != d.typ || e.left != d.left || e.size != d.size || e.fragments != d.fragments) {
				t.Fatalf("%s: ends as %+v, want %+v", name, e, d)
			}
		}

		// The other way round: in as a message, in fragments with pings between.
		typ := byte(opBinary)
		if utf8.Valid(in) {
			typ = opText
		} else if start.hixie {
			return
		}
		e := decoder{hixie: start.hixie, masked: start.masked, limit: uint64(len(in))}
		var wire []byte
		want = nil
		for opcode, rest := typ, in; opcode != opPing; {
			n := rng.IntN(len(rest) + 1)
			first := opcode
			if opcode = opContinuation; n == len(rest) {
				first, opcode = finBit|first, opPing
			}
			switch {
			case e.hixie:
				wire = appendHixie(wire, first, rest[:n])
			default:
				wire = appendFrame(wire, first, rest[:n], e.masked)
				if ping := in[:min(len(in), rng.IntN(126))]; first < finBit && seed&1 != 0 {
					wire = appendFrame(wire, finBit|opPing, ping, e.masked)
					want = append(want, string(rune(opPing))+string(ping))
				}
			}
			rest = rest[n:]
		}
		want = append(want, string(rune(typ))+string(in))
		got, err := decodeWire(t, &e, wire, random, true)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("decoded %.100q, %v, want %.100q", got, err, want)
		}
	})
}

func BenchmarkMask(b *testing.B) {
	for _, n := range []int{0, 1, 7, 8, 16, 64, 125, 128, 1 << 10, 16 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			key := uint32(0x3d21fa37)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				key = mask(p, key)
			}
		})
	}
}

// wirePayloads are what the benchmarks of frames send.
var wirePayloads = []struct {
	name  string
	first byte
	p     string
}{
	{"text 128", finBit | opText, strings.Repeat("a", 128)},
	{"text 16K", finBit | opText, strings.Repeat("a", 16<<10)},
	{"UTF-8 16K", finBit | opText, strings.Repeat("€é", 16<<10/5)},
	{"binary 128", finBit | opBinary, strings.Repeat("a", 128)},
	{"binary 16K", finBit | opBinary, strings.Repeat("a", 16<<10)},
}

func BenchmarkDecoder(b *testing.B) {
	for _, m := range wirePayloads {
		b.Run(m.name, func(b *testing.B) {
			in := wf(m.first, m.p).append(nil, true, false)
			header := len(in) - len(m.p)
			// Unmasking in place with this key leaves the frame fit for the next round.
			clear(in[header-4 : header])
			copy(in[header:], m.p)
			d := decoder{masked: true, limit: maxMessage}
			b.SetBytes(int64(len(m.p)))
			b.ReportAllocs()
			for b.Loop() {
				if p, n, err := d.next(in); !p.end || n != len(in) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func BenchmarkGetFrame(b *testing.B) {
	for _, m := range wirePayloads {
		in := wf(m.first, m.p).append(nil, true, false)
		run := func(name string, get func(io.ReadWriter) (int, error), wrap func(io.ReadWriter) io.ReadWriter) {
			b.Run(name+" "+m.name, func(b *testing.B) {
				rw := wrap(wireStream{&wireLoop{b: in}, io.Discard})
				b.SetBytes(int64(len(m.p)))
				b.ReportAllocs()
				for b.Loop() {
					if n, err := get(rw); n != len(m.p) || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
		bare := func(rw io.ReadWriter) io.ReadWriter { return rw }
		conn := func(rw io.ReadWriter) io.ReadWriter { return newConn(rw, nil, false) }
		get := func(rw io.ReadWriter) (int, error) { p, err := GetFrame(rw); return len(p), err }
		var dst []byte
		run("bare", get, bare)
		run("Conn", get, conn)
		run("AppendMessage", func(rw io.ReadWriter) (int, error) {
			_, p, err := rw.(*Conn).AppendMessage(dst[:0])
			dst = p
			return len(p), err
		}, conn)
	}
}

func BenchmarkPutFrame(b *testing.B) {
	for _, m := range wirePayloads[:3] {
		w := wireStream{nil, io.Discard}
		for _, to := range []struct {
			name string
			w    io.Writer
		}{{"bare", w}, {"server", newConn(w, nil, false)}, {"client", newConn(w, nil, true)}} {
			b.Run(to.name+" "+m.name, func(b *testing.B) {
				p := []byte(m.p)
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				for b.Loop() {
					if err := PutFrame(to.w, p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkAppendFrame(b *testing.B) {
	for _, masked := range []bool{false, true} {
		for _, n := range []int{0, 128, 16 << 10} {
			b.Run(fmt.Sprintf("masked=%v %d", masked, n), func(b *testing.B) {
				p := make([]byte, n)
				var dst []byte
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					dst = appendFrame(dst[:0], finBit|opBinary, p, masked)
				}
			})
		}
	}
}
