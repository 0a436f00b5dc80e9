// Package nettest has the tests that golang.org/x/net has for every net.Conn test a
// websocket.Conn.
package nettest

import (
	"errors"
	"net"
	"testing"

	"github.com/54eee7d7/websocket"
	"golang.org/x/net/nettest"
)

// shakeHands returns both ends of a WebSocket connection over a stream.
func shakeHands(accepted, dialed net.Conn) (server, client net.Conn, stop func(), err error) {
	h := websocket.NewConn(accepted, nil)
	done := make(chan error, 1)
	go func() {
		_, err := websocket.ShakeHands(h)
		done <- err
	}()
	c, err := websocket.ClientHandshake(dialed, "ws://example.com/", nil)
	if err = errors.Join(err, <-done); err != nil {
		return nil, nil, nil, err
	}
	return h, c, stopBoth(h, c), nil
}

// stopBoth returns a function that closes both ends of a connection.
func stopBoth(h, c *websocket.Conn) func() {
	return func() {
		closed := make(chan error, 1)
		go func() { closed <- h.Close() }()
		c.Close()
		<-closed
	}
}

// swapped returns what open returns with the two ends in the place of each other.
func swapped(open nettest.MakePipe) nettest.MakePipe {
	return func() (c1, c2 net.Conn, stop func(), err error) {
		c2, c1, stop, err = open()
		return c1, c2, stop, err
	}
}

func openPipe() (server, client net.Conn, stop func(), err error) {
	return shakeHands(net.Pipe())
}

func openPair() (server, client net.Conn, stop func(), err error) {
	c, h, err := websocket.Pipe(nil, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	return h, c, stopBoth(h, c), nil
}

func openTCP() (server, client net.Conn, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	defer ln.Close()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, nil, err
	}
	accepted, err := ln.Accept()
	if err != nil {
		return nil, nil, nil, err
	}
	return shakeHands(accepted, dialed)
}

func TestConn(t *testing.T) {
	for _, tt := range []struct {
		name string
		open nettest.MakePipe
	}{
		{"net.Pipe", openPipe},
		{"Pipe", openPair},
		{"TCP", openTCP},
	} {
		t.Run(tt.name+"/server", func(t *testing.T) { nettest.TestConn(t, tt.open) })
		t.Run(tt.name+"/client", func(t *testing.T) { nettest.TestConn(t, swapped(tt.open)) })
	}
}
