// A client's opening handshake: its parser, which is bounded, for both versions.

package websocket

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// A Version is a version of the WebSocket protocol. The client's request tells which. After the
// opening handshake it makes no difference to a program, apart from what hixie-76 lacks:
//
//	                  RFC 6455                      hixie-76
//	request           Sec-WebSocket-Key             Sec-WebSocket-Key1 and -Key2, and
//	                                                eight bytes behind the head
//	token             28 bytes, SHA-1 in base64     16 bytes, MD5
//	messages          text and binary               text
//	frame             header with a length,         byte 00, text, byte FF
//	                  masked by the client
//	fragments         yes                           no; NextWriter sends one frame
//	pings             yes                           no; Ping is ErrUnsupported
//	close             code and reason               bytes FF 00; read as CloseNoStatus
//	subprotocols      a list, of which the          at most one
//	                  server chooses
//	compression       if both sides want it         no
type Version uint8

const (
	RFC6455 Version = 13 // the standard; 13 is its Sec-WebSocket-Version
	Hixie76 Version = 76 // draft-ietf-hybi-thewebsocketprotocol-00
)

var versionNames = map[Version]string{RFC6455: "RFC 6455", Hixie76: "hixie-76"}

// String returns the usual name of the version.
func (v Version) String() string { return cmp.Or(versionNames[v], "unknown version") }

// A Request holds the contents of a client's opening handshake.
//
// [GetRequest] returns it filled in and checked. Before a server accepts the client it
// may change Protocol, clear Extensions, and change Secure if a proxy in front of it ends
// TLS. The other fields are not to be changed.
type Request struct {
	// Version is the version of the protocol that the client speaks.
	Version Version

	// Host is the host that the client asked for, as it sent it, with the
	// port unless that is the default.
	Host string

	// Path is the resource that the client asked for, as it sent it: an absolute
	// path, and a query behind a question mark. [net/url.ParseRequestURI] parses it.
	Path string

	// Origin is the origin of the page that opened the connection. It is
	// empty where the client sent none, as clients other than browsers do;
	// with Hixie76 it is never empty.
	Origin string

	// Secure is true if the connection runs over TLS. GetRequest sets it for a
	// *tls.Conn. A client of hixie-76 compares the scheme in the response, ws or
	// wss, with the one it asked for.
	Secure bool

	// Key1 and Key2 are the security keys of a hixie-76 client, Token the
	// eight bytes behind its head. They are empty for RFC6455.
	Key1, Key2, Token string

	// Key is the value of Sec-WebSocket-Key, 16 bytes in base64. It is empty for Hixie76,
	// and over HTTP/2 unless the client has sent one that it does not need there.
	Key string

	// Protocols lists the subprotocols that the client offers, in its order
	// of preference. A hixie-76 client offers at most one.
	Protocols []string

	// Protocol is the subprotocol that the server accepts: one of Protocols, or
	// empty.
	Protocol string

	// Extensions is what the server accepts of the extensions that the client offers,
	// as in the field Sec-WebSocket-Extensions of its response, or empty. It is
	// permessage-deflate with parameters, or nothing; see [Options].Deflate.
	Extensions string

	// Header holds all fields of the head under their canonical names.
	Header http.Header

	// ResponseHeader holds fields of the response. Those that a server sets before
	// PutResponse, such as Set-Cookie, are sent besides the ones that the handshake needs
	// itself. For a client it has all that the server has sent.
	ResponseHeader http.Header
}

// GetRequest reads a client's opening handshake from r. It sends nothing:
// [PutResponse] accepts the client and [PutRefusal] turns it away, so that a server can
// filter its clients by the contents of their requests.
//
// An invalid handshake is a [*HandshakeError] as soon as it is detected, and so is a head that
// is too large. If r ends before the first byte, the error is
// io.EOF, and within the handshake io.ErrUnexpectedEOF. Errors of r are passed on.
//
// If r is a [Conn], GetRequest waits for at most Options.HandshakeTimeout, and refuses pages
// of other origins if there are Options.Origins, with a [*HandshakeError] whose Status is 403.
// It sets Protocol in the Request to the first of Options.Protocols that the client offers,
// and Extensions as Options.Deflate says. After a read deadline of the caller's own it may be
// called again. If r is not a Conn, GetRequest does not read past the end of the
// handshake; it reads a few bytes at a time.
func GetRequest(r io.Reader) (*Request, error) {
	var req *Request
	var err error
	o := noOptions
	if c, ok := connOf(r); ok {
		o = c.opts
		if req, err = c.readRequest(); err == nil {
			r = c.stream()
		}
	} else {
		req, err = requestBare(r)
	}
	if err != nil {
		return nil, err
	}
	_, req.Secure = r.(interface{ ConnectionState() tls.ConnectionState })
	if o.Origins != nil {
		if err := checkOrigin(o.Origins, req); err != nil {
			return nil, err
		}
	}
	if err := req.choose(o); err != nil {
		return nil, err
	}
	return req, nil
}

// choose sets what a server with the options answers: the first of its subprotocols that the
// client offers, and extensions.
func (r *Request) choose(o *Options) (err error) {
	if i := slices.IndexFunc(o.Protocols, func(p string) bool { return slices.Contains(r.Protocols, p) }); i >= 0 {
		r.Protocol = o.Protocols[i]
	}
	if r.Version == RFC6455 && o.Deflate != nil {
		r.Extensions, err = o.Deflate.chooseExtensions(r.Header)
	}
	return err
}

// A headScanner finds the end of a request head. It rejects an invalid head at the first
// byte that shows it.
type headScanner struct {
	n     int // bytes scanned
	lines int // lines completed
	state headState
}

type headState byte

const (
	inLine     headState = iota
	afterCR              // a CR ended the text of a line
	lineStart            // behind the CR LF of a line
	afterEndCR           // behind the CR of the blank line
	headEnd
)

// scan looks at the input behind what was scanned before, up to the end of the head. It returns
// the least number of bytes that can complete the head.
func (s *headScanner) scan(in []byte) (missing int, err error) {
	const method = "GET "
	for _, c := range in[s.n:] {
		if s.n == maxHead {
			return 0, &HandshakeError{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "the head is larger than 8 KiB"}
		}
		if s.n < len(method) && c != method[s.n] {
			if 'A' <= c && c <= 'Z' || s.n > 0 && c == ' ' {
				return 0, &HandshakeError{Status: http.StatusMethodNotAllowed, Reason: "the method is not GET"}
			}
			return 0, badRequest("", "not an HTTP request")
		}
		s.n++
		switch {
		case c > ' ' && c != 0x7f && s.state == inLine: // most bytes
		case c == '\r' && s.state == inLine:
			s.state = afterCR
		case c == '\r' && s.state == lineStart:
			s.state = afterEndCR
		case c == '\n' && s.state == afterCR:
			s.state = lineStart
			if s.lines++; s.lines > 1+maxFields {
				return 0, &HandshakeError{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "the head has more than 100 fields"}
			}
		case c == '\n' && s.state == afterEndCR:
			s.state = headEnd
			return 0, nil
		case s.state == afterCR || s.state == afterEndCR:
			return 0, badRequest("", "the head has a CR without LF")
		case s.state == lineStart && (c == ' ' || c == '\t'):
			return 0, badRequest("", "the head has a folded line") // RFC 9112, section 5.2
		case c < ' ' && c != '\t' || c == 0x7f:
			return 0, badRequest("", "the head has a control character")
		default:
			s.state = inLine
		}
	}
	return int(headEnd - s.state), nil
}

// scanRequest reads a request until it is whole, and returns how many bytes it has. in is what has
// been read already; more reads at least a byte of those that the request needs at least, and
// returns all that has been read.
func scanRequest(in []byte, more func(need int) ([]byte, error)) (req *Request, size int, err error) {
	var scan headScanner
	missing, err := scan.scan(in)
	for err == nil && missing > 0 {
		if in, err = more(missing); err == nil {
			missing, err = scan.scan(in)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	size = scan.n
	if req, err = parseHead(string(in[:size])); err != nil {
		return nil, 0, err
	}
	if req.Version == Hixie76 {
		size += tokenSize
		for len(in) < size {
			if in, err = more(size - len(in)); err != nil {
				return nil, 0, err
			}
		}
		req.Token = string(in[scan.n:size])
	}
	return req, size, nil
}

// parseHead parses and checks a complete request head. What follows the head,
// the token of hixie-76, is left to the caller.
func parseHead(head string) (*Request, error) {
	line, rest, _ := strings.Cut(head, "\r\n")
	_, line, _ = strings.Cut(line, " ") // "GET", the scanner has seen it
	target, proto, ok := strings.Cut(line, " ")
	if !ok {
		return nil, badRequest("", "the request line is not complete")
	}

	// One allocation holds the values of all fields: a slice of one string
	// each, clipped so that an append by Add moves away.
	values := make([]string, strings.Count(rest, "\r\n"))
	header := make(http.Header, len(values))
	for rest != "\r\n" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return nil, badRequest("", "the head has a line that is no field")
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		value = strings.Trim(value, " \t")
		if old, ok := header[name]; ok {
			header[name] = append(old, value)
			continue
		}
		values[0] = value
		header[name], values = values[:1:1], values[1:]
	}

	host, err := single(header, "Host")
	if err != nil {
		return nil, err
	}
	if host == "" {
		return nil, badRequest("Host", "is missing")
	}
	authority, path, absolute := splitTarget(target)
	if absolute {
		host = authority
	}
	req, err := newRequest(host, path, header)
	if err != nil {
		return nil, err
	}
	// The draft ignores what follows the resource.
	if req.Version == RFC6455 {
		major, minor, ok := http.ParseHTTPVersion(proto)
		if !ok {
			return nil, badRequest("", "the request line has no HTTP version")
		}
		if major != 1 || minor == 0 {
			return nil, &HandshakeError{Status: http.StatusHTTPVersionNotSupported, Reason: "the HTTP version is not 1.1"}
		}
	}
	return req, req.checkHead()
}

func badVersion() *HandshakeError {
	return &HandshakeError{Status: http.StatusUpgradeRequired, Field: "Sec-WebSocket-Version", Reason: "Sec-WebSocket-Version is not 13"}
}

// newRequest makes a Request of the fields of a head, which tell its version.
func newRequest(host, path string, header http.Header) (*Request, error) {
	req := &Request{Host: host, Path: path, Header: header}
	var err error
	get := func(name string) (value string) {
		if err == nil {
			value, err = single(header, name)
		}
		return value
	}
	req.Origin = get("Origin")
	req.Key = get("Sec-Websocket-Key")
	req.Key1 = get("Sec-Websocket-Key1")
	req.Key2 = get("Sec-Websocket-Key2")
	version := get("Sec-Websocket-Version")
	length := get("Content-Length")
	if err != nil {
		return nil, err
	}

	switch {
	case !hasToken(header["Upgrade"], "websocket"):
		return nil, &HandshakeError{Status: http.StatusUpgradeRequired, Field: "Upgrade", Reason: "the field Upgrade does not ask for a WebSocket"}
	case !hasToken(header["Connection"], "upgrade"):
		return nil, badRequest("Connection", "does not hold upgrade")
	case version != "" && version != "13":
		return nil, badVersion()
	case req.Key != "" && version == "":
		return nil, badRequest("Sec-WebSocket-Version", "is missing")
	case req.Key == "" && version != "":
		return nil, badRequest("Sec-WebSocket-Key", "is missing")
	case req.Key != "":
		req.Version = RFC6455
		req.Key1, req.Key2 = "", ""
		req.Protocols, err = splitProtocols(header["Sec-Websocket-Protocol"])
	case req.Key1 != "" || req.Key2 != "":
		req.Version = Hixie76
		if protocol := get("Sec-Websocket-Protocol"); protocol != "" {
			req.Protocols = []string{protocol}
		}
	default:
		return nil, badRequest("Sec-WebSocket-Key", "is missing")
	}
	if err != nil {
		return nil, err
	}

	// A body would be taken for frames. Some hixie-76 clients announce their
	// token as one.
	switch {
	case header["Transfer-Encoding"] != nil:
		return nil, badRequest("Transfer-Encoding", "announces a body")
	case length != "" && length != "0" && !(req.Version == Hixie76 && length == "8"):
		return nil, badRequest("Content-Length", "announces a body")
	}
	return req, nil
}

// newStreamRequest makes a Request of one that came over HTTP/2 (RFC 8441, section 5).
func newStreamRequest(host, path string, header http.Header) (*Request, error) {
	version, err := single(header, "Sec-Websocket-Version")
	if err == nil && version != "13" {
		err = badVersion()
	}
	origin, originErr := single(header, "Origin")
	protocols, protocolsErr := splitProtocols(header["Sec-Websocket-Protocol"])
	key, _ := single(header, "Sec-Websocket-Key")
	if checkKey(key) != nil {
		key = "" // it means nothing
	}
	req := &Request{Version: RFC6455, Host: host, Path: path, Origin: origin, Key: key, Protocols: protocols, Header: header}
	return req, cmp.Or(err, originErr, protocolsErr)
}

// check reports what makes r unfit for an accepting response, as a program may
// have made or changed it.
func (r *Request) check() error {
	if err := r.checkHead(); err != nil {
		return err
	}
	if r.Version == Hixie76 && len(r.Token) != tokenSize {
		return badRequest("", "the token is not 8 bytes long")
	}
	return r.checkExtensions()
}

// checkExtensions is check for the extensions.
func (r *Request) checkExtensions() error {
	if r.Extensions == "" {
		return nil
	}
	bad := badRequest("Sec-WebSocket-Extensions", "does not offer what the response has")
	answer, err := agreedDeflate(r.Extensions)
	if err != nil || r.Version != RFC6455 {
		return bad
	}
	offers, err := parseExtensions(r.Header["Sec-Websocket-Extensions"])
	if err != nil {
		return err
	}
	for _, e := range offers {
		if offer, ok := parseDeflate(e, false); ok && answer.answers(offer) {
			return nil
		}
	}
	return bad
}

// checkText is check for what requests of all kinds have.
func (r *Request) checkText() error {
	switch bad := notURI(r.Path); {
	case r.Host == "":
		return badRequest("Host", "is missing")
	case !isGraphic(r.Host) || strings.ContainsAny(r.Host, "/\\@?#\"<>^`{|}"):
		return badRequest("Host", "is no host")
	case !strings.HasPrefix(r.Path, "/"):
		return badRequest("", "the resource is no absolute path")
	case bad != "":
		return badRequest("", fmt.Sprintf("the resource holds %q, which no URI may hold", bad))
	case strings.ContainsFunc(r.Origin, isControl) || strings.Contains(r.Origin, "\t"):
		return badRequest("Origin", "has a control character")
	case strings.ContainsFunc(r.Key1, isControl):
		return badRequest("Sec-WebSocket-Key1", "has a control character")
	case strings.ContainsFunc(r.Key2, isControl):
		return badRequest("Sec-WebSocket-Key2", "has a control character")
	case r.Protocol != "" && !slices.Contains(r.Protocols, r.Protocol):
		return badRequest("Sec-WebSocket-Protocol", "was not offered by the client")
	case strings.ContainsFunc(r.Protocol, isControl):
		return badRequest("Sec-WebSocket-Protocol", "has a control character")
	}
	return nil
}

// checkHead is check for all that stands in the head.
func (r *Request) checkHead() error {
	if err := r.checkText(); err != nil {
		return err
	}
	switch r.Version {
	case RFC6455:
		if err := checkKey(r.Key); err != nil {
			return badRequest("Sec-WebSocket-Key", err.Error())
		}
		if r.Protocol != "" && !isProtocol(r.Protocol) {
			return badRequest("Sec-WebSocket-Protocol", "is no token")
		}
	case Hixie76:
		if r.Origin == "" {
			return badRequest("Origin", "is missing")
		}
		if _, err := keyNumber(r.Key1); err != nil {
			return badRequest("Sec-WebSocket-Key1", err.Error())
		}
		if _, err := keyNumber(r.Key2); err != nil {
			return badRequest("Sec-WebSocket-Key2", err.Error())
		}
	default:
		return badRequest("Sec-WebSocket-Version", "is unknown")
	}
	return nil
}
