package websocket

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// ShakeHands reads a client's opening handshake and accepts it, whatever its
// host, path and origin are. It returns the request for information only. Use
// it right after the connection has been made; to filter clients by their
// requests use [GetRequest] and [PutResponse] instead.
//
// A [Conn] accepts both versions of the protocol and the first of
// Options.Protocols that the client offers. Any other rw accepts RFC 6455 only:
// a stream without memory cannot know that its client speaks hixie-76, so wrap
// it with [NewConn].
//
// A client that does not ask for a WebSocket as it should is sent a refusal.
// The error is then a [*HandshakeError]. Otherwise it is that of rw; see
// GetRequest.
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

// PutResponse accepts the client that sent req: it writes the response of
// [CreateResponse], with one call of w.Write, and thereby ends the opening
// handshake. To choose a subprotocol set req.Protocol before.
//
// On a [Conn] it also settles which version the Conn speaks. A request that
// GetRequest would have refused, or with a Protocol that the client did not
// offer, is a [*HandshakeError], and nothing is written.
func PutResponse(w io.Writer, req *Request) error {
	if err := req.check(); err != nil {
		return err
	}
	response := createResponse(req)
	if c, ok := w.(*Conn); ok {
		return c.accept(req, response)
	}
	return writeFull(w, response)
}

// PutRefusal turns a client away: it writes an HTTP response with the status,
// which is to be from 400 to 599, and the reason as a text for people. Nothing
// but closing the connection can follow. A [Conn] refuses to do anything else.
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

// CreateResponse returns the response that accepts req, down to its last byte:
// that of RFC 6455, section 4.2.2, or that of hixie-76 with the 16 bytes of its
// token. It returns nil for a request that GetRequest would have refused.
func CreateResponse(req *Request) []byte {
	if req.check() != nil {
		return nil
	}
	return createResponse(req)
}

func createResponse(req *Request) []byte {
	token := CreateToken(req)
	b := make([]byte, 0, 512)
	if req.Version == RFC6455 {
		b = append(b, "HTTP/1.1 101 Switching Protocols\r\n"+
			"Upgrade: websocket\r\n"+
			"Connection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "...)
		b = append(b, token...)
		b = appendProtocol(b, req.Protocol)
		return append(b, "\r\n\r\n"...)
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
	b = append(b, "\r\n\r\n"...)
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

// shaken returns an error if the opening handshake has been accepted: there is only
// one. mu is held.
func (c *Conn) shaken() error {
	if c.req != nil {
		return errShaken
	}
	return nil
}

// accept writes a response and lets c speak the version of req.
func (c *Conn) accept(req *Request, response []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmp.Or(c.werr, c.shaken()); err != nil {
		return err
	}
	c.req, c.phase = req, open
	c.dec.hixie = req.Version == Hixie76
	return c.putBytes(response)
}

// refuse writes a refusal and lets c do nothing else.
func (c *Conn) refuse(status int, reason string, response []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmp.Or(c.werr, c.shaken()); err != nil {
		return err
	}
	err := c.putBytes(response)
	c.stopReading(&HandshakeError{Status: status, Reason: reason})
	c.phase, c.werr = refused, cmp.Or(c.werr, c.rerr)
	return err
}
