// The client: a connection made by net/http, or the opening handshake over a stream that exists
// already.

package websocket

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const maxRefusal = 4 << 10 // bytes of a refusal's body that a client keeps

// Dial connects to a server as a client of RFC 6455. The scheme of the URL is ws, or wss
// for TLS; http and https mean the same. A user and password in the URL become basic
// authentication.
//
// The connection is made by Options.HTTPClient, or else by [http.DefaultClient]: it decides on
// proxies and TLS, adds cookies and follows redirects. An HTTP proxy tunnels ws as well as wss
// (RFC 6455, section 4.1), if the client's Transport is an [*http.Transport]; another one
// decides that for itself. Dial offers Options.Protocols and adds Options.Header, in which Host
// and Origin may be set as well. ctx, Options.HandshakeTimeout and the client's Timeout limit the
// opening handshake; they do not affect the Conn.
//
// Redirects from wss to ws are not followed. Authorization, Cookie and Proxy-Authorization of
// Options.Header, and the user in the URL, are for the URL's own host only, but its other
// fields for every host that a redirect leads to.
//
// If the server refuses, the error is a [*HandshakeError] with the response, and if it accepts
// in a way that RFC 6455 does not allow, one without. Other errors are those of net/http, or
// say what is wrong with an argument. That a proxy has refused a tunnel is one of them, too; a
// program that needs the status sets OnProxyConnectResponse of the [*http.Transport], and gets
// what that returns to [errors.Is].
//
// A Transport that wraps another one finds the names in the header of the request as they are
// sent: Sec-WebSocket-Key is not [http.Header]'s spelling of it. It sees the fields of the
// response that accepts; the Conn reads from the body that it returns, writes to it, and closes
// it.
func Dial(ctx context.Context, rawURL string, o *Options) (*Conn, error) {
	o = o.clone()
	r, req, err := o.newClientRequest(rawURL)
	if err != nil {
		return nil, err
	}
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

// ClientHandshake opens a connection over rw as a client of RFC 6455, with a request for
// the URL. It is for streams that exist already: to connect to a server, use [Dial]. The
// scheme of the URL, ws or wss, does not matter; to use TLS, pass a *tls.Conn.
//
// What is said of errors at Dial holds here, too. ClientHandshake does not follow redirects,
// and leaves it to the caller to close rw if there is an error.
// If rw has no deadlines, closing it is also what ends a handshake that takes too long.
func ClientHandshake(rw io.ReadWriter, rawURL string, o *Options) (*Conn, error) {
	o = o.clone()
	r, req, err := o.newClientRequest(rawURL)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		return nil, err
	}
	c := newConn(rw, o, true)
	if d := o.handshakeLimit(); d > 0 {
		c.SetDeadline(time.Now().Add(d))
		defer c.SetDeadline(time.Time{})
	}
	if err := writeFull(rw, b.Bytes()); err != nil {
		return nil, err
	}
	head := &headReader{r: rw, left: maxHead}
	br := bufio.NewReader(head)
	resp, err := http.ReadResponse(br, r)
	for err == nil && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp, err = http.ReadResponse(br, r) // RFC 9110, section 15.2
	}
	if err != nil {
		return nil, cmp.Or(head.err, err)
	}
	if err := req.checkResponse(resp, o.Deflate); err != nil {
		return nil, err
	}
	read, _ := br.Peek(br.Buffered())
	c.t.preload(slices.Clone(read))
	c.agree(req)
	return c, nil
}

// A headReader reads a response of limited size. It keeps its error, which
// http.ReadResponse may not return.
type headReader struct {
	r    io.Reader
	left int
	err  error
}

func (h *headReader) Read(p []byte) (int, error) {
	if h.left == 0 {
		h.err = badResponse("", "the head of the response is larger than 8 KiB")
		return 0, h.err
	}
	n, err := h.r.Read(p[:min(len(p), h.left)])
	h.left -= n
	if h.err = err; err == io.EOF {
		h.err = io.ErrUnexpectedEOF
	}
	return n, err
}

// newClientRequest returns a client's opening handshake, as net/http sends it and as
// Conn.Request returns it (RFC 6455, section 4.1).
func (o *Options) newClientRequest(rawURL string) (*http.Request, *Request, error) {
	r, err := http.NewRequest(http.MethodGet, rawURL, nil)
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without the URL, which may hold a password
	}
	if err != nil {
		return nil, nil, fmt.Errorf("websocket: the URL is not valid: %w", err)
	}
	u, shown := r.URL, r.URL.Redacted()
	switch {
	case !httpScheme(u):
		return nil, nil, fmt.Errorf("websocket: the scheme of %q is neither ws nor wss", shown)
	case u.Hostname() == "":
		return nil, nil, fmt.Errorf("websocket: the URL %q has no host", shown)
	case strings.Contains(rawURL, "#"): // RFC 6455, section 3
		return nil, nil, fmt.Errorf("websocket: the URL %q has a fragment", shown)
	}
	for name, values := range o.Header {
		name = http.CanonicalHeaderKey(name)
		if !isToken(name) || slices.Contains(hopFields, name) || name == "Sec-Websocket-Key" {
			return nil, nil, fmt.Errorf("websocket: Options.Header must not have the field %q", rfcName(name))
		}
		for _, v := range values {
			if strings.ContainsFunc(v, isControl) {
				return nil, nil, fmt.Errorf("websocket: the field %s of Options.Header has a control character", name)
			}
			r.Header.Add(name, v)
		}
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
		r.Header.Del("Host")
	}
	if u.User != nil && r.Header.Get("Authorization") == "" {
		password, _ := u.User.Password()
		r.SetBasicAuth(u.User.Username(), password)
	}
	for i, p := range o.Protocols {
		if !isToken(p) || slices.Contains(o.Protocols[:i], p) {
			return nil, nil, fmt.Errorf("websocket: Options.Protocols has %q, which is no token or there twice", p)
		}
	}
	if o.Deflate != nil {
		if err := o.Deflate.check(); err != nil {
			return nil, nil, fmt.Errorf("websocket: Options.Deflate: %w", err)
		}
		r.Header.Set("Sec-WebSocket-Extensions", o.Deflate.offer().String())
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	req := &Request{
		Version:   RFC6455,
		Host:      r.Host,
		Path:      u.RequestURI(),
		Origin:    r.Header.Get("Origin"),
		Secure:    u.Scheme == "https",
		Key:       base64.StdEncoding.EncodeToString(nonce),
		Protocols: o.Protocols,
		Header:    r.Header,
	}
	if err := req.checkText(); err != nil {
		return nil, nil, fmt.Errorf("websocket: %w", err)
	}
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Sec-WebSocket-Key", req.Key)
	r.Header.Set("Sec-WebSocket-Version", "13")
	if len(o.Protocols) > 0 {
		r.Header.Set("Sec-WebSocket-Protocol", strings.Join(o.Protocols, ", "))
	}
	r.Header = o.spelled(r.Header)
	return r, req, nil
}

// spelled returns h with names that are spelled as in RFC 6455, and in o.Header, since there
// are servers that heed case. net/http looks for some under their canonical names.
func (o *Options) spelled(h http.Header) http.Header {
	names := make(map[string]string)
	for name := range o.Header {
		switch key := http.CanonicalHeaderKey(name); key {
		case "Accept-Encoding", "Authorization", "Cookie", "Referer", "User-Agent":
		default:
			names[key] = name
		}
	}
	s := make(http.Header, len(h))
	for key, values := range h {
		s[cmp.Or(names[key], rfcName(key))] = values
	}
	return s
}

// httpScheme changes the schemes of WebSocket URLs to those of HTTP, which net/http knows,
// and reports whether u has one of them.
func httpScheme(u *url.URL) bool {
	u.Scheme = cmp.Or(httpSchemes[u.Scheme], u.Scheme)
	return u.Scheme == "http" || u.Scheme == "https"
}

// checkResponse checks a server's answer to req (RFC 6455, section 4.1), which offers d, and
// sets what both agree on.
func (req *Request) checkResponse(resp *http.Response, d *Deflate) error {
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return &HandshakeError{Status: resp.StatusCode, Response: resp,
			Reason: strings.TrimSpace(fmt.Sprintf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))}
	}
	accepts := resp.Header["Sec-Websocket-Accept"]
	// Some servers send a field for what they do not agree to, too, and leave it empty.
	protocols := slices.DeleteFunc(slices.Clone(resp.Header["Sec-Websocket-Protocol"]), func(p string) bool { return p == "" })
	answers, err := parseExtensions(resp.Header["Sec-Websocket-Extensions"])
	upgrades := resp.Header["Upgrade"]
	switch {
	case len(accepts) > 1:
		return badResponse("Sec-WebSocket-Accept", "is repeated")
	case len(upgrades) != 1 || !strings.EqualFold(upgrades[0], "websocket"): // no list
		return badResponse("Upgrade", "is not websocket")
	case !hasToken(resp.Header["Connection"], "upgrade"):
		return badResponse("Connection", "does not hold upgrade")
	case cmp.Or(accepts...) != string(CreateToken(req)):
		return badResponse("Sec-WebSocket-Accept", "does not fit the key")
	case len(protocols) > 1:
		return badResponse("Sec-WebSocket-Protocol", "is repeated")
	case len(protocols) == 1 && !slices.Contains(req.Protocols, protocols[0]):
		return badResponse("Sec-WebSocket-Protocol", "names a subprotocol that was not offered")
	case err != nil:
		return badResponse("Sec-WebSocket-Extensions", "is no list of extensions, or longer than 8 KiB")
	}
	req.Protocol = cmp.Or(protocols...)
	req.ResponseHeader = resp.Header
	if len(answers) == 0 {
		return nil
	}
	req.Extensions = strings.Join(resp.Header["Sec-Websocket-Extensions"], ", ")
	if fault := d.fault(answers); fault != "" {
		return badResponse("Sec-WebSocket-Extensions", fault)
	}
	return nil
}

// badResponse returns an error for a server that is to blame.
func badResponse(field, reason string) *HandshakeError {
	if field != "" {
		reason = "the server's " + field + " " + reason
	}
	return &HandshakeError{Status: http.StatusBadGateway, Field: field, Reason: reason}
}
