// Broadcasts: one encoding for all, in queues that are bounded, so that nobody waits for a slow
// client.

package websocket

import (
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Broadcast sends p as one message to all connections of s but those excepted. It does not
// wait for any of them: a client that reads more slowly gets its messages later, and one for
// which more than Options.MaxQueue bytes would have to wait is closed with
// ClosePolicyViolation. Clients of hixie-76 get no binary messages. Broadcast calls no function
// of Handler, so that it may be called with a lock held that these need. For thousands of clients it
// takes all processors that are free.
//
// Every client gets broadcasts in the same order, each of them behind what WriteMessage
// sent to that client before. Broadcast does not keep p, and does not allocate for every
// client. It compresses p once, without reference to earlier messages, for clients with the window
// of Options.Deflate; those that have asked for a smaller one get p as it is.
//
// The error is about p: text that is not UTF-8, or more than Options.MaxQueue bytes.
// Then it has been sent to nobody.
func (s *Server) Broadcast(t MessageType, p []byte, except ...*Conn) error {
	return s.send(t, p, func(yield func(*Conn) bool) {
		for _, c := range s.conns {
			if !slices.Contains(except, c) && !yield(c) {
				return
			}
		}
	})
}

// Send is Broadcast to some connections of s, such as those of a room or of a user. It skips
// those that have ended, and connections that are not of s. One that is given twice gets p twice.
func (s *Server) Send(t MessageType, p []byte, to ...*Conn) error {
	return s.send(t, p, func(yield func(*Conn) bool) {
		for _, c := range to {
			if s.has(c) && !yield(c) {
				return
			}
		}
	})
}

// send sends p to connections of s that it takes from a sequence while it holds mu.
func (s *Server) send(t MessageType, p []byte, to iter.Seq[*Conn]) error {
	limit := s.queueLimit()
	switch {
	case t != Text && t != Binary:
		return misuse("there is no %v", t)
	case t == Text && !utf8.Valid(p):
		return errNotUTF8
	case len(p) > limit:
		return misuse("a broadcast is larger than Options.MaxQueue")
	}
	limit = min(limit, math.MaxInt-maxHeader) + maxHeader // the largest fits, with its header
	all := newScratch(len(p))
	defer all.free()

	s.order.Lock()
	defer s.order.Unlock()
	m := shout{payload: p, limit: limit, window: s.Deflate.windowBits(), now: time.Since(s.sent) >= burstGap}
	s.mu.Lock()
	for c := range to {
		if t != Binary || !c.write.isHixie() {
			s.targets = append(s.targets, c)
		}
	}
	s.mu.Unlock()
	for _, c := range s.targets {
		if e := c.write.encoding(p, m.window); m.frames[e] == nil { // made for the first that needs it
			start := len(all.b)
			all.b = c.write.encode(e, all.b, finBit|byte(t), p)
			m.frames[e] = all.b[start:]
		}
	}
	if len(s.targets) < 2*perProcessor {
		s.deliver(m, s.targets)
	} else {
		s.deliverTogether(m)
	}
	clear(s.targets)
	s.targets = s.targets[:0]
	s.sent = time.Now()
	return nil
}

// A shout is a broadcast on its way out.
type shout struct {
	payload []byte
	frames  [encodings][]byte // that hold it, or nil where nobody needs one
	window  int               // with which it is compressed
	limit   int               // how much may wait for a client
	now     bool              // it is to be written at once
}

// deliver has a shout sent to some of the targets, in whose place it lists those that are due.
func (s *Server) deliver(m shout, to []*Conn) {
	due := to[:0]
	for _, c := range to {
		if c.enqueue(m.frames[c.write.encoding(m.payload, m.window)], m.payload, m.limit, m.now) {
			due = append(due, c)
		}
	}
	s.pushLater(due)
}

// perProcessor is how many clients make it worth while that another processor works for them, and
// share how many it takes at a time.
const (
	perProcessor = 1 << 10
	share        = 1 << 7
)

// deliverTogether is deliver for all targets, by as many processors as are free.
func (s *Server) deliverTogether(m shout) {
	var next atomic.Int64
	work := func() {
		for {
			end := int(next.Add(share))
			if end-share >= len(s.targets) {
				return
			}
			s.deliver(m, s.targets[end-share:min(end, len(s.targets))])
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(s.targets)/perProcessor) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}

// pushLater has a goroutine write what is due, or several if that is much.
func (s *Server) pushLater(due []*Conn) {
	if len(due) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next > len(s.due)/2 {
		s.due, s.next = slices.Delete(s.due, 0, s.next), 0
	}
	s.due = append(s.due, due...)
	if s.pushers < min(runtime.GOMAXPROCS(0), 1+(len(s.due)-s.next)/perProcessor) {
		s.pushers++
		go s.push()
	}
}

// burstGap is the time within which a broadcast follows another one in a burst. What is
// enqueued then is written by a goroutine, together with what comes meanwhile.
const burstGap = 10 * time.Microsecond

// push writes what is due.
func (s *Server) push() {
	for {
		s.mu.Lock()
		if s.next == len(s.due) {
			s.due, s.next = s.due[:0], 0
			s.pushers--
			s.mu.Unlock()
			return
		}
		c := s.due[s.next]
		s.due[s.next] = nil
		s.next++
		s.mu.Unlock()
		c.push()
	}
}

// enqueue puts a frame, which holds p, behind the output, or writes it at once if that is
// wanted and possible. If then more than limit bytes waited, it begins to close the connection
// instead. It reports whether somebody has to push.
func (c *Conn) enqueue(frame, p []byte, limit int, now bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.end.writable() != nil || c.serve.isParting():
		return false
	case c.write.waiting(c.t.takenNow())+len(frame) > limit:
		c.startCloseLocked(&CloseError{Code: ClosePolicyViolation, Reason: "too many messages wait to be read", by: byUs, err: errSlow})
		c.limitReadLocked(time.Unix(1, 0)) // Serve waits for input; this ends the wait
		return false
	}
	c.countSentLocked(frame[0]|finBit, len(p)) // a frame of hixie-76 has no FIN
	if now && c.t.isSocket() && c.write.isEmpty() {
		c.drainLocked(c.write.takeFrame(frame, p), impatient)
		return false
	}
	switch queued := c.write.enqueue(frame, p); {
	case queued:
		return false
	case !c.t.isSocket():
		c.writeLaterLocked(0)
		return false
	}
	return c.write.claim()
}

// push writes the output to a socket. If that has to wait for the peer, it is left to the
// timer's goroutine.
func (c *Conn) push() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write.unclaim()
	switch {
	case !c.write.pending() || c.end.failed() != nil || c.end.isShut():
	case c.write.isBusy():
		c.writeLaterLocked(0)
	default:
		c.drainAllLocked()
	}
}
