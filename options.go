// Options, their defaults, and who heeds which.

package websocket

import (
	"cmp"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// Options adjusts connections. The zero value and a nil pointer stand for the
// defaults. Functions that take Options copy them; those of a [Server] must not be
// changed once it is in use.
type Options struct {
	// MaxMessage is the size of the largest message that is accepted, in
	// bytes. The connection of a peer that announces a larger one is closed
	// with CloseMessageTooBig before the payload is read, or if it is compressed,
	// while it is inflated. 0 means 1 MiB; a negative number means no limit, for
	// programs that stream with NextReader. Conn.SetMaxMessage changes it later.
	MaxMessage int64

	// Protocols lists subprotocols in the order of preference. A server accepts
	// the first that the client offers too; GetRequest proposes it in
	// Request.Protocol. A client offers all of them and finds the accepted one
	// in Conn.Request. If there is none, the connection has no subprotocol.
	Protocols []string

	// Deflate lets messages be compressed, if the peer wants that too. Nil means
	// that they are not.
	Deflate *Deflate

	// Origins lists the origins, besides a server's own, whose pages may connect to it.
	// Nil means no others for Upgrade and a Server, and for GetRequest and ShakeHands that
	// all pages may. A pattern is an origin such as
	// "https://example.com" or "http://localhost:8080", with the scheme and without a
	// path, in which one asterisk may stand for any part of the name of the host
	// ("https://*.example.com") and one for any port ("http://localhost:*"). "null"
	// allows pages without an origin of their own, and "*" alone every page.
	//
	// Apps and devices send other origins. "file://" and those without a scheme can be
	// listed as they are. A slash at the end makes no difference, and ws and wss mean http
	// and https. An entry that is no origin matches nothing. A Server logs which these
	// are, and the error of Upgrade names them when it refuses an origin.
	Origins []string

	// Header holds fields that are added to the opening handshake: to the request of a
	// client, and to the response with which a server accepts one. Their names are
	// sent as they are spelled here, apart from those that net/http itself looks for, such
	// as User-Agent.
	Header http.Header

	// Client makes NewConn return the client's side of a connection. Its opening
	// handshake has been done elsewhere: Dial and ClientHandshake do it themselves.
	Client bool

	// Extensions is for NewConn, too: what has been agreed on in an opening handshake that
	// was done elsewhere, as the response has it in Sec-WebSocket-Extensions. That is
	// permessage-deflate with parameters, or nothing. The Conn compresses as Deflate says,
	// within these, and Conn.Request returns no more of the handshake. If no response may
	// have such a value, reads and writes return an error.
	Extensions string

	// HTTPClient is what Dial uses. Its Transport decides on proxies, TLS and how
	// connections are made, its Jar has the cookies, its CheckRedirect is asked about
	// redirects, and its Timeout limits the opening handshake. Nil means http.DefaultClient.
	HTTPClient *http.Client

	// HandshakeTimeout is how long an opening handshake may take: for a client all of it,
	// and for a server until GetRequest, on a Conn whose transport has deadlines, has read
	// the request. Beside net/http the http.Server limits that, with its ReadHeaderTimeout;
	// over HTTP/1.1 Upgrade gives up on a client that lets it wait for longer than this and
	// 5 seconds to write the response. 0 means 10 seconds; a negative duration means no
	// limit.
	HandshakeTimeout time.Duration

	// CloseTimeout is how long a closing handshake may take before the
	// transport is closed anyway. 0 or less means 5 seconds.
	CloseTimeout time.Duration

	// PingInterval is how long a connection that a Server or Conn.Serve serves may be silent.
	// Proxies cut connections that are silent in either direction, many after 30 or 60
	// seconds. So when for this long, or a tenth longer, nothing has come from the peer, or
	// nothing was sent to it, a ping is sent, whose pong breaks the silence.
	//
	// The connection is closed if nothing at all comes for another PingInterval, unless a
	// callback runs and keeps it from being read. It is closed, too, if a write has failed, or
	// if for three to five the peer takes nothing of what is written to it. On Linux that is
	// what its system has received; elsewhere, and over HTTP/2, it is what this system has
	// room for, which may be 64 KiB at a time.
	//
	// 0 means 20 seconds for the connections of a Server, and no pings for others; a negative
	// duration means no pings. Hixie-76 has none.
	PingInterval time.Duration

	// MaxQueue is how many bytes of broadcasts may wait for one client of a Server, as it
	// reads slowly or many are sent at once. A client for which more would wait is closed
	// with ClosePolicyViolation. It is to be larger than the largest message, so that more
	// than one can wait. Dial says what it is for a page in a browser. 0 or less means 1 MiB.
	MaxQueue int
}

// The defaults of Options.
const (
	maxMessage       = 1 << 20
	handshakeTimeout = 10 * time.Second
	closeTimeout     = 5 * time.Second
	pingInterval     = 20 * time.Second
	maxQueue         = 1 << 20
)

// noOptions stands for a nil pointer. Nothing changes it.
var noOptions = new(Options)

// lastClone is the last copy that was made. Most programs have the same options for all connections,
// which then share one.
var lastClone atomic.Pointer[Options]

// clone returns a copy of o that its owner does not change, nor anybody else.
func (o *Options) clone() *Options {
	if o == nil {
		return noOptions
	}
	if last := lastClone.Load(); last != nil && o.equals(last) {
		return last
	}
	o2 := *o
	o2.Protocols = slices.Clone(o.Protocols)
	o2.Origins = slices.Clone(o.Origins)
	o2.Header = o.Header.Clone()
	if o.Deflate != nil {
		o2.Deflate = new(*o.Deflate)
	}
	lastClone.Store(&o2)
	return &o2
}

// equals reports whether o and p are the same options.
func (o *Options) equals(p *Options) bool {
	return o.MaxMessage == p.MaxMessage && o.Client == p.Client && o.Extensions == p.Extensions &&
		o.HTTPClient == p.HTTPClient && o.HandshakeTimeout == p.HandshakeTimeout &&
		o.CloseTimeout == p.CloseTimeout && o.PingInterval == p.PingInterval && o.MaxQueue == p.MaxQueue &&
		(o.Deflate == p.Deflate || o.Deflate != nil && p.Deflate != nil && *o.Deflate == *p.Deflate) &&
		slices.Equal(o.Protocols, p.Protocols) && slices.Equal(o.Origins, p.Origins) &&
		(o.Origins == nil) == (p.Origins == nil) && // which allows all pages, or none
		maps.EqualFunc(o.Header, p.Header, slices.Equal)
}

// messageLimit returns how many bytes a message may have if n is the MaxMessage.
func messageLimit(n int64) uint64 {
	if n < 0 {
		return math.MaxInt64
	}
	return uint64(cmp.Or(n, maxMessage))
}

// handshakeLimit returns how long an opening handshake may take; it is negative if there is no
// limit.
func (o *Options) handshakeLimit() time.Duration {
	return cmp.Or(o.HandshakeTimeout, handshakeTimeout)
}

// closeLimit returns how long a closing handshake may take.
func (o *Options) closeLimit() time.Duration {
	return cmp.Or(max(0, o.CloseTimeout), closeTimeout)
}

// queueLimit returns how many bytes of messages may wait for a client.
func (o *Options) queueLimit() int {
	return cmp.Or(max(0, o.MaxQueue), maxQueue)
}
