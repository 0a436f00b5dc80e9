package websocket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

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
				if err := PutRefusal(w, &HandshakeError{Status: status, Reason: reason}); err != nil || stream.writes != 1 {
					t.Fatalf("%d %q: %v, %d writes", status, reason, err, stream.writes)
				}
				if got := checkRefusal(t, stream.out.String(), status); got != reason+"\n" {
					t.Fatalf("%d: got %q, want %q", status, got, reason)
				}
			}
		}
	}
	for _, status := range []int{-1, 0, 99, 101, 200, 299, 600, 1400} {
		stream := &memStream{Reader: strings.NewReader(rfcHead)}
		c := NewConn(stream, nil)
		if PutRefusal(stream, &HandshakeError{Status: status, Reason: ""}) == nil || PutRefusal(c, &HandshakeError{Status: status, Reason: ""}) == nil || stream.writes != 0 {
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
			writeFunc
		}{strings.NewReader(rfcHead), tt.write}
		if err := PutResponse(w, req); err != tt.want {
			t.Errorf("%s: PutResponse: %v", tt.name, err)
		}
		if err := PutRefusal(w, &HandshakeError{Status: 403, Reason: "no"}); err != tt.want {
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
			if err := PutRefusal(h, &HandshakeError{Status: http.StatusForbidden, Reason: "not you"}); err != nil {
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
		{"PutRefusal", func() error { return PutRefusal(h, &HandshakeError{Status: 400, Reason: "again"}) }},
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
