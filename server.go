// A Server: its handler for net/http, the connections it has, and how it shuts down.

package websocket

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Server is an [http.Handler] that makes every request a WebSocket connection, with
// [Upgrade], and serves it with the functions of Handler as [Conn.Serve] does, in a
// goroutine of its own. On Linux a connection over TCP without TLS, or over a Unix socket, that
// has been quiet for a moment gives its goroutine up until there is something to read, and over TCP
// also its net.Conn, of which only the descriptor is kept, so that an idle client needs about
// 1.1 KB beside net/http. A net.Conn that a ConnContext has kept is closed then, and the connection
// is not. A Server can stand beside other handlers on the same port. The zero value accepts clients
// of its own origin and discards what they send. Otherwise it is
//
//	&websocket.Server{
//		Handler: websocket.Handler{OnMessage: f},
//		Options: websocket.Options{Origins: origins},
//	}
//
// In the pattern of an [http.ServeMux] it has no method, as a request is a GET over HTTP/1.1
// and a CONNECT over HTTP/2.
//
// A panic in a function of Handler ends that connection and no other. It is logged to the
// ErrorLog of the [http.Server], and so is a handshake that fails because of the server, and
// once what is wrong with Options.Origins.
//
// A Server must not be copied, nor its fields changed, once it is in use.
type Server struct {
	Handler
	Options

	mu      sync.Mutex
	conns   []*Conn       // each has its place in its slot
	active  int           // handshakes and connections
	down    *CloseError   // what connections are closed with as the Server shuts down, or nil
	ended   chan struct{} // closed when down and nothing is active
	due     []*Conn       // that have something to be written, from next on
	next    int
	pushers int // goroutines look after these

	checkOrigins sync.Once // whether the patterns are good

	order   sync.Mutex // held by Broadcast, as all clients get broadcasts in the same order
	targets []*Conn    // of the broadcast; kept for its memory
	sent    time.Time  // when the last one was

	clock   clock  // looks after the connections
	resting idlers // those that have no goroutine
	ledger  ledger // counts what they do

	common atomic.Pointer[service] // with Handler
}

// service returns how connections with the functions of h are served, and panics logged. Most
// share one.
func (s *Server) service(h *Handler, server *http.Server) *service {
	if by := s.common.Load(); h == &s.Handler && by != nil && by.http == server {
		return by
	}
	by := &service{clock: &s.clock, resting: &s.resting, ledger: &s.ledger, http: server}
	by.serve = func(c *Conn) { s.serve(c, h, server) }
	if h == &s.Handler {
		s.common.Store(by)
	}
	return by
}

// ServeHTTP answers the request, as [Upgrade] does. Over HTTP/1.1 it then returns, so that
// the memory that net/http needs for a request is free while the connection lives; over
// HTTP/2 it returns when the connection has ended.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serveHTTP(w, r, &s.Handler) }

// ServeHTTPWith is ServeHTTP with functions for this connection alone, in place of s.Handler.
// They can hold what belongs to it: its state, or what a handler has found out about the request,
// such as the user. If the client is refused, none of them is called.
//
// Over HTTP/1.1 the functions are called when the handler has returned, or is about to. What
// they need of r and its context is to be looked up before: by then the context has ended, and
// a router may have reused the memory of its parameters for another request, as chi does.
func (s *Server) ServeHTTPWith(w http.ResponseWriter, r *http.Request, h Handler) {
	s.serveHTTP(w, r, &h)
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request, h *Handler) {
	if !s.begin() {
		e := &HandshakeError{Status: http.StatusServiceUnavailable, Reason: "the server is shutting down"}
		s.ledger.refuse(e.Status)
		refuse(w, r, e)
		return
	}
	var c *Conn
	served := false
	defer func() {
		if !served {
			s.end(c)
		}
	}()
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	s.checkOrigins.Do(func() {
		if err := checkPatterns(s.Origins); err != nil {
			logf(server, "websocket: %v", err)
		}
	})
	by := s.service(h, server)
	_, err := upgrade(w, r, &s.Options, func(conn *Conn) {
		c = conn
		c.beginServe(by, cmp.Or(s.PingInterval, pingInterval))
		s.add(c)
	})
	if err != nil {
		if e, ok := errors.AsType[*HandshakeError](err); ok {
			s.ledger.refuse(e.Status)
			if e.Status >= 500 && e.err != nil {
				logf(server, "%v", e)
			}
		}
		return
	}
	served = true
	if r.ProtoMajor > 1 {
		by.serve(c)
	} else {
		c.startServe(h)
	}
}

// Adopt makes c, whose opening handshake is over, a connection of s: one that a program
// has accepted itself, with [PutResponse] on a stream or with [Upgrade]. The client's side of a
// connection is refused with an error that is [os.ErrInvalid] to [errors.Is].
//
// Adopt does not wait for the end: s serves c with the functions of h, as [Conn.Serve] does, from
// another goroutine, and closes it; OnClose tells the end. Panics are dealt with as for all
// connections of s. The options of c stay as they are, apart from PingInterval, which is that
// of s. The net.Conn below c belongs to s, which may close it and go on without it; it is the
// methods of c that tell the addresses, set deadlines and close.
//
// Once s shuts down, Adopt closes c with the same code, and then returns [http.ErrServerClosed].
// For connections that still shake hands s does not wait.
func (s *Server) Adopt(c *Conn, h Handler) error {
	if c.write.isClient() {
		return misuse("a Server serves no client's side of a connection")
	}
	if !s.begin() {
		c.CloseWith(s.down.Code, s.down.Reason)
		return http.ErrServerClosed
	}
	by := s.service(&h, nil)
	if err := c.beginServe(by, cmp.Or(s.PingInterval, pingInterval)); err != nil {
		s.end(nil) // c may be served, even by s
		return err
	}
	s.add(c)
	c.startServe(&h)
	return nil
}

// serve is the life of a connection, up to its end or to a rest, after which it is called again.
func (s *Server) serve(c *Conn, h *Handler, server *http.Server) {
	rests := false
	defer func() {
		if rests { // and is no longer this goroutine's
			return
		}
		defer s.end(c)
		defer c.Close()
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			logf(server, "websocket: panic serving %v: %v\n%s", c.RemoteAddr(), v, debug.Stack())
		}
	}()
	for c.serveAll(*h) == errRest {
		if rests = c.rest(); rests {
			return
		}
	}
}

// logf logs where an http.Server, if there is one, does.
func logf(server *http.Server, format string, args ...any) {
	if server != nil && server.ErrorLog != nil {
		server.ErrorLog.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}

// begin reports whether a client may come in.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return false
	}
	s.active++
	return true
}

func (s *Server) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.serve.setSlot(len(s.conns))
	s.conns = append(s.conns, c)
	s.ledger.accept()
	if s.down != nil {
		c.startClose(new(*s.down))
	}
}

func (s *Server) end(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has(c) {
		slot, last := c.serve.slotOf(), len(s.conns)-1
		s.conns[slot] = s.conns[last]
		s.conns[slot].serve.setSlot(slot)
		s.conns[last] = nil
		s.conns = s.conns[:last]
		t, err := c.counted()
		s.ledger.end(err, t)
	}
	if s.active--; s.active == 0 && s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}

// has reports whether c is a connection of s. mu is held.
func (s *Server) has(c *Conn) bool {
	if c == nil {
		return false
	}
	slot := c.serve.slotOf()
	return slot < len(s.conns) && s.conns[slot] == c
}

// Conns returns the connections that are open now, in no order. A connection is among them
// from before the client knows that it is accepted until before its OnClose is called.
func (s *Server) Conns() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		s.mu.Lock()
		open := make([]*Conn, 0, len(s.conns))
		for _, c := range s.conns {
			if c.isOpen() {
				open = append(open, c)
			}
		}
		s.mu.Unlock()
		for _, c := range open {
			if !yield(c) {
				return
			}
		}
	}
}

// NumConns returns how many connections s has: those of Conns, and those that have ended, until
// they are closed and their OnClose has returned.
func (s *Server) NumConns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Stats returns what s has counted so far. It counts always, and no message costs more for it than
// a few additions: the connections share no counter, and Stats asks each of them. So a call takes
// longer the more there are, and its figures of messages and bytes are not all of one moment; the
// others are. An [expvar.Func] shows them, as in the example.
func (s *Server) Stats() Stats {
	for {
		s.mu.Lock()
		total, carried := s.ledger.stats()
		conns := slices.Clone(s.conns)
		s.mu.Unlock()
		total.Conns = len(conns)
		for _, c := range conns { // one that ends meanwhile keeps what it has counted
			t, _ := c.counted()
			total.addTraffic(t)
		}
		if !s.ledger.hasCarried(carried) {
			return total
		}
	}
}

// Shutdown closes all connections with CloseGoingAway, and waits until the last has ended and its
// OnClose has returned. The close frame follows all that was sent before; only broadcasts are lost
// that still wait for OnOpen to return, or for a message in fragments to end. When ctx is done
// Shutdown has the transports of those that are left closed and returns the context's error. New
// clients are refused with 503 from the beginning.
//
// [http.Server.Shutdown] does not close WebSocket connections, and waits only for those over
// HTTP/2. So a program calls both, this one first. It must not call Shutdown from a function
// of Handler, which it would wait for.
func (s *Server) Shutdown(ctx context.Context) error {
	return s.ShutdownWith(ctx, CloseGoingAway, "")
}

// ShutdownWith is Shutdown with another code, and a reason, as for [Conn.CloseWith]. Some
// clients reconnect only after CloseServiceRestart, which others do not know. The first call
// decides on the code.
func (s *Server) ShutdownWith(ctx context.Context, code CloseCode, reason string) error {
	e, bad := closeByUs(code, reason)
	return cmp.Or(bad, s.shutdown(ctx, e))
}

func (s *Server) shutdown(ctx context.Context, e *CloseError) error {
	s.mu.Lock()
	if s.down == nil {
		s.down = e
		for _, c := range s.conns {
			c.startClose(new(*e))
		}
	}
	if s.active == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
	ended := s.ended
	s.mu.Unlock()

	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		go c.CloseNow() // over HTTP/2 and TLS it may have to wait for the peer
	}
	return ctx.Err()
}
