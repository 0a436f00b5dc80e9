package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// Two messages of a client: that of RFC 6455, section 5.7, and one with an
// extended length; and the same in hixie-76.
var (
	rfcFrames = [2]string{
		"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
		"\x82\xfe\x00\xc8\x00\x00\x00\x00" + strings.Repeat("\x00\xff\r\n", 50),
	}
	hixieFrames = [2]string{
		"\x00Hello\xff",
		"\x00" + strings.Repeat("\u00e9\r\n", 50) + "\xff",
	}
	rfcMessages   = [2]string{"Hello", strings.Repeat("\x00\xff\r\n", 50)}
	hixieMessages = [2]string{"Hello", strings.Repeat("\u00e9\r\n", 50)}
)

// handshakes is what a client of each version sends: its opening handshake and,
// right behind it, two messages.
var handshakes = []struct {
	name             string
	version          Version
	hello            string
	frames, messages [2]string
}{
	{"RFC 6455", RFC6455, rfcHead, rfcFrames, rfcMessages},
	{"hixie-76", Hixie76, hixieHead + hixieToken, hixieFrames, hixieMessages},
}

// deliveries are the ways in which a stream may hand out its bytes.
var deliveries = []struct {
	name string
	wrap func(io.Reader) io.Reader
}{
	{"whole", func(r io.Reader) io.Reader { return r }},
	{"byte by byte", iotest.OneByteReader},
	{"in halves", iotest.HalfReader},
	{"with EOF", iotest.DataErrReader},
	{"byte by byte with EOF", func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) }},
	{"in pieces", func(r io.Reader) io.Reader {
		data, _ := io.ReadAll(r)
		return newChunkReader(data, 5)
	}},
}

// A Conn loses nothing that comes in one piece with the opening handshake.
func TestShakeHandsConn(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		for _, d := range deliveries {
			t.Run(c.name+"/"+d.name, func(t *testing.T) {
				stream := &memStream{Reader: d.wrap(strings.NewReader(c.hello + c.frames[0] + c.frames[1]))}
				checkConversation(t, NewConn(stream, nil), c.version, c.messages)
				req := checkAccepted(t, c.hello)
				if got, want := stream.out.String(), string(CreateResponse(req)); got != want || stream.writes != 1 {
					t.Errorf("%d writes, response %q, want %q", stream.writes, got, want)
				}
			})
		}
		t.Run(c.name+"/split", func(t *testing.T) {
			data := c.hello + c.frames[0] + c.frames[1]
			for i := range len(data) {
				stream := &memStream{Reader: io.MultiReader(strings.NewReader(data[:i]), strings.NewReader(data[i:]))}
				checkConversation(t, NewConn(stream, nil), c.version, c.messages)
			}
		})
	}
}

// checkConversation shakes hands and reads two messages and the end.
func checkConversation(t *testing.T, h *Conn, version Version, messages [2]string) {
	t.Helper()
	req, err := ShakeHands(h)
	if err != nil || req.Version != version || !reflect.DeepEqual(h.Request(), req) {
		t.Fatalf("handshake: %+v, %v", req, err)
	}
	for _, want := range messages {
		if p, err := GetFrame(h); err != nil || string(p) != want {
			t.Fatalf("got %q, %v, want %q", p, err, want)
		}
	}
	for range 2 {
		if p, err := GetFrame(h); err != io.EOF || len(p) != 0 {
			t.Fatalf("behind the messages: %q, %v", p, err)
		}
	}
}

// From a bare stream every function takes what is its own and nothing else.
func TestShakeHandsBare(t *testing.T) {
	t.Parallel()
	for _, d := range deliveries {
		t.Run(d.name, func(t *testing.T) {
			for n := range 4 {
				stream := &memStream{Reader: d.wrap(strings.NewReader(rfcHead + rfcFrames[0] + rfcFrames[1]))}
				req, err := ShakeHands(stream)
				if err != nil || req.Version != RFC6455 {
					t.Fatalf("handshake: %+v, %v", req, err)
				}
				if got, want := stream.out.String(), string(CreateResponse(req)); got != want || stream.writes != 1 {
					t.Fatalf("%d writes, response %q, want %q", stream.writes, got, want)
				}
				for i := range min(n, 2) {
					if p, err := GetFrame(stream); err != nil || string(p) != rfcMessages[i] {
						t.Fatalf("got %q, %v, want %q", p, err, rfcMessages[i])
					}
				}
				if n == 3 {
					if p, err := GetFrame(stream); err != io.EOF || len(p) != 0 {
						t.Fatalf("behind the messages: %q, %v", p, err)
					}
				}
				rest, err := io.ReadAll(stream)
				if want := strings.Join(rfcFrames[min(n, 2):], ""); err != nil || string(rest) != want {
					t.Fatalf("behind %d messages: %q, %v, want %q", n, rest, err, want)
				}
			}
		})
	}
}

// A bare stream can read the opening handshake of hixie-76, but not accept it.
func TestShakeHandsBareHixie(t *testing.T) {
	t.Parallel()
	for _, d := range deliveries {
		t.Run(d.name, func(t *testing.T) {
			data := hixieHead + hixieToken + hixieFrames[0]
			in := d.wrap(strings.NewReader(data))
			if req, err := GetRequest(in); err != nil || req.Version != Hixie76 {
				t.Errorf("GetRequest: %+v, %v", req, err)
			}
			if rest, err := io.ReadAll(in); err != nil || string(rest) != hixieFrames[0] {
				t.Errorf("behind the token: %q, %v", rest, err)
			}

			stream := &memStream{Reader: d.wrap(strings.NewReader(data))}
			req, err := ShakeHands(stream)
			var he *HandshakeError
			if req != nil || !errors.As(err, &he) || !strings.Contains(err.Error(), "NewConn") {
				t.Fatalf("ShakeHands: %+v, %v", req, err)
			}
			if stream.writes != 1 {
				t.Errorf("the refusal took %d writes", stream.writes)
			}
			checkRefusal(t, stream.out.String(), he.Status)
		})
	}
}

// loopback returns both ends of a TCP connection.
func loopback(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); c.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// The same over TCP, where a Conn waits for input in a way of its own.
func TestShakeHandsTCP(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		for _, d := range deliveries {
			t.Run(c.name+"/"+d.name, func(t *testing.T) {
				server, client := loopback(t)
				sent := make(chan error, 1)
				go func() {
					// The structs keep Copy to one write a read.
					_, err := io.Copy(struct{ io.Writer }{client}, struct{ io.Reader }{d.wrap(strings.NewReader(c.hello + c.frames[0] + c.frames[1]))})
					sent <- errors.Join(err, client.CloseWrite())
				}()
				checkConversation(t, NewConn(server, nil), c.version, c.messages)
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				server.Close()
				want := string(CreateResponse(checkAccepted(t, c.hello)))
				if got, err := io.ReadAll(client); err != nil || string(got) != want {
					t.Errorf("response %q, %v, want %q", got, err, want)
				}
			})
		}
		for _, cut := range []int{1, 50, len(c.hello) - 1} {
			t.Run(fmt.Sprint(c.name, "/deadline at ", cut), func(t *testing.T) {
				server, client := loopback(t)
				h := NewConn(server, nil)
				io.WriteString(client, c.hello[:cut])
				h.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				if _, err := ShakeHands(h); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				h.SetReadDeadline(time.Time{})
				io.WriteString(client, c.hello[cut:]+c.frames[0]+c.frames[1])
				client.CloseWrite()
				checkConversation(t, h, c.version, c.messages)
			})
		}
	}
}

// Responses, byte for byte.
func TestCreateResponse(t *testing.T) {
	t.Parallel()
	const rfcStart = "HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	const hixieStart = "HTTP/1.1 101 WebSocket Protocol Handshake\r\n" +
		"Upgrade: WebSocket\r\n" +
		"Connection: Upgrade\r\n"
	type test struct {
		name, data string
		secure     bool
		protocol   string
		want       string
	}
	tests := []test{
		{"RFC 6455 4.2.2 (5)", rfcHead, false, "", rfcStart + "\r\n"},
		{"RFC 6455 4.2.2 (5), subprotocol", rfcHead, false, "superchat", rfcStart + "Sec-WebSocket-Protocol: superchat\r\n\r\n"},
		{"RFC 6455 4.2.2 (5), over TLS", rfcHead, true, "chat", rfcStart + "Sec-WebSocket-Protocol: chat\r\n\r\n"},
		{"hixie-76 rule 8", hixieHead + hixieToken, false, "", hixieStart +
			"Sec-WebSocket-Origin: http://example.com\r\n" +
			"Sec-WebSocket-Location: ws://example.com/demo?room=1\r\n\r\n8jKS'y:G*Co,Wxa-"},
		{"hixie-76 rule 8, subprotocol", hixieHead + hixieToken, false, "sample", hixieStart +
			"Sec-WebSocket-Origin: http://example.com\r\n" +
			"Sec-WebSocket-Location: ws://example.com/demo?room=1\r\n" +
			"Sec-WebSocket-Protocol: sample\r\n\r\n8jKS'y:G*Co,Wxa-"},
		{"hixie-76 rule 8, over TLS", hixieHead + hixieToken, true, "", hixieStart +
			"Sec-WebSocket-Origin: http://example.com\r\n" +
			"Sec-WebSocket-Location: wss://example.com/demo?room=1\r\n\r\n8jKS'y:G*Co,Wxa-"},
		{"hixie-76 rule 8, Host as sent", editHead(t, hixieHead, "example.com", "EXAMPLE.com:8080") + hixieToken, false, "", hixieStart +
			"Sec-WebSocket-Origin: http://example.com\r\n" +
			"Sec-WebSocket-Location: ws://EXAMPLE.com:8080/demo?room=1\r\n\r\n8jKS'y:G*Co,Wxa-"},
		{"hixie-76 rule 8, Origin as sent", editHead(t, hixieHead, "http://", "HTTP://a b ") + hixieToken, false, "", hixieStart +
			"Sec-WebSocket-Origin: HTTP://a b example.com\r\n" +
			"Sec-WebSocket-Location: ws://example.com/demo?room=1\r\n\r\n8jKS'y:G*Co,Wxa-"},
	}
	for _, v := range hixieVectors {
		tests = append(tests, test{"hixie-76 rule 7, " + v.source, hixieRequest(v.key1, v.key2, v.token), false, "", hixieStart +
			"Sec-WebSocket-Origin: http://example.com\r\n" +
			"Sec-WebSocket-Location: ws://example.com/demo?room=1\r\n\r\n" + v.answer})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := checkAccepted(t, tt.data)
			req.Secure, req.Protocol = tt.secure, tt.protocol
			got := CreateResponse(req)
			if string(got) != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			checkResponse(t, req, got)
			var stream memStream
			if err := PutResponse(&stream, req); err != nil || stream.writes != 1 || stream.out.String() != tt.want {
				t.Errorf("PutResponse: %v, %d writes of %q", err, stream.writes, stream.out.String())
			}
		})
	}
}

// checkResponse checks that a response answers req and says nothing else.
func checkResponse(t testing.TB, req *Request, response []byte) {
	t.Helper()
	want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	status, scheme := "101 Switching Protocols", "ws://"
	head, token := string(response), ""
	if req.Version == Hixie76 {
		status = "101 WebSocket Protocol Handshake"
		head, token = head[:max(0, len(head)-16)], head[max(0, len(head)-16):]
		if req.Secure {
			scheme = "wss://"
		}
		want["Upgrade"] = []string{"WebSocket"}
		want["Sec-Websocket-Origin"] = []string{req.Origin}
		want["Sec-Websocket-Location"] = []string{scheme + req.Host + req.Path}
	} else {
		want["Sec-Websocket-Accept"] = []string{string(CreateToken(req))}
	}
	if req.Protocol != "" {
		want["Sec-Websocket-Protocol"] = []string{req.Protocol}
	}
	lines, ok := strings.CutSuffix(head, "\r\n\r\n")
	if !ok || strings.ContainsAny(strings.ReplaceAll(lines, "\r\n", ""), "\r\n") || strings.Count(lines, "\r\n") != len(want) {
		t.Fatalf("lines of response %q to %+v", response, req)
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head)), nil)
	if err != nil {
		t.Fatalf("response %q to %+v: %v", response, req, err)
	}
	if resp.Status != status || !reflect.DeepEqual(resp.Header, want) || token != "" && token != string(CreateToken(req)) {
		t.Fatalf("response %q to %+v, want %q", response, req, want)
	}
}

// checkRefusal checks that raw is one HTTP response with the status, down to
// its last byte, and returns its text.
func checkRefusal(t testing.TB, raw string, status int) string {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(raw))
	resp, err := http.ReadResponse(r, &http.Request{Method: "GET"})
	if err != nil {
		t.Fatalf("refusal %q: %v", raw, err)
	}
	body, err := io.ReadAll(resp.Body)
	rest, _ := io.ReadAll(r)
	if err != nil || len(rest) > 0 || resp.ContentLength != int64(len(body)) {
		t.Errorf("refusal %q: body of %d bytes, %v, and then %q", raw, resp.ContentLength, err, rest)
	}
	if resp.StatusCode != status || !resp.ProtoAtLeast(1, 1) || !resp.Close {
		t.Errorf("refusal %q: status %d, want %d", raw, resp.StatusCode, status)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("refusal %q: type %q", raw, got)
	}
	for _, tt := range []struct {
		rule, field string
		status      int
		want        []string
	}{
		{"RFC 9110 15.5.6", "Allow", 405, []string{"GET"}},
		{"RFC 9110 15.5.22", "Upgrade", 426, []string{"websocket"}},
		{"RFC 6455 4.4", "Sec-Websocket-Version", 426, []string{"13"}},
	} {
		if tt.status != status {
			tt.want = nil
		}
		if got := resp.Header[tt.field]; !slices.Equal(got, tt.want) {
			t.Errorf("%s: refusal %q: %s %q, want %q", tt.rule, raw, tt.field, got, tt.want)
		}
	}
	// RFC 9110, section 7.8; ReadResponse takes the field out.
	if strings.Contains(raw, "\r\nConnection: Upgrade\r\n") != (status == 426) {
		t.Errorf("refusal %q: wrong Connection", raw)
	}
	return string(body)
}

func TestPutRefusal(t *testing.T) {
	t.Parallel()
	for status := 400; status <= 599; status++ {
		for _, reason := range []string{"", "Go away.", "\u00e9", "a\r\n\r\nHTTP/1.1 200 OK\r\n"} {
			for _, conn := range []bool{false, true} {
				stream := &memStream{Reader: strings.NewReader("")}
				var w io.ReadWriter = stream
				if conn {
					w = NewConn(stream, nil)
				}
				if err := PutRefusal(w, status, reason); err != nil || stream.writes != 1 {
					t.Fatalf("%d %q: %v, %d writes", status, reason, err, stream.writes)
				}
				if got := checkRefusal(t, stream.out.String(), status); got != reason+"\n" {
					t.Fatalf("%d: got %q, want %q", status, got, reason)
				}
			}
		}
	}
	for _, status := range []int{-1, 0, 99, 101, 200, 302, 399, 600, 1400} {
		stream := &memStream{Reader: strings.NewReader(rfcHead)}
		c := NewConn(stream, nil)
		if PutRefusal(stream, status, "") == nil || PutRefusal(c, status, "") == nil || stream.writes != 0 {
			t.Errorf("%d: no error, or %d writes", status, stream.writes)
		}
		if _, err := ShakeHands(c); err != nil {
			t.Errorf("%d: and then: %v", status, err)
		}
	}
}

// No CR or LF that a program or a client has put into a Request comes into a
// response.
func TestPutResponseInjection(t *testing.T) {
	t.Parallel()
	for _, data := range []string{rfcHead, hixieHead + hixieToken} {
		good := checkAccepted(t, data)
		fields := map[string]func(*Request) *string{
			"Host":   func(r *Request) *string { return &r.Host },
			"Path":   func(r *Request) *string { return &r.Path },
			"Origin": func(r *Request) *string { return &r.Origin },
			"Protocol": func(r *Request) *string {
				r.Protocols = []string{""}
				return &r.Protocols[0]
			},
		}
		if good.Version == RFC6455 {
			fields["Key"] = func(r *Request) *string { return &r.Key }
		} else {
			fields["Key1"] = func(r *Request) *string { return &r.Key1 }
			fields["Key2"] = func(r *Request) *string { return &r.Key2 }
		}
		for name, field := range fields {
			t.Run(good.Version.String()+"/"+name, func(t *testing.T) {
				for _, bad := range []string{"\r", "\n", "\r\n\r\n", "\r\nX: y", "\x00", "\x7f"} {
					for _, where := range []string{"in front", "behind"} {
						req := *good
						p := field(&req)
						if where == "behind" {
							*p += bad
						} else {
							*p = bad + *p
						}
						if name == "Protocol" {
							req.Protocol = *p
						}
						if got := CreateResponse(&req); got != nil {
							t.Fatalf("%q %s: response %q", bad, where, got)
						}
						checkNoResponse(t, &req)
					}
				}
			})
		}
	}
}

// checkNoResponse checks that PutResponse has an error for req and writes
// nothing.
func checkNoResponse(t *testing.T, req *Request) {
	t.Helper()
	stream := &memStream{Reader: strings.NewReader("")}
	for _, w := range []io.Writer{stream, NewConn(stream, nil)} {
		var he *HandshakeError
		if err := PutResponse(w, req); !errors.As(err, &he) || stream.writes != 0 {
			t.Fatalf("PutResponse to a %T: %v, wrote %q", w, err, stream.out.String())
		}
	}
}

// A Request that GetRequest would not have returned gets no response.
func TestPutResponseRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		data string
		edit func(*Request)
	}{
		{"empty", rfcHead, func(r *Request) { *r = Request{} }},
		{"no version", rfcHead, func(r *Request) { r.Version = 0 }},
		{"version 8", rfcHead, func(r *Request) { r.Version = 8 }},
		{"version without its keys", rfcHead, func(r *Request) { r.Version = Hixie76 }},
		{"version without its key", hixieHead + hixieToken, func(r *Request) { r.Version = RFC6455 }},
		{"no Host", rfcHead, func(r *Request) { r.Host = "" }},
		{"Host beyond ASCII", rfcHead, func(r *Request) { r.Host = "\u00e9" }},
		{"no Path", rfcHead, func(r *Request) { r.Path = "" }},
		{"Path with a space", rfcHead, func(r *Request) { r.Path = "/ HTTP/1.1" }},
		{"no Key", rfcHead, func(r *Request) { r.Key = "" }},
		{"Protocol not offered", rfcHead, func(r *Request) { r.Protocol = "other" }},
		{"Protocol not offered, another case", rfcHead, func(r *Request) { r.Protocol = "CHAT" }},
		{"Protocol not offered, two of them", rfcHead, func(r *Request) { r.Protocol = "chat, superchat" }},
		{"Protocol, none offered", rfcHead, func(r *Request) { r.Protocols, r.Protocol = nil, "chat" }},
		{"Protocol is no token", rfcHead, func(r *Request) { r.Protocols, r.Protocol = []string{"a, b"}, "a, b" }},
		{"hixie-76, Protocol not offered", hixieHead + hixieToken, func(r *Request) { r.Protocol = "other" }},
		{"hixie-76, no Origin", hixieHead + hixieToken, func(r *Request) { r.Origin = "" }},
		{"hixie-76, no Key1", hixieHead + hixieToken, func(r *Request) { r.Key1 = "" }},
		{"hixie-76, no Key2", hixieHead + hixieToken, func(r *Request) { r.Key2 = "" }},
		{"hixie-76, no Token", hixieHead + hixieToken, func(r *Request) { r.Token = "" }},
		{"hixie-76, Token too long", hixieHead + hixieToken, func(r *Request) { r.Token += "x" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := checkAccepted(t, tt.data)
			tt.edit(req)
			if got := CreateResponse(req); got != nil {
				t.Errorf("CreateResponse: %q", got)
			}
			checkNoResponse(t, req)
		})
	}

	// It was the request that was wrong: a corrected one is welcome.
	stream := &memStream{Reader: strings.NewReader(rfcHead)}
	h := NewConn(stream, nil)
	req, err := GetRequest(h)
	if err != nil {
		t.Fatal(err)
	}
	req.Protocol = "other"
	if err := PutResponse(h, req); err == nil {
		t.Error("PutResponse with a subprotocol that was not offered succeeds")
	}
	req.Protocol = "chat"
	if err := PutResponse(h, req); err != nil {
		t.Error(err)
	}
	checkResponse(t, req, stream.out.Bytes())
}

// The errors of a writer are passed on.
func TestPutResponseWriterError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	req := checkAccepted(t, rfcHead)
	for _, tt := range []struct {
		name  string
		write func([]byte) (int, error)
		want  error
	}{
		{"broken", func([]byte) (int, error) { return 0, broken }, broken},
		{"short", func(p []byte) (int, error) { return len(p) - 1, nil }, io.ErrShortWrite},
	} {
		w := struct {
			io.Reader
			writerFunc
		}{strings.NewReader(rfcHead), tt.write}
		if err := PutResponse(w, req); err != tt.want {
			t.Errorf("%s: PutResponse: %v", tt.name, err)
		}
		if err := PutRefusal(w, 403, "no"); err != tt.want {
			t.Errorf("%s: PutRefusal: %v", tt.name, err)
		}
		h := NewConn(w, nil)
		if _, err := ShakeHands(h); err != tt.want {
			t.Errorf("%s: ShakeHands: %v", tt.name, err)
		}
		if err := PutFrame(h, nil); err != tt.want {
			t.Errorf("%s: PutFrame: %v", tt.name, err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// ShakeHands takes the first of the server's subprotocols that is offered.
func TestShakeHandsProtocols(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		data   string
		server []string
		want   string
	}{
		{rfcHead, nil, ""},
		{rfcHead, []string{"superchat", "chat"}, "superchat"},
		{rfcHead, []string{"chat", "superchat"}, "chat"},
		{rfcHead, []string{"other", "chat"}, "chat"},
		{rfcHead, []string{"other", "CHAT", ""}, ""},
		{hixieHead + hixieToken, []string{"other", "sample"}, "sample"},
		{hixieHead + hixieToken, []string{"other"}, ""},
		{editHead(t, rfcHead, "Sec-WebSocket-Protocol: chat, superchat\r\n", ""), []string{"chat"}, ""},
	} {
		stream := &memStream{Reader: strings.NewReader(tt.data)}
		req, err := ShakeHands(NewConn(stream, &Options{Protocols: tt.server}))
		if err != nil || req.Protocol != tt.want {
			t.Errorf("server %q: %+v, %v, want %q", tt.server, req, err, tt.want)
			continue
		}
		checkResponse(t, req, stream.out.Bytes())
	}
}

// The filter of a server: look at the request, then accept the client.
func TestFilterAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		t.Run(c.name, func(t *testing.T) {
			stream := &memStream{Reader: strings.NewReader(c.hello + c.frames[0] + c.frames[1])}
			h := NewConn(stream, nil)
			req, err := GetRequest(h)
			if err != nil || h.Request() != nil {
				t.Fatalf("GetRequest: %v, Conn has %v", err, h.Request())
			}
			if req.Origin != "http://example.com" {
				t.Fatalf("origin %q", req.Origin)
			}
			// Nothing leaves before the response.
			_, writerErr := h.NextWriter(Text)
			_, writeErr := h.Write(nil)
			for i, err := range []error{
				PutFrame(h, []byte("early")), h.WriteMessage(Text, nil), h.Ping(t.Context()), writerErr, writeErr,
			} {
				if err == nil {
					t.Errorf("write %d before the response succeeds", i)
				}
			}
			if stream.writes != 0 {
				t.Fatalf("wrote %q before the response", stream.out.String())
			}
			// Nor is anything read, in a version that is not settled.
			if p, err := GetFrame(h); err == nil || err == io.EOF {
				t.Errorf("read %q, %v before the response", p, err)
			}
			if err := PutResponse(h, req); err != nil || !reflect.DeepEqual(h.Request(), req) {
				t.Fatalf("PutResponse: %v, Conn has %+v", err, h.Request())
			}
			for _, want := range c.messages {
				if p, err := GetFrame(h); err != nil || string(p) != want {
					t.Fatalf("got %q, %v, want %q", p, err, want)
				}
			}
			if err := PutFrame(h, []byte("meow")); err != nil {
				t.Fatal(err)
			}
			want := "\x81\x04meow"
			if c.version == Hixie76 {
				want = "\x00meow\xff"
			}
			if got := stream.out.String(); got != string(CreateResponse(req))+want {
				t.Errorf("wrote %q, want the response and %q", got, want)
			}
		})
	}
}

// The filter of a server: look at the request, then turn the client away.
func TestFilterRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		t.Run(c.name, func(t *testing.T) {
			stream := &closeStream{memStream: memStream{Reader: strings.NewReader(c.hello + c.frames[0])}}
			h := NewConn(stream, nil)
			req, err := GetRequest(h)
			if err != nil {
				t.Fatal(err)
			}
			if err := PutRefusal(h, http.StatusForbidden, "not you"); err != nil {
				t.Fatal(err)
			}
			if got := checkRefusal(t, stream.out.String(), 403); got != "not you\n" {
				t.Errorf("text %q", got)
			}
			_, _, err = h.ReadMessage()
			var he *HandshakeError
			if !errors.As(err, &he) || he.Status != 403 || !strings.Contains(err.Error(), "not you") {
				t.Errorf("read: %v", err)
			}
			checkDead(t, h, req, err)
			if err := h.Close(); err != nil || !stream.closed {
				t.Errorf("Close: %v, transport closed %v", err, stream.closed)
			}
			checkDead(t, h, req, err)
			if stream.writes != 1 {
				t.Errorf("%d writes: %q", stream.writes, stream.out.String())
			}
			if h.Request() != nil {
				t.Errorf("the Conn has accepted %+v", h.Request())
			}
		})
	}
}

// A closeStream is a memStream that can be closed.
type closeStream struct {
	memStream
	closed bool
}

func (s *closeStream) Close() error {
	s.closed = true
	return nil
}

// checkDead checks that every method of h that reads or writes returns want.
func checkDead(t *testing.T, h *Conn, req *Request, want error) {
	t.Helper()
	calls := []struct {
		name string
		call func() error
	}{
		{"ReadMessage", func() error { _, _, err := h.ReadMessage(); return err }},
		{"AppendMessage", func() error { _, _, err := h.AppendMessage(nil); return err }},
		{"NextReader", func() error { _, _, err := h.NextReader(); return err }},
		{"Read", func() error { _, err := h.Read(make([]byte, 1)); return err }},
		{"GetFrame", func() error { _, err := GetFrame(h); return err }},
		{"GetRequest", func() error { _, err := GetRequest(h); return err }},
		{"ShakeHands", func() error { _, err := ShakeHands(h); return err }},
		{"WriteMessage", func() error { return h.WriteMessage(Text, nil) }},
		{"NextWriter", func() error { _, err := h.NextWriter(Text); return err }},
		{"Write", func() error { _, err := h.Write(nil); return err }},
		{"Ping", func() error { return h.Ping(t.Context()) }},
		{"PutFrame", func() error { return PutFrame(h, nil) }},
		{"PutRefusal", func() error { return PutRefusal(h, 400, "again") }},
	}
	if req != nil {
		calls = append(calls, struct {
			name string
			call func() error
		}{"PutResponse", func() error { return PutResponse(h, req) }})
	}
	for _, c := range calls {
		if err := c.call(); err != want {
			t.Errorf("%s: %v (%p), want %v (%p)", c.name, err, err, want, want)
		}
	}
}

// After a handshake that failed, a Conn has the error of ShakeHands for
// everything, and its Close sends no frame.
func TestShakeHandsFails(t *testing.T) {
	t.Parallel()
	for _, head := range []string{
		editHead(t, rfcHead, "Version: 13", "Version: 8"),
		editHead(t, rfcHead, "GET", "POST"),
		editHead(t, hixieHead, "Origin: http://example.com\r\n", "") + hixieToken,
	} {
		stream := &closeStream{memStream: memStream{Reader: strings.NewReader(head)}}
		h := NewConn(stream, nil)
		_, err := ShakeHands(h)
		var he *HandshakeError
		if !errors.As(err, &he) {
			t.Fatal(err)
		}
		checkRefusal(t, stream.out.String(), he.Status)
		checkDead(t, h, nil, err)
		if err := h.Close(); err != nil || !stream.closed || stream.writes != 1 {
			t.Errorf("Close: %v, transport closed %v, %d writes: %q", err, stream.closed, stream.writes, stream.out.String())
		}
	}
}

// A refusal arrives even if the client still has much to send: Close does not
// reset the connection.
func TestRefusalArrives(t *testing.T) {
	t.Parallel()
	server, client := loopback(t)
	h := NewConn(server, nil)
	done := make(chan error, 1)
	go func() {
		_, err := ShakeHands(h)
		h.Close()
		done <- err
	}()
	if _, err := io.WriteString(client, editHead(t, rfcHead, "/chat", "/"+strings.Repeat("a", 1<<20))); err != nil {
		t.Error(err)
	}
	response, err := io.ReadAll(client)
	if err != nil {
		t.Error(err)
	}
	checkRefusal(t, string(response), 431)
	client.Close()
	var he *HandshakeError
	if err := <-done; !errors.As(err, &he) {
		t.Error(err)
	}
}

// Close between the request and the response sends nothing.
func TestFilterCloses(t *testing.T) {
	t.Parallel()
	stream := &closeStream{memStream: memStream{Reader: strings.NewReader(rfcHead)}}
	h := NewConn(stream, nil)
	req, err := GetRequest(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil || !stream.closed {
		t.Errorf("Close: %v, transport closed %v", err, stream.closed)
	}
	if err := PutResponse(h, req); !errors.Is(err, net.ErrClosed) {
		t.Errorf("PutResponse: %v", err)
	}
	if stream.writes != 0 {
		t.Errorf("wrote %q", stream.out.String())
	}
}

// A deadlineConn remembers the read deadline that was set last.
type deadlineConn struct {
	net.Conn
	deadline time.Time
}

func (c *deadlineConn) SetReadDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetReadDeadline(t)
}

// letPass lets time pass in the bubble of a test, and reports false once the test
// is over.
func letPass(t *testing.T, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-t.Context().Done():
		return false
	}
}

// dripHead writes s to w, a byte every second.
func dripHead(t *testing.T, w io.Writer, s string) {
	for i := range len(s) {
		if _, err := io.WriteString(w, s[i:i+1]); err != nil || !letPass(t, time.Second) {
			return
		}
	}
}

// A client that takes too long is refused, and the caller's own deadline is
// kept.
func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		for _, tt := range []struct {
			name    string
			options *Options
			user    time.Duration // the caller's deadline, or 0
			quick   int           // bytes that come at once
			want    time.Duration
		}{
			{"default", nil, 0, 0, 10 * time.Second},
			{"in the last bytes", nil, 0, len(c.hello) - 12, 10 * time.Second},
			{"option", &Options{HandshakeTimeout: 3 * time.Second}, 0, 0, 3 * time.Second},
			{"before the caller's", nil, time.Hour, 0, 10 * time.Second},
		} {
			t.Run(c.name+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := net.Pipe()
					defer b.Close()
					response := make(chan string, 1)
					go func() {
						p, _ := io.ReadAll(b)
						response <- string(p)
					}()
					go func() {
						io.WriteString(b, c.hello[:tt.quick])
						dripHead(t, b, c.hello[tt.quick:])
					}()
					start := time.Now()
					var user time.Time
					if tt.user > 0 {
						user = start.Add(tt.user)
					}
					rec := &deadlineConn{Conn: a}
					h := NewConn(rec, tt.options)
					h.SetReadDeadline(user)
					_, err := ShakeHands(h)
					var he *HandshakeError
					if !errors.As(err, &he) || he.Status != 408 || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("error %v", err)
					}
					if d := time.Since(start); d != tt.want {
						t.Errorf("took %v, want %v", d, tt.want)
					}
					if !rec.deadline.Equal(user) {
						t.Errorf("left the deadline %v, want %v", rec.deadline, user)
					}
					if _, again := GetRequest(h); again != err {
						t.Errorf("and then %v", again)
					}
					h.Close()
					checkRefusal(t, <-response, 408)
				})
			})
		}
	}
}

// Without a limit of its own, or with an earlier deadline of the caller's, a
// handshake does not fail for good.
func TestHandshakeTimeoutResumes(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		for _, tt := range []struct {
			name    string
			options *Options
			user    time.Duration
			want    time.Duration // when GetRequest returns first
		}{
			{"no limit", &Options{HandshakeTimeout: -1}, 0, 0},
			{"the caller's first", &Options{HandshakeTimeout: time.Hour}, 4 * time.Second, 4 * time.Second},
			{"no limit but the caller's", &Options{HandshakeTimeout: -1}, time.Minute, time.Minute},
		} {
			t.Run(c.name+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := net.Pipe()
					defer b.Close()
					go dripHead(t, b, c.hello)
					start := time.Now()
					rec := &deadlineConn{Conn: a}
					h := NewConn(rec, tt.options)
					defer h.CloseNow()
					if tt.user > 0 {
						h.SetReadDeadline(start.Add(tt.user))
						_, err := GetRequest(h)
						var he *HandshakeError
						if !errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &he) {
							t.Fatalf("error %v", err)
						}
						if d := time.Since(start); d != tt.want {
							t.Errorf("took %v, want %v", d, tt.want)
						}
						if !rec.deadline.Equal(start.Add(tt.user)) {
							t.Errorf("left the deadline %v", rec.deadline)
						}
						h.SetReadDeadline(time.Time{})
					}
					if req, err := GetRequest(h); err != nil || req.Version != c.version {
						t.Errorf("%+v, %v", req, err)
					}
					if !rec.deadline.IsZero() {
						t.Errorf("left the deadline %v", rec.deadline)
					}
				})
			})
		}
	}
}

// After the handshake the caller's deadline holds for reads, or none does.
func TestHandshakeDeadlineAfter(t *testing.T) {
	t.Parallel()
	for _, c := range handshakes {
		for _, user := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprint(c.name, "/", user), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := net.Pipe()
					defer b.Close()
					h := NewConn(a, nil)
					defer h.CloseNow()
					start := time.Now()
					if user > 0 {
						h.SetReadDeadline(start.Add(user))
					}
					go io.Copy(io.Discard, b)
					go io.WriteString(b, c.hello)
					if _, err := ShakeHands(h); err != nil {
						t.Fatal(err)
					}
					go func() {
						if letPass(t, 2*time.Hour) {
							io.WriteString(b, c.frames[0])
						}
					}()
					p, err := GetFrame(h)
					if user > 0 {
						if d := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || d != user {
							t.Fatalf("after %v: %q, %v", d, p, err)
						}
						h.SetReadDeadline(time.Time{})
						p, err = GetFrame(h)
					}
					if err != nil || string(p) != c.messages[0] {
						t.Errorf("got %q, %v", p, err)
					}
				})
			})
		}
	}
}

// A deadline that the caller sets while a handshake is being read counts like
// one that was set before, and outlives it, as it does with any net.Conn.
func TestHandshakeDeadlineDuring(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, set func(h *Conn)) (h *Conn, client net.Conn) {
		a, b := net.Pipe()
		h = NewConn(a, nil)
		t.Cleanup(func() { h.CloseNow(); b.Close() })
		go func() {
			if letPass(t, time.Second) {
				set(h)
			}
		}()
		go io.Copy(io.Discard, b)
		return h, b
	}
	t.Run("earlier than the limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			h, b := start(t, func(h *Conn) { h.SetReadDeadline(time.Now().Add(time.Second)) })
			go io.WriteString(b, rfcHead[:50])
			_, err := GetRequest(h)
			var he *HandshakeError
			if d := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &he) || d != 2*time.Second {
				t.Fatalf("after %v: %v, want a timeout that is not final", d, err)
			}
			h.SetReadDeadline(time.Time{})
			go io.WriteString(b, rfcHead[50:])
			if _, err := GetRequest(h); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("later than the limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			h, b := start(t, func(h *Conn) { h.SetReadDeadline(time.Now().Add(time.Hour)) })
			go dripHead(t, b, rfcHead)
			_, err := GetRequest(h)
			var he *HandshakeError
			if d := time.Since(began); !errors.As(err, &he) || he.Status != 408 || d != 10*time.Second {
				t.Errorf("after %v: %v, want 408", d, err)
			}
		})
	})
	t.Run("afterwards", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			h, b := start(t, func(h *Conn) { h.SetReadDeadline(time.Now().Add(time.Minute)) })
			go func() {
				letPass(t, 2*time.Second)
				io.WriteString(b, rfcHead)
				letPass(t, time.Hour)
				io.WriteString(b, rfcFrames[0])
			}()
			if _, err := ShakeHands(h); err != nil {
				t.Fatal(err)
			}
			p, err := GetFrame(h)
			if d := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || d != time.Second+time.Minute {
				t.Errorf("after %v: %q, %v, want a timeout", d, p, err)
			}
		})
	})
}

// Closing a Conn ends a handshake that waits.
func TestHandshakeClosed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Conn) error{
		"Close":    (*Conn).Close,
		"CloseNow": (*Conn).CloseNow,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer b.Close()
				h := NewConn(a, nil)
				begun := time.Now()
				go func() {
					io.WriteString(b, rfcHead[:50])
					end(h)
				}()
				written := make(chan []byte, 1)
				go func() {
					p, _ := io.ReadAll(b)
					written <- p
				}()
				if _, err := ShakeHands(h); !errors.Is(err, net.ErrClosed) {
					t.Errorf("ShakeHands: %v", err)
				}
				if p := <-written; len(p) > 0 || time.Since(begun) > 0 {
					t.Errorf("wrote %q in %v", p, time.Since(begun))
				}
			})
		})
	}
}

// A memListener is a listener whose connections are pipes in memory, so that a Write of
// the client has been read when it returns.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	wrap  func(net.Conn) net.Conn // of the server's end, if not nil
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memListener) Addr() net.Addr { return noAddr{} }

func (l *memListener) dial(t testing.TB) net.Conn {
	t.Helper()
	var a net.Conn
	a, b := net.Pipe()
	if l.wrap != nil {
		a = l.wrap(a)
	}
	select {
	case l.conns <- a:
	case <-l.done:
		t.Fatal("the server is closed")
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// An upgrader is a handler that upgrades its requests and then returns.
type upgrader struct {
	opts   *Options
	before func(http.ResponseWriter, *http.Request)
	result chan upgraded
}

type upgraded struct {
	c   *Conn
	err error
}

func newUpgrader(o *Options) *upgrader { return &upgrader{opts: o, result: make(chan upgraded, 1)} }

func (u *upgrader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if u.before != nil {
		u.before(w, r)
	}
	c, err := Upgrade(w, r, u.opts)
	u.result <- upgraded{c, err}
}

// accepted returns the connection that has been made.
func (u *upgrader) accepted(t testing.TB) *Conn {
	t.Helper()
	res := wait(t, u.result)
	if res.err != nil || res.c == nil {
		t.Fatalf("Upgrade: %v, %v", res.c, res.err)
	}
	t.Cleanup(func() { res.c.CloseNow() })
	return res.c
}

// refused returns the error of a request that has been refused.
func (u *upgrader) refused(t testing.TB) *HandshakeError {
	t.Helper()
	res := wait(t, u.result)
	e, ok := errors.AsType[*HandshakeError](res.err)
	if !ok || res.c != nil {
		t.Fatalf("Upgrade: %v, %v, want a *HandshakeError", res.c, res.err)
	}
	return e
}

// serveMem serves h in memory until the test ends.
func serveMem(t testing.TB, h http.Handler, config func(*http.Server)) *memListener {
	t.Helper()
	l := newMemListener()
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	if config != nil {
		config(s)
	}
	done := goErr(func() error { return s.Serve(l) })
	t.Cleanup(func() {
		s.Close()
		if err := wait(t, done); err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return l
}

// serveTCP serves h on a socket until the test ends.
func serveTCP(t testing.TB, h http.Handler, secure bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// dialTCP connects to s, with TLS if it has that.
func dialTCP(t testing.TB, s *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if s.TLS != nil {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// send writes s in the background.
func send(w io.Writer, s string) <-chan error {
	return goErr(func() error { _, err := io.WriteString(w, s); return err })
}

// expect reads exactly want.
func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// upgradeHellos are handshakes, and that of the clients of hixie-76 which announce their
// token as a body.
func upgradeHellos(t testing.TB) (all []struct {
	name             string
	version          Version
	hello            string
	frames, messages [2]string
}) {
	all = slices.Clone(handshakes)
	announced := all[1]
	announced.name += " with Content-Length"
	announced.hello = editHead(t, announced.hello, "Upgrade: WebSocket\r\n", "Upgrade: WebSocket\r\nContent-Length: 8\r\n")
	return append(all, announced)
}

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
				if err := wait(t, served); err != io.EOF {
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
		{"4.2.1 (5), no Key", rfcHead, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "Sec-WebSocket-Key", "Sec-WebSocket-Key is not 16 bytes in base64", ""},
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
			rows = append(rows, row{fmt.Sprintf("4.2.1 (5), key %.60q", key), rfcHead, "dGhlIHNhbXBsZSBub25jZQ==", key, 400,
				"Sec-WebSocket-Key", "Sec-WebSocket-Key is not 16 bytes in base64", ""})
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

// HTTP/2 without its CONNECT has no upgrade. Nor is there a response of HTTP/1.1 to it.
func TestUpgradeHTTP2Page(t *testing.T) {
	t.Parallel()
	u := newUpgrader(nil)
	s := httptest.NewUnstartedServer(u)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	for _, tt := range []struct {
		method string
		status int
		field  string
	}{
		{"GET", 426, ""},
		{"POST", 405, ""},
	} {
		r, err := http.NewRequest(tt.method, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		e := u.refused(t)
		if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != tt.status || string(body) != e.Reason+"\n" || e.Field != tt.field {
			t.Errorf("%s %s: %q, %v, error %+v", resp.Proto, resp.Status, body, err, e)
		}
		for _, name := range []string{"Connection", "Upgrade"} { // RFC 9113, section 8.2.2
			if got := resp.Header[name]; got != nil {
				t.Errorf("%s: %s %q", resp.Status, name, got)
			}
		}
	}
}

// A wrapped writer is one as middleware makes them.
type wrappedWriter struct{ http.ResponseWriter }

func (w wrappedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A hijackWriter is a writer whose connection is a tape, or an error.
type hijackWriter struct {
	*httptest.ResponseRecorder
	conn tapeNetConn
	err  error
}

func newHijackWriter() *hijackWriter {
	return &hijackWriter{ResponseRecorder: httptest.NewRecorder(), conn: tapeNetConn{tape: new(tape)}}
}

func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.err != nil {
		return nil, nil, w.err
	}
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// A tapeNetConn makes a tape a net.Conn.
type tapeNetConn struct {
	net.Conn // nil, for the methods that are not called
	*tape
}

func (c tapeNetConn) Read(p []byte) (int, error)       { return c.tape.Read(p) }
func (c tapeNetConn) Write(p []byte) (int, error)      { return c.tape.Write(p) }
func (c tapeNetConn) Close() error                     { return c.tape.Close() }
func (c tapeNetConn) SetDeadline(time.Time) error      { return nil }
func (c tapeNetConn) SetReadDeadline(time.Time) error  { return nil }
func (c tapeNetConn) SetWriteDeadline(time.Time) error { return nil }

// parsedRequest is data as a server has got it, with the token of hixie-76 as its body.
func parsedRequest(t testing.TB, data string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

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
				for name := range hopFields {
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

// An http2Test is a test of what comes over HTTP/2.
type http2Test struct {
	name   string
	bubble bool // in which time is not real
	test   func(*testing.T, []tls.Certificate)
}

// TestUpgradeHTTP2 tests clients that come with the extended CONNECT of RFC 8441.
func TestUpgradeHTTP2(t *testing.T) {
	runHTTP2(t, []http2Test{
		{"echo", false, testHTTP2Echo},
		{"refusals", true, testHTTP2Refuses},
		{"close", true, testHTTP2Close},
		{"read deadline", true, testHTTP2ReadDeadline},
		{"write deadline", true, testHTTP2WriteDeadline},
		{"deadlines of the server", true, testHTTP2ServerTimeouts},
		{"end of the stream", true, testHTTP2Ends},
		{"close while blocked", true, testHTTP2CloseBlocked},
		{"many streams", false, testHTTP2Streams},
		{"Server", true, testHTTP2Server},
		{"version in a refusal", true, testHTTP2Version},
		{"writer without deadlines", false, testHTTP2Recorder},
		{"handler returns", true, testHTTP2HandlerReturns},
		{"Close when the handler returns", false, testHTTP2LateClose},
		{"reset behind a busy reader", true, testHTTP2Reset},
		{"client that does not read", false, testHTTP2Unread},
		{"WriteByteTimeout", true, testHTTP2ByteTimeout},
		{"log", true, testHTTP2Log},
		{"Server.Serve", true, testHTTP2Serve},
	})
}

// runHTTP2 runs tests. Both sides of net/http know the extended CONNECT only if the
// environment said so at the start of the process, so the program is started once more.
func runHTTP2(t *testing.T, tests []http2Test) {
	const setting = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), setting) {
		t.Parallel()
		args := []string{"-test.run=^" + t.Name() + "$", "-test.timeout=1m"}
		if testing.Verbose() {
			args = append(args, "-test.v")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+","+setting, ","))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.bubble {
				synctest.Test(t, func(t *testing.T) { tt.test(t, s.TLS.Certificates) })
			} else {
				tt.test(t, s.TLS.Certificates)
			}
		})
	}
}

// An h2Client is a connection of HTTP/2.
type h2Client struct {
	http.RoundTripper
	host string
}

// openHTTP2 serves h and connects to it.
func openHTTP2(t *testing.T, certs []tls.Certificate, h http.Handler, config func(*http.Server)) *h2Client {
	t.Helper()
	return openHTTP2On(t, newMemListener(), certs, h, config)
}

func openHTTP2On(t *testing.T, l *memListener, certs []tls.Certificate, h http.Handler, config func(*http.Server)) *h2Client {
	t.Helper()
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: certs}}
	if config != nil {
		config(s)
	}
	done := goErr(func() error { return s.ServeTLS(l, "", "") })
	conn := tls.Client(l.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	// A Transport does not send fields whose names have a colon; what it makes of a
	// connection of HTTP/2 does.
	transport := &http.Transport{ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	transport.CloseIdleConnections() // fills TLSNextProto
	const host = "example.com:443"
	rt := transport.TLSNextProto["h2"](host, conn)
	t.Cleanup(func() {
		conn.Close()
		s.Close()
		if err := wait(t, done); err != http.ErrServerClosed {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	})
	return &h2Client{rt, host}
}

// An h2Stream is the client's end of a stream.
type h2Stream struct {
	io.ReadCloser
	*io.PipeWriter
}

func (s *h2Stream) Close() error {
	s.PipeWriter.Close()
	return s.ReadCloser.Close()
}

func (s *h2Stream) CloseWrite() error { return s.PipeWriter.Close() }

// connect sends an extended CONNECT (RFC 8441, section 5), with more fields or others.
func (c *h2Client) connect(t *testing.T, fields ...string) (*http.Response, *h2Stream) {
	t.Helper()
	r, w := io.Pipe()
	header := http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	for i := 0; i < len(fields); i += 2 {
		if header[fields[i]] = []string{fields[i+1]}; fields[i+1] == "" {
			delete(header, fields[i])
		}
	}
	resp, err := c.RoundTrip(&http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "https", Host: c.host, Path: "/chat", RawQuery: "room=1"},
		Host:   strings.TrimSuffix(c.host, ":443"),
		Header: header,
		Body:   r,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &h2Stream{resp.Body, w}
	t.Cleanup(func() { s.Close() })
	return resp, s
}

// open is connect where the server accepts.
func (c *h2Client) open(t *testing.T, fields ...string) (*Conn, *h2Stream) {
	t.Helper()
	resp, s := c.connect(t, fields...)
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	return newConn(s, &Options{MaxMessage: -1}, true), s
}

// serve2 is a handler that upgrades and calls serve.
func serve2(o *Options, serve func(*Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		w.Header().Set("Sec-WebSocket-Protocol", "evil")
		w.Header().Set("Sec-WebSocket-Accept", "evil")
		if h, err := Upgrade(w, r, o); err == nil {
			defer h.CloseNow()
			serve(h)
		}
	})
}

func testHTTP2Echo(t *testing.T, certs []tls.Certificate) {
	requests := make(chan *Request, 1)
	c := openHTTP2(t, certs, serve2(&Options{Protocols: []string{"superchat"}, MaxMessage: -1}, func(h *Conn) {
		requests <- h.Request()
		echo(h)
	}), nil)
	resp, s := c.connect(t, "Origin", "https://example.com", "Sec-Websocket-Protocol", "chat, superchat")
	if resp.StatusCode != 200 || resp.Header.Get("Sec-Websocket-Protocol") != "superchat" || resp.Header.Get("Set-Cookie") != "a=1" ||
		resp.Header["Sec-Websocket-Accept"] != nil || len(resp.Header["Sec-Websocket-Protocol"]) != 1 ||
		resp.Header["Upgrade"] != nil || resp.Header["Connection"] != nil {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
	req := wait(t, requests)
	if req.Version != RFC6455 || req.Host != "example.com" || req.Path != "/chat?room=1" || req.Origin != "https://example.com" ||
		!req.Secure || req.Key != "" || req.Protocol != "superchat" || len(req.Protocols) != 2 {
		t.Errorf("%+v", req)
	}
	client := newConn(s, &Options{MaxMessage: -1}, true)
	for _, size := range []int{0, 1, 125, 126, 4096, 65535, 65536, 3 << 20} {
		p := bytes.Repeat([]byte("\x00\xff\r\n"), size/4+1)[:size]
		sent := goErr(func() error { return client.WriteMessage(Binary, p) })
		if typ, got, err := client.ReadMessage(); err != nil || typ != Binary || !bytes.Equal(got, p) {
			t.Fatalf("%d bytes: %v of %d, %v", size, typ, len(got), err)
		}
		if err := wait(t, sent); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func testHTTP2Refuses(t *testing.T, certs []tls.Certificate) {
	u := newUpgrader(nil)
	c := openHTTP2(t, certs, u, nil)
	for _, tt := range []struct {
		field, value string
		status       int
	}{
		{"Origin", "https://evil.com", 403},
		{"Origin", "http://example.com", 403},
		{"Origin", "null", 403},
		{":protocol", "webtransport", 501},
		{":protocol", "WebSocket", 501},
		{"Sec-Websocket-Version", "", 426},
		{"Sec-Websocket-Version", "8", 426},
		{"Sec-Websocket-Protocol", "a b", 400},
		{"Sec-Websocket-Protocol", "a, a", 400},
	} {
		resp, s := c.connect(t, tt.field, tt.value)
		s.CloseWrite()
		body, err := io.ReadAll(resp.Body)
		e := u.refused(t)
		if resp.StatusCode != tt.status || e.Status != tt.status || err != nil || string(body) != e.Reason+"\n" ||
			tt.field != ":protocol" && !strings.EqualFold(e.Field, tt.field) {
			t.Errorf("%s %q: %s, %q, %v, error %+v", tt.field, tt.value, resp.Status, body, err, e)
		}
		if resp.Header["Upgrade"] != nil || resp.Header["Connection"] != nil {
			t.Errorf("%s has %v", resp.Status, resp.Header)
		}
	}
}

func testHTTP2Close(t *testing.T, certs []tls.Certificate) {
	ends := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		_, p, err := h.ReadMessage()
		if string(p) == "close" {
			err = h.CloseWith(4001, "server")
		}
		ends <- err
	}), nil)
	client, _ := c.open(t)
	if err := client.CloseWith(4000, "client"); err != nil {
		t.Error(err)
	}
	if ce, ok := errors.AsType[*CloseError](wait(t, ends)); !ok || ce.Code != 4000 || ce.Reason != "client" {
		t.Errorf("server: %v", ce)
	}

	client, _ = c.open(t)
	if err := client.WriteMessage(Text, []byte("close")); err != nil {
		t.Fatal(err)
	}
	_, _, err := client.ReadMessage()
	if ce, ok := errors.AsType[*CloseError](err); !ok || ce.Code != 4001 || ce.Reason != "server" {
		t.Errorf("client: %v", err)
	}
	if err := wait(t, ends); err != nil {
		t.Errorf("server: %v", err)
	}
	client.Close()

	// A client that does not answer is given up after a while.
	_, s := c.open(t)
	begun := time.Now()
	s.Write(toward(&Conn{}, opText, "close"))
	drained := goErr(func() error { _, err := io.Copy(io.Discard, s.ReadCloser); return err })
	if err := wait(t, ends); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != closeTimeout {
		t.Errorf("server: %v after %v", err, time.Since(begun))
	}
	wait(t, drained)
}

func testHTTP2ReadDeadline(t *testing.T, certs []tls.Certificate) {
	result := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		for i := range 3 {
			start := time.Now()
			h.SetReadDeadline(start.Add(time.Minute))
			if _, _, err := h.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
				result <- fmt.Errorf("%d: %v after %v", i, err, time.Since(start))
				return
			}
			result <- nil
		}
		h.SetReadDeadline(time.Time{})
		_, p, err := h.ReadMessage()
		if string(p) != "Hello" || err != nil {
			err = fmt.Errorf("got %q, %v", p, err)
		}
		result <- err
		h.WriteMessage(Text, []byte("bye"))
		echo(h)
	}), nil)
	client, s := c.open(t)
	for _, part := range []string{"\x81", "\x85\x37\xfa\x21\x3d\x7f", "\x9f\x4d\x51\x58"} {
		if err := waitLong(result); err != nil {
			t.Fatal(err)
		}
		io.WriteString(s, part)
	}
	if err := waitLong(result); err != nil {
		t.Fatal(err)
	}
	if _, p, err := client.ReadMessage(); string(p) != "bye" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	client.Close()
}

// waitLong is wait without a limit, for bubbles in which much time passes.
func waitLong[T any](ch <-chan T) T { return <-ch }

func testHTTP2WriteDeadline(t *testing.T, certs []tls.Certificate) {
	result := make(chan error, 3)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		start := time.Now()
		h.SetWriteDeadline(start.Add(time.Hour))
		result <- h.WriteMessage(Text, []byte("in time"))
		h.SetWriteDeadline(start.Add(time.Minute))
		err := h.WriteMessage(Binary, make([]byte, 1<<20))
		if d := time.Since(start); d != time.Minute {
			err = fmt.Errorf("%v after %v", err, d)
		}
		result <- err
		result <- h.WriteMessage(Text, nil)
	}), nil)
	c.open(t)
	if err := waitLong(result); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := waitLong(result); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want a timeout", err)
		}
	}
}

func testHTTP2ServerTimeouts(t *testing.T, certs []tls.Certificate) {
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { echo(h) }), func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = time.Second, time.Second, time.Second, time.Second
	})
	client, _ := c.open(t)
	for range 2 {
		time.Sleep(time.Hour)
		if err := client.WriteMessage(Text, []byte("a")); err != nil {
			t.Fatal(err)
		}
		if _, p, err := client.ReadMessage(); string(p) != "a" || err != nil {
			t.Fatalf("%q, %v", p, err)
		}
	}
	client.Close()
}

func testHTTP2Ends(t *testing.T, certs []tls.Certificate) {
	ends := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { ends <- echo(h) }), nil)
	for _, tt := range []struct {
		name string
		send string
		end  func(*h2Stream)
		want func(error) bool
	}{
		{"END_STREAM", "", func(s *h2Stream) { s.CloseWrite() }, func(err error) bool { return err == io.EOF }},
		{"END_STREAM within a frame", "\x81", func(s *h2Stream) { s.CloseWrite() }, func(err error) bool { return err == io.ErrUnexpectedEOF }},
		{"RST_STREAM", "", func(s *h2Stream) { s.ReadCloser.Close() }, func(err error) bool { return err != nil && !errors.Is(err, io.EOF) }},
		{"RST_STREAM within a frame", "\x81", func(s *h2Stream) { s.ReadCloser.Close() }, func(err error) bool { return err != nil && !errors.Is(err, io.EOF) }},
	} {
		_, s := c.open(t)
		if _, err := io.WriteString(s, tt.send); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		tt.end(s)
		if err := wait(t, ends); !tt.want(err) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// The other streams of the connection go on.
	client, _ := c.open(t)
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	wait(t, ends)
}

func testHTTP2CloseBlocked(t *testing.T, certs []tls.Certificate) {
	for name, end := range map[string]struct {
		close func(*Conn) error
		time  time.Duration
	}{
		"Close":    {(*Conn).Close, closeTimeout},
		"CloseNow": {(*Conn).CloseNow, 0},
	} {
		handlers := make(chan *Conn, 1)
		over := make(chan struct{})
		c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { handlers <- h; <-over }), nil)
		_, s := c.open(t)
		h := wait(t, handlers)
		read := goErr(func() error { _, _, err := h.ReadMessage(); return err })
		write := goErr(func() error { return h.WriteMessage(Binary, make([]byte, 1<<20)) })
		synctest.Wait() // both are blocked
		start := time.Now()
		end.close(h)
		if d := time.Since(start); d != end.time {
			t.Errorf("%s took %v", name, d)
		}
		if err := wait(t, read); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: read: %v", name, err)
		}
		if err := wait(t, write); err == nil {
			t.Errorf("%s: write succeeds", name)
		}
		close(over)
		if _, err := io.Copy(io.Discard, s.ReadCloser); err == nil {
			t.Errorf("%s: the client has a whole message", name)
		}
	}
}

func testHTTP2Streams(t *testing.T, certs []tls.Certificate) {
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) { echo(h) }), nil)
	var group sync.WaitGroup
	for i := range 50 {
		client, _ := c.open(t)
		group.Go(func() {
			for j := range 20 {
				want := fmt.Sprint(i, " ", j, strings.Repeat("a", j*200))
				if err := client.WriteMessage(Text, []byte(want)); err != nil {
					t.Error(err)
					return
				}
				if _, p, err := client.ReadMessage(); err != nil || string(p) != want {
					t.Errorf("%.20q, %v, want %.20q", p, err, want)
					return
				}
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func testHTTP2Server(t *testing.T, certs []tls.Certificate) {
	closed := make(chan error, 3)
	opened := make(chan *Conn, 3)
	s := &Server{Handler: Handler{
		OnOpen:    func(h *Conn) { opened <- h },
		OnMessage: func(h *Conn, typ MessageType, p []byte) { h.WriteMessage(typ, p) },
		OnClose:   func(_ *Conn, err error) { closed <- err },
	}}
	c := openHTTP2(t, certs, s, nil)
	var clients []*Conn
	for i := range 3 {
		client, _ := c.open(t)
		clients = append(clients, client)
		wait(t, opened)
		if err := client.WriteMessage(Text, []byte("a")); err != nil {
			t.Fatal(err)
		}
		if _, p, err := client.ReadMessage(); string(p) != "a" || err != nil {
			t.Fatalf("%d: %q, %v", i, p, err)
		}
	}
	n := 0
	for range s.Conns() {
		n++
	}
	if err := s.Broadcast(Text, []byte("all")); err != nil || n != 3 {
		t.Errorf("%v to %d", err, n)
	}
	for i, client := range clients {
		if _, p, err := client.ReadMessage(); string(p) != "all" || err != nil {
			t.Fatalf("%d: %q, %v", i, p, err)
		}
	}
	down := goErr(func() error { return s.Shutdown(context.Background()) })
	for i, client := range clients {
		_, _, err := client.ReadMessage()
		if ce, ok := errors.AsType[*CloseError](err); !ok || ce.Code != CloseGoingAway {
			t.Errorf("%d: %v", i, err)
		}
		client.Close()
	}
	if err := wait(t, down); err != nil {
		t.Error(err)
	}
	for range clients {
		if err := wait(t, closed); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	if resp, s := c.connect(t); resp.StatusCode != 503 {
		t.Error(resp.Status)
	} else {
		s.Close()
	}
}

func BenchmarkHandshake(b *testing.B) {
	for _, bb := range []struct{ name, data string }{
		{"rfc6455", rfcHead},
		{"hixie76", hixieHead + hixieToken},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			in := strings.NewReader(bb.data)
			rw := struct {
				io.Reader
				io.Writer
			}{in, io.Discard}
			for b.Loop() {
				in.Reset(bb.data)
				if _, err := ShakeHands(NewConn(rw, nil)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCreateResponse(b *testing.B) {
	for _, bb := range []struct{ name, data string }{
		{"rfc6455", rfcHead},
		{"hixie76", hixieHead + hixieToken},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			req, err := GetRequest(strings.NewReader(bb.data))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if CreateResponse(req) == nil {
					b.Fatal("no response")
				}
			}
		})
	}
}

// A client of another version learns which one is spoken (RFC 6455, section 4.4), over
// HTTP/2, too.
func testHTTP2Version(t *testing.T, certs []tls.Certificate) {
	u := newUpgrader(nil)
	resp, s := openHTTP2(t, certs, u, nil).connect(t, "Sec-Websocket-Version", "8")
	s.Close()
	u.refused(t)
	if got := resp.Header.Get("Sec-WebSocket-Version"); resp.StatusCode != 426 || got != "13" {
		t.Errorf("%s, version %q", resp.Status, got)
	}
}

// After the handler has returned nothing panics, whether the connection has been closed or
// not.
func testHTTP2HandlerReturns(t *testing.T, certs []tls.Certificate) {
	for _, closed := range []bool{true, false} {
		handlers := make(chan *Conn, 1)
		c := openHTTP2(t, certs, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h, err := Upgrade(w, r, nil)
			if err == nil && closed {
				h.CloseNow()
			}
			handlers <- h
		}), nil)
		_, s := c.open(t)
		h := wait(t, handlers)
		io.Copy(io.Discard, s.ReadCloser) // until the handler has returned
		synctest.Wait()
		for name, call := range map[string]func() error{
			"WriteMessage":     func() error { return h.WriteMessage(Text, []byte("late")) },
			"ReadMessage":      func() error { _, _, err := h.ReadMessage(); return err },
			"SetWriteDeadline": func() error { h.SetWriteDeadline(time.Now().Add(time.Hour)); return errBroken },
			"SetDeadline":      func() error { h.SetDeadline(time.Time{}); return errBroken },
		} {
			func() {
				defer func() {
					if v := recover(); v != nil {
						t.Errorf("closed %v: %s panics: %v", closed, name, v)
					}
				}()
				if call() == nil {
					t.Errorf("closed %v: %s succeeds", closed, name)
				}
			}()
		}
		func() {
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("closed %v: Close panics: %v", closed, v)
				}
			}()
			h.Close()
		}()
	}
}

// A writer without what a stream needs is not used for one.
func testHTTP2Recorder(t *testing.T, certs []tls.Certificate) {
	u := newUpgrader(nil)
	c := openHTTP2(t, certs, http.TimeoutHandler(u, time.Minute, ""), nil)
	resp, s := c.connect(t)
	s.CloseWrite()
	res := wait(t, u.result)
	if res.c != nil {
		res.c.CloseNow()
	}
	if resp.StatusCode != 501 || res.c != nil || res.err == nil {
		t.Errorf("%s, %v, %v", resp.Status, res.c, res.err)
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

// Goroutines that close a connection, or set its deadlines, do not disturb the end of its
// handler. The race detector would see it.
func testHTTP2LateClose(t *testing.T, certs []tls.Certificate) {
	var group sync.WaitGroup
	s := &Server{Handler: Handler{OnClose: func(h *Conn, _ error) {
		for range 4 {
			group.Go(func() {
				for range 20 {
					h.SetDeadline(time.Time{})
					h.Close()
				}
			})
		}
	}}}
	c := openHTTP2(t, certs, s, nil)
	for range 50 {
		client, _ := c.open(t)
		client.Close()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	group.Wait()
}

// A stream that is reset while nobody reads from it has ended. That is no timeout, which
// would not be final.
func testHTTP2Reset(t *testing.T, certs []tls.Certificate) {
	result := make(chan error, 1)
	c := openHTTP2(t, certs, serve2(nil, func(h *Conn) {
		time.Sleep(time.Minute) // longer than what has come is kept
		var err error
		for range 20 {
			if _, _, err = h.ReadMessage(); err != nil && !isTimeout(err) {
				break
			}
		}
		result <- err
	}), nil)
	client, s := c.open(t)
	for range 8 {
		if err := client.WriteMessage(Binary, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	s.ReadCloser.Close()
	if err := waitLong(result); err == nil || isTimeout(err) {
		t.Errorf("read: %v", err)
	}
}

// A jammedConn is a connection whose peer ceases to read.
type jammedConn struct {
	net.Conn
	jam     net.Conn // takes nothing
	jammed  atomic.Bool
	blocked chan struct{} // a Write has begun that does not end
}

// jam makes the next connection of l a jammedConn.
func jam(t *testing.T, l *memListener) *jammedConn {
	a, b := net.Pipe()
	t.Cleanup(func() { b.Close() })
	c := &jammedConn{jam: a, blocked: make(chan struct{}, 1)}
	l.wrap = func(conn net.Conn) net.Conn {
		c.Conn = conn
		return c
	}
	return c
}

func (c *jammedConn) Write(p []byte) (int, error) {
	if !c.jammed.Load() {
		return c.Conn.Write(p)
	}
	select {
	case c.blocked <- struct{}{}:
	default:
	}
	return c.jam.Write(p)
}

func (c *jammedConn) Close() error {
	c.jam.Close()
	return c.Conn.Close()
}

func (c *jammedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetDeadline(t), c.jam.SetDeadline(t))
}

func (c *jammedConn) SetWriteDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetWriteDeadline(t), c.jam.SetWriteDeadline(t))
}

// A client that reads nothing from its connection keeps Close from ending, but not Shutdown.
func testHTTP2Unread(t *testing.T, certs []tls.Certificate) {
	opened := make(chan *Conn, 1)
	s := &Server{Handler: Handler{OnOpen: func(h *Conn) { opened <- h }}}
	l := newMemListener()
	conn := jam(t, l)
	openHTTP2On(t, l, certs, s, nil).open(t)
	h := wait(t, opened)
	conn.jammed.Store(true)
	write := goErr(func() error { return h.WriteMessage(Binary, make([]byte, 64<<10)) })
	wait(t, conn.blocked)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(t, goErr(func() error { return s.Shutdown(ctx) })); err != context.Canceled {
		t.Errorf("Shutdown: %v", err)
	}
	conn.Close()
	if err := wait(t, write); err == nil {
		t.Error("the write succeeds")
	}
	if err := wait(t, goErr(func() error { return s.Shutdown(t.Context()) })); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// With a WriteByteTimeout such a client is gone soon after that has passed.
func testHTTP2ByteTimeout(t *testing.T, certs []tls.Certificate) {
	opened, ends := make(chan *Conn, 1), make(chan error, 1)
	s := &Server{Handler: Handler{
		OnOpen:  func(h *Conn) { opened <- h },
		OnClose: func(_ *Conn, err error) { ends <- err },
	}, Options: Options{CloseTimeout: time.Minute}} // not what ends it
	l := newMemListener()
	conn := jam(t, l)
	openHTTP2On(t, l, certs, s, func(s *http.Server) {
		s.HTTP2 = &http.HTTP2Config{WriteByteTimeout: time.Second}
	}).open(t)
	h := wait(t, opened)
	conn.jammed.Store(true)
	start := time.Now()
	write := goErr(func() error { return h.WriteMessage(Binary, make([]byte, 64<<10)) })
	wait(t, conn.blocked)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if d := time.Since(start); d < time.Second || d > 10*time.Second { // crypto/tls takes 5 s to say that it closes
		t.Errorf("Shutdown took %v", d)
	}
	checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	if err := wait(t, write); err == nil {
		t.Error("the write succeeds")
	}
}

// A client that asks for what there is not does not get into the log.
func testHTTP2Log(t *testing.T, certs []tls.Certificate) {
	var out serverLog
	c := openHTTP2(t, certs, new(Server), func(s *http.Server) { s.ErrorLog = log.New(&out, "", 0) })
	resp, s := c.connect(t, ":protocol", "webtransport")
	s.Close()
	synctest.Wait()
	if resp.StatusCode != 501 || out.String() != "" {
		t.Errorf("%s, log: %q", resp.Status, out.String())
	}
}

func testHTTP2Serve(t *testing.T, certs []tls.Certificate) {
	var out serverLog
	checkServe(t, &out, func(h http.Handler) func(string) *Conn {
		c := openHTTP2(t, certs, h, func(s *http.Server) { s.ErrorLog = log.New(&out, "", 0) })
		return func(user string) *Conn {
			client, _ := c.open(t, "User", user)
			return client
		}
	})
}
