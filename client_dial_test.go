//go:build !js

package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// acceptEcho is a server that accepts every client and echoes what it sends.
func acceptEcho(conn net.Conn) {
	h := NewConn(conn, nil)
	if _, err := ShakeHands(h); err == nil {
		echo(h)
	}
	h.Close()
}

func TestDial(t *testing.T) {
	server := &Server{Handler: Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) }}}
	for name, handler := range map[string]http.Handler{"Server": server, "Upgrade": echoHandler(nil)} {
		plain := httptest.NewServer(handler)
		defer plain.Close()
		secure := httptest.NewTLSServer(handler)
		defer secure.Close()
		six := httptest.NewUnstartedServer(handler)
		if ln, err := net.Listen("tcp", "[::1]:0"); err == nil {
			six.Listener.Close()
			six.Listener = ln
		} else {
			t.Log("without IPv6:", err) // and so again over IPv4
		}
		six.Start()
		defer six.Close()

		for _, test := range []struct {
			url    string
			secure bool
		}{
			{withScheme("ws", plain.URL), false},
			{withScheme("http", plain.URL) + "/", false},
			{withScheme("WS", plain.URL) + "/a?b=c", false},
			{withScheme("HtTp", plain.URL), false},
			{withScheme("ws", six.URL), false},
			{withScheme("wss", secure.URL), true},
			{withScheme("https", secure.URL), true},
			{withScheme("WSS", secure.URL) + "?b", true},
		} {
			t.Run(name+"/"+test.url, func(t *testing.T) {
				// Nil options stand for http.DefaultClient, which does not trust the
				// server's certificate.
				var o *Options
				if test.secure {
					o = &Options{HTTPClient: secure.Client()}
				}
				c, err := Dial(t.Context(), test.url, o)
				if err != nil {
					t.Fatal(err)
				}
				checkEchoes(t, c)
				if r := c.Request(); r.Secure != test.secure {
					t.Errorf("Secure is %v", r.Secure)
				}
				u, err := url.Parse(test.url)
				if err != nil {
					t.Fatal(err)
				}
				if got := c.RemoteAddr().String(); got != u.Host {
					t.Errorf("connected to %s instead of %s", got, u.Host)
				}
				if a, ok := c.LocalAddr().(*net.TCPAddr); !ok || a.Port == 0 || !a.IP.IsLoopback() {
					t.Errorf("connected from %v", c.LocalAddr())
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDialUntrusted finds that TLS is net/http's: a certificate is checked.
func TestDialUntrusted(t *testing.T) {
	s := httptest.NewUnstartedServer(echoHandler(nil))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports the client's alert
	s.StartTLS()
	defer s.Close()
	c, err := Dial(t.Context(), withScheme("wss", s.URL), nil)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("%v, %v instead of an error about the certificate", c, err)
	}
}

// TestDialHTTP2 dials a server that would rather speak HTTP/2, which has no Upgrade.
func TestDialHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(echoHandler(nil))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	if resp, err := s.Client().Get(s.URL); err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("the server does not speak HTTP/2: %v, %v", resp, err)
	}
	c, err := Dial(t.Context(), withScheme("wss", s.URL), &Options{HTTPClient: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	checkEchoes(t, c)
	c.Close()
}

// TestDialCookies takes cookies from a jar and to it, also from a refusal.
func TestDialCookies(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		var got []string
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = append(got, strings.Join(r.Header["Cookie"], "|"))
			http.SetCookie(w, &http.Cookie{Name: "new", Value: "2"})
			if refuse {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			echoHandler(nil)(w, r)
		}))
		defer s.Close()
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		jar.SetCookies(u, []*http.Cookie{{Name: "old", Value: "1"}})
		o := &Options{HTTPClient: &http.Client{Jar: jar}, Header: http.Header{"Cookie": {"mine=0"}}}
		for range 2 {
			c, err := Dial(t.Context(), withScheme("ws", s.URL), o)
			if (err != nil) != refuse {
				t.Fatal(err)
			}
			if c != nil {
				checkEchoes(t, c)
				c.Close()
			}
		}
		if want := []string{"mine=0; old=1", "mine=0; old=1; new=2"}; !slices.Equal(got, want) {
			t.Errorf("the server got the cookies %q instead of %q", got, want)
		}
		if !reflect.DeepEqual(o.Header, http.Header{"Cookie": {"mine=0"}}) {
			t.Errorf("Options.Header has become %v", o.Header)
		}
	}
}

// TestDialFirstFrames does so with sockets, plain and with TLS, for more than fits into
// net/http's buffer. After that the Conn reads from the connection itself.
func TestDialFirstFrames(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, piece := range []int{1 << 20, 1000, 5} {
			t.Run(fmt.Sprintf("TLS=%v/%d bytes a write", secure, piece), func(t *testing.T) {
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					head := fmt.Sprintf("GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: %s\r\n\r\n", r.Header.Get("Sec-WebSocket-Key"))
					b := append(answerTo(head, accepting), firstFrames()...)
					n := min(len(b), 500*piece)
					for p := range slices.Chunk(b[:n], piece) {
						conn.Write(p)
					}
					conn.Write(b[n:])
					h := newConn(conn, nil, false)
					echo(h)
					h.Close()
				}))
				s.EnableHTTP2 = false
				if secure {
					s.StartTLS()
				} else {
					s.Start()
				}
				defer s.Close()
				c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: s.Client()})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if b, ok := c.t.rw.(bodyConn); ok != secure {
					t.Errorf("the transport is a %T", c.t.rw)
				} else if _, ok := b.Conn.(*tls.Conn); ok != secure {
					t.Errorf("the transport is a body over a %T", b.Conn)
				}
				if _, ok := c.t.rw.(*net.TCPConn); ok == secure || (c.t.raw != nil) != (ok && runtime.GOOS != "windows") {
					t.Errorf("the transport is a %T, and waits on the socket: %v", c.t.rw, c.t.raw != nil)
				}
				checkFirst(t, c)
				checkEchoes(t, c)
				checkDeadline(t, c)
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestDialContext ends the context at every stage.
func TestDialContext(t *testing.T) {
	silent := func(conn net.Conn) {
		readHead(conn)
		io.Copy(io.Discard, conn)
	}
	half := func(conn net.Conn) {
		readHead(conn)
		io.WriteString(conn, accepting[:40])
		io.Copy(io.Discard, conn)
	}
	body := func(conn net.Conn) {
		readHead(conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nfirst")
		io.Copy(io.Discard, conn)
	}
	for _, test := range []struct {
		name  string
		after time.Duration // end of the context, or 0 for before
		serve func(net.Conn)
		want  error
	}{
		{"before", 0, silent, context.Canceled},
		{"no answer", time.Second, silent, context.Canceled},
		{"half an answer", time.Second, half, context.Canceled},
		{"within a body", time.Second, body, nil}, // the refusal is known
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gone := make(chan bool, 1)
				client := memoryClient(t, func(conn net.Conn) {
					test.serve(conn)
					gone <- true
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.after == 0 {
					cancel()
				} else {
					time.AfterFunc(test.after, cancel)
				}
				start := time.Now()
				c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client})
				if d := time.Since(start); c != nil || d != test.after {
					t.Errorf("Dial has returned %v after %v", c, d)
				}
				if test.want != nil {
					if !errors.Is(err, test.want) {
						t.Errorf("Dial has returned %v instead of %v", err, test.want)
					}
				} else if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 200 {
					t.Errorf("Dial has returned %v", err)
				} else if b, err := io.ReadAll(e.Response.Body); string(b) != "first" || err != nil {
					t.Errorf("the body is %q, %v", b, err)
				}
				if test.after > 0 {
					wait(t, gone)
				}
			})
		})
	}

	t.Run("while connecting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			end := make(chan bool) // net/http lets a dial go on, for other requests
			defer close(end)
			client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				<-end
				return nil, net.ErrClosed
			}}}
			start := time.Now()
			c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("Dial has returned %v, %v after %v", c, err, time.Since(start))
			}
		})
	})

	t.Run("afterwards", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client := memoryClient(t, acceptEcho)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() {
				_, p, err := c.ReadMessage()
				if string(p) != "late" {
					err = fmt.Errorf("read %q, %v", p, err)
				}
				read <- err
			}()
			synctest.Wait()
			cancel() // while a read waits
			time.Sleep(time.Hour)
			if err := c.WriteMessage(Text, []byte("late")); err != nil {
				t.Error(err)
			}
			if err := wait(t, read); err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections() // of which c is none
			checkEchoes(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestDialContextLate ends the context just as the response arrives. net/http then closes the
// connection, and may return the response nonetheless.
func TestDialContextLate(t *testing.T) {
	s := httptest.NewServer(echoHandler(nil))
	defer s.Close()
	for _, closed := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		transport := new(http.Transport)
		var body io.Closer
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := transport.RoundTrip(r)
			if err != nil {
				return nil, err
			}
			cancel()
			if body = resp.Body; closed {
				body.Close()
			}
			return resp, nil
		})}
		c, err := Dial(ctx, s.URL, &Options{HTTPClient: client})
		if c != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("closed=%v: %v, %v", closed, c, err)
		}
		if body.Close() == nil {
			t.Errorf("closed=%v: the connection was left open", closed)
		}
	}
}

// TestDialStuckServer dials a server that never answers.
func TestDialStuckServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		client := memoryClient(t, func(conn net.Conn) {
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		})
		start := time.Now()
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client, HandshakeTimeout: time.Second})
		if d := time.Since(start); c != nil || !errors.Is(err, context.DeadlineExceeded) || d != time.Second {
			t.Errorf("%v, %v after %v instead of a timeout", c, err, d)
		}
		if err := wait(t, ended); err != nil {
			t.Errorf("the connection is left open: %v", err)
		}
	})
}

// TestDialClose closes connections from either side, served and not.
func TestDialClose(t *testing.T) {
	for _, test := range []struct {
		name    string
		server  bool // closes first
		serve   bool // the client runs Serve
		code    CloseCode
		reason  string
		orderly bool
	}{
		{"client", false, false, CloseNormal, "", true},
		{"client with a code", false, false, 4000, "enough", false},
		{"client without a code", false, false, CloseNoStatus, "", true},
		{"client in Serve", false, true, CloseGoingAway, "bye", true},
		{"server", true, false, CloseGoingAway, "restart", true},
		{"server with a code", true, false, ClosePolicyViolation, "no", false},
		{"server without a code", true, false, CloseNoStatus, "", true},
		{"server, client in Serve", true, true, 4999, "enough", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ended := make(chan error, 1)
			s := httptest.NewServer(&Server{Handler: Handler{
				OnMessage: func(c *Conn, typ MessageType, p []byte) {
					c.WriteMessage(typ, p)
					if test.server {
						c.CloseWith(test.code, test.reason)
					}
				},
				OnClose: func(_ *Conn, err error) { ended <- err },
			}})
			defer s.Close()
			c, err := Dial(t.Context(), s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			var calls []string
			if test.serve {
				err = c.Serve(Handler{
					OnOpen: func(c *Conn) { calls = append(calls, "open"); c.WriteMessage(Text, []byte("hello")) },
					OnMessage: func(c *Conn, typ MessageType, p []byte) {
						calls = append(calls, string(p))
						if !test.server {
							c.CloseWith(test.code, test.reason)
						}
					},
					OnClose: func(*Conn, error) { calls = append(calls, "close") },
				})
				if want := []string{"open", "hello", "close"}; !slices.Equal(calls, want) {
					t.Errorf("Serve has called %q instead of %q", calls, want)
				}
			} else {
				c.WriteMessage(Text, []byte("hello"))
				if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
					t.Fatalf("read %q, %v", p, err)
				}
				if !test.server {
					if err := c.CloseWith(test.code, test.reason); err != nil {
						t.Error(err)
					}
				}
				_, _, err = c.ReadMessage()
			}
			for side, err := range map[string]error{"client": err, "server": wait(t, ended)} {
				e, ok := errors.AsType[*CloseError](err)
				if !ok || e.Code != test.code || e.Reason != test.reason {
					t.Errorf("%s: %v instead of %v %q", side, err, test.code, test.reason)
				}
				if errors.Is(err, io.EOF) != test.orderly {
					t.Errorf("%s: orderly is %v", side, !test.orderly)
				}
				if errors.Is(err, net.ErrClosed) == ((side == "server") != test.server) {
					t.Errorf("%s: %v does not tell who has closed", side, err)
				}
			}
			if err := c.WriteMessage(Text, nil); err == nil {
				t.Error("a write after the end succeeds")
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDialCut has servers that close the connection after every number of bytes.
func TestDialCut(t *testing.T) {
	type unit struct {
		b       []byte
		message string
	}
	units := []unit{
		{appendFrame(nil, finBit|opText, []byte("one"), false), "one"},
		{appendFrame(nil, finBit|opPing, []byte("p"), false), ""},
		{appendFrame(nil, opText, []byte("tw"), false), ""},
		{appendFrame(nil, finBit|opContinuation, []byte("o"), false), "two"},
		{appendFrame(nil, finBit|opClose, []byte(closing(4001, "x")), false), ""},
	}
	for _, network := range []string{"pipe", "TCP"} {
		head := len(accepting) - len("{accept}") + 28
		end := head
		for _, u := range units {
			end += len(u.b)
		}
		var mu sync.Mutex
		cut := 0
		serve := func(conn net.Conn) {
			b := answerTo(readHead(conn), accepting)
			for _, u := range units {
				b = append(b, u.b...)
			}
			mu.Lock()
			b = b[:cut]
			mu.Unlock()
			conn.Write(b)
			if tcp, ok := conn.(*net.TCPConn); ok && len(b) >= head {
				tcp.CloseWrite() // an end instead of a reset when the client's pong comes
			}
			if _, ok := conn.(*net.TCPConn); ok && len(b) >= head || len(b) == end {
				io.Copy(io.Discard, conn)
			}
			conn.Close()
		}
		ways := connectors
		if network == "TCP" {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan bool)
			go func() {
				defer close(done)
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					serve(conn)
				}
			}()
			defer func() { ln.Close(); <-done }()
			ways = []connector{{"Dial", func(t testing.TB, ctx context.Context, _ string, o *Options, _ func(net.Conn)) (*Conn, error) {
				return Dial(ctx, "ws://"+ln.Addr().String(), o)
			}}}
		}
		for _, via := range ways {
			for n := range end + 1 {
				mu.Lock()
				cut = n
				mu.Unlock()
				c, err := via.connect(t, t.Context(), "ws://h.example", &Options{HandshakeTimeout: 20 * time.Second}, serve)
				if n < head {
					if timeout, ok := errors.AsType[net.Error](err); c != nil || err == nil || ok && timeout.Timeout() {
						t.Fatalf("%s over %s, %d bytes: %v, %v", via.name, network, n, c, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s over %s, %d bytes: %v", via.name, network, n, err)
				}
				c.SetReadDeadline(time.Now().Add(20 * time.Second))
				// What is whole is read. Then the end is within a frame or a message,
				// or between two.
				var want []string
				within := false
				rest := n - head
				for i, u := range units {
					if rest < len(u.b) {
						within = rest > 0 || i == 3
						break
					}
					rest -= len(u.b)
					if u.message != "" {
						want = append(want, u.message)
					}
				}
				var got []string
				for {
					var p []byte
					if _, p, err = c.ReadMessage(); err != nil {
						break
					}
					got = append(got, string(p))
				}
				closed, ok := errors.AsType[*CloseError](err)
				switch {
				case !slices.Equal(got, want):
					t.Errorf("%s over %s, %d bytes: read %q instead of %q", via.name, network, n, got, want)
				case n == end && (!ok || closed.Code != 4001),
					n < end && within && !errors.Is(err, io.ErrUnexpectedEOF),
					n < end && !within && cause(err) != io.EOF:
					t.Errorf("%s over %s, %d of %d bytes: %v", via.name, network, n, end, err)
				}
				c.CloseNow()
			}
		}
	}
}

// TestDialNoHost has URLs with a port or a user, but without a host, which net/http would
// take for this machine (RFC 9110, section 4.2.1).
func TestDialNoHost(t *testing.T) {
	for _, u := range []string{"ws://:80/", "ws://u:p@:80", "wss://:"} {
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, errors.New("sent")
		})}
		if _, err := Dial(t.Context(), u, &Options{HTTPClient: client}); err == nil || !strings.Contains(err.Error(), "has no host") {
			t.Errorf("Dial(%q): %v", u, err)
		}
	}
}
