// Origin is the echo server behind a filter: it serves the pages of one origin
// and refuses those of any other.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/54eee7d7/websocket"
)

func main() {
	addr := flag.String("addr", ":12345", "the `address` to listen on")
	allow := flag.String("allow", "https://example.com", "the `origin` to serve")
	flag.Parse()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("Listening on port %d for %s.\n", listener.Addr().(*net.TCPAddr).Port, *allow)
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Print(err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go talkTo(websocket.NewConn(conn, nil), *allow)
	}
}

// talkTo looks at the client's request before it answers, and then sends the
// client's messages back until there are no more.
func talkTo(h *websocket.Conn, allow string) {
	defer h.Close()
	if err := shakeHands(h, allow); err != nil {
		fmt.Println(err)
		return
	}
	for {
		msg, err := websocket.GetFrame(h)
		if err == nil {
			err = websocket.PutFrame(h, append(msg, ", meow."...))
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
}

// shakeHands is websocket.ShakeHands with a filter.
func shakeHands(h *websocket.Conn, allow string) error {
	req, err := websocket.GetRequest(h)
	if bad, ok := errors.AsType[*websocket.HandshakeError](err); ok {
		websocket.PutRefusal(h, bad.Status, bad.Reason)
	}
	if err != nil {
		return err
	}
	if req.Origin != allow {
		websocket.PutRefusal(h, http.StatusForbidden, "This server does not talk to pages of your origin.")
		return fmt.Errorf("refused a client from %q", req.Origin)
	}
	return websocket.PutResponse(h, req)
}
