// What a Server counts: totals, and for each connection a little that is not in them yet. It is
// state only.

package websocket

import (
	"maps"
	"sync"
)

// Stats is what a [Server] has counted so far; [Server.Stats] returns it. Apart from Conns no figure
// ever becomes less. As JSON the fields have their names, and the keys of the maps are numbers.
type Stats struct {
	// Conns is how many connections the Server has, as NumConns returns it, and Accepted how many
	// it has had, with these: clients that ServeHTTP and ServeHTTPWith have accepted, even if the
	// response did not reach them, and what Adopt took. Accepted is the sum of Conns and of all
	// Closed.
	Conns    int
	Accepted uint64

	// Refused counts the opening handshakes that ServeHTTP and ServeHTTPWith have refused, by the
	// status of the response:
	//
	//	400  the request is not valid
	//	403  pages of its origin may not connect
	//	405  the method is not GET
	//	408  the rest of the handshake of a hixie-76 client did not come in time
	//	426  another version of the protocol, or a request that asks for no WebSocket
	//	500  the Options are not valid, or the connection could not be taken over
	//	501  a wrapped ResponseWriter or another protocol keeps it from being taken over
	//	503  the Server shuts down
	//	505  the HTTP version is not 1.1
	//
	// Clients that others turn away are not among them: net/http, a handler before it calls the
	// Server, or a program that accepts its clients itself.
	Refused map[int]uint64

	// Closed counts the connections that have ended, once their OnClose has returned, by the code
	// of the CloseError with which reads have ended: that of the side which closed first, or that
	// with which the connection failed as the client broke a rule. CloseAbnormal counts those that
	// ended without a closing handshake, also after CloseNow, or as the client did not answer a
	// ping or took nothing.
	Closed map[CloseCode]uint64

	// MessagesReceived counts the messages that have come whole and are for OnMessage, and
	// BytesReceived their payloads, inflated. Control frames and handshakes are not counted, nor
	// are the headers of frames.
	MessagesReceived, BytesReceived uint64

	// MessagesSent and BytesSent are the same for messages that a connection was given to send,
	// before they are compressed; a broadcast is one for each client. If the connection ends, not
	// all of these leave. Of a message from NextWriter the bytes count as they are written, and the
	// message when it is closed.
	MessagesSent, BytesSent uint64

	// Slow counts the connections that have ended because the client read too slowly: more than
	// Options.MaxQueue bytes of broadcasts would have waited for it, or it took nothing of what was
	// written for as long as Options.PingInterval says.
	Slow uint64

	// PingsLost counts the connections that have ended because nothing came after a ping for as
	// long as Options.PingInterval says.
	PingsLost uint64
}

// A way is a direction of messages.
type way int

const (
	inward way = iota
	outward
)

// A traffic is what has gone over a connection each way, in little memory and quick to add to: bytes
// of payload, and from messageShift on, messages. The lock of the Conn guards it.
type traffic [2]uint64

const (
	messageShift = 40
	fullBits     = 1<<63 | 1<<(messageShift-1) // tell that there is not much more room
)

// add counts messages, and bytes of their payloads. It reports whether t is to be emptied.
func (t *traffic) add(w way, messages uint64, size int) (full bool) {
	t[w] += messages<<messageShift + uint64(size)
	return t[w]&fullBits != 0
}

// addTraffic adds what t has counted.
func (s *Stats) addTraffic(t traffic) {
	const bytes = 1<<messageShift - 1
	s.MessagesReceived += t[inward] >> messageShift
	s.BytesReceived += t[inward] & bytes
	s.MessagesSent += t[outward] >> messageShift
	s.BytesSent += t[outward] & bytes
}

// A ledger has what a Server has counted, apart from what has gone over the connections that it has
// now: that is in the traffic of each, so that they share nothing that changes with every message.
// Its lock is taken last.
type ledger struct {
	mu      sync.Mutex
	past    Stats
	carried uint64 // how often a traffic was emptied
}

// accept notes a connection, and refuse a handshake that got a status.
func (l *ledger) accept() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past.Accepted++
}

func (l *ledger) refuse(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count(&l.past.Refused, status)
}

// end notes that a connection has ended with err, and what has gone over it.
func (l *ledger) end(err error, t traffic) {
	l.mu.Lock()
	defer l.mu.Unlock()
	code := CloseAbnormal
	e, closed := err.(*CloseError)
	if closed {
		code = e.Code
	}
	count(&l.past.Closed, code)
	switch {
	case err == errSilent:
		l.past.PingsLost++
	case err == errStalled, closed && e.err == errSlow:
		l.past.Slow++
	}
	l.past.addTraffic(t)
}

func count[K comparable](m *map[K]uint64, key K) {
	if *m == nil {
		*m = make(map[K]uint64)
	}
	(*m)[key]++
}

// carry empties t.
func (l *ledger) carry(t *traffic) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past.addTraffic(*t)
	*t = traffic{}
	l.carried++
}

// stats returns a copy of what l has, and a number that changes when a traffic is emptied.
func (l *ledger) stats() (s Stats, carried uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s = l.past
	s.Refused, s.Closed = make(map[int]uint64), make(map[CloseCode]uint64)
	maps.Copy(s.Refused, l.past.Refused)
	maps.Copy(s.Closed, l.past.Closed)
	return s, l.carried
}

// hasCarried reports whether that number has changed.
func (l *ledger) hasCarried(since uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried != since
}
