package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// wireAllocated returns how many bytes f allocates.
func wireAllocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
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
				if cause(err) != io.ErrUnexpectedEOF {
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

// TestReadDeadline has a deadline pass within a message, wherever that may be,
// and then once more. Nothing may be lost.
func TestReadDeadline(t *testing.T) {
	small := "Hello, wörld"
	large := strings.Repeat("0123456789abcdef", 5<<10)
	for _, client := range []bool{false, true} {
		frame := func(first byte, p string) []byte { return appendFrame(nil, first, []byte(p), !client) }
		for _, tt := range []struct {
			name, want string
			wire       []byte
			step       int // from cut to cut, behind the first few bytes
		}{
			// The first cut parts the ö.
			{"small", small, slices.Concat(frame(opText, small[:9]), frame(finBit|opPing, "ping"),
				frame(opContinuation, ""), frame(finBit|opContinuation, small[9:])), 1},
			{"large", large, slices.Concat(frame(opBinary, large[:70<<10]), frame(finBit|opPing, "ping"),
				frame(finBit|opContinuation, large[70<<10:])), 3001},
		} {
			for _, m := range readings {
				name := fmt.Sprintf("%s/%s/client=%t", m.name, tt.name, client)
				// check reads with the deadline passing behind the first and
				// the second third of the wire.
				check := func(t *testing.T, c *Conn, peer net.Conn, timeout time.Duration, cut int) {
					go io.Copy(io.Discard, peer)
					read := m.open(c, len(tt.want))
					second := cut + (len(tt.wire)-cut)/2
					for _, part := range [][]byte{tt.wire[:cut], tt.wire[cut:second]} {
						written := goErr(func() error { _, err := peer.Write(part); return err })
						if _, ok := peer.(*net.TCPConn); ok { // its buffers hold all that
							wait(t, written)
						}
						c.SetReadDeadline(time.Now().Add(timeout))
						if p, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
							t.Fatalf("cut at %d: read %.20q, %v", cut, p, err)
						}
					}
					go peer.Write(tt.wire[second:])
					c.SetReadDeadline(time.Time{})
					if p, err := read(); string(p) != tt.want || err != nil {
						t.Fatalf("cut at %d: read %d bytes, %.20q, %v; want %d bytes", cut, len(p), p, err, len(tt.want))
					}
				}
				// A cut just before the end would leave nothing for the last part.
				cuts := func(t *testing.T, check func(cut int)) {
					for cut := 0; cut < len(tt.wire)-1; {
						check(cut)
						if cut < 24 {
							cut++
						} else {
							cut += tt.step
						}
					}
				}
				t.Run(name+"/pipe", func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cuts(t, func(cut int) {
							c, peer := barePeer(t, nil, client)
							check(t, c, peer, time.Second, cut)
							c.CloseNow()
						})
					})
				})
				t.Run(name+"/TCP", func(t *testing.T) {
					cuts(t, func(cut int) {
						socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
						c := newConn(socket, nil, client)
						defer c.CloseNow()
						if c.t.raw == nil && runtime.GOOS == "linux" {
							t.Fatal("no RawConn")
						}
						check(t, c, peer, 500*time.Microsecond, cut)
					})
				})
			}
		}
	}
}

// TestReadDeadlineOtherMethod goes on with another method after a timeout.
func TestReadDeadlineOtherMethod(t *testing.T) {
	want := strings.Repeat("x", 10<<10)
	for _, first := range readings[:2] {
		for _, then := range readings {
			t.Run(first.name+"/"+then.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					wire := toward(c, opText, want)
					go peer.Write(wire[:6<<10])
					c.SetReadDeadline(time.Now().Add(time.Second))
					if _, err := first.open(c, len(want))(); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					c.SetReadDeadline(time.Time{})
					go peer.Write(wire[6<<10:])
					if p, err := then.open(c, len(want))(); string(p) != want || err != nil {
						t.Errorf("read %d bytes, %v", len(p), err)
					}
				})
			})
		}
	}
}

// TestConcurrentReaders has several goroutines read: each message goes to one
// of them, whole, and all of them learn of the end.
func TestConcurrentReaders(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			const readers, messages = 8, 400
			var sum atomic.Int64
			var done []<-chan error
			for range readers {
				done = append(done, goErr(func() error {
					for {
						_, p, err := server.ReadMessage()
						if err != nil {
							return err
						}
						n, err := strconv.Atoi(strings.TrimLeft(string(p), " "))
						if err != nil {
							return err
						}
						sum.Add(int64(n))
					}
				}))
			}
			for n := range messages {
				if err := PutFrame(client, fmt.Appendf(nil, "%*d", 10+n*n%20000, n)); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			first := wait(t, done[0])
			if !errors.Is(first, io.EOF) {
				t.Error(first)
			}
			for _, done := range done[1:] {
				if err := wait(t, done); err != first {
					t.Error(err, "is not", first)
				}
			}
			if n := sum.Load(); n != messages*(messages-1)/2 {
				t.Error("the sum is", n)
			}
		})
	}
}

// TestTextReadDirectly has a text that is not UTF-8, in a frame so large that it
// does not go through the input buffer.
func TestTextReadDirectly(t *testing.T) {
	for _, m := range readings {
		c, rw := tapeConn(nil, false, false)
		rw.in = [][]byte{toward(c, opText, strings.Repeat("x", 40<<10)+"\xff"+strings.Repeat("x", 40<<10))}
		_, err := m.open(c, 100<<10)()
		var e *CloseError
		if !errors.As(err, &e) || e.Code != CloseInvalidPayload {
			t.Errorf("%s returned %v", m.name, err)
		}
	}
}

// TestPayloadIsKept appends to what was read and reads on.
func TestPayloadIsKept(t *testing.T) {
	for _, pair := range pairs {
		for name, read := range map[string]func(c *Conn) ([]byte, error){
			"GetFrame":      func(c *Conn) ([]byte, error) { return GetFrame(c) },
			"ReadMessage":   func(c *Conn) ([]byte, error) { _, p, err := c.ReadMessage(); return p, err },
			"AppendMessage": func(c *Conn) ([]byte, error) { _, p, err := c.AppendMessage(nil); return p, err },
		} {
			t.Run(pair.name+"/"+name, func(t *testing.T) {
				server, client := pair.open(t, nil)
				sizes := []int{1, 10, 2000, 4096, 5, 20000, 70000, 0, 3}
				go func() {
					for i, size := range sizes {
						client.WriteMessage(Text, bytes.Repeat([]byte{'a' + byte(i)}, size))
					}
				}()
				var got [][]byte
				for range sizes {
					p, err := read(server)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, p)
					_ = append(p, "overwrites what is behind"...)
				}
				for i, size := range sizes {
					if !bytes.Equal(got[i], bytes.Repeat([]byte{'a' + byte(i)}, size)) {
						t.Errorf("message %d became %d bytes, %.20q", i, len(got[i]), got[i])
					}
				}
			})
		}
	}
}

func TestAppendMessage(t *testing.T) {
	c, rw := tapeConn(&Options{MaxMessage: 100 << 10}, false, false)
	rw.in = [][]byte{
		toward(c, opText, "one"), toward(c, opBinary, ""), toward(c, opText, strings.Repeat("x", 80<<10)),
		toward(c, opText, strings.Repeat("y", 90<<10))[:50<<10],
	}
	dst := append(make([]byte, 0, 64), "kept"...)
	typ, p, err := c.AppendMessage(dst)
	if typ != Text || string(p) != "keptone" || &p[0] != &dst[0] || err != nil {
		t.Errorf("got type %d, %q, %v", typ, p, err)
	}
	if typ, p, err = c.AppendMessage(p); typ != Binary || string(p) != "keptone" || err != nil {
		t.Errorf("got type %d, %q, %v", typ, p, err)
	}
	if typ, p, err = c.AppendMessage(p); typ != Text || len(p) != 7+80<<10 || string(p[:8]) != "keptonex" || err != nil {
		t.Errorf("got type %d, %d bytes, %.10q, %v", typ, len(p), p, err)
	}
	for range 2 {
		if typ, p, err = c.AppendMessage(dst); typ != 0 || string(p) != "kept" || cause(err) != io.ErrUnexpectedEOF {
			t.Errorf("got type %d, %q, %v", typ, p, err)
		}
	}
	if _, p, err := c.ReadMessage(); p != nil || cause(err) != io.ErrUnexpectedEOF {
		t.Errorf("ReadMessage returned %q, %v", p, err)
	}
}

// TestNextReader leaves messages half read.
func TestNextReader(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, size := range []int{10, 5000, 100 << 10} {
			t.Run(fmt.Sprintf("%d/hixie=%t", size, hixie), func(t *testing.T) {
				c, rw := tapeConn(nil, true, hixie)
				for i := range 6 {
					p := bytes.Repeat([]byte{'a' + byte(i)}, size)
					if hixie {
						rw.in = append(rw.in, toward(c, opText, string(p)))
					} else {
						rw.in = append(rw.in, appendFrame(nil, opText, p[:size/2], false),
							appendFrame(nil, finBit|opPing, nil, false), appendFrame(nil, finBit|opContinuation, p[size/2:], false))
					}
				}
				next := func() io.Reader {
					typ, r, err := c.NextReader()
					if typ != Text || err != nil {
						t.Fatal(typ, err)
					}
					return r
				}
				b := make([]byte, 4)
				r := next() // a
				if n, err := r.Read(nil); n != 0 || err != nil {
					t.Error("Read of nothing returned", n, err)
				}
				if _, err := io.ReadFull(r, b); string(b) != "aaaa" || err != nil {
					t.Errorf("read %q, %v", b, err)
				}
				stale := r
				r = next() // b, of which nothing is read
				if n, err := stale.Read(b); n != 0 || err == nil || err == io.EOF {
					t.Errorf("the reader of a message that is over read %q, %v", b[:n], err)
				}
				if n, err := stale.Read(nil); n != 0 || err == nil {
					t.Error("it read nothing without an error", n, err)
				}
				stale = r
				if typ, p, err := c.ReadMessage(); typ != Text || len(p) != size || p[0] != 'c' || err != nil {
					t.Errorf("behind a message that was left, ReadMessage returned %d bytes, %.5q, %v", len(p), p, err)
				}
				if n, err := stale.Read(b); n != 0 || err == nil || err == io.EOF {
					t.Errorf("the reader of a message that is over read %q, %v", b[:n], err)
				}
				r = next() // d
				if err := iotest.TestReader(r, bytes.Repeat([]byte{'d'}, size)); err != nil {
					t.Error(err)
				}
				for _, p := range [][]byte{nil, b} {
					if n, err := r.Read(p); n != 0 || err != io.EOF {
						t.Error("after the end Read returned", n, err)
					}
				}
				r = next() // e
				if n, err := c.Read(b); err != nil || n == 0 || strings.Trim(string(b[:n]), "f") != "" {
					t.Errorf("Read returned %q, %v", b[:n], err)
				}
				if n, err := r.Read(b); n != 0 || err == nil {
					t.Errorf("the reader of a message that is over read %q, %v", b[:n], err)
				}
			})
		}
	}
}

// TestClaim has a peer announce a large message: memory must not follow what
// it says.
func TestClaim(t *testing.T) {
	const most = 64 << 10
	o := &Options{MaxMessage: -1}
	for _, claim := range claims {
		for _, m := range readings {
			t.Run(claim.name+"/"+m.name, func(t *testing.T) {
				var err error
				rw := &tape{in: [][]byte{claim.wire}}
				n := allocated(func() {
					_, err = m.open(newConn(rw, o, false), 8<<10)()
				})
				// What has come of the message may be there, but not its end.
				if n > most || cause(err) != claim.eof && !(err == nil && m.name == "Read") {
					t.Errorf("allocated %d bytes, %v", n, err)
				}
			})
			t.Run(claim.name+"/"+m.name+"/TCP", func(t *testing.T) {
				socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
				if _, err := peer.Write(claim.wire); err != nil {
					t.Fatal(err)
				}
				peer.Close()
				var err error
				n := allocated(func() {
					_, err = m.open(newConn(socket, o, false), 8<<10)()
				})
				if n > most || err == nil {
					t.Errorf("allocated %d bytes, %v", n, err)
				}
			})
		}
		t.Run(claim.name+"/GetFrame", func(t *testing.T) {
			rw := &tape{in: [][]byte{claim.wire}}
			var err error
			if n := allocated(func() { _, err = GetFrame(rw) }); n > most || err == nil {
				t.Errorf("allocated %d bytes, %v", n, err)
			}
		})
	}
}

// TestGrowth reads a message of which only a part comes. What that costs is to
// be in proportion to the part.
func TestGrowth(t *testing.T) {
	for _, arrived := range []int{100, 10 << 10, 100 << 10, 1 << 20, 8 << 20} {
		wire := append(appendHeader(nil, finBit|opBinary, false, 1<<30), make([]byte, arrived)...)
		c := newConn(noClose{&tape{in: [][]byte{wire}}}, &Options{MaxMessage: -1}, true)
		var err error
		n := allocated(func() { _, _, err = c.ReadMessage() })
		// Doubling makes up to two of what has come, and as much again of the
		// memory that was too small.
		if most := uint64(8*arrived + 32<<10); n > most || cause(err) != io.ErrUnexpectedEOF {
			t.Errorf("%d bytes arrived, allocated %d, more than %d; %v", arrived, n, most, err)
		}
	}
	for _, size := range []int{1, 5000, 100 << 10, 1 << 20} {
		c, rw := tapeConn(nil, true, false)
		rw.in = [][]byte{toward(c, opBinary, strings.Repeat("x", size))}
		_, p, err := c.ReadMessage()
		if len(p) != size || cap(p) > 2*size+4<<10 || err != nil {
			t.Errorf("%d bytes came in a slice of %d, %v", len(p), cap(p), err)
		}
	}
}

// TestReadTogether checks that frames which arrive together, some of which are decoded in
// another way, are read as if they came byte by byte.
func TestReadTogether(t *testing.T) {
	hello := []byte("héllo")
	consumers := map[string]func(c *Conn, got func(MessageType, []byte)) error{
		"ReadMessage": func(c *Conn, got func(MessageType, []byte)) error {
			for {
				typ, p, err := c.ReadMessage()
				if err != nil {
					return err
				}
				if p == nil {
					t.Error("a message is nil")
				}
				got(typ, p)
			}
		},
		"AppendMessage": func(c *Conn, got func(MessageType, []byte)) error {
			for {
				typ, p, err := c.AppendMessage([]byte("kept"))
				if err != nil {
					return err
				}
				got(typ, bytes.TrimPrefix(p, []byte("kept")))
			}
		},
		"Serve": func(c *Conn, got func(MessageType, []byte)) error {
			return c.Serve(Handler{OnMessage: func(_ *Conn, typ MessageType, p []byte) {
				if len(p) != cap(p) {
					t.Error("the next frame lies in reach")
				}
				got(typ, p)
			}})
		},
		"reader and ReadMessage": func(c *Conn, got func(MessageType, []byte)) error {
			for {
				typ, r, err := c.NextReader()
				if err != nil {
					return err
				}
				b, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				got(typ, b)
				if typ, b, err = c.ReadMessage(); err != nil {
					return err
				}
				got(typ, b)
			}
		},
	}
	for _, client := range []bool{false, true} {
		frame := func(first byte, p []byte) []byte { return appendFrame(nil, first, p, !client) }
		bare := frame(finBit|opText, hello)
		last := map[string][]byte{
			"end":                   nil,
			"binary":                frame(finBit|opBinary, []byte{0, 0xff}),
			"empty":                 frame(finBit|opText, nil),
			"long":                  frame(finBit|opText, bytes.Repeat([]byte("x"), 100)),
			"of 16 bits":            frame(finBit|opBinary, make([]byte, 200)),
			"fragments":             slices.Concat(frame(opText, hello[:2]), frame(finBit|opPing, hello), frame(finBit, hello[2:])),
			"ping":                  frame(finBit|opPing, hello),
			"close":                 frame(finBit|opClose, appendClose(nil, 4000, "bye")),
			"not UTF-8":             frame(finBit|opText, []byte("a\xff")),
			"valid while masked":    {finBit | opText, maskBit | 2, 0x80, 0x80, 0x80, 0x80, 'a', 'b'},
			"ends within a rune":    frame(finBit|opText, hello[:2]),
			"too large":             frame(finBit|opText, make([]byte, 501)),
			"RSV1":                  frame(finBit|rsv1Bit|opText, hello),
			"RSV3":                  frame(finBit|0x10|opText, hello),
			"opcode 3":              frame(finBit|0x3, hello),
			"continuation":          frame(finBit, hello),
			"within another":        slices.Concat(frame(opText, hello), frame(finBit|opText, hello)),
			"masked the other way":  appendFrame(nil, finBit|opText, hello, client),
			"cut within the header": bare[:1],
			"cut within the frame":  bare[:len(bare)-1],
		}
		for name, end := range last {
			wire := slices.Concat(frame(finBit|opText, hello), frame(finBit|opBinary, hello), end, frame(finBit|opText, hello))
			if name == "cut within the header" || name == "cut within the frame" {
				wire = wire[:len(wire)-len(bare)]
			}
			for consumer, consume := range consumers {
				results := map[string]string{}
				var first string
				for way, chop := range map[string]int{"together": len(wire), "in pieces": 11, "byte by byte": 1} {
					c, rw := tapeConn(&Options{MaxMessage: 500}, client, false)
					rw.in = slices.Collect(slices.Chunk(bytes.Clone(wire), chop))
					var log []string
					err := consume(c, func(typ MessageType, p []byte) { log = append(log, fmt.Sprintf("%v %q", typ, p)) })
					c.CloseNow()
					results[way] = fmt.Sprint(log, err)
					first = results[way]
				}
				for way, got := range results {
					if got != first {
						t.Errorf("client=%t, %s, %s, %s: %s, want %s", client, name, consumer, way, got, first)
					}
				}
			}
		}
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		for b.Loop() {
			var err error
			if _, p, err = c.AppendMessage(p[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReadMessage(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		for b.Loop() {
			if _, _, err := c.ReadMessage(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNextReader(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		buf := make([]byte, 32<<10)
		for b.Loop() {
			_, r, err := c.NextReader()
			for err == nil {
				_, err = r.Read(buf)
			}
			if err != io.EOF {
				b.Fatal(err)
			}
		}
	})
}

// TestTimeoutsWithinMessage has many reads time out within a large message. They
// must not copy it each time.
func TestTimeoutsWithinMessage(t *testing.T) {
	const size = 1 << 20
	for name, dst := range map[string][]byte{"ReadMessage": nil, "AppendMessage": []byte("before")} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, &Options{MaxMessage: size}, false)
			frame := toward(c, opBinary, strings.Repeat("x", size))
			go peer.Write(frame[:len(frame)-1])
			read := func() ([]byte, error) {
				c.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, p, err := c.AppendMessage(dst)
				return p, err
			}
			if _, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(name, "returned", err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 100 {
				if p, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || !bytes.Equal(p, dst) {
					t.Fatalf("%s returned %d bytes, %v", name, len(p), err)
				}
			}
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > size/2 {
				t.Errorf("%s: 100 timeouts took %d bytes", name, n)
			}
			go peer.Write(frame[len(frame)-1:])
			if p, err := read(); err != nil || string(p) != string(dst)+strings.Repeat("x", size) {
				t.Errorf("%s returned %d bytes, %v", name, len(p), err)
			}
		})
	}
}

// TestReadBehindTimeout has Read go on with a large message of which AppendMessage
// has read a part before its deadline.
func TestReadBehindTimeout(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, client)
			message := make([]byte, 100_000)
			for i := range message {
				message[i] = byte(i / 1000)
			}
			frame := toward(c, opBinary, string(message))
			go peer.Write(frame[:len(frame)/2])
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, _, err := c.AppendMessage(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			go peer.Write(frame[len(frame)/2:])
			c.SetReadDeadline(time.Time{})
			got := make([]byte, len(message))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, message) {
				t.Errorf("got other bytes, %v", err)
			}
		})
	}
}

// TestIdleTimeout has reads time out between messages. That must not cost the next
// message its place in the caller's memory.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		dst := make([]byte, 0, 100)
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := c.AppendMessage(dst); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if c.read.ready() {
			t.Error("the next message will be put together elsewhere")
		}
		c.SetReadDeadline(time.Time{})
		go peer.Write(toward(c, opText, "message"))
		if _, p, err := c.AppendMessage(dst); err != nil || &p[0] != &dst[:1][0] {
			t.Errorf("%q is not in place, %v", p, err)
		}
	})
}

// TestReadMessageShared checks that messages that share an allocation do not share bytes.
func TestReadMessageShared(t *testing.T) {
	var input []byte
	var want []string
	for _, n := range []int{0, 1, 125, 2000, 126, 5000, 3, 0, 70} {
		want = append(want, strings.Repeat(string(rune('a'+len(want))), n))
		input = appendFrame(input, finBit|opText, []byte(want[len(want)-1]), true)
	}
	for size := range 3 { // of the pieces that come
		c := newConn(&tape{in: slices.Collect(slices.Chunk(bytes.Clone(input), []int{len(input), 1000, 7}[size]))}, nil, false)
		var got [][]byte
		for {
			_, p, err := c.ReadMessage()
			if cause(err) == io.EOF {
				break
			}
			if err != nil || p == nil {
				t.Fatal(p, err)
			}
			got = append(got, p)
		}
		for _, p := range got {
			_ = append(p, "overwritten"...)
		}
		if len(got) != len(want) {
			t.Fatalf("%d messages", len(got))
		}
		for i, p := range got {
			if string(p) != want[i] {
				t.Errorf("message %d is %.20q", i, p)
			}
		}
	}
}
