package websocket

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A page may connect from the server's own origin, and from those that are allowed (RFC
// 6455, section 10.2).
func TestUpgradeOrigin(t *testing.T) {
	t.Parallel()
	const none = "-"
	for _, tt := range []struct {
		server   string // the URL that was asked for
		patterns string // separated by spaces
		origin   string
		status   int
	}{
		// The server's own.
		{"http://example.com", "", none, 101},
		{"http://example.com", "", "http://example.com", 101},
		{"http://example.com", "", "HTTP://EXAMPLE.COM", 101},
		{"http://EXAMPLE.com", "", "http://example.com", 101},
		{"http://example.com", "", "http://example.com:80", 101},
		{"http://example.com:80", "", "http://example.com", 101},
		{"https://example.com", "", "https://example.com:443", 101},
		{"https://example.com:443", "", "https://example.com", 101},
		{"http://example.com:8080", "", "http://example.com:8080", 101},
		{"http://[::1]", "", "http://[::1]", 101},
		{"http://[::1]:80", "", "http://[::1]", 101},
		{"http://[::1]:8080", "", "http://[::1]:8080", 101},
		{"http://[2001:DB8::1]", "", "http://[2001:db8::1]", 101},
		{"http://127.0.0.1:8080", "", "http://127.0.0.1:8080", 101},

		// Others.
		{"https://example.com", "", "http://example.com", 403},
		{"http://example.com", "", "https://example.com", 403},
		{"https://example.com", "", "http://example.com:443", 403},
		{"http://example.com", "", "https://example.com:80", 403},
		{"https://example.com", "", "wss://example.com", 403},
		{"http://example.com", "", "ws://example.com", 403},
		{"http://example.com", "", "http://example.com:8080", 403},
		{"http://example.com:8080", "", "http://example.com", 403},
		{"http://example.com:8080", "", "http://example.com:80", 403},
		{"http://example.com:443", "", "http://example.com", 403},
		{"http://example.com", "", "http://www.example.com", 403},
		{"http://www.example.com", "", "http://example.com", 403},
		{"http://example.com", "", "http://com", 403},
		{"http://example.com", "", "null", 403},
		{"http://null", "", "null", 403},
		{"http://null", "", "http://null", 101},
		{"http://[::1]", "", "http://[::2]", 403},
		{"http://[::1]", "", "http://[::1]:8080", 403},
		{"http://localhost", "", "http://127.0.0.1", 403},
		{"http://example.com", "", "file://", 403},
		{"http://example.com", "", "chrome-extension://abcdef", 403},

		// Look-alikes.
		{"https://example.com", "", "https://example.com.evil.com", 403},
		{"https://example.com", "", "https://evilexample.com", 403},
		{"https://example.com", "", "https://example.com@evil.com", 403},
		{"https://example.com", "", "https://example.com:443@evil.com", 403},
		{"https://example.com", "", "https://evil.com/https://example.com", 403},
		{"https://example.com", "", "https://evil.com#https://example.com", 403},
		{"https://example.com", "", "https://evil.com?https://example.com", 403},
		{"https://example.com", "", "https://user@example.com", 403},
		{"https://example.com", "", "https://example.com/", 403},
		{"https://example.com", "", "https://example.com/path", 403},
		{"https://example.com", "", `https://example.com\.evil.com`, 403},
		{"https://example.com", "", "https://example.com.", 403},
		{"https://example.com", "", "https://.example.com", 403},
		{"https://example.com", "", "https:// example.com", 403},
		{"https://example.com", "", "https://example.com https://evil.com", 403},
		{"https://example.com", "", "https://evil.com https://example.com", 403},
		{"https://example.com", "", "https://example.com,https://evil.com", 403},
		{"https://example.com", "", "https://evil.com, https://example.com", 403},
		{"https://example.com", "", "example.com", 403},
		{"https://example.com", "", "//example.com", 403},
		{"https://example.com", "", "https:example.com", 403},
		{"https://example.com", "", "https:/example.com", 403},
		{"https://example.com", "", "https:///example.com", 403},
		{"https://example.com", "", "https://", 403},
		{"https://example.com", "", "://example.com", 403},
		{"https://example.com", "", "*", 403},
		{"https://example.com", "", "https://*", 403},
		{"https://example.com", "", "https://*.com", 403},
		{"https://example.com", "", "https://example.com:*", 403},
		{"https://example.com", "", "https://example.com:0443", 403},
		{"https://example.com", "", "https://example.com:443:443", 403},
		{"https://example.com", "", "https://example.com:+443", 403},
		{"https://example.com", "", "https://example.com:443/", 403},
		{"https://example.com", "", "https://ex\u00e4mple.com", 403},
		{"https://example.com", "", "https://example.com" + strings.Repeat("a", 4000), 403},
		{"https://example.com", "", strings.Repeat("https://example.com", 200), 403},

		// Patterns.
		{"http://own", "https://example.com", "https://example.com", 101},
		{"http://own", "https://example.com", "https://example.com:443", 101},
		{"http://own", "https://example.com:443", "https://example.com", 101},
		{"http://own", "HTTPS://Example.COM", "https://example.com", 101},
		{"http://own", "https://example.com", "http://own", 101},
		{"http://own", "https://example.com", none, 101},
		{"http://own", "https://example.com", "http://example.com", 403},
		{"http://own", "https://example.com", "https://example.com:8443", 403},
		{"http://own", "https://example.com", "https://www.example.com", 403},
		{"http://own", "https://example.com", "https://example.com.evil.com", 403},
		{"http://own", "https://example.com", "https://example.com@evil.com", 403},
		{"http://own", "https://example.com", "null", 403},
		{"http://own", "https://a.com https://b.com", "https://b.com", 101},
		{"http://own", "https://a.com https://b.com", "https://c.com", 403},
		{"http://own", "https://*.example.com", "https://www.example.com", 101},
		{"http://own", "https://*.example.com", "https://a.b.example.com", 101},
		{"http://own", "https://*.example.com", "https://WWW.EXAMPLE.COM", 101},
		{"http://own", "https://*.example.com", "https://www.example.com:443", 101},
		{"http://own", "https://*.example.com", "https://example.com", 403},
		{"http://own", "https://*.example.com", "https://.example.com", 403},
		{"http://own", "https://*.example.com", "http://www.example.com", 403},
		{"http://own", "https://*.example.com", "https://www.example.com:8443", 403},
		{"http://own", "https://*.example.com", "https://evilexample.com", 403},
		{"http://own", "https://*.example.com", "https://evil.com/.example.com", 403},
		{"http://own", "https://*.example.com", "https://evil.com#.example.com", 403},
		{"http://own", "https://*.example.com", "https://evil.com?.example.com", 403},
		{"http://own", "https://*.example.com", `https://evil.com\.example.com`, 403},
		{"http://own", "https://*.example.com", "https://evil@www.example.com", 403},
		{"http://own", "https://*.example.com", "https://evil.com .example.com", 403},
		{"http://own", "https://*.example.com", "https://evil.com\t.example.com", 400},
		{"http://own", "https://*.example.com", "https://evil.com,https://www.example.com", 403},
		{"http://own", "https://*.example.com", "https://evil.com:80.example.com", 403},
		{"http://own", "https://*.example.com", "https://www.example.com.evil.com", 403},
		{"http://own", "https://*.example.com", "https://\u00e9.example.com", 403},
		{"http://own", "https://*.example.com", "null", 403},
		{"http://own", "https://*.example.com:*", "https://www.example.com:8443", 101},
		{"http://own", "https://app-*.example.com", "https://app-7.example.com", 101},
		{"http://own", "https://app-*.example.com", "https://app-.example.com", 403},
		{"http://own", "https://app-*.example.com", "https://www.example.com", 403},
		{"http://own", "https://aa*aa", "https://aaa", 403},
		{"http://own", "https://*", "https://example.com", 101},
		{"http://own", "https://*", "http://example.com", 403},
		{"http://own", "https://*", "null", 403},
		{"http://own", "http://localhost:*", "http://localhost", 101},
		{"http://own", "http://localhost:*", "http://localhost:3000", 101},
		{"http://own", "http://localhost:*", "https://localhost:3000", 403},
		{"http://own", "http://localhost:*", "http://localhost.evil.com:3000", 403},
		{"http://own", "http://localhost:*", "http://localhost:3000.evil.com", 403},
		{"http://own", "http://localhost:*", "http://localhost:x", 403},
		{"http://own", "http://localhost:*", "http://evil@localhost:3000", 403},
		{"http://own", "http://[::1]:*", "http://[::1]:3000", 101},
		{"http://own", "http://[::1]:*", "http://[::2]:3000", 403},
		{"http://own", "*", "https://example.com", 101},
		{"http://own", "*", "null", 101},
		{"http://own", "*", "chrome-extension://abcdef", 101},
		{"http://own", "*", none, 101},
		{"http://own", "null", "null", 101},
		{"http://own", "null", "NULL", 403},
		{"http://own", "null", "http://null", 403},
		{"http://own", "null", "https://example.com", 403},
		{"http://own", "chrome-extension://abcdef", "chrome-extension://abcdef", 101},
		{"http://own", "chrome-extension://abcdef", "chrome-extension://abcdeg", 403},

		// Patterns that are none. They are found out by whoever comes first.
		{"http://own", "example.com", none, 500},
		{"http://own", "*.example.com", "http://own", 500},
		{"http://own", "https://", "http://own", 500},
		{"http://own", "https://example.com/", "https://example.com", 500},
		{"http://own", "https://example.com/path", "https://example.com", 500},
		{"http://own", "https://user@example.com", "https://example.com", 500},
		{"http://own", "https://*.*.example.com", "https://a.b.example.com", 500},
		{"http://own", "https://example.com:8*", "https://example.com:80", 500},
		{"http://own", "https://example.com:https", "https://example.com", 500},
		{"http://own", "*://example.com", "https://example.com", 500},
		{"http://own", "http*://example.com", "https://example.com", 500},
		{"http://own", "https://ex\u00e4mple.com", "https://example.com", 500},
		{"http://own", "https://a.com,https://b.com", "https://a.com", 500},
		{"http://own", "https://example.com example.com", "https://example.com", 500},
		{"http://own", "NULL", "null", 500},
		{"http://own", "**", "https://example.com", 500},
	} {
		for _, version := range []Version{RFC6455, Hixie76} {
			if version == Hixie76 && tt.origin == none {
				continue
			}
			server, err := url.Parse(tt.server)
			if err != nil {
				t.Fatal(err)
			}
			data := rfcHead
			if version == Hixie76 {
				data = editHead(t, hixieHead, "Connection:", "Content-Length: 8\r\nConnection:") + hixieToken
			}
			r := parsedRequest(t, data)
			r.Host = server.Host
			r.Header.Del("Origin")
			if tt.origin != none {
				r.Header.Set("Origin", tt.origin)
			}
			if server.Scheme == "https" {
				r.TLS = new(tls.ConnectionState)
			}
			// These can be sent by anybody.
			r.Header.Set("X-Forwarded-Host", "evil.com")
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("Forwarded", "host=evil.com;proto=https")
			o := &Options{Origins: strings.Fields(tt.patterns)}
			w := newHijackWriter()
			h, err := Upgrade(w, r, o)
			name := fmt.Sprintf("%v, %s for %q, %.100q", version, tt.server, tt.patterns, tt.origin)
			if tt.status == 101 {
				if err != nil || h == nil || !bytes.HasPrefix(w.conn.written(), []byte("HTTP/1.1 101 ")) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			e, ok := errors.AsType[*HandshakeError](err)
			if h != nil || !ok || e.Status != tt.status || w.Code != tt.status || len(w.conn.written()) > 0 {
				t.Errorf("%s: %v, %v, status %d", name, h, err, w.Code)
				continue
			}
			body := w.Body.String()
			switch bad := o.Origins[max(0, len(o.Origins)-1):]; {
			case tt.status == 403 && (e.Field != "Origin" || body != "pages of this origin may not connect\n"):
				t.Errorf("%s: field %q, text %q", name, e.Field, body)
			case tt.status != 500:
			case errors.Unwrap(e) == nil || !strings.Contains(errors.Unwrap(e).Error(), fmt.Sprintf("%q", bad[0])):
				t.Errorf("%s: error %v, which is %v", name, err, errors.Unwrap(e))
			case strings.Contains(body, bad[0]):
				t.Errorf("%s: the client was told %q", name, body)
			}
		}
	}
}

// The server's own origin is what the client of a real server sees.
func TestUpgradeOriginServers(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		u := newUpgrader(nil)
		s := serveTCP(t, u, secure)
		own, other := "http://", "https://"
		if secure {
			own, other = other, own
		}
		host := s.Listener.Addr().String()
		for _, tt := range []struct {
			fields string
			status int
		}{
			{"Origin: " + own + host + "\r\n", 101},
			{"", 101},
			{"Origin: " + other + host + "\r\n", 403},
			{"Origin: " + own + "127.0.0.1\r\n", 403},
			{"Origin: null\r\n", 403},
			{"Origin: \r\n", 101}, // as if there were none
			{"Origin: " + own + host + "\r\nOrigin: " + own + host + "\r\n", 400},
			{"Origin: https://evil.com\r\nX-Forwarded-Host: evil.com\r\nX-Forwarded-Proto: https\r\n", 403},
			{"Origin: https://evil.com\r\nForwarded: host=evil.com;proto=https\r\n", 403},
			{"Origin: " + own + host + ", https://evil.com\r\n", 403},
		} {
			conn := dialTCP(t, s)
			head := editHead(t, rfcHead, "server.example.com", host)
			head = editHead(t, head, "Origin: http://example.com\r\n", tt.fields)
			if _, err := io.WriteString(conn, head); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != tt.status {
				t.Errorf("TLS %v, %q: %v, %v", secure, tt.fields, resp, err)
			}
			if res := wait(t, u.result); res.c != nil {
				res.c.CloseNow()
			}
			conn.Close()
		}
	}
}

// What is no origin matches no pattern: a host of other characters than a URL's, or with a
// colon.
func TestUpgradeOriginSyntax(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ pattern, origin string }{
		{"https://kelvin.com", "https://\u212aelvin.com"}, // the Kelvin sign, in lower case k
		{"https://*.example.com", "https://evil.com:1.example.com:443"},
		{"https://*.example.com", "https://[::1].example.com"},
	} {
		r := parsedRequest(t, rfcHead)
		r.Header.Set("Origin", tt.origin)
		_, err := Upgrade(newHijackWriter(), r, &Options{Origins: []string{tt.pattern}})
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 403 {
			t.Errorf("%s for %s: %v", tt.origin, tt.pattern, err)
		}
	}
}
