package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// acceptedConn returns a Conn over a stream in memory whose opening handshake is over.
func acceptedConn(t *testing.T) *Conn {
	t.Helper()
	c := NewConn(&memStream{Reader: io.MultiReader(strings.NewReader(rfcHead), iotest.ErrReader(errStall))}, nil)
	if _, err := ShakeHands(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// A call that is wrong, or that comes at the wrong time, returns an error that a program can know,
// and changes nothing: the connection still sends.
func TestMisuse(t *testing.T) {
	t.Parallel()
	valid := acceptedConn(t).Request()
	for _, tt := range []struct {
		name string
		want error
		call func(*Conn) error
	}{
		{"WriteMessage", os.ErrInvalid, func(c *Conn) error { return c.WriteMessage(Text, []byte("\xff")) }},
		{"PutFrame", os.ErrInvalid, func(c *Conn) error { return PutFrame(c, []byte("\xff")) }},
		{"PutFrame, bare", os.ErrInvalid, func(*Conn) error { return PutFrame(io.Discard, []byte("\xff")) }},
		{"Broadcast", os.ErrInvalid, func(*Conn) error { return new(Server).Broadcast(Text, []byte("\xff")) }},
		{"Send of a type that is none", os.ErrInvalid, func(*Conn) error { return new(Server).Send(0, nil) }},
		{"Broadcast of too much", os.ErrInvalid, func(*Conn) error {
			return (&Server{Options: Options{MaxQueue: 1}}).Broadcast(Text, []byte("ab"))
		}},
		{"WriteMessage of a type that is none", os.ErrInvalid, func(c *Conn) error { return c.WriteMessage(0, nil) }},
		{"NextWriter of a type that is none", os.ErrInvalid, func(c *Conn) error { _, err := c.NextWriter(9); return err }},
		{"a fragment", os.ErrInvalid, func(c *Conn) error {
			w, _ := c.NextWriter(Text)
			defer w.Close()
			_, err := io.WriteString(w, "\xff")
			return err
		}},
		{"PutRefusal", os.ErrInvalid, func(c *Conn) error { return PutRefusal(c, &HandshakeError{Status: 200, Reason: ""}) }},
		{"PutRefusal, too late", os.ErrInvalid, func(c *Conn) error { return PutRefusal(c, &HandshakeError{Status: 400, Reason: ""}) }},
		{"PutResponse, too late", os.ErrInvalid, func(c *Conn) error { return PutResponse(c, valid) }},
		{"GetRequest, too late", os.ErrInvalid, func(c *Conn) error { _, err := GetRequest(c); return err }},
		{"ShakeHands, too late", os.ErrInvalid, func(c *Conn) error { _, err := ShakeHands(c); return err }},
		{"Write of a stale writer", os.ErrClosed, func(c *Conn) error {
			w, _ := c.NextWriter(Text)
			w.Close()
			_, err := w.Write(nil)
			return err
		}},
		{"Close of a stale writer", os.ErrClosed, func(c *Conn) error {
			w, _ := c.NextWriter(Text)
			w.Close()
			return w.Close()
		}},
	} {
		c := acceptedConn(t)
		err := tt.call(c)
		checkMatch(t, tt.name, err, tt.want)
		if err := c.WriteMessage(Text, nil); err != nil {
			t.Errorf("%s: WriteMessage then returned %v", tt.name, err)
		}
	}
}

// checkMatch checks that err is want to errors.Is, and says so in words of its own.
func checkMatch(t *testing.T, name string, err, want error) {
	t.Helper()
	for _, kind := range []error{os.ErrInvalid, os.ErrClosed, net.ErrClosed, io.EOF, os.ErrDeadlineExceeded} {
		if errors.Is(err, kind) != (kind == want) {
			t.Errorf("%s: errors.Is(%v, %q) is %v", name, err, kind, kind != want)
		}
	}
	if err == nil || !strings.HasPrefix(err.Error(), "websocket: ") || strings.Contains(err.Error(), "file") {
		t.Errorf("%s: the error is %q", name, err)
	}
}

// The readers and writers of messages that are over, and calls before the end of the opening
// handshake.
func TestMisuseInTime(t *testing.T) {
	t.Parallel()
	var frames []byte
	for _, p := range []string{"one", "two"} {
		frames = wf(0x81, p).append(frames, true, false)
	}
	c := NewConn(&memStream{Reader: io.MultiReader(strings.NewReader(rfcHead+string(frames)), iotest.ErrReader(errStall))}, nil)
	req, err := GetRequest(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"PutFrame":    func() error { return PutFrame(c, nil) },
		"GetFrame":    func() error { _, err := GetFrame(c); return err },
		"ReadMessage": func() error { _, _, err := c.ReadMessage(); return err },
		"NextReader":  func() error { _, _, err := c.NextReader(); return err },
		"NextWriter":  func() error { _, err := c.NextWriter(Text); return err },
		"Ping":        func() error { return c.Ping(t.Context()) },
		"Serve":       func() error { return c.Serve(Handler{}) },
	} {
		checkMatch(t, name, call(), os.ErrInvalid)
	}
	if err := PutResponse(c, req); err != nil {
		t.Fatal(err)
	}
	_, stale, err := c.NextReader()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.NextReader(); err != nil {
		t.Fatal(err)
	}
	_, err = stale.Read(make([]byte, 1))
	checkMatch(t, "a stale reader", err, os.ErrClosed)
}

// While Serve reads, and after that, nobody else does.
func TestMisuseServed(t *testing.T) {
	t.Parallel()
	c := acceptedConn(t)
	err := c.Serve(Handler{OnOpen: func(c *Conn) {
		for name, call := range map[string]func() error{
			"ReadMessage": func() error { _, _, err := c.ReadMessage(); return err },
			"GetFrame":    func() error { _, err := GetFrame(c); return err },
			"NextReader":  func() error { _, _, err := c.NextReader(); return err },
			"Read":        func() error { _, err := c.Read(make([]byte, 1)); return err },
			"Serve":       func() error { return c.Serve(Handler{}) },
		} {
			checkMatch(t, name, call(), os.ErrInvalid)
		}
	}})
	if cause(err) != errStall {
		t.Error("Serve returned", err)
	}
	checkMatch(t, "Serve once more", c.Serve(Handler{}), os.ErrInvalid)
}

// What is called on a connection that this side has closed returns an error that is
// net.ErrClosed, and a code that cannot be sent is one that is os.ErrInvalid.
func TestMisuseClosed(t *testing.T) {
	t.Parallel()
	for name, shut := range map[string]func(*Conn) error{
		"Close":    (*Conn).Close,
		"CloseNow": (*Conn).CloseNow,
		"CloseWith": func(c *Conn) error {
			checkMatch(t, "a code that is none", c.CloseWith(1006, ""), os.ErrInvalid)
			return nil
		},
	} {
		c := acceptedConn(t)
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		if err := shut(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for call, f := range map[string]func() error{
			"PutFrame":     func() error { return PutFrame(c, nil) },
			"ReadMessage":  func() error { _, _, err := c.ReadMessage(); return err },
			"NextReader":   func() error { _, _, err := c.NextReader(); return err },
			"Ping":         func() error { return c.Ping(t.Context()) },
			"a writer":     func() error { _, err := w.Write(nil); return err },
			"GetRequest":   func() error { _, err := GetRequest(c); return err },
			"WriteMessage": func() error { return c.WriteMessage(Text, nil) },
		} {
			if err := f(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("after %s: %s returned %v", name, call, err)
			}
		}
		if err := w.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after %s: the Close of a writer returned %v", name, err)
		}
	}
}
