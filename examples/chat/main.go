// Chat is a chat room with a web page, beside other routes of one HTTP server.
// Everybody who connects gets a nickname and hears what all the others say.
//
// With a certificate it serves TLS and HTTP/2. The chat itself runs over HTTP/2, too, if
// the environment has GODEBUG=http2xconnect=1, and else over HTTP/1.1.
package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"expvar"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/54eee7d7/websocket"
)

//go:embed index.html
var page string

// A chat is a room with its clients.
type chat struct {
	websocket.Server
	last  atomic.Int64 // number of the newest client
	names sync.Map     // nicknames, by *websocket.Conn
}

func newChat(origins []string) *chat {
	c := new(chat)
	c.Options = websocket.Options{Origins: origins, MaxMessage: 4 << 10, Deflate: &websocket.Deflate{}}
	c.Handler = websocket.Handler{OnOpen: c.open, OnMessage: c.message, OnClose: c.close}
	return c
}

func (c *chat) open(conn *websocket.Conn) {
	name := fmt.Sprintf("user_%d", c.last.Add(1))
	c.names.Store(conn, name)
	c.Broadcast(websocket.Text, []byte(name+" joined"), conn)
	conn.WriteMessage(websocket.Text, []byte("welcome "+name)) // last: what follows it comes later for all
}

// message passes on what a client says. Behind a colon nobody can take it for one
// of the room's own lines, such as "user_2 left".
func (c *chat) message(conn *websocket.Conn, t websocket.MessageType, msg []byte) {
	if t != websocket.Text {
		conn.CloseWith(websocket.CloseUnsupportedData, "this chat is for text")
		return
	}
	name, _ := c.names.Load(conn)
	c.Broadcast(websocket.Text, fmt.Appendf(nil, "%s: %s", name, msg), conn)
	conn.WriteMessage(websocket.Text, fmt.Appendf(nil, "echo: %s", msg))
}

func (c *chat) close(conn *websocket.Conn, _ error) {
	name, _ := c.names.LoadAndDelete(conn)
	c.Broadcast(websocket.Text, fmt.Appendf(nil, "%s left", name), conn)
}

// routes puts the chat beside ordinary pages.
func (c *chat) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/chat", c)
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "pong")
	})
	mux.HandleFunc("GET /clients", func(w http.ResponseWriter, _ *http.Request) {
		n := 0
		for range c.Conns() {
			n++
		}
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprint(w, n)
	})
	policy := "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:; connect-src 'self'" +
		"; style-src " + hash("style") + "; script-src " + hash("script")
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		io.WriteString(w, page)
	})
	return mux
}

// hash is how a Content-Security-Policy names the only script or style of the page,
// so that a browser accepts no other. Browsers take CR LF for LF.
func hash(tag string) string {
	_, rest, _ := strings.Cut(page, "<"+tag+">")
	text, _, _ := strings.Cut(rest, "</"+tag+">")
	sum := sha256.Sum256([]byte(strings.ReplaceAll(text, "\r\n", "\n")))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// main serves until it is interrupted, and then says goodbye to the clients.
func main() {
	addr := flag.String("addr", "localhost:12345", "the `address` to listen on")
	cert := flag.String("cert", "", "serve TLS, with the certificate in this `file`")
	key := flag.String("key", "", "the `file` with the key of the certificate")
	debug := flag.String("debug", "", "the `address` for /debug/vars, which is not for everybody")
	var origins []string
	flag.Func("origin", "other `origins` whose pages may connect, such as https://*.example.com", func(s string) error {
		origins = append(origins, strings.Split(s, ",")...)
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	chat := newChat(origins)
	server := &http.Server{
		Handler:           chat.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: time.Minute}, // see websocket.Upgrade
	}
	failed := make(chan error, 2)
	if *cert != "" || *key != "" {
		fmt.Printf("Listening on https://%s/\n", listener.Addr())
		go func() { failed <- server.ServeTLS(listener, *cert, *key) }()
	} else {
		fmt.Printf("Listening on http://%s/\n", listener.Addr())
		go func() { failed <- server.Serve(listener) }()
	}
	if *debug != "" {
		expvar.Publish("chat", expvar.Func(func() any { return chat.Stats() }))
		listener, err := net.Listen("tcp", *debug)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("Figures are at http://%s/debug/vars\n", listener.Addr())
		go func() { failed <- http.Serve(listener, nil) }() // with http.DefaultServeMux, where expvar is
	}
	select {
	case err := <-failed:
		log.Fatal(err)
	case <-ctx.Done():
		stop() // a second Ctrl-C does not wait
	}

	// Over HTTP/2 a chat is a request that server would wait for, so the chat ends first.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(chat.Shutdown(ctx), server.Shutdown(ctx)); err != nil {
		log.Print(err)
	}
}
