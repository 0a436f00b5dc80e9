package websocket

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// A refusedHead is a row of the table of what GetRequest refuses.
type refusedHead struct {
	rule     string
	head     string // what old and new edit; if old is empty, new replaces it
	old, new string
	at       string // the error has to come behind this, or else behind the head
	status   int
	field    string
}

// refusedHeads returns the table. Its rules are sections of RFC 6455, RFC 9110 and
// RFC 9112, and of draft-ietf-hybi-thewebsocketprotocol-00 for hixie-76.
func refusedHeads() []refusedHead {
	rows := []refusedHead{
		// What is no GET shows at the first byte that differs.
		{"RFC 6455 4.1 (2), POST", rfcHead, "GET ", "POST ", "P", 405, ""},
		{"RFC 6455 4.1 (2), HEAD", rfcHead, "GET ", "HEAD ", "H", 405, ""},
		{"RFC 6455 4.1 (2), GETS", rfcHead, "GET ", "GETS ", "GETS", 405, ""},
		{"RFC 6455 4.1 (2), GE", rfcHead, "GET ", "GE ", "GE ", 405, ""},
		{"RFC 9110 9.1, methods are case-sensitive", rfcHead, "GET ", "get ", "g", 400, ""},
		{"RFC 9110 9.1, methods are case-sensitive", rfcHead, "GET ", "GEt ", "GEt", 400, ""},
		{"RFC 9113 3.4, the preface of HTTP/2", rfcHead, "", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "P", 405, ""},
		{"RFC 8446 4.1.2, ClientHello", rfcHead, "", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x16", 400, ""},
		{"RFC 5321 4.1.1.1, HELO", rfcHead, "", "HELO example.com\r\n", "H", 405, ""},
		{"RFC 9112 3, binary", rfcHead, "", "\xde\xad\xbe\xef", "\xde", 400, ""},
		{"RFC 9112 3, NUL", rfcHead, "", "\x00\x00\x00\x00", "\x00", 400, ""},
		{"RFC 9112 3, empty line", rfcHead, "", "\r\n" + rfcHead, "\r", 400, ""},
		{"RFC 9112 3, empty line", rfcHead, "", "\n" + rfcHead, "\n", 400, ""},
		{"RFC 9112 3, space", rfcHead, "", " " + rfcHead, " ", 400, ""},
		{"RFC 9112 3, tab", rfcHead, "GET ", "GET\t", "GET\t", 400, ""},
		{"RFC 9112 3, nothing but GET", rfcHead, "", "GET\r\n\r\n", "GET\r", 400, ""},

		// The lines of a head.
		{"RFC 9112 2.2, LF behind the request line", rfcHead, "HTTP/1.1\r\n", "HTTP/1.1\n", "HTTP/1.1\n", 400, ""},
		{"RFC 9112 2.2, LF behind a field", rfcHead, "Upgrade\r\n", "Upgrade\n", "Upgrade\n", 400, ""},
		{"RFC 9112 2.2, LF as the blank line", rfcHead, "\r\n\r\n", "\r\n\n", "\r\n\n", 400, ""},
		{"RFC 9112 2.2, LF LF", rfcHead, "\r\n\r\n", "\n\n", "13\n", 400, ""},
		{"RFC 9112 2.2, CR in the request line", rfcHead, "/chat", "/\rchat", "/\rc", 400, ""},
		{"RFC 9112 2.2, CR in a field", rfcHead, "http://", "http:\r//", "http:\r/", 400, ""},
		{"RFC 9112 2.2, CR CR LF", rfcHead, "HTTP/1.1\r\n", "HTTP/1.1\r\r\n", "HTTP/1.1\r\r", 400, ""},
		{"RFC 9112 2.2, CR in the blank line", rfcHead, "\r\n\r\n", "\r\n\rX\n", "\r\n\rX", 400, ""},
		{"RFC 9112 2.2, CR CR LF in the blank line", rfcHead, "\r\n\r\n", "\r\n\r\r\n", "\r\n\r\r", 400, ""},
		{"RFC 9112 5.2, folded by a space", rfcHead, "Origin: ", "Origin:\r\n ", "\r\n ", 400, ""},
		{"RFC 9112 5.2, folded by a tab", rfcHead, "Origin: ", "Origin:\r\n\t", "\r\n\t", 400, ""},
		{"RFC 9112 2.2, space before the first field", rfcHead, "\r\nHost", "\r\n Host", "\r\n ", 400, ""},
		{"RFC 9110 5.5, NUL", rfcHead, "example.com\r\n", "example.com\x00\r\n", "\x00", 400, ""},
		{"RFC 9110 5.5, BEL in a value", rfcHead, "http://", "\a", "\a", 400, ""},
		{"RFC 9110 5.5, VT in a value", rfcHead, "http://", "\v", "\v", 400, ""},
		{"RFC 9110 5.5, ESC in a name", rfcHead, "Origin", "Or\x1bigin", "\x1b", 400, ""},
		{"RFC 9110 5.5, DEL", rfcHead, "http://", "\x7f", "\x7f", 400, ""},
		{"RFC 9112 3.2, NUL in the resource", rfcHead, "/chat", "/\x00chat", "\x00", 400, ""},
		{"RFC 9112 5.1, space before the colon", rfcHead, "Host:", "Host :", "", 400, ""},
		{"RFC 9112 5.1, tab before the colon", rfcHead, "Host:", "Host\t:", "", 400, ""},
		{"RFC 9110 5.1, empty name", rfcHead, "Origin:", ":", "", 400, ""},
		{"RFC 9110 5.1, no colon", rfcHead, "Origin: http://example.com", "Origin", "", 400, ""},
		{"RFC 9110 5.1, name is no token", rfcHead, "Origin:", "Ori(gin:", "", 400, ""},
		{"RFC 9110 5.1, name beyond ASCII", rfcHead, "Origin:", "\u00d6rigin:", "", 400, ""},

		// The request line.
		{"RFC 6455 4.2.1 (1), HTTP/1.0", rfcHead, "HTTP/1.1", "HTTP/1.0", "", 505, ""},
		{"RFC 6455 4.2.1 (1), HTTP/0.9", rfcHead, "HTTP/1.1", "HTTP/0.9", "", 505, ""},
		{"RFC 9112 2.3, no version", rfcHead, " HTTP/1.1", "", "", 400, ""},
		{"RFC 9112 2.3, empty version", rfcHead, "HTTP/1.1", "", "", 400, ""},
		{"RFC 9112 2.3, lower case", rfcHead, "HTTP/1.1", "http/1.1", "", 400, ""},
		{"RFC 9112 2.3, two digits", rfcHead, "HTTP/1.1", "HTTP/1.10", "", 400, ""},
		{"RFC 9112 2.3, no point", rfcHead, "HTTP/1.1", "HTTP/1x1", "", 400, ""},
		{"RFC 9112 2.3, no digit", rfcHead, "HTTP/1.1", "HTTP/1.x", "", 400, ""},
		{"RFC 9112 3, space behind the version", rfcHead, "HTTP/1.1", "HTTP/1.1 ", "", 400, ""},
		{"RFC 9112 3, two spaces", rfcHead, "GET ", "GET  ", "", 400, ""},
		{"RFC 9112 3, space in the resource", rfcHead, "/chat", "/ch at", "", 400, ""},
		{"RFC 6455 4.2.1 (1), no resource", rfcHead, "/chat?room=1", "", "", 400, ""},
		{"RFC 6455 4.2.1 (1), relative resource", rfcHead, "/chat", "chat", "", 400, ""},
		{"RFC 6455 4.2.1 (1), asterisk-form", rfcHead, "/chat?room=1", "*", "", 400, ""},
		{"RFC 6455 4.2.1 (1), authority-form", rfcHead, "/chat?room=1", "example.com:80", "", 400, ""},
		{"RFC 6455 4.2.1 (1), another URI", rfcHead, "/chat", "ftp://server.example.com/chat", "", 400, ""},
		{"RFC 9110 4.2.1, no host in a ws URI", rfcHead, "/chat", "ws:///chat", "", 400, "Host"},
		{"RFC 9112 3.2, no Host with a ws URI", rfcHead,
			"/chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\n", "ws://server.example.com/chat HTTP/1.1\r\n", "", 400, "Host"},
		{"RFC 9112 3.2, resource beyond ASCII", rfcHead, "/chat", "/ch\u00e4t", "", 400, ""},
		{"RFC 9112 3.2, tab in the resource", rfcHead, "/chat", "/ch\tat", "", 400, ""},
		{"RFC 9110 4.2.4, userinfo", rfcHead, "/chat", "http://user@server.example.com/chat", "", 400, "Host"},
		{"RFC 9110 4.2.1, no host", rfcHead, "/chat", "http:///chat", "", 400, "Host"},

		{"RFC 6455 4.2.1 (2), no Host", rfcHead, "Host: server.example.com\r\n", "", "", 400, "Host"},
		{"RFC 9112 3.2, no Host with an absolute URI", rfcHead,
			"/chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\n", "http://server.example.com/chat HTTP/1.1\r\n", "", 400, "Host"},
		{"RFC 6455 4.2.1 (2), empty Host", rfcHead, "server.example.com", "", "", 400, "Host"},
		{"RFC 9112 3.2, two Hosts", rfcHead, "Upgrade:", "Host: server.example.com\r\nUpgrade:", "", 400, "Host"},
		{"RFC 9112 3.2, Host with a path", rfcHead, "server.example.com", "server.example.com/x", "", 400, "Host"},
		{"RFC 9112 3.2, Host with a space", rfcHead, "server.example.com", "server example.com", "", 400, "Host"},
		{"RFC 9112 3.2, Host with userinfo", rfcHead, "server.example.com", "user@example.com", "", 400, "Host"},
		{"RFC 9112 3.2, Host beyond ASCII", rfcHead, "server.example.com", "s\u00e9rver.example.com", "", 400, "Host"},

		{"RFC 6455 4.2.1 (3), no Upgrade", rfcHead, "Upgrade: websocket\r\n", "", "", 426, "Upgrade"},
		{"RFC 6455 4.2.1 (3), another Upgrade", rfcHead, "websocket", "h2c", "", 426, "Upgrade"},
		{"RFC 6455 4.2.1 (3), Upgrade is no substring", rfcHead, "websocket", "websocket2", "", 426, "Upgrade"},
		{"RFC 6455 4.2.1 (4), no Connection", rfcHead, "Connection: Upgrade\r\n", "", "", 400, "Connection"},
		{"RFC 6455 4.2.1 (4), another Connection", rfcHead, "Connection: Upgrade", "Connection: keep-alive", "", 400, "Connection"},
		{"RFC 6455 4.2.1 (4), Connection is no substring", rfcHead, "Connection: Upgrade", "Connection: no-upgrade", "", 400, "Connection"},

		{"RFC 6455 4.2.1 (5), no key", rfcHead, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "", 400, "Sec-WebSocket-Key"},
		{"RFC 6455 11.3.1, two keys", rfcHead, "Origin:", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin:", "", 400, "Sec-WebSocket-Key"},
		{"RFC 6455 4.2.1 (6), no version", rfcHead, "Sec-WebSocket-Version: 13\r\n", "", "", 400, "Sec-WebSocket-Version"},
		{"RFC 6455 4.2.1 (6), empty version", rfcHead, "Version: 13", "Version:", "", 400, "Sec-WebSocket-Version"},
		{"RFC 6455 11.3.5, two versions", rfcHead, "Origin:", "Sec-WebSocket-Version: 13\r\nOrigin:", "", 400, "Sec-WebSocket-Version"},
		{"RFC 6455 4.1 (8), two Origins", rfcHead, "Upgrade:", "Origin: http://example.com\r\nUpgrade:", "", 400, "Origin"},

		{"RFC 9112 6, body", rfcHead, "Origin:", "Content-Length: 5\r\nOrigin:", "", 400, "Content-Length"},
		{"RFC 9112 6, length of a token", rfcHead, "Origin:", "Content-Length: 8\r\nOrigin:", "", 400, "Content-Length"},
		{"RFC 9112 6, negative length", rfcHead, "Origin:", "Content-Length: -1\r\nOrigin:", "", 400, "Content-Length"},
		{"RFC 9112 6, list of lengths", rfcHead, "Origin:", "Content-Length: 0, 0\r\nOrigin:", "", 400, "Content-Length"},
		{"RFC 9112 6, two lengths", rfcHead, "Origin:", "Content-Length: 0\r\nContent-Length: 0\r\nOrigin:", "", 400, "Content-Length"},
		{"RFC 9112 6.1, chunks", rfcHead, "Origin:", "Transfer-Encoding: chunked\r\nOrigin:", "", 400, "Transfer-Encoding"},
		{"RFC 9112 6.1, identity", rfcHead, "Origin:", "Transfer-Encoding: identity\r\nOrigin:", "", 400, "Transfer-Encoding"},

		{"RFC 6455 4.1 (10), subprotocol twice", rfcHead, "chat, superchat", "chat, chat", "", 400, "Sec-WebSocket-Protocol"},
		{"RFC 6455 4.1 (10), subprotocol twice in two lines", rfcHead, "superchat\r\n", "superchat\r\nSec-WebSocket-Protocol: chat\r\n", "", 400, "Sec-WebSocket-Protocol"},
		{"RFC 6455 4.1 (10), subprotocol with a space", rfcHead, "superchat", "super chat", "", 400, "Sec-WebSocket-Protocol"},
		{"RFC 6455 4.1 (10), subprotocol with a separator", rfcHead, "superchat", "super;chat", "", 400, "Sec-WebSocket-Protocol"},
		{"RFC 6455 4.1 (10), subprotocol beyond ASCII", rfcHead, "superchat", "sup\u00e9rchat", "", 400, "Sec-WebSocket-Protocol"},

		// hixie-76. What is wrong with a head does not wait for the token.
		{"hixie-76 rule 1, POST", hixieHead, "GET ", "POST ", "P", 405, ""},
		{"hixie-76 rule 1, relative resource", hixieHead, "/demo", "demo", "", 400, ""},
		{"hixie-76 rule 1, no resource", hixieHead, "/demo?room=1", "", "", 400, ""},
		{"hixie-76 rule 1, no space behind the resource", hixieHead, " HTTP/1.1", "", "", 400, ""},
		{"hixie-76 rule 1, resource beyond U+007E", hixieHead, "/demo", "/d\u00e9mo", "", 400, ""},
		{"hixie-76 rule 2, another length", hixieHead, "Origin:", "Content-Length: 9\r\nOrigin:", "", 400, "Content-Length"},
		{"hixie-76 rule 2, chunks", hixieHead, "Origin:", "Transfer-Encoding: chunked\r\nOrigin:", "", 400, "Transfer-Encoding"},
		{"hixie-76 rule 4, no Upgrade", hixieHead, "Upgrade: WebSocket\r\n", "", "", 426, "Upgrade"},
		{"hixie-76 rule 4, another Upgrade", hixieHead, "WebSocket\r\n", "TLS/1.0\r\n", "", 426, "Upgrade"},
		{"hixie-76 rule 4, no Connection", hixieHead, "Connection: Upgrade\r\n", "", "", 400, "Connection"},
		{"hixie-76 rule 4, another Connection", hixieHead, "Connection: Upgrade", "Connection: close", "", 400, "Connection"},
		{"hixie-76 rule 4, no Host", hixieHead, "Host: example.com\r\n", "", "", 400, "Host"},
		{"hixie-76 rule 4, two Hosts", hixieHead, "Upgrade:", "Host: example.com\r\nUpgrade:", "", 400, "Host"},
		{"hixie-76 rule 4, no Origin", hixieHead, "Origin: http://example.com\r\n", "", "", 400, "Origin"},
		{"hixie-76 rule 4, empty Origin", hixieHead, "Origin: http://example.com\r\n", "Origin:\r\n", "", 400, "Origin"},
		{"hixie-76 rule 4, two Origins", hixieHead, "Upgrade:", "Origin: http://example.com\r\nUpgrade:", "", 400, "Origin"},
		{"hixie-76 rule 4, tab in Origin", hixieHead, "http://", "http:\t//", "", 400, "Origin"},
		{"hixie-76 rule 4, no key 2", hixieHead, "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n", "", "", 400, "Sec-WebSocket-Key2"},
		{"hixie-76 rule 4, two keys 1", hixieHead, "Origin:", "Sec-WebSocket-Key1: 1 2\r\nOrigin:", "", 400, "Sec-WebSocket-Key1"},
		{"hixie-76 rule 4, two keys 2", hixieHead, "Origin:", "Sec-WebSocket-Key2: 1 2\r\nOrigin:", "", 400, "Sec-WebSocket-Key2"},
		{"hixie-76 rule 8, two subprotocols", hixieHead, "Origin:", "Sec-WebSocket-Protocol: sample\r\nOrigin:", "", 400, "Sec-WebSocket-Protocol"},
		{"hixie-76 with the version of RFC 6455", hixieHead, "Origin:", "Sec-WebSocket-Version: 13\r\nOrigin:", "", 400, "Sec-WebSocket-Key"},
		{"hixie-75, no keys", hixieHead, "", "GET /demo HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nHost: example.com\r\nOrigin: http://example.com\r\n\r\n",
			"", 400, "Sec-WebSocket-Key"},
	}
	for _, version := range []string{"8", "7", "0", "12", "14", "13, 8", "8, 13", "013", "+13", "13.0", "hixie"} {
		rows = append(rows, refusedHead{"RFC 6455 4.4, version " + version, rfcHead, "Version: 13", "Version: " + version, "", 426, "Sec-WebSocket-Version"})
	}
	for _, key := range refusedKeys {
		rows = append(rows, refusedHead{"RFC 6455 4.2.1 (5), key " + key, rfcHead, "dGhlIHNhbXBsZSBub25jZQ==", key, "", 400, "Sec-WebSocket-Key"})
	}
	for _, k := range hixieRefusedKeys {
		if k.key != "" {
			rows = append(rows, refusedHead{"hixie-76 key 1, " + k.rule, hixieHead, "4 @1  46546xW%0l 1 5", k.key, "", 400, "Sec-WebSocket-Key1"})
		}
		rows = append(rows, refusedHead{"hixie-76 key 2, " + k.rule, hixieHead, "12998 5 Y3 1  .P00", k.key, "", 400, "Sec-WebSocket-Key2"})
	}
	return rows
}

// Every refusal, with the bytes in front of the fault and not one more.
func TestGetRequestRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range refusedHeads() {
		t.Run(tt.rule, func(t *testing.T) {
			data := editHead(t, tt.head, tt.old, tt.new)
			if tt.at != "" {
				i := strings.Index(data, tt.at)
				if i < 0 {
					t.Fatalf("%q is not in %q", tt.at, data)
				}
				data = data[:i+len(tt.at)]
			}
			checkRefused(t, data, tt.at != "", tt.status, tt.field)
		})
	}
}

// checkRefused checks that data is refused without a read behind its end and,
// if exact, not before its last byte was read; from a bare stream and through
// a Conn, whole and byte by byte.
func checkRefused(t *testing.T, data string, exact bool, status int, field string) {
	t.Helper()
	for _, step := range []int{len(data), 1} {
		for _, bare := range []bool{true, false} {
			in := &limitReader{s: data, step: step}
			stream := &memStream{Reader: in}
			var rw io.ReadWriter = stream
			if !bare {
				rw = NewConn(stream, nil)
			}
			req, err := ShakeHands(rw)
			var he *HandshakeError
			switch {
			case in.over:
				t.Fatalf("bare %v, steps of %d: read behind %q: %v", bare, step, lastBytes(data), err)
			case req != nil || !errors.As(err, &he):
				t.Fatalf("bare %v, steps of %d: got %+v, %v, want a HandshakeError", bare, step, req, err)
			case exact && in.s != "":
				t.Fatalf("bare %v, steps of %d: error %q comes early, before %q", bare, step, err, lastBytes(in.s))
			case he.Status != status || he.Field != field:
				t.Fatalf("bare %v, steps of %d: got %d, field %q (%v), want %d, %q", bare, step, he.Status, he.Field, err, status, field)
			case !strings.Contains(err.Error(), he.Field) || strings.ContainsFunc(err.Error(), isControl):
				t.Fatalf("bare %v, steps of %d: error text %q", bare, step, err)
			case stream.writes != 1:
				t.Fatalf("bare %v, steps of %d: the refusal took %d writes", bare, step, stream.writes)
			}
			checkRefusal(t, stream.out.String(), status)
		}
	}
}

// The limits of a head, for which the doc of GetRequest stands.
func TestGetRequestLimits(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name, head, token string
		fields            int
	}{
		{"RFC 6455", rfcHead, "", rfcFields},
		{"hixie-76", hixieHead, hixieToken, rfcFields},
	} {
		// sized returns the head with n bytes, the last field being long.
		sized := func(n int) string {
			const name = "Cookie: "
			head := strings.TrimSuffix(v.head, "\r\n")
			return head + name + strings.Repeat("c", n-len(head)-len(name)-len("\r\n\r\n")) + "\r\n\r\n"
		}
		// fielded returns the head with n fields.
		fielded := func(n int) string {
			return strings.TrimSuffix(v.head, "\r\n") + strings.Repeat("a:\r\n", n-v.fields) + "\r\n"
		}
		for _, tt := range []struct {
			name, head string
		}{
			{"8 KiB", sized(8192)},
			{"100 fields", fielded(100)},
		} {
			t.Run(v.name+"/"+tt.name, func(t *testing.T) {
				checkAccepted(t, tt.head+v.token)
			})
		}
		for _, tt := range []struct {
			name, head string
			at         int
		}{
			{"8 KiB and a byte", sized(8193), 8193},
			{"1 MiB", sized(1 << 20), 8193},
			{"1 MiB of a request line", editHead(t, v.head, "/", "/"+strings.Repeat("a", 1<<20)), 8193},
			{"1 MiB of a name", editHead(t, v.head, "Origin", strings.Repeat("a", 1<<20)), 8193},
			{"1 MiB of spaces", editHead(t, v.head, "Origin: ", "Origin:"+strings.Repeat(" ", 1<<20)), 8193},
			{"101 fields", fielded(101), len(fielded(101)) - len("\r\n")},
			{"100,000 fields", fielded(100_000), len(fielded(101)) - len("\r\n")},
		} {
			t.Run(v.name+"/"+tt.name, func(t *testing.T) {
				checkRefused(t, tt.head[:tt.at], true, 431, "")

				// However much there is, a Conn does not read on.
				in := &limitReader{s: tt.head, step: len(tt.head)}
				_, err := GetRequest(NewConn(&memStream{Reader: in}, nil))
				var he *HandshakeError
				if n := len(tt.head) - len(in.s); !errors.As(err, &he) || he.Status != 431 || n > 16<<10 {
					t.Errorf("error %v after %d bytes", err, n)
				}
			})
		}
	}
}

func TestGetRequestAccepts(t *testing.T) {
	t.Parallel()
	get := func(name string) func(*Request) any {
		return func(req *Request) any { return req.Header[name] }
	}
	host := func(req *Request) any { return req.Host }
	path := func(req *Request) any { return req.Path }
	origin := func(req *Request) any { return req.Origin }
	version := func(req *Request) any { return req.Version }
	protocols := func(req *Request) any { return req.Protocols }
	for _, tt := range []struct {
		rule     string
		head     string
		old, new string
		got      func(*Request) any
		want     any
	}{
		{"RFC 6455 4.2.1 (1), HTTP/1.2", rfcHead, "HTTP/1.1", "HTTP/1.2", version, RFC6455},
		{"RFC 6455 4.2.1 (1), path and query", rfcHead, "", rfcHead, path, "/chat?room=1"},
		{"RFC 6455 4.2.1 (1), two slashes", rfcHead, "/chat", "//chat", path, "//chat?room=1"},
		{"RFC 6455 4.2.1 (1), http URI, path", rfcHead, "/chat", "http://a.example/chat", path, "/chat?room=1"},
		{"RFC 9112 3.2.2, the URI replaces Host", rfcHead, "/chat", "http://a.example:81/chat", host, "a.example:81"},
		{"RFC 9112 3.2.2, https URI", rfcHead, "/chat", "HTTPS://a.example/chat", host, "a.example"},
		{"RFC 9112 3.2.2, ws URI, path", rfcHead, "/chat", "ws://a.example/chat", path, "/chat?room=1"},
		{"RFC 9112 3.2.2, the ws URI replaces Host", rfcHead, "/chat", "ws://a.example:81/chat", host, "a.example:81"},
		{"RFC 9112 3.2.2, wss URI", rfcHead, "/chat", "WSS://a.example/chat", host, "a.example"},
		{"RFC 9112 3.2.2, not in the field", rfcHead, "/chat", "ws://a.example/chat", get("Host"), []string{"server.example.com"}},
		{"RFC 9112 3.2.1, ws URI without a path", rfcHead, "/chat?room=1", "ws://a.example", path, "/"},
		{"RFC 9112 3.2.1, URI without a path", rfcHead, "/chat?room=1", "http://a.example", path, "/"},
		{"RFC 9112 3.2.1, URI with a query only", rfcHead, "/chat?room=1", "http://a.example?room=2", path, "/?room=2"},
		{"RFC 9112 3.2.2, URI in the query", rfcHead, "/chat?room=1", "/?to=http://a.example/", path, "/?to=http://a.example/"},
		{"RFC 6455 4.2.1 (2), port", rfcHead, "server.example.com", "server.example.com:8080", host, "server.example.com:8080"},
		{"RFC 6455 4.2.1 (2), IPv6", rfcHead, "server.example.com", "[::1]:8080", host, "[::1]:8080"},
		{"RFC 6455 4.2.1 (3), case", rfcHead, "websocket", "WEBSocket", version, RFC6455},
		{"RFC 9110 7.8, list", rfcHead, "websocket", "h2c , websocket", version, RFC6455},
		{"RFC 9110 7.8, lines", rfcHead, "Upgrade:", "Upgrade: h2c\r\nUpgrade:", get("Upgrade"), []string{"h2c", "websocket"}},
		{"RFC 6455 4.2.1 (4), case", rfcHead, "Connection: Upgrade", "Connection: uPGRADE", version, RFC6455},
		{"RFC 9110 7.6.1, list", rfcHead, "Connection: Upgrade", "Connection: keep-alive,\tUpgrade", version, RFC6455},
		{"RFC 9110 7.6.1, lines", rfcHead, "Connection:", "Connection: keep-alive\r\nConnection:", version, RFC6455},
		{"RFC 6455 4.2.1 (7), no Origin", rfcHead, "Origin: http://example.com\r\n", "", origin, ""},
		{"RFC 6454 7.1, null", rfcHead, "http://example.com", "null", origin, "null"},
		{"RFC 9110 5.5, bytes beyond ASCII", rfcHead, "http://example.com", "http://\xff", origin, "http://\xff"},
		{"RFC 6455 4.2.1 (8), two subprotocols", rfcHead, "", rfcHead, protocols, []string{"chat", "superchat"}},
		{"RFC 6455 11.3.4, two lines", rfcHead, "chat, superchat", "a, b\r\nSec-WebSocket-Protocol: c", protocols, []string{"a", "b", "c"}},
		{"RFC 9110 5.6.1, empty elements", rfcHead, "chat, superchat", " , chat,,\t", protocols, []string{"chat"}},
		{"RFC 6455 4.2.1 (8), none", rfcHead, "Sec-WebSocket-Protocol: chat, superchat\r\n", "", protocols, []string(nil)},
		{"RFC 4648 4, a secret in base64", rfcHead, "superchat", "bearer.Zm9v/mI+YQ==", protocols, []string{"chat", "bearer.Zm9v/mI+YQ=="}},
		{"RFC 6455 4.1 (10), case matters", rfcHead, "superchat", "Chat", protocols, []string{"chat", "Chat"}},
		{"RFC 9112 6, no body", rfcHead, "Origin:", "Content-Length: 0\r\nOrigin:", version, RFC6455},
		{"RFC 9110 5.1, case of names", rfcHead, "Sec-WebSocket-Key", "SEC-WEBSOCKET-KEY", version, RFC6455},
		{"RFC 9110 5.1, case of names", rfcHead, "Host", "hOsT", get("Host"), []string{"server.example.com"}},
		{"RFC 9110 5.5, no space", rfcHead, "Host: ", "Host:", host, "server.example.com"},
		{"RFC 9110 5.5, spaces and tabs", rfcHead, "Host: server.example.com", "Host:\t server.example.com \t", host, "server.example.com"},
		{"RFC 9110 5.5, inner space", rfcHead, "Origin:", "A:  b \t c  \r\nOrigin:", get("A"), []string{"b \t c"}},
		{"RFC 9110 5.5, no other space is trimmed", rfcHead, "Origin:", "A: \u00a0b\u0085\r\nOrigin:", get("A"), []string{"\u00a0b\u0085"}},
		{"RFC 9110 5.5, empty value", rfcHead, "Origin:", "A:\r\nOrigin:", get("A"), []string{""}},
		{"RFC 9110 5.3, order of lines", rfcHead, "Origin:", "A: 1\r\nB: 2\r\na: 3\r\nA: 4\r\nOrigin:", get("A"), []string{"1", "3", "4"}},
		{"RFC 6455 4.2.2, both kinds of keys", rfcHead, "Origin:", "Sec-WebSocket-Key1: 1 2\r\nOrigin:", version, RFC6455},

		{"hixie-76 rule 1, path and query", hixieHead, "", hixieHead, path, "/demo?room=1"},
		{"hixie-76 rule 1, the rest of the line is ignored", hixieHead, "HTTP/1.1", "HTTP/1.0 or so", version, Hixie76},
		{"hixie-76 rule 1, nothing behind the space", hixieHead, "HTTP/1.1", "", version, Hixie76},
		{"hixie-76 rule 1, case of names", hixieHead, "Sec-WebSocket-Key1", "sec-websocket-KEY1", version, Hixie76},
		{"hixie-76 rule 2, Content-Length: 8", hixieHead, "Origin:", "Content-Length: 8\r\nOrigin:", version, Hixie76},
		{"hixie-76 rule 2, Content-Length: 0", hixieHead, "Origin:", "Content-Length: 0\r\nOrigin:", version, Hixie76},
		{"hixie-76 rule 4, case", hixieHead, "Upgrade: WebSocket", "Upgrade: websocket", version, Hixie76},
		{"hixie-76 rule 4, list", hixieHead, "Connection: Upgrade", "Connection: keep-alive, upgrade", version, Hixie76},
		{"hixie-76 rule 4, null", hixieHead, "http://example.com", "null", origin, "null"},
		{"hixie-76 rule 5, the number 0", hixieHead, "4 @1  46546xW%0l 1 5", "a 0", version, Hixie76},
		{"hixie-76 rule 8, Host as sent", hixieHead, "Host: example.com", "Host: EXAMPLE.com:80", host, "EXAMPLE.com:80"},
		{"hixie-76 5.1, one subprotocol", hixieHead, "sample", "a, b c", protocols, []string{"a, b c"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			data := editHead(t, tt.head, tt.old, tt.new)
			if tt.head == hixieHead {
				data += hixieToken
			}
			if got := tt.got(checkAccepted(t, data)); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// All fields of a Request.
func TestGetRequestFields(t *testing.T) {
	t.Parallel()
	got := checkAccepted(t, rfcHead)
	want := &Request{
		Version:   RFC6455,
		Host:      "server.example.com",
		Path:      "/chat?room=1",
		Origin:    "http://example.com",
		Key:       "dGhlIHNhbXBsZSBub25jZQ==",
		Protocols: []string{"chat", "superchat"},
		Header: http.Header{
			"Host":                   {"server.example.com"},
			"Upgrade":                {"websocket"},
			"Connection":             {"Upgrade"},
			"Sec-Websocket-Key":      {"dGhlIHNhbXBsZSBub25jZQ=="},
			"Origin":                 {"http://example.com"},
			"Sec-Websocket-Protocol": {"chat, superchat"},
			"Sec-Websocket-Version":  {"13"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}

	got = checkAccepted(t, hixieHead+hixieToken)
	want = &Request{
		Version:   Hixie76,
		Host:      "example.com",
		Path:      "/demo?room=1",
		Origin:    "http://example.com",
		Key1:      "4 @1  46546xW%0l 1 5",
		Key2:      "12998 5 Y3 1  .P00",
		Token:     "^n:ds[4U",
		Protocols: []string{"sample"},
		Header: http.Header{
			"Host":                   {"example.com"},
			"Connection":             {"Upgrade"},
			"Sec-Websocket-Key2":     {"12998 5 Y3 1  .P00"},
			"Sec-Websocket-Protocol": {"sample"},
			"Upgrade":                {"WebSocket"},
			"Sec-Websocket-Key1":     {"4 @1  46546xW%0l 1 5"},
			"Origin":                 {"http://example.com"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}

	// A program may add to the header without spoiling another field.
	got.Header.Add("Origin", "x")
	got.Header.Add("Upgrade", "y")
	if o, u := got.Header["Origin"], got.Header["Upgrade"]; !slices.Equal(o, []string{"http://example.com", "x"}) ||
		!slices.Equal(u, []string{"WebSocket", "y"}) || got.Header.Get("Host") != "example.com" {
		t.Errorf("after Add: %q", got.Header)
	}

	// What a client of RFC 6455 says of the other version does not count.
	both := checkAccepted(t, editHead(t, rfcHead, "Origin:", "Sec-WebSocket-Key1: 1 2\r\nSec-WebSocket-Key2: 3 4\r\nOrigin:"))
	if both.Key1 != "" || both.Key2 != "" || both.Token != "" {
		t.Errorf("keys %q and %q, token %q", both.Key1, both.Key2, both.Token)
	}
}

// A tlsStream looks like a *tls.Conn.
type tlsStream struct{ *memStream }

func (tlsStream) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }

var _ interface {
	ConnectionState() tls.ConnectionState
} = (*tls.Conn)(nil)

func TestGetRequestSecure(t *testing.T) {
	t.Parallel()
	for _, head := range []string{rfcHead, hixieHead + hixieToken} {
		for _, secure := range []bool{false, true} {
			for _, bare := range []bool{false, true} {
				var rw io.ReadWriter = &memStream{Reader: strings.NewReader(head)}
				if secure {
					rw = tlsStream{rw.(*memStream)}
				}
				if !bare {
					rw = NewConn(rw, nil)
				}
				if req, err := GetRequest(rw); err != nil || req.Secure != secure {
					t.Errorf("over TLS %v, bare %v: Secure is %v, %v", secure, bare, req != nil && req.Secure, err)
				}
			}
		}
	}
}

// GetRequest of a well-formed handshake that is cut short, at every byte.
func TestGetRequestCut(t *testing.T) {
	t.Parallel()
	for _, data := range []string{rfcHead, hixieHead + hixieToken} {
		for n := range len(data) {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			for name, wrap := range map[string]func(io.Reader) io.Reader{
				"EOF behind data": func(r io.Reader) io.Reader { return r },
				"EOF with data":   iotest.DataErrReader,
				"byte by byte":    iotest.OneByteReader,
			} {
				if _, err := GetRequest(wrap(strings.NewReader(data[:n]))); err != want {
					t.Fatalf("%s, bare, cut at %q: %v, want %v", name, lastBytes(data[:n]), err, want)
				}
				c := NewConn(&memStream{Reader: wrap(strings.NewReader(data[:n]))}, nil)
				for range 2 { // the error stays
					if _, err := GetRequest(c); err != want {
						t.Fatalf("%s, Conn, cut at %q: %v, want %v", name, lastBytes(data[:n]), err, want)
					}
				}
			}
		}
	}
}

// The errors of a reader are passed on, and no refusal is written for them.
func TestGetRequestReaderError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, data := range []string{rfcHead, hixieHead + hixieToken} {
		for n := 0; n < len(data); n += 7 {
			for _, bare := range []bool{true, false} {
				stream := &memStream{Reader: io.MultiReader(strings.NewReader(data[:n]), iotest.ErrReader(broken))}
				var rw io.ReadWriter = stream
				if !bare {
					rw = NewConn(stream, nil)
				}
				if _, err := ShakeHands(rw); err != broken {
					t.Errorf("bare %v, after %d bytes: %v", bare, n, err)
				}
				if stream.writes != 0 {
					t.Errorf("bare %v, after %d bytes: wrote %q", bare, n, stream.out.String())
				}
			}
		}
	}
	if _, err := GetRequest(stuckReader{}); err != io.ErrNoProgress {
		t.Errorf("a reader that returns nothing: %v", err)
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

// A read deadline in the middle of a handshake loses nothing.
func TestGetRequestResumes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, data string
		cut        int
	}{
		{"RFC 6455, nothing", rfcHead, 0},
		{"RFC 6455, one byte", rfcHead, 1},
		{"RFC 6455, request line", rfcHead, 20},
		{"RFC 6455, field", rfcHead, 100},
		{"RFC 6455, all but a byte", rfcHead, len(rfcHead) - 1},
		{"hixie-76, field", hixieHead + hixieToken, 100},
		{"hixie-76, before the token", hixieHead + hixieToken, len(hixieHead)},
		{"hixie-76, token", hixieHead + hixieToken, len(hixieHead) + 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				h := NewConn(a, nil)
				defer h.CloseNow()
				defer b.Close()
				go io.WriteString(b, tt.data[:tt.cut])
				start := time.Now()
				for i := range 3 {
					h.SetReadDeadline(time.Now().Add(time.Second))
					_, err := GetRequest(h)
					var he *HandshakeError
					if !errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &he) {
						t.Fatalf("time out %d: %v", i, err)
					}
				}
				if d := time.Since(start); d != 3*time.Second {
					t.Errorf("three seconds took %v", d)
				}
				h.SetReadDeadline(time.Time{})
				go io.WriteString(b, tt.data[tt.cut:])
				got, err := GetRequest(h)
				if err != nil {
					t.Fatal(err)
				}
				if want := checkAccepted(t, tt.data); !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		})
	}
}

// Opening handshakes as browsers send them.
var browserHeads = []struct {
	name, head string
	origin     string
	protocols  []string
}{
	{"Chrome 126", `GET /socket?token=abc HTTP/1.1
Host: chat.example.com
Connection: Upgrade
Pragma: no-cache
Cache-Control: no-cache
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36
Upgrade: websocket
Origin: https://chat.example.com
Sec-WebSocket-Version: 13
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9,de;q=0.8
Cookie: _ga=GA1.2.1234567890.1700000000; session="a b,c"; theme=dark
Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits
Sec-WebSocket-Protocol: chat.v2, chat.v1

`, "https://chat.example.com", []string{"chat.v2", "chat.v1"}},
	{"Firefox 127", `GET / HTTP/1.1
Host: localhost:12345
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0
Accept: */*
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Sec-WebSocket-Version: 13
Origin: null
Sec-WebSocket-Extensions: permessage-deflate
Sec-WebSocket-Key: 1vvDfgnKJCMvKqHUqZ6Gdg==
DNT: 1
Connection: keep-alive, Upgrade
Sec-Fetch-Dest: empty
Sec-Fetch-Mode: websocket
Sec-Fetch-Site: cross-site
Pragma: no-cache
Cache-Control: no-cache
Upgrade: websocket

`, "null", nil},
	{"Safari 17", `GET /ws HTTP/1.1
Host: [2001:db8::1]:8443
Origin: https://app.example.com:8443
Upgrade: websocket
Sec-WebSocket-Extensions: permessage-deflate
Sec-WebSocket-Key: +kcbAxKBaBVbtBB0ULFDHA==
Sec-WebSocket-Version: 13
Connection: Upgrade
Cookie: sid=0123456789abcdef
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: websocket
Sec-Fetch-Dest: websocket
Accept: */*
User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15
Accept-Language: de-DE,de;q=0.9
Accept-Encoding: gzip, deflate, br
Pragma: no-cache
Cache-Control: no-cache

`, "https://app.example.com:8443", nil},
	{"Internet Explorer 11", `GET /ws HTTP/1.1
Origin: http://intranet
Sec-WebSocket-Key: Kc3SNSKaLRHzrWC6J8g0dQ==
Connection: Upgrade
Upgrade: Websocket
Sec-WebSocket-Version: 13
User-Agent: Mozilla/5.0 (Windows NT 6.3; Trident/7.0; rv:11.0) like Gecko
Host: intranet
DNT: 1
Cache-Control: no-cache

`, "http://intranet", nil},
	{"Chrome 6", `GET /demo?x=1 HTTP/1.1
Upgrade: WebSocket
Connection: Upgrade
Host: localhost:8080
Origin: http://localhost
Cookie: a=b; c=d
Sec-WebSocket-Key1: 1   38 wZ3f9 23O0 3l 0r
Sec-WebSocket-Key2: 27   0E 6 2  1665:< ;U 1H

` + "\x91\x25\x3e\xd3\xa9\xe7\x6a\x88", "http://localhost", nil},
	{"Safari 5", `GET /echo HTTP/1.1
Sec-WebSocket-Key2: :2 8 G(  07A 93Ql 3 *20 Ox0G'w
Upgrade: WebSocket
Origin: file://
Sec-WebSocket-Protocol: sample
Host: 192.168.0.2:12345
Sec-WebSocket-Key1: 30  ;- 5=5 u 4 1  7336
Connection: Upgrade

` + "\x5d\x9f\xb0\x67\x0f\xe4\xfa\x75", "file://", []string{"sample"}},
	{"Firefox 4 beta", `GET / HTTP/1.1
Host: localhost:12345
Connection: Upgrade
Sec-WebSocket-Key2: 1_ tx7X d  <  nw  334J702) 7]o}` + "`" + ` 0
Upgrade: WebSocket
Sec-WebSocket-Key1: 18x 6]8vM;54 *(5:  {   U1]8  z [  8
Origin: http://localhost

Tm[K T2u`, "http://localhost", nil},
}

// headLines gives the lines of a head their ends; a token may hold any byte.
func headLines(s string) string {
	head, token, _ := strings.Cut(s, "\n\n")
	return strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + token
}

func TestGetRequestBrowsers(t *testing.T) {
	t.Parallel()
	for _, b := range browserHeads {
		t.Run(b.name, func(t *testing.T) {
			req := checkAccepted(t, headLines(b.head))
			if req.Origin != b.origin || !slices.Equal(req.Protocols, b.protocols) {
				t.Errorf("origin %q, subprotocols %q", req.Origin, req.Protocols)
			}
		})
	}
}

// The order of the fields of hixie-76, which its clients shuffle, means
// nothing.
func TestGetRequestShuffled(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSuffix(hixieHead, "\r\n\r\n"), "\r\n")
	want := checkAccepted(t, hixieHead+hixieToken)
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		rnd.Shuffle(len(lines)-1, func(i, j int) { lines[i+1], lines[j+1] = lines[j+1], lines[i+1] })
		if got := checkAccepted(t, strings.Join(lines, "\r\n")+"\r\n\r\n"+hixieToken); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
}

func TestHandshakeError(t *testing.T) {
	t.Parallel()
	var he *HandshakeError
	err := error(&HandshakeError{Status: 400, Field: "Host", Reason: "Host is missing", err: os.ErrDeadlineExceeded})
	if !errors.As(err, &he) || !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
		t.Error("errors.As or errors.Is fails")
	}
	if got, want := err.Error(), "websocket: opening handshake failed: Host is missing: i/o timeout"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (&HandshakeError{Reason: "no"}).Error(), "websocket: opening handshake failed: no"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for v, want := range map[Version]string{RFC6455: "RFC 6455", Hixie76: "hixie-76", 8: "unknown version"} {
		if got := v.String(); got != want {
			t.Errorf("Version(%d): got %q, want %q", uint8(v), got, want)
		}
	}
}

func FuzzGetRequest(f *testing.F) {
	add := func(s string) {
		f.Add([]byte(s), uint64(len(s)))
		f.Add([]byte(s+"\x81\x80\x00\x00\x00\x00\x00hello\xff"), uint64(len(s)))
	}
	add(rfcHead)
	for _, v := range hixieVectors {
		add(hixieRequest(v.key1, v.key2, v.token))
	}
	for _, b := range browserHeads {
		add(headLines(b.head))
	}
	for _, tt := range refusedHeads() {
		add(editHead(f, tt.head, tt.old, tt.new))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		in := newChunkReader(data, seed)
		req, err := GetRequest(in)
		used := data[:len(data)-len(in.data)]
		again, connErr := GetRequest(NewConn(&memStream{Reader: newChunkReader(data, ^seed)}, nil))
		if !reflect.DeepEqual(req, again) {
			t.Fatalf("bare %+v, Conn %+v", req, again)
		}
		if len(used) > 8192+8 {
			t.Fatalf("used %d bytes", len(used))
		}
		if err != nil {
			he, ok := err.(*HandshakeError)
			switch {
			case connErr == nil || err.Error() != connErr.Error():
				t.Fatalf("bare %v, Conn %v", err, connErr)
			case ok && (req != nil || http.StatusText(he.Status) == "" || he.Status < 400 || he.Status > 599):
				t.Fatalf("status %d, request %+v", he.Status, req)
			case !ok && err != io.EOF && err != io.ErrUnexpectedEOF:
				t.Fatalf("error %v is not documented", err)
			case (err == io.EOF) != (len(data) == 0):
				t.Fatalf("error %v of %d bytes", err, len(data))
			}
			return
		}
		if connErr != nil {
			t.Fatalf("bare <nil>, Conn %v", connErr)
		}

		end := bytes.Index(data, []byte("\r\n\r\n")) + 4
		if req.Version == Hixie76 {
			if end += tokenSize; string(data[end-tokenSize:end]) != req.Token {
				t.Fatalf("token %q", req.Token)
			}
		}
		if len(used) != end {
			t.Fatalf("left the reader behind %d bytes, not %d", len(used), end)
		}
		// The header against that of another parser, one that is less strict.
		tr := textproto.NewReader(bufio.NewReader(bytes.NewReader(data)))
		tr.ReadLine()
		header, err := tr.ReadMIMEHeader()
		if err != nil || !maps.EqualFunc(header, textproto.MIMEHeader(req.Header), slices.Equal) {
			t.Fatalf("header %q, textproto has %q, %v", req.Header, header, err)
		}
		for _, p := range append(req.Protocols, "") {
			req.Protocol = p
			if req.Version == Hixie76 && strings.ContainsFunc(p, isControl) {
				continue
			}
			checkResponse(t, req, CreateResponse(req))
		}
	})
}

func BenchmarkGetRequest(b *testing.B) {
	for _, bb := range []struct{ name, data string }{
		{"rfc6455", rfcHead},
		{"chrome", headLines(browserHeads[0].head)},
		{"hixie76", hixieHead + hixieToken},
		{"subprotocols", editHead(b, rfcHead, "chat, superchat", manyTokens(100))}, // as many as there may be
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.data)))
			in := strings.NewReader(bb.data)
			stream := &memStream{Reader: in}
			for b.Loop() {
				in.Reset(bb.data)
				if _, err := GetRequest(NewConn(stream, nil)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bb.name+"/bare", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.data)))
			in := strings.NewReader(bb.data)
			for b.Loop() {
				in.Reset(bb.data)
				if _, err := GetRequest(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// An error is its caller's own, who may change it.
func TestVersionErrors(t *testing.T) {
	t.Parallel()
	head := editHead(t, rfcHead, "Version: 13", "Version: 8")
	for name, refuse := range map[string]func() error{
		"GetRequest": func() error { _, err := GetRequest(strings.NewReader(head)); return err },
		"Upgrade": func() error {
			_, err := Upgrade(httptest.NewRecorder(), parsedRequest(t, head), nil)
			return err
		},
		"HTTP/2": func() error { _, err := newStreamRequest("h", "/", nil); return err },
	} {
		e, ok := errors.AsType[*HandshakeError](refuse())
		if !ok || e.Status != 426 {
			t.Fatalf("%s: %v", name, e)
		}
		e.Status, e.Reason = 200, "changed"
		if err := refuse(); err == e || strings.Contains(err.Error(), "changed") {
			t.Errorf("%s: a second client has the error %v of the first", name, err)
		}
	}
}
