// The grammar of header fields (RFC 9110, section 5), and of the keys in them; limits of a head.

package websocket

import (
	"cmp"
	"encoding/base64"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Limits of a request head. They hold for every client and leave room for
// the cookies that browsers send.
const (
	maxHead      = 8 << 10 // bytes, from the request line to the blank line
	maxFields    = 100
	maxProtocols = 100
)

// httpSchemes are the schemes of HTTP that those of WebSocket URLs stand for.
var httpSchemes = map[string]string{"ws": "http", "wss": "https"}

// single returns the value of a field that a head may have only once, or an
// empty string.
func single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) > 1 {
		return "", badRequest(rfcName(name), "is repeated")
	}
	return cmp.Or(values...), nil
}

// rfcName returns a canonical name as RFC 6455 spells it.
func rfcName(name string) string { return strings.Replace(name, "Sec-Websocket-", "Sec-WebSocket-", 1) }

// hasToken reports whether one of the comma-separated lists holds token, in
// whatever case.
func hasToken(lists []string, token string) bool {
	for t := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		if strings.EqualFold(strings.Trim(t, " \t"), token) {
			return true
		}
	}
	return false
}

// splitProtocols returns the subprotocols that an RFC 6455 client offers:
// tokens, each of them once (section 4.1, item 10). Some clients offer a secret there.
func splitProtocols(lists []string) ([]string, error) {
	var protocols []string
	for p := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		p = strings.Trim(p, " \t")
		switch {
		case p == "": // empty elements are allowed (RFC 9110, section 5.6.1)
		case !isProtocol(p):
			return nil, badRequest("Sec-WebSocket-Protocol", "is no list of tokens")
		case slices.Contains(protocols, p):
			return nil, badRequest("Sec-WebSocket-Protocol", "names a subprotocol twice")
		case len(protocols) == maxProtocols:
			return nil, badRequest("Sec-WebSocket-Protocol", "names more than 100 subprotocols")
		default:
			protocols = append(protocols, p)
		}
	}
	return protocols, nil
}

// An extension is an element of Sec-WebSocket-Extensions (RFC 6455, section 9.1).
type extension struct {
	name   string
	params []extensionParam
}

type extensionParam struct {
	name, value string
	hasValue    bool
}

// parseExtensions parses the lists of extensions that a field holds.
func parseExtensions(lists []string) ([]extension, error) {
	var extensions []extension
	list := strings.Join(lists, ",")
	if len(list) > maxHead { // which net/http may allow
		return nil, badRequest("Sec-WebSocket-Extensions", "is longer than 8 KiB")
	}
	for _, element := range splitUnquoted(list, ',') {
		if strings.Trim(element, " \t") == "" {
			continue // empty elements are allowed (RFC 9110, section 5.6.1)
		}
		var e extension
		for i, part := range splitUnquoted(element, ';') {
			name, value, hasValue := strings.Cut(part, "=")
			name, value = strings.Trim(name, " \t"), unquote(strings.Trim(value, " \t"))
			if !isToken(name) || hasValue && (i == 0 || !isToken(value)) {
				return nil, badRequest("Sec-WebSocket-Extensions", "is no list of extensions")
			}
			if i == 0 {
				e.name = name
			} else {
				e.params = append(e.params, extensionParam{name, value, hasValue})
			}
		}
		extensions = append(extensions, e)
	}
	return extensions, nil
}

// splitUnquoted splits s at every sep that does not stand in a quoted string.
func splitUnquoted(s string, sep byte) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == sep && !quoted:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

// unquote returns the contents of a quoted string (RFC 9110, section 5.6.4), or s if it is
// none. Both have a quote if there is one too many.
func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	var b []byte
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' {
			i++ // perhaps to the last quote
		}
		b = append(b, s[i])
	}
	return string(b)
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// isProtocol reports whether a server takes s for a subprotocol. It has to be a token, but
// clients that are no browsers put secrets there in base64, of whose characters (RFC 4648,
// section 4) a token may have all but two.
func isProtocol(s string) bool {
	return isToken(strings.ReplaceAll(strings.ReplaceAll(s, "/", "+"), "=", "+"))
}

// splitTarget splits a request target that is an absolute URI into the host, which replaces
// that of the field Host, and what a target is otherwise (RFC 9112, section 3.2). It reports
// whether that is so.
func splitTarget(target string) (host, path string, absolute bool) {
	scheme, uri, ok := strings.Cut(target, "://")
	scheme = strings.ToLower(scheme)
	if scheme = cmp.Or(httpSchemes[scheme], scheme); !ok || scheme != "http" && scheme != "https" {
		return "", target, false
	}
	i := strings.IndexAny(uri+"/", "/?")
	return uri[:i], "/" + strings.TrimPrefix(uri[i:], "/"), true
}

// notURI returns something in a path, and perhaps a query, that no URI may hold (RFC 3986,
// sections 3.3 and 3.4), or nothing. Browsers do not escape all that should be, so a path may
// hold ^ and |, and a query what else they leave.
func notURI(target string) string {
	path, _, _ := strings.Cut(target, "?")
	i := strings.IndexFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"#<>", r) })
	if i < 0 {
		i = strings.IndexAny(path, "\\`{}")
	}
	if i >= 0 {
		return target[i : i+1]
	}
	_, err := url.PathUnescape(path)
	bad, _ := errors.AsType[url.EscapeError](err)
	return string(bad)
}

// isGraphic reports whether s has printable ASCII characters only, and no
// space.
func isGraphic(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isControl reports whether a field value cannot hold r.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// hopFields are the fields of a response that are up to the handshake or to HTTP itself.
var hopFields = []string{
	"Connection", "Content-Length", "Content-Type", "Keep-Alive", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions",
	"Sec-Websocket-Location", "Sec-Websocket-Origin", "Sec-Websocket-Protocol", "Sec-Websocket-Version",
}

func isHopField(name string, _ []string) bool {
	return slices.Contains(hopFields, http.CanonicalHeaderKey(name))
}

// isCredential reports whether a field says who the client is.
func isCredential(name string, _ []string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Authorization", "Cookie", "Proxy-Authorization":
		return true
	}
	return false
}

// tokenSize is the number of bytes that a hixie-76 client sends behind the
// blank line of its head.
const tokenSize = 8

// checkKey reports what is wrong with the value of Sec-WebSocket-Key, which
// has to be 16 bytes in base64 (RFC 6455, section 4.2.1, item 5).
func checkKey(key string) error {
	var nonce [18]byte // what 24 digits of base64 can hold
	if len(key) == 24 {
		if n, err := base64.StdEncoding.Decode(nonce[:], []byte(key)); err == nil && n == 16 {
			return nil
		}
	}
	return errors.New("is not 16 bytes in base64")
}

// keyNumber returns the number hidden in a hixie-76 key: its digits read as
// one number in base ten, divided by the number of its spaces (draft section
// 5.2, steps 4 to 7).
func keyNumber(key string) (uint32, error) {
	var number, spaces uint64
	digits := false
	for i := range len(key) {
		switch c := key[i]; {
		case c == ' ':
			spaces++
		case '0' <= c && c <= '9':
			digits = true
			if number > (math.MaxUint64-9)/10 {
				return 0, errors.New("holds a number that is too large")
			}
			number = number*10 + uint64(c-'0')
		}
	}
	switch {
	case !digits:
		return 0, errors.New("holds no digit")
	case spaces == 0:
		return 0, errors.New("holds no space")
	case number%spaces != 0:
		return 0, errors.New("holds a number that its spaces do not divide")
	case number/spaces > math.MaxUint32:
		return 0, errors.New("holds a number that is too large")
	}
	return uint32(number / spaces), nil
}
