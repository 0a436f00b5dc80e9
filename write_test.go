package websocket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestHixieWrites shows what a Conn sends with hixie-76, and what it refuses to.
func TestHixieWrites(t *testing.T) {
	for _, client := range []bool{false, true} {
		var out bytes.Buffer
		w := &wireCloser{wireStream: wireStream{strings.NewReader("\x00late\xff\xff\x00\x00later\xff"), &out}}
		c := newConn(w, nil, client)
		defer c.CloseNow()
		speakHixie(c, true)
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
	speakHixie(c, true)
	m, _ := c.NextWriter(Text)
	m.Write([]byte("half"))
	if _, _, err := c.ReadMessage(); !errors.Is(err, io.EOF) || out.String() != "\x00half" {
		t.Errorf("closing handshake within a text: %v, sent %q", err, out.String())
	}
}

// TestWriteBeforeHandshake sends when the response has not been written.
func TestWriteBeforeHandshake(t *testing.T) {
	c, rw := tapeConn(nil, false, false)
	rw.in = [][]byte{[]byte("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")}
	req, err := GetRequest(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := PutFrame(c, nil); err != errUnfinished {
		t.Error("PutFrame returned", err)
	}
	if _, err := GetFrame(c); err != errUnfinished {
		t.Error("GetFrame returned", err)
	}
	if c.Request() != nil {
		t.Error("there is a request before it is accepted")
	}
	if err := PutResponse(c, req); err != nil {
		t.Fatal(err)
	}
	if err := PutFrame(c, nil); err != nil || !reflect.DeepEqual(c.Request(), req) {
		t.Error(err, c.Request())
	}
}

// TestNothingBehindFailedWrite has messages wait while a write fails. A part of
// a frame may have left, so that no byte may follow.
func TestNothingBehindFailedWrite(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		for _, client := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var writes atomic.Int32
				fail := make(chan struct{})
				c := newConn(struct {
					io.Reader
					io.Writer
				}{&tape{}, writeFunc(func(p []byte) (int, error) {
					if writes.Add(1) == 1 {
						<-fail
						return len(p) / 2, errBroken
					}
					return len(p), nil
				})}, nil, client)
				var written []<-chan error
				for _, size := range []int{size, 10, 100 << 10} {
					written = append(written, goErr(func() error { return c.WriteMessage(Binary, make([]byte, size)) }))
					synctest.Wait()
				}
				close(fail)
				for _, done := range written {
					if err := wait(t, done); err != errBroken {
						t.Error("WriteMessage returned", err)
					}
				}
				if err := c.Close(); err != nil {
					t.Error("Close returned", err)
				}
				if n := writes.Load(); n != 1 {
					t.Errorf("%d writes", n)
				}
			})
		}
	}
}

// TestConcurrentWriters has sixteen goroutines send at the same time. Every
// message must arrive whole, and those of one goroutine in order.
func TestConcurrentWriters(t *testing.T) {
	const senders, each, empties = 16, 24, 3
	sizes := []int{5, 100, 126, 4 << 10, 20 << 10, 60 << 10, 64<<10 - 1, 64 << 10, 100 << 10, 300 << 10}
	// message returns what a sender sends as its nth.
	message := func(sender, n int) []byte {
		if n%(each/empties) == 0 {
			return nil
		}
		size := sizes[rand.New(rand.NewPCG(uint64(sender), uint64(n))).IntN(len(sizes))]
		p := bytes.Repeat([]byte{byte(sender + n&0x3F)}, size)
		p[0] = byte(sender)
		binary.BigEndian.PutUint32(p[1:], uint32(n))
		return p
	}
	for _, pair := range pairs {
		for _, role := range []string{"server", "client"} {
			t.Run(pair.name+"/"+role, func(t *testing.T) {
				from, to := pair.open(t, nil)
				if role == "client" {
					from, to = to, from
				}
				hixie := from.write.hixie
				go from.ReadMessage() // finds the pongs
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var sending []<-chan error
				for sender := range senders {
					sending = append(sending, goErr(func() error {
						for n := range each {
							var err error
							if p := message(sender, n); n%4 == 1 && p != nil {
								var w io.WriteCloser
								w, err = from.NextWriter(Text)
								if err == nil {
									for part := range slices.Chunk(p, len(p)/2+1) {
										if _, err = w.Write(part); err != nil {
											return err
										}
									}
									err = w.Close()
								}
							} else {
								err = from.WriteMessage(Text, p)
							}
							if err == nil && n%6 == 2 && !hixie {
								err = from.Ping(ctx)
							}
							if err != nil {
								return err
							}
						}
						return nil
					}))
				}
				var next [senders]int
				empty := 0
				for range senders * each {
					_, p, err := to.ReadMessage()
					if err != nil {
						t.Fatal(err)
					}
					if len(p) == 0 {
						empty++
						continue
					}
					sender := int(p[0])
					if sender >= senders {
						t.Fatalf("a message begins %.10q", p)
					}
					n := next[sender]
					if n%(each/empties) == 0 {
						n++
					}
					if want := message(sender, n); !bytes.Equal(p, want) {
						t.Fatalf("sender %d, message %d: %d bytes, %.10q; want %d bytes", sender, n, len(p), p, len(want))
					}
					next[sender] = n + 1
				}
				if empty != senders*empties {
					t.Errorf("%d messages without payload, want %d", empty, senders*empties)
				}
				go to.ReadMessage() // answers the last pings
				for _, done := range sending {
					if err := wait(t, done); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestWriteBehindBatch has a large message wait behind small ones that have
// come to more than what is written at once.
func TestWriteBehindBatch(t *testing.T) {
	for _, pair := range pairs {
		if !strings.HasSuffix(pair.name, "pipe") {
			continue
		}
		for _, role := range []string{"server", "client"} {
			t.Run(pair.name+"/"+role, func(t *testing.T) {
				for range 8 { // it depends on who comes first
					synctest.Test(t, func(t *testing.T) {
						from, to := pair.open(t, nil)
						if role == "client" {
							from, to = to, from
						}
						var written []<-chan error
						for _, size := range []int{1 << 10, 60 << 10, 60 << 10, 60 << 10, 100 << 10, 60 << 10, 100 << 10} {
							written = append(written, goErr(func() error { return from.WriteMessage(Text, make([]byte, size)) }))
							synctest.Wait()
						}
						for range written {
							if _, _, err := to.ReadMessage(); err != nil {
								t.Fatal(err)
							}
						}
						for _, done := range written {
							if err := wait(t, done); err != nil {
								t.Error(err)
							}
						}
					})
				}
			})
		}
	}
}

func TestWriteArguments(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		c, rw := tapeConn(nil, false, hixie)
		if err := c.WriteMessage(Text, []byte("\xff")); err != errNotUTF8 {
			t.Error(err)
		}
		for _, typ := range []MessageType{0, 3, opClose, opPing, 0xFF} {
			if err := c.WriteMessage(typ, nil); err == nil {
				t.Errorf("WriteMessage took the type %d", typ)
			}
			if _, err := c.NextWriter(typ); err == nil {
				t.Errorf("NextWriter took the type %d", typ)
			}
		}
		if err := c.WriteMessage(Binary, nil); errors.Is(err, errors.ErrUnsupported) != hixie {
			t.Error(err)
		}
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("\xff")); err != errNotUTF8 {
			t.Error(err)
		}
		for _, part := range []string{"\xf0\x9f", "", "\x98\x80"} { // parts of one rune
			if _, err := io.WriteString(w, part); err != nil {
				t.Error(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != errStale {
			t.Error("a second Close returned", err)
		}
		if _, err := w.Write(nil); err != errStale {
			t.Error("Write after Close returned", err)
		}
		var text string
		for _, f := range parseSent(t, c, rw.written()) {
			if f.opcode == opText {
				text += f.payload
			}
		}
		if text != "\U0001F600" {
			t.Errorf("sent %q", text)
		}
	}
	// A message that ends within a rune cannot be mended any more.
	c, rw := tapeConn(nil, false, false)
	w, _ := c.NextWriter(Text)
	io.WriteString(w, "\xf0\x9f")
	if err := w.Close(); err != errNotUTF8 {
		t.Error(err)
	}
	if b := rw.written(); !bytes.Contains(b, []byte("\x03\xf3")) { // 1011
		t.Errorf("sent %q", b)
	}
	if err := c.WriteMessage(Text, nil); err == nil {
		t.Error("a message left behind half a rune")
	}
}

// TestBatch answers frames that arrive together: the replies leave together,
// before the Conn waits for more.
func TestBatch(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parts []int  // frames in each read; -1 cuts the last one in half
		want  string // r is a read, w and a number is a write of that many frames
	}{
		{"one by one", []int{1, 1, 1}, "r w1 r w1 r w1 r"},
		{"together", []int{16}, "r w16 r"},
		{"twice", []int{16, 3}, "r w16 r w3 r"},
		{"half", []int{4, -1, 1, 2}, "r w3 r w2 r w2 r"}, // frames 1 to 3 must not wait for the rest of 4
	} {
		for name, answer := range echoes {
			for _, client := range []bool{false, true} {
				for _, hixie := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/client=%t/hixie=%t", tt.name, name, client, hixie), func(t *testing.T) {
						// Time stands still: the timer cannot have written anything.
						synctest.Test(t, func(t *testing.T) {
							c, rw := tapeConn(nil, client, hixie)
							message := strings.Repeat("x", 16)
							var rest []byte
							total := 0
							for _, n := range tt.parts {
								if n < 0 {
									last := rw.in[len(rw.in)-1]
									half := len(last) - 8
									rw.in[len(rw.in)-1], rest = last[:half], last[half:]
									continue
								}
								part := rest
								rest = nil
								for range n {
									part = append(part, toward(c, opText, message)...)
								}
								rw.in = append(rw.in, part)
								total += n
							}
							for range total {
								if err := answer(c); err != nil {
									t.Fatal(err)
								}
							}
							if err := answer(c); cause(err) != io.EOF {
								t.Fatal(err)
							}
							var got []string
							for _, e := range rw.events {
								if e.wrote == nil {
									got = append(got, "r")
									continue
								}
								got = append(got, fmt.Sprint("w", len(parseSent(t, c, e.wrote))))
							}
							if got := strings.Join(got, " "); got != tt.want {
								t.Errorf("got %s, want %s", got, tt.want)
							}
						})
					})
				}
			}
		}
	}
}

// TestBatchUnanswered does not answer what comes last: the replies before it
// must leave nevertheless before the Conn waits.
func TestBatchUnanswered(t *testing.T) {
	for _, last := range []struct {
		name  string
		frame func(c *Conn) []byte
		reads int // messages in it
	}{
		{"message", func(c *Conn) []byte { return toward(c, opText, "last") }, 1},
		{"pong", func(c *Conn) []byte { return toward(c, opPong, "") }, 0},
		{"fragment", func(c *Conn) []byte { return appendFrame(nil, opText, nil, !c.write.client) }, 0},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/client=%t", last.name, client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, rw := tapeConn(nil, client, false)
					rw.in = [][]byte{slices.Concat(toward(c, opText, "1"), toward(c, opText, "2"), last.frame(c))}
					for range 2 {
						if err := echoes["GetFrame"](c); err != nil {
							t.Fatal(err)
						}
					}
					if n := len(rw.writes()); n != 0 {
						t.Errorf("%d writes while there is more to read", n)
					}
					for range last.reads {
						if _, err := GetFrame(c); err != nil {
							t.Fatal(err)
						}
					}
					GetFrame(c) // finds the end
					w := rw.writes()
					if len(w) != 1 || len(parseSent(t, c, w[0].wrote)) != 2 || len(rw.events) != 3 || rw.events[1].wrote == nil {
						t.Errorf("%d writes among %d events", len(w), len(rw.events))
					}
				})
			})
		}
	}
}

// TestWriteWhileReading sends while another goroutine waits for input: nothing
// is left to be read, so the message has nothing to wait for.
func TestWriteWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		go peer.Write(slices.Concat(toward(c, opText, "message"), toward(c, opPong, "")))
		if _, err := GetFrame(c); err != nil {
			t.Fatal(err)
		}
		go c.ReadMessage()
		synctest.Wait()
		start := time.Now()
		go c.WriteMessage(Text, nil)
		if _, err := peer.Read(make([]byte, 8)); err != nil || time.Since(start) != 0 {
			t.Error("the message came after", time.Since(start), err)
		}
	})
}

// TestNextWriterInBatch ends a message that need not leave at once, for which
// another goroutine waits.
func TestNextWriterInBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rw := tapeConn(nil, false, false)
		rw.in = [][]byte{bytes.Repeat(toward(c, opText, ""), 2)}
		if _, err := GetFrame(c); err != nil {
			t.Fatal(err)
		}
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		written := goErr(func() error { return PutFrame(c, []byte("next")) })
		synctest.Wait()
		if len(written) != 0 {
			t.Error("a message came between the fragments of another")
		}
		start := time.Now()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := wait(t, written); err != nil || time.Since(start) != 0 {
			t.Error(err, "after", time.Since(start))
		}
	})
}

// TestBatchDelay has a handler stall after it has replied.
func TestBatchDelay(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, rw := tapeConn(nil, false, hixie)
			rw.in = [][]byte{bytes.Repeat(toward(c, opText, "x"), 4)}
			for range 2 {
				start := time.Now()
				if err := echoes["ReadMessage"](c); err != nil {
					t.Fatal(err)
				}
				if n := len(rw.writes()); n != 0 {
					t.Errorf("%d writes while there is more to read", n)
				}
				time.Sleep(time.Hour)
				w := rw.writes()
				if len(w) != 1 || w[0].at.Sub(start) > 2*time.Millisecond {
					t.Errorf("%d writes; the reply was late", len(w))
				}
				rw.events = nil
			}
		})
	}
}

// TestWriteOfOthers has the message of another goroutine wait in the output when
// the reader has to wait for input, from a peer that sends before it reads. The
// reader must not wait for that peer to read.
func TestWriteOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		next, read := make(chan bool), make(chan string)
		go func() {
			for range next {
				p, _ := GetFrame(c)
				read <- string(p)
			}
		}()
		defer close(next)
		get := func(want string) {
			t.Helper()
			select {
			case got := <-read:
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("the reader waits for its peer to read")
			}
		}

		next <- true
		synctest.Wait()
		go func() {
			io.ReadFull(peer, make([]byte, 2+len("first")))
			peer.Write(bytes.Repeat(toward(c, opText, "a"), 2))
			peer.Write(toward(c, opText, "b"))
			io.Copy(io.Discard, peer)
		}()
		if err := c.WriteMessage(Text, []byte("first")); err != nil {
			t.Fatal(err)
		}
		get("a")
		if err := c.WriteMessage(Text, []byte("second")); err != nil {
			t.Fatal(err)
		}
		next <- true
		get("a")
		next <- true
		get("b")
	})
}

// TestBatchSize makes more output than is to be kept back.
func TestBatchSize(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, size := range []int{1 << 10, 10 << 10, 60 << 10} {
			synctest.Test(t, func(t *testing.T) {
				c, rw := tapeConn(nil, true, hixie)
				rw.in = [][]byte{bytes.Repeat(toward(c, opText, ""), 400)}
				p := make([]byte, size)
				sent, count := 0, 0
				for n := range 200 {
					if _, err := GetFrame(c); err != nil {
						t.Fatal(err)
					}
					if err := PutFrame(c, p); err != nil {
						t.Fatal(err)
					}
					writes := rw.writes()
					for _, w := range writes {
						sent += len(w.wrote)
					}
					count += len(writes)
					rw.events = nil
					if kept := (n+1)*size - sent; kept > batchSize {
						t.Fatalf("%d bytes are kept back", kept)
					}
				}
				if n, most := count, 1+200*size/batchSize*2; n > most {
					t.Errorf("%d writes, want %d at the most", n, most)
				}
			})
		}
	}
}

// TestOneWrite sends messages when nothing waits to be read: each takes one
// Write, and so does each fragment.
func TestOneWrite(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, hixie := range []bool{false, true} {
			for _, size := range []int{0, 1, 125, 126, 4 << 10, 16<<10 - 1, 16 << 10, 60 << 10} {
				c, rw := tapeConn(nil, client, hixie)
				p := bytes.Repeat([]byte("x"), size)
				want := func(n int, what string) {
					t.Helper()
					w := rw.writes()
					if len(w) != n {
						t.Fatalf("client=%t, hixie=%t, %d bytes: %d writes for %s", client, hixie, size, len(w), what)
					}
				}
				if err := c.WriteMessage(Text, p); err != nil {
					t.Fatal(err)
				}
				want(1, "a message")
				w, err := c.NextWriter(Text)
				if err != nil {
					t.Fatal(err)
				}
				want(1, "a message and no fragment")
				w.Write(p)
				want(2, "a message and a fragment")
				w.Close()
				want(3, "a message and two fragments")
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
				want(4, "two messages and two fragments")
				total := 0
				for _, f := range parseSent(t, c, rw.written()) {
					total += len(f.payload)
				}
				if total != 3*size {
					t.Errorf("client=%t, hixie=%t, %d bytes: sent %d", client, hixie, size, total)
				}
			}
		}
	}
}

func BenchmarkWriteMessage(b *testing.B) {
	benchSizes(b, func(b *testing.B, c *Conn, p []byte) {
		c.more.Store(false)
		for b.Loop() {
			if err := c.WriteMessage(Binary, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestNoEmptyWrite ends a hixie-76 connection where nothing can be sent any more.
func TestNoEmptyWrite(t *testing.T) {
	c, rw := tapeConn(nil, false, true)
	w, err := c.NextWriter(Text)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "half")
	rw.in = [][]byte{{0xFF, 0x00}}
	if _, err := GetFrame(c); err != io.EOF {
		t.Error(err)
	}
	for _, w := range rw.writes() {
		if len(w.wrote) == 0 {
			t.Error("a write of nothing")
		}
	}
}
