package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What Read has left of a message is the first message of Serve.
func TestInflateServeRest(t *testing.T) {
	t.Parallel()
	m := string(sampleText(20000, 3))
	for _, client := range []bool{false, true} {
		wire, _ := packedWire(client, m)
		for _, n := range []int{1, 4096, 4097, 20000} {
			c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), new(tape)}, nil, client, true)
			p := make([]byte, n)
			if _, err := io.ReadFull(c, p); err != nil || string(p) != m[:n] {
				t.Fatal(len(p), err)
			}
			var got []string
			err := c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) { got = append(got, string(p)) }})
			if want := []string{m[n:], m, m}; !slices.Equal(got, want) || cause(err) != io.EOF {
				t.Errorf("client %t, %d bytes read: served %d messages, %v", client, n, len(got), err)
			}
		}
	}
}

// TestServeCut is TestServerCut for a client with callbacks.
func TestServeCut(t *testing.T) {
	for _, fault := range []string{"read", "EOF", "write"} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The client sends what tally does, and the server closes at the second
				// message.
				s := new(Server)
				s.OnMessage = func(c *Conn, typ MessageType, p []byte) {
					if string(p) == "welcome" {
						c.WriteMessage(typ, []byte("hello"))
					} else {
						c.Close()
					}
				}
				p := servePiped(t, s)
				for n := 0; ; n++ {
					if n > 10000 {
						t.Fatal("there is no end")
					}
					cut := cutAfter(p.connect(t), fault, n)
					var y tally
					c, err := ClientHandshake(cut, "ws://server.example.com/", nil)
					if err == nil {
						err = c.Serve(y.handler(t))
						if y.opens != 1 || len(y.ends) != 1 || y.ends[0] != err {
							t.Fatalf("after %d bytes: %d calls of OnOpen, Serve returned %v, OnClose got %v", n, y.opens, err, y.ends)
						}
					}
					cut.Close()
					synctest.Wait()
					if !cut.wasCut() {
						if n < 100 || y.calls != 1 {
							t.Errorf("after %d bytes: %d messages", n, y.calls)
						}
						checkCode(t, err, CloseNormal, byPeer)
						break
					}
				}
			})
		})
	}
}

// TestServePanic lets callbacks of Conn.Serve panic. The panic goes on to the caller.
func TestServePanic(t *testing.T) {
	for _, at := range []string{"open", "message", "close"} {
		for _, exit := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/exit=%t/client=%t", at, exit, client), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c, peer := pipe(t, nil)
						if client {
							c, peer = peer, c
						}
						var calls []string
						var end error
						call := func(name string) {
							calls = append(calls, name)
							switch {
							case name != at:
							case exit:
								runtime.Goexit()
							default:
								panic("out of tea")
							}
						}
						done := make(chan any, 1)
						go func() {
							returned := false
							defer func() {
								if v := recover(); v != nil || !returned {
									done <- v
								}
							}()
							err := c.Serve(Handler{
								OnOpen:    func(*Conn) { call("open") },
								OnMessage: func(*Conn, MessageType, []byte) { call("message") },
								OnClose:   func(_ *Conn, err error) { end = err; call("close") },
							})
							returned = true
							done <- err
						}()
						code, want := CloseInternalError, "open message close"
						switch at {
						case "open":
							want = "open close"
						case "message":
							go peer.WriteMessage(Text, nil)
						case "close":
							want = "open close"
							code = CloseNormal
							go peer.Close()
						}
						seen := goErr(func() error { expectClose(t, peer, code); return nil })
						v := wait(t, done)
						if exit && v != nil || !exit && v != "out of tea" {
							t.Errorf("Serve ended with %v", v)
						}
						if got := strings.Join(calls, " "); got != want {
							t.Errorf("calls: %s, want %s", got, want)
						}
						if e, ok := errors.AsType[*CloseError](end); !ok || e.Code != code {
							t.Errorf("OnClose got %v, want %v", end, code)
						}
						// The transport does not stay open even if nobody calls Close.
						if exit {
							time.Sleep(2 * closeTimeout)
						} else if err := c.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
						wait(t, seen)
						synctest.Wait()
						if !c.end.isShut() {
							t.Error("the transport is open")
						}
					})
				})
			}
		}
	}
}

// The payload that OnMessage gets can be appended to and stays as it is during the call,
// whatever else happens.
func TestServePayload(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			var all []string
			var in []byte
			for i, size := range []int{1, 0, 125, 126, 3000, 5000, 20_000, 40_000, 70_000, 1 << 20, 10} {
				m := strings.Repeat(string(rune('a'+i)), size)
				all = append(all, m)
				in = append(in, toward(server, opText, m)...)
				if !server.write.hixie && size > 2 { // the same in fragments
					all = append(all, m)
					in = append(in, appendFrame(nil, opText, []byte(m[:1]), true)...)
					in = append(in, appendFrame(nil, opContinuation, []byte(m[1:size/2]), true)...)
					in = append(in, appendFrame(nil, finBit|opPing, []byte("between"), true)...)
					in = append(in, appendFrame(nil, finBit|opContinuation, []byte(m[size/2:]), true)...)
				}
			}
			in = append(in, toward(server, opClose, closing(CloseNormal, ""))...)
			go client.t.rw.Write(in) // as one segment, as far as the transport can
			go io.Copy(io.Discard, client.t.rw)
			n := 0
			err := server.Serve(Handler{OnMessage: func(_ *Conn, typ MessageType, p []byte) {
				if n >= len(all) || typ != Text || string(p) != all[n] {
					t.Fatalf("message %d is %.20q, %d bytes", n, p, len(p))
				}
				if cap(p) != len(p) {
					t.Errorf("message %d: %d bytes of %d", n, len(p), cap(p))
				}
				_ = append(p, strings.Repeat("\xff", 100)...)
				n++
			}})
			if _, ok := errors.AsType[*CloseError](err); !ok || n != len(all) {
				t.Errorf("%d of %d messages, then %v", n, len(all), err)
			}
		})
	}
}

// The payload does not change while OnMessage runs, even if the connection is closed.
func TestServePayloadClosed(t *testing.T) {
	for _, size := range []int{100, 20_000} {
		for _, end := range []string{"CloseWith", "CloseNow", "peer"} {
			t.Run(fmt.Sprintf("%s/%d", end, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					go io.Copy(io.Discard, peer)
					m := strings.Repeat("m", size)
					go func() {
						frame := toward(c, opBinary, m)
						peer.Write(append(frame, toward(c, opBinary, strings.Repeat("x", size))...))
						switch end {
						case "CloseWith":
							c.CloseWith(3000, "")
						case "CloseNow":
							c.CloseNow()
						}
						peer.Close()
					}()
					calls := 0
					c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) {
						if calls++; calls > 1 {
							return
						}
						time.Sleep(time.Second)
						// The pools give out other memory than that.
						for range 10 {
							clear(inputs.Get().(*[inputSize]byte)[:])
							for i := range messages {
								if l, ok := messages[i].Get().(*output); ok {
									clear(l.b[:cap(l.b)])
								}
							}
						}
						if string(p) != m {
							t.Error("the payload has changed")
						}
					}})
				})
			})
		}
	}
}

// TestServeLast expects no OnMessage after a callback, or another goroutine while one runs, has closed
// the connection, whatever has arrived.
func TestServeLast(t *testing.T) {
	for name, end := range map[string]func(*Conn){
		"CloseWith": func(c *Conn) { c.CloseWith(3000, "") },
		"Close":     func(c *Conn) { c.Close() },
		"CloseNow":  func(c *Conn) { c.CloseNow() },
		"elsewhere": func(c *Conn) { wait(t, goErr(c.Close)) },
	} {
		for want, at := range []string{"open", "first", "second"} {
			for _, size := range []int{1, 20_000} {
				for _, hixie := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%d/hixie=%t", name, at, size, hixie), func(t *testing.T) {
						c, peer := barePeer(t, nil, false)
						speakHixie(c, hixie)
						wire := bytes.Repeat(toward(c, opText, strings.Repeat("m", size)), 4)
						go peer.Write(append(wire, toward(c, opClose, "")...))
						go io.Copy(io.Discard, peer)
						calls := 0
						c.Serve(Handler{
							OnOpen: func(c *Conn) {
								if want == 0 {
									end(c)
								}
							},
							OnMessage: func(c *Conn, _ MessageType, _ []byte) {
								if calls++; calls == want {
									end(c)
								}
							},
						})
						if calls != want {
							t.Errorf("OnMessage was called %d times, want %d", calls, want)
						}
					})
				}
			}
		}
	}
}

// TestServeClose closes a connection from within each callback, and from another goroutine
// while it runs.
func TestServeClose(t *testing.T) {
	closes := []struct {
		name string
		f    func(*Conn) error
		code CloseCode // or 0 for no closing handshake
	}{
		{"CloseWith", func(c *Conn) error { return c.CloseWith(3000, "bye") }, 3000},
		{"Close", (*Conn).Close, CloseNormal},
		{"CloseNow", (*Conn).CloseNow, 0},
		{"CloseWith, Close", func(c *Conn) error { return errors.Join(c.CloseWith(3000, ""), c.Close()) }, 3000},
		{"Close, CloseNow", func(c *Conn) error { return errors.Join(c.Close(), c.CloseNow()) }, CloseNormal},
	}
	for _, cl := range closes {
		for _, at := range []string{"open", "message", "close", "timeout"} {
			for _, elsewhere := range []bool{false, true} {
				for _, client := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/elsewhere=%t/client=%t", cl.name, at, elsewhere, client), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							c, peer := pipe(t, nil)
							if client {
								c, peer = peer, c
							}
							start := time.Now()
							closed, ends := 0, []error(nil)
							act := func(place string) {
								if place != at {
									return
								}
								var err error
								if elsewhere {
									err = wait(t, goErr(func() error { return cl.f(c) }))
								} else {
									err = cl.f(c)
								}
								if closed++; err != nil {
									t.Errorf("closing returned %v", err)
								}
							}
							done := goErr(func() error {
								return c.Serve(Handler{
									OnOpen: func(c *Conn) {
										if at == "timeout" {
											c.SetReadDeadline(time.Now().Add(time.Second))
										}
										act("open")
									},
									OnMessage: func(*Conn, MessageType, []byte) { act("message") },
									OnClose: func(_ *Conn, err error) {
										ends = append(ends, err)
										act("close")
										act("timeout")
									},
								})
							})
							seen := make(chan error, 1)
							go func() {
								if at == "message" {
									peer.WriteMessage(Text, nil)
								}
								if at == "close" {
									peer.Close()
								}
								_, _, err := peer.ReadMessage()
								seen <- err
								peer.Close()
							}()
							err := wait(t, done)
							if closed != 1 || len(ends) != 1 || ends[0] != err {
								t.Errorf("closed %d times, OnClose got %v, Serve returned %v", closed, ends, err)
							}
							peerErr := wait(t, seen)
							switch {
							case at == "close":
								checkCode(t, err, CloseNormal, byPeer)
							case at == "timeout":
								if !errors.Is(err, os.ErrDeadlineExceeded) {
									t.Errorf("Serve returned %v, want a timeout", err)
								}
							case cl.code != 0:
								checkCode(t, err, cl.code, byUs)
							case err != net.ErrClosed:
								t.Errorf("Serve returned %v", err)
							}
							switch {
							case at == "close":
							case strings.Contains(cl.name, "CloseNow"): // and perhaps a close frame before
								if peerErr == nil {
									t.Error("the peer has got a message")
								}
							default:
								checkCode(t, peerErr, cl.code, byPeer)
							}
							want := time.Duration(0)
							if at == "timeout" {
								want = time.Second
							}
							if d := time.Since(start); d != want {
								t.Errorf("it took %v", d)
							}
							synctest.Wait()
							checkStopped(t, c)
						})
					})
				}
			}
		}
	}
}

// TestServeCloseRace closes served connections in all ways at once, under load.
func TestServeCloseRace(t *testing.T) {
	for round := range 40 {
		var opens, ends atomic.Int32
		s := &Server{Options: Options{MaxQueue: 20_000, CloseTimeout: 200 * time.Millisecond}}
		opened := make(chan *Conn, 1)
		s.OnOpen = func(c *Conn) {
			opens.Add(1)
			opened <- c
		}
		s.OnMessage = func(c *Conn, typ MessageType, p []byte) {
			c.WriteMessage(typ, p)
			if p[0] == byte(round) {
				c.CloseWith(3001, "")
			}
		}
		s.OnClose = func(c *Conn, err error) {
			if ends.Add(1); err == nil {
				t.Error("OnClose without an error")
			}
			c.Close()
		}
		a, b := socketPair(t, "tcp", "127.0.0.1:0")
		c := newConn(a, &s.Options, false)
		client := newConn(b, nil, true)
		served := goErr(func() error {
			s.begin()
			c.beginServe(nil, time.Second)
			s.add(c)
			s.serve(c, &s.Handler, nil)
			return nil
		})
		wait(t, opened)
		var group sync.WaitGroup
		group.Go(func() {
			for i := range 100 {
				client.WriteMessage(Binary, append([]byte{byte(i)}, make([]byte, 300)...))
			}
		})
		group.Go(func() {
			for {
				if _, _, err := client.ReadMessage(); err != nil {
					client.CloseNow()
					return
				}
			}
		})
		for i, f := range []func(){
			func() { c.CloseWith(3000, "") },
			func() { c.Close() },
			func() { s.Shutdown(t.Context()) },
			func() {
				for range 30 {
					s.Broadcast(Binary, make([]byte, 1000)) // until it is too much
				}
			},
			func() { c.CloseNow() },
			func() { c.SetReadDeadline(time.Now()) },
		} {
			if i == round%7 {
				continue // another one is left to come first
			}
			group.Go(f)
		}
		if err := wait(t, served); err != nil {
			t.Error(err)
		}
		done := goErr(func() error { group.Wait(); return nil })
		wait(t, done)
		if opens.Load() != 1 || ends.Load() != 1 || s.active != 0 {
			t.Fatalf("round %d: %d calls of OnOpen, %d of OnClose, %d active", round, opens.Load(), ends.Load(), s.active)
		}
		checkStopped(t, c)
	}
}

// Whoever else reads gets an error, and Serve is not disturbed.
func TestServeAndRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, nil)
		reads := func(c *Conn) {
			_, _, err := c.ReadMessage()
			_, _, err2 := c.AppendMessage(nil)
			_, _, err3 := c.NextReader()
			_, err4 := c.Read(make([]byte, 10))
			_, err5 := GetFrame(c)
			_, err6 := ShakeHands(c)
			err7 := c.Serve(Handler{OnOpen: func(*Conn) { t.Error("OnOpen is called") }})
			for i, err := range []error{err, err2, err3, err4, err5, err6, err7} {
				if err == nil {
					t.Errorf("method %d has returned no error", i)
				}
			}
		}
		// A reader that has left a rest, which Serve skips.
		go func() {
			client.WriteMessage(Text, []byte("first"))
			client.WriteMessage(Text, []byte("second"))
			client.Close()
		}()
		_, r, err := server.NextReader()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 2)); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		var got []string
		err = server.Serve(Handler{
			OnOpen: reads,
			OnMessage: func(c *Conn, _ MessageType, p []byte) {
				got = append(got, string(p))
				reads(c)
				if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("a reader of before: %v", err)
				}
			},
			OnClose: func(c *Conn, _ error) { reads(c) },
		})
		checkCode(t, err, CloseNormal, byPeer)
		if !slices.Equal(got, []string{"second"}) {
			t.Errorf("messages: %q", got)
		}
		reads(server)
	})
}

// Serve delivers what Read has left of a message, as other methods do.
func TestServeAfterRead(t *testing.T) {
	server, client := tcpPipe(t, nil)
	go func() {
		client.WriteMessage(Text, []byte("first"))
		client.WriteMessage(Text, []byte("second"))
		client.Close()
	}()
	if n, err := io.ReadFull(server, make([]byte, 2)); n != 2 {
		t.Fatal(err)
	}
	var got []string
	server.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) { got = append(got, string(p)) }})
	if !slices.Equal(got, []string{"rst", "second"}) {
		t.Errorf("messages: %q", got)
	}
}

// A connection that has ended is served with OnOpen and OnClose only.
func TestServeClosed(t *testing.T) {
	for _, end := range []func(*Conn) error{(*Conn).CloseNow, func(c *Conn) error { return c.CloseWith(3000, "") }} {
		server, client := pipe(t, nil)
		go client.ReadMessage()
		end(server)
		var y tally
		err := server.Serve(y.handler(t))
		if err == nil || y.opens != 1 || y.calls != 0 || !slices.Equal(y.ends, []error{err}) {
			t.Errorf("Serve returned %v, OnClose got %v after %d calls of OnOpen", err, y.ends, y.opens)
		}
	}
}

// Serve may be called while CloseWith waits for the answer. It leaves the end to that, and does not
// touch what that reads with.
func TestServeClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := barePeer(t, &Options{PingInterval: time.Second}, false)
		go io.Copy(io.Discard, peer)
		closed := goErr(c.Close)
		synctest.Wait()
		served := goErr(func() error { return c.Serve(Handler{}) })
		for range 100 {
			if _, err := peer.Write(toward(c, opText, "a")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := peer.Write(toward(c, opClose, closing(CloseNormal, ""))); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, closed); err != nil {
			t.Error("Close returned", err)
		}
		checkCode(t, wait(t, served), CloseNormal, byUs)
		checkStopped(t, c)
	})
}

// The replies to messages that have come together leave together.
func TestServeBatch(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, broadcast := range []bool{false, true} {
			c, rw := tapeConn(nil, false, hixie)
			s := new(Server)
			c.beginServe(nil, -1)
			s.add(c)
			var in []byte
			for i := range 16 {
				in = append(in, toward(c, opText, fmt.Sprint(i))...)
			}
			rw.in = [][]byte{in, bytes.Clone(in)}
			n := 0
			c.serveAll(Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) {
				if c.WriteMessage(typ, p); broadcast && n == 20 {
					s.Broadcast(Text, []byte("all"))
				}
				n++
			}})
			if n != 32 {
				t.Errorf("%d messages", n)
			}
			var got []string
			for _, f := range parseSent(t, c, rw.written()) {
				if f.opcode == opText {
					got = append(got, f.payload)
				}
			}
			want := strings.Fields(strings.Repeat("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 ", 2))
			if broadcast {
				want = slices.Insert(want, 21, "all")
			}
			if !slices.Equal(got, want) {
				t.Errorf("hixie=%t: sent %q", hixie, got)
			}
			if w := rw.writes(); parseSent(t, c, w[0].wrote)[15].payload != "15" || !broadcast && len(w) > 3 {
				t.Errorf("hixie=%t: %d writes, the first of %q", hixie, len(w), w[0].wrote)
			}
		}
	}
}

// A read deadline of the user's ends Serve, unless it is moved in time.
func TestServeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, nil)
		start := time.Now()
		extend := func(c *Conn) { c.SetReadDeadline(time.Now().Add(time.Second)) }
		seen := goErr(func() error {
			for range 10 {
				time.Sleep(time.Second - 1)
				client.WriteMessage(Text, nil)
			}
			_, _, err := client.ReadMessage()
			return err
		})
		err := server.Serve(Handler{OnOpen: extend, OnMessage: func(c *Conn, _ MessageType, _ []byte) { extend(c) }})
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 11*time.Second-10 {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
		checkCode(t, wait(t, seen), CloseNormal, byPeer)
		checkStopped(t, server)
	})
}

// While Serve waits for input, other readers get an error at once.
func TestServeWaitsAndRead(t *testing.T) {
	for name, read := range map[string]func(c *Conn) error{
		"ReadMessage": func(c *Conn) error { _, _, err := c.ReadMessage(); return err },
		"NextReader":  func(c *Conn) error { _, _, err := c.NextReader(); return err },
		"Read":        func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"ShakeHands":  func(c *Conn) error { _, err := ShakeHands(c); return err },
		"Serve":       func(c *Conn) error { return c.Serve(Handler{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := pipe(t, nil)
				served := goErr(func() error { return c.Serve(Handler{}) })
				synctest.Wait()
				done := goErr(func() error { return read(c) })
				synctest.Wait()
				if len(done) == 0 {
					t.Error("it waits")
				}
				go peer.Close()
				if err := wait(t, done); err == nil {
					t.Error("no error")
				}
				wait(t, served)
			})
		})
	}
}

// Buffers for messages in fragments keep their size.
func TestServeFragmentsAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	c := newConn(nil, nil, false)
	var in []byte
	for range 100 {
		for _, size := range []int{10, 40_000} {
			in = append(in, appendFrame(nil, opText, []byte(strings.Repeat("x", size/2)), true)...)
			in = append(in, appendFrame(nil, finBit|opContinuation, []byte(strings.Repeat("x", size/2)), true)...)
		}
	}
	rw := &tape{}
	rw.in = [][]byte{in}
	c = newConn(rw, nil, false)
	n := 0
	if b := allocated(func() {
		c.Serve(Handler{OnMessage: func(*Conn, MessageType, []byte) { n++ }})
	}); n != 200 || b > 1<<20 {
		t.Errorf("%d bytes were allocated for %d messages", b, n)
	}
}

// A halfConn has no more input, as that of a peer that has half-closed it.
type halfConn struct{ net.Conn }

func (halfConn) Read([]byte) (int, error) { return 0, io.EOF }

// A peer that has half-closed and does not read cannot hold up an OnClose that writes. Nor can a
// writer that is open.
func TestServeOnCloseWrites(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		for i := range 4 {
			client, open := i&1 != 0, i&2 != 0
			synctest.Test(t, func(t *testing.T) {
				a, peer := net.Pipe()
				defer peer.Close()
				c := newConn(halfConn{a}, &Options{CloseTimeout: timeout, PingInterval: time.Second}, client)
				defer c.CloseNow()
				start := time.Now()
				var written error
				served := goErr(func() error {
					return c.Serve(Handler{OnClose: func(c *Conn, _ error) {
						if open {
							c.NextWriter(Text)
						}
						written = c.WriteMessage(Text, []byte("left"))
					}})
				})
				if err := wait(t, served); cause(err) != io.EOF || written == nil {
					t.Errorf("Serve: %v, WriteMessage: %v", err, written)
				}
				want := timeout
				if timeout == 0 {
					want = closeTimeout
				}
				if d := time.Since(start); d != want {
					t.Errorf("it took %v, want %v", d, want)
				}
				checkStopped(t, c)
			})
		}
	}
}

// Serve leaves no large buffer for others, whom a byte of a message would let hold it.
func TestServePool(t *testing.T) {
	message := appendFrame(nil, opBinary, []byte("x"), true)
	message = appendFrame(message, finBit|opContinuation, make([]byte, 700<<10), true)
	for range 20 { // a buffer that another thread has put may not be found
		n := 0
		newConn(&tape{in: [][]byte{bytes.Clone(message)}}, nil, false).Serve(Handler{
			OnMessage: func(_ *Conn, _ MessageType, p []byte) { n += len(p) },
		})
		if n != 1+700<<10 {
			t.Fatalf("read %d bytes", n)
		}
		for range 10 {
			var buf messageBuffer
			for _, n := range []int{1, 1000, 5000, 30_000} {
				if p := buf.grow(nil, n); cap(p) > max(4<<10, 4*n) {
					t.Fatalf("%d bytes hold %d", n, cap(p))
				}
				buf.free()
			}
		}
	}
}

// TestServeLarge has messages of many sizes come over TCP, whose buffers are used again.
func TestServeLarge(t *testing.T) {
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	c, client := newConn(a, nil, false), newConn(b, nil, true)
	sizes := []int{1 << 20, 5, 700 << 10, 1 << 20, 40 << 10, 1 << 20, 0, 100 << 10}
	message := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, sizes[i]) }
	var got int
	served := goErr(func() error {
		return c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) {
			if !bytes.Equal(p, message(got)) {
				t.Errorf("message %d has %d bytes, or others", got, len(p))
			}
			got++
		}})
	})
	for i := range sizes {
		if err := client.WriteMessage(Binary, message(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	checkCode(t, wait(t, served), CloseNormal, byPeer)
	if got != len(sizes) {
		t.Errorf("%d messages, want %d", got, len(sizes))
	}
}

// Messages of any size reuse a buffer, however they arrive.
func TestServeSizesAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	sizes := []int{20 << 10, 33 << 10, 40 << 10, 63 << 10, 66 << 10, 200 << 10, 1 << 20}
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"socket":          func(c net.Conn) net.Conn { return c },
		"other transport": func(c net.Conn) net.Conn { return struct{ net.Conn }{c} },
	} {
		for _, size := range sizes {
			a, b := socketPair(t, "tcp", "127.0.0.1:0")
			c, client := newConn(wrap(a), nil, false), newConn(b, nil, true)
			const n = 100
			got := make(chan int)
			served := goErr(func() error {
				return c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) { got <- len(p) }})
			})
			p := make([]byte, size)
			exchange := func(n int) {
				for range n {
					if err := client.WriteMessage(Binary, p); err != nil {
						t.Fatal(err)
					}
					if k := wait(t, got); k != size {
						t.Fatalf("a message of %d bytes", k)
					}
				}
			}
			exchange(10)
			if b := allocated(func() { exchange(n) }); b > n*uint64(size)/4 {
				t.Errorf("%s: %d bytes were allocated for %d messages of %d", name, b, n, size)
			}
			client.Close()
			wait(t, served)
		}
	}
}
