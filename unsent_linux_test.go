package websocket

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// What the peer has read does not count as unsent any more, long before all of it has been read.
func TestUnsent(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, wrapped := range []bool{false, true} {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = t.TempDir() + "/socket"
			}
			a, peer := socketPair(t, network, address)
			a.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(4 << 20)
			peer.(interface{ SetReadBuffer(int) error }).SetReadBuffer(16 << 10)
			var rw io.ReadWriter = a
			if wrapped {
				rw = tls.Client(a, nil) // no handshake: it is only asked for what it wraps
			}
			if n := unsent(rw); n != 0 {
				t.Errorf("%s: %d bytes are unsent when nothing was written", network, n)
			}
			const size = 64 << 20
			rest, err := newTransport(a).tryWrite(make([]byte, size))
			if err != os.ErrDeadlineExceeded {
				t.Fatal(err)
			}
			written := int32(size - len(rest))
			before := unsent(rw)
			if before <= 0 {
				t.Fatalf("%s: %d of %d bytes are unsent", network, before, written)
			}
			// The system may take more than it tells of at once, but never less than is read.
			least := before - 1
			if network == "tcp" { // unix counts what it needs for the bytes
				least = written - written/2
			}
			awaitUnsent(t, rw, peer, written/2, least)
			awaitUnsent(t, rw, peer, written-written/2, 0)
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

// awaitUnsent has the peer read n bytes, and waits until up to most are unsent.
func awaitUnsent(t *testing.T, rw io.ReadWriter, peer io.Reader, n, most int32) {
	t.Helper()
	if _, err := io.CopyN(io.Discard, peer, int64(n)); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); unsent(rw) > most; runtime.Gosched() {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("%d bytes are unsent, want up to %d", unsent(rw), most)
		}
	}
}
