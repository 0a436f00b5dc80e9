package websocket

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// TestClientRequest checks what clients of both kinds send, byte by byte, apart from
// the key.
func TestClientRequest(t *testing.T) {
	const plain = "GET / HTTP/1.1\r\nHost: h.example\r\n"
	for _, test := range []struct {
		name  string
		url   string
		o     *Options
		start string   // request line and Host
		with  []string // further fields
		req   Request  // but Key and Header
	}{
		{"plain", "ws://h.example", nil, plain, nil, Request{Host: "h.example", Path: "/"}},
		{"TLS", "wss://h.example/", nil, plain, nil, Request{Host: "h.example", Path: "/", Secure: true}},
		{"default port", "ws://h.example:80/", nil, "GET / HTTP/1.1\r\nHost: h.example:80\r\n", nil,
			Request{Host: "h.example:80", Path: "/"}},
		{"port", "ws://h.example:8080/a", nil, "GET /a HTTP/1.1\r\nHost: h.example:8080\r\n", nil,
			Request{Host: "h.example:8080", Path: "/a"}},
		{"no number of a port", "ws://h.example:/a", nil, "GET /a HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/a"}},
		{"IPv6", "ws://[::1]:8080/", nil, "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n", nil,
			Request{Host: "[::1]:8080", Path: "/"}},
		{"query", "ws://h.example?a=b&c", nil, "GET /?a=b&c HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/?a=b&c"}},
		{"empty query", "ws://h.example/?", nil, "GET /? HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/?"}},
		{"path as given", "ws://h.example//a/./../%2F%41;x,y:@z?q=%20+%zz/?", nil,
			"GET //a/./../%2F%41;x,y:@z?q=%20+%zz/? HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "//a/./../%2F%41;x,y:@z?q=%20+%zz/?"}},
		{"path to be escaped", "ws://h.example/ä b", nil, "GET /%C3%A4%20b HTTP/1.1\r\nHost: h.example\r\n", nil,
			Request{Host: "h.example", Path: "/%C3%A4%20b"}},
		{"user", "ws://Aladdin:open%20sesame@h.example/", nil, plain,
			[]string{"Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}, Request{Host: "h.example", Path: "/"}},
		{"user without a password", "ws://Aladdin@h.example/", nil, plain,
			[]string{"Authorization: Basic QWxhZGRpbjo="}, Request{Host: "h.example", Path: "/"}},
		{"user and Authorization", "ws://a:b@h.example/", &Options{Header: http.Header{"Authorization": {"Bearer x"}}}, plain,
			[]string{"Authorization: Bearer x"}, Request{Host: "h.example", Path: "/"}},
		{"one subprotocol", "ws://h.example", &Options{Protocols: []string{"chat"}}, plain,
			[]string{"Sec-WebSocket-Protocol: chat"}, Request{Host: "h.example", Path: "/", Protocols: []string{"chat"}}},
		{"subprotocols", "ws://h.example", &Options{Protocols: []string{"v2.chat", "chat", "Chat"}}, plain,
			[]string{"Sec-WebSocket-Protocol: v2.chat, chat, Chat"},
			Request{Host: "h.example", Path: "/", Protocols: []string{"v2.chat", "chat", "Chat"}}},
		{"fields", "ws://h.example", &Options{Header: http.Header{"X-A": {"1", "2"}, "x-b": {"ä\t "}, "X-Empty": {""}, "X-None": nil}}, plain,
			[]string{"X-A: 1", "X-A: 2", "x-b: ä", "X-Empty: "}, Request{Host: "h.example", Path: "/"}},
		{"fields as they are spelled", "ws://h.example", &Options{Header: http.Header{"X-API-KEY": {"1"}, "SOAPAction": {"a"}, "origin": {"http://o"}, "sec-websocket-x": {"y"}}}, plain,
			[]string{"X-API-KEY: 1", "SOAPAction: a", "origin: http://o", "sec-websocket-x: y"}, Request{Host: "h.example", Path: "/", Origin: "http://o"}},
		{"fields of net/http", "ws://h.example", &Options{Header: http.Header{"cookie": {"a=b"}, "AUTHORIZATION": {"Bearer x"}, "referer": {"http://r/"}}}, plain,
			[]string{"Cookie: a=b", "Authorization: Bearer x", "Referer: http://r/"}, Request{Host: "h.example", Path: "/"}},
		{"extensions", "ws://h.example", &Options{Deflate: &Deflate{ContextTakeover: true}}, plain,
			[]string{"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"}, Request{Host: "h.example", Path: "/"}},
		{"Host", "ws://h.example:81/a", &Options{Header: http.Header{"Host": {"other.example:82"}}},
			"GET /a HTTP/1.1\r\nHost: other.example:82\r\n", nil, Request{Host: "other.example:82", Path: "/a"}},
		{"host in lower case", "ws://h.example", &Options{Header: http.Header{"host": {"other.example"}}},
			"GET / HTTP/1.1\r\nHost: other.example\r\n", nil, Request{Host: "other.example", Path: "/"}},
		{"Origin", "ws://h.example", &Options{Header: http.Header{"Origin": {"https://o.example"}}}, plain,
			[]string{"Origin: https://o.example"}, Request{Host: "h.example", Path: "/", Origin: "https://o.example"}},
		{"User-Agent", "ws://h.example", &Options{Header: http.Header{"User-Agent": {"me/1"}}}, plain,
			[]string{"User-Agent: me/1"}, Request{Host: "h.example", Path: "/"}},
		{"user-agent", "ws://h.example", &Options{Header: http.Header{"user-agent": {"me/1"}}}, plain,
			[]string{"User-Agent: me/1"}, Request{Host: "h.example", Path: "/"}},
		{"no User-Agent", "ws://h.example", &Options{Header: http.Header{"User-Agent": {""}}}, plain,
			nil, Request{Host: "h.example", Path: "/"}},
		{"Cookie", "ws://h.example", &Options{Header: http.Header{"Cookie": {"a=b; c=d"}}}, plain,
			[]string{"Cookie: a=b; c=d"}, Request{Host: "h.example", Path: "/"}},
	} {
		for _, via := range connectors {
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				var before http.Header
				if test.o != nil {
					before = test.o.Header.Clone()
				}
				heads := make(chan string, 1)
				c, err := via.connect(t, t.Context(), test.url, test.o, func(conn net.Conn) {
					heads <- answer(conn, accepting)
					io.Copy(io.Discard, conn)
				})
				if err != nil {
					t.Fatal(err)
				}
				head := wait(t, heads)
				fields, ok := strings.CutPrefix(head, test.start)
				if !ok {
					t.Errorf("the request begins as %q instead of %q", head, test.start)
				}
				key := headField(head, "Sec-WebSocket-Key")
				if p, err := base64.StdEncoding.DecodeString(key); err != nil || len(p) != 16 {
					t.Errorf("the key %q is not 16 bytes in base64", key) // RFC 6455, section 4.1, item 7
				}
				// Each field exactly once, in whatever order.
				want := append([]string{
					"Connection: Upgrade",
					"Upgrade: websocket",
					"Sec-WebSocket-Key: " + key,
					"Sec-WebSocket-Version: 13",
				}, test.with...)
				if via.name == "Dial" {
					want = append(want, "Accept-Encoding: gzip") // for the body of a refusal
				}
				if !strings.Contains(strings.ToLower(test.name), "user-agent") {
					want = append(want, "User-Agent: Go-http-client/1.1")
				}
				got := strings.Split(strings.TrimSuffix(fields, "\r\n\r\n"), "\r\n")
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("the request has the fields\n\t%q instead of\n\t%q", got, want)
				}

				req := *c.Request()
				if req.Key != key || req.Header.Get("Sec-WebSocket-Key") != key {
					t.Errorf("Request has the key %q instead of %q", req.Key, key)
				}
				for _, f := range test.with {
					if name, value, _ := strings.Cut(f, ": "); !slices.ContainsFunc(req.Header.Values(name), func(v string) bool { return strings.TrimSpace(v) == value }) {
						t.Errorf("Request.Header lacks %q", f)
					}
				}
				if req.ResponseHeader.Get("Upgrade") != "websocket" {
					t.Errorf("Request has the response %v", req.ResponseHeader)
				}
				test.req.Version, req.Header, req.Key, req.ResponseHeader = RFC6455, nil, "", nil
				if !reflect.DeepEqual(req, test.req) {
					t.Errorf("Request is %+v instead of %+v", req, test.req)
				}
				if test.o != nil && !reflect.DeepEqual(test.o.Header, before) {
					t.Errorf("Options.Header has changed from %v to %v", before, test.o.Header)
				}
			})
		}
	}
}

// TestClientKey finds that no two requests have the same key (RFC 6455, section 4.1,
// item 7).
func TestClientKey(t *testing.T) {
	seen := map[string]bool{}
	for _, via := range connectors {
		for range 5 {
			c, err := via.connect(t, t.Context(), "ws://h.example", nil, answerWith(accepting))
			if err != nil {
				t.Fatal(err)
			}
			seen[c.Request().Key] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("10 requests have %d keys", len(seen))
	}
}

func TestClientProtocol(t *testing.T) {
	for _, test := range []struct {
		server, client []string
		want           string
	}{
		{nil, nil, ""},
		{nil, []string{"a"}, ""},
		{[]string{"a"}, nil, ""},
		{[]string{"a", "b"}, []string{"b", "a"}, "a"},
		{[]string{"c", "b"}, []string{"a", "b"}, "b"},
	} {
		s := httptest.NewServer(echoHandler(&Options{Protocols: test.server}))
		o := &Options{Protocols: slices.Clone(test.client)}
		c, err := Dial(t.Context(), s.URL, o)
		if err != nil {
			t.Fatal(err)
		}
		clear(o.Protocols) // they have been copied
		if r := c.Request(); r.Protocol != test.want || !slices.Equal(r.Protocols, test.client) {
			t.Errorf("a client of %q at a server of %q: %q of %q", test.client, test.server, r.Protocol, r.Protocols)
		}
		checkEchoes(t, c)
		c.Close()
		s.Close()
	}
}

// TestClientFirstFrames finds that no frame is lost which comes together with the
// response, or cut anywhere.
func TestClientFirstFrames(t *testing.T) {
	small := accepting + string(appendFrame(appendFrame(nil, finBit|opText, []byte("one"), false), finBit|opText, []byte("two"), false))
	for _, via := range connectors {
		size := len(small) - len("{accept}") + 28
		for cut := range size {
			c, err := via.connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
				b := answerTo(readHead(conn), small)
				conn.Write(b[:cut])
				conn.Write(b[cut:])
				io.Copy(io.Discard, conn)
			})
			if err != nil {
				t.Fatalf("%s, cut at %d: %v", via.name, cut, err)
			}
			for _, want := range []string{"one", "two"} {
				if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
					t.Fatalf("%s, cut at %d: read %q, %v instead of %q", via.name, cut, p, err, want)
				}
			}
			c.CloseNow()
		}
	}
}

// TestClientTimeout finds out how long a handshake may take. What follows may take as
// long as it wants.
func TestClientTimeout(t *testing.T) {
	const never = -1
	for _, test := range []struct {
		name                string
		handshake, ofClient time.Duration // timeouts
		want                time.Duration
	}{
		{"default", 0, 0, 10 * time.Second},
		{"of Options", 3 * time.Second, 0, 3 * time.Second},
		{"longer than the default", time.Minute, 0, time.Minute},
		{"of the http.Client", 0, 2 * time.Second, 2 * time.Second},
		{"of the http.Client, but no other", -1, time.Hour, time.Hour},
		{"of both, Options first", time.Second, 2 * time.Second, time.Second},
		{"of both, http.Client first", 2 * time.Second, time.Second, time.Second},
		{"the http.Client's is longer than the default", 0, time.Hour, 10 * time.Second},
		{"none", -1, 0, never},
	} {
		for _, via := range connectors {
			if via.name == "ClientHandshake" && test.ofClient != 0 {
				continue
			}
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					connect := func(serve func(net.Conn)) (*Conn, time.Duration, error) {
						o := &Options{HandshakeTimeout: test.handshake}
						if via.name == "Dial" {
							o.HTTPClient = memoryClient(t, serve)
							o.HTTPClient.Timeout = test.ofClient
							before := *o.HTTPClient
							defer func() {
								if !reflect.DeepEqual(*o.HTTPClient, before) {
									t.Errorf("the http.Client has changed from %+v to %+v", before, *o.HTTPClient)
								}
							}()
						}
						start := time.Now()
						c, err := via.connect(t, t.Context(), "ws://h.example", o, serve)
						return c, time.Since(start), err
					}
					if test.want == never {
						c, d, err := connect(func(conn net.Conn) {
							b := answerTo(readHead(conn), accepting)
							time.Sleep(24 * time.Hour)
							conn.Write(b)
							io.Copy(io.Discard, conn)
						})
						if err != nil || d != 24*time.Hour {
							t.Fatalf("%v, %v after %v", c, err, d)
						}
						c.CloseNow()
						return
					}
					// Byte by byte, and too slowly.
					late := func(conn net.Conn) {
						b := answerTo(readHead(conn), accepting)
						for i := range b {
							time.Sleep(test.want/time.Duration(len(b)) + 1)
							conn.Write(b[i : i+1])
						}
						io.Copy(io.Discard, conn)
					}
					// Without an end.
					silent := func(conn net.Conn) {
						readHead(conn)
						io.WriteString(conn, accepting[:len(accepting)-2])
						io.Copy(io.Discard, conn)
					}
					for name, serve := range map[string]func(net.Conn){"late": late, "silent": silent} {
						c, d, err := connect(serve)
						if timeout, ok := errors.AsType[net.Error](err); c != nil || !ok || !timeout.Timeout() || d != test.want {
							t.Errorf("%s: %v, %v after %v instead of a timeout after %v", name, c, err, d, test.want)
						}
					}
					// Just in time.
					c, d, err := connect(func(conn net.Conn) {
						b := answerTo(readHead(conn), accepting)
						for i := range b {
							time.Sleep((test.want - 1) / time.Duration(len(b)))
							conn.Write(b[i : i+1])
						}
						h := newConn(conn, nil, false)
						echo(h)
						h.Close()
					})
					if err != nil {
						t.Fatalf("%v after %v", err, d)
					}
					checkEchoes(t, c)
					time.Sleep(2 * time.Hour)
					checkEchoes(t, c)
					c.Close()
				})
			})
		}
	}
}

// A hostileServer answers with what is not an opening handshake.
type hostileServer struct {
	name   string
	answer string
	repeat string // follows without an end
	end    bool   // the server closes the connection behind it
	status int    // of the HandshakeError, or 0 for another error
	field  string
	text   string // within the error; if empty, only Dial's or ClientHandshake's own words matter
	body   string // of the refusal
	pooled bool   // the connection can serve another request
}

// hostileServers returns servers that no client may take for one of WebSocket (RFC
// 6455, section 4.1).
func hostileServers() (all []hostileServer) {
	const upgrade, connection, accept = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n", "Sec-WebSocket-Accept: {accept}\r\n"
	bad := func(name, field, text string, fields ...string) {
		all = append(all, hostileServer{name: name, status: 502, field: field, text: text,
			answer: "HTTP/1.1 101 Switching Protocols\r\n" + strings.Join(fields, "") + "\r\n"})
	}
	const wrong, offered = "does not fit the key", "that was not offered"
	bad("no accept value", "Sec-WebSocket-Accept", wrong, upgrade, connection)
	bad("empty accept value", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept:\r\n")
	bad("accept value for another key", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
	bad("longer accept value", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept: {accept}=\r\n")
	bad("accept values in a list", "Sec-WebSocket-Accept", wrong, upgrade, connection, "Sec-WebSocket-Accept: {accept}, {accept}\r\n")
	bad("accept value repeated", "Sec-WebSocket-Accept", "is repeated", upgrade, connection, accept, accept)
	bad("no Upgrade", "Upgrade", "is not websocket", connection, accept)
	bad("empty Upgrade", "Upgrade", "is not websocket", "Upgrade:\r\n", connection, accept)
	bad("other Upgrade", "Upgrade", "is not websocket", "Upgrade: websocket2\r\n", connection, accept)
	bad("list of protocols", "Upgrade", "is not websocket", "Upgrade: h2c, websocket\r\n", connection, accept)
	bad("list of one protocol", "Upgrade", "is not websocket", "Upgrade: websocket,\r\n", connection, accept)
	bad("Upgrade repeated", "Upgrade", "is not websocket", "Upgrade: h2c\r\n", upgrade, connection, accept)
	bad("no Connection", "Connection", "does not hold upgrade", upgrade, accept)
	bad("other Connection", "Connection", "does not hold upgrade", upgrade, "Connection: close\r\n", accept)
	bad("subprotocol", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol: super\r\n")
	bad("subprotocol in other case", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol: CHAT\r\n")
	bad("two subprotocols", "Sec-WebSocket-Protocol", offered, upgrade, connection, accept, "Sec-WebSocket-Protocol: chat, more\r\n")
	bad("subprotocol repeated", "Sec-WebSocket-Protocol", "is repeated", upgrade, connection, accept, "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n")
	bad("extension", "Sec-WebSocket-Extensions", offered, upgrade, connection, accept, "Sec-WebSocket-Extensions: permessage-deflate\r\n")

	refuse := func(name string, status int, fields, body, want string, pooled, end bool) {
		all = append(all, hostileServer{name: name, status: status, text: fmt.Sprint("the server answered ", status), body: want, pooled: pooled, end: end,
			answer: fmt.Sprintf("HTTP/1.1 %d What\r\nX-Why: because\r\n%s\r\n%s", status, fields, body)})
	}
	length := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(body)) }
	long := strings.Repeat("body ", 1000)
	refuse("200", 200, length("hello"), "hello", "hello", true, false)
	refuse("200 with the fields of 101", 200, upgrade+connection+accept+length("hello"), "hello", "hello", true, false)
	refuse("204", 204, "", "", "", true, false)
	refuse("401", 401, "WWW-Authenticate: Basic\r\n"+length("no"), "no", "no", true, false)
	refuse("404 to the end", 404, "", "nowhere", "nowhere", false, true)
	refuse("404 in chunks", 404, "Transfer-Encoding: chunked\r\n", "3\r\nnow\r\n4\r\nhere\r\n0\r\n\r\n", "nowhere", true, false)
	refuse("404 without an end", 404, "", "nowhere", "nowhere", false, false)
	refuse("426", 426, "Sec-WebSocket-Version: 8\r\n"+length(""), "", "", true, false)
	refuse("500 with a long body", 500, length(long), long, long[:maxRefusal], false, true)
	refuse("500 cut short", 500, length(long), "body", "body", false, true)
	refuse("599", 599, length(""), "", "", true, false)

	other := func(name, answer, text string, end bool) {
		all = append(all, hostileServer{name: name, answer: answer, text: text, end: end})
	}
	other("nothing", "", "EOF", true)
	other("silence", "", "", false)
	other("no end of the head", accepting[:len(accepting)-2], "", false)
	other("garbage", "\x00\x01\x02\r\n\r\n", "malformed HTTP", false)
	other("SSH", "SSH-2.0-OpenSSH_9.9\r\n", "malformed HTTP", false)
	other("a frame", "\x81\x05hello\r\n\r\n", "malformed HTTP", false)
	other("HTTP/x", "HTTP/x.y 101 Switching Protocols\r\n\r\n", "malformed HTTP version", false)
	other("no status", "HTTP/1.1 abc Switching Protocols\r\n\r\n", "malformed HTTP status", false)
	other("no colon", "HTTP/1.1 101 Switching Protocols\r\nUpgrade websocket\r\n\r\n", "malformed MIME header", false)
	other("interim response only", "HTTP/1.1 100 Continue\r\n\r\n", "", false)

	const status = "HTTP/1.1 101 Switching Protocols\r\n"
	endless := func(name, answer, repeat string) {
		all = append(all, hostileServer{name: name, answer: answer, repeat: repeat})
	}
	endless("endless status line", "HTTP/1.1 101 ", "x")
	endless("endless field name", status, "x")
	endless("endless value", status+"X: ", "x")
	endless("endless fields", status, "X: y\r\n")
	endless("endless folded value", status+"X: ", "y\r\n ")
	endless("endless interim responses", "", "HTTP/1.1 103 Early Hints\r\n\r\n")
	endless("endless zeros", "", "\x00")
	all = append(all,
		hostileServer{name: "endless body", answer: "HTTP/1.1 404 Not Found\r\nX-Why: because\r\n\r\n", repeat: "body ", status: 404, text: "404 Not Found", body: long[:maxRefusal]},
		hostileServer{name: "endless chunks", answer: "HTTP/1.1 404 Not Found\r\nX-Why: because\r\nTransfer-Encoding: chunked\r\n\r\n", repeat: "a\r\nbody body \r\n", status: 404, text: "404 Not Found", body: "body "})
	return all
}

// TestHostileServers finds that clients fail with a clear error, in time, within bounds
// of memory, and without leaving anything behind.
func TestHostileServers(t *testing.T) {
	const timeout, most = 3 * time.Second, 1 << 20
	for _, test := range hostileServers() {
		for _, via := range connectors {
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					received := make(chan string, 1) // what the client sends after its request
					serve := func(conn net.Conn) {
						text := answerTo(readHead(conn), test.answer)
						rest := make(chan string, 1)
						go func() {
							b, _ := io.ReadAll(conn)
							rest <- string(b)
						}()
						conn.Write(text)
						if test.repeat != "" {
							many := []byte(strings.Repeat(test.repeat, 4096/len(test.repeat)))
							for n := 0; n < 16<<20; n += len(many) {
								if _, err := conn.Write(many); err != nil {
									break
								}
							}
						}
						if test.end {
							conn.Close()
						}
						received <- <-rest
					}
					o := &Options{HandshakeTimeout: timeout, Protocols: []string{"chat"}}
					var stream, peer net.Conn
					var c *Conn
					var err error
					start := time.Now()
					size := allocated(func() {
						if via.name == "Dial" {
							o.HTTPClient = memoryClient(t, serve)
							c, err = Dial(t.Context(), "ws://h.example", o)
						} else {
							stream, peer = net.Pipe()
							go func() {
								defer peer.Close()
								serve(peer)
							}()
							c, err = ClientHandshake(stream, "ws://h.example", o)
						}
					})
					if c != nil || err == nil {
						t.Fatalf("%v, %v", c, err)
					}
					if !strings.Contains(err.Error(), test.text) {
						t.Errorf("the error is %q instead of %q", err, test.text)
					}
					if size > most {
						t.Errorf("%d bytes were allocated", size)
					}
					if d := time.Since(start); d > timeout {
						t.Errorf("it took %v", d)
					} else if n, ok := errors.AsType[net.Error](err); d == timeout && test.status == 0 && !(ok && n.Timeout()) {
						t.Errorf("after the timeout the error is %v", err)
					}
					e, _ := errors.AsType[*HandshakeError](err)
					switch {
					case test.status == 0:
						if e != nil && !strings.Contains(e.Reason, "8 KiB") {
							t.Errorf("the error is %#v", e)
						}
					case e == nil || e.Status != test.status || e.Field != test.field:
						t.Errorf("the error is %#v instead of %d because of %q", err, test.status, test.field)
					case test.status == 502:
						if e.Response != nil {
							t.Errorf("the response is %v", e.Response)
						}
					default:
						if e.Response == nil || e.Response.StatusCode != test.status || e.Response.Header.Get("X-Why") != "because" {
							t.Fatalf("the refusal is %v", e.Response)
						}
						b, err := io.ReadAll(e.Response.Body)
						if !strings.HasPrefix(string(b), test.body) || len(b) > maxRefusal || test.repeat == "" && len(b) != len(test.body) || err != nil {
							t.Errorf("its body is %.20q (%d bytes), %v instead of %.20q (%d bytes)", b, len(b), err, test.body, len(test.body))
						}
					}

					// Dial closes the connection, or leaves it to the http.Client for other
					// requests. ClientHandshake leaves its stream as it was.
					const more = "still open"
					if stream == nil {
						if test.pooled {
							synctest.Wait()
							o.HTTPClient.CloseIdleConnections()
						}
						if got := wait(t, received); got != "" {
							t.Errorf("the client has sent %q", got)
						}
						return
					}
					if !test.end {
						time.Sleep(time.Hour) // no deadline is left
						if _, err := io.WriteString(stream, more); err != nil {
							t.Errorf("the stream is closed: %v", err)
						}
					}
					stream.Close()
					if got := wait(t, received); !test.end && got != more {
						t.Errorf("the client has sent %q", got)
					}
				})
			})
		}
	}
}

// TestUnusualServers has responses that are valid, or that do no harm.
func TestUnusualServers(t *testing.T) {
	field := func(f string) string { return strings.Replace(accepting, "\r\n\r\n", "\r\n"+f+"\r\n\r\n", 1) }
	for _, test := range []struct{ name, answer string }{
		{"lower case", strings.NewReplacer("Upgrade: w", "upgrade: w", "Connection: U", "connection: u", "Sec-WebSocket-Accept", "sec-websocket-accept").Replace(accepting)},
		{"upper case", strings.NewReplacer("Upgrade: websocket", "UPGRADE: WEBSOCKET", "Connection: Upgrade", "CONNECTION: UPGRADE", "Sec-WebSocket-Accept", "SEC-WEBSOCKET-ACCEPT").Replace(accepting)},
		{"list", strings.NewReplacer("Connection: Upgrade", "Connection: keep-alive, , upgrade").Replace(accepting)},
		{"white space", strings.NewReplacer(": {accept}", ":\t {accept} \t").Replace(accepting)},
		{"no white space", strings.ReplaceAll(accepting, ": ", ":")},
		{"LF", strings.ReplaceAll(accepting, "\r\n", "\n")},
		{"other phrase", strings.Replace(accepting, "Switching Protocols", "Web Socket Protocol Handshake", 1)},
		{"no phrase", strings.Replace(accepting, " Switching Protocols", "", 1)},
		{"Content-Length", field("Content-Length: 5")}, // means nothing (RFC 9110, section 8.6)
		{"Content-Length: 0", field("Content-Length: 0")},
		{"Transfer-Encoding", field("Transfer-Encoding: chunked")}, // likewise (RFC 9112, section 6.1)
		{"HTTP/1.0", strings.Replace(accepting, "HTTP/1.1", "HTTP/1.0", 1)},
		{"subprotocol", field("Sec-WebSocket-Protocol: chat")},
		{"empty subprotocol", field("Sec-WebSocket-Protocol:")}, // as if absent
		{"empty subprotocols", field("Sec-WebSocket-Protocol:\r\nSec-WebSocket-Protocol: \t")},
		{"empty extensions", field("Sec-WebSocket-Extensions:")},
		{"no element of extensions", field("Sec-WebSocket-Extensions: ,\r\nSec-WebSocket-Extensions: , ,")},
		{"Continue", "HTTP/1.1 100 Continue\r\n\r\n" + accepting},
		{"hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + accepting},
		{"long", field("X: " + strings.Repeat("x", 7000))},
	} {
		for _, via := range connectors {
			t.Run(test.name+"/"+via.name, func(t *testing.T) {
				c, err := via.connect(t, t.Context(), "ws://h.example", &Options{Protocols: []string{"chat"}}, func(conn net.Conn) {
					conn.Write(append(answerTo(readHead(conn), test.answer), firstFrames()...))
					h := newConn(conn, nil, false)
					echo(h)
					h.Close()
				})
				if err != nil {
					t.Fatal(err)
				}
				checkFirst(t, c)
				checkEchoes(t, c)
				want := ""
				if test.name == "subprotocol" {
					want = "chat"
				}
				if r := c.Request(); r.Protocol != want || r.Extensions != "" {
					t.Errorf("agreed on %q and %q", r.Protocol, r.Extensions)
				}
				c.Close()
			})
		}
	}
}

// TestClientMasked sends a client masked frames (RFC 6455, section 5.1).
func TestClientMasked(t *testing.T) {
	for _, via := range connectors {
		frames := make(chan []byte, 1)
		c, err := via.connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
			conn.Write(append(answerTo(readHead(conn), accepting), appendFrame(nil, finBit|opText, []byte("x"), true)...))
			b, _ := io.ReadAll(conn)
			frames <- b
		})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = c.ReadMessage()
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != CloseProtocolError {
			t.Errorf("%s: %v", via.name, err)
		}
		c.Close()
		got := parseSent(t, c, wait(t, frames))
		if len(got) != 1 || got[0].opcode != opClose || !strings.HasPrefix(got[0].payload, closing(CloseProtocolError, "")) {
			t.Errorf("%s: the client has sent %q", via.name, got)
		}
	}
}

// TestClientArguments finds faults before anything is sent.
func TestClientArguments(t *testing.T) {
	header := func(name, value string) *Options { return &Options{Header: http.Header{name: {value}}} }
	type argument struct {
		url  string
		o    *Options
		text string
	}
	const u = "ws://h.example/"
	tests := []argument{
		{"", nil, "scheme"},
		{"h.example", nil, "scheme"},
		{"//h.example/", nil, "scheme"},
		{"/path", nil, "scheme"},
		{"ftp://h.example/", nil, "scheme"},
		{"wsx://h.example/", nil, "scheme"},
		{"ws:", nil, "no host"},
		{"ws:/path", nil, "no host"},
		{"ws:h.example", nil, "no host"},
		{"ws:///path", nil, "no host"},
		{"ws://user@/path", nil, "no host"},
		{u + "#", nil, "fragment"}, // RFC 6455, section 3
		{u + "#a", nil, "fragment"},
		{u + "?#a", nil, "fragment"},
		{u + "\r\nX: y", nil, "control character"},
		{u + "\x00", nil, "control character"},
		{u + "?\x7f", nil, "control character"},
		{"ws://h.example\n/", nil, "control character"},
		{"ws://h example/", nil, "invalid character"},
		{"ws://h.example:port/", nil, "invalid port"},
		{"ws://[::1/", nil, "]"},
		{u + "%zz", nil, "invalid URL escape"},
		{u, header("X", "a\r\nY: b"), "control character"},
		{u, header("X", "a\nb"), "control character"},
		{u, header("X", "\x00"), "control character"},
		{u, header("X", "\x7f"), "control character"},
		{u, header("Host", "h\r\nX: y"), "control character"},
		{u, header("Origin", "a\rb"), "control character"},
		{u, header("", "a"), "must not have"},
		{u, header("X Y", "a"), "must not have"},
		{u, header("X:", "a"), "must not have"},
		{u, header("X\r\nY", "a"), "must not have"},
		{u, header("Ä", "a"), "must not have"},
		{u, &Options{Protocols: []string{"chat", "chat"}}, "twice"},
	}
	for _, name := range []string{"Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer", "Sec-WebSocket-Key",
		"Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Sec-WebSocket-Accept"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			tests = append(tests, argument{u, header(name, "a"), "must not have the field"})
		}
	}
	for _, p := range []string{"", " ", "a b", "a,b", "a\r\nb", "ä", "a/b", "\"a\""} {
		tests = append(tests, argument{u, &Options{Protocols: []string{"chat", p}}, "no token"})
	}
	for _, test := range tests {
		for _, via := range connectors {
			c, err := via.connect(t, t.Context(), test.url, test.o, func(conn net.Conn) {
				if head := readHead(conn); head != "" {
					t.Errorf("%s(%q, %+v) has sent %q", via.name, test.url, test.o, head)
				}
			})
			if c != nil || err == nil || !strings.HasPrefix(err.Error(), "websocket: ") || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%s(%q, %+v): %v instead of %q", via.name, test.url, test.o, err, test.text)
			}
			if _, ok := errors.AsType[*HandshakeError](err); ok && test.o == nil {
				t.Errorf("%s(%q) blames the server: %v", via.name, test.url, err)
			}
		}
	}
}

// TestClientHandshake shakes hands over streams of all kinds.
func TestClientHandshake(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS() // for its certificate
	s.Close()
	for _, test := range []struct {
		name string
		open func(t *testing.T) (server, client net.Conn)
		wrap func(client, server net.Conn) (io.ReadWriter, net.Conn)
		idle bool // waits without a buffer
	}{
		{"pipe", nil, nil, false},
		{"TCP", func(t *testing.T) (_, _ net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") }, nil, true},
		{"TLS", func(t *testing.T) (_, _ net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") }, func(client, server net.Conn) (io.ReadWriter, net.Conn) {
			roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			return tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "example.com"}),
				tls.Server(server, &tls.Config{Certificates: s.TLS.Certificates})
		}, false},
		{"io.ReadWriter", nil, func(client, server net.Conn) (io.ReadWriter, net.Conn) { return noClose{client}, server }, false},
		{"one byte a read", nil, func(client, server net.Conn) (io.ReadWriter, net.Conn) {
			return struct {
				io.Reader
				io.Writer
			}{iotest.OneByteReader(client), client}, server
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := test.open
			if open == nil {
				open = func(t *testing.T) (_, _ net.Conn) { return net.Pipe() }
			}
			server, client := open(t)
			defer server.Close()
			defer client.Close()
			rw := io.ReadWriter(client)
			if test.wrap != nil {
				rw, server = test.wrap(client, server)
			}
			served := goErr(func() error {
				h := NewConn(server, nil)
				req, err := GetRequest(h)
				if err != nil {
					return err
				}
				server.Write(append(CreateResponse(req), firstFrames()...))
				return echo(newConn(server, nil, false))
			})
			c, err := ClientHandshake(rw, "wss://h.example/chat", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.t.raw != nil; got != (test.idle && runtime.GOOS != "windows") {
				t.Errorf("waits on the socket: %v", got)
			}
			checkFirst(t, c)
			checkEchoes(t, c)
			if d, ok := rw.(net.Conn); ok {
				checkDeadline(t, c)
				if c.RemoteAddr() != d.RemoteAddr() || c.LocalAddr() != d.LocalAddr() {
					t.Errorf("the addresses are %v and %v", c.LocalAddr(), c.RemoteAddr())
				}
			} else if err := c.SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
				t.Errorf("SetDeadline: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			client.Close() // which c cannot do in all cases
			if err := wait(t, served); !errors.Is(err, io.EOF) {
				t.Errorf("the server ended with %v", err)
			}
		})
	}
}

// TestClientHandshakeSize has responses of the largest size that is accepted, and larger,
// with frames behind them.
func TestClientHandshakeSize(t *testing.T) {
	for size := maxHead - 2; size <= maxHead+2; size++ {
		c, err := connectors[1].connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
			b := answerTo(readHead(conn), strings.TrimSuffix(accepting, "\r\n")+"X: ")
			b = append(b, strings.Repeat("x", size-len(b)-4)...)
			b = append(b, "\r\n\r\n"...)
			if len(b) != size {
				t.Errorf("the head has %d bytes", len(b))
			}
			conn.Write(append(b, firstFrames()...))
			io.Copy(io.Discard, conn)
		})
		if size <= maxHead {
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			checkFirst(t, c)
			c.CloseNow()
		} else if e, ok := errors.AsType[*HandshakeError](err); !ok || !strings.Contains(e.Reason, "8 KiB") {
			t.Errorf("%d bytes: %v, %v", size, c, err)
		}
	}
}

// TestClientHandshakeWrite has a stream that takes no request.
func TestClientHandshakeWrite(t *testing.T) {
	broken := errors.New("broken")
	rw := struct {
		io.Reader
		io.Writer
	}{strings.NewReader(""), writeFunc(func([]byte) (int, error) { return 0, broken })}
	if c, err := ClientHandshake(rw, "ws://h.example", nil); c != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestClientHandshakeCut ends the response within a line. http.ReadResponse then finds
// fault with the line and keeps the transport's error to itself.
func TestClientHandshakeCut(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(net.Conn)
		want error
	}{
		{"timeout", func(conn net.Conn) { io.Copy(io.Discard, conn) }, os.ErrDeadlineExceeded},
		{"end", func(net.Conn) {}, io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for cut := range accepting {
					a, b := net.Pipe()
					go func() {
						answer(b, accepting[:cut])
						test.end(b)
						b.Close()
					}()
					_, err := ClientHandshake(a, "ws://h.example", &Options{HandshakeTimeout: time.Second})
					if !errors.Is(err, test.want) {
						t.Errorf("after %q: %v instead of %v", accepting[:cut], err, test.want)
					}
					a.Close()
				}
			})
		})
	}
}

// TestClientHandshakeInterim sends informational responses ahead of the final one, which
// every client has to be able to parse (RFC 9110, section 15.2).
func TestClientHandshakeInterim(t *testing.T) {
	for _, via := range connectors {
		t.Run(via.name, func(t *testing.T) {
			c, err := via.connect(t, t.Context(), "ws://h.example", nil, func(conn net.Conn) {
				answer(conn, "HTTP/1.1 100 Continue\r\n\r\n"+
					"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"+
					accepting)
				h := newConn(conn, nil, false)
				echo(h)
				h.Close()
			})
			if err != nil {
				t.Fatal(err)
			}
			checkEchoes(t, c)
			c.Close()
		})
	}
}

// TestClientHost has values for Host that net/http would replace by an empty one.
func TestClientHost(t *testing.T) {
	for _, host := range []string{"a b", "a/b", "a\tb", "ä b", "a\"b"} {
		for _, via := range connectors {
			heads := make(chan string, 1)
			c, err := via.connect(t, t.Context(), "ws://h.example/", &Options{Header: http.Header{"Host": {host}}}, func(conn net.Conn) {
				heads <- answer(conn, accepting)
				io.Copy(io.Discard, conn)
			})
			if err == nil {
				t.Errorf("%s with Host %q sent %q", via.name, host, <-heads)
				c.CloseNow()
			}
		}
	}
}

// TestClientPassword finds no password in errors, which go to logs.
func TestClientPassword(t *testing.T) {
	for _, u := range []string{"ws://u:secret@h/#a", "ftp://u:secret@h/", "ws://u:secret@", "ws://u:secret@h/%zz", "ws://u:secret@h:x/"} {
		if _, err := ClientHandshake(nil, u, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

// TestClientURLErrors has errors show the URL as the caller has given it, apart from a
// password.
func TestClientURLErrors(t *testing.T) {
	for u, text := range map[string]string{
		"ftp://h/":               `the scheme of "ftp://h/"`,
		"ws:///path":             `the URL "ws:///path" has no host`,
		"wss:///path":            `the URL "wss:///path" has no host`,
		"https:///path":          `the URL "https:///path" has no host`,
		"ws://h/#a":              `the URL "ws://h/#a" has a fragment`,
		"wss://u:secret@h/?q#a":  `the URL "wss://u:xxxxx@h/?q#a" has a fragment`,
		"http://u:secret@h/?q#a": `the URL "http://u:xxxxx@h/?q#a" has a fragment`,
	} {
		_, err := Dial(t.Context(), u, nil)
		_, err2 := ClientHandshake(nil, u, nil)
		for _, err := range []error{err, err2} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%q: %v, want %s", u, err, text)
			}
		}
	}
}
