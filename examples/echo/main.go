// Echo greets its clients and answers every message with that message and a
// meow. It serves the clients of RFC 6455 and of hixie-76 alike.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/54eee7d7/websocket"
)

// main accepts clients and spawns one handler for each, until it is interrupted.
func main() {
	addr := flag.String("addr", ":12345", "the `address` to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	context.AfterFunc(ctx, func() {
		stop() // a second Ctrl-C does not wait
		listener.Close()
	})
	fmt.Printf("Listening on port %d.\n", listener.Addr().(*net.TCPAddr).Port)

	var talks sync.WaitGroup
	defer talks.Wait()
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			talks.Go(func() { talkTo(ctx, conn) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // too many open files, say: that passes
			log.Print(err)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// talkTo shakes hands with the client. If there is no error, it starts talking.
func talkTo(ctx context.Context, conn net.Conn) {
	h := websocket.NewConn(conn, nil)
	defer h.Close()
	defer context.AfterFunc(ctx, func() { h.CloseWith(websocket.CloseGoingAway, "") })()

	if _, err := websocket.ShakeHands(h); err != nil {
		fmt.Println(err)
		return
	}
	if err := websocket.PutFrame(h, []byte("Do you read me, Lieutenant Bowie?")); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("Shook hands, sent welcome message.")
	talkLoop(h)
}

// talkLoop talks to the client, by sending its messages back, until EOF.
func talkLoop(h *websocket.Conn) {
	for {
		msg, err := websocket.GetFrame(h)
		if err == io.EOF {
			fmt.Println("EOF encountered. Closing handle.")
			return
		}
		if err == nil {
			err = reply(h, append(msg, ", meow."...))
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
}

// reply sends text, or what cannot be text as a binary message.
func reply(h *websocket.Conn, msg []byte) error {
	if utf8.Valid(msg) {
		return websocket.PutFrame(h, msg)
	}
	return h.WriteMessage(websocket.Binary, msg)
}
