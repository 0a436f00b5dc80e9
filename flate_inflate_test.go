package websocket

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// deflatedOnce is a message compressed on its own.
func deflatedOnce(level int, m string) string { return newPeerDeflater(level).message(m) }

// storedFinal is a message in one stored block that is the last of its stream.
func storedFinal(m string) string {
	b := binary.LittleEndian.AppendUint16([]byte{1}, uint16(len(m)))
	return string(binary.LittleEndian.AppendUint16(b, ^uint16(len(m)))) + m + "\x00"
}

// inflateAs inflates a message as RFC 7692, section 7.2.2 says, except that its last block
// may also be the last of the stream, whether that ends with the message or with what is
// appended. It reports false if it is not valid.
func inflateAs(message string, history []byte) ([]byte, bool) {
	if p, ok := inflateWith(message, syncMarker, history); ok {
		return p, true
	}
	// With both endings only what ends between two blocks is valid.
	p, ok := inflateWith(message, syncMarker+"\x01\x00\x00\xff\xff", history)
	q, also := inflateWith(message, syncMarker+"\x03\x00", history)
	return p, ok && also && bytes.Equal(p, q)
}

// inflateWith inflates the streams of a message, of which the last ends with it or with end.
func inflateWith(message, end string, history []byte) (p []byte, ok bool) {
	in := strings.NewReader(message + end)
	f := flate.NewReaderDict(in, history)
	for {
		q, err := io.ReadAll(f)
		p = append(p, q...)
		switch {
		case err != nil:
			return nil, false
		case in.Len() <= len(end):
			return p, in.Len() == 0 || in.Len() == len(end)
		}
		f.(flate.Resetter).Reset(in, nil)
	}
}

// packedReads are the ways to read from a Conn.
var packedReads = append(slices.Clip(wireReads), []struct {
	name string
	all  func(*Conn) ([]wireMessage, error)
}{
	{"NextReader, small", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return got, err
			}
			p, err := io.ReadAll(iotest.OneByteReader(r))
			if err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, string(p)})
		}
	}},
	{"NextReader, large", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return got, err
			}
			var b bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&b}, r, make([]byte, 100<<10)); err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, b.String()})
		}
	}},
	{"Read, small", func(c *Conn) ([]wireMessage, error) {
		var all []byte
		for p := make([]byte, 3); ; {
			n, err := c.Read(p)
			all = append(all, p[:n]...)
			if err != nil {
				return []wireMessage{{0, string(all)}}, err
			}
		}
	}},
	{"Serve", func(c *Conn) (got []wireMessage, err error) {
		err = c.Serve(Handler{OnMessage: func(_ *Conn, t MessageType, p []byte) {
			got = append(got, wireMessage{t, string(p)})
		}})
		return got, err
	}},
}...)

// checkPacked reads all from a peer that sends frames, in every way, and checks what comes of
// it: the messages, and then the failure of the connection with code, or if that is 0, io.EOF.
func checkPacked(t *testing.T, frames []wireFrame, o *Options, takeover bool, want []wireMessage, code CloseCode, thorough bool) {
	t.Helper()
	for _, client := range []bool{false, true} {
		var wire []byte
		for _, f := range frames {
			wire = f.append(wire, !client, false)
		}
		for _, chunks := range wireChunks {
			for _, way := range packedReads {
				if !thorough && (client || chunks.name != "whole") {
					continue
				}
				rw := new(tape)
				in := chunks.of(bytes.NewReader(bytes.Clone(wire)))
				c := packedConn(wireStream{in, rw}, o, client, takeover)
				got, err := way.all(c)
				name := fmt.Sprintf("client %t, %s, %s", client, chunks.name, way.name)
				if !sameMessages(got, want, code != 0) {
					t.Errorf("%s: got %q, want %q", name, describe(got), describe(want))
				}
				if code == 0 {
					if cause(err) != io.EOF {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				checkCode(t, err, code, byFailure)
				sent, err := parseWire(rw.written(), client)
				if len(sent) != 1 || err != nil || sent[0].first != 0x88 || !strings.HasPrefix(sent[0].p, closing(code, "")) {
					t.Errorf("%s: sent %+v, %v", name, sent, err)
				}
			}
		}
	}
}

// The reserved bits of frames where compression is agreed on (RFC 7692, section 6).
func TestDeflateFrameRules(t *testing.T) {
	t.Parallel()
	hello := []wireMessage{{Text, "Hello"}}
	check := func(name string, want []wireMessage, frames ...wireFrame) {
		t.Run(name, func(t *testing.T) {
			checkPacked(t, frames, nil, true, want, CloseProtocolError, true)
		})
	}
	whole, begun := wf(0xC1, rfcHello), wf(0x41, rfcHello[:3])
	check("continuation", nil, begun, wfHead(0xC0))
	check("continuation, not final", nil, begun, wfHead(0x40))
	check("continuation of a message as it is", nil, wf(0x01, "a"), wfHead(0xC0))
	check("continuation of nothing", hello, whole, wfHead(0xC0))
	check("within a message", nil, begun, wfHead(0xC1))
	check("plain within a message", nil, begun, wfHead(0x82))
	for _, opcode := range []byte{3, 7, 8, 9, 0xA, 0xB, 0xF} {
		check(fmt.Sprintf("RSV1 of opcode %#x", opcode), hello, whole, wfHead(0xC0|opcode))
		check(fmt.Sprintf("RSV1 of opcode %#x within a message", opcode), nil, begun, wfHead(0xC0|opcode))
	}
	for _, rsv := range []byte{0x10, 0x20, 0x30, 0x50, 0x60, 0x70} {
		for _, first := range []byte{0x81, 0x82, 0x01, 0x02, 0x88, 0x89, 0x8A} {
			check(fmt.Sprintf("reserved bits %#x", first|rsv), hello, whole, wfHead(first|rsv))
		}
		check(fmt.Sprintf("reserved bits %#x of a continuation", rsv), nil, begun, wfHead(0x80|rsv))
	}
	for _, client := range []bool{false, true} {
		for _, first := range []byte{0xC1, 0xC2, 0x41, 0x42} {
			c, rw := tapeConn(nil, client, false)
			rw.in = [][]byte{wfHead(first).append(nil, !client, false)}
			_, _, err := c.ReadMessage()
			checkCode(t, err, CloseProtocolError, byFailure) // it is not agreed on
		}
	}
}

func TestInflate(t *testing.T) {
	t.Parallel()
	type (
		in   = []wireFrame
		want = []wireMessage
	)
	const invalid = CloseInvalidPayload
	text := func(p string) wireMessage { return wireMessage{Text, p} }
	bin := func(p string) wireMessage { return wireMessage{Binary, p} }
	long := string(sampleText(9000, 1))
	longPacked := deflatedOnce(9, long)
	finalHello := rfcFinal[:len(rfcFinal)-1]      // with nothing behind the final block
	closedHello := rfcHello + syncMarker + "\x01" // as flate.Writer.Close ends it
	for _, tt := range []struct {
		name     string
		in       in
		takeover bool
		want     want
		code     CloseCode
	}{
		// RFC 7692, section 7.2.3.
		{"7.2.3.1", in{wf(0xC1, rfcHello)}, false, want{text("Hello")}, 0},
		{"7.2.3.1, fragments", in{wf(0x41, rfcHello[:3]), wf(0x80, rfcHello[3:])}, false, want{text("Hello")}, 0},
		{"7.2.3.2", in{wf(0xC1, rfcHello), wf(0xC1, rfcHello)}, true, want{text("Hello"), text("Hello")}, 0},
		{"7.2.3.2, shared window", in{wf(0xC1, rfcHello), wf(0xC1, rfcShared)}, true, want{text("Hello"), text("Hello")}, 0},
		{"7.2.3.2, thrice", in{wf(0xC1, rfcHello), wf(0xC1, rfcShared), wf(0xC2, rfcShared)}, true, want{text("Hello"), text("Hello"), bin("Hello")}, 0},
		{"shared window without takeover", in{wf(0xC1, rfcHello), wf(0xC1, rfcShared)}, false, want{text("Hello")}, invalid},
		{"shared window of nothing", in{wf(0xC1, rfcShared)}, true, nil, invalid},
		{"7.2.3.3", in{wf(0xC1, rfcStored)}, false, want{text("Hello")}, 0},
		{"7.2.3.4", in{wf(0xC1, rfcFinal)}, false, want{text("Hello")}, 0},
		{"7.2.3.5", in{wf(0xC1, rfcTwoBlocks)}, false, want{text("Hello")}, 0},
		{"7.2.3.6", in{wf(0xC1, "\x00"), wf(0x42, "\x00"), wf(0x80, "")}, false, want{text(""), bin("")}, 0},

		// Messages without a payload, compressed and not.
		{"empty, fixed codes", in{wf(0xC1, "\x02\x00"), wf(0xC2, "\x03\x00\x00")}, false, want{text(""), bin("")}, 0},
		{"empty, flushed twice", in{wf(0xC1, "\x00\x00\x00\xff\xff\x00")}, false, want{text("")}, 0},
		{"empty messages between", in{wf(0xC1, rfcHello), wf(0xC1, "\x00"), wf(0x81, ""), wf(0xC1, rfcShared)}, true,
			want{text("Hello"), text(""), text(""), text("Hello")}, 0},
		{"no compressed payload", in{wf(0xC1, "")}, false, nil, invalid},
		{"no compressed payload in fragments", in{wf(0xC2, rfcHello), wf(0x42, ""), wf(0x00, ""), wf(0x80, "")}, true, want{bin("Hello")}, invalid},

		// Fragments and control frames.
		{"empty fragments", in{wf(0x41, ""), wf(0x00, ""), wf(0x00, rfcHello), wf(0x00, ""), wf(0x80, "")}, false, want{text("Hello")}, 0},
		{"a fragment for the last octet", in{wf(0x41, rfcHello[:6]), wf(0x80, rfcHello[6:])}, false, want{text("Hello")}, 0},
		{"the last octet alone", in{wf(0x41, rfcHello[:6]+"\x00\x00\x00\xff\xff"), wf(0x80, "\x00")}, false, want{text("Hello")}, 0},
		{"pongs between", in{wf(0x8A, "1"), wf(0x41, rfcHello[:3]), wf(0x8A, ""), wf(0x80, rfcHello[3:]), wf(0x8A, "2"), wf(0xC1, rfcShared)}, true,
			want{text("Hello"), text("Hello")}, 0},
		{"plain messages between", in{wf(0x81, "a"), wf(0xC1, rfcHello), wf(0x81, "b"), wf(0x02, "c"), wf(0x80, "d"), wf(0xC1, rfcShared)}, true,
			want{text("a"), text("Hello"), text("b"), bin("cd"), text("Hello")}, 0},
		{"large", in{wf(0xC1, longPacked), wf(0x41, longPacked[:100]), wf(0x80, longPacked[100:])}, false, want{text(long), text(long)}, 0},

		// Final blocks.
		{"final in the middle", in{wf(0xC1, finalHello+rfcHello)}, false, want{text("HelloHello")}, 0},
		{"final thrice", in{wf(0xC1, finalHello+finalHello+rfcFinal)}, false, want{text("HelloHelloHello")}, 0},
		{"final and stored", in{wf(0xC1, finalHello+rfcStored)}, false, want{text("HelloHello")}, 0},
		{"final in fragments", in{wf(0x41, finalHello), wf(0x00, rfcHello), wf(0x80, "\x00\x00\xff\xff"+rfcFinal)}, false, want{text("HelloHelloHello")}, 0},
		{"final and empty", in{wf(0xC1, "\x01"), wf(0x42, ""), wf(0x00, "\x01"), wf(0x80, "")}, false, want{text(""), bin("")}, 0},
		{"final and empty behind a block", in{wf(0xC1, closedHello), wf(0x41, closedHello[:11]), wf(0x80, closedHello[11:]), wf(0x42, closedHello), wf(0x80, "")}, false,
			want{text("Hello"), text("Hello"), bin("Hello")}, 0},
		{"final and empty behind a final one", in{wf(0xC1, finalHello+"\x01"), wf(0xC1, "\x01"+syncMarker+"\x01")}, false, want{text("Hello"), text("")}, 0},
		{"final and empty, then a reference", in{wf(0xC1, closedHello), wf(0xC1, rfcShared), wf(0xC1, "\x01"), wf(0xC1, rfcShared)}, true,
			want{text("Hello"), text("Hello"), text(""), text("Hello")}, 0},
		{"final and stored, with what is appended as its end", in{wf(0xC2, "\x01\x05\x00\xfa\xffa")}, false, want{bin("a" + syncMarker)}, 0},
		{"final and stored, longer than what is appended", in{wf(0xC2, "\x01\x06\x00\xf9\xffa")}, false, nil, invalid},
		{"final and stored, up to all that is appended", in{wf(0xC2, "\x01\x0A\x00\xF5\xFFa")}, false, nil, invalid},
		{"final and stored, and like what is appended", in{wf(0xC2, "\x01\x0A\x00\xF5\xFFa"+string(inflateTail))}, false, want{bin("a" + string(inflateTail))}, 0},
		{"stored, and like what is appended", in{wf(0xC2, "\x00\x0A\x00\xF5\xFFa"+string(inflateTail)+"\x00")}, false, want{bin("a" + string(inflateTail))}, 0},
		{"final and stored, shorter than what is appended", in{wf(0xC2, "\x01\x04\x00\xfb\xffa")}, false, nil, invalid},
		{"final, then a message", in{wf(0xC1, rfcFinal), wf(0xC1, rfcHello)}, true, want{text("Hello"), text("Hello")}, 0},
		// No more is needed to tell what it says, and there are senders that forget the rest.
		{"final and nothing behind it", in{wf(0xC1, finalHello), wf(0xC1, rfcHello)}, true, want{text("Hello"), text("Hello")}, 0},
		{"final and nothing in the last fragment", in{wf(0x41, finalHello), wf(0x80, "")}, true, want{text("Hello")}, 0},

		// What is no compressed data.
		{"reserved type of block", in{wf(0xC1, "\x06\x00")}, false, nil, invalid},
		{"reserved type of the second block", in{wf(0xC1, rfcHello+"\x00\x00\xff\xff\x07")}, false, nil, invalid},
		{"length does not match", in{wf(0xC1, "\x00\x05\x00\xfa\xfeHello\x00")}, false, nil, invalid},
		{"text that is not compressed", in{wf(0xC1, "Hello")}, false, nil, invalid},
		{"garbage behind a final block", in{wf(0xC1, finalHello+"\xff")}, false, nil, invalid},
		{"garbage behind a message", in{wf(0xC1, rfcHello+"\x00\x00\xff\xff\xff\xff")}, false, nil, invalid},
		{"its end included", in{wf(0xC1, rfcHello+"\x00\x00\xff\xff")}, false, nil, invalid},
		{"no codes", in{wf(0xC1, "\x04\x00\x00\x00\x00\x00\x00\x00")}, false, nil, invalid},

		// UTF-8 is that of the whole inflated message.
		{"a rune in two fragments", in{wf(0x41, deflatedOnce(1, "a\xe2\x82")+"\x00\x00\xff\xff"), wf(0x80, deflatedOnce(1, "\xac"))}, false, want{text("a€")}, 0},
		{"a rune in two streams", in{wf(0xC1, storedFinal("\xf0\x9f")[:7]+storedFinal("\x98\x80"))}, false, want{text("😀")}, 0},
		{"compressed bytes are not text", in{wf(0x41, rfcHello[:1]), wf(0x80, rfcHello[1:])}, false, want{text("Hello")}, 0},
		{"bad UTF-8", in{wf(0xC1, rfcHello), wf(0xC1, deflatedOnce(9, "a\xffb"))}, true, want{text("Hello")}, invalid},
		{"bad UTF-8 in binary", in{wf(0xC2, deflatedOnce(9, "a\xffb"))}, false, want{bin("a\xffb")}, 0},
		{"half a rune at the end", in{wf(0xC1, deflatedOnce(9, "a\xe2\x82"))}, false, nil, invalid},
		{"half a rune does not reach the next message", in{wf(0xC2, deflatedOnce(9, "\xe2\x82")), wf(0xC1, deflatedOnce(9, "a"))}, false, want{bin("\xe2\x82"), text("a")}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkPacked(t, tt.in, nil, tt.takeover, tt.want, tt.code, true)
		})
	}
}

// inflateSamples are messages of several kinds, none of which refers to another.
var inflateSamples = []struct{ name, packed, plain string }{
	{"fixed", rfcHello, "Hello"},
	{"stored", rfcStored, "Hello"},
	{"final", rfcFinal, "Hello"},
	{"two blocks", rfcTwoBlocks, "Hello"},
	{"final, empty", rfcHello + syncMarker + "\x01", "Hello"},
	{"final, stored", storedFinal("0123456789abcdef"), "0123456789abcdef"},
	{"dynamic", deflatedOnce(9, string(sampleText(700, 7))), string(sampleText(700, 7))},
	{"Huffman only", deflatedOnce(flate.HuffmanOnly, string(sampleText(150, 8))), string(sampleText(150, 8))},
	{"not compressed", deflatedOnce(0, "not compressed: é"), "not compressed: é"},
}

// Fragments and truncations at every byte.
func TestInflateCut(t *testing.T) {
	t.Parallel()
	for _, s := range inflateSamples {
		t.Run(s.name, func(t *testing.T) {
			for n := range len(s.packed) {
				part := s.packed[:n]
				checkPacked(t, []wireFrame{wf(0x41, part), wf(0x80, s.packed[n:])}, nil, true, []wireMessage{{Text, s.plain}}, 0, false)
				// A part may be valid: a stored block can end with what is appended, and a
				// final one needs nothing.
				if p, ok := inflateAs(part, nil); ok {
					if !strings.HasPrefix(s.plain, strings.TrimSuffix(string(p), syncMarker)) {
						t.Errorf("%d bytes of %q are %q", n, s.packed, p)
					}
					checkPacked(t, []wireFrame{wf(0xC2, part)}, nil, true, []wireMessage{{Binary, string(p)}}, 0, false)
					continue
				}
				checkPacked(t, []wireFrame{wf(0xC2, part)}, nil, true, nil, CloseInvalidPayload, false)
				checkPacked(t, []wireFrame{wf(0x42, part), wf(0x80, "")}, nil, true, nil, CloseInvalidPayload, false)
			}
		})
	}
}

// A message refers to those before it, up to 32 KiB back, whether these have been read,
// skipped or read in part.
func TestInflateTakeover(t *testing.T) {
	t.Parallel()
	for _, client := range []bool{false, true} {
		for _, size := range []int{30, 3000, 50000} {
			peer := newPeerDeflater(6)
			var wire []byte
			var want []string
			for i := range 14 {
				m := string(sampleText(size+i, uint64(i/2)))
				want = append(want, m)
				z := peer.message(m)
				cut := len(z) * i / 14
				for _, f := range []wireFrame{wf(0x41, z[:cut]), wf(0x8A, ""), wf(0x80, z[cut:]), wf(0x81, "plain")} {
					wire = f.append(wire, !client, false)
				}
			}
			for skip := range 6 {
				c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), new(tape)}, nil, client, true)
				for i, m := range want {
					n := min(len(m), []int{-1, 0, 1, 20, 5000, len(m)}[(skip+i)%6])
					if n < 0 || i == len(want)-1 {
						if typ, p, err := c.ReadMessage(); typ != Text || string(p) != m || err != nil {
							t.Fatalf("client %t, size %d, message %d: read %d bytes, %v", client, size, i, len(p), err)
						}
					} else {
						_, r, err := c.NextReader()
						if err != nil {
							t.Fatal(err)
						}
						p := make([]byte, n)
						if _, err := io.ReadFull(r, p); err != nil || string(p) != m[:n] {
							t.Fatalf("client %t, size %d, message %d: read %q, %v", client, size, i, p, err)
						}
					}
					if i%3 > 0 {
						if _, p, err := c.ReadMessage(); string(p) != "plain" || err != nil {
							t.Fatalf("client %t, size %d, behind message %d: %q, %v", client, size, i, p, err)
						}
					} else if _, _, err := c.NextReader(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}

// A text that is read in pieces fails with its first bad byte, and the rest does not have to
// come.
func TestInflateEarly(t *testing.T) {
	for _, way := range packedReads {
		if !strings.Contains(way.name, "Read,") && !strings.HasPrefix(way.name, "NextReader") {
			continue
		}
		for _, bad := range []string{"a\xff", "\xe2\x82a", "\xc0", "\xed\xa0", strings.Repeat("x", 5000) + "\x80"} {
			t.Run(fmt.Sprintf("%s/%.5q", way.name, bad), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, peer := net.Pipe()
					c := packedConn(a, nil, false, true)
					defer c.CloseNow()
					go io.Copy(io.Discard, peer)
					go peer.Write(appendFrame(nil, opText|rsv1Bit, []byte(deflatedOnce(1, bad)+syncMarker), true))
					start := time.Now()
					_, err := way.all(c)
					checkCode(t, err, CloseInvalidPayload, byFailure)
					if d := time.Since(start); d != 0 {
						t.Error("that took", d)
					}
				})
			})
		}
	}
}

// A message that becomes larger than is allowed ends the connection, with little memory and
// without a goroutine left.
func TestInflateBomb(t *testing.T) { // not parallel: it measures memory
	const limit = 1 << 20
	zeros := strings.Repeat("\x00", 16<<20)
	bomb := deflatedOnce(9, zeros)
	parts := func(s string) (frames []wireFrame) {
		for i := range 50 {
			frames = append(frames, wf(0x00, s[len(s)*i/50:len(s)*(i+1)/50]), wf(0x00, ""))
		}
		frames[0].first = 0x41
		return append(frames, wf(0x80, ""))
	}
	for _, tt := range []struct {
		name   string
		frames []wireFrame
		max    int64
	}{
		{"16 MiB", []wireFrame{wf(0xC1, bomb)}, 0},
		{"16 MiB in fragments", parts(bomb), 0},
		{"16 MiB for 1000 bytes", []wireFrame{wf(0x41, bomb[:1000]), wf(0x80, "")}, 1000},
		{"a byte too many", []wireFrame{wf(0xC2, deflatedOnce(9, zeros[:limit+1]))}, 0},
		{"a byte too many, stored", []wireFrame{wf(0xC2, deflatedOnce(0, zeros[:limit+1]))}, 0},
		{"a byte too many for one", []wireFrame{wf(0xC2, deflatedOnce(9, "ab"))}, 1},
		{"many streams", []wireFrame{wf(0xC2, strings.Repeat(storedFinal(zeros[:1000])[:1005], 1050))}, 0},
	} {
		for _, client := range []bool{false, true} {
			var wire []byte
			for _, f := range tt.frames {
				wire = f.append(wire, !client, false)
			}
			for _, way := range packedReads {
				if tt.max == 0 && strings.HasSuffix(way.name, ", small") {
					continue // which is slow
				}
				t.Run(fmt.Sprint(tt.name, "/client=", client, "/", way.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
						rw := new(tape)
						c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), rw}, &Options{MaxMessage: tt.max}, client, true)
						var got []wireMessage
						var err error
						used := allocated(func() { got, err = way.all(c) })
						checkCode(t, err, CloseMessageTooBig, byFailure)
						if !strings.HasPrefix(way.name, "Read,") && way.name != "Read" && got != nil {
							t.Errorf("read %q", describe(got))
						}
						// What is collected grows by doubling.
						if most := uint64(12 * cmp.Or(tt.max, limit)); used > most+1<<20 {
							t.Errorf("%d bytes were allocated", used)
						}
						sent, err := parseWire(rw.written(), client)
						if len(sent) != 1 || err != nil || !strings.HasPrefix(sent[0].p, closing(CloseMessageTooBig, "")) {
							t.Errorf("sent %+v, %v", sent, err)
						}
					})
				})
			}
		}
	}
}

// A message of as many bytes as are allowed arrives, also if it cannot be compressed.
func TestInflateLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 100, 70000, 1 << 20} {
		noise := make([]byte, limit)
		rng := rand.New(rand.NewPCG(uint64(limit), 1))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		for name, plain := range map[string]string{"zeros": strings.Repeat("\x00", limit), "noise": string(noise)} {
			for _, level := range []int{0, 1, 9} {
				if limit == 1<<20 && level == 9 {
					continue // which is slow
				}
				want := []wireMessage{{Binary, plain}}
				z := deflatedOnce(level, plain)
				frames := []wireFrame{wf(0x42, z[:len(z)/2]), wf(0x80, z[len(z)/2:])}
				t.Run(fmt.Sprintf("%d/%s/%d", limit, name, level), func(t *testing.T) {
					checkLimit(t, frames, int64(limit), want)
				})
			}
		}
	}
}

func checkLimit(t *testing.T, frames []wireFrame, limit int64, want []wireMessage) {
	for _, way := range packedReads {
		if limit > 1000 && way.name != "ReadMessage" && way.name != "NextReader, large" {
			continue
		}
		var wire []byte
		for _, f := range frames {
			wire = f.append(wire, true, false)
		}
		c := packedConn(wireStream{bytes.NewReader(wire), new(tape)}, &Options{MaxMessage: limit}, false, false)
		got, err := way.all(c)
		if cause(err) != io.EOF || !sameMessages(got, want, false) {
			t.Errorf("%s: %d messages, %v", way.name, len(got), err)
		}
	}
}

// A partReader reads one message in parts.
type partReader struct {
	c    *Conn
	r    io.Reader
	left int // bytes of the message that have not been read
}

// partReads are the ways to read in parts. Each returns what it has got that will not be
// returned again, and an error unless that was the end of the message.
var partReads = []struct {
	name string
	read func(s *partReader, last bool) ([]byte, error)
}{
	{"ReadMessage", func(s *partReader, _ bool) ([]byte, error) {
		_, p, err := s.c.ReadMessage()
		return p, err
	}},
	{"AppendMessage", func(s *partReader, _ bool) ([]byte, error) {
		_, p, err := s.c.AppendMessage(append(make([]byte, 0, 100), "dst"...))
		return bytes.TrimPrefix(p, []byte("dst")), err
	}},
	{"Read", func(s *partReader, last bool) (got []byte, err error) {
		for p := make([]byte, 5); err == nil && (!last || len(got) < s.left); {
			var n int
			n, err = s.c.Read(p)
			got = append(got, p[:n]...)
		}
		return got, err
	}},
	{"NextReader", func(s *partReader, _ bool) (got []byte, err error) {
		if s.r == nil {
			if _, s.r, err = s.c.NextReader(); err != nil {
				return nil, err
			}
		}
		return io.ReadAll(s.r)
	}},
}

// A stallingWire has so many bytes before each of its timeouts.
type stallingWire struct {
	left   []byte
	before []int
}

func (w *stallingWire) Read(p []byte) (int, error) {
	n := len(w.left)
	if len(w.before) > 0 {
		if n = w.before[0]; n == 0 {
			w.before = w.before[1:]
			return 0, os.ErrDeadlineExceeded
		}
	}
	n = copy(p, w.left[:n])
	w.left = w.left[n:]
	if len(w.before) > 0 {
		w.before[0] -= n
	}
	return n, nil
}

func (w *stallingWire) Write(p []byte) (int, error) { return len(p), nil }

// TestInflateDeadline has a deadline pass at every byte of a message and once more behind it.
// Nothing may be lost, whichever method goes on then.
func TestInflateDeadline(t *testing.T) {
	// The last of it takes more than one piece.
	m := string(sampleText(90, 3)) + strings.Repeat("é€", 1000)
	for _, client := range []bool{false, true} {
		wire, size := packedWire(client, m)
		for _, first := range partReads {
			for _, then := range partReads {
				if first.name == "NextReader" && then.name != first.name {
					continue // which would skip the rest
				}
				parts := func(cut int) [][]byte {
					second := cut + (size-cut)/2
					return [][]byte{wire[:cut], wire[cut:second], wire[second:]}
				}
				check := func(t *testing.T, c *Conn, cut int, bring func(i int)) {
					s := &partReader{c: c, left: len(m)}
					var got []byte
					for i := range parts(cut) {
						way := then
						if i == 0 {
							way = first
						}
						bring(i)
						p, err := way.read(s, i == 2)
						if i < 2 && !errors.Is(err, os.ErrDeadlineExceeded) || i == 2 && err != nil {
							t.Fatalf("cut at %d, part %d: read %.20q, %v", cut, i, p, err)
						}
						got = append(got, p...)
						s.left -= len(p)
					}
					if string(got) != m {
						t.Fatalf("cut at %d: read %d bytes, %.20q", cut, len(got), got)
					}
					_, p, err := c.ReadMessage()
					if len(p) == 0 && then.name == "Read" { // it may have left an empty rest
						_, p, err = c.ReadMessage()
					}
					if string(p) != m || err != nil {
						t.Fatalf("cut at %d: then read %d bytes, %.20q, %v", cut, len(p), p, err)
					}
					if _, r, err := c.NextReader(); err != nil {
						t.Fatal(err)
					} else if p, err := io.ReadAll(r); string(p) != m || err != nil {
						t.Fatalf("cut at %d: last read %d bytes, %.20q, %v", cut, len(p), p, err)
					}
				}
				name := fmt.Sprintf("%s/%s/client=%t", first.name, then.name, client)
				t.Run(name, func(t *testing.T) {
					step := 1
					if testing.Short() || raceEnabled {
						step = 5
					}
					for cut := 0; cut < size-1; cut += step {
						stalls := &stallingWire{bytes.Clone(bytes.Join(parts(cut), nil)), []int{cut, (size - cut) / 2}}
						c := packedConn(stalls, nil, client, true)
						check(t, c, cut, func(int) {})
						c.CloseNow()
					}
				})
				t.Run(name+"/TCP", func(t *testing.T) {
					for cut := 3; cut < size-1; cut += 67 {
						socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
						c := packedConn(socket, nil, client, true)
						go io.Copy(io.Discard, peer)
						check(t, c, cut, func(i int) {
							if _, err := peer.Write(parts(cut)[i]); err != nil {
								t.Error(err)
							}
							timeout := time.Minute
							if i < 2 {
								timeout = 500 * time.Microsecond
							}
							c.SetReadDeadline(time.Now().Add(timeout))
						})
						c.CloseNow()
					}
				})
			}
		}
	}
}

// A connection that ends while a message is being read in pieces leaves no goroutine; the
// bubble would not end.
func TestInflateClose(t *testing.T) {
	m := string(sampleText(20000, 3))
	ends := []struct {
		name string
		end  func(c *Conn, peer net.Conn)
	}{
		{"Close", func(c *Conn, _ net.Conn) { c.Close() }},
		{"CloseWith", func(c *Conn, _ net.Conn) { c.CloseWith(4000, "") }},
		{"CloseNow", func(c *Conn, _ net.Conn) { c.CloseNow() }},
		{"abort", func(c *Conn, _ net.Conn) { c.abort(errBroken) }},
		{"end of the transport", func(c *Conn, peer net.Conn) { peer.Close() }},
		{"a close frame", func(c *Conn, peer net.Conn) { peer.Write(toward(c, opClose, closing(CloseGoingAway, ""))) }},
		{"a broken rule", func(c *Conn, peer net.Conn) { peer.Write(toward(c, 3, "")) }},
		{"a broken block", func(c *Conn, peer net.Conn) { peer.Write(toward(c, opContinuation, "\xff\xff")) }},
	}
	z := deflatedOnce(9, m)
	for _, client := range []bool{false, true} {
		for _, by := range []string{"Read", "NextReader"} {
			for _, whole := range []bool{false, true} {
				for _, blocked := range []bool{false, true} {
					for _, how := range ends {
						if whole && blocked {
							continue
						}
						name := fmt.Sprintf("%s/%s/whole=%t/blocked=%t/client=%t", how.name, by, whole, blocked, client)
						t.Run(name, func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								a, peer := net.Pipe()
								c := packedConn(a, nil, client, true)
								defer peer.Close()
								defer c.CloseNow()
								part := wf(0x41, z+syncMarker).append(nil, !client, false)
								if whole {
									part = wf(0xC1, z).append(nil, !client, false)
								}
								go io.Copy(io.Discard, peer)
								written := goErr(func() error { _, err := peer.Write(part); return err })
								var r io.Reader = c
								if by == "NextReader" {
									var err error
									if _, r, err = c.NextReader(); err != nil {
										t.Fatal(err)
									}
								}
								p := make([]byte, 10)
								if _, err := io.ReadFull(r, p); err != nil || string(p) != m[:10] {
									t.Fatal(p, err)
								}
								if c.read.unpack.stream == nil {
									t.Fatal("nothing is being read")
								}
								if blocked {
									read := goErr(func() error { _, err := io.Copy(io.Discard, onlyReader{r}); return err })
									synctest.Wait()
									how.end(c, peer)
									wait(t, read)
								} else {
									ended := make(chan struct{})
									go func() {
										how.end(c, peer)
										close(ended)
									}()
									synctest.Wait()
									_, err := io.Copy(io.Discard, onlyReader{r})
									if !whole && err == nil && by != "Read" {
										t.Error("the message ended")
									}
									c.ReadMessage()
									c.CloseNow()
									peer.Close()
									wait(t, ended)
								}
								if _, _, err := c.ReadMessage(); err == nil {
									t.Error("a message came")
								}
								c.CloseNow()
								peer.Close()
								wait(t, written)
								c.mu.Lock()
								if c.read.unpack.stream != nil {
									t.Error("something is still being read")
								}
								c.mu.Unlock()
							})
						})
					}
				}
			}
		}
	}
}

// onlyReader hides all other methods.
type onlyReader struct{ io.Reader }

// TestInflateCloseRace closes while another goroutine reads.
func TestInflateCloseRace(t *testing.T) {
	m := string(sampleText(30000, 3))
	wire, size := packedWire(false, m)
	for i := range 40 {
		a, peer := net.Pipe()
		c := packedConn(a, nil, false, true)
		go io.Copy(io.Discard, peer)
		go func() {
			peer.Write(wire[:size/2])
			peer.Write(wire[size/2:])
		}()
		begun := make(chan struct{})
		read := goErr(func() error {
			_, r, err := c.NextReader()
			for n := 0; err == nil; n++ {
				if n == 7*i {
					close(begun)
				}
				_, err = r.Read(make([]byte, 100))
			}
			return err
		})
		<-begun
		c.CloseNow()
		if err := wait(t, read); err != io.EOF && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		peer.Close()
	}
}

// FuzzInflate has all ways of reading agree with inflateAs.
func FuzzInflate(f *testing.F) {
	for flags := range byte(16) {
		for i, s := range inflateSamples {
			f.Add(flags, uint64(i), []byte(s.packed))
			f.Add(flags|16, uint64(i), []byte(s.packed+s.packed))
		}
		f.Add(flags, uint64(1), []byte(rfcHello+rfcShared))
		f.Add(flags, uint64(4), []byte("\x01\x05\x00\xfa\xffa\x01"))
		f.Add(flags, uint64(5), []byte("\x01\x0A\x00\xF5\xFFa"))
		f.Add(flags, uint64(2), []byte(deflatedOnce(9, strings.Repeat("\x00", 9000))))
		f.Add(flags, uint64(3), []byte(storedFinal(strings.Repeat("é", 99))[:190]))
	}
	f.Fuzz(func(t *testing.T, flags byte, seed uint64, data []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		client, takeover, typ := flags&1 != 0, flags&2 != 0, Text
		if flags&4 != 0 {
			typ = Binary
		}
		limit := []int{1 << 16, 100}[flags>>3&1]

		var wire, history []byte
		var want []wireMessage
		good, tooBig := true, false // all until now, and one of the bad
		for n := range 1 + int(flags>>4&3) {
			z := data
			if n < int(flags>>4&3) {
				z = data[:rnd.IntN(len(data)+1)]
			}
			data = data[len(z):]
			first := byte(typ) | rsv1Bit
			whole, size, fits := z, 0, true // on the wire, a fragment may have 16 bytes more
			for fragments := 1; ; fragments++ {
				cut, last := len(z), rnd.IntN(3) == 0
				if !last {
					cut = rnd.IntN(len(z) + 1)
				}
				size += cut
				fits = fits && size <= limit+limit/4+16*fragments
				if last {
					break
				}
				wire = wf(first, string(z[:cut])).append(wire, !client, false)
				z, first = z[cut:], 0
			}
			wire = wf(first|finBit, string(z)).append(wire, !client, false)
			if good {
				p, ok := inflateAs(string(whole), history)
				good = ok && fits && len(p) <= limit && (typ == Binary || utf8.Valid(p))
				tooBig = !ok || !fits || len(p) > limit
				if good {
					want = append(want, wireMessage{typ, string(p)})
				}
				if takeover {
					history = append(history, p...)
					history = history[max(0, len(history)-32<<10):]
				}
			}
		}
		for i, way := range packedReads {
			in := wireChunks[(int(seed%8)+i)%len(wireChunks)].of(bytes.NewReader(bytes.Clone(wire)))
			c := packedConn(wireStream{in, new(tape)}, &Options{MaxMessage: int64(limit)}, client, takeover)
			got, err := way.all(c)
			e, failed := errors.AsType[*CloseError](err)
			switch {
			case !sameMessages(got, want, !good):
				t.Fatalf("%s: %q, %v, want %q", way.name, describe(got), err, describe(want))
			case good && cause(err) != io.EOF:
				t.Fatalf("%s: %v", way.name, err)
			case !good && (!failed || e.Code != CloseInvalidPayload && !(e.Code == CloseMessageTooBig && tooBig)):
				t.Fatalf("%s: %v, too big %t", way.name, err, tooBig)
			case len(got) == 1 && got[0].typ == 0 && len(got[0].p) > (len(want)+1)*limit:
				t.Fatalf("%s: %d bytes", way.name, len(got[0].p))
			}
		}
	})
}

func BenchmarkInflate(b *testing.B) {
	benchDeflate(b, func(b *testing.B, d *Deflate, client bool, p []byte) {
		// The second message of the peer is the one that is repeated: it refers to itself.
		rw := new(tape)
		peer := tapeDeflate(rw, d, !client)
		peer.WriteMessage(Text, p)
		first := len(rw.written())
		peer.WriteMessage(Text, p)
		in := &endless{b: rw.written()[first:]}
		c := tapeDeflate(struct {
			io.Reader
			io.Writer
		}{io.MultiReader(bytes.NewReader(rw.written()[:first]), in), io.Discard}, d, client)
		var q []byte
		for b.Loop() {
			var err error
			if _, q, err = c.AppendMessage(q[:0]); err != nil {
				b.Fatal(err)
			}
		}
		if !bytes.Equal(p, q) {
			b.Error("the message is another one")
		}
	})
}
