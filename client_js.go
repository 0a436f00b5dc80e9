// The client's connection in a browser.

package websocket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall/js"
)

// dial is Dial with arguments that have been checked. r is the request for net/http, and req the
// same for Conn.Request.
func dial(ctx context.Context, r *http.Request, req *Request, o *Options) (*Conn, error) {
	constructor := js.Global().Get("WebSocket")
	for _, u := range []struct {
		asked bool
		what  string
	}{
		{len(o.Header) > 0, "heed Options.Header"},
		{o.HTTPClient != nil, "heed Options.HTTPClient"},
		{o.Deflate != nil, "heed Options.Deflate"},
		{o.PingInterval > 0, "heed Options.PingInterval"},
		{r.URL.User != nil, "send the user of a URL"},
		{constructor.IsUndefined(), "connect, as it has no WebSocket"},
	} {
		if u.asked {
			return nil, fmt.Errorf("websocket: this page cannot %s: %w", u.what, errors.ErrUnsupported)
		}
	}
	if d := o.handshakeLimit(); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	s := &pageStream{limit: o.queueLimit(), opened: make(chan bool, 1)}
	s.cond.L = &s.mu
	if err := s.open(constructor, "ws"+strings.TrimPrefix(r.URL.String(), "http"), o.Protocols); err != nil {
		return nil, fmt.Errorf("websocket: %w", err)
	}
	select {
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("websocket: %w", ctx.Err())
	case opened := <-s.opened:
		if !opened {
			return nil, errors.New("websocket: the connection has failed, and a page is not told why")
		}
	}
	req.Key, req.Header = "", nil // the page has others
	req.Protocol, req.Extensions = s.ws.Get("protocol").String(), s.ws.Get("extensions").String()
	c := newConn(s, o, true)
	c.req = req.keep() // no more, as it is the page that heeds the extensions
	return c, nil
}
