// Origins: which pages may connect.

package websocket

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// checkOrigin reports a client whose origin may not connect: it is neither the server's own nor
// one of the patterns in Options.Origins. A client without an origin is no browser.
func checkOrigin(patterns []string, req *Request) error {
	if req.Origin == "" || slices.Contains(patterns, "*") {
		return nil
	}
	scheme, host, _ := strings.Cut(req.Origin, "://")
	if host == req.Host && !strings.Contains(host, "*") && (scheme == "https" || scheme == "http" && !req.Secure) {
		return nil // the server's own, as it is most often, letter for letter
	}
	reason := "pages of this origin may not connect"
	o, ok := parseOrigin(req.Origin)
	plain, _ := parseOrigin("http://" + req.Host)
	secure, _ := parseOrigin("https://" + req.Host)
	switch {
	case !ok || strings.Contains(req.Origin, "*"):
	case o == secure, o == plain && !req.Secure: // a proxy in front of the server may have ended TLS
		return nil
	case slices.ContainsFunc(patterns, o.is):
		return nil
	case req.Secure && o.scheme == "http" && o.host == plain.host:
		// Anybody on the way can have changed a page that came without TLS. But clients that
		// are no browsers may send such an origin to their own server.
		reason += fmt.Sprintf(" over TLS, unless Options.Origins has %q", o)
	}
	return &HandshakeError{Status: http.StatusForbidden, Field: "Origin", Reason: reason, err: checkPatterns(patterns)}
}

// checkPatterns reports entries of Options.Origins that match nothing.
func checkPatterns(patterns []string) error {
	var bad []string
	for _, p := range patterns {
		if _, ok := parseOrigin(p); !ok && p != "*" {
			bad = append(bad, p)
		}
	}
	if bad == nil {
		return nil
	}
	return fmt.Errorf(`entries of Options.Origins that are no origins such as "https://example.com": %q`, bad)
}

// An origin is that of a page (RFC 6454, section 4), or a pattern for some. One asterisk may
// stand in its host, and one for its port.
type origin struct {
	scheme string // in lower case, and empty if there is none
	host   string // in lower case, and empty in "file://"
	port   string // empty if there is none, nor a default for the scheme
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// parseOrigin parses an origin (RFC 6454, section 6.2), and reports whether it is one. It also
// takes what clients send in place of one that are no browsers: with a slash at the end, with
// the scheme of a WebSocket, or with no scheme.
func parseOrigin(s string) (o origin, ok bool) {
	scheme, rest, found := strings.Cut(strings.ToLower(s), "://")
	if !found {
		scheme, rest = "", scheme
	}
	o.scheme = cmp.Or(httpSchemes[scheme], scheme)
	o.host = strings.TrimSuffix(rest, "/")
	if i := strings.LastIndexByte(o.host, ':'); i > strings.LastIndexByte(o.host, ']') {
		o.host, o.port = o.host[:i], o.host[i+1:]
	}
	o.port = cmp.Or(o.port, defaultPorts[o.scheme])
	name := o.host
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") { // an IPv6 address
		name = strings.Trim(strings.ReplaceAll(name, ":", "."), "[]")
	}
	switch {
	case !isGraphic(s),
		found && (!isToken(scheme) || strings.Contains(scheme, "*")),
		strings.ContainsAny(name, `:[]/\?#@,`) || strings.Count(name, "*") > 1,
		o.port != "*" && strings.Trim(o.port, "0123456789") != "":
		return o, false
	case !found && o.host == "null": // of pages without an origin of their own
		return o, s == "null"
	}
	return o, name != "" || found && o.port == "" // "file://" has no host
}

// String returns o as browsers spell it.
func (o origin) String() string {
	s := o.scheme + "://" + o.host
	if o.port != defaultPorts[o.scheme] {
		s += ":" + o.port
	}
	return s
}

// is reports whether a pattern stands for o. One that is no origin stands for none.
func (o origin) is(pattern string) bool {
	p, ok := parseOrigin(pattern)
	if !ok || o.scheme != p.scheme || o.port != p.port && p.port != "*" {
		return false
	}
	before, after, star := strings.Cut(p.host, "*")
	if !star {
		return o.host == p.host
	}
	part, starts := strings.CutPrefix(o.host, before)
	part, ends := strings.CutSuffix(part, after)
	return starts && ends && part != "" && strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-._") == ""
}
