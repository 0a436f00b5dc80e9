package websocket

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// TestRequestKept checks that a Conn gives back what it has accepted, after the caller's
// Request has changed.
func TestRequestKept(t *testing.T) {
	for _, v := range []struct{ name, head string }{
		{"RFC 6455", strings.Replace(rfcHead, "\r\n\r\n", "\r\nCookie: a=1\r\nx-twice: one\r\nX-Twice:   two  \r\nX-Empty:\r\n\r\n", 1)},
		{"hixie-76", hixieHead + hixieToken},
	} {
		t.Run(v.name, func(t *testing.T) {
			rw := struct {
				io.Reader
				io.Writer
			}{strings.NewReader(v.head), io.Discard}
			h := NewConn(rw, &Options{Protocols: []string{"superchat"}})
			req, err := ShakeHands(h)
			if err != nil {
				t.Fatal(err)
			}
			got := h.Request()
			if !reflect.DeepEqual(got, req) {
				t.Errorf("kept %+v of %+v", got, req)
			}
			want := got.Host + got.Path + fmt.Sprint(got.Header)
			// Each is the caller's own.
			for _, r := range []*Request{req, h.Request()} {
				r.Host, r.Path = "", ""
				clear(r.Header)
				clear(r.Protocols)
			}
			for _, p := range []*Request{got, h.Request()} {
				if p.Host+p.Path+fmt.Sprint(p.Header) != want || len(p.Protocols) > 0 && p.Protocols[0] == "" {
					t.Errorf("changed to %+v", p)
				}
			}
		})
	}
	// What handlers in front of Upgrade have put into the fields is not parsed.
	h := http.Header{":protocol": {"websocket"}, "x-lower": {" a "}, "X-User": {"bob\r\nX-Admin: yes", ""}, "X-Json": {"{\r\n}"}}
	if got := (&Request{Header: h}).keep().request().Header; !reflect.DeepEqual(got, h) {
		t.Errorf("kept %q of %q", got, h)
	}
}

// Whatever the fields of a Request are, and whatever else has the same text, all are kept.
func TestRequestKeptWhole(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]func(field string) string{
		"different": func(field string) string { return "the " + field },
		"alike":     func(string) string { return "text" },
		"none":      func(string) string { return "" },
	} {
		for _, header := range []http.Header{
			{},
			{"A": {"text"}, "Text": {"", "the Path, the Host", "the Protocols"}},
			{"Protocols": {"c, a"}, "X": {strings.Repeat("x", 1000) + "b"}},
			{"": {""}},
		} {
			r := &Request{Header: header}
			for f, v := range reflect.ValueOf(r).Elem().Fields() {
				switch p := v.Addr().Interface().(type) {
				case *string:
					*p = text(f.Name)
				case *bool:
					*p = true
				case *Version:
					*p = Hixie76
				case *[]string:
					*p = []string{text("a"), text(f.Name), "c", "b", "c", ""}
				case *http.Header:
				default:
					t.Fatalf("the field %s is new", f.Name)
				}
			}
			if got := r.keep().request(); !reflect.DeepEqual(got, r) {
				t.Errorf("%s: kept %+v of %+v", name, got, r)
			}
		}
	}
}

// TestRequestPacked checks that strings come back as they were, and that what browsers send takes
// little memory.
func TestRequestPacked(t *testing.T) {
	t.Parallel()
	if len(phrases) > 0x80 {
		t.Errorf("there are %d phrases", len(phrases))
	}
	texts := []string{"", "\x80", "a\xff", "é localhost", strings.Repeat("https://", maxPacked), "local"}
	for i, p := range phrases {
		texts = append(texts, p, p[1:], p[:len(p)-1], p+"\x7f"+p, p+"\x80"+p)
		for _, later := range phrases[i:] {
			if p == "" || p[0] >= 0x80 || later != p && strings.HasPrefix(later, p) {
				t.Errorf("%q is before %q", p, later)
			}
		}
	}
	for _, s := range texts {
		b, packed := appendPacked([]byte("dst"), []byte(s))
		got, ok := strings.CutPrefix(string(b), "dst")
		if packed {
			got = unpack(got)
		}
		if !ok || got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
	}
	for _, b := range browserHeads[:4] {
		head := headLines(b.head)
		if n := len(checkAccepted(t, head).keep()); n > len(head)*3/5 {
			t.Errorf("%s: %d bytes of a head of %d", b.name, n, len(head))
		}
	}
}

// The head of a request takes little more memory than it has bytes, for as long as its
// connection lives, and what Request returns shares it. Not parallel: it measures memory.
func TestRequestMemory(t *testing.T) {
	const n = 300
	held := func(open func() any) int {
		kept := make([]any, n)
		var before, after runtime.MemStats
		for _, m := range []*runtime.MemStats{&before, &after} {
			runtime.GC()
			runtime.GC() // for the second time, since pools keep what they have once
			runtime.ReadMemStats(m)
			for i := range kept {
				if m == &before {
					kept[i] = open()
				}
			}
		}
		runtime.KeepAlive(kept)
		return int(after.HeapAlloc-before.HeapAlloc) / n
	}
	// more returns how much more b holds than a. What other tests have left behind may be freed
	// meanwhile, so more than the limit is measured again.
	more := func(a, b func() any, limit int) (size int) {
		for range 3 {
			if size = held(b) - held(a); size <= limit {
				break
			}
		}
		return size
	}
	open := map[string]func(head string) *Conn{
		"Upgrade": func(head string) *Conn {
			c, err := Upgrade(newHijackWriter(), parsedRequest(t, head), &Options{Origins: []string{"*"}})
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		"ShakeHands": func(head string) *Conn {
			c := NewConn(&memStream{Reader: strings.NewReader(head)}, nil)
			if _, err := ShakeHands(c); err != nil {
				t.Fatal(err)
			}
			return c
		},
	}
	add := func(head, fields string) string { return strings.TrimSuffix(head, "\r\n") + fields + "\r\n" }
	small := ""
	for i := range 80 {
		small += fmt.Sprintf("X-%02d: %d\r\n", i, i)
	}
	heads := map[string]string{
		"small fields": add(rfcHead, small),
		"long Cookie":  add(rfcHead, "Cookie: "+strings.Repeat("c", 3000)+"\r\n"),
	}
	for _, b := range browserHeads[:4] {
		heads[b.name] = headLines(b.head)
	}
	type both struct {
		c    *Conn
		r, s *Request
	}
	for way, open := range open {
		for name, head := range heads {
			bare := func() any {
				c := open(head)
				c.req = ""
				return c
			}
			kept := func() any { return open(head) }
			limit := len(head) * 6 / 5
			if size := more(bare, kept, limit); size > limit {
				t.Errorf("%s, %s: %d bytes of a head of %d", way, name, size, len(head))
			}
			if name != "long Cookie" {
				continue // the maps are larger than the text
			}
			shared := func() any {
				c := open(head)
				r := c.Request()
				return both{c, r, c.Request()}
			}
			if size := more(kept, shared, len(head)); size > len(head) {
				t.Errorf("%s, %s: two Requests hold %d bytes more, of a head of %d", way, name, size, len(head))
			}
		}
	}
}
