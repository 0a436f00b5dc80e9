package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// Responses to hixie-76, byte for byte.
func TestUpgradeHixie(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		u := newUpgrader(&Options{Origins: []string{"http://example.com"}, Protocols: []string{"other", "sample"}})
		s := serveTCP(t, u, secure)
		scheme := "ws"
		if secure {
			scheme = "wss"
		}
		for _, v := range hixieVectors {
			for _, length := range []string{"", "Content-Length: 8\r\n", "content-length:8\r\n", "Content-Length: 0\r\n"} {
				conn := dialTCP(t, s)
				request := hixieRequest(v.key1, v.key2, v.token)
				request = editHead(t, request, "Origin: ", length+"Origin: ")
				request = editHead(t, request, "Host: example.com", "Host: EXAMPLE.com:8080")
				if _, err := io.WriteString(conn, request+hixieFrames[0]); err != nil {
					t.Fatal(err)
				}
				expect(t, conn, "HTTP/1.1 101 WebSocket Protocol Handshake\r\n"+
					"Upgrade: WebSocket\r\n"+
					"Connection: Upgrade\r\n"+
					"Sec-WebSocket-Origin: http://example.com\r\n"+
					"Sec-WebSocket-Location: "+scheme+"://EXAMPLE.com:8080/demo?room=1\r\n"+
					"Sec-WebSocket-Protocol: sample\r\n\r\n"+v.answer)
				h := u.accepted(t)
				if p, err := GetFrame(h); err != nil || string(p) != "Hello" || h.Request().Token != v.token {
					t.Errorf("%s, %q: got %q, %v, token %q", v.source, length, p, err, h.Request().Token)
				}
			}
		}
	}
}

// readRefusal reads one response and the end of the connection.
func readRefusal(t testing.TB, conn io.Reader) (*http.Response, string) {
	t.Helper()
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 || !resp.Close {
		t.Errorf("behind the response: %q, closed %v", rest, resp.Close)
	}
	return resp, string(body)
}

// The eight bytes behind the head of hixie-76 have to come in time, and all of them.
func TestUpgradeHixieToken(t *testing.T) {
	t.Parallel()
	for _, c := range upgradeHellos(t)[1:] {
		head := c.hello[:len(c.hello)-tokenSize]
		for cut := range tokenSize {
			for _, tt := range []struct {
				limit, want time.Duration
			}{{0, 10 * time.Second}, {3 * time.Second, 3 * time.Second}} {
				t.Run(fmt.Sprint(c.name, "/", cut, " bytes within ", tt.want), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						u := newUpgrader(&Options{Origins: []string{"*"}, HandshakeTimeout: tt.limit})
						conn := serveMem(t, u, nil).dial(t)
						start := time.Now()
						sent := send(conn, head+hixieToken[:cut])
						resp, body := readRefusal(t, conn)
						if d := time.Since(start); d != tt.want || resp.StatusCode != 408 || body != "the handshake took too long\n" {
							t.Errorf("after %v: %s, %q", d, resp.Status, body)
						}
						if e := u.refused(t); e.Status != 408 || !errors.Is(e, os.ErrDeadlineExceeded) {
							t.Errorf("error %v", e)
						}
						wait(t, sent)
					})
				})
			}
			t.Run(fmt.Sprint(c.name, "/EOF behind ", cut), func(t *testing.T) {
				u := newUpgrader(&Options{Origins: []string{"*"}})
				conn := dialTCP(t, serveTCP(t, u, false))
				if _, err := io.WriteString(conn, head+hixieToken[:cut]); err != nil {
					t.Fatal(err)
				}
				conn.(*net.TCPConn).CloseWrite()
				resp, body := readRefusal(t, conn)
				if resp.StatusCode != 400 || body != "the token is not 8 bytes long\n" {
					t.Errorf("%s, %q", resp.Status, body)
				}
				if e := u.refused(t); e.Status != 400 || !errors.Is(e, io.ErrUnexpectedEOF) {
					t.Errorf("error %v", e)
				}
			})
		}
		t.Run(c.name+"/no limit", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpgrader(&Options{Origins: []string{"*"}, HandshakeTimeout: -1})
				conn := serveMem(t, u, nil).dial(t)
				sent := goErr(func() error {
					_, err := io.WriteString(conn, head+hixieToken[:4])
					time.Sleep(time.Hour)
					_, err2 := io.WriteString(conn, hixieToken[4:]+c.frames[0])
					return errors.Join(err, err2)
				})
				expect(t, conn, string(CreateResponse(checkAccepted(t, c.hello))))
				if p, err := GetFrame(u.accepted(t)); err != nil || string(p) != c.messages[0] {
					t.Errorf("got %q, %v", p, err)
				}
				if err := wait(t, sent); err != nil {
					t.Error(err)
				}
			})
		})
		// A token that has come in time sets no deadline for what follows.
		t.Run(c.name+"/in time", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpgrader(&Options{Origins: []string{"*"}})
				conn := serveMem(t, u, nil).dial(t)
				sent := goErr(func() error {
					_, err := io.WriteString(conn, head)
					time.Sleep(9 * time.Second)
					_, err2 := io.WriteString(conn, hixieToken)
					time.Sleep(time.Hour)
					_, err3 := io.WriteString(conn, c.frames[0])
					return errors.Join(err, err2, err3)
				})
				expect(t, conn, string(CreateResponse(checkAccepted(t, c.hello))))
				if p, err := GetFrame(u.accepted(t)); err != nil || string(p) != c.messages[0] {
					t.Errorf("got %q, %v", p, err)
				}
				if err := wait(t, sent); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A browser's request for a page.
const pageHead = "GET /chat HTTP/1.1\r\n" +
	"Host: server.example.com\r\n" +
	"Connection: keep-alive\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml\r\n" +
	"Sec-Fetch-Mode: navigate\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n\r\n"

// What is no valid handshake is refused with a text that says why. The sections are of RFC
// 6455 unless they name another RFC, or the draft of hixie-76.
func TestUpgradeRefuses(t *testing.T) {
	t.Parallel()
	hixie := hixieHead + hixieToken
	type row struct {
		rule, head, old, new string
		status               int
		field, reason        string
		body                 string // for which net/http waits
	}
	rows := []row{
		{"4.1 (2), POST", rfcHead, "GET", "POST", 405, "", "the method is not GET", ""},
		{"4.1 (2), POST with a body", rfcHead, "GET /chat?room=1 HTTP/1.1", "POST / HTTP/1.1\r\nContent-Length: 0", 405, "", "the method is not GET", ""},
		{"4.1 (2), CONNECT", rfcHead, "GET /chat?room=1", "CONNECT example.com:80", 405, "", "the method is not GET", ""},
		{"4.1 (2), OPTIONS", rfcHead, "GET /chat?room=1", "OPTIONS /", 405, "", "the method is not GET", ""},
		{"4.1 (2), HTTP/1.0", rfcHead, "HTTP/1.1", "HTTP/1.0", 505, "", "the HTTP version is not 1.1", ""},
		{"4.2.1 (1), no absolute path", rfcHead, "/chat?room=1", "*", 400, "", "the resource is no absolute path", ""},
		{"4.2.1 (3), a browser's visit", pageHead, "GET", "GET", 426, "Upgrade", "the field Upgrade does not ask for a WebSocket", ""},
		{"4.2.1 (3), no Upgrade", rfcHead, "Upgrade: websocket\r\n", "", 426, "Upgrade", "the field Upgrade does not ask for a WebSocket", ""},
		{"4.2.1 (3), other Upgrade", rfcHead, "Upgrade: websocket", "Upgrade: h2c", 426, "Upgrade", "the field Upgrade does not ask for a WebSocket", ""},
		{"4.2.1 (3), similar Upgrade", rfcHead, "Upgrade: websocket", "Upgrade: websockets", 426, "Upgrade", "the field Upgrade does not ask for a WebSocket", ""},
		{"4.2.1 (4), no Connection", rfcHead, "Connection: Upgrade\r\n", "", 400, "Connection", "Connection does not hold upgrade", ""},
		{"4.2.1 (4), other Connection", rfcHead, "Connection: Upgrade", "Connection: keep-alive", 400, "Connection", "Connection does not hold upgrade", ""},
		{"4.2.1 (5), no Key", rfcHead, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "Sec-WebSocket-Key", "Sec-WebSocket-Key is missing", ""},
		{"4.2.1 (5), two Keys", rfcHead, "Origin:", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin:", 400, "Sec-WebSocket-Key", "Sec-WebSocket-Key is repeated", ""},
		{"4.2.1 (6), no Version", rfcHead, "Sec-WebSocket-Version: 13\r\n", "", 400, "Sec-WebSocket-Version", "Sec-WebSocket-Version is missing", ""},
		{"4.2.1 (6), no Key and no Version", rfcHead, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n" +
			"Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n", "", 400, "Sec-WebSocket-Key", "Sec-WebSocket-Key is missing", ""},
		{"4.2.1 (6), two Versions", rfcHead, "Origin:", "Sec-WebSocket-Version: 13\r\nOrigin:", 400, "Sec-WebSocket-Version", "Sec-WebSocket-Version is repeated", ""},
		{"4.2.1 (7), two Origins", rfcHead, "Origin:", "Origin: http://server.example.com\r\nOrigin:", 400, "Origin", "Origin is repeated", ""},
		{"4.4, Version 8", rfcHead, "Version: 13", "Version: 8", 426, "Sec-WebSocket-Version", "Sec-WebSocket-Version is not 13", ""},
		{"4.4, Version 130", rfcHead, "Version: 13", "Version: 130", 426, "Sec-WebSocket-Version", "Sec-WebSocket-Version is not 13", ""},
		{"4.4, list of Versions", rfcHead, "Version: 13", "Version: 13, 8", 426, "Sec-WebSocket-Version", "Sec-WebSocket-Version is not 13", ""},
		{"4.1 (10), no token", rfcHead, "chat, superchat", "chat, super chat", 400, "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol is no list of tokens", ""},
		{"4.1 (10), twice", rfcHead, "chat, superchat", "chat, superchat, chat", 400, "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol names a subprotocol twice", ""},
		{"RFC 9112 6.2, body", rfcHead, "Origin:", "Content-Length: 5\r\nOrigin:", 400, "Content-Length", "Content-Length announces a body", "hello"},
		{"RFC 9112 6.2, body like that of hixie-76", rfcHead, "Origin:", "Content-Length: 8\r\nOrigin:", 400, "Content-Length", "Content-Length announces a body", "12345678"},
		{"RFC 9112 6.1, chunks", rfcHead, "Origin:", "Transfer-Encoding: chunked\r\nOrigin:", 400, "Transfer-Encoding", "Transfer-Encoding announces a body", "0\r\n\r\n"},
		{"10.2", rfcHead, "example.com\r\nSec", "example.org\r\nSec", 403, "Origin", "pages of this origin may not connect", ""},
		{"draft 5.1, no Origin", hixie, "Origin: http://example.com\r\n", "", 400, "Origin", "Origin is missing", ""},
		{"draft 5.1, other Origin", hixie, "Origin: http://example.com", "Origin: http://example.org", 403, "Origin", "pages of this origin may not connect", ""},
		{"draft 5.1, no Key1", hixie, "Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n", "", 400, "Sec-WebSocket-Key1", "Sec-WebSocket-Key1 holds no digit", ""},
		{"draft 5.1, no Key2", hixie, "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n", "", 400, "Sec-WebSocket-Key2", "Sec-WebSocket-Key2 holds no digit", ""},
		{"draft 5.1, two Keys1", hixie, "Origin:", "Sec-WebSocket-Key1: 1 2\r\nOrigin:", 400, "Sec-WebSocket-Key1", "Sec-WebSocket-Key1 is repeated", ""},
		{"draft 5.1, two Protocols", hixie, "Origin:", "Sec-WebSocket-Protocol: other\r\nOrigin:", 400, "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol is repeated", ""},
		{"draft 5.1, two Origins", hixie, "Origin:", "Origin: http://example.com\r\nOrigin:", 400, "Origin", "Origin is repeated", ""},
		{"draft 5.1, a longer body", hixie, "Origin:", "Content-Length: 9\r\nOrigin:", 400, "Content-Length", "Content-Length announces a body", "9"},
		{"draft 5.1, chunks", hixie, "Origin:", "Transfer-Encoding: chunked\r\nOrigin:", 400, "Transfer-Encoding", "Transfer-Encoding announces a body", "\r\n"},
		{"draft 5.1, no Connection", hixie, "Connection: Upgrade\r\n", "", 400, "Connection", "Connection does not hold upgrade", ""},
	}
	for _, key := range refusedKeys {
		if !strings.ContainsFunc(key, isControl) && strings.TrimSpace(key) == key {
			reason := "Sec-WebSocket-Key is not 16 bytes in base64"
			if key == "" {
				reason = "Sec-WebSocket-Key is missing"
			}
			rows = append(rows, row{fmt.Sprintf("4.2.1 (5), key %.60q", key), rfcHead, "dGhlIHNhbXBsZSBub25jZQ==", key, 400,
				"Sec-WebSocket-Key", reason, ""})
		}
	}
	for _, k := range hixieRefusedKeys {
		if k.key == strings.TrimSpace(k.key) {
			rows = append(rows, row{"draft " + k.rule, hixie, "4 @1  46546xW%0l 1 5", k.key, 400, "Sec-WebSocket-Key1", k.reason, ""})
		}
	}
	u := newUpgrader(&Options{Origins: []string{"http://example.com"}})
	l := serveMem(t, u, nil)
	for _, tt := range rows {
		t.Run(tt.rule, func(t *testing.T) {
			conn := l.dial(t)
			head := editHead(t, tt.head, tt.old, tt.new)
			isHixie := strings.Contains(head, "-Key1:")
			sent := send(conn, head+tt.body)
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			e := u.refused(t)
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != e.Reason+"\n" || !strings.Contains(e.Reason, tt.reason) ||
				resp.StatusCode != tt.status || e.Status != tt.status || e.Field != tt.field || e.Response != nil {
				t.Errorf("%s, %q, %v, error %+v", resp.Status, body, err, e)
			}
			for _, f := range []struct {
				name, want string
				always     bool
			}{
				{"Content-Type", "text/plain; charset=utf-8", true},
				{"X-Content-Type-Options", "nosniff", true},
				{"Allow", "GET", tt.status == 405},
				{"Upgrade", "websocket", tt.status == 426},
				{"Connection", "Upgrade", tt.status == 426},
				{"Sec-Websocket-Version", "13", tt.status == 426},
			} {
				want := []string{f.want}
				if f.name == "Connection" && !f.always {
					continue // net/http may have one of its own
				}
				if !f.always {
					want = nil
				}
				if got := resp.Header[f.name]; !slices.Equal(got, want) {
					t.Errorf("%s: %s %q, want %q", resp.Status, f.name, got, want)
				}
			}
			for name := range resp.Header {
				if strings.HasPrefix(name, "Sec-Websocket-") && name != "Sec-Websocket-Version" {
					t.Errorf("%s has %s", resp.Status, name)
				}
			}
			if isHixie && !resp.Close {
				t.Error("the token would be taken for a request")
			}
			if isHixie {
				if rest, _ := io.ReadAll(r); len(rest) > 0 {
					t.Errorf("behind the response: %q", rest)
				}
			}
			conn.Close()
			wait(t, sent)
		})
	}
}

// A wrapped writer is one as middleware makes them.
type wrappedWriter struct{ http.ResponseWriter }

func (w wrappedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Where the connection cannot be had, the client hears of it.
func TestUpgradeWriters(t *testing.T) {
	t.Parallel()
	t.Run("wrapped", func(t *testing.T) {
		u := newUpgrader(&Options{Origins: []string{"*"}})
		l := serveMem(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.ServeHTTP(wrappedWriter{wrappedWriter{w}}, r)
		}), nil)
		for _, c := range upgradeHellos(t) {
			conn := l.dial(t)
			sent := send(conn, c.hello+c.frames[0])
			expect(t, conn, string(CreateResponse(checkAccepted(t, c.hello))))
			if p, err := GetFrame(u.accepted(t)); err != nil || string(p) != c.messages[0] {
				t.Errorf("got %q, %v", p, err)
			}
			if err := wait(t, sent); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("recorder", func(t *testing.T) {
		for _, c := range upgradeHellos(t) {
			w := httptest.NewRecorder()
			h, err := Upgrade(w, parsedRequest(t, c.hello), &Options{Origins: []string{"*"}})
			e, ok := errors.AsType[*HandshakeError](err)
			if h != nil || !ok || e.Status != 501 || w.Code != 501 || !errors.Is(err, errors.ErrUnsupported) ||
				w.Body.String() != "the server cannot take over the connection\n" {
				t.Errorf("%s: %v, %v, %d %q", c.name, h, err, w.Code, w.Body)
			}
		}
	})
	t.Run("http.TimeoutHandler", func(t *testing.T) {
		u := newUpgrader(&Options{Origins: []string{"*"}})
		l := serveMem(t, http.TimeoutHandler(u, time.Minute, ""), nil)
		for _, c := range upgradeHellos(t) {
			conn := l.dial(t)
			sent := send(conn, c.hello)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != 501 {
				t.Fatalf("%v, %v", resp, err)
			}
			if e := u.refused(t); e.Status != 501 {
				t.Error(e)
			}
			conn.Close()
			wait(t, sent)
		}
	})
	t.Run("error", func(t *testing.T) {
		for _, broken := range []error{errBroken, net.ErrClosed, io.EOF} {
			w := newHijackWriter()
			w.err = broken
			h, err := Upgrade(w, parsedRequest(t, rfcHead), &Options{Origins: []string{"*"}})
			e, ok := errors.AsType[*HandshakeError](err)
			if h != nil || !ok || e.Status != 500 || w.Code != 500 || !errors.Is(err, broken) || strings.Contains(w.Body.String(), broken.Error()) {
				t.Errorf("%v: %v, %v, %d %q", broken, h, err, w.Code, w.Body)
			}
		}
	})
	t.Run("twice", func(t *testing.T) {
		u, second := newUpgrader(&Options{Origins: []string{"*"}}), make(chan error, 1)
		l := serveMem(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.ServeHTTP(w, r)
			h, err := Upgrade(w, r, u.opts)
			if h != nil {
				err = nil
			}
			second <- err
		}), nil)
		conn := l.dial(t)
		sent := send(conn, rfcHead+rfcFrames[0])
		expect(t, conn, string(CreateResponse(checkAccepted(t, rfcHead))))
		err := wait(t, second)
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 500 || !errors.Is(err, http.ErrHijacked) {
			t.Errorf("second: %v", err)
		}
		h := u.accepted(t)
		if p, err := GetFrame(h); err != nil || string(p) != rfcMessages[0] {
			t.Errorf("got %q, %v", p, err)
		}
		if err := wait(t, sent); err != nil {
			t.Error(err)
		}
		put := goErr(func() error { return PutFrame(h, []byte("meow")) })
		expect(t, conn, "\x81\x04meow")
		if err := wait(t, put); err != nil {
			t.Error(err)
		}
	})
	t.Run("broken connection", func(t *testing.T) {
		w := newHijackWriter()
		w.conn.Close()
		h, err := Upgrade(w, parsedRequest(t, rfcHead), &Options{Origins: []string{"*"}})
		if _, ok := errors.AsType[*HandshakeError](err); h != nil || ok || !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, %v", h, err)
		}
	})
}

// The fields of w.Header are in the response, once each, but for those that are up to the
// handshake or to HTTP.
func TestUpgradeFields(t *testing.T) {
	t.Parallel()
	for _, c := range upgradeHellos(t) {
		t.Run(c.name, func(t *testing.T) {
			u := newUpgrader(&Options{Origins: []string{"*"}, Protocols: []string{"superchat", "sample"}})
			u.before = func(w http.ResponseWriter, r *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
				http.SetCookie(w, &http.Cookie{Name: "b", Value: "2", HttpOnly: true})
				h := w.Header()
				h.Set("X-Split", "one\r\nInjected: yes\r\n\r\ntwo\nInjected: yes\rInjected: yes")
				h["X-Bad\r\nInjected"] = []string{"yes"}
				h["X Bad"] = []string{"yes"}
				h[""] = []string{"yes"}
				h.Set("X-Empty", "")
				h.Set("Strict-Transport-Security", "max-age=1")
				h["x-lower"] = []string{"kept"}
				for _, name := range hopFields {
					h.Set(name, "evil")
					h.Add(name, "evil")
				}
				h.Set("Sec-WebSocket-Accept", "evil")
				h.Set("Trailer", "X-Trailer")
				h.Set(http.TrailerPrefix+"X-Trailer", "evil")
			}
			conn := serveMem(t, u, nil).dial(t)
			sent := send(conn, c.hello+c.frames[0])
			var b bytes.Buffer
			r := bufio.NewReader(io.TeeReader(iotest.OneByteReader(conn), &b))
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			req := checkAccepted(t, c.hello)
			want := http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Accept":      {string(CreateToken(req))},
				"Sec-Websocket-Protocol":    {"superchat"},
				"Set-Cookie":                {"a=1", "b=2; HttpOnly"},
				"X-Split":                   {"one  Injected: yes    two Injected: yes Injected: yes"},
				"X-Empty":                   {""},
				"X-Lower":                   {"kept"},
				"Strict-Transport-Security": {"max-age=1"},
			}
			if c.version == Hixie76 {
				delete(want, "Sec-Websocket-Accept")
				want["Upgrade"] = []string{"WebSocket"}
				want["Sec-Websocket-Origin"] = []string{"http://example.com"}
				want["Sec-Websocket-Location"] = []string{"ws://example.com/demo?room=1"}
				want["Sec-Websocket-Protocol"] = []string{"sample"}
				expect(t, r, string(CreateToken(req)))
			}
			if !maps.EqualFunc(resp.Header, want, slices.Equal) {
				t.Errorf("fields %q\nwant %q", resp.Header, want)
			}
			if p, err := GetFrame(u.accepted(t)); err != nil || string(p) != c.messages[0] {
				t.Errorf("got %q, %v", p, err)
			}
			if err := wait(t, sent); err != nil {
				t.Error(err)
			}
		})
	}
}

// No CR or LF of a request, which net/http does not let through but other servers may,
// comes into a response.
func TestUpgradeInjection(t *testing.T) {
	t.Parallel()
	for _, c := range upgradeHellos(t) {
		if c.version == Hixie76 && !strings.Contains(c.hello, "Content-Length") {
			continue // parsedRequest has the token as the body
		}
		for _, bad := range []string{"\r", "\n", "\r\nInjected: yes", "\r\n\r\n", "\x00", "\x7f"} {
			for name, edit := range map[string]func(*http.Request){
				"Host":     func(r *http.Request) { r.Host += bad },
				"path":     func(r *http.Request) { r.RequestURI += bad },
				"URL":      func(r *http.Request) { r.RequestURI, r.URL.Opaque = "", "//host/"+bad },
				"Origin":   func(r *http.Request) { r.Header.Set("Origin", "http://example.com"+bad) },
				"Key":      func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="+bad) },
				"Version":  func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "13"+bad) },
				"protocol": func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "a"+bad) },
			} {
				r := parsedRequest(t, c.hello)
				edit(r)
				w := newHijackWriter()
				h, err := Upgrade(w, r, &Options{Origins: []string{"*"}})
				if e, ok := errors.AsType[*HandshakeError](err); err != nil && (!ok || h != nil || e.Status != w.Code || w.Code < 400) {
					t.Errorf("%s: %q in %s: %v, %v, %d", c.name, bad, name, h, err, w.Code)
				}
				if out := w.conn.written(); err == nil {
					checkResponse(t, h.Request(), out)
				} else if len(out) > 0 {
					t.Errorf("%s: %q in %s: response %q", c.name, bad, name, out)
				}
				if err == nil && c.version == RFC6455 {
					t.Errorf("%s: %q in %s is accepted", c.name, bad, name)
				}
				if c.version == Hixie76 && name != "Key" && name != "Version" && name != "protocol" && err == nil {
					t.Errorf("%s: %q in %s is accepted", c.name, bad, name)
				}
				for name, values := range w.Result().Header {
					if strings.ContainsAny(name+strings.Join(values, ""), "\r\n") {
						t.Errorf("%s: the refusal has %q %q", c.name, name, values)
					}
				}
			}
		}
	}
}

// The server takes the first of its subprotocols that the client offers.
func TestUpgradeProtocols(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		offered []string // values of the field
		server  []string
		want    string
	}{
		{nil, nil, ""},
		{nil, []string{"chat"}, ""},
		{[]string{"chat"}, nil, ""},
		{[]string{"chat, superchat"}, []string{"superchat", "chat"}, "superchat"},
		{[]string{"chat, superchat"}, []string{"chat", "superchat"}, "chat"},
		{[]string{"chat", "superchat"}, []string{"superchat"}, "superchat"},
		{[]string{"chat,superchat", "mega"}, []string{"other", "mega", "chat"}, "mega"},
		{[]string{"chat, superchat"}, []string{"CHAT", "", "chat, superchat"}, ""},
		{[]string{",, chat ,"}, []string{"", "chat"}, "chat"},
		{[]string{"bearer, Zm9v/mI+YQ=="}, []string{"bearer"}, "bearer"},
		{[]string{"Zm9v/mI+YQ=="}, []string{"Zm9v/mI+YQ=="}, "Zm9v/mI+YQ=="},
	} {
		r := parsedRequest(t, rfcHead)
		r.Header["Sec-Websocket-Protocol"] = tt.offered
		w := newHijackWriter()
		h, err := Upgrade(w, r, &Options{Origins: []string{"*"}, Protocols: tt.server})
		if err != nil || h.Request().Protocol != tt.want {
			t.Errorf("%q of %q: %v", tt.offered, tt.server, err)
			continue
		}
		checkResponse(t, h.Request(), w.conn.written())
	}
}

// The token of a refused client of hixie-76 is not taken for a request.
func TestUpgradeHixieRefusedOnce(t *testing.T) {
	t.Parallel()
	for _, edit := range [][2]string{{"GET", "POST"}, {"Upgrade: WebSocket", "Upgrade: other"}} {
		u := newUpgrader(nil)
		conn := serveMem(t, u, nil).dial(t)
		sent := send(conn, editHead(t, hixieHead, edit[0], edit[1])+hixieToken+"\r\n\r\n")
		readRefusal(t, conn)
		u.refused(t)
		conn.Close()
		wait(t, sent)
	}
}

// A field that the handshake sets is in the response once, however the handler spells it.
func TestUpgradeFieldsSpelled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Sec-WebSocket-Protocol", "Sec-WebSocket-Accept", "upgrade", "CONNECTION", "transfer-encoding"} {
		w := newHijackWriter()
		w.Header()[name] = []string{"evil"}
		if _, err := Upgrade(w, parsedRequest(t, rfcHead), &Options{Origins: []string{"*"}}); err != nil {
			t.Fatal(err)
		}
		if out := string(w.conn.written()); strings.Contains(out, "evil") {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// A refusal names the version that is spoken as RFC 6455 spells it, for clients that heed
// case.
func TestUpgradeRefusalSpelled(t *testing.T) {
	t.Parallel()
	s := serveTCP(t, newUpgrader(nil), false)
	conn := dialTCP(t, s)
	send(conn, editHead(t, rfcHead, "Version: 13", "Version: 8"))
	if head := readHead(conn); !strings.Contains(head, "\r\nSec-WebSocket-Version: 13\r\n") {
		t.Errorf("the refusal is %q", head)
	}
}

// A subprotocol with CR LF comes into no response, even if the server lists it.
func TestUpgradeProtocolInjection(t *testing.T) {
	t.Parallel()
	const bad = "a\r\nInjected: yes"
	r := parsedRequest(t, editHead(t, hixieHead, "Connection:", "Content-Length: 8\r\nConnection:")+hixieToken)
	r.Header.Set("Sec-WebSocket-Protocol", bad)
	w := newHijackWriter()
	_, err := Upgrade(w, r, &Options{Origins: []string{"*"}, Protocols: []string{bad}})
	if out := string(w.conn.written()); strings.Contains(out, "\r\nInjected") {
		t.Errorf("%v, %q", err, out)
	}
}

// A connHijacker is a writer of another server's than net/http's, with its connection.
type connHijacker struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (w connHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// Deadlines that another server than net/http has left on its connection were for the request.
func TestUpgradeForeignDeadlines(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		for _, timeout := range []time.Duration{0, -1} {
			for _, left := range []time.Duration{-time.Second, time.Second} {
				t.Run(fmt.Sprintf("%s/%v/%v", c.name, timeout, left), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						a, b := net.Pipe()
						defer b.Close()
						head, token, _ := strings.Cut(c.hello, "\r\n\r\n")
						r := parsedRequest(t, head+"\r\n\r\n")
						a.SetDeadline(time.Now().Add(left))
						go io.WriteString(b, token)
						response := make(chan *http.Response, 1)
						br := bufio.NewReader(b)
						go func() {
							resp, _ := http.ReadResponse(br, nil)
							io.CopyN(io.Discard, br, int64(2*len(token)))
							response <- resp
						}()
						h, err := Upgrade(connHijacker{httptest.NewRecorder(), a}, r, &Options{Origins: []string{"*"}, HandshakeTimeout: timeout})
						if err != nil {
							t.Fatal(err)
						}
						defer h.CloseNow()
						if resp := wait(t, response); resp == nil || resp.StatusCode != 101 {
							t.Fatalf("%v", resp)
						}
						time.AfterFunc(time.Hour, func() { io.WriteString(b, c.frames[0]) })
						if p, err := GetFrame(h); err != nil || string(p) != c.messages[0] {
							t.Errorf("got %q, %v", p, err)
						}
						put := goErr(func() error { return PutFrame(h, []byte("meow")) })
						if _, err := br.ReadByte(); err != nil {
							t.Error(err)
						}
						b.Close()
						wait(t, put)
					})
				})
			}
		}
	}
}

// A client that does not read the response does not hold up Upgrade for ever.
func TestUpgradeUnread(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		timeout, write time.Duration
		sent           string
	}{
		{"101", 3 * time.Second, 8 * time.Second, rfcHead},
		{"101, default", 0, 15 * time.Second, rfcHead},
		{"101, no limit", -1, 0, rfcHead},
		{"101 of hixie-76", 3 * time.Second, 8 * time.Second, hixieHead + hixieToken},
		{"408 of hixie-76", 3 * time.Second, 8 * time.Second, hixieHead},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpgrader(&Options{Origins: []string{"*"}, HandshakeTimeout: tt.timeout})
				conn := serveMem(t, u, nil).dial(t)
				start := time.Now()
				if err := wait(t, send(conn, tt.sent)); err != nil {
					t.Fatal(err)
				}
				if tt.write == 0 {
					time.Sleep(time.Hour)
					if len(u.result) > 0 {
						t.Error("Upgrade has returned")
					}
					conn.Close()
					wait(t, u.result)
					return
				}
				res := wait(t, u.result)
				if d := time.Since(start); res.c != nil || !errors.Is(res.err, os.ErrDeadlineExceeded) || d != tt.write {
					t.Errorf("%v, %v after %v, want a timeout after %v", res.c, res.err, d, tt.write)
				}
				io.Copy(io.Discard, conn) // until the server closes it
			})
		})
	}
}
