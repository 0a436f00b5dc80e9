// Talk is a client for the terminal and for pipes. It sends every line of standard
// input as a text message, and prints every message that comes as a line:
//
//	echo hello | go run ./examples/talk ws://127.0.0.1:12345/
//
// At the end of input it sends a ping behind the last line and closes the connection
// when the pong has come: a server that answers in order has sent its replies before
// that. For one that does not, -wait is the time to stay after the pong.
//
// The exit status is 0 after an orderly end of the connection, 1 after any other, and 2
// if the command line is not valid.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/54eee7d7/websocket"
)

// prompt and erase go to standard error, and only if a user types and sees them.
var prompt, erase string

func main() {
	log.SetFlags(0)
	log.SetPrefix("talk: ")
	opts := &websocket.Options{Header: http.Header{}, MaxMessage: 64 << 20}
	flag.Func("header", "add the `field` 'Name: value' to the handshake; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("there is no colon")
		}
		opts.Header.Add(name, strings.TrimSpace(value))
		return nil
	})
	flag.Func("protocol", "offer subprotocols: `names` with commas between them; may be repeated", func(s string) error {
		opts.Protocols = append(opts.Protocols, strings.Fields(strings.ReplaceAll(s, ",", " "))...)
		return nil
	})
	origin := flag.String("origin", "", "the `origin` to come from, as the page of a browser does")
	insecure := flag.Bool("insecure", false, "accept any certificate")
	compress := flag.Bool("compress", false, "offer to compress messages")
	flag.DurationVar(&opts.PingInterval, "ping", 20*time.Second, "ping a server that is silent for so long; 0 means never")
	wait := flag.Duration("wait", 0, "how long to stay for late replies at the end of input")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: talk [flags] ws://host/path")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if *origin != "" {
		opts.Header.Set("Origin", *origin)
	}
	if *compress {
		opts.Deflate = &websocket.Deflate{ContextTakeover: true}
	}
	if *insecure {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		opts.HTTPClient = &http.Client{Transport: transport}
	}
	if isTerminal(os.Stdin) && isTerminal(os.Stderr) {
		prompt, erase = "\r\x1b[K> ", "\r\x1b[K"
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	conn, err := websocket.Dial(ctx, flag.Arg(0), opts)
	if err != nil {
		report(err)
		os.Exit(1)
	}
	context.AfterFunc(ctx, func() {
		stop() // a second Ctrl-C does not wait
		conn.CloseWith(websocket.CloseGoingAway, "")
	})
	fmt.Fprint(os.Stderr, prompt)
	go send(conn, os.Stdin, *wait)
	err = conn.Serve(websocket.Handler{OnMessage: show})
	report(err)
	if !errors.Is(err, io.EOF) { // which is an orderly end
		os.Exit(1)
	}
}

// send sends the lines of r and then closes the connection. If the connection fails, Serve
// says why.
func send(conn *websocket.Conn, r io.Reader, wait time.Duration) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, math.MaxInt) // a line may have any length
	for n := 1; lines.Scan(); n++ {
		if !utf8.Valid(lines.Bytes()) {
			log.Printf("line %d is not sent, as it is not valid UTF-8", n)
		} else if conn.WriteMessage(websocket.Text, lines.Bytes()) != nil {
			return
		}
		fmt.Fprint(os.Stderr, prompt)
	}
	if err := lines.Err(); err != nil {
		log.Print(err)
	}
	if conn.Ping(context.Background()) != nil {
		return
	}
	time.Sleep(wait)
	conn.Close()
}

// show prints a message. Serve calls it for one at a time, so that what a pong follows
// has been printed when Ping returns.
func show(_ *websocket.Conn, t websocket.MessageType, p []byte) {
	line := strings.Map(harmless, string(p))
	if t == websocket.Binary {
		line = fmt.Sprintf("binary %+q", p)
	}
	fmt.Fprint(os.Stderr, erase)
	fmt.Println(line)
	fmt.Fprint(os.Stderr, prompt)
}

// report says why there is no connection, or none any more. If the server has refused,
// the first lines of its response often say more.
func report(err error) {
	why := strings.TrimPrefix(err.Error(), "websocket: ")
	fmt.Fprint(os.Stderr, erase)
	log.Print(strings.Map(harmless, why))
	if refused, ok := errors.AsType[*websocket.HandshakeError](err); ok && refused.Response != nil {
		body := bufio.NewScanner(refused.Response.Body)
		for n := 0; n < 10 && body.Scan(); n++ {
			log.Print("  ", strings.Map(harmless, body.Text()))
		}
	}
}

// harmless maps the characters with which a server could control the terminal to their
// pictures. Line ends are among them: every message is one line.
func harmless(r rune) rune {
	switch {
	case r == '\t' || !unicode.IsControl(r):
		return r
	case r < ' ':
		return '␀' + r
	}
	return utf8.RuneError // DEL, and the control characters above ASCII
}
