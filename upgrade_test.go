package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// reply is a message of a server of the version.
func reply(v Version, p string) string {
	if v == Hixie76 {
		return string(appendHixie(nil, finBit|opText, []byte(p)))
	}
	return string(appendFrame(nil, finBit|opText, []byte(p), false))
}

// The clients of both versions talk to one handler, over plain TCP and TLS. What comes in
// one segment with the request is not lost, and the handler has long returned.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		u := newUpgrader(&Options{Origins: []string{"*"}})
		s := serveTCP(t, u, secure)
		for _, c := range upgradeHellos(t) {
			t.Run(fmt.Sprint(c.name, ", TLS ", secure), func(t *testing.T) {
				conn := dialTCP(t, s)
				if _, err := io.WriteString(conn, c.hello+c.frames[0]+c.frames[1]); err != nil {
					t.Fatal(err)
				}
				h := u.accepted(t)
				req := checkAccepted(t, c.hello)
				req.Secure = secure
				expect(t, conn, string(CreateResponse(req)))

				got := h.Request()
				if got.Version != c.version || got.Secure != secure || got.Host != req.Host || got.Path != req.Path ||
					got.Origin != req.Origin || got.Key != req.Key || got.Key1 != req.Key1 || got.Key2 != req.Key2 ||
					got.Token != req.Token || !slices.Equal(got.Protocols, req.Protocols) || got.Protocol != "" {
					t.Errorf("request %+v, want %+v", got, req)
				}
				if _, ok := got.Header["Upgrade"]; !ok {
					t.Errorf("fields %v", got.Header)
				}
				if h.RemoteAddr().String() != conn.LocalAddr().String() || h.LocalAddr().String() != conn.RemoteAddr().String() {
					t.Errorf("addresses %v and %v", h.LocalAddr(), h.RemoteAddr())
				}
				for _, want := range c.messages {
					if p, err := GetFrame(h); err != nil || string(p) != want {
						t.Fatalf("got %q, %v, want %q", p, err, want)
					}
				}
				if err := PutFrame(h, []byte("meow")); err != nil {
					t.Fatal(err)
				}
				expect(t, conn, reply(c.version, "meow"))

				end := goErr(func() error { _, err := GetFrame(h); return err })
				close := string(toward(h, opClose, closing(CloseNormal, "")))
				if _, err := io.WriteString(conn, close); err != nil {
					t.Fatal(err)
				}
				if err := wait(t, end); err != io.EOF {
					t.Errorf("behind the close frame: %v", err)
				}
				want := "\x88\x02\x03\xe8"
				if c.version == Hixie76 {
					want = "\xff\x00"
				}
				if rest, err := io.ReadAll(conn); string(rest) != want || err != nil {
					t.Errorf("closing handshake %q, %v", rest, err)
				}
			})
		}
	}
}

// It does not matter how the request and what is right behind it are split.
func TestUpgradeSplit(t *testing.T) {
	t.Parallel()
	u := newUpgrader(&Options{Origins: []string{"*"}})
	l := serveMem(t, u, nil)
	for _, c := range upgradeHellos(t) {
		t.Run(c.name, func(t *testing.T) {
			data := c.hello + c.frames[0] + c.frames[1]
			want := string(CreateResponse(checkAccepted(t, c.hello)))
			for i := 1; i <= len(data); i++ {
				conn := l.dial(t)
				sent := goErr(func() error {
					_, err := io.WriteString(conn, data[:i])
					if i < len(data) && err == nil {
						_, err = io.WriteString(conn, data[i:])
					}
					return err
				})
				expect(t, conn, want)
				h := wait(t, u.result).c
				for _, want := range c.messages {
					if p, err := GetFrame(h); err != nil || string(p) != want {
						t.Fatalf("split at %d: got %q, %v, want %q", i, p, err, want)
					}
				}
				if err := wait(t, sent); err != nil {
					t.Fatal(err)
				}
				conn.Close()
				if p, err := GetFrame(h); err != io.EOF {
					t.Fatalf("split at %d: and then %q, %v", i, p, err)
				}
				h.CloseNow()
			}
		})
	}
	t.Run("byte by byte", func(t *testing.T) {
		for _, c := range upgradeHellos(t) {
			conn := l.dial(t)
			sent := goErr(func() error {
				for _, b := range []byte(c.hello + c.frames[0]) {
					if _, err := conn.Write([]byte{b}); err != nil {
						return err
					}
				}
				return nil
			})
			expect(t, conn, string(CreateResponse(checkAccepted(t, c.hello))))
			h := u.accepted(t)
			if p, err := GetFrame(h); err != nil || string(p) != c.messages[0] {
				t.Errorf("%s: got %q, %v", c.name, p, err)
			}
			if err := wait(t, sent); err != nil {
				t.Error(err)
			}
		}
	})
}

// Messages of all sizes go there and back, and either side closes.
func TestUpgradeEcho(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for _, serverCloses := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS %v, server closes %v", secure, serverCloses), func(t *testing.T) {
				u := newUpgrader(nil)
				s := serveTCP(t, u, secure)
				client, err := ClientHandshake(dialTCP(t, s), s.URL+"/chat", nil)
				if err != nil {
					t.Fatal(err)
				}
				h := u.accepted(t)
				served := goErr(func() error { return echo(h) })
				for _, size := range []int{0, 1, 125, 126, 4096, 65535, 65536, 1 << 20} {
					want := bytes.Repeat([]byte("\x00\xff\r\n"), size/4+1)[:size]
					sent := goErr(func() error { return client.WriteMessage(Binary, want) })
					if typ, p, err := client.ReadMessage(); err != nil || typ != Binary || !bytes.Equal(p, want) {
						t.Fatalf("%d bytes: %v of %d, %v", size, typ, len(p), err)
					}
					if err := wait(t, sent); err != nil {
						t.Fatal(err)
					}
				}
				closer, other := client, served
				if serverCloses {
					closer, other = h, goErr(func() error { _, _, err := client.ReadMessage(); return err })
				}
				if err := closer.CloseWith(4000, "enough"); err != nil {
					t.Error(err)
				}
				if ce, ok := errors.AsType[*CloseError](wait(t, other)); !ok || ce.Code != 4000 || ce.Reason != "enough" {
					t.Errorf("the other side: %v", ce)
				}
				if serverCloses {
					if err := wait(t, served); !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
				}
				client.Close()
			})
		}
	}
}

// The deadlines of an http.Server are for requests: a connection that is silent for an hour
// outlives them.
func TestUpgradeServerTimeouts(t *testing.T) {
	t.Parallel()
	for _, c := range upgradeHellos(t) {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpgrader(&Options{Origins: []string{"*"}})
				conn := serveMem(t, u, func(s *http.Server) {
					s.ReadHeaderTimeout, s.ReadTimeout = time.Second, 2*time.Second
					s.WriteTimeout, s.IdleTimeout = time.Second, time.Second
				}).dial(t)
				sent := send(conn, c.hello)
				expect(t, conn, string(CreateResponse(checkAccepted(t, c.hello))))
				if err := wait(t, sent); err != nil {
					t.Fatal(err)
				}
				h := u.accepted(t)
				served := goErr(func() error { return echo(h) })
				for range 2 {
					time.Sleep(time.Hour)
					sent := send(conn, c.frames[0])
					expect(t, conn, reply(c.version, c.messages[0]))
					if err := wait(t, sent); err != nil {
						t.Fatal(err)
					}
				}
				conn.Close()
				if err := wait(t, served); cause(err) != io.EOF {
					t.Error(err)
				}
			})
		})
	}
}

// A connection may have had other requests before, even in the same segment.
func TestUpgradeKeepAlive(t *testing.T) {
	t.Parallel()
	for _, c := range upgradeHellos(t) {
		for _, pipelined := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, ", pipelined ", pipelined), func(t *testing.T) {
				u := newUpgrader(&Options{Origins: []string{"*"}})
				mux := http.NewServeMux()
				mux.Handle("/", u)
				mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page") })
				conn := serveMem(t, mux, nil).dial(t)
				page := "GET /page HTTP/1.1\r\nHost: example.com\r\n\r\n"
				visit := "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n" // which is refused
				rest := c.hello + c.frames[0]
				r := bufio.NewReader(conn)
				var sent <-chan error
				if pipelined {
					sent = send(conn, page+visit+rest)
				}
				for _, want := range []struct {
					request, body string
					status        int
				}{{page, "page", 200}, {visit, "the field Upgrade does not ask for a WebSocket\n", 426}} {
					if !pipelined {
						sent = send(conn, want.request)
					}
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					if resp.StatusCode != want.status || string(body) != want.body || err != nil {
						t.Fatalf("%s: %q, %v", resp.Status, body, err)
					}
					if want.status == 426 {
						u.refused(t)
					}
					if !pipelined {
						if err := wait(t, sent); err != nil {
							t.Fatal(err)
						}
					}
				}
				if !pipelined {
					sent = send(conn, rest)
				}
				expect(t, r, string(CreateResponse(checkAccepted(t, c.hello))))
				if p, err := GetFrame(u.accepted(t)); err != nil || string(p) != c.messages[0] {
					t.Errorf("got %q, %v", p, err)
				}
				if err := wait(t, sent); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Upgrade keeps nothing of Options that the caller may change.
func TestUpgradeOptionsCopied(t *testing.T) {
	t.Parallel()
	o := &Options{Origins: []string{"*"}, MaxMessage: 5}
	w := newHijackWriter()
	w.conn.in = [][]byte{[]byte(rfcFrames[0] + rfcFrames[0])}
	h, err := Upgrade(w, parsedRequest(t, rfcHead), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Origins[0], o.MaxMessage, o.CloseTimeout = "x", 1, time.Nanosecond
	for range 2 {
		if p, err := GetFrame(h); err != nil || string(p) != rfcMessages[0] {
			t.Errorf("got %q, %v", p, err)
		}
	}
	if h.opts.CloseTimeout != 0 || h.opts.Origins[0] != "*" {
		t.Errorf("options %+v", h.opts)
	}
}

// A prefix or suffix that middleware strips of the URL is still part of what the client
// asked for, which clients of hixie-76 compare.
func TestUpgradePath(t *testing.T) {
	t.Parallel()
	for _, c := range upgradeHellos(t) {
		for _, target := range []string{"/a/b?c=d%20e&f", "/a/%2Fb%41?", "//a//b", "http://server/a/b?x", "http://server?x", "/a;b/c|d[e]"} {
			u := newUpgrader(&Options{Origins: []string{"*"}})
			conn := serveMem(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.RequestURI, "/") {
					r.URL.Path, r.URL.RawPath, r.URL.RawQuery = "/stripped", "", ""
				}
				u.ServeHTTP(w, r)
			}), nil).dial(t)
			line, rest, _ := strings.Cut(c.hello, "\r\n")
			old := strings.Fields(line)[1]
			hello := strings.Replace(line, old, target, 1) + "\r\n" + rest
			sent := send(conn, hello)
			expect(t, conn, string(CreateResponse(checkAccepted(t, hello))))
			if err := wait(t, sent); err != nil {
				t.Error(err)
			}
			want := checkAccepted(t, hello)
			if got := u.accepted(t).Request(); got.Path != want.Path || got.Host != want.Host {
				t.Errorf("%s: %q at %q, want %q at %q", target, got.Path, got.Host, want.Path, want.Host)
			}
		}
	}
}

// Whatever the fields of a request are, Upgrade gives one answer, and its error says which.
func TestUpgradeRandom(t *testing.T) {
	t.Parallel()
	values := []string{
		"websocket", "WebSocket", "Upgrade", "keep-alive, Upgrade", "13", "8", "dGhlIHNhbXBsZSBub25jZQ==", "4 @1  46546xW%0l 1 5",
		"12998 5 Y3 1  .P00", "http://example.com", "http://server.example.com", "null", "chat, superchat", "chat,,chat", "sample", "0",
		"\r\nInjected: yes", "\x00", "\u00e9\xff", "", " ", ",", "*", "://", strings.Repeat("a", 9000), manyTokens(200),
	}
	names := []string{
		"Upgrade", "Connection", "Origin", "Host", "Content-Length", "Transfer-Encoding", ":protocol", "Expect",
		"Sec-Websocket-Key", "Sec-Websocket-Key1", "Sec-Websocket-Key2", "Sec-Websocket-Version", "Sec-Websocket-Protocol",
		"Sec-Websocket-Extensions", "Sec-Websocket-Accept", "Cookie", "", "x y", "Injected\r\n",
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(s []string) string { return s[rnd.IntN(len(s))] }
	accepted := 0
	for range 4000 {
		r := parsedRequest(t, handshakes[rnd.IntN(2)].hello)
		if rnd.IntN(2) == 0 {
			r.ContentLength = tokenSize
			r.Body = io.NopCloser(strings.NewReader(hixieToken[:rnd.IntN(tokenSize+1)]))
		}
		if rnd.IntN(20) == 0 {
			r.Header = http.Header{}
		}
		for range rnd.IntN(3) {
			name := pick(names)
			switch rnd.IntN(4) {
			case 0:
				delete(r.Header, name)
			case 1:
				r.Header[name] = append(r.Header[name], pick(values))
			case 2:
				r.Header[name] = []string{}
			default:
				r.Header[name] = []string{pick(values)}
			}
		}
		switch rnd.IntN(40) {
		case 0:
			r.ProtoMajor, r.ProtoMinor = 2, 0
			r.Method = "CONNECT"
			r.Header[":protocol"] = []string{pick(values)}
		case 1:
			r.ProtoMajor, r.ProtoMinor = 1, 0
		case 2:
			r.Method = pick([]string{"", "get", "POST", "CONNECT"})
		case 3:
			r.Host = pick(values)
		case 4:
			r.RequestURI = pick(values)
		case 5:
			r.TransferEncoding = []string{"chunked"}
		}
		if r.Method == "CONNECT" && r.ProtoMajor == 2 && slices.Equal(r.Header[":protocol"], []string{"websocket"}) {
			continue // which a recorder cannot carry
		}
		fields, w := fmt.Sprintf("%q", r.Header), newHijackWriter()
		if rnd.IntN(10) == 0 {
			w.err = errBroken
		}
		for range rnd.IntN(3) {
			w.conn.in = append(w.conn.in, []byte(hixieToken[:rnd.IntN(tokenSize)+1]))
		}
		h, err := Upgrade(w, r, &Options{Origins: []string{"http://example.com"}, Protocols: []string{"sample", "superchat"}})
		out := w.conn.written()
		e, ok := errors.AsType[*HandshakeError](err)
		switch {
		case err == nil:
			accepted++
			if h == nil || !bytes.HasPrefix(out, []byte("HTTP/1.1 101 ")) || bytes.Contains(out, []byte("Injected: yes")) || h.Request().check() != nil {
				t.Fatalf("%s: response %q", fields, out)
			}
		case !ok || h != nil || e.Status < 400 || e.Status > 599 || e.Reason == "":
			t.Fatalf("%s: %v, %v", fields, h, err)
		case len(out) > 0: // the token has come behind the head, and not all of it
			checkRefusal(t, string(out), e.Status)
			if !w.conn.closed {
				t.Fatalf("%s: the connection is open", fields)
			}
		case w.Code != e.Status || w.Body.String() != e.Reason+"\n":
			t.Fatalf("%s: %v, but status %d %q", fields, err, w.Code, w.Body)
		}
	}
	if accepted < 100 {
		t.Errorf("only %d have been accepted", accepted)
	}
}

// While a connection is idle, nothing of net/http waits with it.
func TestUpgradeIdle(t *testing.T) { // not parallel: it looks at all goroutines
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			u := newUpgrader(nil)
			s := serveTCP(t, u, secure)
			client, err := ClientHandshake(dialTCP(t, s), s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseNow()
			h := u.accepted(t)
			served := goErr(func() error { return echo(h) })
			if err := client.WriteMessage(Text, []byte("a")); err != nil {
				t.Fatal(err)
			}
			if _, p, err := client.ReadMessage(); err != nil || string(p) != "a" {
				t.Fatalf("%q, %v", p, err)
			}
			var left []string
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				b := make([]byte, 1<<20)
				left = slices.DeleteFunc(strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n"), func(s string) bool {
					return !strings.Contains(s, "net/http.(*conn)") && !strings.Contains(s, "net/http.(*connReader)")
				})
				if len(left) == 0 || time.Now().After(deadline) {
					break
				}
			}
			if len(left) > 0 {
				t.Errorf("goroutines of net/http:\n\n%s", strings.Join(left, "\n\n"))
			}
			if err := client.WriteMessage(Text, []byte("b")); err != nil {
				t.Error(err)
			}
			if _, p, err := client.ReadMessage(); err != nil || string(p) != "b" {
				t.Errorf("%q, %v", p, err)
			}
			client.CloseNow()
			if err := wait(t, served); err == nil {
				t.Error("no error")
			}
		})
	}
}
