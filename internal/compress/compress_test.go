// Package compress has messages compressed and inflated by github.com/klauspost/compress, with
// the standard library's package on the other side.
package compress

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
	"github.com/klauspost/compress/flate"
)

// fast is what a program needs.
var fast = &websocket.Flate{
	NewWriter: func(w io.Writer) (websocket.FlateWriter, error) {
		return flate.NewWriter(w, flate.BestSpeed)
	},
	NewReader: flate.NewReader,
}

// flates are fast at several levels, and the standard library's, which is nil.
var flates = []*websocket.Flate{fast, at(flate.HuffmanOnly), at(5), at(flate.BestCompression), nil}

func at(level int) *websocket.Flate {
	return &websocket.Flate{
		NewWriter: func(w io.Writer) (websocket.FlateWriter, error) { return flate.NewWriter(w, level) },
		NewReader: flate.NewReader,
	}
}

// A meter counts what is written to a connection.
type meter struct {
	net.Conn
	n atomic.Int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	m.n.Add(int64(n))
	return n, err
}

// An end is a Conn, and what it has written.
type end struct {
	*websocket.Conn
	meter *meter
}

// pair returns both ends of a connection after the opening handshake.
func pair(t testing.TB, so, co *websocket.Options) (server, client end) {
	t.Helper()
	a, b := net.Pipe()
	server.meter, client.meter = &meter{Conn: a}, &meter{Conn: b}
	server.Conn = websocket.NewConn(server.meter, so)
	shaken := make(chan error, 1)
	go func() {
		_, err := websocket.ShakeHands(server)
		shaken <- err
	}()
	var err error
	if client.Conn, err = websocket.ClientHandshake(client.meter, "ws://h/", co); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	for _, e := range []end{server, client} {
		e.meter.n.Store(0)
		e.SetDeadline(time.Now().Add(30 * time.Second))
	}
	return server, client
}

// text is like records in JSON.
func text(size int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var b []byte
	for len(b) < size {
		b = fmt.Appendf(b, `{"id":%d,"name":"user %d","active":%t},`, rnd.IntN(1e6), rnd.IntN(1000), rnd.IntN(2) > 0)
	}
	return b[:size]
}

// write sends p whole, or in so many fragments.
func write(c *websocket.Conn, p []byte, fragments int) error {
	if fragments == 0 {
		return c.WriteMessage(websocket.Binary, p)
	}
	w, err := c.NextWriter(websocket.Binary)
	for n := fragments; n > 0 && err == nil; n-- {
		_, err = w.Write(p[:len(p)/n])
		p = p[len(p)/n:]
	}
	if err != nil {
		return err
	}
	return w.Close()
}

// read receives a message whole, or by a reader.
func read(c *websocket.Conn, whole bool) ([]byte, error) {
	if whole {
		_, p, err := c.ReadMessage()
		return p, err
	}
	_, r, err := c.NextReader()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// echo sends p from one end to the other and back.
func echo(t testing.TB, a, b end, p []byte, fragments int, whole bool) {
	t.Helper()
	for _, ends := range [][2]end{{a, b}, {b, a}} {
		from, to := ends[0], ends[1]
		written := make(chan error, 1)
		go func() { written <- write(from.Conn, p, fragments) }()
		got, err := read(to.Conn, whole)
		if err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%q: %d bytes instead of %d, %v", to.Request().Extensions, len(got), len(p), err)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
}

// Messages go both ways, with every window, with and without context takeover, and between
// any two packages.
func TestEcho(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		for bits := 8; bits <= 15; bits++ {
			for i, server := range flates {
				for j, client := range flates {
					t.Run(fmt.Sprintf("takeover=%t/bits=%d/%d,%d", takeover, bits, i, j), func(t *testing.T) {
						options := func(f *websocket.Flate) *websocket.Options {
							return &websocket.Options{Deflate: &websocket.Deflate{Flate: f, ContextTakeover: takeover, WindowBits: bits, Threshold: -1}}
						}
						a, b := pair(t, options(server), options(client))
						var total int64
						for k, size := range []int{0, 1, 200, 1000, 1000, 5000, 70000, 1000, 300} {
							echo(t, a, b, text(size, uint64(k%2)), k%3, k%4 < 2)
							total += int64(size)
						}
						for _, e := range []end{a, b} {
							if n := e.meter.n.Load(); n > total*4/5 {
								t.Errorf("%d bytes were sent for %d", n, total)
							}
						}
					})
				}
			}
		}
	}
}

// With context takeover, a message that is like the one before is much shorter.
func TestTakeover(t *testing.T) {
	for i, f := range flates {
		o := &websocket.Options{Deflate: &websocket.Deflate{Flate: f, ContextTakeover: true}}
		a, b := pair(t, o, &websocket.Options{Deflate: &websocket.Deflate{ContextTakeover: true}})
		p := text(1000, 1)
		echo(t, a, b, p, 0, true)
		first := a.meter.n.Swap(0)
		echo(t, a, b, p, 0, true)
		if second := a.meter.n.Load(); i != 1 && second > first/5 { // HuffmanOnly refers to nothing
			t.Errorf("%d: messages of %d and then %d bytes", i, first, second)
		}
	}
}

// A Server shares fast among its connections, and compresses broadcasts with it.
func TestServer(t *testing.T) {
	const clients = 20
	s := &websocket.Server{Options: websocket.Options{Deflate: &websocket.Deflate{Flate: fast, ContextTakeover: true}}}
	s.OnMessage = func(c *websocket.Conn, t websocket.MessageType, p []byte) { c.WriteMessage(t, p) }
	h := httptest.NewServer(s)
	defer h.Close()
	defer s.Shutdown(t.Context())
	shout := text(3000, 1)
	echoed, done := make(chan struct{}, clients), make(chan error, clients)
	client := func(i int) error {
		d := &websocket.Deflate{ContextTakeover: i%2 > 0}
		if i%3 > 0 {
			d.Flate = fast
		}
		c, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(h.URL, "http"), &websocket.Options{Deflate: d})
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		expect := func(want []byte) error {
			_, p, err := c.ReadMessage()
			if err == nil && !bytes.Equal(p, want) {
				err = fmt.Errorf("a message of %d bytes, and not the one of %d that was to come", len(p), len(want))
			}
			return err
		}
		for j := range 50 {
			p := text(100*j, uint64(i))
			if err := cmp.Or(c.WriteMessage(websocket.Text, p), expect(p)); err != nil {
				return err
			}
		}
		echoed <- struct{}{}
		return expect(shout)
	}
	for i := range clients {
		go func() { done <- client(i) }()
	}
	for range clients {
		select {
		case <-echoed:
		case err := <-done:
			t.Fatal(err)
		}
	}
	if err := s.Broadcast(websocket.Text, shout); err != nil {
		t.Fatal(err)
	}
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A message that becomes too large ends the connection, before it takes much memory.
func TestBomb(t *testing.T) {
	const limit = 1 << 20
	bomb := make([]byte, 64<<20)
	for _, takeover := range []bool{false, true} {
		for fragments := range 3 {
			for _, whole := range []bool{true, false} {
				o := &websocket.Options{Deflate: &websocket.Deflate{ContextTakeover: takeover}}
				own := *o
				own.Deflate = &websocket.Deflate{Flate: fast, ContextTakeover: takeover}
				own.MaxMessage = limit
				server, client := pair(t, &own, o)
				echo(t, server, client, text(1000, 1), 0, whole)
				written := make(chan error, 1)
				go func() { written <- write(client.Conn, bomb, fragments) }()
				go client.ReadMessage() // the close frame
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				p, err := read(server.Conn, whole)
				runtime.ReadMemStats(&after)
				if e, ok := errors.AsType[*websocket.CloseError](err); !ok || e.Code != websocket.CloseMessageTooBig {
					t.Errorf("takeover=%t, %d fragments: %d bytes, %v", takeover, fragments, len(p), err)
				}
				if used := after.TotalAlloc - before.TotalAlloc; used > 16*limit {
					t.Errorf("takeover=%t, %d fragments: %d bytes were allocated", takeover, fragments, used)
				}
				server.CloseNow()
				<-written
			}
		}
	}
}

// frames returns a compressed message as it is on the wire, from a server, in fragments of size bytes.
func frames(message []byte, size int) (wire []byte) {
	first := byte(0x42) // binary, RSV1
	for {
		n := min(size, len(message))
		if n == len(message) {
			first |= 0x80
		}
		wire = append(wire, first, 126)
		wire = binary.BigEndian.AppendUint16(wire, uint16(n))
		wire = append(wire, message[:n]...)
		if message = message[n:]; first&0x80 != 0 {
			return wire
		}
		first = 0
	}
}

// messages reads all that is on the wire with a Flate, and returns the messages and the code of
// the failure, which is CloseAbnormal if there is none.
func messages(t *testing.T, f *websocket.Flate, wire []byte, takeover, whole bool) (all [][]byte, code websocket.CloseCode) {
	t.Helper()
	extensions := "permessage-deflate"
	if !takeover {
		extensions += "; server_no_context_takeover; client_no_context_takeover"
	}
	c := websocket.NewConn(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(wire), io.Discard}, &websocket.Options{
		Client: true, Extensions: extensions, MaxMessage: 1 << 16,
		Deflate: &websocket.Deflate{Flate: f, ContextTakeover: takeover},
	})
	for {
		p, err := read(c, whole)
		if err == nil {
			all = append(all, p)
			continue
		}
		e, ok := errors.AsType[*websocket.CloseError](err)
		if !ok {
			t.Fatal(err)
		}
		return all, e.Code
	}
}

// FuzzInflate has both packages make the same of what a peer sends, which may be anything.
func FuzzInflate(f *testing.F) {
	var sample bytes.Buffer
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		sample.Reset()
		w, err := flate.NewWriter(&sample, level)
		if err != nil {
			f.Fatal(err)
		}
		w.Write(text(2000, uint64(level+2)))
		w.Flush()
		f.Add(sample.Bytes()[:sample.Len()-4], uint16(100), level%2 > 0)
		rnd := rand.New(rand.NewPCG(uint64(level+2), 0))
		for range 100 { // and with faults
			p := bytes.Clone(sample.Bytes())
			for range 1 + rnd.IntN(3) {
				p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
			}
			f.Add(p[:rnd.IntN(len(p))], uint16(1+rnd.IntN(3000)), level%2 > 0)
		}
	}
	f.Add([]byte("\x01\x0a\x00\xf5\xffa"), uint16(1000), false) // a stored block that is longer than the message
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00"), uint16(9), true)
	f.Add([]byte("\x07"), uint16(1), true)
	f.Fuzz(func(t *testing.T, message []byte, size uint16, takeover bool) {
		if len(message) > 1<<15 {
			return
		}
		wire := frames(message, max(1, int(size)))
		wire = append(wire, frames(message, 1<<15)...)
		want, code := messages(t, nil, wire, takeover, true)
		for _, whole := range []bool{true, false} {
			got, gotCode := messages(t, fast, wire, takeover, whole)
			if gotCode != code || !slices.EqualFunc(got, want, bytes.Equal) {
				t.Fatalf("whole=%t: %d messages, %v, want %d, %v", whole, len(got), gotCode, len(want), code)
			}
		}
	})
}

// FuzzEcho sends messages both ways between sides that want something else.
func FuzzEcho(f *testing.F) {
	for i := range byte(40) {
		f.Add(i*11, i*7, i, uint64(i), text(20*int(i)*int(i), uint64(i)))
	}
	f.Add(byte(0xFF), byte(3), byte(1), uint64(9), bytes.Repeat([]byte("\x00\xff"), 40000))
	f.Fuzz(func(t *testing.T, flags, bits, level byte, seed uint64, data []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		options := func(takeover bool, bits, level byte) *websocket.Options {
			return &websocket.Options{MaxMessage: 4 << 20, Deflate: &websocket.Deflate{
				Flate: flates[int(level)%len(flates)], ContextTakeover: takeover, WindowBits: 8 + int(bits%8), Threshold: -1,
			}}
		}
		a, b := pair(t, options(flags&1 > 0, bits, level), options(flags&2 > 0, bits/8, level/8))
		defer a.CloseNow()
		defer b.CloseNow()
		for i := range 1 + int(flags>>3&7) {
			p := data[:rnd.IntN(len(data)+1)]
			if i%2 > 0 {
				data = data[len(p):] // else the next is like this one
			}
			echo(t, a, b, p, rnd.IntN(4), rnd.IntN(2) > 0)
		}
	})
}
