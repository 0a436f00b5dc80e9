//go:build !js

package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A revisited server serves each connection with the next of its functions, and those that come
// later with the last.
type revisited struct {
	steps []func(net.Conn)

	mu   sync.Mutex
	at   []time.Time // when connections came
	left []time.Time // when the body of the client's loop returned
}

func (v *revisited) serve(conn net.Conn) {
	v.mu.Lock()
	step := v.steps[min(len(v.at), len(v.steps)-1)]
	v.at = append(v.at, time.Now())
	v.mu.Unlock()
	step(conn)
}

// run ranges over the connections of a client of v until body returns false or the loop ends. It
// returns how long the client waited before each attempt but the first, and the errors of those
// that failed.
func (v *revisited) run(t *testing.T, ctx context.Context, o *Options, body func(n int, c *Conn) bool) (waits []time.Duration, failed []error) {
	t.Helper()
	o = new(*o.clone())
	o.HTTPClient = memoryClient(t, v.serve)
	for c, err := range Reconnect(ctx, "ws://h.example/", o) {
		if (c == nil) == (err == nil) {
			t.Errorf("yielded %v, %v", c, err)
		}
		if err != nil {
			failed = append(failed, err)
		}
		more := body(len(v.left), c)
		v.left = append(v.left, time.Now())
		if !more {
			break
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, at := range v.at[min(1, len(v.at)):] {
		waits = append(waits, at.Sub(v.left[i]))
	}
	return waits, failed
}

// refusing returns a server that answers with a status and further fields, on a connection for
// each attempt.
func refusing(status int, fields string) func(net.Conn) {
	return answerWith(fmt.Sprintf("HTTP/1.1 %d %s\r\n%sConnection: close\r\nContent-Length: 0\r\n\r\n", status, http.StatusText(status), fields))
}

// closingAfter returns a server that accepts, and closes the connection with a code.
func closingAfter(d time.Duration, code CloseCode) func(net.Conn) {
	return func(conn net.Conn) {
		answer(conn, accepting)
		h := newConn(conn, nil, false)
		time.Sleep(d)
		h.CloseWith(code, "")
	}
}

// losing accepts, and loses the connection at once.
func losing(conn net.Conn) { answer(conn, accepting) }

// serveUpTo returns a body that serves connections, n times in all.
func serveUpTo(n int) func(int, *Conn) bool {
	return func(i int, c *Conn) bool {
		if c != nil {
			c.Serve(Handler{})
		}
		return i+1 < n
	}
}

// checkWaits compares waits with the numbers of those that they are, or with -1 for none.
func checkWaits(t *testing.T, waits []time.Duration, after time.Duration, want ...int) {
	t.Helper()
	if len(waits) != len(want) {
		t.Fatalf("waited %v, want %d times", waits, len(want))
	}
	for i, n := range want {
		least, most := after, after
		if n >= 0 {
			d := min(500*time.Millisecond<<n, 15*time.Second)
			least, most = after+d, after+2*d
		}
		if waits[i] < least || waits[i] > most {
			t.Errorf("wait %d of %v is not from %v to %v", i, waits, least, most)
		}
	}
}

// TestReconnectWaits finds that waits grow from 0.5 to 30 seconds, at random, whatever keeps a
// client from a connection.
func TestReconnectWaits(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(net.Conn)
		fails bool
	}{
		{"nobody answers", func(net.Conn) {}, true},
		{"500", refusing(500, ""), true},
		{"503", refusing(503, ""), true},
		{"200", refusing(200, ""), true},
		{"no handshake", answerWith(strings.ReplaceAll(accepting, "{accept}", "x")), true},
		{"connections are lost", losing, false},
		{"connections are closed", closingAfter(0, CloseNormal), false},
		{"connections do not last", closingAfter(30*time.Second-1, CloseInternalError), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &revisited{steps: []func(net.Conn){test.serve}}
				waits, failed := v.run(t, t.Context(), nil, serveUpTo(9))
				checkWaits(t, waits, 0, 0, 1, 2, 3, 4, 5, 5, 5)
				if want := map[bool]int{true: 9}[test.fails]; len(failed) != want {
					t.Errorf("%d attempts of 9 failed, want %d: %v", len(failed), want, failed)
				}
			})
		})
	}
}

// TestReconnectJitter finds that waits differ, and nearly fill the time that they may take.
func TestReconnectJitter(t *testing.T) {
	for n, most := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
		most *= time.Second
		low, high := most, time.Duration(0)
		for range 2000 {
			d := backOff(n)
			low, high = min(low, d), max(high, d)
		}
		if low < most/2 || low > most*11/20 || high > most || high < most*19/20 {
			t.Errorf("after %d waits the next is from %v to %v, want %v to %v", n, low, high, most/2, most)
		}
	}
	if d := backOff(math.MaxInt); d < 15*time.Second || d > 30*time.Second {
		t.Errorf("after very many waits the next is %v", d)
	}
}

// TestReconnectLasted finds that waits begin anew after a connection that has lasted.
func TestReconnectLasted(t *testing.T) {
	for _, test := range []struct {
		lasts time.Duration
		want  int
	}{
		{30*time.Second - 1, 3},
		{30 * time.Second, 0},
		{time.Hour, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			fail := refusing(503, "")
			v := &revisited{steps: []func(net.Conn){fail, fail, losing, closingAfter(test.lasts, CloseNormal), fail}}
			waits, _ := v.run(t, t.Context(), nil, serveUpTo(6))
			checkWaits(t, waits, 0, 0, 1, 2, test.want, test.want+1)
		})
	}
}

// TestReconnectAtOnce finds that a client comes back at once to a server that restarts, but not
// again and again.
func TestReconnectAtOnce(t *testing.T) {
	const lasts = time.Minute
	for _, test := range []struct {
		name  string
		steps []func(net.Conn)
		body  func(int, *Conn) bool
		want  []int
	}{
		{"1001", []func(net.Conn){closingAfter(lasts, CloseGoingAway)}, nil, []int{-1, -1, -1}},
		{"1012", []func(net.Conn){closingAfter(lasts, CloseServiceRestart)}, nil, []int{-1, -1, -1}},
		{"another code", []func(net.Conn){closingAfter(lasts, CloseTryAgainLater)}, nil, []int{0, 0, 0}},
		{"1001 at once, for ever", []func(net.Conn){closingAfter(0, CloseGoingAway)}, nil, []int{-1, 1, 2, 3, 4, 5, 5}},
		{"1012 at once, for ever", []func(net.Conn){closingAfter(0, CloseServiceRestart)}, nil, []int{-1, 1, 2, 3, 4, 5, 5}},
		{"then it lasts", []func(net.Conn){closingAfter(0, 1001), closingAfter(0, 1001), closingAfter(lasts, 1001), losing},
			nil, []int{-1, 1, -1, 1}},
		{"after a failure", []func(net.Conn){refusing(503, ""), closingAfter(0, 1012)}, nil, []int{0, 1, 2}},
		{"read in a loop", []func(net.Conn){closingAfter(lasts, CloseServiceRestart)}, func(n int, c *Conn) bool {
			for {
				if _, _, err := c.ReadMessage(); err != nil {
					return n < 2
				}
			}
		}, []int{-1, -1}},
		{"closed by the client", []func(net.Conn){acceptEcho}, func(n int, c *Conn) bool {
			c.CloseWith(CloseGoingAway, "") // which the server answers with the same code
			return n < 2
		}, []int{0, 1}},
		{"not read", []func(net.Conn){closingAfter(0, CloseNormal)}, func(n int, c *Conn) bool { return n < 2 }, []int{0, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := test.body
				if body == nil {
					body = serveUpTo(len(test.want) + 1)
				}
				waits, failed := (&revisited{steps: test.steps}).run(t, t.Context(), nil, body)
				checkWaits(t, waits, 0, test.want...)
				if test.name != "after a failure" && failed != nil {
					t.Error(failed)
				}
			})
		})
	}
}

// TestReconnectRetryAfter finds that the client waits for as long as a server asks for.
func TestReconnectRetryAfter(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		status int
		value  string // or if it is empty, the date after
		after  time.Duration
	}{
		{503, "120", 2 * time.Minute},
		{429, "7", 7 * time.Second},
		{503, "0", 0},
		{503, "", 90 * time.Second},
		{429, "", time.Hour},
		{503, "", -time.Hour},
		{500, "3", 3 * time.Second},
		{403, "3", 3 * time.Second},
		{404, "", 5 * time.Second},
		{413, "60", time.Minute},
		{503, "86400", day},
		{503, "86401", day},
		{503, "18446744073709551615", day},
		{503, "18446744073709551616", 0},
		{503, "Fri, 31 Dec 9999 23:59:59 GMT", day},
		{503, "Saturday, 01-Jan-00 00:01:00 GMT", time.Minute}, // a bubble begins with the year 2000
		{503, "-5", 0},
		{503, "+5", 0},
		{503, "1.5", 0},
		{503, "soon", 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			serve := func(conn net.Conn) {
				value := test.value
				if value == "" {
					value = time.Now().Add(test.after).UTC().Format(http.TimeFormat)
				}
				refusing(test.status, "Retry-After: "+value+"\r\n")(conn)
			}
			waits, failed := (&revisited{steps: []func(net.Conn){serve, losing}}).run(t, t.Context(), nil, serveUpTo(2))
			t.Logf("%d, %q: %v", test.status, test.value, waits)
			checkWaits(t, waits, max(0, test.after), 0)
			if e, ok := errors.AsType[*HandshakeError](errors.Join(failed...)); !ok || len(failed) != 1 || e.Status != test.status {
				t.Error(failed)
			}
		})
	}
}

// TestReconnectStatus finds the answers after which a client does not come back.
func TestReconnectStatus(t *testing.T) {
	for status := 200; status < 600; status++ {
		if http.StatusText(status) == "" {
			continue
		}
		again := status/100 != 4 || status == 408 || status == 425 || status == 429
		synctest.Test(t, func(t *testing.T) {
			n := 1
			if again {
				n = 2
			}
			v := &revisited{steps: []func(net.Conn){refusing(status, "")}}
			_, failed := v.run(t, t.Context(), nil, func(i int, _ *Conn) bool { return i < 1 })
			if len(v.at) != n || len(failed) != n {
				t.Errorf("after %d a client has come %d times, want %d: %v", status, len(v.at), n, failed)
			}
		})
	}
}

// TestReconnectArguments finds that what is wrong with the arguments is told once, without an
// attempt.
func TestReconnectArguments(t *testing.T) {
	for _, test := range []struct {
		url string
		o   *Options
	}{
		{"ftp://h.example", nil},
		{"ws://", nil},
		{"ws://h.example/#a", nil},
		{"ws://h.example/\x7f", nil},
		{"ws://h.example", &Options{Protocols: []string{"a", "a"}}},
		{"ws://h.example", &Options{Header: http.Header{"Upgrade": {"x"}}}},
		{"ws://h.example", &Options{Deflate: &Deflate{WindowBits: 99}}},
	} {
		o := new(*test.o.clone())
		o.HTTPClient = memoryClient(t, func(net.Conn) { t.Error("an attempt") })
		var failed []error
		for c, err := range Reconnect(t.Context(), test.url, o) {
			if c != nil || err == nil {
				t.Errorf("yielded %v, %v", c, err)
			}
			failed = append(failed, err)
		}
		if _, want := Dial(t.Context(), test.url, o); len(failed) != 1 || failed[0].Error() != want.Error() {
			t.Errorf("%q, %+v: %v, want %v", test.url, test.o, failed, want)
		}
	}
}

// TestReconnectContext finds that the loop ends with its context, whatever it does, and tells no
// error of its own.
func TestReconnectContext(t *testing.T) {
	const at = 10 * time.Minute // the context ends
	hanging := func(conn net.Conn) { readHead(conn); io.Copy(io.Discard, conn) }
	for _, test := range []struct {
		name     string
		steps    []func(net.Conn)
		body     func(*Conn)
		attempts int
		failed   int
	}{
		{"in an attempt", []func(net.Conn){refusing(503, ""), hanging}, nil, 2, 1},
		{"in a wait", []func(net.Conn){refusing(503, "Retry-After: 3600\r\n")}, nil, 1, 1},
		{"while Serve reads", []func(net.Conn){acceptEcho}, func(c *Conn) { c.Serve(Handler{}) }, 1, 0},
		{"in a read", []func(net.Conn){acceptEcho}, func(c *Conn) {
			if _, _, err := c.ReadMessage(); !isClosed(err, CloseGoingAway) {
				t.Error(err)
			}
		}, 1, 0},
		{"in a write", []func(net.Conn){func(conn net.Conn) {
			answer(conn, accepting)
			time.Sleep(at) // and nobody reads meanwhile
			io.Copy(io.Discard, conn)
		}}, func(c *Conn) {
			for {
				if err := c.WriteMessage(Binary, make([]byte, 1<<16)); err != nil {
					if !isClosed(err, CloseGoingAway) {
						t.Error(err)
					}
					return
				}
			}
		}, 1, 0},
		{"in a body that is done with its connection", []func(net.Conn){acceptEcho}, func(c *Conn) {
			c.Close()
			time.Sleep(at)
		}, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), at)
				defer cancel()
				start := time.Now()
				v := &revisited{steps: test.steps}
				_, failed := v.run(t, ctx, &Options{HandshakeTimeout: -1}, func(_ int, c *Conn) bool {
					if c != nil {
						test.body(c)
						if err := c.WriteMessage(Text, nil); err == nil {
							t.Error("the connection is still open")
						}
					}
					return true
				})
				if d := time.Since(start); d != at && test.name != "in a write" || d < at || d > at+closeTimeout {
					t.Errorf("the loop ended after %v, its context after %v", d, at)
				}
				if len(v.at) != test.attempts || len(failed) != test.failed {
					t.Errorf("%d attempts, errors %v", len(v.at), failed)
				}
			})
		})
	}
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for c, err := range Reconnect(ctx, "ws://h.example", &Options{HTTPClient: memoryClient(t, acceptEcho)}) {
			t.Errorf("yielded %v, %v", c, err)
		}
	})
}

// isClosed reports whether err is that of a connection that this side has closed with a code.
func isClosed(err error, code CloseCode) bool {
	e, ok := errors.AsType[*CloseError](err)
	return ok && e.by == byUs && e.Code == code
}

// TestReconnectCloses finds that a connection is closed, with a closing handshake, whichever way
// the body is left.
func TestReconnectCloses(t *testing.T) {
	type leave func(c *Conn) (more bool)
	for name, body := range map[string]leave{
		"return":         func(*Conn) bool { return true },
		"break":          func(*Conn) bool { return false },
		"panic":          func(*Conn) bool { panic("in the body") },
		"while Serve":    func(c *Conn) bool { go c.Serve(Handler{}); synctest.Wait(); return false },
		"while it reads": func(c *Conn) bool { go c.ReadMessage(); synctest.Wait(); return false },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 1)
				v := &revisited{steps: []func(net.Conn){func(conn net.Conn) {
					answer(conn, accepting)
					ends <- newConn(conn, nil, false).Serve(Handler{})
				}}}
				var used *Conn
				func() {
					defer func() {
						if p := recover(); (p != nil) != (name == "panic") {
							t.Errorf("panic: %v", p)
						}
					}()
					v.run(t, t.Context(), nil, func(n int, c *Conn) bool {
						if used == nil {
							used = c
						} else {
							return false
						}
						return body(c)
					})
				}()
				checkCode(t, wait(t, ends), CloseNormal, byPeer)
				synctest.Wait()
				checkStopped(t, used)
			})
		})
	}
	t.Run("CloseNow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			v := &revisited{steps: []func(net.Conn){acceptEcho}}
			waits, failed := v.run(t, t.Context(), nil, func(n int, c *Conn) bool { c.CloseNow(); return n < 2 })
			checkWaits(t, waits, 0, 0, 1)
			if failed != nil {
				t.Error(failed)
			}
		})
	})
}

// TestReconnectOptions finds that the options are those of the call, and that none are needed.
func TestReconnectOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heads := make(chan string, 2)
		o := &Options{Header: http.Header{"X-A": {"1"}}, Protocols: []string{"a"}}
		o.HTTPClient = memoryClient(t, func(conn net.Conn) { heads <- answer(conn, accepting) })
		all := Reconnect(t.Context(), "ws://h.example", o)
		o.Header.Set("X-A", "2")
		o.Protocols[0] = "b"
		o.HTTPClient = nil
		for range 2 { // each loop begins anew
			for c, err := range all {
				if err != nil {
					t.Fatal(err)
				}
				if head := wait(t, heads); headField(head, "X-A") != "1" || headField(head, "Sec-WebSocket-Protocol") != "a" {
					t.Errorf("sent %q", head)
				}
				c.CloseNow()
				break
			}
		}
	})

	server := httptest.NewServer(echoHandler(nil))
	defer server.Close()
	for c, err := range Reconnect(t.Context(), server.URL, nil) {
		if err != nil {
			t.Fatal(err)
		}
		checkEchoes(t, c)
		break
	}
}

// TestReconnectServer is a Server that goes away and comes back.
func TestReconnectServer(t *testing.T) {
	var servers []*Server
	newServer := func() *Server {
		s := &Server{}
		s.OnOpen = func(c *Conn) { c.WriteMessage(Text, fmt.Append(nil, len(servers))) }
		servers = append(servers, s)
		return s
	}
	synctest.Test(t, func(t *testing.T) {
		current := newServer()
		l := serveMem(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { current.ServeHTTP(w, r) }), nil)
		o := &Options{PingInterval: 20 * time.Second}
		o.HTTPClient = &http.Client{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial(t), nil },
		}}
		var got []string
		for c, err := range Reconnect(t.Context(), "ws://h.example", o) {
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err = c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) {
				got = append(got, string(p))
				time.AfterFunc(time.Hour, func() {
					old := current
					current = newServer()
					old.Shutdown(context.Background())
				})
			}})
			if checkCode(t, err, CloseGoingAway, byPeer); time.Since(start) != time.Hour {
				t.Errorf("a connection lasted for %v", time.Since(start))
			}
			if len(got) == 3 {
				break
			}
		}
		if !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("the servers are %q", got)
		}
		synctest.Wait()
		servers[len(servers)-1].Shutdown(context.Background())
	})
}
