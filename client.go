// The client's opening handshake: over a stream that exists already, or as net/http sends it.

package websocket

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const maxRefusal = 4 << 10 // bytes of a refusal's body that a client keeps

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
