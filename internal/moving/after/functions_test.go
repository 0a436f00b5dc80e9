package after

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/54eee7d7/websocket"
)

// TestReadContext gives a read up, and then reads what was to come.
func TestReadContext(t *testing.T) {
	end, far := net.Pipe()
	server := websocket.NewConn(end, nil)
	go websocket.ShakeHands(server)
	c, err := websocket.ClientHandshake(far, "ws://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, p, err := readContext(ctx, c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a read that is given up returns %q, %v", p, err)
	}
	go server.WriteMessage(websocket.Text, []byte("hello"))
	if _, p, err := readContext(t.Context(), c); string(p) != "hello" || err != nil {
		t.Fatalf("the next read returns %q, %v", p, err)
	}
	go server.CloseWith(4000, "")
	_, _, err = readContext(t.Context(), c)
	if code := closeCode(err); code != 4000 {
		t.Errorf("the code is %v, not 4000", code)
	}
	if code := closeCode(os.ErrDeadlineExceeded); code != 0 {
		t.Errorf("the code of a timeout is %v", code)
	}
}
