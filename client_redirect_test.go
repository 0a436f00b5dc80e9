//go:build !js

package websocket

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestDialRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization") + r.Header.Get("X-Secret"); a != "x" {
			t.Errorf("the other host has got %q", a)
		}
		echoHandler(&Options{Protocols: []string{"chat"}})(w, r)
	}))
	defer other.Close()
	// Another name is another host. Names that end in localhost are not looked up.
	otherURL := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)

	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			t.Errorf("%s has got Authorization %q", r.URL, r.Header["Authorization"])
		}
		echoHandler(&Options{Protocols: []string{"chat"}})(w, r)
	})
	mux.HandleFunc("/to/{status}", func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscan(r.PathValue("status"), &status)
		w.Header().Set("Location", r.URL.RawQuery)
		w.WriteHeader(status)
	})
	mux.HandleFunc("/circle", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, withScheme("ws", s.URL)+"/circle", http.StatusFound)
	})
	chained := "/to/302?/to/307?/end"
	for _, test := range []struct {
		name   string
		path   string
		text   string // of the error
		status int    // of the HandshakeError
	}{
		{"301", "/to/301?/end", "", 0},
		{"302", "/to/302?/end", "", 0},
		{"303", "/to/303?/end", "", 0},
		{"307", "/to/307?/end", "", 0},
		{"308", "/to/308?/end", "", 0},
		{"chain", chained, "", 0},
		{"relative", "/to/301?../end?a=b", "", 0},
		{"ws scheme", "/to/301?" + withScheme("ws", s.URL) + "/end", "", 0},
		{"upper-case scheme", "/to/301?" + withScheme("WS", s.URL) + "/end", "", 0},
		{"no scheme", "/to/301?" + withScheme("", s.URL)[1:] + "/end", "", 0},
		{"other host", "/to/307?" + otherURL, "", 0},
		{"other host, ws", "/to/302?" + withScheme("ws", otherURL), "", 0},
		{"circle", "/circle", "stopped after 10 redirects", 0},
		{"circle behind another", "/to/302?" + s.URL + "/circle", "stopped after 10 redirects", 0},
		{"other scheme", "/to/302?ftp://127.0.0.1/", "unsupported protocol scheme", 0},
		{"not found", "/to/302?/nowhere", "404 Not Found", 404},
		{"no Location", "/to/302?", "302", 302},
		{"not followed", "/to/300?/end", "300 Multiple Choices", 300},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := strings.Replace(withScheme("ws", s.URL), "//", "//u:p@", 1) + test.path
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			c, err := Dial(t.Context(), u, &Options{
				HTTPClient: client,
				Protocols:  []string{"chat"},
				Header:     http.Header{"X-Secret": {"x"}},
			})
			if test.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkEchoes(t, c)
				if c.Request().Protocol != "chat" {
					t.Error("no subprotocol")
				}
				c.Close()
				return
			}
			if c != nil || err == nil || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("%v, %v instead of %q", c, err, test.text)
			}
			if e, _ := errors.AsType[*HandshakeError](err); (e != nil) != (test.status != 0) || e != nil && (e.Status != test.status || e.Response == nil) {
				t.Errorf("the error is %#v", err)
			}
		})
	}
	t.Run("CheckRedirect", func(t *testing.T) {
		var asked []string
		no := errors.New("no further")
		client := &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
			asked = append(asked, fmt.Sprint(r.URL.Scheme, r.URL.Path, len(via)))
			if r.URL.Path == "/end" {
				return no
			}
			return nil
		}}
		check := reflect.ValueOf(client.CheckRedirect).Pointer()
		c, err := Dial(t.Context(), s.URL+"/to/301?"+withScheme("ws", s.URL)+chained, &Options{HTTPClient: client})
		if c != nil || !errors.Is(err, no) {
			t.Errorf("%v, %v", c, err)
		}
		if want := []string{"http/to/3021", "http/to/3072", "http/end3"}; !slices.Equal(asked, want) {
			t.Errorf("CheckRedirect was asked about %q instead of %q", asked, want)
		}
		if reflect.ValueOf(client.CheckRedirect).Pointer() != check {
			t.Error("the http.Client has changed")
		}
	})

	t.Run("ErrUseLastResponse", func(t *testing.T) {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		c, err := Dial(t.Context(), s.URL+"/to/307?/end", &Options{HTTPClient: client})
		e, ok := errors.AsType[*HandshakeError](err)
		if c != nil || !ok || e.Status != 307 || e.Response == nil || e.Response.Header.Get("Location") != "/end" {
			t.Errorf("%v, %#v", c, err)
		}
	})

	// ClientHandshake has one connection only and hands redirects out.
	t.Run("ClientHandshake", func(t *testing.T) {
		c, err := connectors[1].connect(t, t.Context(), "ws://h.example", nil,
			answerWith("HTTP/1.1 302 Found\r\nLocation: ws://other.example/\r\nContent-Length: 0\r\n\r\n"))
		e, ok := errors.AsType[*HandshakeError](err)
		if c != nil || !ok || e.Status != 302 || e.Response.Header.Get("Location") != "ws://other.example/" {
			t.Errorf("%v, %#v", c, err)
		}
	})
}

// TestDialReferer follows a redirect, and finds where from in Referer.
func TestDialReferer(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"wss", "wss", "https://a.example/?token=secret"},
		{"wss", "https", "https://a.example/?token=secret"},
		{"ws", "ws", "http://a.example/?token=secret"},
		{"ws", "wss", "http://a.example/?token=secret"},
	} {
		referers := make(chan string, 1)
		client := memoryClient(t, func(conn net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			switch {
			case err != nil:
				t.Error(err)
			case r.Host == "a.example":
				fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s://b.example/\r\nContent-Length: 0\r\n\r\n", test.to)
			default:
				referers <- r.Referer()
				io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
			}
		})
		_, err := Dial(t.Context(), test.from+"://a.example/?token=secret", &Options{HTTPClient: client})
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 404 {
			t.Fatalf("from %s to %s: %v", test.from, test.to, err)
		}
		if got := <-referers; got != test.want {
			t.Errorf("from %s to %s: Referer %q, want %q", test.from, test.to, got, test.want)
		}
	}
}

// TestDialDowngrade has redirects from TLS to plain text, which are not followed.
func TestDialDowngrade(t *testing.T) {
	checks := map[string]func(*http.Request, []*http.Request) error{
		"none":   nil,
		"all":    func(*http.Request, []*http.Request) error { return nil },
		"no use": func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, test := range []struct{ from, to string }{
		{"wss", "ws://a.example/b"},
		{"wss", "WS://b.example/"},
		{"wss", "http://a.example/b"},
		{"https", "ws://a.example:443/b"},
		{"wss", "wss://a.example/last"},
		{"ws", "wss://a.example/last"},
	} {
		for name, check := range checks {
			client := memoryClient(t, func(conn net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				to := test.to
				switch r.URL.Path {
				case "/a":
				case "/last":
					to = "ws://c.example/"
				default:
					t.Errorf("from %s to %s, %s: %s has got %v", test.from, test.to, name, r.Host, r.Header)
					io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
					return
				}
				fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", to)
			})
			client.CheckRedirect = check
			c, err := Dial(t.Context(), test.from+"://a.example/a", &Options{
				HTTPClient: client,
				Header:     http.Header{"Authorization": {"Bearer x"}, "Cookie": {"a=b"}},
			})
			e, refused := errors.AsType[*HandshakeError](err)
			if name == "no use" {
				if c != nil || !refused || e.Status != 302 {
					t.Errorf("from %s to %s, %s: %v, %v", test.from, test.to, name, c, err)
				}
			} else if c != nil || err == nil || refused || !strings.Contains(err.Error(), "redirects from wss to ws") {
				t.Errorf("from %s to %s, %s: %v, %v", test.from, test.to, name, c, err)
			}
		}
	}
}

// TestDialCredentials follows redirects. What Options.Header has of credentials stays with the
// host that it is for.
func TestDialCredentials(t *testing.T) {
	for _, test := range []struct {
		first string
		hosts []string // in the order they are led to
		kept  bool     // by the last
	}{
		{"ws://a.example", []string{"ws://a.example"}, true},
		{"ws://a.example", []string{"wss://a.example"}, true},
		{"ws://a.example:81", []string{"ws://a.example:82"}, true},
		{"ws://a.example", []string{"ws://b.example"}, false},
		{"ws://a.example", []string{"ws://b.a.example"}, false},
		{"ws://b.a.example", []string{"ws://a.example"}, false},
		{"ws://a.example", []string{"wss://aa.example"}, false},
		{"ws://a.example", []string{"ws://a.example", "ws://b.a.example"}, false},
		{"ws://a.example", []string{"ws://b.a.example", "ws://a.example"}, false}, // where b has led to
	} {
		got := make(chan http.Header, 1)
		hosts := make(chan string, len(test.hosts))
		for _, host := range test.hosts {
			hosts <- host
		}
		client := memoryClient(t, func(conn net.Conn) {
			r := bufio.NewReader(conn)
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				select {
				case host := <-hosts:
					fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s/a\r\nContent-Length: 0\r\n\r\n", host)
				default:
					got <- req.Header
					io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
					return
				}
			}
		})
		header := http.Header{"Authorization": {"Bearer x"}, "cookie": {"a=b"}, "Proxy-Authorization": {"Basic x"}, "X-Mine": {"x"}}
		_, err := Dial(t.Context(), test.first, &Options{HTTPClient: client, Header: header})
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != 404 {
			t.Fatalf("from %s to %q: %v", test.first, test.hosts, err)
		}
		h := <-got
		for name := range header {
			if has := h.Get(name) != ""; has != (test.kept || name == "X-Mine") {
				t.Errorf("from %s to %q: the field %s is there: %v", test.first, test.hosts, name, has)
			}
		}
	}
}
