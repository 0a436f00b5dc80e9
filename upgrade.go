// The opening handshake beside net/http: over HTTP/1.1 by taking the connection over, and over
// HTTP/2.

package websocket

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"
)

// Upgrade makes a WebSocket connection of a request to an [http.Handler]. The client may
// come over HTTP/1.1, with RFC 6455 or hixie-76, or over HTTP/2, with RFC 8441, if the
// [http.Server] allows that: as of Go 1.26 it does with http2xconnect=1 in the environment
// variable GODEBUG.
//
// Upgrade accepts clients that send no Origin, as many do that are no browsers, and pages of the
// server's own origin: the host and port that the client asked for, with https, or on a connection
// without TLS, which a proxy may have ended, also with http. Pages of other origins are refused
// unless Options.Origins allows them. Behind a proxy that changes Host, the public origin has to be
// listed there; and for clients that come over TLS with an http origin, that one.
//
// The response has the fields of w.Header, such as cookies, and of Options.Header, apart from
// those that an HTTP connection needs for itself. If there is an error, Upgrade has answered the
// request. The error is a [*HandshakeError], except if the response could not be written. Middleware
// that wraps w needs an Unwrap method, as for an [http.ResponseController].
//
// Over HTTP/1.1 the connection may be used after the handler has returned, for example by a
// goroutine that it has started. To return frees the memory that net/http needs for a request, and
// ends the context of r.
//
// Over HTTP/2 the handler must not return before the connection is closed, and a write deadline
// that passes ends reads as well. The WriteByteTimeout of the [http.HTTP2Config] should be set:
// without it a client that no longer reads from its HTTP/2 connection, which carries other requests
// too, can hold up even CloseNow for ever.
func Upgrade(w http.ResponseWriter, r *http.Request, o *Options) (*Conn, error) {
	return upgrade(w, r, o.clone(), nil)
}

// upgrade is Upgrade. It keeps o, and calls opened as accept does.
func upgrade(w http.ResponseWriter, r *http.Request, o *Options, opened func(*Conn)) (*Conn, error) {
	req, err := requestOf(r, o)
	if err == nil {
		err = checkOrigin(o.Origins, req)
	}
	if err != nil {
		return nil, refuse(w, r, err.(*HandshakeError))
	}
	for name, values := range o.Header {
		if _, ok := w.Header()[name]; !ok {
			w.Header()[name] = values
		}
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
	if d := o.handshakeLimit(); d > 0 {
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
	var writeLimit time.Time
	if !limit.IsZero() {
		writeLimit = limit.Add(closeTimeout) // a refusal may come at the limit
	}
	conn.SetWriteDeadline(writeLimit)
	conn.SetReadDeadline(time.Time{}) // net/http leaves none, but another server may
	if req.Version == Hixie76 && req.Token == "" {
		conn.SetReadDeadline(limit)
		if err := req.readToken(buf.Reader); err != nil {
			PutRefusal(conn, err)
			conn.Close()
			return nil, nil, err
		}
		conn.SetReadDeadline(time.Time{})
	}
	c := newConn(conn, o, false)
	read, _ := buf.Reader.Peek(buf.Reader.Buffered())
	c.t.preload(slices.Clone(read))

	return c, createResponse(req, fieldLines(w.Header())), nil
}

// upgradeStream accepts a client that comes over HTTP/2 (RFC 8441, section 5).
func upgradeStream(w http.ResponseWriter, r *http.Request, req *Request, o *Options, opened func(*Conn)) (*Conn, error) {
	control := http.NewResponseController(w)
	// The deadlines of the http.Server are for requests.
	if err := cmp.Or(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
		return nil, refuse(w, r, &HandshakeError{Status: http.StatusNotImplemented, Reason: "the server cannot take over the stream", err: err})
	}
	maps.DeleteFunc(w.Header(), isHopField)
	if token := CreateToken(req); token != nil { // for clients that look for it, as in HTTP/1.1
		w.Header().Set("Sec-WebSocket-Accept", string(token))
	}
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

// requestOf checks a request that net/http has read, and chooses a subprotocol. The token of
// hixie-76 is not part of it.
func requestOf(r *http.Request, o *Options) (*Request, error) {
	// As the client sent it, even behind http.StripPrefix. net/http has seen to the host.
	_, path, _ := splitTarget(cmp.Or(r.RequestURI, r.URL.RequestURI()))
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
	if err := req.choose(o); err != nil {
		return nil, err
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
		h["Sec-WebSocket-Version"] = []string{"13"}
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
