package websocket

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// What a server has to say besides goes into its response, and into its refusal, but no field that
// the handshake needs itself, nor one that begins within another.
func TestResponseFields(t *testing.T) {
	extra := http.Header{"Set-Cookie": {"a=b", "c=d\r\nX: y"}, "Upgrade": {"none"}, "Sec-WebSocket-Accept": {"wrong"}, "bad name": {"x"}}
	for _, head := range []string{rfcHead, hixieHead + hixieToken} {
		for _, bare := range []bool{false, true} {
			if bare && head != rfcHead {
				continue
			}
			rw := &tape{in: [][]byte{[]byte(head)}}
			var w io.ReadWriter = rw
			if !bare {
				w = NewConn(rw, &Options{Header: http.Header{"Server": {"cat"}}})
			}
			req, err := GetRequest(w)
			if err != nil {
				t.Fatal(err)
			}
			req.ResponseHeader = extra
			if err := PutResponse(w, req); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(rw.written())), nil)
			if err != nil {
				t.Fatal(err)
			}
			server := []string{"cat"}
			if bare {
				server = nil
			}
			if h := resp.Header; !slices.Equal(h["Set-Cookie"], []string{"a=b", "c=d  X: y"}) || len(h["Upgrade"]) != 1 || h["X"] != nil ||
				len(h["Sec-Websocket-Accept"]) > 1 || h["Bad Name"] != nil || !slices.Equal(h["Server"], server) {
				t.Errorf("bare: %t: the response has %v", bare, h)
			}
			if c, ok := w.(*Conn); ok && !reflect.DeepEqual(c.Request().ResponseHeader, extra) {
				t.Error("Request has", c.Request().ResponseHeader)
			}
		}
	}
	var w bytes.Buffer
	refusal := &HandshakeError{Status: http.StatusFound, Reason: "It is over there.", Header: http.Header{"Location": {"/there"}, "Connection": {"x"}}}
	if err := PutRefusal(&w, refusal); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(&w), nil)
	if err != nil || resp.StatusCode != 302 || resp.Header.Get("Location") != "/there" || !resp.Close || len(resp.Header["Connection"]) > 1 {
		t.Errorf("the refusal is %v, %v", resp, err)
	}
	w.Reset()
	PutRefusal(&w, &HandshakeError{Status: http.StatusUpgradeRequired})
	if n := strings.Count(w.String(), "Connection:"); n != 1 {
		t.Errorf("a refusal with 426 has %d fields Connection", n)
	}
}

// A client knows what the server has sent, and a Server sends what its options say.
func TestClientResponseHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: Options{Header: http.Header{"Server": {"cat"}, "Via": {"options"}}}}
		l := serveMem(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Via", "handler")
			s.ServeHTTP(w, r)
		}), nil)
		c := dialMem(t, l, nil)
		if h := c.Request().ResponseHeader; h.Get("Server") != "cat" || !slices.Equal(h["Via"], []string{"handler"}) || h.Get("Upgrade") != "websocket" {
			t.Error("the client has got", h)
		}
		c.CloseNow()
		s.Shutdown(t.Context())
	})
}
