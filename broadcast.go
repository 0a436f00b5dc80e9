package websocket

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// Broadcast sends p as one message to all connections of s but those excepted. It does not
// wait for any of them: a client that reads more slowly gets its messages later, and one for
// which more than Options.MaxQueue bytes would have to wait is closed with
// ClosePolicyViolation. Clients of hixie-76 get no binary messages.
//
// Every client gets broadcasts in the same order, each of them behind what WriteMessage
// sent to that client before. Broadcast does not keep p, and does not allocate for every
// client. It compresses p once, for clients with the window of Options.Deflate; those that have
// asked for a smaller one get p as it is.
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
	return s.send(t, p, slices.Values(to))
}

// send sends p to connections that it takes from a sequence while it holds mu.
func (s *Server) send(t MessageType, p []byte, to iter.Seq[*Conn]) error {
	limit := maxQueue
	if s.MaxQueue > 0 {
		limit = s.MaxQueue
	}
	switch {
	case t != Text && t != Binary:
		return fmt.Errorf("websocket: there is no %v", t)
	case t == Text && !utf8.Valid(p):
		return errNotUTF8
	case len(p) > limit:
		return errors.New("websocket: a broadcast is larger than Options.MaxQueue")
	}
	limit = min(limit, math.MaxInt-maxHeader) + maxHeader // the largest fits, with its header
	all := outputs.Get().(*output)
	defer all.free()
	const (
		plain = iota
		hixie
		compressed // for the window that the server prefers: clients cannot have it done many times
		kinds
	)
	var frames [kinds][2]int // where in all

	s.order.Lock()
	defer s.order.Unlock()
	burst := time.Since(s.sent) < burstGap
	s.mu.Lock()
	for c := range to {
		if s.has(c) && !(c.dec.hixie && t == Binary) {
			s.targets = append(s.targets, c)
		}
	}
	s.mu.Unlock()
	due := s.targets[:0]
	for _, c := range s.targets {
		kind := plain
		switch {
		case c.dec.hixie:
			kind = hixie
		case c.deflate.compresses(p) && c.deflate.send.bits == c.deflate.windowBits():
			kind = compressed
		}
		f := &frames[kind]
		if f[1] == 0 { // made for the first that needs it
			f[0] = len(all.b)
			switch kind {
			case hixie:
				all.b = appendHixie(all.b, finBit|opText, p)
			case plain:
				all.b = appendFrame(all.b, finBit|byte(t), p, false)
			default:
				all.b = c.deflate.appendCompressed(all.b, finBit|byte(t), p)
			}
			f[1] = len(all.b)
		}
		if c.enqueue(all.b[f[0]:f[1]], p, limit, !burst) {
			due = append(due, c)
		}
	}
	if len(due) > 0 {
		s.mu.Lock()
		if s.next > len(s.due)/2 {
			n := copy(s.due, s.due[s.next:])
			clear(s.due[n:])
			s.due, s.next = s.due[:n], 0
		}
		s.due = append(s.due, due...)
		if !s.pushing {
			s.pushing = true
			go s.push()
		}
		s.mu.Unlock()
	}
	clear(s.targets)
	s.targets = s.targets[:0]
	s.sent = time.Now()
	return nil
}

// burstGap is the time within which a broadcast follows another one in a burst. What is
// enqueued then is written by a goroutine, together with what comes meanwhile.
const burstGap = 10 * time.Microsecond

// push writes what is due.
func (s *Server) push() {
	for {
		s.mu.Lock()
		if s.next == len(s.due) {
			s.due, s.next, s.pushing = s.due[:0], 0, false
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
	if c.writable() != nil || c.stage >= ending {
		return false
	}
	waiting := c.sending
	for _, o := range []*output{c.out, c.queue} {
		if o != nil {
			waiting += len(o.b)
		}
	}
	switch {
	case waiting+len(frame) > limit:
		c.leaveClose(&CloseError{Code: ClosePolicyViolation, Reason: "too many messages wait to be read", by: byUs})
		// Serve waits for input; this ends the wait.
		c.limit = time.Unix(1, 0)
		c.applyDeadline()
	case c.stage == opening || c.writer != nil:
		if c.queue == nil {
			c.queue = outputs.Get().(*output)
		}
		c.queue.b = append(c.queue.b, frame...)
	default:
		if frame[0]&rsv1Bit != 0 { // never for hixie-76
			c.deflate.send.add(p)
		}
		c.crowded = true
		if now && c.raw != nil && c.out == nil && !c.writing {
			c.writeNow(frame)
			return false
		}
		out := c.output()
		out.b = append(out.b, frame...)
		if c.raw == nil {
			c.writeWithin(0)
		} else if !c.due {
			c.due = true
			return true
		}
	}
	return false
}

// push writes the output to a socket. If that has to wait for the peer, it is left to another
// goroutine.
func (c *Conn) push() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = false
	switch {
	case c.out == nil || c.broken != nil || c.shutdown:
	case c.writing:
		c.writeWithin(0)
	default:
		out, batch := c.take()
		c.writeSome(out.b, batch)
		out.free()
	}
}

// writeNow writes a frame to a socket without putting it into the output, which is empty. mu
// is held.
func (c *Conn) writeNow(frame []byte) {
	c.batch++
	c.writing, c.sending = true, len(frame)
	c.writeSome(frame, c.batch)
}

// writeSome writes p for whoever has set writing, and leaves what would have to wait for the
// peer to another goroutine. mu is held on entry and on return, but not during the write.
func (c *Conn) writeSome(p []byte, batch uint64) {
	c.mu.Unlock()
	rest, err := c.writeRaw(p, false)
	if err != nil || len(rest) == 0 {
		c.mu.Lock()
		c.taken(batch, err)
		return
	}
	out := outputs.Get().(*output)
	out.b = append(out.b, rest...)
	go func() {
		_, err := c.writeRaw(out.b, true)
		out.free()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.taken(batch, err)
	}()
	c.mu.Lock()
}

// unqueue moves broadcasts that need not wait any more to the output, and reports whether
// there were any. mu is held.
func (c *Conn) unqueue() bool {
	if c.queue == nil || c.stage == opening || c.writer != nil {
		return false
	}
	if c.writable() == nil {
		out := c.output()
		out.b = append(out.b, c.queue.b...)
	}
	c.deflate.forget()
	c.queue.free()
	c.queue = nil
	return true
}
