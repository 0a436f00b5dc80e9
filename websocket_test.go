package websocket

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

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
				speakHixie(w, hixie)
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
						speakHixie(r, hixie)
						got, err := read.all(r)
						how := fmt.Sprintf("%s, client=%v hixie=%v, %s, %s", kind.name, client, hixie, chunk.name, read.name)
						if cause(err) != io.EOF || !sameMessages(got, want, false) {
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

func TestEcho(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			done := goErr(func() error { return echo(server) })
			for _, size := range []int{0, 1, 125, 126, 1<<12 - 1, 1 << 12, 1<<14 - 1, 1 << 14, 1<<16 - 1, 1 << 16, 1 << 20} {
				want := bytes.Repeat([]byte("ab"), size)[:size]
				go client.WriteMessage(Text, want)
				typ, p, err := client.ReadMessage()
				if typ != Text || !bytes.Equal(p, want) || err != nil {
					t.Fatalf("%d bytes: got type %d, %d bytes, %v", size, typ, len(p), err)
				}
				if p == nil {
					t.Error("ReadMessage returned nil without an error")
				}
			}
			if err := client.Close(); err != nil {
				t.Error("Close:", err)
			}
			if err := wait(t, done); !errors.Is(err, io.EOF) {
				t.Error("the server ended with", err)
			}
		})
	}
}

// TestFullDuplex has two peers send and ping each other at full speed. It must
// not come to each waiting for the other to read.
func TestFullDuplex(t *testing.T) {
	for _, pair := range pairs[:2] {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			const senders, each = 4, 200
			var done []<-chan error
			for _, c := range []*Conn{server, client} {
				done = append(done, goErr(func() error {
					for range senders * each {
						if _, _, err := c.ReadMessage(); err != nil {
							return err
						}
					}
					go c.ReadMessage() // for the pongs
					return nil
				}))
				for range senders {
					done = append(done, goErr(func() error {
						p := make([]byte, 100<<10)
						for n := range each {
							if err := c.WriteMessage(Binary, p[:n*509%len(p)]); err != nil {
								return err
							}
						}
						return nil
					}), goErr(func() error {
						for range each / 4 {
							if err := c.Ping(t.Context()); err != nil {
								return err
							}
						}
						return nil
					}))
				}
			}
			for _, done := range done {
				if err := wait(t, done); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestStream passes on messages larger than the memory it may use.
func TestStream(t *testing.T) {
	const size, most = 64 << 20, 256 << 10
	for _, client := range []bool{false, true} {
		t.Run(fmt.Sprint("read/client=", client), func(t *testing.T) {
			head := appendHeader(nil, finBit|opBinary, !client, size)
			if !client {
				head = append(head, 0, 0, 0, 0)
			}
			rw := struct {
				io.Reader
				io.Writer
			}{io.MultiReader(bytes.NewReader(head), &endless{b: make([]byte, 64<<10)}), io.Discard}
			if n := allocated(func() {
				c := newConn(rw, &Options{MaxMessage: -1}, client)
				_, r, err := c.NextReader()
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); n != size || err != nil {
					t.Error(n, err)
				}
			}); n > most {
				t.Errorf("allocated %d bytes", n)
			}
		})
		t.Run(fmt.Sprint("write/client=", client), func(t *testing.T) {
			p := make([]byte, size)
			if n := allocated(func() {
				c := newConn(struct {
					io.Reader
					io.Writer
				}{nil, io.Discard}, nil, client)
				if err := c.WriteMessage(Binary, p); err != nil {
					t.Error(err)
				}
				w, err := c.NextWriter(Binary)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.CopyN(w, &endless{b: make([]byte, 1<<10)}, size); n != size || err != nil {
					t.Error(n, err)
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}); n > 2*most && !raceEnabled {
				t.Errorf("allocated %d bytes", n)
			}
		})
	}
}

func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	for _, client := range []bool{false, true} {
		for _, size := range payloadSizes {
			t.Run(fmt.Sprintf("%d/client=%t", size, client), func(t *testing.T) {
				c := looped(client, size)
				p := make([]byte, 0, size)
				buf := make([]byte, 8<<10)
				for _, tt := range []struct {
					name string
					most float64
					call func() error
				}{
					{"AppendMessage", 0, func() (err error) { _, p, err = c.AppendMessage(p[:0]); return err }},
					{"WriteMessage", 0, func() error { return c.WriteMessage(Binary, p) }},
					{"echo", 0, func() (err error) {
						if _, p, err = c.AppendMessage(p[:0]); err == nil {
							err = c.WriteMessage(Binary, p)
						}
						return err
					}},
					{"Read", 0, func() error {
						_, err := io.ReadFull(c, p[:size])
						return err
					}},
					{"ReadMessage", 1, func() error {
						if size > 4<<10 {
							return nil // grows as bytes arrive
						}
						_, _, err := c.ReadMessage()
						return err
					}},
					{"NextReader", 1, func() error {
						_, r, err := c.NextReader()
						for err == nil {
							_, err = r.Read(buf)
						}
						if err == io.EOF {
							err = nil
						}
						return err
					}},
				} {
					if n := testing.AllocsPerRun(50, func() {
						if err := tt.call(); err != nil {
							t.Fatal(err)
						}
					}); n > tt.most {
						t.Errorf("%s: %v allocations, want %v", tt.name, n, tt.most)
					}
				}
			})
		}
	}
}

// TestNetConn uses a Conn for what a net.Conn is used for.
func TestNetConn(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			t.Run("stream", func(t *testing.T) {
				server, client := pair.open(t, nil)
				text := strings.Repeat("All work and no play makes Jack a dull boy.\n", 5000)
				go func() {
					for i, rest := 0, text; rest != ""; i++ { // messages of all sizes
						n := min(i*i, len(rest))
						if m, err := io.WriteString(client, rest[:n]); m != n || err != nil {
							t.Error(m, err)
							return
						}
						rest = rest[n:]
					}
					client.Close()
				}()
				if err := iotest.TestReader(server, []byte(text)); err != nil {
					t.Error(err)
				}
			})
			t.Run("messages", func(t *testing.T) {
				server, client := pair.open(t, nil)
				go func() {
					client.Write([]byte("ab"))
					client.Write(nil)
					client.Write([]byte("c"))
				}()
				want := Binary
				if client.write.hixie {
					want = Text
				}
				for _, m := range []string{"ab", "", "c"} {
					typ, p, err := server.ReadMessage()
					if typ != want || string(p) != m || err != nil {
						t.Errorf("got type %d, %q, %v; want %q", typ, p, err, m)
					}
				}
			})
			t.Run("copy", func(t *testing.T) {
				server, client := pair.open(t, nil)
				go func() {
					io.Copy(server, server)
					server.Close()
				}()
				want := bytes.Repeat([]byte("0123456789"), 30000)
				go io.Copy(client, bytes.NewReader(want))
				got := make([]byte, len(want))
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
					t.Error("the copy came back otherwise:", err)
				}
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			})
			t.Run("JSON", func(t *testing.T) {
				server, client := pair.open(t, nil)
				go func() {
					var v any
					enc := json.NewEncoder(server)
					for dec := json.NewDecoder(server); dec.Decode(&v) == nil; {
						enc.Encode([]any{v})
					}
					server.Close()
				}()
				enc, dec := json.NewEncoder(client), json.NewDecoder(client)
				for _, v := range []string{"a", strings.Repeat("é", 3000)} {
					if err := enc.Encode(v); err != nil {
						t.Fatal(err)
					}
					var got []string
					if err := dec.Decode(&got); err != nil || !slices.Equal(got, []string{v}) {
						t.Errorf("got %q, %v", got, err)
					}
				}
				client.Close()
			})
			t.Run("deadline", func(t *testing.T) {
				_, client := pair.open(t, nil)
				if err := client.SetDeadline(time.Now().Add(-time.Second)); err != nil {
					t.Fatal(err)
				}
				var e net.Error
				if _, err := client.Read(make([]byte, 1)); !errors.As(err, &e) || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("Read returned", err)
				}
				if _, err := client.Write([]byte("x")); !errors.As(err, &e) || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("Write returned", err)
				}
			})
			t.Run("addresses", func(t *testing.T) {
				server, client := pair.open(t, nil)
				if got, want := server.LocalAddr(), client.RemoteAddr(); got.String() != want.String() || got.Network() != want.Network() {
					t.Errorf("%v is not %v", got, want)
				}
				if c := NewConn(server.t.rw, nil); c == server || c.write.client || NewConn(c, nil) != c {
					t.Error("NewConn made no server's Conn, or another one of a Conn")
				}
			})
			if pair.name[0] == 'R' { // its messages are no text
				t.Run("RPC", func(t *testing.T) {
					server, client := pair.open(t, nil)
					s := rpc.NewServer()
					if err := s.RegisterName("Arith", Arith{}); err != nil {
						t.Fatal(err)
					}
					served := goErr(func() error { s.ServeConn(server); return nil })
					cl := rpc.NewClient(client)
					var calls []*rpc.Call
					for i := range 100 {
						calls = append(calls, cl.Go("Arith.Double", i, new(int), nil))
					}
					for i, call := range calls {
						if call := wait(t, call.Done); call.Error != nil || *call.Reply.(*int) != 2*i {
							t.Error(call.Error, call.Reply)
						}
					}
					if err := cl.Close(); err != nil {
						t.Error(err)
					}
					wait(t, served)
				})
			}
		})
	}
}

// Arith is a service for net/rpc.
type Arith struct{}

func (Arith) Double(n int, twice *int) error {
	*twice = 2 * n
	return nil
}

// FuzzConn feeds arbitrary bytes to a Conn, while a consumer does with it
// whatever ops says. Only documented errors may come out, and what the Conn
// sends must be valid.
func FuzzConn(f *testing.F) {
	add := func(flags byte, ops string, wire ...[]byte) {
		f.Add(flags, uint64(len(ops)), []byte(ops), slices.Concat(wire...))
	}
	const all = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"
	for flags := range byte(8) {
		c := newConn(nil, nil, flags&1 != 0)
		speakHixie(c, flags&2 != 0)
		frame := func(op byte, p string) []byte { return toward(c, op, p) }
		add(flags, "", frame(opText, "one"), frame(opBinary, "two"), frame(opPing, "p"), frame(opText, ""), frame(opClose, closing(CloseNormal, "bye")), frame(opText, "late"))
		add(flags, all, frame(opText, strings.Repeat("é", 3000)), frame(opText, strings.Repeat("x", 20<<10)), frame(opText, "end"))
		add(flags, "\x02\x03\x02\x04\x02\x00", bytes.Repeat(frame(opText, "again and again"), 20))
		add(flags, "\x05\x06\x09\x05\x0b", frame(opText, "a"), frame(opPong, "\x00\x00\x00\x00\x00\x00\x00\x01"), frame(opText, "b"))
		add(flags, all, frame(opText, "\xff"))
		add(flags, all, frame(opClose, "\x03\xe7"))
		add(flags, all, frame(opClose, "\x03"), frame(opPing, strings.Repeat("x", 126)))
		add(flags, "\x00", []byte("\x01\x03one\x80\x03two\x00\x80\x7fdiscard\xff\x05skip\xff\xff\x00"))
		add(flags, "\x00", appendFrame(nil, opText, []byte("o\xc3"), flags&1 == 0), frame(opPing, ""), appendFrame(nil, finBit, []byte("\xa9"), flags&1 == 0))
		for _, claim := range claims {
			add(flags, "\x02\x04\x00", claim.wire)
		}
	}
	f.Fuzz(func(t *testing.T, flags byte, seed uint64, ops, wire []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		rw := &tape{}
		for len(wire) > 0 {
			n := min(len(wire), 1+rnd.IntN(1<<rnd.IntN(15)))
			rw.in = append(rw.in, wire[:n])
			wire = wire[n:]
		}
		if flags&16 != 0 {
			rw.end = errBroken
		}
		o := &Options{MaxMessage: []int64{0, 16, 5000, -1}[flags>>5&3]}
		var transport io.ReadWriter = noClose{rw}
		if flags&4 != 0 {
			transport = rw // it has Close: control frames take another way
		}
		c := newConn(transport, o, flags&1 != 0)
		speakHixie(c, flags&2 != 0)
		if flags&8 != 0 && !c.write.client { // the handshake may be in there, too
			speakHixie(c, false)
			if _, err := ShakeHands(c); err != nil {
				checkFuzzError(t, err)
				c.CloseNow()
				return
			}
			rw.mu.Lock()
			rw.events = nil // what follows is to be frames
			rw.mu.Unlock()
		}
		var r io.Reader
		var w io.WriteCloser
		ended := 0
		for i := 0; ended < 3; i++ {
			var op byte
			if len(ops) > 0 {
				op = ops[i%len(ops)]
			}
			if i > len(ops) && i%2 == 0 {
				op = 0 // something has to read until the end
			}
			size := rnd.IntN(1 << rnd.IntN(17))
			var err error
			switch op % 14 {
			case 0:
				var typ MessageType
				var p []byte
				typ, p, err = c.ReadMessage()
				if err == nil && (typ != Text && typ != Binary || p == nil) {
					t.Fatalf("a message of type %d, %q", typ, p)
				}
				if o.MaxMessage > 0 && int64(len(p)) > o.MaxMessage {
					t.Fatalf("a message of %d bytes", len(p))
				}
			case 1:
				var p []byte
				dst := []byte("kept")
				_, p, err = c.AppendMessage(dst)
				if !bytes.HasPrefix(p, dst) || err != nil && len(p) != len(dst) {
					t.Fatalf("AppendMessage made %q of %q, %v", p, dst, err)
				}
			case 2:
				_, r, err = c.NextReader()
			case 3:
				_, err = c.Read(make([]byte, size))
			case 4:
				if r != nil {
					if _, err = r.Read(make([]byte, size)); err == io.EOF {
						r, err = nil, nil
					}
				}
			case 5, 6:
				if w == nil {
					err = c.WriteMessage(Text, make([]byte, size))
				}
			case 7:
				if w == nil && !c.write.hixie {
					err = c.WriteMessage(Binary, make([]byte, size))
				}
			case 8:
				if w == nil {
					w, err = c.NextWriter(Text)
				}
			case 9:
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				c.Ping(ctx)
			case 10:
				if w != nil {
					_, err = w.Write([]byte("wörld"))
				}
			case 11:
				if w != nil {
					err = w.Close()
					w = nil
				}
			case 12:
				if w == nil && i > len(ops)/2 {
					checkFuzzError(t, c.CloseWith(4000, "enough"))
				}
			case 13:
				if i > len(ops)/2 {
					c.CloseNow()
				}
			}
			checkFuzzError(t, err)
			if err != nil && op%14 < 4 {
				ended++
				if _, _, again := c.ReadMessage(); again == nil {
					t.Fatalf("ReadMessage returned no error after %v", err)
				}
			}
		}
		c.CloseNow()

		d := decoder{hixie: c.write.hixie, masked: c.write.client, limit: math.MaxInt64}
		closed := false
		for b := rw.written(); len(b) > 0; {
			p, n, err := d.next(b)
			if err != nil || n == 0 || closed {
				t.Fatalf("sent %.20q: %v, behind a close frame: %t", b, err, closed)
			}
			closed = p.opcode == opClose
			b = b[n:]
		}
	})
}

// checkFuzzError accepts the errors that a Conn over a tape may return.
func checkFuzzError(t *testing.T, err error) {
	t.Helper()
	var ce *CloseError
	var he *HandshakeError
	switch {
	case err == nil, errors.As(err, &ce), errors.As(err, &he), errors.Is(err, net.ErrClosed):
	case err == io.EOF, err == io.ErrUnexpectedEOF, err == errBroken, errors.Is(err, os.ErrClosed):
	default:
		t.Fatalf("undocumented error %v", err)
	}
}

// BenchmarkEcho sends 128 bytes there and back over TCP, with some messages in
// flight at a time.
func BenchmarkEcho(b *testing.B) {
	for _, flight := range []int{1, 16} {
		b.Run(fmt.Sprint("inflight=", flight), func(b *testing.B) {
			server, client := tcpPipe(b, nil)
			done := goErr(func() error {
				var p []byte
				for {
					typ, q, err := server.AppendMessage(p[:0])
					if err == nil {
						p = q
						err = server.WriteMessage(typ, p)
					}
					if err != nil {
						return err
					}
				}
			})
			message := make([]byte, 128)
			batch := bytes.Repeat(toward(server, opBinary, string(message)), flight)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += flight {
				if _, err := client.t.rw.Write(batch); err != nil {
					b.Fatal(err)
				}
				for range flight {
					var err error
					if _, message, err = client.AppendMessage(message[:0]); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			if err := client.Close(); err != nil {
				b.Error(err)
			}
			<-done
		})
	}
}
