//go:build !js

package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A forwarder is a proxy that speaks HTTP and remembers the requests.
type forwarder struct {
	t        *testing.T
	to       string // where all connections lead
	mu       sync.Mutex
	requests []string
}

func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	request := []string{r.Method, r.RequestURI}
	for _, name := range []string{"Proxy-Authorization", "X-Proxy"} {
		request = append(request, r.Header[name]...)
	}
	f.requests = append(f.requests, strings.Join(request, " "))
	f.mu.Unlock()
	out, err := net.Dial("tcp", f.to)
	if err != nil {
		f.t.Error(err)
		return
	}
	defer out.Close()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.t.Error(err)
		return
	}
	defer in.Close()
	if r.Method == http.MethodConnect {
		io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	} else {
		r.Write(out) // a proxy for WebSocket keeps Connection and Upgrade
	}
	joinConns(in, out)
}

// seen returns the requests so far.
func (f *forwarder) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// joinConns passes on what comes from either side, to the end of both.
func joinConns(a, b net.Conn) {
	back := make(chan bool)
	go func() {
		io.Copy(a, b)
		a.Close()
		close(back)
	}()
	io.Copy(b, a)
	b.Close()
	<-back
}

// proxyURL returns the URL of a proxy, with a user.
func proxyURL(t testing.TB, s *httptest.Server) *url.URL {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("u", "p:q")
	return u
}

// TestDialProxy goes through HTTP proxies, which tunnel (RFC 6455, section 4.1).
func TestDialProxy(t *testing.T) {
	plain := serveTCP(t, echoHandler(nil), false)
	secure := serveTCP(t, echoHandler(nil), true)
	roots := secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, test := range []struct {
		name string
		to   *httptest.Server
		url  string
		want string
	}{
		{"ws", plain, "ws://h.example/a?b", "CONNECT h.example:80 Basic dTpwOnE="},
		{"ws with a port", plain, "ws://h.example:81/a?b", "CONNECT h.example:81 Basic dTpwOnE="},
		{"ws to IPv6", plain, "ws://[2001:db8::1]/", "CONNECT [2001:db8::1]:80 Basic dTpwOnE="},
		{"http", plain, "http://h.example", "CONNECT h.example:80 Basic dTpwOnE="},
		{"wss", secure, "wss://example.com/a?b", "CONNECT example.com:443 Basic dTpwOnE="}, // the name in the certificate
	} {
		for _, proxyTLS := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/TLS=%v", test.name, proxyTLS), func(t *testing.T) {
				f := &forwarder{t: t, to: test.to.Listener.Addr().String()}
				u := proxyURL(t, serveTCP(t, f, proxyTLS))
				transport := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{RootCAs: roots}}
				c, err := Dial(t.Context(), test.url, &Options{HTTPClient: &http.Client{Transport: transport}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				checkEchoes(t, c)
				checkDeadline(t, c)
				if got := f.seen(); !slices.Equal(got, []string{test.want}) {
					t.Errorf("the proxy has got %q instead of %q", got, test.want)
				}
				if got := c.RemoteAddr().String(); got != u.Host {
					t.Errorf("connected to %s instead of the proxy, %s", got, u.Host)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}

	t.Run("SOCKS5", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		proxied := goErr(func() error {
			in, err := ln.Accept()
			if err != nil {
				return err
			}
			defer in.Close()
			// RFC 1928: one method, no authentication; CONNECT to a name.
			b := make([]byte, 3)
			if _, err := io.ReadFull(in, b); err != nil || !bytes.Equal(b, []byte{5, 1, 0}) {
				return fmt.Errorf("greeted with % x, %v", b, err)
			}
			in.Write([]byte{5, 0})
			b = make([]byte, 5+len("h.example")+2)
			if _, err := io.ReadFull(in, b); err != nil || string(b) != "\x05\x01\x00\x03\x09h.example\x00\x50" {
				return fmt.Errorf("asked for %q, %v", b, err)
			}
			in.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
			out, err := net.Dial("tcp", plain.Listener.Addr().String())
			if err != nil {
				return err
			}
			joinConns(in, out)
			return nil
		})
		transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: ln.Addr().String()})}
		c, err := Dial(t.Context(), "ws://h.example/", &Options{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		checkEchoes(t, c)
		c.Close()
		if err := wait(t, proxied); err != nil {
			t.Error(err)
		}
	})
}

// TestDialProxyTransport heeds what a Transport says of proxies.
func TestDialProxyTransport(t *testing.T) {
	server := serveTCP(t, echoHandler(nil), false)
	f := &forwarder{t: t, to: server.Listener.Addr().String()}
	u := proxyURL(t, serveTCP(t, f, false))
	u.User = nil
	secure := proxyURL(t, serveTCP(t, f, true))
	secure.User = nil
	var dialed []string
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed = append(dialed, addr)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	no := errors.New("no")
	for _, test := range []struct {
		name      string
		transport *http.Transport
		want      []string // what the proxy gets
		dialed    []string
		err       error
	}{
		{"DialContext", &http.Transport{Proxy: http.ProxyURL(u), DialContext: dial},
			[]string{"CONNECT h.example:80"}, []string{u.Host}, nil},
		//lint:ignore SA1019 Transports may still have it
		{"Dial", &http.Transport{Proxy: http.ProxyURL(u), Dial: func(network, addr string) (net.Conn, error) {
			return dial(t.Context(), network, addr)
		}}, []string{"CONNECT h.example:80"}, []string{u.Host}, nil},
		{"DialTLSContext", &http.Transport{Proxy: http.ProxyURL(secure), DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), err
		}}, []string{"CONNECT h.example:80"}, []string{secure.Host}, nil},
		//lint:ignore SA1019 likewise
		{"DialTLS", &http.Transport{Proxy: http.ProxyURL(secure), DialTLS: func(network, addr string) (net.Conn, error) {
			conn, err := dial(t.Context(), network, addr)
			return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), err
		}}, []string{"CONNECT h.example:80"}, []string{secure.Host}, nil},
		{"default port", &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example"}), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, u.Host)
			dialed = append(dialed, addr)
			return conn, err
		}}, []string{"CONNECT h.example:80"}, []string{"proxy.example:80"}, nil},
		{"ProxyConnectHeader", &http.Transport{Proxy: http.ProxyURL(u), ProxyConnectHeader: http.Header{"X-Proxy": {"a"}}},
			[]string{"CONNECT h.example:80 a"}, nil, nil},
		{"GetProxyConnectHeader", &http.Transport{Proxy: http.ProxyURL(u), ProxyConnectHeader: http.Header{"X-Proxy": {"a"}},
			GetProxyConnectHeader: func(_ context.Context, proxy *url.URL, target string) (http.Header, error) {
				return http.Header{"X-Proxy": {proxy.Host, target}}, nil
			}}, []string{"CONNECT h.example:80 " + u.Host + " h.example:80"}, nil, nil},
		{"GetProxyConnectHeader fails", &http.Transport{Proxy: http.ProxyURL(u),
			GetProxyConnectHeader: func(context.Context, *url.URL, string) (http.Header, error) { return nil, no }},
			nil, nil, no},
		{"OnProxyConnectResponse", &http.Transport{Proxy: http.ProxyURL(u),
			OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, r *http.Request, resp *http.Response) error {
				if proxy.Host != u.Host || r.Host != "h.example:80" || resp.StatusCode != 200 {
					t.Errorf("OnProxyConnectResponse has got %v, %v, %v", proxy, r, resp)
				}
				return no
			}}, []string{"CONNECT h.example:80"}, nil, no},
		{"Proxy fails", &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return nil, no }}, nil, nil, no},
		{"no proxy for the host", &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) {
				if r.URL.String() == "http://h.example/a" {
					return nil, nil
				}
				return u, nil
			},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialed = append(dialed, addr)
				return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
			}}, nil, []string{"h.example:80"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.mu.Lock()
			f.requests, dialed = nil, nil
			f.mu.Unlock()
			header := test.transport.ProxyConnectHeader.Clone()
			c, err := Dial(t.Context(), "ws://h.example/a", &Options{HTTPClient: &http.Client{Transport: test.transport}})
			if test.err != nil {
				if c != nil || !errors.Is(err, test.err) {
					t.Errorf("%v, %v instead of %v", c, err, test.err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else {
				checkEchoes(t, c)
				c.Close()
			}
			if got := f.seen(); !slices.Equal(got, test.want) {
				t.Errorf("the proxy has got %q instead of %q", got, test.want)
			}
			if !slices.Equal(dialed, test.dialed) {
				t.Errorf("dialed %q instead of %q", dialed, test.dialed)
			}
			if !maps.EqualFunc(header, test.transport.ProxyConnectHeader, slices.Equal) {
				t.Errorf("ProxyConnectHeader has become %v", test.transport.ProxyConnectHeader)
			}
		})
	}
}

// TestDialProxyRefuses has proxies that let nobody through.
func TestDialProxyRefuses(t *testing.T) {
	const timeout = 3 * time.Second
	for _, test := range []struct {
		name   string
		answer string
		repeat string // follows without an end
		end    bool
		text   string // of the error; a timeout if it is empty
	}{
		{"407", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 9\r\n\r\n", "", false,
			"the proxy answered 407 Proxy Authentication Required"},
		{"403 that ends", "HTTP/1.1 403 Forbidden\r\n\r\nno", "", true, "the proxy answered 403 Forbidden"},
		{"no phrase", "HTTP/1.1 502\r\n\r\n", "", false, "the proxy answered 502"},
		{"101", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "", false, "the proxy answered 101"},
		{"nothing", "", "", true, "EOF"},
		{"half a head", "HTTP/1.1 200 OK\r\nX: y\r\n", "", true, "EOF"},
		{"garbage", "SSH-2.0-OpenSSH_9.9\r\n\r\n", "", false, "malformed HTTP"},
		{"endless head", "HTTP/1.1 200 OK\r\n", "X: y\r\n", false, "malformed MIME header"}, // as it is cut
		{"silence", "", "", false, ""},
		{"silence within the head", "HTTP/1.1 200 OK\r\n", "", false, ""},
	} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(test.name+"/"+scheme, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					gone := make(chan bool, 1)
					client := memoryClient(t, func(conn net.Conn) {
						defer func() { gone <- true }()
						if head := readHead(conn); !strings.HasPrefix(head, "CONNECT h.example:80 HTTP/1.1\r\nHost: h.example:80\r\n") {
							t.Errorf("the proxy has got %q", head)
						}
						go func() {
							io.WriteString(conn, test.answer)
							for n := 0; test.repeat != "" && n < 1<<20; n++ {
								if _, err := io.WriteString(conn, test.repeat); err != nil {
									return
								}
							}
							if test.end {
								conn.Close()
							}
						}()
						io.Copy(io.Discard, conn)
					})
					client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example"})
					start := time.Now()
					c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: client, HandshakeTimeout: timeout})
					if c != nil || err == nil || !strings.Contains(err.Error(), test.text) {
						t.Errorf("%v, %v instead of %q", c, err, test.text)
					}
					if _, ok := errors.AsType[*HandshakeError](err); ok {
						t.Errorf("the error blames the server: %v", err)
					}
					if d := time.Since(start); test.text != "" && d != 0 || test.text == "" && (d != timeout || !errors.Is(err, context.DeadlineExceeded)) {
						t.Errorf("%v after %v", err, d)
					}
					wait(t, gone)
				})
			})
		}
	}

	t.Run("context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gone := make(chan bool, 1)
			client := memoryClient(t, func(conn net.Conn) {
				io.Copy(io.Discard, conn)
				gone <- true
			})
			client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example"})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			start := time.Now()
			c, err := Dial(ctx, "ws://h.example", &Options{HTTPClient: client, HandshakeTimeout: -1})
			if c != nil || !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
				t.Errorf("%v, %v after %v", c, err, time.Since(start))
			}
			wait(t, gone)
		})
	})

	t.Run("no proxy there", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: ln.Addr().String()})}
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: transport}})
		if op, ok := errors.AsType[*net.OpError](err); c != nil || !ok || op.Op != "proxyconnect" {
			t.Errorf("%v, %v", c, err)
		}
	})

	// No certificate of a proxy is trusted without a reason.
	t.Run("untrusted", func(t *testing.T) {
		f := &forwarder{t: t}
		u := proxyURL(t, serveTCP(t, f, true))
		c, err := Dial(t.Context(), "ws://h.example", &Options{HTTPClient: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}})
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); c != nil || !ok || f.seen() != nil {
			t.Errorf("%v, %v, and the proxy has got %q", c, err, f.seen())
		}
	})
}

// TestDialProxyServerRefuses has a server that refuses behind a proxy. No connection is left
// that nobody could use.
func TestDialProxyServerRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan bool, 1)
		client := memoryClient(t, func(conn net.Conn) {
			readHead(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			if head := readHead(conn); !strings.HasPrefix(head, "GET /a HTTP/1.1\r\nHost: h.example\r\n") || strings.Contains(head, "Proxy-") {
				t.Errorf("the server has got %q", head)
			}
			io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, conn)
			gone <- true
		})
		client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", User: url.User("u"), Host: "proxy.example"})
		c, err := Dial(t.Context(), "ws://h.example/a", &Options{HTTPClient: client})
		if e, ok := errors.AsType[*HandshakeError](err); c != nil || !ok || e.Status != 403 {
			t.Errorf("%v, %v", c, err)
		}
		wait(t, gone)
	})
}

// TestDialProxyRedirect has redirects lead from one proxy to another, and past both.
func TestDialProxyRedirect(t *testing.T) {
	server := serveTCP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "a.example":
			http.Redirect(w, r, "ws://b.example/", http.StatusFound)
		case "b.example":
			http.Redirect(w, r, "ws://c.example/", http.StatusFound)
		default:
			echoHandler(nil)(w, r)
		}
	}), false)
	addr := server.Listener.Addr().String()
	a, b := &forwarder{t: t, to: addr}, &forwarder{t: t, to: addr}
	proxies := map[string]*url.URL{"a.example": proxyURL(t, serveTCP(t, a, false)), "b.example": proxyURL(t, serveTCP(t, b, false))}
	transport := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) { return proxies[r.URL.Host], nil },
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			if to == "c.example:80" {
				to = addr
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	}
	c, err := Dial(t.Context(), "ws://a.example", &Options{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	checkEchoes(t, c)
	c.Close()
	if got := append(a.seen(), b.seen()...); !slices.Equal(got, []string{"CONNECT a.example:80 Basic dTpwOnE=", "CONNECT b.example:80 Basic dTpwOnE="}) {
		t.Errorf("the proxies have got %q", got)
	}
}

// TestDialProxyEnvironment heeds HTTP_PROXY and NO_PROXY, which net/http reads once in a
// process.
func TestDialProxyEnvironment(t *testing.T) {
	const child = "WEBSOCKET_TEST_SERVER"
	if os.Getenv(child) == "" {
		server := serveTCP(t, echoHandler(nil), false)
		f := &forwarder{t: t, to: server.Listener.Addr().String()}
		u := proxyURL(t, serveTCP(t, f, false))
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=1m")
		cmd.Env = append(os.Environ(), "HTTP_PROXY="+u.String(), "NO_PROXY=.direct.example", child+"="+f.to)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got := f.seen(); !slices.Equal(got, []string{"CONNECT h.example:80 Basic dTpwOnE="}) {
			t.Errorf("the proxy has got %q", got)
		}
		return
	}
	transport := http.DefaultTransport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ".direct.example:80") {
			addr = os.Getenv(child)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	for _, u := range []string{"ws://h.example", "ws://a.direct.example"} {
		c, err := Dial(t.Context(), u, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkEchoes(t, c)
		c.Close()
	}
}
