package websocket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"unicode/utf8"
)

// wfClose returns a close frame.
func wfClose(code int, reason string) wireFrame {
	return wf(0x88, string([]byte{byte(code >> 8), byte(code)})+reason)
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
			if cause(err) != errStall {
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
			want = append(want, wfClose(int(r.code), r.reason))
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
	werr, rerr := c.end.errors().write, c.end.errors().read
	c.t.rw = wireStream{&wireOnce{ended: true}, wireRefusal{}}
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
					speakHixie(c, hixie)
					got, err := read.all(c)
					if cause(err) != want || between && read.name != "Read" && len(got) != n {
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
	speakHixie(c, true)
	got, err := read(c)

	var want []wireMessage
	for _, p := range r.want {
		want = append(want, wireMessage{Text, p})
	}
	if !sameMessages(got, want, r.code != 0) {
		t.Fatalf("%s: messages %q, want %q", how, describe(got), r.want)
	}
	if r.code == 0 {
		if cause(err) != errStall || out.Len() > 0 || w.closed > 0 {
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
