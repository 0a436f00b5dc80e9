package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
)

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
		if cause(err) != io.EOF || !slices.Equal(got, []wireMessage{tt.want}) || out.String() != tt.sent {
			t.Errorf("%.20q: got %q, %v, sent %q", tt.in, describe(got), err, out.String())
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

// TestCloseCodes takes every code through both directions of a close frame.
func TestCloseCodes(t *testing.T) {
	for n := range 1 << 16 {
		code := CloseCode(n)
		// RFC 6455, section 7.4, and the registry that its section 11.7 has set up.
		want := n >= 1000 && n <= 1003 || n >= 1007 && n <= 1014 || n >= 3000 && n <= 4999
		e, err := closeByUs(code, "why")
		if (err == nil) != want || e.Reason != "why" || want && e.Code != code || !want && e.Code != CloseInternalError {
			t.Errorf("closeByUs(%d) returned %v, %v", n, e, err)
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

func TestCloseErrorIs(t *testing.T) {
	for _, tt := range []struct {
		err         CloseError
		eof, closed bool
		message     string
	}{
		{CloseError{CloseNormal, "", byPeer, nil}, true, false, "websocket: closed by the peer: 1000 (normal closure)"},
		{CloseError{CloseGoingAway, "", byPeer, nil}, true, false, ""},
		{CloseError{CloseNoStatus, "", byPeer, nil}, true, false, ""},
		{CloseError{CloseMessageTooBig, "why", byPeer, nil}, false, false, "websocket: closed by the peer: 1009 (message too big): why"},
		{CloseError{4000, "", byPeer, nil}, false, false, "websocket: closed by the peer: 4000"},
		{CloseError{CloseNormal, "", byUs, nil}, true, true, "websocket: closed: 1000 (normal closure)"},
		{CloseError{4000, "", byUs, nil}, false, true, ""},
		{CloseError{CloseProtocolError, "", byFailure, nil}, false, false, "websocket: connection failed: 1002 (protocol error)"},
		{CloseError{Code: CloseNormal, by: byFailure}, false, false, ""},
		{CloseError{}, false, false, ""},
	} {
		err := fmt.Errorf("wrapped: %w", &tt.err)
		if errors.Is(err, io.EOF) != tt.eof || errors.Is(err, net.ErrClosed) != tt.closed || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%#v: io.EOF is %t, net.ErrClosed is %t", tt.err, !tt.eof, !tt.closed)
		}
		if tt.message != "" && tt.err.Error() != tt.message {
			t.Errorf("%#v reads %q", tt.err, tt.err.Error())
		}
	}
}

// A connection that ends without a closing handshake has ended abnormally, and not with io.EOF, but
// for the calls that take the messages for one stream.
func TestAbnormalEnd(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for _, tt := range []struct {
		name  string
		input string
		end   error
		text  string
		calls error // what Read and GetFrame return
	}{
		{"between two messages", "", io.EOF, "websocket: connection lost: 1006 (abnormal closure): EOF", io.EOF},
		{"within a message", "\x01\x80\x00\x00\x00\x00", io.EOF, "websocket: connection lost: 1006 (abnormal closure): unexpected EOF", io.ErrUnexpectedEOF},
		{"reset", "", reset, "websocket: connection lost: 1006 (abnormal closure): read: connection reset by peer", reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, rw := tapeConn(nil, false, false)
			if rw.end = tt.end; tt.input != "" {
				rw.in = [][]byte{[]byte(tt.input)}
			}
			_, _, err := c.ReadMessage()
			e, ok := err.(*CloseError)
			if !ok || e.Code != CloseAbnormal || e.Error() != tt.text {
				t.Fatalf("ReadMessage returned %v", err)
			}
			if errors.Is(err, io.EOF) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, reset) != (tt.end == reset) {
				t.Errorf("the error is io.EOF: %t, io.ErrUnexpectedEOF: %t, the transport's: %t",
					errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, reset))
			}
			_, err1 := c.Read(make([]byte, 1))
			_, err2 := GetFrame(c)
			if err1 != tt.calls || err2 != tt.calls {
				t.Errorf("Read returned %v, and GetFrame %v, want %v", err1, err2, tt.calls)
			}
			if got := c.Serve(Handler{}); got != err {
				t.Errorf("Serve returned %v", got)
			}
			if err := c.CloseWith(CloseAbnormal, ""); err == nil {
				t.Error("1006 can be sent")
			}
		})
	}
}
