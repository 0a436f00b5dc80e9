package websocket

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// A request target is taken or refused alike on a raw listener and under net/http. A refusal
// says what is wrong.
func TestRequestTarget(t *testing.T) {
	t.Parallel()
	const uri = "which no URI may hold"
	for _, tt := range []struct {
		target string
		path   string // or, if it is refused, nothing
		reason string // if it is refused; net/http may do that with words of its own
	}{
		{"/chat?room=1", "/chat?room=1", ""},
		{"/", "/", ""},
		{"//chat", "//chat", ""},
		{"/-._~!$&'()*+,;=:@%20%e4/[]", "/-._~!$&'()*+,;=:@%20%e4/[]", ""}, // RFC 3986, section 3.3
		{"/?-._~!$&'()*+,;=:@%20%e4/[]?", "/?-._~!$&'()*+,;=:@%20%e4/[]?", ""},

		// What no URI may hold (RFC 3986, section 2).
		{"/a\"b", "", `the resource holds "\"", ` + uri},
		{"/a<b", "", `the resource holds "<", ` + uri},
		{"/a>b", "", `the resource holds ">", ` + uri},
		{"/a\\b", "", `the resource holds "\\", ` + uri},
		{"/a`b", "", "the resource holds \"`\", " + uri},
		{"/a{b", "", `the resource holds "{", ` + uri},
		{"/a}b", "", `the resource holds "}", ` + uri},
		{"/a#b", "", `the resource holds "#", ` + uri},
		{"/?a#b", "", `the resource holds "#", ` + uri},
		{"/?a\"b", "", `the resource holds "\"", ` + uri},
		{"/?a<b", "", `the resource holds "<", ` + uri},
		{"/?a>b", "", `the resource holds ">", ` + uri},
		{"/\u00e4", "", `the resource holds "\xc3", ` + uri},
		{"/?\u00e4", "", `the resource holds "\xc3", ` + uri},
		{"/\xff", "", `the resource holds "\xff", ` + uri},
		{"/%", "", `the resource holds "%", ` + uri},
		{"/%a", "", `the resource holds "%a", ` + uri},
		{"/%zzz", "", `the resource holds "%zz", ` + uri},
		{"/%20%2x?%20", "", `the resource holds "%2x", ` + uri},

		// Browsers do not escape these.
		{"/a|b^", "/a|b^", ""},
		{"/?{a|b}^`\\", "/?{a|b}^`\\", ""},
		{"/?100%", "/?100%", ""},
		{"/?%zz", "/?%zz", ""},

		{"*", "", "the resource is no absolute path"},
		{"chat", "", "the resource is no absolute path"},
		{"ftp://a.example/chat", "", "the resource is no absolute path"},
		{"/a b", "", "the request line has no HTTP version"},
	} {
		head := editHead(t, rfcHead, "/chat?room=1", tt.target)
		r := bufio.NewReader(strings.NewReader(head))
		parsed, parseErr := http.ReadRequest(r)
		for name, shake := range map[string]func() (*Request, error){
			"GetRequest": func() (*Request, error) { return GetRequest(strings.NewReader(head)) },
			"Upgrade": func() (*Request, error) {
				if parseErr != nil {
					return nil, badRequest("", tt.reason)
				}
				c, err := Upgrade(newHijackWriter(), parsed, &Options{Origins: []string{"*"}})
				if err != nil {
					return nil, err
				}
				return c.Request(), nil
			},
		} {
			req, err := shake()
			e, ok := errors.AsType[*HandshakeError](err)
			switch {
			case tt.path != "" && (err != nil || req.Path != tt.path):
				t.Errorf("%s of %q: %+v, %v", name, tt.target, req, err)
			case tt.path == "" && (!ok || e.Status != 400 || e.Field != ""):
				t.Errorf("%s of %q: %+v, %v, want 400", name, tt.target, req, err)
			case tt.path == "" && e.Reason != tt.reason:
				t.Errorf("%s of %q: %q, want %q", name, tt.target, e.Reason, tt.reason)
			}
		}
	}
}

// An absolute URI names the host that the client asks for, in place of the field Host (RFC
// 9112, section 3.2.2), on a raw listener and under net/http. It is also the server's own host
// for pages that connect.
func TestRequestTargetAbsolute(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ target, host, path string }{
		{"ws://a.example/chat?room=2", "a.example", "/chat?room=2"},
		{"wss://a.example:8443/chat", "a.example:8443", "/chat"},
		{"http://a.example/chat", "a.example", "/chat"},
		{"HTTPS://A.example/chat", "A.example", "/chat"},
		{"Ws://[::1]:80", "[::1]:80", "/"},
		{"ws://a.example?room=2", "a.example", "/?room=2"},
		{"ws://a.example/%61|b", "a.example", "/%61|b"},
		{"ws://a.example//b", "a.example", "//b"},
		{"ws://a.example/?to=ws://b.example/", "a.example", "/?to=ws://b.example/"},
		{"/?to=ws://b.example/", "server.example.com", "/?to=ws://b.example/"},
	} {
		head := editHead(t, rfcHead, "/chat?room=1", tt.target)
		head = editHead(t, head, "http://example.com", "http://"+tt.host)
		req, err := GetRequest(strings.NewReader(head))
		if err != nil || req.Host != tt.host || req.Path != tt.path {
			t.Errorf("GetRequest of %q: %+v, %v", tt.target, req, err)
		}
		r := parsedRequest(t, head)
		w := newHijackWriter()
		http.StripPrefix("/", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			c, err := Upgrade(w, r, nil)
			if err != nil {
				t.Errorf("Upgrade of %q: %v", tt.target, err)
				return
			}
			if req := c.Request(); req.Host != tt.host || req.Path != tt.path {
				t.Errorf("Upgrade of %q: %+v", tt.target, req)
			}
		})).ServeHTTP(w, r)
		r.Header.Set("Origin", "http://own.example")
		if _, err := Upgrade(newHijackWriter(), r, nil); err == nil {
			t.Errorf("Upgrade of %q accepts a page of another host", tt.target)
		}
	}
}
