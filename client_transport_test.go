package websocket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A roundTripper is an http.RoundTripper that is not net/http's.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// serveUpgrade is the response to r of a server whose connection is body.
func serveUpgrade(r *http.Request, body io.ReadCloser) *http.Response {
	var head strings.Builder
	r.Write(&head)
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answerTo(head.String(), accepting))), r)
	if err != nil {
		panic(err)
	}
	resp.Body = body
	return resp
}

// closeFlag counts how often it is closed.
type closeFlag struct {
	io.Reader
	closed int
}

func (c *closeFlag) Close() error { c.closed++; return nil }

// TestDialTransport dials through all kinds of http.RoundTripper.
func TestDialTransport(t *testing.T) {
	t.Run("Unix socket", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Skip(err)
		}
		s := &http.Server{Handler: echoHandler(nil)}
		go s.Serve(ln)
		defer s.Close()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if _, ok := c.t.rw.(*net.UnixConn); !ok || c.t.raw == nil && runtime.GOOS != "windows" {
			t.Errorf("the transport is a %T", c.t.rw)
		}
		checkEchoes(t, c)
		checkDeadline(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("no keep-alive", func(t *testing.T) {
		s := httptest.NewServer(echoHandler(nil))
		defer s.Close()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, MaxConnsPerHost: 2}}
		for range 3 {
			c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(err)
			}
			checkEchoes(t, c)
			c.Close()
		}
	})

	t.Run("wrapped", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Added") != "1" {
				t.Errorf("the server has got %v", r.Header)
			}
			echoHandler(nil)(w, r)
		}))
		defer s.Close()
		transport := new(http.Transport)
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Header.Set("X-Added", "1")
			return transport.RoundTrip(r)
		})}
		c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		checkEchoes(t, c)
		checkDeadline(t, c)
		if c.Request().Header.Get("X-Added") != "" {
			t.Error("the RoundTripper has changed the request")
		}
		c.Close()
	})

	for _, deadlines := range []bool{true, false} {
		t.Run(fmt.Sprint("own connection/deadlines=", deadlines), func(t *testing.T) {
			a, b := net.Pipe()
			served := goErr(func() error {
				h := newConn(b, nil, false)
				defer h.Close()
				return echo(h)
			})
			client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if deadlines {
					return serveUpgrade(r, a), nil
				}
				return serveUpgrade(r, struct{ io.ReadWriteCloser }{a}), nil
			})}
			c, err := Dial(t.Context(), "wss://h.example", &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(err)
			}
			checkEchoes(t, c)
			if deadlines {
				checkDeadline(t, c)
			} else if err := c.SetReadDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
				t.Errorf("SetReadDeadline: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := wait(t, served); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	}

	t.Run("body is no writer", func(t *testing.T) {
		body := &closeFlag{Reader: strings.NewReader("x")}
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return serveUpgrade(r, body), nil
		})}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client})
		if e, ok := errors.AsType[*HandshakeError](err); c != nil || !ok || !strings.Contains(e.Reason, "does not give access to the connection") {
			t.Errorf("%v, %v", c, err)
		}
		if body.closed != 1 {
			t.Errorf("the body was closed %d times", body.closed)
		}
	})

	t.Run("error", func(t *testing.T) {
		no := errors.New("no network")
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return nil, no })}
		if c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client}); c != nil || !errors.Is(err, no) {
			t.Errorf("%v, %v", c, err)
		}
	})

	t.Run("refused connection", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		c, err := Dial(t.Context(), "ws://"+ln.Addr().String(), nil)
		if _, ok := errors.AsType[*net.OpError](err); c != nil || !ok {
			t.Errorf("%v, %v", c, err)
		}
	})
}

// TestDialNestedRequest has an http.Client that, once the server has answered, sends a
// request of its own with the same context. The Conn has to speak over the connection
// that the handshake took.
func TestDialNestedRequest(t *testing.T) {
	ws := httptest.NewServer(echoHandler(nil))
	defer ws.Close()
	log := httptest.NewServer(http.NotFoundHandler())
	defer log.Close()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := transport.RoundTrip(r)
		if note, err := http.NewRequestWithContext(r.Context(), "GET", log.URL, nil); err == nil {
			if resp, err := transport.RoundTrip(note); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
		return resp, err
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, ws.URL, &Options{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if got, want := c.RemoteAddr().String(), ws.Listener.Addr().String(); got != want {
		t.Fatalf("the Conn speaks to %s instead of %s", got, want)
	}
	checkEchoes(t, c)
}

// A tracedBody is the body of a response as a Transport shows it that traces requests: it
// notes what befalls it.
type tracedBody struct {
	io.ReadWriteCloser
	mu     sync.Mutex
	read   int
	errs   []error // of Read
	closed int
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += n
	if err != nil {
		b.errs = append(b.errs, err)
	}
	return n, err
}

func (b *tracedBody) Close() error {
	b.mu.Lock()
	b.closed++
	b.mu.Unlock()
	return b.ReadWriteCloser.Close()
}

// seen returns the number of bytes read, the errors of reads, and how often b was closed.
func (b *tracedBody) seen() (read int, errs []error, closed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read, slices.Clone(b.errs), b.closed
}

// TestDialTraced dials through a Transport that wraps another one and the bodies of its
// responses. It sees all that is read, no error that the connection has not, and the end.
func TestDialTraced(t *testing.T) {
	text := strings.Repeat("x", 9999)
	for _, secure := range []bool{false, true} {
		for name, end := range map[string]func(*Conn){
			"Close":    func(c *Conn) { c.Close() },
			"CloseNow": func(c *Conn) { c.CloseNow() },
			"by the server": func(c *Conn) {
				c.WriteMessage(Text, []byte("bye"))
				c.ReadMessage()
				c.Close()
			},
		} {
			t.Run(fmt.Sprintf("TLS=%v/%s", secure, name), func(t *testing.T) {
				s := serveTCP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c, err := Upgrade(w, r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					c.Serve(Handler{
						OnOpen: func(c *Conn) { c.WriteMessage(Text, []byte(text)) },
						OnMessage: func(c *Conn, typ MessageType, p []byte) {
							if string(p) == "bye" {
								c.CloseWith(CloseGoingAway, "")
							}
							c.WriteMessage(typ, p)
						},
					})
				}), secure)
				var body *tracedBody
				client := s.Client()
				client.Transport = roundTripper(func(base http.RoundTripper) roundTripper {
					return func(r *http.Request) (*http.Response, error) {
						resp, err := base.RoundTrip(r)
						if err == nil {
							body = &tracedBody{ReadWriteCloser: resp.Body.(io.ReadWriteCloser)}
							resp.Body = body
						}
						return resp, err
					}
				}(client.Transport))
				c, err := Dial(t.Context(), s.URL, &Options{HTTPClient: client})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if _, errs, closed := body.seen(); errs != nil || closed != 0 {
					t.Errorf("Dial has provoked %v, and closed the body %d times", errs, closed)
				}
				if _, p, err := c.ReadMessage(); err != nil || string(p) != text {
					t.Errorf("read %d bytes, %v", len(p), err)
				}
				checkEchoes(t, c)
				if read, errs, closed := body.seen(); read < len(text) || errs != nil || closed != 0 {
					t.Errorf("the body has seen %d bytes, %v, and was closed %d times", read, errs, closed)
				}
				if a, ok := c.RemoteAddr().(*net.TCPAddr); !ok || a.String() != s.Listener.Addr().String() {
					t.Errorf("connected to %v", c.RemoteAddr())
				}
				end(c)
				_, errs, closed := body.seen()
				if closed != 1 {
					t.Errorf("the body was closed %d times", closed)
				}
				for _, err := range errs {
					if err != io.EOF && !errors.Is(err, net.ErrClosed) {
						t.Errorf("the body has seen %v", err)
					}
				}
			})
		}
	}
}

// A deafConn has read deadlines that do nothing, as some tunnels do, and counts what is read.
type deafConn struct {
	net.Conn
	read atomic.Int64
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (*deafConn) SetDeadline(time.Time) error     { return nil }
func (*deafConn) SetReadDeadline(time.Time) error { return nil }

// TestDialDeaf dials a server that sends much at once, over a connection that does not tell
// what came together with the response. Dial takes no more of it than it needs.
func TestDialDeaf(t *testing.T) {
	dial := func(t *testing.T, messages int) (*Conn, *deafConn, error) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close() })
		go func() {
			defer b.Close()
			answer(b, accepting)
			h := newConn(b, nil, false)
			for i := range messages {
				h.WriteMessage(Binary, bytes.Repeat([]byte{byte(i)}, 9999))
			}
			echo(h)
		}()
		conn := &deafConn{Conn: a}
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}, HandshakeTimeout: time.Second})
		return c, conn, err
	}
	t.Run("much", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const messages = 400
			c, conn, err := dial(t, messages)
			if err != nil {
				t.Fatal(err)
			}
			if n := conn.read.Load(); n > 8<<10 {
				t.Errorf("Dial has read %d bytes", n)
			}
			for i := range messages {
				if _, p, err := c.ReadMessage(); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{byte(i)}, 9999)) {
					t.Fatalf("message %d: %d bytes, %v", i, len(p), err)
				}
			}
			checkEchoes(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			c, _, err := dial(t, 0)
			if err != nil || time.Since(start) != 0 {
				t.Fatalf("%v after %v", err, time.Since(start))
			}
			checkEchoes(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestDialLargeBuffer dials through a Transport that reads much together with the response.
// The Conn has deadlines nonetheless.
func TestDialLargeBuffer(t *testing.T) {
	for _, size := range []int{4 << 10, 64 << 10, 256 << 10} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				defer b.Close()
				text := accepting + string(appendFrame(nil, finBit|opText, []byte(strings.Repeat("x", size)), false))
				b.Write(answerTo(readHead(b), text))
				echo(newConn(b, nil, false))
			}()
			transport := &http.Transport{
				ReadBufferSize: 1 << 20,
				DialContext:    func(context.Context, string, string) (net.Conn, error) { return a, nil },
			}
			c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}})
			if err != nil {
				t.Fatal(err)
			}
			if _, p, err := c.ReadMessage(); err != nil || string(p) != strings.Repeat("x", size) {
				t.Errorf("%d bytes, %v", len(p), err)
			}
			checkDeadline(t, c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
