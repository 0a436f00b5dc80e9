//go:build !js

// The client's connection, as net/http makes it.

package websocket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"time"
)

// dial is Dial with arguments that have been checked. r is the request for net/http, and req the
// same for Conn.Request.
func dial(ctx context.Context, r *http.Request, req *Request, o *Options) (*Conn, error) {
	client := *cmp.Or(o.HTTPClient, http.DefaultClient)
	timeout := o.handshakeLimit()
	if client.Timeout > 0 && (timeout < 0 || client.Timeout < timeout) {
		timeout = client.Timeout
	}
	client.Timeout = 0 // it would go on to run after the handshake
	transport, plain := cmp.Or(client.Transport, http.DefaultTransport).(*http.Transport)
	if plain {
		client.Transport = tunneler{transport}
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	check := client.CheckRedirect
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error { return checkRedirect(r, via, check) }
	var taken handshakeConn
	resp, err := client.Do(r.WithContext(httptrace.WithClientTrace(ctx, taken.trace(req.Key))))
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without a URL that the caller has not used
	}
	if err != nil {
		return nil, fmt.Errorf("websocket: %w", err)
	}
	if err := req.checkResponse(resp, o.Deflate); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if err := ctx.Err(); err != nil { // net/http may have closed the connection before it had the response
		resp.Body.Close()
		return nil, fmt.Errorf("websocket: %w", err)
	}
	req.Host, req.Path = cmp.Or(resp.Request.Host, resp.Request.URL.Host), resp.Request.URL.RequestURI()
	req.Secure = resp.Request.URL.Scheme == "https" // after a redirect, all of that is new
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, badResponse("", "the HTTPClient does not give access to the connection")
	}
	rw, early := taken.stream(body, plain)
	c := newConn(rw, o, true)
	c.agree(req)
	c.t.preload(early)
	return c, nil
}

// checkRedirect decides whether to follow a redirect, after check, which may be nil.
func checkRedirect(r *http.Request, via []*http.Request, check func(*http.Request, []*http.Request) error) error {
	httpScheme(r.URL)
	// Even back at the first host, the rest of the URL is the choice of another.
	if slices.ContainsFunc(via, func(v *http.Request) bool { return v.URL.Hostname() != r.URL.Hostname() }) {
		maps.DeleteFunc(r.Header, isCredential)
	}
	if check != nil {
		if err := check(r, via); err != nil {
			return err
		}
	} else if len(via) >= 10 { // as net/http does
		return errors.New("stopped after 10 redirects")
	}
	if r.URL.Scheme == "http" && via[len(via)-1].URL.Scheme == "https" {
		return errors.New("the server redirects from wss to ws")
	}
	return nil
}

// A handshakeConn finds the connection on which net/http sends an opening handshake. It is
// the one that has the key on it: a Transport may send requests of its own with the same
// context.
type handshakeConn struct {
	mu         sync.Mutex
	last, conn net.Conn
}

func (h *handshakeConn) trace(key string) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.last = info.Conn
		},
		WroteHeaderField: func(_ string, values []string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if slices.Contains(values, key) {
				h.conn = h.last
			}
		},
	}
}

// stream returns the connection for a Conn, and what has been read from it already. As a rule
// the Conn uses the body of the response, whose deadlines and addresses are those of the
// connection. If nobody but net/http knows the body, and the connection is a socket, that is
// used itself, as a Conn waits on it without a buffer.
func (h *handshakeConn) stream(body io.ReadWriteCloser, plain bool) (rw io.ReadWriter, early []byte) {
	h.mu.Lock()
	conn := h.conn
	h.mu.Unlock()
	if conn == nil {
		return body, nil
	}
	conn.SetDeadline(time.Time{}) // those of whoever made it
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if plain {
			// The body first returns what has been read together with the response, and then
			// reads from the socket, which has nothing to add while its deadline is over.
			conn.SetReadDeadline(time.Unix(1, 0))
			early, _ = io.ReadAll(body)
			conn.SetReadDeadline(time.Time{})
			return conn, early
		}
	}
	return bodyConn{conn, body}, nil
}

// A bodyConn is a connection that is used through the body of a response.
type bodyConn struct {
	net.Conn
	body io.ReadWriteCloser
}

func (c bodyConn) Read(p []byte) (int, error)  { return c.body.Read(p) }
func (c bodyConn) Write(p []byte) (int, error) { return c.body.Write(p) }
func (c bodyConn) Close() error                { return c.body.Close() }

func (c bodyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
