// What memory connections hold that wait for the rest of a message.

package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// heldMemory returns how many bytes of the heap are in use, without those in pools.
func heldMemory() int {
	var m runtime.MemStats
	for range 3 { // a pool gives up its memory in the second collection
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// An idle connection is little more than its Conn.
func TestConnSize(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 384 {
		t.Errorf("a Conn has %d bytes", n)
	}
}

// TestHeldMemory shows that a connection which waits for the rest of a message holds memory of
// a small multiple of what has come, whatever others have left in the pools.
func TestHeldMemory(t *testing.T) { // not parallel: it measures memory
	const conns = 10
	for _, read := range []struct {
		name string
		all  func(*Conn) error
	}{
		{"ReadMessage", func(c *Conn) error { _, _, err := c.ReadMessage(); return err }},
		{"AppendMessage", func(c *Conn) error { _, _, err := c.AppendMessage([]byte("dst")); return err }},
		{"GetFrame", func(c *Conn) error { _, err := GetFrame(c); return err }},
		{"Serve", func(c *Conn) error { return c.Serve(Handler{}) }},
		{"NextReader", func(c *Conn) error {
			_, r, err := c.NextReader()
			if err == nil {
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 512))
			}
			return err
		}},
	} {
		for _, network := range []string{"pipe", "tcp"} {
			for _, packed := range []bool{false, true} {
				for _, size := range []int{0, 5000, 33 << 10, 270_000} {
					t.Run(fmt.Sprintf("%s/%s/packed=%t/%d", read.name, network, packed, size), func(t *testing.T) {
						begun := appendFrame(nil, opBinary, make([]byte, size), true)
						if packed {
							z := deflatedOnce(0, string(make([]byte, size)))
							begun = appendFrame(nil, opBinary|rsv1Bit, []byte(z)[:size], true)
						}
						before := heldMemory()
						for _, n := range []int{4 << 10, 32 << 10, 64 << 10, 1 << 20} {
							var bufs [conns]messageBuffer
							for i := range bufs {
								bufs[i].grow(nil, n)
							}
							for i := range bufs {
								bufs[i].free()
							}
						}
						var done [conns]<-chan error
						var peers [conns]net.Conn
						for i := range conns {
							a, b := net.Pipe()
							if network == "tcp" {
								a, b = socketPair(t, "tcp", "127.0.0.1:0")
							}
							c := packedConn(a, nil, false, false)
							c.t.watch(new(atomic.Uint32))
							peers[i], done[i] = b, goErr(func() error { return read.all(c) })
							sendHalf(t, c, b, begun)
						}
						limit := 16<<10 + 5*size
						if packed && read.name == "NextReader" { // it inflates in pieces, which takes a window
							limit = 80 << 10
						}
						held := heldMemory() - before
						for start := time.Now(); held > conns*limit && time.Since(start) < time.Second; {
							held = heldMemory() - before // one may still be reading the last byte
						}
						if held > conns*limit {
							t.Errorf("a connection holds %d bytes for %d and one more, want up to %d", held/conns, size, limit)
						}
						for i := range conns {
							peers[i].Close()
							if err := wait(t, done[i]); !errors.Is(err, io.ErrUnexpectedEOF) {
								t.Error("the reader has got", err)
							}
						}
					})
				}
			}
		}
	}
}

// sendHalf sends c a fragment, which it has read when sendHalf returns, and then the first byte
// of one of 40 KiB.
func sendHalf(t *testing.T, c *Conn, peer net.Conn, fragment []byte) {
	t.Helper()
	written := goErr(func() error {
		_, err := peer.Write(appendFrame(bytes.Clone(fragment), finBit|opPing, nil, true))
		return err
	})
	pong := make([]byte, 2)
	if _, err := io.ReadFull(peer, pong); err != nil || pong[0] != finBit|opPong {
		t.Fatalf("got %x instead of a pong, %v", pong, err)
	}
	if err := wait(t, written); err != nil {
		t.Fatal(err)
	}
	now := c.t.now.Add(1)
	if _, err := peer.Write(wireFrame{p: "a", claim: 40 << 10}.append(nil, true, false)); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); c.t.lastInput() != now; runtime.Gosched() {
		if time.Since(start) > 10*time.Second {
			t.Fatal("it does not read")
		}
	}
}
