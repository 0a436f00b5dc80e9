// Origins: which pages may connect.

package websocket

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// checkOrigin reports a client whose origin may not connect.
func checkOrigin(patterns []string, req *Request) error {
	for _, pattern := range patterns {
		if _, _, _, ok := splitOrigin(pattern); !ok && pattern != "*" && pattern != "null" {
			return &HandshakeError{Status: http.StatusInternalServerError, Reason: "the server's list of origins is not valid",
				err: fmt.Errorf(`%q in Options.Origins is no origin such as "https://example.com"`, pattern)}
		}
	}
	own := "http://"
	if req.Secure {
		own = "https://"
	}
	if req.Origin == "" || matchOrigin(own+req.Host, req.Origin, false) ||
		slices.ContainsFunc(patterns, func(p string) bool { return matchOrigin(p, req.Origin, true) }) {
		return nil
	}
	return &HandshakeError{Status: http.StatusForbidden, Field: "Origin", Reason: "pages of this origin may not connect"}
}

// matchOrigin reports whether an origin is the same as another, or if wild, whether the
// pattern stands for it.
func matchOrigin(pattern, origin string, wild bool) bool {
	if pattern == origin && (wild || origin != "null") || wild && pattern == "*" {
		return true
	}
	scheme, host, port, ok := splitOrigin(origin)
	scheme2, host2, port2, ok2 := splitOrigin(pattern)
	if !ok || !ok2 || scheme != scheme2 || port != port2 && !(wild && port2 == "*") {
		return false
	}
	before, after, star := strings.Cut(host2, "*")
	if !wild || !star {
		return host == host2
	}
	return len(host) > len(before)+len(after) && strings.HasPrefix(host, before) && strings.HasSuffix(host, after)
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// splitOrigin splits an origin (RFC 6454, section 6.2), or a pattern for some, into its
// scheme, host and port, and reports whether it is one.
func splitOrigin(s string) (scheme, host, port string, ok bool) {
	scheme, host, ok = strings.Cut(strings.ToLower(s), "://")
	ok = ok && isGraphic(s)
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
	}
	port = cmp.Or(port, defaultPorts[scheme])
	name := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") { // an IPv6 address
		name = strings.Trim(strings.ReplaceAll(host, ":", "."), "[]")
	}
	ok = ok && isToken(scheme) && !strings.Contains(scheme, "*") &&
		name != "" && !strings.ContainsAny(name, `:[]/\?#@,`) && strings.Count(name, "*") <= 1 &&
		(port == "*" || strings.Trim(port, "0123456789") == "")
	return scheme, host, port, ok
}
