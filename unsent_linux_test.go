package websocket

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// A peer that reads a little makes progress, long before there is room for more to be written.
func TestUnsent(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, wrapped := range []bool{false, true} {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = t.TempDir() + "/socket"
			}
			a, peer := socketPair(t, network, address)
			a.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(4 << 20)
			peer.(interface{ SetReadBuffer(int) error }).SetReadBuffer(64 << 10)
			var rw io.ReadWriter = a
			if wrapped {
				rw = tls.Client(a, nil) // no handshake: it is only asked for what it wraps
			}
			if n := unsent(rw); n != 0 {
				t.Errorf("%s: %d bytes are unsent when nothing was written", network, n)
			}
			written := goErr(func() error { _, err := a.Write(make([]byte, 64<<20)); return err })
			before := unsent(rw)
			for last := int32(-1); before != last || before < 64<<10; time.Sleep(10 * time.Millisecond) { // until it is stuck
				last, before = before, unsent(rw)
			}
			read := 0
			for unsent(rw) == before {
				n, err := peer.Read(make([]byte, 4<<10))
				if read += n; err != nil || read > 1<<20 {
					t.Fatalf("%s: no progress after %d bytes, %v", network, read, err)
				}
			}
			peer.Close()
			wait(t, written)
		}
	}
	for _, rw := range []io.ReadWriter{&memStream{}, tls.Client(nil, nil)} {
		if n := unsent(rw); n != 0 {
			t.Errorf("%d bytes are unsent on %T", n, rw)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	conn.Close()
	if n := unsent(conn); n != 0 {
		t.Errorf("%d bytes are unsent on a closed socket", n)
	}
}
