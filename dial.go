// Dial, which has a body for each kind of system: client_http.go and client_js.go.

package websocket

import "context"

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
//
// # Browsers
//
// With GOOS=js Dial uses the WebSocket of the page, and the browser decides on all of that. What a
// page has no say in is an error that wraps [errors.ErrUnsupported]: Options.Header, HTTPClient,
// Deflate, a PingInterval, a user in the URL, and [Conn.Ping]. Why an opening handshake fails a page
// is not told, so there is no HandshakeError. Of the handshake [Conn.Request] has the URL, the
// subprotocols and the extensions.
//
// A message that [Conn.NextWriter] sends is kept until its end, and leaves in one frame. Writes wait
// while Options.MaxQueue bytes are still to be sent. Input cannot be held back: the connection ends
// with an error if more bytes than that wait to be read, in more than one message. A page closes
// with CloseNormal or a code from 3000 to 4999, and in place of another one its close frame has
// none. After CloseNow the browser still does a closing handshake.
//
// Like all that waits for events of the page, Dial and the methods of its Conn are not for functions
// that the page calls, unless these begin a goroutine; see [syscall/js.FuncOf].
func Dial(ctx context.Context, rawURL string, o *Options) (*Conn, error) {
	o = o.clone()
	r, req, err := o.newClientRequest(rawURL)
	if err != nil {
		return nil, err
	}
	return dial(ctx, r, req, o)
}
