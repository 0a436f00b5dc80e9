package websocket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ShakeHands reads a client's opening handshake and accepts it, whatever its host, path
// and origin are. It returns the request for information only. To filter clients by
// their requests, use [GetRequest] and [PutResponse] instead.
//
// If the request is not a valid handshake, ShakeHands sends a refusal and returns a
// [*HandshakeError]. Its other errors are those of GetRequest and of rw.
//
// A [Conn] speaks both versions of the protocol. If rw is not a Conn, ShakeHands refuses
// clients of hixie-76, because the functions that are called next could not know the
// version; wrap the stream with [NewConn] to serve them.
func ShakeHands(rw io.ReadWriter) (*Request, error) {
	req, err := GetRequest(rw)
	if _, ok := rw.(*Conn); err == nil && !ok && req.Version != RFC6455 {
		err = &HandshakeError{Status: http.StatusUpgradeRequired, Reason: "hixie-76 needs a Conn from NewConn, not a bare stream"}
	}
	if err == nil {
		err = PutResponse(rw, req)
	}
	if refusal, ok := errors.AsType[*HandshakeError](err); ok {
		PutRefusal(rw, refusal.Status, refusal.Reason)
	}
	if err != nil {
		return nil, err
	}
	return req, nil
}

// chooseProtocol returns the first of the server's subprotocols that the client
// offers, or an empty string.
func (o *Options) chooseProtocol(offered []string) string {
	for _, p := range o.Protocols {
		if slices.Contains(offered, p) {
			return p
		}
	}
	return ""
}

// PutResponse accepts the client that sent req: it writes the response that
// [CreateResponse] returns, with one call of w.Write. That ends the opening handshake.
// If w is a [Conn], it then speaks the version of req.
//
// If req is not valid, if req.Protocol or req.Extensions is not what the client offers, or if
// there are Extensions and w is not a Conn, PutResponse returns a [*HandshakeError] and
// writes nothing, so that PutRefusal may follow.
func PutResponse(w io.Writer, req *Request) error {
	if err := req.check(); err != nil {
		return err
	}
	response := createResponse(req, nil)
	if c, ok := w.(*Conn); ok {
		return c.accept(req, response, nil)
	}
	if req.Extensions != "" {
		return &HandshakeError{Status: http.StatusInternalServerError, Reason: "compression needs a Conn from NewConn, not a bare stream"}
	}
	return writeFull(w, response)
}

// PutRefusal turns a client away: it writes an HTTP response with the status, which must
// be from 400 to 599, and the reason as a plain-text body. After that the connection is
// to be closed. If w is a [Conn], later calls that read or write return an error.
func PutRefusal(w io.Writer, status int, reason string) error {
	if status < 400 || status > 599 {
		return fmt.Errorf("websocket: %d is no HTTP status for a refusal", status)
	}
	response := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", status, cmp.Or(http.StatusText(status), "Refused"))
	switch status {
	case http.StatusMethodNotAllowed: // RFC 9110, section 15.5.6
		response = append(response, "Allow: GET\r\n"...)
	case http.StatusUpgradeRequired: // RFC 9110, section 15.5.22, and RFC 6455, section 4.2.2
		response = append(response, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"...)
	}
	response = fmt.Appendf(response, "Connection: close\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\n"+
		"X-Content-Type-Options: nosniff\r\n"+
		"Content-Length: %d\r\n\r\n%s\n", len(reason)+1, reason)
	if c, ok := w.(*Conn); ok {
		return c.refuse(status, reason, response)
	}
	return writeFull(w, response)
}

// CreateResponse returns the complete response that accepts req: that of RFC 6455,
// section 4.2.2, or that of hixie-76, whose last 16 bytes are the token. It returns nil
// if req is not valid, which never happens for a Request from GetRequest that has not
// been changed.
func CreateResponse(req *Request) []byte {
	if req.check() != nil {
		return nil
	}
	return createResponse(req, nil)
}

// createResponse puts fields, which end in CR LF each, into the head.
func createResponse(req *Request, fields []byte) []byte {
	token := CreateToken(req)
	b := make([]byte, 0, 512)
	if req.Version == RFC6455 {
		b = append(b, "HTTP/1.1 101 Switching Protocols\r\n"+
			"Upgrade: websocket\r\n"+
			"Connection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "...)
		b = append(b, token...)
		b = appendProtocol(b, req.Protocol)
		if req.Extensions != "" {
			b = append(append(b, "\r\nSec-WebSocket-Extensions: "...), req.Extensions...)
		}
		b = append(b, "\r\n"...)
		b = append(b, fields...)
		return append(b, "\r\n"...)
	}
	scheme := "ws://"
	if req.Secure {
		scheme = "wss://"
	}
	b = append(b, "HTTP/1.1 101 WebSocket Protocol Handshake\r\n"+
		"Upgrade: WebSocket\r\n"+
		"Connection: Upgrade\r\n"+
		"Sec-WebSocket-Origin: "...)
	b = append(b, req.Origin...)
	b = append(b, "\r\nSec-WebSocket-Location: "...)
	b = append(b, scheme...)
	b = append(b, req.Host...)
	b = append(b, req.Path...)
	b = appendProtocol(b, req.Protocol)
	b = append(b, "\r\n"...)
	b = append(b, fields...)
	b = append(b, "\r\n"...)
	return append(b, token...)
}

// appendProtocol appends the field for the subprotocol, if there is one,
// behind the CR LF that it begins with.
func appendProtocol(b []byte, protocol string) []byte {
	if protocol == "" {
		return b
	}
	return append(append(b, "\r\nSec-WebSocket-Protocol: "...), protocol...)
}

// accept writes a response and lets c speak as it says. It calls opened, if that is not nil,
// before the client can have the response, but after it has its place in the output.
func (c *Conn) accept(req *Request, response []byte, opened func(*Conn)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answerable(); err != nil {
		return err
	}
	c.shaking = false
	c.agree(req)
	out := c.output()
	out.b = append(out.b, response...)
	if opened != nil {
		c.mu.Unlock()
		opened(c)
		c.mu.Lock()
	}
	return c.flush()
}

// agree lets c speak as the response to req says.
func (c *Conn) agree(req *Request) {
	c.req = req.keep()
	c.dec.hixie = req.Version == Hixie76
	if p, _ := req.checkExtensions(); p != nil {
		c.deflate = newDeflation(c.opts.Deflate, *p, c.client)
		c.dec.deflate = true
	}
}

// refuse writes a refusal and lets c do nothing else.
func (c *Conn) refuse(status int, reason string, response []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answerable(); err != nil {
		return err
	}
	err := c.putBytes(response)
	c.stopReading(&HandshakeError{Status: status, Reason: reason})
	c.shaking, c.werr = false, cmp.Or(c.werr, c.rerr)
	return err
}

// answerable returns an error if the opening handshake cannot be answered: it
// has been already, or nothing can be written. mu is held.
func (c *Conn) answerable() error {
	if c.werr == nil && c.req != nil {
		return errShaken
	}
	return c.werr
}

// Upgrade makes a WebSocket connection of a request to an [http.Handler]. The client may
// come over HTTP/1.1, with RFC 6455 or hixie-76, or over HTTP/2, with RFC 8441, if the
// [http.Server] allows that: as of Go 1.26 it does with http2xconnect=1 in the environment
// variable GODEBUG.
//
// Upgrade accepts clients that send no Origin, and pages whose origin is the server's own:
// its scheme, https if the connection is encrypted, and the host and port that the client
// asked for. Pages of other origins are refused unless Options.Origins allows them. Behind a
// proxy that ends TLS, or changes Host, the public origin has to be listed there.
//
// The response has the fields of w.Header, such as cookies, apart from those that an HTTP
// connection needs for itself. If there is an error, Upgrade has answered the request. The
// error is a [*HandshakeError], except if the response could not be written.
//
// Over HTTP/1.1 the connection may be used after the handler has returned, which frees the
// memory that net/http needs for a request, and ends the context of r. Over HTTP/2 the handler
// must not return before the connection is closed, and a write deadline that passes ends reads
// as well. A client that reads nothing at all from its connection, which carries other
// requests too, holds up even CloseNow there, unless the WriteByteTimeout of the
// [http.HTTP2Config] is set, and then for a few seconds more.
func Upgrade(w http.ResponseWriter, r *http.Request, o *Options) (*Conn, error) {
	return upgrade(w, r, o.clone(), nil)
}

// upgrade is Upgrade. It keeps o, and calls opened as accept does.
func upgrade(w http.ResponseWriter, r *http.Request, o *Options, opened func(*Conn)) (*Conn, error) {
	req, err := requestOf(r, o)
	if err == nil {
		err = o.checkOrigin(req)
	}
	if err != nil {
		return nil, refuse(w, r, err.(*HandshakeError))
	}
	if r.ProtoMajor > 1 {
		return upgradeStream(w, r, req, o, opened)
	}

	c, response, err := hijack(w, r, req, o)
	if err != nil {
		return nil, err
	}
	if err := c.accept(req, response, opened); err != nil {
		c.CloseNow()
		return nil, err
	}
	c.SetWriteDeadline(time.Time{})
	return c, nil
}

// hijack takes a connection over from net/http. It returns the response that is to be sent
// before the write deadline that it has set.
func hijack(w http.ResponseWriter, r *http.Request, req *Request, o *Options) (*Conn, []byte, error) {
	limit := time.Time{}
	if d := cmp.Or(o.HandshakeTimeout, handshakeTimeout); d > 0 {
		limit = time.Now().Add(d)
	}
	control := http.NewResponseController(w)
	if req.Version == Hixie76 && r.ContentLength == tokenSize {
		control.SetReadDeadline(limit) // if it can, else net/http has one
		if err := req.readToken(r.Body); err != nil {
			return nil, nil, refuse(w, r, err)
		}
	}
	conn, buf, err := control.Hijack()
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, errors.ErrUnsupported) {
			status = http.StatusNotImplemented
			err = fmt.Errorf("%T has neither Hijack nor Unwrap: %w", w, err)
		}
		return nil, nil, refuse(w, r, &HandshakeError{Status: status, Reason: "the server cannot take over the connection", err: err})
	}
	if !limit.IsZero() {
		conn.SetWriteDeadline(limit.Add(closeTimeout)) // a refusal may come at the limit
	}
	if req.Version == Hixie76 && req.Token == "" {
		conn.SetReadDeadline(limit)
		if err := req.readToken(buf.Reader); err != nil {
			PutRefusal(conn, err.Status, err.Reason)
			conn.Close()
			return nil, nil, err
		}
		conn.SetReadDeadline(time.Time{})
	}
	c := newConn(conn, o, false)
	read, _ := buf.Reader.Peek(buf.Reader.Buffered())
	c.in, c.w = slices.Clone(read), len(read)

	var fields bytes.Buffer
	maps.DeleteFunc(w.Header(), isHopField)
	w.Header().Write(&fields)
	return c, createResponse(req, fields.Bytes()), nil
}

// hopFields are the fields of a response that are up to the handshake or to HTTP itself.
var hopFields = map[string]bool{
	"Connection":               true,
	"Content-Length":           true,
	"Content-Type":             true,
	"Keep-Alive":               true,
	"Proxy-Connection":         true,
	"Sec-Websocket-Accept":     true,
	"Sec-Websocket-Extensions": true,
	"Sec-Websocket-Location":   true,
	"Sec-Websocket-Origin":     true,
	"Sec-Websocket-Protocol":   true,
	"Sec-Websocket-Version":    true,
	"Te":                       true,
	"Trailer":                  true,
	"Transfer-Encoding":        true,
	"Upgrade":                  true,
}

func isHopField(name string, _ []string) bool { return hopFields[http.CanonicalHeaderKey(name)] }

// requestOf checks a request that net/http has read, and chooses a subprotocol. The token of
// hixie-76 is not part of it.
func requestOf(r *http.Request, o *Options) (*Request, error) {
	path := r.RequestURI // as the client sent it, even behind http.StripPrefix
	if !strings.HasPrefix(path, "/") {
		path = r.URL.RequestURI()
	}
	var req *Request
	var err error
	switch protocol := r.Header[":protocol"]; {
	case r.ProtoMajor > 1 && r.Method == http.MethodConnect && protocol != nil:
		if protocol[0] != "websocket" {
			return nil, &HandshakeError{Status: http.StatusNotImplemented, Reason: "the protocol is not websocket"}
		}
		req, err = newStreamRequest(r.Host, path, r.Header)
	case r.Method != http.MethodGet:
		return nil, &HandshakeError{Status: http.StatusMethodNotAllowed, Reason: "the method is not GET"}
	case r.ProtoMajor > 1:
		return nil, &HandshakeError{Status: http.StatusUpgradeRequired, Reason: "the request does not ask for a WebSocket"}
	case r.TransferEncoding != nil:
		return nil, badRequest("Transfer-Encoding", "announces a body")
	default:
		req, err = newRequest(r.Host, path, r.Header)
	}
	if err != nil {
		return nil, err
	}
	if r.ProtoMajor == 1 && r.ProtoMinor == 0 && req.Version == RFC6455 {
		return nil, &HandshakeError{Status: http.StatusHTTPVersionNotSupported, Reason: "the HTTP version is not 1.1"}
	}
	req.Secure = r.TLS != nil
	req.Protocol = o.chooseProtocol(req.Protocols)
	if req.Version == RFC6455 {
		if req.Extensions, err = o.Deflate.chooseExtensions(req.Header); err != nil {
			return nil, err
		}
	}
	if r.ProtoMajor > 1 {
		return req, req.checkText()
	}
	return req, req.checkHead()
}

// readToken reads the eight bytes behind the head of a hixie-76 client.
func (req *Request) readToken(r io.Reader) *HandshakeError {
	token := make([]byte, tokenSize)
	_, err := io.ReadFull(r, token)
	switch {
	case err == nil:
		req.Token = string(token)
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &HandshakeError{Status: http.StatusRequestTimeout, Reason: "the handshake took too long", err: err}
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return &HandshakeError{Status: http.StatusBadRequest, Reason: "the token is not 8 bytes long", err: err}
}

// refuse answers a request with the status and reason of e, and returns e.
func refuse(w http.ResponseWriter, r *http.Request, e *HandshakeError) error {
	h := w.Header()
	switch e.Status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired:
		h.Set("Sec-WebSocket-Version", "13")
		if r.ProtoMajor == 1 {
			h.Set("Upgrade", "websocket")
			h.Set("Connection", "Upgrade")
		}
	}
	if r.Header["Sec-Websocket-Key1"] != nil {
		h.Set("Connection", "close") // else the token would be taken for a request
	}
	http.Error(w, e.Reason, e.Status)
	return e
}

// checkOrigin reports a client whose origin may not connect.
func (o *Options) checkOrigin(req *Request) error {
	for _, pattern := range o.Origins {
		if _, _, _, ok := splitOrigin(pattern); !ok && pattern != "*" && pattern != "null" {
			return &HandshakeError{Status: http.StatusInternalServerError, Reason: "the server's list of origins is not valid",
				err: fmt.Errorf(`%q in Options.Origins is no origin such as "https://example.com"`, pattern)}
		}
	}
	own := "http://"
	if req.Secure {
		own = "https://"
	}
	if req.Origin == "" || matchOrigin(own+req.Host, req.Origin, false) {
		return nil
	}
	for _, pattern := range o.Origins {
		if matchOrigin(pattern, req.Origin, true) {
			return nil
		}
	}
	return &HandshakeError{Status: http.StatusForbidden, Field: "Origin", Reason: "pages of this origin may not connect"}
}

// matchOrigin reports whether an origin is the same as another, or if wild, whether the
// pattern stands for it.
func matchOrigin(pattern, origin string, wild bool) bool {
	if pattern == origin && (wild || origin != "null") || wild && pattern == "*" {
		return true
	}
	scheme, host, port, ok := splitOrigin(origin)
	scheme2, host2, port2, ok2 := splitOrigin(pattern)
	if !ok || !ok2 || scheme != scheme2 || port != port2 && !(wild && port2 == "*") {
		return false
	}
	before, after, star := strings.Cut(host2, "*")
	if !wild || !star {
		return host == host2
	}
	return len(host) > len(before)+len(after) && strings.HasPrefix(host, before) && strings.HasSuffix(host, after)
}

// splitOrigin splits an origin (RFC 6454, section 6.2), or a pattern for some, into its
// scheme, host and port, and reports whether it is one.
func splitOrigin(s string) (scheme, host, port string, ok bool) {
	scheme, host, ok = strings.Cut(strings.ToLower(s), "://")
	ok = ok && isGraphic(s)
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
	}
	if port == "" {
		switch scheme {
		case "http":
			port = "80"
		case "https":
			port = "443"
		}
	}
	name := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") { // an IPv6 address
		name = strings.Trim(strings.ReplaceAll(host, ":", "."), "[]")
	}
	ok = ok && isToken(scheme) && !strings.Contains(scheme, "*") &&
		name != "" && !strings.ContainsAny(name, `:[]/\?#@,`) && strings.Count(name, "*") <= 1 &&
		(port == "*" || strings.Trim(port, "0123456789") == "")
	return scheme, host, port, ok
}

// upgradeStream accepts a client that comes over HTTP/2 (RFC 8441, section 5).
func upgradeStream(w http.ResponseWriter, r *http.Request, req *Request, o *Options, opened func(*Conn)) (*Conn, error) {
	control := http.NewResponseController(w)
	// The deadlines of the http.Server are for requests.
	if err := cmp.Or(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
		return nil, refuse(w, r, &HandshakeError{Status: http.StatusNotImplemented, Reason: "the server cannot take over the stream", err: err})
	}
	maps.DeleteFunc(w.Header(), isHopField)
	if req.Protocol != "" {
		w.Header().Set("Sec-WebSocket-Protocol", req.Protocol)
	}
	if req.Extensions != "" {
		w.Header().Set("Sec-WebSocket-Extensions", req.Extensions)
	}
	w.WriteHeader(http.StatusOK)
	s := newStream(w, r)
	c := newConn(s, o, false)
	c.agree(req)
	if opened != nil {
		opened(c)
	}
	if _, err := s.Write(nil); err != nil { // which sends the head
		c.CloseNow()
		return nil, err
	}
	return c, nil
}

// A stream is a stream of HTTP/2 as a transport. Its body is read through a pipe, because a
// read deadline of net/http's would be the end of it.
type stream struct {
	net.Conn // the end of the pipe that is read from
	body     io.ReadCloser
	w        http.ResponseWriter
	control  *http.ResponseController
	local    net.Addr
	remote   net.Addr

	readErr  error        // of body; set before the pipe is closed
	deadline atomic.Int64 // for writes, in Unix nanoseconds, or 0

	mu     sync.Mutex // held while w is written to
	closed bool

	deadlines sync.Mutex // held while control sets a deadline
	over      bool       // the handler may return: neither is to be used any more
}

func newStream(w http.ResponseWriter, r *http.Request) *stream {
	s := &stream{body: r.Body, w: w, control: http.NewResponseController(w), local: noAddr{}, remote: noAddr{}}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		s.local = a
	}
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		s.remote = net.TCPAddrFromAddrPort(a)
	}
	var in net.Conn
	s.Conn, in = net.Pipe()
	// When the stream has ended, what it has brought can be read for a while.
	stop := context.AfterFunc(r.Context(), func() { in.SetWriteDeadline(time.Now().Add(closeTimeout)) })
	go func() {
		_, s.readErr = io.CopyBuffer(in, s.body, make([]byte, heldInputSize))
		stop()
		if isTimeout(s.readErr) { // of in: what the stream has brought has not been read in time
			s.readErr = io.ErrUnexpectedEOF
		}
		in.Close()
	}()
	return s
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF && s.readErr != nil {
		err = s.readErr
	}
	return n, err
}

func (s *stream) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	err = s.try(func() error {
		if n, err = s.w.Write(p); err != nil {
			return err
		}
		return s.control.Flush()
	})
	if d := s.deadline.Load(); err != nil && d != 0 && d <= time.Now().UnixNano() {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// try calls f, which uses w. That may panic after the handler has returned.
func (s *stream) try(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("websocket: %v", v)
		}
	}()
	return f()
}

// Close ends reads and writes in progress. The stream itself ends when its handler
// returns.
func (s *stream) Close() error {
	s.Conn.Close()
	s.body.Close()
	if !s.mu.TryLock() {
		s.SetWriteDeadline(time.Unix(1, 0)) // resets the stream
		s.mu.Lock()
	}
	s.closed = true
	s.mu.Unlock()
	s.deadlines.Lock()
	s.over = true
	s.deadlines.Unlock()
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		s.deadline.Store(0)
	} else {
		s.deadline.Store(t.UnixNano())
	}
	s.deadlines.Lock()
	defer s.deadlines.Unlock()
	if s.over {
		return net.ErrClosed
	}
	return s.try(func() error { return s.control.SetWriteDeadline(t) })
}

func (s *stream) SetDeadline(t time.Time) error {
	return cmp.Or(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *stream) LocalAddr() net.Addr  { return s.local }
func (s *stream) RemoteAddr() net.Addr { return s.remote }
