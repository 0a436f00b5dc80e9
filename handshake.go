// The opening handshake of a server on a stream: reading the request, and accepting or refusing it.

package websocket

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"time"
)

// ShakeHands reads a client's opening handshake and accepts it, whatever its host, path
// and origin are; but if rw is a [Conn] with Options.Origins, it refuses pages of others. It
// returns the request for information only. To filter clients by their requests, use
// [GetRequest] and [PutResponse] instead.
//
// A client that is refused, as its request is not a valid handshake or its origin may not
// connect, gets a refusal, and ShakeHands returns a [*HandshakeError]. Its other errors are
// those of GetRequest and of rw.
//
// A [Conn] speaks both versions of the protocol. If rw is not a Conn, ShakeHands refuses
// clients of hixie-76, because the functions that are called next could not know the
// version; wrap the stream with [NewConn] to serve them.
func ShakeHands(rw io.ReadWriter) (*Request, error) {
	req, err := GetRequest(rw)
	if _, ok := connOf(rw); err == nil && !ok && req.Version != RFC6455 {
		err = &HandshakeError{Status: http.StatusUpgradeRequired, Reason: "hixie-76 needs a Conn from NewConn, not a bare stream"}
	}
	if err == nil {
		err = PutResponse(rw, req)
	}
	if refusal, ok := errors.AsType[*HandshakeError](err); ok {
		PutRefusal(rw, refusal)
	}
	if err != nil {
		return nil, err
	}
	return req, nil
}

// PutResponse accepts the client that sent req: it writes the response that
// [CreateResponse] returns, on a [Conn] with the fields of Options.Header, too, with one call
// of w.Write. That ends the opening handshake.
// If w is a [Conn], it then speaks the version of req.
//
// If req is not valid, if req.Protocol or req.Extensions is not what the client offers, or if
// there are Extensions and w is not a Conn, PutResponse returns a [*HandshakeError] and
// writes nothing, so that PutRefusal may follow.
func PutResponse(w io.Writer, req *Request) error {
	if err := req.check(); err != nil {
		return err
	}
	if c, ok := connOf(w); ok {
		return c.accept(req, createResponse(req, fieldLines(c.opts.Header, req.ResponseHeader)), nil)
	}
	if req.Extensions != "" {
		return &HandshakeError{Status: http.StatusInternalServerError, Reason: "compression needs a Conn from NewConn, not a bare stream"}
	}
	return writeFull(w, CreateResponse(req))
}

// PutRefusal turns a client away: it writes an HTTP response with the Status of e, which must
// be from 300 to 599, the fields of its Header, and its Reason as a plain-text body. After that
// the connection is to be closed. If w is a [Conn], later calls that read or write return a copy
// of e.
func PutRefusal(w io.Writer, e *HandshakeError) error {
	if e.Status < 300 || e.Status > 599 {
		return misuse("%d is no HTTP status for a refusal", e.Status)
	}
	fields := "Connection: close\r\n"
	switch e.Status {
	case http.StatusMethodNotAllowed: // RFC 9110, section 15.5.6
		fields += "Allow: GET\r\n"
	case http.StatusUpgradeRequired: // RFC 9110, section 15.5.22, and RFC 6455, section 4.2.2
		fields = "Upgrade: websocket\r\nConnection: close, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
	}
	response := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n%s%s"+
		"Content-Type: text/plain; charset=utf-8\r\n"+
		"X-Content-Type-Options: nosniff\r\n"+
		"Content-Length: %d\r\n\r\n%s\n",
		e.Status, cmp.Or(http.StatusText(e.Status), "Refused"), fields, fieldLines(e.Header), len(e.Reason)+1, e.Reason)
	if c, ok := connOf(w); ok {
		return c.refuse(e, response)
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
	return createResponse(req, fieldLines(req.ResponseHeader))
}

// fieldLines returns the lines of fields that a response has besides those of the handshake.
func fieldLines(headers ...http.Header) []byte {
	var b bytes.Buffer
	for _, h := range headers {
		if len(h) == 0 { // as most are, and Write needs a large stack
			continue
		}
		h = maps.Clone(h)
		maps.DeleteFunc(h, isHopField)
		h.Write(&b) // which lets no field begin within another
	}
	return b.Bytes()
}

// createResponse puts fields, which end in CR LF each, into the head.
func createResponse(req *Request, fields []byte) []byte {
	token := CreateToken(req)
	b := make([]byte, 0, 256+len(fields))
	if req.Version == RFC6455 {
		b = append(b, "HTTP/1.1 101 Switching Protocols\r\n"+
			"Upgrade: websocket\r\n"+
			"Connection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "...)
		b = append(b, token...)
		token = nil
	} else {
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
	}
	b = appendField(b, "\r\nSec-WebSocket-Protocol: ", req.Protocol)
	b = appendField(b, "\r\nSec-WebSocket-Extensions: ", req.Extensions)
	b = append(b, "\r\n"...)
	b = append(b, fields...)
	b = append(b, "\r\n"...)
	return append(b, token...) // of hixie-76
}

// appendField appends a field, if it has a value, behind the CR LF that name begins with.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return append(append(b, name...), value...)
}

// accept writes a response and lets c speak as it says. It calls opened, if that is not nil,
// before the client can have the response, but after it has its place in the output.
func (c *Conn) accept(req *Request, response []byte, opened func(*Conn)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answerableLocked(); err != nil {
		return err
	}
	c.end.accept()
	c.agree(req)
	c.write.putBytes(response)
	if opened != nil {
		c.mu.Unlock()
		opened(c)
		c.mu.Lock()
	}
	return c.flushLocked(callers)
}

// refuse writes a refusal and lets c do nothing else.
func (c *Conn) refuse(e *HandshakeError, response []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answerableLocked(); err != nil {
		return err
	}
	c.write.putBytes(response)
	err := c.flushLocked(callers)
	c.stopReadsLocked(new(*e))
	c.end.accept()
	c.end.stopWrites(c.end.readable())
	return err
}

// answerableLocked returns an error if the opening handshake cannot be answered: it
// has been already, or nothing can be written.
func (c *Conn) answerableLocked() error {
	c.mu.assertLocked()
	if c.end.sends() {
		if c.req != "" {
			return errShaken
		}
		return nil
	}
	return c.end.writable()
}

// readRequest consumes an opening handshake from c's input, or nothing. It
// waits for at most Options.HandshakeTimeout, unless the caller's own read
// deadline is earlier.
func (c *Conn) readRequest() (*Request, error) {
	growStack(0)
	if err := c.takeTurn(true); err != nil {
		return nil, err
	}
	var limit time.Time
	if d := c.opts.handshakeLimit(); d > 0 {
		limit = time.Now().Add(d)
	}
	c.limitRead(limit)
	req, size, err := scanRequest(c.t.input(), func(int) ([]byte, error) {
		_, err := c.fill(nil)
		return c.t.input(), err
	})
	c.t.use(size)
	if c.limitRead(time.Time{}) && errors.Is(err, os.ErrDeadlineExceeded) {
		err = &HandshakeError{Status: http.StatusRequestTimeout, Reason: "the handshake took too long", err: err}
	}
	return req, c.release(err)
}
