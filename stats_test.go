package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// checkStats compares what s has counted.
func checkStats(t testing.TB, s *Server, want Stats) {
	t.Helper()
	if want.Refused == nil {
		want.Refused = make(map[int]uint64)
	}
	if want.Closed == nil {
		want.Closed = make(map[CloseCode]uint64)
	}
	if got := s.Stats(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestStatsMessages counts messages of all kinds, on connections of all kinds.
func TestStatsMessages(t *testing.T) {
	// Neither copied nor held back, also when they are compressed.
	large := strings.Repeat("large ", 50_000)
	random := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{}).Read(random)
	dense := fmt.Sprintf("%x", random)
	for _, kind := range append(pairs, struct {
		name string
		open openFunc
	}{"deflate", func(t testing.TB, o *Options) (server, client *Conn) {
		return openPacked(t, false)
	}}, struct {
		name string
		open openFunc
	}{"deflate with takeover", func(t testing.TB, o *Options) (server, client *Conn) {
		return openPacked(t, true)
	}}) {
		t.Run(kind.name, func(t *testing.T) {
			s := &Server{Options: Options{MaxMessage: 1 << 20}}
			c, client := kind.open(t, nil)
			early := goErr(func() error { return c.WriteMessage(Text, []byte("before it has a Server")) })
			expectMessages(t, client, "before it has a Server")
			if err := wait(t, early); err != nil {
				t.Fatal(err)
			}
			checkStats(t, s, Stats{})
			if err := s.Adopt(c, Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) {
				if string(p) != "pieces" {
					c.WriteMessage(typ, p)
					return
				}
				w, err := c.NextWriter(Text)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(w, "pie")
				io.WriteString(w, "")
				io.WriteString(w, large)
				w.Close()
			}}); err != nil {
				t.Fatal(err)
			}
			want := Stats{Conns: 1, Accepted: 1}
			for _, text := range []string{"a", "", "ten bytes.", large, dense, strings.Repeat("much of the same ", 100)} {
				sent := goErr(func() error { return client.WriteMessage(Text, []byte(text)) })
				expectMessages(t, client, text)
				if err := wait(t, sent); err != nil {
					t.Fatal(err)
				}
				want.MessagesReceived++
				want.BytesReceived += uint64(len(text))
				want.MessagesSent++
				want.BytesSent += uint64(len(text))
				checkStats(t, s, want)
			}

			fragments := goErr(func() error {
				w, err := client.NextWriter(Text)
				for _, p := range []string{"pi", "", "eces"} {
					if err == nil {
						_, err = io.WriteString(w, p)
					}
				}
				if err != nil {
					return err
				}
				return w.Close()
			})
			expectMessages(t, client, "pie"+large)
			if err := wait(t, fragments); err != nil {
				t.Fatal(err)
			}
			want.MessagesReceived++
			want.BytesReceived += uint64(len("pieces"))
			want.MessagesSent++
			want.BytesSent += uint64(len("pie") + len(large))
			checkStats(t, s, want)

			for _, text := range []string{"broadcast", ""} {
				if err := s.Broadcast(Text, []byte(text)); err != nil {
					t.Fatal(err)
				}
				expectMessages(t, client, text)
				want.MessagesSent++
				want.BytesSent += uint64(len(text))
				checkStats(t, s, want)
			}
			if !client.write.isHixie() {
				// Neither pings nor pongs are messages.
				pong := goErr(func() error { return client.Ping(t.Context()) })
				read := goErr(func() error { _, _, err := client.ReadMessage(); return err })
				if err := wait(t, pong); err != nil {
					t.Fatal(err)
				}
				checkStats(t, s, want)
				client.SetReadDeadline(time.Unix(1, 0))
				wait(t, read)
				client.SetReadDeadline(time.Time{})
			}

			// What has been refused is not sent.
			c.WriteMessage(Text, []byte("\xff"))
			c.WriteMessage(9, nil)
			s.Broadcast(Text, []byte("\xff"))
			checkStats(t, s, want)

			want.Conns, want.Closed = 0, map[CloseCode]uint64{CloseGoingAway: 1}
			shutdownStats(t, s, client, want)
			if c.WriteMessage(Text, []byte("late")) == nil {
				t.Error("a message was sent after the end")
			}
			checkStats(t, s, want)
		})
	}
}

// openPacked returns both ends of a connection that compresses.
func openPacked(t testing.TB, takeover bool) (server, client *Conn) {
	a, b := net.Pipe()
	o := &Options{Deflate: &Deflate{ContextTakeover: takeover}}
	server, client = packedConn(a, o, false, takeover), packedConn(b, o, true, takeover)
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	return server, client
}

// Messages that arrive together count, each for itself.
func TestStatsBatch(t *testing.T) {
	s := new(Server)
	c, tape := tapeConn(nil, false, false)
	var in []byte
	for _, text := range []string{"a", "bc", "", "def"} {
		in = appendFrame(in, finBit|opText, []byte(text), true)
	}
	tape.in = [][]byte{in}
	ends := make(chan error, 1)
	if err := s.Adopt(c, Handler{OnClose: func(_ *Conn, err error) { ends <- err }}); err != nil {
		t.Fatal(err)
	}
	checkCode(t, wait(t, ends), CloseAbnormal, byCut)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	checkStats(t, s, Stats{Accepted: 1, Closed: map[CloseCode]uint64{CloseAbnormal: 1}, MessagesReceived: 4, BytesReceived: 6})
}

// A fragment counts once, if it has to wait and its writer does not, too.
func TestStatsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: Options{PingInterval: -1}}
		c, peer := barePeer(t, nil, false)
		if err := s.Adopt(c, Handler{}); err != nil {
			t.Fatal(err)
		}
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		peer.Write(appendFrame(nil, finBit|opPing, nil, true))
		synctest.Wait() // the pong waits for the peer
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := w.Write(make([]byte, batchSize)); n != batchSize || err != errSending {
			t.Errorf("%d bytes, %v", n, err)
		}
		checkStats(t, s, Stats{Conns: 1, Accepted: 1, BytesSent: batchSize})
		go io.Copy(io.Discard, peer)
		c.SetWriteDeadline(time.Time{})
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		checkStats(t, s, Stats{Conns: 1, Accepted: 1, MessagesSent: 1, BytesSent: batchSize})
		c.CloseNow()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Broadcasts count once for each client that gets them: those that wait for OnOpen, and those that
// are sent to one that rests, too.
func TestStatsBroadcast(t *testing.T) {
	opening := make(chan bool)
	s := new(Server)
	for range 2 {
		c, client := tcpPipe(t, nil)
		if err := s.Adopt(c, Handler{}); err != nil {
			t.Fatal(err)
		}
		defer client.CloseNow()
	}
	if canIdle {
		awaitRest(t, s, 2, 0)
	}
	c, client := tcpPipe(t, nil)
	if err := s.Adopt(c, Handler{OnOpen: func(*Conn) { <-opening }}); err != nil {
		t.Fatal(err)
	}
	excepted, _ := tcpPipe(t, nil)
	if err := s.Adopt(excepted, Handler{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Broadcast(Binary, []byte("12345"), excepted); err != nil {
		t.Fatal(err)
	}
	want := Stats{Conns: 4, Accepted: 4, MessagesSent: 3, BytesSent: 15}
	checkStats(t, s, want)
	close(opening)
	expectMessages(t, client, "12345")
	if err := s.Send(Binary, []byte("1"), c, c); err != nil {
		t.Fatal(err)
	}
	want.MessagesSent += 2
	want.BytesSent += 2
	checkStats(t, s, want)
	for c := range s.Conns() {
		c.CloseNow()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	want.Conns, want.Closed = 0, map[CloseCode]uint64{CloseAbnormal: 4}
	checkStats(t, s, want)
}

// TestStatsClosed has connections end in every way.
func TestStatsClosed(t *testing.T) {
	const interval = time.Second
	beHeard := func(peer net.Conn) { // until it is cut
		for err := error(nil); err == nil; time.Sleep(interval / 2) {
			_, err = peer.Write(appendFrame(nil, finBit|opPong, nil, true))
		}
	}
	for _, tt := range []struct {
		name            string
		end             func(t *testing.T, s *Server, c *Conn, peer net.Conn)
		code            CloseCode
		slow, pingsLost uint64
	}{
		{"by the peer", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opClose, []byte(closing(CloseNormal, "bye")), true))
		}, CloseNormal, 0, 0},
		{"by the peer, without a code", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opClose, nil, true))
		}, CloseNoStatus, 0, 0},
		{"by the peer, with a code of its own", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opClose, []byte(closing(4999, "")), true))
		}, 4999, 0, 0},
		{"by the peer, within a message", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(appendFrame(nil, opText, nil, true), finBit|opClose, []byte(closing(CloseGoingAway, "")), true))
		}, CloseGoingAway, 0, 0},
		{"by us", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			c.CloseWith(3001, "")
			peer.Write(appendFrame(nil, finBit|opClose, []byte(closing(3001, "")), true))
		}, 3001, 0, 0},
		{"by us, without an answer", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			c.CloseWith(ClosePolicyViolation, "too many messages wait to be read")
		}, ClosePolicyViolation, 0, 0},
		{"both", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			c.CloseWith(3002, "")
			peer.Write(appendFrame(nil, finBit|opClose, []byte(closing(CloseNormal, "")), true))
		}, 3002, 0, 0},
		{"Shutdown", func(t *testing.T, s *Server, c *Conn, peer net.Conn) {
			s.ShutdownWith(t.Context(), CloseServiceRestart, "")
		}, CloseServiceRestart, 0, 0},
		{"CloseNow", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) { c.CloseNow() }, CloseAbnormal, 0, 0},
		{"cut", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) { peer.Close() }, CloseAbnormal, 0, 0},
		{"cut within a frame", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			peer.Write([]byte{finBit | opText})
			peer.Close()
		}, CloseAbnormal, 0, 0},
		{"read deadline", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			c.SetReadDeadline(time.Unix(1, 0))
		}, CloseNormal, 0, 0}, // Close of a Server sends that
		{"protocol error", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opText, nil, false))
		}, CloseProtocolError, 0, 0},
		{"no text", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opText, []byte("\xff"), true))
		}, CloseInvalidPayload, 0, 0},
		{"too big", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opText, make([]byte, 2001), true))
		}, CloseMessageTooBig, 0, 0},
		{"panic", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {
			peer.Write(appendFrame(nil, finBit|opText, []byte("panic"), true))
		}, CloseInternalError, 0, 0},
		{"no pong", func(t *testing.T, _ *Server, _ *Conn, peer net.Conn) {}, CloseAbnormal, 0, 1},
		{"full queue", func(t *testing.T, s *Server, _ *Conn, peer net.Conn) {
			for range 10 {
				s.Broadcast(Text, make([]byte, 900))
			}
		}, ClosePolicyViolation, 1, 0},
		{"full queue, for Send", func(t *testing.T, s *Server, c *Conn, peer net.Conn) {
			for range 10 {
				s.Send(Text, make([]byte, 900), c)
			}
		}, ClosePolicyViolation, 1, 0},
		{"stalled write", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			go c.WriteMessage(Text, make([]byte, 100))
			beHeard(peer)
		}, CloseAbnormal, 1, 0},
		{"unclosed message", func(t *testing.T, _ *Server, c *Conn, peer net.Conn) {
			go io.Copy(io.Discard, peer)
			c.NextWriter(Text)
			go c.WriteMessage(Text, nil)
			beHeard(peer)
		}, CloseAbnormal, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{Options: Options{PingInterval: interval, MaxQueue: 1000}}
				c, peer := barePeer(t, &Options{MaxMessage: 2000}, false)
				returns, closed := make(chan bool), make(chan bool)
				if err := s.Adopt(c, Handler{
					OnMessage: func(*Conn, MessageType, []byte) { panic(http.ErrAbortHandler) },
					OnClose:   func(*Conn, error) { close(closed); <-returns },
				}); err != nil {
					t.Fatal(err)
				}
				if tt.name != "full queue" && tt.slow == 0 && tt.name != "unclosed message" {
					go io.Copy(io.Discard, peer)
				}
				synctest.Wait()
				var ended sync.WaitGroup
				defer ended.Wait()
				ended.Go(func() { tt.end(t, s, c, peer) })
				wait(t, closed)
				if got := s.Stats(); got.Conns != 1 || got.Accepted != 1 || len(got.Closed) > 0 || got.Slow+got.PingsLost > 0 {
					t.Errorf("while OnClose runs: %+v", got)
				}
				close(returns)
				synctest.Wait()
				if err := s.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := s.Stats()
				got.MessagesReceived, got.BytesReceived, got.MessagesSent, got.BytesSent = 0, 0, 0, 0
				want := Stats{Accepted: 1, Refused: map[int]uint64{}, Closed: map[CloseCode]uint64{tt.code: 1}, Slow: tt.slow, PingsLost: tt.pingsLost}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			})
		})
	}
}

// A handshake that is refused counts by the status of the response, and one whose response does not
// reach the client as a connection that was lost.
func TestStatsRefused(t *testing.T) {
	hijacks := func() http.ResponseWriter { return newHijackWriter() }
	recorder := func() http.ResponseWriter { return httptest.NewRecorder() }
	own := strings.Replace(rfcHead, "Origin: http://example.com\r\n", "", 1)
	for _, tt := range []struct {
		name    string
		options Options
		writer  func() http.ResponseWriter
		head    string
		status  int
	}{
		{"no handshake", Options{}, hijacks, editHead(t, own, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), http.StatusBadRequest},
		{"token", Options{}, hijacks, hixieHead + "1234", http.StatusBadRequest},
		{"announced token", Options{}, hijacks, editHead(t, hixieHead, "Upgrade: ", "Content-Length: 8\r\nUpgrade: ") + "1234", http.StatusBadRequest},
		{"origin", Options{}, hijacks, rfcHead, http.StatusForbidden},
		{"method", Options{}, hijacks, editHead(t, own, "GET", "PUT"), http.StatusMethodNotAllowed},
		{"version", Options{}, hijacks, editHead(t, own, "Version: 13", "Version: 8"), http.StatusUpgradeRequired},
		{"page", Options{}, hijacks, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", http.StatusUpgradeRequired},
		{"options", Options{Deflate: &Deflate{WindowBits: 99}}, hijacks,
			editHead(t, own, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), http.StatusInternalServerError},
		{"hijack", Options{}, func() http.ResponseWriter {
			w := newHijackWriter()
			w.err = errBroken
			return w
		}, own, http.StatusInternalServerError},
		{"no hijack", Options{}, recorder, own, http.StatusNotImplemented},
		{"HTTP version", Options{}, hijacks, editHead(t, own, "HTTP/1.1", "HTTP/1.0"), http.StatusHTTPVersionNotSupported},
	} {
		for _, with := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/with=%t", tt.name, with), func(t *testing.T) {
				s := &Server{Options: tt.options}
				quiet := &http.Server{ErrorLog: log.New(io.Discard, "", 0)}
				ctx := context.WithValue(t.Context(), http.ServerContextKey, quiet)
				for i := range uint64(2) {
					r := parsedRequest(t, tt.head).WithContext(ctx)
					if with {
						s.ServeHTTPWith(tt.writer(), r, Handler{})
					} else {
						s.ServeHTTP(tt.writer(), r)
					}
					checkStats(t, s, Stats{Refused: map[int]uint64{tt.status: i + 1}})
				}
			})
		}
	}
	t.Run("timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := new(Server)
			p := servePiped(t, s)
			for _, head := range []string{hixieHead, editHead(t, hixieHead, "Upgrade: ", "Content-Length: 8\r\nUpgrade: ")} {
				conn := p.connect(t)
				go io.WriteString(conn, head)
				io.Copy(io.Discard, conn)
			}
			synctest.Wait()
			checkStats(t, s, Stats{Refused: map[int]uint64{http.StatusRequestTimeout: 2}})
		})
	})
	t.Run("Shutdown", func(t *testing.T) {
		s := new(Server)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.ServeHTTP(newHijackWriter(), parsedRequest(t, own))
		c, client := pipe(t, nil)
		go client.ReadMessage()
		if err := s.Adopt(c, Handler{}); err != http.ErrServerClosed {
			t.Error(err)
		}
		checkStats(t, s, Stats{Refused: map[int]uint64{http.StatusServiceUnavailable: 1}})
	})
	t.Run("lost response", func(t *testing.T) {
		s := new(Server)
		w := newHijackWriter()
		w.conn.tape.Close()
		s.ServeHTTP(w, parsedRequest(t, own))
		checkStats(t, s, Stats{Accepted: 1, Closed: map[CloseCode]uint64{CloseAbnormal: 1}})
	})
}

// shutdownStats shuts s down, which has one client, and checks what s has counted in the end.
func shutdownStats(t *testing.T, s *Server, client *Conn, want Stats) {
	t.Helper()
	down := goErr(func() error { return s.Shutdown(t.Context()) })
	client.ReadMessage()
	client.Close()
	if err := wait(t, down); err != nil {
		t.Error(err)
	}
	checkStats(t, s, want)
}

// TestStatsFull counts more than a connection has room for.
func TestStatsFull(t *testing.T) {
	s := new(Server)
	c, client := tcpPipe(t, nil)
	if err := s.Adopt(c, Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) }}); err != nil {
		t.Fatal(err)
	}
	want := Stats{Conns: 1, Accepted: 1}
	for _, room := range []uint64{1 << 20, 1<<messageShift - 2, 0} { // as if that were there
		size := int(min(room, math.MaxInt)) // which is less on a 32-bit system
		for range 2 {
			c.mu.Lock()
			c.countSentLocked(finBit, size/2)
			c.countSentLocked(0, size-size/2)
			c.serve.count(inward, 1<<22, size/2)
			c.mu.Unlock()
			want.MessagesSent++
			want.BytesSent += uint64(size)
			want.MessagesReceived += 1 << 22
			want.BytesReceived += uint64(size / 2)
			if err := client.WriteMessage(Text, []byte("abc")); err != nil {
				t.Fatal(err)
			}
			expectMessages(t, client, "abc")
			want.MessagesSent++
			want.BytesSent += 3
			want.MessagesReceived++
			want.BytesReceived += 3
			checkStats(t, s, want)
		}
	}
	if _, carried := s.ledger.stats(); carried < 3 {
		t.Errorf("the connection was emptied %d times", carried)
	}
	want.Conns, want.Closed = 0, map[CloseCode]uint64{CloseGoingAway: 1}
	shutdownStats(t, s, client, want)

	// One that no Server has has nobody to tell.
	alone, _ := tapeConn(nil, false, false)
	for range 3 {
		alone.serve.count(outward, math.MaxUint32, math.MaxInt32)
	}
}

// TestStatsTogether has Stats called while connections come, talk and go, and become full. No figure
// ever becomes less, and in the end all are right.
func TestStatsTogether(t *testing.T) {
	s := &Server{Options: Options{PingInterval: -1}}
	s.OnMessage = func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) }
	url := serveLoopback(t, &http.Server{Handler: s})
	const clients, rounds, messages = 4, 5, 50
	const all = clients * rounds
	done, ends := make(chan bool), make(chan error, all)
	s.OnClose = func(_ *Conn, err error) { ends <- err }
	var watchers, talkers sync.WaitGroup
	for range 2 {
		watchers.Go(func() {
			var last Stats
			for {
				now := s.Stats()
				var closed uint64
				for code, n := range now.Closed {
					if closed += n; n < last.Closed[code] {
						t.Errorf("%d closed with %v, and then %d", last.Closed[code], code, n)
					}
				}
				if now.Accepted != uint64(now.Conns)+closed {
					t.Errorf("%d accepted, %d there and %d closed", now.Accepted, now.Conns, closed)
				}
				a, b := reflect.ValueOf(last), reflect.ValueOf(now)
				for i := range a.NumField() {
					if a.Field(i).Kind() == reflect.Uint64 && a.Field(i).Uint() > b.Field(i).Uint() {
						t.Errorf("%s was %d and is %d", a.Type().Field(i).Name, a.Field(i).Uint(), b.Field(i).Uint())
					}
				}
				if last = now; t.Failed() {
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range clients {
		talkers.Go(func() {
			for range rounds {
				c, err := Dial(t.Context(), url, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range messages {
					if i%10 == 0 {
						for served := range s.Conns() {
							served.mu.Lock()
							if served.end.readable() == nil { // it has yet to be asked
								served.serve.count(inward, 1<<23, 0)
							}
							served.mu.Unlock()
							break
						}
					}
					if err := c.WriteMessage(Text, []byte("four")); err != nil {
						t.Error(err)
					}
					if _, _, err := c.ReadMessage(); err != nil {
						t.Error(err)
					}
				}
				c.Close()
			}
		})
	}
	talkers.Wait()
	for range all {
		wait(t, ends)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	close(done)
	watchers.Wait()
	got := s.Stats()
	got.MessagesReceived %= 1 << 23
	want := Stats{
		Accepted: all, Refused: map[int]uint64{}, Closed: map[CloseCode]uint64{CloseNormal: all},
		MessagesReceived: all * messages, BytesReceived: all * messages * 4,
		MessagesSent: all * messages, BytesSent: all * messages * 4,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestStatsJSON has the form that others get the figures in.
func TestStatsJSON(t *testing.T) {
	s := new(Server)
	encoded := func() string {
		b, err := json.Marshal(s.Stats())
		if err != nil {
			t.Fatal(err)
		}
		var back Stats
		if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, s.Stats()) {
			t.Errorf("%s becomes %+v, %v", b, back, err)
		}
		return string(b)
	}
	const rest = `"MessagesReceived":0,"BytesReceived":0,"MessagesSent":0,"BytesSent":0,"Slow":0,"PingsLost":0}`
	if got, want := encoded(), `{"Conns":0,"Accepted":0,"Refused":{},"Closed":{},`+rest; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.ServeHTTP(newHijackWriter(), parsedRequest(t, rfcHead))
	w := newHijackWriter()
	w.conn.tape.Close()
	s.ServeHTTP(w, parsedRequest(t, strings.Replace(rfcHead, "Origin: http://example.com\r\n", "", 1)))
	if got, want := encoded(), `{"Conns":0,"Accepted":1,"Refused":{"403":1},"Closed":{"1006":1},`+rest; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// What is returned is the caller's.
	s.Stats().Closed[CloseNormal]++
	if n := s.Stats().Closed[CloseNormal]; n != 0 {
		t.Errorf("the Server counts %d", n)
	}
}

// The error of a client that is too slow does not tell more than it did.
func TestStatsSlowError(t *testing.T) {
	err := error(&CloseError{Code: ClosePolicyViolation, Reason: "too many messages wait to be read", by: byUs, err: errSlow})
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
