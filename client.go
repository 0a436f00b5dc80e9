package websocket

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"
)

// Dial connects to a server as a client of RFC 6455. The scheme of the URL is ws, or wss
// for TLS; http and https mean the same. A user and password in the URL become basic
// authentication.
//
// The connection is made by Options.HTTPClient, or else by [http.DefaultClient]: it decides on
// proxies and TLS, adds cookies and follows redirects. Dial offers Options.Protocols and
// adds Options.Header, in which Host and Origin may be set as well. ctx, and
// Options.HandshakeTimeout, end with the opening handshake; they do not affect the Conn.
//
// If the server refuses, or its response is not what RFC 6455 demands, the error is a
// [*HandshakeError], whose Response is the refusal. Other errors are those of the
// http.Client, or say what is wrong with an argument.
func Dial(ctx context.Context, url string, o *Options) (*Conn, error) {
	o = o.clone()
	r, req, err := o.newClientRequest(url)
	if err != nil {
		return nil, err
	}
	client := *cmp.Or(o.HTTPClient, http.DefaultClient)
	timeout := cmp.Or(o.HandshakeTimeout, handshakeTimeout)
	if client.Timeout > 0 && (timeout < 0 || client.Timeout < timeout) {
		timeout = client.Timeout
	}
	client.Timeout = 0 // it would go on to run after the handshake
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	checkRedirect := client.CheckRedirect
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		httpScheme(r.URL)
		if checkRedirect != nil {
			return checkRedirect(r, via)
		}
		if len(via) >= 10 { // as net/http does
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	var conn net.Conn
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn }}
	resp, err := client.Do(r.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return nil, err
	}
	if err := req.checkResponse(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, badResponse("", "the HTTPClient does not give access to the connection")
	}
	// body first returns what has been read together with the response, and then reads
	// from conn. With a deadline in the past conn has nothing to add.
	if conn == nil || conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		c := newConn(body, o, true)
		c.req = req
		return c, nil
	}
	read, _ := io.ReadAll(body)
	conn.SetDeadline(time.Time{})
	c := newConn(conn, o, true)
	c.in, c.w = read, len(read)
	c.req = req
	return c, nil
}
