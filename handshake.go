package websocket

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
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

// readRequest consumes an opening handshake from c's input, or nothing. It
// waits for at most Options.HandshakeTimeout, unless the caller's own read
// deadline is earlier.
func (c *Conn) readRequest() (*Request, error) {
	if err := c.beginRead(true); err != nil {
		return nil, err
	}
	c.limitRead(cmp.Or(c.opts.HandshakeTimeout, handshakeTimeout))
	req, err := c.scanRequest()
	if c.raw == nil && len(c.in) > heldInputSize {
		c.releaseInput() // which has grown for the head
	}
	if c.limitRead(-1) && errors.Is(err, os.ErrDeadlineExceeded) {
		err = &HandshakeError{Status: http.StatusRequestTimeout, Reason: "the handshake took too long", err: err}
	}
	return req, c.endRead(err)
}

// scanRequest reads a request until it is whole.
func (c *Conn) scanRequest() (*Request, error) {
	var scan headScanner
	for {
		if err := scan.scan(c.in[c.r+scan.n : c.w]); err != nil {
			return nil, err
		}
		if scan.state == headEnd {
			break
		}
		if err := c.fill(scan.need()); err != nil {
			if err == io.EOF && scan.n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	req, err := parseHead(string(c.in[c.r : c.r+scan.n]))
	if err != nil {
		return nil, err
	}
	size := scan.n
	if req.Version == Hixie76 {
		size += tokenSize
		for c.w-c.r < size {
			if err := c.fill(size - (c.w - c.r)); err == io.EOF {
				return nil, io.ErrUnexpectedEOF
			} else if err != nil {
				return nil, err
			}
		}
		req.Token = string(c.in[c.r+scan.n : c.r+size])
	}
	c.r += size
	return req, nil
}
