// A client that stays connected: it dials again when a connection has ended.

package websocket

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	leastWait     = 500 * time.Millisecond // before a client dials again
	longestWait   = 30 * time.Second       // and as long a connection has to last for waits to begin anew
	maxRetryAfter = 24 * time.Hour         // that is heeded
)

// Reconnect returns the connections of a client that stays connected, one after the other. It
// dials as [Dial] does, and again when the body of the loop is done with a connection:
//
//	for c, err := range websocket.Reconnect(ctx, url, o) {
//		if err != nil {
//			log.Print(err)
//			continue
//		}
//		c.Serve(h)
//	}
//
// An attempt that fails yields its error, as Dial returns it, and a nil Conn. The loop goes on
// after it, unless it cannot get better: then that error is the last. This is so if an argument is
// wrong, and if the server answers with a status from 400 to 499, such as 401, 403 or 404, but
// not with 408, 425 or 429, nor if Retry-After comes with it. How a connection has ended, c tells
// the body, which may break out of the loop.
//
// A connection is the body's until that returns, breaks or panics; then Reconnect calls Close, as
// it may be open still. Only Serve with Options.PingInterval, or [Conn.Ping], finds out that a
// silent server is gone.
//
// When ctx is done, the loop ends, without an error of its own. An attempt and a wait end at
// once. A connection in use is closed with CloseGoingAway, which ends Serve and calls that read
// or write; the loop ends when the body returns.
//
// Between two attempts Reconnect waits (RFC 6455, section 7.2.3): first for a random time from
// 0.5 to 1 second, and then for up to twice as long each time, until that is from 15 to 30
// seconds. What a refusal has in Retry-After is waited for besides, up to a day. A connection that
// lasts for 30 seconds has all that begin anew. The first wait is left out if the server has
// closed the connection with CloseGoingAway or CloseServiceRestart.
//
// The options are copied. What is to be new in each request, such as a token that expires, the
// Transport of Options.HTTPClient can add.
func Reconnect(ctx context.Context, rawURL string, o *Options) iter.Seq2[*Conn, error] {
	o = o.clone()
	return func(yield func(*Conn, error) bool) {
		if _, _, err := o.newClientRequest(rawURL); err != nil {
			yield(nil, err)
			return
		}
		for n := 0; ctx.Err() == nil; n++ { // waits since a connection that has lasted
			var wait time.Duration
			c, err := Dial(ctx, rawURL, o)
			switch {
			case err == nil:
				start := time.Now()
				if !lend(ctx, c, yield) {
					return
				}
				if time.Since(start) >= longestWait {
					n = 0
				}
				if n > 0 || !c.isRestarted() {
					wait = backOff(n)
				}
			case ctx.Err() != nil || !yield(nil, err):
				return
			default:
				after, final := retryAfter(err)
				if final {
					return
				}
				wait = after + backOff(n)
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// lend yields c and closes it, or has it closed when ctx is done. It reports whether to go on.
func lend(ctx context.Context, c *Conn, yield func(*Conn, error) bool) bool {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.CloseWith(CloseGoingAway, "") })()
	return yield(c, nil)
}

// isRestarted reports whether the server has closed c as it goes away, or starts again: there is
// another one, or will be soon.
func (c *Conn) isRestarted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.end.readable().(*CloseError)
	return ok && e.by != byUs && (e.Code == CloseGoingAway || e.Code == CloseServiceRestart)
}

// backOff returns how long to wait after n waits. It is random, so that the clients of a server
// that was down do not all come at once.
func backOff(n int) time.Duration {
	d := min(leastWait<<min(n, 10), longestWait/2)
	return d + rand.N(d)
}

// retryAfter returns how long a server that refused a client wants it to wait (RFC 9110, section
// 10.2.3), and whether it is in vain to ask again.
func retryAfter(err error) (d time.Duration, final bool) {
	e, ok := errors.AsType[*HandshakeError](err)
	if !ok || e.Response == nil {
		return 0, false
	}
	after := e.Response.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(after, 10, 64); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second, false
	}
	if at, err := http.ParseTime(after); err == nil {
		return max(0, min(time.Until(at), maxRetryAfter)), false
	}
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return 0, false
	}
	return 0, e.Status >= 400 && e.Status < 500
}
