//go:build !js

// HTTP proxies, which tunnel ws as they do wss.

package websocket

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

const maxProxyHead = 64 << 10 // bytes of a proxy's response, apart from its body

// A tunneler is a Transport that asks HTTP proxies for a tunnel to a server of ws, too (RFC
// 6455, section 4.1). net/http does so for TLS alone; other requests it sends to the proxy,
// which then has to know WebSocket.
type tunneler struct{ *http.Transport }

func (t tunneler) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.Proxy == nil || r.URL.Scheme != "http" {
		return t.Transport.RoundTrip(r)
	}
	proxy, err := t.Proxy(r)
	if err != nil || proxy == nil || proxy.Scheme != "http" && proxy.Scheme != "https" {
		return t.Transport.RoundTrip(r) // which has the same proxy, such as one of SOCKS
	}
	through := t.Clone()
	through.Proxy = nil
	through.DisableKeepAlives = true // nobody else could use the connection
	through.DialContext = func(_ context.Context, _, addr string) (net.Conn, error) {
		conn, err := t.tunnel(r.Context(), proxy, addr)
		if err != nil {
			return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: err} // as net/http does
		}
		return conn, nil
	}
	return through.RoundTrip(r)
}

// tunnel connects to addr through a proxy.
func (t tunneler) tunnel(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	conn, err := t.dial(ctx, proxy)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = t.connect(ctx, conn, proxy, addr)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// dial connects to a proxy. Where there is TLS, the first write shakes hands.
func (t tunneler) dial(ctx context.Context, proxy *url.URL) (conn net.Conn, err error) {
	secure, port := proxy.Scheme == "https", "80"
	if secure {
		port = "443"
	}
	addr := net.JoinHostPort(proxy.Hostname(), cmp.Or(proxy.Port(), port))
	switch {
	case secure && t.DialTLSContext != nil:
		return t.DialTLSContext(ctx, "tcp", addr)
	case secure && t.DialTLS != nil:
		return t.DialTLS("tcp", addr)
	case t.DialContext != nil:
		conn, err = t.DialContext(ctx, "tcp", addr)
	case t.Dial != nil:
		conn, err = t.Dial("tcp", addr)
	default:
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	if err != nil || !secure {
		return conn, err
	}
	config := cmp.Or(t.TLSClientConfig, new(tls.Config)).Clone()
	config.ServerName = cmp.Or(config.ServerName, proxy.Hostname())
	config.NextProtos = nil // HTTP/1.1
	return tls.Client(conn, config), nil
}

// connect asks a proxy for a tunnel to addr (RFC 9110, section 9.3.6).
func (t tunneler) connect(ctx context.Context, conn net.Conn, proxy *url.URL, addr string) (err error) {
	header := t.ProxyConnectHeader
	if t.GetProxyConnectHeader != nil {
		if header, err = t.GetProxyConnectHeader(ctx, proxy, addr); err != nil {
			return err
		}
	}
	if header = header.Clone(); header == nil {
		header = make(http.Header)
	}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: header}
	if err := r.Write(conn); err != nil {
		return err
	}
	// A server says nothing before it is spoken to, so that no byte of it is lost here.
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxProxyHead)), r)
	if err != nil {
		return err
	}
	if t.OnProxyConnectResponse != nil {
		if err := t.OnProxyConnectResponse(ctx, proxy, r, resp); err != nil {
			return err
		}
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the proxy answered %s", resp.Status)
	}
	return nil
}
