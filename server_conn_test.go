package websocket

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A program that accepts its clients itself hands them to a Server, which does for them what it
// does for others.
func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: Options{PingInterval: time.Second}}
		ends := make(chan error, 10)
		connect := func(h Handler) *Conn {
			c, client := pipe(t, nil)
			if err := s.Adopt(c, h); err != nil {
				t.Error(err)
			}
			return client
		}
		onClose := func(_ *Conn, err error) { ends <- err }
		served := make(chan error, 1)
		client := connect(Handler{OnClose: func(_ *Conn, err error) { served <- err }})
		panics := connect(Handler{OnMessage: func(*Conn, MessageType, []byte) { panic(http.ErrAbortHandler) }, OnClose: onClose})
		silent, given := barePeer(t, nil, false)
		gone := make(chan error, 1)
		if err := s.Adopt(silent, Handler{OnClose: func(_ *Conn, err error) { gone <- err }}); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, given) // and no pong
		messages := make(chan string, 10)
		go func() {
			for {
				_, p, err := client.ReadMessage()
				if err != nil {
					return
				}
				messages <- string(p)
			}
		}()
		synctest.Wait()
		if n := s.NumConns(); n != 3 {
			t.Errorf("%d connections", n)
		}
		if s.Broadcast(Text, []byte("to all")); wait(t, messages) != "to all" {
			t.Error("no broadcast")
		}
		if _, p, err := panics.ReadMessage(); string(p) != "to all" || err != nil {
			t.Errorf("%q, %v", p, err)
		}
		panics.WriteMessage(Text, nil)
		go panics.ReadMessage()
		checkCode(t, wait(t, ends), CloseInternalError, byUs)
		if err := wait(t, gone); err != errSilent {
			t.Error("a silent client ended with", err)
		}
		late, lateClient := pipe(t, nil)
		shut := goErr(func() error { return s.ShutdownWith(t.Context(), CloseServiceRestart, "soon") })
		synctest.Wait()
		lateEnd := goErr(func() error { _, _, err := lateClient.ReadMessage(); return err })
		if err := s.Adopt(late, Handler{OnOpen: func(*Conn) { t.Error("OnOpen is called") }}); err != http.ErrServerClosed {
			t.Error("while it shuts down, Adopt returned", err)
		}
		checkCode(t, wait(t, lateEnd), CloseServiceRestart, byPeer)
		checkCode(t, wait(t, served), CloseServiceRestart, byUs)
		if err := wait(t, shut); err != nil {
			t.Error(err)
		}

		s = new(Server)
		raw, peer := net.Pipe()
		c := NewConn(raw, nil)
		go io.WriteString(peer, rfcHead)
		if _, err := GetRequest(c); err != nil {
			t.Fatal(err)
		}
		if err := s.Adopt(c, Handler{}); err != errUnfinished || s.NumConns() != 0 {
			t.Error("before the handshake is over Adopt returned", err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		c.CloseNow()
		peer.Close()
	})
}

// A Server has no connections of a client, whose frames have to be masked each for itself.
func TestAdoptClient(t *testing.T) {
	s := new(Server)
	_, client := pipe(t, nil)
	if err := s.Adopt(client, Handler{}); !errors.Is(err, os.ErrInvalid) || s.NumConns() != 0 {
		t.Errorf("Adopt of a client returned %v, with %d connections", err, s.NumConns())
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A second Adopt of a connection is refused, and takes nothing from the first.
func TestAdoptTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(Server)
		c, client := pipe(t, nil)
		if err := s.Adopt(c, Handler{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Adopt(c, Handler{}); err != errServed {
			t.Error("the second Adopt returned", err)
		}
		if n := s.NumConns(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		client.CloseNow()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
