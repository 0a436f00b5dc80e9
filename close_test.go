package websocket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestClose has one side close and the other read.
func TestClose(t *testing.T) {
	closes := []struct {
		code   CloseCode
		reason string
		eof    bool // an orderly end for the peer
	}{
		{CloseNormal, "", true},
		{CloseGoingAway, "good bye", true},
		{CloseNoStatus, "", true},
		{CloseProtocolError, "why", false},
		{4999, strings.Repeat("x", 121) + "é", false},
	}
	for _, pair := range pairs {
		for _, side := range []string{"server", "client"} {
			for _, tt := range closes {
				t.Run(fmt.Sprint(pair.name, "/", side, "/", int(tt.code)), func(t *testing.T) {
					closer, peer := pair.open(t, nil)
					if side == "client" {
						closer, peer = peer, closer
					}
					want := CloseError{tt.code, tt.reason, byPeer, nil}
					if peer.write.hixie {
						want, tt.eof = CloseError{Code: CloseNoStatus}, true
					}
					done := goErr(func() error { return closer.CloseWith(tt.code, tt.reason) })
					_, _, err := peer.ReadMessage()
					var got *CloseError
					if !errors.As(err, &got) || *got != want || errors.Is(err, io.EOF) != tt.eof || errors.Is(err, net.ErrClosed) {
						t.Errorf("the peer read %#v, want %#v", err, want)
					}
					if _, _, again := peer.ReadMessage(); again != err {
						t.Errorf("the peer read %v next", again)
					}
					if werr := peer.WriteMessage(Text, nil); werr != err {
						t.Errorf("the peer's write returned %v", werr)
					}
					if _, err := GetFrame(peer); (err == io.EOF) != tt.eof {
						t.Errorf("the peer's GetFrame returned %v", err)
					}
					// This is what ends a client's wait for the server.
					if err := peer.Close(); err != nil {
						t.Errorf("the peer's Close returned %v", err)
					}
					if err := wait(t, done); err != nil {
						t.Errorf("Close returned %v", err)
					}

					if err := closer.Close(); err != nil {
						t.Errorf("a second Close returned %v", err)
					}
					err = closer.WriteMessage(Text, []byte("late"))
					if !errors.As(err, &got) || *got != (CloseError{tt.code, tt.reason, byUs, nil}) || !errors.Is(err, net.ErrClosed) {
						t.Errorf("WriteMessage after Close returned %#v", err)
					}
					if _, err := closer.NextWriter(Text); !errors.Is(err, net.ErrClosed) {
						t.Errorf("NextWriter after Close returned %v", err)
					}
					if _, _, rerr := closer.ReadMessage(); rerr != err {
						t.Errorf("ReadMessage after Close returned %v", rerr)
					}
					if err := closer.Ping(t.Context()); !closer.write.hixie && !errors.Is(err, net.ErrClosed) {
						t.Errorf("Ping after Close returned %v", err)
					}
					if _, err := GetFrame(closer); err != io.EOF {
						t.Errorf("GetFrame after Close returned %v", err)
					}
					for _, c := range []*Conn{closer, peer} {
						if _, err := c.t.rw.Write([]byte{0}); err == nil {
							t.Error("a transport is open")
						}
					}
				})
			}
		}
	}
}

// TestCloseBoth has both sides close at the same time while nobody reads. The
// pipe in memory holds nothing: each side has to read to let the other write.
func TestCloseBoth(t *testing.T) {
	for _, pair := range pairs {
		test := func(t *testing.T) {
			server, client := pair.open(t, nil)
			done := goErr(server.Close)
			if err := client.Close(); err != nil {
				t.Error("client:", err)
			}
			if err := wait(t, done); err != nil {
				t.Error("server:", err)
			}
		}
		t.Run(pair.name, func(t *testing.T) {
			if strings.HasSuffix(pair.name, "pipe") {
				synctest.Test(t, test)
			} else {
				test(t)
			}
		})
	}
}

// TestCloseBothFull is TestCloseBoth with a large message under way in either
// direction.
func TestCloseBothFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, nil)
		for _, c := range []*Conn{server, client} {
			go c.WriteMessage(Binary, make([]byte, 1<<20))
		}
		synctest.Wait()
		done := goErr(server.Close)
		if err := client.Close(); err != nil {
			t.Error("client:", err)
		}
		if err := wait(t, done); err != nil {
			t.Error("server:", err)
		}
	})
}

// A slowReader reads 4 KiB a millisecond.
type slowReader struct{ io.Reader }

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return r.Reader.Read(p[:min(len(p), 4<<10)])
}

// TestCloseBehindWrite closes while another goroutine's message is on its way.
func TestCloseBehindWrite(t *testing.T) {
	message := make([]byte, 1<<20)
	for _, tt := range []struct {
		name          string
		hixie, client bool
		size          int // of the message and the close frame
	}{
		{"RFC6455/server", false, false, 10 + 1<<20 + 4},
		{"RFC6455/client", false, true, 14 + 1<<20 + 8},
		{"hixie76/server", true, false, 2 + 1<<20 + 2},
		{"hixie76/client", true, true, 2 + 1<<20 + 2},
	} {
		// begin closes behind a message that has not been read.
		begin := func(t *testing.T) (c *Conn, peer net.Conn, written, closed <-chan error) {
			c, peer = barePeer(t, nil, tt.client)
			speakHixie(c, tt.hixie)
			written = goErr(func() error { return c.WriteMessage(Text, message) })
			synctest.Wait()
			c.SetDeadline(time.Now().Add(50 * time.Millisecond)) // no concern of Close
			closed = goErr(c.Close)
			synctest.Wait()
			return c, peer, written, closed
		}
		t.Run(tt.name+"/slow", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer, written, closed := begin(t)
				got := make([]byte, tt.size)
				if _, err := io.ReadFull(slowReader{peer}, got); err != nil {
					t.Fatal(err)
				}
				frames := parseSent(t, c, got)
				if n := len(frames); frames[n-1].opcode != opClose {
					t.Errorf("the last of %d frames has opcode %d", n, frames[n-1].opcode)
				}
				go peer.Write(toward(c, opClose, ""))
				if err := wait(t, written); err != nil {
					t.Error("WriteMessage returned", err)
				}
				if err := wait(t, closed); err != nil {
					t.Error("Close returned", err)
				}
			})
		})
		t.Run(tt.name+"/stuck", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, _, written, closed := begin(t)
				if err := wait(t, closed); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("Close returned", err)
				}
				if d := time.Since(start); d != closeTimeout {
					t.Error("Close took", d)
				}
				if err := wait(t, written); !errors.Is(err, net.ErrClosed) {
					t.Error("WriteMessage returned", err)
				}
			})
		})
	}
}

// TestCloseUnanswered closes towards a peer that reads but says nothing.
func TestCloseUnanswered(t *testing.T) {
	for _, tt := range []struct{ option, want time.Duration }{
		{0, 5 * time.Second},
		{time.Minute, time.Minute},
	} {
		for _, hixie := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.want, "/hixie=", hixie), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, &Options{CloseTimeout: tt.option}, false)
					speakHixie(c, hixie)
					start := time.Now()
					gone := make(chan time.Duration, 1)
					go func() {
						io.Copy(io.Discard, peer)
						gone <- time.Since(start)
					}()
					// Neither the caller's deadline nor chatter makes it any longer or shorter.
					c.SetReadDeadline(start.Add(time.Second))
					chatter := goErr(func() error {
						for {
							time.Sleep(time.Second)
							if _, err := peer.Write(toward(c, opText, "x")); err != nil {
								return err
							}
						}
					})
					if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("Close returned", err)
					}
					if d := time.Since(start); d != tt.want {
						t.Error("Close took", d)
					}
					if d := wait(t, gone); d != tt.want {
						t.Error("the transport was closed after", d)
					}
					wait(t, chatter)
					if err := c.Close(); err != nil {
						t.Error("a second Close returned", err)
					}
				})
			})
		}
	}
}

// TestCloseWhileReading closes while another goroutine waits in a read. It gets
// the close, not a message that comes later.
func TestCloseWhileReading(t *testing.T) {
	for _, m := range readings {
		for _, message := range []string{"", "late"} {
			for _, hixie := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%q/hixie=%t", m.name, message, hixie), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c, peer := barePeer(t, nil, false)
						speakHixie(c, hixie)
						read := goErr(func() error {
							p, err := m.open(c, 4)()
							if err == nil {
								err = fmt.Errorf("the message %q", p)
							}
							return err
						})
						synctest.Wait()
						closed := goErr(c.Close)
						go io.Copy(io.Discard, peer)
						synctest.Wait()
						if message != "" {
							go peer.Write(toward(c, opText, message))
							synctest.Wait()
						}
						go peer.Write(toward(c, opClose, ""))
						if err := wait(t, read); !errors.Is(err, io.EOF) {
							t.Error("the read returned", err)
						}
						if err := wait(t, closed); err != nil {
							t.Error("Close returned", err)
						}
					})
				})
			}
		}
	}
}

// TestReadWhileClosing reads while another goroutine waits in Close.
func TestReadWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		go io.Copy(io.Discard, peer)
		closed := goErr(c.Close)
		synctest.Wait()
		start := time.Now()
		if _, _, err := c.ReadMessage(); !errors.Is(err, net.ErrClosed) {
			t.Error("ReadMessage returned", err)
		}
		if d := time.Since(start); d != 0 {
			t.Error("ReadMessage took", d)
		}
		wait(t, closed)
	})
}

// TestCloseAmidMessage closes while another goroutine has a message open and a
// third waits to send its own.
func TestCloseAmidMessage(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		t.Run(fmt.Sprint("hixie=", hixie), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := barePeer(t, nil, false)
				speakHixie(c, hixie)
				got := make(chan []byte, 1)
				go func() {
					b, _ := io.ReadAll(peer)
					got <- b
				}()
				w, err := c.NextWriter(Text)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, "begun"); err != nil {
					t.Fatal(err)
				}
				waiting := goErr(func() error { return c.WriteMessage(Text, nil) })
				synctest.Wait()
				closed := goErr(c.Close)
				synctest.Wait()
				if err := wait(t, waiting); !errors.Is(err, net.ErrClosed) {
					t.Error("WriteMessage returned", err)
				}
				if _, err := io.WriteString(w, "more"); !errors.Is(err, net.ErrClosed) {
					t.Error("Write returned", err)
				}
				if err := w.Close(); !errors.Is(err, net.ErrClosed) {
					t.Error("Close of the message returned", err)
				}
				go peer.Write(toward(c, opClose, ""))
				if err := wait(t, closed); err != nil {
					t.Error("Close returned", err)
				}
				want := "\x01\x05begun\x88\x02\x03\xe8"
				if hixie {
					want = "\x00begun" // a close frame would be text
				}
				if b := wait(t, got); string(b) != want {
					t.Errorf("sent %q, want %q", b, want)
				}
			})
		})
	}
}

// TestCloseAmidHandshake closes while another goroutine waits for a request.
func TestCloseAmidHandshake(t *testing.T) {
	for _, begun := range []string{"", "GET / HTTP/1.1\r\nHost: x"} {
		for name, end := range map[string]func(*Conn) error{"Close": (*Conn).Close, "CloseNow": (*Conn).CloseNow} {
			t.Run(fmt.Sprintf("%s/%d", name, len(begun)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					shaken := goErr(func() error { _, err := ShakeHands(c); return err })
					if _, err := io.WriteString(peer, begun); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					start := time.Now()
					if err := end(c); err != nil {
						t.Error("returned", err)
					}
					if err := wait(t, shaken); !errors.Is(err, net.ErrClosed) {
						t.Error("ShakeHands returned", err)
					}
					if d := time.Since(start); d != 0 {
						t.Error("took", d)
					}
					if b, err := io.ReadAll(peer); len(b) > 0 || err != nil {
						t.Errorf("the client read %q, %v", b, err)
					}
				})
			})
		}
	}
}

// TestCloseNow ends calls that wait in other goroutines.
func TestCloseNow(t *testing.T) {
	large := make([]byte, 1<<20)
	for _, tt := range []struct {
		name string
		sent string // by the peer, before
		call func(c *Conn) error
		want error // net.ErrClosed, unless set
	}{
		{"ReadMessage", "", func(c *Conn) error { _, _, err := c.ReadMessage(); return err }, nil},
		{"AppendMessage", "", func(c *Conn) error { _, _, err := c.AppendMessage(nil); return err }, nil},
		{"NextReader", "", func(c *Conn) error { _, _, err := c.NextReader(); return err }, nil},
		{"Read", "", func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err }, nil},
		{"GetFrame", "", func(c *Conn) error { _, err := GetFrame(c); return err }, io.EOF},
		{"reader", "\x01\x85\x00\x00\x00\x00ab", func(c *Conn) error {
			_, r, err := c.NextReader()
			if err == nil {
				_, err = io.ReadAll(r)
			}
			return err
		}, nil},
		{"WriteMessage", "", func(c *Conn) error { return c.WriteMessage(Binary, nil) }, nil},
		{"large WriteMessage", "", func(c *Conn) error { return c.WriteMessage(Binary, large) }, nil},
		{"WriteMessage behind another", "", func(c *Conn) error {
			first, second := goErr(func() error { return c.WriteMessage(Binary, large) }), goErr(func() error { return c.WriteMessage(Binary, nil) })
			return errors.Join(<-first, <-second)
		}, nil},
		{"large WriteMessage behind another", "", func(c *Conn) error {
			first, second := goErr(func() error { return c.WriteMessage(Binary, nil) }), goErr(func() error { return c.WriteMessage(Binary, large) })
			return errors.Join(<-first, <-second)
		}, nil},
		{"WriteMessage behind NextWriter", "", func(c *Conn) error {
			c.NextWriter(Binary)
			return c.WriteMessage(Binary, nil)
		}, nil},
		{"NextWriter behind NextWriter", "", func(c *Conn) error {
			c.NextWriter(Binary)
			_, err := c.NextWriter(Binary)
			return err
		}, nil},
		{"writer", "", func(c *Conn) error {
			w, err := c.NextWriter(Binary)
			if err == nil {
				_, err = w.Write(large)
			}
			return err
		}, nil},
		{"Ping", "", func(c *Conn) error { return c.Ping(context.Background()) }, nil},
		{"Close", "", (*Conn).Close, nil},
	} {
		for _, client := range []bool{false, true} {
			if client && tt.sent != "" {
				continue
			}
			t.Run(fmt.Sprint(tt.name, "/client=", client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, client)
					done := goErr(func() error { return tt.call(c) })
					if tt.sent != "" {
						io.WriteString(peer, tt.sent)
					}
					synctest.Wait()
					start := time.Now()
					if err := c.CloseNow(); err != nil {
						t.Error("CloseNow returned", err)
					}
					if err := wait(t, done); !errors.Is(err, cmp.Or(tt.want, net.ErrClosed)) {
						t.Errorf("returned %v", err)
					}
					if d := time.Since(start); d != 0 {
						t.Error("took", d)
					}
					if err := c.CloseNow(); err != nil {
						t.Error("a second CloseNow returned", err)
					}
					if err := c.Close(); err != nil {
						t.Error("Close after CloseNow returned", err)
					}
					if err := c.WriteMessage(Binary, nil); !errors.Is(err, net.ErrClosed) {
						t.Error("WriteMessage after CloseNow returned", err)
					}
				})
			})
		}
	}
	t.Run("TCP", func(t *testing.T) {
		server, _ := tcpPipe(t, nil)
		calls := []<-chan error{
			goErr(func() error {
				for { // nobody reads this
					if err := server.WriteMessage(Binary, large); err != nil {
						return err
					}
				}
			}),
			goErr(func() error { _, _, err := server.ReadMessage(); return err }),
			goErr(func() error { return server.Ping(context.Background()) }),
		}
		if err := server.CloseNow(); err != nil {
			t.Error(err)
		}
		for i, done := range calls {
			if err := wait(t, done); !errors.Is(err, net.ErrClosed) {
				t.Errorf("call %d returned %v", i, err)
			}
		}
	})
}

// TestDataAroundClose sends data behind either side's close frame: none is
// delivered.
func TestDataAroundClose(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("ours/hixie=%t/client=%t", hixie, client), func(t *testing.T) {
				c, rw := tapeConn(nil, client, hixie)
				rw.in = [][]byte{toward(c, opText, "1"), toward(c, opText, "2"), toward(c, opClose, "")}
				if err := c.Close(); err != nil {
					t.Error("Close returned", err)
				}
				if p, err := GetFrame(c); err != io.EOF {
					t.Errorf("GetFrame returned %q, %v", p, err)
				}
				if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0].opcode != opClose {
					t.Errorf("sent %q", frames)
				}
				if len(rw.in) != 0 {
					t.Error("the peer's close frame was not awaited")
				}
			})
			t.Run(fmt.Sprintf("theirs/hixie=%t/client=%t", hixie, client), func(t *testing.T) {
				c, rw := tapeConn(nil, client, hixie)
				rw.in = [][]byte{slices.Concat(toward(c, opText, "1"), toward(c, opClose, ""), toward(c, opText, "2"))}
				if p, err := GetFrame(c); string(p) != "1" || err != nil {
					t.Errorf("GetFrame returned %q, %v", p, err)
				}
				for range 2 {
					if p, err := GetFrame(c); err != io.EOF {
						t.Errorf("GetFrame returned %q, %v", p, err)
					}
				}
				c.Close()
				if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0].opcode != opClose {
					t.Errorf("sent %q", frames)
				}
			})
		}
	}
}

// TestCloseWithinMessage has the peer close before its message is whole. That
// must not look like an end behind it.
func TestCloseWithinMessage(t *testing.T) {
	for name, read := range map[string]func(c *Conn) ([]byte, error){
		"ReadMessage": func(c *Conn) ([]byte, error) { _, p, err := c.ReadMessage(); return p, err },
		"GetFrame":    func(c *Conn) ([]byte, error) { return GetFrame(c) },
		"Read":        func(c *Conn) ([]byte, error) { return io.ReadAll(c) },
		"NextReader": func(c *Conn) ([]byte, error) {
			_, r, err := c.NextReader()
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, rw := tapeConn(nil, true, false)
			rw.in = [][]byte{[]byte("\x01\x02ab\x88\x02\x03\xe8")}
			if p, err := read(c); err == nil || err == io.EOF {
				t.Errorf("half a message is %q, %v", p, err)
			}
		})
	}
}

// TestCloseAnswer has the peer close. The answer holds the same code and reason (RFC 6455,
// section 5.5.1), as it is the answer of which a browser tells the page that has closed.
func TestCloseAnswer(t *testing.T) {
	for _, payload := range []string{
		"", // no code
		closing(CloseNormal, ""),
		closing(CloseNormal, "was schön: 世界"),
		closing(CloseInternalError, "why"),
		closing(4999, strings.Repeat("x", 123)),
	} {
		for _, begun := range []string{"", "a"} {
			for _, client := range []bool{false, true} {
				c, rw := tapeConn(nil, client, false)
				if begun != "" {
					rw.in = append(rw.in, wf(opText, begun).append(nil, !client, false))
				}
				rw.in = append(rw.in, toward(c, opClose, payload))
				if _, _, err := c.ReadMessage(); err == nil {
					t.Error("a message")
				}
				if got := parseSent(t, c, rw.written()); len(got) != 1 || got[0] != (sent{opClose, payload}) {
					t.Errorf("client=%t, %q: the answer to %q is %q", client, begun, payload, got)
				}
			}
		}
	}
}

// TestCloseArguments closes with codes and reasons of all kinds, by CloseWith on its own, and
// while Serve runs, from within a callback and from elsewhere. Whatever they are the connection
// ends, and the peer gets a close frame that it may get.
func TestCloseArguments(t *testing.T) {
	x := strings.Repeat("x", 120)
	ways := []struct {
		name  string
		close func(c *Conn, closeWith func() error) error
	}{
		{"method", func(_ *Conn, closeWith func() error) error { return closeWith() }},
		{"callback", func(c *Conn, closeWith func() error) (err error) {
			c.Serve(Handler{OnOpen: func(*Conn) { err = closeWith() }})
			return err
		}},
		{"elsewhere", func(c *Conn, closeWith func() error) (err error) {
			served := goErr(func() error { return c.Serve(Handler{}) })
			synctest.Wait()
			err = closeWith()
			<-served
			return err
		}},
	}
	for _, tt := range []struct {
		code       CloseCode
		reason     string
		wantCode   CloseCode // if the code cannot be sent
		wantReason string    // if it is not the reason
	}{
		{CloseNormal, "", 0, ""},
		{CloseNormal, x + "123", 0, ""},
		{CloseNormal, x + "1234", 0, x + "123"},
		{CloseNormal, x + "1é", 0, ""},
		{CloseNormal, x + "12é", 0, x + "12"},
		{CloseNormal, x + "1世", 0, x + "1"},
		{CloseNormal, x + "12👩", 0, x + "12"},
		{CloseNormal, strings.Repeat("世", 1<<20), 0, strings.Repeat("世", 41)},
		{CloseNormal, "\xff", 0, "\ufffd"},
		{CloseNormal, "caf\xe9 fermé", 0, "caf\ufffd fermé"},
		{CloseNormal, strings.Repeat("x", 122) + "\xff", 0, strings.Repeat("x", 122)},
		{CloseNormal, strings.Repeat("\xff", 124) + "x", 0, "\ufffdx"},
		{CloseNormal, "cut within a rune: \xe4\xb8", 0, "cut within a rune: \ufffd"},
		{CloseNormal, "\xed\xa0\x80 is no rune", 0, "\ufffd is no rune"},
		{CloseNoStatus, "", 0, ""},
		{CloseNoStatus, "reason", CloseInternalError, ""},
		{0, "", CloseInternalError, ""},
		{999, "reason", CloseInternalError, ""},
		{1004, x + "1234", CloseInternalError, x + "123"},
		{1006, "\xff", CloseInternalError, "\ufffd"},
		{1014, "", 0, ""},
		{1015, "", CloseInternalError, ""},
		{2999, "", CloseInternalError, ""},
		{3000, "", 0, ""},
		{4999, "", 0, ""},
		{5000, "", CloseInternalError, ""},
		{65535, "", CloseInternalError, ""},
	} {
		for _, way := range ways {
			t.Run(fmt.Sprintf("%s/%d %.30q", way.name, int(tt.code), tt.reason), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					want := CloseError{cmp.Or(tt.wantCode, tt.code), cmp.Or(tt.wantReason, tt.reason), byUs, nil}
					c, peer := pipe(t, nil)
					defer c.CloseNow()
					start := time.Now()
					peer.SetReadDeadline(start.Add(time.Minute))
					got := goErr(func() error {
						_, _, err := peer.ReadMessage()
						peer.Close()
						return err
					})
					err := way.close(c, func() error { return c.CloseWith(tt.code, tt.reason) })
					if (err != nil) != (tt.wantCode != 0) || errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 0 {
						t.Errorf("CloseWith returned %v after %v", err, time.Since(start))
					}
					var e *CloseError
					if _, _, err := c.ReadMessage(); !errors.As(err, &e) || *e != want {
						t.Errorf("a read returns %#v, want %#v", err, want)
					}
					want.by = byPeer
					if err := wait(t, got); !errors.As(err, &e) || *e != want {
						t.Errorf("the peer has got %#v, want %#v", err, want)
					}
					if _, err := c.t.rw.Write([]byte{0}); err == nil {
						t.Error("the transport is open")
					}
				})
			})
		}
	}
}

// TestFailureReachesPeer has a peer break the protocol and go on sending. Over
// TCP it must nevertheless read why it was closed, and then an end, no reset.
func TestFailureReachesPeer(t *testing.T) {
	for _, tt := range []struct {
		name string
		bad  []byte
		code CloseCode
	}{
		{"unmasked", []byte("\x81\x00"), CloseProtocolError},
		{"not UTF-8", []byte("\x81\x81\x00\x00\x00\x00\xff"), CloseInvalidPayload},
		{"too big", []byte("\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"), CloseMessageTooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
			c := newConn(socket, nil, false)
			sent := goErr(func() error {
				_, err := peer.Write(append(tt.bad, make([]byte, 8<<20)...))
				return err
			})
			var got *CloseError
			_, err := c.Read(make([]byte, 8))
			if !errors.As(err, &got) || got.Code != tt.code || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				t.Fatalf("Read returned %v", err)
			}
			if werr := c.WriteMessage(Text, nil); werr != err {
				t.Errorf("WriteMessage returned %v", werr)
			}
			closed := goErr(c.Close)
			if err := wait(t, sent); err != nil {
				t.Error("the peer's Write returned", err)
			}
			b, err := io.ReadAll(peer)
			want := appendFrame(nil, finBit|opClose, appendClose(nil, got.Code, got.Reason), false)
			if !bytes.Equal(b, want) || err != nil {
				t.Errorf("the peer read %q, %v; want %q", b, err, want)
			}
			peer.Close()
			if err := wait(t, closed); err != nil {
				t.Error("Close returned", err)
			}
			if _, again := c.Read(make([]byte, 8)); again != error(got) {
				t.Error("Read returned", again, "after Close")
			}
		})
	}
}

// TestFailureUnclosed breaks the protocol towards a Conn that nobody closes: the
// transport goes with the time for the closing handshake.
func TestFailureUnclosed(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, client)
			gone := goErr(func() error { _, err := io.Copy(io.Discard, peer); return err })
			go peer.Write([]byte("\xff\xff"))
			start := time.Now()
			if _, err := GetFrame(c); err == nil {
				t.Error("GetFrame returned no error")
			}
			synctest.Wait()
			if len(gone) != 0 {
				t.Error("the transport is closed at once")
			}
			wait(t, gone)
			if d := time.Since(start); d != closeTimeout {
				t.Error("the transport was closed after", d)
			}
		})
	}
}

// TestServerClosesFirst has a client wait for the server to close the TCP
// connection, whoever began (RFC 6455, section 7.1.1).
func TestServerClosesFirst(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, begins := range []string{"server", "client"} {
			t.Run(fmt.Sprintf("%s/hixie=%t", begins, hixie), func(t *testing.T) {
				socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
				c := newConn(socket, nil, false)
				speakHixie(c, hixie)
				done := goErr(func() error {
					if begins == "server" {
						return c.Close()
					}
					_, err := GetFrame(c)
					if err == io.EOF {
						err = nil
					}
					return err
				})
				if _, err := peer.Write(toward(c, opClose, "")); err != nil {
					t.Fatal(err)
				}
				peer.SetReadDeadline(time.Now().Add(4 * time.Second)) // before the server gives up
				b, err := io.ReadAll(peer)
				if frames := parseSent(t, c, b); len(frames) != 1 || frames[0].opcode != opClose || err != nil {
					t.Errorf("the client read %q, %v", b, err)
				}
				if err := wait(t, done); err != nil {
					t.Error("the server got", err)
				}
			})
		}
	}
	// The client, for its part, leaves the server time to do so.
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, true)
		gone := goErr(func() error { _, err := io.Copy(io.Discard, peer); return err })
		go peer.Write(toward(c, opClose, ""))
		start := time.Now()
		if _, err := GetFrame(c); err != io.EOF {
			t.Error("GetFrame returned", err)
		}
		synctest.Wait()
		if len(gone) != 0 {
			t.Error("the client closed the transport")
		}
		wait(t, gone)
		if d := time.Since(start); d != closeTimeout {
			t.Error("the client let go after", d)
		}
	})
}

// TestCloseWithoutCloser closes a Conn over a stream that has no Close: it says
// good bye and does not wait.
func TestCloseWithoutCloser(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		rw := &tape{in: [][]byte{{1}}}
		c := newConn(noClose{rw}, nil, false)
		speakHixie(c, hixie)
		if err := c.Close(); err != nil {
			t.Error("Close returned", err)
		}
		if err := c.Close(); err != nil {
			t.Error("a second Close returned", err)
		}
		if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0].opcode != opClose || len(rw.events) != 1 {
			t.Errorf("sent %q in %d steps", frames, len(rw.events))
		}
		if _, err := GetFrame(c); err != io.EOF {
			t.Error("GetFrame returned", err)
		}
		if err := c.CloseNow(); err != nil {
			t.Error("CloseNow returned", err)
		}
		if err := c.SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Error("SetDeadline returned", err)
		}
		if c.LocalAddr().String() == "" || c.RemoteAddr().Network() == "" {
			t.Error("there is no address")
		}
	}
	rw := new(tape)
	c := newConn(noClose{rw}, nil, false)
	if err := c.CloseWith(1006, "why"); err == nil {
		t.Error("CloseWith sends 1006")
	}
	if frames := parseSent(t, c, rw.written()); len(frames) != 1 || frames[0] != (sent{opClose, closing(CloseInternalError, "why")}) {
		t.Errorf("sent %q", frames)
	}
}

// TestCloseHixieWriter closes a hixie-76 connection within a message, where FF 00
// would be text. Nothing is to be waited for.
func TestCloseHixieWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, nil, false)
		speakHixie(c, true)
		sent := make(chan string)
		go func() {
			b, _ := io.ReadAll(peer)
			sent <- string(b)
		}()
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "half")
		start := time.Now()
		if err := c.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("Close returned %v after %v", err, time.Since(start))
		}
		if got := <-sent; got != "\x00half" {
			t.Errorf("sent %q", got)
		}
	})
}

// TestCloseAfterEOF closes a connection whose peer has gone without a word.
func TestCloseAfterEOF(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			client.t.rw.(io.Closer).Close()
			if _, err := GetFrame(server); err != io.EOF {
				t.Error("GetFrame returned", err)
			}
			if err := server.Close(); err != nil {
				t.Error("Close returned", err)
			}
		})
	}
}

// TestTwoClosers has a second goroutine call Close while the first one waits for
// the peer's answer. It must not take that away.
func TestTwoClosers(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			reader := goErr(func() error {
				c.ReadMessage()
				return c.Close()
			})
			synctest.Wait()
			closer := goErr(func() error { return c.CloseWith(CloseGoingAway, "") })
			io.ReadFull(peer, make([]byte, 4))
			peer.Write(toward(c, opText, "late"))
			synctest.Wait()
			peer.Write(toward(c, opClose, "\x03\xe9"))
			for _, done := range []<-chan error{closer, reader} {
				if err := wait(t, done); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestCloseDropped has the peer go without an answer. Who was reading then makes
// no difference to Close.
func TestCloseDropped(t *testing.T) {
	for _, reading := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := barePeer(t, nil, false)
			if reading {
				go c.ReadMessage()
				synctest.Wait()
			}
			closed := goErr(c.Close)
			io.ReadFull(peer, make([]byte, 4))
			peer.Close()
			if err := wait(t, closed); cause(err) != io.EOF {
				t.Errorf("with a reader %t: Close returned %v", reading, err)
			}
		})
	}
}

// A lazyConn takes a second to close.
type lazyConn struct {
	net.Conn
	closed atomic.Bool
}

func (c *lazyConn) Close() error {
	time.Sleep(time.Second)
	c.closed.Store(true)
	return c.Conn.Close()
}

// TestCloseWaits closes while another goroutine is closing the transport. That is done
// when the call returns.
func TestCloseWaits(t *testing.T) {
	for name, end := range map[string]func(*Conn) error{
		"Close":    (*Conn).Close,
		"CloseNow": (*Conn).CloseNow,
		"Serve": func(c *Conn) error {
			if err := c.Serve(Handler{}); err != net.ErrClosed {
				return fmt.Errorf("Serve: %w", err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer b.Close()
				transport := &lazyConn{Conn: a}
				c := newConn(transport, nil, false)
				first := goErr(c.CloseNow)
				synctest.Wait()
				if err := end(c); err != nil || !transport.closed.Load() {
					t.Errorf("returned %v, transport closed: %t", err, transport.closed.Load())
				}
				if err := wait(t, first); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
