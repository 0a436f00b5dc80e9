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
	"slices"
	"strings"
	"testing"
	"testing/synctest"
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

		// Spelled as clients do that are no browsers.
		{"http://example.com", "", "http://example.com/", 101},
		{"http://example.com", "", "ws://example.com", 101},
		{"http://example.com", "", "WS://example.com:80/", 101},
		{"http://example.com:8080", "", "ws://example.com:8080", 101},
		{"https://example.com", "", "https://example.com/", 101},
		{"https://example.com", "", "https://example.com:443/", 101},
		{"https://example.com", "", "wss://example.com", 101},
		{"https://example.com", "", "wss://example.com:443", 101},
		{"https://example.com", "", "https://example.com//", 403},
		{"https://example.com", "", "https:///", 403},
		{"http://example.com", "", "/", 403},
		{"https://example.com", "", "ws://example.com", 403},
		{"https://example.com", "", "ws://example.com:443", 403},

		// Where the connection is plain, a proxy may have ended TLS.
		{"http://example.com", "", "https://example.com", 101},
		{"http://example.com", "", "https://example.com:443", 101},
		{"http://example.com:443", "", "https://example.com", 101},
		{"http://example.com", "", "wss://example.com/", 101},
		{"http://example.com:8443", "", "https://example.com:8443", 101},
		{"http://example.com:8443", "", "https://example.com", 403},
		{"http://example.com", "", "https://example.com:8443", 403},
		{"http://example.com", "", "https://www.example.com", 403},
		{"http://example.com", "", "ftp://example.com", 403},

		// Others.
		{"https://example.com", "", "http://example.com", 403},
		{"https://example.com", "", "http://example.com:443", 403},
		{"http://example.com", "", "https://example.com:80", 403},
		{"http://example.com", "", "http://example.com:8080", 403},
		{"http://example.com:8080", "", "http://example.com", 403},
		{"http://example.com:8080", "", "http://example.com:80", 403},
		{"http://example.com:443", "", "http://example.com", 403},
		{"http://example.com", "", "http://www.example.com", 403},
		{"http://www.example.com", "", "http://example.com", 403},
		{"http://example.com", "", "http://com", 403},
		{"http://*.example.com", "", "http://www.example.com", 403},
		{"http://*", "", "http://*", 403},
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
		{"http://own", "https://*", "https://*", 403},
		{"http://own", "https://*.example.com", "https://*.example.com", 403},
		{"http://own", "https://*.example.com", "https://a_b-c.example.com", 101},
		{"http://own", "https://*.example.com", "https://a%2eevil.example.com", 403},
		{"http://own", "https://*.example.com", "https://a'.example.com", 403},
		{"http://own", "https://*.example.com", "https://a&b.example.com", 403},
		{"http://own", "https://*.example.com", "https://a;b.example.com", 403},
		{"http://own", "https://*.example.com", "https://a(b).example.com", 403},
		{"http://own", "https://*.example.com", "https://a+b.example.com", 403},
		{"http://own", "https://*.example.com", "https://a~b.example.com", 403},
		{"http://own", "https://*.example.com", "https://a<b>.example.com", 403},
		{"http://own", "https://*.example.com", "https://a\"b.example.com", 403},
		{"http://own", "https://*.example.com", "https://[::1.example.com]", 403},
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

		// Spellings that mean the same.
		{"http://own", "https://example.com/", "https://example.com", 101},
		{"http://own", "https://*.example.com/", "https://www.example.com/", 101},
		{"http://own", "http://localhost:*/", "http://localhost:3000", 101},
		{"http://own", "https://example.com", "https://example.com/", 101},
		{"http://own", "https://example.com", "wss://example.com", 101},
		{"http://own", "wss://example.com", "https://example.com", 101},
		{"http://own", "ws://example.com", "http://example.com:80", 101},
		{"http://own", "wss://example.com", "http://example.com", 403},
		{"https://own", "http://own", "http://own", 101},
		{"https://own", "http://own", "ws://own", 101},

		// Origins without a host, or a scheme.
		{"http://own", "file://", "file://", 101},
		{"http://own", "file://", "file:///", 101},
		{"http://own", "FILE:///", "file://", 101},
		{"http://own", "file://", "null", 403},
		{"http://own", "file://", "file:///etc/passwd", 403},
		{"http://own", "file://", "file://host", 403},
		{"http://own", "file://*", "file://", 403},
		{"http://own", "capacitor://localhost", "capacitor://localhost", 101},
		{"http://own", "", "own", 403},
		{"http://own", "example.com", "example.com", 101},
		{"http://own", "example.com", "Example.com/", 101},
		{"http://own", "example.com", "https://example.com", 403},
		{"http://own", "example.com", "example.com:8080", 403},
		{"http://own", "example.com:8080", "example.com:8080", 101},
		{"http://own", "*.example.com", "www.example.com", 101},
		{"http://own", "*.example.com", "https://www.example.com", 403},
		{"http://own", "https://example.com", "example.com", 403},

		// Patterns that are none match nothing, and hurt nobody.
		{"http://own", "https://", none, 101},
		{"http://own", "https://", "http://own", 101},
		{"http://own", "https://", "https://", 403},
		{"http://own", "https:///", "https://", 403},
		{"http://own", "/", "/", 403},
		{"http://own", "//", "//", 403},
		{"http://own", "https://example.com/path", "https://example.com", 403},
		{"http://own", "https://example.com/path", "https://example.com/path", 403},
		{"http://own", "https://example.com/path https://a.com", "https://a.com", 101},
		{"http://own", "https://user@example.com", "https://example.com", 403},
		{"http://own", "https://user@example.com", "https://user@example.com", 403},
		{"http://own", "https://*.*.example.com", "https://a.b.example.com", 403},
		{"http://own", "https://example.com:8*", "https://example.com:80", 403},
		{"http://own", "https://example.com:https", "https://example.com", 403},
		{"http://own", "*://example.com", "https://example.com", 403},
		{"http://own", "http*://example.com", "https://example.com", 403},
		{"http://own", "https://ex\u00e4mple.com", "https://ex\u00e4mple.com", 403},
		{"http://own", "https://a.com,https://b.com", "https://a.com", 403},
		{"http://own", "https://a.com,https://b.com", "https://a.com,https://b.com", 403},
		{"http://own", "NULL", "null", 403},
		{"http://own", "NULL", "NULL", 403},
		{"http://own", "**", "https://example.com", 403},
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
			if tt.status == 403 && (e.Field != "Origin" || !strings.HasPrefix(w.Body.String(), "pages of this origin may not connect")) {
				t.Errorf("%s: field %q, text %q", name, e.Field, w.Body)
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
		own, other, otherStatus := "http://", "https://", 101 // behind a proxy that ends TLS
		if secure {
			own, other, otherStatus = other, own, 403
		}
		host := s.Listener.Addr().String()
		for _, tt := range []struct {
			fields string
			status int
		}{
			{"Origin: " + own + host + "\r\n", 101},
			{"", 101},
			{"Origin: " + other + host + "\r\n", otherStatus},
			{"Origin: " + own + host + "/\r\n", 101},
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

// A refusal says what to list where a client that is no browser may be meant: its origin is
// that of the server but for TLS. A browser's page of that origin can be anybody's.
func TestUpgradeOriginPlain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ host, origin, list string }{
		{"example.com", "http://example.com", "http://example.com"},
		{"example.com:8443", "ws://EXAMPLE.com:8443/", "http://example.com:8443"},
		{"example.com", "http://example.com:443", "http://example.com:443"},
		{"[::1]:8443", "http://[::1]:80", "http://[::1]"},
		{"example.com", "http://example.org", ""},
		{"example.com", "http://example.com/<script>", ""},
		{"example.com", "https://example.org", ""},
	} {
		r := parsedRequest(t, rfcHead)
		r.Host, r.TLS = tt.host, new(tls.ConnectionState)
		r.Header.Set("Origin", tt.origin)
		w := newHijackWriter()
		if _, err := Upgrade(w, r, nil); err == nil || w.Code != 403 {
			t.Errorf("%s for %s: %v", tt.origin, tt.host, err)
		}
		want := "pages of this origin may not connect\n"
		if tt.list != "" {
			want = fmt.Sprintf("pages of this origin may not connect over TLS, unless Options.Origins has %q\n", tt.list)
		}
		if got := w.Body.String(); got != want {
			t.Errorf("%s for %s: %q, want %q", tt.origin, tt.host, got, want)
		}
		if tt.list == "" {
			continue
		}
		if c, err := Upgrade(newHijackWriter(), r, &Options{Origins: []string{tt.list}}); c == nil {
			t.Errorf("%s for %s, listed: %v", tt.origin, tt.host, err)
		}
	}
}

// Entries that are no origins are named, each once, where a Server logs, and in the error that
// Upgrade returns for a client that might have been meant. No client is told.
func TestUpgradeOriginsBad(t *testing.T) {
	bad := []string{"https://example.com/path", "https://a.com,https://b.com"}
	o := Options{Origins: append(slices.Clone(bad), "https://good.com", "*.good.com/", "")}
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: o}
		p := servePiped(t, s)
		for _, origin := range []string{"https://good.com", "", "https://example.com", "https://good.com"} {
			conn := p.connect(t)
			head := editHead(t, rfcHead, "Origin: http://example.com\r\n", "Origin: "+origin+"\r\n")
			go io.WriteString(conn, head)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 403, false: 101}[origin == "https://example.com"]; resp.StatusCode != want {
				t.Errorf("origin %q: %d, want %d", origin, resp.StatusCode, want)
			}
			synctest.Wait()
			got := p.log.String()
			if strings.Count(got, "Options.Origins") != 1 || strings.Count(got, "\n") != 1 {
				t.Errorf("log: %q", got)
			}
			for _, entry := range append(bad, "") {
				if strings.Count(got, fmt.Sprintf("%q", entry)) != 1 {
					t.Errorf("log: %q, without %q", got, entry)
				}
			}
			if strings.Contains(got, "good.com") {
				t.Errorf("log: %q", got)
			}
			conn.Close()
		}
		s.Shutdown(t.Context())
	})

	w := newHijackWriter()
	_, err := Upgrade(w, parsedRequest(t, rfcHead), &o)
	e, ok := errors.AsType[*HandshakeError](err)
	if !ok || errors.Unwrap(e) == nil || !strings.Contains(e.Error(), `["https://example.com/path" "https://a.com,https://b.com" ""]`) {
		t.Errorf("error %v", err)
	}
	if got := w.Body.String(); w.Code != 403 || got != "pages of this origin may not connect\n" {
		t.Errorf("status %d, the client was told %q", w.Code, got)
	}
	if _, err := Upgrade(newHijackWriter(), parsedRequest(t, rfcHead), &Options{Origins: o.Origins[2:4]}); err == nil || errors.Unwrap(err) != nil {
		t.Errorf("error %v with good entries", err)
	}
}

// A Conn with Options.Origins refuses pages of other origins, and without them none.
func TestRawOrigins(t *testing.T) {
	for _, tt := range []struct {
		origins []string
		origin  string
		refused bool
	}{
		{nil, "https://evil.example", false},
		{[]string{}, "https://evil.example", true},
		{[]string{}, "http://example.com", false}, // its own
		{[]string{"https://good.example"}, "https://evil.example", true},
		{[]string{"https://good.example"}, "https://good.example", false},
		{[]string{"https://good.example"}, "", false},
	} {
		for _, old := range []bool{false, true} {
			head := rfcHead
			if old && tt.origin != "" { // it always has one
				head = hixieHead + hixieToken
			}
			field := ""
			if tt.origin != "" {
				field = "Origin: " + tt.origin + "\r\n"
			}
			head = strings.Replace(head, "Origin: http://example.com\r\n", field, 1)
			head = strings.Replace(head, "server.example.com", "example.com", 1)
			for _, call := range []func(*Conn) error{
				func(c *Conn) error { _, err := GetRequest(c); return err },
				func(c *Conn) error { _, err := ShakeHands(c); return err },
			} {
				rw := &tape{in: [][]byte{[]byte(head)}}
				err := call(NewConn(rw, &Options{Origins: tt.origins}))
				e, ok := errors.AsType[*HandshakeError](err)
				if tt.refused && (!ok || e.Status != http.StatusForbidden) || !tt.refused && err != nil {
					t.Errorf("%q with %q, hixie-76: %t: %v", tt.origin, tt.origins, old, err)
				}
			}
		}
	}
}
