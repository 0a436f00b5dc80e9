// Origin is the echo server behind a filter: it serves the pages of one origin
// and refuses those of any other.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/54eee7d7/websocket"
)

var server = &websocket.Server{Handler: websocket.Handler{
	OnMessage: func(c *websocket.Conn, _ websocket.MessageType, msg []byte) {
		websocket.PutFrame(c, append(msg, ", meow."...))
	},
}}

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

// talkTo looks at the client's request before it answers, and then has the server serve it.
func talkTo(h *websocket.Conn, allow string) {
	req, err := websocket.GetRequest(h)
	if err == nil && req.Origin != allow {
		err = &websocket.HandshakeError{Status: http.StatusForbidden, Reason: fmt.Sprintf("Pages of %q may not connect.", req.Origin)}
	}
	if refusal, ok := errors.AsType[*websocket.HandshakeError](err); ok {
		websocket.PutRefusal(h, refusal)
	} else if err == nil {
		err = websocket.PutResponse(h, req)
	}
	if err == nil {
		err = server.Adopt(h, server.Handler)
	}
	if err != nil {
		fmt.Println(err)
		h.Close()
	}
}
