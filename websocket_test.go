package websocket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// pipe returns both ends of a connection in memory, accepted already.
func pipe(t testing.TB, o *Options) (server, client *Conn) {
	t.Helper()
	a, b := net.Pipe()
	server, client = newConn(a, o, false), newConn(b, o, true)
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	return server, client
}

func TestSmoke(t *testing.T) {
	s, c := pipe(t, nil)
	go func() {
		for {
			typ, p, err := s.ReadMessage()
			if err != nil {
				return
			}
			s.WriteMessage(typ, p)
		}
	}()
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		m := bytes.Repeat([]byte("ab"), n)[:n]
		go c.WriteMessage(Text, m)
		_, p, err := c.ReadMessage()
		if err != nil || !bytes.Equal(p, m) {
			t.Fatal(n, err, len(p))
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := GetFrame(c); err != io.EOF {
		t.Fatal(err)
	}
	if err := c.WriteMessage(Text, nil); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}
